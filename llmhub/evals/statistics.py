"""Confidence intervals, paired tests, sample sizes and resampling on plain arrays.

Distributions and most tests are scipy's (the ``evals`` extra), loaded on first use.

The bootstrap computes the sums of many columns in many resamples as matrix products of weights and columns. A resample
draws as many clusters as there are, with replacement; the weight of a cluster is how often it was drawn. Clusters with
equal values in every column are drawn together by one multinomial draw, which is exact and makes binary scores cheap
for any number of rows. With many distinct clusters, weights are drawn independently instead (the Poisson bootstrap:
Hanley and MacGibbon 2006, https://doi.org/10.1016/j.cmpb.2006.04.006; read 2026-11-27).

The file is long because an interval and the test that agrees with it are one procedure and stand together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from llmhub.core.optional_imports import import_optional

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


MAX_RELATIVE_SKEWNESS: Final = 0.3
"""Skewness, relative to the root of the number of clusters, above which an interval's end at the long tail is open."""
MIN_SKEWNESS: Final = 1e-8
ROUNDING: Final = 1e-12
MAX_DOUBLINGS: Final = 60
INVERSION_TOLERANCE: Final = 1e-3
"""Precision of an inverted test's interval, relative to the length of the search."""
DETECTABLE_BISECTIONS: Final = 24
MAX_ROWS: Final = 10**7


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


def effective_sample_size(share: float, sums: FloatArray, counts: FloatArray, responses: int, level: float) -> float:
    """Return the number of independent trials that would estimate a proportion as precisely as these clusters.

    After Korn and Graubard (1998, https://www150.statcan.gc.ca/n1/pub/12-001-x/1998002/article/4356-eng.pdf, read
    2026-11-27): from the standard error between clusters, reduced for its own uncertainty, and at most the number of
    responses. The degrees of freedom are Satterthwaite's, from the kurtosis of the clusters' residuals: where few
    clusters hold most of the spread, as with proportions near 0 or 1, fewer than clusters - 1 count. If all clusters
    agree, it is the number of clusters.
    """
    clusters = int((counts > 0).sum())
    error = clustered_standard_error(sums, counts)
    if clusters < 2 or error == 0:  # noqa: PLR2004 - a single cluster has no spread
        return float(min(clusters, responses))
    stats = import_scipy("stats")
    residuals = sums - share * counts
    kurtosis = clusters * float((residuals**4).sum()) / float((residuals**2).sum()) ** 2
    df = max(1.0, min(clusters - 1.0, 2 * clusters / max(kurtosis - 1, 1e-9)))
    normal_to_t = stats.norm.isf((1 - level) / 2) / stats.t.isf((1 - level) / 2, df)
    return min(float(responses), share * (1 - share) / error**2 * float(normal_to_t) ** 2)


@dataclass(frozen=True, slots=True)
class StudentisedMean:
    """Mean of clusters with its interval and test, corrected for skewness.

    Hall's transformation of Student's t (1992, "On the removal of skewness by transformation") is monotone, so that
    interval and test are one procedure: the interval excludes a value exactly when the test rejects
    it. The end of an interval on the side of the long tail is open if a few clusters decide the mean, as the data do
    not show how far the tail goes.

    Parameters
    ----------
    mean
        Sum of the values over their number.
    deviation, skewness
        Standard deviation and skewness of the clusters' contributions.
    clusters
        Number of clusters.
    """

    mean: float
    deviation: float
    skewness: float
    clusters: int

    @property
    def is_known(self) -> bool:
        """Whether the clusters have a spread from which to estimate the error of their mean."""
        return self.clusters > 1 and self.deviation > 0

    @property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(self.clusters)

    @property
    def open_side(self) -> int:
        """Side of the long tail, -1 or 1, if that end cannot be bounded; else 0."""
        if abs(self.skewness) <= MAX_RELATIVE_SKEWNESS * math.sqrt(self.clusters):
            return 0
        return 1 if self.skewness > 0 else -1

    def interval(self, level: float) -> ConfidenceInterval:
        """Return the confidence interval of the mean; NaN for an end that cannot be bounded."""
        if not self.is_known:
            return UNBOUNDED
        t = float(import_scipy("stats").t.isf((1 - level) / 2, self.clusters - 1)) / math.sqrt(self.clusters)
        low, high = (self.mean - self.deviation * self._inverse(end) for end in (t, -t))
        side = self.open_side
        return ConfidenceInterval(math.nan if side < 0 else low, math.nan if side > 0 else high)

    def p_value(self, value: float = 0.0) -> float:
        """Return the two-sided p-value of a mean of ``value``; 1 if the interval's end towards it is open."""
        if not self.is_known:
            return 1.0
        shift = (self.mean - value) / self.deviation
        if shift * self.open_side < 0:
            return 1.0
        statistic = self._transform(shift) * math.sqrt(self.clusters)
        # Values on the other side of the mean are never rejected for the skewness alone.
        if statistic * shift <= 0:
            return 1.0
        return min(1.0, 2 * float(import_scipy("stats").t.sf(abs(statistic), self.clusters - 1)))

    def _transform(self, shift: float) -> float:
        g = self.skewness
        return shift + g / 3 * shift**2 + g * g / 27 * shift**3 + g / (6 * self.clusters)

    def _inverse(self, value: float) -> float:
        g = self.skewness
        if abs(g) < MIN_SKEWNESS:
            return value
        return 3 / g * (float(np.cbrt(1 + g * (value - g / (6 * self.clusters)))) - 1)


