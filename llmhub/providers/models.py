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

from llmhub.core.errors import LLMError, Unsupported
from llmhub.core.metadata import ProviderMetadata
from llmhub.core.provider import Endpoint
from llmhub.core.structure import Form
from llmhub.core.types import CompletionRequest

SAMPLING: Final = ("temperature", "top_p", "top_k")
STEERING: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "stop")
NEUTRAL: Final[Mapping[str, float]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Values a reasoning model of OpenAI takes all the same, since they change nothing."""


@dataclass(frozen=True, slots=True)
class Quirk:
    """Parameters that a provider's models refuse; ``version`` where only that version of its API does."""

    providers: tuple[str, ...]
    pattern: str
    refused: tuple[str, ...]
    version: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """How models whose names begin so reason; no ``efforts`` where they are not known for certain."""

    prefix: str
    default_on: bool
    can_disable: bool = False
    efforts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """How many tokens a provider's models take in all, and give at most."""

    providers: tuple[str, ...]
    pattern: str
    context: int
    output: int


OPENAI: Final = ("openai", "openai-responses")
"""Rows that ask OpenAI itself."""
SILENT: Final = ("gpt-3", "gpt-4", "chatgpt-4o", "gpt-5-chat")
"""How the names of OpenAI's models begin that do not reason, and refuse to be asked for their reasoning encrypted."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What a provider's models take in a prompt."""

    providers: tuple[str, ...]
    pattern: str
    modalities: tuple[str, ...]


QUIRKS: Final = (
    Quirk(("anthropic",), "", SAMPLING, version="2026-10-21"),
    Quirk(
        ("anthropic", "bedrock", "vertex-anthropic"),
        r"claude-(opus-4-[78]|(opus|sonnet|fable|mythos)-5|haiku-5-5)(?!\d)",
        SAMPLING,
    ),
)


@dataclass(frozen=True, slots=True)
class Unheld:
    """Models that have no mode which holds an answer to a schema, or have none ``beside`` tools."""

    providers: tuple[str, ...]
    pattern: str
    beside: bool = False


CLAUDE: Final = ("anthropic", "bedrock", "vertex-anthropic")
UNHELD: Final = (
    # https://platform.claude.com/docs/en/build-with-claude/structured-outputs: from Claude 4.5 on, and Opus 4.1
    Unheld(CLAUDE, r"claude-(instant|v?[123]\b|v?[123]-|(opus|sonnet)-4(-0)?([-@]20\d{6}|[-@]v|$))"),
    # https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html: others are not on its list
    Unheld(("bedrock",), r"amazon\.nova|meta\.llama|cohere\.command|ai21\.jamba"),
    # https://console.groq.com/docs/structured-outputs: the models on its list are those named here
    Unheld(("groq",), r"^(?!openai/gpt-oss|meta-llama/llama-4|moonshotai/kimi-k2)"),
    # https://api-docs.deepseek.com/guides/json_mode: an object, but of no schema
    Unheld(("deepseek",), ""),
    # https://platform.openai.com/docs/guides/structured-outputs: from gpt-4o-2024-08-06 on
    Unheld(("openai", "openai-responses"), r"^(gpt-3\.5|gpt-4(-turbo|-\d{4}|-32k|$)|gpt-4o-2024-05-13)"),
    # https://github.com/googleapis/python-genai/issues/867: tools and a schema together, only from Gemini 3 on
    Unheld(("google", "vertex"), r"gemini-[12]\.", beside=True),
)

TO_HIGH: Final = ("low", "medium", "high")
TO_XHIGH: Final = ("none", *TO_HIGH, "xhigh")
FAMILIES: Final = (
    Family("gpt-6-astra", default_on=True),
    Family("gpt-6.1-sol", default_on=True),
    Family("gpt-5.6", default_on=True, can_disable=True, efforts=(*TO_XHIGH, "max")),
    Family("gpt-5.5-pro", default_on=True),
    Family("gpt-5.5", default_on=True, can_disable=True, efforts=TO_XHIGH),
    Family("gpt-5.4-pro", default_on=True),
    Family("gpt-5.4", default_on=False, can_disable=True, efforts=TO_XHIGH),
    Family("gpt-5.3-chat", default_on=True),
    Family("gpt-5.3", default_on=False, can_disable=True),
    Family("gpt-5.2-pro", default_on=True),
    Family("gpt-5.2-chat", default_on=True),
    Family("gpt-5.2", default_on=False, can_disable=True, efforts=TO_XHIGH),
    Family("gpt-5.1-codex", default_on=True),
    Family("gpt-5.1-chat", default_on=True),
    Family("gpt-5.1", default_on=False, can_disable=True, efforts=("none", *TO_HIGH)),
    Family("gpt-5-pro", default_on=True, efforts=("high",)),
    Family("gpt-5-chat", default_on=False, can_disable=True),
    Family("gpt-5", default_on=True, efforts=("minimal", *TO_HIGH)),
    Family("o1", default_on=True),
    Family("o3", default_on=True, efforts=TO_HIGH),
    Family("o4-mini", default_on=True, efforts=TO_HIGH),
)
"""OpenAI's reasoning models; the first prefix that fits counts, so the longer stands before the shorter."""

WINDOWS: Final = (
    Window(OPENAI, r"gpt-4o(-mini)?(-\d{4}-\d\d-\d\d)?$", 128_000, 16_384),
    Window(OPENAI, r"gpt-4\.1(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", 1_047_576, 32_768),
    Window(OPENAI, r"gpt-5(\.[12])?(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", 400_000, 128_000),
    Window(OPENAI, r"(o1|o3|o3-mini|o4-mini)(-\d{4}-\d\d-\d\d)?$", 200_000, 100_000),
    Window(("anthropic", "bedrock", "vertex-anthropic"), r"claude-(haiku|opus|sonnet)-4-5", 200_000, 64_000),
    Window(("anthropic", "bedrock", "vertex-anthropic"), r"claude-opus-4-1", 200_000, 32_000),
    Window(("google", "vertex"), r"gemini-2\.5-(pro|flash|flash-lite)$", 1_048_576, 65_536),
)

SEEING: Final = ("text", "image", "document")
INTAKES: Final = (
    Intake(OPENAI, r"(gpt-4o|gpt-4\.1|gpt-5)(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$", SEEING),
    Intake(OPENAI, r"(o1|o3|o4-mini)(-\d{4}-\d\d-\d\d)?$", SEEING),
    Intake(OPENAI, r"o3-mini(-\d{4}-\d\d-\d\d)?$", ("text",)),
    Intake(("anthropic", "bedrock", "vertex-anthropic"), r"claude-(haiku|opus|sonnet)-4-[15]", SEEING),
    Intake(("google", "vertex"), r"gemini-(2\.5-pro|(2\.5|3\.5)-flash(-lite)?)$", (*SEEING, "audio", "video")),
)


def refuse(provider: str, endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
    """Say what this model is known not to take, before anything is sent; ``None`` where nothing is known.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="claude-opus-4-7", messages=(Message("user", "hi"),), temperature=0)
    >>> refuse("anthropic", Endpoint(), ask).path
    '$.temperature'
    """
    for quirk in QUIRKS:
        if provider not in quirk.providers or not re.search(quirk.pattern, request.model):
            continue
        if quirk.version and quirk.version != endpoint.api_version:
            continue
        who = f"{provider} under api version {quirk.version}" if quirk.version else request.model
        for field in quirk.refused:
            if getattr(request, field) is not None:
                return _unsupported(field, f"{who} does not take {field}")
    return _reasoning(request) if provider in OPENAI else _divided(provider, request)


def _divided(provider: str, request: CompletionRequest) -> LLMError | None:
    """Refuse to let Claude reason while it must call a tool, as it must where that holds it to a schema."""
    wanted, effort = request.response_schema, request.reasoning_effort
    thinks = "reasoning_budget" if request.reasoning_budget else "reasoning_effort"
    if wanted is None or provider not in CLAUDE or not (request.reasoning_budget or effort not in {None, "none"}):
        return None
    if (wanted.via or structure(provider, request)) == "native" or "claude" not in request.model:
        return None
    return _unsupported(thinks, f"{request.model} does not reason while a tool holds its answer to a schema")


def structure(provider: str, request: CompletionRequest) -> Form:
    """Say how a model is held to a schema: by its own mode, or by a tool that it must call.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="claude-3-haiku-20240307", messages=(Message("user", "hi"),))
    >>> structure("anthropic", ask), structure("openai", ask)
    ('tool', 'native')
    """
    for row in UNHELD:
        if provider in row.providers and re.search(row.pattern, request.model) and (request.tools or not row.beside):
            return "tool"
    return "native"


@lru_cache(maxsize=1024)
def metadata(provider: str, model: str) -> ProviderMetadata:
    """Give what is known of a model; what is not stays ``None``.

    Examples
    --------
    >>> metadata("openai", "gpt-4o-mini").context_window
    128000
    >>> metadata("openai", "o3").refused
    ('temperature', 'top_p', 'presence_penalty', 'frequency_penalty', 'stop')
    >>> metadata("openai", "gpt-5").efforts
    ('minimal', 'low', 'medium', 'high')
    """
    window = next((row for row in WINDOWS if provider in row.providers and re.search(row.pattern, model)), None)
    refused = [
        field
        for quirk in QUIRKS
        if provider in quirk.providers and not quirk.version and re.search(quirk.pattern, model)
        for field in quirk.refused
    ]
    family = _family(model) if provider in OPENAI else None
    return ProviderMetadata(
        provider=provider,
        model=model,
        context_window=window.context if window else None,
        max_output_tokens=window.output if window else None,
        refused=(*refused, *(STEERING if family and family.default_on else ())),
        refused_reasoning=(*refused, *(STEERING if family else ())),
        reasons_by_default=family.default_on if family else None,
        can_stop_reasoning=family.can_disable if family else None,
        efforts=family.efforts if family else (),
        modalities=next(
            (row.modalities for row in INTAKES if provider in row.providers and re.search(row.pattern, model)), ()
        ),
    )


def reasons(model: str) -> bool:
    """Say whether a model of OpenAI's may be asked for its reasoning; one that is not known may.

    Examples
    --------
    >>> reasons("gpt-4o-mini"), reasons("gpt-5-mini")
    (False, True)
    """
    return not model.startswith(SILENT)


def _family(model: str) -> Family | None:
    return next((family for family in FAMILIES if model.startswith(family.prefix)), None)


def _reasoning(request: CompletionRequest) -> LLMError | None:
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
    for field in STEERING:
        value = getattr(request, field)
        if value not in {None, (), NEUTRAL.get(field)}:
            remedy = "; it does with reasoning_effort='none'" if family.can_disable else ""
            return _unsupported(field, f"{request.model} does not take {field} while it reasons{remedy}")
    return None


def _unsupported(field: str, said: str) -> Unsupported:
    return Unsupported(path=f"$.{field}", message=f"{said}; leave it out, or say unsupported='drop'")
