"""Load on purpose: calls sent in a given shape, to see what a provider makes of it.

In a closed shape so many calls are under way, and the next waits for one of them; in an open one calls come when they
come, however slow the answers are, and what had to wait for a connection says so in its lag.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from returns.result import Failure

from llmhub.core.errors import BadRequestError, Cancelled, InvalidRequest
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.event_loop import StopSignal


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The shape of a load: closed with ``workers``, or open with ``per_s``.

    Parameters
    ----------
    workers
        Calls under way at any time.
    per_s
        Calls a second, evenly apart, or, where ``random``, with the gaps of a Poisson process.
    random
        Whether the gaps are drawn.
    seed
        Decides them.

    Examples
    --------
    >>> str(concurrent(8)), str(poisson(2.5)), str(one_at_a_time())
    ('8 at a time', 'Poisson 2.5/s', '1 at a time')
    """

    workers: int | None = None
    per_s: float | None = None
    random: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no load."""
        if (self.workers is None) == (self.per_s is None):
            raise BadRequestError(InvalidRequest(path="load", message="give either workers= or per_s="))
        many: Any = self.workers
        if many is not None and (isinstance(many, bool) or not isinstance(many, int) or many < 1):
            raise BadRequestError(InvalidRequest(path="load.workers", message=f"{many!r} is no count from 1"))
        if self.per_s is not None and not 0 < self.per_s < math.inf:
            raise BadRequestError(InvalidRequest(path="load.per_s", message=f"{self.per_s!r} is no rate; give > 0"))

    def __str__(self) -> str:
        """Name it."""
        if self.workers is not None:
            return f"{self.workers} at a time"
        return f"{'Poisson ' if self.random else ''}{self.per_s:g}/s"


def one_at_a_time() -> Load:
    """Send a call when the one before is answered."""
    return Load(workers=1)


def concurrent(workers: int) -> Load:
    """Keep so many calls under way."""
    return Load(workers=workers)


def constant_rate(per_s: float) -> Load:
    """Send so many calls a second, evenly apart."""
    return Load(per_s=per_s)


def poisson(per_s: float, *, seed: int = 0) -> Load:
    """Send so many calls a second on average, at random: as independent people would."""
    return Load(per_s=per_s, random=True, seed=seed)


def sweep(workers: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> tuple[Load, ...]:
    """Give closed loads, one after another."""
    return tuple(concurrent(many) for many in workers)


def arrivals(load: Load, count: int) -> list[float] | None:
    """Say when each call of an open load is due, in seconds from the first; ``None`` for a closed one.

    Notes
    -----
    Laws: times do not fall; their mean gap is ``1 / per_s``, exactly where they are even.

    Examples
    --------
    >>> arrivals(constant_rate(4), 3), arrivals(concurrent(4), 3)
    ([0.0, 0.25, 0.5], None)
    """
    if load.per_s is None:
        return None
    if not load.random:
        return [at / load.per_s for at in range(count)]
    draw = random.Random(load.seed)  # noqa: S311 - gaps of a rehearsal
    gaps = (draw.expovariate(load.per_s) for _ in range(count - 1))
    return list(accumulate(gaps, initial=0.0))[:count]


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What came of a load.

    Parameters
    ----------
    answers
        In the order of the calls.
    lag_s
        How long after it was due each call was sent.
    span_s
        From the first call's being due to the last answer.
    """

    answers: Sequence[Answer]
    schedule_delay_s: Sequence[float]
    duration_s: float


NOT_SENT: Final = Answer(Failure(Cancelled(message="stopped before it was sent")))


async def run_load(
    calls: Sequence[Call], load: Load, send: Send, stop: StopSignal, *, max_in_flight: int, clock: Callable[[], float]
) -> LoadRun:
    """Send the calls in the shape of the load.

    Parameters
    ----------
    max_in_flight
        Calls of an open load that are under way at once, at most: more wait, and that is their lag.
    clock
        Seconds, of the loop that this runs on.

    Notes
    -----
    When ``stop`` is asked, nothing more is sent, and what is under way is awaited.
    """
    answers: list[Answer] = [NOT_SENT] * len(calls)
    lag_s = [0.0] * len(calls)
    start = clock()

    async def one(at: int, due: float) -> None:
        lag_s[at] = max(0.0, clock() - due)
        answers[at] = await send(calls[at])

    times = arrivals(load, len(calls))
    if times is None:
        left = iter(range(len(calls)))

        async def work() -> None:
            for at in left:
                if stop.requested:
                    return
                await one(at, clock())

        await asyncio.gather(*(work() for _ in range(min(load.workers or 1, len(calls)))))
    else:
        await _run_open_loop(times, start, one, stop, max_in_flight, clock)
    return LoadRun(answers, lag_s, clock() - start)


async def _run_open_loop(
    times: Sequence[float],
    start: float,
    one: Callable[[int, float], Any],
    stop: StopSignal,
    most: int,
    clock: Callable[[], float],
) -> None:
    """Send each call when it is due, without waiting for answers but for want of room."""
    room = asyncio.Semaphore(most)

    async def taken(at: int) -> None:
        try:
            await one(at, start + times[at])
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for at, time_s in enumerate(times):
            wait = start + time_s - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            if stop.requested:
                return
            await room.acquire()
            group.create_task(taken(at))
