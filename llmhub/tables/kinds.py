"""Kinds of frames: results go back in the kind that came in.

A kind is a record of functions; pandas and polars are not imported unless a frame of theirs is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.tables import frames


@dataclass(frozen=True, slots=True)
class Kind:
    """What is done with frames of one kind.

    Parameters
    ----------
    take
        Rows by their positions, each as often as it is named, index and all.
    keep
        Columns by their positions.
    append
        A frame with the columns of an Arrow table at its right, row by row.
    column
        A column, by its position, as Arrow.
    rows
        The rows, each as its library gives a row: a pandas Series named by its label, else a dict.
    """

    take: Callable[[Any, Any], Any]
    keep: Callable[[Any, Sequence[int]], Any]
    append: Callable[[Any, pa.Table], Any]
    column: Callable[[Any, int], Any]
    rows: Callable[[Any], Iterator[Any]]


def kind_of(frame: Any) -> Kind:
    """Find the kind of a frame; of what is neither pandas nor polars it is Arrow."""
    if frames.is_pandas(frame):
        return PANDAS
    return POLARS if frames.is_polars(frame) else ARROW


def held(frame: Any) -> Any:
    """Give a frame as its kind holds it: pandas and polars as they are, all else as an Arrow table.

    Raises
    ------
    InvalidRequestError
        For what is no frame.
    """
    return frame if frames.is_pandas(frame) or frames.is_polars(frame) else frames.arrow(frame)


def names_of(frame: Any) -> list[str]:
    """Name the columns of a frame of any kind."""
    return frames.names(frame) if kind_of(frame) is not POLARS else list(frame.columns)


def joined(frame: Any, results: pa.Table, prefix: str) -> Any:
    """Put results beside the rows they answer, index and all; each row as often as it was asked.

    Raises
    ------
    InvalidRequestError
        A column of the frame has the name of a result column.

    Examples
    --------
    >>> joined(pa.table({"q": ["a", "b"]}), pa.table({"row": [0, 0, 1], "n": [7, 8, 9]}), "llm_").to_pydict()
    {'q': ['a', 'a', 'b'], 'llm_row': [0, 0, 1], 'llm_n': [7, 8, 9]}
    """
    kind = kind_of(frame)
    clash_free(names_of(frame), results.column_names, prefix)
    left = kind.take(frame, results.column("row").to_numpy())
    return kind.append(left, prefixed(results, prefix))


def prefixed(table: pa.Table, prefix: str) -> pa.Table:
    """Put a prefix before the names of all columns, and keep what the schema says of them."""
    if not prefix:
        return table
    fields = [field.with_name(prefix + field.name) for field in table.schema]
    return pa.table(table.columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def clash_free(taken: Sequence[str], new: Sequence[str], prefix: str) -> None:
    """Refuse result columns that would stand beside a column of the same name.

    Raises
    ------
    InvalidRequestError
        Names the column, and a prefix that is free.
    """
    there = set(taken)
    clash = [name for name in new if prefix + name in there]
    if clash:
        free = next(f"{word}_" for word in WORDS if not any(f"{word}_{name}" in there for name in new))
        said = (
            f"the frame has a column {prefix + clash[0]!r}, which is a result column's name; "
            f"rename it or give prefix={free!r}"
        )
        raise InvalidRequestError(InvalidRequest(path="prefix", message=said))


WORDS: Final = ("llm", "result", "answer", "out", "llmhub", "llm_result", "llm_answer")
"""Beginnings of names that are offered, the first that is free."""


def like(values: Any, column: pa.ChunkedArray) -> Any:
    """Give a column as the kind of series that ``values`` is, under its name and index."""
    if frames.is_series(values):
        import pandas as pd  # noqa: PLC0415 - the caller's series is pandas

        held: Any = pd.arrays.ArrowExtensionArray(column)
        return pd.Series(held, index=values.index, name=values.name)
    if frames.is_polars(values, "Series"):
        import polars as pl  # noqa: PLC0415 - the caller's series is polars

        series: Any = pl.from_arrow(column)
        return series.alias(values.name)
    return column


def series_like(frame: Any, values: list[Any], name: str) -> Any:
    """Give values as the kind of series that belongs to a frame, under its index."""
    if frames.is_pandas(frame):
        import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

        return pd.Series(values, index=frame.index, dtype=None if values else object)
    if frames.is_polars(frame):
        import polars as pl  # noqa: PLC0415 - the caller's frame is polars

        return pl.Series(name, values, strict=False)
    try:
        return pa.chunked_array([pa.array(values)])
    except pa.ArrowException as bad:
        said = f"the values have no Arrow type ({bad}); have the function give texts, numbers, lists or mappings"
        raise InvalidRequestError(InvalidRequest(path="function", message=said)) from bad


def table_like(values: Any, table: pa.Table) -> Any:
    """Give a table as the kind of frame that belongs to ``values``, a frame or a series, under its index."""
    if frames.is_series(values) or frames.is_pandas(values):
        return _arrow_backed(table).set_index(values.index)
    if frames.is_polars(values) or frames.is_polars(values, "Series"):
        import polars as pl  # noqa: PLC0415 - the caller's frame is polars

        return pl.from_arrow(table)
    return table


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _arrow_backed(table: pa.Table) -> Any:
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    return table.to_pandas(types_mapper=pd.ArrowDtype)


# pandas


def _append_pandas(frame: Any, table: pa.Table) -> Any:
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    right = _arrow_backed(table)
    right.index = frame.index
    whole = pd.concat([frame, right], axis=1)
    whole.attrs = dict(frame.attrs)
    return whole


PANDAS: Final = Kind(
    take=lambda frame, rows: frame.iloc[rows],
    keep=lambda frame, places: frame.iloc[:, list(places)],
    append=_append_pandas,
    column=lambda frame, place: _chunked(pa.Array.from_pandas(frame.iloc[:, place])),
    rows=lambda frame: (row for _, row in frame.iterrows()),
)


# polars


def _append_polars(frame: Any, table: pa.Table) -> Any:
    import polars as pl  # noqa: PLC0415 - the caller's frame is polars

    right: Any = pl.from_arrow(table)
    return frame.hstack(right.get_columns())


POLARS: Final = Kind(
    take=lambda frame, rows: frame[rows],
    keep=lambda frame, places: frame[:, list(places)],
    append=_append_polars,
    column=lambda frame, place: _chunked(frame.to_series(place).to_arrow()),
    rows=lambda frame: frame.iter_rows(named=True),
)


# Arrow


def joined_schema(left: pa.Schema, right: pa.Schema, prefix: str = "") -> pa.Schema:
    """Give the schema of two tables side by side, with the metadata of both except what pandas noted."""
    kept = {key: value for key, value in (left.metadata or {}).items() if key != b"pandas"}
    named = [field.with_name(prefix + field.name) for field in right]
    return pa.schema([*left, *named], metadata={**kept, **(right.metadata or {})})


def _append_arrow(frame: pa.Table, table: pa.Table) -> pa.Table:
    return pa.table([*frame.columns, *table.columns], schema=joined_schema(frame.schema, table.schema))


ARROW: Final = Kind(
    take=lambda frame, rows: frame.take(pa.array(rows)),
    keep=lambda frame, places: frame.select(list(places)),
    append=_append_arrow,
    column=lambda frame, place: frame.column(place),
    rows=lambda frame: iter(frame.to_pylist()),
)
