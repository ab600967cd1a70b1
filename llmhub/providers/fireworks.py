"""Fireworks AI: an OpenAI-compatible server."""

from __future__ import annotations

from typing import Final

from llmhub.core.provider import PackLimits
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing
from llmhub.wire import openai_embeddings

ENTRIES: Final = (
    openai_compatible(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        embeddings=openai_embeddings.WIRE,
        pack_limits=PackLimits(texts=128, tokens=100_000),
        price_listing=PriceListing("fireworks"),
    ),
)
