"""A load's figures for people: Markdown, a terminal, a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from llmhub.formatting.html import container, html_table
from llmhub.formatting.numbers import format_duration, format_usd

if TYPE_CHECKING:
    import pyarrow as pa


SummaryRow = Mapping[str, Any]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"  # noqa: PLR2004 - three digits


def _times(row: SummaryRow, name: str, *marks: str) -> str:
    found = [row[f"{name}_{mark}"] for mark in marks]
    return "-" if None in found else " / ".join(map(format_duration, found))


def _money(value: float | None) -> str:
    return "-" if value is None else format_usd(value)


def _answered(row: SummaryRow) -> str:
    errors = ", ".join(f"{kind} {count:,}" for kind, count in row["errors"] or ())
    return f"{row['ok']:,}/{row['requests']:,}" + (f" ({errors})" if errors else "")


COLUMNS: Final[tuple[tuple[str, Callable[[SummaryRow], str]], ...]] = (
    ("model", lambda row: str(row["model"])),
    ("load", lambda row: str(row["load"])),
    ("answered", _answered),
    ("answers/s", lambda row: _rate(row["requests_per_s"])),
    ("tokens/s", lambda row: _rate(row["output_tokens_per_s"])),
    ("first token p50 / p95", lambda row: _times(row, "ttft_s", "p50", "p95")),
    ("per token p50", lambda row: _times(row, "tpot_s", "p50")),
    ("whole answer p50 / p95 / p99", lambda row: _times(row, "latency_s", "p50", "p95", "p99")),
    ("good", lambda row: "" if row["good"] is None else f"{row['good'] * 100:.1f} %, {_rate(row['goodput_per_s'])}/s"),
    ("1,000 answers", lambda row: _money(row["usd_per_1k_requests"])),
    ("M output tokens", lambda row: _money(row["usd_per_million_output_tokens"])),
)
"""Headings, and what stands below them."""


LEFT: Final = 3
"""Columns of words, which stand on the left."""


def table_cells(summary: pa.Table) -> tuple[list[str], list[list[str]]]:
    """Give the headings and rows that are shown: a column without anything to say is left out."""
    rows = summary.to_pylist()
    body = [[write(row) for _, write in COLUMNS] for row in rows]
    kept = [at for at in range(len(COLUMNS)) if any(row[at] for row in body)]
    return [COLUMNS[at][0] for at in kept], [[row[at] for at in kept] for row in body]


def summary_markdown(summary: pa.Table) -> str:
    """Give the summary as a Markdown table."""
    head, body = table_cells(summary)
    rule = ["---" if at < LEFT else "---:" for at in range(len(head))]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (head, rule, *body))


def summary_text(summary: pa.Table) -> str:
    """Give the summary for a terminal."""
    head, body = table_cells(summary)
    widths = [max(len(row[at]) for row in (head, *body)) for at in range(len(head))]
    return "\n".join("  ".join(_placed(row, widths)).rstrip() for row in (head, *body))


def _placed(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    pairs = enumerate(zip(row, widths, strict=True))
    return [cell.ljust(wide) if at < LEFT else cell.rjust(wide) for at, (cell, wide) in pairs]


def summary_html(summary: pa.Table) -> str:
    """Give the summary for a notebook."""
    head, body = table_cells(summary)
    return container(html_table(head, body, range(LEFT, len(head))))
