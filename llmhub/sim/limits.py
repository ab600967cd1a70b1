"""What a simulated provider allows: token buckets for requests and for tokens, as a pure function.

Source: https://platform.openai.com/docs/guides/rate-limits (read 2026-11-22): continuous refill, and a
"reset" that is the time until the bucket is full again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MINUTE_S: Final = 60.0
ROUNDING_SLACK: Final = 1e-9
"""Rounding of floating-point refills that must not cost a request."""


@dataclass(frozen=True, slots=True)
class SimLimit:
    """Requests and tokens a minute; ``None`` is without limit.

    Parameters
    ----------
    rpm, tpm
        Requests and tokens a minute.
    burst_s
        Seconds' worth of the rate that an idle caller can use at once.

    Notes
    -----
    Law: from any moment on, at most ``rpm * (burst_s + t) / 60`` requests pass in ``t`` seconds.
    """

    rpm: float | None = None
    tpm: float | None = None
    burst_s: float = MINUTE_S

    def __post_init__(self) -> None:
        """Refuse what would never let anything through."""
        for name in ("rpm", "tpm", "burst_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} lets nothing through; give more than 0, or None for no limit")


@dataclass(frozen=True, slots=True)
class SimBuckets:
    """What is left of both, at a time (seconds of any clock that does not go back)."""

    requests: float
    tokens: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class LimitMeter:
    """One limit as headers tell it: a minute's worth, what is left, and seconds until it is whole again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """Both meters; ``None`` where there is no limit."""

    requests: LimitMeter | None = None
    tokens: LimitMeter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitDecision:
    """Whether a request may pass, what is left, and, where not, what ran out and when to come again."""

    granted: bool
    buckets: SimBuckets
    status: LimitStatus
    scope: Literal["requests", "tokens"] = "requests"
    retry_after_s: float | None = None


def full_buckets(limit: SimLimit, now: float) -> SimBuckets:
    """Give full buckets.

    Examples
    --------
    >>> full_buckets(SimLimit(rpm=60, burst_s=10), 0.0)
    SimBuckets(requests=10.0, tokens=0.0, updated_at=0.0)
    """
    return SimBuckets(bucket_capacity(limit.rpm, limit.burst_s), bucket_capacity(limit.tpm, limit.burst_s), now)


def bucket_capacity(a_minute: float | None, burst_s: float) -> float:
    """Say how much a bucket holds: at least one request or token."""
    return 0.0 if a_minute is None else max(a_minute * burst_s / MINUTE_S, 1.0)


def take_from_buckets(limit: SimLimit, buckets: SimBuckets, now: float, cost: int) -> LimitDecision:
    """Let one request of ``cost`` tokens pass, or say when to come again. What is refused costs nothing.

    Examples
    --------
    >>> limit = SimLimit(rpm=60, burst_s=1)
    >>> first = take_from_buckets(limit, full_buckets(limit, 0.0), 0.0, 10)
    >>> first.granted, take_from_buckets(limit, first.buckets, 0.25, 10).retry_after_s
    (True, 0.75)
    """
    since = max(now - buckets.updated_at, 0.0) / MINUTE_S
    requests, no_request_s = _refill(limit.rpm, limit.burst_s, buckets.requests, since, 1)
    tokens, no_token_s = _refill(limit.tpm, limit.burst_s, buckets.tokens, since, cost)
    granted = no_request_s == no_token_s == 0
    left = SimBuckets(
        requests - 1 if granted and limit.rpm is not None else requests,
        tokens - cost if granted and limit.tpm is not None else tokens,
        max(now, buckets.updated_at),
    )
    never = no_token_s is None or no_request_s is None
    waits = [wait for wait in (no_request_s, no_token_s) if wait]
    return LimitDecision(
        granted=granted,
        buckets=left,
        status=LimitStatus(
            _to_meter(limit.rpm, limit.burst_s, left.requests), _to_meter(limit.tpm, limit.burst_s, left.tokens)
        ),
        scope="requests" if no_request_s else "tokens",
        retry_after_s=None if granted or never else max(waits),
    )


def _refill(
    a_minute: float | None, burst_s: float, level: float, minutes: float, cost: float
) -> tuple[float, float | None]:
    """Refill one bucket; give its level and the wait for ``cost`` (0: now, None: it never holds so much)."""
    if a_minute is None:
        return 0.0, 0.0
    most = bucket_capacity(a_minute, burst_s)
    level = min(most, level + a_minute * minutes)
    if cost > most + ROUNDING_SLACK:
        return level, None
    return level, 0.0 if level + ROUNDING_SLACK >= cost else (cost - level) / a_minute * MINUTE_S


def _to_meter(a_minute: float | None, burst_s: float, level: float) -> LimitMeter | None:
    if a_minute is None:
        return None
    missing = bucket_capacity(a_minute, burst_s) - level
    return LimitMeter(int(a_minute), max(int(level + ROUNDING_SLACK), 0), max(missing, 0.0) / a_minute * MINUTE_S)
