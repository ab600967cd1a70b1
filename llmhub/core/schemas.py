"""Types to JSON schemas, and answers back to typed values.

A JSON schema, a pydantic model or a dataclass says what an answer must be; so does anything else that msgspec knows
(``TypedDict``, ``NamedTuple``, an enum, ``list[int]``, ``Literal[...]``). pydantic is never imported here: a model
brings its own methods, and what only holds models is read by the pydantic that they came with.

Providers hold an answer to a schema only where it leaves no freedom: every object is closed, and what is made of a
type has all its fields, since a default stands for what was not said. A wire wants an object on the outside; any other
type is the one field `WRAP` of one.

Source: https://platform.openai.com/docs/guides/structured-outputs and
https://platform.claude.com/docs/en/build-with-claude/structured-outputs (read 2026-11-27).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, get_args

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Malformed
from llmhub.core.fits import misfit
from llmhub.core.types import Choice, CompletionResponse, Payload, Schema

Reader: TypeAlias = Callable[[str], Result[Any, LLMError]]
"""The text of an answer to the value it spells, or to why it spells none."""

WRAP: Final = "value"
"""The one field of the object around an answer that is none: a list, a label, a number."""
UNNAMEABLE: Final = re.compile(r"[^A-Za-z0-9_-]+")
UNNAMED: Final = "answer"
LONGEST: Final = 64
"""Characters that a schema's name may have."""
FENCED: Final = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL)
NAMES: Final = frozenset({"properties", "$defs", "definitions", "patternProperties"})
"""Keywords whose keys are names, not keywords."""
VALUES: Final = frozenset({"enum", "const", "default", "examples", "required"})
"""Keywords that hold values, not schemas."""
AT: Final = re.compile(r"^(.*?) - at `(.*)`$", re.DOTALL)


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
        return _given(wanted, name)
    try:
        raw = _raw(wanted)
    except (TypeError, ValueError, AttributeError, RecursionError, NameError) as bad:
        first = (str(bad).splitlines() or [type(bad).__name__])[-1]
        said = f"{wanted!r:.80} says no schema ({first}); give a JSON schema, a pydantic model or a dataclass"
        return Failure(InvalidRequest(path="$.response_schema", message=said))
    whole = _wrapped(_rooted(raw))
    schema = _complete(_closed(whole), whole)
    title = name or getattr(wanted, "__name__", "")
    return Success(Schema(schema, _named(title), strict=_held(schema)))


def reader_of(wanted: object) -> Result[Reader, LLMError]:
    """Make the function that reads answers to ``schema_of(wanted)``: text to a value of that type.

    A mapping or a `Schema` gives plain JSON values, checked against it.

    Examples
    --------
    >>> read = reader_of(list[int]).unwrap()
    >>> read('{"value": [1, 2]}').unwrap()
    [1, 2]
    >>> read('{"value": ["x"]}').failure().path
    '$[0]'
    """
    made = schema_of(wanted)
    if not is_successful(made):
        return Failure(made.failure())
    wrapped = not isinstance(wanted, (Mapping, Schema)) and is_wrapped(made.unwrap())
    build, name = _builder(wanted), made.unwrap().name
    # A type checks what is made of it; plain JSON is checked here.
    plain = made.unwrap().schema if isinstance(wanted, (Mapping, Schema)) else None

    def read(text: str) -> Result[Any, LLMError]:
        try:
            body = _bare(text).encode()
            value = build(_unwrapped(body) if wrapped else body)
            wrong = "" if plain is None else misfit(value, plain, plain)
        except (ValueError, TypeError, RecursionError) as bad:
            return Failure(_unread(bad, name))
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
    read: Result[Any, LLMError] = reader_of(wanted).bind(lambda reader: reader(text))
    if is_successful(read) or isinstance(answer, str) or not isinstance(read.failure(), Malformed):
        return read
    why = ENDINGS.get(answer.finish_reason)
    return read if why is None else Failure(Malformed(path="$", message=f"{why}: {read.failure().message}"))


