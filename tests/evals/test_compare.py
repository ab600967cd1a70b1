"""Comparisons: sending, scoring, judges, finished tables, reports, and validation before anything is sent."""

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
FAST: dict[str, Any] = {"progress": False, "resamples": 400}


def metric_row(comparison: Comparison, model: str, metric: str) -> dict[str, Any]:
    (row,) = [row for row in comparison.models.to_pylist() if (row["model"], row["metric"]) == (model, metric)]
    return row


def simulated(respond: Callable[[str], str]) -> Any:
    return serving(Simulator(seed=1, respond=respond))


# Sending prompts


def test_comparison_of_two_models_has_all_tables_and_metrics(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:120] for name, values in questions.frame.items()}
    comparison = llmhub.compare(
        frame,
        "{question}",
        model=[LEFT, RIGHT],
        scorers=scorers.numeric(),
        target="answer",
        hub=hub,
        stream=True,
        **FAST,
    )
    assert comparison.results.schema.equals(llmhub.complete_table({"a": []}, "{a}", model=LEFT, hub=hub).schema)
    assert (comparison.models.schema, comparison.pairs.schema) == (MODELS, PAIRS)
    assert (comparison.counts.schema, comparison.judges.schema, comparison.scores.schema) == (COUNTS, JUDGES, SCORES)
    assert comparison.results.column("row").to_pylist() == [row for row in range(120) for _ in range(2)]
    metrics = {"numeric", "error_rate", "cost_usd", "input_tokens", "output_tokens", "billed_usd"}
    metrics |= {f"{name}_p{share}_s" for name in ("latency", "ttft") for share in (50, 95, 99)}
    for model in (LEFT, RIGHT):
        for metric in metrics:
            row = metric_row(comparison, model, metric)
            assert row["value"] is not None
            assert (row["low"] or 0) <= row["value"] <= (row["high"] or float("inf"))
    right = [row["score"] for row in comparison.scores.to_pylist() if row["model"] == "gpt-4o-mini"]
    assert metric_row(comparison, LEFT, "numeric")["value"] == pytest.approx(np.mean(right))
    own = stats.binomtest(int(sum(right)), 120).proportion_ci(method="wilson")
    assert metric_row(comparison, LEFT, "numeric")["low"] == pytest.approx(own.low)


def test_rows_are_sent_in_random_order_and_returned_in_frame_order(hub: llmhub.Hub, questions: Any) -> None:
    frame = pd.DataFrame(questions.frame).iloc[:40]
    expected = llmhub.complete_table(frame, "{question}", model=[LEFT, RIGHT], hub=hub, progress=False, n=2)
    sent: list[str] = []

    def recording(send: Any) -> Any:
        async def record(call: Any) -> Any:
            sent.append(call.request.messages[-1].text)
            return await send(call)

        return record

    recording_hub = llmhub.Hub(endpoints=hub.endpoints, middleware=(recording,))
    result = complete_in_random_order(
        frame, "{question}", [LEFT, RIGHT], recording_hub, 5, {"n": 2, "concurrency": 1, "progress": False}
    )
    names = ["row", "sample", "provider", "model", "request_key"]
    assert result.select(names).to_pylist() == expected.select(names).to_pylist()
    order = list(dict.fromkeys(sent))
    assert order != list(frame["question"])
    assert sorted(order) == sorted(frame["question"])
    # Each row is sent to all models before the next row.
    assert all(len(set(sent[index : index + 4])) == 1 for index in range(0, len(sent), 4))


def test_cached_responses_are_excluded_from_latency_but_not_from_cost(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:30] for name, values in questions.frame.items()}
    options: dict[str, Any] = {"model": [LEFT], "scorers": scorers.numeric("answer"), "hub": hub, **FAST}
    first = llmhub.compare(frame, "{question}", **options)
    repeated = llmhub.compare(frame, "{question}", **options)
    assert metric_row(first, LEFT, "latency_p50_s")["rows"] == 30
    assert metric_row(repeated, LEFT, "latency_p50_s")["value"] is None
    assert metric_row(repeated, LEFT, "cost_usd") == metric_row(first, LEFT, "cost_usd")
    assert metric_row(repeated, LEFT, "billed_usd")["value"] == 0
    assert repeated.counts.column("cached").to_pylist() == [30]
    assert repeated.models.filter(pa.compute.field("kind") == "score").equals(
        first.models.filter(pa.compute.field("kind") == "score")
    )


