"""Names of the OpenTelemetry semantic conventions for generative AI, by version, as one table. Pure.

The conventions are in development and moved to a repository of their own in 2026; released packages lag behind. A
version is one row, so that a program can keep the names that its backend knows.

Sources: https://github.com/open-telemetry/semantic-conventions-genai/blob/024a4f94/docs/gen-ai/client-inference.md and
docs/gen-ai/non-normative/migration.md at 32c328e8 (read 2026-11-30);
https://github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-metrics.md by that migration
guide (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from llmhub.core.errors import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """One version of the conventions.

    Parameters
    ----------
    version
        Name of the version.
    schema_url
        URL of the schema that spans and metrics refer to; empty if none is published.
    cache_write_tokens
        Attribute of input tokens that were written to the provider's cache.
    duration, first_chunk
        Histograms of the duration of a request and of its time to the first chunk, in seconds.
    token_usage
        One histogram of all tokens, with the attribute ``gen_ai.token.type``; ``None`` for the instruments below.
    usage_counters
        Counters of tokens by class, with the attribute ``gen_ai.token.modality``.
    token_histograms
        Histograms of tokens per request, by class.
    """

    version: str
    schema_url: str
    cache_write_tokens: str
    duration: str
    first_chunk: str
    token_usage: str | None
    usage_counters: Mapping[str, str]
    token_histograms: Mapping[str, str]


DEVELOPMENT: Final = Conventions(
    version="development",
    schema_url="",
    cache_write_tokens="gen_ai.usage.cache_write.input_tokens",
    duration="gen_ai.client.inference.duration",
    first_chunk="gen_ai.client.inference.time_to_first_chunk",
    token_usage=None,
    usage_counters=MappingProxyType(
        {
            "input_tokens": "gen_ai.client.inference.usage.input_tokens",
            "output_tokens": "gen_ai.client.inference.usage.output_tokens",
            "cached_input_tokens": "gen_ai.client.inference.usage.cache_read.input_tokens",
            "cache_write_tokens": "gen_ai.client.inference.usage.cache_write.input_tokens",
            "reasoning_tokens": "gen_ai.client.inference.usage.reasoning.output_tokens",
        }
    ),
    token_histograms=MappingProxyType(
        {
            "input_tokens": "gen_ai.client.inference.operation.input_tokens",
            "output_tokens": "gen_ai.client.inference.operation.output_tokens",
        }
    ),
)
V1_41: Final = replace(
    DEVELOPMENT,
    version="1.41",
    schema_url="https://opentelemetry.io/schemas/1.41.0",
    cache_write_tokens="gen_ai.usage.cache_creation.input_tokens",
    duration="gen_ai.client.operation.duration",
    first_chunk="gen_ai.client.operation.time_to_first_chunk",
    token_usage="gen_ai.client.token.usage",  # noqa: S106 - the name of a metric
    usage_counters=MappingProxyType({}),
    token_histograms=MappingProxyType({}),
)
VERSIONS: Final[Mapping[str, Conventions]] = MappingProxyType({row.version: row for row in (DEVELOPMENT, V1_41)})
LATEST: Final = "development"

# Names that are the same in every version above.

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
STREAM: Final = "gen_ai.request.stream"
OUTPUT_TYPE: Final = "gen_ai.output.type"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
TOKEN_MODALITY: Final = "gen_ai.token.modality"  # noqa: S105 - the name of an attribute
UNKNOWN_MODALITY: Final = "unknown"

REQUEST_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "temperature": "gen_ai.request.temperature",
        "top_p": "gen_ai.request.top_p",
        "top_k": "gen_ai.request.top_k",
        "max_tokens": "gen_ai.request.max_tokens",
        "stop": "gen_ai.request.stop_sequences",
        "seed": "gen_ai.request.seed",
        "presence_penalty": "gen_ai.request.presence_penalty",
        "frequency_penalty": "gen_ai.request.frequency_penalty",
        "reasoning_effort": "gen_ai.request.reasoning.level",
    }
)
"""Attributes of a request by field of `CompletionRequest`."""
CHOICE_COUNT: Final = "gen_ai.request.choice.count"
USAGE_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input_tokens": "gen_ai.usage.input_tokens",
        "output_tokens": "gen_ai.usage.output_tokens",
        "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
        "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    }
)
"""Attributes of a response by field of `Usage`, besides `Conventions.cache_write_tokens`."""

PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openai-responses": "openai",
        "google": "gcp.gemini",
        "vertex": "gcp.vertex_ai",
        "vertex-anthropic": "gcp.vertex_ai",
        "bedrock": "aws.bedrock",
        "azure": "azure.ai.openai",
        "mistral": "mistral_ai",
        "moonshot": "moonshot_ai",
        "watsonx": "ibm.watsonx.ai",
        "xai": "x_ai",
    }
)
"""Names of providers in the conventions, where they differ from ours."""
OPERATIONS: Final[Mapping[str, str]] = MappingProxyType({"google": "generate_content", "vertex": "generate_content"})
"""Names of the operation by provider, where it is not `CHAT`."""
CHAT: Final = "chat"
EMBEDDINGS: Final = "embeddings"
RERANK: Final = "rerank"
"""Name of an operation that the conventions do not have."""
DIMENSIONS: Final = "gen_ai.embeddings.dimension.count"
SECONDS_BOUNDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds that the conventions advise for histograms of durations."""
TOKEN_BOUNDS: Final = tuple(float(4**exponent) for exponent in range(14))
"""Bounds that the conventions advise for histograms of tokens."""


def conventions(version: str) -> Conventions:
    """Return a version of the conventions.

    Raises
    ------
    BadRequestError
        There is no such version.

    Examples
    --------
    >>> conventions("1.41").duration
    'gen_ai.client.operation.duration'
    """
    try:
        return VERSIONS[version]
    except KeyError:
        raise invalid("conventions", f"must be one of {', '.join(VERSIONS)}, not {version!r:.80}") from None
