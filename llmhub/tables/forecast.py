"""Forecasts of tokens, cost and time as 95 % prediction intervals. Pure functions.

The sum of ``count`` further values is forecast from a sample of ``n``: ``count`` times the sample mean, plus and minus
Student's t times the standard error of predicting such a sum, ``s * sqrt(count + count**2 / n)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean, quantiles, stdev
from typing import TYPE_CHECKING, Final, NamedTuple

from llmhub.core.pricing import Price, Rates
from llmhub.formatting.numbers import format_range, format_usd

if TYPE_CHECKING:
    from llmhub.engine.limits import Limit
    from llmhub.tables.plan import ModelPlan

T_975: Final = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip
"""The 97.5 % quantile of Student's t distribution for 1 to 30 degrees of freedom."""
MIN_RELATIVE_STD: Final = 0.03
"""Lower bound of the standard deviation relative to the mean, for samples whose values happen to be equal."""
MIN_RELATIVE_ERROR: Final = 0.025
"""Lower bound of the half width relative to the forecast, for regressions whose points happen to be on a line."""


@dataclass(frozen=True, slots=True)
class PredictionInterval:
    """An expected value and the bounds of its 95 % prediction interval.

    Examples
    --------
    >>> 3 in PredictionInterval(1, 2, 4), 5 in PredictionInterval(1, 2, 4)
    (True, False)
    """

    low: float
    expected: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Return whether a value is within the bounds."""
        return self.low <= value <= self.high

    def __add__(self, other: PredictionInterval) -> PredictionInterval:
        """Return the interval of the sum; conservative, since both widths are added."""
        return PredictionInterval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def scale(self, factor: float) -> PredictionInterval:
        """Return the interval of a multiple."""
        return PredictionInterval(self.low * factor, self.expected * factor, self.high * factor)


ZERO_INTERVAL: Final = PredictionInterval(0, 0, 0)


@dataclass(frozen=True, slots=True)
class CostInterval:
    """A prediction interval in US dollars, exact.

    Examples
    --------
    >>> Decimal("0.5") in CostInterval(Decimal(0), Decimal("0.4"), Decimal(1))
    True
    """

    low: Decimal
    expected: Decimal
    high: Decimal

    def __contains__(self, value: Decimal) -> bool:
        """Return whether an amount is within the bounds."""
        return self.low <= value <= self.high

    def __add__(self, other: CostInterval) -> CostInterval:
        """Return the interval of the sum; conservative, since both widths are added."""
        return CostInterval(self.low + other.low, self.expected + other.expected, self.high + other.high)


def format_count_interval(interval: PredictionInterval) -> str:
    """Format the bounds of a count.

    Examples
    --------
    >>> format_count_interval(PredictionInterval(90, 100, 1100)), format_count_interval(PredictionInterval(5, 5, 5))
    ('90..1,100', '5')
    """
    return format_range(f"{round(interval.low):,}", f"{round(interval.high):,}")


def format_usd_interval(interval: CostInterval | None) -> str:
    """Format the bounds of a cost in US dollars, without a symbol.

    Examples
    --------
    >>> format_usd_interval(CostInterval(Decimal("0.00012"), Decimal("0.0002"), Decimal("0.0004")))
    '0.000120..0.000400'
    >>> format_usd_interval(None)
    'unknown'
    """
    if interval is None:
        return "unknown"
    return format_range(format_usd(interval.low, symbol=""), format_usd(interval.high, symbol=""))


def format_expected_count(interval: PredictionInterval) -> str:
    """Format an expected count, and its interval unless that is a point.

    Examples
    --------
    >>> format_expected_count(PredictionInterval(90, 100, 1100)), format_expected_count(PredictionInterval(5, 5, 5))
    ('100 (90..1,100)', '5')
    """
    return _with_interval(f"{round(interval.expected):,}", format_count_interval(interval))


def format_expected_usd(interval: CostInterval | None) -> str:
    """Format an expected cost in US dollars without a symbol, and its interval unless that is a point.

    Examples
    --------
    >>> format_expected_usd(CostInterval(Decimal("0.00012"), Decimal("0.0002"), Decimal("0.0004")))
    '0.000200 (0.000120..0.000400)'
    """
    if interval is None:
        return format_usd_interval(None)
    return _with_interval(format_usd(interval.expected, symbol=""), format_usd_interval(interval))


def _with_interval(expected: str, interval: str) -> str:
    return expected if interval == expected else f"{expected} ({interval})"


# Sums of further values


class Observation(NamedTuple):
    """One response: the tokens counted here for its prompt, and what the provider reported."""

    counted_tokens: int
    input_tokens: int | None
    output_tokens: int | None
    latency_s: float | None


def mean_std_t(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, standard deviation and Student's t of a sample; for a single value, the deviation is the mean."""
    mean = fmean(values)
    deviation = stdev(values) if len(values) > 1 else mean
    return mean, max(deviation, MIN_RELATIVE_STD * mean), _student_t(len(values) - 1)


