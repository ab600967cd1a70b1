"""Frames: every row asked of every model, in one table, in batches, or from several processes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

from returns.pipeline import is_successful

from llmhub.api.budgets import purse_of, shared_wallet, split
from llmhub.api.hubs import current_hub
from llmhub.api.options import (
    Asking,
    Models,
    RowOptions,
    RunOptions,
    TableOptions,
    concurrency_of,
    expect,
    expect_rows,
    expect_store,
    found,
    parted,
    warn_of,
)
from llmhub.core.errors import ConnectorError, InvalidRequest, InvalidRequestError, LLMError, Malformed
from llmhub.core.provider import Endpoint, HttpRequest, prepare
from llmhub.core.splice import asking
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Target
from llmhub.engine.collector import held_back
from llmhub.engine.loop import Stop, run_here, run_sync
from llmhub.engine.run import Ran, Told
from llmhub.engine.tally import Now, Progress, Tally, Watch
from llmhub.hub import Hub
from llmhub.observe.progress import Report, Shown, shown

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from llmhub.api.writing import Written
    from llmhub.tables.prompts import Questions
    from llmhub.tables.typed import Typing


@overload
def complete_table(
    frame: Any,
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: None = None,
    **options: Unpack[TableOptions],
) -> pa.Table: ...
@overload
def complete_table(
    frame: Any,
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path,
    **options: Unpack[TableOptions],
) -> Written: ...
def complete_table(
    frame: Any,
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path | None = None,
    **options: Unpack[TableOptions],
) -> pa.Table | Written:
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
    sink
        Instead of giving a table, write results as they come, and hold only some thousand rows: a folder, for Parquet
        parts, or a file that ends with ``.arrows``, for an Arrow stream. ``frame`` may then be a path, a dataset, a
        ``RecordBatchReader`` or an iterable of batches, too. The same call goes on where a stopped one ended.
    **options
        Parameters of the answer as in `complete`, and: ``system``, a template, column or function for the system turn;
        ``messages``, a column of ready conversations, before the prompt if there is one; ``images``, a column of
        pictures (URL, path, bytes, PIL image, or a list of them) that the prompt is about; ``schema``, a pydantic
        model, a dataclass or a JSON schema that answers must fit, so that ``parsed`` is a struct of typed fields and an
        answer that does not fit is an error of its row; ``n``, answers a row;
        ``concurrency``, calls under way at once; ``progress``, whether to show it, or a function that is told;
        ``on_error``, ``"row"`` to say so in the row or ``"raise"`` to raise when all is done; ``stream``, to measure
        the time to the first token; ``n_jobs``, processes to spread the work over (see `complete_parallel`);
        ``budget_usd``, what the run may cost: rows that could exceed it are not sent, and say ``budget``.

    Returns
    -------
    pyarrow.Table
        ``rows x models x n`` rows with the schema `llmhub.tables.schema.RESULTS`, in input order; with ``sink``, a
        `Written` that says what was written.

    Raises
    ------
    InvalidRequestError
        Before anything is sent: a field that is no column, a model without a provider, a parameter out of range.
        A cell that cannot be asked, such as a picture that is not there, fails in its own row.
    ConnectorError
        With ``on_error="raise"``, the first row's failure; the exception's ``table`` holds all rows.
    """
    if sink is not None:
        from llmhub.api.writing import complete_into  # noqa: PLC0415 - it is built on this

        return complete_into(sink, frame, prompt, model=model, hub=hub, **options)
    if options.get("n_jobs", 1) != 1:
        return complete_parallel(frame, prompt, model=model, hub=hub, **options)
    options.pop("n_jobs", None)
    return table_of(asked_of(frame, prompt, model, hub, dict(options)))


