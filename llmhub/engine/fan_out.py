"""The fan-out: lazily planned items slide through a bounded window of calls, and every item gets its answer.

A run plans a chunk, looks its keys up in the store in one go, and puts only what is missing before the
workers; a million rows are never a million tasks. Equal items are sent once: those of one run, of several runs of one
process, and of several processes on a store that can claim keys.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from returns.pipeline import is_successful

from llmhub.cache.store import Entry
from llmhub.core.serialization import is_corrupt, pack, unpack
from llmhub.engine.cache_writer import CacheWriter
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out_types import CHUNK_SIZE, FanOutResult, FanOutSpec, OnResult, PlannedItem, ResultEvent
from llmhub.engine.hedging import OWNER_TASK
from llmhub.engine.progress import ProgressReporter, ProgressTracker, RunSnapshot
from llmhub.engine.row_outcome import RowOutcome, as_answer, cancelled_outcome, for_duplicate, from_stored, to_stored
from llmhub.engine.scheduling import MAX_RELEASED_PER_SLOT, ConcurrencySlots, QueuedItem, Slot, TargetQueues
from llmhub.engine.single_flight import ITEMS_PER_YIELD, RowCallbacks, SingleFlight
from llmhub.engine.write_ahead import SEND_CONTEXT, SendContext

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import BlockLookup, PlannedBlock, StoredBlock


__all__ = [
    "CHUNK_SIZE",
    "PlannedItem",
    "FanOutSpec",
    "ResultEvent",
    "FanOutResult",
    "RowOutcome",
    "OnResult",
    "as_answer",
    "to_stored",
    "run_fan_out",
]


PlannedChunk: TypeAlias = "list[PlannedItem] | tuple[PlannedBlock, Awaitable[BlockLookup | None]]"
"""A planned chunk; of many, with its look-up that has begun."""


WORKERS_PER_TURN: Final = 8
"""Workers begun in one turn of the loop."""


DRAIN_TIMEOUT_S: Final = 60.0
"""How long a stopped run waits for what is in flight."""


SWEEP_INTERVAL_S: Final = 0.05
"""How often a stopped run looks for workers that wait."""


async def run_fan_out(job: FanOutSpec, stop: StopSignal) -> FanOutResult:
    """Answer every item. Errors are answers; only cancellation and defects raise.

    Notes
    -----
    When ``stop`` is asked, nothing more is sent, what is in flight is drained, and the rest is `Cancelled`;
    asked again, what is in flight is cut off too.
    """
    running = _FanOut(job, stop)
    # One wish to stop may outlive many runs, and must not keep what they held.
    forget = stop.add_listener(partial(asyncio.get_running_loop().call_soon_threadsafe, running.stopped))
    try:
        return await running.go()
    finally:
        forget()


class _FanOut:
    """The moving parts of one run. Everything happens on one event loop."""

    def __init__(self, job: FanOutSpec, stop: StopSignal) -> None:
        self.job = job
        self.stop = stop
        self.answers: list[RowOutcome | None] = [None] * job.size
        self.queued = array("d", bytes(8 * job.size))
        self.owners: dict[bytes, int] = {}
        self.followers: dict[int, list[int]] = {}
        self.lanes = TargetQueues(MAX_RELEASED_PER_SLOT * job.concurrency)
        self.exhausted = False
        self.news = asyncio.Event()
        self.supplier: asyncio.Task[Any] | None = None
        self.low = min(job.concurrency * 2, CHUNK_SIZE)
        self.workers: dict[asyncio.Task[None], SendContext] = {}
        self.slots = ConcurrencySlots(job.concurrency, self.lanes, lambda: len(self.workers), self.news.set)
        self.cut: set[asyncio.Task[None]] = set()
        self.books = books = job.write_ahead
        rows = RowCallbacks(self._settle, self._look_up, self.answers.__getitem__)
        self.turns = (
            SingleFlight(books, job.run_id, rows, job.not_before, job.alternatives) if books is not None else None
        )
        self.asking: asyncio.Task[None] | None = None
        self.filing = CacheWriter(job.store, stop.request if job.strict else None, books.on_written if books else None)
        self.blocks: list[StoredBlock] = []
        self.ahead: PlannedChunk | None = None
        self.drawn: list[list[PlannedItem] | PlannedBlock] = []
        self.drain_until = float("inf")
        self.tally = ProgressTracker(job.size, job.progress_sink, time.time()) if job.progress_sink else None
        self.reports = (
            ProgressReporter(job.progress_sink, self.tally, self._now) if job.progress_sink and self.tally else None
        )
        self.over = False
        self.started = time.perf_counter()

    async def go(self) -> FanOutResult:
        reporter = asyncio.create_task(self.reports.run()) if self.reports else None
        if self.books is not None:
            self.books.register_run(self.filing)
        try:
            async with asyncio.TaskGroup() as self.group:
                await self._supply()
        except BaseExceptionGroup as defects:
            raise defects.exceptions[0] from None
        finally:
            if reporter is not None:
                reporter.cancel()
            await asyncio.shield(self._let_go())
        await self._cancel_rest()
        self.over = True
        if self.reports is not None:
            await self.reports.finish()
        return FanOutResult(
            outcomes=self.answers,
            queue_s=self.queued,
            blocks=self.blocks,
            damaged_values=len(self.filing.damaged_keys),
            store_error=self.filing.error or (self.books.failure_message if self.books else ""),
            stopped_by_store_failure=self.filing.aborted_run,
            progress_error=self.reports.error if self.reports is not None else "",
            ambiguous_count=self.turns.ambiguous_count if self.turns else 0,
        )

    async def _let_go(self) -> None:
        """Write what is left, and give back every key."""
        await self.filing.finish()
        if self.turns is not None:
            self.turns.close()
        if self.books is not None:
            await self.books.unregister_run(self.filing)

    # Workers and what lies before them

    async def _supply(self) -> None:
        """Lay items before the workers, and hire as many as there is work and room for, until all is taken up."""
        self.supplier = task = asyncio.current_task()
        try:
            while not self.stop.requested and (self.lanes or not self.exhausted or self.asking is not None):
                self.news.clear()
                if short := not self.exhausted and self.lanes.is_low(self.low):
                    drawn = await self._missing()
                    if drawn is None:
                        continue
                    missing, weight = drawn
                    if self.tally is not None:
                        self.tally.add_misses([item[0] for item in missing])
                    self.lanes.put(await self._whose_turn(missing), time.perf_counter(), weight)
                # A few at a time, so that the first are on the wire before the last are begun.
                wanted = min(self.slots.free_count(), self.lanes.ready_count(), WORKERS_PER_TURN)
                if wanted > 0:
                    self._hire(wanted)
                    await asyncio.sleep(0)
                elif not short:
                    await self.news.wait()
        except asyncio.CancelledError:
            # By `stopped`, and by nobody else: then the workers are still to be awaited.
            if self.supplier is not None or task is None or task.uncancel():
                raise
        finally:
            self.supplier = None

    def _hire(self, many: int) -> None:
        for _ in range(many):
            flight = SendContext(self.job.run_id, self.books, strict=self.job.strict)
            worker = self.group.create_task(self._work(flight))
            self.workers[worker] = flight
            worker.add_done_callback(self.workers.pop)
            worker.add_done_callback(self.slots.on_worker_done)

    async def _work(self, flight: SendContext) -> None:
        SEND_CONTEXT.set(flight)
        # Whatever task a middleware sends in, it is this worker's.
        OWNER_TASK.set(asyncio.current_task())
        place = Slot(self.slots)
        place.bind_to_task()
        try:
            while not place.released and not self.slots.hand_over() and (taken := self._take()) is not None:
                (position, key, make, text), since, _, place.queue = taken
                call, queue_s = make(text, key), time.perf_counter() - since
                flight.requests_sent = 0
                try:
                    answer = await self.job.send(call)
                except asyncio.CancelledError:
                    self._land(
                        position,
                        key,
                        cancelled_outcome(flight.requests_sent, was_in_flight=asyncio.current_task() in self.cut),
                    )
                    raise
                self.queued[position] = queue_s
                self._land(position, key, answer, self._file(key, call, answer))
        finally:
            place.close()

    def _take(self) -> QueuedItem | None:
        """Take what lies next, and see that more follows before it runs out."""
        if self.stop.requested:
            return None
        if len(self.lanes.items) <= self.low:
            self.news.set()
        return self.lanes.pop()

    async def _whose_turn(self, items: Sequence[PlannedItem]) -> Sequence[PlannedItem]:
        """Give what nobody else asks; what somebody does is waited for beside."""
        if self.turns is None or not items:
            return items
        granted = await self.turns.claim(items)
        if self.turns.has_waiting and self.asking is None and not self.stop.requested:
            self.asking = self.group.create_task(self._wait_for_others(self.turns))
        return granted

    async def _wait_for_others(self, turns: SingleFlight) -> None:
        while turns.has_waiting:
            self.lanes.put(await turns.next_ready(), time.perf_counter())
            self.news.set()
        self.asking = None
        self.news.set()

    async def _missing(self) -> tuple[Sequence[PlannedItem], int] | None:
        """Plan a chunk, answer from the store what it has, and give the rest, and for how many each item counts."""
        drawn = self.ahead or self._draw()
        self.ahead = None
        if drawn is None:
            self.exhausted = True
            return None
        weight = max(1, CHUNK_SIZE // max(1, len(self.drawn[0])))
        if not isinstance(drawn, tuple):
            first, _ = self._first_of(drawn), self.drawn.pop(0)
            return await self._look_up(first), weight
        if self.blocks and self.filing.store is not None and self.filing.store.releases_gil:
            # Where the store answers, the next chunk is planned while this one is read.
            self.ahead = self._draw()
        missing = self._first_of(self._sift(drawn[0], await drawn[1]))
        self.drawn.pop(0)
        return await self._look_up(missing, own=False), weight

    def _draw(self) -> PlannedChunk | None:
        """Plan a chunk, and begin to look it up if it is one of many."""
        if (chunk := next(self.job.chunks, None)) is None:
            return None
        self.drawn.append(chunk)
        return chunk if isinstance(chunk, list) else (chunk, self.filing.start_lookup(chunk.look_up))

    def _first_of(self, chunk: Iterable[PlannedItem]) -> list[PlannedItem]:
        """Keep the items that ask something new; an equal one follows the first."""
        first: list[PlannedItem] = []
        for item in chunk:
            position = item[0]
            owner = self.owners.setdefault(item[1], position)
            if owner == position:
                first.append(item)
            elif (answer := self.answers[owner]) is not None:
                self._settle(position, for_duplicate(answer))
            else:
                self.followers.setdefault(owner, []).append(position)
        return first

    # The store

    async def _look_up(self, items: Sequence[PlannedItem], *, own: bool = True) -> Sequence[PlannedItem]:
        """Answer from the store what it has, from whoever may be asked; give the rest.

        Without ``own``, whom the items name is left out.
        """
        if self.filing.store is None or not items or not (own or self.job.alternatives):
            return items
        asked: list[list[tuple[Target | None, bytes]]] = []
        for at, item in enumerate(items):
            if self.job.alternatives is not None and at % ITEMS_PER_YIELD == 0:
                await asyncio.sleep(0)
            others = self.job.alternatives(item) if self.job.alternatives is not None else ()
            asked.append([*([(None, item[1])] if own else []), *others])
        keys = [key for pairs in asked for _, key in pairs]
        found = await self.filing.start_lookup(lambda store: store.get_many(keys))
        if found is None:
            return items
        missing: list[PlannedItem] = []
        for item, pairs in zip(items, asked, strict=True):
            settled = self._found(found, pairs) if found else None
            if settled is not None:
                self._settle(item[0], settled)
            else:
                missing.append(item)
                if self.job.alternatives is not None:
                    self.job.looked_up_keys.add(item[1])
        return missing

    def _found(self, found: Mapping[bytes, bytes], pairs: Iterable[tuple[Target | None, bytes]]) -> RowOutcome | None:
        """Read the first answer that is there; a damaged one is a miss."""
        for who, key in pairs:
            value = found.get(key)
            kept = unpack(value, key) if value is not None else None
            if kept is not None and is_successful(kept):
                return kept.unwrap() if who is None else from_stored(kept.unwrap(), who, key)
            if kept is not None and is_corrupt(kept.failure()):
                self.filing.damaged_keys.add(key)
        return None

    def _sift(self, bulk: PlannedBlock, sifted: BlockLookup | None) -> list[PlannedItem]:
        """Answer from the store what it had; give the rest."""
        if sifted is None:
            return list(bulk)
        if len(sifted.block.positions):
            self.blocks.append(sifted.block)
            if self.job.on_result is not None:
                self.job.on_result(sifted.block)
            if self.tally is not None:
                self.tally.add_stored_block(sifted.block.positions)
        for place, kept in sifted.unpacked:
            self._settle(int(bulk.positions[place]), kept)
        self.filing.damaged_keys.update(bulk.make_item(place)[1] for place in sifted.damaged)
        return list(map(bulk.make_item, sifted.missing))

    def _file(self, key: bytes, call: Call, answer: Answer) -> bytes | None:
        """Have a fresh answer filed; say under which key."""
        if self.filing.store is None or answer.cache_hit or not is_successful(answer.outcome):
            return None
        # What another answered than was asked is filed as their answer.
        key, who = answer.key or key, answer.target or call.target
        self.filing.enqueue(Entry(key, pack(to_stored(answer), key), who.name, answer.started_at))
        return key

    # Answers

    def _land(self, position: int, key: bytes, answer: Answer, filed: bytes | None = None) -> None:
        self._settle(position, answer)
        self.job.looked_up_keys.discard(key)
        if self.turns is not None:
            self.turns.release(key, answer, filed)

    def _settle(self, position: int, answer: RowOutcome) -> None:
        self.answers[position] = answer
        if self.tally is not None:
            self.tally.add(position, answer)
        if self.job.on_result is not None:
            self.job.on_result((position, answer, self.queued[position]))
        followers = self.followers.pop(position, None)
        if followers:
            same = for_duplicate(answer)
            for follower in followers:
                self._settle(follower, same)

    async def _cancel_rest(self) -> None:
        """Answer everything that was never taken up, with pauses: there may be much of it to key."""
        if not self.stop.requested:
            return
        # Those too that were drawn, and not looked up to the end.
        for chunk in itertools.chain(self.drawn, self.job.chunks):
            self._first_of(chunk)
            await asyncio.sleep(0)
        for position in self.owners.values():
            if self.answers[position] is None:
                self._settle(position, cancelled_outcome())

    def stopped(self) -> None:
        """Begin to let go, here and now on the loop."""
        now = asyncio.get_running_loop().time()
        self.drain_until = now + (0.0 if self.stop.immediate else DRAIN_TIMEOUT_S)
        if self.supplier is not None:
            self.supplier.cancel()
            self.supplier = None
        self._sweep()

    def _sweep(self) -> None:
        """Let go of workers that wait; those with a request on the wire may finish, until it must end."""
        loop = asyncio.get_running_loop()
        late = loop.time() >= self.drain_until
        for worker in (*self.workers, *([self.asking] if self.asking else ())):
            flying = worker in self.job.in_flight
            if late and flying:
                self.cut.add(worker)
            if late or not flying:
                worker.cancel()
        if self.workers:
            # A call that failed while draining would wait and try again: look once more.
            loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    # Progress

    def _now(self) -> RunSnapshot:
        targets = self.job.progress_sink.targets if self.job.progress_sink is not None else ()
        elapsed_s, begun = time.perf_counter() - self.started, len(self.workers)
        flying = sum(worker in self.job.in_flight for worker in self.workers)
        held = next(filter(None, (self.job.blocked_by(target.name) for target in targets)), "")
        return RunSnapshot(elapsed_s, flying, begun, self.job.concurrency, self.over, self.stop.requested, held)
