"""Rows of a frame as they complete."""

from __future__ import annotations

import asyncio
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack

from llmhub.api.options import Models, RowOptions, TablePrompt, raise_first_row_error
from llmhub.api.tables import TableRun, apply_schema, build_table_run, execute
from llmhub.engine.event_loop import StopSignal, submit
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.engine.block_lookup import StoredBlock
    from llmhub.engine.fan_out_types import FanOutResult, ResultEvent
    from llmhub.engine.row_outcome import RowOutcome


CLOSE_TIMEOUT_S: Final = 5.0
"""How long an early end is waited for."""


MAX_ROWS_PER_TABLE: Final = 512
"""Rows that are made into a table at a time, where so many have come."""


RowEvent: TypeAlias = "tuple[int, RowOutcome | None, float]"


def stream_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    **options: Unpack[RowOptions],
) -> Iterator[pa.Table]:
    """Ask every row of a frame, and give results as they come: tables of one row or more (see `complete_table`).

    Closing the iterator early sends nothing more, and cuts off what is in flight. Rows that are not asked come last.

    Raises
    ------
    InvalidRequestError
        As in `complete_table`, at once.
    ConnectorError
        With ``on_error="raise"``, the first row's failure, when it comes; what is in flight is cut off.
    """
    return _stream(build_table_run(frame, prompt, model, hub, dict(options)))


def _stream(asked: TableRun) -> Iterator[pa.Table]:
    from llmhub.tables import results, schema  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    at, whole = time.time(), schema.schema_for_run(uuid.uuid4().hex)
    box: queue.SimpleQueue[ResultEvent | None] = queue.SimpleQueue()
    stop = StopSignal()
    future = submit(execute(asked, asked.start_display(), stop, box.put))
    future.add_done_callback(lambda _: box.put(None))
    try:
        for some in _group(box):
            yield apply_schema(asked, results.results_part(asked.batch, _to_rows(asked, some), whole, at))
        if rest := _unsent_rows(asked, future.result()):
            yield apply_schema(asked, results.results_part(asked.batch, _to_rows(asked, rest), whole, at))
    finally:
        _cancel(future, stop)


def _cancel(future: Future[FanOutResult], stop: StopSignal) -> None:
    """Send nothing more, and cut off what is in flight; wait for that, unless this thread has a loop to keep up."""
    if future.done():
        return
    stop.request()
    stop.request()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        wait([future], timeout=CLOSE_TIMEOUT_S)


def _to_rows(asked: TableRun, some: StoredBlock | Sequence[RowEvent]) -> Any:
    """Bring what came to the form that a table is made of, or raise for it."""
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    if not isinstance(some, Sequence):
        return some
    positions, answers, queued_s = zip(*some, strict=True)
    raise_first_row_error(asked.options, answers)
    return results.CompletedRows(positions, answers, queued_s)


def _unsent_rows(asked: TableRun, done: FanOutResult) -> list[RowEvent]:
    """Give the rows that nobody was asked about."""
    questions, step = asked.batch, asked.batch.positions_per_row
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    answers = results.outcomes_by_position(questions, done)
    rows = (row for row, skipped in enumerate(questions.skipped) if skipped or row in questions.invalid_rows)
    return [(at, answers[at], 0.0) for row in rows for at in range(row * step, (row + 1) * step)]


def _group(box: queue.SimpleQueue[ResultEvent | None]) -> Iterator[StoredBlock | list[RowEvent]]:
    """Give answers as they come, those together that came together."""
    some: list[RowEvent] = []
    while (one := box.get()) is not None:
        if isinstance(one, tuple):
            some.append(one)
        if some and (not isinstance(one, tuple) or len(some) >= MAX_ROWS_PER_TABLE or box.empty()):
            yield some
            some = []
        if not isinstance(one, tuple):
            yield one
    if some:
        yield some
