"""How many tokens a text will be, by its looks: no vocabulary, a few microseconds a prompt.

Every character is put into a class, and the counts of classes and of a few pairs of neighbours are weighed.
The weights were fitted to OpenAI's o200k vocabulary (2026-11-22). On texts of 50 to 400 characters, bias and
the error that 19 of 20 texts stay below: English questions 1 and 13 %, Markdown 1 and 22 %, source code 2 and
27 %, JSON 7 and 23 %, Chinese 0 and 15 %; eighteen other languages within 20 and 33 %.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

LOWER, UPPER, DIGIT, BLANK, BREAK, MARK = b"a", b"A", b"0", b" ", b"n", b"."


LATIN, SCRIPT, ABUGIDA, IDEOGRAPH, HANGUL, PICTURE = b"l", b"g", b"y", b"c", b"k", b"m"


def _character_class(byte: int) -> bytes:
    """Give the class of the character whose UTF-8 begins with ``byte``."""
    if byte < 0x80:  # noqa: PLR2004 - ASCII ends here
        sign = chr(byte)
        kinds = ((sign.islower(), LOWER), (sign.isupper(), UPPER), (sign.isdigit(), DIGIT))
        blank = ((sign in " \t", BLANK), (sign in "\r\n", BREAK))
        return next((kind for holds, kind in (*kinds, *blank) if holds), MARK)
    bounds = (
        (0xC3, MARK),
        (0xCA, LATIN),
        (0xE0, SCRIPT),
        (0xE2, ABUGIDA),
        (0xE3, MARK),
        (0xEA, IDEOGRAPH),
        (0xEE, HANGUL),
        (0x100, PICTURE),
    )
    return next(kind for bound, kind in bounds if byte < bound)


CLASS_OF_BYTE: Final = b"".join(_character_class(byte) for byte in range(256))


CONTINUATIONS: Final = bytes(range(0x80, 0xC0))


NON_ASCII_WEIGHTS: Final = ((LATIN, 100), (SCRIPT, 26), (ABUGIDA, 31), (IDEOGRAPH, 75), (HANGUL, 60), (PICTURE, 200))
"""Hundredths of a token for a character outside ASCII."""


@lru_cache(maxsize=16)
def estimate_tokens(text: str) -> int:
    """Estimate how many tokens ``text`` is: at least one for a text, none for an empty one.

    Examples
    --------
    >>> estimate_tokens("Janet sells 16 eggs at the farmers' market every day.")
    13
    >>> estimate_tokens("")
    0
    """
    seen = text.encode("utf-8", "replace").translate(CLASS_OF_BYTE, CONTINUATIONS)
    count = seen.count
    lower, upper, digits = count(LOWER), count(UPPER), count(DIGIT)
    blanks, breaks, marks = count(BLANK), count(BREAK), count(MARK)
    # Hundredths of a token. A pair of blanks or marks takes off what its two members put on: a run is one token.
    total = 12 * lower + 17 * upper + 60 * blanks + 40 * breaks + 85 * marks
    total += 64 * count(b".a") + 137 * count(b"aA") - 110 * count(b"  ") - 150 * count(b"..")
    if digits:
        total += 100 * digits - 100 * count(b"00") - 60 * count(b"000")
    if len(seen) > lower + upper + digits + blanks + breaks + marks:
        total += sum([weight * count(kind) for kind, weight in NON_ASCII_WEIGHTS])
    return max((total + 50) // 100, 1 if seen else 0)
