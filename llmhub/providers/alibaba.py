"""Alibaba Cloud Model Studio (Qwen): its OpenAI-compatible mode, at the international address.

Other regions have addresses of their own, which go into ``base_url``, and prices of their own.

Source: https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmhub.core.pricing import Rates
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, PriceSheet, per_million

RATES: Final[Mapping[str, Rates | Mapping[int, Rates]]] = {
    "deepseek-v4-flash": per_million("0.2", "0.4", cached="0.04"),
    "deepseek-v4-flash-0731": per_million("0.2", "0.4", cached="0.04"),
    "deepseek-v4-pro": per_million("2.4", "4.8", cached="0.2"),
    "glm-5.1": per_million("1.4", "4.4", cached="0.26"),
    "glm-5.2": per_million("1.4", "4.4", cached="0.28"),
    "kimi-k2.7-code": per_million("0.95", "4", cached="0.19"),
    "qwen-coder": per_million("0.3", "1.5"),
    "qwen-flash": {0: per_million("0.05", "0.4"), 256_000: per_million("0.25", "2")},
    "qwen-flash-2025-07-28": {0: per_million("0.05", "0.4"), 256_000: per_million("0.25", "2")},
    "qwen-max": per_million("1.6", "6.4"),
    "qwen-plus": per_million("0.4", "1.2"),
    "qwen-plus-2025-01-25": per_million("0.4", "1.2"),
    "qwen-plus-2025-04-28": per_million("0.4", "1.2", reasoning="4"),
    "qwen-plus-2025-07-14": per_million("0.4", "1.2", reasoning="4"),
    "qwen-plus-2025-07-28": {
        0: per_million("0.4", "1.2", reasoning="4"),
        256_000: per_million("1.2", "3.6", reasoning="12"),
    },
    "qwen-plus-2025-09-11": {
        0: per_million("0.4", "1.2", reasoning="4"),
        256_000: per_million("1.2", "3.6", reasoning="12"),
    },
    "qwen-plus-latest": {
        0: per_million("0.4", "1.2", reasoning="4"),
        256_000: per_million("1.2", "3.6", reasoning="12"),
    },
    "qwen-turbo": per_million("0.05", "0.2", reasoning="0.5"),
    "qwen-turbo-2024-11-01": per_million("0.05", "0.2"),
    "qwen-turbo-2025-04-28": per_million("0.05", "0.2", reasoning="0.5"),
    "qwen-turbo-latest": per_million("0.05", "0.2", reasoning="0.5"),
    "qwen3-coder-flash": {
        0: per_million("0.3", "1.5", cached="0.08"),
        32_000: per_million("0.5", "2.5", cached="0.12"),
        128_000: per_million("0.8", "4", cached="0.2"),
        256_000: per_million("1.6", "9.6", cached="0.4"),
    },
    "qwen3-coder-flash-2025-07-28": {
        0: per_million("0.3", "1.5"),
        32_000: per_million("0.5", "2.5"),
        128_000: per_million("0.8", "4"),
        256_000: per_million("1.6", "9.6"),
    },
    "qwen3-coder-plus": {
        0: per_million("1", "5", cached="0.1"),
        32_000: per_million("1.8", "9", cached="0.18"),
        128_000: per_million("3", "15", cached="0.3"),
        256_000: per_million("6", "60", cached="0.6"),
    },
    "qwen3-coder-plus-2025-07-22": {
        0: per_million("1", "5"),
        32_000: per_million("1.8", "9"),
        128_000: per_million("3", "15"),
        256_000: per_million("6", "60"),
    },
    "qwen3-max-preview": {
        0: per_million("1.2", "6"),
        32_000: per_million("2.4", "12"),
        128_000: per_million("3", "15"),
    },
    "qwen3-max": {0: per_million("1.2", "6"), 32_000: per_million("2.4", "12"), 128_000: per_million("3", "15")},
    "qwen3-max-2026-01-23": {
        0: per_million("1.2", "6"),
        32_000: per_million("2.4", "12"),
        128_000: per_million("3", "15"),
    },
    "qwen3-next-80b-a3b-instruct": per_million("0.15", "1.2"),
    "qwen3-next-80b-a3b-thinking": per_million("0.15", "1.2"),
    "qwen3-vl-235b-a22b-instruct": per_million("0.4", "1.6"),
    "qwen3-vl-235b-a22b-thinking": per_million("0.4", "4"),
    "qwen3-vl-32b-instruct": per_million("0.16", "0.64"),
    "qwen3-vl-32b-thinking": per_million("0.16", "2.87"),
    "qwen3-vl-plus": {
        0: per_million("0.2", "1.6"),
        32_000: per_million("0.3", "2.4"),
        128_000: per_million("0.6", "4.8"),
    },
    "qwen3.5-plus": {0: per_million("0.4", "2.4"), 256_000: per_million("0.5", "3")},
    "qwen3.7-max": per_million("2.5", "7.5", cached="0.5"),
    "qwen3.7-plus": {0: per_million("0.4", "1.6", cached="0.08"), 256_000: per_million("1.2", "4.8", cached="0.24")},
    "qwen3.8-max": per_million("2", "6", cached="0.25"),
    "qwen3.8-flash": per_million("0.15", "0.47", cached="0.016"),
    "qwen3.8-omni-flash": per_million("0.15", "0.47", cached="0.016"),
    "qwq-plus": per_million("0.8", "2.4"),
}
"""Published prices in USD per million tokens.

Source: https://www.alibabacloud.com/help/en/model-studio/models, as listed in LiteLLM 1.110.2 (read 2026-11-30).
"""

ENTRIES: Final = (
    openai_compatible(
        "alibaba",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        price_listing=PriceListing("alibaba", sheet=PriceSheet("2026-11-30", RATES)),
        environment_variables=(("api_key", "DASHSCOPE_API_KEY"), ("base_url", "DASHSCOPE_BASE_URL")),
    ),
)
