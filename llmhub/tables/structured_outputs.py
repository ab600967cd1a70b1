"""Answers that are one of several labels: how they are asked for, and which of them a text is.

Answers to a schema as typed columns: JSON schema to Arrow type, text to values, and what did not fit said by row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import BadRequestError, InvalidRequest, LLMError, Malformed, error_type_name
from llmhub.core.json_schema import (
    FINISH_REASON_CAUSES,
    WRAPPER_KEY,
    ResponseParser,
    is_wrapped,
    resolve_ref,
    response_parser,
    schema_of,
)
from llmhub.core.types import JSON, Schema

LABEL_FIELD: Final = "label"


LABEL_PUNCTUATION: Final = " \t\r\n.,;:!?\"'`*_()[]{}<>\u201c\u201d\u2018\u2019\u00ab\u00bb"
"""Characters that models put around a label."""


LABEL_PREFIX: Final = re.compile(r"^.{0,60}?[:=]\s*", re.DOTALL)
"""What may stand before one: ``Label:``."""


def parse_labels(labels: Any) -> dict[str, Any]:
    """Read labels: texts or numbers, an enum, or a mapping of labels to what each means; text to value.

    Raises
    ------
    InvalidRequestError
        Fewer than two, or two that cannot be told apart.

    Examples
    --------
    >>> parse_labels(["yes", "no"]), parse_labels([1, 2])
    ({'yes': 'yes', 'no': 'no'}, {'1': 1, '2': 2})
    """
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__iter__"):
        raise _invalid_labels(f"{labels!r:.80} are no labels; give a list such as ['positive', 'negative']")
    values = [one.value if isinstance(one, Enum) else one for one in labels]
    wrong = [one for one in values if not isinstance(one, (str, int, float)) or not str(one).strip()]
    if wrong or len(values) < 2:  # noqa: PLR2004 - one label leaves nothing to decide
        said = f"{wrong[0]!r:.80} is no label" if wrong else f"{len(values)} labels leave nothing to decide"
        raise _invalid_labels(f"{said}; give two or more texts or numbers")
    seen: dict[str, Any] = {}
    for value in values:
        twin = seen.setdefault(normalize_label(str(value)), value)
        if twin is not value and (twin, type(twin)) != (value, type(value)):
            raise _invalid_labels(f"{twin!r} and {value!r} cannot be told apart in an answer; rename one")
    if len(seen) < 2:  # noqa: PLR2004 - as above
        raise _invalid_labels(f"{values!r:.80} is one label, again and again; give two or more")
    return {str(value): value for value in values}


def normalize_label(text: str) -> str:
    """Bring a label to what is compared: case, and signs around it, do not count.

    Examples
    --------
    >>> normalize_label('**Positive**.')
    'positive'
    """
    return " ".join(text.strip(LABEL_PUNCTUATION).casefold().split())


def label_schema(labels: Iterable[str]) -> Schema:
    """Make the schema that leaves nothing but the labels to say."""
    only: dict[str, JSON] = {"type": "string", "enum": list(labels)}
    whole: dict[str, JSON] = {
        "type": "object",
        "properties": {LABEL_FIELD: only},
        "required": [LABEL_FIELD],
        "additionalProperties": False,
    }
    return Schema(whole, LABEL_FIELD)


def label_instruction(labels: Iterable[str], meanings: Any) -> str:
    """Say in words what the answer may be.

    Examples
    --------
    >>> print(label_instruction(["a", "b"], {"a": "the first", "b": "the second"}))
    Answer with exactly one of these labels, and nothing else:
    - a: the first
    - b: the second
    """
    said = meanings if isinstance(meanings, Mapping) else {}
    known = {str(key.value if isinstance(key, Enum) else key): meaning for key, meaning in said.items()}
    lines = [f"- {label}: {known[label]}" if known.get(label) else f"- {label}" for label in labels]
    return "\n".join(["Answer with exactly one of these labels, and nothing else:", *lines])


def with_label_options(labels: Mapping[str, Any], meanings: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Add to a call's options what asks for a label: a schema where there can be one, and words in the system turn."""
    words = label_instruction(labels, meanings)
    system = options.get("system")
    if callable(system):

        def both(row: Any) -> str | None:
            own = system(row)
            return None if own is None else f"{own}\n\n{words}"

        said: Any = both
    else:
        escaped = words.replace("{", "{{").replace("}", "}}")
        said = f"{system}\n\n{escaped}" if system else escaped
    return {**options, "system": said, "response_schema": label_schema(labels), "schema_or_words": True}


def find_label(text: str, labels: Sequence[str]) -> str | None:
    """Find the one label that an answer is; ``None`` where it is none, however many it mentions.

    Examples
    --------
    >>> labels = ["positive", "negative"]
    >>> [find_label(text, labels) for text in ('{"label": "negative"}', "Positive.", "Label: **negative**")]
    ['negative', 'positive', 'negative']
    >>> [find_label(text, labels) for text in ("not positive", "positive or negative", "")]
    [None, None, None]
    """
    known = {normalize_label(label): label for label in labels}
    lines = [line for line in text.strip().splitlines() if line.strip()]
    ways = [_label_from_json(text), text, *(lines[:1] if len(lines) > 1 else ()), *lines[-1:]]
    ways += [LABEL_PREFIX.sub("", way, count=1) for way in ways[1:]]
    found = {known[way] for way in map(normalize_label, ways) if way in known}
    return found.pop() if len(found) == 1 else None


