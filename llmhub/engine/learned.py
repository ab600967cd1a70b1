"""What replies teach about limits, as pure values: how much is left, how fast it comes back, how it is counted.

Sources: https://platform.openai.com/docs/guides/rate-limits ("reset" is the time until the limit is whole again),
https://docs.anthropic.com/en/api/rate-limits (a bucket that refills steadily) (read 2026-11-22).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from llmhub.core.ratelimit import RateLimitInfo
from llmhub.engine.windows import FixedWindow, TokenBucket

MINUTE_S: Final = 60.0
STEADY: Final = 0.985
"""Share of a learned rate that is used: the rest is for what jitters on the way."""
RESERVE: Final = 0.02
BETTER: Final = 0.2
ROUGH_S: Final = 2.0
"""A reset may be told to the second, and lie a second in the past."""

Told = tuple[int | None, int | None, float | None]
"""Limit, what remains of it, and seconds until it is whole."""


class Known(NamedTuple):
    """What is known of one limit.

    ``sent_at`` is when the request went whose reply said so: older ones say less. ``slides``: its resets never come.
    """

    window: TokenBucket | FixedWindow
    limit: float
    period_s: float
    sent_at: float
    slides: bool = False


def told(info: RateLimitInfo) -> tuple[Told, Told, Told, Told]:
    """Give what a reply says of requests, tokens, input tokens and output tokens."""
    return (
        (info.limit_requests, info.remaining_requests, info.reset_requests_s),
        (info.limit_tokens, info.remaining_tokens, info.reset_tokens_s),
        (info.limit_input_tokens, info.remaining_input_tokens, info.reset_input_tokens_s),
        (info.limit_output_tokens, info.remaining_output_tokens, info.reset_output_tokens_s),
    )


def learn(known: Known | None, said: Told, now: float, sent_at: float, booked_since: float) -> Known | None:
    """Take in what a reply said of one limit.

    Parameters
    ----------
    known
        What was known before.
    said
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
    >>> learn(None, (1200, 1199, 0.05), now=1.0, sent_at=1.0, booked_since=0.0).window
    TokenBucket(rate_s=19.7, capacity=1200.0, level=1174.0, at=1.0)
    >>> learn(None, (1200, 1199, 30.0), now=1.0, sent_at=1.0, booked_since=0.0).window
    FixedWindow(allowed=1200.0, window_s=60.0, start=-29.0, used=1.0)
    """
    limit, remaining, reset_s = said
    if remaining is None or (known is not None and sent_at < known.sent_at):
        return known
    # Without a limit (one provider tells only what is left), the most that ever was left stands for it.
    most = float(max(limit or 0, remaining, 1 if limit else known.limit if known else 1))
    gone = max(most - remaining, 0.0)
    period_s = MINUTE_S
    if reset_s is not None and reset_s > 1.5 * MINUTE_S:
        period_s = max(MINUTE_S, reset_s * most / gone) if gone else reset_s
    rate_s = most / period_s
    slides = known is not None and (known.slides or _put_off(known, now, reset_s))
    if not slides and _at_once(known, gone / rate_s, reset_s):
        ends = now + (reset_s if reset_s is not None else period_s)
        if known is not None and isinstance(known.window, FixedWindow) and (before := _end(known.window)) > now:
            ends = min(ends, before)
        return Known(FixedWindow(most, period_s, ends - period_s, gone + booked_since), most, period_s, sent_at)
    whole = remaining + reset_s * rate_s if reset_s is not None else most
    capacity = max(min(whole, most), 1.0)
    level = min(remaining - _reserve(capacity) + (now - sent_at) * rate_s - booked_since, capacity)
    if known is not None and isinstance(known.window, TokenBucket):
        # What jitters on the way makes a reply's count a little wrong: worse news counts at once, better by and by.
        own = min(known.window.level + max(now - known.window.at, 0.0) * rate_s, capacity)
        level = level if level < own else own + BETTER * (level - own)
    return Known(TokenBucket(rate_s * STEADY, capacity, level, now), most, period_s, sent_at, slides)


def _reserve(capacity: float) -> float:
    """Leave a little in a bucket that is large enough."""
    return min(1.0 + RESERVE * capacity, capacity / 4)


def _at_once(known: Known | None, refill_s: float, reset_s: float | None) -> bool:
    """Say whether a limit comes back all at once: its reset is much later than a steady refill would take."""
    if reset_s is None or reset_s > 1.5 * MINUTE_S:
        return False
    if reset_s > 2 * refill_s + ROUGH_S:
        return True
    was = known is not None and isinstance(known.window, FixedWindow)
    steady = refill_s > ROUGH_S and abs(reset_s - refill_s) <= 0.1 * refill_s
    return was and not steady


def _put_off(known: Known, now: float, reset_s: float | None) -> bool:
    """Say whether the end of a window that has not come yet is later than it was: then it slides."""
    if reset_s is None or not isinstance(known.window, FixedWindow):
        return False
    ends = _end(known.window)
    return now < ends - ROUGH_S and now + reset_s > ends + ROUGH_S


def _end(window: FixedWindow) -> float:
    return window.start + window.window_s
