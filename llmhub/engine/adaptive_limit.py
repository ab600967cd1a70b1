"""Adaptive concurrency and pacing for providers that declare no limit, as a pure state machine.

It starts with one call in flight (slow start), doubles every `DOUBLING_S` and grows by one with each answer besides, so
that a healthy provider is limited for a blink only. Rate-limit errors (429, never 5xx), called refusals here, change
that:

- A *crowd* (most of what was sent is refused) or a *streak* (more refusals than noise explains) shows that a limit was
  reached. From then on calls are paced. A refusal right after another shows that nothing is accepted at all: all calls
  pause, twice as long each time.
- A provider's bucket is empty when it refuses. So the number of requests accepted between two distant refusals is what
  it allows in that time: the pace. The pace starts a little below that and grows until the next refusal, slowly enough
  that hundreds of requests lie between two: each refusal costs one request and makes the estimate more exact.
- Refusals that come as often at half the pace are not caused by us (*noise*): the pace grows again, and that share of
  refusals counts as normal from then on.
- Refused at the same number in flight again and again, the limit is one of concurrency, not of rate. Only requests sent
  while no refused one was in flight count, since the provider does not count those.
- Where nothing is accepted for long, what was accepted before was the allowance of a window: it is spread over it.

A limit that allows only a few requests at once is measured differently: `llmhub.engine.rate_estimate` says from which
rates what was accepted and refused follows, and when the next request is to be sent. It also tells whether the number
in flight is limited instead.

An episode, which is all that was sent before its first refusal was known, shrinks the limit once. The file is long
because the transitions of one state share its fields and constants; they read from `on_rate_limited` downwards.
"""

from __future__ import annotations

from math import inf, log2, sqrt
from typing import Final, NamedTuple

from llmhub.engine.limits import TokenBucket
from llmhub.engine.rate_estimate import (
    RATES,
    RateEstimate,
    initial_estimate,
    max_at_once,
    next_request,
    on_answer,
    on_refusal,
    on_request,
)

MIN_IN_FLIGHT: Final = 1.0
MAX_IN_FLIGHT: Final = 1024.0
"""Bounds of the window, the number of calls in flight."""
DOUBLING_S: Final = 0.008
"""Time in which slow start doubles the window."""
MIN_PROBE_AFTER, MAX_PROBE_AFTER = 128.0, 4096.0
"""Bounds of the number of answers before one call more than was refused is tried."""
CROWD_SHARE, CROWD_EXCESS = 0.6, 1.6
"""A crowd is this number of refusals more than this share of what was sent."""
STREAK_SHARE, STREAK_EXCESS = 0.01, 8.0
"""A streak, without a pace, is this number of refusals more than this share, on top of noise."""
PACED_STREAK_EXCESS: Final = 3.0
"""A streak, with a pace, is this number of refusals more than noise."""
MIN_STREAK_S: Final = 0.25
"""Minimum duration of a streak."""
MAX_NOISE: Final = 0.3
"""A larger share of refusals is not noise."""
NOISE_HALVING_REQUESTS: Final = 100
"""Requests without a refusal after which the assumed noise is halved."""
BLOCKED_SHARE: Final = 0.3
"""A pause is at most this share of the time for which nothing has been accepted, so that little time is lost."""
MIN_PAUSE_S, MAX_PAUSE_S = 0.25, 60.0
"""Bounds of a pause, doubled while nothing is accepted, unless the provider asks for a longer one."""
LONE_PAUSE_SHARE: Final = 0.05
"""A pause to see whether a refusal is followed by others is at most this share of the time since the one before it."""
SHORT_RETRY_AFTER_S, LONG_RETRY_AFTER_S = 1.0, 300.0
"""A shorter ``Retry-After`` may be rounded up; a longer one is left to the provider to enforce."""
MAX_RETRY_AFTERS: Final = 8.0
"""Before anything was accepted, a pause is at most this many times what the provider asks for."""
RETRY_AFTER_PRECISION_S: Final = 2.0
"""A longer ``Retry-After`` tells how long nothing is accepted."""
RETRY_AFTER_MARGIN_S: Final = 0.02
"""Added to a ``Retry-After``."""
ASSUMED_WINDOW_S: Final = 60.2
"""Limits are assumed to be per minute; the rest is a margin for network jitter."""
MIN_SEARCH_S: Final = 1.0
"""Minimum time in which the first search for a pace rises to the highest rate that was ever accepted."""
MAX_SEARCH_PAUSES: Final = 3
"""Consecutive pauses after which what was accepted is taken for a burst."""
PACE_MARGIN: Final = 0.02
"""How far the pace starts below and ends above the estimate, as a share of it."""
MIN_SPACING, PRECISE_SPACING = 16, 100
"""Requests between two refusals that give a rough and a precise estimate of the rate."""
PROBE_INTERVAL_S: Final = 12.0
MIN_TARGET_SPACING, TARGET_SPACING = 24, 500
"""Requests that should lie between two refusals once the pace is known: `PROBE_INTERVAL_S` of it, within bounds."""
OVERDUE_DOUBLING_S: Final = 1.5
"""Time in which a pace doubles whose refusal is overdue; sooner, the longer it is overdue."""
MAX_OVERDUE_DOUBLINGS: Final = 0.5
"""The largest number of such doublings with one request."""
OVERDUE_REQUESTS, SEARCH_OVERDUE_REQUESTS = 16, 4
"""Minimum number of requests after which a refusal is wholly overdue, and while searching for a pace."""
UNEXPECTED_FRACTION: Final = 4
"""A refusal is unexpected if it comes before this fraction (a quarter) of the spacing."""
KNOWN_PACE_RATIO: Final = 1.25
"""The pace is known once its upper bound is at most this factor above its lower one."""
EQUAL_RATE_SHARE: Final = 0.02
"""Two measured rates are equal if they differ by at most this share."""
BLOCKED_REQUESTS: Final = 4
"""Nothing accepted in the time of so many requests is not a coincidence."""
EARLY_SHARE: Final = 0.6
"""A refusal before this share of the spacing is early: the limit's own tend to come later."""
DOUBT_AFTER, DOUBT_FACTOR, MAX_DOUBT_AFTER = 3, 4, 256
"""Early refusals after which a faster pace is tried, since noise would confirm any pace; and how their number grows."""
PROBE_LATENCIES: Final = 1.2
"""Time for which the first request after a pause is sent alone, in latencies of a refusal: by then it has come."""
MIN_CHANCE: Final = 1e-3
"""What is less probable than this is not noise."""
SAME_HEIGHT_REPEATS: Final = 3
"""Repeated refusals at the same number in flight that make it the limit: with a limit of the rate it varies."""
SUCCESSES_ABOVE: Final = 8
"""Answers with more in flight that refute such a limit, and answers between two refusals that are compared."""
PACE_BURST_S: Final = 0.05
"""Seconds' worth of the pace that may be sent at once."""
MAX_ESTIMATED_BURST: Final = 16
"""Limits that accept at most so many requests before they refuse the next ones are measured by an estimate."""
MAX_ESTIMATED_PER_S: Final = 300.0
"""The highest rate that is measured by an estimate, since it takes a third of a millisecond for each request."""
AT_ONCE_PROBABILITY, MIN_AT_ONCE_PROBABILITY = 0.95, 0.3
"""Probability at which a limit of the number in flight is assumed, and below which it no longer is."""
UNPACED_PER_S: Final = 10_000.0
"""The pace where only the number in flight is limited."""
IDLE_REQUESTS: Final = 100
"""Requests that did not have to wait, after which a pace says nothing any more."""


