"""The SQLite store: contents, concurrent processes, and files that cannot be used."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import llmhub
from llmhub.cache.sqlite import APPLICATION_ID, LAYOUT_VERSION
from llmhub.cache.store import Entry, StoreError
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def fill_cache(path: Path, count: int = 200) -> None:
    store = llmhub.DiskCache(path).open()
    store.put_many([Entry(key(number), b"value" * 100, "m", 1.0) for number in range(count)])
    store.close()


def checkpoint(path: Path) -> None:
    """Move the write-ahead log into the file."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def start_python(program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# Contents


def test_application_id_layout_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    before = time.time()
    store = llmhub.DiskCache(path).open()
    store.put_many([Entry(b"k", b"v", "openai/x", 5.0), Entry(b"l", b"w", "openai/y")])
    store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (LAYOUT_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        rows = dict(connection.execute("SELECT model, created_at FROM answers").fetchall())
    connection.close()
    assert rows["openai/x"] == 5.0
    assert before <= rows["openai/y"] <= time.time()


def test_paths_are_expanded_and_created(tmp_path: Path, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("HOME", str(tmp_path))
    for path in ("runs.db", tmp_path / "deep" / "runs.db", "~/home.db", "ünï 100%.db", "a?b#c.db"):
        store = llmhub.DiskCache(path).open()
        store.put_many([Entry(b"k", b"v")])
        store.close()
        again = llmhub.DiskCache(path).open()
        assert again.get_many([b"k"]) == {b"k": b"v"}
        again.close()
    assert (tmp_path / "home.db").is_file()


def test_a_batch_is_atomic(tmp_path: Path) -> None:
    store = llmhub.DiskCache(tmp_path / "runs.db").open()
    store.put_many([Entry(b"before", b"1")])

    def failing_entries() -> Any:
        yield Entry(b"half", b"2")
        raise ValueError("the source ran dry")

    with pytest.raises(ValueError, match="ran dry"):
        store.put_many(failing_entries())
    assert store.get_many([b"before", b"half"]) == {b"before": b"1"}
    store.put_many([Entry(b"after", b"3")])
    assert store.stats().entries == 2
    store.close()


def test_closing_during_a_query_raises_store_error(tmp_path: Path) -> None:
    """A run whose hub is closed loses its cache but no response."""
    store = llmhub.DiskCache(tmp_path / "runs.db").open()
    store.put_many([Entry(key(number), b"v" * 1000) for number in range(5000)])
    ready, errors = threading.Event(), []

    def read() -> None:
        for number in range(400):
            try:
                store.get_many([key(at) for at in range(2000)])
            except StoreError as error:
                errors.append(error)
                return
            if number == 2:
                ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert ready.wait(20)
    store.close()
    reader.join()
    store.close()
    assert len(errors) == 1
    assert str(tmp_path) in str(errors[0])
    with pytest.raises(StoreError, match="closed"):
        store.get_many([key(0)])


# Concurrent processes


def test_processes_create_one_file_concurrently(tmp_path: Path) -> None:
    program = """
        import sys, llmhub
        from llmhub.cache.store import Entry
        sys.stdin.readline()
        store = llmhub.DiskCache(sys.argv[1]).open()
        for number in range(20):
            store.put_many([Entry(f"{sys.argv[2]}.{number}".encode(), b"v" * 1000)])
        assert len(store.get_many([f"{sys.argv[2]}.{number}".encode() for number in range(20)])) == 20
        store.close()
    """
    path = tmp_path / "runs.db"
    started = [start_python(program, str(path), str(number), stdin=subprocess.PIPE) for number in range(6)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert ended == [("", 0)] * 6
    store = llmhub.DiskCache(path).open()
    assert store.stats().entries == 120
    store.close()


def test_open_stores_see_each_others_writes(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = llmhub.DiskCache(path).open()
    store.put_many([Entry(b"mine", b"1")])
    program = """
        import sys, llmhub
        from llmhub.cache.store import Entry
        store = llmhub.DiskCache(sys.argv[1]).open()
        print(store.get_many([b"mine"])[b"mine"].decode(), flush=True)
        store.put_many([Entry(b"yours", b"2")])
        print("written", flush=True)
        sys.stdin.readline()
        store.close()
    """
    process = start_python(program, str(path), stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["1\n", "written\n"]
    assert store.get_many([b"mine", b"yours"]) == {b"mine": b"1", b"yours": b"2"}
    process.communicate("\n", timeout=30)
    store.close()


def test_file_is_usable_after_its_writer_was_killed(tmp_path: Path) -> None:
    program = """
        import sys, llmhub
        from llmhub.cache.store import Entry
        store = llmhub.DiskCache(sys.argv[1]).open()
        number = 0
        while True:
            store.put_many([Entry(number.to_bytes(32, "big"), b"v" * 1000)])
            number += 1
            print(number, flush=True)
    """
    path = tmp_path / "runs.db"
    process = start_python(program, str(path))
    assert process.stdout is not None
    last = 0
    while last < 50:
        last = int(process.stdout.readline())
    process.kill()
    process.communicate()
    store = llmhub.DiskCache(path).open()
    assert set(store.get_many([key(number) for number in range(50)])) == {key(number) for number in range(50)}
    store.close()


# Unusable files


@pytest.mark.parametrize(
    "kind", ["a folder", "an image", "a short text", "a header alone", "a file cut short", "damage at the start"]
)
def test_unusable_files_are_named_and_left_unchanged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.db"
    fill_cache(tmp_path / "good.db")
    checkpoint(tmp_path / "good.db")
    valid = (tmp_path / "good.db").read_bytes()
    match kind:
        case "a folder":
            path.mkdir()
        case "an image":
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
        case "a short text":
            path.write_text("mine")
        case "a header alone":
            path.write_bytes(valid[:100])
        case "a file cut short":
            path.write_bytes(valid[: len(valid) // 2])
        case "damage at the start":
            path.write_bytes(valid[:100] + b"\xff" * 400 + valid[500:])
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BadRequestError, match=r"^cache: cannot use .*mine\.db.*left as it"):
        llmhub.DiskCache(path).open()
    assert (path.read_bytes() if path.is_file() else None) == before


def test_an_empty_file_becomes_a_cache(tmp_path: Path) -> None:
    """As `tempfile` makes them."""
    path = tmp_path / "runs.db"
    path.touch()
    fill_cache(path)
    store = llmhub.DiskCache(path).open()
    assert store.stats().entries == 200
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_read_only_files_and_folders_are_named(tmp_path: Path, what: str) -> None:
    """Runs as an unprivileged user, since root may write anything."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    path = folder / "runs.db"
    fill_cache(path)
    checkpoint(path)
    before = path.read_bytes()
    path.chmod(0o444)
    folder.chmod(0o555 if what == "folder" else 0o777)
    target = folder / "new.db" if what == "folder" else path
    program = """
        import os, sys
        if os.geteuid() == 0:
            for parent in os.environ["OPEN"].split(os.pathsep):
                os.chmod(parent, 0o755)
            import llmhub, llmhub.cache.sqlite
            os.setuid(65534)
        import llmhub
        try:
            llmhub.DiskCache(sys.argv[1]).open()
        except ValueError as error:
            print(error)
    """
    parents = os.pathsep.join(str(parent) for parent in tmp_path.parents if "pytest" in parent.name)
    traversable = os.pathsep.join([parents, str(tmp_path)])
    process = start_python(program, str(target), env={**os.environ, "OPEN": traversable})
    out, err = process.communicate(timeout=30)
    folder.chmod(0o777)
    assert err == ""
    assert f"cannot use '{target}'" in out
    assert path.read_bytes() == before


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Return a folder that every user can read; pytest makes its own private again whenever a test run begins."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
@pytest.mark.parametrize("writable_folder", [True, False])
def test_unwritable_file_is_read_in_read_only_mode(public_folder: Path, writable_folder: bool) -> None:
    """Runs as an unprivileged user, since root may write anything."""
    folder = public_folder / "shelf"
    folder.mkdir()
    path = folder / "runs.db"
    fill_cache(path)
    checkpoint(path)
    before = path.read_bytes()
    path.chmod(0o444)
    folder.chmod(0o777 if writable_folder else 0o555)
    program = """
        import os, sys
        if os.geteuid() == 0:
            import llmhub.api.tables, llmhub.cache.sqlite, llmhub.sim
            os.setuid(65534)
        import llmhub
        from llmhub.config import Settings
        with llmhub.Hub(cache=sys.argv[1], cache_mode="read-only", settings=Settings()) as hub:
            print(len(hub.runtime.store.get_many([n.to_bytes(32, "big") for n in range(300)])))
        try:
            llmhub.Hub(cache=sys.argv[1], settings=Settings()).runtime.store
        except ValueError as error:
            print(error)
    """
    process = start_python(program, str(path))
    out, err = process.communicate(timeout=30)
    folder.chmod(0o777)
    assert err == ""
    assert out.startswith(f"200\ncache: cannot use '{path}'")
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = llmhub.DiskCache(path).open()
    store.put_many([Entry(key(1), b"value", "m", 1.0)])
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "runs.db": 0o600,
        "runs.db-wal": 0o600,
        "runs.db-shm": 0o600,
    }
    store.close()
    path.chmod(0o640)  # shared with a group, by its owner
    llmhub.DiskCache(path).open().close()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("replaced", [True, False])
def test_deleted_file_is_noticed_and_no_row_is_lost(tmp_path: Path, simulator: SimulatorThread, replaced: bool) -> None:
    path = tmp_path / "runs.db"
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=path) as hub:
        assert llmhub.complete("before", model=MODEL, hub=hub).text
        path.unlink()
        if replaced:
            path.write_bytes(b"another file")
        with pytest.warns(RuntimeWarning, match="the file was deleted or replaced while in use"):
            table = llmhub.complete_table({"q": ["a", "b"]}, "{q}", model=MODEL, hub=hub, progress=False)
    assert table["status"].to_pylist() == ["ok", "ok"]


def test_file_of_several_names_is_refused(tmp_path: Path) -> None:
    """SQLite keeps a log beside each name, so what is written under one is not seen under the other."""
    path, other = tmp_path / "runs.db", tmp_path / "other.db"
    fill_cache(path)
    other.hardlink_to(path)
    with pytest.raises(BadRequestError, match=r"it has 2 names \(hard links\)"):
        llmhub.DiskCache(other).open()
    path.unlink()
    llmhub.DiskCache(other).open().close()


def test_damage_while_open_loses_no_response(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    fill_cache(path)
    checkpoint(path)
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path)) as hub:
        assert hub.runtime.store is not None
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.warns(RuntimeWarning, match=r"the cache failed.*: .*runs\.db"):
            table = llmhub.complete_table(
                {"t": [str(number) for number in range(50)]}, "{t}", model=MODEL, hub=hub, progress=False
            )
    assert set(table.column("status").to_pylist()) == {"ok"}
    assert simulator.counts()["requests"] == 50


def test_plan_ignores_a_failing_cache(tmp_path: Path, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path)) as hub:
        assert hub.runtime.store is not None
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DROP TABLE answers")
        connection.close()
        with pytest.warns(RuntimeWarning, match="the cache failed"):
            plan = llmhub.plan({"t": ["a", "b"]}, "{t}", model="anthropic/claude-haiku-4-5", hub=hub)
    assert plan.calls == 2
