"""What a provider says of its limits, beside its answers and refusals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitInfo:
    """What a reply said about limits; ``None`` where it was silent. Resets are seconds from the reply.

    ``tokens`` are input and output together, where a provider counts them so.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None
    limit_input_tokens: int | None = None
    remaining_input_tokens: int | None = None
    reset_input_tokens_s: float | None = None
    limit_output_tokens: int | None = None
    remaining_output_tokens: int | None = None
    reset_output_tokens_s: float | None = None
    retry_after_s: float | None = None
    should_retry: bool | None = None
