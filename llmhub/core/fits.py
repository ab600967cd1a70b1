"""Whether plain JSON fits a JSON schema, as far as answers are asked by one: types, fields, enums, items, choices.

Keywords that bound a value (``minimum``, ``pattern``, ...) are not looked at; a pydantic model checks them itself.
Source: https://json-schema.org/draft/2020-12/json-schema-validation (read 2026-11-27).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
