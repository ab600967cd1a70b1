"""Files and batches of the service on disk: their state in an SQLite file, their content in a folder.

Several processes may use one folder: a batch is executed by the process that holds its lock. What is written survives
the process, however that ends. Functions block, and may be called from any thread.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from llmhub.server.batch_storage import INPUT, BatchEntry, BatchOwner, ended_at, result_id
from llmhub.server.dialects.openai_batches import ENDED, BatchObject, FileObject
from llmhub.server.run_store import FileLock, RunLock, try_lock

DATABASE: Final = "state.db"
FILES: Final = "files"
RESERVED: Final = "reserved"
"""Name of the file that marks a batch whose rows have been reserved by a process that may be dead."""
LOCK: Final = "lock.db"
UPLOAD_SUFFIX: Final = ".upload"
BUSY_S: Final = 30.0
STRAY_AGE_S: Final = 86_400.0
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, team TEXT NOT NULL, purpose TEXT NOT NULL,
    expires_at REAL, bytes INTEGER NOT NULL, object BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS files_by_team ON files (team, number);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, team TEXT NOT NULL, is_open INTEGER NOT NULL,
    cancel_at REAL, ended_at REAL, object BLOB NOT NULL, owner BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS batches_by_team ON batches (team, number);
CREATE INDEX IF NOT EXISTS open_batches ON batches (is_open, number);
"""
LATEST_FILES: Final = """
SELECT object FROM files WHERE team = ?1 AND (?2 = '' OR purpose = ?2)
AND (?3 = '' OR number < (SELECT number FROM files WHERE id = ?3 AND team = ?1)) ORDER BY number DESC LIMIT ?4
"""
OLDEST_FILES: Final = LATEST_FILES.replace("number <", "number >").replace("DESC", "ASC")


_encode: Final = msgspec.json.Encoder().encode
_decode_file: Final = msgspec.json.Decoder(FileObject).decode
_decode_batch: Final = msgspec.json.Decoder(BatchObject).decode
_decode_owner: Final = msgspec.json.Decoder(BatchOwner).decode


