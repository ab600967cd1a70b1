"""A cache in one SQLite file: safe for many threads and processes, and still there after a crash.

Write-ahead logging lets readers and one writer work at once; an ordinary rowid table with the key as a
unique blob was the fastest layout measured.

Blocks of keys read out of an SQLite file in a few steps, during which other threads of Python go on.

Frames are asked again in the order in which they were asked first, so what answers a block mostly lies in one stretch
of the file, in the same order. A few keys are looked up to find that stretch, it is read from end to end, and only what
was not in it is looked up key by key. That takes as long in a file of a million answers as in one of a thousand.
Keys in any other order lie on a page each, which is why they are read from a file that is mapped into memory.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmhub.cache import sqlite_ledger
from llmhub.cache.store import (
    ABSENT,
    KEY_BYTES,
    BlockValues,
    Entry,
    NonblockingPut,
    Store,
    StoreError,
    StoreStats,
    valid_since,
    validate_seconds,
)
from llmhub.core.errors import BadRequestError, Hint, InvalidRequest

LAYOUT_VERSION: Final = 1
"""``user_version`` of the file."""


APPLICATION_ID: Final = 0x6C6C6D68
"""``application_id`` of the file: 'llmh'."""


PAGE_BYTES: Final = 4096


QUERY_KEYS: Final = 500
"""Keys in one query."""


CLOSE_S: Final = 2.0
"""How long closing waits for a thread that reads or writes; one that takes longer keeps its connection."""


PAGE_CACHE_KIB: Final = 32 << 10
"""Pages a connection keeps: those of the index of a million answers, nearly."""


MAX_NONBLOCKING_ENTRIES, MAX_NONBLOCKING_BYTES = 512, 1 << 20
"""What is written at once, without a thread, at most."""


SLOW_DISK_S, SLOW_DISK_PAUSE_S = 0.05, 1.0
"""After a write at once that took so long, none is tried for a while: it is a slow disk."""


CHECKPOINT_SOON_PAGES: Final = 4096
"""Pages written at once, about, after which a write may wait: that is when they are moved into the file."""


MAPPED_BYTES: Final = 1 << 30
"""How much of a file is mapped into memory to read keys that lie anywhere in it: a call to the system for each page
would take longer than all else. The system takes that memory back as it likes."""


SETUP_RETRY_S: Final = 0.005


BUSY_S: Final = 30.0
"""How long to wait for another process that is writing."""


_PRAGMAS: Final = {
    "synchronous": 1,  # a crash of the machine may take the last answers, one of the process none
    "cache_size": -PAGE_CACHE_KIB,
    "wal_autocheckpoint": sqlite_ledger.CHECKPOINT_PAGES,
}


CONNECTION_PRAGMAS: Final[Mapping[str, Mapping[str, int]]] = {"line": {}, "mapped": {"mmap_size": MAPPED_BYTES}}
"""A thread's connections, and what is set in each besides."""


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
COMMIT;
"""


TABLES: Final = frozenset({"answers", "owners", "claims", "calls"})
"""What a file has that is set up."""


_SCAN: Final = "SELECT rowid, key, value, model, created_at FROM answers WHERE rowid > ? ORDER BY rowid LIMIT ?"


_PUT: Final = "INSERT OR REPLACE INTO answers (key, value, model, created_at) VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class DiskCache:
    """Keeps answers in an SQLite file, made when it is not there.

    Parameters
    ----------
    path
        The file; its folder is made too.
    ttl_s
        How long an answer counts; an older one is a miss, and stays in the file until it is purged.
    busy_s
        How long to wait for another process that is writing.

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

    def __post_init__(self) -> None:
        """Refuse times that are none."""
        validate_seconds("ttl_s", self.ttl_s)
        validate_seconds("busy_s", self.busy_s)

    def open(self) -> Store:
        """Open the file.

        Raises
        ------
        InvalidRequestError
            When it is not a cache of llmhub's, cannot be read, or cannot be made. The file is left as it is.
        """
        path = Path(self.path).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _SqliteStore(path, self.ttl_s, self.busy_s)
        except (sqlite3.Error, OSError) as error:
            raise unusable_file(path, str(error)) from error
        return Store(
            get_many=file.get_many,
            put_many=file.put_many,
            nonblocking_put=NonblockingPut(file.put_many, file.try_put),
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
            claims=file.claims,
            ledger=file.ledger,
        )