# Evidence


class RefusedRequest(NamedTuple):
    """A request that failed with a rate-limit error.

    Parameters
    ----------
    sent_at, number
        When it was sent, and its sequence number.
    sent, in_flight
        Requests sent so far, and those in flight now.
    retry_after_s
        When the provider asked to be tried again.
    others
        Requests that were in flight when it was sent; ``None`` if that is not known.
    rate_per_s
        The pace at which it was sent, if there was one: by the time a slow refusal arrives, the pace has grown.
    """

    sent_at: float
    number: float
    sent: float
    in_flight: int
    retry_after_s: float | None = None
    others: int | None = None
    rate_per_s: float | None = None


class Mark(NamedTuple):
    """A moment, and the number of requests accepted until then."""

    at: float
    accepted: float


class Streak(NamedTuple):
    """Refusals that are not explained yet.

    Parameters
    ----------
    refusals_before
        Refusals before it. All later ones count, also those of an episode that is over.
    first, last
        Numbers of its first and last request; 0 where there is no streak.
    start
        Where it started.
    last_refused_at
        When its last refusal arrived.
    height
        Requests that were in flight when its first request was sent.
    """

    refusals_before: int = 0
    first: float = 0.0
    last: float = 0.0
    start: Mark = Mark(0.0, 0.0)
    last_refused_at: float = -inf
    height: int = 0


NO_STREAK: Final = Streak()


def extend_streak(streak: Streak, refusal: RefusedRequest, mark: Mark, now: float, share: float, total: int) -> Streak:
    """Return the streak with a refusal, the last of ``total``; a new one if they fell below a ``share`` of requests.

    Examples
    --------
    >>> one = extend_streak(NO_STREAK, RefusedRequest(1.0, 7, 9, 2), Mark(1.0, 6), 1.1, 0.5, 1)
    >>> one.first, extend_streak(one, RefusedRequest(1.0, 8, 9, 2), Mark(1.0, 6), 1.1, 0.5, 2).last
    (7, 8)
    >>> extend_streak(one, RefusedRequest(2.0, 90, 90, 2), Mark(2.0, 88), 2.1, 0.5, 2).first
    90
    """
    number = refusal.number
    refusals = total - 1 - streak.refusals_before
    has_faded = refusal.sent_at >= streak.last_refused_at and refusals < share * (number - streak.first)
    if not streak.first or has_faded:
        return Streak(total - 1, number, number, mark, now, _height(refusal))
    before, first, last, start, _, height = streak
    if number < first:
        first, start = number, Mark(refusal.sent_at, start.accepted - (first - number))
        height = _height(refusal)
    return Streak(before, first, max(last, number), start, now, height)


def excess_refusals(streak: Streak, share: float, total: int) -> float:
    """Return how many refusals of a streak, with ``total`` in all, exceed a ``share`` of what was sent."""
    return total - streak.refusals_before - share * (streak.last - streak.first + 1)


