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
from llmhub.core.codec import is_damage, pack, unpack
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.collector import held_back
from llmhub.engine.filing import Filing
from llmhub.engine.flight import FLIGHT, Flight
from llmhub.engine.hedging import OWNER
from llmhub.engine.job import Job, Landed, Ran, Told
from llmhub.engine.lanes import CHUNK, Laid, Lanes
from llmhub.engine.loop import Stop
from llmhub.engine.reports import Reports
from llmhub.engine.settled import Settled, as_answer, cancelled, kept_form, recalled, shared
from llmhub.engine.slots import LENT, Place, Slots
from llmhub.engine.tally import Now, Tally
from llmhub.engine.turns import BREATH, Item, Rows, Turns

if TYPE_CHECKING:
    from llmhub.engine.bulk import Block, Bulk, Sifted

__all__ = ["CHUNK", "Item", "Job", "Landed", "Ran", "Settled", "Told", "as_answer", "kept_form", "run"]

Drawn: TypeAlias = "list[Item] | tuple[Bulk, Awaitable[Sifted | None]]"
"""A planned chunk; of many, with its look-up that has begun."""

TOGETHER: Final = 8
"""Workers begun in one turn of the loop."""
FIRST_CHUNK: Final = 512
"""Items of the first chunk: the first call need not wait for more."""
DRAIN_S: Final = 60.0
"""How long a stopped run waits for what is in flight."""
SWEEP_S: Final = 0.05
"""How often a stopped run looks for workers that wait."""


async def run(job: Job, stop: Stop) -> Ran:
    """Answer every item. Errors are answers; only cancellation and defects raise.

    Notes
    -----
    When ``stop`` is asked, nothing more is sent, what is in flight is drained, and the rest is `Cancelled`;
    asked again, what is in flight is cut off too.
    """
    running = _Run(job, stop)
    # One wish to stop may outlive many runs, and must not keep what they held.
    forget = stop.on_ask(partial(asyncio.get_running_loop().call_soon_threadsafe, running.stopped))
    try:
        with held_back(job.size):
            return await running.go()
    finally:
        forget()


