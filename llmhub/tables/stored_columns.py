"""Stored answers to columns: whole blocks of bytes read at once, without an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.serialization import FINISH_REASONS, SEPARATOR, TEXT_LAYOUT, UNKNOWN_COUNT
from llmhub.engine.block_lookup import TEXT_FIELDS, Int64Array, StoredBlock
from llmhub.tables.cost_columns import TokenColumns
from llmhub.tables.schema import RESULTS

ArrowColumns: TypeAlias = Mapping[str, "pa.Array | pa.ChunkedArray"]
"""Columns of equal length by name."""


MICRO: Final = 1_000_000


MAX_CHUNK_BYTES: Final = 1 << 29
"""Most bytes in one chunk of a column, well below what an offset of 32 bits reaches."""


def block_columns(block: StoredBlock) -> dict[str, pa.Array]:
    """Read a block: the columns that an answer fills, one row for each of its answers."""
    fixed = block.fixed
    rows = len(fixed)
    text, served, request, dropped = _text_columns(block)
    return {
        "response": text,
        "served_model": _empty_to_null(served),
        "request_id": _empty_to_null(request),
        "finish_reason": _take_words(FINISH_REASONS, fixed["finish_reason"]),
        "tool_calls": _empty_lists(rows, RESULTS.field("tool_calls").type),
        **{
            name: _masked_array(fixed["usage"][:, at], fixed["usage"][:, at] == UNKNOWN_COUNT, pa.int64())
            for at, name in enumerate(TokenColumns.__slots__)
        },
        "latency_s": _masked_array(fixed["latency_s"], np.isnan(fixed["latency_s"]), pa.float64()),
        "ttft_s": _masked_array(fixed["ttft_s"], np.isnan(fixed["ttft_s"]), pa.float64()),
        "queue_s": pa.nulls(rows, pa.float64()),
        "rate_wait_s": pa.nulls(rows, pa.float64()),
        "total_s": pa.nulls(rows, pa.float64()),
        "attempts": pa.array(np.zeros(rows, np.int16)),
        "cache_hit": pa.repeat(True, rows),
        "dropped_params": _split_names(dropped),
        "started_at": _timestamps(fixed["started_at"]),
        "status": pa.repeat("ok", rows),
        "error_type": pa.nulls(rows, pa.string()),
        "error": pa.nulls(rows, pa.string()),
    }


def iter_segments(blocks: Sequence[StoredBlock], size: int) -> Iterator[tuple[int, int, StoredBlock | None]]:
    """Cut the positions 0 up to ``size`` into stretches, each with the block that answers some of it, if any."""
    at = 0
    for block in blocks:
        low, high = int(block.positions[0]), int(block.positions[-1]) + 1
        if at < low:
            yield at, low, None
        yield low, high, block
        at = high
    if at < size:
        yield at, size, None


def missing_positions(low: int, high: int, block: StoredBlock) -> Int64Array:
    """Name the positions of a stretch that its block leaves open."""
    open_ = np.ones(high - low, np.bool_)
    open_[block.positions - low] = False
    return np.flatnonzero(open_) + low


def interleave(low: int, high: int, block: StoredBlock, rest: ArrowColumns) -> dict[str, pa.Array]:
    """Put a block's rows and those of its `missing_positions` in the order of their positions."""
    order = np.empty(high - low, np.int64)
    order[block.positions - low] = np.arange(len(block.positions))
    order[missing_positions(low, high, block) - low] = np.arange(len(block.positions), high - low)
    places = pa.array(order)
    return {name: pa.concat_arrays([column, rest[name]]).take(places) for name, column in block_columns(block).items()}


def concat_columns(parts: Iterable[dict[str, pa.Array]]) -> dict[str, pa.ChunkedArray]:
    """Put stretches one after another, in as few chunks as can be; their columns are let go of one by one."""
    groups: list[list[dict[str, pa.Array]]] = [[]]
    size = 0
    for part in parts:
        longest = max(column.nbytes for column in part.values())
        if groups[-1] and size + longest > MAX_CHUNK_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += longest
    names = tuple(groups[0][0]) if groups[0] else ()
    return {
        name: pa.chunked_array([pa.concat_arrays([part.pop(name) for part in group]) for group in groups])
        for name in names
    }


def _text_columns(block: StoredBlock) -> list[pa.Array]:
    """Cut the texts out of the bytes."""
    if (np.diff(block.starts) > 0).all():
        return _slice_texts(block.values, block.starts, block.fixed)
    # In another order than they lie, or one of them twice.
    starts, first, places = np.unique(block.starts, return_index=True, return_inverse=True)
    return [texts.take(pa.array(places)) for texts in _slice_texts(block.values, starts, block.fixed[first])]


def _slice_texts(values: bytes, starts: Int64Array, fixed: np.ndarray[Any, Any]) -> list[pa.Array]:
    """Cut texts as they lie: as every (n + 1)th of a row of texts without gaps, to be taken at once."""
    rows, many = len(fixed), len(TEXT_FIELDS) + 1
    ends = np.empty((rows, many), np.int64)
    ends[:, 0] = starts + TEXT_LAYOUT.size
    for at, name in enumerate(TEXT_FIELDS):
        ends[:, at + 1] = ends[:, at] + fixed[name]
    whole = _binary_array(values, ends.ravel())
    return [_decode_utf8(whole.take(pa.array(np.arange(at, many * rows, many)))) for at in range(1, many)]


def _binary_array(values: bytes, ends: Int64Array) -> pa.Array:
    """Give the stretches of bytes that end there, one after another."""
    short = len(values) < 2**31
    offsets = np.concatenate(([0], ends)).astype(np.int32 if short else np.int64)
    kind = pa.binary() if short else pa.large_binary()
    return pa.Array.from_buffers(kind, len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def _decode_utf8(texts: pa.Array) -> pa.Array:
    """Read bytes as UTF-8, which they are unless somebody made a value by hand."""
    try:
        return texts.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([text.decode(errors="replace") for text in texts.to_pylist()], pa.string())


def _empty_to_null(texts: pa.Array) -> pa.Array:
    """Take an empty name as none."""
    absent = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(absent, None, texts) if pc.any(absent).as_py() else texts


def _take_words(words: Sequence[str], places: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(places.astype(np.int32)))


def _split_names(dropped: pa.Array) -> pa.Array:
    """Take joined names apart: the same few recur in every row."""
    encoded = dropped.dictionary_encode()
    lists = [names.split(SEPARATOR) if names else [] for names in encoded.dictionary.to_pylist()]
    return pa.array(lists, RESULTS.field("dropped_params").type).take(encoded.indices)


def _empty_lists(rows: int, kind: pa.DataType) -> pa.Array:
    """Give lists of nothing."""
    return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], kind.value_type))


def _masked_array(values: np.ndarray[Any, Any], absent: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    return pa.array(np.ascontiguousarray(values), kind, mask=absent)


def _timestamps(seconds: np.ndarray[Any, Any]) -> pa.Array:
    """Give times since the epoch; 0 stands for none."""
    absent = (seconds == 0) | ~np.isfinite(seconds)
    micros = (np.where(absent, 0, seconds) * MICRO).astype(np.int64)
    return _masked_array(micros, absent, pa.int64()).cast(RESULTS.field("started_at").type)
