"""What lies before the workers of a run, by whom it asks: who has enough waiting is passed over for the others.

Rows ask one model after another, so the questions to one that is held up lie between those to all others. They are put
aside, in their order, until it goes on; how far others get ahead is bounded. What asks the same target is made by
the same function, or parts of it (`functools.partial`).

Places for calls under way in one run: a call that waits, be it for a limit or to be sent again, lends its own.

It goes on only when it has one again. So what waits holds up nobody, and no more are on the wire than there are places.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Final, TypeAlias

from llmhub.engine.fan_out_types import CHUNK_SIZE, PlannedItem

MAX_DEFERRED: Final = 16 * CHUNK_SIZE
"""Items put aside, at most. One of a short chunk counts for more: chunks are short when what is in them is heavy."""


QueuedItem: TypeAlias = "tuple[PlannedItem, float, int, TargetQueue]"
"""An item, when it was laid here, for how many it counts, and its lane."""


class TargetQueue:
    """The questions of a run to one target: those put aside, and how much waits of what was begun."""

    __slots__ = ("deferred", "waiting")

    def __init__(self) -> None:
        self.deferred: deque[QueuedItem] = deque()
        self.waiting = 0


class TargetQueues:
    """Items in the order of coming, but for those whose lane has enough waiting.

    Parameters
    ----------
    enough
        How much of one lane may wait before no more of it is begun; see `llmhub.engine.scheduling.Place.release_while_waiting`.
    """

    def __init__(self, enough: int) -> None:
        self.items: deque[QueuedItem] = deque()
        self._enough = enough
        self._lanes: dict[object, TargetQueue] = {}
        self._aside: list[TargetQueue] = []
        self._ahead = 0

    def __bool__(self) -> bool:
        """Say whether anything is left to be begun."""
        return bool(self.items or self._aside)

    @property
    def has_several_targets(self) -> bool:
        """Whether more than one target is asked."""
        return len(self._lanes) > 1

    def put(self, items: Iterable[PlannedItem], now: float, weight: int = 1) -> None:
        """Add items, each of which counts for ``weight``."""
        lane = self._lane
        self.items.extend([(item, now, weight, lane(item[2])) for item in items])

    def pop(self) -> QueuedItem | None:
        """Take the first item that may be begun, if there is one."""
        if self.items and not self._aside and self.items[0][3].waiting < self._enough:
            return self.items.popleft()
        resumed = self._resumed()
        if resumed is None:
            return self.items.popleft() if self._passed() else None
        laid = resumed.deferred.popleft()
        self._ahead -= laid[2]
        if not resumed.deferred:
            self._aside.remove(resumed)
        return laid

    def ready_count(self) -> int:
        """Say how many workers there is work for, at most; none where no item may be begun."""
        resumed = sum([max(0, min(len(lane.deferred), self._enough - lane.waiting)) for lane in self._aside])
        return resumed + self._passed()

    def is_low(self, low: int) -> bool:
        """Say whether to add more: fewer than ``low`` are left, and somebody is there who could get ahead with them."""
        if len(self.items) >= low or self._ahead >= MAX_DEFERRED:
            return False
        lanes = self._lanes.values()
        return not lanes or any([lane.waiting < self._enough for lane in lanes])  # noqa: C419 - half the time

    def _lane(self, make: object) -> TargetQueue:
        if isinstance(make, partial):
            make = make.func
        lane = self._lanes.get(make)
        if lane is None:
            lane = self._lanes[make] = TargetQueue()
        return lane

    def _resumed(self) -> TargetQueue | None:
        """Give the lane that goes on, of those with something aside: whose first item came first."""
        free = [lane for lane in self._aside if lane.waiting < self._enough]
        return min(free, key=lambda lane: lane.deferred[0][0][0]) if free else None

    def _passed(self) -> int:
        """Put aside what may not be begun, up to what may; say how many are left with that."""
        while self.items and (lane := self.items[0][3]).waiting >= self._enough:
            if not self.has_several_targets:
                return 0
            laid = self.items.popleft()
            self._ahead += laid[2]
            if not lane.deferred:
                self._aside.append(lane)
            lane.deferred.append(laid)
        return len(self.items)


MAX_RELEASED_PER_SLOT: Final = 4
"""Places that the calls of one lane may lend, for each that there is, before no more of it are begun: what waits is
held in memory. One that waits for a limit counts for so many: no more than have places could go if it let all go."""


_CURRENT_SLOT: Final[ContextVar[weakref.ref[Slot] | None]] = ContextVar("llmhub_place", default=None)
"""The place of the worker that a call belongs to. Connections keep the context they were opened in, and must not keep
a run with it: so it is a weak reference."""


def current_slot() -> Slot | None:
    """Give the place that the present call has, where it belongs to a run."""
    held = _CURRENT_SLOT.get()
    return held() if held is not None else None


async def sleep_without_slot(seconds: float) -> None:
    """Wait before a call is sent again: without a place, where it belongs to a run."""
    mine = current_slot()
    if mine is None:
        await asyncio.sleep(seconds)
        return
    mine.release_while_waiting()
    await asyncio.sleep(seconds)
    await mine.reacquire()


class ConcurrencySlots:
    """How many may be under way, and who waits to be among them again.

    Parameters
    ----------
    many
        Calls under way at once, at most.
    lanes
        What lies before those who have a place.
    begun
        Says how many there are, those that lent their place included.
    changed
        Told when a place is free, or a lane has less waiting.
    """

    def __init__(self, many: int, lanes: TargetQueues, begun: Callable[[], int], changed: Callable[[], None]) -> None:
        self.limit = many
        self.queues = lanes
        self.released = 0
        self.started_count = begun
        self.on_change = changed
        self.reacquiring: deque[Slot] = deque()

    def free_count(self) -> int:
        """Count the places that are free."""
        return self.limit + self.released - self.started_count()

    def on_worker_done(self, _over: object = None) -> None:
        """Take in that a place may have got free."""
        if self.free_count() > 0 and not self.hand_over():
            self.on_change()

    def hand_over(self) -> bool:
        """Hand a place that gets free to whoever waits longest to be back; say whether there was anybody."""
        while self.reacquiring:
            first = self.reacquiring.popleft()
            if first.wakers:
                first.grant()
                return True
        return False


class Slot:
    """A place among the calls under way: a worker's, for one call after another.

    Parameters
    ----------
    slots
        Those of the run.

    Notes
    -----
    Where a middleware sends a call twice, both share it.
    """

    __slots__ = ("__weakref__", "queue", "released", "slots", "wakers")

    def __init__(self, slots: ConcurrencySlots) -> None:
        self.slots = slots
        self.queue = TargetQueue()
        self.released = 0
        self.wakers: set[Callable[[], None]] = set()

    def bind_to_task(self) -> None:
        """Let the current task's calls lend it."""
        _CURRENT_SLOT.set(weakref.ref(self))

    def release_while_rate_limited(self) -> None:
        """Lend it while the call waits for a limit; where all want to go the same way, nobody would be helped."""
        if self.slots.queues.has_several_targets:
            self.release_while_waiting(MAX_RELEASED_PER_SLOT)

    def release_while_waiting(self, weight: int = 1) -> None:
        """Lend it for as long as the call waits, which counts for ``weight`` in its lane."""
        if not self.released:
            self.released = weight
            self.queue.waiting += weight
            self.slots.released += 1
            self.slots.on_worker_done()

    def try_reacquire(self, wake: Callable[[], None]) -> bool:
        """Say whether the call has it, or take it back if one is free; otherwise ``wake`` is called once that is so."""
        if not self.released:
            return True
        if self.slots.free_count() > 0:
            self.wakers.discard(wake)
            self.grant()
            return True
        if not self.wakers:
            self.slots.reacquiring.append(self)
        self.wakers.add(wake)
        return False

    async def reacquire(self) -> None:
        """Wait until the call has it again."""
        news = asyncio.Event()
        while not self.try_reacquire(news.set):
            await news.wait()

    def grant(self) -> None:
        """Have it back."""
        wakes, self.wakers = self.wakers, set()
        self._end()
        for wake in wakes:
            wake()

    def close(self) -> None:
        """Lend it no more: it is gone."""
        self.wakers.clear()
        self._end()

    def _end(self) -> None:
        if self.released:
            self.queue.waiting -= self.released
            self.released = 0
            self.slots.released -= 1
            self.slots.on_change()
