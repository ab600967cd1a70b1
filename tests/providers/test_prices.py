from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import genai_prices
import pytest
from genai_prices.data import providers as table
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.pricing import Price, PriceTier, Rates, compute_cost, compute_cost_nano_usd
from llmhub.core.types import Usage
from llmhub.providers.prices import find_price, find_served_price
from llmhub.providers.registry import ENTRIES

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
LISTINGS = {name: entry.price_listing for name, entry in ENTRIES.items() if entry.price_listing}
MTOK = Decimal("1e-6")


def price_of(model: str, provider: str = "openai", at: datetime = AT) -> Price:
    price = find_price(provider, model, at)
    assert price is not None
    return price


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
counts = st.integers(0, 10**7)


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
    return Usage(**{name: getattr(a, name) + getattr(b, name) for name in Usage.__slots__})


class TestCost:
    def test_each_class_is_billed_once_at_its_own_rate(self) -> None:
        usage = Usage(input_tokens=100, output_tokens=10, cached_input_tokens=40, cache_write_tokens=20)
        assert compute_cost(usage, SIMPLE) == (40 * 3 + 40 * Decimal("0.3") + 20 * Decimal("3.75") + 10 * 15) * MTOK

    def test_reasoning_is_part_of_the_output_unless_it_has_a_rate(self) -> None:
        usage = Usage(input_tokens=0, output_tokens=10, reasoning_tokens=4)
        with_reasoning_rate = Price(
            price_id="p", source="s", rates=Rates(input=MTOK, output=8 * MTOK, reasoning=3 * MTOK)
        )
        assert compute_cost(usage, SIMPLE) == 150 * MTOK
        assert compute_cost(usage, with_reasoning_rate) == (6 * 8 + 4 * 3) * MTOK

    def test_a_class_without_a_rate_is_billed_as_input(self) -> None:
        without_cache_rates = Price(price_id="p", source="s", rates=Rates(input=2 * MTOK, output=MTOK))
        usage = Usage(input_tokens=30, output_tokens=0, cached_input_tokens=10, cache_write_tokens=10)
        assert compute_cost(usage, without_cache_rates) == 60 * MTOK

    @pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=5), Usage(output_tokens=5)])
    def test_unknown_counts_have_no_cost(self, usage: Usage) -> None:
        assert compute_cost(usage, SIMPLE) is None
        assert compute_cost_nano_usd(usage, SIMPLE) is None

    def test_a_count_of_zero_costs_zero(self) -> None:
        assert compute_cost(Usage(input_tokens=0, output_tokens=0), SIMPLE) == 0

    def test_part_larger_than_its_total_never_gives_a_negative_cost(self) -> None:
        odd = Usage(input_tokens=10, output_tokens=5, cached_input_tokens=20, reasoning_tokens=9)
        assert compute_cost(odd, SIMPLE) == 20 * Decimal("0.3") * MTOK + 9 * 15 * MTOK

    @pytest.mark.parametrize(
        ("input_tokens", "rate"),
        [(0, "1.25"), (200_000, "1.25"), (200_001, "2.5"), (500_000, "2.5"), (500_001, "5")],
    )
    def test_tier_applies_above_its_threshold_to_all_tokens(self, input_tokens: int, rate: str) -> None:
        assert (
            compute_cost(Usage(input_tokens=input_tokens, output_tokens=0), TIERED)
            == input_tokens * Decimal(rate) * MTOK
        )

    def test_fee_per_request_is_added(self) -> None:
        fee = Price(price_id="p", source="s", rates=rates("1 1 1 1"), request_usd=Decimal("0.012"))
        assert compute_cost(Usage(input_tokens=1, output_tokens=1), fee) == Decimal("0.012002")

    def test_decimal_context_of_the_caller_does_not_round(self) -> None:
        usage = Usage(input_tokens=123_456_789, output_tokens=987_654_321)
        with localcontext() as context:
            context.prec = 3
            exact = compute_cost(usage, SIMPLE)
        assert exact == Decimal("15185.185182")

    @pytest.mark.parametrize("rate", ["-1", "NaN", "Infinity"])
    def test_rate_must_be_finite_and_not_negative(self, rate: str) -> None:
        with pytest.raises(ValueError, match="negative or no number"):
            Price(price_id="p", source="s", rates=Rates(input=Decimal(rate), output=MTOK))

    @given(usages(), usages())
    def test_cost_is_additive(self, a: Usage, b: Usage) -> None:
        parts = compute_cost(a, SIMPLE), compute_cost(b, SIMPLE)
        assert None not in parts
        assert compute_cost(add_usages(a, b), SIMPLE) == sum(part for part in parts if part is not None)

    @given(usages(200_000), usages(200_000))
    def test_cost_is_additive_within_a_tier(self, a: Usage, b: Usage) -> None:
        halves = [Usage(**{name: getattr(u, name) // 2 for name in Usage.__slots__}) for u in (a, b)]
        whole = compute_cost(add_usages(*halves), TIERED)
        assert whole == sum(part for half in halves if (part := compute_cost(half, TIERED)) is not None)

    @given(usages(), st.decimals(0, 100, places=12), st.decimals(0, 100, places=7))
    def test_nano_usd_are_the_cost_rounded_half_to_even(self, usage: Usage, input_rate: Decimal, made: Decimal) -> None:
        odd = Price(price_id="p", source="s", rates=Rates(input=input_rate * MTOK, output=made * MTOK))
        exact = compute_cost(usage, odd)
        assert exact is not None
        with localcontext() as context:
            context.prec = 60
            assert compute_cost_nano_usd(usage, odd) == int((exact * 10**9).to_integral_value(ROUND_HALF_EVEN))


class TestLookup:
    def test_price_names_its_source_and_date(self) -> None:
        price = price_of("gpt-4o-mini-2024-07-18")
        assert price.price_id == f"genai-prices-{genai_prices.__version__}:openai/gpt-4o-mini@2026-11-22"
        assert price.source == f"genai-prices {genai_prices.__version__}"
        assert price.rates == Rates(input=Decimal("1.5e-7"), output=Decimal("6e-7"), cached_input=Decimal("7.5e-8"))

    @pytest.mark.parametrize(
        ("provider", "model", "input_rate"),
        [
            ("azure", "gpt-4o-mini", "0.15"),
            ("anthropic", "claude-sonnet-4-5-20250929", "3"),
            ("vertex-anthropic", "claude-sonnet-4-5@20250929", "3"),
            ("google", "models/gemini-2.5-flash", "0.3"),
            ("vertex", "publishers/google/models/gemini-2.5-flash", "0.3"),
            ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
            ("bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", "3"),
            ("bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0", "3"),
            ("bedrock", "eu.amazon.nova-pro-v1:0", "0.8"),
            ("bedrock", "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
            ("bedrock", "arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-lite-v1:0", "0.06"),
            ("groq", "openai/gpt-oss-120b", "0.15"),
            ("openrouter", "anthropic/claude-sonnet-4.5", "3"),
            ("xai", "grok-4", "3"),
            ("openai-responses", "gpt-4o", "2.5"),
        ],
    )
    def test_models_are_found_by_their_names_at_the_provider(self, provider: str, model: str, input_rate: str) -> None:
        assert price_of(model, provider).rates.input == Decimal(input_rate) * MTOK

    @pytest.mark.parametrize(
        ("provider", "model"),
        [
            ("openai", "gpt-4o-nonsense"),
            ("openai", ""),
            ("azure", "my-deployment"),
            ("anthropic", "claude-nonsense"),
            ("bedrock", "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123"),
            ("compatible", "gpt-4o-mini"),
            ("ollama", "llama3"),
            ("vllm", "gpt-4o"),
            ("", "gpt-4o"),
            ("openrouter", "meta-llama/llama-3.3-70b-instruct:free"),
            ("openai", "text-embedding-3-small"),
            ("openai", "whisper-1"),
        ],
    )
    def test_unknown_price_is_none_and_not_zero(self, provider: str, model: str) -> None:
        assert find_price(provider, model, AT) is None

    def test_price_depends_on_the_date(self) -> None:
        old = price_of("mistral-small-latest", "mistral", datetime(2020, 1, 1, tzinfo=UTC))
        assert old.rates != price_of("mistral-small-latest", "mistral").rates
        assert old.price_id.endswith("@2020-01-01")

    def test_price_id_has_the_hour_where_the_price_depends_on_it(self) -> None:
        peak, off_peak = (
            price_of("deepseek-v4-pro", "deepseek", datetime(2026, 11, 22, hour, tzinfo=UTC)) for hour in (2, 5)
        )
        assert peak.rates.input > off_peak.rates.input
        assert peak.price_id.endswith("@2026-11-22T02:00Z")

    def test_time_is_converted_to_utc(self) -> None:
        local = datetime(2026, 11, 22, 11, tzinfo=timezone(timedelta(hours=9)))
        assert price_of("deepseek-v4-pro", "deepseek", local).price_id.endswith("@2026-11-22T02:00Z")
        naive = AT.replace(tzinfo=None)
        assert price_of("gpt-4o", "openai", naive) == price_of("gpt-4o")

    def test_tiers_are_converted(self) -> None:
        price = price_of("gemini-2.5-pro", "google")
        assert [tier.above for tier in price.tiers] == [200_000]
        assert price.tiers[0].rates.input > price.rates.input

    def test_served_model_is_priced(self) -> None:
        assert find_served_price("azure", "gpt-4o", "gpt-4o-mini-2024-07-18", AT) == price_of("gpt-4o-mini", "azure")
        assert find_served_price("openai", "gpt-4o", "gpt-4o-served-under-a-new-name", AT) == price_of("gpt-4o")
        assert find_served_price("openai", "gpt-4o", "", AT) == price_of("gpt-4o")
        assert find_served_price("azure", "my-deployment", "unheard-of", AT) is None

    def test_no_connection_is_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("the price look-up opened a connection")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        assert price_of("gpt-4o").rates.input == Decimal("2.5e-6")

    def test_every_listing_is_in_the_table(self) -> None:
        assert {listing.provider_id for listing in LISTINGS.values()} <= {row.id for row in table}


@pytest.mark.parametrize("provider", [name for name in LISTINGS if name not in {"openai-responses", "vertex"}])
def test_costs_equal_genai_prices_own_calculator(provider: str) -> None:
    row = next(row for row in table if row.id == LISTINGS[provider].provider_id)
    compared = 0
    for input_tokens in (1_000, 150_000, 900_000):
        usage = Usage(
            input_tokens=input_tokens,
            output_tokens=777,
            cached_input_tokens=input_tokens // 4,
            cache_write_tokens=input_tokens // 8,
            reasoning_tokens=77,
        )
        theirs = genai_prices.Usage(
            input_tokens=input_tokens,
            output_tokens=777,
            cache_read_tokens=input_tokens // 4,
            cache_write_tokens=input_tokens // 8,
            output_reasoning_tokens=77,
        )
        for model in row.models:
            names = [model.id, *re.findall("equals='(.+?)'", repr(model.match))]
            name = next((name for name in names if row.find_model(LISTINGS[provider].model_name(name)) is model), "")
            price = find_price(provider, name, AT)
            if price is None:
                continue
            expected = genai_prices.calc_price(theirs, name, provider_id=row.id, genai_request_timestamp=AT)
            exact = compute_cost(usage, price)
            assert exact is not None
            assert exact == pytest.approx(expected.total_price, abs=Decimal("1e-20")), name
            compared += 1
    assert compared > 0
