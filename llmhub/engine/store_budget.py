"""A budget that processes share through a store: each books parts of it, and gives back what it does not spend."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Final

from llmhub.cache.shared_limiter import Member, SharedLimiter, TotalBooking
from llmhub.cache.store import StoreError
from llmhub.core.budget import Budget, BudgetDecision, check_budget
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.spending import SharedBudget

CALLS_PER_PART: Final = 32
"""A part is for so many calls of the present size, if so much is left."""

STORE_WAITS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Times between attempts to reach a store that is lost; then calls are refused, since nothing is known to be left."""


class StoreBudget(SharedBudget):
    """The parts of a shared budget that this process has booked. Use it on one loop only.

    ``budget.limit`` is what is booked. Calls that wait for a shared rate limit book their part in the same store call;
    others book parts by themselves. A call is refused only if the store has nothing left for it and no call in flight
    here can give anything back, or if the store cannot be reached for some time.

    Parameters
    ----------
    limiter
        The limiter of the store, which keeps the total.
    name
        Name of the budget.
    whole
        The budget of all processes.
    """

    is_leased = True

    def __init__(self, limiter: SharedLimiter, name: str, whole: Budget) -> None:
        super().__init__(Budget(0))
        self.whole = whole
        self._limiter, self._name = limiter, name
        self._member = Member("budget", secrets.token_hex(8))
        self._expected = 0

    def rejects(self, max_cost: int) -> bool:
        """Return whether a call can never fit: it may cost more than the whole budget."""
        return max_cost > self.whole.limit

    def missing(self, amount: int) -> TotalBooking | None:
        """Return what to book so that calls that may cost ``amount`` nano USD fit; ``None`` if they do."""
        missing = self.budget.spent + self.budget.reserved + self._expected + amount - self.budget.limit
        return self._booking(missing) if missing > 0 else None

    def add(self, granted: int) -> None:
        """Add nano USD that the store has granted."""
        self.budget = replace(self.budget, limit=self.budget.limit + granted)
        self._wake()

    def expect(self, amount: int) -> None:
        """Count a call that was admitted and is about to reserve ``amount``; negative if it was cancelled instead."""
        self._expected = max(self._expected + amount, 0)

    async def reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD as soon as it fits, booking a further part if necessary."""
        self.expect(-max_cost)
        while check_budget(self.budget, max_cost) is not BudgetDecision.ALLOW:
            missing = self.budget.spent + self.budget.reserved + max_cost - self.budget.limit
            granted = await self._book_patiently(max(missing, CALLS_PER_PART * max_cost))
            self.add(granted)
            if not granted:
                break
        return await super().reserve(max_cost)

    def unspent(self) -> list[TotalBooking]:
        """Return the booking that gives back what was booked and not spent."""
        unspent = self.budget.limit - self.budget.spent - self.budget.reserved
        if unspent <= 0:
            return []
        self.budget = replace(self.budget, limit=self.budget.limit - unspent)
        return [self._booking(-unspent)]

    async def _book_patiently(self, amount: int) -> int:
        """Book an amount; a store that is lost is asked again for some time."""
        for wait_s in (*STORE_WAITS_S, None):
            try:
                return await run_in_thread(self._book, amount)
            except StoreError:
                if wait_s is not None:
                    await asyncio.sleep(wait_s)
        return 0

    def _book(self, amount: int) -> int:
        return self._limiter.book(f"budget {self._name}", self._member, [], [self._booking(amount)]).totals[0]

    def _booking(self, amount: int) -> TotalBooking:
        return total_of_budget(self._name, amount, self.whole.limit)


def total_of_budget(name: str, amount: int, limit: int) -> TotalBooking:
    """Return the booking of a part of a budget; an amount of 0 reads what all processes have booked."""
    return TotalBooking(f"budget {name}", amount, limit)
