"""Measure the cost of the ledger, and the memory of a streamed run.

``python benchmarks/ledger.py`` prints the throughput with and without the ledger, in turns on one loopback server, and
the peak memory of streamed runs of 100,000 and of 1,000,000 rows.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from bench import MODEL, PROMPT, ROWS, hub_at, interleaved, measure_table, median_ratio, static_server
from returns.result import Success

import llmhub
from llmhub.cache.store import Store
from llmhub.core.types import CompletionResponse, Text, Usage
from llmhub.engine.call import Answer, Call, Send


@dataclass(frozen=True)
class WithoutLedger:
    """A disk cache without a ledger and without claims."""

    path: Path

    def open(self) -> Store:
        return replace(llmhub.DiskCache(self.path).open(), ledger=None, claims=None)


def bench_cost(runs: int) -> dict[str, float]:
    """5,000 uncached rows at concurrency 64, with responses stored in SQLite."""
    with static_server() as url, tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()

        def measure_with(cache: Callable[[Path], object]) -> Callable[[], float]:
            def measure() -> float:
                with hub_at(url, cache=cache(Path(folder) / f"{next(numbers)}.db")) as hub:
                    measure_table(hub, 100, 64)
                    return measure_table(hub, ROWS, 64)

            return measure

        on, off = measure_with(llmhub.DiskCache), measure_with(WithoutLedger)
        on()
        ons, offs = interleaved(runs, on, off)
    return {
        "ledger off, rows/s": statistics.median(offs),
        "ledger on, rows/s": statistics.median(ons),
        "ledger on / off": median_ratio(ons, offs),
    }


def peak_memory_mb(rows: int) -> float:
    """Return the peak memory, in MB, of a process that streams rows, answered at once, into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--stream", str(rows), folder]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def stream(rows: int, folder: str) -> None:
    """Stream rows through a middleware that answers them, and print the peak memory in MB."""

    def instant(_send: Send) -> Send:
        async def respond(_call: Call) -> Answer:
            response = CompletionResponse(parts=(Text("as many as there are " * 20),), usage=Usage(input_tokens=9))
            return Answer(Success(response), attempts=1, total_s=0.0, started_at=1e9, latency_s=0.0)

        return respond

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, 1000):
            yield pa.record_batch(
                {"text": [f"How many vowels has the {n}th word?" for n in range(first, first + 1000)]}
            )

    with hub_at("http://127.0.0.1:9", middleware=(instant,)) as hub:
        llmhub.complete_table(batches(), PROMPT, model=MODEL, hub=hub, sink=Path(folder) / "parts")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def bench_memory(_runs: int) -> dict[str, float]:
    """Peak memory of streamed runs by number of rows."""
    small, large = peak_memory_mb(100_000), peak_memory_mb(1_000_000)
    return {"100,000 rows, MB": small, "1,000,000 rows, MB": large, "1,000,000 rows / 100,000": large / small}


BENCHES = {"cost": bench_cost, "memory": bench_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=sorted(BENCHES), help="benchmark to run (repeatable)")
    parser.add_argument("--runs", type=int, default=7, help="number of interleaved runs; medians are reported")
    parser.add_argument("--stream", nargs=2, metavar=("ROWS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        stream(int(options.stream[0]), options.stream[1])
        return
    for name in options.only or BENCHES:
        for label, value in BENCHES[name](options.runs).items():
            print(f"  {label:<44} {value:>12,.3f}" if value < 100 else f"  {label:<44} {value:>12,.0f}")


if __name__ == "__main__":
    main()
