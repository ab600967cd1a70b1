"""What is known of models, as rows: which parameters they refuse, how they reason, how much they hold.

A row is here only where a source says so; a model without one is left to its provider, which knows best.
What is refused here would be refused there, so no call is spent on it.

Sources: https://platform.claude.com/docs/en/about-claude/models/migration-guide (no sampling from Opus 4.7 on,
on Bedrock too), https://developers.openai.com/api/docs/guides/reasoning, the model pages beside them,
https://developers.openai.com/docs/guides/pdf-files (models that see also read PDFs),
https://platform.claude.com/docs/en/build-with-claude/pdf-support, https://ai.google.dev/gemini-api/docs/models
and https://api-docs.deepseek.com (read 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from llmhub.core.errors import DROP_HINT, LLMError, Unsupported
from llmhub.core.forced_tool import StructuredOutputMode
from llmhub.core.model_metadata import ModelMetadata
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest

SAMPLING_PARAMETERS: Final = ("temperature", "top_p", "top_k")


REASONING_REFUSED_PARAMETERS: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop")


DEFAULT_PARAMETER_VALUES: Final[Mapping[str, float]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Values a reasoning model of OpenAI takes all the same, since they change nothing."""


@dataclass(frozen=True, slots=True)
class RefusedParameters:
    """Parameters that a provider's models refuse; ``version`` where only that version of its API does."""

    providers: tuple[str, ...]
    pattern: str
    parameters: tuple[str, ...]
    api_version: str = ""


@dataclass(frozen=True, slots=True)
class ReasoningFamily:
    """How models whose names begin so reason; no ``efforts`` where they are not known for certain."""

    prefix: str
    default_on: bool
    can_disable: bool = False
    efforts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """How many tokens a provider's models take in all, and give at most."""

    providers: tuple[str, ...]
    pattern: str
    context_window: int
    max_output_tokens: int


OPENAI_PROVIDERS: Final = ("openai", "openai-responses")
"""Rows that ask OpenAI itself."""


NON_REASONING_PREFIXES: Final = ("gpt-3", "gpt-4", "chatgpt-4o", "gpt-5-chat")
"""How the names of OpenAI's models begin that do not reason, and refuse to be asked for their reasoning encrypted."""


@dataclass(frozen=True, slots=True)
class InputModalities:
    """What a provider's models take in a prompt."""

    providers: tuple[str, ...]
    pattern: str
    modalities: tuple[str, ...]


REFUSED_PARAMETERS: Final = (
    RefusedParameters(("anthropic",), "", SAMPLING_PARAMETERS, api_version="2026-10-21"),
    RefusedParameters(
        ("anthropic", "bedrock", "vertex-anthropic"),
        r"claude-(opus-4-[78]|(opus|sonnet|fable|mythos)-5|haiku-5-5)(?!\d)",
        SAMPLING_PARAMETERS,
    ),
)


@dataclass(frozen=True, slots=True)
class ToolForcedSchema:
    """Models that have no mode which holds an answer to a schema, or have none ``beside`` tools."""

    providers: tuple[str, ...]
    pattern: str
    only_with_tools: bool = False


CLAUDE_PROVIDERS: Final = ("anthropic", "bedrock", "vertex-anthropic")


TOOL_FORCED_SCHEMAS: Final = (
    # https://platform.claude.com/docs/en/build-with-claude/structured-outputs: from Claude 4.5 on, and Opus 4.1
    ToolForcedSchema(
        CLAUDE_PROVIDERS, r"claude-(instant|v?[123]\b|v?[123]-|(opus|sonnet)-4(-0)?([-@]20\d{6}|[-@]v|$))"
    ),
    # https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html: others are not on its list
    ToolForcedSchema(("bedrock",), r"amazon\.nova|meta\.llama|cohere\.command|ai21\.jamba"),
    # https://console.groq.com/docs/structured-outputs: the models on its list are those named here
    ToolForcedSchema(("groq",), r"^(?!openai/gpt-oss|meta-llama/llama-4|moonshotai/kimi-k2)"),
    # https://api-docs.deepseek.com/guides/json_mode: an object, but of no schema
    ToolForcedSchema(("deepseek",), ""),
    # https://platform.openai.com/docs/guides/structured-outputs: from gpt-4o-2024-08-06 on
    ToolForcedSchema(("openai", "openai-responses"), r"^(gpt-3\.5|gpt-4(-turbo|-\d{4}|-32k|$)|gpt-4o-2024-05-13)"),
    # https://github.com/googleapis/python-genai/issues/867: tools and a schema together, only from Gemini 3 on
    ToolForcedSchema(("google", "vertex"), r"gemini-[12]\.", only_with_tools=True),
)


EFFORTS_TO_HIGH: Final = ("low", "medium", "high")


EFFORTS_TO_XHIGH: Final = ("none", *EFFORTS_TO_HIGH, "xhigh")


