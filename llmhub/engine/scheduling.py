"""Scheduling within one run: queues of planned items by target, and slots for concurrent calls.

Rows are sent to one model after another, so items of a rate-limited target lie between those of all others. They are
deferred, in order and bounded, so that other targets keep going.

A call that waits, for a rate limit or before a retry, releases its slot and continues once it has one again. So waiting
calls block no others, and no more requests are on the wire than there are slots.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from llmhub.core.errors import LLMError
from llmhub.engine.fan_out_types import CHUNK_SIZE, PlannedItem

MAX_DEFERRED: Final = 16 * CHUNK_SIZE
"""Maximum total weight of deferred items. Items of short chunks weigh more: chunks are short when items are large."""
MAX_RELEASED_PER_SLOT: Final = 4
"""Calls of one target that may wait without a slot, per slot, before no more are started: each is held in memory.

A call that waits for a rate limit weighs this much, so no more of them wait than could be sent when the limit lifts."""

QueuedItem: TypeAlias = "tuple[PlannedItem, float, int, TargetQueue]"
"""A planned item, the time it was queued (`time.perf_counter`), its weight, and the queue of its target."""


class TargetQueue:
    """The state of one target in a run: its deferred items, and the weight of its calls that wait."""

    __slots__ = ("deferred", "waiting")

    def __init__(self) -> None:
        self.deferred: deque[QueuedItem] = deque()
        self.waiting = 0


class TargetQueues:
    """Planned items in input order, except for targets that already have enough waiting calls.

    Items belong to the same target if the same function builds their calls, ignoring `functools.partial`.

    Parameters
    ----------
    max_waiting
        Weight of waiting calls of one target from which on none of its items are started.
    """

    def __init__(self, max_waiting: int) -> None:
        self.items: deque[QueuedItem] = deque()
        self._max_waiting = max_waiting
        self._by_target: dict[object, TargetQueue] = {}
        self._with_deferred: list[TargetQueue] = []
        self._deferred_weight = 0

    def __bool__(self) -> bool:
        """Return whether any item has not been started."""
        return bool(self.items or self._with_deferred)

    @property
    def size(self) -> int:
        """Items that have not been started. Any thread may ask."""
        return len(self.items) + sum([len(queue.deferred) for queue in self._with_deferred.copy()])

    @property
    def has_several_targets(self) -> bool:
        """Whether the items seen so far go to more than one target."""
        return len(self._by_target) > 1

    def put(self, items: Iterable[PlannedItem], now: float, weight: int = 1) -> None:
        """Add items, each of the given weight."""
        queue_of = self._queue_of
        self.items.extend([(item, now, weight, queue_of(item[2])) for item in items])

    def pop(self) -> QueuedItem | None:
        """Remove and return the first item that may start; ``None`` if there is none."""
        if self.items and not self._with_deferred and self.items[0][3].waiting < self._max_waiting:
            return self.items.popleft()
        queue = self._next_resumable()
        if queue is None:
            return self.items.popleft() if self._defer_blocked() else None
        queued = queue.deferred.popleft()
        self._deferred_weight -= queued[2]
        if not queue.deferred:
            self._with_deferred.remove(queue)
        return queued

    def ready_count(self) -> int:
        """Return an upper bound on the number of items that may start; 0 only if none may."""
        resumable = sum(
            [max(0, min(len(queue.deferred), self._max_waiting - queue.waiting)) for queue in self._with_deferred]
        )
        return resumable + self._defer_blocked()

    def is_low(self, threshold: int) -> bool:
        """Return whether to plan more: fewer than ``threshold`` items are left, and some target may start new ones."""
        if len(self.items) >= threshold or self._deferred_weight >= MAX_DEFERRED:
            return False
        queues = self._by_target.values()
        return not queues or any([queue.waiting < self._max_waiting for queue in queues])  # noqa: C419 - half the time

    def _queue_of(self, make_call: object) -> TargetQueue:
        if isinstance(make_call, partial):
            make_call = make_call.func
        queue = self._by_target.get(make_call)
        if queue is None:
            queue = self._by_target[make_call] = TargetQueue()
        return queue

    def _next_resumable(self) -> TargetQueue | None:
        """Return the queue whose deferred items may start again; of several, the one with the first position."""
        resumable = [queue for queue in self._with_deferred if queue.waiting < self._max_waiting]
        return min(resumable, key=lambda queue: queue.deferred[0][0][0]) if resumable else None

    def _defer_blocked(self) -> int:
        """Defer leading items that may not start. Return the number of items from the first one that may."""
        while self.items and (queue := self.items[0][3]).waiting >= self._max_waiting:
            if not self.has_several_targets:
                return 0
            queued = self.items.popleft()
            self._deferred_weight += queued[2]
            if not queue.deferred:
                self._with_deferred.append(queue)
            queue.deferred.append(queued)
        return len(self.items)


class SlotGroup:
    """Slots that runs after one another share, so that the next one begins while the last calls of one are in flight.

    Parameters
    ----------
    limit
        Maximum number of concurrent calls of all runs.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.members: list[ConcurrencySlots] = []

    def free_count(self) -> int:
        """Return the number of free slots."""
        return self.limit - sum([member.started_count() - member.released for member in self.members])


