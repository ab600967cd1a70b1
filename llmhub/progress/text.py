"""Progress of a run as text: its figures, and as many of them as fit into one line. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from llmhub.engine.progress import ModelProgress, Progress
from llmhub.formatting.numbers import format_count, format_elapsed, format_usd

GAP: Final = "   "
"""Between two items of a line."""


@dataclass(frozen=True, slots=True)
class StatusItem:
    """One item of a progress line. If a line is too long, items with the highest ``rank`` are dropped first."""

    text: str
    rank: int = 0


def progress_line(progress: Progress, width: int | None = None) -> str:
    """Return the progress as one line of at most ``width`` characters.

    Examples
    --------
    >>> progress = Progress(
    ...     total=200, done=50, cached=10, failed=1, in_flight=8, elapsed_s=2.0, rows_per_s=25.0, remaining_s=6.0
    ... )
    >>> progress_line(progress)
    '50/200 rows   25 %   10 cached   1 failed   25 rows/s   6 s left'
    >>> progress_line(progress, 40)
    '50/200 rows   25 %   1 failed   6 s left'
    """
    items = status_items(progress)
    line = join_items(items, GAP)
    while width is not None and len(line) > width and len(items) > 1:
        lowest_priority = max(item.rank for item in items)
        items = [item for item in items if item.rank < lowest_priority]
        line = join_items(items, GAP)
    return line if width is None else line[:width]


def status_items(progress: Progress) -> list[StatusItem]:
    """Return every item that applies, in reading order."""
    p = progress
    remaining = "" if p.remaining_s is None else f"{format_elapsed(p.remaining_s)} left"
    items = (
        StatusItem("stopping" if p.stopping and not p.finished else "", 1),
        StatusItem(f"{p.done:,}/{p.total:,} rows"),
        StatusItem(percent_done(p), 1),
        StatusItem(unsent_rows(p), 1),
        StatusItem(f"{p.cached:,} cached" if p.cached else "", 4),
        StatusItem(f"{p.failed:,} failed" if p.failed else "", 2),
        StatusItem(row_rate(p.rows_per_s), 5),
        StatusItem(format_elapsed(p.elapsed_s) if p.finished else remaining, 3),
        StatusItem(token_counts(p), 8),
        StatusItem(f"{cost_text(p)} (simulated)" if p.simulated and cost_text(p) else cost_text(p), 6),
        StatusItem(f"limit: {p.limited_by}" if p.limited_by else "", 7),
        StatusItem(f"refused: {p.refused_by}" if p.refused_by else "", 2),
    )
    return [item for item in items if item.text]


def percent_done(progress: Progress) -> str:
    """Return the completed share; for a finished run with skipped rows, their number instead."""
    p = progress
    skipped = p.total - p.done - p.unanswered
    if p.finished and skipped:
        return f"{skipped:,} skipped"
    # Rounded down, so that a run is not at 100 % before its last row.
    return f"{100 * p.done // p.total if p.total else 100} %"


def unsent_rows(progress: Progress) -> str:
    """Return the number of rows without a result, and why: the budget, or a stop before or after they were sent.

    Examples
    --------
    >>> models = (ModelProgress(model="p/m", total=9, unanswered=6, over_budget=3, interrupted=1),)
    >>> unsent_rows(Progress(total=9, done=3, cached=0, failed=0, in_flight=0, elapsed_s=1.0, models=models))
    '3 not sent: budget, 1 interrupted, 2 not sent'
    """
    p = progress
    stopped = p.unanswered - p.over_budget - p.interrupted
    over_budget = f"{p.over_budget:,} not sent: budget" if p.over_budget else ""
    interrupted = f"{p.interrupted:,} interrupted" if p.interrupted else ""
    return ", ".join(item for item in (over_budget, interrupted, f"{stopped:,} not sent" if stopped else "") if item)


def row_rate(rows_per_s: float) -> str:
    """Return a rate in rows per second.

    Examples
    --------
    >>> row_rate(1234.5), row_rate(2.5), row_rate(0.04), row_rate(0)
    ('1,234 rows/s', '2 rows/s', '0.04 rows/s', '0 rows/s')
    """
    return f"{rows_per_s:,.0f} rows/s" if rows_per_s >= 1 or not rows_per_s else f"{rows_per_s:.2g} rows/s"


def token_counts(progress: Progress | ModelProgress) -> str:
    """Return the input and output tokens; empty if there are none.

    Examples
    --------
    >>> token_counts(ModelProgress(model="p/m", total=9, input_tokens=12_345, output_tokens=999))
    '12.3 k tokens in, 999 out'
    """
    if not progress.input_tokens and not progress.output_tokens:
        return ""
    return f"{format_count(progress.input_tokens)} tokens in, {format_count(progress.output_tokens)} out"


def cost_text(progress: Progress | ModelProgress) -> str:
    """Return the cost so far, and the forecast for the whole run; empty if a price is unknown.

    Examples
    --------
    >>> cost_text(ModelProgress(model="p/m", total=9, spent_usd=Decimal("0.012"), forecast_usd=Decimal("0.05")))
    '0.012 of about 0.050 USD'
    >>> cost_text(ModelProgress(model="p/m", total=9, spent_usd=Decimal("0.012"), uncertain_requests=2))
    '0.012 USD + 2 requests of unknown cost'
    """
    spent, forecast = progress.spent_usd, progress.forecast_usd
    known = ""
    if spent is not None and forecast is not None and forecast != spent:
        known = f"{_usd(spent)} of about {_usd(forecast)} USD"
    elif spent:
        known = f"{_usd(spent)} USD"
    count = progress.uncertain_requests
    uncertain = f"{count:,} request{'s' * (count != 1)} of unknown cost" if count else ""
    return " + ".join(item for item in (known, uncertain) if item)


def _usd(amount: Decimal) -> str:
    """Format without a dollar sign, which notebooks read as the start of mathematics."""
    return format_usd(amount, symbol="", digits=2)


def join_items(items: Iterable[StatusItem], separator: str) -> str:
    """Return the texts of ``items``, separated by ``separator``."""
    return separator.join(item.text for item in items)
