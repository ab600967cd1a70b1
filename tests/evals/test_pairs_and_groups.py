"""Comparisons with a baseline, scores by groups of rows, pairs of pass@k, and differences of runs with a test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import diff
from llmhub.evals import compare, scorers, tasks
from llmhub.evals._evaluate import SAMPLE_PAIRS
from llmhub.evals.statistics import holm_correction, mcnemar_test, wilson_interval
from llmhub.evals.subgroups import SUBGROUPS

LEFT, RIGHT = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"


@pytest.fixture
def scored() -> pd.DataFrame:
    """Return right and wrong answers of three models to questions of two subjects of unequal size."""
    generator = np.random.default_rng(4)
    subjects = ["law"] * 60 + ["art"] * 20
    rates = {"small": (0.4, 0.8), "medium": (0.6, 0.8), "large": (0.95, 0.9)}
    answers = {
        name: [int(generator.random() < rate[subject == "art"]) for subject in subjects] for name, rate in rates.items()
    }
    return pd.DataFrame({"subject": subjects, **answers})


def test_every_other_model_is_compared_with_the_baseline(scored: pd.DataFrame) -> None:
    models = ["small", "medium", "large"]
    comparison = compare(scored, model=models, baseline="medium")
    pairs = comparison.pairs.to_pylist()
    assert [(pair["left"], pair["right"]) for pair in pairs] == [("small", "medium"), ("large", "medium")]
    # Only two tests are corrected for, and they are those of the pairs without a baseline.
    p_values = [
        mcnemar_test(int((scored[name] > scored["medium"]).sum()), int((scored[name] < scored["medium"]).sum()))
        for name in ("small", "large")
    ]
    assert [pair["p"] for pair in pairs] == pytest.approx(p_values)
    assert [pair["p_holm"] for pair in pairs] == pytest.approx(holm_correction(p_values))
    assert pairs[1]["significant"]
    assert "Significantly different from medium: large better" in comparison.to_markdown()
    assert "small" in compare(scored, model=models, baseline="medium").leaders() or pairs[0]["significant"]


def test_baseline_must_be_one_of_the_models(scored: pd.DataFrame) -> None:
    with pytest.raises(BadRequestError, match="baseline: 'huge' is not one of the models; pass one of 'small'"):
        compare(scored, model=["small", "large"], baseline="huge")
    with pytest.raises(BadRequestError, match="baseline: 'openai/b'"):  # before anything is sent
        compare(scored, "{subject}", model=LEFT, scorers=scorers.exact("subject"), baseline="openai/b")


def test_scores_by_subject_and_their_mean(scored: pd.DataFrame) -> None:
    comparison = compare(scored, model=["small", "large"])
    table = comparison.by("subject")
    assert table.schema == SUBGROUPS
    rows = {(row["group"], row["model"]): row for row in table.to_pylist()}
    assert next(iter(rows)) == ("law", "small")
    for (group, model), row in rows.items():
        if group is not None:
            own = scored.loc[scored["subject"] == group, model]
            assert (row["value"], row["rows"], row["unit"]) == (pytest.approx(own.mean()), len(own), "share")
            assert (row["low"], row["high"]) == pytest.approx(tuple(wilson_interval(own.mean(), len(own))))
    mean = rows[None, "small"]
    by_subject = scored.groupby("subject")["small"].mean()
    assert mean["value"] == pytest.approx(by_subject.mean())
    assert mean["value"] != pytest.approx(scored["small"].mean())
    assert (mean["rows"], mean["method"]) == (2, "mean of groups")
    assert mean["low"] < mean["value"] < mean["high"]
    with pytest.raises(BadRequestError, match=r"column.*'topic'"):
        comparison.by("topic")


def test_interval_of_the_mean_of_groups_covers() -> None:
    generator = np.random.default_rng(9)
    shares = {"a": 0.3, "b": 0.6, "c": 0.95}
    groups = [name for name, size in zip(shares, (20, 40, 80), strict=True) for _ in range(size)]
    truth = sum(shares.values()) / 3
    covered = 0
    for _ in range(200):
        frame = {"g": groups, "m": [int(generator.random() < shares[group]) for group in groups]}
        (mean,) = (row for row in compare(frame, model=["m"]).by("g").to_pylist() if row["group"] is None)
        covered += mean["low"] <= truth <= mean["high"]
    assert covered / 200 >= 0.92


def test_groups_that_share_clusters_have_no_interval_of_their_mean() -> None:
    frame = {"g": ["a", "b"] * 10, "document": [index // 2 for index in range(20)], "m": [1.0, 0.5, 0.25, 0.0] * 5}
    table = compare(frame, model=["m"], group="document").by("g")
    (mean,) = (row for row in table.to_pylist() if row["group"] is None)
    assert (mean["low"], mean["high"]) == (None, None)
    own = compare(frame, model=["m"], group="g").by("g").to_pylist()
    assert [row["rows"] for row in own] == [10, 10, 2]


def test_pairs_of_pass_at_k(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:60] for name, values in questions.frame.items()}
    evaluation = llmhub.evaluate(frame, tasks.numeric(), [LEFT, RIGHT], hub=hub, n=3, progress=False)
    pairs = evaluation.sample_pairs
    assert pairs.schema == SAMPLE_PAIRS
    rows = {row["metric"]: row for row in pairs.to_pylist()}
    assert set(rows) == {"pass@1", "pass@2", "pass@3", "majority"}
    means = {(row["model"], row["metric"]): row["value"] for row in evaluation.samples.to_pylist()}
    for metric, row in rows.items():
        assert row["difference"] == pytest.approx(means[LEFT, metric] - means[RIGHT, metric])
        assert (row["low"] > 0 or row["high"] < 0) == (row["p"] < 0.05)
    scores = evaluation.scores.to_pandas()
    best = scores.pivot_table(index="row", columns="model", values="score", aggfunc="max", observed=True)
    difference = best["gpt-4o-mini"] - best["claude-haiku-4-5"]
    assert rows["pass@3"]["standard_error"] == pytest.approx(difference.std(ddof=1) / math.sqrt(60))
    assert "pass@3" in evaluation.to_markdown()
    assert "pass@3: pair" in evaluation._repr_html_()


def test_rows_with_too_few_samples_are_said_to_be_left_out(hub: llmhub.Hub, questions: Any) -> None:
    texts = [*questions.questions[:10], None]
    frame = {"question": texts, "answer": questions.answers[:11]}
    options: dict[str, Any] = {"n": 2, "progress": False, "hub": hub}
    evaluation = llmhub.evaluate(frame, tasks.numeric(), [LEFT], **options)
    assert f"1 of 11 rows of {LEFT} for pass@2" in evaluation.to_markdown()


def results_of(answers: list[str]) -> pd.DataFrame:
    questions = [f"q{index}" for index in range(len(answers))]
    frame = pd.DataFrame({"question": questions, "answer": ["right"] * len(answers), "response": answers})
    return frame.assign(row=range(len(answers)), provider="openai", model="m", sample=0, status="ok")


def test_diff_tests_the_change_of_each_score() -> None:
    before = ["right"] * 40 + ["wrong"] * 60
    after = ["right"] * 38 + ["wrong"] * 2 + ["right"] * 25 + ["wrong"] * 35
    old, new = (compare(results_of(answers), scorers=scorers.exact("answer")) for answers in (before, after))
    difference = diff(old, new)
    (row,) = difference.tests.to_pylist()
    assert (row["score"], row["model"], row["test"], row["rows"]) == ("exact", "openai/m", "mcnemar", 100)
    assert (row["before"], row["after"], row["difference"]) == pytest.approx((0.4, 0.63, 0.23))
    assert row["p"] == pytest.approx(stats.binomtest(25, 27).pvalue)
    assert row["significant"]
    assert 0 < row["low"] < 0.23 < row["high"]
    assert "exact of openai/m: 0.4 -> 0.63, difference +0.23" in str(difference)
    (back,) = diff(new, old).tests.to_pylist()
    assert (back["difference"], back["low"]) == pytest.approx((-0.23, -row["high"]))
    assert not diff(old, old).tests.to_pylist()[0]["significant"]


def test_diff_counts_samples_of_a_row_together() -> None:
    frames = []
    for shift in (0, 1):
        one = results_of(["right", "wrong"] * 20)
        repeated = pd.concat([one.assign(sample=sample) for sample in range(3)], ignore_index=True)
        repeated["response"] = np.where(
            (np.arange(len(repeated)) + shift) % 3 == 0, "right", repeated["response"].to_numpy()
        )
        frames.append(compare(repeated, scorers=scorers.exact("answer")))
    (row,) = diff(*frames).tests.to_pylist()
    assert (row["rows"], row["test"]) == (40, "studentised")
