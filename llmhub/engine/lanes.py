"""What lies before the workers of a run, by whom it asks: who has enough waiting is passed over for the others.

Rows ask one model after another, so the questions to one that is held up lie between those to all others. They are put
aside, in their order, until it goes on; how far others get ahead is bounded. What asks the same target is made by
the same function, or parts of it (`functools.partial`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Final, TypeAlias

from llmhub.engine.turns import Item

CHUNK: Final = 4096
"""Items planned and looked up at a time, at most."""
AHEAD: Final = 16 * CHUNK
"""Items put aside, at most. One of a short chunk counts for more: chunks are short when what is in them is heavy."""

Laid: TypeAlias = "tuple[Item, float, int, Lane]"
"""An item, when it was laid here, for how many it counts, and its lane."""


class Lane:
    """The questions of a run to one target: those put aside, and how much waits of what was begun."""

    __slots__ = ("aside", "waiting")

    def __init__(self) -> None:
        self.aside: deque[Laid] = deque()
        self.waiting = 0


class Lanes:
    """Items in the order of coming, but for those whose lane has enough waiting.

    Parameters
    ----------
    enough
        How much of one lane may wait before no more of it is begun; see `llmhub.engine.slots.Place.lend`.
    """

    def __init__(self, enough: int) -> None:
        self.items: deque[Laid] = deque()
        self._enough = enough
        self._lanes: dict[object, Lane] = {}
        self._aside: list[Lane] = []
        self._ahead = 0

    def __bool__(self) -> bool:
        """Say whether anything is left to be begun."""
        return bool(self.items or self._aside)

    @property
    def several(self) -> bool:
        """Whether more than one target is asked."""
        return len(self._lanes) > 1

    def lay(self, items: Iterable[Item], now: float, weight: int = 1) -> None:
        """Add items, each of which counts for ``weight``."""
        lane = self._lane
        self.items.extend([(item, now, weight, lane(item[2])) for item in items])

    def take(self) -> Laid | None:
        """Take the first item that may be begun, if there is one."""
        if self.items and not self._aside and self.items[0][3].waiting < self._enough:
            return self.items.popleft()
        resumed = self._resumed()
        if resumed is None:
            return self.items.popleft() if self._passed() else None
        laid = resumed.aside.popleft()
        self._ahead -= laid[2]
        if not resumed.aside:
            self._aside.remove(resumed)
        return laid

    def ready(self) -> int:
        """Say how many workers there is work for, at most; none where no item may be begun."""
        resumed = sum([max(0, min(len(lane.aside), self._enough - lane.waiting)) for lane in self._aside])
        return resumed + self._passed()

    def short(self, low: int) -> bool:
        """Say whether to add more: fewer than ``low`` are left, and somebody is there who could get ahead with them."""
        if len(self.items) >= low or self._ahead >= AHEAD:
            return False
        lanes = self._lanes.values()
        return not lanes or any([lane.waiting < self._enough for lane in lanes])  # noqa: C419 - half the time

    def _lane(self, make: object) -> Lane:
        if isinstance(make, partial):
            make = make.func
        lane = self._lanes.get(make)
        if lane is None:
            lane = self._lanes[make] = Lane()
        return lane

    def _resumed(self) -> Lane | None:
        """Give the lane that goes on, of those with something aside: whose first item came first."""
        free = [lane for lane in self._aside if lane.waiting < self._enough]
        return min(free, key=lambda lane: lane.aside[0][0][0]) if free else None

    def _passed(self) -> int:
        """Put aside what may not be begun, up to what may; say how many are left with that."""
        while self.items and (lane := self.items[0][3]).waiting >= self._enough:
            if not self.several:
                return 0
            laid = self.items.popleft()
            self._ahead += laid[2]
            if not lane.aside:
                self._aside.append(lane)
            lane.aside.append(laid)
        return len(self.items)
