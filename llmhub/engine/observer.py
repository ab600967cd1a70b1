"""Events of the engine, for logs, metrics and traces: calls, requests, waits, cache hits and decisions.

An observer is a function of one event, called on the event loop in the task that sends the call; it must return at
once. Without observers a call makes no event: `observation_middleware`, or a `CallObservation`, asks for them once per
call, and the layers below look at one context variable.
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

from returns.result import Success

from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.decision_log import Decision, RecordDecision
from llmhub.engine.progress import ProgressSink
from llmhub.engine.write_ahead import SEND_CONTEXT, SendContext

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


Skips: TypeAlias = Callable[[], bool]
"""Returns whether the next call of a task may go unobserved."""
Sampler: TypeAlias = Callable[[], Skips]
"""Returns the function that chooses among the calls of the current task."""
AnswerObserver: TypeAlias = Callable[[Call, Answer, float], None]
"""Is told of a call of a run, its answer, and how many seconds it had waited for a worker."""


class Subscription(NamedTuple):
    """An observer, and which events it can do without.

    Parameters
    ----------
    observer
        Called with each event.
    starts
        Whether it wants `CallStarted` and `RequestStarted` too.
    on_answer
        Called in place of ``observer`` for a call of a run that its first request answered, if no observer wants the
        events of that call. ``None`` if the events are wanted.
    sampler
        Returns, for the current task, a function that returns whether the task's next call may go unobserved; ``None``
        if no call may.
    """

    observer: Observer
    starts: bool = False
    on_answer: AnswerObserver | None = None
    sampler: Sampler | None = None


class ObserverSet(NamedTuple):
    """Observers at one moment.

    Parameters
    ----------
    observers
        All of them; empty if nothing is observed.
    of_starts
        Those that want `CallStarted` and `RequestStarted` too, which are not made for the others.
    of_answers
        Those that are told of an answer in place of events.
    samplers
        Choose the calls that an observer wants the events of.
    reduced
        The observers of a call that all samplers skip; ``None`` if an observer wants the events of all calls.
    """

    observers: tuple[Observer, ...] = ()
    of_starts: tuple[Observer, ...] = ()
    of_answers: tuple[AnswerObserver, ...] = ()
    samplers: tuple[Sampler, ...] = ()
    reduced: ObserverSet | None = None

    @classmethod
    def of(cls, subscriptions: Sequence[Subscription]) -> ObserverSet:
        """Return the observers of subscriptions.

        Examples
        --------
        >>> ObserverSet.of([Subscription(print), Subscription(repr, starts=True)]).observers
        (<built-in function print>, <built-in function repr>)
        """
        answered = [each for each in subscriptions if each.on_answer is not None]
        reduced = cls(
            observers=tuple([each.observer for each in answered]),
            of_answers=tuple([each.on_answer for each in answered if each.on_answer is not None]),
        )
        takes_all = [each for each in subscriptions if each.on_answer is None and each.sampler is None]
        return cls(
            observers=tuple([each.observer for each in subscriptions]),
            of_starts=tuple([each.observer for each in subscriptions if each.starts]),
            samplers=tuple([each.sampler for each in subscriptions if each.sampler is not None]),
            reduced=None if takes_all else reduced,
        )


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
    is_reduced
        Whether requests that succeed make no event: the answer tells the same (see `CallObservation`).
    """

    call_id: int
    active: ObserverSet
    requests_sent: int = 0
    trace_id: str = ""
    next_request: ObservedRequest | None = None
    is_reduced: bool = False


ObservedRequest: TypeAlias = tuple[ObservedCall, int, int]
"""A request of an observed call: the call, the number of the request, and when it was sent."""

OBSERVED_CALL: Final[ContextVar[ObservedCall | None]] = ContextVar("llmhub_observed_call", default=None)


def is_within_observed_call() -> bool:
    """Return whether the current task works for an observed call, which a call it makes is part of."""
    observed = OBSERVED_CALL.get()
    return observed is not None and not observed.is_reduced


def emit(observers: Sequence[Observer], event: Event) -> None:
    """Pass an event to observers. The exception of one is logged and reaches neither the call nor the others."""
    for observer in observers:
        try:
            observer(event)
        except Exception:
            LOGGER.exception("an observer failed")


def emit_wait(call: Call, reason: WaitReason, duration_ns: int) -> None:
    """Emit the wait of the call that the current task works for, if it is observed and the wait took time."""
    observed = OBSERVED_CALL.get()
    if observed is not None and duration_ns >= MIN_WAIT_NS:
        end = time.time_ns()
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
        queue_ns = _queue_ns(context) if context is not None else 0
        ended_ns, trace_id = time.time_ns(), observed.trace_id
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
            if not active.observers or is_within_observed_call():
                return send(call)
            if active.reduced is not None and all(sampler()() for sampler in active.samplers):
                active = active.reduced
            return observe_call(active, call, partial(send, call), _itself) if active.observers else send(call)

        return send_or_observe

    return wrap


