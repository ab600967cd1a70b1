"""What a row says, as 32 bytes: the same for the same values, in whatever kind of column they stand.

A row's fingerprint is the SHA-256 of its values in the order of the columns' names. The width of a number, the kind of
a string column, chunks and dictionaries do not count; a missing value differs from an empty one, and -0.0 is 0.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, InvalidRequest

Fingerprints: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.uint8]]"
"""Fingerprints: one row of 32 bytes each."""


IntArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"


FINGERPRINT_SIZE: Final = 32


ROWS_PER_BATCH: Final = 65_536
"""Rows that are written out at a time."""


_JSON: Final = msgspec.json.Encoder(order="deterministic")


def fingerprints(
    table: pa.Table, names: Sequence[str] | None = None, *, prefix: Fingerprints | None = None
) -> Fingerprints:
    """Give the fingerprint of each row.

    Parameters
    ----------
    table
        Any columns that Arrow has.
    names
        The columns that count; all of them where it is left out. Their order does not matter.
    prefix
        Fingerprints of other columns of these rows, which count, too.

    Returns
    -------
    numpy.ndarray
        ``(rows, 32)`` bytes.

    Raises
    ------
    InvalidRequestError
        A column is not there.

    Notes
    -----
    Laws: rows of equal values have equal fingerprints, whatever the order of rows and columns, the chunks, and the
    widths of their types; any value, name or kind (number, text, truth value, ...) that differs changes it.

    Examples
    --------
    >>> a = pa.table({"x": pa.array([1, 2], pa.int8()), "y": ["a", None]})
    >>> b = pa.table({"y": pa.array([None, "a"], pa.large_string()), "x": pa.array([2, 1])})
    >>> fingerprints(a)[0].tobytes() == fingerprints(b)[1].tobytes()
    True
    """
    chosen = sorted(table.column_names if names is None else names)
    missing = next((name for name in chosen if name not in table.column_names), None)
    if missing is not None:
        said = f"there is no column {missing!r}; there are {', '.join(table.column_names)}"
        raise BadRequestError(InvalidRequest(path="columns", message=said))
    head = _JSON.encode([(name, _kind(table.schema.field(name).type)) for name in chosen])
    before = (
        None
        if prefix is None
        else pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(FINGERPRINT_SIZE), len(prefix), [None, pa.py_buffer(np.ascontiguousarray(prefix))]
        )
    )
    found: list[bytes] = []
    for start in range(0, table.num_rows, ROWS_PER_BATCH):
        some = table.select(chosen).slice(start, ROWS_PER_BATCH)
        written = _written(head, some, None if before is None else before.slice(start, ROWS_PER_BATCH))
        found += [hashlib.sha256(row).digest() for row in written]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, FINGERPRINT_SIZE)


def content_hash(prints: Fingerprints) -> str:
    """Give one hash of many fingerprints, in hexadecimal; their order does not matter, how often each comes does.

    Examples
    --------
    >>> content_hash(fingerprints(pa.table({"x": [1, 2]}))) == content_hash(fingerprints(pa.table({"x": [2, 1]})))
    True
    """
    return hashlib.sha256(np.ascontiguousarray(prints[sort_order(prints)]).tobytes()).hexdigest()


def sort_order(prints: Fingerprints, ranks: IntArray | None = None) -> IntArray:
    """Give the order in which rows stand: by ``ranks`` first, then by their fingerprints."""
    words = _words(prints)
    keys = [words[:, at] for at in reversed(range(words.shape[1]))]
    return np.lexsort(keys if ranks is None else [*keys, ranks])


def dense_ranks(prints: Fingerprints) -> IntArray:
    """Give each row its place among the different fingerprints, from 0."""
    order = sort_order(prints)
    words = _words(prints)[order]
    new = np.ones(len(order), np.int64)
    new[1:] = (words[1:] != words[:-1]).any(axis=1)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.cumsum(new) - 1
    return ranks


def _words(prints: Fingerprints) -> Any:
    """Read the first half of each fingerprint as two numbers: the second half decides nothing that this leaves open."""
    return np.ascontiguousarray(prints).view(">u8")[:, :2].astype(np.uint64)


def _written(head: bytes, some: pa.Table, before: pa.Array | None) -> list[bytes]:
    """Write rows out: each value after its length, a missing one as a dash, so that none runs into another."""
    if not some.num_columns:
        return [head] * some.num_rows
    values = [_measured(_bytes(_whole(column))) for column in some.columns]
    if before is not None:
        values = [before.cast(pa.binary()).cast(LARGE_BINARY), *values]
    first, end = pa.scalar(head, LARGE_BINARY), pa.scalar(b";", LARGE_BINARY)
    joined = pc.binary_join_element_wise(first, *values, end, null_handling="replace", null_replacement=b"-")
    rows: list[bytes] = joined.to_pylist()
    return rows


LARGE_BINARY: Final = pa.large_binary()


def _measured(values: pa.Array) -> pa.Array:
    lengths = pc.binary_length(values).cast(pa.large_string()).cast(LARGE_BINARY)
    return pc.binary_join_element_wise(lengths, values, pa.scalar(b":", LARGE_BINARY))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _kind(kind: pa.DataType) -> str:
    """Name what a type holds, whatever its width."""
    if isinstance(kind, pa.ExtensionType):
        return _kind(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    return next((name for name, holds, _ in VALUE_KINDS if holds(kind)), "json")


def _bytes(array: pa.Array) -> pa.Array:
    """Write each value as bytes."""
    write = next((write for _, holds, write in VALUE_KINDS if holds(array.type)), _nested)
    return write(array).cast(LARGE_BINARY)


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(pa.large_string())


def _bits(array: pa.Array) -> pa.Array:
    """Write a float by its bits, which is exact; there is one zero and one not-a-number, and that is missing."""
    values = np.array(array.cast(pa.float64()).to_numpy(zero_copy_only=False)) + 0.0
    absent = np.isnan(values)
    return pa.array(values.view(np.int64), mask=absent).cast(pa.large_string())


def _moments(array: pa.Array) -> pa.Array:
    """Write a time in microseconds since the epoch."""
    return array.cast(pa.timestamp("us", tz=array.type.tz)).cast(pa.int64()).cast(pa.large_string())


def _blobs(array: pa.Array) -> pa.Array:
    return array.cast(pa.binary()) if pa.types.is_fixed_size_binary(array.type) else array


def _nested(array: pa.Array) -> pa.Array:
    """Write what has parts as JSON, its keys sorted."""
    if pa.types.is_list(array.type) and not len(array.flatten()):
        return pc.if_else(array.is_valid(), pa.scalar(b"[]", LARGE_BINARY), pa.scalar(None, LARGE_BINARY))
    values = [None if value is None else _JSON.encode(value) for value in array.to_pylist()]
    return pa.array(values, LARGE_BINARY)


def _is_text(kind: pa.DataType) -> bool:
    return str(kind) in {"string", "large_string", "string_view"}


def _is_binary(kind: pa.DataType) -> bool:
    return str(kind) in {"binary", "large_binary", "binary_view"} or bool(pa.types.is_fixed_size_binary(kind))


VALUE_KINDS: Final[tuple[tuple[str, Callable[[pa.DataType], Any], Callable[[pa.Array], pa.Array]], ...]] = (
    ("text", _is_text, _plain),
    ("whole", pa.types.is_integer, _plain),
    ("float", pa.types.is_floating, _bits),
    ("truth", pa.types.is_boolean, _plain),
    ("decimal", pa.types.is_decimal, _plain),
    ("moment", pa.types.is_timestamp, _moments),
    ("day", pa.types.is_date, lambda array: array.cast(pa.date32()).cast(pa.int32()).cast(pa.large_string())),
    ("bytes", _is_binary, _blobs),
    ("null", pa.types.is_null, lambda array: pa.nulls(len(array), pa.large_string())),
)
"""What columns hold: a name for it, how its types are known, and how its values are written."""
