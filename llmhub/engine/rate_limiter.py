"""Admit calls within declared limits, limits learned from replies, and adaptive limits.

Calls wait in the order in which they came, those of the bulk lane after all others. Each is woken once, when it may be
sent: by a timer set to that moment, or by an event that admits it earlier. A provider's limits are shared by the
limiters of its models; a call never overtakes another of its lane that waits for the same limit. A call that waits
gives up its concurrency slot and is admitted when it has one again.

Where every request is refused for long, calls that would have to wait fail instead, with the provider's words.

The file is long because admission and learning change the state of the same limiters.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple

from returns.result import Failure, Success

from llmhub.core.errors import LLMError, RateLimited
from llmhub.core.pricing import requested_output_tokens
from llmhub.core.provider import RateLimitInfo
from llmhub.engine.adaptive_limit import (
    AdaptiveState,
    RefusedRequest,
    max_in_flight,
    on_pace_wait,
    on_paced_request,
    on_rate_limited,
    on_success,
    slow_start,
    start_unbounded,
)
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.leased_limits import (
    REFUSED_PAUSE_S,
    RESERVATIONS,
    Demand,
    LeasedLimits,
    LeaseEvents,
    Reservation,
    SharedLimits,
)
from llmhub.engine.limits import (
    DIMENSIONS,
    NO_COST,
    ONE_REQUEST,
    RESET_PRECISION_S,
    TYPICAL_OUTPUT_TOKENS,
    LearnedLimit,
    Limit,
    RateCost,
    WindowState,
    add_costs,
    estimate_cost,
    initial_states,
    learn_limit,
    per_minute,
    refund,
    reported_limits,
    take,
)
from llmhub.engine.observer import NS_PER_S, emit_wait
from llmhub.engine.scheduling import BULK_LANE, RETRIED_CALL, ConcurrencySlots, RetriedCall, Slot, current_slot

MAX_REFUSAL_AGE_S: Final = 120.0
"""Refusals this old say nothing about the present."""
SHOWN_REFUSALS_S: Final = 2.0
"""Refusals of a shorter time are not shown as what holds a run up."""
MIN_WAIT_S: Final = 1e-6
"""Shorter waits are rounding errors."""
RAMP_POLL_S: Final = 0.002
"""How often to check again while the adaptive limit grows by itself."""
MAX_WAIT_S: Final = 3600.0
"""A call that would wait longer, for the allowance of a day for example, fails at once."""
MAX_LEARNED_WAIT_S: Final = 300.0
"""Limits learned from replies delay no call longer: a daily limit is left to the provider to enforce."""
LEARN_INTERVAL_S: Final = 0.005
"""Of replies closer together, only rate-limit errors are learned from."""
FULL_RESET_SHARE: Final = 0.8
"""A ``Retry-After`` of at least this share of a reset means that the limit is restored all at once."""
OUTPUT_EWMA_WEIGHT: Final = 0.1
"""Weight of the latest response in the moving average of output tokens."""


class LimitState:
    """One limit and its state, possibly shared by the limiters of several models.

    Parameters
    ----------
    dimension
        What it counts: an index of `DIMENSIONS`.
    state
        The window's state.
    source
        Who set it, for messages.
    max_wait_s
        The longest it may delay a call.
    """

    __slots__ = ("dimension", "learned_at", "max_wait_s", "reason", "state")

    def __init__(self, dimension: int, state: WindowState, source: str, max_wait_s: float = inf) -> None:
        self.dimension = dimension
        self.state = state
        self.reason = f"{DIMENSIONS[dimension]}, {source}"
        self.max_wait_s = max_wait_s
        self.learned_at = -inf
        """When the request was sent whose reply taught it; never for a declared limit."""


class Wait(NamedTuple):
    """Why a call cannot be sent yet.

    Parameters
    ----------
    wait_s
        For how long; infinite where only the end of another call can admit it.
    reason
        What it waits for, for messages.
    limit
        The limit it waits for, if it is one.
    """

    wait_s: float
    reason: str
    limit: LimitState | None = None


class Permit(NamedTuple):
    """Permission to send a call.

    Parameters
    ----------
    granted_at
        When it was granted.
    cost
        What was booked for it.
    booked_total
        All that had been booked at the target then, including it.
    least_tokens
        Tokens that the provider counts whatever is used; the rest of what was booked is refunded.
    adds_input
        Whether it counts the tokens of the input beside them.
    others
        Calls that were in flight when it was granted.
    rate_per_s
        The pace at which it was granted, if calls were paced.
    """

    granted_at: float
    cost: RateCost
    booked_total: RateCost
    least_tokens: float = 0.0
    adds_input: bool = False
    others: int = 0
    rate_per_s: float | None = None


class Refusals(NamedTuple):
    """Rate-limit errors without another answer in between.

    Parameters
    ----------
    since, until
        When the first and the last of them arrived.
    error
        The last one.
    """

    since: float
    until: float
    error: RateLimited


NO_SLOT: Final = Wait(inf, "concurrency of the run")
RETRY_EXPIRED: Final = Wait(inf, "deadline of the retry")
GIVEN_UP: Final = Wait(inf, "the provider refuses every request")


BULK_TICKETS: Final = 1 << 62
"""Added to the tickets of bulk calls, so that every other call precedes them."""


class _Waiter(NamedTuple):
    ticket: int
    cost: RateCost
    granted: asyncio.Future[Permit | Wait]
    slot: Slot | None
    reservations: tuple[Reservation, ...] = ()


class TargetLimiter:
    """The limits of one target and the calls waiting for them.

    Parameters
    ----------
    name
        The target's name.
    limits
        Declared limits; learned ones are added.
    adaptive
        The adaptive limit, if any.
    """

    __slots__ = (
        "adaptive", "booked", "counts_tokens", "in_flight", "learned_at", "learned_limits", "learned_states", "leased",
        "limits", "name", "paused_until", "refusals", "typical_output_tokens", "used_at",
        "wait_reason", "waiters",
    )  # fmt: skip

    def __init__(self, name: str, limits: list[LimitState], adaptive: AdaptiveState | None) -> None:
        self.name = name
        self.limits = limits
        self.adaptive = adaptive
        self.learned_limits: list[LearnedLimit | None] = [None] * len(DIMENSIONS)
        self.learned_states: dict[int, LimitState] = {}
        self.in_flight = 0
        self.used_at = -inf
        self.paused_until = self.learned_at = -inf
        self.refusals: Refusals | None = None
        self.booked = NO_COST
        self.typical_output_tokens = float(TYPICAL_OUTPUT_TOKENS)
        self.counts_tokens = any(limit.dimension for limit in limits)
        self.waiters: deque[_Waiter] = deque()
        self.wait_reason = ""
        self.leased: LeasedLimits | None = None
        """Limits that other processes share; they are booked in leases."""


class TargetState(NamedTuple):
    """State of a target's limiter at one moment.

    Parameters
    ----------
    name
        The target's name.
    in_flight, waiting
        Calls that were sent and not answered, and calls that wait.
    max_in_flight
        Calls that it sends at once, as far as it has learned; infinite without a bound.
    wait_reason
        What the waiting calls wait for.
    paused_s
        For how long it sends nothing.
    reported
        Limits that the provider has reported: what they count, and how much of it a minute.
    """

    name: str
    in_flight: int
    waiting: int
    max_in_flight: float
    wait_reason: str
    paused_s: float
    reported: tuple[tuple[str, float], ...]


class RateLimiter:
    """Admits calls to all targets of a hub. Use it on one event loop only.

    Parameters
    ----------
    limits
        Declared limits by provider or ``provider/model``.
    clock
        Returns monotonic seconds of the loop's clock.
    record_decision
        Logs waits, and limits that were learned or adapted.
    adaptive
        Whether to find the limits of targets without a declared one by trial.
    shared
        The limiter that other processes use as well; ``None`` if the declared limits are of this process alone.
    refusal_deadline_s
        How long a provider may refuse every request before calls that would have to wait fail instead.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        clock: Callable[[], float],
        record_decision: RecordDecision,
        *,
        adaptive: bool = True,
        shared: SharedLimits | None = None,
        refusal_deadline_s: float = inf,
    ) -> None:
        self._clock = clock
        self._refusal_deadline_s = refusal_deadline_s
        self._limits, self._shared = limits, shared
        self._record_decision = record_decision
        self._adaptive = adaptive
        self._declared = {
            name: [LimitState(dimension, state, f"declared for {name}") for dimension, state in states]
            for name, states in ((name, self._states_of_process(limit)) for name, limit in limits.items())
        }
        self._limiters: dict[str, TargetLimiter] = {}
        self._waiting: set[TargetLimiter] = set()
        self._tickets = count()
        self._timer: asyncio.TimerHandle | None = None

    def for_target(self, target: Target) -> TargetLimiter:
        """Return the limiter of a target."""
        limiter = self._limiters.get(target.name)
        if limiter is None:
            names = (target.provider.name, target.name)
            limits = [limit for name in names for limit in self._declared.get(name, ())]
            adaptive = (start_unbounded if limits else slow_start)(self._clock()) if self._adaptive else None
            limiter = self._limiters[target.name] = TargetLimiter(target.name, limits, adaptive)
            limiter.used_at = self._clock()
            self._lease_limits(limiter, target, names)
        return limiter

    def forget_idle(self, number: int) -> list[str]:
        """Forget the ``number`` targets that have been idle for longest, and return their names.

        Limits declared for a target are never forgotten, those declared for its provider are of all its targets.
        """
        now = self._clock()
        idle = [
            limiter
            for limiter in self._limiters.values()
            if not limiter.in_flight
            and not limiter.waiters
            and limiter.paused_until <= now
            and limiter.name not in self._limits
        ]
        idle.sort(key=attrgetter("used_at"))
        names = [limiter.name for limiter in idle[:number]]
        for name in names:
            del self._limiters[name]
        return names

    def _states_of_process(self, limit: Limit) -> list[tuple[int, WindowState]]:
        """Return the windows of a declared limit that are not shared with other processes."""
        return [] if self._shared is not None and limit.shared else initial_states(limit, self._clock())

    def _lease_limits(self, limiter: TargetLimiter, target: Target, names: Collection[str]) -> None:
        """Let a limiter use leases of the limits that processes share."""
        if self._shared is None:
            return

        def on_pause(until: float) -> None:
            limiter.paused_until = max(limiter.paused_until, until)

        limits = {name: self._limits[name] for name in names if name in self._limits}
        events = LeaseEvents(self._admit_waiters, on_pause, self._record_decision, partial(_demand, limiter))
        limiter.leased = self._shared.for_target(target, limits, limiter.waiters, self._clock, events)
        if limiter.leased is not None:
            limiter.adaptive = None  # a search by one worker would be disturbed by the others
            limiter.counts_tokens = limiter.counts_tokens or limiter.leased.counts_tokens

    def limiters(self) -> tuple[TargetLimiter, ...]:
        """Return the limiters of the targets called so far. Any thread may ask."""
        return tuple(self._limiters.copy().values())

    def states(self) -> tuple[TargetState, ...]:
        """Return what the limiters of the targets called so far are doing. Any thread may ask."""
        now = self._clock()
        return tuple(
            TargetState(
                name=limiter.name,
                in_flight=limiter.in_flight,
                waiting=len(limiter.waiters),
                max_in_flight=inf if limiter.adaptive is None else max_in_flight(limiter.adaptive, now),
                wait_reason=limiter.wait_reason if limiter.waiters else "",
                paused_s=max(limiter.paused_until - now, 0.0),
                reported=tuple(
                    (DIMENSIONS[dimension], per_minute(limit.state))
                    for dimension, limit in limiter.learned_states.copy().items()
                ),
            )
            for limiter in self.limiters()
        )

    def wait_reason(self, target: str) -> str:
        """Return what the calls to a target wait for; empty if none waits."""
        limiter = self._limiters.get(target)
        return limiter.wait_reason if limiter is not None and limiter.waiters else ""

    def refusal(self, target: str) -> str:
        """Return what a target's provider says while it refuses every request; empty if it does not."""
        limiter = self._limiters.get(target)
        refusals = limiter.refusals if limiter is not None and limiter.waiters else None
        if refusals is None or self._clock() - refusals.since < SHOWN_REFUSALS_S:
            return ""
        return str(refusals.error)

    async def acquire(self, limiter: TargetLimiter, cost: RateCost, now: float) -> Permit | Wait:
        """Wait until a call may be sent; return its permit, or a `Wait` that is too long.

        Every permit must be given back with `record`, or with `release` if there is no answer.
        """
        limiter.used_at = now
        slot = current_slot()
        if not self._waiting and (slot is None or not slot.released):
            permit = self._try_acquire(limiter, cost, now)
            if isinstance(permit, Permit):
                _expect(RESERVATIONS.get(), 1)
                return permit
        waiter, expiry = self._enqueue(limiter, cost, now, slot)
        self._admit_waiters()
        if slot is not None and not waiter.granted.done():
            slot.release_while_rate_limited()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and isinstance(waiter.granted.result(), Permit):
                _expect(waiter.reservations, -1)
                self.release(limiter)
            self._admit_waiters()
            raise
        finally:
            if expiry is not None:
                expiry.cancel()

    def _enqueue(
        self, limiter: TargetLimiter, cost: RateCost, now: float, slot: Slot | None
    ) -> tuple[_Waiter, asyncio.TimerHandle | None]:
        """Let a call wait; return it, and the timer of its deadline if it is a retry."""
        loop, retried = asyncio.get_running_loop(), RETRIED_CALL.get()
        ticket = next(self._tickets) + (BULK_TICKETS if BULK_LANE.get() else 0)
        waiter = _Waiter(ticket, cost, loop.create_future(), slot, RESERVATIONS.get())
        _insert(limiter.waiters, waiter)
        self._waiting.add(limiter)
        if retried is None or retried.deadline == inf:
            return waiter, None
        return waiter, loop.call_later(max(0.0, retried.deadline - now), self._expire, limiter, waiter, retried)

    def _expire(self, limiter: TargetLimiter, waiter: _Waiter, retried: RetriedCall) -> None:
        """Fail a retry whose deadline is over; send it next if others have been accepted meanwhile."""
        if waiter.granted.done() or waiter not in limiter.waiters:
            return
        refusals = limiter.refusals
        if refusals is not None and refusals.since <= retried.failed_at:
            waiter.granted.set_result(RETRY_EXPIRED)
        else:
            limiter.waiters.remove(waiter)
            limiter.waiters.appendleft(waiter._replace(ticket=-1))
        self._admit_waiters()

    def release(self, limiter: TargetLimiter) -> None:
        """Release the permit of a call without an answer; its reservation remains."""
        limiter.in_flight -= 1
        if self._waiting:
            self._admit_waiters()

    def record(self, limiter: TargetLimiter, permit: Permit, answer: Answer) -> None:
        """Release a permit and learn from the answer."""
        limiter.in_flight -= 1
        now = self._clock()
        error = None if isinstance(answer.outcome, Success) else answer.outcome.failure()
        rate_limited = isinstance(error, RateLimited)
        if isinstance(error, RateLimited):
            before = limiter.refusals
            is_first = before is None or self._is_outdated(before, now)
            limiter.refusals = Refusals(now if before is None or is_first else before.since, now, error)
        elif answer.attempts:
            limiter.refusals = None
        if error is None and limiter.counts_tokens:
            self._settle(limiter, permit, answer)
        if answer.limits is not None and (rate_limited or now - limiter.learned_at >= LEARN_INTERVAL_S):
            self._learn(limiter, answer.limits, permit, now)
        if error is not None and rate_limited:
            self._on_rate_limited(limiter, permit, now, answer.limits, error.retry_after_s)
        elif limiter.adaptive is not None and answer.attempts:
            limiter.adaptive = on_success(limiter.adaptive, now, permit.granted_at, limiter.in_flight, permit.others)
        if self._waiting:
            self._admit_waiters()

    # Admission

    def _try_acquire(
        self, limiter: TargetLimiter, cost: RateCost, now: float, slot: Slot | None = None
    ) -> Permit | Wait:
        """Return a permit if no limit is in the way and the call has its slot."""
        adaptive = limiter.adaptive
        wait = _wait_of_target(limiter, cost, now)
        if wait is not None:
            return wait
        booked: list[tuple[LimitState, WindowState]] = []
        for limit in limiter.limits:
            amount = cost[limit.dimension]
            if not amount:  # a limit of images does not hold up a text
                continue
            state, wait_s = take(limit.state, now, amount)
            if MIN_WAIT_S < wait_s < limit.max_wait_s:
                return Wait(wait_s, limit.reason, limit)
            booked.append((limit, state))
        if slot is not None and not slot.try_reacquire(self._admit_waiters):
            return NO_SLOT
        for limit, state in booked:
            limit.state = state
        if limiter.leased is not None:
            limiter.leased.take(cost)
        rate_per_s = None
        if adaptive is not None and adaptive.pace is not None:
            rate_per_s = adaptive.pace.rate_per_s
            limiter.adaptive = on_paced_request(adaptive, adaptive.pace, now, limiter.in_flight)
        limiter.in_flight += 1
        limiter.booked = add_costs(limiter.booked, cost)
        return Permit(now, cost, limiter.booked, others=limiter.in_flight - 1, rate_per_s=rate_per_s)

    def _admit_waiters(self) -> None:
        """Admit the calls that may be sent, first come first served, and set the timer for the next."""
        now = self._clock()
        next_wait_s = inf
        blocked: set[LimitState] = set()
        full: set[ConcurrencySlots] = set()
        limiters = {limiter for limiter in self._waiting if limiter.waiters}
        while limiters:
            limiter = min(limiters, key=lambda limiter: limiter.waiters[0].ticket)
            waiter = _first_admissible(limiter, full)
            if waiter is None:
                limiters.discard(limiter)
                continue
            if waiter.granted.done():
                limiter.waiters.remove(waiter)
            else:
                result = self._blocked(limiter, blocked) or self._try_acquire(limiter, waiter.cost, now, waiter.slot)
                if result is NO_SLOT and waiter.slot is not None:
                    full.add(waiter.slot.slots)
                    continue
                give_up_s = self._give_up_s(limiter, now) if isinstance(result, Wait) else inf
                if give_up_s <= 0:
                    result = GIVEN_UP
                elif isinstance(result, Wait) and not MAX_WAIT_S < result.wait_s < inf:
                    self._set_wait_reason(limiter, result)
                    next_wait_s = min(next_wait_s, result.wait_s, give_up_s)
                    blocked.update((result.limit,) if result.limit is not None else ())
                    limiters.discard(limiter)
                    continue
                limiter.waiters.remove(waiter)
                waiter.granted.set_result(result)
                _expect(waiter.reservations, int(isinstance(result, Permit)))
            if not limiter.waiters:
                limiters.discard(limiter)
        for limiter in self._waiting:
            if limiter.leased is not None:
                limiter.leased.ask()
        self._waiting = {limiter for limiter in self._waiting if limiter.waiters}
        self._set_timer(next_wait_s)

    def _give_up_s(self, limiter: TargetLimiter, now: float) -> float:
        """Return the seconds after which calls that wait fail, since every request was refused for too long."""
        refusals = limiter.refusals
        if refusals is None or self._is_outdated(refusals, now):
            return inf
        return refusals.since + self._refusal_deadline_s - now

    def _is_outdated(self, refusals: Refusals, now: float) -> bool:
        return now - refusals.until > max(MAX_REFUSAL_AGE_S, self._refusal_deadline_s)

    def _blocked(self, limiter: TargetLimiter, blocked: set[LimitState]) -> Wait | None:
        """Return a wait if an earlier call to another target waits for one of the same limits."""
        limit = next((limit for limit in limiter.limits if limit in blocked), None) if blocked else None
        return Wait(inf, limit.reason, limit) if limit is not None else None

    def _set_wait_reason(self, limiter: TargetLimiter, wait: Wait) -> None:
        """Store what a limiter's calls wait for; log a decision if it changed."""
        if limiter.wait_reason != wait.reason:
            limiter.wait_reason = wait.reason
            wait_s = wait.wait_s if wait.wait_s < inf else None
            self._record_decision("wait", limiter.name, wait.reason, wait_s=wait_s)

    def _set_timer(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s < inf:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._admit_waiters)

    # Learning from answers

    def _settle(self, limiter: TargetLimiter, permit: Permit, answer: Answer) -> None:
        """Correct the booked tokens to those that were used."""
        usage = answer.outcome.unwrap().usage
        input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
        if input_tokens is None or output_tokens is None:
            return
        limiter.typical_output_tokens += OUTPUT_EWMA_WEIGHT * (output_tokens - limiter.typical_output_tokens)
        booked = permit.cost
        if not booked.tokens:
            return
        least = permit.least_tokens + (input_tokens if permit.adds_input else 0)
        unused = (
            0.0,
            booked.tokens - max(input_tokens + output_tokens, least),
            booked.input_tokens - input_tokens,
            booked.output_tokens - output_tokens,
            0.0,
        )
        for limit in limiter.limits:
            # A learned state includes every request sent before the one whose reply taught it.
            if limit.dimension and limit.learned_at < permit.granted_at:
                limit.state = refund(limit.state, unused[limit.dimension], permit.granted_at)
        if limiter.leased is not None:
            limiter.leased.refund(RateCost(*unused), permit.granted_at)

    def _learn(self, limiter: TargetLimiter, info: RateLimitInfo, permit: Permit, now: float) -> None:
        """Update the learned limits from a reply."""
        limiter.learned_at = now
        for dimension, reported in enumerate(reported_limits(info)):
            if reported[1] is None:
                continue
            before = limiter.learned_limits[dimension]
            booked_since = limiter.booked[dimension] - permit.booked_total[dimension]
            learned = learn_limit(before, reported, now, permit.granted_at, booked_since)
            if learned is None or learned is before:
                continue
            limit = limiter.learned_states.get(dimension)
            if limit is None:
                limit = LimitState(dimension, learned.window, "reported by the provider", MAX_LEARNED_WAIT_S)
                limiter.learned_states[dimension] = limit
                limiter.limits = [*limiter.limits, limit]
                limiter.counts_tokens = limiter.counts_tokens or bool(dimension)
            limit.state, limit.learned_at, limiter.learned_limits[dimension] = (
                learned.window, permit.granted_at, learned,
            )  # fmt: skip
            if before is None or before.limit != learned.limit:
                detail = f"{learned.limit:g} {DIMENSIONS[dimension]} in {learned.period_s:g} s"
                self._record_decision("learn", limiter.name, detail)

    def _on_rate_limited(
        self,
        limiter: TargetLimiter,
        permit: Permit,
        now: float,
        info: RateLimitInfo | None,
        retry_after_s: float | None,
    ) -> None:
        """React to a rate-limit error."""
        pause_s: float | None = None
        if retry_after_s and info is not None and _resets_in_full(info, retry_after_s):
            # The reply says which limit is exhausted and when it is restored: there is nothing to adapt.
            pause_s = retry_after_s
        elif limiter.adaptive is not None:
            before = limiter.adaptive
            refusal = RefusedRequest(
                permit.granted_at,
                permit.booked_total.requests,
                limiter.booked.requests,
                limiter.in_flight,
                retry_after_s,
                permit.others,
                permit.rate_per_s,
            )
            limiter.adaptive, pause_s = on_rate_limited(before, now, refusal)
            if limiter.adaptive.episode_start != before.episode_start:
                pace = limiter.adaptive.pace
                rate = f", {pace.rate_per_s:.3g} per second" if pace is not None else ""
                self._record_decision("shrink", limiter.name, f"to {limiter.adaptive.window:g} calls in flight{rate}")
        elif limiter.leased is not None:
            pause_s = retry_after_s or REFUSED_PAUSE_S
        if pause_s and pause_s <= MAX_LEARNED_WAIT_S and now + pause_s > limiter.paused_until:
            limiter.paused_until = now + pause_s
            if limiter.leased is not None:
                limiter.leased.pause(pause_s)
            self._record_decision("pause", limiter.name, "rate-limit errors", wait_s=pause_s)


