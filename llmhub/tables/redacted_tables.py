"""Redact the texts of a table, whatever their type: strings, dictionaries, lists and structs of strings."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from llmhub.security.redaction import Redactor, map_json_text


def redact_table(table: pa.Table, redactor: Redactor) -> pa.Table:
    """Return a table with each text in it redacted; columns without text are the same.

    Examples
    --------
    >>> redacted = redact_table(pa.table({"n": [1], "mail": [["ann@example.org", None]]}), Redactor())
    >>> redacted.to_pylist()
    [{'n': 1, 'mail': ['[EMAIL_ADDRESS]', None]}]
    """
    columns = [_redact_column(column, redactor) for column in table.columns]
    return pa.table(columns, schema=table.schema)


def _redact_column(column: pa.ChunkedArray, redactor: Redactor) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _redact_column(column.cast(kind.value_type), redactor).dictionary_encode().cast(kind)
    if not _has_text(kind):
        return column
    values = column.to_pylist()
    changed = [_redact_value(value, redactor) for value in values]
    return column if changed == values else pa.chunked_array([pa.array(changed, kind)])


def _redact_value(value: Any, redactor: Redactor) -> Any:
    match value:
        case str():
            return map_json_text(value, redactor.redact)
        case list():
            return [_redact_value(item, redactor) for item in value]
        case tuple():  # an entry of a map
            return tuple([_redact_value(item, redactor) for item in value])
        case dict():
            return {name: _redact_value(item, redactor) for name, item in value.items()}
        case _:
            return value


def _has_text(kind: pa.DataType) -> bool:
    """Return whether values of this type have strings in them."""
    if pa.types.is_nested(kind):
        return any(_has_text(kind.field(index).type) for index in range(kind.num_fields))
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
