"""Stores that fail in the midst of a run: it goes on without, or stops and says so; what was paid for is never lost."""

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


def at_calls(**acts: Callable[[], None]) -> Any:
    """Make a middleware that does something, beside the loop, when the n-th call comes."""
    counted = 0

    def wrap(send: Any) -> Any:
        async def act(call: Any) -> Any:
            nonlocal counted
            counted += 1
            if (todo := acts.get(f"n{counted}")) is not None:
                await asyncio.to_thread(todo)
            return await send(call)

        return act

    return wrap


def hub_at(simulator: SimulatorThread, cache: Any, *middleware: Any, **more: Any) -> llmhub.Hub:
    return llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), cache=cache, middleware=middleware, concurrency=4, **more
    )


def ask(hub: llmhub.Hub, rows: list[str] = ROWS, **more: Any) -> pa.Table:
    return llmhub.complete_table({"t": rows}, "{t}", model=MODEL, hub=hub, progress=False, **more)


def statuses(table: Any) -> list[str]:
    found: list[str] = table.column("status").to_pylist()
    return found


@dataclass(frozen=True)
class Watched:
    """A cache, and what is done when it has failed to file something for the first time."""

    cache: Any
    failed: Callable[[], None]

    def open(self) -> Store:
        store, told = self.cache.open(), threading.Event()

        def put_many(entries: Any) -> None:
            try:
                store.put_many(entries)
            except StoreError:
                if not told.is_set():
                    told.set()
                    self.failed()
                raise

        return replace(store, put_many=put_many)


# Redis


def test_a_server_that_dies_and_returns_costs_no_answer_and_gets_them_all(
    own_redis: Any, simulator: SimulatorThread
) -> None:
    cache = Watched(llmhub.RedisCache(own_redis.url), own_redis.start)
    with hub_at(simulator, cache, at_calls(n10=own_redis.stop)) as hub:
        with pytest.warns(RuntimeWarning, match=r"^the cache failed.* all responses were cached in the end"):
            table = ask(hub)
        sent = simulator.counts()["requests"]
        assert (statuses(table), sent) == (["ok"] * 60, 60)
        # The server keeps nothing on disk: what it had of the first answers went with it.
        again = ask(hub)
        kept = sum(again.column("cache_hit").to_pylist())
        assert kept >= 30
        assert simulator.counts()["requests"] == sent + 60 - kept


def test_a_server_that_is_away_costs_little_and_every_answer_is_there(simulator: SimulatorThread) -> None:
    said = pytest.warns(RuntimeWarning, match=r"redis://127\.0\.0\.1:1/0.* 60 responses could not be cached")
    with hub_at(simulator, "redis://127.0.0.1:1/0") as hub, said:
        table = ask(hub)
    assert statuses(table) == ["ok"] * 60


def test_a_server_that_hangs_is_not_asked_at_each_question(own_redis: Any) -> None:
    assert own_redis.process is not None
    store = llmhub.RedisCache(own_redis.url, timeout_s=0.1).open()
    store.put_many([Entry(b"k", b"v")])
    own_redis.process.send_signal(signal.SIGSTOP)
    with pytest.raises(StoreError, match=r"redis://127"):
        store.get_many([b"k"])
    with pytest.raises(StoreError, match="not contacted again yet"):
        store.get_many([b"k"])
    own_redis.process.send_signal(signal.SIGCONT)
    found: dict[bytes, bytes] = {}
    while not found:
        try:
            found.update(store.get_many([b"k"]))
        except StoreError:
            threading.Event().wait(0.05)
    assert found == {b"k": b"v"}
    store.close()


def test_a_near_store_that_is_away_is_done_without(tmp_path: Path, simulator: SimulatorThread) -> None:
    cache = llmhub.TieredCache(llmhub.RedisCache("redis://127.0.0.1:1/0"), llmhub.DiskCache(tmp_path / "runs.db"))
    with hub_at(simulator, cache) as hub:
        with pytest.warns(RuntimeWarning, match=r"redis://127\.0\.0\.1:1/0"):
            assert statuses(ask(hub)) == ["ok"] * 60
        assert ask(hub).column("cache_hit").to_pylist() == [True] * 60
    assert simulator.counts()["requests"] == 60


# SQLite


def full(monkeypatch: pytest.MonkeyPatch, pages: int) -> Callable[[], None]:
    """Let a database grow to so many pages, and no further until what is given is called."""
    connect, limit = sqlite3.connect, [pages]

    class Small(sqlite3.Connection):
        def execute(self, *said: Any) -> Any:
            super().execute(f"PRAGMA max_page_count = {limit[0]}")
            return super().execute(*said)

    monkeypatch.setattr("llmhub.cache.sqlite.sqlite3.connect", lambda *a, **k: connect(*a, **k, factory=Small))
    return lambda: limit.__setitem__(0, 1_000_000)


