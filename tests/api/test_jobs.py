"""Runs in the background: handle, partial results, stop, progress."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.sim import SimulatorThread
from llmhub.tables.schema import RESULTS

MODEL = "openai/gpt-4o-mini"
ROWS = 20
FRAME = pa.table({"n": [None if at == 3 else str(at) for at in range(ROWS)]})


class GatedServer:
    """A server that answers the first requests at once, and the others when released."""

    def __init__(self, scripted: Callable[..., Any], replies: Any, at_once: int) -> None:
        self.go = threading.Event()
        self._played = scripted(*[[replies.answer()]] * at_once, [self.go, replies.answer("late")])
        endpoint = llmhub.Endpoint(base_url=f"{self._played.url}/v1", api_key="k")
        self.hub = llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=llmhub.MemoryCache())

    @property
    def requests(self) -> int:
        return len(self._played.requests)


@pytest.fixture
def server(scripted: Callable[..., Any], replies: Any) -> GatedServer:
    return GatedServer(scripted, replies, 6)


def submit(server: GatedServer, frame: Any = FRAME, **options: Any) -> llmhub.Job[pa.Table]:
    return llmhub.submit(frame, "Say {n}", model=MODEL, hub=server.hub, concurrency=2, **options)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for at most a minute."""
    never = threading.Event()
    for _ in range(6000):
        if condition():
            return
        never.wait(0.01)
    raise AssertionError("it never is")


def test_submit_returns_at_once_and_table_has_results_so_far(server: GatedServer) -> None:
    job = submit(server)
    wait_until(lambda: job.table().num_rows == 6)
    assert not job.done
    table = job.table()
    assert table.schema.equals(RESULTS)
    rows = table.column("row").to_pylist()
    assert rows == sorted(rows)
    assert set(table.column("status").to_pylist()) == {"ok"}
    assert "running: " in repr(job)
    with pytest.raises(TimeoutError, match="continues in the background"):
        job.result(timeout_s=0.05)
    server.go.set()
    table = job.result()
    assert job.done
    assert table.column("status").to_pylist() == ["skipped" if at == 3 else "ok" for at in range(ROWS)]
    assert job.table().equals(table)
    assert table.slice(0, 0).schema.metadata[b"run_id"]
    assert f"<Job done: {ROWS - 1}/{ROWS} rows   1 skipped" in repr(job)


def test_stop_waits_for_calls_in_flight(server: GatedServer) -> None:
    job = submit(server)
    wait_until(lambda: job.table().num_rows == 6 and server.requests == 8)
    job.stop()
    assert not job.done
    server.go.set()
    statuses = job.result().column("status").to_pylist()
    assert (statuses.count("ok"), statuses.count("cancelled"), statuses.count("skipped")) == (8, ROWS - 9, 1)
    assert server.requests == 8
    assert job.progress.unanswered == ROWS - 9


def test_second_stop_cancels_calls_in_flight(server: GatedServer) -> None:
    job = submit(server)
    wait_until(lambda: server.requests == 8)
    job.stop()
    job.stop()
    statuses = job.result(timeout_s=60).column("status").to_pylist()
    assert statuses.count("ok") <= 6
    assert server.requests == 8


def test_job_can_be_awaited_and_survives_cancelled_waits(server: GatedServer) -> None:
    async def work() -> int:
        job = submit(server)
        impatient = asyncio.ensure_future(asyncio.wait_for(job, 0.05))
        with pytest.raises(TimeoutError):
            await impatient
        assert not job.done
        server.go.set()
        table = await job
        assert (await job).equals(table)
        count: int = pc.sum(pc.equal(table.column("status"), "ok")).as_py()
        return count

    assert asyncio.run(work()) == ROWS - 1


def test_cached_results_are_in_input_order(server: GatedServer) -> None:
    server.hub.__enter__()
    llmhub.complete_table(FRAME.slice(10, 5), "Say {n}", model=MODEL, hub=server.hub, progress=False)
    job = submit(server)
    wait_until(lambda: job.table().num_rows == 6)
    table = job.table()
    rows = table.column("row").to_pylist()
    assert rows == sorted(rows)
    hits = [row for row, hit in zip(rows, table.column("cache_hit").to_pylist(), strict=True) if hit]
    assert hits == list(range(10, 15))
    server.go.set()
    assert job.result().column("cache_hit").to_pylist().count(True) == 5


