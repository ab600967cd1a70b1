"""Frames at the border: columns out of whatever kind came in.

A frame is a pandas or polars DataFrame, an Arrow table or batch, a mapping of columns, or anything that exports
``__arrow_c_stream__``. Nothing is imported that was not given.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import InvalidRequest, InvalidRequestError

if TYPE_CHECKING:
    import pandas as pd

KINDS: Final = (
    "a pandas DataFrame or polars DataFrame, a pyarrow Table, a mapping of columns, or anything with __arrow_c_stream__"
)


def is_pandas(frame: object) -> bool:
    """Say whether ``frame`` is a pandas DataFrame, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(frame, pandas.DataFrame)


def arrow(frame: Any) -> Any:
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
    said = f"{type(frame).__name__} is no frame; give {KINDS}"
    try:
        if isinstance(frame, Mapping):
            return _of_mapping(frame)
        if hasattr(frame, "__arrow_c_stream__"):
            return pa.table(frame)
    except (pa.ArrowException, TypeError, OverflowError) as bad:
        # Columns of unequal length or of several kinds; a stream of something else than rows.
        said = f"{said}. This one cannot be read: {bad}"
    raise InvalidRequestError(InvalidRequest(path="frame", message=said))


def _of_mapping(frame: Mapping[Any, Any]) -> pa.Table:
    """Make a table; a text is a sequence too, but no column."""
    for name, values in frame.items():
        if not isinstance(name, str) or isinstance(values, (str, bytes)):
            raise TypeError(f"{name!r}: {values!r:.80} is no named column")
    return pa.table(dict(frame))


def names(frame: Any) -> list[str]:
    """Name the columns."""
    return [str(name) for name in (frame.columns if is_pandas(frame) else frame.column_names)]


def column(frame: Any, name: str) -> list[Any]:
    """Give a column as Python values, ``None`` where a value is missing (null, nan, NaT).

    Examples
    --------
    >>> column(pa.table({"x": [1.5, None, float("nan")]}), "x")
    [1.5, None, None]
    """
    at = names(frame).index(name)
    if is_pandas(frame):
        return _of_series(frame.iloc[:, at])
    return _of_array(frame.column(at))


def series(values: Any) -> list[Any]:
    """Give a pandas or polars Series, or an Arrow array, as Python values, ``None`` where one is missing.

    Raises
    ------
    InvalidRequestError
        For what is none of these.
    """
    if is_series(values):
        return _of_series(values)
    if is_polars(values, "Series"):
        return _of_array(values.to_arrow())
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return _of_array(values)
    said = f"{type(values).__name__} is no series; give a pandas or polars Series, or an Arrow array"
    raise InvalidRequestError(InvalidRequest(path="values", message=said))


def is_series(values: object) -> bool:
    """Say whether ``values`` is a pandas Series, without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(values, pandas.Series)


def is_polars(frame: object, kind: str = "DataFrame") -> bool:
    """Say whether ``frame`` is of polars, without importing polars."""
    polars = sys.modules.get("polars")
    return polars is not None and isinstance(frame, getattr(polars, kind))


def _of_series(values: pd.Series) -> list[Any]:
    if _is_plain(values.dtype):
        try:
            return _of_array(pa.Array.from_pandas(values))
        except UnicodeEncodeError:  # a text that has no bytes
            pass
    # Objects are taken one by one: as an Arrow column they would take on one type, and change.
    missing = values.isna().tolist()
    return [None if gone else value for value, gone in zip(values.tolist(), missing, strict=True)]


def _is_plain(kind: Any) -> bool:
    """Say whether a column of this type holds texts, numbers or truth values, and so is the same in Arrow."""
    import pandas as pd  # noqa: PLC0415 - the caller's frame is pandas

    if isinstance(kind, pd.SparseDtype):
        return False
    return isinstance(kind, (pd.ArrowDtype, pd.StringDtype)) or kind.kind in "biuf"


def _of_array(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    found: list[Any] = values.to_pylist()
    return found


def expect_columns(wanted: Sequence[str], frame: Any, argument: str) -> None:
    """Refuse a name that is no column, or that two columns have.

    Raises
    ------
    InvalidRequestError
        Names the argument, the name and the columns there are.
    """
    there = names(frame)
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            said = f"{name!r} is no column of the frame.{hint} The columns are {', '.join(map(repr, there)) or 'none'}"
            raise InvalidRequestError(InvalidRequest(path=argument, message=said))
        if there.count(name) > 1:
            raise InvalidRequestError(
                InvalidRequest(path=argument, message=f"{there.count(name)} columns are named {name!r}; rename one")
            )
