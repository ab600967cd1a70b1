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
_LETTER: Final = r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?![\w'\u2019]))"
ANSWER_STATEMENT: Final = re.compile(
    r"\b(?:answers?|choice|option|correct|solution|select|choose|pick)\b(?:\s+(?:one|answer|choice|option))?"
    rf"(?:\s+(?:is|was|would\s+be|should\s+be|must\s+be))?\s*[:=\-]?\s*(?:(?:option|choice|letter|answer)\s+)?{_LETTER}",
    re.IGNORECASE,
)
BOXED_LETTER: Final = re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-Za-z])\)?\}?\s*\}")
LEADING_LETTER: Final = re.compile(r"^\s*[(\[]?([A-Za-z])(?:[)\].:]|\s*$)")
LAST_LINE_LETTER: Final = re.compile(r"\n\s*[(\[]?([A-Za-z])[)\].:]?\s*$")
IS_CORRECT: Final = re.compile(
    r"(?<![\w'\u2019])(?:\(([A-Za-z])\)|([A-Z]))\s+(?:is|seems|looks)\s+(?:the\s+)?(?:correct|right|best|true|answer)\b"
)
BRACKETED_LETTER: Final = re.compile(r"[(\[]([A-Z])[)\]]")
STANDALONE_LETTER: Final = re.compile(r"(?<![\w'\u2019])([A-Z])(?![\w'\u2019])")
"""A capital letter on its own. A and I are also English words, and count only where they cannot be one."""
WORD_LETTERS: Final = frozenset("AI")
WORD_FOLLOWS: Final = re.compile(r"\s+[a-z]")
"""What follows the article "A" or the pronoun "I"; a letter is followed by punctuation, a number or nothing."""
FINAL_ANSWER: Final = re.compile(
    r"^\W*(?:the\s+)?(?:final\s+)?answer[*_]*\s*(?:is\b|[:=])[\s:=*_]*(.+)$", re.IGNORECASE | re.MULTILINE
)
"""A line that states the answer, as the tasks ask for."""
GSM8K_ANSWER: Final = re.compile(r"####\s*(.+)")
BOXED: Final = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
LATEX_FRACTION: Final = re.compile(r"(-?)\\[dt]?frac\{\s*(-?\d+)\s*\}\{\s*(-?\d+)\s*\}")
FRACTION: Final = re.compile(r"(?<![\w./])([-\u2212]?\d+)\s*/\s*(\d+)(?![\w/]|\.\d)")


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


def extract_answer_number(text: str) -> Decimal | None:
    r"""Return the number that a response states as its answer; without such a statement, its last number.

    A statement is the last ``\boxed{...}``, ``#### ...`` or line "Answer: ..."; the first number in it counts, so that
    a remark after the answer does not. Fractions are numbers: "3/2" is 1.5.

    Examples
    --------
    >>> extract_answer_number("Answer: 18 (over 7 days)"), extract_answer_number("2 + 3 = 5")
    (Decimal('18'), Decimal('5'))
    >>> extract_answer_number("It is 3/2."), extract_answer_number(r"\boxed{\frac{1}{4}}")
    (Decimal('1.5'), Decimal('0.25'))
    """
    stated = [match for pattern in (BOXED, GSM8K_ANSWER, FINAL_ANSWER) for match in pattern.finditer(text)]
    for match in sorted(stated, key=lambda match: match.start(), reverse=True):
        numbers = _numbers_and_fractions(match.group(1))
        if numbers:
            # "Answer: 3 + 4 = 7" states the sum.
            return numbers[-1] if "=" in match.group(1) else numbers[0]
    numbers = _numbers_and_fractions(text)
    return numbers[-1] if numbers else None


def _numbers_and_fractions(text: str) -> list[Decimal]:
    """Return the numbers in a text, in order; a fraction of whole numbers is one number."""
    plain = LATEX_FRACTION.sub(r"\1\2/\3", text).translate(EMPHASIS_MARKS)
    found: list[tuple[int, Decimal]] = []
    covered: list[tuple[int, int]] = []
    for match in FRACTION.finditer(plain):
        denominator = Decimal(match[2])
        if denominator:
            found.append((match.start(), Decimal(match[1].replace("\u2212", "-")) / denominator))
            covered.append(match.span())
    found += [
        (match.start(), _to_decimal(match))
        for match in NUMBER.finditer(plain)
        if not any(start <= match.start() < end for start, end in covered)
    ]
    return [number for _, number in sorted(found, key=lambda pair: pair[0])]


def extract_choice(text: str, letters: str = "ABCDE") -> str | None:
    """Return the letter a response to a multiple-choice question settles on, or ``None``.

    Tried in order: a boxed letter, the last "answer is X" or "X is correct", a text or last line that is only a
    letter, a leading "X)", the last "(X)", a letter on its own. Every letter is found in the same phrasings; A and I
    count as words where a lower-case word follows.

    Examples
    --------
    >>> extract_choice("Not A. The answer is (C)."), extract_choice("b) because"), extract_choice("I think a lot.")
    ('C', 'B', None)
    >>> extract_choice("Correct: A"), extract_choice("Answer: b"), extract_choice("A dog barks.")
    ('A', 'B', None)
    """
    plain = text.translate(EMPHASIS_MARKS)
    statements = sorted(
        (
            (match.start(), pattern, match)
            for pattern in (ANSWER_STATEMENT, IS_CORRECT)
            for match in pattern.finditer(plain)
        ),
        key=lambda found: found[0],
    )
    groups = (
        [(BOXED_LETTER, match) for match in BOXED_LETTER.finditer(plain)],
        [(pattern, match) for _, pattern, match in statements],
        *(
            [(pattern, match) for match in pattern.finditer(plain)]
            for pattern in (LAST_LINE_LETTER, LEADING_LETTER, BRACKETED_LETTER, STANDALONE_LETTER)
        ),
    )
    for matches in groups:
        valid: list[str] = [
            letter.upper()
            for pattern, match in matches
            if (letter := next(filter(None, match.groups()))).upper() in letters and not _is_word(pattern, match, plain)
        ]
        if valid:
            return valid[-1]
    return None


def _is_word(pattern: re.Pattern[str], match: re.Match[str], text: str) -> bool:
    """Return whether a matched letter is rather a word: "the answer is a lot", "I think"."""
    if pattern not in {ANSWER_STATEMENT, STANDALONE_LETTER}:
        return False
    letter = next(filter(None, match.groups()))
    if text[match.end() - 1] in ")]":
        return False
    is_followed_by_word = WORD_FOLLOWS.match(text, match.end()) is not None
    if pattern is STANDALONE_LETTER:
        return letter in WORD_LETTERS and is_followed_by_word
    return is_followed_by_word and (letter.islower() or (letter in WORD_LETTERS and not _continues(text, match.end())))


def _continues(text: str, end: int) -> bool:
    """Return whether a clause continues after a letter: "the answer is A because"."""
    return re.match(r"\s+(?:because|since|as|for|and|or|with|which|but|not|rather|is|in)\b", text[end:]) is not None


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
