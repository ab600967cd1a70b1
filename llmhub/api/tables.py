"""Runs over the rows of a frame: one Arrow table of results, or record batches.

A run is built in two steps: `build_table_run` validates everything that can be checked before sending and raises, and
`run_table` sends the requests. Arrow is imported inside functions, so that ``import llmhub`` stays fast.

The file is long because the synchronous and the awaited form of each call are documented once and stand together.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack, overload

from returns.pipeline import is_successful

from llmhub.api._batch_checks import refuse_batches, require_batches
from llmhub.api._budget_check import require_budget_fits
from llmhub.api._tool_rows import ToolRows, with_turns
from llmhub.api.default_hub import current_hub
from llmhub.api.options import (
    Models,
    RowOptions,
    RunOptions,
    TableOptions,
    TablePrompt,
    budgets_for,
    example_messages,
    resolve_concurrency,
    split_options,
)
from llmhub.api.raising import (
    keep_table,
    raise_first_row_error,
    raise_if_cache_failed,
    raise_if_error,
    unwrap_or_raise,
    warn_run_problems,
)
from llmhub.api.signatures import shows_options
from llmhub.cache.store import Store
from llmhub.core.errors import Hint, LLMError, Malformed, attach_table, invalid
from llmhub.core.prepared import request_template
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, HttpRequest
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Middleware, Target
from llmhub.engine.event_loop import StopSignal, run_in_background, run_in_thread, run_sync
from llmhub.engine.fan_out_types import FanOutResult, FanOutSpec, OnResult
from llmhub.engine.gc_tuning import relaxed_gc
from llmhub.engine.observer import cache_hit_counter
from llmhub.engine.progress import Progress, ProgressSink, ProgressTracker, RunSnapshot
from llmhub.engine.scheduling import SlotGroup
from llmhub.hub import Hub
from llmhub.progress.display import ProgressDisplay, create_display
from llmhub.providers.hub_service import in_bulk_lane

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from llmhub.api.sink import Written
    from llmhub.engine.row_outcome import RowOutcome
    from llmhub.engine.spending import Budgets
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
@shows_options(TableOptions)
def complete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path | None = None,
    **options: Unpack[TableOptions],
) -> pa.Table | Written:
    """Send a prompt for every row of a frame to every model, and return the results as one Arrow table.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or any object with ``__arrow_c_stream__``.
    prompt
        A template over the columns, such as ``"Summarise: {text}"``, or a function that takes a row and returns text,
        a conversation, or ``None`` to skip the row. A row that lacks a value the prompt uses is skipped.
    model
        ``provider/model``, or several.
    hub
        The hub to use; the default hub if omitted.
    sink
        Write results as they arrive instead of returning a table, holding a few thousand rows in memory: a folder for
        Parquet files (or its URL, such as ``s3://bucket/answers``), or a file name that ends in ``.arrows`` for an
        Arrow stream. ``frame`` may then also be a path, a URL, a pattern such as ``data/*.parquet``, a dataset, a
        ``RecordBatchReader`` or an iterable of batches. Repeating the call continues a stopped run.
    **options
        Request parameters as in `complete`, and:

        ``system``
            System message: a template, a column or a function of the row.
        ``messages``
            Name of a column of conversations, which precede the prompt.
        ``images``
            Name of a column of images for the prompt: URL, path, bytes, PIL image, or a list of them.
        ``examples``
            Few-shot examples: pairs of input and output, mappings with ``input`` and ``output`` or with the columns of
            the template and ``output``, or a frame with these columns.
        ``schema``
            A pydantic model, a dataclass or a JSON schema that responses must match. ``parsed`` is then a struct of
            typed fields, and a response that does not match is an error of its row.
        ``n``
            Responses per row.
        ``concurrency``
            Maximum number of calls in flight.
        ``progress``
            Whether to show progress, or a function to call with it.
        ``on_error``
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        ``stream``
            Measure the time to the first token.
        ``n_jobs``
            Number of processes (see `complete_parallel`).
        ``engine``
            Run on the workers of ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"`` (see `llmhub.distributed`).
        ``budget_usd``
            Maximum cost in US dollars; rows that could exceed it are not sent and have the status ``budget``.
        ``mode``
            ``"batch"`` sends the rows through the provider's Batch API, at a lower price and within a day. Repeating
            the call continues to wait; rows that wait have the status ``pending``, and a column ``mode`` says how each
            was sent. Needs a cache with a ledger.
        ``late``
            Rows that a batch did not process: ``"wait"`` sends them in another batch, ``"live"`` by themselves,
            ``"error"`` makes errors of them.
        ``deadline``
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds; by default when the provider gives up.
            With ``late="wait"`` the call returns then and leaves the batch.
        ``poll_s``
            Seconds between the first two polls of a batch; the time grows to five minutes.
        ``batch_tokens``
            Estimated prompt tokens of one batch, at most.
        ``batch_storage``, ``batch_role``
            Object storage (``"s3://bucket/folder"``) and role, for providers that read batches from there.

    Returns
    -------
    pyarrow.Table
        ``rows x models x n`` rows with the schema `llmhub.tables.schema.RESULTS`, in input order; with ``sink``, a
        `Written` that summarises the run.

    Raises
    ------
    BadRequestError
        Before anything is sent: the prompt names a column that does not exist, a model has no provider, or an option
        is out of range. A cell that cannot be sent, such as a missing image file, is an error of its own row.
    ConnectorError
        With ``on_error="raise"``, the error of the first failed row. Its ``table`` has the results of all rows.
    BaseException
        Any other exception that ends a run, warnings that are errors included, has the results so far in ``table``.
    """
    if (at_service := hub or current_hub()).service is not None:
        from llmhub.api import service_runs  # noqa: PLC0415 - it imports this module

        if not service_runs.sends_row_by_row(options, sink):
            run = service_runs.build_service_run(frame, prompt, model, at_service, dict(options))
            return service_runs.complete_at_service(run)
    if sink is not None:
        from llmhub.api.sink import complete_to_sink  # noqa: PLC0415 - it imports this module

        refuse_batches(options, "sink")
        return complete_to_sink(sink, frame, prompt, model=model, hub=hub, **options)
    engine = options.get("engine")
    options.pop("engine", None)
    if engine is not None:
        refuse_batches(options, "engine")
        distributed = importlib.import_module("llmhub.distributed")  # a layer above
        table: pa.Table = distributed.complete_on(engine, frame, prompt, model=model, hub=hub, **options)
        return table
    if options.get("n_jobs", 1) != 1:
        from llmhub.api.parallel import complete_parallel  # noqa: PLC0415 - it imports this module

        refuse_batches(options, "n_jobs")
        for_processes: Any = options  # without the engine
        return complete_parallel(frame, prompt, model=model, hub=hub, **for_processes)
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
@shows_options(TableOptions)
async def acomplete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path | None = None,
    **options: Unpack[TableOptions],
) -> pa.Table | Written:
    """Send a prompt for every row of a frame, awaited (see `complete_table`)."""
    if (at_service := hub or current_hub()).service is not None:
        from llmhub.api import service_runs  # noqa: PLC0415 - it imports this module

        if not service_runs.sends_row_by_row(options, sink):
            run = service_runs.build_service_run(frame, prompt, model, at_service, dict(options))
            return await service_runs.acomplete_at_service(run)
    if sink is not None:
        from llmhub.api.sink import acomplete_to_sink  # noqa: PLC0415 - it imports this module

        refuse_batches(options, "sink")
        return await acomplete_to_sink(sink, frame, prompt, model=model, hub=hub, **options)
    return await run_awaited(build_table_run(frame, prompt, model, hub, dict(options)))


@shows_options(RowOptions)
def complete_series(
    values: pd.Series, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[RowOptions]
) -> pa.Table:
    """Send a prompt for every value of a pandas Series (see `complete_table`).

    The value replaces ``{}`` in the prompt; without ``{}`` it follows the prompt after an empty line.
    """
    from llmhub.tables import prompt_batch  # noqa: PLC0415 - imports Arrow

    hub = hub or current_hub()
    remaining: dict[str, Any] = dict(options)
    if hub.service is not None:
        from llmhub.api import service_runs  # noqa: PLC0415 - it imports this module

        if not isinstance(model, str) or remaining.get("n", 1) != 1:
            raise invalid("model", "a Series takes one model and one response per value; use a DataFrame for several")
        if not service_runs.sends_row_by_row(options):
            run = service_runs.build_series_run(values, prompt, model, hub, remaining)
            return service_runs.complete_at_service(run)
    examples = example_messages(remaining.pop("examples", None))
    output = structured_output(remaining)
    request, run_options = split_options(remaining)
    request = replace(request, messages=(*request.messages, *examples))
    if not isinstance(model, str):
        raise invalid("model", "a Series takes one model; use a DataFrame for several")
    if run_options.n != 1:
        raise invalid("n", "a Series takes one response per value; use a DataFrame for several")
    target_prompts = compile_prompts(hub, model, request, run_options)
    if run_options.mode == "batch":
        require_batches(hub, run_options, [target_prompt.target for target_prompt in target_prompts])
    batch = prompt_batch.batch_from_series(values, prompt, target_prompts)
    return run_blocking(TableRun(hub, batch, run_options, output))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCaller:
    """The caller that a process runs tables for, such as a client of the service.

    Parameters
    ----------
    budgets
        Budgets that each call must fit into besides those of the run and the hub.
    cache_scope
        Callers with equal values share cached responses.
    around_send
        Wraps every call, to let it wait for its turn.
    in_thread
        Whether prompts are rendered in a thread and no warning is given, because the process also serves others.
    """

    budgets: Budgets | None = None
    cache_scope: str = ""
    around_send: Middleware | None = None
    in_thread: bool = False


SELF: Final = RunCaller()
"""Runs of this process."""


@dataclass(frozen=True, slots=True)
class TableRun:
    """A validated run over the rows of a frame that has not been started.

    ``journal`` keeps its responses where the cache does not (see `llmhub.engine.runtime.Runtime.run`). ``slots`` are
    shared with other runs, ``batch_cancel`` cancels the batches of this one. ``caller`` names its owner.
    """

    hub: Hub
    batch: PromptBatch
    options: RunOptions
    structured_output: OutputSchema | None = None
    journal: Store | None = None
    slots: SlotGroup | None = None
    batch_cancel: StopSignal = field(default_factory=StopSignal)
    caller: RunCaller = SELF

    def __post_init__(self) -> None:
        """Redact the prompts as the hub says; where tools are called, each turn is redacted when it is sent."""
        redactor = self.hub.redactor
        if redactor is not None and self.batch.redaction is None and self.options.tool_loop is None:
            from llmhub.tables.prompt_batch import redacted_batch  # noqa: PLC0415 - imports Arrow

            object.__setattr__(self, "batch", redacted_batch(self.batch, redactor))

    @property
    def stores_results(self) -> bool:
        """Whether responses are stored beside the table, so that they outlive the process."""
        return self.hub.cache is not None

    def start_display(self, stop: StopSignal | None = None, *, background: bool = False) -> ProgressDisplay | None:
        """Start the progress display. Call it in the thread that executes the notebook cell."""
        if self.options.progress is False:
            return None  # without building a progress tracker
        return create_display(self.options.progress, self.initial_progress, stop=stop, background=background)

    @property
    def initial_progress(self) -> Progress:
        """Progress before the run is started."""
        return ProgressTracker(len(self.batch), self.progress_sink(NO_DISPLAY)).progress(RunSnapshot(0.0))

    def progress_sink(self, display: ProgressDisplay) -> ProgressSink:
        """Return the sink through which the engine reports the progress of this run to a display."""
        targets = [prompt.target for prompt in self.batch.target_prompts]
        return ProgressSink(display.report, targets, self.batch.n_samples, self.batch.target_of_row, display.interim)


def _ignore_progress(progress: Progress) -> None:
    """Do nothing."""


NO_DISPLAY: Final = ProgressDisplay(_ignore_progress)
"""Where only the models and rows of a run are wanted."""


def build_table_run(
    frame: Any,
    prompt: TablePrompt | None,
    model: Models,
    hub: Hub | None,
    options: dict[str, Any],
    *,
    dry_run: bool = False,
    caller: RunCaller = SELF,
) -> TableRun:
    """Validate everything that can be checked before sending, and return the run.

    ``dry_run`` is for plans, which send nothing: credentials may be missing.
    """
    from llmhub.tables import frames, prompt_batch, row_prompts  # noqa: PLC0415 - imports Arrow

    hub = hub or current_hub()
    examples = example_messages(options.pop("examples", None), prompt)
    extras = row_prompts.RowExtras(
        system=options.pop("system", None),
        messages=options.pop("messages", None),
        images=options.pop("images", None),
        local_files=hub.local_files,
        warns=not caller.in_thread,
    )
    source = frames.pandas_or_arrow(frame)
    system = row_prompts.constant_system_prompt(extras.system, frames.column_names(source))
    if system is not None:
        options["system"], extras = system, replace(extras, system=None)
    output = structured_output(options)
    request, run_options = split_options(options)
    if extras.system is None:
        request = replace(request, messages=(*request.messages, *examples))
    else:  # after the system prompt, which each row renders
        extras = replace(extras, examples=examples)
    resolve_concurrency(hub, run_options)
    target_prompts = compile_prompts(hub, model, request, run_options, dry_run=dry_run, caller=caller)
    if run_options.mode == "batch":
        require_batches(hub, run_options, [target_prompt.target for target_prompt in target_prompts], dry_run=dry_run)
    batch = prompt_batch.batch_from_frame(source, prompt, target_prompts, run_options.n, extras)
    if not dry_run and run_options.mode == "live":
        require_budget_fits(hub, batch, run_options)
    return TableRun(hub, batch, run_options, output, caller=caller)


def structured_output(options: dict[str, Any]) -> OutputSchema | None:
    """Return the output schema of ``schema=``, and set it as the response schema of the requests."""
    schema = options.get("schema")
    if schema is None:
        return None
    from llmhub.tables.structured_outputs import output_schema  # noqa: PLC0415 - imports Arrow

    if options.get("response_schema") is not None:
        raise invalid("schema", "schema= and response_schema= exclude each other; pass one of them")
    output = unwrap_or_raise(output_schema(schema))
    options["response_schema"] = output.schema
    return output


def compile_prompts(
    hub: Hub,
    model: Models,
    request: CompletionRequest,
    options: RunOptions,
    *,
    dry_run: bool = False,
    caller: RunCaller = SELF,
) -> list[Any]:
    """Resolve the models and prepare the request for each, so that no row is sent if one of them rejects an option."""
    from llmhub.tables import prompt_batch  # noqa: PLC0415 - imports Arrow

    names = model_names(model)
    targets = [hub.target(name, allow_unconfigured=dry_run) for name in names]
    if hub.service is not None:  # its interactive calls come before the rows of a table
        targets = [replace(target, endpoint=in_bulk_lane(target.endpoint)) for target in targets]
    candidates = [target for name in names for target in hub.targets(name, allow_unconfigured=dry_run)]
    budgets = budgets_for(
        hub, candidates, options.budget_usd, allow_unpriced=options.allow_unpriced, caller=caller.budgets
    )
    prompts = []
    for target in targets:
        supported = request
        for candidate in hub.targets(target.name, allow_unconfigured=dry_run):
            error = _prepare_error(candidate, supported, stream=options.stream)
            if error is not None and options.schema_or_words and error.path == "$.response_schema":
                supported = replace(request, response_schema=None)
                error = _prepare_error(candidate, supported, stream=options.stream)
            if not (dry_run and error is not None and error.path.startswith("$.endpoint")):
                raise_if_error(error)
        prompts.append(
            prompt_batch.prepare_target_prompt(
                target, supported, stream=options.stream, budgets=budgets, cache_scope=caller.cache_scope
            )
        )
    return prompts


def model_names(model: Models) -> list[Any]:
    """Return the names of the models.

    Raises
    ------
    BadRequestError
        There are none, or one is listed twice.
    """
    names: list[Any] = [model] if isinstance(model, str) or not hasattr(model, "__iter__") else list(model)
    if not names:
        raise invalid("model", "the list of models is empty; pass at least one")
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise invalid("model", f"{duplicate!r} is listed twice", hint=Hint("n", purpose="get several responses"))
    return names


def _prepare_error(target: Target, request: CompletionRequest, *, stream: bool) -> LLMError | None:
    """Return the error of preparing a request for a target, if there is one; nothing is sent."""
    probe = request_template(replace(request, model=target.model))("?")
    # Signing is left out, because credentials may be missing or not yet fetched.
    provider = replace(target.provider, authorize=_unsigned)
    prepared = prepare(provider, target.endpoint, probe, time.time(), stream=stream)
    return None if is_successful(prepared) else prepared.failure()


def _unsigned(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
    return request


def run_blocking(run: TableRun) -> pa.Table:
    """Send the requests of a run, wait, and return the table of results."""
    kept: queue.SimpleQueue[object] = queue.SimpleQueue()
    try:
        return run_sync(partial(_run_and_keep, run, run.start_display(), kept), drain=run.stores_results)
    except KeyboardInterrupt as interrupt:
        _attach_kept(interrupt, kept)  # the third one does not wait for the run to return
        raise


async def run_awaited(run: TableRun) -> pa.Table:
    """Send the requests of a run, and return the table of results, awaited on any loop."""
    kept: queue.SimpleQueue[object] = queue.SimpleQueue()
    stop = StopSignal()
    try:
        work = _run_and_keep(run, run.start_display(stop), kept, stop)
        return await run_in_background(work, stop if run.stores_results else None)
    except asyncio.CancelledError as cancelled:
        await run_in_thread(_attach_kept, cancelled, kept)
        raise


async def _run_and_keep(
    run: TableRun, display: ProgressDisplay | None, kept: queue.SimpleQueue[object], stop: StopSignal
) -> pa.Table:
    """Send the requests of a run, and put its table into ``kept`` however it ends, for a caller who is interrupted."""
    table: object = None
    try:
        result = table = await run_table(run, display, stop)
    except BaseException as error:
        table = getattr(error, "table", None)
        raise
    finally:
        kept.put(table)
    return result


def _attach_kept(error: BaseException, kept: queue.SimpleQueue[object]) -> None:
    """Attach the table of a run that is being cancelled to the exception that the caller sees."""
    with suppress(queue.Empty):
        attach_table(error, kept.get(timeout=CANCEL_TIMEOUT_S))


CANCEL_TIMEOUT_S: Final = 5.0
"""Longest wait for the table of a run that was cancelled."""


async def run_table(
    run: TableRun, display: ProgressDisplay | None, stop: StopSignal, on_result: OnResult | None = None
) -> pa.Table:
    """Send the requests of a run, and return the table of results."""
    from llmhub.tables import batch_columns, results  # noqa: PLC0415 - imports Arrow

    started_at, run_id = time.time(), uuid.uuid4()
    problems: list[str] = []
    with relaxed_gc(len(run.batch), enabled=run.hub.tune_gc):
        try:
            result = await execute(run, display, stop, on_result, run_id=run_id.bytes, reports_blocks=True)
        except BaseException as error:
            attach_partial_table(error, run, run_id.hex, started_at)
            raise
        table = results.build_results(run.batch, result, run_id.hex, started_at, problems.append)
    with keep_table(table):
        table = add_turns(run, table, result.outcomes, started_at)
        if run.options.mode == "batch":
            table = batch_columns.with_mode(table, result)
    with keep_table(table):
        table = apply_schema(replace(run, options=replace(run.options, on_error="row")), table)
    with keep_table(table):
        raise_if_cache_failed(result)
        raise_first_row_error(run.options, results.outcomes_by_position(run.batch, result))
        _raise_if_schema_error(run.options, table)
        warn_run_problems(result, problems)
    return table


def attach_partial_table(error: BaseException, run: TableRun, run_id: str, started_at: float) -> None:
    """Attach the results so far to an exception that ended a run, if any row was started."""
    from llmhub.tables import batch_columns, results  # noqa: PLC0415 - imports Arrow

    partial_result = getattr(error, "fan_out_result", None)
    if not isinstance(partial_result, FanOutResult):
        return
    del error.fan_out_result  # type: ignore[attr-defined]  # the table takes its place
    try:
        table = results.build_results(run.batch, partial_result, run_id, started_at)
        if run.options.mode == "batch":
            table = batch_columns.with_mode(table, partial_result)
        with keep_table(table):
            table = add_turns(run, table, partial_result.outcomes, started_at)
        with keep_table(table):
            table = apply_schema(replace(run, options=replace(run.options, on_error="row")), table)
    except BaseException as problem:  # noqa: BLE001 - the first exception is the one to be raised
        table = getattr(problem, "table", None)
    attach_table(error, table)


async def execute(
    run: TableRun,
    display: ProgressDisplay | None,
    stop: StopSignal,
    on_result: OnResult | None = None,
    *,
    run_id: bytes = b"",
    reports_blocks: bool = False,
) -> FanOutResult:
    """Send the requests of a run, show its progress, and return the outcomes."""
    run_id = run_id or uuid.uuid4().bytes
    progress_error = ""
    try:
        result = await send_rows(run, display, stop, on_result, run_id=run_id, reports_blocks=reports_blocks)
    finally:
        if display is not None:
            try:
                display.close()
            except BaseException as error:  # noqa: BLE001 - a display must not lose the outcomes
                progress_error = f"{type(error).__name__}: {error}"
    return replace(result, progress_error=result.progress_error or progress_error)


async def send_rows(
    run: TableRun,
    display: ProgressDisplay | None,
    stop: StopSignal,
    on_result: OnResult | None = None,
    *,
    run_id: bytes,
    chunks: Iterator[Any] | None = None,
    reports_blocks: bool = False,
) -> FanOutResult:
    """Send the requests of a run, or those of ``chunks``, and return the outcomes."""
    concurrency = resolve_concurrency(run.hub, run.options)
    chunks = chunks or run.batch.iter_chunks(lambda: stop.requested)
    if run.options.tool_loop is not None:
        rows = ToolRows(run, run.options.tool_loop, stop, run_id, chunks, on_result)
        return await rows.hold(display, concurrency)
    spec = FanOutSpec(
        size=len(run.batch),
        chunks=chunks,
        concurrency=concurrency,
        run_id=run_id,
        progress_sink=run.progress_sink(display) if display else None,
        on_result=on_result,
        on_stored=cache_hit_counter(run.hub.runtime.observers, run.progress_sink(NO_DISPLAY)),
        draws_in_thread=run.batch.reads_files or run.caller.in_thread,
        slots=run.slots,
        around_send=run.caller.around_send,
        make_again=run.batch.call_again if run.batch.is_plain_text and run.batch.redaction is None else None,
        reports_blocks=reports_blocks,
    )
    if run.options.mode == "batch":
        policy = run.options.batch_policy(run.batch_cancel)
        return await run.hub.runtime.run_batches(spec, stop, policy, cache_mode=run.options.cache)
    return await run.hub.runtime.run(spec, stop, cache_mode=run.options.cache, journal=run.journal)


def add_turns(run: TableRun, table: pa.Table, outcomes: Sequence[RowOutcome | None], started_at: float) -> pa.Table:
    """Return results with the turns of conversations, if tools of the run are functions."""
    return table if run.options.tool_loop is None else with_turns(table, outcomes, started_at)


def apply_schema(run: TableRun, table: pa.Table) -> pa.Table:
    """Parse responses that must match a schema; with ``on_error="raise"``, raise for the first that does not."""
    if run.structured_output is None:
        return table
    from llmhub.tables import structured_outputs  # noqa: PLC0415 - imports Arrow

    parsed = structured_outputs.parse_structured_outputs(table, run.structured_output)
    _raise_if_schema_error(run.options, parsed)
    return parsed


def _raise_if_schema_error(options: RunOptions, table: pa.Table) -> None:
    if options.on_error == "raise" and options.schema is not None:
        error_types = table.column("error_type").to_pylist()
        malformed = Malformed.__name__
        if malformed in error_types:
            raise_if_error(Malformed(message=table.column("error")[error_types.index(malformed)].as_py()))
