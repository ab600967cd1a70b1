"""How many calls at once, and how fast, where nobody said: found by trying, as a pure machine.

It begins with one call and doubles every `DOUBLING_S`, and grows by one with each answer besides, so that a provider
that is well is not held back for longer than a blink. Refusals (429, never 5xx) change that:

- A *crowd*, most of what was sent being refused, or a *streak*, more than now and then, is a limit that was reached.
  From then on calls are paced. A refusal right after another says that nothing is let through any more: everybody waits
  a moment, twice as long each time.
- A provider's bucket is empty when it refuses. So what it let through from one refusal to another, far apart, is what
  it permits in that time: the pace. It is taken up a little below that, and grows until the next refusal, by so much
  that hundreds of requests lie between two: each costs one request and makes the pace more exact.
- Refusals that come as often at half the pace have nothing to do with us (*noise*): the pace grows again, and from then
  on so many are taken to be usual.
- Refused at the same height again and again, it is not a pace but how many at once that is bounded.
- Where nothing is let through for long, what was let through before was a window's worth: it is spread over the window.

An episode, all that was sent before it was known, shrinks once.

What refusals show of a limit, as pure values: how much was let through between them, and how many are too many.
"""

from __future__ import annotations

from math import inf, log2, sqrt
from typing import Final, NamedTuple

from llmhub.engine.limits import TokenBucket


class Refusal(NamedTuple):
    """A request was refused for a limit.

    Parameters
    ----------
    sent_at, number
        When it went, and as which of all that went.
    sent, under_way
        How many went so far, and how many of them are neither answered nor refused yet.
    retry_after_s
        When the provider said to come again.
    """

    sent_at: float
    number: float
    sent: float
    in_flight: int
    retry_after_s: float | None = None


class Mark(NamedTuple):
    """A moment, and how many requests had been let through by then."""

    at: float
    accepted: float


class Streak(NamedTuple):
    """Refusals that nothing explains.

    Parameters
    ----------
    before
        Refusals before it: all that came since count, those of an episode that is over as well.
    first, last
        The first and the last request of it; none where there is no streak.
    start
        Where it began.
    came
        When the last refusal came.
    """

    refusals_before: int = 0
    first: float = 0.0
    last: float = 0.0
    start: Mark = Mark(0.0, 0.0)
    last_refused_at: float = -inf


NO_STREAK: Final = Streak()


def extend_streak(streak: Streak, refusal: Refusal, mark: Mark, now: float, share: float, total: int) -> Streak:
    """Add a refusal, the last of ``total``; begin anew where they came to less than a ``share`` of what was sent.

    Examples
    --------
    >>> one = extend_streak(NO_STREAK, Refusal(1.0, 7, 9, 2), Mark(1.0, 6), 1.1, 0.5, 1)
    >>> one.first, extend_streak(one, Refusal(1.0, 8, 9, 2), Mark(1.0, 6), 1.1, 0.5, 2).last
    (7, 8)
    >>> extend_streak(one, Refusal(2.0, 90, 90, 2), Mark(2.0, 88), 2.1, 0.5, 2).first
    90
    """
    number = refusal.number
    faded = refusal.sent_at >= streak.last_refused_at and total - 1 - streak.refusals_before < share * (
        number - streak.first
    )
    if not streak.first or faded:
        return Streak(total - 1, number, number, mark, now)
    before, first, last, start, _ = streak
    if number < first:
        first, start = number, Mark(refusal.sent_at, start.accepted - (first - number))
    return Streak(before, first, max(last, number), start, now)


def excess_refusals(streak: Streak, share: float, total: int) -> float:
    """Say how many refusals, ``total`` in all, there are more than a ``share`` of what was sent."""
    return total - streak.refusals_before - share * (streak.last - streak.first + 1)


def min_rate_between(anchor: Mark, mark: Mark, refusal: Refusal, now: float) -> float:
    """Give the least that a limit's rate can be, a second, by what it let through from one refusal to another.

    Examples
    --------
    >>> min_rate_between(Mark(0.0, 0), Mark(10.0, 101), Refusal(10.0, 105, 105, 3), 10.0)
    10.0
    """
    passed = mark.accepted - anchor.accepted - 1 - (refusal.sent - refusal.number)
    return max(passed, 0.5) / max(mark.at - anchor.at + now - refusal.sent_at, 1e-3)


