"""Metrics: exact counts, a bounded number of series, pages, push gateways and plugins."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from returns.result import Failure, Success

import llmhub
from llmhub.core.errors import BadRequestError, NotFound, ServerError
from llmhub.core.types import CompletionRequest, CompletionResponse, Usage
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.decision_log import Decision
from llmhub.engine.observer import (
    CALL_ORIGIN,
    NO_ORIGIN,
    CacheHits,
    CallFinished,
    CallOrigin,
    Event,
    RequestFinished,
    Waited,
)
from llmhub.observability import metrics
from llmhub.observability.instruments import INSTRUMENTS, MAX_SERIES, Measurement
from llmhub.observability.metrics import MetricsCollector, PrometheusCollector
from llmhub.observability.subscriptions import subscribe
from llmhub.sim import Simulator, SimulatorThread, serving

MODEL = "openai/gpt-4o-mini"
QUICK = llmhub.Retry(base_s=0.002, cap_s=0.002)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def collector() -> Iterator[PrometheusCollector]:
    made = PrometheusCollector()
    stop = metrics.collect(made)
    yield made
    stop()


def parse(page: bytes) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(page: bytes, name: str, **labels: str) -> float:
    """Sum the samples that have these labels."""
    wanted = set(labels.items())
    return math.fsum(number for (sample, own), number in parse(page).items() if sample == name and wanted <= own)


def counted(page: bytes) -> Samples:
    """Return what a page counts, but for waits, whose number is a matter of milliseconds."""
    return {
        (name, labels): number
        for (name, labels), number in parse(page).items()
        if name.endswith(("_total", "_count")) and "wait" not in name
    }


@pytest.mark.parametrize("also", ["events", "samples"])
def test_counts_do_not_depend_on_other_observers(also: str) -> None:
    """A call makes its events only if somebody wants them; otherwise its answer is counted, to the same result."""
    alone, beside = (_counts_of_calls(other) for other in ("nothing", also))
    assert alone == beside
    assert sum(number for (name, _), number in alone.items() if name == "llmhub_requests_total") == 50


def _counts_of_calls(also: str) -> Samples:
    """Make calls of every kind, with another observer than the metrics, and return what was counted."""
    collector, seen, draws = PrometheusCollector(), list[Event](), cycle([True, False, False])
    stops = [metrics.collect(collector)]
    if also != "nothing":
        stops.append(subscribe(seen.append, sampler=None if also == "events" else lambda: partial(next, draws)))
    kinds = ("", "", "[[sim:500 once]]", "[[sim:500]]", "[[sim:400]]")
    frame = {"text": [f"{kinds[number % 5]} row {number % 20}" for number in range(30)]}
    retry = llmhub.Retry(attempts=2, base_s=0.002, cap_s=0.002)
    settings: dict[str, Any] = {"retry": retry, "breaker": None, "adaptive": False, "cache": llmhub.MemoryCache()}
    with serving(Simulator(seed=7)) as simulator, llmhub.Hub(simulator=simulator.url, **settings) as hub:
        for _ in range(2):
            llmhub.complete_table(frame, "{text}", model=MODEL, hub=hub, progress=False)
        for number in range(10):
            with suppress(llmhub.ConnectorError):
                llmhub.complete(f"{kinds[number % 5]} {number % 7}", model=MODEL, hub=hub)
    page = collector.render()
    for stop in stops:
        stop()
    assert bool(seen) == (also != "nothing")
    return counted(page)


def test_a_cancelled_call_is_counted(scripted: Any, collector: PrometheusCollector) -> None:
    served = scripted(["hang"])
    with llmhub.Hub(endpoints={"openai": llmhub.Endpoint(base_url=served.url, api_key="k")}) as hub:

        async def cancel() -> None:
            task = asyncio.ensure_future(llmhub.acomplete("hi", model=MODEL, hub=hub))
            await asyncio.to_thread(served.received.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
    page = collector.render()
    assert value(page, "llmhub_calls_total", status="cancelled") == 1
    assert value(page, "llmhub_requests_total", status="cancelled") == 1


def test_counts_agree_with_the_table(hub: llmhub.Hub, collector: PrometheusCollector) -> None:
    frame = {"text": [f"[[sim:500 once]] {n}" if n % 5 == 0 else f"row {n % 20}" for n in range(60)]}
    table = llmhub.complete_table(frame, "{text}", model=MODEL, hub=hub, progress=False)
    again = llmhub.complete_table(frame, "{text}", model=MODEL, hub=hub, progress=False)
    page = collector.render()
    rows = [*table.to_pylist(), *again.to_pylist()]
    paid = [row for row in rows if not row["cache_hit"]]
    assert value(page, "llmhub_calls_total", status="ok") == len(paid)
    assert value(page, "llmhub_calls_total", status="cached") == len(rows) - len(paid)
    assert value(page, "llmhub_cache_hits_total") == len(rows) - len(paid)
    assert value(page, "llmhub_cache_misses_total") == len(paid)
    assert value(page, "llmhub_requests_total") == sum(row["attempts"] for row in rows)
    assert value(page, "llmhub_requests_total", status="error", error_type="ServerError") == 12
    assert value(page, "llmhub_retries_total", error_type="ServerError") == 12
    assert value(page, "llmhub_cost_usd_total") == pytest.approx(float(sum(row["cost_usd"] for row in rows)))
    tokens = {kind: value(page, "llmhub_tokens_total", type=kind) for kind in ("input", "cached_input", "cache_write")}
    assert sum(tokens.values()) == sum(row["input_tokens"] for row in paid)
    assert value(page, "llmhub_request_duration_seconds_count") == value(page, "llmhub_requests_total")
    assert value(page, "llmhub_request_duration_seconds_bucket", le="+Inf") == value(page, "llmhub_requests_total")


def test_time_to_first_token_is_measured_of_streams(hub: llmhub.Hub, collector: PrometheusCollector) -> None:
    list(llmhub.stream("hi", model=MODEL, hub=hub))
    assert value(collector.render(), "llmhub_time_to_first_token_seconds_count", model="gpt-4o-mini") == 1


def test_teams_have_calls_tokens_and_cost(hub: llmhub.Hub, collector: PrometheusCollector) -> None:
    token = CALL_ORIGIN.set(CallOrigin(team="blue"))
    try:
        cost = llmhub.complete("hi", model=MODEL, hub=hub).cost_usd
    finally:
        CALL_ORIGIN.reset(token)
    llmhub.complete("hello", model=MODEL, hub=hub)
    page = collector.render()
    assert value(page, "llmhub_team_calls_total", team="blue", status="ok") == 1
    assert value(page, "llmhub_team_cost_usd_total") == pytest.approx(float(cost or 0))
    assert value(page, "llmhub_team_tokens_total", team="blue", type="output") > 0


def test_state_of_the_hub_is_read_with_the_page(simulator: SimulatorThread, collector: PrometheusCollector) -> None:
    breaker = llmhub.Breaker(degraded=1, failures=2)
    with llmhub.Hub(simulator=simulator.url, budget_usd=2.0, breaker=breaker, retry=llmhub.Retry(attempts=1)) as hub:
        llmhub.complete("hi", model="anthropic/claude-haiku-4-5", hub=hub, max_tokens=20)
        for _ in range(2):
            llmhub.try_complete("[[sim:500 always]] hi", model=MODEL, hub=hub, max_tokens=20)
        page = collector.render()
        spent = hub.spending()
    assert value(page, "llmhub_circuit_state", provider="openai") == 2
    assert value(page, "llmhub_circuit_state", provider="anthropic") == 0
    assert value(page, "llmhub_requests_in_flight") == 0
    assert spent is not None
    assert value(page, "llmhub_budget_spent_usd") == pytest.approx(float(spent.spent_usd))
    assert value(page, "llmhub_budget_remaining_usd") == pytest.approx(2.0 - float(spent.spent_usd))
    assert value(page, "llmhub_decisions_total", kind="circuit", provider="openai") == 2


def test_rows_queued_and_calls_in_flight_of_a_run(collector: PrometheusCollector, scripted: Any, replies: Any) -> None:
    go = threading.Event()
    served = scripted([go, replies.answer()])
    endpoint = llmhub.Endpoint(base_url=served.url, api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, adaptive=False) as hub:
        job = llmhub.submit({"t": list("abcdef")}, "{t}", model=MODEL, hub=hub, concurrency=2, progress=False)
        assert served.received.wait(10)
        pages = iter(collector.render, None)
        page = next(page for page in pages if value(page, "llmhub_requests_in_flight") == 2)
        assert value(page, "llmhub_rows_queued") == 4
        go.set()
        job.result()
        assert value(collector.render(), "llmhub_rows_queued") == 0


def test_the_page_of_a_notebook(hub: llmhub.Hub) -> None:
    with llmhub.metrics.start_http_server(port=0) as server:
        llmhub.complete("hi", model=MODEL, hub=hub)
        with urllib.request.urlopen(server.url) as reply:
            assert reply.headers["Content-Type"] == metrics.CONTENT_TYPE
            assert value(reply.read(), "llmhub_calls_total", provider="openai") == 1
        with pytest.raises(BadRequestError, match="pass another port"):
            llmhub.metrics.start_http_server(port=server.port)
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/favicon.ico")
        missing.value.close()


def test_the_page_is_what_prometheus_client_writes(hub: llmhub.Hub, collector: PrometheusCollector) -> None:
    names = [f"openai/m-{n}" for n in range(30)]
    llmhub.complete_table({"t": ["x"]}, "{t}", model=names, hub=hub, progress=False)
    assert collector.render() == prometheus_client.generate_latest(collector.registry)


def test_metrics_are_pushed_at_the_end_of_a_script(hub: llmhub.Hub) -> None:
    pushed: list[tuple[str, bytes]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            pushed.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        with llmhub.metrics.pushing(address, job="nightly", grouping={"instance": "n1"}):
            llmhub.complete("hi", model=MODEL, hub=hub)
        server.shutdown()
    ((path, body),) = pushed
    assert path == "/metrics/job/nightly/instance/n1"
    assert value(body, "llmhub_calls_total", status="ok") == 1


def test_a_plugin_collects_the_measurements_of_its_hub(hub: llmhub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Measurement] = []
    module = SimpleNamespace(COLLECTOR=MetricsCollector(name="statsd", record=taken.append))
    monkeypatch.setitem(sys.modules, "llmhub_statsd", module)
    entry = EntryPoint("statsd", "llmhub_statsd:COLLECTOR", "llmhub.metrics")
    plugins = llmhub.load_plugins(entries=[entry])
    assert list(plugins.metrics) == ["statsd"]
    with llmhub.Hub(simulator=hub.simulator, plugins=plugins) as with_plugin:
        llmhub.complete("hi", model=MODEL, hub=with_plugin)
        llmhub.complete("hi", model=MODEL, hub=hub)
        llmhub.observability.flush()
    calls = [item for item in taken if item.instrument.name == "llmhub_calls"]
    assert [item.labels for item in calls] == [("openai", "gpt-4o-mini", "ok", "")]


def test_the_extra_is_named_when_it_is_missing() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import llmhub\n"
        "try: llmhub.metrics.start_http_server(port=0)\n"
        "except llmhub.BadRequestError as error: print(error)"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'llmhub[metrics]'" in completed.stdout


# The bound on series

NAMES = st.text(max_size=30)
FAILURES = st.sampled_from([NotFound(), ServerError(status=500)])


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Draw an event of any provider and model, as anybody who reaches a service can cause it."""
    provider = SimpleNamespace(name=draw(NAMES))
    model = draw(NAMES)
    target = Target(provider, None, model, f"{provider.name}/{model}")  # type: ignore[arg-type]
    call = Call(target, CompletionRequest(model=model, messages=()))
    answer = draw(
        st.sampled_from(
            [
                None,
                Answer(Success(CompletionResponse(usage=Usage(input_tokens=3, output_tokens=4))), ttft_s=0.1),
                Answer(Failure(draw(FAILURES))),
            ]
        )
    )
    origin = CallOrigin(team=draw(NAMES)) if draw(st.booleans()) else NO_ORIGIN
    return draw(
        st.sampled_from(
            [
                RequestFinished(1, 1, call, answer, 0, 1),
                CallFinished(1, call, answer, 0, 1, origin, b"", "", 0),
                CacheHits(target, 2),
                Waited(1, call, "limit", 0, 10**7),
                Decision(0.0, "retry", target.name, "ServerError"),
            ]
        )
    )


