"""Avian: an OpenAI-compatible server that takes earlier reasoning back, as recorded.

It reports the cost of each call.

Source: https://avian.io/docs (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing

ENTRIES: Final = (
    openai_compatible(
        "avian",
        "https://api.avian.io/v1",
        "AVIAN_API_KEY",
        refused_parts=(CacheMark,),
        takes_reasoning_details=True,
        reports_cost=True,
        price_listing=PriceListing("avian"),
    ),
)