def studentised_mean(sums: FloatArray, counts: FloatArray) -> StudentisedMean:
    """Return the mean of values given as sums and counts of independent clusters.

    Examples
    --------
    >>> mean = studentised_mean(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5))
    >>> tuple(round(end, 3) for end in mean.interval(0.95)), round(mean.p_value(), 4)
    ((1.037, 4.963), 0.0132)
    """
    present = counts > 0
    clusters = int(present.sum())
    if not clusters:
        return StudentisedMean(math.nan, 0.0, 0.0, 0)
    mean = float(sums.sum() / counts.sum())
    residuals = (sums[present] - mean * counts[present]) * clusters / counts.sum()
    square = float(residuals @ residuals)
    scale = float(np.abs(sums[present]).max(initial=0.0)) * clusters / float(counts.sum())
    if clusters < 2 or square <= (ROUNDING * scale) ** 2 * clusters:  # noqa: PLR2004 - a single cluster has no spread
        return StudentisedMean(mean, 0.0, 0.0, clusters)
    skewness = float((residuals**3).mean()) / (square / clusters) ** 1.5
    return StudentisedMean(mean, math.sqrt(square / (clusters - 1)), skewness, clusters)


def unseen_share(clusters: int, level: float = 0.95) -> float:
    """Return the largest share of values that may all be missing from a sample, with probability ``1 - level``.

    A tail of this share or less, however heavy, may leave no trace in the sample: no interval of a mean covers it. For
    many clusters it is about 3 / clusters (the rule of three).

    Examples
    --------
    >>> round(unseen_share(10), 3), round(unseen_share(300), 3), unseen_share(0)
    (0.259, 0.01, 1.0)
    """
    return 1.0 if clusters < 1 else 1 - (1 - level) ** (1 / clusters)


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
    values: FloatArray, share: float, level: float = 0.95, clusters: IntArray | None = None
) -> ConfidenceInterval:
    """Return a distribution-free interval of a quantile; NaN for an end that so few values cannot bound.

    Computed from order statistics (`scipy.stats.quantile_test`). Clustered values count as fewer independent ones, by
    the correlation of their ranks within clusters.
    """
    if not len(values):
        return UNBOUNDED
    if clusters is None:
        interval = import_scipy("stats").quantile_test(values, p=share).confidence_interval(level)
        return ConfidenceInterval(float(interval.low), float(interval.high))
    trials = int(len(values) / design_effect(values, clusters))
    binomial = import_scipy("stats").binom
    below, above = (float(binomial.ppf(tail, trials, share)) for tail in ((1 - level) / 2, (1 + level) / 2))
    ordered = np.sort(values)
    low, high = below / trials * len(values), (above + 1) / trials * len(values)
    return ConfidenceInterval(
        math.nan if below < 1 else float(ordered[max(0, math.floor(low) - 1)]),
        math.nan if above + 1 > trials else float(ordered[min(len(values), math.ceil(high)) - 1]),
    )


def design_effect(values: FloatArray, clusters: IntArray) -> float:
    """Return how many clustered values are worth one independent one, from the ranks' intraclass correlation.

    The correlation is the median-unbiased estimate of a one-way analysis of variance of normal scores, at least 0. A
    single cluster is worth one value.

    Examples
    --------
    >>> design_effect(np.arange(8.0), np.array([0, 0, 0, 0, 1, 1, 1, 1])) > 3
    True
    """
    stats = import_scipy("stats")
    scores = stats.norm.ppf((stats.rankdata(values) - 0.5) / len(values))
    _, index, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    groups, size = len(counts), len(values)
    if groups < 2:  # noqa: PLR2004 - a single cluster has no spread
        return float(size)
    if groups == size:
        return 1.0
    means = np.bincount(index.ravel(), scores) / counts
    typical = (size - float((counts**2).sum()) / size) / (groups - 1)
    between = float((counts * (means - scores.mean()) ** 2).sum()) / (groups - 1)
    within = float(((scores - means[index.ravel()]) ** 2).sum()) / (size - groups)
    if within == 0:
        return size / groups
    # With chance alone the ratio of variances has a median near 1; it is compared with that, not with its mean.
    ratio = between / within * float(stats.f.ppf(0.5, size - groups, groups - 1))
    correlation = min(1.0, max(0.0, (ratio - 1) / (ratio + typical - 1)))
    weighted_size = float((counts**2).sum()) / size
    return 1 + (weighted_size - 1) * correlation


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


