"""Google's Gemini API, and what is known of Gemini models wherever they are served.

Sources: https://ai.google.dev/api, https://ai.google.dev/gemini-api/docs/models (read 2026-11-22).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import quote

from llmhub.core.batch import BatchApi
from llmhub.core.embedding import EmbedRequest
from llmhub.core.provider import Endpoint, HttpReply, PackLimits, Provider, RateLimitInfo, TokenCountService
from llmhub.core.types import CompletionRequest, Payload
from llmhub.providers.auth import api_key_header
from llmhub.providers.model_profiles import InputModalities, ModelProfiles, TokenLimits, ToolForcedSchema
from llmhub.providers.rate_limit_headers import read_retry_headers
from llmhub.providers.schema_support import SchemaSupport
from llmhub.providers.vendor import PriceListing, embed_service, last_segment, provider_entry, quote_model
from llmhub.wire import gemini, gemini_batch, gemini_embeddings

BASE_URL: Final = "https://generativelanguage.googleapis.com"
DEFAULT_API_VERSION: Final = "v1beta"
COLLECTIONS: Final = frozenset({"models", "tunedModels"})
"""Collections that a model's name may begin with; ``models`` is the default."""

GEMINI_MODELS: Final = ModelProfiles(
    # https://github.com/googleapis/python-genai/issues/867: tools and a schema together, only from Gemini 3 on
    tool_forced_schemas=(ToolForcedSchema(r"gemini-[12]\.", only_with_tools=True),),
    token_limits=(TokenLimits(r"gemini-2\.5-(pro|flash|flash-lite)$", 1_048_576, 65_536),),
    input_modalities=(
        InputModalities(
            r"gemini-(2\.5-pro|(2\.5|3\.5)-flash(-lite)?)$", ("text", "image", "document", "audio", "video")
        ),
    ),
)

GEMINI_SCHEMA_SUPPORT: Final = SchemaSupport(
    source="https://ai.google.dev/api/generate-content: responseJsonSchema, of which these alone are supported "
    "(read 2026-11-27)",
    keywords=frozenset({"minimum", "maximum", "minItems", "maxItems", "format"}),
)


def read_rate_limits(reply: HttpReply) -> RateLimitInfo:
    """Read how long to wait, which Google puts in an error's body (``RetryInfo``)."""
    info = read_retry_headers(reply)
    if info.retry_after_s is not None or reply.status < 400:  # noqa: PLR2004 - HTTP errors
        return info
    return replace(info, retry_after_s=gemini.decode_error(reply).retry_after_s)


def _url(endpoint: Endpoint, request: CompletionRequest, stream: bool) -> str:
    return _method_url(endpoint, request.model, "streamGenerateContent?alt=sse" if stream else "generateContent")


def _embeddings_url(endpoint: Endpoint, request: EmbedRequest) -> str:
    return _method_url(endpoint, request.model, "batchEmbedContents")


def _method_url(endpoint: Endpoint, model: str, method: str) -> str:
    """Return the URL of a model, named with or without its collection, and of the method."""
    collection, slash, name = model.partition("/")
    if not slash or collection not in COLLECTIONS:
        collection, name = "models", model
    version = quote(endpoint.api_version or DEFAULT_API_VERSION, safe="")
    return f"{endpoint.base_url or BASE_URL}/{version}/{collection}/{quote_model(name)}:{method}"


def _version_url(endpoint: Endpoint) -> str:
    return f"{endpoint.base_url or BASE_URL}/{quote(endpoint.api_version or DEFAULT_API_VERSION, safe='')}"


def _count_payload(model: str, payload: Payload) -> Payload:
    return {"generateContentRequest": {"model": model if "/" in model else f"models/{model}", **payload}}


def _models_url(endpoint: Endpoint) -> str:
    return f"{_version_url(endpoint)}/models"


ENTRIES: Final = (
    provider_entry(
        Provider(
            "google",
            gemini.WIRE,
            BASE_URL,
            locate=_url,
            authorize=api_key_header("x-goog-api-key"),
            limits=read_rate_limits,
            required_env=(("GEMINI_API_KEY",), ("GOOGLE_API_KEY",)),
            request_id_header="",
            signature_covers_body=False,
            health_url=_models_url,
            token_counts=TokenCountService(
                locate=lambda endpoint, model: _method_url(endpoint, model, "countTokens"),
                payload=_count_payload,
                field="totalTokens",
            ),
            embeddings=embed_service(
                BASE_URL,
                gemini_embeddings.WIRE,
                PackLimits(texts=100, tokens=200_000),  # https://ai.google.dev/gemini-api/docs/embeddings
                locate=_embeddings_url,
            ),
            batch=BatchApi(wire=gemini_batch.WIRE, base_url=_version_url, embed_wire=gemini_batch.EMBED_WIRE),
        ),
        models=GEMINI_MODELS,
        schema_support=GEMINI_SCHEMA_SUPPORT,
        price_listing=PriceListing("google", last_segment),
        environment_variables=(
            ("api_key", "GOOGLE_API_KEY"),
            ("api_key", "GEMINI_API_KEY"),
            ("base_url", "GOOGLE_GEMINI_BASE_URL"),
        ),
    ),
)
