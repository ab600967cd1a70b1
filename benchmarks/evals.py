"""How long a comparison takes, and how much memory: 100,000 rows of ready scores, five models, 10,000 resamples.

The same is done beside it in the plainest way numpy has, drawing each resample's rows, for as few resamples as tell its
pace: the figure to look at is the ratio.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pyarrow as pa

import llmhub

MODELS = ("a/one", "b/two", "c/three", "d/four", "e/five")
FEW = 40
"""Resamples done the plain way."""


def scores(rows: int, kind: str) -> pa.Table:
    """Make scores that models share in part: right or wrong, numbers, or numbers of rows in groups of ten."""
    draw = np.random.default_rng(1)
    values = 0.6 * draw.random((rows, 1)) + 0.4 * draw.random((rows, len(MODELS)))
    if kind == "right or wrong":
        values = (values < np.linspace(0.6, 0.7, len(MODELS))).astype(float)
    columns = {"row": np.repeat(np.arange(rows), len(MODELS)), "model": np.tile(np.array(MODELS), rows)}
    return pa.table({**columns, "score": values.ravel(), "topic": np.repeat(np.arange(rows) // 10, len(MODELS))})


def plainly(table: pa.Table, resamples: int) -> float:
    """Draw rows and average them, and give the seconds a resample takes."""
    values = table.column("score").to_numpy().reshape(-1, len(MODELS))
    draw = np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(FEW):
        values[draw.integers(0, len(values), len(values))].mean(axis=0)
    return (time.perf_counter() - began) / FEW * resamples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args()
    print(f"{options.rows:,} rows x {len(MODELS)} models, {options.resamples:,} resamples")
    print(f"{'scores':24} {'seconds':>8} {'CPU':>8} {'plain':>8} {'ratio':>7}")
    llmhub.compare({"a": [1.0, 0.0], "b": [0.0, 1.0]}, models=["a", "b"])  # scipy takes a second to load
    for kind, group in (("right or wrong", None), ("numbers", None), ("numbers in groups", "topic")):
        table = scores(options.rows, kind)
        began, used = time.perf_counter(), time.process_time()
        if group:
            llmhub.compare(table, scores="score", resamples=options.resamples, group=group)
        else:
            llmhub.compare(table, scores="score", resamples=options.resamples)
        took, cpu = time.perf_counter() - began, time.process_time() - used
        plain = plainly(table, options.resamples)
        print(f"{kind:24} {took:8.2f} {cpu:8.2f} {plain:8.1f} {plain / took:6.1f}x")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
