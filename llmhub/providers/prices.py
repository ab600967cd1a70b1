"""What models cost where: the price table, and how llmhub's names are found in it.

The prices are those bundled with genai-prices (https://github.com/pydantic/genai-prices, read 2026-11-22):
nothing is fetched. What a provider bills besides tokens and requests (web searches, storage) is in no usage
and in no cost. Of two prices for cache writes, the one for the shorter life is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from llmhub.core.pricing import Price, PriceTier, Rates, compute_cost, compute_cost_nano_usd

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

__all__ = [
    "PRICE_LISTINGS",
    "PriceListing",
    "Price",
    "Rates",
    "PriceTier",
    "compute_cost",
    "compute_cost_nano_usd",
    "find_price",
    "find_served_price",
]


def _whole(model: str) -> str:
    return model


def _last(model: str) -> str:
    """Take the model's name out of a resource name or ARN."""
    return model.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class PriceListing:
    """Where a provider stands in the price table, and how its models are named there."""

    id: str
    model_name: Callable[[str], str] = _whole


PRICE_LISTINGS: Final[Mapping[str, PriceListing]] = {
    "openai": PriceListing("openai"),
    "openai-responses": PriceListing("openai"),
    "azure": PriceListing("azure"),
    "azure-responses": PriceListing("azure"),
    "anthropic": PriceListing("anthropic"),
    "google": PriceListing("google", _last),
    "vertex": PriceListing("google", _last),
    "vertex-anthropic": PriceListing("google", _last),
    "bedrock": PriceListing("aws", _last),
    "groq": PriceListing("groq"),
    "mistral": PriceListing("mistral"),
    "deepseek": PriceListing("deepseek"),
    "together": PriceListing("together"),
    "openrouter": PriceListing("openrouter"),
    "fireworks": PriceListing("fireworks"),
    "xai": PriceListing("x-ai"),
    "cerebras": PriceListing("cerebras"),
    "perplexity": PriceListing("perplexity"),
    "databricks": PriceListing("databricks"),
}
"""Providers whose prices are public, by llmhub's names; another name is looked up as it is."""


def find_price(provider: str, model: str, at: datetime) -> Price | None:
    """Look up what ``model`` costs at ``provider`` at the moment ``at`` (UTC where it names no zone).

    ``None`` where the table does not know the model, or gives it no price a token for input and output:
    unknown is never zero. The first call loads the table (half a second); resolve a price once for many calls.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> found = find_price("openai", "gpt-4o-mini-2024-07-18", datetime(2026, 11, 22, tzinfo=UTC))
    >>> found.rates.input, found.price_id
    (Decimal('1.5E-7'), 'genai-prices-...:openai/gpt-4o-mini@2026-11-22')
    >>> find_price("openai", "no-such-model", datetime(2026, 11, 22, tzinfo=UTC)) is None
    True
    """
    import genai_prices  # noqa: PLC0415 - half a second that only a caller who asks for prices pays
    from genai_prices.data import providers  # noqa: PLC0415 - as above

    listing = PRICE_LISTINGS.get(provider) or PriceListing(provider)
    row = next((row for row in providers if row.id == listing.id), None)
    entry = row.find_model(listing.model_name(model), all_providers=providers) if row else None
    if row is None or entry is None:
        return None
    moment = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    said = entry.get_prices(moment)
    if said.input_mtok is None or said.output_mtok is None:
        return None
    request = said.requests_kcount
    starts = sorted({tier.start for name in PRICE_FIELDS if (tiered := _tiered(said, name)) for tier in tiered.tiers})
    return Price(
        price_id=f"genai-prices-{genai_prices.__version__}:{row.id}/{entry.id}@{_stamp(entry, moment)}",
        source=f"genai-prices {genai_prices.__version__}",
        rates=_rates(said, 0),
        tiers=tuple(PriceTier(start, _rates(said, start + 1)) for start in starts),
        request_usd=request.scaleb(-3) if isinstance(request, Decimal) else Decimal(0),
    )


def find_served_price(provider: str, model: str, served_model: str, at: datetime) -> Price | None:
    """Look up the price of the model that answered, or of the one asked for where the table does not know it.

    A deployment or an alias has a name of its own; what it served is what it costs.
    """
    return (find_price(provider, served_model, at) if served_model else None) or find_price(provider, model, at)


PRICE_FIELDS: Final[Mapping[str, str]] = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
}
"""The table's name of each class of tokens; its rates are USD for a million."""


def _tiered(said: ModelPrice, name: str) -> TieredPrices | None:
    """Give a class's tiers, if it has any."""
    rate = getattr(said, PRICE_FIELDS[name])
    return None if rate is None or isinstance(rate, Decimal) else rate


def _rates(said: ModelPrice, tokens: int) -> Rates:
    """Read the rates of a request with so many input tokens."""

    def rate(name: str) -> Decimal | None:
        tiered = _tiered(said, name)
        if tiered is None:
            found: Decimal | None = getattr(said, PRICE_FIELDS[name])
        else:
            reached = [tier.price for tier in tiered.tiers if tokens > tier.start]
            found = reached[-1] if reached else tiered.base
        return None if found is None else found.scaleb(-6)

    return Rates(
        input=rate("input") or Decimal(0),
        output=rate("output") or Decimal(0),
        cached_input=rate("cached_input"),
        cache_write=rate("cache_write"),
        reasoning=rate("reasoning"),
    )


def _stamp(entry: ModelInfo, moment: datetime) -> str:
    """Give the day, and the time too where the price depends on it."""
    choices = entry.prices if isinstance(entry.prices, list) else []
    hourly = any(hasattr(choice.constraint, "start_time") for choice in choices)
    return f"{moment:%Y-%m-%dT%H:%MZ}" if hourly else f"{moment:%Y-%m-%d}"
