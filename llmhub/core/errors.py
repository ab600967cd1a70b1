"""Why a call failed: a closed union of frozen values inside, one exception class per kind at the door.

Inside llmhub an error is a value in a ``Result``; `to_exception` turns it into a `ConnectorError` for
callers who want to raise. What a policy needs (may it be tried again, and when) is on the value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """What every kind of failure can say."""

    message: str = ""
    provider: str = ""
    status: int | None = None
    code: str = ""
    path: str = ""
    request_id: str = ""
    retry_after_s: float | None = None
    should_retry: bool | None = None

    def __str__(self) -> str:
        """Say it in a line."""
        # A path into a request or a reply says where; any other is the argument that is wrong, and comes first.
        inside = self.path.startswith("$")
        argument = f"{self.path}: " if self.path and not inside else ""
        where = f" at {self.path}" if inside else ""
        status = f" ({self.status})" if self.status is not None else ""
        who = f"{self.provider}: " if self.provider else ""
        return f"{who}{argument}{self.message or type(self).__name__}{where}{status}"


class InvalidRequest(_Failure):
    """The request cannot be right: the caller has to change it."""

    __slots__ = ()


class Unsupported(_Failure):
    """What ``path`` says cannot be said to this provider, model or api version."""

    __slots__ = ()


class AuthFailed(_Failure):
    """No key, or a key the provider does not accept."""

    __slots__ = ()


class PermissionDenied(_Failure):
    """The key is known and may not do this."""

    __slots__ = ()


class NotFound(_Failure):
    """No such model, deployment or path."""

    __slots__ = ()


class RateLimited(_Failure):
    """Too many requests or tokens for now; ``retry_after_s`` where the provider said."""

    __slots__ = ()


class QuotaExhausted(_Failure):
    """Money or quota is gone; waiting a little does not help."""

    __slots__ = ()


class Overloaded(_Failure):
    """The provider has too much to do."""

    __slots__ = ()


class ServerError(_Failure):
    """The provider failed."""

    __slots__ = ()


class TimedOut(_Failure):
    """No answer in time."""

    __slots__ = ()


class Disconnected(_Failure):
    """The connection could not be made, or broke before the answer was whole."""

    __slots__ = ()


class Malformed(_Failure):
    """The answer is not what the wire promises; ``path`` says where."""

    __slots__ = ()


class ContextTooLong(_Failure):
    """More tokens than the model takes."""

    __slots__ = ()


class ContentFiltered(_Failure):
    """A filter stopped the prompt or the answer."""

    __slots__ = ()


class BudgetExceeded(_Failure):
    """Sending it could have cost more than the budget has left."""

    __slots__ = ()


class Cancelled(_Failure):
    """The caller stopped the run before this was answered."""

    __slots__ = ()


LLMError: TypeAlias = (
    InvalidRequest
    | Unsupported
    | AuthFailed
    | PermissionDenied
    | NotFound
    | RateLimited
    | QuotaExhausted
    | Overloaded
    | ServerError
    | TimedOut
    | Disconnected
    | Malformed
    | ContextTooLong
    | ContentFiltered
    | BudgetExceeded
    | Cancelled
)

NOT_CONNECTED: Final = "unreached"
"""The code of a failure before a connection stood: nothing was asked, and nothing can have been charged."""

TRANSIENT: Final = frozenset({RateLimited, Overloaded, ServerError, TimedOut, Disconnected})
"""Kinds worth another try. A malformed answer is not: it was answered, and perhaps paid for."""

E = TypeVar("E", bound=_Failure)


def error_type_name(error: LLMError) -> str:
    """Name the error's kind, as the ``error_type`` column does.

    Examples
    --------
    >>> error_type_name(RateLimited(retry_after_s=2.0))
    'RateLimited'
    """
    return type(error).__name__


def is_transient(error: LLMError) -> bool:
    """Say whether the same request may succeed later; the provider's own word (``x-should-retry``) wins.

    Examples
    --------
    >>> is_transient(Overloaded()), is_transient(AuthFailed()), is_transient(ServerError(should_retry=False))
    (True, False, False)
    """
    return error.should_retry if error.should_retry is not None else type(error) in TRANSIENT


def retry_after_s(error: LLMError) -> float | None:
    """Seconds the provider asked us to wait, or ``None`` where it did not say."""
    return error.retry_after_s


def with_context(
    error: E,
    *,
    provider: str,
    request_id: str = "",
    retry_after_s: float | None = None,
    should_retry: bool | None = None,
) -> E:
    """Add what only the caller of a wire knows, keeping what the wire already said."""
    return replace(
        error,
        provider=error.provider or provider,
        request_id=error.request_id or request_id,
        retry_after_s=error.retry_after_s if error.retry_after_s is not None else retry_after_s,
        should_retry=error.should_retry if error.should_retry is not None else should_retry,
    )


class ConnectorError(Exception):
    """Root of all exceptions that llmhub raises for a failed call.

    ``error`` is the value inside; ``table`` the results of a run that raised when it was done, so that nothing
    already paid for is lost.
    """

    def __init__(self, error: LLMError) -> None:
        super().__init__(str(error))
        self.error = error
        self.table: object = None

    def __reduce__(self) -> tuple[type[ConnectorError], tuple[LLMError]]:
        """Pickle by value, so that a failure crosses process borders whole."""
        return type(self), (self.error,)


class BadRequestError(ConnectorError, ValueError):
    """Raised for `InvalidRequest`."""


def invalid(path: str, message: str) -> BadRequestError:
    """Return the exception for a bad argument, to be raised at once: ``raise invalid("n", "n must be 1 or more")``.

    Parameters
    ----------
    path
        Name of the argument, or the JSON path of the value.
    message
        The value and the remedy.

    Examples
    --------
    >>> invalid("n", "0 is not a positive integer")
    BadRequestError('n: 0 is not a positive integer')
    """
    return BadRequestError(InvalidRequest(path=path, message=message))


class UnsupportedParameterError(ConnectorError):
    """Raised for `Unsupported`."""


class AuthenticationError(ConnectorError):
    """Raised for `AuthFailed`."""


class PermissionDeniedError(ConnectorError):
    """Raised for `PermissionDenied`."""


class NotFoundError(ConnectorError):
    """Raised for `NotFound`."""


class RateLimitError(ConnectorError):
    """Raised for `RateLimited`."""


class QuotaExceededError(ConnectorError):
    """Raised for `QuotaExhausted`."""


class OverloadedError(ConnectorError):
    """Raised for `Overloaded`."""


class InternalServerError(ConnectorError):
    """Raised for `ServerError`."""


class APITimeoutError(ConnectorError, TimeoutError):
    """Raised for `TimedOut`."""


class APIConnectionError(ConnectorError, ConnectionError):
    """Raised for `Disconnected`."""


class MalformedResponseError(ConnectorError):
    """Raised for `Malformed`."""


class ContextLengthExceededError(ConnectorError):
    """Raised for `ContextTooLong`."""


class ContentFilterError(ConnectorError):
    """Raised for `ContentFiltered`."""


class BudgetExceededError(ConnectorError):
    """Raised for `BudgetExceeded`."""


class CancelledCallError(ConnectorError):
    """Raised for `Cancelled`."""


class CacheError(ConnectorError):
    """Raised where a cache failed that must not (`llmhub.CacheMode`).

    ``table`` holds the rows of the run, or ``response`` the answer of a single call, as far as there are any: what was
    paid for is not lost.
    """

    response: object = None


EXCEPTIONS: Final[dict[type[_Failure], type[ConnectorError]]] = {
    InvalidRequest: BadRequestError,
    Unsupported: UnsupportedParameterError,
    AuthFailed: AuthenticationError,
    PermissionDenied: PermissionDeniedError,
    NotFound: NotFoundError,
    RateLimited: RateLimitError,
    QuotaExhausted: QuotaExceededError,
    Overloaded: OverloadedError,
    ServerError: InternalServerError,
    TimedOut: APITimeoutError,
    Disconnected: APIConnectionError,
    Malformed: MalformedResponseError,
    ContextTooLong: ContextLengthExceededError,
    ContentFiltered: ContentFilterError,
    BudgetExceeded: BudgetExceededError,
    Cancelled: CancelledCallError,
}


def to_exception(error: LLMError) -> ConnectorError:
    """Give the exception that stands for ``error``.

    Examples
    --------
    >>> raise to_exception(NotFound(message="no such model", provider="openai"))
    Traceback (most recent call last):
    llmhub.core.errors.NotFoundError: openai: no such model
    """
    return EXCEPTIONS[type(error)](error)
