"""Servers that speak Anthropic's Messages: any address, and OpenRouter's endpoint of that kind.

The key is sent as a bearer token, which vLLM, llama.cpp, LiteLLM and OpenRouter take, and as ``x-api-key``.

Sources: https://openrouter.ai/docs/api/api-reference/anthropic-messages/create-messages,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server/ (read 2026-11-30).
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.provider import Endpoint, HttpRequest, Provider
from llmhub.providers.anthropic import CLAUDE_SCHEMA_SUPPORT, authorize
from llmhub.providers.auth import bearer_token
from llmhub.providers.openai_compatible import read_rate_limits
from llmhub.providers.vendor import PriceListing, check_base_url, completion_url, fixed_url, provider_entry
from llmhub.wire import anthropic

MESSAGES_PATH: Final = "/v1/messages"
OPENROUTER_URL: Final = "https://openrouter.ai/api"


def _authorize(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
    """Send the key both ways, and the version of the API."""
    return bearer_token(endpoint, authorize(endpoint, request, now), now)


ENTRIES: Final = (
    provider_entry(
        Provider(
            "compatible-messages",
            anthropic.WIRE,
            "",
            locate=completion_url("", MESSAGES_PATH),
            authorize=_authorize,
            limits=read_rate_limits,
            request_id_header="request-id",
            signature_covers_body=False,
            health_url=fixed_url("", "/v1/models"),
        ),
        checks=(partial(check_base_url, "compatible-messages"),),
    ),
    provider_entry(
        Provider(
            "openrouter-anthropic",
            anthropic.WIRE,
            OPENROUTER_URL,
            locate=completion_url(OPENROUTER_URL, MESSAGES_PATH),
            authorize=_authorize,
            limits=read_rate_limits,
            required_env=(("OPENROUTER_API_KEY",),),
            request_id_header="x-generation-id",
            signature_covers_body=False,
            health_url=fixed_url(OPENROUTER_URL, "/v1/key"),
            reports_cost=True,
        ),
        schema_support=CLAUDE_SCHEMA_SUPPORT,
        price_listing=PriceListing("openrouter"),
        environment_variables=(("api_key", "OPENROUTER_API_KEY"), ("base_url", "OPENROUTER_ANTHROPIC_BASE_URL")),
    ),
)
