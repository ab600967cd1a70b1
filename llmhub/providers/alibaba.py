"""Alibaba Cloud Model Studio (Qwen): its OpenAI-compatible mode, at the international address.

Other regions have addresses of their own, which go into ``base_url``. No price table of it is known.

Source: https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import openai_compatible

ENTRIES: Final = (
    openai_compatible(
        "alibaba",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        environment_variables=(("api_key", "DASHSCOPE_API_KEY"), ("base_url", "DASHSCOPE_BASE_URL")),
    ),
)
