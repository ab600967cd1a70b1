"""What is not known yet, as intervals: sums of what is to come, judged by what came. All of it pure.

An interval holds 19 of 20 times. A sum of ``many`` further values is judged by a sample: their mean times ``many``, and
to either side Student's t times the standard error of predicting such a sum, ``s * sqrt(many + many**2 / n)``.

Plans in a terminal: columns that line up, and intervals as people write them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean, quantiles, stdev
from typing import Final, NamedTuple

from llmhub.core.pricing import Price, Rates

T_975: Final = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip
"""Student's t at 97.5 % for 1 to 30 degrees of freedom."""


MIN_RELATIVE_STD: Final = 0.03
"""A sample that happens to be all alike still leaves so much of its mean open."""


MIN_RELATIVE_ERROR: Final = 0.025
"""And a line through points that happen to lie on it, so much of the sum it forecasts."""


@dataclass(frozen=True, slots=True)
class PredictionInterval:
    """What is expected, and the bounds it stays within 19 of 20 times.

    Examples
    --------
    >>> 3 in PredictionInterval(1, 2, 4), 5 in PredictionInterval(1, 2, 4)
    (True, False)
    """

    low: float
    expected: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Say whether a value lies within."""
        return self.low <= value <= self.high

    def __add__(self, other: PredictionInterval) -> PredictionInterval:
        """Give the interval of a sum: as wide as both together."""
        return PredictionInterval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def scale(self, factor: float) -> PredictionInterval:
        """Give the interval of a multiple."""
        return PredictionInterval(self.low * factor, self.expected * factor, self.high * factor)


ZERO_INTERVAL: Final = PredictionInterval(0, 0, 0)


@dataclass(frozen=True, slots=True)
class CostInterval:
    """The same for US dollars, exact.

    Examples
    --------
    >>> Decimal("0.5") in CostInterval(Decimal(0), Decimal("0.4"), Decimal(1))
    True
    """

    low: Decimal
    expected: Decimal
    high: Decimal

    def __contains__(self, value: Decimal) -> bool:
        """Say whether an amount lies within."""
        return self.low <= value <= self.high

    def __add__(self, other: CostInterval) -> CostInterval:
        """Give the interval of a sum."""
        return CostInterval(self.low + other.low, self.expected + other.expected, self.high + other.high)


class Observation(NamedTuple):
    """One answer that came: the tokens counted for its question here, and what its provider said."""

    counted: int
    input_tokens: int | None
    output_tokens: int | None
    latency_s: float | None


def mean_std_t(values: Sequence[float]) -> tuple[float, float, float]:
    """Give mean, standard deviation and Student's t of a sample; of a single value, a deviation as large as itself."""
    mean = fmean(values)
    deviation = stdev(values) if len(values) > 1 else mean
    return mean, max(deviation, MIN_RELATIVE_STD * mean), _student_t(len(values) - 1)


def forecast_sum(values: Sequence[float], count: int) -> PredictionInterval:
    """Forecast the sum of ``count`` further values like these.

    Law: it holds the sum of ``count`` further draws about 19 of 20 times, for any not too skewed distribution.

    Examples
    --------
    >>> forecast = forecast_sum([9.0, 11.0, 10.0, 10.0], 100)
    >>> round(forecast.low), round(forecast.expected), round(forecast.high)
    (868, 1000, 1132)
    """
    if not count:
        return ZERO_INTERVAL
    mean, deviation, t = mean_std_t(values)
    half = t * deviation * math.sqrt(count + count**2 / len(values))
    return PredictionInterval(max(count * mean - half, 0.0), count * mean, count * mean + half)


