"""Look-up of prices in the table of genai-prices.

The table is the one bundled with genai-prices (https://github.com/pydantic/genai-prices, read 2026-11-22): nothing is
downloaded. Prices that it lacks are in the vendors' files. What a provider bills besides tokens and requests (audio,
searches, images that a tool made) is in `Usage.billed_units` where a reply counts it; sessions of code and storage are
in no usage and in no cost, unless the provider reports the cost itself. Searches of Gemini, of which some are free, are
counted without a price.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from llmhub.core.pricing import MIN_RATE, Price, PriceTier, Rates, audio_units
from llmhub.providers.registry import price_listing

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

    from llmhub.providers.vendor import PriceListing

PRICE_FIELDS: Final[Mapping[str, str]] = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
}
"""The table's field for each class of tokens, in USD per million tokens."""


AUDIO_FIELDS: Final[Mapping[str, str]] = {
    "input_usd": "input_audio_mtok",
    "cached_usd": "cache_audio_read_mtok",
    "output_usd": "output_audio_mtok",
}
"""The table's field for each rate of audio (see `audio_units`), in USD per million tokens."""
THOUSANDS: Final[Mapping[str, str]] = {
    "web_search:requests": "web_searches_kcount",
    "file_search:requests": "storage_searches_kcount",
}
"""The table's field for each billed unit that is priced by the thousand."""
SECONDS_PER_HOUR: Final = 3600


def find_price(provider: str, model: str, when: datetime) -> Price | None:
    """Return the price of ``model`` at ``provider`` at the time ``when`` (UTC if it has no time zone).

    ``None`` where the table does not know the model, or has no price per token for its input and output: an unknown
    price is never zero. The first call loads the table (half a second); look a price up once for many calls.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> price = find_price("openai", "gpt-4o-mini-2024-07-18", datetime(2026, 11, 22, tzinfo=UTC))
    >>> price.rates.input, price.price_id
    (Decimal('1.5E-7'), 'genai-prices-...:openai/gpt-4o-mini@2026-11-22')
    >>> find_price("openai", "no-such-model", datetime(2026, 11, 22, tzinfo=UTC)) is None
    True
    """
    return find_listed_price(price_listing(provider), model, when)


def find_served_price(provider: str, model: str, served_model: str, when: datetime) -> Price | None:
    """Return the price of ``served_model``, or of the requested ``model`` where the table does not know that one.

    A deployment or an alias has a name of its own; it costs what the model behind it costs.
    """
    return (find_price(provider, served_model, when) if served_model else None) or find_price(provider, model, when)


def find_listed_price(listing: PriceListing, model: str, when: datetime) -> Price | None:
    """Return the price of ``model`` at the provider of ``listing``; see `find_price`."""
    import genai_prices  # noqa: PLC0415 - half a second that only a caller who asks for prices pays
    from genai_prices.data import providers  # noqa: PLC0415 - as above

    provider_id = listing.provider_id if listing.upstream is None else listing.upstream.get(model.partition("/")[0])
    provider = next((row for row in providers if row.id == provider_id), None)
    entry = provider.find_model(listing.model_name(model), all_providers=providers) if provider else None
    if provider is None or entry is None:
        published = listing.sheet.price(listing.provider_id, listing.model_name(model)) if listing.sheet else None
        return published or _price_of_embeddings(listing, model)
    utc = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    listed = entry.get_prices(utc)
    if listed.input_mtok is None or (listed.output_mtok is None and not is_embedding_model(entry.id)):
        return None
    request = listed.requests_kcount
    starts = sorted({tier.start for name in PRICE_FIELDS if (tiered := _tiered(listed, name)) for tier in tiered.tiers})
    price = Price(
        price_id=f"genai-prices-{genai_prices.__version__}:{provider.id}/{entry.id}@{_timestamp(entry, utc)}",
        source=f"genai-prices {genai_prices.__version__}",
        rates=_rates(listed, 0),
        tiers=tuple(PriceTier(start, _rates(listed, start + 1)) for start in starts),
        request_usd=request.scaleb(-3) if isinstance(request, Decimal) else Decimal(0),
        units=_unit_prices(listed),
    )
    per_image_token = getattr(listed, "output_image_mtok", None)
    if isinstance(per_image_token, Decimal):
        price = _price_of_images(price, per_image_token.scaleb(-6))
    return listing.adjust(entry.id, price) if listing.adjust else price


