"""The rows of a table on their way: built block by block, sent in the bulk lane, and returned as they complete.

A block is 4096 rows; the next one begins while the last calls of the one before are in flight. Prompts are rendered and
results are built in threads, so that a large table does not hold up the streams of others.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.api.options import resolve_concurrency
from llmhub.api.table_stream import RowEvent, partial_table, unsent_rows
from llmhub.api.tables import RunCaller, TableRun, apply_schema, build_table_run, send_rows
from llmhub.cache.store import Store
from llmhub.core.errors import BadRequestError, Cancelled, ConnectorError, InvalidRequest, invalid
from llmhub.core.types import CompletionRequest, Document, Image, Message, ToolResult
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.event_loop import StopSignal, run_in_thread
from llmhub.engine.row_outcome import PENDING_CODE, as_answer
from llmhub.engine.scheduling import BULK_LANE, SlotGroup
from llmhub.server.batch_reservations import BatchReservations
from llmhub.server.context import RequestContext
from llmhub.server.dialects.reading import check_url
from llmhub.server.service import Service
from llmhub.server.table_request import TableRequest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from llmhub.engine.fan_out_types import FanOutResult, ResultEvent
    from llmhub.engine.row_outcome import RowOutcome
    from llmhub.tables.prompt_batch import PromptBatch

CHECKED_ROWS: Final = 16
"""Rows whose cost is held against the budget before a run begins."""
FLUSH_S: Final = 0.05
"""Results that arrive within this time are returned together."""
MAX_AHEAD_ROWS: Final = 1 << 14
"""Rows of blocks that are begun behind one that is not complete."""
OnTable: TypeAlias = "Callable[[pa.Table], Awaitable[None]]"
IsLogged: TypeAlias = "Callable[[int, PromptBatch], np.ndarray[Any, Any] | None]"
"""From the first row of a block and its prompts to a flag for each position that has a result already."""


@dataclass(slots=True)
class CallCounts:
    """Calls of a table at this moment: those that wait for a slot of the service, and those that have one."""

    waiting: int = 0
    sending: int = 0


class TableWork:
    """A request for the rows of a table on behalf of a caller. Use it on the engine's loop, except for `build`.

    Parameters
    ----------
    waits
        Whether the results may come hours later, as those of batches do.

    Raises
    ------
    ConnectorError
        There is no such model, or the caller may not use it; the request is for a batch, and that is not possible.
    """

    def __init__(
        self, service: Service, context: RequestContext, request: TableRequest, *, waits: bool = False
    ) -> None:
        self.service = service
        self.request = request
        self.context = replace(context, lane="bulk")
        self.models = [service.target(name, self.context).name for name in request.models]
        self.counts = CallCounts()
        self.options = {**request.options(), "on_error": "row", "progress": False}
        self.is_batch = request.mode == "batch"
        self.batch_cancel = StopSignal()
        if self.is_batch:
            if not waits:
                raise invalid("mode", "the results of a batch take hours; begin a run (POST /v1/runs) instead")
            _require_batches(service, self.models)
            self.options["poll_s"] = service.settings.batches.provider_poll_s
        caller = context.caller
        self.budgets = caller.budgets if self.is_batch else None
        self.caller = RunCaller(
            budgets=None if self.is_batch else caller.budgets,  # else see `BatchReservations`
            cache_scope=caller.cache_scope,
            around_send=bulk_lane(service, self.context, self.counts),
            in_thread=True,
        )

    def build(self, block: Any) -> TableRun:
        """Return the run over a block of rows, in any thread.

        Raises
        ------
        ConnectorError
            A column does not exist, an option is wrong, or the budget is too small.
        """
        try:
            run = build_table_run(
                block, self.request.prompt, self.models, self.service.hub, dict(self.options), caller=self.caller
            )
        except ConnectorError:
            raise
        except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError) as error:
            # Python has no value for a moment in the year 300,000, a time zone that nobody knows, a union of types.
            message = f"has a value that cannot be read: {type(error).__name__}: {str(error)[:200]}"
            raise invalid("table", message) from error
        return replace(run, batch=with_public_media(run.batch))

    def check(self, schema: pa.Schema) -> TableRun:
        """Return the run over a table of this schema without rows.

        Raises
        ------
        ConnectorError
            A column does not exist or has a type without values in Python, or an option is wrong.
        """
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        try:
            empty = schema.empty_table()
        except pa.ArrowException as error:
            raise invalid("table", f"has a column of a type that cannot be read: {error}") from None
        return self.build(empty)

    def checked(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield batches of the table after checking their rows, as far as that is possible before they are sent.

        Raises
        ------
        ConnectorError
            The first call does not fit into the budget, or a value cannot be formatted as the template says.
        """
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        is_first = True
        for batch in batches:
            checks_all = self.has_formats or any(pa.types.is_temporal(field.type) for field in batch.schema)
            if len(batch) and (is_first or checks_all):
                self.build(pa.Table.from_batches([batch if checks_all else batch.slice(0, CHECKED_ROWS)]))
                is_first = False
            yield batch

    @property
    def has_formats(self) -> bool:
        """Whether a template formats values, which some values may not permit."""
        templates = (self.request.prompt or "", self.request.system or "")
        return any(spec for template in templates for _, _, spec, _ in Formatter().parse(template))

    def empty_results(self, run: TableRun, run_id: str) -> pa.Table:
        """Return a table without rows that has the schema of the results."""
        from llmhub.tables.schema import schema_for_run  # noqa: PLC0415 - imports Arrow

        table = schema_for_run(run_id, simulated=run.batch.is_simulated).empty_table()
        return apply_schema(run, _with_mode(run, table, ()))

    async def send(
        self,
        blocks: Iterator[Any] | AsyncIterator[Any],
        on_table: OnTable,
        stop: StopSignal,
        run_id: uuid.UUID,
        *,
        is_logged: IsLogged | None = None,
        journal: Store | None = None,
    ) -> None:
        """Send the rows of all blocks, and pass on tables of results as they complete.

        Cancelling it cancels the calls in flight.

        Parameters
        ----------
        blocks
            Tables, in order; drawn in a thread, unless they are awaited.
        on_table
            Called with results, whose ``row`` counts over all blocks; one call at a time for each block.
        stop
            Stops sending; rows that are not sent have the status ``cancelled``.
        run_id
            Id of the run in the ledger and in the results.
        is_logged
            Tells which positions of a block are not to be sent.
        journal
            Keeps the responses instead of the cache.
        """
        if self.is_batch:
            blocks = iter([await _whole(blocks)])
        window = _Window(self, on_table, stop, run_id, is_logged, journal)
        first = 0
        async with asyncio.TaskGroup() as tasks:
            async for block in _drawn(blocks):
                run = replace(await run_in_thread(self.build, block), batch_cancel=self.batch_cancel)
                await window.begin(tasks, replace(run, journal=journal), first)
                first += len(block)


