"""The shared limits of one target: calls use leases that a store grants to this process (`SharedLimiter`).

A lease is booked for as many calls as wait, at most for one second's worth of each limit, and for less where many
workers share it, so that a limit is booked only some seconds ahead and every job gets an equal share. The next lease is
booked shortly before the last slot of the present one. Unused slots are given back with the next booking.

The same call books what the calls may cost of a budget that processes share, and carries the counts of a job.

If the store is lost, each worker falls back to its part of the limits, as many as there were workers, never to none. If
the store was never reached, there are as many workers as the job said.

The file is long because slots are booked, used and given back in the same state.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import accumulate, islice
from math import ceil, inf
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from weakref import WeakSet

from llmhub.cache.shared_limiter import (
    MAX_AHEAD_US,
    MICROSECONDS,
    Lease,
    Member,
    RateBooking,
    SharedLimiter,
    TotalBooking,
    WindowBooking,
    memory_limiter,
)
from llmhub.cache.store import StoreError
from llmhub.core.provider import SECRET_FIELDS
from llmhub.engine.call import Target
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.limits import (
    DIMENSIONS,
    EPSILON,
    MINUTE_S,
    Limit,
    RateCost,
    SlidingWindow,
    TokenBucket,
    initial_states,
)

MAX_LEASE_S: Final = 1.0
"""A lease is for at most what a limit permits in this time."""
AHEAD_S: Final = 4.0
"""How far all workers together may book a limit ahead, if each has one lease."""
LEAD_SLOTS: Final = 2
"""The next lease is booked when the present one has so many slots left."""
LEAD_S: Final = 0.05
"""Or when it ends within this time, for limits of many requests per second."""
STALE_S: Final = 1.0
"""A slot that was not used for so long is given back, since many late slots used at once would be a burst."""
FLUSH_S: Final = 0.5
"""Time after which what was not used is given back, if no booking follows and no call uses it."""
GATHER_S: Final = 0.02
"""Time in which the first calls of a task gather, so that its first lease is not for one of them."""
UNSCOPED: Final = frozenset({"session_token", "access_token", "signing_secret"})
"""Credentials that do not tell accounts apart."""
REFUSED_PAUSE_S: Final = 1.0
"""Pause after a rate-limit error without ``Retry-After``."""

WINDOW_UNITS: Final = 1000
"""Amounts of windows are booked in thousandths."""
LEASES_PER_WINDOW: Final = 4
"""A lease is for at most this part of a window, divided by the number of workers."""
RECHECK_S: Final = 10.0
"""Time after which the store is asked again for a window that was used up for long."""

CallStore: TypeAlias = Callable[..., Awaitable[Any]]
"""Runs a blocking function with arguments and returns its result."""


class LeasedBudget(Protocol):
    """A budget that is booked together with leases."""

    def missing(self, amount: int) -> TotalBooking | None:
        """Return what to book so that calls that may cost ``amount`` fit; ``None`` if they do."""
        ...

    def add(self, granted: int) -> None:
        """Add what the store has granted."""
        ...

    def expect(self, amount: int) -> None:
        """Count a call that was admitted and is about to reserve ``amount``; negative if it was cancelled instead."""
        ...


class Reservation(NamedTuple):
    """The most that a call may cost, and the shared budget that pays for it; in nano USD."""

    budget: LeasedBudget
    amount: int


RESERVATIONS: Final[ContextVar[tuple[Reservation, ...]]] = ContextVar("llmhub_reservations", default=())
"""What the call that is being admitted may cost."""


class Waiting(Protocol):
    """An entry of the queue of calls."""

    @property
    def cost(self) -> RateCost:
        """The expected use of each limit."""
        ...

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """The parts of shared budgets that it may cost."""
        ...


class CarriedTotals(Protocol):
    """Totals that travel with leases, such as the counts of a job. Called on the loop."""

    @property
    def scope(self) -> str:
        """The scope in which they report this worker alive."""
        ...

    def take(self) -> list[TotalBooking]:
        """Return what to add to the totals."""
        ...

    def on_booked(self, used: tuple[int, ...]) -> None:
        """Check the totals."""
        ...

    def on_lost(self, taken: list[TotalBooking]) -> None:
        """Restore what could not be booked."""
        ...


class _Limit(NamedTuple):
    """One shared limit: its name in the store, what it counts, and how.

    A rate restores one unit in ``interval_us``, and ``burst`` units may be used at once. A window has a length instead.
    """

    name: str
    dimension: int
    reason: str
    interval_us: float = 0.0
    burst: float = 0.0
    allowed: float = 0.0
    window_us: int = 0
    slides: bool = False

    @property
    def permitted_per_s(self) -> float:
        """Amount that a rate permits in a second on average: what it restores, and a part of the burst."""
        return MICROSECONDS / self.interval_us + self.burst / MINUTE_S


@dataclass(slots=True)
class _Grant:
    """A lease in use: when it begins, how many calls it was booked for, and what of each limit is left and used.

    ``parts`` is into how many parts each limit was divided for it, since the store was lost.
    """

    start: float
    calls: int
    left: list[float]
    used: list[float]
    parts: int = 1


class _Unused:
    """Amounts of each limit that were booked and not used, and when the oldest of them began."""

    __slots__ = ("amounts", "oldest")

    def __init__(self, count: int) -> None:
        self.amounts = [0.0] * count
        self.oldest = [inf] * count

    def add(self, index: int, amount: float, began: float) -> None:
        self.amounts[index] += amount
        self.oldest[index] = min(self.oldest[index], began)

    def __bool__(self) -> bool:
        return any(abs(amount) > EPSILON for amount in self.amounts)


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
    workers
        Workers that share the limits, where the store cannot be asked.
    carried
        What leases carry along, in turn.
    """

    limiter: SharedLimiter
    job: str
    call_store: CallStore = run_in_thread
    workers: int = 1
    carried: deque[CarriedTotals] = field(default_factory=deque)
    member: Member = field(init=False)
    leased: WeakSet[LeasedLimits] = field(default_factory=WeakSet)
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
        shared = [each for name, limit in limits.items() for each in _shared_limits(scope, name, limit)]
        if not shared:
            return None
        leased = LeasedLimits(self, scope, shared, waiting, clock, events)
        self.leased.add(leased)
        return leased

    def next_carried(self) -> CarriedTotals | None:
        """Return what the next lease carries along."""
        try:
            self.carried.rotate(-1)
            return self.carried[0]
        except IndexError:  # another thread may remove the last one
            return None

    def applies_to(self, names: Iterable[str], limits: Mapping[str, Limit]) -> bool:
        """Return whether calls of all these models use shared limits."""
        shared = {name for name, limit in limits.items() if limit.shared}
        return all(name in shared or name.partition("/")[0] in shared for name in names)

    async def leave(self, carried: CarriedTotals, totals: Sequence[TotalBooking]) -> Lease | None:
        """Book the last totals of a worker that ends, give back its leases, and report that it needs no share.

        Returns ``None`` where this client has no leases, or others than the worker use them. On the event loop.
        """
        for each in tuple(self.leased):
            await each.settle()
        free = [each for each in self.leased if each.scope in self.scopes and each.is_idle]
        if self.carried or not free:
            return None
        last = max(free, key=lambda each: each.has_unused)
        lease: Lease = await self.call_store(last.book_last(carried.scope), self.member, totals)
        self.scopes.discard(last.scope)
        return lease

    def close(self) -> None:
        """Report that this worker needs no share any more."""
        for scope in self.scopes:
            with suppress(StoreError):
                self.limiter.leave(scope, self.member)


