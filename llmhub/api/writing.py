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

from llmhub.api.budgets import shared_wallet
from llmhub.api.frames import Asked, asked_of, tabled
from llmhub.core.errors import ConnectorError, InvalidRequest, InvalidRequestError
from llmhub.engine.loop import Stop, in_thread, run_here, run_sync

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.tables.sinks import Sink

Ask = Callable[[Any], Asked]
Shape = Callable[[Any, "pa.Table"], "pa.Table"]


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
    kept: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    cost_usd: Decimal = Decimal(0)
    stopped: bool = False
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is drawn from where, how it is asked, and where it goes.

    ``shape`` puts results into the form in which they are written; ``prefix`` stands before their names there.
    """

    blocks: Iterator[Any]
    ask: Ask
    path: Path
    shape: Shape
    prefix: str = ""


def complete_into(
    sink: str | Path, source: Any, prompt: Any, shape: Shape | None = None, *, prefix: str = "", **asked: Any
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
    return run_sync(partial(_written, _planned(sink, source, prompt, shape, prefix, asked)))


async def acomplete_into(sink: str | Path, source: Any, prompt: Any, **asked: Any) -> Written:
    """Ask every row of a source and write the results as they come, awaited (see `complete_into`)."""
    return await run_here(_written(_planned(sink, source, prompt, None, "", asked), Stop()))


def _planned(
    sink: str | Path, source: Any, prompt: Any, shape: Shape | None, prefix: str, asked: dict[str, Any]
) -> Plan:
    """See what is to be drawn from where, how it is asked, and where it goes."""
    from llmhub.tables import sources  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    from llmhub.tables.sinks import ROWS  # noqa: PLC0415 - as above

    model, hub = asked.pop("model"), asked.pop("hub", None)
    if asked.pop("n_jobs", 1) != 1:
        raise InvalidRequestError(InvalidRequest(path="n_jobs", message="a run with a sink is one process's; leave it"))
    if (limit := asked.get("budget_usd")) is not None:
        asked["budget_usd"] = shared_wallet(limit)  # all blocks together may spend it
    if asked.get("progress") is None:
        asked["progress"] = False

    def ask(block: Any) -> Asked:
        return asked_of(block, prompt, model, hub, dict(asked))

    return Plan(sources.blocks(source, ROWS), ask, Path(sink).expanduser(), shape or _bare, prefix)


def _bare(_block: Any, results: pa.Table) -> pa.Table:
    return results


async def _written(plan: Plan, stop: Stop) -> Written:
    from llmhub.tables.schema import RESULTS  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    from llmhub.tables.sinks import ROWS, open_sink  # noqa: PLC0415 - as above

    began, done, first = time.perf_counter(), Written(path=plan.path), 0
    counts: Counter[str] = Counter()
    # What is wrong with the question is said before anything is made.
    block = await in_thread(_next, plan)
    asked = await in_thread(plan.ask, block) if block is not None else None
    if block is not None:
        await in_thread(plan.shape, block[:0], RESULTS.empty_table())
    sink = await in_thread(open_sink, plan.path, plan.prefix)
    try:
        while block is not None and asked is not None and not stop.asked:
            done = await _block(plan, sink, stop, (first, block, asked), done, counts)
            first += ROWS
            block = await in_thread(_next, plan)
            asked = await in_thread(plan.ask, block) if block is not None else None
    finally:
        await asyncio.shield(in_thread(sink.close))
    return replace(done, statuses=dict(counts), stopped=stop.asked, took_s=time.perf_counter() - began)


def _next(plan: Plan) -> Any:
    return next(plan.blocks, None)


async def _block(
    plan: Plan, sink: Sink, stop: Stop, drawn: tuple[int, Any, Asked], done: Written, counts: Counter[str]
) -> Written:
    """Ask what is missing of a block, and write it."""
    first, block, asked = drawn
    kept, missing = await in_thread(_missing, plan, sink, drawn)
    if missing is not None:
        if not missing:
            return replace(done, kept=done.kept + len(block))
        block = block.iloc[missing] if hasattr(block, "iloc") else block.take(missing)
        asked = await in_thread(plan.ask, block)
    failed: ConnectorError | None = None
    try:
        results = await tabled(asked, asked.shown(stop), stop)
    except ConnectorError as error:
        if error.table is None:
            raise
        failed, results = error, error.table
    many, paid = await in_thread(_put, plan, sink, (first, block, missing), kept, results)
    counts.update(many)
    if failed is not None:
        raise failed
    whole = sum(many.values())
    there = 0 if missing is None else len(drawn[1]) - len(missing)
    return replace(done, rows=done.rows + whole, kept=done.kept + there, cost_usd=done.cost_usd + paid)


def _missing(plan: Plan, sink: Sink, drawn: tuple[int, Any, Asked]) -> tuple[pa.Table | None, list[int] | None]:
    """Find the rows of a block that are to be asked: all (``None``), or those without a good answer to the question."""
    first, block, asked = drawn
    kept = sink.kept(first, len(block))
    if kept is None or not len(kept):
        return None, None
    from llmhub.tables.sinks import in_rows  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    for _ in asked.questions.chunks():
        pass
    each = len(asked.questions) // len(block)
    places = [row - first for row in kept.column(f"{plan.prefix}row").to_pylist()]
    whole = {place for place, many in Counter(places).items() if many == each}
    kept = kept.filter([place in whole for place in places])
    keys = bytes(asked.questions.keys)
    size = len(keys) // len(asked.questions)
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
        raise InvalidRequestError(InvalidRequest(path="sink", message=said))
    return in_rows(kept, plan.prefix), [place for place in range(len(block)) if place not in whole]


def _put(
    plan: Plan, sink: Sink, placed: tuple[int, Any, list[int] | None], kept: pa.Table | None, results: pa.Table
) -> tuple[Counter[str], Decimal]:
    """Write the results of a block, each with the row of the whole that it answers."""
    import pyarrow as pa  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    from llmhub.tables.sinks import in_rows  # noqa: PLC0415 - as above

    first, block, missing = placed
    shaped = plan.shape(block, results)
    name = f"{plan.prefix}row"
    rows = results.column("row")
    if missing is not None:
        rows = pa.array(missing, pa.int64()).take(rows)
    at = shaped.schema.get_field_index(name)
    shaped = shaped.set_column(at, shaped.schema.field(at), pc.add(rows, first))
    if kept is not None and not sink.appends:
        parts = [kept.cast(shaped.schema), shaped]
        shaped = in_rows(pa.concat_tables(parts).unify_dictionaries(), plan.prefix)
    sink.write(first, shaped)
    paid = pc.sum(results.column("cost_usd")).as_py()
    return Counter(results.column("status").to_pylist()), paid if paid is not None else Decimal(0)
