"""Structured outputs: responses to typed columns, and responses to one of several labels.

A schema is converted to one Arrow type, so that ``parsed`` is a struct column; a response that does not fit becomes an
error of its row, with text, tokens and cost kept. Labels are requested by a schema where the provider supports one and
by instruction always, and are recognized in free text, too.
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

from llmhub.core.errors import BadRequestError, LLMError, Malformed, error_type_name, invalid
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

SCALAR_TYPES: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
"""Arrow types of JSON schema types."""
MAX_DEPTH: Final = 30
"""Nesting depth below which values are kept as JSON text; bounds recursive schemas."""


# Schemas


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The type of structured outputs.

    Parameters
    ----------
    schema
        The JSON schema sent to the provider.
    arrow_type
        The struct type of the ``parsed`` column.
    parse
        Function of a response's text that returns plain JSON values.
    """

    schema: Schema
    arrow_type: pa.DataType
    parse: ResponseParser


def output_schema(output_type: object) -> Result[OutputSchema, LLMError]:
    """Return the schema, Arrow type and parser of ``output_type``: a pydantic model, a dataclass, a JSON schema, ...

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    ...     age: int | None
    >>> person = output_schema(Person).unwrap()
    >>> person.arrow_type
    StructType(struct<name: string, age: int64>)
    >>> person.parse('{"name": "Ada", "age": 36}').unwrap()
    {'name': 'Ada', 'age': 36}
    """
    schema_result, parser_result = schema_of(output_type), response_parser(output_type)
    for result in (schema_result, parser_result):
        if not is_successful(result):
            return Failure(result.failure())
    schema = schema_result.unwrap()
    data_type = arrow_type(schema.schema, schema.schema)
    if not pa.types.is_struct(data_type):
        data_type = pa.struct([pa.field(WRAPPER_KEY, data_type)])
    return Success(OutputSchema(schema, data_type, _builtin_parser(output_type, schema, parser_result.unwrap())))


def _builtin_parser(output_type: object, schema: Schema, parse: ResponseParser) -> ResponseParser:
    """Return a parser whose values are plain JSON values rather than instances of ``output_type``."""
    if isinstance(output_type, (Mapping, Schema)):
        return parse
    wrapped = is_wrapped(schema)

    def parse_builtins(text: str) -> Result[Any, LLMError]:
        parsed = parse(text)
        if not is_successful(parsed):
            return parsed
        value = _to_builtins(parsed.unwrap())
        return Success({WRAPPER_KEY: value} if wrapped else value)

    return parse_builtins


def _to_builtins(value: Any) -> Any:
    """Convert an instance of any supported type to plain JSON values."""
    return msgspec.to_builtins(value, enc_hook=_enc_hook, str_keys=True)


