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

from llmhub.cache.access import CacheMode, mode_of, narrowed
from llmhub.cache.store import Cache, Store
from llmhub.core.budget import Budget
from llmhub.core.codec import Keyer, keyer
from llmhub.core.provider import NO_JSON
from llmhub.core.splice import asked_of
from llmhub.engine.books import Ambiguous, Books, recorded
from llmhub.engine.breaker import Breaker, Circuit, broken
from llmhub.engine.budget import Prices, Purse, Wallet, budgeted
from llmhub.engine.cached import LOOKUPS, Lookups, cached
from llmhub.engine.call import Answer, Call, Middleware, Send, Target, chain
from llmhub.engine.decisions import Decisions, Note
from llmhub.engine.directory import Directory
from llmhub.engine.gate import Gate, limited
from llmhub.engine.hooks import guarded
from llmhub.engine.limit import Limit
from llmhub.engine.loop import Stop, background, submit
from llmhub.engine.retry import Retry, retried
from llmhub.engine.routing import Board, routed
from llmhub.engine.run import CHUNK, Item, Job, Ran, Told, run
from llmhub.engine.tally import Watch
from llmhub.engine.transport import Transport, Wiring

if TYPE_CHECKING:
    from llmhub.engine.bulk import Bulk

KEYED: Final = 2 * CHUNK
"""Questions of which it is remembered under which keys they may be asked."""
CLOSE_S: Final = 2.0
"""How long closing may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How calls are made: what a hub hands to its runtime."""

    wiring: Wiring
    cache: Cache | None
    cache_mode: CacheMode
    limits: Mapping[str, Limit]
    retry: Retry
    middleware: tuple[Middleware, ...]
    budget: Budget | None = None
    allow_unpriced: bool = False
    directory: Directory
    ambiguous: Ambiguous = "resend"
    adaptive: bool = True
    breaker: Breaker | None = None


