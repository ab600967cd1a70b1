"""Authenticate requests by virtual keys, and keep their callers within budgets and rate limits."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING, Final

from returns.result import Failure, Result, Success

from llmhub.cache.access_store import AccessStore, RateUse, UseNonce
from llmhub.cache.store import StoreError
from llmhub.core.errors import AuthFailed, InvalidRequest, LLMError, RateLimited, invalid, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.shared_accounts import AccountBudget, SharedAccounts
from llmhub.engine.spending import Budgets
from llmhub.security.request_signing import SignatureInput, SignedParts, parse_signature_input, verify_request
from llmhub.server.access import SCOPES, Access, Caller, OpenAccess, is_loopback
from llmhub.server.access_settings import AccessSettings, TeamSettings, open_access_store
from llmhub.server.jupyterhub_access import USER_PREFIX, JupyterHubUsers
from llmhub.server.virtual_keys import (
    KEY_ID,
    PREFIX,
    Allowance,
    CacheScope,
    KeyRegistry,
    VirtualKey,
    holder_of_key,
    key_id_of,
    signing_secret,
    token_digest,
)

if TYPE_CHECKING:
    from aiohttp import web

    from llmhub.server.routes import HttpRoute
    from llmhub.server.server_settings import ServerSettings

ADMIN_ID: Final = "admin"
"""Id and team of the admin key of the settings; ids of other keys are longer."""
KEY_HEADERS: Final = ("x-api-key", "x-goog-api-key")
MINUTE_US: Final = 60_000_000
MAX_KNOWN_KEYS: Final = 10_000
NO_KEY: Final = "send a key of this service as Authorization: Bearer KEY, or in x-api-key or x-goog-api-key"
SIGNATURE_HEADER: Final = "signature-input"
NO_SIGNATURES: Final = "this service accepts no signed requests; it needs server.access.signing_secret"
REPLAYED: Final = "this request was received before; sign each request anew, with a nonce of its own"
UNKNOWN_KEY: Final = "this is no key of this service"


def token_of(headers: Mapping[str, str]) -> str:
    """Return the key in the headers of a request, as the clients of each API send it; empty if there is none.

    Examples
    --------
    >>> token_of({"authorization": "Bearer abc"}), token_of({"x-api-key": "abc"}), token_of({})
    ('abc', 'abc', '')
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() in {"bearer", "token"} and token.strip():
        return token.strip()
    return next((headers[name].strip() for name in KEY_HEADERS if headers.get(name)), "")


@dataclass(frozen=True, slots=True)
class SharedCallerLimits:
    """Rate limits of a key and its team, which all replicas share.

    Parameters
    ----------
    accounts
        The shared accounts.
    rates
        Name in the store, whether it counts tokens, and the limit per minute.
    """

    accounts: SharedAccounts
    rates: tuple[tuple[str, bool, float], ...]

    @property
    def counts_tokens(self) -> bool:
        """Whether one of them counts tokens."""
        return any(of_tokens for _, of_tokens, _ in self.rates)

    async def admit(self, tokens: int) -> LLMError | None:
        """Count a request of an estimated number of tokens; return the error of one that has to come later."""
        uses = (_rate_use(name, rate, tokens if of_tokens else 1) for name, of_tokens, rate in self.rates)
        try:
            wait_s = await self.accounts.admit(tuple(uses))
        except StoreError:
            return self.accounts.lost_error()
        if not wait_s:
            return None
        limits = ", ".join(f"{rate:g} {name.rpartition(' ')[2]}" for name, _, rate in self.rates)
        return RateLimited(message=f"the key or its team may use {limits} a minute", retry_after_s=wait_s)

    def charge(self, tokens: int) -> None:
        """Count further tokens of a request, or fewer than estimated (negative)."""
        uses = tuple(_rate_use(name, rate, tokens) for name, of_tokens, rate in self.rates if of_tokens)
        if uses and tokens:
            self.accounts.charge(uses)


def _rate_use(name: str, rate: float, amount: int) -> RateUse:
    return RateUse(name, ceil(MINUTE_US * amount / rate), MINUTE_US)


async def _signed_parts(request: web.Request, body_timeout_s: float) -> SignedParts:
    """Return what can be signed of a request, whose body is read for it.

    Raises
    ------
    ConnectorError
        The body does not arrive in time.
    """
    try:
        async with asyncio.timeout(body_timeout_s):
            body = await request.read()
    except TimeoutError:
        message = f"the body did not arrive within {body_timeout_s:g} s"
        raise to_exception(InvalidRequest(message=message, status=408)) from None
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        known = headers.get(name.lower())
        headers[name.lower()] = value if known is None else f"{known}, {value}"
    return SignedParts(request.method, f"{request.scheme}://{request.host}{request.raw_path}", headers, body)


@dataclass(slots=True)
class _KnownKey:
    """A key as it was read, until when that counts, and its caller."""

    key: VirtualKey | None
    read_at: float
    caller: Caller | None = None