def _enc_hook(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    raise NotImplementedError(f"{type(value).__name__} has no JSON representation")


def arrow_type(schema: Any, root: Mapping[str, Any], depth: int = 0) -> pa.DataType:
    """Return the Arrow type of a JSON schema; string, for JSON text, where the schema allows several types.

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
    alternatives = node.get("anyOf") or node.get("oneOf")
    if alternatives:
        resolved = (resolve_ref(alternative, root) for alternative in alternatives)
        non_null = [alternative for alternative in resolved if alternative.get("type") != "null"]
        return _common_type([arrow_type(alternative, root, depth + 1) for alternative in non_null])
    names = [name for name in _type_names(node) if name != "null"]
    if not names and ("enum" in node or "const" in node):
        return _enum_type(node["enum"] if "enum" in node else [node["const"]])
    if len(names) != 1:
        return _common_type([SCALAR_TYPES.get(name, pa.string()) for name in names])
    return _named_type(names[0], node, root, depth)


def _named_type(name: str, node: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> pa.DataType:
    properties = node.get("properties")
    if name == "array":
        return pa.list_(arrow_type(node["items"], root, depth + 1)) if node.get("items") else pa.string()
    if name == "object" and properties:
        return pa.struct([pa.field(key, arrow_type(value, root, depth + 1)) for key, value in properties.items()])
    return SCALAR_TYPES.get(name, pa.string())


def _type_names(node: Mapping[str, Any]) -> list[str]:
    names = node.get("type")
    return [names] if isinstance(names, str) else ["object"] if "properties" in node else list(names or ())


def _enum_type(values: Sequence[Any]) -> pa.DataType:
    names = {bool: "boolean", int: "integer", float: "number"}
    return _common_type([SCALAR_TYPES[names.get(type(value), "string")] for value in values if value is not None])


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    """Return the single type, float for integers and floats, or string."""
    distinct = set(types)
    if len(distinct) == 1:
        return types[0]
    return pa.float64() if distinct == {pa.int64(), pa.float64()} else pa.string()


# Values


def to_arrow_value(value: Any, data_type: pa.DataType) -> Any:
    """Convert a JSON value to what its Arrow type accepts; values of string type that are not strings to JSON text.

    Examples
    --------
    >>> data_type = pa.struct([("a", pa.string()), ("b", pa.list_(pa.float64()))])
    >>> to_arrow_value({"a": {"x": 1}, "b": [1]}, data_type)
    {'a': '{"x": 1}', 'b': [1.0]}
    """
    if value is None:
        return None
    if pa.types.is_struct(data_type):
        return {field.name: to_arrow_value(value.get(field.name), field.type) for field in data_type}
    if pa.types.is_list(data_type):
        return [to_arrow_value(item, data_type.value_type) for item in value]
    if pa.types.is_string(data_type):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if pa.types.is_floating(data_type):
        return float(value)
    return int(value) if pa.types.is_integer(data_type) else value


def parse_structured_outputs(table: pa.Table, output: OutputSchema) -> pa.Table:
    """Parse the responses of a results table: ``parsed`` becomes a struct column.

    A response that does not fit the schema becomes an error: ``error_type`` is ``Malformed``, and ``error`` names the
    path. Its text, tokens and cost are kept.
    """
    statuses, reasons = table.column("status").cast(pa.string()), table.column("finish_reason").cast(pa.string())
    rows = zip(statuses.to_pylist(), table.column("response").to_pylist(), reasons.to_pylist(), strict=True)
    values: list[Any] = []
    errors: dict[int, LLMError] = {}
    for row, (status, text, reason) in enumerate(rows):
        parsed = _parse_response(output, text or "", reason) if status == "ok" else Success(None)
        values.append(parsed.value_or(None))
        if not is_successful(parsed):
            errors[row] = parsed.failure()
    return with_failures(_replace_column(table, "parsed", pa.array(values, output.arrow_type)), errors)


def _parse_response(output: OutputSchema, text: str, finish_reason: str) -> Result[Any, LLMError]:
    """Parse one response; the error also says if the response was cut off or refused."""
    parsed = output.parse(text).bind(_to_column_value(output.arrow_type))
    if is_successful(parsed) or finish_reason not in FINISH_REASON_CAUSES:
        return parsed
    message = f"{FINISH_REASON_CAUSES[finish_reason]}: {parsed.failure().message}"
    return Failure(Malformed(path="$", message=message))


def _to_column_value(data_type: pa.DataType) -> Callable[[Any], Result[Any, LLMError]]:
    def convert(value: Any) -> Result[Any, LLMError]:
        try:
            converted = to_arrow_value(value, data_type)
            pa.scalar(converted, data_type)
        except (pa.ArrowException, AttributeError, TypeError, ValueError, OverflowError) as error:
            return Failure(Malformed(path="$", message=f"a value does not fit its column: {error}"))
        return Success(converted)

    return convert


def with_failures(table: pa.Table, errors: Mapping[int, LLMError]) -> pa.Table:
    """Return the results with these rows changed to errors."""
    if not errors:
        return table
    mask = pa.array([row in errors for row in range(len(table))])
    replacements = {
        "status": ["error"] * len(errors),
        "error_type": [error_type_name(error) for error in errors.values()],
        "error": [str(error) for error in errors.values()],
    }
    for name, texts in replacements.items():
        column = table.column(name).cast(pa.string()).combine_chunks()
        replaced = pc.replace_with_mask(column, mask, pa.array(texts, pa.string()))
        table = _replace_column(table, name, replaced.cast(table.schema.field(name).type))
    return table


def _replace_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    """Replace a column, keeping its field's metadata."""
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index).with_type(column.type), column)


def struct_fields_table(parsed: pa.ChunkedArray) -> pa.Table:
    """Return the fields of a struct column as a table; a null struct is a row of nulls."""
    combined = parsed.combine_chunks()
    array = combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
    return pa.table(array.flatten(), names=[field.name for field in array.type])


# Labels

LABEL_FIELD: Final = "label"
LABEL_PUNCTUATION: Final = " \t\r\n.,;:!?\"'`*_()[]{}<>\u201c\u201d\u2018\u2019\u00ab\u00bb"
"""Characters that models write around a label."""
LABEL_PREFIX: Final = re.compile(r"^.{0,60}?[:=]\s*", re.DOTALL)
"""Text that models write before a label, such as ``Label:``."""


def parse_labels(labels: Any) -> dict[str, Any]:
    """Return labels by their text.

    Parameters
    ----------
    labels
        Strings or numbers, an enum, or a mapping of labels to descriptions.

    Raises
    ------
    BadRequestError
        There are fewer than two labels, or two that `normalize_label` makes equal.

    Examples
    --------
    >>> parse_labels(["yes", "no"]), parse_labels([1, 2])
    ({'yes': 'yes', 'no': 'no'}, {'1': 1, '2': 2})
    """
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__iter__"):
        raise _invalid_labels(f"{labels!r:.80} is not a list of labels; pass a list such as ['positive', 'negative']")
    values = [item.value if isinstance(item, Enum) else item for item in labels]
    not_labels = [value for value in values if not isinstance(value, (str, int, float)) or not str(value).strip()]
    if not_labels:
        raise _invalid_labels(f"{not_labels[0]!r:.80} is not a label; pass two or more strings or numbers")
    seen: dict[str, Any] = {}
    for value in values:
        same = seen.setdefault(normalize_label(str(value)), value)
        if same is not value and (same, type(same)) != (value, type(value)):
            raise _invalid_labels(
                f"{same!r} and {value!r} differ only in case or punctuation, which is ignored in responses; rename one"
            )
    if len(seen) < 2:  # noqa: PLR2004 - a single label needs no model
        raise _invalid_labels(f"{values!r:.80} has {len(seen)} distinct labels; pass two or more strings or numbers")
    return {str(value): value for value in values}


