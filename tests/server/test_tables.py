"""Tables through the service: results as they complete, plans, the caller's rights, and bad input."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec
import pyarrow as pa
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet
from returns.result import Result, Success

from llmhub.api import complete_table
from llmhub.core.budget import parse_budget
from llmhub.core.errors import LLMError
from llmhub.engine.spending import Budgets, SharedBudget
from llmhub.hub import Hub
from llmhub.server.access import Caller
from llmhub.server.plan_document import ModelPlanDocument, PlanDocument
from llmhub.server.routes import HttpRoute
from llmhub.server.running import RunningService
from llmhub.server.server_settings import RunSettings
from llmhub.sim import Latency, Simulator, SimulatorThread
from llmhub.sim import serving as simulating
from llmhub.tables.plan import ModelPlan, Plan

Serving = Callable[..., RunningService]
ServeOn = Callable[..., AbstractContextManager[RunningService]]
MODEL = "openai/gpt-4o-mini"
OTHER = "openai/gpt-4o"
PROMPT = "Say {text}"
STREAM = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"


def stream_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def file_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def form(request: dict[str, Any], table: bytes) -> tuple[bytes, str]:
    """Return a form with a request and a table, and its media type."""
    body = (
        b'--b\r\ncontent-disposition: form-data; name="request"\r\n\r\n'
        + json.dumps(request).encode()
        + b'\r\n--b\r\ncontent-disposition: form-data; name="table"; filename="t"\r\n\r\n'
        + table
        + b"\r\n--b--\r\n"
    )
    return body, "multipart/form-data; boundary=b"


def send(
    url: str, path: str, body: bytes, content_type: str = STREAM, **query: Any
) -> tuple[int, dict[str, str], bytes]:
    """Send a table with a request in the query."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    target = f"{path}?{urlencode(query, doseq=True)}" if query else path
    connection.request("POST", target, body, {"content-type": content_type})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content


def read_stream(content: bytes) -> pa.Table:
    return ipc.open_stream(content).read_all()


def in_order(results: pa.Table) -> pa.Table:
    """Return results for two models in the order of a run here."""
    keys = zip(results.column("row").to_pylist(), results.column("model").to_pylist(), strict=True)
    ranks = [(row, model != MODEL.partition("/")[2]) for row, model in keys]
    return results.take(sorted(range(len(ranks)), key=ranks.__getitem__))


def texts(count: int) -> pa.Table:
    return pa.table({"text": [f"row {number}" for number in range(count)], "other": range(count)})


