"""Processes that share a Redis server ask each question once, and take over from one that is killed."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import pytest

from llmhub.cache.redis import RedisCache
from llmhub.cache.store import ClaimRequest, StoreError
from llmhub.sim import Latency, Simulator, serving

KEYS = [n.to_bytes(32, "big") for n in range(1200)]
RUN = b"r" * 16
LEASE_S = 1.0

posix = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals of POSIX")


def asking(url: str, store: str, asked: list[str], **more: Any) -> dict[str, Any]:
    return {"url": url, "store": store, "questions": asked, **more}


def held(store: Any, *keys: bytes) -> frozenset[bytes]:
    found: frozenset[bytes] = store.claims.claim([ClaimRequest(key, RUN) for key in keys], True, False).held_elsewhere
    return found


@pytest.fixture
def two(redis_server: Any) -> Any:
    """Two holders of claims on one server."""
    stores = [RedisCache(redis_server.url, lease_s=LEASE_S).open() for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


def test_a_key_is_one_holder_s_until_it_is_given_back(two: Any) -> None:
    one, other = two
    assert not held(one, *KEYS)
    assert not held(one, *KEYS)
    assert held(other, *KEYS) == set(KEYS)
    one.claims.release(KEYS[:3])
    assert held(other, *KEYS) == set(KEYS[3:])
    # Nobody gives back or extends what is another's.
    one.claims.release(KEYS)
    one.claims.heartbeat()
    assert held(one, KEYS[0]) == {KEYS[0]}
    one.close()
    assert not held(other, *KEYS)


def test_a_lease_that_is_extended_lives_and_one_that_is_not_runs_out(two: Any) -> None:
    one, other = two
    held(one, *KEYS[:2])
    began = time.monotonic()
    while time.monotonic() - began < 1.5 * LEASE_S:
        one.claims.heartbeat()
        assert held(other, KEYS[0]) == {KEYS[0]}
        time.sleep(LEASE_S / 20)
    until = time.monotonic() + 20 * LEASE_S
    while held(other, KEYS[0]):
        assert time.monotonic() < until
        time.sleep(LEASE_S / 20)
    # Who lost it does not take it from its new holder by a late sign of life.
    one.claims.heartbeat()
    assert held(one, KEYS[0]) == {KEYS[0]}


@posix
@pytest.mark.parametrize("mode", ["refresh", "write-only"])
def test_processes_that_ask_anew_on_one_server_never_ask_the_same_at_once(
    zygote: Any, redis_server: Any, mode: str
) -> None:
    """Not even where their routes cross."""
    asked, one, two = [f"anew {n}" for n in range(20)], "openai/gpt-4o-mini", "openai/gpt-4o"
    with serving(Simulator(latency=Latency(0.02))) as served:
        url = served.base_url("openai")
        jobs = [asking(url, redis_server.url, asked, cache=mode, route=way) for way in ([one, two], [two, one], [])]
        done = [zygote.wait(pid) for pid in [zygote.start(**job) for job in jobs]]
        assert [job["statuses"] for job in done] == [["ok"] * len(asked)] * len(jobs)
        assert served.counts()["max_alike"] == 1


def test_claims_are_no_answers(two: Any) -> None:
    one, _ = two
    held(one, *KEYS)
    assert one.stats().entries == 0
    assert list(one.scan()) == []
    one.clear()
    assert held(two[1], KEYS[0]) == {KEYS[0]}


def test_a_server_that_is_away_says_so(own_redis: Any) -> None:
    store = RedisCache(own_redis.url).open()
    own_redis.stop()
    with pytest.raises(StoreError):
        held(store, KEYS[0])
    store.close()


@posix
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 8])
def test_processes_on_one_server_send_each_question_once(zygote: Any, redis_server: Any, processes: int) -> None:
    asked = [f"same {number}" for number in range(300)]
    with serving(Simulator(latency=Latency(0.005))) as served:
        url = served.base_url("openai")
        shuffled = [random.Random(number).sample(asked, len(asked)) for number in range(processes)]
        pids = [zygote.start(**asking(url, redis_server.url, some)) for some in shuffled]
        done = [zygote.wait(pid) for pid in pids]
        assert [one["code"] for one in done] == [0] * processes
        assert all(one["statuses"] == ["ok"] * len(asked) for one in done)
        assert served.counts()["requests"] == len(asked)
    assert sum(one["hits"].count(False) for one in done) == len(asked)


@posix
@pytest.mark.slow
def test_what_a_killed_process_held_is_asked_by_another_when_its_lease_is_over(zygote: Any, redis_server: Any) -> None:
    store, asked = f"{redis_server.url}?lease_s={LEASE_S}", [f"over {number}" for number in range(20)]
    with serving(Simulator(latency=Latency(3600.0))) as hanging:
        first = zygote.start(**asking(hanging.base_url("openai"), store, asked, concurrency=4))
        while hanging.counts()["requests"] < 4:
            time.sleep(0.005)
        port = int(hanging.url.rpartition(":")[2])
        zygote.kill(first)
        assert zygote.wait(first)["killed"]
    with serving(Simulator(port=port)) as served:
        done = zygote.wait(zygote.start(**asking(served.base_url("openai"), store, asked)))
        assert done["statuses"] == ["ok"] * len(asked)
        assert served.counts()["requests"] == len(asked)