__all__ = [
    "MAX_IN_FLIGHT",
    "MIN_IN_FLIGHT",
    "AdaptiveState",
    "Refusal",
    "max_in_flight",
    "on_pace_wait",
    "on_paced_request",
    "on_rate_limited",
    "on_success",
    "slow_start",
    "start_unbounded",
]  # fmt: skip


MIN_IN_FLIGHT: Final = 1.0


MAX_IN_FLIGHT: Final = 1024.0
"""Bounds of the window: calls under way at once."""


DOUBLING_S: Final = 0.008


MIN_PROBE_AFTER, MAX_PROBE_AFTER = 128.0, 4096.0
"""Answers before one more at once is tried than were refused, at least and at most."""


CROWD_SHARE, CROWD_EXCESS = 0.6, 1.6
"""A crowd: so many refusals more than this share of what was sent."""


STREAK_SHARE, STREAK_EXCESS = 0.01, 8.0
"""A streak before there is a pace: so many refusals more than this share, beyond what is noise."""


MIN_STREAK_S: Final = 0.25
"""How long a streak must have gone on, at least."""


PACED_STREAK_EXCESS: Final = 3.0
"""Refusals, more than are noise, that make a streak of those who are paced."""


MAX_NOISE_SHARE: Final = 0.6
"""Where so large a share is refused, it is no noise."""


MAX_NOISE: Final = 0.3


NOISE_HALVING_REQUESTS: Final = 100
"""Requests without a refusal after which noise is thought to be half of what it was."""


MIN_PAUSE_S, MAX_PAUSE_S = 0.25, 60.0
"""A pause at least and at most, unless the provider asked for a longer one: doubled while nothing is let through."""


SHORT_RETRY_AFTER_S, LONG_RETRY_AFTER_S = 1.0, 300.0
"""A time to come again that is shorter is rounded for all one knows; one that is longer is the provider's to repeat."""


RETRY_AFTER_PRECISION_S: Final = 2.0


RETRY_AFTER_MARGIN_S: Final = 0.02
"""How much later than asked."""


ASSUMED_WINDOW_S: Final = 60.2
"""A window is a minute, for all one knows; what jitters on the way is added."""


MIN_SEARCH_S: Final = 1.0
"""How long the first search for a pace goes from nothing to the most that was ever let through, at least."""


MAX_SEARCH_PAUSES: Final = 3
"""Pauses in a row after which what was let through was a burst, and not the pace of a search."""


PACE_MARGIN: Final = 0.02
"""How far below and above what is known the pace goes."""


MIN_SPACING: Final = 16
"""Requests between two refusals that tell a pace roughly; `PRECISE_SPACING` tell it well."""


PRECISE_SPACING: Final = 100


TARGET_SPACING: Final = 500
"""Requests that should lie between two refusals of a pace that is known."""


UNEXPECTED_FRACTION: Final = 4
"""A refusal that comes in so small a part of those is unexpected."""


KNOWN_PACE_RATIO: Final = 1.25
"""A pace is known when it is at most by this factor uncertain."""


EQUAL_RATE_SHARE: Final = 0.02
"""Two measurements are the same that differ by no more than this share."""


BLOCKED_REQUESTS: Final = 4
"""So many requests' time without any let through is no accident."""


MIN_CHANCE: Final = 1e-3
"""What happens by chance so seldom is no noise."""


SAME_HEIGHT_REPEATS: Final = 2
"""Repetitions of a height that make it the bound; `SUCCESSES_ABOVE` answers beyond it refute it."""


SUCCESSES_ABOVE: Final = 8


PACE_BURST_S: Final = 0.05
"""Seconds' worth of a pace that may go at once."""


IDLE_REQUESTS: Final = 100
"""Requests after which a pace that held nobody back says nothing any more."""