def rate_between(anchor: Mark, mark: Mark) -> float:
    """Return the rate per second of what was accepted between two refusals, a lower bound of the limit's.

    Examples
    --------
    >>> rate_between(Mark(0.0, 0), Mark(10.0, 101))
    10.0
    """
    return max(mark.accepted - anchor.accepted - 1, 0.5) / max(mark.at - anchor.at, 1e-3)


# State


class AdaptiveState(NamedTuple):
    """The state of the machine.

    Parameters
    ----------
    window
        Maximum number of calls in flight.
    ramp_from
        When slow start began; ``None`` once it is over, infinite while the first answer is awaited.
    ceiling
        Number in flight above which calls were refused.
    successes, probe_after
        Answers since the window last grew, and needed before it grows again.
    episode_start
        Requests sent before belong to an episode that is over.
    refusals, refusals_since_pace
        Number of refusals in all, and since the pace was last set.
    last_refused, last_mark
        Number of the last refused request, and where it was.
    anchor, crossed
        Where the measurement of the rate starts, and where the pace was last refused for being too fast.
    min_rate_per_s
        Lower bound of the limit's rate.
    crowd, streak
        Refusals that are not explained yet.
    tried_slower
        Whether a slower pace was tried to explain them.
    pace
        The pace, in requests per second; ``None`` while calls are not paced.
    pace_gain
        How much the square of the pace grows with each request.
    spacing, spacing_left
        Requests expected until the next refusal, and how many of them are left. 0 while searching for a pace, infinite
        while the refusals are taken for noise.
    pace_known
        Whether the pace is known precisely.
    idle_requests
        Requests since the pace last delayed one.
    pauses
        Number of consecutive pauses.
    blocked_since
        Since when nothing has been accepted.
    opened, reopened
        Where requests began to be accepted, and where they will be after a pause.
    last_height, same_height, noted_at
        Number in flight at the last refusal, how often it was the same, and the number of requests accepted until then.
    successes_above, refuted_at
        Answers since to requests sent with at least as many in flight, and when that one was sent which refutes it.
    clean_from
        When the requests sent with the last refused one will have been refused, if they are.
    noise
        Share of refusals that is not caused by us.
    early_refusals, doubt_after
        Refusals that came early, and after how many of them a faster pace is tried.
    estimate
        The estimate of the rate of a limit with a small burst.
    probe_s, probe_until
        For how long the first request after a pause is sent alone, and until when it is, or an answer comes.
    """

    window: float = MIN_IN_FLIGHT
    ramp_from: float | None = None
    ceiling: float = inf
    successes: int = 0
    probe_after: float = MIN_PROBE_AFTER
    episode_start: float = -inf
    refusals: int = 0
    refusals_since_pace: int = 0
    last_refused: float = 0.0
    last_mark: Mark = Mark(-inf, 0.0)
    anchor: Mark = Mark(0.0, 0.0)
    crossed: Mark = Mark(0.0, 0.0)
    min_rate_per_s: float = 0.0
    crowd: Streak = NO_STREAK
    streak: Streak = NO_STREAK
    tried_slower: bool = False
    pace: TokenBucket | None = None
    pace_gain: float = 0.0
    spacing: float = 0.0
    spacing_left: float = 0.0
    pace_known: bool = False
    idle_requests: int = 0
    pauses: int = 0
    blocked_since: float = 0.0
    opened: Mark = Mark(0.0, 0.0)
    reopened: Mark = Mark(0.0, 0.0)
    last_height: int = -1
    same_height: int = 0
    successes_above: int = 0
    refuted_at: float = inf
    clean_from: float = -inf
    noted_at: float = 0.0
    noise: float = 0.0
    early_refusals: int = 0
    doubt_after: int = DOUBT_AFTER
    probe_s: float = 0.0
    probe_until: float = -inf
    estimate: RateEstimate | None = None


def slow_start(now: float) -> AdaptiveState:
    """Return the initial state for a target without a declared limit."""
    return AdaptiveState(ramp_from=now, crossed=Mark(now, 0.0), opened=Mark(now, 0.0))


def start_unbounded(now: float) -> AdaptiveState:
    """Return the initial state for a target with a declared limit: only refusals restrict it."""
    return AdaptiveState(window=MAX_IN_FLIGHT, crossed=Mark(now, 0.0), opened=Mark(now, 0.0))


def max_in_flight(state: AdaptiveState, now: float) -> float:
    """Return how many calls may be in flight now.

    Examples
    --------
    >>> [max_in_flight(slow_start(0.0), at) for at in (0.0, 0.008, 0.016, 9.9)]
    [1.0, 2.0, 4.0, 1024.0]
    """
    if state.ramp_from is None:
        return state.window
    doublings = min((now - state.ramp_from) / DOUBLING_S, 10.0)
    return float(min(max(state.window, 2.0**doublings), MAX_IN_FLIGHT))


# Requests and answers


