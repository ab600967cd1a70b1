"""How a limit counts, as pure values: a bucket that refills, a window that begins anew, a window that slides.

``take(state, now, cost)`` books a cost and says how long to wait for it; nothing here looks at a clock. Slots are
given in the order of asking, and a cost beyond what is ever allowed at once goes alone, against the future.
"""

from __future__ import annotations

from math import ceil
from typing import Final, NamedTuple, TypeAlias

SLOTS: Final = 60
"""Pieces into which a sliding window is cut: what is granted in one counts until the whole of it is a window old."""
SLACK: Final = 1e-9
"""Rounding of floating-point sums that must not cost a slot."""


class TokenBucket(NamedTuple):
    """Grants at most ``capacity + rate_s * t`` in any ``t`` seconds.

    ``level`` is what it held at the time ``at``; below zero when slots are booked ahead.
    """

    rate_s: float
    capacity: float
    level: float
    at: float


class FixedWindow(NamedTuple):
    """Grants at most ``allowed`` in each window; one begins with the first use after the end of another.

    So any ``t`` seconds see at most ``allowed * (2 + t / window_s)``: twice as much may go around the end of a window.
    """

    allowed: float
    window_s: float
    start: float
    used: float = 0.0


class SlidingWindow(NamedTuple):
    """Grants at most ``allowed`` in any ``window_s`` seconds, wherever they begin.

    ``slots`` hold what was granted, by pieces of the window; ``used`` is their sum.
    """

    allowed: float
    window_s: float
    slots: tuple[tuple[int, float], ...] = ()
    used: float = 0.0


State: TypeAlias = TokenBucket | FixedWindow | SlidingWindow
Kind: TypeAlias = type[TokenBucket] | type[FixedWindow] | type[SlidingWindow]


def take(state: State, now: float, cost: float) -> tuple[State, float]:
    """Book ``cost``; give the new state and how long to wait for it, in seconds.

    Examples
    --------
    >>> bucket = TokenBucket(rate_s=2.0, capacity=1.0, level=1.0, at=0.0)
    >>> bucket, wait = take(bucket, 0.0, 1.0)
    >>> wait, take(bucket, 0.0, 1.0)[1]
    (0.0, 0.5)
    >>> window, _ = take(FixedWindow(allowed=1, window_s=60.0, start=0.0), 10.0, 1.0)
    >>> take(window, 15.0, 1.0)[1]
    45.0
    """
    # The usual one first, since each request comes by here.
    if isinstance(state, TokenBucket):
        return _from_bucket(state, now, cost)
    if isinstance(state, FixedWindow):
        return _from_fixed(state, now, cost)
    return _from_sliding(state, now, cost)


def give(state: State, amount: float, booked_at: float) -> State:
    """Give back what was booked at a time and not used; a negative amount books what was used beyond.

    What was booked in a window that is over is not given back to another.
    """
    if isinstance(state, TokenBucket):
        rate_s, capacity, level, at = state
        return TokenBucket(rate_s, capacity, level + amount, at)
    if isinstance(state, FixedWindow):
        current = booked_at >= state.start or amount < 0
        return state._replace(used=state.used - amount) if current else state
    return _given(state, amount, booked_at)


def _from_bucket(state: TokenBucket, now: float, cost: float) -> tuple[TokenBucket, float]:
    rate_s, capacity, level, at = state
    if now > at:
        level = min(capacity, level + (now - at) * rate_s)
        at = now
    lacking = min(cost, capacity) - level
    wait = lacking / rate_s if lacking > SLACK else 0.0
    return TokenBucket(rate_s, capacity, level - cost, at), wait + at - now if wait else 0.0


def _from_fixed(state: FixedWindow, now: float, cost: float) -> tuple[FixedWindow, float]:
    allowed, window_s, start, used = state
    if now >= start + window_s:
        start, used = now, 0.0
    if used > SLACK and used + cost > allowed + SLACK:
        # What went alone beyond what is allowed is paid back by whole windows.
        start, used = start + window_s * max(1, ceil(used / allowed - SLACK)), 0.0
    return FixedWindow(allowed, window_s, start, used + cost), max(start - now, 0.0)


def _from_sliding(state: SlidingWindow, now: float, cost: float) -> tuple[SlidingWindow, float]:
    allowed, window_s, slots, used = state
    piece_s = window_s / SLOTS
    # Nobody goes before who asked earlier.
    due = max(now, slots[-1][0] * piece_s) if slots else now
    gone = 0
    while gone < len(slots):
        slot, amount = slots[gone]
        over_at = (slot + 1) * piece_s + window_s
        if over_at > due + SLACK:
            if used + cost <= allowed + SLACK:
                break
            due = over_at
        used -= amount
        gone += 1
    slots = slots[gone:]
    slot = int((due + SLACK) // piece_s)
    slots = (*slots[:-1], (slot, slots[-1][1] + cost)) if slots and slots[-1][0] == slot else (*slots, (slot, cost))
    return SlidingWindow(allowed, window_s, slots, (used if gone < len(state.slots) else 0.0) + cost), due - now


def _given(state: SlidingWindow, amount: float, booked_at: float) -> SlidingWindow:
    slot = int((booked_at + SLACK) // (state.window_s / SLOTS))
    slots = state.slots or ((slot, 0.0),)
    found = [at for at, (held, _) in enumerate(slots) if held == slot]
    if not found and amount >= 0:
        return state
    at = found[0] if found else len(slots) - 1
    held, booked = slots[at]
    return state._replace(slots=(*slots[:at], (held, booked - amount), *slots[at + 1 :]), used=state.used - amount)
