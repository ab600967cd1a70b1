"""Record `files/`: a cache with a ledger, and a frozen dataset, as the current code writes them.

Run once for a new layout: ``python tests/goldens/record.py``. Files of earlier layouts stay and must be readable.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

import llmhub
from llmhub.cache.store import ClaimRequest, LedgerBatch, SentRequest
from llmhub.config import Settings
from llmhub.evals import scorers, tasks
from llmhub.sim import Simulator, serving

FILES = Path(__file__).parent / "files"
PORT = 47_113
MODELS = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
QUESTIONS = ["What is 2 + 3?", "Name a colour. é", "[[sim:500 always]] doomed", "[[sim:malformed always]] garbled"]
STREAMED = "Tell me a story."
TOOL = llmhub.Tool("weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
CALLED = "[[sim:tool weather]] What is the weather?"


def make_hub(url: str, path: Path | None) -> llmhub.Hub:
    return llmhub.Hub(
        endpoints={
            "openai": llmhub.Endpoint(base_url=f"{url}/openai/v1", api_key="simulated"),
            "anthropic": llmhub.Endpoint(base_url=f"{url}/anthropic", api_key="simulated"),
        },
        settings=Settings(),
        cache=None if path is None else llmhub.DiskCache(path),
        retry=llmhub.Retry(attempts=1),
    )


def run_all(hub: llmhub.Hub) -> dict[str, Any]:
    table = llmhub.complete_table({"q": QUESTIONS}, "{q}", model=MODELS, hub=hub, progress=False, temperature=0.0, n=2)
    streamed = [list(llmhub.stream(STREAMED, model=model, hub=hub))[-1].response for model in MODELS]
    tool_response = llmhub.complete(CALLED, model=MODELS[0], tools=(TOOL,), hub=hub)
    rows = [
        {
            name: str(row[name])
            for name in (
                "model",
                "sample",
                "status",
                "response",
                "finish_reason",
                "error_type",
                "input_tokens",
                "output_tokens",
                "served_model",
                "request_id",
            )
        }
        | {"request_key": (row["request_key"] or b"").hex()}
        for row in table.to_pylist()
    ]
    return {
        "hits": table["cache_hit"].to_pylist(),
        "rows": rows,
        "streamed": [response.text for response in streamed if response],
        "called": [[call.id, call.name, call.arguments] for call in tool_response.tool_calls],
    }


def leave_claims_behind(path: Path) -> None:
    """Claim keys in a process that ends at once: one is claimed only, one is marked as sent."""
    store = llmhub.DiskCache(path).open()
    assert store.claims is not None
    assert store.ledger is not None
    run = b"golden-run-00001"
    store.claims.claim([ClaimRequest(bytes([n]) * 32, run) for n in range(2)], True, False)
    store.ledger.commit(LedgerBatch(sent=[SentRequest(bytes([1]) * 32, run, MODELS[0], 1.79e9)]))
    os._exit(0)


def record() -> None:
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    path = FILES / "cache.db"
    with serving(Simulator(seed=7, port=PORT)) as simulator:
        with make_hub(simulator.url, path) as hub:
            results = run_all(hub)
        subprocess.run([sys.executable, __file__, str(path)], check=True)
        frame = pd.DataFrame({"a": range(5), "b": [n * 3 for n in range(5)], "answer": [n * 4 for n in range(5)]})
        task = tasks.Task(name="sums", template="What is {a} + {b}?", scorers=scorers.numeric(), target="answer")
        with make_hub(simulator.url, None) as hub:
            evaluation = llmhub.evaluate(frame, task, MODELS, hub=hub, progress=False, resamples=100)
            llmhub.freeze(evaluation, FILES / "frozen", hub=hub)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # On any machine, the owners of these claims are dead.
        connection.execute("UPDATE owners SET realm = 'golden', lease_until = 1.79e9")
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
    (FILES / "answers.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        leave_claims_behind(Path(sys.argv[1]))
    record()
