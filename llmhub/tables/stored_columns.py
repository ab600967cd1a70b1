"""Blocks of stored responses to Arrow columns, without a Python object for each response.

A block is the concatenated bytes of many stored values, each a fixed-size header followed by its texts
(`llmhub.engine.block_lookup`). Numbers are read with numpy, texts as slices of one buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.serialization import FINISH_REASONS, SEPARATOR, TEXT_LAYOUT, UNKNOWN_COUNT
from llmhub.engine.block_lookup import TEXT_FIELDS, Int64Array, StoredBlock
from llmhub.tables.cost_columns import TokenColumns
from llmhub.tables.schema import MICROSECONDS_PER_S, RESULTS

ArrowColumns: TypeAlias = Mapping[str, "pa.Array | pa.ChunkedArray"]
"""Columns of equal length by name."""

MAX_CHUNK_BYTES: Final = 1 << 23
"""Bytes in one chunk of a column: joining more would need that much memory once again."""


def block_columns(block: StoredBlock) -> dict[str, pa.Array]:
    """Return the result columns of a block that depend on the response, one row per response."""
    fixed = block.fixed
    rows = len(fixed)
    text, served_model, request_id, dropped = _text_columns(block)
    is_hit = block.attempts is None
    waits = pa.nulls(rows, pa.float64()) if is_hit else pa.array(np.zeros(rows))
    return {
        "response": text,
        "served_model": _empty_to_null(served_model),
        "request_id": _empty_to_null(request_id),
        "finish_reason": _take_words(FINISH_REASONS, fixed["finish_reason"]),
        "tool_calls": _empty_lists(rows, RESULTS.field("tool_calls").type),
        **{
            name: _masked_array(fixed["usage"][:, index], fixed["usage"][:, index] == UNKNOWN_COUNT, pa.int64())
            for index, name in enumerate(TokenColumns.__slots__)
        },
        "latency_s": _masked_array(fixed["latency_s"], np.isnan(fixed["latency_s"]), pa.float64()),
        "ttft_s": _masked_array(fixed["ttft_s"], np.isnan(fixed["ttft_s"]), pa.float64()),
        "queue_s": waits,
        "rate_wait_s": waits,
        "total_s": pa.nulls(rows, pa.float64()),
        "attempts": pa.array(np.zeros(rows, np.int16) if block.attempts is None else block.attempts),
        "cache_hit": pa.repeat(is_hit, rows),
        "dropped_params": _split_names(dropped),
        "started_at": _timestamps(fixed["started_at"]),
        "status": pa.repeat("ok", rows),
        "error_type": pa.nulls(rows, pa.string()),
        "error": pa.nulls(rows, pa.string()),
    }


# Segments


def iter_segments(blocks: Sequence[StoredBlock], size: int) -> Iterator[tuple[int, int, StoredBlock | None]]:
    """Split the positions 0 to ``size`` into segments ``(start, stop, block)``.

    A block's segment spans from its first to its last position and may contain positions that are not in the block;
    the segments between blocks have ``None``.
    """
    start = 0
    for block in blocks:
        first, stop = int(block.positions[0]), int(block.positions[-1]) + 1
        if start < first:
            yield start, first, None
        yield first, stop, block
        start = stop
    if start < size:
        yield start, size, None


def missing_positions(start: int, stop: int, block: StoredBlock) -> Int64Array:
    """Return the positions from ``start`` to ``stop`` that are not in the block, in ascending order."""
    is_missing = np.ones(stop - start, np.bool_)
    is_missing[block.positions - start] = False
    return np.flatnonzero(is_missing) + start


def interleave(block: StoredBlock, positions: Int64Array, others: ArrowColumns) -> dict[str, pa.Array]:
    """Return the columns of a block's rows and of ``others``, which have these positions, by position."""
    indices = pa.array(np.argsort(np.concatenate([block.positions, positions])))
    return {
        name: pa.concat_arrays([column, others[name]]).take(indices) for name, column in block_columns(block).items()
    }


