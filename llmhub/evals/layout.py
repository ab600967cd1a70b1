"""Where each answer of a table stands: which row, which model, which sample; and tables of answers as rows x models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.evals.resample import Floats, Longs, Matrix
from llmhub.tables import frames

Flags: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each answer stands.

    Parameters
    ----------
    models
        Provider and model, in order of first appearance.
    which
        Each answer's model, a position in ``models``.
    row
        Each answer's row, counted from 0.
    ids
        What each row is called in the table.
    single
        Whether each row has at most one answer of each model.
    """

    models: tuple[tuple[str, str], ...]
    which: Longs
    row: Longs
    ids: Longs
    single: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names as ``provider/model``."""
        return tuple(f"{provider}/{model}" if provider else model for provider, model in self.models)

    def spread(self, values: Floats, there: Flags) -> tuple[Matrix, Longs]:
        """Give the mean of each row and model over its answers that are ``there``, and each model's answers.

        Returns
        -------
        tuple
            Rows x models, ``nan`` where there is no answer; and how many answers each model has.
        """
        models, size = len(self.models), len(self.ids) * len(self.models)
        cell = self.row[there] * models + self.which[there]
        counts = np.bincount(cell, minlength=size)
        sums = np.bincount(cell, values[there], minlength=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            means: Matrix = (sums / counts).reshape(len(self.ids), models)
        return means, np.bincount(self.which[there], minlength=models)


def layout(table: pa.Table, known: Sequence[str] = ()) -> Layout:
    """Read where each answer of a table stands: its columns ``row``, ``model`` and, if there is one, ``provider``.

    ``known`` names models that have a place even where they have no row.

    Raises
    ------
    InvalidRequestError
        A column is absent, or a row or model is missing.
    """
    frames.expect_columns(("row", "model"), table, "frame")
    names = [_texts(table.column(name)) for name in ("provider", "model") if name in table.column_names]
    row = _filled(table.column("row"), "row").to_numpy()
    words, which = _coded(names)
    ids, codes = np.unique(row, return_inverse=True)
    cells = codes.astype(np.int64) * max(1, len(words)) + which
    single = len(np.unique(cells)) == len(cells)
    found = [(word[0], word[1]) if len(word) > 1 else ("", word[0]) for word in words]
    named = {f"{provider}/{model}" if provider else model for provider, model in found}
    absent = [("", name) if len(names) == 1 else _parted(name) for name in known if name not in named]
    models = tuple(found + absent)
    return Layout(models, which, codes.astype(np.int64).ravel(), ids.astype(np.int64), single)


def _parted(name: str) -> tuple[str, str]:
    provider, _, model = name.partition("/")
    return provider, model


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    return _filled(column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column, "model")


def _filled(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if column.null_count:
        raise InvalidRequestError(
            InvalidRequest(path="frame", message=f"{name!r} has missing values; each row needs one")
        )
    return column


def _coded(columns: Sequence[pa.ChunkedArray]) -> tuple[list[tuple[str, ...]], Longs]:
    """Give numbers to the distinct combinations of several columns, from the first that appears."""
    codes = np.zeros(len(columns[0]), np.int64)
    vocabularies: list[list[Any]] = []
    for column in columns:
        coded = column.combine_chunks().dictionary_encode()
        words = coded.dictionary.to_pylist()
        vocabularies.append(words)
        codes = codes * max(1, len(words)) + coded.indices.to_numpy(zero_copy_only=False)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows = first[order]
    named = [tuple(str(column[int(at)].as_py()) for column in columns) for at in rows]
    return named, place[inverse.ravel()]


def numbers(table: pa.Table, name: str) -> Floats:
    """Give a column as numbers, ``nan`` where it is missing.

    Examples
    --------
    >>> numbers(pa.table({"x": [True, None]}), "x")
    array([ 1., nan])
    """
    column = table.column(name)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    try:
        floats = pc.cast(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as bad:
        said = f"{name!r} is {column.type}, which is no number: {bad}"
        raise InvalidRequestError(InvalidRequest(path="scores", message=said)) from bad
    found: Floats = np.asarray(floats.fill_null(np.nan).to_numpy(), np.float64)
    return found


def codes(values: Sequence[Any]) -> Longs:
    """Give distinct values numbers from 0; equal values, one number.

    Examples
    --------
    >>> codes(["a", "b", "a"])
    array([0, 1, 0])
    """
    known: dict[Any, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)
