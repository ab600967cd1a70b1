"""Data frames at the boundary: read columns from any kind of frame, and return results in the kind that was passed.

A frame is a pandas or polars DataFrame, a polars LazyFrame, a DuckDB relation, an Arrow table or record batch, a
mapping of columns, or any object with ``__arrow_c_stream__``. What is done differently for each kind is in a
`FrameBackend`, a record of functions. No library is imported here unless a frame of it was passed.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import Hint, invalid
from llmhub.tables.pandas_types import DtypeBackend, check_dtype_backend, to_pandas, to_series
from llmhub.tables.schema import SIMULATED, mark_amounts

if TYPE_CHECKING:
    import pandas as pd

ACCEPTED_FRAMES: Final = (
    "a pandas DataFrame, a polars DataFrame or LazyFrame, a DuckDB relation, a pyarrow Table, a mapping of columns, or "
    "anything with __arrow_c_stream__"
)
PREFIX_SUGGESTIONS: Final = ("llm", "result", "answer", "out", "llmhub", "llm_result", "llm_answer")
"""Prefixes proposed when column names clash; the first without a clash is named in the error."""


# Kinds of frames


def is_pandas(frame: object) -> bool:
    """Return whether ``frame`` is a pandas DataFrame, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(frame, pandas.DataFrame)


