"""OpenAI Chat Completions, the server's half.

What differs here:

- ``developer`` is the later name of ``system``, ``max_completion_tokens`` of ``max_tokens``.
- Reasoning has no place in the API; it is sent and read as ``reasoning_content``, as compatible servers have it. The
  signature of a call is kept in ``extra_content.google.thought_signature``, as Gemini's compatible server has it.
- A stream sends its usage only on request, in a last chunk without choices, and ends with ``[DONE]``.

Source: https://platform.openai.com/docs/api-reference/chat and the types of openai 3.57.0 (read 2026-11-30);
https://ai.google.dev/gemini-api/docs/openai (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from llmhub.core.errors import LLMError, invalid
from llmhub.core.recording import RAW_TYPE, is_recording
from llmhub.core.stream import Delta, Fragment
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Document,
    FinishReason,
    Image,
    Logprobs,
    Message,
    Opaque,
    Part,
    Payload,
    Reasoning,
    Refusal,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.server.dialects.dialect import Dialect, ParsedRequest, ReplyInfo
from llmhub.server.dialects.openai_error_body import encode_openai_error
from llmhub.server.dialects.part_stream import PartStream
from llmhub.server.dialects.reading import (
    document,
    has_only,
    image,
    opaque,
    other_fields,
    read_as,
    texts_of,
    unsupported,
)

FINISH: Final[Mapping[FinishReason, str]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "stop",
    "other": "stop",
}
PARAMS: Final = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "user", "reasoning_effort")
"""Parameters of the same name and meaning in `CompletionRequest`."""
IGNORED_IN_MESSAGES: Final = frozenset({"name", "annotations", "prefix", "index", "id", "type", "function_call"})
"""Fields of messages that repeat what is known, or that only responses have."""
PLAIN_FIELDS: Final = frozenset({"role", "content"})
"""Fields of most messages."""
REASONING_DETAILS: Final = "reasoning_details"
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class FunctionCall(Struct):
    """Name and JSON arguments of a call."""

    name: str
    arguments: str = ""


class ChatToolCall(Struct):
    """A tool call in an assistant's message."""

    id: str
    function: FunctionCall
    type: str = "function"
    extra_content: dict[str, Any] | None = None


class ChatMessage(Struct):
    """A message; content is text or blocks."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    audio: dict[str, Any] | None = None
    images: list[dict[str, Any]] | None = None


class ResponseFormat(Struct):
    """``text``, ``json_object``, or ``json_schema`` with its schema."""

    type: str
    json_schema: dict[str, Any] | None = None


class StreamOptions(Struct):
    """Options of a stream."""

    include_usage: bool | None = None


class ChatRequest(Struct):
    """Body of ``POST /v1/chat/completions``."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    user: str | None = None
    reasoning_effort: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


FIELDS: Final = frozenset(ChatRequest.__struct_fields__)
MESSAGE_FIELDS: Final = frozenset(ChatMessage.__struct_fields__) | IGNORED_IN_MESSAGES


# Requests


def parse(payload: Payload, native: bool) -> ParsedRequest:
    """Parse a Chat Completions body."""
    body = read_as(payload, ChatRequest)
    fields: dict[str, Any] = {name: getattr(body, name) for name in PARAMS}
    extra = {} if payload.keys() <= FIELDS else other_fields(payload, FIELDS, native=native)
    if body.tools:
        tools = [_tool(tool, f"$.tools[{index}]", native=native) for index, tool in enumerate(body.tools)]
        if all(tool is not None for tool in tools):
            fields["tools"] = tuple(tool for tool in tools if tool is not None)
        else:
            extra["tools"] = payload["tools"]
    if body.tool_choice is not None:
        fields["tool_choice"], rest = _tool_choice(body.tool_choice, native=native)
        extra |= rest
    if body.response_format is not None:
        fields["response_schema"], rest = _response_format(body.response_format, payload, native=native)
        extra |= rest
    raw_messages: Any = payload["messages"]
    request = CompletionRequest(
        model=body.model,
        messages=tuple(
            _message(message, raw_messages[index], f"$.messages[{index}]", native=native)
            for index, message in enumerate(body.messages)
        ),
        max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        n=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        parallel_tool_calls=body.parallel_tool_calls,
        extra=extra,
        **fields,
    )
    include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return ParsedRequest(request=request, stream=bool(body.stream), stream_usage=include_usage)