BILLED_IN_CREDITS: Final[Mapping[str, str]] = {
    "nvidia": "https://docs.api.nvidia.com/nim/reference/llm-apis",
    "snowflake": "https://www.snowflake.com/legal-files/CreditConsumptionTable.pdf",
}
"""Providers that bill credits, whose price in USD depends on the account's contract, and where it says so.

Read 2026-11-30.
"""


def unpriced_id(provider: str) -> str | None:
    """Return what stands in place of a price's id where the provider bills no USD.

    Examples
    --------
    >>> unpriced_id("snowflake"), unpriced_id("openai")
    ('credits:snowflake', None)
    """
    return f"credits:{provider}" if provider in BILLED_IN_CREDITS else None


def _unit_prices(listed: ModelPrice) -> dict[str, Decimal]:
    """Return the prices of billed units: of audio, what its tokens cost more than those of text."""
    audio = {name: getattr(listed, field, None) for name, field in AUDIO_FIELDS.items()}
    per_token = {name: usd.scaleb(-6) for name, usd in audio.items() if isinstance(usd, Decimal)}
    units = audio_units(_rates(listed, 0), **per_token)
    for unit, field in THOUSANDS.items():
        usd = getattr(listed, field, None)
        if isinstance(usd, Decimal):
            units[unit] = usd.scaleb(-3)
    citation = getattr(listed, "output_citation_mtok", None)
    if isinstance(citation, Decimal):
        units["citation:tokens"] = citation.scaleb(-6)
    hour = getattr(listed, "input_audio_hours", None)
    if isinstance(hour, Decimal):
        units["audio:seconds"] = (hour / SECONDS_PER_HOUR).quantize(MIN_RATE).normalize()
    return units


def _price_of_images(price: Price, usd: Decimal) -> Price:
    """Return the price of a model whose output is images: a few words beside one are billed like it.

    Reasoning, and a response without an image (`Usage.service_tier` is then ``text``), have the rate of text.
    """

    def of_images(rates: Rates) -> Rates:
        return replace(rates, output=usd, reasoning=rates.output if rates.reasoning is None else rates.reasoning)

    return replace(
        price,
        price_id=f"{price.price_id}#image",
        rates=of_images(price.rates),
        tiers=tuple(replace(tier, rates=of_images(tier.rates)) for tier in price.tiers),
        service_tiers={"text": price},
    )


EMBEDDING_NAMES: Final = re.compile(r"embed|(^|[-/.])(bge|gte|e5|voyage|minilm)([-.]|$)", re.IGNORECASE)
"""What the names of models that only embed have in them; they have no output, and so no price of one."""

EMBEDDING_PRICES: Final[tuple[tuple[str, re.Pattern[str], str], ...]] = (
    ("cohere", re.compile(r"embed-(english|multilingual)(-light)?-v3\.0$"), "0.1"),
    ("aws", re.compile(r"cohere\.embed-(english|multilingual)-v3"), "0.1"),
    ("aws", re.compile(r"cohere\.embed-v4"), "0.12"),
    ("fireworks", re.compile(r"nomic-embed-text|gte-(base|large)$"), "0.008"),
)
"""Embeddings that the table does not have: its id of the provider, the model, and USD per million tokens.

Sources: https://cohere.com/pricing, https://aws.amazon.com/bedrock/pricing/, https://fireworks.ai/pricing
(read 2026-11-30).
"""
EMBEDDING_PRICES_DATE: Final = "2026-11-30"


def is_embedding_model(model: str) -> bool:
    """Return whether a model's name is one of an embedding model.

    Examples
    --------
    >>> [is_embedding_model(name) for name in ("text-embedding-3-small", "@cf/baai/bge-m3", "gpt-4o", "davinci")]
    [True, True, False, False]
    """
    return EMBEDDING_NAMES.search(model) is not None


