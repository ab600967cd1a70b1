"""Scoring of a table of responses: which row and model each response belongs to, its scores, and the failure policy.

Statistics work on matrices of rows x models; `ResponseLayout` maps a long results table, in any order, to them. Scores
that are missing are NaN and never enter the statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import invalid
from llmhub.evals._scorer import SCORES, TARGET, Scorer, try_score
from llmhub.evals.statistics import FloatArray, FloatMatrix, IntArray
from llmhub.tables import frames

BoolArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"
FailurePolicy: TypeAlias = Literal["wrong", "left_out"]
"""Whether a failed row gets the scorer's ``worst`` score or is excluded from the statistics."""

OK: Final = "ok"
ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class ResponseLayout:
    """Position of each response in a matrix of rows x models.

    Parameters
    ----------
    models
        Provider and model, in order of first appearance.
    model_index
        Index into ``models`` of each response.
    row_index
        Row of each response, counted from 0.
    row_ids
        Value of the table's ``row`` column for each row.
    one_response_per_cell
        Whether no model has more than one response to a row.
    """

    models: tuple[tuple[str, str], ...]
    model_index: IntArray
    row_index: IntArray
    row_ids: IntArray
    one_response_per_cell: bool

    @property
    def model_names(self) -> tuple[str, ...]:
        """Model names as ``provider/model``."""
        return tuple(_full_name(provider, model) for provider, model in self.models)

    def cell_means(self, values: FloatArray, mask: BoolArray) -> tuple[FloatMatrix, IntArray]:
        """Average the values of the responses in ``mask`` by row and model.

        Returns
        -------
        tuple
            Means as rows x models, NaN for a cell without responses; and the number of responses of each model.
        """
        n_models, n_cells = len(self.models), len(self.row_ids) * len(self.models)
        cell = self.row_index[mask] * n_models + self.model_index[mask]
        counts = np.bincount(cell, minlength=n_cells)
        sums = np.bincount(cell, values[mask], minlength=n_cells)
        with np.errstate(invalid="ignore", divide="ignore"):
            means: FloatMatrix = (sums / counts).reshape(len(self.row_ids), n_models)
        return means, np.bincount(self.model_index[mask], minlength=n_models)


def read_layout(table: pa.Table, models: Sequence[str] = ()) -> ResponseLayout:
    """Return the layout of a results table from its columns ``row``, ``model`` and, if present, ``provider``.

    ``models`` are added to the layout even if the table has no row of theirs.

    Raises
    ------
    BadRequestError
        A column is missing or has missing values.
    """
    frames.require_columns(("row", "model"), table, "frame")
    model_columns = [_text_column(table, name) for name in ("provider", "model") if name in table.column_names]
    row_ids, row_index = np.unique(_require_complete(table.column("row"), "row").to_numpy(), return_inverse=True)
    row_index = row_index.astype(np.int64).ravel()
    names, model_index = _encode_combinations(model_columns)
    cells = row_index * max(1, len(names)) + model_index
    known = [(name[0], name[1]) if len(name) > 1 else ("", name[0]) for name in names]
    full_names = {_full_name(provider, model) for provider, model in known}
    absent = [("", name) if len(model_columns) == 1 else _split_name(name) for name in models if name not in full_names]
    everyone = known + absent
    # Models that were named stand in the order they were named in, which decides the sides of a pair.
    places = {name: place for place, name in enumerate(models)}
    order = sorted(
        range(len(everyone)), key=lambda index: places.get(_full_name(*everyone[index]), len(places) + index)
    )
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    is_single = len(np.unique(cells)) == len(cells)
    ordered = tuple(everyone[index] for index in order)
    return ResponseLayout(ordered, rank[model_index], row_index, row_ids.astype(np.int64), is_single)


def number_samples(layout: ResponseLayout) -> IntArray:
    """Return the number of each response among those of the same row and model, from 0, in the order of the table."""
    cells = layout.row_index * max(1, len(layout.models)) + layout.model_index
    order = np.argsort(cells, kind="stable")
    ordered = cells[order]
    numbers = np.empty(len(cells), np.int64)
    numbers[order] = np.arange(len(cells)) - np.searchsorted(ordered, ordered, side="left")
    return numbers


def _full_name(provider: str, model: str) -> str:
    return f"{provider}/{model}" if provider else model


def _split_name(name: str) -> tuple[str, str]:
    provider, _, model = name.partition("/")
    return provider, model


def _text_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    return _require_complete(
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column, name
    )


