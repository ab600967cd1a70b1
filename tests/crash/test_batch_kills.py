"""Processes that send batches are killed at any moment: no row is in two live batches, and none is paid twice."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmhub.cache.sqlite import DiskCache
from llmhub.sim import Simulator, SimulatorThread, serving
from llmhub.sim.batch_store import SimBatches

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX fork and signals")]

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash")


def job_for(served: SimulatorThread, store: Path, texts: list[str], model: str) -> dict[str, Any]:
    provider = model.partition("/")[0]
    return {"url": served.base_url(provider), "store": str(store), "prompts": texts, "batch": model}


def open_rows(store: Path) -> int:
    opened = DiskCache(store).open()
    try:
        assert opened.ledger is not None
        return sum(entry.state == "batched" for entry in opened.ledger.requests())
    finally:
        opened.close()


def kill_repeatedly(fork_server: Any, tmp_path: Path, model: str, kills: int) -> None:
    """Kill processes between the first row and the last answer, then let one finish; count what the provider has."""
    rng, store, texts = random.Random(kills), tmp_path / "runs.db", [f"row {number}" for number in range(12)]
    settings = Simulator(seed=3, batches=SimBatches(duration_s=0.15))
    with serving(settings) as served:
        for kill in range(kills):
            if kill % 4 == 3:
                texts += [f"row {len(texts) + number}" for number in range(6)]
            pid = fork_server.start(**job_for(served, store, texts, model))
            time.sleep(rng.uniform(0.0, 0.25))
            fork_server.kill(pid)
            fork_server.wait(pid)
        result = fork_server.wait(fork_server.start(**job_for(served, store, texts, model)))
        assert result["code"] == 0, result
        assert result["statuses"] == ["ok"] * len(texts)
        rows = served.batch_rows()
        assert set(rows.values()) == {1}
        assert len(rows) == len(texts)
        assert served.counts()["unique_prompts"] == len(texts)
        assert sum(served.counts()["by_model"].values()) == len(texts)  # each row was processed once
        sent = len(served.batches())
        again = fork_server.wait(fork_server.start(**job_for(served, store, texts, model)))
        assert again["hits"] == [True] * len(texts)
        assert len(served.batches()) == sent
    assert open_rows(store) == 0


@pytest.mark.parametrize("model", MODELS)
def test_kills_leave_each_row_in_one_batch(fork_server: Any, tmp_path: Path, model: str) -> None:
    kill_repeatedly(fork_server, tmp_path, model, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kills"), [(MODELS[0], 80), (MODELS[1], 60), (MODELS[2], 60)])
def test_200_kills_leave_each_row_in_one_batch(fork_server: Any, tmp_path: Path, model: str, kills: int) -> None:
    kill_repeatedly(fork_server, tmp_path, model, kills)


@pytest.mark.parametrize("model", MODELS)
def test_processes_that_start_together_share_batches(fork_server: Any, tmp_path: Path, model: str) -> None:
    texts = [f"row {number}" for number in range(30)]
    with serving(Simulator(seed=3, batches=SimBatches(duration_s=0.3))) as served:
        orders = [random.Random(number).sample(texts, len(texts)) for number in range(3)]
        pids = [fork_server.start(**job_for(served, tmp_path / "runs.db", order, model)) for order in orders]
        results = [fork_server.wait(pid) for pid in pids]
        assert [result["statuses"] for result in results] == [["ok"] * len(texts)] * 3
        assert set(served.batch_rows().values()) == {1}
        assert len(served.batch_rows()) == len(texts)
