"""Processes that share a Redis server send each prompt once, and take over from one that is killed."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import pytest

from llmhub.cache import redis
from llmhub.cache.redis import RedisCache
from llmhub.cache.store import ClaimRequest, StoreError
from llmhub.sim import Latency, Simulator, serving

KEYS = [n.to_bytes(32, "big") for n in range(1200)]
RUN = b"r" * 16
LEASE_S = 1.0

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX fork and signals")


def job_for(url: str, store: str, prompts: list[str], **options: Any) -> dict[str, Any]:
    return {"url": url, "store": store, "prompts": prompts, **options}


def claim(store: Any, *keys: bytes) -> frozenset[bytes]:
    """Claim keys. Return those held elsewhere."""
    held_elsewhere: frozenset[bytes] = store.claims.claim(
        [ClaimRequest(key, RUN) for key in keys], True, False
    ).held_elsewhere
    return held_elsewhere


@pytest.fixture
def two_stores(redis_server: Any) -> Any:
    """Two stores on one server, each with claims of its own."""
    stores = [RedisCache(redis_server.url, lease_s=LEASE_S).open() for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


def test_a_key_is_claimed_until_it_is_released(two_stores: Any) -> None:
    first, second = two_stores
    assert not claim(first, *KEYS)
    assert not claim(first, *KEYS)
    assert claim(second, *KEYS) == set(KEYS)
    first.claims.release(KEYS[:3])
    assert claim(second, *KEYS) == set(KEYS[3:])
    # A store neither releases nor extends claims of another one.
    first.claims.release(KEYS)
    first.claims.heartbeat()
    assert claim(first, KEYS[0]) == {KEYS[0]}
    first.close()
    assert not claim(second, *KEYS)


def test_a_lease_expires_unless_it_is_extended(two_stores: Any) -> None:
    first, second = two_stores
    claim(first, *KEYS[:2])
    began = time.monotonic()
    while time.monotonic() - began < 1.5 * LEASE_S:
        first.claims.heartbeat()
        assert claim(second, KEYS[0]) == {KEYS[0]}
        time.sleep(LEASE_S / 20)
    until = time.monotonic() + 20 * LEASE_S
    while claim(second, KEYS[0]):
        assert time.monotonic() < until
        time.sleep(LEASE_S / 20)
    # A late heartbeat of the previous holder does not take the key back.
    first.claims.heartbeat()
    assert claim(first, KEYS[0]) == {KEYS[0]}


@posix
@pytest.mark.parametrize("mode", ["refresh", "write-only"])
def test_processes_that_bypass_the_cache_never_send_the_same_at_once(
    fork_server: Any, redis_server: Any, mode: str
) -> None:
    """Even if their routes cross."""
    prompts, mini, large = [f"bypass {n}" for n in range(20)], "openai/gpt-4o-mini", "openai/gpt-4o"
    with serving(Simulator(latency=Latency(0.02))) as served:
        url = served.base_url("openai")
        jobs = [
            job_for(url, redis_server.url, prompts, cache=mode, route=route)
            for route in ([mini, large], [large, mini], [])
        ]
        results = [fork_server.wait(pid) for pid in [fork_server.start(**job) for job in jobs]]
        assert [result["statuses"] for result in results] == [["ok"] * len(prompts)] * len(jobs)
        assert served.counts()["max_identical"] == 1


def test_claims_are_not_entries(two_stores: Any) -> None:
    first, _ = two_stores
    claim(first, *KEYS)
    assert first.stats().entries == 0
    assert list(first.scan()) == []
    first.clear()
    assert claim(two_stores[1], KEYS[0]) == {KEYS[0]}


def test_an_unreachable_server_is_a_store_error(own_redis: Any) -> None:
    store = RedisCache(own_redis.url).open()
    own_redis.stop()
    with pytest.raises(StoreError):
        claim(store, KEYS[0])
    store.close()


@posix
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 8])
def test_processes_on_one_server_send_each_prompt_once(fork_server: Any, redis_server: Any, processes: int) -> None:
    prompts = [f"same {number}" for number in range(300)]
    with serving(Simulator(latency=Latency(0.005))) as served:
        url = served.base_url("openai")
        shuffled = [random.Random(number).sample(prompts, len(prompts)) for number in range(processes)]
        pids = [fork_server.start(**job_for(url, redis_server.url, order)) for order in shuffled]
        results = [fork_server.wait(pid) for pid in pids]
        assert [result["code"] for result in results] == [0] * processes
        assert all(result["statuses"] == ["ok"] * len(prompts) for result in results)
        assert served.counts()["requests"] == len(prompts)
    assert sum(result["hits"].count(False) for result in results) == len(prompts)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("lease_s", [None, LEASE_S])
def test_claims_of_a_killed_process_are_taken_over(fork_server: Any, redis_server: Any, lease_s: float | None) -> None:
    """At once on its host; elsewhere when they expire."""
    store, prompts = f"{redis_server.url}?lease_s={lease_s or 3600.0}", [f"over {number}" for number in range(20)]
    with serving(Simulator(latency=Latency(3600.0))) as hanging:
        first = fork_server.start(**job_for(hanging.base_url("openai"), store, prompts, concurrency=4))
        while hanging.counts()["requests"] < 4:
            time.sleep(0.005)
        port = int(hanging.url.rpartition(":")[2])
        fork_server.kill(first)
        assert fork_server.wait(first)["killed"]
    with serving(Simulator(port=port)) as served:
        job = job_for(served.base_url("openai"), store, prompts, elsewhere=lease_s is not None)
        result = fork_server.wait(fork_server.start(**job))
        assert result["statuses"] == ["ok"] * len(prompts)
        assert served.counts()["requests"] == len(prompts)


@posix
def test_a_claim_of_a_dead_process_of_this_host_is_free(two_stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_stores
    claim(first, *KEYS)
    assert claim(second, *KEYS) == set(KEYS)
    with monkeypatch.context() as patch:
        patch.setattr(redis, "process_start_time", lambda _: "")
        assert claim(second, *KEYS) == frozenset()
    assert claim(first, *KEYS) == set(KEYS)
