"""Arrow values as text files hold them: what JSON knows stays, all else becomes plain text."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, time
from decimal import Decimal
from typing import Any, Final

import msgspec
import pyarrow as pa

_ENCODER: Final = msgspec.json.Encoder()


def values(column: pa.ChunkedArray) -> list[Any]:
    """Give a column's values as JSON takes them.

    Decimals and times become text, bytes their hexadecimal digits, and nan null; lists and structs keep their form.

    Examples
    --------
    >>> values(pa.chunked_array([[b"ab", None]])), values(pa.chunked_array([[{"x": Decimal("0E-9")}]]))
    (['6162', None], [{'x': '0.000000000'}])
    """
    return [plain(value) for value in column.to_pylist()]


def text_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column that a CSV file can hold: numbers, truth values and text stay, nested values become JSON text.

    Examples
    --------
    >>> text_column(pa.chunked_array([[["a", "b"], None]])).to_pylist()
    ['["a","b"]', None]
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if any(holds(kind) for holds in NATIVE):
        return column
    return pa.chunked_array([[None if value is None else _text(value) for value in values(column)]], pa.string())


NATIVE: Final = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_null,
)
"""Types that a CSV file holds as they are."""


def plain(value: Any) -> Any:
    """Bring one value to what JSON takes.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> plain([datetime(2026, 11, 22, tzinfo=UTC), float("nan"), Decimal("1.50")])
    ['2026-11-22T00:00:00Z', None, '1.50']
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    for kind, form in FORMS:
        if isinstance(value, kind):
            return form(value)
    return str(value)


def _time(value: date | time) -> str:
    """Write a time as ISO 8601 does, UTC as Z."""
    said = value.isoformat()
    return f"{said.removesuffix('+00:00')}Z" if said.endswith("+00:00") else said


FORMS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...]] = (
    (float, lambda value: value if math.isfinite(value) else None),
    (Decimal, lambda value: format(value, "f")),
    (bytes, bytes.hex),
    (dict, lambda value: {str(key): plain(each) for key, each in value.items()}),
    ((list, tuple), lambda value: [plain(each) for each in value]),
    ((date, time), _time),
)
"""What becomes of values that JSON does not take as they are; a datetime is a date, too."""


def line(row: dict[str, Any]) -> bytes:
    """Write one row as a line of JSON."""
    return _ENCODER.encode(row) + b"\n"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _ENCODER.encode(value).decode()
