"""`diff`: compare two runs row by row: responses, scores, costs and served models.

Rows are matched by the content of their inputs, the model and the sample, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import invalid
from llmhub.datasets import dataset
from llmhub.datasets._freeze import to_parts
from llmhub.datasets.dataset import REQUEST_COLUMNS, RESPONSE_COLUMNS, ROW_ID, SCORE_PREFIX, Frozen
from llmhub.datasets.fingerprint import Fingerprints, dense_ranks, fingerprints
from llmhub.evals._evaluate import Evaluation
from llmhub.evals.analysis import MetricValues, estimate_means
from llmhub.evals.comparison import AnalysisSettings, Comparison
from llmhub.evals.scoring import encode_categories, numeric_column
from llmhub.evals.statistics import IntArray, holm_correction
from llmhub.formatting.numbers import format_quantity
from llmhub.tables.files import to_jsonable
from llmhub.tables.result_frames import complete_results, results_table

DiffSource: TypeAlias = "Frozen | str | Path | Any"
COMPARED_COLUMNS: Final = (*(name for name in RESPONSE_COLUMNS if name != "dropped_params"), "list_cost_usd")
"""Columns that are compared besides scores."""
CHANGES_PRINTED: Final = 10
EXCERPT_CHARS: Final = 48

CHANGES: Final[pa.Schema] = pa.schema(
    [
        pa.field(ROW_ID, pa.string(), metadata={"description": "id of the input row, from its content"}),
        pa.field("provider", pa.string(), metadata={"description": "requested provider"}),
        pa.field("model", pa.string(), metadata={"description": "requested model"}),
        pa.field("sample", pa.int64(), metadata={"description": "sample number, from 0 to n - 1"}),
        pa.field("column", pa.string(), metadata={"description": "name of the changed column"}),
        pa.field("before", pa.string(), metadata={"description": "old value: text, or JSON of any other value"}),
        pa.field("after", pa.string(), metadata={"description": "new value: text, or JSON of any other value"}),
    ]
)
"""One row per changed value."""


TESTS: Final[pa.Schema] = pa.schema(
    [
        pa.field("score", pa.string(), metadata={"description": "name of the score"}),
        pa.field("model", pa.string(), metadata={"description": "provider/model"}),
        pa.field("before", pa.float64(), metadata={"description": "mean before, over the rows scored in both runs"}),
        pa.field("after", pa.float64(), metadata={"description": "mean after, over the same rows"}),
        pa.field("difference", pa.float64(), metadata={"description": "after minus before"}),
        pa.field("low", pa.float64(), metadata={"description": "lower end of its interval; null if it is open"}),
        pa.field("high", pa.float64(), metadata={"description": "upper end of its interval; null if it is open"}),
        pa.field("test", pa.string(), metadata={"description": "mcnemar or studentised"}),
        pa.field("p", pa.float64(), metadata={"description": "p-value of the paired test"}),
        pa.field("p_holm", pa.float64(), metadata={"description": "p-value corrected for the number of tests"}),
        pa.field("significant", pa.bool_(), metadata={"description": "whether the corrected p-value is below 0.05"}),
        pa.field("rows", pa.int64(), metadata={"description": "number of input rows"}),
    ]
)
"""One row per score and model: the paired difference between the runs. Samples of one input row count together."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Differences between two runs.

    Parameters
    ----------
    compared
        Number of rows in both runs.
    changes
        `CHANGES`: one row per row and column that differs.
    only_before, only_after
        Rows in only one of the runs: row id, provider, model and sample.
    means
        Means before and after of each score and of the list price, over the rows in both runs.
    tests
        `TESTS`: paired difference of each score of each model, with its interval and test; empty without scores.
    """

    compared: int
    changes: pa.Table
    only_before: pa.Table
    only_after: pa.Table
    means: Mapping[str, tuple[float | None, float | None]]
    tests: pa.Table = field(default_factory=TESTS.empty_table)

    @property
    def same(self) -> bool:
        """Whether both runs have the same rows and no value differs."""
        return not (self.changes.num_rows or self.only_before.num_rows or self.only_after.num_rows)

    def counts(self) -> dict[str, int]:
        """Return the number of differing rows by column, most frequent first."""
        counts = self.changes.column("column").value_counts().to_pylist()
        return {item["values"]: item["counts"] for item in sorted(counts, key=lambda item: -item["counts"])}

    def __repr__(self) -> str:
        """Return the report."""
        return str(self)

    def __str__(self) -> str:
        """Return a report of several lines, with the first changes."""
        if self.same:
            return f"no differences in {format_quantity(self.compared, 'row')}"
        lines = [f"{format_quantity(self.compared, 'row')} compared"]
        for side, table in (("before", self.only_before), ("after", self.only_after)):
            lines += [f"{format_quantity(table.num_rows, 'row')} only {side}"] if table.num_rows else []
        for column, count in self.counts().items():
            lines.append(f"{column}: {format_quantity(count, 'row')} changed{self._mean_change(column)}")
        lines += [_test_line(row) for row in self.tests.to_pylist() if row["difference"]]
        lines += [
            f"  {row[ROW_ID][:8]} {row['provider']}/{row['model']} {row['column']}: "
            f"{_excerpt(row['before'], row['after'])} -> {_excerpt(row['after'], row['before'])}"
            for row in self.changes.slice(0, CHANGES_PRINTED).to_pylist()
        ]
        return "\n".join(lines)

    def _mean_change(self, column: str) -> str:
        before, after = self.means.get(column, (None, None))
        return "" if before is None or after is None else f", mean {before:.6g} -> {after:.6g}"


def diff(before: DiffSource, after: DiffSource) -> Difference:
    """Compare two runs row by row.

    Parameters
    ----------
    before, after
        Frozen datasets (their folders, or return values of `llmhub.freeze`), evaluations, or frames of results with
        their inputs. Columns that one of two frames does not have are not compared.

    Returns
    -------
    Difference
        The differences, row by row, in an order that does not depend on that of the rows.

    Raises
    ------
    BadRequestError
        An argument is none of these, or the runs have no input column in common.

    Notes
    -----
    Rows match if their values in the common input columns, the requested model and the sample are equal. Law:
    ``diff(a, a)`` has no differences, whatever the order of the rows.
    """
    (old, absent_before), (new, absent_after) = _to_frozen(before), _to_frozen(after)
    common = sorted(set(old.names("input")) & set(new.names("input")))
    if not common:
        raise invalid("after", f"no input column in common: {old.names('input')} and {new.names('input')}")
    # If the inputs have the same columns, the row ids identify them already.
    has_same_columns = len(common) == len(old.names("input")) == len(new.names("input"))
    key_columns = [*([ROW_ID] if has_same_columns else common), *REQUEST_COLUMNS]
    match = _match(fingerprints(old.table, key_columns), fingerprints(new.table, key_columns))
    a, b = old.table.take(pa.array(match.before)), new.table.take(pa.array(match.after))
    scores = [name for name in old.names("score") if name in new.names("score")]
    answers = [name for name in old.names("answer") if name in new.names("answer") and name not in RESPONSE_COLUMNS]
    compared = [name for name in COMPARED_COLUMNS if name not in absent_before | absent_after]
    changes = [_column_changes(a, b, name) for name in (*compared, *answers, *scores)]
    identity = [ROW_ID, *REQUEST_COLUMNS]
    return Difference(
        compared=a.num_rows,
        changes=pa.concat_tables(changes).cast(CHANGES),
        only_before=old.table.select(identity).take(pa.array(match.only_before)),
        only_after=new.table.select(identity).take(pa.array(match.only_after)),
        means={name: (_column_mean(a, name), _column_mean(b, name)) for name in (*scores, "list_cost_usd")},
        tests=_score_tests(a, b, scores),
    )


def _score_tests(a: pa.Table, b: pa.Table, scores: Sequence[str]) -> pa.Table:
    """Return the paired difference of each score of each model, of matched rows in the same order."""
    if not scores or not len(a):
        return TESTS.empty_table()
    models = pc.binary_join_element_wise(
        a.column("provider").cast(pa.string()), a.column("model").cast(pa.string()), "/"
    )
    names, model_of = _encode(models)
    _, row_of = _encode(a.column(ROW_ID))
    settings = AnalysisSettings()
    rows: list[dict[str, Any]] = []
    for score in scores:
        sides = [numeric_column(table, score) for table in (a, b)]
        for index, name in enumerate(names):
            known = (model_of == index) & ~np.isnan(sides[0]) & ~np.isnan(sides[1])
            if not known.any():
                continue
            values = np.stack([sides[1][known], sides[0][known]], axis=1)
            input_rows = encode_categories(row_of[known].tolist())
            is_single = int(input_rows.max()) + 1 == len(input_rows)
            counts = np.full(2, len(values))
            is_binary = bool(np.isin(values, (0.0, 1.0)).all())
            metric = MetricValues(values, counts, None if is_single else input_rows, is_binary, is_single)
            _, (pair,) = estimate_means(metric, settings)
            rows.append(
                {
                    "score": score.removeprefix(SCORE_PREFIX),
                    "model": name,
                    "before": pair.means[1],
                    "after": pair.means[0],
                    "difference": pair.value,
                    "low": None if np.isnan(pair.interval.low) else pair.interval.low,
                    "high": None if np.isnan(pair.interval.high) else pair.interval.high,
                    "test": pair.test,
                    "p": pair.p,
                    "rows": pair.clusters,
                }
            )
    corrected = holm_correction([row["p"] for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        row |= {"p_holm": p, "significant": p < 1 - settings.level}
    return pa.Table.from_pylist(rows, schema=TESTS)


def _encode(column: pa.ChunkedArray) -> tuple[list[str], IntArray]:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(), np.int64)


def _test_line(row: Mapping[str, Any]) -> str:
    low, high = ("…" if row[end] is None else f"{row[end]:+.4g}" for end in ("low", "high"))
    conclusion = "significant" if row["significant"] else "not significant"
    means = f"{row['before']:.4g} -> {row['after']:.4g}, difference {row['difference']:+.4g}"
    return f"{row['score']} of {row['model']}: {means} ({low} to {high}), p = {row['p_holm']:.2g}, {conclusion}"


def _to_frozen(source: DiffSource) -> tuple[Frozen, frozenset[str]]:
    """Return a run in the form of a frozen dataset, and the result columns it does not have."""
    if isinstance(source, Frozen):
        return source, frozenset()
    if isinstance(source, (str, Path)):
        return dataset.read(source), frozenset()
    absent: frozenset[str] = frozenset()
    if not isinstance(source, (Evaluation, Comparison)):
        source, absent = complete_results(results_table(source), "diff")
    parts = to_parts(source, None)
    rows = dataset.canonicalise(parts.inputs, parts.results, parts.scores, parts.answers)
    return Frozen(rows.table, {}, rows.columns), absent


@dataclass(frozen=True, slots=True)
class _RowMatch:
    """Positions of matched rows on both sides, and of the rows on one side only."""

    before: IntArray
    after: IntArray
    only_before: IntArray
    only_after: IntArray


def _match(before: Fingerprints, after: Fingerprints) -> _RowMatch:
    """Match rows with equal fingerprints; duplicates match in their order."""
    ranks = dense_ranks(np.concatenate([before, after]))
    old, new = (_number_duplicates(side, len(ranks)) for side in (ranks[: len(before)], ranks[len(before) :]))
    _, in_old, in_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    only_old = np.setdiff1d(np.arange(len(old)), in_old, assume_unique=True)
    only_new = np.setdiff1d(np.arange(len(new)), in_new, assume_unique=True)
    return _RowMatch(in_old, in_new, only_old, only_new)


def _number_duplicates(ranks: IntArray, limit: int) -> IntArray:
    """Return distinct integers for equal ranks, by their number of earlier occurrences; ranks are below ``limit``."""
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order]
    occurrence = np.empty(len(ranks), np.int64)
    occurrence[order] = np.arange(len(ranks)) - np.searchsorted(ordered, ordered, side="left")
    return np.asarray(ranks * np.int64(limit + 1) + occurrence, np.int64)


def _column_changes(a: pa.Table, b: pa.Table, name: str) -> pa.Table:
    """Return the rows of `CHANGES` for one column; missing values are equal to each other."""
    positions = pa.array(np.flatnonzero(_differs(a.column(name), b.column(name))), pa.int64())
    rows = a.select([ROW_ID, *REQUEST_COLUMNS]).take(positions)
    rows = rows.append_column("column", pa.array([name] * len(positions), pa.string()))
    for side, table in (("before", a), ("after", b)):
        values = [_to_text(value) for value in table.column(name).take(positions).to_pylist()]
        rows = rows.append_column(side, pa.array(values, pa.string()))
    return rows


def _differs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Any:
    if pa.types.is_nested(a.type) or a.type != b.type:
        return (fingerprints(pa.table({"": a})) != fingerprints(pa.table({"": b}))).any(axis=1)
    one_missing = pc.xor(a.is_null(), b.is_null())
    return pc.or_(one_missing, pc.fill_null(pc.not_equal(a, b), False)).to_numpy()


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    jsonable = to_jsonable(value)
    return jsonable if isinstance(jsonable, str) else msgspec.json.encode(jsonable).decode()


def _column_mean(table: pa.Table, name: str) -> float | None:
    mean = pc.mean(table.column(name).cast(pa.float64())).as_py()
    return None if mean is None else float(mean)


def _excerpt(text: str | None, other: str | None) -> str:
    """Return the part of a text around the first character that differs from the other text."""
    if text is None:
        return "null"
    differing = (index for index, (a, b) in enumerate(zip(text, other or "", strict=False)) if a != b)
    first = next(differing, len(text))
    start = max(0, min(first - EXCERPT_CHARS // 2, len(text) - EXCERPT_CHARS))
    end = start + EXCERPT_CHARS
    return f"{'…' if start else ''}{text[start:end]!r}{'…' if end < len(text) else ''}"
