"""A frame of this process, completed by the workers of an engine: planned here, paid there, put together here.

The rows are deduplicated and looked up in the cache first; only what is missing goes to the workers. Their results and
those of the cache become one table in the order of the rows, as `llmhub.complete_table` returns it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from llmhub.api.default_hub import current_hub
from llmhub.api.tables import build_table_run, complete_table
from llmhub.cache.store import KEY_BYTES, Store, StoreError
from llmhub.core.errors import invalid
from llmhub.distributed import adapters
from llmhub.distributed.distributed_job import DistributedJob, JobProgress, job
from llmhub.engine.progress import Progress
from llmhub.progress.display import create_display

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
    done = _show_progress(described, run, progress, lambda: _run(engine, sent, described)) if to_send else None
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


def _run(engine: Engine, rows: pa.Table, described: DistributedJob) -> pa.Table:
    """Return the results of the workers of an engine."""
    match engine:
        case "joblib":
            return adapters.joblib(rows, described)
        case "dask":
            return adapters.dask(_connected("distributed", "default_client", "dask"), described, rows)
        case "ray":
            data = adapters.engine_module("ray.data", "ray")
            dataset = data.from_arrow(rows).repartition(max(1, min(8, len(rows) // 256)))
            return _from_refs(adapters.ray(dataset, described).to_arrow_refs())
        case "spark":
            session = adapters.engine_module("pyspark.sql", "spark").SparkSession.getActiveSession()
            if session is None:
                raise invalid("engine", "there is no active Spark session; create one first")
            return adapters.spark(session.createDataFrame(rows), described).toArrow()


def _connected(module: str, name: str, extra: str) -> Any:
    try:
        return getattr(adapters.engine_module(module, extra), name)()
    except ValueError as error:
        raise invalid("engine", f"{extra} is not connected: {error}") from error


def _from_refs(refs: Any) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    return pa.concat_tables(adapters.engine_module("ray", "ray").get(refs))


def _show_progress(described: DistributedJob, run: TableRun, progress: Any, work: Callable[[], pa.Table]) -> pa.Table:
    """Run the work of an engine while the progress of all workers is shown; interrupts stop the workers."""
    initial = run.initial_progress
    display = None if progress is False else create_display(progress, initial)
    ended, began = threading.Event(), time.monotonic()

    def report() -> None:
        while not ended.wait(PANEL_INTERVAL_S):
            try:
                state = described.progress()
            except StoreError:
                continue
            if display is not None:
                display.report(_as_progress(initial, state, time.monotonic() - began))

    reporter = threading.Thread(target=report, name="llmhub-panel", daemon=True)
    reporter.start()
    try:
        return work()
    except KeyboardInterrupt:
        described.stop()
        raise
    finally:
        ended.set()
        reporter.join()
        if display is not None:
            display.close()


def _as_progress(initial: Progress, state: JobProgress, elapsed_s: float) -> Progress:
    rate = state.rows / elapsed_s if elapsed_s else 0.0
    return replace(
        initial,
        done=state.rows,
        failed=state.failed,
        cached=state.cached,
        elapsed_s=elapsed_s,
        rows_per_s=rate,
        remaining_s=(initial.total - state.rows) / rate if rate else None,
        limited_by="rate limit" if state.rate_wait_s > elapsed_s else "",
        stopping=state.stopping,
    )
