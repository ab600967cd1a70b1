"""Metrics of calls: for Prometheus, by a page or a push gateway, and for collectors of plugins.

Events become measurements in a thread (`llmhub.observability.dispatcher`); labels are closed before any collector sees
them (`llmhub.observability.instruments`). The state of hubs (calls in flight, circuits, budgets) is read when the
metrics are.

Examples
--------
>>> with start_http_server(port=0) as server:
...     page = server.collector.render()
>>> b"llmhub_build_info" in page
True
"""

from __future__ import annotations

import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from llmhub.core.budget import nano_to_usd
from llmhub.core.optional_imports import import_optional, require_optional
from llmhub.core.pricing import Price
from llmhub.engine.call import Answer, Call
from llmhub.engine.circuit_breaker import HEALTH_ORDER
from llmhub.engine.observer import Subscription
from llmhub.engine.runtime import Runtime, open_runtimes
from llmhub.observability.dispatcher import MAX_QUEUED, Dispatcher
from llmhub.observability.instruments import (
    BUDGET_LEFT,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    CIRCUIT,
    FOLDED,
    IN_FLIGHT,
    INSTRUMENTS,
    QUEUED,
    WAITING,
    AnsweredCall,
    EventTotals,
    Instrument,
    LabelLimiter,
    LabelValues,
    Measurement,
    MetricsCollector,
)
from llmhub.observability.subscriptions import subscribe

if TYPE_CHECKING:
    from llmhub.observability.metrics_server import MetricsServer

__all__ = [
    "CONTENT_TYPE",
    "Instrument",
    "Measurement",
    "MetricsCollector",
    "PrometheusCollector",
    "collect",
    "pushing",
    "read_state",
    "start_http_server",
]

