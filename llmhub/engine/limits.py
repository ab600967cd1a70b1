"""Rate limits as pure values: how they count (windows), what the caller declares, and what replies teach about them.

``take(state, now, cost)`` books a cost and returns how long to wait for it; nothing here reads a clock. Requests are
admitted in the order in which they are booked. A cost above what may ever be used at once is admitted alone, against
the future.

Sources for what replies mean: https://platform.openai.com/docs/guides/rate-limits ("reset" is the time until the limit
is fully restored), https://docs.anthropic.com/en/api/rate-limits (a continuously refilled token bucket) (read
2026-11-22).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf
from numbers import Real
from typing import Any, Final, NamedTuple, TypeAlias

from llmhub.core.errors import invalid
from llmhub.core.pricing import choice_count, requested_output_tokens
from llmhub.core.provider import RateLimitInfo
from llmhub.core.token_estimate import estimate_tokens
from llmhub.core.types import CompletionRequest, Image

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0
SLICES_PER_WINDOW: Final = 60
"""Slices of a sliding window: what is used in a slice counts until the whole slice is one window old."""
EPSILON: Final = 1e-9
"""Tolerance for rounding errors of floating-point sums."""
DEFAULT_BURST: Final = 0.01
"""Share of a minute's allowance that may be used at once: small, so that no server's window is overrun."""
WINDOW_MARGIN: Final = 1.005
"""Our fixed windows are longer than the server's by this factor: its window starts when our first request arrives."""
TYPICAL_OUTPUT_TOKENS: Final = 256
"""Expected output tokens of a request without ``max_tokens``, before any response was seen."""
LEARNED_RATE_SHARE: Final = 0.985
"""Share of a learned rate that is used; the rest is a margin for network jitter."""
RESERVE_SHARE: Final = 0.02
"""Share of a learned bucket that is left unused."""
UPWARD_WEIGHT: Final = 0.2
"""Weight of a reply that reports more than expected; one that reports less counts in full."""
RESET_PRECISION_S: Final = 2.0
"""Resets may be rounded to seconds and lie a second in the past."""
LONG_RESET_S: Final = 1.5 * MINUTE_S
"""A longer reset means that the limit's period is longer than a minute."""


# Windows


class TokenBucket(NamedTuple):
    """Admits at most ``capacity + rate_per_s * t`` in any ``t`` seconds.

    ``level`` is the content at ``updated_at``; it is negative while the future is booked.
    """

    rate_per_s: float
    capacity: float
    level: float
    updated_at: float


class FixedWindow(NamedTuple):
    """Admits at most ``allowed`` per window; a window starts with the first use after the end of the last.

    So any ``t`` seconds see at most ``allowed * (2 + t / window_s)``: twice the allowance around the end of a window.
    """

    allowed: float
    window_s: float
    start: float
    used: float = 0.0


class SlidingWindow(NamedTuple):
    """Admits at most ``allowed`` in any ``window_s`` seconds.

    ``slices`` holds pairs of slice number and amount used in it; ``used`` is their sum.
    """

    allowed: float
    window_s: float
    slices: tuple[tuple[int, float], ...] = ()
    used: float = 0.0


WindowState: TypeAlias = TokenBucket | FixedWindow | SlidingWindow
WindowKind: TypeAlias = type[TokenBucket] | type[FixedWindow] | type[SlidingWindow]
WINDOW_KINDS: Final[tuple[WindowKind, ...]] = (TokenBucket, FixedWindow, SlidingWindow)


def per_minute(state: WindowState) -> float:
    """Return how much a window admits in a minute.

    Examples
    --------
    >>> per_minute(FixedWindow(allowed=10, window_s=1, start=0.0))
    600.0
    """
    if isinstance(state, TokenBucket):
        return state.rate_per_s * MINUTE_S
    return state.allowed * MINUTE_S / state.window_s


