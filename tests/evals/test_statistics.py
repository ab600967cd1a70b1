"""Figures that can be believed: they agree with scipy and statsmodels, hold what they promise, and keep their level."""

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

# What others compute of the same arrays


@given(st.integers(0, 500), st.integers(0, 500), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipy_s_and_statsmodels(right: int, wrong: int, level: float) -> None:
    if right + wrong == 0:
        return
    low, high = statistics.wilson_interval(right / (right + wrong), right + wrong, level)
    ours = stats.binomtest(right, right + wrong).proportion_ci(level, method="wilson")
    theirs = proportion_confint(right, right + wrong, 1 - level, method="wilson")
    assert (low, high) == pytest.approx((ours.low, ours.high), rel=1e-12, abs=1e-15)
    assert (low, high) == pytest.approx(theirs, rel=1e-12, abs=1e-15)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_statsmodels(left: int, right: int) -> None:
    theirs = mcnemar([[0, left], [right, 0]], exact=True).pvalue if left + right else 1.0
    assert statistics.mcnemar_test(left, right) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("many", [1, 2, 3, 10, 45])
def test_holm_is_statsmodels(many: int) -> None:
    p_values = (np.random.default_rng(many).random(many) ** 4).tolist()
    assert statistics.holm_correction(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-14)


@pytest.mark.parametrize("rows", [3, 5, 20, 100, 1000])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_the_difference_that_could_have_been_shown_is_statsmodels(rows: int, power: float) -> None:
    theirs = TTestPower().solve_power(nobs=rows, alpha=0.05, power=power)
    ours = statistics.minimum_detectable_effect(2.0 / math.sqrt(rows), rows, PowerTarget(0.95, power)) / 2.0
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("effect", [0.05, 0.1, 0.3, 0.8, 2.0])
def test_the_rows_needed_are_statsmodels(effect: float) -> None:
    theirs = math.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8))
    ours = statistics.required_sample_size(1 / math.sqrt(50), 50, effect)
    # Beyond two thousand rows t is taken for normal, which is two rows off.
    assert abs(ours - theirs) <= (2 if theirs > statistics.NORMAL_APPROXIMATION_DF else 0)


def test_more_rows_show_what_could_not_be_shown() -> None:
    """The rows needed for a difference are those that could have shown it."""
    many = int(statistics.required_sample_size(0.02, 400, 0.03))
    assert statistics.minimum_detectable_effect(0.02 * math.sqrt(400 / many), many) <= 0.03
    fewer = many - 1
    assert statistics.minimum_detectable_effect(0.02 * math.sqrt(400 / fewer), fewer) > 0.03


def test_wilcoxon_and_quantiles_are_scipy_s() -> None:
    draw = np.random.default_rng(3)
    differences = np.append(draw.normal(0.2, 1, 60), 0.0)
    assert statistics.wilcoxon_test(differences) == stats.wilcoxon(differences).pvalue
    theirs = stats.quantile_test(differences, p=0.9).confidence_interval(0.95)
    assert statistics.quantile_interval(differences, 0.9) == (theirs.low, theirs.high)


@pytest.mark.parametrize("rows", [2, 5, 9, 13])
def test_few_signs_are_all_tried_as_scipy_does(rows: int) -> None:
    differences = np.random.default_rng(rows).normal(0.5, 1, (rows, 2))
    signs = np.array(list(itertools.product((1, -1), repeat=rows)))
    for at, p in enumerate(statistics.permutation_test(differences, 1000, 0)):
        sums, total = signs @ differences[:, at], differences[:, at].sum()
        tail = min((sums >= total - 1e-12).mean(), (sums <= total + 1e-12).mean())
        assert p == pytest.approx(min(1.0, 2 * tail), abs=1e-15)


def test_many_signs_are_drawn_as_scipy_draws_them() -> None:
    differences = np.random.default_rng(1).normal(0.15, 1, (200, 1))
    options = {"permutation_type": "samples", "vectorized": True, "n_resamples": 9_999}
    theirs = stats.permutation_test(
        (differences[:, 0],), lambda x, axis: x.sum(axis), **options, rng=np.random.default_rng(0)
    ).pvalue
    ours = statistics.permutation_test(differences, 9_999, 0)[0]
    assert ours == pytest.approx(theirs, abs=4 * math.sqrt(theirs * (1 - theirs) / 9_999) * 2)


def test_the_spread_of_clusters_of_one_is_scipy_s() -> None:
    values = np.random.default_rng(2).random(40)
    assert statistics.clustered_standard_error(values, np.ones(40)) == pytest.approx(stats.sem(values), rel=1e-13)


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 16))
def test_pass_at_k_counts_all_choices(right: int, wrong: int, k: int) -> None:
    """Of all choices of k answers, the share that holds a right one."""
    tries = right + wrong
    found = statistics.pass_at_k(np.array([float(right)]), np.array([float(tries)]), k)[0]
    if k > tries:
        assert math.isnan(found)
        return
    choices = list(itertools.combinations([1] * right + [0] * wrong, k))
    assert found == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-12)


