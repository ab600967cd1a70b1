"""Ids for tool calls that came without one, so that a result can name the call it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from llmhub.core.types import Part, ToolCall

MADE: Final = "call_made_"
"""How an id begins that was made here."""


def make(origin: str, name: str, arguments: str, before: Iterable[Part]) -> str:
    """Make an id of the answer's id, what is called, and how often the same was called ``before``.

    The same answer gives the same ids, however it came; two answers give different ones.

    Examples
    --------
    >>> make("r1", "f", "{}", [])
    'call_made_4b7873...'
    >>> make("r1", "f", "{}", [ToolCall("", "f", "{}")]) == make("r1", "f", "{}", [])
    False
    """
    times = sum(isinstance(part, ToolCall) and (part.name, part.arguments) == (name, arguments) for part in before)
    content = "\n".join((origin, name, arguments, str(times))).encode("utf-8", "surrogatepass")
    return MADE + hashlib.sha256(content).hexdigest()[:16]
