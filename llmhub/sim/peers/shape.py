"""The shape of a payload as a table of rules: which fields there are, of what kind, and within which bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

INFINITY: Final = float("inf")
NUMBER: Final = (int, float)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field may be; bounds are of a number's value or a list's length (a text has a lower one).

    No kinds: anything. ``items`` is the kind of what a list holds.
    """

    kinds: tuple[type, ...] = ()
    low: float = -INFINITY
    high: float = INFINITY
    needed: bool = False
    items: type | None = None


ANYTHING: Final = Rule()


def free(spaced: str) -> dict[str, Rule]:
    """Let fields be anything, given their names with spaces between.

    Examples
    --------
    >>> list(free("store user"))
    ['store', 'user']
    """
    return dict.fromkeys(spaced.split(), ANYTHING)


@dataclass(frozen=True, slots=True)
class Violation:
    """The first thing wrong with a payload: which field, in what way, and the rule it breaks."""

    name: str
    what: Literal["missing", "unknown", "kind", "low", "high"]
    value: object
    rule: Rule


def violation(payload: Mapping[str, object], rules: Mapping[str, Rule]) -> Violation | None:
    """Find the first thing wrong with a payload; a ``null`` is a field left out. Needed fields lead the table.

    Examples
    --------
    >>> rules = {"model": Rule((str,), needed=True), "temperature": Rule(NUMBER, 0, 2)}
    >>> violation({"model": "m", "temperature": 3}, rules).what
    'high'
    >>> violation({"temperature": 1}, rules).name, violation({"model": "m", "colour": 1}, rules).what
    ('model', 'unknown')
    """
    for name, rule in rules.items():
        if not rule.needed:
            break
        if payload.get(name) is None:
            return Violation(name, "missing", None, rule)
    for name, value in payload.items():
        known = rules.get(name)
        wrong = Violation(name, "unknown", value, ANYTHING) if known is None else _judge(name, value, known)
        if wrong is not None:
            return wrong
    return None


def _judge(name: str, value: object, rule: Rule) -> Violation | None:
    """Hold one value against its rule."""
    if value is None or not rule.kinds:
        return None
    if type(value) not in rule.kinds:
        return Violation(name, "kind", value, rule)
    size = _size(value)
    if size < rule.low:
        return Violation(name, "low", value, rule)
    if size > rule.high and not isinstance(value, str):
        return Violation(name, "high", value, rule)
    if rule.items is None or not isinstance(value, list):
        return None
    odd = next((at for at, item in enumerate(value) if type(item) is not rule.items), None)
    return None if odd is None else Violation(f"{name}[{odd}]", "kind", value[odd], Rule((rule.items,)))


def _size(value: object) -> float:
    if isinstance(value, (int, float)):
        return value
    return len(value) if isinstance(value, (str, list, dict)) else 0


def mapping(value: object) -> dict[str, object]:
    """Give an object, or an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> Iterator[dict[str, object]]:
    """Give the objects of a list."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def word(value: object) -> str:
    """Give a text, or an empty one."""
    return value if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """Give a whole number, or ``None``."""
    return value if type(value) is int else int(value) if isinstance(value, float) and value.is_integer() else None


def words(value: object) -> tuple[str, ...]:
    """Give one text or a list of them as a tuple."""
    return (value,) if isinstance(value, str) else tuple(map(word, value)) if isinstance(value, list) else ()


def chosen(payload: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """Pick the fields that are set, each under llmhub's own name.

    Examples
    --------
    >>> chosen({"topP": 0.5, "topK": None}, {"topP": "top_p", "topK": "top_k"})
    {'top_p': 0.5}
    """
    return {ours: payload[theirs] for theirs, ours in names.items() if payload.get(theirs) is not None}


PIECE: Final = re.compile(r"\S+\s*|\s+")


def pieces(text: str, size: int) -> list[str]:
    """Cut a text into pieces of ``size`` words, losing nothing.

    Examples
    --------
    >>> pieces(" One two  three.", 2)
    [' One ', 'two  three.']
    """
    words_of_it = PIECE.findall(text)
    return ["".join(words_of_it[at : at + size]) for at in range(0, len(words_of_it), size)]


def fragments(text: str, size: int) -> list[str]:
    """Cut a text into pieces of ``size`` characters.

    Examples
    --------
    >>> fragments('{"a":1}', 3)
    ['{"a', '":1', '}']
    """
    return [text[at : at + size] for at in range(0, len(text), size)]


def declared(tools: object) -> Iterator[tuple[str, object]]:
    """Give the names and schemas of tools as OpenAI and those who follow it declare them.

    Examples
    --------
    >>> list(declared([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]))
    [('look', {'type': 'object'})]
    """
    for tool in objects(tools):
        about = mapping(tool.get("function")) or tool
        if tool.get("type", "function") == "function":
            yield word(about.get("name")), about.get("parameters") or NOTHING


NOTHING: Final[dict[str, object]] = {"type": "object", "properties": {}}
"""The schema of a tool that takes no arguments."""
