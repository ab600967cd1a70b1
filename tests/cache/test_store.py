"""Stores: one suite for every kind, and the bounds of the memory cache."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmhub
from llmhub.cache.store import ABSENT, BlockValues, Entry, Store, lookup_block
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"


def make_keys(count: int) -> list[bytes]:
    return [n.to_bytes(32, "big") for n in range(count)]


def test_put_many_and_get_many(store: Store) -> None:
    all_keys = make_keys(2_500)
    store.put_many([Entry(key, key[::-1], "m", 1.0) for key in all_keys])
    assert store.get_many([*all_keys, b"absent"]) == {key: key[::-1] for key in all_keys}
    assert store.get_many([]) == {}
    stats = store.stats()
    assert (stats.entries, stats.hits, stats.misses) == (2_500, 2_500, 1)
    assert stats.size_bytes >= 2_500 * 32


def test_the_last_entry_of_a_key_wins(store: Store) -> None:
    store.put_many([Entry(b"k", b"old")])
    store.put_many([Entry(b"k", b"new"), Entry(b"k", b"newest")])
    assert store.get_many([b"k", b"k"]) == {b"k": b"newest"}
    assert store.stats().entries == 1


def test_large_values_of_any_sizes_are_stored_as_they_are(store: Store) -> None:
    """Large values of one size, model and time are inserted together: each is the value of its own key."""
    sizes = [5_000] * 150 + [5_000, 10, 6_144, 6_144, 5_000, 0, 0] + [6_144] * 3
    entries = [
        Entry(
            sha256(b"%d" % number).digest(),
            (b"%d," % number * size)[:size],
            f"m{number % 200 // 100}",
            1.0 + number // 60,
        )
        for number, size in enumerate(sizes)
    ]
    replaced = [entries[3]._replace(value=b"a" * 5_000), entries[4], entries[3]._replace(value=b"b" * 5_000)]
    store.put_many([*entries[:3], *replaced, *entries[5:], Entry(b"short key", b"c" * 5_000, "m", 1.0)])
    expected = {entry.key: entry for entry in (*entries, replaced[2], Entry(b"short key", b"c" * 5_000, "m", 1.0))}
    assert {entry.key: entry for entry in store.get_entries(list(expected))} == expected
    assert store.stats().entries == len(expected)


def test_delete_and_clear(store: Store) -> None:
    store.put_many([Entry(key, b"v") for key in make_keys(3)])
    store.delete([make_keys(3)[0], b"absent"])
    assert set(store.get_many(make_keys(3))) == set(make_keys(3)[1:])
    store.clear()
    assert store.stats().entries == 0


def test_concurrent_threads(store: Store) -> None:
    def work(thread: int) -> None:
        for n in range(20):
            store.put_many([Entry(b"%d.%d" % (thread, n), b"%d" % n)])
            assert store.get_many([b"%d.%d" % (thread, n)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.stats().entries == 160


def test_get_block_equals_get_many(store: Store) -> None:
    values = {key: bytes([n % 256]) * (n % 7) for n, key in enumerate(make_keys(3_000)) if n % 3}
    store.put_many([Entry(key, value) for key, value in values.items()])
    wanted = [*make_keys(3_000), *make_keys(10)]
    block = lookup_block(store, b"".join(wanted))
    assert values_of(block) == [values.get(key) for key in wanted]
    assert values_of(lookup_block(store, b"")) == []


def values_of(block: BlockValues) -> list[bytes | None]:
    """Return the value of each key of a block, or ``None``."""
    spans = zip(list(block.starts), list(block.sizes), strict=True)
    return [None if size == ABSENT else block.values[start : start + size] for start, size in spans]


@given(st.data())
def test_get_block_equals_get_many_in_any_order(data: st.DataObject) -> None:
    """Range reads must also handle keys stored elsewhere, replaced, deleted or too old."""
    stored = data.draw(st.permutations(range(400)) | st.just(list(range(400))))
    deleted = data.draw(st.sets(st.sampled_from(range(400)), max_size=40))
    replaced = data.draw(st.lists(st.sampled_from(range(400)), max_size=40))
    low, high = data.draw(st.integers(0, 200)), data.draw(st.integers(200, 420))
    wanted = [*range(low, high), *data.draw(st.lists(st.sampled_from(range(420)), max_size=20))]
    with TemporaryDirectory() as folder:
        store = llmhub.DiskCache(f"{folder}/runs.db").open()
        store.put_many([Entry(b"another length", b"x" * 50)])
        store.put_many([Entry(hashed_key(n), b"%d" % n * (n % 5), "", 100.0) for n in stored])
        store.put_many([Entry(hashed_key(n), b"again %d" % n, "", 50.0) for n in replaced])
        store.delete([hashed_key(n) for n in deleted])
        wanted_keys = [hashed_key(n) for n in wanted]
        for since in (0.0, 75.0):
            present = store.get_many(wanted_keys, since)
            assert store.get_block is not None
            assert values_of(store.get_block(b"".join(wanted_keys), since)) == [present.get(key) for key in wanted_keys]
        store.close()


def hashed_key(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def test_blocks_beyond_the_size_limit_of_a_value_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = llmhub.DiskCache(tmp_path / "runs.db").open()
    values = {hashed_key(n): b"%d" % n * 3_000 for n in range(200)}
    store.put_many([Entry(key, value) for key, value in values.items()])
    store.close()
    connect = sqlite3.connect

    def connect_with_limit(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **keywords)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        return connection

    monkeypatch.setattr("llmhub.cache.sqlite.sqlite3.connect", connect_with_limit)
    store = llmhub.DiskCache(tmp_path / "runs.db").open()
    assert values_of(lookup_block(store, b"".join(values))) == list(values.values())
    store.close()


def test_entries_before_since_are_misses(store: Store) -> None:
    old, new = make_keys(2)
    store.put_many([Entry(old, b"old", "m", 100.0), Entry(new, b"new", "m", 200.0)])
    for _ in range(2):
        assert store.get_many([old, new], 150.0) == {new: b"new"}
        assert store.get_many([old, new], 200.0) == {new: b"new"}
        assert set(store.get_many([old, new], 100.0)) == {old, new}
    if store.get_block is not None:
        assert list(store.get_block(old + new, 150.0).sizes) == [ABSENT, 3]


def test_scan_and_get_entries_return_whole_entries(store: Store) -> None:
    entries = [Entry(key, b"v%d" % n, f"p/m{n % 2}", float(n + 1)) for n, key in enumerate(make_keys(1_200))]
    store.put_many(entries)
    assert sorted(store.scan()) == entries
    assert sorted(store.get_entries(make_keys(1_300))) == entries
    before = time.time()
    store.put_many([Entry(b"k", b"v")])
    (entry,) = store.get_entries([b"k"])
    assert before <= entry.created_at <= time.time()


def test_deleting_during_a_scan(store: Store) -> None:
    store.put_many([Entry(key, b"v") for key in make_keys(1_500)])
    for entry in store.scan():
        store.delete([entry.key])
    assert store.stats().entries == 0


@pytest.mark.parametrize("kind", ["memory", "disk", "redis", "tier"])
def test_entries_older_than_the_ttl_are_misses(kind: str, make_cache: Callable[..., Any]) -> None:
    store = make_cache(kind, ttl_s=3600.0).open()
    now = time.time()
    store.put_many([Entry(b"o" * 32, b"1", "", now - 4000), Entry(b"n" * 32, b"2", "", now - 3000)])
    assert store.get_many([b"o" * 32, b"n" * 32]) == {b"n" * 32: b"2"}
    assert values_of(lookup_block(store, b"o" * 32 + b"n" * 32)) == [None, b"2"]
    store.close()


@pytest.mark.parametrize("ttl_s", [0, -1, "1", True])
def test_invalid_times_are_rejected(ttl_s: Any) -> None:
    for make in (llmhub.MemoryCache, partial(llmhub.DiskCache, "x"), llmhub.RedisCache):
        with pytest.raises(BadRequestError, match=r"^ttl_s: "):
            make(ttl_s=ttl_s)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.binary(max_size=9)), max_size=30), st.integers(1, 9))
def test_memory_cache_stays_within_its_bounds(puts: list[tuple[bytes, bytes]], max_entries: int) -> None:
    store = llmhub.MemoryCache(max_entries=max_entries, max_bytes=20).open()
    for key, value in puts:
        store.put_many([Entry(key, value)])
        stats = store.stats()
        assert stats.entries <= max_entries
        assert stats.size_bytes <= 20
    if puts and len(puts[-1][1]) <= 20:
        assert store.get_many([puts[-1][0]]) == {puts[-1][0]: puts[-1][1]}


def test_memory_cache_evicts_the_least_recently_used() -> None:
    store = llmhub.MemoryCache(max_entries=2).open()
    store.put_many([Entry(b"a", b"1"), Entry(b"b", b"2")])
    store.get_many([b"a"])
    store.put_many([Entry(b"c", b"3")])
    assert set(store.get_many([b"a", b"b", b"c"])) == {b"a", b"c"}
    assert store.stats().evictions == 1


def test_waits_for_another_process_that_sets_up_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, attempts = tmp_path / "runs.db", []
    connect = sqlite3.connect
    with closing(connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        class CountingConnection(sqlite3.Connection):
            def executescript(self, script: str) -> sqlite3.Cursor:
                try:
                    return super().executescript(script)
                except sqlite3.OperationalError:
                    attempts.append(script)
                    other.execute("ROLLBACK")
                    raise

        monkeypatch.setattr(
            "llmhub.cache.sqlite.sqlite3.connect", lambda *a, **k: connect(*a, **k, factory=CountingConnection)
        )
        store = llmhub.DiskCache(path).open()
        store.put_many([Entry(b"k", b"v")])
        assert len(attempts) == 1
        store.close()


def test_connection_is_closed_when_a_pragma_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    opened: list[sqlite3.Connection] = []

    class FailingConnection(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            opened.append(self)
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(
        "llmhub.cache.sqlite.sqlite3.connect", lambda *a, **k: connect(*a, **k, factory=FailingConnection)
    )
    with pytest.raises(BadRequestError, match="disk I/O error"):
        llmhub.DiskCache(tmp_path / "runs.db").open()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].cursor()


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    code = (
        "import sys, llmhub\nfrom llmhub.cache.store import Entry\n"
        f"store = llmhub.DiskCache({str(path)!r}).open()\n"
        "for n in range(100):\n    store.put_many([Entry(b'%s.%d' % (sys.argv[1].encode(), n), b'v')])\nstore.close()"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    store = llmhub.DiskCache(path).open()
    assert store.stats().entries == 200
    store.close()


def write_foreign_file(path: Path, kind: str) -> None:
    if kind == "no database":
        path.write_bytes(b"these are my notes, not a database" * 50)
        return
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")
        if kind == "a later layout":
            connection.execute("PRAGMA application_id = 0x6C6C6D68")
            connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("kind", ["no database", "another program's", "a later layout"])
def test_foreign_files_are_named_and_left_unchanged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.db"
    write_foreign_file(path, kind)
    before = path.read_bytes()
    with pytest.raises(BadRequestError, match=r"^cache: cannot use .*mine\.db.*left as it is"):
        llmhub.DiskCache(path).open()
    assert path.read_bytes() == before


def test_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadRequestError, match=r"^cache: cannot use .*file"):
        llmhub.DiskCache(tmp_path / "file" / "runs.db").open()


def test_unusable_cache_is_rejected_before_anything_is_sent(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "mine.db"
    write_foreign_file(path, "no database")
    hub = llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path))
    with pytest.raises(BadRequestError, match="cache"):
        llmhub.complete_table({"t": ["one"]}, "{t}", model=MODEL, hub=hub, progress=False)
    assert simulator.counts()["requests"] == 0


def test_failing_cache_loses_no_response(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path)) as hub:
        assert llmhub.complete("first", model=MODEL, hub=hub).text
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DROP TABLE answers")
        connection.close()
        with pytest.warns(RuntimeWarning, match="the cache failed"):
            table = llmhub.complete_table({"t": ["one", "two"]}, "{t}", model=MODEL, hub=hub, progress=False)
    assert table.column("status").to_pylist() == ["ok", "ok"]


def test_damaged_value_is_a_miss(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path)) as hub:
        text = llmhub.complete("first", model=MODEL, hub=hub).text
        for damage in (b"", b"\x01", b"\x01\x9a", b"\x02" * 40):
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE answers SET value = ?", (damage,))
            connection.close()
            with pytest.warns(RuntimeWarning, match=r"^1 cached response could not be decoded"):
                assert llmhub.complete("first", model=MODEL, hub=hub).text == text
    assert simulator.counts()["requests"] == 5
