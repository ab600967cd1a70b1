r"""Plain text of any origin, made safe for one line of a terminal or for HTML.

A model's output is untrusted: control characters can colour a terminal, ring its bell or move its cursor, and Unicode
direction overrides can reorder the text around them. These functions replace such characters by visible names in angle
quotation marks. They do not escape HTML; `llmhub.formatting.html` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MAX_LINE_LENGTH: Final = 160
"""Characters of a text that `single_line` keeps."""
BIDI_OVERRIDES: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of the text after them."""
BIDI_MARKS: Final = "\u061c\u200e\u200f"
"""Direction marks: harmless in HTML, where each text is isolated, but not in a terminal."""
CONTROL_NAMES: Final = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI",
    "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)  # fmt: skip
"""Names of the ASCII control characters; unlike control pictures, every font can show them."""


def _bracketed(name: str) -> str:
    return f"\u2039{name}\u203a"


_VISIBLE_CONTROLS: Final[Mapping[int, str]] = {
    **{code: _bracketed(name) for code, name in enumerate(CONTROL_NAMES) if name not in {"LF", "HT"}},
    0x7F: _bracketed("DEL"),
    **{code: _bracketed(f"{code:02X}") for code in (*range(0x80, 0xA0), 0x2028, 0x2029, 0xFEFF)},
    **{ord(character): _bracketed(f"{ord(character):04X}") for character in BIDI_OVERRIDES},
}
_VISIBLE_IN_LINE: Final[Mapping[int, str]] = {
    **_VISIBLE_CONTROLS,
    ord("\n"): "\u23ce",
    ord("\t"): " ",
    **{ord(character): _bracketed(f"{ord(character):04X}") for character in BIDI_MARKS},
}


def escape_control_characters(text: str) -> str:
    r"""Replace control characters by visible names and unencodable characters by ``?``; keep line ends and tabs.

    Law: the result can be encoded as UTF-8 and has no control character except ``\n`` and ``\t`` and no direction
    override.

    Examples
    --------
    >>> escape_control_characters("\x1b[31mred\x1b[0m").translate({0x2039: "<", 0x203A: ">"})
    '<ESC>[31mred<ESC>[0m'
    >>> escape_control_characters("\u202eevil") == "\u2039202E\u203aevil"
    True
    """
    return _encodable(text.replace("\r\n", "\n").translate(_VISIBLE_CONTROLS))


def single_line(text: str, max_length: int = MAX_LINE_LENGTH) -> str:
    r"""Return ``text`` as one line for a terminal, control characters replaced, cut to ``max_length`` characters.

    Examples
    --------
    >>> single_line("one\ntwo"), single_line("x" * 500, 5)
    ('one⏎two', 'xxxx…')
    """
    line = _encodable(text[:max_length].translate(_VISIBLE_IN_LINE))
    return line if len(text) <= max_length else f"{line[: max_length - 1]}\u2026"


def _encodable(text: str) -> str:
    """Replace characters that UTF-8 cannot encode (half of a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def truncate_middle(text: str, max_length: int) -> str:
    """Cut characters out of the middle of a name; models are told apart by the beginning and the end of theirs.

    Examples
    --------
    >>> truncate_middle("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", 24)
    'bedrock/us.…0250929-v1:0'
    """
    if len(text) <= max_length:
        return text
    head = max(max_length - 1, 2) // 2
    return f"{text[:head]}…{text[-(max(max_length, 3) - 1 - head) :]}"
