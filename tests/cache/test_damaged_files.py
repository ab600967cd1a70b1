"""Cache files that fail or are damaged: the run continues, or stops if strict, and loses no billed response."""

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


def hub_at(simulator: SimulatorThread, cache: Any, **options: Any) -> llmhub.Hub:
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache, **options)


def ask(hub: llmhub.Hub, rows: list[str] = ROWS, **options: Any) -> tuple[pa.Table, str]:
    """Return the results table, and the text of all warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = llmhub.complete_table({"t": rows}, "{t}", model=MODEL, hub=hub, progress=False, **options)
    return table, " ".join(str(warning.message) for warning in caught)


def status_counts(table: pa.Table) -> dict[str, int]:
    messages = table.column("status").to_pylist()
    return {status: messages.count(status) for status in set(messages)}


@dataclass(frozen=True)
class FailingLedgerCache:
    """A disk cache whose ledger fails after a number of commits; responses can still be stored."""

    path: Path
    after: int

    def open(self) -> Store:
        store = llmhub.DiskCache(self.path).open()
        assert store.ledger is not None
        left = self.after

        def fail_after_limit(act: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*messages: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise StoreError("the ledger's disk is full")
                return act(*messages)

            return counted

        ledger: Ledger = store.ledger
        return replace(
            store,
            ledger=replace(
                ledger, commit=fail_after_limit(ledger.commit), try_commit=fail_after_limit(ledger.try_commit)
            ),
        )


@pytest.mark.parametrize("concurrency", [4, 64])
@pytest.mark.parametrize("after", [0, 3])
def test_run_continues_and_warns_when_the_ledger_fails(
    tmp_path: Path, simulator: SimulatorThread, concurrency: int, after: int
) -> None:
    with hub_at(simulator, FailingLedgerCache(tmp_path / "runs.db", after)) as hub:
        table, messages = ask(hub, concurrency=concurrency)
        assert status_counts(table) == {"ok": 120}
        assert "ledger failed" in messages
        assert "disk is full" in messages
    with hub_at(simulator, llmhub.DiskCache(tmp_path / "runs.db")) as hub:
        assert ask(hub)[0].column("cache_hit").to_pylist() == [True] * 120
    assert simulator.counts()["requests"] == 120


@pytest.mark.parametrize("concurrency", [4, 64])
@pytest.mark.parametrize("after", [0, 3])
def test_strict_run_sends_nothing_the_ledger_did_not_record(
    tmp_path: Path, simulator: SimulatorThread, concurrency: int, after: int
) -> None:
    path = tmp_path / "runs.db"
    with (
        hub_at(simulator, FailingLedgerCache(path, after)) as hub,
        pytest.raises(llmhub.CacheError, match="ledger's disk is full") as caught,
    ):
        ask(hub, cache=STRICT, concurrency=concurrency)
    counts, sent = status_counts(caught.value.table), simulator.counts()["requests"]
    assert counts.pop("ok", 0) == sent
    assert counts == {"cancelled": 120 - sent}
    assert (sent == 0) == (after == 0)
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        # Every billed response was stored.
        assert sum(ask(hub)[0].column("cache_hit").to_pylist()) == sent
        assert {warning["state"] for warning in llmhub.ledger(hub=hub).to_pylist()} <= {"done", "ambiguous"}
    assert simulator.counts()["requests"] == 120


@contextmanager
def limited_file_size(path: Path, extra_bytes: int) -> Iterator[Callable[[], None]]:
    """Yield a function that limits file sizes to the current write-ahead log and ``room`` bytes, like a full disk."""
    import resource  # noqa: PLC0415 - not on every system

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        max_bytes = Path(f"{path}-wal").stat().st_size + extra_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))

    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def at_call(at: int, act: Callable[[], None]) -> Any:
    """Return a middleware that calls ``act`` at the n-th call."""
    calls = 0

    def wrap(send: Any) -> Any:
        async def send_and_act(call: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                await asyncio.to_thread(act)
            return await send(call)

        return send_and_act

    return wrap


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
@pytest.mark.parametrize("concurrency", [4, 64])
def test_full_disk_during_a_run_loses_no_response(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    path = tmp_path / "runs.db"
    with limited_file_size(path, 40_000) as limit, hub_at(simulator, path, middleware=(at_call(30, limit),)) as hub:
        table, messages = ask(hub, concurrency=concurrency)
    assert status_counts(table) == {"ok": 120}
    assert messages
    assert simulator.counts()["requests"] == 120
    # The owner could not record its end; its lease expires.
    later = time.time() + LEASE_S + 1
    monkeypatch.setattr("llmhub.cache.sqlite_ledger.time.time", lambda: later)
    with hub_at(simulator, path) as hub:
        assert status_counts(ask(hub)[0]) == {"ok": 120}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_full_disk_stops_a_strict_run(tmp_path: Path, simulator: SimulatorThread) -> None:
    path, rows = tmp_path / "runs.db", [f"word {n}" for n in range(2_000)]
    with (
        limited_file_size(path, 40_000) as limit,
        hub_at(simulator, path, middleware=(at_call(30, limit),)) as hub,
        pytest.raises(llmhub.CacheError) as caught,
    ):
        ask(hub, rows, cache=STRICT, concurrency=64)
    counts = status_counts(caught.value.table)
    assert set(counts) == {"ok", "cancelled"}
    assert counts["ok"] == simulator.counts()["requests"] < 2_000


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
@pytest.mark.parametrize("strict", [False, True])
def test_unwritable_folder_is_rejected_by_name(simulator: SimulatorThread, strict: bool) -> None:
    with (
        hub_at(simulator, llmhub.DiskCache("/proc/self/llmhub/runs.db"), cache_mode=CacheMode(strict=strict)) as hub,
        pytest.raises(BadRequestError, match=r"/proc/self/llmhub/runs.db.*pass another path"),
    ):
        ask(hub)
    assert simulator.counts()["requests"] == 0


def fill_cache(simulator: SimulatorThread, path: Path) -> None:
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        ask(hub, FIRST)


def assert_completed_or_refused(simulator: SimulatorThread, path: Path, **options: Any) -> None:
    """Run all rows: all are answered with a warning, or the file is rejected before anything is sent."""
    before = simulator.counts()["requests"]
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        try:
            table, messages = ask(hub, **options)
        except BadRequestError as error:
            assert str(path) in str(error)  # noqa: PT017 - only if rejected
            assert simulator.counts()["requests"] == before
        except llmhub.CacheError as error:
            assert options
            counts = status_counts(error.table)
            assert set(counts) <= {"ok", "cancelled"}
            assert sum(counts.values()) == 120
        else:
            assert status_counts(table) == {"ok": 120}
            hits = sum(table.column("cache_hit").to_pylist())
            assert hits == 40 or messages
            assert simulator.counts()["requests"] - before == 120 - hits


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("table", ["answers", "owners", "claims", "calls"])
def test_damaged_page_never_loses_a_response(
    tmp_path: Path, simulator: SimulatorThread, table: str, strict: bool
) -> None:
    path = tmp_path / "runs.db"
    fill_cache(simulator, path)
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)
    assert_completed_or_refused(simulator, path, **({"cache": STRICT} if strict else {}))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_truncated_file_never_loses_a_response(
    tmp_path: Path, simulator: SimulatorThread, share: float, strict: bool
) -> None:
    path = tmp_path / "runs.db"
    fill_cache(simulator, path)
    os.truncate(path, int(path.stat().st_size * share))
    if share == 0.0:
        # An empty file is a new cache.
        with hub_at(simulator, llmhub.DiskCache(path)) as hub:
            assert status_counts(ask(hub)[0]) == {"ok": 120}
        return
    assert_completed_or_refused(simulator, path, **({"cache": STRICT} if strict else {}))


def test_run_continues_with_a_damaged_ledger(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    fill_cache(simulator, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO owners (realm, pid, born, lease_until) VALUES ('gone', 1, '1', 0)")
        connection.execute("INSERT INTO claims (owner, kind, pack) SELECT max(id), 1, x'c1ff' FROM owners")
    with hub_at(simulator, llmhub.DiskCache(path)) as hub:
        table, messages = ask(hub)
        assert status_counts(table) == {"ok": 120}
        assert "damaged" in messages
        with pytest.raises(StoreError, match="damaged"):
            llmhub.ledger(hub=hub)
    assert simulator.counts()["requests"] == 120
