"""Encoding that the wires share: parameters by table, the parts a message may hold, cache marks, media, tool results.

Source of ``data:`` URLs: https://www.rfc-editor.org/rfc/rfc2397 (read 2026-11-22).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeGuard
from urllib.parse import unquote_to_bytes

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import DROP_HINT, InvalidRequest, LLMError, Unsupported
from llmhub.core.payload import parse_json_object
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    Document,
    Image,
    Opaque,
    Part,
    Payload,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)

# Parameters

SAMPLING_FIELDS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "parallel_tool_calls",
    "n",
    "logprobs",
    "user",
)
"""Fields of a request that wires encode by table, in the order in which they are validated."""

UNSET_VALUES: Final = {"stop": (), "n": 1}
"""Value of an unset field, where it is not ``None``."""


@dataclass(frozen=True, slots=True)
class Param:
    """One row of a wire's ``PARAMS``: a field, its name on the wire, and the range of its value (or of its length)."""

    field: str
    name: str
    minimum: float = float("-inf")
    maximum: float = float("inf")


def encode_parameters(request: CompletionRequest, table: Iterable[Param]) -> Result[Payload, LLMError]:
    """Encode the parameters that are set, each under its name on the wire.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> request = CompletionRequest(model="m", messages=(Message("user", "hi"),), temperature=3)
    >>> encode_parameters(request, [Param("temperature", "temperature", 0, 1)]).failure().message
    'temperature=3.0 is outside 0..1'
    >>> encode_parameters(request, []).failure().path
    '$.temperature'
    """
    rows = {row.field: row for row in table}
    payload: Payload = {}
    for field in SAMPLING_FIELDS:
        value = getattr(request, field)
        if value == UNSET_VALUES.get(field):
            continue
        row = rows.get(field)
        if row is None:
            return Failure(unsupported_parameter(field, f"this API has no {field}"))
        size = len(value) if isinstance(value, tuple) else value
        if not isinstance(size, str) and not row.minimum <= size <= row.maximum:
            message = f"{field}={value!r} is outside {row.minimum:g}..{row.maximum:g}"
            return Failure(InvalidRequest(path=f"$.{field}", message=message))
        payload[row.name] = list(value) if isinstance(value, tuple) else value
    return Success(payload)


def unsupported_parameter(field: str, message: str) -> Unsupported:
    """Return the error of a request's parameter that a wire cannot encode, with the hint to drop it."""
    return Unsupported(path=f"$.{field}", message=message, hint=DROP_HINT)


# Messages and their parts

_USER_PARTS: Final = frozenset({Text, Refusal, Image, Document, ToolResult, Opaque, CacheMark})
ALLOWED_PARTS: Final[Mapping[Role, frozenset[type[Part]]]] = {
    "system": frozenset({Text, Opaque, CacheMark}),
    "user": _USER_PARTS,
    "tool": _USER_PARTS,
    "assistant": frozenset({Text, Refusal, Reasoning, ToolCall, Opaque, CacheMark}),
}
"""Parts that a message may hold by its role, on wires that put tool results into a user message."""

CITATION: Final = "citation"
"""Kind of the `Opaque` part that holds one citation of the text before it."""


def check_part_allowed(part: Part, role: Role, path: str) -> LLMError | None:
    """Return an error if a message of ``role`` cannot hold ``part``, else ``None``.

    Examples
    --------
    >>> check_part_allowed(ToolResult("1"), "assistant", "$").message
    'this API takes no ToolResult in an assistant message'
    """
    if type(part) in ALLOWED_PARTS[role]:
        return None
    article = "an" if role == "assistant" else "a"
    message = f"this API takes no {type(part).__name__} in {article} {role} message"
    return Unsupported(path=path, message=message)


def foreign_part_error(part: Part, path: str) -> Unsupported:
    """Return the error of a part that came from another API and that this one cannot take."""
    kind = part.kind if isinstance(part, Opaque) and part.kind else type(part).__name__
    return Unsupported(path=path, message=f"{kind} came from another API; this one does not take it")


def merge_adjacent_messages(messages: Iterable[tuple[str, list[Payload]]]) -> list[tuple[str, list[Payload]]]:
    """Merge neighbouring messages of the same role, their blocks in order, for wires whose roles must alternate.

    Examples
    --------
    >>> merge_adjacent_messages([("user", [{"text": "a"}]), ("user", [{"text": "b"}]), ("assistant", [])])
    [('user', [{'text': 'a'}, {'text': 'b'}]), ('assistant', [])]
    """
    merged: list[tuple[str, list[Payload]]] = []
    for role, blocks in messages:
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(blocks)
        else:
            merged.append((role, list(blocks)))
    return merged


def is_citation(part: Part) -> TypeGuard[Opaque]:
    """Return whether a part is one citation."""
    return isinstance(part, Opaque) and part.kind == CITATION


def citation_error(path: str) -> Unsupported:
    """Return the error of a citation that follows no text."""
    return Unsupported(path=path, message="a citation needs text before it")


def decode_opaque(part: Opaque) -> Payload:
    """Return the object that a part holds as JSON text, an empty one if it holds none.

    Examples
    --------
    >>> decode_opaque(Opaque("mark", '{"type": "mark"}')), decode_opaque(Opaque("mark", "[]"))
    ({'type': 'mark'}, {})
    """
    return parse_json_object(part.data.encode("utf-8", "surrogatepass")).value_or({})


