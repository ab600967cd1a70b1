"""Answers of an SQLite cache that were stored last, in packs beside the table of answers.

The keys of answers are random, so each new one changes a page of the table's index. A run stores its answers many times
a second, and each time would write as many pages as there are answers. They are appended as one row to the table
``recent`` instead, a fifth of the work, and moved to ``answers`` by the thousand.

- An answer in ``recent`` is newer than one with the same key in ``answers``: a transaction that writes to ``answers``
  moves all of ``recent`` there first.
- Look-ups read ``recent`` first: what is moved between the two is found in ``answers``.
- Numbers of packs ascend and are not used again, so the first and the last tell whether others were added or moved.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from llmhub.cache.store import Entry

CREATE_RECENT_TABLE: Final = "CREATE TABLE IF NOT EXISTS recent (id INTEGER PRIMARY KEY, pack BLOB NOT NULL);"
IS_EMPTY: Final = "NOT EXISTS (SELECT 1 FROM recent)"
"""SQL condition."""
_APPEND: Final = "INSERT INTO recent (id, pack) VALUES (max(?, (SELECT ifnull(max(id), 0) + 1 FROM recent)), ?)"
_MOVE: Final = "INSERT OR REPLACE INTO answers (key, value, model, created_at) VALUES (?, ?, ?, ?)"
_BOUNDS: Final = "SELECT (SELECT min(id) FROM recent), (SELECT max(id) FROM recent)"
_HAS_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'recent'"
_AFTER: Final = "SELECT id, pack FROM recent WHERE id > ? ORDER BY id"
_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(list[Entry]).decode


def append_recent(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Append entries by a single statement, which is a transaction by itself."""
    connection.execute(_APPEND, (time.time_ns(), _ENCODE(entries)))


def move_recent(connection: sqlite3.Connection) -> None:
    """Move all entries to the table of answers. Call it in a transaction."""
    packs = connection.execute(_AFTER, (0,)).fetchall()
    if packs:
        connection.executemany(_MOVE, _entries(packs))
        connection.execute("DELETE FROM recent")


def read_recent(connection: sqlite3.Connection) -> dict[bytes, Entry]:
    """Return the latest entry of each key."""
    return {entry.key: entry for entry in _entries(connection.execute(_AFTER, (0,)))}


def _entries(packs: Iterable[tuple[int, bytes]]) -> list[Entry]:
    """Return the entries of packs in order."""
    entries: list[Entry] = []
    for _, pack in packs:
        try:
            entries += _DECODE(pack)
        except msgspec.DecodeError:  # the answers of a damaged pack are misses, as a damaged answer is
            continue
    return entries


class RecentAnswers:
    """The entries of the table of one file, of which only new packs are read again. Safe for threads.

    Parameters
    ----------
    may_lack_table
        Whether the file may have been made by an earlier version, and cannot be changed.
    """

    def __init__(self, *, may_lack_table: bool) -> None:
        self._may_lack_table = may_lack_table
        self._lock = threading.Lock()
        self._entries: dict[bytes, Entry] = {}
        self._first: int | None = None
        self._last = 0

    def read(self, connection: sqlite3.Connection) -> Mapping[bytes, Entry]:
        """Return the latest entry of each key; other threads may add to it, so do not iterate over it."""
        if self._may_lack_table and connection.execute(_HAS_TABLE).fetchone() is None:
            return {}
        first, last = connection.execute(_BOUNDS).fetchone()
        with self._lock:
            if first != self._first:
                self._entries, self._first, self._last = {}, first, 0
            if first is not None and self._last < last:
                packs = connection.execute(_AFTER, (self._last,)).fetchall()
                self._entries.update({entry.key: entry for entry in _entries(packs)})
                self._last = packs[-1][0] if packs else last
            return self._entries
