"""HTTP status, headers and body of error values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from llmhub.core.errors import (
    AuthFailed,
    BudgetExceeded,
    Cancelled,
    ContentFiltered,
    ContextTooLong,
    Disconnected,
    InvalidRequest,
    LLMError,
    Malformed,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
    Unsupported,
    error_type_name,
    is_transient,
)
from llmhub.core.types import Payload

STATUSES: Final[Mapping[type[Any], int]] = {
    InvalidRequest: 400,
    Unsupported: 400,
    ContextTooLong: 400,
    ContentFiltered: 400,
    AuthFailed: 401,
    BudgetExceeded: 402,
    PermissionDenied: 403,
    NotFound: 404,
    RateLimited: 429,
    QuotaExhausted: 429,
    ServerError: 502,
    Disconnected: 502,
    Malformed: 502,
    Overloaded: 503,
    Cancelled: 503,
    TimedOut: 504,
}
OWN_STATUSES: Final = frozenset({405, 408, 409, 410, 411, 413, 414, 415, 422, 431})
"""Statuses of errors about the HTTP request itself, which their error values carry."""
UPSTREAM_CREDENTIAL_STATUS: Final = 502
"""Status of a provider's refusal of the service's own credential, which is no fault of the client's key."""
DEFAULT_RETRY_AFTER_S: Final = 1.0


def status_of(error: LLMError) -> int:
    """Return the HTTP status of an error.

    Examples
    --------
    >>> status_of(AuthFailed()), status_of(AuthFailed(provider="openai")), status_of(InvalidRequest(status=413))
    (401, 502, 413)
    """
    if isinstance(error, AuthFailed) and error.provider:
        return UPSTREAM_CREDENTIAL_STATUS
    if error.status in OWN_STATUSES and not error.provider:
        return error.status or 400
    return STATUSES[type(error)]


def error_headers(error: LLMError, status: int) -> dict[str, str]:
    """Return the headers of an error: whether and when to retry.

    Examples
    --------
    >>> error_headers(RateLimited(retry_after_s=1.2), 429)
    {'x-should-retry': 'true', 'retry-after': '2'}
    """
    headers = {"x-should-retry": "true" if is_transient(error) else "false"}
    if status == 401:  # noqa: PLR2004
        headers["www-authenticate"] = "Bearer"
    if status in {429, 503}:
        headers["retry-after"] = str(math.ceil(max(error.retry_after_s or 0.0, DEFAULT_RETRY_AFTER_S)))
    return headers


def error_text(error: LLMError) -> str:
    """Return the message of an error for a client of the service: what is wrong, where, and the remedy.

    Examples
    --------
    >>> error_text(InvalidRequest(path="n", message="must be 1 or more, not 0"))
    'n: must be 1 or more, not 0'
    """
    place = f"{error.path}: " if error.path else ""
    provider = f"{error.provider}: " if error.provider else ""
    hint = ""
    if error.hint is not None and error.hint.variables:
        hint = f"; the service needs {error.hint.variables} in its environment"
    elif error.hint is not None and error.hint.argument == "unsupported":
        hint = "; send the header x-llmhub-unsupported: drop to leave it out"
    return f"{provider}{place}{error.message or error_type_name(error)}{hint}"


def encode_error(error: LLMError, status: int, request_id: str) -> Payload:
    """Return the body of an error on the hub's own routes.

    Examples
    --------
    >>> encode_error(NotFound(message="no such run"), 404, "req_1")["error"]["type"]
    'NotFound'
    """
    return {
        "error": {
            "type": error_type_name(error),
            "message": error_text(error),
            "path": error.path or None,
            "provider": error.provider or None,
            "status": status,
            "retry_after_s": error.retry_after_s,
        },
        "request_id": request_id,
    }
