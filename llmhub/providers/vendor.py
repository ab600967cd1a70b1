"""The record a provider's file is written in, and the small functions those files share.

One file a vendor holds all that llmhub knows of it: where it is reached and how it is authorized, its dialect, its
models, the schema keywords it supports, its price listing and its environment variables. `llmhub.providers.registry`
collects them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import TypeAlias
from urllib.parse import quote

from llmhub.core.embedding import EmbedRequest
from llmhub.core.errors import DROP_HINT, Hint, InvalidRequest, LLMError, Unsupported
from llmhub.core.pricing import Price, PriceTier, Rates
from llmhub.core.provider import EmbedService, EmbedWire, Endpoint, PackLimits, Provider
from llmhub.core.reasoning_details import REASONING_DETAILS
from llmhub.core.recording import is_recording
from llmhub.core.types import CompletionRequest, Document, Image, Opaque, Part, Payload, ToolResult
from llmhub.providers.model_profiles import UNKNOWN_MODELS, ModelProfiles, check_model, structured_output_mode
from llmhub.providers.schema_support import SchemaSupport, relax_schema
from llmhub.wire.writers import inline_data

Check: TypeAlias = Callable[[Endpoint, CompletionRequest], LLMError | None]
"""Return an error for a request that is known to fail, before it is sent."""


def same_name(model: str) -> str:
    """Return ``model`` unchanged."""
    return model


def last_segment(model: str) -> str:
    """Return the model's name from a resource name or ARN.

    Examples
    --------
    >>> last_segment("publishers/google/models/gemini-2.5-pro")
    'gemini-2.5-pro'
    """
    return model.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class PriceListing:
    """Where a provider stands in the price table of genai-prices.

    Parameters
    ----------
    provider_id
        Its id in the table.
    model_name
        From a model's name at the provider to its name in the table.
    adjust
        From a model's name in the table and its price there to its price, for fees and service tiers that the table
        does not have.
    upstream
        For a gateway at the prices of others: the table's id of each provider that a model's name begins with.
    sheet
        Published prices of models that the table does not have.
    """

    provider_id: str
    model_name: Callable[[str], str] = same_name
    adjust: Callable[[str, Price], Price] | None = None
    upstream: Mapping[str, str] | None = None
    sheet: PriceSheet | None = None


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """Prices that a provider publishes and the table of genai-prices lacks.

    Parameters
    ----------
    date
        When they were read, as ``YYYY-MM-DD``.
    rates
        Rates by model; and, where longer requests have others, those by the number of input tokens above which they
        apply.
    """

    date: str
    rates: Mapping[str, Rates | Mapping[int, Rates]]

    def price(self, provider_id: str, model: str) -> Price | None:
        """Return the price of a model, ``None`` if it is not on the sheet."""
        listed = self.rates.get(model)
        if listed is None:
            return None
        tiers = {0: listed} if isinstance(listed, Rates) else listed
        return Price(
            price_id=f"llmhub:{provider_id}/{model}@{self.date}",
            source=f"llmhub {self.date}",
            rates=tiers[0],
            tiers=tuple(PriceTier(above, rates) for above, rates in tiers.items() if above),
        )


def per_million(input_usd: str, output_usd: str, *, cached: str | None = None, reasoning: str | None = None) -> Rates:
    """Return rates that are given in US dollars per million tokens.

    Examples
    --------
    >>> per_million("0.4", "1.2").output
    Decimal('0.0000012')
    """
    usd = [None if text is None else Decimal(text).scaleb(-6) for text in (cached, reasoning)]
    return Rates(
        input=Decimal(input_usd).scaleb(-6),
        output=Decimal(output_usd).scaleb(-6),
        cached_input=usd[0],
        reasoning=usd[1],
    )


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A provider and the facts about it that are looked up by its name.

    Parameters
    ----------
    models
        What is known of its models; the checks among it are already bound to ``provider``.
    price_listing
        Where its prices are; ``None`` where none are published.
    environment_variables
        Fields of `Endpoint` and the environment variables that set them, the first that is set winning. Empty for a
        provider with the usual ``<NAME>_API_KEY`` and ``<NAME>_BASE_URL``.
    """

    provider: Provider
    models: ModelProfiles = UNKNOWN_MODELS
    price_listing: PriceListing | None = None
    environment_variables: tuple[tuple[str, str], ...] = field(default=())


def provider_entry(
    provider: Provider,
    *,
    checks: tuple[Check, ...] = (),
    models: ModelProfiles = UNKNOWN_MODELS,
    schema_support: SchemaSupport | None = None,
    price_listing: PriceListing | None = None,
    environment_variables: tuple[tuple[str, str], ...] = (),
) -> ProviderEntry:
    """Bind what is known of models and schemas to ``provider``.

    Parameters
    ----------
    checks
        Run in this order before the check of the model itself; the first error is the answer.
    schema_support
        Keywords of JSON Schema that it enforces; ``None`` where every schema is sent as it is.
    """
    bound = replace(
        provider,
        unsupported=partial(first_error, (*checks, partial(check_model, provider.name, models))),
        structured_output_mode=partial(structured_output_mode, models),
        relax_schema=provider.relax_schema if schema_support is None else partial(relax_schema, schema_support),
    )
    return ProviderEntry(bound, models, price_listing, environment_variables)