def _price_of_embeddings(listing: PriceListing, model: str) -> Price | None:
    """Return the price of an embedding model that the table of genai-prices lacks."""
    per_million = next(
        (
            usd
            for provider_id, pattern, usd in EMBEDDING_PRICES
            if provider_id == listing.provider_id and pattern.search(model)
        ),
        None,
    )
    if per_million is None:
        return None
    return Price(
        price_id=f"llmhub:{listing.provider_id}/{listing.model_name(model)}@{EMBEDDING_PRICES_DATE}",
        source=f"llmhub {EMBEDDING_PRICES_DATE}",
        rates=Rates(input=Decimal(per_million).scaleb(-6), output=Decimal(0)),
    )


class ListedModel(NamedTuple):
    """A model of the price table: its name at the provider, context window in tokens, and US dollars per token."""

    provider: str
    model: str
    context_window: int | None
    input_usd: Decimal
    output_usd: Decimal


def listed_models(providers: Iterable[str], when: datetime) -> list[ListedModel]:
    """Return the models of some providers that the price table lists at the time ``when``, in its order."""
    from genai_prices.data import providers as table  # noqa: PLC0415 - half a second, as in `find_listed_price`

    rows = {row.id: row for row in table}
    listed = []
    for name in providers:
        listing = price_listing(name)
        row = rows.get(listing.provider_id)
        entries = [entry for entry in row.models if not getattr(entry, "deprecated", False)] if row is not None else []
        windows = {entry.id: entry.context_window for entry in entries}
        for model in (*windows, *(listing.sheet.rates if listing.sheet is not None else ())):
            price = find_price(name, model, when)
            if price is not None:
                rates = price.rates
                listed.append(ListedModel(name, model, windows.get(model), rates.input, rates.output))
    return listed


def provider_of_model(model: str, providers: Iterable[str]) -> str:
    """Return the provider that makes a model, by the price table; empty if none of ``providers`` lists it.

    Examples
    --------
    >>> provider_of_model("claude-haiku-4-5", ["openai", "anthropic", "bedrock"])
    'anthropic'
    >>> provider_of_model("no-such-model", ["openai"])
    ''
    """
    from genai_prices.data import providers as table  # noqa: PLC0415 - as above

    rows = {row.id: row for row in table}
    listed = [(name, row) for name in providers if (row := rows.get(price_listing(name).provider_id)) is not None]
    for name, row in listed:  # the makers of models come before those who host them
        if row.model_match is not None and row.model_match.is_match(model):
            return name
    return next((name for name, row in listed if any(entry.match.is_match(model) for entry in row.models)), "")


def _tiered(listed: ModelPrice, token_class: str) -> TieredPrices | None:
    """Return the tiers of a class of tokens, if it has any."""
    rate = getattr(listed, PRICE_FIELDS[token_class], None)
    return None if rate is None or isinstance(rate, Decimal) else rate


def _rates(listed: ModelPrice, input_tokens: int) -> Rates:
    """Return the rates per token of a request with ``input_tokens``."""

    def rate(token_class: str) -> Decimal | None:
        tiered = _tiered(listed, token_class)
        if tiered is None:
            per_million: Decimal | None = getattr(listed, PRICE_FIELDS[token_class], None)
        else:
            reached = [tier.price for tier in tiered.tiers if input_tokens > tier.start]
            per_million = reached[-1] if reached else tiered.base
        return None if per_million is None else per_million.scaleb(-6)

    return Rates(
        input=rate("input") or Decimal(0),
        output=rate("output") or Decimal(0),
        cached_input=rate("cached_input"),
        cache_write=rate("cache_write"),
        reasoning=rate("reasoning"),
        cache_write_1h=rate("cache_write_1h"),
    )


def _timestamp(entry: ModelInfo, utc: datetime) -> str:
    """Return the day, and the time too where the price depends on it."""
    choices = entry.prices if isinstance(entry.prices, list) else []
    hourly = any(hasattr(choice.constraint, "start_time") for choice in choices)
    return f"{utc:%Y-%m-%dT%H:%MZ}" if hourly else f"{utc:%Y-%m-%d}"