def is_series(values: object) -> bool:
    """Return whether ``values`` is a pandas Series, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(values, pandas.Series)


def is_polars(frame: object, class_name: str = "DataFrame") -> bool:
    """Return whether ``frame`` is an instance of the polars class of this name, without importing polars."""
    polars = sys.modules.get("polars")
    return polars is not None and isinstance(frame, getattr(polars, class_name))


def is_relation(frame: object) -> bool:
    """Return whether ``frame`` is a DuckDB relation, without importing duckdb."""
    duckdb = sys.modules.get("duckdb")
    return duckdb is not None and isinstance(frame, duckdb.DuckDBPyRelation)


def pandas_or_arrow(frame: Any) -> Any:
    """Return a pandas DataFrame unchanged, and any other frame as an Arrow table of `standard_types`.

    Raises
    ------
    BadRequestError
        ``frame`` is not a frame, or cannot be read.
    """
    return frame if is_pandas(frame) else standard_types(_to_arrow(frame))


def _to_arrow(frame: Any) -> pa.Table:
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if is_polars(frame, "LazyFrame"):
        return pa.table(frame.collect())
    message = f"{type(frame).__name__} is not a frame; pass {ACCEPTED_FRAMES}"
    try:
        if isinstance(frame, Mapping):
            return _table_from_mapping(frame)
        if hasattr(frame, "__arrow_c_stream__"):
            return pa.table(frame)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        # Columns of unequal length or mixed types; a stream of something other than rows.
        message = f"{message}. Reading it failed: {error}"
    raise invalid("frame", message)


def _table_from_mapping(frame: Mapping[Any, Any]) -> pa.Table:
    """Return a table; a string is a sequence, but not a column."""
    for name, values in frame.items():
        if not isinstance(name, str) or isinstance(values, (str, bytes)):
            raise TypeError(f"{name!r}: {values!r:.80} is not a named column")
    try:
        return pa.table(dict(frame))
    except UnicodeEncodeError as error:
        raise invalid("frame", _surrogate_message(frame)) from error


def _surrogate_message(frame: Mapping[str, Any]) -> str:
    """Return which row of which column is no text."""
    for name, values in frame.items():
        for row, value in enumerate(values):
            try:
                pa.array([value])
            except UnicodeEncodeError:
                return (
                    f"column {name!r}, row {row}: half of a surrogate pair, which is no text; pass "
                    "value.encode('utf-8', 'replace').decode(), or a pandas column of objects to fail that row only"
                )
    return "half of a surrogate pair in a column's name or value, which is no text"


def native_frame(frame: Any) -> Any:
    """Return a pandas or polars DataFrame unchanged, a LazyFrame collected, and any other frame as an Arrow table.

    Raises
    ------
    BadRequestError
        ``frame`` is not a frame.
    """
    if is_polars(frame, "LazyFrame"):
        return frame.collect()
    return frame if is_pandas(frame) or is_polars(frame) else pandas_or_arrow(frame)


def to_kind_of(source: Any, frame: Any) -> Any:
    """Return a `native_frame` as the kind of frame that ``source`` is: lazy, or a relation of the same connection."""
    if is_polars(source, "LazyFrame"):
        return frame.lazy()
    if is_relation(source):
        results = mark_amounts(frame)  # noqa: F841 - DuckDB reads the variable that the query names
        return source.query("source", "SELECT * FROM results")
    return frame


def to_table(frame: Any) -> pa.Table:
    """Return any frame as an Arrow table of `standard_types`, without a pandas index.

    Raises
    ------
    BadRequestError
        ``frame`` is not a frame, or a column holds values of several types.
    """
    source = pandas_or_arrow(frame)
    if not is_pandas(source):
        return source
    try:
        table = standard_types(pa.Table.from_pandas(source, preserve_index=False))
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError) as error:
        raise invalid("frame", f"cannot be converted to Arrow: {error}; convert such columns to one type") from error
    mark = {SIMULATED: "true"} if source.attrs.get(SIMULATED) else {}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **mark}) if mark else table


def column_names(frame: Any) -> list[str]:
    """Return the column names of a pandas, polars or Arrow frame."""
    return [str(name) for name in (frame.columns if is_pandas(frame) or is_polars(frame) else frame.column_names)]


def require_columns(names: Sequence[str], frame: Any, argument: str) -> None:
    """Raise unless each name is that of exactly one column of a pandas or Arrow frame.

    Raises
    ------
    BadRequestError
        A column is missing or occurs twice; the message names the argument and the existing columns.
    """
    existing = column_names(frame)
    for name in names:
        if name not in existing:
            raise invalid(argument, missing_column_message(name, existing))
        if existing.count(name) > 1:
            raise invalid(argument, f"{existing.count(name)} columns are named {name!r}; rename one")


def missing_column_message(name: str, existing: Sequence[str]) -> str:
    """Return the error message for an unknown column: the closest name, if any, and all existing ones."""
    close = difflib.get_close_matches(str(name), existing, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{name!r} is not a column of the frame.{hint} Its columns are {', '.join(map(repr, existing)) or 'none'}"


# Arrow types


def standard_types(table: pa.Table) -> pa.Table:
    """Return a table with strings, binaries, lists and dictionaries of the types that all functions of Arrow support.

    polars, DuckDB and others export views, large offsets and other index types. Every frame passes here on entry, so
    nothing else needs to know of them.

    Examples
    --------
    >>> standard_types(pa.table({"t": pa.array(["a"], pa.string_view())})).schema.field("t").type
    DataType(string)
    """
    columns = [standard_column(column) for column in table.columns]
    fields = [field.with_type(column.type) for field, column in zip(table.schema, columns, strict=True)]
    schema = pa.schema(fields, metadata=table.schema.metadata)
    return table if schema.equals(table.schema) else pa.table(columns, schema=schema)


def standard_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of a standard type (see `standard_types`)."""
    standard = _standard_type(column.type, pa.string(), pa.binary())
    if standard == column.type:
        return column
    try:
        return column.cast(standard)
    except pa.ArrowException:  # a chunk of more than two gigabytes
        return column.cast(_standard_type(column.type, pa.large_string(), pa.large_binary()))


