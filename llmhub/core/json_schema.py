"""Whether plain JSON fits a JSON schema, as far as answers are asked by one: types, fields, enums, items, choices.

Bounds (``minimum``, ``maxLength``, ``pattern``, ...) are looked at, too, whoever was asked: not every provider holds to
them. A ``format`` is not.
Source: https://json-schema.org/draft/2020-12/json-schema-validation (read 2026-11-27).

Types to JSON schemas, and answers back to typed values.

A JSON schema, a pydantic model or a dataclass says what an answer must be; so does anything else that msgspec knows
(``TypedDict``, ``NamedTuple``, an enum, ``list[int]``, ``Literal[...]``). pydantic is never imported here: a model
brings its own methods, and what only holds models is read by the pydantic that they came with.

Providers hold an answer to a schema only where it leaves no freedom: every object is closed, and what is made of a
type has all its fields, since a default stands for what was not said. A wire wants an object on the outside; any other
type is the one field `WRAPPER_KEY` of one.

Source: https://platform.openai.com/docs/guides/structured-outputs and
https://platform.claude.com/docs/en/build-with-claude/structured-outputs (read 2026-11-27).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Final, TypeAlias, get_args

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Malformed
from llmhub.core.types import Choice, CompletionResponse, Payload, Schema

TYPE_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)) and value == value // 1,
    "number": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _numeric(broken: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, bound: TYPE_CHECKS["number"](value) and TYPE_CHECKS["number"](bound) and broken(value, bound)


def _sized(kind: str, broken: Callable[[int, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, bound: TYPE_CHECKS[kind](value) and TYPE_CHECKS["number"](bound) and broken(len(value), bound)


def _not_multiple(value: Any, step: Any) -> bool:
    """Say whether a number is no multiple, as it is written in decimals."""
    try:
        return Decimal(str(value)) % Decimal(str(step)) != 0
    except InvalidOperation:  # a step of nought, or digits beyond all measure
        return False


def _not_matching(value: Any, pattern: Any) -> bool:
    """Say whether a text does not match; a pattern that Python cannot read rules nothing out."""
    try:
        return isinstance(value, str) and isinstance(pattern, str) and re.search(pattern, value) is None
    except re.error:
        return False


def _has_duplicates(value: Any, wanted: Any) -> bool:
    if wanted is not True or not isinstance(value, list):
        return False
    return any(one in value[:at] for at, one in enumerate(value))


CONSTRAINT_CHECKS: Final[Mapping[str, tuple[Callable[[Any, Any], bool], str]]] = {
    "minimum": (_numeric(lambda value, bound: value < bound), "is below"),
    "maximum": (_numeric(lambda value, bound: value > bound), "is above"),
    "exclusiveMinimum": (_numeric(lambda value, bound: value <= bound), "is not above"),
    "exclusiveMaximum": (_numeric(lambda value, bound: value >= bound), "is not below"),
    "multipleOf": (_numeric(_not_multiple), "is no multiple of"),
    "minLength": (_sized("string", lambda size, bound: size < bound), "is shorter than"),
    "maxLength": (_sized("string", lambda size, bound: size > bound), "is longer than"),
    "pattern": (_not_matching, "does not match"),
    "minItems": (_sized("array", lambda size, bound: size < bound), "has fewer items than"),
    "maxItems": (_sized("array", lambda size, bound: size > bound), "has more items than"),
    "uniqueItems": (_has_duplicates, "has equal items, but uniqueItems is"),
    "minProperties": (_sized("object", lambda size, bound: size < bound), "has fewer fields than"),
    "maxProperties": (_sized("object", lambda size, bound: size > bound), "has more fields than"),
}
"""When a value breaks a bound, and how that is said."""


MAX_REF_DEPTH: Final = 200
"""Pointers followed in a row: more of them point in a circle."""


def schema_violation(value: Any, schema: Any, root: Mapping[str, Any], path: str = "$") -> str:
    """Say where and why a value does not fit; nothing where it does.

    Examples
    --------
    >>> schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    >>> schema_violation({"n": 1}, schema, schema), schema_violation({"n": "1"}, schema, schema), schema_violation({}, schema, schema)
    ('', "$.n: '1' is no integer", '$: the field n is missing')
    """
    node = resolve_ref(schema, root)
    if not isinstance(node, Mapping):
        return ""
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        return _choice_violation(value, choices, root, path)
    kinds = node.get("type")
    wanted = [kinds] if isinstance(kinds, str) else list(kinds or ())
    if wanted and not any(TYPE_CHECKS.get(kind, _always)(value) for kind in wanted):
        return f"{path}: {_short_repr(value)} is no {' or '.join(wanted)}"
    allowed = node["enum"] if "enum" in node else [node["const"]] if "const" in node else None
    if allowed is not None and value not in allowed:
        return f"{path}: {_short_repr(value)} is none of {', '.join(map(repr, allowed))}"
    for keyword, (broken, said) in CONSTRAINT_CHECKS.items():
        if keyword in node and broken(value, node[keyword]):
            return f"{path}: {_short_repr(value)} {said} {node[keyword]}"
    return _nested_violation(value, node, root, path)


def resolve_ref(schema: Any, root: Mapping[str, Any]) -> Any:
    """Follow the pointers of a schema into the definitions of its root."""
    for _ in range(MAX_REF_DEPTH):
        pointer = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(pointer, str):
            return schema
        schema = root
        for step in pointer.removeprefix("#").strip("/").split("/"):
            schema = schema.get(step, {}) if step and isinstance(schema, Mapping) else schema
    return {}


def _nested_violation(value: Any, node: Mapping[str, Any], root: Mapping[str, Any], path: str) -> str:
    """Look at fields and items."""
    if isinstance(value, Mapping):
        fields = node.get("properties") or {}
        missing = next((name for name in node.get("required") or () if name not in value), None)
        if missing is not None:
            return f"{path}: the field {missing} is missing"
        extra = next((name for name in value if name not in fields), None)
        if extra is not None and node.get("additionalProperties") is False:
            return f"{path}: there is no field {extra}"
        found = (
            schema_violation(value[name], one, root, f"{path}.{name}") for name, one in fields.items() if name in value
        )
        return next(filter(None, found), "")
    if isinstance(value, list) and "items" in node:
        return next(
            filter(None, (schema_violation(one, node["items"], root, f"{path}[{at}]") for at, one in enumerate(value))),
            "",
        )
    return ""


def _choice_violation(value: Any, choices: Any, root: Mapping[str, Any], path: str) -> str:
    wrongs = [schema_violation(value, choice, root, path) for choice in choices]
    if not all(wrongs):
        return ""
    # The one that came furthest says most.
    return max(wrongs, key=lambda wrong: wrong.partition(": ")[0].count("."))


def _always(_value: Any) -> bool:
    return True


def _short_repr(value: Any) -> str:
    return "text" if isinstance(value, str) and len(value) > 40 else f"{value!r:.60}"  # noqa: PLR2004 - long enough to tell


ResponseParser: TypeAlias = Callable[[str], Result[Any, LLMError]]
"""The text of an answer to the value it spells, or to why it spells none."""


WRAPPER_KEY: Final = "value"
"""The one field of the object around an answer that is none: a list, a label, a number."""


INVALID_NAME_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9_-]+")


DEFAULT_NAME: Final = "answer"


MAX_NAME_LENGTH: Final = 64
"""Characters that a schema's name may have."""


