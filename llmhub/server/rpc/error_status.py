"""The gRPC status of error values, with the standard details of `google.rpc`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

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
from llmhub.server.context import REQUEST_ID_HEADER
from llmhub.server.error_replies import error_text

CODES: Final[Mapping[type[Any], grpc.StatusCode]] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Unsupported: grpc.StatusCode.INVALID_ARGUMENT,
    ContextTooLong: grpc.StatusCode.INVALID_ARGUMENT,
    ContentFiltered: grpc.StatusCode.INVALID_ARGUMENT,
    AuthFailed: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    QuotaExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BudgetExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ServerError: grpc.StatusCode.UNAVAILABLE,
    Disconnected: grpc.StatusCode.UNAVAILABLE,
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    Cancelled: grpc.StatusCode.UNAVAILABLE,
    Malformed: grpc.StatusCode.INTERNAL,
    TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
}
DOMAIN: Final = "llmhub"
"""Domain of `google.rpc.ErrorInfo.reason`, which is the name of the error's type."""
MAX_MESSAGE_LENGTH: Final = 1000
"""Longer messages are cut: all metadata of a call have to fit into a few kilobytes."""
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""Read by gRPC clients with a retry policy: the delay, or a negative number for no retry."""
NO_RETRY: Final = "-1"


def status_code(error: LLMError) -> grpc.StatusCode:
    """Return the status code of an error.

    Examples
    --------
    >>> status_code(AuthFailed()).name, status_code(AuthFailed(provider="openai")).name
    ('UNAUTHENTICATED', 'FAILED_PRECONDITION')
    """
    if isinstance(error, AuthFailed) and error.provider:  # the service's own credential
        return grpc.StatusCode.FAILED_PRECONDITION
    return CODES[type(error)]


def status_message(error: LLMError) -> str:
    """Return the message of a status."""
    text = error_text(error).encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[: MAX_MESSAGE_LENGTH - 3]}..."


def status_metadata(error: LLMError, code: grpc.StatusCode, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata of a failed call: its id, its details, and whether and when to retry."""
    info = {"provider": error.provider, "path": error.path, "provider_status": str(error.status or "")}
    reason = error_details_pb2.ErrorInfo(
        reason=error_type_name(error), domain=DOMAIN, metadata={name: value for name, value in info.items() if value}
    )
    details: list[Any] = [reason, error_details_pb2.RequestInfo(request_id=request_id)]
    if error.path:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.path, description=status_message(error))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    pushback = NO_RETRY
    if is_transient(error) or error.retry_after_s is not None:
        delay_ms = math.ceil(1000 * (error.retry_after_s or 0.0))
        pushback = str(delay_ms)
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(delay_ms)
        details.append(retry)
    status = status_pb2.Status(
        code=code.value[0], message=status_message(error), details=[_packed(each) for each in details]
    )
    return (
        (REQUEST_ID_HEADER, request_id),
        (PUSHBACK_KEY, pushback),
        (DETAILS_KEY, status.SerializeToString()),
    )


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
