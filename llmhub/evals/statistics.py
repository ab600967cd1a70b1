"""Confidence intervals, paired tests, sample sizes and resampling on plain arrays.

Distributions and most tests are scipy's (the ``evals`` extra), loaded on first use.

The bootstrap computes the sums of many columns in many resamples as matrix products of weights and columns. A resample
draws as many clusters as there are, with replacement; the weight of a cluster is how often it was drawn. Clusters with
equal values in every column are drawn together by one multinomial draw, which is exact and makes binary scores cheap
for any number of rows. With many distinct clusters, weights are drawn independently instead (the Poisson bootstrap:
Hanley and MacGibbon 2006, https://doi.org/10.1016/j.cmpb.2006.04.006; read 2026-11-27).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from llmhub.evals.optional_imports import import_optional

FloatArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"
FloatMatrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
IntArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"

MAX_ENUMERATED_SIGNS: Final = 13
"""Number of nonzero differences up to which the permutation test enumerates all signs instead of drawing them."""
NORMAL_APPROXIMATION_DF: Final = 2000
"""Degrees of freedom above which sample-size calculations replace Student's t by the normal distribution."""
MAX_UNIQUE_ROWS: Final = 2048
"""Number of distinct clusters up to which bootstrap weights are drawn exactly."""
POISSON_WEIGHTS: Final = bytes(weight for weight, count in enumerate((94, 95, 46, 16, 4, 1)) for _ in range(count))
"""Weight for each random byte: mean 1 and variance 1 exactly, third and fourth moments within 2 % of Poisson's."""
WEIGHTS_PER_BLOCK: Final = 1 << 21
"""Weights in memory at a time, sized to fit the processor's cache."""
RESAMPLE_BATCH: Final = 16
"""Resamples per matrix product, or a multiple of it: the shape in which products are fastest."""


class ConfidenceInterval(NamedTuple):
    """Ends of an interval; NaN if there are too few rows to bound it."""

    low: float
    high: float


UNBOUNDED: Final = ConfidenceInterval(math.nan, math.nan)


def import_scipy(module: str) -> Any:
    """Import and return a scipy module, such as ``"stats"``; raise if the ``evals`` extra is not installed."""
    return import_optional(f"scipy.{module}", "evals")


def wilson_interval(share: float, trials: float, level: float = 0.95) -> ConfidenceInterval:
    """Return the Wilson score interval of a proportion. ``trials`` may be an effective sample size.

    Examples
    --------
    >>> tuple(round(end, 4) for end in wilson_interval(0.5, 100))
    (0.4038, 0.5962)
    """
    if not trials > 0:
        return UNBOUNDED
    z = float(import_scipy("stats").norm.isf((1 - level) / 2))
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half_width = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if share == 0 else max(0.0, center - half_width)
    high = 1.0 if share == 1 else min(1.0, center + half_width)
    return ConfidenceInterval(low, high)


def clustered_standard_error(sums: FloatArray, counts: FloatArray) -> float:
    """Return the cluster-robust standard error of ``sum(sums) / sum(counts)``; 0 for a single cluster.

    With one value per cluster this is the standard error of a mean.

    Examples
    --------
    >>> round(clustered_standard_error(np.array([1.0, 0.0, 1.0, 0.0]), np.ones(4)), 6)
    0.288675
    """
    clusters = int((counts > 0).sum())
    if clusters < 2:  # noqa: PLR2004 - a single cluster has no spread
        return 0.0
    residuals = sums - sums.sum() / counts.sum() * counts
    return math.sqrt(clusters / (clusters - 1) * float(residuals @ residuals)) / float(counts.sum())


def effective_sample_size(share: float, error: float, clusters: int, responses: int, level: float = 0.95) -> float:
    """Return the number of independent trials that would estimate a proportion as precisely as these clusters.

    After Korn and Graubard (1998, https://www150.statcan.gc.ca/n1/pub/12-001-x/1998002/article/4356-eng.pdf, read
    2026-11-27): from the standard error between clusters, reduced for its own uncertainty with few clusters, and at
    most the number of responses. If all clusters agree, it is the number of clusters.
    """
    if clusters < 2 or error == 0:  # noqa: PLR2004 - a single cluster has no spread
        return float(min(clusters, responses))
    stats = import_scipy("stats")
    normal_to_t = stats.norm.isf((1 - level) / 2) / stats.t.isf((1 - level) / 2, clusters - 1)
    return min(float(responses), share * (1 - share) / error**2 * float(normal_to_t) ** 2)


