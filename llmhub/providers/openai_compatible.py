"""OpenAI-compatible servers: Chat Completions at any address, and the defaults that each such provider starts from.

A compatible provider is one call of `openai_compatible` in a file of its own; only what differs is passed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from llmhub.core.batch import BatchApi
from llmhub.core.provider import (
    ArrivalTokens,
    EmbedService,
    EmbedWire,
    Endpoint,
    HttpReply,
    HttpRequest,
    PackLimits,
    Provider,
    RateLimitInfo,
    Wire,
)
from llmhub.core.types import CacheMark, CompletionRequest, Part, Payload, Reasoning
from llmhub.providers.auth import bearer_token
from llmhub.providers.model_profiles import UNKNOWN_MODELS, ModelProfiles
from llmhub.providers.rate_limit_headers import (
    HeaderTable,
    parse_count,
    parse_go_duration,
    per_window_headers,
    rate_limit_reader,
    tightest,
)
from llmhub.providers.schema_support import SchemaSupport
from llmhub.providers.vendor import (
    Check,
    PriceListing,
    ProviderEntry,
    check_answer_images,
    check_base_url,
    check_media,
    check_parts,
    check_reasoning_details,
    check_recordings,
    completion_url,
    embed_service,
    fixed_url,
    provider_entry,
    rename_field,
    same_payload,
)
from llmhub.wire import openai_chat, openai_completions, openai_embeddings

CHAT_PATH: Final = "/chat/completions"
RESPONSES_PATH: Final = "/responses"
COMPLETIONS_PATH: Final = "/completions"
EMBEDDINGS_PATH: Final = "/embeddings"
RERANK_LIMITS: Final = PackLimits(texts=1000, tokens=100_000)
"""Limits of a request for scores, below those of every provider that publishes them."""
OWN_SERVER_LIMITS: Final = PackLimits(texts=256, tokens=100_000)
"""Texts and tokens of one request to a server whose limits are those that its user has set."""
REASONING_FIELD: Final = "reasoning_content"
"""Field of an assistant message in which the wire sends earlier reasoning."""

RATE_LIMIT_HEADERS: Final[HeaderTable] = {
    **per_window_headers("requests", "tokens"),
    "reset_requests_s": (("x-ratelimit-reset-requests",), parse_go_duration),
    "reset_tokens_s": (("x-ratelimit-reset-tokens",), parse_go_duration),
    "limit_images": (("x-ratelimit-limit-input-images",), parse_count),
    "remaining_images": (("x-ratelimit-remaining-input-images",), parse_count),
    "reset_images_s": (("x-ratelimit-reset-input-images",), parse_go_duration),
}
"""Headers of OpenAI, which most compatible servers copy; those of images were in recorded replies of 2025."""

PROJECT_HEADERS: Final[HeaderTable] = {
    "limit_tokens": (("x-ratelimit-limit-project-tokens",), parse_count),
    "remaining_tokens": (("x-ratelimit-remaining-project-tokens",), parse_count),
    "reset_tokens_s": (("x-ratelimit-reset-project-tokens",), parse_go_duration),
}
"""Headers of a project's own limit of tokens, which applies beside the organization's."""

read_rate_limits: Final = tightest(rate_limit_reader(RATE_LIMIT_HEADERS), rate_limit_reader(PROJECT_HEADERS))


def openai_compatible(
    name: str,
    base_url: str = "",
    *required_env: str,
    wire: Wire = openai_chat.WIRE,
    refused_parts: tuple[type[Part], ...] = (Reasoning, CacheMark),
    takes_reasoning_details: bool = False,
    takes_tool_images: bool = False,
    takes_document_urls: bool = False,
    takes_recordings: bool = False,
    takes_answer_images: bool = False,
    checks: tuple[Check, ...] = (),
    locate: Callable[[Endpoint, CompletionRequest, bool], str] | None = None,
    authorize: Callable[[Endpoint, HttpRequest, float], HttpRequest] = bearer_token,
    limits: Callable[[HttpReply], RateLimitInfo] = read_rate_limits,
    adapt: Callable[[Payload], Payload] = same_payload,
    request_id_header: str = "x-request-id",
    health_url: Callable[[Endpoint], str] | str | None = "/models",
    models: ModelProfiles = UNKNOWN_MODELS,
    schema_support: SchemaSupport | None = None,
    price_listing: PriceListing | None = None,
    environment_variables: tuple[tuple[str, str], ...] = (),
    embeddings: EmbedService | EmbedWire | None = None,
    pack_limits: PackLimits = OWN_SERVER_LIMITS,
    batch: BatchApi | None = None,
    reranking: EmbedService | EmbedWire | None = None,
    reports_cost: bool = False,
    counted_on_arrival: ArrivalTokens = "",
) -> ProviderEntry:
    """Return the entry of a server that speaks Chat Completions under a bearer token.

    Parameters
    ----------
    base_url
        Its public address up to and excluding ``/chat/completions``; empty where it has none.
    required_env
        Environment variables that must all be set for it to be used.
    refused_parts
        Message parts that the wire has and this server rejects. Earlier reasoning is sent only to servers that were
        recorded answering a request with it, or whose documentation names the field.
    takes_reasoning_details
        Whether it takes back ``reasoning_details``, the structured reasoning of gateways.
    takes_tool_images, takes_document_urls
        Whether it takes images in the results of tools, and documents by their address.
    takes_recordings
        Whether it takes its recordings back, by their id.
    takes_answer_images
        Whether it takes back the images of its answers, in ``images`` of an assistant message.
    checks
        Further checks of a request, after those of its parts.
    health_url
        What a GET asks to validate a key: a path, a function of the endpoint, or ``None`` where nothing is suitable.
    embeddings
        Its embeddings, or the wire of those at the usual path; ``None`` where it has none.
    pack_limits
        Limits of a request for embeddings at the usual path.
    batch
        Its Batch API.
    reranking
        Its scores of texts for a query, or the wire of those at the usual path.
    reports_cost
        Whether its replies are documented to state what it charged, in USD.
    counted_on_arrival
        What its limit of tokens counts as a request arrives, however little of it is used.
    """
    checks = (partial(check_parts, name, frozenset(refused_parts)), *checks)
    if wire.name == openai_chat.WIRE.name and not takes_reasoning_details:
        checks = (*checks, partial(check_reasoning_details, name))
    if wire.name == openai_chat.WIRE.name and not (takes_tool_images and takes_document_urls):
        checks = (*checks, partial(check_media, name, takes_tool_images, takes_document_urls))
    if not takes_recordings:
        checks = (*checks, partial(check_recordings, name))
    if wire.name == openai_chat.WIRE.name and not takes_answer_images:
        checks = (*checks, partial(check_answer_images, name))
    provider = Provider(
        name,
        wire,
        base_url,
        locate=locate or completion_url(base_url, CHAT_PATH),
        authorize=authorize,
        limits=limits,
        adapt=adapt,
        required_env=(required_env,) if required_env else (),
        request_id_header=request_id_header,
        signature_covers_body=False,
        health_url=fixed_url(base_url, health_url) if isinstance(health_url, str) else health_url,
        embeddings=embed_service(base_url, embeddings, pack_limits)
        if isinstance(embeddings, EmbedWire)
        else embeddings,
        batch=batch,
        reranking=embed_service(base_url, reranking, RERANK_LIMITS, path="/rerank")
        if isinstance(reranking, EmbedWire)
        else reranking,
        reports_cost=reports_cost,
        counted_on_arrival=counted_on_arrival,
    )
    return provider_entry(
        provider,
        checks=checks if base_url else (*checks, partial(check_base_url, name)),
        models=models,
        schema_support=schema_support,
        price_listing=price_listing,
        environment_variables=environment_variables,
    )


def text_completions(name: str, base_url: str = "", *required_env: str, **fields: Any) -> ProviderEntry:
    """Return the entry of a server's completions of a text, for base models: ``<name>-completions``."""
    return openai_compatible(
        f"{name}-completions",
        base_url,
        *required_env,
        wire=openai_completions.WIRE,
        refused_parts=(),
        **{"locate": completion_url(base_url, COMPLETIONS_PATH), **fields},
    )


def rename_reasoning(name: str, payload: Payload) -> Payload:
    """Send earlier reasoning under the field ``name``.

    Examples
    --------
    >>> rename_reasoning("reasoning", {"messages": [{"role": "assistant", "reasoning_content": "hm"}]})
    {'messages': [{'role': 'assistant', 'reasoning': 'hm'}]}
    """
    messages: Any = payload.get("messages") or ()
    if not any(REASONING_FIELD in message for message in messages):
        return payload
    return {**payload, "messages": [rename_field(REASONING_FIELD, name, message) for message in messages]}


ENTRIES: Final = (
    openai_compatible(
        "compatible",
        wire=openai_chat.SIGNED_WIRE,
        refused_parts=(CacheMark,),
        takes_reasoning_details=True,
        takes_recordings=True,
        takes_answer_images=True,
        embeddings=openai_embeddings.WIRE,
    ),
    text_completions("compatible"),
)
