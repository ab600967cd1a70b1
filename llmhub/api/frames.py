"""Frames: every row asked of every model, in one table, in batches, or from several processes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from returns.pipeline import is_successful

from llmhub.api.budgets import purse_of, shared_wallet, split
from llmhub.api.hubs import current_hub
from llmhub.api.options import (
    Asking,
    Models,
    RowOptions,
    RunOptions,
    TableOptions,
    expect,
    expect_rows,
    expect_store,
    parted,
    warn_of,
    warn_of_store,
)
from llmhub.cache.store import StoreError
from llmhub.core.errors import ConnectorError, InvalidRequest, InvalidRequestError
from llmhub.core.provider import prepare
from llmhub.core.splice import asking
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Target
from llmhub.engine.loop import Stop, run_here, run_sync
from llmhub.engine.run import Ran, Told
from llmhub.engine.tally import Now, Tally, Watch
from llmhub.hub import Hub
from llmhub.observe.progress import Shown, shown

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from llmhub.tables.plan import Plan
    from llmhub.tables.prompts import Questions


def complete_table(
    frame: Any, prompt: Asking | None = None, *, model: Models, hub: Hub | None = None, **options: Unpack[TableOptions]
) -> pa.Table:
    """Ask every row of a frame, of every model, and give one Arrow table.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or anything with ``__arrow_c_stream__``.
    prompt
        A template over its columns, ``"Summarise: {text}"``, or a function of a row that gives a text, a conversation
        or ``None``. A row with a missing value in a column that is used is skipped.
    model
        ``provider/model``, or several.
    hub
        Who can be asked; the default hub unless given.
    **options
        Parameters of the answer as in `complete`, and: ``system``, a template or function for the system turn;
        ``messages``, a column of ready conversations, before the prompt if there is one; ``images``, a column of
        pictures (URL, path, bytes, PIL image, or a list of them) that the prompt is about; ``n``, answers a row;
        ``concurrency``, calls under way at once; ``progress``, whether to show it, or a function that is told;
        ``on_error``, ``"row"`` to say so in the row or ``"raise"`` to raise when all is done; ``stream``, to measure
        the time to the first token; ``n_jobs``, processes to spread the work over (see `complete_parallel`);
        ``budget_usd``, what the run may cost: rows that could exceed it are not sent, and say ``budget``.

    Returns
    -------
    pyarrow.Table
        ``rows x models x n`` rows with the schema `llmhub.tables.schema.RESULTS`, in input order.

    Raises
    ------
    InvalidRequestError
        Before anything is sent: a field that is no column, a model without a provider, a parameter out of range.
        A cell that cannot be asked, such as a picture that is not there, fails in its own row.
    ConnectorError
        With ``on_error="raise"``, the first row's failure; the exception's ``table`` holds all rows.
    """
    if options.get("n_jobs", 1) != 1:
        return complete_parallel(frame, prompt, model=model, hub=hub, **options)
    options.pop("n_jobs", None)
    asked = asked_of(frame, prompt, model, hub, dict(options))
    return run_sync(partial(_table, asked, asked.shown()))


async def acomplete_table(
    frame: Any, prompt: Asking | None = None, *, model: Models, hub: Hub | None = None, **options: Unpack[TableOptions]
) -> pa.Table:
    """Ask every row of a frame, awaited (see `complete_table`)."""
    asked, stop = asked_of(frame, prompt, model, hub, dict(options)), Stop()
    return await run_here(_table(asked, asked.shown(stop), stop))


def complete_series(
    values: pd.Series, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[RowOptions]
) -> pa.Table:
    """Ask every value of a pandas Series: in the place of ``{}``, or after the prompt and an empty line."""
    from llmhub.tables import prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    request, run_options = parted(dict(options))
    if run_options.n != 1 or not isinstance(model, str):
        raise InvalidRequestError(
            InvalidRequest(
                path="model" if run_options.n == 1 else "n",
                message="a Series takes one answer a value; use a DataFrame",
            )
        )
    questions = prompts.of_series(values, prompt, asks_of(hub, model, request, run_options))
    asked = Asked(hub, questions, run_options)
    return run_sync(partial(_table, asked, asked.shown()))


def complete_batches(
    batches: Iterable[pa.RecordBatch],
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    **options: Unpack[TableOptions],
) -> Iterator[pa.RecordBatch]:
    """Ask every row of each batch as it comes, and give its results as a batch (see `complete_table`).

    ``row`` counts on from batch to batch. Only one batch is held at a time, so this goes through any number of rows.
    """
    from llmhub.tables import scale  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    before = 0
    if (limit := options.get("budget_usd")) is not None:
        shared: Any = shared_wallet(limit)  # all batches together may spend it
        options["budget_usd"] = shared
    for batch in batches:
        results = complete_table(batch, prompt, model=model, hub=hub, **options)
        yield from scale.batches_of(scale.shifted(results, before))
        before += batch.num_rows


def complete_parallel(
    frame: Any,
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    n_jobs: int = -1,
    **options: Unpack[RowOptions],
) -> pa.Table:
    """Ask every row of a frame from several processes, where one core cannot keep up with the answers.

    Parameters
    ----------
    n_jobs
        Processes, as joblib counts them: -1 for one a core. ``joblib.parallel_config(backend=...)`` chooses where they
        run (loky, dask, ray, spark). ``concurrency`` and ``limits`` are each process's own; a `DiskCache` is shared;
        a budget is parted evenly.
    **options
        See `complete_table`; ``progress`` is not shown, and ``on_error="raise"`` raises for the first slice that fails.
    """
    import joblib  # noqa: PLC0415 - a third of a second, needed only here

    from llmhub.tables import scale  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    quiet: RowOptions = {**options, "progress": False}
    # What is wrong with the question is said here, before any process is started.
    asked_of(frame, prompt, model, hub, dict(quiet))
    parts = scale.slices(frame, scale.expect_jobs(n_jobs))
    hub, quiet = split(hub, quiet, len(parts))
    work = (joblib.delayed(complete_table)(part, prompt, model=model, hub=hub, **quiet) for _, part in parts)
    results = joblib.Parallel(n_jobs=n_jobs)(work)
    placed = (scale.shifted(result, at) for (at, _), result in zip(parts, results, strict=True))
    return scale.merged(placed, uuid.uuid4().hex)


def plan(
    frame: Any, prompt: Asking | None = None, *, model: Models, hub: Hub | None = None, **options: Unpack[RowOptions]
) -> Plan:
    """Say what a run would do, before anything is sent: calls, cache hits, tokens, USD (see `complete_table`)."""
    from llmhub.tables.plan import plan_of  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    asked = asked_of(frame, prompt, model, hub, {**options, "progress": False})
    folder = asked.hub.settings.tokenizer_folder
    try:
        return plan_of(asked.questions, asked.hub.runtime.store, folder, time.time())
    except StoreError as error:
        warn_of_store(str(error))
        return plan_of(asked.questions, None, folder, time.time())


@dataclass(frozen=True, slots=True)
class Asked:
    """A frame on its way."""

    hub: Hub
    questions: Questions
    options: RunOptions

    def shown(self, stop: Stop | None = None) -> Shown | None:
        """Begin to show progress, in the thread that runs the cell."""
        first = Tally(len(self.questions), self.targets, self.questions.samples).progress(Now(0.0))
        return shown(self.options.progress, first, stop=stop)

    @property
    def targets(self) -> list[Target]:
        """Who is asked."""
        return [ask.target for ask in self.questions.asks]


def asked_of(frame: Any, prompt: Asking | None, model: Models, hub: Hub | None, options: dict[str, Any]) -> Asked:
    """Check everything that can be known before sending."""
    from llmhub.tables import prompts, saying  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    aside = saying.Aside(*(options.pop(name, None) for name in ("system", "messages", "images")))
    same = saying.constant(aside.system)
    if same is not None:
        options["system"], aside = same, replace(aside, system=None)
    request, run_options = parted(options)
    concurrency = run_options.concurrency
    if concurrency is not None and not 1 <= concurrency <= hub.pool_size:
        said = f"{concurrency} is outside 1..{hub.pool_size}, the connections of a provider; give Hub(pool_size=...)"
        raise InvalidRequestError(InvalidRequest(path="concurrency", message=said))
    asks = asks_of(hub, model, request, run_options)
    questions = prompts.of_frame(frame, prompt, asks, run_options.n, aside)
    return Asked(hub, questions, run_options)


def asks_of(hub: Hub, model: Models, request: CompletionRequest, options: RunOptions) -> list[Any]:
    """Resolve the models, and try the parameters on each before any row is sent."""
    from llmhub.tables import prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    names: list[Any] = [model] if isinstance(model, str) or not hasattr(model, "__iter__") else list(model)
    if not names:
        raise InvalidRequestError(
            InvalidRequest(path="model", message="the list of models is empty; give at least one")
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(
            InvalidRequest(path="model", message=f"{twice!r} is given twice; for more answers give n=")
        )
    targets = [hub.target(name) for name in names]
    purse = purse_of(hub, targets, options.budget_usd, allow_unpriced=options.allow_unpriced)
    for target in targets:
        probe = asking(replace(request, model=target.model))("?")
        tried = prepare(target.provider, target.endpoint, probe, time.time(), stream=options.stream)
        expect(None if is_successful(tried) else tried.failure())
    return [prompts.ask(target, request, stream=options.stream, purse=purse) for target in targets]


async def ran(asked: Asked, show: Shown | None, stop: Stop, told: Told | None = None) -> Ran:
    """Run the questions, and show how far it is."""
    questions = asked.questions
    concurrency = asked.options.concurrency or asked.hub.concurrency
    watch = Watch(show.report, asked.targets, questions.samples) if show else None
    try:
        done = await asked.hub.runtime.run(
            questions.chunks(), len(questions), concurrency, stop, watch, told, cache=asked.options.cache
        )
    finally:
        if show is not None:
            show.close()
    warn_of(done)
    return done


async def _table(asked: Asked, show: Shown | None, stop: Stop) -> pa.Table:
    """Run the questions and make the table."""
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    at = time.time()
    questions, options = asked.questions, asked.options
    done = await ran(asked, show, stop)
    table = results.table(questions, done, uuid.uuid4().hex, at)
    try:
        expect_store(done)
        expect_rows(options, results.settled(questions, done))
    except ConnectorError as error:
        error.table = table
        raise
    return table
