"""Processes are killed at random moments, and nothing is paid for twice that need not be."""

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

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="forks and signals of POSIX")]

KILLS = 200
CONCURRENCY = 8
TOGETHER = 8


def states(path: Path) -> Counter[str]:
    """Count the requests in a ledger by their state; opening the file is part of the test."""
    store = DiskCache(path).open()
    try:
        assert store.ledger is not None
        return Counter(one.state for one in store.ledger.requests())
    finally:
        store.close()


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection, connection:
        said: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return said == "ok"


def questions(name: str, many: int) -> list[str]:
    return [f"{name} {number}" for number in range(many)]


def asking(served: SimulatorThread, store: Path, asked: list[str], **more: Any) -> dict[str, Any]:
    return {"url": served.base_url("openai"), "store": str(store), "questions": asked, **more}


def kill_some(zygote: Any, served: SimulatorThread, draw: random.Random, job: dict[str, Any]) -> int:
    """Start processes on one store and kill them at random moments, for the most part after they began to ask."""
    before = served.counts()["requests"]
    pids = [zygote.start(**job) for _ in range(TOGETHER)]
    if draw.random() < 0.8:
        while served.counts()["requests"] == before:
            time.sleep(0.001)
    for pid in pids:
        time.sleep(draw.uniform(0.0, 0.06))
        zygote.kill(pid)
    return sum(zygote.wait(pid)["killed"] for pid in pids)


def test_200_kills_cost_no_more_than_what_was_in_flight(zygote: Any, tmp_path: Path) -> None:
    """Paid calls <= unique requests + those in flight at the kills; every row is there; ambiguous ones are counted."""
    store, draw, killed, asked = tmp_path / "runs.db", random.Random(7), 0, questions("kill", 100)
    with serving(Simulator(latency=Latency(0.02))) as served:
        while killed < KILLS:
            # There is always something left to ask.
            asked += questions(f"after {killed} kills", 60)
            killed += kill_some(zygote, served, draw, asking(served, store, asked[-100:], concurrency=CONCURRENCY))
        left, paid_before = states(store), served.counts()["requests"]
        done = zygote.wait(zygote.start(**asking(served, store, asked, concurrency=64)))
        assert done["code"] == 0
        assert done["statuses"] == ["ok"] * len(asked)
        assert all(done["responses"])
        assert sound(store)
        found, paid = states(store), served.counts()["requests"]
        # Whatever the simulator was asked more than once is in the ledger as ambiguous, and nothing is done twice.
        assert paid <= len(asked) + found["ambiguous"]
        assert found == {"done": len(asked), "ambiguous": left["ambiguous"]}
        assert 0 < paid_before <= left["done"] + left["ambiguous"]
        assert 0 < found["ambiguous"] <= KILLS * CONCURRENCY
        again = zygote.wait(zygote.start(**asking(served, store, asked)))
        assert again["hits"] == [True] * len(asked)
        assert served.counts()["requests"] == paid


@pytest.mark.parametrize("workers", [1, 4, 64])
def test_a_kill_leaves_no_more_in_doubt_than_there_were_workers(zygote: Any, tmp_path: Path, workers: int) -> None:
    """However quick the answers are: each is filed before the worker that got it sends again."""
    store, draw, before = tmp_path / "runs.db", random.Random(workers), 0
    with serving(Simulator(latency=Latency(0.0005))) as served:
        for kill in range(12):
            asked, sent = questions(f"quick {kill}", 3000), served.counts()["requests"]
            pid = zygote.start(**asking(served, store, asked, concurrency=workers, ambiguous="error"))
            while served.counts()["requests"] == sent:
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, 0.1))
            zygote.kill(pid)
            assert zygote.wait(pid)["killed"]
            found = states(store)
            assert served.counts()["requests"] <= found["done"] + found["ambiguous"]
            assert found["ambiguous"] - before <= workers
            before = found["ambiguous"]
    assert before > 0