def first_error(checks: tuple[Check, ...], endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Return the error of the first check that fails."""
    return next((error for check in checks if (error := check(endpoint, request)) is not None), None)


# Checks


def check_base_url(name: str, endpoint: Endpoint, _request: CompletionRequest) -> LLMError | None:
    """Require an address for a provider that has no public one."""
    if endpoint.base_url:
        return None
    hint = Hint("base_url", provider=name)
    return InvalidRequest(path="$.endpoint.base_url", message=f"{name} has no public address", hint=hint)


def check_parts(
    name: str, refused: frozenset[type[Part]], _endpoint: Endpoint, request: CompletionRequest
) -> LLMError | None:
    """Refuse message parts that the wire has and this server rejects."""
    for message_index, message in enumerate(request.messages):
        for part_index, part in enumerate(message.parts):
            if type(part) in refused:
                path = f"$.messages[{message_index}].parts[{part_index}]"
                return Unsupported(path=path, message=f"{name} does not take a {type(part).__name__}", hint=DROP_HINT)
    return None


def check_reasoning_details(name: str, _endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Refuse structured reasoning, which only gateways take back."""
    for message_index, message in enumerate(request.messages):
        for part_index, part in enumerate(message.parts):
            if isinstance(part, Opaque) and part.kind == REASONING_DETAILS:
                path = f"$.messages[{message_index}].parts[{part_index}]"
                return Unsupported(path=path, message=f"{name} does not take reasoning details", hint=DROP_HINT)
    return None


def check_media(
    name: str, tool_images: bool, document_urls: bool, _endpoint: Endpoint, request: CompletionRequest
) -> LLMError | None:
    """Refuse images in tool results and documents by URL where the server does not take them.

    Parameters
    ----------
    tool_images, document_urls
        Whether it takes them.
    """
    for message_index, message in enumerate(request.messages):
        for part_index, part in enumerate(message.parts):
            match part:
                case ToolResult(content=content) if not tool_images and any(isinstance(it, Image) for it in content):
                    refused, remedy = "an image in a tool's result", "describe it in text"
                case Document() if not document_urls and part.url and inline_data(part) is None:
                    refused, remedy = "a document by URL", "pass its bytes"
                case _:
                    continue
            path = f"$.messages[{message_index}].parts[{part_index}]"
            return Unsupported(path=path, message=f"{name} does not take {refused}; {remedy}", hint=DROP_HINT)
    return None


def check_recordings(name: str, _endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Refuse recordings of earlier answers where the server does not know them by their id."""
    for message_index, message in enumerate(request.messages):
        for part_index, part in enumerate(message.parts):
            if message.role == "assistant" and is_recording(part):
                path = f"$.messages[{message_index}].parts[{part_index}]"
                return Unsupported(path=path, message=f"{name} does not take a recording; send its transcript")
    return None


def check_answer_images(name: str, _endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Refuse images of earlier answers where the server does not take them in an assistant message."""
    for message_index, message in enumerate(request.messages):
        for part_index, part in enumerate(message.parts):
            if message.role == "assistant" and isinstance(part, Image):
                path = f"$.messages[{message_index}].parts[{part_index}]"
                refusal = f"{name} takes no image in an assistant message; pass it in a user message"
                return Unsupported(path=path, message=refusal)
    return None


# URLs


def completion_url(base_url: str, path: str) -> Callable[[Endpoint, CompletionRequest, bool], str]:
    """Return the ``locate`` function of an API whose path is the same for every model."""
    return lambda endpoint, _request, _stream: (endpoint.base_url or base_url) + path


def embed_service(
    base_url: str,
    wire: EmbedWire,
    limits: PackLimits,
    *,
    locate: Callable[[Endpoint, EmbedRequest], str] | None = None,
    path: str = "/embeddings",
) -> EmbedService:
    """Return the embeddings of an API whose path and limits are the same for every model."""

    def url(endpoint: Endpoint, _request: EmbedRequest) -> str:
        return (endpoint.base_url or base_url) + path

    return EmbedService(wire, locate or url, lambda _model: limits)


def fixed_url(base_url: str, path: str = "/models") -> Callable[[Endpoint], str]:
    """Return the ``health_url`` function of an API with a fixed path, by default its list of models."""
    return lambda endpoint: (endpoint.base_url or base_url) + path


def quote_model(model: str) -> str:
    """Percent-encode a model's name as one path segment.

    Examples
    --------
    >>> quote_model("anthropic.claude-v2:1")
    'anthropic.claude-v2%3A1'
    """
    return quote(model, safe="", errors="surrogatepass")


# Dialects


def same_payload(payload: Payload) -> Payload:
    """Return ``payload`` unchanged: the dialect of a server without one."""
    return payload


def rename_field(old: str, new: str, payload: Mapping[str, object]) -> Payload:
    """Return ``payload`` with the field ``old`` under the name ``new``, in the same place.

    Examples
    --------
    >>> rename_field("seed", "random_seed", {"seed": 1, "n": 2})
    {'random_seed': 1, 'n': 2}
    """
    return {new if name == old else name: value for name, value in payload.items()}


def keep_fields(wanted: frozenset[str], _model: str, payload: Mapping[str, object]) -> Payload:
    """Return the fields of ``payload`` that are ``wanted``.

    Examples
    --------
    >>> keep_fields(frozenset({"model"}), "m", {"model": "m", "max_tokens": 9})
    {'model': 'm'}
    """
    return {name: value for name, value in payload.items() if name in wanted}


def drop_field(unwanted: str, payload: Mapping[str, object]) -> Payload:
    """Return ``payload`` without the field ``unwanted``."""
    return {name: value for name, value in payload.items() if name != unwanted}
