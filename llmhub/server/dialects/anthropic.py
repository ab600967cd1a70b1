"""Anthropic Messages, the server's half.

What differs here:

- ``input_tokens`` leaves out what was read from the cache or written to it.
- Content is a list of blocks, which a stream opens and closes one after the other. Fragments of a call that arrive
  while another call is open are held back until that one is complete.
- Marks for the cache and earlier reasoning mean nothing to the models of other APIs; they are dropped for those, and
  the reply says so.

The file is long because parser and encoder of one API are read side by side.

Source: https://platform.claude.com/docs/en/api/messages and the types of anthropic 2.14.0 (read 2026-11-30).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from llmhub.core.errors import (
    AuthFailed,
    BudgetExceeded,
    LLMError,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    TimedOut,
    invalid,
)
from llmhub.core.stream import Delta, Fragment
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    CompletionResponse,
    Document,
    FinishReason,
    Image,
    Message,
    Opaque,
    Part,
    Payload,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.server.dialects.dialect import Dialect, ParsedRequest, ReplyInfo
from llmhub.server.dialects.part_stream import PartStream
from llmhub.server.dialects.reading import (
    compact,
    document,
    has_only,
    image,
    opaque,
    other_fields,
    read_as,
    unsupported,
)
from llmhub.server.error_replies import error_text

FINISH: Final[Mapping[FinishReason, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
    "other": "end_turn",
}
TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
ERROR_TYPES: Final[Mapping[type[Any], str]] = {
    AuthFailed: "authentication_error",
    PermissionDenied: "permission_error",
    NotFound: "not_found_error",
    RateLimited: "rate_limit_error",
    QuotaExhausted: "billing_error",
    BudgetExceeded: "billing_error",
    Overloaded: "overloaded_error",
    TimedOut: "timeout_error",
}
SIGNED_CALL_FIELDS: Final = ("caller", "toolset_name")
"""Fields of a tool call that are sent back; they are kept as its signature."""
NOT_SIGNED: Final = (None, {"type": "direct"})
CITATION: Final = "citation"
"""Kind of the `Opaque` part that holds one citation of the text before it."""
REQUEST_TOO_LARGE: Final = 413
SERVER_ERROR_STATUS: Final = 500
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode

Content = str | list[dict[str, Any]]


class AnthropicMessage(Struct):
    """A message; content is text or blocks."""

    role: Literal["user", "assistant", "system"]
    content: Content


class AnthropicMetadata(Struct):
    """Metadata of a request."""

    user_id: str | None = None


class MessagesRequest(Struct):
    """Body of ``POST /v1/messages``."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    max_tokens: int | None = None
    system: Content | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    stream: bool | None = None


class TokenCount(Struct):
    """Response of ``POST /v1/messages/count_tokens``."""

    input_tokens: int


FIELDS: Final = frozenset(MessagesRequest.__struct_fields__) | {"anthropic_version"}


# Requests


