"""Display of a results table: totals by model and the first rows, as HTML in a notebook and as text elsewhere.

Everything a model or a user wrote is escaped by the formatting room. Only a few rows are displayed, however many there
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from llmhub.formatting import html
from llmhub.formatting.html import Html
from llmhub.formatting.numbers import format_duration, format_quantity, format_usd
from llmhub.formatting.text import single_line
from llmhub.formatting.text_tables import drop_empty_columns, text_table
from llmhub.plots.model_summary import COLUMNS as SUMMARY_COLUMNS
from llmhub.plots.model_summary import OPTIONAL_COLUMNS, ModelSummary, count_summary, quantile, summarize_models
from llmhub.tables import frames
from llmhub.tables.result_frames import answer_columns, answer_texts, require_result_columns, results_table
from llmhub.tables.schema import RESULTS, is_simulated

DEFAULT_ROWS: Final = 10
MAX_ROWS: Final = 1_000
"""Rows that are shown, however many are requested."""
MAX_CHARS: Final = 400
"""Characters of an answer that are shown; the rest is collapsed."""
MAX_INPUT_COLUMNS: Final = 4
"""Input columns that are shown unless they are named."""
MAX_MODELS: Final = 24
"""Models in the table of totals."""
MAX_UNBROKEN_CHARS: Final = 28
"""Characters of an input value that are kept on one line."""

REQUIRED_COLUMNS: Final = ("provider", "model", "status", "response", "error")
"""Result columns without which a frame cannot be shown."""
ROW_COLUMNS: Final = (
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
"""Result columns that are shown for each row."""
SUMMED_COLUMNS: Final = (*SUMMARY_COLUMNS, *OPTIONAL_COLUMNS)
"""Result columns that totals are made of."""
BILLED_HEADER: Final = "USD billed"
SIMULATED_HEADER: Final = "USD simulated"
TOTAL_HEADERS: Final = (
    "model",
    "rows",
    "ok",
    "failed",
    "cached",
    "tokens in",
    "tokens out",
    BILLED_HEADER,
    "USD list price",
    "p50",
    "p95",
)

SCROLL_STYLE: Final = "max-height:15em;overflow:auto"
BADGE_STYLE: Final = (
    "border:1px solid currentColor;border-radius:3px;padding:0 5px;font-weight:600;"
    "display:inline-block;line-height:1.35;margin:0 4px 1px 0"
)


@dataclass(frozen=True, slots=True)
class ResultsView:
    """A displayed results table: HTML in a notebook, text as its ``repr``."""

    html: Html
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Return the text."""
        return self.text


def show(
    result: Any, *, rows: int = DEFAULT_ROWS, columns: Sequence[str] | None = None, prefix: str = ""
) -> ResultsView:
    """Show a results table: totals, a line per model, and the first rows with their answers.

    Parameters
    ----------
    result
        A table from `complete_table`, or a frame from ``df.llm.complete``.
    rows
        Number of rows to show, at most 1,000.
    columns
        Input columns to show beside the answers; the first four if omitted.
    prefix
        Prefix of the result columns.

    Returns
    -------
    ResultsView
        Displayed as HTML in a notebook, where nothing that a model wrote can be executed; its ``repr`` is plain text.

    Raises
    ------
    BadRequestError
        ``result`` is not a results table, or lacks a column of ``columns``.

    Examples
    --------
    >>> show(RESULTS.empty_table())
    0 rows
    """
    frame = frames.native_frame(result)
    names = frames.column_names(frame)
    head = frames.backend_of(frame).take_rows(frame, np.arange(min(len(frame), max(rows, 0), MAX_ROWS)))
    answers = answer_columns(frame, prefix)
    results = results_table(head, prefix, {*ROW_COLUMNS, *answers})
    require_result_columns(results.column_names, REQUIRED_COLUMNS, "show", "result")
    if columns is None:
        own = (name for name in names if not _is_result(name, prefix) and name not in answers)
        columns = list(own)[:MAX_INPUT_COLUMNS]
    else:
        require_result_columns(names, columns, "show", "columns")
    summed = results_table(frame, prefix, SUMMED_COLUMNS)
    summary = _Summary(summarize_models(_with_required_columns(summed)), is_simulated(summed.schema))
    shown = _first_rows(head, results, answers, columns)
    return ResultsView(_view_html(summary, shown), _view_text(summary, shown))


