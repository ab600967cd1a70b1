"""What tokens cost: rates as exact values, and the cost of a call.

A cost is counted in whole ticks, a tick being the power of ten of a dollar in which every rate of a price
is a whole number: sums are exact, and rounding to a billionth of a dollar happens once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from llmhub.core.types import Usage

NANO: Final = 9
"""Decimal places of a stored cost: a billionth of a dollar."""
FLOOR: Final = -1
"""Every request has more input tokens than this: the threshold of the tier that always applies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one token of each class costs, in USD; a class without a rate of its own is billed as its whole.

    Examples
    --------
    >>> Rates(input=Decimal("3e-6"), output=Decimal("15e-6")).each[1]
    Decimal('0.000003')
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None

    @property
    def each(self) -> tuple[Decimal, Decimal, Decimal, Decimal, Decimal]:
        """The rates of the disjoint classes: fresh input, cache read, cache write, visible output, reasoning."""
        read, write, thought = self.cached_input, self.cache_write, self.reasoning
        return (
            self.input,
            self.input if read is None else read,
            self.input if write is None else write,
            self.output,
            self.output if thought is None else thought,
        )


@dataclass(frozen=True, slots=True)
class Tier:
    """The rates of a request with more than ``above`` input tokens: they hold for all of its tokens."""

    above: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Ticks:
    """A price in whole numbers of ``10 ** -places`` USD; ``bands`` hold thresholds, largest first, and rates."""

    places: int
    request: int
    bands: tuple[tuple[int, tuple[int, int, int, int, int]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs.

    Parameters
    ----------
    price_id
        ``<source entry>@<date>``: the entry of the price table and the moment it was priced for.
    source
        The price table and its version.
    rates
        USD a token, exact.
    tiers
        Rates of longer requests.
    request_usd
        What each request costs besides its tokens.

    Raises
    ------
    ValueError
        A rate that is negative or no number.
    """

    price_id: str
    source: str
    rates: Rates
    tiers: tuple[Tier, ...] = ()
    request_usd: Decimal = Decimal(0)
    ticks: Ticks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Bring all rates to whole numbers."""
        ordered = sorted((Tier(FLOOR, self.rates), *self.tiers), key=lambda tier: -tier.above)
        rates = [rate for tier in ordered for rate in tier.rates.each] + [self.request_usd]
        if not all(rate.is_finite() and rate >= 0 for rate in rates):
            raise ValueError(f"{self.price_id}: a rate is negative or no number")
        places = max(NANO, *(-int(rate.as_tuple().exponent) for rate in rates))
        whole = [int(f"{rate:f}".replace(".", "")) * 10 ** (places - _places(rate)) for rate in rates]
        bands = tuple(
            (tier.above, (whole[at], whole[at + 1], whole[at + 2], whole[at + 3], whole[at + 4]))
            for at, tier in zip(range(0, len(whole), 5), ordered, strict=False)
        )
        object.__setattr__(self, "ticks", Ticks(places, whole[-1], bands))


def cost(usage: Usage, price: Price) -> Decimal | None:
    """Give the exact cost in USD, or ``None`` where the provider did not count input or output.

    Law: ``cost(a + b) == cost(a) + cost(b)`` for usages of one tier, at a price without a fee per request.

    Examples
    --------
    >>> each = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> cost(Usage(input_tokens=1000, output_tokens=10), each)
    Decimal('0.003150000')
    """
    total = _total(usage, price.ticks)
    return None if total is None else Decimal(f"{total}E-{price.ticks.places}")


def nano_usd(usage: Usage, price: Price) -> int | None:
    """Give the cost in billionths of a dollar, rounded half to even; ``None`` as in `cost`.

    Examples
    --------
    >>> each = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("0.5e-9"), output=Decimal(0)))
    >>> [nano_usd(Usage(input_tokens=n, output_tokens=0), each) for n in range(1, 6)]
    [0, 1, 2, 2, 2]
    """
    ticks = price.ticks
    total = _total(usage, ticks)
    if total is None or ticks.places == NANO:
        return total
    step: int = 10 ** (ticks.places - NANO)
    nanos, rest = divmod(total, step)
    return nanos + (2 * rest > step or (2 * rest == step and nanos % 2 == 1))


def _total(usage: Usage, ticks: Ticks) -> int | None:
    """Sum the disjoint classes; a part that is said to be larger than its whole leaves no negative rest."""
    taken, made = usage.input_tokens, usage.output_tokens
    if taken is None or made is None:
        return None
    for above, rates in ticks.bands:  # noqa: B007 - the rates of the band it stops at are used below
        if taken > above:
            break
    fresh, read, write, visible, thought = rates
    cached = usage.cached_input_tokens or 0
    written = usage.cache_write_tokens or 0
    reasoned = usage.reasoning_tokens or 0
    rest, said = taken - cached - written, made - reasoned
    return (
        ticks.request
        + (rest * fresh if rest > 0 else 0)
        + cached * read
        + written * write
        + (said * visible if said > 0 else 0)
        + reasoned * thought
    )


def _places(rate: Decimal) -> int:
    """Count the decimal places of a rate as it is written out."""
    return max(0, -int(rate.as_tuple().exponent))
