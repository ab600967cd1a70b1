"""A cache in an SQLite file, safe for threads and processes, and intact after a crash.

- Write-ahead logging lets readers and one writer work at the same time. Each thread has its own connections.
- An ordinary rowid table with the key as a unique blob was the fastest layout measured.
- A run looks up keys in blocks. A table that is run again asks in the order in which its answers were stored, so the
  block mostly is one range of rowids: a few probes locate the range, one query reads it, and only the remaining keys
  are looked up one by one. The cost does not depend on the size of the file. Keys in any other order lie on a page
  each, so they are read through a memory-mapped connection. SQLite releases the GIL during each query.
- Large values of equal size are inserted by one statement for many, for the same reason.
- A batch of small values is one row of another table at first (`llmhub.cache.recent_answers`).
- Vectors are in a file beside it (`llmhub.cache.vector_file`).

The file is long because the queries for blocks depend on how rows are laid out.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

from llmhub.cache import sqlite_ledger, sqlite_limiter
from llmhub.cache.recent_answers import CREATE_RECENT_TABLE, IS_EMPTY, RecentAnswers, append_recent, move_recent
from llmhub.cache.store import (
    ABSENT,
    KEY_BYTES,
    BlockValues,
    Entry,
    NonblockingGet,
    NonblockingPut,
    Reach,
    Store,
    StoreError,
    StoreStats,
    valid_since,
    validate_seconds,
)
from llmhub.cache.vector_file import REFERENCE_BYTES, SUFFIX, KeyedReference, Records, VectorFile, has_record
from llmhub.core.errors import BadRequestError, Hint, invalid

if TYPE_CHECKING:
    import numpy as np

    IntArray: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
    BlockPart: TypeAlias = tuple[bytes, IntArray, IntArray, IntArray]
    """Concatenated values, the positions in the block that they answer, and the offset and size of each."""

FILE_SUFFIXES: Final = ("", "-wal", "-shm", SUFFIX)
"""What the names of the files of a cache end with, after its path."""
LAYOUT_VERSION: Final = 2
"""``user_version`` of the file. Version 1 had no table ``recent``; it is added to a file that can be written."""
APPLICATION_ID: Final = 0x6C6C6D68
"""``application_id`` of the file: 'llmh'."""
PAGE_BYTES: Final = 4096
QUERY_KEYS: Final = 500
"""Keys looked up in one query."""
BUSY_S: Final = 30.0
"""Default time to wait for another process that is writing."""
CLOSE_S: Final = 2.0
"""Time that closing waits for a thread in a query; if it takes longer, its connection stays open."""
SETUP_RETRY_S: Final = 0.005
"""Interval between attempts to set up a new file that another process is setting up."""
PAGE_CACHE_KIB: Final = 32 << 10
"""Page cache of a connection; holds nearly the whole index of a million entries."""
MAPPED_BYTES: Final = 1 << 30
"""Part of the file that is memory-mapped to read keys in random order, which saves a system call for each page. The
system reclaims the memory when it needs to."""
MAX_NONBLOCKING_ENTRIES, MAX_NONBLOCKING_BYTES = 512, 1 << 20
"""Limits of a write on the event loop."""
SLOW_DISK_S, SLOW_DISK_PAUSE_S = 0.05, 1.0
"""A write on the event loop that took so long suggests a slow disk; none is tried during the pause."""
MIN_RECENT_ENTRIES: Final = 8
"""Smaller batches are not appended to ``recent`` while it is empty: a look-up then has nothing to read there."""
MAX_RECENT_ENTRIES, MAX_RECENT_BYTES = 4096, 4 << 20
"""Entries that a process appends to ``recent`` before they are moved."""
CHECKPOINT_SOON_PAGES: Final = 4096
"""Pages written on the event loop, approximately, before the next write goes to a thread, since it may checkpoint."""

_PRAGMAS: Final = {
    "synchronous": 1,  # a crash of the machine may lose the last answers, a crash of the process none
    "cache_size": -PAGE_CACHE_KIB,
    "wal_autocheckpoint": sqlite_ledger.CHECKPOINT_PAGES,
}
CONNECTION_PRAGMAS: Final[Mapping[str, Mapping[str, int]]] = {
    "plain": {},
    "mapped": {"mmap_size": MAPPED_BYTES},
}
"""Each thread's connections, and their additional pragmas."""
NONBLOCKING_PRAGMAS: Final = {"busy_timeout": 0, "wal_autocheckpoint": 0}