@pytest.mark.parametrize("workers", [5, 64])
def test_what_was_in_flight_at_a_kill_is_reported_and_sent_again_or_not_as_the_policy_says(
    zygote: Any, tmp_path: Path, workers: int
) -> None:
    store, asked = tmp_path / "runs.db", questions("hang", workers + 15)
    with serving(Simulator(latency=Latency(3600.0))) as hanging:
        pid = zygote.start(**asking(hanging, store, asked, concurrency=workers))
        while hanging.counts()["requests"] < workers:
            time.sleep(0.005)
        zygote.kill(pid)
        assert zygote.wait(pid)["killed"]
        url = hanging.url
    assert states(store) == {"ambiguous": workers}
    port = int(url.rpartition(":")[2])
    with serving(Simulator(port=port)) as served:
        done = zygote.wait(zygote.start(**asking(served, store, asked, ambiguous="error")))
        assert Counter(done["statuses"]) == {"ok": 15, "error": workers}
        assert sum("may have been charged" in (error or "") for error in done["errors"]) == workers
        assert any(warning.startswith(f"{workers} requests had been sent") for warning in done["warnings"])
        assert served.counts()["requests"] == 15
        done = zygote.wait(zygote.start(**asking(served, store, asked)))
        assert done["statuses"] == ["ok"] * len(asked)
        assert any(warning.startswith(f"{workers} requests had been sent") for warning in done["warnings"])
        assert served.counts()["requests"] == len(asked)
        done = zygote.wait(zygote.start(**asking(served, store, asked)))
        assert done["warnings"] == []
    assert states(store) == {"done": len(asked), "ambiguous": workers}


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_on_one_store_send_each_question_once(zygote: Any, tmp_path: Path, processes: int) -> None:
    asked = questions("same", 400)
    with serving(Simulator(latency=Latency(0.005))) as served:
        shuffled = [random.Random(number).sample(asked, len(asked)) for number in range(processes)]
        pids = [zygote.start(**asking(served, tmp_path / "runs.db", some)) for some in shuffled]
        done = [zygote.wait(pid) for pid in pids]
        assert [one["code"] for one in done] == [0] * processes
        assert all(one["statuses"] == ["ok"] * len(asked) for one in done)
        assert served.counts()["requests"] == len(asked)
    answers = [dict(zip(some, one["responses"], strict=True)) for some, one in zip(shuffled, done, strict=True)]
    assert all(one == answers[0] for one in answers)
    assert sum(one["hits"].count(False) for one in done) == len(asked)


@pytest.mark.parametrize("mode", ["refresh", "write-only"])
def test_processes_that_ask_anew_ask_one_after_the_other(zygote: Any, tmp_path: Path, mode: str) -> None:
    with serving(Simulator(latency=Latency(0.1))) as served:
        pids = [zygote.start(**asking(served, tmp_path / "runs.db", ["same"], cache=mode)) for _ in range(4)]
        done = [zygote.wait(pid) for pid in pids]
        assert [one["statuses"] for one in done] == [["ok"]] * 4
        assert served.counts()["max_in_flight"] == 1


def test_processes_fall_back_on_one_another_s_targets_and_ask_each_question_once(zygote: Any, tmp_path: Path) -> None:
    """Some ask in another's place what the others ask outright."""
    asked, up, down = questions("fall", 40), "openai/gpt-4o-mini", "compatible/m"
    with serving(Simulator(latency=Latency(0.01))) as served:
        ways: list[list[str]] = [[down, up], [up], [up, down], []]
        jobs = [asking(served, tmp_path / "runs.db", asked, route=way) for way in ways]
        done = [zygote.wait(pid) for pid in [zygote.start(**job) for job in jobs]]
        assert [one["statuses"] for one in done] == [["ok"] * len(asked)] * len(ways)
        assert served.counts()["requests"] == len(asked)
    assert len({tuple(one["responses"]) for one in done}) == 1


@pytest.mark.parametrize("mode", ["read-write", "refresh", "write-only"])
def test_processes_whose_routes_cross_neither_ask_at_once_nor_wait_for_ever(
    zygote: Any, tmp_path: Path, mode: str
) -> None:
    """Each may ask, in another's place, whom the other asks first."""
    asked, one, two, down = questions("cross", 20), "openai/gpt-4o-mini", "openai/gpt-4o", "compatible/m"
    with serving(Simulator(latency=Latency(0.02), faults=Faults(rate_500=0.1))) as served:
        ways: list[list[str]] = [[one, two], [two, one], [down, one, two], [down, two, one]]
        jobs = [asking(served, tmp_path / "runs.db", asked, route=way, cache=mode) for way in ways]
        done = [zygote.wait(pid) for pid in [zygote.start(**job) for job in jobs]]
        assert [one["statuses"] for one in done] == [["ok"] * len(asked)] * len(ways)
        assert served.counts()["max_alike"] == 1


def test_what_a_dying_process_held_is_taken_over_by_who_waits_for_it(zygote: Any, tmp_path: Path) -> None:
    store, asked = tmp_path / "runs.db", questions("over", 30)
    with serving(Simulator(latency=Latency(0.3))) as served:
        first = zygote.start(**asking(served, store, asked, concurrency=2))
        while served.counts()["requests"] < 3:
            time.sleep(0.005)
        second = zygote.start(**asking(served, store, asked, concurrency=30))
        os.kill(first, 0)
        zygote.kill(first)
        assert zygote.wait(first)["killed"]
        done = zygote.wait(second)
        assert done["statuses"] == ["ok"] * 30
        assert served.counts()["requests"] <= 30 + states(store)["ambiguous"]
    assert 1 <= states(store)["ambiguous"] <= 4