def mcnemar_interval(left: int, right: int, rows: int, level: float = 0.95) -> ConfidenceInterval:
    """Return the interval of a difference of two paired shares that agrees with McNemar's exact test.

    The share of discordant rows won by left has the exact (Clopper-Pearson) interval, that of discordant rows Wilson's;
    the interval of the difference combines both distances (Zou and Donner 2008, "Construction of confidence limits
    about effect measures"). Its sign is that of the exact interval, so it excludes 0 exactly when the test rejects.

    Examples
    --------
    >>> [round(end, 3) for end in mcnemar_interval(5, 0, 100)], mcnemar_test(5, 0)
    ([-0.009, 0.112], 0.0625)
    """
    discordant = left + right
    if not rows:
        return UNBOUNDED
    wide = wilson_interval(discordant / rows, rows, level)
    if not discordant:
        return ConfidenceInterval(-wide.high, wide.high)
    beta, tail, share = import_scipy("stats").beta, (1 - level) / 2, discordant / rows
    lowest = float(beta.ppf(tail, left, right + 1)) if left else 0.0
    highest = float(beta.isf(tail, left + 1, right)) if right else 1.0
    balance, balance_low, balance_high = (2 * won - 1 for won in (left / discordant, lowest, highest))
    low = _combined_end(balance, balance_low, share, wide)
    high = -_combined_end(-balance, -balance_high, share, wide)
    return ConfidenceInterval(low, high)


def _combined_end(balance: float, balance_low: float, share: float, wide: ConfidenceInterval) -> float:
    """Return the lower end of the difference ``balance * share``, with the sign of ``balance_low``."""
    share_end = wide.low if balance > 0 else wide.high
    distance = math.hypot(share * (balance - balance_low), balance * (share - share_end))
    end = balance * share - distance
    if balance_low > 0:
        return max(end, balance_low * wide.low)
    return min(end, balance_low * wide.low)


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


def invert_test(
    p_value: Callable[[float], float], estimate: float, scale: float, level: float, p_zero: float
) -> ConfidenceInterval:
    """Return the interval of values that a test does not reject, found by bisection on both sides of an estimate.

    Parameters
    ----------
    p_value
        The p-value of a true value; it falls with the distance from the estimate.
    estimate, scale
        Estimate, and a positive length to start from, such as its standard error.
    level
        Confidence level.
    p_zero
        The test's p-value of 0, with which the interval agrees.
    """
    alpha = 1 - level
    ends = []
    for side in (-1.0, 1.0):
        inside, outside = estimate, estimate + side * scale
        for _ in range(MAX_DOUBLINGS):
            if p_value(outside) <= alpha:
                break
            inside, outside = outside, estimate + 2 * (outside - estimate)
        else:
            ends.append(math.nan)
            continue
        while abs(outside - inside) > INVERSION_TOLERANCE * scale:
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if p_value(middle) > alpha else (inside, middle)
        end = outside
        is_zero_beyond = side * (0 - estimate) >= 0
        if is_zero_beyond:
            # The test of 0 itself is decisive; zero differences may make it differ from that of values close to 0.
            if p_zero > alpha:
                end = min(end, 0.0) if side < 0 else max(end, 0.0)
            elif side * end >= 0:
                end = side * -abs(ROUNDING * scale)
        ends.append(end)
    return ConfidenceInterval(ends[0], ends[1])


def sign_flip_intervals(
    sums: FloatMatrix, counts: FloatMatrix, settings: SignFlips, p_values: Sequence[float]
) -> list[Callable[[float], ConfidenceInterval]]:
    """Return, for each column, a function from level to the interval of means that the test does not reject."""
    pairs = sums.shape[1]
    clusters = len(sums)
    stacked = np.hstack((sums, counts))
    if clusters <= MAX_ENUMERATED_SIGNS:
        signs = 1.0 - 2.0 * ((np.arange(2**clusters)[:, None] >> np.arange(clusters)) & 1)
        flipped = signs @ stacked
    else:
        flipped = sign_flip_sums(stacked, settings.resamples, settings.seed)
    enumerated = clusters <= MAX_ENUMERATED_SIGNS
    return [
        _sign_flip_interval(
            flipped[:, pair],
            flipped[:, pairs + pair],
            sums[:, pair],
            counts[:, pair],
            p_values[pair],
            enumerated=enumerated,
        )
        for pair in range(pairs)
    ]


