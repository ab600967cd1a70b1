"""Cloudflare Workers AI: an OpenAI-compatible endpoint in each account, which is the endpoint's ``project``.

Source: https://developers.cloudflare.com/workers-ai/configuration/open-ai-compatibility/ (read 2026-11-30).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from llmhub.core.errors import Hint, InvalidRequest, LLMError
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest
from llmhub.providers.openai_compatible import CHAT_PATH, openai_compatible
from llmhub.providers.vendor import PriceListing, first_error, quote_model

BASE_URL: Final = "https://api.cloudflare.com/client/v4"


def _url(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Return the URL of an account's chat; an address with the account in it is taken as it is."""
    base = endpoint.base_url or BASE_URL
    account = f"/accounts/{quote_model(endpoint.project)}/ai/v1" if _needs_account(base) else ""
    return base + account + CHAT_PATH


def _needs_account(base_url: str) -> bool:
    return base_url.endswith("/client/v4")


def _check_account(endpoint: Endpoint, _request: CompletionRequest) -> LLMError | None:
    """Require the account that is billed."""
    if endpoint.project or not _needs_account(endpoint.base_url or BASE_URL):
        return None
    hint = Hint("project", provider="cloudflare", environment=(("CLOUDFLARE_ACCOUNT_ID",),))
    return InvalidRequest(path="$.endpoint.project", message="cloudflare bills an account", hint=hint)


_ENTRY: Final = openai_compatible(
    "cloudflare",
    BASE_URL,
    "CLOUDFLARE_API_TOKEN",
    "CLOUDFLARE_ACCOUNT_ID",
    locate=_url,
    health_url=None,
    price_listing=PriceListing("cloudflare"),
    environment_variables=(("api_key", "CLOUDFLARE_API_TOKEN"), ("project", "CLOUDFLARE_ACCOUNT_ID")),
)
ENTRIES: Final = (
    replace(
        _ENTRY,
        provider=replace(
            _ENTRY.provider, unsupported=partial(first_error, (_check_account, _ENTRY.provider.unsupported))
        ),
    ),
)
