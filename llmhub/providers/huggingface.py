"""Hugging Face's inference router: an OpenAI-compatible server in front of many. Nothing validates a key at no cost.

It passes on the rate limit headers of the server that answered: OpenAI's, or those of minutes, hours and days of
Cerebras (https://inference-docs.cerebras.ai/support/rate-limits, read 2026-11-30). Earlier reasoning goes back as
``reasoning``, the field in which most of those servers send it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning
from llmhub.providers.openai_compatible import read_rate_limits as read_openai_limits
from llmhub.providers.rate_limit_headers import read_window, tightest

read_rate_limits: Final = tightest(read_openai_limits, *map(read_window, ("minute", "hour", "day")))

ENTRIES: Final = (
    openai_compatible(
        "huggingface",
        "https://router.huggingface.co/v1",
        "HF_TOKEN",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        limits=read_rate_limits,
        health_url=None,
    ),
)
