"""A service of llmhub (``llmhub serve``) in the place of every provider: Chat Completions, and the cost it states.

Models keep their names: ``openai/gpt-4o-mini`` is the model of that name at the service, which has the credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from returns.result import Result

from llmhub.core.embedding import EmbedRequest
from llmhub.core.errors import LLMError
from llmhub.core.provider import EmbedWire, Endpoint, PackLimits, Provider
from llmhub.core.types import CacheMark, Payload, Reasoning
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.registry import PROVIDERS
from llmhub.wire import openai_chat, openai_embeddings

API_PATH: Final = "/v1"
LANE_HEADER: Final = "x-llmhub-lane"
LIMITS: Final = PackLimits(texts=256, tokens=100_000)


def service_providers() -> Mapping[str, Provider]:
    """Return all providers as they are reached through a service.

    Examples
    --------
    >>> openai = service_providers()["openai"]
    >>> openai.adapt({"model": "gpt-4o-mini"}), openai.required_env
    ({'model': 'openai/gpt-4o-mini'}, ())
    """
    return {name: _provider(name, has_embeddings=known.embeddings is not None) for name, known in PROVIDERS.items()}


def in_bulk_lane(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint of a service with which requests wait in its bulk lane.

    Examples
    --------
    >>> dict(in_bulk_lane(Endpoint("https://llm.example/v1")).headers)
    {'x-llmhub-lane': 'bulk'}
    """
    return replace(endpoint, headers={**endpoint.headers, LANE_HEADER: "bulk"})


def _provider(name: str, *, has_embeddings: bool) -> Provider:
    def with_provider(payload: Payload) -> Payload:
        return {**payload, "model": f"{name}/{payload['model']}"}

    return openai_compatible(
        name,
        wire=openai_chat.SIGNED_WIRE,
        refused_parts=(Reasoning, CacheMark),
        takes_tool_images=True,
        takes_document_urls=True,
        takes_answer_images=True,
        adapt=with_provider,
        embeddings=_embed_wire(name) if has_embeddings else None,
        pack_limits=LIMITS,
        reports_cost=True,
    ).provider


def _embed_wire(name: str) -> EmbedWire:
    wire = openai_embeddings.WIRE

    def encode(request: EmbedRequest) -> Result[Payload, LLMError]:
        return wire.encode(replace(request, model=f"{name}/{request.model}"))

    return replace(wire, encode=encode)
