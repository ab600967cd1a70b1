"""A frame of this process, completed by the workers of an engine: planned here, paid there, put together here.

The rows are deduplicated and looked up in the cache first; only what is missing goes to the workers. Their results and
those of the cache become one table in the order of the rows, as `llmhub.complete_table` returns it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from llmhub.api.default_hub import current_hub
from llmhub.api.tables import build_table_run, complete_table
from llmhub.cache.store import KEY_BYTES, Store, StoreError
from llmhub.core.errors import invalid
from llmhub.distributed import adapters
from llmhub.distributed.distributed_job import DistributedJob, JobModelProgress, JobProgress, job
from llmhub.engine.event_loop import StopSignal, wait_interruptibly
from llmhub.engine.progress import ModelProgress, Progress
from llmhub.progress.display import ProgressDisplay, create_display

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.api.tables import TableRun

Engine: TypeAlias = Literal["ray", "spark", "dask", "joblib"]
ENGINES: Final = get_args(Engine)
POSITION: Final = "__llmhub_row__"
"""Column with the position of each row, which workers keep."""
PANEL_INTERVAL_S: Final = 1.0
"""Time between two updates of the progress display."""


def complete_on(
    engine: Engine, frame: Any, prompt: Any = None, *, model: Any, hub: Any = None, **options: Any
) -> pa.Table:
    """Send a prompt for every row of a frame from the workers of an engine, and return one Arrow table of results.

    Parameters
    ----------
    engine
        ``"ray"`` (the cluster that ``ray.init`` connected to), ``"spark"`` (the active session), ``"dask"`` (the
        default client) or ``"joblib"``.
    frame, prompt, model, hub, **options
        See `llmhub.complete_table`. The cache must be one that all workers reach (see `llmhub.distributed.job`).

    Raises
    ------
    BadRequestError
        As in `llmhub.complete_table`; the engine is unknown or not connected; or workers do not share the cache.

    Notes
    -----
    As in one process, the first interrupt (Ctrl-C) lets all workers finish what they have sent, and the table is
    returned with the other rows as cancelled. Spark cancels its own tasks at an interrupt, which is raised; what was
    answered until then is in the cache.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    from llmhub.tables import frames, streaming_io  # noqa: PLC0415 - imports Arrow

    if engine not in ENGINES:
        raise invalid("engine", f"{engine!r} is not one of {', '.join(ENGINES)}")
    hub = hub or current_hub()
    progress, on_error = options.pop("progress", None), options.pop("on_error", "row")
    if on_error != "row":
        raise invalid("on_error", "'raise' is for runs in one process; look at the column error_type")
    run = build_table_run(frame, prompt, model, hub, {**options, "progress": progress})
    table = frames.to_table(frame)
    described = job(prompt, model=model, hub=hub, keep=[POSITION], **options)
    to_send, duplicates = _rows_to_send(run, len(table))
    sent = table.take(pa.array(to_send, pa.int64())).append_column(POSITION, pa.array(to_send, pa.int64()))
    if to_send:
        work = _prepare(engine, sent, described)
        display = None if progress is False else create_display(progress, run.initial_progress)
        done = _Panel(described, run.initial_progress, len(table), len(to_send), display).run(work)
    else:
        done = None
    # What workers have paid for is in the cache now; what failed there is not sent again.
    cached = {**options, "cache": "read-only", "budget_usd": 0.0, "allow_unpriced": True, "progress": False}
    whole = complete_table(frame, prompt, model=model, hub=hub, **cached)
    return whole if done is None else streaming_io.replace_rows(whole, done, POSITION, duplicates)


def _rows_to_send(run: TableRun, rows: int) -> tuple[list[int], dict[int, int]]:
    """Return the first of all rows with equal requests, unless the cache has their responses; and the other rows."""
    batch = run.batch
    for _ in batch.iter_chunks():  # compiles the prompts, which computes the request keys
        pass
    keys = bytes(batch.keys)
    size = len(keys) // max(rows, 1)
    first: dict[bytes, int] = {}
    duplicates: dict[int, int] = {}
    for row in range(rows):
        if not batch.skipped[row]:
            original = first.setdefault(keys[row * size : (row + 1) * size], row)
            if original != row:
                duplicates[row] = original
    store = run.hub.runtime.store
    if store is not None:
        with suppress(StoreError):
            return [row for key, row in first.items() if not _is_stored(store, key)], duplicates
    return list(first.values()), duplicates


def _is_stored(store: Store, keys: bytes) -> bool:
    split = [keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)]
    return len(store.get_many(split)) == len(set(split))


