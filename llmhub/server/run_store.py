"""The runs of a service: their records, inputs and results, and which process executes each.

`FolderRunStore` keeps them on disk: the records in an SQLite file, and a folder for the input and results of each. A
run is executed by the process that holds the lock in its folder: a transaction on an SQLite file, which the system ends
with the process, however that ends. `llmhub.server.redis_run_store` keeps them on a Redis server.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

from llmhub.cache.sqlite import FILE_SUFFIXES, DiskCache
from llmhub.cache.store import Store
from llmhub.server.result_log import ResultFile, ResultLog

RunState: TypeAlias = Literal["queued", "running", "stopping", "done", "stopped", "failed"]
UNFINISHED: Final[tuple[RunState, ...]] = ("queued", "running", "stopping")
DATABASE: Final = "state.db"
INPUT: Final = "input.arrow"
RESULTS: Final = "results.log"
LOCK: Final = "lock.db"
JOURNAL: Final = "responses.db"
BUSY_S: Final = 30.0
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    team TEXT NOT NULL,
    created_at REAL NOT NULL,
    state TEXT NOT NULL,
    caller BLOB NOT NULL,
    request BLOB NOT NULL,
    digest BLOB NOT NULL,
    rows INTEGER NOT NULL,
    simulated INTEGER NOT NULL,
    started_at REAL,
    ended_at REAL,
    error TEXT NOT NULL DEFAULT '',
    forecast BLOB NOT NULL DEFAULT x'',
    summary BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE INDEX IF NOT EXISTS runs_by_team ON runs (team, created_at);
CREATE INDEX IF NOT EXISTS runs_by_state ON runs (state);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """State of a run.

    Parameters
    ----------
    id
        Id of the run, 32 hexadecimal digits.
    team
        Team that it belongs to.
    created_at, started_at, ended_at
        Times in epoch seconds.
    state
        What it is doing.
    caller, request, forecast, summary
        Whose run it is, what was asked, the plan, and the counts at its end, as JSON.
    digest
        Digest of the input and the request.
    rows
        Rows of the input.
    simulated
        Whether a simulator answers.
    error
        Why it failed.
    """

    id: str
    team: str
    created_at: float
    state: RunState
    caller: bytes
    request: bytes
    digest: bytes
    rows: int
    simulated: bool
    started_at: float | None = None
    ended_at: float | None = None
    error: str = ""
    forecast: bytes = b""
    summary: bytes = b""


COLUMNS: Final = tuple(column.name for column in fields(RunRecord))


class RunLostError(Exception):
    """Another process executes the run, because this one was not heard of for too long."""


class RunLock(Protocol):
    """The right of one process to execute a run."""

    def renew(self) -> bool:
        """Keep the right for another while; return whether it is still held."""

    def release(self) -> None:
        """Let another process execute the run."""


class RunStore(Protocol):
    """Keeps runs. Its functions block, and may be called from any thread."""

    @property
    def folder(self) -> Path:
        """Folder of this machine in which uploads are received."""

    @property
    def is_shared(self) -> bool:
        """Whether processes of other machines use it."""

    def prepare(self, run_id: str) -> None:
        """Make room for the files of a run."""

    def discard(self, run_id: str) -> None:
        """Delete the files of a run that was not created after all."""

    def try_lock(self, run_id: str) -> RunLock | None:
        """Return the lock of a run, or ``None`` if another process has it, or another service of this one."""

    def store_input(self, run_id: str) -> None:
        """Keep the input, which was written to `input_path`."""

    def input_path(self, run_id: str) -> Path:
        """Return the file of the input, for reading or to be written."""

    def open_results(self, run_id: str, lock: RunLock | None = None) -> ResultLog:
        """Open the results of a run, for appending if its lock is given."""

    def open_journal(self, run_id: str) -> Store:
        """Open the journal of a run, which keeps its responses where no cache does."""

    def remove_journal(self, run_id: str) -> None:
        """Delete the journal of a run."""

    def insert(self, record: RunRecord) -> None:
        """Add a run."""

    def update(self, run_id: str, **values: object) -> None:
        """Change fields of a run."""

    def get(self, run_id: str, team: str) -> RunRecord | None:
        """Return a run of a team; ``None`` if it has none of this id."""

    def find_unfinished(self, team: str, digest: bytes) -> RunRecord | None:
        """Return a run of a team for the same input and request that has not ended."""

    def unfinished(self) -> Sequence[RunRecord]:
        """Return all runs that have not ended, oldest first."""

    def latest(self, team: str | None, limit: int, before: str = "") -> Sequence[RunRecord]:
        """Return the runs of a team, or of all, newest first, from the one after the run ``before`` on."""

    def remove_ended_before(self, moment: float) -> int:
        """Delete the runs that ended before a time, with their files; return their number."""

    def remove_strays(self) -> None:
        """Delete what uploads of processes that were killed have left."""

    def close(self) -> None:
        """Close the store."""


class FolderRunStore:
    """The runs in a folder. Its functions block, and may be called from any thread."""

    is_shared: Final = False
    """Whoever shares the folder shares the machine, or a cache beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            folder / DATABASE, timeout=BUSY_S, check_same_thread=False, isolation_level=None
        )
        # No write-ahead log: it would need memory that all processes share, and the folder may be on a network.
        self._connection.executescript(f"PRAGMA journal_mode=DELETE; {SCHEMA}")
        (folder / DATABASE).chmod(0o600)

    def path(self, run_id: str, name: str = "") -> Path:
        """Return the folder of a run, or a file in it."""
        return self.folder / run_id / name if name else self.folder / run_id

    def prepare(self, run_id: str) -> None:
        """Make the folder of a run."""
        self.path(run_id).mkdir(mode=0o700)

    def discard(self, run_id: str) -> None:
        """Delete the files of a run that was not created after all."""
        shutil.rmtree(self.path(run_id), ignore_errors=True)

    def try_lock(self, run_id: str) -> FileLock | None:
        """Return the lock of a run, or ``None`` if another process has it, or another service of this one."""
        return try_lock(self.path(run_id, LOCK))

    def store_input(self, run_id: str) -> None:
        """Do nothing: the input is where it was written."""

    def input_path(self, run_id: str) -> Path:
        """Return the file of the input."""
        return self.path(run_id, INPUT)

    def open_results(self, run_id: str, lock: RunLock | None = None) -> ResultFile:
        """Open the results of a run, for appending if its lock is given."""
        return ResultFile(self.path(run_id, RESULTS), writable=lock is not None)

    def open_journal(self, run_id: str) -> Store:
        """Open the journal of a run, which keeps its responses where no cache does."""
        return replace(DiskCache(self.path(run_id, JOURNAL)).open(), claims=None, ledger=None)

    def remove_journal(self, run_id: str) -> None:
        """Delete the journal of a run."""
        for suffix in FILE_SUFFIXES:
            self.path(run_id, JOURNAL + suffix).unlink(missing_ok=True)

    def insert(self, record: RunRecord) -> None:
        """Add a run."""
        marks = ", ".join("?" * len(COLUMNS))
        with self._lock:
            self._connection.execute(
                f"INSERT INTO runs ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608 - constants
                [getattr(record, column) for column in COLUMNS],
            )

    def update(self, run_id: str, **values: object) -> None:
        """Change fields of a run."""
        assignments = ", ".join(f"{name} = ?" for name in values)
        with self._lock:
            self._connection.execute(
                f"UPDATE runs SET {assignments} WHERE id = ?",  # noqa: S608 - names of fields
                [*values.values(), run_id],
            )

    def get(self, run_id: str, team: str) -> RunRecord | None:
        """Return a run of a team; ``None`` if it has none of this id."""
        return next(iter(self._select("WHERE id = ? AND team = ?", run_id, team)), None)

    def find_unfinished(self, team: str, digest: bytes) -> RunRecord | None:
        """Return a run of a team for the same input and request that has not ended."""
        marks = ", ".join("?" * len(UNFINISHED))
        found = self._select(f"WHERE team = ? AND digest = ? AND state IN ({marks})", team, digest, *UNFINISHED)
        return next(iter(found), None)

    def unfinished(self) -> Sequence[RunRecord]:
        """Return all runs that have not ended, oldest first."""
        marks = ", ".join("?" * len(UNFINISHED))
        return self._select(f"WHERE state IN ({marks}) ORDER BY created_at, id", *UNFINISHED)

    def latest(self, team: str | None, limit: int, before: str = "") -> Sequence[RunRecord]:
        """Return the runs of a team, or of all, newest first, from the one after the run ``before`` on."""
        condition = "WHERE (?1 IS NULL OR team = ?1)"
        arguments: list[object] = [team]
        if before:
            condition += " AND (created_at, id) < (SELECT created_at, id FROM runs WHERE id = ?)"
            arguments.append(before)
        return self._select(f"{condition} ORDER BY created_at DESC, id DESC LIMIT ?", *arguments, limit)

    def _select(self, condition: str, *arguments: object) -> Sequence[RunRecord]:
        with self._lock:
            query = f"SELECT {', '.join(COLUMNS)} FROM runs {condition}"  # noqa: S608 - constants
            rows = self._connection.execute(query, arguments).fetchall()
        return [RunRecord(**{**dict(zip(COLUMNS, row, strict=True)), "simulated": bool(row[8])}) for row in rows]

    def remove_ended_before(self, moment: float) -> int:
        """Delete the runs that ended before a time, with their files; return their number."""
        ended = self._select("WHERE ended_at < ?", moment)
        for record in ended:
            shutil.rmtree(self.path(record.id), ignore_errors=True)
            with self._lock:
                self._connection.execute("DELETE FROM runs WHERE id = ?", [record.id])
        return len(ended)

    def remove_strays(self) -> None:
        """Delete what uploads of processes that were killed have left."""
        known = {record.id for record in self._select("")}
        for path in self.folder.iterdir():
            is_old = time.time() - path.stat().st_mtime > BUSY_S * 20
            if path.suffix == ".upload" and is_old:
                path.unlink(missing_ok=True)
            elif path.is_dir() and path.name not in known and is_old:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Close the file."""
        with self._lock, closing(self._connection):
            pass


class FileLock:
    """The lock of the process that executes a run, which the system releases when that process ends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def renew(self) -> bool:
        """Return ``True``: the lock is held until it is released."""
        return True

    def release(self) -> None:
        """Let another process execute the run."""
        self._connection.close()


def try_lock(path: Path) -> FileLock | None:
    """Return the lock of a run, or ``None`` if another process has it, or another service of this one."""
    try:
        connection = sqlite3.connect(path, timeout=0.0, check_same_thread=False, isolation_level=None)
    except sqlite3.OperationalError:  # the folder was removed
        return None
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        connection.close()
        return None
    return FileLock(connection)