class CallObservation:
    """Observes the calls that a task sends, one after another, such as those of a run's worker.

    A call that its first request answered makes no events if no observer wants them: observers are told of the answer,
    from which they learn the same. This must only be used where a call sends one request at a time and its answer is
    that of the last one, so without middleware of the user and without routes.

    Parameters
    ----------
    observers
        Returns who is told; ``None`` if the calls are observed elsewhere.
    context
        The context of the task.
    """

    __slots__ = ("_active", "_call", "_context", "_may_reduce", "_observed", "_observers", "_skips", "_started_ns")

    def __init__(self, observers: Observers | None, context: SendContext) -> None:
        self._context = context
        self._call: Call | None = None
        self._started_ns = 0
        self._observed = ObservedCall(0, NO_OBSERVERS, is_reduced=True)
        self._observers = observers
        self._active = NO_OBSERVERS
        self._skips: tuple[Skips, ...] = ()
        # The metrics by team need the events of calls.
        self._may_reduce = not CALL_ORIGIN.get().team
        if observers is not None:
            OBSERVED_CALL.set(self._observed)

    def send(self, send: Send, call: Call) -> Awaitable[Answer]:
        """Send a call; `finish` must follow."""
        wanted = self.begin(call)
        return send(call) if wanted is None else observe_call(wanted, call, partial(send, call), _itself)

    def begin(self, call: Call) -> ObserverSet | None:
        """Return the observers that want the events of a call, for `observe_call`; if none do, `finish` must follow."""
        if self._observers is None:
            return None
        active = self._observers()
        if active is not self._active:
            if self._skips:
                OUTGOING_HEADERS.set(None)  # those of a sampler that is gone
            self._active, self._skips = active, tuple([sampler() for sampler in active.samplers])
            self._observed.active = NO_OBSERVERS
        if not active.observers:
            return None
        if active.reduced is None or not self._may_reduce:
            return active
        for skips in self._skips:
            if not skips():
                return active
        observed = self._observed
        observed.active = active.reduced
        if active.reduced.observers:
            observed.call_id, observed.requests_sent = next(_CALL_IDS), 0
            self._call, self._started_ns = call, time.time_ns()
        return None

    def finish(self, answer: Answer | None) -> None:
        """Pass the answer to the observers; ``None`` if the call was cancelled or ended by an exception."""
        call = self._call
        if call is None:
            return
        self._call = None
        if answer is None or not is_answered_at_once(answer):
            self._emit(call, answer)
            return
        queue_s = self._context.queue_s
        for on_answer in self._observed.active.of_answers:
            try:
                on_answer(call, answer, queue_s)
            except Exception:
                LOGGER.exception("an observer failed")

    def _emit(self, call: Call, answer: Answer | None) -> None:
        """Emit the request that succeeded after others, if one did, and the end of the call."""
        observed, context, now = self._observed, self._context, time.time_ns()
        if answer is not None and type(answer.outcome) is Success and not answer.cache_hit:
            began = now - int((answer.latency_s or 0.0) * NS_PER_S)
            finish_request((observed, observed.requests_sent, began), call, answer)
        emit(
            observed.active.observers,
            CallFinished(
                observed.call_id, call, answer, self._started_ns, now, CALL_ORIGIN.get(), context.run_id, "",
                _queue_ns(context),
            ),
        )  # fmt: skip


def _queue_ns(context: SendContext) -> int:
    """Return how long the worker's call had waited for it, 0 if that took no time."""
    queue_ns = int(context.queue_s * NS_PER_S)
    return queue_ns if queue_ns >= MIN_WAIT_NS else 0


def is_answered_at_once(answer: Answer) -> bool:
    """Return whether the first request of a call was successful, at the target that the caller named."""
    return (
        type(answer.outcome) is Success
        and answer.attempts == 1
        and answer.target is None
        and not (answer.cache_hit or answer.billed_failures)
    )


def request_middleware(send: Send) -> Send:
    """Emit the start of each HTTP request of an observed call.

    The transport emits its end (`finish_request`): one coroutine less around every request.
    """

    def send_or_observe(call: Call) -> Awaitable[Answer]:
        observed = OBSERVED_CALL.get()
        if observed is None:
            return send(call)
        observed.requests_sent = number = observed.requests_sent + 1
        if observed.is_reduced:
            return send(call)
        request = (observed, number, time.time_ns())
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


def finish_failed_request(
    request: ObservedRequest | None, call: Call, answer: Answer | None, started_at: float
) -> None:
    """Emit the end of a request that failed or was cancelled, in any observed call; ``started_at`` in epoch seconds."""
    if request is None:
        observed = OBSERVED_CALL.get()
        if observed is None or not observed.is_reduced:
            return
        request = (observed, observed.requests_sent, int(started_at * NS_PER_S))
    finish_request(request, call, answer)


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
