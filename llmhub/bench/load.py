"""Shapes of load, and the generator that sends calls in a given shape.

A closed load keeps a fixed number of calls in flight: each call waits for an earlier one to finish. An open load sends
calls at given times, however slow the responses are; a call that cannot be sent on time is late by its schedule delay.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from returns.result import Failure

from llmhub.api.signatures import renamed_arguments
from llmhub.core.errors import Cancelled, invalid
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.event_loop import StopSignal


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Shape of a load: closed with ``concurrency``, or open with ``per_s``.

    Parameters
    ----------
    concurrency
        Number of calls in flight.
    per_s
        Calls per second: evenly spaced, or a Poisson process with ``random=True``.
    random
        Whether the gaps between calls are random.
    random_state
        Seed of the random gaps.
    ramp_s
        Seconds in which the load rises evenly from nothing to its full rate or concurrency.

    Examples
    --------
    >>> str(concurrent(8)), str(poisson(2.5)), str(one_at_a_time())
    ('8 at a time', 'Poisson 2.5/s', '1 at a time')
    """

    concurrency: int | None = None
    per_s: float | None = None
    random: bool = False
    random_state: int = 0
    ramp_s: float = 0.0

    def __post_init__(self) -> None:
        """Validate the shape."""
        if (self.concurrency is None) == (self.per_s is None):
            raise invalid("load", "pass either concurrency= or per_s=")
        count: Any = self.concurrency
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise invalid("load.concurrency", f"{count!r} is not a positive integer")
        if self.per_s is not None and not 0 < self.per_s < math.inf:
            raise invalid("load.per_s", f"{self.per_s!r} is not a rate; pass a number > 0")
        if not 0 <= self.ramp_s < math.inf:
            raise invalid("load.ramp_s", f"{self.ramp_s!r} is not a duration; pass seconds >= 0")

    def __str__(self) -> str:
        """Return the name of the shape."""
        ramp = f", ramp of {self.ramp_s:g} s" if self.ramp_s else ""
        if self.concurrency is not None:
            return f"{self.concurrency} at a time{ramp}"
        return f"{'Poisson ' if self.random else ''}{self.per_s:g}/s{ramp}"


def one_at_a_time() -> Load:
    """Return a closed load of one call in flight."""
    return Load(concurrency=1)


@renamed_arguments(workers="concurrency")
def concurrent(concurrency: int) -> Load:
    """Return a closed load of ``concurrency`` calls in flight."""
    return Load(concurrency=concurrency)


def constant_rate(per_s: float) -> Load:
    """Return an open load of evenly spaced calls, ``per_s`` per second."""
    return Load(per_s=per_s)


@renamed_arguments(seed="random_state")
def poisson(per_s: float, *, random_state: int = 0) -> Load:
    """Return an open load of random arrivals as of independent users, ``per_s`` per second on average."""
    return Load(per_s=per_s, random=True, random_state=random_state)


@renamed_arguments(workers="concurrency")
def sweep(concurrency: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> tuple[Load, ...]:
    """Return a closed load for each number of calls in flight."""
    return tuple(concurrent(count) for count in concurrency)


@renamed_arguments(seed="random_state")
def rate_sweep(rates: Sequence[float], *, random: bool = True, random_state: int = 0) -> tuple[Load, ...]:
    """Return an open load for each rate: random arrivals, or evenly spaced ones.

    Examples
    --------
    >>> [str(load) for load in rate_sweep([1, 2])]
    ['Poisson 1/s', 'Poisson 2/s']
    """
    return tuple(poisson(rate, random_state=random_state) if random else constant_rate(rate) for rate in rates)


def arrivals(load: Load, count: int) -> list[float] | None:
    """Return the time at which each call of an open load is due, in seconds from the first; ``None`` if it is closed.

    Notes
    -----
    Laws: times do not decrease; after the ramp the mean gap is ``1 / per_s``, exactly so for evenly spaced calls.

    Examples
    --------
    >>> arrivals(constant_rate(4), 3), arrivals(concurrent(4), 3)
    ([0.0, 0.25, 0.5], None)
    """
    if load.per_s is None:
        return None
    per_s = load.per_s
    if load.random:
        generator = random.Random(load.random_state)  # noqa: S311 - not for security
        gaps = (generator.expovariate(per_s) for _ in range(count - 1))
        times = list(accumulate(gaps, initial=0.0))[:count]
    else:
        times = [index / per_s for index in range(count)]
    return [_delay_by_ramp(time_s, load.ramp_s) for time_s in times]


def _delay_by_ramp(time_s: float, ramp_s: float) -> float:
    """Return when a call is due that without ramp is due at ``time_s``: half of the ramp's calls are left out."""
    if time_s >= ramp_s / 2:
        return time_s + ramp_s / 2
    return math.sqrt(2 * ramp_s * time_s)


@dataclass(frozen=True, slots=True)
class LoadRun:
    """Answers to the calls of a load, and their timing.

    Parameters
    ----------
    answers
        In the order of the calls.
    schedule_delay_s
        Seconds between each call's being due and being sent.
    duration_s
        Seconds from the first call's being due to the last answer.
    """

    answers: Sequence[Answer]
    schedule_delay_s: Sequence[float]
    duration_s: float


NOT_SENT: Final = Answer(Failure(Cancelled(message="the run was stopped before this call was sent")))


async def run_load(
    calls: Sequence[Call],
    load: Load,
    send: Send,
    stop: StopSignal,
    *,
    max_in_flight: int,
    clock: Callable[[], float],
    duration_s: float = math.inf,
) -> LoadRun:
    """Send calls in the shape of a load.

    Parameters
    ----------
    max_in_flight
        Limit on the calls in flight of an open load. Further calls wait, which adds to their schedule delay.
    clock
        Clock of the running event loop, in seconds.
    duration_s
        Seconds after which no more calls are sent.

    Notes
    -----
    Once ``stop`` is requested no more calls are sent; those in flight are awaited.
    """
    answers: list[Answer] = [NOT_SENT] * len(calls)
    delays_s = [0.0] * len(calls)
    start_s = clock()

    async def send_call(index: int, due_s: float) -> None:
        delays_s[index] = max(0.0, clock() - due_s)
        answers[index] = await send(calls[index])

    times = arrivals(load, len(calls))
    if times is not None:
        due_s = [start_s + time_s for time_s in times if time_s < duration_s]
        await _run_open_loop(due_s, send_call, stop, max_in_flight, clock)
        return LoadRun(answers, delays_s, clock() - start_s)

    remaining = iter(range(len(calls)))

    async def work(delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        for index in remaining:
            if stop.requested or clock() - start_s >= duration_s:
                return
            await send_call(index, clock())

    workers = min(load.concurrency or 1, len(calls))
    await asyncio.gather(*(work(load.ramp_s * worker / workers) for worker in range(workers)))
    return LoadRun(answers, delays_s, clock() - start_s)


async def _run_open_loop(
    due_s: Sequence[float],
    send_call: Callable[[int, float], Awaitable[None]],
    stop: StopSignal,
    max_in_flight: int,
    clock: Callable[[], float],
) -> None:
    """Send each call when it is due, without waiting for answers unless ``max_in_flight`` is reached."""
    slots = asyncio.Semaphore(max_in_flight)

    async def send_and_release(index: int) -> None:
        try:
            await send_call(index, due_s[index])
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for index, time_s in enumerate(due_s):
            wait_s = time_s - clock()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if stop.requested:
                return
            await slots.acquire()
            group.create_task(send_and_release(index))
