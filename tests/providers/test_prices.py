"""Prices are found in the table of genai-prices under the names that llmhub and the providers use."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data import providers as table

from llmhub.core.pricing import Price, Rates, compute_cost
from llmhub.core.types import Usage
from llmhub.providers.prices import find_price, find_served_price, listed_models
from llmhub.providers.registry import ENTRIES

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
LISTINGS = {name: entry.price_listing for name, entry in ENTRIES.items() if entry.price_listing}
MTOK = Decimal("1e-6")


def price_of(model: str, provider: str = "openai", at: datetime = AT) -> Price:
    price = find_price(provider, model, at)
    assert price is not None
    return price


def test_price_names_its_source_and_date() -> None:
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
        ("avian", "deepseek/deepseek-v3.2", "0.23"),
        ("github-models", "openai/gpt-4o-mini", "0.15"),
        ("sambanova", "Meta-Llama-3.3-70B-Instruct", "0.6"),
        ("watsonx", "openai/gpt-oss-120b", "0.159"),
        ("alibaba", "qwen-plus", "0.4"),
    ],
)
def test_models_are_found_by_their_names_at_the_provider(provider: str, model: str, input_rate: str) -> None:
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
        ("openai", "whisper-1"),
    ],
)
def test_unknown_price_is_none_and_not_zero(provider: str, model: str) -> None:
    assert find_price(provider, model, AT) is None


def test_published_prices_name_their_source_and_have_tiers() -> None:
    price = price_of("qwen-plus-latest", "alibaba")
    assert (price.price_id, price.source) == ("llmhub:alibaba/qwen-plus-latest@2026-11-30", "llmhub 2026-11-30")
    assert price.rates.reasoning == 4 * MTOK
    assert [(tier.above, tier.rates.input) for tier in price.tiers] == [(256_000, Decimal("1.2") * MTOK)]
    assert find_price("github-models", "deepseek/DeepSeek-V3-0324", AT) is None
    listed = {(row.provider, row.model) for row in listed_models(["sambanova"], AT)}
    assert ("sambanova", "gpt-oss-120b") in listed


def test_price_depends_on_the_date() -> None:
    old = price_of("mistral-small-latest", "mistral", datetime(2020, 1, 1, tzinfo=UTC))
    assert old.rates != price_of("mistral-small-latest", "mistral").rates
    assert old.price_id.endswith("@2020-01-01")


def test_price_id_has_the_hour_where_the_price_depends_on_it() -> None:
    peak, off_peak = (
        price_of("deepseek-v4-pro", "deepseek", datetime(2026, 11, 22, hour, tzinfo=UTC)) for hour in (2, 5)
    )
    assert peak.rates.input > off_peak.rates.input
    assert peak.price_id.endswith("@2026-11-22T02:00Z")


def test_time_is_converted_to_utc() -> None:
    local = datetime(2026, 11, 22, 11, tzinfo=timezone(timedelta(hours=9)))
    assert price_of("deepseek-v4-pro", "deepseek", local).price_id.endswith("@2026-11-22T02:00Z")
    naive = AT.replace(tzinfo=None)
    assert price_of("gpt-4o", "openai", naive) == price_of("gpt-4o")


def test_tiers_are_converted() -> None:
    price = price_of("gemini-2.5-pro", "google")
    assert [tier.above for tier in price.tiers] == [200_000]
    assert price.tiers[0].rates.input > price.rates.input


def test_served_model_is_priced() -> None:
    assert find_served_price("azure", "gpt-4o", "gpt-4o-mini-2024-07-18", AT) == price_of("gpt-4o-mini", "azure")
    assert find_served_price("openai", "gpt-4o", "gpt-4o-served-under-a-new-name", AT) == price_of("gpt-4o")
    assert find_served_price("openai", "gpt-4o", "", AT) == price_of("gpt-4o")
    assert find_served_price("azure", "my-deployment", "unheard-of", AT) is None


def test_no_connection_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the price look-up opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert price_of("gpt-4o").rates.input == Decimal("2.5e-6")


def test_every_listing_is_in_the_table() -> None:
    assert {listing.provider_id for listing in LISTINGS.values() if listing.sheet is None} <= {row.id for row in table}


@pytest.mark.parametrize(
    # The fees of Perplexity depend on the search context, which the table does not have.
    "provider",
    [
        name
        for name, listing in LISTINGS.items()
        if listing.sheet is None and name not in {"openai-responses", "vertex", "perplexity", "vercel", "github-models"}
    ],
)
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
            service_tier="text",  # without an image, of a model that makes images
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


def test_gateway_models_have_the_price_of_their_provider() -> None:
    gateway, own = (
        find_price("vercel", "anthropic/claude-haiku-4-5", AT),
        find_price("anthropic", "claude-haiku-4-5", AT),
    )
    assert gateway is not None
    assert gateway == own
    assert find_price("vercel", "nobody/claude-haiku-4-5", AT) is None


@pytest.mark.parametrize(
    ("provider", "model", "per_million"),
    [
        ("openai", "text-embedding-3-small", "0.02"),
        ("google", "gemini-embedding-001", "0.15"),
        ("voyage", "voyage-3.5", "0.06"),
        ("bedrock", "amazon.titan-embed-text-v2:0", "0.02"),
        ("bedrock", "cohere.embed-english-v3", "0.1"),
        ("cohere", "embed-english-light-v3.0", "0.1"),
        ("cohere", "embed-v4.0", "0.12"),
        ("perplexity", "pplx-embed-v1-0.6b", "0.004"),
    ],
)
def test_embeddings_cost_their_input_alone(provider: str, model: str, per_million: str) -> None:
    usage = Usage(input_tokens=10**6, output_tokens=0)
    assert compute_cost(usage, price_of(model, provider)) == Decimal(per_million)


def test_a_model_without_a_price_of_its_output_is_priced_only_if_it_has_none() -> None:
    assert find_price("azure", "davinci", AT) is None
