"""Runs larger than memory: rows are drawn a block at a time, results written as they come."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmhub.api.options import as_shared_budget
from llmhub.api.tables import TableRun, build_table_run, run_table
from llmhub.core.errors import BadRequestError, ConnectorError, InvalidRequest
from llmhub.engine.event_loop import StopSignal, run_in_background, run_in_thread, run_sync

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.tables.streaming_io import Sink


BuildRun = Callable[[Any], TableRun]


ShapeBlock = Callable[[Any, "pa.Table"], "pa.Table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run wrote.

    Parameters
    ----------
    path
        The folder of parts, or the stream.
    rows
        Result rows of this run.
    kept
        Input rows whose answers were there already.
    statuses
        Result rows by status.
    cost_usd
        What this run paid, as far as prices are known.
    stopped
        Whether it was stopped: the same call goes on from there.
    took_s
        How long it took.
    """

    path: Path
    rows: int = 0
    reused_rows: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    cost_usd: Decimal = Decimal(0)
    stopped: bool = False
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SinkPlan:
    """What is drawn from where, how it is asked, and where it goes.

    ``shape`` puts results into the form in which they are written; ``prefix`` stands before their names there.
    """

    blocks: Iterator[Any]
    build_run: BuildRun
    path: Path
    shape: ShapeBlock
    prefix: str = ""


def complete_to_sink(
    sink: str | Path, source: Any, prompt: Any, shape: ShapeBlock | None = None, *, prefix: str = "", **asked: Any
) -> Written:
    """Ask every row of a source and write the results as they come (see `llmhub.complete_table` with ``sink``).

    Parameters
    ----------
    sink
        A folder, for Parquet parts of 4096 input rows each, named by their first row; or a file that ends with
        ``.arrows``, for an Arrow stream. Both are in input order; what is asked again after a stop stands at the end of
        a stream.
    source
        A frame, or what gives one piece by piece: a path, a dataset, a ``RecordBatchReader``, an iterable of batches.
    shape
        Puts a block's rows and results into the form in which they are written.
    **asked
        As for `complete_table`.
    """
    return run_sync(partial(_write_all, _plan_sink(sink, source, prompt, shape, prefix, asked)))


async def acomplete_to_sink(sink: str | Path, source: Any, prompt: Any, **asked: Any) -> Written:
    """Ask every row of a source and write the results as they come, awaited (see `complete_to_sink`)."""
    return await run_in_background(_write_all(_plan_sink(sink, source, prompt, None, "", asked), StopSignal()))


def _plan_sink(
    sink: str | Path, source: Any, prompt: Any, shape: ShapeBlock | None, prefix: str, asked: dict[str, Any]
) -> SinkPlan:
    """See what is to be drawn from where, how it is asked, and where it goes."""
    from llmhub.tables import streaming_io  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    from llmhub.tables.streaming_io import BLOCK_ROWS  # noqa: PLC0415 - as above

    model, hub = asked.pop("model"), asked.pop("hub", None)
    if asked.pop("n_jobs", 1) != 1:
        raise BadRequestError(InvalidRequest(path="n_jobs", message="a run with a sink is one process's; leave it"))
    if (limit := asked.get("budget_usd")) is not None:
        asked["budget_usd"] = as_shared_budget(limit)  # all blocks together may spend it
    if asked.get("progress") is None:
        asked["progress"] = False

    def ask(block: Any) -> TableRun:
        return build_table_run(block, prompt, model, hub, dict(asked))

    return SinkPlan(
        streaming_io.iter_blocks(source, BLOCK_ROWS), ask, Path(sink).expanduser(), shape or _results_only, prefix
    )


def _results_only(_block: Any, results: pa.Table) -> pa.Table:
    return results


async def _write_all(plan: SinkPlan, stop: StopSignal) -> Written:
    from llmhub.tables.schema import RESULTS  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    from llmhub.tables.streaming_io import BLOCK_ROWS, open_sink  # noqa: PLC0415 - as above

    began, done, first = time.perf_counter(), Written(path=plan.path), 0
    counts: Counter[str] = Counter()
    # What is wrong with the question is said before anything is made.
    block = await run_in_thread(_next_block, plan)
    asked = await run_in_thread(plan.build_run, block) if block is not None else None
    if block is not None:
        await run_in_thread(plan.shape, block[:0], RESULTS.empty_table())
    sink = await run_in_thread(open_sink, plan.path, plan.prefix)
    try:
        while block is not None and asked is not None and not stop.requested:
            done = await _write_block(plan, sink, stop, (first, block, asked), done, counts)
            first += BLOCK_ROWS
            block = await run_in_thread(_next_block, plan)
            asked = await run_in_thread(plan.build_run, block) if block is not None else None
    finally:
        await asyncio.shield(run_in_thread(sink.close))
    return replace(done, statuses=dict(counts), stopped=stop.requested, elapsed_s=time.perf_counter() - began)