def on_paced_request(state: AdaptiveState, pace: TokenBucket, now: float, others: int = 0) -> AdaptiveState:
    """Return the state after a paced request; the pace grows with each, and ends if it delays none.

    ``others`` is the number of calls that are in flight already.
    """
    if state.estimate is not None:
        return _on_estimated_request(state, state.estimate, now, others)
    is_noise = state.spacing == inf
    if state.idle_requests >= (IDLE_REQUESTS if state.pace_known or is_noise else 4 * IDLE_REQUESTS):
        return _without_pace(state, now)
    if state.probe_s:
        state = state._replace(probe_s=0.0, probe_until=now + state.probe_s)
    rate_per_s, capacity, level, updated_at = pace
    level = min(capacity, level + max(now - updated_at, 0.0) * rate_per_s) - 1.0
    gain, left = state.pace_gain, state.spacing_left
    if not is_noise:
        left -= 1
        if left < 0:
            # A refusal is overdue: the limit may have been raised, so the pace accelerates.
            if not state.spacing and left >= -1:
                gain = _gain(rate_per_s, TARGET_SPACING)
            gain *= 1 if state.noise >= STREAK_SHARE else 1 + 2 / max(state.spacing, TARGET_SPACING / 2)
    if state.idle_requests < MIN_SPACING:
        rate_per_s = rate_per_s * 2 ** (1 / left) if is_noise else sqrt(rate_per_s * rate_per_s + gain)
        if left < 0 and state.noise < STREAK_SHARE:
            rate_per_s *= _overdue_growth(state, -left, now - updated_at)
    booked = _pace(rate_per_s, max(updated_at, now), level)
    return state._replace(pace=booked, pace_gain=gain, spacing_left=left, idle_requests=state.idle_requests + 1)


def _on_estimated_request(state: AdaptiveState, estimate: RateEstimate, now: float, others: int) -> AdaptiveState:
    """Plan the next request after one, or stop pacing where it delays none or no rate is high enough."""
    is_limited = state.window < MAX_IN_FLIGHT
    is_faster = state.pace is not None and state.pace.rate_per_s == RATES[-1]
    if (state.idle_requests >= IDLE_REQUESTS or is_faster) and not is_limited:
        return _without_pace(state, now)
    state = state._replace(idle_requests=0 if is_limited else state.idle_requests + 1)
    return _follow_estimate(state, on_request(estimate, now, others), now)


def _on_estimated_refusal(
    state: AdaptiveState, now: float, refusal: RefusedRequest, mark: Mark, estimate: RateEstimate
) -> tuple[AdaptiveState, float | None]:
    """Learn from a refusal, and plan the next request; pause where the provider asks for it after another refusal."""
    if refusal.sent_at < estimate.start:
        return state, None
    if state.window > state.ceiling:
        probe_after = min(2 * state.probe_after, MAX_PROBE_AFTER)
        state = state._replace(window=state.ceiling, successes=0, probe_after=probe_after)
    estimate = on_refusal(estimate, now, refusal.sent_at)
    if state.window >= MAX_IN_FLIGHT and (rate_per_s := next_request(estimate).rate_per_s) > MAX_ESTIMATED_PER_S:
        return _set_pace(state._replace(estimate=None, anchor=mark), now, mark, rate_per_s, 2 * rate_per_s), None
    retry_after_s = refusal.retry_after_s or 0.0
    is_announced = estimate.refused_in_row > 1 and RETRY_AFTER_PRECISION_S < retry_after_s <= LONG_RETRY_AFTER_S
    state = _follow_estimate(state._replace(episode_start=now), estimate, now)
    return state, retry_after_s + RETRY_AFTER_MARGIN_S if is_announced else None


def _follow_estimate(state: AdaptiveState, estimate: RateEstimate, now: float) -> AdaptiveState:
    """Set the pace, or the limit of the number in flight, to what the estimate says."""
    is_limited = state.window < MAX_IN_FLIGHT
    at_once = max_at_once(estimate, MIN_AT_ONCE_PROBABILITY if is_limited else AT_ONCE_PROBABILITY)
    if at_once is not None:
        if at_once != state.ceiling:
            limit = float(at_once)
            probe_after = max(MIN_PROBE_AFTER, 4 * limit)
            state = state._replace(window=limit, ceiling=limit, probe_after=probe_after, successes=0)
        return state._replace(estimate=estimate, pace=TokenBucket(UNPACED_PER_S, 1.0, 1.0, now))
    if is_limited:
        state = state._replace(window=MAX_IN_FLIGHT, ceiling=inf, idle_requests=0)
    rate_per_s, wait_s = next_request(estimate)
    return state._replace(estimate=estimate, pace=TokenBucket(rate_per_s, 1.0, 1.0 - wait_s * rate_per_s, now))


def _overdue_growth(state: AdaptiveState, overdue: float, elapsed_s: float) -> float:
    """Return the factor by which a pace grows with time, so many requests after its refusal was expected."""
    requests = max(state.spacing / 4, OVERDUE_REQUESTS) if state.spacing else SEARCH_OVERDUE_REQUESTS
    doublings = min(elapsed_s / OVERDUE_DOUBLING_S, MAX_OVERDUE_DOUBLINGS)
    return float(2 ** (min(overdue / requests, 1.0) * doublings))


def on_pace_wait(state: AdaptiveState) -> AdaptiveState:
    """Return the state after the pace has delayed a request."""
    return state._replace(idle_requests=0) if state.idle_requests else state


