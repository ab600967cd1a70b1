"""How many calls at once, and how fast, where nobody said: found by trying, as a pure machine.

It begins with one call and doubles every `DOUBLE_S`, and grows by one with each answer besides, so that a provider
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
"""

from __future__ import annotations

from math import inf, log2, sqrt
from typing import Final, NamedTuple

from llmhub.engine.refusals import NO_STREAK, Mark, Refusal, Streak, doubtful, longer, rate_between
from llmhub.engine.windows import TokenBucket

__all__ = [
    "LEAST", "MOST", "Adaptive", "Refusal", "answered", "begun", "held", "paid", "permitted", "refused", "unhurried",
]  # fmt: skip

LEAST: Final = 1.0
MOST: Final = 1024.0
"""Bounds of the window: calls under way at once."""
DOUBLE_S: Final = 0.008
HELD, LONGEST_HELD = 128.0, 4096.0
"""Answers before one more at once is tried than were refused, at least and at most."""
CROWD_SHARE, CROWD_EXCESS = 0.6, 1.6
"""A crowd: so many refusals more than this share of what was sent."""
TRICKLE_SHARE, TRICKLE_EXCESS = 0.01, 8.0
"""A streak before there is a pace: so many refusals more than this share, beyond what is noise."""
STREAK_S: Final = 0.25
"""How long a streak must have gone on, at least."""
STRIKES: Final = 3.0
"""Refusals, more than are noise, that make a streak of those who are paced."""
MOSTLY: Final = 0.6
"""Where so large a share is refused, it is no noise."""
USUAL_NOISE: Final = 0.3
QUIET: Final = 100
"""Requests without a refusal after which noise is thought to be half of what it was."""
PAUSE_S, LONGEST_PAUSE_S = 0.25, 60.0
"""A pause at least and at most, unless the provider asked for a longer one: doubled while nothing is let through."""
PROMPT_S, DISTANT_S = 1.0, 300.0
"""A time to come again that is shorter is rounded for all one knows; one that is longer is the provider's to repeat."""
ROUNDED_S: Final = 2.0
AFTER_S: Final = 0.02
"""How much later than asked."""
MINUTE_S: Final = 60.2
"""A window is a minute, for all one knows; what jitters on the way is added."""
SEARCH_S: Final = 1.0
"""How long the first search for a pace goes from nothing to the most that was ever let through, at least."""
SEARCHES: Final = 3
"""Pauses in a row after which what was let through was a burst, and not the pace of a search."""
EDGE: Final = 0.02
"""How far below and above what is known the pace goes."""
ROUGH: Final = 16
"""Requests between two refusals that tell a pace roughly; `FAR` tell it well."""
FAR: Final = 100
SPACING: Final = 500
"""Requests that should lie between two refusals of a pace that is known."""
SOON: Final = 4
"""A refusal that comes in so small a part of those is unexpected."""
SURE: Final = 1.25
"""A pace is known when it is at most by this factor uncertain."""
SAME: Final = 0.02
"""Two measurements are the same that differ by no more than this share."""
CLOSED: Final = 4
"""So many requests' time without any let through is no accident."""
NEVER: Final = 1e-3
"""What happens by chance so seldom is no noise."""
TWICE: Final = 2
"""Repetitions of a height that make it the bound; `ABOVE` answers beyond it refute it."""
ABOVE: Final = 8
BURST: Final = 0.05
"""Seconds' worth of a pace that may go at once."""
IDLE: Final = 100
"""Requests after which a pace that held nobody back says nothing any more."""


class Adaptive(NamedTuple):
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

    window: float = LEAST
    ramp_from: float | None = None
    height: float = inf
    credit: int = 0
    hold: float = HELD
    since: float = -inf
    total: int = 0
    cost: int = 0
    last: float = 0.0
    latest: Mark = Mark(-inf, 0.0)
    anchor: Mark = Mark(0.0, 0.0)
    crossed: Mark = Mark(0.0, 0.0)
    least: float = 0.0
    crowd: Streak = NO_STREAK
    streak: Streak = NO_STREAK
    tried: bool = False
    pace: TokenBucket | None = None
    gain: float = 0.0
    due: float = 0.0
    left: float = 0.0
    sure: bool = False
    idle: int = 0
    shut: int = 0
    closed: float = 0.0
    opened: Mark = Mark(0.0, 0.0)
    reopened: Mark = Mark(0.0, 0.0)
    low: int = -1
    same: int = 0
    above: int = 0
    noise: float = 0.0


def begun(now: float) -> Adaptive:
    """Begin with slow start."""
    return Adaptive(ramp_from=now, crossed=Mark(now, 0.0), opened=Mark(now, 0.0))


def unhurried(now: float) -> Adaptive:
    """Begin where limits are declared: there is nothing to feel for, only refusals make it smaller."""
    return Adaptive(window=MOST, crossed=Mark(now, 0.0), opened=Mark(now, 0.0))


