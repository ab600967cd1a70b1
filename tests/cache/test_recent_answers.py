"""Answers stored last: appended in packs, found by every look-up at once, and moved to the table later."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from array import array
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

import llmhub
from llmhub.cache.sqlite import LAYOUT_VERSION, MAX_RECENT_ENTRIES
from llmhub.cache.store import ABSENT, ClaimRequest, Entry, Store
from llmhub.core.serialization import StoredResponse, pack

COUNT = 40


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def entries(text: str = "a", count: int = COUNT, created_at: float = 5.0) -> list[Entry]:
    return [Entry(key(number), f"{text}{number}".encode(), "m", created_at) for number in range(count)]


def answered() -> list[Entry]:
    """Return entries whose values are responses."""
    stored = StoredResponse("hi", "stop", (1, 1, None, None, None), "m", "", [], 0.1, None, 5.0, ())
    return [Entry(key(number), pack(stored, key(number)), "m", 5.0) for number in range(COUNT)]


def append(store: Store, added: Sequence[Entry]) -> None:
    assert store.nonblocking_put is not None
    assert store.nonblocking_put.try_put(added)


def count_rows(path: Path) -> tuple[int, int]:
    """Return the number of answers in the table, and of packs."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM recent)").fetchone()


def look_up_block(store: Store, keys: Sequence[bytes], since: float = 0.0) -> list[bytes | None]:
    assert store.get_block is not None
    values, starts, sizes = store.get_block(b"".join(keys), since)
    places = zip(array("q", starts), array("q", sizes), strict=True)
    return [None if size == ABSENT else values[start : start + size] for start, size in places]


def assert_holds(store: Store, expected: Sequence[Entry]) -> None:
    """Assert that each kind of look-up finds exactly the expected entries."""
    keys, other = [entry.key for entry in expected], key(10**6)
    values = {entry.key: entry.value for entry in expected}
    assert store.get_many([*keys, other]) == values
    assert store.nonblocking_get is not None
    assert store.nonblocking_get.try_get([*keys, other]) == values
    assert store.get_entries is not None
    assert sorted(store.get_entries([*keys, other])) == sorted(expected)
    assert look_up_block(store, [other, *keys, keys[0]]) == [None, *values.values(), values[keys[0]]]
    assert store.scan is not None
    assert sorted(store.scan()) == sorted(expected)
    assert store.stats().entries == len(expected)


