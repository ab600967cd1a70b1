"""Frames: every row asked of every model, in one table, in batches, or from several processes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

from returns.pipeline import is_successful

from llmhub.api.default_hub import current_hub
from llmhub.api.options import (
    Models,
    RowOptions,
    RunOptions,
    TableOptions,
    TablePrompt,
    as_shared_budget,
    budgets_for,
    raise_first_row_error,
    raise_if_cache_failed,
    raise_if_error,
    resolve_concurrency,
    split_budgets,
    split_options,
    unwrap_or_raise,
    warn_run_problems,
)
from llmhub.core.errors import BadRequestError, ConnectorError, Hint, InvalidRequest, LLMError, Malformed, invalid
from llmhub.core.prepared import request_template
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, HttpRequest
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Target
from llmhub.engine.event_loop import StopSignal, run_in_background, run_sync
from llmhub.engine.fan_out_types import FanOutResult, OnResult
from llmhub.engine.gc_tuning import relaxed_gc
from llmhub.engine.progress import Progress, ProgressSink, ProgressTracker, RunSnapshot
from llmhub.hub import Hub
from llmhub.progress.display import ProgressCallback, ProgressDisplay, create_display

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from llmhub.api.sink import Written
    from llmhub.tables.prompt_batch import PromptBatch
    from llmhub.tables.structured_outputs import OutputSchema


@overload
def complete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: None = None,
    **options: Unpack[TableOptions],
) -> pa.Table: ...


@overload
def complete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path,
    **options: Unpack[TableOptions],
) -> Written: ...


def complete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
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
        from llmhub.api.sink import complete_to_sink  # noqa: PLC0415 - it is built on this

        return complete_to_sink(sink, frame, prompt, model=model, hub=hub, **options)
    if options.get("n_jobs", 1) != 1:
        return complete_parallel(frame, prompt, model=model, hub=hub, **options)
    options.pop("n_jobs", None)
    return run_blocking(build_table_run(frame, prompt, model, hub, dict(options)))


@overload
async def acomplete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: None = None,
    **options: Unpack[TableOptions],
) -> pa.Table: ...


@overload
async def acomplete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path,
    **options: Unpack[TableOptions],
) -> Written: ...


async def acomplete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path | None = None,
    **options: Unpack[TableOptions],
) -> pa.Table | Written:
    """Ask every row of a frame, awaited (see `complete_table`)."""
    if sink is not None:
        from llmhub.api.sink import acomplete_to_sink  # noqa: PLC0415 - it is built on this

        return await acomplete_to_sink(sink, frame, prompt, model=model, hub=hub, **options)
    asked, stop = build_table_run(frame, prompt, model, hub, dict(options)), StopSignal()
    return await run_in_background(run_table(asked, asked.start_display(stop), stop))


def complete_series(
    values: pd.Series, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[RowOptions]
) -> pa.Table:
    """Ask every value of a pandas Series: in the place of ``{}``, or after the prompt and an empty line."""
    from llmhub.tables import prompt_batch  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    given: dict[str, Any] = dict(options)
    typing = _structured_output(given)
    request, run_options = split_options(given)
    if run_options.n != 1 or not isinstance(model, str):
        raise BadRequestError(
            InvalidRequest(
                path="model" if run_options.n == 1 else "n",
                message="a Series takes one answer a value; use a DataFrame",
            )
        )
    questions = prompt_batch.batch_from_series(values, prompt, compile_prompts(hub, model, request, run_options))
    return run_blocking(TableRun(hub, questions, run_options, typing))


def complete_record_batches(
    batches: Iterable[pa.RecordBatch],
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    **options: Unpack[TableOptions],
) -> Iterator[pa.RecordBatch]:
    """Ask every row of each batch as it comes, and give its results as a batch (see `complete_table`).

    ``row`` counts on from batch to batch. Only one batch is held at a time, so this goes through any number of rows.
    """
    from llmhub.tables import streaming_io  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    before = 0
    if (limit := options.get("budget_usd")) is not None:
        shared: Any = as_shared_budget(limit)  # all batches together may spend it
        options["budget_usd"] = shared
    for batch in batches:
        results = complete_table(batch, prompt, model=model, hub=hub, **options)
        yield from streaming_io.to_record_batches(streaming_io.offset_rows(results, before))
        before += batch.num_rows


def complete_parallel(
    frame: Any,
    prompt: TablePrompt | None = None,
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

    from llmhub.tables import streaming_io  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    quiet: RowOptions = {**options, "progress": False}
    # What is wrong with the question is said here, before any process is started; functions of a row are for those.
    functions = callable(prompt) or callable(quiet.get("system"))
    build_table_run(streaming_io.without_rows(frame) if functions else frame, prompt, model, hub, dict(quiet))
    parts = streaming_io.split_frame(frame, streaming_io.effective_jobs(n_jobs))
    hub, quiet = split_budgets(hub, quiet, len(parts))
    work = (joblib.delayed(complete_table)(part, prompt, model=model, hub=hub, **quiet) for _, part in parts)
    results = joblib.Parallel(n_jobs=n_jobs)(work)
    placed = (streaming_io.offset_rows(result, at) for (at, _), result in zip(parts, results, strict=True))
    return streaming_io.concat_results(placed, uuid.uuid4().hex)


@dataclass(frozen=True, slots=True)
class TableRun:
    """A frame on its way."""

    hub: Hub
    batch: PromptBatch
    options: RunOptions
    structured_output: OutputSchema | None = None

    def start_display(self, stop: StopSignal | None = None, *, background: bool = False) -> ProgressDisplay | None:
        """Begin to show progress, in the thread that runs the cell."""
        return create_display(self.options.progress, self.initial_progress, stop=stop, background=background)

    @property
    def initial_progress(self) -> Progress:
        """How far it is before it begins."""
        return ProgressTracker(len(self.batch), self.progress_sink(_ignore_progress)).progress(RunSnapshot(0.0))

    def progress_sink(self, report: ProgressCallback) -> ProgressSink:
        """Have somebody told how far it is."""
        return ProgressSink(
            report, [ask.target for ask in self.batch.target_prompts], self.batch.n_samples, self.batch.target_of_row
        )


def _ignore_progress(progress: Progress) -> None:
    """Take no notice."""


def build_table_run(
    frame: Any,
    prompt: TablePrompt | None,
    model: Models,
    hub: Hub | None,
    options: dict[str, Any],
    *,
    dry_run: bool = False,
) -> TableRun:
    """Check everything that can be known before sending; ``dry_run`` for what is not to be sent: no key is needed."""
    from llmhub.tables import frames, prompt_batch, row_prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    aside = row_prompts.RowExtras(*(options.pop(name, None) for name in ("system", "messages", "images")))
    source = frames.pandas_or_arrow(frame)
    same = row_prompts.constant_system_prompt(aside.system, frames.pandas_or_arrow_names(source))
    if same is not None:
        options["system"], aside = same, replace(aside, system=None)
    typing = _structured_output(options)
    request, run_options = split_options(options)
    resolve_concurrency(hub, run_options)
    asks = compile_prompts(hub, model, request, run_options, dry_run=dry_run)
    questions = prompt_batch.batch_from_frame(source, prompt, asks, run_options.n, aside)
    return TableRun(hub, questions, run_options, typing)


def _structured_output(options: dict[str, Any]) -> OutputSchema | None:
    """Read what answers must be, and have the provider told."""
    wanted = options.get("schema")
    if wanted is None:
        return None
    from llmhub.tables.structured_outputs import output_schema  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    if options.get("response_schema") is not None:
        said = "schema= and response_schema= say the same thing; give one"
        raise BadRequestError(InvalidRequest(path="schema", message=said))
    typing = unwrap_or_raise(output_schema(wanted))
    options["response_schema"] = typing.schema
    return typing


def compile_prompts(
    hub: Hub, model: Models, request: CompletionRequest, options: RunOptions, *, dry_run: bool = False
) -> list[Any]:
    """Resolve the models, and try the parameters on each before any row is sent."""
    from llmhub.tables import prompt_batch  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    names: list[Any] = [model] if isinstance(model, str) or not hasattr(model, "__iter__") else list(model)
    if not names:
        raise BadRequestError(InvalidRequest(path="model", message="the list of models is empty; give at least one"))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid("model", f"{twice!r} is listed twice", hint=Hint("n", purpose="get several responses"))
    targets = [hub.target(name, bare=dry_run) for name in names]
    everybody = [who for name in names for who in hub.targets(name, bare=dry_run)]
    purse = budgets_for(hub, everybody, options.budget_usd, allow_unpriced=options.allow_unpriced)
    asks = []
    for target in targets:
        own = request
        for who in hub.targets(target.name, bare=dry_run):
            tried = _check_prepare(who, own, stream=options.stream)
            if tried is not None and options.schema_or_words and tried.path == "$.response_schema":
                own = replace(request, response_schema=None)
                tried = _check_prepare(who, own, stream=options.stream)
            if not (dry_run and tried is not None and tried.path.startswith("$.endpoint")):
                raise_if_error(tried)
        asks.append(prompt_batch.prepare_target_prompt(target, own, stream=options.stream, budgets=purse))
    return asks


def _check_prepare(target: Target, request: CompletionRequest, *, stream: bool) -> LLMError | None:
    """Try a request without sending it; say what is wrong with it."""
    probe = request_template(replace(request, model=target.model))("?")
    # Whether a key is right is not tried: there may be none yet.
    unsigned = replace(target.provider, authorize=_unsigned)
    made = prepare(unsigned, target.endpoint, probe, time.time(), stream=stream)
    return None if is_successful(made) else made.failure()


def _unsigned(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    return request


def run_blocking(table_run: TableRun) -> pa.Table:
    """Run the questions, wait, and give the table."""
    return run_sync(partial(run_table, table_run, table_run.start_display()))


async def execute(
    table_run: TableRun,
    display: ProgressDisplay | None,
    stop: StopSignal,
    on_result: OnResult | None = None,
    *,
    run_id: bytes = b"",
) -> FanOutResult:
    """Run the questions, and show how far it is."""
    questions = table_run.batch
    concurrency = resolve_concurrency(table_run.hub, table_run.options)
    watch = table_run.progress_sink(display.report) if display else None
    chunks = questions.iter_chunks(lambda: stop.requested)
    try:
        done = await table_run.hub.runtime.run(
            chunks,
            len(questions),
            concurrency,
            stop,
            watch,
            on_result,
            cache_mode=table_run.options.cache,
            run_id=run_id or uuid.uuid4().bytes,
        )
    finally:
        if display is not None:
            display.close()
    warn_run_problems(done)
    return done


def apply_schema(table_run: TableRun, table: pa.Table) -> pa.Table:
    """Read answers that were asked to fit a schema, and raise for one that does not, if that is wanted."""
    if table_run.structured_output is None:
        return table
    from llmhub.tables.structured_outputs import parse_structured_outputs  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    whole = parse_structured_outputs(table, table_run.structured_output)
    _raise_if_schema_error(table_run.options, whole)
    return whole


def _raise_if_schema_error(options: RunOptions, table: pa.Table) -> None:
    """Raise for the first answer that does not fit its schema, where the caller wants that."""
    if options.on_error == "raise" and options.schema is not None:
        kinds = table.column("error_type").to_pylist()
        if "Malformed" in kinds:
            raise_if_error(Malformed(message=table.column("error")[kinds.index("Malformed")].as_py()))


async def run_table(
    table_run: TableRun, display: ProgressDisplay | None, stop: StopSignal, on_result: OnResult | None = None
) -> pa.Table:
    """Run the questions and make the table."""
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    at, run = time.time(), uuid.uuid4()
    questions, options = table_run.batch, table_run.options
    with relaxed_gc(len(questions), enabled=table_run.hub.tune_gc):
        done = await execute(table_run, display, stop, on_result, run_id=run.bytes)
        table = results.results_table(questions, done, run.hex, at)
    whole = apply_schema(replace(table_run, options=replace(options, on_error="row")), table)
    try:
        raise_if_cache_failed(done)
        raise_first_row_error(options, results.outcomes_by_position(questions, done))
        _raise_if_schema_error(options, whole)
    except ConnectorError as error:
        error.table = whole
        raise
    return whole
