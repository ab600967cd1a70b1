"""Pictures and files as their bytes: what a ``data:`` URL holds, or what was given inline.

Source: https://www.rfc-editor.org/rfc/rfc2397 (read 2026-11-22).

What the wires share in writing turns: which parts may stand where, and what goes beside or inside them.

What every wire's ``encode`` does alike: sampling parameters by table, ranges checked before sending.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeGuard
from urllib.parse import unquote_to_bytes

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Unsupported
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


def inline_data(part: Image | Document) -> tuple[str, str] | None:
    """Give the media type and the base64 data, or ``None`` where the part is held by its address.

    The media type is empty where nobody said it.

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
    head, _, body = part.url.removeprefix("data:").partition(",")
    kind, *parameters = head.split(";")
    whole = body.encode("utf-8", "surrogatepass")
    data = body if "base64" in parameters else base64.b64encode(unquote_to_bytes(whole)).decode()
    return kind or part.media_type or "text/plain", data


_USER_PARTS: Final = frozenset({Text, Refusal, Image, Document, ToolResult, Opaque, CacheMark})


ALLOWED_PARTS: Final[Mapping[Role, frozenset[type[Part]]]] = {
    "system": frozenset({Text, Opaque, CacheMark}),
    "user": _USER_PARTS,
    "tool": _USER_PARTS,
    "assistant": frozenset({Text, Refusal, Reasoning, ToolCall, Opaque, CacheMark}),
}
"""Which parts a turn may hold where tool results stand in the user's turn."""


CITATION: Final = "citation"
"""Kind of the `Opaque` part that holds one citation of the text before it."""


def is_citation(part: Part) -> TypeGuard[Opaque]:
    """Say whether a part is one citation."""
    return isinstance(part, Opaque) and part.kind == CITATION


def decode_opaque(part: Opaque) -> Payload:
    """Give the object that a part keeps as JSON text; an empty one where it keeps none.

    Examples
    --------
    >>> decode_opaque(Opaque("mark", '{"type": "mark"}')), decode_opaque(Opaque("mark", "[]"))
    ({'type': 'mark'}, {})
    """
    return parse_json_object(part.data.encode("utf-8", "surrogatepass")).value_or({})


def attach_cache_mark(blocks: list[Payload], said: Payload, path: str) -> LLMError | None:
    """Put the mark that a prompt may be kept up to here on the last of ``blocks``; say where there is none.

    Examples
    --------
    >>> blocks = [{"type": "text", "text": "a"}]
    >>> attach_cache_mark(blocks, {"cache_control": {"type": "ephemeral"}}, "$"), blocks[0]["cache_control"]
    (None, {'type': 'ephemeral'})
    >>> attach_cache_mark([], {}, "$.messages[0].parts[0]").path
    '$.messages[0].parts[0]'
    """
    if not blocks:
        return Unsupported(path=path, message="a cache mark without content before it cannot be said on this wire")
    blocks[-1] = {**blocks[-1], **said}
    return None


def cache_control(mark: CacheMark, **said: str) -> Payload:
    """Say how a prompt is kept, and how long where the mark says it.

    Examples
    --------
    >>> cache_control(CacheMark("1h"), type="ephemeral"), cache_control(CacheMark(), mode="explicit")
    ({'type': 'ephemeral', 'ttl': '1h'}, {'mode': 'explicit'})
    """
    return {**said, **({"ttl": mark.ttl} if mark.ttl else {})}


def encode_result_parts(
    result: ToolResult, path: str, write: Callable[[Part, str], Result[Payload, LLMError]]
) -> Result[list[Payload], LLMError]:
    """Write what a tool answered piece by piece; a plain text is one."""
    blocks: list[Payload] = []
    for index, piece in enumerate((Text(result.content),) if isinstance(result.content, str) else result.content):
        written = write(piece, f"{path}.content[{index}]")
        if not is_successful(written):
            return Failure(written.failure())
        blocks.append(written.unwrap())
    return Success(blocks)


def check_no_error_flag(result: ToolResult, path: str) -> LLMError | None:
    """Refuse to say that a tool's result is an error, where the wire has no place for it.

    Examples
    --------
    >>> check_no_error_flag(ToolResult("1", "no such file", is_error=True), "$.messages[0].parts[0]").path
    '$.messages[0].parts[0].is_error'
    """
    if not result.is_error:
        return None
    said = "that a result is an error cannot be said on this wire; say so in its content, and leave is_error out"
    return Unsupported(path=f"{path}.is_error", message=said)


