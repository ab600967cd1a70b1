"""Together AI: an OpenAI-compatible server that takes earlier reasoning back as ``reasoning``, as it sends it."""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.provider import PackLimits
from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import RATE_LIMIT_HEADERS as OPENAI_HEADERS
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning, text_completions
from llmhub.providers.rate_limit_headers import HeaderTable, parse_count, parse_seconds, rate_limit_reader
from llmhub.providers.vendor import PriceListing
from llmhub.wire import openai_embeddings

RATE_LIMIT_HEADERS: Final[HeaderTable] = {
    **OPENAI_HEADERS,
    "limit_requests": (("x-ratelimit-limit-requests", "x-ratelimit-limit"), parse_count),
    "remaining_requests": (("x-ratelimit-remaining-requests", "x-ratelimit-remaining"), parse_count),
    "reset_requests_s": (("x-ratelimit-reset-requests", "x-ratelimit-reset"), parse_seconds),
}
"""Headers that name no unit count requests."""

ENTRIES: Final = (
    openai_compatible(
        "together",
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        limits=rate_limit_reader(RATE_LIMIT_HEADERS),
        embeddings=openai_embeddings.WIRE,
        pack_limits=PackLimits(texts=128, tokens=100_000),
        price_listing=PriceListing("together"),
    ),
    text_completions(
        "together",
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        limits=rate_limit_reader(RATE_LIMIT_HEADERS),
        price_listing=PriceListing("together"),
        environment_variables=(("api_key", "TOGETHER_API_KEY"), ("base_url", "TOGETHER_BASE_URL")),
    ),
)