def forecast_by_regression(pairs: Sequence[tuple[float, float]], total_size: float, count: int) -> PredictionInterval:
    """Forecast the sum of ``count`` further values that go with a known ``total_size`` as these pairs of size and value do.

    A straight line is laid through the pairs: so much for each, and so much in proportion.

    Examples
    --------
    >>> round(forecast_by_regression([(10, 12), (20, 22), (30, 32)], 1000, 50).expected)
    1100
    """
    if not count:
        return ZERO_INTERVAL
    n = len(pairs)
    mean, over = fmean(known for known, _ in pairs), fmean(value for _, value in pairs)
    width = sum((known - mean) ** 2 for known, _ in pairs)
    if n < 3 or width < n * 1e-6:  # noqa: PLR2004 - two points bear out any line
        slope, width, free = over / max(mean, 1e-9), float("inf"), n - 1
    else:
        slope, free = sum((known - mean) * (value - over) for known, value in pairs) / width, n - 2
    expected = max(0.0, count * over + slope * (total_size - count * mean))
    rests = sum((value - over - slope * (known - mean)) ** 2 for known, value in pairs)
    deviation = math.sqrt(rests / free) if free else over
    reach = count + count**2 / n + (total_size - count * mean) ** 2 / width
    half = max(_student_t(free) * deviation * math.sqrt(reach), MIN_RELATIVE_ERROR * expected)
    return PredictionInterval(max(expected - half, 0.0), expected, expected + half)


def _student_t(free: int) -> float:
    """Give Student's t for so many degrees of freedom; for none at all, no more than two deviations are claimed."""
    return T_975[min(free, len(T_975)) - 1] if free else 2.0


def forecast_from_other_prompts(values: Sequence[float], count: int) -> PredictionInterval:
    """Forecast a sum by answers to other questions: between what the small and the large among them would give."""
    if len(values) < 2:  # noqa: PLR2004 - of one value nothing is the smaller part
        return PredictionInterval(count * values[0] / 4, count * values[0], count * values[0] * 4)
    cuts = quantiles(values, n=10, method="inclusive")
    mean = fmean(values)
    return PredictionInterval(count * min(cuts[0], mean), count * mean, count * max(cuts[-1], mean))


def clip(interval: PredictionInterval, bound: float | None) -> PredictionInterval:
    """Keep an interval below what cannot be exceeded."""
    if bound is None:
        return interval
    return PredictionInterval(*(min(value, bound) for value in (interval.low, interval.expected, interval.high)))


def forecast_cost(
    price: Price, calls: int, input_tokens: PredictionInterval, output_tokens: PredictionInterval, *, cached: bool
) -> CostInterval:
    """Price tokens: the least they may cost, what they are expected to, and the most.

    Parameters
    ----------
    cached
        Whether the provider may have read the questions from its cache.
    """
    rates = _rates_for(price, input_tokens.expected / calls if calls else 0.0)
    least_in = min(rates.by_class[:3]) if cached else rates.input
    most_in, most_out = max(rates.by_class[:3]) if cached else rates.input, max(rates.by_class[3:])
    fee = price.request_usd * calls
    return CostInterval(
        fee + _token_cost(input_tokens.low, least_in) + _token_cost(output_tokens.low, min(rates.by_class[3:])),
        fee + _token_cost(input_tokens.expected, rates.input) + _token_cost(output_tokens.expected, rates.output),
        fee + _token_cost(input_tokens.high, most_in) + _token_cost(output_tokens.high, most_out),
    )


def _token_cost(tokens: float, rate: Decimal) -> Decimal:
    return Decimal(round(tokens)) * rate


def _rates_for(price: Price, input_tokens: float) -> Rates:
    """Give the rates of a request with so many input tokens."""
    reached = [tier for tier in price.tiers if input_tokens > tier.above]
    return max(reached, key=lambda tier: tier.above).rates if reached else price.rates


class RateDemand(NamedTuple):
    """What a rate limit permits: an amount a minute, and how much of it may go at once (a share)."""

    name: str
    per_minute: float
    burst: float
    demand: PredictionInterval


MIN_LIMIT_UTILIZATION: Final = 0.95
"""Share of a limit that is used at the least."""


STARTUP_S: Final = 3.0
"""Seconds that beginning and ending may take."""


OVERHEAD_FACTOR: Final = 1.4
"""How much longer than its sums a run may take: connections are made, stragglers waited for."""


BY_CONCURRENCY: Final = "concurrency"


