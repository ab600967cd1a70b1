"""Anthropic, and what is known of its Claude models wherever they are served.

Sources: https://platform.claude.com/docs/en/about-claude/models/migration-guide (no sampling parameters from Opus 4.7
on, on Bedrock too), https://platform.claude.com/docs/en/build-with-claude/pdf-support,
https://docs.anthropic.com/en/api/rate-limits (read 2026-11-22).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from llmhub.core.batch import BatchApi
from llmhub.core.provider import Endpoint, HttpRequest, Provider, TokenCountService
from llmhub.providers.auth import api_key_header
from llmhub.providers.model_profiles import (
    InputModalities,
    ModelProfiles,
    RefusedParameters,
    TokenLimits,
    ToolForcedSchema,
)
from llmhub.providers.rate_limit_headers import HeaderTable, parse_count, parse_rfc3339, rate_limit_reader
from llmhub.providers.schema_support import DATE_FORMATS, NETWORK_FORMATS, SchemaSupport
from llmhub.providers.vendor import PriceListing, completion_url, fixed_url, keep_fields, provider_entry
from llmhub.wire import anthropic, anthropic_batch

BASE_URL: Final = "https://api.anthropic.com"
DEFAULT_API_VERSION: Final = "2023-06-01"

RATE_LIMIT_HEADERS: Final[HeaderTable] = {
    f"{field}_{counted}{unit}": ((f"anthropic-ratelimit-{counted.replace('_', '-')}-{field}",), parse)
    for counted in ("requests", "tokens", "input_tokens", "output_tokens")
    for field, unit, parse in (
        ("limit", "", parse_count),
        ("remaining", "", parse_count),
        ("reset", "_s", parse_rfc3339),
    )
}

COUNTED_FIELDS: Final = frozenset({"model", "system", "messages", "tools", "tool_choice", "thinking", "output_config"})
"""Fields of a request whose tokens are counted: https://platform.claude.com/docs/en/api/messages-count-tokens."""
SAMPLING_PARAMETERS: Final = ("temperature", "top_p", "top_k")

CLAUDE_MODELS: Final = ModelProfiles(
    refused=(
        RefusedParameters(r"claude-(opus-4-[78]|(opus|sonnet|fable|mythos)-5|haiku-5-5)(?!\d)", SAMPLING_PARAMETERS),
    ),
    # https://platform.claude.com/docs/en/build-with-claude/structured-outputs: from Claude 4.5 on, and Opus 4.1
    tool_forced_schemas=(
        ToolForcedSchema(r"claude-(instant|v?[123]\b|v?[123]-|(opus|sonnet)-4(-0)?([-@]20\d{6}|[-@]v|$))"),
    ),
    no_reasoning_with_forced_tool="claude",
    token_limits=(
        TokenLimits(r"claude-(haiku|opus|sonnet)-4-5", 200_000, 64_000),
        TokenLimits(r"claude-opus-4-1", 200_000, 32_000),
    ),
    input_modalities=(InputModalities(r"claude-(haiku|opus|sonnet)-4-[15]", ("text", "image", "document")),),
)
"""Claude, by Anthropic's names of its models, which those of Bedrock and Vertex AI contain."""

CLAUDE_SCHEMA_SUPPORT: Final = SchemaSupport(
    source="https://platform.claude.com/docs/en/build-with-claude/structured-outputs and what anthropic 2.14.0 does in "
    "transform_schema (read 2026-11-27)",
    allowed_values={"minItems": frozenset({0, 1}), "format": DATE_FORMATS | NETWORK_FORMATS | {"uri"}},
)


def authorize(endpoint: Endpoint, request: HttpRequest, now: float) -> HttpRequest:
    """Add the key and the API version, which is a header."""
    version = {"anthropic-version": endpoint.api_version or DEFAULT_API_VERSION}
    versioned = replace(request, headers={**request.headers, **version})
    return api_key_header("x-api-key")(endpoint, versioned, now)


ENTRIES: Final = (
    provider_entry(
        Provider(
            "anthropic",
            anthropic.WIRE,
            BASE_URL,
            locate=completion_url(BASE_URL, "/v1/messages"),
            authorize=authorize,
            limits=rate_limit_reader(RATE_LIMIT_HEADERS),
            required_env=(("ANTHROPIC_API_KEY",),),
            request_id_header="request-id",
            signature_covers_body=False,
            health_url=fixed_url(BASE_URL, "/v1/models"),
            token_counts=TokenCountService(
                locate=lambda endpoint, _model: (endpoint.base_url or BASE_URL) + "/v1/messages/count_tokens",
                payload=partial(keep_fields, COUNTED_FIELDS),
                field="input_tokens",
            ),
            batch=BatchApi(wire=anthropic_batch.WIRE, base_url=fixed_url(BASE_URL, "")),
        ),
        models=replace(
            CLAUDE_MODELS,
            refused=(RefusedParameters("", SAMPLING_PARAMETERS, api_version="2026-10-21"), *CLAUDE_MODELS.refused),
        ),
        schema_support=CLAUDE_SCHEMA_SUPPORT,
        price_listing=PriceListing("anthropic"),
        environment_variables=(("api_key", "ANTHROPIC_API_KEY"), ("base_url", "ANTHROPIC_BASE_URL")),
    ),
)
