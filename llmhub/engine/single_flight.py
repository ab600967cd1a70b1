"""Single flight: equal requests of several runs or processes are sent once, and the others wait for the outcome.

An item is any tuple that starts with a position and a key (32 bytes); what follows is the caller's.

Waiting items hold no worker, so two runs that each hold a key the other one wants cannot deadlock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, Generic, NamedTuple, TypeVar

from llmhub.cache.store import ClaimRequest, Watch
from llmhub.engine.call import Answer, Target
from llmhub.engine.row_outcome import RowOutcome, ambiguous_outcome, for_duplicate, is_shareable
from llmhub.engine.write_ahead import WriteAheadLog

POLL_INTERVAL_S: Final = 0.05
"""Minimum time between two attempts to claim keys that another process holds."""
MAX_POLL_SHARE: Final = 0.05
"""Maximum share of the run's time spent on such attempts."""
RECHECK_S: Final = 5.0
"""Time after which keys that the store watches are tried all the same."""
POLL_BATCH: Final = 512
"""Keys tried in one attempt, longest waiting first."""
ITEMS_PER_YIELD: Final = 64
"""Items processed before other tasks may run, where computing the keys of one item is slow."""

ItemT = TypeVar("ItemT", bound="tuple[int, bytes, *tuple[Any, ...]]")


class RowCallbacks(NamedTuple, Generic[ItemT]):
    """How a run settles its items.

    Parameters
    ----------
    settle
        Sets the outcome of a position.
    look_up
        Settles the items that the store answers and returns the others.
    outcome_of
        Returns the outcome of a position, if it is settled.
    """

    settle: Callable[[int, RowOutcome], None]
    look_up: Callable[[list[ItemT]], Awaitable[Sequence[ItemT]]]
    outcome_of: Callable[[int], RowOutcome | None]


