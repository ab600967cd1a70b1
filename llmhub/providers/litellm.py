"""LiteLLM's proxy: an OpenAI-compatible server that its user runs, at the address it starts at.

Source: https://docs.litellm.ai/docs/proxy/user_keys (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.wire import openai_embeddings

ENTRIES: Final = (
    openai_compatible(
        "litellm",
        "http://localhost:4000/v1",
        refused_parts=(CacheMark,),
        takes_answer_images=True,
        embeddings=openai_embeddings.WIRE,
        environment_variables=(("api_key", "LITELLM_API_KEY"), ("base_url", "LITELLM_BASE_URL")),
    ),
)
