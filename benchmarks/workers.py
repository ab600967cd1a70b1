"""What a job for the workers of an engine costs beside the calls: time, memory and connections of one worker.

    python benchmarks/workers.py                  # all figures
    python benchmarks/workers.py --only overhead  # or jobs, memory, connections, limit
    python benchmarks/workers.py --only limit --engine spark --rpm 3000  # or ray, dask, in their environments

Everything runs before a server on loopback that answers at once, with an SQLite cache; the limit that four workers
share is that of a simulator, in a Redis server that is started for it. Figures of a busy machine are ratios of two
measurements that are taken in turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
from bench import MODEL, PROMPT, hub_at, interleaved, measure_table, static_server, texts
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

import llmhub
from llmhub import distributed
from llmhub.cache.redis_limiter import LIMIT_INFIX
from llmhub.config import Settings
from llmhub.sim import Latency, SimLimit, Simulator, serving

BATCH_ROWS = 1000
CONCURRENCY = 64
WORKERS = 4
LIMIT_RPM = 1200
LIMIT_ROWS = 2000
STEADY_MARGIN_S = 2.0
"""What is left out of the steady state at its beginning and end."""


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
    """Compare ``n_jobs=2`` with one process, and with two that do not know of each other: what the machine allows."""
    servers = descendants()
    others = multiprocessing.get_context("spawn")
    with (
        hub_at(url, cache=f"{folder}/jobs.db", cache_mode="off") as hub,
        ProcessPoolExecutor(1, others) as left,
        ProcessPoolExecutor(1, others) as right,
    ):

        def of_control(count: int) -> float:
            began = time.perf_counter()
            wait([half.submit(complete_alone, url, count // 2) for half in (left, right)])
            return count / (time.perf_counter() - began)

        arms: dict[str, Callable[[int], float]] = {
            "one process": lambda count: measure_table(hub, count, CONCURRENCY),
            "n_jobs=2": lambda count: measure_table(hub, count, CONCURRENCY, 2),
            "two processes apart": of_control,
        }
        for arm in arms.values():
            arm(2000)  # starts the processes
        cpu: dict[str, list[float]] = {name: [] for name in arms}

        def measured(name: str) -> float:
            before = cpu_seconds(servers)
            rate = arms[name](rows)
            cpu[name].append(cpu_seconds(servers) - before)
            return rate

        rates = dict(zip(arms, interleaved(5, *(partial(measured, name) for name in arms)), strict=True))
    print(f"{rows:,} rows:")
    for name, measures in rates.items():
        ratio = statistics.median(own / one for own, one in zip(measures, rates["one process"], strict=True))
        more = statistics.median(own / one for own, one in zip(cpu[name], cpu["one process"], strict=True))
        print(
            f"  {name}: {max(measures):,.0f} rows/s, {max(measures) / max(rates['one process']):.2f} of one process "
            f"(median of pairs {ratio:.2f}); {min(cpu[name]):.2f} s of CPU (median of pairs {more:.2f})"
        )


def complete_alone(url: str, rows: int) -> None:
    """Complete rows in a process of its own."""
    measure_table(hub_of_process(url), rows, CONCURRENCY)


@cache
def hub_of_process(url: str) -> llmhub.Hub:
    return hub_at(url)


def descendants() -> set[int]:
    """Return the processes that this one has started, and theirs."""
    parents = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(folder.name)] = int(stat_of(int(folder.name))[1])
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def cpu_seconds(servers: set[int]) -> float:
    """Return the CPU time of this process and those that it has started, without servers."""
    ticks = 0
    for process in {os.getpid(), *descendants()} - servers:
        with suppress(OSError):
            ticks += sum(map(int, stat_of(process)[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def stat_of(process: int) -> list[str]:
    """Return what Linux says of a process, from its state on."""
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


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


def limit(_url: str, _folder: Path, rows: int, engine: str = "joblib", rpm: int = LIMIT_RPM) -> None:
    """Print how much of a limit the four workers of an engine use together, and how often they call the store."""
    count = min(rows, LIMIT_ROWS)
    settings = Simulator(seed=7, latency=Latency(0.2), limit=SimLimit(rpm=rpm, burst_s=2.5))
    with ExitStack() as stack:
        run = stack.enter_context(started(engine))
        url = stack.enter_context(redis_server())
        calls = stack.enter_context(limiter_calls(url))
        simulator = stack.enter_context(serving(settings))
        cache = llmhub.RedisCache(url)
        limits = {"openai": llmhub.Limit(rpm=rpm)}
        with llmhub.Hub(simulator=simulator.url, cache=cache, limits=limits, settings=Settings()) as hub:
            job = distributed.job(PROMPT, model=MODEL, hub=hub, keep=["text"], concurrency=CONCURRENCY)
            began = time.time()
            table = run(texts(count), job)
            ended = time.time()
        with Redis.from_url(url) as client:
            stats = {name.removeprefix("cmdstat_"): each["calls"] for name, each in client.info("commandstats").items()}
            stored = client.info("memory")["used_memory_dataset"]
        statuses = simulator.counts()["by_status"]
    sent = sorted(start.timestamp() for start in table.column("started_at").to_pylist())
    seconds = sent[-1] - sent[0]
    steady = [at for at in calls if sent[0] + STEADY_MARGIN_S <= at <= sent[-1] - STEADY_MARGIN_S]
    print(
        f"{engine}: {count:,} rows by {WORKERS} workers under {rpm:,} requests a minute in {seconds:.0f} s: replies by "
        f"status {statuses}, {(count - 1) / seconds / (rpm / 60):.3f} of the permitted rate from the first to the last "
        f"request ({count / (ended - began) / (rpm / 60):.3f} with the start of the engine); calls of the limiter a "
        f"second: {len(steady) / (seconds - 2 * STEADY_MARGIN_S):.2f} in the steady state, "
        f"{len(calls) / seconds:.2f} in all ({len(calls)})"
    )
    scripts = stats.get("evalsha", 0) + stats.get("eval", 0)
    commands = {
        "claims and releases": scripts - len(calls),
        "reads": stats.get("mget", 0),
        "writes": stats.get("mset", 0),
    }
    shares = ", ".join(f"{number / count:.2f} {name}" for name, number in commands.items())
    print(f"  Redis, for each row: {shares}, {stored / count:,.0f} bytes")


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis server and yield its URL."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


@contextmanager
def limiter_calls(url: str) -> Iterator[list[float]]:
    """Yield a list that gets the time of each call of the shared limiter, as the server sees it."""
    calls: list[float] = []
    ended = threading.Event()
    connection = Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 100), socket_timeout=None)
    with connection as client, client.monitor() as monitor:

        def follow() -> None:
            for command in monitor.listen():
                if command["command"].startswith("EVAL") and LIMIT_INFIX.decode() in command["command"]:
                    calls.append(command["time"])
                if ended.is_set():
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield calls
        finally:
            ended.set()
            client.ping()
            thread.join()


@contextmanager
def started(engine: str) -> Iterator[Callable[[pa.Table, distributed.DistributedJob], pa.Table]]:
    """Start an engine with four worker processes, and yield a function that completes a table on it.

    Ray needs ``RAY_worker_niceness=0`` in the environment on a busy machine.
    """
    with ExitStack() as stack:
        match engine:
            case "spark":
                builder = import_module("pyspark.sql").SparkSession.builder.master(f"local[{WORKERS}]")
                os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # noqa: TID251 - where Spark looks
                session = builder.config("spark.ui.enabled", "false").getOrCreate()
                stack.callback(session.stop)

                def run(rows: pa.Table, job: distributed.DistributedJob) -> pa.Table:
                    frame = session.createDataFrame(rows.to_pandas()).repartition(WORKERS)
                    return distributed.spark(frame, job).toArrow()

            case "ray":
                ray = import_module("ray")
                ray.init(num_cpus=WORKERS + 2, include_dashboard=False, log_to_driver=False)
                context = import_module("ray.data").DataContext.get_current()
                context.enable_progress_bars = False
                context.wait_for_min_actors_s = 120  # so that each has its part of the rows
                stack.callback(ray.shutdown)

                def run(rows: pa.Table, job: distributed.DistributedJob) -> pa.Table:
                    frame = distributed.ray(ray.data.from_arrow(rows).repartition(WORKERS), job, workers=WORKERS)
                    return pa.concat_tables(ray.get(frame.to_arrow_refs()))

            case "dask":
                dask, frames = import_module("distributed"), import_module("dask.dataframe")
                cluster = dask.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
                stack.enter_context(dask.Client(stack.enter_context(cluster)))

                def run(rows: pa.Table, job: distributed.DistributedJob) -> pa.Table:
                    frame = distributed.dask(frames.from_pandas(rows.to_pandas(), npartitions=WORKERS), job)
                    return pa.Table.from_pandas(frame.compute(), preserve_index=False)

            case _:

                def run(rows: pa.Table, job: distributed.DistributedJob) -> pa.Table:
                    return distributed.joblib(rows, job, n_jobs=WORKERS)

        yield run


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
    parser.add_argument("--engine", choices=["joblib", "spark", "ray", "dask"], default="joblib")
    parser.add_argument("--rpm", type=int, default=LIMIT_RPM, help="of the limit that the workers share")
    parser.add_argument("--nginx", default="", help="the command of nginx, to serve with it")
    options = parser.parse_args()
    print("load average before:", *os.getloadavg())
    for measure in (overhead, jobs, memory, connections, limit):
        if options.only in (None, measure.__name__):
            with static_server(nginx=options.nginx) as url, tempfile.TemporaryDirectory() as folder:
                others = (options.engine, options.rpm) if measure is limit else ()
                measure(url, Path(folder), options.rows, *others)
    print("load average after:", *os.getloadavg())


if __name__ == "__main__":
    main()
