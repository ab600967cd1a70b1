"""How many calls at once, and how fast, where nobody said: found by trying, as a pure machine.

It begins with one call and doubles every `DOUBLE_S`, and grows by one with each answer besides, so that a provider
that is well is not held back for longer than a blink. Refusals (429, never 5xx) make it smaller:

- A *crowd*, most of what was sent being refused, is a limit that was reached. The window shrinks once for all
  requests that were under way, to `SHRINK` of those that were not refused, and everybody waits for a while. From one
  crowd to the next a bucket goes from empty to empty, so what was let through in between is the provider's rate: the
  calls are paced to that.
- A *trickle*, more than `TRICKLE` of what was sent being refused, may be a rate slightly too high, or have nothing to
  do with us. Going slower for a while tells, or with fewer at once if it was always as many: where it does not help,
  it is taken back.

The window grows by one for each round of answers below the height at which it was refused, and feels its way above
that slowly; the pace grows with each block of answers without refusals, faster and faster.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple, TypeAlias

from llmhub.engine.windows import TokenBucket

LEAST: Final = 1.0
MOST: Final = 1024.0
"""Bounds of the window: calls under way at once."""
DOUBLE_S: Final = 0.008
SHRINK: Final = 0.8
CROWD: Final = 4
"""Refusals that make a crowd, if they are most of what was sent since the first of them."""
FADE: Final = 10
"""Requests for each refusal after which a suspicion is forgotten."""
HOLD: Final = 32
"""Rounds of answers before the height is tried again at which it was refused twice, and `HELD` answers at least."""
HELD: Final = 128
BLOCK: Final = 200
ENOUGH: Final = 20
"""A block is so many requests, or so many refusals."""
TRICKLE: Final = 0.01
COOLDOWN: Final = 10
"""Blocks without a trial after one that did not help."""
FASTER, MUCH_FASTER, GAIN = 1.01, 1.25, 1.5
SURE: Final = 100
"""Requests let through from which a pace is known well: it grows steadily then, and not faster and faster."""
SLOWER, PACE = 0.93, 0.97
PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
"""A pause at least and at most, unless the provider asked for a longer one: doubled while nothing is learned."""
BURST: Final = 0.05
"""Seconds' worth of a pace that may go at once."""


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
    under_way: int
    retry_after_s: float | None = None


Block: TypeAlias = tuple[float, float, int, float, float]


class Adaptive(NamedTuple):
    """Where the search stands.

    ``window`` bounds the calls under way; ``ramp_from`` is when slow start began, ``None`` when it is over;
    ``height`` where it was refused twice, ``last`` where it was refused last; ``since`` when it last shrank: what was
    sent before is part of that episode. ``crowd`` holds refusals and the number of the first of them; ``crowds`` how
    often nothing was learned from one; ``epoch`` when the last crowd was, what had been sent, and refusals since;
    ``block`` when it began, what had been sent, refusals since, and at the least and the most under way. ``pace`` is
    requests a second, ``bound`` whether it held anybody back, ``faster`` by how much it grows next, ``gain`` by how
    much that does. ``trial`` is what is being tried.
    """

    window: float = LEAST
    ramp_from: float | None = None
    height: float = inf
    last: float = 0.0
    credit: int = 0
    hold: float = HELD
    since: float = -inf
    crowd: tuple[int, float] = (0, 0.0)
    crowds: int = 0
    epoch: tuple[float, float, int] = (-inf, 0.0, 0)
    block: Block = (-inf, 0.0, 0, inf, 0.0)
    pace: TokenBucket | None = None
    bound: bool = False
    faster: float = FASTER
    gain: float = GAIN
    trial: Trial | None = None
    cooldown: int = 0


class Trial(NamedTuple):
    """Going slower, or with ``fewer`` at once, to see whether the share of refusals falls; and what was before."""

    share: float
    fewer: bool
    before: Adaptive


def begun(now: float) -> Adaptive:
    """Begin with slow start."""
    return Adaptive(ramp_from=now, block=_block(now, 0.0))


def unhurried(now: float) -> Adaptive:
    """Begin where limits are declared: there is nothing to feel for, only refusals make it smaller."""
    return Adaptive(window=MOST, block=_block(now, 0.0))


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


def paid(pace: TokenBucket, now: float) -> TokenBucket:
    """Book a request of a pace."""
    rate_s, capacity, level, at = pace
    return TokenBucket(rate_s, capacity, min(capacity, level + (now - at) * rate_s) - 1.0, now)


def answered(state: Adaptive, now: float, sent_at: float, sent: float, under_way: int) -> Adaptive:
    """Take in that a request was answered, or failed for another reason than a limit; see `Refusal` for the counts."""
    if sent - state.block[1] >= BLOCK:
        state = _judged(state, now, sent)
    if state.window >= MOST:
        return state
    if state.ramp_from is not None:
        return state._replace(window=state.window + 1)
    # A window that holds nobody back says nothing of how large it may be.
    return _grown(state) if sent_at > state.since and under_way + 1 >= state.window else state