def _is_result(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name.removeprefix(prefix) in RESULTS.names


@dataclass(frozen=True, slots=True)
class _Summary:
    """Totals by model, and whether the results are of simulated providers, which bill nothing."""

    models: Sequence[ModelSummary]
    simulated: bool


@dataclass(frozen=True, slots=True)
class _ResultRow:
    """Index label, input values as text, and result values of one row."""

    label: str
    inputs: dict[str, str]
    result: dict[str, Any]


def _with_required_columns(results: pa.Table) -> pa.Table:
    """Return results with the columns that totals need; a missing one is null."""
    for name in SUMMARY_COLUMNS:
        if name not in results.column_names:
            field = RESULTS.field(name)
            results = results.append_column(field, pa.nulls(len(results), field.type))
    return results


def _first_rows(head: Any, results: pa.Table, answers: Sequence[str], columns: Sequence[str]) -> list[_ResultRow]:
    """Return the first rows of a frame, given their results and the columns with their answers."""
    backend, names, count = frames.backend_of(head), frames.column_names(head), len(head)
    has_index = hasattr(head, "index") and hasattr(head, "iloc")
    labels = [str(label) for label in head.index] if has_index else [str(position) for position in range(count)]
    values = {
        name: results.column(name).to_pylist() if name in results.column_names else [None] * count
        for name in ROW_COLUMNS
    }
    texts = answer_texts(results, answers)
    # A response that holds no answer, such as one that is not a label, is shown as it is.
    values["response"] = [text or response for text, response in zip(texts, values["response"], strict=True)]
    values["row"] = values["row"] if "row" in results.column_names else list(range(count))
    inputs = {name: _column_texts(backend, head, names.index(name)) for name in columns}
    return [
        _ResultRow(
            labels[position],
            {name: texts_of_column[position] for name, texts_of_column in inputs.items()},
            {name: values_of_column[position] for name, values_of_column in values.items()},
        )
        for position in range(count)
    ]


def _column_texts(backend: frames.FrameBackend, frame: Any, index: int) -> list[str]:
    """Return the values of a column as text, including columns that Arrow cannot represent."""
    try:
        values = backend.arrow_column(frame, index).to_pylist()
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        values = frame.iloc[:, index].tolist()
    return ["" if value is None else str(value)[: MAX_CHARS * 2] for value in values]


def _headline(summary: _Summary) -> str:
    """Return the numbers of rows, models, answers and failures."""
    summaries = summary.models
    rows = sum(model.rows for model in summaries)
    if not rows:
        return "0 rows"
    models = f", {len(summaries)} models" if len(summaries) > 1 else ""
    count = rows - sum(model.answered + model.failed for model in summaries)
    unsent = f", {count:,} without an answer" if count else ""
    simulated = "; simulated" if summary.simulated else ""
    return f"{format_quantity(rows, 'row')}{models}: {count_summary(summaries)}{unsent}{simulated}"


def _totals(summary: _Summary) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of totals, without empty columns."""
    rows = [[model.name, *_figures(model)] for model in summary.models[:MAX_MODELS]]
    header = [SIMULATED_HEADER if summary.simulated and name == BILLED_HEADER else name for name in TOTAL_HEADERS]
    return drop_empty_columns(header, rows)


def _figures(model: ModelSummary) -> list[str]:
    """Return the totals of a model; unknown and zero values are empty."""
    has_latency = bool(len(model.latency_s))
    saved = model.list_usd > model.billed_usd
    return [
        f"{model.rows:,}",
        f"{model.answered:,}",
        f"{model.failed:,}" if model.failed else "",
        f"{model.cache_hits:,}" if model.cache_hits else "",
        f"{model.tokens['input_tokens']:,}" if model.with_usage else "",
        f"{model.tokens['output_tokens']:,}" if model.with_usage else "",
        format_usd(model.billed_usd, symbol="") if model.priced else "",
        format_usd(model.list_usd, symbol="") if model.priced and saved else "",
        *(format_duration(quantile(model.latency_s, q)) if has_latency else "" for q in (0.5, 0.95)),
    ]


# HTML


def _view_html(summary: _Summary, rows: Sequence[_ResultRow]) -> Html:
    total = sum(model.rows for model in summary.models)
    headline = Html(f'<div style="font-weight:600">{html.inline_text(_headline(summary))}</div>')
    if not total:
        return html.container(headline)
    hidden = total - len(rows)
    more = Html(f'<div style="{html.DIM_STYLE}">and {hidden:,} rows more</div>' if hidden else "")
    return html.container(headline, _totals_html(summary), _rows_html(rows), more)


def _totals_html(summary: _Summary) -> Html:
    header, rows = _totals(summary)
    hidden = len(summary.models) - MAX_MODELS
    more = f'<div style="{html.DIM_STYLE}">and {hidden:,} models more</div>' if hidden > 0 else ""
    return Html(html.html_table(header, rows, range(1, len(header))) + more)


def _rows_html(rows: Sequence[_ResultRow]) -> Html:
    """Return a table of rows; input values are not repeated for further models and samples of the same input row."""
    if not rows:
        return Html("")
    inputs = list(rows[0].inputs)
    several_models = len({(row.result["provider"], row.result["model"]) for row in rows}) > 1
    header = ["", *inputs, *(["model"] if several_models else []), "answer", "time", "USD"]
    same_input = [index > 0 and row.result["row"] == rows[index - 1].result["row"] for index, row in enumerate(rows)]
    cells: list[list[str | Html]] = [
        [
            *([""] * (len(inputs) + 1) if same else [row.label, *map(_input_html, row.inputs.values())]),
            *([_nowrap(str(row.result["model"]))] if several_models else []),
            _answer_html(row),
            _nowrap(_time_text(row)),
            _cost_text(row),
        ]
        for row, same in zip(rows, same_input, strict=True)
    ]
    return html.html_table(header, cells, [len(header) - 2, len(header) - 1])


def _input_html(text: str) -> Html:
    """Return an input value, on one line if it is short."""
    if len(text) <= MAX_UNBROKEN_CHARS and "\n" not in text:
        return _nowrap(text)
    block = html.text_block(text[:MAX_CHARS], MAX_CHARS)
    return Html(f'<div style="min-width:12em;max-width:18em;{SCROLL_STYLE}">{block}</div>')


def _nowrap(text: str) -> Html:
    return Html(f'<span style="white-space:nowrap">{html.inline_text(text)}</span>')


def _answer_html(row: _ResultRow) -> Html:
    """Return status and error if the row has no answer, and the answer."""
    status, text = row.result["status"], row.result["response"] or ""
    parts: list[str] = []
    if status != "ok":
        error = html.text_block(row.result["error"], MAX_CHARS) if row.result["error"] else ""
        badge = f'<span style="{BADGE_STYLE}">{html.inline_text(str(status))}</span>'
        parts.append(f"<div>{badge} {html.inline_text(row.result['error_type'] or '')} {error}</div>")
    if text or status == "ok":
        parts.append(_collapsed_text(text))
    return Html(f'<div style="min-width:20em;max-width:56em">{"".join(parts)}</div>')


def _collapsed_text(text: str) -> Html:
    """Return the beginning of a text, and the whole text as a collapsed block."""
    if len(text) <= MAX_CHARS:
        return Html(f'<div style="{SCROLL_STYLE}">{html.markdown_block(text)}</div>')
    beginning = html.text_block(f"{text[:MAX_CHARS]}\u2026")
    limit = f"{html.MAX_TEXT_LENGTH:,} of " if len(text) > html.MAX_TEXT_LENGTH else "all "
    rest = html.collapsible(f"{limit}{len(text):,} characters", html.markdown_block(text))
    return Html(f'<div style="{SCROLL_STYLE}">{beginning}</div>{rest}')


def _time_text(row: _ResultRow) -> str:
    latency_s = row.result["latency_s"]
    return "" if latency_s is None else f"{format_duration(latency_s)}{' (cached)' if row.result['cache_hit'] else ''}"


def _cost_text(row: _ResultRow) -> str:
    cost = row.result["cost_usd"]
    return "" if cost is None else f"{cost:.6f}".rstrip("0").rstrip(".")


# Text


def _view_text(summary: _Summary, rows: Sequence[_ResultRow]) -> str:
    total = sum(model.rows for model in summary.models)
    lines = [_headline(summary)]
    if total:
        header, totals = _totals(summary)
        lines.append(text_table(header, [[single_line(row[0]), *row[1:]] for row in totals]))
        lines += [_row_text(row) for row in rows]
        if total > len(rows):
            lines.append(f"... and {total - len(rows):,} rows more")
    return "\n".join(lines)


def _row_text(row: _ResultRow) -> str:
    failed = row.result["status"] != "ok"
    text = f"[{row.result['status']}] {row.result['error'] or ''}" if failed else row.result["response"] or ""
    return f"{single_line(row.label, 24)}  {single_line(str(row.result['model']), 32)}  {single_line(text, 100)}"
