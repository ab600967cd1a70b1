"""What llmhub costs, as ratios to bare loops measured in the same run on the same loopback server.

``python benchmarks/bench.py`` prints every figure; ``--only rows --only cache`` chooses; ``--json CONFIG_FILE`` keeps them.
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

HERE = Path(__file__).parent
ROWS = 5_000
CACHED_ROWS = 100_000
MODEL = "openai/gpt-4o-mini"
PROMPT = "Answer in a word: {text}"


@contextmanager
def static_server(latency_s: float = 0.0) -> Iterator[str]:
    command = [sys.executable, str(HERE / "static_server.py"), "--latency", str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def hub_at(url: str, **options: Any) -> llmhub.Hub:
    endpoint = llmhub.Endpoint(base_url=f"{url}/v1", api_key="benchmark")
    return llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), **options)


def texts(rows: int) -> pa.Table:
    return pa.table({"text": [f"How many vowels has the {i}th word of the dictionary?" for i in range(rows)]})


def bare_loop(url: str, rows: int, concurrency: int) -> float:
    """Rows per second of the plainest good loop: one session, a semaphore, gather, ``json=`` and ``.json()``."""
    prompts = [f"Answer in a word: {text}" for text in texts(rows).column("text").to_pylist()]

    async def one(session: aiohttp.ClientSession, gate: asyncio.Semaphore, prompt: str) -> Any:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]}
        async with gate, session.post(f"{url}/v1/chat/completions", json=body) as reply:
            return (await reply.json())["choices"][0]["message"]["content"]

    async def main() -> float:
        gate = asyncio.Semaphore(concurrency)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency), headers={"authorization": "Bearer benchmark"}
        ) as session:
            await one(session, gate, "warm up")
            start = time.perf_counter()
            await asyncio.gather(*(one(session, gate, prompt) for prompt in prompts))
            return rows / (time.perf_counter() - start)

    return asyncio.run(main())


def our_table(hub: llmhub.Hub, rows: int, concurrency: int) -> float:
    table = texts(rows)
    start = time.perf_counter()
    out = llmhub.complete_table(table, PROMPT, model=MODEL, hub=hub, concurrency=concurrency, progress=False)
    took = time.perf_counter() - start
    assert out.num_rows == rows
    assert set(out.column("status").to_pylist()) == {"ok"}
    return rows / took


def interleaved(runs: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure in turns, so that a busy moment of the machine touches all alike."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(runs):
        for measure, into in zip(measures, found, strict=True):
            into.append(measure())
    return found


def median_ratio(ours: list[float], bare: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, bare, strict=True))


def bench_rows(runs: int) -> dict[str, float]:
    """5,000 uncached rows, concurrency 64, results table included."""
    with static_server() as url, tempfile.TemporaryDirectory() as folder, hub_at(url) as hub:
        llmhub.complete("warm up", model=MODEL, hub=hub)
        our_table(hub, 100, 64)
        fresh = iter(range(1_000))

        def filed() -> float:
            with hub_at(url, cache=llmhub.DiskCache(f"{folder}/{next(fresh)}.db")) as caching:
                llmhub.complete("warm up", model=MODEL, hub=caching)
                return our_table(caching, ROWS, 64)

        bare, ours, ours_filed = interleaved(
            runs, lambda: bare_loop(url, ROWS, 64), lambda: our_table(hub, ROWS, 64), filed
        )
    return {
        "bare aiohttp loop, rows/s": statistics.median(bare),
        "complete_table, rows/s": statistics.median(ours),
        "complete_table / bare": median_ratio(ours, bare),
        "complete_table writing its cache, rows/s": statistics.median(ours_filed),
        "complete_table writing its cache / bare": median_ratio(ours_filed, bare),
    }


def bench_cache(runs: int) -> dict[str, float]:
    """100,000 rows all in the SQLite cache, end to end, beside a bare loop of the same reads."""
    with static_server() as url, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        with hub_at(url, cache=llmhub.DiskCache(path)) as hub:
            filling = our_table(hub, CACHED_ROWS, 64)

            def bare() -> float:
                with closing(sqlite3.connect(path)) as connection:
                    keys = [key for (key,) in connection.execute("SELECT key FROM answers ORDER BY created_at")]
                    start = time.perf_counter()
                    for at in range(0, len(keys), 500):
                        some = keys[at : at + 500]
                        marks = ",".join("?" * len(some))
                        dict(connection.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", some))
                    return len(keys) / (time.perf_counter() - start)

            reads, ours = interleaved(runs, bare, lambda: our_table(hub, CACHED_ROWS, 64))
    return {
        "filling the cache, rows/s": filling,
        "bare SQLite reads, rows/s": statistics.median(reads),
        "complete_table from the cache, rows/s": statistics.median(ours),
        "complete_table from the cache / bare": median_ratio(ours, reads),
    }


def bench_latency(runs: int) -> dict[str, float]:
    """2,000 rows at 200 ms, concurrency 200: wall over the ideal."""
    with static_server(0.2) as url, hub_at(url) as hub:
        llmhub.complete("warm up", model=MODEL, hub=hub)
        (rates,) = interleaved(runs, lambda: our_table(hub, 2_000, 200))
    return {"wall / ideal at 200 ms": statistics.median(1_000 / rate for rate in rates)}


def bench_limit(_runs: int) -> dict[str, float]:
    """Ask a server that permits 1,200 requests a minute (a second's worth at once) by a client that is told so."""
    command = [sys.executable, "-m", "llmhub.sim", "--port", "0", "--rpm", "1200", "--burst", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            endpoint = llmhub.Endpoint(base_url=f"{url}/openai/v1", api_key="benchmark")
            limits = {"openai": llmhub.Limit(rpm=1_200)}
            with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), limits=limits) as hub:
                out = llmhub.complete_table(texts(1_000), PROMPT, model=MODEL, hub=hub, progress=False)
        finally:
            process.kill()
    started = sorted(moment.timestamp() for moment in out.column("started_at").to_pylist())
    steady = started[100:]
    rate = (len(steady) - 1) / (steady[-1] - steady[0]) * 60
    return {
        "requests answered 429": float(sum(out.column("attempts").to_pylist()) - out.num_rows),
        "rows answered": float(out.column("status").to_pylist().count("ok")),
        "share of the permitted rate": rate / 1_200,
    }


