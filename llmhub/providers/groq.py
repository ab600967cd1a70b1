"""Groq: an OpenAI-compatible server."""

from __future__ import annotations

from typing import Final

from llmhub.providers.model_profiles import ModelProfiles, ToolForcedSchema
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing

ENTRIES: Final = (
    openai_compatible(
        "groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        models=ModelProfiles(
            # https://console.groq.com/docs/structured-outputs: the models on its list are those excluded here
            tool_forced_schemas=(ToolForcedSchema(r"^(?!openai/gpt-oss|meta-llama/llama-4|moonshotai/kimi-k2)"),),
        ),
        price_listing=PriceListing("groq"),
    ),
)
