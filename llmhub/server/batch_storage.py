"""Where the files and batches of a service are kept, and which process executes each batch.

`llmhub.server.batch_folder` keeps them on disk, `llmhub.server.redis_batch_store` on a Redis server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from msgspec import Struct

from llmhub.server.dialects.openai_batches import BatchObject, FileObject
from llmhub.server.run_store import RunLock

INPUT: Final = "input.jsonl"
OUTPUT: Final = "output.jsonl"
ERRORS: Final = "errors.jsonl"


class BatchOwner(Struct, kw_only=True, frozen=True):
    """Whose batch it is and how its lines are sent: what is needed to go on with it in another process."""

    key_id: str
    team: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    weight: float
    cache_scope: str
    mode: str = "live"
    cache_mode: str | None = None
    unsupported: str = "error"
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A batch as it is kept; ``cancel_at`` is when a client has cancelled it."""

    team: str
    object: BatchObject
    owner: BatchOwner
    cancel_at: float | None = None


class BatchLog(Protocol):
    """The output or the errors of a batch: lines that are appended, each complete or not there."""

    def append(self, line: bytes) -> None:
        """Append a line. It survives a kill of the process once this returns."""

    def groups(self, size: int) -> Iterator[list[tuple[int, bytes]]]:
        """Yield the lines with their numbers, from 1, in lists of at most ``size``."""

    def total_bytes(self) -> int:
        """Return the size of all lines."""

    def close(self) -> None:
        """Make the lines durable, and append no more."""


class BatchStore(Protocol):
    """Keeps files and batches. Its functions block, and may be called from any thread."""

    @property
    def is_remote(self) -> bool:
        """Whether every function waits for a server, so that none may be called on the event loop."""

    def close(self) -> None:
        """Close the store."""

    def upload_path(self) -> Path:
        """Return where the content of a new file is written first."""

    def add_file(self, team: str, file: FileObject, content: Path) -> None:
        """Add a file whose content is at a path that `upload_path` has returned.

        Raises
        ------
        BadRequestError
            There is no room for it.
        """

    def find_file(self, file_id: str, team: str) -> FileObject | None:
        """Return a file of a team; ``None`` if it has none of this id."""

    def list_files(
        self, team: str, limit: int, *, after: str = "", purpose: str = "", oldest_first: bool = False
    ) -> list[FileObject]:
        """Return the files of a team, from the one after ``after`` on."""

    def bytes_of_team(self, team: str) -> int:
        """Return the size of all files of a team."""

    def open_content(self, file_id: str) -> IO[bytes]:
        """Open the content of a file; raise `FileNotFoundError` if it is not there any more."""

    def delete_file(self, file_id: str, team: str) -> bool:
        """Delete a file of a team; return whether it was there. A batch that reads it keeps its content."""

    def add_batch(self, row: BatchEntry) -> bool:
        """Add a batch; return whether its input file is still there.

        Raises
        ------
        BadRequestError
            There is no room for its output.
        """

    def try_lock(self, batch_id: str) -> RunLock | None:
        """Return the lock of a batch, or ``None`` if another process has it, or another service of this one."""

    def input_path(self, batch: BatchObject) -> Path:
        """Return the input of a batch, as a file of this machine."""

    def open_log(self, batch_id: str, name: str, lock: RunLock) -> BatchLog:
        """Open the output or the errors of a batch for appending."""

    def add_result(self, team: str, batch_id: str, name: str, file: FileObject) -> None:
        """Make a file of the output or the errors, whose id is `result_id`; twice is as once."""

    def is_reserved(self, batch_id: str) -> bool:
        """Return whether a process has reserved the cost of the lines of a batch, and has not released it."""

    def set_reserved(self, batch_id: str, *, reserved: bool) -> None:
        """Note whether the cost of the lines is reserved."""

    def save(self, batch: BatchObject, lock: RunLock) -> None:
        """Store the present state of a batch that this process executes."""

    def request_cancel(self, batch_id: str, team: str, now: float) -> bool:
        """Ask the process that executes a batch to cancel it; return whether the team has an open one of this id."""

    def find_batch(self, batch_id: str, team: str) -> BatchEntry | None:
        """Return a batch of a team; ``None`` if it has none of this id."""

    def list_batches(self, team: str | None, limit: int, after: str = "") -> Sequence[BatchEntry]:
        """Return the batches of a team, or of all, the newest first, from the one after ``after`` on."""

    def open_batches(self) -> Sequence[BatchEntry]:
        """Return all batches that have not ended, the oldest first."""

    def finish_batch(self, batch: BatchObject) -> None:
        """Delete what only the execution of a batch needs; its output and errors are files by then."""

    def remove_old(self, now: float, keep_s: float) -> None:
        """Delete expired files, batches that ended long ago, and what killed processes have left."""


def result_id(batch_id: str, name: str) -> str:
    """Return the id of the file of the output or the errors of a batch.

    Examples
    --------
    >>> result_id("batch_0a1b", OUTPUT)
    'file-0a1bo'
    """
    return f"file-{batch_id.removeprefix('batch_')}{'o' if name == OUTPUT else 'e'}"


def ended_at(batch: BatchObject) -> int | None:
    """Return when a batch ended; ``None`` while it has not."""
    return batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at