def bench_import(runs: int) -> dict[str, float]:
    """``import llmhub`` in a new process, less the interpreter's own start."""

    def started(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    def pandas_before() -> float:
        code = "import sys, llmhub; sys.exit('pandas' in sys.modules)"
        return started(code)

    plain, ours = interleaved(max(runs, 5), lambda: started("pass"), pandas_before)
    return {"import llmhub, ms": 1_000 * (statistics.median(ours) - statistics.median(plain))}


Bench: TypeAlias = Callable[[int], dict[str, float]]
BENCHES: dict[str, Bench] = {
    "rows": bench_rows,
    "cache": bench_cache,
    "latency": bench_latency,
    "limit": bench_limit,
    "import": bench_import,
}


def main(benches: Mapping[str, Bench], about: str, arguments: Sequence[str] | None = None) -> None:
    """Run those of the benchmarks that the command line names, and print every figure."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--only", action="append", choices=sorted(benches), help="a benchmark to run (repeatable)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs; medians are reported")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args(arguments)
    figures: dict[str, dict[str, float]] = {}
    for name in asked.only or benches:
        bench = benches[name]
        print(f"\n{name}: {getattr(bench, 'func', bench).__doc__}")
        figures[name] = bench(asked.runs)
        for what, value in figures[name].items():
            print(f"  {what:<48} {value:>12,.3f}" if value < 100 else f"  {what:<48} {value:>12,.0f}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(BENCHES, __doc__ or "")