def _standard_type(data_type: pa.DataType, string: pa.DataType, binary: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_large_string(data_type) or types.is_string_view(data_type):
        return string
    if types.is_large_binary(data_type) or types.is_binary_view(data_type):
        return binary
    if types.is_dictionary(data_type):
        return pa.dictionary(pa.int32(), _standard_type(data_type.value_type, string, binary))
    if types.is_list(data_type) or types.is_large_list(data_type):
        field = data_type.value_field
        return pa.list_(field.with_type(_standard_type(field.type, string, binary)))
    if types.is_struct(data_type):
        return pa.struct([field.with_type(_standard_type(field.type, string, binary)) for field in data_type])
    return data_type


# Reading values


def column_values(frame: Any, name: str) -> list[Any]:
    """Return a column of a pandas or Arrow frame as Python values, ``None`` where one is missing (null, NaN, NaT).

    Examples
    --------
    >>> column_values(pa.table({"x": [1.5, None, float("nan")]}), "x")
    [1.5, None, None]
    """
    return values_at(frame, column_names(frame).index(name))


def values_at(frame: Any, index: int) -> list[Any]:
    """Return the column at an index as Python values (see `column_values`)."""
    return _values_of_pandas(frame.iloc[:, index]) if is_pandas(frame) else _values_of_arrow(frame.column(index))


class StringColumn(Sequence[Any]):
    """The values of a column of strings, converted when they are read: all of them at once would take them twice.

    Examples
    --------
    >>> column = StringColumn(pa.chunked_array([["a", None], ["b"]]))
    >>> list(column), column[1:], column[-1], len(column)
    (['a', None, 'b'], [None, 'b'], 'b', 3)
    """

    __slots__ = ("_piece", "_values")

    def __init__(self, values: pa.ChunkedArray) -> None:
        self._values = values
        self._piece: tuple[int, list[Any]] = (0, [])

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values."""
        for start in range(0, len(self), STRINGS_AT_ONCE):
            yield from self._values.slice(start, STRINGS_AT_ONCE).to_pylist()

    def __getitem__(self, index: Any) -> Any:
        """Return a value, or a list of those of a slice."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return list(self)[index]
            return self._values.slice(start, max(0, stop - start)).to_pylist()
        index = range(len(self))[index]
        start, piece = self._piece
        if index == start + len(piece):  # rows are mostly read in their order
            start, piece = self._piece = (index, self._values.slice(index, STRINGS_AT_ONCE).to_pylist())
        return piece[index - start] if start <= index < start + len(piece) else self._values[index].as_py()


STRINGS_AT_ONCE: Final = 2_048
"""Values of a `StringColumn` that are converted at a time."""


def string_column(frame: Any, index: int) -> StringColumn | None:
    """Return the column of an Arrow frame at an index if it holds strings."""
    if is_pandas(frame):
        return None
    values = frame.column(index)
    is_string = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return StringColumn(values) if is_string and isinstance(values, pa.ChunkedArray) else None


def series_values(values: Any) -> list[Any]:
    """Return a pandas or polars Series, or an Arrow array, as Python values, ``None`` where one is missing.

    Raises
    ------
    BadRequestError
        ``values`` is none of these.
    """
    if is_series(values):
        return _values_of_pandas(values)
    if is_polars(values, "Series"):
        return _values_of_arrow(_to_chunked(values.to_arrow()))
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return _values_of_arrow(values)
    raise invalid(
        "values", f"{type(values).__name__} is not a series; pass a pandas or polars Series, or an Arrow array"
    )


def _values_of_pandas(values: pd.Series) -> list[Any]:
    if _is_lossless_in_arrow(values.dtype):
        try:
            return _values_of_arrow(pa.Array.from_pandas(values))
        except UnicodeEncodeError:  # lone surrogates
            pass
    # Object columns are converted value by value: Arrow would coerce mixed values to one type.
    missing = values.isna().tolist()
    return [None if is_missing else value for value, is_missing in zip(values.tolist(), missing, strict=True)]


def _is_lossless_in_arrow(dtype: Any) -> bool:
    """Return whether values of this dtype (strings, numbers, booleans) are unchanged by a conversion to Arrow."""
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    if isinstance(dtype, pd.SparseDtype):
        return False
    return isinstance(dtype, (pd.ArrowDtype, pd.StringDtype)) or dtype.kind in "biuf"


def _values_of_arrow(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    python_values: list[Any] = values.to_pylist()
    return python_values


# Joining results


def join_results(frame: Any, results: pa.Table, prefix: str) -> Any:
    """Append result columns to the rows they answer, index included; a row is repeated for each of its results.

    Raises
    ------
    BadRequestError
        A column of ``frame`` has the name of a result column.

    Examples
    --------
    >>> join_results(pa.table({"q": ["a", "b"]}), pa.table({"row": [0, 0, 1], "n": [7, 8, 9]}), "llm_").to_pydict()
    {'q': ['a', 'a', 'b'], 'llm_row': [0, 0, 1], 'llm_n': [7, 8, 9]}
    """
    require_no_name_clash(column_names(frame), results.column_names, prefix)
    return join_rows(frame, results.column("row"), [add_prefix(results, prefix)])


def join_rows(
    frame: Any, rows: pa.ChunkedArray, tables: Iterable[pa.Table | None], dtype_backend: DtypeBackend | None = None
) -> Any:
    """Return these rows of a frame, repeated as given and index included, with the columns of Arrow tables appended."""
    backend, positions = backend_of(frame), rows.to_numpy()
    is_whole = len(positions) == len(frame) and bool((positions == np.arange(len(frame))).all())
    joined = frame if is_whole else backend.take_rows(frame, positions)
    for table in tables:
        if table is not None:
            joined = backend.append_columns(joined, table, dtype_backend)
    return joined


def add_prefix(table: pa.Table, prefix: str) -> pa.Table:
    """Return the table with a prefix on all column names, keeping the metadata."""
    if not prefix:
        return table
    fields = [field.with_name(prefix + field.name) for field in table.schema]
    return pa.table(table.columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def join_schemas(left: pa.Schema, right: pa.Schema, prefix: str = "") -> pa.Schema:
    """Return the schema of two tables side by side, with the metadata of both except that written by pandas."""
    metadata = {key: value for key, value in (left.metadata or {}).items() if key != b"pandas"}
    renamed = [field.with_name(prefix + field.name) for field in right]
    return pa.schema([*left, *renamed], metadata={**metadata, **(right.metadata or {})})


def require_no_name_clash(existing: Sequence[str], new: Sequence[str], prefix: str) -> None:
    """Raise if a new column, prefix included, has the name of an existing one.

    Raises
    ------
    BadRequestError
        Names the column and a prefix without a clash.
    """
    taken = set(existing)
    clashes = [name for name in new if prefix + name in taken]
    if clashes:
        free = next(f"{word}_" for word in PREFIX_SUGGESTIONS if not any(f"{word}_{name}" in taken for name in new))
        message = f"the frame has a column {prefix + clashes[0]!r}, which is a result column's name; rename it"
        raise invalid("prefix", message, hint=Hint("prefix", free, purpose="rename the result columns"))


# New columns of the caller's kind


def series_like(values: Any, column: pa.ChunkedArray, dtype_backend: DtypeBackend | None = None) -> Any:
    """Return an Arrow column as a series of the kind of ``values``, with its name and index."""
    if is_series(values):
        return to_series(column, dtype_backend).set_axis(values.index).rename(values.name)
    if is_polars(values, "Series"):
        import polars as pl  # noqa: PLC0415 - the caller's series is polars

        series: Any = pl.from_arrow(column)
        return series.alias(values.name)
    return column


def series_for_frame(frame: Any, values: list[Any], name: str) -> Any:
    """Return Python values as a series of the kind that belongs to ``frame``, with its index.

    Raises
    ------
    BadRequestError
        For an Arrow frame, if the values have no common Arrow type.
    """
    if is_pandas(frame):
        import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

        return pd.Series(values, index=frame.index, dtype=None if values else object)
    if is_polars(frame):
        import polars as pl  # noqa: PLC0415 - the caller's frame is polars

        return pl.Series(name, values, strict=False)
    try:
        return pa.chunked_array([pa.array(values)])
    except pa.ArrowException as error:
        message = f"its return values have no common Arrow type ({error}); return strings, numbers, lists or mappings"
        raise invalid("function", message) from error


def frame_like(values: Any, table: pa.Table) -> Any:
    """Return a table as a frame of the kind of ``values``, a frame or a series, with its index."""
    if is_series(values) or is_pandas(values):
        return to_pandas(table).set_index(values.index)
    if is_polars(values) or is_polars(values, "Series"):
        import polars as pl  # noqa: PLC0415 - the caller's frame is polars

        return pl.from_arrow(table)
    return table


def require_dtype_backend(frame: Any, dtype_backend: object) -> None:
    """Raise unless ``dtype_backend`` is ``None``, or one that pandas has and ``frame`` is of pandas.

    Raises
    ------
    BadRequestError
        It is another value, or has no effect.
    """
    check_dtype_backend(dtype_backend)
    if dtype_backend is not None and not (is_pandas(frame) or is_series(frame)):
        raise invalid("dtype_backend", "applies to pandas frames only; omit it")


# Backends


@dataclass(frozen=True, slots=True)
class FrameBackend:
    """Operations on one kind of frame.

    Parameters
    ----------
    take_rows
        ``take_rows(frame, positions)``: the rows at these positions, repeated as given, index included.
    select_columns
        ``select_columns(frame, positions)``: the columns at these positions.
    append_columns
        ``append_columns(frame, table, dtype_backend)``: the frame with the columns of an Arrow table of equal length at
        its right; ``dtype_backend`` chooses the types of a pandas frame (see `to_pandas`).
    arrow_column
        ``arrow_column(frame, position)``: a column as a chunked Arrow array.
    iter_rows
        ``iter_rows(frame)``: the rows as the library yields them, a pandas Series named by its label or a dict.
    """

    take_rows: Callable[[Any, Any], Any]
    select_columns: Callable[[Any, Sequence[int]], Any]
    append_columns: Callable[[Any, pa.Table, DtypeBackend | None], Any]
    arrow_column: Callable[[Any, int], Any]
    iter_rows: Callable[[Any], Iterator[Any]]


def backend_of(frame: Any) -> FrameBackend:
    """Return the backend of a frame; Arrow unless it is pandas or polars."""
    if is_pandas(frame):
        return PANDAS_BACKEND
    return POLARS_BACKEND if is_polars(frame) else ARROW_BACKEND


def _to_chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in chunks, of a standard type."""
    return standard_column(column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column]))


def _append_pandas(frame: Any, table: pa.Table, dtype_backend: DtypeBackend | None) -> Any:
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    right = to_pandas(table, dtype_backend)
    right.index = frame.index
    joined = pd.concat([frame, right], axis=1)
    joined.attrs = {**frame.attrs, **right.attrs}
    return joined


def _append_polars(frame: Any, table: pa.Table, _dtype_backend: DtypeBackend | None) -> Any:
    import polars as pl  # noqa: PLC0415 - the caller's frame is polars

    right: Any = pl.from_arrow(mark_amounts(table))
    return frame.hstack(right.get_columns())


def _append_arrow(frame: pa.Table, table: pa.Table, _dtype_backend: DtypeBackend | None) -> pa.Table:
    return pa.table([*frame.columns, *table.columns], schema=join_schemas(frame.schema, table.schema))


PANDAS_BACKEND: Final = FrameBackend(
    take_rows=lambda frame, positions: frame.iloc[positions],
    select_columns=lambda frame, positions: frame.iloc[:, list(positions)],
    append_columns=_append_pandas,
    arrow_column=lambda frame, position: _to_chunked(pa.Array.from_pandas(frame.iloc[:, position])),
    iter_rows=lambda frame: (row for _, row in frame.iterrows()),
)
POLARS_BACKEND: Final = FrameBackend(
    take_rows=lambda frame, positions: frame[positions],
    select_columns=lambda frame, positions: frame[:, list(positions)],
    append_columns=_append_polars,
    arrow_column=lambda frame, position: _to_chunked(frame.to_series(position).to_arrow()),
    iter_rows=lambda frame: frame.iter_rows(named=True),
)
ARROW_BACKEND: Final = FrameBackend(
    take_rows=lambda frame, positions: frame.take(pa.array(positions)),
    select_columns=lambda frame, positions: frame.select(list(positions)),
    append_columns=_append_arrow,
    arrow_column=lambda frame, position: frame.column(position),
    iter_rows=lambda frame: iter(frame.to_pylist()),
)
