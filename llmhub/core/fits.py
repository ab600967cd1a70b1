"""Whether plain JSON fits a JSON schema, as far as answers are asked by one: types, fields, enums, items, choices.

Bounds (``minimum``, ``maxLength``, ``pattern``, ...) are looked at, too, whoever was asked: not every provider holds to
them. A ``format`` is not.
Source: https://json-schema.org/draft/2020-12/json-schema-validation (read 2026-11-27).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)) and value == value // 1,
    "number": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _amount(broken: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, bound: KINDS["number"](value) and KINDS["number"](bound) and broken(value, bound)


def _size(kind: str, broken: Callable[[int, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, bound: KINDS[kind](value) and KINDS["number"](bound) and broken(len(value), bound)


def _uneven(value: Any, step: Any) -> bool:
    """Say whether a number is no multiple, as it is written in decimals."""
    try:
        return Decimal(str(value)) % Decimal(str(step)) != 0
    except InvalidOperation:  # a step of nought, or digits beyond all measure
        return False


def _unlike(value: Any, pattern: Any) -> bool:
    """Say whether a text does not match; a pattern that Python cannot read rules nothing out."""
    try:
        return isinstance(value, str) and isinstance(pattern, str) and re.search(pattern, value) is None
    except re.error:
        return False


def _repeated(value: Any, wanted: Any) -> bool:
    if wanted is not True or not isinstance(value, list):
        return False
    return any(one in value[:at] for at, one in enumerate(value))


BOUNDS: Final[Mapping[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "minimum": (_amount(lambda value, bound: value < bound), "is below"),
    "maximum": (_amount(lambda value, bound: value > bound), "is above"),
    "exclusiveMinimum": (_amount(lambda value, bound: value <= bound), "is not above"),
    "exclusiveMaximum": (_amount(lambda value, bound: value >= bound), "is not below"),
    "multipleOf": (_amount(_uneven), "is no multiple of"),
    "minLength": (_size("string", lambda size, bound: size < bound), "is shorter than"),
    "maxLength": (_size("string", lambda size, bound: size > bound), "is longer than"),
    "pattern": (_unlike, "does not match"),
    "minItems": (_size("array", lambda size, bound: size < bound), "has fewer items than"),
    "maxItems": (_size("array", lambda size, bound: size > bound), "has more items than"),
    "uniqueItems": (_repeated, "has equal items, but uniqueItems is"),
    "minProperties": (_size("object", lambda size, bound: size < bound), "has fewer fields than"),
    "maxProperties": (_size("object", lambda size, bound: size > bound), "has more fields than"),
}
"""When a value breaks a bound, and how that is said."""
DEEPEST: Final = 200
"""Pointers followed in a row: more of them point in a circle."""


def misfit(value: Any, schema: Any, root: Mapping[str, Any], path: str = "$") -> str:
    """Say where and why a value does not fit; nothing where it does.

    Examples
    --------
    >>> schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    >>> misfit({"n": 1}, schema, schema), misfit({"n": "1"}, schema, schema), misfit({}, schema, schema)
    ('', "$.n: '1' is no integer", '$: the field n is missing')
    """
    node = resolved(schema, root)
    if not isinstance(node, Mapping):
        return ""
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        return _of_choices(value, choices, root, path)
    kinds = node.get("type")
    wanted = [kinds] if isinstance(kinds, str) else list(kinds or ())
    if wanted and not any(KINDS.get(kind, _any)(value) for kind in wanted):
        return f"{path}: {_shown(value)} is no {' or '.join(wanted)}"
    allowed = node["enum"] if "enum" in node else [node["const"]] if "const" in node else None
    if allowed is not None and value not in allowed:
        return f"{path}: {_shown(value)} is none of {', '.join(map(repr, allowed))}"
    for keyword, (broken, said) in BOUNDS.items():
        if keyword in node and broken(value, node[keyword]):
            return f"{path}: {_shown(value)} {said} {node[keyword]}"
    return _inside(value, node, root, path)


def resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """Follow the pointers of a schema into the definitions of its root."""
    for _ in range(DEEPEST):
        pointer = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(pointer, str):
            return schema
        schema = root
        for step in pointer.removeprefix("#").strip("/").split("/"):
            schema = schema.get(step, {}) if step and isinstance(schema, Mapping) else schema
    return {}


def _inside(value: Any, node: Mapping[str, Any], root: Mapping[str, Any], path: str) -> str:
    """Look at fields and items."""
    if isinstance(value, Mapping):
        fields = node.get("properties") or {}
        missing = next((name for name in node.get("required") or () if name not in value), None)
        if missing is not None:
            return f"{path}: the field {missing} is missing"
        extra = next((name for name in value if name not in fields), None)
        if extra is not None and node.get("additionalProperties") is False:
            return f"{path}: there is no field {extra}"
        found = (misfit(value[name], one, root, f"{path}.{name}") for name, one in fields.items() if name in value)
        return next(filter(None, found), "")
    if isinstance(value, list) and "items" in node:
        return next(
            filter(None, (misfit(one, node["items"], root, f"{path}[{at}]") for at, one in enumerate(value))), ""
        )
    return ""


def _of_choices(value: Any, choices: Any, root: Mapping[str, Any], path: str) -> str:
    wrongs = [misfit(value, choice, root, path) for choice in choices]
    if not all(wrongs):
        return ""
    # The one that came furthest says most.
    return max(wrongs, key=lambda wrong: wrong.partition(": ")[0].count("."))


def _any(_value: Any) -> bool:
    return True


def _shown(value: Any) -> str:
    return "text" if isinstance(value, str) and len(value) > 40 else f"{value!r:.60}"  # noqa: PLR2004 - long enough to tell
