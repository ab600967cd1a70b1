"""Rate limits of the simulated providers: token buckets for requests and tokens, as pure functions.

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
    """Rate limits of a simulated model; ``None`` is no limit.

    Parameters
    ----------
    rpm, tpm
        Requests and tokens per minute.
    burst_s
        Seconds of the rate that an idle caller may use at once.

    Notes
    -----
    Law: any ``t`` seconds admit at most ``rpm * (burst_s + t) / 60`` requests.
    """

    rpm: float | None = None
    tpm: float | None = None
    burst_s: float = MINUTE_S

    def __post_init__(self) -> None:
        """Reject limits that would admit nothing."""
        for name in ("rpm", "tpm", "burst_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} admits no request; pass a positive number, or None for no limit")


@dataclass(frozen=True, slots=True)
class SimBuckets:
    """Levels of both buckets at a time (seconds of a monotonic clock)."""

    requests: float
    tokens: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class LimitMeter:
    """One limit as headers report it: the limit per minute, what remains, and the seconds until it is full."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """Both meters; ``None`` without a limit."""

    requests: LimitMeter | None = None
    tokens: LimitMeter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitDecision:
    """Whether a request is admitted, the new levels and, if not, the exhausted limit and the retry delay."""

    granted: bool
    buckets: SimBuckets
    status: LimitStatus
    scope: Literal["requests", "tokens"] = "requests"
    retry_after_s: float | None = None


def full_buckets(limit: SimLimit, now: float) -> SimBuckets:
    """Return full buckets.

    Examples
    --------
    >>> full_buckets(SimLimit(rpm=60, burst_s=10), 0.0)
    SimBuckets(requests=10.0, tokens=0.0, updated_at=0.0)
    """
    return SimBuckets(bucket_capacity(limit.rpm, limit.burst_s), bucket_capacity(limit.tpm, limit.burst_s), now)


def bucket_capacity(per_minute: float | None, burst_s: float) -> float:
    """Return the capacity of a bucket: at least one request or token."""
    return 0.0 if per_minute is None else max(per_minute * burst_s / MINUTE_S, 1.0)


def take_from_buckets(limit: SimLimit, buckets: SimBuckets, now: float, cost: int) -> LimitDecision:
    """Admit a request of ``cost`` tokens, or return the retry delay. A rejected request takes nothing.

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
    new_buckets = SimBuckets(
        requests - 1 if granted and limit.rpm is not None else requests,
        tokens - cost if granted and limit.tpm is not None else tokens,
        max(now, buckets.updated_at),
    )
    never = no_token_s is None or no_request_s is None
    waits = [wait for wait in (no_request_s, no_token_s) if wait]
    return LimitDecision(
        granted=granted,
        buckets=new_buckets,
        status=LimitStatus(
            _to_meter(limit.rpm, limit.burst_s, new_buckets.requests),
            _to_meter(limit.tpm, limit.burst_s, new_buckets.tokens),
        ),
        scope="requests" if no_request_s else "tokens",
        retry_after_s=None if granted or never else max(waits),
    )


def _refill(
    per_minute: float | None, burst_s: float, level: float, minutes: float, cost: float
) -> tuple[float, float | None]:
    """Return the refilled level of a bucket and the wait for ``cost`` (0: none, None: it exceeds the capacity)."""
    if per_minute is None:
        return 0.0, 0.0
    capacity = bucket_capacity(per_minute, burst_s)
    level = min(capacity, level + per_minute * minutes)
    if cost > capacity + ROUNDING_SLACK:
        return level, None
    return level, 0.0 if level + ROUNDING_SLACK >= cost else (cost - level) / per_minute * MINUTE_S


def _to_meter(per_minute: float | None, burst_s: float, level: float) -> LimitMeter | None:
    if per_minute is None:
        return None
    missing = bucket_capacity(per_minute, burst_s) - level
    return LimitMeter(int(per_minute), max(int(level + ROUNDING_SLACK), 0), max(missing, 0.0) / per_minute * MINUTE_S)
