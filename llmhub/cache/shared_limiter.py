"""The interface of a rate limiter that processes share through a store, and its arithmetic.

- Each limit is a generic cell rate algorithm (GCRA): its whole state is one time, the theoretical arrival time (TAT),
  up to which it is booked. An amount is booked as the time in which the limit restores it.
- One call of `SharedLimiter.book` books all limits of a group of requests together, and the amounts of budgets with
  them. They begin together, at the latest of their times, so that a request that waits for one limit does not use up
  another before it is sent.
- The same call gives back what an earlier one booked and did not use, reports its caller alive, and passes on pauses:
  a pause that one worker reports is in the answer to the next call of each other worker.
- Amounts of time are whole microseconds, and amounts of money whole billionths of a dollar, so sums are exact. The time
  is that of the store, except that processes that share a file share its computer's clock.

Law: whatever workers book, the requests that begin by time ``t`` use at most ``burst + rate * t`` of each limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

MICROSECONDS: Final = 1_000_000
MEMBER_TTL_US: Final = 10 * MICROSECONDS
"""Time after the last of its bookings begins for which a worker counts as alive."""
MAX_AHEAD_US: Final = 3600 * MICROSECONDS
"""A limit that is booked further ahead was booked by a clock that was wrong since, and counts as unused."""


class Member(NamedTuple):
    """A worker, and the job it works for. Jobs get equal shares of a limit, and so do the workers of each job."""

    job: str
    worker: str


class RateBooking(NamedTuple):
    """A booking of one rate limit.

    Parameters
    ----------
    name
        The limit.
    duration_us
        The time in which the limit restores the amount that is booked.
    burst_us
        The time in which it restores what may be used at once.
    unused_us
        Booked earlier and not used; negative for what was used beyond a booking.
    """

    name: str
    duration_us: int
    burst_us: int
    unused_us: int = 0


class TotalBooking(NamedTuple):
    """A booking of a total that is never restored, such as a budget in billionths of a dollar.

    Parameters
    ----------
    name
        The total.
    amount
        Amount to book; as much of it as is left is granted. Negative to give back.
    limit
        The largest total.
    """

    name: str
    amount: int
    limit: int


class Lease(NamedTuple):
    """The result of a booking.

    Parameters
    ----------
    start_us
        When the booked time begins, from now on; negative if a part of the burst is granted. A request that uses
        ``amount`` of a limit, after others of the same lease that use ``before``, may be sent once
        ``before + min(amount, burst)`` of each limit would be restored after the beginning.
    paused_us
        For how long, from now on, every worker pauses; 0 for no pause.
    jobs, job_workers, workers
        Number of jobs alive, of workers of the caller's job, and of all workers.
    totals, used
        The amount granted of each total, and the total after it, in the order of the bookings.
    """

    start_us: int
    paused_us: int = 0
    jobs: int = 1
    job_workers: int = 1
    workers: int = 1
    totals: tuple[int, ...] = ()
    used: tuple[int, ...] = ()


class Book(Protocol):
    """Book limits and totals in one step; blocks, and may be called from any thread."""

    def __call__(
        self,
        scope: str,
        member: Member,
        rates: Sequence[RateBooking],
        totals: Sequence[TotalBooking] = (),
        pause_us: int = 0,
    ) -> Lease:
        """Return the lease.

        Parameters
        ----------
        scope
            Whose limits these are, such as an account; pauses and workers are counted in each scope.
        member
            The caller.
        rates, totals
            What is booked. Without bookings the caller only reports itself alive and reads the pause.
        pause_us
            A pause for all workers of the scope, from now on.

        Raises
        ------
        StoreError
            The store cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLimiter:
    """A rate limiter of all processes that share a store. The functions block and may be called from any thread.

    ``RedisCache``, ``DiskCache`` and a ``TieredCache`` with one of them have one: `Store.limiter`. The engine's part,
    which divides leases among calls and falls back where the store is lost, is `llmhub.engine.leased_limits`.

    Parameters
    ----------
    book
        Books limits and totals (see `Book`).
    leave
        ``leave(scope, member)``: the worker needs no share any more.

    Examples
    --------
    >>> limiter = memory_limiter(lambda: 0)
    >>> second = RateBooking("openai/requests", duration_us=1_000_000, burst_us=50_000)
    >>> [limiter.book("openai", Member("job", worker), [second]).start_us for worker in ("a", "b", "a")]
    [0, 1000000, 2000000]
    """

    book: Book
    leave: Callable[[str, Member], None]