def refused(state: Adaptive, now: float, refusal: Refusal) -> tuple[Adaptive, float | None]:
    """Take in a refusal; give the seconds for which nobody should go, or ``None``.

    Law: however many requests of one episode are refused, the window shrinks once.
    """
    if refusal.sent_at <= state.since:
        return state, None
    many, first = state.crowd
    if not many or refusal.sent - first > FADE * (many + 1):
        many, first = 0, refusal.number
    begin, sent_before, refusals, low, high = state.block
    start, sent, refused_since = state.epoch
    height = refusal.under_way
    state = state._replace(
        crowd=(many + 1, min(first, refusal.number)),
        epoch=(start, sent, refused_since + 1),
        block=(begin, sent_before, refusals + 1, min(low, height), max(high, height)),
        credit=0,
    )
    if many + 1 >= CROWD and 2 * (many + 1) > refusal.sent - state.crowd[1] + 1:
        return _shrunk(state, now, refusal)
    over = refusal.sent - sent_before >= BLOCK or refusals + 1 >= ENOUGH
    return (_judged(state, now, refusal.sent) if over else state), None


def _grown(state: Adaptive) -> Adaptive:
    """Grow by one for a round of answers; slowly where it was refused before."""
    below = state.window + 1 < state.height
    if state.credit + 1 < (state.window if below else state.hold):
        return state._replace(credit=state.credit + 1)
    window = min(state.window + 1, MOST)
    if below:
        return state._replace(window=window, credit=0)
    # Nothing was refused for long: the limit may have been raised, so the next step takes half as long.
    return state._replace(window=window, credit=0, height=window + 1, hold=max(state.hold / 2, window))


def _shrunk(state: Adaptive, now: float, refusal: Refusal) -> tuple[Adaptive, float]:
    """Shrink, and take the pace of what was let through since the last crowd."""
    start, sent, refusals = state.epoch
    # What went since the first refusal of this crowd has mostly been refused too, or will be.
    passed, took_s = state.crowd[1] - 1 - sent - (refusals - state.crowd[0]), now - start
    learned = start > -inf and passed >= CROWD and took_s > 2 * BURST
    crowds = 0 if learned else state.crowds
    pause_s = max(refusal.retry_after_s or 0.0, min(PAUSE_S * 2.0 ** min(crowds, 7), LONGEST_PAUSE_S))
    height = max(refusal.under_way, LEAST)
    again = abs(height - state.last) <= 1 + height / 10
    return Adaptive(
        window=max(LEAST, float(int(SHRINK * height))),
        height=height + 1 if again else inf,
        last=height,
        hold=max(HELD, HOLD * height),
        since=now,
        crowds=crowds + 1,
        epoch=(now, refusal.sent, 0),
        block=_block(now + pause_s, refusal.sent),
        pace=_paced(PACE * passed / took_s, now) if learned else state.pace,
        gain=1.0 if learned and passed >= SURE else GAIN,
    ), pause_s


def _judged(state: Adaptive, now: float, sent: float) -> Adaptive:
    """Look back on a block: go faster, try to go slower, or see what a trial brought."""
    begin, sent_before, refusals, low, high = state.block
    many = sent - sent_before
    share = refusals / many if many > 0 else 0.0
    fresh = state._replace(block=_block(now, sent), cooldown=max(state.cooldown - 1, 0), trial=None, bound=False)
    trial, fewer = state.trial, high - low <= max(2, high / 10)
    if trial is not None and share > min(TRICKLE, trial.share / 2):
        # It did not help: what had been before is taken up again, and a slower pace is tried where that is left.
        fresh = trial.before._replace(block=fresh.block, epoch=state.epoch, crowd=state.crowd, cooldown=COOLDOWN)
        if not trial.fewer:
            return fresh
        fewer = False
    if share > TRICKLE and many > refusals and (not state.cooldown or trial is not None):
        tried = Trial(share, fewer, fresh)
        if fewer:
            # It was always at the same height: there may be a bound to how many are taken at once.
            window = max(low, LEAST)
            return fresh._replace(
                window=window, height=window + 1, hold=max(HELD, HOLD * window), ramp_from=None, trial=tried
            )
        slower = _paced(SLOWER * (many - refusals) / max(now - begin, 1e-3), now)
        return fresh._replace(pace=slower, trial=tried, faster=FASTER, gain=1.0)
    if state.pace is None or share > TRICKLE / 2:
        return fresh._replace(faster=FASTER)
    # A pace that held nobody back says nothing any more.
    pace = _paced(state.faster * state.pace.rate_s, now) if state.bound else None
    return fresh._replace(pace=pace, faster=min(1 + (state.faster - 1) * state.gain, MUCH_FASTER))


def _block(now: float, sent: float) -> Block:
    return (now, sent, 0, inf, 0.0)


def _paced(rate_s: float, now: float) -> TokenBucket:
    capacity = max(1.0, rate_s * BURST)
    return TokenBucket(rate_s, capacity, 0.0, now)
