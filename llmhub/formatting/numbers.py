"""Numbers as text: money, durations, counts, rates, percentages and sizes.

Every function returns a short string for tables, axes and progress lines; none of them is meant to be parsed again.
Three significant digits are the default, because a run's figures are rarely known better. No exponents are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

THOUSANDS_UNITS: Final = ((4, " T"), (3, " G"), (2, " M"), (1, " k"))
"""Powers of 1000 and their suffixes, largest first."""
MINUTE_S: Final = 60
MEGABYTE: Final = 1_000_000


def format_usd(amount: float | Decimal, *, symbol: str = "$", digits: int = 3) -> str:
    """Format an amount of US dollars.

    Parameters
    ----------
    amount
        US dollars.
    symbol
        Put in front. Pass ``""`` in HTML for notebooks, which read ``$`` as the start of mathematics.
    digits
        Significant digits of amounts below 1 dollar. Amounts from 1 dollar have two decimal places, amounts from
        100 dollars none.

    Examples
    --------
    >>> format_usd(0), format_usd(1234.6), format_usd(2.5), format_usd(0.01234), format_usd(0.0000012)
    ('$0', '$1,235', '$2.50', '$0.0123', '$0.00000120')
    >>> format_usd(Decimal("0.0123"), symbol="", digits=2)
    '0.012'
    """
    size = abs(float(amount))
    if size == 0:
        return f"{symbol}0"
    if size >= 100:  # noqa: PLR2004 - cents are noise in sums of this size
        return f"{symbol}{amount:,.0f}"
    if size >= 1:
        return f"{symbol}{amount:,.2f}"
    return f"{symbol}{amount:.{digits - 1 - math.floor(math.log10(size))}f}"


def format_usd_tick(amount: float) -> str:
    """Format a round amount of US dollars for an axis tick, without trailing zeros.

    Examples
    --------
    >>> format_usd_tick(0.0), format_usd_tick(0.5), format_usd_tick(2500), format_usd_tick(1e-6)
    ('$0', '$0.5', '$2,500', '$0.000001')
    """
    if amount == int(amount):
        return f"${amount:,.0f}"
    return f"${amount:.{4 - math.floor(math.log10(abs(amount)))}f}".rstrip("0")


def format_duration(duration_s: float) -> str:
    """Format a latency in milliseconds or seconds with three significant digits.

    Examples
    --------
    >>> format_duration(0.01234), format_duration(0.5), format_duration(2.3), format_duration(61.2)
    ('12.3 ms', '500 ms', '2.30 s', '61.2 s')
    """
    number, unit = (duration_s, "s") if duration_s >= 1 else (duration_s * 1000, "ms")
    integral = number == 0 or number >= 100  # noqa: PLR2004 - three digits stand before the decimal point
    return f"{number:.0f} {unit}" if integral else f"{number:#.3g} {unit}"


def format_elapsed(duration_s: float) -> str:
    """Format an elapsed or a remaining time in the two largest units that apply.

    Examples
    --------
    >>> format_elapsed(0.25), format_elapsed(59.6), format_elapsed(90), format_elapsed(5000)
    ('250 ms', '1 min 0 s', '1 min 30 s', '1 h 23 min')
    """
    if duration_s < 1:
        return f"{duration_s * 1000:.0f} ms"
    minutes, seconds = divmod(round(duration_s), MINUTE_S)
    hours, minutes = divmod(minutes, MINUTE_S)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def format_duration_range(low_s: float, high_s: float) -> str:
    """Format an estimated range of durations in seconds, minutes or hours.

    Examples
    --------
    >>> format_duration_range(6, 30), format_duration_range(300, 1200), format_duration_range(30, 18000)
    ('6 to 30 seconds', '5 to 20 minutes', '30 seconds to 5.0 hours')
    """
    (low, low_unit), (high, high_unit) = _number_and_unit(low_s), _number_and_unit(high_s)
    return f"{low}{'' if low_unit == high_unit else f' {low_unit}'} to {high} {high_unit}"


def _number_and_unit(duration_s: float) -> tuple[str, str]:
    minutes = duration_s / MINUTE_S
    if minutes < 2:  # noqa: PLR2004 - below two minutes seconds read better
        return f"{duration_s:.0f}", "seconds"
    if minutes < 2 * MINUTE_S:
        return f"{minutes:.0f}", "minutes"
    return f"{minutes / MINUTE_S:.1f}", "hours"


def format_count(count: float) -> str:
    """Format a count with three significant digits and a suffix for thousands, millions and so on.

    Examples
    --------
    >>> format_count(999), format_count(12_000), format_count(456_000_000)
    ('999', '12.0 k', '456 M')
    """
    number, unit = _scale_to_thousands(count)
    return f"{number:#.3g}".rstrip(".") + unit if unit else f"{number:.0f}"


def format_count_tick(count: float) -> str:
    """Format a round count for an axis tick.

    Examples
    --------
    >>> format_count_tick(0), format_count_tick(12_500)
    ('0', '12.5 k')
    """
    number, unit = _scale_to_thousands(count)
    return f"{number:g}{unit}"


def _scale_to_thousands(count: float) -> tuple[float, str]:
    return next(((count / 1000**n, unit) for n, unit in THOUSANDS_UNITS if count >= 1000**n), (count, ""))


def format_quantity(count: int, noun: str, plural: str = "") -> str:
    """Format an exact count with its noun, in the plural unless the count is 1.

    Examples
    --------
    >>> format_quantity(1, "row"), format_quantity(1200, "row"), format_quantity(2, "query", "queries")
    ('1 row', '1,200 rows', '2 queries')
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def format_rate(rate: float) -> str:
    """Format a rate (a number per unit of time, without the unit) with three significant digits.

    Examples
    --------
    >>> format_rate(0.0412), format_rate(12.34), format_rate(1234.5)
    ('0.0412', '12.3', '1,234')
    """
    return f"{rate:,.3g}" if rate < 1000 else f"{rate:,.0f}"  # noqa: PLR2004 - three digits


def format_percent(share: float, digits: int = 1) -> str:
    """Format a share between 0 and 1 as a percentage with ``digits`` decimal places.

    Examples
    --------
    >>> format_percent(0.8123), format_percent(1.0), format_percent(0.256, 0)
    ('81.2 %', '100.0 %', '26 %')
    """
    return f"{share * 100:.{digits}f} %"


def format_megabytes(size_bytes: float) -> str:
    """Format a size in megabytes (10**6 bytes) with one decimal place.

    Examples
    --------
    >>> format_megabytes(12_345_678), format_megabytes(0)
    ('12.3 MB', '0.0 MB')
    """
    return f"{size_bytes / MEGABYTE:,.1f} MB"


def format_range(low: str, high: str) -> str:
    """Join two formatted bounds; equal bounds are written once.

    Examples
    --------
    >>> format_range("90", "110"), format_range("5", "5")
    ('90..110', '5')
    """
    return low if low == high else f"{low}..{high}"


def range_ratio(values: Sequence[float]) -> float:
    """Return the ratio of the largest to the smallest value; 1 if there are none or one is not positive."""
    return max(values) / min(values) if values and min(values) > 0 else 1.0