def _demand(limiter: TargetLimiter) -> Demand | None:
    """Return what runs will send after the calls that wait; ``None`` for calls of no run, or of one to more targets."""
    runs: set[ConcurrencySlots] = set()
    for waiter in limiter.waiters:
        if waiter.slot is None or waiter.slot.slots.queues.has_several_targets:
            return None
        runs.add(waiter.slot.slots)
    upcoming = sum([run.remaining_count() for run in runs]) - limiter.in_flight - len(limiter.waiters)
    return Demand(max(upcoming, 0), sum([group.limit for group in {run.group for run in runs}]) - limiter.in_flight)


def _expect(reservations: Collection[Reservation], sign: int) -> None:
    """Count a call in the budgets in which it is about to reserve its part; not if it was cancelled before."""
    for budget, amount in reservations:
        budget.expect(sign * amount)


def _insert(waiters: deque[_Waiter], waiter: _Waiter) -> None:
    """Insert a waiter in the order of the tickets."""
    if not waiters or waiters[-1].ticket < waiter.ticket:
        waiters.append(waiter)
    else:
        index = next(index for index, other in enumerate(waiters) if other.ticket > waiter.ticket)
        waiters.insert(index, waiter)


def _first_admissible(limiter: TargetLimiter, full: Collection[ConcurrencySlots]) -> _Waiter | None:
    """Return the first waiter that has a slot, or whose run may have a free one."""
    if not full:
        return limiter.waiters[0]
    slots = ((waiter, waiter.slot) for waiter in limiter.waiters)
    return next((waiter for waiter, slot in slots if slot is None or not slot.released or slot.slots not in full), None)


