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

    def __init__(self, scripted: Callable[..., Any], speech: Any, at_once: int) -> None:
        self.go = threading.Event()
        self._played = scripted(*[[speech.answer()]] * at_once, [self.go, speech.answer("late")])
        endpoint = llmhub.Endpoint(base_url=f"{self._played.url}/v1", api_key="k")
        self.hub = llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=llmhub.MemoryCache())

    @property
    def requests(self) -> int:
        return len(self._played.requests)


@pytest.fixture
def held(scripted: Callable[..., Any], speech: Any) -> GatedServer:
    return GatedServer(scripted, speech, 6)


def submitted(held: GatedServer, frame: Any = FRAME, **options: Any) -> llmhub.Job[pa.Table]:
    return llmhub.submit(frame, "Say {n}", model=MODEL, hub=held.hub, concurrency=2, **options)


def until(met: Callable[[], bool]) -> None:
    """Wait until a condition holds, for at most a minute."""
    never = threading.Event()
    for _ in range(6000):
        if met():
            return
        never.wait(0.01)
    raise AssertionError("it never is")


def test_submit_returns_at_once_and_table_has_results_so_far(held: GatedServer) -> None:
    job = submitted(held)
    until(lambda: job.table().num_rows == 6)
    assert not job.done
    table = job.table()
    assert table.schema.equals(RESULTS)
    rows = table.column("row").to_pylist()
    assert rows == sorted(rows)
    assert set(table.column("status").to_pylist()) == {"ok"}
    assert "running: " in repr(job)
    with pytest.raises(TimeoutError, match="goes on"):
        job.result(timeout_s=0.05)
    held.go.set()
    whole = job.result()
    assert job.done
    assert whole.column("status").to_pylist() == ["skipped" if at == 3 else "ok" for at in range(ROWS)]
    assert job.table().equals(whole)
    assert whole.slice(0, 0).schema.metadata[b"run_id"]
    assert f"<Job done: {ROWS - 1}/{ROWS} rows   1 skipped" in repr(job)


def test_stop_waits_for_calls_in_flight(held: GatedServer) -> None:
    job = submitted(held)
    until(lambda: job.table().num_rows == 6 and held.requests == 8)
    job.stop()
    assert not job.done
    held.go.set()
    statuses = job.result().column("status").to_pylist()
    assert (statuses.count("ok"), statuses.count("cancelled"), statuses.count("skipped")) == (8, ROWS - 9, 1)
    assert held.requests == 8
    assert job.progress.unanswered == ROWS - 9


def test_second_stop_cancels_calls_in_flight(held: GatedServer) -> None:
    job = submitted(held)
    until(lambda: held.requests == 8)
    job.stop()
    job.stop()
    statuses = job.result(timeout_s=60).column("status").to_pylist()
    assert statuses.count("ok") <= 6
    assert held.requests == 8


def test_job_can_be_awaited_and_survives_cancelled_waits(held: GatedServer) -> None:
    async def work() -> int:
        job = submitted(held)
        impatient = asyncio.ensure_future(asyncio.wait_for(job, 0.05))
        with pytest.raises(TimeoutError):
            await impatient
        assert not job.done
        held.go.set()
        table = await job
        assert (await job).equals(table)
        count: int = pc.sum(pc.equal(table.column("status"), "ok")).as_py()
        return count

    assert asyncio.run(work()) == ROWS - 1


def test_cached_results_are_in_input_order(held: GatedServer) -> None:
    held.hub.__enter__()
    llmhub.complete_table(FRAME.slice(10, 5), "Say {n}", model=MODEL, hub=held.hub, progress=False)
    job = submitted(held)
    until(lambda: job.table().num_rows == 6)
    table = job.table()
    rows = table.column("row").to_pylist()
    assert rows == sorted(rows)
    hits = [row for row, hit in zip(rows, table.column("cache_hit").to_pylist(), strict=True) if hit]
    assert hits == list(range(10, 15))
    held.go.set()
    assert job.result().column("cache_hit").to_pylist().count(True) == 5


def test_table_is_empty_before_the_first_result(scripted: Callable[..., Any], speech: Any) -> None:
    held = GatedServer(scripted, speech, 0)
    job = submitted(held)
    assert job.table().num_rows == 0
    assert job.table().schema.equals(RESULTS)
    held.go.set()
    assert job.result().num_rows == ROWS


def test_accessor_submit_returns_a_frame(held: GatedServer) -> None:
    held.go.set()
    frame = pd.DataFrame({"n": ["a", "b"]}, index=pd.Index(["x", "x"], name="i"))
    job = frame.llm.submit("Say {n}", model=MODEL, hub=held.hub, prefix="r_")
    answered: pd.DataFrame = job.result()
    assert list(answered.index) == ["x", "x"]
    assert list(answered["r_status"]) == ["ok", "ok"]
    assert job.table().num_rows == 2
    with pytest.raises(llmhub.ConnectorError, match="prefix"):
        frame.assign(status=1).llm.submit("Say {n}", model=MODEL, hub=held.hub)


def test_invalid_arguments_are_raised_by_submit(held: GatedServer) -> None:
    with pytest.raises(llmhub.ConnectorError, match="no_such"):
        llmhub.submit(FRAME, "Say {no_such}", model=MODEL, hub=held.hub)
    assert held.requests == 0


def test_later_errors_are_raised_by_result(scripted: Callable[..., Any], speech: Any) -> None:
    server = scripted([speech.reply(b'{"error":{"message":"no"}}', status=400)])
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


def test_html_escapes_model_names(held: GatedServer) -> None:
    held.go.set()
    job = llmhub.submit(FRAME, "Say {n}", model="openai/<script>alert(1)</script>", hub=held.hub)
    job.result()
    html = job._repr_html_()
    assert "<script" not in html
    assert f"done · {ROWS - 1}/{ROWS} rows" in html


@pytest.mark.parametrize(("progress", "shows"), [(None, False), (False, False), (True, True)])
def test_nothing_is_written_to_a_terminal_unless_requested(
    held: GatedServer, monkeypatch: pytest.MonkeyPatch, progress: bool | None, shows: bool
) -> None:
    stderr = io.StringIO()
    stderr.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    held.go.set()
    submitted(held, progress=progress).result()
    assert bool(stderr.getvalue()) == shows


def test_progress_function_is_called(held: GatedServer) -> None:
    told: list[Any] = []
    held.go.set()
    job = submitted(held, progress=told.append)
    job.result()
    assert told[-1].finished
    assert job.progress == told[-1]


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
        said = job.progress
        assert said.spent_usd == pc.sum(table.column("cost_usd")).as_py()
        assert said.forecast_usd == said.spent_usd
        fresh = table.filter(pc.invert(table.column("cache_hit")))
        for model, name in zip(said.models, models, strict=True):
            own = fresh.filter(pc.equal(fresh.column("model").cast(pa.string()), name.partition("/")[2]))
            assert model.input_tokens == (pc.sum(own.column("input_tokens")).as_py() or 0)
        assert 0 < said.failed == table.column("status").to_pylist().count("error")
