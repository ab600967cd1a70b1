"""Two runs side by side, row by row: which answers, scores, costs and served models moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.datasets import dataset
from llmhub.datasets._freeze import to_parts
from llmhub.datasets.dataset import REQUEST_COLUMNS, RESPONSE_COLUMNS, ROW_ID, Frozen
from llmhub.datasets.fingerprint import Fingerprints, IntArray, dense_ranks, fingerprints
from llmhub.tables.files import to_jsonable

DiffSource: TypeAlias = "Frozen | str | Path | Any"


COMPARED_COLUMNS: Final = (*(name for name in RESPONSE_COLUMNS if name != "dropped_params"), "list_cost_usd")
"""What is compared besides scores: what answers say, and what they are worth."""


CHANGES_PRINTED: Final = 10


EXCERPT_CHARS: Final = 48


CHANGES: Final[pa.Schema] = pa.schema(
    [
        pa.field(ROW_ID, pa.string(), metadata={"description": "the input row, by what it says"}),
        pa.field("provider", pa.string(), metadata={"description": "provider asked"}),
        pa.field("model", pa.string(), metadata={"description": "model asked"}),
        pa.field("sample", pa.int64(), metadata={"description": "which of n answers, from 0"}),
        pa.field("column", pa.string(), metadata={"description": "what moved"}),
        pa.field("before", pa.string(), metadata={"description": "as it was: text as it is, all else as JSON"}),
        pa.field("after", pa.string(), metadata={"description": "as it is now"}),
    ]
)


@dataclass(frozen=True, slots=True)
class Difference:
    """What moved between two runs.

    Parameters
    ----------
    compared
        Rows that both have.
    moves
        One row for each row and column that moved (`CHANGES`).
    only_before, only_after
        Rows that only one has: their ids and whom they were asked of.
    means
        Of each score and of cost, over the rows that both have: before and after.
    """

    compared: int
    changes: pa.Table
    only_before: pa.Table
    only_after: pa.Table
    means: Mapping[str, tuple[float | None, float | None]]

    @property
    def same(self) -> bool:
        """Whether nothing moved, and both have the same rows."""
        return not (self.changes.num_rows or self.only_before.num_rows or self.only_after.num_rows)

    def counts(self) -> dict[str, int]:
        """Count the rows in which each column moved."""
        found = self.changes.column("column").value_counts().to_pylist()
        return {each["values"]: each["counts"] for each in sorted(found, key=lambda each: -each["counts"])}

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Say what moved, and show the first of it."""
        if self.same:
            return f"the same: {self.compared:,} rows"
        lines = [f"{self.compared:,} rows compared"]
        for side, table in (("before", self.only_before), ("after", self.only_after)):
            lines += [f"{table.num_rows:,} rows only {side}"] if table.num_rows else []
        lines += [f"{column}: {count:,} rows moved{self._mean(column)}" for column, count in self.counts().items()]
        rows = self.changes.slice(0, CHANGES_PRINTED).to_pylist()
        lines += [
            f"  {row[ROW_ID][:8]} {row['provider']}/{row['model']} {row['column']}: "
            f"{_short(row['before'], row['after'])} -> {_short(row['after'], row['before'])}"
            for row in rows
        ]
        return "\n".join(lines)

    def _mean(self, column: str) -> str:
        before, after = self.means.get(column, (None, None))
        return "" if before is None or after is None else f", mean {before:.6g} -> {after:.6g}"


