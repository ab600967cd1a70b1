"""The write-ahead log of one open store: in-flight keys of this process, leases across processes, ledger entries.

A request is recorded before it is sent. Committing each one alone would cost more than sending it, so everything that
is about to be sent and everything that came back share one transaction; transactions follow each other every few
milliseconds (`COMMIT_INTERVAL_S`).

A key stays claimed until its response is in the store: another run or process that is granted the key afterwards finds
the response there.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias, get_args

from returns.result import Success

from llmhub.cache.store import (
    ClaimRequest,
    ClaimResult,
    Claims,
    EndedRequest,
    LedgerBatch,
    LedgerState,
    SentRequest,
    Store,
    StoreError,
    as_store_error,
)
from llmhub.core.cache_key import request_key
from llmhub.core.errors import LLMError, error_type_name
from llmhub.core.types import NO_USAGE
from llmhub.engine.call import Answer, Call, Send, Target
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.row_outcome import RowOutcome, cancelled_outcome, is_failure

COMMIT_INTERVAL_S: Final = 0.005
"""Minimum time between two commits that a request waits for, unless half of the requests in flight wait; the first one
after a pause starts at once."""
MANY_CALLS: Final = 64
"""Single calls at once for which commits are gathered as for a run."""
MAX_DELAY_S: Final = 0.1
"""Maximum time until the end of a request is recorded, once its response is in the store."""
IMMEDIATELY: Final = -1.0
"""A loop time that is always in the past."""
MAX_RECENT_OUTCOMES: Final = 4096
"""Outcomes kept in memory while runs are active: another run may have missed one in the store by a moment."""

AmbiguousPolicy: TypeAlias = Literal["resend", "error"]
"""How to treat a request that a process sent before it died without recording an answer."""
AMBIGUOUS_POLICIES: Final = get_args(AmbiguousPolicy)
NO_LEDGER: Final = (
    "'error' needs a cache with a ledger, which records requests before they are sent; pass Hub(cache=DiskCache(...)), "
    "or TieredCache(DiskCache(...), far) to share responses"
)
"""Message for a cache that cannot tell which requests are ambiguous."""
Waiter: TypeAlias = Callable[[RowOutcome | None], None]
"""Callback for the outcome of a request in flight elsewhere; ``None`` if there is none to share."""


class PendingWrites(Protocol):
    """The responses of one run that are not in the store yet (`llmhub.engine.cache_writer.CacheWriter`)."""

    def on_store_failure(self, error: StoreError) -> None:
        """Handle a failure of the ledger or of the leases."""

    def try_flush(self) -> bool:
        """Write pending responses if that does not block. Return whether nothing writable is left."""

    async def flush_pending(self) -> None:
        """Write pending responses in a thread."""


@dataclass(slots=True)
class SendContext:
    """The run and worker on whose behalf requests are sent.

    Parameters
    ----------
    run_id
        The run's id (16 bytes).
    write_ahead
        Where its requests are recorded; ``None`` for nowhere.
    requests_sent
        Requests sent for the current call.
    strict
        Whether a request that cannot be recorded must not be sent.
    queue_s
        Seconds the current call waited for a worker.
    last_error
        The failure of the current call's last attempt; ``None`` before the first one.
    received
        The responses that a middleware has received for the current call and not yet returned, and who gave them.
    """

    run_id: bytes = b""
    write_ahead: WriteAheadLog | None = None
    requests_sent: int = 0
    strict: bool = False
    queue_s: float = 0.0
    last_error: LLMError | None = None
    received: list[tuple[Target, Answer]] = field(default_factory=list)


SEND_CONTEXT: Final[ContextVar[SendContext | None]] = ContextVar("llmhub_send_context", default=None)
"""The context of the current worker. Tasks that a middleware creates inherit it."""


def write_ahead_middleware(send: Send) -> Send:
    """Record each request before it is sent, and its result, in the log of the current run."""

    async def send_recorded(call: Call) -> Answer:
        context = SEND_CONTEXT.get()
        log = None if context is None else context.write_ahead
        if context is None or log is None or log.store.ledger is None:
            return await send(call)
        target, run_id = call.target, context.run_id
        key = call.key or request_key(target.provider, target.endpoint, call.request, call.sample)
        sent_at = time.time()
        try:
            await log.log_sent(SentRequest(key, run_id, target.cache_name, sent_at))
        except asyncio.CancelledError:
            log.log_unsent(key)
            raise
        if log.failure and context.strict:
            return cancelled_outcome(context.requests_sent, last_error=context.last_error)
        log.unanswered += 1
        try:
            answer = await send(call)
        except BaseException:
            log.log_ended(EndedRequest(key, run_id, target.cache_name, "", "ambiguous", "", sent_at, time.time()))
            raise
        finally:
            log.unanswered -= 1
        log.log_ended(to_ended_request(key, run_id, call, answer, sent_at))
        return answer

    return send_recorded


def to_ended_request(key: bytes, run_id: bytes, call: Call, answer: Answer, sent_at: float) -> EndedRequest:
    """Return the ledger entry of a request that was answered."""
    ended_at, model = time.time(), call.target.cache_name
    state: LedgerState
    if isinstance(answer.outcome, Success):
        response = answer.outcome.unwrap()
        served_model, state, error_type, usage = response.served_model, "done", "", response.usage
    else:
        usage = answer.billed_failures[-1].usage if answer.billed_failures else NO_USAGE
        served_model, state, error_type = "", "error", error_type_name(answer.outcome.failure())
    cost = usage.reported_cost_usd
    # Every field by position, since keywords and `_replace` take longer.
    return EndedRequest(
        key, run_id, model, served_model, state, error_type, sent_at, ended_at,
        usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cache_write_tokens,
        usage.reasoning_tokens, usage.cache_write_1h_tokens, usage.service_tier, "" if cost is None else str(cost),
        usage.billed_units,
    )  # fmt: skip


class WriteAheadLog:
    """The log of one open store, shared by all runs of this process on it. Use it on one event loop only.

    Parameters
    ----------
    store
        The store. Without ``claims``, keys are claimed within this process only; without ``ledger``, requests are not
        recorded.
    ambiguous
        How to treat requests that a dead process had sent.
    """

    def __init__(self, store: Store, ambiguous: AmbiguousPolicy = "resend") -> None:
        self.store = store
        self.resend_ambiguous = ambiguous == "resend"
        self.shared_claims = 0
        """Claims so far for which another process may have answered or held keys since the one before."""
        self.unanswered = 0
        """Recorded requests that were sent and are not answered yet."""
        self.failure = ""
        self._runs = self._single_calls = 0
        self._pending: list[PendingWrites] = []
        self._in_flight: dict[bytes, list[Waiter]] = {}
        self._recent: OrderedDict[bytes, RowOutcome] = OrderedDict()
        self._awaiting_write: dict[bytes, list[bytes]] = {}
        self._done_unwritten: dict[bytes, EndedRequest] = {}
        self._claiming: set[asyncio.Task[ClaimResult]] = set()
        self._urgent = _UrgentWrites()
        self._deferred = _DeferredWrites()
        self._writing: LedgerBatch | None = None
        self._durable_futures: list[asyncio.Future[None]] = []
        self._timer: asyncio.Handle | None = None
        self._commit: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_due = False
        self._last_commit = self._commit_due = 0.0
        self._unreleased: dict[bytes, None] = {}

    # Runs

    def register_run(self, pending: PendingWrites, *, single_call: bool = False) -> None:
        """Add a run and its pending responses. The first run tries a store that failed again.

        Commits are gathered for runs; a ``single_call`` that is alone waits for no other.

        Pending responses are written before further requests are recorded, so a crash leaves at most one ambiguous
        request per worker.
        """
        if not self._runs:
            self.failure = ""
            self._deferred.released.update(self._unreleased)
            self._unreleased.clear()
        self._runs += 1
        self._single_calls += single_call
        self._pending.append(pending)
        if (self._heartbeat is None or self._heartbeat.done()) and self.store.claims is not None:
            self._heartbeat = asyncio.get_running_loop().create_task(self._run_heartbeat())

    async def unregister_run(self, pending: PendingWrites, *, single_call: bool = False) -> None:
        """Remove a run and wait until everything logged is written."""
        self._runs -= 1
        self._single_calls -= single_call
        self._pending.remove(pending)
        if not self._runs:
            self._recent.clear()
            self._stop_heartbeat()
        await self.flush()

    def fail(self, error: StoreError) -> None:
        """Continue without the store; results still reach the table."""
        self.failure = self.failure or str(error)
        for pending in self._pending:
            pending.on_store_failure(error)

    @property
    def failure_message(self) -> str:
        """The failure of the store as a message to users; empty if there was none."""
        if not self.failure:
            return ""
        if self.store.ledger is None:
            return f"keys could not be claimed, so other processes may have sent equal requests: {self.failure}"
        return f"the ledger failed, and requests were sent without being recorded: {self.failure}"

    async def close(self) -> None:
        """Write everything logged."""
        self._stop_heartbeat()
        await self.flush()

    async def _run_heartbeat(self) -> None:
        """Extend the leases of this process periodically; without it, leases that cannot be released expire."""
        while self.store.claims is not None and not (self.failure and self.store.ledger is None):
            await asyncio.sleep(self.store.claims.heartbeat_s)
            try:
                await run_in_thread(self.store.claims.heartbeat)
            except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
                self.fail(as_store_error(error))

    def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None

    # Keys in flight

    def claim_key(self, key: bytes, not_before: float = 0.0) -> list[Waiter] | RowOutcome | None:
        """Claim ``key`` within this process.

        Return ``None`` if the claim is the caller's, the waiters if an equal request is in flight, or the outcome of
        one that has just finished and was sent at ``not_before`` (epoch seconds) or later.
        """
        waiters = self._in_flight.get(key)
        if waiters is not None:
            return waiters
        recent = self._recent.get(key)
        if recent is not None and recent.started_at < not_before:
            recent = None
        if recent is None:
            self._in_flight[key] = []
            self._deferred.released.pop(key, None)
        return recent

    def recent_outcome(self, key: bytes, not_before: float = 0.0) -> RowOutcome | None:
        """Return an outcome that may not be in the store yet, if its request was sent at ``not_before`` or later.

        Outcomes that another candidate than the requested target produced do not count.
        """
        recent = self._recent.get(key)
        if recent is None or recent.started_at < not_before:
            return None
        return None if isinstance(recent, Answer) and recent.target is not None else recent

    def waiters(self, key: bytes) -> list[Waiter] | None:
        """Return the waiters of the request in flight for ``key``; ``None`` if there is no such request."""
        return self._in_flight.get(key)

    async def claim_leases(self, requests: Sequence[ClaimRequest], *, repeated: bool = False) -> ClaimResult:
        """Claim keys across processes. A store without leases grants all.

        ``repeated`` tells the store that these keys were held elsewhere before.
        """
        claimed = await self._claim_leases(requests, repeated=repeated)
        self.shared_claims += not claimed.exclusive
        return claimed

    async def _claim_leases(self, requests: Sequence[ClaimRequest], *, repeated: bool) -> ClaimResult:
        claims = self.store.claims
        if claims is None or not requests or self.failure:
            return ClaimResult()
        if len(requests) == 1 and not repeated and self._commit is None and claims.try_claim is not None:
            claimed = self._try_claim(claims.try_claim, requests)
            if claimed is not None:
                return claimed
        # Keys that are being released right now would be granted and then released.
        while self._commit is not None and self._writing is not None and _overlaps(requests, self._writing.released):
            await asyncio.shield(self._commit)
        # If the caller is cancelled meanwhile, it releases the keys, which must not happen before they are claimed.
        claiming = asyncio.get_running_loop().create_task(self._claim_in_thread(claims, requests, repeated=repeated))
        self._claiming.add(claiming)
        claiming.add_done_callback(self._claiming.discard)
        return await asyncio.shield(claiming)

    def _try_claim(
        self, try_claim: Callable[[Sequence[ClaimRequest], bool], ClaimResult | None], requests: Sequence[ClaimRequest]
    ) -> ClaimResult | None:
        try:
            return try_claim(requests, self.resend_ambiguous)
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self.fail(as_store_error(error))
            return ClaimResult()

    async def _claim_in_thread(
        self, claims: Claims, requests: Sequence[ClaimRequest], *, repeated: bool
    ) -> ClaimResult:
        try:
            return await run_in_thread(claims.claim, requests, self.resend_ambiguous, repeated)
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self.fail(as_store_error(error))
            return ClaimResult()

    def release_key(self, key: bytes, outcome: RowOutcome | None, written_as: bytes | None = None) -> None:
        """Release ``key`` and call its waiters with the outcome.

        If the response is being written under ``written_as``, other processes get the key once it is in the store.
        """
        waiters = self._in_flight.pop(key, ())
        if outcome is not None and not is_failure(outcome):
            self._recent[key] = outcome
            if len(self._recent) > MAX_RECENT_OUTCOMES:
                self._recent.popitem(last=False)  # a dict would search for its first key
        if written_as is None:
            self._release_lease(key)
        else:
            self._awaiting_write.setdefault(written_as, []).append(key)
        for waiter in waiters:
            waiter(outcome)

    def on_written(self, keys: Iterable[bytes]) -> None:
        """Release the leases of keys whose responses are now in the store."""
        for written in keys:
            for key in self._awaiting_write.pop(written, ()):
                self._release_lease(key)

    def _release_lease(self, key: bytes) -> None:
        done = self._done_unwritten.pop(key, None)
        if self.failure:
            self._unreleased[key] = None
            return
        if done is not None:
            self._deferred.ended.append(done)
        # The key may have been claimed again by another run of this process.
        if self.store.claims is not None and key not in self._in_flight:
            self._deferred.released[key] = None
            self._schedule_deferred()

    # Ledger entries

    def log_sent(self, sent: SentRequest) -> asyncio.Future[None]:
        """Record a request that is about to be sent. The returned future completes when the entry is durable."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        durable = loop.create_future()
        if self.failure:
            durable.set_result(None)
            return durable
        if self._urgent.unsent:
            self._urgent.unsent.pop(sent.key, None)
        self._urgent.sent.append(sent)
        self._durable_futures.append(durable)
        waiting = len(self._durable_futures)
        if waiting == 1:
            self._schedule_commit(0.0)
        elif waiting >= self.unanswered and not self._is_due:
            # Most of the others wait as well, so there is little to gather.
            self._is_due = True
            self._schedule_commit(0.0, at_once=True)
        return durable

    def log_unsent(self, key: bytes) -> None:
        """Record that a request was not sent after all, or may be sent again."""
        self._urgent.unsent[key] = None
        self._schedule_deferred()

    def log_ended(self, ended: EndedRequest) -> None:
        """Record the end of a request."""
        if self.failure:
            return
        if ended.state == "done" and ended.key in self._in_flight:
            # It counts as done once its response is in the store: until then a crash may lose the response.
            self._done_unwritten[ended.key] = ended
            return
        self._deferred.ended.append(ended)
        if ended.key not in self._in_flight:
            # A request to another candidate than the requested one; no run has claimed its key.
            self._deferred.released[ended.key] = None
        else:
            self.log_unsent(ended.key)
        self._schedule_deferred()

    async def flush(self) -> None:
        """Wait until everything logged is written."""
        while self._claiming:
            await asyncio.wait(self._claiming)
        while self._commit is not None or self._urgent or self._deferred:
            if self._commit is not None:
                await asyncio.shield(self._commit)
            else:
                self._deferred.due = IMMEDIATELY
                self._start_commit()

    # Commits

    def _schedule_deferred(self) -> None:
        """Schedule a commit of the deferred writes within `MAX_DELAY_S`."""
        if not self._deferred.due:
            self._deferred.due = asyncio.get_running_loop().time() + MAX_DELAY_S
            self._schedule_commit(MAX_DELAY_S)

    def _schedule_commit(self, delay_s: float, *, at_once: bool = False) -> None:
        """Schedule a commit after ``delay_s``, but not before the commit interval has passed since the last one."""
        if self._commit is not None:
            return
        loop = asyncio.get_running_loop()
        due = loop.time()
        if not at_once:
            due = max(due + delay_s, self._last_commit + self._commit_interval_s())
        if self._timer is not None:
            if self._commit_due <= due:
                return
            self._timer.cancel()
        self._commit_due = due
        self._timer = loop.call_at(due, self._start_commit)

    def _commit_interval_s(self) -> float:
        """Return how long commits are gathered: not at all for a lone call, longer the more there are."""
        if self._runs != self._single_calls:
            return COMMIT_INTERVAL_S
        return COMMIT_INTERVAL_S * min(max(self._single_calls - 1, 0) / MANY_CALLS, 1.0)

    def _start_commit(self) -> None:
        """Write what is due: on the loop if no other process is writing, since a thread costs ten times as much."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        self._last_commit, self._is_due = loop.time(), False
        unflushed = [pending for pending in self._pending if not pending.try_flush()]
        deferred = _DeferredWrites()
        if self._deferred.due and self._deferred.due <= self._last_commit + COMMIT_INTERVAL_S:
            deferred, self._deferred = self._deferred, deferred
        urgent, self._urgent = self._urgent, _UrgentWrites()
        if self._deferred:
            # Until the end of a request is written, it counts as sent.
            urgent.unsent, self._urgent.unsent = self._urgent.unsent, urgent.unsent
        futures, self._durable_futures = self._durable_futures, []
        batch = LedgerBatch(urgent.sent, list(urgent.unsent), deferred.ended, list(deferred.released))
        try:
            written = not unflushed and self.store.ledger is not None and self.store.ledger.try_commit(batch)
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self.fail(as_store_error(error))
            written = True
        if written:
            self._finish_commit(futures)
        else:
            self._writing = batch
            self._commit = loop.create_task(self._commit_in_thread(batch, futures, unflushed))

    async def _commit_in_thread(
        self, batch: LedgerBatch, futures: Sequence[asyncio.Future[None]], unflushed: Sequence[PendingWrites]
    ) -> None:
        try:
            for pending in unflushed:
                await pending.flush_pending()
            await run_in_thread(_write_batch, self.store, batch)
        except Exception as error:  # noqa: BLE001 - a plugin's store may raise anything
            self.fail(as_store_error(error))
        finally:
            self._commit = self._writing = None
            self._finish_commit(futures)

    def _finish_commit(self, futures: Sequence[asyncio.Future[None]]) -> None:
        """Complete the futures of a commit and schedule the next one."""
        _complete(futures)
        if self.failure:
            self._discard_pending()
        if self._durable_futures:
            self._schedule_commit(0.0)
        elif self._urgent or self._deferred:
            self._schedule_commit(max(0.0, (self._deferred.due or 0.0) - asyncio.get_running_loop().time()))

    def _discard_pending(self) -> None:
        """Drop what cannot be written; keys are released once the store works again."""
        self._unreleased.update(self._deferred.released)
        self._urgent, self._deferred = _UrgentWrites(), _DeferredWrites()
        futures, self._durable_futures = self._durable_futures, []
        _complete(futures)


@dataclass(slots=True)
class _UrgentWrites:
    """Entries that must be written before a request is sent. A key in both fields counts as its later entry."""

    sent: list[SentRequest] = field(default_factory=list)
    unsent: dict[bytes, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sent or self.unsent)


@dataclass(slots=True)
class _DeferredWrites:
    """Entries about finished requests, to be written at ``due`` (loop time; 0 if not scheduled)."""

    ended: list[EndedRequest] = field(default_factory=list)
    released: dict[bytes, None] = field(default_factory=dict)
    due: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.ended or self.released)


def _overlaps(requests: Sequence[ClaimRequest], released: Sequence[bytes]) -> bool:
    return not {request.key for request in requests}.isdisjoint(released)


def _complete(futures: Sequence[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _write_batch(store: Store, batch: LedgerBatch) -> None:
    """Write a batch to the ledger, or only its released keys if the store has no ledger."""
    if store.ledger is not None:
        store.ledger.commit(batch)
    elif batch.released and store.claims is not None:
        store.claims.release(batch.released)
