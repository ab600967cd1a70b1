"""Traces: spans and metrics as a strict collector receives them, their names, and the trace context in and out."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, TraceIdRatioBased

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.engine.observer import CALL_ORIGIN, CallOrigin
from llmhub.observability import semantic_conventions as names
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import Simulator, SimulatorThread, serving

MODEL = "openai/gpt-4o-mini"
QUICK = llmhub.Retry(base_s=0.002, cap_s=0.002)


def read_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [read_value(item) for item in value.array_value.values]
    return getattr(value, kind)


def read_attributes(pairs: Any) -> dict[str, Any]:
    keys = [pair.key for pair in pairs]
    assert len(keys) == len(set(keys)), keys
    return {pair.key: read_value(pair.value) for pair in pairs}


def refuse_unknown_fields(message: ProtobufMessage) -> None:
    """Refuse fields that the protocol does not define, at any depth."""
    assert len(UnknownFieldSet(message)) == 0
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in value if hasattr(value, "__len__") else [value]:
                if isinstance(item, ProtobufMessage):
                    refuse_unknown_fields(item)


@dataclass
class Collector:
    """A collector that takes OTLP over HTTP and refuses what is not exact."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.headers.append(headers)
        assert headers["content-type"] == "application/x-protobuf"
        body = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        request = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}[path]()
        request.ParseFromString(body)
        refuse_unknown_fields(request)
        if isinstance(request, ExportTraceServiceRequest):
            for group in request.resource_spans:
                assert read_attributes(group.resource.attributes)["service.name"] == "llmhub"
                for scope in group.scope_spans:
                    assert scope.scope.name == "llmhub"
                    self.spans += scope.spans
        else:
            for group in request.resource_metrics:
                for scope in group.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope.metrics}

    def checked_spans(self) -> list[Any]:
        """Return the spans after checking each by the protocol, and each parent to be there."""
        assert self.problems == []
        ids = Counter((span.trace_id, span.span_id) for span in self.spans)
        assert max(ids.values()) == 1
        for span in self.spans:
            assert (len(span.trace_id), len(span.span_id)) == (16, 8)
            assert any(span.trace_id)
            assert any(span.span_id)
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.kind in {Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER}
            assert not span.dropped_attributes_count
            attributes = read_attributes(span.attributes)
            assert set(attributes) <= KNOWN_ATTRIBUTES, set(attributes) - KNOWN_ATTRIBUTES
            assert ("error.type" in attributes) == (span.status.code == 2), attributes
            if span.parent_span_id:
                assert (span.trace_id, span.parent_span_id) in ids
        return self.spans


LLMHUB = ("status", "run_id", "request_id", "key_id", "team", "user", "attempts", "cache_hit", "cost_usd")
KNOWN_ATTRIBUTES = {
    *(value for value in vars(names).values() if isinstance(value, str) and value.startswith(("gen_ai.", "server."))),
    *names.REQUEST_FIELDS.values(),
    *names.USAGE_FIELDS.values(),
    *(version.cache_write_tokens for version in names.VERSIONS.values()),
    *(f"llmhub.{name}" for name in LLMHUB),
    "error.type",
    "http.response.status_code",
    "http.request.resend_count",
    "http.route",
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    received = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                received.receive(self.path, headers, body)
                self.send_response(200)
            except Exception as error:  # noqa: BLE001 - the test shows it
                received.problems.append(repr(error))
                self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        received.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield received
        server.shutdown()
        thread.join()


@dataclass
class Local:
    """Spans within this process."""

    provider: TracerProvider = field(default_factory=TracerProvider)
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    def __post_init__(self) -> None:
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def spans(self, prefix: str = "") -> list[Any]:
        llmhub.observability.flush()
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(prefix)]


