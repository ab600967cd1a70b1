"""Spark, Ray, Dask, Daft and joblib with real workers: the rows of one process, paid once, under one limit."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import llmhub
from llmhub import distributed
from llmhub.config import Settings
from llmhub.sim import Latency, SimLimit, Simulator, SimulatorThread, serving

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

MODEL = "openai/gpt-4o-mini"
WORKERS = 4
CONCURRENCY = 16
RPM = 18_000
VARYING = {
    "id", "row", "latency_s", "ttft_s", "queue_s", "rate_wait_s", "total_s", "started_at", "request_id", "cost_usd",
    "attempts", "cache_hit", "request_key", "tool_calls", "dropped_params",
}  # fmt: skip
SPARK_OPTIONS = {
    "spark.python.daemon.module": "preloaded_daemon",
    "spark.python.worker.reuse": "true",
    "spark.ui.enabled": "false",
    # A server for Spark Connect beside the session.
    "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
    "spark.connect.grpc.binding.port": "0",
    # Code that runs once is not worth much of a compiler's time.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
FOLDER = Path(__file__).parent / "workers"
sys.path.insert(0, str(FOLDER))  # workers inherit it

from failing_middleware import FailOnce, HoldAfter, KillOnce  # type: ignore[import-not-found]  # noqa: E402


class Engine:
    """An engine with its workers: makes a frame, applies a job, and collects the results."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self.session: Any = getattr(self, f"_start_{name}")(stack)

    def _start_spark(self, stack: ExitStack) -> Any:
        from pyspark.sql import SparkSession  # noqa: PLC0415

        os.environ["PYSPARK_PYTHON"] = sys.executable
        session = SparkSession.builder.master(f"local[{WORKERS},4]").config(map=SPARK_OPTIONS).getOrCreate()
        stack.callback(session.stop)
        return session

    def _start_ray(self, stack: ExitStack) -> Any:
        import ray  # noqa: PLC0415

        # Ray starts a process for each of the CPUs, and gives them the lowest priority unless this is set: beside
        # other work they would hardly run.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - how Ray spells it
        ray.init(num_cpus=WORKERS + 2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = 120  # so that each worker has its part of the rows
        stack.callback(ray.shutdown)
        return ray

    def _start_dask(self, stack: ExitStack) -> Any:
        import dask  # noqa: PLC0415
        from distributed import Client, LocalCluster  # noqa: PLC0415
        from distributed.utils import get_mp_context  # noqa: PLC0415

        # Workers are forked from a process that has imported what they need.
        stack.enter_context(dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}))
        get_mp_context().set_forkserver_preload(["distributed", "dask.dataframe", "preloaded"])
        cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
        return stack.enter_context(Client(stack.enter_context(cluster)))

    def _start_daft(self, _stack: ExitStack) -> Any:
        import daft  # noqa: PLC0415

        return daft

    def _start_joblib(self, _stack: ExitStack) -> Any:
        import joblib  # noqa: PLC0415

        return joblib

    def apply(self, rows: pa.Table, job: distributed.DistributedJob, workers: int = WORKERS) -> Any:
        """Return a lazy frame of the results."""
        match self.name:
            case "spark":
                frame = self.session.createDataFrame(rows.to_pandas()).repartition(workers)
                return distributed.spark(frame, job)
            case "ray":
                dataset = self.session.data.from_arrow(rows).repartition(workers)
                return distributed.ray(dataset, job, workers=workers)
            case "dask":
                import dask.dataframe as dd  # noqa: PLC0415

                return distributed.dask(dd.from_pandas(rows.to_pandas(), npartitions=workers), job)
            case "joblib":
                return lambda: distributed.joblib(rows, job, n_jobs=workers)
            case _:
                return distributed.daft(self.session.from_arrow(rows), job, batch_rows=len(rows) // workers)

    def collect(self, frame: Any) -> dict[str, list[Any]]:
        """Compute a frame; return its columns, in the order of ``id``."""
        match self.name:
            case "spark":
                table = frame.toArrow()
            case "ray":
                table = pa.Table.from_pandas(frame.to_pandas())
            case "dask":
                table = pa.Table.from_pandas(frame.compute(retries=2), preserve_index=False)
            case "joblib":
                table = self._call_again(frame)
            case _:
                table = frame.to_arrow()
        return table.sort_by("id").to_pydict()  # type: ignore[no-any-return]

    def _call_again(self, function: Callable[[], pa.Table]) -> pa.Table:
        """Call a function until it returns: joblib itself runs nothing again."""
        from joblib.externals.loky.process_executor import TerminatedWorkerError  # noqa: PLC0415

        for _ in range(3):
            with suppress(TerminatedWorkerError, RuntimeError):
                return function()
        return function()

    def fail_once_after(self, frame: Any, marker: Path) -> Any:
        """Return a frame whose first task fails once its rows were answered, and is run again by the engine."""
        fail = FailOnce(str(marker))
        match self.name:
            case "spark":
                return frame.mapInArrow(fail.on_batches, frame.schema)
            case "joblib":
                return lambda: fail.on_table(frame())
            case "ray":
                remote = {"max_retries": 3, "retry_exceptions": True}
                return frame.map_batches(fail.on_table, batch_format="pyarrow", **remote)
            case _:
                return frame.map_partitions(fail.on_table, meta=frame._meta)

    def count(self, frame: Any) -> int:
        """Count the rows of a frame, which evaluates it again."""
        if self.name in {"dask", "joblib"}:
            return len(frame() if self.name == "joblib" else frame)
        return int(frame.count_rows() if self.name == "daft" else frame.count())


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # Workers inherit the path on which they find the middleware of the tests.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]))
        patch.syspath_prepend(str(FOLDER))
        yield Engine(request.param, stack)


@pytest.fixture
def make_hub(own_redis: Any) -> Iterator[Callable[..., llmhub.Hub]]:
    with ExitStack() as stack:

        def make(simulator: SimulatorThread, **options: Any) -> llmhub.Hub:
            cache = llmhub.RedisCache(own_redis.url, timeout_s=1.0)
            options = {"concurrency": CONCURRENCY, "settings": Settings(), "cache": cache, **options}
            return stack.enter_context(llmhub.Hub(simulator=simulator.url, **options))

        yield make


def count_bookings(url: str) -> int:
    """Return how often the limiter's script has run on a server: it alone asks for the time."""
    from redis import Redis  # noqa: PLC0415 - an extra

    with Redis.from_url(url) as client:
        return int(client.info("commandstats").get("cmdstat_time", {"calls": 0})["calls"])


def rows(count: int, unique: int | None = None) -> pa.Table:
    texts = [f"number {n % (unique or count)}" for n in range(count)]
    return pa.table({"id": list(range(count)), "text": texts})


def plain(values: list[Any]) -> list[Any]:
    """Return values as engines have them: decimals are floating-point numbers."""
    return [float(value) if isinstance(value, Decimal) else value for value in values]


def make_job(hub: llmhub.Hub, **options: Any) -> distributed.DistributedJob:
    return distributed.job("{text}", model=MODEL, hub=hub, keep=["id"], **options)


def test_rows_are_those_of_one_process_under_one_limit_and_paid_once(
    engine: Engine, make_hub: Any, own_redis: Any
) -> None:
    settings = Simulator(seed=7, latency=Latency(0.05), limit=SimLimit(rpm=RPM, burst_s=2.5))
    table = rows(2000, 1800)
    with serving(settings) as simulator:
        hub = make_hub(simulator, limits={"openai": llmhub.Limit(rpm=RPM)})
        job = make_job(hub)
        frame = engine.apply(table, job)
        done = engine.collect(frame)
        bookings = count_bookings(own_redis.url)
        assert simulator.counts()["by_status"] == {"200": 1800}  # one for each different prompt, none refused
        alone = llmhub.complete_table(table, "{text}", model=MODEL, hub=hub, progress=False).to_pydict()
        assert done["id"] == list(range(2000))
        for name in set(alone) & set(done) - VARYING:
            assert plain(done[name]) == plain(alone[name]), name
        assert len(set(done["row"])) == 2000
        assert sum(done["attempts"]) == 1800
        sent = [started for started, attempts in zip(done["started_at"], done["attempts"], strict=True) if attempts]
        sending_s = (max(sent) - min(sent)).total_seconds()
        # About one a second, more while workers begin and on a busy machine; a booking for each call would be 1,800.
        assert bookings <= 4 * sending_s + 4 * WORKERS
        # Every action evaluates the frame again, and the cache answers it.
        assert engine.count(frame) == 2000
        assert simulator.counts()["requests"] == 1800
        progress = job.progress()
        assert progress.rows >= 2000  # Ray knows the count of rows that it has computed
        assert progress.models[MODEL].input_tokens == sum(
            tokens for tokens, hit in zip(done["input_tokens"], done["cache_hit"], strict=True) if not hit
        )


def test_tasks_that_run_twice_or_die_pay_once(engine: Engine, make_hub: Any, tmp_path: Path) -> None:
    """At once: a worker that is killed in mid-call, a task that fails once it is answered, and the same rows again."""
    if engine.name == "daft":
        return  # its functions run in this process
    with serving(Simulator(seed=7, latency=Latency(0.05))) as simulator:
        hub = make_hub(simulator, middleware=(KillOnce(str(tmp_path / "killed"), "number 77"),))
        frames = [engine.apply(rows(200), make_job(hub), workers=2) for _ in range(2)]
        frames[1] = engine.fail_once_after(frames[1], tmp_path / "failed")
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(engine.collect, frames))
        assert (tmp_path / "killed").exists()
        assert (tmp_path / "failed").exists()
        for done in results:
            assert done["id"] == list(range(200))
            assert set(done["status"]) == {"ok"}
        killed = (tmp_path / "killed").read_text(encoding="utf-8")
        sent = {path.suffix[1:]: path.read_text(encoding="utf-8").splitlines() for path in tmp_path.glob("killed.*")}
        counts = Counter(prompt for prompts in sent.values() for prompt in prompts)
        # joblib ends all of its processes if one dies.
        ended = [*sent] if engine.name == "joblib" else [killed]
        repeated = {prompt for prompt, count in counts.items() if count > 1}
        assert repeated <= {prompt for process in ended for prompt in sent[process]}
        # Paid again is what the killed worker had on the wire: an answer is one of them until it is written.
        assert 200 <= simulator.counts()["requests"] <= 200 + CONCURRENCY * (2 if engine.name == "joblib" else 1)


