from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.pricing import Price, PriceTier, Rates, compute_cost
from llmhub.core.types import Usage
from llmhub.tables.forecast import (
    CostInterval,
    PredictionInterval,
    RateDemand,
    clip,
    forecast_by_regression,
    forecast_cost,
    forecast_from_other_prompts,
    forecast_minutes,
    forecast_sum,
)

counts = st.integers(0, 10_000)
values = st.lists(st.floats(0, 1e4), min_size=1, max_size=40)
RUNS = 300
"""Number of simulated forecasts."""

Draw = Callable[[random.Random], float]
SHAPES: dict[str, Draw] = {
    "normal": lambda draw: max(0.0, draw.gauss(100, 20)),
    "flat": lambda draw: draw.uniform(10, 300),
    "skewed": lambda draw: draw.lognormvariate(4.5, 0.5),
    "two kinds": lambda draw: 20.0 if draw.random() < 0.5 else 200.0,
    "all alike": lambda draw: 64.0,
    "mostly cut": lambda draw: min(64.0, draw.lognormvariate(4.0, 0.5)),
}


def coverage(trial: Callable[[random.Random], bool]) -> float:
    draw = random.Random(11)
    return sum(trial(draw) for _ in range(RUNS)) / RUNS


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize(("sample", "count"), [(8, 50), (20, 500), (20, 10), (100, 400)])
def test_sum_interval_covers_95_percent(shape: str, sample: int, count: int) -> None:
    draw_value = SHAPES[shape]

    def trial(draw: random.Random) -> bool:
        forecast = forecast_sum([draw_value(draw) for _ in range(sample)], count)
        return sum(draw_value(draw) for _ in range(count)) in forecast

    # Small samples of a skewed distribution underestimate its variance.
    assert coverage(trial) >= (0.87 if shape == "skewed" and sample < 20 else 0.92)


def test_intervals_are_not_too_wide() -> None:
    draw = random.Random(5)
    forecast = forecast_sum([draw.gauss(100, 20) for _ in range(20)], 1000)
    assert forecast.high - forecast.low < 0.25 * forecast.expected


def test_ratio_interval_covers_95_percent() -> None:
    def question(draw: random.Random) -> tuple[float, float]:
        known = draw.uniform(20, 400)
        return known, 7 + known * draw.gauss(1.15, 0.1)

    def trial(draw: random.Random) -> bool:
        pairs = [question(draw) for _ in range(20)]
        rest = [question(draw) for _ in range(300)]
        return sum(value for _, value in rest) in forecast_by_regression(pairs, sum(known for known, _ in rest), 300)

    assert coverage(trial) >= 0.92


@given(values, counts)
def test_intervals_are_ordered_and_grow_with_the_total(sample: list[float], count: int) -> None:
    for forecast in (forecast_sum, forecast_from_other_prompts):
        some, more = forecast(sample, count), forecast(sample, count + 1)
        assert 0 <= some.low <= some.expected <= some.high
        assert some.expected <= more.expected
        assert some.high <= more.high
    assert forecast_sum(sample, 0) == PredictionInterval(0, 0, 0)
    cut = clip(forecast_sum(sample, count), 100.0)
    assert cut.low <= cut.expected <= cut.high <= 100


# Money

rates = st.decimals(0, "1e-4", places=9)
plain = st.builds(Rates, input=rates, output=rates, cached_input=st.none() | rates)


def point(value: float) -> PredictionInterval:
    return PredictionInterval(value, value, value)


@given(plain, st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 800)), min_size=1, max_size=30), st.booleans())
def test_cost_interval_is_the_cost_of_the_token_interval(
    each: Rates, calls: list[tuple[int, int]], cached: bool
) -> None:
    price = Price(price_id="x@y", source="x", rates=each, request_usd=Decimal("0.001"))
    inputs, outputs = (sum(call[side] for call in calls) for side in (0, 1))
    forecast = forecast_cost(
        price,
        point(len(calls)),
        point(inputs),
        point(outputs),
        cached=cached,
    )
    paid = [
        compute_cost(
            Usage(input_tokens=first, output_tokens=second, cached_input_tokens=first // 2 if cached else None), price
        )
        for first, second in calls
    ]
    assert sum(cost for cost in paid if cost is not None) in forecast
    assert forecast.low <= forecast.high


def test_price_tier_applies_per_call() -> None:
    dear = PriceTier(200_000, Rates(input=Decimal(2), output=Decimal(2)))
    price = Price(price_id="x@y", source="x", rates=Rates(input=Decimal(1), output=Decimal(1)), tiers=(dear,))
    short = point(300_000)
    assert forecast_cost(price, point(100), short, point(0), cached=False).expected == 300_000
    assert forecast_cost(price, point(1), short, point(0), cached=False).expected == 600_000


def test_money_is_additive() -> None:
    interval = CostInterval(Decimal(1), Decimal(2), Decimal(3))
    assert interval + interval == CostInterval(Decimal(2), Decimal(4), Decimal(6))
    assert Decimal("2.5") in interval
    assert Decimal("3.1") not in interval


# Time


def duration_s(latencies_s: Sequence[float], concurrency: int, rpm: float | None) -> float:
    """Return the seconds that calls take with limited concurrency and rate."""
    free, end_s = [0.0] * concurrency, 0.0
    for index, latency_s in enumerate(latencies_s):
        permitted = 0.0 if rpm is None else max(0.0, (index - rpm * 0.01)) / (rpm * 0.99) * 60
        begun = max(heapq.heappop(free), permitted)
        end_s = max(end_s, begun + latency_s)
        heapq.heappush(free, begun + latency_s)
    return end_s


@pytest.mark.parametrize(("concurrency", "rpm"), [(1, None), (16, None), (64, None), (64, 600.0), (256, 60.0)])
@pytest.mark.parametrize("shape", ["normal", "skewed", "two kinds"])
def test_duration_is_within_its_interval(shape: str, concurrency: int, rpm: float | None) -> None:
    draw_value = SHAPES[shape]

    def trial(draw: random.Random) -> bool:
        sample = [draw_value(draw) / 100 for _ in range(20)]
        needed = PredictionInterval(300, 300, 300)
        paces = [] if rpm is None else [RateDemand("openai: so many requests a minute", rpm, 0.01, needed)]
        forecast, binds = forecast_minutes(forecast_sum(sample, 300), max(sample), concurrency, paces)
        assert binds == (f"concurrency ({concurrency})" if rpm is None else paces[0].name)
        actual = duration_s([draw_value(draw) / 100 for _ in range(300)], concurrency, rpm)
        return actual / 60 in forecast

    draw = random.Random(3)
    assert sum(trial(draw) for _ in range(60)) >= 54


def test_no_calls_take_no_time() -> None:
    assert forecast_minutes(PredictionInterval(0, 0, 0), 0.0, 64, []) == (PredictionInterval(0, 0, 0), "")