class OneCaller:
    """Access that knows one caller."""

    def __init__(self, **fields: Any) -> None:
        self.caller = Caller(**{"key_id": "k1", "team": "t", **fields})

    async def authenticate(self, _request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
        return Success(self.caller)


class TestTables:
    @pytest.mark.parametrize(
        ("encode", "content_type"),
        [
            (stream_bytes, STREAM),
            (file_bytes, "application/vnd.apache.arrow.file"),
            (parquet_bytes, PARQUET),
        ],
    )
    def test_results_are_those_of_a_run_here(
        self, serving: Serving, simulator: SimulatorThread, encode: Callable[[pa.Table], bytes], content_type: str
    ) -> None:
        table = texts(7)
        status, headers, content = send(
            serving().url, "/v1/tables", encode(table), content_type, model=[MODEL, "openai/gpt-4o"], prompt=PROMPT
        )
        assert (status, headers["content-type"]) == (200, STREAM)
        results = in_order(read_stream(content))
        with Hub(simulator=simulator.url) as hub:
            expected = complete_table(table, PROMPT, model=[MODEL, "openai/gpt-4o"], hub=hub, progress=False)
        assert results.schema.equals(expected.schema)
        for name in ("row", "model", "status", "response", "cost_usd", "input_tokens", "request_key"):
            assert results.column(name).to_pylist() == expected.column(name).to_pylist(), name

    def test_form_has_options_a_query_has_no_room_for(self, serving: Serving) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        request = {"model": MODEL, "prompt": PROMPT, "schema": schema, "temperature": 0, "n": 2}
        for encode in (stream_bytes, parquet_bytes):
            body, kind = form(request, encode(texts(3)))
            status, _, content = send(serving().url, "/v1/tables", body, kind)
            assert status == 200, content
            results = read_stream(content)
            assert results.num_rows == 6
            assert {type(value["n"]) for value in results.column("parsed").to_pylist()} == {int}

    def test_rows_arrive_as_they_complete(self, serve_on: ServeOn) -> None:
        slow = Simulator(latency=Latency(0.02))
        with simulating(slow) as simulator, serve_on(simulator.url, concurrency=2) as running:
            connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=30)
            query = urlencode({"model": MODEL, "prompt": PROMPT})
            connection.request("POST", f"/v1/tables?{query}", stream_bytes(texts(30)), {"content-type": STREAM})
            with ipc.open_stream(connection.getresponse()) as reader:
                first = reader.read_next_batch()
                assert 0 < first.num_rows < 30
                assert simulator.counts()["requests"] < 30
                assert first.num_rows + sum(batch.num_rows for batch in reader) == 30
            connection.close()

    def test_client_that_leaves_cancels_the_calls(self, serve_on: ServeOn) -> None:
        with simulating(Simulator(latency=Latency(30.0))) as simulator, serve_on(simulator.url) as running:
            connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=30)
            query = urlencode({"model": MODEL, "prompt": PROMPT})
            connection.request("POST", f"/v1/tables?{query}", stream_bytes(texts(5)), {"content-type": STREAM})
            while simulator.counts()["requests"] < 5:
                threading.Event().wait(0.01)
            connection.sock.close()
            while simulator.counts()["in_flight"]:
                threading.Event().wait(0.01)
            assert running.service.lanes.in_use == {"interactive": 0, "bulk": 0}

    def test_skipped_and_failed_rows_are_rows(self, serving: Serving) -> None:
        table = pa.table({"text": ["a", None], "image": ["https://example.com/a.png", "https://example.com/b.png"]})
        status, _, content = send(
            serving().url, "/v1/tables", stream_bytes(table), model=MODEL, prompt=PROMPT, images="image"
        )
        assert status == 200, content
        assert sorted(read_stream(content).column("status").to_pylist()) == ["ok", "skipped"]

    @pytest.mark.parametrize("image", ["/etc/passwd", "http://127.0.0.1/a.png", "http://db/a.png", "file:///a.png"])
    def test_no_cell_reads_a_file_or_a_private_address(
        self, serving: Serving, simulator: SimulatorThread, image: str
    ) -> None:
        before = simulator.counts()["requests"]
        chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}]
        table = pa.table({"image": [image], "chat": [json.dumps(chat)]})
        for column in ({"images": "image"}, {"messages": "chat"}):
            status, _, content = send(serving().url, "/v1/tables", stream_bytes(table), model=MODEL, **column)
            assert status == 200, content
            results = read_stream(content)
            assert results.column("error_type").to_pylist() == ["InvalidRequest"], results.column("error")
        assert simulator.counts()["requests"] == before


class TestRights:
    def test_budget_of_the_key_holds(self, serving: Serving) -> None:
        budget = SharedBudget(parse_budget(0.001))
        access = OneCaller(budgets=Budgets((budget,)))
        url = serving(access=access).url
        _, _, content = send(url, "/v1/tables", stream_bytes(texts(50)), model=MODEL, prompt=PROMPT, max_tokens=100)
        results = read_stream(content)
        spent = sum(cost for cost in results.column("cost_usd").to_pylist() if cost)
        assert 0 < spent <= Decimal("0.001")
        assert budget.budget.spent_usd == spent
        assert "budget" in results.column("status").to_pylist()

    def test_scopes_share_no_responses(self, serving: Serving, simulator: SimulatorThread, tmp_path: Path) -> None:
        before = simulator.counts()["requests"]
        access = OneCaller(cache_scope="a")
        url = serving(access=access, hub={"cache": tmp_path / "c.db"}).url
        hits = []
        for scope in ("a", "a", "b"):
            access.caller = Caller(key_id=scope, team=scope, cache_scope=scope)
            _, _, content = send(url, "/v1/tables", stream_bytes(texts(3)), model=MODEL, prompt=PROMPT)
            hits.append(sum(read_stream(content).column("cache_hit").to_pylist()))
            _, _, content = send(url, "/v1/plans", stream_bytes(texts(4)), model=MODEL, prompt=PROMPT)
            hits.append(json.loads(content)["models"][0]["cache_hits"])
        assert hits == [0, 3, 3, 3, 0, 3]
        assert simulator.counts()["requests"] - before == 6

    def test_models_of_others_are_refused(self, serving: Serving) -> None:
        url = serving(access=OneCaller(models=("anthropic/*",))).url
        for path in ("/v1/tables", "/v1/plans", "/v1/runs"):
            status, _, content = send(url, path, stream_bytes(texts(1)), model=MODEL, prompt=PROMPT)
            assert (status, json.loads(content)["error"]["type"]) == (403, "PermissionDenied")

    def test_interactive_calls_wait_for_no_row(self, serve_on: ServeOn) -> None:
        with (
            simulating(Simulator(latency=Latency(0.3))) as simulator,
            serve_on(simulator.url, concurrency=1) as running,
        ):
            rows = threading.Thread(
                target=send,
                args=(running.url, "/v1/tables", stream_bytes(texts(4))),
                kwargs={"model": MODEL, "prompt": PROMPT},
            )
            rows.start()
            while simulator.counts()["requests"] < 1:
                threading.Event().wait(0.01)
            body = json.dumps({"model": MODEL, "prompt": "now"}).encode()
            assert send(running.url, "/v1/completions", body, "application/json")[0] == 200
            assert simulator.counts()["requests"] < 4
            rows.join(20)


