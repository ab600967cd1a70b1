"""Cohere's compatibility API: an OpenAI-compatible endpoint.

Source: https://docs.cohere.com/docs/compatibility-api (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing

ENTRIES: Final = (
    openai_compatible(
        "cohere",
        "https://api.cohere.ai/compatibility/v1",
        "COHERE_API_KEY",
        health_url=None,
        price_listing=PriceListing("cohere"),
    ),
)
