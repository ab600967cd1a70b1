"""One picklable job, and the engines that need no cluster: joblib, polars and DuckDB."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import joblib
import pyarrow as pa
import pytest

import llmhub
from llmhub import distributed
from llmhub.cache.shared_limiter import SharedLimiter
from llmhub.cache.store import StoreError
from llmhub.config import Settings
from llmhub.distributed import distributed_job
from llmhub.engine import cache_writer
from llmhub.engine.cache_writer import CacheWriter
from llmhub.sim import Latency, Simulator, SimulatorThread, serving

MODEL = "openai/gpt-4o-mini"
ROWS = pa.table({"id": [f"id {n}" for n in range(24)], "text": [f"number {n % 20}" for n in range(24)]})
VARYING = {
    "latency_s", "ttft_s", "queue_s", "rate_wait_s", "total_s", "started_at", "request_id", "request_key"
}  # fmt: skip


@pytest.fixture
def hub(simulator: SimulatorThread, tmp_path: Path) -> Iterator[llmhub.Hub]:
    cache = llmhub.DiskCache(tmp_path / "a.db")
    with llmhub.Hub(simulator=simulator.url, settings=Settings(), cache=cache) as opened:
        yield opened


def make_job(hub: llmhub.Hub, **options: Any) -> distributed.DistributedJob:
    return distributed.job("{text}", model=MODEL, hub=hub, keep=["id"], **options)


def columns(table: pa.Table) -> dict[str, list[Any]]:
    return {name: table.column(name).to_pylist() for name in table.column_names if name not in VARYING}


def test_a_job_maps_batches_with_the_schema_that_it_announces(hub: llmhub.Hub) -> None:
    job = make_job(hub)
    schema = job.schema(ROWS.schema)
    batches = list(job(ROWS.to_batches(max_chunksize=7)))
    assert [batch.num_rows for batch in batches] == [7, 7, 7, 3]
    assert all(batch.schema.equals(schema) for batch in batches)
    assert batches[1].column("id").to_pylist() == ROWS.column("id").to_pylist()[7:14]


@pytest.mark.parametrize(
    "make", [lambda hub: distributed.job("{missing}", model=MODEL, hub=hub), lambda hub: make_job(hub, n=0)]
)
def test_a_job_that_does_not_fit_a_frame_raises_before_anything_is_sent(hub: llmhub.Hub, make: Any) -> None:
    with pytest.raises(llmhub.BadRequestError):
        make(hub).schema(ROWS.schema)
    with pytest.raises(llmhub.BadRequestError, match="result column"):
        distributed.job("x", model=MODEL, hub=hub, keep=["status"])


def test_a_pickled_job_has_no_key_unless_it_is_told_to(environ: pytest.MonkeyPatch) -> None:
    canary = "sk-canary-of-the-driver"
    environ.setenv("OPENAI_API_KEY", "of-the-worker")
    endpoints = {"openai": llmhub.Endpoint(base_url="http://localhost:1/v1", api_key=canary)}
    hub = llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.RedisCache("redis://localhost:1"))
    pickled = pickle.dumps(make_job(hub))
    assert canary.encode() not in pickled
    assert pickle.loads(pickled).hub.target(MODEL).endpoint.api_key == "of-the-worker"
    carried = pickle.loads(pickle.dumps(make_job(hub, keys="carry")))
    assert carried.hub.target(MODEL).endpoint.api_key == canary


def test_jobs_without_a_store_that_workers_reach_are_refused(hub: llmhub.Hub) -> None:
    private = llmhub.Hub(simulator=hub.simulator, settings=Settings(), cache=llmhub.MemoryCache())
    redis = llmhub.Hub(simulator=hub.simulator, settings=Settings(), cache=llmhub.RedisCache())
    for refused, one_host in ((private, True), (hub, False)):
        with pytest.raises(llmhub.BadRequestError, match=r"pay_again=True"):
            make_job(refused).require_store("Spark", one_host=one_host)
    with pytest.raises(llmhub.BadRequestError, match="RedisCache"):
        make_job(redis, cache="off").require_store("Spark", one_host=False)
    make_job(hub).require_store("Spark", one_host=True)
    make_job(redis).require_store("Spark", one_host=False)
    make_job(private, pay_again=True).require_store("Spark", one_host=False)


@pytest.mark.parametrize("backend", ["sequential", "threading", "multiprocessing", "loky"])
def test_joblib_gives_the_rows_of_one_process(hub: llmhub.Hub, simulator: SimulatorThread, backend: str) -> None:
    with joblib.parallel_config(backend=backend):
        table = distributed.joblib(ROWS, make_job(hub), n_jobs=2)
    assert simulator.counts()["requests"] == 20
    assert table.column("row").to_pylist() == list(range(24))
    alone = llmhub.complete_table(ROWS, "{text}", model=MODEL, hub=hub)
    assert table.column("response").to_pylist() == alone.column("response").to_pylist()
    assert table.column("id").to_pylist() == ROWS.column("id").to_pylist()


def test_polars_frames_are_lazy_if_they_were(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    import polars as pl  # noqa: PLC0415 - an extra

    frame = pl.from_arrow(ROWS)
    assert isinstance(frame, pl.DataFrame)
    lazy = distributed.polars(frame.lazy(), make_job(hub)).filter(pl.col("id") == "id 3")
    assert simulator.counts()["requests"] == 0
    assert lazy.collect()["id"].to_list() == ["id 3"]
    assert distributed.polars(frame, make_job(hub)).height == 24
    assert simulator.counts()["requests"] == 20


def test_duckdb_relations(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    import duckdb  # noqa: PLC0415 - an extra

    relation = duckdb.connect().from_arrow(ROWS)
    done = distributed.duckdb(relation, make_job(hub))
    assert done.aggregate("count(*), count(distinct id)").fetchall() == [(24, 24)]
    assert simulator.counts()["requests"] == 20


@pytest.fixture
def con() -> Iterator[Any]:
    import duckdb  # noqa: PLC0415 - an extra

    with duckdb.connect() as connection:
        rows = "SELECT i, CASE WHEN i = 3 THEN NULL ELSE 'number ' || i % 20 END AS t FROM range(24) r(i)"
        connection.execute(f"CREATE TABLE texts AS {rows}")
        yield connection


def test_a_function_of_duckdb_has_the_results_of_the_job(con: Any, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    job = distributed.job("{t}", model=MODEL, hub=hub, keep=["i"])
    assert distributed.duckdb_function(con, "ask", job, {"t": "VARCHAR", "i": "BIGINT"}) is con
    con.sql("EXPLAIN SELECT ask('a constant', 1)").fetchall()
    assert simulator.counts()["requests"] == 0
    query = "SELECT i, r.i, r.status, r.response FROM (SELECT i, ask(t, i) AS r FROM texts) ORDER BY i"
    done = con.sql(query).fetchall()
    alone = llmhub.complete_table(con.sql("FROM texts ORDER BY i").to_arrow_table(), "{t}", model=MODEL, hub=hub)
    assert done == list(
        zip(range(24), range(24), alone.column("status").to_pylist(), alone.column("response").to_pylist(), strict=True)
    )
    assert done[3][2:] == ("skipped", None)
    assert con.sql(query).fetchall() == done
    assert simulator.counts()["requests"] == 20
    assert con.sql("SELECT sum(ask(t, i).cost_usd) FROM texts WHERE i > 0").fetchall() == [(0,)]


def test_failed_calls_in_duckdb_are_rows_and_not_sent_for_each_field(
    con: Any, hub: llmhub.Hub, simulator: SimulatorThread
) -> None:
    job = distributed.job("[[sim:500 always]] {t}", model=MODEL, hub=replace(hub, retry=llmhub.Retry(attempts=1)))
    distributed.duckdb_function(con, "ask", job, {"t": "VARCHAR"})
    relation = con.sql("SELECT unnest(ask(t)) FROM texts WHERE i < 2")
    assert relation.columns == job.schema(pa.schema([("t", pa.string())])).names
    assert relation.aggregate("min(status), min(error_type), count(response)").fetchall() == [
        ("error", "ServerError", 0)
    ]
    assert simulator.counts()["requests"] == 2


def test_calls_of_a_function_of_duckdb_share_the_concurrency_of_the_job(con: Any, tmp_path: Path) -> None:
    with (
        serving(Simulator(latency=Latency(0.02))) as simulator,
        llmhub.Hub(simulator=simulator.url, settings=Settings(), cache=str(tmp_path / "b.db")) as hub,
    ):
        job = distributed.job("{t}", model=MODEL, hub=hub, concurrency=4)
        distributed.duckdb_function(con, "ask", job, {"t": "VARCHAR"})
        queries = [f"SELECT ask('{name} ' || i).status FROM range(20) r(i)" for name in ("left", "right")]
        with ThreadPoolExecutor(2) as threads:
            done = list(threads.map(lambda query: con.cursor().sql(query).fetchall(), queries))
        assert done == [[("ok",)] * 20] * 2
        assert simulator.counts()["requests"] == 40
        assert simulator.counts()["max_in_flight"] <= 4


def test_functions_that_duckdb_cannot_have_are_refused(con: Any, hub: llmhub.Hub) -> None:
    text = {"t": "VARCHAR"}
    private = llmhub.Hub(simulator=hub.simulator, settings=Settings(), cache=llmhub.MemoryCache())
    register = distributed.duckdb_function
    for match, call in {
        "pay_again": lambda: register(con, "f", distributed.job("{t}", model=MODEL, hub=private), text),
        "one result for each row": lambda: register(con, "f", distributed.job("{t}", model=MODEL, hub=hub, n=2), text),
        "missing": lambda: register(con, "f", distributed.job("{missing}", model=MODEL, hub=hub), text),
        "SQL types": lambda: register(con, "f", distributed.job("{t}", model=MODEL, hub=hub), {"t": "TEXTILE"}),
        "already exists": lambda: register(con, "lower", distributed.job("{t}", model=MODEL, hub=hub), text),
        "at least one column": lambda: register(con, "f", distributed.job("{t}", model=MODEL, hub=hub), {}),
        "not str": lambda: register("con", "f", distributed.job("{t}", model=MODEL, hub=hub), text),
    }.items():
        with pytest.raises(llmhub.BadRequestError, match=match):
            call()
    register(con, "f", distributed.job("{t}", model=MODEL, hub=hub, max_tokens=3), text)
    register(con, "f", distributed.job("{t}", model=MODEL, hub=hub, max_tokens=2), text)
    assert con.sql("SELECT f('Tell me a story').output_tokens <= 2").fetchall() == [(True,)]


def test_workers_share_one_budget_and_report_to_one_place(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    rows = pa.table({"id": range(80), "text": [f"row {n} of a budget" for n in range(80)]})
    job = make_job(hub, budget_usd=0.0005, max_tokens=60)
    with joblib.parallel_config(backend="loky"):
        table = distributed.joblib(rows, job, n_jobs=2)
    statuses = table.column("status").to_pylist()
    spent = sum((cost for cost in table.column("cost_usd").to_pylist() if cost is not None), Decimal(0))
    assert spent <= Decimal("0.0005")
    assert statuses.count("ok") > 4
    assert statuses.count("budget") > 4
    progress = job.progress()
    assert (progress.rows, progress.failed) == (80, statuses.count("budget"))
    assert progress.cost_usd == spent
    assert not progress.stopping


def test_the_budget_of_a_hub_is_one_for_all_workers_of_its_jobs_and_for_the_driver(
    simulator: SimulatorThread, tmp_path: Path
) -> None:
    limit, spent = Decimal("0.0005"), Decimal(0)
    cache = llmhub.DiskCache(tmp_path / "budget.db")
    with llmhub.Hub(simulator=simulator.url, settings=Settings(), cache=cache, budget_usd=limit) as hub:
        for part, keys in enumerate(("worker", "carry")):
            rows = pa.table({"id": range(60), "text": [f"row {n} of part {part}" for n in range(60)]})
            job = make_job(hub, keys=keys, max_tokens=60)
            with joblib.parallel_config(backend="loky"):
                table = distributed.joblib(rows, job, n_jobs=2)
            spent += sum((cost for cost in table.column("cost_usd").to_pylist() if cost is not None), Decimal(0))
            assert (table.column("status").to_pylist().count("ok") > 4) is (part == 0)
            job.progress()
            budget = hub.spending()
            assert budget is not None
            assert (budget.limit_usd, budget.spent_usd) == (limit, spent)
        assert limit * Decimal("0.8") < spent <= limit
        alone = llmhub.complete_table(rows[:8], "Say {text}", model=MODEL, hub=hub, max_tokens=60, progress=False)
        assert set(alone.column("status").to_pylist()) == {"budget"}


def test_a_stopped_job_sends_nothing_more(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    job = make_job(hub)
    job.stop()
    assert job.progress().stopping
    (batch,) = job([ROWS.to_batches()[0]])
    assert set(batch.column("status").to_pylist()) == {"cancelled"}
    assert simulator.counts()["requests"] == 0
    without = distributed.job("x", model=MODEL, hub=llmhub.Hub(simulator=hub.simulator, settings=Settings()))
    with pytest.raises(llmhub.BadRequestError, match="RedisCache"):
        without.stop()
    assert without.progress().rows == 0


def test_a_worker_under_a_limit_calls_the_store_to_book_and_once_at_its_end(
    simulator: SimulatorThread, tmp_path: Path
) -> None:
    limits = {"openai": llmhub.Limit(rpm=60_000)}
    cache = llmhub.DiskCache(tmp_path / "limited.db")
    with llmhub.Hub(simulator=simulator.url, cache=cache, limits=limits, settings=Settings()) as hub:
        job, shared, booked = make_job(hub), hub.runtime.shared_limits, list[bool]()
        assert shared is not None
        limiter = shared.limiter

        def count(*arguments: Any, leaves: bool = False, **options: Any) -> Any:
            booked.append(leaves)
            return limiter.book(*arguments, leaves=leaves, **options)

        shared.limiter, shared.workers = SharedLimiter(book=count, leave=limiter.leave), 2
        list(job(ROWS.to_batches()))
        assert booked == [False, True]
        assert (job.progress().rows, job.progress().workers) == (len(ROWS), 0)
        job.stop()
        before = simulator.counts()["requests"]
        others = pa.table({"id": [1, 2], "text": ["not sent", "not sent either"]})
        (batch,) = job(others.to_batches())
        assert set(batch.column("status").to_pylist()) == {"cancelled"}
        assert simulator.counts()["requests"] == before


def test_a_worker_begins_once_its_store_can_be_reached(
    own_redis: Any, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = llmhub.RedisCache(own_redis.url, timeout_s=0.1)
    with llmhub.Hub(simulator=simulator.url, cache=cache, settings=Settings()) as hub:
        job = make_job(hub)
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(distributed_job, "STORE_WAIT_S", 0.1)
                with pytest.raises(llmhub.CacheError, match=r"nothing was sent.*pay_again"):
                    list(job(ROWS.to_batches()))
            assert simulator.counts()["requests"] == 0
            with pytest.warns(RuntimeWarning, match="4 responses could not be cached"):
                list(make_job(hub, pay_again=True)(ROWS[:4].to_batches()))
            assert simulator.counts()["requests"] == 4
            caplog.clear()
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(lambda: list(job(ROWS[4:].to_batches())))
                while not caplog.records:
                    time.sleep(0.01)
                own_redis.process.send_signal(signal.SIGCONT)
                (batch,) = waiting.result()
        finally:
            own_redis.process.send_signal(signal.SIGCONT)
        assert set(batch.column("status").to_pylist()) == {"ok"}
        assert simulator.counts()["requests"] == 24
        assert len(caplog.records) == 1
        list(job(ROWS[4:].to_batches()))
        assert simulator.counts()["requests"] == 24


def test_a_worker_that_ends_while_its_store_is_stopped_waits_to_store_what_it_paid_for(
    own_redis: Any, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_writer, "FINAL_BACKOFF_S", 0.05)
    failed = threading.Semaphore(0)
    on_failure = CacheWriter._on_failure

    def count_failure(writer: CacheWriter, error: StoreError) -> None:
        on_failure(writer, error)
        failed.release()

    def stop_store(send: Any) -> Any:
        async def stopping(call: Any) -> Any:
            own_redis.process.send_signal(signal.SIGSTOP)
            return await send(call)

        return stopping

    monkeypatch.setattr(CacheWriter, "_on_failure", count_failure)
    cache = llmhub.RedisCache(own_redis.url, timeout_s=0.1)
    hub = llmhub.Hub(simulator=simulator.url, cache=cache, settings=Settings(), middleware=(stop_store,))
    with hub, ThreadPoolExecutor(1) as thread, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        running = thread.submit(lambda: list(make_job(hub)(ROWS[:4].to_batches())))
        for _ in range(5):  # more often than a run tries that does not wait
            assert failed.acquire(timeout=30)
        own_redis.process.send_signal(signal.SIGCONT)
        running.result()
    assert any("all responses were cached in the end" in str(warning.message) for warning in caught)
    with llmhub.Hub(simulator=simulator.url, cache=cache, settings=Settings()) as again:
        list(make_job(again)(ROWS[:4].to_batches()))
    assert simulator.counts()["requests"] == 4


def test_an_engine_completes_a_frame_as_this_process_does(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    import pandas as pd  # noqa: PLC0415 - slow to import

    frame = pd.DataFrame({"text": [f"t{n % 15}" for n in range(20)]})
    frame.loc[3, "text"] = None
    options: Any = {"model": [MODEL, "anthropic/claude-haiku-4-5"], "progress": False}
    llmhub.complete_table(frame[:2], "Say {text}", hub=hub, **options)
    asked = simulator.counts()["requests"]
    table = llmhub.complete_table(frame, "Say {text}", hub=hub, engine="joblib", **options)
    assert simulator.counts()["requests"] == 30
    private = llmhub.Hub(simulator=simulator.url, settings=Settings(), cache=llmhub.MemoryCache())
    llmhub.complete_table(frame[:2], "Say {text}", hub=private, **options)
    alone = llmhub.complete_table(frame, "Say {text}", hub=private, **options)
    assert asked == 4
    assert table.schema.equals(alone.schema)
    assert columns(table) == columns(alone)
    assert list(frame.llm.complete("Say {text}", hub=hub, engine="joblib", **options).index) == [
        n // 2 for n in range(40)
    ]
    with pytest.raises(llmhub.BadRequestError, match=r"'flink' is not one of ray, spark"):
        llmhub.complete_table(frame, "x", hub=hub, engine="flink", **options)


def run_on_threads(hub: llmhub.Hub, rows: int, progress: Any, model: Any = MODEL) -> pa.Table:
    frame = pa.table({"text": [f"row {n} of {rows}" for n in range(rows)]})
    with joblib.parallel_config(backend="threading", n_jobs=2):
        return llmhub.complete_table(frame, "{text}", model=model, hub=hub, engine="joblib", progress=progress)


def test_the_progress_of_all_workers_is_shown_with_what_they_spend(hub: llmhub.Hub) -> None:
    models = [MODEL, "anthropic/claude-haiku-4-5"]
    before = run_on_threads(hub, 12, False, MODEL)
    states: list[Any] = []
    table = run_on_threads(hub, 12, states.append, models)
    last = states[-1]
    assert last.finished
    assert (last.total, last.done, last.failed) == (24, 24, 0)
    assert [model.done for model in last.models] == [12, 12]
    assert [model.cached for model in last.models] == [12, 0]
    spent = [sum(cost for cost in part.column("cost_usd").to_pylist()) for part in (before, table)]
    assert last.models[1].spent_usd == spent[1] > 0
    assert last.models[1].input_tokens > 0


INTERRUPTED = """
import signal, sys
import joblib, pyarrow as pa
import llmhub
from llmhub.config import Settings
from llmhub.sim import Latency, Simulator, serving

