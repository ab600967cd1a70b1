"""How numbers and names are written where there is little room: money, durations, counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

THOUSANDS_UNITS: Final = ((4, " T"), (3, " G"), (2, " M"), (1, " k"))


def format_usd(amount: float) -> str:
    """Write money as short as its size permits, never with an exponent.

    Examples
    --------
    >>> format_usd(0), format_usd(1234.6), format_usd(2.5), format_usd(0.01234), format_usd(0.0000012)
    ('$0', '$1,235', '$2.50', '$0.0123', '$0.00000120')
    """
    size = abs(amount)
    if size == 0:
        return "$0"
    if size >= 100:  # noqa: PLR2004 - from here on cents are noise
        return f"${amount:,.0f}"
    if size >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.{2 - math.floor(math.log10(size))}f}"


def format_usd_tick(amount: float) -> str:
    """Write a round sum of money, as on an axis.

    Examples
    --------
    >>> format_usd_tick(0.0), format_usd_tick(0.5), format_usd_tick(2500), format_usd_tick(1e-6)
    ('$0', '$0.5', '$2,500', '$0.000001')
    """
    if amount == int(amount):
        return f"${amount:,.0f}"
    return f"${amount:.{4 - math.floor(math.log10(abs(amount)))}f}".rstrip("0")


def format_duration(duration_s: float) -> str:
    """Write a duration with three digits.

    Examples
    --------
    >>> format_duration(0.01234), format_duration(0.5), format_duration(2.3), format_duration(61.2)
    ('12.3 ms', '500 ms', '2.30 s', '61.2 s')
    """
    number, unit = (duration_s, "s") if duration_s >= 1 else (duration_s * 1000, "ms")
    whole = number == 0 or number >= 100  # noqa: PLR2004 - three digits and no more
    return f"{number:.0f} {unit}" if whole else f"{number:#.3g} {unit}"


def format_count(count: float) -> str:
    """Write a count with three digits and a unit of thousands.

    Examples
    --------
    >>> format_count(999), format_count(12_000), format_count(456_000_000)
    ('999', '12.0 k', '456 M')
    """
    number, unit = _scale_to_thousands(count)
    return f"{number:#.3g}".rstrip(".") + unit if unit else f"{number:.0f}"


def format_count_tick(count: float) -> str:
    """Write a round count, as on an axis.

    Examples
    --------
    >>> format_count_tick(0), format_count_tick(12_500)
    ('0', '12.5 k')
    """
    number, unit = _scale_to_thousands(count)
    return f"{number:g}{unit}"


def _scale_to_thousands(count: float) -> tuple[float, str]:
    return next(((count / 1000**n, unit) for n, unit in THOUSANDS_UNITS if count >= 1000**n), (count, ""))


def range_ratio(values: Sequence[float]) -> float:
    """Give the ratio of the largest to the smallest; 1 where a ratio makes no sense."""
    return max(values) / min(values) if values and min(values) > 0 else 1.0
