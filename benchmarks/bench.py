"""Measure the overhead of llmhub as ratios to bare loops, in the same run on the same loopback server.

``python benchmarks/bench.py`` prints all figures; ``--only rows --only cache`` selects benchmarks; ``--json FILE`` also
writes the figures to a file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pyarrow as pa

import llmhub
from llmhub.config import Settings
from llmhub.engine.event_loop import new_event_loop

HERE = Path(__file__).parent
ROWS = 5_000
JOB_ROWS = 20_000
CACHED_ROWS = 100_000
MODEL = "openai/gpt-4o-mini"
PROMPT = "Answer in a word: {text}"


@contextmanager
def static_server(latency_s: float = 0.0, nginx: str = "") -> Iterator[str]:
    """Run `static_server.py` in a process of its own and yield its URL."""
    command = [sys.executable, str(HERE / "static_server.py"), "--latency", str(latency_s), "--nginx", nginx]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def hub_at(url: str, **options: Any) -> llmhub.Hub:
    endpoint = llmhub.Endpoint(base_url=f"{url}/v1", api_key="benchmark")
    return llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), **options)


def texts(rows: int) -> pa.Table:
    return pa.table({"text": [f"How many vowels has the {i}th word of the dictionary?" for i in range(rows)]})


def bounded_loop(url: str, rows: int, concurrency: int) -> float:
    """Return the rows per second of the loop a careful engineer writes with aiohttp.

    As many workers as calls in flight, one iterator over the prompts, one session, ``json=`` and ``await .json()``, the
    garbage collector as it is, and the event loop that llmhub uses. The texts are all that is kept: no table, no retry,
    no limit, no time-out of its own.
    """
    prompts = [f"Answer in a word: {text}" for text in texts(rows).column("text").to_pylist()]
    responses: list[str | None] = [None] * rows

    async def work(session: aiohttp.ClientSession, remaining: Iterator[tuple[int, str]]) -> None:
        for index, prompt in remaining:
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                responses[index] = (await reply.json())["choices"][0]["message"]["content"]

    async def main() -> float:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency), headers={"authorization": "Bearer benchmark"}
        ) as session:
            await work(session, iter([(0, "warm up")]))
            start = time.perf_counter()
            remaining = iter(enumerate(prompts))
            await asyncio.gather(*(work(session, remaining) for _ in range(concurrency)))
            return rows / (time.perf_counter() - start)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        rate = runner.run(main())
    assert None not in responses
    return rate


def measure_table(hub: llmhub.Hub, rows: int, concurrency: int, n_jobs: int = 1) -> float:
    """Return the rows per second of ``complete_table``."""
    table = texts(rows)
    start = time.perf_counter()
    results = llmhub.complete_table(
        table, PROMPT, model=MODEL, hub=hub, concurrency=concurrency, progress=False, n_jobs=n_jobs
    )
    duration_s = time.perf_counter() - start
    assert results.num_rows == rows
    assert set(results.column("status").to_pylist()) == {"ok"}
    return rows / duration_s


def interleaved(runs: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Return the results of each measure, taken in turns so that a busy moment of the machine affects all alike."""
    results: list[list[float]] = [[] for _ in measures]
    for _ in range(runs):
        for measure, own in zip(measures, results, strict=True):
            own.append(measure())
    return results


def median_ratio(ours: list[float], bare: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, bare, strict=True))


def bench_rows(runs: int) -> dict[str, float]:
    """5,000 uncached rows at concurrency 64, including the table of results."""
    with static_server() as url, tempfile.TemporaryDirectory() as folder, hub_at(url) as hub:
        llmhub.complete("warm up", model=MODEL, hub=hub)
        measure_table(hub, 100, 64)
        numbers = iter(range(1_000))

        def with_cache() -> float:
            with hub_at(url, cache=llmhub.DiskCache(f"{folder}/{next(numbers)}.db")) as caching_hub:
                llmhub.complete("warm up", model=MODEL, hub=caching_hub)
                return measure_table(caching_hub, ROWS, 64)

        bare, ours, cached = interleaved(
            runs, lambda: bounded_loop(url, ROWS, 64), lambda: measure_table(hub, ROWS, 64), with_cache
        )
    return {
        "bounded aiohttp loop, rows/s": statistics.median(bare),
        "complete_table, rows/s": statistics.median(ours),
        "complete_table / bounded": median_ratio(ours, bare),
        "complete_table writing its cache, rows/s": statistics.median(cached),
        "complete_table writing its cache / bounded": median_ratio(cached, bare),
    }


