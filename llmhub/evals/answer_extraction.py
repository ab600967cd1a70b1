"""What an answer says: its last number, its letter, its label, its JSON. Pure, and total over texts."""

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
    r"(?:(?P<digits>\d{1,3}(?:[,\u00a0\u202f']\d{3})+(?!\d)|\d+)(?P<rest>\.\d+)?|(?P<part>\.\d+))"
    r"(?P<power>[eE][-+]?\d{1,3}(?!\d))?"
)
"""A number with an optional sign, currency, thousands separators, decimals and power of ten."""


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
"""A letter by itself; A and I are words too."""


def extract_numbers(text: str) -> list[Decimal]:
    """Give the numbers of a text in order: thousands separators, currencies and units are seen through.

    Examples
    --------
    >>> [str(number) for number in extract_numbers("From $1,234.50 down -3 km to .5, 2e3 in all.")]
    ['1234.50', '-3', '0.5', '2E+3']
    """
    return [_number(match) for match in NUMBER.finditer(text)]


def extract_last_number(text: str) -> Decimal | None:
    """Give the last number of a text, which is where an answer ends up.

    Examples
    --------
    >>> extract_last_number("3 + 4 = 7 eggs, so she makes $14.")
    Decimal('14')
    """
    last = deque(NUMBER.finditer(text), maxlen=1)
    return _number(last[0]) if last else None


def _number(match: re.Match[str]) -> Decimal:
    whole = re.sub(r"\D", "", match["digits"] or "0")
    sign = "-" if match["sign"] in {"-", "\u2212"} else ""
    return Decimal(f"{sign}{whole}{match['rest'] or match['part'] or ''}{match['power'] or ''}")


def normalise_text(text: str) -> str:
    """Take away what does not change what is said: case, punctuation, articles, spacing, forms of letters.

    Examples
    --------
    >>> normalise_text("  The Eiffel-Tower! ")
    'eiffel tower'
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(
        " " if each in string.punctuation or unicodedata.category(each)[0] == "P" else each for each in plain
    )
    return " ".join(ARTICLES.sub(" ", kept).split())


def extract_choice(text: str, letters: str = "ABCDE") -> str | None:
    """Give the letter of a multiple choice that an answer settles on, ``None`` where it names none.

    Looked for in turn: the last "answer is X", a boxed letter, a text that begins with "X)" or is nothing else, the
    last "(X)", and a letter by itself.

    Examples
    --------
    >>> extract_choice("Not A. The answer is (C)."), extract_choice("b) because"), extract_choice("I think a lot.")
    ('C', 'B', None)
    """
    plain = text.translate(EMPHASIS_MARKS)
    for pattern in (ANSWER_STATEMENT, BOXED_LETTER, LEADING_LETTER, BRACKETED_LETTER, STANDALONE_LETTER):
        found: list[str] = [next(filter(None, match.groups())) for match in pattern.finditer(plain)]
        # Without brackets, a small letter after "answer is" is a word: "the answer is a lot".
        known = [each.upper() for each in found if each.upper() in letters and not _is_word(pattern, each, plain)]
        if known:
            return known[-1]
    return None


def _is_word(pattern: re.Pattern[str], each: str, text: str) -> bool:
    return pattern is ANSWER_STATEMENT and each.islower() and f"({each})" not in text


def extract_label(text: str, labels: Sequence[str]) -> str | None:
    """Give the label an answer settles on: the one it is, else the only one it names, ``None`` otherwise.

    Examples
    --------
    >>> extract_label("Positive.", ["positive", "negative"]), extract_label("positive or negative", ["positive", "negative"])
    ('positive', None)
    """
    said = normalise_text(text)
    forms = {each: normalise_text(each) for each in labels}
    same = [each for each, form in forms.items() if form == said]
    if same:
        return same[0]
    named = [each for each, form in forms.items() if form and re.search(rf"(?<!\w){re.escape(form)}(?!\w)", said)]
    # Of "very good" and "good", an answer that names the first names the second too.
    longest = [each for each in named if not any(each != other and forms[each] in forms[other] for other in named)]
    return longest[0] if len(longest) == 1 else None


class InvalidJSONError(Exception):  # noqa: N818 - says what the text is
    """A text that holds no JSON."""


def parse_json(text: str) -> JSON:
    r"""Read the JSON that an answer is, or that stands in its last fence.

    Raises
    ------
    NotJSON
        Says where it goes wrong.

    Examples
    --------
    >>> parse_json('Here: ```json\n{"a": 1}\n```')
    {'a': 1}
    """
    fenced = CODE_FENCE.findall(text)
    try:
        found: JSON = msgspec.json.decode(fenced[-1] if fenced else text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as bad:
        raise InvalidJSONError(str(bad)) from bad
    return found


def json_values_equal(left: JSON, right: JSON) -> bool:
    """Say whether two JSON values are equal: 1 is 1.0 but not true, and the order of names does not count.

    Examples
    --------
    >>> json_values_equal({"a": 1, "b": [True]}, {"b": [True], "a": 1.0}), json_values_equal(1, True)
    (True, False)
    """
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_values_equal(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_values_equal, left, right))
    return left == right