async def _whole(blocks: Iterator[Any] | AsyncIterator[Any]) -> pa.Table:
    """Return all blocks as one: rows of a block would be sent to a provider when those of the one before are back."""
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    return pa.concat_tables([block async for block in _drawn(blocks)])


async def _drawn(blocks: Iterator[Any] | AsyncIterator[Any]) -> AsyncIterator[Any]:
    if isinstance(blocks, AsyncIterator):
        async for block in blocks:
            yield block
        return
    while (block := await run_in_thread(next, blocks, None)) is not None:
        yield block


@dataclass(slots=True)
class _Begun:
    """A block that was begun: its number of rows, and of results that are missing."""

    rows: int
    missing: int


@dataclass(slots=True)
class _Window:
    """The blocks in progress."""

    work: TableWork
    on_table: OnTable
    stop: StopSignal
    run_id: uuid.UUID
    is_logged: IsLogged | None
    journal: Store | None
    begun: list[_Begun] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    slots: SlotGroup | None = None

    async def begin(self, tasks: asyncio.TaskGroup, run: TableRun, first: int) -> None:
        """Begin a block once the ones before have few results left to wait for."""
        if self.slots is None:
            self.slots = SlotGroup(resolve_concurrency(run.hub, run.options))
        while not self._has_room(self.slots.limit):
            self.changed.clear()
            await self.changed.wait()
        begun = _Begun(run.batch.n_rows, len(run.batch))
        self.begun.append(begun)
        tasks.create_task(self._send(replace(run, slots=self.slots), first, begun))

    def _has_room(self, limit: int) -> bool:
        rows = sum([begun.rows for begun in self.begun])
        return sum([begun.missing for begun in self.begun]) < 2 * limit and rows < MAX_AHEAD_ROWS

    async def _send(self, run: TableRun, first: int, begun: _Begun) -> None:
        """Send one block, and pass on its results."""
        events: list[ResultEvent] = []
        arrived = asyncio.Event()

        def on_result(event: ResultEvent) -> None:
            if isinstance(event, tuple) and run.options.mode == "batch":
                if _is_pending(event[1]):
                    return  # the batch that it is in will answer it
                self._settle(reservations, *event[:2])
            events.append(event)
            begun.missing -= 1 if isinstance(event, tuple) else len(event.positions)
            arrived.set()
            self.changed.set()

        reservations = self._reservations(on_result)
        logged = None if self.is_logged is None else self.is_logged(first, run.batch)
        sending = asyncio.create_task(
            send_rows(
                run,
                None,
                self.stop,
                on_result,
                run_id=self.run_id.bytes,
                chunks=self._chunks(run, logged, reservations),
            )
        )
        sending.add_done_callback(lambda _: arrived.set())
        started_at = time.time()
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                is_done = sending.done()
                if not is_done:
                    await asyncio.sleep(FLUSH_S)
                group = events[:]
                events.clear()
                if group:
                    await self._pass_on(run, group, first, started_at)
                if is_done:
                    break
            if unsent := await run_in_thread(_unanswered, run, sending.result(), logged):
                await self._pass_on(run, unsent, first, started_at)
        finally:
            self.begun.remove(begun)
            self.changed.set()
            if not sending.done():
                sending.cancel()
                await asyncio.wait([sending])
            self._settle(reservations)

    @staticmethod
    def _settle(reservations: BatchReservations | None, position: int = -1, outcome: RowOutcome | None = None) -> None:
        """Settle the reservation of a row; without a position, release all that are left."""
        if reservations is None:
            return
        if position < 0:
            reservations.release()
        elif outcome is not None:
            reservations.settle(position, as_answer(outcome))

    def _reservations(self, on_result: Callable[[ResultEvent], None]) -> BatchReservations | None:
        """Return the reservations of a block in the budgets of its key, if it is sent in batches."""
        work = self.work
        if work.budgets is None:
            return None
        return BatchReservations(
            work.service,
            work.budgets,
            lambda position, answer: on_result((position, answer, 0.0)),
            at_full_price=work.request.late == "live",
        )

    def _chunks(
        self, run: TableRun, logged: np.ndarray[Any, Any] | None, reservations: BatchReservations | None
    ) -> Iterator[Any]:
        """Return the rows to send: those that are not logged, and fit into the budgets."""
        chunks: Iterator[Any] = run.batch.iter_chunks(lambda: self.stop.requested)
        if logged is not None:
            chunks = ([item for item in chunk if not logged[item[0]]] for chunk in chunks)
        return chunks if reservations is None else reservations.chunks(chunks)

    async def _pass_on(self, run: TableRun, events: Sequence[Any], first: int, started_at: float) -> None:
        await self.on_table(await run_in_thread(_table, run, events, first, started_at, self.run_id.hex))


