"""Events of the engine, for logs, metrics and traces: calls, requests, waits, cache hits and decisions.

An observer is a function of one event, called on the event loop in the task that sends the call; it must return at
once. Without observers a call makes no event: `observation_middleware` asks for them once per call, and the layers
below look at one context variable.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, TypeVar

from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.decision_log import Decision, RecordDecision
from llmhub.engine.progress import ProgressSink
from llmhub.engine.write_ahead import SEND_CONTEXT

if TYPE_CHECKING:
    from llmhub.engine.fan_out_types import OnResult, ResultEvent

T = TypeVar("T")

MIN_WAIT_NS: Final = 1_000_000
"""Shorter waits make no event."""
NS_PER_S: Final = 1_000_000_000

WaitReason: TypeAlias = Literal["cache", "limit", "retry"]
"""Reason of a wait: the cache, a rate limit or budget, or the delay before a retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOrigin:
    """The origin of a call, for logs, traces and the metrics by team.

    Parameters
    ----------
    request_id
        Identifies the incoming request that the call belongs to.
    key_id
        Identifies the key that the caller presented; never the key itself.
    team, user
        The team and user charged for the call.
    """

    request_id: str = ""
    key_id: str = ""
    team: str = ""
    user: str = ""


NO_ORIGIN: Final = CallOrigin()
CALL_ORIGIN: Final[ContextVar[CallOrigin]] = ContextVar("llmhub_call_origin", default=NO_ORIGIN)
"""Who makes the calls of the current task, and of the tasks and calls it starts."""
OUTGOING_HEADERS: Final[ContextVar[Mapping[str, str] | None]] = ContextVar("llmhub_outgoing_headers", default=None)
"""Headers added to the requests of the current task: an observer of `RequestStarted` sets the trace context here."""


class CallStarted(NamedTuple):
    """A call was made. Times are epoch nanoseconds."""

    call_id: int
    call: Call
    started_ns: int


class RequestStarted(NamedTuple):
    """An HTTP request of a call is about to be sent."""

    call_id: int
    number: int
    call: Call
    started_ns: int


class RequestFinished(NamedTuple):
    """An HTTP request was answered or failed; ``answer`` is ``None`` if it was cancelled."""

    call_id: int
    number: int
    call: Call
    answer: Answer | None
    started_ns: int
    ended_ns: int


class Waited(NamedTuple):
    """A call waited for at least `MIN_WAIT_NS`."""

    call_id: int
    call: Call
    reason: WaitReason
    started_ns: int
    ended_ns: int


class CallFinished(NamedTuple):
    """A call has its answer; ``None`` if it was cancelled or ended by an exception.

    ``queue_ns`` is how long it had waited for a free slot of its run before it started, if that took time.
    """

    call_id: int
    call: Call
    answer: Answer | None
    started_ns: int
    ended_ns: int
    origin: CallOrigin
    run_id: bytes
    trace_id: str
    queue_ns: int


class CacheHits(NamedTuple):
    """Rows of a run were answered without a call of their own."""

    target: Target
    rows: int


Event: TypeAlias = CallStarted | RequestStarted | RequestFinished | Waited | CallFinished | CacheHits | Decision
Observer: TypeAlias = Callable[[Event], None]


class ObserverSet(NamedTuple):
    """Observers at one moment.

    Parameters
    ----------
    observers
        All of them; empty if nothing is observed.
    of_starts
        Those that want `CallStarted` and `RequestStarted` too, which are not made for the others.
    skips
        Returns whether the next call of a run may go unobserved, if the only observer samples calls.
    """

    observers: tuple[Observer, ...] = ()
    of_starts: tuple[Observer, ...] = ()
    skips: Callable[[], bool] | None = None


NO_OBSERVERS: Final = ObserverSet()
Observers: TypeAlias = Callable[[], ObserverSet]
"""Returns the observers of now."""

LOGGER: Final = logging.getLogger("llmhub.observer")
_CALL_IDS: Final = count(1)
_new_event: Final = tuple.__new__
"""Makes a named tuple of its fields without a function of Python: two events are made for every row of a run."""