def _label_from_json(text: str) -> str:
    """Read an answer to the schema."""
    try:
        whole = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
    said = whole.get(LABEL_FIELD) if isinstance(whole, dict) else whole
    return said if isinstance(said, str) else str(said) if isinstance(said, (int, float)) else ""


def extract_labels(results: pa.Table, labels: Mapping[str, Any]) -> tuple[pa.Table, pa.Array]:
    """Give the label of each answer; a row whose answer is none says so as an error."""
    names = list(labels)
    wrong: dict[int, LLMError] = {}
    found: list[str | None] = []
    statuses = results.column("status").cast(pa.string()).to_pylist()
    for at, (status, text) in enumerate(zip(statuses, results.column("response").to_pylist(), strict=True)):
        label = find_label(text or "", names) if status == "ok" else None
        found.append(label)
        if status == "ok" and label is None:
            said = f"the answer {(text or '')[:80]!r} is none of the labels {', '.join(map(repr, names))}"
            wrong[at] = Malformed(path="$", message=said)
    kinds = pa.array(list(labels.values())).type
    values = pa.array([None if label is None else labels[label] for label in found], kinds)
    return with_failures(results, wrong), values


def _invalid_labels(said: str) -> BadRequestError:
    return BadRequestError(InvalidRequest(path="labels", message=said))


SCALAR_TYPES: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}


MAX_DEPTH: Final = 30
"""Levels from which on a value stays JSON text: a type that holds itself has no end."""


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """What answers must be, the Arrow type that holds them, and how a text is read.

    ``read`` gives plain JSON values.
    """

    schema: Schema
    arrow_type: pa.DataType
    parse: ResponseParser


def output_schema(output_type: object) -> Result[OutputSchema, LLMError]:
    """Say how answers to ``output_type`` (a pydantic model, a dataclass, a JSON schema, ...) become typed columns.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    ...     age: int | None
    >>> made = output_schema(Person).unwrap()
    >>> made.arrow_type
    StructType(struct<name: string, age: int64>)
    >>> made.parse('{"name": "Ada", "age": 36}').unwrap()
    {'name': 'Ada', 'age': 36}
    """
    made, reader = schema_of(output_type), response_parser(output_type)
    if not is_successful(made) or not is_successful(reader):
        return Failure(made.failure() if not is_successful(made) else reader.failure())
    schema = made.unwrap()
    arrow = arrow_type(schema.schema, schema.schema)
    if not pa.types.is_struct(arrow):
        arrow = pa.struct([pa.field(WRAPPER_KEY, arrow)])
    return Success(OutputSchema(schema, arrow, _builtin_reader(output_type, schema, reader.unwrap())))


def _builtin_reader(wanted: object, schema: Schema, reader: ResponseParser) -> ResponseParser:
    """Have a reader give plain values."""
    checked = not isinstance(wanted, (Mapping, Schema))
    wrapped = checked and is_wrapped(schema)

    def read(text: str) -> Result[Any, LLMError]:
        read = reader(text)
        if not is_successful(read):
            return read
        if checked:
            plain = _to_builtins(read.unwrap())
            return Success({WRAPPER_KEY: plain} if wrapped else plain)
        return read

    return read


def _to_builtins(value: Any) -> Any:
    """Take a value of a type apart into what JSON knows; models of pydantic write themselves."""
    return msgspec.to_builtins(value, enc_hook=_enc_hook, str_keys=True)