def _wait_of_target(limiter: TargetLimiter, cost: RateCost, now: float) -> Wait | None:
    """Return the wait that a pause, the adaptive limit or shared limits impose, if any."""
    if limiter.paused_until > now:
        return Wait(limiter.paused_until - now, "pause after rate-limit errors")
    adaptive = limiter.adaptive
    if adaptive is not None and (limiter.in_flight >= adaptive.window or adaptive.pace is not None):
        wait = _adaptive_wait(limiter, adaptive, now)
        if wait is not None:
            return wait
    if limiter.leased is not None:
        wait_s, reason = limiter.leased.wait(cost, now)
        if wait_s > MIN_WAIT_S:
            return Wait(wait_s, reason)
    return None


def _adaptive_wait(limiter: TargetLimiter, adaptive: AdaptiveState, now: float) -> Wait | None:
    """Return the wait that the adaptive limit imposes, if any."""
    if limiter.in_flight >= max_in_flight(adaptive, now):
        is_ramping = adaptive.ramp_from is not None and adaptive.ramp_from < inf
        return Wait(RAMP_POLL_S if is_ramping else inf, "adaptive concurrency")
    if now < adaptive.probe_until:
        return Wait(adaptive.probe_until - now, "adaptive request rate")
    if adaptive.pace is None or (wait_s := take(adaptive.pace, now, 1.0)[1]) <= MIN_WAIT_S:
        return None
    limiter.adaptive = on_pace_wait(adaptive)
    return Wait(wait_s, "adaptive request rate")


