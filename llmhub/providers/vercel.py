"""Vercel's AI Gateway: an OpenAI-compatible server in front of many providers, at their own prices.

It reports the cost of each call, which takes precedence over the price list.

Sources: https://vercel.com/docs/ai-gateway/openai-compat, https://vercel.com/docs/ai-gateway/pricing and recorded
exchanges (read 2026-11-30).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning
from llmhub.providers.vendor import PriceListing, last_segment

UPSTREAM_LISTINGS: Final = {
    **{name: name for name in ("anthropic", "cohere", "deepseek", "google", "mistral", "moonshotai", "openai")},
    "amazon": "aws",
    "perplexity": "perplexity",
    "xai": "x-ai",
    "zai": "zai",
}
"""Listing of each provider that a model's name begins with: no markup is added to their prices."""

ENTRIES: Final = (
    openai_compatible(
        "vercel",
        "https://ai-gateway.vercel.sh/v1",
        "AI_GATEWAY_API_KEY",
        refused_parts=(CacheMark,),
        takes_answer_images=True,
        takes_reasoning_details=True,
        adapt=partial(rename_reasoning, "reasoning"),
        health_url="/credits",  # its list of models needs no key
        reports_cost=True,
        price_listing=PriceListing("openai", last_segment, upstream=UPSTREAM_LISTINGS),
        environment_variables=(("api_key", "AI_GATEWAY_API_KEY"), ("base_url", "AI_GATEWAY_BASE_URL")),
    ),
)
