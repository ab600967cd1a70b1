"""Runs larger than memory: rows are read in blocks, and results are written block by block.

A block is 4096 input rows. Blocks that the sink already holds are skipped if their request keys match, so the same call
continues a stopped run; a sink with results of other requests is an error.

Where no cache stores responses, a journal beside the sink does, until their block is written: a hidden SQLite file that
is removed at the end. A process that is killed loses what it has received in the last milliseconds, not a whole block.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from llmhub.api.options import as_shared_budget
from llmhub.api.raising import keep_table
from llmhub.api.tables import TableRun, build_table_run, run_table
from llmhub.cache.modes import resolve_mode
from llmhub.cache.sqlite import FILE_SUFFIXES, DiskCache
from llmhub.cache.store import KEY_BYTES, Cache, Store, StoreError, reach_of
from llmhub.core.errors import BadRequestError, invalid
from llmhub.engine.event_loop import StopSignal, run_in_background, run_in_thread, run_sync

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.tables.streaming_io import Sink

BuildRun: TypeAlias = Callable[[Any], TableRun]
ShapeBlock: TypeAlias = Callable[[Any, "pa.Table"], "pa.Table"]
"""A function from the input rows of a block and their results to the table that is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Summary of a run that wrote its results to a sink.

    Parameters
    ----------
    path
        The folder of Parquet files, or the Arrow stream; the URL of a folder in an object store.
    rows
        Number of result rows written by this run.
    reused_rows
        Number of input rows whose results were in the sink already.
    statuses
        Number of result rows by status.
    cost_usd
        Amount billed for this run in US dollars, as far as prices are known.
    stopped
        Whether the run was stopped before its end; the same call continues it.
    elapsed_s
        Duration of the run in seconds.
    """

    path: Path | str
    rows: int = 0
    reused_rows: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    cost_usd: Decimal = Decimal(0)
    stopped: bool = False
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SinkPlan:
    """Where blocks come from, how a run is built for one, and where and in which form its results are written.

    ``prefix`` precedes the names of the result columns in the output of ``shape``.
    """

    blocks: Iterator[Any]
    build_run: BuildRun
    path: Path | str
    shape: ShapeBlock
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class _Block:
    """Input rows, the position of the first one in the whole input, and the run that was built for them."""

    first: int
    rows: Any
    run: TableRun


def complete_to_sink(
    sink: str | Path, source: Any, prompt: Any, shape: ShapeBlock | None = None, *, prefix: str = "", **options: Any
) -> Written:
    """Send a prompt for every row of a source, and write results as they arrive (see `llmhub.complete_table`).

    Parameters
    ----------
    sink
        A folder for Parquet files of 4096 input rows each, named by their first row, which may be the URL of a folder
        in an object store (``s3://``, ``gs://``, ``abfs://``); or a file name that ends in
        ``.arrows`` for an Arrow stream. Both are in input order, except that rows which are sent again by a continued
        run are appended to a stream.
    source
        A frame, a path, a URL, a pattern such as ``data/*.parquet``, a folder of Parquet files, a dataset, a
        ``RecordBatchReader`` or an iterable of batches.
    prompt, **options
        See `llmhub.complete_table`.
    shape
        Builds the table to write from a block's rows and results; only the results if omitted.
    prefix
        Precedes the names of the result columns in the output of ``shape``.
    """
    return run_sync(partial(_write_all, _plan_sink(sink, source, prompt, shape, prefix, options)), drain=True)


async def acomplete_to_sink(sink: str | Path, source: Any, prompt: Any, **options: Any) -> Written:
    """Send a prompt for every row of a source, and write results as they arrive, awaited (see `complete_to_sink`)."""
    stop = StopSignal()
    return await run_in_background(_write_all(_plan_sink(sink, source, prompt, None, "", options), stop), stop)


def _plan_sink(
    sink: str | Path, source: Any, prompt: Any, shape: ShapeBlock | None, prefix: str, options: dict[str, Any]
) -> SinkPlan:
    from llmhub.tables import locations, streaming_io  # noqa: PLC0415 - imports Arrow

    model, hub = options.pop("model"), options.pop("hub", None)
    if options.pop("n_jobs", 1) != 1:
        raise invalid("n_jobs", "cannot be combined with sink=, which is written by one process; omit it")
    if (budget_usd := options.get("budget_usd")) is not None:
        options["budget_usd"] = as_shared_budget(budget_usd)  # for all blocks together
    if options.get("progress") is None:
        options["progress"] = False

    def build_run(block: Any) -> TableRun:
        return build_table_run(block, prompt, model, hub, dict(options))

    blocks = streaming_io.iter_blocks(source, streaming_io.BLOCK_ROWS)
    location = locations.parse_location(str(sink))
    path = location if locations.is_url(location) else Path(sink).expanduser()
    return SinkPlan(blocks, build_run, path, shape or _results_only, prefix)


def _results_only(_block: Any, results: pa.Table) -> pa.Table:
    return results


async def _write_all(plan: SinkPlan, stop: StopSignal) -> Written:
    """Complete and write block after block."""
    from llmhub.tables.locations import redact_location  # noqa: PLC0415 - imports Arrow
    from llmhub.tables.schema import RESULTS  # noqa: PLC0415 - imports Arrow
    from llmhub.tables.streaming_io import BLOCK_ROWS, open_sink  # noqa: PLC0415 - imports Arrow

    shown = redact_location(plan.path) if isinstance(plan.path, str) else plan.path
    start, written = time.perf_counter(), Written(path=shown)
    statuses: Counter[str] = Counter()
    # The first block is built before the sink is opened, so that a wrong argument leaves no empty sink behind.
    block = await run_in_thread(_next_block, plan, 0)
    if block is not None:
        await run_in_thread(plan.shape, block.rows[:0], RESULTS.empty_table())
    sink = await run_in_thread(open_sink, plan.path, plan.prefix)
    try:
        journal = None if block is None else await run_in_thread(_open_journal, sink.journal_path, block.run)
        try:
            while block is not None and not stop.requested:
                written = await _write_block(plan, sink, stop, (block, journal), written, statuses)
                block = await run_in_thread(_next_block, plan, block.first + BLOCK_ROWS)
        finally:
            if journal is not None:
                await asyncio.shield(run_in_thread(_close_journal, sink.journal_path, journal))
    finally:
        await asyncio.shield(run_in_thread(sink.close))
    return replace(written, statuses=dict(statuses), stopped=stop.requested, elapsed_s=time.perf_counter() - start)


def _open_journal(path: Path, run: TableRun) -> Store | None:
    """Open the journal, unless a cache that survives this process stores the responses of the run."""
    from llmhub.tables.streaming_io import BLOCK_ROWS  # noqa: PLC0415 - imports Arrow

    mode = resolve_mode(run.options.cache, run.hub.runtime.cache_mode)
    if reach_of(cast("Cache | None", run.hub.cache)) != "process" and (mode.reads or mode.writes):
        return None
    try:
        # Without claims and ledger, which are of a cache that processes share.
        return replace(DiskCache(path).open(), claims=None, ledger=None)
    except (StoreError, BadRequestError) as error:
        message = (
            f"results are written in blocks of {BLOCK_ROWS} rows, and responses of a block are kept in memory only "
            f"until then, because the file beside the sink cannot be used: {error}; pass Hub(cache=...) to keep them"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None


def _clear_journal(journal: Store, run: TableRun) -> None:
    """Delete the responses of a block that is written."""
    keys = bytes(run.batch.keys)
    with suppress(StoreError):
        if run.options.tool_loop is None:
            journal.delete([keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)])
        else:  # later turns have keys of their own; all responses are of this block
            journal.delete([entry.key for entry in journal.scan()])


def _close_journal(path: Path, journal: Store) -> None:
    """Close the journal, and remove its files if it is empty."""
    with suppress(StoreError, OSError):
        is_empty = not journal.stats().entries
        journal.close()
        if is_empty:
            for suffix in FILE_SUFFIXES:
                path.with_name(path.name + suffix).unlink(missing_ok=True)


def _next_block(plan: SinkPlan, first: int) -> _Block | None:
    rows = next(plan.blocks, None)
    return None if rows is None else _Block(first, rows, plan.build_run(rows))


async def _write_block(
    plan: SinkPlan,
    sink: Sink,
    stop: StopSignal,
    journaled: tuple[_Block, Store | None],
    written: Written,
    statuses: Counter[str],
) -> Written:
    """Complete the rows of a block that the sink lacks, write them, and return the updated summary."""
    block, journal = journaled
    finished, missing = await run_in_thread(_find_missing, plan, sink, block)
    rows, run = block.rows, block.run
    if missing is not None:
        if not missing:
            return replace(written, reused_rows=written.reused_rows + len(rows))
        rows = rows.iloc[missing] if hasattr(rows, "iloc") else rows.take(missing)
        run = await run_in_thread(plan.build_run, rows)
    run = replace(run, journal=journal)
    error: BaseException | None = None
    results: Any = None
    try:
        results = await run_table(run, run.start_display(stop), stop)
    except BaseException as raised:
        error, results = raised, getattr(raised, "table", None)
        if results is None:
            raise
    with keep_table(results):
        await run_in_thread(_write_results, plan, sink, replace(block, rows=rows), (finished, missing), results)
        if journal is not None:
            await run_in_thread(_clear_journal, journal, run)
        statuses.update(results.column("status").to_pylist())
        if error is not None:
            raise error
        reused = 0 if missing is None else len(block.rows) - len(missing)
        return replace(
            written,
            rows=written.rows + len(results),
            reused_rows=written.reused_rows + reused,
            cost_usd=written.cost_usd + _billed_usd(results),
        )


def _billed_usd(results: pa.Table) -> Decimal:
    import pyarrow.compute as pc  # noqa: PLC0415 - imports Arrow

    total: Decimal | None = pc.sum(results.column("cost_usd")).as_py()
    return total if total is not None else Decimal(0)


def _find_missing(plan: SinkPlan, sink: Sink, block: _Block) -> tuple[pa.Table | None, list[int] | None]:
    """Return the finished results of a block in the sink, and the positions of its other rows (``None`` for all).

    Raises
    ------
    BadRequestError
        The sink has results of other requests.
    """
    from llmhub.tables.locations import redact_location  # noqa: PLC0415 - imports Arrow
    from llmhub.tables.streaming_io import sort_by_row  # noqa: PLC0415 - imports Arrow

    finished = sink.read_finished(block.first, len(block.rows))
    if finished is None or not len(finished):
        return None, None
    batch = block.run.batch
    for _ in batch.iter_chunks():  # compiles the prompts, which computes the request keys
        pass
    results_per_row = len(batch) // len(block.rows)
    positions = [row - block.first for row in finished.column(f"{plan.prefix}row").to_pylist()]
    complete = {position for position, count in Counter(positions).items() if count == results_per_row}
    finished = finished.filter([position in complete for position in positions])
    if not _has_same_keys(plan, block, finished, complete):
        message = f"{str(plan.path)!r} has results of other requests; pass another path, or move it away"
        raise invalid("sink", redact_location(message))
    missing = [position for position in range(len(block.rows)) if position not in complete]
    return sort_by_row(finished, plan.prefix), missing


def _has_same_keys(plan: SinkPlan, block: _Block, finished: pa.Table, complete: set[int]) -> bool:
    """Return whether the request keys of finished rows are those of the block."""
    batch = block.run.batch
    keys = bytes(batch.keys)
    key_size, row_size = len(keys) // len(batch), len(keys) // len(block.rows)
    found: dict[int, bytes] = {}
    rows = finished.column(f"{plan.prefix}row").to_pylist()
    for row, key in zip(rows, finished.column(f"{plan.prefix}request_key").to_pylist(), strict=True):
        position = row - block.first
        found[position] = found.get(position, b"") + (key if key is not None else bytes(key_size))
    return all(
        position < len(block.rows) and found[position] == keys[position * row_size : (position + 1) * row_size]
        for position in complete
    )


def _write_results(
    plan: SinkPlan,
    sink: Sink,
    block: _Block,
    known: tuple[pa.Table | None, list[int] | None],
    results: pa.Table,
) -> None:
    """Write the results of ``block.rows``, with row numbers of the whole input; ``known`` is from `_find_missing`."""
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow
    import pyarrow.compute as pc  # noqa: PLC0415 - imports Arrow

    from llmhub.tables.streaming_io import sort_by_row  # noqa: PLC0415 - imports Arrow

    finished, missing = known
    shaped, rows = plan.shape(block.rows, results), results.column("row")
    if missing is not None:
        rows = pa.array(missing, pa.int64()).take(rows)
    index = shaped.schema.get_field_index(f"{plan.prefix}row")
    shaped = shaped.set_column(index, shaped.schema.field(index), pc.add(rows, block.first))
    if finished is not None and not sink.append_only:
        merged = pa.concat_tables([finished.cast(shaped.schema), shaped]).unify_dictionaries()
        shaped = sort_by_row(merged, plan.prefix)
    sink.write(block.first, shaped)
