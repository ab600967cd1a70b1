"""Cache modes, on every kind of store and through the public functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.modes import MODES, CacheMode, resolve_mode, restrict
from llmhub.cache.store import ABSENT, BlockValues, Entry, Store, lookup_block
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"


OLD, NEW = b"o" * 32, b"n" * 32


@contextmanager
def hub_at(simulator: SimulatorThread, **options: Any) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **options) as hub:
        yield hub


def run_table(hub: llmhub.Hub, *texts: str, **options: Any) -> Any:
    return llmhub.complete_table({"t": list(texts)}, "{t}", model=MODEL, hub=hub, progress=False, **options)


def run_call(hub: llmhub.Hub, **options: Any) -> Any:
    return llmhub.complete("a", model=MODEL, hub=hub, **options)


def run_row(hub: llmhub.Hub, **options: Any) -> Any:
    return run_table(hub, "a", **options)


RUNS = (run_call, run_row)


@pytest.mark.parametrize(
    ("mode", "values_read", "value_after", "is_added"),
    [
        ("read-write", {OLD: b"old"}, b"again", True),
        ("read-only", {OLD: b"old"}, b"old", False),
        ("write-only", {}, b"old", True),
        ("refresh", {}, b"again", True),
    ],
)
def test_reads_and_writes_of_each_mode(
    store: Store, mode: Any, values_read: dict[bytes, bytes], value_after: bytes, is_added: bool
) -> None:
    store.put_many([Entry(OLD, b"old", "m", 1.0)])
    restricted = restrict(store, CacheMode(mode))
    assert restricted is not None
    assert restricted.get_many([OLD, NEW]) == values_read
    assert values_of(lookup_block(restricted, OLD + NEW)) == list(values_read.values())
    restricted.put_many([Entry(OLD, b"again"), Entry(NEW, b"new")])
    assert store.get_many([OLD, NEW]) == {OLD: value_after, **({NEW: b"new"} if is_added else {})}


def values_of(block: BlockValues) -> list[bytes]:
    """Return the values present in a block."""
    spans = zip(list(block.starts), list(block.sizes), strict=True)
    return [block.values[start : start + size] for start, size in spans if size != ABSENT]


def test_off_returns_no_store() -> None:
    assert restrict(llmhub.MemoryCache().open(), CacheMode("off")) is None
    assert restrict(None, CacheMode()) is None


def test_entries_older_than_max_age_are_misses(store: Store) -> None:
    store.put_many([Entry(OLD, b"old", "m", 100.0), Entry(NEW, b"new", "m", 190.0)])
    restricted = restrict(store, CacheMode(max_age_s=50), clock=lambda: 200.0)
    assert restricted is not None
    assert restricted.get_many([OLD, NEW]) == {NEW: b"new"}
    assert values_of(lookup_block(restricted, OLD + NEW)) == [b"new"]


@pytest.mark.parametrize("mode", ["readonly", "", 3, {"mode": "off"}])
def test_invalid_modes_are_rejected(mode: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^cache: .*read-only"):
        resolve_mode(mode, CacheMode())
    with pytest.raises(BadRequestError, match=r"^cache: .*read-only"):
        llmhub.complete(
            "x", model=MODEL, hub=llmhub.Hub(settings=Settings(), endpoints={"openai": llmhub.Endpoint()}), cache=mode
        )


def test_a_name_replaces_only_the_mode() -> None:
    default = CacheMode("read-only", max_age_s=5, strict=True)
    assert resolve_mode("refresh", default) == CacheMode("refresh", max_age_s=5, strict=True)
    assert resolve_mode(CacheMode("off"), default) == CacheMode("off")
    assert resolve_mode(None, default) is default
    assert {resolve_mode(mode, default).mode for mode in MODES} == set(MODES)


@pytest.mark.parametrize("run", RUNS)
def test_cache_argument_of_a_call(simulator: SimulatorThread, run: Callable[..., Any]) -> None:
    with hub_at(simulator, cache=llmhub.MemoryCache()) as hub:
        sent = []
        each_twice = ("read-only", "read-only", "write-only", "write-only")
        for mode in (*each_twice, "read-write", "refresh", "off", "read-only", None):
            run(hub, **({} if mode is None else {"cache": mode}))
            sent.append(simulator.counts()["requests"])
    assert sent == [1, 2, 3, 4, 4, 5, 6, 6, 6]


def test_cache_mode_of_a_hub(simulator: SimulatorThread) -> None:
    with hub_at(simulator, cache="memory://", cache_mode="refresh") as hub:
        run_table(hub, "a")
        run_table(hub, "a", cache="read-only")
        run_table(hub, "a", cache=CacheMode(max_age_s=1e-9))
    assert simulator.counts()["requests"] == 2


def test_refresh_sends_equal_rows_once(simulator: SimulatorThread) -> None:
    with hub_at(simulator, cache=llmhub.MemoryCache()) as hub:
        run_table(hub, "a", "b")
        again = run_table(hub, "a", "b", "a", cache="refresh")
    assert simulator.counts()["requests"] == 4
    assert again.column("cache_hit").to_pylist() == [False, False, True]


def test_hub_accepts_urls_and_paths_of_caches(tmp_path: Path, simulator: SimulatorThread) -> None:
    for url in (f"sqlite:///{tmp_path}/a.db", str(tmp_path / "a.db"), tmp_path / "a.db"):
        with hub_at(simulator, cache=url) as hub:
            run_table(hub, "a")
    assert simulator.counts()["requests"] == 1


def test_a_boolean_mode_is_refused_with_the_name_that_is_meant() -> None:
    with pytest.raises(BadRequestError, match=r"^cache: must be the name of a mode, not False; pass cache='off'$"):
        resolve_mode(False, CacheMode())  # type: ignore[arg-type]
