"""A budget as an immutable value: its limit, what was spent, and what is reserved for calls in flight.

Amounts are whole billionths of a dollar, so sums are exact. Law: if no call costs more than was reserved for it,
``spent`` never exceeds ``limit``, in whatever order calls end.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from enum import Enum
from typing import Final

from llmhub.core.errors import invalid
from llmhub.core.pricing import NANO_DIGITS

NANO_PER_USD: Final = Decimal(1).scaleb(NANO_DIGITS)


class BudgetDecision(Enum):
    """Whether a call may be sent now, has to wait until others are settled, or can never be afforded."""

    ALLOW = "go"
    WAIT = "wait"
    REJECT = "refuse"


@dataclass(frozen=True, slots=True)
class Budget:
    """State of a budget, in billionths of a dollar.

    Parameters
    ----------
    limit
        Maximum of ``spent``.
    spent
        Cost of the calls that have ended; a call whose cost is unknown counts with all that was reserved for it.
    reserved
        Maximum cost of the calls in flight.

    Examples
    --------
    >>> Budget(limit=1_000_000_000, spent=250_000_000).remaining_usd
    Decimal('0.75')
    """

    limit: int
    spent: int = 0
    reserved: int = 0

    @property
    def limit_usd(self) -> Decimal:
        """The limit in USD."""
        return nano_to_usd(self.limit)

    @property
    def spent_usd(self) -> Decimal:
        """Amount spent, in USD."""
        return nano_to_usd(self.spent)

    @property
    def reserved_usd(self) -> Decimal:
        """Amount reserved for calls in flight, in USD."""
        return nano_to_usd(self.reserved)

    @property
    def remaining_usd(self) -> Decimal:
        """Amount neither spent nor reserved, in USD."""
        return nano_to_usd(self.limit - self.spent - self.reserved)


def nano_to_usd(nanos: int) -> Decimal:
    """Convert billionths of a dollar to dollars.

    Examples
    --------
    >>> nano_to_usd(1_500_000)
    Decimal('0.0015')
    """
    return (Decimal(nanos) / NANO_PER_USD).normalize() + 0


def parse_budget(amount: object, path: str = "budget_usd") -> Budget:
    """Return a budget of ``amount`` USD; a float counts with the digits it is printed with.

    Raises
    ------
    BadRequestError
        If ``amount`` is not a finite number from 0.

    Examples
    --------
    >>> parse_budget(0.1).limit
    100000000
    """
    try:
        usd = Decimal("NaN") if isinstance(amount, bool) else Decimal(str(amount))
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd < 0:
        raise invalid(path, f"{amount!r:.40} is not an amount of money; pass US dollars from 0, such as 5.0")
    return Budget(limit=int((usd * NANO_PER_USD).to_integral_value(ROUND_FLOOR)))


def check_budget(budget: Budget, max_cost: int) -> BudgetDecision:
    """Decide whether a call that costs at most ``max_cost`` may be sent.

    Law: a rejected call would not fit if no other call were in flight; a waiting one would.
    """
    if budget.spent + max_cost > budget.limit:
        return BudgetDecision.REJECT
    fits = budget.spent + budget.reserved + max_cost <= budget.limit
    return BudgetDecision.ALLOW if fits else BudgetDecision.WAIT


def reserve(budget: Budget, max_cost: int) -> Budget:
    """Return the budget with the maximum cost of a call reserved.

    Examples
    --------
    >>> reserve(Budget(limit=10), 4)
    Budget(limit=10, spent=0, reserved=4)
    """
    return Budget(budget.limit, budget.spent, budget.reserved + max_cost)


def reconcile(budget: Budget, max_cost: int, cost: int) -> Budget:
    """Return the budget after a call: its reservation is released and its cost is spent.

    Examples
    --------
    >>> reconcile(Budget(limit=10, reserved=4), 4, 3)
    Budget(limit=10, spent=3, reserved=0)
    """
    return Budget(budget.limit, budget.spent + cost, budget.reserved - max_cost)
