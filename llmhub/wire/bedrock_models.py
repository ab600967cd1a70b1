"""What the families of models behind Amazon Bedrock take in fields of their own, as Converse has no place for it.

Sources: the service model of botocore 1.44.5; for Nova
https://docs.aws.amazon.com/nova/latest/nova2-userguide/using-converse-api.html and
https://github.com/UKGovernmentBEIS/inspect_ai/issues/3939; for who takes ``reasoning_effort``
https://github.com/langchain-ai/langchain-aws/pull/1188 (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Unsupported
from llmhub.core.payload import deep_merge
from llmhub.core.types import CompletionRequest, Payload


@dataclass(frozen=True, slots=True)
class BedrockModelFamily:
    """A family by a piece of its models' ids, the efforts it knows, and how each parameter is said to it."""

    id_fragment: str
    efforts: tuple[str, ...] = ()
    encoders: Mapping[str, Callable[[Any], Payload]] = field(default_factory=dict)


def _own(**fields: object) -> Payload:
    return {"additionalModelRequestFields": fields}


def _adaptive(effort: str) -> Payload:
    if effort == "none":
        return _own(thinking={"type": "disabled"})
    return {"outputConfig": {"effort": effort}, **_own(thinking={"type": "adaptive"})}


def _budgeted(budget: int) -> Payload:
    return _own(thinking={"type": "enabled", "budget_tokens": budget} if budget else {"type": "disabled"})


def _reasoning(effort: str) -> Payload:
    wanted = {"type": "disabled"} if effort == "none" else {"type": "enabled", "maxReasoningEffort": effort}
    return _own(reasoningConfig=wanted)


def _nested(top_k: int) -> Payload:
    return _own(inferenceConfig={"topK": top_k})


MODEL_FAMILIES: Final = (
    BedrockModelFamily(
        "anthropic.",
        ("none", "low", "medium", "high", "xhigh", "max"),
        {"top_k": lambda k: _own(top_k=k), "reasoning_effort": _adaptive, "reasoning_budget": _budgeted},
    ),
    BedrockModelFamily(
        "amazon.nova-2", ("none", "low", "medium", "high"), {"top_k": _nested, "reasoning_effort": _reasoning}
    ),
    BedrockModelFamily("amazon.nova", encoders={"top_k": _nested}),
    BedrockModelFamily(
        "openai.",
        ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        {"reasoning_effort": lambda effort: _own(reasoning_effort=effort)},
    ),
    BedrockModelFamily(
        "moonshot", ("low", "medium", "high"), {"reasoning_effort": lambda effort: _own(reasoning_effort=effort)}
    ),
)
"""The first whose piece is in a model's id is its family."""


MODEL_SPECIFIC_FIELDS: Final = ("top_k", "reasoning_effort", "reasoning_budget")


UNKNOWN_FAMILY: Final = BedrockModelFamily("")


def encode_model_specific_fields(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write ``top_k`` and how much to think as the model's family takes it; a budget decides over an effort.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="us.amazon.nova-lite-v1:0", messages=(Message("user", "hi"),), top_k=5)
    >>> encode_model_specific_fields(ask).unwrap()
    {'additionalModelRequestFields': {'inferenceConfig': {'topK': 5}}}
    """
    family = next((family for family in MODEL_FAMILIES if family.id_fragment in request.model), UNKNOWN_FAMILY)
    payload: Payload = {}
    for name in MODEL_SPECIFIC_FIELDS:
        value = getattr(request, name)
        if value is None:
            continue
        if name not in family.encoders or (name == "reasoning_effort" and value not in family.efforts):
            said = f"{name}={value!r} cannot be said to {request.model}; if it takes it, use extra"
            return Failure(Unsupported(path=f"$.{name}", message=said))
        payload = deep_merge(payload, family.encoders[name](value))
    return Success(payload)
