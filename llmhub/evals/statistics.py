"""Intervals, tests and sizes, each of plain arrays. Distributions and tests are scipy's (the ``evals`` extra).

The bootstrap of sums: many resamples of many clusters at once, as products of weights and columns.

A resample draws as many clusters as there are, with replacement; a cluster's weight is how often it was drawn. Clusters
that are alike in every column are drawn together, which is exact and makes right and wrong cheap however many
rows there are. Where many clusters are all different, weights are drawn one by one instead (the Poisson bootstrap:
Hanley and MacGibbon 2006, https://doi.org/10.1016/j.cmpb.2006.04.006; read 2026-11-27).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from llmhub.evals.optional_imports import import_optional

MAX_ENUMERATED_SIGNS: Final = 13
"""Differences other than zero up to which all signs are tried rather than drawn."""


NORMAL_APPROXIMATION_DF: Final = 2000
"""Degrees of freedom from which Student's t is taken for normal in questions of size."""


class ConfidenceInterval(NamedTuple):
    """From ``low`` to ``high``; ``nan`` where the rows are too few to bound it."""

    low: float
    high: float


def import_scipy(part: str) -> Any:
    """Give a part of scipy: it is loaded when statistics are asked for."""
    return import_optional(f"scipy.{part}", "evals")


def wilson_interval(share: float, trials: float, level: float = 0.95) -> ConfidenceInterval:
    """Give Wilson's interval of a rate; ``trials`` may be an effective number.

    Examples
    --------
    >>> tuple(round(each, 4) for each in wilson_interval(0.5, 100))
    (0.4038, 0.5962)
    """
    if not trials > 0:
        return ConfidenceInterval(math.nan, math.nan)
    z = float(import_scipy("stats").norm.isf((1 - level) / 2))
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return ConfidenceInterval(
        0.0 if share == 0 else max(0.0, middle - reach), 1.0 if share == 1 else min(1.0, middle + reach)
    )


def clustered_standard_error(sums: FloatArray, counts: FloatArray) -> float:
    """Give the standard error of ``sum(sums) / sum(counts)`` over clusters: 0 where there is one alone.

    Without clusters of more than one this is the standard error of a mean.

    Examples
    --------
    >>> round(clustered_standard_error(np.array([1.0, 0.0, 1.0, 0.0]), np.ones(4)), 6)
    0.288675
    """
    clusters = int((counts > 0).sum())
    if clusters < 2:  # noqa: PLR2004 - one says nothing of the spread
        return 0.0
    rest = sums - sums.sum() / counts.sum() * counts
    return math.sqrt(clusters / (clusters - 1) * float(rest @ rest)) / float(counts.sum())


def effective_sample_size(share: float, error: float, clusters: int, answers: int, level: float = 0.95) -> float:
    """Give the number of independent trials that know a rate as well as these clusters do.

    After Korn and Graubard (1998, https://www150.statcan.gc.ca/n1/pub/12-001-x/1998002/article/4356-eng.pdf, read
    2026-11-27): from the clusters' spread, less for what few clusters know of it; never more than there are answers.
    Where all clusters agree the number of clusters is all that is known.
    """
    if clusters < 2 or error == 0:  # noqa: PLR2004 - one says nothing of the spread
        return float(min(clusters, answers))
    stats = import_scipy("stats")
    known = stats.norm.isf((1 - level) / 2) / stats.t.isf((1 - level) / 2, clusters - 1)
    return min(float(answers), share * (1 - share) / error**2 * float(known) ** 2)


def percentile_interval(draws: FloatArray, clusters: int, level: float = 0.95) -> ConfidenceInterval:
    """Give the percentile interval of bootstrap draws, widened for few clusters as Student's t is.

    The widening is Hesterberg's expanded percentile interval (2015, https://doi.org/10.1080/00031305.2015.1089789,
    read 2026-11-27); it goes to nothing as clusters grow in number.
    """
    known = draws[np.isfinite(draws)]
    if clusters < 2 or not len(known):  # noqa: PLR2004 - one says nothing of the spread
        return ConfidenceInterval(math.nan, math.nan)
    tail = expanded_tail(clusters, level)
    low, high = np.quantile(known, (tail, 1 - tail))
    return ConfidenceInterval(float(low), float(high))


