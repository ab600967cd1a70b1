"""Frames at the border: columns out of whatever kind came in.

A frame is a pandas or polars DataFrame, an Arrow table or batch, a mapping of columns, or anything that exports
``__arrow_c_stream__``. Nothing is imported that was not given.

Kinds of frames: results go back in the kind that came in.

A kind is a record of functions; pandas and polars are not imported unless a frame of theirs is given.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, Hint, InvalidRequest, invalid

if TYPE_CHECKING:
    import pandas as pd
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmhub.tables import frames

ACCEPTED_FRAMES: Final = (
    "a pandas DataFrame or polars DataFrame, a pyarrow Table, a mapping of columns, or anything with __arrow_c_stream__"
)


def is_pandas(frame: object) -> bool:
    """Say whether ``frame`` is a pandas DataFrame, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(frame, pandas.DataFrame)


def pandas_or_arrow(frame: Any) -> Any:
    """Give a frame that has named columns: pandas as it is, all else as an Arrow table.

    Raises
    ------
    InvalidRequestError
        For what is no frame.
    """
    if is_pandas(frame) or isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    said = f"{type(frame).__name__} is no frame; give {ACCEPTED_FRAMES}"
    try:
        if isinstance(frame, Mapping):
            return _table_from_mapping(frame)
        if hasattr(frame, "__arrow_c_stream__"):
            return pa.table(frame)
    except (pa.ArrowException, TypeError, OverflowError) as bad:
        # Columns of unequal length or of several kinds; a stream of something else than rows.
        said = f"{said}. This one cannot be read: {bad}"
    raise BadRequestError(InvalidRequest(path="frame", message=said))


def _table_from_mapping(frame: Mapping[Any, Any]) -> pa.Table:
    """Make a table; a text is a sequence too, but no column."""
    for name, values in frame.items():
        if not isinstance(name, str) or isinstance(values, (str, bytes)):
            raise TypeError(f"{name!r}: {values!r:.80} is no named column")
    return pa.table(dict(frame))


def pandas_or_arrow_names(frame: Any) -> list[str]:
    """Name the columns."""
    return [str(name) for name in (frame.columns if is_pandas(frame) else frame.column_names)]


def column_values(frame: Any, name: str) -> list[Any]:
    """Give a column as Python values, ``None`` where a value is missing (null, nan, NaT).

    Examples
    --------
    >>> column_values(pa.table({"x": [1.5, None, float("nan")]}), "x")
    [1.5, None, None]
    """
    at = pandas_or_arrow_names(frame).index(name)
    if is_pandas(frame):
        return _values_of_pandas(frame.iloc[:, at])
    return _values_of_arrow(frame.column(at))


def series_values(values: Any) -> list[Any]:
    """Give a pandas or polars Series, or an Arrow array, as Python values, ``None`` where one is missing.

    Raises
    ------
    InvalidRequestError
        For what is none of these.
    """
    if is_series(values):
        return _values_of_pandas(values)
    if is_polars(values, "Series"):
        return _values_of_arrow(values.to_arrow())
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return _values_of_arrow(values)
    said = f"{type(values).__name__} is no series; give a pandas or polars Series, or an Arrow array"
    raise BadRequestError(InvalidRequest(path="values", message=said))


