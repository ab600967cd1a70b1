"""Together AI: an OpenAI-compatible server that takes earlier reasoning back as ``reasoning``, as it sends it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from llmhub.core.batch import BatchApi, BatchLimits, BatchStep
from llmhub.core.provider import PackLimits
from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import RATE_LIMIT_HEADERS as OPENAI_HEADERS
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning, text_completions
from llmhub.providers.rate_limit_headers import HeaderTable, parse_count, parse_seconds, rate_limit_reader
from llmhub.providers.vendor import PriceListing, fixed_url
from llmhub.wire import openai_batch, openai_embeddings

BASE_URL: Final = "https://api.together.xyz/v1"
BATCH_LIMITS: Final = BatchLimits(rows=50_000, size=95_000_000)
"""95 % of the maximum size of a file, 100 MB."""

RATE_LIMIT_HEADERS: Final[HeaderTable] = {
    **OPENAI_HEADERS,
    "limit_requests": (("x-ratelimit-limit-requests", "x-ratelimit-limit"), parse_count),
    "remaining_requests": (("x-ratelimit-remaining-requests", "x-ratelimit-remaining"), parse_count),
    "reset_requests_s": (("x-ratelimit-reset-requests", "x-ratelimit-reset"), parse_seconds),
}
"""Headers that name no unit count requests."""

BATCH_WIRE: Final = replace(
    openai_batch.WIRE,
    name="together-batch",
    steps=(
        BatchStep(partial(openai_batch.encode_upload, purpose="batch-api"), openai_batch.WIRE.steps[0].decode),
        *openai_batch.WIRE.steps[1:],
    ),
)
"""Together's files of rows have a purpose of their own (together 3.1.1, read 2026-11-29)."""

ENTRIES: Final = (
    openai_compatible(
        "together",
        BASE_URL,
        "TOGETHER_API_KEY",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        limits=rate_limit_reader(RATE_LIMIT_HEADERS),
        embeddings=openai_embeddings.WIRE,
        pack_limits=PackLimits(texts=128, tokens=100_000),
        price_listing=PriceListing("together"),
        batch=BatchApi(wire=BATCH_WIRE, base_url=fixed_url(BASE_URL, ""), limits=BATCH_LIMITS),
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
