"""Send single calls through the cache, single flight and the middleware, whose order is listed here.

`Client.send` answers one call. A run over many rows (`llmhub.engine.fan_out`) looks rows up in blocks and schedules the
misses itself, so its workers call `Client.send_uncached`, behind the cache and single flight. A client lives on one
event loop and owns what is open there: connections, the store, and the state of rate limiters, circuits and candidates.

The file is long because the order of all layers around a call is read in one place.
"""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from returns.result import Failure

from llmhub.cache.modes import CacheMode, restrict
from llmhub.cache.store import Cache, has_ledger
from llmhub.core.cache_key import RequestKeyer, legacy_request_keyer, request_keyer, scoped_key
from llmhub.core.errors import InvalidRequest, attach_response, invalid
from llmhub.core.prepared import with_model
from llmhub.core.protocol import JSON_ENCODING_ERRORS
from llmhub.engine.cache_middleware import CACHE_LOOKUPS, CacheLookups, cache_middleware
from llmhub.engine.cache_writer import CacheWriter
from llmhub.engine.call import Answer, Call, Middleware, Send, Target, chain
from llmhub.engine.circuit_breaker import HEALTH_ORDER, Breaker, Circuit, CircuitHealth, circuit_breaker_middleware
from llmhub.engine.credential_manager import NO_POLICY, CredentialManager, CredentialPolicy, credential_middleware
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.event_loop import StopSignal, background_loop, is_on_background_loop, submit
from llmhub.engine.fan_out import DRAIN_TIMEOUT_S, SWEEP_INTERVAL_S
from llmhub.engine.fan_out_types import CHUNK_SIZE, PlannedItem
from llmhub.engine.hooks import exception_guard, record_responses, with_received
from llmhub.engine.leased_limits import SharedLimits
from llmhub.engine.limits import Limit
from llmhub.engine.model_resolver import ModelResolver
from llmhub.engine.observer import (
    CallObservation,
    Observers,
    emit_wait,
    is_within_observed_call,
    no_observers,
    observation_middleware,
    observe_call,
    request_middleware,
)
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.engine.request_redaction import RedactedCall
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.engine.routing import CandidateMetrics, routing_middleware
from llmhub.engine.row_outcome import RowOutcome, as_answer, cancelled_outcome
from llmhub.engine.scheduling import TargetQueues
from llmhub.engine.single_flight import RowCallbacks, SingleFlight
from llmhub.engine.spending import Budgets, TargetPrices, budget_middleware
from llmhub.engine.store_access import StoreAccess
from llmhub.engine.transport import Transport, TransportConfig
from llmhub.engine.write_ahead import (
    NO_LEDGER,
    SEND_CONTEXT,
    AmbiguousPolicy,
    SendContext,
    WriteAheadLog,
    write_ahead_middleware,
)
from llmhub.security.redaction import Redactor

if TYPE_CHECKING:
    from llmhub.engine.batch_run import BatchRegistry

MAX_TARGETS: Final = 1024
"""Targets whose state is kept: the names of models come from clients of a service."""
MAX_CANDIDATE_KEYS: Final = 2 * CHUNK_SIZE
"""Requests whose keys at every candidate of their route are remembered."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Longest wait for open connections and pending writes when a client is closed."""


@dataclass(frozen=True, slots=True)
class ClientState:
    """State of a client at one moment.

    Parameters
    ----------
    in_flight, waiting
        Calls admitted but not answered, and calls that wait for a rate limit, by provider.
    queued
        Rows of runs that have not been started.
    circuits
        The worst health among the addresses of each provider called so far.
    """

    in_flight: Mapping[str, int]
    waiting: Mapping[str, int]
    queued: int
    circuits: Mapping[str, CircuitHealth]


@dataclass(frozen=True, slots=True)
class SendResult:
    """The answer to a single call, and the store problems to report to the user.

    Parameters
    ----------
    answer
        From the cache or the provider; `Cancelled` where the call was stopped.
    damaged_values
        Values in the store that could not be decoded and counted as misses.
    store_error
        The failure of the store, empty if there was none.
    stopped_by_store_failure
        Whether that failure stopped the call (strict cache mode).
    ambiguous_count
        1 if the request had been sent by a process that ended before its response arrived.
    """

    answer: Answer
    damaged_values: int = 0
    store_error: str = ""
    stopped_by_store_failure: bool = False
    ambiguous_count: int = 0


