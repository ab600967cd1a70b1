"""The one gate before the wire: declared limits, limits learned from replies, and what was found by trying.

Whoever comes gets a place in the order of coming, and is woken once, when they may go: by a timer that is set to that
moment, or by whatever lets them go earlier. Limits of a provider are shared by the lines of its models; nobody
overtakes another who waits for the same limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import count
from math import inf
from typing import Final, NamedTuple

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import RateLimited
from llmhub.core.provider import RateLimitInfo
from llmhub.engine.adaptive_limit import (
    AdaptiveState,
    Refusal,
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
    refund,
    reported_limits,
    take,
)
from llmhub.engine.scheduling import ConcurrencySlots, Slot, current_slot

MIN_WAIT_S: Final = 1e-6


RAMP_POLL_S: Final = 0.002
"""How soon to look again while slow start grows by itself."""


MAX_WAIT_S: Final = 3600.0
"""Who would have to wait for longer, until a day's allowance comes back, hears so at once."""


MAX_LEARNED_WAIT_S: Final = 300.0
"""What a reply taught keeps nobody for longer: the provider may say for itself that it is tomorrow's."""


LEARN_INTERVAL_S: Final = 0.005
"""Replies that come closer together teach nothing new, unless they are refusals."""


FULL_RESET_SHARE: Final = 0.8


OUTPUT_EWMA_WEIGHT: Final = 0.1
"""Weight of an answer in the estimate of how long answers are."""


class LimitState:
    """One limit and where it stands; the lines of several models may share it.

    ``what`` it counts is a position in `DIMENSIONS`; ``longest_s`` is for how long it may hold anybody; ``since`` is when the
    request went whose reply taught it.
    """

    __slots__ = ("dimension", "learned_at", "max_wait_s", "reason", "state")

    def __init__(self, dimension: int, state: WindowState, reason: str, max_wait_s: float = inf) -> None:
        self.dimension = dimension
        self.state = state
        self.reason = f"{DIMENSIONS[dimension]}, {reason}"
        self.max_wait_s = max_wait_s
        self.learned_at = -inf


class Wait(NamedTuple):
    """What is in the way: for how long (for ever: until somebody comes back), why, and the limit, if it is one."""

    wait_s: float
    reason: str
    limit: LimitState | None = None


class Permit(NamedTuple):
    """What was booked when a call was let go, and when; ``before`` is all that had been booked with it."""

    granted_at: float
    cost: RateCost
    booked_total: RateCost


NO_SLOT: Final = Wait(inf, "calls under way at once, of its run")


class _Waiter(NamedTuple):
    ticket: int
    cost: RateCost
    granted: asyncio.Future[Permit | Wait]
    slot: Slot | None


class TargetLimiter:
    """Those who want to go to one target, and what holds for it."""

    __slots__ = (
        "adaptive",
        "booked",
        "counts_tokens",
        "in_flight",
        "learned_at",
        "learned_limits",
        "learned_states",
        "limits",
        "name",
        "paused_until",
        "typical_output_tokens",
        "wait_reason",
        "waiters",
    )  # fmt: skip

    def __init__(self, name: str, cells: list[LimitState], search: AdaptiveState | None) -> None:
        self.name = name
        self.limits = cells
        self.adaptive = search
        self.learned_limits: list[LearnedLimit | None] = [None] * len(DIMENSIONS)
        self.learned_states: dict[int, LimitState] = {}
        self.in_flight = 0
        self.paused_until = self.learned_at = -inf
        self.booked = NO_COST
        self.typical_output_tokens = float(TYPICAL_OUTPUT_TOKENS)
        self.counts_tokens = any(cell.dimension for cell in cells)
        self.waiters: deque[_Waiter] = deque()
        self.wait_reason = ""


