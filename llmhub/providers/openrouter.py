"""OpenRouter: an OpenAI-compatible server in front of many providers.

It answers with ``reasoning`` and takes it back under that name; recorded requests held ``reasoning_details`` alone.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.provider import PackLimits
from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning
from llmhub.providers.vendor import PriceListing
from llmhub.wire import openai_embeddings

ENTRIES: Final = (
    openai_compatible(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        refused_parts=(CacheMark,),
        takes_answer_images=True,
        takes_reasoning_details=True,
        takes_tool_images=True,
        takes_document_urls=True,
        adapt=partial(rename_reasoning, "reasoning"),
        request_id_header="x-generation-id",
        embeddings=openai_embeddings.WIRE,
        pack_limits=PackLimits(texts=256, tokens=250_000),
        health_url="/key",  # its list of models needs no key
        reports_cost=True,
        price_listing=PriceListing("openrouter"),
    ),
)
