"""Cost of a response from its token counts and the rates of a price."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.pricing import Price, PriceTier, Rates, audio_units, compute_cost, compute_cost_nano_usd
from llmhub.core.serialization import stored_usage, to_stored_response
from llmhub.core.types import TOKEN_CLASSES, CompletionResponse, Usage

MTOK = Decimal("1e-6")


def rates(text: str) -> Rates:
    input_rate, read_rate, write_rate, output_rate = (Decimal(part) * MTOK for part in text.split())
    return Rates(input=input_rate, output=output_rate, cached_input=read_rate, cache_write=write_rate)


SIMPLE = Price(price_id="t/simple@d", source="t", rates=rates("3 0.3 3.75 15"))
TIERED = Price(
    price_id="t/tiered@d",
    source="t",
    rates=rates("1.25 0.125 1.25 10"),
    tiers=(PriceTier(200_000, rates("2.5 0.25 2.5 15")), PriceTier(500_000, rates("5 0.5 5 30"))),
)


@st.composite
def usages(draw: st.DrawFn, max_tokens: int = 10**7) -> Usage:
    cached, written, uncached, reasoning, visible = (draw(st.integers(0, max_tokens // 5)) for _ in range(5))
    return Usage(
        input_tokens=cached + written + uncached,
        output_tokens=reasoning + visible,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
    )


def add_usages(a: Usage, b: Usage) -> Usage:
    return Usage(**{name: getattr(a, name) + getattr(b, name) for name in TOKEN_CLASSES})


def test_each_class_is_billed_once_at_its_own_rate() -> None:
    usage = Usage(input_tokens=100, output_tokens=10, cached_input_tokens=40, cache_write_tokens=20)
    assert compute_cost(usage, SIMPLE) == (40 * 3 + 40 * Decimal("0.3") + 20 * Decimal("3.75") + 10 * 15) * MTOK


def test_reasoning_is_part_of_the_output_unless_it_has_a_rate() -> None:
    usage = Usage(input_tokens=0, output_tokens=10, reasoning_tokens=4)
    with_reasoning_rate = Price(price_id="p", source="s", rates=Rates(input=MTOK, output=8 * MTOK, reasoning=3 * MTOK))
    assert compute_cost(usage, SIMPLE) == 150 * MTOK
    assert compute_cost(usage, with_reasoning_rate) == (6 * 8 + 4 * 3) * MTOK


def test_a_class_without_a_rate_is_billed_as_input() -> None:
    without_cache_rates = Price(price_id="p", source="s", rates=Rates(input=2 * MTOK, output=MTOK))
    usage = Usage(input_tokens=30, output_tokens=0, cached_input_tokens=10, cache_write_tokens=10)
    assert compute_cost(usage, without_cache_rates) == 60 * MTOK


@pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=5), Usage(output_tokens=5)])
def test_unknown_counts_have_no_cost(usage: Usage) -> None:
    assert compute_cost(usage, SIMPLE) is None
    assert compute_cost_nano_usd(usage, SIMPLE) is None


def test_a_count_of_zero_costs_zero() -> None:
    assert compute_cost(Usage(input_tokens=0, output_tokens=0), SIMPLE) == 0


def test_part_larger_than_its_total_never_gives_a_negative_cost() -> None:
    odd = Usage(input_tokens=10, output_tokens=5, cached_input_tokens=20, reasoning_tokens=9)
    assert compute_cost(odd, SIMPLE) == 20 * Decimal("0.3") * MTOK + 9 * 15 * MTOK


@pytest.mark.parametrize(
    ("input_tokens", "rate"),
    [(0, "1.25"), (200_000, "1.25"), (200_001, "2.5"), (500_000, "2.5"), (500_001, "5")],
)
def test_tier_applies_above_its_threshold_to_all_tokens(input_tokens: int, rate: str) -> None:
    assert (
        compute_cost(Usage(input_tokens=input_tokens, output_tokens=0), TIERED) == input_tokens * Decimal(rate) * MTOK
    )


def test_fee_per_request_is_added() -> None:
    fee = Price(price_id="p", source="s", rates=rates("1 1 1 1"), request_usd=Decimal("0.012"))
    assert compute_cost(Usage(input_tokens=1, output_tokens=1), fee) == Decimal("0.012002")


def test_decimal_context_of_the_caller_does_not_round() -> None:
    usage = Usage(input_tokens=123_456_789, output_tokens=987_654_321)
    with localcontext() as context:
        context.prec = 3
        exact = compute_cost(usage, SIMPLE)
    assert exact == Decimal("15185.185182")


@pytest.mark.parametrize("rate", ["-1", "NaN", "Infinity"])
def test_rate_must_be_finite_and_not_negative(rate: str) -> None:
    with pytest.raises(ValueError, match="must be finite and not negative"):
        Price(price_id="p", source="s", rates=Rates(input=Decimal(rate), output=MTOK))


@given(usages(), usages())
def test_cost_is_additive(a: Usage, b: Usage) -> None:
    parts = compute_cost(a, SIMPLE), compute_cost(b, SIMPLE)
    assert None not in parts
    assert compute_cost(add_usages(a, b), SIMPLE) == sum(part for part in parts if part is not None)


@given(usages(200_000), usages(200_000))
def test_cost_is_additive_within_a_tier(a: Usage, b: Usage) -> None:
    halves = [Usage(**{name: getattr(u, name) // 2 for name in TOKEN_CLASSES}) for u in (a, b)]
    total = compute_cost(add_usages(*halves), TIERED)
    assert total == sum(part for half in halves if (part := compute_cost(half, TIERED)) is not None)


@given(usages(), st.decimals(0, 100, places=12), st.decimals(0, 100, places=7))
def test_nano_usd_are_the_cost_rounded_half_to_even(usage: Usage, input_rate: Decimal, made: Decimal) -> None:
    odd = Price(price_id="p", source="s", rates=Rates(input=input_rate * MTOK, output=made * MTOK))
    exact = compute_cost(usage, odd)
    assert exact is not None
    with localcontext() as context:
        context.prec = 60
        assert compute_cost_nano_usd(usage, odd) == int((exact * 10**9).to_integral_value(ROUND_HALF_EVEN))


RICH = Price(
    price_id="rich",
    source="t",
    rates=Rates(
        input=Decimal(1),
        output=Decimal(3),
        cached_input=Decimal("0.5"),
        cache_write=Decimal(2),
        cache_write_1h=Decimal(5),
    ),
    units={"audio:input_tokens": Decimal(7), "web_search:requests": Decimal(11)},
    service_tiers={
        "flex": Price(price_id="flex", source="t", rates=Rates(input=Decimal("0.25"), output=Decimal("0.75")))
    },
)
DETAILS = st.fixed_dictionaries(
    {},
    optional={
        "cache_write_1h_tokens": st.none() | st.just(0) | st.integers(1, 100),
        "service_tier": st.sampled_from(["", "flex"]),
        "reported_cost_usd": st.none() | st.just(Decimal(0)) | st.just(Decimal(9)),
        "billed_units": st.sampled_from([(), (("web_search:requests", 2),), (("audio:input_tokens", 1),)]),
    },
)


@given(DETAILS)
def test_only_a_usage_with_billing_details_costs_other_than_its_token_counts(details: dict[str, Any]) -> None:
    counts = Usage(
        input_tokens=1000, output_tokens=10, cached_input_tokens=100, cache_write_tokens=200, reasoning_tokens=0
    )
    usage = replace(counts, **details)
    other = compute_cost(usage, RICH) != compute_cost(counts, RICH)
    assert other == usage.has_billing_details
    stored = to_stored_response(CompletionResponse(parts=(), usage=usage))
    assert stored_usage(stored).has_billing_details == usage.has_billing_details


@pytest.mark.parametrize("cached_usd", [None, Decimal(4)])
def test_audio_costs_its_own_rate_and_when_cached_that_of_other_audio_unless_it_has_one(
    cached_usd: Decimal | None,
) -> None:
    text = Rates(input=Decimal(1), output=Decimal(3), cached_input=Decimal("0.5"))
    units = audio_units(text, input_usd=Decimal(10), cached_usd=cached_usd, output_usd=Decimal(20))
    price = Price(price_id="audio", source="t", rates=text, units=units)
    fresh = Usage(input_tokens=1, output_tokens=0, billed_units=(("audio:input_tokens", 1),))
    cached = Usage(input_tokens=1, output_tokens=0, cached_input_tokens=1, billed_units=(("audio:cached_tokens", 1),))
    spoken = Usage(input_tokens=0, output_tokens=1, billed_units=(("audio:output_tokens", 1),))
    assert [compute_cost(usage, price) for usage in (fresh, cached, spoken)] == [10, cached_usd or 10, 20]
