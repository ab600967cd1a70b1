"""Arrow Flight: the official client against the service before the simulator."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pyarrow import flight

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.engine.event_loop import background_loop
from llmhub.server.rpc import connector_pb2 as pb
from llmhub.server.rpc.connector_pb2_grpc import LLMConnectorServiceStub
from llmhub.server.running import RunningService
from llmhub.server.server_settings import FlightSettings
from llmhub.sim import Latency, Simulator, SimulatorThread
from llmhub.sim import serving as simulating
from llmhub.tables.schema import RESULTS
from tests.server.conftest import OneKey, until

Serving = Callable[..., RunningService]
ServeOn = Callable[..., AbstractContextManager[RunningService]]
STUB: Any = LLMConnectorServiceStub
MODEL = "openai/gpt-4o-mini"
PATIENCE_S = 20.0
SETTINGS = FlightSettings(port=0)
ASKED = {"model": MODEL, "prompt": "Summarise: {text}"}
KEY = (("authorization", f"Bearer {OneKey.key}"),)


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    clients = []

    def make(running: Any, **options: Any) -> Any:
        address = getattr(running, "service", running).addresses["flight"]
        clients.append(flight.connect(address, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def exchange(client: Any, asked: Any = None, *headers: tuple[str, str]) -> tuple[Any, Any]:
    command = asked if isinstance(asked, bytes) else json.dumps(asked or ASKED).encode()
    options = flight.FlightCallOptions(headers=[(name.encode(), value.encode()) for name, value in headers])
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command), options)
    return writer, reader


def ask(client: Any, table: pa.Table, asked: Any = None, *headers: tuple[str, str]) -> pa.Table:
    """Write a whole table, then read the results, in the order of their rows."""
    writer, reader = exchange(client, asked, *headers)
    with writer:
        writer.begin(table.schema)
        writer.write_table(table, max_chunksize=100)
        writer.done_writing()
        return reader.read_all().sort_by("row")


def texts(count: int, prefix: str = "text") -> pa.Table:
    columns = {"id": range(count), "text": [f"{prefix} {number}" for number in range(count)]}
    return pa.table(columns, schema=pa.schema({"id": pa.int64(), "text": pa.string()}))


def info_of(error: Any) -> Any:
    return json.loads(error.extra_info)["error"]


def test_results_are_those_of_complete_table(serving: Serving, connect: Any, simulator: SimulatorThread) -> None:
    running = serving(flight=SETTINGS)
    table = texts(250)
    results = ask(connect(running), table, {**ASKED, "model": [MODEL, "anthropic/claude-haiku-4-5"]})
    assert results.schema.names == RESULTS.names
    with llmhub.Hub(simulator=simulator.url) as hub:
        expected = llmhub.complete_table(
            table, ASKED["prompt"], model=[MODEL, "anthropic/claude-haiku-4-5"], hub=hub, progress=False
        )
    names = ["row", "model", "status", "response", "input_tokens", "cost_usd"]
    rows, expected_rows = (
        sorted(tuple(row.values()) for row in each.select(names).to_pylist()) for each in (results, expected)
    )
    assert rows == expected_rows


def test_results_arrive_while_the_client_still_writes(serving: Serving, connect: Any) -> None:
    writer, reader = exchange(connect(serving(flight=SETTINGS)))
    with writer:
        writer.begin(texts(0).schema)
        for first in range(3):
            writer.write_table(texts(2, f"part {first}"))
            rows: list[int] = []
            while len(rows) < 2:
                rows += reader.read_chunk().data.column("row").to_pylist()
            assert sorted(rows) == [2 * first, 2 * first + 1]
        writer.done_writing()
        with pytest.raises(StopIteration):
            reader.read_chunk()


def test_a_table_without_rows_has_the_schema_of_results(serving: Serving, connect: Any) -> None:
    assert ask(connect(serving(flight=SETTINGS)), texts(0)).schema.names == RESULTS.names


def test_refusals_have_the_error_of_the_rest_interface(serving: Serving, connect: Any) -> None:
    running = serving(flight=SETTINGS, access=OneKey())
    client, table = connect(running), texts(2)
    with pytest.raises(flight.FlightUnauthenticatedError, match="unknown key") as refused:
        ask(client, table)
    assert info_of(refused.value)["type"] == "AuthFailed"
    with pytest.raises(flight.FlightUnauthorizedError):
        ask(client, table, None, *KEY, ("x-scope", "none"))
    with pytest.raises(flight.FlightUnauthorizedError):
        ask(client, table, {**ASKED, "model": "anthropic/claude-haiku-4-5"}, *KEY)
    for asked, path in (
        (b"[", "request"),
        ({**ASKED, "model": "nobody/x"}, "model"),
        ({**ASKED, "prompt": "{nothing}"}, "prompt"),
        ({**ASKED, "temprature": 1}, "request"),
        ({**ASKED, "temperature": 9}, ""),
    ):
        with pytest.raises(flight.FlightServerError) as wrong:
            ask(client, table, asked, *KEY)
        assert info_of(wrong.value)["status"] == 400
        assert path in (info_of(wrong.value)["path"] or "")
    twice = pa.table([[1], [2]], names=["text", "text"])
    with pytest.raises(flight.FlightServerError, match="two columns"):
        ask(client, twice, None, *KEY)
    with pytest.raises(flight.FlightServerError, match="command"):
        client.do_exchange(flight.FlightDescriptor.for_path("a"), _options(*KEY))[1].read_all()
    assert ask(client, table, None, *KEY).num_rows == 2
    assert until(lambda: running.service.active_requests == 0)


def _options(*headers: tuple[str, str]) -> Any:
    return flight.FlightCallOptions(headers=[(name.encode(), value.encode()) for name, value in headers])


@pytest.mark.parametrize("by", ["cancel", "close", "deadline"])
def test_client_that_leaves_cancels_the_calls(
    serving: Serving, simulator: SimulatorThread, connect: Any, by: str
) -> None:
    running = serving(flight=SETTINGS)
    client = connect(running)
    options = flight.FlightCallOptions(timeout=0.5 if by == "deadline" else None)
    command = flight.FlightDescriptor.for_command(json.dumps({**ASKED, "prompt": "[[sim:hang]] {text}"}))
    writer, reader = client.do_exchange(command, options)
    writer.begin(texts(3).schema)
    writer.write_table(texts(3))
    writer.done_writing()
    assert until(lambda: simulator.counts()["in_flight"] == 3)
    if by == "cancel":
        reader.cancel()
    elif by == "close":
        reader.cancel()
        client.close()
    assert until(lambda: simulator.counts()["in_flight"] == 0)
    assert until(lambda: running.service.active_requests == 0)
    assert running.service.lanes.in_use == {"interactive": 0, "bulk": 0}


def test_client_may_write_first_and_one_that_never_reads_is_cut_off(serve_on: ServeOn, connect: Any) -> None:
    answer = "x" * 300_000
    with (
        simulating(Simulator(seed=7, respond=lambda _: answer)) as large,
        serve_on(large.url, flight=SETTINGS) as running,
        serve_on(large.url, flight=FlightSettings(port=0, max_buffer_bytes=1000), write_timeout_s=0.2) as strict,
    ):
        assert ask(connect(running), texts(100)).num_rows == 100
        writer, reader = exchange(connect(strict))
        writer.begin(texts(0).schema)
        writer.write_table(texts(300), max_chunksize=20)
        writer.done_writing()
        assert until(lambda: strict.service.active_requests == 1)
        assert until(lambda: strict.service.active_requests == 0)
        with pytest.raises(flight.FlightTimedOutError, match="too slow"):
            reader.read_all()


def test_batches_are_bounded(serving: Serving, connect: Any) -> None:
    running = serving(flight=FlightSettings(port=0, max_buffer_bytes=1000))
    with pytest.raises(flight.FlightServerError, match="more than 1000 bytes"):
        ask(connect(running), texts(100, "x" * 20))
    assert until(lambda: running.service.active_requests == 0)


def test_exchanges_are_bounded(serving: Serving, connect: Any) -> None:
    running = serving(flight=FlightSettings(port=0, max_exchanges=1))
    client = connect(running)
    writer, reader = exchange(client)
    with writer:
        writer.begin(texts(0).schema)
        writer.write_table(texts(1))
        assert reader.read_chunk().data.num_rows == 1
        with pytest.raises(flight.FlightUnavailableError, match="1 exchanges"):
            ask(client, texts(1))
        writer.done_writing()
        reader.read_all()


def test_a_trace_goes_through_the_service(
    serve_on: ServeOn, simulator: SimulatorThread, scripted: Any, replies: Any, connect: Any
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    answering = scripted([replies.answer()])
    hub = {"endpoints": {"openai": llmhub.Endpoint(base_url=answering.url, api_key="k")}}
    trace_id, span_id = "ab" * 16, "cd" * 8
    undo = llmhub.tracing.configure(tracer_provider=provider, metrics=False)
    try:
        with serve_on(simulator.url, flight=SETTINGS, access=OneKey(), hub=hub) as running:
            ask(connect(running), texts(1), None, *KEY, ("traceparent", f"00-{trace_id}-{span_id}-01"))
            assert until(lambda: running.service.active_requests == 0)
            llmhub.observability.flush()
    finally:
        undo()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    server: Any = spans["arrow.flight.protocol.FlightService/DoExchange"]
    call: Any = spans[f"call {MODEL}"]
    assert f"{server.context.trace_id:032x}" == trace_id
    assert f"{server.parent.span_id:016x}" == span_id
    assert call.parent.span_id == server.context.span_id
    assert (call.attributes["llmhub.key_id"], call.attributes["llmhub.team"]) == ("key_7", "blue")
    assert f"traceparent: 00-{trace_id}-".encode() in answering.requests[0].lower()


def test_drained_service_refuses_exchanges(serving: Serving, connect: Any) -> None:
    running = serving(flight=SETTINGS)
    client = connect(running)
    background_loop().call_soon_threadsafe(running.service.begin_drain)
    assert until(lambda: running.service.state == "draining")
    with pytest.raises(flight.FlightUnavailableError, match="draining"):
        ask(client, texts(1))


def test_sigterm_drains_flight_and_grpc_and_does_not_wait_for_an_idle_exchange(
    serving_process: Callable[..., Any], connect: Any
) -> None:
    with simulating(Simulator(seed=7, latency=Latency(1.0, first=0.01))) as paced:
        served = serving_process("--simulator", paced.url, "--flight-port", "0", "--grpc-port", "0")
        client = connect(served)
        writer, reader = exchange(client)
        writer.begin(texts(3).schema)
        writer.write_table(texts(3))
        writer.done_writing()
        idle, answers = exchange(client)
        idle.begin(texts(0).schema)
        idle.write_table(texts(2, "idle"))
        with grpc.insecure_channel(served.addresses["grpc"]) as channel:
            stream = STUB(channel).StreamCompletion(pb.CompletionRequest(model=MODEL, prompt="Hi"))
            assert next(stream).text
            assert until(lambda: paced.counts()["in_flight"] == 6)
            served.process.send_signal(signal.SIGTERM)
            *_, last = stream
        assert last.response.text
        assert reader.read_all().column("status").to_pylist() == ["ok"] * 3
        rows = 0
        while rows < 2:
            rows += answers.read_chunk().data.num_rows
        assert served.process.wait(PATIENCE_S) == 0
        with pytest.raises(flight.FlightUnavailableError):
            answers.read_chunk()


def test_tls(serving: Serving, tls_files: tuple[str, str], connect: Any) -> None:
    certificate, key = tls_files
    settings = FlightSettings(port=0, tls_certificate=certificate, tls_key=key)
    running = serving(flight=settings)
    assert ask(connect(running, tls_root_certs=Path(certificate).read_bytes()), texts(2)).num_rows == 2
    port = int(running.service.addresses["flight"].rpartition(":")[2])
    with pytest.raises(BadRequestError, match=r"server\.flight\.port: cannot listen"):
        serving(flight=FlightSettings(port=port))
