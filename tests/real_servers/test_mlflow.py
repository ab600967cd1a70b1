"""Traces as MLflow's tracking server stores them: a backend that others wrote, which reads OTLP over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.sim import SimulatorThread
from tests.real_servers.conftest import FOLDER, free_port, running

ENVIRONMENT = Path(FOLDER, "mlflow", "bin")
EXPERIMENT = {"x-mlflow-experiment-id": "0"}


pytestmark = pytest.mark.real_servers


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run MLflow's server on a database of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        str(ENVIRONMENT / "mlflow"), "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder), "--port", url.rpartition(":")[2], "--workers", "1",
    ]  # fmt: skip
    with running(command, folder / "log", url) as served:
        stored_traces(served)  # it imports what it needs at the first request
        yield served


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"content-type": "application/json"})) as reply:
        return json.load(reply)


def stored_traces(url: str) -> list[tuple[Any, list[Any]]]:
    """Return the traces of the experiment, each with its spans."""
    experiment = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    found = ask(f"{url}/api/3.0/mlflow/traces/search", {"locations": [experiment]}).get("traces", [])
    read = f"{url}/ajax-api/3.0/mlflow/get-trace-artifact?request_id="
    return [(info, ask(read + info["trace_id"])["spans"]) for info in found]


def test_a_run_is_stored_as_a_trace_for_each_call(
    mlflow: str, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    stop = llmhub.tracing.configure(mlflow, headers=EXPERIMENT, content=True, metrics=False)
    retry = llmhub.Retry(attempts=2, base_s=0.01, cap_s=0.01)
    try:
        with llmhub.Hub(simulator=simulator.url, retry=retry, breaker=None, cache=None) as hub:
            frame = {"text": ["an answer", "[[sim:500 once]] a retry", "[[sim:500]] a failure"]}
            table = llmhub.complete_table(frame, "{text}", model="openai/gpt-4o-mini", hub=hub, progress=False)
            llmhub.embed("a vector", model="openai/text-embedding-3-small", hub=hub)
    finally:
        stop()
    rows = table.to_pylist()
    traces = {
        json.loads(info["request_preview"])[0]["parts"][0]["content"]: (info, spans)
        for info, spans in stored_traces(mlflow)
    }
    assert set(traces) == {*frame["text"], "a vector"}
    assert [traces[text][0]["state"] for text in frame["text"]] == ["OK", "OK", "ERROR"]
    for text, row in list(zip(frame["text"], rows, strict=True))[:2]:
        info, spans = traces[text]
        usage, cost = (json.loads(info["trace_metadata"][f"mlflow.trace.{name}"]) for name in ("tokenUsage", "cost"))
        assert (usage["input_tokens"], usage["output_tokens"]) == (row["input_tokens"], row["output_tokens"])
        assert row["response"] in info["response_preview"]
        # MLflow knows the price too.
        assert cost["total_cost"] == pytest.approx(float(row["cost_usd"]))
        assert json.loads(spans[0]["attributes"]["llmhub.cost_usd"]) == pytest.approx(float(row["cost_usd"]))
    assert requests_of(traces["an answer"][1]) == [("chat gpt-4o-mini", "CHAT_MODEL", "UNSET")]
    failed, answered = (("chat gpt-4o-mini", "CHAT_MODEL", status) for status in ("ERROR", "UNSET"))
    assert requests_of(traces["[[sim:500 once]] a retry"][1]) == [failed, answered]
    assert requests_of(traces["[[sim:500]] a failure"][1]) == [failed, failed]
    assert requests_of(traces["a vector"][1]) == [("embeddings text-embedding-3-small", "EMBEDDING", "UNSET")]


def requests_of(spans: list[Any]) -> list[tuple[str, str, str]]:
    """Return name, type and status of the spans of requests, which are below that of their call."""
    (call,) = [span for span in spans if span["parent_span_id"] is None]
    assert {span["parent_span_id"] for span in spans} <= {None, call["span_id"]}
    return [
        (
            span["name"],
            json.loads(span["attributes"]["mlflow.spanType"]),
            span["status"]["code"].removeprefix("STATUS_CODE_"),
        )
        for span in sorted(spans, key=itemgetter("start_time_unix_nano"))
        if "mlflow.spanType" in span["attributes"]
    ]
