"""``df.llm`` and ``series.llm``: completions of a frame or series, returned as the same kind with the same index.

The accessors have no state but the frame, because pandas creates a new one at each access.

The file is long because each method stands beside the typed forms of its call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, cast, overload

import pyarrow as pa

from llmhub import api
from llmhub.api import (
    ChatOptions,
    EmbeddingOptions,
    Job,
    MapOptions,
    Models,
    RerankOptions,
    RowOptions,
    TableOptions,
    TablePrompt,
    TypedTableOptions,
)
from llmhub.api.raising import keep_table
from llmhub.api.signatures import shows_options
from llmhub.core.errors import invalid
from llmhub.core.types import CompletionRequest
from llmhub.hub import Hub
from llmhub.notebook import token_counts
from llmhub.notebook.conversations import continued, rendered_prompts, with_column
from llmhub.notebook.expression import ExprAccessor
from llmhub.notebook.frame_results import FrameResults
from llmhub.notebook.plot_accessor import PlotAccessor
from llmhub.notebook.series_accessor import SeriesAccessor, accessor_repr
from llmhub.notebook.show import DEFAULT_ROWS, ResultsView, show
from llmhub.notebook.token_counts import CountOptions
from llmhub.tables import frames
from llmhub.tables.embedding_plan import EmbeddingPlan
from llmhub.tables.embeddings import EmbeddingColumns, embedding_columns
from llmhub.tables.pandas_types import DtypeBackend
from llmhub.tables.plan import Plan
from llmhub.tables.prompt_batch import render_texts
from llmhub.tables.rerank_scores import COMPACT as SCORE_COLUMNS
from llmhub.tables.result_frames import ROW, ResultColumns, result_columns
from llmhub.tables.rows import FrameColumns, Row
from llmhub.tables.structured_outputs import (
    LABEL_FIELD,
    extract_labels,
    output_schema,
    parse_labels,
    struct_fields_table,
    with_label_options,
)
from llmhub.tables.wide import wide

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

F = TypeVar("F")
S = TypeVar("S")


class FrameAccessor(Generic[F]):
    """Accessor ``df.llm`` of a frame. Methods return frames of the same kind."""

    def __init__(self, frame: F) -> None:
        self._frame = frame

    def __repr__(self) -> str:
        """Return the kind of the frame and the methods."""
        return accessor_repr(self, self._frame)

    @property
    def plot(self) -> PlotAccessor:
        """Plots of a frame of results, such as ``df.llm.plot.cost_by_model()`` (see `llmhub.plots`)."""
        return PlotAccessor(self._frame)

    @shows_options(TableOptions)
    def complete(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[TableOptions],
    ) -> F:
        """Send a prompt for every row to every model, and return the frame with result columns.

        Parameters
        ----------
        prompt
            A template over the columns, such as ``"Summarise: {text}"``, or a function that takes a row and returns
            text, a conversation, or ``None`` to skip the row.
        model
            ``provider/model``, or several: the result then has one row per input row and model (see `wide`).
        hub
            The hub to use; the default hub if omitted.
        columns
            Result columns: ``"compact"`` for provider, model, response, status, error, cost, latency, tokens and
            cache hit, and for what the call asks for (``row`` with several models, ``sample`` with ``n``, ``parsed``
            with ``schema``, ``ttft_s`` with ``stream``); ``"all"`` for every column of `complete_table`; or the names
            of columns besides the compact ones.
        prefix
            Prefix of the names of the result columns.
        dtype_backend
            ``"pyarrow"`` or ``"numpy_nullable"`` for these types in a pandas frame, as in the readers of pandas.
        **options
            See `llmhub.complete_table`: ``system``, ``messages``, ``images``, ``n``, ``temperature``, ...

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, and the result columns. In pandas they have its own types: categories
            for names, floats for costs and times. A row that lacks a value the prompt uses is not sent; its ``status``
            is ``skipped``. A LazyFrame is collected when it is sent.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or a column with the name of a result column.
        """
        results = self._results(columns, model, options, prefix, dtype_backend)
        return results.join(api.complete_table(results.native, prompt, model=model, hub=hub, **options))

    @shows_options(RowOptions)
    async def acomplete(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[RowOptions],
    ) -> F:
        """Send a prompt for every row, awaited (see `complete`)."""
        results = self._results(columns, model, options, prefix, dtype_backend)
        return results.join(await api.acomplete_table(results.native, prompt, model=model, hub=hub, **options))

    @shows_options(RowOptions)
    def submit(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[RowOptions],
    ) -> Job[F]:
        """Start a run in the background, and return a handle at once (see `llmhub.submit`).

        Returns
        -------
        Job
            ``result()`` returns the frame that `complete` returns; ``table()`` its rows so far; ``stop()`` stops it.
        """
        results = self._results(columns, model, options, prefix, dtype_backend)
        return api.submit(results.native, prompt, model=model, hub=hub, **options).map(results.join)

    @shows_options(RowOptions)
    def stream(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[RowOptions],
    ) -> Iterator[Any]:
        """Send a prompt for every row, and yield each row of the result as it arrives (see `complete`).

        A row of a pandas frame is a Series named by its index label; of any other frame, a dict. Each has ``row``, the
        position of its input row. Closing the iterator early sends nothing more.
        """
        results = self._results(columns, model, options, prefix, dtype_backend, numbered=True)
        return results.iter_rows(api.stream_table(results.native, prompt, model=model, hub=hub, **options))

    @shows_options(ChatOptions)
    def chat(
        self,
        prompt: str | None = None,
        *,
        model: str,
        messages: str = "messages",
        hub: Hub | None = None,
        **options: Unpack[ChatOptions],
    ) -> F:
        """Continue the conversation of every row, and return the frame with the new turns in its column.

        Parameters
        ----------
        prompt
            Template of the user's next message; without it, the model answers the conversation as it is.
        model
            ``provider/model``.
        messages
            Name of the column of conversations; a column that does not exist begins new ones.
        hub
            The hub to use; the default hub if omitted.
        **options

        Returns
        -------
        frame of the same kind
            The frame with the column of conversations, each a list of mappings with ``role`` and ``content``. A row
            whose call failed keeps its conversation.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or several models.

        Warns
        -----
        RuntimeWarning
            Calls of some rows failed.
        """
        if not isinstance(model, str):
            raise invalid("model", "a conversation is with one model; pass one 'provider/model'")
        native = frames.native_frame(self._frame)
        exists = messages in frames.column_names(native)
        given: dict[str, Any] = {**options, **({"messages": messages} if exists else {})}
        table = api.complete_table(native, prompt, model=model, hub=hub, **given)
        before = FrameColumns(native).column(messages) if exists else [None] * table.num_rows
        after = continued(before, rendered_prompts(native, prompt), table)
        return cast("F", frames.to_kind_of(self._frame, with_column(native, messages, after)))

    @overload
    def map(
        self,
        function: Callable[[Row], CompletionRequest | None],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[MapOptions],
    ) -> F: ...
    @overload
    def map(
        self,
        function: Callable[[Row], Any],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[MapOptions],
    ) -> Any: ...
    @shows_options(MapOptions)
    def map(
        self,
        function: Callable[[Row], Any],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[MapOptions],
    ) -> Any:
        """Call a function for every row; send the requests it returns, or return its values as a series.

        Parameters
        ----------
        function
            Takes a row. ``row["text"]`` and ``row.text`` skip the row if the value is missing; ``row.get("text")`` does
            not. It may be a coroutine function, and it may block, for example in `llmhub.complete`.
        model
            ``provider/model`` for requests without a model.
        **options
            See `llmhub.api.map_rows`: ``concurrency``, ``on_error``, ...

        Returns
        -------
        frame or series of the same kind
            If the function returns `CompletionRequest` objects, the frame with result columns as from `complete`;
            otherwise the values with the index of the frame.
        """
        native = frames.native_frame(self._frame)
        values = api.map_rows(native, function, model=model, hub=hub, **options)
        if isinstance(values, list):
            return frames.series_for_frame(native, values, prefix + "map")
        models = values.column("model").unique().to_pylist()
        return self._results(columns, models, options, prefix, dtype_backend).join(values)

    @shows_options(TypedTableOptions)
    def extract(
        self,
        prompt: TablePrompt | None = None,
        *,
        schema: Any,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        field_prefix: str = "",
        **options: Unpack[TypedTableOptions],
    ) -> F:
        """Send a prompt for every row, and return the fields of its structured output as typed columns.

        Parameters
        ----------
        prompt, model, hub, columns, dtype_backend, **options
            As in `complete`.
        schema
            A pydantic model, a dataclass or a JSON schema.
        prefix
            Prefix of ``status``, ``error`` and the other result columns.
        field_prefix
            Prefix of the columns of the fields.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, a column per field (null without an answer), and result columns. A
            response that does not match the schema has the status ``error``, the error type ``Malformed``, and the text
            that the model wrote in ``response``.

        Raises
        ------
        BadRequestError
            Before anything is sent: ``schema`` is not a schema, or a field has the name of another column.
        """
        output = api.unwrap_or_raise(output_schema(schema))
        names = [field_prefix + field.name for field in output.arrow_type]
        results = self._results(columns, model, options, prefix, dtype_backend)
        results.require_free_names(names, "field_prefix")
        table = api.complete_table(results.native, prompt, model=model, hub=hub, **{**options, "schema": schema})
        with keep_table(table):
            return results.join(table, frames.add_prefix(struct_fields_table(table.column("parsed")), field_prefix))

    @shows_options(TypedTableOptions)
    def classify(
        self,
        prompt: TablePrompt | None = None,
        *,
        labels: Any,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        column: str = LABEL_FIELD,
        **options: Unpack[TypedTableOptions],
    ) -> F:
        """Send a prompt for every row, and return one of several labels.

        Models that support a response schema can only return a label; all others are instructed in the system message.

        Parameters
        ----------
        prompt, model, hub, columns, dtype_backend, **options
            As in `complete`.
        labels
            Texts or numbers, an enum, or a mapping of labels to descriptions.
        prefix
            Prefix of ``status``, ``error`` and the other result columns.
        column
            Name of the column of labels.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, the label (in the spelling of ``labels``; null without an answer), and
            result columns. A response that is not a label is an error of its row.

        Raises
        ------
        BadRequestError
            Before anything is sent: ``labels`` are not labels, or ``column`` is the name of another column.
        """
        known = parse_labels(labels)
        results = self._results(columns, model, options, prefix, dtype_backend)
        results.require_free_names([column], "column")
        label_options = with_label_options(known, labels, dict(options))
        table = api.complete_table(results.native, prompt, model=model, hub=hub, **label_options)
        with keep_table(table):
            checked, values = extract_labels(table, known)
            return results.join(checked, pa.table({column: values}))

    @shows_options(EmbeddingOptions)
    def embed(
        self,
        prompt: str,
        *,
        model: str,
        hub: Hub | None = None,
        columns: EmbeddingColumns = "compact",
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[EmbeddingOptions],
    ) -> F:
        """Embed a text for every row, and return the frame with its vectors.

        Parameters
        ----------
        prompt
            The name of a column, or a template over the columns such as ``"{title}: {body}"``.
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        columns
            Result columns: ``"compact"`` for ``embedding``, status, error, cost, tokens and cache hit, ``"all"`` for
            every column of `llmhub.embed_table`, or the names of columns besides the compact ones.
        prefix
            Prefix of the names of the result columns.
        dtype_backend
            ``"pyarrow"`` or ``"numpy_nullable"`` for these types in a pandas frame.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, and the result columns. Vectors are float32 arrays that share one matrix
            in pandas, an ``Array`` in polars, ``FLOAT[n]`` in DuckDB.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or a column with the name of a result column.
        """
        native = frames.native_frame(self._frame)
        frames.require_dtype_backend(native, dtype_backend)
        names = (*embedding_columns(columns), *api.mode_columns(options))
        frames.require_no_name_clash(frames.column_names(native), names, prefix)
        results = FrameResults(self._frame, native, names, prefix, dtype_backend)
        return results.join(api.embed_table(native, prompt, model=model, hub=hub, **options))

    @shows_options(RerankOptions)
    def rerank(
        self,
        query: str,
        prompt: str,
        *,
        model: str,
        hub: Hub | None = None,
        prefix: str = "",
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[RerankOptions],
    ) -> F:
        """Score a text of every row for a query, and return the frame with scores and ranks, in its own order.

        Parameters
        ----------
        query
            What the texts are to be relevant for.
        prompt
            The name of a column, or a template over the columns such as ``"{title}: {body}"``.
        model
            ``provider/model``, such as ``cohere/rerank-v3.5``.
        hub
            The hub to use; the default hub if omitted.
        prefix
            Prefix of the names of the result columns.
        dtype_backend
            ``"pyarrow"`` or ``"numpy_nullable"`` for these types in a pandas frame.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, and score, rank (from 1, the most relevant first), status, error, cost
            and cache hit.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or a column with the name of a result column.
        """
        native = frames.native_frame(self._frame)
        frames.require_dtype_backend(native, dtype_backend)
        frames.require_no_name_clash(frames.column_names(native), SCORE_COLUMNS, prefix)
        results = FrameResults(self._frame, native, SCORE_COLUMNS, prefix, dtype_backend)
        return results.join(api.rerank_table(native, query, prompt, model=model, hub=hub, **options))

    @shows_options(EmbeddingOptions)
    def plan_embeddings(
        self, prompt: str, *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]
    ) -> EmbeddingPlan:
        """Estimate what `embed` would send and cost, without sending (see `llmhub.plan_embeddings`)."""
        return api.plan_embeddings(frames.native_frame(self._frame), prompt, model=model, hub=hub, **options)

    @shows_options(RowOptions)
    def plan(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        pilot: int = 0,
        count_tokens: int = 0,
        **options: Unpack[RowOptions],
    ) -> Plan:
        """Estimate calls, cache hits, tokens, cost and duration of `complete` without sending (see `llmhub.plan`)."""
        native = frames.native_frame(self._frame)
        return api.plan(native, prompt, model=model, hub=hub, pilot=pilot, count_tokens=count_tokens, **options)

    def count_tokens(self, prompt: str, *, model: str, **options: Unpack[CountOptions]) -> F:
        """Count the tokens of a text column, or of a template rendered for each row.

        Parameters
        ----------
        prompt
            Name of a column, or a template such as ``"Summarise: {text}"``.
        model
            ``provider/model``, or the name of a model.
        **options
            ``n_jobs``, the number of processes of any joblib backend; ``memory``, a ``joblib.Memory`` that caches the
            counts.

        Returns
        -------
        frame of the same kind
            ``tokens`` (null for a missing text) and ``estimated``: whether another tokenizer was used, because that of
            the model is not public or could not be downloaded.
        """
        native = frames.native_frame(self._frame)
        texts = render_texts(native, prompt)
        counted = frames.frame_like(native, token_counts.count_tokens_table(texts, model, options))
        return cast("F", frames.to_kind_of(self._frame, counted))

    def show(self, *, rows: int = DEFAULT_ROWS, columns: Sequence[str] | None = None, prefix: str = "") -> ResultsView:
        """Show results: totals, a line per model, and the first rows with their answers (see `llmhub.show`)."""
        return show(self._frame, rows=rows, columns=columns, prefix=prefix)

    def wide(self, *values: str, prefix: str = "") -> F:
        """Return one row per input row, with the answers of the models in columns.

        Parameters
        ----------
        *values
            Columns to return for each model; the labels, the extracted fields, or ``response`` if omitted.
        prefix
            Prefix of the result columns.

        Returns
        -------
        frame of the same kind
            The input columns, and a column ``provider/model`` for each model (``value provider/model`` with several
            values, ``provider/model #0`` with several samples).

        Raises
        ------
        BadRequestError
            The frame has no results in long form, or two answers for the same row, model and sample.
        """
        return cast("F", wide(self._frame, values, prefix))

    def _results(
        self,
        columns: ResultColumns,
        model: Any,
        options: Mapping[str, Any],
        prefix: str,
        dtype_backend: DtypeBackend | None,
        *,
        numbered: bool = False,
    ) -> FrameResults[F]:
        """Validate how results are to be returned, before anything is sent; ``numbered`` ones have their ``row``."""
        native = frames.native_frame(self._frame)
        frames.require_dtype_backend(native, dtype_backend)
        further = (*api.turn_columns(options.get("tools")), *api.mode_columns(options))
        names = (*result_columns(columns, model, options), *further)
        names = (ROW, *names) if numbered and ROW not in names else names
        frames.require_no_name_clash(frames.column_names(native), names, prefix)
        return FrameResults(self._frame, native, names, prefix, dtype_backend)


@overload
def llm(frame: pd.DataFrame) -> FrameAccessor[pd.DataFrame]: ...
@overload
def llm(frame: pl.DataFrame) -> FrameAccessor[pl.DataFrame]: ...
@overload
def llm(frame: pl.LazyFrame) -> FrameAccessor[pl.LazyFrame]: ...
@overload
def llm(frame: pd.Series[Any]) -> SeriesAccessor[pd.Series[str]]: ...
@overload
def llm(frame: pl.Series) -> SeriesAccessor[pl.Series]: ...
@overload
def llm(frame: pl.Expr) -> ExprAccessor: ...
@overload
def llm(frame: Any) -> FrameAccessor[Any]: ...
def llm(frame: Any) -> FrameAccessor[Any] | SeriesAccessor[Any] | ExprAccessor:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
    if frames.is_series(frame) or frames.is_polars(frame, "Series") or isinstance(frame, (pa.Array, pa.ChunkedArray)):
        return SeriesAccessor(frame)
    if frames.is_polars(frame, "Expr"):
        return ExprAccessor(frame)
    is_lazy = frames.is_polars(frame, "LazyFrame") or frames.is_relation(frame)
    return FrameAccessor(frame if is_lazy else frames.native_frame(frame))
