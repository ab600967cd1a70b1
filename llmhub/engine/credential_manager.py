"""Credentials of targets: read from the hub's stores, kept until they expire, and read once more after a refusal.

One `CredentialManager` belongs to a client and lives on its event loop. Calls of one provider share one read, and
wait for it only if there is no valid credential meanwhile; calls of other providers never wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import AuthFailed, Hint, LLMError, with_context
from llmhub.core.protocol import error_from_reply
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest
from llmhub.core.secret import Secret
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.transport import Transport
from llmhub.security.credentials.credential_store import (
    NO_CREDENTIALS,
    CredentialContext,
    Credentials,
    CredentialSource,
    CredentialStore,
    credentials_of,
    with_credentials,
)

REFRESH_SHARE: Final = 0.1
"""Share of a credential's lifetime before its end in which it is read again."""
MAX_REFRESH_AHEAD_S: Final = 300.0
"""Longest such time."""
RETRY_S: Final = 30.0
"""How long a store is left alone after it returned credentials that a provider refused, or that expire soon."""
FAILURE_S: Final = 1.0
"""How long the failure of a store answers all calls that need it."""
FIRST_ERROR_STATUS: Final = 400
POOL: Final = "credentials"
"""Name of the connections to stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialPolicy:
    """Where a client's targets get their credentials.

    Parameters
    ----------
    sources
        Asked in this order before a provider's first call.
    fallback
        Asked after those, when a provider has refused the credentials of its endpoint; ``None`` for nowhere.
    own
        Names of endpoints (``openai``, ``openai/gpt-4o``) that have credentials of their own, for which no source is
        asked.
    refreshed
        Names of endpoints whose credentials came from ``fallback``.
    """

    sources: tuple[CredentialSource, ...] = ()
    fallback: CredentialSource | None = None
    own: frozenset[str] = frozenset()
    refreshed: frozenset[str] = frozenset()


NO_POLICY: Final = CredentialPolicy()


@dataclass(slots=True)
class _State:
    """Credentials of one endpoint, and the read that is under way."""

    credentials: Credentials | None = None
    endpoint: Endpoint | None = None
    """The configured endpoint with ``credentials``."""
    has_credentials: bool = False
    refresh_at: float = -inf
    """When they are read again (epoch seconds)."""
    failure: LLMError | None = None
    ask_again_at: float = -inf
    """After a refusal that a new read did not help against: when the stores are asked about one again."""
    task: asyncio.Task[LLMError | None] | None = None


class CredentialManager:
    """The credentials of a client's targets.

    Parameters
    ----------
    policy
        Where they come from.
    transport
        The connections, over which stores are reached.
    endpoints
        The configured endpoints, by provider or by ``provider/model``.
    record_decision
        Logs each renewal.
    clock
        Returns epoch seconds.
    """

    def __init__(
        self,
        policy: CredentialPolicy,
        transport: Transport,
        endpoints: Mapping[str, Endpoint],
        record_decision: RecordDecision,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._transport = transport
        self._endpoints = endpoints
        self._record_decision = record_decision
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._stores: tuple[CredentialStore, ...] | None = None
        self._fallback: CredentialStore | None = None

    def manages(self, target: Target) -> bool:
        """Return whether the credentials of a target are read from stores."""
        name = self.name_of(target)
        if target.endpoint.simulated or name in self._policy.own:
            return False
        return bool(self._policy.sources) or name in self._policy.refreshed

    def current(self, name: str) -> Endpoint | None:
        """Return an endpoint with valid credentials if they need not be read now. Called once for each attempt."""
        state = self._states.get(name)
        if state is None or not state.has_credentials:
            return None
        return state.endpoint if state.refresh_at == inf or self._clock() < state.refresh_at else None

    async def endpoint(self, target: Target) -> Result[Endpoint, LLMError]:
        """Return the endpoint of a target with valid credentials, waiting for a store only if there are none."""
        if not self.manages(target):
            return Success(target.endpoint)
        name = self.name_of(target)
        state = self._state(name, target)
        current = self.current(name)
        if current is not None:
            return Success(current)
        is_valid = state.credentials is not None and not self._is_expired(state.credentials)
        if state.failure is not None and self._clock() < state.ask_again_at:
            if not is_valid:
                return Failure(with_context(state.failure, provider=target.provider.name))
        else:
            task = self._read(name, target)
            if not is_valid:
                error = await asyncio.shield(task)
                if error is not None:
                    return Failure(with_context(error, provider=target.provider.name))
        assert state.endpoint is not None  # noqa: S101 - a successful read sets it
        if not state.credentials and _needs_credentials(target):
            return Failure(_missing(target))
        return Success(state.endpoint)

    async def renewed(self, target: Target, refused: Endpoint) -> Result[Endpoint | None, LLMError]:
        """Return the endpoint with newer credentials than those refused; ``None`` if the stores have no newer ones."""
        if not self.manages(target):
            return Success(None)
        name = self.name_of(target)
        state, old = self._state(name, target), credentials_of(refused)
        if state.credentials is None or state.credentials.is_same(old):
            if self._clock() < state.ask_again_at:
                return Success(None)
            error = await asyncio.shield(self._read(name, target, after_refusal=True))
            if error is not None:
                return Failure(error)
        if not state.credentials or state.credentials.is_same(old):
            return Success(None)
        return Success(state.endpoint)

    async def send(
        self, target: Target, send: Callable[[Endpoint], Awaitable[Result[HttpReply, LLMError]]]
    ) -> Result[HttpReply, LLMError]:
        """Send a request that is not a completion with valid credentials, and once more if they are refused."""
        found = await self.endpoint(target)
        if not is_successful(found):
            return Failure(found.failure())
        endpoint = found.unwrap()
        sent = await send(endpoint)
        if not is_successful(sent) or sent.unwrap().status < FIRST_ERROR_STATUS:
            return sent
        if not is_refusal_of_credentials(error_from_reply(target.provider, sent.unwrap())):
            return sent
        renewed = await self.renewed(target, endpoint)
        again = renewed.unwrap() if is_successful(renewed) else None
        return sent if again is None else await send(again)

    async def close(self) -> None:
        """End the background work of the stores."""
        tasks = [state.task for state in self._states.values() if state.task is not None]
        self._states.clear()
        for task in tasks:
            task.cancel()
        stores, self._stores = (*(self._stores or ()), *((self._fallback,) if self._fallback else ())), None
        self._fallback = None
        for store in stores:
            await store.close()

    def name_of(self, target: Target) -> str:
        """Return the name of the endpoint that a target uses: its own, or that of its provider."""
        return target.name if target.name in self._endpoints else target.name.partition("/")[0]

    def _state(self, name: str, target: Target) -> _State:
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = _State()
            if not self._policy.sources:
                # Read with the settings already.
                state.credentials, state.endpoint = credentials_of(target.endpoint), target.endpoint
                state.has_credentials, state.refresh_at = bool(state.credentials), inf
        return state

    def _is_expired(self, credentials: Credentials) -> bool:
        return credentials.expires_at is not None and self._clock() >= credentials.expires_at

    def _read(self, name: str, target: Target, *, after_refusal: bool = False) -> asyncio.Task[LLMError | None]:
        """Return the read that is under way, or begin one."""
        state = self._states[name]
        if state.task is None or state.task.done():
            work = self._update(name, state, target, after_refusal=after_refusal)
            state.task = asyncio.get_running_loop().create_task(work)
        return state.task

    async def _update(self, name: str, state: _State, target: Target, *, after_refusal: bool) -> LLMError | None:
        """Ask the stores; keep what they return, or the error. Earlier credentials are kept if the stores fail."""
        result = await self._ask(name, target, after_refusal=after_refusal)
        now = self._clock()
        if not is_successful(result):
            error = result.failure()
            state.failure, state.ask_again_at = error, now + FAILURE_S
            self._record_decision("credentials", name, f"not read: {error.message}")
            return error
        found = result.unwrap() or NO_CREDENTIALS
        old = state.credentials
        is_refused = after_refusal and (not found or (old is not None and found.is_same(old)))
        if old is not None and found and not found.is_same(old):
            self._record_decision("credentials", name, "renewed")
        if found or state.credentials is None or not after_refusal:
            is_own = not found or found.is_same(credentials_of(target.endpoint))
            state.credentials = found
            state.endpoint = target.endpoint if is_own else with_credentials(target.endpoint, found)
        state.has_credentials = bool(state.credentials)
        state.failure, state.refresh_at = None, self._refresh_at(state.credentials, now)
        state.ask_again_at = now + RETRY_S if is_refused else -inf
        return None

    @staticmethod
    def _refresh_at(credentials: Credentials, now: float) -> float:
        """Return when to read credentials again: some time before they expire, so that no call waits."""
        expires_at = credentials.expires_at
        if expires_at is None:
            return inf if credentials else now + RETRY_S
        ahead_s = min(MAX_REFRESH_AHEAD_S, (expires_at - now) * REFRESH_SHARE)
        return max(expires_at - ahead_s, min(expires_at, now + RETRY_S))

    async def _ask(self, name: str, target: Target, *, after_refusal: bool) -> Result[Credentials | None, LLMError]:
        """Return the credentials of the first store that has any, or the first failure."""
        provider = target.name.partition("/")[0]
        for store in self._open_stores():
            result = await store.fetch(provider)
            if not is_successful(result) or result.unwrap():
                return result
        if name not in self._policy.refreshed:
            return Success(None)
        if not after_refusal:
            return Success(credentials_of(target.endpoint))
        return await self._open_fallback().fetch(provider)

    def _context(self) -> CredentialContext:
        return CredentialContext(send=self._send, run_in_thread=run_in_thread, clock=self._clock)

    def _open_stores(self) -> Sequence[CredentialStore]:
        if self._stores is None:
            context = self._context()
            self._stores = tuple(source.open(context) for source in self._policy.sources)
        return self._stores

    def _open_fallback(self) -> CredentialStore:
        if self._fallback is None:
            assert self._policy.fallback is not None  # noqa: S101 - set wherever `refreshed` is not empty
            self._fallback = self._policy.fallback.open(self._context())
        return self._fallback

    def _send(self, request: HttpRequest, secrets: Sequence[Secret]) -> Awaitable[Result[HttpReply, LLMError]]:
        hidden = {f"X-{index}": secret.reveal() for index, secret in enumerate(secrets)}
        return self._transport.fetch(POOL, request, Endpoint(headers=hidden))


def _needs_credentials(target: Target) -> bool:
    return bool(target.provider.required_env) and not credentials_of(target.endpoint) and not target.endpoint.headers


def _missing(target: Target) -> LLMError:
    name = target.name.partition("/")[0]
    return AuthFailed(
        provider=target.provider.name,
        path="credentials",
        message=f"no store has credentials of {name!r}",
        hint=Hint("api_key", provider=name, environment=target.provider.required_env),
    )


def credential_middleware(manager: CredentialManager, target: Target) -> Middleware:
    """Return the middleware that sends calls with the target's present credentials, and once more with renewed ones.

    A refusal (`AuthFailed` with a status) asks the stores again, once; the call is repeated if they have others.
    """
    name = manager.name_of(target)

    def wrap(send: Send) -> Send:
        async def send_with_credentials(call: Call) -> Answer:
            endpoint = manager.current(name)
            if endpoint is None:
                found = await manager.endpoint(target)
                if not is_successful(found):
                    return Answer(outcome=Failure(found.failure()), total_s=0.0)
                endpoint = found.unwrap()
            answer = await send(call.with_endpoint(endpoint))
            if is_successful(answer.outcome):
                return answer
            error = answer.outcome.failure()
            if not is_refusal_of_credentials(error):
                return answer
            started = time.perf_counter()
            renewed = await manager.renewed(target, endpoint)
            if not is_successful(renewed):
                message = f"{error.message}; credentials were not read again: {renewed.failure().message}"
                return replace(answer, outcome=Failure(replace(error, message=message)))
            again = renewed.unwrap()
            if again is None:
                return answer
            second = await send(call.with_endpoint(again))
            return _merged(answer, second, time.perf_counter() - started)

        return send_with_credentials

    return wrap


def is_refusal_of_credentials(error: LLMError) -> bool:
    """Return whether a provider has refused the credentials of a request.

    Examples
    --------
    >>> is_refusal_of_credentials(AuthFailed(status=401)), is_refusal_of_credentials(AuthFailed())
    (True, False)
    """
    return isinstance(error, AuthFailed) and error.status is not None


def _merged(first: Answer, second: Answer, waited_s: float) -> Answer:
    """Return the second answer with the requests and times of both."""
    return replace(
        second,
        attempts=first.attempts + second.attempts,
        rate_wait_s=(first.rate_wait_s or 0.0) + (second.rate_wait_s or 0.0),
        started_at=first.started_at or second.started_at,
        total_s=(first.total_s or 0.0) + waited_s,
        billed_failures=first.billed_failures + second.billed_failures,
        uncertain_requests=first.uncertain_requests + second.uncertain_requests,
    )
