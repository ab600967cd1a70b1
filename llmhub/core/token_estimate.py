"""Estimate the tokens of a text from its characters: no vocabulary, a few microseconds per prompt.

Each character is assigned a class; the counts of classes and of a few pairs of neighbours are weighted. The weights
were fitted to OpenAI's o200k vocabulary (2026-11-22). Bias and the 95th percentile of the error on texts of 50 to 400
characters: English questions 1 and 13 %, Markdown 1 and 22 %, source code 2 and 27 %, JSON 7 and 23 %, Chinese 0 and
15 %; eighteen other languages at most 20 and 33 %.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

LOWER, UPPER, DIGIT, BLANK, BREAK, MARK = b"a", b"A", b"0", b" ", b"n", b"."
LATIN, SCRIPT, ABUGIDA, IDEOGRAPH, HANGUL, PICTURE = b"l", b"g", b"y", b"c", b"k", b"m"


def _character_class(byte: int) -> bytes:
    """Return the class of the characters whose first UTF-8 byte is ``byte``."""
    if byte < 0x80:  # noqa: PLR2004 - ASCII
        character = chr(byte)
        classes = (
            (character.islower(), LOWER),
            (character.isupper(), UPPER),
            (character.isdigit(), DIGIT),
            (character in " \t", BLANK),
            (character in "\r\n", BREAK),
        )
        return next((class_ for applies, class_ in classes if applies), MARK)
    upper_bounds = (
        (0xC3, MARK),
        (0xCA, LATIN),
        (0xE0, SCRIPT),
        (0xE2, ABUGIDA),
        (0xE3, MARK),
        (0xEA, IDEOGRAPH),
        (0xEE, HANGUL),
        (0x100, PICTURE),
    )
    return next(class_ for bound, class_ in upper_bounds if byte < bound)


CLASS_OF_BYTE: Final = b"".join(_character_class(byte) for byte in range(256))
CONTINUATIONS: Final = bytes(range(0x80, 0xC0))
"""Bytes that continue a UTF-8 character."""

NON_ASCII_WEIGHTS: Final = ((LATIN, 100), (SCRIPT, 26), (ABUGIDA, 31), (IDEOGRAPH, 75), (HANGUL, 60), (PICTURE, 200))
"""Hundredths of a token per character of each class outside ASCII."""


@lru_cache(maxsize=16)
def estimate_tokens(text: str) -> int:
    """Return the estimated number of tokens of ``text``: 0 if it is empty, otherwise at least 1.

    Examples
    --------
    >>> estimate_tokens("Janet sells 16 eggs at the farmers' market every day.")
    13
    >>> estimate_tokens("")
    0
    """
    classes = text.encode("utf-8", "replace").translate(CLASS_OF_BYTE, CONTINUATIONS)
    count = classes.count
    lower, upper, digits = count(LOWER), count(UPPER), count(DIGIT)
    blanks, breaks, marks = count(BLANK), count(BREAK), count(MARK)
    # In hundredths of a token. A pair of blanks or marks subtracts what its two members add, since a run is one token.
    total = 12 * lower + 17 * upper + 60 * blanks + 40 * breaks + 85 * marks
    total += 64 * count(b".a") + 137 * count(b"aA") - 110 * count(b"  ") - 150 * count(b"..")
    if digits:
        total += 100 * digits - 100 * count(b"00") - 60 * count(b"000")
    if len(classes) > lower + upper + digits + blanks + breaks + marks:
        total += sum([weight * count(class_) for class_, weight in NON_ASCII_WEIGHTS])
    return max((total + 50) // 100, 1 if classes else 0)
