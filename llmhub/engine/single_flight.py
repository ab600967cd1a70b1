"""Whose turn it is to ask: a question that another run or another process has asked is waited for, not asked again."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final, NamedTuple, TypeAlias

from llmhub.cache.store import ClaimRequest
from llmhub.engine.call import Answer
from llmhub.engine.fan_out_types import Alternatives, PlannedItem
from llmhub.engine.row_outcome import RowOutcome, ambiguous_outcome, for_duplicate, is_shareable
from llmhub.engine.write_ahead import WriteAheadLog

POLL_INTERVAL_S: Final = 0.05
"""How often keys that another process holds are asked for, at most."""


MAX_POLL_SHARE: Final = 0.05
"""Share of the time that such asking may take."""


ITEMS_PER_YIELD: Final = 64
"""Items after which others may go on, where each takes long to be keyed."""


POLL_BATCH: Final = 512
"""Keys asked for at a time, those that wait longest first."""


LookUpItems: TypeAlias = Callable[[list[PlannedItem]], Awaitable[Sequence[PlannedItem]]]
"""Settles what the store answers, and gives the rest."""


class RowCallbacks(NamedTuple):
    """What a run does with its rows: settles one, looks some up, and says what answered one."""

    settle: Callable[[int, RowOutcome], None]
    look_up: LookUpItems
    outcome_of: Callable[[int], RowOutcome | None]


class SingleFlight:
    """What one run may ask, and what it waits for. Everything happens on one event loop.

    Parameters
    ----------
    books
        The store's, shared by all runs on it.
    run_id
        Names the run.
    rows
        What the run does with its rows.
    since
        What was asked before (epoch seconds) is no answer for this run.
    others
        Names who may be asked in the place of whom an item names, and under which keys; nothing where there are none.

    Notes
    -----
    Nothing waits while it holds a worker, so runs that hold what each other wants cannot wait for each other for ever.
    """

    def __init__(
        self,
        books: WriteAheadLog,
        run_id: bytes,
        rows: RowCallbacks,
        not_before: float = 0.0,
        alternatives: Alternatives | None = None,
    ) -> None:
        self.ambiguous_count = 0
        self._books = books
        self._run_id = run_id
        self._since = not_before
        self._others = alternatives
        self._held: dict[bytes, Sequence[bytes]] = {}
        self._settle, self._look_up, self._answered = rows
        self._mine: set[bytes] = set()
        self._parked = 0
        self._foreign: deque[PlannedItem] = deque()
        self._again: list[PlannedItem] = []
        self._news = asyncio.Event()
        self._pause_s = POLL_INTERVAL_S
        self._over = False

    @property
    def has_waiting(self) -> bool:
        """Whether anything is waited for."""
        return bool(self._parked or self._foreign or self._again)

    async def claim(self, items: Sequence[PlannedItem], *, repeated: bool = False) -> Sequence[PlannedItem]:
        """Give what this run may ask now."""
        mine: list[PlannedItem] = []
        for at, item in enumerate(items):
            key = item[1]
            others: Sequence[bytes] = ()
            if self._others is not None and key not in self._mine:
                if at % ITEMS_PER_YIELD == 0:
                    await asyncio.sleep(0)
                others = [other for _, other in self._others(item)]
                if self._is_parked(item, others):
                    continue
            known = None if key in self._mine else self._books.claim_key(key, self._since)
            if known is None:
                self._mine.add(key)
                mine.append(item)
                for other in others:
                    self._books.claim_key(other, inf)
                if others:
                    self._held[key] = others
            elif isinstance(known, list):
                self._parked += 1
                known.append(partial(self._landed, item))
            else:
                self._settle(item[0], for_duplicate(known))
        return await self._claimed(mine, again=repeated)

    def _is_parked(self, item: PlannedItem, others: Sequence[bytes]) -> bool:
        """Have an item wait whose question somebody puts to one who may be asked in its target's place."""
        for other in others:
            landings = self._books.waiters(other)
            if landings is not None:
                self._parked += 1
                landings.append(lambda _: self._landed(item, None))
                return True
        return False

    async def next_ready(self) -> Sequence[PlannedItem]:
        """Wait a while for what others ask; give what they left to be asked."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s if self._foreign else None):
                await self._news.wait()
        self._news.clear()
        back, self._again = self._again, []
        granted = await self.claim(back)
        began = time.perf_counter()
        some = [self._foreign.popleft() for _ in range(min(len(self._foreign), POLL_BATCH))]
        granted = [*granted, *await self.claim(some, repeated=True)]
        self._pause_s = max(POLL_INTERVAL_S, (time.perf_counter() - began) / MAX_POLL_SHARE)
        return granted

    def release(self, key: bytes, answer: RowOutcome | None, written_as: bytes | None = None) -> None:
        """Let go of a key, once what is ``written_as`` under that key is written, and tell others what came of it."""
        self._mine.discard(key)
        for other in self._held.pop(key, ()):
            if other == written_as and isinstance(answer, Answer):
                # Who asks them, and not in another's place, has asked whom they got it from.
                self._books.release_key(other, answer.attributed_to(None, None), written_as)
            else:
                self._books.release_key(other, None)
        self._books.release_key(key, answer, written_as)

    def close(self) -> None:
        """Let go of everything."""
        self._over = True
        for key in tuple(self._mine):
            self.release(key, None)

    async def _claimed(self, items: Sequence[PlannedItem], *, again: bool) -> Sequence[PlannedItem]:
        """Claim keys before other processes do."""
        held = self._held
        wishes = [ClaimRequest(key, self._run_id) for item in items for key in (item[1], *held.get(item[1], ()))]
        claimed = await self._books.claim_leases(wishes, repeated=again)
        if claimed.exclusive or not (self._books.store.claims or claimed.held_elsewhere):
            return items
        granted: list[PlannedItem] = []
        for item in items:
            key = item[1]
            keys = (key, *held.get(key, ()))
            self.ambiguous_count += sum([one in claimed.ambiguous for one in keys])
            if not claimed.held_elsewhere.isdisjoint(keys):
                self._foreign.append(item)
                if len(keys) > 1:
                    # Who holds some and waits for the others might wait for somebody who does so the other way round.
                    self.release(key, None)
            elif not self._books.resend_ambiguous and not claimed.ambiguous.keys().isdisjoint(keys):
                self._settle(item[0], ambiguous_outcome())
                self.release(key, None)
            else:
                granted.append(item)
        # Somebody may have answered between the look-up and the claim.
        missing = await self._look_up(granted) if granted else ()
        if len(missing) < len(granted):
            still = {item[1] for item in missing}
            for item in granted:
                if item[1] not in still:
                    self.release(item[1], self._answered(item[0]))
        return missing

    def _landed(self, item: PlannedItem, answer: RowOutcome | None) -> None:
        """Take the answer that another run of this process got, or ask oneself."""
        if self._over:
            return
        self._parked -= 1
        if answer is not None and is_shareable(answer) and answer.started_at >= self._since:
            self._settle(item[0], for_duplicate(answer))
        else:
            self._again.append(item)
        self._news.set()
