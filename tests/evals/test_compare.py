"""Comparisons: the same rows through every model, nothing dropped unsaid, and refusals before anything is sent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from scipy import stats

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.evals import scorers
from llmhub.evals._compare import complete_in_random_order
from llmhub.evals._scorer import SCORES
from llmhub.evals.comparison import COUNTS, JUDGES, MODELS, PAIRS, Comparison
from llmhub.sim import Faults, Simulator, SimulatorThread, serving

LEFT, RIGHT = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
QUICK: dict[str, Any] = {"progress": False, "resamples": 400}


def figure(found: Comparison, model: str, metric: str) -> dict[str, Any]:
    (row,) = [row for row in found.models.to_pylist() if (row["model"], row["metric"]) == (model, metric)]
    return row


def said(respond: Callable[[str], str]) -> Any:
    return serving(Simulator(seed=1, respond=respond))


# Over models


def test_a_comparison_says_all_it_should(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:120] for name, values in questions.frame.items()}
    found = llmhub.compare(
        frame,
        "{question}",
        models=[LEFT, RIGHT],
        scorers=scorers.numeric(),
        target="answer",
        hub=hub,
        stream=True,
        **QUICK,
    )
    assert found.results.schema.equals(llmhub.complete_table({"a": []}, "{a}", model=LEFT, hub=hub).schema)
    assert (found.models.schema, found.pairs.schema) == (MODELS, PAIRS)
    assert (found.counts.schema, found.judges.schema, found.scores.schema) == (COUNTS, JUDGES, SCORES)
    assert found.results.column("row").to_pylist() == [row for row in range(120) for _ in range(2)]
    metrics = {"numeric", "error_rate", "cost_usd", "input_tokens", "output_tokens", "billed_usd"}
    metrics |= {f"{name}_p{share}_s" for name in ("latency", "ttft") for share in (50, 95, 99)}
    for model in (LEFT, RIGHT):
        for metric in metrics:
            row = figure(found, model, metric)
            assert row["value"] is not None
            assert (row["low"] or 0) <= row["value"] <= (row["high"] or float("inf"))
    right = [row["score"] for row in found.scores.to_pylist() if row["model"] == "gpt-4o-mini"]
    assert figure(found, LEFT, "numeric")["value"] == pytest.approx(np.mean(right))
    ours = stats.binomtest(int(sum(right)), 120).proportion_ci(method="wilson")
    assert figure(found, LEFT, "numeric")["low"] == pytest.approx(ours.low)


def test_rows_are_sent_in_a_drawn_order_and_come_back_in_theirs(hub: llmhub.Hub, questions: Any) -> None:
    frame = pd.DataFrame(questions.frame).iloc[:40]
    plain = llmhub.complete_table(frame, "{question}", model=[LEFT, RIGHT], hub=hub, progress=False, n=2)
    asked: list[str] = []

    def noted(send: Any) -> Any:
        async def noting(call: Any) -> Any:
            asked.append(call.request.messages[-1].text)
            return await send(call)

        return noting

    alone = llmhub.Hub(endpoints=hub.endpoints, middleware=(noted,))
    drawn = complete_in_random_order(
        frame, "{question}", [LEFT, RIGHT], alone, 5, {"n": 2, "concurrency": 1, "progress": False}
    )
    names = ["row", "sample", "provider", "model", "request_key"]
    assert drawn.select(names).to_pylist() == plain.select(names).to_pylist()
    order = list(dict.fromkeys(asked))
    assert order != list(frame["question"])
    assert sorted(order) == sorted(frame["question"])
    # Each row goes to all models before the next one does.
    assert all(len(set(asked[at : at + 4])) == 1 for at in range(0, len(asked), 4))


def test_answers_from_a_cache_are_kept_out_of_times_but_not_of_cost(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:30] for name, values in questions.frame.items()}
    options: dict[str, Any] = {"models": [LEFT], "scorers": scorers.numeric("answer"), "hub": hub, **QUICK}
    first = llmhub.compare(frame, "{question}", **options)
    again = llmhub.compare(frame, "{question}", **options)
    assert figure(first, LEFT, "latency_p50_s")["rows"] == 30
    assert figure(again, LEFT, "latency_p50_s")["value"] is None
    assert figure(again, LEFT, "cost_usd") == figure(first, LEFT, "cost_usd")
    assert figure(again, LEFT, "billed_usd")["value"] == 0
    assert again.counts.column("cached").to_pylist() == [30]
    assert again.models.filter(pa.compute.field("kind") == "score").equals(
        first.models.filter(pa.compute.field("kind") == "score")
    )


@pytest.mark.parametrize(("failures", "value", "rows"), [("wrong", 0.5, 20), ("left_out", 1.0, 10)])
def test_failed_rows_count_as_is_said(failures: str, value: float, rows: int) -> None:
    """Half of the rows fail, two are not asked for want of a value."""
    asked = [f"{at} [[sim:500 always]]" if at % 2 else str(at) for at in range(20)]
    with said(lambda prompt: prompt) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), retry=llmhub.Retry(attempts=1))
        found = llmhub.compare(
            {"q": [*asked, None, None]}, "{q}", models=[LEFT, RIGHT], scorers=scorers.exact("q"), hub=hub,
            failures=failures, **QUICK,
        )  # fmt: skip
    assert (figure(found, LEFT, "exact")["value"], figure(found, LEFT, "exact")["rows"]) == (value, rows)
    assert figure(found, LEFT, "error_rate")["value"] == 0.5
    (count, _) = found.counts.to_pylist()
    assert (count["total"], count["ok"], count["error"], count["skipped"]) == (22, 10, 10, 2)
    text = found.to_markdown()
    assert "20 of 44 failed and" in text
    assert "4 of 44 were not sent" in text
    notes = [row["note"] for row in found.scores.to_pylist() if not row["counted"]]
    assert len(notes) == 4 + (20 if failures == "left_out" else 0)
    assert all("left out" in note for note in notes)


def test_rows_of_a_group_and_samples_of_a_row_go_together(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:60] for name, values in questions.frame.items()} | {"topic": [at // 6 for at in range(60)]}
    options: dict[str, Any] = {"models": [LEFT, RIGHT], "scorers": scorers.numeric("answer"), "hub": hub, **QUICK}
    grouped = llmhub.compare(frame, "{question}", group="topic", n=3, **options)
    (pair,) = grouped.pairs.to_pylist()
    assert (pair["rows"], pair["clusters"], pair["test"]) == (60, 10, "permutation")
    assert "60 rows of 3 samples in 10 groups of topic" in grouped.to_markdown()
    assert figure(grouped, LEFT, "latency_p50_s")["method"] == "order statistics, clustered"
    plain = llmhub.compare(frame, "{question}", n=3, **options)
    assert plain.pairs.to_pylist()[0]["clusters"] == 60


# Judges


def test_a_judge_grades_by_its_rubric_and_says_what_it_cost(hub: llmhub.Hub, questions: Any) -> None:
    def respond(prompt: str) -> str:
        assert "secret" not in prompt  # the target is not shown to the judge
        if "grade an answer" not in prompt:
            return prompt
        return "Fine. Score: 4" if "\nyes" in prompt else "Score: 9" if "\nodd" in prompt else "**Score:** 2"

    with said(respond) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), cache=llmhub.MemoryCache())
        judge = scorers.judge("openai/gpt-4o", "Is it yes?", options={"temperature": 0})
        options: dict[str, Any] = {"models": LEFT, "scorers": judge, "hub": hub, "target": "gold", **QUICK}
        frame = {"q": ["yes", "no", "odd"], "gold": ["secret"] * 3}
        found = llmhub.compare(frame, "{q}", **options)
        assert found.scores.column("score").to_pylist() == [4.0, 2.0, None]
        (cost,) = found.judges.to_pylist()
        assert (cost["calls"], cost["failed"], cost["unreadable"], cost["disagreement"]) == (3, 0, 1, None)
        assert cost["cost_usd"] == sum(found.judgements["judge"].column("cost_usd").to_pylist()) > 0
        (again,) = llmhub.compare(frame, "{q}", **options).judges.to_pylist()
        assert (again["cost_usd"], again["list_cost_usd"]) == (0, cost["list_cost_usd"])
    assert "Judge judge (openai/gpt-4o): 3 calls" in found.to_markdown()


def test_a_judge_of_pairs_sees_both_ways_round_and_owns_up_to_its_leaning() -> None:
    """It prefers the longer answer, but where both are as long the one it sees first: that is no preference."""

    def respond(prompt: str) -> str:
        if "compare two answers" not in prompt:
            return prompt
        first = prompt.partition("Answer A:\n")[2].partition("\n")[0]
        second = prompt.partition("Answer B:\n")[2].partition("\n")[0]
        return f"Verdict: {'B' if len(second) > len(first) else 'A'}"

    frame = pa.table({"row": [0, 0, 1, 1, 2, 2], "model": ["m/long", "m/short"] * 3,
                      "response": ["aaaa", "a", "bb", "bb", "cccc", None]})  # fmt: skip
    with said(respond) as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        found = llmhub.compare(
            frame, scorers=scorers.pairwise("openai/gpt-4o", "Which says more?"), hub=hub, resamples=400
        )
    assert found.scores.column("score").to_pylist() == [1.0, 0.0, 0.5, 0.5, None, None]
    (cost,) = found.judges.to_pylist()
    assert (cost["calls"], cost["compared"], cost["disagreed"], cost["disagreement"]) == (4, 2, 1, 0.5)
    assert cost["low"] < 0.5 < cost["high"]
    assert "50.0 % of 2 repeated judgements disagree" in found.to_markdown()


def test_a_judge_asked_again_shows_how_far_it_agrees() -> None:
    turns = iter(range(100))
    with said(lambda prompt: f"Score: {next(turns) % 2 + 3}" if "grade" in prompt else "hm") as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        judge = scorers.judge("openai/gpt-4o", "?", n=2)
        options: dict[str, Any] = {"models": LEFT, "scorers": judge, "hub": hub, "concurrency": 1, **QUICK}
        found = llmhub.compare({"q": ["a"]}, "{q}", **options)
    assert found.scores.column("score").to_pylist() == [3.5]
    assert found.judges.column("disagreement").to_pylist() == [1.0]


# Tables that are ready


def test_a_table_of_scores_and_one_of_results_say_the_same() -> None:
    draw = np.random.default_rng(0)
    wide = pd.DataFrame({"a/x": draw.random(200) < 0.8, "b/y": draw.random(200) < 0.6, "topic": np.arange(200) // 5})
    long = pd.DataFrame({
        "row": np.repeat(np.arange(200), 2), "provider": ["a", "b"] * 200, "model": ["x", "y"] * 200,
        "score": wide[["a/x", "b/y"]].to_numpy().ravel(), "topic": np.repeat(wide["topic"], 2),
    })  # fmt: skip
    for group in ({}, {"group": "topic"}):
        one = llmhub.compare(wide, models=["a/x", "b/y"], **group)
        other = llmhub.compare(long.sample(frac=1, random_state=1), scores="score", **group)
        assert {tuple(row.items()) for row in one.models.to_pylist()} == {
            tuple(row.items()) for row in other.models.to_pylist()
        }
        (left,), (right,) = one.pairs.to_pylist(), other.pairs.to_pylist()
        assert left["p"] == right["p"]
        assert abs(left["difference"]) == pytest.approx(abs(right["difference"]))
        # The interval on its own means what scipy's bootstrap of the paired differences says.
    ours = llmhub.compare(wide, models=["a/x", "b/y"]).pairs.to_pylist()[0]
    differences = wide["a/x"].to_numpy(float) - wide["b/y"].to_numpy(float)
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_a_ready_table_s_failures_and_clusters_count() -> None:
    table = pa.table({"row": [0, 0, 1, 1], "model": ["a", "b"] * 2, "status": ["ok", "error", "ok", "ok"],
                      "score": [1.0, None, 1.0, 1.0]})  # fmt: skip
    assert figure(llmhub.compare(table, scores="score"), "b", "score")["value"] == 0.5
    assert figure(llmhub.compare(table, scores="score", failures="left_out"), "b", "score")["value"] == 1.0


def test_answers_that_are_there_are_scored_without_asking() -> None:
    table = pd.DataFrame({"row": [0, 0], "model": ["a", "b"], "response": ["7", "8"], "gold": ["7", "7"]})
    found = llmhub.compare(table, scorers=[scorers.numeric(), scorers.contains()], target="gold")
    assert found.scores.column("score").to_pylist() == [1.0, 0.0, 1.0, 0.0]
    assert found.scorers == ("numeric", "contains")
    assert found.leaders("contains") == ("a", "b")
    only = llmhub.compare(table, scorers=scorers.numeric(), target="gold", models="b")
    assert only.design.models == ("b",)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_of_hardly_any_rows_is_shown_all_the_same(rows: int) -> None:
    found = llmhub.compare({"a": [1.0] * rows, "b": [0.5] * rows}, models=["a", "b"])
    assert len(found.models) == 2
    assert found._repr_html_()
    assert found.to_markdown()
    assert isinstance(found.plot(), Axes)
    assert found.rows_needed(0.1).column("rows").to_pylist() == [None] * rows


# What is said


@pytest.fixture(scope="module")
def four() -> Comparison:
    draw = np.random.default_rng(1)
    luck = draw.random((500, 1))
    rates = {"p/<b>best</b>": 0.9, "p/good": 0.89, "p/fair|ly": 0.7, "q/poor": 0.4}
    values = np.where(draw.random((500, 4)) < 0.6, luck, draw.random((500, 4))) < list(rates.values())
    return llmhub.compare(dict(zip(rates, values.T.astype(float), strict=True)), models=list(rates))


def test_the_leaders_are_the_best_and_who_cannot_be_told_from_it(four: Comparison) -> None:
    leaders = four.leaders()
    assert set(leaders) == {"p/<b>best</b>", "p/good"}
    assert leaders[0] == four.ranked()[0]["model"]
    tied = [pair for pair in four.pairs.to_pylist() if not pair["significant"]]
    assert [{pair["left"], pair["right"]} for pair in tied] == [set(leaders)]
    for pair in four.pairs.to_pylist():
        assert pair["p"] <= pair["p_holm"]
        assert pair["difference"] == pytest.approx(pair["left_score"] - pair["right_score"])
        assert pair["low"] < pair["difference"] < pair["high"]


def test_rows_needed_grow_as_differences_shrink(four: Comparison) -> None:
    one, half = (four.rows_needed(size).column("rows").to_pylist() for size in (0.04, 0.02))
    assert all(3.8 * few < many < 4.2 * few for few, many in zip(one, half, strict=True))
    surer = four.rows_needed(0.04, power=0.95).column("rows").to_pylist()
    assert all(many > few for few, many in zip(one, surer, strict=True))
    # What these rows could have shown takes these rows.
    for pair, many in zip(four.pairs.to_pylist(), one, strict=True):
        assert many == pytest.approx(500 * (pair["minimum_detectable_effect"] / 0.04) ** 2, rel=0.02)


def test_it_is_shown_whole_and_escaped(four: Comparison) -> None:
    html = four._repr_html_()
    assert "<b>best" not in html
    assert html.count("<svg") == 4 + 6
    assert html.count("<table") == html.count("</table>") == 2
    markdown = four.to_markdown()
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(tables) == (2 + 4) + (2 + 6)
    assert len({line.replace("\\|", "").count("|") for line in tables[:6]}) == 1
    assert repr(four) == markdown


def test_it_is_drawn_with_every_model_and_pair(four: Comparison) -> None:
    axes = four.plot()
    upper, lower = axes.figure.axes
    assert upper is axes
    assert len(upper.get_yticks()) == 4
    assert len(lower.get_yticks()) == 6
    low, high = lower.get_xlim()
    assert low < 0 < high
    hollow = [
        line for line in lower.lines if line.get_marker() == "o" and line.get_markerfacecolor() != line.get_color()
    ]
    assert len(hollow) == 1
    own = axes.figure.add_axes((0.1, 0.1, 0.5, 0.5))
    assert four.plot(ax=own) is own


def test_the_same_data_and_design_give_the_same_figures(four: Comparison) -> None:
    columns = {
        name: four.results.filter(pa.compute.field("model") == name).column("score") for name in four.design.models
    }
    again = llmhub.compare(columns, models=list(columns))
    assert again.pairs.equals(four.pairs)
    assert again.models.equals(four.models)
    other = llmhub.compare(columns, models=list(columns), random_state=1)
    assert not other.pairs.equals(four.pairs)
    assert other.pairs.column("p").equals(four.pairs.column("p"))


# Refusals


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"scorers": "exact"}, "scorers"),
        ({"scorers": [scorers.exact(), scorers.exact()]}, "scorers"),
        ({"scorers": scorers.exact("nothing")}, "nothing"),
        ({"scorers": scorers.exact()}, "target"),
        ({"scorers": scorers.judge("nowhere/x", "?")}, "nowhere"),
        ({"scorers": scorers.judge("openai/x", "?", prompt="{response} {nothing}")}, "nothing"),
        ({"scorers": scorers.judge("openai/x", "?", options={"tempature": 0})}, "tempature"),
        ({"scorers": scorers.judge("openai/x", "?", options={"temperature": 9})}, "temperature"),
        ({"target": "nothing"}, "target"),
        ({"group": "nothing"}, "group"),
        ({"group": "gaps"}, "gaps"),
        ({"failures": "forgiven"}, "failures"),
        ({"level": 95}, "level"),
        ({"power": 0}, "power"),
        ({"resamples": 5}, "resamples"),
        ({"random_state": -1}, "random_state"),
        ({"test": "t"}, "test"),
        ({"on_error": "raise"}, "on_error"),
        ({"scores": "q"}, "scores"),
        ({"models": []}, "model"),
        ({"tempature": 1}, "tempature"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_sent(
    simulator: SimulatorThread, change: dict[str, Any], path: str
) -> None:
    whole: dict[str, Any] = {"models": [LEFT], "scorers": scorers.exact("q"), "progress": False, **change}
    with pytest.raises(BadRequestError, match=path):
        llmhub.compare(
            {"q": ["a", "b"], "gaps": [1, None]}, "{q}", hub=llmhub.Hub(endpoints=simulator.endpoints()), **whole
        )
    assert simulator.counts()["requests"] == 0


def test_scipy_is_missed_before_anything_is_sent(simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(BadRequestError, match=r"llmhub\[evals\]"):
        llmhub.compare({"q": ["a"]}, "{q}", models=LEFT, scorers=scorers.exact("q"), hub=llmhub.Hub(
            endpoints=simulator.endpoints()
        ))  # fmt: skip
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize(
    ("frame", "options", "path"),
    [
        ({"a": [1.0]}, {}, "models"),
        ({"a": [1.0]}, {"models": ["b"]}, "models"),
        ({"a": ["x"]}, {"models": ["a"]}, "scores"),
        ({"row": [0], "model": ["a"]}, {}, "scores"),
        ({"row": [0], "model": ["a"]}, {"scores": "x"}, "scores"),
        ({"row": [0], "model": ["a"]}, {"scorers": scorers.json_valid()}, "response"),
        ({"row": [None], "model": ["a"], "s": [1.0]}, {"scores": "s"}, "row"),
        ({"row": [0], "model": ["a"], "s": [1.0]}, {"scores": "s", "n": 3}, "n"),
        ({"model": ["a"], "s": [1.0]}, {"scores": "s"}, "row"),
    ],
)
def test_a_ready_table_that_lacks_something_is_refused(frame: Any, options: dict[str, Any], path: str) -> None:
    with pytest.raises(BadRequestError, match=path):
        llmhub.compare(frame, **options)


def test_faults_under_way_lose_nothing(questions: Any) -> None:
    with serving(Simulator(seed=2, faults=Faults(rate_500=0.3))) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), retry=llmhub.Retry(attempts=1))
        found = llmhub.compare(
            {"q": questions.questions[:100]},
            "{q}",
            models=[LEFT, RIGHT],
            scorers=scorers.json_valid(),
            hub=hub,
            **QUICK,
        )
    errors = sum(found.counts.column("error").to_pylist())
    assert 20 < errors < 100
    assert sum(found.counts.column("ok").to_pylist()) == 200 - errors
    for name in (LEFT, RIGHT):
        assert figure(found, name, "error_rate")["rows"] == 100