def check_part_allowed(part: Part, role: Role, path: str) -> LLMError | None:
    """Say that ``part`` cannot stand in a turn of ``role``; ``None`` where it can.

    Examples
    --------
    >>> check_part_allowed(ToolResult("1"), "assistant", "$").message
    'a ToolResult cannot stand in a turn of the assistant on this wire'
    """
    if type(part) in ALLOWED_PARTS[role]:
        return None
    said = f"a {type(part).__name__} cannot stand in a turn of the {role} on this wire"
    return Unsupported(path=path, message=said)


def media_type_error(media_type: str, path: str) -> LLMError:
    """Say that inline data lacks its media type, or has one that the wire does not take.

    Examples
    --------
    >>> media_type_error("", "$.messages[0].parts[0]").path, media_type_error("image/tiff", "$").message
    ('$.messages[0].parts[0].media_type', 'image/tiff cannot be said inline on this wire')
    """
    if media_type:
        return Unsupported(path=path, message=f"{media_type} cannot be said inline on this wire")
    return InvalidRequest(
        path=f"{path}.media_type", message="inline data needs its media type, such as image/png or application/pdf"
    )


def merge_adjacent_turns(turns: Iterable[tuple[str, list[Payload]]]) -> list[tuple[str, list[Payload]]]:
    """Make one turn of neighbours that have the same role, their blocks in order.

    Examples
    --------
    >>> merge_adjacent_turns([("user", [{"text": "a"}]), ("user", [{"text": "b"}]), ("assistant", [])])
    [('user', [{'text': 'a'}, {'text': 'b'}]), ('assistant', [])]
    """
    whole: list[tuple[str, list[Payload]]] = []
    for role, blocks in turns:
        if whole and whole[-1][0] == role:
            whole[-1][1].extend(blocks)
        else:
            whole.append((role, list(blocks)))
    return whole


def decode_arguments(call: ToolCall, path: str) -> Result[Payload, LLMError]:
    """Give a call's arguments as the object they spell; ``path`` is the call's.

    Examples
    --------
    >>> decode_arguments(ToolCall("1", "f", '{"a": 1}'), "$").unwrap()
    {'a': 1}
    >>> decode_arguments(ToolCall("1", "f", "[]"), "$.messages[0].parts[1]").failure().path
    '$.messages[0].parts[1].arguments'
    """
    read = parse_json_object(call.arguments.strip().encode("utf-8", "surrogatepass") or b"{}")
    if is_successful(read):
        return read
    said = f"the arguments of {call.name!r} are no JSON object: {read.failure().message}"
    return Failure(InvalidRequest(path=f"{path}.arguments", message=said))


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
"""Fields of a request that are parameters of the answer, in the order they are checked."""


UNSET_VALUES: Final = {"stop": (), "n": 1}
"""The value of a field that was not set, where it is not ``None``."""


@dataclass(frozen=True, slots=True)
class Param:
    """One row of a wire's ``PARAMS``: a field, its name on the wire, and the range it must be in (or its length)."""

    field: str
    name: str
    minimum: float = float("-inf")
    maximum: float = float("inf")


def encode_parameters(request: CompletionRequest, table: Iterable[Param]) -> Result[Payload, LLMError]:
    """Write the sampling parameters that are set, each under its wire's name.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), temperature=3)
    >>> encode_parameters(ask, [Param("temperature", "temperature", 0, 1)]).failure().message
    'temperature=3.0 is outside 0..1'
    >>> encode_parameters(ask, []).failure().path
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
            return Failure(Unsupported(path=f"$.{field}", message=f"{field} cannot be said on this wire"))
        size = len(value) if isinstance(value, tuple) else value
        if not isinstance(size, str) and not row.minimum <= size <= row.maximum:
            said = f"{field}={value!r} is outside {row.minimum:g}..{row.maximum:g}"
            return Failure(InvalidRequest(path=f"$.{field}", message=said))
        payload[row.name] = list(value) if isinstance(value, tuple) else value
    return Success(payload)