def _message(message: ChatMessage, raw: Mapping[str, Any], path: str, *, native: bool) -> Message:
    for name, value in raw.items():
        if name not in MESSAGE_FIELDS and name != "cache_control" and value is not None:
            raise unsupported(f"{path}.{name}", "has no counterpart in llmhub")
    role = "system" if message.role == "developer" else message.role
    if role == "tool":
        return Message("tool", _tool_result(message, raw, path))
    parts: list[Part] = []
    if role == "user" and isinstance(message.content, str) and raw.keys() == PLAIN_FIELDS:
        return Message("user", (Text(message.content),))
    if message.reasoning_details and native:
        parts.append(
            Opaque(REASONING_DETAILS, "".join(f"{_encode(item).decode()}," for item in message.reasoning_details))
        )
    elif native and (thought := message.reasoning_content or message.reasoning):
        parts.append(Reasoning(thought))
    blocks = [{"type": "text", "text": message.content}] if isinstance(message.content, str) else message.content or []
    mark = {"cache_control": raw["cache_control"]} if raw.get("cache_control") is not None else {}
    for index, block in enumerate(blocks):
        parts.append(_part({**block, **mark} if mark else block, f"{path}.content[{index}]", native=native))
    parts += [_part(block, f"{path}.images[{index}]", native=False) for index, block in enumerate(message.images or ())]
    parts += _recording(message)
    if message.refusal:
        parts.append(Refusal(message.refusal))
    parts += [_call(call) for call in message.tool_calls or ()]
    if not parts and message.content is None:
        raise invalid(f"{path}.content", "is missing")
    return Message(role, parts)


def _recording(message: ChatMessage) -> list[Part]:
    """Return the recording of an earlier answer, which is given by its id."""
    recording_id = (message.audio or {}).get("id")
    return [Document(media_type=RAW_TYPE, name=recording_id)] if isinstance(recording_id, str) else []


def _tool_result(message: ChatMessage, raw: Mapping[str, Any], path: str) -> ToolResult:
    if not message.tool_call_id:
        raise invalid(f"{path}.tool_call_id", "is missing")
    content = message.content
    text = content if isinstance(content, str) else texts_of(content or (), f"{path}.content")
    name = raw.get("name")
    return ToolResult(message.tool_call_id, text, name if isinstance(name, str) else "")


def _call(call: ChatToolCall) -> ToolCall:
    google = (call.extra_content or {}).get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    signature = signature if isinstance(signature, str) else ""
    return ToolCall(call.id, call.function.name, call.function.arguments or "{}", signature)


def _part(block: Mapping[str, Any], path: str, *, native: bool) -> Part:
    match block:
        case {"type": "text", "text": str(text)} if has_only(block, "type", "text") or not native:
            return Text(text)
        case {"type": "refusal", "refusal": str(text)}:
            return Refusal(text)
        case {"type": "file", "file": {"file_data": str(data), **more}}:
            name = more.get("filename")
            return document(f"{path}.file.file_data", url=data, name=name if isinstance(name, str) else "")
        case {"type": "image_url", "image_url": {"url": str(url), **more}} if not native or has_only(
            block, "type", "image_url"
        ):
            detail = more.get("detail")
            return image(f"{path}.image_url.url", url=url, detail=detail if isinstance(detail, str) else "")
        case {"type": str(kind)} if kind in {"text", "image_url"} and kind not in block:
            raise invalid(f"{path}.{kind}", "is missing")
    return opaque(block.get("type"), block, path, native=native)


def _tool(tool: Mapping[str, Any], path: str, *, native: bool) -> Tool | None:
    """Return a function; ``None`` for another kind of tool, which a target of the same API is sent as it is."""
    function = tool.get("function")
    if tool.get("type", "function") != "function" or (native and not has_only(tool, "type", "function")):
        if not native:
            raise unsupported(
                f"{path}.type", f"a tool of type {tool.get('type')!r:.80} has no counterpart in the API of this model"
            )
        return None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(f"{path}.function.name", "is missing")
    description, parameters, strict = function.get("description"), function.get("parameters"), function.get("strict")
    if not isinstance(description, str | None) or not isinstance(strict, bool | None):
        raise invalid(f"{path}.function", "description must be a string, and strict a boolean")
    if not isinstance(parameters, dict | None):
        raise invalid(f"{path}.function.parameters", "must be a JSON schema")
    return Tool(function["name"], description or "", parameters or {}, strict)


