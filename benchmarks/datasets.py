"""Time and memory of freezing, verifying and comparing a dataset of a million rows.

``python benchmarks/datasets.py`` prints wall-clock and CPU seconds, and for reference those of a plain hash of
about as many bytes; ``--rows`` sets the number of rows.
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
BYTES_PER_ROW = 300


def make_inputs(rows: int) -> pa.Table:
    questions = [f"What is {index} plus {index * 7}? Explain in a sentence." for index in range(rows)]
    return pa.table({"question": questions, "target": np.arange(rows) * 8})


def make_results(rows: int) -> pa.Table:
    """Return results of two models for each row."""
    size = rows * len(MODELS)
    positions = np.arange(size)
    columns: dict[str, Any] = {
        "row": positions // len(MODELS),
        "sample": np.zeros(size, np.int32),
        "provider": pa.array([provider for provider, _ in MODELS] * rows),
        "model": pa.array([model for _, model in MODELS] * rows),
        "status": pa.array(["ok"] * size),
        "response": [f"The answer is {n}, because the two numbers were added step by step." for n in range(size)],
        "finish_reason": pa.array(["stop"] * size),
        "tool_calls": pa.array([[]] * size, RESULTS.field("tool_calls").type),
        "input_tokens": positions % 50,
        "output_tokens": positions % 70,
        "list_cost_usd": from_nanos(positions),
        "latency_s": positions / size,
        "request_id": [f"req_{n}" for n in range(size)],
        "request_key": [n.to_bytes(32, "big") for n in range(size)],
        "started_at": pa.array(1_700_000_000_000_000 + positions).cast(RESULTS.field("started_at").type),
    }
    return pa.table([_to_column(columns.get(field.name), field, size) for field in RESULTS], schema=RESULTS)


def _to_column(values: Any, field: pa.Field, size: int) -> pa.Array:
    if values is None:
        return pa.nulls(size, field.type)
    if isinstance(values, list) and pa.types.is_fixed_size_binary(field.type):
        return pa.array(values, field.type)
    return pa.array(values).cast(field.type)


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Run a function, print its wall-clock and CPU seconds, and return its result."""
    started_at, cpu_at = time.perf_counter(), time.process_time()
    result = work()
    print(f"{name:28} {time.perf_counter() - started_at:8.2f} {time.process_time() - cpu_at:8.2f}")
    return result


def hash_plainly(rows: int) -> None:
    """Hash ``rows`` texts of a typical size, one by one."""
    text = b"x" * BYTES_PER_ROW
    for _ in range(rows):
        hashlib.sha256(text).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    inputs, results = make_inputs(rows // len(MODELS)), make_results(rows // len(MODELS))
    print(f"{rows:,} rows{'':17} {'seconds':>8} {'CPU':>8}")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "set"
        timed("hashing only", lambda: hash_plainly(rows))
        timed("freeze", lambda: llmhub.freeze(results, folder, data=inputs))
        verification = timed("verify", lambda: llmhub.verify(folder))
        assert verification, verification
        assert timed("diff", lambda: llmhub.diff(folder, folder)).same
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{megabytes:,.0f} MB on disk, {peak:.1f} GB peak memory, inputs included")


if __name__ == "__main__":
    main()