def normalize_label(text: str) -> str:
    """Return a label without surrounding punctuation, case-folded, for comparison.

    Examples
    --------
    >>> normalize_label('**Positive**.')
    'positive'
    """
    return " ".join(text.strip(LABEL_PUNCTUATION).casefold().split())


def label_schema(labels: Iterable[str]) -> Schema:
    """Return the schema of an object with one of the labels as its only field."""
    label: dict[str, JSON] = {"type": "string", "enum": list(labels)}
    schema: dict[str, JSON] = {
        "type": "object",
        "properties": {LABEL_FIELD: label},
        "required": [LABEL_FIELD],
        "additionalProperties": False,
    }
    return Schema(schema, LABEL_FIELD)


def label_instruction(labels: Iterable[str], descriptions: Any) -> str:
    """Return the instruction to answer with one of the labels.

    Examples
    --------
    >>> print(label_instruction(["a", "b"], {"a": "the first", "b": "the second"}))
    Answer with exactly one of these labels, and nothing else:
    - a: the first
    - b: the second
    """
    items = descriptions.items() if isinstance(descriptions, Mapping) else ()
    by_label = {str(key.value if isinstance(key, Enum) else key): description for key, description in items}
    lines = [f"- {label}: {by_label[label]}" if by_label.get(label) else f"- {label}" for label in labels]
    return "\n".join(["Answer with exactly one of these labels, and nothing else:", *lines])


def with_label_options(
    labels: Mapping[str, Any], descriptions: Any, options: dict[str, Any], *, template: bool = True
) -> dict[str, Any]:
    """Return a call's options with the label schema added, and the instruction appended to the system prompt.

    ``template`` says whether the system prompt is a template over columns, in which braces are doubled.
    """
    instruction = label_instruction(labels, descriptions)
    system = options.get("system")
    if callable(system):

        def system_of_row(row: Any) -> str | None:
            text = system(row)
            return None if text is None else f"{text}\n\n{instruction}"

        combined: Any = system_of_row
    else:
        escaped = instruction.replace("{", "{{").replace("}", "}}") if template else instruction
        combined = f"{system}\n\n{escaped}" if system else escaped
    return {**options, "system": combined, "response_schema": label_schema(labels), "schema_or_words": True}


def find_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the one label that a response consists of; ``None`` if it consists of none, or of several.

    The whole text, its first and its last line are tried, with and without a prefix such as ``Label:``.

    Examples
    --------
    >>> labels = ["positive", "negative"]
    >>> [find_label(text, labels) for text in ('{"label": "negative"}', "Positive.", "Label: **negative**")]
    ['negative', 'positive', 'negative']
    >>> [find_label(text, labels) for text in ("not positive", "positive or negative", "")]
    [None, None, None]
    """
    by_normalized = {normalize_label(label): label for label in labels}
    lines = [line for line in text.strip().splitlines() if line.strip()]
    candidates = [_label_from_json(text), text, *(lines[:1] if len(lines) > 1 else ()), *lines[-1:]]
    candidates += [LABEL_PREFIX.sub("", candidate, count=1) for candidate in candidates[1:]]
    normalized = {normalize_label(candidate) for candidate in candidates}
    found = {by_normalized[candidate] for candidate in normalized if candidate in by_normalized}
    return found.pop() if len(found) == 1 else None


def _label_from_json(text: str) -> str:
    """Return the label of a response to `label_schema`; empty if it is not one."""
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
    label = decoded.get(LABEL_FIELD) if isinstance(decoded, dict) else decoded
    return label if isinstance(label, str) else str(label) if isinstance(label, (int, float)) else ""


def extract_labels(results: pa.Table, labels: Mapping[str, Any]) -> tuple[pa.Table, pa.Array]:
    """Return the results and their labels; a response without a label becomes an error of its row."""
    names = list(labels)
    errors: dict[int, LLMError] = {}
    found: list[str | None] = []
    statuses = results.column("status").cast(pa.string()).to_pylist()
    for row, (status, text) in enumerate(zip(statuses, results.column("response").to_pylist(), strict=True)):
        label = find_label(text or "", names) if status == "ok" else None
        found.append(label)
        if status == "ok" and label is None:
            message = f"the response {(text or '')[:80]!r} is not one of the labels {', '.join(map(repr, names))}"
            errors[row] = Malformed(path="$", message=message)
    label_type = pa.array(list(labels.values())).type
    values = pa.array([None if label is None else labels[label] for label in found], label_type)
    return with_failures(results, errors), values


def _invalid_labels(message: str) -> BadRequestError:
    return invalid("labels", message)