def no_observers() -> ObserverSet:
    """Return no observers."""
    return NO_OBSERVERS


@dataclass(slots=True)
class ObservedCall:
    """The call that the current task works for.

    Parameters
    ----------
    call_id
        Distinguishes the calls of a process.
    active
        The observers when the call was made.
    requests_sent
        HTTP requests so far.
    trace_id
        Identifies the trace of the call, once an observer of `CallStarted` has begun one.
    next_request
        The request that the current task sends next, from `request_middleware` until the transport takes it out.
    """

    call_id: int
    active: ObserverSet
    requests_sent: int = 0
    trace_id: str = ""
    next_request: ObservedRequest | None = None


ObservedRequest: TypeAlias = tuple[ObservedCall, int, int]
"""A request of an observed call: the call, the number of the request, and when it was sent."""

OBSERVED_CALL: Final[ContextVar[ObservedCall | None]] = ContextVar("llmhub_observed_call", default=None)
_ADMISSION_STARTED_NS: Final[ContextVar[int]] = ContextVar("llmhub_admission_started", default=0)


def emit(observers: Sequence[Observer], event: Event) -> None:
    """Pass an event to observers. The exception of one is logged and reaches neither the call nor the others."""
    for observer in observers:
        try:
            observer(event)
        except Exception:
            LOGGER.exception("an observer failed")


def emit_wait(call: Call, reason: WaitReason, duration_ns: int, ended_ns: int | None = None) -> None:
    """Emit the wait of the call that the current task works for, if it is observed and the wait took time."""
    observed = OBSERVED_CALL.get()
    if observed is not None and duration_ns >= MIN_WAIT_NS:
        end = time.time_ns() if ended_ns is None else ended_ns
        emit(observed.active.observers, Waited(observed.call_id, call, reason, end - duration_ns, end))


async def observe_call(
    active: ObserverSet,
    call: Call,
    send: Callable[[], Awaitable[T]],
    answer_of: Callable[[T], Answer | None],
    run_id: bytes = b"",
) -> T:
    """Send a call and emit its start and end; events of the layers below belong to it."""
    observed = ObservedCall(next(_CALL_IDS), active)
    started_ns = time.time_ns()
    token = OBSERVED_CALL.set(observed)
    answer: Answer | None = None
    context = SEND_CONTEXT.get()
    try:
        if active.of_starts:
            emit(active.of_starts, CallStarted(observed.call_id, call, started_ns))
        result = await send()
        answer = answer_of(result)
        return result
    finally:
        OBSERVED_CALL.reset(token)
        run_id = run_id or (context.run_id if context is not None else b"")
        queue_ns = int(context.queue_s * NS_PER_S) if context is not None else 0
        ended_ns, trace_id = time.time_ns(), observed.trace_id
        queue_ns = queue_ns if queue_ns >= MIN_WAIT_NS else 0
        event = _new_event(
            CallFinished,
            (observed.call_id, call, answer, started_ns, ended_ns, CALL_ORIGIN.get(), run_id, trace_id, queue_ns),
        )
        emit(active.observers, event)


def _itself(answer: Answer) -> Answer:
    return answer


def observation_middleware(observers: Observers) -> Middleware:
    """Return the middleware that observes calls that are not part of an observed one already."""

    def wrap(send: Send) -> Send:
        def send_or_observe(call: Call) -> Awaitable[Answer]:
            active = observers()
            if not active.observers or OBSERVED_CALL.get() is not None:
                return send(call)
            if active.skips is not None and active.skips():
                return send(call)
            return observe_call(active, call, partial(send, call), _itself)

        return send_or_observe

    return wrap


def admission_middleware(send: Send) -> Send:
    """Note when an attempt begins to wait for its admission; `request_middleware` emits how long that took."""

    def send_noted(call: Call) -> Awaitable[Answer]:
        if OBSERVED_CALL.get() is not None:
            _ADMISSION_STARTED_NS.set(time.time_ns())
        return send(call)

    return send_noted