def percentile_interval(draws: FloatArray, clusters: int, level: float = 0.95) -> ConfidenceInterval:
    """Return the expanded percentile interval of bootstrap draws.

    The expansion corrects for few clusters as Student's t does, and vanishes as their number grows (Hesterberg 2015,
    https://doi.org/10.1080/00031305.2015.1089789, read 2026-11-27).
    """
    finite = draws[np.isfinite(draws)]
    if clusters < 2 or not len(finite):  # noqa: PLR2004 - a single cluster has no spread
        return UNBOUNDED
    tail = expanded_tail(clusters, level)
    low, high = np.quantile(finite, (tail, 1 - tail))
    return ConfidenceInterval(float(low), float(high))


def expanded_tail(clusters: int, level: float = 0.95) -> float:
    """Return the share of bootstrap draws to cut off at each end.

    Examples
    --------
    >>> round(expanded_tail(10), 4), round(expanded_tail(10**6), 4)
    (0.0086, 0.025)
    """
    stats = import_scipy("stats")
    z = math.sqrt(clusters / (clusters - 1)) * float(stats.t.isf((1 - level) / 2, clusters - 1))
    return float(stats.norm.sf(z))


def quantile_interval(
    values: FloatArray, share: float, level: float = 0.95, trials: float | None = None
) -> ConfidenceInterval:
    """Return a distribution-free interval of a quantile.

    Computed from order statistics (`scipy.stats.quantile_test`); if ``trials``, an effective sample size of clustered
    values, is given, from the values at the ends of the interval of ``share`` itself (Woodruff 1952).
    """
    if not len(values):
        return UNBOUNDED
    if trials is None:
        interval = import_scipy("stats").quantile_test(values, p=share).confidence_interval(level)
        return ConfidenceInterval(float(interval.low), float(interval.high))
    low, high = np.quantile(values, wilson_interval(share, trials, level), method="inverted_cdf")
    return ConfidenceInterval(float(low), float(high))


def mcnemar_test(discordant_left: int, discordant_right: int) -> float:
    """Return the p-value of McNemar's exact test from the two counts of discordant pairs.

    Examples
    --------
    >>> mcnemar_test(0, 5)
    0.0625
    """
    discordant = discordant_left + discordant_right
    if discordant == 0:
        return 1.0
    return float(import_scipy("stats").binomtest(discordant_left, discordant, 0.5).pvalue)


