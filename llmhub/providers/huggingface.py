"""Hugging Face's inference router: an OpenAI-compatible server in front of many. Nothing validates a key at no cost.

Earlier reasoning goes back as ``reasoning``, the field in which most of those servers send it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.types import CacheMark
from llmhub.providers.openai_compatible import openai_compatible, rename_reasoning

ENTRIES: Final = (
    openai_compatible(
        "huggingface",
        "https://router.huggingface.co/v1",
        "HF_TOKEN",
        refused_parts=(CacheMark,),
        adapt=partial(rename_reasoning, "reasoning"),
        health_url=None,
    ),
)
