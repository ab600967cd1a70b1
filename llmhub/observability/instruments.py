"""The metrics of llmhub as a table, the measurements that an event yields, and the bound on label values. Pure.

Names follow Prometheus (https://prometheus.io/docs/practices/naming/, read 2026-11-30); the bounds of histograms are
those that the semantic conventions of OpenTelemetry advise for generative AI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from returns.pipeline import is_successful

from llmhub.core.errors import (
    AuthFailed,
    BudgetExceeded,
    Cancelled,
    InvalidRequest,
    LLMError,
    NotFound,
    PermissionDenied,
    Unsupported,
    error_type_name,
)
from llmhub.core.types import Usage
from llmhub.engine.call import Answer, Target
from llmhub.engine.decision_log import Decision
from llmhub.engine.observer import NS_PER_S, CacheHits, CallFinished, Event, RequestFinished, Waited

InstrumentKind: TypeAlias = Literal["counter", "histogram", "gauge"]
LabelValues: TypeAlias = tuple[str, ...]

SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds of histograms of durations."""
OTHER: Final = "other"
"""Label of models and teams that have no label of their own."""
MAX_SERIES: Final = 2000
"""Most time series of one process."""
RESERVED_SERIES: Final = 400
"""Those of them that are kept for `OTHER` and for gauges."""
NANO: Final = 1e-9
USERS_ERRORS: Final[frozenset[type[LLMError]]] = frozenset({
    InvalidRequest, Unsupported, AuthFailed, PermissionDenied, NotFound, BudgetExceeded, Cancelled,
})  # fmt: skip
"""Errors that any name of a model may cause, so that they give it no label of its own."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A metric.

    Parameters
    ----------
    name
        Name, without the ``_total`` of counters.
    kind
        Counter, histogram or gauge.
    description
        What is measured.
    labels
        Names of the labels.
    bounds
        Upper bounds of a histogram's buckets.
    """

    name: str
    kind: InstrumentKind
    description: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Time series of one set of label values."""
        return len(self.bounds) + 3 if self.kind == "histogram" else 1


class Measurement(NamedTuple):
    """A value of an instrument: an increment of a counter, one observation of a histogram, the state of a gauge."""

    instrument: Instrument
    labels: LabelValues
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsCollector:
    """Where measurements go: the form of a plugin of the entry-point group ``llmhub.metrics``.

    Parameters
    ----------
    name
        Name for messages.
    record
        Called with each measurement of a counter or histogram, in a thread, one at a time. Gauges are read with
        `llmhub.observability.metrics.read_state`.
    close
        Called when the collector is no longer used.

    Examples
    --------
    >>> seen = []
    >>> MetricsCollector(name="list", record=seen.append).name
    'list'
    """

    name: str
    record: Callable[[Measurement], None]
    close: Callable[[], None] = lambda: None


MODEL: Final = ("provider", "model")
OUTCOME: Final = (*MODEL, "status", "error_type")
WAIT: Final = ("provider", "reason")

CALLS: Final = Instrument("llmhub_calls", "counter", "Calls by outcome; one answered by the cache is cached.", OUTCOME)
REQUESTS: Final = Instrument("llmhub_requests", "counter", "HTTP requests by outcome, retries included.", OUTCOME)
CALL_DURATION: Final = Instrument(
    "llmhub_call_duration_seconds", "histogram", "Time of a call, waits and retries included.", ("provider",), SECONDS
)
REQUEST_DURATION: Final = Instrument(
    "llmhub_request_duration_seconds", "histogram", "Time of an HTTP request.", MODEL, SECONDS
)
FIRST_TOKEN: Final = Instrument(
    "llmhub_time_to_first_token_seconds", "histogram", "Time to the first token of a streamed response.", MODEL, SECONDS
)
TOKENS: Final = Instrument(
    "llmhub_tokens",
    "counter",
    "Tokens of responses by disjoint types: input, cached_input, cache_write, output, reasoning.",
    (*MODEL, "type"),
)
COST: Final = Instrument("llmhub_cost_usd", "counter", "Cost of calls in US dollars.", MODEL)
UNPRICED: Final = Instrument("llmhub_unpriced_calls", "counter", "Answered calls whose cost is unknown.", MODEL)
CACHE_HITS: Final = Instrument("llmhub_cache_hits", "counter", "Rows and calls answered without a request.", MODEL)
CACHE_MISSES: Final = Instrument("llmhub_cache_misses", "counter", "Calls that had to be sent.", MODEL)
WAITS: Final = Instrument("llmhub_waits", "counter", "Waits by reason: queue, cache, limit, retry.", WAIT)
WAIT_TIME: Final = Instrument("llmhub_wait_seconds", "counter", "Time that calls have waited, by reason.", WAIT)
RETRIES: Final = Instrument(
    "llmhub_retries", "counter", "Retries by the error that caused them.", (*MODEL, "error_type")
)
DECISIONS: Final = Instrument(
    "llmhub_decisions",
    "counter",
    "Decisions of the engine: retry, fallback, hedge, pause, circuit, ...",
    ("provider", "kind"),
)
TEAM_CALLS: Final = Instrument("llmhub_team_calls", "counter", "Calls by team.", ("team", "status"))
TEAM_COST: Final = Instrument("llmhub_team_cost_usd", "counter", "Cost of calls by team in US dollars.", ("team",))
TEAM_TOKENS: Final = Instrument("llmhub_team_tokens", "counter", "Input and output tokens by team.", ("team", "type"))
FOLDED: Final = Instrument("llmhub_folded_labels", "counter", "Measurements whose labels were replaced by 'other'.")
IN_FLIGHT: Final = Instrument("llmhub_requests_in_flight", "gauge", "Requests sent and not answered.", ("provider",))
WAITING: Final = Instrument("llmhub_calls_waiting", "gauge", "Calls waiting for a rate limit.", ("provider",))
QUEUED: Final = Instrument("llmhub_rows_queued", "gauge", "Rows of runs that have not been started.")
CIRCUIT: Final = Instrument(
    "llmhub_circuit_state", "gauge", "Circuit breaker: 0 healthy, 1 degraded, 2 unhealthy (open).", ("provider",)
)
BUDGET_LIMIT: Final = Instrument("llmhub_budget_limit_usd", "gauge", "Budget in US dollars.", ("budget",))
BUDGET_SPENT: Final = Instrument("llmhub_budget_spent_usd", "gauge", "Spent of the budget.", ("budget",))
BUDGET_LEFT: Final = Instrument("llmhub_budget_remaining_usd", "gauge", "Neither spent nor reserved.", ("budget",))

INSTRUMENTS: Final = (
    CALLS, REQUESTS, CALL_DURATION, REQUEST_DURATION, FIRST_TOKEN, TOKENS, COST, UNPRICED, CACHE_HITS, CACHE_MISSES,
    WAITS, WAIT_TIME, RETRIES, DECISIONS, TEAM_CALLS, TEAM_COST, TEAM_TOKENS, FOLDED, IN_FLIGHT, WAITING, QUEUED,
    CIRCUIT, BUDGET_LIMIT, BUDGET_SPENT, BUDGET_LEFT,
)  # fmt: skip
"""All metrics."""


def measurements(event: Event, cost_nano_usd: int | None) -> Iterator[Measurement]:
    """Yield the measurements of an event, with labels as they come (see `LabelLimiter`)."""
    match event:
        case RequestFinished(call=call, answer=answer):
            model = _model_labels(call.target)
            yield Measurement(REQUESTS, (*model, *outcome_labels(answer)), 1)
            yield Measurement(REQUEST_DURATION, model, (event.ended_ns - event.started_ns) / NS_PER_S)
            if answer is not None and answer.ttft_s is not None:
                yield Measurement(FIRST_TOKEN, model, answer.ttft_s)
        case CallFinished():
            yield from _call_measurements(event, cost_nano_usd)
        case Waited(call=call, reason=reason):
            labels = (call.target.provider.name, reason)
            yield Measurement(WAITS, labels, 1)
            yield Measurement(WAIT_TIME, labels, (event.ended_ns - event.started_ns) / NS_PER_S)
        case CacheHits(target, rows):
            model = _model_labels(target)
            yield Measurement(CALLS, (*model, "cached", ""), rows)
            yield Measurement(CACHE_HITS, model, rows)
        case Decision(kind=kind, target=name):
            provider, _, model_name = name.partition("/")
            yield Measurement(DECISIONS, (provider, kind), 1)
            if kind == "retry":
                yield Measurement(RETRIES, (provider, model_name, event.detail), 1)
        case _:
            pass


def _call_measurements(event: CallFinished, cost_nano_usd: int | None) -> Iterator[Measurement]:
    answer, target = event.answer, event.call.target
    if answer is not None and answer.target is not None:
        target = answer.target
    model, (status, error_type) = _model_labels(target), outcome_labels(answer)
    yield Measurement(CALLS, (*model, status, error_type), 1)
    yield Measurement(CALL_DURATION, model[:1], (event.ended_ns - event.started_ns) / NS_PER_S)
    if event.origin.team:
        yield Measurement(TEAM_CALLS, (event.origin.team, status), 1)
    if answer is None:
        return
    if answer.cache_hit:
        yield Measurement(CACHE_HITS, model, 1)
        return
    yield Measurement(CACHE_MISSES, model, 1)
    usages = [failure.usage for failure in answer.billed_failures]
    if is_successful(answer.outcome):
        usages.append(answer.outcome.unwrap().usage)
    yield from _usage_measurements(usages, model, event.origin.team)
    if cost_nano_usd is None:
        yield Measurement(UNPRICED, model, 1)
        return
    yield Measurement(COST, model, cost_nano_usd * NANO)
    if event.origin.team:
        yield Measurement(TEAM_COST, (event.origin.team,), cost_nano_usd * NANO)


def _usage_measurements(usages: Iterable[Usage], model: tuple[str, str], team: str) -> Iterator[Measurement]:
    for usage in usages:
        for kind, tokens in disjoint_tokens(usage):
            yield Measurement(TOKENS, (*model, kind), tokens)
        if team:
            yield Measurement(TEAM_TOKENS, (team, "input"), usage.input_tokens or 0)
            yield Measurement(TEAM_TOKENS, (team, "output"), usage.output_tokens or 0)


def _model_labels(target: Target) -> tuple[str, str]:
    return target.provider.name, target.model


def outcome_labels(answer: Answer | None) -> tuple[str, str]:
    """Return the status and the type of the error of an answer.

    Examples
    --------
    >>> outcome_labels(None)
    ('cancelled', 'Cancelled')
    """
    if answer is None:
        return "cancelled", "Cancelled"
    if is_successful(answer.outcome):
        return ("cached" if answer.cache_hit else "ok"), ""
    error_type = error_type_name(answer.outcome.failure())
    return ("cancelled" if error_type == "Cancelled" else "error"), error_type


def disjoint_tokens(usage: Usage) -> Iterator[tuple[str, int]]:
    """Yield the tokens of a response by types that do not overlap, without those that are 0.

    Examples
    --------
    >>> dict(disjoint_tokens(Usage(input_tokens=10, cached_input_tokens=4, output_tokens=3)))
    {'input': 6, 'cached_input': 4, 'output': 3}
    """
    read, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    reasoning = usage.reasoning_tokens or 0
    for kind, tokens in (
        ("input", (usage.input_tokens or 0) - read - written),
        ("cached_input", read),
        ("cache_write", written),
        ("output", (usage.output_tokens or 0) - reasoning),
        ("reasoning", reasoning),
    ):
        if tokens > 0:
            yield kind, tokens


class LabelLimiter:
    """Replaces label values so that a process has at most `MAX_SERIES` time series.

    A model has labels of its own from its first successful response, or a failure that is not the caller's, until the
    series are used up; other models, and teams beyond them, are `OTHER`. Use it in one thread at a time.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._free = max_series - RESERVED_SERIES
        self._known: set[tuple[str, LabelValues]] = set()
        self._models: set[tuple[str, str]] = set()

    def admit_models(self, event: Event) -> None:
        """Note the model of an answered call, and that it exists."""
        match event:
            case RequestFinished(call=call, answer=answer) | CallFinished(call=call, answer=answer):
                if answer is None:
                    return
                if is_successful(answer.outcome) or type(answer.outcome.failure()) not in USERS_ERRORS:
                    self._models.add(_model_labels(answer.target or call.target))
            case CacheHits(target, _):
                self._models.add(_model_labels(target))
            case _:
                pass

    def close(self, measurement: Measurement) -> Measurement:
        """Return the measurement with labels of closed sets."""
        instrument, labels, _ = measurement
        if not labels or (instrument.name, labels) in self._known:
            return measurement
        has_model = instrument.labels[:2] == MODEL
        if (not has_model or labels[:2] in self._models) and self._free >= instrument.width:
            self._free -= instrument.width
            self._known.add((instrument.name, labels))
            return measurement
        if has_model:
            return measurement._replace(labels=(OTHER, OTHER, *labels[2:]))
        return measurement._replace(labels=(OTHER, *labels[1:]))
