"""Spending no more than was permitted: the worst case is set aside before a call goes, and reckoned up when it ends.

The sums are pure (`llmhub.core.budget`, `llmhub.core.pricing`); here calls wait for them. A call waits only while what
is set aside for others stands in its way; one that would not fit if nothing were under way is refused at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.budget import Budget, BudgetDecision, check_budget, nano_to_usd, reconcile, reserve
from llmhub.core.errors import NOT_CONNECTED, BudgetExceeded, Cancelled, Disconnected, LLMError, Malformed, TimedOut
from llmhub.core.pricing import Price, compute_cost_nano_usd, cost_bound_nano_usd, input_token_bound, output_token_bound
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.providers.registry import model_metadata
from llmhub.providers.prices import find_price, find_served_price

HOUR_S: Final = 3600.0


POSSIBLY_BILLED: Final[frozenset[type[LLMError]]] = frozenset({TimedOut, Disconnected, Malformed, Cancelled})
"""Failures after which the provider may have charged for what never came: counted at what it cost at most."""


class TargetPrices:
    """Prices by target, each looked up once an hour: some change with the time of day."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hour = 0.0
        self._found: dict[tuple[str, str, str], Price | None] = {}

    def lookup(self, target: Target, served: str = "") -> Price | None:
        """Give the price of what ``target`` served, or of what it is asked for; ``None`` where it is not known."""
        now = self._clock()
        if now // HOUR_S != self._hour:
            self._hour = now // HOUR_S
            self._found.clear()
        sought = (target.provider.name, target.model, served)
        if sought not in self._found:
            at = datetime.fromtimestamp(now, UTC)
            found = find_served_price(*sought, at) if served else find_price(*sought[:2], at)
            self._found[sought] = found
        return self._found[sought]


class SharedBudget:
    """A budget that calls under way share, and those who wait for it, in the order of asking. Lives on one loop."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()

    async def reserve(self, worst: int) -> bool:
        """Set aside ``worst`` billionths of a dollar as soon as that fits; say no when it never will."""
        verdict = check_budget(self.budget, worst)
        if verdict is BudgetDecision.REJECT:
            return False
        if verdict is BudgetDecision.ALLOW and not self._waiting:
            self.budget = reserve(self.budget, worst)
            return True
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((worst, told))
        try:
            return await told
        except asyncio.CancelledError:
            if told.done() and not told.cancelled() and told.result():
                self.reconcile(worst, 0)
            self._wake()
            raise

    def reconcile(self, worst: int, paid: int) -> None:
        """Give back what was set aside, count what was paid, and let go whoever fits now."""
        self.budget = reconcile(self.budget, worst, paid)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            worst, told = self._waiting[0]
            if not told.done():
                verdict = check_budget(self.budget, worst)
                if verdict is BudgetDecision.WAIT:
                    return
                if verdict is BudgetDecision.ALLOW:
                    self.budget = reserve(self.budget, worst)
                told.set_result(verdict is BudgetDecision.ALLOW)
            self._waiting.popleft()


@dataclass(frozen=True, slots=True)
class Budgets:
    """The budgets that a call must fit into, all of them; ``allow_unpriced`` lets pass what has no known price."""

    shared: tuple[SharedBudget, ...] = ()
    allow_unpriced: bool = False


NO_BUDGETS: Final = Budgets()


def max_cost_nano_usd(target: Target, request: CompletionRequest, at_price: Price) -> int:
    """Give what a call costs at most, in billionths of a dollar."""
    known = model_metadata(target.provider.name, target.model)
    taken = input_token_bound(request, known.context_window)
    return cost_bound_nano_usd(at_price, taken, output_token_bound(request, known.max_output_tokens))


def budget_middleware(budgets: Budgets, prices: TargetPrices, rate_limit: Middleware) -> Middleware:
    """Make the middleware that sets the worst case aside for each attempt; ``budgets`` is for calls without their own.

    It is set aside once the ``rate_limit`` lets the call go: what waits there would keep it from those who may go. What does
    not fit, whatever becomes of those under way, is refused without waiting.
    """

    def wrap(send: Send) -> Send:
        there = rate_limit(send)

        async def sending(call: Call) -> Answer:
            held = call.budgets or budgets
            if not held.shared:
                return await there(call)
            at_price = prices.lookup(call.target)
            if at_price is None and not held.allow_unpriced:
                return Answer(Failure(BudgetExceeded(provider=call.target.provider.name, message=UNPRICED_MESSAGE)))
            worst = max_cost_nano_usd(call.target, call.request, at_price) if at_price is not None else 0
            short = next((one for one in held.shared if check_budget(one.budget, worst) is BudgetDecision.REJECT), None)
            if short is not None:
                return Answer(Failure(_budget_error(short.budget, worst, call)))
            return await rate_limit(_reserve_and_send(held.shared, worst, prices, send))(call)

        return sending

    return wrap


UNPRICED_MESSAGE: Final = "no price is known, so no budget can hold it; allow_unpriced=True lets it pass uncounted"


def _reserve_and_send(wallets: tuple[SharedBudget, ...], worst: int, prices: TargetPrices, send: Send) -> Send:
    """Send a call with ``worst`` set aside in every wallet, and count what it cost."""

    async def sending(call: Call) -> Answer:
        taken: list[SharedBudget] = []
        sent: list[bool] = []
        paid = 0
        try:
            for wallet in wallets:
                if not await wallet.reserve(worst):
                    return Answer(Failure(_budget_error(wallet.budget, worst, call)))
                taken.append(wallet)
            try:
                answer = await send(call.with_on_sent(lambda: sent.append(True)))
            except BaseException:
                # Cut off on the wire: it may be charged in full.
                paid = worst if sent else 0
                raise
            paid = _billed_nano_usd(answer, worst, call.target, prices)
            return answer
        finally:
            for wallet in taken:
                wallet.reconcile(worst, paid)

    return sending


def _billed_nano_usd(answer: Answer, worst: int, target: Target, prices: TargetPrices) -> int:
    """Give what an attempt cost, by what the provider counted; at most, where it did not say."""
    if answer.cache_hit:
        return 0
    if is_successful(answer.outcome):
        response = answer.outcome.unwrap()
        found = prices.lookup(target, response.served_model)
        counted = compute_cost_nano_usd(response.usage, found) if found is not None else 0
        return worst if counted is None else counted
    error = answer.outcome.failure()
    begun = answer.ttft_s is not None or type(error) in POSSIBLY_BILLED
    if begun and answer.attempts and error.code != NOT_CONNECTED:
        return worst
    priced = ((prices.lookup(spent.target), spent.usage) for spent in answer.billed_failures)
    return sum(compute_cost_nano_usd(usage, found) or 0 for found, usage in priced if found is not None)


def _budget_error(budget: Budget, worst: int, call: Call) -> BudgetExceeded:
    left = max(budget.limit - budget.spent, 0)
    said = f"the call may cost ${nano_to_usd(worst):f}, and of the budget of ${budget.limit_usd:f} only ${nano_to_usd(left):f} is left"
    bound = "" if call.request.max_tokens is not None else "; max_tokens would bound it"
    return BudgetExceeded(provider=call.target.provider.name, message=said + bound)