def expanded_tail(clusters: int, level: float = 0.95) -> float:
    """Give the share of draws to leave out at each end.

    Examples
    --------
    >>> round(expanded_tail(10), 4), round(expanded_tail(10**6), 4)
    (0.0086, 0.025)
    """
    stats = import_scipy("stats")
    wide = math.sqrt(clusters / (clusters - 1)) * float(stats.t.isf((1 - level) / 2, clusters - 1))
    return float(stats.norm.sf(wide))


def quantile_interval(
    values: FloatArray, share: float, level: float = 0.95, trials: float | None = None
) -> ConfidenceInterval:
    """Give the interval of a quantile that holds whatever the distribution is.

    By order statistics (`import_scipy.stats.quantile_test`); where ``trials`` is given, an effective number because values
    come in clusters, by the values at the ends of the share's own interval (Woodruff 1952).
    """
    if not len(values):
        return ConfidenceInterval(math.nan, math.nan)
    if trials is None:
        found = import_scipy("stats").quantile_test(values, p=share).confidence_interval(level)
        return ConfidenceInterval(float(found.low), float(found.high))
    ends = np.quantile(values, wilson_interval(share, trials, level), method="inverted_cdf")
    return ConfidenceInterval(float(ends[0]), float(ends[1]))


def mcnemar_test(discordant_left: int, discordant_right: int) -> float:
    """Give McNemar's exact p-value: of the rows that one alone got right, has either more than chance would give it.

    Examples
    --------
    >>> mcnemar_test(0, 5)
    0.0625
    """
    if discordant_left + discordant_right == 0:
        return 1.0
    return float(import_scipy("stats").binomtest(discordant_left, discordant_left + discordant_right, 0.5).pvalue)


def wilcoxon_test(differences: FloatArray) -> float:
    """Give the p-value of Wilcoxon's signed ranks; zeros say nothing."""
    told = differences[differences != 0]
    return float(import_scipy("stats").wilcoxon(told).pvalue) if len(told) else 1.0


def permutation_test(differences: FloatMatrix, resamples: int, seed: int) -> list[float]:
    """Give the p-value of each column's sum when the signs of its rows could as well have been others.

    Few rows are tried with all signs by `import_scipy.stats.permutation_test`; more with ``resamples`` random signs, the same
    for all columns: scipy draws them a column at a time, which takes minutes where rows are many.
    """
    found: list[float | None] = [_enumerated(column) for column in differences.T]
    if None not in found:
        return [p for p in found if p is not None]
    drawn = sign_flip_sums(differences, resamples, seed)
    totals = differences.sum(axis=0)
    # Sums that are equal but for rounding count as equal.
    slack = 1e-6 * np.abs(differences).sum(axis=0) / math.sqrt(max(1, len(differences)))
    above = (drawn >= totals - slack).sum(axis=0)
    below = (drawn <= totals + slack).sum(axis=0)
    p_values = np.minimum(1.0, 2 * (np.minimum(above, below) + 1) / (resamples + 1))
    return [float(p) if exact is None else exact for p, exact in zip(p_values, found, strict=True)]


def _enumerated(column: FloatArray) -> float | None:
    """Try all signs, where they are few."""
    told = column[column != 0]
    if len(told) > MAX_ENUMERATED_SIGNS:
        return None
    if len(told) < 2:  # noqa: PLR2004 - one sign is either, and both are as extreme
        return 1.0
    test = import_scipy("stats").permutation_test
    found = test((told,), _total, permutation_type="samples", vectorized=True, n_resamples=2**MAX_ENUMERATED_SIGNS)
    return min(1.0, float(found.pvalue))


