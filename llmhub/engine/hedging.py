"""Send a second, hedged request when the first takes long, and track which tasks have a request on the wire."""

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
"""The task on whose behalf the current task sends: a stopped run looks up its own tasks among those in flight."""

GRACE_S: Final = 0.02
"""How long an owner still counts as in flight after another task's request for it ended, so that it sees the end."""

SendRequest: TypeAlias = Callable[[], Awaitable[Answer]]


class InFlightTasks(Collection[asyncio.Task[Any]]):
    """The tasks with a request on the wire, their own or one sent for them, and the deadlines of those requests."""

    def __init__(self) -> None:
        self.deadlines: dict[asyncio.Task[Any], float] = {}
        self._requests_by_owner: Counter[asyncio.Task[Any]] = Counter()

    def __contains__(self, task: object) -> bool:
        """Return whether a task, or another on its behalf, has a request on the wire."""
        return task in self.deadlines or task in self._requests_by_owner

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        """Iterate over the tasks that send themselves."""
        return iter(self.deadlines)

    def __len__(self) -> int:
        """Return the number of requests on the wire."""
        return len(self.deadlines)

    def begin(self, task: asyncio.Task[Any], deadline: float) -> None:
        """Register a request of the current task."""
        self.deadlines[task] = deadline
        context = SEND_CONTEXT.get()
        if context is not None:
            context.requests_sent += 1
        owner = OWNER_TASK.get()
        if owner is not None and owner is not task:
            self._requests_by_owner[owner] += 1

    def end(self, task: asyncio.Task[Any]) -> None:
        """Unregister the request of the current task."""
        owner = OWNER_TASK.get()
        if self.deadlines.pop(task, None) is not None and owner is not None and owner is not task:
            asyncio.get_running_loop().call_later(GRACE_S, self._release_owner, owner)

    def _release_owner(self, owner: asyncio.Task[Any]) -> None:
        self._requests_by_owner[owner] -= 1
        if not self._requests_by_owner[owner]:
            del self._requests_by_owner[owner]


async def race(first: SendRequest, second: SendRequest, delay_s: float, on_second: Callable[[], None]) -> list[Answer]:
    """Send ``first``, and ``second`` too if there is no answer after ``delay_s``; cancel the loser.

    Returns
    -------
    list[Answer]
        The answers in order of arrival: either the last one is successful, or all failed.
    """
    tasks = [_send_for_owner(first)]
    answers: list[Answer] = []
    try:
        done, _ = await asyncio.wait(tasks, timeout=delay_s)
        if not done:
            on_second()
            tasks.append(_send_for_owner(second))
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=tasks.index):
                answers.append(task.result())
                if is_successful(answers[-1].outcome):
                    return answers
        return answers
    finally:
        for task in tasks:
            task.cancel()
        # Wait for the cancelled call, which settles what it had reserved of a budget.
        await asyncio.gather(*tasks, return_exceptions=True)


def _send_for_owner(send: SendRequest) -> asyncio.Task[Answer]:
    """Send in a new task on behalf of the current one, or of its owner."""
    context = copy_context()
    context.run(OWNER_TASK.set, OWNER_TASK.get() or asyncio.current_task())

    async def answer() -> Answer:
        return await send()

    return asyncio.get_running_loop().create_task(answer(), context=context)
