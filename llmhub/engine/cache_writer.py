"""Reads and writes of one run's cache, tolerating a store that fails.

A store that fails is left alone for a while, twice as long each time; the run continues without it, and fresh responses
wait in memory until they can be written. A strict run is stopped at the first failure instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, TypeVar

from returns.pipeline import is_successful
from returns.result import Success

from llmhub.cache.store import Entry, Store, StoreError, as_store_error
from llmhub.core.serialization import is_corrupt
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.row_outcome import RowOutcome, from_stored, pack_outcome, unpack_outcome
from llmhub.engine.store_access import StoreAccess
from llmhub.engine.write_ahead import WriteAheadLog

T = TypeVar("T")

FLUSH_DELAY_S: Final = 0.005
"""Maximum time a response waits for others before it is written."""
HELD_FLUSH_DELAY_S: Final = 0.002
"""The same where workers wait until their responses are written."""
INITIAL_BACKOFF_S: Final = 0.5
"""Pause after the first failure of a store; doubled after each further one."""
MAX_BACKOFF_S: Final = 30.0
FINAL_BACKOFF_S: Final = 2.0
"""Pause before the last attempt at the end of a run, if the store worked before."""
SLOW_FAILURE_S: Final = 5.0
"""A store that took longer than this to fail is not tried again at the end of a run."""
MAX_WRITE_BYTES: Final = 8 << 20
"""Size of the responses that are written in one transaction during a run: requests about to be recorded wait for it."""
MAX_BACKLOG_BYTES: Final = 256 << 20
"""Maximum size of the responses waiting to be written; beyond it the oldest are dropped."""


@dataclass(slots=True)
class FinalWait:
    """The time that runs may wait at their end, all together, for a store that fails."""

    left_s: float


FINAL_WAIT: Final[ContextVar[FinalWait | None]] = ContextVar("llmhub_final_wait", default=None)
"""How long the run may wait beyond `FINAL_BACKOFF_S`; runs of a distributed job wait, others do not."""


class CacheWriter:
    """The cache of one call or run. Use it on one event loop only; the store itself works in threads.

    Parameters
    ----------
    access
        Access to the store. Its log learns which keys have been written.
    abort
        Called at the first failure of the store if the access is strict.
    """

    def __init__(self, access: StoreAccess, abort: Callable[[], None]) -> None:
        self.store = access.store
        self.aborted_run = False
        self.damaged_keys: set[bytes] = set()
        self._abort = abort if access.strict else None
        self._write_ahead = access.write_ahead
        self._failures = self._dropped = self._backlog_bytes = 0
        self._last_error: StoreError | None = None
        self._outlives_process = _outlives_process(access)
        self._queued = self._being_written = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._has_worked = self._failed_slowly = self._is_failing = False
        self._backoff_s, self._backoff_until = INITIAL_BACKOFF_S, 0.0
        self._backlog: deque[Entry] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    @property
    def error(self) -> str:
        """The failures of the store as a message to users; empty if there were none."""
        if self._last_error is None:
            return ""
        times = "" if self._failures == 1 else f" {self._failures} times, most recently"
        lost = f"{self._dropped:,} responses could not be cached, and requesting them again will be billed"
        result = lost if self._dropped else "all responses were cached in the end"
        return f"the cache failed{times}: {self._last_error}; {result}"

    def start_lookup(self, look_up: Callable[[Store], T]) -> Awaitable[T | None]:
        """Start a look-up in a thread. The result is ``None`` if there is no store or it fails."""
        loop = asyncio.get_running_loop()
        if self.store is None or loop.time() < self._backoff_until:
            nothing: asyncio.Future[T | None] = loop.create_future()
            nothing.set_result(None)
            return nothing
        # A task, since the caller may be cancelled before it awaits the result.
        return loop.create_task(self._look_up(loop.run_in_executor(None, partial(look_up, self.store))))

    async def _look_up(self, started: Awaitable[T]) -> T | None:
        try:
            result = await started
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self._on_failure(as_store_error(error))
            return None
        self._backoff_s = INITIAL_BACKOFF_S
        self._has_worked = True
        return result

    def first_stored(
        self, values: Mapping[bytes, bytes], candidates: Iterable[tuple[Target | None, bytes]]
    ) -> RowOutcome | None:
        """Return the response of the first candidate with a valid value; a corrupt value counts as a miss.

        The target of a candidate is ``None`` for the one that was requested.
        """
        for target, key in candidates:
            value = values.get(key)
            if value is None:
                continue
            stored = unpack_outcome(value, key)
            if is_successful(stored):
                outcome = stored.unwrap()
                if target is None or isinstance(outcome, Answer):
                    return outcome
                return from_stored(outcome, target, key)
            if is_corrupt(stored.failure()):
                self.damaged_keys.add(key)
        return None

    def enqueue(self, key: bytes, call: Call, answer: Answer) -> bytes | None:
        """Queue a fresh response to be written within `FLUSH_DELAY_S`.

        Return the key it is written under; ``None`` for an answer that is not written.
        """
        if self.store is None or answer.cache_hit or not isinstance(answer.outcome, Success):
            return None
        # The response of another candidate is written under the key of the request to that candidate.
        key, target = answer.key or key, answer.target or call.target
        try:
            value = pack_outcome(answer, key)
        except Exception as error:  # noqa: BLE001 - whatever cannot be encoded must still reach the caller
            self._failures += 1
            self._dropped += 1
            self._last_error = StoreError(f"a response cannot be encoded: {as_store_error(error)}")
            return None
        self.enqueue_entry(Entry(key, value, target.cache_name, answer.started_at))
        return key

    def enqueue_entry(self, entry: Entry) -> None:
        """Queue an entry to be written within `FLUSH_DELAY_S`."""
        self._append(entry)
        self._queued += 1
        if self._timer is None and self._writing is None:
            self._schedule(self._gather_s())

    def enqueue_entries(self, entries: Sequence[Entry]) -> None:
        """Queue entries, as of the texts of one request, to be written within `FLUSH_DELAY_S`."""
        self._backlog.extend(entries)
        self._backlog_bytes += sum([len(entry.value) for entry in entries])
        self._drop_oldest()
        self._queued += len(entries)
        if self._timer is None and self._writing is None:
            self._schedule(self._gather_s())

    def on_store_failure(self, error: StoreError) -> None:
        """Stop a strict run because the ledger or the leases failed."""
        if self._abort is not None and not self.aborted_run:
            self._failures += 1
            self._last_error = self._last_error or error
            self.aborted_run = True
            self._abort()

    def _append(self, entry: Entry) -> None:
        self._backlog.append(entry)
        self._backlog_bytes += len(entry.value)
        if self._backlog_bytes > MAX_BACKLOG_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self._backlog_bytes > MAX_BACKLOG_BYTES and len(self._backlog) > 1:
            self._backlog_bytes -= len(self._backlog.popleft().value)
            self._dropped += 1

    def _gather_s(self) -> float:
        return HELD_FLUSH_DELAY_S if self.holds_slots else FLUSH_DELAY_S

    def _schedule(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._backlog and self._writing is None and not self._write_on_loop():
            self._start_writing()

    def _start_writing(self) -> asyncio.Task[None]:
        self._writing = asyncio.get_running_loop().create_task(self._write_and_reschedule())
        return self._writing

    def try_flush(self) -> bool:
        """Write what is queued if that does not block. Return whether nothing is left that can be written now."""
        if self._writing is not None:
            return False
        if asyncio.get_running_loop().time() < self._backoff_until or not self._backlog:
            return True
        return self._write_on_loop()

    @property
    def holds_slots(self) -> bool:
        """Whether a response counts as in flight until it is written (see `wait_until_written`).

        A crash then loses no more than is in flight. A ledger holds that without: what is queued is written before the
        next request is recorded. While the store fails, requests are sent nevertheless.
        """
        return self._outlives_process and not self._is_failing and not _has_working_ledger(self._write_ahead)

    async def wait_until_written(self, workers: int) -> None:
        """Wait until what is queued is written, or the store fails.

        Parameters
        ----------
        workers
            Number of workers that queue responses here. Once half of them wait, their responses are written at once, so
            that some are answered while others are written.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiters.append((self._queued, written))
        if 2 * len(self._waiters) >= workers and self._writing is None and not self._write_on_loop():
            self._cancel_timer()
            self._start_writing()
        self._wake_waiters()
        await written

    def _wake_waiters(self) -> None:
        """Wake those whose responses are written, in order; all of them while the store fails."""
        written = self._queued - len(self._backlog) - self._being_written
        while self._waiters and (self._is_failing or self._waiters[0][0] <= written):
            future = self._waiters.popleft()[1]
            if not future.done():  # its worker was cancelled
                future.set_result(None)

    async def flush_pending(self) -> None:
        """Write what is queued in a thread, unless the store fails."""
        while not self.try_flush():
            await asyncio.shield(self._writing or self._start_writing())

    async def _write_and_reschedule(self) -> None:
        await self._write_in_thread(MAX_WRITE_BYTES)
        self._writing = None
        if self._backlog and self._timer is None:
            self._schedule(max(self._gather_s(), self._backoff_until - asyncio.get_running_loop().time()))

    async def finish(self) -> None:
        """Write what is left at the end of the run; try a store that worked before once more."""
        if self._writing is not None:
            await self._writing
        self._cancel_timer()
        is_written = bool(self._backlog) and not self._failures and self._write_on_loop() and not self._backlog
        self._cancel_timer()  # set by a failure on the loop
        if not is_written and not self._failed_slowly:
            await self._write_in_thread()
        if self._backlog and self._has_worked and not (self._failed_slowly or self.aborted_run):
            await asyncio.sleep(FINAL_BACKOFF_S)
            await self._write_in_thread()
        patience, loop = FINAL_WAIT.get(), asyncio.get_running_loop()
        while self._backlog and patience is not None and patience.left_s > 0 and not self.aborted_run:
            began = loop.time()
            await asyncio.sleep(FINAL_BACKOFF_S)
            await self._write_in_thread()
            patience.left_s -= loop.time() - began
        self._dropped += len(self._backlog)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write_on_loop(self) -> bool:
        """Try to write without blocking: a thread would cost more than the write, since both hold the GIL."""
        if self.store is None:
            return False
        entries = tuple(self._backlog)
        try:
            written = self.store.try_put(entries)
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self._on_failure(as_store_error(error))
            if self._timer is None:
                self._schedule(self._backoff_until - asyncio.get_running_loop().time())
            return True
        if written:
            self._backlog.clear()
            self._backlog_bytes = 0
            self._on_success(entries)
        return written

    async def _write_in_thread(self, max_bytes: float = inf) -> None:
        if self.store is None or not self._backlog:
            return
        entries = self._take(max_bytes)
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._being_written = len(entries)
        try:
            await run_in_thread(self.store.put_many, entries)
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self._being_written = 0
            self._requeue(entries)
            self._on_failure(as_store_error(error))
            self._failed_slowly = loop.time() - started > SLOW_FAILURE_S
        else:
            self._being_written = 0
            self._on_success(entries)

    def _take(self, max_bytes: float) -> list[Entry]:
        """Remove and return the oldest entries, of a total size of ``max_bytes`` at most, but one at least."""
        entries: list[Entry] = []
        while self._backlog and (not entries or len(self._backlog[0].value) <= max_bytes):
            entry = self._backlog.popleft()
            max_bytes -= len(entry.value)
            self._backlog_bytes -= len(entry.value)
            entries.append(entry)
        return entries

    def _on_success(self, entries: Sequence[Entry]) -> None:
        self._backoff_s = INITIAL_BACKOFF_S
        self._has_worked, self._failed_slowly, self._is_failing = True, False, False
        self._wake_waiters()
        if self._write_ahead is not None:
            self._write_ahead.on_written([entry.key for entry in entries])

    def _requeue(self, entries: Iterable[Entry]) -> None:
        """Put entries that could not be written before those queued since."""
        newer = tuple(self._backlog)
        self._backlog.clear()
        self._backlog_bytes = 0
        for entry in (*entries, *newer):
            self._append(entry)

    def _on_failure(self, error: StoreError) -> None:
        self._failures += 1
        self._last_error, self._is_failing = error, True
        self._wake_waiters()
        self._backoff_until = asyncio.get_running_loop().time() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        if self._abort is not None and not self.aborted_run:
            self.aborted_run = True
            self._abort()


def _outlives_process(access: StoreAccess) -> bool:
    """Return whether responses are written to a store that other processes may open later."""
    store = access.write_ahead.store if access.write_ahead is not None else access.store
    if access.store is None or store is None:
        return False
    return store.claims is not None or access.store.nonblocking_put is None


def _has_working_ledger(log: WriteAheadLog | None) -> bool:
    return log is not None and log.store.ledger is not None and not log.failure