def _total(values: Any, axis: int = -1) -> Any:
    return values.sum(axis=axis)


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, after Holm (1979).

    Examples
    --------
    >>> holm_correction([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = highest
    return corrected


@dataclass(frozen=True, slots=True)
class PowerTarget:
    """How sure a test is to be: ``level`` of its intervals, and the chance to see a difference that is there."""

    level: float = 0.95
    power: float = 0.8


def minimum_detectable_effect(error: float, clusters: int, wish: PowerTarget = PowerTarget()) -> float:
    """Give the smallest true difference that a paired test of so many clusters would likely have shown.

    ``error`` is the standard error of the difference; ``nan`` where there is none.

    Examples
    --------
    >>> round(minimum_detectable_effect(0.01, 10_000), 5)
    0.02802
    """
    if clusters < 2 or not error > 0:  # noqa: PLR2004 - one says nothing of the spread
        return math.nan
    return error * _shift(clusters - 1, wish)


def required_sample_size(error: float, clusters: int, difference: float, wish: PowerTarget = PowerTarget()) -> float:
    """Give how many clusters like these would likely show a true difference.

    Examples
    --------
    >>> required_sample_size(0.01, 10_000, 0.02)
    19623.0
    """
    if clusters < 2 or not error > 0 or difference == 0:  # noqa: PLR2004 - one says nothing of the spread
        return math.nan
    single = error * math.sqrt(clusters) / abs(difference)
    many = (single * _shift(math.inf, wish)) ** 2
    if many > NORMAL_APPROXIMATION_DF:
        return float(math.ceil(many))
    # Few clusters know little of their spread: some more are needed.
    low, high = 2.0, many + 30.0
    root = import_scipy("optimize").brentq(lambda each: _shift(each - 1, wish) * single - math.sqrt(each), low, high)
    return float(math.ceil(root - 1e-9))


def _shift(freedom: float, wish: PowerTarget) -> float:
    """Give the true difference, in standard errors, that a two-sided t test shows with the power wished."""
    stats = import_scipy("stats")
    tail = (1 - wish.level) / 2
    if freedom > NORMAL_APPROXIMATION_DF:
        return float(stats.norm.isf(tail) + stats.norm.ppf(wish.power))
    edge = stats.t.isf(tail, freedom)

    def lacking(shift: float) -> float:
        seen = float(stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift))
        # Far out scipy says nan, where nothing is missed.
        return (1.0 if math.isnan(seen) else seen) - wish.power

    return float(import_scipy("optimize").brentq(lacking, 0.0, 3 * float(edge) + 3))


def pass_at_k(right: FloatArray, tries: FloatArray, k: int) -> FloatArray:
    """Give each row's chance that one of ``k`` answers is right, without bias (Chen et al. 2021, arXiv:2107.03374).

    ``nan`` where a row has fewer than ``k`` answers.

    Examples
    --------
    >>> pass_at_k(np.array([1.0, 0.0, 3.0]), np.array([4.0, 4.0, 4.0]), 2).round(6).tolist()
    [0.5, 0.0, 1.0]
    """
    # 1 - C(tries - right, k) / C(tries, k), as a product that stays within range.
    none = np.ones(len(right))
    for each in range(k):
        with np.errstate(divide="ignore", invalid="ignore"):
            none *= np.maximum(tries - right - each, 0.0) / (tries - each)
    return np.where(tries >= k, 1.0 - none, np.nan)


FloatArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"


FloatMatrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float64]]"


IntArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"


MAX_UNIQUE_ROWS: Final = 2048
"""Kinds of clusters up to which weights are drawn exactly."""


POISSON_WEIGHTS: Final = bytes(weight for weight, many in enumerate((94, 95, 46, 16, 4, 1)) for _ in range(many))
"""A byte to a weight: mean 1 and variance 1 exactly, third and fourth moments within 2 % of Poisson's."""


WEIGHTS_PER_BLOCK: Final = 1 << 21
"""Weights held at a time: they stay in the processor's cache."""


RESAMPLE_BATCH: Final = 16
"""Resamples in a product, or a multiple: the shape in which products are quickest."""


