"""SambaNova Cloud: an OpenAI-compatible server.

Its limits are those of a minute, in headers without a window, and of a day; they end at a time in epoch seconds.

Sources: https://docs.sambanova.ai/cloud/docs/get-started/overview and
https://docs.sambanova.ai/docs/en/models/rate-limits (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.providers.openai_compatible import RATE_LIMIT_HEADERS, openai_compatible
from llmhub.providers.rate_limit_headers import parse_seconds_or_epoch, rate_limit_reader, read_window, tightest
from llmhub.providers.vendor import PriceListing, PriceSheet, per_million

RATES: Final = {
    "MiniMax-M2.7": per_million("0.6", "2.4"),
    "DeepSeek-R1": per_million("5", "7"),
    "Llama-4-Maverick-17B-128E-Instruct": per_million("0.63", "1.8"),
    "Meta-Llama-3.3-70B-Instruct": per_million("0.6", "1.2"),
    "DeepSeek-V3.1": per_million("3", "4.5"),
    "gpt-oss-120b": per_million("0.22", "0.59"),
    "DeepSeek-V3.2": per_million("3", "4.5"),
    "gemma-4-31B-it": per_million("0.38", "1.15"),
}
"""Published prices in USD per million tokens.

Source: https://cloud.sambanova.ai/plans/pricing, as listed in LiteLLM 1.110.2 (read 2026-11-30).
"""

_RESETS: Final = {
    f"reset_{unit}_s": ((f"x-ratelimit-reset-{unit}",), parse_seconds_or_epoch) for unit in ("requests", "tokens")
}
read_rate_limits: Final = tightest(
    rate_limit_reader({**RATE_LIMIT_HEADERS, **_RESETS}), read_window("day", parse_seconds_or_epoch)
)

ENTRIES: Final = (
    openai_compatible(
        "sambanova",
        "https://api.sambanova.ai/v1",
        "SAMBANOVA_API_KEY",
        limits=read_rate_limits,
        price_listing=PriceListing("sambanova", sheet=PriceSheet("2026-11-30", RATES)),
    ),
)
