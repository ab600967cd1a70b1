"""Errors of calls: a closed union of frozen values, and one exception class for each of them.

Inside llmhub an error is a value in a ``Result``; `to_exception` turns it into a `ConnectorError` for callers who want
exceptions. The value carries what a retry policy needs: whether the same request may succeed later, and when.

The names of the values are stored in the ``error_type`` column and in ledgers. The exceptions have the names that the
providers' SDKs use.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

from llmhub.formatting.tracebacks import user_traceback


@dataclass(frozen=True, slots=True)
class Hint:
    """An argument that lets a call succeed. Each interface words it for its own users; ``str`` words it for Python.

    Parameters
    ----------
    argument
        Keyword argument of the call (``prefix``), or field of `llmhub.Endpoint` if ``provider`` is set (``api_key``).
    value
        Value to pass; ``...`` leaves it to the user.
    provider
        Provider whose endpoint lacks the field.
    environment
        Alternatives to the argument: groups of environment variables, any one group of which is enough.
    purpose
        What passing it does, after "to" (``omit it``).

    Examples
    --------
    >>> str(Hint("unsupported", "drop", purpose="omit it"))
    "pass unsupported='drop' to omit it"
    >>> str(Hint("api_key", provider="openai", environment=(("OPENAI_API_KEY",),)))
    "set OPENAI_API_KEY in the environment, or pass Hub(endpoints={'openai': Endpoint(api_key=...)})"
    """

    argument: str
    value: object = ...
    provider: str = ""
    environment: tuple[tuple[str, ...], ...] = ()
    purpose: str = ""

    @property
    def variables(self) -> str:
        """The environment variables to set, such as ``A and B or C``; empty if there are none."""
        return " or ".join(" and ".join(group) for group in self.environment)

    def __str__(self) -> str:
        """Return the remedy for a caller of the Python interface."""
        setting = f"{self.argument}={'...' if self.value is ... else repr(self.value)}"
        if self.provider:
            setting = f"Hub(endpoints={{{self.provider!r}: Endpoint({setting})}})"
        set_variables = f"set {self.variables} in the environment, or " if self.environment else ""
        return f"{set_variables}pass {setting}{f' to {self.purpose}' if self.purpose else ''}"


DROP_HINT: Final = Hint("unsupported", "drop", purpose="omit it")
"""For a parameter that a provider does not support."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ErrorValue:
    """Fields of every error value.

    ``path`` begins with ``$`` if it is a place within a request or a reply (``$.choices[0]``); otherwise it names an
    argument. ``should_retry`` is the provider's own word on it, ``retry_after_s`` how long it asks to wait.
    """

    message: str = ""
    provider: str = ""
    status: int | None = None
    code: str = ""
    path: str = ""
    request_id: str = ""
    retry_after_s: float | None = None
    should_retry: bool | None = None
    hint: Hint | None = None

    def __str__(self) -> str:
        """Return the error as one line: provider, argument, message, remedy, place and HTTP status."""
        is_place = self.path.startswith("$")
        argument = f"{self.path}: " if self.path and not is_place else ""
        place = f" at {self.path}" if is_place else ""
        status = f" ({self.status})" if self.status is not None else ""
        provider = f"{self.provider}: " if self.provider else ""
        hint = "" if self.hint is None else f"; {self.hint}"
        return f"{provider}{argument}{self.message or type(self).__name__}{hint}{place}{status}"


class InvalidRequest(_ErrorValue):
    """The request is wrong and has to be changed by the caller."""

    __slots__ = ()


class Unsupported(_ErrorValue):
    """The provider, the model or the API version does not support what ``path`` names."""

    __slots__ = ()


class AuthFailed(_ErrorValue):
    """There is no credential, or the provider does not accept it."""

    __slots__ = ()


class PermissionDenied(_ErrorValue):
    """The credential is valid but not permitted to do this."""

    __slots__ = ()


class NotFound(_ErrorValue):
    """There is no such model, deployment or path."""

    __slots__ = ()


class RateLimited(_ErrorValue):
    """Too many requests or tokens per unit of time; ``retry_after_s`` is set if the provider sent it."""

    __slots__ = ()


class QuotaExhausted(_ErrorValue):
    """The account has no credit or quota left; retrying soon does not help."""

    __slots__ = ()


class Overloaded(_ErrorValue):
    """The provider is overloaded."""

    __slots__ = ()


class ServerError(_ErrorValue):
    """The provider had an internal error."""

    __slots__ = ()


class TimedOut(_ErrorValue):
    """The response did not arrive in time."""

    __slots__ = ()


class Disconnected(_ErrorValue):
    """The connection could not be opened, or closed before the response was complete."""

    __slots__ = ()


class Malformed(_ErrorValue):
    """The response does not follow the provider's format at ``path``, or does not match the requested schema."""

    __slots__ = ()


class ContextTooLong(_ErrorValue):
    """The prompt exceeds the model's context window."""

    __slots__ = ()


class ContentFiltered(_ErrorValue):
    """A content filter blocked the prompt or the response."""

    __slots__ = ()