# Cache marks


def cache_control(mark: CacheMark, **fields: str) -> Payload:
    """Return ``fields`` with the mark's time to live, if it has one.

    Examples
    --------
    >>> cache_control(CacheMark("1h"), type="ephemeral"), cache_control(CacheMark(), mode="explicit")
    ({'type': 'ephemeral', 'ttl': '1h'}, {'mode': 'explicit'})
    """
    return {**fields, **({"ttl": mark.ttl} if mark.ttl else {})}


def attach_cache_mark(blocks: list[Payload], fields: Mapping[str, object], path: str) -> LLMError | None:
    """Add ``fields`` to the last of ``blocks``, up to which the prompt may be cached; return an error if there is none.

    Examples
    --------
    >>> blocks = [{"type": "text", "text": "a"}]
    >>> attach_cache_mark(blocks, {"cache_control": {"type": "ephemeral"}}, "$"), blocks[0]["cache_control"]
    (None, {'type': 'ephemeral'})
    >>> attach_cache_mark([], {}, "$.messages[0].parts[0]").path
    '$.messages[0].parts[0]'
    """
    if not blocks:
        return Unsupported(path=path, message="a cache mark needs content before it", hint=DROP_HINT)
    blocks[-1] = {**blocks[-1], **fields}
    return None


# Images and documents


def inline_data(part: Image | Document) -> tuple[str, str] | None:
    """Return the media type and the base64 data of a part, or ``None`` if it has an address instead.

    The media type is empty where the part does not name it.

    Examples
    --------
    >>> inline_data(Image(url="data:image/png;base64,iVBORw0K"))
    ('image/png', 'iVBORw0K')
    >>> inline_data(Document(url="data:,a%20b"))
    ('text/plain', 'YSBi')
    >>> inline_data(Image(url="https://example.org/a.png")) is None
    True
    """
    if not part.url.startswith("data:"):
        return None if part.url else (part.media_type, part.data)
    header, _, body = part.url.removeprefix("data:").partition(",")
    media_type, *attributes = header.split(";")
    raw = body.encode("utf-8", "surrogatepass")
    data = body if "base64" in attributes else base64.b64encode(unquote_to_bytes(raw)).decode()
    return media_type or part.media_type or "text/plain", data


def media_type_error(media_type: str, path: str) -> LLMError:
    """Return the error of inline data without a media type, or with one that the wire does not take.

    Examples
    --------
    >>> media_type_error("", "$.messages[0].parts[0]").path, media_type_error("image/tiff", "$").message
    ('$.messages[0].parts[0].media_type', 'this API takes no inline image/tiff')
    """
    if media_type:
        return Unsupported(path=path, message=f"this API takes no inline {media_type}")
    message = "inline data needs a media type, such as image/png or application/pdf"
    return InvalidRequest(path=f"{path}.media_type", message=message)


def image_detail_error(part: Image | Document, path: str) -> LLMError | None:
    """Return an error if an image asks for a level of detail, for wires that have none."""
    if isinstance(part, Document) or part.detail in {"", "auto"}:
        return None
    return Unsupported(path=path, message="this API has no detail of an image")


# Tool calls and results


def decode_arguments(call: ToolCall, path: str) -> Result[Payload, LLMError]:
    """Return a call's arguments as an object; ``path`` is the call's.

    Examples
    --------
    >>> decode_arguments(ToolCall("1", "f", '{"a": 1}'), "$").unwrap()
    {'a': 1}
    >>> decode_arguments(ToolCall("1", "f", "[]"), "$.messages[0].parts[1]").failure().path
    '$.messages[0].parts[1].arguments'
    """
    parsed = parse_json_object(call.arguments.strip().encode("utf-8", "surrogatepass") or b"{}")
    if is_successful(parsed):
        return parsed
    message = f"the arguments of {call.name!r} are not a JSON object: {parsed.failure().message}"
    return Failure(InvalidRequest(path=f"{path}.arguments", message=message))


def encode_result_parts(
    result: ToolResult, path: str, encode_part: Callable[[Part, str], Result[Payload, LLMError]]
) -> Result[list[Payload], LLMError]:
    """Encode the content of a tool's result part by part; a string is one text."""
    parts = (Text(result.content),) if isinstance(result.content, str) else result.content
    blocks: list[Payload] = []
    for index, part in enumerate(parts):
        encoded = encode_part(part, f"{path}.content[{index}]")
        if not is_successful(encoded):
            return Failure(encoded.failure())
        blocks.append(encoded.unwrap())
    return Success(blocks)


def check_no_error_flag(result: ToolResult, path: str) -> LLMError | None:
    """Return an error if a tool's result is marked as an error, for wires that have no such mark.

    Examples
    --------
    >>> check_no_error_flag(ToolResult("1", "no such file", is_error=True), "$.messages[0].parts[0]").path
    '$.messages[0].parts[0].is_error'
    """
    if not result.is_error:
        return None
    message = "this API cannot mark a tool's result as an error; describe the error in its content"
    return Unsupported(path=f"{path}.is_error", message=message, hint=DROP_HINT)