def concat_columns(segments: Iterable[dict[str, pa.Array]]) -> dict[str, pa.ChunkedArray]:
    """Concatenate segments into as few chunks as possible, each of at most `MAX_CHUNK_BYTES`.

    The segments are emptied column by column, so that peak memory is that of one extra column.
    """
    groups: list[list[dict[str, pa.Array]]] = [[]]
    group_bytes = 0
    for segment in segments:
        largest = max(column.nbytes for column in segment.values())
        if groups[-1] and group_bytes + largest > MAX_CHUNK_BYTES:
            groups.append([])
            group_bytes = 0
        groups[-1].append(segment)
        group_bytes += largest
    names = tuple(groups[0][0]) if groups[0] else ()
    return {
        name: pa.chunked_array([pa.concat_arrays([segment.pop(name) for segment in group]) for group in groups])
        for name in names
    }


# Texts


def _text_columns(block: StoredBlock) -> list[pa.Array]:
    """Return the columns of `TEXT_FIELDS`."""
    if (np.diff(block.starts) > 0).all():
        return _slice_texts(block.values, block.starts, block.fixed)
    # Values out of order, or one value used by several positions: slice each once, then reorder.
    starts, first, indices = np.unique(block.starts, return_index=True, return_inverse=True)
    return [texts.take(pa.array(indices)) for texts in _slice_texts(block.values, starts, block.fixed[first])]


def _slice_texts(values: bytes, starts: Int64Array, fixed: np.ndarray[Any, Any]) -> list[pa.Array]:
    """Slice the texts of values in ascending order.

    All bytes form one string array without gaps: per value the header with the bytes before it, then its texts. Each
    column is every n-th element of it.
    """
    rows, per_value = len(fixed), len(TEXT_FIELDS) + 1
    ends = np.empty((rows, per_value), np.int64)
    ends[:, 0] = starts + TEXT_LAYOUT.size
    for index, name in enumerate(TEXT_FIELDS):
        ends[:, index + 1] = ends[:, index] + fixed[name]
    slices = _binary_array(values, ends.ravel())
    return [
        _decode_utf8(slices.take(pa.array(np.arange(index, per_value * rows, per_value))))
        for index in range(1, per_value)
    ]


def _binary_array(values: bytes, ends: Int64Array) -> pa.Array:
    """Return consecutive slices of a buffer, given their ends, without copying."""
    fits_int32 = len(values) < 2**31
    offsets = np.concatenate(([0], ends)).astype(np.int32 if fits_int32 else np.int64)
    data_type = pa.binary() if fits_int32 else pa.large_binary()
    return pa.Array.from_buffers(data_type, len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def _decode_utf8(texts: pa.Array) -> pa.Array:
    """Decode bytes as UTF-8; invalid ones, which only a corrupt or hand-made value has, are replaced."""
    try:
        return texts.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([text.decode(errors="replace") for text in texts.to_pylist()], pa.string())


def _empty_to_null(texts: pa.Array) -> pa.Array:
    is_empty = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(is_empty, None, texts) if pc.any(is_empty).as_py() else texts


def _take_words(words: Sequence[str], indices: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(indices.astype(np.int32)))


def _split_names(dropped: pa.Array) -> pa.Array:
    """Split joined parameter names into lists; dictionary encoded first, since few combinations occur."""
    encoded = dropped.dictionary_encode()
    lists = [names.split(SEPARATOR) if names else [] for names in encoded.dictionary.to_pylist()]
    return pa.array(lists, RESULTS.field("dropped_params").type).take(encoded.indices)


# Other types


def _empty_lists(rows: int, list_type: pa.DataType) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], list_type.value_type))


def _masked_array(values: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], data_type: pa.DataType) -> pa.Array:
    return pa.array(np.ascontiguousarray(values), data_type, mask=mask)


def _timestamps(seconds: np.ndarray[Any, Any]) -> pa.Array:
    """Return epoch seconds as timestamps; 0 is null."""
    is_null = (seconds == 0) | ~np.isfinite(seconds)
    microseconds = (np.where(is_null, 0, seconds) * MICROSECONDS_PER_S).astype(np.int64)
    return _masked_array(microseconds, is_null, pa.int64()).cast(RESULTS.field("started_at").type)
