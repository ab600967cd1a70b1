"""Runs that write to a sink, and their continuation."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, assert_type

import pyarrow as pa
import pytest
from pyarrow import dataset, ipc, parquet

import llmhub
from llmhub.api import sink
from llmhub.api.sink import complete_to_sink
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.store import StoreError
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import Latency, Simulator, SimulatorThread, serving
from llmhub.sim.faults import Faults
from llmhub.tables import streaming_io
from llmhub.tables.schema import RESULTS

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def hub(simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a hub of the simulator; blocks are small."""
    monkeypatch.setattr(streaming_io, "BLOCK_ROWS", 8)
    endpoint = llmhub.Endpoint(base_url=simulator.base_url("openai"), api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=llmhub.Retry(attempts=1)) as open_hub:
        yield open_hub


def rows(count: int) -> pa.Table:
    return pa.table({"q": [None if at == 5 else f"question {at}" for at in range(count)]})


def read(path: Path) -> pa.Table:
    if path.suffix == ".arrows":
        with path.open("rb") as file, ipc.open_stream(file) as reader:
            return reader.read_all()
    return dataset.dataset(path).to_table()


@pytest.mark.parametrize("name", ["parts", "out.arrows"])
def test_sink_has_the_same_results_as_a_table(hub: Any, tmp_path: Path, name: str) -> None:
    written = llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=tmp_path / name, n=2)
    table = read(tmp_path / name)
    expected = llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, n=2, progress=False)
    for column in ("row", "sample", "status", "response", "request_key", "cost_usd"):
        assert table.column(column).to_pylist() == expected.column(column).to_pylist()
    assert table.schema.names == RESULTS.names
    assert (written.rows, written.reused_rows, written.stopped) == (40, 0, False)
    assert written.statuses == {"ok": 38, "skipped": 2}
    assert written.cost_usd == sum(cost or 0 for cost in expected.column("cost_usd").to_pylist())


async def test_acomplete_table_with_sink(hub: Any, simulator: SimulatorThread, tmp_path: Path) -> None:
    written = await llmhub.acomplete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=tmp_path / "parts")
    assert_type(written, llmhub.Written)
    assert (written.rows, dict(written.statuses)) == (20, {"ok": 19, "skipped": 1})
    again = await llmhub.acomplete_table(rows(30), "{q}", model=MODEL, hub=hub, sink=tmp_path / "parts")
    assert (again.rows, again.reused_rows, simulator.counts()["requests"]) == (10, 20, 29)
    assert read(tmp_path / "parts").column("row").to_pylist() == list(range(30))
    table = await llmhub.acomplete_table(rows(20), "{q}", model=MODEL, hub=hub, progress=False)
    assert_type(table, pa.Table)
    assert table.num_rows == 20


@pytest.mark.parametrize("name", ["parts", "out.arrows"])
def test_repeated_call_sends_only_new_rows(hub: Any, simulator: SimulatorThread, tmp_path: Path, name: str) -> None:
    llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
    again = llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
    assert (again.rows, again.reused_rows, simulator.counts()["requests"]) == (0, 20, 19)
    more = llmhub.complete_table(rows(30), "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
    assert (more.rows, more.reused_rows, simulator.counts()["requests"]) == (10, 20, 29)
    assert read(tmp_path / name).column("row").to_pylist() == list(range(30))


@pytest.mark.parametrize("cut", [1, 7, 100, 1500])
def test_truncated_stream_is_continued(hub: Any, simulator: SimulatorThread, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.arrows"
    llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=path)
    path.write_bytes(path.read_bytes()[:-cut])
    before = simulator.counts()["requests"]
    written = llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=path)
    assert sorted(read(path).column("row").to_pylist()) == list(range(20))
    assert written.reused_rows + written.rows == 20
    assert simulator.counts()["requests"] - before == written.statuses.get("ok", 0)


