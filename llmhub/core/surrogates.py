"""Halves of surrogate pairs in a stream, as servers send them that cut text by UTF-16 units, joined to characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from llmhub.core.stream import Delta, Fragment, PartKey, repair_surrogates
from llmhub.core.types import Part, Reasoning, Refusal, Text, ToolCall


class SurrogateJoiner:
    """Joins surrogate pairs that a stream cuts in two, so that the text of each delta is valid Unicode."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[PartKey, str] = {}

    def join(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        """Return ``deltas`` with the first half of a pair held back until the second one arrives."""
        if not self._held:
            # A loop, since this runs for every event of every stream.
            for delta in deltas:
                if type(delta) is Fragment and _has_surrogate(delta.part):
                    break
            else:
                return deltas
        return tuple([self._join(delta) if isinstance(delta, Fragment) else delta for delta in deltas])

    def flush(self) -> tuple[Delta, ...]:
        """Return a replacement character for each half that is still held back at the end of the stream."""
        held, self._held = self._held, {}
        return tuple(Fragment(index, GROWING_PARTS[kind]("�"), choice, key) for choice, index, key, kind in held)

    def _join(self, fragment: Fragment) -> Fragment:
        part = fragment.part
        text = _growing_text(part)
        part_key = (fragment.choice, fragment.index, fragment.key, type(part))
        if not text:
            return fragment
        text = self._held.pop(part_key, "") + text
        if text[-1] in HIGH_SURROGATES:
            self._held[part_key] = text[-1]
            text = text[:-1]
        text = repair_surrogates(text)
        match part:
            case ToolCall():
                part = replace(part, arguments=text)
            case Text() | Refusal() | Reasoning():
                part = replace(part, text=text)
            case _:  # no other part grows
                pass
        return replace(fragment, part=part)


HIGH_SURROGATES: Final = frozenset(map(chr, range(0xD800, 0xDC00)))
"""First halves of surrogate pairs."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
GROWING_PARTS: Final[Mapping[type[Part], Callable[[str], Part]]] = {
    Text: Text,
    Refusal: Refusal,
    Reasoning: Reasoning,
    ToolCall: lambda arguments: ToolCall("", "", arguments),
}
"""Part of each type whose text a stream sends in pieces, from one such piece."""


def _growing_text(part: Part) -> str:
    """Return the text of a part that a stream sends in pieces."""
    if isinstance(part, (Text, Refusal, Reasoning)):
        return part.text
    return part.arguments if isinstance(part, ToolCall) else ""


def _has_surrogate(part: Part) -> bool:
    text = part.text if type(part) is Text else _growing_text(part)
    return not text.isascii() and _SURROGATE.search(text) is not None
