"""What is known of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What is known of a model at a provider; ``None`` or empty where nothing is.

    Parameters
    ----------
    context_window, max_output_tokens
        Tokens it takes in all, and gives at most.
    refused
        Parameters it does not take when asked plainly.
    refused_reasoning
        Parameters it does not take while it reasons.
    reasons_by_default, can_stop_reasoning
        Whether it reasons when nothing is said about it, and whether it can be told not to.
    efforts
        What ``reasoning_effort`` may be.
    modalities
        What may stand in a prompt: ``text``, ``image``, ``document``, ``audio``, ``video``.
    price_id
        Its entry in the price table.
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