class TestPlans:
    def test_plan_is_that_of_a_run_here(self, serving: Serving, simulator: SimulatorThread) -> None:
        status, _, content = send(serving().url, "/v1/plans", stream_bytes(texts(9)), model=MODEL, prompt=PROMPT)
        assert status == 200, content
        document = json.loads(content)
        with Hub(simulator=simulator.url) as hub:
            expected = hub.plan(texts(9), PROMPT, model=MODEL)
        assert document["calls"] == expected.calls == 9
        assert expected.usd is not None
        assert document["usd"]["expected"] == float(expected.usd.expected)

    def test_pilot_is_sent_for_the_caller(self, serving: Serving, simulator: SimulatorThread, tmp_path: Path) -> None:
        access = OneCaller(cache_scope="a")
        url = serving(access=access, hub={"cache": tmp_path / "c.db"}).url
        status, _, content = send(url, "/v1/plans", stream_bytes(texts(9)), model=MODEL, prompt=PROMPT, pilot=2)
        document = json.loads(content)
        assert (status, document["pilot"], document["calls"]) == (200, 2, 7), content
        access.caller = Caller(key_id="k2", team="b", cache_scope="b")
        _, _, content = send(url, "/v1/plans", stream_bytes(texts(9)), model=MODEL, prompt=PROMPT)
        assert json.loads(content)["calls"] == 9
        assert simulator.counts()["requests"] == 2

    def test_documents_have_the_fields_of_plans(self) -> None:
        for ours, theirs in ((PlanDocument, Plan), (ModelPlanDocument, ModelPlan)):
            names = [field.name for field in msgspec.structs.fields(ours)]
            assert [name for name in names if name not in {"calls", "usd"} or ours is ModelPlanDocument] == [
                field.name for field in fields(theirs)
            ]


TEXTS = stream_bytes(texts(2))
GOOD = {"model": MODEL, "prompt": PROMPT}


