"""Mistral AI: an OpenAI-compatible server with names of its own for the seed and the rate limit headers.

It counts a stream's tokens unasked, so ``stream_options`` is left out. Earlier reasoning goes back as a block of the
content, as it came (the types of mistralai 1.9, read 2026-11-30).
"""

from __future__ import annotations

from typing import Any, Final

from llmhub.core.batch import BatchApi
from llmhub.core.provider import PackLimits
from llmhub.core.types import CacheMark, Payload
from llmhub.providers.openai_compatible import REASONING_FIELD, openai_compatible
from llmhub.providers.rate_limit_headers import read_windows
from llmhub.providers.vendor import PriceListing, drop_field, fixed_url, rename_field
from llmhub.wire import mistral_batch, openai_embeddings

BASE_URL: Final = "https://api.mistral.ai/v1"


def _adapt(payload: Payload) -> Payload:
    renamed = rename_field("seed", "random_seed", drop_field("stream_options", payload))
    messages: Any = payload.get("messages") or ()
    if not any(REASONING_FIELD in message for message in messages):
        return renamed
    return {**renamed, "messages": [_with_thinking(message) for message in messages]}


def _with_thinking(message: Payload) -> Payload:
    """Move the reasoning of a message into its content, as a block before the others."""
    if REASONING_FIELD not in message:
        return message
    content: Any = message["content"] or []
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": message[REASONING_FIELD]}]}
    return {**drop_field(REASONING_FIELD, message), "content": [thinking, *blocks]}


ENTRIES: Final = (
    openai_compatible(
        "mistral",
        BASE_URL,
        "MISTRAL_API_KEY",
        refused_parts=(CacheMark,),
        adapt=_adapt,
        limits=read_windows,
        request_id_header="mistral-correlation-id",
        embeddings=openai_embeddings.MISTRAL_WIRE,
        pack_limits=PackLimits(texts=128, tokens=16_384, text_tokens=8192),
        price_listing=PriceListing("mistral"),
        batch=BatchApi(wire=mistral_batch.WIRE, base_url=fixed_url(BASE_URL, ""), embed_wire=mistral_batch.WIRE),
    ),
)
