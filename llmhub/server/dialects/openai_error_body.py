"""Errors of OpenAI's APIs: one object with message, type, parameter and code.

Source: https://platform.openai.com/docs/guides/error-codes and the types of openai 3.57.0 (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmhub.core.errors import (
    AuthFailed,
    BudgetExceeded,
    ContentFiltered,
    ContextTooLong,
    LLMError,
    NotFound,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    Unsupported,
)
from llmhub.core.types import Payload
from llmhub.server.error_replies import error_text

CODES: Final[Mapping[type[Any], str]] = {
    AuthFailed: "invalid_api_key",
    PermissionDenied: "permission_denied",
    NotFound: "model_not_found",
    RateLimited: "rate_limit_exceeded",
    QuotaExhausted: "insufficient_quota",
    BudgetExceeded: "budget_exceeded",
    ContextTooLong: "context_length_exceeded",
    ContentFiltered: "content_filter",
    Unsupported: "unsupported_parameter",
}
TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
SERVER_ERROR_STATUS: Final = 500


def encode_openai_error(error: LLMError, status: int, request_id: str) -> Payload:
    """Encode an error.

    Examples
    --------
    >>> encode_openai_error(NotFound(path="model", message="no such model"), 404, "req_1")["error"]["code"]
    'model_not_found'
    """
    kind = TYPES.get(status) or ("server_error" if status >= SERVER_ERROR_STATUS else "invalid_request_error")
    return {
        "error": {
            "message": error_text(error),
            "type": kind,
            "param": error.path.removeprefix("$.") or None,
            "code": CODES.get(type(error)),
        },
        **({"request_id": request_id} if request_id else {}),
    }