@pytest.mark.parametrize(("failures", "value", "rows"), [("wrong", 0.5, 20), ("left_out", 1.0, 10)])
def test_failure_policy(failures: str, value: float, rows: int) -> None:
    """Half of the rows fail; two are not sent because a value is missing."""
    sent = [f"{index} [[sim:500 always]]" if index % 2 else str(index) for index in range(20)]
    with simulated(lambda prompt: prompt) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), retry=llmhub.Retry(attempts=1))
        comparison = llmhub.compare(
            {"q": [*sent, None, None]}, "{q}", model=[LEFT, RIGHT], scorers=scorers.exact("q"), hub=hub,
            failures=failures, **FAST,
        )  # fmt: skip
    assert (metric_row(comparison, LEFT, "exact")["value"], metric_row(comparison, LEFT, "exact")["rows"]) == (
        value,
        rows,
    )
    assert metric_row(comparison, LEFT, "error_rate")["value"] == 0.5
    (count, _) = comparison.counts.to_pylist()
    assert (count["total"], count["ok"], count["error"], count["skipped"]) == (22, 10, 10, 2)
    text = comparison.to_markdown()
    assert "20 of 44 failed and" in text
    assert "4 of 44 were not sent" in text
    notes = [row["note"] for row in comparison.scores.to_pylist() if not row["counted"]]
    assert len(notes) == 4 + (20 if failures == "left_out" else 0)
    assert all("left out" in note for note in notes)


def test_groups_and_samples_are_clusters(hub: llmhub.Hub, questions: Any) -> None:
    frame = {name: values[:60] for name, values in questions.frame.items()} | {
        "topic": [index // 6 for index in range(60)]
    }
    options: dict[str, Any] = {"model": [LEFT, RIGHT], "scorers": scorers.numeric("answer"), "hub": hub, **FAST}
    grouped = llmhub.compare(frame, "{question}", group="topic", n=3, **options)
    (pair,) = grouped.pairs.to_pylist()
    assert (pair["rows"], pair["clusters"], pair["test"]) == (60, 10, "studentised")
    assert "60 rows of 3 samples in 10 groups of topic" in grouped.to_markdown()
    assert metric_row(grouped, LEFT, "latency_p50_s")["method"] == "order statistics, clustered"
    expected = llmhub.compare(frame, "{question}", n=3, **options)
    assert expected.pairs.to_pylist()[0]["clusters"] == 60


# Judges


def test_judge_scores_and_cost(hub: llmhub.Hub, questions: Any) -> None:
    def respond(prompt: str) -> str:
        assert "secret" not in prompt  # the target is not shown to the judge
        if "grade an answer" not in prompt:
            return prompt
        return "Fine. Score: 4" if "\nyes" in prompt else "Score: 9" if "\nodd" in prompt else "**Score:** 2"

    with simulated(respond) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), cache=llmhub.MemoryCache())
        judge = scorers.judge("openai/gpt-4o", "Is it yes?", options={"temperature": 0})
        options: dict[str, Any] = {"model": LEFT, "scorers": judge, "hub": hub, "target": "gold", **FAST}
        frame = {"q": ["yes", "no", "odd"], "gold": ["secret"] * 3}
        comparison = llmhub.compare(frame, "{q}", **options)
        assert comparison.scores.column("score").to_pylist() == [4.0, 2.0, None]
        (judge_row,) = comparison.judges.to_pylist()
        assert (judge_row["calls"], judge_row["failed"], judge_row["unreadable"], judge_row["disagreement"]) == (
            3,
            0,
            1,
            None,
        )
        assert judge_row["cost_usd"] == sum(comparison.judgements["judge"].column("cost_usd").to_pylist()) > 0
        (repeated,) = llmhub.compare(frame, "{q}", **options).judges.to_pylist()
        assert (repeated["cost_usd"], repeated["list_cost_usd"]) == (0, judge_row["list_cost_usd"])
    assert "Judge judge (openai/gpt-4o): 3 calls" in comparison.to_markdown()