def on_success(
    state: AdaptiveState, now: float, sent_at: float, in_flight: int, others: int | None = None
) -> AdaptiveState:
    """Return the state after an answer, or a failure other than a refusal, with so many calls still in flight.

    ``others`` is the number of calls that were in flight when it was sent.
    """
    if now < state.probe_until and sent_at > state.episode_start:
        state = state._replace(probe_until=-inf)
    if state.estimate is not None and (estimate := on_answer(state.estimate, now, sent_at)) is not state.estimate:
        state = _follow_estimate(state, estimate, now)
    if state.window >= MAX_IN_FLIGHT:
        height = in_flight if others is None else others
        if state.pace is None or height < state.last_height or sent_at < state.clean_from:
            return state
        above = state.successes_above + 1
        return state._replace(
            successes_above=above, refuted_at=sent_at if above == SUCCESSES_ABOVE else state.refuted_at
        )
    if state.ramp_from == inf:
        # The first answer after requests were refused without exception: slow start begins now.
        return state._replace(ramp_from=now, pauses=0)
    if state.ramp_from is not None:
        return state._replace(window=state.window + 1)
    # A window that is not full says nothing about its limit.
    return _grow_window(state) if sent_at > state.episode_start and in_flight + 1 >= state.window else state


def _grow_window(state: AdaptiveState) -> AdaptiveState:
    """Grow the window after enough answers; a probe that went well makes the next one come sooner."""
    is_probing = state.window > state.ceiling
    if state.successes + 1 < (2 * state.window if is_probing else state.probe_after):
        return state._replace(successes=state.successes + 1)
    if is_probing:
        probe_after = max(state.probe_after / 2, 2 * state.window)
        return state._replace(ceiling=state.window, successes=0, probe_after=probe_after)
    return state._replace(window=min(state.window + 1, MAX_IN_FLIGHT), successes=0)


# Refusals


def on_rate_limited(state: AdaptiveState, now: float, refusal: RefusedRequest) -> tuple[AdaptiveState, float | None]:
    """Return the state after a refusal, and the seconds for which no request may be sent, or ``None``.

    Law: however many requests of one episode are refused, the limit shrinks once.
    """
    mark, before = Mark(refusal.sent_at, refusal.number - state.refusals), state.last_mark
    follows_refusal, clean_from = refusal.number - 1 <= state.last_refused, state.clean_from
    state = state._replace(
        refusals=state.refusals + 1,
        refusals_since_pace=state.refusals_since_pace + 1,
        last_refused=max(refusal.number, state.last_refused),
        last_mark=max(mark, before),
        clean_from=2 * now - refusal.sent_at,
    )
    if state.estimate is not None:
        return _on_estimated_refusal(state, now, refusal, mark, state.estimate)
    if refusal.sent_at <= state.episode_start:
        anchor = state.anchor
        is_before_anchor = refusal.sent_at < anchor.at
        return (state._replace(anchor=Mark(anchor.at, anchor.accepted - 1)) if is_before_anchor else state), None
    if state.pace is None:
        return _on_unpaced_refusal(state, now, refusal, mark)
    if refusal.sent_at >= clean_from and mark.accepted - state.noted_at >= SUCCESSES_ABOVE:
        state = _note_height(state, refusal, mark)
        if state.same_height >= SAME_HEIGHT_REPEATS:
            return _limit_concurrency(state, now, float(_height(refusal))), None
    return _on_paced_refusal(state, now, refusal, (mark, before), follows_refusal=follows_refusal)


def _on_paced_refusal(
    state: AdaptiveState,
    now: float,
    refusal: RefusedRequest,
    marks: tuple[Mark, Mark],
    *,
    follows_refusal: bool,
) -> tuple[AdaptiveState, float | None]:
    """React to a refusal at a pace: pause if it follows another, measure the rate if it was expected, or doubt it."""
    mark, before = marks
    rate_per_s = refusal.rate_per_s or (state.pace.rate_per_s if state.pace is not None else 0.0)
    if follows_refusal:
        state = state if state.pauses else state._replace(blocked_since=before.at)
    elif state.pauses:
        state = state._replace(pauses=0, opened=state.reopened)
    if follows_refusal and state.spacing < inf and not (state.pace_known and state.streak.first):
        return _pause(state, now, refusal, rate_per_s)
    gap = mark.accepted - before.accepted
    is_expected = not state.spacing or gap >= max(MIN_SPACING, state.spacing / UNEXPECTED_FRACTION)
    noise = state.noise / 2 if gap >= NOISE_HALVING_REQUESTS else state.noise
    is_early = 0 < state.spacing < inf and gap < EARLY_SHARE * state.spacing
    if is_early and not follows_refusal and (is_expected or state.pace_known):
        state = state._replace(early_refusals=state.early_refusals + 1)
        if state.early_refusals >= state.doubt_after:
            # Refusals by chance would come so early at any pace: see whether a faster one is refused more.
            doubt_after = min(DOUBT_FACTOR * state.doubt_after, MAX_DOUBT_AFTER)
            state = state._replace(early_refusals=0, doubt_after=doubt_after)
            return _assume_noise(state, now, refusal, max(1 / max(gap, MIN_SPACING), noise), rate_per_s), None
    if is_expected:
        state = state._replace(streak=NO_STREAK, tried_slower=False, noise=noise)
        return _measure_rate(state, now, (mark, before), rate_per_s), None
    return _on_unexpected_refusal(state, now, refusal, (mark, before), rate_per_s, follows_refusal=follows_refusal)


