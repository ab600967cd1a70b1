"""Places for calls under way in one run: a call that waits to be sent again lends its place to another."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

LENT: Final = 4
"""Places that may be lent, for each that there is: what waits is held in memory."""

_SLOTS: Final[ContextVar[weakref.ref[Slots] | None]] = ContextVar("llmhub_slots", default=None)
"""The places of the run that a call belongs to. Connections keep the context they were opened in, and must not keep
a run with it: so it is a weak reference."""


async def pause(seconds: float) -> None:
    """Wait before a call is sent again: without a place, where it belongs to a run."""
    held = _SLOTS.get()
    slots = held() if held is not None else None
    await (slots.pause(seconds) if slots is not None else asyncio.sleep(seconds))


class Slots:
    """How many may be under way, and who waits to be among them again.

    Parameters
    ----------
    many
        Calls under way at once, at most.
    begun
        Says how many there are, those that lent their place included.
    lend
        Told when a place is free.
    """

    def __init__(self, many: int, begun: Callable[[], int], lend: Callable[[], None]) -> None:
        self.many = many
        self.lent = 0
        self._begun = begun
        self._lend = lend
        self._back: deque[asyncio.Future[None]] = deque()

    def enter(self) -> None:
        """Let the current task's calls lend their places."""
        _SLOTS.set(weakref.ref(self))

    def vacant(self) -> int:
        """Count the places that are free."""
        return self.many + self.lent - self._begun()

    async def pause(self, seconds: float) -> None:
        """Wait without a place, and then for one."""
        if self.lent >= LENT * self.many:
            await asyncio.sleep(seconds)
            return
        self.lent += 1
        told: asyncio.Future[None] | None = None
        try:
            if self.vacant() > 0:
                self._lend()
            await asyncio.sleep(seconds)
            if self.vacant() <= 0:
                told = asyncio.get_running_loop().create_future()
                self._back.append(told)
                await told
        finally:
            # Who was handed a place has it already.
            if told is None or not told.done() or told.cancelled():
                self.lent -= 1

    def free(self, _over: object = None) -> None:
        """Take in that there is one less under way."""
        if self.vacant() > 0:
            self.hand()

    def hand(self) -> bool:
        """Hand a place that gets free to whoever waits longest to be back; say whether there was anybody."""
        while self._back:
            told = self._back.popleft()
            if not told.done():
                told.set_result(None)
                self.lent -= 1
                return True
        return False
