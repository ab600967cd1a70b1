"""Answers to a schema as typed columns: JSON schema to Arrow type, text to values, and what did not fit said by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed, kind
from llmhub.core.fits import resolved
from llmhub.core.schemas import ENDINGS, WRAP, Reader, is_wrapped, reader_of, schema_of
from llmhub.core.types import Schema

PLAIN: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
DEEPEST: Final = 30
"""Levels from which on a value stays JSON text: a type that holds itself has no end."""


@dataclass(frozen=True, slots=True)
class Typing:
    """What answers must be, the Arrow type that holds them, and how a text is read.

    ``read`` gives plain JSON values.
    """

    schema: Schema
    arrow: pa.DataType
    read: Reader


def typing_of(wanted: object) -> Result[Typing, LLMError]:
    """Say how answers to ``wanted`` (a pydantic model, a dataclass, a JSON schema, ...) become typed columns.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    ...     age: int | None
    >>> made = typing_of(Person).unwrap()
    >>> made.arrow
    StructType(struct<name: string, age: int64>)
    >>> made.read('{"name": "Ada", "age": 36}').unwrap()
    {'name': 'Ada', 'age': 36}
    """
    made, reader = schema_of(wanted), reader_of(wanted)
    if not is_successful(made) or not is_successful(reader):
        return Failure(made.failure() if not is_successful(made) else reader.failure())
    schema = made.unwrap()
    arrow = arrow_type(schema.schema, schema.schema)
    if not pa.types.is_struct(arrow):
        arrow = pa.struct([pa.field(WRAP, arrow)])
    return Success(Typing(schema, arrow, _plain_reader(wanted, schema, reader.unwrap())))


def _plain_reader(wanted: object, schema: Schema, reader: Reader) -> Reader:
    """Have a reader give plain values."""
    checked = not isinstance(wanted, (Mapping, Schema))
    wrapped = checked and is_wrapped(schema)

    def read(text: str) -> Result[Any, LLMError]:
        read = reader(text)
        if not is_successful(read):
            return read
        if checked:
            plain = _builtin(read.unwrap())
            return Success({WRAP: plain} if wrapped else plain)
        return read

    return read


def _builtin(value: Any) -> Any:
    """Take a value of a type apart into what JSON knows; models of pydantic write themselves."""
    return msgspec.to_builtins(value, enc_hook=_dumped, str_keys=True)


def _dumped(value: Any) -> Any:
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
    node = resolved(schema, root)
    if not isinstance(node, Mapping) or depth > DEEPEST:
        return pa.string()
    choices = node.get("anyOf") or node.get("oneOf")
    if choices:
        real = [one for one in (resolved(choice, root) for choice in choices) if one.get("type") != "null"]
        kinds = list(dict.fromkeys(arrow_type(one, root, depth + 1) for one in real))
        return kinds[0] if len(kinds) == 1 else _common(kinds)
    named = [one for one in _names(node) if one != "null"]
    if not named and ("enum" in node or "const" in node):
        return _of_values(node["enum"] if "enum" in node else [node["const"]])
    if len(named) != 1:
        return _common([PLAIN.get(one, pa.string()) for one in named])
    return _of_kind(named[0], node, root, depth)


def _of_kind(name: str, node: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> pa.DataType:
    fields = node.get("properties")
    if name == "array":
        return pa.list_(arrow_type(node["items"], root, depth + 1)) if node.get("items") else pa.string()
    if name == "object" and fields:
        return pa.struct([pa.field(one, arrow_type(what, root, depth + 1)) for one, what in fields.items()])
    return PLAIN.get(name, pa.string())


def _names(node: Mapping[str, Any]) -> list[str]:
    kinds = node.get("type")
    return [kinds] if isinstance(kinds, str) else ["object"] if "properties" in node else list(kinds or ())


def _of_values(values: Sequence[Any]) -> pa.DataType:
    names = {bool: "boolean", int: "integer", float: "number"}
    return _common([PLAIN[names.get(type(value), "string")] for value in values if value is not None])


def _common(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """Give the one type, the wider of two kinds of numbers, or text."""
    distinct = set(kinds)
    if len(distinct) == 1:
        return kinds[0]
    return pa.float64() if distinct == {pa.int64(), pa.float64()} else pa.string()


def held(value: Any, kind_: pa.DataType) -> Any:
    """Bring a plain value to what its Arrow type takes: JSON text where that is text and the value is none.

    Examples
    --------
    >>> held({"a": {"x": 1}, "b": [1]}, pa.struct([("a", pa.string()), ("b", pa.list_(pa.float64()))]))
    {'a': '{"x": 1}', 'b': [1.0]}
    """
    if value is None:
        return None
    if pa.types.is_struct(kind_):
        return {field.name: held(value.get(field.name), field.type) for field in kind_}
    if pa.types.is_list(kind_):
        return [held(one, kind_.value_type) for one in value]
    if pa.types.is_string(kind_):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return float(value) if pa.types.is_floating(kind_) else int(value) if pa.types.is_integer(kind_) else value


def typed(table: pa.Table, typing: Typing) -> pa.Table:
    """Read the answers of a results table: ``parsed`` becomes a struct, and an answer that does not fit an error.

    The text of such an answer, its tokens and its cost stay; ``error_type`` is ``Malformed``, and ``error`` says where.
    """
    statuses, reasons = table.column("status").cast(pa.string()), table.column("finish_reason").cast(pa.string())
    rows = zip(statuses.to_pylist(), table.column("response").to_pylist(), reasons.to_pylist(), strict=True)
    values: list[Any] = []
    wrong: dict[int, LLMError] = {}
    for at, (status, text, reason) in enumerate(rows):
        read = _read(typing, text or "", reason) if status == "ok" else Success(None)
        values.append(read.value_or(None))
        if not is_successful(read):
            wrong[at] = read.failure()
    return with_failures(_with(table, "parsed", pa.array(values, typing.arrow)), wrong)


def _read(typing: Typing, text: str, reason: str) -> Result[Any, LLMError]:
    """Read one answer, and say why where it was cut short or refused."""
    read = typing.read(text).bind(_holding(typing.arrow))
    if is_successful(read) or reason not in ENDINGS:
        return read
    return Failure(Malformed(path="$", message=f"{ENDINGS[reason]}: {read.failure().message}"))


def _holding(kind_: pa.DataType) -> Callable[[Any], Result[Any, LLMError]]:
    def hold(value: Any) -> Result[Any, LLMError]:
        try:
            made = held(value, kind_)
            pa.scalar(made, kind_)
        except (pa.ArrowException, AttributeError, TypeError, ValueError, OverflowError) as bad:
            return Failure(Malformed(path="$", message=f"a value does not fit its column: {bad}"))
        return Success(made)

    return hold


def with_failures(table: pa.Table, wrong: Mapping[int, LLMError]) -> pa.Table:
    """Have rows say that their answer could not be read, and why."""
    if not wrong:
        return table
    failed = pa.array([at in wrong for at in range(len(table))])
    said = {
        "status": ["error"] * len(wrong),
        "error_type": [kind(error) for error in wrong.values()],
        "error": [str(error) for error in wrong.values()],
    }
    for name, texts in said.items():
        plain = table.column(name).cast(pa.string()).combine_chunks()
        replaced = pc.replace_with_mask(plain, failed, pa.array(texts, pa.string()))
        table = _with(table, name, replaced.cast(table.schema.field(name).type))
    return table


def _with(table: pa.Table, name: str, column: Any) -> pa.Table:
    """Put a column in the place of another, with what the schema says of it."""
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at).with_type(column.type), column)


def fields_of(parsed: pa.ChunkedArray) -> pa.Table:
    """Take a struct column apart into a table of its fields; a null struct is a row of nulls."""
    whole = parsed.combine_chunks()
    array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    return pa.table(array.flatten(), names=[field.name for field in array.type])