@dataclass(frozen=True, slots=True)
class SignFlips:
    """Number and seed of the random sign vectors of a permutation test."""

    resamples: int
    seed: int


def _sign_flip_interval(
    flipped: FloatArray,
    flipped_counts: FloatArray,
    sums: FloatArray,
    counts: FloatArray,
    p_zero: float,
    *,
    enumerated: bool,
) -> Callable[[float], ConfidenceInterval]:
    total, number = float(sums.sum()), float(counts.sum())
    extra = 0 if enumerated else 1

    def p_value(value: float) -> float:
        observed = total - value * number
        null = flipped - value * flipped_counts
        slack = 1e-9 * (abs(total) + abs(value) * number)
        above, below = int((null >= observed - slack).sum()), int((null <= observed + slack).sum())
        return min(1.0, 2 * (min(above, below) + extra) / (len(null) + extra))

    def interval(level: float) -> ConfidenceInterval:
        error = clustered_standard_error(sums, counts)
        if not error > 0:
            return UNBOUNDED
        return invert_test(p_value, total / number, error, level, p_zero)

    return interval


def bonferroni_level(level: float, tests: int) -> float:
    """Return the level of each of several intervals that hold together with probability ``level``.

    Examples
    --------
    >>> round(bonferroni_level(0.95, 10), 6)
    0.995
    """
    return 1 - (1 - level) / max(1, tests)


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
    """Confidence level of a test, the power to detect a true difference, and the number of tests corrected for.

    Holm's correction is counted as Bonferroni's: the power of each pair is at least the stated one.
    """

    level: float = 0.95
    power: float = 0.8
    tests: int = 1

    @property
    def test_level(self) -> float:
        """Level of a single test."""
        return bonferroni_level(self.level, self.tests)


def mcnemar_power(rows: int, difference: float, discordance: float, target: PowerTarget = PowerTarget()) -> float:
    """Return the power of McNemar's exact test.

    Parameters
    ----------
    rows
        Number of rows.
    difference
        True difference of the two shares.
    discordance
        True share of discordant rows, at least ``difference``.

    Examples
    --------
    >>> round(mcnemar_power(300, 0.05, 0.1), 2)
    0.74
    """
    stats, alpha = import_scipy("stats"), 1 - target.test_level
    discordance = min(1.0, max(discordance, abs(difference)))
    low, high = (int(stats.binom.ppf(tail, rows, discordance)) for tail in (1e-9, 1 - 1e-9))
    counts = np.arange(max(low, 1), high + 1)
    # The test rejects if the smaller count is at most the critical one.
    critical = stats.binom.ppf(alpha / 2, counts, 0.5)
    critical = np.where(stats.binom.cdf(critical, counts, 0.5) > alpha / 2, critical - 1, critical)
    won = (1 + abs(difference) / discordance) / 2 if discordance else 0.5
    rejects = stats.binom.cdf(critical, counts, won) + stats.binom.sf(counts - critical - 1, counts, won)
    return float((stats.binom.pmf(counts, rows, discordance) * np.where(critical < 0, 0.0, rejects)).sum())


def mcnemar_rows(difference: float, discordance: float, target: PowerTarget = PowerTarget()) -> float:
    """Return the number of rows with which McNemar's exact test detects a true difference with the target's power.

    The exact test's power rises in steps; the number is one from which a few per cent more rows do not lose it again.
    """
    discordance = min(1.0, max(discordance, abs(difference)))
    deviation = math.sqrt(max(discordance - difference**2, 0.0)) / abs(difference)
    rows = max(5, math.floor((deviation * _detectable_shift(math.inf, target)) ** 2 * 0.9))
    while any(mcnemar_power(rows + extra, difference, discordance, target) < target.power for extra in _steps(rows)):
        rows += max(1, rows // 100)
        if rows > MAX_ROWS:
            return math.nan
    return float(rows)


def _steps(rows: int) -> tuple[int, ...]:
    return tuple(sorted({0, 1, 2, 3, rows // 100, rows // 50}))


def mcnemar_detectable(rows: int, discordance: float, target: PowerTarget = PowerTarget()) -> float:
    """Return the smallest true difference that McNemar's exact test detects with the target's power; NaN for none."""
    if rows < 1 or mcnemar_power(rows, 1.0, 1.0, target) < target.power:
        return math.nan
    low, high = 0.0, 1.0
    for _ in range(DETECTABLE_BISECTIONS):
        middle = (low + high) / 2
        enough = mcnemar_power(rows, middle, discordance, target) >= target.power
        low, high = (low, middle) if enough else (middle, high)
    return high


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
    tail = (1 - target.test_level) / 2
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
