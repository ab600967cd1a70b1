"""Mistral AI: an OpenAI-compatible server with names of its own for the seed and the rate limit headers.

It counts a stream's tokens unasked, so ``stream_options`` is left out.
"""

from __future__ import annotations

from typing import Final

from llmhub.core.types import Payload
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.rate_limit_headers import per_window_headers, rate_limit_reader
from llmhub.providers.vendor import PriceListing, drop_field, rename_field

RATE_LIMIT_HEADERS: Final = per_window_headers("req-minute", "tokens-minute")


def _adapt(payload: Payload) -> Payload:
    return rename_field("seed", "random_seed", drop_field("stream_options", payload))


ENTRIES: Final = (
    openai_compatible(
        "mistral",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        adapt=_adapt,
        limits=rate_limit_reader(RATE_LIMIT_HEADERS),
        request_id_header="mistral-correlation-id",
        price_listing=PriceListing("mistral"),
    ),
)
