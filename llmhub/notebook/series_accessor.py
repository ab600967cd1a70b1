"""``series.llm``: completions of a series, returned as the same kind with the same index."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar, Unpack, cast

import pyarrow as pa

from llmhub import api
from llmhub.api import (
    EmbeddingOptions,
    MapOptions,
    MessageOptions,
    RowOptions,
)
from llmhub.api.raising import keep_table
from llmhub.api.signatures import shows_options
from llmhub.hub import Hub
from llmhub.notebook import token_counts
from llmhub.notebook.token_counts import CountOptions
from llmhub.tables import frames
from llmhub.tables.pandas_types import DtypeBackend
from llmhub.tables.result_frames import accepted_texts
from llmhub.tables.rows import Row
from llmhub.tables.structured_outputs import (
    extract_labels,
    parse_labels,
    struct_fields_table,
    with_label_options,
)
from llmhub.tables.templates import SERIES_FIELD

S = TypeVar("S")


class SeriesAccessor(Generic[S]):
    """Accessor ``series.llm`` of a series of texts."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __repr__(self) -> str:
        """Return the kind of the series and the methods."""
        return accessor_repr(self, self._values)

    @shows_options(RowOptions)
    def complete(
        self,
        prompt: str = "",
        *,
        model: str,
        hub: Hub | None = None,
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[RowOptions],
    ) -> S:
        """Send a prompt for every value, and return the responses as a series, null where there is none.

        Parameters
        ----------
        prompt
            Instructions; the value replaces ``{}``, or follows after an empty line.
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        dtype_backend
            Type of the strings in a pandas Series, as in `FrameAccessor.complete`.
        **options
            See `llmhub.complete_table`.

        Returns
        -------
        series of the same kind
            Texts with the same index and name; with ``schema=``, structs of typed fields.
        """
        frames.require_dtype_backend(self._values, dtype_backend)
        table = api.complete_series(self._values, prompt, model=model, hub=hub, **options)
        with keep_table(table):
            column = table.column("parsed") if options.get("schema") else accepted_texts(table)
            return cast("S", frames.series_like(self._values, column, dtype_backend))

    @shows_options(EmbeddingOptions)
    def embed(
        self,
        *,
        model: str,
        hub: Hub | None = None,
        dtype_backend: DtypeBackend | None = None,
        **options: Unpack[EmbeddingOptions],
    ) -> Any:
        """Embed every value, and return the vectors as a series, null where there is none.

        Parameters
        ----------
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        dtype_backend
            ``"pyarrow"`` for fixed-size lists in a pandas Series.

        Returns
        -------
        series of the same kind
            In pandas, float32 arrays that share one matrix, which `llmhub.matrix` returns; in polars an ``Array``; in
            Arrow a fixed-size list. See `llmhub.embed_table` for errors and costs.
        """
        frames.require_dtype_backend(self._values, dtype_backend)
        table = api.embed_series(self._values, model=model, hub=hub, **options)
        with keep_table(table):
            return frames.series_like(self._values, table.column("embedding"), dtype_backend)

    @shows_options(MessageOptions)
    def classify(
        self,
        prompt: str = "",
        *,
        labels: Any,
        model: str,
        hub: Hub | None = None,
        **options: Unpack[MessageOptions],
    ) -> S:
        """Send a prompt for every value, and return one of several labels for each (see `FrameAccessor.classify`).

        Parameters
        ----------
        prompt, model, hub, **options
            As in `complete`.
        labels
            Texts or numbers, an enum, or a mapping of labels to descriptions.

        Returns
        -------
        series of the same kind
            Labels with the same index and name, null where there is none.
        """
        known = parse_labels(labels)
        prepared = with_label_options(known, labels, dict(options), template=False)
        table = api.complete_series(self._values, prompt, model=model, hub=hub, **prepared)
        with keep_table(table):
            result: S = frames.series_like(self._values, extract_labels(table, known)[1])
            return result

    @shows_options(MessageOptions)
    def extract(
        self,
        prompt: str = "",
        *,
        schema: Any,
        model: str,
        hub: Hub | None = None,
        **options: Unpack[MessageOptions],
    ) -> Any:
        """Send a prompt for every value, and return the fields of its structured output as a frame.

        Parameters
        ----------
        prompt, model, hub, **options
            As in `complete`.
        schema
            A pydantic model, a dataclass or a JSON schema.

        Returns
        -------
        frame of the same kind
            A typed column per field, with the index of the series; null without an answer (see `FrameAccessor.extract`
            for errors and costs).
        """
        given: dict[str, Any] = {**options, "schema": schema}
        table = api.complete_series(self._values, prompt, model=model, hub=hub, **given)
        with keep_table(table):
            return frames.frame_like(self._values, struct_fields_table(table.column("parsed")))

    @shows_options(MapOptions)
    def map(
        self,
        function: Callable[[Any], Any],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        **options: Unpack[MapOptions],
    ) -> S:
        """Call a function for every value; send the requests it returns, or return its values as a series.

        Parameters
        ----------
        function
            Takes a value; missing values are skipped. It may be a coroutine function, and it may block.
        model, hub, **options
            As in `FrameAccessor.map`.

        Returns
        -------
        series of the same kind
            The values, or for requests the texts of the responses.
        """
        of_row: Callable[[Row], Any] = lambda row: function(row[SERIES_FIELD])  # noqa: E731 - one expression
        if inspect.iscoroutinefunction(function):

            async def of_row(row: Row) -> Any:
                return await function(row[SERIES_FIELD])

        frame = {SERIES_FIELD: frames.series_values(self._values)}
        values = api.map_rows(frame, of_row, model=model, hub=hub, **options)
        column = pa.chunked_array([values]) if isinstance(values, list) else accepted_texts(values)
        result: S = frames.series_like(self._values, column)
        return result

    def count_tokens(self, *, model: str, **options: Unpack[CountOptions]) -> Any:
        """Count the tokens of each text (see `FrameAccessor.count_tokens`)."""
        texts = [None if value is None else str(value) for value in frames.series_values(self._values)]
        return frames.frame_like(self._values, token_counts.count_tokens_table(texts, model, options))


def accessor_repr(accessor: object, frame: Any) -> str:
    """Return what an accessor of a frame or series shows: the kind and the methods."""
    methods = ", ".join(name for name in dir(accessor) if not name.startswith("_"))
    return f"<llmhub methods of a {type(frame).__name__}: {methods}>"
