"""A results table for a person to look at: what it came to, model by model, and some of its rows.

A frame stays a frame; this is what `show` gives beside it. However many rows there are, only a few are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.formatting import html as html_module
from llmhub.formatting import text as text_module
from llmhub.formatting.html import Html
from llmhub.formatting.numbers import format_duration
from llmhub.plots.model_summary import ModelSummary, count_summary, summarize_models
from llmhub.tables import frames
from llmhub.tables.schema import RESULTS

DEFAULT_ROWS: Final = 10
"""Rows that are shown unless more are asked for."""
MAX_ROWS: Final = 1_000
"""Rows that are shown however many are asked for."""
MAX_CHARS: Final = 400
"""Characters of an answer that are shown in a row; the rest is folded away."""
MAX_INPUT_COLUMNS: Final = 4
"""The caller's own columns that are shown unless they are named."""
MAX_MODELS: Final = 24
"""Models with a line of their own."""


@dataclass(frozen=True, slots=True)
class ResultsView:
    """Results as they are shown: as HTML in a notebook, as text on a terminal."""

    html: Html
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Give the text."""
        return self.text


def show(
    result: Any, *, rows: int = DEFAULT_ROWS, columns: Sequence[str] | None = None, prefix: str = ""
) -> ResultsView:
    """Show a frame of results: totals, a line for each model, and the first rows with their answers.

    Parameters
    ----------
    result
        What `complete_table` or ``df.llm.complete`` gave.
    rows
        How many rows to show, at most 1,000.
    columns
        Which of the caller's own columns stand beside the answers; the first four unless given.
    prefix
        What stands before the names of the result columns.

    Returns
    -------
    Shown
        Its display in a notebook is HTML in which nothing of what a model wrote can act; its ``repr`` is plain text.

    Raises
    ------
    InvalidRequestError
        It is no frame of results, or there is no such column.

    Examples
    --------
    >>> show(RESULTS.empty_table())
    0 rows
    """
    frame = frames.native_frame(result)
    names = frames.column_names(frame)
    _expect(names, [prefix + name for name in NEEDED], prefix)
    own = [name for name in names if name not in {prefix + one for one in RESULTS.names}]
    if columns is not None:
        _expect(names, list(columns), "")
    tallies = summarize_models(_results(frame, names, prefix))
    lines = _lines(
        frame,
        names,
        _Selection(min(rows, MAX_ROWS), list(columns) if columns is not None else own[:MAX_INPUT_COLUMNS], prefix),
    )
    return ResultsView(_html(tallies, lines), _text(tallies, lines))


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which rows and columns are to be seen."""

    rows: int
    own: list[str]
    prefix: str


@dataclass(frozen=True, slots=True)
class _ResultRow:
    """One row: its label, the caller's values, and what came of it."""

    label: str
    own: dict[str, str]
    said: dict[str, Any]


NEEDED: Final = ("row", "provider", "model", "status", "response", "error")
"""Result columns without which there is nothing to show."""
LARGE: Final = frozenset({"response", "parsed", "tool_calls", "error", "request_key", "dropped_params"})
"""Result columns that no sum is made of."""


def _results(frame: Any, names: list[str], prefix: str) -> pa.Table:
    """Take the result columns by their own names; one that is not there is empty."""
    kind, columns = frames.backend_of(frame), {}
    for field in RESULTS:
        if field.name not in LARGE:
            there = prefix + field.name in names
            columns[field.name] = (
                kind.arrow_column(frame, names.index(prefix + field.name))
                if there
                else pa.nulls(len(frame), field.type)
            )
    return pa.table(columns)


def _lines(frame: Any, names: list[str], wanted: _Selection) -> list[_ResultRow]:
    kind = frames.backend_of(frame)
    total = len(frame)
    some = kind.take_rows(frame, np.arange(min(total, max(wanted.rows, 0))))
    labels = [str(one) for one in some.index] if hasattr(some, "index") and hasattr(some, "iloc") else None
    held = {
        name: kind.arrow_column(some, names.index(wanted.prefix + name)).to_pylist()
        if wanted.prefix + name in names
        else [None] * len(some)
        for name in SHOWN
    }
    own = {name: _plain(kind, some, names.index(name)) for name in wanted.own}
    count = len(some)
    return [
        _ResultRow(
            labels[at] if labels else str(at),
            {name: values[at] for name, values in own.items()},
            {name: values[at] for name, values in held.items()},
        )
        for at in range(count)
    ]


