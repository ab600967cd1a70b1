"""Scores of a table of answers: what each scorer says of each, and what failed rows are worth.

Where each answer of a table stands: which row, which model, which sample; and tables of answers as rows x models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.evals._scorer import SCORES, TARGET, Scorer, try_score
from llmhub.evals.statistics import FloatArray, FloatMatrix, IntArray
from llmhub.tables import frames

FailurePolicy: TypeAlias = Literal["wrong", "left_out"]


OK: Final = "ok"


ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class ScorerResult:
    """What one scorer says of each answer of a table.

    ``scores`` are ``nan`` where it cannot say; ``counted`` tells which enter the statistics.
    """

    name: str
    version: str
    is_binary: bool
    scores: FloatArray
    counted: BoolArray
    notes: tuple[str | None, ...] = ()


def make_input_rows(columns: Mapping[str, Sequence[Any]], target: str | None) -> list[dict[str, Any]]:
    """Give input rows as scorers see them: the columns, and the target under its own name.

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


@dataclass(frozen=True, slots=True)
class ScoringInput:
    """What is scored: answers, where they stand, and the rows they are to.

    ``responses`` are ``None`` where there is no answer; ``hidden`` names columns that no judge is shown.
    """

    responses: Sequence[str | None]
    layout: ResponseLayout
    rows: Sequence[Mapping[str, Any]]
    hidden: frozenset[str] = frozenset({TARGET})

    def row(self, at: int) -> Mapping[str, Any]:
        """Give the row that an answer is to."""
        return self.rows[int(self.layout.row_index[at])]


def score_responses(one: Scorer, answers: ScoringInput) -> ScorerResult:
    """Score every answer."""
    responses = answers.responses
    scores = np.full(len(responses), np.nan)
    notes: list[str | None] = [None] * len(responses)
    right = True
    for place, response in enumerate(responses):
        if response is None:
            continue
        score, plain = try_score(one, answers.row(place), response)
        right = right and plain
        notes[place] = score.note or None
        if score.value is not None:
            scores[place] = score.value
    return ScorerResult(
        one.name, one.version, right if one.right is None else one.right, scores, ~np.isnan(scores), tuple(notes)
    )


def scores_from_column(table: pa.Table, name: str) -> ScorerResult:
    """Take a column as the scores it holds.

    Raises
    ------
    InvalidRequestError
        It holds no numbers.
    """
    scores = numeric_column(table, name)
    there = ~np.isnan(scores)
    return ScorerResult(name, "", bool(np.isin(scores[there], (0.0, 1.0)).all()), scores, there)


def apply_failure_policy(
    scored: ScorerResult, table: pa.Table, failures: FailurePolicy, worst: float = 0.0
) -> ScorerResult:
    """Say what rows without an answer are worth: a failure the worst, or nothing; what was not asked, nothing."""
    if "status" not in table.column_names:
        return scored
    column = table.column("status")
    status = np.asarray(column.cast(pa.string()).to_numpy(zero_copy_only=False))
    failed, scores = status == ERROR, scored.scores.copy()
    scores[status != OK] = np.nan
    if failures == "wrong":
        scores[failed] = worst
    notes = list(scored.notes) or [None] * len(scores)
    for place in np.flatnonzero(status != OK):
        notes[place] = f"{status[place]}: {'counts as the worst' if not np.isnan(scores[place]) else 'left out'}"
    return replace(scored, scores=scores, counted=~np.isnan(scores), notes=tuple(notes))


def scores_table(table: pa.Table, scored: Sequence[ScorerResult]) -> pa.Table:
    """Put all scores into one table, a scorer after the other."""
    parts = [_part(table, each) for each in scored]
    return pa.concat_tables(parts).unify_dictionaries() if parts else SCORES.empty_table()


def _part(table: pa.Table, scored: ScorerResult) -> pa.Table:
    size = len(table)
    there = table.column_names
    columns = {
        "row": table.column("row"),
        "sample": table.column("sample") if "sample" in there else pa.nulls(size, pa.int32()).fill_null(0),
        "provider": table.column("provider") if "provider" in there else _same("", size),
        "model": table.column("model"),
        "scorer": _same(scored.name, size),
        "version": _same(scored.version, size),
        "score": pa.array(scored.scores, from_pandas=True),
        "right": pa.array(np.full(size, scored.is_binary)),
        "counted": pa.array(scored.counted),
        "note": pa.array(scored.notes, pa.string()) if scored.notes else pa.nulls(size, pa.string()),
    }
    return pa.table([_cast(columns[field.name], field.type) for field in SCORES], schema=SCORES)


def _cast(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Cast, through plain text where words are coded otherwise."""
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return column.cast(pa.string()).dictionary_encode().cast(kind)
    return column.cast(kind)


def _same(word: str, size: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(size, np.int32)), pa.array([word], pa.string()))


BoolArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"


@dataclass(frozen=True, slots=True)
class ResponseLayout:
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
    model_index: IntArray
    row_index: IntArray
    row_ids: IntArray
    one_response_per_cell: bool

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models' names as ``provider/model``."""
        return tuple(f"{provider}/{model}" if provider else model for provider, model in self.models)

    def cell_means(self, values: FloatArray, there: BoolArray) -> tuple[FloatMatrix, IntArray]:
        """Give the mean of each row and model over its answers that are ``there``, and each model's answers.

        Returns
        -------
        tuple
            Rows x models, ``nan`` where there is no answer; and how many answers each model has.
        """
        models, size = len(self.models), len(self.row_ids) * len(self.models)
        cell = self.row_index[there] * models + self.model_index[there]
        counts = np.bincount(cell, minlength=size)
        sums = np.bincount(cell, values[there], minlength=size)
        with np.errstate(invalid="ignore", divide="ignore"):
            means: FloatMatrix = (sums / counts).reshape(len(self.row_ids), models)
        return means, np.bincount(self.model_index[there], minlength=models)


def read_layout(table: pa.Table, known: Sequence[str] = ()) -> ResponseLayout:
    """Read where each answer of a table stands: its columns ``row``, ``model`` and, if there is one, ``provider``.

    ``known`` names models that have a place even where they have no row.

    Raises
    ------
    InvalidRequestError
        A column is absent, or a row or model is missing.
    """
    frames.require_columns(("row", "model"), table, "frame")
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
    return ResponseLayout(models, which, codes.astype(np.int64).ravel(), ids.astype(np.int64), single)


def _parted(name: str) -> tuple[str, str]:
    provider, _, model = name.partition("/")
    return provider, model


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    return _filled(column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column, "model")


def _filled(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if column.null_count:
        raise BadRequestError(InvalidRequest(path="frame", message=f"{name!r} has missing values; each row needs one"))
    return column


def _coded(columns: Sequence[pa.ChunkedArray]) -> tuple[list[tuple[str, ...]], IntArray]:
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


def numeric_column(table: pa.Table, name: str) -> FloatArray:
    """Give a column as numbers, ``nan`` where it is missing.

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
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as bad:
        said = f"{name!r} is {column.type}, which is no number: {bad}"
        raise BadRequestError(InvalidRequest(path="scores", message=said)) from bad
    found: FloatArray = np.asarray(floats.fill_null(np.nan).to_numpy(), np.float64)
    return found


def encode_categories(values: Sequence[Any]) -> IntArray:
    """Give distinct values numbers from 0; equal values, one number.

    Examples
    --------
    >>> encode_categories(["a", "b", "a"])
    array([0, 1, 0])
    """
    known: dict[Any, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)
