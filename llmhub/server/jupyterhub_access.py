"""Authenticate users of a JupyterHub by the tokens that their servers and kernels have already.

A token is verified by ``GET /hub/api/user`` at the hub, which returns its user and the user's groups; the answer counts
for a short time. Source: https://jupyterhub.readthedocs.io/en/stable/reference/services.html (read 2026-11-30).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct
from returns.result import Failure, Result, Success

from llmhub.core.errors import AuthFailed, LLMError, Overloaded, PermissionDenied
from llmhub.core.provider import Endpoint, HttpRequest
from llmhub.engine.transport import Timeout, Transport, TransportConfig
from llmhub.server.access import Caller
from llmhub.server.virtual_keys import DEFAULT_SCOPES, Allowance, Name, Scope, token_digest

if TYPE_CHECKING:
    from llmhub.server.key_access import KeyAccess

POOL: Final = "jupyterhub"
USER_PREFIX: Final = "jupyterhub:"
"""Before the names of users in ids of keys."""
HTTP_OK: Final = 200
HTTP_SERVER_ERRORS: Final = 500
MAX_KNOWN_TOKENS: Final = 10_000
REFUSED_S: Final = 5.0
"""Time for which a refusal counts."""
RETRY_AFTER_S: Final = 2.0
REFUSED: Final = "this is no key of this service, and the JupyterHub does not know it as a token"
UNREACHABLE: Final = "the JupyterHub that verifies tokens cannot be reached"


class UserAllowance(Allowance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of each user of a JupyterHub."""


class JupyterHubSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a JupyterHub whose users may use the service.

    Parameters
    ----------
    url
        Address of its API, such as ``http://127.0.0.1:8081/hub/api``; empty for none.
    service
        Name of this service in the hub. A token needs the scope ``access:services!service=NAME``; empty to accept every
        token that tells its user.
    groups
        Team of the members of each group; the first group that a user is in decides.
    default_team
        Team of users who are in none of them; empty to refuse those.
    each_user
        Limits of each user, besides those of the team.
    scopes, models
        What users may use.
    refresh_s
        How long the hub's answer about a token counts.
    timeout_s
        How long the hub may take to answer.
    """

    url: str = ""
    service: str = "llmhub"
    groups: dict[str, Name] = {}
    default_team: str = ""
    each_user: UserAllowance = UserAllowance()
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    models: tuple[str, ...] = ("*",)
    refresh_s: Annotated[float, Meta(ge=0)] = 60.0
    timeout_s: Annotated[float, Meta(gt=0)] = 10.0


class HubUser(Struct, frozen=True):
    """A user, or a service of the hub, as its API returns it."""

    name: str
    kind: str = "user"
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


def team_of(user: HubUser, settings: JupyterHubSettings) -> Result[str, LLMError]:
    """Return the team of a user.

    Examples
    --------
    >>> settings = JupyterHubSettings(groups={"staff": "research", "class": "students"}, service="")
    >>> team_of(HubUser("ada", groups=("class", "staff")), settings).unwrap()
    'research'
    """
    wanted = f"access:services!service={settings.service}"
    if settings.service and not {wanted, "access:services"} & set(user.scopes):
        message = f"the JupyterHub token of {user.name!r:.80} lacks the scope {wanted}"
        return Failure(PermissionDenied(message=message))
    team = next((team for group, team in settings.groups.items() if group in user.groups), settings.default_team)
    if not team:
        return Failure(PermissionDenied(message=f"the JupyterHub user {user.name!r:.80} is in no group with a team"))
    return Success(team)


class JupyterHubUsers:
    """The users of a JupyterHub, by their tokens. Use it on the engine's loop only.

    Parameters
    ----------
    settings
        Settings of the hub.
    access
        Makes callers within their limits.
    clock
        Returns seconds.
    """

    def __init__(
        self, settings: JupyterHubSettings, access: KeyAccess, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._access, self._clock = settings, access, clock
        self._transport = Transport(TransportConfig(timeout=Timeout(total_s=settings.timeout_s)))
        self._callers: dict[tuple[str, str], Caller] = {}
        self._known: dict[str, tuple[Result[Caller, LLMError], float]] = {}

    async def close(self) -> None:
        """Close the connections to the hub."""
        await self._transport.close()

    async def authenticate(self, token: str) -> Result[Caller, LLMError]:
        """Return the caller of a token, as the hub has verified it a short time ago or does now."""
        digest = token_digest(token)
        known = self._known.get(digest)
        if known is not None and self._clock() < known[1]:
            return known[0]
        result = await self._ask(token)
        if not isinstance(result, Success) and isinstance(result.failure(), Overloaded):
            return result
        if len(self._known) >= MAX_KNOWN_TOKENS:
            self._known.clear()
        counts_s = self._settings.refresh_s if isinstance(result, Success) else min(REFUSED_S, self._settings.refresh_s)
        self._known[digest] = result, self._clock() + counts_s
        return result

    async def _ask(self, token: str) -> Result[Caller, LLMError]:
        if not (token.isascii() and token.isprintable()):
            return Failure(AuthFailed(message=REFUSED))
        request = HttpRequest("GET", f"{self._settings.url.rstrip('/')}/user", {"authorization": f"token {token}"})
        reply = await self._transport.fetch(POOL, request, Endpoint(api_key=token))
        if not isinstance(reply, Success):
            return Failure(Overloaded(message=UNREACHABLE, retry_after_s=RETRY_AFTER_S))
        received = reply.unwrap()
        if received.status >= HTTP_SERVER_ERRORS:
            return Failure(Overloaded(message=UNREACHABLE, retry_after_s=RETRY_AFTER_S))
        if received.status != HTTP_OK:
            return Failure(AuthFailed(message=REFUSED))
        try:
            user = msgspec.json.decode(received.body, type=HubUser)
        except msgspec.DecodeError:
            return Failure(Overloaded(message=UNREACHABLE, retry_after_s=RETRY_AFTER_S))
        return team_of(user, self._settings).map(lambda team: self.caller(f"{USER_PREFIX}{user.name}", team))

    def caller(self, key_id: str, team: str) -> Caller:
        """Return a user as a caller, within the limits of the settings."""
        key = (key_id, team)
        caller = self._callers.get(key)
        if caller is None:
            settings = self._settings
            caller = self._callers[key] = self._access.caller(
                *key, frozenset(settings.scopes), settings.each_user, models=settings.models
            )
        return caller