def test_pairwise_judge_sees_both_orders_and_position_bias_is_a_disagreement() -> None:
    """The judge prefers the longer response; of equally long ones, the first, which is position bias."""

    def respond(prompt: str) -> str:
        if "compare two answers" not in prompt:
            return prompt
        first = prompt.partition("Answer A:\n")[2].partition("\n")[0]
        second = prompt.partition("Answer B:\n")[2].partition("\n")[0]
        return f"Verdict: {'B' if len(second) > len(first) else 'A'}"

    frame = pa.table({"row": [0, 0, 1, 1, 2, 2], "model": ["m/long", "m/short"] * 3,
                      "response": ["aaaa", "a", "bb", "bb", "cccc", None]})  # fmt: skip
    with simulated(respond) as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        comparison = llmhub.compare(
            frame, scorers=scorers.pairwise("openai/gpt-4o", "Which says more?"), hub=hub, resamples=400
        )
    assert comparison.scores.column("score").to_pylist() == [1.0, 0.0, 0.5, 0.5, None, None]
    (judge_row,) = comparison.judges.to_pylist()
    assert (judge_row["calls"], judge_row["compared"], judge_row["disagreed"], judge_row["disagreement"]) == (
        4,
        2,
        1,
        0.5,
    )
    assert judge_row["low"] < 0.5 < judge_row["high"]
    assert "50.0 % of 2 repeated judgements disagree" in comparison.to_markdown()


def test_judge_samples_that_differ_are_a_disagreement() -> None:
    counter = iter(range(100))
    with simulated(lambda prompt: f"Score: {next(counter) % 2 + 3}" if "grade" in prompt else "hm") as served:
        hub = llmhub.Hub(endpoints=served.endpoints())
        judge = scorers.judge("openai/gpt-4o", "?", n=2)
        options: dict[str, Any] = {"model": LEFT, "scorers": judge, "hub": hub, "concurrency": 1, **FAST}
        comparison = llmhub.compare({"q": ["a"]}, "{q}", **options)
    assert comparison.scores.column("score").to_pylist() == [3.5]
    assert comparison.judges.column("disagreement").to_pylist() == [1.0]


# Finished tables


