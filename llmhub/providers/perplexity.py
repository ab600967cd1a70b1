"""Perplexity: an OpenAI-compatible server.

It counts a stream's tokens in every chunk and was not seen to accept ``stream_options``. Nothing validates a key at no
cost.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, drop_field

ENTRIES: Final = (
    openai_compatible(
        "perplexity",
        "https://api.perplexity.ai",
        "PERPLEXITY_API_KEY",
        adapt=partial(drop_field, "stream_options"),
        health_url=None,
        price_listing=PriceListing("perplexity"),
    ),
)
