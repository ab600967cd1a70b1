"""Fingerprints of rows: 32 bytes that are equal for equal values, whatever the column types they are stored in.

A fingerprint is the SHA-256 of the row's values in the order of the column names. The width of a number, the kind of a
string column, chunks and dictionaries do not matter; a missing value differs from an empty one, and -0.0 equals 0.0.
Fingerprints are stored in datasets: any change of the encoding needs a new layout version, and the old one is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import invalid
from llmhub.evals.statistics import IntArray

Fingerprints: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.uint8]]"
"""Array of shape ``(rows, 32)``."""

FINGERPRINT_SIZE: Final = 32
ENCODING_VERSION: Final = 2
"""Latest version of the encoding; that of datasets of the same layout version."""
ROWS_PER_BATCH: Final = 65_536
"""Rows that are encoded at a time."""
LARGE_BINARY: Final = pa.large_binary()
_JSON: Final = msgspec.json.Encoder(order="deterministic")


def fingerprints(
    table: pa.Table,
    names: Sequence[str] | None = None,
    *,
    prefix: Fingerprints | None = None,
    version: int = ENCODING_VERSION,
) -> Fingerprints:
    """Return the fingerprint of each row.

    Parameters
    ----------
    table
        Columns of any Arrow type.
    names
        Columns to include, in any order; all by default.
    prefix
        Fingerprints of other columns of the same rows, to be included.
    version
        Version of the encoding. In version 1, timestamps without a time zone were encoded as those in UTC.

    Returns
    -------
    numpy.ndarray
        ``(rows, 32)`` bytes.

    Raises
    ------
    BadRequestError
        A column is missing.

    Notes
    -----
    Laws: rows with equal values have equal fingerprints, whatever the order of rows and columns, the chunks, and the
    widths of their types; a different value, name or kind (number, text, truth value, ...) changes the fingerprint.

    Examples
    --------
    >>> a = pa.table({"x": pa.array([1, 2], pa.int8()), "y": ["a", None]})
    >>> b = pa.table({"y": pa.array([None, "a"], pa.large_string()), "x": pa.array([2, 1])})
    >>> fingerprints(a)[0].tobytes() == fingerprints(b)[1].tobytes()
    True
    """
    selected = sorted(table.column_names if names is None else names)
    missing = next((name for name in selected if name not in table.column_names), None)
    if missing is not None:
        raise invalid("columns", f"there is no column {missing!r}; the columns are {', '.join(table.column_names)}")
    header = _JSON.encode([(name, _kind_name(table.schema.field(name).type, version)) for name in selected])
    prefix_array = None if prefix is None else _to_binary_array(prefix)
    digests: list[bytes] = []
    for start in range(0, table.num_rows, ROWS_PER_BATCH):
        batch = table.select(selected).slice(start, ROWS_PER_BATCH)
        batch_prefix = None if prefix_array is None else prefix_array.slice(start, ROWS_PER_BATCH)
        digests += [hashlib.sha256(row).digest() for row in _encode_rows(header, batch, batch_prefix)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, FINGERPRINT_SIZE)


def _to_binary_array(prints: Fingerprints) -> pa.Array:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(prints))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(FINGERPRINT_SIZE), len(prints), buffers)


def content_hash(prints: Fingerprints) -> str:
    """Return one hexadecimal SHA-256 of a multiset of fingerprints; their order does not matter.

    Examples
    --------
    >>> content_hash(fingerprints(pa.table({"x": [1, 2]}))) == content_hash(fingerprints(pa.table({"x": [2, 1]})))
    True
    """
    return hashlib.sha256(np.ascontiguousarray(prints[sort_order(prints)]).tobytes()).hexdigest()


def sort_order(prints: Fingerprints, ranks: IntArray | None = None) -> IntArray:
    """Return the indices that sort rows by ``ranks``, if given, and then by fingerprint."""
    words = _leading_words(prints)
    keys = [words[:, word] for word in reversed(range(words.shape[1]))]
    return np.lexsort(keys if ranks is None else [*keys, ranks])


def dense_ranks(prints: Fingerprints) -> IntArray:
    """Return the rank of each row among the distinct fingerprints, from 0."""
    order = sort_order(prints)
    words = _leading_words(prints)[order]
    is_new = np.ones(len(order), np.int64)
    is_new[1:] = (words[1:] != words[:-1]).any(axis=1)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.cumsum(is_new) - 1
    return ranks


def _leading_words(prints: Fingerprints) -> Any:
    """Return the first 16 bytes of each fingerprint as two integers; they are distinct for distinct rows."""
    return np.ascontiguousarray(prints).view(">u8")[:, :2].astype(np.uint64)


def _encode_rows(header: bytes, batch: pa.Table, prefix: pa.Array | None) -> list[bytes]:
    """Encode rows: each value after its length, a missing value as a dash, so that the encoding is unambiguous."""
    if not batch.num_columns:
        return [header] * batch.num_rows
    values = [_length_prefixed(_encode_values(_combined(column))) for column in batch.columns]
    if prefix is not None:
        values = [prefix.cast(pa.binary()).cast(LARGE_BINARY), *values]
    first, separator = pa.scalar(header, LARGE_BINARY), pa.scalar(b";", LARGE_BINARY)
    joined = pc.binary_join_element_wise(first, *values, separator, null_handling="replace", null_replacement=b"-")
    rows: list[bytes] = joined.to_pylist()
    return rows


def _length_prefixed(values: pa.Array) -> pa.Array:
    lengths = pc.binary_length(values).cast(pa.large_string()).cast(LARGE_BINARY)
    return pc.binary_join_element_wise(lengths, values, pa.scalar(b":", LARGE_BINARY))


def _combined(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without extension type and dictionary."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _kind_name(kind: pa.DataType, version: int) -> str:
    """Return the name of the kind of values a type holds, whatever its width."""
    if isinstance(kind, pa.BaseExtensionType):
        return _kind_name(kind.storage_type, version)
    if pa.types.is_dictionary(kind):
        return _kind_name(kind.value_type, version)
    if version > 1 and pa.types.is_timestamp(kind) and kind.tz is None:
        return "local time"
    return next((name for name, is_member, _ in VALUE_KINDS if is_member(kind)), "json")


def _encode_values(array: pa.Array) -> pa.Array:
    """Encode each value as bytes."""
    encode = next((encode for _, is_member, encode in VALUE_KINDS if is_member(array.type)), _encode_nested)
    return encode(array).cast(LARGE_BINARY)


def _encode_text(array: pa.Array) -> pa.Array:
    return array.cast(pa.large_string())


def _encode_floats(array: pa.Array) -> pa.Array:
    """Encode floats by their bits, which is exact; -0.0 becomes 0.0, and NaN a missing value."""
    values = np.array(array.cast(pa.float64()).to_numpy(zero_copy_only=False)) + 0.0
    return pa.array(values.view(np.int64), mask=np.isnan(values)).cast(pa.large_string())


def _encode_timestamps(array: pa.Array) -> pa.Array:
    """Encode timestamps in microseconds since the epoch, with a fraction where there are nanoseconds."""
    if array.type.unit != "ns":
        return array.cast(pa.timestamp("us", tz=array.type.tz)).cast(pa.int64()).cast(pa.large_string())
    nanoseconds = array.cast(pa.int64())
    microseconds = pc.divide(nanoseconds, 1000)
    rest = pc.subtract(nanoseconds, pc.multiply(microseconds, 1000))
    text = microseconds.cast(pa.large_string())
    with_rest = pc.binary_join_element_wise(text, rest.cast(pa.large_string()), pa.scalar(".", pa.large_string()))
    return pc.if_else(pc.equal(rest, 0), text, with_rest)


def _encode_dates(array: pa.Array) -> pa.Array:
    """Encode dates in days since the epoch."""
    return array.cast(pa.date32()).cast(pa.int32()).cast(pa.large_string())


def _encode_binary(array: pa.Array) -> pa.Array:
    return array.cast(pa.binary()) if pa.types.is_fixed_size_binary(array.type) else array


def _encode_nested(array: pa.Array) -> pa.Array:
    """Encode lists and structs as JSON with sorted keys."""
    if pa.types.is_list(array.type) and not len(array.flatten()):
        return pc.if_else(array.is_valid(), pa.scalar(b"[]", LARGE_BINARY), pa.scalar(None, LARGE_BINARY))
    values = [None if value is None else _JSON.encode(_jsonable(value)) for value in _python_values(array)]
    return pa.array(values, LARGE_BINARY)


def _python_values(array: pa.Array) -> list[Any]:
    """Return the values of an array; nanoseconds, which Python's types cannot hold, as integers."""
    try:
        return list(array.to_pylist())
    except (ValueError, pa.ArrowException):
        return [getattr(value, "value", None) for value in array]


