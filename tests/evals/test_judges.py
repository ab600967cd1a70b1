"""Judges: one budget with the answers, failed rows, head-to-head tables and ratings, position, and agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

import llmhub
from llmhub.core.errors import BadRequestError, BudgetExceededError
from llmhub.evals import compare, scorers
from llmhub.evals.agreement import AGREEMENT, cohen_kappa, krippendorff_alpha
from llmhub.evals.comparison import HEAD_TO_HEAD, RATINGS
from llmhub.evals.head_to_head import bradley_terry
from llmhub.sim import Simulator, serving

FAST: dict[str, Any] = {"progress": False, "resamples": 200}


@contextmanager
def simulated(respond: Callable[[str], str]) -> Iterator[llmhub.Hub]:
    with (
        serving(Simulator(seed=1, respond=respond)) as served,
        llmhub.Hub(endpoints=served.endpoints(), retry=llmhub.Retry(attempts=1)) as hub,
    ):
        yield hub


def shown(prompt: str) -> tuple[str, str]:
    """Return the answers that a pairwise judge was shown."""
    first, second = (prompt.partition(f"Answer {side}:\n")[2].partition("\n")[0] for side in "AB")
    return first, second


# Budget


@pytest.mark.parametrize("budget", [0.001, 0.01])
def test_budget_of_a_call_holds_answers_and_judges_together(budget: float) -> None:
    frame = {"q": [f"{n} " * 40 for n in range(40)]}
    with simulated(lambda prompt: "Score: 3" if "grade" in prompt else "fine " * 30) as hub:
        comparison = compare(
            frame, "{q}", model=["openai/gpt-4o-mini"], scorers=scorers.judge("openai/gpt-4o", "?"), hub=hub,
            budget_usd=budget, max_tokens=60, **FAST,
        )  # fmt: skip
    judgements = comparison.judgements["judge"]
    costs = [*comparison.results.column("cost_usd").to_pylist(), *judgements.column("cost_usd").to_pylist()]
    assert 0 < sum(cost or Decimal(0) for cost in costs) <= Decimal(str(budget))
    assert "budget" in judgements.column("status").to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0.0003, 0.005, 0.2])
def test_budget_holds_with_processes_too(budget: float) -> None:
    """Answers are spent by worker processes, judges from what these have left; no answer that was paid for is lost."""
    frame = {"q": [f"{n} " * 40 for n in range(40)]}
    with simulated(lambda prompt: "Score: 3" if "grade" in prompt else "fine " * 30) as hub:
        comparison = compare(
            frame, "{q}", model=["openai/gpt-4o-mini"], hub=hub, budget_usd=budget, max_tokens=60, n_jobs=2,
            scorers=scorers.judge("openai/gpt-4o", "?", options={"max_tokens": 20}), **FAST,
        )  # fmt: skip
    judgements = comparison.judgements["judge"]
    costs = [*comparison.results.column("cost_usd").to_pylist(), *judgements.column("cost_usd").to_pylist()]
    assert 0 < sum(cost or Decimal(0) for cost in costs) <= Decimal(str(budget))
    assert "ok" in comparison.results.column("status").to_pylist()
    judged = set(judgements.column("status").to_pylist())
    assert judged == {0.0003: {"budget"}, 0.005: {"ok", "budget"}, 0.2: {"ok"}}[budget]
    assert "n_jobs" not in comparison.design.parameters


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_budget_too_small_for_the_first_answer_is_an_error(n_jobs: int) -> None:
    with simulated(lambda prompt: "fine") as hub, pytest.raises(BudgetExceededError, match="nothing was sent"):
        compare(
            {"q": ["a " * 40] * 4}, "{q}", model="openai/gpt-4o-mini", scorers=scorers.exact("q"), hub=hub,
            budget_usd=0.00001, max_tokens=60, n_jobs=n_jobs, **FAST,
        )  # fmt: skip


def test_without_budget_judges_are_not_limited() -> None:
    with simulated(lambda prompt: "Score: 3" if "grade" in prompt else "fine") as hub:
        comparison = compare(
            {"q": ["a"]}, "{q}", model=["openai/gpt-4o-mini"], scorers=scorers.judge("openai/gpt-4o", "?"), hub=hub,
            **FAST,
        )  # fmt: skip
    assert comparison.scores.column("score").to_pylist() == [3.0]


def test_unknown_field_of_a_judge_is_named() -> None:
    for make in (scorers.judge, scorers.pairwise):
        with pytest.raises(BadRequestError, match=r"max_tokens: is not a field of a judge .* are options="):
            make("openai/gpt-4o", "?", max_tokens=5)


# Pairwise verdicts


def finished(verdicts: dict[str, list[str | None]]) -> pa.Table:
    """Return a finished table of the responses of each model; ``None`` is a failed one."""
    rows = len(next(iter(verdicts.values())))
    return pa.table(
        {
            "row": [row for row in range(rows) for _ in verdicts],
            "model": [model for _ in range(rows) for model in verdicts],
            "response": [responses[row] for row in range(rows) for responses in verdicts.values()],
            "status": [
                "error" if responses[row] is None else "ok" for row in range(rows) for responses in verdicts.values()
            ],
        }
    )


def judged(table: pa.Table, respond: Callable[[str], str], **options: Any) -> Any:
    with simulated(respond) as hub:
        return compare(table, scorers=scorers.pairwise("openai/gpt-4o", "?"), hub=hub, resamples=200, **options)


def test_failed_row_loses_its_comparison_without_a_call() -> None:
    """B fails half of the rows, and the judge finds the others equal."""
    table = finished({"a": ["x"] * 40, "b": ["x" if row % 2 else None for row in range(40)]})
    comparison = judged(table, lambda _: "Verdict: tie")
    scores = {row["model"]: row["value"] for row in comparison.models.to_pylist() if row["kind"] == "score"}
    assert scores == {"a": 0.75, "b": 0.25}
    (pair,) = comparison.pairs.to_pylist()
    assert (pair["difference"], pair["rows"], pair["significant"]) == (0.5, 40, True)
    assert comparison.judges.column("calls").to_pylist() == [40]
    (row,) = comparison.head_to_head.to_pylist()
    assert (row["ties"], row["failed"], row["left_share"]) == (40 // 2, 20, 0.75)
    left_out = judged(table, lambda _: "Verdict: tie", failures="left_out")
    (pair,) = left_out.pairs.to_pylist()
    assert (pair["difference"], pair["rows"]) == (0.0, 20)


def test_pairs_are_of_direct_comparisons() -> None:
    """A beats B, B beats C, C beats A, every time: all win shares are equal, and all pairs significant."""
    beats = {("a", "b"), ("b", "c"), ("c", "a")}

    def respond(prompt: str) -> str:
        first, second = shown(prompt)
        return f"Verdict: {'A' if (first[0], second[0]) in beats else 'B'}"

    table = finished({name: [f"{name}{row}" for row in range(50)] for name in "abc"})
    comparison = judged(table, respond)
    shares = [row["value"] for row in comparison.models.to_pylist() if row["kind"] == "score"]
    assert shares == [0.5, 0.5, 0.5]
    assert comparison.head_to_head.schema == HEAD_TO_HEAD
    assert [(row["left_wins"], row["right_wins"]) for row in comparison.head_to_head.to_pylist()] == [
        (50, 0), (0, 50), (50, 0),
    ]  # fmt: skip
    assert comparison.pairs.column("difference").to_pylist() == [1.0, -1.0, 1.0]
    assert comparison.ratings.schema == RATINGS
    assert all(abs(row["rating"]) < 1e-9 for row in comparison.ratings.to_pylist())
    assert "head to head" in comparison.to_markdown()


def test_share_of_the_first_shown_is_reported() -> None:
    table = finished({"a": [f"{n}" for n in range(30)], "b": [f"{n}" for n in range(30)]})
    comparison = judged(table, lambda _: "Verdict: A")
    (judge,) = comparison.judges.to_pylist()
    assert (judge["decided"], judge["first_won"], judge["first_share"]) == (60, 60, 1.0)
    assert judge["first_low"] > 0.9
    assert "the response shown first won 100.0 % of 60" in comparison.to_markdown()
    assert comparison.head_to_head.column("inconsistent").to_pylist() == [30]


# Ratings


def test_ratings_are_those_of_the_model_and_finite_without_a_loss() -> None:
    strengths = np.array([1.0, 0.0, -1.0])
    games = 10_000
    chances = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    wins = (chances * games) * (1 - np.eye(3))
    assert bradley_terry(wins[None])[0] == pytest.approx(strengths, abs=2e-3)
    unbeaten = bradley_terry(np.array([[[0.0, 100.0], [0.0, 0.0]]]))[0]
    assert unbeaten[0] - unbeaten[1] == pytest.approx(math.log(100.5 / 0.5))


# Agreement


def test_kappa_is_that_of_statsmodels() -> None:
    generator = np.random.default_rng(4)
    left, right = generator.integers(0, 4, (2, 200))
    right = np.where(generator.random(200) < 0.6, left, right)
    table = np.zeros((4, 4))
    np.add.at(table, (left, right), 1)
    for weights, own in ((None, None), ("linear", "linear"), ("quadratic", "quadratic")):
        expected = cohens_kappa(table, wt=weights).kappa
        assert cohen_kappa(left.tolist(), right.tolist(), own) == pytest.approx(expected)  # type: ignore[arg-type]


def test_alpha_of_the_published_example() -> None:
    """Four observers and twelve units with missing values, from Krippendorff's own example."""
    n = None
    ratings = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ]
    assert krippendorff_alpha(ratings) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(ratings, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(ratings, "interval") == pytest.approx(0.849, abs=5e-4)


def test_agreement_of_judges_with_each_other_and_with_labels() -> None:
    def respond(prompt: str) -> str:
        number = int(prompt.partition("Answer:\n")[2].split()[0])
        return f"Score: {number % 5 + 1 if 'strict' not in prompt else max(1, number % 5)}"

    table = pa.table(
        {
            "row": range(20),
            "model": ["m"] * 20,
            "response": [str(n) for n in range(20)],
            "human": [n % 5 + 1 for n in range(20)],
        }
    )
    judges = [
        scorers.judge("openai/gpt-4o", "Is it kind?", name="kind"),
        scorers.judge("openai/gpt-4o", "strict", name="strict"),
    ]
    with simulated(respond) as hub:
        comparison = compare(table, scorers=judges, hub=hub, resamples=200)
    agreement = comparison.agreement("human")
    assert agreement.schema == AGREEMENT
    rows = {(row["left"], row["right"]): row for row in agreement.to_pylist()}
    assert (rows["kind", "human"]["kappa"], rows["kind", "human"]["alpha"]) == (1.0, 1.0)
    assert rows["kind", "strict"]["equal"] == 0.2
    assert rows["kind", "strict"]["mean_difference"] == 0.8
    with pytest.raises(BadRequestError, match="labels: there is no column 'people'"):
        comparison.agreement("people")


@pytest.mark.parametrize(("left", "right"), [([], []), ([1, 1], [1, 1]), ([None, 1], [1, None])])
def test_agreement_without_variation_is_unknown(left: list[Any], right: list[Any]) -> None:
    assert math.isnan(cohen_kappa(left, right))
    assert math.isnan(krippendorff_alpha([left, right]))
