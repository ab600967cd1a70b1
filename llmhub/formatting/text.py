"""What a person is shown: text of whatever origin as harmless HTML, and as a line for a terminal. Pure.

What a model wrote is escaped, cut to a length, kept to its own direction, and its control characters are made visible:
it can neither run, nor colour a terminal, nor turn the text around it. Styles are inline and of the kind that
notebooks let through when they clean what they show; nothing sets the colour of text or ground, so it reads on light
and dark themes alike. Text stands in ``<pre>``, and money without a dollar sign, since notebooks take dollars for
mathematics.

How numbers and names are written where there is little room: money, durations, counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MAX_TEXT_LENGTH: Final = 4_000
"""Characters of a text that are shown."""


MAX_LINE_LENGTH: Final = 160
"""Characters of a text in a line."""


BIDI_OVERRIDES: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the text after them around."""


BIDI_MARKS: Final = "\u061c\u200e\u200f"
"""Marks of a direction: harmless where a text is kept to itself, as in HTML, and not in a terminal."""


CONTROL_NAMES: Final = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI",
    "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)  # fmt: skip
"""Names of the control characters of ASCII, which every font can write."""


def _bracketed(name: str) -> str:
    return f"\u2039{name}\u203a"


_VISIBLE_CONTROLS: Final[Mapping[int, str]] = {
    **{code: _bracketed(name) for code, name in enumerate(CONTROL_NAMES) if name not in {"LF", "HT"}},
    0x7F: _bracketed("DEL"),
    **{code: _bracketed(f"{code:02X}") for code in (*range(0x80, 0xA0), 0x2028, 0x2029, 0xFEFF)},
    **{ord(one): _bracketed(f"{ord(one):04X}") for one in BIDI_OVERRIDES},
}


_VISIBLE_IN_LINE: Final[Mapping[int, str]] = {
    **_VISIBLE_CONTROLS,
    ord("\n"): "\u23ce",
    ord("\t"): " ",
    **{ord(one): _bracketed(f"{ord(one):04X}") for one in BIDI_MARKS},
}


def escape_control_characters(text: str) -> str:
    r"""Make control characters visible, and text that is none of any encoding readable; line ends and tabs stay.

    Law: what comes out has no control character but line end and tab, nothing that turns text around, and bytes.

    Examples
    --------
    >>> escape_control_characters("\x1b[31mred\x1b[0m").translate({0x2039: "<", 0x203A: ">"})
    '<ESC>[31mred<ESC>[0m'
    >>> escape_control_characters("\u202eevil") == "\u2039202E\u203aevil"
    True
    """
    plain = text.replace("\r\n", "\n").translate(_VISIBLE_CONTROLS)
    return plain.encode("utf-8", "replace").decode() if not _encodable(plain) else plain


def single_line(text: str, max_length: int = MAX_LINE_LENGTH) -> str:
    r"""Give a text as one line of a terminal, cut to a length; nothing in it can colour, ring or move.

    Examples
    --------
    >>> single_line("one\ntwo"), single_line("x" * 500, 5)
    ('one⏎two', 'xxxx…')
    """
    short = text[:max_length].translate(_VISIBLE_IN_LINE)
    short = short.encode("utf-8", "replace").decode() if not _encodable(short) else short
    return short if len(text) <= max_length else f"{short[: max_length - 1]}\u2026"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def truncate_middle(text: str, max_length: int) -> str:
    """Take characters out of the middle, where a name's are told apart least.

    Examples
    --------
    >>> truncate_middle("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", 24)
    'bedrock/us.…0250929-v1:0'
    """
    if len(text) <= max_length:
        return text
    head = max(max_length - 1, 2) // 2
    return f"{text[:head]}…{text[-(max(max_length, 3) - 1 - head) :]}"
