"""Ids for tool calls that came without one, so that a result can name the call it answers.

Total readers of untrusted JSON: whatever comes, each gives a value of its type.

Where a wrong type must be an error rather than an absence, `require_list` says at which ``$.path``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.types import Part, ToolCall

GENERATED_ID_PREFIX: Final = "call_made_"
"""How an id begins that was made here."""


def generate_call_id(origin: str, name: str, arguments: str, before: Iterable[Part]) -> str:
    """Make an id of the answer's id, what is called, and how often the same was called ``before``.

    The same answer gives the same ids, however it came; two answers give different ones.

    Examples
    --------
    >>> generate_call_id("r1", "f", "{}", [])
    'call_made_4b7873...'
    >>> generate_call_id("r1", "f", "{}", [ToolCall("", "f", "{}")]) == generate_call_id("r1", "f", "{}", [])
    False
    """
    times = sum(isinstance(part, ToolCall) and (part.name, part.arguments) == (name, arguments) for part in before)
    content = "\n".join((origin, name, arguments, str(times))).encode("utf-8", "surrogatepass")
    return GENERATED_ID_PREFIX + hashlib.sha256(content).hexdigest()[:16]


_EMPTY: Final[Mapping[str, object]] = {}


_COMPACT: Final = msgspec.json.Encoder()


def as_mapping(value: object) -> Mapping[str, object]:
    """Give an object, or an empty one.

    Examples
    --------
    >>> as_mapping(None)
    {}
    """
    return value if isinstance(value, dict) else _EMPTY


def as_list(value: object) -> list[object]:
    """Give a list, or an empty one."""
    return value if isinstance(value, list) else []


def iter_objects(value: object) -> Iterator[Mapping[str, object]]:
    """Give the objects of a list, passing over what is none."""
    return (item for item in as_list(value) if isinstance(item, dict))


def as_text(value: object) -> str:
    """Give a string, or an empty one."""
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int | None:
    """Give a count: a whole number from 0 that an int64 holds, or ``None``.

    Examples
    --------
    >>> as_count(3), as_count(3.0), as_count(-1), as_count(True), as_count("3")
    (3, 3, None, None, None)
    """
    if type(value) is int:
        return value if 0 <= value < 1 << 63 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value) if 0 <= value < 1 << 63 else None


def sum_counts(*counts: int | None) -> int | None:
    """Add counts, an absent one being nothing; ``None`` when all are absent.

    Examples
    --------
    >>> sum_counts(1, None, 2), sum_counts(None)
    (3, None)
    """
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def capped_count(whole: int | None, *names: object) -> int | None:
    """Take the first count that was said, and of it no more than its whole.

    Examples
    --------
    >>> capped_count(3, None, 5), capped_count(None, 5), capped_count(3)
    (3, 5, None)
    """
    part = next((found for name in names if (found := as_count(name)) is not None), None)
    return part if part is None or whole is None else min(part, whole)


def encode_compact(value: object) -> str:
    """Write JSON without white space: how a tool call's arguments are held.

    Examples
    --------
    >>> encode_compact({"a": [1, 2]})
    '{"a":[1,2]}'
    """
    try:
        return _COMPACT.encode(value).decode()
    except RecursionError:  # what was read at the edge of the stack may be one level too deep to write
        return '"nested too deeply"'


def require_list(payload: Mapping[str, object], name: str) -> Result[list[object], LLMError]:
    """Give the list under ``name``, or say that it is none."""
    value = payload.get(name)
    if isinstance(value, list):
        return Success(value)
    found = "nothing" if value is None else f"a {type(value).__name__}"
    return Failure(Malformed(path=f"$.{name}", message=f"expected a list, found {found}"))