def test_a_full_disk_costs_no_answer(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, 12)
    said = pytest.warns(RuntimeWarning, match=r"full; .* responses could not be cached, and requesting them again will be billed")
    with hub_at(simulator, tmp_path / "runs.db") as hub, said:
        table = ask(hub)
    assert statuses(table) == ["ok"] * 60
    assert simulator.counts()["requests"] == 60


def test_what_waited_for_room_on_the_disk_is_filed_when_there_is(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = full(monkeypatch, 12)
    with hub_at(simulator, Watched(llmhub.DiskCache(tmp_path / "runs.db"), room)) as hub:
        with pytest.warns(RuntimeWarning, match=r"full; all responses were cached in the end"):
            ask(hub)
        assert ask(hub).column("cache_hit").to_pylist() == [True] * 60
    assert simulator.counts()["requests"] == 60


def test_a_locked_file_is_written_when_it_is_free_again(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    with hub_at(simulator, llmhub.DiskCache(path, busy_s=0.05)) as hub:
        ask(hub, ROWS[:5])
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            cache = Watched(hub.cache, lambda: other.execute("ROLLBACK") and None)
            with hub_at(simulator, cache) as later:
                with pytest.warns(RuntimeWarning, match=r"locked; all responses were cached in the end"):
                    ask(later)
                assert ask(later).column("cache_hit").to_pylist() == [True] * 60
    assert simulator.counts()["requests"] == 60


def test_a_log_cut_short_costs_the_answers_in_it_and_no_more(tmp_path: Path) -> None:
    """As a machine leaves it that loses its power in the midst of a write."""
    path, after = tmp_path / "runs.db", tmp_path / "after.db"
    store = llmhub.DiskCache(path).open()
    values = {n.to_bytes(32, "big"): b"%d" % n * 300 for n in range(200)}
    for some in range(0, 200, 10):
        store.put_many([Entry(key, values[key]) for key in list(values)[some : some + 10]])
    log = Path(f"{path}-wal").read_bytes()
    for cut in (0, 31, 33, len(log) // 3, len(log) // 2, len(log) - 1):
        shutil.copy(path, after)
        Path(f"{after}-wal").write_bytes(log[:cut])
        Path(f"{after}-shm").unlink(missing_ok=True)
        again = llmhub.DiskCache(after).open()
        found = again.get_many(list(values))
        assert len(found) % 10 == 0
        assert found == {key: values[key] for key in found}
        again.put_many([Entry(b"after", b"v")])
        assert again.get_many([b"after"])
        again.close()
    store.close()


# Where a cache must not fail

STRICT = CacheMode(strict=True)


def test_where_it_must_not_fail_nothing_is_sent_without_it(simulator: SimulatorThread) -> None:
    with hub_at(simulator, "redis://127.0.0.1:1/0", cache_mode=STRICT) as hub:
        with pytest.raises(llmhub.CacheError, match=r"cache failed: redis://127.*No further requests were sent") as caught:
            ask(hub)
        assert statuses(caught.value.table) == ["cancelled"] * 60
        for act in (llmhub.complete, lambda *a, **k: list(llmhub.stream(*a, **k))):
            with pytest.raises(llmhub.CacheError):
                act("hi", model=MODEL, hub=hub)
        assert llmhub.try_complete("hi", model=MODEL, hub=hub).failure().path == "cache"
    assert simulator.counts()["requests"] == 0


def test_where_it_must_not_fail_a_run_stops_and_keeps_what_it_has(
    tmp_path: Path, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, 14)
    rows = [f"word {n}" for n in range(4_000)]
    with hub_at(simulator, tmp_path / "runs.db") as hub, pytest.raises(llmhub.CacheError, match="full") as caught:
        ask(hub, rows, cache=STRICT)
    said = statuses(caught.value.table)
    assert set(said) == {"ok", "cancelled"}
    assert said.count("ok") == simulator.counts()["requests"] < 4_000


class Unwritable(NamedTuple):
    """A cache in which nothing can be filed."""

    def open(self) -> Store:
        def fail(_entries: object) -> None:
            raise StoreError("the disk is full")

        return replace(llmhub.MemoryCache().open(), put_many=fail)


def test_where_it_must_not_fail_the_one_answer_is_not_lost(simulator: SimulatorThread) -> None:
    with hub_at(simulator, Unwritable(), cache_mode=STRICT) as hub:
        with pytest.raises(llmhub.CacheError, match="the disk is full") as caught:
            llmhub.complete("hi", model=MODEL, hub=hub)
        with pytest.raises(llmhub.CacheError):
            list(llmhub.stream("hi", model=MODEL, hub=hub))
    answer: Any = caught.value.response
    assert answer.text
    assert simulator.counts()["requests"] == 2
