"""The file beside a cache in SQLite that holds its vectors, each written once.

SQLite writes a value of some kilobytes page by page, to its log and then to the file, which takes five times as long as
writing the bytes. For a vector, the table ``answers`` holds a reference (`Reference`) to a record in this file: the key
and then the value.

- Space is allocated in the transaction that stores the references, in the table ``vector_space``. A crash at any moment
  therefore leaves space that still counts as free, and never a reference without its record; processes need no other
  lock than SQLite's. Records that are deleted or replaced free their space in the same way.
- A reader may find another record, or none, where a reference points: the record was moved or replaced after the
  reader looked the reference up. It then looks the key up once more. If the record is not there (the file was deleted,
  or the machine crashed before it was on the disk), the value is `MISSING`, which counts as damaged.
- Where the system lacks ``pwritev``, vectors are stored in the table like all other values. A program from before there
  was this file takes references for values of a later version.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from llmhub.cache.store import Entry
from llmhub.core.vector_serialization import VECTOR_VERSION

SUFFIX: Final = "-vectors"
"""What follows the name of the cache's file in the name of the file of its vectors."""
IS_SUPPORTED: Final = hasattr(os, "pwritev")
"""Whether the system reads and writes at an offset."""
MIN_RECORD_BYTES: Final = 1024
"""Smaller vectors are stored in the table."""
MAX_READ_BYTES, MAX_GAP_BYTES = 1 << 20, 16 << 10
"""Records that are close to each other are read at once, up to a size."""
MAX_PARTS: Final = 1024
"""Parts that are written at once: systems take no more."""
UNSYNCED_BYTES: Final = 64 << 20
"""Size of the records after which the file is synchronized with the disk, as SQLite does with its log."""
QUERY_KEYS: Final = 500
MISSING: Final = bytes([VECTOR_VERSION])
"""The value of a vector whose record is not in the file."""
MAX_LOOKUPS: Final = 3
"""Times that a reference is looked up while records are moved."""
MAX_TRIED_GAPS: Final = 64
"""Gaps that are tried for a record that is moved."""

_MAGIC: Final = b"\x81vector\x01"
_REFERENCE: Final = struct.Struct("<8sQI")
REFERENCE_BYTES: Final = _REFERENCE.size
_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS vector_space (start INTEGER PRIMARY KEY, size INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS vector_space_by_size ON vector_space (size)",
)
_END: Final = 1 << 62
"""The end of the last gap: all space is either that of records, or in a gap of the table ``vector_space``."""
_IS_REFERENCE: Final = f"length(value) = {REFERENCE_BYTES} AND substr(value, 1, {len(_MAGIC)}) = x'{_MAGIC.hex()}'"
_PUT: Final = f"""
INSERT OR %s INTO answers (key, value, model, created_at)
WITH RECURSIVE place(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM place WHERE n + 1 < ?1)
SELECT substr(?2, n * ?3 + 1, ?3), substr(?4, n * {REFERENCE_BYTES} + 1, {REFERENCE_BYTES}), ?5, ?6 FROM place
"""  # noqa: S608 - a number
_PUT_NEW, _PUT_ALL = _PUT % "IGNORE", _PUT % "REPLACE"


KeyedReference: TypeAlias = tuple[bytes, bytes]
"""A key and the packed reference of its vector."""


class Reference(NamedTuple):
    """Where the record of a vector begins in the file, and the size of the value, which follows the key."""

    start: int
    size: int

    def pack(self) -> bytes:
        """Return the value that stands for the vector in the table ``answers``.

        Examples
        --------
        >>> unpack_reference(Reference(4096, 6190).pack())
        Reference(start=4096, size=6190)
        """
        return _REFERENCE.pack(_MAGIC, self.start, self.size)


def unpack_reference(value: bytes) -> Reference | None:
    """Return the reference that a stored value is, or ``None`` for any other value."""
    if len(value) != REFERENCE_BYTES or not value.startswith(_MAGIC):
        return None
    return Reference(*_REFERENCE.unpack(value)[1:])


def has_record(entry: Entry) -> bool:
    """Return whether the value of an entry is stored in the file of vectors."""
    return IS_SUPPORTED and len(entry.value) >= MIN_RECORD_BYTES and entry.value[0] == VECTOR_VERSION


