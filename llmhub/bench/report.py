"""The summary of load tests as Markdown, as text for a terminal, and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmhub.formatting.html import container, facts_line, html_table
from llmhub.formatting.numbers import format_duration, format_percent, format_rate, format_usd
from llmhub.formatting.text_tables import drop_empty_columns, markdown_table, text_table
from llmhub.tables.schema import is_simulated

if TYPE_CHECKING:
    import pyarrow as pa

SummaryRow = Mapping[str, Any]
NO_VALUE: Final = "-"
SIMULATED_NOTE: Final = "Simulated providers: times are not those of the real ones; costs are list prices."
SHOWN_WAIT_S: Final = 0.001
"""Shorter waits are those of the event loop."""


def _or_dash(value: float | None, format_value: Callable[[float], str]) -> str:
    return NO_VALUE if value is None else format_value(value)


def _format_times(row: SummaryRow, metric: str, *quantiles: str) -> str:
    values = [row[f"{metric}_{quantile}"] for quantile in quantiles]
    return NO_VALUE if None in values else " / ".join(map(format_duration, values))


def _format_latency(row: SummaryRow) -> str:
    """Format the quantiles of latency; the p99 of few calls, whose upper end is open, as a lower bound."""
    values = [row[f"latency_s_{quantile}"] for quantile in ("p50", "p95", "p99")]
    if None in values:
        return NO_VALUE
    marks = ["≥ " if row[f"latency_s_{quantile}_high"] is None else "" for quantile in ("p50", "p95", "p99")]
    return " / ".join(f"{mark}{format_duration(value)}" for mark, value in zip(marks, values, strict=True))


def _format_first_output(row: SummaryRow) -> str:
    """Format the time to the first output where streamed reasoning came before it."""
    first, output = row["ttft_s_p50"], row["ttfo_s_p50"]
    is_later = first is not None and output is not None and output - first >= SHOWN_WAIT_S
    return format_duration(output) if is_later else ""


def _format_waits(row: SummaryRow) -> str:
    """Format the p95 of the waits for a connection and for limits, if anything waited."""
    waits = [row["schedule_delay_s_p95"] or 0.0, row["rate_wait_s_p95"] or 0.0]
    return " / ".join(map(format_duration, waits)) if max(waits) >= SHOWN_WAIT_S else ""


def _format_answered(row: SummaryRow) -> str:
    errors = ", ".join(f"{error_type} {count:,}" for error_type, count in row["errors"] or ())
    return f"{row['ok']:,}/{row['requests']:,}" + (f" ({errors})" if errors else "")


def _format_goodput(row: SummaryRow) -> str:
    share = row["goodput_share"]
    return "" if share is None else f"{format_percent(share)}, {_or_dash(row['goodput_per_s'], format_rate)}/s"


COLUMNS: Final[tuple[tuple[str, Callable[[SummaryRow], str]], ...]] = (
    ("model", lambda row: str(row["model"])),
    ("load", lambda row: str(row["load"])),
    ("answered", _format_answered),
    ("answers/s", lambda row: _or_dash(row["requests_per_s"], format_rate)),
    ("tokens/s", lambda row: _or_dash(row["output_tokens_per_s"], format_rate)),
    ("first token p50 / p95", lambda row: _format_times(row, "ttft_s", "p50", "p95")),
    ("first output p50", _format_first_output),
    ("per token p50", lambda row: _format_times(row, "tpot_s", "p50")),
    ("between pieces p50 / p99", lambda row: _format_times(row, "itl_s", "p50", "p99")),
    ("latency p50 / p95 / p99", _format_latency),
    ("waits p95: schedule / limit", _format_waits),
    ("goodput", _format_goodput),
    ("1,000 answers", lambda row: _or_dash(row["usd_per_1k_requests"], format_usd)),
    ("M output tokens", lambda row: _or_dash(row["usd_per_million_output_tokens"], format_usd)),
)
"""Headings, and functions that format a row's cell."""
TEXT_COLUMNS: Final = 3
"""Number of leading columns with text, which are left-aligned."""


def table_cells(summary: pa.Table) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells, without empty columns."""
    rows = [[format_cell(row) for _, format_cell in COLUMNS] for row in summary.to_pylist()]
    return drop_empty_columns([heading for heading, _ in COLUMNS], rows, keep=TEXT_COLUMNS)


def summary_markdown(summary: pa.Table) -> str:
    """Return the summary as a Markdown table."""
    header, rows = table_cells(summary)
    table = markdown_table(header, rows, left_columns=TEXT_COLUMNS)
    return f"{table}\n\n{SIMULATED_NOTE}" if is_simulated(summary.schema) else table


def summary_text(summary: pa.Table) -> str:
    """Return the summary as a table for a terminal."""
    header, rows = table_cells(summary)
    table = text_table(header, rows, left_columns=TEXT_COLUMNS)
    return f"{table}\n{SIMULATED_NOTE}" if is_simulated(summary.schema) else table


def summary_html(summary: pa.Table) -> str:
    """Return the summary as HTML for notebooks."""
    header, rows = table_cells(summary)
    note = [facts_line([SIMULATED_NOTE])] if is_simulated(summary.schema) else []
    return container(html_table(header, rows, range(TEXT_COLUMNS, len(header))), *note)
