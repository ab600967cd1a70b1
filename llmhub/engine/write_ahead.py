"""What a hub's calls are entered in: who asks what just now, and what is written, together, every few milliseconds.

A request is written down before it is sent. Committing each by itself would cost more than sending it; so all that are
about to go, and all that came, go into one transaction, and the next begins a few milliseconds later.

What a worker is at: known to whatever task sends in its name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, get_args

from returns.pipeline import is_successful

from llmhub.cache.store import (
    ClaimRequest,
    ClaimResult,
    Claims,
    EndedRequest,
    LedgerBatch,
    SentRequest,
    Store,
    StoreError,
)
from llmhub.core.cache_key import request_key
from llmhub.core.errors import error_type_name
from llmhub.core.types import NO_USAGE, Usage
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.row_outcome import RowOutcome, cancelled_outcome, is_failure

if TYPE_CHECKING:
    pass  # merged


COMMIT_INTERVAL_S: Final = 0.005
"""Between two commits that somebody waits for; the first of a while waits for nothing."""


MAX_DELAY_S: Final = 0.1
"""How long it takes at most until it is written down what came of a request, once its answer is filed."""


IMMEDIATELY: Final = -1.0
"""A time that has passed, on whatever clock."""


MAX_RECENT_OUTCOMES: Final = 4096
"""Answers remembered while runs go on: another may have looked in the store just before an answer was there."""


AmbiguousPolicy: TypeAlias = Literal["resend", "error"]
"""What is done with a request that was sent by a process that died before the answer came."""


AMBIGUOUS_POLICIES: Final = get_args(AmbiguousPolicy)


Waiter: TypeAlias = Callable[[RowOutcome | None], None]
"""Told what came of a question that somebody else has asked; ``None`` when nothing that holds for others."""


class PendingWrites(Protocol):
    """The answers of a run that wait to be filed (`llmhub.engine.cache_writer.CacheWriter`)."""

    def on_store_failure(self, error: StoreError) -> None:
        """Take in that nothing can be written any more."""

    def try_flush(self) -> bool:
        """Write what waits, where that takes no waiting; say whether all is written that can be for now."""

    async def flush_pending(self) -> None:
        """Write what waits, beside the loop."""


class WriteAheadLog:
    """The books of one open store. Everything happens on one event loop."""

    def __init__(self, store: Store, ambiguous: AmbiguousPolicy = "resend") -> None:
        self.store = store
        self.resend_ambiguous = ambiguous == "resend"
        self.failure = ""
        self._runs = 0
        self._pending: list[PendingWrites] = []
        self._in_flight: dict[bytes, list[Waiter]] = {}
        self._recent: dict[bytes, RowOutcome] = {}
        self._awaiting_write: dict[bytes, list[bytes]] = {}
        self._done_unwritten: dict[bytes, EndedRequest] = {}
        self._claiming: set[asyncio.Task[ClaimResult]] = set()
        # What somebody waits for to be written, and what can wait for others.
        self._urgent = _UrgentWrites()
        self._deferred = _DeferredWrites()
        self._writing: LedgerBatch | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.Handle | None = None
        self._commit: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._last_commit = self._commit_due = 0.0
        self._unreleased: dict[bytes, None] = {}

    # Runs

    def register_run(self, answers: PendingWrites) -> None:
        """Count a run, and tell it when the books fail. A store that failed is tried again by the first.

        Its answers are filed before more is sent. So of each worker's requests one is in doubt at most after a crash.
        """
        if not self._runs:
            self.failure = ""
            self._deferred.released.update(self._unreleased)
            self._unreleased.clear()
        self._runs += 1
        self._pending.append(answers)
        if (self._heartbeat is None or self._heartbeat.done()) and self.store.claims is not None:
            self._heartbeat = asyncio.get_running_loop().create_task(self._run_heartbeat())

    async def unregister_run(self, answers: PendingWrites) -> None:
        """Count a run as over, and wait until all that lies before the writer is written."""
        self._runs -= 1
        self._pending.remove(answers)
        if not self._runs:
            self._recent.clear()
        if not self._runs and self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None
        await self.flush()

    def fail(self, error: StoreError) -> None:
        """Go on without the store: what is answered is still in the table."""
        self.failure = self.failure or str(error)
        for answers in self._pending:
            answers.on_store_failure(error)

    @property
    def failure_message(self) -> str:
        """What went wrong, for whoever had to do without the ledger."""
        if not self.failure:
            return ""
        if self.store.ledger is None:
            return f"keys could not be claimed, so others may have asked the same: {self.failure}"
        return f"the ledger failed, and requests went out that are not in it: {self.failure}"

    async def _run_heartbeat(self) -> None:
        """Say every few seconds that this process lives; leases that it cannot give back any more may run out."""
        while self.store.claims is not None and not (self.failure and self.store.ledger is None):
            await asyncio.sleep(self.store.claims.heartbeat_s)
            try:
                await run_in_thread(self.store.claims.heartbeat)
            except StoreError as error:
                self.fail(error)

    # Who asks what

    def claim_key(self, key: bytes, not_before: float = 0.0) -> list[Waiter] | RowOutcome | None:
        """Take a question. Where it is taken, give who is told what comes of it; where it has just been, the answer.

        That is, unless it was asked before ``not_before`` (epoch seconds).
        """
        landings = self._in_flight.get(key)
        if landings is not None:
            return landings
        recent = self._recent.get(key)
        if recent is not None and recent.started_at < not_before:
            recent = None
        if recent is None:
            self._in_flight[key] = []
            self._deferred.released.pop(key, None)
        return recent

    def recent_outcome(self, key: bytes, not_before: float = 0.0) -> RowOutcome | None:
        """Give what whoever was asked ``not_before`` then (epoch seconds) answered just now; it may not be filed yet."""
        settled = self._recent.get(key)
        if settled is None or settled.started_at < not_before:
            return None
        return None if isinstance(settled, Answer) and settled.target is not None else settled

    def waiters(self, key: bytes) -> list[Waiter] | None:
        """Give who is told what comes of a question, if anybody asks it."""
        return self._in_flight.get(key)

    async def claim_leases(self, wishes: Sequence[ClaimRequest], *, repeated: bool = False) -> ClaimResult:
        """Claim questions before other processes; a store that cannot do it grants all."""
        claims = self.store.claims
        if claims is None or not wishes or self.failure:
            return ClaimResult()
        while self._commit is not None and self._writing is not None and _overlaps(wishes, self._writing.released):
            await asyncio.shield(self._commit)
        # Who asks may be stopped meanwhile: then the keys are given back, but not before they are claimed.
        claiming = asyncio.get_running_loop().create_task(self._claim_in_thread(claims, wishes, again=repeated))
        self._claiming.add(claiming)
        claiming.add_done_callback(self._claiming.discard)
        return await asyncio.shield(claiming)

    async def _claim_in_thread(self, claims: Claims, wishes: Sequence[ClaimRequest], *, again: bool) -> ClaimResult:
        try:
            return await run_in_thread(claims.claim, wishes, self.resend_ambiguous, again)
        except StoreError as error:
            self.fail(error)
            return ClaimResult()

    def release_key(self, key: bytes, settled: RowOutcome | None, written_as: bytes | None = None) -> None:
        """Give a question back, and tell who waits for it what came of it.

        Other processes are told when the answer that is being ``written_as`` under that key is written.
        """
        landings = self._in_flight.pop(key, ())
        if settled is not None and not is_failure(settled):
            self._recent[key] = settled
            if len(self._recent) > MAX_RECENT_OUTCOMES:
                del self._recent[next(iter(self._recent))]
        if written_as is None:
            self._release_lease(key)
        else:
            self._awaiting_write.setdefault(written_as, []).append(key)
        for landing in landings:
            landing(settled)

    def _release_lease(self, key: bytes) -> None:
        done = self._done_unwritten.pop(key, None)
        if self.failure:
            self._unreleased[key] = None
            return
        if done is not None:
            self._deferred.ended.append(done)
        # Unless somebody has asked it anew.
        if self.store.claims is not None and key not in self._in_flight:
            self._deferred.released[key] = None
            self._schedule_deferred()

    # What is written

    def on_written(self, keys: Iterable[bytes]) -> None:
        """Take note that answers are filed: whoever asks the same finds them now."""
        for key in keys:
            for asked in self._awaiting_write.pop(key, ()):
                self._release_lease(asked)

    def log_sent(self, sent: SentRequest) -> asyncio.Future[None]:
        """Write down that a request is about to be sent; what it gives is done when that is durable."""
        durable = asyncio.get_running_loop().create_future()
        if self.failure:
            durable.set_result(None)
            return durable
        if self._urgent.unsent:
            self._urgent.unsent.pop(sent.key, None)
        self._urgent.sent.append(sent)
        self._waiting.append(durable)
        if len(self._waiting) == 1:
            self._schedule_commit(0.0)
        return durable

    def log_unsent(self, key: bytes) -> None:
        """Write down that a request was not sent after all, or may be sent again."""
        self._urgent.unsent[key] = None
        self._schedule_deferred()

    def log_ended(self, ended: EndedRequest) -> None:
        """Write down what came of a request."""
        if not self.failure:
            if ended.state == "done" and ended.key in self._in_flight:
                # It is done when its answer is filed: what comes before may still be lost.
                self._done_unwritten[ended.key] = ended
                return
            self._deferred.ended.append(ended)
            if ended.key not in self._in_flight:
                # No run holds it: a request to somebody else than who was asked.
                self._deferred.released[ended.key] = None
            else:
                self.log_unsent(ended.key)
            self._schedule_deferred()

    async def flush(self) -> None:
        """Wait until all that lies before the writer is written."""
        while self._claiming:
            await asyncio.wait(self._claiming)
        while self._commit is not None or self._urgent or self._deferred:
            if self._commit is not None:
                await asyncio.shield(self._commit)
            else:
                self._deferred.due = IMMEDIATELY
                self._start_commit()

    async def close(self) -> None:
        """Write what is left."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None
        await self.flush()

    def _schedule_deferred(self) -> None:
        """See that what can wait is written before long."""
        if not self._deferred.due:
            self._deferred.due = asyncio.get_running_loop().time() + MAX_DELAY_S
            self._schedule_commit(MAX_DELAY_S)

    def _schedule_commit(self, delay_s: float) -> None:
        """See that a commit begins soon: at once if need be, but not more often than every few milliseconds."""
        if self._commit is not None:
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time() + delay_s, self._last_commit + COMMIT_INTERVAL_S)
        if self._timer is not None:
            if self._commit_due <= due:
                return
            self._timer.cancel()
        self._commit_due = due
        self._timer = loop.call_at(due, self._start_commit)

    def _start_commit(self) -> None:
        """Write what is due, here and now if nobody else is writing: a thread would cost ten times as much."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        self._last_commit = loop.time()
        late = [answers for answers in self._pending if not answers.try_flush()]
        news = _DeferredWrites()
        if self._deferred.due and self._deferred.due <= self._last_commit + COMMIT_INTERVAL_S:
            news, self._deferred = self._deferred, news
        marks, self._urgent = self._urgent, _UrgentWrites()
        waiting, self._waiting = self._waiting, []
        batch = LedgerBatch(marks.sent, list(marks.unsent), news.ended, list(news.released))
        try:
            written = not late and self.store.ledger is not None and self.store.ledger.try_commit(batch)
        except StoreError as error:
            self.fail(error)
            written = True
        if written:
            self._finish_commit(waiting)
        else:
            self._writing = batch
            self._commit = loop.create_task(self._commit_in_thread(batch, waiting, late))

    async def _commit_in_thread(
        self, batch: LedgerBatch, waiting: Sequence[asyncio.Future[None]], late: Sequence[PendingWrites]
    ) -> None:
        try:
            for answers in late:
                await answers.flush_pending()
            await _write_in_thread(_write_batch, self.store, batch)
        except StoreError as error:
            self.fail(error)
        finally:
            self._commit = self._writing = None
            self._finish_commit(waiting)

    def _finish_commit(self, waiting: Sequence[asyncio.Future[None]]) -> None:
        """Let those go who waited for what is written, and go on."""
        _resolve_futures(waiting)
        if self.failure:
            self._discard_pending()
        self._reschedule()

    def _reschedule(self) -> None:
        if self._waiting:
            self._schedule_commit(0.0)
        elif self._urgent or self._deferred:
            self._schedule_commit(max(0.0, (self._deferred.due or 0.0) - asyncio.get_running_loop().time()))

    def _discard_pending(self) -> None:
        """Write no more, and keep nobody waiting for it; keys are given back once the store works again."""
        self._unreleased.update(self._deferred.released)
        self._urgent, self._deferred = _UrgentWrites(), _DeferredWrites()
        waiting, self._waiting = self._waiting, []
        _resolve_futures(waiting)


@dataclass(slots=True)
class _UrgentWrites:
    """What is written before anything is sent. Keys that are in it twice stand as they came last."""

    sent: list[SentRequest] = field(default_factory=list)
    unsent: dict[bytes, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sent or self.unsent)


@dataclass(slots=True)
class _DeferredWrites:
    """What came, to be written at ``due`` on the loop's clock."""

    ended: list[EndedRequest] = field(default_factory=list)
    released: dict[bytes, None] = field(default_factory=dict)
    due: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.ended or self.released)


