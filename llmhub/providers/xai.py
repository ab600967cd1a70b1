"""xAI: an OpenAI-compatible server that takes earlier reasoning back."""

from __future__ import annotations

from typing import Final

from llmhub.core.batch import BatchApi
from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, fixed_url
from llmhub.wire import xai_batch

BASE_URL: Final = "https://api.x.ai/v1"

ENTRIES: Final = (
    openai_compatible(
        "xai",
        BASE_URL,
        "XAI_API_KEY",
        refused_parts=(CacheMark,),
        reports_cost=True,
        price_listing=PriceListing("x-ai"),
        batch=BatchApi(wire=xai_batch.WIRE, base_url=fixed_url(BASE_URL, "")),
    ),
)
