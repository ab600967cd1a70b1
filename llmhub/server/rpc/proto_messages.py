"""Convert the messages of ``connector.proto`` to requests, and responses to messages. Pure: nothing is read or sent."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import msgspec

from llmhub.core.budget import NANO_PER_USD
from llmhub.core.errors import invalid
from llmhub.core.stream import Delta, Fragment
from llmhub.core.types import (
    TOKEN_CLASSES,
    CacheMark,
    Choice,
    CompletionRequest,
    CompletionResponse,
    Document,
    Image,
    Logprobs,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmhub.server.dialects.dialect import ParsedRequest, ReplyInfo
from llmhub.server.dialects.hub_completions import MAX_RESPONSES, PARAMS
from llmhub.server.dialects.part_stream import PartStream
from llmhub.server.dialects.reading import check_urls, document, image
from llmhub.server.rpc import connector_pb2 as pb

# Requests


def to_request(message: pb.CompletionRequest) -> ParsedRequest:
    """Convert a request.

    Raises
    ------
    ConnectorError
        It cannot be expressed; the path is the place in the message.
    """
    if message.HasField("prompt") == bool(message.messages):
        raise invalid("$.prompt", "pass either prompt or messages")
    messages: list[Message] = [Message("system", message.system)] if message.HasField("system") else []
    if message.HasField("prompt"):
        messages.append(Message("user", message.prompt))
    messages += [_to_message(each, f"$.messages[{index}]") for index, each in enumerate(message.messages)]
    params = {name: getattr(message, name) for name in PARAMS if message.HasField(name)}
    if not 1 <= params.get("n", 1) <= MAX_RESPONSES:
        raise invalid("$.n", f"must be from 1 to {MAX_RESPONSES}, not {params['n']}")
    request = CompletionRequest(
        model=f"{message.provider}/{message.model}" if message.provider else message.model,
        messages=tuple(messages),
        stop=tuple(message.stop),
        tools=tuple(_to_tool(each, f"$.tools[{index}]") for index, each in enumerate(message.tools)),
        response_schema=_to_schema(message.response_schema) if message.HasField("response_schema") else None,
        **params,
    )
    return ParsedRequest(request=request, stream=False)


def _to_message(message: pb.Message, path: str) -> Message:
    # The role is checked with the rest of the request.
    return Message(cast("Role", message.role), tuple(_to_parts(message.parts, path)))


def _to_parts(parts: Iterable[pb.Part], path: str) -> Iterator[Part]:
    """Yield the parts of a message; log probabilities of an earlier response are not sent back."""
    for index, each in enumerate(parts):
        part = _to_part(each, f"{path}.parts[{index}]")
        if part is not None:
            yield part


def _to_part(part: pb.Part, path: str) -> Part | None:  # noqa: C901, PLR0911 - one for each type
    match part.WhichOneof("content"):
        case "text":
            return Text(part.text)
        case "image":
            media = part.image
            return image(
                f"{path}.image",
                url=media.url,
                data=_base64(media.data),
                media_type=media.media_type,
                detail=media.detail,
            )
        case "document":
            media = part.document
            return document(
                f"{path}.document",
                url=media.url,
                data=_base64(media.data),
                media_type=media.media_type,
                name=media.name,
            )
        case "tool_call":
            call = part.tool_call
            return ToolCall(call.id, call.name, call.arguments or "{}", call.signature)
        case "tool_result":
            return _to_tool_result(part.tool_result, f"{path}.tool_result")
        case "reasoning":
            return Reasoning(part.reasoning.text, part.reasoning.signature, part.reasoning.redacted)
        case "refusal":
            return Refusal(part.refusal)
        case "opaque":
            check_urls(_json_object(part.opaque.data, f"{path}.opaque.data"), f"{path}.opaque.data")
            return Opaque(part.opaque.kind, part.opaque.data)
        case "cache_mark":
            return CacheMark(part.cache_mark.ttl)
        case "logprobs":
            return None
        case _:
            raise invalid(path, "has no content")


def _to_tool_result(result: pb.ToolResult, path: str) -> ToolResult:
    parts = tuple(_to_parts(result.parts, path))
    content: list[Text | Image] = []
    for index, part in enumerate(parts):
        if not isinstance(part, (Text, Image)):
            raise invalid(f"{path}.parts[{index}]", "must be a text or an image")
        content.append(part)
    if len(content) == 1 and isinstance(content[0], Text):
        return ToolResult(result.id, content[0].text, result.name, result.is_error)
    return ToolResult(result.id, tuple(content) or "", result.name, result.is_error)


def _to_tool(tool: pb.Tool, path: str) -> Tool:
    parameters = _json_object(tool.parameters, f"{path}.parameters") if tool.parameters else {}
    return Tool(tool.name, tool.description, parameters, tool.strict if tool.HasField("strict") else None)


def _to_schema(schema: pb.ResponseSchema) -> Schema:
    strict = schema.strict if schema.HasField("strict") else True
    return Schema(_json_object(schema.schema, "$.response_schema.schema"), schema.name or "answer", strict)


def _json_object(text: str, path: str) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid(path, f"must be JSON text: {error}") from None
    if not isinstance(value, dict):
        raise invalid(path, f"must be a JSON object, not {type(value).__name__}")
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Responses


def from_response(response: CompletionResponse, info: ReplyInfo) -> pb.CompletionResponse:
    """Return the message of a response with its cost."""
    usage = {name: count for name in TOKEN_CLASSES if (count := getattr(response.usage, name)) is not None}
    return pb.CompletionResponse(
        id=info.id,
        model=info.model,
        text=_valid(response.text),
        parts=_from_parts(response.parts),
        finish_reason=response.finish_reason,
        others=[_from_choice(choice) for choice in response.others],
        usage=pb.Usage(**usage),
        served_model=_valid(response.served_model),
        cost_nano_usd=_nano_usd(info.cost_usd),
        list_cost_nano_usd=_nano_usd(info.list_cost_usd),
        cache_hit=info.cache_hit,
        attempts=info.attempts,
        latency_s=info.latency_s,
        dropped_params=info.dropped,
    )


def _nano_usd(cost: Decimal | None) -> int | None:
    return None if cost is None else int((cost * NANO_PER_USD).to_integral_value())


def _from_choice(choice: Choice) -> pb.Choice:
    return pb.Choice(text=_valid(choice.text), parts=_from_parts(choice.parts), finish_reason=choice.finish_reason)


def _from_parts(parts: Iterable[Part]) -> list[pb.Part]:
    return [_from_part(part) for part in parts]


def _from_part(part: Part) -> pb.Part:  # noqa: C901, PLR0911 - one for each type
    match part:
        case Text(text):
            return pb.Part(text=_valid(text))
        case Image(url, data, media_type, detail):
            return pb.Part(image=_from_media(url, data, media_type, detail=detail))
        case Document(url, data, media_type, name):
            return pb.Part(document=_from_media(url, data, media_type, name=name))
        case ToolCall():
            return pb.Part(tool_call=from_tool_call(part))
        case ToolResult(call_id, content, name, is_error):
            inner = (Text(content),) if isinstance(content, str) else content
            result = pb.ToolResult(id=_valid(call_id), parts=_from_parts(inner), name=_valid(name), is_error=is_error)
            return pb.Part(tool_result=result)
        case Reasoning(text, signature, redacted):
            return pb.Part(reasoning=pb.Reasoning(text=_valid(text), signature=signature, redacted=redacted))
        case Refusal(text):
            return pb.Part(refusal=_valid(text))
        case Opaque(kind, data):
            return pb.Part(opaque=pb.Opaque(kind=_valid(kind), data=_valid(data)))
        case CacheMark(ttl):
            return pb.Part(cache_mark=pb.CacheMark(ttl=ttl))
        case Logprobs():
            tokens = [
                pb.TokenLogprob(
                    token=_valid(each.token),
                    logprob=each.logprob,
                    top=[pb.TokenLogprob(token=_valid(token), logprob=logprob) for token, logprob in each.top],
                )
                for each in part.tokens
            ]
            return pb.Part(logprobs=pb.Logprobs(tokens=tokens))


def _from_media(url: str, data: str, media_type: str, **more: str) -> pb.Media:
    return pb.Media(url=url, data=base64.b64decode(data), media_type=media_type, **more)


def from_tool_call(call: ToolCall) -> pb.ToolCall:
    """Return the message of a tool call."""
    return pb.ToolCall(
        id=_valid(call.id), name=_valid(call.name), arguments=_valid(call.arguments), signature=_valid(call.signature)
    )


def _valid(text: str) -> str:
    r"""Return text that UTF-8 can encode: a lone surrogate, which JSON can hold, is replaced.

    Examples
    --------
    >>> ascii(_valid("caf\u00e9 \ud800")), ascii(_valid("\ud83d\ude00"))
    ("'caf\\xe9 \\ufffd'", "'\\U0001f600'")
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Streams