@dataclass(frozen=True, slots=True)
class Records:
    """Vectors of one model and time, to be written together; no two have the same key, and all keys the same length."""

    keys: Sequence[bytes]
    values: Sequence[bytes]
    model: str
    created_at: float

    @classmethod
    def of(cls, entries: Iterable[Entry], created_at: float) -> Records:
        """Return the records of entries; the last entry of a key wins."""
        model, values = "", {}
        for key, value, model, _ in entries:  # noqa: B007 - the same for all
            values[key] = value
        return cls(list(values), list(values.values()), model, created_at)

    @property
    def key_size(self) -> int:
        """The length of each key."""
        return len(self.keys[0])

    @property
    def size(self) -> int:
        """The size of all records."""
        return sum(map(len, self.values)) + self.key_size * len(self.keys)


class VectorFile:
    """The file of the vectors of one cache. Its functions may be called from any thread.

    Parameters
    ----------
    cache_path
        The file of the cache.
    read_only
        Whether to open the file without the right to write.
    """

    def __init__(self, cache_path: Path, *, read_only: bool = False) -> None:
        # Two names of one cache (a symbolic link) must have one file of vectors.
        self._cache_path = cache_path.resolve()
        self._path = Path(f"{self._cache_path}{SUFFIX}")
        self._read_only = read_only
        self._open_file: _File | None = None
        self._lock = threading.Lock()
        self._unsynced_bytes = 0
        self._syncing: threading.Thread | None = None

    @property
    def size_bytes(self) -> int:
        """The size of the file; 0 if there is none."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def write(self, connection: sqlite3.Connection, records: Records) -> list[KeyedReference]:
        """Write records, and their references in the transaction of ``connection``.

        Return the references that are replaced. Their records are to be freed at the end of the transaction: until it
        is committed, no other record may take their place.
        """
        file = self._file()
        file.require_name(self._path)
        total, key_size = records.size, records.key_size
        start, references = _allocate(connection, total), []
        file.write([part for record in zip(records.keys, records.values, strict=True) for part in record], start)
        for value in records.values:
            references.append(_REFERENCE.pack(_MAGIC, start, len(value)))
            start += key_size + len(value)
        values = b"".join(references)
        count = len(records.keys)
        parameters = (count, b"".join(records.keys), key_size, values, records.model, records.created_at)
        self._unsynced_bytes += total
        old: list[KeyedReference] = []
        if connection.execute(_PUT_NEW, parameters).rowcount < count:
            new = set(references)
            old = [row for row in _references_of(connection, records.keys) if row[1] not in new]
            connection.execute(_PUT_ALL, parameters)
        return old

    def read(
        self, connection: sqlite3.Connection, keys: Sequence[bytes], values: Sequence[bytes]
    ) -> Sequence[bytes | None]:
        """Return the values of keys with vectors in the place of references; ``None`` for a key deleted meanwhile."""
        found = {index: reference for index, value in enumerate(values) if (reference := unpack_reference(value))}
        if not found:
            return values
        result: list[bytes | None] = list(values)
        for _ in range(MAX_LOOKUPS):
            for index, value in self._read_records([(reference, index) for index, reference in found.items()], keys):
                result[index] = value
                del found[index]
            moved = {}
            for index in found:
                row = connection.execute("SELECT value FROM answers WHERE key = ?", (keys[index],)).fetchone()
                now = None if row is None else unpack_reference(row[0])
                if now is None:
                    result[index] = None if row is None else row[0]
                else:  # even if it is the same: another record may have taken the place of one that was deleted
                    moved[index] = now
            found = moved
            if not found:
                return result
        for index in found:
            result[index] = MISSING
        return result

    def _read_records(self, wanted: list[tuple[Reference, int]], keys: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yield the values of references whose record has its key, with their indices."""
        try:
            file = self._file()
        except FileNotFoundError:
            return
        wanted.sort()
        for group in _neighbours(wanted, keys):
            first, last = group[0][0].start, max(start + len(keys[index]) + size for (start, size), index in group)
            data = file.read(first, last - first)
            for (start, size), index in group:
                key = keys[index]
                at = start - first + len(key)
                if data.startswith(key, start - first) and at + size <= len(data):
                    yield index, data[at : at + size]

    def references(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[KeyedReference]:
        """Return the references of keys that are about to be deleted."""
        return _references_of(connection, keys)

    def free(self, connection: sqlite3.Connection, references: Sequence[KeyedReference]) -> None:
        """Free the records of references that were deleted or replaced, at the end of the transaction."""
        if references:
            _free(connection, references)

    def clear(self, connection: sqlite3.Connection) -> None:
        """Free all records, in the transaction that deletes everything."""
        connection.execute("DROP TABLE IF EXISTS vector_space")

    def compact(self, connection: sqlite3.Connection) -> None:
        """Move the last records to gaps before them, and cut the file off after the last one."""
        if not self.size_bytes:
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            self._move(connection)
        self.truncate(connection)

    def truncate(self, connection: sqlite3.Connection) -> None:
        """Cut the file off after the last record that is committed."""
        if not self.size_bytes:
            return
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # no other process writes records meanwhile
            tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'vector_space'").fetchone()
            last = connection.execute("SELECT max(start) FROM vector_space").fetchone() if tables else None
            self._file().truncate(last[0] if last is not None and last[0] is not None else 0)

    def _move(self, connection: sqlite3.Connection) -> None:
        """Move records to gaps that were free before, last one first, and store the gaps that are left."""
        rows = connection.execute(f"SELECT key, value FROM answers WHERE {_IS_REFERENCE}")  # noqa: S608 - constants
        kept = sorted([(*_unpack(value), key) for key, value in rows])
        gaps = _gaps([(start, len(key) + size) for start, size, key in kept])[:-1]
        file, moved = self._file(), []
        while kept:
            start, size, key = kept[-1]
            length = len(key) + size
            at = next((at for at, gap in enumerate(gaps[:MAX_TRIED_GAPS]) if gap[1] >= length and gap[0] < start), None)
            if at is None:
                break
            kept.pop()
            target, room = gaps[at]
            gaps[at : at + 1] = [(target + length, room - length)] if room > length else []
            file.write([file.read(start, length)], target)
            moved.append((target, size, key))
        if moved:
            file.sync()  # the copies replace records that may have been on the disk for long
            connection.executemany(
                "UPDATE answers SET value = ? WHERE key = ?",
                ((Reference(start, size).pack(), key) for start, size, key in moved),
            )
        for statement in (*_CREATE, "DELETE FROM vector_space"):
            connection.execute(statement)
        gaps = _gaps(sorted([(start, len(key) + size) for start, size, key in (*kept, *moved)]))
        connection.executemany("INSERT INTO vector_space (start, size) VALUES (?, ?)", gaps)

    def sync_if_due(self) -> None:
        """Synchronize the file with the disk if much was written, in a thread: further records need not wait."""
        is_syncing = self._syncing is not None and self._syncing.is_alive()
        if self._unsynced_bytes > UNSYNCED_BYTES and not is_syncing:
            self._unsynced_bytes = 0
            self._syncing = threading.Thread(target=_try_sync, args=(self._file(),), name="llmhub-sync", daemon=True)
            self._syncing.start()

    def sync(self) -> None:
        """Synchronize the file with the disk if anything was written."""
        if self._unsynced_bytes:
            self._unsynced_bytes = 0
            _try_sync(self._file())

    def close(self) -> None:
        """Close the file, once no thread reads it any more."""
        self._open_file = None

    def _file(self) -> _File:
        with self._lock:
            if self._open_file is None:
                if not self._read_only:
                    self._create()
                self._open_file = _File(self._path, read_only=self._read_only)
            return self._open_file

    def _create(self) -> None:
        """Create the file with the permissions of the cache's, unless there is one."""
        with suppress(FileExistsError):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.fchmod(descriptor, self._cache_path.stat().st_mode & 0o666)
            finally:
                os.close(descriptor)


class _File:
    """An open file, closed with the last reference to it: a thread may be reading it."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def require_name(self, path: Path) -> None:
        """Raise if the file was deleted or replaced: what is written to it would be lost with it."""
        own = os.fstat(self._descriptor)
        try:
            named = path.stat()
        except FileNotFoundError:
            named = None
        if named is None or (own.st_dev, own.st_ino) != (named.st_dev, named.st_ino):
            raise OSError(f"{path}: the file was deleted or replaced while in use")

    def read(self, start: int, size: int) -> bytes:
        """Return the bytes from ``start``, fewer if the file ends."""
        data = os.pread(self._descriptor, size, start)
        while 0 < len(data) < size and (more := os.pread(self._descriptor, size - len(data), start + len(data))):
            data += more
        return data

    def write(self, parts: Sequence[bytes], start: int) -> None:
        """Write parts one after the other, without joining them first."""
        for first in range(0, len(parts), MAX_PARTS):
            group = parts[first : first + MAX_PARTS]
            size = sum(map(len, group))
            written = os.pwritev(self._descriptor, group, start)
            while written < size:  # the disk is nearly full, or a signal came
                written += os.pwrite(self._descriptor, b"".join(group)[written:], start + written)
            start += size

    def truncate(self, size: int) -> None:
        if os.fstat(self._descriptor).st_size > size:
            os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        os.fsync(self._descriptor)


def _try_sync(file: _File) -> None:
    """Synchronize a file with the disk. If that fails, a record that is lost is found damaged when it is read."""
    with suppress(OSError):
        file.sync()


def _neighbours(
    wanted: Sequence[tuple[Reference, int]], keys: Sequence[bytes]
) -> Iterator[list[tuple[Reference, int]]]:
    """Yield groups of sorted references that are read at once."""
    group: list[tuple[Reference, int]] = []
    first = end = 0
    for item in wanted:
        (start, size), index = item
        if group and (start > end + MAX_GAP_BYTES or start + size > first + MAX_READ_BYTES):
            yield group
            group = []
        if not group:
            first = end = start
        group.append(item)
        end = max(end, start + len(keys[index]) + size)
    if group:
        yield group


def _references_of(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[KeyedReference]:
    """Return the keys that have references, and these."""
    rows: list[KeyedReference] = []
    for at in range(0, len(keys), QUERY_KEYS):
        batch = keys[at : at + QUERY_KEYS]
        marks = ",".join("?" * len(batch))
        rows += connection.execute(
            f"SELECT key, value FROM answers WHERE key IN ({marks}) AND {_IS_REFERENCE}",  # noqa: S608 - question marks
            batch,
        )
    return rows


def _allocate(connection: sqlite3.Connection, size: int) -> int:
    """Take space from the smallest gap that is large enough, and return its start."""
    query = "SELECT start, size FROM vector_space WHERE size >= ? ORDER BY size, start LIMIT 1"
    try:
        row = connection.execute(query, (size,)).fetchone()
    except sqlite3.OperationalError:  # most probably, there is no such table yet
        for statement in _CREATE:
            connection.execute(statement)
        row = connection.execute(query, (size,)).fetchone()
    if row is None:  # the table is new
        connection.execute("INSERT INTO vector_space (start, size) VALUES (?, ?)", (size, _END - size))
        return 0
    start, gap = row
    if gap == size:
        connection.execute("DELETE FROM vector_space WHERE start = ?", (start,))
    else:
        change = "UPDATE vector_space SET start = start + ?1, size = size - ?1 WHERE start = ?2"
        connection.execute(change, (size, start))
    return int(start)


def _free(connection: sqlite3.Connection, rows: Iterable[KeyedReference]) -> None:
    """Make gaps of the records of references, and join them with the gaps beside them."""
    spans: list[list[int]] = []
    for start, length in sorted((at, len(key) + size) for key, value in rows for at, size in [_unpack(value)]):
        if spans and spans[-1][1] == start:
            spans[-1][1] += length
        else:
            spans.append([start, start + length])
    for start, end in spans:
        before = connection.execute(
            "SELECT start, start + size FROM vector_space WHERE start <= ? ORDER BY start DESC LIMIT 1", (start,)
        ).fetchone()
        after = connection.execute(
            "SELECT start, start + size FROM vector_space WHERE start > ? ORDER BY start LIMIT 1", (start,)
        ).fetchone()
        if (before is not None and before[1] > start) or (after is not None and after[0] < end):
            continue  # free already; `compact` finds out what is
        joined = [gap for gap in (before, after) if gap is not None and (gap[1] == start or gap[0] == end)]
        connection.executemany("DELETE FROM vector_space WHERE start = ?", [gap[:1] for gap in joined])
        low, high = min([start, *(gap[0] for gap in joined)]), max([end, *(gap[1] for gap in joined)])
        connection.execute("INSERT INTO vector_space (start, size) VALUES (?, ?)", (low, high - low))


def _unpack(value: bytes) -> tuple[int, int]:
    _, start, size = _REFERENCE.unpack(value)
    return start, size


def _gaps(used: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the gaps between sorted spans, each a start and a size; the last one is the rest of all space.

    Examples
    --------
    >>> _gaps([(0, 10), (10, 5), (20, 5)])[:-1]
    [(15, 5)]
    """
    gaps, end = [], 0
    for start, size in used:
        if start > end:
            gaps.append((end, start - end))
        end = max(end, start + size)
    return [*gaps, (end, _END - end)]