VALID: Final[dict[str, Any]] = {
    "model": [MODEL, OTHER],
    "prompt": "Say {text} {other:>5}",
    "system": "text",
    "examples": [["a", "b"]],
    "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "tools": [{"name": "f", "parameters": {"type": "object"}}],
    "extra": {"service_tier": "flex", "metadata": {"a": ["b"]}},
    "temperature": 0.5,
    "n": 2,
    "stop": ["x"],
    "budget_usd": 1,
    "cache": "refresh",
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def requests(draw: Callable[..., Any]) -> dict[str, Any]:
    """Draw a request that has another value in a field, or one in a field of one."""
    request = {name: value for name, value in VALID.items() if name in {"model", "prompt"} or draw(st.booleans())}
    name = draw(st.sampled_from(sorted(VALID)))
    value = request.get(name)
    if isinstance(value, dict) and draw(st.booleans()):
        return {**request, name: {**value, draw(st.sampled_from(sorted(value))): draw(json_values)}}
    return {**request, name: draw(json_values)}


BAD: Final[list[tuple[dict[str, Any], bytes, str, int, str]]] = [
    ({"model": MODEL, "prompt": "{missing}"}, TEXTS, STREAM, 400, "missing"),
    ({"prompt": PROMPT}, TEXTS, STREAM, 400, "model"),
    ({"model": MODEL}, TEXTS, STREAM, 400, "prompt"),
    ({**GOOD, "model": "nobody/x"}, TEXTS, STREAM, 400, "nobody"),
    ({**GOOD, "temprature": "1"}, TEXTS, STREAM, 400, "temprature"),
    ({**GOOD, "n": "0"}, TEXTS, STREAM, 400, "n"),
    ({**GOOD, "request": "[1]"}, TEXTS, STREAM, 400, "object"),
    ({**GOOD, "request": "{"}, TEXTS, STREAM, 400, "JSON"),
    ({**GOOD, "request": '{"extra": {"a": {"model": "gpt-5"}}}'}, TEXTS, STREAM, 400, "extra.a.model"),
    ({**GOOD, "request": '{"extra": {"url": "http://10.0.0.1/"}}'}, TEXTS, STREAM, 400, "private"),
    ({**GOOD, "prompt": "{text:>999999999}"}, TEXTS, STREAM, 400, "characters"),
    ({**GOOD, "prompt": f"{{text:>{'9' * 5000}}}"}, TEXTS, STREAM, 400, "characters"),
    ({**GOOD, "prompt": "{text.__class__}"}, TEXTS, STREAM, 400, "prompt"),
    ({**GOOD, "budget_usd": "nan"}, TEXTS, STREAM, 400, "budget_usd"),
    ({**GOOD, "images": "nowhere"}, TEXTS, STREAM, 400, "nowhere"),
    (GOOD, TEXTS, "application/json", 415, "content-type"),
    (GOOD, TEXTS, PARQUET, 400, "table"),
    (GOOD, b"", STREAM, 400, "table"),
    (GOOD, TEXTS[:-200], STREAM, 400, "table"),
    (GOOD, parquet_bytes(texts(2)), STREAM, 400, "table"),
    ({}, b"--b\r\n\r\n", "multipart/form-data; boundary=b", 400, "form"),
    ({}, b"nothing", "multipart/form-data", 400, "body"),
    ({}, form({"model": MODEL, "rows": 3}, TEXTS)[0], "multipart/form-data; boundary=b", 400, "rows"),
    (GOOD, stream_bytes(texts(3000)), STREAM, 413, "longer"),
]


class TestBadInput:
    @pytest.mark.parametrize("path", ["/v1/tables", "/v1/plans", "/v1/runs"])
    def test_is_refused_in_the_shape_of_the_api(
        self, serving: Serving, simulator: SimulatorThread, path: str, tmp_path: Path
    ) -> None:
        runs = RunSettings(folder=str(tmp_path), max_table_bytes=20_000, max_input_bytes=20_000)
        url = serving(runs=runs).url
        for query, body, kind, status, words in BAD:
            got, headers, content = send(url, path, body, kind, **query)
            assert got == status, (query, kind, content)
            error = json.loads(content)
            assert words in error["error"]["message"], error
            assert error["request_id"] == headers["x-request-id"]
        assert simulator.counts()["requests"] == 0
        assert not list(tmp_path.glob("*.upload"))

    def test_no_request_is_a_defect(self, serving: Serving, tmp_path: Path) -> None:
        url = serving(runs=RunSettings(folder=str(tmp_path))).url

        @given(requests(), st.sampled_from(["/v1/tables", "/v1/plans", "/v1/runs"]))
        @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
        def check(request: dict[str, Any], path: str) -> None:
            body, kind = form(request, TEXTS)
            status, _, content = send(url, path, body, kind)
            assert status < 500, (request, content)
            assert status < 400 or json.loads(content)["error"]["message"]

        check()

    @pytest.mark.parametrize(
        "column",
        [
            pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
            pa.array([2**62], pa.timestamp("us")),
            pa.array([1], pa.timestamp("us", tz="Nowhere/X")),
            pa.array([2**60], pa.date64()),
        ],
    )
    def test_values_without_a_counterpart_are_refused(self, serving: Serving, column: pa.Array) -> None:
        url = serving().url
        body = stream_bytes(pa.table({"text": column}))
        for path in ("/v1/tables", "/v1/plans", "/v1/runs"):
            status, _, content = send(url, path, body, **GOOD)
            assert (status, json.loads(content)["error"]["path"]) == (400, "table"), content

    def test_body_that_arrives_byte_by_byte_is_not_waited_for(self, serving: Serving) -> None:
        connection = http.client.HTTPConnection(urlsplit(serving(body_timeout_s=0.2).url).netloc, timeout=20)
        connection.putrequest("POST", f"/v1/runs?{urlencode(GOOD)}")
        connection.putheader("content-type", STREAM)
        connection.putheader("content-length", "100000")
        connection.endheaders(TEXTS[:10])
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())["error"]["type"]) == (408, "InvalidRequest")
        connection.close()

    def test_cut_values_are_refused_before_they_are_read(self, serving: Serving) -> None:
        """Offsets that point outside of their buffer would be read from other memory."""
        array = pa.array(["a", "b"])
        buffers = array.buffers()
        offsets = pa.py_buffer((0).to_bytes(4, "little") + (1 << 20).to_bytes(4, "little") + (2).to_bytes(4, "little"))
        broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, buffers[2]])
        batch = pa.RecordBatch.from_arrays([broken], ["text"])
        status, _, content = send(serving().url, "/v1/tables", stream_bytes(pa.Table.from_batches([batch])), **GOOD)
        assert (status, json.loads(content)["error"]["path"]) == (400, "table")
