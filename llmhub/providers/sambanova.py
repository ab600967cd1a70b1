"""SambaNova Cloud: an OpenAI-compatible server.

No price table of it is known.

Source: https://docs.sambanova.ai/cloud/docs/get-started/overview (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible

ENTRIES: Final = (
    openai_compatible(
        "sambanova",
        "https://api.sambanova.ai/v1",
        "SAMBANOVA_API_KEY",
    ),
)
