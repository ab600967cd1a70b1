"""Results of a stream of record batches, as record batches: the form in which engines pass rows to a function.

The next batch begins while the last calls of the one before are in flight, so that small batches take no longer than
one large table. Results come batch by batch, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, Unpack

from llmhub.api.options import Models, TableOptions, TablePrompt, as_shared_budget, resolve_concurrency
from llmhub.api.signatures import shows_options
from llmhub.api.tables import TableRun, apply_schema, build_table_run, complete_table, run_table
from llmhub.core.errors import invalid
from llmhub.engine.cache_writer import FINAL_WAIT, FinalWait
from llmhub.engine.event_loop import StopSignal, submit, wait_interruptibly
from llmhub.engine.progress import Progress
from llmhub.engine.scheduling import SlotGroup
from llmhub.hub import Hub
from llmhub.progress.display import ProgressDisplay

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.engine.fan_out_types import ResultEvent

ROWS_PER_PARTITION: Final = 1 << 33
"""Distance of the row numbers of partitions, as in Spark's ``monotonically_increasing_id``."""
MAX_AHEAD_ROWS: Final = 1 << 16
"""Rows of batches that are begun behind one that is not complete, however slow its last call is."""
CLOSE_TIMEOUT_S: Final = 5.0
"""Longest wait for cancelled calls when the iterator is closed early, in seconds."""


@shows_options(TableOptions)
def complete_record_batches(
    batches: Iterable[pa.RecordBatch],
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    keep: Sequence[str] = (),
    partition: int = 0,
    plain: bool = False,
    **options: Unpack[TableOptions],
) -> Iterator[pa.RecordBatch]:
    """Send a prompt for every row of each record batch, and yield its results as record batches, in order.

    A few batches are in memory at a time: the next one begins when fewer rows are left than twice ``concurrency``.
    ``row`` counts on from batch to batch, and ``budget_usd`` applies to all batches together. Progress is shown only
    with ``progress=True``, and then for one batch after the other.

    Parameters
    ----------
    batches
        Record batches, or any frames with the same columns.
    prompt, model, hub, **options
        See `complete_table`.
    keep
        Names of columns to put before those of the results, such as an id to join on.
    partition
        Number of this partition, if the batches are one of several: ``row`` begins at ``partition * 2**33``, so that it
        is unique over all of them.
    plain
        Return only types that every engine knows: strings in place of dictionaries, binaries of any size.

    Raises
    ------
    BadRequestError
        As in `complete_table`; or a column to keep does not exist, or has the name of a result column. Nothing is sent
        for its batch.
    """
    if not isinstance(partition, int) or not 0 <= partition < 1 << 30:
        raise invalid("partition", f"must be an integer from 0, below 2**30, not {partition!r}")
    if (budget_usd := options.get("budget_usd")) is not None:
        shared: Any = as_shared_budget(budget_usd)
        options["budget_usd"] = shared
    form = _Form(check_keep(keep), partition * ROWS_PER_PARTITION, plain)
    if options.get("n_jobs", 1) != 1 or options.get("progress"):
        return _one_by_one(batches, form, prompt, model=model, hub=hub, **options)
    options.pop("n_jobs", None)
    options["progress"] = False
    return _Window(batches, form, (prompt, model, hub, dict(options))).results()