ENDINGS: Final[Mapping[str, str]] = {
    "length": "the answer was cut short; raise max_tokens",
    "refusal": "the model refused",
    "content_filter": "the answer was filtered",
    "tool_calls": "the model called tools instead of answering",
}
"""Why an answer that ended so may not be what was asked for."""


def json_in(text: str) -> str | None:
    """Give the JSON of an answer, without white space or a fence around it; ``None`` where it is none.

    Examples
    --------
    >>> json_in('{ "a": 1 }'), json_in("Sorry!")
    ('{"a":1}', None)
    """
    try:
        body = _bare(text).encode()
        msgspec.json.decode(body)
        return msgspec.json.format(body, indent=-1).decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _bare(text: str) -> str:
    """Take off the fence that a model may put around its JSON."""
    fenced = FENCED.fullmatch(text)
    return fenced[1] if fenced else text


def is_wrapped(schema: Schema) -> bool:
    """Say whether a schema is of an object around what is really wanted."""
    return schema.schema.get("title") == WRAP and schema.schema.get("required") == [WRAP]


def _given(wanted: Mapping[Any, Any], name: str) -> Result[Schema, LLMError]:
    """Take a schema as its author wrote it, its open objects closed."""
    if not wanted or not all(isinstance(key, str) for key in wanted):
        said = f"{wanted!r:.80} is no JSON schema; give a mapping such as {{'type': 'object', 'properties': {{...}}}}"
        return Failure(InvalidRequest(path="$.response_schema", message=said))
    try:
        schema = _closed(dict(wanted))
        held = _held(schema)
    except RecursionError:
        return Failure(InvalidRequest(path="$.response_schema", message="the schema is nested too deeply"))
    return Success(Schema(schema, _named(name or str(wanted.get("title", ""))), strict=held))


def _raw(wanted: Any) -> Payload:
    """Ask whoever knows a type for its schema."""
    if not (isinstance(wanted, type) or get_args(wanted)):
        raise TypeError("it is a value, not a type")
    if hasattr(wanted, "model_json_schema"):
        return dict(wanted.model_json_schema())
    if _holds_models(wanted):
        return dict(_adapter(wanted).json_schema())
    return dict(msgspec.json.schema(wanted))


def _builder(wanted: Any) -> Callable[[bytes], Any]:
    """Give what makes a value of the type from JSON; it raises ``ValueError`` for what does not fit."""
    if isinstance(wanted, (Mapping, Schema)):
        return msgspec.json.decode
    if hasattr(wanted, "model_validate_json"):
        built: Callable[[bytes], Any] = wanted.model_validate_json
        return built
    if _holds_models(wanted):
        adapted: Callable[[bytes], Any] = _adapter(wanted).validate_json
        return adapted
    return msgspec.json.Decoder(wanted).decode


def _holds_models(wanted: Any) -> bool:
    """Say whether a type is pydantic's in all but its methods, or made of such types."""
    return hasattr(wanted, "__pydantic_core_schema__") or any(_holds_models(piece) for piece in get_args(wanted))


def _adapter(wanted: Any) -> Any:
    """Read a type by the pydantic that is there already: whoever has its models has imported it."""
    return sys.modules["pydantic"].TypeAdapter(wanted)


def _rooted(raw: Payload) -> Payload:
    """Put the type that a schema only points to in its place; keep the definitions that are still pointed to."""
    root = _resolved(raw, raw)
    definitions = raw.get("$defs")
    without = {key: value for key, value in root.items() if key != "$defs"}
    if not isinstance(definitions, dict) or b"#/$defs/" not in msgspec.json.encode([without, definitions]):
        return without
    kept = {name: one for name, one in definitions.items() if _pointed(name, [without, definitions])}
    return {**without, "$defs": kept} if kept else without


def _pointed(name: str, held: object) -> bool:
    return msgspec.json.encode(f"#/$defs/{name}") in msgspec.json.encode(held)


def _target(node: Payload) -> str:
    return str(node.get("$ref", "")).removeprefix("#/$defs/")


