"""What replies teach about limits, as pure values: how much is left, how fast it comes back, how it is counted.

Sources: https://platform.openai.com/docs/guides/rate-limits ("reset" is the time until the limit is whole again),
https://docs.anthropic.com/en/api/rate-limits (a bucket that refills steadily) (read 2026-11-22).

What a provider permits, as a caller declares it, and what a call is thought to take of it.

How a limit counts, as pure values: a bucket that refills, a window that begins anew, a window that slides.

``take(state, now, cost)`` books a cost and says how long to wait for it; nothing here looks at a clock. Slots are
given in the order of asking, and a cost beyond what is ever allowed at once goes alone, against the future.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf
from numbers import Real
from typing import Any, Final, NamedTuple, TypeAlias

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.provider import RateLimitInfo
from llmhub.core.token_estimate import estimate_tokens
from llmhub.core.types import CompletionRequest

LEARNED_PERIOD_S: Final = 60.0


LEARNED_RATE_SHARE: Final = 0.985
"""Share of a learned rate that is used: the rest is for what jitters on the way."""


RESERVE_SHARE: Final = 0.02


UPWARD_WEIGHT: Final = 0.2


RESET_PRECISION_S: Final = 2.0
"""A reset may be told to the second, and lie a second in the past."""


ReportedLimit = tuple[int | None, int | None, float | None]
"""Limit, what remains of it, and seconds until it is whole."""


class LearnedLimit(NamedTuple):
    """What is known of one limit.

    ``sent_at`` is when the request went whose reply said so: older ones say less. ``slides``: its resets never come.
    """

    window: TokenBucket | FixedWindow
    limit: float
    period_s: float
    sent_at: float
    slides: bool = False


def reported_limits(info: RateLimitInfo) -> tuple[ReportedLimit, ReportedLimit, ReportedLimit, ReportedLimit]:
    """Give what a reply says of requests, tokens, input tokens and output tokens."""
    return (
        (info.limit_requests, info.remaining_requests, info.reset_requests_s),
        (info.limit_tokens, info.remaining_tokens, info.reset_tokens_s),
        (info.limit_input_tokens, info.remaining_input_tokens, info.reset_input_tokens_s),
        (info.limit_output_tokens, info.remaining_output_tokens, info.reset_output_tokens_s),
    )


def learn_limit(
    learned: LearnedLimit | None, reported: ReportedLimit, now: float, sent_at: float, booked_since: float
) -> LearnedLimit | None:
    """Take in what a reply said of one limit.

    Parameters
    ----------
    learned
        What was known before.
    reported
        Limit, remainder and reset, as the reply told them.
    now, sent_at
        When the reply came, and when its request went.
    booked_since
        What was booked for requests that went later: the reply does not know of them.

    Notes
    -----
    Law: a reply to an older request than the one learned from changes nothing. A limit is taken to be a minute's
    worth, unless its reset says that it takes longer to fill. Where resets say that it comes back all at once, it is
    counted in windows; otherwise it is a bucket, which holds at most what it would hold when it is whole. A little
    of it is left alone.

    Examples
    --------
    >>> learn_limit(None, (1200, 1199, 0.05), now=1.0, sent_at=1.0, booked_since=0.0).window
    TokenBucket(rate_per_s=19.7, capacity=1200.0, level=1174.0, updated_at=1.0)
    >>> learn_limit(None, (1200, 1199, 30.0), now=1.0, sent_at=1.0, booked_since=0.0).window
    FixedWindow(allowed=1200.0, window_s=60.0, start=-29.0, used=1.0)
    """
    limit, remaining, reset_s = reported
    if remaining is None or (learned is not None and sent_at < learned.sent_at):
        return learned
    # Without a limit (one provider tells only what is left), the most that ever was left stands for it.
    most = float(max(limit or 0, remaining, 1 if limit else learned.limit if learned else 1))
    gone = max(most - remaining, 0.0)
    period_s = LEARNED_PERIOD_S
    if reset_s is not None and reset_s > 1.5 * LEARNED_PERIOD_S:
        period_s = max(LEARNED_PERIOD_S, reset_s * most / gone) if gone else reset_s
    rate_s = most / period_s
    slides = learned is not None and (learned.slides or _reset_postponed(learned, now, reset_s))
    if not slides and _resets_at_once(learned, gone / rate_s, reset_s):
        ends = now + (reset_s if reset_s is not None else period_s)
        if (
            learned is not None
            and isinstance(learned.window, FixedWindow)
            and (before := _window_end(learned.window)) > now
        ):
            ends = min(ends, before)
        return LearnedLimit(FixedWindow(most, period_s, ends - period_s, gone + booked_since), most, period_s, sent_at)
    whole = remaining + reset_s * rate_s if reset_s is not None else most
    capacity = max(min(whole, most), 1.0)
    level = min(remaining - _reserve(capacity) + (now - sent_at) * rate_s - booked_since, capacity)
    if learned is not None and isinstance(learned.window, TokenBucket):
        # What jitters on the way makes a reply's count a little wrong: worse news counts at once, better by and by.
        own = min(learned.window.level + max(now - learned.window.updated_at, 0.0) * rate_s, capacity)
        level = level if level < own else own + UPWARD_WEIGHT * (level - own)
    return LearnedLimit(TokenBucket(rate_s * LEARNED_RATE_SHARE, capacity, level, now), most, period_s, sent_at, slides)


def _reserve(capacity: float) -> float:
    """Leave a little in a bucket that is large enough."""
    return min(1.0 + RESERVE_SHARE * capacity, capacity / 4)


def _resets_at_once(known: LearnedLimit | None, refill_s: float, reset_s: float | None) -> bool:
    """Say whether a limit comes back all at once: its reset is much later than a steady refill would take."""
    if reset_s is None or reset_s > 1.5 * LEARNED_PERIOD_S:
        return False
    if reset_s > 2 * refill_s + RESET_PRECISION_S:
        return True
    was = known is not None and isinstance(known.window, FixedWindow)
    steady = refill_s > RESET_PRECISION_S and abs(reset_s - refill_s) <= 0.1 * refill_s
    return was and not steady


def _reset_postponed(known: LearnedLimit, now: float, reset_s: float | None) -> bool:
    """Say whether the end of a window that has not come yet is later than it was: then it slides."""
    if reset_s is None or not isinstance(known.window, FixedWindow):
        return False
    ends = _window_end(known.window)
    return now < ends - RESET_PRECISION_S and now + reset_s > ends + RESET_PRECISION_S


def _window_end(window: FixedWindow) -> float:
    return window.start + window.window_s


SLICES_PER_WINDOW: Final = 60
"""Pieces into which a sliding window is cut: what is granted in one counts until the whole of it is a window old."""


EPSILON: Final = 1e-9
"""Rounding of floating-point sums that must not cost a slot."""


class TokenBucket(NamedTuple):
    """Grants at most ``capacity + rate_s * t`` in any ``t`` seconds.

    ``level`` is what it held at the time ``at``; below zero when slots are booked ahead.
    """

    rate_per_s: float
    capacity: float
    level: float
    updated_at: float


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
    slices: tuple[tuple[int, float], ...] = ()
    used: float = 0.0


WindowState: TypeAlias = TokenBucket | FixedWindow | SlidingWindow


WindowKind: TypeAlias = type[TokenBucket] | type[FixedWindow] | type[SlidingWindow]


def take(state: WindowState, now: float, cost: float) -> tuple[WindowState, float]:
    """Book ``cost``; give the new state and how long to wait for it, in seconds.

    Examples
    --------
    >>> bucket = TokenBucket(rate_per_s=2.0, capacity=1.0, level=1.0, updated_at=0.0)
    >>> bucket, wait = take(bucket, 0.0, 1.0)
    >>> wait, take(bucket, 0.0, 1.0)[1]
    (0.0, 0.5)
    >>> window, _ = take(FixedWindow(allowed=1, window_s=60.0, start=0.0), 10.0, 1.0)
    >>> take(window, 15.0, 1.0)[1]
    45.0
    """
    # The usual one first, since each request comes by here.
    if isinstance(state, TokenBucket):
        return _take_from_bucket(state, now, cost)
    if isinstance(state, FixedWindow):
        return _take_from_fixed(state, now, cost)
    return _take_from_sliding(state, now, cost)


def refund(state: WindowState, amount: float, booked_at: float) -> WindowState:
    """Give back what was booked at a time and not used; a negative amount books what was used beyond.

    What was booked in a window that is over is not given back to another.
    """
    if isinstance(state, TokenBucket):
        rate_s, capacity, level, at = state
        return TokenBucket(rate_s, capacity, level + amount, at)
    if isinstance(state, FixedWindow):
        current = booked_at >= state.start or amount < 0
        return state._replace(used=state.used - amount) if current else state
    return _refund_sliding(state, amount, booked_at)


def _take_from_bucket(state: TokenBucket, now: float, cost: float) -> tuple[TokenBucket, float]:
    rate_s, capacity, level, at = state
    if now > at:
        level = min(capacity, level + (now - at) * rate_s)
        at = now
    lacking = min(cost, capacity) - level
    wait = lacking / rate_s if lacking > EPSILON else 0.0
    return TokenBucket(rate_s, capacity, level - cost, at), wait + at - now if wait else 0.0


def _take_from_fixed(state: FixedWindow, now: float, cost: float) -> tuple[FixedWindow, float]:
    allowed, window_s, start, used = state
    if now >= start + window_s:
        start, used = now, 0.0
    if used > EPSILON and used + cost > allowed + EPSILON:
        # What went alone beyond what is allowed is paid back by whole windows.
        start, used = start + window_s * max(1, ceil(used / allowed - EPSILON)), 0.0
    return FixedWindow(allowed, window_s, start, used + cost), max(start - now, 0.0)


def _take_from_sliding(state: SlidingWindow, now: float, cost: float) -> tuple[SlidingWindow, float]:
    allowed, window_s, slots, used = state
    piece_s = window_s / SLICES_PER_WINDOW
    # Nobody goes before who asked earlier.
    due = max(now, slots[-1][0] * piece_s) if slots else now
    gone = 0
    while gone < len(slots):
        slot, amount = slots[gone]
        over_at = (slot + 1) * piece_s + window_s
        if over_at > due + EPSILON:
            if used + cost <= allowed + EPSILON:
                break
            due = over_at
        used -= amount
        gone += 1
    slots = slots[gone:]
    slot = int((due + EPSILON) // piece_s)
    slots = (*slots[:-1], (slot, slots[-1][1] + cost)) if slots and slots[-1][0] == slot else (*slots, (slot, cost))
    return SlidingWindow(allowed, window_s, slots, (used if gone < len(state.slices) else 0.0) + cost), due - now


def _refund_sliding(state: SlidingWindow, amount: float, booked_at: float) -> SlidingWindow:
    slot = int((booked_at + EPSILON) // (state.window_s / SLICES_PER_WINDOW))
    slots = state.slices or ((slot, 0.0),)
    found = [at for at, (held, _) in enumerate(slots) if held == slot]
    if not found and amount >= 0:
        return state
    at = found[0] if found else len(slots) - 1
    held, booked = slots[at]
    return state._replace(slices=(*slots[:at], (held, booked - amount), *slots[at + 1 :]), used=state.used - amount)


MINUTE_S: Final = 60.0


DAY_S: Final = 86_400.0


DEFAULT_BURST: Final = 0.01
"""Share of a minute's allowance that may go at once: small, so that no window a server may use is overrun."""


