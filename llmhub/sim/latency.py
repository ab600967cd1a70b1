"""How long a simulated provider takes: lognormal, drawn by hash, the same for the same question."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

STANDARD_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True)
class Latency:
    """How an answer's duration is distributed.

    Parameters
    ----------
    median_s
        Seconds that half of the answers take at most; 0 answers as fast as it can, without any waiting.
    sigma
        Spread of the logarithm: 0 is always the median, 0.5 has its 95th percentile at 2.3 medians.
    first
        Share of the time that passes before a stream's first event; the rest is spread over the others.

    Examples
    --------
    >>> Latency(0.2).duration_s(0.9), round(Latency(0.2, 0.5).duration_s(0.95), 3)
    (0.2, 0.455)
    """

    median_s: float = 0.0
    sigma: float = 0.0
    first: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        if not (self.median_s >= 0 and self.sigma >= 0 and math.isfinite(self.median_s + self.sigma)):
            raise ValueError(f"a latency needs a median and a sigma from 0 up, not {self.median_s} and {self.sigma}")
        if not 0 <= self.first <= 1:
            raise ValueError(f"first={self.first} is no share of the time; give one from 0 to 1")

    def duration_s(self, quantile: float) -> float:
        """Give the duration at quantile ``quantile`` (0 to 1)."""
        if not self.median_s or not self.sigma:
            return self.median_s
        return self.median_s * math.exp(self.sigma * STANDARD_NORMAL.inv_cdf(min(max(quantile, 1e-9), 1 - 1e-9)))

    def event_due_s(self, duration_s: float, index: int, count: int) -> float:
        """Say when event ``index`` of ``count`` is due, in seconds from the beginning.

        Examples
        --------
        >>> [Latency(first=0.5).event_due_s(2.0, at, 3) for at in range(3)]
        [1.0, 1.5, 2.0]
        """
        passed = index / (count - 1) if count > 1 else 1.0
        return duration_s * (self.first + (1 - self.first) * passed)
