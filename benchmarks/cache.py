"""What the caches cost, as ratios to bare loops over the same file or server, measured in turns in one process.

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
SAID = "It has {} of them, which is about what one would expect of a word of its length and kind in this language."

Figures = dict[str, float]


def texts(rows: int) -> pa.Table:
    return pa.table({"text": [f"How many vowels has the {n}th word of the dictionary?" for n in range(rows)]})


def hub_with(cache: Any) -> llmhub.Hub:
    # Nothing listens there: whatever is not in the cache would fail.
    nowhere = llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="benchmark")
    return llmhub.Hub(endpoints={"openai": nowhere}, settings=Settings(), cache=cache)


def keys_of(hub: llmhub.Hub, frame: pa.Table) -> list[bytes]:
    questions = build_table_run(frame, PROMPT, MODEL, hub, {"progress": False}).batch
    return [item[1] for chunk in questions.iter_chunks() for item in chunk]


def entry(number: int, key: bytes) -> Entry:
    response = CompletionResponse(
        parts=(Text(SAID.format(number % 9)),),
        usage=Usage(input_tokens=24, output_tokens=20, cached_input_tokens=0),
        served_model="gpt-4o-mini-2024-07-18",
        request_id=f"chatcmpl-{number:029d}",
    )
    return Entry(key, encode_response(response, key), MODEL, 1.7e9)


def fill(store: Store, keys: list[bytes]) -> float:
    """Entries per second of bulk writes, the making of the entries left out."""
    took = 0.0
    for at in range(0, len(keys), WRITTEN):
        some = [entry(at + n, key) for n, key in enumerate(keys[at : at + WRITTEN])]
        start = time.perf_counter()
        store.put_many(some)
        took += time.perf_counter() - start
    return len(keys) / took


def bare_sqlite(path: Path, keys: list[bytes]) -> float:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        start = time.perf_counter()
        for at in range(0, len(keys), BATCH):
            some = keys[at : at + BATCH]
            marks = ",".join("?" * len(some))
            dict(connection.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", some))
        return len(keys) / (time.perf_counter() - start)


def table_rate(hub: llmhub.Hub, frame: pa.Table) -> float:
    start = time.perf_counter()
    out = llmhub.complete_table(frame, PROMPT, model=MODEL, hub=hub, progress=False)
    took = time.perf_counter() - start
    assert out.num_rows == frame.num_rows
    assert out.column("cache_hit").to_numpy().all()
    return float(frame.num_rows / took)


def lookup_us(store: Store, keys: list[bytes]) -> float:
    """Microseconds a key of this thread's own time, in blocks as a run asks them."""
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
    """Measure reads of one file, in a process of its own."""
    frame = texts(rows)
    with hub_with(llmhub.DiskCache(path)) as hub:
        table_rate(hub, frame.slice(0, 1_000))
        first = table_rate(hub, frame)
        peak = peak_gb()
        keys = keys_of(hub, frame)
        bare, ours = [], []
        for _ in range(runs):
            bare.append(bare_sqlite(path, keys))
            ours.append(table_rate(hub, frame))
        store = hub.runtime.store
        assert store is not None
        in_order = min(lookup_us(store, keys) for _ in range(runs))
        random.Random(7).shuffle(keys)
        shuffled = min(lookup_us(store, keys) for _ in range(runs))
    return {
        "bare SQLite reads, rows/s": statistics.median(bare),
        "complete_table, rows/s": statistics.median(ours),
        "complete_table / bare": statistics.median(a / b for a, b in zip(ours, bare, strict=True)),
        "complete_table, first run, rows/s": first,
        "peak memory, GB": peak,
        "look-up in the order filed, us/row": in_order,
        "look-up in random order, us/row": shuffled,
    }


def write_file(rows: int, path: Path) -> Figures:
    with hub_with(llmhub.DiskCache(path)) as hub:
        store = hub.runtime.store
        assert store is not None
        return {"bulk writes, entries/s": fill(store, keys_of(hub, texts(rows)))}


def apart(work: Callable[..., Figures], *arguments: Any) -> Figures:
    """Work in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def bench_sqlite(sizes: list[int], runs: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.db"
            found[f"sqlite, {rows:,} entries"] = {
                **apart(write_file, rows, path),
                **apart(measure_file, rows, path, runs),
            }
    return found


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
    named = [b"llmhub:" + key for key in keys]
    with redis.Redis.from_url(url) as client:
        client.ping()
        start = time.perf_counter()
        for low in range(0, len(named), BATCH * 20):
            pipe = client.pipeline(transaction=False)
            for at in range(low, min(low + BATCH * 20, len(named)), BATCH):
                pipe.mget(named[at : at + BATCH])
            pipe.execute()
        return len(named) / (time.perf_counter() - start)


def bench_redis(_sizes: list[int], runs: int) -> dict[str, Figures]:
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: nothing measured", file=sys.stderr)
        return {}
    frame = texts(REDIS_ROWS)
    with redis_server() as url, hub_with(llmhub.RedisCache(url)) as hub:
        keys = keys_of(hub, frame)
        store = hub.runtime.store
        assert store is not None
        written = fill(store, keys)
        bare, read, ours = [], [], []
        for _ in range(runs):
            bare.append(bare_redis(url, keys))
            start = time.perf_counter()
            assert len(store.get_many(keys)) == len(keys)
            read.append(len(keys) / (time.perf_counter() - start))
            ours.append(table_rate(hub, frame))
    return {
        f"redis, {REDIS_ROWS:,} entries": {
            "bulk writes, entries/s": written,
            "bare pipelined MGET, rows/s": statistics.median(bare),
            "the store's get_many, rows/s": statistics.median(read),
            "get_many / bare": statistics.median(a / b for a, b in zip(read, bare, strict=True)),
            "complete_table, rows/s": statistics.median(ours),
            "complete_table / bare": statistics.median(a / b for a, b in zip(ours, bare, strict=True)),
        }
    }


BENCHES: dict[str, Callable[[list[int], int], dict[str, Figures]]] = {"sqlite": bench_sqlite, "redis": bench_redis}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=sorted(BENCHES), help="a part to run (repeatable)")
    parser.add_argument("--rows", action="append", type=int, help="entries of a file (repeatable)")
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs; medians are reported")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args()
    figures: dict[str, Figures] = {}
    for name in asked.only or BENCHES:
        for what, found in BENCHES[name](asked.rows or list(SIZES), asked.runs).items():
            figures[what] = found
            print(f"\n{what}")
            for figure, value in found.items():
                print(f"  {figure:<44} {value:>12,.3f}" if value < 100 else f"  {figure:<44} {value:>12,.0f}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
