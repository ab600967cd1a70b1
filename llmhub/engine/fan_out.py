"""The fan-out: lazily planned items pass through a bounded number of concurrent calls, and every item gets an outcome.

A run plans one chunk, looks its keys up in the store in one request, and queues only the missing items, so a million
rows never become a million tasks. Equal items are sent once: within a run, across the runs of a process, and across
processes on a store that supports claims.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmhub.engine.cache_writer import CacheWriter
from llmhub.engine.call import Answer, Target
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out_types import (
    CHUNK_SIZE,
    Alternatives,
    FanOutResult,
    FanOutSpec,
    PlannedItem,
    Sender,
)
from llmhub.engine.hedging import OWNER_TASK
from llmhub.engine.hooks import with_received
from llmhub.engine.observer import CallObservation
from llmhub.engine.progress import ProgressReporter, ProgressTracker, RunSnapshot
from llmhub.engine.result_collector import ResultCollector
from llmhub.engine.row_outcome import aborted_outcome, cancelled_outcome
from llmhub.engine.scheduling import MAX_RELEASED_PER_SLOT, ConcurrencySlots, QueuedItem, Slot, TargetQueues
from llmhub.engine.single_flight import ITEMS_PER_YIELD, RowCallbacks, SingleFlight
from llmhub.engine.store_access import StoreAccess
from llmhub.engine.write_ahead import SEND_CONTEXT, SendContext

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import BlockLookup, PlannedBlock

PlannedChunk: TypeAlias = "list[PlannedItem] | tuple[PlannedBlock, Awaitable[BlockLookup | None]]"
"""A planned chunk of items; a block comes with the look-up that has been started for it."""

WORKERS_PER_TURN: Final = 8
"""Workers started in one turn of the loop, so that the first requests are sent before the last worker starts."""
DRAIN_TIMEOUT_S: Final = 60.0
"""Maximum time a stopped run waits for requests in flight."""
CLAIM_AHEAD_S: Final = 0.1
"""How long the claimed items that have not been sent are to last: other processes get the ones after them."""
LONE_CLAIM_AHEAD_S: Final = 2.0
"""The same while no other process uses the store."""
MIN_CLAIMED: Final = 16
"""Minimum number of items claimed at a time."""
SWEEP_INTERVAL_S: Final = 0.05
"""Time between two searches of a stopped run for workers that wait instead of sending."""


async def run_fan_out(spec: FanOutSpec, sender: Sender, stop: StopSignal) -> FanOutResult:
    """Run every item and return the outcomes. Failed calls are outcomes; only cancellation and defects raise.

    Notes
    -----
    At the first request of ``stop``, nothing more is sent, requests in flight are awaited, and the other rows fail with
    `Cancelled`. At the second one, requests in flight are cancelled too.

    A defect stops the run in the same way. Law: no outcome is lost; whatever is raised has the outcomes so far in its
    ``fan_out_result``.
    """
    fan_out = _FanOut(spec, sender, stop)
    # The listener is removed at the end, since a stop signal may outlive many runs and must not keep them alive.
    remove_listener = stop.add_listener(partial(asyncio.get_running_loop().call_soon_threadsafe, fan_out.on_stop))
    try:
        result = await fan_out.run()
    finally:
        remove_listener()
    if result.error is not None:
        result.error.fan_out_result = result  # type: ignore[attr-defined]
        raise result.error
    return result


class _FanOut:
    """One run: its workers, and the supply of items to them. Everything happens on one event loop."""

    def __init__(self, spec: FanOutSpec, sender: Sender, stop: StopSignal) -> None:
        self.spec = spec
        self.sender = sender
        self.stop = stop
        access, log, sink = sender.access, sender.access.write_ahead, spec.progress_sink
        self.reporter = (
            ProgressReporter(sink, ProgressTracker(spec.size, sink, time.time()), self._snapshot)
            if sink is not None
            else None
        )
        self.error: BaseException | None = None
        self.results = results = ResultCollector(spec, self.reporter, self._fail)
        self.writer = CacheWriter(access, stop.request)
        self.planner = planner = ItemPlanner(spec, access, sender.alternatives, self.writer, results)
        rows = RowCallbacks(results.settle, planner.look_up, results.outcomes.__getitem__)
        self.single_flight = (
            SingleFlight(log, spec.run_id, rows, access.not_before, sender.alternatives) if log is not None else None
        )
        self.queues = TargetQueues(MAX_RELEASED_PER_SLOT * spec.concurrency)
        self.shares_claims = log is not None and log.store.claims is not None
        self.unclaimed: deque[tuple[Sequence[PlannedItem], float, int, int]] = deque()
        self.shared_claims = (self._count_shared_claims(),) * 2
        self.sent_count, self.first_sent_at = 0, 0.0
        self.low = MIN_CLAIMED if self.shares_claims else min(spec.concurrency * 2, CHUNK_SIZE)
        self.wake = asyncio.Event()
        self.workers: dict[asyncio.Task[None], SendContext] = {}
        self.slots = ConcurrencySlots(
            spec.concurrency, self.queues, lambda: len(self.workers), self._count_remaining, self.wake.set, spec.slots
        )
        self.supplier: asyncio.Task[Any] | None = None
        self.waiting_elsewhere: asyncio.Task[None] | None = None
        self.cancelled_in_flight: set[asyncio.Task[None]] = set()
        self.drain_until = float("inf")
        self.started = time.perf_counter()
        self.finished = False

    async def run(self) -> FanOutResult:
        log, reporter = self.sender.access.write_ahead, self.reporter
        reporting = asyncio.create_task(reporter.run()) if reporter is not None else None
        if log is not None:
            log.register_run(self.writer)
        self.sender.queues.add(self.queues)
        try:
            async with asyncio.TaskGroup() as self.group:
                await self._supply()
        except asyncio.CancelledError as error:
            self.error = error
        finally:
            if reporting is not None:
                reporting.cancel()
            self.sender.queues.discard(self.queues)
            await asyncio.shield(self._close())
        if self.stop.requested or self.error is not None:
            try:
                await self.results.cancel_missing(await self.planner.remaining_chunks())
            except Exception as error:  # noqa: BLE001 - planning may be what failed
                self._fail(error)
        self.finished = True
        if reporter is not None:
            await reporter.finish()
        return FanOutResult(
            outcomes=self.results.outcomes,
            queue_s=self.results.queue_s,
            blocks=self.results.blocks,
            damaged_values=len(self.writer.damaged_keys),
            store_error=self.writer.error or (log.failure_message if log is not None else ""),
            stopped_by_store_failure=self.writer.aborted_run,
            progress_error=reporter.error if reporter is not None else "",
            ambiguous_count=self.single_flight.ambiguous_count if self.single_flight is not None else 0,
            error=self.error,
        )

    def _fail(self, error: BaseException) -> None:
        """Store the exception that ends the run, and stop sending. What is in flight is paid for, so it is awaited."""
        self.error = self.error or error
        if not self.stop.requested:
            self.stop.request()

    async def _close(self) -> None:
        """Write what is left and release all keys."""
        self.slots.close()
        try:
            await self.writer.finish()
            if self.single_flight is not None:
                self.single_flight.close()
        except Exception as error:  # noqa: BLE001 - a defect must not lose the outcomes
            self._fail(error)
        if self.sender.access.write_ahead is not None:
            await self.sender.access.write_ahead.unregister_run(self.writer)

    # Supply of items

    async def _supply(self) -> None:
        """Queue items and start workers, as many as there are items and slots, until all items have been started."""
        self.supplier = task = asyncio.current_task()
        try:
            while not self.stop.requested and (
                self.queues or self.unclaimed or not self.planner.exhausted or self.waiting_elsewhere
            ):
                self.wake.clear()
                has_more = bool(self.unclaimed) or not self.planner.exhausted
                if low := has_more and self.queues.is_low(self.low):
                    if not self.unclaimed:
                        planned = await self.planner.next_missing()
                        if planned is None:
                            continue
                        self._add_planned(*planned)
                    await self._enqueue()
                workers = min(self.slots.free_count(), self.queues.ready_count(), WORKERS_PER_TURN)
                if workers > 0:
                    self._start_workers(workers)
                    await asyncio.sleep(0)
                elif not low:
                    await self.wake.wait()
        except asyncio.CancelledError:
            # If `on_stop` alone cancelled this task, the workers are still to be awaited.
            if self.supplier is not None or task is None or task.uncancel():
                raise
        except BaseException as error:  # noqa: BLE001 - raised once the requests in flight are answered
            self._fail(error)
        finally:
            self.supplier = None

    def _portion(self) -> int:
        """Return the number of items to claim at a time: as many as are sent in `CLAIM_AHEAD_S`, more if alone.

        Claimed items are out of reach of other processes with the same store, which may have nothing else to send.
        """
        if not self.first_sent_at:
            return max(self.spec.concurrency, MIN_CLAIMED)
        per_second = self.sent_count / max(time.perf_counter() - self.first_sent_at, CLAIM_AHEAD_S)
        is_alone = self.single_flight is not None and self.single_flight.exclusive
        ahead_s = LONE_CLAIM_AHEAD_S if is_alone else CLAIM_AHEAD_S
        return min(max(int(per_second * ahead_s), MIN_CLAIMED), CHUNK_SIZE)

    def _count_remaining(self) -> int:
        """Return the calls that have not ended, without those of chunks that have not been looked up yet."""
        unclaimed = sum([len(missing) for missing, *_ in self.unclaimed])
        return len(self.workers) + self.queues.size + unclaimed

    def _add_planned(self, missing: Sequence[PlannedItem], weight: int) -> None:
        """Add the missing items of a chunk to those that are claimed next."""
        if self.reporter is not None:
            self.reporter.add_misses([item[0] for item in missing])
        # The look-up of a chunk may begin before the chunk before it is added, but not before the one before that.
        before_look_up, latest = self.shared_claims
        self.shared_claims = latest, self._count_shared_claims()
        if missing:
            self.unclaimed.append((missing, time.perf_counter(), weight, before_look_up))

    def _count_shared_claims(self) -> int:
        log = self.sender.access.write_ahead
        return log.shared_claims if log is not None else 0

    async def _enqueue(self) -> None:
        """Queue the next items whose requests are not in flight elsewhere; wait for the others in the background."""
        if not self.unclaimed:
            return
        missing, planned_at, weight, shared_claims = self.unclaimed.popleft()
        portion = len(missing)
        if self.shares_claims:
            portion = self._portion()
            self.low = portion // 2
        if portion < len(missing):
            self.unclaimed.appendleft((missing[portion:], planned_at, weight, shared_claims))
            missing = missing[:portion]
        flight = self.single_flight
        if flight is not None:
            # Another process may have answered them between their look-up and an earlier claim.
            missing = await flight.claim(missing, look_up_again=self._count_shared_claims() != shared_claims)
            if flight.has_waiting and self.waiting_elsewhere is None and not self.stop.requested:
                self.waiting_elsewhere = self.group.create_task(self._wait_elsewhere(flight))
        self.queues.put(missing, planned_at, weight)

    async def _wait_elsewhere(self, flight: SingleFlight[PlannedItem]) -> None:
        """Wait for requests in flight elsewhere, and queue the items that this run has to send itself."""
        try:
            while flight.has_waiting:
                self.queues.put(await flight.next_ready(), time.perf_counter())
                self.wake.set()
        except Exception as error:  # noqa: BLE001 - raised once the requests in flight are answered
            self._fail(error)
        self.waiting_elsewhere = None
        self.wake.set()

    # Workers

    def _start_workers(self, count: int) -> None:
        access = self.sender.access
        self.first_sent_at = self.first_sent_at or time.perf_counter()
        for _ in range(count):
            context = SendContext(self.spec.run_id, access.write_ahead, strict=access.strict)
            worker = self.group.create_task(self._work(context))
            self.workers[worker] = context
            worker.add_done_callback(self.workers.pop)
            worker.add_done_callback(self.slots.on_worker_done)

    async def _work(self, context: SendContext) -> None:
        """Send one item after another. A worker ends when no item may start, or when another call needs its slot."""
        SEND_CONTEXT.set(context)
        # Tasks that a middleware creates send on behalf of this worker.
        OWNER_TASK.set(asyncio.current_task())
        slot = Slot(self.slots)
        slot.bind_to_task()
        observation = CallObservation(self.sender.observers, context)
        try:
            while not slot.released and not self.slots.hand_over() and (queued := self._next_item()) is not None:
                (position, key, make_call, prompt), queued_at, _, slot.queue = queued
                context.queue_s = queue_s = time.perf_counter() - queued_at
                context.requests_sent, context.last_error = 0, None
                try:
                    call = make_call(prompt, key)
                    answer = await observation.send(self.sender.send, call)
                except asyncio.CancelledError:
                    observation.finish(None)
                    was_in_flight = asyncio.current_task() in self.cancelled_in_flight
                    cancelled = cancelled_outcome(
                        context.requests_sent,
                        was_in_flight=was_in_flight,
                        last_error=context.last_error,
                        has_response=bool(context.received),
                    )
                    self._settle(position, key, with_received(context.received, cancelled))
                    raise
                except BaseException as error:
                    observation.finish(None)
                    aborted = aborted_outcome(error, context.requests_sent)
                    self._settle(position, key, with_received(context.received, aborted))
                    raise
                observation.finish(answer)
                self.results.queue_s[position] = queue_s
                written_as = self.writer.enqueue(key, call, answer)
                self._settle(position, key, answer, written_as)
                if written_as is not None and self.writer.holds_slots:
                    # A process that is killed loses what has a slot, and no answer beside that.
                    await self.writer.wait_until_written(len(self.workers))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised once the requests in flight are answered
            self._fail(error)
        finally:
            slot.close()

    def _next_item(self) -> QueuedItem | None:
        """Return the next item, waking the supplier before the items run out."""
        if self.stop.requested:
            return None
        if len(self.queues.items) <= self.low:
            self.wake.set()
        return self.queues.pop()

    def _settle(self, position: int, key: bytes, answer: Answer, written_as: bytes | None = None) -> None:
        """Set the outcome of an item that was sent, and release its key."""
        self.sent_count += 1
        self.results.settle(position, answer)
        self.sender.access.checked_keys.discard(key)
        if self.single_flight is not None:
            self.single_flight.release(key, answer, written_as)

    # Stopping

    def on_stop(self) -> None:
        """Stop sending; called on the loop at each request of the stop signal."""
        now = asyncio.get_running_loop().time()
        self.drain_until = now + (0.0 if self.stop.immediate else DRAIN_TIMEOUT_S)
        if self.supplier is not None:
            self.supplier.cancel()
            self.supplier = None
        self._cancel_workers()

    def _cancel_workers(self) -> None:
        """Cancel workers without a request in flight; after the drain timeout, the others too."""
        loop = asyncio.get_running_loop()
        timed_out = loop.time() >= self.drain_until
        for worker in (*self.workers, *([self.waiting_elsewhere] if self.waiting_elsewhere else ())):
            in_flight = worker in self.sender.in_flight
            if timed_out and in_flight:
                self.cancelled_in_flight.add(worker)
            if timed_out or not in_flight:
                worker.cancel()
        if self.workers:
            # A call that fails while draining would wait to be retried, so look again.
            loop.call_later(SWEEP_INTERVAL_S, self._cancel_workers)

    def _snapshot(self) -> RunSnapshot:
        """Return the current state for progress reports."""
        spec = self.spec
        targets = spec.progress_sink.targets if spec.progress_sink is not None else ()
        return RunSnapshot(
            elapsed_s=time.perf_counter() - self.started,
            in_flight=sum(worker in self.sender.in_flight for worker in self.workers),
            started=len(self.workers),
            concurrency=spec.concurrency,
            finished=self.finished,
            stopping=self.stop.requested,
            blocked_by=next(filter(None, (self.sender.blocked_by(target.name) for target in targets)), ""),
            refused_by=next(filter(None, (self.sender.refused_by(target.name) for target in targets)), ""),
        )


class ItemPlanner:
    """Plans one chunk after another and settles what the store answers."""

    def __init__(
        self,
        spec: FanOutSpec,
        access: StoreAccess,
        alternatives: Alternatives | None,
        writer: CacheWriter,
        results: ResultCollector,
    ) -> None:
        self.exhausted = False
        self._chunks = spec.chunks
        self._draws_in_thread = spec.draws_in_thread
        self._drawing: asyncio.Future[list[PlannedItem] | PlannedBlock | None] | None = None
        self._access = access
        self._alternatives = alternatives
        self._writer = writer
        self._results = results
        self._drawn: list[list[PlannedItem] | PlannedBlock] = []
        self._prefetched: PlannedChunk | None = None

    async def next_missing(self) -> tuple[Sequence[PlannedItem], int] | None:
        """Return the items of the next chunk that have to be sent, and the weight of each; ``None`` at the end."""
        chunk = self._prefetched or self._add_drawn(
            await self._draw_in_thread() if self._draws_in_thread else next(self._chunks, None)
        )
        self._prefetched = None
        if chunk is None:
            self.exhausted = True
            return None
        weight = max(1, CHUNK_SIZE // max(1, len(self._drawn[0])))
        if isinstance(chunk, list):
            unique = self._results.without_duplicates(chunk)
            self._drawn.pop(0)
            return await self.look_up(unique), weight
        store = self._writer.store
        if self._results.blocks and store is not None and store.releases_gil:
            # The store has answered before, so plan the next chunk while this one is being read.
            self._prefetched = self._add_drawn(next(self._chunks, None))
        block, lookup = chunk
        unique = self._results.without_duplicates(self._settle_block(block, await lookup))
        self._drawn.pop(0)
        return await self.look_up(unique, own=False), weight

    async def remaining_chunks(self) -> Iterator[Iterable[PlannedItem]]:
        """Return the chunks not planned yet, and those whose look-up was not finished."""
        if self._drawing is not None:  # the run was cancelled meanwhile
            self._add_drawn(await self._draw_in_thread())
        return itertools.chain(self._drawn, self._chunks)

    async def _draw_in_thread(self) -> list[PlannedItem] | PlannedBlock | None:
        """Draw the next chunk in a thread, or wait for the one being drawn there."""
        if self._drawing is None:
            self._drawing = asyncio.get_running_loop().run_in_executor(None, next, self._chunks, None)
        chunk = await asyncio.shield(self._drawing)
        self._drawing = None
        return chunk

    def _add_drawn(self, chunk: list[PlannedItem] | PlannedBlock | None) -> PlannedChunk | None:
        """Remember a chunk that was drawn; if it is a block, start to look it up."""
        if chunk is None:
            return None
        self._drawn.append(chunk)
        return chunk if isinstance(chunk, list) else (chunk, self._writer.start_lookup(chunk.look_up))

    def _settle_block(self, block: PlannedBlock, found: BlockLookup | None) -> list[PlannedItem]:
        """Settle what the store has of a block and return the missing items."""
        if found is None:
            return list(block)
        self._results.add_block(found.block)
        for index, stored in found.unpacked:
            self._results.settle(int(block.positions[index]), stored)
        self._writer.damaged_keys.update(block.make_item(index)[1] for index in found.damaged)
        return list(map(block.make_item, found.missing))

    async def look_up(self, items: Sequence[PlannedItem], *, own: bool = True) -> Sequence[PlannedItem]:
        """Settle the items that the store answers, for any candidate target, and return the others.

        ``own=False`` leaves out the target that an item names.
        """
        alternatives = self._alternatives
        if self._writer.store is None or not items or not (own or alternatives):
            return items
        candidates: list[list[tuple[Target | None, bytes]]] = []
        for index, item in enumerate(items):
            if alternatives is not None and index % ITEMS_PER_YIELD == 0:
                await asyncio.sleep(0)
            others = alternatives(item) if alternatives is not None else ()
            candidates.append([*([(None, item[1])] if own else []), *others])
        keys = [key for pairs in candidates for _, key in pairs]
        found = await self._writer.start_lookup(lambda store: store.get_many(keys))
        if found is None:
            return items
        missing: list[PlannedItem] = []
        for item, pairs in zip(items, candidates, strict=True):
            outcome = self._writer.first_stored(found, pairs) if found else None
            if outcome is not None:
                self._results.settle(item[0], outcome)
            else:
                missing.append(item)
                if alternatives is not None:
                    self._access.checked_keys.add(item[1])
        return missing
