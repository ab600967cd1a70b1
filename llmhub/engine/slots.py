"""Places for calls under way in one run: a call that waits, be it for a limit or to be sent again, lends its own.

It goes on only when it has one again. So what waits holds up nobody, and no more are on the wire than there are places.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from llmhub.engine.lanes import Lane, Lanes

LENT: Final = 4
"""Places that the calls of one lane may lend, for each that there is, before no more of it are begun: what waits is
held in memory. One that waits for a limit counts for so many: no more than have places could go if it let all go."""

_PLACE: Final[ContextVar[weakref.ref[Place] | None]] = ContextVar("llmhub_place", default=None)
"""The place of the worker that a call belongs to. Connections keep the context they were opened in, and must not keep
a run with it: so it is a weak reference."""


def place() -> Place | None:
    """Give the place that the present call has, where it belongs to a run."""
    held = _PLACE.get()
    return held() if held is not None else None


async def pause(seconds: float) -> None:
    """Wait before a call is sent again: without a place, where it belongs to a run."""
    mine = place()
    if mine is None:
        await asyncio.sleep(seconds)
        return
    mine.lend()
    await asyncio.sleep(seconds)
    await mine.back()


class Slots:
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

    def __init__(self, many: int, lanes: Lanes, begun: Callable[[], int], changed: Callable[[], None]) -> None:
        self.many = many
        self.lanes = lanes
        self.lent = 0
        self.begun = begun
        self.changed = changed
        self.back: deque[Place] = deque()

    def vacant(self) -> int:
        """Count the places that are free."""
        return self.many + self.lent - self.begun()

    def free(self, _over: object = None) -> None:
        """Take in that a place may have got free."""
        if self.vacant() > 0 and not self.hand():
            self.changed()

    def hand(self) -> bool:
        """Hand a place that gets free to whoever waits longest to be back; say whether there was anybody."""
        while self.back:
            first = self.back.popleft()
            if first.wakes:
                first.take()
                return True
        return False


class Place:
    """A place among the calls under way: a worker's, for one call after another.

    Parameters
    ----------
    slots
        Those of the run.

    Notes
    -----
    Where a middleware sends a call twice, both share it.
    """

    __slots__ = ("__weakref__", "lane", "lent", "slots", "wakes")

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.lane = Lane()
        self.lent = 0
        self.wakes: set[Callable[[], None]] = set()

    def enter(self) -> None:
        """Let the current task's calls lend it."""
        _PLACE.set(weakref.ref(self))

    def lend_until_let_go(self) -> None:
        """Lend it while the call waits for a limit; where all want to go the same way, nobody would be helped."""
        if self.slots.lanes.several:
            self.lend(LENT)

    def lend(self, weight: int = 1) -> None:
        """Lend it for as long as the call waits, which counts for ``weight`` in its lane."""
        if not self.lent:
            self.lent = weight
            self.lane.waiting += weight
            self.slots.lent += 1
            self.slots.free()

    def there(self, wake: Callable[[], None]) -> bool:
        """Say whether the call has it, or take it back if one is free; otherwise ``wake`` is called once that is so."""
        if not self.lent:
            return True
        if self.slots.vacant() > 0:
            self.wakes.discard(wake)
            self.take()
            return True
        if not self.wakes:
            self.slots.back.append(self)
        self.wakes.add(wake)
        return False

    async def back(self) -> None:
        """Wait until the call has it again."""
        news = asyncio.Event()
        while not self.there(news.set):
            await news.wait()

    def take(self) -> None:
        """Have it back."""
        wakes, self.wakes = self.wakes, set()
        self._end()
        for wake in wakes:
            wake()

    def leave(self) -> None:
        """Lend it no more: it is gone."""
        self.wakes.clear()
        self._end()

    def _end(self) -> None:
        if self.lent:
            self.lane.waiting -= self.lent
            self.lent = 0
            self.slots.lent -= 1
            self.slots.changed()