def _on_unpaced_refusal(  # noqa: PLR0911 - one return for each reaction
    state: AdaptiveState, now: float, refusal: RefusedRequest, mark: Mark
) -> tuple[AdaptiveState, float | None]:
    """React while there is no pace: end a probe, or start pacing after a crowd or a streak."""
    if state.window > state.ceiling and refusal.in_flight >= state.ceiling:
        probe_after = min(2 * state.probe_after, MAX_PROBE_AFTER)
        return state._replace(window=state.ceiling, successes=0, probe_after=probe_after, episode_start=now), None
    if state.ramp_from == inf:
        return _pause(state, now, refusal, 0.0)
    since_last_s = now - state.streak.last_refused_at
    state = _extend_streaks(state, now, refusal, mark, _noise_share(state.noise))
    crowd, streak, latency_s = state.crowd, state.streak, now - refusal.sent_at
    if state.ramp_from is not None and state.refusals - crowd.refusals_before > 1:
        window = max(MIN_IN_FLIGHT, float(refusal.in_flight))
        ramp_from = max(state.ramp_from, now + 3 * latency_s - DOUBLING_S * log2(window))
        state = state._replace(window=window, ramp_from=ramp_from)
    is_crowd = excess_refusals(crowd, _crowd_share(state), state.refusals) >= CROWD_EXCESS * (1 + 8 * state.noise)
    is_streak = excess_refusals(streak, _noise_share(state.noise), state.refusals) >= STREAK_EXCESS
    if not is_crowd and not (is_streak and mark.at - streak.start.at >= max(MIN_STREAK_S, 4 * latency_s)):
        return state, None if state.noise else min(latency_s, MIN_PAUSE_S, LONE_PAUSE_SHARE * since_last_s)
    # A concurrency limit that was found before no longer holds.
    had_limit = state.window < MAX_IN_FLIGHT and state.ramp_from is None
    known_per_s = state.min_rate_per_s if had_limit else 0.0
    state = state._replace(
        window=MAX_IN_FLIGHT,
        ceiling=inf,
        ramp_from=None,
        crowd=NO_STREAK,
        streak=NO_STREAK,
        min_rate_per_s=0.0,
        pauses=0,
        spacing=0.0,
        refusals_since_pace=0,
        pace_known=False,
        same_height=-TARGET_SPACING if had_limit else state.same_height,
    )
    if known_per_s:
        return _set_pace(state._replace(anchor=mark), now, mark, known_per_s, 2 * known_per_s), None
    if is_crowd:
        state = _note_height(state, refusal, mark)
        state = state._replace(last_height=crowd.height, anchor=crowd.start, blocked_since=refusal.sent_at)
        accepted = state.last_mark.accepted - state.opened.accepted - 1
        if 1 <= accepted <= MAX_ESTIMATED_BURST:
            estimate = initial_estimate(now, accepted, state.last_mark.at - state.opened.at, now - refusal.sent_at)
            return _follow_estimate(state._replace(episode_start=now, idle_requests=0), estimate, now), None
        return _pause(state, now, refusal, 0.0)
    low = rate_between(streak.start, mark)
    high = (refusal.sent - streak.first) / (now - streak.start.at)
    return _set_pace(state._replace(anchor=streak.start, tried_slower=True), now, mark, low, high), None


def _on_unexpected_refusal(
    state: AdaptiveState,
    now: float,
    refusal: RefusedRequest,
    marks: tuple[Mark, Mark],
    rate_per_s: float,
    *,
    follows_refusal: bool,
) -> tuple[AdaptiveState, float | None]:
    """React to a refusal that comes too soon after another: it is noise, or the limit is lower than it was."""
    mark, is_noise = marks[0], state.spacing == inf
    is_rough = not (state.pace_known or is_noise)
    share = state.noise + MAX_NOISE if is_noise else _noise_share(0.0 if is_rough else state.noise)
    state = _extend_streaks(state, now, refusal, mark, share)
    streak = state.streak
    # Requests sent before the first refusal arrived are refused together: they count once and show no share.
    is_lasting = mark.at - streak.start.at >= max(MIN_STREAK_S, 4 * (now - refusal.sent_at))
    excess = excess_refusals(streak, share, state.refusals)
    if excess >= PACED_STREAK_EXCESS * (1 + 2 * is_rough) and (is_lasting or not is_rough):
        refused_share = (state.refusals - streak.refusals_before) / (streak.last - streak.first + 1)
        if refused_share <= MAX_NOISE and (state.tried_slower or is_rough):
            return _assume_noise(state, now, refusal, refused_share, rate_per_s), None
        if not is_rough:
            stays_known = state.pace_known and refused_share <= MAX_NOISE
            measured = rate_between(streak.start, mark)
            low = rate_per_s * (1 - refused_share) if stays_known else measured
            slower = state._replace(tried_slower=state.pace_known, streak=NO_STREAK, anchor=streak.start)
            return _set_pace(slower, now, mark, low, rate_per_s)._replace(pace_known=stays_known), None
        state = state._replace(streak=NO_STREAK)
    if is_rough:
        return _measure_rate(state, now, marks, rate_per_s), None
    return _pause(state, now, refusal, rate_per_s) if follows_refusal and state.pace_known else (state, None)


