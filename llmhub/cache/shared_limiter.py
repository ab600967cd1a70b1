"""The interface of a rate limiter that processes share through a store, and its arithmetic.

- A rate is a generic cell rate algorithm (GCRA): its whole state is one time, the theoretical arrival time (TAT), up to
  which it is booked. An amount is booked as the time in which the limit restores it.
- A window counts what is used in it: a sliding one in slices, a fixed one from its first use on. Of an amount, as much
  as is left is granted.
- One call of `SharedLimiter.book` books all limits of a group of requests together, and the amounts of budgets with
  them. They begin together, at the latest of their times, so that a request that waits for one limit does not use up
  another before it is sent.
- The same call gives back what an earlier one booked and did not use, reports its caller alive, and passes on pauses:
  a pause that one worker reports is in the answer to the next call of each other worker.
- Amounts of time are whole microseconds, and amounts of money whole billionths of a dollar, so sums are exact. The time
  is that of the store, except that processes that share a file share its computer's clock.

Law: whatever workers book, the requests that begin by time ``t`` use at most ``burst + rate * t`` of each rate, and
those that begin within the length of a sliding window use at most its allowance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final, NamedTuple, Protocol

MICROSECONDS: Final = 1_000_000
MEMBER_TTL_US: Final = 10 * MICROSECONDS
"""Time after the last of its bookings begins for which a worker counts as alive."""
MAX_AHEAD_US: Final = 3600 * MICROSECONDS
"""A rate that is booked further ahead was booked by a clock that was wrong since, and counts as unused; what is booked
of a window counts from now on. What could begin only later, in the window of the next day for example, is not booked
at all."""
WINDOW_SLICES: Final = 60
"""Slices of a sliding window: what is booked in a slice counts until the whole slice is one window old."""


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


class WindowBooking(NamedTuple):
    """A booking of one window.

    Parameters
    ----------
    name
        The window.
    amount
        Amount to book; as much of it as is left when the lease begins is granted.
    minimum
        The lease begins once this much is left. More than ``allowed`` is granted alone.
    allowed
        The most that may be used in a window.
    window_us
        Its length.
    slides
        Whether it slides; otherwise a window begins with the first use after the end of the one before.
    unused
        Booked earlier and not used; negative for what was used beyond a booking.
    age_us
        How long ago the lease began with which ``unused`` was booked; negative if it has not begun.
    """

    name: str
    amount: int
    minimum: int
    allowed: int
    window_us: int
    slides: bool
    unused: int = 0
    age_us: int = 0


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
    windows
        The amount granted of each window, in the order of the bookings; nothing is booked, not of the rates either, if
        ``start_us`` is more than `MAX_AHEAD_US` away.
    """

    start_us: int
    paused_us: int = 0
    jobs: int = 1
    job_workers: int = 1
    workers: int = 1
    totals: tuple[int, ...] = ()
    used: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()