SHOWN: Final = (
    "row",
    "provider",
    "model",
    "status",
    "response",
    "error_type",
    "error",
    "latency_s",
    "cost_usd",
    "cache_hit",
)
"""Result columns that a row shows something of."""


def _plain(backend: frames.FrameBackend, frame: Any, at: int) -> list[str]:
    """Give a column of the caller's as short texts, whatever it holds."""
    try:
        values = backend.arrow_column(frame, at).to_pylist()
    except (pa.ArrowException, OverflowError):
        values = frame.iloc[:, at].tolist()
    return ["" if value is None else str(value)[: MAX_CHARS * 2] for value in values]


# HTML


def _html(tallies: Sequence[ModelSummary], lines: Sequence[_ResultRow]) -> Html:
    total = sum(each.rows for each in tallies)
    head = Html(f'<div style="font-weight:600">{html_module.inline_text(_summary(tallies))}</div>')
    if not total:
        return html_module.container(head)
    rest = total - len(lines)
    more = Html(f'<div style="{html_module.DIM_STYLE}">and {rest:,} rows more</div>' if rest else "")
    return html_module.container(head, _models(tallies), _rows(lines), more)


def _models(tallies: Sequence[ModelSummary]) -> Html:
    head = ["model", *COLUMNS]
    rows = [[each.name, *_figures(each)] for each in tallies[:MAX_MODELS]]
    kept = [at for at in range(len(head)) if at == 0 or any(row[at] for row in rows)]
    table = html_module.html_table(
        [head[at] for at in kept], [[row[at] for at in kept] for row in rows], range(1, len(kept))
    )
    rest = len(tallies) - MAX_MODELS
    return Html(table + (f'<div style="{html_module.DIM_STYLE}">and {rest:,} models more</div>' if rest > 0 else ""))


def _rows(lines: Sequence[_ResultRow]) -> Html:
    if not lines:
        return Html("")
    own = list(lines[0].own)
    several = len({(line.said["provider"], line.said["model"]) for line in lines}) > 1
    head = ["", *own, *(["model"] if several else []), "answer", "time", "USD"]
    repeated = [at > 0 and line.said["row"] == lines[at - 1].said["row"] for at, line in enumerate(lines)]
    rows: list[list[str | Html]] = [
        [
            *(["" for _ in range(len(own) + 1)] if same else [line.label, *map(_value, line.own.values())]),
            *([_unbroken(str(line.said["model"]))] if several else []),
            _answer(line),
            _unbroken(_time(line)),
            _paid(line),
        ]
        for line, same in zip(lines, repeated, strict=True)
    ]
    return html_module.html_table(head, rows, [len(head) - 2, len(head) - 1])


def _value(text: str) -> Html:
    """Show a value of the caller's; a short one is not broken."""
    if len(text) <= UNBROKEN and "\n" not in text:
        return _unbroken(text)
    return Html(
        f'<div style="min-width:12em;max-width:18em;{LOW}">{html_module.text_block(text[:MAX_CHARS], MAX_CHARS)}</div>'
    )


def _unbroken(text: str) -> Html:
    return Html(f'<span style="white-space:nowrap">{html_module.inline_text(text)}</span>')


UNBROKEN: Final = 28
"""Characters of a value that stay in a line."""
LOW: Final = "max-height:15em;overflow:auto"
BADGE: Final = (
    "border:1px solid currentColor;border-radius:3px;padding:0 5px;font-weight:600;"
    "display:inline-block;line-height:1.35;margin:0 4px 1px 0"
)


def _answer(line: _ResultRow) -> Html:
    """Show what was answered, and why there is nothing if there is not."""
    status, text = line.said["status"], line.said["response"] or ""
    pieces: list[str] = []
    if status != "ok":
        why = line.said["error"] or ""
        kind = line.said["error_type"] or ""
        badge = f'<span style="{BADGE}">{html_module.inline_text(str(status))}</span>'
        pieces.append(
            f"<div>{badge} {html_module.inline_text(kind)} {html_module.text_block(why, MAX_CHARS) if why else ''}</div>"
        )
    if text or status == "ok":
        pieces.append(_cut(text))
    return Html(f'<div style="min-width:20em;max-width:56em">{"".join(pieces)}</div>')


