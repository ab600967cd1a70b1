"""A run in a few lines of text: a table of its models, and what went wrong."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from llmhub.formatting.numbers import format_count, format_duration, format_usd
from llmhub.formatting.text import truncate_middle
from llmhub.plots.model_summary import TOKEN_COLUMNS, ModelSummary, quantile, summarize_models

if TYPE_CHECKING:
    import pyarrow as pa


MAX_NAME_CHARS: Final = 34
"""Characters of a model's name."""
WIDTH: Final = 96
"""Characters of a line."""
NONE: Final = "-"


@dataclass(frozen=True, slots=True)
class SummaryColumn:
    """A column of the summary; one that is not ``always`` there is left out where every cell is empty."""

    head: str
    cell: Callable[[ModelSummary], str]
    always: bool = True


def summary_table(results: pa.Table) -> str:
    """Sum up results by model, in a table for a terminal.

    Examples
    --------
    >>> from llmhub.tables.schema import RESULTS
    >>> summary_table(RESULTS.empty_table())
    'No rows.'
    """
    tallies = summarize_models(results)
    if not tallies:
        return "No rows."
    whole = _total(tallies)
    shown = [column for column in COLUMNS if column.always or column.cell(whole) != NONE]
    body = [[truncate_middle(each.name, MAX_NAME_CHARS), *(column.cell(each) for column in shown)] for each in tallies]
    last = [["in all", *(column.cell(whole) for column in shown)]] if len(tallies) > 1 else []
    rows = [["model", *(column.head for column in shown)], *body, *last]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [_format_row(row, widths) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1 : 1 + len(body)], *([rule, lines[-1]] if last else [])])


def _format_row(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *cells = row
    right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
    return "  ".join([name.ljust(widths[0]), *right])


def _total(tallies: Sequence[ModelSummary]) -> ModelSummary:
    """Take all models together."""
    return ModelSummary(
        name="",
        rows=sum(each.rows for each in tallies),
        answered=sum(each.answered for each in tallies),
        failed=sum(each.failed for each in tallies),
        cache_hits=sum(each.cache_hits for each in tallies),
        errors={},
        billed_usd=sum(each.billed_usd for each in tallies),
        list_usd=sum(each.list_usd for each in tallies),
        priced=sum(each.priced for each in tallies),
        latency_s=np.sort(np.concatenate([each.latency_s for each in tallies])),
        ttft_s=np.sort(np.concatenate([each.ttft_s for each in tallies])),
        tokens={kind: sum(each.tokens[kind] for each in tallies) for kind in TOKEN_COLUMNS},
        with_usage=sum(each.with_usage for each in tallies),
    )


def _number(count: int) -> str:
    return f"{count:,}" if count else NONE


def _latency(share: float) -> Callable[[ModelSummary], str]:
    return lambda each: format_duration(quantile(each.latency_s, share)) if len(each.latency_s) else NONE


def _tokens(kind: str) -> Callable[[ModelSummary], str]:
    return lambda each: format_count(each.tokens[kind]) if each.with_usage else NONE


def _money(each: ModelSummary, amount_usd: float) -> str:
    """Write a sum; one that misses the price of some answers says so."""
    if not each.priced:
        return "unknown" if each.answered else NONE
    return format_usd(amount_usd) if each.priced == each.answered else f"over {format_usd(amount_usd)}"


COLUMNS: Final = (
    SummaryColumn("ok", lambda each: f"{each.answered:,}"),
    SummaryColumn("failed", lambda each: _number(each.failed)),
    SummaryColumn("unanswered", lambda each: _number(each.rows - each.answered - each.failed), always=False),
    SummaryColumn("cached", lambda each: _number(each.cache_hits), always=False),
    SummaryColumn("p50", _latency(0.50)),
    SummaryColumn("p95", _latency(0.95)),
    SummaryColumn("tokens in", _tokens("input_tokens")),
    SummaryColumn("out", _tokens("output_tokens")),
    SummaryColumn("cost", lambda each: _money(each, each.billed_usd)),
    SummaryColumn("worth", lambda each: _money(each, each.list_usd) if each.cache_hits else NONE, always=False),
)


def failure_summary(results: pa.Table) -> str:
    """Say how many rows failed of what kind, with the first of each kind."""
    names = ("status", "error_type", "error", "row", "provider", "model")
    columns = [results.column(name).to_pylist() for name in names]
    failed = [rest for status, *rest in zip(*columns, strict=True) if status == "error"]
    kinds = Counter(kind for kind, *_ in failed)
    first = {kind: rest for kind, *rest in reversed(failed)}
    lines = [f"{len(failed):,} of {len(results):,} rows failed; the first of each kind:"]
    for kind, count in kinds.most_common():
        said, row, provider, model = first[kind]
        where = f"row {row}, {provider}/{model}: {' '.join(said.removeprefix(f'{provider}: ').split())}"
        lines += textwrap.wrap(
            f"{count:>6,}  {kind:<15} {textwrap.shorten(where, 240, placeholder=' ...')}",
            WIDTH,
            subsequent_indent=" " * 24,
            drop_whitespace=True,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def count_statuses(results: pa.Table) -> Counter[str]:
    """Count the rows of each status."""
    return Counter(results.column("status").to_pylist())
