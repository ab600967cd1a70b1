"""Scorers as functions: what they take for right, what they say where they cannot tell, and that they are total."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from rouge_score import rouge_scorer

from llmhub.core.errors import BadRequestError
from llmhub.evals import answer_extraction, scorers
from llmhub.evals._scorer import Score, Scorer, identity, scorer, to_score, try_score

READY = [
    scorers.exact(),
    scorers.normalised(),
    scorers.contains(),
    scorers.regex(r"(\w+)"),
    scorers.regex(r"(\w+)", "target"),
    scorers.numeric(),
    scorers.choice(),
    scorers.label(["yes", "no"]),
    scorers.json_valid(),
    scorers.json_valid({"type": "object"}),
    scorers.json_equal(),
]


NUMBERS = [scorers.rouge(), scorers.bleu(), scorers.edit_similarity()]


@pytest.mark.parametrize("one", NUMBERS, ids=lambda one: one.name)
@given(target=st.text(max_size=40), response=st.text(max_size=40))
def test_how_much_is_shared_is_a_share(one: Scorer, target: str, response: str) -> None:
    assert 0 <= (value(one, target, response) or 0) <= 1
    assert value(one, ["the cat sat on the mat", target], "the cat sat on the mat") == pytest.approx(1)


def test_measures_are_those_of_their_libraries() -> None:
    target, response = "the cat sat on the mat", "the cat lay on a mat"
    rouge = rouge_scorer.RougeScorer(["rougeL"]).score(target, response)["rougeL"].fmeasure
    assert value(scorers.rouge(), target, response) == pytest.approx(rouge, abs=1e-14)
    bleu = sacrebleu.sentence_bleu(response, [target]).score / 100
    assert value(scorers.bleu(), target, response) == pytest.approx(bleu, abs=1e-14)
    assert value(scorers.edit_similarity(), target, response) == Levenshtein.normalized_similarity(response, target)


def value(one: Scorer, target: Any, response: str) -> float | None:
    return to_score(one({"target": target}, response)).value


@pytest.mark.parametrize(
    ("one", "target", "response", "worth"),
    [
        (scorers.exact(), "Paris", " Paris\n", 1),
        (scorers.exact(), "Paris", "paris", 0),
        (scorers.exact(), ["Paris", "Lutetia"], "Lutetia", 1),
        (scorers.exact(), 7, "7", 1),
        (scorers.normalised(), "the Eiffel Tower", "Eiffel-tower.", 1),
        (scorers.normalised(), "\ufb01sh", "FISH", 1),  # a ligature
        (scorers.normalised(), "two", "three", 0),
        (scorers.contains(), "Paris", "it is paris", 1),
        (scorers.contains(case=True), "Paris", "it is paris", 0),
        (scorers.contains(), ["x", "y"], "only y", 1),
        (scorers.regex(r"\d{4}"), None, "in 1999", 1),
        (scorers.regex(r"\d{4}"), None, "in 199", 0),
        (scorers.regex(r"= (\d+)", "target"), "14", "3 = 3, 7*2 = 14", 1),
        (scorers.numeric(), "#### 70,000", "profit: $70000", 1),
        (scorers.numeric(), "18", "16 - 3 - 4 = 9, so $18.00 a day.", 1),
        (scorers.numeric(), 18, "**-18**", 0),
        (scorers.numeric(), "-18", "it falls by \u221218 degrees", 1),
        (scorers.numeric(), "0.1", "0.1000000000000001", 1),
        (scorers.numeric(relative=0), "0.1", "0.1000000000000001", 0),
        (scorers.numeric(tolerance=0.5), "10", "about 10.5", 1),
        (scorers.numeric(tolerance=0.4), "10", "about 10.5", 0),
        (scorers.numeric(), "3", "no idea", 0),
        (scorers.numeric(), "none", "3", None),
        (scorers.numeric(), str(2**60 + 1), str(2**60), 1),  # to one part in a thousand million
        (scorers.numeric(relative=0), str(2**60 + 1), str(2**60), 0),
        (scorers.choice(), "B", "A is tempting, but the answer is **B**.", 1),
        (scorers.choice(), "B", "(b)", 1),
        (scorers.choice(), 1, "B) because", 1),
        (scorers.choice(), "B", "the answer is a lot of work", 0),
        (scorers.choice(), "F", "F", None),
        (scorers.choice(letters="ABCDEF"), "F", "F", 1),
        (scorers.label(["good", "very good"]), "very good", "Very good!", 1),
        (scorers.label(["good", "very good"]), "good", "I find it very good", 0),
        (scorers.label(["yes", "no"]), "no", "yes or no", 0),
        (scorers.json_valid(), None, '```json\n{"a": 1}\n```', 1),
        (scorers.json_valid({"type": "object", "required": ["a"]}), None, '{"b": 1}', 0),
        (scorers.json_valid({"type": "object", "required": ["a"]}), None, '{"a": 1}', 1),
        (scorers.json_equal(), {"a": [1, 2]}, '{"a": [1.0, 2]}', 1),
        (scorers.json_equal(), '{"a": 1}', '{"a": true}', 0),
        (scorers.json_equal(), '{"a": 1}', "{", 0),
        (scorers.json_equal(), "{", "{}", None),
    ],
)
def test_what_is_right(one: Scorer, target: Any, response: str, worth: float | None) -> None:
    assert value(one, target, response) == worth


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,234,567.5", ["1234567.5"]),
        ("1,2,3", ["1", "2", "3"]),
        ("5-3", ["5", "3"]),
        ("2019-2024", ["2019", "2024"]),
        ("-$5 and $-6", ["-5", "-6"]),
        ("1\u202f000 km, 1'000 m", ["1000", "1000"]),
        ("\\boxed{42}.", ["42"]),
        ("50%", ["50"]),
        ("1e3 and 2E-2", ["1E+3", "0.02"]),
        ("1e99999", ["1", "99999"]),
        ("v2", ["2"]),
        ("", []),
    ],
)
def test_numbers_in_a_text(text: str, found: list[str]) -> None:
    assert [Decimal(each) for each in found] == answer_extraction.extract_numbers(text)


@given(st.sampled_from(READY), st.text(max_size=60), st.text(max_size=60))
def test_a_scorer_is_total_over_texts(one: Scorer, target: str, response: str) -> None:
    score = to_score(one({"target": target}, response))
    assert score.value in {None, 0.0, 1.0}
    one.read(response)


@given(st.sampled_from(READY), st.text(max_size=60), st.text(max_size=60))
def test_answers_that_read_alike_are_scored_alike(one: Scorer, target: str, response: str) -> None:
    again = f" {response} \n"
    if one.read(response) == one.read(again):
        assert value(one, target, response) == value(one, target, again)


@pytest.mark.parametrize("one", READY, ids=lambda one: one.name)
def test_a_scorer_can_be_sent_to_another_process(one: Scorer) -> None:
    if one.name != "json_valid":  # a schema's checker is made where it is used
        again = pickle.loads(pickle.dumps(one))
        assert identity(again) == identity(one)
        assert value(again, "7", "7") == value(one, "7", "7")


def test_a_user_s_function_becomes_a_scorer() -> None:
    @scorer("brief", "3", columns=["limit"])
    def brief(row: Any, response: str) -> bool:
        return len(response) <= row["limit"]

    assert (brief.name, brief.version, brief.columns) == ("brief", "3", ("limit",))
    assert brief({"limit": 3}, "yes") is True
    assert try_score(brief, {"limit": 3}, "yes!") == (Score(0.0), True)


def test_a_function_that_raises_scores_nothing_and_says_why() -> None:
    broken = scorer("broken")(lambda row, response: row["none"])
    score, _ = try_score(broken, {}, "x")
    assert score == Score(None, "KeyError: 'none'")


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: scorer("")(lambda row, response: True), "name"),
        (lambda: scorer("x", version="")(lambda row, response: True), "version"),
        (lambda: scorer("x")("y"), "scorer"),  # type: ignore[arg-type]
        (lambda: scorers.regex("("), "pattern"),
        (lambda: scorers.regex("x", "target"), "pattern"),
        (lambda: scorers.numeric(tolerance=-1), "tolerance"),
        (lambda: scorers.numeric(relative=float("nan")), "relative"),
        (lambda: scorers.json_valid({"type": 3}), "schema"),
    ],
)
def test_what_cannot_be_a_scorer_is_refused_by_name(make: Callable[[], Scorer], path: str) -> None:
    with pytest.raises(BadRequestError, match=path):
        make()


def test_a_library_that_is_absent_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(BadRequestError, match=r"llmhub\[evals\]"):
        scorers.json_valid({})