class SingleFlight(Generic[ItemT]):
    """The claims of one run on request keys, and the items waiting for claims of others. Use it on one event loop only.

    Parameters
    ----------
    log
        The log of the open store, shared by all runs on it.
    run_id
        The run's id (16 bytes).
    rows
        How to settle items.
    not_before
        Outcomes of requests sent before this time (epoch seconds) are not used.
    alternatives
        Returns the other candidate targets of an item and the key of its request to each; ``None`` without routes.
    """

    def __init__(
        self,
        log: WriteAheadLog,
        run_id: bytes,
        rows: RowCallbacks[ItemT],
        not_before: float = 0.0,
        alternatives: Callable[[ItemT], Sequence[tuple[Target | None, bytes]]] | None = None,
    ) -> None:
        self.ambiguous_count = 0
        self._log = log
        self._run_id = run_id
        self._not_before = not_before
        self._alternatives = alternatives
        self._settle, self._look_up, self._outcome_of = rows
        self._claimed: set[bytes] = set()
        self._alternative_keys: dict[bytes, Sequence[bytes]] = {}
        self._waiting_in_process = 0
        self._held_elsewhere: deque[ItemT] = deque()
        self._unanswered: list[ItemT] = []
        self._wake = asyncio.Event()
        self._poll_interval_s = POLL_INTERVAL_S
        self._closed = False
        self.exclusive = False
        """Whether no other process used the store at the last claim."""
        self._watched: set[bytes] = set()
        self._released: set[bytes] = set()
        self._end_watches: list[Callable[[], None]] = []

    @property
    def has_waiting(self) -> bool:
        """Whether items are waiting for requests of other runs or processes."""
        return bool(self._waiting_in_process or self._held_elsewhere or self._unanswered)

    async def claim(
        self, items: Sequence[ItemT], *, repeated: bool = False, look_up_again: bool = False
    ) -> Sequence[ItemT]:
        """Claim the keys of ``items`` and return the items this run may send now.

        The others are settled, or wait (see `next_ready`). ``repeated`` marks items that were held elsewhere before,
        ``look_up_again`` those that another process may have answered before the last claim, since their look-up.
        """
        granted: list[ItemT] = []
        for index, item in enumerate(items):
            key = item[1]
            alternative_keys: Sequence[bytes] = ()
            if self._alternatives is not None and key not in self._claimed:
                if index % ITEMS_PER_YIELD == 0:
                    await asyncio.sleep(0)
                alternative_keys = [alternative for _, alternative in self._alternatives(item)]
                if self._wait_for_alternative(item, alternative_keys):
                    continue
            in_flight = None if key in self._claimed else self._log.claim_key(key, self._not_before)
            if in_flight is None:
                self._claimed.add(key)
                granted.append(item)
                for alternative in alternative_keys:
                    self._log.claim_key(alternative, inf)
                if alternative_keys:
                    self._alternative_keys[key] = alternative_keys
            elif isinstance(in_flight, list):
                self._waiting_in_process += 1
                in_flight.append(partial(self._on_outcome, item))
            else:
                self._settle(item[0], for_duplicate(in_flight))
        return await self._claim_leases(granted, repeated=repeated, look_up_again=look_up_again)

    def _wait_for_alternative(self, item: ItemT, keys: Sequence[bytes]) -> bool:
        """Make an item wait if its request is in flight to another candidate. Return whether it is."""
        for key in keys:
            waiters = self._log.waiters(key)
            if waiters is not None:
                self._waiting_in_process += 1
                waiters.append(lambda _: self._on_outcome(item, None))
                return True
        return False

    async def next_ready(self) -> Sequence[ItemT]:
        """Wait for progress elsewhere. Return the waiting items that this run has to send itself."""
        watch = self._watch
        interval_s = self._poll_interval_s if watch is None else RECHECK_S
        try:
            async with asyncio.timeout(interval_s if self._held_elsewhere else None):
                await self._wake.wait()
        except TimeoutError:
            watch = None
        self._wake.clear()
        unanswered, self._unanswered = self._unanswered, []
        granted = await self.claim(unanswered, look_up_again=True)
        started = time.perf_counter()
        batch = self._oldest_held() if watch is None else self._released_items()
        granted = [*granted, *await self.claim(batch, repeated=True, look_up_again=True)]
        self._poll_interval_s = max(POLL_INTERVAL_S, (time.perf_counter() - started) / MAX_POLL_SHARE)
        return granted

    @property
    def _watch(self) -> Watch | None:
        """How the store reports that keys are released, if it does and works."""
        claims = self._log.store.claims
        return None if claims is None or self._log.failure else claims.watch

    def _oldest_held(self) -> list[ItemT]:
        """Remove and return the items that have waited longest for another process."""
        return [self._held_elsewhere.popleft() for _ in range(min(len(self._held_elsewhere), POLL_BATCH))]

    def _released_items(self) -> list[ItemT]:
        """Remove and return the items of which a key was released."""
        released, self._released = self._released, set()
        if not released:
            return []
        batch: list[ItemT] = []
        remaining: deque[ItemT] = deque()
        for item in self._held_elsewhere:
            keys = (item[1], *(key for _, key in self._alternatives(item))) if self._alternatives else (item[1],)
            (remaining if released.isdisjoint(keys) else batch).append(item)
        self._held_elsewhere = remaining
        return batch

    def _watch_keys(self, keys: Iterable[bytes]) -> None:
        """Let the store report when keys that are held elsewhere are released."""
        watch, new = self._watch, set(keys) - self._watched
        if watch is None or not new or self._closed:
            return
        self._watched |= new
        loop = asyncio.get_running_loop()

        def on_released(released: Collection[bytes]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._on_released, released)

        self._end_watches.append(watch(new, on_released))

    def _on_released(self, released: Collection[bytes]) -> None:
        self._watched.difference_update(released)
        self._released.update(released)
        self._wake.set()

    def release(self, key: bytes, outcome: RowOutcome | None, written_as: bytes | None = None) -> None:
        """Release ``key`` and pass its outcome to the waiters.

        If the response is being written under ``written_as``, other processes get the key once it is in the store.
        """
        self._claimed.discard(key)
        for alternative in self._alternative_keys.pop(key, ()):
            if alternative == written_as and isinstance(outcome, Answer):
                # Callers that named this candidate see an answer of the target they requested.
                self._log.release_key(alternative, outcome.attributed_to(None, None), written_as)
            else:
                self._log.release_key(alternative, None)
        self._log.release_key(key, outcome, written_as)

    def close(self) -> None:
        """Release all keys of this run."""
        self._closed = True
        for end_watch in self._end_watches:
            end_watch()
        for key in tuple(self._claimed):
            self.release(key, None)

    async def _claim_leases(self, items: Sequence[ItemT], *, repeated: bool, look_up_again: bool) -> Sequence[ItemT]:
        """Claim the keys of ``items`` across processes and return the items that are granted and still missing."""
        alternative_keys = self._alternative_keys
        requests = [
            ClaimRequest(key, self._run_id) for item in items for key in (item[1], *alternative_keys.get(item[1], ()))
        ]
        claimed = await self._log.claim_leases(requests, repeated=repeated)
        self.exclusive = claimed.exclusive
        if (claimed.exclusive and not look_up_again) or not (self._log.store.claims or claimed.held_elsewhere):
            return items
        granted: list[ItemT] = []
        for item in items:
            keys = (item[1], *alternative_keys.get(item[1], ()))
            self.ambiguous_count += sum([key in claimed.ambiguous for key in keys])
            if not claimed.held_elsewhere.isdisjoint(keys):
                self._held_elsewhere.append(item)
                if len(keys) > 1:
                    # Holding some keys while waiting for the others could deadlock with a process doing the reverse.
                    self.release(item[1], None)
            elif not self._log.resend_ambiguous and not claimed.ambiguous.keys().isdisjoint(keys):
                self._settle(item[0], ambiguous_outcome())
                self.release(item[1], None)
            else:
                granted.append(item)
        if claimed.held_elsewhere:
            self._watch_keys(claimed.held_elsewhere)
        return await self._still_missing(granted)

    async def _still_missing(self, granted: list[ItemT]) -> Sequence[ItemT]:
        """Look granted items up again: another process may have answered between the look-up and the claim."""
        missing = await self._look_up(granted) if granted else ()
        if len(missing) < len(granted):
            missing_keys = {item[1] for item in missing}
            for item in granted:
                if item[1] not in missing_keys:
                    self.release(item[1], self._outcome_of(item[0]))
        return missing

    def _on_outcome(self, item: ItemT, outcome: RowOutcome | None) -> None:
        """Settle a waiting item with the outcome of another run, or queue it to be claimed again."""
        if self._closed:
            return
        self._waiting_in_process -= 1
        if outcome is not None and is_shareable(outcome) and outcome.started_at >= self._not_before:
            self._settle(item[0], for_duplicate(outcome))
        else:
            self._unanswered.append(item)
        self._wake.set()
