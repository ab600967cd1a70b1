"""The metrics of llmhub as a table, the measurements that an event yields, and the bound on label values. Pure.

Names follow Prometheus (https://prometheus.io/docs/practices/naming/, read 2026-11-30); the bounds of histograms are
those that the semantic conventions of OpenTelemetry advise for generative AI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from returns.result import Success

from llmhub.core.errors import error_type_name
from llmhub.core.pricing import Price, compute_cost_nano_usd
from llmhub.core.types import Usage
from llmhub.engine.call import Answer, Target
from llmhub.engine.decision_log import Decision
from llmhub.engine.observer import MIN_WAIT_NS, NS_PER_S, CacheHits, CallFinished, Event, RequestFinished, Waited

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
OK: Final = ("ok", "")
CACHED: Final = ("cached", "")
CANCELLED: Final = ("cancelled", "Cancelled")
"""Status and type of error of calls that did not fail."""
TOKEN_KINDS: Final = ("input", "cached_input", "cache_write", "output", "reasoning")
"""Types of tokens, which do not overlap."""
USERS_ERRORS: Final = frozenset({
    "InvalidRequest", "Unsupported", "AuthFailed", "PermissionDenied", "NotFound", "BudgetExceeded", "Cancelled",
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
    """Values of an instrument: the increment of a counter, the state of a gauge, or observations of a histogram.

    Counters and gauges have one value.
    """

    instrument: Instrument
    labels: LabelValues
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsCollector:
    """Where measurements go: the form of a plugin of the entry-point group ``llmhub.metrics``.

    Parameters
    ----------
    name
        Name for messages.
    record
        Called with measurements of counters and histograms, in a thread, several times a second. Gauges are read with
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


MIN_WAIT_S: Final = MIN_WAIT_NS / NS_PER_S
AnsweredCall: TypeAlias = tuple[Target, float | None, float | None, float | None, float, Usage, str]
"""Of a call that its first request answered: the target, the seconds of the call, of the request, to the first token
and in the queue of a run, the tokens, and the model that served it."""


class ModelTotals:
    """Sums over the events of one model since the last measurements were taken."""

    __slots__ = (
        "cache_write",
        "cached_input",
        "calls",
        "cost_nano_usd",
        "exists",
        "first_token_s",
        "hits",
        "input",
        "misses",
        "output",
        "reasoning",
        "request_s",
        "requests",
        "retries",
        "unpriced",
    )  # fmt: skip

    def __init__(self) -> None:
        self.exists = False
        self.calls: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.request_s: list[float] = []
        self.first_token_s: list[float] = []
        self.input = self.cached_input = self.cache_write = self.output = self.reasoning = 0
        self.cost_nano_usd = self.unpriced = self.hits = self.misses = 0

    def add_usage(self, usage: Usage) -> None:
        """Add the tokens of a response, by classes that do not overlap."""
        read, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
        reasoning = usage.reasoning_tokens or 0
        uncached = (usage.input_tokens or 0) - read - written
        if uncached > 0:
            self.input += uncached
        visible = (usage.output_tokens or 0) - reasoning
        if visible > 0:
            self.output += visible
        if read or written or reasoning:
            self.cached_input += read
            self.cache_write += written
            self.reasoning += reasoning

    def measurements(self, model: tuple[str, str]) -> Iterator[Measurement]:
        """Yield the sums as measurements."""
        for instrument, outcomes in ((CALLS, self.calls), (REQUESTS, self.requests)):
            for outcome, number in outcomes.items():
                yield Measurement(instrument, (*model, *outcome), (number,))
        for error_type, number in self.retries.items():
            yield Measurement(RETRIES, (*model, error_type), (number,))
        for kind in TOKEN_KINDS:
            if tokens := getattr(self, kind):
                yield Measurement(TOKENS, (*model, kind), (tokens,))
        cost_usd = self.cost_nano_usd * NANO
        for instrument, total in (
            (COST, cost_usd), (UNPRICED, self.unpriced), (CACHE_HITS, self.hits), (CACHE_MISSES, self.misses),
        ):  # fmt: skip
            if total:
                yield Measurement(instrument, model, (total,))
        if self.request_s:
            yield Measurement(REQUEST_DURATION, model, tuple(self.request_s))
        if self.first_token_s:
            yield Measurement(FIRST_TOKEN, model, tuple(self.first_token_s))


