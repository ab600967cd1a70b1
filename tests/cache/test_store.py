"""Stores: one suite for all, and what a file can be that is no cache."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmhub
from llmhub.cache.store import Entry, Store
from llmhub.config import Settings
from llmhub.core.errors import InvalidRequestError
from llmhub.sim import Served

MODEL = "openai/gpt-4o-mini"


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    kinds: dict[str, Callable[[], Any]] = {
        "memory": llmhub.MemoryCache,
        "disk": lambda: llmhub.DiskCache(tmp_path / "deep" / "er" / "runs.db"),
    }
    opened = kinds[request.param]().open()
    yield opened
    opened.close()


def keys(many: int) -> list[bytes]:
    return [n.to_bytes(32, "big") for n in range(many)]


def test_what_is_put_is_got_in_bulk(store: Store) -> None:
    some = keys(2_500)
    store.put_many([Entry(key, key[::-1], "m", 1.0) for key in some])
    assert store.get_many([*some, b"absent"]) == {key: key[::-1] for key in some}
    assert store.get_many([]) == {}
    stats = store.stats()
    assert (stats.entries, stats.hits, stats.misses) == (2_500, 2_500, 1)
    assert stats.size_bytes >= 2_500 * 32


def test_the_later_entry_of_a_key_stands(store: Store) -> None:
    store.put_many([Entry(b"k", b"old")])
    store.put_many([Entry(b"k", b"new"), Entry(b"k", b"newest")])
    assert store.get_many([b"k", b"k"]) == {b"k": b"newest"}
    assert store.stats().entries == 1


def test_deleting_and_clearing(store: Store) -> None:
    store.put_many([Entry(key, b"v") for key in keys(3)])
    store.delete([keys(3)[0], b"absent"])
    assert set(store.get_many(keys(3))) == set(keys(3)[1:])
    store.clear()
    assert store.stats().entries == 0


def test_many_threads_at_once(store: Store) -> None:
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


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.binary(max_size=9)), max_size=30), st.integers(1, 9))
def test_memory_never_holds_more_than_its_bounds(puts: list[tuple[bytes, bytes]], most: int) -> None:
    store = llmhub.MemoryCache(max_entries=most, max_bytes=20).open()
    for key, value in puts:
        store.put_many([Entry(key, value)])
        stats = store.stats()
        assert stats.entries <= most
        assert stats.size_bytes <= 20
    if puts and len(puts[-1][1]) <= 20:
        assert store.get_many([puts[-1][0]]) == {puts[-1][0]: puts[-1][1]}


def test_what_was_used_last_stays() -> None:
    store = llmhub.MemoryCache(max_entries=2).open()
    store.put_many([Entry(b"a", b"1"), Entry(b"b", b"2")])
    store.get_many([b"a"])
    store.put_many([Entry(b"c", b"3")])
    assert set(store.get_many([b"a", b"b", b"c"])) == {b"a", b"c"}
    assert store.stats().evictions == 1


def test_a_file_is_there_for_the_next_process_and_two_at_once(tmp_path: Path) -> None:
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


def foreign(path: Path, kind: str) -> None:
    if kind == "no database":
        path.write_bytes(b"these are my notes, not a database" * 50)
        return
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
        if kind == "a later layout":
            connection.execute("PRAGMA application_id = 0x6C6C6D68")
            connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("kind", ["no database", "another program's", "a later layout"])
def test_a_file_that_is_no_cache_is_named_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.db"
    foreign(path, kind)
    before = path.read_bytes()
    with pytest.raises(InvalidRequestError, match=r"^cache: cannot use .*mine\.db.*left as it is"):
        llmhub.DiskCache(path).open()
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidRequestError, match=r"^cache: cannot use .*file"):
        llmhub.DiskCache(tmp_path / "file" / "runs.db").open()


def test_a_cache_that_cannot_be_used_is_said_before_anything_is_sent(tmp_path: Path, simulator: Served) -> None:
    path = tmp_path / "mine.db"
    foreign(path, "no database")
    hub = llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path))
    with pytest.raises(InvalidRequestError, match="cache"):
        llmhub.complete_table({"t": ["one"]}, "{t}", model=MODEL, hub=hub, progress=False)
    assert simulator.counts()["requests"] == 0


def test_a_file_that_breaks_in_the_midst_costs_no_answer(tmp_path: Path, simulator: Served) -> None:
    path = tmp_path / "runs.db"
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path)) as hub:
        assert llmhub.complete("first", model=MODEL, hub=hub).text
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE answers")
        connection.close()
        with pytest.warns(RuntimeWarning, match="the cache failed"):
            table = llmhub.complete_table({"t": ["one", "two"]}, "{t}", model=MODEL, hub=hub, progress=False)
    assert table.column("status").to_pylist() == ["ok", "ok"]


def test_a_damaged_value_is_a_miss(tmp_path: Path, simulator: Served) -> None:
    path = tmp_path / "runs.db"
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path)) as hub:
        said = llmhub.complete("first", model=MODEL, hub=hub).text
        for damage in (b"", b"\x01", b"\x01\x9a", b"\x02" * 40):
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE answers SET value = ?", (damage,))
            connection.close()
            with pytest.warns(RuntimeWarning, match=r"^1 answer in the cache could not be read back"):
                assert llmhub.complete("first", model=MODEL, hub=hub).text == said
    assert simulator.counts()["requests"] == 5
