"""The fan-out: lazily planned items slide through a bounded window of calls, and every item gets its answer.

A run plans a chunk, looks its keys up in the store in one go, and puts only what is missing before the
workers; a million rows are never a million tasks. Equal items of one run are sent once.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.cache.store import Entry, Store, StoreError
from llmhub.core.codec import StoredResponse, pack, response_of, stored, unpack
from llmhub.core.errors import Cancelled
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.loop import Stop, in_thread
from llmhub.engine.tally import Now, Tally, Watch

Item: TypeAlias = tuple[int, bytes, Callable[[str, bytes], Call], str]
"""Position of the row, key of the question, how to make its call once that is needed, and the text to make it of.

The call is made of the text and the key."""
Settled: TypeAlias = Answer | StoredResponse
"""What answered a row: a call of this run, or what a store had kept."""

TOGETHER: Final = 8
"""Workers begun in one turn of the loop."""
CHUNK: Final = 512
"""Items planned and looked up at a time."""
FLUSH_S: Final = 0.02
"""How long an answer waits for others before it is written: a crash loses no more than this."""
DRAIN_S: Final = 60.0
"""How long a stopped run waits for what is in flight."""
SWEEP_S: Final = 0.05
"""How often a stopped run looks for workers that wait."""
REPORT_S: Final = 0.1
"""Between two reports of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run is to do.

    Parameters
    ----------
    size
        Rows of the answer list; rows that no item names stay unanswered.
    chunks
        Items, lazily; positions may come in any order.
    send
        The whole chain.
    in_flight
        Tasks whose request is on the wire right now (the transport's).
    store
        Where answers are looked up and filed.
    concurrency
        Calls under way at once, at most.
    watch
        Who is told how far it is, at most ten times a second, on the loop's thread.
    """

    size: int
    chunks: Iterator[Sequence[Item]]
    send: Send
    in_flight: Collection[asyncio.Task[object]]
    store: Store | None = None
    concurrency: int = 64
    watch: Watch | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a run, by position: answers (``None``: no item named it) and seconds before being taken up.

    ``store_error`` says why the store was given up, and ``report_error`` why nothing more was reported, if so.
    """

    answers: list[Settled | None]
    queued_s: Sequence[float]
    store_error: str = ""
    report_error: str = ""


async def run(job: Job, stop: Stop) -> Ran:
    """Answer every item. Errors are answers; only cancellation and defects raise.

    Notes
    -----
    When ``stop`` is asked, nothing more is sent, what is in flight is drained, and the rest is `Cancelled`;
    asked again, what is in flight is cut off too.
    """
    return await _Run(job, stop).go()


class _Run:
    """The moving parts of one run. Everything happens on one event loop."""

    def __init__(self, job: Job, stop: Stop) -> None:
        self.job = job
        self.stop = stop
        self.store = job.store
        self.watch = watch = job.watch
        self.store_error = self.report_error = ""
        self.answers: list[Settled | None] = [None] * job.size
        self.queued = array("d", bytes(8 * job.size))
        self.owners: dict[bytes, int] = {}
        self.followers: dict[int, list[int]] = {}
        self.pending: deque[tuple[Item, float]] = deque()
        self.exhausted = False
        self.refilling = asyncio.Lock()
        self.filling = False
        self.low = min(job.concurrency * 2, CHUNK)
        self.workers: set[asyncio.Task[None]] = set()
        self.cut: set[asyncio.Task[None]] = set()
        self.outbox: list[Entry] = []
        self.flusher: asyncio.Task[None] | None = None
        self.drain_until = float("inf")
        self.tally = Tally(job.size, watch.targets, watch.samples, time.time()) if watch else None
        self.started = time.perf_counter()

    async def go(self) -> Ran:
        loop = asyncio.get_running_loop()
        self.stop.on_ask(partial(_from_anywhere, loop, self._stopped))
        reporter = asyncio.create_task(self._reporting()) if self.watch else None
        try:
            async with asyncio.TaskGroup() as self.group:
                self._hire(1)
        except BaseExceptionGroup as defects:
            raise defects.exceptions[0] from None
        finally:
            if reporter is not None:
                reporter.cancel()
            await asyncio.shield(self._flush())
        self._cancel_rest()
        await self._report(finished=True)
        return Ran(self.answers, self.queued, self.store_error, self.report_error)

    # Workers and what lies before them

    def _hire(self, many: int) -> None:
        for _ in range(many):
            worker = self.group.create_task(self._work())
            self.workers.add(worker)
            worker.add_done_callback(self.workers.discard)

    def _vacant(self) -> int:
        return self.job.concurrency - len(self.workers)

    async def _work(self) -> None:
        while (taken := self._take() or await self._next()) is not None:
            (position, key, make, text), since = taken
            call = make(text, key)
            queue_s = time.perf_counter() - since
            try:
                answer = await self.job.send(call)
            except asyncio.CancelledError:
                self._settle(position, _cancelled(sent=asyncio.current_task() in self.cut))
                raise
            self.queued[position] = queue_s
            self._settle(position, answer)
            self._file(key, call, answer)

    def _take(self) -> tuple[Item, float] | None:
        """Take what lies next, and see that more follows before it runs out."""
        if not self.pending or self.stop.asked:
            return None
        if len(self.pending) <= self.low and not self.exhausted and not self.filling:
            self.filling = True
            self.group.create_task(self._refill())
        return self.pending.popleft()

    async def _next(self) -> tuple[Item, float] | None:
        """Wait for something to take, or for the end."""
        while not (self.exhausted or self.stop.asked):
            await self._refill()
            if (taken := self._take()) is not None:
                return taken
        return self._take()

    async def _refill(self) -> None:
        """Plan and look up until enough lies before the workers."""
        async with self.refilling:
            self.filling = False
            while not (self.exhausted or self.stop.asked) and len(self.pending) < self.low:
                chunk = next(self.job.chunks, None)
                if chunk is None:
                    self.exhausted = True
                    return
                missing = await self._look_up(self._first_of(chunk))
                if self.tally is not None:
                    self.tally.miss([item[0] for item in missing])
                now = time.perf_counter()
                self.pending.extend((item, now) for item in missing)
                while not self.stop.asked and (wanted := min(self._vacant(), len(self.pending))) > 0:
                    # A few at a time, so that the first are on the wire before the last are begun.
                    self._hire(min(wanted, TOGETHER))
                    await asyncio.sleep(0)

    def _first_of(self, chunk: Sequence[Item]) -> list[Item]:
        """Keep the items that ask something new; an equal one follows the first."""
        first: list[Item] = []
        for item in chunk:
            position = item[0]
            owner = self.owners.setdefault(item[1], position)
            if owner == position:
                first.append(item)
            elif (answer := self.answers[owner]) is not None:
                self._settle(position, _shared(answer))
            else:
                self.followers.setdefault(owner, []).append(position)
        return first

    # The store

    async def _look_up(self, items: list[Item]) -> Sequence[Item]:
        """Answer from the store what it has; give the rest."""
        if self.store is None or not items:
            return items
        try:
            found = await in_thread(self.store.get_many, [item[1] for item in items])
        except StoreError as error:
            self._give_up_store(error)
            return items
        if not found:
            return items
        missing: list[Item] = []
        for item in items:
            value = found.get(item[1])
            kept = unpack(value) if value is not None else None
            # A damaged value is a miss.
            if kept is None or not is_successful(kept):
                missing.append(item)
            else:
                self._settle(item[0], kept.unwrap())
        return missing

    def _file(self, key: bytes, call: Call, answer: Answer) -> None:
        """Put a fresh answer before the flusher."""
        if self.store is None or not is_successful(answer.outcome):
            return
        value = pack(kept_form(answer))
        self.outbox.append(Entry(key, value, call.target.name, answer.started_at))
        if self.flusher is None:
            self.flusher = asyncio.create_task(self._flushing())

    async def _flushing(self) -> None:
        while self.outbox:
            await asyncio.sleep(FLUSH_S)
            await self._write()
        self.flusher = None

    async def _flush(self) -> None:
        """Write what is left, after the flusher is done with what it has."""
        if self.flusher is not None:
            await self.flusher
        await self._write()

    async def _write(self) -> None:
        entries, self.outbox = self.outbox, []
        if self.store is None or not entries:
            return
        try:
            await in_thread(self.store.put_many, entries)
        except StoreError as error:
            self._give_up_store(error)

    def _give_up_store(self, error: StoreError) -> None:
        """Go on without the store: what is answered is still in the table."""
        self.store = None
        self.store_error = str(error)

    # Answers

    def _settle(self, position: int, answer: Settled) -> None:
        self.answers[position] = answer
        if self.tally is not None:
            self.tally.add(position, answer)
        followers = self.followers.pop(position, None)
        if followers:
            shared = _shared(answer)
            for follower in followers:
                self._settle(follower, shared)

    def _cancel_rest(self) -> None:
        """Answer everything that was never taken up."""
        if not self.stop.asked:
            return
        for chunk in self.job.chunks:
            self._first_of(chunk)
        never = _cancelled(sent=False)
        for position in self.owners.values():
            if self.answers[position] is None:
                self._settle(position, never)

    def _stopped(self) -> None:
        """Begin to let go, here and now on the loop."""
        loop = asyncio.get_running_loop()
        self.drain_until = loop.time() + (0.0 if self.stop.now else DRAIN_S)
        self._sweep()

    def _sweep(self) -> None:
        """Let go of workers that wait; those with a request on the wire may finish, until it must end."""
        loop = asyncio.get_running_loop()
        late = loop.time() >= self.drain_until
        for worker in tuple(self.workers):
            flying = worker in self.job.in_flight
            if late and flying:
                self.cut.add(worker)
            if late or not flying:
                worker.cancel()
        if self.workers:
            # A call that failed while draining would wait and try again: look once more.
            loop.call_later(SWEEP_S, self._sweep)

    # Progress

    async def _report(self, *, finished: bool = False) -> None:
        """Tell whoever wants to know. What goes wrong in that is theirs, and costs no answer."""
        if self.watch is None or self.tally is None:
            return
        try:
            if new := self.tally.new():
                self.tally.learn(await in_thread(self.tally.look_up, new))
            self.watch.report(self.tally.progress(self._now(finished=finished)))
        except Exception as wrong:  # noqa: BLE001 - a caller's function may raise anything
            self.watch = None
            self.report_error = f"{type(wrong).__name__}: {wrong}"

    def _now(self, *, finished: bool) -> Now:
        return Now(
            elapsed_s=time.perf_counter() - self.started,
            in_flight=sum(worker in self.job.in_flight for worker in self.workers),
            begun=len(self.workers),
            concurrency=self.job.concurrency,
            finished=finished,
            stopping=self.stop.asked,
        )

    async def _reporting(self) -> None:
        while self.watch is not None:
            await asyncio.sleep(REPORT_S)
            await self._report()


def _from_anywhere(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(function)


def kept_form(answer: Answer) -> StoredResponse:
    """Bring a successful answer to the form in which stores and tables hold it."""
    return stored(
        answer.outcome.unwrap(),
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        started_at=answer.started_at,
        dropped=answer.dropped,
    )


def as_answer(settled: Settled) -> Answer:
    """Give what a store had kept as the answer it was."""
    if isinstance(settled, Answer):
        return settled
    return Answer(
        outcome=Success(response_of(settled)),
        latency_s=settled.latency_s,
        ttft_s=settled.ttft_s,
        started_at=settled.started_at,
        cache_hit=True,
        dropped=settled.dropped,
    )


def _shared(answer: Settled) -> Settled:
    """Give an equal row the answer: it costs nothing more."""
    if isinstance(answer, StoredResponse) or is_successful(answer.outcome):
        return answer if isinstance(answer, StoredResponse) else kept_form(answer)
    return replace(answer, attempts=0, rate_wait_s=None, total_s=None)


def _cancelled(*, sent: bool) -> Answer:
    said = "stopped while it was in flight; the provider may have charged it" if sent else "stopped before it was sent"
    return Answer(outcome=Failure(Cancelled(message=said)), attempts=int(sent))
