"""Hugging Face's inference router: an OpenAI-compatible server. Nothing validates a key at no cost."""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible

ENTRIES: Final = (openai_compatible("huggingface", "https://router.huggingface.co/v1", "HF_TOKEN", health_url=None),)
