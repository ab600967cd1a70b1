"""What is not known yet, as intervals: sums of what is to come, judged by what came. All of it pure.

An interval holds 19 of 20 times. A sum of ``many`` further values is judged by a sample: their mean times ``many``, and
to either side Student's t times the standard error of predicting such a sum, ``s * sqrt(many + many**2 / n)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean, quantiles, stdev
from typing import Final, NamedTuple

from llmhub.core.cost import Price, Rates

T_975: Final = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip
"""Student's t at 97.5 % for 1 to 30 degrees of freedom."""
LEAST_SPREAD: Final = 0.03
"""A sample that happens to be all alike still leaves so much of its mean open."""

LEAST_ERROR: Final = 0.025
"""And a line through points that happen to lie on it, so much of the sum it forecasts."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What is expected, and the bounds it stays within 19 of 20 times.

    Examples
    --------
    >>> 3 in Interval(1, 2, 4), 5 in Interval(1, 2, 4)
    (True, False)
    """

    low: float
    expected: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Say whether a value lies within."""
        return self.low <= value <= self.high

    def __add__(self, other: Interval) -> Interval:
        """Give the interval of a sum: as wide as both together."""
        return Interval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def scaled(self, factor: float) -> Interval:
        """Give the interval of a multiple."""
        return Interval(self.low * factor, self.expected * factor, self.high * factor)


ZERO: Final = Interval(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Money:
    """The same for US dollars, exact.

    Examples
    --------
    >>> Decimal("0.5") in Money(Decimal(0), Decimal("0.4"), Decimal(1))
    True
    """

    low: Decimal
    expected: Decimal
    high: Decimal

    def __contains__(self, value: Decimal) -> bool:
        """Say whether an amount lies within."""
        return self.low <= value <= self.high

    def __add__(self, other: Money) -> Money:
        """Give the interval of a sum."""
        return Money(self.low + other.low, self.expected + other.expected, self.high + other.high)


class Seen(NamedTuple):
    """One answer that came: the tokens counted for its question here, and what its provider said."""

    counted: int
    input_tokens: int | None
    output_tokens: int | None
    latency_s: float | None


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Give mean, standard deviation and Student's t of a sample; of a single value, a deviation as large as itself."""
    mean = fmean(values)
    deviation = stdev(values) if len(values) > 1 else mean
    return mean, max(deviation, LEAST_SPREAD * mean), _t(len(values) - 1)


def total(values: Sequence[float], many: int) -> Interval:
    """Forecast the sum of ``many`` further values like these.

    Law: it holds the sum of ``many`` further draws about 19 of 20 times, for any not too skewed distribution.

    Examples
    --------
    >>> forecast = total([9.0, 11.0, 10.0, 10.0], 100)
    >>> round(forecast.low), round(forecast.expected), round(forecast.high)
    (868, 1000, 1132)
    """
    if not many:
        return ZERO
    mean, deviation, t = spread(values)
    half = t * deviation * math.sqrt(many + many**2 / len(values))
    return Interval(max(many * mean - half, 0.0), many * mean, many * mean + half)


def in_proportion(pairs: Sequence[tuple[float, float]], size: float, many: int) -> Interval:
    """Forecast the sum of ``many`` further values that go with a known ``size`` as these pairs of size and value do.

    A straight line is laid through the pairs: so much for each, and so much in proportion.

    Examples
    --------
    >>> round(in_proportion([(10, 12), (20, 22), (30, 32)], 1000, 50).expected)
    1100
    """
    if not many:
        return ZERO
    n = len(pairs)
    mean, over = fmean(known for known, _ in pairs), fmean(value for _, value in pairs)
    width = sum((known - mean) ** 2 for known, _ in pairs)
    if n < 3 or width < n * 1e-6:  # noqa: PLR2004 - two points bear out any line
        slope, width, free = over / max(mean, 1e-9), float("inf"), n - 1
    else:
        slope, free = sum((known - mean) * (value - over) for known, value in pairs) / width, n - 2
    expected = max(0.0, many * over + slope * (size - many * mean))
    rests = sum((value - over - slope * (known - mean)) ** 2 for known, value in pairs)
    deviation = math.sqrt(rests / free) if free else over
    reach = many + many**2 / n + (size - many * mean) ** 2 / width
    half = max(_t(free) * deviation * math.sqrt(reach), LEAST_ERROR * expected)
    return Interval(max(expected - half, 0.0), expected, expected + half)