class _Parser:
    """Parses the parts of one request, and notes what a model of another API is not told."""

    def __init__(self, *, native: bool) -> None:
        self.native = native
        self.dropped: dict[str, None] = {}

    def message(self, role: Literal["user", "assistant", "system"], content: Content, path: str) -> list[Message]:
        """Return a message; for another API, results of tools are a message of their own before the rest."""
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts: list[Part] = []
        for index, block in enumerate(blocks):
            parts += self.block(block, f"{path}.content[{index}]")
        if self.native or not any(isinstance(part, ToolResult) for part in parts):
            return [Message(role, parts)]
        results = [part for part in parts if isinstance(part, ToolResult)]
        others = [part for part in parts if not isinstance(part, ToolResult)]
        return [*(Message("tool", part) for part in results), *([Message(role, others)] if others else [])]

    def block(self, block: Mapping[str, Any], path: str) -> list[Part]:
        """Return the part of a block, and what stands beside it."""
        mark = block.get("cache_control")
        if mark is None:
            return self._block(block, path)
        rest = {name: value for name, value in block.items() if name != "cache_control"}
        parts = self._block(rest, path)
        if not self.native:
            self.dropped["messages.cache_mark"] = None
            return parts
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
            raise invalid(f"{path}.cache_control", "must be of type ephemeral")
        if not has_only(mark, "type", "ttl") or any(isinstance(part, Opaque) for part in parts):
            return [opaque(block.get("type"), block, path, native=True)]
        ttl = mark.get("ttl") or ""
        return [*parts, CacheMark(ttl if isinstance(ttl, str) else "")]

    def _block(self, block: Mapping[str, Any], path: str) -> list[Part]:  # noqa: PLR0911 - one for each type
        match block:
            case {"type": "text", "text": str(text)} if not self.native or has_only(block, "type", "text", "citations"):
                cited = block.get("citations") if self.native else None
                citations = cited if isinstance(cited, list) else []
                return [Text(text), *(Opaque(CITATION, compact(citation)) for citation in citations)]
            case {"type": "thinking" | "redacted_thinking"} if not self.native:
                self.dropped["messages.reasoning"] = None
                return []
            case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
                return [Reasoning(text, signature)]
            case {"type": "redacted_thinking", "data": str(data)}:
                return [Reasoning(redacted=data)]
            case {"type": "tool_use", "id": str(call), "name": str(name), "input": dict(given)}:
                signed = {key: block[key] for key in SIGNED_CALL_FIELDS if block.get(key) not in NOT_SIGNED}
                return [ToolCall(call, name, compact(given), compact(signed) if signed and self.native else "")]
            case {"type": "tool_result", "tool_use_id": str(call)}:
                return [self._result(call, block, path)]
            case {"type": "image" | "document"} if (media := self._media(block, path)) is not None:
                return [media]
            case {"type": "text"}:
                raise invalid(f"{path}.text", "must be a string")
            case _:
                return [opaque(block.get("type"), block, path, native=self.native)]

    def _result(self, call: str, block: Mapping[str, Any], path: str) -> Part:
        content, is_error = block.get("content"), bool(block.get("is_error"))
        if not isinstance(content, str | list | None):
            raise invalid(f"{path}.content", "must be a string or blocks")
        if not isinstance(content, list):
            return ToolResult(call, content or "", is_error=is_error)
        pieces: list[Text | Image] = []
        for index, each in enumerate(content):
            parts = self._block(each, f"{path}.content[{index}]") if isinstance(each, dict) else []
            if len(parts) != 1 or not isinstance(parts[0], (Text, Image)) or (self.native and "cache_control" in each):
                return opaque("tool_result", block, path, native=self.native)
            pieces.append(parts[0])
        if not has_only(block, "type", "tool_use_id", "content", "is_error"):
            return opaque("tool_result", block, path, native=self.native)
        if all(isinstance(piece, Text) for piece in pieces) and not self.native:
            return ToolResult(
                call, "".join([piece.text for piece in pieces if isinstance(piece, Text)]), is_error=is_error
            )
        return ToolResult(call, tuple(pieces), is_error=is_error)

    def _media(self, block: Mapping[str, Any], path: str) -> Image | Document | None:
        """Return an image or a document; ``None`` for a file of the provider's own, or options of a document."""
        if self.native and not has_only(block, "type", "source", "title"):
            return None
        title = block.get("title") or ""
        name = title if isinstance(title, str) else ""
        source = block.get("source")
        media: dict[str, str]
        match source:
            case {"type": "url", "url": str(url)}:
                media = {"url": url}
            case {"type": "base64", "media_type": str(kind), "data": str(data)}:
                media = {"data": data, "media_type": kind}
            case {"type": "text", "media_type": str(kind), "data": str(text)}:
                media = {"data": base64.b64encode(text.encode()).decode(), "media_type": kind}
            case {"type": str()}:
                return None
            case _:
                raise invalid(f"{path}.source", "is missing")
        place = f"{path}.source"
        return image(place, **media) if block["type"] == "image" else document(place, name=name, **media)


def parse(payload: Payload, native: bool) -> ParsedRequest:
    """Parse a Messages body."""
    body = read_as(payload, MessagesRequest)
    extra = other_fields(payload, FIELDS, native=native)
    parser = _Parser(native=native)
    messages = [] if body.system is None else parser.message("system", body.system, "$.system")
    for index, each in enumerate(body.messages):
        messages += parser.message(each.role, each.content, f"$.messages[{index}]")
    fields: dict[str, Any] = {}
    for read in (_user, _tools, _tool_choice, _reasoning, _output):
        own, rest = read(body, native=native)
        fields |= own
        extra |= rest
    request = CompletionRequest(
        model=body.model,
        messages=tuple(message for message in messages if message.parts or native),
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences or ()),
        extra=extra,
        **fields,
    )
    return ParsedRequest(request=request, stream=bool(body.stream), dropped=tuple(parser.dropped))