def next_start(now: int, paused_until: int, booked: Sequence[tuple[int, RateBooking]]) -> int:
    """Return when limits that are booked up to some times can begin together; all times in microseconds.

    Examples
    --------
    >>> next_start(100, 0, [(50, RateBooking("requests", 10, 5)), (120, RateBooking("tokens", 10, 5))])
    120
    >>> next_start(100, 0, [(50, RateBooking("requests", 10, 5))])
    95
    """
    starts = [
        max(now - rate.burst_us, tat - rate.unused_us if tat <= now + MAX_AHEAD_US else 0) for tat, rate in booked
    ]
    return max(starts, default=now) if paused_until <= now else max([paused_until, *starts])


def next_tats(start: int, now: int, booked: Sequence[tuple[int, RateBooking]]) -> list[int]:
    """Return the times up to which limits are booked once ``start`` is granted.

    A limit of which nothing is booked only gets back what was not used.
    """
    return [
        start + rate.duration_us if rate.duration_us else max(tat - rate.unused_us, now - rate.burst_us)
        for tat, rate in booked
    ]


# In the memory of one process


@dataclass(slots=True)
class _Scope:
    """The pause of a scope, and until when each member counts; dead members are forgotten once a second."""

    paused_until: int = 0
    members: dict[Member, int] = field(default_factory=dict)
    workers_of_job: Counter[str] = field(default_factory=Counter)
    forget_at: int = 0

    def report_alive(self, member: Member, until: int, now: int) -> None:
        if member not in self.members:
            self.workers_of_job[member.job] += 1
        self.members[member] = until
        if now >= self.forget_at:
            self.forget_at = now + MICROSECONDS
            for dead in [found for found, alive_until in self.members.items() if alive_until <= now]:
                self.forget(dead)

    def forget(self, member: Member) -> None:
        if self.members.pop(member, None) is not None:
            self.workers_of_job[member.job] -= 1
            self.workers_of_job += Counter()  # drops jobs without workers


@dataclass(slots=True)
class _MemoryLimiter:
    """The state of limits by name, as every home of a limiter keeps it."""

    clock_us: Callable[[], int]
    tats: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    scopes: dict[str, _Scope] = field(default_factory=dict)

    def book(
        self,
        scope: str,
        member: Member,
        rates: Sequence[RateBooking],
        totals: Sequence[TotalBooking] = (),
        pause_us: int = 0,
    ) -> Lease:
        now = self.clock_us()
        state = self.scopes.setdefault(scope, _Scope())
        if pause_us:
            state.paused_until = max(state.paused_until, now + pause_us)
        booked = [(self.tats.get(rate.name, 0), rate) for rate in rates]
        start = next_start(now, state.paused_until, [pair for pair in booked if pair[1].duration_us])
        self.tats.update(zip((rate.name for rate in rates), next_tats(start, now, booked), strict=True))
        granted, used = [], []
        for name, amount, limit in totals:
            before = self.totals.get(name, 0)
            granted.append(max(min(amount, limit - before), 0) if amount > 0 else amount)
            self.totals[name] = before + granted[-1]
            used.append(self.totals[name])
        ahead = max((rate.duration_us for rate in rates), default=0)
        state.report_alive(member, max(start, now) + ahead + MEMBER_TTL_US, now)
        paused_us = max(state.paused_until - now, 0)
        counts = (len(state.workers_of_job), state.workers_of_job[member.job], len(state.members))
        return Lease(start - now, paused_us, *counts, tuple(granted), tuple(used))

    def leave(self, scope: str, member: Member) -> None:
        state = self.scopes.get(scope)
        if state is not None:
            state.forget(member)


def memory_limiter(clock_us: Callable[[], int]) -> SharedLimiter:
    """Return a limiter in the memory of this process; ``clock_us`` returns microseconds.

    It is used where a store is lost, and by simulations.
    """
    limiter = _MemoryLimiter(clock_us)
    return SharedLimiter(book=limiter.book, leave=limiter.leave)
