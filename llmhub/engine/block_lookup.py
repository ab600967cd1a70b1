"""Look-up of a block: the keys of a chunk, looked up in the store in one request and checked as arrays.

Responses of one text stay bytes from the store to the column that is built from them
(`llmhub.tables.stored_columns`); no object is made for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from zlib import crc32

import numpy as np
from returns.pipeline import is_successful

from llmhub.cache.store import ABSENT, KEY_BYTES, BlockValues, Store, lookup_block
from llmhub.core.serialization import (
    FINISH_REASONS,
    HEADER_SIZE,
    IS_TEXT,
    TEXT_LAYOUT,
    VALUE_VERSION,
    StoredResponse,
    is_corrupt,
    unpack,
)

if TYPE_CHECKING:
    from llmhub.engine.fan_out_types import PlannedItem

Int64Array: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

FIXED_DTYPE: Final = np.dtype(
    [
        ("version", "u1"),
        ("checksum", "<u4"),
        ("is_text", "u1"),
        ("finish_reason", "u1"),
        ("usage", "<i8", (5,)),
        ("latency_s", "<f8"),
        ("ttft_s", "<f8"),
        ("started_at", "<f8"),
        ("text", "<u4"),
        ("served_model", "<u2"),
        ("request_id", "<u2"),
        ("dropped", "<u2"),
    ]
)
"""The fields of `llmhub.core.serialization.TEXT_LAYOUT`: the fixed part of a stored response of one text."""
TEXT_FIELDS: Final = ("text", "served_model", "request_id", "dropped")
"""The fields that hold the lengths of the texts after the fixed part, in the order of the texts."""


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """The items of one chunk, created on demand.

    Parameters
    ----------
    positions
        Positions of the items, ascending.
    keys
        Keys of the items, 32 bytes each, concatenated.
    make_item
        Creates the item of an index.
    """

    positions: Int64Array
    keys: bytes
    make_item: Callable[[int], PlannedItem]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.positions)

    def __iter__(self) -> Iterator[PlannedItem]:
        """Create all items."""
        return map(self.make_item, range(len(self)))

    def look_up(self, store: Store) -> BlockLookup:
        """Look all keys up and check the values found."""
        return check_block(self, lookup_block(store, self.keys))


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Responses of one text each, as the bytes of a store.

    Parameters
    ----------
    positions
        Positions of the responses, ascending.
    values
        The stored values of all, concatenated, with gaps.
    starts
        The offset of each value in ``values``.
    fixed
        The fixed part of each value (`FIXED_DTYPE`).
    attempts
        If batches answered them in this run: the number of batches that each was sent in. ``None`` for responses from
        the store.
    """

    positions: Int64Array
    values: bytes
    starts: Int64Array
    fixed: np.ndarray[Any, Any]
    attempts: np.ndarray[Any, np.dtype[np.int16]] | None = None


@dataclass(frozen=True, slots=True)
class BlockLookup:
    """The responses in the store for a planned block. All indices are those of the block's items.

    Parameters
    ----------
    block
        The responses of one text each.
    unpacked
        Indices and responses of any other form.
    missing
        Indices without a usable value.
    damaged
        Those of them whose value is corrupt.
    """

    block: StoredBlock
    unpacked: Sequence[tuple[int, StoredResponse]]
    missing: Sequence[int]
    damaged: Sequence[int]


def check_block(planned: PlannedBlock, found: BlockValues) -> BlockLookup:
    """Validate the values found for a block.

    Law: an index is in the block or among the unpacked exactly when `unpack` accepts its value.
    """
    starts, sizes = np.asarray(found.starts), np.asarray(found.sizes)
    to_unpack = sizes != ABSENT
    ends = starts + sizes
    indices = np.flatnonzero(to_unpack & (sizes >= TEXT_LAYOUT.size))
    fixed = fixed_fields(found.values, starts[indices])
    text_sizes = sum((fixed[name].astype(np.int64) for name in TEXT_FIELDS), np.int64(0))
    checksums = _checksums(found.values, starts[indices] + HEADER_SIZE, ends[indices], planned.keys, indices)
    valid = (
        (fixed["version"] == VALUE_VERSION)
        & (fixed["is_text"] == IS_TEXT)
        & (fixed["finish_reason"] < len(FINISH_REASONS))
        & (text_sizes + TEXT_LAYOUT.size == sizes[indices])
        & (fixed["checksum"] == checksums)
    )
    in_block = indices[valid]
    to_unpack[in_block] = False
    unpacked: list[tuple[int, StoredResponse]] = []
    missing = np.flatnonzero(sizes == ABSENT).tolist()
    damaged: list[int] = []
    for index in np.flatnonzero(to_unpack).tolist():
        key = planned.keys[KEY_BYTES * index : KEY_BYTES * (index + 1)]
        stored = unpack(found.values[starts[index] : ends[index]], key)
        if is_successful(stored):
            unpacked.append((index, stored.unwrap()))
        else:
            missing.append(index)
            damaged += [index] if is_corrupt(stored.failure()) else []
    block = StoredBlock(planned.positions[in_block], found.values, starts[in_block], fixed[valid])
    return BlockLookup(block, unpacked, sorted(missing), damaged)


def count_by_model(positions: Int64Array, samples: int, n_models: int) -> list[int]:
    """Return the number of positions of each model, where positions are rows x models x samples.

    Examples
    --------
    >>> count_by_model(np.array([0, 1, 2, 4]), 2, 2)
    [3, 1]
    """
    counts: list[int] = np.bincount(positions // samples % n_models, minlength=n_models).tolist()
    return counts


def fixed_fields(values: bytes, starts: Int64Array) -> np.ndarray[Any, Any]:
    """Return the fixed part of each value as a structured array."""
    if not len(starts):
        return np.zeros(0, FIXED_DTYPE)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(values, np.uint8), TEXT_LAYOUT.size)
    return windows[starts].view(FIXED_DTYPE)[:, 0]


def _checksums(
    values: bytes, starts: Int64Array, ends: Int64Array, keys: bytes, indices: Int64Array
) -> np.ndarray[Any, Any]:
    """Return the checksum of each value (see `llmhub.core.serialization.pack`)."""
    seeds = np.frombuffer(keys, "<u4")[:: KEY_BYTES // 4][indices].tolist()
    view = memoryview(values)
    return np.array(
        [crc32(view[low:high], seed) for low, high, seed in zip(starts.tolist(), ends.tolist(), seeds, strict=True)],
        np.uint32,
    )