def permitted(state: Adaptive, now: float) -> float:
    """Say how many calls may be under way now.

    Examples
    --------
    >>> [permitted(begun(0.0), at) for at in (0.0, 0.008, 0.016, 9.9)]
    [1.0, 2.0, 4.0, 1024.0]
    """
    if state.ramp_from is None:
        return state.window
    doublings = min((now - state.ramp_from) / DOUBLE_S, 10.0)
    return float(min(max(state.window, 2.0**doublings), MOST))


def paid(state: Adaptive, pace: TokenBucket, now: float) -> Adaptive:
    """Book a request of a pace; it grows with each, unless it holds nobody back."""
    noisy = state.due == inf
    if state.idle >= (IDLE if state.sure or noisy else 4 * IDLE):
        return _freed(state, now)
    rate_s, capacity, level, at = pace
    level = min(capacity, level + max(now - at, 0.0) * rate_s) - 1.0
    gain, left = state.gain, state.left
    if not noisy:
        left -= 1
        if left < 0:
            # Later than it should: the limit may have been raised, so it grows faster and faster.
            if not state.due and left >= -1:
                gain = _gain(rate_s, SPACING)
            gain *= 1 if state.noise >= TRICKLE_SHARE else 1 + 2 / max(state.due, SPACING / 2)
    if state.idle < ROUGH:
        rate_s = rate_s * 2 ** (1 / left) if noisy else sqrt(rate_s * rate_s + gain)
    booked = _paced(rate_s, max(at, now), level)
    return state._replace(pace=booked, gain=gain, left=left, idle=state.idle + 1)


def held(state: Adaptive) -> Adaptive:
    """Take in that a pace held somebody back."""
    return state._replace(idle=0) if state.idle else state


def answered(state: Adaptive, sent_at: float, under_way: int) -> Adaptive:
    """Take in that a request was answered, or failed for another reason than a limit, with so many still under way."""
    if state.window >= MOST:
        if state.pace is None or under_way < state.low:
            return state
        return state._replace(above=state.above + 1, low=state.low if state.above < ABOVE else int(MOST))
    if state.ramp_from is not None:
        return state._replace(window=state.window + 1)
    # A window that holds nobody back says nothing of how large it may be.
    return _grown(state) if sent_at > state.since and under_way + 1 >= state.window else state


def _grown(state: Adaptive) -> Adaptive:
    """Try one more at once after so many answers; where that went well for long, the next comes sooner."""
    probing = state.window > state.height
    if state.credit + 1 < (2 * state.window if probing else state.hold):
        return state._replace(credit=state.credit + 1)
    if probing:
        return state._replace(height=state.window, credit=0, hold=max(state.hold / 2, 2 * state.window))
    return state._replace(window=min(state.window + 1, MOST), credit=0)


def refused(state: Adaptive, now: float, refusal: Refusal) -> tuple[Adaptive, float | None]:
    """Take in a refusal; give the seconds for which nobody should go, or ``None``.

    Law: however many requests of one episode are refused, it shrinks once.
    """
    mark, before = Mark(refusal.sent_at, refusal.number - state.total), state.latest
    alone = refusal.number - 1 <= state.last
    state = state._replace(
        total=state.total + 1, cost=state.cost + 1, last=max(refusal.number, state.last), latest=max(mark, before)
    )
    if refusal.sent_at <= state.since:
        anchor = state.anchor
        late = refusal.sent_at < anchor.at
        return (state._replace(anchor=Mark(anchor.at, anchor.passed - 1)) if late else state), None
    if state.pace is None:
        return _unpaced(state, now, refusal, mark)
    rate_s = state.pace.rate_s
    if alone:
        state = state if state.shut else state._replace(closed=before.at)
    elif state.shut:
        state = state._replace(shut=0, opened=state.reopened)
    if alone and state.due < inf and not (state.sure and state.streak.first):
        return _shut(state, now, refusal, rate_s)
    gap = mark.passed - before.passed
    if not state.due or gap >= max(ROUGH, state.due / SOON):
        noise = state.noise / 2 if gap >= QUIET else state.noise
        state = state._replace(streak=NO_STREAK, tried=False, noise=noise)
        return _crossed(state, now, refusal, (mark, before), rate_s), None
    return _doubted(state, now, refusal, (mark, before), rate_s, alone=alone)