def forecast_sum(values: Sequence[float], count: int) -> PredictionInterval:
    """Forecast the sum of ``count`` further values from a sample.

    Law: the interval contains the sum of ``count`` further draws about 19 of 20 times, unless the distribution is very
    skewed.

    Examples
    --------
    >>> forecast = forecast_sum([9.0, 11.0, 10.0, 10.0], 100)
    >>> round(forecast.low), round(forecast.expected), round(forecast.high)
    (868, 1000, 1132)
    """
    if not count:
        return ZERO_INTERVAL
    mean, deviation, t = mean_std_t(values)
    half_width = t * deviation * math.sqrt(count + count**2 / len(values))
    return PredictionInterval(max(count * mean - half_width, 0.0), count * mean, count * mean + half_width)


def forecast_by_regression(pairs: Sequence[tuple[float, float]], total_size: float, count: int) -> PredictionInterval:
    """Forecast the sum of ``count`` further values whose sizes add up to ``total_size``.

    A line is fitted to pairs of size and value, so that values have a constant and a proportional part.

    Examples
    --------
    >>> round(forecast_by_regression([(10, 12), (20, 22), (30, 32)], 1000, 50).expected)
    1100
    """
    if not count:
        return ZERO_INTERVAL
    n = len(pairs)
    mean_size, mean_value = fmean(size for size, _ in pairs), fmean(value for _, value in pairs)
    variation = sum((size - mean_size) ** 2 for size, _ in pairs)
    if n < 3 or variation < n * 1e-6:  # noqa: PLR2004 - two points fit any line; assume proportionality instead
        slope, variation, freedom = mean_value / max(mean_size, 1e-9), float("inf"), n - 1
    else:
        covariation = sum((size - mean_size) * (value - mean_value) for size, value in pairs)
        slope, freedom = covariation / variation, n - 2
    expected = max(0.0, count * mean_value + slope * (total_size - count * mean_size))
    squared_residuals = sum((value - mean_value - slope * (size - mean_size)) ** 2 for size, value in pairs)
    deviation = math.sqrt(squared_residuals / freedom) if freedom else mean_value
    spread = count + count**2 / n + (total_size - count * mean_size) ** 2 / variation
    half_width = max(_student_t(freedom) * deviation * math.sqrt(spread), MIN_RELATIVE_ERROR * expected)
    return PredictionInterval(max(expected - half_width, 0.0), expected, expected + half_width)


def _student_t(freedom: int) -> float:
    """Return Student's t for these degrees of freedom; 2 for none, where the table has no value."""
    return T_975[min(freedom, len(T_975)) - 1] if freedom else 2.0


def forecast_from_other_prompts(values: Sequence[float], count: int) -> PredictionInterval:
    """Forecast a sum from responses to other prompts: from all values like the lowest decile to all like the highest.

    The mean of other prompts may be biased, so the interval does not narrow with ``count``.
    """
    if len(values) < 2:  # noqa: PLR2004 - no deciles
        return PredictionInterval(count * values[0] / 4, count * values[0], count * values[0] * 4)
    deciles = quantiles(values, n=10, method="inclusive")
    mean = fmean(values)
    return PredictionInterval(count * min(deciles[0], mean), count * mean, count * max(deciles[-1], mean))