def unusable_file(path: Path, reason: str) -> BadRequestError:
    """Say that a cache file cannot be used, and what to do about it."""
    return BadRequestError(
        InvalidRequest(
            path="cache",
            message=f"cannot use {str(path)!r} as a cache: {reason}. The file was left as it is; "
            "pass another path (LLMHUB_CACHE sets the default one) or move it away",
            hint=Hint("cache", None, purpose="run without a cache"),
        )
    )


def _create(connection: sqlite3.Connection) -> bool:
    """Set a new file up."""
    connection.executescript(_CREATE)
    return True


def _put(connection: sqlite3.Connection, entries: Iterable[Entry]) -> bool:
    """File entries in one transaction."""
    now = time.time()
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_PUT, ((key, value, model, at or now) for key, value, model, at in entries))
    return True


@dataclass(frozen=True, slots=True)
class _Connection:
    """A thread's connection, and the lock that its thread holds while it uses it."""

    connection: sqlite3.Connection
    busy: threading.Lock = field(default_factory=threading.Lock)


class _SqliteStore:
    """One connection a thread, all to one file."""

    def __init__(self, path: Path, ttl_s: float | None, busy_s: float) -> None:
        self._path = path
        self._ttl_s = ttl_s
        self._busy_s = busy_s
        self._local = threading.local()
        self._all: list[_Connection] = []
        self._closed = False
        self._lock = threading.Lock()
        self._quick: _Connection | None = None
        self._slow_until = -math.inf
        self._pages = 0
        self._hits = self._misses = 0
        self.claims, self.ledger, self._leave = sqlite_ledger.open_ledger(self._guarded, self._hasty)
        with closing(self._connect()) as connection:
            until = time.monotonic() + busy_s
            while not self._ready(connection) and not sqlite_ledger.try_write(partial(_create, connection)):
                # Nobody waits for the right to turn a new file into one with a log: SQLite refuses at once.
                if time.monotonic() > until:
                    raise sqlite3.OperationalError("another process that sets it up holds it for too long")
                time.sleep(SETUP_RETRY_S)

    @contextmanager
    def _guarded(self, mapped: bool = False) -> Iterator[sqlite3.Connection]:
        """Give this thread's connection, and tell what goes wrong with the file in the store's own words."""
        try:
            line = self._mine("mapped" if mapped else "line")
            with line.busy:
                yield line.connection
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error

    @contextmanager
    def _hasty(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection that waits neither for others nor for the disk; none while the disk is slow."""
        begun = time.monotonic()
        if begun < self._slow_until:
            yield None
            return
        try:
            line = self._quick = self._quick or self._kept(_Connection(self._connect(**NONBLOCKING_PRAGMAS)))
            with line.busy:
                yield line.connection
            ended = time.monotonic()
            if ended - begun > SLOW_DISK_S:
                self._slow_until = ended + SLOW_DISK_PAUSE_S
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error

    def get_many(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        return dict(self._rows("key, value", keys, since))

    def get_entries(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        return list(map(Entry._make, self._rows("key, value, model, created_at", keys, since)))

    def _rows(self, columns: str, keys: Sequence[bytes], since: float) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        since = valid_since(since, self._ttl_s)
        with self._guarded() as connection:
            for start in range(0, len(keys), QUERY_KEYS):
                some = keys[start : start + QUERY_KEYS]
                marks = ",".join("?" * len(some))
                query = f"SELECT {columns} FROM answers WHERE key IN ({marks}) AND created_at >= ?"  # noqa: S608 - names and question marks
                found += connection.execute(query, (*some, since))
        self._count(len(found), len(keys) - len(found))
        return found

    def get_block(self, keys: bytes, since: float = 0.0, /) -> BlockValues:
        with self._guarded() as connection:
            found = read_block(connection, partial(self._guarded, True), keys, valid_since(since, self._ttl_s))
        hits = int((found.sizes != ABSENT).sum())
        self._count(hits, len(found.sizes) - hits)
        return found

    def scan(self) -> Iterator[Entry]:
        last = 0
        while True:
            # A few at a time, so that whoever looks on may write meanwhile.
            with self._guarded() as connection:
                some = connection.execute(_SCAN, (last, QUERY_KEYS)).fetchall()
            if not some:
                return
            yield from (Entry(*row[1:]) for row in some)
            last = some[-1][0]

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses

    def put_many(self, entries: Iterable[Entry]) -> None:
        self._pages = 0
        with self._guarded() as connection:
            _put(connection, entries)

    def try_put(self, entries: Sequence[Entry]) -> bool:
        size = sum([len(entry.value) for entry in entries])
        if (
            len(entries) > MAX_NONBLOCKING_ENTRIES
            or size > MAX_NONBLOCKING_BYTES
            or self._pages > CHECKPOINT_SOON_PAGES
        ):
            return False
        self._pages += len(entries) + size // PAGE_BYTES
        with self._hasty() as connection:
            return connection is not None and sqlite_ledger.try_write(partial(_put, connection, entries))

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._guarded() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM answers WHERE key = ?", ((key,) for key in keys))

    def clear(self) -> None:
        with self._guarded() as connection:
            connection.execute("DELETE FROM answers")

    def compact(self) -> None:
        # Not while somebody else reads or writes; the room is used again all the same.
        with suppress(StoreError), self._guarded() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def stats(self) -> StoreStats:
        with self._guarded() as connection:
            (entries,) = connection.execute("SELECT count(*) FROM answers").fetchone()
        sizes = (Path(f"{self._path}{suffix}") for suffix in ("", "-wal"))
        return StoreStats(
            entries=entries,
            size_bytes=sum(path.stat().st_size for path in sizes if path.exists()),
            hits=self._hits,
            misses=self._misses,
        )

    def close(self) -> None:
        with suppress(StoreError):
            self._leave()
        with self._lock:
            self._closed = True
            lines, self._all = self._all, []
        for line in lines:
            # SQLite breaks down when a connection is closed under the thread that uses it.
            if line.busy.acquire(timeout=CLOSE_S):
                line.connection.close()
                line.busy.release()

    def _mine(self, name: str) -> _Connection:
        """Give this thread's connection of that name (see `CONNECTION_PRAGMAS`)."""
        line: _Connection | None = getattr(self._local, name, None)
        if line is None:
            line = self._kept(_Connection(self._connect(**CONNECTION_PRAGMAS[name])))
            setattr(self._local, name, line)
        return line

    def _kept(self, line: _Connection) -> _Connection:
        """Keep a new connection until all are closed."""
        with self._lock:
            if self._closed:
                line.connection.close()
                raise sqlite3.ProgrammingError("it was closed")
            self._all.append(line)
        return line

    def _connect(self, **more: int) -> sqlite3.Connection:
        """Open a connection, with ``more`` settings of its own; none is left open if that fails."""
        connection = sqlite3.connect(self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        with ExitStack() as failing:
            failing.callback(connection.close)
            for name, value in (_PRAGMAS | more).items():
                connection.execute(f"PRAGMA {name} = {value}")
            failing.pop_all()
        return connection

    def _ready(self, connection: sqlite3.Connection) -> bool:
        """Say whether a file is set up already; refuse one that is somebody else's, or of a later layout."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        (tag,) = connection.execute("PRAGMA application_id").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if tables and tag != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is a database of another program")
        if layout > LAYOUT_VERSION:
            raise sqlite3.DatabaseError(f"its layout {layout} is later than this version's {LAYOUT_VERSION}")
        # One that cannot be written is refused now, when it is set up, and not at the first answer.
        return layout == LAYOUT_VERSION and tables >= TABLES and os.access(self._path, os.W_OK)


if TYPE_CHECKING:
    import numpy as np

    Longs: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
    Part: TypeAlias = tuple[bytes, Longs, Longs, Longs]


ConnectionFactory: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]


KEYS_PER_QUERY: Final = 1024
"""Keys looked up in one step."""


PROBE_KEYS: Final = 16
"""Keys looked up to find a stretch."""


MIN_RANGE_KEYS: Final = 64
"""Blocks of fewer keys are looked up key by key."""


RANGE_MARGIN_ROWS: Final = 16
"""Rows read before and after a stretch, at least."""


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
    """Look up keys of 32 bytes that lie one after another (see `llmhub.cache.store.GetBlock`).

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
    for part, places, begins, lengths in _block_parts(connection, mapped, keys, since):
        starts[places], sizes[places] = begins + length, lengths
        values.append(part)
        length += len(part)
    return BlockValues(b"".join(values) if len(values) != 1 else values[0], starts, sizes)


def _block_parts(
    connection: sqlite3.Connection, mapped: ConnectionFactory, keys: bytes, since: float
) -> Iterator[Part]:
    """Give values, the places they answer, where each begins and how long it is."""
    import numpy as np  # noqa: PLC0415

    rest = np.arange(len(keys) // KEY_BYTES)
    if len(rest) >= MIN_RANGE_KEYS and (span := _find_range(connection, keys)) is not None:
        part = _read_range(connection, keys, span, since)
        if part is not None:
            yield part
            rest = np.delete(rest, part[1])
    if len(rest):
        with mapped() as scattered:
            yield from _read_each(scattered, keys, rest, since)


def _read_each(connection: sqlite3.Connection, keys: bytes, rest: Longs, since: float) -> Iterator[Part]:
    """Look up key by key."""
    import numpy as np  # noqa: PLC0415

    waiting = [rest[at : at + KEYS_PER_QUERY] for at in range(0, len(rest), KEYS_PER_QUERY)][::-1]
    rows = np.frombuffer(keys, f"V{KEY_BYTES}")
    while waiting:
        some = waiting.pop()
        try:
            joined, said = connection.execute(_EACH_QUERY, (len(some), rows[some].tobytes(), since)).fetchone()
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


def _find_range(connection: sqlite3.Connection, keys: bytes) -> tuple[int, int] | None:
    """Find the stretch in which a block lies, if there is one: the first and last rowid."""
    many = len(keys) // KEY_BYTES
    probes = {keys[at * KEY_BYTES : (at + 1) * KEY_BYTES]: at for at in range(0, many, max(1, many // PROBE_KEYS))}
    found = connection.execute(_PROBE_QUERY.format(marks=",".join("?" * len(probes))), tuple(probes)).fetchall()
    shifts = sorted(rowid - probes[key] for key, rowid in found)
    if not shifts:
        return None
    middle = shifts[len(shifts) // 2]
    near = [shift for shift in shifts if abs(shift - middle) <= many // 4]
    if 2 * len(near) < len(probes):
        return None
    return near[0] - RANGE_MARGIN_ROWS, near[-1] + many + RANGE_MARGIN_ROWS


def _read_range(connection: sqlite3.Connection, keys: bytes, span: tuple[int, int], since: float) -> Part | None:
    """Read a stretch, and say which places of the block it answers."""
    import numpy as np  # noqa: PLC0415

    try:
        theirs, said, values = connection.execute(_RANGE_QUERY, (*span, since)).fetchone()
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
