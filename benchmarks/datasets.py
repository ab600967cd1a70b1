"""How long it takes to freeze, verify and compare a dataset of a million rows.

``python benchmarks/datasets.py`` prints seconds by the clock and of the processor, and a plain hash of the same bytes
beside them; ``--rows`` chooses how many.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import llmhub
from llmhub.tables.cost_columns import from_nanos
from llmhub.tables.schema import RESULTS

MODELS = (("openai", "gpt-4o-mini"), ("anthropic", "claude-haiku-4-5"))


def inputs(rows: int) -> pa.Table:
    questions = [f"What is {at} plus {at * 7}? Explain in a sentence." for at in range(rows)]
    return pa.table({"question": questions, "target": np.arange(rows) * 8})


def results(rows: int) -> pa.Table:
    """Make answers of two models to each row."""
    many = rows * len(MODELS)
    places = np.arange(many)
    columns: dict[str, Any] = {
        "row": places // len(MODELS),
        "sample": np.zeros(many, np.int32),
        "provider": pa.array([provider for provider, _ in MODELS] * rows),
        "model": pa.array([model for _, model in MODELS] * rows),
        "status": pa.array(["ok"] * many),
        "response": [f"The answer is {at}, because the two numbers were added step by step." for at in range(many)],
        "finish_reason": pa.array(["stop"] * many),
        "tool_calls": pa.array([[]] * many, RESULTS.field("tool_calls").type),
        "input_tokens": places % 50,
        "output_tokens": places % 70,
        "list_cost_usd": from_nanos(places),
        "latency_s": places / many,
        "request_id": [f"req_{at}" for at in range(many)],
        "request_key": [at.to_bytes(32, "big") for at in range(many)],
        "started_at": pa.array(1_700_000_000_000_000 + places).cast(RESULTS.field("started_at").type),
    }
    return pa.table([_column(columns.get(field.name), field, many) for field in RESULTS], schema=RESULTS)


def _column(values: Any, field: pa.Field, many: int) -> pa.Array:
    if values is None:
        return pa.nulls(many, field.type)
    if isinstance(values, list) and pa.types.is_fixed_size_binary(field.type):
        return pa.array(values, field.type)
    return pa.array(values).cast(field.type)


def timed(what: str, work: Callable[[], Any]) -> Any:
    began, used = time.perf_counter(), time.process_time()
    found = work()
    print(f"{what:28} {time.perf_counter() - began:8.2f} {time.process_time() - used:8.2f}")
    return found


def plain(rows: int) -> None:
    """Hash as many rows of about as many bytes, one by one."""
    text = b"x" * 300
    for _ in range(rows):
        hashlib.sha256(text).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    asked, answered = inputs(rows // len(MODELS)), results(rows // len(MODELS))
    print(f"{rows:,} rows{'':17} {'seconds':>8} {'CPU':>8}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "set"
        timed("hashing alone", lambda: plain(rows))
        timed("freeze", lambda: llmhub.freeze(answered, folder, data=asked))
        found = timed("verify", lambda: llmhub.verify(folder))
        assert found, found
        assert timed("diff", lambda: llmhub.diff(folder, folder)).same
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{megabytes:,.0f} MB on disk, {peak:.1f} GB at the peak, inputs included")


if __name__ == "__main__":
    main()
