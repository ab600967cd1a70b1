"""Intervals, tests and sizes, each of plain arrays. Distributions and tests are scipy's (the ``evals`` extra)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from llmhub.evals.extras import wanted
from llmhub.evals.resample import Floats, Matrix, flipped

ENUMERATED: Final = 13
"""Differences other than zero up to which all signs are tried rather than drawn."""
LARGE: Final = 2000
"""Degrees of freedom from which Student's t is taken for normal in questions of size."""


class Interval(NamedTuple):
    """From ``low`` to ``high``; ``nan`` where the rows are too few to bound it."""

    low: float
    high: float


def scipy(part: str) -> Any:
    """Give a part of scipy: it is loaded when statistics are asked for."""
    return wanted(f"scipy.{part}", "evals")


def wilson(share: float, trials: float, level: float = 0.95) -> Interval:
    """Give Wilson's interval of a rate; ``trials`` may be an effective number.

    Examples
    --------
    >>> tuple(round(each, 4) for each in wilson(0.5, 100))
    (0.4038, 0.5962)
    """
    if not trials > 0:
        return Interval(math.nan, math.nan)
    z = float(scipy("stats").norm.isf((1 - level) / 2))
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(0.0 if share == 0 else max(0.0, middle - reach), 1.0 if share == 1 else min(1.0, middle + reach))


def spread_of(sums: Floats, counts: Floats) -> float:
    """Give the standard error of ``sum(sums) / sum(counts)`` over clusters: 0 where there is one alone.

    Without clusters of more than one this is the standard error of a mean.

    Examples
    --------
    >>> round(spread_of(np.array([1.0, 0.0, 1.0, 0.0]), np.ones(4)), 6)
    0.288675
    """
    clusters = int((counts > 0).sum())
    if clusters < 2:  # noqa: PLR2004 - one says nothing of the spread
        return 0.0
    rest = sums - sums.sum() / counts.sum() * counts
    return math.sqrt(clusters / (clusters - 1) * float(rest @ rest)) / float(counts.sum())


def effective(share: float, error: float, clusters: int, answers: int, level: float = 0.95) -> float:
    """Give the number of independent trials that know a rate as well as these clusters do.

    After Korn and Graubard (1998, https://www150.statcan.gc.ca/n1/pub/12-001-x/1998002/article/4356-eng.pdf, read
    2026-11-27): from the clusters' spread, less for what few clusters know of it; never more than there are answers.
    Where all clusters agree the number of clusters is all that is known.
    """
    if clusters < 2 or error == 0:  # noqa: PLR2004 - one says nothing of the spread
        return float(min(clusters, answers))
    stats = scipy("stats")
    known = stats.norm.isf((1 - level) / 2) / stats.t.isf((1 - level) / 2, clusters - 1)
    return min(float(answers), share * (1 - share) / error**2 * float(known) ** 2)


def percentile(draws: Floats, clusters: int, level: float = 0.95) -> Interval:
    """Give the percentile interval of bootstrap draws, widened for few clusters as Student's t is.

    The widening is Hesterberg's expanded percentile interval (2015, https://doi.org/10.1080/00031305.2015.1089789,
    read 2026-11-27); it goes to nothing as clusters grow in number.
    """
    known = draws[np.isfinite(draws)]
    if clusters < 2 or not len(known):  # noqa: PLR2004 - one says nothing of the spread
        return Interval(math.nan, math.nan)
    tail = expanded(clusters, level)
    low, high = np.quantile(known, (tail, 1 - tail))
    return Interval(float(low), float(high))


def expanded(clusters: int, level: float = 0.95) -> float:
    """Give the share of draws to leave out at each end.

    Examples
    --------
    >>> round(expanded(10), 4), round(expanded(10**6), 4)
    (0.0086, 0.025)
    """
    stats = scipy("stats")
    wide = math.sqrt(clusters / (clusters - 1)) * float(stats.t.isf((1 - level) / 2, clusters - 1))
    return float(stats.norm.sf(wide))


def quantile_bounds(values: Floats, share: float, level: float = 0.95, trials: float | None = None) -> Interval:
    """Give the interval of a quantile that holds whatever the distribution is.

    By order statistics (`scipy.stats.quantile_test`); where ``trials`` is given, an effective number because values
    come in clusters, by the values at the ends of the share's own interval (Woodruff 1952).
    """
    if not len(values):
        return Interval(math.nan, math.nan)
    if trials is None:
        found = scipy("stats").quantile_test(values, p=share).confidence_interval(level)
        return Interval(float(found.low), float(found.high))
    ends = np.quantile(values, wilson(share, trials, level), method="inverted_cdf")
    return Interval(float(ends[0]), float(ends[1]))


def mcnemar(only_left: int, only_right: int) -> float:
    """Give McNemar's exact p-value: of the rows that one alone got right, has either more than chance would give it.

    Examples
    --------
    >>> mcnemar(0, 5)
    0.0625
    """
    if only_left + only_right == 0:
        return 1.0
    return float(scipy("stats").binomtest(only_left, only_left + only_right, 0.5).pvalue)


