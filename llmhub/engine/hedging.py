"""Two calls for one answer: the second begins when the first takes long, and the slower one is cut off."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import ContextVar, copy_context
from typing import Any, Final, TypeAlias

from returns.pipeline import is_successful

from llmhub.engine.call import Answer
from llmhub.engine.write_ahead import SEND_CONTEXT

OWNER_TASK: Final[ContextVar[asyncio.Task[Any] | None]] = ContextVar("llmhub_owner", default=None)
"""The task on whose behalf another one sends: a run looks for that one when it asks who is on the wire."""

GRACE_S: Final = 0.02
"""How long a task still counts as on the wire after another was for it: it has yet to hear what came."""

SendRequest: TypeAlias = Callable[[], Awaitable[Answer]]


class InFlightTasks(Collection[asyncio.Task[Any]]):
    """Which tasks are on the wire, themselves or by others that they sent, and until when they may be."""

    def __init__(self) -> None:
        self.deadlines: dict[asyncio.Task[Any], float] = {}
        self._owners: Counter[asyncio.Task[Any]] = Counter()

    def __contains__(self, task: object) -> bool:
        """Say whether a task is on the wire, or one that it waits for."""
        return task in self.deadlines or task in self._owners

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        """Go through those that send themselves."""
        return iter(self.deadlines)

    def __len__(self) -> int:
        """Count the requests on the wire."""
        return len(self.deadlines)

    def begin(self, task: asyncio.Task[Any], deadline: float) -> None:
        """Note that a task sends."""
        self.deadlines[task] = deadline
        flight = SEND_CONTEXT.get()
        if flight is not None:
            flight.requests_sent += 1
        owner = OWNER_TASK.get()
        if owner is not None and owner is not task:
            self._owners[owner] += 1

    def end(self, task: asyncio.Task[Any]) -> None:
        """Note that it has done so."""
        owner = OWNER_TASK.get()
        if self.deadlines.pop(task, None) is not None and owner is not None and owner is not task:
            asyncio.get_running_loop().call_later(GRACE_S, self._release_owner, owner)

    def _release_owner(self, owner: asyncio.Task[Any]) -> None:
        self._owners[owner] -= 1
        if not self._owners[owner]:
            del self._owners[owner]


async def race(first: SendRequest, second: SendRequest, delay_s: float, on_second: Callable[[], None]) -> list[Answer]:
    """Ask ``first``, and ``second`` too after ``delay_s``; the good answer that comes first ends it.

    Returns
    -------
    list[Answer]
        What came, in the order of coming: the last is good, or none is and all have failed.
    """
    tasks = [_own(first)]
    came: list[Answer] = []
    try:
        done, _ = await asyncio.wait(tasks, timeout=delay_s)
        if not done:
            on_second()
            tasks.append(_own(second))
        waiting = set(tasks)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=tasks.index):
                came.append(task.result())
                if is_successful(came[-1].outcome):
                    return came
        return came
    finally:
        for task in tasks:
            task.cancel()
        # Cut off for good before anybody goes on: what they had set aside is reckoned up.
        await asyncio.gather(*tasks, return_exceptions=True)


def _own(ask: SendRequest) -> asyncio.Task[Answer]:
    """Ask in a task of its own that answers for the current one."""
    context = copy_context()
    context.run(OWNER_TASK.set, OWNER_TASK.get() or asyncio.current_task())

    async def asking() -> Answer:
        return await ask()

    return asyncio.get_running_loop().create_task(asking(), context=context)
