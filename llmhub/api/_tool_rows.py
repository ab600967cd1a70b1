"""Runs over rows whose tools are functions: one conversation for each row, several at a time.

First turns are looked up in the cache in blocks, as in a run without tools, and equal rows share one conversation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.api._completion import total_cost
from llmhub.api._tool_loop import Conversation, ConversationAnswer, ToolLoop, converse
from llmhub.core.errors import Cancelled
from llmhub.engine.cache_writer import CacheWriter
from llmhub.engine.call import Answer
from llmhub.engine.event_loop import StopSignal, run_in_thread
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.progress import ProgressReporter, ProgressTracker, RunSnapshot
from llmhub.engine.row_outcome import RowOutcome, as_answer

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.api.tables import TableRun
    from llmhub.engine.fan_out_types import OnResult, PlannedItem
    from llmhub.progress.display import ProgressDisplay

UNSENT: Final = "cancelled before the request was sent"


@dataclass(slots=True)
class ToolRows:
    """The conversations of a run over rows.

    Parameters
    ----------
    run
        The run.
    loop
        Its tools.
    stop
        Ends it between two turns.
    run_id
        Identifies its calls in the ledger.
    chunks
        The items to send.
    on_result
        Called with each outcome.
    """

    run: TableRun
    loop: ToolLoop
    stop: StopSignal
    run_id: bytes
    chunks: Iterator[Iterable[PlannedItem]]
    on_result: OnResult | None = None
    outcomes: list[RowOutcome | None] = field(default_factory=list)
    first_positions: dict[bytes, int] = field(default_factory=dict)
    duplicates: dict[int, list[int]] = field(default_factory=dict)
    reporter: ProgressReporter | None = None
    in_flight: int = 0
    finished: bool = False
    started: float = field(default_factory=time.monotonic)

    async def hold(self, display: ProgressDisplay | None, concurrency: int) -> FanOutResult:
        """Hold all conversations, ``concurrency`` at a time, and return their outcomes.

        Whatever ends the run early has the outcomes so far in its ``fan_out_result``.
        """
        size = len(self.run.batch)
        self.outcomes = [None] * size
        runtime = self.run.hub.runtime
        access = runtime.access(self.run.options.cache, self.run.journal)
        writer = CacheWriter(access, self.stop.request)
        self.reporter = self._build_reporter(display, concurrency)
        reporting = asyncio.create_task(self.reporter.run()) if self.reporter is not None else None
        items, lock = self._iter_items(writer), asyncio.Lock()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, size)):
                    group.create_task(self._work(items, lock))
        except asyncio.CancelledError as error:
            error.fan_out_result = self._result(writer, error)  # type: ignore[attr-defined]
            raise
        except BaseExceptionGroup as group_error:
            first: Any = group_error.exceptions[0]
            first.fan_out_result = self._result(writer, first)
            raise first from None
        finally:
            self.finished = True
            if reporting is not None and self.reporter is not None:
                reporting.cancel()
                await self.reporter.finish()
        return self._result(writer)

    def _build_reporter(self, display: ProgressDisplay | None, concurrency: int) -> ProgressReporter | None:
        if display is None:
            return None
        sink = self.run.progress_sink(display)

        def snapshot() -> RunSnapshot:
            return RunSnapshot(
                time.monotonic() - self.started,
                in_flight=self.in_flight,
                concurrency=concurrency,
                finished=self.finished,
                stopping=self.stop.requested,
            )

        return ProgressReporter(sink, ProgressTracker(len(self.run.batch), sink, time.time()), snapshot)

    async def _iter_items(self, writer: CacheWriter) -> AsyncIterator[tuple[PlannedItem, Answer | None]]:
        """Yield the items with the answers to their first turns in the cache, looked up chunk by chunk."""
        client = self.run.hub.runtime.client
        draw: Callable[[], Iterable[PlannedItem] | None] = partial(next, self.chunks, None)
        while (chunk := await run_in_thread(draw) if self.run.batch.reads_files else draw()) is not None:
            items = [item for item in chunk if self._is_first(item)]
            candidates = [
                [(None, item[1]), *(client.item_alternatives(item) if client.has_alternatives else ())]
                for item in (() if self.stop.requested else items)
            ]
            keys = [key for pairs in candidates for _, key in pairs]
            found = await writer.start_lookup(lambda store, keys=keys: store.get_many(keys)) if keys else None  # type: ignore[misc]
            stored = [writer.first_stored(found, pairs) for pairs in candidates] if found else [None] * len(items)
            if self.reporter is not None:
                misses = [item[0] for item, outcome in zip(items, stored, strict=True) if outcome is None]
                self.reporter.add_misses(misses)
            for item, outcome in zip(items, stored, strict=True):
                yield item, None if outcome is None else as_answer(outcome)

    def _is_first(self, item: PlannedItem) -> bool:
        """Return whether no earlier item has the same key; otherwise the item takes part in that one's outcome."""
        position, key = item[0], item[1]
        first = self.first_positions.setdefault(key, position) if any(key) else position
        if first == position:
            return True
        outcome = self.outcomes[first]
        if outcome is None:
            self.duplicates.setdefault(first, []).append(position)
        else:
            self._settle(position, _for_duplicate(outcome))
        return False

    async def _work(self, items: AsyncIterator[tuple[PlannedItem, Answer | None]], lock: asyncio.Lock) -> None:
        while True:
            async with lock:
                drawn = await anext(items, None)
            if drawn is None:
                return
            (position, key, make_call, prompt), first = drawn
            if self.stop.requested:
                self._settle(position, Answer(Failure(Cancelled(message=UNSENT))))
                continue
            self.in_flight += 1
            try:
                send = partial(
                    self.run.hub.runtime.send,
                    stop=self.stop,
                    cache_mode=self.run.options.cache,
                    run_id=self.run_id,
                    journal=self.run.journal,
                )
                conversation = await converse(
                    make_call(prompt, key), self.loop, self.stop, send, first, is_routed=bool(self.run.hub.route)
                )
            finally:
                self.in_flight -= 1
            self._settle(position, conversation.answer())

    def _settle(self, position: int, outcome: RowOutcome) -> None:
        """Set the outcome of a position and of its duplicates."""
        self.outcomes[position] = outcome
        if self.reporter is not None:
            self.reporter.add(position, outcome)
        if self.on_result is not None:
            self.on_result((position, outcome, 0.0))
        for duplicate in self.duplicates.pop(position, ()):
            self._settle(duplicate, _for_duplicate(outcome))

    def _result(self, writer: CacheWriter, error: BaseException | None = None) -> FanOutResult:
        problems = [sent for conversation in conversations_of(self.outcomes) for sent in conversation.problems]
        damaged = len(writer.damaged_keys) + sum(sent.damaged_values for sent in problems)
        return FanOutResult(
            self.outcomes,
            [0.0] * len(self.outcomes),
            damaged_values=damaged,
            store_error=writer.error or next((sent.store_error for sent in problems if sent.store_error), ""),
            stopped_by_store_failure=writer.aborted_run or any(sent.stopped_by_store_failure for sent in problems),
            progress_error="" if self.reporter is None else self.reporter.error,
            ambiguous_count=sum(sent.ambiguous_count for sent in problems),
            error=error,
        )