def test_workers_go_on_under_their_part_of_the_limit_while_the_store_is_stopped(
    engine: Engine, make_hub: Any, own_redis: Any, tmp_path: Path
) -> None:
    workers = 1 if engine.name == "daft" else 2
    settings = Simulator(seed=7, latency=Latency(0.05), limit=SimLimit(rpm=RPM, burst_s=2.5))
    with serving(settings) as simulator:
        middleware = (HoldAfter(str(tmp_path), 40),)
        hub = make_hub(simulator, limits={"openai": llmhub.Limit(rpm=RPM)}, middleware=middleware)
        collected = threading.Event()

        def stop_for_some_time() -> None:
            """Stop the store once every worker has begun, and until some calls were sent without it."""
            while not collected.wait(0.02) and len(list(tmp_path.iterdir())) < workers:
                pass
            own_redis.process.send_signal(signal.SIGSTOP)
            try:
                before = simulator.counts()["requests"]
                (tmp_path / "open").touch()
                while not collected.wait(0.02) and simulator.counts()["requests"] < before + 150:
                    pass
            finally:
                own_redis.process.send_signal(signal.SIGCONT)

        with ThreadPoolExecutor(1) as thread:
            stopping = thread.submit(stop_for_some_time)
            try:
                done = engine.collect(engine.apply(rows(600), make_job(hub), workers=workers))
            finally:
                collected.set()
            stopping.result()
        assert (tmp_path / "open").exists()
        assert done["id"] == list(range(600))
        assert set(done["status"]) == {"ok"}
        counts = simulator.counts()
        assert counts["by_status"] == {"200": 600}  # none refused, none paid twice
        # What was answered meanwhile is in the store once it is back.
        again = llmhub.complete_table(rows(600), "{text}", model=MODEL, hub=hub, progress=False)
        assert again.column("response").to_pylist() == done["response"]
        assert simulator.counts()["requests"] <= 600 + workers * CONCURRENCY


