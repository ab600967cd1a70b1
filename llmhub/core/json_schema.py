"""JSON schemas of types, responses parsed to typed values, and JSON checked against a schema.

A response type is a JSON schema, a pydantic model, a dataclass, or any other type that msgspec knows (``TypedDict``,
``NamedTuple``, an enum, ``list[int]``, ``Literal[...]``). pydantic is never imported: a model has its own methods, and
a type that only contains models is handled by the pydantic that defined them.

Providers enforce a schema only if it is strict: every object is closed and has only required fields. Schemas made of
types are strict, defaults included, since a model cannot omit a field. Providers also require an object at the top; any
other type is wrapped in an object with the single field `WRAPPER_KEY`.

Not every provider enforces constraints (``minimum``, ``maxLength``, ``pattern``), so parsed JSON is always checked.
``format`` is not checked.

Sources: https://platform.openai.com/docs/guides/structured-outputs,
https://platform.claude.com/docs/en/build-with-claude/structured-outputs and
https://json-schema.org/draft/2020-12/json-schema-validation (read 2026-11-27).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, get_args

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Malformed
from llmhub.core.types import Choice, CompletionResponse, Payload, Schema

ResponseParser: TypeAlias = Callable[[str], Result[Any, LLMError]]
"""Text of a response to its value, or to `Malformed`."""

WRAPPER_KEY: Final = "value"
"""Field of the object that wraps a type which is not an object."""
DEFAULT_NAME: Final = "answer"
"""Name of a schema without a title."""
MAX_NAME_LENGTH: Final = 64
INVALID_NAME_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9_-]+")
CODE_FENCE: Final = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL)
KEYWORDS_OF_NAMED_SCHEMAS: Final = frozenset({"properties", "$defs", "definitions", "patternProperties"})
"""Keywords whose value maps names to schemas."""
KEYWORDS_OF_VALUES: Final = frozenset({"enum", "const", "default", "examples", "required"})
"""Keywords whose value is not a schema."""
MSGSPEC_PATH: Final = re.compile(r"^(.*?) - at `(.*)`$", re.DOTALL)
"""A msgspec error: message and path."""
FINISH_REASON_CAUSES: Final[Mapping[str, str]] = {
    "length": "the response was cut off; raise max_tokens",
    "refusal": "the model refused",
    "content_filter": "the response was filtered",
    "tool_calls": "the model called tools instead of responding",
}
"""Likely causes of a response that does not match, by finish reason."""


def schema_of(response_type: object, name: str = "") -> Result[Schema, LLMError]:
    """Return the schema of a response type.

    Parameters
    ----------
    response_type
        JSON schema as a mapping, pydantic model, dataclass, other type that msgspec knows, or `Schema` (returned as it
        is).
    name
        Name to send to the provider; by default that of the type, or the title of the schema.

    Returns
    -------
    Result[Schema, LLMError]
        `InvalidRequest` for anything else.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    ...     age: int = 0
    >>> schema = schema_of(Person).unwrap()
    >>> schema.name, schema.schema["required"], schema.schema["additionalProperties"], schema.strict
    ('Person', ['name', 'age'], False, True)
    """
    if isinstance(response_type, Schema):
        return Success(response_type)
    if isinstance(response_type, Mapping):
        return _from_mapping(response_type, name)
    try:
        raw = _type_schema(response_type)
    except (TypeError, ValueError, AttributeError, RecursionError, NameError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        return _invalid_type(
            f"{response_type!r:.80} has no schema ({reason}); pass a JSON schema, pydantic model or dataclass"
        )
    root = _wrap(_inline_root(raw))
    schema = _require_all_fields(_close_objects(root), root)
    title = name or getattr(response_type, "__name__", "")
    return Success(Schema(schema, _schema_name(title), strict=_is_strict(schema)))


def _from_mapping(response_type: Mapping[Any, Any], name: str) -> Result[Schema, LLMError]:
    """Return a schema as its author wrote it, but with closed objects."""
    if not response_type or not all(isinstance(key, str) for key in response_type):
        example = "{'type': 'object', 'properties': {...}}"
        return _invalid_type(f"{response_type!r:.80} is not a JSON schema; pass a mapping such as {example}")
    try:
        schema = _close_objects(dict(response_type))
        is_strict = _is_strict(schema)
    except RecursionError:
        return _invalid_type("the schema is nested too deeply")
    return Success(Schema(schema, _schema_name(name or str(response_type.get("title", ""))), strict=is_strict))


def _invalid_type(message: str) -> Result[Schema, LLMError]:
    return Failure(InvalidRequest(path="$.response_schema", message=message))


def is_wrapped(schema: Schema) -> bool:
    """Return whether a schema is that of an object which wraps another type."""
    return schema.schema.get("title") == WRAPPER_KEY and schema.schema.get("required") == [WRAPPER_KEY]


def response_parser(response_type: object) -> Result[ResponseParser, LLMError]:
    """Return a function that parses the text of a response to a value of type ``response_type``.

    A mapping or a `Schema` yields plain JSON values, checked against it.

    Examples
    --------
    >>> parse_text = response_parser(list[int]).unwrap()
    >>> parse_text('{"value": [1, 2]}').unwrap()
    [1, 2]
    >>> parse_text('{"value": ["x"]}').failure().path
    '$[0]'
    """
    result = schema_of(response_type)
    if not is_successful(result):
        return Failure(result.failure())
    schema = result.unwrap()
    is_json_schema = isinstance(response_type, (Mapping, Schema))
    unwrap = not is_json_schema and is_wrapped(schema)
    decode = _value_decoder(response_type)

    def parse_text(text: str) -> Result[Any, LLMError]:
        try:
            body = _strip_fence(text).encode()
            value = decode(_unwrap(body) if unwrap else body)
            # Types check their own values.
            violation = schema_violation(value, schema.schema, schema.schema) if is_json_schema else None
        except (ValueError, TypeError, RecursionError) as error:
            return Failure(_parse_error(error, schema.name))
        if violation is not None:
            return Failure(Malformed(path=violation.path, message=f"not a {schema.name}: {violation.message}"))
        return Success(value)

    return Success(parse_text)


def parse(response: CompletionResponse | Choice | str, response_type: object) -> Result[Any, LLMError]:
    """Parse a response to a value of the type, model or schema that was requested.

    Returns
    -------
    Result[Any, LLMError]
        `Malformed` with the path of the first mismatch, and the cause if the response was cut off or refused;
        `InvalidRequest` if ``response_type`` is neither a type nor a schema.

    Examples
    --------
    >>> parse('{"name": "Ada"}', {"type": "object"}).unwrap()
    {'name': 'Ada'}
    """
    text = response if isinstance(response, str) else response.text
    parsed: Result[Any, LLMError] = response_parser(response_type).bind(lambda parse_text: parse_text(text))
    if is_successful(parsed) or isinstance(response, str) or not isinstance(parsed.failure(), Malformed):
        return parsed
    cause = FINISH_REASON_CAUSES.get(response.finish_reason)
    return parsed if cause is None else Failure(Malformed(path="$", message=f"{cause}: {parsed.failure().message}"))


def extract_json(text: str) -> str | None:
    """Return the JSON of a response, compact and without a code fence; ``None`` if the text is not JSON.

    Examples
    --------
    >>> extract_json('{ "a": 1 }'), extract_json("Sorry!")
    ('{"a":1}', None)
    """
    try:
        body = _strip_fence(text).encode()
        msgspec.json.decode(body)
        return msgspec.json.format(body, indent=-1).decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _strip_fence(text: str) -> str:
    fenced = CODE_FENCE.fullmatch(text)
    return fenced[1] if fenced else text


def _parse_error(error: Exception, name: str) -> LLMError:
    """Convert an error of pydantic or msgspec to `Malformed` with its path."""
    errors = getattr(error, "errors", None)
    if callable(errors):  # pydantic.ValidationError
        first: Mapping[str, Any] = next(iter(errors()), {})
        path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first.get("loc", ()))
        return Malformed(path=f"${path}", message=f"not a {name}: {first.get('msg', error)}")
    match = MSGSPEC_PATH.match(str(error))
    path, message = (match[2], match[1]) if match else ("$", str(error))
    return Malformed(path=path, message=f"not a {name}: {message}")


# Types


def _type_schema(response_type: Any) -> Payload:
    """Return the JSON schema that pydantic or msgspec makes of a type."""
    if not (isinstance(response_type, type) or get_args(response_type)):
        raise TypeError("it is a value, not a type")
    if hasattr(response_type, "model_json_schema"):
        return dict(response_type.model_json_schema())
    if _uses_pydantic(response_type):
        return dict(_type_adapter(response_type).json_schema())
    return dict(msgspec.json.schema(response_type))


def _value_decoder(response_type: Any) -> Callable[[bytes], Any]:
    """Return the function that decodes JSON to a value of the type; it raises ``ValueError`` on a mismatch."""
    if isinstance(response_type, (Mapping, Schema)):
        return msgspec.json.decode
    if hasattr(response_type, "model_validate_json"):
        validate: Callable[[bytes], Any] = response_type.model_validate_json
        return validate
    if _uses_pydantic(response_type):
        adapted: Callable[[bytes], Any] = _type_adapter(response_type).validate_json
        return adapted
    return msgspec.json.Decoder(response_type).decode


def _uses_pydantic(response_type: Any) -> bool:
    """Return whether a type is a pydantic dataclass, or generic in a pydantic type."""
    return hasattr(response_type, "__pydantic_core_schema__") or any(map(_uses_pydantic, get_args(response_type)))


def _type_adapter(response_type: Any) -> Any:
    return sys.modules["pydantic"].TypeAdapter(response_type)  # imported already, since its types are


# Transformations of schemas


def map_subschemas(change: Callable[[Any], Any], key: str, value: Any) -> Any:
    """Return the value of a keyword with ``change`` applied to the schemas in it."""
    if key in KEYWORDS_OF_NAMED_SCHEMAS and isinstance(value, Mapping):
        return {name: change(schema) for name, schema in value.items()}
    return value if key in KEYWORDS_OF_VALUES else change(value)


def _inline_root(raw: Payload) -> Payload:
    """Replace a ``$ref`` at the top by its target, and remove definitions that nothing refers to."""
    root = _inline_ref(raw, raw)
    definitions = raw.get("$defs")
    body = {key: value for key, value in root.items() if key != "$defs"}
    if not isinstance(definitions, dict) or b"#/$defs/" not in msgspec.json.encode([body, definitions]):
        return body
    used = {name: schema for name, schema in definitions.items() if _is_referenced(name, [body, definitions])}
    return {**body, "$defs": used} if used else body


def _inline_ref(node: Payload, raw: Payload) -> Payload:
    definitions = raw.get("$defs")
    target = definitions.get(_definition_name(node)) if isinstance(definitions, dict) else None
    if not isinstance(target, dict):
        return node
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _definition_name(node: Payload) -> str:
    return str(node.get("$ref", "")).removeprefix("#/$defs/")


def _is_referenced(name: str, schema: object) -> bool:
    return msgspec.json.encode(f"#/$defs/{name}") in msgspec.json.encode(schema)


def _wrap(schema: Payload) -> Payload:
    """Wrap the schema of anything but an object in an object."""
    if "properties" in schema or schema.get("type") == "object":
        return schema
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    return {
        "title": WRAPPER_KEY,
        "type": "object",
        "properties": {WRAPPER_KEY: inner},
        "required": [WRAPPER_KEY],
        **definitions,
    }


def _unwrap(body: bytes) -> bytes:
    """Return the JSON within the wrapper; JSON without one is returned as it is."""
    value = msgspec.json.decode(body)
    is_wrapper = isinstance(value, dict) and value.keys() == {WRAPPER_KEY}
    return msgspec.json.encode(value[WRAPPER_KEY]) if is_wrapper else body


def _close_objects(node: Any) -> Any:
    """Add ``additionalProperties: false`` to every object that names its fields and does not mention others."""
    if isinstance(node, (list, tuple)):
        return [_close_objects(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    closed = {key: map_subschemas(_close_objects, key, value) for key, value in node.items()}
    return {**closed, "additionalProperties": False} if _is_open(closed) else closed


def _is_open(node: Mapping[str, Any]) -> bool:
    has_fields = isinstance(node.get("properties"), Mapping) and node.get("type", "object") == "object"
    return has_fields and "additionalProperties" not in node


def _require_all_fields(node: Any, root: Payload) -> Any:
    """Require every field, and remove what providers reject: defaults, discriminators, keywords beside a ``$ref``."""
    if isinstance(node, list):
        return [_require_all_fields(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        # Keywords beside a reference are kept by inlining its target, unless the target is recursive.
        inlined = {key: value for key, value in _inline_ref(node, root).items() if key != "default"}
        has_siblings = len(node.keys() - {"default"}) > 1
        keep_ref = not has_siblings or "$ref" in inlined or _is_referenced(_definition_name(node), inlined)
        return {"$ref": node["$ref"]} if keep_ref else _require_all_fields(_close_objects(inlined), root)
    change = partial(_require_all_fields, root=root)
    strict = {
        ("anyOf" if key == "oneOf" else key): map_subschemas(change, key, value)
        for key, value in node.items()
        if key not in {"default", "discriminator"}
    }
    fields = strict.get("properties")
    return {**strict, "required": list(fields)} if isinstance(fields, dict) and fields else strict


def _is_strict(node: Any) -> bool:
    """Return whether providers can enforce a schema: its objects are closed, and all of their fields are required."""
    if isinstance(node, list):
        return all(_is_strict(item) for item in node)
    if not isinstance(node, Mapping):
        return True
    fields = node.get("properties") or {}
    if node.get("type") == "object" or fields:
        required = node.get("required") or ()
        if node.get("additionalProperties") is not False or any(name not in required for name in fields):
            return False
    return all(
        _is_strict(schema)
        for key, value in node.items()
        if key not in KEYWORDS_OF_VALUES
        for schema in (value.values() if key in KEYWORDS_OF_NAMED_SCHEMAS and isinstance(value, Mapping) else (value,))
    )


def _schema_name(title: str) -> str:
    return INVALID_NAME_CHARACTERS.sub("_", title).strip("_")[:MAX_NAME_LENGTH] or DEFAULT_NAME


# Validation


class SchemaViolation(NamedTuple):
    """Path (``$.items[0]``) and description of a mismatch."""

    path: str
    message: str


TYPE_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)) and value == value // 1,
    "number": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
MAX_REF_DEPTH: Final = 200
"""References that are followed in a row; more of them are circular."""


def _numeric(is_violated: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    is_number = TYPE_CHECKS["number"]
    return lambda value, bound: is_number(value) and is_number(bound) and is_violated(value, bound)


def _sized(type_: str, is_violated: Callable[[int, Any], bool]) -> Callable[[Any, Any], bool]:
    has_type, is_number = TYPE_CHECKS[type_], TYPE_CHECKS["number"]
    return lambda value, bound: has_type(value) and is_number(bound) and is_violated(len(value), bound)


def _not_multiple(value: Any, step: Any) -> bool:
    """Return whether a number is not a multiple, computed in decimal as it is printed."""
    try:
        return Decimal(str(value)) % Decimal(str(step)) != 0
    except InvalidOperation:  # a step of 0, or more digits than the decimal context has
        return False


def _not_matching(value: Any, pattern: Any) -> bool:
    """Return whether a string does not match; patterns that Python cannot compile match everything."""
    try:
        return isinstance(value, str) and isinstance(pattern, str) and re.search(pattern, value) is None
    except re.error:
        return False


def _has_duplicates(value: Any, unique: Any) -> bool:
    if unique is not True or not isinstance(value, list):
        return False
    return any(item in value[:index] for index, item in enumerate(value))


CONSTRAINT_CHECKS: Final[Mapping[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "minimum": (_numeric(lambda value, bound: value < bound), "is below"),
    "maximum": (_numeric(lambda value, bound: value > bound), "is above"),
    "exclusiveMinimum": (_numeric(lambda value, bound: value <= bound), "is not above"),
    "exclusiveMaximum": (_numeric(lambda value, bound: value >= bound), "is not below"),
    "multipleOf": (_numeric(_not_multiple), "is not a multiple of"),
    "minLength": (_sized("string", lambda size, bound: size < bound), "is shorter than"),
    "maxLength": (_sized("string", lambda size, bound: size > bound), "is longer than"),
    "pattern": (_not_matching, "does not match"),
    "minItems": (_sized("array", lambda size, bound: size < bound), "has fewer items than"),
    "maxItems": (_sized("array", lambda size, bound: size > bound), "has more items than"),
    "uniqueItems": (_has_duplicates, "has equal items, but uniqueItems is"),
    "minProperties": (_sized("object", lambda size, bound: size < bound), "has fewer fields than"),
    "maxProperties": (_sized("object", lambda size, bound: size > bound), "has more fields than"),
}
"""Whether a value violates a constraint, and the words between value and constraint."""


def schema_violation(value: Any, schema: Any, root: Mapping[str, Any], path: str = "$") -> SchemaViolation | None:
    """Return the first mismatch between a JSON value and a schema, or ``None`` if it matches.

    Parameters
    ----------
    value
        Plain JSON value.
    schema
        Schema of the value.
    root
        Schema that has the definitions.
    path
        Path of the value.

    Examples
    --------
    >>> schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    >>> schema_violation({"n": 1}, schema, schema) is None
    True
    >>> schema_violation({"n": "1"}, schema, schema)
    SchemaViolation(path='$.n', message="'1' is not of type integer")
    """
    node = resolve_ref(schema, root)
    if not isinstance(node, Mapping):
        return None
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        return _choice_violation(value, choices, root, path)
    message = _own_violation(value, node)
    if message:
        return SchemaViolation(path, message)
    if isinstance(value, Mapping):
        return _field_violation(value, node, root, path)
    if isinstance(value, list) and "items" in node:
        items = enumerate(value)
        return _first(schema_violation(item, node["items"], root, f"{path}[{index}]") for index, item in items)
    return None


def _own_violation(value: Any, node: Mapping[str, Any]) -> str:
    """Return what is wrong with a value itself, without its fields and items, or an empty string."""
    declared = node.get("type")
    types = [declared] if isinstance(declared, str) else list(declared or ())
    # A type that JSON Schema does not define matches anything.
    if types and not any(name not in TYPE_CHECKS or TYPE_CHECKS[name](value) for name in types):
        return f"{_short_repr(value)} is not of type {' or '.join(types)}"
    allowed = node["enum"] if "enum" in node else [node["const"]] if "const" in node else None
    if allowed is not None and value not in allowed:
        return f"{_short_repr(value)} is not one of {', '.join(map(repr, allowed))}"
    for keyword, (is_violated, relation) in CONSTRAINT_CHECKS.items():
        if keyword in node and is_violated(value, node[keyword]):
            return f"{_short_repr(value)} {relation} {node[keyword]}"
    return ""


def resolve_ref(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return the target of a schema's ``$ref`` in the definitions of its root, or the schema itself."""
    for _ in range(MAX_REF_DEPTH):
        pointer = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(pointer, str):
            return schema
        schema = root
        for step in pointer.removeprefix("#").strip("/").split("/"):
            schema = schema.get(step, {}) if step and isinstance(schema, Mapping) else schema
    return {}


