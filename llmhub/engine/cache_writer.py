"""What a run looks up and files, and how it bears a store that fails.

A store that fails is left alone for a moment, longer each time, and tried again: rows go on without it meanwhile, and
what they answered waits until it can be filed. Where the run must not go on without it, it is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

from llmhub.cache.store import Entry, Store, StoreError

T = TypeVar("T")


FLUSH_DELAY_S: Final = 0.005
"""How long an answer waits for others before it is written: a crash loses no more than this."""


INITIAL_BACKOFF_S: Final = 0.5
"""How long a store that failed is left alone; twice as long each time."""


MAX_BACKOFF_S: Final = 30.0


FINAL_BACKOFF_S: Final = 2.0
"""At the end of a run, how long a store that did work before is waited for."""


SLOW_FAILURE_S: Final = 5.0
"""A store that took longer than this to fail is not waited for."""


MAX_BACKLOG_BYTES: Final = 256 << 20
"""Most that waits for a store to work again; beyond it the oldest are given up."""


class CacheWriter:
    """The store of one run. Everything happens on one event loop, except for the store's own work.

    Parameters
    ----------
    store
        Where answers are looked up and filed, if anywhere.
    give_up
        Called at the first failure where a run must not go on without its store.
    written
        Told the keys of what is filed.
    """

    def __init__(
        self,
        store: Store | None,
        give_up: Callable[[], None] | None = None,
        written: Callable[[Iterable[bytes]], None] | None = None,
    ) -> None:
        self.store = store
        self.aborted_run = False
        self.damaged_keys: set[bytes] = set()
        self._give_up = give_up
        self._written = written
        self._failures = self._lost = self._waiting_bytes = 0
        self._last: StoreError | None = None
        self._worked = self._slow = False
        self._pause_s, self._until = INITIAL_BACKOFF_S, 0.0
        self._outbox: deque[Entry] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._flusher: asyncio.Task[None] | None = None

    @property
    def error(self) -> str:
        """What went wrong, if anything did."""
        if self._last is None:
            return ""
        times = "" if self._failures == 1 else f" {self._failures} times, the last time"
        kept = f"{self._lost:,} answers could not be filed, and would be paid for again" if self._lost else ""
        return f"the cache failed{times}: {self._last}; {kept or 'every answer was filed in the end'}"

    def start_lookup(self, work: Callable[[Store], T]) -> Awaitable[T | None]:
        """Begin to look something up beside the loop; gives nothing where there is no store that works."""
        loop = asyncio.get_running_loop()
        if self.store is None or loop.time() < self._until:
            nothing: asyncio.Future[T | None] = loop.create_future()
            nothing.set_result(None)
            return nothing
        # A task, since whoever began it may be stopped before it is awaited.
        return loop.create_task(self._looked_up(loop.run_in_executor(None, partial(work, self.store))))

    async def _looked_up(self, begun: Awaitable[T]) -> T | None:
        try:
            found = await begun
        except StoreError as error:
            self._failed(error)
            return None
        self._pause_s = INITIAL_BACKOFF_S
        self._worked = True
        return found

    def enqueue(self, entry: Entry) -> None:
        """Put a fresh answer before the flusher."""
        if self.store is None:
            return
        self._wait(entry)
        if self._timer is None and self._flusher is None:
            self._arm(FLUSH_DELAY_S)

    def on_store_failure(self, error: StoreError) -> None:
        """Have a run that must not go on without its store stop for what failed beside the filing."""
        if self._give_up is not None and not self.aborted_run:
            self._failures += 1
            self._last = self._last or error
            self.aborted_run = True
            self._give_up()

    def _wait(self, entry: Entry) -> None:
        self._outbox.append(entry)
        self._waiting_bytes += len(entry.value)
        while self._waiting_bytes > MAX_BACKLOG_BYTES and len(self._outbox) > 1:
            self._waiting_bytes -= len(self._outbox.popleft().value)
            self._lost += 1

    def _arm(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._outbox and self._flusher is None and not self._wrote_at_once():
            self._flusher = asyncio.get_running_loop().create_task(self._flushing())

    def try_flush(self) -> bool:
        """Write what waits, where that takes no waiting; say whether all is written that can be for now."""
        if self._flusher is not None:
            return False
        resting = asyncio.get_running_loop().time() < self._until
        return resting or not self._outbox or self._wrote_at_once()

    async def flush_pending(self) -> None:
        """Write what waits beside the loop, unless the store fails."""
        while not self.try_flush():
            if self._flusher is None:
                self._flusher = asyncio.get_running_loop().create_task(self._flushing())
            await asyncio.shield(self._flusher)

    async def _flushing(self) -> None:
        await self._write()
        self._flusher = None
        if self._outbox and self._timer is None:
            self._arm(max(FLUSH_DELAY_S, self._until - asyncio.get_running_loop().time()))

    async def finish(self) -> None:
        """Write what is left, after the flusher is done with what it has."""
        if self._flusher is not None:
            await self._flusher
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._slow:
            await self._write()
        if self._outbox and self._worked and not (self._slow or self.aborted_run):
            await asyncio.sleep(FINAL_BACKOFF_S)
            await self._write()
        self._lost += len(self._outbox)

    def _wrote_at_once(self) -> bool:
        """Try to write without waiting: a thread would cost more than the writing does, since both share Python."""
        if self.store is None:
            return False
        entries = tuple(self._outbox)
        try:
            done = self.store.try_put(entries)
        except StoreError as error:
            self._failed(error)
            if self._timer is None:
                self._arm(self._until - asyncio.get_running_loop().time())
            return True
        if done:
            self._outbox.clear()
            self._waiting_bytes = 0
            self._filed(entries)
        return done

    async def _write(self) -> None:
        if self.store is None or not self._outbox:
            return
        entries = tuple(self._outbox)
        self._outbox.clear()
        self._waiting_bytes = 0
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            await loop.run_in_executor(None, partial(self.store.put_many, entries))
        except StoreError as error:
            self._failed(error)
            self._again(entries)
            self._slow = loop.time() - since > SLOW_FAILURE_S
        else:
            self._filed(entries)

    def _filed(self, entries: Sequence[Entry]) -> None:
        self._pause_s = INITIAL_BACKOFF_S
        self._worked, self._slow = True, False
        if self._written is not None:
            self._written([entry.key for entry in entries])

    def _again(self, entries: Iterable[Entry]) -> None:
        """Put what could not be written before what came since."""
        since = tuple(self._outbox)
        self._outbox.clear()
        self._waiting_bytes = 0
        for entry in (*entries, *since):
            self._wait(entry)

    def _failed(self, error: StoreError) -> None:
        self._failures += 1
        self._last = error
        self._until = asyncio.get_running_loop().time() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_BACKOFF_S)
        if self._give_up is not None and not self.aborted_run:
            self.aborted_run = True
            self._give_up()