# Resamples


def test_a_byte_is_a_weight_of_mean_and_variance_one() -> None:
    weights = np.frombuffer(POISSON_WEIGHTS, np.uint8).astype(float)
    assert len(weights) == 256
    assert (weights.mean(), weights.var()) == (1.0, 1.0)
    assert [(weights**power).mean() for power in (3, 4)] == pytest.approx([5, 15], rel=0.02)  # Poisson's


@pytest.mark.parametrize("many", [7, 500, MAX_UNIQUE_ROWS + 300])
def test_resamples_are_those_of_scipy_in_distribution(many: int) -> None:
    values = np.random.default_rng(4).gamma(2.0, 1.0, many)
    sums = bootstrap_sums(np.column_stack((values, np.ones(many))), 4000, 1)
    means = sums[:, 0] / sums[:, 1]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0))
    assert means.std() == pytest.approx(theirs.standard_error, rel=0.08)
    assert stats.ks_2samp(means, theirs.bootstrap_distribution).pvalue > 1e-4


def test_sums_are_exact_whichever_way_weights_are_drawn() -> None:
    """Each resample's sums are of whole numbers of clusters, in every column alike."""
    counts = np.arange(1.0, 4.0)
    for many in (5, MAX_UNIQUE_ROWS + 1):
        columns = np.column_stack((np.resize(counts, many), np.ones(many), np.random.default_rng(0).random(many)))
        sums = bootstrap_sums(columns, 50, 3)
        assert sums[:, 1] == pytest.approx(sums[:, 1].round(), abs=1e-6)
        assert sums[:, 0] == pytest.approx(sums[:, 0].round(), abs=2e-2)
    assert (bootstrap_sums(columns, 50, 3) == sums).all()
    assert not (bootstrap_sums(columns, 50, 4) == sums).all()


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=60))
def test_what_is_alike_is_counted(rows: list[tuple[int, int]]) -> None:
    columns = np.array(rows, float)
    kinds, counts = unique_rows(columns)
    assert counts.sum() == len(columns)
    assert (counts @ kinds).tolist() == columns.sum(axis=0).tolist()
    assert len(kinds) == len(set(rows))


@pytest.mark.parametrize("many", [40, MAX_UNIQUE_ROWS + 500])
def test_flipped_signs_have_no_mean_and_the_whole_spread(many: int) -> None:
    differences = np.random.default_rng(5).normal(1, 1, (many, 2))
    sums = sign_flip_sums(differences, 4000, 2) / np.sqrt((differences**2).sum(axis=0))
    assert sums.mean(axis=0) == pytest.approx([0, 0], abs=0.08)
    assert sums.std(axis=0) == pytest.approx([1, 1], rel=0.06)


# Contrasts


def right_or_wrong(draw: np.random.Generator, rows: int, rates: tuple[float, ...], shared: float) -> np.ndarray:
    """Answers right at known rates, whose luck is shared in part: what one finds hard the others do too."""
    common, own = draw.random((rows, 1)), draw.random((rows, len(rates)))
    return (np.where(draw.random(own.shape) < shared, common, own) < np.array(rates)).astype(float)


def of(
    values: np.ndarray, clusters: np.ndarray | None = None, *, right: bool = True, single: bool = True
) -> MetricValues:
    return MetricValues(values, np.full(values.shape[1], len(values)), clusters, right, single)


def inside(found: MeanEstimate | PairedDifference, truth: float) -> bool:
    return found.interval.low - 1e-12 <= truth <= found.interval.high + 1e-12


QUICK = AnalysisSettings(resamples=600)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "rates"), [(1319, (0.82, 0.78)), (200, (0.8, 0.65)), (60, (0.7, 0.5))])
def test_intervals_cover_what_is_true_as_often_as_they_say(rows: int, rates: tuple[float, float]) -> None:
    seeds = 500
    hits = np.zeros(3)
    narrower = 0
    for seed in range(seeds):
        values = right_or_wrong(np.random.default_rng(seed), rows, rates, 0.7)
        means, (pair,) = estimate_means(of(values), replace(QUICK, seed=seed))
        hits += [inside(means[0], rates[0]), inside(means[1], rates[1]), inside(pair, rates[0] - rates[1])]
        apart = math.hypot(*(each.interval.high - each.interval.low for each in means))
        narrower += pair.interval.high - pair.interval.low < apart
    assert (hits / seeds >= 0.93).all(), hits / seeds
    assert (hits / seeds <= 0.97).all(), hits / seeds
    assert narrower / seeds > 0.94  # paired intervals against unpaired ones of the same rows


