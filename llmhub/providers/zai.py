"""Z.ai (GLM): an OpenAI-compatible server that takes earlier reasoning back.

Source: https://docs.z.ai/guides/develop/openai/python (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing

ENTRIES: Final = (
    openai_compatible(
        "zai",
        "https://api.z.ai/api/paas/v4",
        "ZAI_API_KEY",
        refused_parts=(CacheMark,),
        health_url=None,
        price_listing=PriceListing("zai"),
    ),
)