def diff(before: DiffSource, after: DiffSource) -> Difference:
    """Put two runs side by side by what their input rows say.

    Parameters
    ----------
    before, after
        Frozen datasets (their folders, or what `llmhub.freeze` gave), evaluations, or frames of results with their
        inputs.

    Returns
    -------
    Difference
        What moved, row by row; its order does not depend on that of the rows.

    Raises
    ------
    InvalidRequestError
        One of them is none of these, or they have no input column in common.

    Notes
    -----
    Rows are one and the same where the columns that both have as inputs say the same, and the same model was asked for
    the same sample. Law: ``diff(a, a)`` is the same, whatever the order of its rows.
    """
    one, other = _side(before), _side(after)
    shared = sorted(set(one.names("input")) & set(other.names("input")))
    if not shared:
        said = f"there is no input column in both: {one.names('input')} and {other.names('input')}"
        raise BadRequestError(InvalidRequest(path="after", message=said))
    # Where all inputs are shared, the rows' ids say already which is which.
    all_shared = len(shared) == len(one.names("input")) == len(other.names("input"))
    named = [ROW_ID] if all_shared else shared
    here, there, left, right = _aligned(
        *(fingerprints(side.table, [*named, *REQUEST_COLUMNS]) for side in (one, other))
    )
    a, b = one.table.take(pa.array(here)), other.table.take(pa.array(there))
    scores = [name for name in one.names("score") if name in other.names("score")]
    moved = [_moves(a, b, name) for name in (*COMPARED_COLUMNS, *scores)]
    which = [ROW_ID, *REQUEST_COLUMNS]
    return Difference(
        compared=a.num_rows,
        changes=pa.concat_tables(moved).cast(CHANGES),
        only_before=one.table.select(which).take(pa.array(left)),
        only_after=other.table.select(which).take(pa.array(right)),
        means={name: (_mean(a, name), _mean(b, name)) for name in (*scores, "list_cost_usd")},
    )


def _side(side: DiffSource) -> Frozen:
    """Bring a run to the form of a frozen one."""
    if isinstance(side, Frozen):
        return side
    if isinstance(side, (str, Path)):
        return dataset.read(side)
    parts = to_parts(side, None)
    canon = dataset.canonicalise(parts.inputs, parts.results, parts.scores)
    return Frozen(canon.table, {}, canon.columns)


def _aligned(these: Fingerprints, those: Fingerprints) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Pair equal fingerprints in their order; give the places of the pairs, and of what is left on each side."""
    ranks = dense_ranks(np.concatenate([these, those]))
    one, other = (_numbered(side, len(ranks)) for side in (ranks[: len(these)], ranks[len(these) :]))
    _, here, there = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    left = np.setdiff1d(np.arange(len(one)), here, assume_unique=True)
    right = np.setdiff1d(np.arange(len(other)), there, assume_unique=True)
    return here, there, left, right


def _numbered(ranks: IntArray, most: int) -> IntArray:
    """Make equal ranks, of which there are fewer than ``most``, differ by how often they came before."""
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order]
    nth = np.empty(len(ranks), np.int64)
    nth[order] = np.arange(len(ranks)) - np.searchsorted(ordered, ordered, side="left")
    return np.asarray(ranks * np.int64(most + 1) + nth, np.int64)


def _moves(a: pa.Table, b: pa.Table, name: str) -> pa.Table:
    """Say where a column differs; a missing value equals a missing one."""
    places = pa.array(np.flatnonzero(_differ(a.column(name), b.column(name))), pa.int64())
    rows = a.select([ROW_ID, *REQUEST_COLUMNS]).take(places)
    rows = rows.append_column("column", pa.array([name] * len(places), pa.string()))
    for side, table in (("before", a), ("after", b)):
        values = [_text(value) for value in table.column(name).take(places).to_pylist()]
        rows = rows.append_column(side, pa.array(values, pa.string()))
    return rows


def _differ(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Any:
    """Say where two columns differ."""
    if pa.types.is_nested(a.type) or a.type != b.type:
        return (fingerprints(pa.table({"": a})) != fingerprints(pa.table({"": b}))).any(axis=1)
    missing = pc.xor(a.is_null(), b.is_null())
    return pc.or_(missing, pc.fill_null(pc.not_equal(a, b), False)).to_numpy()


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    found = to_jsonable(value)
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()


def _mean(table: pa.Table, name: str) -> float | None:
    mean = pc.mean(table.column(name).cast(pa.float64())).as_py()
    return None if mean is None else float(mean)


def _short(text: str | None, other: str | None) -> str:
    """Show what is about the first place where two texts differ."""
    if text is None:
        return "nothing"
    shared = next((at for at, (a, b) in enumerate(zip(text, other or "", strict=False)) if a != b), len(text))
    begin = max(0, min(shared - EXCERPT_CHARS // 2, len(text) - EXCERPT_CHARS))
    shown = text[begin : begin + EXCERPT_CHARS]
    return f"{'…' if begin else ''}{shown!r}{'…' if begin + EXCERPT_CHARS < len(text) else ''}"
