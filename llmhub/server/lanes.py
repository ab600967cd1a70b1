"""Queue the calls that wait for a slot: interactive before bulk, and within a lane by the weights of the keys.

Calls of one key are answered in their order. Between keys, each call advances its key's virtual time by the inverse of
the key's weight, and the key that is furthest behind is next (start-time fair queueing, Goyal et al. 1996).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from llmhub.core.errors import Overloaded
from llmhub.server.context import LANES, Lane, RequestContext

RETRY_AFTER_S: Final = 1.0
"""When a client whose call was refused may try again."""


@dataclass(slots=True)
class _Queue:
    """The waiting calls of one lane, by key."""

    by_key: dict[str, deque[asyncio.Future[None]]] = field(default_factory=dict)
    virtual_time: float = 0.0
    finished_at: dict[str, float] = field(default_factory=dict)

    def put(self, key: str, weight: float, waiter: asyncio.Future[None]) -> None:
        waiting = self.by_key.get(key)
        if waiting is None:
            waiting = self.by_key[key] = deque()
            start = max(self.virtual_time, self.finished_at.get(key, 0.0))
            self.finished_at[key] = start + 1.0 / weight
        waiting.append(waiter)

    def take(self, weights: dict[str, float]) -> asyncio.Future[None] | None:
        """Return the next waiter that still waits."""
        while self.by_key:
            key = min(self.by_key, key=self.finished_at.__getitem__)
            waiting = self.by_key[key]
            waiter = waiting.popleft()
            if not waiter.done():
                self.virtual_time = self.finished_at[key]
                self.finished_at[key] += 1.0 / weights.get(key, 1.0)
            if not waiting:
                del self.by_key[key]
                if not self.by_key:
                    self.finished_at.clear()
                    self.virtual_time = 0.0
            if not waiter.done():
                return waiter
        return None


class Lanes:
    """Slots for calls, and the calls that wait for one. Use it on one event loop only.

    Bulk calls use the slots that interactive calls leave. An interactive call waits for no bulk call: those that are on
    their way already, perhaps waiting for a rate limit, do not count against its slots.

    Parameters
    ----------
    slots
        Calls at once: of the interactive lane, and of both together before another bulk call begins.
    max_queue
        Calls that may wait; further ones are refused.
    """

    def __init__(self, slots: int, max_queue: int) -> None:
        self._slots = slots
        self._max_queue = max_queue
        self._queues: dict[Lane, _Queue] = {lane: _Queue() for lane in LANES}
        self._weights: dict[str, float] = {}
        self._waiters = 0
        self.waiting = 0
        self.in_use: dict[Lane, int] = dict.fromkeys(LANES, 0)

    async def acquire(self, context: RequestContext, *, bounded: bool = True) -> Overloaded | None:
        """Wait for a slot; return ``None``, or the error of a full queue.

        A call that is not ``bounded`` is neither refused nor counted: rows of a table, of which few wait at a time.
        """
        lane = context.lane
        if self._has_slot(lane) and not self._queues[lane].by_key:
            self.in_use[lane] += 1
            return None
        if bounded and self.waiting >= self._max_queue:
            return Overloaded(message=f"{self.waiting} calls are waiting already", retry_after_s=RETRY_AFTER_S)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._weights[context.key_id] = context.caller.weight
        self._queues[lane].put(context.key_id, context.caller.weight, waiter)
        self.waiting += bounded
        self._waiters += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(context)
            raise
        finally:
            self.waiting -= bounded
            self._waiters -= 1
        return None

    def release(self, context: RequestContext) -> None:
        """Return a slot, and pass it on to the calls that it admits."""
        self.in_use[context.lane] -= 1
        for lane in LANES:
            while self._has_slot(lane) and (waiter := self._queues[lane].take(self._weights)) is not None:
                self.in_use[lane] += 1
                waiter.set_result(None)
        if not self._waiters:
            self._weights.clear()

    def _has_slot(self, lane: Lane) -> bool:
        used = self.in_use["interactive"] if lane == "interactive" else sum(self.in_use.values())
        return used < self._slots
