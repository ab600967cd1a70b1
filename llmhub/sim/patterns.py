"""Texts that a regular expression matches, spelled out along its own parse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from re import _parser  # type: ignore[attr-defined]  # isort: skip - the parser of the library that will check it

Pick: TypeAlias = Callable[[str, int], int]
"""Choose a number below the second argument, for the purpose that the first one names."""

CATEGORIES: Final = {"CATEGORY_DIGIT": "0123456789", "CATEGORY_SPACE": " ", "CATEGORY_NOT_DIGIT": "abcdefgh"}
WORDLY: Final = "abcdefghijklmnopqrstuvwxyz"
PRINTABLE: Final = "".join(map(chr, range(32, 127)))
MORE: Final = 3
"""How often more than it must be something is repeated, at most."""


def spell(pattern: str, pick: Pick) -> str | None:
    r"""Spell a text that ``re.search`` finds the pattern in; ``None`` where that cannot be done so simply.

    Examples
    --------
    >>> spell(r"^[A-Z]{2}-\d{3}$", lambda purpose, below: 0)
    'AA-000'
    >>> spell("(", lambda purpose, below: 0) is None
    True
    """
    try:
        said = _sequence(_parser.parse(pattern), pick, "")
        return said if re.search(pattern, said) else None
    except (re.error, ValueError, OverflowError, RecursionError, MemoryError):
        return None


def _sequence(steps: Iterable[tuple[Any, Any]], pick: Pick, at: str) -> str:
    return "".join(_step(str(kind), value, pick, f"{at}.{index}") for index, (kind, value) in enumerate(steps))


def _step(kind: str, value: Any, pick: Pick, at: str) -> str:
    """Spell one step; what only looks ahead or holds a place spells nothing."""
    match kind:
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
            allowed = _allowed(value if kind == "IN" else [(kind, value)])
            return allowed[pick(at, len(allowed))]
        case "BRANCH":
            branches = value[1]
            return _sequence(branches[pick(at, len(branches))], pick, at)
        case "SUBPATTERN":
            return _sequence(value[-1], pick, at)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            low, high, repeated = value
            times = low + pick(at, min(int(high) - low, MORE) + 1)
            return "".join(_sequence(repeated, pick, f"{at}#{turn}") for turn in range(times))
        case _:
            return ""


def _allowed(members: Iterable[tuple[Any, Any]]) -> str:
    """Give the characters of a set, those first that it names."""
    named, negated = "", False
    for kind, value in members:
        match str(kind):
            case "NEGATE":
                negated = True
            case "NOT_LITERAL":
                named, negated = chr(value), True
            case "LITERAL":
                named += chr(value)
            case "RANGE":
                named += "".join(map(chr, range(value[0], min(value[1], value[0] + 127) + 1)))
            case _:
                named += CATEGORIES.get(str(value), WORDLY)
    return "".join(one for one in PRINTABLE if one not in named) if negated else named