def test_appended_answers_are_found_by_every_look_up_of_every_process(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store, other = llmhub.DiskCache(path).open(), llmhub.DiskCache(path).open()
    reader = llmhub.DiskCache(path, read_only=True).open()
    for stores in range(1, 4):
        append(store, [Entry(key(stores * 100 + number), b"v", "m", 5.0) for number in range(COUNT)])
        expected = [Entry(key(run * 100 + n), b"v", "m", 5.0) for run in range(1, stores + 1) for n in range(COUNT)]
        assert count_rows(path) == (0, stores)
        for each in (store, other, reader):
            assert_holds(each, expected)
    store.close()
    assert count_rows(path) == (3 * COUNT, 0)
    for each in (other, reader):
        assert_holds(each, expected)
        each.close()


def test_the_later_answer_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = llmhub.DiskCache(path).open()
    store.put_many(entries("first"))
    append(store, entries("second"))
    assert_holds(store, entries("second"))
    append(store, entries("third"))
    assert_holds(store, entries("third"))
    store.put_many(entries("fourth", 20))  # moves the others before
    assert count_rows(path) == (COUNT, 0)
    assert_holds(store, [*entries("fourth", 20), *entries("third")[20:]])
    store.close()


def test_deleted_answers_stay_deleted(tmp_path: Path) -> None:
    store = llmhub.DiskCache(tmp_path / "runs.db").open()
    append(store, entries())
    assert store.delete is not None
    store.delete([entry.key for entry in entries(count=10)])
    assert_holds(store, entries()[10:])
    append(store, entries("b"))
    store.clear()
    append(store, entries("c"))
    assert_holds(store, entries("c"))
    store.close()


def test_age_limits_hold_for_appended_answers(tmp_path: Path) -> None:
    store = llmhub.DiskCache(tmp_path / "runs.db").open()
    store.put_many(entries("old", created_at=1.0))
    append(store, entries("new", 20, created_at=2.0))
    keys = [entry.key for entry in entries()]
    assert len(store.get_many(keys, 1.0)) == COUNT
    assert store.get_many(keys, 1.5) == {entry.key: entry.value for entry in entries("new", 20)}
    assert look_up_block(store, keys, 2.5) == [None] * COUNT
    store.close()


def test_small_batches_are_not_appended_unless_others_were(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store, other = llmhub.DiskCache(path).open(), llmhub.DiskCache(path).open()
    append(other, entries("a", 2))
    assert count_rows(path) == (2, 0)
    append(store, entries("b"))
    append(other, entries("c", 2))
    assert count_rows(path) == (2, 2)
    assert_holds(store, [*entries("c", 2), *entries("b")[2:]])
    other.close()
    store.close()
    assert count_rows(path) == (COUNT, 0)


def test_many_or_large_answers_are_moved_by_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = llmhub.DiskCache(path).open()
    assert store.nonblocking_put is not None
    large = [Entry(key(10**5), b"v" * 5000, "m", 5.0)]
    assert store.nonblocking_put.try_put(large)
    for start in range(0, MAX_RECENT_ENTRIES + 1, 500):
        append(store, [Entry(key(start + number), b"v", "m", 5.0) for number in range(500)])
    assert not store.nonblocking_put.try_put(entries())
    store.put_many(entries())
    assert count_rows(path)[1] == 0
    append(store, entries("b"))
    assert not store.nonblocking_put.try_put(large)
    store.close()


def test_a_killed_process_loses_no_appended_answer(tmp_path: Path) -> None:
    """Neither the answers nor that they answer the requests that its ledger holds as sent."""
    path = tmp_path / "runs.db"
    program = """
        import os, sys, llmhub
        from llmhub.cache.store import LedgerBatch, SentRequest
        from tests.cache.test_recent_answers import COUNT, answered, append, key
        store = llmhub.DiskCache(sys.argv[1]).open()
        store.ledger.commit(LedgerBatch([SentRequest(key(n), b"r" * 16, "m", 4.0) for n in range(COUNT + 1)]))
        append(store, answered())
        os.kill(os.getpid(), 9)
    """
    assert subprocess.run([sys.executable, "-c", dedent(program), str(path)], check=False).returncode == -9
    assert count_rows(path) == (0, 1)
    store = llmhub.DiskCache(path).open()
    assert_holds(store, answered())
    assert store.claims is not None
    result = store.claims.claim([ClaimRequest(key(n), b"s" * 16) for n in range(COUNT + 1)], True, False)
    assert set(result.ambiguous) == {key(COUNT)}
    append(store, entries("b"))
    store.close()
    assert count_rows(path) == (COUNT, 0)


def test_answers_are_found_while_they_are_moved(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store, reader, stored = llmhub.DiskCache(path).open(), llmhub.DiskCache(path).open(), 0

    def write() -> None:
        nonlocal stored
        for number in range(100):
            append(store, [Entry(key(number * COUNT + n), b"v", "m", 5.0) for n in range(COUNT)])
            stored += COUNT
            if number % 3 == 2:
                store.put_many([])

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        keys = [key(number) for number in range(max(stored - 400, 0), stored)]
        assert len(reader.get_many(keys)) == len(keys)
        assert None not in look_up_block(reader, keys)
    writer.join()
    assert reader.stats().entries == stored == 100 * COUNT
    reader.close()
    store.close()


def test_files_of_layout_1_are_read_and_extended(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = llmhub.DiskCache(path).open()
    store.put_many(entries())
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE recent; PRAGMA user_version = 1; PRAGMA wal_checkpoint(TRUNCATE)")
    reader = llmhub.DiskCache(path, read_only=True).open()
    assert_holds(reader, entries())
    reader.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    reader, store = llmhub.DiskCache(path, read_only=True).open(), llmhub.DiskCache(path).open()
    append(store, entries("b"))
    for each in (reader, store):
        assert_holds(each, entries("b"))
        each.close()
    with closing(sqlite3.connect(path)) as connection:
        # An earlier version, which does not look for recent answers, refuses the file.
        assert connection.execute("PRAGMA user_version").fetchone() == (LAYOUT_VERSION,) == (2,)


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x91\x01"])
def test_the_answers_of_a_damaged_pack_are_misses(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "runs.db"
    store = llmhub.DiskCache(path).open()
    append(store, entries("a"))
    append(store, entries("b", 20))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE recent SET pack = ? WHERE id = (SELECT min(id) FROM recent)", (damage,))
    other = llmhub.DiskCache(path).open()
    assert_holds(other, entries("b", 20))
    other.put_many([])
    assert_holds(other, entries("b", 20))
    other.close()
    store.close()