def _assume_noise(
    state: AdaptiveState, now: float, refusal: RefusedRequest, refused_share: float, rate_per_s: float
) -> AdaptiveState:
    """Take a share of refusals for noise and let the pace grow again."""
    return state._replace(
        noise=min(refused_share, MAX_NOISE),
        streak=NO_STREAK,
        tried_slower=False,
        pace_known=False,
        spacing=inf,
        spacing_left=max(MIN_SPACING, 8 * rate_per_s * (now - refusal.sent_at)),
        idle_requests=0,
        episode_start=now,
    )


def _extend_streaks(
    state: AdaptiveState, now: float, refusal: RefusedRequest, mark: Mark, share: float
) -> AdaptiveState:
    """Add a refusal to those that are not explained yet."""
    crowd = extend_streak(state.crowd, refusal, mark, now, _crowd_share(state), state.refusals)
    return state._replace(crowd=crowd, streak=extend_streak(state.streak, refusal, mark, now, share, state.refusals))


def _noise_share(noise: float) -> float:
    return STREAK_SHARE + min(2 * noise, noise + 0.1)


def _crowd_share(state: AdaptiveState) -> float:
    return CROWD_SHARE + state.noise / 2


def _height(refusal: RefusedRequest) -> int:
    """Return how many calls were in flight that a refused one would have been added to."""
    return refusal.in_flight if refusal.others is None else refusal.others


def _note_height(state: AdaptiveState, refusal: RefusedRequest, mark: Mark) -> AdaptiveState:
    """Store how many calls were in flight, and whether it was as many as last time."""
    height = _height(refusal)
    is_same = 1 <= height == state.last_height and state.refuted_at >= refusal.sent_at
    same_height = state.same_height + 1 if is_same else min(state.same_height, 0)
    return state._replace(
        last_height=height, same_height=same_height, successes_above=0, refuted_at=inf, noted_at=mark.accepted
    )


def _limit_concurrency(state: AdaptiveState, now: float, height: float) -> AdaptiveState:
    """Limit the calls in flight instead of their pace; the rate is remembered in case that is wrong."""
    return _without_pace(state, now)._replace(
        min_rate_per_s=state.min_rate_per_s,
        window=height,
        ceiling=height,
        probe_after=max(MIN_PROBE_AFTER, 4 * height),
        successes=0,
        episode_start=now,
    )


def _pause(state: AdaptiveState, now: float, refusal: RefusedRequest, rate_per_s: float) -> tuple[AdaptiveState, float]:
    """Pause, since nothing is accepted, and set the pace at which to continue; return the pause in seconds."""
    pause_s = _pause_s(state, now, refusal)
    if not state.spacing and state.last_mark.accepted - state.opened.accepted - 1 < 1:
        return _restart(state, now, pause_s), pause_s
    retry_after_s = refusal.retry_after_s or 0.0
    open_s = now + (pause_s if pause_s > SHORT_RETRY_AFTER_S else 0.0) - state.opened.at
    max_rate_per_s = max(state.last_mark.accepted - state.opened.accepted - 1, 1) / max(open_s, 1e-3)
    if not state.spacing:
        is_short = state.pauses < MAX_SEARCH_PAUSES and pause_s <= 1
        highest = 2 * max_rate_per_s if is_short else max_rate_per_s
        state = _start_search(state, now + pause_s, highest, now - refusal.sent_at)
    else:
        announced_s = retry_after_s if RETRY_AFTER_PRECISION_S < retry_after_s <= LONG_RETRY_AFTER_S else 0.0
        blocked_s = max(refusal.sent_at - state.blocked_since, announced_s)
        if state.min_rate_per_s * blocked_s >= BLOCKED_REQUESTS and state.noise ** (state.pauses + 1) < MIN_CHANCE:
            # What was accepted was the allowance of a window.
            rate_per_s = max_rate_per_s
            spacing = _target_spacing(rate_per_s) * min(state.refusals_since_pace, 2)
            gain = _gain(rate_per_s, spacing)
            state = state._replace(pace_known=True, spacing=spacing, spacing_left=spacing, pace_gain=gain)
        elif not state.pace_known:
            high, rate_per_s = rate_per_s, max(rate_per_s / 2, state.min_rate_per_s)
            gain = max(high * high - rate_per_s * rate_per_s, 0.0) / state.spacing
            state = state._replace(pace_gain=gain, spacing_left=state.spacing)
        state = state._replace(pace=_pace(rate_per_s, now + pause_s, 1.0))
    reopened = Mark(now + pause_s, state.last_mark.accepted - 1)
    probe_s = PROBE_LATENCIES * (now - refusal.sent_at)
    return state._replace(
        episode_start=now, pauses=state.pauses + 1, reopened=reopened, probe_s=probe_s, probe_until=-inf
    ), pause_s


def _restart(state: AdaptiveState, now: float, pause_s: float) -> AdaptiveState:
    """Return to slow start after a pause: where nothing was accepted, no rate was measured.

    One request at a time is sent until the first one is accepted.
    """
    here = Mark(now + pause_s, state.last_mark.accepted - 1)
    return state._replace(
        window=MIN_IN_FLIGHT,
        ceiling=inf,
        successes=0,
        ramp_from=inf,
        pace=None,
        crowd=NO_STREAK,
        streak=NO_STREAK,
        tried_slower=False,
        crossed=here,
        opened=here,
        reopened=here,
        anchor=here,
        episode_start=now,
        pauses=state.pauses + 1,
    )