def wilcoxon_test(differences: FloatArray) -> float:
    """Return the p-value of the Wilcoxon signed-rank test; zero differences are dropped."""
    nonzero = differences[differences != 0]
    return float(import_scipy("stats").wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0


def permutation_test(differences: FloatMatrix, resamples: int, seed: int) -> list[float]:
    """Return the two-sided p-value of the sign-flip permutation test for the sum of each column.

    With few nonzero rows, `scipy.stats.permutation_test` enumerates all signs. Otherwise ``resamples`` random sign
    vectors are drawn, the same for all columns: scipy draws them per column, which takes minutes for many rows.
    """
    exact: list[float | None] = [_enumerated_p_value(column) for column in differences.T]
    if None not in exact:
        return [p for p in exact if p is not None]
    sums = sign_flip_sums(differences, resamples, seed)
    observed = differences.sum(axis=0)
    # Sums that differ only by rounding count as equal.
    slack = 1e-6 * np.abs(differences).sum(axis=0) / math.sqrt(max(1, len(differences)))
    above = (sums >= observed - slack).sum(axis=0)
    below = (sums <= observed + slack).sum(axis=0)
    sampled = np.minimum(1.0, 2 * (np.minimum(above, below) + 1) / (resamples + 1))
    return [float(p) if exact_p is None else exact_p for p, exact_p in zip(sampled, exact, strict=True)]


def _enumerated_p_value(column: FloatArray) -> float | None:
    """Return the exact p-value if there are few enough nonzero differences to enumerate their signs."""
    nonzero = column[column != 0]
    if len(nonzero) > MAX_ENUMERATED_SIGNS:
        return None
    if len(nonzero) < 2:  # noqa: PLR2004 - both signs of one difference are equally extreme
        return 1.0
    result = import_scipy("stats").permutation_test(
        (nonzero,), _sum, permutation_type="samples", vectorized=True, n_resamples=2**MAX_ENUMERATED_SIGNS
    )
    return min(1.0, float(result.pvalue))


def _sum(values: Any, axis: int = -1) -> Any:
    return values.sum(axis=axis)


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple comparisons by Holm's step-down method (1979).

    Examples
    --------
    >>> holm_correction([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


@dataclass(frozen=True, slots=True)
class PowerTarget:
    """Confidence level of a test, and the power to detect a true difference."""

    level: float = 0.95
    power: float = 0.8


def minimum_detectable_effect(error: float, clusters: int, target: PowerTarget = PowerTarget()) -> float:
    """Return the smallest true difference that a paired test of these clusters detects with the target's power.

    ``error`` is the standard error of the difference; NaN if there is none.

    Examples
    --------
    >>> round(minimum_detectable_effect(0.01, 10_000), 5)
    0.02802
    """
    if clusters < 2 or not error > 0:  # noqa: PLR2004 - a single cluster has no spread
        return math.nan
    return error * _detectable_shift(clusters - 1, target)


def required_sample_size(error: float, clusters: int, difference: float, target: PowerTarget = PowerTarget()) -> float:
    """Return the number of clusters needed to detect a true difference with the target's power.

    ``error`` is the standard error of the difference, observed with ``clusters`` clusters.

    Examples
    --------
    >>> required_sample_size(0.01, 10_000, 0.02)
    19623.0
    """
    if clusters < 2 or not error > 0 or difference == 0:  # noqa: PLR2004 - a single cluster has no spread
        return math.nan
    deviation = error * math.sqrt(clusters) / abs(difference)
    approximate = (deviation * _detectable_shift(math.inf, target)) ** 2
    if approximate > NORMAL_APPROXIMATION_DF:
        return float(math.ceil(approximate))
    # The t distribution of few clusters is wider than the normal: some more are needed.
    low, high = 2.0, approximate + 30.0
    root = import_scipy("optimize").brentq(
        lambda n: _detectable_shift(n - 1, target) * deviation - math.sqrt(n), low, high
    )
    return float(math.ceil(root - 1e-9))


def _detectable_shift(df: float, target: PowerTarget) -> float:
    """Return the true difference, in standard errors, that a two-sided t test detects with the target's power."""
    stats = import_scipy("stats")
    tail = (1 - target.level) / 2
    if df > NORMAL_APPROXIMATION_DF:
        return float(stats.norm.isf(tail) + stats.norm.ppf(target.power))
    critical = stats.t.isf(tail, df)

    def power_deficit(shift: float) -> float:
        power = float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))
        # For large shifts scipy returns NaN; the power is 1 there.
        return (1.0 if math.isnan(power) else power) - target.power

    return float(import_scipy("optimize").brentq(power_deficit, 0.0, 3 * float(critical) + 3))


def pass_at_k(right: FloatArray, tries: FloatArray, k: int) -> FloatArray:
    """Return the unbiased estimate of pass@k of each row (Chen et al. 2021, arXiv:2107.03374).

    NaN for rows with fewer than ``k`` responses.

    Examples
    --------
    >>> pass_at_k(np.array([1.0, 0.0, 3.0]), np.array([4.0, 4.0, 4.0]), 2).round(6).tolist()
    [0.5, 0.0, 1.0]
    """
    # 1 - C(tries - right, k) / C(tries, k), as a product of k factors to avoid overflow.
    all_wrong = np.ones(len(right))
    for index in range(k):
        with np.errstate(divide="ignore", invalid="ignore"):
            all_wrong *= np.maximum(tries - right - index, 0.0) / (tries - index)
    return np.where(tries >= k, 1.0 - all_wrong, np.nan)


def bootstrap_sums(columns: FloatMatrix, resamples: int, seed: int) -> FloatMatrix:
    """Return the sum of each column in each bootstrap resample of the rows.

    Parameters
    ----------
    columns
        Clusters x columns.
    resamples
        Number of resamples.
    seed
        Seed of the random generator.

    Returns
    -------
    numpy.ndarray
        Resamples x columns. The sum of a column of ones is the number of clusters in the resample.

    Examples
    --------
    >>> sums = bootstrap_sums(np.array([[1.0, 1.0], [0.0, 1.0]]), 1000, 7)
    >>> sorted({(float(a), float(b)) for a, b in sums})
    [(0.0, 2.0), (1.0, 2.0), (2.0, 2.0)]
    """
    rows, counts = unique_rows(columns)
    generator = np.random.Generator(np.random.SFC64(seed))
    if len(rows) <= MAX_UNIQUE_ROWS:
        weights = generator.multinomial(len(columns), counts / len(columns), size=resamples)
        return weights @ rows
    return _poisson_bootstrap_sums(columns, resamples, generator)


def unique_rows(columns: FloatMatrix) -> tuple[FloatMatrix, IntArray]:
    """Return the distinct rows and their counts; all rows with a count of 1 if nearly all are distinct.

    Examples
    --------
    >>> unique_rows(np.array([[1.0], [0.0], [1.0]]))
    (array([[0.], [1.]]), array([1, 2]))
    """
    # Checked on a sample of rows, because sorting all rows would cost more than drawing weights for them.
    if len(columns) > MAX_UNIQUE_ROWS and len(np.unique(columns[: 2 * MAX_UNIQUE_ROWS], axis=0)) > MAX_UNIQUE_ROWS:
        return columns, np.ones(len(columns), np.int64)
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    return rows, counts


def _batch_size(rows: int) -> int:
    """Return the resamples per matrix product, so that their weights fit the processor's cache."""
    return max(RESAMPLE_BATCH, WEIGHTS_PER_BLOCK // rows // RESAMPLE_BATCH * RESAMPLE_BATCH)


def _random_words(generator: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return generator.integers(0, 2**64 - 1, size=count, dtype=np.uint64, endpoint=True)


def _poisson_bootstrap_sums(columns: FloatMatrix, resamples: int, generator: np.random.Generator) -> FloatMatrix:
    """Return bootstrap sums with an independent weight for each cluster of each resample."""
    clusters, n_columns = columns.shape
    # Sums of deviations from the mean are precise enough in 32 bits; the last column sums the weights.
    mean = columns.mean(axis=0)
    centered = np.ones((clusters, n_columns + 1), np.float32)
    centered[:, :n_columns] = columns - mean
    batch = _batch_size(clusters)
    sums = np.empty((resamples, n_columns))
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        words = _random_words(generator, -(-size * clusters // 8))
        weights = np.frombuffer(words.tobytes().translate(POISSON_WEIGHTS), np.uint8)
        weights = weights[: size * clusters].reshape(size, clusters)
        drawn = (weights.astype(np.float32) @ centered).astype(np.float64)
        sums[start : start + size] = drawn[:, :n_columns] + drawn[:, n_columns:] * mean
    return sums


def sign_flip_sums(differences: FloatMatrix, resamples: int, seed: int) -> FloatMatrix:
    """Return the sum of each column with a random sign for each row: the distribution under the null hypothesis.

    Returns
    -------
    numpy.ndarray
        Resamples x columns.
    """
    rows, counts = unique_rows(differences)
    generator = np.random.Generator(np.random.SFC64(seed))
    if len(rows) <= MAX_UNIQUE_ROWS:
        positive = generator.binomial(counts, 0.5, size=(resamples, len(counts)))
        return (2 * positive - counts) @ rows
    n_rows = len(differences)
    single_precision = np.ascontiguousarray(differences, np.float32)
    total = differences.sum(axis=0)
    batch = _batch_size(n_rows)
    sums = np.empty((resamples, differences.shape[1]))
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        words = _random_words(generator, -(-size * n_rows // 64))
        signs = np.unpackbits(words.view(np.uint8), count=size * n_rows).reshape(size, n_rows)
        sums[start : start + size] = 2 * (signs.astype(np.float32) @ single_precision).astype(np.float64) - total
    return sums