def _resets_in_full(info: RateLimitInfo, retry_after_s: float) -> bool:
    """Return whether the exhausted limit is fully restored after ``Retry-After``, not only a part of it."""
    resets_s = [reset_s for _, remaining, reset_s in reported_limits(info) if remaining == 0 and reset_s is not None]
    return retry_after_s > RESET_PRECISION_S and any(
        retry_after_s >= FULL_RESET_SHARE * reset_s for reset_s in resets_s
    )


def rate_limit_middleware(
    limiter: RateLimiter, target_limiter: TargetLimiter, clock: Callable[[], float]
) -> Middleware:
    """Return the middleware that acquires a permit for each attempt and gives it back with the answer."""

    def wrap(send: Send) -> Send:
        async def send_admitted(call: Call) -> Answer:
            cost = ONE_REQUEST
            if target_limiter.counts_tokens:
                expected_output = 0.0 if call.embedding is not None else target_limiter.typical_output_tokens
                cost = estimate_cost(call.request, expected_output)
            start = clock()
            permit = await limiter.acquire(target_limiter, cost, start)
            if isinstance(permit, Wait):
                return Answer(Failure(_not_sent_error(call, permit, target_limiter, clock())))
            on_arrival = call.target.provider.counted_on_arrival
            if on_arrival and cost.tokens and (requested := requested_output_tokens(call.request)):
                permit = permit._replace(least_tokens=float(requested), adds_input=on_arrival == "input and max_tokens")
            waited_s = permit.granted_at - start
            if waited_s:
                emit_wait(call, "limit", int(waited_s * NS_PER_S))
            try:
                answer = await send(call)
            except BaseException:
                limiter.release(target_limiter)
                raise
            limiter.record(target_limiter, permit, answer)
            if not waited_s:
                return answer
            return replace(answer, rate_wait_s=waited_s, total_s=(answer.total_s or 0.0) + waited_s)

        return send_admitted

    return wrap


def _not_sent_error(call: Call, wait: Wait, limiter: TargetLimiter, now: float) -> LLMError:
    """Return why a call was not sent: the failure that it would have retried, or the provider's words."""
    retried, refusals = RETRIED_CALL.get(), limiter.refusals
    if wait in (RETRY_EXPIRED, GIVEN_UP) and retried is not None:
        return retried.error
    if wait is GIVEN_UP and refusals is not None:
        error = refusals.error
        message = f"not sent: the provider refused every request for {now - refusals.since:.0f} s: {error.message}"
        return replace(error, message=message, request_id="", should_retry=False)
    message = f"not sent: the rate limit ({wait.reason}) admits no call for another {wait.wait_s:.0f} s"
    provider = call.target.provider.name
    return RateLimited(provider=provider, message=message, retry_after_s=wait.wait_s, should_retry=False)
