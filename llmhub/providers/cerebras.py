"""Cerebras: an OpenAI-compatible server with rate limit headers of its own.

It takes earlier reasoning back as ``reasoning``, the field in which it sends it.

Source: https://inference-docs.cerebras.ai/capabilities/reasoning and recorded exchanges (read 2026-11-30).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning
from llmhub.providers.rate_limit_headers import per_window_headers, rate_limit_reader
from llmhub.providers.vendor import PriceListing

RATE_LIMIT_HEADERS: Final = per_window_headers("requests-minute", "tokens-minute")

ENTRIES: Final = (
    openai_compatible(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        limits=rate_limit_reader(RATE_LIMIT_HEADERS),
        price_listing=PriceListing("cerebras"),
    ),
)
