"""What the ledger costs, and how much memory a streamed run takes.

``python benchmarks/ledger.py`` prints throughput with the ledger on beside the ledger off, in turns on one loopback
server, and the peak memory of streamed runs of 100,000 and of 1,000,000 rows.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench import ROWS, hub_at, interleaved, median_ratio, our_table, static_server

import llmhub
from llmhub.cache.store import Store


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=7, help="interleaved runs; medians are reported")
    asked = parser.parse_args()
    for what, value in bench_cost(asked.runs).items():
        print(f"  {what:<44} {value:>12,.3f}" if value < 100 else f"  {what:<44} {value:>12,.0f}")


if __name__ == "__main__":
    main()