def _unpaced(state: Adaptive, now: float, refusal: Refusal, mark: Mark) -> tuple[Adaptive, float | None]:
    """React while there is no pace: a probe of one more at once, a crowd, a streak, or nothing to go by."""
    if state.window > state.height and refusal.under_way >= state.height:
        hold = min(2 * state.hold, LONGEST_HELD)
        return state._replace(window=state.height, credit=0, hold=hold, since=now), None
    state = _suspected(state, now, refusal, mark, _drift(state.noise))
    crowd, streak, took_s = state.crowd, state.streak, now - refusal.sent_at
    if state.ramp_from is not None and state.total - crowd.before > 1:
        window = max(LEAST, float(refusal.under_way))
        ramp_from = max(state.ramp_from, now + 3 * took_s - DOUBLE_S * log2(window))
        state = state._replace(window=window, ramp_from=ramp_from)
    crowded = doubtful(crowd, _crowd_share(state), state.total) >= CROWD_EXCESS * (1 + 8 * state.noise)
    streaked = doubtful(streak, _drift(state.noise), state.total) >= TRICKLE_EXCESS
    if not crowded and not (streaked and mark.at - streak.start.at >= max(STREAK_S, 4 * took_s)):
        return state, None if state.noise else min(took_s, PAUSE_S)
    # A bound of how many at once that was found holds no more.
    same = -SPACING if state.window < MOST and state.ramp_from is None else state.same
    state = state._replace(
        window=MOST, height=inf, ramp_from=None, crowd=NO_STREAK, streak=NO_STREAK, least=0.0, shut=0, due=0.0, cost=0,
        sure=False, same=same,
    )  # fmt: skip
    if crowded:
        return _shut(_at_height(state, refusal)._replace(anchor=crowd.start), now, refusal, 0.0)
    low, high = rate_between(streak.start, mark, refusal, now), (refusal.sent - streak.first) / (now - streak.start.at)
    return _repaced(state._replace(anchor=streak.start, tried=True), now, mark, low, high), None


def _doubted(
    state: Adaptive, now: float, refusal: Refusal, marks: tuple[Mark, Mark], rate_s: float, *, alone: bool
) -> tuple[Adaptive, float | None]:
    """React to a refusal that comes too soon after another: it may be noise, or the limit is lower than it was."""
    mark, noisy = marks[0], state.due == inf
    rough = not (state.sure or noisy)
    drift = state.noise + USUAL_NOISE if noisy else _drift(0.0 if rough else state.noise)
    state = _suspected(state, now, refusal, mark, drift)
    streak = state.streak
    # What is refused together, since it was sent before the first refusal came, is one refusal and no share.
    lasting = mark.at - streak.start.at >= max(STREAK_S, 4 * (now - refusal.sent_at))
    if doubtful(streak, drift, state.total) >= STRIKES * (1 + 2 * rough) and (lasting or not rough):
        share = (state.total - streak.before) / (streak.last - streak.first + 1)
        if share <= MOSTLY and (state.tried or rough):
            left = max(ROUGH, 8 * rate_s * (now - refusal.sent_at))
            return state._replace(
                noise=min(share, USUAL_NOISE), streak=NO_STREAK, tried=False, sure=False, due=inf, left=left, idle=0,
                since=now,
            ), None  # fmt: skip
        if not rough:
            some = state.sure and share <= MOSTLY
            low = rate_s * (1 - share) if some else rate_between(streak.start, mark, refusal, now)
            slower = state._replace(tried=state.sure, streak=NO_STREAK, anchor=streak.start)
            slower = _repaced(slower, now, mark, low, rate_s)
            return slower._replace(sure=some), None
        state = state._replace(streak=NO_STREAK)
    if rough:
        return _crossed(state, now, refusal, marks, rate_s), None
    return _shut(state, now, refusal, rate_s) if alone and state.sure else (state, None)


def _suspected(state: Adaptive, now: float, refusal: Refusal, mark: Mark, drift: float) -> Adaptive:
    """Add a refusal to those that wait to be explained."""
    crowd = longer(state.crowd, refusal, mark, now, _crowd_share(state), state.total)
    return state._replace(crowd=crowd, streak=longer(state.streak, refusal, mark, now, drift, state.total))


def _drift(noise: float) -> float:
    return TRICKLE_SHARE + min(2 * noise, noise + 0.1)


def _crowd_share(state: Adaptive) -> float:
    return CROWD_SHARE + state.noise / 2


def _at_height(state: Adaptive, refusal: Refusal) -> Adaptive:
    """Remember how many were under way, and whether it was as many as last time."""
    height = refusal.under_way
    again = height >= 1 and abs(height - state.low) <= height / 20
    return state._replace(low=height, same=state.same + 1 if again else min(state.same, 0), above=0)


