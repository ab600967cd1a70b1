"""What a user calls, and the only place that raises: errors are values below it.

`configure` sets the process's default hub, the one mutable cell; `using` sets it for a block.
"""

from __future__ import annotations

import asyncio
import queue
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, Unpack

from returns.pipeline import is_successful
from returns.result import Failure, Result

from llmhub.core.builder import messages_of
from llmhub.core.codec import request_key
from llmhub.core.errors import Cancelled, InvalidRequest, InvalidRequestError, LLMError, to_exception
from llmhub.core.provider import prepare, validate
from llmhub.core.types import JSON, CompletionRequest, CompletionResponse, Message, Schema, StreamChunk, Tool
from llmhub.engine.call import Answer, Call, Outcome
from llmhub.engine.loop import Stop, run_here, run_sync, submit
from llmhub.engine.run import Progress, as_answer
from llmhub.hub import Hub, default_hub
from llmhub.observe.progress import reporter

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from llmhub.tables.plan import Plan
    from llmhub.tables.prompts import Questions

Prompt: TypeAlias = str | Message | Sequence[str | Message | Mapping[str, object]] | CompletionRequest
Models: TypeAlias = str | Sequence[str]
Report: TypeAlias = Callable[[Progress], None]


class Options(TypedDict, total=False):
    """Parameters of an answer, as in `CompletionRequest`, and the ``system`` turn before it."""

    system: str
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: str | Sequence[str]
    seed: int
    presence_penalty: float
    frequency_penalty: float
    tools: Sequence[Tool]
    tool_choice: str
    response_schema: Schema
    reasoning_effort: str
    reasoning_budget: int
    user: str
    extra: Mapping[str, JSON]
    unsupported: Literal["error", "drop"]


class TableOptions(Options, total=False):
    """What a call over a frame takes besides: see `complete_table`."""

    n: int
    concurrency: int
    progress: bool | Report
    on_error: Literal["row", "raise"]
    stream: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a call over a frame is run."""

    n: int = 1
    concurrency: int | None = None
    progress: bool | Report | None = None
    on_error: Literal["row", "raise"] = "row"
    stream: bool = False


RUN_OPTIONS: Final = frozenset(option.name for option in fields(RunOptions))
REQUEST_OPTIONS: Final = frozenset(CompletionRequest.__dataclass_fields__) - {"model", "messages"} | {"system"}


@dataclass(slots=True)
class _Default:
    hub: Hub | None = None


_DEFAULT: Final = _Default()
_CURRENT: Final[ContextVar[Hub | None]] = ContextVar("llmhub_hub", default=None)


def configure(hub: Hub | None) -> None:
    """Make ``hub`` the process's default; ``None`` goes back to what the environment says."""
    _DEFAULT.hub = hub


@contextmanager
def using(hub: Hub) -> Iterator[Hub]:
    """Make ``hub`` the default inside a block, for this thread or task only."""
    token = _CURRENT.set(hub)
    try:
        yield hub
    finally:
        _CURRENT.reset(token)


def current_hub() -> Hub:
    """Give the hub in force: of the enclosing `using`, of `configure`, or made from the environment."""
    hub = _CURRENT.get() or _DEFAULT.hub
    if hub is None:
        hub = _DEFAULT.hub = default_hub()
    return hub


def complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> CompletionResponse:
    """Ask a model and wait for the answer. Works in scripts, in notebook cells and beside running loops.

    Parameters
    ----------
    prompt
        Text, messages, or a whole `CompletionRequest`.
    model
        ``provider/model``.
    hub
        Who can be asked; the default hub unless given.
    **options
        Parameters of the answer: ``temperature``, ``max_tokens``, ``system``, ...

    Raises
    ------
    ConnectorError
        One class for each kind of failure.
    """
    answer = run_sync(partial(_one, _planned(prompt, model, hub, options)))
    if not is_successful(answer.outcome) and isinstance(answer.outcome.failure(), Cancelled):
        raise KeyboardInterrupt
    return _raised(answer.outcome)


async def acomplete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> CompletionResponse:
    """Ask a model and await the answer (see `complete`); cancelling it cancels the call."""
    answer = await run_here(_one(_planned(prompt, model, hub, options), Stop()))
    return _raised(answer.outcome)


