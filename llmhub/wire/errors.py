"""Error replies classified by table: the provider's own code first, then phrases of its messages, then the status.

Source of the table that OpenAI, Azure and compatible servers share on both of OpenAI's wires:
https://platform.openai.com/docs/guides/error-codes and recorded exchanges (read 2026-11-22).
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
    409: ServerError,  # a conflict of requests at the same time, which is over when it is sent again
    413: ContextTooLong,
    422: InvalidRequest,
    429: RateLimited,
    503: Overloaded,
    504: TimedOut,
    529: Overloaded,
}
"""Error of a status that no code or phrase specifies further."""

MAX_MESSAGE_LENGTH: Final = 2000
"""Longer messages, such as HTML pages, are truncated."""


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """Errors of one wire by code, and by a phrase in the message (lower case) where no code is known.

    ``generic_codes`` are known too, but say less than a phrase does.
    """

    codes: Mapping[str, ErrorFactory] = field(default_factory=dict)
    phrases: Sequence[tuple[str, ErrorFactory]] = ()
    generic_codes: Mapping[str, ErrorFactory] = field(default_factory=dict)


def classify_error(table: ErrorTable, *, status: int | None, codes: Sequence[str], message: str) -> LLMError:
    """Return the error for ``codes`` (most specific first), ``message`` and ``status``.

    Examples
    --------
    >>> table = ErrorTable(codes={"insufficient_quota": QuotaExhausted})
    >>> classify_error(table, status=429, codes=["insufficient_quota"], message="")
    QuotaExhausted(message='HTTP 429', provider='', status=429, code='insufficient_quota', ...)
    """
    lowered = message.lower()
    by_code = next((table.codes[code] for code in codes if code in table.codes), None)
    by_phrase = next((error for phrase, error in table.phrases if phrase in lowered), None)
    by_generic_code = next((table.generic_codes[code] for code in codes if code in table.generic_codes), None)
    factory = by_code or by_phrase or by_generic_code or error_for_status(status)
    first_code = next(iter(codes), "")
    text = message.strip() or (first_code or "unnamed error" if status is None else f"HTTP {status}")
    return factory(message=text[:MAX_MESSAGE_LENGTH], status=status, code=first_code)


def error_for_status(status: int | None) -> ErrorFactory:
    """Return the error of a bare status; a 4xx not in the table is the request's fault, any other the server's.

    Examples
    --------
    >>> error_for_status(418).__name__, error_for_status(502).__name__
    ('InvalidRequest', 'ServerError')
    """
    if status is None:
        return ServerError
    return STATUS_ERRORS.get(status) or (InvalidRequest if 400 <= status < 500 else ServerError)  # noqa: PLR2004 - HTTP classes


CONTEXT_PHRASES: Final = tuple(
    (phrase, ContextTooLong)
    for phrase in (
        "context length",
        "context size",
        "context window",
        "context limit",
        "prompt is too long",
        "prompt too long",
        "input is too long",
        "too many input tokens",
        "input tokens exceeded",
        "number of input tokens exceeds",
        "exceeds the maximum number of tokens",
        "input token count",
        "contextwindowexceeded",
        "maximum prompt length",  # xAI
        "reduce the length of the messages",  # Groq
        "exceeded model token limit",  # Moonshot
        "range of input length should be",  # Alibaba
        "maximum model length",  # vLLM
        "too many tokens: ",  # Cohere
        "`max_new_tokens` must be <=",  # Hugging Face, Together
        "request too large for",  # of a limit of tokens per minute that the request alone exceeds
    )
)
"""What servers of every wire say of a prompt that is too long, as recorded or as their clients match it."""
MODEL_PHRASES: Final = tuple(
    (phrase, NotFound)
    for phrase in (
        "invalid model",
        "not a valid model",
        "supported api model names are",
        "unknown model",
        "model not exist",
    )
)
"""What servers say of a model that they do not have, where their status is 400."""
REQUEST_PHRASES: Final = tuple(
    (phrase, InvalidRequest) for phrase in ("image input is not supported", "image: unknown format")
)
"""What servers say of a request that they can never answer, where their status is 500."""

OPENAI_ERRORS: Final = ErrorTable(
    codes={
        **dict.fromkeys(("invalid_api_key", "authentication_error"), AuthFailed),
        **dict.fromkeys(("insufficient_quota", "billing_hard_limit_reached"), QuotaExhausted),
        **dict.fromkeys(("content_filter", "content_policy_violation", "bio_policy"), ContentFiltered),
        **dict.fromkeys(("image_content_policy_violation", "misalignment_policy_violation"), ContentFiltered),
        **dict.fromkeys(("model_not_found", "DeploymentNotFound"), NotFound),
        **dict.fromkeys(("context_length_exceeded", "too_many_prompt_tokens"), ContextTooLong),
        "max_tokens_per_request": ContextTooLong,
        "exceed_context_size_error": ContextTooLong,
        "invalid_model": NotFound,
        "permission_error": PermissionDenied,
        "overloaded_error": Overloaded,
    },
    generic_codes={
        "server_error": ServerError,
        **dict.fromkeys(("rate_limit_exceeded", "RateLimitReached"), RateLimited),
    },
    phrases=(
        *CONTEXT_PHRASES,
        *MODEL_PHRASES,
        *REQUEST_PHRASES,
        ("incorrect api key", AuthFailed),
        ("invalid api key", AuthFailed),
        ("insufficient permissions", PermissionDenied),
        ("potentially violating our usage policy", ContentFiltered),
    ),
)
