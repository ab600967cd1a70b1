"""OpenAI Responses, the server's half.

What differs here:

- The input is a list of items; neighbouring items of one role are one message. Reasoning is an item of its own: a
  response carries it as the provider's item where the provider speaks this API, else as its summary.
- Nothing is stored: ``previous_response_id``, ``conversation`` and ``background`` are refused, since the provider's
  account is shared.
- A stream numbers its events, and opens and closes each item and each of its contents.

The file is long because parser and encoder of one API are read side by side.

Source: https://platform.openai.com/docs/api-reference/responses and the types of openai 3.57.0 (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, TypeGuard

import msgspec
from msgspec import Meta, Struct

from llmhub.core.errors import LLMError, invalid
from llmhub.core.stream import Delta, Fragment
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Image,
    Message,
    Opaque,
    Part,
    Payload,
    Reasoning,
    Refusal,
    Role,
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
    compact,
    document,
    has_only,
    image,
    opaque,
    other_fields,
    read_as,
    unsupported,
)

INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons for which a response is incomplete, by its finish reason."""
STORED: Final = ("previous_response_id", "conversation", "background", "prompt")
"""Fields that refer to data stored at the provider, whose account all callers share."""
ASSUMED: Final = frozenset({"store", "include", "stream_options", "truncation"})
"""Fields that are set by the wire, or whose defaults other APIs have, too."""
PHASE: Final = "message"
"""Kind of the `Opaque` part that holds the phase of the message before it."""
CITATION: Final = "citation"
GENERATED_IMAGE: Final = "image_generation_call"
SIGNED_CALL_FIELDS: Final = ("namespace", "caller")
"""Fields of a call that are sent back; they are kept, with its type, as its signature."""
NOT_SIGNED: Final = (None, {"type": "direct"})
TEXT_BLOCKS: Final = ("input_text", "output_text", "text")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class ResponsesRequest(Struct):
    """Body of ``POST /v1/responses``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stream: bool | None = None


FIELDS: Final = frozenset(ResponsesRequest.__struct_fields__) | ASSUMED


# Requests


def parse(payload: Payload, native: bool) -> ParsedRequest:
    """Parse a Responses body."""
    body = read_as(payload, ResponsesRequest)
    for name in STORED:
        if payload.get(name):
            raise unsupported(
                f"$.{name}", "refers to stored data of an account that several callers share; send it all"
            )
    extra = other_fields(payload, FIELDS, native=native)
    parser = _Parser(native=native)
    messages: list[Message] = [] if body.instructions is None else [Message("system", body.instructions)]
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    messages += parser.messages(items)
    fields: dict[str, Any] = {}
    for read in (_tools, _tool_choice, _text, _reasoning):
        own, rest = read(body, native=native)
        fields |= own
        extra |= rest
    request = CompletionRequest(
        model=body.model,
        messages=tuple(messages),
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        logprobs=body.top_logprobs,
        parallel_tool_calls=body.parallel_tool_calls,
        user=body.safety_identifier or body.user,
        extra=extra,
        **fields,
    )
    return ParsedRequest(request=request, stream=bool(body.stream), dropped=tuple(parser.dropped))


class _Parser:
    """Parses the items of one request; neighbouring ones of one role become one message."""

    def __init__(self, *, native: bool) -> None:
        self.native = native
        self.dropped: dict[str, None] = {}

    def messages(self, items: Sequence[Mapping[str, Any]]) -> list[Message]:
        messages: list[tuple[Role, list[Part]]] = []
        for index, item in enumerate(items):
            role, parts, joins = self._item(item, f"$.input[{index}]")
            if joins and messages and messages[-1][0] == role:
                messages[-1][1].extend(parts)
            elif parts or not joins:
                messages.append((role, parts))
        return [Message(role, parts) for role, parts in messages]

    def _item(self, item: Mapping[str, Any], path: str) -> tuple[Role, list[Part], bool]:
        """Return role and parts of an item, and whether they join the message before."""
        match item:
            case {"role": str(name), "content": content} if item.get("type", "message") in ("message", None):
                return self._message(name, content, item, path)
            case {"type": "reasoning"}:
                if not self.native:
                    self.dropped["messages.reasoning"] = None
                    return "assistant", [], True
                return "assistant", _reasoning_parts(item), True
            case {"type": "function_call", "call_id": str(call), "name": str(name), "arguments": str(arguments)}:
                signed = {key: item[key] for key in SIGNED_CALL_FIELDS if item.get(key) not in NOT_SIGNED}
                signature = compact({"type": "function_call", **signed}) if signed and self.native else ""
                return "assistant", [ToolCall(call, name, arguments or "{}", signature)], True
            case {"type": "function_call_output", "call_id": str(call), "output": output}:
                return "tool", [self._result(call, output, item, path)], True
            case _:
                role: Role = "user" if str(item.get("type")).endswith("_output") else "assistant"
                return role, [opaque(item.get("type"), item, path, native=self.native)], True

    def _message(self, name: str, content: object, item: Mapping[str, Any], path: str) -> tuple[Role, list[Part], bool]:
        known: Mapping[str, Role] = {
            "user": "user",
            "assistant": "assistant",
            "system": "system",
            "developer": "system",
        }
        if name not in known:
            raise invalid(f"{path}.role", "must be user, assistant, system or developer")
        if not isinstance(content, str | list):
            raise invalid(f"{path}.content", "must be a string or a list")
        blocks = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
        parts: list[Part] = []
        for index, block in enumerate(blocks):
            if not isinstance(block, dict):
                raise invalid(f"{path}.content[{index}]", "must be an object")
            parts += self._block(block, f"{path}.content[{index}]")
        phase = item.get("phase")
        if phase is not None and self.native:
            parts.append(Opaque(PHASE, compact({"phase": phase})))
        return known[name], parts, known[name] == "assistant"

    def _block(self, block: Mapping[str, Any], path: str) -> list[Part]:
        match block:
            case {"type": str(kind), "text": str(text)} if kind in TEXT_BLOCKS and (
                not self.native or has_only(block, "type", "text", "annotations", "logprobs")
            ):
                noted = block.get("annotations") if self.native else None
                return [Text(text), *(Opaque(CITATION, compact(note)) for note in (noted or ()))]
            case {"type": "refusal", "refusal": str(text)}:
                return [Refusal(text)]
            case {"type": "input_image", "image_url": str(url)}:
                detail = block.get("detail") or ""
                detail = detail if isinstance(detail, str) and detail != "auto" else ""
                return [image(f"{path}.image_url", url=url, detail=detail)]
            case {"type": "input_file", "file_data": str(data)}:
                name = block.get("filename")
                return [document(f"{path}.file_data", url=data, name=name if isinstance(name, str) else "")]
            case {"type": "input_file", "file_url": str(url)}:
                return [document(f"{path}.file_url", url=url)]
            case _:
                return [opaque(block.get("type"), block, path, native=self.native)]

    def _result(self, call: str, output: object, item: Mapping[str, Any], path: str) -> Part:
        if isinstance(output, str):
            return ToolResult(call, output)
        pieces: list[Text | Image] = []
        for index, block in enumerate(output if isinstance(output, list) else [output]):
            parts = self._block(block, f"{path}.output[{index}]") if isinstance(block, dict) else []
            if len(parts) != 1 or not isinstance(parts[0], (Text, Image)):
                return opaque("function_call_output", item, path, native=self.native)
            pieces.append(parts[0])
        if all(isinstance(piece, Text) for piece in pieces):
            return ToolResult(call, "".join([piece.text for piece in pieces if isinstance(piece, Text)]))
        return ToolResult(call, tuple(pieces))


def _reasoning_parts(item: Mapping[str, Any]) -> list[Part]:
    """Return an item of reasoning: its text, with the item itself as the signature."""
    kept = compact({name: value for name, value in item.items() if name != "status" and value is not None})
    summary, content = (_paragraphs(item.get(name)) for name in ("summary", "content"))
    if content and not summary:
        return [Reasoning(content, kept)]
    return [Reasoning(summary, kept), *([Reasoning(content)] if content else [])]


def _paragraphs(pieces: object) -> str:
    texts = [piece.get("text") for piece in pieces if isinstance(piece, dict)] if isinstance(pieces, list) else []
    return "\n\n".join([text for text in texts if isinstance(text, str)])


Fields = tuple[dict[str, Any], dict[str, Any]]
"""Fields of a request, and those that only a target of the same API understands."""


def _tools(body: ResponsesRequest, *, native: bool) -> Fields:
    tools = [_tool(tool, f"$.tools[{index}]", native=native) for index, tool in enumerate(body.tools or ())]
    if all(tool is not None for tool in tools):
        return {"tools": tuple(tool for tool in tools if tool is not None)}, {}
    return {}, {"tools": body.tools}


def _tool(tool: Mapping[str, Any], path: str, *, native: bool) -> Tool | None:
    """Return a function; ``None`` for another kind of tool, which a target of the same API is sent as it is."""
    known = ("type", "name", "description", "parameters", "strict")
    if tool.get("type") != "function" or (native and not has_only(tool, *known)):
        if not native:
            kind = tool.get("type")
            raise unsupported(
                f"{path}.type", f"a tool of type {kind!r:.80} has no counterpart in the API of this model"
            )
        return None
    name, description, schema, strict = (tool.get(field_name) for field_name in known[1:])
    if not isinstance(name, str):
        raise invalid(f"{path}.name", "is missing")
    if not isinstance(description, str | None) or not isinstance(strict, bool | None):
        raise invalid(path, "description must be a string, and strict a boolean")
    if not isinstance(schema, dict | None):
        raise invalid(f"{path}.parameters", "must be a JSON schema")
    # Functions are strict here unless they say otherwise.
    return Tool(name, description or "", schema or {}, True if strict is None and native else strict)


def _tool_choice(body: ResponsesRequest, *, native: bool) -> Fields:
    match body.tool_choice:
        case None:
            return {}, {}
        case "auto" | "none" | "required" as choice:
            return {"tool_choice": choice}, {}
        case {"type": "function", "name": str(name)}:
            return {"tool_choice": name}, {}
        case _ if native:
            return {}, {"tool_choice": body.tool_choice}
        case _:
            raise unsupported("$.tool_choice", "must be auto, none, required or a function for this model")


def _text(body: ResponsesRequest, *, native: bool) -> Fields:
    text = body.text or {}
    form = text.get("format")
    fields: dict[str, Any] = {}
    rest = {name: value for name, value in text.items() if name != "format" and value is not None}
    match form:
        case None | {"type": "text"}:
            pass
        case {"type": "json_schema", "schema": dict(schema)}:
            name, strict = form.get("name") or "answer", form.get("strict")
            if not isinstance(name, str) or not isinstance(strict, bool | None):
                raise invalid("$.text.format", "name must be a string, and strict a boolean")
            fields["response_schema"] = Schema(schema, name, bool(strict))
            more = {key: form[key] for key in form if key not in {"type", "schema", "name", "strict"} and form[key]}
            rest |= {"format": more} if more and native else {}
        case _ if native:
            rest["format"] = form
        case _:
            raise unsupported("$.text.format", "must be text or json_schema for this model", droppable=True)
    rest = other_fields(rest, (), native=native, path="$.text")
    return fields, ({"text": rest} if rest else {})


def _reasoning(body: ResponsesRequest, *, native: bool) -> Fields:
    reasoning = body.reasoning or {}
    effort = reasoning.get("effort")
    if not isinstance(effort, str | None):
        raise invalid("$.reasoning.effort", "must be a string")
    known = {"effort"} if native else {"effort", "summary", "generate_summary"}
    rest = other_fields(reasoning, known, native=native, path="$.reasoning")
    return ({} if effort is None else {"reasoning_effort": effort}), ({"reasoning": rest} if rest else {})


# Responses


def encode(response: CompletionResponse, info: ReplyInfo) -> Payload:
    """Encode a response; further choices have no place in it."""
    items = [item.payload for item in _items(response.parts, info.id)]
    return _response(info, items, response)


def _response(info: ReplyInfo, output: list[Payload], response: CompletionResponse | None) -> Payload:
    """Return a response object, in progress if there is no response yet."""
    reason = INCOMPLETE.get(response.finish_reason) if response is not None else None
    status = "in_progress" if response is None else "completed" if reason is None else "incomplete"
    tier = "" if response is None else response.usage.service_tier
    return {
        "id": f"resp_{info.id}",
        "object": "response",
        "created_at": info.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "instructions": None,
        "metadata": {},
        "model": info.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "store": False,
        "usage": None if response is None else _usage(response.usage),
        **({"service_tier": tier} if tier else {}),
    }


@dataclass(slots=True)
class _Item:
    """An item of the output while it is built."""

    kind: str
    payload: dict[str, Any]
    contents: list[dict[str, Any]] = field(default_factory=list)


def _items(parts: Sequence[Part], response_id: str) -> Iterator[_Item]:
    """Return the items of parts: texts of a message together, each call and reasoning an item of its own."""
    message: _Item | None = None
    count = 0
    for part in _join_images(parts):
        if isinstance(part, (Text, Refusal)):
            if message is None:
                message = _message_item(response_id, count)
            message.payload["content"].append(_content(part))
        elif isinstance(part, Opaque) and part.kind == CITATION:
            if message is not None and "annotations" in message.payload["content"][-1]:
                message.payload["content"][-1]["annotations"].append(_decode(part.data))
        elif (item := _item(part, response_id, count + (message is not None))) is not None:
            if message is not None:
                yield message
                message, count = None, count + 1
            yield item
            count += 1
    if message is not None:
        yield message


def _message_item(response_id: str, index: int, status: str = "completed") -> _Item:
    head: dict[str, Any] = {"id": f"msg_{response_id}_{index}", "type": "message", "status": status}
    return _Item("message", {**head, "role": "assistant", "content": []})


def _content(part: Text | Refusal) -> dict[str, Any]:
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}


def _item(  # noqa: PLR0911 - one for each type of part
    part: Part, response_id: str, index: int
) -> _Item | None:
    """Return the item of a part that is no text; ``None`` for content without a place in this API."""
    match part:
        case ToolCall(call_id, name, arguments, signature):
            head = _object(signature)
            kind = head.get("type") if head.get("type") == "custom_tool_call" else "function_call"
            place = "input" if kind == "custom_tool_call" else "arguments"
            payload = {**head, "id": f"fc_{response_id}_{index}", "type": kind, "status": "completed"}
            return _Item(str(kind), {**payload, "call_id": call_id, "name": name, place: arguments})
        case Reasoning(text, signature):
            kept = _object(signature)
            if kept.get("type") == "reasoning":
                return _Item("reasoning", kept)
            if not text:
                return None
            summary = [{"type": "summary_text", "text": text}]
            return _Item("reasoning", {"id": f"rs_{response_id}_{index}", "type": "reasoning", "summary": summary})
        case Opaque(kind, data) if kind != PHASE and _object(data).get("type") == kind:
            return _Item(kind, _object(data))
        case Image(data=data, media_type=media_type) if data:
            head = {"id": f"ig_{response_id}_{index}", "type": GENERATED_IMAGE, "status": "completed"}
            image_format = media_type.rpartition("/")[2]
            return _Item(GENERATED_IMAGE, {**head, "output_format": image_format, "result": data})
        case _:
            return None


def _with_image(item: Opaque, image: Image) -> Opaque:
    """Return the item of an image with the image, which the wire keeps as a part of its own."""
    return Opaque(item.kind, compact({**_object(item.data), "result": image.data}))


def _is_image_item(part: object) -> TypeGuard[Opaque]:
    """Return whether the image of an item follows it."""
    return isinstance(part, Opaque) and part.kind == GENERATED_IMAGE and _object(part.data).get("result") == ""


def _join_images(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield the parts, each image in the item that it belongs to."""
    for index, part in enumerate(parts):
        before = parts[index - 1] if index else None
        if isinstance(part, Image) and _is_image_item(before):
            yield _with_image(before, part)
        elif not (_is_image_item(part) and isinstance(next(iter(parts[index + 1 : index + 2]), None), Image)):
            yield part