CODE_FENCE: Final = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL)


KEYWORDS_OF_NAMED_SCHEMAS: Final = frozenset({"properties", "$defs", "definitions", "patternProperties"})
"""Keywords whose keys are names, not keywords."""


KEYWORDS_OF_VALUES: Final = frozenset({"enum", "const", "default", "examples", "required"})
"""Keywords that hold values, not schemas."""


MSGSPEC_PATH: Final = re.compile(r"^(.*?) - at `(.*)`$", re.DOTALL)


def schema_of(wanted: object, name: str = "") -> Result[Schema, LLMError]:
    """Make the schema of what is wanted.

    Parameters
    ----------
    wanted
        A JSON schema as a mapping, a pydantic model, a dataclass, any other type that msgspec knows, or a `Schema`,
        which stays as it is.
    name
        What a provider calls it; the type's or the schema's own name unless given.

    Returns
    -------
    Result[Schema, LLMError]
        ``InvalidRequest`` for what is no type and no schema.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    ...     age: int = 0
    >>> made = schema_of(Person).unwrap()
    >>> made.name, made.schema["required"], made.schema["additionalProperties"], made.strict
    ('Person', ['name', 'age'], False, True)
    """
    if isinstance(wanted, Schema):
        return Success(wanted)
    if isinstance(wanted, Mapping):
        return _from_mapping(wanted, name)
    try:
        raw = _type_schema(wanted)
    except (TypeError, ValueError, AttributeError, RecursionError, NameError) as bad:
        first = (str(bad).splitlines() or [type(bad).__name__])[-1]
        said = f"{wanted!r:.80} says no schema ({first}); give a JSON schema, a pydantic model or a dataclass"
        return Failure(InvalidRequest(path="$.response_schema", message=said))
    whole = _wrap(_inline_root(raw))
    schema = _require_all_fields(_close_objects(whole), whole)
    title = name or getattr(wanted, "__name__", "")
    return Success(Schema(schema, _schema_name(title), strict=_is_strict(schema)))