def try_complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> Result[CompletionResponse, LLMError]:
    """Ask a model and give the outcome as a value (see `complete`): for those who compose with ``returns``."""
    try:
        one = _planned(prompt, model, hub, options)
    except InvalidRequestError as error:
        return Failure(error.error)
    return run_sync(partial(_one, one)).outcome


def stream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> Iterator[StreamChunk]:
    """Ask a model and give the answer as it comes; the last chunk holds the whole ``response``.

    Closing the iterator early closes the connection. An answer from the cache comes in one piece.

    Raises
    ------
    ConnectorError
        When it fails, after whatever had come.
    """
    box: queue.SimpleQueue[StreamChunk | None] = queue.SimpleQueue()
    one = replace(_planned(prompt, model, hub, options), on_chunk=box.put)
    future = submit(_one(one, Stop()))
    future.add_done_callback(lambda _: box.put(None))
    try:
        while (chunk := box.get()) is not None:
            yield chunk
        yield from _rest(future.result())
    finally:
        future.cancel()


async def astream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> AsyncIterator[StreamChunk]:
    """Ask a model and give the answer as it comes, awaited (see `stream`)."""
    box: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(chunk: StreamChunk | None) -> None:
        loop.call_soon_threadsafe(box.put_nowait, chunk)

    one = replace(_planned(prompt, model, hub, options), on_chunk=put)
    future = submit(_one(one, Stop()))
    future.add_done_callback(lambda _: put(None))
    try:
        while (chunk := await box.get()) is not None:
            yield chunk
        for chunk in _rest(future.result()):
            yield chunk
    finally:
        future.cancel()


def complete_table(
    frame: Any, prompt: str, *, model: Models, hub: Hub | None = None, **options: Unpack[TableOptions]
) -> pa.Table:
    """Ask every row of a frame, of every model, and give one Arrow table.

    Parameters
    ----------
    frame
        A pandas DataFrame, an Arrow table, a mapping of columns, or anything with ``__arrow_c_stream__``.
    prompt
        A template over its columns: ``"Summarise: {text}"``. A row with a missing value is skipped.
    model
        ``provider/model``, or several.
    hub
        Who can be asked; the default hub unless given.
    **options
        Parameters of the answer as in `complete`, and: ``n``, answers a row; ``concurrency``, calls under way at
        once; ``progress``, whether to show it, or a function that is told; ``on_error``, ``"row"`` to say so in the
        row or ``"raise"`` to raise when all is done; ``stream``, to measure the time to the first token.

    Returns
    -------
    pyarrow.Table
        ``rows x models x n`` rows with the schema `llmhub.tables.schema.RESULTS`, in input order.

    Raises
    ------
    InvalidRequestError
        Before anything is sent: a field that is no column, a model without a provider, a parameter out of range.
    ConnectorError
        With ``on_error="raise"``, the first row's failure; the exception's ``table`` holds all rows.
    """
    return run_sync(partial(_table, _asked(frame, prompt, model, hub, dict(options))))


async def acomplete_table(
    frame: Any, prompt: str, *, model: Models, hub: Hub | None = None, **options: Unpack[TableOptions]
) -> pa.Table:
    """Ask every row of a frame, awaited (see `complete_table`)."""
    return await run_here(_table(_asked(frame, prompt, model, hub, dict(options)), Stop()))


def complete_series(
    values: pd.Series, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[TableOptions]
) -> pa.Table:
    """Ask every value of a pandas Series: in the place of ``{}``, or after the prompt and an empty line."""
    from llmhub.tables import prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    request, run_options = _options(dict(options))
    if run_options.n != 1 or not isinstance(model, str):
        raise InvalidRequestError(
            InvalidRequest(
                path="model" if run_options.n == 1 else "n",
                message="a Series takes one answer a value; use a DataFrame",
            )
        )
    questions = prompts.of_series(values, prompt, _asks(hub, model, request, stream=run_options.stream))
    asked = _Asked(hub, questions, run_options, reporter(run_options.progress))
    return run_sync(partial(_table, asked))