class RateLimiter:
    """Lets calls go when they may. Lives on one event loop.

    Parameters
    ----------
    limits
        Declared limits by provider, or by ``provider/model``.
    clock
        Seconds of a clock that does not go back: the loop's.
    note
        Where it is noted what was learned and decided.
    adaptive
        Whether to search for a limit where none is declared.
    """

    def __init__(
        self, limits: Mapping[str, Limit], clock: Callable[[], float], note: RecordDecision, *, adaptive: bool = True
    ) -> None:
        self._clock = clock
        self._note = note
        self._adaptive = adaptive
        self._declared = {
            name: [
                LimitState(what, state, f"{DIMENSIONS[what]}, as declared for {name}")
                for what, state in initial_states(limit, clock())
            ]
            for name, limit in limits.items()
        }
        self._limiters: dict[str, TargetLimiter] = {}
        self._waiting: set[TargetLimiter] = set()
        self._tickets = count()
        self._timer: asyncio.TimerHandle | None = None

    def for_target(self, target: Target) -> TargetLimiter:
        """Give the line of a target."""
        line = self._limiters.get(target.name)
        if line is None:
            names = (target.provider.name, target.name)
            cells = [cell for name in names for cell in self._declared.get(name, ())]
            search = (start_unbounded if cells else slow_start)(self._clock()) if self._adaptive else None
            line = self._limiters[target.name] = TargetLimiter(target.name, cells, search)
        return line

    def wait_reason(self, target: str) -> str:
        """Say what makes a target's line wait; empty where nobody does."""
        line = self._limiters.get(target)
        return line.wait_reason if line is not None and line.waiters else ""

    async def acquire(self, limiter: TargetLimiter, cost: RateCost, now: float) -> Permit | Wait:
        """Wait until a call may go; give what was booked for it, or what keeps it longer than anybody would wait.

        Who was let go says so by `leave`, or by `took` when there is an answer. A call that waits lends its place in
        its run, and is let go when it has one: what it books is not kept until it gets one, and sent with others then.
        """
        mine = current_slot()
        if not self._waiting and (mine is None or not mine.released):
            gone = self._try(limiter, cost, now)
            if isinstance(gone, Permit):
                return gone
        waiter = _Waiter(next(self._tickets), cost, asyncio.get_running_loop().create_future(), mine)
        limiter.waiters.append(waiter)
        self._waiting.add(limiter)
        self._pump()
        if mine is not None and not waiter.granted.done():
            mine.release_while_rate_limited()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and isinstance(waiter.granted.result(), Permit):
                self.release(limiter)
            self._pump()
            raise

    def release(self, limiter: TargetLimiter) -> None:
        """Take in that a call that was let go is over without an answer: what it took stays counted."""
        limiter.in_flight -= 1
        if self._waiting:
            self._pump()

    def record(self, limiter: TargetLimiter, permit: Permit, answer: Answer) -> None:
        """Take in what became of a call that was let go."""
        limiter.in_flight -= 1
        now = self._clock()
        error = None if is_successful(answer.outcome) else answer.outcome.failure()
        limited = isinstance(error, RateLimited)
        if error is None and limiter.counts_tokens:
            self._settle(limiter, permit, answer)
        if answer.limits is not None and (limited or now - limiter.learned_at >= LEARN_INTERVAL_S):
            self._learn(limiter, answer.limits, permit, now)
        if error is not None and limited:
            self._on_rate_limited(limiter, permit, now, answer.limits, error.retry_after_s)
        elif limiter.adaptive is not None and answer.attempts:
            limiter.adaptive = on_success(limiter.adaptive, permit.granted_at, limiter.in_flight)
        if self._waiting:
            self._pump()

    # Going

    def _try(self, line: TargetLimiter, cost: RateCost, now: float, seat: Slot | None = None) -> Permit | Wait:
        """Let a call go if nothing is in the way, and it has its place."""
        if line.paused_until > now:
            return Wait(line.paused_until - now, "a pause after refusals")
        search = line.adaptive
        if search is not None and (line.in_flight >= search.window or search.pace is not None):
            held = _adaptive_wait(line, search, now)
            if held is not None:
                return held
        booked: list[tuple[LimitState, WindowState]] = []
        for cell in line.limits:
            new, wait = take(cell.state, now, cost[cell.dimension])
            if MIN_WAIT_S < wait < cell.max_wait_s:
                return Wait(wait, cell.reason, cell)
            booked.append((cell, new))
        if seat is not None and not seat.try_reacquire(self._pump):
            return NO_SLOT
        for cell, new in booked:
            cell.state = new
        if search is not None and search.pace is not None:
            line.adaptive = on_paced_request(search, search.pace, now)
        line.in_flight += 1
        line.booked = add_costs(line.booked, cost)
        return Permit(now, cost, line.booked)

    def _pump(self) -> None:
        """Let go whoever may, first come first served, and set the timer for whoever may next."""
        now = self._clock()
        due = inf
        stuck: set[LimitState] = set()
        full: set[ConcurrencySlots] = set()
        lines = {line for line in self._waiting if line.waiters}
        while lines:
            line = min(lines, key=lambda line: line.waiters[0].ticket)
            waiter = _first_admissible(line, full)
            if waiter is None:
                lines.discard(line)
                continue
            if waiter.granted.done():
                line.waiters.remove(waiter)
            else:
                gone = self._blocked(line, stuck) or self._try(line, waiter.cost, now, waiter.slot)
                if gone is NO_SLOT and waiter.slot is not None:
                    full.add(waiter.slot.slots)
                    continue
                if isinstance(gone, Wait) and not MAX_WAIT_S < gone.wait_s < inf:
                    self._hold(line, gone)
                    due = min(due, gone.wait_s)
                    stuck.update((gone.limit,) if gone.limit is not None else ())
                    lines.discard(line)
                    continue
                line.waiters.remove(waiter)
                waiter.granted.set_result(gone)
            if not line.waiters:
                lines.discard(line)
        self._waiting = {line for line in self._waiting if line.waiters}
        self._wake_in(due)

    def _blocked(self, line: TargetLimiter, stuck: set[LimitState]) -> Wait | None:
        """Keep a line from overtaking one that came before it and waits for the same limit."""
        cell = next((cell for cell in line.limits if cell in stuck), None) if stuck else None
        return Wait(inf, cell.reason, cell) if cell is not None else None

    def _hold(self, line: TargetLimiter, held: Wait) -> None:
        """Remember what is in the way, and note it when that is something else than before."""
        if line.wait_reason != held.reason:
            line.wait_reason = held.reason
            self._note("wait", line.name, held.reason, wait_s=held.wait_s if held.wait_s < inf else None)

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < inf:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._pump)

    # What came of it

    def _settle(self, line: TargetLimiter, gone: Permit, answer: Answer) -> None:
        """Correct what a call was thought to take to what it took."""
        usage = answer.outcome.unwrap().usage
        taken, made = usage.input_tokens, usage.output_tokens
        if taken is None or made is None:
            return
        line.typical_output_tokens += OUTPUT_EWMA_WEIGHT * (made - line.typical_output_tokens)
        if not gone.cost.tokens:
            return
        booked = gone.cost
        beyond = (0.0, booked.tokens - taken - made, booked.input_tokens - taken, booked.output_tokens - made)
        for cell in line.limits:
            # What a reply taught counts every request that went before its own.
            if cell.dimension and cell.learned_at < gone.granted_at:
                cell.state = refund(cell.state, beyond[cell.dimension], gone.granted_at)

    def _learn(self, line: TargetLimiter, info: RateLimitInfo, gone: Permit, now: float) -> None:
        """Learn from what a reply said of limits."""
        line.learned_at = now
        for what, said in enumerate(reported_limits(info)):
            if said[1] is None:
                continue
            before = line.learned_limits[what]
            known = learn_limit(before, said, now, gone.granted_at, line.booked[what] - gone.booked_total[what])
            if known is None or known is before:
                continue
            cell = line.learned_states.get(what)
            if cell is None:
                cell = line.learned_states[what] = LimitState(
                    what, known.window, "as the provider says", MAX_LEARNED_WAIT_S
                )
                line.limits = [*line.limits, cell]
                line.counts_tokens = line.counts_tokens or bool(what)
            cell.state, cell.learned_at, line.learned_limits[what] = known.window, gone.granted_at, known
            if before is None or before.limit != known.limit:
                self._note("learn", line.name, f"{known.limit:g} {DIMENSIONS[what]} in {known.period_s:g} s")

    def _on_rate_limited(
        self, line: TargetLimiter, gone: Permit, now: float, info: RateLimitInfo | None, asked_s: float | None
    ) -> None:
        """React to a refusal for a limit."""
        pause_s: float | None = None
        if asked_s and info is not None and _resets_in_full(info, asked_s):
            # It says what ran out and that it comes back all at once: there is nothing to find out.
            pause_s = asked_s
        elif line.adaptive is not None:
            before = line.adaptive
            refusal = Refusal(
                gone.granted_at, gone.booked_total.requests, line.booked.requests, line.in_flight, asked_s
            )
            line.adaptive, pause_s = on_rate_limited(before, now, refusal)
            if line.adaptive.episode_start != before.episode_start:
                pace = f", {line.adaptive.pace.rate_per_s:.3g} a second" if line.adaptive.pace is not None else ""
                self._note("shrink", line.name, f"to {line.adaptive.window:g} calls at once{pace}")
        if pause_s and pause_s <= MAX_LEARNED_WAIT_S and now + pause_s > line.paused_until:
            line.paused_until = now + pause_s
            self._note("pause", line.name, "refusals", wait_s=pause_s)