def bench_jobs(runs: int) -> dict[str, float]:
    """20,000 uncached rows in one process and in two, which have been started before."""
    with static_server() as url, hub_at(url) as hub:
        for n_jobs in (1, 2):
            measure_table(hub, 1_000, 64, n_jobs)
        one, two = interleaved(
            runs, lambda: measure_table(hub, JOB_ROWS, 64), lambda: measure_table(hub, JOB_ROWS, 64, 2)
        )
    return {
        "one process, rows/s": statistics.median(one),
        "n_jobs=2, rows/s": statistics.median(two),
        "n_jobs=2 / one process": median_ratio(two, one),
    }


def bench_cache(runs: int) -> dict[str, float]:
    """100,000 rows from the SQLite cache, end to end, compared to a bare loop of the same reads."""
    with static_server() as url, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        with hub_at(url, cache=llmhub.DiskCache(path)) as hub:
            filling = measure_table(hub, CACHED_ROWS, 64)

            def bare() -> float:
                with closing(sqlite3.connect(path)) as connection:
                    keys = [key for (key,) in connection.execute("SELECT key FROM answers ORDER BY created_at")]
                    start = time.perf_counter()
                    for first in range(0, len(keys), 500):
                        batch = keys[first : first + 500]
                        marks = ",".join("?" * len(batch))
                        dict(connection.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", batch))
                    return len(keys) / (time.perf_counter() - start)

            reads, ours = interleaved(runs, bare, lambda: measure_table(hub, CACHED_ROWS, 64))
    return {
        "filling the cache, rows/s": filling,
        "bare SQLite reads, rows/s": statistics.median(reads),
        "complete_table from the cache, rows/s": statistics.median(ours),
        "complete_table from the cache / bare": median_ratio(ours, reads),
    }


def bench_latency(runs: int) -> dict[str, float]:
    """2,000 rows at 200 ms and concurrency 200: wall time over the ideal."""
    with static_server(0.2) as url, hub_at(url) as hub:
        llmhub.complete("warm up", model=MODEL, hub=hub)
        bare, ours = interleaved(runs, lambda: bounded_loop(url, 2_000, 200), lambda: measure_table(hub, 2_000, 200))
    return {
        "bounded aiohttp loop, wall / ideal": statistics.median(1_000 / rate for rate in bare),
        "complete_table, wall / ideal": statistics.median(1_000 / rate for rate in ours),
    }


def bench_limit(_runs: int) -> dict[str, float]:
    """1,000 rows to a server that admits 1,200 requests per minute, with that limit declared to the client."""
    command = [sys.executable, "-m", "llmhub.sim", "--port", "0", "--rpm", "1200", "--burst", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            endpoint = llmhub.Endpoint(base_url=f"{url}/openai/v1", api_key="benchmark")
            limits = {"openai": llmhub.Limit(rpm=1_200)}
            with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), limits=limits) as hub:
                results = llmhub.complete_table(texts(1_000), PROMPT, model=MODEL, hub=hub, progress=False)
        finally:
            process.kill()
    started = sorted(started_at.timestamp() for started_at in results.column("started_at").to_pylist())
    steady = started[100:]
    rate = (len(steady) - 1) / (steady[-1] - steady[0]) * 60
    return {
        "requests answered 429": float(sum(results.column("attempts").to_pylist()) - results.num_rows),
        "rows answered": float(results.column("status").to_pylist().count("ok")),
        "share of the permitted rate": rate / 1_200,
    }


def bench_import(runs: int) -> dict[str, float]:
    """``import llmhub`` in a new process, minus the start of the interpreter."""

    def duration_s(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    def importing() -> float:
        # Fails if the import loads pandas.
        code = "import sys, llmhub; sys.exit('pandas' in sys.modules)"
        return duration_s(code)

    plain, ours = interleaved(max(runs, 5), lambda: duration_s("pass"), importing)
    return {"import llmhub, ms": 1_000 * (statistics.median(ours) - statistics.median(plain))}


Bench: TypeAlias = Callable[[int], dict[str, float]]
BENCHES: dict[str, Bench] = {
    "rows": bench_rows,
    "jobs": bench_jobs,
    "cache": bench_cache,
    "latency": bench_latency,
    "limit": bench_limit,
    "import": bench_import,
}


def main(benches: Mapping[str, Bench], description: str, arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that the command line names, and print their figures."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--only", action="append", choices=sorted(benches), help="benchmark to run (repeatable)")
    parser.add_argument("--runs", type=int, default=5, help="number of interleaved runs; medians are reported")
    parser.add_argument("--json", type=Path, help="file to write the figures to, too")
    options = parser.parse_args(arguments)
    figures: dict[str, dict[str, float]] = {}
    for name in options.only or benches:
        bench = benches[name]
        print(f"\n{name}: {getattr(bench, 'func', bench).__doc__}")
        figures[name] = bench(options.runs)
        for label, value in figures[name].items():
            print(f"  {label:<48} {value:>12,.3f}" if value < 100 else f"  {label:<48} {value:>12,.0f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(BENCHES, __doc__ or "")