class BudgetExceeded(_ErrorValue):
    """The call was not sent, because its maximum cost exceeds what is left of the budget."""

    __slots__ = ()


class Cancelled(_ErrorValue):
    """The run was stopped before the response arrived."""

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
"""``code`` of a failure before a connection was open: nothing was sent, so nothing can have been charged."""

TRANSIENT: Final = frozenset({RateLimited, Overloaded, ServerError, TimedOut, Disconnected})
"""Errors that are retried. `Malformed` is not one of them: the response arrived, and may have been charged."""

POSSIBLY_BILLED: Final = frozenset({TimedOut, Disconnected, Malformed, Cancelled})
"""Errors after which the provider may charge for a response that never arrived, or could not be read."""

E = TypeVar("E", bound=_ErrorValue)


def invalid(path: str, message: str, *, hint: Hint | None = None) -> BadRequestError:
    """Return the exception for a bad argument: ``raise invalid("n", "must be 1 or more, not 0")``.

    Parameters
    ----------
    path
        The argument (``n``) or the place within it (``$.messages[0].role``).
    message
        The value and what it has to be.
    hint
        What to pass instead, if that is an argument of its own.

    Examples
    --------
    >>> str(invalid("n", "must be 1 or more, not 0"))
    'n: must be 1 or more, not 0'
    """
    return BadRequestError(InvalidRequest(path=path, message=message, hint=hint))


def error_type_name(error: LLMError) -> str:
    """Return the name of the error's type, as stored in the ``error_type`` column.

    Examples
    --------
    >>> error_type_name(RateLimited(retry_after_s=2.0))
    'RateLimited'
    """
    return type(error).__name__


def is_transient(error: LLMError) -> bool:
    """Return whether the same request may succeed later; the provider's ``x-should-retry`` header takes precedence.

    Examples
    --------
    >>> is_transient(Overloaded()), is_transient(AuthFailed()), is_transient(ServerError(should_retry=False))
    (True, False, False)
    """
    return error.should_retry if error.should_retry is not None else type(error) in TRANSIENT


def retry_after_s(error: LLMError) -> float | None:
    """Return the seconds that the provider asks to wait before a retry, or ``None`` if it did not send any."""
    return error.retry_after_s


def with_context(
    error: E,
    *,
    provider: str,
    request_id: str = "",
    retry_after_s: float | None = None,
    should_retry: bool | None = None,
) -> E:
    """Return ``error`` with the given fields filled in where it has none of its own."""
    return replace(
        error,
        provider=error.provider or provider,
        request_id=error.request_id or request_id,
        retry_after_s=error.retry_after_s if error.retry_after_s is not None else retry_after_s,
        should_retry=error.should_retry if error.should_retry is not None else should_retry,
    )


class ConnectorError(Exception):
    """Base class of all exceptions that llmhub raises.

    Attributes
    ----------
    error
        The error value.
    table
        Results of the run that failed, so that responses which were paid for are not lost; ``None`` for a single call.
        Any other exception that ends a run has this attribute too (see `attach_table`).
    """

    def __init__(self, error: LLMError) -> None:
        super().__init__(str(error))
        self.error = error
        self.table: object = None

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: the user's own lines and the message, without the frames of llmhub."""
        return user_traceback(self)

    def __reduce__(self) -> tuple[type[ConnectorError], tuple[LLMError], dict[str, object]]:
        """Pickle by value and with the table, so that a worker process can raise it in its parent."""
        return type(self), (self.error,), self.__dict__


class BadRequestError(ConnectorError, ValueError):
    """Raised for `InvalidRequest`."""


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
    """Raised if the cache fails and `llmhub.CacheMode` does not permit to continue without it.

    ``table`` holds the rows of the run, or ``response`` the response of a single call, if there are any.
    """

    response: object = None


def attach_table(error: BaseException, table: object) -> None:
    """Set the ``table`` of an exception to the results of the run that it ends, unless it has one already.

    Examples
    --------
    >>> error = OSError("no space left")
    >>> attach_table(error, "3 rows")
    >>> error.table
    '3 rows'
    """
    if getattr(error, "table", None) is None:
        BaseException.__setattr__(error, "table", table)  # even of an exception that is a frozen dataclass
        with suppress(AttributeError):
            error.add_note(TABLE_NOTE)


def attach_response(error: BaseException, response: object) -> None:
    """Set the ``response`` of an exception to the one that had arrived before it.

    Examples
    --------
    >>> error = OSError("no space left")
    >>> attach_response(error, "Hi")
    >>> error.response
    'Hi'
    """
    BaseException.__setattr__(error, "response", response)  # even of an exception that is a frozen dataclass


TABLE_NOTE: Final = "The results of the run so far are in the `table` attribute of this exception."

EXCEPTIONS: Final[dict[type[_ErrorValue], type[ConnectorError]]] = {
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
    """Return the exception for ``error``, to be raised.

    Examples
    --------
    >>> raise to_exception(NotFound(message="no such model", provider="openai"))
    Traceback (most recent call last):
    llmhub.core.errors.NotFoundError: openai: no such model
    """
    return EXCEPTIONS[type(error)](error)
