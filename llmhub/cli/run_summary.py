"""Summaries of a run for a terminal: a table of totals by model, and the errors by type."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmhub.formatting.numbers import format_count, format_duration, format_usd
from llmhub.formatting.text import truncate_middle
from llmhub.formatting.text_tables import text_table
from llmhub.plots.model_summary import ModelSummary, combine_summaries, quantile, summarize_models
from llmhub.tables.schema import is_simulated

if TYPE_CHECKING:
    import pyarrow as pa

MAX_NAME_CHARS: Final = 34
"""Characters of a model's name before it is truncated."""
LINE_WIDTH: Final = 96
MAX_MESSAGE_CHARS: Final = 240
"""Characters of an error message before it is truncated."""
NO_VALUE: Final = "-"


@dataclass(frozen=True, slots=True)
class SummaryColumn:
    """Column of the summary. An ``optional`` column is left out if it has no value for any model."""

    header: str
    cell: Callable[[ModelSummary], str]
    optional: bool = False


def summary_table(results: pa.Table) -> str:
    """Return the totals of a results table by model as a text table.

    Examples
    --------
    >>> from llmhub.tables.schema import RESULTS
    >>> summary_table(RESULTS.empty_table())
    'No rows.'
    """
    summaries = summarize_models(results)
    if not summaries:
        return "No rows."
    total = combine_summaries(summaries)
    columns = [column for column in COLUMNS if not column.optional or column.cell(total) != NO_VALUE]
    if is_simulated(results.schema):  # nothing was billed
        columns = [*(column for column in columns if column.header not in {"billed", "list price"}), SIMULATED_COST]
    rows = [
        [truncate_middle(model.name, MAX_NAME_CHARS), *(column.cell(model) for column in columns)]
        for model in summaries
    ]
    footer = ["total", *(column.cell(total) for column in columns)] if len(summaries) > 1 else None
    return text_table(["model", *(column.header for column in columns)], rows, rule=True, footer=footer)


def _count_or_dash(count: int) -> str:
    return f"{count:,}" if count else NO_VALUE


def _latency(q: float) -> Callable[[ModelSummary], str]:
    return lambda model: format_duration(quantile(model.latency_s, q)) if len(model.latency_s) else NO_VALUE


def _tokens(column: str) -> Callable[[ModelSummary], str]:
    return lambda model: format_count(model.tokens[column]) if model.with_usage else NO_VALUE


def _cost(model: ModelSummary, amount_usd: float) -> str:
    """Return an amount; "over" it if the price of some answers is unknown."""
    if not model.priced:
        return "unknown" if model.answered else NO_VALUE
    return format_usd(amount_usd) if model.priced == model.answered else f"over {format_usd(amount_usd)}"


COLUMNS: Final = (
    SummaryColumn("ok", lambda model: f"{model.answered:,}"),
    SummaryColumn("failed", lambda model: _count_or_dash(model.failed)),
    SummaryColumn(
        "unanswered", lambda model: _count_or_dash(model.rows - model.answered - model.failed), optional=True
    ),
    SummaryColumn("cached", lambda model: _count_or_dash(model.cache_hits), optional=True),
    SummaryColumn("p50", _latency(0.50)),
    SummaryColumn("p95", _latency(0.95)),
    SummaryColumn("tokens in", _tokens("input_tokens")),
    SummaryColumn("out", _tokens("output_tokens")),
    SummaryColumn("billed", lambda model: _cost(model, model.billed_usd)),
    SummaryColumn(
        "list price", lambda model: _cost(model, model.list_usd) if model.cache_hits else NO_VALUE, optional=True
    ),
)

SIMULATED_COST: Final = SummaryColumn("simulated cost", lambda model: _cost(model, model.list_usd))


def failure_summary(results: pa.Table) -> str:
    """Return the number of failed rows by error type, with the first error of each type."""
    names = ("status", "error_type", "error", "row", "provider", "model")
    columns = [results.column(name).to_pylist() for name in names]
    failed = [rest for status, *rest in zip(*columns, strict=True) if status == "error"]
    counts = Counter(error_type for error_type, *_ in failed)
    first = {error_type: rest for error_type, *rest in reversed(failed)}
    lines = [f"{len(failed):,} of {len(results):,} rows failed; the first error of each type:"]
    for error_type, count in counts.most_common():
        message, row, provider, model = first[error_type]
        error = f"row {row}, {provider}/{model}: {' '.join(message.removeprefix(f'{provider}: ').split())}"
        lines += textwrap.wrap(
            f"{count:>6,}  {error_type:<15} {textwrap.shorten(error, MAX_MESSAGE_CHARS, placeholder=' ...')}",
            LINE_WIDTH,
            subsequent_indent=" " * 24,
            drop_whitespace=True,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def count_statuses(results: pa.Table) -> Counter[str]:
    """Return the number of rows by status."""
    return Counter(results.column("status").to_pylist())
