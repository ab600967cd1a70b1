"""Amazon Bedrock's Converse, signed with AWS credentials or under a Bedrock API key.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference (read 2026-11-22).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llmhub.core.batch import BatchApi
from llmhub.core.embedding import EmbedRequest
from llmhub.core.errors import Hint, InvalidRequest, LLMError
from llmhub.core.provider import EmbedService, Endpoint, HttpRequest, PackLimits, Provider, TokenCountService
from llmhub.core.types import CompletionRequest, Payload
from llmhub.providers.anthropic import CLAUDE_MODELS, CLAUDE_SCHEMA_SUPPORT
from llmhub.providers.auth import DEFAULT_AWS_REGION, bearer_token, sigv4
from llmhub.providers.model_profiles import ToolForcedSchema
from llmhub.providers.rate_limit_headers import read_retry_headers
from llmhub.providers.vendor import PriceListing, keep_fields, last_segment, provider_entry, quote_model
from llmhub.wire import bedrock_batch, bedrock_converse, bedrock_embeddings

_sign = sigv4("bedrock")
_sign_storage = sigv4("s3")
AWS_HOST: Final = ".amazonaws.com"


def authorize(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
    """Send a Bedrock API key where the endpoint has one, else sign with its AWS credentials."""
    return (bearer_token if endpoint.api_key or endpoint.access_token else _sign)(endpoint, request, now)


def _url(endpoint: Endpoint, request: CompletionRequest, stream: bool) -> str:
    return _model_url(endpoint, request.model, "converse-stream" if stream else "converse")


def _embeddings_url(endpoint: Endpoint, request: EmbedRequest) -> str:
    return _model_url(endpoint, request.model, "invoke")


def _embeddings_limits(model: str) -> PackLimits:
    """Return the limits of a request: many texts to Cohere, one to Titan."""
    return PackLimits(texts=96, tokens=100_000) if bedrock_embeddings.is_cohere(model) else PackLimits(1, 8192, 8192)


def _model_url(endpoint: Endpoint, model: str, operation: str) -> str:
    """Return the URL of a model, named by its id, inference profile or ARN, in the endpoint's region."""
    base = endpoint.base_url or f"https://bedrock-runtime.{endpoint.region or DEFAULT_AWS_REGION}.amazonaws.com"
    return f"{base}/model/{quote_model(model)}/{operation}"


COUNTED_FIELDS: Final = frozenset({"messages", "system", "toolConfig", "additionalModelRequestFields"})
"""Fields of a request whose tokens are counted."""


def _count_payload(model: str, payload: Payload) -> Payload:
    return {"input": {"converse": keep_fields(COUNTED_FIELDS, model, payload)}}


def _models_url(endpoint: Endpoint) -> str:
    """Return the URL of the list of models."""
    return f"{_control_url(endpoint)}/foundation-models"


def _control_url(endpoint: Endpoint) -> str:
    """Return the address of the control plane, which has models and batches."""
    base = endpoint.base_url.replace("://bedrock-runtime.", "://bedrock.", 1)
    return base or f"https://bedrock.{endpoint.region or DEFAULT_AWS_REGION}{AWS_HOST}"


def _storage_url(endpoint: Endpoint) -> str:
    """Return the address of S3: that of the region, or below an address that is none of AWS."""
    base = endpoint.base_url
    if base and AWS_HOST not in base:
        return f"{base}/s3"
    return f"https://s3.{endpoint.region or DEFAULT_AWS_REGION}{AWS_HOST}"


def _authorize_batch(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
    """Sign requests to S3 for S3, and authorize others as completions."""
    is_storage = request.url.startswith(f"{_storage_url(endpoint)}/")
    return (_sign_storage if is_storage else authorize)(endpoint, request, now)


def _check_batch(endpoint: Endpoint) -> LLMError | None:
    """Require credentials that S3 takes, which an API key of Bedrock is not."""
    if endpoint.access_key_id and endpoint.secret_access_key:
        return None
    hint = Hint("access_key_id", environment=(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),), provider="bedrock")
    return InvalidRequest(path="$.endpoint.access_key_id", message="S3 takes no API key of Bedrock", hint=hint)


MODELS: Final = replace(
    CLAUDE_MODELS,
    tool_forced_schemas=(
        *CLAUDE_MODELS.tool_forced_schemas,
        # https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html: others are not on its list
        ToolForcedSchema(r"amazon\.nova|meta\.llama|cohere\.command|ai21\.jamba"),
    ),
)

SCHEMA_SUPPORT: Final = replace(
    CLAUDE_SCHEMA_SUPPORT,
    source="https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html: a schema with more than the "
    "subset is refused; what is not on the list for Claude is not sent (read 2026-11-27)",
)

ENTRIES: Final = (
    provider_entry(
        Provider(
            "bedrock",
            bedrock_converse.WIRE,
            f"https://bedrock-runtime.{DEFAULT_AWS_REGION}.amazonaws.com",
            locate=_url,
            authorize=authorize,
            limits=read_retry_headers,
            required_env=(("AWS_BEARER_TOKEN_BEDROCK",), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
            request_id_header="x-amzn-requestid",
            health_url=_models_url,
            token_counts=TokenCountService(
                locate=lambda endpoint, model: _model_url(endpoint, model, "count-tokens"),
                payload=_count_payload,
                field="inputTokens",
            ),
            embeddings=EmbedService(bedrock_embeddings.WIRE, _embeddings_url, _embeddings_limits),
            batch=BatchApi(
                wire=bedrock_batch.WIRE,
                base_url=_control_url,
                authorize=_authorize_batch,
                needs_storage="s3://",
                needs_role=True,
                storage_url=_storage_url,
                check=_check_batch,
                check_request=bedrock_batch.check_request,
            ),
        ),
        models=MODELS,
        schema_support=SCHEMA_SUPPORT,
        price_listing=PriceListing("aws", last_segment),
        environment_variables=(
            ("api_key", "AWS_BEARER_TOKEN_BEDROCK"),
            ("access_key_id", "AWS_ACCESS_KEY_ID"),
            ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
            ("session_token", "AWS_SESSION_TOKEN"),
            ("region", "AWS_REGION"),
            ("region", "AWS_DEFAULT_REGION"),
            ("base_url", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME"),
        ),
    ),
)
