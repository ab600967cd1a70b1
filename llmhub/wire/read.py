"""Total readers of untrusted JSON: whatever comes, each gives a value of its type.

Where a wrong type must be an error rather than an absence, `expect_items` says at which ``$.path``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed

_EMPTY: Final[Mapping[str, object]] = {}
_COMPACT: Final = msgspec.json.Encoder()


def mapping(value: object) -> Mapping[str, object]:
    """Give an object, or an empty one.

    Examples
    --------
    >>> mapping(None)
    {}
    """
    return value if isinstance(value, dict) else _EMPTY


def items(value: object) -> list[object]:
    """Give a list, or an empty one."""
    return value if isinstance(value, list) else []


def objects(value: object) -> Iterator[Mapping[str, object]]:
    """Give the objects of a list, passing over what is none."""
    return (item for item in items(value) if isinstance(item, dict))


def text(value: object) -> str:
    """Give a string, or an empty one."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """Give a count: a whole number from 0 that an int64 holds, or ``None``.

    Examples
    --------
    >>> count(3), count(3.0), count(-1), count(True), count("3")
    (3, 3, None, None, None)
    """
    if type(value) is int:
        return value if 0 <= value < 1 << 63 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value) if 0 <= value < 1 << 63 else None


def total(*counts: int | None) -> int | None:
    """Add counts, an absent one being nothing; ``None`` when all are absent.

    Examples
    --------
    >>> total(1, None, 2), total(None)
    (3, None)
    """
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def within(whole: int | None, *names: object) -> int | None:
    """Take the first count that was said, and of it no more than its whole.

    Examples
    --------
    >>> within(3, None, 5), within(None, 5), within(3)
    (3, 5, None)
    """
    part = next((found for name in names if (found := count(name)) is not None), None)
    return part if part is None or whole is None else min(part, whole)


def compact(value: object) -> str:
    """Write JSON without white space: how a tool call's arguments are held.

    Examples
    --------
    >>> compact({"a": [1, 2]})
    '{"a":[1,2]}'
    """
    try:
        return _COMPACT.encode(value).decode()
    except RecursionError:  # what was read at the edge of the stack may be one level too deep to write
        return '"nested too deeply"'


def expect_items(payload: Mapping[str, object], name: str) -> Result[list[object], LLMError]:
    """Give the list under ``name``, or say that it is none."""
    value = payload.get(name)
    if isinstance(value, list):
        return Success(value)
    found = "nothing" if value is None else f"a {type(value).__name__}"
    return Failure(Malformed(path=f"$.{name}", message=f"expected a list, found {found}"))
