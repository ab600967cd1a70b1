"""GitHub Models: an OpenAI-compatible server under a GitHub token.

Nothing validates a token at no cost. Beyond the free requests, OpenAI's models have OpenAI's prices.

Sources: https://docs.github.com/en/rest/models/inference and
https://docs.github.com/en/billing/reference/costs-for-github-models (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, last_segment

ENTRIES: Final = (
    openai_compatible(
        "github-models",
        "https://models.github.ai/inference",
        "GITHUB_TOKEN",
        health_url=None,
        price_listing=PriceListing("openai", last_segment, upstream={"openai": "openai"}),
        environment_variables=(("api_key", "GITHUB_TOKEN"), ("base_url", "GITHUB_MODELS_BASE_URL")),
    ),
)
