"""NVIDIA's hosted NIM models: an OpenAI-compatible server.

Use is metered in credits, so no price per token is known.

Source: https://docs.api.nvidia.com/nim/reference/llm-apis (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible

ENTRIES: Final = (
    openai_compatible(
        "nvidia",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_API_KEY",
        health_url=None,
    ),
)