def _object(text: str) -> dict[str, Any]:
    try:
        value = _decode(text) if text else {}
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _usage(usage: Usage) -> Payload | None:
    inputs, outputs = usage.input_tokens, usage.output_tokens
    if inputs is None and outputs is None:
        return None
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    return {
        "input_tokens": inputs or 0,
        "input_tokens_details": {
            "cached_tokens": cached or 0,
            **({} if written is None else {"cache_write_tokens": written}),
        },
        "output_tokens": outputs or 0,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": (inputs or 0) + (outputs or 0),
    }


# Streams


class ResponseStream:
    """Encodes one response as numbered events; items open and close one after the other, calls at the end."""

    def __init__(self, info: ReplyInfo) -> None:
        self._info = info
        self._parts = PartStream()
        self._number = 0
        self._output: list[Payload] = []
        self._open: _Item | None = None
        self._image_item: Opaque | None = None

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        """Encode new text, refusals and summaries of reasoning as events."""
        events: list[bytes] = []
        for fragment in self._parts.feed(deltas):
            if not fragment.choice and not isinstance(fragment.part, ToolCall):
                events += self._events(fragment)
        return b"".join(events)

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> bytes:
        """Encode the rest of the content, the calls, and the whole response."""
        events = [] if self._number else self._begin()
        for fragment in self._parts.rest(response):
            if not fragment.choice and not isinstance(fragment.part, ToolCall):
                events += self._events(fragment)
        events += self._close()
        for part in response.parts:
            if isinstance(part, ToolCall):
                events += self._call(part)
        final = _response(info, self._output, response)
        kind = "response.incomplete" if final["status"] == "incomplete" else "response.completed"
        return b"".join([*events, self._event(kind, response=final)])

    def fail(self, error: LLMError, status: int) -> bytes:
        """Encode an error as the last event."""
        body: Any = encode_openai_error(error, status, "")["error"]
        return self._event("error", code=body["code"], message=body["message"], param=body["param"])

    def _begin(self) -> list[bytes]:
        head = _response(self._info, [], None)
        return [self._event("response.created", response=head), self._event("response.in_progress", response=head)]

    def _events(self, fragment: Fragment) -> list[bytes]:
        events = [] if self._number else self._begin()
        match fragment.part:
            case Text(text):
                events += self._append("message", "output_text", text)
            case Refusal(text):
                events += self._append("message", "refusal", text)
            case Reasoning(text, signature, ""):
                events += self._append("reasoning", "summary_text", text) if text else []
                events += self._sign(signature)
            case Opaque() as part if _is_image_item(part):
                self._image_item = part
            case Image() as part if self._image_item is not None:
                joined, self._image_item = _with_image(self._image_item, part), None
                events += self._events(replace(fragment, part=joined))
            case (Opaque() | Image()) as part if (item := self._item(part)) is not None:
                events += [*self._close(), *self._whole(item)]
            case _:
                return []
        return events

    def _append(self, kind: str, content: str, text: str) -> list[bytes]:
        """Return the events that append text to a content of an item, opening both if they are not open."""
        events: list[bytes] = []
        item = self._open
        if item is None or item.kind != kind:
            events += self._close()
            item = self._open = self._new_item(kind)
            events.append(self._event("response.output_item.added", output_index=self._index, item=item.payload))
        if not item.contents or item.contents[-1]["type"] != content:
            events += self._close_content(item)
            events.append(self._open_content(item, content))
        shown = item.contents[-1]
        place = "refusal" if content == "refusal" else "text"
        shown[place] += text
        return [*events, self._content_event(item, "delta", delta=text)]

    def _item(self, part: Opaque | Image) -> _Item | None:
        is_citation = isinstance(part, Opaque) and part.kind == CITATION
        return None if is_citation else _item(part, self._info.id, self._index)

    @property
    def _index(self) -> int:
        return len(self._output)

    def _new_item(self, kind: str) -> _Item:
        if kind == "message":
            return _message_item(self._info.id, self._index, "in_progress")
        return _Item("reasoning", {"id": f"rs_{self._info.id}_{self._index}", "type": "reasoning", "summary": []})

    def _open_content(self, item: _Item, content: str) -> bytes:
        if content == "summary_text":
            item.contents.append({"type": "summary_text", "text": ""})
            return self._part_event(item, "added")
        item.contents.append(_content(Text("") if content == "output_text" else Refusal("")))
        return self._part_event(item, "added")

    def _part_event(self, item: _Item, state: str) -> bytes:
        """Return the event that opens or closes a content."""
        content = dict(item.contents[-1])
        kind = "reasoning_summary_part" if item.kind == "reasoning" else "content_part"
        return self._event(f"response.{kind}.{state}", **self._place(item), part=content)

    def _content_event(self, item: _Item, state: str, **more: object) -> bytes:
        kinds = {"summary_text": "reasoning_summary_text", "output_text": "output_text", "refusal": "refusal"}
        kind = kinds[item.contents[-1]["type"]]
        logprobs: Payload = {"logprobs": []} if kind == "output_text" else {}
        return self._event(f"response.{kind}.{state}", **self._place(item), **more, **logprobs)

    def _place(self, item: _Item) -> Payload:
        counter = "summary_index" if item.kind == "reasoning" else "content_index"
        return {"item_id": item.payload["id"], "output_index": self._index, counter: len(item.contents) - 1}

    def _close_content(self, item: _Item) -> list[bytes]:
        if not item.contents:
            return []
        content = item.contents[-1]
        place = "refusal" if content["type"] == "refusal" else "text"
        return [self._content_event(item, "done", **{place: content[place]}), self._part_event(item, "done")]

    def _close(self) -> list[bytes]:
        """Return the events that close the open item."""
        item = self._open
        if item is None:
            return []
        events = self._close_content(item)
        item.payload["summary" if item.kind == "reasoning" else "content"] = item.contents
        if "status" in item.payload:
            item.payload["status"] = "completed"
        events.append(self._event("response.output_item.done", output_index=self._index, item=item.payload))
        self._output.append(item.payload)
        self._open = None
        return events

    def _sign(self, signature: str) -> list[bytes]:
        """Put the provider's own item of reasoning in place of the open one."""
        kept = _object(signature)
        if kept.get("type") != "reasoning":
            return []
        if self._open is None or self._open.kind != "reasoning":
            return [*self._close(), *self._whole(_Item("reasoning", kept))]
        summary = self._open.contents or kept.get("summary") or []
        self._open.payload = {**kept, "id": self._open.payload["id"]}
        self._open.contents = summary
        return self._close()

    def _whole(self, item: _Item) -> list[bytes]:
        """Return the events of an item that comes at once."""
        events = [
            self._event(f"response.output_item.{state}", output_index=self._index, item=item.payload)
            for state in ("added", "done")
        ]
        self._output.append(item.payload)
        return events

    def _call(self, call: ToolCall) -> list[bytes]:
        item = _item(call, self._info.id, self._index)
        if item is None or item.kind != "function_call":
            return [] if item is None else self._whole(item)
        started = {**item.payload, "status": "in_progress", "arguments": ""}
        place = {"item_id": item.payload["id"], "output_index": self._index}
        events = [
            self._event("response.output_item.added", output_index=self._index, item=started),
            self._event("response.function_call_arguments.delta", **place, delta=call.arguments),
            self._event("response.function_call_arguments.done", **place, arguments=call.arguments, name=call.name),
            self._event("response.output_item.done", output_index=self._index, item=item.payload),
        ]
        self._output.append(item.payload)
        return events

    def _event(self, kind: str, **fields: object) -> bytes:
        payload = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(payload))


DIALECT: Final = Dialect(
    name="openai_responses",
    wires=frozenset({"openai_responses"}),
    parse=parse,
    encode=encode,
    open_stream=ResponseStream,
    encode_error=encode_openai_error,
)
