"""Long form to wide: one row for each input row, and columns for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.tables.frames import FrameBackend, backend_of, column_names, native_frame, require_no_name_clash
from llmhub.tables.schema import RESULTS

KEY_COLUMNS: Final = ("row", "sample", "provider", "model")
"""Result columns that say which row and model a long row is of."""
NO_ROW: Final = -1


def wide(frame: Any, values: Sequence[str], prefix: str = "") -> Any:
    """Put the answers to each input row side by side.

    Parameters
    ----------
    frame
        Results in long form, beside the rows they answer or alone.
    values
        Result columns, or further ones, that each model gets.
    prefix
        What stands before the names of the result columns.

    Returns
    -------
    frame of the same kind
        The columns that are the same whichever model answered, and for each model one named ``provider/model``
        (with several values
        ``value provider/model``; with several samples ``provider/model #0``). Rows in the order in which they first
        appear, index and all; null where a model was not asked.

    Raises
    ------
    InvalidRequestError
        A column is not there, or two rows answer for the same row, model and sample.

    Examples
    --------
    >>> long = pa.table({"t": ["a", "a"], "row": [0, 0], "sample": [0, 0], "provider": ["x", "y"], "model": ["m", "m"],
    ...                  "response": ["A", "B"]})
    >>> wide(long, ["response"]).to_pydict()
    {'t': ['a'], 'x/m': ['A'], 'y/m': ['B']}
    """
    frame = native_frame(frame)
    kind, names = backend_of(frame), column_names(frame)
    wanted = [prefix + value if prefix + value in names else value for value in values]
    _require_columns([prefix + name for name in KEY_COLUMNS] + wanted, names, prefix)
    layout = _compute_layout(*(kind.arrow_column(frame, names.index(prefix + name)) for name in KEY_COLUMNS))
    results = {prefix + name for name in RESULTS.names}
    others = (at for at, name in enumerate(names) if name not in results and name not in wanted)
    kept = [at for at in others if _is_constant_per_row(kind, frame, at, layout)]
    columns = {
        (label if len(wanted) == 1 else f"{value} {label}"): _take_rows(kind, frame, names.index(value), places)
        for value in wanted
        for label, places in layout.label_rows.items()
    }
    require_no_name_clash([names[at] for at in kept], list(columns), "")
    return kind.append_columns(kind.take_rows(kind.select_columns(frame, kept), layout.first_rows), pa.table(columns))


@dataclass(frozen=True, slots=True)
class _WideLayout:
    """Where things are: the first long row of each input row, each label's long row for each, and the first of each."""

    first_rows: Any
    label_rows: dict[str, Any]
    group_starts: Any


def _compute_layout(row: Any, sample: Any, provider: Any, model: Any) -> _WideLayout:
    """Find which long row goes where."""
    rows, samples = (np.asarray(column.to_numpy()).astype(np.int64) for column in (row, sample))
    found, first, which = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first)
    at = np.empty(len(found), np.int64)
    at[order] = np.arange(len(found))
    target = at[which]
    who, what = (_dictionary_codes(column) for column in (provider, model))
    several = bool(len(samples)) and samples.max() > 0
    span = int(samples.max()) + 1 if len(samples) else 1
    codes = (who.codes * max(len(what.words), 1) + what.codes) * span + samples
    labels, begun = np.unique(codes, return_index=True)
    places: dict[str, Any] = {}
    for code in labels[np.argsort(begun)]:
        its = np.flatnonzero(codes == code)
        place = np.full(len(found), NO_ROW, np.int64)
        place[target[its]] = its
        pair, answer = divmod(int(code), span)
        name = "/".join((who.words[pair // len(what.words)], what.words[pair % len(what.words)]))
        if np.count_nonzero(place != NO_ROW) < len(its):
            said = f"row {rows[its[0]]} has more than one answer of {name}, sample {answer}; keep one run at a time"
            raise BadRequestError(InvalidRequest(path="frame", message=said))
        places[f"{name} #{answer}" if several else name] = place
    return _WideLayout(first[order], places, first[which])


@dataclass(frozen=True, slots=True)
class _DictionaryCodes:
    """A column of few words: the words, and which each row has."""

    codes: Any
    words: list[str]


def _dictionary_codes(column: pa.ChunkedArray) -> _DictionaryCodes:
    plain = column.cast(pa.string()).combine_chunks().dictionary_encode(null_encoding="encode")
    plain = plain.unify_dictionaries().combine_chunks() if isinstance(plain, pa.ChunkedArray) else plain
    return _DictionaryCodes(
        plain.indices.to_numpy().astype(np.int64), [str(word) for word in plain.dictionary.to_pylist()]
    )


def _take_rows(kind: FrameBackend, frame: Any, at: int, places: Any) -> Any:
    """Take a column's values in another order, null where there is none."""
    return kind.arrow_column(frame, at).take(pa.array(places, mask=places == NO_ROW))


def _is_constant_per_row(kind: FrameBackend, frame: Any, at: int, layout: _WideLayout) -> bool:
    """Say whether a column says the same in all long rows of an input row: a column of the input does."""
    try:
        column = kind.arrow_column(frame, at)
    except (pa.ArrowException, OverflowError):
        return True  # objects of no one type are no answers
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return bool(column.equals(column.take(pa.array(layout.group_starts))))


def _require_columns(wanted: Sequence[str], names: Sequence[str], prefix: str) -> None:
    missing = next((name for name in wanted if name not in names), None)
    if missing is not None:
        hint = f"its names begin with {prefix!r}" if prefix else "with a prefix on its result columns, give prefix="
        said = f"{missing!r} is no column; wide() takes results in long form ({hint})"
        raise BadRequestError(InvalidRequest(path="frame", message=said))
