"""The shared limits of one target: calls use leases that a store grants to this process (`SharedLimiter`).

A lease is booked for as many calls as wait, at most for one second's worth of each limit, and for less where many
workers share it, so that a limit is booked only some seconds ahead and every job gets an equal share. The next lease is
booked shortly before the last slot of the present one. Unused slots are given back with the next booking.

If the store is lost, each worker falls back to its part of the limits, as many as there were workers, never to none.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from math import ceil, inf
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from llmhub.cache.shared_limiter import MICROSECONDS, Lease, Member, RateBooking, SharedLimiter, memory_limiter
from llmhub.cache.store import StoreError
from llmhub.core.provider import SECRET_FIELDS
from llmhub.engine.call import Target
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.limits import DIMENSIONS, EPSILON, Limit, RateCost, TokenBucket, initial_states

MAX_LEASE_S: Final = 1.0
"""A lease is for at most what a limit restores in this time."""
AHEAD_S: Final = 4.0
"""How far all workers together may book a limit ahead, if each has one lease."""
LEAD_SLOTS: Final = 2
"""The next lease is booked when the present one has so many slots left."""
LEAD_S: Final = 0.05
"""Or when it ends within this time, for limits of many requests per second."""
STALE_S: Final = 1.0
"""A slot that was not used for so long is given back, since many late slots used at once would be a burst."""
FLUSH_S: Final = 0.5
"""Time after which what was not used is given back, if no booking follows."""
REFUSED_PAUSE_S: Final = 1.0
"""Pause after a rate-limit error without ``Retry-After``."""

CallStore: TypeAlias = Callable[..., Awaitable[Any]]
"""Runs a blocking function with arguments and returns its result."""


class Waiting(Protocol):
    """An entry of the queue of calls."""

    @property
    def cost(self) -> RateCost:
        """The expected use of each limit."""
        ...


class _Rate(NamedTuple):
    """One shared limit: its name in the store, what it counts, and the time in which it restores one unit."""

    name: str
    dimension: int
    interval_us: float
    burst: float
    reason: str


@dataclass(slots=True)
class _Grant:
    """A lease in use: when it begins, how many calls it was booked for, and what of each limit is left and used."""

    start: float
    calls: int
    left: list[float]
    used: list[float]


@dataclass(slots=True)
class SharedLimits:
    """The shared limiter as one client uses it.

    Parameters
    ----------
    limiter
        The limiter of the store.
    job
        The job for which the client works.
    call_store
        Runs a blocking function of the store.
    """

    limiter: SharedLimiter
    job: str
    call_store: CallStore = run_in_thread
    member: Member = field(init=False)
    scopes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Name this worker."""
        self.member = Member(self.job, secrets.token_hex(8))

    def for_target(
        self,
        target: Target,
        limits: Mapping[str, Limit],
        waiting: Collection[Waiting],
        clock: Callable[[], float],
        events: LeaseEvents,
    ) -> LeasedLimits | None:
        """Return the shared limits that apply to a target; ``None`` if none does."""
        scope = account_scope(target)
        rates = [rate for name, limit in limits.items() for rate in _rates(scope, name, limit)]
        if not rates:
            return None
        self.scopes.add(scope)
        return LeasedLimits(self, scope, rates, waiting, clock, events)

    def close(self) -> None:
        """Report that this worker needs no share any more."""
        for scope in self.scopes:
            with suppress(StoreError):
                self.limiter.leave(scope, self.member)


class LeaseEvents(NamedTuple):
    """Callbacks of leased limits.

    Parameters
    ----------
    on_lease
        A lease has arrived.
    on_pause
        All workers pause until this time of the clock.
    record_decision
        Logs that the store was lost or came back.
    """

    on_lease: Callable[[], None]
    on_pause: Callable[[float], None]
    record_decision: RecordDecision


def lease_seconds(jobs: int, job_workers: int) -> float:
    """Return how much of a limit a worker may lease at once, as the time in which it is restored.

    Where there are several jobs, each books equally much in turn, at most what one worker may lease.

    Examples
    --------
    >>> lease_seconds(1, 1), lease_seconds(1, 1000), lease_seconds(2, 4)
    (1.0, 0.004, 0.25)
    """
    of_job_s = AHEAD_S if jobs == 1 else min(MAX_LEASE_S, AHEAD_S / jobs)
    return min(MAX_LEASE_S, of_job_s / job_workers)