def _t(free: int) -> float:
    """Give Student's t for so many degrees of freedom; for none at all, no more than two deviations are claimed."""
    return T_975[min(free, len(T_975)) - 1] if free else 2.0


def loosely(values: Sequence[float], many: int) -> Interval:
    """Forecast a sum by answers to other questions: between what the small and the large among them would give."""
    if len(values) < 2:  # noqa: PLR2004 - of one value nothing is the smaller part
        return Interval(many * values[0] / 4, many * values[0], many * values[0] * 4)
    cuts = quantiles(values, n=10, method="inclusive")
    mean = fmean(values)
    return Interval(many * min(cuts[0], mean), many * mean, many * max(cuts[-1], mean))


def capped(interval: Interval, bound: float | None) -> Interval:
    """Keep an interval below what cannot be exceeded."""
    if bound is None:
        return interval
    return Interval(*(min(value, bound) for value in (interval.low, interval.expected, interval.high)))


def usd(price: Price, calls: int, input_tokens: Interval, output_tokens: Interval, *, cached: bool) -> Money:
    """Price tokens: the least they may cost, what they are expected to, and the most.

    Parameters
    ----------
    cached
        Whether the provider may have read the questions from its cache.
    """
    rates = _rates_for(price, input_tokens.expected / calls if calls else 0.0)
    least_in = min(rates.each[:3]) if cached else rates.input
    most_in, most_out = max(rates.each[:3]) if cached else rates.input, max(rates.each[3:])
    fee = price.request_usd * calls
    return Money(
        fee + _times(input_tokens.low, least_in) + _times(output_tokens.low, min(rates.each[3:])),
        fee + _times(input_tokens.expected, rates.input) + _times(output_tokens.expected, rates.output),
        fee + _times(input_tokens.high, most_in) + _times(output_tokens.high, most_out),
    )


def _times(tokens: float, rate: Decimal) -> Decimal:
    return Decimal(round(tokens)) * rate


def _rates_for(price: Price, input_tokens: float) -> Rates:
    """Give the rates of a request with so many input tokens."""
    reached = [tier for tier in price.tiers if input_tokens > tier.above]
    return max(reached, key=lambda tier: tier.above).rates if reached else price.rates


class Pace(NamedTuple):
    """What a rate limit permits: an amount a minute, and how much of it may go at once (a share)."""

    name: str
    per_minute: float
    burst: float
    needed: Interval


EFFICIENCY: Final = 0.95
"""Share of a limit that is used at the least."""
START_S: Final = 3.0
"""Seconds that beginning and ending may take."""
SLACK: Final = 1.4
"""How much longer than its sums a run may take: connections are made, stragglers waited for."""
BY_CONCURRENCY: Final = "concurrency"


def minutes(work_s: Interval, longest_s: float, concurrency: int, paces: Iterable[Pace]) -> tuple[Interval, str]:
    """Forecast how long a run takes, and name what it waits for longest.

    Parameters
    ----------
    work_s
        The sum of all latencies.
    longest_s
        The longest of a single one.
    concurrency
        Calls under way at once.
    paces
        Rate limits, with how much of each is needed.

    Examples
    --------
    >>> paced = Pace("openai: 60 requests a minute", 60, 0.01, Interval(600, 600, 600))
    >>> forecast, binds = minutes(Interval(50, 60, 70), 1.0, 64, [paced])
    >>> round(forecast.expected), binds
    (10, 'openai: 60 requests a minute')
    """
    bounds: dict[str, Interval] = {f"{BY_CONCURRENCY} ({concurrency})": work_s.scaled(1 / concurrency)}
    for pace in paces:
        bounds[pace.name] = Interval(
            _paced_s(pace.needed.low, pace), _paced_s(pace.needed.expected, pace), _paced_s(pace.needed.high, pace)
        )
    if work_s.expected <= 0:
        return ZERO, ""
    name = max(bounds, key=lambda one: bounds[one].expected)
    low = max(one.low for one in bounds.values())
    high = max(one.high for one in bounds.values()) / EFFICIENCY * SLACK + longest_s + START_S
    expected = max(bounds[name].expected, longest_s / 2)
    return Interval(min(low, expected) / 60, expected / 60, max(high, expected) / 60), name


def _paced_s(amount: float, pace: Pace) -> float:
    """Give the seconds until an amount was let through."""
    at_once = max(1.0, pace.per_minute * pace.burst)
    return max(0.0, amount - at_once) / pace.per_minute * 60
