"""Rules for the fields of a payload: type, bounds, required or not; and helpers to read untrusted JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

INFINITY: Final = float("inf")
NUMBER: Final = (int, float)


@dataclass(frozen=True, slots=True)
class FieldRule:
    """Permitted values of a field.

    Bounds apply to the value of a number and the length of a list; a string has only a minimum length. Without types,
    any value is permitted. ``item_type`` is the type of a list's items.
    """

    types: tuple[type, ...] = ()
    minimum: float = -INFINITY
    maximum: float = INFINITY
    required: bool = False
    item_type: type | None = None


ANY_VALUE: Final = FieldRule()


def unchecked_fields(spaced: str) -> dict[str, FieldRule]:
    """Return rules that permit any value, for names separated by spaces.

    Examples
    --------
    >>> list(unchecked_fields("store user"))
    ['store', 'user']
    """
    return dict.fromkeys(spaced.split(), ANY_VALUE)


@dataclass(frozen=True, slots=True)
class RuleViolation:
    """The first violation of a payload: the field, the kind of violation, the value and the rule."""

    name: str
    kind: Literal["missing", "unknown", "kind", "low", "high"]
    value: object
    rule: FieldRule


def find_violation(payload: Mapping[str, object], rules: Mapping[str, FieldRule]) -> RuleViolation | None:
    """Return the first violation of a payload, or ``None``; ``null`` counts as absent.

    Required fields must come first in ``rules``.

    Examples
    --------
    >>> rules = {"model": FieldRule((str,), required=True), "temperature": FieldRule(NUMBER, 0, 2)}
    >>> find_violation({"model": "m", "temperature": 3}, rules).kind
    'high'
    >>> find_violation({"temperature": 1}, rules).name, find_violation({"model": "m", "colour": 1}, rules).kind
    ('model', 'unknown')
    """
    for name, rule in rules.items():
        if not rule.required:
            break
        if payload.get(name) is None:
            return RuleViolation(name, "missing", None, rule)
    for name, value in payload.items():
        if name not in rules:
            return RuleViolation(name, "unknown", value, ANY_VALUE)
        violation = _check_value(name, value, rules[name])
        if violation is not None:
            return violation
    return None


def _check_value(name: str, value: object, rule: FieldRule) -> RuleViolation | None:
    """Check one value."""
    if value is None or not rule.types:
        return None
    if type(value) not in rule.types:
        return RuleViolation(name, "kind", value, rule)
    size = _size(value)
    if size < rule.minimum:
        return RuleViolation(name, "low", value, rule)
    if size > rule.maximum and not isinstance(value, str):
        return RuleViolation(name, "high", value, rule)
    if rule.item_type is None or not isinstance(value, list):
        return None
    odd = next((position for position, item in enumerate(value) if type(item) is not rule.item_type), None)
    return None if odd is None else RuleViolation(f"{name}[{odd}]", "kind", value[odd], FieldRule((rule.item_type,)))


def _size(value: object) -> float:
    if isinstance(value, (int, float)):
        return value
    return len(value) if isinstance(value, (str, list, dict)) else 0


def as_mapping(value: object) -> dict[str, object]:
    """Return ``value`` if it is an object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def iter_objects(value: object) -> Iterator[dict[str, object]]:
    """Return the objects of a list, skipping all other items."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def as_text(value: object) -> str:
    """Return ``value`` if it is a string, otherwise an empty one."""
    return value if isinstance(value, str) else ""


def as_integer(value: object) -> int | None:
    """Return an integral number as an integer, otherwise ``None``."""
    return value if type(value) is int else int(value) if isinstance(value, float) and value.is_integer() else None


def as_texts(value: object) -> tuple[str, ...]:
    """Return one string or a list of strings as a tuple."""
    return (value,) if isinstance(value, str) else tuple(map(as_text, value)) if isinstance(value, list) else ()


def rename_set_fields(payload: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """Return the fields that are set, renamed by ``names``.

    Examples
    --------
    >>> rename_set_fields({"topP": 0.5, "topK": None}, {"topP": "top_p", "topK": "top_k"})
    {'top_p': 0.5}
    """
    return {ours: payload[theirs] for theirs, ours in names.items() if payload.get(theirs) is not None}


WORD_WITH_SPACE: Final = re.compile(r"\S+\s*|\s+")


def split_words(text: str, size: int) -> list[str]:
    """Split a text after every ``size`` words; white space is kept.

    Examples
    --------
    >>> split_words(" One two  three.", 2)
    [' One ', 'two  three.']
    """
    words_of_it = WORD_WITH_SPACE.findall(text)
    return ["".join(words_of_it[position : position + size]) for position in range(0, len(words_of_it), size)]


def split_characters(text: str, size: int) -> list[str]:
    """Split a text after every ``size`` characters.

    Examples
    --------
    >>> split_characters('{"a":1}', 3)
    ['{"a', '":1', '}']
    """
    return [text[position : position + size] for position in range(0, len(text), size)]


def declared_tools(tools: object) -> Iterator[tuple[str, object]]:
    """Yield the names and schemas of tools in OpenAI's notation.

    Examples
    --------
    >>> list(declared_tools([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]))
    [('look', {'type': 'object'})]
    """
    for tool in iter_objects(tools):
        about = as_mapping(tool.get("function")) or tool
        if tool.get("type", "function") == "function":
            yield as_text(about.get("name")), about.get("parameters") or NO_PARAMETERS


NO_PARAMETERS: Final[dict[str, object]] = {"type": "object", "properties": {}}
"""Schema of a tool without arguments."""
