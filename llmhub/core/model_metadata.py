"""Facts about a model at a provider: window, supported parameters, reasoning and price."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """Facts about a model at a provider; ``None`` or empty if unknown.

    Parameters
    ----------
    context_window, max_output_tokens
        Maximum tokens of input and output together, and of output.
    unsupported_params
        Request parameters that the model rejects.
    unsupported_when_reasoning
        Request parameters that the model rejects while it reasons.
    reasons_by_default, can_disable_reasoning
        Whether the model reasons if the request does not say so, and whether reasoning can be switched off.
    reasoning_efforts
        Accepted values of ``reasoning_effort``.
    input_modalities
        Accepted input: ``text``, ``image``, ``document``, ``audio``, ``video``.
    price_id
        Entry in the price table.
    """

    provider: str
    model: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    unsupported_params: tuple[str, ...] = ()
    unsupported_when_reasoning: tuple[str, ...] = ()
    reasons_by_default: bool | None = None
    can_disable_reasoning: bool | None = None
    reasoning_efforts: tuple[str, ...] = ()
    input_modalities: tuple[str, ...] = ()
    price_id: str = ""
