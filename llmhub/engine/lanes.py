"""What waits before the workers of a run: in the order of coming, but nobody waits behind a target that lets nobody go.

A limited target would soon hold every worker of a run over several: each would take up a question for it, and wait at
the gate. So of each target no more are taken up than its gate can use, as long as there are others to ask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, TypeAlias

from llmhub.engine.turns import Item

Taken: TypeAlias = tuple[Item, float]
"""An item, and the time since when it waited here."""

SHARE: Final = 16
"""One of so many workers may wait at a gate while others have something to ask; each target, one at least."""


class Lanes:
    """Items, by whom they ask.

    Parameters
    ----------
    crowd
        Says how many calls to a target wait at its gate, by the target's name.
    workers
        How many there are.

    Examples
    --------
    >>> waiting = {"slow": 2}
    >>> lanes = Lanes(lambda name: waiting.get(name, 0), workers=32)
    >>> slow, quick = (lambda *_: None), (lambda *_: None)
    >>> lanes.extend([(0, b"a", slow, ""), (1, b"b", quick, ""), (2, b"c", slow, ""), (3, b"d", quick, "")], 0.0)
    >>> lanes.learn(slow, "slow")
    >>> len(lanes), lanes.ready()
    (4, 2)
    >>> [lanes.take()[0][0], lanes.take()[0][0], lanes.take(), lanes.take(whatever=True)[0][0]]
    [1, 3, None, 0]
    """

    def __init__(self, crowd: Callable[[str], int], workers: int) -> None:
        self._crowd = crowd
        self._workers = workers
        self._lanes: dict[object, deque[tuple[int, Item, float]]] = {}
        self._names: dict[object, str] = {}
        self._tickets = count()
        self._many = 0

    def __len__(self) -> int:
        """Count the items."""
        return self._many

    @property
    def several(self) -> bool:
        """Whether more than one target is asked."""
        return len(self._lanes) > 1

    def extend(self, items: Iterable[Item], now: float) -> None:
        """Lay items behind the others."""
        for item in items:
            lane = _lane(item[2])
            if lane not in self._lanes:
                self._lanes[lane] = deque()
            self._lanes[lane].append((next(self._tickets), item, now))
            self._many += 1

    def learn(self, make: object, name: str) -> None:
        """Take in which target is asked by calls that are made so."""
        self._names[_lane(make)] = name

    def ready(self) -> int:
        """Count the items whose targets do not hold them up."""
        return (
            self._many
            if not self.several
            else sum(len(waiting) for lane, waiting in self._lanes.items() if not self._held(lane))
        )

    def take(self, *, whatever: bool = False) -> Taken | None:
        """Take what came first of what may go; where nothing may, ``whatever`` came first."""
        if not self._many:
            return None
        waiting = self._open(whatever=whatever) if self.several else next(iter(self._lanes.values()))
        if waiting is None:
            return None
        self._many -= 1
        _, item, since = waiting.popleft()
        return item, since

    def _open(self, *, whatever: bool) -> deque[tuple[int, Item, float]] | None:
        """Find the lane to take from."""
        full = [(lane, waiting) for lane, waiting in self._lanes.items() if waiting]
        free = [waiting for lane, waiting in full if not self._held(lane)]
        if whatever and not free:
            free = [waiting for _, waiting in full]
        return min(free, key=_first, default=None)

    def _held(self, lane: object) -> bool:
        name = self._names.get(lane)
        most = max(1, self._workers // (SHARE * len(self._lanes)))
        return name is not None and self._crowd(name) >= most


def _lane(make: Any) -> object:
    """Tell targets apart by how their calls are made; further samples of one are made by a part of the same."""
    return getattr(make, "func", make)


def _first(waiting: deque[tuple[int, Item, float]]) -> int:
    return waiting[0][0]