Fields = tuple[dict[str, Any], dict[str, Any]]
"""Fields of a request, and those that only a target of the same API understands."""


def _user(body: MessagesRequest, *, native: bool) -> Fields:
    if body.metadata is None:
        return {}, {}
    user = body.metadata.get("user_id")
    if not isinstance(user, str | None):
        raise invalid("$.metadata.user_id", "must be a string")
    rest = other_fields(body.metadata, {"user_id"}, native=native, path="$.metadata")
    # Other APIs bound or refuse the ids that clients of this one send.
    return ({"user": user} if native and user is not None else {}), ({"metadata": rest} if rest else {})


def _tools(body: MessagesRequest, *, native: bool) -> Fields:
    tools = [_tool(tool, f"$.tools[{index}]", native=native) for index, tool in enumerate(body.tools or ())]
    if all(tool is not None for tool in tools):
        return {"tools": tuple(tool for tool in tools if tool is not None)}, {}
    return {}, {"tools": body.tools}


def _tool(tool: Mapping[str, Any], path: str, *, native: bool) -> Tool | None:
    """Return a function; ``None`` for a tool that only the provider understands."""
    name, schema = tool.get("name"), tool.get("input_schema")
    if tool.get("type") not in ("custom", None) or not isinstance(schema, dict):
        if native:
            return None
        raise unsupported(path, f"the tool {name!r:.80} is one of the provider's own, which this model does not have")
    known = ("name", "description", "input_schema", "strict")
    if native and not has_only(tool, *known):
        return None
    description, strict = tool.get("description"), tool.get("strict")
    if not isinstance(name, str) or not isinstance(description, str | None) or not isinstance(strict, bool | None):
        raise invalid(path, "must have a name, and description as a string and strict as a boolean where given")
    return Tool(name, description or "", schema, strict)


def _tool_choice(body: MessagesRequest, *, native: bool) -> Fields:
    choice = body.tool_choice
    if choice is None:
        return {}, {}
    kind, name, serial = choice.get("type"), choice.get("name"), choice.get("disable_parallel_tool_use")
    chosen = name if kind == "tool" else TOOL_CHOICES.get(kind) if isinstance(kind, str) else None
    if not isinstance(chosen, str) or not isinstance(serial, bool | None):
        raise invalid("$.tool_choice", "must be of type auto, any, none, or tool with a name")
    rest = other_fields(choice, {"type", "name", "disable_parallel_tool_use"}, native=native, path="$.tool_choice")
    parallel = {} if serial is None else {"parallel_tool_calls": not serial}
    return {"tool_choice": chosen, **parallel}, ({"tool_choice": rest} if rest else {})


def _reasoning(body: MessagesRequest, *, native: bool) -> Fields:
    """Return how much to reason. Adaptive thinking without an effort is the model's own choice."""
    thinking, output = body.thinking, body.output_config or {}
    if thinking is None:
        return {}, {}
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    rest = {name: value for name, value in thinking.items() if name not in {"type", "budget_tokens"}}
    fields: dict[str, Any] = {}
    if kind == "enabled":
        if not isinstance(budget, int) or isinstance(budget, bool):
            raise invalid("$.thinking.budget_tokens", "must be an integer")
        fields["reasoning_budget"] = budget
    elif kind == "disabled":
        fields["reasoning_budget"] = 0
    elif kind == "adaptive":
        rest |= {} if "effort" in output else {"type": kind}
    else:
        raise invalid("$.thinking.type", "must be enabled, disabled or adaptive")
    return fields, ({"thinking": rest} if rest and native else {})


def _output(body: MessagesRequest, *, native: bool) -> Fields:
    """Return the schema of the response, and the effort of reasoning."""
    fields: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    is_adaptive = (body.thinking or {}).get("type") == "adaptive"
    for name, value in (body.output_config or {}).items():
        match name, value:
            case "format", {"type": "json_schema", "schema": dict(schema)}:
                fields["response_schema"] = Schema(schema)
            case "effort", str() if is_adaptive or not native:
                fields["reasoning_effort"] = value
            case _, None:
                continue
            case _:
                rest[name] = value
    rest = other_fields(rest, (), native=native, path="$.output_config")
    return fields, ({"output_config": rest} if rest else {})