def _enc_hook(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def arrow_type(schema: Any, root: Mapping[str, Any], depth: int = 0) -> pa.DataType:
    """Give the Arrow type of what a JSON schema describes; JSON text where it describes no one type.

    Examples
    --------
    >>> arrow_type({"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "null"}]}}, {})
    ListType(list<item: double>)
    >>> arrow_type({"enum": ["a", "b"]}, {}), arrow_type({"type": "object"}, {})
    (DataType(string), DataType(string))
    """
    node = resolve_ref(schema, root)
    if not isinstance(node, Mapping) or depth > MAX_DEPTH:
        return pa.string()
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        real = [one for one in (resolve_ref(choice, root) for choice in choices) if one.get("type") != "null"]
        kinds = list(dict.fromkeys(arrow_type(one, root, depth + 1) for one in real))
        return kinds[0] if len(kinds) == 1 else _common_type(kinds)
    named = [one for one in _type_names(node) if one != "null"]
    if not named and ("enum" in node or "const" in node):
        return _enum_type(node["enum"] if "enum" in node else [node["const"]])
    if len(named) != 1:
        return _common_type([SCALAR_TYPES.get(one, pa.string()) for one in named])
    return _named_type(named[0], node, root, depth)


def _named_type(name: str, node: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> pa.DataType:
    fields = node.get("properties")
    if name == "array":
        return pa.list_(arrow_type(node["items"], root, depth + 1)) if node.get("items") else pa.string()
    if name == "object" and fields:
        return pa.struct([pa.field(one, arrow_type(what, root, depth + 1)) for one, what in fields.items()])
    return SCALAR_TYPES.get(name, pa.string())


def _type_names(node: Mapping[str, Any]) -> list[str]:
    kinds = node.get("type")
    return [kinds] if isinstance(kinds, str) else ["object"] if "properties" in node else list(kinds or ())


def _enum_type(values: Sequence[Any]) -> pa.DataType:
    names = {bool: "boolean", int: "integer", float: "number"}
    return _common_type([SCALAR_TYPES[names.get(type(value), "string")] for value in values if value is not None])


def _common_type(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """Give the one type, the wider of two kinds of numbers, or text."""
    distinct = set(kinds)
    if len(distinct) == 1:
        return kinds[0]
    return pa.float64() if distinct == {pa.int64(), pa.float64()} else pa.string()


def to_arrow_value(value: Any, kind_: pa.DataType) -> Any:
    """Bring a plain value to what its Arrow type takes: JSON text where that is text and the value is none.

    Examples
    --------
    >>> to_arrow_value({"a": {"x": 1}, "b": [1]}, pa.struct([("a", pa.string()), ("b", pa.list_(pa.float64()))]))
    {'a': '{"x": 1}', 'b': [1.0]}
    """
    if value is None:
        return None
    if pa.types.is_struct(kind_):
        return {field.name: to_arrow_value(value.get(field.name), field.type) for field in kind_}
    if pa.types.is_list(kind_):
        return [to_arrow_value(one, kind_.value_type) for one in value]
    if pa.types.is_string(kind_):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return float(value) if pa.types.is_floating(kind_) else int(value) if pa.types.is_integer(kind_) else value


def parse_structured_outputs(table: pa.Table, typing: OutputSchema) -> pa.Table:
    """Read the answers of a results table: ``parsed`` becomes a struct, and an answer that does not fit an error.

    The text of such an answer, its tokens and its cost stay; ``error_type`` is ``Malformed``, and ``error`` says where.
    """
    statuses, reasons = table.column("status").cast(pa.string()), table.column("finish_reason").cast(pa.string())
    rows = zip(statuses.to_pylist(), table.column("response").to_pylist(), reasons.to_pylist(), strict=True)
    values: list[Any] = []
    wrong: dict[int, LLMError] = {}
    for at, (status, text, reason) in enumerate(rows):
        read = _parse_answer(typing, text or "", reason) if status == "ok" else Success(None)
        values.append(read.value_or(None))
        if not is_successful(read):
            wrong[at] = read.failure()
    return with_failures(_replace_column(table, "parsed", pa.array(values, typing.arrow_type)), wrong)


def _parse_answer(typing: OutputSchema, text: str, reason: str) -> Result[Any, LLMError]:
    """Read one answer, and say why where it was cut short or refused."""
    read = typing.parse(text).bind(_to_column_value(typing.arrow_type))
    if is_successful(read) or reason not in FINISH_REASON_CAUSES:
        return read
    return Failure(Malformed(path="$", message=f"{FINISH_REASON_CAUSES[reason]}: {read.failure().message}"))


def _to_column_value(kind_: pa.DataType) -> Callable[[Any], Result[Any, LLMError]]:
    def hold(value: Any) -> Result[Any, LLMError]:
        try:
            made = to_arrow_value(value, kind_)
            pa.scalar(made, kind_)
        except (pa.ArrowException, AttributeError, TypeError, ValueError, OverflowError) as bad:
            return Failure(Malformed(path="$", message=f"a value does not fit its column: {bad}"))
        return Success(made)

    return hold


def with_failures(table: pa.Table, errors: Mapping[int, LLMError]) -> pa.Table:
    """Have rows say that their answer could not be read, and why."""
    if not errors:
        return table
    failed = pa.array([at in errors for at in range(len(table))])
    said = {
        "status": ["error"] * len(errors),
        "error_type": [error_type_name(error) for error in errors.values()],
        "error": [str(error) for error in errors.values()],
    }
    for name, texts in said.items():
        plain = table.column(name).cast(pa.string()).combine_chunks()
        replaced = pc.replace_with_mask(plain, failed, pa.array(texts, pa.string()))
        table = _replace_column(table, name, replaced.cast(table.schema.field(name).type))
    return table


def _replace_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    """Put a column in the place of another, with what the schema says of it."""
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at).with_type(column.type), column)


def struct_fields_table(parsed: pa.ChunkedArray) -> pa.Table:
    """Take a struct column apart into a table of its fields; a null struct is a row of nulls."""
    whole = parsed.combine_chunks()
    array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    return pa.table(array.flatten(), names=[field.name for field in array.type])
