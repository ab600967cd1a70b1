"""Groq: an OpenAI-compatible server.

It takes earlier reasoning back as ``reasoning`` (the parameters of an assistant message in groq 0.37, read 2026-11-30).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.batch import BatchApi, BatchLimits
from llmhub.core.types import CacheMark
from llmhub.providers.model_profiles import ModelProfiles, ToolForcedSchema
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning
from llmhub.providers.vendor import PriceListing, fixed_url
from llmhub.wire import openai_batch

BASE_URL: Final = "https://api.groq.com/openai/v1"
BATCH_LIMITS: Final = BatchLimits(rows=50_000, size=95_000_000)
"""The documentation permits files of 200 MB, the SDK of 100 MB: 95 % of the lower one."""

ENTRIES: Final = (
    openai_compatible(
        "groq",
        BASE_URL,
        "GROQ_API_KEY",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        models=ModelProfiles(
            # https://console.groq.com/docs/structured-outputs: the models on its list are those excluded here
            tool_forced_schemas=(ToolForcedSchema(r"^(?!openai/gpt-oss|meta-llama/llama-4|moonshotai/kimi-k2)"),),
        ),
        price_listing=PriceListing("groq"),
        batch=BatchApi(wire=openai_batch.WIRE, base_url=fixed_url(BASE_URL, ""), limits=BATCH_LIMITS),
    ),
)
