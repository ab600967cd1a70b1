"""Provisional rows."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from llmhub.core.provider import Endpoint, HttpRequest, Provider
from llmhub.core.types import CompletionRequest
from llmhub.wire import openai_chat


def _locate(endpoint: Endpoint, request: CompletionRequest, stream: bool) -> str:
    return f"{endpoint.base_url or 'https://api.openai.com/v1'}/chat/completions"


def _bearer(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
    return replace(request, headers={**request.headers, "authorization": f"Bearer {endpoint.api_key}"})


PROVIDERS = MappingProxyType(
    {
        "openai": Provider("openai", openai_chat.WIRE, "https://api.openai.com/v1", _locate, _bearer, needs=(("OPENAI_API_KEY",),)),
        "compatible": Provider("compatible", openai_chat.WIRE, "", _locate, _bearer),
    }
)
