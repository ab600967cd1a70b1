"""Error replies read by table: the provider's own code first, then words it is known to use, then the status."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from llmhub.core.errors import (
    AuthFailed,
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

Kind: TypeAlias = Callable[..., LLMError]

STATUS: Final[Mapping[int, Kind]] = {
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

MESSAGE_LIMIT: Final = 2000
"""A longer message (an HTML page, say) is cut."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    """How one wire names its failures: by code, and by words in the message (lower case) for want of a code."""

    codes: Mapping[str, Kind] = field(default_factory=dict)
    words: Sequence[tuple[str, Kind]] = ()


def classify(known: Dictionary, *, status: int | None, codes: Sequence[str], message: str) -> LLMError:
    """Make the error that ``codes`` (most telling first), ``message`` and ``status`` speak of.

    Examples
    --------
    >>> known = Dictionary(codes={"insufficient_quota": QuotaExhausted})
    >>> classify(known, status=429, codes=["insufficient_quota"], message="")
    QuotaExhausted(message='HTTP 429', provider='', status=429, code='insufficient_quota', ...)
    """
    named = next((known.codes[code] for code in codes if code in known.codes), None)
    lowered = message.lower()
    kind = named or next((kind for words, kind in known.words if words in lowered), None) or of_status(status)
    said = message.strip() or (f"HTTP {status}" if status is not None else next(iter(codes), "unnamed error"))
    return kind(message=said[:MESSAGE_LIMIT], status=status, code=next(iter(codes), ""))


def of_status(status: int | None) -> Kind:
    """Read a bare status; any other 4xx is the request's fault, all else the server's.

    Examples
    --------
    >>> of_status(418).__name__, of_status(502).__name__
    ('InvalidRequest', 'ServerError')
    """
    if status is None:
        return ServerError
    return STATUS.get(status) or (InvalidRequest if 400 <= status < 500 else ServerError)  # noqa: PLR2004 - HTTP classes