DEFAULT_PORT: Final = 9464
"""Port that OpenTelemetry assigns to the Prometheus exporter."""
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `PrometheusCollector.render`."""
LABELS_PER_FAMILY: Final = 2
"""Sets of labels that are formatted between two pauses: up to 32 time series, in about a third of a millisecond."""
ROWS_PER_SLICE: Final = 150
"""Calls that are added to the totals between two pauses."""
LABELS_PER_SLICE: Final = 10
"""Sets of labels collected between two pauses."""
PAUSE_S: Final = 0.0001
"""Length of a pause, in which the thread of the event loop runs."""
MAX_GAUGE_LABELS: Final = 40
"""Providers and budgets with gauges of their own."""
PUSH_INTERVAL_S: Final = 15.0


class _HasCollector(Protocol):
    """Anything with a `MetricsCollector`, such as a `PrometheusCollector`."""

    @property
    def collector(self) -> MetricsCollector:
        """The record."""


class _Pipeline:
    """Sums events and passes the sums to collectors, as measurements with closed labels."""

    def __init__(self, collectors: Sequence[MetricsCollector]) -> None:
        self._collectors = tuple(collectors)
        self._limiter = LabelLimiter()
        self.totals = EventTotals()

    def pass_on(self) -> None:
        """Pass on the measurements since the last time."""
        for model, sums in self.totals.models.items():
            if sums.exists:
                self._limiter.admit(model)
        for measurement in self.totals.take():
            closed = self._limiter.close(measurement)
            for collector in self._collectors:
                collector.record(closed)
                if closed is not measurement:
                    collector.record(Measurement(FOLDED, (), (1,)))


class _MetricsDispatcher(Dispatcher):
    """Passes what is measured of events to a thread, and there to collectors.

    Of calls that their first request answered, which are nearly all, only the figures are kept, as tuples in a list:
    events hold responses, whose memory two threads would share.
    """

    def __init__(self, collectors: Sequence[MetricsCollector]) -> None:
        self._pipeline = _Pipeline(collectors)
        super().__init__(self._pipeline.totals.add, self._fold)

    def _reset(self) -> None:
        super()._reset()
        self._answers: list[AnsweredCall] = []

    @property
    def subscription(self) -> Subscription:
        """The arguments to subscribe it with."""
        return Subscription(self, on_answer=self.add_answer)

    def add_answer(self, call: Call, answer: Answer, queue_s: float) -> None:
        """Keep the figures of a call that its first request answered."""
        response = answer.outcome.unwrap()
        self._answers.append(
            (
                call.target,
                answer.total_s,
                answer.latency_s,
                answer.ttft_s,
                queue_s,
                response.usage,
                response.served_model,
            )
        )
        if self._thread is None:
            self._start()
        elif len(self._answers) > MAX_QUEUED:
            self.flush()

    def _fold(self) -> None:
        """Add the figures to the totals, a few at a time, and pass the totals on."""
        totals = self._pipeline.totals
        prices: dict[tuple[int, str], Price | None] = {}
        answers = self._answers
        for start in range(0, number := len(answers), ROWS_PER_SLICE):
            rows = answers[start : min(start + ROWS_PER_SLICE, number)]
            for target, *_, served_model in rows:
                if (id(target), served_model) not in prices:
                    prices[id(target), served_model] = self._prices.lookup(target, served_model)
            totals.add_answers(rows, prices)
            time.sleep(PAUSE_S)
        del answers[:number]
        self._pipeline.pass_on()


def metrics_dispatcher(collectors: Sequence[MetricsCollector]) -> _MetricsDispatcher:
    """Return an observer that passes measurements to collectors."""
    return _MetricsDispatcher(collectors)


def collect(collector: MetricsCollector | _HasCollector) -> Callable[[], None]:
    """Pass the measurements of every hub of this process to a collector; return the function that ends it.

    Examples
    --------
    >>> seen = []
    >>> stop = collect(MetricsCollector(name="list", record=seen.append))
    >>> stop()
    """
    record = collector if isinstance(collector, MetricsCollector) else collector.collector
    dispatcher = metrics_dispatcher((record,))
    if isinstance(collector, PrometheusCollector):
        collector.before_reading = dispatcher.flush
    unsubscribe = subscribe(dispatcher, starts=False, on_answer=dispatcher.add_answer)

    def stop() -> None:
        unsubscribe()
        dispatcher.close()
        record.close()

    return stop


def read_state(runtimes: Iterable[Runtime] | None = None) -> Iterator[Measurement]:
    """Yield the gauges: calls in flight and waiting, queued rows, circuits and budgets of the open hubs."""
    in_flight: dict[str, float] = {}
    waiting: dict[str, float] = {}
    circuits: dict[str, float] = {}
    budgets: dict[str, tuple[int, int, int]] = {}
    queued = 0
    for runtime in open_runtimes() if runtimes is None else runtimes:
        state = runtime.state()
        if state is None:
            continue
        queued += state.queued
        for totals, counts in ((in_flight, state.in_flight), (waiting, state.waiting)):
            for provider, number in counts.items():
                totals[provider] = totals.get(provider, 0) + number
        for provider, health in state.circuits.items():
            circuits[provider] = max(circuits.get(provider, 0), HEALTH_ORDER.index(health))
        if runtime.shared_budget is not None:
            budget = runtime.shared_budget.budget
            limit, spent, reserved = budgets.get("hub", (0, 0, 0))
            budgets["hub"] = (limit + budget.limit, spent + budget.spent, reserved + budget.reserved)
    yield Measurement(QUEUED, (), (queued,))
    for instrument, values in ((IN_FLIGHT, in_flight), (WAITING, waiting), (CIRCUIT, circuits)):
        for provider in sorted(values)[:MAX_GAUGE_LABELS]:
            yield Measurement(instrument, (provider,), (values[provider],))
    for name, (limit, spent, reserved) in budgets.items():
        yield Measurement(BUDGET_LIMIT, (name,), (float(nano_to_usd(limit)),))
        yield Measurement(BUDGET_SPENT, (name,), (float(nano_to_usd(spent)),))
        yield Measurement(BUDGET_LEFT, (name,), (float(nano_to_usd(max(limit - spent - reserved, 0))),))


class PrometheusCollector:
    """Keeps measurements and gives them to ``prometheus_client``; needs the extra ``metrics``.

    Parameters
    ----------
    registry
        Registry to register with, such as ``prometheus_client.REGISTRY``; a new one if it is not given.

    Examples
    --------
    >>> collector = PrometheusCollector()
    >>> stop = collect(collector)
    >>> b"llmhub_rows_queued 0.0" in collector.render()
    True
    >>> stop()
    """

    def __init__(self, registry: Any = None) -> None:
        require_optional("prometheus_client", "metrics")
        self.before_reading: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._rendered_here = threading.local()
        self._values: dict[Instrument, dict[LabelValues, Any]] = {
            instrument: {} for instrument in INSTRUMENTS if instrument.kind != "gauge"
        }
        if registry is not None:
            self.registry = registry
            registry.register(self)

    @cached_property
    def registry(self) -> Any:
        """Return the registry that this collector is registered with."""
        registry = self._client.CollectorRegistry()
        registry.register(self)
        return registry

    @property
    def _client(self) -> Any:
        """The library, imported when the metrics are first read."""
        return import_optional("prometheus_client", "metrics")

    @property
    def collector(self) -> MetricsCollector:
        """The record that receives measurements."""
        return MetricsCollector(name="prometheus", record=self._record)

    def _record(self, measurement: Measurement) -> None:
        instrument, labels, values = measurement
        with self._lock:
            totals = self._values[instrument]
            if instrument.kind == "counter":
                totals[labels] = totals.get(labels, 0.0) + values[0]
                return
            histogram = totals.get(labels)
            if histogram is None:
                histogram = totals[labels] = [0.0, *[0] * (len(instrument.bounds) + 1)]
            histogram[0] += sum(values)
            if len(values) <= len(instrument.bounds):
                for value in values:
                    histogram[1 + bisect_left(instrument.bounds, value)] += 1
                return
            # Of many values, as a run of rows has, sorting finds the buckets faster than a search for each.
            ordered, below = sorted(values), 0
            for index, bound in enumerate(instrument.bounds, start=1):
                up_to = bisect_right(ordered, bound, below)
                histogram[index] += up_to - below
                below = up_to
            histogram[-1] += len(ordered) - below

    def describe(self) -> list[Any]:
        """Return nothing, so that a registry does not collect at once."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the metrics as ``prometheus_client`` keeps them."""
        if not getattr(self._rendered_here, "already", False):
            yield from self._read_families(sys.maxsize)

    def _read_families(self, max_labels: int) -> Iterator[Any]:
        """Yield the metrics, those with many labels in several families of at most ``max_labels`` sets each."""
        self.before_reading()
        families = import_optional("prometheus_client.core", "metrics")
        build = families.GaugeMetricFamily("llmhub_build_info", "Version of llmhub.", labels=("version",))
        build.add_metric((_version(),), 1)
        yield build
        with self._lock:
            copies = {
                instrument: [(labels, _copied(value)) for labels, value in values.items()]
                for instrument, values in self._values.items()
            }
        for instrument, values in copies.items():
            is_counter = instrument.kind == "counter"
            make = families.CounterMetricFamily if is_counter else families.HistogramMetricFamily
            for start in range(0, max(len(values), 1), max_labels):
                family = make(instrument.name, instrument.description, labels=instrument.labels)
                for index, (labels, value) in enumerate(values[start : start + max_labels]):
                    if index % LABELS_PER_SLICE == LABELS_PER_SLICE - 1:
                        time.sleep(PAUSE_S)
                    if is_counter:
                        family.add_metric(labels, value)
                    else:
                        family.add_metric(labels, list(_cumulative(instrument.bounds, value[1:])), value[0])
                yield family
        gauges = {
            instrument: families.GaugeMetricFamily(instrument.name, instrument.description, labels=instrument.labels)
            for instrument in INSTRUMENTS
            if instrument.kind == "gauge"
        }
        for instrument, labels, (value,) in read_state():
            gauges[instrument].add_metric(labels, value)
        yield from gauges.values()

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus. Call it in a thread, not on an event loop.

        The thread pauses after every few series: a thread that computes without a pause holds up the event loop for
        5 ms at a time. Few series exist at once: thousands of new objects would make Python scan all of the heap for
        garbage, which holds up every thread for longer.
        """
        pages: list[bytes] = []
        last_name = ""
        for family in self._read_families(LABELS_PER_FAMILY):
            text = self._client.generate_latest(_OneFamily(family))
            # Only the first of several families of a metric has the lines that describe it.
            pages.append(text if family.name != last_name else b"".join(_without_comments(text)))
            last_name = family.name
            time.sleep(PAUSE_S)
        self._rendered_here.already = True
        try:
            others = list(self.registry.collect())
        finally:
            self._rendered_here.already = False
        for family in others:
            pages.append(self._client.generate_latest(_OneFamily(family)))
            time.sleep(PAUSE_S)
        return b"".join(pages)


@dataclass(frozen=True, slots=True)
class _OneFamily:
    """A registry of one metric."""

    family: Any

    def collect(self) -> list[Any]:
        return [self.family]


def _without_comments(text: bytes) -> Iterator[bytes]:
    return (line for line in text.splitlines(keepends=True) if not line.startswith(b"#"))


def _copied(value: Any) -> Any:
    return value if isinstance(value, float) else list(value)


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the buckets of a histogram: upper bound, and number of values up to it."""
    total = 0
    for bound, number in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += number
        yield bound, total