WINDOW_MARGIN: Final = 1.005
"""A window of ours is a little longer than the server's: its own begins when our first request arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a provider permits.

    Parameters
    ----------
    rpm, rpd
        Requests a minute, and a day.
    tpm
        Tokens a minute, input and output together.
    input_tpm, output_tpm
        Tokens a minute where a provider counts them apart.
    burst
        Share of a minute's allowance that may be used at once (0..1), for a `TokenBucket`. What may burst is taken
        off the steady rate, so that any 60 s see at most the allowance, whichever window the server counts in.
        Above 0.1 it is not: that is for a server which itself permits such bursts.
    window
        How it counts: `TokenBucket` goes steadily and is right for every server; `SlidingWindow` uses an allowance as
        fast as it can and never more of it in any minute; `FixedWindow` does so in each minute of its own, for a
        server that counts from a first request on.

    Examples
    --------
    >>> Limit(rpm=500, tpm=200_000)
    Limit(rpm=500, tpm=200000)
    >>> Limit(rpm=50, input_tpm=30_000, output_tpm=8_000, window=SlidingWindow)
    Limit(rpm=50, input_tpm=30000, output_tpm=8000, window=SlidingWindow)
    """

    rpm: float | None = None
    tpm: float | None = None
    input_tpm: float | None = None
    output_tpm: float | None = None
    rpd: float | None = None
    burst: float = DEFAULT_BURST
    window: WindowKind = field(default=TokenBucket)

    def __post_init__(self) -> None:
        """Refuse what cannot be a limit."""
        for name in AMOUNT_FIELDS:
            value: Any = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if value is not None and not (number and 0 < float(value) < inf):
                said = f"{value!r} is no limit; give a number > 0"
                raise BadRequestError(InvalidRequest(path=f"limits.{name}", message=said))
        if isinstance(self.burst, bool) or not 0 < self.burst <= 1:
            raise BadRequestError(InvalidRequest(path="limits.burst", message=f"{self.burst!r} is outside 0..1"))
        if self.window not in WINDOW_KINDS:
            said = f"{self.window!r} is no window; give {', '.join(kind.__name__ for kind in WINDOW_KINDS)}"
            raise BadRequestError(InvalidRequest(path="limits.window", message=said))

    def __repr__(self) -> str:
        """Show what was said."""
        said = [f"{name}={value!r}" for name in AMOUNT_FIELDS if (value := getattr(self, name)) is not None]
        said += [f"burst={self.burst!r}"] * (self.burst != DEFAULT_BURST)
        said += [f"window={self.window.__name__}"] * (self.window is not TokenBucket)
        return f"Limit({', '.join(said)})"


