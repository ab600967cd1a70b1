"""How numbers and names are written where there is little room: money, durations, counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

UNITS: Final = ((4, " T"), (3, " G"), (2, " M"), (1, " k"))


def shortened(text: str, most: int) -> str:
    """Take characters out of the middle, where a name's are told apart least.

    Examples
    --------
    >>> shortened("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", 24)
    'bedrock/us.…0250929-v1:0'
    """
    if len(text) <= most:
        return text
    head = max(most - 1, 2) // 2
    return f"{text[:head]}…{text[-(max(most, 3) - 1 - head) :]}"


def usd(amount: float) -> str:
    """Write money as short as its size permits, never with an exponent.

    Examples
    --------
    >>> usd(0), usd(1234.6), usd(2.5), usd(0.01234), usd(0.0000012)
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


def plain_usd(amount: float) -> str:
    """Write a round sum of money, as on an axis.

    Examples
    --------
    >>> plain_usd(0.0), plain_usd(0.5), plain_usd(2500), plain_usd(1e-6)
    ('$0', '$0.5', '$2,500', '$0.000001')
    """
    if amount == int(amount):
        return f"${amount:,.0f}"
    return f"${amount:.{4 - math.floor(math.log10(abs(amount)))}f}".rstrip("0")


def seconds(time_s: float) -> str:
    """Write a duration with three digits.

    Examples
    --------
    >>> seconds(0.01234), seconds(0.5), seconds(2.3), seconds(61.2)
    ('12.3 ms', '500 ms', '2.30 s', '61.2 s')
    """
    number, unit = (time_s, "s") if time_s >= 1 else (time_s * 1000, "ms")
    whole = number == 0 or number >= 100  # noqa: PLR2004 - three digits and no more
    return f"{number:.0f} {unit}" if whole else f"{number:#.3g} {unit}"


def amount(count: float) -> str:
    """Write a count with three digits and a unit of thousands.

    Examples
    --------
    >>> amount(999), amount(12_000), amount(456_000_000)
    ('999', '12.0 k', '456 M')
    """
    number, unit = _thousands(count)
    return f"{number:#.3g}".rstrip(".") + unit if unit else f"{number:.0f}"


def plain_amount(count: float) -> str:
    """Write a round count, as on an axis.

    Examples
    --------
    >>> plain_amount(0), plain_amount(12_500)
    ('0', '12.5 k')
    """
    number, unit = _thousands(count)
    return f"{number:g}{unit}"


def _thousands(count: float) -> tuple[float, str]:
    return next(((count / 1000**n, unit) for n, unit in UNITS if count >= 1000**n), (count, ""))


def spread(values: Sequence[float]) -> float:
    """Give the ratio of the largest to the smallest; 1 where a ratio makes no sense."""
    return max(values) / min(values) if values and min(values) > 0 else 1.0