def wilcoxon(differences: Floats) -> float:
    """Give the p-value of Wilcoxon's signed ranks; zeros say nothing."""
    told = differences[differences != 0]
    return float(scipy("stats").wilcoxon(told).pvalue) if len(told) else 1.0


def permutation(differences: Matrix, resamples: int, seed: int) -> list[float]:
    """Give the p-value of each column's sum when the signs of its rows could as well have been others.

    Few rows are tried with all signs by `scipy.stats.permutation_test`; more with ``resamples`` random signs, the same
    for all columns: scipy draws them a column at a time, which takes minutes where rows are many.
    """
    found: list[float | None] = [_enumerated(column) for column in differences.T]
    if None not in found:
        return [p for p in found if p is not None]
    drawn = flipped(differences, resamples, seed)
    totals = differences.sum(axis=0)
    # Sums that are equal but for rounding count as equal.
    slack = 1e-6 * np.abs(differences).sum(axis=0) / math.sqrt(max(1, len(differences)))
    above = (drawn >= totals - slack).sum(axis=0)
    below = (drawn <= totals + slack).sum(axis=0)
    p_values = np.minimum(1.0, 2 * (np.minimum(above, below) + 1) / (resamples + 1))
    return [float(p) if exact is None else exact for p, exact in zip(p_values, found, strict=True)]


def _enumerated(column: Floats) -> float | None:
    """Try all signs, where they are few."""
    told = column[column != 0]
    if len(told) > ENUMERATED:
        return None
    if len(told) < 2:  # noqa: PLR2004 - one sign is either, and both are as extreme
        return 1.0
    test = scipy("stats").permutation_test
    found = test((told,), _total, permutation_type="samples", vectorized=True, n_resamples=2**ENUMERATED)
    return min(1.0, float(found.pvalue))


def _total(values: Any, axis: int = -1) -> Any:
    return values.sum(axis=axis)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, after Holm (1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = highest
    return corrected


@dataclass(frozen=True, slots=True)
class Power:
    """How sure a test is to be: ``level`` of its intervals, and the chance to see a difference that is there."""

    level: float = 0.95
    power: float = 0.8


def detectable(error: float, clusters: int, wish: Power = Power()) -> float:
    """Give the smallest true difference that a paired test of so many clusters would likely have shown.

    ``error`` is the standard error of the difference; ``nan`` where there is none.

    Examples
    --------
    >>> round(detectable(0.01, 10_000), 5)
    0.02802
    """
    if clusters < 2 or not error > 0:  # noqa: PLR2004 - one says nothing of the spread
        return math.nan
    return error * _shift(clusters - 1, wish)


def needed(error: float, clusters: int, difference: float, wish: Power = Power()) -> float:
    """Give how many clusters like these would likely show a true difference.

    Examples
    --------
    >>> needed(0.01, 10_000, 0.02)
    19623.0
    """
    if clusters < 2 or not error > 0 or difference == 0:  # noqa: PLR2004 - one says nothing of the spread
        return math.nan
    single = error * math.sqrt(clusters) / abs(difference)
    many = (single * _shift(math.inf, wish)) ** 2
    if many > LARGE:
        return float(math.ceil(many))
    # Few clusters know little of their spread: some more are needed.
    low, high = 2.0, many + 30.0
    root = scipy("optimize").brentq(lambda each: _shift(each - 1, wish) * single - math.sqrt(each), low, high)
    return float(math.ceil(root - 1e-9))


def _shift(freedom: float, wish: Power) -> float:
    """Give the true difference, in standard errors, that a two-sided t test shows with the power wished."""
    stats = scipy("stats")
    tail = (1 - wish.level) / 2
    if freedom > LARGE:
        return float(stats.norm.isf(tail) + stats.norm.ppf(wish.power))
    edge = stats.t.isf(tail, freedom)

    def lacking(shift: float) -> float:
        seen = float(stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift))
        # Far out scipy says nan, where nothing is missed.
        return (1.0 if math.isnan(seen) else seen) - wish.power

    return float(scipy("optimize").brentq(lacking, 0.0, 3 * float(edge) + 3))


def pass_at(right: Floats, tries: Floats, k: int) -> Floats:
    """Give each row's chance that one of ``k`` answers is right, without bias (Chen et al. 2021, arXiv:2107.03374).

    ``nan`` where a row has fewer than ``k`` answers.

    Examples
    --------
    >>> pass_at(np.array([1.0, 0.0, 3.0]), np.array([4.0, 4.0, 4.0]), 2).round(6).tolist()
    [0.5, 0.0, 1.0]
    """
    # 1 - C(tries - right, k) / C(tries, k), as a product that stays within range.
    none = np.ones(len(right))
    for each in range(k):
        with np.errstate(divide="ignore", invalid="ignore"):
            none *= np.maximum(tries - right - each, 0.0) / (tries - each)
    return np.where(tries >= k, 1.0 - none, np.nan)
