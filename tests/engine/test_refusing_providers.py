"""A provider that refuses every request: the run ends, and rows and progress have the provider's words."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import llmhub
from llmhub.api.embeddings import build_embedding_run, run_embedding_table
from llmhub.config import Settings
from llmhub.core.provider import Endpoint
from llmhub.engine import circuit_breaker, rate_limiter
from llmhub.engine.event_loop import StopSignal, submit
from llmhub.progress.html import progress_html
from llmhub.progress.terminal import render_line
from llmhub.progress.text import progress_line

WORDS = "closed for repairs \x1b[2J"
SHOWN = r"closed for repairs \x1b[2J"
BODY = json.dumps({"error": {"message": WORDS}}).encode()
STATUSES = [429, 500, 503]
WAIT_S = 60.0
MakeHub = Callable[..., llmhub.Hub]
Ask = Callable[..., pa.Table]


@pytest.fixture
def make_hub(http_service: Any) -> Iterator[MakeHub]:
    """Return a function that makes a hub on a server that refuses every request with ``status`` and ``headers``."""
    hubs: list[llmhub.Hub] = []

    def make(status: int, headers: dict[str, str] | None = None, **options: Any) -> llmhub.Hub:
        service = http_service(lambda *_: (status, {"content-type": "application/json", **(headers or {})}, BODY))
        endpoint = Endpoint(base_url=service.url, api_key="key")
        hubs.append(llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), **options))
        return hubs[-1]

    yield make
    for hub in hubs:
        hub.close()


def complete(hub: llmhub.Hub, rows: int, **options: Any) -> pa.Table:
    frame = {"q": [f"row {number}" for number in range(rows)]}
    return llmhub.complete_table(frame, "{q}", model="openai/gpt-4o-mini", hub=hub, **options)


def embed(hub: llmhub.Hub, rows: int, **options: Any) -> pa.Table:
    frame = {"q": [f"row {number}" for number in range(rows)]}
    return llmhub.embed_table(frame, "q", model="openai/text-embedding-3-small", hub=hub, batch_size=1, **options)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("ask", [complete, embed])
def test_a_run_ends_and_its_rows_and_progress_have_the_words(
    make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch, ask: Ask, status: int
) -> None:
    """The rows are far more than could each wait for the deadline."""
    monkeypatch.setattr(rate_limiter, "SHOWN_REFUSALS_S", 0.0)
    monkeypatch.setattr(circuit_breaker, "SHOWN_OUTAGE_S", 0.0)
    hub = make_hub(
        status,
        retry=llmhub.Retry(deadline_s=1.0, base_s=0.2),
        breaker=llmhub.Breaker(cooldown_s=0.2, longest_s=0.4),
        concurrency=4,
    )
    reports: list[Any] = []
    errors = ask(hub, 2000, progress=reports.append)["error"].to_pylist()
    assert all(SHOWN in error for error in errors)
    assert sum("not sent: the provider" in error for error in errors) > 1000
    shown = [report for report in reports if report.refused_by]
    assert shown
    assert shown[-1].refused_by == f"openai: {SHOWN} ({status})"
    assert f"refused: openai: {SHOWN}" in progress_line(shown[-1])
    assert f"refused: openai: {SHOWN}" in render_line(shown[-1], 400)
    assert f"refused: openai: {SHOWN}" in progress_html(shown[-1])


def stopped_table(hub: llmhub.Hub, kind: str, *, waiting: int = 1, on_progress: Any = False) -> pa.Table:
    """Run two rows, one after another, and stop when as many wait to be retried."""
    stop, frame = StopSignal(), {"q": ["first", "second"]}
    if kind == "complete":
        job = llmhub.submit(frame, "{q}", model="openai/gpt-4o-mini", hub=hub, concurrency=1, progress=on_progress)
        request_stop, result = job.stop, job.result
    else:
        options = {"batch_size": 1, "concurrency": 1, "progress": False}
        planned = build_embedding_run(frame["q"], "openai/text-embedding-3-small", hub, options)
        embedding = submit(run_embedding_table(planned, None, stop))
        request_stop, result = stop.request, lambda: embedding.result(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while sum(decision.kind == "retry" for decision in hub.decisions()) < waiting:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    request_stop()
    return result()


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", ["complete", "embed"])
def test_refused_rows_of_a_stopped_run_have_the_words(make_hub: MakeHub, kind: str, status: int) -> None:
    hub = make_hub(status, {"retry-after": "100"})
    table = stopped_table(hub, kind)
    assert table["status"].to_pylist() == ["cancelled"] * 2
    first = table["error"].to_pylist()[0]
    assert first == f"cancelled before the request was retried; 1 attempt had failed: openai: {SHOWN} ({status})"


def test_refused_rows_of_a_stopped_run_are_counted_as_sent(make_hub: MakeHub) -> None:
    reports: list[Any] = []
    stopped_table(make_hub(503, {"retry-after": "100"}), "complete", waiting=2, on_progress=reports.append)
    assert (reports[-1].unanswered, reports[-1].interrupted) == (2, 2)
    assert "2 interrupted" in progress_line(reports[-1])
    assert "not sent" not in progress_line(reports[-1])


def test_rows_that_an_open_circuit_held_back_have_its_last_failure(make_hub: MakeHub) -> None:
    breaker = llmhub.Breaker(degraded=1, failures=1, cooldown_s=60.0, longest_s=60.0)
    hub = make_hub(500, breaker=breaker, retry=llmhub.Retry(base_s=10.0))
    second = stopped_table(hub, "complete", waiting=2)["error"].to_pylist()[1]
    assert second.startswith("cancelled before the request was sent; openai: not sent: the provider kept failing")
    assert f"the last failure was ServerError: openai: {SHOWN} (500)" in second


@pytest.mark.parametrize(("status", "stops"), [(429, 1), (500, 2)])
def test_a_batch_that_is_refused_has_the_words_and_is_stopped(
    http_service: Any, tmp_path: Path, status: int, stops: int
) -> None:
    """It is tried again until then, since a queue of batches may be full. Whether status 500 made one is not known."""
    is_shown = threading.Event()
    shown: list[str] = []

    def answer(_method: str, path: str, *_: object) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, b'{"id": "file-1"}') if path.endswith("/files") else (status, {}, BODY)

    def report(progress: Any) -> None:
        shown.append(progress.refused_by)
        if progress.refused_by:
            is_shown.set()

    endpoints = {"openai": Endpoint(base_url=http_service(answer).url, api_key="key")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=tmp_path / "runs.db") as hub:
        options: dict[str, Any] = {"mode": "batch", "poll_s": 0.02, "progress": report}
        job = llmhub.submit({"q": ["a"]}, "{q}", model="openai/gpt-4o-mini", hub=hub, **options)
        was_shown = is_shown.wait(WAIT_S)
        for _ in range(stops):
            job.stop()
        table = job.result(WAIT_S)
    assert was_shown
    assert f"openai: {SHOWN} ({status})" in shown
    if status == 429:
        message = f"cancelled before the batch was sent; openai: {SHOWN} (429)"
        assert table.select(["status", "error"]).to_pylist() == [{"status": "cancelled", "error": message}]


@pytest.mark.parametrize("retry_after", ["0", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_time_that_has_passed_spends_no_attempt_before_the_backoff(make_hub: MakeHub, retry_after: str) -> None:
    hub = make_hub(503, {"retry-after": retry_after}, retry=llmhub.Retry(attempts=4, base_s=0.05, jitter=0))
    complete(hub, 1, progress=False)
    waits = [decision.wait_s for decision in hub.decisions() if decision.kind == "retry"]
    assert waits == [0.05, 0.1, 0.2]