def is_series(values: object) -> bool:
    """Say whether ``values`` is a pandas Series, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(values, pandas.Series)


def is_polars(frame: object, kind: str = "DataFrame") -> bool:
    """Say whether ``frame`` is of polars, without importing polars."""
    polars = sys.modules.get("polars")
    return polars is not None and isinstance(frame, getattr(polars, kind))


def _values_of_pandas(values: pd.Series) -> list[Any]:
    if _is_lossless_in_arrow(values.dtype):
        try:
            return _values_of_arrow(pa.Array.from_pandas(values))
        except UnicodeEncodeError:  # a text that has no bytes
            pass
    # Objects are taken one by one: as an Arrow column they would take on one type, and change.
    missing = values.isna().tolist()
    return [None if gone else value for value, gone in zip(values.tolist(), missing, strict=True)]


def _is_lossless_in_arrow(kind: Any) -> bool:
    """Say whether a column of this type holds texts, numbers or truth values, and so is the same in Arrow."""
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    if isinstance(kind, pd.SparseDtype):
        return False
    return isinstance(kind, (pd.ArrowDtype, pd.StringDtype)) or kind.kind in "biuf"


def _values_of_arrow(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    found: list[Any] = values.to_pylist()
    return found


def require_columns(wanted: Sequence[str], frame: Any, argument: str) -> None:
    """Refuse a name that is no column, or that two columns have.

    Raises
    ------
    InvalidRequestError
        Names the argument, the name and the columns there are.
    """
    there = pandas_or_arrow_names(frame)
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            said = f"{name!r} is no column of the frame.{hint} The columns are {', '.join(map(repr, there)) or 'none'}"
            raise BadRequestError(InvalidRequest(path=argument, message=said))
        if there.count(name) > 1:
            raise BadRequestError(
                InvalidRequest(path=argument, message=f"{there.count(name)} columns are named {name!r}; rename one")
            )


@dataclass(frozen=True, slots=True)
class FrameBackend:
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

    take_rows: Callable[[Any, Any], Any]
    select_columns: Callable[[Any, Sequence[int]], Any]
    append_columns: Callable[[Any, pa.Table], Any]
    arrow_column: Callable[[Any, int], Any]
    iter_rows: Callable[[Any], Iterator[Any]]


def backend_of(frame: Any) -> FrameBackend:
    """Find the kind of a frame; of what is neither pandas nor polars it is Arrow."""
    if frames.is_pandas(frame):
        return PANDAS_BACKEND
    return POLARS_BACKEND if frames.is_polars(frame) else ARROW_BACKEND


def native_frame(frame: Any) -> Any:
    """Give a frame as its kind holds it: pandas and polars as they are, all else as an Arrow table.

    Raises
    ------
    InvalidRequestError
        For what is no frame.
    """
    return frame if frames.is_pandas(frame) or frames.is_polars(frame) else frames.pandas_or_arrow(frame)


def column_names(frame: Any) -> list[str]:
    """Name the columns of a frame of any kind."""
    return frames.pandas_or_arrow_names(frame) if backend_of(frame) is not POLARS_BACKEND else list(frame.columns)


def join_results(frame: Any, results: pa.Table, prefix: str) -> Any:
    """Put results beside the rows they answer, index and all; each row as often as it was asked.

    Raises
    ------
    InvalidRequestError
        A column of the frame has the name of a result column.

    Examples
    --------
    >>> join_results(pa.table({"q": ["a", "b"]}), pa.table({"row": [0, 0, 1], "n": [7, 8, 9]}), "llm_").to_pydict()
    {'q': ['a', 'a', 'b'], 'llm_row': [0, 0, 1], 'llm_n': [7, 8, 9]}
    """
    kind = backend_of(frame)
    require_no_name_clash(column_names(frame), results.column_names, prefix)
    left = kind.take_rows(frame, results.column("row").to_numpy())
    return kind.append_columns(left, add_prefix(results, prefix))


def add_prefix(table: pa.Table, prefix: str) -> pa.Table:
    """Put a prefix before the names of all columns, and keep what the schema says of them."""
    if not prefix:
        return table
    fields = [field.with_name(prefix + field.name) for field in table.schema]
    return pa.table(table.columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def require_no_name_clash(existing: Sequence[str], new: Sequence[str], prefix: str) -> None:
    """Refuse result columns that would stand beside a column of the same name.

    Raises
    ------
    InvalidRequestError
        Names the column, and a prefix that is free.
    """
    there = set(existing)
    clash = [name for name in new if prefix + name in there]
    if clash:
        free = next(f"{word}_" for word in PREFIX_SUGGESTIONS if not any(f"{word}_{name}" in there for name in new))
        message = f"the frame has a column {prefix + clash[0]!r}, which is a result column's name; rename it"
        raise invalid("prefix", message, hint=Hint("prefix", free, purpose="rename the result columns"))


PREFIX_SUGGESTIONS: Final = ("llm", "result", "answer", "out", "llmhub", "llm_result", "llm_answer")
"""Beginnings of names that are offered, the first that is free."""


def series_like(values: Any, column: pa.ChunkedArray) -> Any:
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


def series_for_frame(frame: Any, values: list[Any], name: str) -> Any:
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
        raise BadRequestError(InvalidRequest(path="function", message=said)) from bad


def frame_like(values: Any, table: pa.Table) -> Any:
    """Give a table as the kind of frame that belongs to ``values``, a frame or a series, under its index."""
    if frames.is_series(values) or frames.is_pandas(values):
        return _to_arrow_backed_pandas(table).set_index(values.index)
    if frames.is_polars(values) or frames.is_polars(values, "Series"):
        import polars as pl  # noqa: PLC0415 - the caller's frame is polars

        return pl.from_arrow(table)
    return table


def _to_chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _to_arrow_backed_pandas(table: pa.Table) -> Any:
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    return table.to_pandas(types_mapper=pd.ArrowDtype)


# pandas


def _append_pandas(frame: Any, table: pa.Table) -> Any:
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    right = _to_arrow_backed_pandas(table)
    right.index = frame.index
    whole = pd.concat([frame, right], axis=1)
    whole.attrs = dict(frame.attrs)
    return whole


PANDAS_BACKEND: Final = FrameBackend(
    take_rows=lambda frame, rows: frame.iloc[rows],
    select_columns=lambda frame, places: frame.iloc[:, list(places)],
    append_columns=_append_pandas,
    arrow_column=lambda frame, place: _to_chunked(pa.Array.from_pandas(frame.iloc[:, place])),
    iter_rows=lambda frame: (row for _, row in frame.iterrows()),
)


# polars


def _append_polars(frame: Any, table: pa.Table) -> Any:
    import polars as pl  # noqa: PLC0415 - the caller's frame is polars

    right: Any = pl.from_arrow(table)
    return frame.hstack(right.get_columns())


POLARS_BACKEND: Final = FrameBackend(
    take_rows=lambda frame, rows: frame[rows],
    select_columns=lambda frame, places: frame[:, list(places)],
    append_columns=_append_polars,
    arrow_column=lambda frame, place: _to_chunked(frame.to_series(place).to_arrow()),
    iter_rows=lambda frame: frame.iter_rows(named=True),
)


# Arrow


def join_schemas(left: pa.Schema, right: pa.Schema, prefix: str = "") -> pa.Schema:
    """Give the schema of two tables side by side, with the metadata of both except what pandas noted."""
    kept = {key: value for key, value in (left.metadata or {}).items() if key != b"pandas"}
    named = [field.with_name(prefix + field.name) for field in right]
    return pa.schema([*left, *named], metadata={**kept, **(right.metadata or {})})


def _append_arrow(frame: pa.Table, table: pa.Table) -> pa.Table:
    return pa.table([*frame.columns, *table.columns], schema=join_schemas(frame.schema, table.schema))


ARROW_BACKEND: Final = FrameBackend(
    take_rows=lambda frame, rows: frame.take(pa.array(rows)),
    select_columns=lambda frame, places: frame.select(list(places)),
    append_columns=_append_arrow,
    arrow_column=lambda frame, place: frame.column(place),
    iter_rows=lambda frame: iter(frame.to_pylist()),
)
