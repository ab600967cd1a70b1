"""Time limits of requests in progress, with one timer for all of them instead of one each."""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType
from typing import Any


class Deadline:
    """Cancel the block of a ``with`` statement at a time of the loop's clock, and raise ``TimeoutError`` for it.

    As with `asyncio.timeout`, other cancellations of the task pass through.
    """

    __slots__ = ("_deadlines", "_earlier", "_task", "at", "is_over")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self.at = at
        self.is_over = False
        self._deadlines = deadlines

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._task: asyncio.Task[Any] = task
        self._earlier = task.cancelling()
        self._deadlines.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._deadlines.discard(self)
        if self.is_over and self._task.uncancel() <= self._earlier and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the block."""
        self.is_over = True
        self._task.cancel()


class Deadlines:
    """The deadlines of one event loop. The timer is set for the earliest; later ones wait for it."""

    def __init__(self) -> None:
        self._running: dict[Deadline, None] = {}
        self._due = inf
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, at: float) -> Deadline:
        """Return the limit of a ``with`` block: a time of the loop's clock."""
        return Deadline(self, at)

    def add(self, deadline: Deadline) -> None:
        """Begin to watch a deadline."""
        self._running[deadline] = None
        if deadline.at < self._due:
            self._schedule(deadline.at)

    def discard(self, deadline: Deadline) -> None:
        """End to watch it."""
        self._running.pop(deadline, None)

    def _schedule(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due, self._timer = at, None
        if at < inf:
            self._timer = asyncio.get_running_loop().call_at(at, self._check)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        for deadline in [each for each in self._running if each.at <= now]:
            self.discard(deadline)
            deadline.expire()
        self._schedule(min((each.at for each in self._running), default=inf))
