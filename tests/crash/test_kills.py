"""Processes are killed at random moments, and no response that was stored is paid for twice."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmhub.cache.sqlite import DiskCache
from llmhub.sim import Faults, Latency, Simulator, SimulatorThread, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX fork and signals")]

KILLS = 200
CONCURRENCY = 8
PROCESSES = 8


def count_states(path: Path) -> Counter[str]:
    """Return the number of ledger entries by state; opening the file is part of the test."""
    store = DiskCache(path).open()
    try:
        assert store.ledger is not None
        return Counter(entry.state for entry in store.ledger.requests())
    finally:
        store.close()


def is_intact(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection, connection:
        verdict: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return verdict == "ok"


def prompts(name: str, count: int) -> list[str]:
    return [f"{name} {number}" for number in range(count)]


def job_for(served: SimulatorThread, store: Path, texts: list[str], **options: Any) -> dict[str, Any]:
    return {"url": served.base_url("openai"), "store": str(store), "prompts": texts, **options}


def start_and_kill(fork_server: Any, served: SimulatorThread, rng: random.Random, job: dict[str, Any]) -> int:
    """Start processes on one store and kill them at random times, mostly after their first request."""
    before = served.counts()["requests"]
    pids = [fork_server.start(**job) for _ in range(PROCESSES)]
    if rng.random() < 0.8:
        while served.counts()["requests"] == before:
            time.sleep(0.001)
    for pid in pids:
        time.sleep(rng.uniform(0.0, 0.06))
        fork_server.kill(pid)
    return sum(fork_server.wait(pid)["killed"] for pid in pids)


def test_200_kills_cost_no_more_than_what_was_in_flight(fork_server: Any, tmp_path: Path) -> None:
    """Paid calls <= unique requests + those in flight at the kills; every row has a result."""
    store, rng, killed, texts = tmp_path / "runs.db", random.Random(7), 0, prompts("kill", 100)
    with serving(Simulator(latency=Latency(0.02))) as served:
        while killed < KILLS:
            # Some prompts are always new.
            texts += prompts(f"after {killed} kills", 60)
            killed += start_and_kill(
                fork_server, served, rng, job_for(served, store, texts[-100:], concurrency=CONCURRENCY)
            )
        before_last_run, paid_before = count_states(store), served.counts()["requests"]
        result = fork_server.wait(fork_server.start(**job_for(served, store, texts, concurrency=64)))
        assert result["code"] == 0
        assert result["statuses"] == ["ok"] * len(texts)
        assert all(result["responses"])
        assert is_intact(store)
        final_states, paid = count_states(store), served.counts()["requests"]
        # A prompt sent more than once is in the ledger as ambiguous, and none is done twice.
        assert paid <= len(texts) + final_states["ambiguous"]
        assert final_states == {"done": len(texts), "ambiguous": before_last_run["ambiguous"]}
        assert 0 < paid_before <= before_last_run["done"] + before_last_run["ambiguous"]
        assert 0 < final_states["ambiguous"] <= KILLS * CONCURRENCY
        repeated = fork_server.wait(fork_server.start(**job_for(served, store, texts)))
        assert repeated["hits"] == [True] * len(texts)
        assert served.counts()["requests"] == paid


@pytest.mark.parametrize("workers", [1, 4, 64])
def test_a_kill_leaves_at_most_one_ambiguous_request_per_worker(fork_server: Any, tmp_path: Path, workers: int) -> None:
    """However fast the responses are: each is stored before its worker sends again."""
    store, rng, before = tmp_path / "runs.db", random.Random(workers), 0
    with serving(Simulator(latency=Latency(0.0005))) as served:
        for kill in range(12):
            texts, sent = prompts(f"quick {kill}", 3000), served.counts()["requests"]
            pid = fork_server.start(**job_for(served, store, texts, concurrency=workers, ambiguous="error"))
            while served.counts()["requests"] == sent:
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.1))
            fork_server.kill(pid)
            assert fork_server.wait(pid)["killed"]
            final_states = count_states(store)
            assert served.counts()["requests"] <= final_states["done"] + final_states["ambiguous"]
            assert final_states["ambiguous"] - before <= workers
            before = final_states["ambiguous"]
    assert before > 0


@pytest.mark.parametrize("workers", [5, 64])
def test_ambiguous_requests_are_reported_and_treated_by_the_policy(
    fork_server: Any, tmp_path: Path, workers: int
) -> None:
    store, texts = tmp_path / "runs.db", prompts("hang", workers + 15)
    with serving(Simulator(latency=Latency(3600.0))) as hanging:
        pid = fork_server.start(**job_for(hanging, store, texts, concurrency=workers))
        while hanging.counts()["requests"] < workers:
            time.sleep(0.005)
        fork_server.kill(pid)
        assert fork_server.wait(pid)["killed"]
        url = hanging.url
    assert count_states(store) == {"ambiguous": workers}
    port = int(url.rpartition(":")[2])
    with serving(Simulator(port=port)) as served:
        result = fork_server.wait(fork_server.start(**job_for(served, store, texts, ambiguous="error")))
        assert Counter(result["statuses"]) == {"ok": 15, "error": workers}
        assert sum("may have been charged" in (error or "") for error in result["errors"]) == workers
        assert any(warning.startswith(f"{workers} requests had been sent") for warning in result["warnings"])
        assert served.counts()["requests"] == 15
        result = fork_server.wait(fork_server.start(**job_for(served, store, texts)))
        assert result["statuses"] == ["ok"] * len(texts)
        assert any(warning.startswith(f"{workers} requests had been sent") for warning in result["warnings"])
        assert served.counts()["requests"] == len(texts)
        result = fork_server.wait(fork_server.start(**job_for(served, store, texts)))
        assert result["warnings"] == []
    assert count_states(store) == {"done": len(texts), "ambiguous": workers}


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_on_one_store_send_each_prompt_once(fork_server: Any, tmp_path: Path, processes: int) -> None:
    texts = prompts("same", 400)
    with serving(Simulator(latency=Latency(0.005))) as served:
        shuffled = [random.Random(number).sample(texts, len(texts)) for number in range(processes)]
        pids = [fork_server.start(**job_for(served, tmp_path / "runs.db", order)) for order in shuffled]
        results = [fork_server.wait(pid) for pid in pids]
        assert [result["code"] for result in results] == [0] * processes
        assert all(result["statuses"] == ["ok"] * len(texts) for result in results)
        assert served.counts()["requests"] == len(texts)
    answers = [
        dict(zip(order, result["responses"], strict=True)) for order, result in zip(shuffled, results, strict=True)
    ]
    assert all(answer == answers[0] for answer in answers)
    assert sum(result["hits"].count(False) for result in results) == len(texts)


@pytest.mark.parametrize("mode", ["refresh", "write-only"])
def test_processes_that_bypass_the_cache_send_one_after_another(fork_server: Any, tmp_path: Path, mode: str) -> None:
    with serving(Simulator(latency=Latency(0.1))) as served:
        pids = [fork_server.start(**job_for(served, tmp_path / "runs.db", ["same"], cache=mode)) for _ in range(4)]
        results = [fork_server.wait(pid) for pid in pids]
        assert [result["statuses"] for result in results] == [["ok"]] * 4
        assert served.counts()["max_in_flight"] == 1


def test_fallbacks_and_direct_calls_of_processes_are_sent_once(fork_server: Any, tmp_path: Path) -> None:
    """Some processes fall back to the model that the others request directly."""
    texts, up, down = prompts("fall", 40), "openai/gpt-4o-mini", "compatible/m"
    with serving(Simulator(latency=Latency(0.01))) as served:
        routes: list[list[str]] = [[down, up], [up], [up, down], []]
        jobs = [job_for(served, tmp_path / "runs.db", texts, route=route) for route in routes]
        results = [fork_server.wait(pid) for pid in [fork_server.start(**job) for job in jobs]]
        assert [result["statuses"] for result in results] == [["ok"] * len(texts)] * len(routes)
        assert served.counts()["requests"] == len(texts)
    assert len({tuple(result["responses"]) for result in results}) == 1


@pytest.mark.parametrize("mode", ["read-write", "refresh", "write-only"])
def test_processes_with_crossed_routes_neither_send_at_once_nor_deadlock(
    fork_server: Any, tmp_path: Path, mode: str
) -> None:
    """Each may fall back to the model that the other one tries first."""
    texts, mini, large, down = prompts("cross", 20), "openai/gpt-4o-mini", "openai/gpt-4o", "compatible/m"
    with serving(Simulator(latency=Latency(0.02), faults=Faults(rate_500=0.1))) as served:
        routes: list[list[str]] = [[mini, large], [large, mini], [down, mini, large], [down, large, mini]]
        jobs = [job_for(served, tmp_path / "runs.db", texts, route=route, cache=mode) for route in routes]
        results = [fork_server.wait(pid) for pid in [fork_server.start(**job) for job in jobs]]
        assert [result["statuses"] for result in results] == [["ok"] * len(texts)] * len(routes)
        assert served.counts()["max_identical"] == 1


def test_claims_of_a_killed_process_are_taken_over(fork_server: Any, tmp_path: Path) -> None:
    store, texts = tmp_path / "runs.db", prompts("over", 30)
    with serving(Simulator(latency=Latency(0.3))) as served:
        first = fork_server.start(**job_for(served, store, texts, concurrency=2))
        while served.counts()["requests"] < 3:
            time.sleep(0.005)
        second = fork_server.start(**job_for(served, store, texts, concurrency=30))
        os.kill(first, 0)
        fork_server.kill(first)
        assert fork_server.wait(first)["killed"]
        result = fork_server.wait(second)
        assert result["statuses"] == ["ok"] * 30
        assert served.counts()["requests"] <= 30 + count_states(store)["ambiguous"]
    assert 1 <= count_states(store)["ambiguous"] <= 4