def _overlaps(wishes: Sequence[ClaimRequest], released: Sequence[bytes]) -> bool:
    return not {wish.key for wish in wishes}.isdisjoint(released)


def _resolve_futures(waiting: Sequence[asyncio.Future[None]]) -> None:
    for durable in waiting:
        if not durable.done():
            durable.set_result(None)


async def _write_in_thread(write: Callable[[Store, LedgerBatch], None], store: Store, batch: LedgerBatch) -> None:
    """Write beside the loop; here, when the process ends and has no threads to spare any more."""
    try:
        begun = asyncio.get_running_loop().run_in_executor(None, write, store, batch)
    except RuntimeError:
        write(store, batch)
    else:
        await begun


def _write_batch(store: Store, batch: LedgerBatch) -> None:
    """Write a batch in one piece, or as far as the store can."""
    if store.ledger is not None:
        store.ledger.commit(batch)
        return
    if batch.released and store.claims is not None:
        store.claims.release(batch.released)


def record_requests(send: Send) -> Send:
    """Write down each request before it is sent, and what came of it, in the books of the run it belongs to."""

    async def sending(call: Call) -> Answer:
        flight = SEND_CONTEXT.get()
        books = None if flight is None else flight.write_ahead
        if flight is None or books is None or books.store.ledger is None:
            return await send(call)
        target, run = call.target, flight.run_id
        key = call.key or request_key(target.provider, target.endpoint, call.request, call.sample)
        at = time.time()
        try:
            await books.log_sent(SentRequest(key, run, target.name, at))
        except asyncio.CancelledError:
            books.log_unsent(key)
            raise
        if books.failure and flight.strict:
            return cancelled_outcome(flight.requests_sent)
        try:
            answer = await send(call)
        except BaseException:
            books.log_ended(EndedRequest(key, run, target.name, "", "ambiguous", "", at, time.time()))
            raise
        books.log_ended(to_ended_request(key, run, call, answer, at))
        return answer

    return sending


