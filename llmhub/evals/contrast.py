"""One quantity of several models over the same rows: each model's mean, and each pair's difference, row by row.

Rows of one cluster are drawn together, so that what they share is not taken for knowledge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np

from llmhub.evals import statistics
from llmhub.evals.resample import Longs, Matrix, resampled
from llmhub.evals.statistics import Interval, Power

Test: TypeAlias = Literal["permutation", "wilcoxon"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How sure, how often drawn, and by which test.

    Parameters
    ----------
    level
        Of the intervals; a test finds a difference below ``1 - level``.
    power
        Chance to see a difference that is there, for questions of size.
    resamples, seed
        Of the bootstrap and the permutation test.
    test
        For scores that are no plain right or wrong, or come in clusters: ``permutation`` of signs, or ``wilcoxon``.
    """

    level: float = 0.95
    power: float = 0.8
    resamples: int = 10_000
    seed: int = 0
    test: Test = "permutation"

    @property
    def wish(self) -> Power:
        """What questions of size go by."""
        return Power(self.level, self.power)


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is compared.

    Parameters
    ----------
    values
        Rows x models: each row's mean over its answers; ``nan`` where a row has none.
    answers
        How many answers each model's values are of.
    clusters
        Which cluster each row is of, counted from 0; ``None`` where each row is its own.
    right
        Whether answers are right or wrong.
    single
        Whether each value is of one answer.
    """

    values: Matrix
    answers: Longs
    clusters: Longs | None = None
    right: bool = False
    single: bool = True

    @property
    def plain(self) -> bool:
        """Say whether rows are single answers, right or wrong, that know nothing of each other."""
        return self.right and self.single and self.clusters is None


@dataclass(frozen=True, slots=True)
class Mean:
    """A model's mean, its interval and how that was found; ``nan`` where there is nothing to tell."""

    value: float
    interval: Interval
    rows: int
    clusters: int
    method: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What ``left`` has over ``right``, over the rows that both have.

    ``error`` is its standard error; ``only_left`` and ``only_right`` count rows on which one did better.
    """

    left: int
    right: int
    means: tuple[float, float]
    value: float
    interval: Interval
    test: str
    p: float
    error: float
    rows: int
    clusters: int
    only_left: int
    only_right: int


def summed(values: Matrix, clusters: Longs | None) -> tuple[Matrix, Matrix]:
    """Give the sums and the counts of what is there, by cluster.

    Examples
    --------
    >>> sums, counts = summed(np.array([[1.0], [np.nan], [2.0]]), np.array([0, 0, 1]))
    >>> sums.ravel().tolist(), counts.ravel().tolist()
    ([1.0, 2.0], [1.0, 1.0])
    """
    there = ~np.isnan(values)
    sums, counts = np.where(there, values, 0.0), there.astype(np.float64)
    if clusters is None:
        return sums, counts
    many = int(clusters.max()) + 1 if len(clusters) else 0
    grouped = np.zeros((2, many, values.shape[1]))
    for at in range(values.shape[1]):
        grouped[0, :, at] = np.bincount(clusters, sums[:, at], many)
        grouped[1, :, at] = np.bincount(clusters, counts[:, at], many)
    return grouped[0], grouped[1]


@dataclass(frozen=True, slots=True)
class _Columns:
    """A quantity by cluster, and its sums and counts in each resample."""

    sums: Matrix
    counts: Matrix
    drawn: Matrix
    drawn_counts: Matrix


def contrast(quantity: Quantity, settings: Settings, *, pairs: bool = True) -> tuple[list[Mean], list[Difference]]:
    """Give each model's mean and, if wanted, each pair's difference."""
    models = quantity.values.shape[1]
    own = _draw(*summed(quantity.values, quantity.clusters), settings)
    means = [_mean(quantity, own, at, settings) for at in range(models)]
    couples = list(combinations(range(models), 2)) if pairs else []
    if not couples or not len(quantity.values):
        return means, []
    left, right = (np.array(side) for side in zip(*couples, strict=True))
    between = quantity.values[:, left] - quantity.values[:, right]
    both = _of_pairs(quantity, own, between, (left, right), settings)
    return means, _differences(quantity, between, both, couples, settings)


def _draw(sums: Matrix, counts: Matrix, settings: Settings) -> _Columns:
    """Resample sums and counts together; counts that are all alike are drawn once."""
    same = bool((counts == counts[:, :1]).all())
    kept = counts[:, :1] if same else counts
    if not sums.size:
        nothing = np.zeros((settings.resamples, sums.shape[1]))
        return _Columns(sums, counts, nothing, nothing)
    drawn = resampled(np.hstack((sums, kept)), settings.resamples, settings.seed)
    many = sums.shape[1]
    return _Columns(sums, counts, drawn[:, :many], np.broadcast_to(drawn[:, many:], drawn[:, :many].shape))


def _of_pairs(
    quantity: Quantity, own: _Columns, between: Matrix, sides: tuple[Longs, Longs], settings: Settings
) -> _Columns:
    """Give the pairs' columns: those of the models where no row is missing, and drawn anew where some are."""
    sums, counts = summed(between, quantity.clusters)
    if bool((own.counts == own.counts[:, :1]).all()) and not np.isnan(between).any():
        left, right = sides
        return _Columns(sums, counts, own.drawn[:, left] - own.drawn[:, right], own.drawn_counts[:, left])
    return _draw(sums, counts, settings)


