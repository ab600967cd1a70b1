"""Answer extraction of earlier scorer versions, so that datasets that were scored with them are replayed alike."""

from __future__ import annotations

import re
from typing import Final

from llmhub.evals.answer_extraction import EMPHASIS_MARKS

ANSWER_STATEMENT: Final = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+(?:is|was|would\s+be))?\s*[:=]?\s*(?:option\s+)?(?:\(([A-Za-z])\)|([A-Z])\b(?!['\u2019]))",
    re.IGNORECASE,
)
BOXED_LETTER: Final = re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-Za-z])\)?\}?\s*\}")
LEADING_LETTER: Final = re.compile(r"^\s*\(?([A-Za-z])(?:[).:]|\s*$)")
BRACKETED_LETTER: Final = re.compile(r"\(([A-Z])\)")
STANDALONE_LETTER: Final = re.compile(r"(?<![\w'\u2019])([B-HJ-Z])(?![\w'\u2019])")
"""A capital letter on its own, except A and I, which are English words."""


def extract_choice_1(text: str, letters: str = "ABCDE") -> str | None:
    """Return the letter a response to a multiple-choice question settles on, or ``None``.

    Tried in order: the last "answer is X", a boxed letter, a leading "X)" or a text that is only a letter, the last
    "(X)", a letter on its own.

    Examples
    --------
    >>> extract_choice_1("The answer is (C)."), extract_choice_1("Correct: A")
    ('C', None)
    """
    plain = text.translate(EMPHASIS_MARKS)
    for pattern in (ANSWER_STATEMENT, BOXED_LETTER, LEADING_LETTER, BRACKETED_LETTER, STANDALONE_LETTER):
        matched: list[str] = [next(filter(None, match.groups())) for match in pattern.finditer(plain)]
        # An unbracketed lower-case letter after "answer is" is a word: "the answer is a lot".
        valid = [
            letter.upper() for letter in matched if letter.upper() in letters and not _is_word(pattern, letter, plain)
        ]
        if valid:
            return valid[-1]
    return None


def _is_word(pattern: re.Pattern[str], letter: str, text: str) -> bool:
    return pattern is ANSWER_STATEMENT and letter.islower() and f"({letter})" not in text