class ConcurrencySlots:
    """The slots of one run, and the calls that wait to get one back.

    Parameters
    ----------
    limit
        Maximum number of concurrent calls.
    queues
        The run's planned items.
    started_count
        Returns the number of workers, including those that released their slot.
    remaining_count
        Returns the number of calls that have not ended, whether they were started or not, as far as they are known.
    on_change
        Called when a slot is free or a target has fewer waiting calls.
    group
        Slots shared with other runs, if there are any.
    """

    def __init__(
        self,
        limit: int,
        queues: TargetQueues,
        started_count: Callable[[], int],
        remaining_count: Callable[[], int],
        on_change: Callable[[], None],
        group: SlotGroup | None = None,
    ) -> None:
        self.group = group if group is not None else SlotGroup(limit)
        self.group.members.append(self)
        self.queues = queues
        self.released = 0
        self.started_count = started_count
        self.remaining_count = remaining_count
        self.on_change = on_change
        self.reacquiring: deque[Slot] = deque()

    def free_count(self) -> int:
        """Return the number of free slots."""
        return self.group.free_count()

    def on_worker_done(self, _worker: object = None) -> None:
        """Hand over a slot that may have become free."""
        if self.free_count() > 0 and not self.hand_over():
            for member in self.group.members:
                member.on_change()

    def hand_over(self) -> bool:
        """Hand a slot to the call that has waited longest to reacquire one. Return whether there was one."""
        for member in self.group.members:
            while member.reacquiring:
                first = member.reacquiring.popleft()
                if first.wakers:
                    first.grant()
                    return True
        return False

    def close(self) -> None:
        """Leave the slots to the other runs."""
        self.group.members.remove(self)
        for member in self.group.members:
            member.on_change()


class Slot:
    """The slot of one worker, used by one call after another. Concurrent sends of one call share it.

    Parameters
    ----------
    slots
        The slots of the run.
    """

    __slots__ = ("__weakref__", "queue", "released", "slots", "wakers")

    def __init__(self, slots: ConcurrencySlots) -> None:
        self.slots = slots
        self.queue = TargetQueue()
        self.released = 0
        self.wakers: set[Callable[[], None]] = set()

    def bind_to_task(self) -> None:
        """Make this the slot of calls sent from the current task."""
        _CURRENT_SLOT.set(weakref.ref(self))

    def release_while_rate_limited(self) -> None:
        """Release the slot while the call waits for a rate limit, unless all items go to that target anyway."""
        if self.slots.queues.has_several_targets:
            self.release_while_waiting(MAX_RELEASED_PER_SLOT)

    def release_while_waiting(self, weight: int = 1) -> None:
        """Release the slot while the call waits; the call adds ``weight`` to its target's waiting calls."""
        if not self.released:
            self.released = weight
            self.queue.waiting += weight
            self.slots.released += 1
            self.slots.on_worker_done()

    def try_reacquire(self, wake: Callable[[], None]) -> bool:
        """Return whether the call has a slot, taking a free one; otherwise call ``wake`` once it has one."""
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
        """Wait until the call has a slot."""
        granted = asyncio.Event()
        while not self.try_reacquire(granted.set):
            await granted.wait()

    def grant(self) -> None:
        """Return the slot to the call and wake it."""
        wakers, self.wakers = self.wakers, set()
        self._end_release()
        for wake in wakers:
            wake()

    def close(self) -> None:
        """Release the slot at the end of its worker."""
        self.wakers.clear()
        self._end_release()

    def _end_release(self) -> None:
        if self.released:
            self.queue.waiting -= self.released
            self.released = 0
            self.slots.released -= 1
            self.slots.on_change()


BULK_LANE: Final[ContextVar[bool]] = ContextVar("llmhub_bulk_lane", default=False)
"""Whether calls of this task wait for rate limits after all calls that are not bulk."""
_CURRENT_SLOT: Final[ContextVar[weakref.ref[Slot] | None]] = ContextVar("llmhub_slot", default=None)
"""The slot of the current worker. A weak reference: connections keep the context they were opened in, and must not keep
the run alive with it."""


class RetriedCall(NamedTuple):
    """A call that is sent again.

    Parameters
    ----------
    failed_at, deadline
        When it first failed, and when it must have been sent.
    error
        Why it failed last.
    """

    failed_at: float
    deadline: float
    error: LLMError


RETRIED_CALL: Final[ContextVar[RetriedCall | None]] = ContextVar("llmhub_retried_call", default=None)
"""The retry that is being sent; ``None`` for a first attempt."""


def current_slot() -> Slot | None:
    """Return the slot of the current call; ``None`` outside a run."""
    slot = _CURRENT_SLOT.get()
    return slot() if slot is not None else None


async def sleep_without_slot(seconds: float) -> None:
    """Sleep before a retry; within a run, without holding a slot."""
    slot = current_slot()
    if slot is None:
        await asyncio.sleep(seconds)
        return
    slot.release_while_waiting()
    await asyncio.sleep(seconds)
    await slot.reacquire()
