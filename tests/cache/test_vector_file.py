"""The file of vectors beside a cache in SQLite: its contents, its space, and what is left after a crash."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmhub
from llmhub.cache.maintenance import DAMAGED, INTACT, EntryFilter, check_entry, purge
from llmhub.cache.store import ABSENT, Entry, Store, StoreError, lookup_block
from llmhub.cache.vector_file import IS_SUPPORTED, SUFFIX, Reference, VectorFile, unpack_reference
from llmhub.config import Settings
from llmhub.core.embedding import EmbeddingResponse
from llmhub.core.serialization import is_corrupt, unpack
from llmhub.core.vector_serialization import pack_vector
from llmhub.sim import SimulatorThread

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="needs reading at an offset")

DIMENSIONS = 300
END = 1 << 62
MODEL = "openai/text-embedding-3-small"


def key(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def vector(number: int, version: int = 0, dimensions: int = DIMENSIONS, model: str = "m") -> Entry:
    numbers = (b"%d.%d," % (number, version) * 4 * dimensions)[: 4 * dimensions]
    response = EmbeddingResponse(vectors=numbers, dimensions=dimensions)
    return Entry(key(number), pack_vector(response, key(number), latency_s=0.5, started_at=1.0), model, 1.0 + version)


@contextmanager
def opened(folder: Path | str, **options: bool) -> Iterator[Store]:
    store = llmhub.DiskCache(Path(folder) / "c.db", **options).open()
    yield store
    store.close()


def vectors_of(folder: Path | str) -> Path:
    return Path(folder) / f"c.db{SUFFIX}"


def spans(folder: Path | str) -> list[tuple[int, int]]:
    """Return the starts and ends of all records and all gaps."""
    with closing(sqlite3.connect(Path(folder) / "c.db")) as connection:
        rows = connection.execute("SELECT key, value FROM answers").fetchall()
        is_used = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'vector_space'").fetchone()
        gaps = connection.execute("SELECT start, start + size FROM vector_space").fetchall() if is_used else []
    found = [(len(key), reference) for key, value in rows if (reference := unpack_reference(value))]
    return sorted([*gaps, *((start, start + size + length) for length, (start, size) in found)])


def assert_tiled(folder: Path | str) -> None:
    """Assert that all space is that of one record or in one gap, if any was used."""
    found = spans(folder)
    assert not found or (found[0][0], found[-1][1]) == (0, END)
    assert all(end == start for (_, end), (start, _) in pairwise(found))


def assert_holds(store: Store, expected: dict[bytes, Entry], keys: list[bytes]) -> None:
    assert dict(store.get_many(keys)) == {key: entry.value for key, entry in expected.items()}
    assert {entry.key: entry for entry in store.scan()} == expected
    assert {entry.key: entry for entry in store.get_entries(keys)} == expected
    block = lookup_block(store, b"".join(keys))
    for key, start, size in zip(keys, list(block.starts), list(block.sizes), strict=True):
        found = None if size == ABSENT else block.values[start : start + size]
        assert found == (expected[key].value if key in expected else None)


SMALL = range(9, 12)
"""Numbers whose vectors are small."""
NUMBERS = st.sets(st.integers(0, 11), min_size=1)
CHANGES = st.one_of(
    st.tuples(st.just("put"), NUMBERS, st.sampled_from([256, 300, 700])),
    st.tuples(st.just("delete"), NUMBERS, st.none()),
    st.tuples(st.just("compact"), st.none(), st.none()),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


def test_any_history_agrees_with_a_dictionary(tmp_path: Path) -> None:
    """Whatever two open stores write and delete, values are exact, and all space is accounted for."""
    keys = [key(number) for number in range(12)]
    with opened(tmp_path) as first, opened(tmp_path) as second:

        @settings(max_examples=40)
        @given(st.lists(CHANGES, max_size=6))
        def check(changes: list[tuple[str, set[int] | None, int | None]]) -> None:
            expected: dict[bytes, Entry] = {}
            first.clear()
            for version, (change, numbers, dimensions) in enumerate(changes):
                store, other = (first, second) if version % 2 else (second, first)
                match change:
                    case "put":
                        sizes = {number: 2 if number in SMALL else dimensions or 0 for number in numbers or ()}
                        entries = [vector(number, version, size) for number, size in sizes.items()]
                        store.put_many(entries)
                        expected |= {entry.key: entry for entry in entries}
                    case "delete":
                        gone = [key(number) for number in numbers or ()]
                        store.delete(gone)
                        expected = {key: entry for key, entry in expected.items() if key not in gone}
                    case "compact":
                        store.compact()
                    case _:
                        store.clear()
                        expected = {}
                assert_holds(other, expected, keys)
                assert_tiled(tmp_path)

        check()


def test_vectors_are_written_once_and_other_values_as_before(tmp_path: Path) -> None:
    small, large = vector(1, dimensions=8), Entry(key(2), b"\x02" + bytes(9_000), "m", 1.0)
    with opened(tmp_path) as store:
        store.put_many([small, large])
        assert not vectors_of(tmp_path).exists()
        store.put_many([vector(number) for number in range(10, 20)])
        assert vectors_of(tmp_path).stat().st_size == 10 * (32 + len(vector(10).value))
        assert_holds(
            store, {e.key: e for e in (small, large, *map(vector, range(10, 20)))}, [key(n) for n in range(30)]
        )
        assert store.stats().size_bytes > 10 * len(vector(10).value)


def test_vectors_stored_in_the_table_are_still_read(tmp_path: Path) -> None:
    """As they were before there was a file of vectors."""
    entries = [vector(number) for number in range(6)]
    with opened(tmp_path) as store:
        with closing(sqlite3.connect(tmp_path / "c.db")) as connection, connection:
            connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?)", entries[:3])
        store.put_many(entries[3:])
        assert_holds(store, {entry.key: entry for entry in entries}, [entry.key for entry in entries])
        store.put_many([vector(1, 2)])
        store.delete([key(0), key(5)])
        expected = {entry.key: entry for entry in (vector(1, 2), *entries[2:5])}
        assert_holds(store, expected, [entry.key for entry in entries])
        assert_tiled(tmp_path)


def test_a_reference_is_a_value_of_a_later_version() -> None:
    """Programs from before there were references leave them alone, and send the text again."""
    assert not is_corrupt(unpack(Reference(5, 6190).pack(), key(1)).failure())


def test_space_of_what_is_replaced_or_deleted_is_used_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for version in range(10):
            store.put_many([vector(number, version) for number in range(20)])
        size = vectors_of(tmp_path).stat().st_size
        assert size <= 2 * 20 * (32 + len(vector(0).value))
        store.delete([key(number) for number in range(20)])
        store.put_many([vector(number) for number in range(20, 60)])
        assert vectors_of(tmp_path).stat().st_size == size
        assert_tiled(tmp_path)


def test_a_write_that_fails_or_is_not_committed_leaves_what_it_would_replace(tmp_path: Path) -> None:
    """Records take the place of others once the transaction that replaced these is committed, and not before."""
    before = {entry.key: entry for entry in map(vector, range(6))}
    with opened(tmp_path) as store:
        store.put_many(before.values())
        models = [vector(number, 1, model=f"m{number}") for number in range(6)]  # each is written by itself
        with pytest.raises(StoreError):
            store.put_many([*models, Entry(key(7), b"value", object(), 1.0)])  # type: ignore[arg-type]
        assert_holds(store, before, list(before))
        store.put_many(models)
        assert_holds(store, {entry.key: entry for entry in models}, list(before))
        assert_tiled(tmp_path)


def test_compacting_returns_the_space_of_deleted_vectors(tmp_path: Path) -> None:
    record = 32 + len(vector(0).value)
    with opened(tmp_path) as store, opened(tmp_path) as other:
        store.put_many([vector(number, model="old" if number % 3 else "new") for number in range(30)])
        assert purge(store, EntryFilter(model="old")) == 20
        store.compact()
        assert vectors_of(tmp_path).stat().st_size == 10 * record
        expected = {entry.key: entry for entry in (vector(number, model="new") for number in range(0, 30, 3))}
        assert_holds(other, expected, [key(number) for number in range(30)])
        store.clear()
        assert vectors_of(tmp_path).stat().st_size == 0
        assert other.get_many(list(expected)) == {}


def test_compacting_finds_space_that_nobody_freed(tmp_path: Path) -> None:
    """A program from before there was the file deletes references only."""
    with opened(tmp_path) as store:
        store.put_many([vector(number) for number in range(10)])
        with closing(sqlite3.connect(tmp_path / "c.db")) as connection, connection:
            connection.executemany("DELETE FROM answers WHERE key = ?", [(key(number),) for number in range(5)])
        store.compact()
        assert vectors_of(tmp_path).stat().st_size == 5 * (32 + len(vector(0).value))
        assert_tiled(tmp_path)


def test_a_reader_follows_records_that_are_moved_or_replaced_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with opened(tmp_path) as store, closing(sqlite3.connect(path)) as connection:
        store.put_many([vector(number) for number in range(4)])
        looked_up = dict(connection.execute("SELECT key, value FROM answers").fetchall())
        store.delete([key(0)])
        store.compact()  # moves the last one
        store.delete([key(2)])
        store.put_many([vector(1, 1), Entry(key(2), b"no vector", "m", 1.0)])
        for number in range(10, 14):
            store.put_many([vector(number)])  # in the space that is free now
        keys = [key(number) for number in range(4)]
        found = VectorFile(path, read_only=True).read(connection, keys, [looked_up[key] for key in keys])
        assert [(value or b"")[:80] for value in found] == [
            value[:80] for value in [b"", vector(1, 1).value, b"no vector", vector(3).value]
        ]


@pytest.mark.parametrize("lost", ["the file", "its end", "its contents"])
def test_lost_records_are_damaged_and_stored_anew(tmp_path: Path, simulator: SimulatorThread, lost: str) -> None:
    texts = [f"text {number}" for number in range(8)]
    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(tmp_path / "c.db")
    ) as hub:
        expected = llmhub.embed(texts, model=MODEL, hub=hub, progress=False, dimensions=DIMENSIONS)
    file = vectors_of(tmp_path)
    match lost:
        case "the file":
            file.unlink()
        case "its end":
            os.truncate(file, file.stat().st_size // 2)
        case _:
            file.write_bytes(bytes(file.stat().st_size))
    with opened(tmp_path) as store:
        states = [check_entry(entry) for entry in store.scan()]
        assert states.count(DAMAGED) == (4 if lost == "its end" else 8)
    simulator.reset()
    with (
        llmhub.Hub(
            endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(tmp_path / "c.db")
        ) as hub,
        pytest.warns(RuntimeWarning, match="could not be decoded"),
    ):
        again = llmhub.embed(texts, model=MODEL, hub=hub, progress=False, dimensions=DIMENSIONS)
    assert (again == expected).all()
    assert simulator.counts()["requests"] == 1
    with opened(tmp_path) as store:
        assert [check_entry(entry) for entry in store.scan()] == [INTACT] * 8


def test_a_file_that_is_deleted_while_in_use_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put_many([vector(1)])
        vectors_of(tmp_path).unlink()
        with pytest.raises(StoreError, match="deleted or replaced"):
            store.put_many([vector(2)])
        assert set(store.get_many([key(1), key(2)])) == {key(1)}


def test_a_copy_of_both_files_is_a_cache(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put_many([vector(number) for number in range(10)])
    shutil.copytree(tmp_path, tmp_path / "copy")
    with opened(tmp_path / "copy", read_only=True) as store:
        assert store.get_many([key(3)]) == {key(3): vector(3).value}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions and links")
def test_permissions_and_links_are_those_of_the_cache(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put_many([vector(1)])
        assert vectors_of(tmp_path).stat().st_mode & 0o777 == 0o600
    (tmp_path / "shared").mkdir()
    with opened(tmp_path / "shared"):
        (tmp_path / "shared" / "c.db").chmod(0o640)
    (tmp_path / "shared" / "link.db").symlink_to(tmp_path / "shared" / "c.db")
    linked = llmhub.DiskCache(tmp_path / "shared" / "link.db").open()
    linked.put_many([vector(1)])
    linked.close()
    assert vectors_of(tmp_path / "shared").stat().st_mode & 0o777 == 0o640
    with opened(tmp_path / "shared") as store:
        assert store.get_many([key(1)]) == {key(1): vector(1).value}


def test_what_a_killed_writer_had_stored_is_intact(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_vector_file import opened, vector
        with opened(Path(sys.argv[1])) as store:
            for first in range(0, 10**9, 40):
                store.put_many([vector(number) for number in range(first, first + 40)])
                print(first + 40, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 400:
            pass
        process.kill()
    with opened(tmp_path) as store:
        stored = {entry.key: entry for entry in store.scan()}
        assert stored == {entry.key: entry for entry in map(vector, range(len(stored)))}
        assert len(stored) >= 400
        assert len(stored) % 40 == 0
        store.put_many([vector(number) for number in range(len(stored), len(stored) + 40)])
        assert_tiled(tmp_path)


def test_the_file_is_synchronized_with_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread once much was written, and for the rest before the references to it are: at the close."""
    synchronized: list[str] = []
    done = threading.Event()

    def sync(descriptor: int) -> None:
        synchronized.append(threading.current_thread().name)
        done.set()

    monkeypatch.setattr("llmhub.cache.vector_file.UNSYNCED_BYTES", 5_000)
    monkeypatch.setattr("llmhub.cache.vector_file.os.fsync", sync)
    with opened(tmp_path) as store:
        store.put_many([vector(1)])
        assert not synchronized
        store.put_many([vector(number) for number in range(2, 9)])
        assert done.wait(30)
        store.put_many([vector(9)])
        assert len(synchronized) == 1
    assert synchronized == ["llmhub-sync", threading.current_thread().name]