def stream_record_batches(
    batches: Iterable[Any],
    prompt: TablePrompt | None,
    *,
    options: tuple[Models, Hub | None, dict[str, Any]],
    form: tuple[Sequence[str], int, bool],
    stop: StopSignal,
    observer: BatchObserver,
    store_wait_s: float = 0.0,
    slots: SlotGroup | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield results as `complete_record_batches` does, for a caller that observes and stops the run.

    Parameters
    ----------
    options
        Model, hub and further options.
    form
        Columns to keep, number of the partition, and whether types are plain.
    stop
        A signal that stops the run.
    observer
        Its methods are called with the progress and with the results of each batch.
    store_wait_s
        How long batches may wait at their end, all together, for a cache that fails.
    slots
        Slots that this stream shares with others; its own ones if omitted.
    """
    model, hub, others = options
    keep, partition, plain = form
    shape = _Form(check_keep(keep), partition * ROWS_PER_PARTITION, plain)
    arguments = (prompt, model, hub, {**others, "progress": False})
    return _Window(batches, shape, arguments, stop, observer, FinalWait(store_wait_s), slots=slots).results()


class BatchObserver(Protocol):
    """Observes the batches of a stream."""

    def on_progress(self, first: int, progress: Progress) -> None:
        """Observe the progress of the batch that begins at row ``first``; called in any thread."""
        ...

    def on_results(self, first: int, results: pa.Table) -> None:
        """Observe the results of the batch that begins at row ``first``."""
        ...


def check_keep(keep: Sequence[str]) -> tuple[str, ...]:
    """Return the names of columns to keep, validated.

    Raises
    ------
    BadRequestError
        They are no names, are repeated, or are those of result columns.
    """
    from llmhub.tables.schema import RESULTS  # noqa: PLC0415 - imports Arrow

    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise invalid("keep", f"must be names of columns, not {type(name).__name__}")
        if name in names[:index]:
            raise invalid("keep", f"{name!r} is listed twice")
        if name in RESULTS.names:
            raise invalid("keep", f"{name!r} is the name of a result column; rename the column before the call")
    return names


@dataclass(frozen=True, slots=True)
class _Form:
    """The form of the results: columns to keep, the number of the first row, and whether types are plain."""

    keep: tuple[str, ...]
    first_row: int
    plain: bool

    def require_columns(self, batch: Any) -> None:
        """Raise if a batch lacks a column to keep."""
        from llmhub.tables import frames  # noqa: PLC0415 - imports Arrow

        names = frames.column_names(frames.pandas_or_arrow(batch))
        missing = next((name for name in self.keep if name not in names), None)
        if missing is not None:
            raise invalid("keep", f"there is no column {missing!r}; columns are {', '.join(map(repr, names))}")

    def shape(self, batch: Any, results: pa.Table, first: int) -> pa.Table:
        """Return the table for the results of a batch that begins at row ``first`` of its partition."""
        from llmhub.tables import frames, plain_types, streaming_io  # noqa: PLC0415 - imports Arrow

        shaped = streaming_io.offset_rows(results, self.first_row + first)
        if self.keep:
            kept = frames.to_table(batch).select(self.keep).take(results.column("row"))
            for index, name in enumerate(self.keep):
                shaped = shaped.add_column(index, kept.schema.field(name), kept.column(name))
        return plain_types.to_plain_types(shaped) if self.plain else shaped


def empty_results(batch: Any, prompt: Any, options: tuple[Any, Any, dict[str, Any]], keep: Sequence[str]) -> pa.Table:
    """Return an empty table of plain types as `complete_record_batches` yields it, validating all arguments.

    Parameters
    ----------
    batch
        A frame without rows that has the columns.
    prompt, options
        The prompt, and model, hub and further options.
    keep
        Columns to keep.
    """
    from llmhub.tables.schema import RESULTS  # noqa: PLC0415 - imports Arrow

    model, hub, others = options
    form = _Form(check_keep(keep), 0, plain=True)
    form.require_columns(batch)
    run = build_table_run(batch, prompt, model, hub, {**others, "progress": False})
    return form.shape(batch, apply_schema(run, RESULTS.empty_table()), 0)


def _one_by_one(
    batches: Iterable[Any], form: _Form, prompt: TablePrompt | None, **options: Any
) -> Iterator[pa.RecordBatch]:
    """Complete one batch after the other."""
    from llmhub.tables import streaming_io  # noqa: PLC0415 - imports Arrow

    first = 0
    for batch in batches:
        form.require_columns(batch)
        results = complete_table(batch, prompt, **options)
        yield from streaming_io.to_record_batches(form.shape(batch, results, first))
        first += len(batch)


@dataclass(slots=True)
class _Begun:
    """A batch whose run has begun, and how many of its results are missing."""

    batch: Any
    first: int
    missing: int
    table: Future[pa.Table]


@dataclass(slots=True)
class _Window:
    """The batches in progress. Everything but callbacks of runs happens in the thread of the caller."""

    batches: Iterable[Any]
    form: _Form
    arguments: tuple[Any, Any, Any, dict[str, Any]]
    stop: StopSignal = field(default_factory=StopSignal)
    observer: BatchObserver | None = None
    final_wait: FinalWait | None = None
    begun: deque[_Begun] = field(default_factory=deque)
    slots: SlotGroup | None = None
    changed: asyncio.Event | None = None
    rows: int = 0
    exhausted: bool = False

    def results(self) -> Iterator[pa.RecordBatch]:
        """Yield the results of batch after batch."""
        from llmhub.tables import streaming_io  # noqa: PLC0415 - imports Arrow

        source = iter(self.batches)
        try:
            while not self.exhausted or self.begun:
                while not self.exhausted and self._needs_more():
                    self._begin(next(source, None))
                if not self.begun:
                    continue
                head = self.begun[0]
                if not head.table.done():
                    wait_interruptibly(lambda: submit(self._wait()), self.stop)
                    # A run that another thread stops returns the other rows as cancelled.
                    self.exhausted = self.exhausted or (self.stop.requested and self.observer is None)
                if head.table.done():
                    self.begun.popleft()
                    table = head.table.result()
                    if self.observer is not None:
                        self.observer.on_results(head.first, table)
                    shaped = self.form.shape(head.batch, table, head.first)
                    yield from streaming_io.to_record_batches(shaped)
        finally:
            self._close()

    def _needs_more(self) -> bool:
        """Return whether to begin another batch."""
        if not self.begun or self.slots is None:
            return True
        rows = sum([len(begun.batch) for begun in self.begun])
        missing = sum([begun.missing for begun in self.begun if not begun.table.done()])
        return missing < 2 * self.slots.limit and rows < MAX_AHEAD_ROWS

    def _begin(self, batch: Any | None) -> None:
        if batch is None:
            self.exhausted = True
            return
        self.form.require_columns(batch)
        prompt, model, hub, options = self.arguments
        run = build_table_run(batch, prompt, model, hub, dict(options))
        if self.slots is None:
            self.slots = SlotGroup(resolve_concurrency(run.hub, run.options))
        run = replace(run, slots=self.slots)
        begun = _Begun(batch, self.rows, len(run.batch), Future())
        self.rows += len(batch)
        self.begun.append(begun)
        begun.table = submit(self._run(run, begun), self.stop if run.stores_results else None)

    async def _run(self, run: TableRun, begun: _Begun) -> pa.Table:
        FINAL_WAIT.set(self.final_wait)

        def on_result(event: ResultEvent) -> None:
            begun.missing -= 1 if isinstance(event, tuple) else len(event.positions)
            self._notify()

        display = None
        if self.observer is not None:
            display = ProgressDisplay(partial(self.observer.on_progress, begun.first), interim=True)
        try:
            return await run_table(run, display, self.stop, on_result)
        finally:
            # The future of this coroutine is done one turn of the loop later.
            asyncio.get_running_loop().call_soon(self._notify)

    def _notify(self) -> None:
        if self.changed is not None:
            self.changed.set()

    async def _wait(self) -> None:
        """Wait until the first batch is complete, or another one may begin."""
        self.changed = asyncio.Event()
        head = self.begun[0]
        while not (head.table.done() or (not self.exhausted and self._needs_more())):
            self.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.changed.wait()
        self.changed = None

    def _close(self) -> None:
        """Cancel the calls of batches whose results are not wanted any more, and wait for that."""
        running = [begun.table for begun in self.begun if not begun.table.done()]
        if not running:
            return
        self.stop.request()
        self.stop.request()
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            return  # a wait would block the caller's loop
        wait(running, timeout=CLOSE_TIMEOUT_S)
