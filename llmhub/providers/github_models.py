"""GitHub Models: an OpenAI-compatible server under a GitHub token.

Nothing validates a token at no cost, and no price table of it is known.

Source: https://docs.github.com/en/rest/models/inference (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible

ENTRIES: Final = (
    openai_compatible(
        "github-models",
        "https://models.github.ai/inference",
        "GITHUB_TOKEN",
        health_url=None,
        environment_variables=(("api_key", "GITHUB_TOKEN"), ("base_url", "GITHUB_MODELS_BASE_URL")),
    ),
)
