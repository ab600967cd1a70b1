"""OpenAI: Chat Completions and Responses.

Sources: https://developers.openai.com/api/docs/guides/reasoning and the model pages beside it,
https://developers.openai.com/docs/guides/pdf-files (models that see also read PDFs),
https://platform.openai.com/docs/guides/rate-limits (read 2026-11-22).
"""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Final

from llmhub.core.batch import BatchApi
from llmhub.core.errors import InvalidRequest, LLMError
from llmhub.core.pricing import Price, audio_units, scaled_price
from llmhub.core.provider import Endpoint, PackLimits
from llmhub.core.types import CacheMark, CompletionRequest, Payload, Reasoning
from llmhub.providers.model_profiles import (
    InputModalities,
    ModelProfiles,
    ReasoningFamily,
    TokenLimits,
    ToolForcedSchema,
)
from llmhub.providers.openai_compatible import RESPONSES_PATH, openai_compatible, text_completions
from llmhub.providers.schema_support import DATE_FORMATS, NETWORK_FORMATS, NUMBER_KEYWORDS, SchemaSupport
from llmhub.providers.vendor import PriceListing, completion_url, drop_field, fixed_url, rename_field
from llmhub.wire import openai_batch, openai_embeddings, openai_responses
from llmhub.wire.readers import as_list, as_text

BASE_URL: Final = "https://api.openai.com/v1"
MIN_OUTPUT_TOKENS: Final = 16
"""Source: https://github.com/earendil-works/pi/issues/6265 (read 2026-11-22)."""
NON_REASONING_PREFIXES: Final = ("gpt-3", "gpt-4", "chatgpt-4o", "gpt-5-chat")
"""Names of models that do not reason begin so; those refuse to return reasoning encrypted."""


def adapt_chat(payload: Payload) -> Payload:
    """Rename ``max_tokens``, which OpenAI calls ``max_completion_tokens`` where the bound covers reasoning."""
    return rename_field("max_tokens", "max_completion_tokens", payload)


def adapt_responses(payload: Payload) -> Payload:
    """Ask only a model that reasons for its encrypted reasoning; a gateway's name of one begins with its maker."""
    if is_reasoning_model(as_text(payload.get("model")).rpartition("/")[2]):
        return payload
    include = [name for name in as_list(payload.get("include")) if name != openai_responses.ENCRYPTED_REASONING]
    return {**drop_field("include", payload), **({"include": include} if include else {})}