class EventTotals:
    """Sums over events; `take` returns them as measurements, with labels as they come (see `LabelLimiter`).

    Adding an event takes a microsecond or two; the rest is done once for many of them.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.models: dict[tuple[str, str], ModelTotals] = {}
        self._by_target: dict[int, tuple[Target, ModelTotals]] = {}
        self._call_s: dict[str, list[float]] = {}
        self._waits: dict[tuple[str, str], list[float]] = {}
        self._decisions: Counter[tuple[str, str]] = Counter()
        self._team_calls: Counter[tuple[str, str]] = Counter()
        self._team_tokens: Counter[tuple[str, str]] = Counter()
        self._team_cost: Counter[str] = Counter()

    def add(self, event: Event, cost_nano_usd: int | None) -> None:
        """Add an event; the cost is that of a finished call."""
        kind = type(event)
        if kind is RequestFinished:
            self._add_request(cast("RequestFinished", event))
        elif kind is CallFinished:
            self._add_call(cast("CallFinished", event), cost_nano_usd)
        elif kind is Waited:
            waited = cast("Waited", event)
            self._add_wait(waited.call.target.provider.name, waited.reason, waited.ended_ns - waited.started_ns)
        elif kind is CacheHits:
            target, rows = cast("CacheHits", event)
            totals = self._model(target)
            totals.exists = True
            totals.calls[CACHED] += rows
            totals.hits += rows
        elif kind is Decision:
            self._add_decision(cast("Decision", event))

    def add_answers(self, answers: Iterable[AnsweredCall], prices: Mapping[tuple[int, str], Price | None]) -> None:
        """Add calls that their first request answered, without a team.

        ``prices`` are by the identity of the target and the model that served the call.
        """
        groups: dict[tuple[int, str], list[AnsweredCall]] = {}
        for answer in answers:
            groups.setdefault((id(answer[0]), answer[6]), []).append(answer)
        for group, rows in groups.items():
            target = rows[0][0]
            totals, provider = self._model(target), target.provider.name
            totals.exists = True
            totals.calls[OK] += len(rows)
            totals.requests[OK] += len(rows)
            totals.misses += len(rows)
            self._durations(provider).extend([row[1] for row in rows if row[1] is not None])
            totals.request_s.extend([row[2] for row in rows if row[2] is not None])
            totals.first_token_s.extend([row[3] for row in rows if row[3] is not None])
            if waits := [row[4] for row in rows if row[4] >= MIN_WAIT_S]:
                self._waits.setdefault((provider, "queue"), []).extend(waits)
            price = prices[group]
            for row in rows:
                cost = compute_cost_nano_usd(row[5], price)
                if cost is None:
                    totals.unpriced += 1
                else:
                    totals.cost_nano_usd += cost
                totals.add_usage(row[5])

    def _durations(self, provider: str) -> list[float]:
        """Return the seconds of the calls to a provider."""
        durations = self._call_s.get(provider)
        if durations is None:
            durations = self._call_s[provider] = []
        return durations

    def take(self) -> Iterator[Measurement]:
        """Yield the measurements since the last time, and reset the sums."""
        for model, totals in self.models.items():
            yield from totals.measurements(model)
        for provider, call_s in self._call_s.items():
            yield Measurement(CALL_DURATION, (provider,), tuple(call_s))
        for labels, seconds in self._waits.items():
            yield Measurement(WAITS, labels, (len(seconds),))
            yield Measurement(WAIT_TIME, labels, (sum(seconds),))
        for labels, number in self._decisions.items():
            yield Measurement(DECISIONS, labels, (number,))
        for labels, number in self._team_calls.items():
            yield Measurement(TEAM_CALLS, labels, (number,))
        for labels, number in self._team_tokens.items():
            yield Measurement(TEAM_TOKENS, labels, (number,))
        for team, cost in self._team_cost.items():
            yield Measurement(TEAM_COST, (team,), (cost * NANO,))
        self._clear()

    def _model(self, target: Target) -> ModelTotals:
        known = self._by_target.get(id(target))
        if known is not None:
            return known[1]
        totals = self.models.setdefault((target.provider.name, target.model), ModelTotals())
        # The target is kept, so that no other one gets its id.
        self._by_target[id(target)] = target, totals
        return totals

    def _add_request(self, event: RequestFinished) -> None:
        _, _, call, answer, started_ns, ended_ns = event
        totals = self._model(call.target)
        outcome = outcome_labels(answer)
        totals.requests[outcome] += 1
        if not totals.exists and outcome[1] not in USERS_ERRORS:
            totals.exists = True
        totals.request_s.append((ended_ns - started_ns) / NS_PER_S)
        if answer is not None and answer.ttft_s is not None:
            totals.first_token_s.append(answer.ttft_s)

    def _add_call(self, event: CallFinished, cost_nano_usd: int | None) -> None:
        _, call, answer, started_ns, ended_ns, origin, *_ = event
        target, team = call.target, origin.team
        if answer is not None and answer.target is not None:
            target = answer.target
        totals, outcome = self._model(target), outcome_labels(answer)
        provider = target.provider.name
        totals.calls[outcome] += 1
        if not totals.exists and outcome[1] not in USERS_ERRORS:
            totals.exists = True
        self._durations(provider).append((ended_ns - started_ns) / NS_PER_S)
        if event.queue_ns:
            self._add_wait(provider, "queue", event.queue_ns)
        if team:
            self._team_calls[team, outcome[0]] += 1
        if answer is not None and answer.cache_hit:
            totals.hits += 1
        elif answer is not None:
            self._add_answer(totals, team, answer, cost_nano_usd)

    def _add_answer(self, totals: ModelTotals, team: str, answer: Answer, cost_nano_usd: int | None) -> None:
        """Add the tokens and the cost of a call that was sent."""
        totals.misses += 1
        if cost_nano_usd is None:
            totals.unpriced += 1
        else:
            totals.cost_nano_usd += cost_nano_usd
        usages = [failure.usage for failure in answer.billed_failures]
        if type(answer.outcome) is Success:
            usages.append(answer.outcome.unwrap().usage)
        for usage in usages:
            totals.add_usage(usage)
        if team:
            self._add_team(team, usages, cost_nano_usd)

    def _add_team(self, team: str, usages: Iterable[Usage], cost_nano_usd: int | None) -> None:
        self._team_cost[team] += cost_nano_usd or 0
        for usage in usages:
            self._team_tokens[team, "input"] += usage.input_tokens or 0
            self._team_tokens[team, "output"] += usage.output_tokens or 0

    def _add_wait(self, provider: str, reason: str, duration_ns: int) -> None:
        self._waits.setdefault((provider, reason), []).append(duration_ns / NS_PER_S)

    def _add_decision(self, decision: Decision) -> None:
        provider, _, model = decision.target.partition("/")
        self._decisions[provider, decision.kind] += 1
        if decision.kind == "retry":
            totals = self.models.setdefault((provider, model), ModelTotals())
            totals.retries[decision.detail] += 1


def outcome_labels(answer: Answer | None) -> tuple[str, str]:
    """Return the status and the type of the error of an answer.

    Examples
    --------
    >>> outcome_labels(None)
    ('cancelled', 'Cancelled')
    """
    if answer is None:
        return CANCELLED
    if type(answer.outcome) is Success:
        return CACHED if answer.cache_hit else OK
    error_type = error_type_name(answer.outcome.failure())
    return ("cancelled" if error_type == "Cancelled" else "error"), error_type


class LabelLimiter:
    """Replaces label values so that a process has at most `MAX_SERIES` time series.

    A model has labels of its own from its first successful response, or a failure that is not the caller's, until the
    series are used up; other models, and teams beyond them, are `OTHER`. Use it in one thread at a time.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._free = max_series - RESERVED_SERIES
        self._max_models = max_series
        self._known: set[tuple[str, LabelValues]] = set()
        self._models: set[tuple[str, str]] = set()

    def admit(self, model: tuple[str, str]) -> None:
        """Note that a model exists."""
        if len(self._models) < self._max_models:
            self._models.add(model)

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
