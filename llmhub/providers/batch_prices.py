"""Prices of requests that are sent through a Batch API, as multiples of the prices of single requests.

The table is our own, because tables of prices list batch prices of some providers only. A row is priced by how it was
sent: OpenAI and Google report the service tier of a batch row as ``default`` and ``standard``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from llmhub.core.pricing import Price, PriceTier, Rates, scaled_price

BATCH_TIER: Final = "batch"
"""Service tier in the price ids of batch rows."""
HALF: Final = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class BatchPrice:
    """The price of batch rows of some models.

    Parameters
    ----------
    provider
        Name of the provider.
    models
        Matches the beginning of the models' names.
    factor
        Multiple of the price of a single request.
    source, read_on
        Where that is published, and when it was read.
    scales_cached
        Whether cached input is discounted too; otherwise it keeps the rate of single requests.
    """

    provider: str
    models: str
    factor: Fraction
    source: str
    read_on: str
    scales_cached: bool = True


_OPENAI: Final = "https://developers.openai.com/api/docs/guides/batch"
_AZURE: Final = "https://learn.microsoft.com/azure/foundry/openai/how-to/batch"
_READ: Final = "2026-11-29"

BATCH_PRICES: Final = (
    BatchPrice("openai", "", HALF, _OPENAI, _READ),
    BatchPrice("openai-responses", "", HALF, _OPENAI, _READ),
    BatchPrice("azure", "", HALF, _AZURE, _READ),
    BatchPrice("azure-responses", "", HALF, _AZURE, _READ),
    BatchPrice("anthropic", "", HALF, "https://platform.claude.com/docs/en/build-with-claude/batch-processing", _READ),
    BatchPrice("google", "", HALF, "https://ai.google.dev/gemini-api/docs/batch-api", _READ, scales_cached=False),
    BatchPrice(
        "vertex", "", HALF, "https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini",
        _READ, scales_cached=False,
    ),
    BatchPrice(
        "vertex-anthropic", "", HALF, "https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/batch",
        "2026-11-30",
    ),
    BatchPrice("groq", "", HALF, "https://console.groq.com/docs/batch", _READ),
    BatchPrice("mistral", "", HALF, "https://docs.mistral.ai/capabilities/batch", _READ),
    BatchPrice("bedrock", "", HALF, "https://aws.amazon.com/bedrock/pricing/", _READ),
    # Up to 50 % for selected models, which are not listed: full price is the safe assumption.
    BatchPrice("together", "", Fraction(1), "https://docs.together.ai/docs/inference/batch/overview", _READ),
    # 20 % for some models; rows report what they cost, which counts.
    BatchPrice("xai", "", Fraction(4, 5), "https://docs.x.ai/developers/advanced-api-usage/batch-api", _READ),
)  # fmt: skip
"""Prices of batch rows; the first entry that matches counts."""


def batch_price_entry(provider: str, model: str) -> BatchPrice | None:
    """Return the entry of a model; ``None`` if batches of it have no known price.

    Examples
    --------
    >>> batch_price_entry("openai", "gpt-4o-mini").factor
    Fraction(1, 2)
    """
    return next((entry for entry in BATCH_PRICES if entry.provider == provider and re.match(entry.models, model)), None)


def batch_price(provider: str, model: str, price: Price | None) -> Price | None:
    """Return the price of batch rows, given that of single requests; ``None`` if either is unknown.

    Examples
    --------
    >>> from decimal import Decimal
    >>> price = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> batch_price("anthropic", "claude-haiku-4-5", price).rates.output
    Decimal('0.0000075')
    """
    entry = batch_price_entry(provider, model)
    if price is None or entry is None:
        return None
    scaled = scaled_price(price, BATCH_TIER, entry.factor)
    if entry.scales_cached:
        return scaled
    tiers = zip(scaled.tiers, price.tiers, strict=True)
    return replace(
        scaled,
        rates=_with_cached(scaled.rates, price.rates),
        tiers=tuple(PriceTier(own.above, _with_cached(own.rates, full.rates)) for own, full in tiers),
    )


def _with_cached(scaled: Rates, full: Rates) -> Rates:
    """Return discounted rates whose cached input costs as much as in single requests."""
    return scaled if full.cached_input is None else replace(scaled, cached_input=full.cached_input)
