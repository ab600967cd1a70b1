"""All providers by name, and the facts about them that are looked up by name.

To add a provider, write its file and add its module to `VENDORS`. A plugin adds a `Provider` without touching this
list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType, ModuleType
from typing import Final

from llmhub.core.model_metadata import ModelMetadata
from llmhub.core.provider import Provider
from llmhub.providers import (
    alibaba,
    anthropic,
    anthropic_compatible,
    avian,
    azure,
    bedrock,
    cerebras,
    cloudflare,
    cohere,
    databricks,
    deepseek,
    fireworks,
    github_models,
    google,
    groq,
    huggingface,
    jina,
    litellm,
    llamacpp,
    lmstudio,
    mistral,
    moonshot,
    nvidia,
    ollama,
    openai,
    openai_compatible,
    openrouter,
    perplexity,
    sambanova,
    snowflake,
    together,
    vercel,
    vertex,
    vllm,
    voyage,
    watsonx,
    xai,
    zai,
)
from llmhub.providers.model_profiles import metadata_from_profiles
from llmhub.providers.vendor import PriceListing, ProviderEntry

VENDORS: Final = (
    openai,
    azure,
    anthropic,
    google,
    vertex,
    bedrock,
    openai_compatible,
    anthropic_compatible,
    groq,
    mistral,
    deepseek,
    together,
    openrouter,
    fireworks,
    xai,
    cerebras,
    perplexity,
    huggingface,
    ollama,
    vllm,
    databricks,
    cohere,
    voyage,
    jina,
    sambanova,
    nvidia,
    moonshot,
    zai,
    alibaba,
    avian,
    github_models,
    cloudflare,
    vercel,
    snowflake,
    watsonx,
    lmstudio,
    llamacpp,
    litellm,
)
"""Modules whose ``ENTRIES`` are the providers, in the order in which they are listed to users."""


def collect(vendors: Iterable[ModuleType]) -> Mapping[str, ProviderEntry]:
    """Return the entries of vendors' modules by provider name, read-only."""
    return MappingProxyType({entry.provider.name: entry for vendor in vendors for entry in vendor.ENTRIES})


ENTRIES: Final = collect(VENDORS)
PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType({name: entry.provider for name, entry in ENTRIES.items()})
"""Every provider by name; read-only."""

ENVIRONMENT_VARIABLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {name: entry.environment_variables for name, entry in ENTRIES.items() if entry.environment_variables}
)
"""Fields of an endpoint and the environment variables that set them, for providers with names of their own."""


CLOUD_VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {"AWS_SECRET_ACCESS_KEY": "aws", "VERTEX_ACCESS_TOKEN": "google", "AZURE_OPENAI_API_KEY": "azure"}
)
"""Clouds whose own credentials a provider takes, by a variable that it reads."""


@lru_cache(maxsize=len(CLOUD_VARIABLES))
def providers_of_cloud(cloud: str) -> frozenset[str]:
    """Return the providers that take the credentials of a cloud (``aws``, ``google`` or ``azure``).

    Examples
    --------
    >>> sorted(providers_of_cloud("google"))
    ['vertex', 'vertex-anthropic']
    """
    variables = {variable for variable, of in CLOUD_VARIABLES.items() if of == cloud}
    return frozenset(
        name for name, rows in ENVIRONMENT_VARIABLES.items() if any(variable in variables for _, variable in rows)
    )


PROVIDER_ALIASES: Final[Mapping[str, str]] = MappingProxyType({
    **dict.fromkeys(("gemini", "google-ai", "googleai", "google_genai", "palm"), "google"),
    **dict.fromkeys(("vertex_ai", "vertexai", "google-vertex", "google_vertexai"), "vertex"),
    **dict.fromkeys(("azure_openai", "azure-openai", "azureopenai", "azure_ai"), "azure"),
    **dict.fromkeys(("aws", "amazon", "aws-bedrock", "bedrock_converse"), "bedrock"),
    **dict.fromkeys(("claude",), "anthropic"),
    **dict.fromkeys(("gpt", "chatgpt", "openai-chat"), "openai"),
    **dict.fromkeys(("grok", "x-ai", "x_ai"), "xai"),
    **dict.fromkeys(("together_ai", "togetherai"), "together"),
    **dict.fromkeys(("fireworks_ai", "fireworksai"), "fireworks"),
    **dict.fromkeys(("hf", "hugging_face"), "huggingface"),
    **dict.fromkeys(("mistralai", "mistral_ai"), "mistral"),
    **dict.fromkeys(("hosted_vllm",), "vllm"),
    **dict.fromkeys(("ollama_chat",), "ollama"),
})  # fmt: skip
"""Names of providers in other libraries, suggested where one is used."""


def price_listing(provider: str) -> PriceListing:
    """Return where a provider's prices are listed; one without a listing is looked up by its own name."""
    entry = ENTRIES.get(provider)
    return (entry.price_listing if entry else None) or PriceListing(provider)


@lru_cache(maxsize=1024)
def model_metadata(provider: str, model: str) -> ModelMetadata:
    """Return what is known of a model; what is not known is ``None`` or empty.

    Examples
    --------
    >>> model_metadata("openai", "gpt-4o-mini").context_window
    128000
    >>> model_metadata("openai", "o3").unsupported_params
    ('temperature', 'top_p', 'presence_penalty', 'frequency_penalty', 'stop')
    >>> model_metadata("openai", "gpt-5").reasoning_efforts
    ('minimal', 'low', 'medium', 'high')
    """
    entry = ENTRIES.get(provider)
    return (
        metadata_from_profiles(provider, entry.models, model)
        if entry
        else ModelMetadata(provider=provider, model=model)
    )
