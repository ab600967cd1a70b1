"""Snowflake Cortex: an OpenAI-compatible endpoint in each account, under a programmatic access token.

Nothing validates a token at no cost. Credits are billed, so no price per token is known.

Source: https://docs.snowflake.com/user-guide/snowflake-cortex/open_ai_sdk and recorded exchanges (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.provider import Endpoint
from llmhub.core.types import CacheMark, CompletionRequest
from llmhub.providers.openai_compatible import CHAT_PATH, openai_compatible, rename_reasoning
from llmhub.providers.vendor import rename_field

API_PATH: Final = "/api/v2/cortex/v1"


def _url(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Return the URL of an account's chat, whether ``base_url`` is the account's or the API's."""
    return endpoint.base_url.removesuffix(API_PATH) + API_PATH + CHAT_PATH


ENTRIES: Final = (
    openai_compatible(
        "snowflake",
        "",
        "SNOWFLAKE_TOKEN",
        "SNOWFLAKE_HOST",
        locate=_url,
        refused_parts=(CacheMark,),
        takes_reasoning_details=True,
        adapt=lambda payload: rename_field(
            "max_tokens", "max_completion_tokens", rename_reasoning("reasoning", payload)
        ),
        health_url=None,
        environment_variables=(("api_key", "SNOWFLAKE_TOKEN"), ("base_url", "SNOWFLAKE_HOST")),
    ),
)
