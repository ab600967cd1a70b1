"""Profiles of the providers' models: refused parameters, reasoning, limits, modalities, schemas.

A record exists only where a source documents it; requests to other models are sent unchecked. A request that is refused
here would be refused by the provider, so no call is spent on it. The records themselves are in the vendors' files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from llmhub.core.errors import DROP_HINT, LLMError, Unsupported
from llmhub.core.forced_tool import StructuredOutputMode
from llmhub.core.model_metadata import ModelMetadata
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest


@dataclass(frozen=True, slots=True)
class RefusedParameters:
    """Parameters that models refuse whose names match ``pattern``.

    Parameters
    ----------
    pattern
        Regular expression that is searched for in a model's name.
    api_version
        Version of the API that refuses them; empty for every version.
    """

    pattern: str
    parameters: tuple[str, ...]
    api_version: str = ""


@dataclass(frozen=True, slots=True)
class ReasoningFamily:
    """How models reason whose names begin with ``prefix``.

    Parameters
    ----------
    default_on
        Whether they reason if the request sets no effort.
    can_disable
        Whether ``reasoning_effort="none"`` turns it off.
    efforts
        Efforts they accept; empty where not known for certain.
    accepts
        Parameters they take while they reason, though their provider's other models refuse them.
    """

    prefix: str
    default_on: bool
    can_disable: bool = False
    efforts: tuple[str, ...] = ()
    accepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """Tokens that models take in all, and generate at most, whose names match ``pattern``."""

    pattern: str
    context_window: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class InputModalities:
    """Content that models take in a prompt whose names match ``pattern``."""

    pattern: str
    modalities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ToolForcedSchema:
    """Models without a mode that enforces a JSON Schema, so that they are made to call a tool with that schema.

    Parameters
    ----------
    only_with_tools
        Whether they lack that mode only when a request has tools of its own.
    """

    pattern: str
    only_with_tools: bool = False


@dataclass(frozen=True, slots=True)
class ModelProfiles:
    """All that is known of a provider's models; in each table the first record that matches counts.

    Parameters
    ----------
    reasoning
        Families in an order that puts a longer prefix before a shorter.
    refused_while_reasoning
        Parameters that a model of ``reasoning`` refuses while it reasons.
    accepted_values
        Values of those parameters that are accepted all the same, since they change nothing.
    no_reasoning_with_forced_tool
        Pattern of models that do not reason while they must call a tool; ``None`` where there are none.
    """

    refused: tuple[RefusedParameters, ...] = ()
    reasoning: tuple[ReasoningFamily, ...] = ()
    refused_while_reasoning: tuple[str, ...] = ()
    accepted_values: Mapping[str, float] = field(default_factory=dict)
    tool_forced_schemas: tuple[ToolForcedSchema, ...] = ()
    no_reasoning_with_forced_tool: str | None = None
    token_limits: tuple[TokenLimits, ...] = ()
    input_modalities: tuple[InputModalities, ...] = ()


UNKNOWN_MODELS: Final = ModelProfiles()
"""Profiles of a provider of whose models nothing is known."""


def check_model(
    provider: str, profiles: ModelProfiles, endpoint: Endpoint, request: CompletionRequest
) -> LLMError | None:
    """Return an error for a parameter that the request's model is known to refuse, else ``None``.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> profiles = ModelProfiles(refused=(RefusedParameters("claude-opus-4-7", ("temperature",)),))
    >>> request = CompletionRequest(model="claude-opus-4-7", messages=(Message("user", "hi"),), temperature=0)
    >>> check_model("anthropic", profiles, Endpoint(), request).path
    '$.temperature'
    """
    for rule in profiles.refused:
        if rule.api_version not in {"", endpoint.api_version} or not re.search(rule.pattern, request.model):
            continue
        subject = f"{provider} under api version {rule.api_version}" if rule.api_version else request.model
        for name in rule.parameters:
            if getattr(request, name) is not None:
                return _unsupported(name, f"{subject} does not take {name}")
    return _check_reasoning(profiles, request) or _check_forced_tool(profiles, request)


def _check_reasoning(profiles: ModelProfiles, request: CompletionRequest) -> LLMError | None:
    """Refuse an effort that the model's family does not know, and parameters it refuses while it reasons."""
    family = _reasoning_family(profiles, request.model)
    if family is None:
        return None
    effort = request.reasoning_effort
    if effort is not None and effort not in (family.efforts or (effort,)):
        return _unsupported("reasoning_effort", f"{request.model} takes {', '.join(family.efforts)}, not {effort!r}")
    if effort == "none" and not family.can_disable:
        return _unsupported("reasoning_effort", f"{request.model} cannot stop reasoning")
    if not (family.default_on if effort is None else effort != "none"):
        return None
    for name in _refused_while_reasoning(profiles, family):
        if getattr(request, name) not in {None, (), profiles.accepted_values.get(name)}:
            remedy = "; it does with reasoning_effort='none'" if family.can_disable else ""
            return _unsupported(name, f"{request.model} does not take {name} while it reasons{remedy}")
    return None