def check_min_tokens(_endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Require as many output tokens as the Responses API does; compatible servers take fewer."""
    if request.max_tokens is None or request.max_tokens >= MIN_OUTPUT_TOKENS:
        return None
    message = f"max_tokens={request.max_tokens!r} is below {MIN_OUTPUT_TOKENS}, the minimum of this API"
    return InvalidRequest(path="$.max_tokens", message=message)


def check_own_min_tokens(endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Require them at OpenAI's own address; the server at another one says itself what it requires."""
    return None if endpoint.base_url not in {"", BASE_URL} else check_min_tokens(endpoint, request)


def is_reasoning_model(model: str) -> bool:
    """Return whether a model of OpenAI may be asked for its reasoning; an unknown one may.

    Examples
    --------
    >>> is_reasoning_model("gpt-4o-mini"), is_reasoning_model("gpt-5-mini")
    (False, True)
    """
    return not model.startswith(NON_REASONING_PREFIXES)


FLEX_FACTOR: Final = Fraction(1, 2)
"""Flex and batch processing cost half as much."""
PRIORITY_FACTORS: Final = (
    (re.compile(r"gpt-5-mini"), Fraction(9, 5)),
    (re.compile(r"gpt-5\.5"), Fraction(5, 2)),
    (re.compile(r"gpt-4\.1-nano"), Fraction(2)),
    (re.compile(r"gpt-4\.1|o3"), Fraction(7, 4)),
    (re.compile(r"gpt-4o-mini"), Fraction(5, 3)),
    (re.compile(r"gpt-4o"), Fraction(17, 10)),
    (re.compile(r"o4-mini"), Fraction(20, 11)),
    (re.compile(""), Fraction(2)),
)
"""What priority processing costs, as a multiple of the standard price; the first pattern that matches counts.

Sources: https://openai.com/api-priority-processing/, https://developers.openai.com/api/docs/pricing (read 2026-11-30).
"""


AUDIO_USD: Final = {
    "gpt-4o-audio-preview": ("40", "80"),
    "gpt-4o-mini-audio-preview": ("10", "20"),
}
"""Rates of audio that the price table lacks: USD per million tokens of input and output.

Source: https://developers.openai.com/api/docs/pricing, as listed in LiteLLM 1.108.7 (read 2026-11-30).
"""
IMAGE_USD: Final = {
    "gpt-image-1": ("5", "10", "40", "40"),
    "gpt-image-1-mini": ("2", "2.5", "8", "8"),
    "gpt-image-1.5": ("5", "8", "10", "32"),
    "chatgpt-image-latest": ("5", "8", "10", "32"),
    "gpt-image-2": ("5", "8", "30", "30"),
    "gpt-image-2.5-flare": ("5", "8", "30", "30"),
    "gpt-image-2.5-sunburst": ("5", "8", "30", "30"),
}
"""What the image model costs that a tool of the Responses API calls, in USD per million tokens: text and images of its
input, text and images of its output.

Source: https://developers.openai.com/api/docs/pricing, as listed in LiteLLM 1.108.7 (read 2026-11-30).
"""
IMAGE_UNITS: Final = ("text_input_tokens", "image_input_tokens", "text_output_tokens", "image_output_tokens")
_IMAGE_PRICES: Final = {
    f"{model}:{unit}": Decimal(usd).scaleb(-6)
    for model, prices in IMAGE_USD.items()
    for unit, usd in zip(IMAGE_UNITS, prices, strict=True)
}


def priority_factor(model: str) -> Fraction:
    """Return what priority processing of a model costs, as a multiple of the standard price."""
    return next(factor for pattern, factor in PRIORITY_FACTORS if pattern.match(model))


def add_audio(price: Price, usd: tuple[str, str]) -> Price:
    """Return the price with rates of audio: USD per million tokens of input and output."""
    input_usd, output_usd = (Decimal(text).scaleb(-6) for text in usd)
    audio = audio_units(price.rates, input_usd=input_usd, output_usd=output_usd)
    return replace(price, units={**price.units, **audio})


def add_service_tiers(model: str, price: Price) -> Price:
    """Add the prices of flex, batch and priority processing, of audio, and of the images that a tool makes."""
    price = add_audio(price, AUDIO_USD[model]) if model in AUDIO_USD else price
    price = replace(price, units={**price.units, **_IMAGE_PRICES})
    factors = {"flex": FLEX_FACTOR, "batch": FLEX_FACTOR, "priority": priority_factor(model)}
    scaled = {tier: scaled_price(price, tier, factor) for tier, factor in factors.items()}
    return replace(price, service_tiers={**price.service_tiers, **scaled})


_TO_HIGH: Final = ("low", "medium", "high")
_TO_XHIGH: Final = ("none", *_TO_HIGH, "xhigh")
_VISION: Final = ("text", "image", "document")

MODELS: Final = ModelProfiles(
    reasoning=(
        ReasoningFamily("gpt-6-astra", default_on=True),
        ReasoningFamily("gpt-6.1-sol", default_on=True),
        ReasoningFamily("gpt-5.6", default_on=True, can_disable=True, efforts=(*_TO_XHIGH, "max")),
        ReasoningFamily("gpt-5.5-pro", default_on=True),
        ReasoningFamily("gpt-5.5", default_on=True, can_disable=True, efforts=_TO_XHIGH),
        ReasoningFamily("gpt-5.4-pro", default_on=True),
        ReasoningFamily("gpt-5.4", default_on=False, can_disable=True, efforts=_TO_XHIGH),
        ReasoningFamily("gpt-5.3-chat", default_on=True),
        ReasoningFamily("gpt-5.3", default_on=False, can_disable=True),
        ReasoningFamily("gpt-5.2-pro", default_on=True),
        ReasoningFamily("gpt-5.2-chat", default_on=True),
        ReasoningFamily("gpt-5.2", default_on=False, can_disable=True, efforts=_TO_XHIGH),
        ReasoningFamily("gpt-5.1-codex", default_on=True),
        ReasoningFamily("gpt-5.1-chat", default_on=True),
        ReasoningFamily("gpt-5.1", default_on=False, can_disable=True, efforts=("none", *_TO_HIGH)),
        ReasoningFamily("gpt-5-pro", default_on=True, efforts=("high",)),
        ReasoningFamily("gpt-5-chat", default_on=False, can_disable=True),
        ReasoningFamily("gpt-5", default_on=True, efforts=("minimal", *_TO_HIGH)),
        ReasoningFamily("o1", default_on=True),
        ReasoningFamily("o3-mini", default_on=True, efforts=_TO_HIGH, accepts=("stop",)),  # recorded with a 200
        ReasoningFamily("o3", default_on=True, efforts=_TO_HIGH),
        ReasoningFamily("o4-mini", default_on=True, efforts=_TO_HIGH),
    ),
    refused_while_reasoning=("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop"),
    accepted_values={"temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
    # https://platform.openai.com/docs/guides/structured-outputs: from gpt-4o-2024-08-06 on
    tool_forced_schemas=(ToolForcedSchema(r"^(gpt-3\.5|gpt-4(-turbo|-\d{4}|-32k|$)|gpt-4o-2024-05-13)"),),
    token_limits=(
        TokenLimits(r"gpt-4o(-mini)?(-\d{4}-\d\d-\d\d)?$", 128_000, 16_384),
        TokenLimits(r"gpt-4\.1(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", 1_047_576, 32_768),
        TokenLimits(r"gpt-5(\.[12])?(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", 400_000, 128_000),
        TokenLimits(r"(o1|o3|o3-mini|o4-mini)(-\d{4}-\d\d-\d\d)?$", 200_000, 100_000),
    ),
    input_modalities=(
        InputModalities(r"(gpt-4o|gpt-4\.1|gpt-5)(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", _VISION),
        InputModalities(r"(o1|o3|o4-mini)(-\d{4}-\d\d-\d\d)?$", _VISION),
        InputModalities(r"o3-mini(-\d{4}-\d\d-\d\d)?$", ("text",)),
    ),
)

SCHEMA_SUPPORT: Final = SchemaSupport(
    source="https://platform.openai.com/docs/guides/structured-outputs; for lengths "
    "https://github.com/pydantic/pydantic-ai/pull/7400 (read 2026-11-27)",
    keywords=NUMBER_KEYWORDS | {"minLength", "maxLength", "pattern", "minItems", "maxItems"},
    allowed_values={"format": DATE_FORMATS | NETWORK_FORMATS},
    strict_only=True,
)

_openai = partial(
    openai_compatible,
    models=MODELS,
    schema_support=SCHEMA_SUPPORT,
    price_listing=PriceListing("openai", adjust=add_service_tiers),
    environment_variables=(("api_key", "OPENAI_API_KEY"), ("base_url", "OPENAI_BASE_URL")),
    batch=BatchApi(wire=openai_batch.WIRE, base_url=fixed_url(BASE_URL, ""), embed_wire=openai_batch.WIRE),
    counted_on_arrival="max_tokens",  # https://platform.openai.com/docs/guides/rate-limits (read 2026-11-22)
)

PACK_LIMITS: Final = PackLimits(texts=2048, tokens=300_000, text_tokens=8192)
"""Source: https://platform.openai.com/docs/api-reference/embeddings/create (read 2026-11-30)."""

ENTRIES: Final = (
    _openai(
        "openai",
        BASE_URL,
        "OPENAI_API_KEY",
        adapt=adapt_chat,
        refused_parts=(Reasoning,),
        takes_recordings=True,
        embeddings=openai_embeddings.BASE64_WIRE,
        pack_limits=PACK_LIMITS,
    ),
    _openai(
        "openai-responses",
        BASE_URL,
        "OPENAI_API_KEY",
        wire=openai_responses.WIRE,
        locate=completion_url(BASE_URL, RESPONSES_PATH),
        adapt=adapt_responses,
        checks=(check_own_min_tokens,),
        refused_parts=(),
    ),
    text_completions(
        "openai",
        BASE_URL,
        "OPENAI_API_KEY",
        price_listing=PriceListing("openai", adjust=add_service_tiers),
        environment_variables=(("api_key", "OPENAI_API_KEY"), ("base_url", "OPENAI_BASE_URL")),
        counted_on_arrival="max_tokens",
    ),
    openai_compatible(
        "compatible-responses",
        wire=openai_responses.WIRE,
        locate=completion_url("", RESPONSES_PATH),
        adapt=adapt_responses,
        refused_parts=(CacheMark,),
    ),
)