# Responses


def encode(response: CompletionResponse, info: ReplyInfo) -> Payload:
    """Encode a response as a Message; further choices have no place in it."""
    return {
        **_head(info),
        "content": _blocks(response.parts),
        "stop_reason": FINISH[response.finish_reason],
        "stop_sequence": None,
        **_stop_details(response),
        "usage": _usage(response.usage),
    }


def _head(info: ReplyInfo) -> Payload:
    return {"id": f"msg_{info.id}", "type": "message", "role": "assistant", "model": info.model}


def _stop_details(response: CompletionResponse) -> Payload:
    """Encode the explanation of a refusal."""
    if response.finish_reason not in {"refusal", "content_filter"} or not response.refusal:
        return {}
    return {"stop_details": {"type": "refusal", "explanation": response.refusal}}


def _blocks(parts: Sequence[Part]) -> list[Payload]:
    """Encode parts as blocks, citations with the text before them."""
    blocks: list[Payload] = []
    for part in parts:
        if isinstance(part, Opaque) and part.kind == CITATION:
            if blocks and blocks[-1]["type"] == "text":
                before: Any = blocks[-1].get("citations") or []
                blocks[-1]["citations"] = [*before, _decode(part.data)]
        elif (block := _block(part)) is not None:
            blocks.append(block)
    return blocks


def _block(part: Part) -> Payload | None:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Reasoning(_, _, redacted) if redacted:
            return {"type": "redacted_thinking", "data": redacted}
        case Reasoning(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case ToolCall(call_id, name, arguments, signature):
            return {"type": "tool_use", "id": call_id, "name": name, "input": _input(arguments), **_signed(signature)}
        case Opaque(kind, data):
            block = _object(data)
            return block if block.get("type") == kind else None
        case _:
            return None


def _input(arguments: str) -> object:
    """Decode the arguments of a call, which models may get wrong."""
    return _object(arguments)


def _object(text: str) -> Payload:
    try:
        value = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _signed(signature: str) -> Payload:
    fields = _object(signature) if signature else {}
    return {name: fields[name] for name in SIGNED_CALL_FIELDS if name in fields}


def _usage(usage: Usage) -> Payload:
    """Encode token counts; the input is what was neither read from the cache nor written to it."""
    read, written = usage.cached_input_tokens, usage.cache_write_tokens
    hour = usage.cache_write_1h_tokens
    payload: Payload = {
        "input_tokens": max((usage.input_tokens or 0) - (read or 0) - (written or 0), 0),
        "output_tokens": usage.output_tokens or 0,
    }
    optional: Payload = {
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": None
        if hour is None
        else {"ephemeral_1h_input_tokens": hour, "ephemeral_5m_input_tokens": max((written or 0) - hour, 0)},
        "output_tokens_details": None
        if usage.reasoning_tokens is None
        else {"thinking_tokens": usage.reasoning_tokens},
    }
    return {**payload, **{name: value for name, value in optional.items() if value is not None}}


# Streams


class MessageStream:
    """Encodes one response as events: a message whose blocks open and close one after the other."""

    def __init__(self, info: ReplyInfo) -> None:
        self._parts = PartStream()
        self._head = _head(info)
        self._has_begun = False
        self._index = -1
        self._open: tuple[str, int, str] | None = None
        self._arguments = ""
        self._held: dict[tuple[str, int, str], list[Fragment]] = {}

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        """Encode new content as events."""
        fragments = [fragment for fragment in self._parts.feed(deltas) if not fragment.choice]
        return b"".join([event for fragment in fragments for event in self._events(fragment)])

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> bytes:  # noqa: ARG002 - of the protocol
        """Encode the rest of the content, the stop reason, the usage and the end."""
        events = [] if self._has_begun else [self._start()]
        rest = [fragment for fragment in self._parts.rest(response) if not fragment.choice]
        for fragment in rest:
            events += self._events(fragment)
        for key, held in self._held.items():
            events += [event for fragment in held for event in self._append(fragment, key)]
        self._held.clear()
        events += self._close()
        delta = {"stop_reason": FINISH[response.finish_reason], "stop_sequence": None, **_stop_details(response)}
        events.append(_event("message_delta", {"delta": delta, "usage": _usage(response.usage)}))
        events.append(_event("message_stop", {}))
        return b"".join(events)

    def fail(self, error: LLMError, status: int) -> bytes:
        """Encode an error as the last event."""
        return b"event: error\ndata: %b\n\n" % _encode(encode_error(error, status, ""))

    def _start(self) -> bytes:
        self._has_begun = True
        empty: Payload = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = {"input_tokens": 0, "output_tokens": 0}
        return _event("message_start", {"message": {**self._head, **empty, "usage": usage}})

    def _events(self, fragment: Fragment) -> list[bytes]:
        """Return the events of a fragment, or hold it back until the open call is complete."""
        key = _block_key(fragment)
        if key is None:
            return []
        events = [] if self._has_begun else [self._start()]
        if (
            self._open is not None
            and self._open != key
            and self._open[0] == "call"
            and not _is_complete(self._arguments)
        ):
            self._held.setdefault(key, []).append(fragment)
            return events
        if key in self._held:
            held = self._held.pop(key)
            return [*events, *(event for each in (*held, fragment) for event in self._append(each, key))]
        return [*events, *self._append(fragment, key)]

    def _append(self, fragment: Fragment, key: tuple[str, int, str]) -> list[bytes]:
        """Return the events that append a fragment to its block, opening it first if it is not open."""
        events: list[bytes] = []
        part = fragment.part
        if self._open != key or key[0] == "whole":
            events += self._close()
            events.append(self._open_block(part, key))
        match part:
            case Text(text) if text:
                events.append(self._delta({"type": "text_delta", "text": text}))
            case Reasoning(text, signature, ""):
                events += [self._delta({"type": "thinking_delta", "thinking": text})] if text else []
                events += [self._delta({"type": "signature_delta", "signature": signature})] if signature else []
            case ToolCall(_, _, arguments) if arguments:
                self._arguments += arguments
                events.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
        return events

    def _open_block(self, part: Part, key: tuple[str, int, str]) -> bytes:
        self._index += 1
        self._open, self._arguments = key, ""
        match part:
            case Text():
                block: Payload = {"type": "text", "text": ""}
            case Reasoning(redacted=""):
                block = {"type": "thinking", "thinking": "", "signature": ""}
            case ToolCall(call_id, name, _, signature):
                block = {"type": "tool_use", "id": call_id, "name": name, "input": {}, **_signed(signature)}
            case _:
                block = _block(part) or {"type": "text", "text": ""}
        return _event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, delta: Payload) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        self._open = None
        return [_event("content_block_stop", {"index": self._index})]


