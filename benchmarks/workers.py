"""What a job for the workers of an engine costs beside the calls: time, memory and connections of one worker.

    python benchmarks/workers.py                  # all figures
    python benchmarks/workers.py --only overhead  # or jobs, memory, connections, limit

Everything runs before a server on loopback that answers at once, with an SQLite cache; the limit that four workers
share is that of a simulator, in a Redis server that is started for it. Figures of a busy machine are ratios of two
measurements that are taken in turns.
"""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from bench import MODEL, PROMPT, hub_at, interleaved, measure_table, static_server, texts
from redis import Redis

import llmhub
from llmhub import distributed
from llmhub.config import Settings
from llmhub.sim import Latency, SimLimit, Simulator, serving

BATCH_ROWS = 1000
CONCURRENCY = 64
WORKERS = 4
LIMIT_RPM = 1200
LIMIT_ROWS = 2000


def batches_of(rows: int) -> list[pa.RecordBatch]:
    return list(texts(rows).to_batches(max_chunksize=BATCH_ROWS))


def overhead(url: str, folder: Path, rows: int) -> None:
    """Compare a job with ``complete_record_batches``, rows answered by the server and rows from the cache."""

    def job_of(hub: llmhub.Hub) -> Callable[[], Any]:
        job = distributed.job(PROMPT, model=MODEL, hub=hub, keep=["text"], concurrency=CONCURRENCY)
        return lambda: list(job(batches_of(rows)))

    def batches(hub: llmhub.Hub) -> Callable[[], Any]:
        options: Any = {"model": MODEL, "hub": hub, "keep": ["text"], "plain": True, "concurrency": CONCURRENCY}
        return lambda: list(llmhub.complete_record_batches(batches_of(rows), PROMPT, **options))

    def fresh(make: Callable[[llmhub.Hub], Callable[[], Any]]) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as own, hub_at(url, cache=f"{own}/a.db") as hub:
            return timed(make(hub))

    with hub_at(url, cache=f"{folder}/cached.db") as hub:
        batches(hub)()
        for name, measures in {
            "sent": (lambda: fresh(batches), lambda: fresh(job_of)),
            "cached": (lambda: timed(batches(hub)), lambda: timed(job_of(hub))),
        }.items():
            plain, jobs = interleaved(5, *measures)
            ratios = [job / other for job, other in zip(jobs, plain, strict=True)]
            print(
                f"{rows:,} rows {name}: batches {min(plain):.3f} s of CPU, job {min(jobs):.3f} s: "
                f"{min(jobs) / min(plain):.3f} (median of pairs {statistics.median(ratios):.3f})"
            )


def timed(function: Callable[[], Any]) -> float:
    """Return the CPU time that this process spends, which other processes disturb less than the time that passes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def jobs(url: str, folder: Path, rows: int) -> None:
    """Compare ``n_jobs=2`` with one process."""
    with hub_at(url, cache=f"{folder}/jobs.db", cache_mode="off") as hub:
        measure_table(hub, 2000, CONCURRENCY, 2)  # starts the processes
        one, two = interleaved(
            3, lambda: measure_table(hub, rows, CONCURRENCY), lambda: measure_table(hub, rows, CONCURRENCY, 2)
        )
    print(f"{rows:,} rows: {max(one):,.0f} rows/s, n_jobs=2 {max(two):,.0f} rows/s: {max(two) / max(one):.2f}")


def memory(url: str, folder: Path, rows: int) -> None:
    """Print the memory of this process while a job goes over many batches."""

    def many() -> Iterator[pa.RecordBatch]:
        yield from texts(5 * rows).to_batches(max_chunksize=BATCH_ROWS)

    with hub_at(url, cache=f"{folder}/memory.db") as hub:
        job = distributed.job(PROMPT, model=MODEL, hub=hub, keep=["text"], concurrency=CONCURRENCY)
        done, shown = 0, []
        for batch in job(many()):
            done += batch.num_rows
            if done % rows == 0:
                shown.append(f"{done:,} rows {resident_mb():.0f} MB")
    print("memory of a worker:", ", ".join(shown))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def connections(url: str, folder: Path, rows: int) -> None:
    """Print how many connections eight tasks of one worker open, each with its own copy of the job."""
    with hub_at(url, cache=f"{folder}/connections.db") as hub:
        pickled = pickle.dumps(distributed.job(PROMPT, model=MODEL, hub=hub, concurrency=CONCURRENCY, keys="carry"))
    before = sockets()
    for batch in batches_of(rows)[:8]:
        list(pickle.loads(pickled)([batch]))
    print(f"connections of 8 tasks of {CONCURRENCY} at once: {sockets() - before}")


def limit(_url: str, _folder: Path, rows: int) -> None:
    """Print how much of a limit four workers use together, and how often they call the store."""
    port, count = free_port(), min(rows, LIMIT_ROWS)
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    settings = Simulator(seed=7, latency=Latency(0.2), limit=SimLimit(rpm=LIMIT_RPM, burst_s=2.5))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server, serving(settings) as simulator:
        try:
            cache = llmhub.RedisCache(f"redis://127.0.0.1:{port}/0")
            limits = {"openai": llmhub.Limit(rpm=LIMIT_RPM)}
            with llmhub.Hub(simulator=simulator.url, cache=cache, limits=limits, settings=Settings()) as hub:
                job = distributed.job(PROMPT, model=MODEL, hub=hub, concurrency=CONCURRENCY)
                table = distributed.joblib(texts(count), job, n_jobs=WORKERS)
            with Redis.from_url(cache.url) as client:
                stats = {
                    name.removeprefix("cmdstat_"): each["calls"] for name, each in client.info("commandstats").items()
                }
                stored = client.info("memory")["used_memory_dataset"]
        finally:
            server.terminate()
        statuses = simulator.counts()["by_status"]
    sent = sorted(table.column("started_at").to_pylist())
    seconds = (sent[-1] - sent[0]).total_seconds()
    calls = stats["time"]  # the script of the limiter alone asks the server for the time
    scripts = stats.get("evalsha", 0) + stats.get("eval", 0)
    used = (count - 1) / seconds / (LIMIT_RPM / 60)
    print(
        f"{count:,} rows by {WORKERS} workers under {LIMIT_RPM:,} requests a minute: replies by status {statuses}, "
        f"{used:.3f} of the permitted rate, {calls} store calls in {seconds:.0f} s: {calls / seconds:.2f} a second"
    )
    commands = {"claims and releases": scripts - calls, "reads": stats.get("mget", 0), "writes": stats.get("mset", 0)}
    shares = ", ".join(f"{number / count:.2f} {name}" for name, number in commands.items())
    print(f"  Redis, for each row: {shares}, {stored / count:,.0f} bytes")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sockets() -> int:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(str(link.readlink()).startswith("socket:") for link in links)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["overhead", "jobs", "memory", "connections", "limit"])
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    print("load average before:", *os.getloadavg())
    for measure in (overhead, jobs, memory, connections, limit):
        if options.only in (None, measure.__name__):
            with static_server() as url, tempfile.TemporaryDirectory() as folder:
                measure(url, Path(folder), options.rows)
    print("load average after:", *os.getloadavg())


if __name__ == "__main__":
    main()
