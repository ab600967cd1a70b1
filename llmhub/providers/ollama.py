"""Ollama: its OpenAI-compatible endpoint, and its own chat API, which also sets how to think and every model option."""

from __future__ import annotations

from typing import Final

from llmhub.core.provider import Endpoint
from llmhub.core.types import CacheMark, CompletionRequest
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.wire import ollama, openai_embeddings

BASE_URL: Final = "http://localhost:11434"


def _url(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Return the URL of the chat API, whether ``base_url`` is the server or its compatible endpoint."""
    return (endpoint.base_url or BASE_URL).removesuffix("/v1") + "/api/chat"


def _models_url(endpoint: Endpoint) -> str:
    return (endpoint.base_url or BASE_URL).removesuffix("/v1") + "/api/tags"


ENTRIES: Final = (
    openai_compatible(
        "ollama",
        f"{BASE_URL}/v1",
        refused_parts=(CacheMark,),
        takes_tool_images=True,
        embeddings=openai_embeddings.WIRE,
    ),
    openai_compatible(
        "ollama-native",
        BASE_URL,
        wire=ollama.WIRE,
        locate=_url,
        refused_parts=(CacheMark,),
        request_id_header="",
        health_url=_models_url,
        environment_variables=(("api_key", "OLLAMA_API_KEY"), ("base_url", "OLLAMA_BASE_URL")),
    ),
)