def test_wide_and_long_tables_give_equal_comparisons() -> None:
    rng = np.random.default_rng(0)
    wide = pd.DataFrame({"a/x": rng.random(200) < 0.8, "b/y": rng.random(200) < 0.6, "topic": np.arange(200) // 5})
    long = pd.DataFrame({
        "row": np.repeat(np.arange(200), 2), "provider": ["a", "b"] * 200, "model": ["x", "y"] * 200,
        "score": wide[["a/x", "b/y"]].to_numpy().ravel(), "topic": np.repeat(wide["topic"], 2),
    })  # fmt: skip
    for group in ({}, {"group": "topic"}):
        from_wide = llmhub.compare(wide, model=["a/x", "b/y"], **group)
        from_long = llmhub.compare(long.sample(frac=1, random_state=1), scores="score", **group)
        assert {tuple(row.items()) for row in from_wide.models.to_pylist()} == {
            tuple(row.items()) for row in from_long.models.to_pylist()
        }
        (left,), (right,) = from_wide.pairs.to_pylist(), from_long.pairs.to_pylist()
        assert left["p"] == right["p"]
        assert abs(left["difference"]) == pytest.approx(abs(right["difference"]))
        # The interval agrees with scipy's bootstrap of the paired differences.
    own = llmhub.compare(wide, model=["a/x", "b/y"]).pairs.to_pylist()[0]
    differences = wide["a/x"].to_numpy(float) - wide["b/y"].to_numpy(float)
    reference = stats.bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert (own["low"], own["high"]) == pytest.approx(tuple(reference.confidence_interval), abs=0.01)


def test_finished_table_applies_failure_policy() -> None:
    table = pa.table({"row": [0, 0, 1, 1], "model": ["a", "b"] * 2, "status": ["ok", "error", "ok", "ok"],
                      "score": [1.0, None, 1.0, 1.0]})  # fmt: skip
    assert metric_row(llmhub.compare(table, scores="score"), "b", "score")["value"] == 0.5
    assert metric_row(llmhub.compare(table, scores="score", failures="left_out"), "b", "score")["value"] == 1.0


def test_finished_responses_are_scored_without_requests() -> None:
    table = pd.DataFrame({"row": [0, 0], "model": ["a", "b"], "response": ["7", "8"], "gold": ["7", "7"]})
    comparison = llmhub.compare(table, scorers=[scorers.numeric(), scorers.contains()], target="gold")
    assert comparison.scores.column("score").to_pylist() == [1.0, 0.0, 1.0, 0.0]
    assert comparison.scorers == ("numeric", "contains")
    assert comparison.leaders("contains") == ("a", "b")
    only = llmhub.compare(table, scorers=scorers.numeric(), target="gold", model="b")
    assert only.design.models == ("b",)


@pytest.mark.parametrize("rows", [0, 1])
def test_reports_of_tables_with_few_rows(rows: int) -> None:
    comparison = llmhub.compare({"a": [1.0] * rows, "b": [0.5] * rows}, model=["a", "b"])
    assert len(comparison.models) == 2
    assert comparison._repr_html_()
    assert comparison.to_markdown()
    assert isinstance(comparison.plot(), Axes)
    assert comparison.rows_needed(0.1).column("rows").to_pylist() == [None] * rows


# Reports


@pytest.fixture(scope="module")
def four_models() -> Comparison:
    rng = np.random.default_rng(1)
    shared_luck = rng.random((500, 1))
    rates = {"p/<b>best</b>": 0.9, "p/good": 0.89, "p/fair|ly": 0.7, "q/poor": 0.4}
    values = np.where(rng.random((500, 4)) < 0.6, shared_luck, rng.random((500, 4))) < list(rates.values())
    return llmhub.compare(dict(zip(rates, values.T.astype(float), strict=True)), model=list(rates))


def test_leaders_are_the_best_model_and_those_not_significantly_different(four_models: Comparison) -> None:
    leaders = four_models.leaders()
    assert set(leaders) == {"p/<b>best</b>", "p/good"}
    assert leaders[0] == four_models.ranked()[0]["model"]
    tied = [pair for pair in four_models.pairs.to_pylist() if not pair["significant"]]
    assert [{pair["left"], pair["right"]} for pair in tied] == [set(leaders)]
    for pair in four_models.pairs.to_pylist():
        assert pair["p"] <= pair["p_holm"]
        assert pair["difference"] == pytest.approx(pair["left_score"] - pair["right_score"])
        assert pair["low"] < pair["difference"] < pair["high"]


def test_rows_needed_grow_as_the_difference_shrinks(four_models: Comparison) -> None:
    needed, doubled = (four_models.rows_needed(size).column("rows").to_pylist() for size in (0.04, 0.02))
    assert all(3.8 * few < count < 4.2 * few for few, count in zip(needed, doubled, strict=True))
    surer = four_models.rows_needed(0.04, power=0.95).column("rows").to_pylist()
    assert all(more > count for count, more in zip(needed, surer, strict=True))
    # The minimum detectable effect of these rows requires these rows.
    for pair, rows in zip(four_models.pairs.to_pylist(), needed, strict=True):
        assert rows == pytest.approx(500 * (pair["minimum_detectable_effect"] / 0.04) ** 2, rel=0.02)


def test_reports_have_all_rows_and_escape_names(four_models: Comparison) -> None:
    html = four_models._repr_html_()
    assert "<b>best" not in html
    assert html.count("<svg") == 4 + 6
    assert html.count("<table") == html.count("</table>") == 2
    markdown = four_models.to_markdown()
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(tables) == (2 + 4) + (2 + 6)
    assert len({line.replace("\\|", "").count("|") for line in tables[:6]}) == 1
    assert repr(four_models) == markdown


def test_forest_plot_has_every_model_and_pair(four_models: Comparison) -> None:
    axes = four_models.plot()
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
    assert four_models.plot(ax=own) is own


def test_equal_data_and_design_give_equal_figures(four_models: Comparison) -> None:
    columns = {
        name: four_models.results.filter(pa.compute.field("model") == name).column("score")
        for name in four_models.design.models
    }
    repeated = llmhub.compare(columns, model=list(columns))
    assert repeated.pairs.equals(four_models.pairs)
    assert repeated.models.equals(four_models.models)
    other_seed = llmhub.compare(columns, model=list(columns), random_state=1)
    assert other_seed.pairs.equals(four_models.pairs)  # nothing is resampled


# Invalid arguments


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
        ({"model": []}, "model"),
        ({"tempature": 1}, "tempature"),
    ],
)
def test_invalid_arguments_raise_before_anything_is_sent(
    simulator: SimulatorThread, change: dict[str, Any], path: str
) -> None:
    options: dict[str, Any] = {"model": [LEFT], "scorers": scorers.exact("q"), "progress": False, **change}
    with pytest.raises(BadRequestError, match=path):
        llmhub.compare(
            {"q": ["a", "b"], "gaps": [1, None]}, "{q}", hub=llmhub.Hub(endpoints=simulator.endpoints()), **options
        )
    assert simulator.counts()["requests"] == 0


