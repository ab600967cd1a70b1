"""Embeddings: of a text, of a list, of the rows of a frame; and what they would cost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack, overload

from returns.pipeline import is_successful

from llmhub.api._batch_checks import require_batches
from llmhub.api.default_hub import current_hub
from llmhub.api.options import (
    BatchOptions,
    EmbeddingOptions,
    RunOptions,
    budgets_for,
    positive_int,
    resolve_concurrency,
    unknown_option,
    validate_batch_options,
)
from llmhub.api.raising import (
    keep_table,
    raise_first_row_error,
    raise_if_cache_failed,
    raise_if_error,
    warn_cache_unavailable,
    warn_run_problems,
)
from llmhub.api.signatures import shows_options
from llmhub.cache.modes import CacheMode, resolve_mode, restrict
from llmhub.cache.store import StoreError
from llmhub.core.embedding import TEXT_KINDS, EmbedOptions, EmbedRequest
from llmhub.core.errors import attach_table, invalid
from llmhub.core.protocol import prepare_embedding
from llmhub.core.provider import PackLimits
from llmhub.engine.call import Target
from llmhub.engine.embedding import MAX_PACK_TEXTS, TOKEN_MARGIN, EmbedResult, EmbedSpec
from llmhub.engine.event_loop import StopSignal, run_in_background, run_sync
from llmhub.engine.fan_out_types import CHUNK_SIZE
from llmhub.engine.gc_tuning import relaxed_gc
from llmhub.engine.progress import ProgressSink, ProgressTracker, RunSnapshot
from llmhub.engine.spending import TargetPrices
from llmhub.hub import Hub
from llmhub.progress.display import ProgressDisplay, create_display

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from llmhub.tables.embedding_plan import EmbeddingPlan
    from llmhub.tables.embeddings import FloatMatrix, TextBatch

RUN_OPTIONS: Final = (
    *("concurrency", "progress", "on_error", "budget_usd", "allow_unpriced", "cache"),
    *BatchOptions.__annotations__,
)


@overload
def embed(
    text: str, *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]: ...
@overload
def embed(
    text: list[str] | tuple[str, ...], *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
) -> FloatMatrix: ...
@shows_options(EmbeddingOptions)
def embed(
    text: str | list[str] | tuple[str, ...], *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector of a text, or the matrix of several, as float32.

    Parameters
    ----------
    text
        One text, or a list of them.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.

    Returns
    -------
    numpy.ndarray
        Of shape ``(dimensions,)`` for a text, and ``(len(text), dimensions)`` for a list.

    Raises
    ------
    BadRequestError
        Before anything is sent: a wrong argument, or a provider without embeddings.
    ConnectorError
        A text has no vector. The ``table`` of the exception has the vectors of the others.

    Examples
    --------
    >>> with llmhub.simulate():                                                      # doctest: +SKIP
    ...     llmhub.embed("A cat.", model="openai/text-embedding-3-small").shape
    (1536,)
    """
    return _matrix(text, run_blocking(_run_of_texts(text, model, hub, dict(options))))


