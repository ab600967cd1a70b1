"""What is said of a run: its facts in words, and as many of them in a line as fit. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from llmhub.engine.progress import ModelProgress, Progress
from llmhub.formatting.numbers import format_count

GAP: Final = "   "


STOPPING: Final = "stopping"


MINUTE: Final = 60


@dataclass(frozen=True, slots=True)
class StatusItem:
    """Something to say; of two that do not both fit, the one with the lower ``rank`` is said."""

    text: str
    rank: int = 0


def progress_line(progress: Progress, width: int | None = None) -> str:
    """Say how far a run is, in a line of at most ``width`` characters.

    Examples
    --------
    >>> now = Progress(total=200, done=50, cached=10, failed=1, in_flight=8, elapsed_s=2.0, rows_per_s=25.0, remaining_s=6.0)
    >>> progress_line(now)
    '50/200 rows   25 %   10 cached   1 failed   25 rows/s   6 s left'
    >>> progress_line(now, 40)
    '50/200 rows   25 %   1 failed   6 s left'
    """
    said = status_items(progress)
    while width is not None and len(GAP.join(fact.text for fact in said)) > width and len(said) > 1:
        last = max(fact.rank for fact in said)
        said = [fact for fact in said if fact.rank < last]
    whole = GAP.join(fact.text for fact in said)
    return whole if width is None else whole[:width]


def status_items(progress: Progress) -> list[StatusItem]:
    """Say everything, in the order in which it is read."""
    p = progress
    left = "" if p.remaining_s is None else f"{duration(p.remaining_s)} left"
    said = (
        StatusItem(STOPPING if p.stopping and not p.finished else "", 1),
        StatusItem(f"{p.done:,}/{p.total:,} rows"),
        StatusItem(percent_done(p), 1),
        StatusItem(f"{p.unanswered:,} not asked" if p.unanswered else "", 1),
        StatusItem(f"{p.cached:,} cached" if p.cached else "", 4),
        StatusItem(f"{p.failed:,} failed" if p.failed else "", 2),
        StatusItem(row_rate(p.rows_per_s), 5),
        StatusItem(duration(p.elapsed_s) if p.finished else left, 3),
        StatusItem(token_counts(p), 8),
        StatusItem(cost_text(p), 6),
        StatusItem(f"limit: {p.limited_by}" if p.limited_by else "", 7),
    )
    return [fact for fact in said if fact.text]


def percent_done(progress: Progress) -> str:
    """Say how much is done in percent; at the end, how many rows had nothing to ask."""
    p = progress
    skipped = p.total - p.done - p.unanswered
    if p.finished and skipped:
        return f"{skipped:,} skipped"
    return f"{100 * p.done // p.total if p.total else 100} %"


def row_rate(rows_s: float) -> str:
    """Write a pace.

    Examples
    --------
    >>> row_rate(1234.5), row_rate(2.5), row_rate(0.04), row_rate(0)
    ('1,234 rows/s', '2 rows/s', '0.04 rows/s', '0 rows/s')
    """
    return f"{rows_s:,.0f} rows/s" if rows_s >= 1 or not rows_s else f"{rows_s:.2g} rows/s"


def duration(seconds: float) -> str:
    """Write a time for reading.

    Examples
    --------
    >>> duration(0.25), duration(59.6), duration(90), duration(5000)
    ('250 ms', '1 min 0 s', '1 min 30 s', '1 h 23 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    minutes, rest = divmod(round(seconds), MINUTE)
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def token_counts(said: Progress | ModelProgress) -> str:
    """Say what went in and came out.

    Examples
    --------
    >>> token_counts(ModelProgress(model="p/m", total=9, input_tokens=12_345, output_tokens=999))
    '12.3 k tokens in, 999 out'
    """
    if not said.input_tokens and not said.output_tokens:
        return ""
    return f"{format_count(said.input_tokens)} tokens in, {format_count(said.output_tokens)} out"


def cost_text(said: Progress | ModelProgress) -> str:
    """Say what was spent, and what will have been.

    Examples
    --------
    >>> cost_text(ModelProgress(model="p/m", total=9, spent_usd=Decimal("0.012"), forecast_usd=Decimal("0.05")))
    '0.012 of about 0.050 USD'
    """
    spent, forecast = said.spent_usd, said.forecast_usd
    if spent is None:
        return ""
    if forecast is None or forecast == spent:
        return f"{usd_amount(spent)} USD" if spent else ""
    return f"{usd_amount(spent)} of about {usd_amount(forecast)} USD"


def usd_amount(money: Decimal) -> str:
    """Write money as short as its size permits: two digits that count, and cents at least.

    Examples
    --------
    >>> usd_amount(Decimal(0)), usd_amount(Decimal("1234.567")), usd_amount(Decimal("0.0123")), usd_amount(Decimal("0.00000456"))
    ('0', '1,234.57', '0.012', '0.0000046')
    """
    if not money:
        return "0"
    return f"{money:,.{2 if money >= 1 else max(2, 1 - math.floor(math.log10(money)))}f}"


def join_items(said: Sequence[StatusItem], between: str) -> str:
    """Write facts one after another."""
    return between.join(fact.text for fact in said)