def _tool_choice(choice: str | dict[str, Any], *, native: bool) -> tuple[str | None, dict[str, Any]]:
    match choice:
        case "auto" | "none" | "required":
            return choice, {}
        case {"type": "function", "function": {"name": str(name)}}:
            return name, {}
        case _ if native:
            return None, {"tool_choice": choice}
        case _:
            raise unsupported("$.tool_choice", "must be auto, none, required or a function for this model")


def _response_format(form: ResponseFormat, payload: Payload, *, native: bool) -> tuple[Schema | None, dict[str, Any]]:
    given: Any = payload["response_format"]
    if form.type == "text":
        return None, {}
    if form.type != "json_schema":
        if not native:
            raise unsupported("$.response_format.type", "must be text or json_schema for this model", droppable=True)
        return None, {"response_format": given}
    fields = form.json_schema or {}
    schema, name = fields.get("schema"), fields.get("name", "answer")
    if not isinstance(schema, dict) or not isinstance(name, str) or not isinstance(fields.get("strict"), bool | None):
        raise invalid("$.response_format.json_schema", "must have a name and a schema, and strict as a boolean")
    rest = {key: value for key, value in fields.items() if key not in {"schema", "name", "strict"}}
    extra: dict[str, Any] = {"response_format": {"json_schema": rest}} if rest and native else {}
    return Schema(schema, name, bool(fields.get("strict"))), extra


# Responses


def encode(response: CompletionResponse, info: ReplyInfo) -> Payload:
    """Encode a response as a Chat Completion."""
    others = [(choice.parts, choice.finish_reason) for choice in response.others]
    return {
        "id": f"chatcmpl-{info.id}",
        "object": "chat.completion",
        "created": info.created,
        "model": info.model,
        "choices": [
            {
                "index": index,
                "message": _answer(parts),
                "logprobs": _logprobs([part for part in parts if isinstance(part, Logprobs)]),
                "finish_reason": FINISH[reason],
            }
            for index, (parts, reason) in enumerate([(response.parts, response.finish_reason), *others])
        ],
        "usage": _usage(response.usage, info),
        **({"service_tier": response.usage.service_tier} if response.usage.service_tier else {}),
    }


def _answer(parts: Sequence[Part]) -> Payload:
    if len(parts) == 1 and type(parts[0]) is Text:  # as most answers are
        return {"role": "assistant", "content": parts[0].text, "refusal": None}
    text = "".join([part.text for part in parts if isinstance(part, Text)])
    refusal = "".join([part.text for part in parts if isinstance(part, Refusal)])
    reasoning = "".join([part.text for part in parts if isinstance(part, Reasoning)])
    calls = [_encode_call(part) for part in parts if isinstance(part, ToolCall)]
    has_text = any(isinstance(part, Text) for part in parts)
    images = [_encode_image(part) for part in parts if isinstance(part, Image)]
    recordings = [part for part in parts if is_recording(part)]
    return {
        "role": "assistant",
        # The text beside a recording is its transcript.
        "content": text if not recordings and (has_text or not (calls or refusal)) else None,
        "refusal": refusal or None,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **({"tool_calls": calls} if calls else {}),
        **({"images": images} if images else {}),
        **({"audio": _encode_recording(recordings[0], text)} if recordings else {}),
    }


def _encode_image(part: Image) -> Payload:
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _encode_recording(part: Document, transcript: str) -> Payload:
    """Encode a recording; when its id expires is not known here."""
    return {"id": part.name, "data": part.data, "transcript": transcript, "expires_at": 0}


def _encode_call(call: ToolCall) -> Payload:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function, **_signature(call.signature)}