def bootstrap_sums(columns: FloatMatrix, resamples: int, seed: int) -> FloatMatrix:
    """Give the sums of each column in each resample of the rows.

    Parameters
    ----------
    columns
        Clusters x columns.
    resamples
        How many.
    seed
        The same seed gives the same sums.

    Returns
    -------
    numpy.ndarray
        Resamples x columns. A column of ones gives how many clusters each resample holds.

    Examples
    --------
    >>> sums = bootstrap_sums(np.array([[1.0, 1.0], [0.0, 1.0]]), 1000, 7)
    >>> sorted({(float(a), float(b)) for a, b in sums})
    [(0.0, 2.0), (1.0, 2.0), (2.0, 2.0)]
    """
    kinds, counts = unique_rows(columns)
    draw = np.random.Generator(np.random.SFC64(seed))
    if len(kinds) <= MAX_UNIQUE_ROWS:
        weights = draw.multinomial(len(columns), counts / len(columns), size=resamples)
        return weights @ kinds
    return _weighed(columns, resamples, draw)


def unique_rows(columns: FloatMatrix) -> tuple[FloatMatrix, IntArray]:
    """Give the distinct rows and how often each is there; all rows as they are where few are alike.

    Examples
    --------
    >>> unique_rows(np.array([[1.0], [0.0], [1.0]]))
    (array([[0.], [1.]]), array([1, 2]))
    """
    # A thousand rows show whether there is anything to gain; sorting all of them would cost more than drawing.
    if len(columns) > MAX_UNIQUE_ROWS and len(np.unique(columns[: 2 * MAX_UNIQUE_ROWS], axis=0)) > MAX_UNIQUE_ROWS:
        return columns, np.ones(len(columns), np.int64)
    kinds, counts = np.unique(columns, axis=0, return_counts=True)
    return kinds, counts


def _weighed(columns: FloatMatrix, resamples: int, draw: np.random.Generator) -> FloatMatrix:
    """Sum with a weight drawn for each cluster of each resample."""
    clusters, many = columns.shape
    # Sums about the mean keep their digits in 32 bits; the last column counts what was drawn.
    middle = columns.mean(axis=0)
    small = np.ones((clusters, many + 1), np.float32)
    small[:, :many] = columns - middle
    at_once = max(RESAMPLE_BATCH, WEIGHTS_PER_BLOCK // clusters // RESAMPLE_BATCH * RESAMPLE_BATCH)
    sums = np.empty((resamples, many))
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        words = draw.integers(0, 2**64 - 1, size=-(-some * clusters // 8), dtype=np.uint64, endpoint=True)
        weights = np.frombuffer(words.tobytes().translate(POISSON_WEIGHTS), np.uint8)[: some * clusters].reshape(
            some, clusters
        )
        drawn = (weights.astype(np.float32) @ small).astype(np.float64)
        sums[start : start + some] = drawn[:, :many] + drawn[:, many:] * middle
    return sums


def sign_flip_sums(differences: FloatMatrix, resamples: int, seed: int) -> FloatMatrix:
    """Give the sums of each column when the sign of each row is drawn anew: what chance alone would do.

    Returns
    -------
    numpy.ndarray
        Resamples x columns.
    """
    kinds, counts = unique_rows(differences)
    draw = np.random.Generator(np.random.SFC64(seed))
    if len(kinds) <= MAX_UNIQUE_ROWS:
        ups = draw.binomial(counts, 0.5, size=(resamples, len(counts)))
        return (2 * ups - counts) @ kinds
    rows = len(differences)
    small = np.ascontiguousarray(differences, np.float32)
    whole = differences.sum(axis=0)
    at_once = max(RESAMPLE_BATCH, WEIGHTS_PER_BLOCK // rows // RESAMPLE_BATCH * RESAMPLE_BATCH)
    sums = np.empty((resamples, differences.shape[1]))
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        words = draw.integers(0, 2**64 - 1, size=-(-some * rows // 64), dtype=np.uint64, endpoint=True)
        signs = np.unpackbits(words.view(np.uint8), count=some * rows).reshape(some, rows)
        sums[start : start + some] = 2 * (signs.astype(np.float32) @ small).astype(np.float64) - whole
    return sums