def response_parser(wanted: object) -> Result[ResponseParser, LLMError]:
    """Make the function that reads answers to ``schema_of(wanted)``: text to a value of that type.

    A mapping or a `Schema` gives plain JSON values, checked against it.

    Examples
    --------
    >>> read = response_parser(list[int]).unwrap()
    >>> read('{"value": [1, 2]}').unwrap()
    [1, 2]
    >>> read('{"value": ["x"]}').failure().path
    '$[0]'
    """
    made = schema_of(wanted)
    if not is_successful(made):
        return Failure(made.failure())
    wrapped = not isinstance(wanted, (Mapping, Schema)) and is_wrapped(made.unwrap())
    build, name = _value_decoder(wanted), made.unwrap().name
    # A type checks what is made of it; plain JSON is checked here.
    plain = made.unwrap().schema if isinstance(wanted, (Mapping, Schema)) else None

    def read(text: str) -> Result[Any, LLMError]:
        try:
            body = _strip_fence(text).encode()
            value = build(_unwrap(body) if wrapped else body)
            wrong = "" if plain is None else schema_violation(value, plain, plain)
        except (ValueError, TypeError, RecursionError) as bad:
            return Failure(_parse_error(bad, name))
        path, _, why = wrong.partition(": ")
        return Failure(Malformed(path=path, message=f"not a {name}: {why}")) if wrong else Success(value)

    return Success(read)


def parse(answer: CompletionResponse | Choice | str, wanted: object) -> Result[Any, LLMError]:
    """Give the value that an answer spells, as the type, model or schema that was asked for.

    Returns
    -------
    Result[Any, LLMError]
        ``Malformed`` at a ``$.path`` where it does not fit, saying why where it was cut short or refused;
        ``InvalidRequest`` where ``wanted`` is no type and no schema.

    Examples
    --------
    >>> parse('{"name": "Ada"}', {"type": "object"}).unwrap()
    {'name': 'Ada'}
    """
    text = answer if isinstance(answer, str) else answer.text
    read: Result[Any, LLMError] = response_parser(wanted).bind(lambda reader: reader(text))
    if is_successful(read) or isinstance(answer, str) or not isinstance(read.failure(), Malformed):
        return read
    why = FINISH_REASON_CAUSES.get(answer.finish_reason)
    return read if why is None else Failure(Malformed(path="$", message=f"{why}: {read.failure().message}"))