def test_any_events_make_a_bounded_number_of_series() -> None:
    collector = PrometheusCollector()
    dispatcher = metrics.metrics_dispatcher((collector.collector,))

    @given(st.lists(events(), max_size=80))
    def feed(drawn: list[Event]) -> None:
        for event in drawn:
            dispatcher(event)

    feed()
    for number in range(1000):
        for case in (Answer(Success(CompletionResponse()), ttft_s=0.1), Answer(Failure(ServerError()))):
            target = Target(SimpleNamespace(name=f"p{number % 60}"), None, f"m{number}", f"p/m{number}")  # type: ignore[arg-type]
            call = Call(target, CompletionRequest(model="m", messages=()))
            dispatcher(RequestFinished(1, 1, call, case, 0, 1))
            dispatcher(CallFinished(1, call, case, 0, 1, CallOrigin(team=f"t{number}"), b"", "", 10**7))
            dispatcher(Decision(0.0, "retry", target.name, "ServerError"))
    dispatcher.close()
    page = collector.render()
    assert 1000 < len(parse(page)) <= MAX_SERIES
    assert value(page, "llmhub_calls_total", provider="other", model="other") > 0
    assert value(page, "llmhub_folded_labels_total") > 0


def test_a_model_that_nobody_has_gets_no_label(hub: llmhub.Hub, collector: PrometheusCollector, scripted: Any) -> None:
    missing = b'{"error":{"message":"no such model","code":"model_not_found"}}'
    head = f"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: {len(missing)}\r\n\r\n"
    served = scripted([head.encode() + missing])
    endpoint = llmhub.Endpoint(base_url=served.url, api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, retry=QUICK) as refused:
        llmhub.try_complete("hi", model="openai/../../etc/passwd", hub=refused)
    llmhub.complete("hi", model=MODEL, hub=hub)
    page = collector.render()
    assert value(page, "llmhub_calls_total", provider="other", model="other", error_type="NotFound") == 1
    assert b"passwd" not in page


def test_every_metric_is_described_and_named_like_the_others() -> None:
    names = [instrument.name for instrument in INSTRUMENTS]
    assert len(names) == len(set(names))
    for instrument in INSTRUMENTS:
        assert instrument.name.startswith("llmhub_")
        assert instrument.description.endswith(".")
        assert not instrument.name.endswith("_total")