class _Run:
    """The moving parts of one run. Everything happens on one event loop."""

    def __init__(self, job: Job, stop: Stop) -> None:
        self.job = job
        self.stop = stop
        self.answers: list[Settled | None] = [None] * job.size
        self.queued = array("d", bytes(8 * job.size))
        self.owners: dict[bytes, int] = {}
        self.followers: dict[int, list[int]] = {}
        self.lanes = Lanes(LENT * job.concurrency)
        self.exhausted = False
        self.news = asyncio.Event()
        self.supplier: asyncio.Task[Any] | None = None
        self.low = min(job.concurrency * 2, CHUNK)
        self.workers: dict[asyncio.Task[None], Flight] = {}
        self.slots = Slots(job.concurrency, self.lanes, lambda: len(self.workers), self.news.set)
        self.cut: set[asyncio.Task[None]] = set()
        self.books = books = job.books
        rows = Rows(self._settle, self._look_up, self.answers.__getitem__)
        self.turns = Turns(books, job.run_id, rows, job.since, job.others) if books is not None else None
        self.asking: asyncio.Task[None] | None = None
        self.filing = Filing(job.store, stop.ask if job.strict else None, books.written if books else None)
        self.blocks: list[Block] = []
        self.ahead: Drawn | None = None
        self.drawn: list[list[Item] | Bulk] = []
        self.drain_until = float("inf")
        self.tally = Tally(job.size, job.watch, time.time()) if job.watch else None
        self.reports = Reports(job.watch, self.tally, self._now) if job.watch and self.tally else None
        self.over = False
        self.started = time.perf_counter()

    async def go(self) -> Ran:
        reporter = asyncio.create_task(self.reports.go()) if self.reports else None
        if self.books is not None:
            self.books.begin(self.filing)
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
            await self.reports.end()
        return Ran(
            answers=self.answers,
            queued_s=self.queued,
            blocks=self.blocks,
            damaged=len(self.filing.damaged),
            store_error=self.filing.error or (self.books.complaint if self.books else ""),
            gave_up=self.filing.fatal,
            report_error=self.reports.error if self.reports is not None else "",
            unsure=self.turns.unsure if self.turns else 0,
        )

    async def _let_go(self) -> None:
        """Write what is left, and give back every key."""
        await self.filing.flush()
        if self.turns is not None:
            self.turns.close()
        if self.books is not None:
            await self.books.end(self.filing)

    # Workers and what lies before them

    async def _supply(self) -> None:
        """Lay items before the workers, and hire as many as there is work and room for, until all is taken up."""
        self.supplier = task = asyncio.current_task()
        try:
            while not self.stop.asked and (self.lanes or not self.exhausted or self.asking is not None):
                self.news.clear()
                if short := not self.exhausted and self.lanes.short(self.low):
                    drawn = await self._missing()
                    if drawn is None:
                        continue
                    missing, weight = drawn
                    if self.tally is not None:
                        self.tally.miss([item[0] for item in missing])
                    self.lanes.lay(await self._whose_turn(missing), time.perf_counter(), weight)
                # A few at a time, so that the first are on the wire before the last are begun.
                wanted = min(self.slots.vacant(), self.lanes.ready(), TOGETHER)
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
            flight = Flight(self.job.run_id, self.books, strict=self.job.strict)
            worker = self.group.create_task(self._work(flight))
            self.workers[worker] = flight
            worker.add_done_callback(self.workers.pop)
            worker.add_done_callback(self.slots.free)

    async def _work(self, flight: Flight) -> None:
        FLIGHT.set(flight)
        # Whatever task a middleware sends in, it is this worker's.
        OWNER.set(asyncio.current_task())
        place = Place(self.slots)
        place.enter()
        try:
            while not place.lent and not self.slots.hand() and (taken := self._take()) is not None:
                (position, key, make, text), since, _, place.lane = taken
                call, queue_s = make(text, key), time.perf_counter() - since
                flight.sent = 0
                try:
                    answer = await self.job.send(call)
                except asyncio.CancelledError:
                    self._land(position, key, cancelled(flight.sent, cut=asyncio.current_task() in self.cut))
                    raise
                self.queued[position] = queue_s
                self._land(position, key, answer, self._file(key, call, answer))
        finally:
            place.leave()

    def _take(self) -> Laid | None:
        """Take what lies next, and see that more follows before it runs out."""
        if self.stop.asked:
            return None
        if len(self.lanes.items) <= self.low:
            self.news.set()
        return self.lanes.take()

    async def _whose_turn(self, items: Sequence[Item]) -> Sequence[Item]:
        """Give what nobody else asks; what somebody does is waited for beside."""
        if self.turns is None or not items:
            return items
        granted = await self.turns.take(items)
        if self.turns.waiting and self.asking is None and not self.stop.asked:
            self.asking = self.group.create_task(self._wait_for_others(self.turns))
        return granted

    async def _wait_for_others(self, turns: Turns) -> None:
        while turns.waiting:
            self.lanes.lay(await turns.next_round(), time.perf_counter())
            self.news.set()
        self.asking = None
        self.news.set()

    async def _missing(self) -> tuple[Sequence[Item], int] | None:
        """Plan a chunk, answer from the store what it has, and give the rest, and for how many each item counts."""
        drawn = self.ahead or self._draw()
        self.ahead = None
        if drawn is None:
            self.exhausted = True
            return None
        weight = max(1, CHUNK // max(1, len(self.drawn[0])))
        if not isinstance(drawn, tuple):
            first, _ = self._first_of(drawn), self.drawn.pop(0)
            return await self._look_up(first), weight
        if self.blocks and self.filing.store is not None and self.filing.store.beside:
            # Where the store answers, the next chunk is planned while this one is read.
            self.ahead = self._draw()
        missing = self._first_of(self._sift(drawn[0], await drawn[1]))
        self.drawn.pop(0)
        return await self._look_up(missing, own=False), weight

    def _draw(self) -> Drawn | None:
        """Plan a chunk, and begin to look it up if it is one of many."""
        if (chunk := next(self.job.chunks, None)) is None:
            return None
        self.drawn.append(chunk)
        return chunk if isinstance(chunk, list) else (chunk, self.filing.begin(chunk.look_up))

    def _first_of(self, chunk: Iterable[Item]) -> list[Item]:
        """Keep the items that ask something new; an equal one follows the first."""
        first: list[Item] = []
        for item in chunk:
            position = item[0]
            owner = self.owners.setdefault(item[1], position)
            if owner == position:
                first.append(item)
            elif (answer := self.answers[owner]) is not None:
                self._settle(position, shared(answer))
            else:
                self.followers.setdefault(owner, []).append(position)
        return first

    # The store

    async def _look_up(self, items: Sequence[Item], *, own: bool = True) -> Sequence[Item]:
        """Answer from the store what it has, from whoever may be asked; give the rest.

        Without ``own``, whom the items name is left out.
        """
        if self.filing.store is None or not items or not (own or self.job.others):
            return items
        asked: list[list[tuple[Target | None, bytes]]] = []
        for at, item in enumerate(items):
            if self.job.others is not None and at % BREATH == 0:
                await asyncio.sleep(0)
            others = self.job.others(item) if self.job.others is not None else ()
            asked.append([*([(None, item[1])] if own else []), *others])
        keys = [key for pairs in asked for _, key in pairs]
        found = await self.filing.begin(lambda store: store.get_many(keys))
        if found is None:
            return items
        missing: list[Item] = []
        for item, pairs in zip(items, asked, strict=True):
            settled = self._found(found, pairs) if found else None
            if settled is not None:
                self._settle(item[0], settled)
            else:
                missing.append(item)
                if self.job.others is not None:
                    self.job.looked.add(item[1])
        return missing

    def _found(self, found: Mapping[bytes, bytes], pairs: Iterable[tuple[Target | None, bytes]]) -> Settled | None:
        """Read the first answer that is there; a damaged one is a miss."""
        for who, key in pairs:
            value = found.get(key)
            kept = unpack(value, key) if value is not None else None
            if kept is not None and is_successful(kept):
                return kept.unwrap() if who is None else recalled(kept.unwrap(), who, key)
            if kept is not None and is_damage(kept.failure()):
                self.filing.damaged.add(key)
        return None

    def _sift(self, bulk: Bulk, sifted: Sifted | None) -> list[Item]:
        """Answer from the store what it had; give the rest."""
        if sifted is None:
            return list(bulk)
        if len(sifted.block.positions):
            self.blocks.append(sifted.block)
            if self.job.told is not None:
                self.job.told(sifted.block)
            if self.tally is not None:
                self.tally.hit(sifted.block.positions)
        for place, kept in sifted.others:
            self._settle(int(bulk.positions[place]), kept)
        self.filing.damaged.update(bulk.item(place)[1] for place in sifted.damaged)
        return list(map(bulk.item, sifted.missing))

    def _file(self, key: bytes, call: Call, answer: Answer) -> bytes | None:
        """Have a fresh answer filed; say under which key."""
        if self.filing.store is None or answer.cache_hit or not is_successful(answer.outcome):
            return None
        # What another answered than was asked is filed as their answer.
        key, who = answer.key or key, answer.target or call.target
        self.filing.file(Entry(key, pack(kept_form(answer), key), who.name, answer.started_at))
        return key

    # Answers

    def _land(self, position: int, key: bytes, answer: Answer, filed: bytes | None = None) -> None:
        self._settle(position, answer)
        self.job.looked.discard(key)
        if self.turns is not None:
            self.turns.give_back(key, answer, filed)

    def _settle(self, position: int, answer: Settled) -> None:
        self.answers[position] = answer
        if self.tally is not None:
            self.tally.add(position, answer)
        if self.job.told is not None:
            self.job.told((position, answer, self.queued[position]))
        followers = self.followers.pop(position, None)
        if followers:
            same = shared(answer)
            for follower in followers:
                self._settle(follower, same)

    async def _cancel_rest(self) -> None:
        """Answer everything that was never taken up, with pauses: there may be much of it to key."""
        if not self.stop.asked:
            return
        # Those too that were drawn, and not looked up to the end.
        for chunk in itertools.chain(self.drawn, self.job.chunks):
            self._first_of(chunk)
            await asyncio.sleep(0)
        for position in self.owners.values():
            if self.answers[position] is None:
                self._settle(position, cancelled())

    def stopped(self) -> None:
        """Begin to let go, here and now on the loop."""
        now = asyncio.get_running_loop().time()
        self.drain_until = now + (0.0 if self.stop.now else DRAIN_S)
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
            loop.call_later(SWEEP_S, self._sweep)

    # Progress

    def _now(self) -> Now:
        targets = self.job.watch.targets if self.job.watch is not None else ()
        elapsed_s, begun = time.perf_counter() - self.started, len(self.workers)
        flying = sum(worker in self.job.in_flight for worker in self.workers)
        held = next(filter(None, (self.job.holds(target.name) for target in targets)), "")
        return Now(elapsed_s, flying, begun, self.job.concurrency, self.over, self.stop.asked, held)
