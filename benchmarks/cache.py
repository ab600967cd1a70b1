"""Cost of the caches, as ratios to bare loops over the same file or server, interleaved in one process.

``python benchmarks/cache.py`` prints every figure; ``--rows 10000 --rows 1000000`` chooses sizes and
``--only redis`` a part. Each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import resource
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis

import llmhub
from llmhub.api.tables import build_table_run
from llmhub.cache.store import Entry, Store
from llmhub.config import Settings
from llmhub.core.serialization import encode_response
from llmhub.core.types import CompletionResponse, Text, Usage

MODEL = "openai/gpt-4o-mini"
PROMPT = "Answer in a word: {text}"
SIZES = (10_000, 100_000, 1_000_000)
REDIS_ROWS = 100_000
BATCH = 500
WRITTEN = 1_000
RESPONSE_TEXT = (
    "It has {} of them, which is about what one would expect of a word of its length and kind in this language."
)

Figures = dict[str, float]


def texts(rows: int) -> pa.Table:
    return pa.table({"text": [f"How many vowels has the {n}th word of the dictionary?" for n in range(rows)]})


def hub_with(cache: Any) -> llmhub.Hub:
    # Nothing listens there, so a cache miss would fail.
    nowhere = llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="benchmark")
    return llmhub.Hub(endpoints={"openai": nowhere}, settings=Settings(), cache=cache)


def keys_of(hub: llmhub.Hub, frame: pa.Table) -> list[bytes]:
    batch = build_table_run(frame, PROMPT, MODEL, hub, {"progress": False}).batch
    return [item[1] for chunk in batch.iter_chunks() for item in chunk]


def entry(number: int, key: bytes) -> Entry:
    response = CompletionResponse(
        parts=(Text(RESPONSE_TEXT.format(number % 9)),),
        usage=Usage(input_tokens=24, output_tokens=20, cached_input_tokens=0),
        served_model="gpt-4o-mini-2024-07-18",
        request_id=f"chatcmpl-{number:029d}",
    )
    return Entry(key, encode_response(response, key), MODEL, 1.7e9)


def fill(store: Store, keys: list[bytes]) -> float:
    """Return entries per second of bulk writes, without the time to build them."""
    elapsed_s = 0.0
    for at in range(0, len(keys), WRITTEN):
        batch = [entry(at + n, key) for n, key in enumerate(keys[at : at + WRITTEN])]
        start = time.perf_counter()
        store.put_many(batch)
        elapsed_s += time.perf_counter() - start
    return len(keys) / elapsed_s


def bare_sqlite(path: Path, keys: list[bytes]) -> float:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        start = time.perf_counter()
        for at in range(0, len(keys), BATCH):
            batch = keys[at : at + BATCH]
            marks = ",".join("?" * len(batch))
            dict(connection.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", batch))
        return len(keys) / (time.perf_counter() - start)


def table_rate(hub: llmhub.Hub, frame: pa.Table) -> float:
    start = time.perf_counter()
    out = llmhub.complete_table(frame, PROMPT, model=MODEL, hub=hub, progress=False)
    elapsed_s = time.perf_counter() - start
    assert out.num_rows == frame.num_rows
    assert out.column("cache_hit").to_numpy().all()
    return float(frame.num_rows / elapsed_s)


def lookup_us(store: Store, keys: list[bytes]) -> float:
    """Return microseconds of thread time per key, looked up in blocks as in a run."""
    assert store.get_block is not None
    blocks = [b"".join(keys[at : at + 4096]) for at in range(0, len(keys), 4096)]
    start = time.thread_time()
    for block in blocks:
        store.get_block(block)
    return (time.thread_time() - start) / len(keys) * 1e6


def peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def measure_file(rows: int, path: Path, runs: int) -> Figures:
    """Measure reads of a file; runs in its own process."""
    frame = texts(rows)
    with hub_with(llmhub.DiskCache(path)) as hub:
        table_rate(hub, frame.slice(0, 1_000))
        first_run = table_rate(hub, frame)
        peak = peak_gb()
        keys = keys_of(hub, frame)
        bare_rates, rates = [], []
        for _ in range(runs):
            bare_rates.append(bare_sqlite(path, keys))
            rates.append(table_rate(hub, frame))
        store = hub.runtime.store
        assert store is not None
        in_order = min(lookup_us(store, keys) for _ in range(runs))
        random.Random(7).shuffle(keys)
        shuffled = min(lookup_us(store, keys) for _ in range(runs))
    return {
        "bare SQLite reads, rows/s": statistics.median(bare_rates),
        "complete_table, rows/s": statistics.median(rates),
        "complete_table / bare": statistics.median(a / b for a, b in zip(rates, bare_rates, strict=True)),
        "complete_table, first run, rows/s": first_run,
        "peak memory, GB": peak,
        "look-up in the order filed, us/row": in_order,
        "look-up in random order, us/row": shuffled,
    }


def write_file(rows: int, path: Path) -> Figures:
    with hub_with(llmhub.DiskCache(path)) as hub:
        store = hub.runtime.store
        assert store is not None
        return {"bulk writes, entries/s": fill(store, keys_of(hub, texts(rows)))}


def run_in_process(work: Callable[..., Figures], *arguments: Any) -> Figures:
    """Run a function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def bench_sqlite(sizes: list[int], runs: int) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.db"
            figures[f"sqlite, {rows:,} entries"] = {
                **run_in_process(write_file, rows, path),
                **run_in_process(measure_file, rows, path, runs),
            }
    return figures


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder) as process,
    ):
        try:
            for _ in range(500):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def bare_redis(url: str, keys: list[bytes]) -> float:
    prefixed = [b"llmhub:" + key for key in keys]
    with redis.Redis.from_url(url) as client:
        client.ping()
        start = time.perf_counter()
        for low in range(0, len(prefixed), BATCH * 20):
            pipe = client.pipeline(transaction=False)
            for at in range(low, min(low + BATCH * 20, len(prefixed)), BATCH):
                pipe.mget(prefixed[at : at + BATCH])
            pipe.execute()
        return len(prefixed) / (time.perf_counter() - start)


