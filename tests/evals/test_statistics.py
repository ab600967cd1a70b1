"""Statistics agree with scipy and statsmodels, intervals have nominal coverage, and tests keep their level."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from llmhub.evals import statistics
from llmhub.evals.analysis import MeanEstimate, MetricValues, PairedDifference, cluster_sums, estimate_means
from llmhub.evals.comparison import AnalysisSettings
from llmhub.evals.statistics import (
    MAX_UNIQUE_ROWS,
    POISSON_WEIGHTS,
    PowerTarget,
    bootstrap_sums,
    sign_flip_sums,
    unique_rows,
)

# Agreement with reference implementations


@given(st.integers(0, 500), st.integers(0, 500), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_interval_equals_scipy_and_statsmodels(right: int, wrong: int, level: float) -> None:
    if right + wrong == 0:
        return
    low, high = statistics.wilson_interval(right / (right + wrong), right + wrong, level)
    own = stats.binomtest(right, right + wrong).proportion_ci(level, method="wilson")
    reference = proportion_confint(right, right + wrong, 1 - level, method="wilson")
    assert (low, high) == pytest.approx((own.low, own.high), rel=1e-12, abs=1e-15)
    assert (low, high) == pytest.approx(reference, rel=1e-12, abs=1e-15)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_equals_statsmodels(left: int, right: int) -> None:
    reference = mcnemar([[0, left], [right, 0]], exact=True).pvalue if left + right else 1.0
    assert statistics.mcnemar_test(left, right) == pytest.approx(reference, rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 45])
def test_holm_equals_statsmodels(count: int) -> None:
    p_values = (np.random.default_rng(count).random(count) ** 4).tolist()
    assert statistics.holm_correction(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-14)


@pytest.mark.parametrize("rows", [3, 5, 20, 100, 1000])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_minimum_detectable_effect_equals_statsmodels(rows: int, power: float) -> None:
    reference = TTestPower().solve_power(nobs=rows, alpha=0.05, power=power)
    own = statistics.minimum_detectable_effect(2.0 / math.sqrt(rows), rows, PowerTarget(0.95, power)) / 2.0
    assert own == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize("effect", [0.05, 0.1, 0.3, 0.8, 2.0])
def test_required_sample_size_equals_statsmodels(effect: float) -> None:
    reference = math.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8))
    own = statistics.required_sample_size(1 / math.sqrt(50), 50, effect)
    # Above this, t is approximated by the normal distribution, which is off by up to two rows.
    assert abs(own - reference) <= (2 if reference > statistics.NORMAL_APPROXIMATION_DF else 0)


def test_required_sample_size_inverts_minimum_detectable_effect() -> None:
    """The required number of rows detects the difference; one row less does not."""
    count = int(statistics.required_sample_size(0.02, 400, 0.03))
    assert statistics.minimum_detectable_effect(0.02 * math.sqrt(400 / count), count) <= 0.03
    one_less = count - 1
    assert statistics.minimum_detectable_effect(0.02 * math.sqrt(400 / one_less), one_less) > 0.03


def test_wilcoxon_and_quantile_interval_equal_scipy() -> None:
    rng = np.random.default_rng(3)
    differences = np.append(rng.normal(0.2, 1, 60), 0.0)
    assert statistics.wilcoxon_test(differences) == stats.wilcoxon(differences).pvalue
    reference = stats.quantile_test(differences, p=0.9).confidence_interval(0.95)
    assert statistics.quantile_interval(differences, 0.9) == (reference.low, reference.high)


@pytest.mark.parametrize("rows", [2, 5, 9, 13])
def test_permutation_test_of_few_rows_is_exact(rows: int) -> None:
    differences = np.random.default_rng(rows).normal(0.5, 1, (rows, 2))
    signs = np.array(list(itertools.product((1, -1), repeat=rows)))
    for index, p in enumerate(statistics.permutation_test(differences, 1000, 0)):
        sums, total = signs @ differences[:, index], differences[:, index].sum()
        tail = min((sums >= total - 1e-12).mean(), (sums <= total + 1e-12).mean())
        assert p == pytest.approx(min(1.0, 2 * tail), abs=1e-15)


def test_permutation_test_of_many_rows_agrees_with_scipy() -> None:
    differences = np.random.default_rng(1).normal(0.15, 1, (200, 1))
    options = {"permutation_type": "samples", "vectorized": True, "n_resamples": 9_999}
    reference = stats.permutation_test(
        (differences[:, 0],), lambda x, axis: x.sum(axis), **options, rng=np.random.default_rng(0)
    ).pvalue
    own = statistics.permutation_test(differences, 9_999, 0)[0]
    assert own == pytest.approx(reference, abs=4 * math.sqrt(reference * (1 - reference) / 9_999) * 2)


def test_standard_error_of_single_row_clusters_equals_scipy() -> None:
    values = np.random.default_rng(2).random(40)
    assert statistics.clustered_standard_error(values, np.ones(40)) == pytest.approx(stats.sem(values), rel=1e-13)


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 16))
def test_pass_at_k_equals_enumeration(right: int, wrong: int, k: int) -> None:
    """pass@k is the share of all choices of k responses that contain a correct one."""
    tries = right + wrong
    result = statistics.pass_at_k(np.array([float(right)]), np.array([float(tries)]), k)[0]
    if k > tries:
        assert math.isnan(result)
        return
    choices = list(itertools.combinations([1] * right + [0] * wrong, k))
    assert result == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-12)


# Resampling


def test_poisson_weights_have_mean_and_variance_one() -> None:
    weights = np.frombuffer(POISSON_WEIGHTS, np.uint8).astype(float)
    assert len(weights) == 256
    assert (weights.mean(), weights.var()) == (1.0, 1.0)
    assert [(weights**power).mean() for power in (3, 4)] == pytest.approx([5, 15], rel=0.02)  # Poisson's


@pytest.mark.parametrize("count", [7, 500, MAX_UNIQUE_ROWS + 300])
def test_bootstrap_distribution_agrees_with_scipy(count: int) -> None:
    values = np.random.default_rng(4).gamma(2.0, 1.0, count)
    sums = bootstrap_sums(np.column_stack((values, np.ones(count))), 4000, 1)
    means = sums[:, 0] / sums[:, 1]
    reference = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0))
    assert means.std() == pytest.approx(reference.standard_error, rel=0.08)
    assert stats.ks_2samp(means, reference.bootstrap_distribution).pvalue > 1e-4


def test_bootstrap_sums_are_exact_for_both_weight_generators() -> None:
    """Sums of integers are integers in each resample, in every column."""
    counts = np.arange(1.0, 4.0)
    for count in (5, MAX_UNIQUE_ROWS + 1):
        columns = np.column_stack((np.resize(counts, count), np.ones(count), np.random.default_rng(0).random(count)))
        sums = bootstrap_sums(columns, 50, 3)
        assert sums[:, 1] == pytest.approx(sums[:, 1].round(), abs=1e-6)
        assert sums[:, 0] == pytest.approx(sums[:, 0].round(), abs=2e-2)
    assert (bootstrap_sums(columns, 50, 3) == sums).all()
    assert not (bootstrap_sums(columns, 50, 4) == sums).all()


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=60))
def test_unique_rows_are_counted(rows: list[tuple[int, int]]) -> None:
    columns = np.array(rows, float)
    kinds, counts = unique_rows(columns)
    assert counts.sum() == len(columns)
    assert (counts @ kinds).tolist() == columns.sum(axis=0).tolist()
    assert len(kinds) == len(set(rows))


@pytest.mark.parametrize("count", [40, MAX_UNIQUE_ROWS + 500])
def test_sign_flip_sums_have_mean_zero_and_full_variance(count: int) -> None:
    differences = np.random.default_rng(5).normal(1, 1, (count, 2))
    sums = sign_flip_sums(differences, 4000, 2) / np.sqrt((differences**2).sum(axis=0))
    assert sums.mean(axis=0) == pytest.approx([0, 0], abs=0.08)
    assert sums.std(axis=0) == pytest.approx([1, 1], rel=0.06)


# Means and differences


def simulate_binary(rng: np.random.Generator, rows: int, rates: tuple[float, ...], shared: float) -> np.ndarray:
    """Return binary scores with known rates, correlated between models by the share of ``shared`` draws."""
    shared_draw, own = rng.random((rows, 1)), rng.random((rows, len(rates)))
    return (np.where(rng.random(own.shape) < shared, shared_draw, own) < np.array(rates)).astype(float)


def metric_values(
    values: np.ndarray, clusters: np.ndarray | None = None, *, right: bool = True, single: bool = True
) -> MetricValues:
    return MetricValues(values, np.full(values.shape[1], len(values)), clusters, right, single)


def covers(result: MeanEstimate | PairedDifference, truth: float) -> bool:
    return result.interval.low - 1e-12 <= truth <= result.interval.high + 1e-12


FAST = AnalysisSettings(resamples=600)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "rates"), [(1319, (0.82, 0.78)), (200, (0.8, 0.65)), (60, (0.7, 0.5))])
def test_intervals_have_nominal_coverage(rows: int, rates: tuple[float, float]) -> None:
    seeds = 500
    hits = np.zeros(3)
    narrower = 0
    for seed in range(seeds):
        values = simulate_binary(np.random.default_rng(seed), rows, rates, 0.7)
        means, (pair,) = estimate_means(metric_values(values), replace(FAST, seed=seed))
        hits += [covers(means[0], rates[0]), covers(means[1], rates[1]), covers(pair, rates[0] - rates[1])]
        unpaired_width = math.hypot(*(item.interval.high - item.interval.low for item in means))
        narrower += pair.interval.high - pair.interval.low < unpaired_width
    assert (hits / seeds >= 0.93).all(), hits / seeds
    assert (hits / seeds <= 0.97).all(), hits / seeds
    # Paired intervals are narrower; the exact ones of few rows are a little wider than Wald intervals.
    assert narrower / seeds > 0.93


@pytest.mark.slow
def test_clustered_intervals_have_nominal_coverage() -> None:
    """Rows of a cluster are correlated: intervals that assume independence would be half as wide."""
    seeds, groups, item = 600, 40, 8
    clusters = np.arange(groups * item) // item
    hits, naive_hits = np.zeros(3), 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        level = rng.normal(0, 1, (groups, 2))
        values = level[clusters] + rng.normal(0, 1, (groups * item, 2)) + [0.0, 0.3]
        means, (pair,) = estimate_means(metric_values(values, clusters, right=False), replace(FAST, seed=seed))
        hits += [covers(means[0], 0.0), covers(means[1], 0.3), covers(pair, -0.3)]
        naive_hits += abs(pair.value + 0.3) <= 1.96 * float(stats.sem(values[:, 0] - values[:, 1]))
    assert (hits / seeds >= 0.93).all(), hits / seeds
    assert (hits / seeds <= 0.97).all(), hits / seeds
    assert naive_hits / seeds < 0.8


@pytest.mark.slow
def test_intervals_of_several_samples_have_nominal_coverage() -> None:
    seeds, rows, n = 400, 150, 4
    hits = np.zeros(2)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        chance = rng.beta(2, 1, (rows, 1))
        values = rng.binomial(n, chance, (rows, 2)) / n
        quantity = MetricValues(values, np.full(2, rows * n), None, is_binary=True, one_response_per_cell=False)
        means, (pair,) = estimate_means(quantity, replace(FAST, seed=seed))
        hits += [covers(means[0], 2 / 3), covers(pair, 0.0)]
    assert (hits / seeds >= 0.93).all(), hits / seeds
    assert (hits / seeds <= 0.97).all(), hits / seeds


@pytest.mark.slow
@pytest.mark.parametrize("test", ["mcnemar", "permutation", "wilcoxon"])
def test_paired_tests_keep_their_level_without_a_difference(test: str) -> None:
    seeds = 200 if test == "wilcoxon" else 500  # each takes ten times as long
    result = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        if test == "mcnemar":
            quantity = metric_values(simulate_binary(rng, 250, (0.7, 0.7), 0.5))
        else:
            quantity = metric_values(rng.gamma(2, 1, (60, 1)) + rng.normal(0, 1, (60, 2)), right=False)
        settings = replace(FAST, seed=seed, test="wilcoxon" if test == "wilcoxon" else "permutation")
        (pair,) = estimate_means(quantity, settings)[1]
        assert pair.test == test
        result += pair.p < 0.05
    # No test may reject more often than its level; McNemar's exact test may reject less often.
    assert stats.binomtest(result, seeds, 0.05, alternative="greater").pvalue > 0.01
    assert result / seeds > (0.015 if test == "mcnemar" else 0.03)


def test_single_row_clusters_equal_no_clusters() -> None:
    values = np.random.default_rng(0).random((300, 3))
    clustered = estimate_means(metric_values(values, np.arange(300), right=False), FAST)
    unclustered = estimate_means(metric_values(values, right=False), FAST)
    for first, second in zip(clustered[1], unclustered[1], strict=True):
        assert (first.value, first.interval, first.p, first.standard_error) == (
            second.value,
            second.interval,
            second.p,
            second.standard_error,
        )


def test_swapping_models_negates_the_difference() -> None:
    values = np.random.default_rng(0).random((400, 2))
    (first,), (second,) = (
        estimate_means(metric_values(item, right=False), AnalysisSettings())[1] for item in (values, values[:, ::-1])
    )
    assert first.value == -second.value
    assert first.p == pytest.approx(second.p, abs=0.02)
    assert (first.discordant_left, first.discordant_right) == (second.discordant_right, second.discordant_left)
    assert first.interval == pytest.approx((-second.interval.high, -second.interval.low), abs=0.01)


def test_row_missing_for_one_model_is_excluded_from_the_pair_only() -> None:
    values = np.array([[1.0, 1.0], [0.0, np.nan], [1.0, 0.0], [np.nan, np.nan]])
    means, (pair,) = estimate_means(metric_values(values), FAST)
    assert [mean.rows for mean in means] == [3, 2]
    assert (pair.rows, pair.value, pair.means) == (2, 0.5, (1.0, 0.5))


def test_equal_scores_still_have_an_interval() -> None:
    """Resamples of equal scores have no spread; the interval is that of a share of zero."""
    values = np.ones((50, 2))
    means, (pair,) = estimate_means(metric_values(values), FAST)
    assert pair.value == 0
    assert pair.p == 1
    assert pair.interval.high == pytest.approx(statistics.wilson_interval(0, 50).high)
    assert means[0].interval.low < 1


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_estimates_of_few_rows(rows: int) -> None:
    for right in (True, False):
        means, pairs = estimate_means(metric_values(np.zeros((rows, 2)), right=right), FAST)
        assert len(means) == 2
        assert all(pair.p == 1 for pair in pairs)
        assert all(
            math.isnan(statistics.minimum_detectable_effect(pair.standard_error, pair.clusters)) for pair in pairs
        )


def test_cluster_sums_sum_to_the_totals() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random((100, 3)) < 0.2, np.nan, rng.random((100, 3)))
    sums, counts = cluster_sums(values, rng.integers(0, 7, 100))
    assert sums.sum(axis=0) == pytest.approx(np.nansum(values, axis=0))
    assert counts.sum(axis=0).tolist() == (~np.isnan(values)).sum(axis=0).tolist()