def _require_complete(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return the column; raise if it has missing values."""
    if column.null_count:
        raise invalid("frame", f"column {name!r} has {column.null_count:,} missing values; fill or drop these rows")
    return column


def _encode_combinations(columns: Sequence[pa.ChunkedArray]) -> tuple[list[tuple[str, ...]], IntArray]:
    """Encode the distinct combinations of several columns as integers, in order of first appearance."""
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        encoded = column.combine_chunks().dictionary_encode()
        codes = codes * max(1, len(encoded.dictionary)) + encoded.indices.to_numpy(zero_copy_only=False)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    combinations = [tuple(str(column[int(row)].as_py()) for column in columns) for row in first[order]]
    return combinations, rank[inverse.ravel()]


def numeric_column(table: pa.Table, name: str) -> FloatArray:
    """Return a column as floats; missing values are NaN.

    Examples
    --------
    >>> numeric_column(pa.table({"x": [True, None]}), "x")
    array([ 1., nan])
    """
    column = table.column(name)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    try:
        floats = pc.cast(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise invalid("scores", f"column {name!r} of type {column.type} is not numeric: {error}") from error
    values: FloatArray = np.asarray(floats.fill_null(np.nan).to_numpy(), np.float64)
    return values


def encode_categories(values: Sequence[Any]) -> IntArray:
    """Encode values as integers from 0 in order of first appearance.

    Examples
    --------
    >>> encode_categories(["a", "b", "a"])
    array([0, 1, 0])
    """
    codes: dict[Any, int] = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values], np.int64)


@dataclass(frozen=True, slots=True)
class ScorerResult:
    """Scores that one scorer gave to each response of a table.

    ``scores`` are NaN without a score; ``counted`` marks those that enter the statistics; ``is_binary`` tells correct
    or incorrect (1 or 0) from graded scores.
    """

    name: str
    version: str
    is_binary: bool
    scores: FloatArray
    counted: BoolArray
    notes: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoringInput:
    """Responses to score, their layout, and the input rows.

    ``responses`` are ``None`` for rows without a response; ``hidden`` names columns that are not shown to judges;
    ``failed`` are the positions of failed responses that count as the worst.
    """

    responses: Sequence[str | None]
    layout: ResponseLayout
    rows: Sequence[Mapping[str, Any]]
    hidden: frozenset[str] = frozenset({TARGET})
    failed: frozenset[int] = frozenset()

    def row(self, position: int) -> Mapping[str, Any]:
        """Return the input row of the response at a position."""
        return self.rows[int(self.layout.row_index[position])]


def make_input_rows(columns: Mapping[str, Sequence[Any]], target: str | None) -> list[dict[str, Any]]:
    """Return input rows as scorers read them: by column, with the target column also under ``target``.

    Examples
    --------
    >>> make_input_rows({"q": ["a"], "gold": [1]}, "gold")
    [{'q': 'a', 'gold': 1, 'target': 1}]
    """
    names = tuple(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if target is not None and target != TARGET:
        rows = [{**row, TARGET: row[target]} for row in rows]
    return rows


def score_responses(scorer: Scorer, scoring: ScoringInput) -> ScorerResult:
    """Score every response with a scorer."""
    responses = scoring.responses
    scores = np.full(len(responses), np.nan)
    notes: list[str | None] = [None] * len(responses)
    all_boolean = True
    for position, response in enumerate(responses):
        if response is None:
            continue
        score, is_boolean = try_score(scorer, scoring.row(position), response)
        all_boolean = all_boolean and is_boolean
        notes[position] = score.note or None
        if score.value is not None:
            scores[position] = score.value
    is_binary = all_boolean if scorer.right is None else scorer.right
    return ScorerResult(scorer.name, scorer.version, is_binary, scores, ~np.isnan(scores), tuple(notes))


def scores_from_column(table: pa.Table, name: str) -> ScorerResult:
    """Return the scores in a column of the table.

    Raises
    ------
    BadRequestError
        The column is not numeric.
    """
    scores = numeric_column(table, name)
    known = ~np.isnan(scores)
    return ScorerResult(name, "", bool(np.isin(scores[known], (0.0, 1.0)).all()), scores, known)


def apply_failure_policy(
    result: ScorerResult, table: pa.Table, failures: FailurePolicy, worst: float = 0.0
) -> ScorerResult:
    """Set the scores of rows without a response: failed rows by the policy; rows that were not sent are excluded."""
    if "status" not in table.column_names:
        return result
    status = np.asarray(table.column("status").cast(pa.string()).to_numpy(zero_copy_only=False))
    scores = result.scores.copy()
    scores[status != OK] = np.nan
    if failures == "wrong":
        scores[status == ERROR] = worst
    notes = list(result.notes) or [None] * len(scores)
    for position in np.flatnonzero(status != OK):
        treatment = "left out" if np.isnan(scores[position]) else "counted as the worst score"
        notes[position] = f"{status[position]}: {treatment}"
    return replace(result, scores=scores, counted=~np.isnan(scores), notes=tuple(notes))


def scores_table(table: pa.Table, results: Sequence[ScorerResult]) -> pa.Table:
    """Return the scores of all scorers as one table with schema `SCORES`."""
    parts = [_scores_of_one(table, result) for result in results]
    return pa.concat_tables(parts).unify_dictionaries() if parts else SCORES.empty_table()


def _scores_of_one(table: pa.Table, result: ScorerResult) -> pa.Table:
    size, present = len(table), table.column_names
    columns = {
        "row": table.column("row"),
        "sample": table.column("sample") if "sample" in present else pa.nulls(size, pa.int32()).fill_null(0),
        "provider": table.column("provider") if "provider" in present else _constant_column("", size),
        "model": table.column("model"),
        "scorer": _constant_column(result.name, size),
        "version": _constant_column(result.version, size),
        "score": pa.array(result.scores, from_pandas=True),
        "right": pa.array(np.full(size, result.is_binary)),
        "counted": pa.array(result.counted),
        "note": pa.array(result.notes, pa.string()) if result.notes else pa.nulls(size, pa.string()),
    }
    return pa.table([_cast(columns[field.name], field.type) for field in SCORES], schema=SCORES)


def _cast(column: pa.Array | pa.ChunkedArray, to_type: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Cast a column; strings of any Arrow type become dictionaries of plain strings."""
    if column.type == to_type:
        return column
    if pa.types.is_dictionary(to_type) and not pa.types.is_dictionary(column.type):
        return column.cast(pa.string()).dictionary_encode().cast(to_type)
    return column.cast(to_type)


def _constant_column(value: str, size: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), pa.array([value], pa.string()))