AMOUNT_FIELDS: Final = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd")


WINDOW_KINDS: Final[tuple[WindowKind, ...]] = (TokenBucket, FixedWindow, SlidingWindow)


class RateCost(NamedTuple):
    """What a call takes, or is thought to take; the order is that of `DIMENSIONS`."""

    requests: float = 1.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0


NO_COST: Final = RateCost(0.0)


DIMENSIONS: Final = ("requests", "tokens", "input tokens", "output tokens")


ONE_REQUEST: Final = RateCost()


def add_costs(one: RateCost, other: RateCost) -> RateCost:
    """Add two costs."""
    return RateCost(one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])


def token_bucket(per_minute: float, burst: float, now: float = 0.0) -> TokenBucket:
    """Make the bucket of an allowance a minute, of which the share ``burst`` may go at once; it begins full.

    Examples
    --------
    >>> token_bucket(1200, 0.01)
    TokenBucket(rate_per_s=19.8, capacity=12.0, level=12.0, updated_at=0.0)
    """
    capacity = max(1.0, per_minute * burst)
    # Of very few a minute, a burst of one needs no more room than what jitters. Of many, a tenth is taken off at most.
    steady = max(per_minute - capacity, per_minute * 0.9) if capacity > 1.0 else per_minute * (1.0 - DEFAULT_BURST)
    return TokenBucket(steady / MINUTE_S, capacity, capacity, now)