def _pause_s(state: AdaptiveState, now: float, refusal: RefusedRequest) -> float:
    """Return how long to pause: doubling, until the assumed window ends, or as long as the provider asks for."""
    latency_s, retry_after_s = now - refusal.sent_at, refusal.retry_after_s or 0.0
    shortest_s, blocked_s = max(MIN_PAUSE_S, latency_s), now - state.blocked_since
    pause_s = min(shortest_s * 2.0 ** min(state.pauses, 10), max(shortest_s, BLOCKED_SHARE * blocked_s), MAX_PAUSE_S)
    if state.ramp_from == inf and retry_after_s:
        pause_s = min(pause_s, MAX_RETRY_AFTERS * retry_after_s)
    window_end = state.opened.at + ASSUMED_WINDOW_S
    if now + MIN_PAUSE_S < window_end < now + pause_s:
        pause_s = window_end - now
    if retry_after_s > LONG_RETRY_AFTER_S:
        return pause_s
    if retry_after_s <= SHORT_RETRY_AFTER_S:
        return max(pause_s, retry_after_s)
    return retry_after_s + RETRY_AFTER_MARGIN_S


def _start_search(state: AdaptiveState, start: float, highest_rate_per_s: float, latency_s: float) -> AdaptiveState:
    """Search for a pace, from almost nothing up to the highest possible rate."""
    ramp_s = max(MIN_SEARCH_S, 8 * latency_s)
    gain = 2 * highest_rate_per_s / ramp_s
    pace = TokenBucket(sqrt(gain), 1.0, 1.0, start)
    return state._replace(pace=pace, pace_gain=gain, spacing_left=highest_rate_per_s * ramp_s / 2, idle_requests=0)


def _measure_rate(state: AdaptiveState, now: float, marks: tuple[Mark, Mark], high_per_s: float) -> AdaptiveState:
    """Set the pace to what was accepted, since it was exceeded."""
    mark, before = marks
    accepted = mark.accepted - state.crossed.accepted
    low_per_s = rate_between(state.anchor, mark)
    for anchor in (state.crossed, before) if state.spacing else ():
        if mark.accepted - anchor.accepted >= MIN_SPACING - 1:
            rate_per_s = rate_between(anchor, mark)
            if rate_per_s > low_per_s:
                low_per_s, state = rate_per_s, state._replace(anchor=anchor)
    if accepted >= MIN_SPACING and abs(low_per_s - state.min_rate_per_s) <= EQUAL_RATE_SHARE * low_per_s:
        high_per_s = min(high_per_s, low_per_s * (1 + 2 * PACE_MARGIN))
    return _set_pace(state, now, mark, max(low_per_s, state.min_rate_per_s), high_per_s)


def _set_pace(state: AdaptiveState, now: float, mark: Mark, low_per_s: float, high_per_s: float) -> AdaptiveState:
    """Continue a little below the lower bound of the rate, and grow to its upper bound."""
    start_per_s = max(low_per_s, high_per_s / 2)
    max_spacing = _target_spacing(start_per_s) * min(max(state.refusals_since_pace, 1), 2)
    spacing = min(MIN_SPACING / max(high_per_s / start_per_s - 1, 1e-3), max_spacing)
    spacing = max(spacing, MIN_SPACING, 8 * (now - mark.at) * start_per_s)
    pace_known = high_per_s <= KNOWN_PACE_RATIO * start_per_s
    if not pace_known:
        # Doubts about a pace say nothing about a much slower one.
        state = state._replace(early_refusals=0, doubt_after=DOUBT_AFTER)
    start_per_s, end_per_s = start_per_s * (1 - PACE_MARGIN), max(high_per_s, start_per_s * (1 + PACE_MARGIN))
    return state._replace(
        pace_known=pace_known,
        pace=_pace(start_per_s, now, 0.0),
        pace_gain=(end_per_s * end_per_s - start_per_s * start_per_s) / spacing,
        spacing=spacing,
        spacing_left=spacing,
        idle_requests=0,
        episode_start=now,
        refusals_since_pace=0,
        min_rate_per_s=low_per_s,
        anchor=mark if mark.accepted - state.anchor.accepted >= PRECISE_SPACING else state.anchor,
        crossed=mark,
    )


def _without_pace(state: AdaptiveState, now: float) -> AdaptiveState:
    """Stop pacing."""
    here = Mark(now, state.last_refused - state.refusals)
    return state._replace(
        pace=None,
        estimate=None,
        streak=NO_STREAK,
        crowd=NO_STREAK,
        tried_slower=False,
        crossed=here,
        opened=here,
        spacing=0.0,
        min_rate_per_s=0.0,
        pace_known=False,
        early_refusals=0,
        doubt_after=DOUBT_AFTER,
    )


def _target_spacing(rate_per_s: float) -> float:
    """Return how many requests should lie between two refusals of a pace."""
    return min(max(rate_per_s * PROBE_INTERVAL_S, MIN_TARGET_SPACING), TARGET_SPACING)


def _gain(rate_per_s: float, spacing: float) -> float:
    """Return the gain of a pace that grows from `PACE_MARGIN` below a rate to as much above in ``spacing`` requests."""
    return rate_per_s * rate_per_s * 4 * PACE_MARGIN / spacing


def _pace(rate_per_s: float, start: float, level: float) -> TokenBucket:
    return TokenBucket(rate_per_s, max(1.0, rate_per_s * PACE_BURST_S), level, start)