def _jsonable(value: Any) -> Any:
    """Return a value that the JSON encoder knows; keys that are not text become text."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    known = value is None or isinstance(value, (bool, int, float, str, bytes, Decimal, date, time, timedelta, UUID))
    return value if known else str(value)


def _is_text(kind: pa.DataType) -> bool:
    return str(kind) in {"string", "large_string", "string_view"}


def _is_binary(kind: pa.DataType) -> bool:
    return str(kind) in {"binary", "large_binary", "binary_view"} or bool(pa.types.is_fixed_size_binary(kind))


VALUE_KINDS: Final[tuple[tuple[str, Callable[[pa.DataType], Any], Callable[[pa.Array], pa.Array]], ...]] = (
    ("text", _is_text, _encode_text),
    ("whole", pa.types.is_integer, _encode_text),
    ("float", pa.types.is_floating, _encode_floats),
    ("truth", pa.types.is_boolean, _encode_text),
    ("decimal", pa.types.is_decimal, _encode_text),
    ("moment", pa.types.is_timestamp, _encode_timestamps),
    ("day", pa.types.is_date, _encode_dates),
    ("bytes", _is_binary, _encode_binary),
    ("null", pa.types.is_null, lambda array: pa.nulls(len(array), pa.large_string())),
)
"""Kinds of values: name (part of the hash, so it must not change), predicate of the Arrow types, and encoder."""
