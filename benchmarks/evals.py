"""Time and memory of a comparison: 100,000 rows of finished scores, five models, 10,000 resamples.

For reference, the same number of resamples is timed in plain numpy, by drawing the rows of each resample; the figure to
look at is the ratio.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pyarrow as pa

import llmhub
from llmhub.evals.comparison import PairedTest

MODELS = ("a/one", "b/two", "c/three", "d/four", "e/five")
ARMS: tuple[tuple[str, str | None, PairedTest], ...] = (
    ("binary", None, "studentised"),
    ("graded", None, "studentised"),
    ("graded", "topic", "studentised"),
    ("graded", None, "permutation"),
    ("graded", "topic", "permutation"),
    ("graded", None, "wilcoxon"),
)
TIMED_RESAMPLES = 40
"""Resamples in plain numpy that are timed and extrapolated."""


def make_scores(rows: int, kind: str) -> pa.Table:
    """Return scores that are correlated between models: binary, or graded with groups of ten rows."""
    rng = np.random.default_rng(1)
    values = 0.6 * rng.random((rows, 1)) + 0.4 * rng.random((rows, len(MODELS)))
    if kind == "binary":
        values = (values < np.linspace(0.6, 0.7, len(MODELS))).astype(float)
    columns = {"row": np.repeat(np.arange(rows), len(MODELS)), "model": np.tile(np.array(MODELS), rows)}
    return pa.table({**columns, "score": values.ravel(), "topic": np.repeat(np.arange(rows) // 10, len(MODELS))})


def time_plain_bootstrap(table: pa.Table, resamples: int) -> float:
    """Return the seconds that drawing and averaging rows in plain numpy would take."""
    values = table.column("score").to_numpy().reshape(-1, len(MODELS))
    rng = np.random.default_rng(0)
    started_at = time.perf_counter()
    for _ in range(TIMED_RESAMPLES):
        values[rng.integers(0, len(values), len(values))].mean(axis=0)
    return (time.perf_counter() - started_at) / TIMED_RESAMPLES * resamples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args()
    print(f"{options.rows:,} rows x {len(MODELS)} models, {options.resamples:,} resamples")
    print(f"{'scores':30} {'seconds':>8} {'CPU':>8} {'plain':>8} {'ratio':>7}")
    llmhub.compare({"a": [1.0, 0.0], "b": [0.0, 1.0]}, model=["a", "b"])  # loading scipy takes a second
    for kind, group, test in ARMS:
        table = make_scores(options.rows, kind)
        started_at, cpu_at = time.perf_counter(), time.process_time()
        llmhub.compare(table, scores="score", resamples=options.resamples, group=group, test=test)
        seconds, cpu = time.perf_counter() - started_at, time.process_time() - cpu_at
        plain = time_plain_bootstrap(table, options.resamples)
        name = ", ".join(filter(None, (kind, group and "grouped", test)))
        print(f"{name:30} {seconds:8.2f} {cpu:8.2f} {plain:8.1f} {plain / seconds:6.1f}x")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