def clip(interval: PredictionInterval, upper: float | None) -> PredictionInterval:
    """Return the interval with its values limited to ``upper``, if given."""
    if upper is None:
        return interval
    return PredictionInterval(*(min(value, upper) for value in (interval.low, interval.expected, interval.high)))


# Conversations


class TurnForecast(NamedTuple):
    """Requests, input tokens and output tokens of conversations together."""

    requests: PredictionInterval
    input_tokens: PredictionInterval
    output_tokens: PredictionInterval


def forecast_turns(
    calls: int, max_turns: int, input_tokens: PredictionInterval, output_tokens: PredictionInterval
) -> TurnForecast:
    """Forecast conversations of which only the first turn can be estimated.

    Between one turn and ``max_turns``; expected are `ASSUMED_TURNS`. Each turn sends what was exchanged before again.

    Parameters
    ----------
    calls
        Number of conversations.
    max_turns
        Maximum number of turns.
    input_tokens, output_tokens
        Of all first turns together.

    Examples
    --------
    >>> point = PredictionInterval(100, 100, 100)
    >>> turns = forecast_turns(10, 5, point, point)
    >>> turns.requests.expected, turns.input_tokens.expected, turns.output_tokens.high
    (20, 940.0, 500)
    """
    expected = min(ASSUMED_TURNS, max_turns)

    def resent(turns: int, output: float) -> float:
        """Return the tokens of earlier responses and results that later turns send again."""
        return (output + ASSUMED_RESULT_TOKENS * calls) * turns * (turns - 1) / 2

    return TurnForecast(
        PredictionInterval(calls, expected * calls, max_turns * calls),
        PredictionInterval(
            input_tokens.low,
            expected * input_tokens.expected + resent(expected, output_tokens.expected),
            max_turns * input_tokens.high + resent(max_turns, output_tokens.high),
        ),
        PredictionInterval(output_tokens.low, expected * output_tokens.expected, max_turns * output_tokens.high),
    )


ASSUMED_TURNS: Final = 2
"""Turns of a conversation with tools that are assumed without a pilot: a call of a function, and the answer."""
ASSUMED_RESULT_TOKENS: Final = 64
"""Tokens of a function's result that are assumed without a pilot."""


# Cost


def forecast_cost(
    price: Price,
    requests: PredictionInterval,
    input_tokens: PredictionInterval,
    output_tokens: PredictionInterval,
    *,
    cached: bool,
) -> CostInterval:
    """Forecast the cost of requests.

    Parameters
    ----------
    price
        Price of the model; its tier is that of the expected input of one request.
    requests
        Number of requests.
    input_tokens, output_tokens
        Of all requests together.
    cached
        Whether the prompts may be read from or written to the provider's cache, at its rates.
    """
    rates = _rates_for(price, input_tokens.expected / requests.expected if requests.expected else 0.0)
    min_input_rate = min(rates.by_class[:3]) if cached else rates.input
    max_input_rate = max(rates.by_class[:3]) if cached else rates.input
    min_output_rate, max_output_rate = min(rates.by_class[3:]), max(rates.by_class[3:])
    low, expected, high = (
        price.request_usd * round(count) for count in (requests.low, requests.expected, requests.high)
    )
    return CostInterval(
        low + _token_cost(input_tokens.low, min_input_rate) + _token_cost(output_tokens.low, min_output_rate),
        expected + _token_cost(input_tokens.expected, rates.input) + _token_cost(output_tokens.expected, rates.output),
        high + _token_cost(input_tokens.high, max_input_rate) + _token_cost(output_tokens.high, max_output_rate),
    )


def _token_cost(tokens: float, rate: Decimal) -> Decimal:
    return Decimal(round(tokens)) * rate


