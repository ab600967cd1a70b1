"""Error replies read by table: the provider's own code first, then words it is known to use, then the status.

How OpenAI, Azure and compatible servers name what went wrong, whichever of OpenAI's two wires they speak.

Source: https://platform.openai.com/docs/guides/error-codes and recorded exchanges (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from llmhub.core.errors import (
    AuthFailed,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
)

ErrorFactory: TypeAlias = Callable[..., LLMError]


STATUS_ERRORS: Final[Mapping[int, ErrorFactory]] = {
    400: InvalidRequest,
    401: AuthFailed,
    402: QuotaExhausted,
    403: PermissionDenied,
    404: NotFound,
    408: TimedOut,
    413: ContextTooLong,
    422: InvalidRequest,
    429: RateLimited,
    503: Overloaded,
    504: TimedOut,
    529: Overloaded,
}
"""Meaning of a status where no code says more."""


MAX_MESSAGE_LENGTH: Final = 2000
"""A longer message (an HTML page, say) is cut."""


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """How one wire names its failures: by code, and by words in the message (lower case) for want of a code."""

    codes: Mapping[str, ErrorFactory] = field(default_factory=dict)
    phrases: Sequence[tuple[str, ErrorFactory]] = ()


def classify_error(table: ErrorTable, *, status: int | None, codes: Sequence[str], message: str) -> LLMError:
    """Make the error that ``codes`` (most telling first), ``message`` and ``status`` speak of.

    Examples
    --------
    >>> known = ErrorTable(codes={"insufficient_quota": QuotaExhausted})
    >>> classify_error(known, status=429, codes=["insufficient_quota"], message="")
    QuotaExhausted(message='HTTP 429', provider='', status=429, code='insufficient_quota', ...)
    """
    named = next((table.codes[code] for code in codes if code in table.codes), None)
    lowered = message.lower()
    kind = named or next((kind for words, kind in table.phrases if words in lowered), None) or error_for_status(status)
    said = message.strip() or (f"HTTP {status}" if status is not None else next(iter(codes), "unnamed error"))
    return kind(message=said[:MAX_MESSAGE_LENGTH], status=status, code=next(iter(codes), ""))


def error_for_status(status: int | None) -> ErrorFactory:
    """Read a bare status; any other 4xx is the request's fault, all else the server's.

    Examples
    --------
    >>> error_for_status(418).__name__, error_for_status(502).__name__
    ('InvalidRequest', 'ServerError')
    """
    if status is None:
        return ServerError
    return STATUS_ERRORS.get(status) or (InvalidRequest if 400 <= status < 500 else ServerError)  # noqa: PLR2004 - HTTP classes


OPENAI_ERRORS: Final = ErrorTable(
    codes={
        **dict.fromkeys(("invalid_api_key", "authentication_error"), AuthFailed),
        **dict.fromkeys(("insufficient_quota", "billing_hard_limit_reached"), QuotaExhausted),
        **dict.fromkeys(("content_filter", "content_policy_violation", "bio_policy"), ContentFiltered),
        **dict.fromkeys(("image_content_policy_violation", "misalignment_policy_violation"), ContentFiltered),
        **dict.fromkeys(("model_not_found", "DeploymentNotFound"), NotFound),
        **dict.fromkeys(("rate_limit_exceeded", "RateLimitReached"), RateLimited),
        "context_length_exceeded": ContextTooLong,
        "permission_error": PermissionDenied,
        "server_error": ServerError,
        "overloaded_error": Overloaded,
    },
    phrases=(
        ("context length", ContextTooLong),
        ("context size", ContextTooLong),
        ("context window", ContextTooLong),
        ("prompt is too long", ContextTooLong),
        ("incorrect api key", AuthFailed),
        ("invalid api key", AuthFailed),
        ("insufficient permissions", PermissionDenied),
        ("potentially violating our usage policy", ContentFiltered),
    ),
)
