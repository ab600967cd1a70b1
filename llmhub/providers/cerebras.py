"""Cerebras: an OpenAI-compatible server with rate limit headers of its own."""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.rate_limit_headers import per_window_headers, rate_limit_reader
from llmhub.providers.vendor import PriceListing

RATE_LIMIT_HEADERS: Final = per_window_headers("requests-minute", "tokens-minute")

ENTRIES: Final = (
    openai_compatible(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        limits=rate_limit_reader(RATE_LIMIT_HEADERS),
        price_listing=PriceListing("cerebras"),
    ),
)