class Runtime:
    """Opens what is needed at first use and closes it when it is let go."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self._live: _Live | None = None
        # A budget outlives what is open: closing a hub gives nobody their money back.
        self.wallet = Wallet(rules.budget) if rules.budget is not None else None
        # What was decided can still be read when all is closed.
        self.decisions = Decisions(time.time)
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
        chunks: Iterator[list[Item] | Bulk],
        size: int,
        concurrency: int,
        stop: Stop,
        watch: Watch | None = None,
        told: Told | None = None,
        *,
        cache: CacheMode | str | None = None,
        run_id: bytes = b"",
    ) -> Ran:
        """Answer every item (see `llmhub.engine.run.run`); ``cache`` says what may be done with the store this time."""
        live = self._alive()
        mode = mode_of(cache, self._rules.cache_mode)
        since, store = mode.since(time.time()), narrowed(live.store, mode)
        books = live.books if mode.writes else live.readers if mode.reads else None
        recent = partial(books.recent, since=since) if books is not None else lambda _: None
        looked: set[bytes] = set()
        LOOKUPS.set(Lookups(store, recent, looked) if store is not None and mode.reads else None)
        job = Job(
            size=size,
            chunks=chunks,
            send=live.send,
            in_flight=live.transport.in_flight,
            store=store,
            books=books,
            others=live.others if self._rules.directory.routes else None,
            looked=looked,
            since=since,
            run_id=run_id,
            strict=mode.strict,
            concurrency=concurrency,
            holds=live.gate.holds,
            watch=watch,
            told=told,
        )
        return await run(job, stop)

    async def send(self, call: Call) -> Answer:
        """Send one call through the chain, past the store."""
        return await self._alive().send(call)

    def close(self) -> None:
        """Close connections and the store; the next use opens them again."""
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.finalizer()

    def leave(self) -> None:
        """Leave what is open to the process that forked this one, and begin anew."""
        self._lock = threading.Lock()
        live, self._live = self._live, None
        if live is not None:
            live.finalizer.detach()
            _LEFT.append(live)

    def _alive(self) -> _Live:
        """Give what is open, or open it."""
        with self._lock:
            if self._live is None or self._live.loop is not background():
                wallets = (self.wallet,) if self.wallet is not None else ()
                self._live = _Live(self._rules, Purse(wallets, self._rules.allow_unpriced), self.decisions.note)
            return self._live


_RUNTIMES: Final[weakref.WeakSet[Runtime]] = weakref.WeakSet()
_LEFT: Final[list[object]] = []
"""What a parent process had open at the fork: let go of in the child, its sockets would be unhooked in the parent."""


def _leave_all() -> None:
    for runtime in tuple(_RUNTIMES):
        runtime.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)


class _Live:
    """What is open on one loop."""

    send: Send

    def __init__(self, rules: Rules, purse: Purse, note: Note) -> None:
        self.loop = background()
        self.store = rules.cache.open() if rules.cache is not None else None
        self.books = Books(self.store, rules.ambiguous) if self.store is not None else None
        # Who may only read enters nothing in the store; who asks what just now is known in this process all the same.
        self.readers = Books(replace(self.store, claims=None, ledger=None)) if self.store is not None else None
        self.transport = Transport(rules.wiring)
        self.finalizer = weakref.finalize(self, _close, self.loop, self.transport, self.books)
        self._rules = rules
        self._purse = purse
        self._note = note
        self._prices = Prices(time.time)
        self.gate = Gate(rules.limits, time.monotonic, note, adaptive=rules.adaptive)
        self._board = Board(time.monotonic, random.random, self._prices)
        self._circuits: dict[tuple[str, str], Circuit] = {}
        self._chains: dict[str, Send] = {}
        self._keyers: dict[str, Keyer] = {}
        self._keyed: dict[bytes, list[tuple[Target, bytes]]] = {}
        self.send = self._around()

    # The order of everything around a call: outermost first, from the top of this to the end of the next.

    def _around(self) -> Send:
        """Put together what sees a call once, whoever answers it."""
        users = self._rules.middleware
        routes = bool(self._rules.directory.routes)
        return chain(
            self._to_target,
            *((guarded, *users) if users else ()),
            *([cached(self._candidates)] if routes else ()),
            retried(self._rules.retry, time.monotonic, random.random, self._note),
            *([routed(self._rules.directory.path, self._board, self._note)] if routes else ()),
        )

    def _at(self, target: Target) -> Send:
        """Put together what sees each attempt at one target."""
        return chain(
            self.transport.send,
            *([self._board.observed(target)] if self._rules.directory.routes else ()),
            *([broken(self._circuit(target), time.monotonic)] if self._rules.breaker is not None else ()),
            budgeted(self._purse, self._prices, limited(self.gate, self.gate.line(target), time.monotonic)),
            *([recorded] if self.store is not None and self.store.ledger is not None else ()),
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
        return made(call) if call.asked is None or call.asked is call.target else self._signed(made, call)

    async def _signed(self, send: Send, call: Call) -> Answer:
        """Send a call to another than was asked, and have the answer say who that is."""
        if self.store is not None and call.key is None:
            call = call.keyed(self._key(call.target, call))
        answer = await send(call)
        if answer.target is not None or call.asked is None or call.asked.name == call.target.name:
            return answer
        return answer.of(call.target, call.key)

    def _candidates(self, call: Call) -> list[tuple[Target, bytes]]:
        """Name those who may answer a call, and the key of its question as it would be put to each."""
        known = self._keyed.get(call.key) if call.key is not None else None
        if known is not None:
            return known
        path = self._rules.directory.path(call.target.name)
        return [(target, self._key(target, call)) for target in path.targets.values()] if path is not None else []

    def others(self, item: Item) -> Sequence[tuple[Target, bytes]]:
        """Name who may be asked in the place of whom an item names, and the keys of its question to them."""
        _, key, make, spoken = item
        known = self._keyed.get(key)
        if known is None:
            try:
                known = self._candidates(make(spoken, key))
            except NO_JSON:
                return ()  # what cannot be keyed is refused further on, by name
            # They are wanted again when it is claimed and when it is sent, and take long to work out.
            self._keyed[key] = known
            if len(self._keyed) > KEYED:
                del self._keyed[next(iter(self._keyed))]
        return [pair for pair in known if pair[1] != key]

    def _key(self, target: Target, call: Call) -> bytes:
        quick = call.quick
        if quick is not None:
            return quick.elsewhere(target).key(quick.text, call.sample)
        made = self._keyers.get(target.name)
        if made is None:
            made = self._keyers[target.name] = keyer(target.provider, target.endpoint)
        return made(asked_of(call.request, target.model), call.sample)


def _close(loop: asyncio.AbstractEventLoop, transport: Transport, books: Books | None) -> None:
    """Close what a runtime had open, from whatever thread."""
    if loop is background() and loop.is_running():
        _wait(transport.close())
        if books is not None:
            _wait(books.close())
    if books is not None:
        books.store.close()


def _wait(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work on the loop, unless this is the loop."""
    future = submit(work)
    try:
        here = asyncio.get_running_loop() is background()
    except RuntimeError:
        here = False
    if not here:
        future.result(timeout=CLOSE_S)