REASONING_FAMILIES: Final = (
    ReasoningFamily("gpt-6-astra", default_on=True),
    ReasoningFamily("gpt-6.1-sol", default_on=True),
    ReasoningFamily("gpt-5.6", default_on=True, can_disable=True, efforts=(*EFFORTS_TO_XHIGH, "max")),
    ReasoningFamily("gpt-5.5-pro", default_on=True),
    ReasoningFamily("gpt-5.5", default_on=True, can_disable=True, efforts=EFFORTS_TO_XHIGH),
    ReasoningFamily("gpt-5.4-pro", default_on=True),
    ReasoningFamily("gpt-5.4", default_on=False, can_disable=True, efforts=EFFORTS_TO_XHIGH),
    ReasoningFamily("gpt-5.3-chat", default_on=True),
    ReasoningFamily("gpt-5.3", default_on=False, can_disable=True),
    ReasoningFamily("gpt-5.2-pro", default_on=True),
    ReasoningFamily("gpt-5.2-chat", default_on=True),
    ReasoningFamily("gpt-5.2", default_on=False, can_disable=True, efforts=EFFORTS_TO_XHIGH),
    ReasoningFamily("gpt-5.1-codex", default_on=True),
    ReasoningFamily("gpt-5.1-chat", default_on=True),
    ReasoningFamily("gpt-5.1", default_on=False, can_disable=True, efforts=("none", *EFFORTS_TO_HIGH)),
    ReasoningFamily("gpt-5-pro", default_on=True, efforts=("high",)),
    ReasoningFamily("gpt-5-chat", default_on=False, can_disable=True),
    ReasoningFamily("gpt-5", default_on=True, efforts=("minimal", *EFFORTS_TO_HIGH)),
    ReasoningFamily("o1", default_on=True),
    ReasoningFamily("o3", default_on=True, efforts=EFFORTS_TO_HIGH),
    ReasoningFamily("o4-mini", default_on=True, efforts=EFFORTS_TO_HIGH),
)
"""OpenAI's reasoning models; the first prefix that fits counts, so the longer stands before the shorter."""


TOKEN_LIMITS: Final = (
    TokenLimits(OPENAI_PROVIDERS, r"gpt-4o(-mini)?(-\d{4}-\d\d-\d\d)?$", 128_000, 16_384),
    TokenLimits(OPENAI_PROVIDERS, r"gpt-4\.1(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", 1_047_576, 32_768),
    TokenLimits(OPENAI_PROVIDERS, r"gpt-5(\.[12])?(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", 400_000, 128_000),
    TokenLimits(OPENAI_PROVIDERS, r"(o1|o3|o3-mini|o4-mini)(-\d{4}-\d\d-\d\d)?$", 200_000, 100_000),
    TokenLimits(("anthropic", "bedrock", "vertex-anthropic"), r"claude-(haiku|opus|sonnet)-4-5", 200_000, 64_000),
    TokenLimits(("anthropic", "bedrock", "vertex-anthropic"), r"claude-opus-4-1", 200_000, 32_000),
    TokenLimits(("google", "vertex"), r"gemini-2\.5-(pro|flash|flash-lite)$", 1_048_576, 65_536),
)


VISION_MODALITIES: Final = ("text", "image", "document")


INPUT_MODALITIES: Final = (
    InputModalities(OPENAI_PROVIDERS, r"(gpt-4o|gpt-4\.1|gpt-5)(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", VISION_MODALITIES),
    InputModalities(OPENAI_PROVIDERS, r"(o1|o3|o4-mini)(-\d{4}-\d\d-\d\d)?$", VISION_MODALITIES),
    InputModalities(OPENAI_PROVIDERS, r"o3-mini(-\d{4}-\d\d-\d\d)?$", ("text",)),
    InputModalities(
        ("anthropic", "bedrock", "vertex-anthropic"), r"claude-(haiku|opus|sonnet)-4-[15]", VISION_MODALITIES
    ),
    InputModalities(
        ("google", "vertex"), r"gemini-(2\.5-pro|(2\.5|3\.5)-flash(-lite)?)$", (*VISION_MODALITIES, "audio", "video")
    ),
)


