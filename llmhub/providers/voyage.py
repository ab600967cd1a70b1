"""Voyage AI: embeddings and reranking; it has no completions, and refuses them itself.

Sources: https://docs.voyageai.com/reference/embeddings-api, https://docs.voyageai.com/docs/embeddings
(read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.provider import PackLimits
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing
from llmhub.wire import openai_embeddings, reranking

ENTRIES: Final = (
    openai_compatible(
        "voyage",
        "https://api.voyageai.com/v1",
        "VOYAGE_API_KEY",
        health_url=None,
        price_listing=PriceListing("voyageai"),
        embeddings=openai_embeddings.VOYAGE_WIRE,
        pack_limits=PackLimits(texts=1000, tokens=120_000, text_tokens=32_000),
        reranking=reranking.QUIET_WIRE,
    ),
)
