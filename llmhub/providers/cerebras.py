"""Cerebras: an OpenAI-compatible server with rate limit headers of its own.

It takes earlier reasoning back as ``reasoning``, the field in which it sends it.

Sources: https://inference-docs.cerebras.ai/capabilities/reasoning,
https://inference-docs.cerebras.ai/support/rate-limits and recorded exchanges (read 2026-11-30).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning
from llmhub.providers.rate_limit_headers import read_window, tightest
from llmhub.providers.vendor import PriceListing

read_rate_limits: Final = tightest(*map(read_window, ("minute", "hour", "day")))

ENTRIES: Final = (
    openai_compatible(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        limits=read_rate_limits,
        price_listing=PriceListing("cerebras"),
    ),
)