def test_a_frame_that_cannot_work_is_refused_before_anything_is_sent(engine: Engine, make_hub: Any) -> None:
    with serving(Simulator(seed=7)) as simulator:
        private = make_hub(simulator, cache=llmhub.MemoryCache())
        if engine.name != "joblib":  # which evaluates once
            with pytest.raises(llmhub.BadRequestError, match="pay_again"):
                engine.apply(rows(4), make_job(private))
        missing = distributed.job("{nothing}", model=MODEL, hub=make_hub(simulator))
        with pytest.raises(llmhub.BadRequestError, match="nothing"):
            engine.collect(engine.apply(rows(4), missing))
        assert simulator.counts()["requests"] == 0


def test_what_is_sent_to_workers_has_no_key(engine: Engine, make_hub: Any) -> None:
    if engine.name == "daft":
        return  # its functions run in this process
    key = "sk-a-key-that-workers-do-not-get"
    with serving(Simulator(seed=7)) as simulator:
        hub = make_hub(
            simulator, endpoints={"openai": llmhub.Endpoint(base_url=simulator.base_url("openai"), api_key=key)}
        )
        for keys, is_sent in (("worker", False), ("carry", True)):
            frame = engine.apply(rows(8), make_job(hub, keys=keys))
            match engine.name:
                case "spark":
                    function = frame._jdf.logicalPlan().functionExpr().func()
                    sent = bytes(engine.session._jvm.org.apache.spark.util.Utils.serialize(function))
                case "ray":
                    sent = engine.session.cloudpickle.dumps(frame._logical_plan)
                case "joblib":
                    sent = pickle.dumps(make_job(hub, keys=keys))
                case _:
                    import cloudpickle  # noqa: PLC0415 - a package that Dask needs

                    sent = cloudpickle.dumps(dict(frame.__dask_graph__()))
            assert (key.encode() in sent) is is_sent
        assert simulator.counts()["requests"] == 0