def _version() -> str:
    try:
        return version("llmhub")
    except PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def start_http_server(
    port: int = DEFAULT_PORT, address: str = "127.0.0.1", *, collector: PrometheusCollector | None = None
) -> MetricsServer:
    """Serve the metrics of this process to Prometheus, from a notebook or a script. Needs the extra ``metrics``.

    Parameters
    ----------
    port, address
        Where to listen; port 0 chooses a free one. Listens on this machine only, unless another address is given.
    collector
        Collector to serve; a new one if it is not given.

    Returns
    -------
    MetricsServer
        Its ``url`` is what Prometheus scrapes. ``close()``, or leaving a ``with`` block, ends it.

    Examples
    --------
    >>> with start_http_server(port=0) as server:
    ...     server.url.endswith("/metrics")
    True
    """
    from llmhub.observability.metrics_server import MetricsServer  # noqa: PLC0415 - a server, which few programs need

    return MetricsServer(PrometheusCollector() if collector is None else collector, address, port)


class pushing:  # noqa: N801 - used like a function, in a with statement
    """Push the metrics of a block to a Prometheus push gateway: every few seconds and at the end.

    For scripts that end before Prometheus would scrape them.

    Parameters
    ----------
    gateway
        Address of the gateway: ``host:port`` or a URL.
    job
        Label of the metrics.
    interval_s
        Seconds between two pushes.
    grouping
        More labels, such as ``{"instance": "notebook-7"}``.

    Examples
    --------
    >>> with pushing("localhost:9091", job="nightly"):  # doctest: +SKIP
    ...     llmhub.complete_table(frame, "Summarise: {text}", model="openai/gpt-4o-mini")
    """

    def __init__(
        self,
        gateway: str,
        job: str = "llmhub",
        *,
        interval_s: float = PUSH_INTERVAL_S,
        grouping: dict[str, str] | None = None,
    ) -> None:
        self.collector = PrometheusCollector()
        self._push = import_optional("prometheus_client", "metrics").push_to_gateway
        self._target = (gateway, job, grouping)
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._stop_collecting: Callable[[], None] = lambda: None

    def push(self) -> None:
        """Push now."""
        gateway, job, grouping = self._target
        self._push(gateway, job=job, registry=self.collector.registry, grouping_key=grouping)

    def __enter__(self) -> Self:
        """Begin to collect."""
        self._ended.clear()
        self._stop_collecting = collect(self.collector)
        self._thread = threading.Thread(target=self._push_regularly, name="llmhub-push", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Push for the last time."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.push()
        finally:
            self._stop_collecting()

    def _push_regularly(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self.push()
            except OSError:  # tried again; the last push raises
                continue