def take(state: WindowState, now: float, cost: float) -> tuple[WindowState, float]:
    """Book ``cost``; return the new state and the seconds to wait before using it.

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
    # The most common kind first: this runs for every request.
    if isinstance(state, TokenBucket):
        return _take_from_bucket(state, now, cost)
    if isinstance(state, FixedWindow):
        return _take_from_fixed(state, now, cost)
    return _take_from_sliding(state, now, cost)


def refund(state: WindowState, amount: float, booked_at: float) -> WindowState:
    """Return what was booked at a time and not used; a negative amount books what was used beyond it.

    Amounts booked in a window that has ended are not refunded to the present one.
    """
    if isinstance(state, TokenBucket):
        rate_per_s, capacity, level, updated_at = state
        return TokenBucket(rate_per_s, capacity, level + amount, updated_at)
    if isinstance(state, FixedWindow):
        is_current = booked_at >= state.start or amount < 0
        return state._replace(used=state.used - amount) if is_current else state
    return _refund_sliding(state, amount, booked_at)


def _take_from_bucket(state: TokenBucket, now: float, cost: float) -> tuple[TokenBucket, float]:
    rate_per_s, capacity, level, updated_at = state
    if now > updated_at:
        level = min(capacity, level + (now - updated_at) * rate_per_s)
        updated_at = now
    missing = min(cost, capacity) - level
    wait_s = missing / rate_per_s if missing > EPSILON else 0.0
    bucket = TokenBucket(rate_per_s, capacity, level - cost, updated_at)
    return bucket, wait_s + updated_at - now if wait_s else 0.0


def _take_from_fixed(state: FixedWindow, now: float, cost: float) -> tuple[FixedWindow, float]:
    allowed, window_s, start, used = state
    if now >= start + window_s:
        start, used = now, 0.0
    if used > EPSILON and used + cost > allowed + EPSILON:
        # A cost above the allowance is paid for by the windows that follow.
        start, used = start + window_s * max(1, ceil(used / allowed - EPSILON)), 0.0
    return FixedWindow(allowed, window_s, start, used + cost), max(start - now, 0.0)


def _take_from_sliding(state: SlidingWindow, now: float, cost: float) -> tuple[SlidingWindow, float]:
    allowed, window_s, slices, used = state
    slice_s = window_s / SLICES_PER_WINDOW
    # Not before what was booked earlier.
    due = max(now, slices[-1][0] * slice_s) if slices else now
    expired = 0
    while expired < len(slices):
        number, amount = slices[expired]
        expires_at = (number + 1) * slice_s + window_s
        if expires_at > due + EPSILON:
            if used + cost <= allowed + EPSILON:
                break
            due = expires_at
        used -= amount
        expired += 1
    if expired == len(slices):
        used = 0.0  # without the rounding errors of the sum
    slices = slices[expired:]
    number = int((due + EPSILON) // slice_s)
    if slices and slices[-1][0] == number:
        slices = (*slices[:-1], (number, slices[-1][1] + cost))
    else:
        slices = (*slices, (number, cost))
    return SlidingWindow(allowed, window_s, slices, used + cost), due - now


def _refund_sliding(state: SlidingWindow, amount: float, booked_at: float) -> SlidingWindow:
    booked_in = int((booked_at + EPSILON) // (state.window_s / SLICES_PER_WINDOW))
    slices = state.slices or ((booked_in, 0.0),)
    found = [index for index, (number, _) in enumerate(slices) if number == booked_in]
    if not found and amount >= 0:
        return state
    index = found[0] if found else len(slices) - 1
    number, booked = slices[index]
    slices = (*slices[:index], (number, booked - amount), *slices[index + 1 :])
    return state._replace(slices=slices, used=state.used - amount)


# Declared limits

AMOUNT_FIELDS: Final = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The rate limits of a provider or model.

    Parameters
    ----------
    rpm, rpd
        Requests per minute and per day.
    tpm
        Tokens per minute, input and output together.
    input_tpm, output_tpm
        Tokens per minute where a provider counts input and output separately.
    burst
        Share of a minute's allowance that may be used at once (0..1), with `TokenBucket`. Up to 0.1, it is subtracted
        from the steady rate, so that any 60 s see at most the allowance, whichever window the server counts in. A
        larger burst is not fully subtracted: use it for servers that permit such bursts.
    window
        How the limit counts. `TokenBucket` spaces requests evenly and is right for every server. `SlidingWindow` uses
        an allowance as fast as it can but never more in any minute. `FixedWindow` does so in each minute of its own,
        for a server that counts from the first request on.
    shared
        Whether all processes whose hubs have the same cache use this limit together, if the cache is a `DiskCache`, a
        `RedisCache` or a `TieredCache` with one of them. Limits of an account are told apart by provider, address and
        credentials.

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
    shared: bool = True

    def __post_init__(self) -> None:
        """Raise if a field is out of bounds."""
        for name in AMOUNT_FIELDS:
            value: Any = getattr(self, name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < float(value) < inf):
                raise invalid(f"limits.{name}", f"must be a number above 0, not {value!r}")
        if isinstance(self.burst, bool) or not 0 < self.burst <= 1:
            raise invalid("limits.burst", f"must be above 0 and at most 1, not {self.burst!r}")
        if self.window not in WINDOW_KINDS:
            names = ", ".join(kind.__name__ for kind in WINDOW_KINDS)
            raise invalid("limits.window", f"must be one of {names}, not {self.window!r}")

    def __repr__(self) -> str:
        """Return the constructor call, without defaults."""
        shown = [f"{name}={value!r}" for name in AMOUNT_FIELDS if (value := getattr(self, name)) is not None]
        shown += [f"burst={self.burst!r}"] * (self.burst != DEFAULT_BURST)
        shown += [f"window={self.window.__name__}"] * (self.window is not TokenBucket)
        shown += ["shared=False"] * (not self.shared)
        return f"Limit({', '.join(shown)})"


class RateCost(NamedTuple):
    """The use of each limit by a call, expected or actual; in the order of `DIMENSIONS`."""

    requests: float = 1.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    input_images: float = 0.0


DIMENSIONS: Final = ("requests", "tokens", "input tokens", "output tokens", "input images")
"""What a limit can count; limits refer to it by index."""
NO_COST: Final = RateCost(0.0)
ONE_REQUEST: Final = RateCost()


def add_costs(first: RateCost, second: RateCost) -> RateCost:
    """Return the sum of two costs."""
    return RateCost(
        first[0] + second[0],
        first[1] + second[1],
        first[2] + second[2],
        first[3] + second[3],
        first[4] + second[4],
    )


def estimate_cost(request: CompletionRequest, typical_output_tokens: float = TYPICAL_OUTPUT_TOKENS) -> RateCost:
    """Return the expected cost of a request, to be corrected once its usage is known."""
    input_tokens = sum([estimate_tokens(message.text) for message in request.messages])
    requested = requested_output_tokens(request)
    output_tokens = choice_count(request) * typical_output_tokens if requested is None else requested
    images = sum([type(part) is Image for message in request.messages for part in message.parts])
    return RateCost(1.0, input_tokens + output_tokens, input_tokens, output_tokens, images)


def token_bucket(per_minute: float, burst: float, now: float = 0.0) -> TokenBucket:
    """Return a full bucket for an allowance per minute, of which the share ``burst`` may be used at once.

    Examples
    --------
    >>> token_bucket(1200, 0.01)
    TokenBucket(rate_per_s=19.8, capacity=12.0, level=12.0, updated_at=0.0)
    """
    capacity = max(1.0, per_minute * burst)
    # For a small allowance, a burst of one request fits into the margin for jitter. For a large one, at most a tenth is
    # subtracted.
    per_minute = max(per_minute - capacity, per_minute * 0.9) if capacity > 1.0 else per_minute * (1.0 - DEFAULT_BURST)
    return TokenBucket(per_minute / MINUTE_S, capacity, capacity, now)


def initial_states(limit: Limit, now: float) -> list[tuple[int, WindowState]]:
    """Return the unused windows of a limit, each with the index of its dimension in `DIMENSIONS`."""
    amounts = (limit.rpm, limit.tpm, limit.input_tpm, limit.output_tpm)
    states = [(index, _initial_state(limit, amount, now)) for index, amount in enumerate(amounts) if amount is not None]
    if limit.rpd is not None:
        states.append((0, SlidingWindow(limit.rpd, DAY_S)))
    return states


def _initial_state(limit: Limit, amount: float, now: float) -> WindowState:
    if limit.window is FixedWindow:
        return FixedWindow(amount, MINUTE_S * WINDOW_MARGIN, now)
    if limit.window is SlidingWindow:
        return SlidingWindow(amount, MINUTE_S)
    return token_bucket(amount, limit.burst, now)


# Limits learned from replies

ReportedLimit: TypeAlias = tuple[int | None, int | None, float | None]
"""A limit as a reply reports it: the limit, what remains of it, and the seconds until it is fully restored."""


class LearnedLimit(NamedTuple):
    """An estimate of one limit, learned from replies.

    Parameters
    ----------
    window
        How it counts, and what is left.
    limit, period_s
        The allowance, and the seconds in which it is restored.
    sent_at
        When the request was sent whose reply taught this; replies to older requests are ignored.
    slides
        Whether its resets keep being postponed, so that it is not a fixed window.
    """

    window: TokenBucket | FixedWindow
    limit: float
    period_s: float
    sent_at: float
    slides: bool = False


def reported_limits(info: RateLimitInfo) -> tuple[ReportedLimit, ...]:
    """Return what a reply reports of each dimension, in the order of `DIMENSIONS`."""
    return (
        (info.limit_requests, info.remaining_requests, info.reset_requests_s),
        (info.limit_tokens, info.remaining_tokens, info.reset_tokens_s),
        (info.limit_input_tokens, info.remaining_input_tokens, info.reset_input_tokens_s),
        (info.limit_output_tokens, info.remaining_output_tokens, info.reset_output_tokens_s),
        (info.limit_images, info.remaining_images, info.reset_images_s),
    )


def learn_limit(
    learned: LearnedLimit | None, reported: ReportedLimit, now: float, sent_at: float, booked_since: float
) -> LearnedLimit | None:
    """Return what is known of a limit after a reply.

    Parameters
    ----------
    learned
        What was known before.
    reported
        The limit, remainder and reset in the reply.
    now, sent_at
        When the reply arrived, and when its request was sent.
    booked_since
        Amount booked for requests sent later, which the reply does not include.

    Notes
    -----
    Law: a reply to an older request than the one learned from changes nothing. The limit is assumed to be per minute
    unless its reset shows a longer period. If resets show that it is restored all at once, it becomes a fixed window,
    otherwise a token bucket whose capacity is what it would hold when restored. A small reserve is left unused.

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
    # One provider reports no limit, only what remains: then the largest remainder seen stands for it.
    allowed = float(max(limit or 0, remaining, 1 if limit else learned.limit if learned else 1))
    used = max(allowed - remaining, 0.0)
    period_s = MINUTE_S
    if reset_s is not None and reset_s > LONG_RESET_S:
        period_s = max(MINUTE_S, reset_s * allowed / used) if used else reset_s
    rate_per_s = allowed / period_s
    slides = learned is not None and (learned.slides or _reset_postponed(learned, now, reset_s))
    if not slides and _resets_at_once(learned, used / rate_per_s, reset_s):
        end = now + (reset_s if reset_s is not None else period_s)
        if learned is not None and isinstance(learned.window, FixedWindow) and _window_end(learned.window) > now:
            end = min(end, _window_end(learned.window))
        window = FixedWindow(allowed, period_s, end - period_s, used + booked_since)
        return LearnedLimit(window, allowed, period_s, sent_at)
    when_restored = remaining + reset_s * rate_per_s if reset_s is not None else allowed
    capacity = max(min(when_restored, allowed), 1.0)
    level = min(remaining - _reserve(capacity) + (now - sent_at) * rate_per_s - booked_since, capacity)
    if learned is not None and isinstance(learned.window, TokenBucket):
        # Network jitter makes a reply's count inexact: a lower level is adopted at once, a higher one gradually.
        elapsed_s = max(now - learned.window.updated_at, 0.0)
        expected = min(learned.window.level + elapsed_s * rate_per_s, capacity)
        level = level if level < expected else expected + UPWARD_WEIGHT * (level - expected)
    bucket = TokenBucket(rate_per_s * LEARNED_RATE_SHARE, capacity, level, now)
    return LearnedLimit(bucket, allowed, period_s, sent_at, slides)


def _reserve(capacity: float) -> float:
    """Return the part of a learned bucket that is left unused."""
    return min(1.0 + RESERVE_SHARE * capacity, capacity / 4)


def _resets_at_once(learned: LearnedLimit | None, refill_s: float, reset_s: float | None) -> bool:
    """Return whether a limit is restored all at once: its reset is much later than a steady refill would take."""
    if reset_s is None or reset_s > LONG_RESET_S:
        return False
    if reset_s > 2 * refill_s + RESET_PRECISION_S:
        return True
    was_fixed = learned is not None and isinstance(learned.window, FixedWindow)
    is_steady = refill_s > RESET_PRECISION_S and abs(reset_s - refill_s) <= 0.1 * refill_s
    return was_fixed and not is_steady


def _reset_postponed(learned: LearnedLimit, now: float, reset_s: float | None) -> bool:
    """Return whether the end of a window has moved to later before it came, so that the window slides."""
    if reset_s is None or not isinstance(learned.window, FixedWindow):
        return False
    end = _window_end(learned.window)
    return now < end - RESET_PRECISION_S and now + reset_s > end + RESET_PRECISION_S


def _window_end(window: FixedWindow) -> float:
    return window.start + window.window_s
