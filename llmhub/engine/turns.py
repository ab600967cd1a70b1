"""Whose turn it is to ask: a question that another run or another process has asked is waited for, not asked again."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias

from llmhub.cache.ledger import Wish
from llmhub.engine.books import Books
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.settled import Settled, shared, speaks_for_all, unsure

POLL_S: Final = 0.05
"""How often keys that another process holds are asked for, at most."""
POLL_SHARE: Final = 0.05
"""Share of the time that such asking may take."""
BREATH: Final = 64
"""Items after which others may go on, where each takes long to be keyed."""
AT_ONCE: Final = 512
"""Keys asked for at a time, those that wait longest first."""

Item: TypeAlias = tuple[int, bytes, Callable[[Any, bytes], Call], Any]
"""Position of the row, key of the question, how to make its call once that is needed, and what to make it of.

The call is made of what is asked, a text for the most part, and the key."""
Others: TypeAlias = Callable[[Item], Sequence[tuple[Target, bytes]]]
"""Names who else may answer an item, and the key of its question as it would be put to them."""
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
    others
        Names who may be asked in the place of whom an item names, and under which keys; nothing where there are none.

    Notes
    -----
    Nothing waits while it holds a worker, so runs that hold what each other wants cannot wait for each other for ever.
    """

    def __init__(
        self, books: Books, run_id: bytes, rows: Rows, since: float = 0.0, others: Others | None = None
    ) -> None:
        self.unsure = 0
        self._books = books
        self._run_id = run_id
        self._since = since
        self._others = others
        self._held: dict[bytes, Sequence[bytes]] = {}
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
        for at, item in enumerate(items):
            key = item[1]
            others: Sequence[bytes] = ()
            if self._others is not None and key not in self._mine:
                if at % BREATH == 0:
                    await asyncio.sleep(0)
                others = [other for _, other in self._others(item)]
                if self._is_parked(item, others):
                    continue
            known = None if key in self._mine else self._books.ask(key, self._since)
            if known is None:
                self._mine.add(key)
                mine.append(item)
                for other in others:
                    self._books.ask(other, inf)
                if others:
                    self._held[key] = others
            elif isinstance(known, list):
                self._parked += 1
                known.append(partial(self._landed, item))
            else:
                self._settle(item[0], shared(known))
        return await self._claimed(mine, again=again)

    def _is_parked(self, item: Item, others: Sequence[bytes]) -> bool:
        """Have an item wait whose question somebody puts to one who may be asked in its target's place."""
        for other in others:
            landings = self._books.landings(other)
            if landings is not None:
                self._parked += 1
                landings.append(lambda _: self._landed(item, None))
                return True
        return False

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
        for other in self._held.pop(key, ()):
            if other == filed and isinstance(answer, Answer):
                # Who asks them, and not in another's place, has asked whom they got it from.
                self._books.land(other, answer.of(None, None), filed)
            else:
                self._books.land(other, None)
        self._books.land(key, answer, filed)

    def close(self) -> None:
        """Let go of everything."""
        self._over = True
        for key in tuple(self._mine):
            self.give_back(key, None)

    async def _claimed(self, items: Sequence[Item], *, again: bool) -> Sequence[Item]:
        """Claim keys before other processes do."""
        held = self._held
        wishes = [Wish(key, self._run_id) for item in items for key in (item[1], *held.get(item[1], ()))]
        claimed = await self._books.claim(wishes, again=again)
        if claimed.alone or not (self._books.store.claims or claimed.held):
            return items
        granted: list[Item] = []
        for item in items:
            key = item[1]
            keys = (key, *held.get(key, ()))
            self.unsure += sum([one in claimed.unsure for one in keys])
            if not claimed.held.isdisjoint(keys):
                self._foreign.append(item)
                if len(keys) > 1:
                    # Who holds some and waits for the others might wait for somebody who does so the other way round.
                    self.give_back(key, None)
            elif not self._books.resend and not claimed.unsure.keys().isdisjoint(keys):
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
