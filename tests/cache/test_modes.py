"""What a mode permits: law by law on each store, and through the door."""

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
def hub_at(simulator: SimulatorThread, **more: Any) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **more) as hub:
        yield hub


def table(hub: llmhub.Hub, *texts: str, **more: Any) -> Any:
    return llmhub.complete_table({"t": list(texts)}, "{t}", model=MODEL, hub=hub, progress=False, **more)


def one(hub: llmhub.Hub, **more: Any) -> Any:
    return llmhub.complete("a", model=MODEL, hub=hub, **more)


def rows(hub: llmhub.Hub, **more: Any) -> Any:
    return table(hub, "a", **more)


ASKS = (one, rows)


@pytest.mark.parametrize(
    ("mode", "read", "kept", "added"),
    [
        ("read-write", {OLD: b"old"}, b"again", True),
        ("read-only", {OLD: b"old"}, b"old", False),
        ("write-only", {}, b"old", True),
        ("refresh", {}, b"again", True),
    ],
)
def test_what_each_mode_permits(store: Store, mode: Any, read: dict[bytes, bytes], kept: bytes, added: bool) -> None:
    store.put_many([Entry(OLD, b"old", "m", 1.0)])
    narrow = restrict(store, CacheMode(mode))
    assert narrow is not None
    assert narrow.get_many([OLD, NEW]) == read
    assert taken(lookup_block(narrow, OLD + NEW)) == list(read.values())
    narrow.put_many([Entry(OLD, b"again"), Entry(NEW, b"new")])
    assert store.get_many([OLD, NEW]) == {OLD: kept, **({NEW: b"new"} if added else {})}


def taken(found: BlockValues) -> list[bytes]:
    """Take the values apart that are there."""
    apart = zip(list(found.starts), list(found.sizes), strict=True)
    return [found.values[start : start + size] for start, size in apart if size != ABSENT]


def test_switched_off_there_is_no_store() -> None:
    assert restrict(llmhub.MemoryCache().open(), CacheMode("off")) is None
    assert restrict(None, CacheMode()) is None


def test_what_is_older_than_a_mode_permits_is_a_miss(store: Store) -> None:
    store.put_many([Entry(OLD, b"old", "m", 100.0), Entry(NEW, b"new", "m", 190.0)])
    narrow = restrict(store, CacheMode(max_age_s=50), clock=lambda: 200.0)
    assert narrow is not None
    assert narrow.get_many([OLD, NEW]) == {NEW: b"new"}
    assert taken(lookup_block(narrow, OLD + NEW)) == [b"new"]


@pytest.mark.parametrize("said", ["readonly", "", 3, {"mode": "off"}])
def test_what_is_no_mode_is_refused(said: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^cache: .*read-only"):
        resolve_mode(said, CacheMode())
    with pytest.raises(BadRequestError, match=r"^cache: .*read-only"):
        llmhub.complete(
            "x", model=MODEL, hub=llmhub.Hub(settings=Settings(), endpoints={"openai": llmhub.Endpoint()}), cache=said
        )


def test_a_name_changes_the_mode_alone() -> None:
    usual = CacheMode("read-only", max_age_s=5, strict=True)
    assert resolve_mode("refresh", usual) == CacheMode("refresh", max_age_s=5, strict=True)
    assert resolve_mode(CacheMode("off"), usual) == CacheMode("off")
    assert resolve_mode(None, usual) is usual
    assert {resolve_mode(mode, usual).mode for mode in MODES} == set(MODES)


@pytest.mark.parametrize("ask", ASKS)
def test_a_call_says_what_it_does_with_the_cache(simulator: SimulatorThread, ask: Callable[..., Any]) -> None:
    with hub_at(simulator, cache=llmhub.MemoryCache()) as hub:
        sent = []
        twice = ("read-only", "read-only", "write-only", "write-only")
        for mode in (*twice, "read-write", "refresh", "off", "read-only", None):
            ask(hub, **({} if mode is None else {"cache": mode}))
            sent.append(simulator.counts()["requests"])
    assert sent == [1, 2, 3, 4, 4, 5, 6, 6, 6]


def test_a_hub_says_it_for_all_its_calls(simulator: SimulatorThread) -> None:
    with hub_at(simulator, cache="memory://", cache_mode="refresh") as hub:
        table(hub, "a")
        table(hub, "a", cache="read-only")
        table(hub, "a", cache=CacheMode(max_age_s=1e-9))
    assert simulator.counts()["requests"] == 2


def test_a_refreshed_run_still_sends_equal_rows_once(simulator: SimulatorThread) -> None:
    with hub_at(simulator, cache=llmhub.MemoryCache()) as hub:
        table(hub, "a", "b")
        again = table(hub, "a", "b", "a", cache="refresh")
    assert simulator.counts()["requests"] == 4
    assert again.column("cache_hit").to_pylist() == [False, False, True]


def test_a_hub_with_an_address_is_a_hub_with_a_cache(tmp_path: Path, simulator: SimulatorThread) -> None:
    for said in (f"sqlite:///{tmp_path}/a.db", str(tmp_path / "a.db"), tmp_path / "a.db"):
        with hub_at(simulator, cache=said) as hub:
            table(hub, "a")
    assert simulator.counts()["requests"] == 1