def forecast_minutes(
    work_s: PredictionInterval, longest_s: float, concurrency: int, demands: Iterable[RateDemand]
) -> tuple[PredictionInterval, str]:
    """Forecast how long a run takes, and name what it waits for longest.

    Parameters
    ----------
    work_s
        The sum of all latencies.
    longest_s
        The longest of a single one.
    concurrency
        Calls under way at once.
    demands
        Rate limits, with how much of each is needed.

    Examples
    --------
    >>> paced = RateDemand("openai: 60 requests a minute", 60, 0.01, PredictionInterval(600, 600, 600))
    >>> forecast, binds = forecast_minutes(PredictionInterval(50, 60, 70), 1.0, 64, [paced])
    >>> round(forecast.expected), binds
    (10, 'openai: 60 requests a minute')
    """
    bounds: dict[str, PredictionInterval] = {f"{BY_CONCURRENCY} ({concurrency})": work_s.scale(1 / concurrency)}
    for pace in demands:
        bounds[pace.name] = PredictionInterval(
            _rate_limited_s(pace.demand.low, pace),
            _rate_limited_s(pace.demand.expected, pace),
            _rate_limited_s(pace.demand.high, pace),
        )
    if work_s.expected <= 0:
        return ZERO_INTERVAL, ""
    name = max(bounds, key=lambda one: bounds[one].expected)
    low = max(one.low for one in bounds.values())
    high = max(one.high for one in bounds.values()) / MIN_LIMIT_UTILIZATION * OVERHEAD_FACTOR + longest_s + STARTUP_S
    expected = max(bounds[name].expected, longest_s / 2)
    return PredictionInterval(min(low, expected) / 60, expected / 60, max(high, expected) / 60), name


def _rate_limited_s(amount: float, pace: RateDemand) -> float:
    """Give the seconds until an amount was let through."""
    at_once = max(1.0, pace.per_minute * pace.burst)
    return max(0.0, amount - at_once) / pace.per_minute * 60


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Line columns up: the first to the left, the others to the right; one that is empty but for its head is left out.

    Examples
    --------
    >>> print(text_table([("model", "calls", ""), ("m", "1,000", "")]))
    model  calls
    m      1,000
    """
    shown = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    widths = {at: max(len(row[at]) for row in rows) for at in shown}
    return "\n".join(
        "  ".join(row[at].ljust(widths[at]) if at == 0 else row[at].rjust(widths[at]) for at in shown).rstrip()
        for row in rows
    )


def format_count_interval(interval: PredictionInterval) -> str:
    """Write counts.

    Examples
    --------
    >>> format_count_interval(PredictionInterval(90, 100, 110)), format_count_interval(PredictionInterval(5, 5, 5))
    ('90..110', '5')
    """
    low, high = round(interval.low), round(interval.high)
    return f"{low:,}" if low == high else f"{low:,}..{high:,}"


def format_usd_interval(interval: CostInterval | None) -> str:
    """Write dollars.

    Examples
    --------
    >>> format_usd_interval(CostInterval(Decimal("0.00012"), Decimal("0.0002"), Decimal("0.0004"))), format_usd_interval(None)
    ('0.000120..0.000400', 'unknown')
    """
    if interval is None:
        return "unknown"
    low, high = format_usd(interval.low), format_usd(interval.high)
    return low if low == high else f"{low}..{high}"


def format_usd(usd: Decimal) -> str:
    """Write an amount of dollars with as many places as it needs.

    Examples
    --------
    >>> format_usd(Decimal("12.345678")), format_usd(Decimal("0.0000123")), format_usd(Decimal(0))
    ('12.35', '0.000012', '0')
    """
    if not usd:
        return "0"
    return f"{usd:.2f}" if usd >= 1 else f"{usd:.4f}" if usd >= Decimal("0.01") else f"{usd:.6f}"


def format_minutes_interval(minutes: PredictionInterval) -> str:
    """Write a time.

    Examples
    --------
    >>> format_minutes_interval(PredictionInterval(0.1, 0.2, 0.5)), format_minutes_interval(PredictionInterval(5, 10, 20)), format_minutes_interval(PredictionInterval(0.5, 10, 300))
    ('6 to 30 seconds', '5 to 20 minutes', '30 seconds to 5.0 hours')
    """
    low, high = _minutes_with_unit(minutes.low), _minutes_with_unit(minutes.high)
    return f"{low[0]}{'' if low[1] == high[1] else f' {low[1]}'} to {high[0]} {high[1]}"


def _minutes_with_unit(minutes: float) -> tuple[str, str]:
    for below, factor, unit, places in ((2, 60, "seconds", 0), (120, 1, "minutes", 0)):
        if minutes < below:
            return f"{minutes * factor:.{places}f}", unit
    return f"{minutes / 60:.1f}", "hours"
