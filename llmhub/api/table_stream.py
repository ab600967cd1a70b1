"""Results of a run over a frame as they arrive, in small tables."""

from __future__ import annotations

import asyncio
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack

from llmhub.api.default_hub import current_hub
from llmhub.api.options import Models, RowOptions, TablePrompt
from llmhub.api.raising import keep_table, raise_first_row_error, warn_run_problems
from llmhub.api.signatures import shows_options
from llmhub.api.tables import TableRun, add_turns, apply_schema, build_table_run, execute
from llmhub.engine.event_loop import StopSignal, submit
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.engine.block_lookup import StoredBlock
    from llmhub.engine.fan_out_types import FanOutResult, ResultEvent
    from llmhub.engine.row_outcome import RowOutcome

CLOSE_TIMEOUT_S: Final = 5.0
"""Longest wait for cancelled calls when the iterator is closed early, in seconds."""
MAX_ROWS_PER_TABLE: Final = 512
RowEvent: TypeAlias = "tuple[int, RowOutcome | None, float]"
"""Position of a result, its outcome, and the seconds that it waited in the queue."""


@shows_options(RowOptions)
def stream_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    **options: Unpack[RowOptions],
) -> Iterator[pa.Table]:
    """Send a prompt for every row of a frame, and yield tables of one or more results as they arrive.

    See `complete_table` for the parameters. Rows that are not sent, such as skipped ones, come last. Closing the
    iterator early sends nothing more and cancels calls in flight.

    Raises
    ------
    BadRequestError
        As in `complete_table`, by this call and not by the iterator.
    ConnectorError
        With ``on_error="raise"``, the first failure, when it arrives; calls in flight are cancelled.
    """
    hub = hub or current_hub()
    if hub.service is not None:
        from llmhub.api import service_runs  # noqa: PLC0415 - for the hubs of a service only

        if not service_runs.sends_row_by_row(options):
            run = service_runs.build_service_run(frame, prompt, model, hub, dict(options))
            return service_runs.stream_at_service(run)
    return _stream(build_table_run(frame, prompt, model, hub, dict(options)))


def _stream(run: TableRun) -> Iterator[pa.Table]:
    from llmhub.tables import schema  # noqa: PLC0415 - imports Arrow

    started_at = time.time()
    run_schema = schema.schema_for_run(uuid.uuid4().hex, simulated=run.batch.is_simulated)
    events: queue.SimpleQueue[ResultEvent | None] = queue.SimpleQueue()
    stop = StopSignal()
    future = submit(execute(run, run.start_display(), stop, events.put), stop if run.stores_results else None)
    future.add_done_callback(lambda _: events.put(None))
    try:
        for group in _group(events):
            yield partial_table(run, group, run_schema, started_at)
        result = future.result()
        if unsent := unsent_rows(run, result):
            yield partial_table(run, unsent, run_schema, started_at)
        warn_run_problems(result)
    finally:
        _cancel(future, stop)


def _cancel(future: Future[FanOutResult], stop: StopSignal) -> None:
    """Send nothing more and cancel calls in flight; wait for that, unless this thread runs an event loop."""
    if future.done():
        return
    stop.request()
    stop.request()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        wait([future], timeout=CLOSE_TIMEOUT_S)


def partial_table(
    run: TableRun, group: StoredBlock | Sequence[RowEvent], schema: pa.Schema, started_at: float
) -> pa.Table:
    """Return the table of a group of results; raise for a failure if requested, with the other rows in ``table``."""
    from llmhub.tables import results  # noqa: PLC0415 - imports Arrow

    outcomes: Sequence[RowOutcome | None] = ()
    completed: StoredBlock | results.CompletedRows
    if isinstance(group, Sequence):
        positions, outcomes, queued_s = zip(*group, strict=True)
        completed = results.CompletedRows(positions, outcomes, queued_s)
    else:
        completed = group
    table = results.results_part(run.batch, completed, schema, started_at)
    with keep_table(table):
        table = add_turns(run, table, outcomes, started_at)
    with keep_table(table):
        raise_first_row_error(run.options, outcomes)
        return apply_schema(run, table)


def unsent_rows(run: TableRun, result: FanOutResult) -> list[RowEvent]:
    """Return the outcomes of skipped and invalid rows, for which no event was reported."""
    from llmhub.tables import results  # noqa: PLC0415 - imports Arrow

    batch, step = run.batch, run.batch.positions_per_row
    outcomes = results.outcomes_by_position(batch, result)
    rows = (row for row, skipped in enumerate(batch.skipped) if skipped or row in batch.invalid_rows)
    return [(position, outcomes[position], 0.0) for row in rows for position in range(row * step, (row + 1) * step)]


def _group(events: queue.SimpleQueue[ResultEvent | None]) -> Iterator[StoredBlock | list[RowEvent]]:
    """Yield events in groups: those that are in the queue together, and each block of cached results by itself."""
    group: list[RowEvent] = []
    while (event := events.get()) is not None:
        is_row = isinstance(event, tuple)
        if isinstance(event, tuple):
            group.append(event)
        if group and (not is_row or len(group) >= MAX_ROWS_PER_TABLE or events.empty()):
            yield group
            group = []
        if not isinstance(event, tuple):
            yield event
    if group:
        yield group