_CREATE: Final = f"""
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, model TEXT NOT NULL, created_at REAL NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT_VERSION};
{sqlite_ledger.CREATE_LEDGER_TABLES}
{CREATE_RECENT_TABLE}
COMMIT;
"""
FIRST_TABLES: Final = frozenset({"answers", "owners", "claims", "calls"})
"""Tables of a file of layout 1."""
TABLES: Final = FIRST_TABLES | {"recent"}
"""Tables of a file that is set up."""
_SCAN: Final = "SELECT rowid, key, value, model, created_at FROM answers WHERE rowid > ? ORDER BY rowid LIMIT ?"
_PUT: Final = "INSERT OR REPLACE INTO answers (key, value, model, created_at) VALUES {rows}"
_PUT_IF_NONE_RECENT: Final = f"""
INSERT OR REPLACE INTO answers (key, value, model, created_at) SELECT * FROM (VALUES {{rows}}) WHERE {IS_EMPTY}
"""  # noqa: S608 - a constant
_PUT_JOINED: Final = """
INSERT OR REPLACE INTO answers (key, value, model, created_at)
WITH RECURSIVE place(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM place WHERE n + 1 < ?1)
SELECT substr(?2, n * ?3 + 1, ?3), substr(?4, n * ?5 + 1, ?5), ?6, ?7 FROM place
"""
MIN_JOINED_BYTES: Final = 2048
"""Smaller values are parameters of their own."""
MAX_INSERTED_ROWS: Final = 100
"""Rows of one statement, of four parameters each; SQLite's prepared statements are kept by their number of rows."""
IN_RECORDS: Final = -1
"""In the place of the size of values, for vectors of any size that are written to the file of vectors together."""
MAX_JOINED_ROWS: Final = 512
"""Rows inserted at once."""


@dataclass(frozen=True, slots=True)
class DiskCache:
    """Keeps responses in an SQLite file, which is created if it does not exist, readable by its owner only.

    Vectors of embeddings are in a second file, whose name ends with ``-vectors``. To copy a cache, copy both while no
    process uses them.

    Parameters
    ----------
    path
        The file; its folder is created too.
    ttl_s
        Age limit in seconds; an older entry is a miss, and stays in the file until it is purged.
    busy_s
        Seconds to wait for another process that is writing.
    read_only
        Whether to open the file without the right to write, for lookups only. A hub whose mode is ``read-only`` does so
        if it lacks that right.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     store = DiskCache(f"{folder}/runs.db").open()
    ...     store.put_many([Entry(b"k", b"v")])
    ...     found = store.get_many([b"k", b"other"])
    ...     store.close()
    >>> found
    {b'k': b'v'}
    """

    path: str | Path
    ttl_s: float | None = None
    busy_s: float = BUSY_S
    read_only: bool = False

    def __post_init__(self) -> None:
        """Validate the times."""
        validate_seconds("ttl_s", self.ttl_s)
        validate_seconds("busy_s", self.busy_s)

    @property
    def reach(self) -> Reach:
        """Who can open the same store."""
        return "host"

    @property
    def has_ledger(self) -> bool:
        """Whether requests are recorded before they are sent."""
        return not self.read_only

    def open(self) -> Store:
        """Open the file.

        Raises
        ------
        BadRequestError
            The file is not a cache of llmhub, or cannot be read or created. It is left unchanged.
        """
        path = Path(self.path).expanduser()
        try:
            if not self.read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                _create_private(path)
            file = _SqliteStore(path, self.ttl_s, self.busy_s, read_only=self.read_only)
        except (sqlite3.Error, OSError) as error:
            raise unusable_file(path, str(error)) from error
        return Store(
            get_many=file.get_many,
            put_many=file.put_many,
            nonblocking_put=NonblockingPut(file.put_many, file.try_put),
            nonblocking_get=NonblockingGet(file.get_many, file.try_get),
            delete=file.delete,
            clear=file.clear,
            stats=file.stats,
            close=file.close,
            scan=file.scan,
            compact=file.compact,
            get_entries=file.get_entries,
            get_block=file.get_block,
            releases_gil=True,
            ttl_s=self.ttl_s,
            claims=None if self.read_only else file.claims,
            ledger=None if self.read_only else file.ledger,
            limiter=None if self.read_only else sqlite_limiter.open_limiter(file.connection),
        )


