"""What the wires share in writing turns: which parts may stand where, and what goes beside or inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeGuard

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Unsupported
from llmhub.core.payload import parse
from llmhub.core.types import (
    CacheMark,
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

_ASKING: Final = frozenset({Text, Refusal, Image, Document, ToolResult, Opaque, CacheMark})
SAYABLE: Final[Mapping[Role, frozenset[type[Part]]]] = {
    "system": frozenset({Text, Opaque, CacheMark}),
    "user": _ASKING,
    "tool": _ASKING,
    "assistant": frozenset({Text, Refusal, Reasoning, ToolCall, Opaque, CacheMark}),
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


def marked(blocks: list[Payload], said: Payload, path: str) -> LLMError | None:
    """Put the mark that a prompt may be kept up to here on the last of ``blocks``; say where there is none.

    Examples
    --------
    >>> blocks = [{"type": "text", "text": "a"}]
    >>> marked(blocks, {"cache_control": {"type": "ephemeral"}}, "$"), blocks[0]["cache_control"]
    (None, {'type': 'ephemeral'})
    >>> marked([], {}, "$.messages[0].parts[0]").path
    '$.messages[0].parts[0]'
    """
    if not blocks:
        return Unsupported(path=path, message="a cache mark without content before it cannot be said on this wire")
    blocks[-1] = {**blocks[-1], **said}
    return None


def lasting(mark: CacheMark, **said: str) -> Payload:
    """Say how a prompt is kept, and how long where the mark says it.

    Examples
    --------
    >>> lasting(CacheMark("1h"), type="ephemeral"), lasting(CacheMark(), mode="explicit")
    ({'type': 'ephemeral', 'ttl': '1h'}, {'mode': 'explicit'})
    """
    return {**said, **({"ttl": mark.ttl} if mark.ttl else {})}


def pieces(
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


def unmarked(result: ToolResult, path: str) -> LLMError | None:
    """Refuse to say that a tool's result is an error, where the wire has no place for it.

    Examples
    --------
    >>> unmarked(ToolResult("1", "no such file", is_error=True), "$.messages[0].parts[0]").path
    '$.messages[0].parts[0].is_error'
    """
    if not result.is_error:
        return None
    said = "that a result is an error cannot be said on this wire; say so in its content, and leave is_error out"
    return Unsupported(path=f"{path}.is_error", message=said)


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
