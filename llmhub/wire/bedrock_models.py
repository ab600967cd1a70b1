"""Parameters that Converse lacks, in the fields of their own that Amazon Bedrock's model families take.

Sources: the service model of botocore 1.44.5; for Nova
https://docs.aws.amazon.com/nova/latest/nova2-userguide/using-converse-api.html and
https://github.com/UKGovernmentBEIS/inspect_ai/issues/3939; for the families that take ``reasoning_effort``
https://github.com/langchain-ai/langchain-aws/pull/1188 (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError
from llmhub.core.payload import deep_merge
from llmhub.core.types import CompletionRequest, Payload
from llmhub.wire.writers import unsupported_parameter


@dataclass(frozen=True, slots=True)
class BedrockModelFamily:
    """A family of models.

    Parameters
    ----------
    id_fragment
        What the ids of its models contain.
    efforts
        Values of ``reasoning_effort`` that it takes.
    encoders
        For each parameter it takes, from its value to the fields of the body.
    """

    id_fragment: str
    efforts: tuple[str, ...] = ()
    encoders: Mapping[str, Callable[[Any], Payload]] = field(default_factory=dict)


def _model_fields(**fields: object) -> Payload:
    return {"additionalModelRequestFields": fields}


def _claude_effort(effort: str) -> Payload:
    if effort == "none":
        return _model_fields(thinking={"type": "disabled"})
    return {"outputConfig": {"effort": effort}, **_model_fields(thinking={"type": "adaptive"})}


def _claude_budget(budget: int) -> Payload:
    return _model_fields(thinking={"type": "enabled", "budget_tokens": budget} if budget else {"type": "disabled"})


def _nova_effort(effort: str) -> Payload:
    config = {"type": "disabled"} if effort == "none" else {"type": "enabled", "maxReasoningEffort": effort}
    return _model_fields(reasoningConfig=config)


def _nova_top_k(top_k: int) -> Payload:
    return _model_fields(inferenceConfig={"topK": top_k})


def _plain_effort(effort: str) -> Payload:
    return _model_fields(reasoning_effort=effort)


def _plain_top_k(top_k: int) -> Payload:
    return _model_fields(top_k=top_k)


MODEL_FAMILIES: Final = (
    BedrockModelFamily(
        "anthropic.",
        ("none", "low", "medium", "high", "xhigh", "max"),
        {"top_k": _plain_top_k, "reasoning_effort": _claude_effort, "reasoning_budget": _claude_budget},
    ),
    BedrockModelFamily(
        "amazon.nova-2",
        ("none", "low", "medium", "high"),
        {"top_k": _nova_top_k, "reasoning_effort": _nova_effort},
    ),
    BedrockModelFamily("amazon.nova", encoders={"top_k": _nova_top_k}),
    BedrockModelFamily(
        "openai.",
        ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        {"reasoning_effort": _plain_effort},
    ),
    BedrockModelFamily("moonshot", ("low", "medium", "high"), {"reasoning_effort": _plain_effort}),
)
"""The first whose fragment is in a model's id is its family."""

MODEL_SPECIFIC_FIELDS: Final = ("top_k", "reasoning_effort", "reasoning_budget")
UNKNOWN_FAMILY: Final = BedrockModelFamily("")


def encode_model_specific_fields(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode ``top_k`` and reasoning as the model's family takes them; a budget takes precedence over an effort.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> request = CompletionRequest(model="us.amazon.nova-lite-v1:0", messages=(Message("user", "hi"),), top_k=5)
    >>> encode_model_specific_fields(request).unwrap()
    {'additionalModelRequestFields': {'inferenceConfig': {'topK': 5}}}
    """
    family = next((family for family in MODEL_FAMILIES if family.id_fragment in request.model), UNKNOWN_FAMILY)
    payload: Payload = {}
    for name in MODEL_SPECIFIC_FIELDS:
        value = getattr(request, name)
        if value is None:
            continue
        if name not in family.encoders or (name == "reasoning_effort" and value not in family.efforts):
            message = f"{request.model} is not known to take {name}={value!r}; pass extra= if it does"
            return Failure(unsupported_parameter(name, message))
        payload = deep_merge(payload, family.encoders[name](value))
    return Success(payload)
