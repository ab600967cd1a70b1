"""``df.llm`` and ``series.llm``: a frame of prompts becomes a frame of answers of the same kind, with the same index.

The accessors hold nothing but the frame: pandas makes them anew at each access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, Unpack, overload

import pyarrow as pa

from llmhub import api
from llmhub.api import Job, MapOptions, Models, RowOptions, TableOptions, TablePrompt, TypedTableOptions
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import CompletionRequest
from llmhub.hub import Hub
from llmhub.notebook import token_counts
from llmhub.notebook.plot_accessor import PlotAccessor
from llmhub.notebook.series import SeriesAccessor
from llmhub.notebook.show import DEFAULT_ROWS, ResultsView, show
from llmhub.notebook.token_counts import CountOptions
from llmhub.tables import frames
from llmhub.tables import frames as frames_module
from llmhub.tables.plan import Plan
from llmhub.tables.rows import Row
from llmhub.tables.schema import RESULTS
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

OUTCOME_COLUMNS: Final = (
    "row",
    "sample",
    "provider",
    "model",
    "status",
    "error_type",
    "error",
    "response",
    "cost_usd",
    "latency_s",
    "cache_hit",
)
"""Result columns that say how it went, where the answer itself has columns of its own."""
F = TypeVar("F")


class FrameAccessor(Generic[F]):
    """What llmhub does with a frame: ``df.llm``. What comes back is a frame of the same kind."""

    def __init__(self, frame: F) -> None:
        self._frame = frame

    @property
    def plot(self) -> PlotAccessor:
        """Plots of a frame of results: ``df.llm.plot.cost_by_model()``, and the others of `llmhub.plots`."""
        return PlotAccessor(self._frame)

    def complete(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[TableOptions],
    ) -> F:
        """Ask every row, of every model, and put the answers beside the rows.

        Parameters
        ----------
        prompt
            A template over the columns, ``"Summarise: {text}"``, or a function of a row, which gives a text, a
            conversation, or ``None`` to leave the row out.
        model
            ``provider/model``, or several: each row then comes once for each, in long form (see `wide`).
        hub
            Who can be asked; the default hub unless given.
        prefix
            Put before the names of the result columns.
        **options
            See `llmhub.complete_table`: ``system``, ``messages``, ``images``, ``n``, ``temperature``, ...

        Returns
        -------
        frame of the same kind
            The frame's columns and index, and the result columns (Arrow-backed). A row with a missing value in a
            column that is used is not asked: its ``status`` is ``skipped``.

        Raises
        ------
        InvalidRequestError
            Before anything is sent; also when a column has the name of a result column.
        """
        self._expect_room(prefix)
        table = api.complete_table(self._frame, prompt, model=model, hub=hub, **options)
        return self._joined(table, prefix)

    async def acomplete(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[RowOptions],
    ) -> F:
        """Ask every row, awaited (see `complete`)."""
        self._expect_room(prefix)
        table = await api.acomplete_table(self._frame, prompt, model=model, hub=hub, **options)
        return self._joined(table, prefix)

    def submit(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[RowOptions],
    ) -> Job[F]:
        """Begin to ask every row, and give a handle at once (see `llmhub.submit`).

        Returns
        -------
        Job
            Its ``result()`` is what `complete` gives; ``table()`` has what has landed so far, ``stop()`` stops it.
        """
        self._expect_room(prefix)
        job = api.submit(self._frame, prompt, model=model, hub=hub, **options)
        return job.map(lambda table: self._joined(table, prefix))

    def stream(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[RowOptions],
    ) -> Iterator[Any]:
        """Ask every row, and give each as it completes: what `complete` gives, row by row, the quickest first.

        A row of a pandas frame is a Series named by its label; of any other frame, a dict. Closing the iterator early
        sends nothing more.
        """
        self._expect_room(prefix)
        tables = api.stream_table(self._frame, prompt, model=model, hub=hub, **options)
        return self._rows(tables, prefix)

    @overload
    def map(
        self,
        function: Callable[[Row], CompletionRequest | None],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[MapOptions],
    ) -> F: ...
    @overload
    def map(
        self,
        function: Callable[[Row], Any],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[MapOptions],
    ) -> Any: ...
    def map(
        self,
        function: Callable[[Row], Any],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        prefix: str = "",
        **options: Unpack[MapOptions],
    ) -> Any:
        """Call a function of every row; what it gives is asked if that are requests, and else put into a series.

        Parameters
        ----------
        function
            Of a row: ``row["text"]`` or ``row.text``, which skips the row where the value is missing, as
            ``row.get("text")`` does not. It may be a coroutine function, or block, in `llmhub.complete` say.
        model
            ``provider/model`` for requests that name none.
        **options
            See `llmhub.api.map_rows`: ``concurrency``, ``on_error``, ...

        Returns
        -------
        frame or series of the same kind
            Of a function that gives a `CompletionRequest`: the results beside the rows, as from `complete`. Of any
            other: the values, under the same index.
        """
        found = api.map_rows(self._frame, function, model=model, hub=hub, **options)
        if isinstance(found, list):
            return frames_module.series_for_frame(self._frame, found, prefix + "map")
        self._expect_room(prefix)
        return self._joined(found, prefix)

    def extract(
        self,
        prompt: TablePrompt | None = None,
        *,
        schema: Any,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        field_prefix: str = "",
        **options: Unpack[TypedTableOptions],
    ) -> F:
        """Ask every row for an answer of a certain form, and put its fields beside the rows as typed columns.

        Parameters
        ----------
        prompt, model, hub, **options
            As in `complete`.
        schema
            A pydantic model, a dataclass, or a JSON schema.
        prefix
            Put before the names of ``status``, ``error`` and the others that say how it went.
        field_prefix
            Put before the names of the fields.

        Returns
        -------
        frame of the same kind
            The frame's columns and index, a column for each field (null where there is no answer), and how it went. An
            answer that does not fit says so: its ``status`` is ``error``, its ``error_type`` ``Malformed``, its
            ``response`` what the model wrote.

        Raises
        ------
        InvalidRequestError
            Before anything is sent: a field has the name of a column; or it is no schema.
        """
        typing = api.unwrap_or_raise(output_schema(schema))
        names = [field_prefix + one.name for one in typing.arrow_type]
        self._expect_fields(names, prefix, "field_prefix")
        table = api.complete_table(self._frame, prompt, model=model, hub=hub, **{**options, "schema": schema})
        return self._beside(
            table, frames_module.add_prefix(struct_fields_table(table.column("parsed")), field_prefix), prefix
        )

    def classify(
        self,
        prompt: TablePrompt | None = None,
        *,
        labels: Any,
        model: Models,
        hub: Hub | None = None,
        prefix: str = "",
        column: str = LABEL_FIELD,
        **options: Unpack[TypedTableOptions],
    ) -> F:
        """Ask every row for one of several labels.

        Where a provider can be held to a schema, it can say nothing but a label; any other is told in words.

        Parameters
        ----------
        prompt, model, hub, **options
            As in `complete`.
        labels
            Texts or numbers, an enum, or a mapping of labels to what each means.
        prefix
            Put before the names of ``status``, ``error`` and the others that say how it went.
        column
            Name of the column of labels.

        Returns
        -------
        frame of the same kind
            The frame's columns and index, the label (as it was given, however the model wrote it; null where there is
            none), and how it went. An answer that is no label is an error of its row, which says what it was.

        Raises
        ------
        InvalidRequestError
            Before anything is sent: what is given are no labels, or the column's name is taken.
        """
        known = parse_labels(labels)
        self._expect_fields([column], prefix, "column")
        table = api.complete_table(
            self._frame, prompt, model=model, hub=hub, **with_label_options(known, labels, dict(options))
        )
        results, values = extract_labels(table, known)
        return self._beside(results, pa.table({column: values}), prefix)

    def plan(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        pilot: int = 0,
        **options: Unpack[RowOptions],
    ) -> Plan:
        """Say what `complete` would do: calls, cache hits, tokens, USD, minutes (see `llmhub.plan`)."""
        return api.plan(self._frame, prompt, model=model, hub=hub, pilot=pilot, **options)

    def count_tokens(self, prompt: str, *, model: str, **options: Unpack[CountOptions]) -> F:
        """Count the tokens of a text column, or of what a template makes of each row.

        Parameters
        ----------
        prompt
            A column's name, or a template such as ``"Summarise: {text}"``.
        model
            ``provider/model``, or a model's name alone.
        **options
            ``n_jobs``, how many jobs count at once, by any joblib backend; ``memory``, a ``joblib.Memory`` in which
            counts are kept.

        Returns
        -------
        frame of the same kind
            ``tokens`` (null for a missing text) and ``estimated``: whether another tokenizer than the model's own
            counted, because that is not public or could not be had.
        """
        texts = token_counts.render_texts(self._frame, prompt)
        counted: F = frames_module.frame_like(self._frame, token_counts.count_tokens_table(texts, model, options))
        return counted

    def show(self, *, rows: int = DEFAULT_ROWS, columns: Sequence[str] | None = None, prefix: str = "") -> ResultsView:
        """Show results: totals, a line for each model, and the first rows with their answers (see `llmhub.show`)."""
        return show(self._frame, rows=rows, columns=columns, prefix=prefix)

    def wide(self, *values: str, prefix: str = "") -> F:
        """Put the answers to each row side by side: one row for each input row, columns for each model.

        Parameters
        ----------
        *values
            Result columns that each model gets; ``response`` unless given.
        prefix
            What was put before the names of the result columns.

        Returns
        -------
        frame of the same kind
            The columns that are no results, and one named ``provider/model`` for each model (with several values
            ``value provider/model``, with several samples ``provider/model #0``).

        Raises
        ------
        InvalidRequestError
            The frame holds no results in long form, or two answers for the same row, model and sample.
        """
        made: F = wide(self._frame, values or ("response",), prefix)
        return made

    def _expect_room(self, prefix: str, new: Sequence[str] = RESULTS.names) -> None:
        frames_module.require_no_name_clash(frames_module.column_names(self._frame), new, prefix)

    def _expect_fields(self, names: Sequence[str], prefix: str, argument: str) -> None:
        """Refuse names that are taken: by a column of the frame, or by what says how it went."""
        self._expect_room(prefix, OUTCOME_COLUMNS)
        taken = {*frames_module.column_names(self._frame), *(prefix + name for name in OUTCOME_COLUMNS)}
        clash = next((name for name in names if name in taken), None)
        if clash is not None:
            said = f"{clash!r} is the name of another column of what comes back; give another {argument}= or prefix="
            raise BadRequestError(InvalidRequest(path=argument, message=said))

    def _beside(self, results: pa.Table, fields: pa.Table, prefix: str) -> F:
        """Put fields, and how it went, beside the rows they are of."""
        kind = frames_module.backend_of(self._frame)
        rows: F = kind.take_rows(self._frame, results.column("row").to_numpy())
        whole: F = kind.append_columns(
            kind.append_columns(rows, fields), frames_module.add_prefix(results.select(OUTCOME_COLUMNS), prefix)
        )
        return whole

    def _joined(self, table: pa.Table, prefix: str) -> F:
        whole: F = frames_module.join_results(self._frame, table, prefix)
        return whole

    def _rows(self, tables: Iterator[pa.Table], prefix: str) -> Iterator[Any]:
        for table in tables:
            whole = self._joined(table, prefix)
            yield from frames_module.backend_of(whole).iter_rows(whole)


@overload
def llm(frame: pd.DataFrame) -> FrameAccessor[pd.DataFrame]: ...
@overload
def llm(frame: pl.DataFrame) -> FrameAccessor[pl.DataFrame]: ...
@overload
def llm(frame: pd.Series[Any]) -> SeriesAccessor[pd.Series[str]]: ...
@overload
def llm(frame: pl.Series) -> SeriesAccessor[pl.Series]: ...
@overload
def llm(frame: Any) -> FrameAccessor[Any]: ...
def llm(frame: Any) -> FrameAccessor[Any] | SeriesAccessor[Any]:
    """Give the accessor of any frame or series, in a form that type checkers know: ``llmhub.llm(df).complete(...)``.

    A pandas or polars frame gives frames of its kind; an Arrow table, a mapping of columns, or anything else with
    ``__arrow_c_stream__`` gives Arrow tables.

    Raises
    ------
    InvalidRequestError
        For what is neither.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
    if frames.is_series(frame) or frames.is_polars(frame, "Series") or isinstance(frame, (pa.Array, pa.ChunkedArray)):
        return SeriesAccessor(frame)
    if frames.is_polars(frame, "LazyFrame"):
        said = "a LazyFrame has no rows yet; call .collect()"
        raise BadRequestError(InvalidRequest(path="frame", message=said))
    return FrameAccessor(frames_module.native_frame(frame))
