"""What every wire's ``encode`` does alike: sampling parameters by table, ranges checked before sending.

And what the wires share on which roles alternate and a call's arguments are an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeGuard

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Unsupported
from llmhub.core.provider import parse
from llmhub.core.types import (
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

SAMPLING: Final = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "user",
)
"""Fields of a request that are parameters of the answer, in the order they are checked."""
UNSET: Final = {"stop": (), "n": 1}
"""The value of a field that was not set, where it is not ``None``."""


@dataclass(frozen=True, slots=True)
class Param:
    """One row of a wire's ``PARAMS``: a field, its name on the wire, and the range it must be in (or its length)."""

    field: str
    name: str
    low: float = float("-inf")
    high: float = float("inf")


def parameters(request: CompletionRequest, table: Iterable[Param]) -> Result[Payload, LLMError]:
    """Write the sampling parameters that are set, each under its wire's name.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), temperature=3)
    >>> parameters(ask, [Param("temperature", "temperature", 0, 1)]).failure().message
    'temperature=3.0 is outside 0..1'
    >>> parameters(ask, []).failure().path
    '$.temperature'
    """
    rows = {row.field: row for row in table}
    payload: Payload = {}
    for field in SAMPLING:
        value = getattr(request, field)
        if value == UNSET.get(field):
            continue
        row = rows.get(field)
        if row is None:
            return Failure(Unsupported(path=f"$.{field}", message=f"{field} cannot be said on this wire"))
        size = len(value) if isinstance(value, tuple) else value
        if not isinstance(size, str) and not row.low <= size <= row.high:
            said = f"{field}={value!r} is outside {row.low:g}..{row.high:g}"
            return Failure(InvalidRequest(path=f"$.{field}", message=said))
        payload[row.name] = list(value) if isinstance(value, tuple) else value
    return Success(payload)


_ASKING: Final = frozenset({Text, Refusal, Image, Document, ToolResult, Opaque})
SAYABLE: Final[Mapping[Role, frozenset[type[Part]]]] = {
    "system": frozenset({Text, Opaque}),
    "user": _ASKING,
    "tool": _ASKING,
    "assistant": frozenset({Text, Refusal, Reasoning, ToolCall, Opaque}),
}
"""Which parts a turn may hold where tool results stand in the user's turn."""
CITATION: Final = "citation"
"""Kind of the `Opaque` part that holds one citation of the text before it."""


def cites(part: Part) -> TypeGuard[Opaque]:
    """Say whether a part is one citation."""
    return isinstance(part, Opaque) and part.kind == CITATION


def kept(part: Opaque) -> Payload:
    """Give the object that a part keeps as JSON text; an empty one where it keeps none.

    Examples
    --------
    >>> kept(Opaque("mark", '{"type": "mark"}')), kept(Opaque("mark", "[]"))
    ({'type': 'mark'}, {})
    """
    return parse(part.data.encode("utf-8", "surrogatepass")).value_or({})


def misplaced(part: Part, role: Role, path: str) -> LLMError | None:
    """Say that ``part`` cannot stand in a turn of ``role``; ``None`` where it can.

    Examples
    --------
    >>> misplaced(ToolResult("1"), "assistant", "$").message
    'a ToolResult cannot stand in a turn of the assistant on this wire'
    """
    if type(part) in SAYABLE[role]:
        return None
    said = f"a {type(part).__name__} cannot stand in a turn of the {role} on this wire"
    return Unsupported(path=path, message=said)


def unfit(media_type: str, path: str) -> LLMError:
    """Say that inline data lacks its media type, or has one that the wire does not take.

    Examples
    --------
    >>> unfit("", "$.messages[0].parts[0]").path, unfit("image/tiff", "$").message
    ('$.messages[0].parts[0].media_type', 'image/tiff cannot be said inline on this wire')
    """
    if media_type:
        return Unsupported(path=path, message=f"{media_type} cannot be said inline on this wire")
    return InvalidRequest(
        path=f"{path}.media_type", message="inline data needs its media type, such as image/png or application/pdf"
    )


def joined(turns: Iterable[tuple[str, list[Payload]]]) -> list[tuple[str, list[Payload]]]:
    """Make one turn of neighbours that have the same role, their blocks in order.

    Examples
    --------
    >>> joined([("user", [{"text": "a"}]), ("user", [{"text": "b"}]), ("assistant", [])])
    [('user', [{'text': 'a'}, {'text': 'b'}]), ('assistant', [])]
    """
    whole: list[tuple[str, list[Payload]]] = []
    for role, blocks in turns:
        if whole and whole[-1][0] == role:
            whole[-1][1].extend(blocks)
        else:
            whole.append((role, list(blocks)))
    return whole


def unpacked(call: ToolCall, path: str) -> Result[Payload, LLMError]:
    """Give a call's arguments as the object they spell; ``path`` is the call's.

    Examples
    --------
    >>> unpacked(ToolCall("1", "f", '{"a": 1}'), "$").unwrap()
    {'a': 1}
    >>> unpacked(ToolCall("1", "f", "[]"), "$.messages[0].parts[1]").failure().path
    '$.messages[0].parts[1].arguments'
    """
    read = parse(call.arguments.strip().encode("utf-8", "surrogatepass") or b"{}")
    if is_successful(read):
        return read
    said = f"the arguments of {call.name!r} are no JSON object: {read.failure().message}"
    return Failure(InvalidRequest(path=f"{path}.arguments", message=said))