class KeyAccess:
    """Authenticates requests by keys of a store. Use it on one event loop only.

    Parameters
    ----------
    settings
        Settings of access.
    store
        Keeps the keys and what they spend.
    clock
        Returns epoch seconds.
    body_timeout_s
        How long the body of a signed request may take.
    """

    def __init__(
        self,
        settings: AccessSettings,
        store: AccessStore,
        clock: Callable[[], float] = time.time,
        *,
        body_timeout_s: float = 30.0,
    ) -> None:
        self.settings = settings
        self._body_timeout_s = body_timeout_s
        self.registry = KeyRegistry(store, clock)
        self.accounts = SharedAccounts(store, store_lost=settings.store_lost, clock=clock)
        self._clock = clock
        self._known: dict[str, _KnownKey] = {}
        self._reading: dict[str, asyncio.Task[_KnownKey]] = {}
        self._admin_digest = token_digest(settings.admin_key.reveal()) if settings.admin_key else ""
        self._hub_users = JupyterHubUsers(settings.jupyterhub, self) if settings.jupyterhub.url else None
        self._admin = self.caller(ADMIN_ID, ADMIN_ID, frozenset(SCOPES), Allowance())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the accounts open for a block."""
        await self.accounts.open()
        try:
            yield
        finally:
            if self._hub_users is not None:
                await self._hub_users.close()
            await self.accounts.close()

    def forget(self, key_id: str) -> None:
        """Read a key again at its next use, because it was changed here."""
        self._known.pop(key_id, None)

    async def authenticate(self, request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
        """Return the caller whose key a request holds, or the error of one without a valid key."""
        if self.accounts.is_closed:
            return Failure(self.accounts.lost_error())
        if SIGNATURE_HEADER in request.headers:
            return await self._authenticate_signed(request)
        return await self.authenticate_token(token_of(request.headers))

    async def _authenticate_signed(self, request: web.Request) -> Result[Caller, LLMError]:
        """Return the caller who has signed a request, which is accepted once."""
        if not self.settings.signing_secret:
            return Failure(AuthFailed(path=SIGNATURE_HEADER, message=NO_SIGNATURES))
        parsed = parse_signature_input(request.headers[SIGNATURE_HEADER])
        if not isinstance(parsed, Success):
            return Failure(parsed.failure())
        signed = parsed.unwrap()
        try:
            known = await self._read(signed.key_id if KEY_ID.fullmatch(signed.key_id) else "")
            key, caller = known.key, known.caller
            if key is None or caller is None:
                return Failure(AuthFailed(path=SIGNATURE_HEADER, message=UNKNOWN_KEY))
            refusal = self._refusal_of_signature(await _signed_parts(request, self._body_timeout_s), signed, key)
            if refusal is None:
                refusal = refusal_of_state(key, self._clock())
            if refusal is not None:
                return Failure(refusal)
            # A signature is valid from a window before its time until one after.
            nonce = UseNonce(f"{key.id}:{signed.nonce}", 2 * self.settings.signature_window_s)
            is_new = await self.accounts.perform(nonce)
        except StoreError:
            return Failure(self.accounts.lost_error())
        return Success(caller) if is_new else Failure(AuthFailed(path=SIGNATURE_HEADER, message=REPLAYED))

    def _refusal_of_signature(self, parts: SignedParts, signed: SignatureInput, key: VirtualKey) -> AuthFailed | None:
        now = self._clock()
        digests = [key.digest, *([key.earlier_digest] if key.earlier_digest and now < key.earlier_until else [])]
        refusals = [
            verify_request(
                parts,
                signed,
                secret=signing_secret(self.settings.signing_secret, key.id, digest),
                now=now,
                window_s=self.settings.signature_window_s,
            )
            for digest in digests
        ]
        return None if None in refusals else refusals[0]

    async def authenticate_token(self, token: str) -> Result[Caller, LLMError]:
        """Return the caller of a key, or the error of one that is unknown, expired or revoked."""
        if not token:
            return Failure(AuthFailed(message=NO_KEY))
        if self._admin_digest and hmac.compare_digest(token_digest(token), self._admin_digest):
            return Success(self._admin)
        key_id = key_id_of(token)
        if not key_id:
            if self._hub_users is not None and not token.startswith(PREFIX):
                return await self._hub_users.authenticate(token)
            return Failure(AuthFailed(message=UNKNOWN_KEY))
        return await self._authenticate_key(key_id, token)

    async def _authenticate_key(self, key_id: str, token: str) -> Result[Caller, LLMError]:
        try:
            known = await self._read(key_id)
        except StoreError:
            return Failure(self.accounts.lost_error())
        now = self._clock()
        if known.key is None or known.caller is None or not known.key.matches(token, now):
            return Failure(AuthFailed(message=UNKNOWN_KEY))
        refusal = refusal_of_state(known.key, now)
        if refusal is None and known.key.must_sign:
            refusal = AuthFailed(message=f"requests of the key {key_id} must be signed; the key itself is not accepted")
        return Success(known.caller) if refusal is None else Failure(refusal)

    async def find_caller(self, key_id: str, team: str = "") -> Result[Caller, LLMError]:
        """Return the caller of a key by its id, for work that outlives the request that began it.

        A user of a JupyterHub is still in the ``team`` that the hub told then.
        """
        if key_id == ADMIN_ID:
            return Success(self._admin)
        if key_id.startswith(USER_PREFIX) and self._hub_users is not None and team:
            return Success(self._hub_users.caller(key_id, team))
        try:
            known = await self._read(key_id)
        except StoreError:
            return Failure(self.accounts.lost_error())
        if known.key is None or known.caller is None:
            return Failure(AuthFailed(message=UNKNOWN_KEY))
        refusal = refusal_of_state(known.key, self._clock())
        return Success(known.caller) if refusal is None else Failure(refusal)

    async def _read(self, key_id: str) -> _KnownKey:
        """Return a key that was read a short time ago, or now.

        Raises
        ------
        StoreError
            The store is lost, and the key is not known or may not be used then.
        """
        known = self._known.get(key_id)
        if known is not None and self._clock() < known.read_at + self.settings.refresh_s:
            return known
        task = self._reading.get(key_id)
        if task is None:
            task = self._reading[key_id] = asyncio.get_running_loop().create_task(self._read_now(key_id))
            task.add_done_callback(lambda _: self._reading.pop(key_id, None))
        try:
            return await asyncio.shield(task)
        except StoreError:
            if known is None or self.settings.store_lost == "closed":
                raise
            return known

    async def _read_now(self, key_id: str) -> _KnownKey:
        now = self._clock()
        key = await run_in_thread(self.registry.get, key_id)
        if key is None:
            self._known.pop(key_id, None)
            return _KnownKey(None, now)
        known = self._known.get(key_id)
        caller = known.caller if known is not None and known.key == key else self._caller_of(key)
        if len(self._known) >= MAX_KNOWN_KEYS:
            self._known.clear()
        self._known[key_id] = found = _KnownKey(key, now, caller)
        return found

    def _caller_of(self, key: VirtualKey) -> Caller:
        return self.caller(
            key.id,
            key.team,
            frozenset(key.scopes),
            key,
            models=key.models,
            weight=key.weight,
            cache_scope=key.cache_scope,
        )

    def caller(
        self,
        key_id: str,
        team: str,
        scopes: frozenset[str],
        allowance: Allowance,
        *,
        models: tuple[str, ...] = ("*",),
        weight: float = 1.0,
        cache_scope: CacheScope | None = None,
    ) -> Caller:
        """Return a caller within its own limits and those of its team."""
        own, shared = holder_of_key(key_id), f"team:{team}"
        of_team = self.settings.teams.get(team, TeamSettings())
        limits = (*allowance.budgets(own), *of_team.budgets(shared))
        rates = (*_rates(own, allowance), *_rates(shared, of_team))
        budget = AccountBudget(self.accounts, limits, holders=(own, shared))
        return Caller(
            key_id=key_id,
            team=team,
            scopes=scopes,
            models=models,
            weight=weight,
            budgets=Budgets((budget,), allow_unpriced=self.settings.allow_unpriced or not limits),
            cache_scope=_cache_scope(cache_scope or self.settings.cache_scope, own, shared),
            limits=SharedCallerLimits(self.accounts, rates) if rates else None,
        )


def _rates(holder: str, allowance: Allowance) -> tuple[tuple[str, bool, float], ...]:
    given = ((f"{holder} requests", False, allowance.rpm), (f"{holder} tokens", True, allowance.tpm))
    return tuple((name, of_tokens, rate) for name, of_tokens, rate in given if rate is not None)


def _cache_scope(scope: CacheScope, key: str, team: str) -> str:
    return {"key": key, "team": team, "all": ""}[scope]


def refusal_of_state(key: VirtualKey, now: float) -> AuthFailed | None:
    """Return the error of a key that is expired or revoked."""
    match key.state(now):
        case "revoked":
            return AuthFailed(message=f"the key {key.id} was revoked{_on(key.revoked_at)}")
        case "expired":
            return AuthFailed(message=f"the key {key.id} expired{_on(key.expires_at)}")
        case _:
            return None


def _on(moment: float | None) -> str:
    return "" if moment is None else f" on {datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def access_from_settings(settings: ServerSettings, default_cache: str = "") -> Access:
    """Return how requests are authenticated.

    Parameters
    ----------
    settings
        Settings of the service.
    default_cache
        URL of the cache if the settings name none.

    Raises
    ------
    BadRequestError
        The service would be open to other machines without keys, or the store of keys cannot be used.
    """
    if settings.access.keys:
        store = open_access_store(settings.access.store, settings.cache or default_cache)
        return KeyAccess(settings.access, store, body_timeout_s=settings.body_timeout_s)
    if not is_loopback(settings.host):
        raise invalid(
            "server.host",
            f"{settings.host!r} can be reached from other machines, which needs keys: "
            "set server.access.keys = true (llmhub serve --keys), or bind 127.0.0.1 to go without",
        )
    return OpenAccess()
