"""Jina AI: reranking; it has no completions here, and refuses them itself.

Source: https://api.jina.ai/docs (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible
from llmhub.wire import reranking

ENTRIES: Final = (
    openai_compatible(
        "jina",
        "https://api.jina.ai/v1",
        "JINA_API_KEY",
        health_url=None,
        reranking=reranking.QUIET_WIRE,
    ),
)
