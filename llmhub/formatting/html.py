"""HTML fragments for notebooks, safe for text of any origin.

All text is escaped, cut to a length, isolated in its own direction (``dir="auto"``, ``<bdi>``) and stripped of control
characters by `llmhub.formatting.text`. Styles are inline and of the kind that notebooks keep when they sanitize output;
none sets the colour of text or background, so fragments read on light and dark themes. Write money without ``$`` and
long text in ``<pre>``: notebooks render ``$...$`` as mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from llmhub.formatting.text import MAX_LINE_LENGTH, escape_control_characters, single_line


class Html(str):
    """Markup that is safe to show. Functions of this module escape every string that is not of this type."""

    __slots__ = ()


MAX_TEXT_LENGTH: Final = 4_000
"""Characters of a text that are shown."""
MAX_UNBROKEN_CELL: Final = 40
"""Characters of a name or figure in a table that are kept on one line."""
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
MARKDOWN_STYLE: Final = "overflow-wrap:anywhere;line-height:1.45;max-height:28em;overflow:auto"
MARKDOWN_SIGNS: Final = re.compile(r"(?m)[*_`~|\[]|^ {0,3}(?:#{1,6} |[-+>] |\d{1,9}[.)] )")
"""What Markdown is made of; text without any of it is shown as it is, with its line breaks."""
WEB_LINK: Final = re.compile(r"https?://", re.IGNORECASE)
NO_MATHJAX: Final = "mathjax_ignore tex2jax_ignore"
"""Classes that keep MathJax from interpreting the content."""


def text_block(text: str, max_length: int = MAX_TEXT_LENGTH, style: str = TEXT_STYLE) -> Html:
    """Return a ``<pre>`` with the first ``max_length`` characters of ``text``, and how many were left out.

    Examples
    --------
    >>> "<script>" in text_block("<script>alert(1)</script>"), "5 characters more" in text_block("x" * 10, 5)
    (False, True)
    """
    omitted = len(text) - max_length
    body = escape(escape_control_characters(text[:max_length]))
    note = f'<div style="{DIM_STYLE}">\u2026 {omitted:,} characters more</div>' if omitted > 0 else ""
    return Html(f'<pre dir="auto" class="{NO_MATHJAX}" style="{style}">{body}</pre>{note}')


def markdown_block(text: str, max_length: int = MAX_TEXT_LENGTH) -> Html:
    """Return the first ``max_length`` characters of Markdown as HTML: what models write, safe to show.

    HTML within the text is escaped, images are not loaded, and links other than to the web are left as text. Without
    markdown-it-py, or where the text has no Markdown, this is a `text_block`.

    Examples
    --------
    >>> html = markdown_block("**bold** <script>alert(1)</script> [x](javascript:alert(1))")
    >>> "<strong>bold</strong>" in html, "<script>" in html, "href" in html
    (True, False, False)
    """
    if MARKDOWN_SIGNS.search(text) is None:
        return text_block(text, max_length)
    try:
        from markdown_it import MarkdownIt  # noqa: PLC0415 - part of every notebook, not of every program
    except ImportError:
        return text_block(text, max_length)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.validateLink = WEB_LINK.match  # type: ignore[assignment,method-assign]
    body = parser.render(escape_control_characters(text[:max_length]))
    body = body.replace("<a href=", '<a rel="noopener noreferrer nofollow" target="_blank" href=')
    omitted = len(text) - max_length
    note = f'<div style="{DIM_STYLE}">\u2026 {omitted:,} characters more</div>' if omitted > 0 else ""
    return Html(f'<div dir="auto" class="{NO_MATHJAX}" style="{MARKDOWN_STYLE}">{body}</div>{note}')


def code_block(text: str, max_length: int = MAX_TEXT_LENGTH) -> Html:
    """Return a `text_block` in a monospaced font."""
    return text_block(text, max_length, CODE_STYLE)


def inline_text(text: str, max_length: int = MAX_LINE_LENGTH) -> Html:
    """Return a short text for use within a line, isolated in its own direction."""
    return Html(f'<bdi class="{NO_MATHJAX}">{escape(single_line(text, max_length))}</bdi>')


def facts_line(facts: Iterable[str | Html]) -> Html:
    """Return short facts as one dimmed line, separated by dots; empty ones are left out."""
    content = DOT_SEPARATOR.join(_to_html(fact) for fact in facts if fact)
    return Html(f'<div style="{FACTS_STYLE}">{content}</div>' if content else "")


def collapsible(summary: str, body: Html) -> Html:
    """Return ``body`` folded behind a line that opens it."""
    line = f'<summary style="{DIM_STYLE};cursor:pointer">{inline_text(summary)}</summary>'
    return Html(f'<details style="margin:4px 0">{line}{body}</details>')


def blockquote(*bodies: Html) -> Html:
    """Return fragments set off by a bar on the left."""
    return Html(f'<div style="{QUOTE_STYLE}">{"".join(bodies)}</div>')


def container(*bodies: Html) -> Html:
    """Return fragments joined in the outermost element, which sets the font size and the width."""
    return Html(f'<div style="{CONTAINER_STYLE}">{"".join(bodies)}</div>')


def html_table(header: Sequence[str], rows: Iterable[Sequence[str | Html]], right_aligned: Sequence[int] = ()) -> Html:
    """Return a table; columns whose index is in ``right_aligned`` hold figures.

    Examples
    --------
    >>> "&lt;b&gt;" in html_table(["name", "n"], [["<b>", "1"]], right_aligned=[1])
    True
    """
    aligns = ["right" if index in right_aligned else "left" for index in range(len(header))]
    head = "".join(
        f'<th style="{HEADER_CELL_STYLE};text-align:{align}">{inline_text(name)}</th>'
        for name, align in zip(header, aligns, strict=True)
    )
    body = "".join(f"<tr>{_row_cells(row, aligns)}</tr>" for row in rows)
    return Html(f'<table style="{TABLE_STYLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _row_cells(row: Sequence[str | Html], aligns: Sequence[str]) -> str:
    return "".join(
        f'<td style="{CELL_STYLE};text-align:{align}{_wrapping(cell, align)}">{_to_html(cell)}</td>'
        for cell, align in zip(row, aligns, strict=True)
    )


def _wrapping(cell: str | Html, align: str) -> str:
    """Return the style that keeps a name, or a figure and its unit, on one line."""
    is_short = not isinstance(cell, Html) and len(cell) <= MAX_UNBROKEN_CELL
    is_unit = align == "right" and "(" not in cell
    return ";white-space:nowrap" if is_short and (is_unit or " " not in cell) else ""


def _to_html(content: str | Html) -> Html:
    return content if isinstance(content, Html) else inline_text(content)
