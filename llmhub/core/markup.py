"""What a person is shown: text of whatever origin as harmless HTML, and as a line for a terminal. Pure.

What a model wrote is escaped, cut to a length, kept to its own direction, and its control characters are made visible:
it can neither run, nor colour a terminal, nor turn the text around it. Styles are inline and of the kind that
notebooks let through when they clean what they show; nothing sets the colour of text or ground, so it reads on light
and dark themes alike. Text stands in ``<pre>``, and money without a dollar sign, since notebooks take dollars for
mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final


class Html(str):
    """Markup that is safe to show; any text that is not of this kind is escaped."""

    __slots__ = ()


LONGEST: Final = 4_000
"""Characters of a text that are shown."""
LINE: Final = 160
"""Characters of a text in a line."""
OVERRIDES: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the text after them around."""
MARKS: Final = "\u061c\u200e\u200f"
"""Marks of a direction: harmless where a text is kept to itself, as in HTML, and not in a terminal."""
NAMES: Final = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI",
    "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)  # fmt: skip
"""Names of the control characters of ASCII, which every font can write."""


def _marked(name: str) -> str:
    return f"\u2039{name}\u203a"


_SEEN: Final[Mapping[int, str]] = {
    **{code: _marked(name) for code, name in enumerate(NAMES) if name not in {"LF", "HT"}},
    0x7F: _marked("DEL"),
    **{code: _marked(f"{code:02X}") for code in (*range(0x80, 0xA0), 0x2028, 0x2029, 0xFEFF)},
    **{ord(one): _marked(f"{ord(one):04X}") for one in OVERRIDES},
}
_LINE: Final[Mapping[int, str]] = {
    **_SEEN,
    ord("\n"): "\u23ce",
    ord("\t"): " ",
    **{ord(one): _marked(f"{ord(one):04X}") for one in MARKS},
}

WHOLE: Final = "font-size:13px;line-height:1.5;max-width:96em;text-align:left"
TEXT: Final = (
    "white-space:pre-wrap;overflow-wrap:anywhere;word-break:break-word;font-family:inherit;font-size:inherit;"
    "line-height:1.45;margin:0;padding:0;background:none;border:none;max-height:28em;overflow:auto"
)
CODE: Final = TEXT.replace("font-family:inherit", "font-family:monospace")
QUOTE: Final = "border-left:3px solid rgba(128,128,128,0.45);padding:2px 0 2px 12px;margin:4px 0"
DIM: Final = "opacity:0.72"
FACTS: Final = f"{DIM};font-variant-numeric:tabular-nums;margin-top:4px"
TABLE: Final = "border-collapse:collapse;margin:4px 0;font-size:13px;font-variant-numeric:tabular-nums"
HEAD: Final = (
    "padding:3px 12px 3px 0;border-bottom:1px solid rgba(128,128,128,0.6);font-weight:600;vertical-align:bottom"
)
CELL: Final = "padding:3px 12px 3px 0;border-bottom:1px solid rgba(128,128,128,0.22);vertical-align:top"
DOT: Final = " \u00b7 "
AWAY: Final = "mathjax_ignore tex2jax_ignore"
"""Classes that keep mathematics out."""


def visible(text: str) -> str:
    r"""Make control characters visible, and text that is none of any encoding readable; line ends and tabs stay.

    Law: what comes out has no control character but line end and tab, nothing that turns text around, and bytes.

    Examples
    --------
    >>> visible("\x1b[31mred\x1b[0m").translate({0x2039: "<", 0x203A: ">"})
    '<ESC>[31mred<ESC>[0m'
    >>> visible("\u202eevil") == "\u2039202E\u203aevil"
    True
    """
    plain = text.replace("\r\n", "\n").translate(_SEEN)
    return plain.encode("utf-8", "replace").decode() if not _encodable(plain) else plain


def line_of(text: str, most: int = LINE) -> str:
    r"""Give a text as one line of a terminal, cut to a length; nothing in it can colour, ring or move.

    Examples
    --------
    >>> line_of("one\ntwo"), line_of("x" * 500, 5)
    ('one⏎two', 'xxxx…')
    """
    short = text[:most].translate(_LINE)
    short = short.encode("utf-8", "replace").decode() if not _encodable(short) else short
    return short if len(text) <= most else f"{short[: most - 1]}\u2026"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def said(text: str, most: int = LONGEST, style: str = TEXT) -> Html:
    """Show a text as it was written, to a length.

    Examples
    --------
    >>> "<script>" in said("<script>alert(1)</script>"), "5 characters more" in said("x" * 10, 5)
    (False, True)
    """
    rest = len(text) - most
    body = escape(visible(text[:most]))
    more = f'<div style="{DIM}">\u2026 {rest:,} characters more</div>' if rest > 0 else ""
    return Html(f'<pre dir="auto" class="{AWAY}" style="{style}">{body}</pre>{more}')


def code(text: str, most: int = LONGEST) -> Html:
    """Show a text in letters of one width."""
    return said(text, most, CODE)


def inline(text: str, most: int = LINE) -> Html:
    """Show a short text within a line, kept to its own direction."""
    return Html(f'<bdi class="{AWAY}">{escape(line_of(text, most))}</bdi>')


def facts(words: Iterable[str | Html]) -> Html:
    """Show small facts in a line below."""
    shown = DOT.join(_cell(word) for word in words if word)
    return Html(f'<div style="{FACTS}">{shown}</div>' if shown else "")


def folded(summary: str, body: Html) -> Html:
    """Hide something behind a line that opens it."""
    line = f'<summary style="{DIM};cursor:pointer">{inline(summary)}</summary>'
    return Html(f'<details style="margin:4px 0">{line}{body}</details>')


def quote(*bodies: Html) -> Html:
    """Set something off from what is around it."""
    return Html(f'<div style="{QUOTE}">{"".join(bodies)}</div>')


def whole(*bodies: Html) -> Html:
    """Put pieces together as one thing to show."""
    return Html(f'<div style="{WHOLE}">{"".join(bodies)}</div>')


def grid(head: Sequence[str], rows: Iterable[Sequence[str | Html]], figures: Sequence[int] = ()) -> Html:
    """Show a table; columns whose place is among ``figures`` are set to the right.

    Examples
    --------
    >>> "&lt;b&gt;" in grid(["name", "n"], [["<b>", "1"]], figures=[1])
    True
    """
    side = ["right" if at in figures else "left" for at in range(len(head))]
    top = "".join(
        f'<th style="{HEAD};text-align:{way}">{inline(name)}</th>' for name, way in zip(head, side, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{CELL};text-align:{way}">{_cell(cell)}</td>' for cell, way in zip(row, side, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return Html(f'<table style="{TABLE}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>')


def _cell(cell: str | Html) -> Html:
    return cell if isinstance(cell, Html) else inline(cell)