def bench_redis(_sizes: list[int], runs: int) -> dict[str, Figures]:
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: nothing measured", file=sys.stderr)
        return {}
    frame = texts(REDIS_ROWS)
    with redis_server() as url, hub_with(llmhub.RedisCache(url)) as hub:
        keys = keys_of(hub, frame)
        store = hub.runtime.store
        assert store is not None
        write_rate = fill(store, keys)
        bare_rates, read_rates, rates = [], [], []
        for _ in range(runs):
            bare_rates.append(bare_redis(url, keys))
            start = time.perf_counter()
            assert len(store.get_many(keys)) == len(keys)
            read_rates.append(len(keys) / (time.perf_counter() - start))
            rates.append(table_rate(hub, frame))
    return {
        f"redis, {REDIS_ROWS:,} entries": {
            "bulk writes, entries/s": write_rate,
            "bare pipelined MGET, rows/s": statistics.median(bare_rates),
            "the store's get_many, rows/s": statistics.median(read_rates),
            "get_many / bare": statistics.median(a / b for a, b in zip(read_rates, bare_rates, strict=True)),
            "complete_table, rows/s": statistics.median(rates),
            "complete_table / bare": statistics.median(a / b for a, b in zip(rates, bare_rates, strict=True)),
        }
    }


BENCHES: dict[str, Callable[[list[int], int], dict[str, Figures]]] = {"sqlite": bench_sqlite, "redis": bench_redis}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=sorted(BENCHES), help="a part to run (repeatable)")
    parser.add_argument("--rows", action="append", type=int, help="entries of a file (repeatable)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs; medians are reported")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    figures: dict[str, Figures] = {}
    for name in options.only or BENCHES:
        for title, part in BENCHES[name](options.rows or list(SIZES), options.runs).items():
            figures[title] = part
            print(f"\n{title}")
            for figure, value in part.items():
                print(f"  {figure:<44} {value:>12,.3f}" if value < 100 else f"  {figure:<44} {value:>12,.0f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
