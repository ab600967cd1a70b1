"""Evaluations as one call: known rates are found, what was answered is not paid for again, samples are counted well."""

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

LEFT, RIGHT, LAST = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"
QUICK: dict[str, Any] = {"progress": False, "resamples": 400}


def figure(found: Evaluation, model: str, metric: str) -> dict[str, Any]:
    rows = [*found.comparison.models.to_pylist(), *found.samples.to_pylist()]
    (row,) = [row for row in rows if (row["model"], row["metric"]) == (model, metric)]
    return row


@pytest.mark.slow
def test_known_rates_lie_within_the_intervals(
    hub: llmhub.Hub, graded: SimulatorThread, questions: Any, rates: dict[str, float]
) -> None:
    """Whole: a file, a task, three models right at known rates; then again, for nothing, to the last digit."""
    found = llmhub.evaluate(pd.DataFrame(questions.frame), tasks.numeric(), list(rates), hub=hub, progress=False)
    for model, rate in rates.items():
        row = figure(found, model, "numeric")
        assert row["low"] <= rate <= row["high"]
        assert row["rows"] == len(questions.questions)
    for pair in found.comparison.pairs.to_pylist():
        assert pair["low"] <= rates[pair["left"]] - rates[pair["right"]] <= pair["high"]
        apart = np.hypot(*(figure(found, pair[side], "numeric")["high"] - figure(found, pair[side], "numeric")["low"]
                           for side in ("left", "right")))  # fmt: skip
        assert pair["high"] - pair["low"] < apart
    assert found.comparison.leaders()[0] == RIGHT
    assert LAST not in found.comparison.leaders()
    paid = graded.counts()["requests"]
    again = llmhub.evaluate(pd.DataFrame(questions.frame), tasks.numeric(), list(rates), hub=hub, progress=False)
    assert graded.counts()["requests"] == paid == 3 * len(questions.questions)
    assert again.comparison.pairs.equals(found.comparison.pairs)
    assert again.scores.equals(found.scores)


def test_an_evaluation_goes_on_where_it_was(hub: llmhub.Hub, graded: SimulatorThread, questions: Any) -> None:
    half = {name: values[:50] for name, values in questions.frame.items()}
    llmhub.evaluate(half, tasks.numeric(), [LEFT], hub=hub, **QUICK)
    whole = {name: values[:80] for name, values in questions.frame.items()}
    llmhub.evaluate(whole, tasks.numeric(), [LEFT, RIGHT], hub=hub, **QUICK)
    assert graded.counts()["requests"] == 80 + 80


def test_several_answers_a_row_pass_and_vote(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:80] for name, values in questions.frame.items()}
    found = llmhub.evaluate(frame, tasks.numeric(), [LEFT, RIGHT], hub=hub, n=5, **QUICK)
    assert found.samples.schema == SAMPLE_METRICS
    scores = found.scores.to_pandas()
    mine = scores[scores["model"] == "gpt-4o-mini"].pivot_table(index="row", columns="sample", values="score")
    assert figure(found, LEFT, "pass@1")["value"] == pytest.approx(figure(found, LEFT, "numeric")["value"])
    assert figure(found, LEFT, "pass@5")["value"] == pytest.approx((mine.max(axis=1) == 1).mean())
    passes = [figure(found, LEFT, f"pass@{k}")["value"] for k in (1, 2, 4, 5)]
    assert passes == sorted(passes)
    # Wrong answers of a row are all the same here, so that the majority is right when most answers are.
    assert figure(found, LEFT, "majority")["value"] == pytest.approx((mine.mean(axis=1) > 0.5).mean())
    assert "majority" in found.to_markdown()
    assert "pass@4" in found._repr_html_()
    one = llmhub.evaluate(frame, tasks.numeric(), LEFT, hub=hub, **QUICK)
    assert len(one.samples) == 0
    assert len(one.comparison.pairs) == 0
    sizes = llmhub.evaluate(frame, tasks.numeric(), LEFT, hub=hub, n=3, k=3, **QUICK)
    assert sizes.samples.column("metric").to_pylist() == ["pass@3", "majority"]


def test_votes_that_tie_are_worth_their_mean() -> None:
    turns = iter(["7", "8", "none", "none", "9", "9"])
    with serving(Simulator(respond=lambda _: next(turns))) as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        options: dict[str, Any] = {"hub": hub, "concurrency": 1, "random_state": 0, **QUICK}
        found = llmhub.evaluate({"question": ["a"], "answer": ["7"]}, tasks.numeric(), LEFT, n=2, **options)
        assert figure(found, LEFT, "majority")["value"] == 0.5
        none = llmhub.evaluate({"question": ["a"], "answer": ["7"]}, tasks.numeric(), LEFT, n=2, **options)
        assert figure(none, LEFT, "majority")["value"] == 0
        wrong = llmhub.evaluate({"question": ["a"], "answer": ["7"]}, tasks.numeric(), LEFT, n=2, **options)
        assert figure(wrong, LEFT, "majority")["value"] == 0


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
def test_ready_tasks_tell_right_from_wrong(task: tasks.Task, row: dict[str, Any], right: str, wrong: str) -> None:
    with serving(Simulator(respond=lambda prompt: wrong if prompt.startswith("no") else right)) as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        first = next(iter(row))
        frame = {name: [value, f"no {value}" if name == first else value] for name, value in row.items()}
        found = llmhub.evaluate(frame, task, [LEFT], hub=hub, **QUICK)
    assert found.scores.column("score").to_pylist() == [1.0, 0.0]
    assert found.task.identity["name"] == task.name


def test_a_task_says_what_was_asked_and_can_be_kept(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:5] for name, values in questions.frame.items()}
    task = tasks.Task(
        name="mine", version="3", template="{question}", system="Be brief.", target="answer",
        scorers=[scorers.numeric(), scorers.edit_similarity()], parameters={"temperature": 0.0, "max_tokens": 50},
    )  # fmt: skip
    found = llmhub.evaluate(frame, task, [LEFT], hub=hub, temperature=0.5, concurrency=2, **QUICK)
    assert found.task.parameters == {"temperature": 0.5, "max_tokens": 50}
    assert found.task.system == "Be brief."
    assert json.loads(json.dumps(found.task.identity))["scorers"][0]["version"] == "1"
    assert pickle.loads(pickle.dumps(task)).identity == task.identity
    assert found.dataset.column_names == ["question", "answer"]
    assert found.comparison.scorers == ("numeric", "edit_similarity")


def test_a_dataset_may_be_a_file(hub: llmhub.Hub, questions: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = zip(questions.questions[:5], questions.answers[:5], strict=True)
    path.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows), encoding="utf-8")
    found = llmhub.evaluate(path, tasks.numeric(), LEFT, hub=hub, **QUICK)
    frame = {name: values[:5] for name, values in questions.frame.items()}
    assert found.scores.equals(llmhub.evaluate(frame, tasks.numeric(), LEFT, hub=hub, **QUICK).scores)


@pytest.mark.parametrize(
    ("change", "path"),
    [({"k": 3}, "k"), ({"k": [0]}, "k"), ({"target": "x"}, "target"), ({"scores": "x"}, "scores")],
)
def test_what_cannot_be_evaluated_is_refused(simulator: SimulatorThread, change: dict[str, Any], path: str) -> None:
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
def test_what_cannot_be_a_task_is_refused(make: Any, path: str) -> None:
    with pytest.raises(BadRequestError, match=path):
        make()