def _mean(quantity: Quantity, own: _Columns, at: int, settings: Settings) -> Mean:
    """Tell of one model."""
    sums, counts = own.sums[:, at], own.counts[:, at]
    rows, clusters = int(counts.sum()), int((counts > 0).sum())
    if not rows:
        return Mean(math.nan, Interval(math.nan, math.nan), 0, 0, "none")
    value = float(sums.sum() / rows)
    if quantity.right:
        trials = float(rows)
        if not quantity.plain:
            error, answers = statistics.spread_of(sums, counts), int(quantity.answers[at])
            trials = statistics.effective(value, error, clusters, answers, settings.level)
        method = "wilson" if quantity.plain else "wilson, clustered"
        return Mean(value, statistics.wilson(value, trials, settings.level), rows, clusters, method)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = own.drawn[:, at] / own.drawn_counts[:, at]
    method = "bootstrap" if quantity.clusters is None else "bootstrap, clustered"
    return Mean(value, statistics.percentile(draws, clusters, settings.level), rows, clusters, method)


def _differences(
    quantity: Quantity, between: Matrix, both: _Columns, couples: Sequence[tuple[int, int]], settings: Settings
) -> list[Difference]:
    """Tell of all pairs."""
    p_values = _tested(quantity, between, both, settings)
    test = "mcnemar" if quantity.plain else settings.test
    found = []
    for at, (left, right) in enumerate(couples):
        sums, counts, one = both.sums[:, at], both.counts[:, at], between[:, at]
        rows, clusters = int(counts.sum()), int((counts > 0).sum())
        shared = ~np.isnan(one)
        sides = quantity.values[shared][:, [left, right]].mean(axis=0) if rows else (math.nan, math.nan)
        found.append(
            Difference(
                left=left,
                right=right,
                means=(float(sides[0]), float(sides[1])),
                value=float(sums.sum() / rows) if rows else math.nan,
                interval=_between(both, at, rows, clusters, quantity, settings),
                test=test,
                p=p_values[at] if rows else math.nan,
                error=statistics.spread_of(sums, counts) if rows else math.nan,
                rows=rows,
                clusters=clusters,
                only_left=int((one > 0).sum()),
                only_right=int((one < 0).sum()),
            )
        )
    return found


def _between(both: _Columns, at: int, rows: int, clusters: int, quantity: Quantity, settings: Settings) -> Interval:
    """Give the interval of a difference."""
    if not rows:
        return Interval(math.nan, math.nan)
    if quantity.right and not both.sums[:, at].any():
        # Nothing but agreement was seen, of which resamples can only say the same: the rule of three says more.
        most = statistics.wilson(0.0, clusters, settings.level).high
        return Interval(-most, most)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = both.drawn[:, at] / both.drawn_counts[:, at]
    return statistics.percentile(draws, clusters, settings.level)


def _tested(quantity: Quantity, between: Matrix, both: _Columns, settings: Settings) -> list[float]:
    """Give each pair's p-value."""
    if quantity.plain:
        with np.errstate(invalid="ignore"):
            return [statistics.mcnemar(int((one > 0).sum()), int((one < 0).sum())) for one in between.T]
    if settings.test == "permutation":
        return statistics.permutation(both.sums, settings.resamples, settings.seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = both.sums / both.counts
    return [statistics.wilcoxon(one[~np.isnan(one)]) for one in means.T]
