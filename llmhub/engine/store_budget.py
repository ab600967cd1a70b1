"""A budget that processes share through a store: each books parts of it, and gives back what it does not spend."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Final

from llmhub.cache.shared_limiter import Member, SharedLimiter, TotalBooking
from llmhub.core.budget import Budget, BudgetDecision, check_budget
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.spending import SharedBudget

CALLS_PER_PART: Final = 32
"""A part is for so many calls of the present size, if so much is left."""


class StoreBudget(SharedBudget):
    """The parts of a shared budget that this process has booked. Use it on one loop only.

    ``budget.limit`` is what is booked. A call is refused only if the store has nothing left for it and no call in
    flight here can give anything back.

    Parameters
    ----------
    limiter
        The limiter of the store, which keeps the total.
    name
        Name of the budget.
    whole
        The budget of all processes.
    """

    def __init__(self, limiter: SharedLimiter, name: str, whole: Budget) -> None:
        super().__init__(Budget(0))
        self.whole = whole
        self._limiter, self._name = limiter, name
        self._member = Member("budget", secrets.token_hex(8))

    def rejects(self, max_cost: int) -> bool:
        """Return whether a call can never fit: it may cost more than the whole budget."""
        return max_cost > self.whole.limit

    async def reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD as soon as it fits, booking a further part if necessary."""
        while check_budget(self.budget, max_cost) is not BudgetDecision.ALLOW:
            missing = self.budget.spent + self.budget.reserved + max_cost - self.budget.limit
            granted = await run_in_thread(self._book, max(missing, CALLS_PER_PART * max_cost))
            self.budget = replace(self.budget, limit=self.budget.limit + granted)
            if not granted:
                break
        return await super().reserve(max_cost)

    def close(self) -> None:
        """Return what was booked and not spent to the store; blocks."""
        unspent = self.budget.limit - self.budget.spent - self.budget.reserved
        if unspent > 0:
            self.budget = replace(self.budget, limit=self.budget.limit - unspent)
            self._book(-unspent)

    def _book(self, amount: int) -> int:
        total = TotalBooking(f"budget {self._name}", amount, self.whole.limit)
        return self._limiter.book(f"budget {self._name}", self._member, [], [total]).totals[0]