def test_missing_scipy_raises_before_anything_is_sent(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(BadRequestError, match=r"llmhub\[evals\]"):
        llmhub.compare({"q": ["a"]}, "{q}", model=LEFT, scorers=scorers.exact("q"), hub=llmhub.Hub(
            endpoints=simulator.endpoints()
        ))  # fmt: skip
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize(
    ("frame", "options", "path"),
    [
        ({"a": [1.0]}, {}, "model"),
        ({"a": [1.0]}, {"model": ["b"]}, "models"),
        ({"a": ["x"]}, {"model": ["a"]}, "scores"),
        ({"row": [0], "model": ["a"]}, {}, "scores"),
        ({"row": [0], "model": ["a"]}, {"scores": "x"}, "scores"),
        ({"row": [0], "model": ["a"]}, {"scorers": scorers.json_valid()}, "response"),
        ({"row": [None], "model": ["a"], "s": [1.0]}, {"scores": "s"}, "row"),
        ({"row": [0], "model": ["a"], "s": [1.0]}, {"scores": "s", "n": 3}, "n"),
        ({"model": ["a", "b"], "s": [1.0, 0.0]}, {"scores": "s"}, "row"),
    ],
)
def test_invalid_finished_table_raises(frame: Any, options: dict[str, Any], path: str) -> None:
    with pytest.raises(BadRequestError, match=path):
        llmhub.compare(frame, **options)


def test_provider_errors_are_counted_and_lose_no_rows(questions: Any) -> None:
    with serving(Simulator(seed=2, faults=Faults(rate_500=0.3))) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), retry=llmhub.Retry(attempts=1))
        comparison = llmhub.compare(
            {"q": questions.questions[:100]},
            "{q}",
            model=[LEFT, RIGHT],
            scorers=scorers.json_valid(),
            hub=hub,
            **FAST,
        )
    errors = sum(comparison.counts.column("error").to_pylist())
    assert 20 < errors < 100
    assert sum(comparison.counts.column("ok").to_pylist()) == 200 - errors
    for name in (LEFT, RIGHT):
        assert metric_row(comparison, name, "error_rate")["rows"] == 100


@pytest.mark.parametrize("scorer", ["exact", lambda _row, _response: True])
def test_a_name_or_a_function_is_not_a_scorer(scorer: Any) -> None:
    with pytest.raises(BadRequestError, match=r"scorers: .*is not a scorer; pass one of llmhub.evals.scorers"):
        llmhub.compare({"q": ["a"], "target": ["a"]}, "{q}", model=["openai/m"], scorers=scorer)


def test_the_former_name_of_the_models_is_accepted_with_a_warning() -> None:
    former: dict[str, Any] = {"models": ["a", "b"]}
    with pytest.warns(DeprecationWarning, match=r"^compare: models= is now model="):
        comparison = llmhub.compare({"a": [1.0, 0.0], "b": [1.0, 1.0]}, **former)
    assert len(comparison.pairs) == 1