def _check_forced_tool(profiles: ModelProfiles, request: CompletionRequest) -> LLMError | None:
    """Refuse reasoning where a schema is enforced by a tool and the model does not reason while it must call one."""
    schema, effort = request.response_schema, request.reasoning_effort
    if schema is None or profiles.no_reasoning_with_forced_tool is None:
        return None
    if not request.reasoning_budget and effort in {None, "none"}:
        return None
    if (schema.via or structured_output_mode(profiles, request)) == "native":
        return None
    if not re.search(profiles.no_reasoning_with_forced_tool, request.model):
        return None
    name = "reasoning_budget" if request.reasoning_budget else "reasoning_effort"
    return _unsupported(name, f"{request.model} does not reason while a tool enforces the schema of its answer")


def structured_output_mode(profiles: ModelProfiles, request: CompletionRequest) -> StructuredOutputMode:
    """Return how a JSON Schema is enforced: by the model's own mode, or by a tool that it must call.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> profiles = ModelProfiles(tool_forced_schemas=(ToolForcedSchema("claude-3"),))
    >>> request = CompletionRequest(model="claude-3-haiku-20240307", messages=(Message("user", "hi"),))
    >>> structured_output_mode(profiles, request), structured_output_mode(UNKNOWN_MODELS, request)
    ('tool', 'native')
    """
    for rule in profiles.tool_forced_schemas:
        if re.search(rule.pattern, request.model) and (request.tools or not rule.only_with_tools):
            return "tool"
    return "native"


def metadata_from_profiles(provider: str, profiles: ModelProfiles, model: str) -> ModelMetadata:
    """Return the metadata of a model from its profiles; unknown fields are ``None`` or empty."""
    limits = next((row for row in profiles.token_limits if re.search(row.pattern, model)), None)
    modalities = next((row.modalities for row in profiles.input_modalities if re.search(row.pattern, model)), ())
    family = _reasoning_family(profiles, model)
    refused = [
        name
        for rule in profiles.refused
        if not rule.api_version and re.search(rule.pattern, model)
        for name in rule.parameters
    ]
    while_reasoning = _refused_while_reasoning(profiles, family) if family else ()
    return ModelMetadata(
        provider=provider,
        model=model,
        context_window=limits.context_window if limits else None,
        max_output_tokens=limits.max_output_tokens if limits else None,
        unsupported_params=(*refused, *(while_reasoning if family and family.default_on else ())),
        unsupported_when_reasoning=(*refused, *while_reasoning),
        reasons_by_default=family.default_on if family else None,
        can_disable_reasoning=family.can_disable if family else None,
        reasoning_efforts=family.efforts if family else (),
        input_modalities=modalities,
    )


def _refused_while_reasoning(profiles: ModelProfiles, family: ReasoningFamily) -> tuple[str, ...]:
    return tuple(name for name in profiles.refused_while_reasoning if name not in family.accepts)


def _reasoning_family(profiles: ModelProfiles, model: str) -> ReasoningFamily | None:
    return next((family for family in profiles.reasoning if model.startswith(family.prefix)), None)


def _unsupported(name: str, reason: str) -> Unsupported:
    return Unsupported(path=f"$.{name}", message=reason, hint=DROP_HINT)
