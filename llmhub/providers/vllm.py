"""vLLM: an OpenAI-compatible server that is run by its user.

It takes earlier reasoning as ``reasoning``, no longer as ``reasoning_content`` (docs.vllm.ai, v0.26).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning, text_completions
from llmhub.wire import openai_embeddings, reranking

ENTRIES: Final = (
    openai_compatible(
        "vllm",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        embeddings=openai_embeddings.WIRE,
        reranking=reranking.WIRE,
    ),
    text_completions("vllm", environment_variables=(("api_key", "VLLM_API_KEY"), ("base_url", "VLLM_BASE_URL"))),
)