@pytest.mark.slow
def test_intervals_of_clusters_cover_what_is_true() -> None:
    """Rows of a group share their luck: intervals that took them for independent would be half as wide."""
    seeds, groups, each = 600, 40, 8
    clusters = np.arange(groups * each) // each
    hits, naive = np.zeros(3), 0
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        level = draw.normal(0, 1, (groups, 2))
        values = level[clusters] + draw.normal(0, 1, (groups * each, 2)) + [0.0, 0.3]
        means, (pair,) = estimate_means(of(values, clusters, right=False), replace(QUICK, seed=seed))
        hits += [inside(means[0], 0.0), inside(means[1], 0.3), inside(pair, -0.3)]
        naive += abs(pair.value + 0.3) <= 1.96 * float(stats.sem(values[:, 0] - values[:, 1]))
    assert (hits / seeds >= 0.93).all(), hits / seeds
    assert (hits / seeds <= 0.97).all(), hits / seeds
    assert naive / seeds < 0.8


@pytest.mark.slow
def test_intervals_of_several_answers_a_row_cover_what_is_true() -> None:
    seeds, rows, n = 400, 150, 4
    hits = np.zeros(2)
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        chance = draw.beta(2, 1, (rows, 1))
        values = draw.binomial(n, chance, (rows, 2)) / n
        quantity = MetricValues(values, np.full(2, rows * n), None, is_binary=True, one_response_per_cell=False)
        means, (pair,) = estimate_means(quantity, replace(QUICK, seed=seed))
        hits += [inside(means[0], 2 / 3), inside(pair, 0.0)]
    assert (hits / seeds >= 0.93).all(), hits / seeds
    assert (hits / seeds <= 0.97).all(), hits / seeds


@pytest.mark.slow
@pytest.mark.parametrize("test", ["mcnemar", "permutation", "wilcoxon"])
def test_tests_keep_their_level_where_there_is_no_difference(test: str) -> None:
    seeds = 700
    found = 0
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        if test == "mcnemar":
            quantity = of(right_or_wrong(draw, 250, (0.7, 0.7), 0.5))
        else:
            quantity = of(draw.gamma(2, 1, (60, 1)) + draw.normal(0, 1, (60, 2)), right=False)
        settings = replace(QUICK, seed=seed, test="wilcoxon" if test == "wilcoxon" else "permutation")
        (pair,) = estimate_means(quantity, settings)[1]
        assert pair.test == test
        found += pair.p < 0.05
    # No test may find more than chance allows; that of counts, being exact, may find less.
    assert stats.binomtest(found, seeds, 0.05, alternative="greater").pvalue > 0.01
    assert found / seeds > (0.015 if test == "mcnemar" else 0.03)


def test_clusters_of_one_row_are_rows() -> None:
    values = np.random.default_rng(0).random((300, 3))
    alone = estimate_means(of(values, np.arange(300), right=False), QUICK)
    plain = estimate_means(of(values, right=False), QUICK)
    for one, other in zip(alone[1], plain[1], strict=True):
        assert (one.value, one.interval, one.p, one.standard_error) == (
            other.value,
            other.interval,
            other.p,
            other.standard_error,
        )


def test_turning_a_pair_round_turns_its_figures_round() -> None:
    values = np.random.default_rng(0).random((400, 2))
    (one,), (other,) = (
        estimate_means(of(each, right=False), AnalysisSettings())[1] for each in (values, values[:, ::-1])
    )
    assert one.value == -other.value
    assert one.p == pytest.approx(other.p, abs=0.02)
    assert (one.discordant_left, one.discordant_right) == (other.discordant_right, other.discordant_left)
    assert one.interval == pytest.approx((-other.interval.high, -other.interval.low), abs=0.01)


def test_a_row_that_one_model_lacks_is_left_out_of_the_pair_alone() -> None:
    values = np.array([[1.0, 1.0], [0.0, np.nan], [1.0, 0.0], [np.nan, np.nan]])
    means, (pair,) = estimate_means(of(values), QUICK)
    assert [mean.rows for mean in means] == [3, 2]
    assert (pair.rows, pair.value, pair.means) == (2, 0.5, (1.0, 0.5))


def test_models_that_never_differ_are_not_known_to_be_the_same() -> None:
    """Resamples of no difference are no difference: the interval is that of what was never seen."""
    values = np.ones((50, 2))
    means, (pair,) = estimate_means(of(values), QUICK)
    assert pair.value == 0
    assert pair.p == 1
    assert pair.interval.high == pytest.approx(statistics.wilson_interval(0, 50).high)
    assert means[0].interval.low < 1


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows_give_hardly_any_figures(rows: int) -> None:
    for right in (True, False):
        means, pairs = estimate_means(of(np.zeros((rows, 2)), right=right), QUICK)
        assert len(means) == 2
        assert all(pair.p == 1 for pair in pairs)
        assert all(
            math.isnan(statistics.minimum_detectable_effect(pair.standard_error, pair.clusters)) for pair in pairs
        )


def test_sums_by_cluster_are_the_sums() -> None:
    draw = np.random.default_rng(0)
    values = np.where(draw.random((100, 3)) < 0.2, np.nan, draw.random((100, 3)))
    sums, counts = cluster_sums(values, draw.integers(0, 7, 100))
    assert sums.sum(axis=0) == pytest.approx(np.nansum(values, axis=0))
    assert counts.sum(axis=0).tolist() == (~np.isnan(values)).sum(axis=0).tolist()
