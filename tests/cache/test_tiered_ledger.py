"""``ambiguous="error"`` needs a ledger: a tiered cache has that of its near store, other caches are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.store import ClaimRequest, EndedRequest, LedgerBatch, SentRequest, Store
from llmhub.cache.tiered import tiered_store
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

RUN = b"r" * 16
KEYS = [bytes([n]) * 32 for n in range(4)]
MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def tiers(tmp_path: Path, redis_server: Any) -> Any:
    """Return a function that opens a disk store before a Redis server, each time as another owner."""
    opened: list[Store] = []

    def open_tiers(file: str = "runs.db") -> Store:
        near, far = llmhub.DiskCache(tmp_path / file), llmhub.RedisCache(redis_server.url)
        opened.append(llmhub.TieredCache(near, far).open())
        return opened[-1]

    yield open_tiers
    for store in opened:
        store.close()


def claim(store: Store, *keys: bytes, resend: bool = True) -> Any:
    assert store.claims is not None
    return store.claims.claim([ClaimRequest(key, RUN) for key in keys], resend, False)


def commit(store: Store, **batch: Any) -> None:
    assert store.ledger is not None
    store.ledger.commit(LedgerBatch(**batch))


def test_keys_are_claimed_in_both_tiers(tiers: Any) -> None:
    first, same_file, other_file = tiers(), tiers(), tiers("other.db")
    assert claim(first, *KEYS[:2]).held_elsewhere == frozenset()
    assert claim(same_file, *KEYS).held_elsewhere == set(KEYS[:2])
    assert claim(other_file, KEYS[0], KEYS[2]).held_elsewhere == {KEYS[0], KEYS[2]}
    first.claims.release(KEYS[:1])
    assert claim(other_file, KEYS[0]).held_elsewhere == frozenset()
    # A commit releases keys in both tiers, too.
    commit(first, released=[KEYS[1]])
    assert claim(other_file, KEYS[1]).held_elsewhere == frozenset()


def test_a_key_that_only_the_near_tier_refuses_is_free_for_others(tmp_path: Path, tiers: Any) -> None:
    near = llmhub.DiskCache(tmp_path / "runs.db").open()
    assert claim(near, KEYS[0]).held_elsewhere == frozenset()
    assert claim(tiers(), KEYS[0]).held_elsewhere == {KEYS[0]}
    assert claim(tiers("other.db"), KEYS[0]).held_elsewhere == frozenset()
    near.close()


def test_what_a_dead_owner_had_sent_is_ambiguous(tiers: Any) -> None:
    dead = tiers()
    claim(dead, *KEYS[:2])
    commit(dead, sent=[SentRequest(KEYS[0], RUN, "m", 1.0)])
    dead.close()
    store = tiers()
    assert claim(store, *KEYS[:2], resend=False).ambiguous == {KEYS[0]: RUN}
    assert [request.state for request in store.ledger.requests()] == ["ambiguous", "reserved"]
    assert claim(store, KEYS[0], resend=True).ambiguous == {KEYS[0]: RUN}
    commit(store, ended=[EndedRequest(KEYS[0], RUN, "m", "m", "done", "", 1.0, 2.0)], released=KEYS[:2])
    assert [request.state for request in tiers().ledger.requests()] == ["ambiguous", "done"]


def test_a_commit_that_releases_keys_does_not_block_the_loop(tiers: Any) -> None:
    store = tiers()
    claim(store, *KEYS)
    assert store.ledger.try_commit(LedgerBatch(sent=[SentRequest(KEYS[0], RUN, "m", 1.0)]))
    assert not store.ledger.try_commit(LedgerBatch(released=[KEYS[0]]))


def test_the_ledger_of_the_far_store_comes_first(tmp_path: Path) -> None:
    near, far = llmhub.DiskCache(tmp_path / "near.db").open(), llmhub.DiskCache(tmp_path / "far.db").open()
    store = tiered_store(near, far)
    assert (store.ledger, store.claims) == (far.ledger, far.claims)
    store.close()


def test_requests_in_doubt_are_errors_on_a_tiered_cache(
    tiers: Any, tmp_path: Path, redis_server: Any, simulator: SimulatorThread
) -> None:
    cache = llmhub.TieredCache(llmhub.DiskCache(tmp_path / "runs.db"), llmhub.RedisCache(redis_server.url))
    hub = llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache, ambiguous="error")
    keys = [key.as_py() for key in ask(hub).column("request_key")]
    hub.runtime.store.delete(keys)
    hub.close()
    dead = tiers()
    claim(dead, keys[0])
    commit(dead, sent=[SentRequest(keys[0], RUN, MODEL, 1.0)])
    dead.close()
    with pytest.warns(RuntimeWarning, match="1 request had been sent"):
        table = ask(hub)
    hub.close()
    assert table.column("status").to_pylist() == ["error", "ok"]
    assert simulator.counts()["requests"] == 3


def ask(hub: llmhub.Hub) -> Any:
    return llmhub.complete_table({"n": ["a", "b"]}, "Say {n}", model=MODEL, hub=hub, progress=False)


@pytest.mark.parametrize(
    "cache",
    [
        None,
        "memory://",
        "redis://localhost:1/0",
        llmhub.TieredCache(llmhub.MemoryCache(), llmhub.RedisCache("redis://localhost:1/0")),
        llmhub.DiskCache("runs.db", read_only=True),
    ],
)
def test_a_cache_without_a_ledger_is_refused(cache: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^ambiguous: 'error' needs a cache with a ledger.*DiskCache"):
        llmhub.Hub(settings=Settings(), cache=cache, ambiguous="error")


@dataclass(frozen=True)
class ForeignCache:
    """A cache of a plugin, which does not tell before it is opened whether it keeps a ledger."""

    path: Path
    has_own_ledger: bool

    def open(self) -> Store:
        store = llmhub.DiskCache(self.path).open()
        return store if self.has_own_ledger else replace(store, ledger=None)


@pytest.mark.parametrize("has_own_ledger", [True, False])
def test_a_foreign_cache_is_asked_when_it_is_opened(
    simulator: SimulatorThread, tmp_path: Path, has_own_ledger: bool
) -> None:
    cache = ForeignCache(tmp_path / "runs.db", has_own_ledger)
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache, ambiguous="error") as hub:
        if has_own_ledger:
            assert ask(hub).column("status").to_pylist() == ["ok", "ok"]
        else:
            with pytest.raises(BadRequestError, match="ambiguous: 'error' needs a cache with a ledger"):
                ask(hub)
    assert simulator.counts()["requests"] == (2 if has_own_ledger else 0)
