"""A budget as a value: what may be spent, what is spent, and what is set aside for calls under way.

Amounts are whole billionths of a dollar, so sums are exact. Law: when no call costs more than was set aside for it,
``spent`` never exceeds ``limit``, whatever the order in which calls end.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from enum import Enum
from typing import Final

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.pricing import NANO_DIGITS

NANO_PER_USD: Final = Decimal(1).scaleb(NANO_DIGITS)


class BudgetDecision(Enum):
    """Whether a call may go now, has to wait until others are reckoned up, or never fits."""

    ALLOW = "go"
    WAIT = "wait"
    REJECT = "refuse"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent and what became of it, in billionths of a dollar.

    Parameters
    ----------
    limit
        What may be spent in all.
    spent
        What calls that ended cost; a call that may have been charged without saying so counts whole.
    reserved
        What calls under way may still cost.

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
        """What may be spent in all, in USD."""
        return nano_to_usd(self.limit)

    @property
    def spent_usd(self) -> Decimal:
        """What is spent, in USD."""
        return nano_to_usd(self.spent)

    @property
    def reserved_usd(self) -> Decimal:
        """What is set aside for calls under way, in USD."""
        return nano_to_usd(self.reserved)

    @property
    def remaining_usd(self) -> Decimal:
        """What is neither spent nor set aside, in USD."""
        return nano_to_usd(self.limit - self.spent - self.reserved)


def nano_to_usd(nanos: int) -> Decimal:
    """Give billionths of a dollar as dollars.

    Examples
    --------
    >>> nano_to_usd(1_500_000)
    Decimal('0.0015')
    """
    return (Decimal(nanos) / NANO_PER_USD).normalize() + 0


def parse_budget(amount: object, path: str = "budget_usd") -> Budget:
    """Read what may be spent, in USD: a number of any kind, at its face value.

    Raises
    ------
    InvalidRequestError
        It is no amount of money.

    Examples
    --------
    >>> parse_budget(0.1).limit
    100000000
    """
    try:
        wanted = Decimal(str(amount)) if not isinstance(amount, bool) else Decimal("NaN")
    except InvalidOperation:
        wanted = Decimal("NaN")
    if not wanted.is_finite() or wanted < 0:
        raise BadRequestError(
            InvalidRequest(path=path, message=f"{amount!r:.40} is no amount; give US dollars from 0 up, such as 5.0")
        )
    return Budget(limit=int((wanted * NANO_PER_USD).to_integral_value(ROUND_FLOOR)))


def check_budget(budget: Budget, max_cost: int) -> BudgetDecision:
    """Say whether a call that costs at most ``max_cost`` may go.

    Law: what is refused would not fit if nothing were under way; what waits would.
    """
    if budget.spent + max_cost > budget.limit:
        return BudgetDecision.REJECT
    return BudgetDecision.ALLOW if budget.spent + budget.reserved + max_cost <= budget.limit else BudgetDecision.WAIT


def reserve(budget: Budget, max_cost: int) -> Budget:
    """Set aside what a call costs at most.

    Examples
    --------
    >>> reserve(Budget(limit=10), 4)
    Budget(limit=10, spent=0, reserved=4)
    """
    return Budget(budget.limit, budget.spent, budget.reserved + max_cost)


def reconcile(budget: Budget, max_cost: int, cost: int) -> Budget:
    """Give back what was set aside, and count what was paid.

    Examples
    --------
    >>> reconcile(Budget(limit=10, reserved=4), 4, 3)
    Budget(limit=10, spent=3, reserved=0)
    """
    return Budget(budget.limit, budget.spent + cost, budget.reserved - max_cost)
