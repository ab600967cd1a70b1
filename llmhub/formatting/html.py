"""What a person is shown: text of whatever origin as harmless HTML, and as a line for a terminal. Pure.

What a model wrote is escaped, cut to a length, kept to its own direction, and its control characters are made visible:
it can neither run, nor colour a terminal, nor turn the text around it. Styles are inline and of the kind that
notebooks let through when they clean what they show; nothing sets the colour of text or ground, so it reads on light
and dark themes alike. Text stands in ``<pre>``, and money without a dollar sign, since notebooks take dollars for
mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from llmhub.formatting.text import MAX_LINE_LENGTH, MAX_TEXT_LENGTH, escape_control_characters, single_line


class Html(str):
    """Markup that is safe to show; any text that is not of this kind is escaped."""

    __slots__ = ()


CONTAINER_STYLE: Final = "font-size:13px;line-height:1.5;max-width:96em;text-align:left"


TEXT_STYLE: Final = (
    "white-space:pre-wrap;overflow-wrap:anywhere;word-break:break-word;font-family:inherit;font-size:inherit;"
    "line-height:1.45;margin:0;padding:0;background:none;border:none;max-height:28em;overflow:auto"
)


CODE_STYLE: Final = TEXT_STYLE.replace("font-family:inherit", "font-family:monospace")


QUOTE_STYLE: Final = "border-left:3px solid rgba(128,128,128,0.45);padding:2px 0 2px 12px;margin:4px 0"


DIM_STYLE: Final = "opacity:0.72"


FACTS_STYLE: Final = f"{DIM_STYLE};font-variant-numeric:tabular-nums;margin-top:4px"


TABLE_STYLE: Final = "border-collapse:collapse;margin:4px 0;font-size:13px;font-variant-numeric:tabular-nums"


HEADER_CELL_STYLE: Final = (
    "padding:3px 12px 3px 0;border-bottom:1px solid rgba(128,128,128,0.6);font-weight:600;vertical-align:bottom"
)


CELL_STYLE: Final = "padding:3px 12px 3px 0;border-bottom:1px solid rgba(128,128,128,0.22);vertical-align:top"


DOT_SEPARATOR: Final = " \u00b7 "


NO_MATHJAX: Final = "mathjax_ignore tex2jax_ignore"
"""Classes that keep mathematics out."""


def text_block(text: str, max_length: int = MAX_TEXT_LENGTH, style: str = TEXT_STYLE) -> Html:
    """Show a text as it was written, to a length.

    Examples
    --------
    >>> "<script>" in text_block("<script>alert(1)</script>"), "5 characters more" in text_block("x" * 10, 5)
    (False, True)
    """
    rest = len(text) - max_length
    body = escape(escape_control_characters(text[:max_length]))
    more = f'<div style="{DIM_STYLE}">\u2026 {rest:,} characters more</div>' if rest > 0 else ""
    return Html(f'<pre dir="auto" class="{NO_MATHJAX}" style="{style}">{body}</pre>{more}')


def code_block(text: str, max_length: int = MAX_TEXT_LENGTH) -> Html:
    """Show a text in letters of one width."""
    return text_block(text, max_length, CODE_STYLE)


def inline_text(text: str, max_length: int = MAX_LINE_LENGTH) -> Html:
    """Show a short text within a line, kept to its own direction."""
    return Html(f'<bdi class="{NO_MATHJAX}">{escape(single_line(text, max_length))}</bdi>')


def facts_line(items: Iterable[str | Html]) -> Html:
    """Show small facts in a line below."""
    shown = DOT_SEPARATOR.join(_inline_cell(word) for word in items if word)
    return Html(f'<div style="{FACTS_STYLE}">{shown}</div>' if shown else "")


def collapsible(summary: str, body: Html) -> Html:
    """Hide something behind a line that opens it."""
    line = f'<summary style="{DIM_STYLE};cursor:pointer">{inline_text(summary)}</summary>'
    return Html(f'<details style="margin:4px 0">{line}{body}</details>')


def blockquote(*bodies: Html) -> Html:
    """Set something off from what is around it."""
    return Html(f'<div style="{QUOTE_STYLE}">{"".join(bodies)}</div>')


def container(*bodies: Html) -> Html:
    """Put pieces together as one thing to show."""
    return Html(f'<div style="{CONTAINER_STYLE}">{"".join(bodies)}</div>')


def html_table(header: Sequence[str], rows: Iterable[Sequence[str | Html]], right_aligned: Sequence[int] = ()) -> Html:
    """Show a table; columns whose place is among ``right_aligned`` are set to the right.

    Examples
    --------
    >>> "&lt;b&gt;" in html_table(["name", "n"], [["<b>", "1"]], figures=[1])
    True
    """
    side = ["right" if at in right_aligned else "left" for at in range(len(header))]
    top = "".join(
        f'<th style="{HEADER_CELL_STYLE};text-align:{way}">{inline_text(name)}</th>'
        for name, way in zip(header, side, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{CELL_STYLE};text-align:{way}">{_inline_cell(cell)}</td>'
            for cell, way in zip(row, side, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return Html(f'<table style="{TABLE_STYLE}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>')


def _inline_cell(cell: str | Html) -> Html:
    return cell if isinstance(cell, Html) else inline_text(cell)