class AdaptiveState(NamedTuple):
    """Where the search stands.

    Parameters
    ----------
    window, ramp_from
        Calls under way, at most; when slow start began, ``None`` when it is over.
    height, credit, hold
        Above how many at once it was refused; answers since the last step, and before the next.
    since
        What was sent before is part of an episode that is over.
    total, cost, last, latest
        Refusals in all and since the pace was last set; which request was the last refused, and its mark.
    anchor, crossed
        From where the rate is measured, and where it was refused last for going too fast.
    least
        What the rate is at least, for all one knows.
    crowd, streak, tried
        Refusals that wait to be explained, and whether going slower for them was tried.
    pace, gain, due, left
        Requests a second; how much its square grows with each; for how many it should (none: searching; for ever: it
        is thought to be noise), and how many of them are left.
    sure
        Whether the pace is known.
    idle
        Requests since the pace held anybody back.
    shut, closed, opened, reopened
        Pauses in a row; since when nothing was let through; when what is let through now began to be; when it will be.
    low, same, above
        The height of the last refusal, how often it was the same, and answers above it.
    noise
        Share of refusals that have nothing to do with us.
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
    noise: float = 0.0


def slow_start(now: float) -> AdaptiveState:
    """Begin with slow start."""
    return AdaptiveState(ramp_from=now, crossed=Mark(now, 0.0), opened=Mark(now, 0.0))


def start_unbounded(now: float) -> AdaptiveState:
    """Begin where limits are declared: there is nothing to feel for, only refusals make it smaller."""
    return AdaptiveState(window=MAX_IN_FLIGHT, crossed=Mark(now, 0.0), opened=Mark(now, 0.0))


def max_in_flight(state: AdaptiveState, now: float) -> float:
    """Say how many calls may be under way now.

    Examples
    --------
    >>> [max_in_flight(slow_start(0.0), at) for at in (0.0, 0.008, 0.016, 9.9)]
    [1.0, 2.0, 4.0, 1024.0]
    """
    if state.ramp_from is None:
        return state.window
    doublings = min((now - state.ramp_from) / DOUBLING_S, 10.0)
    return float(min(max(state.window, 2.0**doublings), MAX_IN_FLIGHT))


def on_paced_request(state: AdaptiveState, pace: TokenBucket, now: float) -> AdaptiveState:
    """Book a request of a pace; it grows with each, unless it holds nobody back."""
    noisy = state.spacing == inf
    if state.idle_requests >= (IDLE_REQUESTS if state.pace_known or noisy else 4 * IDLE_REQUESTS):
        return _freed(state, now)
    rate_s, capacity, level, at = pace
    level = min(capacity, level + max(now - at, 0.0) * rate_s) - 1.0
    gain, left = state.pace_gain, state.spacing_left
    if not noisy:
        left -= 1
        if left < 0:
            # Later than it should: the limit may have been raised, so it grows faster and faster.
            if not state.spacing and left >= -1:
                gain = _gain(rate_s, TARGET_SPACING)
            gain *= 1 if state.noise >= STREAK_SHARE else 1 + 2 / max(state.spacing, TARGET_SPACING / 2)
    if state.idle_requests < MIN_SPACING:
        rate_s = rate_s * 2 ** (1 / left) if noisy else sqrt(rate_s * rate_s + gain)
    booked = _paced(rate_s, max(at, now), level)
    return state._replace(pace=booked, pace_gain=gain, spacing_left=left, idle_requests=state.idle_requests + 1)


def on_pace_wait(state: AdaptiveState) -> AdaptiveState:
    """Take in that a pace held somebody back."""
    return state._replace(idle_requests=0) if state.idle_requests else state


def on_success(state: AdaptiveState, sent_at: float, under_way: int) -> AdaptiveState:
    """Take in that a request was answered, or failed for another reason than a limit, with so many still under way."""
    if state.window >= MAX_IN_FLIGHT:
        if state.pace is None or under_way < state.last_height:
            return state
        return state._replace(
            successes_above=state.successes_above + 1,
            last_height=state.last_height if state.successes_above < SUCCESSES_ABOVE else int(MAX_IN_FLIGHT),
        )
    if state.ramp_from is not None:
        return state._replace(window=state.window + 1)
    # A window that holds nobody back says nothing of how large it may be.
    return _grown(state) if sent_at > state.episode_start and under_way + 1 >= state.window else state


def _grown(state: AdaptiveState) -> AdaptiveState:
    """Try one more at once after so many answers; where that went well for long, the next comes sooner."""
    probing = state.window > state.ceiling
    if state.successes + 1 < (2 * state.window if probing else state.probe_after):
        return state._replace(successes=state.successes + 1)
    if probing:
        return state._replace(
            ceiling=state.window, successes=0, probe_after=max(state.probe_after / 2, 2 * state.window)
        )
    return state._replace(window=min(state.window + 1, MAX_IN_FLIGHT), successes=0)


def on_rate_limited(state: AdaptiveState, now: float, refusal: Refusal) -> tuple[AdaptiveState, float | None]:
    """Take in a refusal; give the seconds for which nobody should go, or ``None``.

    Law: however many requests of one episode are refused, it shrinks once.
    """
    mark, before = Mark(refusal.sent_at, refusal.number - state.refusals), state.last_mark
    alone = refusal.number - 1 <= state.last_refused
    state = state._replace(
        refusals=state.refusals + 1,
        refusals_since_pace=state.refusals_since_pace + 1,
        last_refused=max(refusal.number, state.last_refused),
        last_mark=max(mark, before),
    )
    if refusal.sent_at <= state.episode_start:
        anchor = state.anchor
        late = refusal.sent_at < anchor.at
        return (state._replace(anchor=Mark(anchor.at, anchor.accepted - 1)) if late else state), None
    if state.pace is None:
        return _unpaced(state, now, refusal, mark)
    rate_s = state.pace.rate_per_s
    if alone:
        state = state if state.pauses else state._replace(blocked_since=before.at)
    elif state.pauses:
        state = state._replace(pauses=0, opened=state.reopened)
    if alone and state.spacing < inf and not (state.pace_known and state.streak.first):
        return _shut(state, now, refusal, rate_s)
    gap = mark.accepted - before.accepted
    if not state.spacing or gap >= max(MIN_SPACING, state.spacing / UNEXPECTED_FRACTION):
        noise = state.noise / 2 if gap >= NOISE_HALVING_REQUESTS else state.noise
        state = state._replace(streak=NO_STREAK, tried_slower=False, noise=noise)
        return _crossed(state, now, refusal, (mark, before), rate_s), None
    return _doubted(state, now, refusal, (mark, before), rate_s, alone=alone)


def _unpaced(state: AdaptiveState, now: float, refusal: Refusal, mark: Mark) -> tuple[AdaptiveState, float | None]:
    """React while there is no pace: a probe of one more at once, a crowd, a streak, or nothing to go by."""
    if state.window > state.ceiling and refusal.in_flight >= state.ceiling:
        hold = min(2 * state.probe_after, MAX_PROBE_AFTER)
        return state._replace(window=state.ceiling, successes=0, probe_after=hold, episode_start=now), None
    state = _suspected(state, now, refusal, mark, _drift(state.noise))
    crowd, streak, took_s = state.crowd, state.streak, now - refusal.sent_at
    if state.ramp_from is not None and state.refusals - crowd.refusals_before > 1:
        window = max(MIN_IN_FLIGHT, float(refusal.in_flight))
        ramp_from = max(state.ramp_from, now + 3 * took_s - DOUBLING_S * log2(window))
        state = state._replace(window=window, ramp_from=ramp_from)
    crowded = excess_refusals(crowd, _crowd_share(state), state.refusals) >= CROWD_EXCESS * (1 + 8 * state.noise)
    streaked = excess_refusals(streak, _drift(state.noise), state.refusals) >= STREAK_EXCESS
    if not crowded and not (streaked and mark.at - streak.start.at >= max(MIN_STREAK_S, 4 * took_s)):
        return state, None if state.noise else min(took_s, MIN_PAUSE_S)
    # A bound of how many at once that was found holds no more.
    same = -TARGET_SPACING if state.window < MAX_IN_FLIGHT and state.ramp_from is None else state.same_height
    state = state._replace(
        window=MAX_IN_FLIGHT, ceiling=inf, ramp_from=None, crowd=NO_STREAK, streak=NO_STREAK, min_rate_per_s=0.0, pauses=0, spacing=0.0, refusals_since_pace=0,
        pace_known=False, same_height=same,
    )  # fmt: skip
    if crowded:
        return _shut(_at_height(state, refusal)._replace(anchor=crowd.start), now, refusal, 0.0)
    low, high = (
        min_rate_between(streak.start, mark, refusal, now),
        (refusal.sent - streak.first) / (now - streak.start.at),
    )
    return _repaced(state._replace(anchor=streak.start, tried_slower=True), now, mark, low, high), None


def _doubted(
    state: AdaptiveState, now: float, refusal: Refusal, marks: tuple[Mark, Mark], rate_s: float, *, alone: bool
) -> tuple[AdaptiveState, float | None]:
    """React to a refusal that comes too soon after another: it may be noise, or the limit is lower than it was."""
    mark, noisy = marks[0], state.spacing == inf
    rough = not (state.pace_known or noisy)
    drift = state.noise + MAX_NOISE if noisy else _drift(0.0 if rough else state.noise)
    state = _suspected(state, now, refusal, mark, drift)
    streak = state.streak
    # What is refused together, since it was sent before the first refusal came, is one refusal and no share.
    lasting = mark.at - streak.start.at >= max(MIN_STREAK_S, 4 * (now - refusal.sent_at))
    if excess_refusals(streak, drift, state.refusals) >= PACED_STREAK_EXCESS * (1 + 2 * rough) and (
        lasting or not rough
    ):
        share = (state.refusals - streak.refusals_before) / (streak.last - streak.first + 1)
        if share <= MAX_NOISE_SHARE and (state.tried_slower or rough):
            left = max(MIN_SPACING, 8 * rate_s * (now - refusal.sent_at))
            return state._replace(
                noise=min(share, MAX_NOISE), streak=NO_STREAK, tried_slower=False, pace_known=False, spacing=inf, spacing_left=left, idle_requests=0,
                episode_start=now,
            ), None  # fmt: skip
        if not rough:
            some = state.pace_known and share <= MAX_NOISE_SHARE
            low = rate_s * (1 - share) if some else min_rate_between(streak.start, mark, refusal, now)
            slower = state._replace(tried_slower=state.pace_known, streak=NO_STREAK, anchor=streak.start)
            slower = _repaced(slower, now, mark, low, rate_s)
            return slower._replace(pace_known=some), None
        state = state._replace(streak=NO_STREAK)
    if rough:
        return _crossed(state, now, refusal, marks, rate_s), None
    return _shut(state, now, refusal, rate_s) if alone and state.pace_known else (state, None)


def _suspected(state: AdaptiveState, now: float, refusal: Refusal, mark: Mark, drift: float) -> AdaptiveState:
    """Add a refusal to those that wait to be explained."""
    crowd = extend_streak(state.crowd, refusal, mark, now, _crowd_share(state), state.refusals)
    return state._replace(crowd=crowd, streak=extend_streak(state.streak, refusal, mark, now, drift, state.refusals))


def _drift(noise: float) -> float:
    return STREAK_SHARE + min(2 * noise, noise + 0.1)


def _crowd_share(state: AdaptiveState) -> float:
    return CROWD_SHARE + state.noise / 2


def _at_height(state: AdaptiveState, refusal: Refusal) -> AdaptiveState:
    """Remember how many were under way, and whether it was as many as last time."""
    height = refusal.in_flight
    again = height >= 1 and abs(height - state.last_height) <= height / 20
    return state._replace(
        last_height=height, same_height=state.same_height + 1 if again else min(state.same_height, 0), successes_above=0
    )


def _shut(state: AdaptiveState, now: float, refusal: Refusal, rate_s: float) -> tuple[AdaptiveState, float]:
    """Pause, since nothing is let through, and see at what pace to go on."""
    took_s, asked_s = now - refusal.sent_at, refusal.retry_after_s or 0.0
    pause_s = min(max(MIN_PAUSE_S, took_s) * 2.0 ** min(state.pauses, 10), MAX_PAUSE_S)
    turn = state.opened.at + ASSUMED_WINDOW_S
    if now + MIN_PAUSE_S < turn < now + pause_s:
        pause_s = turn - now
    if asked_s <= LONG_RETRY_AFTER_S:
        pause_s = max(pause_s, asked_s) if asked_s <= SHORT_RETRY_AFTER_S else asked_s + RETRY_AFTER_MARGIN_S
    spent_s = now + (pause_s if pause_s > SHORT_RETRY_AFTER_S else 0.0) - state.opened.at
    most_s = max(state.last_mark.accepted - state.opened.accepted - 1, 1) / max(spent_s, 1e-3)
    if not state.spacing:
        state = _searching(
            state, now + pause_s, 2 * most_s if state.pauses < MAX_SEARCH_PAUSES and pause_s <= 1 else most_s, took_s
        )
    else:
        told_s = asked_s if RETRY_AFTER_PRECISION_S < asked_s <= LONG_RETRY_AFTER_S else 0.0
        closed_s = max(refusal.sent_at - state.blocked_since, told_s)
        if state.min_rate_per_s * closed_s >= BLOCKED_REQUESTS and state.noise ** (state.pauses + 1) < MIN_CHANCE:
            rate_s, due = most_s, float(TARGET_SPACING * min(state.refusals_since_pace, 2))
            state = state._replace(pace_known=True, spacing=due, spacing_left=due, pace_gain=_gain(rate_s, due))
        elif not state.pace_known:
            high, rate_s = rate_s, max(rate_s / 2, state.min_rate_per_s)
            gain = max(high * high - rate_s * rate_s, 0.0) / state.spacing
            state = state._replace(pace_gain=gain, spacing_left=state.spacing)
        state = state._replace(pace=_paced(rate_s, now + pause_s, 1.0))
    reopened = Mark(now + pause_s, state.last_mark.accepted)
    return state._replace(episode_start=now, pauses=state.pauses + 1, reopened=reopened), pause_s


def _searching(state: AdaptiveState, then: float, most_s: float, took_s: float) -> AdaptiveState:
    """Look for a pace, from next to nothing up to the most that can be."""
    ramp_s = max(MIN_SEARCH_S, 8 * took_s)
    gain = 2 * most_s / ramp_s
    pace = TokenBucket(sqrt(gain), 1.0, 1.0, then)
    return state._replace(pace=pace, pace_gain=gain, spacing_left=most_s * ramp_s / 2, idle_requests=0)


def _crossed(
    state: AdaptiveState, now: float, refusal: Refusal, marks: tuple[Mark, Mark], high_s: float
) -> AdaptiveState:
    """Take the pace of what was let through, since it was gone beyond; or find that it is a height."""
    mark, before = marks
    passed = mark.accepted - state.crossed.accepted
    if passed >= SUCCESSES_ABOVE:
        state = _at_height(state, refusal)
    if state.same_height >= SAME_HEIGHT_REPEATS:
        height = max(MIN_IN_FLIGHT, float(refusal.in_flight))
        hold = max(MIN_PROBE_AFTER, 4 * height)
        return _freed(state, now)._replace(
            window=height, ceiling=height, probe_after=hold, successes=0, episode_start=now
        )
    low_s = min_rate_between(state.anchor, mark, refusal, now)
    for anchor in (state.crossed, before) if state.spacing else ():
        if (
            mark.accepted - anchor.accepted > MIN_SPACING
            and (other_s := min_rate_between(anchor, mark, refusal, now)) > low_s
        ):
            low_s, state = other_s, state._replace(anchor=anchor)
    if passed >= MIN_SPACING and abs(low_s - state.min_rate_per_s) <= EQUAL_RATE_SHARE * low_s:
        high_s = min(high_s, low_s * (1 + 2 * PACE_MARGIN))
    return _repaced(state, now, mark, max(low_s, state.min_rate_per_s), high_s)


def _repaced(state: AdaptiveState, now: float, mark: Mark, low_s: float, high_s: float) -> AdaptiveState:
    """Go on a little below what the rate is at least, and grow to what it may be at most."""
    spacing = TARGET_SPACING * min(max(state.refusals_since_pace, 1), 2)
    start_s = max(low_s, high_s / 2)
    due = min(MIN_SPACING / max(high_s / start_s - 1, 1e-3), spacing)
    due = max(due, MIN_SPACING, 8 * (now - mark.at) * start_s)
    sure = high_s <= KNOWN_PACE_RATIO * start_s
    start_s, end_s = start_s * (1 - PACE_MARGIN), max(high_s, start_s * (1 + PACE_MARGIN))
    anchor = mark if mark.accepted - state.anchor.accepted >= PRECISE_SPACING else state.anchor
    return state._replace(
        pace_known=sure, pace=_paced(start_s, now, 0.0), pace_gain=(end_s * end_s - start_s * start_s) / due, spacing=due, spacing_left=due,
        idle_requests=0, episode_start=now, refusals_since_pace=0, min_rate_per_s=low_s, anchor=anchor, crossed=mark,
    )  # fmt: skip


def _freed(state: AdaptiveState, now: float) -> AdaptiveState:
    """Do without a pace."""
    here = Mark(now, state.last_refused - state.refusals)
    return state._replace(
        pace=None, streak=NO_STREAK, crowd=NO_STREAK, tried_slower=False, crossed=here, opened=here, spacing=0.0, min_rate_per_s=0.0,
        pace_known=False,
    )  # fmt: skip


def _gain(rate_s: float, due: float) -> float:
    """Say by how much the square of a pace grows with each request, to go from a little below to a little above."""
    return rate_s * rate_s * 4 * PACE_MARGIN / due


def _paced(rate_s: float, at: float, level: float) -> TokenBucket:
    return TokenBucket(rate_s, max(1.0, rate_s * PACE_BURST_S), level, at)
