"""Tournaments of pairwise verdicts: direct comparisons of each pair of models, and Bradley-Terry strengths.

The Bradley-Terry model gives each model a strength, such that the log-odds of a win are the difference of two strengths
(Bradley and Terry 1952). It is fitted by minorise-maximise iteration (Hunter 2004, "MM algorithms for generalized
Bradley-Terry models"). A tie is half a win for each side; to each pair that met half a win for each side is added, so
that strengths are finite when a model won or lost every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from llmhub.evals.comparison import AnalysisSettings
from llmhub.evals.judge import PairVerdict
from llmhub.evals.scoring import ResponseLayout
from llmhub.evals.statistics import FloatArray, FloatMatrix, IntArray, bootstrap_sums, percentile_interval

PRIOR_WINS: Final = 0.5
ITERATIONS: Final = 200
ELO_SCALE: Final = 400 / float(np.log(10))
ELO_MEAN: Final = 1000.0
RATING_RESAMPLES: Final = 1000


@dataclass(frozen=True, slots=True)
class Tournament:
    """Verdicts of a pairwise judge, the layout of the responses, and the cluster of each row."""

    verdicts: Sequence[PairVerdict]
    layout: ResponseLayout
    clusters: IntArray | None = None

    def differences(self, couples: Sequence[tuple[int, int]]) -> FloatMatrix:
        """Return, as rows x pairs of models, the mean share of left minus that of right; NaN without a comparison."""
        columns = {couple: (index, 1.0) for index, couple in enumerate(couples)}
        columns |= {(right, left): (index, -1.0) for index, (left, right) in enumerate(couples)}
        sums, counts = np.zeros((2, len(self.layout.row_ids), len(couples)))
        for verdict, sides in self._sides():
            if sides in columns:
                column, sign = columns[sides]
                cell = (self.layout.row_index[verdict.left], column)
                sums[cell] += sign * (2 * verdict.left_share - 1)
                counts[cell] += 1
        with np.errstate(invalid="ignore"):
            means: FloatMatrix = sums / counts
        return means

    def _sides(self) -> Iterator[tuple[PairVerdict, tuple[int, int]]]:
        models = self.layout.model_index
        return ((verdict, (int(models[verdict.left]), int(models[verdict.right]))) for verdict in self.verdicts)

    def rows(self, judge: str) -> Iterator[dict[str, Any]]:
        """Return the rows of `HEAD_TO_HEAD`."""
        names = self.layout.model_names
        by_pair: dict[tuple[int, int], list[PairVerdict]] = {}
        for verdict, sides in self._sides():
            by_pair.setdefault(sides, []).append(verdict)
        for (left, right), verdicts in sorted(by_pair.items()):
            judged = [verdict for verdict in verdicts if verdict.judged and verdict.consistent]
            yield {
                "judge": judge,
                "left": names[left],
                "right": names[right],
                "left_wins": sum(verdict.left_share == 1 for verdict in judged),
                "ties": sum(verdict.left_share == 0.5 for verdict in judged),  # noqa: PLR2004 - half a win
                "right_wins": sum(verdict.left_share == 0 for verdict in judged),
                "inconsistent": sum(not verdict.consistent for verdict in verdicts),
                "failed": sum(not verdict.judged for verdict in verdicts),
                "left_share": sum(verdict.left_share for verdict in verdicts) / len(verdicts),
            }

    def ratings(self, judge: str, settings: AnalysisSettings) -> Iterator[dict[str, Any]]:
        """Return the rows of `RATINGS`: strengths with bootstrap intervals over rows, or clusters of rows."""
        n, names = len(self.layout.models), self.layout.model_names
        if n < 2 or not self.verdicts:  # noqa: PLR2004 - one model has no opponent
            return
        wins = self._wins_by_cluster()
        total = wins.sum(axis=0).reshape(1, n, n)
        strengths = bradley_terry(total)[0]
        resampled = bootstrap_sums(wins, min(settings.resamples, RATING_RESAMPLES), settings.seed).reshape(-1, n, n)
        draws = bradley_terry(resampled)
        clusters = int((wins.sum(axis=1) > 0).sum())
        comparisons = total[0] + total[0].T
        for model in range(n):
            if not comparisons[model].any():
                continue
            interval = percentile_interval(draws[:, model], clusters, settings.level)
            yield {
                "judge": judge,
                "model": names[model],
                "rating": float(strengths[model]),
                "low": None if np.isnan(interval.low) else interval.low,
                "high": None if np.isnan(interval.high) else interval.high,
                "elo": ELO_MEAN + ELO_SCALE * float(strengths[model]),
                "wins": float(total[0, model].sum()),
                "comparisons": round(float(comparisons[model].sum())),
            }

    def _wins_by_cluster(self) -> FloatMatrix:
        """Return the wins of each model over each other, flattened, by cluster."""
        n = len(self.layout.models)
        cluster_of = np.arange(len(self.layout.row_ids)) if self.clusters is None else self.clusters
        wins = np.zeros((int(cluster_of.max(initial=-1)) + 1, n * n))
        for verdict, (left, right) in self._sides():
            cluster = cluster_of[self.layout.row_index[verdict.left]]
            wins[cluster, left * n + right] += verdict.left_share
            wins[cluster, right * n + left] += 1 - verdict.left_share
        return wins


def bradley_terry(wins: Any) -> FloatMatrix:
    """Return the Bradley-Terry strengths of models, with mean 0.

    Parameters
    ----------
    wins
        Resamples x models x models: how often the first model won against the second.

    Returns
    -------
    numpy.ndarray
        Resamples x models.

    Examples
    --------
    >>> wins = np.array([[[0.0, 30.0], [10.0, 0.0]]])
    >>> strengths = bradley_terry(wins)[0]
    >>> round(float(strengths[0] - strengths[1]), 3)  # close to ln 3
    1.066
    """
    met = (wins + np.swapaxes(wins, 1, 2)) > 0
    counted = np.where(met, wins + PRIOR_WINS, 0.0)
    total: Any = counted + np.swapaxes(counted, 1, 2)
    own: FloatMatrix = counted.sum(axis=2)
    strengths = np.ones_like(own)
    for _ in range(ITERATIONS):
        weights = (total / (strengths[:, :, None] + strengths[:, None, :])).sum(axis=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            updated = np.where(weights > 0, own / weights, 1.0)
        updated /= np.exp(np.log(updated).mean(axis=1, keepdims=True))
        if np.allclose(updated, strengths, rtol=1e-10, atol=0):
            break
        strengths = updated
    log_strengths: FloatMatrix = np.log(strengths)
    return log_strengths


def mean_shares(differences: FloatArray) -> tuple[float, float]:
    """Return the mean shares of both sides from the differences of shares.

    Examples
    --------
    >>> mean_shares(np.array([1.0, 0.0, np.nan]))
    (0.75, 0.25)
    """
    mean = float(np.nanmean(differences))
    return (1 + mean) / 2, (1 - mean) / 2
