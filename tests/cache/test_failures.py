"""Stores that fail during a run: the run continues with a warning, or stops if strict, and loses no response."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

import llmhub
from llmhub.cache.modes import CacheMode
from llmhub.cache.store import Entry, Store, StoreError
from llmhub.config import Settings
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"
ROWS = [f"word {n}" for n in range(60)]


def at_calls(**actions: Callable[[], None]) -> Any:
    """Return a middleware that runs ``actions["n3"]`` in a thread at the third call, and so on."""
    calls = 0

    def wrap(send: Any) -> Any:
        async def send_and_act(call: Any) -> Any:
            nonlocal calls
            calls += 1
            if (action := actions.get(f"n{calls}")) is not None:
                await asyncio.to_thread(action)
            return await send(call)

        return send_and_act

    return wrap


def hub_at(simulator: SimulatorThread, cache: Any, *middleware: Any, **options: Any) -> llmhub.Hub:
    return llmhub.Hub(
        endpoints=simulator.endpoints(),
        settings=Settings(),
        cache=cache,
        middleware=middleware,
        concurrency=4,
        **options,
    )


def ask(hub: llmhub.Hub, rows: list[str] = ROWS, **options: Any) -> pa.Table:
    return llmhub.complete_table({"t": rows}, "{t}", model=MODEL, hub=hub, progress=False, **options)


def statuses(table: Any) -> list[str]:
    values: list[str] = table.column("status").to_pylist()
    return values


@dataclass(frozen=True)
class OnFirstFailure:
    """A cache that calls ``failed`` at its first failing write."""

    cache: Any
    on_failure: Callable[[], None]

    def open(self) -> Store:
        store, called = self.cache.open(), threading.Event()

        def put_many(entries: Any) -> None:
            try:
                store.put_many(entries)
            except StoreError:
                if not called.is_set():
                    called.set()
                    self.on_failure()
                raise

        return replace(store, put_many=put_many)


# Redis


def test_restarted_server_receives_all_responses(own_redis: Any, simulator: SimulatorThread) -> None:
    cache = OnFirstFailure(llmhub.RedisCache(own_redis.url), own_redis.start)
    with hub_at(simulator, cache, at_calls(n10=own_redis.stop)) as hub:
        with pytest.warns(RuntimeWarning, match=r"^the cache failed.* all responses were cached in the end"):
            table = ask(hub)
        sent = simulator.counts()["requests"]
        assert (statuses(table), sent) == (["ok"] * 60, 60)
        # The server does not persist: the responses it held when it died are gone.
        again = ask(hub)
        hits = sum(again.column("cache_hit").to_pylist())
        assert hits >= 30
        assert simulator.counts()["requests"] == sent + 60 - hits


def test_run_completes_without_the_server(simulator: SimulatorThread) -> None:
    expected_warning = pytest.warns(
        RuntimeWarning, match=r"redis://127\.0\.0\.1:1/0.* 60 responses could not be cached"
    )
    with hub_at(simulator, "redis://127.0.0.1:1/0") as hub, expected_warning:
        table = ask(hub)
    assert statuses(table) == ["ok"] * 60


def test_hanging_server_is_not_contacted_during_the_backoff(own_redis: Any) -> None:
    assert own_redis.process is not None
    store = llmhub.RedisCache(own_redis.url, timeout_s=0.1).open()
    store.put_many([Entry(b"k", b"v")])
    own_redis.process.send_signal(signal.SIGSTOP)
    with pytest.raises(StoreError, match=r"redis://127"):
        store.get_many([b"k"])
    with pytest.raises(StoreError, match="not contacted again yet"):
        store.get_many([b"k"])
    own_redis.process.send_signal(signal.SIGCONT)
    values: dict[bytes, bytes] = {}
    while not values:
        try:
            values.update(store.get_many([b"k"]))
        except StoreError:
            threading.Event().wait(0.05)
    assert values == {b"k": b"v"}
    store.close()


def test_failing_near_cache_is_ignored(tmp_path: Path, simulator: SimulatorThread) -> None:
    cache = llmhub.TieredCache(llmhub.RedisCache("redis://127.0.0.1:1/0"), llmhub.DiskCache(tmp_path / "runs.db"))
    with hub_at(simulator, cache) as hub:
        with pytest.warns(RuntimeWarning, match=r"redis://127\.0\.0\.1:1/0"):
            assert statuses(ask(hub)) == ["ok"] * 60
        assert ask(hub).column("cache_hit").to_pylist() == [True] * 60
    assert simulator.counts()["requests"] == 60


# SQLite


def limit_pages(monkeypatch: pytest.MonkeyPatch, pages: int) -> Callable[[], None]:
    """Limit databases to a number of pages; return a function that lifts the limit."""
    connect, limit = sqlite3.connect, [pages]

    class LimitedConnection(sqlite3.Connection):
        def execute(self, *expected_warning: Any) -> Any:
            super().execute(f"PRAGMA max_page_count = {limit[0]}")
            return super().execute(*expected_warning)

    monkeypatch.setattr(
        "llmhub.cache.sqlite.sqlite3.connect", lambda *a, **k: connect(*a, **k, factory=LimitedConnection)
    )
    return lambda: limit.__setitem__(0, 1_000_000)


def test_full_disk_loses_no_response(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_pages(monkeypatch, 12)
    expected_warning = pytest.warns(
        RuntimeWarning, match=r"full; .* responses could not be cached, and requesting them again will be billed"
    )
    with hub_at(simulator, tmp_path / "runs.db") as hub, expected_warning:
        table = ask(hub)
    assert statuses(table) == ["ok"] * 60
    assert simulator.counts()["requests"] == 60


def test_pending_responses_are_stored_once_the_disk_has_room(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = limit_pages(monkeypatch, 12)
    with hub_at(simulator, OnFirstFailure(llmhub.DiskCache(tmp_path / "runs.db"), room)) as hub:
        with pytest.warns(RuntimeWarning, match=r"full; all responses were cached in the end"):
            ask(hub)
        assert ask(hub).column("cache_hit").to_pylist() == [True] * 60
    assert simulator.counts()["requests"] == 60


def test_pending_responses_are_stored_once_the_file_is_unlocked(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    with hub_at(simulator, llmhub.DiskCache(path, busy_s=0.05)) as hub:
        ask(hub, ROWS[:5])
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            cache = OnFirstFailure(hub.cache, lambda: other.execute("ROLLBACK") and None)
            with hub_at(simulator, cache) as later:
                with pytest.warns(RuntimeWarning, match=r"locked; all responses were cached in the end"):
                    ask(later)
                assert ask(later).column("cache_hit").to_pylist() == [True] * 60
    assert simulator.counts()["requests"] == 60


def test_truncated_write_ahead_log_loses_only_its_own_batches(tmp_path: Path) -> None:
    """As after a power failure during a write."""
    path, after = tmp_path / "runs.db", tmp_path / "after.db"
    store = llmhub.DiskCache(path).open()
    values = {n.to_bytes(32, "big"): b"%d" % n * 300 for n in range(200)}
    for start in range(0, 200, 10):
        store.put_many([Entry(key, values[key]) for key in list(values)[start : start + 10]])
    log = Path(f"{path}-wal").read_bytes()
    for cut in (0, 31, 33, len(log) // 3, len(log) // 2, len(log) - 1):
        shutil.copy(path, after)
        Path(f"{after}-wal").write_bytes(log[:cut])
        Path(f"{after}-shm").unlink(missing_ok=True)
        again = llmhub.DiskCache(after).open()
        present = again.get_many(list(values))
        assert len(present) % 10 == 0
        assert present == {key: values[key] for key in present}
        again.put_many([Entry(b"after", b"v")])
        assert again.get_many([b"after"])
        again.close()
    store.close()


# Strict mode

STRICT = CacheMode(strict=True)


def test_strict_mode_sends_nothing_without_the_cache(simulator: SimulatorThread) -> None:
    with hub_at(simulator, "redis://127.0.0.1:1/0", cache_mode=STRICT) as hub:
        with pytest.raises(
            llmhub.CacheError, match=r"cache failed: redis://127.*No further requests were sent"
        ) as caught:
            ask(hub)
        assert statuses(caught.value.table) == ["cancelled"] * 60
        for send_and_act in (llmhub.complete, lambda *a, **k: list(llmhub.stream(*a, **k))):
            with pytest.raises(llmhub.CacheError):
                send_and_act("hi", model=MODEL, hub=hub)
        assert llmhub.try_complete("hi", model=MODEL, hub=hub).failure().path == "cache"
    assert simulator.counts()["requests"] == 0


def test_strict_run_stops_and_keeps_its_results(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_pages(monkeypatch, 14)
    rows = [f"word {n}" for n in range(4_000)]
    with (
        hub_at(simulator, tmp_path / "runs.db") as hub,
        pytest.raises(llmhub.CacheError, match="full") as caught,
    ):
        ask(hub, rows, cache=STRICT)
    expected_warning = statuses(caught.value.table)
    assert set(expected_warning) == {"ok", "cancelled"}
    assert expected_warning.count("ok") == simulator.counts()["requests"] < 4_000


class UnwritableCache(NamedTuple):
    """A cache that cannot be written."""

    def open(self) -> Store:
        def fail(_entries: object) -> None:
            raise StoreError("the disk is full")

        return replace(llmhub.MemoryCache().open(), put_many=fail)


def test_strict_call_keeps_the_response_it_could_not_store(simulator: SimulatorThread) -> None:
    with hub_at(simulator, UnwritableCache(), cache_mode=STRICT) as hub:
        with pytest.raises(llmhub.CacheError, match="the disk is full") as caught:
            llmhub.complete("hi", model=MODEL, hub=hub)
        with pytest.raises(llmhub.CacheError):
            list(llmhub.stream("hi", model=MODEL, hub=hub))
    answer: Any = caught.value.response
    assert answer.text
    assert simulator.counts()["requests"] == 2