def request_middleware(send: Send) -> Send:
    """Emit the start of each HTTP request of an observed call, and its wait for limits and budgets before.

    The transport emits its end (`finish_request`): one coroutine less around every request.
    """

    def send_or_observe(call: Call) -> Awaitable[Answer]:
        observed = OBSERVED_CALL.get()
        if observed is None:
            return send(call)
        started_ns = time.time_ns()
        observed.requests_sent = number = observed.requests_sent + 1
        waited_ns = started_ns - (_ADMISSION_STARTED_NS.get() or started_ns)
        if waited_ns >= MIN_WAIT_NS:
            emit_wait(call, "limit", waited_ns, started_ns)
        request = (observed, number, started_ns)
        if observed.active.of_starts:
            return send_with_headers(call, request)
        observed.next_request = request
        return send(call)

    async def send_with_headers(call: Call, request: ObservedRequest) -> Answer:
        """Send a request with the headers that an observer of its start sets."""
        observed, number, started_ns = request
        token = OUTGOING_HEADERS.set(None)
        try:
            emit(observed.active.of_starts, RequestStarted(observed.call_id, number, call, started_ns))
            observed.next_request = request
            return await send(call)
        finally:
            OUTGOING_HEADERS.reset(token)

    return send_or_observe


def take_request() -> ObservedRequest | None:
    """Return the request that the current task is about to send, if it is observed; a second call returns ``None``."""
    observed = OBSERVED_CALL.get()
    if observed is None:
        return None
    request, observed.next_request = observed.next_request, None
    return request


def finish_request(request: ObservedRequest, call: Call, answer: Answer | None) -> None:
    """Emit the end of a request; without an answer, it was cancelled."""
    observed, number, started_ns = request
    event = _new_event(RequestFinished, (observed.call_id, number, call, answer, started_ns, time.time_ns()))
    emit(observed.active.observers, event)


def decision_observer(observers: Observers, clock: Callable[[], float], record: RecordDecision) -> RecordDecision:
    """Return a function that records a decision and passes it to the observers."""

    def record_and_emit(kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
        record(kind, target, detail, wait_s=wait_s)
        active = observers().observers
        if active:
            emit(active, Decision(clock(), kind, target, detail, wait_s))

    return record_and_emit


def cache_hit_counter(observers: Observers, sink: ProgressSink) -> OnResult | None:
    """Return a function of the stored results of a run that emits them as cache hits; ``None`` without observers.

    ``sink`` tells which target each position belongs to.
    """
    active = observers().observers
    return _HitCounter(active, sink) if active and sink.targets else None


@dataclass(slots=True)
class _HitCounter:
    """Emits the rows of a run that a store, or an equal row, has answered."""

    observers: Sequence[Observer]
    sink: ProgressSink
    targets: Sequence[Target] = field(init=False)

    def __post_init__(self) -> None:
        self.targets = self.sink.targets

    def __call__(self, event: ResultEvent) -> None:
        """Count a stored result, or a block of them."""
        if isinstance(event, tuple):
            emit(self.observers, CacheHits(self.targets[self._target_index(event[0])], 1))
        else:
            self._count_block(event.positions)

    def _count_block(self, positions: object) -> None:
        from llmhub.engine.block_lookup import count_by_model  # noqa: PLC0415 - numpy is loaded wherever a block is

        if self.sink.target_by_row is not None:
            for position in positions.tolist():  # type: ignore[attr-defined]
                emit(self.observers, CacheHits(self.targets[self._target_index(position)], 1))
            return
        counts = count_by_model(positions, self.sink.samples, len(self.targets))  # type: ignore[arg-type]
        for target, hits in zip(self.targets, counts, strict=True):
            if hits:
                emit(self.observers, CacheHits(target, int(hits)))

    def _target_index(self, position: int) -> int:
        row = position // self.sink.samples
        by_row = self.sink.target_by_row
        return row % len(self.targets) if by_row is None else by_row[row]
