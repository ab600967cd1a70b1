"""Metrics, traces and logs of the service: who called, what it cost, and where a trace came from."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from returns.result import Failure, Success

import llmhub
from llmhub.core.errors import AuthFailed
from llmhub.server.access import Caller

MODEL = "openai/gpt-4o-mini"


class OneKey:
    """Accepts one key, which belongs to a team."""

    async def authenticate(self, request: Any, route: Any) -> Any:
        if request.headers.get("authorization") != "Bearer team-key-123":
            return Failure(AuthFailed(message="unknown key"))
        return Success(Caller(key_id="key_7", team="blue"))


def post(url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    with urllib.request.urlopen(request) as reply:
        return json.loads(reply.read())


def get(url: str, headers: Mapping[str, str]) -> tuple[str, str]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers))) as reply:
        return reply.read().decode(), reply.headers["content-type"]


BODY = {"model": MODEL, "messages": [{"role": "user", "content": "a secret plan"}]}
KEY = {"authorization": "Bearer team-key-123"}


def test_metrics_of_the_service_name_teams(serving: Callable[..., Any]) -> None:
    running = serving(access=OneKey())
    post(f"{running.url}/v1/chat/completions", BODY, KEY)
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{running.url}/metrics", {})
    assert refused.value.code == 401
    refused.value.close()
    page, content_type = get(f"{running.url}/metrics", KEY)
    assert content_type == llmhub.metrics.CONTENT_TYPE
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["llmhub_team_calls_total", "blue", "ok"] == 1
    assert samples["llmhub_calls_total", "", "gpt-4o-mini", "ok", "openai"] == 1
    assert "team-key" not in page
    assert "secret" not in page


def test_a_trace_goes_through_the_service(serving: Callable[..., Any]) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    running = serving(access=OneKey())
    undo = llmhub.tracing.configure(tracer_provider=provider, metrics=False)
    trace_id, span_id = "ab" * 16, "cd" * 8
    try:
        post(f"{running.url}/v1/chat/completions", BODY, {**KEY, "traceparent": f"00-{trace_id}-{span_id}-01"})
        llmhub.observability.flush()
    finally:
        undo()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    server, call = spans["POST /v1/chat/completions"], spans[f"call {MODEL}"]
    assert f"{server.context.trace_id:032x}" == trace_id
    assert f"{server.parent.span_id:016x}" == span_id
    assert call.parent.span_id == server.context.span_id
    assert spans["chat gpt-4o-mini"].parent.span_id == call.context.span_id
    assert (call.attributes["llmhub.key_id"], call.attributes["llmhub.team"]) == ("key_7", "blue")


def test_log_lines_of_the_service_name_the_request(serving: Callable[..., Any]) -> None:
    stream = io.StringIO()
    undo = llmhub.logging.configure("info", json=True, stream=stream)
    try:
        running = serving(access=OneKey())
        post(f"{running.url}/v1/chat/completions", BODY, {**KEY, "x-request-id": "notebook-7"})
    finally:
        undo()
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    (entry,) = [entry for entry in entries if entry["logger"] == "llmhub.calls"]
    assert (entry["request_id"], entry["key_id"], entry["team"]) == ("notebook-7", "key_7", "blue")
    assert "secret" not in stream.getvalue()
    assert "team-key" not in stream.getvalue()
