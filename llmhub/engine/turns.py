"""Whose turn it is to ask: a question that another run or another process has asked is waited for, not asked again."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from llmhub.cache.ledger import Wish
from llmhub.engine.books import Books
from llmhub.engine.call import Call
from llmhub.engine.settled import Settled, shared, speaks_for_all, unsure

POLL_S: Final = 0.05
"""How often keys that another process holds are asked for, at most."""
POLL_SHARE: Final = 0.05
"""Share of the time that such asking may take."""
AT_ONCE: Final = 512
"""Keys asked for at a time, those that wait longest first."""

Item: TypeAlias = tuple[int, bytes, Callable[[Any, bytes], Call], Any]
"""Position of the row, key of the question, how to make its call once that is needed, and what to make it of.

The call is made of what is asked, a text for the most part, and the key."""
LookUp: TypeAlias = Callable[[list[Item]], Awaitable[Sequence[Item]]]
"""Settles what the store answers, and gives the rest."""


class Rows(NamedTuple):
    """What a run does with its rows: settles one, looks some up, and says what answered one."""

    settle: Callable[[int, Settled], None]
    look_up: LookUp
    answered: Callable[[int], Settled | None]


class Turns:
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

    Notes
    -----
    Nothing waits while it holds a worker, so runs that hold what each other wants cannot wait for each other for ever.
    """

    def __init__(self, books: Books, run_id: bytes, rows: Rows, since: float = 0.0) -> None:
        self.unsure = 0
        self._books = books
        self._run_id = run_id
        self._since = since
        self._settle, self._look_up, self._answered = rows
        self._mine: set[bytes] = set()
        self._parked = 0
        self._foreign: deque[Item] = deque()
        self._again: list[Item] = []
        self._news = asyncio.Event()
        self._pause_s = POLL_S
        self._over = False

    @property
    def waiting(self) -> bool:
        """Whether anything is waited for."""
        return bool(self._parked or self._foreign or self._again)

    async def take(self, items: Sequence[Item], *, again: bool = False) -> Sequence[Item]:
        """Give what this run may ask now."""
        mine: list[Item] = []
        for item in items:
            key = item[1]
            known = None if key in self._mine else self._books.ask(key, self._since)
            if known is None:
                self._mine.add(key)
                mine.append(item)
            elif isinstance(known, list):
                self._parked += 1
                known.append(partial(self._landed, item))
            else:
                self._settle(item[0], shared(known))
        return await self._claimed(mine, again=again)

    async def next_round(self) -> Sequence[Item]:
        """Wait a while for what others ask; give what they left to be asked."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s if self._foreign else None):
                await self._news.wait()
        self._news.clear()
        back, self._again = self._again, []
        granted = await self.take(back)
        began = time.perf_counter()
        some = [self._foreign.popleft() for _ in range(min(len(self._foreign), AT_ONCE))]
        granted = [*granted, *await self.take(some, again=True)]
        self._pause_s = max(POLL_S, (time.perf_counter() - began) / POLL_SHARE)
        return granted

    def give_back(self, key: bytes, answer: Settled | None, filed: bytes | None = None) -> None:
        """Let go of a key, once what is ``filed`` under that key is written, and tell others what came of it."""
        self._mine.discard(key)
        self._books.land(key, answer, filed)

    def close(self) -> None:
        """Let go of everything."""
        self._over = True
        for key in tuple(self._mine):
            self.give_back(key, None)

    async def _claimed(self, items: Sequence[Item], *, again: bool) -> Sequence[Item]:
        """Claim keys before other processes do."""
        wishes = [Wish(item[1], self._run_id) for item in items]
        claimed = await self._books.claim(wishes, again=again)
        if claimed.alone or not (self._books.store.claims or claimed.held):
            return items
        granted: list[Item] = []
        for item in items:
            key = item[1]
            self.unsure += key in claimed.unsure
            if key in claimed.held:
                self._foreign.append(item)
            elif key in claimed.unsure and not self._books.resend:
                self._settle(item[0], unsure())
                self.give_back(key, None)
            else:
                granted.append(item)
        # Somebody may have answered between the look-up and the claim.
        missing = await self._look_up(granted) if granted else ()
        if len(missing) < len(granted):
            still = {item[1] for item in missing}
            for item in granted:
                if item[1] not in still:
                    self.give_back(item[1], self._answered(item[0]))
        return missing

    def _landed(self, item: Item, answer: Settled | None) -> None:
        """Take the answer that another run of this process got, or ask oneself."""
        if self._over:
            return
        self._parked -= 1
        if answer is not None and speaks_for_all(answer) and answer.started_at >= self._since:
            self._settle(item[0], shared(answer))
        else:
            self._again.append(item)
        self._news.set()