def _signature(signature: str) -> Payload:
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def _logprobs(parts: Sequence[Logprobs]) -> Payload | None:
    tokens = [token for part in parts for token in part.tokens]
    if not tokens:
        return None
    return {
        "content": [
            {
                **_token(token.token, token.logprob),
                "top_logprobs": [_token(other, logprob) for other, logprob in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _token(token: str, logprob: float) -> Payload:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def _usage(usage: Usage, info: ReplyInfo) -> Payload | None:
    """Encode token counts, with the cost of the call in USD; ``None`` where the provider reported no counts."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    inputs, outputs = usage.input_tokens or 0, usage.output_tokens or 0
    payload: Payload = {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
    if usage.cached_input_tokens is not None or usage.cache_write_tokens is not None:
        read, written = usage.cached_input_tokens, usage.cache_write_tokens
        payload["prompt_tokens_details"] = {
            **({} if read is None else {"cached_tokens": read}),
            **({} if written is None else {"cache_write_tokens": written}),
        }
    if usage.reasoning_tokens is not None:
        payload["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if info.cost_usd is not None:
        payload["cost"] = info.cost_usd
    return payload


# Streams


class ChatStream:
    """Encodes one response as chunks."""

    def __init__(self, info: ReplyInfo) -> None:
        self._parts = PartStream()
        self._head = {
            "id": f"chatcmpl-{info.id}",
            "object": "chat.completion.chunk",
            "created": info.created,
            "model": info.model,
        }
        self._prefix = _encode(self._head)[:-1] + b',"choices":[{"index":'
        self._begun: set[int] = set()
        self._call_numbers: dict[tuple[int, int, str], int] = {}
        self._calls_of: dict[int, int] = {}

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        """Encode new content as chunks."""
        return b"".join([self._chunk(fragment) for fragment in self._parts.feed(deltas)])

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> bytes:
        """Encode the rest of the content, the finish reasons, the usage and ``[DONE]``."""
        chunks = [self._chunk(fragment) for fragment in self._parts.rest(response)]
        reasons = [response.finish_reason, *(choice.finish_reason for choice in response.others)]
        for choice, reason in enumerate(reasons):
            delta = {} if choice in self._begun else {"role": "assistant", "content": ""}
            chunks.append(self._choice(choice, _encode(delta), _encode(FINISH[reason])))
        if info.stream_usage:
            chunks.append(_event({**self._head, "choices": [], "usage": _usage(response.usage, info)}))
        return b"".join([*chunks, b"data: [DONE]\n\n"])

    def fail(self, error: LLMError, status: int) -> bytes:
        """Encode an error as the last event."""
        return _event(encode_openai_error(error, status, ""))

    def _chunk(self, fragment: Fragment) -> bytes:
        choice = fragment.choice
        role = {} if choice in self._begun else {"role": "assistant", "content": None}
        self._begun.add(choice)
        logprobs: Payload | None = None
        match fragment.part:
            case Text(text):
                delta: Payload = {**role, "content": text}
            case Reasoning(text) if text:
                delta = {**role, "reasoning_content": text}
            case Refusal(text):
                delta = {**role, "refusal": text}
            case ToolCall() as call:
                delta = {**role, "tool_calls": [self._call(call, (choice, fragment.index, fragment.key))]}
            case Image() as part:
                delta = {**role, "images": [_encode_image(part)]}
            case Document() as part if is_recording(part):
                delta = {**role, "audio": {"id": part.name, "data": part.data}}
            case Logprobs() as part:
                delta, logprobs = {**role}, _logprobs([part])
            case _:
                return b""
        return self._choice(choice, _encode(delta), b"null", logprobs)

    def _choice(self, choice: int, delta: bytes, reason: bytes, logprobs: Payload | None = None) -> bytes:
        more = b',"logprobs":' + _encode(logprobs) if logprobs is not None else b""
        return b'data: %b%d,"delta":%b%b,"finish_reason":%b}]}\n\n' % (self._prefix, choice, delta, more, reason)

    def _call(self, call: ToolCall, key: tuple[int, int, str]) -> Payload:
        number = self._call_numbers.get(key)
        if number is not None:
            return {"index": number, "function": {"arguments": call.arguments}, **_signature(call.signature)}
        number = self._call_numbers[key] = self._calls_of.get(key[0], 0)
        self._calls_of[key[0]] = number + 1
        return {"index": number, **_encode_call(call)}


def _event(payload: Payload) -> bytes:
    return b"data: %b\n\n" % _encode(payload)


DIALECT: Final = Dialect(
    name="openai_chat",
    wires=frozenset({"openai_chat"}),
    parse=parse,
    encode=encode,
    open_stream=ChatStream,
    encode_error=encode_openai_error,
)