def initial_states(limit: Limit, now: float) -> list[tuple[int, WindowState]]:
    """Give the states of a limit as it begins, each with what it counts: a position in `DIMENSIONS`."""
    amounts = (limit.rpm, limit.tpm, limit.input_tpm, limit.output_tpm)
    states = [(what, _initial_state(limit, amount, now)) for what, amount in enumerate(amounts) if amount is not None]
    if limit.rpd is not None:
        states.append((0, SlidingWindow(limit.rpd, DAY_S)))
    return states


def _initial_state(limit: Limit, amount: float, now: float) -> WindowState:
    if limit.window is FixedWindow:
        return FixedWindow(amount, MINUTE_S * WINDOW_MARGIN, now)
    if limit.window is SlidingWindow:
        return SlidingWindow(amount, MINUTE_S)
    return token_bucket(amount, limit.burst, now)


TYPICAL_OUTPUT_TOKENS: Final = 256
"""Tokens an answer is thought to take when the request does not bound it and none was seen yet."""


def estimate_cost(request: CompletionRequest, typical_output_tokens: float = TYPICAL_OUTPUT_TOKENS) -> RateCost:
    """Guess what a call will take, for booking; corrected once it is known."""
    asked = sum([estimate_tokens(message.text) for message in request.messages])
    made = request.n * (request.max_tokens or typical_output_tokens)
    return RateCost(1.0, asked + made, asked, made)
