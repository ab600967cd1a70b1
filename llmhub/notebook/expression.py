"""``pl.col("text").llm``: completions as polars expressions.

An expression is evaluated by threads of polars, possibly long after it was built. So its arguments are validated and
its hub is looked up when it is built, and no progress is shown. Expressions are elementwise: polars may filter rows
before they are sent, and evaluate batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

import pyarrow as pa

from llmhub import api
from llmhub.api import EmbeddingOptions, MessageOptions, RowOptions
from llmhub.api.signatures import shows_options
from llmhub.hub import Hub
from llmhub.tables import frames
from llmhub.tables.result_frames import accepted_texts
from llmhub.tables.structured_outputs import extract_labels, output_schema, parse_labels, with_label_options

if TYPE_CHECKING:
    import polars as pl


class ExprAccessor:
    """Accessor ``expr.llm`` of a polars expression of texts, or of structs whose fields a template names."""

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def __repr__(self) -> str:
        """Return the methods."""
        methods = ", ".join(name for name in dir(self) if not name.startswith("_"))
        return f"<llmhub methods of an expression: {methods}>"

    @shows_options(RowOptions)
    def complete(
        self, prompt: str = "", *, model: str, hub: Hub | None = None, **options: Unpack[RowOptions]
    ) -> pl.Expr:
        """Send a prompt for every value, and return the responses, null where there is none.

        Parameters
        ----------
        prompt
            Instructions; the value replaces ``{}``, or follows after an empty line. Of a struct, a template over its
            fields: ``pl.struct("title", "text").llm.complete("{title}: {text}", ...)``.
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.

        Returns
        -------
        polars.Expr
            Texts; with ``schema=``, structs of typed fields.
        """
        output = api.unwrap_or_raise(output_schema(options["schema"])) if options.get("schema") is not None else None
        data_type = pa.string() if output is None else output.arrow_type
        return self._evaluate(prompt, model, hub, dict(options), "parsed" if output else accepted_texts, data_type)

    @shows_options(MessageOptions)
    def classify(
        self, prompt: str = "", *, labels: Any, model: str, hub: Hub | None = None, **options: Unpack[MessageOptions]
    ) -> pl.Expr:
        """Send a prompt for every value, and return one of several labels for each.

        Parameters
        ----------
        prompt, model, hub
            As in `complete`.
        labels
            Texts or numbers, an enum, or a mapping of labels to descriptions.

        Returns
        -------
        polars.Expr
            Labels, null where there is none.
        """
        known = parse_labels(labels)
        prepared = with_label_options(known, labels, dict(options), template=False)
        read: Callable[[pa.Table], Any] = lambda table: extract_labels(table, known)[1]  # noqa: E731 - one expression
        return self._evaluate(prompt, model, hub, prepared, read, pa.array(list(known.values())).type)

    @shows_options(MessageOptions)
    def extract(
        self, prompt: str = "", *, schema: Any, model: str, hub: Hub | None = None, **options: Unpack[MessageOptions]
    ) -> pl.Expr:
        """Send a prompt for every value, and return the fields of its structured output as structs.

        Parameters
        ----------
        prompt, model, hub
            As in `complete`.
        schema
            A pydantic model, a dataclass or a JSON schema.

        Returns
        -------
        polars.Expr
            Structs, null without an answer; ``.struct.unnest()`` makes columns of their fields.
        """
        return self.complete(prompt, model=model, hub=hub, **{**options, "schema": schema})

    @shows_options(EmbeddingOptions)
    def embed(self, *, model: str, hub: Hub | None = None, **options: Unpack[EmbeddingOptions]) -> pl.Expr:
        """Embed every value, and return the vectors, null where there is none.

        Parameters
        ----------
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.

        Returns
        -------
        polars.Expr
            An ``Array`` with ``dimensions=``, because polars has to know the type beforehand; a ``List`` without it.
        """
        import polars as pl  # noqa: PLC0415 - the caller's expression is polars

        call_options: dict[str, Any] = {"progress": False, **options, "model": model, "hub": hub or api.current_hub()}
        api.embed_series(pl.Series([], dtype=pl.String), **call_options)  # validates
        dimensions = options.get("dimensions")
        return_dtype = pl.List(pl.Float32) if dimensions is None else pl.Array(pl.Float32, dimensions)

        def evaluate(values: pl.Series) -> pl.Series:
            column = api.embed_series(values, **call_options).column("embedding")
            series: pl.Series = frames.series_like(values, column)
            return series.cast(return_dtype)

        return self._expr.map_batches(evaluate, return_dtype=return_dtype, is_elementwise=True)

    def _evaluate(
        self,
        prompt: str,
        model: str,
        hub: Hub | None,
        options: dict[str, Any],
        read: str | Callable[[pa.Table], Any],
        data_type: pa.DataType,
    ) -> pl.Expr:
        """Return an expression of what ``read`` returns of the results: a column, or a function of the table."""
        import polars as pl  # noqa: PLC0415 - the caller's expression is polars

        call_options: dict[str, Any] = {"progress": False, **options, "model": model, "hub": hub or api.current_hub()}
        api.complete_series(pl.Series([], dtype=pl.String), "", **call_options)  # type: ignore[arg-type] # validates

        def evaluate(values: pl.Series) -> pl.Series:
            if values.dtype == pl.Struct:
                table = api.complete_table(values.struct.unnest(), prompt, **call_options)
            else:
                table = api.complete_series(values, prompt, **call_options)  # type: ignore[arg-type] # any series
            column = table.column(read) if isinstance(read, str) else read(table)
            series: pl.Series = frames.series_like(values, column)
            return series

        return_dtype = pl.Series(pl.from_arrow(pa.array([], data_type))).dtype
        return self._expr.map_batches(evaluate, return_dtype=return_dtype, is_elementwise=True)
