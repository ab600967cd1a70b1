"""The ledger of batches, in the SQLite file that holds the answers.

A batch has one row in ``batches``, a pack in MessagePack; each key in it has one row in ``batch_rows``, whose primary
key keeps a request out of two batches at once, whichever processes write. The tables are made by the first batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from llmhub.cache.store import BatchLedger, BatchRecord

CREATE_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, pack BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS batch_rows (key BLOB PRIMARY KEY, batch INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS rows_of_batch ON batch_rows (batch)",
)
QUERY_KEYS: Final = 900
"""Keys in one query."""

_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(BatchRecord).decode


def batch_ledger(connect: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> BatchLedger:
    """Return the batches of one file; ``connect`` is the context manager of the thread's connection."""
    batches = _SqliteBatches(connect)
    return BatchLedger(
        put=batches.put,
        get=batches.get,
        records=batches.records,
        add_rows=batches.add_rows,
        find=batches.find,
        rows=batches.rows,
        remove_rows=batches.remove_rows,
        finish=batches.finish,
        remove=batches.remove,
    )


@dataclass(slots=True)
class _SqliteBatches:
    """The batches of one file (see `batch_ledger`)."""

    connect: Callable[[], AbstractContextManager[sqlite3.Connection]]
    _exists: bool = False

    def put(self, record: BatchRecord) -> None:
        with self._write() as connection:
            _put(connection, record)

    def get(self, token: str) -> BatchRecord | None:
        with self._read() as connection:
            if connection is None:
                return None
            row = connection.execute("SELECT pack FROM batches WHERE token = ?", (token,)).fetchone()
        return None if row is None else _decode(row[0])

    def records(self) -> list[BatchRecord]:
        with self._read() as connection:
            if connection is None:
                return []
            return [_decode(pack) for (pack,) in connection.execute("SELECT pack FROM batches ORDER BY id")]

    def add_rows(self, token: str, keys: Sequence[bytes]) -> Mapping[bytes, str]:
        with self._write() as connection:
            taken = _find(connection, keys)
            number = _number(connection, token)
            new = [(key, number) for key in keys if key not in taken]
            connection.executemany("INSERT OR IGNORE INTO batch_rows (key, batch) VALUES (?, ?)", new)
        return {key: other for key, other in taken.items() if other != token}

    def find(self, keys: Sequence[bytes]) -> Mapping[bytes, str]:
        with self._read() as connection:
            return {} if connection is None else _find(connection, keys)

    def rows(self, token: str) -> list[bytes]:
        query = "SELECT key FROM batch_rows JOIN batches ON batches.id = batch WHERE token = ?"
        with self._read() as connection:
            return [] if connection is None else [key for (key,) in connection.execute(query, (token,))]

    def remove_rows(self, token: str, keys: Sequence[bytes]) -> None:
        with self._write() as connection:
            number = _number(connection, token)
            pairs = [(key, number) for key in keys]
            connection.executemany("DELETE FROM batch_rows WHERE key = ? AND batch = ?", pairs)

    def finish(self, record: BatchRecord) -> None:
        with self._write() as connection:
            _put(connection, record)
            connection.execute("DELETE FROM batch_rows WHERE batch = ?", (_number(connection, record.token),))

    def remove(self, token: str) -> None:
        with self._write() as connection:
            connection.execute("DELETE FROM batch_rows WHERE batch = ?", (_number(connection, token),))
            connection.execute("DELETE FROM batches WHERE token = ?", (token,))

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection within a transaction that has taken the write lock."""
        with self.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not self._exists:
                    for statement in CREATE_TABLES:
                        connection.execute(statement)
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            self._exists = True

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a connection; ``None`` if the file has no tables of batches."""
        with self.connect() as connection:
            if not self._exists:
                query = "SELECT 1 FROM sqlite_master WHERE name = 'batch_rows'"
                self._exists = connection.execute(query).fetchone() is not None
            yield connection if self._exists else None


def _put(connection: sqlite3.Connection, record: BatchRecord) -> None:
    query = "INSERT INTO batches (token, pack) VALUES (?, ?) ON CONFLICT (token) DO UPDATE SET pack = excluded.pack"
    connection.execute(query, (record.token, _ENCODE(record)))


def _decode(pack: bytes) -> BatchRecord:
    try:
        return _DECODE(pack)
    except msgspec.DecodeError as error:
        raise sqlite3.DatabaseError(f"its record of a batch is damaged: {error}") from error


def _number(connection: sqlite3.Connection, token: str) -> int:
    row = connection.execute("SELECT id FROM batches WHERE token = ?", (token,)).fetchone()
    return -1 if row is None else int(row[0])


def _find(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    if connection.execute("SELECT 1 FROM batch_rows LIMIT 1").fetchone() is None:
        return found
    for start in range(0, len(keys), QUERY_KEYS):
        part = keys[start : start + QUERY_KEYS]
        marks = ",".join("?" * len(part))
        query = f"SELECT key, token FROM batch_rows JOIN batches ON batches.id = batch WHERE key IN ({marks})"  # noqa: S608 - question marks
        found.update(connection.execute(query, part).fetchall())
    return found
