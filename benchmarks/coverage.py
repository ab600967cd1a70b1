"""Coverage of confidence intervals, level and power of tests: a simulation of every method of `llmhub.evals`.

``python benchmarks/coverage.py`` prints, for each setting, how often the interval holds the true value (nominal 95 %),
how often an end is left open because the data cannot bound it, and the largest family-wise error and the power of the
paired tests. "flagged" marks settings whose tail may be missing from a sample, as `unseen_share` of the estimate says.
``--seeds`` sets the number of simulated data sets; the Monte Carlo error is about 0.22 / sqrt(seeds).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from llmhub.evals import statistics
from llmhub.evals.analysis import MetricValues, estimate_means
from llmhub.evals.comparison import AnalysisSettings, PairedTest
from llmhub.evals.statistics import ConfidenceInterval, PowerTarget

SETTINGS = AnalysisSettings(resamples=400)
Draw = Callable[[np.random.Generator], "tuple[ConfidenceInterval, float]"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A method, its setting, and a function that draws a data set and returns its interval and the true value.

    ``rare`` is the share of values that are far above the others, of ``rows`` in a data set.
    """

    method: str
    name: str
    draw: Draw
    rare: float = 0.0
    rows: int = 0

    @property
    def is_flagged(self) -> bool:
        """Whether the values that decide the mean are so rare that the estimate says they may be missing."""
        return 0 < self.rare <= statistics.unseen_share(self.rows)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares of simulated data sets whose interval holds the true value, and that have an open end."""

    covered: float
    open_ends: float


def simulate(setting: Setting, seeds: int, first_seed: int = 0) -> Coverage:
    """Return the coverage of a setting."""
    covered = open_ends = 0
    for seed in range(first_seed, first_seed + seeds):
        interval, truth = setting.draw(np.random.default_rng(seed))
        above = math.isnan(interval.low) or interval.low <= truth + 1e-12
        below = math.isnan(interval.high) or truth - 1e-12 <= interval.high
        covered += above and below
        open_ends += math.isnan(interval.low) or math.isnan(interval.high)
    return Coverage(covered / seeds, open_ends / seeds)


# Rates


def clustered_answers(
    generator: np.random.Generator, groups: int, sizes: Any, share: float, correlation: float
) -> tuple[Any, Any]:
    """Return right and wrong answers and their groups, with a given share and intraclass correlation."""
    counts = np.broadcast_to(sizes, groups)
    scale = (1 - correlation) / correlation
    shares = generator.beta(share * scale, (1 - share) * scale, groups)
    clusters = np.repeat(np.arange(groups), counts)
    return (generator.random(len(clusters)) < shares[clusters]).astype(float), clusters


def rate(share: float, rows: int) -> Setting:
    def draw(generator: np.random.Generator) -> tuple[ConfidenceInterval, float]:
        return statistics.wilson_interval(generator.binomial(rows, share) / rows, rows), share

    return Setting("rate, Wilson", f"n={rows} p={share}", draw)


def clustered_rate(groups: int, sizes: Any, share: float, correlation: float) -> Setting:
    def draw(generator: np.random.Generator) -> tuple[ConfidenceInterval, float]:
        answers, clusters = clustered_answers(generator, groups, sizes, share, correlation)
        metric = MetricValues(answers[:, None], np.array([len(answers)]), clusters, is_binary=True)
        means, _ = estimate_means(metric, SETTINGS, pairs=False)
        return means[0].interval, share

    sizes_shown = sizes if isinstance(sizes, int) else "unequal"
    return Setting("rate, clustered", f"{groups} groups of {sizes_shown} p={share} icc={correlation}", draw)


# Means and differences

DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, int], Any], float]] = {
    "normal": (lambda generator, n: generator.normal(size=n), 0.0),
    "t3": (lambda generator, n: generator.standard_t(3, n), 0.0),
    "likert": (lambda generator, n: generator.choice([-1.0, 0, 0, 0, 1, 1], n), 1 / 6),
    "exponential": (lambda generator, n: generator.exponential(size=n), 1.0),
    "90 % zeros": (lambda generator, n: np.where(generator.random(n) < 0.1, generator.random(n), 0), 0.05),
    "lognormal 1": (lambda generator, n: generator.lognormal(0, 1, n), math.exp(0.5)),
    "lognormal 1.5": (lambda generator, n: generator.lognormal(0, 1.5, n), math.exp(1.125)),
    "5 % x50": (
        lambda generator, n: np.where(generator.random(n) < 0.05, 50, 1) * generator.lognormal(0, 0.3, n),
        3.45 * math.exp(0.045),
    ),
}


def mean(distribution: str, rows: int) -> Setting:
    sample, truth = DISTRIBUTIONS[distribution]

    def draw(generator: np.random.Generator) -> tuple[ConfidenceInterval, float]:
        return statistics.studentised_mean(sample(generator, rows), np.ones(rows)).interval(0.95), truth

    rare = 0.05 if distribution == "5 % x50" else 0.0
    return Setting("mean or difference", f"{distribution} n={rows}", draw, rare, rows)


def clustered_mean(groups: int) -> Setting:
    def draw(generator: np.random.Generator) -> tuple[ConfidenceInterval, float]:
        counts = generator.integers(2, 9, groups).astype(float)
        sums = counts * generator.normal(0, 0.5, groups) + np.sqrt(counts) * generator.normal(size=groups)
        return statistics.studentised_mean(sums, counts).interval(0.95), 0.0

    return Setting("difference, clustered", f"{groups} groups of 2 to 8", draw)


def paired_shares(rows: int, won: float, lost: float) -> Setting:
    def draw(generator: np.random.Generator) -> tuple[ConfidenceInterval, float]:
        left, right, _ = generator.multinomial(rows, [won, lost, 1 - won - lost])
        return statistics.mcnemar_interval(int(left), int(right), rows), won - lost

    return Setting("paired rates, McNemar", f"n={rows} discordant {won} and {lost}", draw)


# Quantiles


def quantile(share: float, groups: int, size: int, spread: float) -> Setting:
    truth = float(np.exp(statistics.import_scipy("stats").norm.ppf(share) * math.hypot(1, spread)))

    def draw(generator: np.random.Generator) -> tuple[ConfidenceInterval, float]:
        groups_own = generator.normal(0, spread, groups) if spread else np.zeros(groups)
        clusters = np.repeat(np.arange(groups), size)
        values = np.exp(generator.normal(size=groups * size) + groups_own[clusters])
        return statistics.quantile_interval(values, share, clusters=clusters if size > 1 else None), truth

    name = f"{groups} groups of {size}, spread {spread}" if size > 1 else f"n={groups}"
    return Setting(f"latency p{share * 100:.0f}", name, draw)


def settings() -> Iterator[Setting]:
    """Yield every simulated setting."""
    yield from (rate(share, rows) for rows in (30, 100, 1319) for share in (0.5, 0.8, 0.95))
    unequal = np.array([2, 4, 6, 8, 10])
    yield from (
        clustered_rate(10, 8, 0.9, 0.5),
        clustered_rate(20, 8, 0.9, 0.5),
        clustered_rate(50, 8, 0.97, 0.3),
        clustered_rate(10, np.tile(unequal, 2), 0.7, 0.3),
        clustered_rate(30, np.tile(unequal, 6), 0.95, 0.3),
        clustered_rate(10, 8, 0.5, 0.3),
        clustered_rate(40, 8, 0.5, 0.1),
        clustered_rate(100, 5, 0.9, 0.6),
    )
    yield from (mean(name, rows) for name in DISTRIBUTIONS for rows in (10, 20, 30, 100, 300))
    yield from (clustered_mean(groups) for groups in (5, 8, 15, 40))
    yield from (
        paired_shares(rows, won, lost)
        for rows in (30, 100, 300)
        for won, lost in ((0.1, 0.1), (0.2, 0.1), (0.01, 0.01), (0.05, 0.01))
    )
    yield from (quantile(share, rows, 1, 0.0) for share in (0.5, 0.95, 0.99) for rows in (30, 100, 1000))
    clusters = ((10, 10, 0.5), (20, 10, 0.5), (50, 6, 0.5), (20, 10, 1.0), (30, 5, 0.5), (100, 3, 0.5), (200, 5, 0.5))
    yield from (quantile(share, *cluster) for share in (0.5, 0.95, 0.99) for cluster in clusters)


# Tests


def family_wise_error(models: int, rows: int, seeds: int, *, binary: bool) -> tuple[float, float]:
    """Return how often some equal pair is significant, and how often some simultaneous interval misses 0."""
    wrong = missed = 0
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        difficulty = generator.normal(size=(rows, 1))
        values = difficulty + generator.normal(size=(rows, models))
        values = (values > 0).astype(float) if binary else values
        metric = MetricValues(values, np.full(models, rows), None, is_binary=binary)
        _, pairs = estimate_means(metric, SETTINGS)
        corrected = statistics.holm_correction([pair.p for pair in pairs])
        wrong += min(corrected) < 1 - SETTINGS.level
        missed += any(pair.simultaneous.low > 0 or pair.simultaneous.high < 0 for pair in pairs)
    return wrong / seeds, missed / seeds


def disagreements(seeds: int) -> int:
    """Return how many pairs of random data sets have an interval and a test that disagree."""
    found = 0
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        rows, binary = int(generator.integers(5, 60)), bool(generator.integers(2))
        values = generator.gamma(0.5, size=(rows, 2)) * [1, generator.uniform(0.3, 1)]
        values = (values > 0.2).astype(float) if binary else values
        for test in get_args(PairedTest):
            metric = MetricValues(values, np.full(2, rows), None, is_binary=binary)
            _, (pair,) = estimate_means(metric, AnalysisSettings(resamples=400, test=test))
            excludes = pair.interval.low > 0 or pair.interval.high < 0
            found += excludes != (pair.p <= 1 - SETTINGS.level)
    return found


def achieved_power(difference: float, discordance: float, tests: int, seeds: int) -> tuple[int, float]:
    """Return the rows needed for a power of 0.8 by McNemar's test, and the power that is reached with them."""
    target = PowerTarget(tests=tests)
    rows = int(statistics.mcnemar_rows(difference, discordance, target))
    generator = np.random.default_rng(1)
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    draws = generator.multinomial(rows, shares, size=seeds)
    detected = [statistics.mcnemar_test(int(won), int(lost)) < 1 - target.test_level for won, lost, _ in draws]
    return rows, sum(detected) / seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    seeds = parser.parse_args().seeds
    print(f"{'method':24} {'setting':44} {'coverage':>8} {'open':>6}")
    for setting in settings():
        result = simulate(setting, seeds)
        flag = "  flagged" if setting.is_flagged else ""
        print(f"{setting.method:24} {setting.name:44} {result.covered:8.3f} {result.open_ends:6.2f}{flag}", flush=True)
    for binary in (True, False):
        wrong, missed = family_wise_error(4, 100, seeds, binary=binary)
        kind = "right or wrong" if binary else "graded"
        print(
            f"4 equal models, {kind}: some pair significant {wrong:.3f}, some simultaneous interval misses {missed:.3f}"
        )
    print(f"interval and test disagree in {disagreements(seeds):,} of {3 * seeds:,} pairs")
    for difference, discordance, tests in ((0.05, 0.2, 1), (0.05, 0.2, 6), (0.1, 0.15, 1), (0.02, 0.05, 6)):
        rows, power = achieved_power(difference, discordance, tests, 4 * seeds)
        print(f"difference {difference} of {tests} pairs, {discordance} discordant: {rows:,} rows, power {power:.3f}")


if __name__ == "__main__":
    main()
