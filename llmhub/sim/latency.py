"""Latencies of the simulated providers: lognormal, and the same for the same request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

STANDARD_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Latency:
    """Distribution of response times.

    Parameters
    ----------
    median_s
        Median in seconds; 0 responds without delay.
    sigma
        Standard deviation of the logarithm: 0 is always the median, with 0.5 the 95th percentile is 2.3 medians.
    first
        Share of the time before the first event of a stream; the rest is spread evenly over the others.

    Examples
    --------
    >>> Latency(0.2).duration_s(0.9), round(Latency(0.2, 0.5).duration_s(0.95), 3)
    (0.2, 0.455)
    """

    median_s: float = 0.0
    sigma: float = 0.0
    first: float = 0.25

    def __post_init__(self) -> None:
        """Reject invalid parameters."""
        if not (self.median_s >= 0 and self.sigma >= 0 and math.isfinite(self.median_s + self.sigma)):
            raise ValueError(f"median_s={self.median_s} and sigma={self.sigma} must be finite and not negative")
        if not 0 <= self.first <= 1:
            raise ValueError(f"first={self.first} must be between 0 and 1")

    def duration_s(self, quantile: float) -> float:
        """Return the duration at ``quantile`` (0 to 1), in seconds."""
        if not self.median_s or not self.sigma:
            return self.median_s
        return self.median_s * math.exp(self.sigma * STANDARD_NORMAL.inv_cdf(min(max(quantile, 1e-9), 1 - 1e-9)))

    def event_due_s(self, duration_s: float, index: int, count: int) -> float:
        """Return when event ``index`` of ``count`` is due, in seconds from the start.

        Examples
        --------
        >>> [Latency(first=0.5).event_due_s(2.0, index, 3) for index in range(3)]
        [1.0, 1.5, 2.0]
        """
        passed = index / (count - 1) if count > 1 else 1.0
        return duration_s * (self.first + (1 - self.first) * passed)
