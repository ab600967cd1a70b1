"""A run that this process executes, and its files: the input that is read block by block, and the log of results."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmhub.engine.event_loop import StopSignal
from llmhub.server.result_log import ResultLog
from llmhub.server.run_resumption import with_own_costs
from llmhub.server.run_status import RunCounter
from llmhub.server.run_store import RunLock, RunRecord, RunStore
from llmhub.server.table_request import encode_request
from llmhub.server.table_upload import Upload, iter_batches, read_schema, used_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.server.table_work import TableWork


@dataclass(slots=True)
class ActiveRun:
    """A run that this process executes.

    ``is_resumed`` tells that an earlier process has begun it, ``is_leaving`` that the service ends: what is not
    answered is left to the next process.
    """

    record: RunRecord
    work: TableWork
    lock: RunLock
    log: ResultLog
    counter: RunCounter
    stop: StopSignal = field(default_factory=StopSignal)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None
    is_resumed: bool = False
    is_leaving: bool = False

    @property
    def is_stopping(self) -> bool:
        """Whether a client has stopped it, or the service is about to end."""
        return self.stop.requested or self.work.batch_cancel.requested

    def request_stop(self) -> None:
        """Send nothing more, and cancel batches at their providers; a second call leaves what is in flight."""
        if self.work.is_batch and not self.work.batch_cancel.requested:
            self.work.batch_cancel.request()
        else:
            self.stop.request()

    def notify(self) -> None:
        """Wake those that wait for results or the end."""
        self.changed.set()
        self.changed = asyncio.Event()


# Files: these functions block


def digest_of(upload: Upload, key_id: str) -> bytes:
    """Return a digest of the input and the request."""
    digest = hashlib.sha256(encode_request(upload.request) + b"\x00" + key_id.encode() + b"\x00")
    with upload.path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.digest()


def prepare_files(work: TableWork, upload: Upload, store: RunStore, run_id: uuid.UUID, lock: RunLock) -> int:
    """Validate a run and write its input and the schema of its results; return its number of rows.

    Raises
    ------
    ConnectorError
        The table lacks a column, an option is wrong, or the table is larger than permitted.
    """
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    schema = read_schema(upload)
    run = work.check(schema)
    names = used_columns(upload.request, schema.names)
    with closing(store.open_results(run_id.hex, lock)) as log:
        log.append(work.empty_results(run, run_id.hex))
    rows = 0
    kept = pa.schema([schema.field(name) for name in names])
    with pa.OSFile(str(store.input_path(run_id.hex)), "wb") as file, pa.ipc.new_stream(file, kept) as writer:
        for batch in work.checked(iter_batches(upload, names)):
            writer.write_batch(batch)
            rows += batch.num_rows
    store.store_input(run_id.hex)
    return rows


def input_blocks(path: Path) -> Iterator[pa.Table]:
    """Yield the input of a run, block by block."""
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    from llmhub.tables.streaming_io import BLOCK_ROWS, iter_blocks  # noqa: PLC0415 - as above

    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
        yield from iter_blocks(reader, BLOCK_ROWS)


def log_results(active: ActiveRun, table: pa.Table, paid: set[bytes]) -> None:
    """Append results to the log of a run, without those that the next process has to get."""
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    if active.is_leaving:
        words = table.column("status").cast(pa.string())
        table = table.filter(pc.invert(pc.is_in(words, pa.array(["cancelled", "pending"]))))
    if paid:
        table = with_own_costs(table, paid)
    if len(table):
        active.log.append(table)
        active.counter.add(table)
        active.counter.note_time()


def read_results(
    store: RunStore, run_id: str, active: ActiveRun | None, after: int, limit: int
) -> tuple[pa.Table, int]:
    """Return results of a run, and how many there are."""
    if active is not None:
        with suppress(ValueError):  # it ended meanwhile, and its log is closed
            return active.log.read(after, limit), active.log.rows
    with closing(store.open_results(run_id)) as log:
        return log.read(after, limit), log.rows