def _first_admissible(line: TargetLimiter, full: Collection[ConcurrencySlots]) -> _Waiter | None:
    """Give who came first of those that have a place, or whose run may have one."""
    if not full:
        return line.waiters[0]
    seats = ((one, one.slot) for one in line.waiters)
    return next((one for one, seat in seats if seat is None or not seat.released or seat.slots not in full), None)


def _adaptive_wait(line: TargetLimiter, search: AdaptiveState, now: float) -> Wait | None:
    """Say what the search for a limit has in the way."""
    if line.in_flight >= max_in_flight(search, now):
        return Wait(inf if search.ramp_from is None else RAMP_POLL_S, "calls at once, found by trying")
    if search.pace is None or (wait := take(search.pace, now, 1.0)[1]) <= MIN_WAIT_S:
        return None
    line.adaptive = on_pace_wait(search)
    return Wait(wait, "requests a second, found by trying")


def _resets_in_full(info: RateLimitInfo, asked_s: float) -> bool:
    """Say whether what ran out is back when the provider said to come again, not just some of it."""
    resets = [reset_s for _, remaining, reset_s in reported_limits(info) if remaining == 0 and reset_s is not None]
    return any(asked_s > RESET_PRECISION_S and asked_s >= FULL_RESET_SHARE * reset_s for reset_s in resets)


def rate_limit_middleware(
    limiter: RateLimiter, target_limiter: TargetLimiter, clock: Callable[[], float]
) -> Middleware:
    """Make the middleware that waits for the gate before each attempt, and tells it what came of it."""

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            cost = (
                estimate_cost(call.request, target_limiter.typical_output_tokens)
                if target_limiter.counts_tokens
                else ONE_REQUEST
            )
            start = clock()
            gone = await limiter.acquire(target_limiter, cost, start)
            if isinstance(gone, Wait):
                return Answer(Failure(_wait_too_long_error(call, gone)))
            try:
                answer = await send(call)
            except BaseException:
                limiter.release(target_limiter)
                raise
            limiter.record(target_limiter, gone, answer)
            waited = gone.granted_at - start
            return replace(answer, rate_wait_s=waited, total_s=(answer.total_s or 0.0) + waited) if waited else answer

        return sending

    return wrap


def _wait_too_long_error(call: Call, held: Wait) -> RateLimited:
    said = f"the limit of {held.reason} lets nobody through for another {held.wait_s:.0f} s"
    provider = call.target.provider.name
    return RateLimited(provider=provider, message=said, retry_after_s=held.wait_s, should_retry=False)
