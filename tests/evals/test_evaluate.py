"""Evaluations: known rates are estimated, cached responses are reused, samples are counted for pass@k and majority."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.evals import scorers, tasks
from llmhub.evals._evaluate import SAMPLE_METRICS, Evaluation
from llmhub.sim import Simulator, SimulatorThread, serving

LEFT, RIGHT, WORST = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"
FAST: dict[str, Any] = {"progress": False, "resamples": 400}


def metric_row(evaluation: Evaluation, model: str, metric: str) -> dict[str, Any]:
    rows = [*evaluation.comparison.models.to_pylist(), *evaluation.samples.to_pylist()]
    (row,) = [row for row in rows if (row["model"], row["metric"]) == (model, metric)]
    return row


@pytest.mark.slow
def test_intervals_contain_the_true_rates(
    hub: llmhub.Hub, graded: SimulatorThread, questions: Any, rates: dict[str, float]
) -> None:
    """Three models that are right at known rates; a repeated run sends nothing and gives equal figures."""
    evaluation = llmhub.evaluate(pd.DataFrame(questions.frame), tasks.numeric(), list(rates), hub=hub, progress=False)
    for model, rate in rates.items():
        row = metric_row(evaluation, model, "numeric")
        assert row["low"] <= rate <= row["high"]
        assert row["rows"] == len(questions.questions)
    for pair in evaluation.comparison.pairs.to_pylist():
        assert pair["low"] <= rates[pair["left"]] - rates[pair["right"]] <= pair["high"]
        sides = [metric_row(evaluation, pair[side], "numeric") for side in ("left", "right")]
        unpaired_width = np.hypot(*(row["high"] - row["low"] for row in sides))
        assert pair["high"] - pair["low"] < unpaired_width
    assert evaluation.comparison.leaders()[0] == RIGHT
    assert WORST not in evaluation.comparison.leaders()
    requests = graded.counts()["requests"]
    repeated = llmhub.evaluate(pd.DataFrame(questions.frame), tasks.numeric(), list(rates), hub=hub, progress=False)
    assert graded.counts()["requests"] == requests == 3 * len(questions.questions)
    assert repeated.comparison.pairs.equals(evaluation.comparison.pairs)
    assert repeated.scores.equals(evaluation.scores)


def test_evaluation_reuses_cached_responses(hub: llmhub.Hub, graded: SimulatorThread, questions: Any) -> None:
    half = {name: values[:50] for name, values in questions.frame.items()}
    llmhub.evaluate(half, tasks.numeric(), [LEFT], hub=hub, **FAST)
    more = {name: values[:80] for name, values in questions.frame.items()}
    llmhub.evaluate(more, tasks.numeric(), [LEFT, RIGHT], hub=hub, **FAST)
    assert graded.counts()["requests"] == 80 + 80


def test_pass_at_k_and_majority_of_several_samples(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:80] for name, values in questions.frame.items()}
    evaluation = llmhub.evaluate(frame, tasks.numeric(), [LEFT, RIGHT], hub=hub, n=5, **FAST)
    assert evaluation.samples.schema == SAMPLE_METRICS
    scores = evaluation.scores.to_pandas()
    by_row = scores[scores["model"] == "gpt-4o-mini"].pivot_table(index="row", columns="sample", values="score")
    assert metric_row(evaluation, LEFT, "pass@1")["value"] == pytest.approx(
        metric_row(evaluation, LEFT, "numeric")["value"]
    )
    assert metric_row(evaluation, LEFT, "pass@5")["value"] == pytest.approx((by_row.max(axis=1) == 1).mean())
    passes = [metric_row(evaluation, LEFT, f"pass@{k}")["value"] for k in (1, 2, 4, 5)]
    assert passes == sorted(passes)
    # The wrong responses to a row are all equal here, so the majority is right if most responses are.
    assert metric_row(evaluation, LEFT, "majority")["value"] == pytest.approx((by_row.mean(axis=1) > 0.5).mean())
    assert "majority" in evaluation.to_markdown()
    assert "pass@4" in evaluation._repr_html_()
    single = llmhub.evaluate(frame, tasks.numeric(), LEFT, hub=hub, **FAST)
    assert len(single.samples) == 0
    assert len(single.comparison.pairs) == 0
    with_sizes = llmhub.evaluate(frame, tasks.numeric(), LEFT, hub=hub, n=3, k=3, **FAST)
    assert with_sizes.samples.column("metric").to_pylist() == ["pass@3", "majority"]


def test_tied_majority_scores_the_mean() -> None:
    replies = iter(["7", "8", "none", "none", "9", "9"])
    with serving(Simulator(respond=lambda _: next(replies))) as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        options: dict[str, Any] = {"hub": hub, "concurrency": 1, "random_state": 0, **FAST}
        evaluation = llmhub.evaluate({"question": ["a"], "answer": ["7"]}, tasks.numeric(), LEFT, n=2, **options)
        assert metric_row(evaluation, LEFT, "majority")["value"] == 0.5
        unreadable = llmhub.evaluate({"question": ["a"], "answer": ["7"]}, tasks.numeric(), LEFT, n=2, **options)
        assert metric_row(unreadable, LEFT, "majority")["value"] == 0
        wrong = llmhub.evaluate({"question": ["a"], "answer": ["7"]}, tasks.numeric(), LEFT, n=2, **options)
        assert metric_row(wrong, LEFT, "majority")["value"] == 0


@pytest.mark.parametrize(
    ("task", "row", "right", "wrong"),
    [
        (tasks.numeric(), {"question": "1 + 1?", "answer": "#### 2"}, "so the Answer: 2", "Answer: 3"),
        (
            tasks.choice(),
            {"question": "?", "A": "x", "B": "y", "C": "z", "D": "w", "answer": "C"},
            "Answer: C",
            "Answer: A",
        ),
        (tasks.choice(options=["x", "y"]), {"question": "?", "x": "1", "y": "2", "answer": 1}, "B", "A"),
        (tasks.classification(["spam", "not spam"]), {"text": "win!", "label": "spam"}, "Spam.", "not spam"),
    ],
    ids=lambda value: value.name if isinstance(value, tasks.Task) else "",
)
def test_built_in_tasks_score_right_and_wrong_responses(
    task: tasks.Task, row: dict[str, Any], right: str, wrong: str
) -> None:
    with serving(Simulator(respond=lambda prompt: wrong if prompt.startswith("no") else right)) as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        first = next(iter(row))
        frame = {name: [value, f"no {value}" if name == first else value] for name, value in row.items()}
        evaluation = llmhub.evaluate(frame, task, [LEFT], hub=hub, **FAST)
    assert evaluation.scores.column("score").to_pylist() == [1.0, 0.0]
    assert evaluation.task.identity["name"] == task.name


def test_task_records_its_parameters_and_can_be_pickled(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:5] for name, values in questions.frame.items()}
    task = tasks.Task(
        name="mine", version="3", template="{question}", system="Be brief.", target="answer",
        scorers=[scorers.numeric(), scorers.edit_similarity()], parameters={"temperature": 0.0, "max_tokens": 50},
    )  # fmt: skip
    evaluation = llmhub.evaluate(frame, task, [LEFT], hub=hub, temperature=0.5, concurrency=2, **FAST)
    assert evaluation.task.parameters == {"temperature": 0.5, "max_tokens": 50}
    assert evaluation.task.system == "Be brief."
    assert json.loads(json.dumps(evaluation.task.identity))["scorers"][0]["version"] == "2"
    assert pickle.loads(pickle.dumps(task)).identity == task.identity
    assert evaluation.dataset.column_names == ["question", "answer"]
    assert evaluation.comparison.scorers == ("numeric", "edit_similarity")


def test_dataset_from_a_file(hub: llmhub.Hub, questions: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = zip(questions.questions[:5], questions.answers[:5], strict=True)
    path.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows), encoding="utf-8")
    evaluation = llmhub.evaluate(path, tasks.numeric(), LEFT, hub=hub, **FAST)
    frame = {name: values[:5] for name, values in questions.frame.items()}
    assert evaluation.scores.equals(llmhub.evaluate(frame, tasks.numeric(), LEFT, hub=hub, **FAST).scores)


@pytest.mark.parametrize(
    ("change", "path"),
    [({"k": 3}, "k"), ({"k": [0]}, "k"), ({"target": "x"}, "target"), ({"scores": "x"}, "scores")],
)
def test_invalid_options_raise_before_anything_is_sent(
    simulator: SimulatorThread, change: dict[str, Any], path: str
) -> None:
    hub = llmhub.Hub(endpoints=simulator.endpoints())
    with pytest.raises(BadRequestError, match=path):
        llmhub.evaluate({"question": ["?"], "answer": ["1"]}, tasks.numeric(), LEFT, hub=hub, n=2, **change)
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: tasks.Task(name="x", template="{q}", scorers=()), "scorers"),
        (lambda: tasks.Task(name="", template="{q}", scorers=scorers.exact()), "name"),
        (lambda: tasks.choice(options=["x"]), "options"),
        (lambda: tasks.classification(["x"]), "labels"),
        (lambda: tasks.classification(["x", "x"]), "labels"),
    ],
)
def test_invalid_task_raises(make: Any, path: str) -> None:
    with pytest.raises(BadRequestError, match=path):
        make()


def test_a_name_is_not_a_task() -> None:
    name: Any = "numeric"
    with pytest.raises(BadRequestError, match=r"task: 'numeric' is not a task; pass one of llmhub.evals.tasks"):
        llmhub.evaluate([{"question": "1?", "answer": 1}], name, ["openai/m"])
