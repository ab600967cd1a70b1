"""Cohere: an OpenAI-compatible endpoint, and its own API, which also has citations, thinking and embeddings.

Source: https://docs.cohere.com/docs/compatibility-api (read 2026-11-30).
"""

from __future__ import annotations

from typing import Final

from llmhub.core.embedding import EmbedRequest
from llmhub.core.provider import Endpoint, PackLimits
from llmhub.core.types import CacheMark, CompletionRequest
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, embed_service
from llmhub.wire import cohere_chat, cohere_embeddings, reranking

BASE_URL: Final = "https://api.cohere.com"
COMPATIBLE_BASE_URL: Final = "https://api.cohere.ai/compatibility/v1"


def own_api_url(endpoint: Endpoint, path: str) -> str:
    """Return a URL of Cohere's own API, whether ``base_url`` is the server or its compatible endpoint."""
    base = endpoint.base_url or BASE_URL
    return base.removesuffix("/v2").removesuffix("/compatibility/v1") + path


def _embeddings_url(endpoint: Endpoint, _request: EmbedRequest) -> str:
    return own_api_url(endpoint, "/v2/embed")


def _chat_url(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    return own_api_url(endpoint, "/v2/chat")


def _models_url(endpoint: Endpoint) -> str:
    return own_api_url(endpoint, "/v1/models")


EMBEDDINGS: Final = embed_service(
    BASE_URL, cohere_embeddings.WIRE, PackLimits(texts=96, tokens=100_000), locate=_embeddings_url
)

RERANKING: Final = embed_service(
    BASE_URL,
    reranking.WIRE,
    PackLimits(texts=1000, tokens=100_000),
    locate=lambda endpoint, _request: own_api_url(endpoint, "/v2/rerank"),
)

ENTRIES: Final = (
    openai_compatible(
        "cohere",
        COMPATIBLE_BASE_URL,
        "COHERE_API_KEY",
        health_url=None,
        price_listing=PriceListing("cohere"),
        embeddings=EMBEDDINGS,
        reranking=RERANKING,
    ),
    openai_compatible(
        "cohere-native",
        BASE_URL,
        "COHERE_API_KEY",
        wire=cohere_chat.WIRE,
        locate=_chat_url,
        refused_parts=(CacheMark,),
        request_id_header="x-debug-trace-id",
        health_url=_models_url,
        price_listing=PriceListing("cohere"),
        embeddings=EMBEDDINGS,
        reranking=RERANKING,
        environment_variables=(("api_key", "COHERE_API_KEY"), ("base_url", "CO_API_URL")),
    ),
)
