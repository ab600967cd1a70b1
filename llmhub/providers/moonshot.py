"""Moonshot AI (Kimi): an OpenAI-compatible server that takes earlier reasoning back.

Source: https://platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing

ENTRIES: Final = (
    openai_compatible(
        "moonshot",
        "https://api.moonshot.ai/v1",
        "MOONSHOT_API_KEY",
        refused_parts=(CacheMark,),
        price_listing=PriceListing("moonshotai"),
    ),
)
