"""What lives as long as a hub: connections, limiters' levels and the open store, all on the background loop."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llmhub.cache.modes import CacheMode, resolve_mode, restrict
from llmhub.cache.store import Cache, Store
from llmhub.core.budget import Budget
from llmhub.core.cache_key import RequestKeyer, request_keyer
from llmhub.core.prepared import with_model
from llmhub.core.protocol import JSON_ENCODING_ERRORS
from llmhub.engine.cache_middleware import CACHE_LOOKUPS, CacheLookups, cache_middleware
from llmhub.engine.call import Answer, Call, Middleware, Send, Target, chain
from llmhub.engine.circuit_breaker import Breaker, Circuit, circuit_breaker_middleware
from llmhub.engine.decision_log import DecisionLog, RecordDecision
from llmhub.engine.event_loop import StopSignal, background_loop, submit
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import CHUNK_SIZE, FanOutResult, FanOutSpec, OnResult, PlannedItem
from llmhub.engine.hooks import exception_guard
from llmhub.engine.limits import Limit
from llmhub.engine.model_resolver import ModelResolver
from llmhub.engine.progress import ProgressSink
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.engine.routing import CandidateMetrics, routing_middleware
from llmhub.engine.spending import Budgets, SharedBudget, TargetPrices, budget_middleware
from llmhub.engine.transport import Transport, TransportConfig
from llmhub.engine.write_ahead import AmbiguousPolicy, WriteAheadLog, record_requests

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import PlannedBlock

MAX_CANDIDATE_KEYS: Final = 2 * CHUNK_SIZE
"""Questions of which it is remembered under which keys they may be asked."""
CLOSE_TIMEOUT_S: Final = 2.0
"""How long closing may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How calls are made: what a hub hands to its runtime."""

    transport: TransportConfig
    cache: Cache | None
    cache_mode: CacheMode
    limits: Mapping[str, Limit]
    retry: Retry
    middleware: tuple[Middleware, ...]
    budget: Budget | None = None
    allow_unpriced: bool = False
    resolver: ModelResolver
    ambiguous: AmbiguousPolicy = "resend"
    adaptive: bool = True
    breaker: Breaker | None = None


class Runtime:
    """Opens what is needed at first use and closes it when it is let go."""

    def __init__(self, rules: RuntimeConfig) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self._live: _OpenRuntime | None = None
        # A budget outlives what is open: closing a hub gives nobody their money back.
        self.wallet = SharedBudget(rules.budget) if rules.budget is not None else None
        # What was decided can still be read when all is closed.
        self.decisions = DecisionLog(time.time)
        _RUNTIMES.add(self)

    @property
    def cache_mode(self) -> CacheMode:
        """What may be done with the store, unless a call says otherwise."""
        return self._rules.cache_mode

    @property
    def store(self) -> Store | None:
        """The open store."""
        return self._alive().store

    async def run(
        self,
        chunks: Iterator[list[PlannedItem] | PlannedBlock],
        size: int,
        concurrency: int,
        stop: StopSignal,
        progress_sink: ProgressSink | None = None,
        on_result: OnResult | None = None,
        *,
        cache_mode: CacheMode | str | None = None,
        run_id: bytes = b"",
    ) -> FanOutResult:
        """Answer every item (see `llmhub.engine.fan_out.run_fan_out`); ``cache_mode`` says what may be done with the store this time."""
        live = self._alive()
        mode = resolve_mode(cache_mode, self._rules.cache_mode)
        since, store = mode.valid_since(time.time()), restrict(live.store, mode)
        books = live.write_ahead if mode.writes else live.read_only_write_ahead if mode.reads else None
        recent = partial(books.recent_outcome, not_before=since) if books is not None else lambda _: None
        looked: set[bytes] = set()
        CACHE_LOOKUPS.set(CacheLookups(store, recent, looked) if store is not None and mode.reads else None)
        job = FanOutSpec(
            size=size,
            chunks=chunks,
            send=live.send,
            in_flight=live.transport.in_flight,
            store=store,
            write_ahead=books,
            alternatives=live.alternatives if self._rules.resolver.routes else None,
            looked_up_keys=looked,
            not_before=since,
            run_id=run_id,
            strict=mode.strict,
            concurrency=concurrency,
            blocked_by=live.gate.wait_reason,
            progress_sink=progress_sink,
            on_result=on_result,
        )
        return await run_fan_out(job, stop)

    async def send(self, call: Call) -> Answer:
        """Send one call through the chain, past the store."""
        return await self._alive().send(call)

    def close(self) -> None:
        """Close connections and the store; the next use opens them again."""
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.finalizer()

    def abandon_after_fork(self) -> None:
        """Leave what is open to the process that forked this one, and begin anew."""
        self._lock = threading.Lock()
        live, self._live = self._live, None
        if live is not None:
            live.finalizer.detach()
            _ABANDONED.append(live)

    def _alive(self) -> _OpenRuntime:
        """Give what is open, or open it."""
        with self._lock:
            if self._live is None or self._live.loop is not background_loop():
                wallets = (self.wallet,) if self.wallet is not None else ()
                self._live = _OpenRuntime(
                    self._rules, Budgets(wallets, self._rules.allow_unpriced), self.decisions.record
                )
            return self._live


_RUNTIMES: Final[weakref.WeakSet[Runtime]] = weakref.WeakSet()
_ABANDONED: Final[list[object]] = []
"""What a parent process had open at the fork: let go of in the child, its sockets would be unhooked in the parent."""


def _abandon_all() -> None:
    for runtime in tuple(_RUNTIMES):
        runtime.abandon_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


class _OpenRuntime:
    """What is open on one loop."""

    send: Send

    def __init__(self, rules: RuntimeConfig, purse: Budgets, note: RecordDecision) -> None:
        self.loop = background_loop()
        self.store = rules.cache.open() if rules.cache is not None else None
        self.write_ahead = WriteAheadLog(self.store, rules.ambiguous) if self.store is not None else None
        # Who may only read enters nothing in the store; who asks what just now is known in this process all the same.
        self.read_only_write_ahead = (
            WriteAheadLog(replace(self.store, claims=None, ledger=None)) if self.store is not None else None
        )
        self.transport = Transport(rules.transport)
        self.finalizer = weakref.finalize(self, _close_open, self.loop, self.transport, self.write_ahead)
        self._rules = rules
        self._purse = purse
        self._note = note
        self._prices = TargetPrices(time.time)
        self.gate = RateLimiter(rules.limits, time.monotonic, note, adaptive=rules.adaptive)
        self._board = CandidateMetrics(time.monotonic, random.random, self._prices)
        self._circuits: dict[tuple[str, str], Circuit] = {}
        self._chains: dict[str, Send] = {}
        self._keyers: dict[str, RequestKeyer] = {}
        self._keyed: dict[bytes, list[tuple[Target, bytes]]] = {}
        self.send = self._around()

    # The order of everything around a call: outermost first, from the top of this to the end of the next.

    def _around(self) -> Send:
        """Put together what sees a call once, whoever answers it."""
        users = self._rules.middleware
        routes = bool(self._rules.resolver.routes)
        return chain(
            self._to_target,
            *((exception_guard, *users) if users else ()),
            *([cache_middleware(self._candidates)] if routes else ()),
            retry_middleware(self._rules.retry, time.monotonic, random.random, self._note),
            *([routing_middleware(self._rules.resolver.resolve_route, self._board, self._note)] if routes else ()),
        )

    def _at(self, target: Target) -> Send:
        """Put together what sees each attempt at one target."""
        return chain(
            self.transport.send,
            *([self._board.middleware(target)] if self._rules.resolver.routes else ()),
            *(
                [circuit_breaker_middleware(self._circuit(target), time.monotonic)]
                if self._rules.breaker is not None
                else ()
            ),
            budget_middleware(
                self._purse,
                self._prices,
                rate_limit_middleware(self.gate, self.gate.for_target(target), time.monotonic),
            ),
            *([record_requests] if self.store is not None and self.store.ledger is not None else ()),
        )

    def _circuit(self, target: Target) -> Circuit:
        """Give the circuit to an address: all models there share it."""
        place = (target.provider.name, target.endpoint.base_url)
        if place not in self._circuits:
            policy = self._rules.breaker or Breaker()
            self._circuits[place] = Circuit(policy, target.provider.name, self._note)
        return self._circuits[place]

    def _to_target(self, call: Call) -> Awaitable[Answer]:
        """Send a call through what stands before its target."""
        name = call.target.name
        made = self._chains.get(name)
        if made is None:
            made = self._chains[name] = self._at(call.target)
        return (
            made(call)
            if call.requested_target is None or call.requested_target is call.target
            else self._signed(made, call)
        )

    async def _signed(self, send: Send, call: Call) -> Answer:
        """Send a call to another than was asked, and have the answer say who that is."""
        if self.store is not None and call.key is None:
            call = call.with_key(self._key(call.target, call))
        answer = await send(call)
        if answer.target is not None or call.requested_target is None or call.requested_target.name == call.target.name:
            return answer
        return answer.attributed_to(call.target, call.key)

    def _candidates(self, call: Call) -> list[tuple[Target, bytes]]:
        """Name those who may answer a call, and the key of its question as it would be put to each."""
        known = self._keyed.get(call.key) if call.key is not None else None
        if known is not None:
            return known
        path = self._rules.resolver.resolve_route(call.target.name)
        return [(target, self._key(target, call)) for target in path.targets.values()] if path is not None else []

    def alternatives(self, item: PlannedItem) -> Sequence[tuple[Target, bytes]]:
        """Name who may be asked in the place of whom an item names, and the keys of its question to them."""
        _, key, make, spoken = item
        known = self._keyed.get(key)
        if known is None:
            try:
                known = self._candidates(make(spoken, key))
            except JSON_ENCODING_ERRORS:
                return ()  # what cannot be keyed is refused further on, by name
            # They are wanted again when it is claimed and when it is sent, and take long to work out.
            self._keyed[key] = known
            if len(self._keyed) > MAX_CANDIDATE_KEYS:
                del self._keyed[next(iter(self._keyed))]
        return [pair for pair in known if pair[1] != key]

    def _key(self, target: Target, call: Call) -> bytes:
        quick = call.valid_prepared
        if quick is not None:
            return quick.for_target(target).key(quick.text, call.sample)
        made = self._keyers.get(target.name)
        if made is None:
            made = self._keyers[target.name] = request_keyer(target.provider, target.endpoint)
        return made(with_model(call.request, target.model), call.sample)


def _close_open(loop: asyncio.AbstractEventLoop, transport: Transport, books: WriteAheadLog | None) -> None:
    """Close what a runtime had open, from whatever thread."""
    if loop is background_loop() and loop.is_running():
        _wait_on_loop(transport.close())
        if books is not None:
            _wait_on_loop(books.close())
    if books is not None:
        books.store.close()


def _wait_on_loop(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work on the loop, unless this is the loop."""
    future = submit(work)
    try:
        here = asyncio.get_running_loop() is background_loop()
    except RuntimeError:
        here = False
    if not here:
        future.result(timeout=CLOSE_TIMEOUT_S)