def _rates_for(price: Price, input_tokens: float) -> Rates:
    """Return the rates of a request with this many input tokens."""
    reached = [tier for tier in price.tiers if input_tokens > tier.above]
    return max(reached, key=lambda tier: tier.above).rates if reached else price.rates


# Time


class RateDemand(NamedTuple):
    """A rate limit, and how much of it a run needs.

    ``per_minute`` is the limit; ``burst`` the share of it that may be used at once; ``demand`` the total needed, in the
    unit of the limit.
    """

    name: str
    per_minute: float
    burst: float
    demand: PredictionInterval


MIN_LIMIT_UTILIZATION: Final = 0.95
"""Share of a rate limit that a run uses at least."""
STARTUP_S: Final = 3.0
"""Allowance for the start and the end of a run."""
OVERHEAD_FACTOR: Final = 1.4
"""Allowance for opening connections and waiting for stragglers, as a factor."""


def forecast_minutes(
    work_s: PredictionInterval, longest_s: float, concurrency: int, demands: Iterable[RateDemand]
) -> tuple[PredictionInterval, str]:
    """Forecast how long a run takes, and name its bottleneck: the concurrency or a rate limit.

    Parameters
    ----------
    work_s
        Sum of the latencies of all calls.
    longest_s
        Longest latency of a single call.
    concurrency
        Number of concurrent calls.
    demands
        Rate limits with the demand for each.

    Examples
    --------
    >>> demand = RateDemand("openai: 60 requests a minute", 60, 0.01, PredictionInterval(600, 600, 600))
    >>> forecast, bottleneck = forecast_minutes(PredictionInterval(50, 60, 70), 1.0, 64, [demand])
    >>> round(forecast.expected), bottleneck
    (10, 'openai: 60 requests a minute')
    """
    if work_s.expected <= 0:
        return ZERO_INTERVAL, ""
    durations_s = {f"concurrency ({concurrency})": work_s.scale(1 / concurrency)}
    for demand in demands:
        amounts = (demand.demand.low, demand.demand.expected, demand.demand.high)
        durations_s[demand.name] = PredictionInterval(*(_rate_limited_s(amount, demand) for amount in amounts))
    bottleneck = max(durations_s, key=lambda name: durations_s[name].expected)
    low = max(duration.low for duration in durations_s.values())
    high = max(duration.high for duration in durations_s.values())
    high = high / MIN_LIMIT_UTILIZATION * OVERHEAD_FACTOR + longest_s + STARTUP_S
    expected = max(durations_s[bottleneck].expected, longest_s / 2)
    return PredictionInterval(min(low, expected) / 60, expected / 60, max(high, expected) / 60), bottleneck


def _rate_limited_s(amount: float, demand: RateDemand) -> float:
    """Return the seconds until a limit has admitted an amount."""
    at_once = max(1.0, demand.per_minute * demand.burst)
    return max(0.0, amount - at_once) / demand.per_minute * 60


RATE_LIMITS: Final[tuple[tuple[str, str, Callable[[ModelPlan], PredictionInterval]], ...]] = (
    ("rpm", "requests a minute", lambda model: model.requests),
    ("tpm", "tokens a minute", lambda model: model.input_tokens + model.output_tokens),
    ("input_tpm", "input tokens a minute", lambda model: model.input_tokens),
    ("output_tpm", "output tokens a minute", lambda model: model.output_tokens),
)
"""Fields of `llmhub.Limit`, their units, and a model's demand in that unit."""


def rate_demands(models: Sequence[ModelPlan], limits: Mapping[str, Limit]) -> list[RateDemand]:
    """Return the declared rate limits that apply to the models, each with their total demand."""
    demands = []
    for name, limit in limits.items():
        limited = [model for model in models if model.model == name or model.model.partition("/")[0] == name]
        for rate, unit, demand_of in RATE_LIMITS:
            per_minute = getattr(limit, rate, None)
            if per_minute is not None and limited:
                demand = sum((demand_of(model) for model in limited), ZERO_INTERVAL)
                demands.append(RateDemand(f"{name}: {per_minute:,.0f} {unit}", per_minute, limit.burst, demand))
    return demands