@shows_options(EmbeddingOptions)
async def aembed(
    text: str | Sequence[str], *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector of a text, or the matrix of several, awaited (see `embed`)."""
    return _matrix(text, await run_awaited(_run_of_texts(text, model, hub, dict(options))))


@shows_options(EmbeddingOptions)
def embed_table(
    frame: Any, prompt: str, *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
) -> pa.Table:
    """Embed a text for every row of a frame, and return the vectors and their costs as one Arrow table.

    Distinct texts are sent once, in requests of many, and stored in the cache one by one: the next run sends only those
    that are new. A text that the provider refuses is an error of its own rows.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or any object with ``__arrow_c_stream__``.
    prompt
        The name of a column, or a template over the columns such as ``"{title}: {body}"``. A row that lacks a value is
        skipped.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.

    Returns
    -------
    pyarrow.Table
        One row for each row of the frame, with the columns of `llmhub.tables.embeddings.COLUMNS`. ``embedding`` is a
        ``fixed_size_list<float>``; the costs of the rows of a request add up to its cost.

    Raises
    ------
    BadRequestError
        Before anything is sent: the prompt names a column that does not exist, the provider has no embeddings, or an
        option is out of range.
    ConnectorError
        With ``on_error="raise"``, the error of the first failed row. Its ``table`` has the results of all rows.
    """
    return run_blocking(run_of_frame(frame, prompt, model, hub, dict(options)))


@shows_options(EmbeddingOptions)
async def aembed_table(
    frame: Any, prompt: str, *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
) -> pa.Table:
    """Embed a text for every row of a frame, awaited (see `embed_table`)."""
    return await run_awaited(run_of_frame(frame, prompt, model, hub, dict(options)))


@shows_options(EmbeddingOptions)
def embed_series(values: Any, *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]) -> pa.Table:
    """Embed every value of a series, and return the table of results (see `embed_table`)."""
    return run_blocking(build_embedding_run(_texts_of_series(values), model, hub, dict(options)))


@shows_options(EmbeddingOptions)
def plan_embeddings(
    frame: Any, prompt: str, *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
) -> EmbeddingPlan:
    """Estimate what `embed_table` would do: requests, cached texts, tokens and cost in US dollars.

    Nothing is sent, and no credentials are needed.

    Parameters
    ----------
    frame, prompt, model, hub
        As in `embed_table`.
    """
    from llmhub.tables.batch_plan import price_of_mode  # noqa: PLC0415 - imports Arrow
    from llmhub.tables.embedding_plan import (  # noqa: PLC0415 - imports Arrow
        EmbeddingPlan,
        minutes_of_limits,
        plan_requests,
        plan_usd,
    )
    from llmhub.tables.tokenizers import VocabularySource, count_tokens  # noqa: PLC0415 - as above

    given: dict[str, Any] = {**options, "progress": False}
    run = run_of_frame(frame, prompt, model, hub, given, dry_run=True)
    cached = _cached_keys(run)
    texts = [text for text, key in zip(run.batch.texts, run.batch.keys, strict=True) if key not in cached]
    counted = count_tokens(texts, model, VocabularySource(folder=run.hub.settings.tokenizer_folder))
    tokens = sum(counted.counts)
    is_batch, price = run.run_options.mode == "batch", TargetPrices(time.time).lookup(run.target)
    requests = plan_requests(counted.counts, run.limits.texts, TOKEN_MARGIN * run.limits.tokens)
    limits = [run.hub.limits[name] for name in (run.target.provider.name, run.target.name) if name in run.hub.limits]
    return EmbeddingPlan(
        model=run.target.name,
        rows=len(run.batch),
        texts=len(run.batch.texts),
        cached=len(cached),
        requests=len(texts) if is_batch else requests,
        tokens=tokens,
        usd=plan_usd(tokens, price_of_mode(run.target, price, run.run_options.mode)),
        estimated=counted.estimated and bool(texts),
        minutes=0.0 if is_batch else minutes_of_limits(requests, tokens, limits),
        live_usd=plan_usd(tokens, price) if is_batch else None,
    )


@dataclass(frozen=True, slots=True)
class EmbeddingRun:
    """A validated run of embeddings that has not been started."""

    hub: Hub
    target: Target
    batch: TextBatch
    options: EmbedOptions
    run_options: RunOptions
    limits: PackLimits

    def start_display(self, stop: StopSignal | None = None) -> ProgressDisplay | None:
        """Start the progress display. Call it in the thread that executes the notebook cell."""
        if self.run_options.progress is False:
            return None
        sink = ProgressSink(lambda _progress: None, [self.target])
        initial = ProgressTracker(len(self.batch), sink).progress(RunSnapshot(0.0))
        return create_display(self.run_options.progress, initial, stop=stop)

    def spec(self, display: ProgressDisplay | None, run_id: bytes) -> EmbedSpec:
        """Return the work of the run."""
        options = self.run_options
        return EmbedSpec(
            target=self.target,
            texts=self.batch.texts,
            keys=self.batch.keys,
            options=self.options,
            limits=self.limits,
            concurrency=resolve_concurrency(self.hub, options),
            budgets=budgets_for(self.hub, [self.target], options.budget_usd, allow_unpriced=options.allow_unpriced),
            run_id=run_id,
            progress_sink=ProgressSink(display.report, [self.target]) if display is not None else None,
            rows=len(self.batch),
            rows_of=self.batch.rows_of,
        )


def build_embedding_run(
    texts: Sequence[str | None],
    model: str,
    hub: Hub | None,
    options: dict[str, Any],
    *,
    query: str | None = None,
    dry_run: bool = False,
) -> EmbeddingRun:
    """Validate everything that can be checked before sending, and return the run; with a query, one of reranking."""
    from llmhub.tables.embeddings import text_batch  # noqa: PLC0415 - imports Arrow

    hub = hub or current_hub()
    if not isinstance(model, str):
        raise invalid("model", "vectors of several models cannot be compared; pass one 'provider/model'")
    unknown = next((name for name in options if name not in EmbeddingOptions.__annotations__), None)
    if unknown is not None:
        raise unknown_option(unknown, EmbeddingOptions.__annotations__)
    run_options = _run_options(options)
    own = replace(_embed_options(options), query=query)
    target = hub.target(model, allow_unconfigured=dry_run)
    if len(hub.targets(model, allow_unconfigured=dry_run)) > 1:
        message = f"{model!r} is a route, and vectors of several models cannot be compared; name one model"
        raise invalid("model", message)
    resolve_concurrency(hub, run_options)
    batch_size = options.get("batch_size")
    max_texts = MAX_PACK_TEXTS if batch_size is None else positive_int("batch_size", batch_size)
    limits = _limits(target, own, max_texts)
    if not dry_run:
        _require_sendable(target, own)
    if run_options.mode == "batch":
        require_batches(hub, run_options, [target], embeds=True, dry_run=dry_run)
    if hub.redactor is not None:
        texts = [None if text is None else hub.redactor.redact(text) for text in texts]
    with relaxed_gc(len(texts), enabled=hub.tune_gc):
        batch = text_batch(texts, target, own)
    return EmbeddingRun(hub, target, batch, own, run_options, limits)


def _run_options(options: dict[str, Any]) -> RunOptions:
    given = {name: options[name] for name in RUN_OPTIONS if name in options}
    if given.get("concurrency") is not None:
        given["concurrency"] = positive_int("concurrency", given["concurrency"])
    run_options = RunOptions(**given)
    resolve_mode(run_options.cache, CacheMode())
    progress: Any = run_options.progress
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise invalid("progress", f"must be True, False or a function of the progress, not {progress!r}")
    if run_options.on_error not in {"row", "raise"}:
        raise invalid("on_error", f"must be 'row' or 'raise', not {run_options.on_error!r}")
    validate_batch_options(run_options)
    return run_options


def _embed_options(options: dict[str, Any]) -> EmbedOptions:
    dimensions, kind = options.get("dimensions"), options.get("kind")
    if kind is not None and kind not in TEXT_KINDS:
        raise invalid("kind", f"must be 'document' or 'query', not {kind!r}")
    return EmbedOptions(
        dimensions=None if dimensions is None else positive_int("dimensions", dimensions),
        kind=kind,
        extra=options.get("extra") or {},
    )


def _limits(target: Target, options: EmbedOptions, max_texts: int) -> PackLimits:
    """Return the limits of a request, with at most ``max_texts`` texts."""
    service = target.provider.vector_service(options)
    if service is None:
        missing = "embeddings" if options.query is None else "reranking"
        raise invalid("model", f"{target.provider.name} has no {missing}; choose a model of another provider")
    limits = service.limits(target.model)
    return replace(limits, texts=min(limits.texts, max_texts))


def _require_sendable(target: Target, options: EmbedOptions) -> None:
    """Raise if the provider cannot express an option, or the endpoint lacks what it needs."""
    provider = replace(target.provider, authorize=lambda _endpoint, request, _now: request)
    prepared = prepare_embedding(provider, target.endpoint, EmbedRequest(target.model, ("?",), options), time.time())
    raise_if_error(None if is_successful(prepared) else prepared.failure())


def _run_of_texts(text: Any, model: str, hub: Hub | None, options: dict[str, Any]) -> EmbeddingRun:
    if not isinstance(text, Iterable) or isinstance(text, bytes | Mapping) or hasattr(text, "columns"):
        what = f"must be a text or a list of texts, not {type(text).__name__}"
        raise invalid("text", f"{what}; use embed_table for frames")
    texts = [text] if isinstance(text, str) else list(text)
    for index, each in enumerate(texts):
        if not isinstance(each, str):
            raise invalid("text", f"item {index} is {type(each).__name__}, not a string; use embed_table for frames")
    return build_embedding_run(texts, model, hub, {**options, "on_error": "raise"})


def run_of_frame(
    frame: Any,
    prompt: str,
    model: str,
    hub: Hub | None,
    options: dict[str, Any],
    *,
    query: str | None = None,
    dry_run: bool = False,
) -> EmbeddingRun:
    """Validate a run over the rows of a frame, and return it."""
    from llmhub.tables import frames  # noqa: PLC0415 - imports Arrow
    from llmhub.tables.prompt_batch import render_texts  # noqa: PLC0415 - as above

    if not isinstance(prompt, str):
        raise invalid("prompt", f"must be the name of a column or a template, not {type(prompt).__name__}")
    return build_embedding_run(
        render_texts(frames.pandas_or_arrow(frame), prompt), model, hub, options, query=query, dry_run=dry_run
    )


def _texts_of_series(values: Any) -> list[str | None]:
    from llmhub.tables import frames  # noqa: PLC0415 - imports Arrow

    return [None if value is None else str(value) for value in frames.series_values(values)]


def _matrix(text: Any, table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    from llmhub.tables.vectors import matrix  # noqa: PLC0415 - imports Arrow

    vectors = matrix(table.column("embedding"))
    return vectors[0] if isinstance(text, str) else vectors


def _cached_keys(run: EmbeddingRun) -> frozenset[bytes]:
    """Return the keys whose vectors are in the cache, as far as the run may read it."""
    runtime = run.hub.runtime
    store = restrict(runtime.store, resolve_mode(run.run_options.cache, runtime.cache_mode))
    keys = run.batch.keys
    try:
        # In chunks: their vectors are looked up with the keys, and those of all texts may not fit in memory.
        chunks = [keys[start : start + CHUNK_SIZE] for start in range(0, len(keys), CHUNK_SIZE)]
        return frozenset([key for chunk in chunks for key in store.get_many(chunk)] if store is not None else [])
    except StoreError as error:
        warn_cache_unavailable(str(error))
        return frozenset()


def run_blocking(run: EmbeddingRun) -> pa.Table:
    """Send the requests of a run, wait, and return the table of results."""
    return run_sync(partial(run_embedding_table, run, run.start_display()), drain=run.hub.cache is not None)


async def run_awaited(run: EmbeddingRun) -> pa.Table:
    """Send the requests of a run, and return the table of results, awaited on any loop."""
    stop = StopSignal()
    work = run_embedding_table(run, run.start_display(stop), stop)
    return await run_in_background(work, stop if run.hub.cache is not None else None)


async def run_embedding_table(run: EmbeddingRun, display: ProgressDisplay | None, stop: StopSignal) -> pa.Table:
    """Send the requests of a run, and return the table of results."""
    with relaxed_gc(len(run.batch), enabled=run.hub.tune_gc):
        return await _send_and_build(run, display, stop)


async def _send_and_build(run: EmbeddingRun, display: ProgressDisplay | None, stop: StopSignal) -> pa.Table:
    started_at, run_id, problems = time.time(), uuid.uuid4(), list[str]()
    try:
        result = await _send_texts(run, run.spec(display, run_id.bytes), stop)
    except BaseException as error:
        partial_result = getattr(error, "embed_result", None)
        if isinstance(partial_result, EmbedResult):
            del error.embed_result  # type: ignore[attr-defined] # the table takes its place
            attach_table(error, _build(run, partial_result, run_id.hex, started_at, problems))
        raise
    finally:
        if display is not None:
            display.close()
    table = _build(run, result, run_id.hex, started_at, problems)
    with keep_table(table):
        raise_if_cache_failed(result.run)
        _raise_first_error(run, result)
        warn_run_problems(result.run, problems)
    return table


async def _send_texts(run: EmbeddingRun, spec: EmbedSpec, stop: StopSignal) -> EmbedResult:
    runtime, options = run.hub.runtime, run.run_options
    if options.mode == "batch":
        policy = options.batch_policy(StopSignal())
        return await runtime.embed_batches(spec, stop, policy, cache_mode=options.cache)
    return await runtime.embed(spec, stop, cache_mode=options.cache)


def _build(run: EmbeddingRun, result: EmbedResult, run_id: str, started_at: float, problems: list[str]) -> pa.Table:
    from llmhub.tables.embeddings import build_embeddings  # noqa: PLC0415 - imports Arrow

    with_mode = run.run_options.mode == "batch"
    given = (run.batch, run.target, run.options, result, run_id, started_at, problems.append)
    return build_embeddings(*given, with_mode=with_mode)


def _raise_first_error(run: EmbeddingRun, result: EmbedResult) -> None:
    """Raise the error of the first row that has one if ``on_error="raise"``."""
    if run.run_options.on_error == "raise" and run.batch.errors:
        first = min(run.batch.errors)
        failed = next((rows[0] for rows, outcome in _failures(run, result)), len(run.batch))
        if first < failed:
            raise_if_error(run.batch.errors[first])
    raise_first_row_error(run.run_options, result.run.outcomes)


def _failures(run: EmbeddingRun, result: EmbedResult) -> list[tuple[Sequence[int], Any]]:
    pairs = zip(run.batch.rows_of, result.run.outcomes, strict=True)
    return [(rows, outcome) for rows, outcome in pairs if outcome is not None and not _is_ok(outcome)]


def _is_ok(outcome: Any) -> bool:
    return is_successful(outcome.outcome)