class NotedStarts(SpanProcessor):
    """A processor that looks at spans when they begin, as those that copy baggage into attributes do."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.names.append(span.name)


def made_ended() -> Local:
    return Local(TracerProvider(sampler=DEFAULT_ON))


def made_late() -> Local:
    made = made_ended()
    made.provider.add_span_processor(NotedStarts())
    return made


def made_early() -> Local:
    return Local(TracerProvider(sampler=TraceIdRatioBased(1.0)))


WAYS = [made_ended, made_late, made_early]


@pytest.fixture(params=WAYS)
def local(request: pytest.FixtureRequest) -> Local:
    """Return an exporter for spans that are made ended, late, or, as other samplers need, when they begin."""
    made: Local = request.param()
    return made


def test_spans_do_not_depend_on_when_they_are_made(configure: Any) -> None:
    def normal(span: Any, by_id: dict[int, str]) -> tuple[Any, ...]:
        changing = ("llmhub.run_id", "server.port", "gen_ai.response.id")
        attributes = {name: value for name, value in span.attributes.items() if name not in changing}
        parent = by_id[span.parent.span_id] if span.parent else ""
        scope, resource = span.instrumentation_scope, dict(span.resource.attributes)
        resource.pop("service.instance.id", None)
        status, flags = span.status.status_code, int(span.context.trace_flags)
        return span.name, parent, span.kind, status, sorted(attributes.items()), flags, scope, resource

    seen = []
    for way in WAYS:
        local = way()
        configure(tracer_provider=local.provider, metrics=False, content=True)
        with serving(Simulator(seed=7)) as simulator, llmhub.Hub(simulator=simulator.url, retry=QUICK) as hub:
            for text in ("hi", "[[sim:500 once]] hi", "[[sim:400]] hi"):
                llmhub.try_complete(text, model=MODEL, hub=hub)
        spans = local.spans()
        by_id = {span.context.span_id: span.name for span in spans}
        kept = [span for span in spans if not span.name.startswith("wait")]
        assert all(span.start_time <= span.end_time for span in spans)
        seen.append([normal(span, by_id) for span in kept])
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 3 + 4


@pytest.fixture
def configure() -> Iterator[Callable[..., Callable[[], None]]]:
    undo: list[Callable[[], None]] = []

    def call(*args: Any, **options: Any) -> Callable[[], None]:
        undo.append(llmhub.tracing.configure(*args, **options))
        return undo[-1]

    yield call
    for function in undo:
        function()


def test_a_strict_collector_takes_spans_and_metrics(
    simulator: SimulatorThread, collector: Collector, configure: Any
) -> None:
    undo = configure(collector.url, headers={"x-tenant": "t1"})
    frame = {"text": [f"[[sim:500 once]] {n}" if n == 3 else f"row {n}" for n in range(8)]}
    limits = {"anthropic": llmhub.Limit(rpm=1200, burst=0.001)}
    with llmhub.Hub(simulator=simulator.url, retry=QUICK, limits=limits, cache=llmhub.MemoryCache()) as hub:
        models = [MODEL, "anthropic/claude-haiku-4-5"]
        llmhub.complete_table(frame, "{text}", model=models, hub=hub, progress=False, concurrency=2, temperature=0.5)
        llmhub.try_complete("[[sim:quota always]]", model=MODEL, hub=hub)
        list(llmhub.stream("hi", model=MODEL, hub=hub))
        llmhub.complete("row 0", model=MODEL, hub=hub, temperature=0.5)
    undo()
    spans = collector.checked_spans()
    calls = [span for span in spans if span.name.startswith("call ")]
    requests = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert len(calls) == 16 + 3
    assert len(requests) == sum(read_attributes(span.attributes)["llmhub.attempts"] for span in calls)
    assert {span.name for span in spans if span.name.startswith("wait ")} >= {"wait limit", "wait queue", "wait retry"}
    roots = [span for span in spans if not span.parent_span_id]
    assert {span.span_id for span in roots} == {span.span_id for span in calls}
    assert all(headers["x-tenant"] == "t1" for headers in collector.headers)
    metric = collector.metrics["gen_ai.client.inference.duration"]
    assert metric.unit == "s"
    assert sum(point.count for point in metric.histogram.data_points) == len(requests)
    used = collector.metrics["gen_ai.client.inference.usage.output_tokens"].sum
    assert used.is_monotonic
    spent = sum(read_attributes(span.attributes).get("gen_ai.usage.output_tokens", 0) for span in requests)
    assert sum(point.as_int for point in used.data_points) == spent
    assert "gen_ai.client.inference.time_to_first_chunk" in collector.metrics


def test_a_call_and_its_requests(hub: llmhub.Hub, local: Local, configure: Any) -> None:
    configure(tracer_provider=local.provider, metrics=False)
    token = CALL_ORIGIN.set(CallOrigin(request_id="r1", key_id="k1", team="blue"))
    try:
        completion = llmhub.complete("[[sim:500 once]] hi", model=MODEL, hub=hub, max_tokens=30)
    finally:
        CALL_ORIGIN.reset(token)
    (call,) = local.spans("call ")
    failed, answered = local.spans("chat gpt-4o-mini")
    assert call.parent is None
    assert failed.parent.span_id == answered.parent.span_id == call.context.span_id
    assert dict(failed.attributes) | {"error.type": "ServerError", "http.response.status_code": 500} == dict(
        failed.attributes
    )
    assert answered.attributes["http.request.resend_count"] == 1
    assert answered.attributes["gen_ai.request.max_tokens"] == 30
    assert answered.attributes["gen_ai.usage.output_tokens"] == completion.usage.output_tokens
    assert answered.attributes["gen_ai.response.model"] == completion.served_model
    assert call.attributes["llmhub.cost_usd"] == pytest.approx(float(completion.cost_usd or 0))
    assert (call.attributes["llmhub.attempts"], call.attributes["llmhub.team"]) == (2, "blue")
    assert call.start_time <= failed.start_time <= failed.end_time <= answered.start_time <= call.end_time
    assert not any("messages" in name for span in local.spans() for name in span.attributes)


def test_cached_calls_have_no_request(hub: llmhub.Hub, local: Local, configure: Any) -> None:
    llmhub.complete("hi", model=MODEL, hub=hub)
    configure(tracer_provider=local.provider, metrics=False)
    llmhub.complete("hi", model=MODEL, hub=hub)
    (call,) = [span for span in local.spans() if not span.name.startswith("wait")]
    assert call.attributes["llmhub.cache_hit"] is True
    assert call.attributes["llmhub.cost_usd"] == 0


def test_content_is_recorded_if_asked_for_and_redacted(hub: llmhub.Hub, local: Local, configure: Any) -> None:
    configure(tracer_provider=local.provider, metrics=False, content=True)
    completion = llmhub.complete("my key is sk-abcdefgh12345678", model=MODEL, hub=hub, system="Be brief.")
    (span,) = local.spans("chat")
    assert json.loads(span.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "my key is [API_KEY]"}]}
    ]
    assert json.loads(span.attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief."}]
    (message,) = json.loads(span.attributes["gen_ai.output.messages"])
    assert message["parts"] == [{"type": "text", "content": completion.text}]
    assert set(message) == {"role", "parts", "finish_reason"}
    # Backends show what a trace was asked from its first span; of a cached call it is the only one.
    (call,) = local.spans("call")
    assert call.attributes["gen_ai.input.messages"] == span.attributes["gen_ai.input.messages"]
    assert call.attributes["gen_ai.output.messages"] == span.attributes["gen_ai.output.messages"]


def test_embeddings_and_reranking_are_operations_of_their_own(hub: llmhub.Hub, local: Local, configure: Any) -> None:
    configure(tracer_provider=local.provider, metrics=False, content=True)
    llmhub.embed(["a", "b"], model="openai/text-embedding-3-small", hub=hub, dimensions=8)
    llmhub.rerank("a", ["b", "c"], model="cohere/rerank-v3.5", hub=hub)
    (embedding,), (reranking,) = local.spans("embeddings"), local.spans("rerank ")
    assert embedding.attributes["gen_ai.operation.name"] == "embeddings"
    assert embedding.attributes["gen_ai.embeddings.dimension.count"] == 8
    assert embedding.attributes["gen_ai.usage.input_tokens"] == 2
    assert reranking.attributes["gen_ai.operation.name"] == "rerank"
    for span in (embedding, reranking):
        assert not {"gen_ai.response.finish_reasons", "gen_ai.request.max_tokens", "gen_ai.output.messages"} & {
            *span.attributes
        }


def test_requests_carry_the_context_of_their_span(local: Local, configure: Any, scripted: Any, replies: Any) -> None:
    configure(tracer_provider=local.provider, metrics=False)
    served = scripted([replies.answer()])
    with llmhub.Hub(endpoints={"openai": llmhub.Endpoint(base_url=served.url, api_key="k")}) as hub:
        llmhub.complete("hi", model=MODEL, hub=hub)
    (span,) = local.spans("chat")
    context = span.context
    expected = f"traceparent: 00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert expected.encode() in served.requests[0].lower()
    assert b"baggage" not in served.requests[0].lower()


def test_streams_carry_the_context_too(local: Local, configure: Any, scripted: Any, replies: Any) -> None:
    configure(tracer_provider=local.provider, metrics=False)
    served = scripted([replies.stream(), replies.event("Hi", "stop"), b"data: [DONE]\n\n", "close"])
    with llmhub.Hub(endpoints={"openai": llmhub.Endpoint(base_url=served.url, api_key="k")}) as hub:
        list(llmhub.stream("hi", model=MODEL, hub=hub))
    (span,) = local.spans("chat")
    assert f"-{span.context.span_id:016x}-{span.context.trace_flags:02x}".encode() in served.requests[0]
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0


def test_calls_belong_to_the_trace_of_the_program(hub: llmhub.Hub, local: Local, configure: Any) -> None:
    configure(tracer_provider=local.provider, metrics=False)
    with local.provider.get_tracer("cell").start_as_current_span("cell") as cell:
        llmhub.complete("hi", model=MODEL, hub=hub)
        llmhub.complete_table({"t": ["a", "b"]}, "{t}", model=MODEL, hub=hub, progress=False)
    parents = {span.parent.span_id for span in local.spans("call ")}
    assert parents == {cell.get_span_context().span_id}


def test_calls_belong_to_the_trace_of_an_incoming_request(hub: llmhub.Hub, local: Local, configure: Any) -> None:
    incoming = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    with llmhub.tracing.server_span("POST /v1/tables", {"traceparent": incoming}) as span:
        assert span is None
    configure(tracer_provider=local.provider, metrics=False)
    with llmhub.tracing.server_span("POST /v1/tables", {"traceparent": incoming}, {"http.route": "/v1/tables"}):
        llmhub.complete("hi", model=MODEL, hub=hub)
    (server,) = local.spans("POST")
    assert server.kind is trace.SpanKind.SERVER
    assert f"{server.context.trace_id:032x}" == "ab" * 16
    assert f"{server.parent.span_id:016x}" == "cd" * 8
    assert local.spans("call ")[0].parent.span_id == server.context.span_id


@pytest.mark.parametrize("metrics", [False, True])
def test_traces_are_sampled_by_ratio(
    collector: Collector, configure: Any, scripted: Any, replies: Any, metrics: bool
) -> None:
    served = scripted([replies.answer()])
    endpoint = llmhub.Endpoint(base_url=served.url, api_key="k")
    undo = configure(collector.url, ratio=0.0, metrics=metrics)
    with llmhub.Hub(endpoints={"openai": endpoint}) as hub:
        llmhub.complete("hi", model=MODEL, hub=hub)
    undo()
    assert collector.spans == []
    flags = re.search(rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-([0-9a-f]{2})\r", served.requests[0])
    assert flags is not None
    assert not int(flags[1], 16) & 1
    undo = configure(collector.url, ratio=0.5, metrics=metrics)
    with llmhub.Hub(endpoints={"openai": endpoint}) as hub:
        llmhub.complete_table({"t": list(range(200))}, "{t}", model=MODEL, hub=hub, progress=False)
    undo()
    calls = [span for span in collector.checked_spans() if span.name.startswith("call ")]
    assert 50 < len(calls) < 150
    # The provider's side is told of each request of the run whether its call is traced; the others are not observed.
    flags_of_run = [re.search(rb"traceparent: 00-\S+-(\d\d)\r", request) for request in served.requests[1:]]
    traced = [flags for flags in flags_of_run if flags is not None and int(flags[1], 16) & 1]
    assert (len(traced), len(flags_of_run)) == (len(calls), 200)
    # Metrics are of all requests.
    if metrics:
        durations = collector.metrics["gen_ai.client.inference.duration"].histogram.data_points
        assert sum(point.count for point in durations) == 200
    else:
        assert not collector.metrics


def test_log_lines_name_the_trace(
    hub: llmhub.Hub, local: Local, configure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    configure(tracer_provider=local.provider, metrics=False)
    with caplog.at_level("INFO", "llmhub"):
        llmhub.complete("hi", model=MODEL, hub=hub)
        llmhub.observability.flush()
    (record,) = [record for record in caplog.records if record.name == "llmhub.calls"]
    assert record.llmhub["trace_id"] == f"{local.spans('call ')[0].context.trace_id:032x}"  # type: ignore[attr-defined]


def test_earlier_conventions_can_be_chosen(hub: llmhub.Hub, collector: Collector, configure: Any) -> None:
    undo = configure(collector.url, conventions="1.41")
    llmhub.complete("hi", model=MODEL, hub=hub)
    undo()
    assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"} <= set(collector.metrics)
    assert not any(".inference." in name for name in collector.metrics)
    points = collector.metrics["gen_ai.client.token.usage"].histogram.data_points
    assert {read_attributes(point.attributes)["gen_ai.token.type"] for point in points} == {"input", "output"}


def test_names_of_providers_are_ours() -> None:
    assert set(names.PROVIDERS) <= set(PROVIDERS)
    assert set(names.OPERATIONS) <= set(PROVIDERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "localhost:4318"}, "http://localhost:4318"),
        ({"ratio": 2}, "from 0 to 1"),
        ({"conventions": "1.0"}, "development, 1.41"),
        ({"endpoint": "http://x", "tracer_provider": object()}, "not both"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        llmhub.tracing.configure(**options)


def test_the_extra_is_named_when_it_is_missing() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import llmhub\n"
        "try: llmhub.tracing.configure('http://localhost:4318')\n"
        "except llmhub.BadRequestError as error: print(error)"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'llmhub[otel]'" in completed.stdout


def test_metrics_begin_once_the_program_has_a_provider_of_meters(simulator: SimulatorThread) -> None:
    """In a process of its own: a process has one provider of meters, and keeps it."""
    code = f"""
import llmhub
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
llmhub.tracing.configure(tracer_provider=TracerProvider())
reader = InMemoryMetricReader()
with llmhub.Hub(simulator={simulator.url!r}) as hub:
    llmhub.complete("before", model="{MODEL}", hub=hub)
    llmhub.observability.flush()
    metrics.set_meter_provider(MeterProvider([reader]))
    for text in ("hi", "hi there"):
        llmhub.complete(text, model="{MODEL}", hub=hub)
llmhub.observability.flush()
found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
points = {{metric.name: metric.data.data_points[0] for metric in found}}
prefix = "gen_ai.client.inference."
print(points[prefix + "duration"].count, points[prefix + "usage.output_tokens"].value > 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "True"], done.stderr
