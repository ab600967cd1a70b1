"""Intervals that cover, tests that agree with them, and sample sizes that reach their power."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmhub.evals import compare, statistics
from llmhub.evals.statistics import PowerTarget

spec = importlib.util.spec_from_file_location("coverage", Path(__file__).parents[2] / "benchmarks" / "coverage.py")
assert spec is not None
assert spec.loader is not None
coverage = importlib.util.module_from_spec(spec)
sys.modules["coverage"] = coverage
spec.loader.exec_module(coverage)

SEEDS = 300
LOWEST = 0.89
"""Nominal is 0.95; the Monte Carlo error of 300 seeds is 0.013."""


@pytest.mark.slow
@pytest.mark.parametrize("setting", list(coverage.settings()), ids=lambda setting: f"{setting.method}: {setting.name}")
def test_interval_covers(setting: Any) -> None:
    result = coverage.simulate(setting, SEEDS)
    # A tail that most samples do not hold is covered by no method: the estimate says how large it may be.
    assert result.covered >= LOWEST or setting.is_flagged


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_some_equal_pair_is_rarely_significant(binary: bool) -> None:
    assert max(coverage.family_wise_error(4, 100, SEEDS, binary=binary)) <= 0.075


def test_interval_and_test_never_disagree() -> None:
    assert coverage.disagreements(60) == 0


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_mcnemar_interval_excludes_zero_when_the_test_rejects(level: float) -> None:
    for left in range(16):
        for right in range(16):
            for rows in (31, 300, 100_000):
                interval = statistics.mcnemar_interval(left, right, rows, level)
                excludes = interval.low > 0 or interval.high < 0
                assert excludes == (statistics.mcnemar_test(left, right) < 1 - level), (left, right, rows)
                assert -1 <= interval.low <= (left - right) / rows <= interval.high <= 1


def test_few_discordant_rows_of_one_side_are_not_significant_and_the_interval_says_so() -> None:
    frame = {"a": [1] * 5 + [1] * 95, "b": [0] * 5 + [1] * 95}
    (pair,) = compare(frame, model=["a", "b"]).pairs.to_pylist()
    assert (round(pair["p"], 4), pair["significant"]) == (0.0625, False)
    assert pair["low"] < 0 < pair["high"]


def test_simultaneous_intervals_go_with_holm() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=80)
    frame = {
        name: base + shift + generator.normal(size=80) for name, shift in zip("abcd", (0, 0.3, 0.45, 0.9), strict=True)
    }
    pairs = compare(frame, model=list("abcd")).pairs.to_pylist()
    assert {pair["significant"] for pair in pairs} == {True, False}
    for pair in pairs:
        excludes = pair["simultaneous_low"] >= 0 or pair["simultaneous_high"] <= 0
        assert excludes == pair["significant"]
        assert pair["simultaneous_low"] <= pair["low"] <= pair["high"] <= pair["simultaneous_high"]


@pytest.mark.parametrize(("difference", "discordance"), [(0.05, 0.2), (0.1, 0.15), (0.3, 0.5), (-0.05, 0.1)])
@pytest.mark.parametrize("tests", [1, 6])
def test_rows_needed_reach_their_power(difference: float, discordance: float, tests: int) -> None:
    target = PowerTarget(tests=tests)
    rows = int(statistics.mcnemar_rows(difference, discordance, target))
    assert statistics.mcnemar_power(rows, difference, discordance, target) >= 0.8
    assert statistics.mcnemar_power(int(rows * 0.9), difference, discordance, target) < 0.82
    detectable = statistics.mcnemar_detectable(rows, discordance, target)
    assert detectable == pytest.approx(abs(difference), rel=0.05)


def test_power_of_mcnemar_is_that_of_simulation() -> None:
    generator = np.random.default_rng(2)
    draws = generator.multinomial(150, [0.15, 0.05, 0.8], size=4000)
    detected = np.mean([statistics.mcnemar_test(int(a), int(b)) < 0.05 for a, b, _ in draws])
    assert statistics.mcnemar_power(150, 0.1, 0.2) == pytest.approx(detected, abs=0.025)


def test_rows_needed_count_the_correction_for_several_pairs() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(size=200)
    frame = {name: ((base + generator.normal(size=200)) > 0).astype(int) for name in "abcd"}
    two = compare({name: frame[name] for name in "ab"}, model=["a", "b"]).rows_needed(0.05)
    four = compare(frame, model=list("abcd")).rows_needed(0.05)
    assert four.column("rows")[0].as_py() > 1.3 * two.column("rows")[0].as_py()


def test_signs_of_few_groups_can_show_no_difference() -> None:
    groups = [group for group in range(5) for _ in range(4)]
    generator = np.random.default_rng(3)
    frame = {"a": generator.normal(size=20), "b": generator.normal(size=20), "g": groups}
    (pair,) = compare(frame, model=["a", "b"], group="g", test="permutation").pairs.to_pylist()
    assert pair["p"] >= 0.0625
    assert pair["minimum_detectable_effect"] is None


def test_scores_without_spread_have_no_interval() -> None:
    frame = {"a": [3.5] * 6, "b": [2.0, 2.0, 2.5, 3.0, 2.0, 1.0]}
    rows = {row["model"]: row for row in compare(frame, model=["a", "b"]).models.to_pylist() if row["kind"] == "score"}
    assert (rows["a"]["value"], rows["a"]["low"], rows["a"]["high"]) == (3.5, None, None)
    assert rows["b"]["low"] is not None


def test_end_at_the_long_tail_is_open_where_few_values_decide_the_mean() -> None:
    heavy = statistics.studentised_mean(np.array([0.1] * 9 + [50.0]), np.ones(10))
    assert not math.isnan(heavy.interval(0.95).low)
    assert math.isnan(heavy.interval(0.95).high)
    mirrored = statistics.studentised_mean(-np.array([0.1] * 9 + [50.0]), np.ones(10))
    assert math.isnan(mirrored.interval(0.95).low)
    assert mirrored.p_value(0.0) == pytest.approx(heavy.p_value(0.0))


def test_clustered_tail_is_left_open_where_few_clusters_cannot_bound_it() -> None:
    generator = np.random.default_rng(5)
    clusters = np.repeat(np.arange(10), 10)
    values = generator.normal(size=10)[clusters] + 0.3 * generator.normal(size=100)
    assert math.isnan(statistics.quantile_interval(values, 0.99, clusters=clusters).high)
    median = statistics.quantile_interval(values, 0.5, clusters=clusters)
    alone = statistics.quantile_interval(values, 0.5)
    assert median.high - median.low > 1.5 * (alone.high - alone.low)
    assert statistics.design_effect(values, clusters) > 5


def test_means_of_few_rows_say_what_may_be_missing_from_them() -> None:
    generator = np.random.default_rng(8)
    few, many = (
        compare({"a": generator.random(size), "b": generator.random(size)}, model=["a", "b"]) for size in (20, 300)
    )
    shares = {size: one.models.column("unseen_share")[0].as_py() for size, one in ((20, few), (300, many))}
    # A value that occurs in this share of rows is missing from such a sample with a probability of 5 %.
    for size, share in shares.items():
        assert (1 - share) ** size == pytest.approx(0.05)
    assert "values rarer than 13.9 %" in few.to_markdown()
    assert "may be missing" not in many.to_markdown()
    rates = compare({"a": [1, 0] * 5, "b": [0, 1] * 5}, model=["a", "b"])
    assert rates.models.column("unseen_share").null_count == 2
    assert "may be missing" not in rates.to_markdown()