def _resolved(node: Payload, raw: Payload) -> Payload:
    definitions = raw.get("$defs")
    found = definitions.get(_target(node)) if isinstance(definitions, dict) else None
    if not isinstance(found, dict):
        return node
    return {**found, **{key: value for key, value in node.items() if key != "$ref"}}


def _wrapped(schema: Payload) -> Payload:
    """Put what is no object into one."""
    if "properties" in schema or schema.get("type") == "object":
        return schema
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    return {"title": WRAP, "type": "object", "properties": {WRAP: inner}, "required": [WRAP], **definitions}


def _unwrapped(body: bytes) -> bytes:
    """Take what is wanted out of the object around it; what came without one stays as it is."""
    whole = msgspec.json.decode(body)
    alone = isinstance(whole, dict) and whole.keys() == {WRAP}
    return msgspec.json.encode(whole[WRAP]) if alone else body


def _closed(node: Any) -> Any:
    """Close every object that names its fields and says nothing of others."""
    if isinstance(node, (list, tuple)):
        return [_closed(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    done = {key: mapped(_closed, key, value) for key, value in node.items()}
    return {**done, "additionalProperties": False} if _opens(done) else done


def _opens(node: Mapping[str, Any]) -> bool:
    named = isinstance(node.get("properties"), Mapping) and node.get("type", "object") == "object"
    return named and "additionalProperties" not in node


def _complete(node: Any, root: Payload) -> Any:
    """Ask for every field and leave out what providers refuse: defaults, discriminators, words beside a pointer."""
    if isinstance(node, list):
        return [_complete(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        # Words beside a pointer are kept by putting what it points to in its place, unless that would never end.
        whole = {key: value for key, value in _resolved(node, root).items() if key != "default"}
        bare = len(node.keys() - {"default"}) == 1 or "$ref" in whole or _pointed(_target(node), whole)
        return {"$ref": node["$ref"]} if bare else _complete(_closed(whole), root)
    kept = {key: value for key, value in node.items() if key not in {"default", "discriminator"}}
    change = partial(_complete, root=root)
    done = {("anyOf" if key == "oneOf" else key): mapped(change, key, value) for key, value in kept.items()}
    fields = done.get("properties")
    return {**done, "required": list(fields)} if isinstance(fields, dict) and fields else done


def mapped(change: Callable[[Any], Any], key: str, value: Any) -> Any:
    """Change the schemas under a keyword."""
    if key in NAMES and isinstance(value, Mapping):
        return {name: change(one) for name, one in value.items()}
    return value if key in VALUES else change(value)


def _held(node: Any) -> bool:
    """Say whether a provider can hold an answer to a schema: objects are closed, and none of their fields optional."""
    if isinstance(node, list):
        return all(_held(item) for item in node)
    if not isinstance(node, Mapping):
        return True
    fields = node.get("properties") or {}
    if node.get("type") == "object" or fields:
        required = node.get("required") or ()
        if node.get("additionalProperties") is not False or any(name not in required for name in fields):
            return False
    pieces = (
        value.values() if key in NAMES and isinstance(value, Mapping) else (value,) for key, value in node.items()
    )
    return all(_held(one) for key, some in zip(node, pieces, strict=True) if key not in VALUES for one in some)


def _named(title: str) -> str:
    return UNNAMEABLE.sub("_", title).strip("_")[:LONGEST] or UNNAMED


def _unread(bad: Exception, name: str) -> LLMError:
    """Say where an answer does not fit, and why, in whichever words its reader has."""
    faults = getattr(bad, "errors", None)
    if callable(faults):  # pydantic's: one of each fault, with its place
        first: Mapping[str, Any] = next(iter(faults()), {})
        place = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first.get("loc", ()))
        return Malformed(path=f"${place}", message=f"not a {name}: {first.get('msg', bad)}")
    said = AT.match(str(bad))
    path, why = (said[2], said[1]) if said else ("$", str(bad))
    return Malformed(path=path, message=f"not a {name}: {why}")