FINISH_REASON_CAUSES: Final[Mapping[str, str]] = {
    "length": "the answer was cut short; raise max_tokens",
    "refusal": "the model refused",
    "content_filter": "the answer was filtered",
    "tool_calls": "the model called tools instead of answering",
}
"""Why an answer that ended so may not be what was asked for."""


def extract_json(text: str) -> str | None:
    """Give the JSON of an answer, without white space or a fence around it; ``None`` where it is none.

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
    """Take off the fence that a model may put around its JSON."""
    fenced = CODE_FENCE.fullmatch(text)
    return fenced[1] if fenced else text


def is_wrapped(schema: Schema) -> bool:
    """Say whether a schema is of an object around what is really wanted."""
    return schema.schema.get("title") == WRAPPER_KEY and schema.schema.get("required") == [WRAPPER_KEY]


def _from_mapping(wanted: Mapping[Any, Any], name: str) -> Result[Schema, LLMError]:
    """Take a schema as its author wrote it, its open objects closed."""
    if not wanted or not all(isinstance(key, str) for key in wanted):
        said = f"{wanted!r:.80} is no JSON schema; give a mapping such as {{'type': 'object', 'properties': {{...}}}}"
        return Failure(InvalidRequest(path="$.response_schema", message=said))
    try:
        schema = _close_objects(dict(wanted))
        held = _is_strict(schema)
    except RecursionError:
        return Failure(InvalidRequest(path="$.response_schema", message="the schema is nested too deeply"))
    return Success(Schema(schema, _schema_name(name or str(wanted.get("title", ""))), strict=held))


def _type_schema(wanted: Any) -> Payload:
    """Ask whoever knows a type for its schema."""
    if not (isinstance(wanted, type) or get_args(wanted)):
        raise TypeError("it is a value, not a type")
    if hasattr(wanted, "model_json_schema"):
        return dict(wanted.model_json_schema())
    if _uses_pydantic(wanted):
        return dict(_type_adapter(wanted).json_schema())
    return dict(msgspec.json.schema(wanted))


def _value_decoder(wanted: Any) -> Callable[[bytes], Any]:
    """Give what makes a value of the type from JSON; it raises ``ValueError`` for what does not fit."""
    if isinstance(wanted, (Mapping, Schema)):
        return msgspec.json.decode
    if hasattr(wanted, "model_validate_json"):
        built: Callable[[bytes], Any] = wanted.model_validate_json
        return built
    if _uses_pydantic(wanted):
        adapted: Callable[[bytes], Any] = _type_adapter(wanted).validate_json
        return adapted
    return msgspec.json.Decoder(wanted).decode


def _uses_pydantic(wanted: Any) -> bool:
    """Say whether a type is pydantic's in all but its methods, or made of such types."""
    return hasattr(wanted, "__pydantic_core_schema__") or any(_uses_pydantic(piece) for piece in get_args(wanted))


def _type_adapter(wanted: Any) -> Any:
    """Read a type by the pydantic that is there already: whoever has its models has imported it."""
    return sys.modules["pydantic"].TypeAdapter(wanted)


def _inline_root(raw: Payload) -> Payload:
    """Put the type that a schema only points to in its place; keep the definitions that are still pointed to."""
    root = _inline_ref(raw, raw)
    definitions = raw.get("$defs")
    without = {key: value for key, value in root.items() if key != "$defs"}
    if not isinstance(definitions, dict) or b"#/$defs/" not in msgspec.json.encode([without, definitions]):
        return without
    kept = {name: one for name, one in definitions.items() if _is_referenced(name, [without, definitions])}
    return {**without, "$defs": kept} if kept else without


def _is_referenced(name: str, held: object) -> bool:
    return msgspec.json.encode(f"#/$defs/{name}") in msgspec.json.encode(held)


def _definition_name(node: Payload) -> str:
    return str(node.get("$ref", "")).removeprefix("#/$defs/")


def _inline_ref(node: Payload, raw: Payload) -> Payload:
    definitions = raw.get("$defs")
    found = definitions.get(_definition_name(node)) if isinstance(definitions, dict) else None
    if not isinstance(found, dict):
        return node
    return {**found, **{key: value for key, value in node.items() if key != "$ref"}}


