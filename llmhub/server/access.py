"""Access: callers, their scopes, and the protocol by which requests are authenticated."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Protocol

from returns.result import Result, Success

if TYPE_CHECKING:
    from aiohttp import web

    from llmhub.core.errors import LLMError
    from llmhub.engine.spending import Budgets
    from llmhub.server.routes import HttpRoute

SCOPES: Final = ("completions", "embeddings", "tables", "runs", "batches", "metrics", "admin")
"""What a caller may be permitted to use. Each route names one; a route without a scope needs no caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The owner of a key, as far as requests depend on it.

    Parameters
    ----------
    key_id
        Public id of the key; the key itself is never kept.
    team
        Team that the key belongs to.
    scopes
        Permitted scopes, of `SCOPES`.
    models
        Patterns of permitted models (``openai/*``).
    weight
        Share of the key among those that wait in the same lane.
    budgets
        Budgets that each call must fit into besides the hub's; ``None`` for those of the hub alone.
    cache_scope
        Callers with equal values share cached responses.
    limits
        Rate limits of the caller; ``None`` for none.
    """

    key_id: str
    team: str
    scopes: frozenset[str] = frozenset(SCOPES)
    models: tuple[str, ...] = ("*",)
    weight: float = 1.0
    budgets: Budgets | None = None
    cache_scope: str = ""
    limits: CallerLimits | None = None

    def may_use(self, model: str) -> bool:
        """Return whether the caller may send requests to ``provider/model``.

        Examples
        --------
        >>> Caller(key_id="k1", team="t", models=("openai/*",)).may_use("anthropic/claude-haiku-4-5")
        False
        """
        return "*" in self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class CallerLimits(Protocol):
    """Rate limits of a caller."""

    @property
    def counts_tokens(self) -> bool:
        """Whether one of them counts tokens."""

    async def admit(self, tokens: int) -> LLMError | None:
        """Count a request of an estimated number of tokens; return the error of one that has to come later."""

    def charge(self, tokens: int) -> None:
        """Count further tokens of a request, or fewer than estimated (negative)."""


class Access(Protocol):
    """Authenticates requests. Implementations may wait (for Redis, for a JupyterHub), but not for long."""

    async def authenticate(self, request: web.Request, route: HttpRoute) -> Result[Caller, LLMError]:
        """Return the caller of a request, or `AuthFailed`; the body may be read, for signatures."""


LOCAL_CALLER: Final = Caller(key_id="local", team="local")
"""Whoever uses a service without keys on their own machine."""


class OpenAccess:
    """Accepts every request: for a service that is bound to a loopback address."""

    async def authenticate(self, _request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
        """Return `LOCAL_CALLER`."""
        return Success(LOCAL_CALLER)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches ``host``.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