def is_shared(limit: Limit) -> bool:
    """Return whether a declared limit is shared where the store has a limiter.

    Windows of other kinds than a token bucket, and requests per day, count in each process.
    """
    return limit.shared and limit.window is TokenBucket


def account_scope(target: Target) -> str:
    """Return the name of the account whose limits a target uses: provider, address and a digest of the credentials."""
    endpoint = target.endpoint
    parts = [endpoint.base_url, endpoint.region, endpoint.project]
    parts += [getattr(endpoint, name).reveal() for name in SECRET_FIELDS if name != "session_token"]
    digest = blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
    return f"{target.provider.name} {digest}"


def _rates(scope: str, name: str, limit: Limit) -> Iterable[_Rate]:
    for dimension, state in initial_states(limit, 0.0) if is_shared(limit) else ():
        if isinstance(state, TokenBucket):
            counts = DIMENSIONS[dimension]
            yield _Rate(
                f"{scope} {name} {counts}",
                dimension,
                MICROSECONDS / state.rate_per_s,
                state.capacity,
                f"{counts}, declared for {name}",
            )


class LeasedLimits:
    """The leases of one target. Use it on one event loop only.

    Parameters
    ----------
    shared
        The limiter of the client.
    scope
        The account.
    rates
        The limits, booked together.
    waiting
        The calls that wait for the target, first come first.
    clock
        Returns monotonic seconds.
    events
        What to call.
    """

    __slots__ = (
        "_asking", "_clock", "_events", "_flush", "_grants", "_lease_calls", "_local", "_lost", "_pausing",
        "_rates", "_scope", "_shared", "_unused", "_waiting", "job_workers", "jobs", "workers",
    )  # fmt: skip

    def __init__(
        self,
        shared: SharedLimits,
        scope: str,
        rates: list[_Rate],
        waiting: Collection[Waiting],
        clock: Callable[[], float],
        events: LeaseEvents,
    ) -> None:
        self.jobs = self.job_workers = self.workers = 1
        self._shared, self._scope, self._rates, self._waiting = shared, scope, rates, waiting
        self._clock, self._events = clock, events
        self._grants: deque[_Grant] = deque()
        self._unused = [0.0] * len(rates)
        self._asking: asyncio.Task[None] | None = None
        self._pausing: asyncio.Task[None] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._local = memory_limiter(lambda: int(clock() * MICROSECONDS))
        self._lost = False
        self._lease_calls = 0

    @property
    def counts_tokens(self) -> bool:
        """Whether one of the limits counts tokens."""
        return any(rate.dimension for rate in self._rates)

    def wait(self, cost: RateCost, now: float) -> tuple[float, str]:
        """Return how long a call has to wait, infinitely if no lease is there for it, and for which limit."""
        while self._grants:
            grant = self._grants[0]
            at, reason = -inf, ""
            for rate, left, used in zip(self._rates, grant.left, grant.used, strict=True):
                amount = cost[rate.dimension]
                if amount > left + EPSILON:
                    break
                due = grant.start + (used + min(amount, rate.burst)) * rate.interval_us / MICROSECONDS
                if due > at:
                    at, reason = due, rate.reason
            else:
                if now - at <= STALE_S + max(rate.burst * rate.interval_us for rate in self._rates) / MICROSECONDS:
                    return max(at - now, 0.0), reason
            self._give_back(self._grants.popleft())
        return inf, self._rates[0].reason

    def take(self, cost: RateCost) -> None:
        """Use a slot of the present lease for a call that `wait` let pass."""
        grant = self._grants[0]
        grant.calls -= 1
        for index, rate in enumerate(self._rates):
            grant.left[index] -= cost[rate.dimension]
            grant.used[index] += cost[rate.dimension]
        if grant.calls <= 0:
            self._give_back(self._grants.popleft())

    def refund(self, unused: RateCost) -> None:
        """Return what a call did not use of its estimate to the limits; negative amounts are booked."""
        for index, rate in enumerate(self._rates):
            self._unused[index] += unused[rate.dimension]
        self._flush_later()

    def pause(self, pause_s: float) -> None:
        """Pause all workers and drop the leases of this one, which books again afterwards."""
        while self._grants:
            self._give_back(self._grants.popleft())
        self._pausing = asyncio.get_running_loop().create_task(self._book((), ceil(pause_s * MICROSECONDS)))

    def ask(self) -> None:
        """Book the next lease if it is time to, or return leases that no call waits for."""
        if self._asking is not None:
            return
        if not self._waiting:
            while self._grants:
                self._give_back(self._grants.popleft())
            return
        granted = sum([grant.calls for grant in self._grants])
        lead = max(LEAD_SLOTS, LEAD_S * MICROSECONDS / max(rate.interval_us for rate in self._rates))
        # A worker with short leases must not hold two of them: it would get two shares.
        if granted < len(self._waiting) and granted <= min(lead, self._lease_calls // 2) and len(self._grants) <= 1:
            self._start(self._book(self._next_calls(granted)))

    def _next_calls(self, granted: int) -> list[RateCost]:
        """Return the costs of the waiting calls that the next lease is for."""
        # The first lease is for one call: its answer tells how many workers there are.
        lease_us = lease_seconds(self.jobs, self.job_workers) * MICROSECONDS if self._lease_calls else 0.0
        booked_us = [0.0] * len(self._rates)
        calls: list[RateCost] = []
        for waiter in islice(self._waiting, granted, None):
            for index, rate in enumerate(self._rates):
                booked_us[index] += waiter.cost[rate.dimension] * rate.interval_us
            if calls and max(booked_us) > lease_us + 1:
                break
            calls.append(waiter.cost)
        return calls

    def _start(self, work: Any) -> None:
        self._asking = asyncio.get_running_loop().create_task(work)

    async def _book(self, calls: Collection[RateCost], pause_us: int = 0) -> None:
        """Book a lease for some calls, and give back what was not used."""
        amounts = [sum([cost[rate.dimension] for cost in calls]) for rate in self._rates]
        unused, self._unused = self._unused, [0.0] * len(self._rates)
        lease = await self._lease(amounts, unused, pause_us)
        now = self._clock()
        if calls:
            self._lease_calls = len(calls)
            self._grants.append(_Grant(now + lease.start_us / MICROSECONDS, len(calls), amounts, [0.0] * len(amounts)))
        if lease.paused_us:
            self._events.on_pause(now + lease.paused_us / MICROSECONDS)
        if asyncio.current_task() is self._asking:
            self._asking = None
        self._events.on_lease()
        self.ask()

    async def _lease(self, amounts: list[float], unused: list[float], pause_us: int) -> Lease:
        """Return a lease of the store, or of this process's part of the limits where the store is lost."""
        member = self._shared.member
        try:
            rates = self._bookings(amounts, unused, 1)
            lease: Lease = await self._shared.call_store(
                self._shared.limiter.book, self._scope, member, rates, (), pause_us
            )
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self._set_lost(str(error) or type(error).__name__)
            return self._local.book(self._scope, member, self._bookings(amounts, unused, self.workers), (), pause_us)
        self._set_lost("")
        self.jobs, self.job_workers, self.workers = lease.jobs, lease.job_workers, lease.workers
        return lease

    def _bookings(self, amounts: list[float], unused: list[float], workers: int) -> list[RateBooking]:
        """Return what to book where this many workers have a part of each limit of their own."""
        return [
            RateBooking(
                rate.name,
                ceil(amount * rate.interval_us * workers),
                int(rate.burst * rate.interval_us),
                int(back * rate.interval_us * workers),
            )
            for rate, amount, back in zip(self._rates, amounts, unused, strict=True)
        ]

    def _set_lost(self, error: str) -> None:
        """Log a decision when the store is lost or comes back."""
        if bool(error) == self._lost:
            return
        self._lost = bool(error)
        part = f"1/{self.workers} of the limit in this process" if self.workers > 1 else "the limit in this process"
        detail = f"shared limits lost, using {part}: {error}" if error else "limits are shared again"
        self._events.record_decision("limiter", self._scope.partition(" ")[0], detail)

    def _give_back(self, grant: _Grant) -> None:
        for index, left in enumerate(grant.left):
            self._unused[index] += max(left, 0.0)
        if any(left > EPSILON for left in grant.left):
            self._flush_later()

    def _flush_later(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_now)

    def _flush_now(self) -> None:
        """Return unused amounts to the limits, unless a booking has done so."""
        self._flush = None
        if any(abs(unused) > EPSILON for unused in self._unused) and self._asking is None and not self._waiting:
            self._start(self._book(()))
