"""Rows by the hundred: keys that lie one after another, and what of them a store had.

An answer from a store is no object on its way to the table: it stays bytes among bytes, checked, until the whole
column is read (`llmhub.tables.stored_columns`).
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
        ("plain", "u1"),
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
"""`llmhub.core.serialization.TEXT_LAYOUT` by name."""


TEXT_FIELDS: Final = ("text", "served_model", "request_id", "dropped")
"""What follows it, in this order: the fields of these names are their lengths."""


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """Items of one chunk, not yet made.

    Parameters
    ----------
    positions
        Where their answers go, in ascending order.
    keys
        Their keys, 32 bytes each.
    item
        Makes the n-th.
    """

    positions: Int64Array
    keys: bytes
    make_item: Callable[[int], PlannedItem]

    def __len__(self) -> int:
        """Count the items."""
        return len(self.positions)

    def __iter__(self) -> Iterator[PlannedItem]:
        """Make every item."""
        return map(self.make_item, range(len(self)))

    def look_up(self, store: Store) -> BlockLookup:
        """Look all up, and check what there is."""
        return check_block(self, lookup_block(store, self.keys))


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Answers of one text each, as a store had them and found to be whole.

    Parameters
    ----------
    positions
        Whose they are, in ascending order.
    values
        The stored bytes of all.
    starts
        Where each begins in ``values``.
    fixed
        The part of each that has the same fields in all (`FIXED_DTYPE`).
    """

    positions: Int64Array
    values: bytes
    starts: Int64Array
    fixed: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class BlockLookup:
    """What a store knew of a bulk.

    Parameters
    ----------
    block
        The answers that are one text each.
    others
        Places in the bulk, and the answers of another form that belong there.
    missing
        Places it knew nothing of.
    damaged
        Those of them whose value was damaged.
    """

    block: StoredBlock
    unpacked: Sequence[tuple[int, StoredResponse]]
    missing: Sequence[int]
    damaged: Sequence[int]


def check_block(bulk: PlannedBlock, found: BlockValues) -> BlockLookup:
    """Check what a store gave.

    Law: a place is in the block or among the others exactly when `unpack` takes its value.
    """
    starts, sizes = np.asarray(found.starts), np.asarray(found.sizes)
    there = sizes != ABSENT
    ends = starts + sizes
    places = np.flatnonzero(there & (sizes >= TEXT_LAYOUT.size))
    fixed = _fixed_fields(found.values, starts[places])
    lengths = sum((fixed[name].astype(np.int64) for name in TEXT_FIELDS), np.int64(0))
    good = (
        (fixed["version"] == VALUE_VERSION)
        & (fixed["plain"] == IS_TEXT)
        & (fixed["finish_reason"] < len(FINISH_REASONS))
        & (lengths + TEXT_LAYOUT.size == sizes[places])
        & (fixed["checksum"] == _checksums(found.values, starts[places] + HEADER_SIZE, ends[places], bulk.keys, places))
    )
    plain = places[good]
    there[plain] = False
    others: list[tuple[int, StoredResponse]] = []
    missing = np.flatnonzero(sizes == ABSENT).tolist()
    damaged: list[int] = []
    for place in np.flatnonzero(there).tolist():
        kept = unpack(found.values[starts[place] : ends[place]], bulk.keys[KEY_BYTES * place : KEY_BYTES * (place + 1)])
        if is_successful(kept):
            others.append((place, kept.unwrap()))
        else:
            missing.append(place)
            damaged += [place] if is_corrupt(kept.failure()) else []
    block = StoredBlock(bulk.positions[plain], found.values, starts[plain], fixed[good])
    return BlockLookup(block, others, sorted(missing), damaged)


def count_by_model(positions: Int64Array, samples: int, n_models: int) -> list[int]:
    """Count the positions of each of ``n_models`` models, where positions are rows x models x samples.

    Examples
    --------
    >>> count_by_model(np.array([0, 1, 2, 4]), 2, 2)
    [3, 1]
    """
    counts: list[int] = np.bincount(positions // samples % n_models, minlength=n_models).tolist()
    return counts


def _fixed_fields(values: bytes, starts: Int64Array) -> np.ndarray[Any, Any]:
    """Take the fixed part of each value."""
    if not len(starts):
        return np.zeros(0, FIXED_DTYPE)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(values, np.uint8), TEXT_LAYOUT.size)
    return windows[starts].view(FIXED_DTYPE)[:, 0]


def _checksums(
    values: bytes, starts: Int64Array, ends: Int64Array, keys: bytes, places: Int64Array
) -> np.ndarray[Any, Any]:
    """Work out the checksum of each value: see `llmhub.core.serialization.pack`."""
    seeds = np.frombuffer(keys, "<u4")[:: KEY_BYTES // 4][places].tolist()
    view = memoryview(values)
    return np.array(
        [crc32(view[low:high], seed) for low, high, seed in zip(starts.tolist(), ends.tolist(), seeds, strict=True)],
        np.uint32,
    )
