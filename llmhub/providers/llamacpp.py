"""llama.cpp's server: an OpenAI-compatible server on the user's own machine.

It takes earlier reasoning as ``reasoning_content``.

Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.wire import openai_embeddings

ENTRIES: Final = (
    openai_compatible(
        "llamacpp",
        "http://localhost:8080/v1",
        refused_parts=(CacheMark,),
        embeddings=openai_embeddings.WIRE,
        environment_variables=(("api_key", "LLAMACPP_API_KEY"), ("base_url", "LLAMACPP_BASE_URL")),
    ),
)