class Client:
    """Sends calls through the cache and the middleware. Lives on one event loop.

    Parameters
    ----------
    transport
        How connections are made.
    cache
        Where responses are stored; ``None`` for nowhere.
    resolver
        Finds the targets and routes that model names stand for.
    limits
        Declared rate limits by provider or model.
    adaptive
        Whether concurrency and pace are adapted to providers that declare no limit.
    retry, breaker
        The policies of the middleware of that name; no circuit breaker where ``breaker`` is ``None``.
    middleware
        The user's middleware, outermost first.
    ambiguous
        What to do with a request whose sender ended before the response arrived.
    job
        The job that this process works for, among those that share rate limits.
    credentials
        Where the credentials of targets are read.
    budgets
        Budgets for calls that have none of their own.
    record_decision
        Logs waits, retries, fallbacks and changes of circuits.
    observers
        Returns who is told of calls and requests (see `llmhub.engine.observer`).
    redactor
        Finds what single calls send as placeholders; ``None`` for nothing. Runs redact their rows themselves.
    """

    def __init__(
        self,
        *,
        transport: TransportConfig,
        cache: Cache | None,
        resolver: ModelResolver,
        limits: Mapping[str, Limit],
        adaptive: bool,
        retry: Retry,
        breaker: Breaker | None,
        middleware: Sequence[Middleware],
        ambiguous: AmbiguousPolicy,
        job: str = "",
        credentials: CredentialPolicy = NO_POLICY,
        budgets: Budgets,
        record_decision: RecordDecision,
        observers: Observers = no_observers,
        redactor: Redactor | None = None,
    ) -> None:
        self.loop = background_loop()
        self.store = cache.open() if cache is not None else None
        if ambiguous == "error" and self.store is not None and self.store.ledger is None and has_ledger(cache) is None:
            self.store.close()
            raise invalid("ambiguous", NO_LEDGER)
        self.write_ahead = WriteAheadLog(self.store, ambiguous) if self.store is not None else None
        # A read-only call records nothing in the store, but still shares requests in flight within this process.
        self._unrecorded = (
            WriteAheadLog(replace(self.store, claims=None, ledger=None)) if self.store is not None else None
        )
        self.transport = Transport(transport)
        self.credentials = CredentialManager(credentials, self.transport, resolver.endpoints, record_decision)
        limiter = self.store.limiter if self.store is not None else None
        self.shared_limits = shared = SharedLimits(limiter, job) if limiter is not None else None
        self.rate_limiter = RateLimiter(
            limits,
            time.monotonic,
            record_decision,
            adaptive=adaptive,
            shared=shared,
            refusal_deadline_s=retry.deadline_s,
        )
        self.has_routes = bool(resolver.routes)
        self._candidates = frozenset(name for route in resolver.routes.values() for name in route.candidates)
        self._legacy_keyers = _legacy_keyers(resolver)
        self.finalizer = weakref.finalize(
            self, _close, self.loop, self.transport, self.credentials, self.write_ahead, shared
        )
        self._resolver = resolver
        self._breaker = breaker
        self._budgets = budgets
        self._record_decision = record_decision
        self._observers = observers
        self._redactor = redactor
        self._prices = TargetPrices(time.time)
        self._metrics = CandidateMetrics(time.monotonic, random.random, self._prices)
        self._circuits: dict[tuple[str, str], Circuit] = {}
        self._circuit_by_target: dict[str, Circuit] = {}
        self._failure_deadline_s = retry.deadline_s
        self.queues: set[TargetQueues] = set()
        self._attempts: dict[str, Send] = {}
        self._keyers: dict[str, RequestKeyer] = {}
        self._candidate_keys_by_key: dict[bytes, list[tuple[Target, bytes]]] = {}
        self.send_unobserved: Send = self._build_chain(tuple(middleware), retry)
        self.send_uncached: Send = observation_middleware(observers)(self.send_unobserved)
        # Where a call's answer is that of its last request, a task may observe its calls (see `CallObservation`).
        self.observers = None if middleware or self.has_routes else observers

    # The order of everything around a call, outermost first. Before it, `send` looks the call up in the store and
    # claims its key (single flight).

    def _build_chain(self, middleware: tuple[Middleware, ...], retry: Retry) -> Send:
        """Return the layers that see a call once, whichever target answers it, around those of each attempt.

        Observation is around them: `observation_middleware`, or a `CallObservation`.
        """
        return chain(
            self._send_attempt,
            *((exception_guard, *middleware, record_responses) if middleware else ()),
            *((cache_middleware(self._candidate_keys),) if self.has_routes else ()),
            retry_middleware(retry, time.monotonic, random.random, self._record_decision),
            *((self._routing(),) if self.has_routes else ()),
        )

    def _build_attempt(self, target: Target) -> Send:
        """Return the layers that see each attempt at one target, down to the transport."""
        has_ledger = self.store is not None and self.store.ledger is not None
        return chain(
            self.transport.send,
            *((credential_middleware(self.credentials, target),) if self.credentials.manages(target) else ()),
            *((self._metrics.middleware(target),) if target.name in self._candidates else ()),
            *((circuit_breaker_middleware(self._circuit(target), time.monotonic),) if self._breaker else ()),
            # Reserves a budget once the rate limiter has admitted the call.
            budget_middleware(self._budgets, self._prices, self._rate_limit(target)),
            *((write_ahead_middleware,) if has_ledger else ()),
            request_middleware,
        )

    def _routing(self) -> Middleware:
        return routing_middleware(self._resolver.resolve_route, self._metrics, self._record_decision)

    def _rate_limit(self, target: Target) -> Middleware:
        return rate_limit_middleware(self.rate_limiter, self.rate_limiter.for_target(target), time.monotonic)

    def _circuit(self, target: Target) -> Circuit:
        """Return the circuit of the target's address, which all its models share."""
        address = (target.provider.name, target.endpoint.base_url)
        circuit = self._circuits.get(address)
        if circuit is None:
            policy = self._breaker or Breaker()
            circuit = self._circuits[address] = Circuit(
                policy, target.provider.name, self._record_decision, deadline_s=self._failure_deadline_s
            )
        self._circuit_by_target[target.name] = circuit
        return circuit

    def refusal(self, target: str) -> str:
        """Return what a target's provider says while it refuses every request or keeps failing; else empty."""
        circuit = self._circuit_by_target.get(target)
        return self.rate_limiter.refusal(target) or (circuit.refusal(time.monotonic()) if circuit is not None else "")

    def state(self) -> ClientState:
        """Return what the client is doing now. Any thread may ask; the figures are of almost the same moment."""
        in_flight, waiting = Counter[str](), Counter[str]()
        for limiter in self.rate_limiter.limiters():
            provider = limiter.name.partition("/")[0]
            in_flight[provider] += limiter.in_flight
            waiting[provider] += len(limiter.waiters)
        circuits: dict[str, CircuitHealth] = {}
        for circuit in tuple(self._circuits.copy().values()):
            worst = max(circuits.get(circuit.name, CircuitHealth.HEALTHY), circuit.state.health, key=HEALTH_ORDER.index)
            circuits[circuit.name] = worst
        queued = sum([queues.size for queues in self.queues.copy()])
        return ClientState(in_flight, waiting, queued, circuits)

    async def send(self, call: Call, stop: StopSignal, access: StoreAccess, *, run_id: bytes = b"") -> SendResult:
        """Answer one call from the store, from an equal call in flight, or from the provider.

        With a redactor, everything but the caller gets placeholders (see `llmhub.engine.request_redaction`).

        Parameters
        ----------
        stop
            The first request cancels a call that waits and drains one that is on the wire; the second cancels both.
        access
            How the store may be used (see `access`).
        run_id
            Identifies the call in the ledger (16 bytes).
        """
        if self._redactor is None:
            return await self._send(call, stop, access, run_id)
        redacted = RedactedCall(call, self._redactor)
        result = await self._send(redacted.call, stop, access, run_id)
        return replace(result, answer=redacted.restore(result.answer))

    async def _send(self, call: Call, stop: StopSignal, access: StoreAccess, run_id: bytes) -> SendResult:
        if call.key is None and (access.store is not None or access.write_ahead is not None or self.has_routes):
            try:
                call = call.with_key(self._key_at(call.target, call))
            except JSON_ENCODING_ERRORS as error:
                message = f"the request cannot be encoded as JSON: {error}"
                return SendResult(Answer(Failure(InvalidRequest(path="$", message=message))))
        single = _SingleCall(self, call, stop, access, run_id)
        active = self._observers()
        if not active.observers or is_within_observed_call():
            return await single.run()
        if self.observers is None or active.reduced is None or active.samplers:
            return await observe_call(active, call, single.run, attrgetter("answer"), run_id)
        observation = CallObservation(self.observers, single.context)
        wanted = observation.begin(call)
        if wanted is not None:
            return await observe_call(wanted, call, single.run, attrgetter("answer"), run_id)
        result = None
        try:
            result = await single.run()
        finally:
            observation.finish(None if result is None else result.answer)
        return result

    def access(self, mode: CacheMode) -> StoreAccess:
        """Return the store as ``mode`` allows it to be used from now on."""
        if self.store is None and self.write_ahead is None:  # a hub that keeps nothing
            return StoreAccess(strict=mode.strict)
        not_before, store = mode.valid_since(time.time()), restrict(self.store, mode)
        log = self.write_ahead if mode.writes else self._unrecorded if mode.reads else None
        lookups, checked_keys = None, set[bytes]()
        if store is not None and mode.reads:
            recent = partial(log.recent_outcome, not_before=not_before) if log is not None else lambda _: None
            lookups = CacheLookups(store, recent, checked_keys)
        return StoreAccess(
            store=store,
            write_ahead=log,
            not_before=not_before,
            strict=mode.strict,
            lookups=lookups,
            checked_keys=checked_keys,
        )

    @cached_property
    def batches(self) -> BatchRegistry:
        """Return what runs through providers' Batch APIs share."""
        from llmhub.engine.batch_run import BatchRegistry  # noqa: PLC0415 - most processes have no batches

        return BatchRegistry()

    @property
    def default_budgets(self) -> Budgets:
        """The budgets of calls that have none of their own."""
        return self._budgets

    @property
    def has_alternatives(self) -> bool:
        """Whether a call may be answered by a response stored under another key than its own."""
        return self.has_routes or bool(self._legacy_keyers)

    def alternatives(self, key: bytes, make_call: Callable[[], Call]) -> Sequence[tuple[Target | None, bytes]]:
        """Return the other candidates of a request's route, each with the key of the request as sent to it.

        The target is ``None`` for the key under which an earlier version of llmhub stored the response.
        """
        try:
            others = [pair for pair in self._remembered_candidates(key, make_call) if pair[1] != key]
            return (*others, *self._legacy_pairs(make_call)) if self._legacy_keyers else others
        except JSON_ENCODING_ERRORS:
            return ()  # the call fails further on, with a message that names the field

    def _remembered_candidates(self, key: bytes, make_call: Callable[[], Call]) -> list[tuple[Target, bytes]]:
        """Return the candidates of a request's route, which are needed several times and slow to compute."""
        if not self.has_routes:
            return []
        candidates = self._candidate_keys_by_key.get(key)
        if candidates is None:
            candidates = self._candidate_keys_by_key[key] = self._candidate_keys(make_call())
            if len(self._candidate_keys_by_key) > MAX_CANDIDATE_KEYS:
                del self._candidate_keys_by_key[next(iter(self._candidate_keys_by_key))]
        return candidates

    def _legacy_pairs(self, make_call: Callable[[], Call]) -> Sequence[tuple[None, bytes]]:
        call = make_call()
        keyer = self._legacy_keyers.get(call.target.provider.name)
        # Earlier versions had no scopes.
        return () if keyer is None or call.cache_scope else ((None, keyer(call.request, call.sample)),)

    def item_alternatives(self, item: PlannedItem) -> Sequence[tuple[Target | None, bytes]]:
        """Return `alternatives` of a planned item of a run."""
        _, key, make_call, prompt = item
        return self.alternatives(key, lambda: make_call(prompt, key))

    def _candidate_keys(self, call: Call) -> list[tuple[Target, bytes]]:
        """Return every candidate that may answer a call, each with the key of the request as sent to it."""
        known = self._candidate_keys_by_key.get(call.key) if call.key is not None else None
        if known is not None:
            return known
        route = self._resolver.resolve_route(call.target.name)
        if route is None:
            return []
        return [(target, self._key_at(target, call)) for target in route.targets.values()]

    def _key_at(self, target: Target, call: Call) -> bytes:
        """Return the key of the call's request as sent to ``target``, within the call's scope."""
        key = self._request_key_at(target, call)
        return scoped_key(key, call.cache_scope) if call.cache_scope else key

    def _request_key_at(self, target: Target, call: Call) -> bytes:
        prepared = call.valid_prepared
        if prepared is not None:
            return prepared.for_target(target).key(prepared.text, call.sample)
        keyer = self._keyers.get(target.name)
        if keyer is None:
            keyer = self._keyers[target.name] = request_keyer(target.provider, target.endpoint)
            if len(self._keyers) > MAX_TARGETS:
                del self._keyers[next(iter(self._keyers))]
        return keyer(with_model(call.request, target.model), call.sample)

    def _send_attempt(self, call: Call) -> Awaitable[Answer]:
        """Send one attempt through the layers of its target."""
        name = call.target.name
        send = self._attempts.get(name)
        if send is None:
            send = self._attempts[name] = self._build_attempt(call.target)
            if len(self._attempts) > MAX_TARGETS:
                for idle in self.rate_limiter.forget_idle(MAX_TARGETS // 4):
                    self._attempts.pop(idle, None)
                    self._circuit_by_target.pop(idle, None)
        if call.requested_target is None or call.requested_target is call.target:
            return send(call)
        return self._send_elsewhere(send, call)

    async def _send_elsewhere(self, send: Send, call: Call) -> Answer:
        """Send an attempt to another target than was requested, and attribute the answer to it."""
        if self.store is not None and call.key is None:
            call = call.with_key(self._key_at(call.target, call))
        answer = await send(call)
        if answer.target is not None or call.requested_target is None or call.requested_target.name == call.target.name:
            return answer
        return answer.attributed_to(call.target, call.key)


class _SingleCall:
    """One call on its way through the store, single flight and the middleware."""

    def __init__(self, client: Client, call: Call, stop: StopSignal, access: StoreAccess, run_id: bytes) -> None:
        log = access.write_ahead
        self._client = client
        self._call = call
        self._key = call.key or b""  # `Client.send` computes it where it is needed
        self._stop = stop
        self._access = access
        self.context = SendContext(run_id, log, strict=access.strict)
        self._writer = CacheWriter(access, stop.request)
        self._flight: SingleFlight[tuple[int, bytes]] | None = None
        self._outcome: RowOutcome | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancellations = 0
        self._drain_until = 0.0
        self._was_in_flight = False

    async def run(self) -> SendResult:
        """Answer the call. A stop request cancels it, as a timeout would, and nothing else of the current task."""
        loop = asyncio.get_running_loop()
        task = self._task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        earlier = task.cancelling()
        # The signal may outlive the call and must not keep it alive.
        unsubscribe = self._stop.add_listener(partial(loop.call_soon_threadsafe, self._on_stop))
        try:
            await self._answer()
        except asyncio.CancelledError:
            if not self._cancellations or self._uncancel(task) > earlier:
                raise
        else:
            self._uncancel(task)
        finally:
            self._task = None
            unsubscribe()
            if self._flight is not None:
                await asyncio.shield(self._finish())
        outcome = self._outcome if self._outcome is not None else cancelled_outcome()
        log_failure = self._access.write_ahead.failure_message if self._flight and self._access.write_ahead else ""
        return SendResult(
            answer=as_answer(outcome),
            damaged_values=len(self._writer.damaged_keys),
            store_error=self._writer.error or log_failure,
            stopped_by_store_failure=self._writer.aborted_run,
            ambiguous_count=self._flight.ambiguous_count if self._flight is not None else 0,
        )

    def _uncancel(self, task: asyncio.Task[Any]) -> int:
        """Take back the cancellations of a stop request; return how many others there are."""
        for _ in range(self._cancellations):
            task.uncancel()
        return task.cancelling()

    async def _answer(self) -> None:
        if self._stop.requested or await self._look_up():
            return
        if self._access.write_ahead is None or await self._claim(self._access.write_ahead):
            await self._send()

    async def _claim(self, log: WriteAheadLog) -> bool:
        """Return whether this call is to send its request; otherwise an equal one has answered it."""
        callbacks = RowCallbacks(self._settle, self._look_up_items, lambda _: self._outcome)
        alternatives = self._item_alternatives if self._client.has_alternatives else None
        flight = SingleFlight(log, self.context.run_id, callbacks, self._access.not_before, alternatives)
        self._flight = flight
        log.register_run(self._writer, single_call=True)
        granted = await flight.claim([(0, self._key)])
        while not granted and flight.has_waiting:
            granted = await flight.next_ready()
        return bool(granted)

    async def _send(self) -> None:
        """Send the call and pass its answer to the store and to equal calls that wait for it."""
        context, lookups = SEND_CONTEXT.set(self.context), CACHE_LOOKUPS.set(self._access.lookups)
        try:
            answer = await self._client.send_unobserved(self._call)  # `Client.send` observes it
        except asyncio.CancelledError:
            cancelled = cancelled_outcome(
                self.context.requests_sent,
                was_in_flight=self._was_in_flight,
                last_error=self.context.last_error,
                has_response=bool(self.context.received),
            )
            self._outcome = with_received(self.context.received, cancelled)
            self._release(self._outcome, None)
            raise
        except BaseException as error:
            if self.context.received:
                attach_response(error, self.context.received[-1][1].outcome.unwrap())
            raise
        finally:
            SEND_CONTEXT.reset(context)
            CACHE_LOOKUPS.reset(lookups)
        self._outcome = answer
        self._release(answer, self._writer.enqueue(self._key, self._call, answer))

    def _release(self, outcome: RowOutcome, written_as: bytes | None) -> None:
        self._access.checked_keys.discard(self._key)
        if self._flight is not None:
            self._flight.release(self._key, outcome, written_as)

    def _settle(self, _position: int, outcome: RowOutcome) -> None:
        self._outcome = outcome

    async def _finish(self) -> None:
        """Write what is queued, release the key, and wait until the log has recorded both."""
        await self._writer.finish()
        if self._flight is not None:
            self._flight.close()
        if self._access.write_ahead is not None:
            await self._access.write_ahead.unregister_run(self._writer, single_call=True)

    # The store

    async def _look_up(self) -> bool:
        """Look the call up in the store, for its target and the other candidates; return whether it was there."""
        if self._access.store is None:
            return False
        pairs: list[tuple[Target | None, bytes]] = [(None, self._key)]
        if self._client.has_alternatives:
            pairs += self._client.alternatives(self._key, lambda: self._call)
            self._access.checked_keys.add(self._key)
        started_ns = time.perf_counter_ns()
        keys = [key for _, key in pairs]
        values = self._access.store.try_get(keys)
        if values is None:
            values = await self._writer.start_lookup(lambda store: store.get_many(keys))
        emit_wait(self._call, "cache", time.perf_counter_ns() - started_ns)
        self._outcome = self._writer.first_stored(values, pairs) if values else None
        return self._outcome is not None

    async def _look_up_items(self, items: list[tuple[int, bytes]]) -> Sequence[tuple[int, bytes]]:
        return [] if await self._look_up() else items

    def _item_alternatives(self, _item: tuple[int, bytes]) -> Sequence[tuple[Target | None, bytes]]:
        return self._client.alternatives(self._key, lambda: self._call)

    # Stopping

    def _on_stop(self) -> None:
        self._drain_until = self._client.loop.time() + (0.0 if self._stop.immediate else DRAIN_TIMEOUT_S)
        self._cancel_unless_draining()

    def _cancel_unless_draining(self) -> None:
        """Cancel the call unless its request is on the wire and may still be answered in time."""
        task = self._task
        if task is None:
            return
        loop = asyncio.get_running_loop()
        is_late, in_flight = loop.time() >= self._drain_until, task in self._client.transport.in_flight
        if is_late or not in_flight:
            self._was_in_flight = self._was_in_flight or (is_late and in_flight)
            self._cancellations += 1
            task.cancel()
        # A call that fails while draining would wait to be retried: check again.
        loop.call_later(SWEEP_INTERVAL_S, self._cancel_unless_draining)


def _legacy_keyers(resolver: ModelResolver) -> dict[str, RequestKeyer]:
    """Return the keyers of the endpoints whose keys were others in earlier versions, by provider."""
    keyers = {
        name: legacy_request_keyer(resolver.providers[name], endpoint)
        for name, endpoint in resolver.endpoints.items()
        if name in resolver.providers
    }
    return {name: keyer for name, keyer in keyers.items() if keyer is not None}


def _close(
    loop: asyncio.AbstractEventLoop,
    transport: Transport,
    credentials: CredentialManager,
    log: WriteAheadLog | None,
    shared: SharedLimits | None,
) -> None:
    """Close connections and the store, from any thread."""
    if loop is background_loop() and loop.is_running():
        _wait_on_loop(credentials.close())
        _wait_on_loop(transport.close())
        if log is not None:
            _wait_on_loop(log.close())
    if shared is not None:
        shared.close()
    if log is not None:
        log.store.close()


def _wait_on_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` on the background loop; wait for it unless this is that loop's thread."""
    future = submit(work)
    if not is_on_background_loop():
        future.result(timeout=CLOSE_TIMEOUT_S)