def _shut(state: Adaptive, now: float, refusal: Refusal, rate_s: float) -> tuple[Adaptive, float]:
    """Pause, since nothing is let through, and see at what pace to go on."""
    took_s, asked_s = now - refusal.sent_at, refusal.retry_after_s or 0.0
    pause_s = min(max(PAUSE_S, took_s) * 2.0 ** min(state.shut, 10), LONGEST_PAUSE_S)
    turn = state.opened.at + MINUTE_S
    if now + PAUSE_S < turn < now + pause_s:
        pause_s = turn - now
    if asked_s <= DISTANT_S:
        pause_s = max(pause_s, asked_s) if asked_s <= PROMPT_S else asked_s + AFTER_S
    spent_s = now + (pause_s if pause_s > PROMPT_S else 0.0) - state.opened.at
    most_s = max(state.latest.passed - state.opened.passed - 1, 1) / max(spent_s, 1e-3)
    if not state.due:
        state = _searching(
            state, now + pause_s, 2 * most_s if state.shut < SEARCHES and pause_s <= 1 else most_s, took_s
        )
    else:
        told_s = asked_s if ROUNDED_S < asked_s <= DISTANT_S else 0.0
        closed_s = max(refusal.sent_at - state.closed, told_s)
        if state.least * closed_s >= CLOSED and state.noise ** (state.shut + 1) < NEVER:
            rate_s, due = most_s, float(SPACING * min(state.cost, 2))
            state = state._replace(sure=True, due=due, left=due, gain=_gain(rate_s, due))
        elif not state.sure:
            high, rate_s = rate_s, max(rate_s / 2, state.least)
            gain = max(high * high - rate_s * rate_s, 0.0) / state.due
            state = state._replace(gain=gain, left=state.due)
        state = state._replace(pace=_paced(rate_s, now + pause_s, 1.0))
    reopened = Mark(now + pause_s, state.latest.passed)
    return state._replace(since=now, shut=state.shut + 1, reopened=reopened), pause_s


def _searching(state: Adaptive, then: float, most_s: float, took_s: float) -> Adaptive:
    """Look for a pace, from next to nothing up to the most that can be."""
    ramp_s = max(SEARCH_S, 8 * took_s)
    gain = 2 * most_s / ramp_s
    pace = TokenBucket(sqrt(gain), 1.0, 1.0, then)
    return state._replace(pace=pace, gain=gain, left=most_s * ramp_s / 2, idle=0)


def _crossed(state: Adaptive, now: float, refusal: Refusal, marks: tuple[Mark, Mark], high_s: float) -> Adaptive:
    """Take the pace of what was let through, since it was gone beyond; or find that it is a height."""
    mark, before = marks
    passed = mark.passed - state.crossed.passed
    if passed >= ABOVE:
        state = _at_height(state, refusal)
    if state.same >= TWICE:
        height = max(LEAST, float(refusal.under_way))
        hold = max(HELD, 4 * height)
        return _freed(state, now)._replace(window=height, height=height, hold=hold, credit=0, since=now)
    low_s = rate_between(state.anchor, mark, refusal, now)
    for anchor in (state.crossed, before) if state.due else ():
        if mark.passed - anchor.passed > ROUGH and (other_s := rate_between(anchor, mark, refusal, now)) > low_s:
            low_s, state = other_s, state._replace(anchor=anchor)
    if passed >= ROUGH and abs(low_s - state.least) <= SAME * low_s:
        high_s = min(high_s, low_s * (1 + 2 * EDGE))
    return _repaced(state, now, mark, max(low_s, state.least), high_s)


def _repaced(state: Adaptive, now: float, mark: Mark, low_s: float, high_s: float) -> Adaptive:
    """Go on a little below what the rate is at least, and grow to what it may be at most."""
    spacing = SPACING * min(max(state.cost, 1), 2)
    start_s = max(low_s, high_s / 2)
    due = min(ROUGH / max(high_s / start_s - 1, 1e-3), spacing)
    due = max(due, ROUGH, 8 * (now - mark.at) * start_s)
    sure = high_s <= SURE * start_s
    start_s, end_s = start_s * (1 - EDGE), max(high_s, start_s * (1 + EDGE))
    anchor = mark if mark.passed - state.anchor.passed >= FAR else state.anchor
    return state._replace(
        sure=sure, pace=_paced(start_s, now, 0.0), gain=(end_s * end_s - start_s * start_s) / due, due=due, left=due,
        idle=0, since=now, cost=0, least=low_s, anchor=anchor, crossed=mark,
    )  # fmt: skip


def _freed(state: Adaptive, now: float) -> Adaptive:
    """Do without a pace."""
    here = Mark(now, state.last - state.total)
    return state._replace(
        pace=None, streak=NO_STREAK, crowd=NO_STREAK, tried=False, crossed=here, opened=here, due=0.0, least=0.0,
        sure=False,
    )  # fmt: skip


def _gain(rate_s: float, due: float) -> float:
    """Say by how much the square of a pace grows with each request, to go from a little below to a little above."""
    return rate_s * rate_s * 4 * EDGE / due


def _paced(rate_s: float, at: float, level: float) -> TokenBucket:
    return TokenBucket(rate_s, max(1.0, rate_s * BURST), level, at)