def _table(run: TableRun, events: Sequence[Any], first: int, started_at: float, run_id: str) -> pa.Table:
    """Return the table of results that arrived together."""
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    from llmhub.tables.schema import schema_for_run  # noqa: PLC0415 - as above
    from llmhub.tables.streaming_io import offset_rows  # noqa: PLC0415 - as above

    schema = schema_for_run(run_id, simulated=run.batch.is_simulated)
    groups: list[Any] = [event for event in events if not isinstance(event, tuple)]
    if rows := [event for event in events if isinstance(event, tuple)]:
        groups.append(rows)
    parts = [_with_mode(run, partial_table(run, group, schema, started_at), group) for group in groups]
    table = parts[0] if len(parts) == 1 else pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    return offset_rows(table, first)


def _is_pending(outcome: RowOutcome | None) -> bool:
    """Return whether a row is in a batch at its provider, and has no answer yet."""
    if not isinstance(outcome, Answer) or is_successful(outcome.outcome):
        return False
    error = outcome.outcome.failure()
    return isinstance(error, Cancelled) and error.code == PENDING_CODE


def _unanswered(run: TableRun, result: FanOutResult, logged: np.ndarray[Any, Any] | None) -> list[RowEvent]:
    """Return the rows without a result so far: those that are not sent, and those that are left in batches."""
    rows = unsent_rows(run, result)
    if run.options.mode == "batch":
        rows += [(place, outcome, 0.0) for place, outcome in enumerate(result.outcomes) if _is_pending(outcome)]
    return rows if logged is None else [event for event in rows if not logged[event[0]]]


