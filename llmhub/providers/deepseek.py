"""DeepSeek: an OpenAI-compatible server that takes earlier reasoning back."""

from __future__ import annotations

from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.model_profiles import ModelProfiles, ToolForcedSchema
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing

ENTRIES: Final = (
    openai_compatible(
        "deepseek",
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        refused_parts=(CacheMark,),
        models=ModelProfiles(
            # https://api-docs.deepseek.com/guides/json_mode: its JSON mode returns an object, of no given schema
            tool_forced_schemas=(ToolForcedSchema(""),),
        ),
        price_listing=PriceListing("deepseek"),
    ),
)