def _cut(text: str) -> Html:
    """Show the beginning of an answer, and the rest behind a line."""
    if len(text) <= MAX_CHARS:
        return Html(f'<div style="{LOW}">{html_module.text_block(text)}</div>')
    first = html_module.text_block(f"{text[:MAX_CHARS]}\u2026")
    shown = f"{html_module.MAX_TEXT_LENGTH:,} of " if len(text) > html_module.MAX_TEXT_LENGTH else "all "
    return Html(
        f'<div style="{LOW}">{first}</div>{html_module.collapsible(f"{shown}{len(text):,} characters", html_module.text_block(text))}'
    )


def _time(line: _ResultRow) -> str:
    spent = line.said["latency_s"]
    cached = line.said["cache_hit"]
    return "" if spent is None else f"{format_duration(spent)}{' (cached)' if cached else ''}"


def _paid(line: _ResultRow) -> str:
    cost = line.said["cost_usd"]
    return "" if cost is None else f"{cost:.6f}".rstrip("0").rstrip(".")


# Text


COLUMNS: Final = ("rows", "ok", "failed", "cached", "tokens in", "tokens out", "USD paid", "USD worth", "p50", "p95")


def _figures(each: ModelSummary) -> list[str]:
    """Give a model's line; what is nothing is empty."""
    times = (
        [format_duration(float(np.quantile(each.latency_s, q))) for q in (0.5, 0.95)]
        if len(each.latency_s)
        else ["", ""]
    )
    saved = each.list_usd > each.billed_usd
    return [
        f"{each.rows:,}",
        f"{each.answered:,}",
        f"{each.failed:,}" if each.failed else "",
        f"{each.cache_hits:,}" if each.cache_hits else "",
        f"{each.tokens['input_tokens']:,}" if each.with_usage else "",
        f"{each.tokens['output_tokens']:,}" if each.with_usage else "",
        _money(each.billed_usd) if each.priced else "",
        _money(each.list_usd) if each.priced and saved else "",
        *times,
    ]


def _money(usd: float) -> str:
    """Write an amount with as many digits as tell something.

    Examples
    --------
    >>> _money(0), _money(0.0000123), _money(12.3456)
    ('0', '0.0000123', '12.35')
    """
    if usd == 0:
        return "0"
    return f"{usd:,.2f}" if usd >= 1 else np.format_float_positional(usd, precision=3, fractional=False, trim="-")


def _summary(tallies: Sequence[ModelSummary]) -> str:
    total = sum(each.rows for each in tallies)
    if not total:
        return "0 rows"
    models = f", {len(tallies)} models" if len(tallies) > 1 else ""
    rest = total - sum(each.answered + each.failed for each in tallies)
    other = f", {rest:,} not asked" if rest else ""
    return f"{total:,} row{'' if total == 1 else 's'}{models}: {count_summary(tallies)}{other}"


def _text(tallies: Sequence[ModelSummary], lines: Sequence[_ResultRow]) -> str:
    total = sum(each.rows for each in tallies)
    said = [_summary(tallies)]
    if total:
        table = [["model", *COLUMNS], *([each.name, *_figures(each)] for each in tallies[:MAX_MODELS])]
        kept = [at for at in range(len(table[0])) if at == 0 or any(row[at] for row in table[1:])]
        widths = {at: max(len(text_module.single_line(row[at])) for row in table) for at in kept}
        said += [
            "  ".join(
                text_module.single_line(row[at]).ljust(widths[at]) if at == 0 else row[at].rjust(widths[at])
                for at in kept
            ).rstrip()
            for row in table
        ]
        said += [_one(line) for line in lines]
        if total > len(lines):
            said.append(f"... and {total - len(lines):,} rows more")
    return "\n".join(said)


def _one(line: _ResultRow) -> str:
    failed = line.said["status"] != "ok"
    what = f"[{line.said['status']}] {line.said['error'] or ''}" if failed else line.said["response"] or ""
    return f"{text_module.single_line(line.label, 24)}  {text_module.single_line(str(line.said['model']), 32)}  {text_module.single_line(what, 100)}"


def _expect(names: Sequence[str], wanted: Sequence[str], prefix: str) -> None:
    missing = next((name for name in wanted if name not in names), None)
    if missing is not None:
        hint = f"; its result columns begin with {prefix!r}" if prefix else ""
        said = f"{missing!r} is no column of it; show() takes results of llmhub{hint}, or give prefix="
        raise BadRequestError(InvalidRequest(path="result", message=said))
