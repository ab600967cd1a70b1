"""Perplexity: an OpenAI-compatible server.

It counts a stream's tokens in every chunk and was not seen to accept ``stream_options``. Nothing validates a key at no
cost.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Final

from llmhub.core.embedding import EmbedRequest
from llmhub.core.pricing import Price
from llmhub.core.provider import Endpoint, PackLimits
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, drop_field, embed_service
from llmhub.wire import openai_embeddings

BASE_URL: Final = "https://api.perplexity.ai"
SEARCH_FEES_USD: Final = {
    "sonar": {"low": "0.005", "medium": "0.008", "high": "0.012"},
    "sonar-reasoning": {"low": "0.005", "medium": "0.008", "high": "0.012"},
    "sonar-pro": {"low": "0.006", "medium": "0.010", "high": "0.014"},
    "sonar-reasoning-pro": {"low": "0.006", "medium": "0.010", "high": "0.014"},
}
"""Fee of a request by the size of its search context; the default is ``low``.

Source: https://docs.perplexity.ai/docs/getting-started/pricing (read 2026-11-30).
"""


def _add_search_fees(model: str, price: Price) -> Price:
    """Set the fee of a request by its search context, of which the table has the largest alone."""
    fees = SEARCH_FEES_USD.get(model)
    if fees is None:
        return price
    by_size = {
        size: replace(price, price_id=f"{price.price_id}#{size}", request_usd=Decimal(fee))
        for size, fee in fees.items()
    }
    # The fee of the request includes its searches and citations.
    included = {"web_search:requests": Decimal(0), "citation:tokens": Decimal(0)}
    return replace(price, request_usd=Decimal(fees["low"]), service_tiers=by_size, units={**price.units, **included})


def _embeddings_url(endpoint: Endpoint, _request: EmbedRequest) -> str:
    """Return the URL of the embeddings, which alone have a version in their path."""
    return (endpoint.base_url or BASE_URL).removesuffix("/v1") + "/v1/embeddings"


ENTRIES: Final = (
    openai_compatible(
        "perplexity",
        BASE_URL,
        "PERPLEXITY_API_KEY",
        adapt=partial(drop_field, "stream_options"),
        health_url=None,
        embeddings=embed_service(
            BASE_URL,
            openai_embeddings.INT8_WIRE,
            PackLimits(texts=512, tokens=120_000, text_tokens=32_768),
            locate=_embeddings_url,
        ),
        reports_cost=True,
        price_listing=PriceListing("perplexity", adjust=_add_search_fees),
    ),
)
