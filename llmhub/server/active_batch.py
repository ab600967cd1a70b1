"""A batch that this process executes, and the lines of it that are sent at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from llmhub.server.batch_storage import BatchEntry, BatchLog
from llmhub.server.dialects.openai_batches import BatchObject, BatchState
from llmhub.server.run_store import RunLock

Writing: TypeAlias = asyncio.Future[None] | None
"""A line that is being written; ``None`` if it is already."""


async def written(writing: Writing) -> None:
    """Wait until a line is written, even if the task is cancelled meanwhile."""
    if writing is None:
        return
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


@dataclass(slots=True)
class ActiveBatch:
    """A batch that this process executes.

    ``ends_as`` is set when no further line may be sent, ``is_lost`` when another process executes it.
    """

    row: BatchEntry
    lock: RunLock
    batch: BatchObject
    logs: ExitStack
    done: set[str] = field(default_factory=set)
    cost_usd: Decimal | None = Decimal(0)
    output: BatchLog | None = None
    errors: BatchLog | None = None
    ends_as: BatchState | None = None
    is_lost: bool = False
    task: asyncio.Task[None] | None = None
    writes: list[asyncio.Future[None]] = field(default_factory=list)

    def keep(self, writing: Writing) -> None:
        """Remember a line that is being written, to wait for it before the batch ends."""
        if writing is not None:
            self.writes.append(writing)

    async def wait_written(self) -> None:
        """Wait until the lines that were kept are written; raise what one has raised."""
        writes, self.writes = self.writes, []
        if writes:
            await asyncio.wait(writes)
            for writing in writes:
                writing.result()

    def change(self, status: BatchState) -> None:
        """Set the state, and when it began."""
        self.batch.status = status
        setattr(self.batch, f"{status}_at", int(time.time()))

    def add_cost(self, cost: Decimal | None) -> None:
        """Add the cost of a line; an unknown one makes the sum unknown."""
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost
        self.batch.cost_usd = self.cost_usd


class TaskWindow:
    """Tasks of which a bounded number runs at once; the first that raises ends them all."""

    def __init__(self, limit: int, changed: asyncio.Event) -> None:
        self._limit = limit
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task."""
        self._tasks.add(asyncio.create_task(work))

    async def wait_for_room(self, is_stopping: Callable[[], bool]) -> None:
        """Wait until another task may be started, or none may be any more."""
        while len(self._tasks) >= self._limit and not is_stopping():
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait([*self._tasks, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._collect()

    async def join(self) -> None:
        """Wait until all tasks have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._collect()

    def _collect(self) -> None:
        """Forget the tasks that have ended; raise what one has raised."""
        ended = {task for task in self._tasks if task.done()}
        self._tasks -= ended
        for task in ended:
            task.result()

    async def cancel(self) -> None:
        """Cancel the tasks that are left."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