def _field_violation(
    value: Mapping[str, Any], node: Mapping[str, Any], root: Mapping[str, Any], path: str
) -> SchemaViolation | None:
    fields = node.get("properties") or {}
    missing = next((name for name in node.get("required") or () if name not in value), None)
    if missing is not None:
        return SchemaViolation(path, f"the field {missing} is missing")
    unknown = next((name for name in value if name not in fields), None)
    if unknown is not None and node.get("additionalProperties") is False:
        return SchemaViolation(path, f"there is no field {unknown}")
    return _first(
        schema_violation(value[name], schema, root, f"{path}.{name}")
        for name, schema in fields.items()
        if name in value
    )


def _choice_violation(value: Any, choices: Any, root: Mapping[str, Any], path: str) -> SchemaViolation | None:
    violations = [schema_violation(value, choice, root, path) for choice in choices]
    mismatches = [violation for violation in violations if violation is not None]
    if len(mismatches) < len(violations):
        return None
    # The choice that matched deepest is most likely the one that was meant.
    return max(mismatches, key=lambda violation: violation.path.count("."))


def _first(violations: Iterable[SchemaViolation | None]) -> SchemaViolation | None:
    return next((violation for violation in violations if violation is not None), None)


def _short_repr(value: Any) -> str:
    return "text" if isinstance(value, str) and len(value) > 40 else f"{value!r:.60}"  # noqa: PLR2004 - readable length
