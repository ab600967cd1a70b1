"""Metrics of classification, and datasets in other forms."""

from __future__ import annotations

from typing import Any

import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.evals import class_metrics, compare, confusion_matrix, evaluate, scorers, tasks
from llmhub.sim import Simulator, serving

TARGETS = ["spam"] * 4 + ["ham"] * 6
ANSWERS = ["spam", "Spam.", "ham", None, "ham", "ham", "ham", "ham", "spam", "no idea"]


def comparison() -> Any:
    frame = {
        "row": range(10),
        "model": ["m"] * 10,
        "response": ANSWERS,
        "truth": TARGETS,
        "status": ["ok" if answer else "error" for answer in ANSWERS],
    }
    return compare(frame, scorers=scorers.label(["spam", "ham"], "truth"))


def test_precision_recall_and_f1_of_each_class() -> None:
    rows = {row["class"]: row for row in class_metrics(comparison()).to_pylist()}
    spam, ham, average = rows["spam"], rows["ham"], rows["(macro average)"]
    assert (spam["support"], spam["predicted"], spam["precision"], spam["recall"]) == (4, 3, 2 / 3, 0.5)
    assert (ham["support"], ham["predicted"], ham["precision"], ham["recall"]) == (6, 5, 0.8, 4 / 6)
    assert spam["f1"] == pytest.approx(4 / 7)
    assert average["f1"] == pytest.approx((4 / 7 + 8 / 11) / 2)
    assert average["accuracy"] == 0.6
    expected = (4 * 3 + 6 * 5) / 100
    assert average["kappa"] == pytest.approx((0.6 - expected) / (1 - expected))


def test_confusion_matrix_counts_unreadable_and_failed_responses() -> None:
    counts = {(row["target"], row["predicted"]): row["responses"] for row in confusion_matrix(comparison()).to_pylist()}
    assert counts == {("spam", "spam"): 2, ("spam", "ham"): 1, ("spam", ""): 1, ("ham", "ham"): 4, ("ham", "spam"): 1,
                      ("ham", ""): 1}  # fmt: skip


def test_scorer_without_classes_is_refused() -> None:
    frame = {"row": [0], "model": ["m"], "score": [1.0]}
    with pytest.raises(BadRequestError, match="'score' is not a built-in scorer of this comparison"):
        class_metrics(compare(frame, scores="score"))


def test_evaluate_takes_rows_and_refuses_names_and_other_values() -> None:
    task = tasks.classification(["spam", "ham"])
    with (
        serving(Simulator(seed=1, respond=lambda _: "spam")) as served,
        llmhub.Hub(endpoints=served.endpoints()) as hub,
    ):
        rows = [{"text": "buy", "label": "spam"}, {"text": "hi", "label": "ham"}]
        evaluation = evaluate(rows, task, ["openai/gpt-4o-mini"], hub=hub, progress=False)
        assert class_metrics(evaluation.comparison).column("recall").to_pylist() == [0.0, 1.0, 0.5]
        for dataset, message in (
            ("openai/gsm8k", "'openai/gsm8k' is not a file; load a dataset of a hub"),
            ([1, 2], "1 is not a row; pass a frame"),
            ([{"text": 1}, {"text": "a"}], "a column has values of several types"),
        ):
            with pytest.raises(BadRequestError, match=message):
                evaluate(dataset, task, ["openai/gpt-4o-mini"], hub=hub)


def test_datasets_with_splits_name_them() -> None:
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"], "label": ["spam"]})})
    with pytest.raises(BadRequestError, match=r"it has several splits \('train'\)"):
        evaluate(splits, tasks.classification(["spam", "ham"]), ["openai/gpt-4o-mini"], hub=llmhub.Hub())


def test_choice_columns_are_distinct() -> None:
    with pytest.raises(BadRequestError, match="the column 'choices' is given twice"):
        tasks.choice(options=["choices"] * 4)