def to_ended_request(key: bytes, run: bytes, call: Call, answer: Answer, sent_at: float) -> EndedRequest:
    """Say in a row what came of a request."""
    now, name = time.time(), call.target.name
    if not is_successful(answer.outcome):
        used = answer.billed_failures[-1].usage if answer.billed_failures else NO_USAGE
        return EndedRequest(
            key, run, name, "", "error", error_type_name(answer.outcome.failure()), sent_at, now, *_token_counts(used)
        )
    said = answer.outcome.unwrap()
    return EndedRequest(key, run, name, said.served_model, "done", "", sent_at, now, *_token_counts(said.usage))


def _token_counts(used: Usage) -> tuple[int | None, ...]:
    return (
        used.input_tokens,
        used.output_tokens,
        used.cached_input_tokens,
        used.cache_write_tokens,
        used.reasoning_tokens,
    )


@dataclass(slots=True)
class SendContext:
    """The requests of one worker.

    Parameters
    ----------
    run
        The run it works for (16 bytes).
    books
        Where its requests are entered, if anywhere.
    sent
        Requests sent for the call it is at.
    strict
        Whether nothing goes out that is not written down.
    """

    run_id: bytes = b""
    write_ahead: WriteAheadLog | None = None
    requests_sent: int = 0
    strict: bool = False


SEND_CONTEXT: Final[ContextVar[SendContext | None]] = ContextVar("llmhub_flight", default=None)
"""The flight of the worker in whose name the present task sends; a task that a middleware makes inherits it."""
