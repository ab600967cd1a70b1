"""`compare` on frames that ``df.llm`` returned: labels and fields are scored, not the JSON they were read from."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.evals import scorers

MODELS = ["p/a", "q/b"]


def results(responses: list[str], **others: list[Any]) -> pd.DataFrame:
    """Return compact results of two models for each row."""
    count = len(responses)
    return pd.DataFrame(
        {
            **others,
            "row": [row for row in range(count // 2) for _ in MODELS],
            "provider": ["p", "q"] * (count // 2),
            "model": ["a", "b"] * (count // 2),
            "response": responses,
            "status": "ok",
            "error": None,
            "cost_usd": 0.001,
            "latency_s": 0.5,
            "input_tokens": 3,
            "output_tokens": 4,
            "cache_hit": False,
        }
    )


LABELS = ["up", "down", "up", "up", "down", "down", "down", "up"]
TRUTH = ["up", "up", "up", "up", "down", "down", "up", "up"]


def means(comparison: llmhub.evals.Comparison) -> dict[str, float]:
    return {row["model"]: row["value"] for row in comparison.models.to_pylist() if row["kind"] == "score"}


@pytest.mark.parametrize("column", ["label", "mood"])
@pytest.mark.parametrize(
    "convert", [lambda frame: frame, pl.from_pandas, pa.Table.from_pandas], ids=["pandas", "polars", "arrow"]
)
def test_labels_are_scored(column: str, convert: Any) -> None:
    frame = results([f'{{"label": "{label}"}}' for label in LABELS], truth=TRUTH, **{column: LABELS})
    comparison = llmhub.compare(convert(frame), scorers=scorers.exact("truth"))
    assert means(comparison) == {"p/a": 0.75, "q/b": 0.75}
    raw = llmhub.compare(convert(frame), scorers=scorers.exact("truth"), response="response")
    assert means(raw) == {"p/a": 0.0, "q/b": 0.0}


def test_a_reference_answer_is_never_taken_for_an_answer() -> None:
    frame = results([f'{{"label": "{label}"}}' for label in TRUTH], label=TRUTH)
    assert means(llmhub.compare(frame, scorers=scorers.exact("label"))) == {"p/a": 0.0, "q/b": 0.0}
    labelled = frame.assign(mood=TRUTH)
    assert means(llmhub.compare(labelled, scorers=scorers.exact("label"))) == {"p/a": 1.0, "q/b": 1.0}


def test_fields_are_scored() -> None:
    numbers = list(range(8))
    frame = results([f'{{"age": {number}}}' for number in numbers], age=numbers, truth=[0, 0, 3, 3, 4, 4, 7, 7])
    assert means(llmhub.compare(frame, scorers=scorers.numeric("truth"))) == {"p/a": 0.5, "q/b": 0.5}
    numbers = [0, 0, 1, 1, 2, 2, 3, 3]
    several = results(
        [f'{{"age": {number}, "name": "x"}}' for number in numbers],
        age=numbers,
        name=["x"] * 8,
        truth=[f'{{"name": "x", "age": {number}}}' for number in numbers],
    )
    assert means(llmhub.compare(several, scorers=scorers.json_equal("truth"))) == {"p/a": 1.0, "q/b": 1.0}
    assert means(llmhub.compare(several.assign(truth="x"), scorers=scorers.exact("truth"), response="name")) == {
        "p/a": 1.0,
        "q/b": 1.0,
    }
    structs = results(["{}"] * 8, truth=["v"] * 8, parsed=[{"x": "v"}] * 8)
    assert means(llmhub.compare(structs, scorers=scorers.exact("truth"))) == {"p/a": 1.0, "q/b": 1.0}


def test_answers_are_no_input_rows() -> None:
    frame = results([f'{{"label": "{label}"}}' for label in LABELS], truth=TRUTH, label=LABELS)
    inputs = llmhub.compare(frame, scorers=scorers.exact("truth")).inputs
    assert inputs is not None
    assert inputs.column_names == ["truth"]


def test_response_names_a_column_of_finished_results() -> None:
    frame = results(["x"] * 8, truth=TRUTH)
    with pytest.raises(BadRequestError, match="response: 'label' is not a column of the frame"):
        llmhub.compare(frame, scorers=scorers.exact("truth"), response="label")
    with pytest.raises(BadRequestError, match="response: names a column of a finished table"):
        llmhub.compare(frame[["truth"]], "{truth}", model=MODELS, scorers=scorers.exact("truth"), response="truth")


def test_classes_are_those_of_the_labels() -> None:
    frame = results([f'{{"label": "{label}"}}' for label in LABELS], truth=TRUTH, label=LABELS)
    comparison = llmhub.compare(frame, scorers=scorers.label(["up", "down"], "truth"))
    named = llmhub.evals.confusion_matrix(comparison, scorers.exact("truth"))
    assert set(named.column("predicted").to_pylist()) == {"up", "down"}