class BatchFolder:
    """The files and batches in a folder."""

    is_remote: Final = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / FILES).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            folder / DATABASE, timeout=BUSY_S, check_same_thread=False, isolation_level=None
        )
        # No write-ahead log: it would need memory that all processes share, and the folder may be on a network.
        self._connection.executescript(f"PRAGMA journal_mode=DELETE; {SCHEMA}")
        (folder / DATABASE).chmod(0o600)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _execute(self, query: str, *arguments: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, arguments).fetchall()

    # Files

    def upload_path(self) -> Path:
        """Return where the content of a new file is written first."""
        return self.folder / FILES / f"{secrets.token_hex(12)}{UPLOAD_SUFFIX}"

    def open_content(self, file_id: str) -> IO[bytes]:
        """Open the content of a file; raise `FileNotFoundError` if it is not there any more."""
        return self.content_path(file_id).open("rb")

    def content_path(self, file_id: str) -> Path:
        """Return where the content of a file is."""
        return self.folder / FILES / file_id

    def add_file(self, team: str, file: FileObject, content: Path) -> None:
        """Add a file whose content is at a path of the same folder, which is moved."""
        content.replace(self.content_path(file.id))
        self._execute(
            "INSERT INTO files (id, team, purpose, expires_at, bytes, object) VALUES (?, ?, ?, ?, ?, ?)",
            file.id,
            team,
            file.purpose,
            file.expires_at,
            file.bytes,
            _encode(file),
        )

    def find_file(self, file_id: str, team: str) -> FileObject | None:
        """Return a file of a team; ``None`` if it has none of this id."""
        found = self._execute("SELECT object FROM files WHERE id = ? AND team = ?", file_id, team)
        return _decode_file(found[0][0]) if found else None

    def list_files(
        self, team: str, limit: int, *, after: str = "", purpose: str = "", oldest_first: bool = False
    ) -> list[FileObject]:
        """Return the files of a team, from the one after ``after`` on."""
        rows = self._execute(OLDEST_FILES if oldest_first else LATEST_FILES, team, purpose, after, limit)
        return [_decode_file(row[0]) for row in rows]

    def bytes_of_team(self, team: str) -> int:
        """Return the size of all files of a team."""
        return int(self._execute("SELECT COALESCE(SUM(bytes), 0) FROM files WHERE team = ?", team)[0][0])

    def delete_file(self, file_id: str, team: str) -> bool:
        """Delete a file of a team; return whether it was there. A batch that reads it has a link of its own."""
        deleted = self._execute("DELETE FROM files WHERE id = ? AND team = ? RETURNING id", file_id, team)
        if deleted:
            self.content_path(file_id).unlink(missing_ok=True)
        return bool(deleted)

    # Batches

    def path(self, batch_id: str, name: str = "") -> Path:
        """Return the folder of a batch, or a file in it."""
        return self.folder / batch_id / name if name else self.folder / batch_id

    def add_batch(self, row: BatchEntry) -> bool:
        """Add a batch with a link to its input; return whether that is still there."""
        batch = row.object
        self.path(batch.id).mkdir(mode=0o700)
        try:
            os.link(self.content_path(batch.input_file_id), self.path(batch.id, INPUT))
        except FileNotFoundError:
            self.path(batch.id).rmdir()
            return False
        self._execute(
            "INSERT INTO batches (id, team, is_open, object, owner) VALUES (?, ?, 1, ?, ?)",
            batch.id,
            row.team,
            _encode(batch),
            _encode(row.owner),
        )
        return True

    def try_lock(self, batch_id: str) -> FileLock | None:
        """Return the lock of a batch, or ``None`` if another process has it, or another service of this one."""
        return try_lock(self.path(batch_id, LOCK))

    def input_path(self, batch: BatchObject) -> Path:
        """Return the input of a batch."""
        return self.path(batch.id, INPUT)

    def open_log(self, batch_id: str, name: str, lock: RunLock) -> LineLog:  # noqa: ARG002 - the folder is locked
        """Open the output or the errors of a batch for appending."""
        return LineLog(self.path(batch_id, name))

    def add_result(self, team: str, batch_id: str, name: str, file: FileObject) -> None:
        """Make a file of the output or the errors, whose id is `result_id`; twice is as once."""
        assert file.id == result_id(batch_id, name)  # noqa: S101 - the caller's
        if self.find_file(file.id, team) is None:
            linked = self.upload_path()
            os.link(self.path(batch_id, name), linked)
            self.add_file(team, file, linked)

    def is_reserved(self, batch_id: str) -> bool:
        """Return whether a process has reserved the cost of the lines of a batch, and has not released it."""
        return self.path(batch_id, RESERVED).exists()

    def set_reserved(self, batch_id: str, *, reserved: bool) -> None:
        """Note whether the cost of the lines is reserved."""
        marker = self.path(batch_id, RESERVED)
        if reserved:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)

    def save(self, batch: BatchObject, lock: RunLock) -> None:  # noqa: ARG002 - the folder is locked
        """Store the present state of a batch."""
        is_open = batch.status not in ENDED
        self._execute(
            "UPDATE batches SET object = ?, is_open = ?, ended_at = ? WHERE id = ?",
            _encode(batch),
            is_open,
            None if is_open else ended_at(batch),
            batch.id,
        )

    def request_cancel(self, batch_id: str, team: str, now: float) -> bool:
        """Ask the process that executes a batch to cancel it; return whether the team has an open one of this id."""
        return bool(
            self._execute(
                "UPDATE batches SET cancel_at = COALESCE(cancel_at, ?)"
                " WHERE id = ? AND team = ? AND is_open RETURNING id",
                now,
                batch_id,
                team,
            )
        )

    def find_batch(self, batch_id: str, team: str) -> BatchEntry | None:
        """Return a batch of a team; ``None`` if it has none of this id."""
        return next(iter(self._batches("WHERE id = ? AND team = ?", batch_id, team)), None)

    def list_batches(self, team: str | None, limit: int, after: str = "") -> Sequence[BatchEntry]:
        """Return the batches of a team, or of all, the newest first, from the one after ``after`` on."""
        return self._batches(
            "WHERE (?1 IS NULL OR team = ?1)"
            " AND (?2 = '' OR number < (SELECT number FROM batches WHERE id = ?2 AND team = ?1))"
            " ORDER BY number DESC LIMIT ?3",
            team,
            after,
            limit,
        )

    def open_batches(self) -> Sequence[BatchEntry]:
        """Return all batches that have not ended, the oldest first."""
        return self._batches("WHERE is_open ORDER BY number")

    def _batches(self, condition: str, *arguments: Any) -> Sequence[BatchEntry]:
        query = f"SELECT team, object, owner, cancel_at FROM batches {condition}"  # noqa: S608 - constants
        return [
            BatchEntry(team, _decode_batch(batch), _decode_owner(owner), cancel_at)
            for team, batch, owner, cancel_at in self._execute(query, *arguments)
        ]

    # Upkeep

    def finish_batch(self, batch: BatchObject) -> None:
        """Remove the folder of a batch that has ended; its output and errors are files by then."""
        shutil.rmtree(self.path(batch.id), ignore_errors=True)

    def remove_old(self, now: float, keep_s: float) -> None:
        """Delete expired files, batches that ended long ago, and what killed processes have left."""
        for file_id, team in self._execute("SELECT id, team FROM files WHERE expires_at < ?", now):
            self.delete_file(file_id, team)
        self._execute("DELETE FROM batches WHERE NOT is_open AND ended_at < ?", now - keep_s)
        for path in (self.folder / FILES).glob(f"*{UPLOAD_SUFFIX}"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < now - STRAY_AGE_S:
                    path.unlink()


class LineLog:
    """Lines that are appended to a file, each complete or not there: a line that was cut off by a kill is removed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        size = os.fstat(self._file).st_size
        os.ftruncate(self._file, _end_of_last_line(self._file, size))

    def append(self, line: bytes) -> None:
        """Append a line. It is in the system's hands when this returns, and survives a kill of the process."""
        written = 0
        while written < len(line):
            written += os.write(self._file, memoryview(line)[written:])

    def groups(self, size: int) -> Iterator[list[tuple[int, bytes]]]:
        """Yield the lines with their numbers, from 1, in lists of at most ``size``."""
        return iter_line_groups(self._path, size)

    def total_bytes(self) -> int:
        """Return the size of all lines."""
        return self._path.stat().st_size

    def close(self) -> None:
        """Make the lines durable, and close the file."""
        with suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)


def _end_of_last_line(file: int, size: int) -> int:
    """Return the position after the last line break of a file."""
    step = 1 << 16
    end = size
    while end:
        start = max(end - step, 0)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def iter_line_groups(path: Path, size: int) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the lines of a file that are not empty with their numbers, from 1, in lists of at most ``size``."""
    group: list[tuple[int, bytes]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line := line.strip():
                group.append((number, line))
            if len(group) == size:
                yield group
                group = []
    if group:
        yield group
