"""Results in long form to wide form: one row per input row, and columns for each model.

Input columns are not marked as such in a joined frame, so a column counts as input if it has the same value in all
result rows of an input row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import invalid
from llmhub.tables.frames import (
    FrameBackend,
    backend_of,
    column_names,
    native_frame,
    require_no_name_clash,
    to_kind_of,
)
from llmhub.tables.result_frames import answer_columns, require_result_columns, results_table, with_rows
from llmhub.tables.schema import RESULTS

KEY_COLUMNS: Final = ("row", "sample", "provider", "model")
"""Result columns that identify a row of the long form."""
NO_ROW: Final = -1


def wide(frame: Any, values: Sequence[str], prefix: str = "") -> Any:
    """Return results with the models side by side.

    Parameters
    ----------
    frame
        Results in long form, alone or joined to the rows they answer.
    values
        Names of the columns, result columns or others, that each model gets; those with the answers if empty (see
        `answer_columns`).
    prefix
        Prefix of the result columns' names.

    Returns
    -------
    frame of the same kind
        The input columns, and for each model a column named ``provider/model`` (with several values
        ``value provider/model``, with several samples ``provider/model #0``). Rows are in order of first appearance,
        index included; null where a model has no result.

    Raises
    ------
    BadRequestError
        A column is missing, or there are two results for the same row, model and sample.

    Examples
    --------
    >>> long = pa.table({"t": ["a", "a"], "row": [0, 0], "sample": [0, 0], "provider": ["x", "y"], "model": ["m", "m"],
    ...                  "response": ["A", "B"]})
    >>> wide(long, ["response"]).to_pydict()
    {'t': ['a'], 'x/m': ['A'], 'y/m': ['B']}
    """
    native = native_frame(frame)
    backend, names = backend_of(native), column_names(native)
    keys = results_table(native, prefix, KEY_COLUMNS)
    require_result_columns(keys.column_names, ("provider", "model"), "wide")
    layout = _compute_layout(*(with_rows(keys, "wide").column(name) for name in KEY_COLUMNS))
    answers = answer_columns(native, prefix)
    value_columns = [prefix + value if prefix + value in names else value for value in values or answers]
    require_result_columns(names, value_columns, "wide")
    excluded = {*(prefix + name for name in RESULTS.names), *value_columns, *answers}
    others = (index for index, name in enumerate(names) if name not in excluded)
    inputs = [index for index in others if _is_constant_per_row(backend, native, index, layout)]
    columns = {
        (label if len(value_columns) == 1 else f"{value} {label}"): _take_rows(
            backend, native, names.index(value), rows
        )
        for value in value_columns
        for label, rows in layout.label_rows.items()
    }
    require_no_name_clash([names[index] for index in inputs], list(columns), "")
    rows_of_inputs = backend.take_rows(backend.select_columns(native, inputs), layout.first_rows)
    return to_kind_of(frame, backend.append_columns(rows_of_inputs, pa.table(columns), None))


@dataclass(frozen=True, slots=True)
class _WideLayout:
    """Row indices of the long form by row of the wide form.

    Parameters
    ----------
    first_rows
        By wide row: its first long row.
    label_rows
        By model label, then by wide row: its long row, or `NO_ROW`.
    group_starts
        By long row: the first long row with the same input row.
    """

    first_rows: Any
    label_rows: dict[str, Any]
    group_starts: Any


def _compute_layout(row: Any, sample: Any, provider: Any, model: Any) -> _WideLayout:
    rows, samples = (np.asarray(column.to_numpy()).astype(np.int64) for column in (row, sample))
    distinct, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    wide_index = np.empty(len(distinct), np.int64)
    wide_index[order] = np.arange(len(distinct))
    wide_row = wide_index[inverse]
    providers, models = (_dictionary_codes(column) for column in (provider, model))
    has_samples = bool(len(samples)) and samples.max() > 0
    n_samples = int(samples.max()) + 1 if len(samples) else 1
    codes = (providers.codes * max(len(models.words), 1) + models.codes) * n_samples + samples
    labels, label_first = np.unique(codes, return_index=True)
    label_rows: dict[str, Any] = {}
    for code in labels[np.argsort(label_first)]:
        long_rows = np.flatnonzero(codes == code)
        by_wide_row = np.full(len(distinct), NO_ROW, np.int64)
        by_wide_row[wide_row[long_rows]] = long_rows
        pair, sample_number = divmod(int(code), n_samples)
        name = f"{providers.words[pair // len(models.words)]}/{models.words[pair % len(models.words)]}"
        if np.count_nonzero(by_wide_row != NO_ROW) < len(long_rows):
            raise invalid(
                "frame",
                f"row {rows[long_rows[0]]} has more than one result of {name}, sample {sample_number}; "
                "pass the results of one run",
            )
        label_rows[f"{name} #{sample_number}" if has_samples else name] = by_wide_row
    return _WideLayout(first[order], label_rows, first[inverse])


@dataclass(frozen=True, slots=True)
class _DictionaryCodes:
    """A string column as integer codes and the strings they stand for."""

    codes: Any
    words: list[str]


def _dictionary_codes(column: pa.ChunkedArray) -> _DictionaryCodes:
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode(null_encoding="encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    words = [str(word) for word in encoded.dictionary.to_pylist()]
    return _DictionaryCodes(encoded.indices.to_numpy().astype(np.int64), words)


def _take_rows(backend: FrameBackend, frame: Any, index: int, rows: Any) -> Any:
    """Return a column's values at these rows, null for `NO_ROW`."""
    return backend.arrow_column(frame, index).take(pa.array(rows, mask=rows == NO_ROW))


def _is_constant_per_row(backend: FrameBackend, frame: Any, index: int, layout: _WideLayout) -> bool:
    """Return whether a column has the same value in all long rows of an input row."""
    try:
        column = backend.arrow_column(frame, index)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return True  # an object column of mixed types, or of half a surrogate pair, is not a result column
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return bool(column.equals(column.take(pa.array(layout.group_starts))))