def _prepare(engine: Engine, rows: pa.Table, described: DistributedJob) -> Callable[[], pa.Table]:
    """Return a function that returns the results of the workers of an engine, and may be called in any thread."""
    match engine:
        case "joblib":
            import joblib  # noqa: PLC0415 - a third of a second

            # The configured backend is one of this thread. One job is the default of joblib, not of this engine.
            backend, n_jobs = joblib.parallel.get_active_backend()
            return partial(_run_joblib, rows, described, backend, -1 if n_jobs in (None, 1) else n_jobs)
        case "dask":
            client = _connected("distributed", "default_client", "dask")
            return lambda: adapters.dask(client, described, rows)
        case "ray":
            data = adapters.engine_module("ray.data", "ray")
            dataset = data.from_arrow(rows).repartition(max(1, min(8, len(rows) // 256)))
            results = adapters.ray(dataset, described)
            return lambda: _from_refs(results.to_arrow_refs())
        case "spark":
            session = adapters.engine_module("pyspark.sql", "spark").SparkSession.getActiveSession()
            if session is None:
                raise invalid("engine", "there is no active Spark session; create one first")
            frame = adapters.spark(session.createDataFrame(rows), described)
            return frame.toArrow  # type: ignore[no-any-return]


def _run_joblib(rows: pa.Table, described: DistributedJob, backend: Any, n_jobs: int) -> pa.Table:
    import joblib  # noqa: PLC0415 - a third of a second

    with joblib.parallel_config(backend=backend):
        return adapters.joblib(rows, described, n_jobs=n_jobs)


def _connected(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(adapters.engine_module(module, extra), name)()
    except ValueError as error:
        raise invalid("engine", f"{extra} is not connected: {error}") from error


def _from_refs(refs: Any) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    return pa.concat_tables(adapters.engine_module("ray", "ray").get(refs))


@dataclass(slots=True)
class _Panel:
    """Shows the progress of all workers while an engine works, and passes interrupts on to them.

    Parameters
    ----------
    job
        The job.
    initial
        The progress before it is started.
    rows, sent
        Rows of the frame, and those that are sent: the others are duplicates, or in the cache.
    display
        Where to show the progress, if anywhere.
    """

    job: DistributedJob
    initial: Progress
    rows: int
    sent: int
    display: ProgressDisplay | None
    began: float = field(default_factory=time.monotonic)

    def run(self, work: Callable[[], pa.Table]) -> pa.Table:
        """Return the results of the engine."""
        stop, changed, ended = StopSignal(), threading.Event(), threading.Event()
        remove_listener = stop.add_listener(changed.set)
        reporter = threading.Thread(target=self._report, args=(stop, changed, ended), name="llmhub-panel", daemon=True)
        reporter.start()
        finished = False
        try:
            # In a thread, so that an interrupt does not end the engine's own wait.
            results = wait_interruptibly(partial(_in_thread, work), stop)
            finished = True
        except Exception as error:
            if stop.requested:
                raise KeyboardInterrupt from error
            raise
        finally:
            remove_listener()
            ended.set()
            changed.set()
            reporter.join()
            self._finish(finished=finished)
        return results

    def _finish(self, *, finished: bool) -> None:
        """Show the last state; a budget of the hub learns from it what the workers have spent."""
        if self.display is None and self.job.hub.budget_usd is None:
            return
        with suppress(StoreError):
            state = self.job.progress()
            if self.display is not None:
                self.display.report(self._progress(state, finished=finished))
        if self.display is not None:
            self.display.close()

    def _report(self, stop: StopSignal, changed: threading.Event, ended: threading.Event) -> None:
        """Show the state of the workers every second, and stop them if the run is to stop."""
        told = False
        while not ended.is_set():
            changed.wait(PANEL_INTERVAL_S)
            changed.clear()
            with suppress(StoreError):
                if stop.requested and not told:
                    self.job.stop()
                    told = True
                if self.display is not None and not ended.is_set():
                    self.display.report(self._progress(self.job.progress()))

    def _progress(self, state: JobProgress, *, finished: bool = False) -> Progress:
        """Return the progress of the whole frame."""
        elapsed_s = time.monotonic() - self.began
        models = tuple([self._model_progress(model, state) for model in self.initial.models])
        done = sum(model.done for model in models)
        rate = state.rows / elapsed_s if elapsed_s else 0.0
        return replace(
            self.initial,
            done=done,
            failed=sum(model.failed for model in models),
            cached=sum(model.cached for model in models),
            elapsed_s=elapsed_s,
            rows_per_s=rate,
            remaining_s=(self.initial.total - done) / rate if rate and not finished else None,
            limited_by="rate limit" if state.rate_wait_s > elapsed_s and not finished else "",
            stopping=state.stopping and not finished,
            finished=finished,
            models=models,
        )

    def _model_progress(self, model: ModelProgress, state: JobProgress) -> ModelProgress:
        totals = state.models.get(model.model, JobModelProgress())
        not_sent = (self.rows - self.sent) * model.total // max(self.rows, 1)
        called = totals.rows - totals.cached
        return replace(
            model,
            done=min(totals.rows + not_sent, model.total),
            cached=totals.cached + not_sent,
            failed=totals.failed,
            input_tokens=totals.input_tokens,
            output_tokens=totals.output_tokens,
            spent_usd=totals.cost_usd if called or not totals.rows else None,
            forecast_usd=totals.cost_usd / totals.rows * (model.total - not_sent) if called else None,
        )


def _in_thread(work: Callable[[], pa.Table]) -> Future[pa.Table]:
    """Start a function in a thread that does not keep the interpreter from ending."""
    future: Future[pa.Table] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="llmhub-engine", daemon=True).start()
    return future