class Demand(NamedTuple):
    """The calls of a target that come after those that wait, as far as the runs know that send them.

    Parameters
    ----------
    upcoming
        Calls that have not come to the limiter yet.
    at_once
        Calls that could be sent, with those that wait, before any reply arrives.
    """

    upcoming: int
    at_once: int


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
    demand
        Returns the calls that are still to come; ``None`` if it is not known.
    """

    on_lease: Callable[[], None]
    on_pause: Callable[[float], None]
    record_decision: RecordDecision
    demand: Callable[[], Demand | None]


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


def account_scope(target: Target) -> str:
    """Return the name of the account whose limits a target uses: provider, address and a digest of the credentials."""
    endpoint = target.endpoint
    parts = [endpoint.base_url, endpoint.region, endpoint.project]
    parts += [getattr(endpoint, name).reveal() for name in SECRET_FIELDS if name not in UNSCOPED]
    digest = blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
    return f"{target.provider.name} {digest}"


def _shared_limits(scope: str, name: str, limit: Limit) -> Iterable[_Limit]:
    for dimension, state in initial_states(limit, 0.0) if limit.shared else ():
        counts = DIMENSIONS[dimension]
        where, reason = f"{scope} {name} {counts}", f"{counts}, declared for {name}"
        if isinstance(state, TokenBucket):
            interval_us = MICROSECONDS / state.rate_per_s
            yield _Limit(where, dimension, reason, interval_us, state.capacity)
        else:
            # A slot may be used some time after the lease began.
            window_us = ceil((state.window_s + STALE_S) * MICROSECONDS)
            slides = isinstance(state, SlidingWindow)
            name_of_window = f"{where} in {state.window_s:g} s"
            yield _Limit(name_of_window, dimension, reason, allowed=state.allowed, window_us=window_us, slides=slides)


class LeasedLimits:
    """The leases of one target. Use it on one event loop only.

    Parameters
    ----------
    shared
        The limiter of the client.
    scope
        The account.
    limits
        The limits, booked together.
    waiting
        The calls that wait for the target, first come first.
    clock
        Returns monotonic seconds.
    events
        What to call.
    """

    __slots__ = (
        "__weakref__", "_asking", "_clock", "_events", "_flush", "_grants", "_lease_calls", "_limits", "_local",
        "_lost", "_pausing", "_reached", "_recheck_at", "_scope", "_second_began", "_shared", "_taken",
        "_taken_before", "_unused", "_used_at", "_used_up", "_used_up_until", "_waiting", "_was_full", "job_workers",
        "jobs", "workers",
    )  # fmt: skip

    def __init__(
        self,
        shared: SharedLimits,
        scope: str,
        limits: list[_Limit],
        waiting: Collection[Waiting],
        clock: Callable[[], float],
        events: LeaseEvents,
    ) -> None:
        self.jobs, self.job_workers, self.workers = 1, shared.workers, shared.workers
        self._shared, self._scope, self._limits, self._waiting = shared, scope, limits, waiting
        self._clock, self._events = clock, events
        self._grants: deque[_Grant] = deque()
        self._unused = _Unused(len(limits))
        self._asking: asyncio.Task[None] | None = None
        self._pausing: asyncio.Task[None] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._local = memory_limiter(lambda: int(clock() * MICROSECONDS))
        self._lost = self._reached = self._was_full = False
        self._lease_calls = self._taken = self._taken_before = 0
        self._second_began = self._used_at = -inf
        self._used_up_until = self._recheck_at = -inf
        self._used_up = ""

    @property
    def counts_tokens(self) -> bool:
        """Whether one of the limits counts tokens."""
        return any(limit.dimension for limit in self._limits)

    def wait(self, cost: RateCost, now: float) -> tuple[float, str]:
        """Return how long a call has to wait, infinitely if no lease is there for it, and for which limit."""
        while self._grants:
            grant = self._grants[0]
            at, reason = -inf, ""
            for limit, left, used in zip(self._limits, grant.left, grant.used, strict=True):
                amount = cost[limit.dimension]
                if amount > left + EPSILON:
                    break
                slots = (used + min(amount, limit.burst)) * grant.parts
                due = grant.start + slots * limit.interval_us / MICROSECONDS
                if due > at:
                    at, reason = due, limit.reason
            else:
                if now - at <= STALE_S + max(limit.burst * limit.interval_us for limit in self._limits) / MICROSECONDS:
                    return max(at - now, 0.0), reason
            self._give_back(self._grants.popleft())
        if now < self._recheck_at:
            return self._used_up_until - now, self._used_up
        return inf, self._limits[0].reason

    def take(self, cost: RateCost) -> None:
        """Use a slot of the present lease for a call that `wait` let pass."""
        now = self._used_at = self._clock()
        if now >= self._second_began + 1.0:
            self._taken_before = self._taken if now < self._second_began + 2.0 else 0
            self._second_began, self._taken = now, 0
        self._taken += 1
        grant = self._grants[0]
        grant.calls -= 1
        for index, limit in enumerate(self._limits):
            grant.left[index] -= cost[limit.dimension]
            grant.used[index] += cost[limit.dimension]
        if grant.calls <= 0:
            self._give_back(self._grants.popleft())

    def refund(self, unused: RateCost, booked_at: float) -> None:
        """Return what a call did not use of its estimate to the limits; negative amounts are booked.

        ``booked_at`` is when the call was admitted.
        """
        for index, limit in enumerate(self._limits):
            self._unused.add(index, unused[limit.dimension], booked_at - STALE_S)
        self._flush_later()

    def pause(self, pause_s: float) -> None:
        """Pause all workers and drop the leases of this one, which books again afterwards."""
        while self._grants:
            self._give_back(self._grants.popleft())
        self._pausing = asyncio.get_running_loop().create_task(self._book((), ceil(pause_s * MICROSECONDS)))

    @property
    def scope(self) -> str:
        """The account."""
        return self._scope

    @property
    def is_idle(self) -> bool:
        """Whether no call waits, and no booking is on its way."""
        return not self._waiting and self._asking is None

    @property
    def has_unused(self) -> bool:
        """Whether something was booked and not used."""
        return bool(self._grants) or bool(self._unused)

    async def settle(self) -> None:
        """Wait for a booking that is on its way."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def book_last(self, also_in: str) -> Callable[[Member, Sequence[TotalBooking]], Lease]:
        """Return a function that gives back what was not used, and leaves the account and another scope."""
        while self._grants:
            self._give_back(self._grants.popleft())
        unused, self._unused = self._unused, _Unused(len(self._limits))
        book = self._booking((), unused, 1, also_in, leaves=True)
        return lambda member, totals: book(self._shared.limiter.book, self._scope, member, totals, 0)

    def ask(self) -> None:
        """Book the next lease if it is time to, or return leases that no call waits for."""
        if self._asking is not None:
            return
        if not self._waiting:
            if self._grants:
                self._flush_later()  # calls may come that use them
            return
        if self._clock() < self._recheck_at:
            return
        granted = sum([grant.calls for grant in self._grants])
        slowest_us = max(limit.interval_us for limit in self._limits) or MICROSECONDS
        lead = max(LEAD_SLOTS, LEAD_S * MICROSECONDS / slowest_us)
        # A worker with short leases must not hold two of them: it would get two shares.
        if granted < len(self._waiting) and granted <= min(lead, self._lease_calls // 2) and len(self._grants) <= 1:
            self._start(self._book_next(granted))

    async def _book_next(self, granted: int) -> None:
        """Book a lease for the calls that wait without one."""
        if not self._grants and not self._was_full and self._shared.carried:
            await asyncio.sleep(GATHER_S)
        calls = self._next_calls(granted)
        if not calls:  # they were cancelled meanwhile
            self._asking = None
            return
        earlier = list(islice(self._waiting, granted))
        earlier += calls[-1:] * (granted - len(earlier))
        await self._book(calls, reserved_for=earlier + calls)

    def _next_calls(self, granted: int) -> list[Waiting]:
        """Return the calls that the next lease is for: those that wait, and as many like the last of them as will."""
        # The first lease is for one call, unless it is known how many workers there are: its answer tells.
        is_known = self._lease_calls or self.job_workers > 1
        lease_s = lease_seconds(self.jobs, self.job_workers) if is_known else 0.0
        parts = LEASES_PER_WINDOW * self.workers
        booked = [0.0] * len(self._limits)
        waiting = list(islice(self._waiting, granted, None))
        calls: list[Waiting] = []
        more = self._more_calls(granted, len(waiting))
        self._was_full = False
        for waiter in waiting + waiting[-1:] * more:
            is_full = False
            for index, limit in enumerate(self._limits):
                booked[index] += waiter.cost[limit.dimension]
                is_full = is_full or (
                    booked[index] * parts > limit.allowed
                    if limit.window_us
                    else booked[index] > lease_s * limit.permitted_per_s + EPSILON
                )
            if calls and (is_full or not lease_s):
                self._was_full = bool(lease_s) and len(calls) < len(waiting)
                break
            calls.append(waiter)
        return calls

    def _more_calls(self, granted: int, waiting: int) -> int:
        """Return how many calls will come before the end of a lease, after those that wait without one.

        Fewer calls wait at a time than a run sends in a second, so a lease may be for more than it sent in one.
        """
        sent = max(self._taken, self._taken_before)
        demand = self._events.demand()
        if demand is None:
            # Where enough have waited for whole leases, fewer mean that the run comes to its end.
            return 0 if self._was_full else 2 * sent - waiting
        return min(demand.upcoming, max(demand.at_once - granted, sent + sent // 4) - waiting)

    def _start(self, work: Any) -> None:
        self._asking = asyncio.get_running_loop().create_task(work)

    async def _book(
        self, calls: Collection[Waiting], pause_us: int = 0, *, reserved_for: Collection[Waiting] = ()
    ) -> None:
        """Book a lease for some calls, and give back what was not used.

        Budgets are booked for ``reserved_for``, which includes the calls that have a lease and still wait.
        """
        unused, self._unused = self._unused, _Unused(len(self._limits))
        lease = await self._lease(calls, unused, pause_us, reserved_for)
        now = self._clock()
        if calls:
            self._add_grant(calls, lease, now)
        if lease.paused_us:
            self._events.on_pause(now + lease.paused_us / MICROSECONDS)
        if asyncio.current_task() is self._asking:
            self._asking = None
        self._events.on_lease()
        self.ask()

    def _add_grant(self, calls: Collection[Waiting], lease: Lease, now: float) -> None:
        """Use a lease for as many of the calls as it is enough for."""
        start = now + lease.start_us / MICROSECONDS
        windows = [index for index, limit in enumerate(self._limits) if limit.window_us]
        if windows and lease.start_us > MAX_AHEAD_US and not any(lease.windows):
            # One second more, so that this is always too long a wait.
            self._used_up_until, self._recheck_at = start + 1.0, now + RECHECK_S
            self._used_up = self._limits[windows[0]].reason
            return
        count = len(calls)
        for index, granted in zip(windows, lease.windows, strict=True):
            used = accumulate(_units(call.cost[self._limits[index].dimension]) for call in calls)
            count = min(count, sum([amount <= granted for amount in used]))
        amounts = self._amounts(list(calls)[:count])
        for index, booked in enumerate(self._amounts(calls)):
            if not self._limits[index].window_us:
                self._unused.add(index, booked - amounts[index], start)
        for index, granted in zip(windows, lease.windows, strict=True):
            self._unused.add(index, granted / WINDOW_UNITS - amounts[index], start)
        self._lease_calls = count
        self._grants.append(_Grant(start, count, amounts, [0.0] * len(amounts), self.workers if self._lost else 1))

    def _amounts(self, calls: Collection[Waiting]) -> list[float]:
        """Return what calls use of each limit."""
        return [sum([call.cost[limit.dimension] for call in calls]) for limit in self._limits]

    async def _lease(
        self, calls: Collection[Waiting], unused: _Unused, pause_us: int, reserved_for: Collection[Waiting]
    ) -> Lease:
        """Return a lease of the store, or of this process's part of the limits where the store is lost."""
        member, shared = self._shared.member, self._shared
        budgets: dict[LeasedBudget, int] = {}
        for call in reserved_for:
            for budget, amount in call.reservations:
                budgets[budget] = budgets.get(budget, 0) + amount
        wanted = [(budget, booking) for budget, amount in budgets.items() if (booking := budget.missing(amount))]
        carrier = shared.next_carried()
        taken = carrier.take() if carrier is not None else []
        totals = [booking for _, booking in wanted] + taken
        book = self._booking(calls, unused, 1, carrier.scope if carrier is not None else "")
        try:
            lease: Lease = await shared.call_store(
                partial(book, shared.limiter.book), self._scope, member, totals, pause_us
            )
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            if carrier is not None:
                carrier.on_lost(taken)
            if not self._reached:
                self.workers = max(self.workers, shared.workers)
            self._set_lost(str(error) or type(error).__name__)
            return self._booking(calls, unused, self.workers)(self._local.book, self._scope, member, (), pause_us)
        self._set_lost("")
        self._reached = True
        shared.scopes.add(self._scope)
        self.jobs, self.job_workers, self.workers = lease.jobs, lease.job_workers, lease.workers
        for (budget, _), granted in zip(wanted, lease.totals, strict=False):
            budget.add(granted)
        if carrier is not None:
            carrier.on_booked(lease.used[len(wanted) :])
        return lease

    def _booking(
        self,
        calls: Collection[Waiting],
        unused: _Unused,
        workers: int,
        also_alive_in: str = "",
        *,
        leaves: bool = False,
    ) -> Callable[..., Lease]:
        """Return a function that books calls where this many workers have a part of each limit of their own."""
        now = self._clock()
        rates: list[RateBooking] = []
        windows: list[WindowBooking] = []
        amounts, first = self._amounts(calls), next(iter(calls), None)
        for limit, amount, back, oldest in zip(self._limits, amounts, unused.amounts, unused.oldest, strict=True):
            if limit.window_us:
                units = sum([_units(call.cost[limit.dimension]) for call in calls])
                minimum = _units(first.cost[limit.dimension]) if first is not None else 0
                allowed = max(int(limit.allowed * WINDOW_UNITS / workers), 1)
                age_us = int((now - oldest) * MICROSECONDS) if oldest < inf else 0
                unused_units = int(back * WINDOW_UNITS // 1)
                windows.append(
                    WindowBooking(
                        limit.name, units, minimum, allowed, limit.window_us, limit.slides, unused_units, age_us
                    )
                )
                continue
            rates.append(
                RateBooking(
                    limit.name,
                    ceil(amount * limit.interval_us * workers),
                    int(limit.burst * limit.interval_us),
                    int(back * limit.interval_us * workers),
                )
            )
        # Limiters of plugins need not know more than rates, as long as nothing else is asked of them.
        others: dict[str, Any] = {"windows": windows} if windows else {}
        if also_alive_in:
            others["also_alive_in"] = also_alive_in
        if leaves:
            others["leaves"] = True

        def book(limiter: Any, scope: str, member: Member, totals: Any, pause_us: int) -> Lease:
            lease: Lease = limiter(scope, member, rates, totals, pause_us, **others)
            return lease

        return book

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
            self._unused.add(index, max(left, 0.0), grant.start)
        if any(left > EPSILON for left in grant.left):
            self._flush_later()

    def _flush_later(self) -> None:
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_now)

    def _flush_now(self) -> None:
        """Return unused amounts to the limits, unless a booking has done so, and leases that no call has used."""
        self._flush = None
        if self._waiting or self._asking is not None:
            return
        if self._clock() < self._used_at + FLUSH_S - EPSILON:
            self._flush_later()
            return
        while self._grants:
            self._give_back(self._grants.popleft())
        if self._unused:
            self._start(self._book(()))


def _units(amount: float) -> int:
    """Return an amount of a window in the units in which it is booked."""
    return ceil(amount * WINDOW_UNITS - EPSILON)
