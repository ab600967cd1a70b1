"""Graded responses are correct at a known rate."""

from __future__ import annotations

import pytest
from scipy import stats

import llmhub
from llmhub.sim import Graded, Simulator, serving

RIGHT = {f"question {attempt}?": str(attempt) for attempt in range(2000)}


def shares(graded: Graded, name: str, attempt: int = 0) -> list[bool]:
    return [
        graded.text(name, request, 5, attempt) == f"Let me think. The answer is {right}."
        for request, right in RIGHT.items()
    ]


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_accuracy_is_met_for_any_shared_randomness(shared: float) -> None:
    graded = Graded(right=RIGHT, rates={"openai/a": 0.7, "b": 0.9}, rate=0.2, shared=shared)
    for name, rate in (("openai/a", 0.7), ("google/b", 0.9), ("openai/c", 0.2)):
        assert stats.binomtest(sum(shares(graded, name)), len(RIGHT), rate).pvalue > 0.01


def test_shared_randomness_correlates_models() -> None:
    rates = {"openai/a": 0.5, "openai/b": 0.5}
    both = [
        sum(one == other for one, other in zip(*(shares(graded, name) for name in rates), strict=True))
        for graded in (Graded(right=RIGHT, rates=rates, shared=shared) for shared in (0.0, 0.6, 1.0))
    ]
    assert both[0] < 1100 < both[1] < 1900 < both[2] == 2000


def test_repeated_requests_are_independent() -> None:
    graded = Graded(right=RIGHT, rate=0.5, shared=0.0)
    assert 800 < sum(a == b for a, b in zip(shares(graded, "m"), shares(graded, "m", 1), strict=True)) < 1200


def test_graded_questions_are_found_in_prompts() -> None:
    with serving(Simulator(seed=1, graded=Graded(right={"1 + 1?": "2"}, rate=1.0))) as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        assert (
            llmhub.complete("Say: 1 + 1? Briefly.", model="google/g", hub=hub).text == "Let me think. The answer is 2."
        )
        assert "answer is 2" not in llmhub.complete("Hello", model="openai/x", hub=hub).text