def conversations_of(outcomes: Iterable[RowOutcome | None]) -> list[Conversation]:
    """Return the conversations of those outcomes that have one of their own."""
    found = (outcome.conversation for outcome in outcomes if isinstance(outcome, ConversationAnswer))
    return [conversation for conversation in found if conversation is not None]


def count_turns(answer: RowOutcome) -> int:
    """Return the number of responses of the model behind an answer."""
    conversations = conversations_of([answer])
    return conversations[0].turns if conversations else 1


def _for_duplicate(outcome: RowOutcome) -> RowOutcome:
    """Return the outcome for another row with an equal request: a cache hit without attempts or cost."""
    answer = as_answer(outcome)
    changed = replace(
        answer,
        cache_hit=is_successful(answer.outcome),
        attempts=0,
        rate_wait_s=None,
        total_s=None,
        billed_failures=(),
        uncertain_requests=0,
    )
    if isinstance(changed, ConversationAnswer) and changed.conversation is not None:
        return replace(changed, conversation=replace(changed.conversation, billed=[], problems=[]))
    return changed


def with_turns(table: pa.Table, outcomes: Sequence[RowOutcome | None], priced_at: float) -> pa.Table:
    """Return results with the cost of all turns, and the columns ``turns`` and ``transcript``.

    Parameters
    ----------
    outcomes
        The outcome of each row of the table.
    """
    import pyarrow as pa  # noqa: PLC0415 - imported where tables are made

    rows = [outcome.conversation if isinstance(outcome, ConversationAnswer) else None for outcome in outcomes]
    for name, used in (("cost_usd", "billed"), ("list_cost_usd", "listed")):
        costs = [_row_cost(row, used, priced_at) for row in rows]
        index = table.column_names.index(name)
        old = table.column(name).to_pylist()
        merged = [new if row is not None else kept for row, new, kept in zip(rows, costs, old, strict=True)]
        table = table.set_column(index, table.schema.field(name), pa.array(merged, table.schema.field(name).type))
    turns = pa.array([0 if row is None else row.turns for row in rows], pa.int32())
    transcripts = pa.array([None if row is None else row.transcript() for row in rows], pa.string())
    metadata = table.schema.metadata
    return (
        table.append_column("turns", turns).append_column("transcript", transcripts).replace_schema_metadata(metadata)
    )


def _row_cost(row: Conversation | None, used: str, priced_at: float) -> Decimal | None:
    if row is None or not row.turns:
        return None
    cost: Any = total_cost(getattr(row, used), priced_at)
    return None if cost is None else round(cost, 9)