def _block_key(fragment: Fragment) -> tuple[str, int, str] | None:
    """Return what identifies the block of a fragment; ``None`` for content that has no block."""
    match fragment.part:
        case Text():
            return "text", fragment.index, ""
        case Reasoning(redacted=""):
            return "thinking", fragment.index, ""
        case ToolCall():
            return "call", fragment.index, fragment.key
        case Reasoning():
            return "whole", fragment.index, fragment.key
        case Opaque(kind, data) if kind != CITATION and _object(data).get("type") == kind:
            return "whole", fragment.index, fragment.key
        case _:
            return None


def _is_complete(arguments: str) -> bool:
    """Return whether the arguments of a call are whole."""
    try:
        _decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _event(kind: str, payload: Payload) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **payload}))


# Errors


def encode_error(error: LLMError, status: int, request_id: str) -> Payload:
    """Encode an error.

    Examples
    --------
    >>> encode_error(RateLimited(message="slow down"), 429, "req_1")["error"]
    {'type': 'rate_limit_error', 'message': 'slow down'}
    """
    kind = ERROR_TYPES.get(type(error)) or ("api_error" if status >= SERVER_ERROR_STATUS else "invalid_request_error")
    if status == REQUEST_TOO_LARGE:
        kind = "request_too_large"
    return {
        "type": "error",
        "error": {"type": kind, "message": error_text(error)},
        **({"request_id": request_id} if request_id else {}),
    }


DIALECT: Final = Dialect(
    name="anthropic",
    wires=frozenset({"anthropic"}),
    parse=parse,
    encode=encode,
    open_stream=MessageStream,
    encode_error=encode_error,
)
