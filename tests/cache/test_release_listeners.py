"""Waiting for claims of other processes: told by the release, not found by trying."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.store import ClaimRequest, Claims
from llmhub.config import Settings
from llmhub.sim import Latency, Simulator, serving

KEYS = [bytes([number]) * 32 for number in range(1, 4)]
RUN = b"r" * 16


@pytest.fixture(params=["disk", "redis", "both"])
def open_claims(request: pytest.FixtureRequest, make_cache: Callable[..., Any]) -> Iterator[Callable[[], Claims]]:
    """Return a function that opens the same store once more, as another process would."""
    with ExitStack() as stack:

        def make() -> Claims:
            if request.param == "both":
                cache: Any = llmhub.TieredCache(make_cache("disk"), make_cache("redis"))
            else:
                cache = make_cache(request.param)
            store = cache.open()
            stack.callback(store.close)
            assert store.claims is not None
            return store.claims

        yield make


def requests(keys: list[bytes]) -> list[ClaimRequest]:
    return [ClaimRequest(key, RUN) for key in keys]


def test_a_watch_reports_each_key_once_when_it_is_released(open_claims: Any) -> None:
    first, second = open_claims(), open_claims()
    assert not first.claim(requests(KEYS), True, False).held_elsewhere
    assert second.claim(requests(KEYS), True, False).held_elsewhere == set(KEYS)
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    second.watch(KEYS, lambda released: [told.put(key) for key in released])
    first.release(KEYS[:1])
    assert told.get(timeout=20) == KEYS[0]
    first.release(KEYS[1:])
    assert {told.get(timeout=20), told.get(timeout=20)} == set(KEYS[1:])
    assert told.empty()
    assert not second.claim(requests(KEYS), True, True).held_elsewhere


def test_a_key_that_is_free_already_is_reported_at_once(open_claims: Any) -> None:
    first, second = open_claims(), open_claims()
    first.claim(requests(KEYS), True, False)
    second.claim(requests(KEYS), True, False)
    first.release(KEYS)
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    end = second.watch(KEYS, lambda released: [told.put(key) for key in released])
    assert {told.get(timeout=20) for _ in KEYS} == set(KEYS)
    end()


HOLDER = """
import sys
import llmhub
from llmhub.cache.store import ClaimRequest
kind, place = sys.argv[1:]
store = (llmhub.RedisCache(place) if kind == "redis" else llmhub.DiskCache(place)).open()
store.claims.claim([ClaimRequest(bytes([1]) * 32, b"r" * 16)], True, False)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["disk", "redis"])
def test_keys_of_a_process_of_this_host_that_was_killed_are_reported(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = request.getfixturevalue("redis_server").url if kind == "redis" else str(tmp_path / "a.db")
    store = (llmhub.RedisCache(place, lease_s=3600.0) if kind == "redis" else llmhub.DiskCache(place)).open()
    claims = store.claims
    assert claims is not None
    assert claims.watch is not None
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, kind, place], **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline().strip() == b"held"
        assert claims.claim(requests(KEYS), True, False).held_elsewhere == {KEYS[0]}
        told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        claims.watch(KEYS[:1], lambda released: [told.put(key) for key in released])
        holder.kill()
        holder.wait()
        assert told.get(timeout=20) == KEYS[0]
    assert not claims.claim(requests(KEYS), True, True).held_elsewhere
    store.close()


def test_waiting_for_another_process_takes_one_attempt_for_each_key(redis_server: Any) -> None:
    import asyncio  # noqa: PLC0415 - of this one test

    import redis  # noqa: PLC0415 - an extra

    frame = {"x": [f"row {number}" for number in range(150)]}
    with serving(Simulator(seed=7, latency=Latency(0.5))) as simulator, ExitStack() as stack:
        cache = llmhub.RedisCache(redis_server.url)
        hubs = [
            stack.enter_context(llmhub.Hub(simulator=simulator.url, settings=Settings(), cache=cache)) for _ in range(2)
        ]

        async def both() -> list[Any]:
            return await asyncio.gather(
                *(
                    llmhub.acomplete_table(frame, "{x}", model="openai/gpt-4o-mini", hub=hub, progress=False)
                    for hub in hubs
                )
            )

        client = redis.Redis.from_url(redis_server.url)
        stack.callback(client.close)

        def writes() -> int:  # of the server's whole life: other tests of the session use it too
            return int(client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"])

        before = writes()
        tables = asyncio.run(both())
        assert simulator.counts()["requests"] == 150
        assert [set(table.column("status").to_pylist()) for table in tables] == [{"ok"}, {"ok"}]
        attempts = writes() - before
    # The first claim of each hub, and one more once the key is released; limits write a few.
    assert attempts <= 3 * 150 + 50