class ChunkStream:
    """Convert one streamed response to chunks; content that waits to be written is joined.

    Examples
    --------
    >>> stream = ChunkStream()
    >>> stream.feed([Fragment(0, Text("He")), Fragment(0, Text("llo"))])
    True
    >>> [chunk.text for chunk in stream.take()], stream.take()
    (['Hello'], [])
    """

    def __init__(self) -> None:
        self._parts = PartStream()
        self._waiting: list[tuple[str, list[str]]] = []
        self._last: list[pb.CompletionChunk] = []

    def feed(self, deltas: Sequence[Delta]) -> bool:
        """Add new content; return whether there is any to write."""
        self._add(self._parts.feed(deltas))
        return bool(self._waiting)

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> None:
        """Add the content that was not fed, the calls, and the whole response."""
        self._add(self._parts.rest(response))
        self._last += [pb.CompletionChunk(tool_call=from_tool_call(call)) for call in response.tool_calls]
        self._last.append(pb.CompletionChunk(response=from_response(response, info)))

    def take(self) -> list[pb.CompletionChunk]:
        """Return the chunks that wait, and forget them."""
        joined = [(kind, _valid("".join(texts))) for kind, texts in self._waiting]
        chunks = [
            pb.CompletionChunk(text=t) if kind == "text" else pb.CompletionChunk(reasoning=t) for kind, t in joined
        ]
        chunks += self._last
        self._waiting, self._last = [], []
        return chunks

    def _add(self, fragments: Iterable[Fragment]) -> None:
        for fragment in fragments:
            match fragment.part:
                case Text(text) if not fragment.choice:
                    kind = "text"
                case Reasoning(text) if text and not fragment.choice:
                    kind = "reasoning"
                case _:
                    continue
            if not self._waiting or self._waiting[-1][0] != kind:
                self._waiting.append((kind, []))
            self._waiting[-1][1].append(text)


def _content_chunk(kind: str, text: str) -> pb.CompletionChunk:
    valid = _valid(text)
    return pb.CompletionChunk(text=valid) if kind == "text" else pb.CompletionChunk(reasoning=valid)