@overload
async def acomplete_table(
    frame: Any,
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: None = None,
    **options: Unpack[TableOptions],
) -> pa.Table: ...
@overload
async def acomplete_table(
    frame: Any,
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path,
    **options: Unpack[TableOptions],
) -> Written: ...
async def acomplete_table(
    frame: Any,
    prompt: Asking | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path | None = None,
    **options: Unpack[TableOptions],
) -> pa.Table | Written:
    """Ask every row of a frame, awaited (see `complete_table`)."""
    if sink is not None:
        from llmhub.api.writing import acomplete_into  # noqa: PLC0415 - it is built on this

        return await acomplete_into(sink, frame, prompt, model=model, hub=hub, **options)
    asked, stop = asked_of(frame, prompt, model, hub, dict(options)), Stop()
    return await run_here(tabled(asked, asked.shown(stop), stop))


def complete_series(
    values: pd.Series, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[RowOptions]
) -> pa.Table:
    """Ask every value of a pandas Series: in the place of ``{}``, or after the prompt and an empty line."""
    from llmhub.tables import prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    given: dict[str, Any] = dict(options)
    typing = _typing(given)
    request, run_options = parted(given)
    if run_options.n != 1 or not isinstance(model, str):
        raise InvalidRequestError(
            InvalidRequest(
                path="model" if run_options.n == 1 else "n",
                message="a Series takes one answer a value; use a DataFrame",
            )
        )
    questions = prompts.of_series(values, prompt, asks_of(hub, model, request, run_options))
    return table_of(Asked(hub, questions, run_options, typing))


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
    # What is wrong with the question is said here, before any process is started; functions of a row are for those.
    functions = callable(prompt) or callable(quiet.get("system"))
    asked_of(scale.head(frame) if functions else frame, prompt, model, hub, dict(quiet))
    parts = scale.slices(frame, scale.expect_jobs(n_jobs))
    hub, quiet = split(hub, quiet, len(parts))
    work = (joblib.delayed(complete_table)(part, prompt, model=model, hub=hub, **quiet) for _, part in parts)
    results = joblib.Parallel(n_jobs=n_jobs)(work)
    placed = (scale.shifted(result, at) for (at, _), result in zip(parts, results, strict=True))
    return scale.merged(placed, uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class Asked:
    """A frame on its way."""

    hub: Hub
    questions: Questions
    options: RunOptions
    typing: Typing | None = None

    def shown(self, stop: Stop | None = None, *, aside: bool = False) -> Shown | None:
        """Begin to show progress, in the thread that runs the cell."""
        return shown(self.options.progress, self.first, stop=stop, aside=aside)

    @property
    def first(self) -> Progress:
        """How far it is before it begins."""
        return Tally(len(self.questions), self.watch(_tell_nobody)).progress(Now(0.0))

    def watch(self, report: Report) -> Watch:
        """Have somebody told how far it is."""
        return Watch(report, [ask.target for ask in self.questions.asks], self.questions.samples, self.questions.own)


def _tell_nobody(progress: Progress) -> None:
    """Take no notice."""


def asked_of(
    frame: Any,
    prompt: Asking | None,
    model: Models,
    hub: Hub | None,
    options: dict[str, Any],
    *,
    bare: bool = False,
) -> Asked:
    """Check everything that can be known before sending; ``bare`` for what is not to be sent: no key is needed."""
    from llmhub.tables import frames, prompts, saying  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    aside = saying.Aside(*(options.pop(name, None) for name in ("system", "messages", "images")))
    source = frames.arrow(frame)
    same = saying.constant(aside.system, frames.names(source))
    if same is not None:
        options["system"], aside = same, replace(aside, system=None)
    typing = _typing(options)
    request, run_options = parted(options)
    concurrency_of(hub, run_options)
    asks = asks_of(hub, model, request, run_options, bare=bare)
    questions = prompts.of_frame(source, prompt, asks, run_options.n, aside)
    return Asked(hub, questions, run_options, typing)


def _typing(options: dict[str, Any]) -> Typing | None:
    """Read what answers must be, and have the provider told."""
    wanted = options.get("schema")
    if wanted is None:
        return None
    from llmhub.tables.typed import typing_of  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    if options.get("response_schema") is not None:
        said = "schema= and response_schema= say the same thing; give one"
        raise InvalidRequestError(InvalidRequest(path="schema", message=said))
    typing = found(typing_of(wanted))
    options["response_schema"] = typing.schema
    return typing


def asks_of(
    hub: Hub, model: Models, request: CompletionRequest, options: RunOptions, *, bare: bool = False
) -> list[Any]:
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
    targets = [hub.target(name, bare=bare) for name in names]
    everybody = [who for name in names for who in hub.targets(name, bare=bare)]
    purse = purse_of(hub, everybody, options.budget_usd, allow_unpriced=options.allow_unpriced)
    asks = []
    for target in targets:
        own = request
        for who in hub.targets(target.name, bare=bare):
            tried = _tried(who, own, stream=options.stream)
            if tried is not None and options.schema_or_words and tried.path == "$.response_schema":
                own = replace(request, response_schema=None)
                tried = _tried(who, own, stream=options.stream)
            if not (bare and tried is not None and tried.path.startswith("$.endpoint")):
                expect(tried)
        asks.append(prompts.ask(target, own, stream=options.stream, purse=purse))
    return asks


def _tried(target: Target, request: CompletionRequest, *, stream: bool) -> LLMError | None:
    """Try a request without sending it; say what is wrong with it."""
    probe = asking(replace(request, model=target.model))("?")
    # Whether a key is right is not tried: there may be none yet.
    unsigned = replace(target.provider, authorize=_as_it_is)
    made = prepare(unsigned, target.endpoint, probe, time.time(), stream=stream)
    return None if is_successful(made) else made.failure()


def _as_it_is(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    return request


def table_of(asked: Asked) -> pa.Table:
    """Run the questions, wait, and give the table."""
    return run_sync(partial(tabled, asked, asked.shown()))


async def ran(asked: Asked, show: Shown | None, stop: Stop, told: Told | None = None, *, run_id: bytes = b"") -> Ran:
    """Run the questions, and show how far it is."""
    questions = asked.questions
    concurrency = concurrency_of(asked.hub, asked.options)
    watch = asked.watch(show.report) if show else None
    chunks = questions.chunks(lambda: stop.asked)
    try:
        done = await asked.hub.runtime.run(
            chunks,
            len(questions),
            concurrency,
            stop,
            watch,
            told,
            cache=asked.options.cache,
            run_id=run_id or uuid.uuid4().bytes,
        )
    finally:
        if show is not None:
            show.close()
    warn_of(done)
    return done


def fitted(asked: Asked, table: pa.Table) -> pa.Table:
    """Read answers that were asked to fit a schema, and raise for one that does not, if that is wanted."""
    if asked.typing is None:
        return table
    from llmhub.tables.typed import typed  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    whole = typed(table, asked.typing)
    _expect_fit(asked.options, whole)
    return whole


def _expect_fit(options: RunOptions, table: pa.Table) -> None:
    """Raise for the first answer that does not fit its schema, where the caller wants that."""
    if options.on_error == "raise" and options.schema is not None:
        kinds = table.column("error_type").to_pylist()
        if "Malformed" in kinds:
            expect(Malformed(message=table.column("error")[kinds.index("Malformed")].as_py()))


async def tabled(asked: Asked, show: Shown | None, stop: Stop, told: Told | None = None) -> pa.Table:
    """Run the questions and make the table."""
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    at, run = time.time(), uuid.uuid4()
    questions, options = asked.questions, asked.options
    with held_back(len(questions)):
        done = await ran(asked, show, stop, told, run_id=run.bytes)
        table = results.table(questions, done, run.hex, at)
    whole = fitted(replace(asked, options=replace(options, on_error="row")), table)
    try:
        expect_store(done)
        expect_rows(options, results.settled(questions, done))
        _expect_fit(options, whole)
    except ConnectorError as error:
        error.table = whole
        raise
    return whole
