"""Extraction of the final answer from a response: its last number, choice letter, label or JSON value.

All functions are pure and total: they accept any text.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

import msgspec

from llmhub.core.types import JSON

NUMBER: Final = re.compile(
    r"(?:(?<![\w.,)])(?P<sign>[-\u2212+]))?[$€£¥]?"
    r"(?:(?P<digits>\d{1,3}(?:[,\u00a0\u202f']\d{3})+(?!\d)|\d+)(?P<fraction>\.\d+)?|(?P<fraction_only>\.\d+))"
    r"(?P<exponent>[eE][-+]?\d{1,3}(?!\d))?"
)
"""A number with optional sign, currency symbol, thousands separators, decimals and exponent."""
ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
EMPHASIS_MARKS: Final = str.maketrans("", "", "*_`")
CODE_FENCE: Final = re.compile(r"```[A-Za-z0-9]*\s*\n?(.*?)```", re.DOTALL)
ANSWER_STATEMENT: Final = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+(?:is|was|would\s+be))?\s*[:=]?\s*(?:option\s+)?(?:\(([A-Za-z])\)|([A-Z])\b(?!['\u2019]))",
    re.IGNORECASE,
)
BOXED_LETTER: Final = re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-Za-z])\)?\}?\s*\}")
LEADING_LETTER: Final = re.compile(r"^\s*\(?([A-Za-z])(?:[).:]|\s*$)")
BRACKETED_LETTER: Final = re.compile(r"\(([A-Z])\)")
STANDALONE_LETTER: Final = re.compile(r"(?<![\w'\u2019])([B-HJ-Z])(?![\w'\u2019])")
"""A capital letter on its own, except A and I, which are English words."""


def extract_numbers(text: str) -> list[Decimal]:
    """Return the numbers in a text, in order. Thousands separators, currency symbols and units are ignored.

    Examples
    --------
    >>> [str(number) for number in extract_numbers("From $1,234.50 down -3 km to .5, 2e3 in all.")]
    ['1234.50', '-3', '0.5', '2E+3']
    """
    return [_to_decimal(match) for match in NUMBER.finditer(text)]


def extract_last_number(text: str) -> Decimal | None:
    """Return the last number in a text, by convention the final answer; ``None`` without a number.

    Examples
    --------
    >>> extract_last_number("3 + 4 = 7 eggs, so she makes $14.")
    Decimal('14')
    """
    last = deque(NUMBER.finditer(text), maxlen=1)
    return _to_decimal(last[0]) if last else None


def _to_decimal(match: re.Match[str]) -> Decimal:
    integer = re.sub(r"\D", "", match["digits"] or "0")
    sign = "-" if match["sign"] in {"-", "\u2212"} else ""
    return Decimal(f"{sign}{integer}{match['fraction'] or match['fraction_only'] or ''}{match['exponent'] or ''}")


def normalise_text(text: str) -> str:
    """Return a text in NFKC form without case, punctuation, articles and extra whitespace.

    Examples
    --------
    >>> normalise_text("  The Eiffel-Tower! ")
    'eiffel tower'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(
        " " if char in string.punctuation or unicodedata.category(char)[0] == "P" else char for char in folded
    )
    return " ".join(ARTICLES.sub(" ", words).split())


def extract_choice(text: str, letters: str = "ABCDE") -> str | None:
    """Return the letter a response to a multiple-choice question settles on, or ``None``.

    Tried in order: the last "answer is X", a boxed letter, a leading "X)" or a text that is only a letter, the last
    "(X)", a letter on its own.

    Examples
    --------
    >>> extract_choice("Not A. The answer is (C)."), extract_choice("b) because"), extract_choice("I think a lot.")
    ('C', 'B', None)
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


def extract_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that equals the text, else the only label it contains; ``None`` otherwise.

    Examples
    --------
    >>> extract_label("Positive.", ["positive", "negative"])
    'positive'
    >>> extract_label("positive or negative", ["positive", "negative"]) is None
    True
    """
    normalised = normalise_text(text)
    forms = {label: normalise_text(label) for label in labels}
    equal = [label for label, form in forms.items() if form == normalised]
    if equal:
        return equal[0]
    contained = [
        label for label, form in forms.items() if form and re.search(rf"(?<!\w){re.escape(form)}(?!\w)", normalised)
    ]
    # A text that contains "very good" contains "good" as well; only the longer label counts.
    longest = [
        label for label in contained if not any(label != other and forms[label] in forms[other] for other in contained)
    ]
    return longest[0] if len(longest) == 1 else None


class InvalidJSONError(Exception):
    """Raised when a text holds no valid JSON."""


def parse_json(text: str) -> JSON:
    r"""Parse a text that is JSON or whose last code fence is JSON.

    Raises
    ------
    InvalidJSONError
        The text is not valid JSON; the message has the position.

    Examples
    --------
    >>> parse_json('Here: ```json\n{"a": 1}\n```')
    {'a': 1}
    """
    fenced = CODE_FENCE.findall(text)
    try:
        value: JSON = msgspec.json.decode(fenced[-1] if fenced else text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidJSONError(str(error)) from error
    return value


def json_values_equal(left: JSON, right: JSON) -> bool:
    """Return whether two JSON values are equal. 1 equals 1.0 but not ``true``; key order is ignored.

    Examples
    --------
    >>> json_values_equal({"a": 1, "b": [True]}, {"b": [True], "a": 1.0}), json_values_equal(1, True)
    (True, False)
    """
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_values_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_values_equal, left, right))
    return left == right
