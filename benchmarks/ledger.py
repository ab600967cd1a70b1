"""What the ledger costs, and how much memory a streamed run takes.

``python benchmarks/ledger.py`` prints throughput with the ledger on beside the ledger off, in turns on one loopback
server, and the peak memory of streamed runs of 100,000 and of 1,000,000 rows.
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
from bench import MODEL, PROMPT, ROWS, hub_at, interleaved, median_ratio, our_table, static_server
from returns.result import Success

import llmhub
from llmhub.cache.store import Store
from llmhub.core.types import CompletionResponse, Text, Usage
from llmhub.engine.call import Answer, Call, Send


@dataclass(frozen=True)
class WithoutLedger:
    """A disk cache that only keeps answers."""

    path: Path

    def open(self) -> Store:
        return replace(llmhub.DiskCache(self.path).open(), ledger=None, claims=None)


def bench_cost(runs: int) -> dict[str, float]:
    """5,000 uncached rows, concurrency 64, answers filed in SQLite."""
    with static_server() as url, tempfile.TemporaryDirectory() as folder:
        fresh = itertools.count()

        def filed(cache: Callable[[Path], object]) -> Callable[[], float]:
            def measure() -> float:
                with hub_at(url, cache=cache(Path(folder) / f"{next(fresh)}.db")) as hub:
                    our_table(hub, 100, 64)
                    return our_table(hub, ROWS, 64)

            return measure

        on, off = filed(llmhub.DiskCache), filed(WithoutLedger)
        on()
        ons, offs = interleaved(runs, on, off)
    return {
        "ledger off, rows/s": statistics.median(offs),
        "ledger on, rows/s": statistics.median(ons),
        "ledger on / off": median_ratio(ons, offs),
    }


def streamed(rows: int) -> float:
    """Give the peak memory, in MB, of a process that streams so many rows, answered at once, into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--stream", str(rows), folder]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def stream(rows: int, folder: str) -> None:
    """Stream rows through a middleware that answers itself, and print the peak memory in MB."""

    def instant(_send: Send) -> Send:
        async def answered(_call: Call) -> Answer:
            said = CompletionResponse(parts=(Text("as many as there are " * 20),), usage=Usage(input_tokens=9))
            return Answer(Success(said), attempts=1, total_s=0.0, started_at=1e9, latency_s=0.0)

        return answered

    def batches() -> Iterator[pa.RecordBatch]:
        for at in range(0, rows, 1000):
            yield pa.record_batch({"text": [f"How many vowels has the {n}th word?" for n in range(at, at + 1000)]})

    with hub_at("http://127.0.0.1:9", middleware=(instant,)) as hub:
        llmhub.complete_table(batches(), PROMPT, model=MODEL, hub=hub, sink=Path(folder) / "parts")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def bench_memory(_runs: int) -> dict[str, float]:
    """Peak memory of a streamed run, by its length."""
    few, many = streamed(100_000), streamed(1_000_000)
    return {"100,000 rows, MB": few, "1,000,000 rows, MB": many, "1,000,000 rows / 100,000": many / few}


BENCHES = {"cost": bench_cost, "memory": bench_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=sorted(BENCHES), help="a benchmark to run (repeatable)")
    parser.add_argument("--runs", type=int, default=7, help="interleaved runs; medians are reported")
    parser.add_argument("--stream", nargs=2, metavar=("ROWS", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stream:
        stream(int(asked.stream[0]), asked.stream[1])
        return
    for name in asked.only or BENCHES:
        for what, value in BENCHES[name](asked.runs).items():
            print(f"  {what:<44} {value:>12,.3f}" if value < 100 else f"  {what:<44} {value:>12,.0f}")


if __name__ == "__main__":
    main()