def _next_block(plan: SinkPlan) -> Any:
    return next(plan.blocks, None)


async def _write_block(
    plan: SinkPlan, sink: Sink, stop: StopSignal, drawn: tuple[int, Any, TableRun], done: Written, counts: Counter[str]
) -> Written:
    """Ask what is missing of a block, and write it."""
    first, block, asked = drawn
    kept, missing = await run_in_thread(_find_missing, plan, sink, drawn)
    if missing is not None:
        if not missing:
            return replace(done, reused_rows=done.reused_rows + len(block))
        block = block.iloc[missing] if hasattr(block, "iloc") else block.take(missing)
        asked = await run_in_thread(plan.build_run, block)
    failed: ConnectorError | None = None
    try:
        results = await run_table(asked, asked.start_display(stop), stop)
    except ConnectorError as error:
        if error.table is None:
            raise
        failed, results = error, error.table
    many, paid = await run_in_thread(_write_results, plan, sink, (first, block, missing), kept, results)
    counts.update(many)
    if failed is not None:
        raise failed
    whole = sum(many.values())
    there = 0 if missing is None else len(drawn[1]) - len(missing)
    return replace(done, rows=done.rows + whole, reused_rows=done.reused_rows + there, cost_usd=done.cost_usd + paid)


def _find_missing(
    plan: SinkPlan, sink: Sink, drawn: tuple[int, Any, TableRun]
) -> tuple[pa.Table | None, list[int] | None]:
    """Find the rows of a block that are to be asked: all (``None``), or those without a good answer to the question."""
    first, block, asked = drawn
    kept = sink.read_finished(first, len(block))
    if kept is None or not len(kept):
        return None, None
    from llmhub.tables.streaming_io import sort_by_row  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    for _ in asked.batch.iter_chunks():
        pass
    each = len(asked.batch) // len(block)
    places = [row - first for row in kept.column(f"{plan.prefix}row").to_pylist()]
    whole = {place for place, many in Counter(places).items() if many == each}
    kept = kept.filter([place in whole for place in places])
    keys = bytes(asked.batch.keys)
    size = len(keys) // len(asked.batch)
    asks_of = {place: keys[place * each * size : (place + 1) * each * size] for place in whole}
    found: dict[int, bytes] = {}
    for row, key in zip(
        kept.column(f"{plan.prefix}row").to_pylist(),
        kept.column(f"{plan.prefix}request_key").to_pylist(),
        strict=True,
    ):
        found[row - first] = found.get(row - first, b"") + (key if key is not None else bytes(size))
    if any(place >= len(block) or found[place] != asks_of[place] for place in whole):
        said = f"{str(plan.path)!r} holds answers to other questions than these; give another place, or move it away"
        raise BadRequestError(InvalidRequest(path="sink", message=said))
    return sort_by_row(kept, plan.prefix), [place for place in range(len(block)) if place not in whole]


def _write_results(
    plan: SinkPlan, sink: Sink, placed: tuple[int, Any, list[int] | None], kept: pa.Table | None, results: pa.Table
) -> tuple[Counter[str], Decimal]:
    """Write the results of a block, each with the row of the whole that it answers."""
    import pyarrow as pa  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    from llmhub.tables.streaming_io import sort_by_row  # noqa: PLC0415 - as above

    first, block, missing = placed
    shaped = plan.shape(block, results)
    name = f"{plan.prefix}row"
    rows = results.column("row")
    if missing is not None:
        rows = pa.array(missing, pa.int64()).take(rows)
    at = shaped.schema.get_field_index(name)
    shaped = shaped.set_column(at, shaped.schema.field(at), pc.add(rows, first))
    if kept is not None and not sink.append_only:
        parts = [kept.cast(shaped.schema), shaped]
        shaped = sort_by_row(pa.concat_tables(parts).unify_dictionaries(), plan.prefix)
    sink.write(first, shaped)
    paid = pc.sum(results.column("cost_usd")).as_py()
    return Counter(results.column("status").to_pylist()), paid if paid is not None else Decimal(0)
