"""Scores of a table of answers: what each scorer says of each, and what failed rows are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from llmhub.evals.layout import Flags, Layout, numbers
from llmhub.evals.resample import Floats
from llmhub.evals.score import SCORES, TARGET, Scorer, attempt

Failures: TypeAlias = Literal["wrong", "left_out"]
OK: Final = "ok"
ERROR: Final = "error"


@dataclass(frozen=True, slots=True)
class Scored:
    """What one scorer says of each answer of a table.

    ``scores`` are ``nan`` where it cannot say; ``counted`` tells which enter the statistics.
    """

    name: str
    version: str
    right: bool
    scores: Floats
    counted: Flags
    notes: tuple[str | None, ...] = ()


def rows_of(columns: Mapping[str, Sequence[Any]], target: str | None) -> list[dict[str, Any]]:
    """Give input rows as scorers see them: the columns, and the target under its own name.

    Examples
    --------
    >>> rows_of({"q": ["a"], "gold": [1]}, "gold")
    [{'q': 'a', 'gold': 1, 'target': 1}]
    """
    names = tuple(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if target is not None and target != TARGET:
        rows = [{**row, TARGET: row[target]} for row in rows]
    return rows


@dataclass(frozen=True, slots=True)
class Answers:
    """What is scored: answers, where they stand, and the rows they are to.

    ``responses`` are ``None`` where there is no answer; ``hidden`` names columns that no judge is shown.
    """

    responses: Sequence[str | None]
    layout: Layout
    rows: Sequence[Mapping[str, Any]]
    hidden: frozenset[str] = frozenset({TARGET})

    def row(self, at: int) -> Mapping[str, Any]:
        """Give the row that an answer is to."""
        return self.rows[int(self.layout.row[at])]


def grade(one: Scorer, answers: Answers) -> Scored:
    """Score every answer."""
    responses = answers.responses
    scores = np.full(len(responses), np.nan)
    notes: list[str | None] = [None] * len(responses)
    right = True
    for place, response in enumerate(responses):
        if response is None:
            continue
        score, plain = attempt(one, answers.row(place), response)
        right = right and plain
        notes[place] = score.note or None
        if score.value is not None:
            scores[place] = score.value
    return Scored(
        one.name, one.version, right if one.right is None else one.right, scores, ~np.isnan(scores), tuple(notes)
    )


def ready(table: pa.Table, name: str) -> Scored:
    """Take a column as the scores it holds.

    Raises
    ------
    InvalidRequestError
        It holds no numbers.
    """
    scores = numbers(table, name)
    there = ~np.isnan(scores)
    return Scored(name, "", bool(np.isin(scores[there], (0.0, 1.0)).all()), scores, there)


def settled(scored: Scored, table: pa.Table, failures: Failures, worst: float = 0.0) -> Scored:
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


def scores_table(table: pa.Table, scored: Sequence[Scored]) -> pa.Table:
    """Put all scores into one table, a scorer after the other."""
    parts = [_part(table, each) for each in scored]
    return pa.concat_tables(parts).unify_dictionaries() if parts else SCORES.empty_table()


def _part(table: pa.Table, scored: Scored) -> pa.Table:
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
        "right": pa.array(np.full(size, scored.right)),
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