interrupted = []

def interrupt_once(progress):
    if progress.done and not interrupted:
        interrupted.append(progress)
        signal.raise_signal(signal.SIGINT)

frame = pa.table({"text": [f"row {n}" for n in range(600)]})
with serving(Simulator(seed=7, latency=Latency(0.1))) as simulator:
    with llmhub.Hub(simulator=simulator.url, settings=Settings(), cache=sys.argv[1], concurrency=8) as hub:
        with joblib.parallel_config(backend="threading", n_jobs=2):
            table = llmhub.complete_table(frame, "{text}", model="openai/gpt-4o-mini", hub=hub, engine="joblib",
                                          progress=interrupt_once)
        statuses = table.column("status").to_pylist()
        print(len(interrupted), *sorted(set(statuses)), statuses.count("ok") == simulator.counts()["requests"])
"""


def test_the_first_interrupt_lets_all_workers_end_what_they_have_sent(tmp_path: Path) -> None:
    # Signals are those of the main thread, in which not every runner has its tests.
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "b.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["1", "cancelled", "ok", "True"], done.stderr


def test_missing_engines_name_their_extra(monkeypatch: pytest.MonkeyPatch, hub: llmhub.Hub) -> None:
    for engine, modules in {"spark": ["pyspark"], "ray": ["ray"], "daft": ["daft"]}.items():
        for module in (*modules, *(f"{module}.data" for module in modules)):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(llmhub.BadRequestError, match=rf"llmhub\[{engine}\]"):
            getattr(distributed, engine)(ROWS, make_job(hub))
    with pytest.raises(llmhub.BadRequestError, match=r"distributed\.Client"):
        distributed.dask(ROWS, make_job(hub))