def complete_batches(
    batches: Iterable[pa.RecordBatch],
    prompt: str,
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
    for batch in batches:
        results = complete_table(batch, prompt, model=model, hub=hub, **options)
        yield from scale.batches_of(scale.shifted(results, before))
        before += batch.num_rows


def complete_parallel(
    frame: Any, prompt: str, *, model: Models, hub: Hub | None = None, n_jobs: int = -1, **options: Unpack[TableOptions]
) -> pa.Table:
    """Ask every row of a frame from several processes, where one core cannot keep up with the answers.

    Parameters
    ----------
    n_jobs
        Processes, as joblib counts them: -1 for one a core. ``joblib.parallel_config(backend=...)`` chooses where they
        run (loky, dask, ray, spark). ``concurrency`` and ``limits`` are each process's own; a `DiskCache` is shared.
    **options
        See `complete_table`; ``progress`` is not shown, and ``on_error="raise"`` raises for the first slice that fails.
    """
    import joblib  # noqa: PLC0415 - a third of a second, needed only here

    from llmhub.tables import scale  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    quiet: TableOptions = {**options, "progress": False}
    # What is wrong with the question is said here, before any process is started.
    _asked(frame, prompt, model, hub, dict(quiet))
    parts = scale.slices(frame, scale.expect_jobs(n_jobs))
    work = (joblib.delayed(complete_table)(part, prompt, model=model, hub=hub, **quiet) for _, part in parts)
    results = joblib.Parallel(n_jobs=n_jobs)(work)
    placed = (scale.shifted(result, at) for (at, _), result in zip(parts, results, strict=True))
    return scale.merged(placed, uuid.uuid4().hex)


def plan(frame: Any, prompt: str, *, model: Models, hub: Hub | None = None, **options: Unpack[TableOptions]) -> Plan:
    """Say what a run would do, before anything is sent: calls, cache hits, tokens, USD (see `complete_table`)."""
    from llmhub.tables.plan import plan_of  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    asked = _asked(frame, prompt, model, hub, {**options, "progress": False})
    return plan_of(asked.questions, asked.hub.runtime.store, asked.hub.settings.tokenizer_folder, time.time())


# One request


@dataclass(frozen=True, slots=True)
class _One:
    """One request on its way: whom to ask, what, and who wants to see it come."""

    hub: Hub
    call: Call
    on_chunk: Callable[[StreamChunk], None] | None = None


def _planned(prompt: Prompt, model: str | None, hub: Hub | None, options: Options) -> _One:
    """Check everything that can be known before sending."""
    request = _request(prompt, model, options)
    hub = hub or current_hub()
    if not request.model:
        raise InvalidRequestError(InvalidRequest(path="model", message="no model; give model='provider/model'"))
    target = hub.target(request.model)
    request = replace(request, model=target.model)
    _expect(validate(request))
    return _One(hub, Call(target, request))


def _request(prompt: Prompt, model: str | None, options: Mapping[str, Any]) -> CompletionRequest:
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        raise InvalidRequestError(
            InvalidRequest(path=unknown[0], message=f"no such option; there are {', '.join(sorted(REQUEST_OPTIONS))}")
        )
    given: dict[str, Any] = {name: value for name, value in options.items() if name != "system"}
    if isinstance(prompt, CompletionRequest):
        named: dict[str, Any] = {} if model is None else {"model": model}
        changed = replace(prompt, **given, **named)
        return replace(changed, messages=(*_system(options), *changed.messages)) if "system" in options else changed
    turns = (prompt,) if isinstance(prompt, Message) else messages_of(prompt)
    return CompletionRequest(model=model or "", messages=(*_system(options), *turns), **given)


def _system(options: Mapping[str, Any]) -> tuple[Message, ...]:
    return (Message("system", options["system"]),) if options.get("system") else ()


async def _one(one: _One, stop: Stop) -> Answer:
    """Answer one request from the cache or the provider."""
    target = one.call.target
    try:
        key = request_key(target.provider, target.endpoint, one.call.request)
    except (TypeError, ValueError) as bad:
        return Answer(Failure(InvalidRequest(path="$", message=f"the request has no JSON form: {bad}")))
    call = replace(one.call, on_chunk=one.on_chunk)
    ran = await one.hub.runtime.run(iter([[(0, key, lambda _: call, "")]]), 1, 1, stop)
    _warn_of_store(ran.store_error)
    answer = ran.answers[0]
    assert answer is not None  # noqa: S101 - a run answers every item
    return as_answer(answer)


def _rest(answer: Answer) -> Iterator[StreamChunk]:
    """Give what a stream did not: an answer that came from the cache, or the failure."""
    response = _raised(answer.outcome)
    if answer.cache_hit:
        yield StreamChunk(text=response.text, reasoning=response.reasoning, tool_calls=response.tool_calls)
        yield StreamChunk(response=response)


def _raised(outcome: Outcome) -> CompletionResponse:
    if is_successful(outcome):
        return outcome.unwrap()
    raise to_exception(outcome.failure())


# Frames


@dataclass(frozen=True, slots=True)
class _Asked:
    """A frame on its way."""

    hub: Hub
    questions: Questions
    options: RunOptions
    report: Report | None


def _asked(frame: Any, prompt: str, model: Models, hub: Hub | None, options: dict[str, Any]) -> _Asked:
    """Check everything that can be known before sending."""
    from llmhub.tables import prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    request, run_options = _options(options)
    concurrency = run_options.concurrency
    if concurrency is not None and not 1 <= concurrency <= hub.pool_size:
        said = f"{concurrency} is outside 1..{hub.pool_size}, the connections of a provider; give Hub(pool_size=...)"
        raise InvalidRequestError(InvalidRequest(path="concurrency", message=said))
    asks = _asks(hub, model, request, stream=run_options.stream)
    questions = prompts.of_frame(frame, prompt, asks, run_options.n)
    return _Asked(hub, questions, run_options, reporter(run_options.progress))


def _options(options: dict[str, Any]) -> tuple[CompletionRequest, RunOptions]:
    """Part what shapes the answer from what shapes the run."""
    run_options = RunOptions(**{name: options.pop(name) for name in list(options) if name in RUN_OPTIONS})
    if run_options.n < 1:
        raise InvalidRequestError(InvalidRequest(path="n", message=f"n={run_options.n}; ask for at least one answer"))
    if run_options.on_error not in {"row", "raise"}:
        raise InvalidRequestError(
            InvalidRequest(path="on_error", message=f"{run_options.on_error!r} is not 'row' or 'raise'")
        )
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        known = ", ".join(sorted(REQUEST_OPTIONS | RUN_OPTIONS))
        raise InvalidRequestError(InvalidRequest(path=unknown[0], message=f"no such option; there are {known}"))
    given = {name: value for name, value in options.items() if name != "system"}
    return CompletionRequest(model="", messages=_system(options), **given), run_options


def _asks(hub: Hub, model: Models, request: CompletionRequest, *, stream: bool) -> list[Any]:
    """Resolve the models, and try the parameters on each before any row is sent."""
    from llmhub.tables import prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    names = [model] if isinstance(model, str) else list(model)
    if not names:
        raise InvalidRequestError(
            InvalidRequest(path="model", message="the list of models is empty; give at least one")
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(
            InvalidRequest(path="model", message=f"{twice!r} is given twice; for more answers give n=")
        )
    asks = []
    for name in names:
        target = hub.target(name)
        one = prompts.ask(target, request, stream=stream)
        tried = prepare(target.provider, target.endpoint, one.make("?"), time.time(), stream=stream)
        _expect(None if is_successful(tried) else tried.failure())
        asks.append(one)
    return asks


async def _table(asked: _Asked, stop: Stop) -> pa.Table:
    """Run the questions and make the table."""
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    at = time.time()
    questions, options = asked.questions, asked.options
    concurrency = options.concurrency or asked.hub.concurrency
    ran = await asked.hub.runtime.run(questions.chunks(), len(questions), concurrency, stop, asked.report)
    _warn_of_store(ran.store_error)
    table = results.table(questions, ran, uuid.uuid4().hex, at)
    if options.on_error == "raise":
        outcomes = (answer.outcome for answer in ran.answers if isinstance(answer, Answer))
        failed = next((outcome for outcome in outcomes if not is_successful(outcome)), None)
        if failed is not None:
            error = to_exception(failed.failure())
            error.table = table
            raise error
    return table


def _warn_of_store(error: str) -> None:
    if error:
        warnings.warn(f"the cache failed and was not used further: {error}", RuntimeWarning, stacklevel=2)


def _expect(wrong: LLMError | None) -> None:
    if wrong is not None:
        raise to_exception(wrong)
