"""A run that goes on by itself: what its handle says, gives and stops."""

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


class Held:
    """A server that answers so many requests at once, and the others when told."""

    def __init__(self, scripted: Callable[..., Any], speech: Any, at_once: int) -> None:
        self.go = threading.Event()
        self._played = scripted(*[[speech.answer()]] * at_once, [self.go, speech.answer("late")])
        endpoint = llmhub.Endpoint(base_url=f"{self._played.url}/v1", api_key="k")
        self.hub = llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=llmhub.MemoryCache())

    @property
    def requests(self) -> int:
        return len(self._played.requests)


@pytest.fixture
def held(scripted: Callable[..., Any], speech: Any) -> Held:
    return Held(scripted, speech, 6)


def submitted(held: Held, frame: Any = FRAME, **options: Any) -> llmhub.Job[pa.Table]:
    return llmhub.submit(frame, "Say {n}", model=MODEL, hub=held.hub, concurrency=2, **options)


def until(met: Callable[[], bool]) -> None:
    """Wait until something is so, a minute at most."""
    never = threading.Event()
    for _ in range(6000):
        if met():
            return
        never.wait(0.01)
    raise AssertionError("it never is")


def test_a_handle_comes_at_once_and_says_what_there_is_so_far(held: Held) -> None:
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


def test_stopping_sends_nothing_more_and_keeps_what_was_under_way(held: Held) -> None:
    job = submitted(held)
    until(lambda: job.table().num_rows == 6 and held.requests == 8)
    job.stop()
    assert not job.done
    held.go.set()
    statuses = job.result().column("status").to_pylist()
    assert (statuses.count("ok"), statuses.count("cancelled"), statuses.count("skipped")) == (8, ROWS - 9, 1)
    assert held.requests == 8
    assert job.progress.unanswered == ROWS - 9


def test_stopping_twice_waits_for_nothing(held: Held) -> None:
    job = submitted(held)
    until(lambda: held.requests == 8)
    job.stop()
    job.stop()
    statuses = job.result(timeout_s=60).column("status").to_pylist()
    assert statuses.count("ok") <= 6
    assert held.requests == 8


def test_a_handle_can_be_awaited_and_who_stops_awaiting_does_not_stop_it(held: Held) -> None:
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


def test_what_the_cache_had_is_there_too_in_its_place(held: Held) -> None:
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


def test_nothing_has_landed_before_anything_has(scripted: Callable[..., Any], speech: Any) -> None:
    held = Held(scripted, speech, 0)
    job = submitted(held)
    assert job.table().num_rows == 0
    assert job.table().schema.equals(RESULTS)
    held.go.set()
    assert job.result().num_rows == ROWS


def test_a_frame_comes_back_as_from_complete(held: Held) -> None:
    held.go.set()
    frame = pd.DataFrame({"n": ["a", "b"]}, index=pd.Index(["x", "x"], name="i"))
    job = frame.llm.submit("Say {n}", model=MODEL, hub=held.hub, prefix="r_")
    answered: pd.DataFrame = job.result()
    assert list(answered.index) == ["x", "x"]
    assert list(answered["r_status"]) == ["ok", "ok"]
    assert job.table().num_rows == 2
    with pytest.raises(llmhub.ConnectorError, match="prefix"):
        frame.assign(status=1).llm.submit("Say {n}", model=MODEL, hub=held.hub)


def test_what_is_wrong_with_the_question_is_said_at_once(held: Held) -> None:
    with pytest.raises(llmhub.ConnectorError, match="no_such"):
        llmhub.submit(FRAME, "Say {no_such}", model=MODEL, hub=held.hub)
    assert held.requests == 0


def test_what_goes_wrong_later_is_raised_by_whoever_asks(scripted: Callable[..., Any], speech: Any) -> None:
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


def test_it_is_shown_as_html_whatever_the_model_is_called(held: Held) -> None:
    held.go.set()
    job = llmhub.submit(FRAME, "Say {n}", model="openai/<script>alert(1)</script>", hub=held.hub)
    job.result()
    html = job._repr_html_()
    assert "<script" not in html
    assert f"done · {ROWS - 1}/{ROWS} rows" in html


@pytest.mark.parametrize(("progress", "shows"), [(None, False), (False, False), (True, True)])
def test_a_terminal_is_left_alone_unless_a_line_is_wanted(
    held: Held, monkeypatch: pytest.MonkeyPatch, progress: bool | None, shows: bool
) -> None:
    stderr = io.StringIO()
    stderr.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    held.go.set()
    submitted(held, progress=progress).result()
    assert bool(stderr.getvalue()) == shows


def test_a_function_is_told_of_progress(held: Held) -> None:
    told: list[Any] = []
    held.go.set()
    job = submitted(held, progress=told.append)
    job.result()
    assert told[-1].finished
    assert job.progress == told[-1]


def test_what_the_progress_says_was_spent_is_what_the_table_says(simulator: SimulatorThread) -> None:
    """Prices of several models and of what served, failures, equal rows and a cache between."""
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
