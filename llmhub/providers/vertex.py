"""Google Cloud's Vertex AI: Gemini and Claude in a project and a region, under a Google Cloud token.

An endpoint's ``base_url`` may be a host, with or without the API version, or reach into a project's region.

Sources: https://cloud.google.com/vertex-ai/docs/reference/rest and, for the regions' hosts, the clients of anthropic
2.12.0 and google-genai 3.4.0 (read 2026-11-22).
"""

from __future__ import annotations

from functools import partial
from typing import Final
from urllib.parse import quote

from llmhub.core.batch import BatchApi
from llmhub.core.embedding import EmbedRequest
from llmhub.core.errors import Hint, InvalidRequest, LLMError
from llmhub.core.provider import EmbedService, Endpoint, PackLimits, Provider, TokenCountService
from llmhub.core.types import CompletionRequest, Payload
from llmhub.providers.anthropic import CLAUDE_MODELS, CLAUDE_SCHEMA_SUPPORT
from llmhub.providers.auth import bearer_token
from llmhub.providers.google import GEMINI_MODELS, GEMINI_SCHEMA_SUPPORT, read_rate_limits
from llmhub.providers.vendor import PriceListing, drop_field, keep_fields, last_segment, provider_entry
from llmhub.wire import anthropic, gemini, gemini_embeddings, vertex_batch

DEFAULT_API_VERSION: Final = "v1"
DEFAULT_REGION: Final = "global"
MULTI_REGION_HOSTS: Final = {
    "global": "aiplatform.googleapis.com",
    "us": "aiplatform.us.rep.googleapis.com",
    "eu": "aiplatform.eu.rep.googleapis.com",
}
"""Hosts of regions that span several places; every other region has a host of its own."""

COLLECTIONS: Final = frozenset({"publishers", "endpoints"})
"""Collections that a model's name may begin with; a bare name is one of the entry's publisher."""

PROJECTS_PATH: Final = "/projects/"
COUNTED_FIELDS: Final = frozenset({"contents", "systemInstruction", "tools", "generationConfig"})
"""Fields of a request whose tokens are counted."""
CLAUDE_VERSION: Final = {"anthropic_version": "vertex-2023-10-16"}


def _url(
    publisher: str, method: str, stream_method: str, endpoint: Endpoint, request: CompletionRequest, stream: bool
) -> str:
    return _method_url(publisher, stream_method if stream else method, endpoint, request.model)


def _embeddings_url(endpoint: Endpoint, request: EmbedRequest) -> str:
    method = "embedContent" if gemini_embeddings.takes_content(request.model) else "predict"
    return _method_url("google", method, endpoint, request.model)


def _embeddings_limits(model: str) -> PackLimits:
    """Return the limits of a request: newer models take one text.

    Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/embeddings/get-text-embeddings (read 2026-11-30).
    """
    if gemini_embeddings.takes_content(model) or model.startswith("gemini-embedding"):
        return PackLimits(texts=1, tokens=8192)
    return PackLimits(texts=250, tokens=20_000, text_tokens=2048)


def _method_url(publisher: str, method: str, endpoint: Endpoint, model: str) -> str:
    """Return the URL of a model in the endpoint's project and region, and of the method."""
    base = _location_url(endpoint)
    path = model if model.partition("/")[0] in COLLECTIONS else f"publishers/{publisher}/models/{model}"
    return f"{base}/{quote(path, safe='/@', errors='surrogatepass')}:{method}"


def _location_url(endpoint: Endpoint) -> str:
    """Return the URL of the endpoint's project in its region."""
    region = endpoint.region or DEFAULT_REGION
    version = quote(endpoint.api_version or DEFAULT_API_VERSION, safe="")
    base = endpoint.base_url or f"https://{_host(region)}"
    if PROJECTS_PATH in base:
        return base
    location = f"{PROJECTS_PATH}{quote(endpoint.project, safe=':')}/locations/{quote(region, safe='')}"
    return f"{base.removesuffix(f'/{version}')}/{version}{location}"


