"""LM Studio: an OpenAI-compatible server on the user's own machine.

Source: https://lmstudio.ai/docs/developer/openai-compat (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.wire import openai_embeddings

ENTRIES: Final = (
    openai_compatible(
        "lmstudio",
        "http://localhost:1234/v1",
        refused_parts=(CacheMark,),
        embeddings=openai_embeddings.WIRE,
        environment_variables=(("api_key", "LMSTUDIO_API_KEY"), ("base_url", "LMSTUDIO_BASE_URL")),
    ),
)
