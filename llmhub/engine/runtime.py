"""Open the client of a hub on first use, close it with the hub, and drop it in forked children."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.cache.store import BatchRecord, Store
from llmhub.cache.tiered import tiered_store
from llmhub.core.budget import Budget
from llmhub.engine.cache_middleware import CACHE_LOOKUPS
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.client import Client, ClientState, SendResult
from llmhub.engine.decision_log import DecisionLog, RecordDecision
from llmhub.engine.event_loop import StopSignal, background_loop
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import FanOutResult, FanOutSpec, Sender
from llmhub.engine.leased_limits import SharedLimits
from llmhub.engine.observer import Observers, decision_observer, no_observers
from llmhub.engine.rate_limiter import TargetState
from llmhub.engine.spending import Budgets, SharedBudget
from llmhub.engine.store_access import StoreAccess

if TYPE_CHECKING:
    from llmhub.engine.batch_policy import BatchPolicy
    from llmhub.engine.embedding import EmbedResult, EmbedSpec


class OpenClient(Protocol):
    """Opens a client: `Client` with all its settings but these."""

    def __call__(self, *, budgets: Budgets, record_decision: RecordDecision, observers: Observers) -> Client:
        """Return a client on the background loop."""


class Runtime:
    """Holds what outlives an open client: the shared budget, the decision log, and how to open the client again.

    Parameters
    ----------
    open_client
        Opens a client on the background loop.
    cache_mode
        How calls may use the store, unless a call overrides it.
    budget
        The budget shared by all calls; ``None`` for none.
    allow_unpriced
        With a budget, whether calls without a known price are sent uncounted.
    observers
        Returns who is told of calls, requests and decisions (see `llmhub.engine.observer`).
    """

    def __init__(
        self,
        open_client: OpenClient,
        *,
        cache_mode: CacheMode,
        budget: Budget | None,
        allow_unpriced: bool,
        observers: Observers = no_observers,
    ) -> None:
        self.cache_mode = cache_mode
        # Closing a hub does not reset what was spent, and its decisions can still be read.
        self.shared_budget = SharedBudget(budget) if budget is not None else None
        self.decisions = DecisionLog(time.time)
        self.observers = observers
        self._open_client = open_client
        self._budgets = Budgets((self.shared_budget,) if self.shared_budget is not None else (), allow_unpriced)
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._owner: Runtime | None = None
        _RUNTIMES.add(self)

    def use_budget(self, budget: SharedBudget) -> None:
        """Let calls have another budget in place of this runtime's own."""
        self.shared_budget = budget
        self._budgets = replace(self._budgets, shared=(budget,))

    def share_client(self, owner: Runtime) -> None:
        """Use the client of another runtime, which opens and closes it; calls have this runtime's budget."""
        self._owner = owner

    @property
    def client(self) -> Client:
        """The open client; opened on first use and after `close`."""
        if self._owner is not None:
            return self._owner.client
        with self._lock:
            if self._client is None or self._client.loop is not background_loop():
                record = decision_observer(self.observers, time.time, self.decisions.record)
                self._client = self._open_client(
                    budgets=self._budgets, record_decision=record, observers=self.observers
                )
            return self._client

    @property
    def store(self) -> Store | None:
        """The open store."""
        return self.client.store

    @property
    def shared_limits(self) -> SharedLimits | None:
        """The limits that the open client shares with other processes; ``None`` if its store has no limiter."""
        return self.client.shared_limits

    def expect_workers(self, count: int) -> None:
        """Use this part of the shared limits as long as the store cannot be asked how many workers there are."""
        shared = self.shared_limits
        if shared is not None:
            shared.workers = max(shared.workers, count)

    def state(self) -> ClientState | None:
        """Return what the open client is doing now; ``None`` if none is open. Any thread may ask."""
        client = self._client
        return client.state() if client is not None else None

    def target_states(self) -> tuple[TargetState, ...]:
        """Return what the limiters of the open client are doing now; empty if none is open. Any thread may ask."""
        client = self._client
        return client.rate_limiter.states() if client is not None else ()

    async def run(
        self,
        spec: FanOutSpec,
        stop: StopSignal,
        *,
        cache_mode: CacheMode | str | None = None,
        journal: Store | None = None,
    ) -> FanOutResult:
        """Answer every item (see `llmhub.engine.fan_out.run_fan_out`).

        ``cache_mode`` overrides that of the hub. With ``journal``, responses are read from and written to it instead of
        the cache, or beside a cache that only this process uses.
        """
        client, access = self.client, self.access(cache_mode, journal)
        CACHE_LOOKUPS.set(access.lookups)
        observers = client.observers if spec.around_send is None else None
        send = client.send_uncached if observers is None else client.send_unobserved
        sender = Sender(
            send=send if spec.around_send is None else spec.around_send(send),
            in_flight=client.transport.in_flight,
            access=access,
            alternatives=client.item_alternatives if client.has_alternatives else None,
            blocked_by=client.rate_limiter.wait_reason,
            queues=client.queues,
            refused_by=client.refusal,
            observers=observers,
        )
        return await run_fan_out(spec, sender, stop)

    def access(self, cache_mode: CacheMode | str | None = None, journal: Store | None = None) -> StoreAccess:
        """Return the access of a call or run to the cache.

        With ``journal``, to that instead, behind a cache that only this process uses.
        """
        access = self.client.access(resolve_mode(cache_mode, self.cache_mode))
        if journal is None:
            return access
        if access.store is None or access.store.claims is not None:
            return StoreAccess(store=journal)
        return replace(access, store=tiered_store(access.store, journal))

    async def embed(
        self, spec: EmbedSpec, stop: StopSignal, *, cache_mode: CacheMode | str | None = None
    ) -> EmbedResult:
        """Embed every text (see `llmhub.engine.embedding.run_embeddings`); ``cache_mode`` overrides the hub's."""
        from llmhub.engine.embedding import run_embeddings  # noqa: PLC0415 - most processes have no embeddings

        CACHE_LOOKUPS.set(None)
        return await run_embeddings(spec, self.client, self.access(cache_mode), stop)

    async def embed_batches(
        self, spec: EmbedSpec, stop: StopSignal, policy: BatchPolicy, *, cache_mode: CacheMode | str | None = None
    ) -> EmbedResult:
        """Embed every text through the provider's Batch API (see `llmhub.engine.batch_run`)."""
        from llmhub.engine.embedding import run_embedding_batches  # noqa: PLC0415 - as above

        CACHE_LOOKUPS.set(None)
        return await run_embedding_batches(spec, self.client, self.access(cache_mode), policy, stop)

    async def run_batches(
        self, spec: FanOutSpec, stop: StopSignal, policy: BatchPolicy, *, cache_mode: CacheMode | str | None = None
    ) -> FanOutResult:
        """Answer every item through providers' Batch APIs (see `llmhub.engine.batch_run`)."""
        from llmhub.engine.batch_run import BatchRun  # noqa: PLC0415 - most processes have no batches

        client = self.client
        access = client.access(resolve_mode(cache_mode, self.cache_mode))
        CACHE_LOOKUPS.set(access.lookups)
        return await BatchRun(spec, client, access, policy, stop).run()

    async def attend_batch(self, record: BatchRecord, target: Target, policy: BatchPolicy, stop: StopSignal) -> None:
        """Poll a batch of the ledger, and store its results once it has ended."""
        from llmhub.engine.batch_run import BatchRun  # noqa: PLC0415 - as above

        client = self.client
        access = client.access(resolve_mode(None, self.cache_mode))
        await BatchRun(FanOutSpec(size=0, chunks=iter(())), client, access, policy, stop).attend(record, target)

    def send(
        self,
        call: Call,
        stop: StopSignal,
        *,
        cache_mode: CacheMode | str | None = None,
        run_id: bytes = b"",
        journal: Store | None = None,
    ) -> Awaitable[SendResult]:
        """Answer one call (see `llmhub.engine.client.Client.send`); for the other arguments see `run`."""
        return self.client.send(call, stop, self.access(cache_mode, journal), run_id=run_id)

    async def send_uncached(self, call: Call) -> Answer:
        """Send one call through the middleware, bypassing the store."""
        return await self.client.send_uncached(call)

    def close(self) -> None:
        """Close connections and the store; the next use opens them again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.finalizer()

    def abandon_after_fork(self) -> None:
        """Leave what is open to the parent process, so that this one opens its own."""
        self._lock = threading.Lock()
        client, self._client = self._client, None
        if client is not None:
            client.finalizer.detach()
            _ABANDONED.append(client)


_RUNTIMES: Final[weakref.WeakSet[Runtime]] = weakref.WeakSet()
_ABANDONED: Final[list[object]] = []
"""Clients of the parent process: destroying one in the child would unregister the parent's sockets from its loop."""


def open_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes of this process that have an open client."""
    return tuple(runtime for runtime in tuple(_RUNTIMES) if runtime.state() is not None)


def _abandon_all() -> None:
    for runtime in tuple(_RUNTIMES):
        runtime.abandon_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
