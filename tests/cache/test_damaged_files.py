"""Files that break under a run, its ledger with them: it goes on or stops, and loses nothing that it paid for."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import llmhub
from llmhub.cache.modes import CacheMode
from llmhub.cache.store import LEASE_S, Ledger, Store, StoreError
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"


FIRST = [f"word {n}" for n in range(40)]


ROWS = [f"word {n}" for n in range(120)]


STRICT = CacheMode(strict=True)


def hub_at(simulator: SimulatorThread, cache: Any, **more: Any) -> llmhub.Hub:
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache, **more)


def ask(hub: llmhub.Hub, rows: list[str] = ROWS, **more: Any) -> tuple[pa.Table, str]:
    """Give the table, and what was said about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = llmhub.complete_table({"t": rows}, "{t}", model=MODEL, hub=hub, progress=False, **more)
    return table, " ".join(str(one.message) for one in caught)


def counted(table: pa.Table) -> dict[str, int]:
    said = table.column("status").to_pylist()
    return {status: said.count(status) for status in set(said)}


@dataclass(frozen=True)
class Failing:
    """A cache file in which, after so many commits, only the ledger cannot be written."""

    path: Path
    after: int

    def open(self) -> Store:
        store = llmhub.DiskCache(self.path).open()
        assert store.ledger is not None
        left = self.after

        def failing(act: Callable[..., Any]) -> Callable[..., Any]:
            def counting(*said: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise StoreError("the ledger's disk is full")
                return act(*said)

            return counting

        ledger: Ledger = store.ledger
        return replace(
            store,
            ledger=replace(ledger, commit=failing(ledger.commit), try_commit=failing(ledger.try_commit)),
        )


@pytest.mark.parametrize("concurrency", [4, 64])
@pytest.mark.parametrize("after", [0, 3])
def test_a_run_goes_on_without_its_ledger_and_says_so(
    tmp_path: Path, simulator: SimulatorThread, concurrency: int, after: int
) -> None:
    with hub_at(simulator, Failing(tmp_path / "runs.db", after)) as hub:
        table, said = ask(hub, concurrency=concurrency)
        assert counted(table) == {"ok": 120}
        assert "ledger failed" in said
        assert "disk is full" in said
    with hub_at(simulator, llmhub.DiskCache(tmp_path / "runs.db")) as hub:
        assert ask(hub)[0].column("cache_hit").to_pylist() == [True] * 120
    assert simulator.counts()["requests"] == 120


@pytest.mark.parametrize("concurrency", [4, 64])
@pytest.mark.parametrize("after", [0, 3])
def test_where_it_must_not_fail_nothing_goes_out_that_is_not_in_the_ledger(
    tmp_path: Path, simulator: SimulatorThread, concurrency: int, after: int
) -> None:
    path = tmp_path / "runs.db"
    with (
        hub_at(simulator, Failing(path, after)) as hub,
        pytest.raises(llmhub.CacheError, match="ledger's disk is full") as caught,
    ):
        ask(hub, cache=STRICT, concurrency=concurrency)
    found, sent = counted(caught.value.table), simulator.counts()["requests"]
    assert found.pop("ok", 0) == sent
    assert found == {"cancelled": 120 - sent}
    assert (sent == 0) == (after == 0)
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        # What was paid for is filed, and asked no more.
        assert sum(ask(hub)[0].column("cache_hit").to_pylist()) == sent
        assert {one["state"] for one in llmhub.ledger(hub=hub).to_pylist()} <= {"done", "ambiguous"}
    assert simulator.counts()["requests"] == 120


@contextmanager
def file_size(path: Path, room: int) -> Iterator[Callable[[], None]]:
    """Give what lets no file grow by more than so much beyond what a file's log has now, as on a full disk."""
    import resource  # noqa: PLC0415 - not on every system

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        most = Path(f"{path}-wal").stat().st_size + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))

    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def acting(at: int, act: Callable[[], None]) -> Any:
    """Make a middleware that does something when the n-th call comes."""
    came = 0

    def wrap(send: Any) -> Any:
        async def sending(call: Any) -> Any:
            nonlocal came
            came += 1
            if came == at:
                await asyncio.to_thread(act)
            return await send(call)

        return sending

    return wrap


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("concurrency", [4, 64])
def test_a_disk_that_is_full_in_the_midst_of_a_run_costs_no_answer(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    path = tmp_path / "runs.db"
    with file_size(path, 40_000) as limit, hub_at(simulator, path, middleware=(acting(30, limit),)) as hub:
        table, said = ask(hub, concurrency=concurrency)
    assert counted(table) == {"ok": 120}
    assert said
    assert simulator.counts()["requests"] == 120
    # Who left could not write that down; its lease is over some time.
    later = time.time() + LEASE_S + 1
    monkeypatch.setattr("llmhub.cache.sqlite_ledger.time.time", lambda: later)
    with hub_at(simulator, path) as hub:
        assert counted(ask(hub)[0]) == {"ok": 120}


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_is_full_stops_a_run_that_must_not_go_on_without(
    tmp_path: Path, simulator: SimulatorThread
) -> None:
    path, rows = tmp_path / "runs.db", [f"word {n}" for n in range(2_000)]
    with (
        file_size(path, 40_000) as limit,
        hub_at(simulator, path, middleware=(acting(30, limit),)) as hub,
        pytest.raises(llmhub.CacheError) as caught,
    ):
        ask(hub, rows, cache=STRICT, concurrency=64)
    found = counted(caught.value.table)
    assert set(found) == {"ok", "cancelled"}
    assert found["ok"] == simulator.counts()["requests"] < 2_000


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
@pytest.mark.parametrize("strict", [False, True])
def test_a_folder_that_cannot_be_written_is_refused_by_name(simulator: SimulatorThread, strict: bool) -> None:
    with (
        hub_at(simulator, llmhub.DiskCache("/proc/self/llmhub/runs.db"), cache_mode=CacheMode(strict=strict)) as hub,
        pytest.raises(BadRequestError, match=r"/proc/self/llmhub/runs.db.*pass another path"),
    ):
        ask(hub)
    assert simulator.counts()["requests"] == 0


def filled(simulator: SimulatorThread, path: Path) -> None:
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        ask(hub, FIRST)


def going_on_or_refused(simulator: SimulatorThread, path: Path, **more: Any) -> None:
    """Ask all; either every row is answered, or it is said that the file cannot be used, and nothing was sent."""
    before = simulator.counts()["requests"]
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        try:
            table, said = ask(hub, **more)
        except BadRequestError as error:
            assert str(path) in str(error)  # noqa: PT017 - only if it is refused
            assert simulator.counts()["requests"] == before
        except llmhub.CacheError as error:
            assert more
            found = counted(error.table)
            assert set(found) <= {"ok", "cancelled"}
            assert sum(found.values()) == 120
        else:
            assert counted(table) == {"ok": 120}
            hits = sum(table.column("cache_hit").to_pylist())
            assert hits == 40 or said
            assert simulator.counts()["requests"] - before == 120 - hits


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("table", ["answers", "owners", "claims", "calls"])
def test_a_page_that_is_damaged_never_costs_an_answer(
    tmp_path: Path, simulator: SimulatorThread, table: str, strict: bool
) -> None:
    path = tmp_path / "runs.db"
    filled(simulator, path)
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)
    going_on_or_refused(simulator, path, **({"cache": STRICT} if strict else {}))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut_short_never_costs_an_answer(
    tmp_path: Path, simulator: SimulatorThread, share: float, strict: bool
) -> None:
    path = tmp_path / "runs.db"
    filled(simulator, path)
    os.truncate(path, int(path.stat().st_size * share))
    if share == 0.0:
        # An empty file is a new one: everything is asked again, and nothing is to be said.
        with hub_at(simulator, llmhub.DiskCache(path)) as hub:
            assert counted(ask(hub)[0]) == {"ok": 120}
        return
    going_on_or_refused(simulator, path, **({"cache": STRICT} if strict else {}))


def test_a_ledger_s_pack_that_is_damaged_is_done_without(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    filled(simulator, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO owners (realm, pid, born, lease_until) VALUES ('gone', 1, '1', 0)")
        connection.execute("INSERT INTO claims (owner, kind, pack) SELECT max(id), 1, x'c1ff' FROM owners")
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        table, said = ask(hub)
        assert counted(table) == {"ok": 120}
        assert "damaged" in said
        with pytest.raises(StoreError, match="damaged"):
            llmhub.ledger(hub=hub)
    assert simulator.counts()["requests"] == 120
