"""Plans in a terminal: columns that line up, and intervals as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from llmhub.tables.forecast import Interval, Money


def lined(rows: Sequence[Sequence[str]]) -> str:
    """Line columns up: the first to the left, the others to the right; one that is empty but for its head is left out.

    Examples
    --------
    >>> print(lined([("model", "calls", ""), ("m", "1,000", "")]))
    model  calls
    m      1,000
    """
    shown = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    widths = {at: max(len(row[at]) for row in rows) for at in shown}
    return "\n".join(
        "  ".join(row[at].ljust(widths[at]) if at == 0 else row[at].rjust(widths[at]) for at in shown).rstrip()
        for row in rows
    )


def span(interval: Interval) -> str:
    """Write counts.

    Examples
    --------
    >>> span(Interval(90, 100, 110)), span(Interval(5, 5, 5))
    ('90..110', '5')
    """
    low, high = round(interval.low), round(interval.high)
    return f"{low:,}" if low == high else f"{low:,}..{high:,}"


def money(interval: Money | None) -> str:
    """Write dollars.

    Examples
    --------
    >>> money(Money(Decimal("0.00012"), Decimal("0.0002"), Decimal("0.0004"))), money(None)
    ('0.000120..0.000400', 'unknown')
    """
    if interval is None:
        return "unknown"
    low, high = amount(interval.low), amount(interval.high)
    return low if low == high else f"{low}..{high}"


def amount(usd: Decimal) -> str:
    """Write an amount of dollars with as many places as it needs.

    Examples
    --------
    >>> amount(Decimal("12.345678")), amount(Decimal("0.0000123")), amount(Decimal(0))
    ('12.35', '0.000012', '0')
    """
    if not usd:
        return "0"
    return f"{usd:.2f}" if usd >= 1 else f"{usd:.4f}" if usd >= Decimal("0.01") else f"{usd:.6f}"


def spell(minutes: Interval) -> str:
    """Write a time.

    Examples
    --------
    >>> spell(Interval(0.1, 0.2, 0.5)), spell(Interval(5, 10, 20)), spell(Interval(0.5, 10, 300))
    ('6 to 30 seconds', '5 to 20 minutes', '30 seconds to 5.0 hours')
    """
    low, high = _time(minutes.low), _time(minutes.high)
    return f"{low[0]}{'' if low[1] == high[1] else f' {low[1]}'} to {high[0]} {high[1]}"


def _time(minutes: float) -> tuple[str, str]:
    for below, factor, unit, places in ((2, 60, "seconds", 0), (120, 1, "minutes", 0)):
        if minutes < below:
            return f"{minutes * factor:.{places}f}", unit
    return f"{minutes / 60:.1f}", "hours"
