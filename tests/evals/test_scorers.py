"""Scorers: scores of responses, responses that cannot be scored, arbitrary text, and custom scorers."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

BUILT_IN = [
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


OVERLAP = [scorers.rouge(), scorers.bleu(), scorers.edit_similarity()]


@pytest.mark.parametrize("built", OVERLAP, ids=lambda built: built.name)
@given(target=st.text(max_size=40), response=st.text(max_size=40))
def test_overlap_scores_are_between_0_and_1(built: Scorer, target: str, response: str) -> None:
    assert 0 <= (score_of(built, target, response) or 0) <= 1
    assert score_of(built, ["the cat sat on the mat", target], "the cat sat on the mat") == pytest.approx(1)


def test_overlap_scores_equal_those_of_the_reference_libraries() -> None:
    target, response = "the cat sat on the mat", "the cat lay on a mat"
    rouge = rouge_scorer.RougeScorer(["rougeL"]).score(target, response)["rougeL"].fmeasure
    assert score_of(scorers.rouge(), target, response) == pytest.approx(rouge, abs=1e-14)
    bleu = sacrebleu.sentence_bleu(response, [target]).score / 100
    assert score_of(scorers.bleu(), target, response) == pytest.approx(bleu, abs=1e-14)
    assert score_of(scorers.edit_similarity(), target, response) == Levenshtein.normalized_similarity(response, target)


def score_of(built: Scorer, target: Any, response: str) -> float | None:
    return to_score(built({"target": target}, response)).value


@pytest.mark.parametrize(
    ("built", "target", "response", "expected"),
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
        (scorers.numeric(), str(2**60 + 1), str(2**60), 1),  # within 1e-9
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
def test_score_of_a_response(built: Scorer, target: Any, response: str, expected: float | None) -> None:
    assert score_of(built, target, response) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_extract_numbers(text: str, expected: list[str]) -> None:
    assert [Decimal(number) for number in expected] == answer_extraction.extract_numbers(text)


@given(st.sampled_from(BUILT_IN), st.text(max_size=60), st.text(max_size=60))
def test_scorer_accepts_any_text(built: Scorer, target: str, response: str) -> None:
    score = to_score(built({"target": target}, response))
    assert score.value in {None, 0.0, 1.0}
    built.read(response)


@given(st.sampled_from(BUILT_IN), st.text(max_size=60), st.text(max_size=60))
def test_responses_with_equal_answers_have_equal_scores(built: Scorer, target: str, response: str) -> None:
    variant = f" {response} \n"
    if built.read(response) == built.read(variant):
        assert score_of(built, target, response) == score_of(built, target, variant)


@pytest.mark.parametrize("built", BUILT_IN, ids=lambda built: built.name)
def test_scorer_can_be_pickled(built: Scorer) -> None:
    if built.name != "json_valid":  # the schema validator cannot be pickled
        variant = pickle.loads(pickle.dumps(built))
        assert identity(variant) == identity(built)
        assert score_of(variant, "7", "7") == score_of(built, "7", "7")


def test_decorator_returns_a_scorer() -> None:
    @scorer("brief", "3", columns=["limit"])
    def brief(row: Any, response: str) -> bool:
        return len(response) <= row["limit"]

    assert (brief.name, brief.version, brief.columns) == ("brief", "3", ("limit",))
    assert brief({"limit": 3}, "yes") is True
    assert try_score(brief, {"limit": 3}, "yes!") == (Score(0.0), True)


def test_scorer_that_raises_returns_no_score_and_a_note() -> None:
    raising = scorer("broken")(lambda row, response: row["none"])
    score, _ = try_score(raising, {}, "x")
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
def test_invalid_scorer_raises(make: Callable[[], Scorer], path: str) -> None:
    with pytest.raises(BadRequestError, match=path):
        make()


def test_missing_library_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(BadRequestError, match=r"llmhub\[evals\]"):
        scorers.json_valid({})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "response", "right"),
    [
        ("3/4", "It is $0.75$.", True),
        (r"\frac{3}{4}", r"So \boxed{\frac{6}{8}}.", True),
        ("$x^2+2x+1$", "That is $(x+1)^2$.", True),
        (r"\{1, 2\}", r"The set is $\{2, 1\}$", True),
        ("1/2", "The answer is 3/2.", False),
        ("42", "Answer: 42", True),
        (["7", "8"], "$8$", True),
        ("42", "I do not know.", False),
    ],
)
def test_mathematics_is_compared_by_algebra(target: Any, response: str, right: bool) -> None:
    score, _ = try_score(scorers.math(), {"target": target}, response)
    assert score.value == right


@pytest.mark.slow
def test_mathematics_is_scored_in_other_threads_and_rebuilt_by_its_identity() -> None:
    scorer = scorers.scorer_from_identity(identity(scorers.math("answer")))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scorer, {"answer": "1/2"}, "It is $0.5$").result() is True  # type: ignore[arg-type]
    assert scorer.read("It is $0.5$") == scorer.read(r"It is $0.5$!")  # type: ignore[union-attr]