def test_table_is_empty_before_the_first_result(scripted: Callable[..., Any], replies: Any) -> None:
    server = GatedServer(scripted, replies, 0)
    job = submit(server)
    assert job.table().num_rows == 0
    assert job.table().schema.equals(RESULTS)
    server.go.set()
    assert job.result().num_rows == ROWS


def test_accessor_submit_returns_a_frame(server: GatedServer) -> None:
    server.go.set()
    frame = pd.DataFrame({"n": ["a", "b"]}, index=pd.Index(["x", "x"], name="i"))
    job = frame.llm.submit("Say {n}", model=MODEL, hub=server.hub, prefix="r_")
    answered: pd.DataFrame = job.result()
    assert list(answered.index) == ["x", "x"]
    assert list(answered["r_status"]) == ["ok", "ok"]
    pd.testing.assert_frame_equal(job.table(), answered)
    with pytest.raises(llmhub.ConnectorError, match="prefix"):
        frame.assign(status=1).llm.submit("Say {n}", model=MODEL, hub=server.hub)


def test_invalid_arguments_are_raised_by_submit(server: GatedServer) -> None:
    with pytest.raises(llmhub.ConnectorError, match="no_such"):
        llmhub.submit(FRAME, "Say {no_such}", model=MODEL, hub=server.hub)
    assert server.requests == 0


def test_later_errors_are_raised_by_result(scripted: Callable[..., Any], replies: Any) -> None:
    server = scripted([replies.reply(b'{"error":{"message":"no"}}', status=400)])
    hub = llmhub.Hub(
        endpoints={"openai": llmhub.Endpoint(base_url=f"{server.url}/v1", api_key="k")}, settings=Settings()
    )
    job = llmhub.submit(FRAME, "Say {n}", model=MODEL, hub=hub, on_error="raise")
    with pytest.raises(llmhub.ConnectorError) as caught:
        job.result()
    assert caught.value.table.num_rows == ROWS
    assert "failed, " in repr(job)
    with pytest.raises(llmhub.ConnectorError):
        job.table()


def test_html_escapes_model_names(server: GatedServer) -> None:
    server.go.set()
    job = llmhub.submit(FRAME, "Say {n}", model="openai/<script>alert(1)</script>", hub=server.hub)
    job.result()
    html = job._repr_html_()
    assert "<script" not in html
    assert f"done · {ROWS - 1}/{ROWS} rows" in html


@pytest.mark.parametrize(("progress", "shows"), [(None, False), (False, False), (True, True)])
def test_nothing_is_written_to_a_terminal_unless_requested(
    server: GatedServer, monkeypatch: pytest.MonkeyPatch, progress: bool | None, shows: bool
) -> None:
    stderr = io.StringIO()
    stderr.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    server.go.set()
    submit(server, progress=progress).result()
    assert bool(stderr.getvalue()) == shows


def test_progress_function_is_called(server: GatedServer) -> None:
    reports: list[Any] = []
    server.go.set()
    job = submit(server, progress=reports.append)
    job.result()
    assert reports[-1].finished
    assert job.progress == reports[-1]


def test_spending_in_progress_equals_the_table(simulator: SimulatorThread) -> None:
    """With several models, served models, failures, duplicate rows and a cache."""
    hub = llmhub.Hub(
        endpoints=simulator.endpoints(),
        cache=llmhub.MemoryCache(),
        settings=Settings(),
        retry=llmhub.Retry(attempts=1),
    )
    models = [MODEL, "anthropic/claude-haiku-4-5", "google/gemini-2.0-flash"]
    texts = pa.table({"n": ["1", "2", "2", "[[sim:500 always]]", None, "3"] * 5})
    for _ in range(2):
        job = llmhub.submit(texts, "Say {n}", model=models, hub=hub, n=2)
        table = job.result()
        progress = job.progress
        assert progress.spent_usd == pc.sum(table.column("cost_usd")).as_py()
        assert progress.forecast_usd == progress.spent_usd
        fresh = table.filter(pc.invert(table.column("cache_hit")))
        for model, name in zip(progress.models, models, strict=True):
            own = fresh.filter(pc.equal(fresh.column("model").cast(pa.string()), name.partition("/")[2]))
            assert model.input_tokens == (pc.sum(own.column("input_tokens")).as_py() or 0)
        assert 0 < progress.failed == table.column("status").to_pylist().count("error")