@pytest.mark.parametrize("name", ["parts", "out.arrows"])
def test_only_failed_rows_are_sent_again(hub: Any, simulator: SimulatorThread, tmp_path: Path, name: str) -> None:
    simulator.set_faults(Faults(rate_500=0.5))
    first = llmhub.complete_table(rows(24), "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
    failed, sent = first.statuses["error"], simulator.counts()["requests"]
    assert 0 < failed < 23
    simulator.set_faults(Faults())
    second = llmhub.complete_table(rows(24), "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
    assert second.statuses == {"ok": failed}
    assert simulator.counts()["requests"] - sent == failed
    table = read(tmp_path / name)
    assert sorted(table.column("row").to_pylist()) == list(range(24))
    assert set(table.column("status").to_pylist()) == {"ok", "skipped"}


def test_sink_with_other_requests_is_rejected_and_kept(hub: Any, simulator: SimulatorThread, tmp_path: Path) -> None:
    llmhub.complete_table(rows(9), "{q}", model=MODEL, hub=hub, sink=tmp_path / "parts")
    before = read(tmp_path / "parts")
    with pytest.raises(BadRequestError, match="results of other requests"):
        llmhub.complete_table(rows(9), "Say {q}", model=MODEL, hub=hub, sink=tmp_path / "parts")
    assert read(tmp_path / "parts").equals(before)
    assert simulator.counts()["requests"] == 8


def test_sources_are_read_in_blocks(hub: Any, tmp_path: Path) -> None:
    parquet.write_table(rows(20), tmp_path / "in.parquet")
    sources = {
        "path": str(tmp_path / "in.parquet"),
        "dataset": dataset.dataset(tmp_path / "in.parquet"),
        "reader": rows(20).to_reader(3),
        "batches": iter(rows(20).to_batches(max_chunksize=3)),
        "pandas": rows(20).to_pandas(),
    }
    for name, source in sources.items():
        llmhub.complete_table(source, "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
        assert read(tmp_path / name).column("row").to_pylist() == list(range(20))


def test_unwritable_sink_is_rejected_before_sending(hub: Any, simulator: SimulatorThread, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadRequestError, match="sink"):
        llmhub.complete_table(rows(2), "{q}", model=MODEL, hub=hub, sink=tmp_path / "file")
    with pytest.raises(BadRequestError, match="neither a folder"):
        complete_to_sink(tmp_path / "out.csv", rows(2), "{q}", model=MODEL, hub=hub)
    assert simulator.counts()["requests"] == 0


def test_ledger_has_the_cost_of_a_run(simulator: SimulatorThread, tmp_path: Path) -> None:
    endpoint = llmhub.Endpoint(base_url=simulator.base_url("openai"), api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=tmp_path / "runs.db") as hub:
        table = llmhub.complete_table(rows(8), "{q}", model=MODEL, hub=hub, progress=False)
    with llmhub.Hub(settings=Settings(), cache=tmp_path / "runs.db") as other:
        ledger = llmhub.ledger(hub=other)
    assert ledger.column("state").to_pylist() == ["done"] * 7
    assert set(ledger.column("run_id").to_pylist()) == {table.schema.metadata[b"run_id"].decode()}
    assert sum(ledger.column("cost_usd").to_pylist()) == sum(cost or 0 for cost in table.column("cost_usd").to_pylist())
    with llmhub.Hub(settings=Settings()) as bare, pytest.raises(BadRequestError, match="no cache with a ledger"):
        llmhub.ledger(hub=bare)


# Without a cache, the responses of a block are kept beside the sink until the block is written.

KILLED = """
import sys
import llmhub
from llmhub.config import Settings
endpoint = llmhub.Endpoint(base_url=sys.argv[1], api_key="k")
cache = llmhub.MemoryCache() if sys.argv[3] == "memory" else None
with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), concurrency=4, cache=cache) as hub:
    frame = {"q": [f"question {number}" for number in range(200)]}
    llmhub.complete_table(frame, "{q}", model="openai/gpt-4o-mini", hub=hub, sink=sys.argv[2])
"""


def hidden_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


@pytest.mark.parametrize(("name", "cache"), [("parts", "none"), ("out.arrows", "none"), ("parts", "memory")])
def test_a_kill_loses_a_moment_of_a_sink_without_a_cache_that_survives_it(
    tmp_path: Path, name: str, cache: str
) -> None:
    with serving(Simulator(latency=Latency(0.01))) as served:
        arguments = [sys.executable, "-c", KILLED, served.base_url("openai"), str(tmp_path / name), cache]
        process = subprocess.Popen(arguments)
        while served.counts()["requests"] < 120:
            assert process.poll() is None
            threading.Event().wait(0.005)
        process.kill()
        process.wait()
        assert hidden_files(tmp_path)
        subprocess.run(arguments, check=True)
        assert 200 <= served.counts()["requests"] <= 250
    table = read(tmp_path / name)
    assert table.column("row").to_pylist() == list(range(200))
    assert table.column("status").to_pylist() == ["ok"] * 200
    assert hidden_files(tmp_path) == []


@pytest.mark.parametrize("name", ["parts", "out.arrows"])
def test_responses_survive_a_block_that_cannot_be_written(
    hub: Any, simulator: SimulatorThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write = sink._write_results

    def fail_in_the_second_block(plan: Any, opened: Any, block: Any, *rest: Any) -> None:
        if block.first:
            raise OSError("the disk is full")
        write(plan, opened, block, *rest)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):  # noqa: PT012 - patched for it
        patch.setattr(sink, "_write_results", fail_in_the_second_block)
        llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
    assert hidden_files(tmp_path)
    written = llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=tmp_path / name)
    assert (written.rows, written.reused_rows, simulator.counts()["requests"]) == (12, 8, 19)
    assert read(tmp_path / name).column("row").to_pylist() == list(range(20))
    assert hidden_files(tmp_path) == []


def test_a_sink_uses_and_fills_a_cache_in_memory(simulator: SimulatorThread, tmp_path: Path) -> None:
    endpoint = llmhub.Endpoint(base_url=simulator.base_url("openai"), api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        llmhub.complete_table(rows(3), "{q}", model=MODEL, hub=hub, progress=False)
        written = llmhub.complete_table(rows(5), "{q}", model=MODEL, hub=hub, sink=tmp_path / "parts")
        table = llmhub.complete_table(rows(5), "{q}", model=MODEL, hub=hub, progress=False)
    assert simulator.counts()["requests"] == 5
    assert read(tmp_path / "parts").column("cache_hit").to_pylist() == [True] * 3 + [False] * 2
    assert (written.rows, table.column("cache_hit").to_pylist()) == (5, [True] * 5)
    assert hidden_files(tmp_path) == []


@pytest.mark.parametrize("cache", ["off", "refresh"])
def test_a_sink_leaves_the_cache_mode_alone(simulator: SimulatorThread, tmp_path: Path, cache: Any) -> None:
    endpoint = llmhub.Endpoint(base_url=simulator.base_url("openai"), api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        for name in ("first", "second"):
            llmhub.complete_table(rows(4), "{q}", model=MODEL, hub=hub, sink=tmp_path / name, cache=cache)
            assert hidden_files(tmp_path) == []
    assert simulator.counts()["requests"] == 8


def test_a_folder_without_room_for_a_journal_is_a_warning(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_cache: object) -> None:
        raise StoreError("no locks on this file system")

    monkeypatch.setattr(DiskCache, "open", refuse)
    with pytest.warns(RuntimeWarning, match=r"written in blocks of 8 rows.*no locks"):
        written = llmhub.complete_table(rows(20), "{q}", model=MODEL, hub=hub, sink=tmp_path / "parts")
    assert written.rows == 20
