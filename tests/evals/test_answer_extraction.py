"""Answer extraction: every letter in the same phrasings, stated numbers, fractions, and missing targets."""

from __future__ import annotations

from decimal import Decimal

import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.evals import compare, scorers
from llmhub.evals._scorer import identity
from llmhub.evals.answer_extraction import extract_answer_number, extract_choice
from llmhub.evals.scorers import scorer_from_identity

PHRASINGS = (
    "{x}", "({x})", "{x})", "{x}.", "**{x}**", "`{x}`", "[{x}]", "Answer: {x}", "Answer: ({x})", "answer: {y}",
    "**Answer:** {x}", "The answer is {x}.", "The answer is ({x}).", "The correct answer is {x}", "Final answer: {x}",
    "The correct option is {x}.", "Option {x}", "Choice {x}", "Correct: {x}", "Correct answer: {x}", "I choose {x}.",
    "I pick {x}", "{x} is correct.", "{x} is the right answer.", "({x}) is correct", "Thus {x}", "So it must be {x}.",
    "It is {x}, because the others are wrong.", "\\boxed{{{x}}}", "$\\boxed{{\\text{{{x}}}}}$", "Let me think.\n\n{x}",
    "We weigh them.\nAnswer: {x}\n", "{x}: the first one", "The answer is {x} because it fits.", "{x} - that fits",
    "I would select {x}", "The best choice is: {x}", "Solution: {x}", "Answer = {x}", "The answer should be {x}",
    "The answer is option {x}.", "{y})",
)  # fmt: skip


@pytest.mark.parametrize("phrasing", PHRASINGS)
@pytest.mark.parametrize("letter", "ABCD")
def test_every_letter_is_found_in_every_phrasing(phrasing: str, letter: str) -> None:
    assert extract_choice(phrasing.format(x=letter, y=letter.lower())) == letter


@pytest.mark.parametrize(
    "text",
    ["A dog barks.", "I think a lot.", "The answer is a matter of taste.", "", "None of them.", "Answer: I see."],
)
def test_words_are_no_letters(text: str) -> None:
    assert extract_choice(text) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Not A. The answer is (C).", "C"),
        ("A is wrong, B is wrong, so the answer is D", "D"),
        ("A is correct. No: B is correct.", "B"),
        ("Answer: A\n\nWait. Answer: B", "B"),
    ],
)
def test_last_statement_counts(text: str, letter: str) -> None:
    assert extract_choice(text) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Answer: 18 (over 7 days)", "18"),
        ("**Answer:** $1,234.50 for 3 people", "1234.50"),
        ("She sells 3 of 16.\n#### 18", "18"),
        ("so \\boxed{42} of 100", "42"),
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("It is 3/2", "1.5"),
        ("Answer: 3 + 4 = 7", "7"),
        ("The final answer is 12, not 13.", "12"),
        ("Answer: 5\nWait.\nAnswer: 6", "6"),
        ("3 eggs and 4 more are 7", "7"),
        ("on 2026/11/30 it was 5", "5"),
        ("Answer: unknown; perhaps 9", "9"),
        ("-3/4", "-0.75"),
        ("1/0 or 4", "4"),
    ],
)
def test_stated_number_counts(text: str, number: str) -> None:
    assert extract_answer_number(text) == Decimal(number)


def test_fractions_are_compared_as_numbers() -> None:
    assert scorers.numeric()({"target": "1/2"}, "0.5") is True
    assert scorers.numeric()({"target": "1/2"}, "3/2") is False


@pytest.mark.parametrize("scorer", [scorers.exact("truth"), scorers.numeric("truth"), scorers.choice("truth"),
                                    scorers.contains("truth"), scorers.label(["None", "x"], "truth")])  # fmt: skip
def test_row_without_target_has_no_score(scorer: llmhub.evals.Scorer) -> None:
    frame = {"row": [0, 1], "model": ["m", "m"], "response": ["None", "nan"], "truth": [None, None]}
    comparison = compare(frame, scorers=scorer)
    assert comparison.scores.column("score").to_pylist() == [None, None]
    assert comparison.scores.column("note").to_pylist() == ["the target 'truth' is missing"] * 2


def test_earlier_versions_are_rebuilt_and_read_as_they_did() -> None:
    old = {"name": "numeric", "version": "1", "parameters": identity(scorers.numeric())["parameters"]}
    rebuilt = scorer_from_identity(old)
    assert (rebuilt.version, rebuilt.read("Answer: 18 (over 7 days)")) == ("1", Decimal(7))  # type: ignore[union-attr]
    old_choice = {**identity(scorers.choice()), "version": "1"}
    assert scorer_from_identity(old_choice).read("Correct: A") is None  # type: ignore[union-attr]
    with pytest.raises(BadRequestError, match="version: '9' is not a version of the scorer 'numeric'"):
        scorers.numeric(version="9")


def test_own_scorer_with_other_parameters_is_refused() -> None:
    recorded = identity(scorers.numeric(tolerance=0.5))
    with pytest.raises(BadRequestError, match=r"'numeric' has other parameters \(tolerance\)"):
        scorer_from_identity(recorded, [scorers.numeric()])
