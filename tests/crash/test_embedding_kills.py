"""Processes that embed are killed at random moments: no vector that was stored is paid for again."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmhub.sim import Latency, Simulator, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX fork and signals")]

KILLS = 40
PROCESSES = 2
PACK = 10
CONCURRENCY = 2
DIMENSIONS = 256
"""Large enough for vectors to be in the file beside the cache."""


def test_kills_cost_no_more_than_what_was_in_flight(fork_server: Any, tmp_path: Path) -> None:
    """Paid texts <= distinct texts + those in flight at the kills; every row has a vector in the end."""
    texts = [f"text number {number:04}" for number in range(1000)]
    rng = random.Random(7)
    with serving(Simulator(latency=Latency(0.01))) as simulator:
        job = {
            "url": simulator.base_url("openai"),
            "store": str(tmp_path / "c.db"),
            "embed": "openai/text-embedding-3-small",
            "batch_size": PACK,
            "concurrency": CONCURRENCY,
            "dimensions": DIMENSIONS,
        }
        killed = 0
        while killed < KILLS:
            until = min(len(texts), 40 + 25 * killed)
            pids = [fork_server.start(**job, prompts=texts[:until]) for _ in range(PROCESSES)]
            for pid in pids:
                time.sleep(rng.uniform(0.0, 0.08))
                fork_server.kill(pid)
            killed += sum(fork_server.wait(pid)["killed"] for pid in pids)
        result = fork_server.wait(fork_server.start(**job, prompts=texts))
        assert set(result["statuses"]) == {"ok"}
        assert all(len(vector) == DIMENSIONS for vector in result["responses"])
        paid = simulator.counts()["tokens"]["input"] / 4
        assert len(texts) <= paid <= len(texts) + KILLS * PACK * CONCURRENCY
        simulator.reset()
        again = fork_server.wait(fork_server.start(**job, prompts=texts))
        assert set(again["hits"]) == {True}
        assert simulator.counts()["requests"] == 0


def test_processes_at_once_pay_for_each_text_once(fork_server: Any, tmp_path: Path) -> None:
    texts = [f"text number {number:04}" for number in range(300)]
    with serving(Simulator(latency=Latency(0.02))) as simulator:
        job = {
            "url": simulator.base_url("openai"),
            "store": str(tmp_path / "c.db"),
            "embed": "openai/text-embedding-3-small",
            "batch_size": PACK,
            "concurrency": CONCURRENCY,
            "dimensions": DIMENSIONS,
        }
        results = [fork_server.wait(pid) for pid in [fork_server.start(**job, prompts=texts) for _ in range(4)]]
        assert all(set(result["statuses"]) == {"ok"} for result in results)
        assert all(result["responses"] == results[0]["responses"] for result in results)
        assert simulator.counts()["tokens"]["input"] == 4 * len(texts)
