"""Blocks of keys read out of an SQLite file in a few steps, during which other threads of Python go on.

Frames are asked again in the order in which they were asked first, so what answers a block mostly lies in one stretch
of the file, in the same order. A few keys are looked up to find that stretch, it is read from end to end, and only what
was not in it is looked up key by key. That takes as long in a file of a million answers as in one of a thousand.
Keys in any other order lie on a page each, which is why they are read from a file that is mapped into memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmhub.cache.store import ABSENT, KEY_BYTES, Found

if TYPE_CHECKING:
    import numpy as np

    Longs: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
    Part: TypeAlias = tuple[bytes, Longs, Longs, Longs]

Connected: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]

TOGETHER: Final = 1024
"""Keys looked up in one step."""
PROBES: Final = 16
"""Keys looked up to find a stretch."""
WORTH: Final = 64
"""Blocks of fewer keys are looked up key by key."""
MARGIN: Final = 16
"""Rows read before and after a stretch, at least."""

_PROBE: Final = "SELECT key, rowid FROM answers WHERE key IN ({marks})"
_STRETCH: Final = f"""
SELECT CAST(group_concat(key, '') AS BLOB), group_concat(length(value)), CAST(group_concat(value, '') AS BLOB)
FROM answers WHERE rowid BETWEEN ? AND ? AND length(key) = {KEY_BYTES} AND created_at >= ?
"""  # noqa: S608 - a number
_EACH: Final = f"""
WITH RECURSIVE place(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM place WHERE n + 1 < ?)
SELECT CAST(group_concat(value, '') AS BLOB), group_concat(coalesce(length(value), {ABSENT}))
FROM place LEFT JOIN answers ON key = substr(?, n * {KEY_BYTES} + 1, {KEY_BYTES}) AND created_at >= ?
"""  # noqa: S608 - two numbers


def read_block(connection: sqlite3.Connection, mapped: Connected, keys: bytes, since: float) -> Found:
    """Look up keys of 32 bytes that lie one after another (see `llmhub.cache.store.BlockLookup`).

    Parameters
    ----------
    connection
        Reads stretches.
    mapped
        Gives what reads single keys, for a block; called where there are any.
    """
    import numpy as np  # noqa: PLC0415 - it is there when a block is

    many = len(keys) // KEY_BYTES
    starts, sizes = np.zeros(many, np.int64), np.full(many, ABSENT, np.int64)
    values: list[bytes] = []
    length = 0
    for part, places, begins, lengths in _parts(connection, mapped, keys, since):
        starts[places], sizes[places] = begins + length, lengths
        values.append(part)
        length += len(part)
    return Found(b"".join(values) if len(values) != 1 else values[0], starts, sizes)


def _parts(connection: sqlite3.Connection, mapped: Connected, keys: bytes, since: float) -> Iterator[Part]:
    """Give values, the places they answer, where each begins and how long it is."""
    import numpy as np  # noqa: PLC0415

    rest = np.arange(len(keys) // KEY_BYTES)
    if len(rest) >= WORTH and (span := _span(connection, keys)) is not None:
        part = _stretch(connection, keys, span, since)
        if part is not None:
            yield part
            rest = np.delete(rest, part[1])
    if len(rest):
        with mapped() as scattered:
            yield from _each(scattered, keys, rest, since)


def _each(connection: sqlite3.Connection, keys: bytes, rest: Longs, since: float) -> Iterator[Part]:
    """Look up key by key."""
    import numpy as np  # noqa: PLC0415

    waiting = [rest[at : at + TOGETHER] for at in range(0, len(rest), TOGETHER)][::-1]
    rows = np.frombuffer(keys, f"V{KEY_BYTES}")
    while waiting:
        some = waiting.pop()
        try:
            joined, said = connection.execute(_EACH, (len(some), rows[some].tobytes(), since)).fetchone()
        except (sqlite3.DataError, MemoryError):
            # Too long for one value: half at a time.
            if len(some) == 1:
                raise
            waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
            continue
        lengths = np.array(said.split(","), np.int64)
        there = lengths != ABSENT
        lengths = lengths[there]
        yield joined or b"", some[there], np.cumsum(lengths) - lengths, lengths


def _span(connection: sqlite3.Connection, keys: bytes) -> tuple[int, int] | None:
    """Find the stretch in which a block lies, if there is one: the first and last rowid."""
    many = len(keys) // KEY_BYTES
    probes = {keys[at * KEY_BYTES : (at + 1) * KEY_BYTES]: at for at in range(0, many, max(1, many // PROBES))}
    found = connection.execute(_PROBE.format(marks=",".join("?" * len(probes))), tuple(probes)).fetchall()
    shifts = sorted(rowid - probes[key] for key, rowid in found)
    if not shifts:
        return None
    middle = shifts[len(shifts) // 2]
    near = [shift for shift in shifts if abs(shift - middle) <= many // 4]
    if 2 * len(near) < len(probes):
        return None
    return near[0] - MARGIN, near[-1] + many + MARGIN


def _stretch(connection: sqlite3.Connection, keys: bytes, span: tuple[int, int], since: float) -> Part | None:
    """Read a stretch, and say which places of the block it answers."""
    import numpy as np  # noqa: PLC0415

    try:
        theirs, said, values = connection.execute(_STRETCH, (*span, since)).fetchone()
    except (sqlite3.DataError, MemoryError):
        return None
    if theirs is None:
        return None
    lengths = np.array(said.split(","), np.int64)
    begins = np.cumsum(lengths) - lengths
    mine, others = (np.frombuffer(some, "<u8").reshape(-1, KEY_BYTES // 8) for some in (keys, theirs))
    order = np.argsort(others[:, 0], kind="stable")
    at = order[np.minimum(np.searchsorted(others[order, 0], mine[:, 0]), len(order) - 1)]
    places = np.flatnonzero((mine == others[at]).all(axis=1))
    return values or b"", places, begins[at[places]], lengths[at[places]]
