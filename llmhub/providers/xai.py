"""xAI: an OpenAI-compatible server that takes earlier reasoning back."""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing

ENTRIES: Final = (
    openai_compatible(
        "xai", "https://api.x.ai/v1", "XAI_API_KEY", refused_parts=(CacheMark,), price_listing=PriceListing("x-ai")
    ),
)