def check_supported(provider: str, endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Say what this model is known not to take, before anything is sent; ``None`` where nothing is known.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="claude-opus-4-7", messages=(Message("user", "hi"),), temperature=0)
    >>> check_supported("anthropic", Endpoint(), ask).path
    '$.temperature'
    """
    for quirk in REFUSED_PARAMETERS:
        if provider not in quirk.providers or not re.search(quirk.pattern, request.model):
            continue
        if quirk.api_version and quirk.api_version != endpoint.api_version:
            continue
        who = f"{provider} under api version {quirk.api_version}" if quirk.api_version else request.model
        for field in quirk.parameters:
            if getattr(request, field) is not None:
                return _unsupported(field, f"{who} does not take {field}")
    return (
        _check_openai_reasoning(request)
        if provider in OPENAI_PROVIDERS
        else _check_forced_tool_reasoning(provider, request)
    )


def _check_forced_tool_reasoning(provider: str, request: CompletionRequest) -> LLMError | None:
    """Refuse to let Claude reason while it must call a tool, as it must where that holds it to a schema."""
    wanted, effort = request.response_schema, request.reasoning_effort
    thinks = "reasoning_budget" if request.reasoning_budget else "reasoning_effort"
    if (
        wanted is None
        or provider not in CLAUDE_PROVIDERS
        or not (request.reasoning_budget or effort not in {None, "none"})
    ):
        return None
    if (wanted.via or structured_output_mode(provider, request)) == "native" or "claude" not in request.model:
        return None
    return _unsupported(thinks, f"{request.model} does not reason while a tool holds its answer to a schema")


def structured_output_mode(provider: str, request: CompletionRequest) -> StructuredOutputMode:
    """Say how a model is held to a schema: by its own mode, or by a tool that it must call.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="claude-3-haiku-20240307", messages=(Message("user", "hi"),))
    >>> structured_output_mode("anthropic", ask), structured_output_mode("openai", ask)
    ('tool', 'native')
    """
    for row in TOOL_FORCED_SCHEMAS:
        if (
            provider in row.providers
            and re.search(row.pattern, request.model)
            and (request.tools or not row.only_with_tools)
        ):
            return "tool"
    return "native"


@lru_cache(maxsize=1024)
def model_metadata(provider: str, model: str) -> ModelMetadata:
    """Give what is known of a model; what is not stays ``None``.

    Examples
    --------
    >>> model_metadata("openai", "gpt-4o-mini").context_window
    128000
    >>> model_metadata("openai", "o3").unsupported_params
    ('temperature', 'top_p', 'presence_penalty', 'frequency_penalty', 'stop')
    >>> model_metadata("openai", "gpt-5").reasoning_efforts
    ('minimal', 'low', 'medium', 'high')
    """
    window = next((row for row in TOKEN_LIMITS if provider in row.providers and re.search(row.pattern, model)), None)
    refused = [
        field
        for quirk in REFUSED_PARAMETERS
        if provider in quirk.providers and not quirk.api_version and re.search(quirk.pattern, model)
        for field in quirk.parameters
    ]
    family = _family(model) if provider in OPENAI_PROVIDERS else None
    return ModelMetadata(
        provider=provider,
        model=model,
        context_window=window.context_window if window else None,
        max_output_tokens=window.max_output_tokens if window else None,
        unsupported_params=(*refused, *(REASONING_REFUSED_PARAMETERS if family and family.default_on else ())),
        unsupported_when_reasoning=(*refused, *(REASONING_REFUSED_PARAMETERS if family else ())),
        reasons_by_default=family.default_on if family else None,
        can_disable_reasoning=family.can_disable if family else None,
        reasoning_efforts=family.efforts if family else (),
        input_modalities=next(
            (row.modalities for row in INPUT_MODALITIES if provider in row.providers and re.search(row.pattern, model)),
            (),
        ),
    )


def is_reasoning_model(model: str) -> bool:
    """Say whether a model of OpenAI's may be asked for its reasoning; one that is not known may.

    Examples
    --------
    >>> is_reasoning_model("gpt-4o-mini"), is_reasoning_model("gpt-5-mini")
    (False, True)
    """
    return not model.startswith(NON_REASONING_PREFIXES)


def _family(model: str) -> ReasoningFamily | None:
    return next((family for family in REASONING_FAMILIES if model.startswith(family.prefix)), None)


def _check_openai_reasoning(request: CompletionRequest) -> LLMError | None:
    """Refuse an effort that a family does not know, and steering while it reasons."""
    family = _family(request.model)
    if family is None:
        return None
    effort = request.reasoning_effort
    if effort is not None and effort not in (family.efforts or (effort,)):
        return _unsupported("reasoning_effort", f"{request.model} takes {', '.join(family.efforts)}, not {effort!r}")
    if effort == "none" and not family.can_disable:
        return _unsupported("reasoning_effort", f"{request.model} cannot stop reasoning")
    if not (family.default_on if effort is None else effort != "none"):
        return None
    for field in REASONING_REFUSED_PARAMETERS:
        value = getattr(request, field)
        if value not in {None, (), DEFAULT_PARAMETER_VALUES.get(field)}:
            remedy = "; it does with reasoning_effort='none'" if family.can_disable else ""
            return _unsupported(field, f"{request.model} does not take {field} while it reasons{remedy}")
    return None


def _unsupported(field: str, said: str) -> Unsupported:
    return Unsupported(path=f"$.{field}", message=said, hint=DROP_HINT)
