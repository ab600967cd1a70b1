"""Spark, Ray, Dask and Daft with real workers: the same rows as in one process, paid once, under one limit."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
CONCURRENCY = 8
FOLDER = Path(__file__).parent / "workers"


class Engine:
    """An engine with its workers: makes a frame, applies a job, and collects the results."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self.session: Any = getattr(self, f"_start_{name}")(stack)

    def _start_spark(self, stack: ExitStack) -> Any:
        from pyspark.sql import SparkSession  # noqa: PLC0415

        os.environ["PYSPARK_PYTHON"] = sys.executable
        builder = SparkSession.builder.master(f"local[{WORKERS},4]").config("spark.ui.enabled", "false")
        session = builder.config("spark.python.worker.reuse", "true").getOrCreate()
        stack.callback(session.stop)
        return session

    def _start_ray(self, stack: ExitStack) -> Any:
        import ray  # noqa: PLC0415

        ray.init(num_cpus=2 * WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        stack.callback(ray.shutdown)
        return ray

    def _start_dask(self, stack: ExitStack) -> Any:
        from distributed import Client, LocalCluster  # noqa: PLC0415

        cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
        return stack.enter_context(Client(stack.enter_context(cluster)))

    def _start_daft(self, _stack: ExitStack) -> Any:
        import daft  # noqa: PLC0415

        return daft

    def apply(self, rows: pa.Table, job: distributed.DistributedJob) -> Any:
        """Return a lazy frame of the results."""
        match self.name:
            case "spark":
                frame = self.session.createDataFrame(rows.to_pandas()).repartition(WORKERS)
                return distributed.spark(frame, job)
            case "ray":
                dataset = self.session.data.from_arrow(rows).repartition(WORKERS)
                return distributed.ray(dataset, job, workers=WORKERS)
            case "dask":
                import dask.dataframe as dd  # noqa: PLC0415

                return distributed.dask(dd.from_pandas(rows.to_pandas(), npartitions=WORKERS), job)
            case _:
                return distributed.daft(self.session.from_arrow(rows), job, batch_rows=len(rows) // WORKERS)

    def collect(self, frame: Any) -> dict[str, list[Any]]:
        """Compute a frame; return its columns, in the order of ``id``."""
        match self.name:
            case "spark":
                table = frame.toArrow()
            case "ray":
                table = pa.Table.from_pandas(frame.to_pandas())
            case "dask":
                table = pa.Table.from_pandas(frame.compute(), preserve_index=False)
            case _:
                table = frame.to_arrow()
        return table.sort_by("id").to_pydict()  # type: ignore[no-any-return]

    def count(self, frame: Any) -> int:
        """Count the rows of a frame, which evaluates it again."""
        if self.name == "dask":
            return len(frame)
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
def make_hub(tmp_path: Path) -> Iterator[Callable[..., llmhub.Hub]]:
    with ExitStack() as stack:

        def make(simulator: SimulatorThread, **options: Any) -> llmhub.Hub:
            cache = llmhub.DiskCache(tmp_path / "shared.db")
            options = {"concurrency": CONCURRENCY, "settings": Settings(), "cache": cache, **options}
            return stack.enter_context(llmhub.Hub(simulator=simulator.url, **options))

        yield make


def rows(count: int, unique: int | None = None) -> pa.Table:
    texts = [f"number {n % (unique or count)}" for n in range(count)]
    return pa.table({"id": list(range(count)), "text": texts})


def make_job(hub: llmhub.Hub, **options: Any) -> distributed.DistributedJob:
    return distributed.job("{text}", model=MODEL, hub=hub, keep=["id"], **options)


def test_rows_are_those_of_one_process_under_one_limit_and_paid_once(engine: Engine, make_hub: Any) -> None:
    settings = Simulator(seed=7, latency=Latency(0.05), limit=SimLimit(rpm=6000, burst_s=2.5))
    with serving(settings) as simulator:
        hub = make_hub(simulator, limits={"openai": llmhub.Limit(rpm=6000)})
        job = make_job(hub)
        frame = engine.apply(rows(400, 300), job)
        done = engine.collect(frame)
        assert simulator.counts()["requests"] == 300  # one for each different prompt, none refused
        alone = llmhub.complete_table(rows(400, 300), "{text}", model=MODEL, hub=hub, progress=False).to_pydict()
        assert done["id"] == list(range(400))
        for name in ("response", "status", "model", "output_tokens", "finish_reason", "served_model"):
            assert done[name] == alone[name], name
        assert len(set(done["row"])) == 400
        assert sum(done["attempts"]) == 300
        # Every action evaluates the frame again, and the cache answers it.
        assert engine.count(frame) == 400
        assert engine.count(frame) == 400
        assert simulator.counts()["requests"] == 300
        assert job.progress().rows >= 400


def test_a_worker_that_dies_costs_what_it_had_on_the_wire(engine: Engine, make_hub: Any, tmp_path: Path) -> None:
    if engine.name == "daft":
        return  # its functions run in this process
    from failing_middleware import KillOnce  # type: ignore[import-not-found]  # noqa: PLC0415 - on the workers' path

    with serving(Simulator(seed=7, latency=Latency(0.05))) as simulator:
        hub = make_hub(simulator, middleware=(KillOnce(str(tmp_path / "killed"), "number 77"),))
        done = engine.collect(engine.apply(rows(200), make_job(hub)))
        assert (tmp_path / "killed").exists()
        assert done["id"] == list(range(200))
        assert set(done["status"]) == {"ok"}
        assert 200 <= simulator.counts()["requests"] <= 200 + CONCURRENCY


def test_a_frame_that_cannot_work_is_refused_before_anything_is_sent(engine: Engine, make_hub: Any) -> None:
    with serving(Simulator(seed=7)) as simulator:
        private = make_hub(simulator, cache=llmhub.MemoryCache())
        with pytest.raises(llmhub.BadRequestError, match="pay_again"):
            engine.apply(rows(4), make_job(private))
        missing = distributed.job("{nothing}", model=MODEL, hub=make_hub(simulator))
        with pytest.raises(llmhub.BadRequestError, match="nothing"):
            engine.apply(rows(4), missing)
        assert simulator.counts()["requests"] == 0


def test_a_frame_of_this_process_is_completed_by_an_engine(engine: Engine, make_hub: Any) -> None:
    if engine.name == "daft":
        return  # it has no workers of its own
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
        table = distributed.dask(engine.session, make_job(make_hub(simulator)), rows(9000))
        assert simulator.counts()["requests"] == 9000
        assert table.column("id").to_pylist() == list(range(9000))


def test_results_can_be_shuffled(engine: Engine, make_hub: Any) -> None:
    if engine.name != "dask":
        return
    with serving(Simulator(seed=7)) as simulator:
        frame = engine.apply(rows(40), make_job(make_hub(simulator))).shuffle(on="id", npartitions=3)
        assert engine.collect(frame)["id"] == list(range(40))
