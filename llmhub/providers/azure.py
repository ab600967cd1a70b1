"""Azure OpenAI: Chat Completions by deployment or under the v1 API, and Responses.

A deployment's name does not identify its model, so no profile of OpenAI's models applies; the served model is priced.

Source: https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle (read 2026-11-22).
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Final
from urllib.parse import quote

from llmhub.core.batch import BatchApi, BatchLimits
from llmhub.core.embedding import EmbedRequest
from llmhub.core.pricing import Price, scaled_price
from llmhub.core.provider import ArrivalTokens, Endpoint
from llmhub.core.types import CacheMark, CompletionRequest
from llmhub.providers.auth import api_key_header
from llmhub.providers.openai import (
    PACK_LIMITS,
    SCHEMA_SUPPORT,
    adapt_chat,
    adapt_responses,
    add_audio,
    check_min_tokens,
    priority_factor,
)
from llmhub.providers.openai_compatible import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    EMBEDDINGS_PATH,
    RESPONSES_PATH,
    openai_compatible,
    read_rate_limits,
    text_completions,
)
from llmhub.providers.rate_limit_headers import per_renewal_period
from llmhub.providers.vendor import PriceListing, embed_service, quote_model
from llmhub.wire import openai_batch, openai_embeddings, openai_responses

DEFAULT_API_VERSION: Final = "2024-10-21"


def _chat_url(endpoint: Endpoint, request: CompletionRequest, _stream: bool) -> str:
    return _deployment_url(endpoint, request.model, CHAT_PATH)


def _completions_url(endpoint: Endpoint, request: CompletionRequest, _stream: bool) -> str:
    return _deployment_url(endpoint, request.model, COMPLETIONS_PATH)


def _embeddings_url(endpoint: Endpoint, request: EmbedRequest) -> str:
    return _deployment_url(endpoint, request.model, EMBEDDINGS_PATH)


def _deployment_url(endpoint: Endpoint, model: str, path: str) -> str:
    """Return the URL of a deployment, or of the v1 API, where the body names the deployment."""
    base = endpoint.base_url.removesuffix("/openai")
    if base.endswith("/openai/v1"):
        return base + path
    if endpoint.api_version == "v1":
        return f"{base}/openai/v1{path}"
    version = quote(endpoint.api_version or DEFAULT_API_VERSION, safe="")
    return f"{base}/openai/deployments/{quote_model(model)}{path}?api-version={version}"


def _responses_url(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Return the URL of Responses: the v1 API's, or a dated version's where the endpoint names one."""
    base = endpoint.base_url.removesuffix("/v1").removesuffix("/openai")
    if endpoint.api_version in {"", "v1"}:
        return f"{base}/openai/v1{RESPONSES_PATH}"
    return f"{base}/openai{RESPONSES_PATH}?api-version={quote(endpoint.api_version, safe='')}"


def _models_url(endpoint: Endpoint) -> str:
    base = endpoint.base_url.removesuffix("/v1").removesuffix("/openai")
    if endpoint.base_url.endswith("/openai/v1") or endpoint.api_version == "v1":
        return f"{base}/openai/v1/models"
    return f"{base}/openai/models?api-version={quote(endpoint.api_version or DEFAULT_API_VERSION, safe='')}"


def _batch_url(endpoint: Endpoint) -> str:
    """Return the address of files and batches under the v1 API, whichever version completions use."""
    return f"{endpoint.base_url.removesuffix('/v1').removesuffix('/openai')}/openai/v1"


BATCH_LIMITS: Final = BatchLimits(rows=100_000, size=190_000_000)
"""95 % of the maximum size of a file, 200 MB."""

AUDIO_USD: Final = {
    "gpt-audio": ("40", "80"),
    "gpt-audio-1.5": ("32", "64"),
    "gpt-audio-mini": ("10", "20"),
    "gpt-4o-audio-preview": ("40", "80"),
    "gpt-4o-mini-audio-preview": ("10", "20"),
}
"""Rates of audio that the price table lacks: USD per million tokens of input and output.

Source: https://azure.microsoft.com/pricing/details/cognitive-services/openai-service/, as listed in LiteLLM 1.108.7
(read 2026-11-30).
"""
PRIORITY_MODELS: Final = re.compile(r"gpt-(4\.1|5(\.1)?(-mini)?)$")
"""Models with priority processing at OpenAI's multiple of the standard price (source as above)."""


def add_service_tiers(model: str, price: Price) -> Price:
    """Add the prices of priority processing and of audio."""
    if model in AUDIO_USD:
        price = add_audio(price, AUDIO_USD[model])
    if not PRIORITY_MODELS.match(model):
        return price
    priority = scaled_price(price, "priority", priority_factor(model))
    return replace(price, service_tiers={**price.service_tiers, "priority": priority})


COUNTED_ON_ARRIVAL: Final[ArrivalTokens] = "input and max_tokens"
"""Source: https://learn.microsoft.com/azure/ai-foundry/openai/how-to/quota (read 2026-11-30)."""

_azure = partial(
    openai_compatible,
    authorize=api_key_header("api-key"),
    request_id_header="apim-request-id",
    limits=per_renewal_period(read_rate_limits),
    health_url=_models_url,
    schema_support=SCHEMA_SUPPORT,
    price_listing=PriceListing("azure", adjust=add_service_tiers),
    batch=BatchApi(wire=openai_batch.WIRE, base_url=_batch_url, limits=BATCH_LIMITS),
    counted_on_arrival=COUNTED_ON_ARRIVAL,
)
_ENV: Final = ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT")
_VARIABLES: Final = (("api_key", "AZURE_OPENAI_API_KEY"), ("base_url", "AZURE_OPENAI_ENDPOINT"))

ENTRIES: Final = (
    _azure(
        "azure",
        "",
        *_ENV,
        locate=_chat_url,
        adapt=adapt_chat,
        takes_recordings=True,
        embeddings=embed_service("", openai_embeddings.BASE64_WIRE, PACK_LIMITS, locate=_embeddings_url),
        environment_variables=(*_VARIABLES, ("api_version", "OPENAI_API_VERSION")),
    ),
    text_completions(
        "azure",
        "",
        *_ENV,
        locate=_completions_url,
        authorize=api_key_header("api-key"),
        request_id_header="apim-request-id",
        limits=per_renewal_period(read_rate_limits),
        health_url=_models_url,
        price_listing=PriceListing("azure", adjust=add_service_tiers),
        environment_variables=(*_VARIABLES, ("api_version", "OPENAI_API_VERSION")),
        counted_on_arrival=COUNTED_ON_ARRIVAL,
    ),
    _azure(
        "azure-responses",
        "",
        *_ENV,
        wire=openai_responses.WIRE,
        locate=_responses_url,
        adapt=adapt_responses,
        checks=(check_min_tokens,),
        refused_parts=(CacheMark,),
        environment_variables=_VARIABLES,
    ),
)