def unusable_file(path: Path, reason: str) -> BadRequestError:
    """Return the exception for a file that cannot be used as a cache."""
    message = (
        f"cannot use {str(path)!r} as a cache: {reason}. The file was left as it is; "
        "pass another path (LLMHUB_CACHE sets the default one) or move it away"
    )
    return invalid("cache", message, hint=Hint("cache", None, purpose="run without a cache"))


@dataclass(frozen=True, slots=True)
class _Connection:
    """A connection, and the lock that a thread holds while it uses the connection."""

    sqlite: sqlite3.Connection
    in_use: threading.Lock = field(default_factory=threading.Lock)


class _SqliteStore:
    """One file, with connections of each thread's own."""

    def __init__(self, path: Path, ttl_s: float | None, busy_s: float, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._identity: tuple[int, int] | None = None
        self._ttl_s = ttl_s
        self._busy_s = busy_s
        self._of_thread = threading.local()
        self._connections: list[_Connection] = []
        self._closed = False
        self._lock = threading.Lock()
        self._nonblocking: _Connection | None = None
        self._slow_until = -math.inf
        self._unchecked_pages = 0
        self._recent = RecentAnswers(may_lack_table=read_only)
        self._recent_entries = self._recent_bytes = 0
        self._hits = self._misses = 0
        self._vectors = VectorFile(path, read_only=read_only)
        self.claims, self.ledger, self._close_ledger, self._before_look_up = sqlite_ledger.open_ledger(
            self.connection, self._try_connection
        )
        if not read_only and (names := _name_count(path)) > 1:
            # Writers of two names do not see each other's logs, and damage the file.
            raise sqlite3.DatabaseError(f"it has {names} names (hard links); keep one of them, or copy the file")
        with closing(self._connect()) as connection:
            if read_only and not self._is_set_up(connection):
                raise sqlite3.DatabaseError("it is not a cache")
            deadline = time.monotonic() + busy_s
            while not self._is_set_up(connection) and not sqlite_ledger.try_write(partial(_create, connection)):
                # SQLite does not wait for the lock that switches a new file to write-ahead logging.
                if time.monotonic() > deadline:
                    raise sqlite3.OperationalError("another process holds its lock for too long while setting it up")
                time.sleep(SETUP_RETRY_S)
        self._identity = _identity(path)

    @contextmanager
    def connection(self, kind: str = "plain") -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection (see `CONNECTION_PRAGMAS`); raise `StoreError` for errors of the file."""
        try:
            connection = self._own_connection(kind)
            with connection.in_use:
                yield connection.sqlite
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error

    @contextmanager
    def _try_connection(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a connection that does not wait for locks or checkpoints; ``None`` while the disk is slow."""
        started_at = time.monotonic()
        if started_at < self._slow_until:
            yield None
            return
        try:
            if self._nonblocking is None:
                self._nonblocking = self._keep(_Connection(self._connect(**NONBLOCKING_PRAGMAS)))
            with self._nonblocking.in_use:
                yield self._nonblocking.sqlite
            ended_at = time.monotonic()
            if ended_at - started_at > SLOW_DISK_S:
                self._slow_until = ended_at + SLOW_DISK_PAUSE_S
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error

    def get_many(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        return dict(self._select("key, value", keys, since))

    def get_entries(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        return list(map(Entry._make, self._select("key, value, model, created_at", keys, since)))

    def _select(self, columns: str, keys: Sequence[bytes], since: float) -> list[tuple[Any, ...]]:
        with self.connection() as connection:
            return self._select_from(connection, columns, keys, since)

    def _select_from(
        self, connection: sqlite3.Connection, columns: str, keys: Sequence[bytes], since: float
    ) -> list[tuple[Any, ...]]:
        self._before_look_up(connection)
        since, total = valid_since(since, self._ttl_s), len(keys)
        rows: list[tuple[Any, ...]] = []
        if recent := self._recent.read(connection):
            newest = {key: recent[key] for key in keys if key in recent}
            keys = [key for key in keys if key not in newest]
            width = columns.count(",") + 1
            rows += [entry[:width] for entry in newest.values() if entry.created_at >= since]
        for start in range(0, len(keys), QUERY_KEYS):
            batch = keys[start : start + QUERY_KEYS]
            marks = ",".join("?" * len(batch))
            query = f"SELECT {columns} FROM answers WHERE key IN ({marks}) AND created_at >= ?"  # noqa: S608 - names and question marks
            rows += self._with_vectors(connection, connection.execute(query, (*batch, since)).fetchall())
        self._count(len(rows), total - len(rows))
        return rows

    def _with_vectors(self, connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return rows that begin with a key and a value, with vectors in the place of references to them."""
        if all(len(row[1]) != REFERENCE_BYTES for row in rows):
            return rows
        values = self._vectors.read(connection, [row[0] for row in rows], [row[1] for row in rows])
        return [(row[0], value, *row[2:]) for row, value in zip(rows, values, strict=True) if value is not None]

    def try_get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes] | None:
        if len(keys) > MAX_NONBLOCKING_ENTRIES:
            return None
        try:
            with self._try_connection() as connection:
                return None if connection is None else dict(self._select_from(connection, "key, value", keys, 0.0))
        except StoreError:  # such as a lock for an exclusive checkpoint; the blocking form tells
            return None

    def get_block(self, keys: bytes, since: float = 0.0, /) -> BlockValues:
        with self.connection() as connection:
            self._before_look_up(connection)
            mapped, since = partial(self.connection, "mapped"), valid_since(since, self._ttl_s)
            recent = self._recent.read(connection)  # first: it may be moved to the table meanwhile
            block = self._block_with_vectors(connection, keys, read_block(connection, mapped, keys, since))
            if recent:
                block = _block_with_recent(block, keys, recent, since)
        hits = int((block.sizes != ABSENT).sum())
        self._count(hits, len(block.sizes) - hits)
        return block

    def _block_with_vectors(self, connection: sqlite3.Connection, keys: bytes, block: BlockValues) -> BlockValues:
        """Return a block with vectors in the place of references to them."""
        indices = (block.sizes == REFERENCE_BYTES).nonzero()[0].tolist()
        if not indices:
            return block
        values = [block.values[start : start + REFERENCE_BYTES] for start in block.starts[indices].tolist()]
        found = self._vectors.read(connection, [keys[KEY_BYTES * at : KEY_BYTES * (at + 1)] for at in indices], values)
        return _replace_values(block, zip(indices, found, strict=True))

    def scan(self) -> Iterator[Entry]:
        last_rowid = 0
        with self.connection() as connection:
            recent = dict(self._recent.read(connection))
        while True:
            # In batches, so that the caller may write between them.
            with self.connection() as connection:
                rows = connection.execute(_SCAN, (last_rowid, QUERY_KEYS)).fetchall()
                entries = self._with_vectors(connection, [row[1:] for row in rows if row[1] not in recent])
            if not rows:
                break
            yield from map(Entry._make, entries)
            last_rowid = rows[-1][0]
        yield from recent.values()

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses

    def put_many(self, entries: Iterable[Entry]) -> None:
        self._require_same_file()
        self._unchecked_pages = 0
        with self.connection() as connection:
            self._put(connection, entries)
            self._vectors.sync_if_due()

    def try_put(self, entries: Sequence[Entry]) -> bool:
        size = sum([len(entry.value) for entry in entries])
        too_large = len(entries) > MAX_NONBLOCKING_ENTRIES or size > MAX_NONBLOCKING_BYTES
        if too_large or self._unchecked_pages > CHECKPOINT_SOON_PAGES:
            return False
        is_small = all(map(_is_single, entries))
        has_many = self._recent_entries > MAX_RECENT_ENTRIES or self._recent_bytes > MAX_RECENT_BYTES
        if has_many or (self._recent_entries and not is_small):
            return False  # moving them takes longer
        self._require_same_file()
        self._unchecked_pages += len(entries) + size // PAGE_BYTES
        with self._try_connection() as connection:
            if connection is None:
                return False
            put = self._append if is_small else self._put_if_none_recent
            return sqlite_ledger.try_write(partial(put, connection, entries, size))

    def _append(self, connection: sqlite3.Connection, entries: Sequence[Entry], size: int) -> bool:
        """Append small entries to ``recent``, or insert a few where they belong if it is empty."""
        if len(entries) < MIN_RECENT_ENTRIES and not self._recent_entries:
            statements = _row_insertions(entries, _PUT_IF_NONE_RECENT)
            if all(connection.execute(*statement).rowcount for statement in statements):
                return True
        append_recent(connection, entries)
        self._recent_entries += len(entries)
        self._recent_bytes += size
        return True

    def _put_if_none_recent(self, connection: sqlite3.Connection, entries: Sequence[Entry], _size: int) -> bool:
        """Insert or replace entries if there is nothing to move before."""
        return connection.execute(f"SELECT {IS_EMPTY}").fetchone()[0] and self._put(connection, entries)

    def _put(self, connection: sqlite3.Connection, entries: Iterable[Entry]) -> bool:
        """Insert or replace entries, those of ``recent`` before them, in one transaction."""
        statements = list(_insertions(entries, time.time()))  # others wait for the lock
        replaced: list[KeyedReference] = []
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            move_recent(connection)
            self._recent_entries = self._recent_bytes = 0
            for statement in statements:
                if isinstance(statement, Records):
                    replaced += self._vectors.write(connection, statement)
                else:
                    connection.execute(*statement)
            self._vectors.free(connection, replaced)
        return True

    def _require_same_file(self) -> None:
        """Raise if the file was deleted or replaced: what is written to the open one would be lost with it."""
        if self._identity is not None and _identity(self._path) != self._identity:
            raise StoreError(f"{self._path}: the file was deleted or replaced while in use")

    def delete(self, keys: Sequence[bytes]) -> None:
        with self.connection() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            move_recent(connection)
            references = self._vectors.references(connection, keys)
            connection.executemany("DELETE FROM answers WHERE key = ?", ((key,) for key in keys))
            self._vectors.free(connection, references)

    def clear(self) -> None:
        with self.connection() as connection:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM answers")
                connection.execute("DELETE FROM recent")
                self._vectors.clear(connection)
            self._vectors.truncate(connection)

    def compact(self) -> None:
        with suppress(StoreError):
            self.put_many(())
        # Fails while another connection is in a transaction; the free pages are reused all the same.
        with suppress(StoreError), self.connection() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(StoreError), self.connection() as connection:
            self._vectors.compact(connection)

    def stats(self) -> StoreStats:
        with self.connection() as connection:
            recent = list(self._recent.read(connection))
            (entries,) = connection.execute("SELECT count(*) FROM answers").fetchone()
            for start in range(0, len(recent), QUERY_KEYS):
                batch = recent[start : start + QUERY_KEYS]
                query = f"SELECT count(*) FROM answers WHERE key IN ({','.join('?' * len(batch))})"  # noqa: S608 - question marks
                entries += len(batch) - connection.execute(query, batch).fetchone()[0]
        files = (Path(f"{self._path}{suffix}") for suffix in ("", "-wal"))
        return StoreStats(
            entries=entries,
            size_bytes=sum(file.stat().st_size for file in files if file.exists()) + self._vectors.size_bytes,
            hits=self._hits,
            misses=self._misses,
        )

    def close(self) -> None:
        with suppress(StoreError):
            if self._recent_entries:
                self.put_many(())
        with suppress(StoreError):
            self._close_ledger()
        self._vectors.sync()  # before the references to them, which are on the disk once the connections are closed
        with self._lock:
            self._closed = True
            connections, self._connections = self._connections, []
        for connection in connections:
            # Closing a connection while another thread uses it crashes SQLite.
            if connection.in_use.acquire(timeout=CLOSE_S):
                connection.sqlite.close()
                connection.in_use.release()
        self._vectors.close()

    def _own_connection(self, kind: str) -> _Connection:
        """Return this thread's connection of a kind (see `CONNECTION_PRAGMAS`), opened at first use."""
        connection: _Connection | None = getattr(self._of_thread, kind, None)
        if connection is None:
            self._require_same_file()
            connection = self._keep(_Connection(self._connect(**CONNECTION_PRAGMAS[kind])))
            setattr(self._of_thread, kind, connection)
        return connection

    def _keep(self, connection: _Connection) -> _Connection:
        """Register a new connection, to be closed with the store."""
        with self._lock:
            if self._closed:
                connection.sqlite.close()
                raise sqlite3.ProgrammingError("the store is closed")
            self._connections.append(connection)
        return connection

    def _connect(self, **pragmas: int) -> sqlite3.Connection:
        """Open a connection with additional pragmas; close it if one of them fails."""
        source, is_uri = str(self._path), self._read_only
        if self._read_only:
            # Without the right to create them, the files of the write-ahead log cannot be shared with a writer.
            has_log = Path(f"{self._path}-wal").exists()
            source = f"file:{quote(str(self._path.absolute()))}?{'mode=ro' if has_log else 'immutable=1'}"
        connection = sqlite3.connect(
            source, timeout=self._busy_s, isolation_level=None, check_same_thread=False, uri=is_uri
        )
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            for name, value in (_PRAGMAS | pragmas).items():
                connection.execute(f"PRAGMA {name} = {value}")
            on_failure.pop_all()
        return connection

    def _is_set_up(self, connection: sqlite3.Connection) -> bool:
        """Return whether the tables exist; raise for a file of another program or of a later layout."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if tables and application_id != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is a database of another program")
        if layout > LAYOUT_VERSION:
            raise sqlite3.DatabaseError(f"its layout {layout} is newer than {LAYOUT_VERSION}, which this version reads")
        # A file that is not writable fails now, in the set-up, and not at the first answer.
        if self._read_only:
            return layout > 0 and tables >= FIRST_TABLES
        return layout == LAYOUT_VERSION and tables >= TABLES and os.access(self._path, os.W_OK)


def _create_private(path: Path) -> None:
    """Create an empty file that only its owner can read, unless there is one: responses may be confidential."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one at the same path; ``None`` if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _name_count(path: Path) -> int:
    """Return how many names a file has; 0 if there is none."""
    try:
        return path.stat().st_nlink
    except OSError:
        return 0


def is_unwritable_file(path: str | Path) -> bool:
    """Return whether a file exists and cannot be written."""
    path = Path(path).expanduser()
    try:
        return path.is_file() and not os.access(path, os.W_OK)
    except OSError:
        return False  # opening it says why


def _create(connection: sqlite3.Connection) -> bool:
    """Set up a new file."""
    connection.executescript(_CREATE)
    return True


Statement: TypeAlias = tuple[str, Sequence[object]]
"""A statement and its parameters."""


def _insertions(entries: Iterable[Entry], now: float) -> Iterator[Statement | Records]:
    """Yield statements, or records of vectors.

    Each inserts many rows, since between two statements the thread needs the GIL, which a busy event loop holds.
    """
    entries = list(entries)
    if all(map(_is_single, entries)):
        yield from _row_insertions(entries)
        return
    single: list[tuple[bytes, bytes, str, float]] = []
    for (key_size, size, model, created_at), group in groupby(entries, _form):
        rows = list(group)
        if size != IN_RECORDS and (size < MIN_JOINED_BYTES or len(rows) == 1):
            single += [(key, value, model, created_at or now) for key, value, _, _ in rows]
            continue
        yield from _row_insertions(single)  # before what follows, which may replace it
        single = []
        if size == IN_RECORDS:
            yield Records.of(rows, created_at or now)
            continue
        for start in range(0, len(rows), MAX_JOINED_ROWS):
            part = rows[start : start + MAX_JOINED_ROWS]
            keys, values = b"".join([row.key for row in part]), b"".join([row.value for row in part])
            yield _PUT_JOINED, (len(part), keys, key_size, values, size, model, created_at or now)
    yield from _row_insertions(single)


def _row_insertions(rows: Sequence[tuple[bytes, bytes, str, float]], query: str = _PUT) -> Iterator[Statement]:
    """Yield statements that insert rows in order."""
    for start in range(0, len(rows), MAX_INSERTED_ROWS):
        part = rows[start : start + MAX_INSERTED_ROWS]
        marks = ", ".join(["(?, ?, ?, ?)"] * len(part))
        yield query.format(rows=marks), [value for row in part for value in row]


def _is_single(entry: Entry) -> bool:
    """Return whether an entry is inserted as it is, in no group."""
    return len(entry.value) < MIN_JOINED_BYTES and entry.created_at > 0 and not has_record(entry)


def _form(entry: Entry) -> tuple[int, int, str, float]:
    """Return what entries that are inserted together have in common."""
    return len(entry.key), IN_RECORDS if has_record(entry) else len(entry.value), entry.model, entry.created_at


def _replace_values(block: BlockValues, found: Iterable[tuple[int, bytes | None]]) -> BlockValues:
    """Return a block with other values at some positions; ``None`` for an absent one."""
    parts, length = [block.values], len(block.values)
    for index, value in found:
        block.starts[index], block.sizes[index] = length, ABSENT if value is None else len(value)
        parts.append(value or b"")
        length += len(parts[-1])
    return block._replace(values=b"".join(parts))


def _block_with_recent(block: BlockValues, keys: bytes, recent: Mapping[bytes, Entry], since: float) -> BlockValues:
    """Return a block with recent values in the place of those of the table."""
    cut = (keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES))
    newest = ((index, entry) for index, key in enumerate(cut) if (entry := recent.get(key)) is not None)
    return _replace_values(
        block, ((index, entry.value if entry.created_at >= since else None) for index, entry in newest)
    )


# Block look-up

ConnectionFactory: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]

KEYS_PER_QUERY: Final = 1024
"""Keys looked up one by one in a single query."""
MIN_RANGE_KEYS: Final = 64
"""Smaller blocks are looked up key by key."""
PROBE_KEYS: Final = 16
"""Keys looked up to locate the range of a block."""
RANGE_MARGIN_ROWS: Final = 16
"""Rows read before and after the located range."""

_PROBE_QUERY: Final = "SELECT key, rowid FROM answers WHERE key IN ({marks})"
_RANGE_QUERY: Final = f"""
SELECT CAST(group_concat(key, '') AS BLOB), group_concat(length(value)), CAST(group_concat(value, '') AS BLOB)
FROM answers WHERE rowid BETWEEN ? AND ? AND length(key) = {KEY_BYTES} AND created_at >= ?
"""  # noqa: S608 - a number
_EACH_QUERY: Final = f"""
WITH RECURSIVE place(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM place WHERE n + 1 < ?)
SELECT CAST(group_concat(value, '') AS BLOB), group_concat(coalesce(length(value), {ABSENT}))
FROM place LEFT JOIN answers ON key = substr(?, n * {KEY_BYTES} + 1, {KEY_BYTES}) AND created_at >= ?
"""  # noqa: S608 - two numbers


def read_block(connection: sqlite3.Connection, mapped: ConnectionFactory, keys: bytes, since: float) -> BlockValues:
    """Look up a block of concatenated 32-byte keys (see `llmhub.cache.store.GetBlock`).

    Parameters
    ----------
    connection
        Reads ranges of rows.
    mapped
        Returns a memory-mapped connection for single keys; called only if the range leaves any.
    """
    import numpy as np  # noqa: PLC0415 - loaded already by the caller of a block look-up

    count = len(keys) // KEY_BYTES
    starts, sizes = np.zeros(count, np.int64), np.full(count, ABSENT, np.int64)
    values: list[bytes] = []
    length = 0
    for part, positions, part_starts, part_sizes in _block_parts(connection, mapped, keys, since):
        starts[positions], sizes[positions] = part_starts + length, part_sizes
        values.append(part)
        length += len(part)
    return BlockValues(b"".join(values) if len(values) != 1 else values[0], starts, sizes)


def _block_parts(
    connection: sqlite3.Connection, mapped: ConnectionFactory, keys: bytes, since: float
) -> Iterator[BlockPart]:
    """Yield the values found, first those of the range, then those of single keys."""
    import numpy as np  # noqa: PLC0415

    missing = np.arange(len(keys) // KEY_BYTES)
    if len(missing) >= MIN_RANGE_KEYS and (rowids := _find_range(connection, keys)) is not None:
        part = _read_range(connection, keys, rowids, since)
        if part is not None:
            yield part
            missing = np.delete(missing, part[1])
    if len(missing):
        with mapped() as mapped_connection:
            yield from _read_each(mapped_connection, keys, missing, since)


def _find_range(connection: sqlite3.Connection, keys: bytes) -> tuple[int, int] | None:
    """Return the first and last rowid of the range that holds the block, if most probes agree on one."""
    count = len(keys) // KEY_BYTES
    probes = {keys[at * KEY_BYTES : (at + 1) * KEY_BYTES]: at for at in range(0, count, max(1, count // PROBE_KEYS))}
    rows = connection.execute(_PROBE_QUERY.format(marks=",".join("?" * len(probes))), tuple(probes)).fetchall()
    offsets = sorted(rowid - probes[key] for key, rowid in rows)
    if not offsets:
        return None
    median = offsets[len(offsets) // 2]
    near = [offset for offset in offsets if abs(offset - median) <= count // 4]
    if 2 * len(near) < len(probes):
        return None
    return near[0] - RANGE_MARGIN_ROWS, near[-1] + count + RANGE_MARGIN_ROWS


def _read_range(connection: sqlite3.Connection, keys: bytes, rowids: tuple[int, int], since: float) -> BlockPart | None:
    """Read a range of rows, and match its keys with those of the block."""
    import numpy as np  # noqa: PLC0415

    try:
        range_keys, lengths, values = connection.execute(_RANGE_QUERY, (*rowids, since)).fetchone()
    except (sqlite3.DataError, MemoryError):  # longer than SQLite's limit of a value
        return None
    if range_keys is None:
        return None
    sizes = np.array(lengths.split(","), np.int64)
    starts = np.cumsum(sizes) - sizes
    wanted, present = (np.frombuffer(some, "<u8").reshape(-1, KEY_BYTES // 8) for some in (keys, range_keys))
    order = np.argsort(present[:, 0], kind="stable")
    at = order[np.minimum(np.searchsorted(present[order, 0], wanted[:, 0]), len(order) - 1)]
    positions = np.flatnonzero((wanted == present[at]).all(axis=1))
    return values or b"", positions, starts[at[positions]], sizes[at[positions]]


def _read_each(connection: sqlite3.Connection, keys: bytes, missing: IntArray, since: float) -> Iterator[BlockPart]:
    """Look up the keys at the positions ``missing`` one by one."""
    import numpy as np  # noqa: PLC0415

    pending = [missing[at : at + KEYS_PER_QUERY] for at in range(0, len(missing), KEYS_PER_QUERY)][::-1]
    rows = np.frombuffer(keys, f"V{KEY_BYTES}")
    while pending:
        batch = pending.pop()
        try:
            values, lengths = connection.execute(_EACH_QUERY, (len(batch), rows[batch].tobytes(), since)).fetchone()
        except (sqlite3.DataError, MemoryError):  # longer than SQLite's limit of a value: split the batch
            if len(batch) == 1:
                raise
            pending += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            continue
        sizes = np.array(lengths.split(","), np.int64)
        found = sizes != ABSENT
        sizes = sizes[found]
        yield values or b"", batch[found], np.cumsum(sizes) - sizes, sizes