class Book(Protocol):
    """Book limits and totals in one step; blocks, and may be called from any thread."""

    def __call__(
        self,
        scope: str,
        member: Member,
        rates: Sequence[RateBooking],
        totals: Sequence[TotalBooking] = (),
        pause_us: int = 0,
        *,
        windows: Sequence[WindowBooking] = (),
        also_alive_in: str = "",
        leaves: bool = False,
    ) -> Lease:
        """Return the lease.

        Parameters
        ----------
        scope
            Whose limits these are, such as an account; pauses and workers are counted in each scope.
        member
            The caller.
        rates, totals, windows
            What is booked. Without bookings the caller only reports itself alive and reads the pause.
        pause_us
            A pause for all workers of the scope, from now on.
        also_alive_in
            Another scope in which the caller counts as alive.
        leaves
            Whether the caller does not count as alive any more.

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


def next_tats(start: int, now: int, booked: Sequence[tuple[int, RateBooking]], *, is_booked: bool = True) -> list[int]:
    """Return the times up to which limits are booked once ``start`` is granted.

    A limit of which nothing is booked only gets back what was not used.
    """
    return [
        start + rate.duration_us if rate.duration_us and is_booked else max(tat - rate.unused_us, now - rate.burst_us)
        for tat, rate in booked
    ]


def alive_time(start: int, now: int, ahead_us: int) -> int:
    """Return the time until which a worker counts as alive whose lease begins at ``start`` and lasts ``ahead_us``."""
    return min(max(start, now) + ahead_us, now + MAX_AHEAD_US) + MEMBER_TTL_US


# Windows: the amounts in use by slice, or by the beginning of a fixed window


def begin_window(at: int, entries: Mapping[int, int], window: WindowBooking) -> tuple[int, int]:
    """Return when the minimum of a booking can begin, not before ``at``, and what is used of the window then.

    Examples
    --------
    >>> begin_window(5, {0: 80}, WindowBooking("requests", 40, 10, 100, window_us=60, slides=False))
    (5, 80)
    >>> begin_window(5, {0: 80}, WindowBooking("requests", 40, 30, 100, window_us=60, slides=False))
    (60, 0)
    """
    _, _, minimum, allowed, window_us, slides, _, _ = window
    if not slides:
        began = max(entries, default=at)
        used = entries.get(began, 0)
        if at >= began + window_us or not used:
            return at, 0
        if used + minimum > allowed:
            # An amount above the allowance is paid for by the windows that follow.
            return began + window_us * max(1, ceil(used / allowed)), 0
        return max(at, began), used
    slice_us = window_us // WINDOW_SLICES
    at = max(at, max(entries, default=0) * slice_us)  # not before what was booked earlier
    used = sum(entries.values())
    for number, amount in sorted(entries.items()):
        expires_at = (number + 1) * slice_us + window_us
        if expires_at > at:
            if used + minimum <= allowed:
                break
            at = expires_at
        used -= amount
    return at, used


def book_window(now: int, at: int, entries: Mapping[int, int], window: WindowBooking, granted: int) -> dict[int, int]:
    """Return the amounts of a window once ``granted`` begins at a time, without those that have expired."""
    slice_us = window.window_us // WINDOW_SLICES if window.slides else 1
    kept_us = window.window_us + slice_us * window.slides
    current = {number: used for number, used in entries.items() if used and number * slice_us + kept_us > now}
    last = max(current, default=None)
    if window.slides:
        number = at // slice_us if last is None else max(at // slice_us, last)
    else:
        number = at if last is None or at >= last + window.window_us else last
    current[number] = current.get(number, 0) + granted
    return current


def redate_window(now: int, entries: Mapping[int, int], window: WindowBooking) -> dict[int, int]:
    """Return the amounts of a window, those that a wrong clock booked too far ahead counted from now on.

    Examples
    --------
    >>> redate_window(0, {0: 1, MAX_AHEAD_US: 2, 2 * MAX_AHEAD_US: 4}, WindowBooking("r", 1, 1, 9, 60, slides=False))
    {0: 5, 3600000000: 2}
    """
    slice_us = window.window_us // WINDOW_SLICES if window.slides else 1
    last, current = (now + MAX_AHEAD_US) // slice_us, now // slice_us
    redated: dict[int, int] = {}
    for number, used in entries.items():
        counted = number if number <= last else current
        redated[counted] = redated.get(counted, 0) + used
    return redated


def return_to_window(now: int, entries: Mapping[int, int], window: WindowBooking) -> dict[int, int]:
    """Return the amounts of a window once what was not used is given back.

    It is taken from the slices that expire first, so that never too much is left, or from the last ones if its lease
    has not begun.
    """
    unused, current = window.unused, redate_window(now, entries, window)
    if unused < 0:
        number = max(current, default=now // (window.window_us // WINDOW_SLICES) if window.slides else now)
        current[number] = current.get(number, 0) - unused
        return current
    for number in sorted(current, reverse=window.age_us < 0):
        if not window.slides and now - window.age_us < number:
            continue  # it was booked in a window before this one
        given = min(unused, current[number])
        current[number] -= given
        unused -= given
    return {number: used for number, used in current.items() if used}


def begin_windows(at: int, booked: Sequence[tuple[Mapping[int, int], WindowBooking]]) -> tuple[int, list[int]]:
    """Return when the minimums of all windows can begin together, not before ``at``, and what is used of each then."""
    while True:
        begun = [begin_window(at, entries, window) for entries, window in booked]
        latest = max((start for start, _ in begun), default=at)
        if latest == at:
            return at, [used for _, used in begun]
        at = latest


class Begun(NamedTuple):
    """When a booking begins: the time of its rates and windows, and the amount that is granted of each window."""

    start: int
    windows: tuple[int, ...]
    is_booked: bool = True


def begin_lease(
    now: int,
    paused_until: int,
    rates: Sequence[tuple[int, RateBooking]],
    windows: Sequence[tuple[Mapping[int, int], WindowBooking]],
) -> Begun:
    """Return when rates that are booked up to some times, and windows that are in use, can begin together."""
    start = next_start(now, paused_until, [pair for pair in rates if pair[1].duration_us])
    wanted = [pair for pair in windows if pair[1].amount]
    if not wanted:
        return Begun(start, (0,) * len(windows))
    earliest = max(start, now)
    at, used = begin_windows(earliest, wanted)
    if at > earliest:
        start = at
    if at > now + MAX_AHEAD_US:
        return Begun(start, (0,) * len(windows), is_booked=False)
    left = iter([window.allowed - amount for (_, window), amount in zip(wanted, used, strict=True)])
    granted = tuple(
        min(window.amount, max(next(left), window.minimum)) if window.amount else 0 for _, window in windows
    )
    return Begun(start, granted)


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
    windows: dict[str, dict[int, int]] = field(default_factory=dict)
    scopes: dict[str, _Scope] = field(default_factory=dict)

    def book(
        self,
        scope: str,
        member: Member,
        rates: Sequence[RateBooking],
        totals: Sequence[TotalBooking] = (),
        pause_us: int = 0,
        *,
        windows: Sequence[WindowBooking] = (),
        also_alive_in: str = "",
        leaves: bool = False,
    ) -> Lease:
        now = self.clock_us()
        state = self.scopes.setdefault(scope, _Scope())
        if pause_us:
            state.paused_until = max(state.paused_until, now + pause_us)
        booked = [(self.tats.get(rate.name, 0), rate) for rate in rates]
        counted = [(return_to_window(now, self.windows.get(window.name, {}), window), window) for window in windows]
        start, shares, is_booked = begin_lease(now, state.paused_until, booked, counted)
        tats = next_tats(start, now, booked, is_booked=is_booked)
        self.tats.update(zip((rate.name for rate in rates), tats, strict=True))
        for (entries, window), share in zip(counted, shares, strict=True):
            self.windows[window.name] = book_window(now, max(start, now), entries, window, share) if share else entries
        granted, used = [], []
        for name, amount, limit in totals:
            before = self.totals.get(name, 0)
            granted.append(max(min(amount, limit - before), 0) if amount > 0 else amount)
            self.totals[name] = before + granted[-1]
            used.append(self.totals[name])
        ahead = max((rate.duration_us for rate in rates), default=0)
        alive_until = alive_time(start, now, ahead)
        for each in (scope, also_alive_in) if also_alive_in else (scope,):
            known = self.scopes.setdefault(each, _Scope())
            known.report_alive(member, alive_until, now)
            if leaves:
                known.forget(member)
        paused_us = max(state.paused_until - now, 0)
        counts = (len(state.workers_of_job), state.workers_of_job[member.job], len(state.members))
        return Lease(start - now, paused_us, *counts, tuple(granted), tuple(used), shares)

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