def _with_mode(run: TableRun, table: pa.Table, events: Any) -> pa.Table:
    """Return results with the column ``mode``, if they are those of batches."""
    if run.options.mode == "live":
        return table
    from llmhub.tables.batch_columns import with_mode_of_events  # noqa: PLC0415 - imports Arrow

    return with_mode_of_events(table, events if isinstance(events, Sequence) else (), run.batch)


def _require_batches(service: Service, models: Sequence[str]) -> None:
    """Raise unless rows can be passed on to the Batch APIs of these models.

    Raises
    ------
    ConnectorError
        The service cannot remember batches, or a provider takes none from it.
    """
    from llmhub.server.batch_provider import require_batch_api, require_provider_batches  # noqa: PLC0415 - for batches

    require_provider_batches(service, "mode", "pass mode='live'")
    for name in models:
        require_batch_api(service, service.hub.target(name), "mode", "pass mode='live'")


def bulk_lane(service: Service, context: RequestContext, counts: CallCounts) -> Middleware:
    """Return the middleware that lets each call of a table wait for its turn, after interactive calls."""

    def wrap(send: Send) -> Send:
        async def send_in_turn(call: Call) -> Answer:
            BULK_LANE.set(True)
            counts.waiting += 1
            try:
                counted, refusal = await service.admit(call.request, context)
                if refusal is not None:
                    return Answer(Failure(refusal))
                await service.lanes.acquire(context, bounded=False)
            finally:
                counts.waiting -= 1
            counts.sending += 1
            try:
                answer = await send(call)
            finally:
                counts.sending -= 1
                service.lanes.release(context)
            service.charge(counted, answer, context)
            return answer

        return send_in_turn

    return wrap


# What data of a client may not do


def with_public_media(batch: PromptBatch) -> PromptBatch:
    """Return a batch whose rows fail if an image or document in them has an address that is not public."""
    if batch.is_plain_text:
        return batch
    render = batch.template.render

    def checked(values: tuple[Any, ...]) -> Any:
        prompt = render(values)
        try:
            check_media(prompt)
        except BadRequestError as error:
            return error.error
        return prompt

    return replace(batch, template=replace(batch.template, render=checked))


def check_media(prompt: Any) -> None:
    """Raise if an image or document of a prompt has an address that is not public."""
    if isinstance(prompt, (str, InvalidRequest)) or prompt is None:
        return
    messages: Sequence[Message] = prompt.messages if isinstance(prompt, CompletionRequest) else prompt
    for part in chain.from_iterable(message.parts for message in messages):
        nested = part.content if isinstance(part, ToolResult) and not isinstance(part.content, str) else (part,)
        for media in nested:
            if isinstance(media, (Image, Document)) and media.url:
                check_url(media.url, "images")