def test_a_frame_of_this_process_is_completed_by_an_engine(engine: Engine, make_hub: Any) -> None:
    if engine.name == "daft":
        return  # no name of an engine
    with serving(Simulator(seed=7)) as simulator:
        hub = make_hub(simulator)
        options: Any = {"model": MODEL, "hub": hub, "progress": False}
        table = llmhub.complete_table(rows(60, 50), "{text}", engine=engine.name, **options)
        assert simulator.counts()["requests"] == 50
        alone = llmhub.complete_table(rows(60, 50), "{text}", **options)
        assert table.schema.equals(alone.schema)
        assert table.column("response").to_pylist() == alone.column("response").to_pylist()
        assert table.column("cache_hit").to_pylist() == [n >= 50 for n in range(60)]


def test_slices_of_one_table_are_told_apart(engine: Engine, make_hub: Any) -> None:
    if engine.name != "dask":
        return
    with serving(Simulator(seed=7)) as simulator:
        table = distributed.dask(engine.session, make_job(make_hub(simulator)), rows(4500))
        assert simulator.counts()["requests"] == 4500
        assert table.column("id").to_pylist() == list(range(4500))


def test_results_can_be_shuffled(engine: Engine, make_hub: Any) -> None:
    if engine.name != "dask":
        return
    with serving(Simulator(seed=7)) as simulator:
        frame = engine.apply(rows(40), make_job(make_hub(simulator))).shuffle(on="id", npartitions=3)
        assert engine.collect(frame)["id"] == list(range(40))


def test_a_frame_of_spark_connect_is_completed(engine: Engine, make_hub: Any) -> None:
    if engine.name != "spark":
        return
    from pyspark.sql.connect.session import SparkSession  # noqa: PLC0415

    service = getattr(engine.session._jvm.org.apache.spark.sql.connect.service, "SparkConnectService$")
    remote = SparkSession.builder.remote(f"sc://localhost:{service.__getattr__('MODULE$').localPort()}").create()
    try:
        with serving(Simulator(seed=7)) as simulator:
            hub = make_hub(simulator)
            frame = distributed.spark(remote.createDataFrame(rows(200, 180).to_pandas()).repartition(2), make_job(hub))
            done = engine.collect(frame)
            assert simulator.counts()["by_status"] == {"200": 180}
            alone = llmhub.complete_table(rows(200), "{text}", model=MODEL, hub=hub, progress=False)
            assert done["id"] == list(range(200))
            assert done["response"][:180] == alone.column("response").to_pylist()[:180]
            assert simulator.counts()["requests"] == 200  # 20 that the frame does not have
    finally:
        remote.stop()