def _storage_url(endpoint: Endpoint) -> str:
    """Return the address of Cloud Storage, or of an emulator beside an address that is none of Google's."""
    base = endpoint.base_url.partition(PROJECTS_PATH)[0].removesuffix("/v1")
    return base if base and ".googleapis.com" not in base else "https://storage.googleapis.com"


def _models_url(publisher: str, endpoint: Endpoint) -> str:
    """Return the URL of a publisher's models, which every project may list."""
    base = endpoint.base_url or f"https://{_host(endpoint.region or DEFAULT_REGION)}"
    return f"{base.partition(PROJECTS_PATH)[0].removesuffix('/v1')}/v1beta1/publishers/{publisher}/models"


def _host(region: str) -> str:
    return MULTI_REGION_HOSTS.get(region) or f"{region}-aiplatform.googleapis.com"


def _check_project(name: str, endpoint: Endpoint, _request: CompletionRequest) -> LLMError | None:
    """Require the project that is billed."""
    if endpoint.project or PROJECTS_PATH in endpoint.base_url:
        return None
    hint = Hint("project", provider=name, environment=(("GOOGLE_CLOUD_PROJECT",),))
    return InvalidRequest(path="$.endpoint.project", message=f"{name} bills a Google Cloud project", hint=hint)


def _adapt_claude(payload: Payload) -> Payload:
    """Move the model out of the body, since it is in the URL, and the version of Claude's API into it."""
    return {**CLAUDE_VERSION, **drop_field("model", payload)}


_batch = partial(BatchApi, base_url=_location_url, needs_storage="gs://", storage_url=_storage_url)
_vertex = partial(
    Provider,
    base_url=f"https://{MULTI_REGION_HOSTS[DEFAULT_REGION]}",
    authorize=bearer_token,
    limits=read_rate_limits,
    required_env=(("VERTEX_ACCESS_TOKEN", "GOOGLE_CLOUD_PROJECT"),),
    signature_covers_body=False,
)

ENTRIES: Final = (
    provider_entry(
        _vertex(
            "vertex",
            gemini.WIRE,
            locate=partial(_url, "google", "generateContent", "streamGenerateContent?alt=sse"),
            request_id_header="",
            health_url=partial(_models_url, "google"),
            token_counts=TokenCountService(
                locate=partial(_method_url, "google", "countTokens"),
                payload=partial(keep_fields, COUNTED_FIELDS),
                field="totalTokens",
            ),
            embeddings=EmbedService(gemini_embeddings.VERTEX_WIRE, _embeddings_url, _embeddings_limits),
            batch=_batch(wire=vertex_batch.WIRE),
        ),
        checks=(partial(_check_project, "vertex"),),
        models=GEMINI_MODELS,
        schema_support=GEMINI_SCHEMA_SUPPORT,
        price_listing=PriceListing("google", last_segment),
        environment_variables=(
            ("api_key", "VERTEX_ACCESS_TOKEN"),
            ("project", "GOOGLE_CLOUD_PROJECT"),
            ("region", "GOOGLE_CLOUD_LOCATION"),
            ("base_url", "GOOGLE_VERTEX_BASE_URL"),
        ),
    ),
    provider_entry(
        _vertex(
            "vertex-anthropic",
            anthropic.WIRE,
            locate=partial(_url, "anthropic", "rawPredict", "streamRawPredict"),
            adapt=_adapt_claude,
            request_id_header="request-id",
            health_url=partial(_models_url, "anthropic"),
            batch=_batch(wire=vertex_batch.CLAUDE_WIRE),
        ),
        checks=(partial(_check_project, "vertex-anthropic"),),
        models=CLAUDE_MODELS,
        schema_support=CLAUDE_SCHEMA_SUPPORT,
        price_listing=PriceListing("google", last_segment),
        environment_variables=(
            ("api_key", "VERTEX_ACCESS_TOKEN"),
            ("project", "ANTHROPIC_VERTEX_PROJECT_ID"),
            ("project", "GOOGLE_CLOUD_PROJECT"),
            ("region", "CLOUD_ML_REGION"),
            ("region", "GOOGLE_CLOUD_LOCATION"),
            ("base_url", "ANTHROPIC_VERTEX_BASE_URL"),
        ),
    ),
)