def _wrap(schema: Payload) -> Payload:
    """Put what is no object into one."""
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
    """Take what is wanted out of the object around it; what came without one stays as it is."""
    whole = msgspec.json.decode(body)
    alone = isinstance(whole, dict) and whole.keys() == {WRAPPER_KEY}
    return msgspec.json.encode(whole[WRAPPER_KEY]) if alone else body


def _close_objects(node: Any) -> Any:
    """Close every object that names its fields and says nothing of others."""
    if isinstance(node, (list, tuple)):
        return [_close_objects(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    done = {key: map_subschemas(_close_objects, key, value) for key, value in node.items()}
    return {**done, "additionalProperties": False} if _is_open(done) else done


def _is_open(node: Mapping[str, Any]) -> bool:
    named = isinstance(node.get("properties"), Mapping) and node.get("type", "object") == "object"
    return named and "additionalProperties" not in node


def _require_all_fields(node: Any, root: Payload) -> Any:
    """Ask for every field and leave out what providers refuse: defaults, discriminators, words beside a pointer."""
    if isinstance(node, list):
        return [_require_all_fields(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        # Words beside a pointer are kept by putting what it points to in its place, unless that would never end.
        whole = {key: value for key, value in _inline_ref(node, root).items() if key != "default"}
        bare = len(node.keys() - {"default"}) == 1 or "$ref" in whole or _is_referenced(_definition_name(node), whole)
        return {"$ref": node["$ref"]} if bare else _require_all_fields(_close_objects(whole), root)
    kept = {key: value for key, value in node.items() if key not in {"default", "discriminator"}}
    change = partial(_require_all_fields, root=root)
    done = {("anyOf" if key == "oneOf" else key): map_subschemas(change, key, value) for key, value in kept.items()}
    fields = done.get("properties")
    return {**done, "required": list(fields)} if isinstance(fields, dict) and fields else done


def map_subschemas(change: Callable[[Any], Any], key: str, value: Any) -> Any:
    """Change the schemas under a keyword."""
    if key in KEYWORDS_OF_NAMED_SCHEMAS and isinstance(value, Mapping):
        return {name: change(one) for name, one in value.items()}
    return value if key in KEYWORDS_OF_VALUES else change(value)


def _is_strict(node: Any) -> bool:
    """Say whether a provider can hold an answer to a schema: objects are closed, and none of their fields optional."""
    if isinstance(node, list):
        return all(_is_strict(item) for item in node)
    if not isinstance(node, Mapping):
        return True
    fields = node.get("properties") or {}
    if node.get("type") == "object" or fields:
        required = node.get("required") or ()
        if node.get("additionalProperties") is not False or any(name not in required for name in fields):
            return False
    pieces = (
        value.values() if key in KEYWORDS_OF_NAMED_SCHEMAS and isinstance(value, Mapping) else (value,)
        for key, value in node.items()
    )
    return all(
        _is_strict(one) for key, some in zip(node, pieces, strict=True) if key not in KEYWORDS_OF_VALUES for one in some
    )


def _schema_name(title: str) -> str:
    return INVALID_NAME_CHARACTERS.sub("_", title).strip("_")[:MAX_NAME_LENGTH] or DEFAULT_NAME


def _parse_error(bad: Exception, name: str) -> LLMError:
    """Say where an answer does not fit, and why, in whichever words its reader has."""
    faults = getattr(bad, "errors", None)
    if callable(faults):  # pydantic's: one of each fault, with its place
        first: Mapping[str, Any] = next(iter(faults()), {})
        place = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first.get("loc", ()))
        return Malformed(path=f"${place}", message=f"not a {name}: {first.get('msg', bad)}")
    said = MSGSPEC_PATH.match(str(bad))
    path, why = (said[2], said[1]) if said else ("$", str(bad))
    return Malformed(path=path, message=f"not a {name}: {why}")
