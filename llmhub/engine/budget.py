"""Spending no more than was permitted: the worst case is set aside before a call goes, and reckoned up when it ends.

The sums are pure (`llmhub.core.budget`, `llmhub.core.bounds`); here calls wait for them. A call waits only while what
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

from llmhub.core.bounds import most_input_tokens, most_nano_usd, most_output_tokens
from llmhub.core.budget import Budget, Verdict, judge, reconcile, reserve, usd
from llmhub.core.cost import Price, nano_usd
from llmhub.core.errors import UNREACHED, BudgetExceeded, Cancelled, Disconnected, LLMError, Malformed, TimedOut
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.providers.models import metadata
from llmhub.providers.prices import price, price_served

HOUR_S: Final = 3600.0
CHARGEABLE: Final[frozenset[type[LLMError]]] = frozenset({TimedOut, Disconnected, Malformed, Cancelled})
"""Failures after which the provider may have charged for what never came: counted at what it cost at most."""


class Prices:
    """Prices by target, each looked up once an hour: some change with the time of day."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hour = 0.0
        self._found: dict[tuple[str, str, str], Price | None] = {}

    def of(self, target: Target, served: str = "") -> Price | None:
        """Give the price of what ``target`` served, or of what it is asked for; ``None`` where it is not known."""
        now = self._clock()
        if now // HOUR_S != self._hour:
            self._hour = now // HOUR_S
            self._found.clear()
        sought = (target.provider.name, target.model, served)
        if sought not in self._found:
            at = datetime.fromtimestamp(now, UTC)
            found = price_served(*sought, at) if served else price(*sought[:2], at)
            self._found[sought] = found
        return self._found[sought]


class Wallet:
    """A budget that calls under way share, and those who wait for it, in the order of asking. Lives on one loop."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()

    async def reserve(self, worst: int) -> bool:
        """Set aside ``worst`` billionths of a dollar as soon as that fits; say no when it never will."""
        verdict = judge(self.budget, worst)
        if verdict is Verdict.REFUSE:
            return False
        if verdict is Verdict.GO and not self._waiting:
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
                verdict = judge(self.budget, worst)
                if verdict is Verdict.WAIT:
                    return
                if verdict is Verdict.GO:
                    self.budget = reserve(self.budget, worst)
                told.set_result(verdict is Verdict.GO)
            self._waiting.popleft()


@dataclass(frozen=True, slots=True)
class Purse:
    """The budgets that a call must fit into, all of them; ``allow_unpriced`` lets pass what has no known price."""

    wallets: tuple[Wallet, ...] = ()
    allow_unpriced: bool = False


NO_PURSE: Final = Purse()


def most_usd(target: Target, request: CompletionRequest, at_price: Price) -> int:
    """Give what a call costs at most, in billionths of a dollar."""
    known = metadata(target.provider.name, target.model)
    taken = most_input_tokens(request, known.context_window)
    return most_nano_usd(at_price, taken, most_output_tokens(request, known.max_output_tokens))


def budgeted(purse: Purse, prices: Prices, gate: Middleware) -> Middleware:
    """Make the middleware that sets the worst case aside for each attempt; ``purse`` is for calls without their own.

    It is set aside once the ``gate`` lets the call go: what waits there would keep it from those who may go. What does
    not fit, whatever becomes of those under way, is refused without waiting.
    """

    def wrap(send: Send) -> Send:
        there = gate(send)

        async def sending(call: Call) -> Answer:
            held = call.purse or purse
            if not held.wallets:
                return await there(call)
            at_price = prices.of(call.target)
            if at_price is None and not held.allow_unpriced:
                return Answer(Failure(BudgetExceeded(provider=call.target.provider.name, message=UNPRICED)))
            worst = most_usd(call.target, call.request, at_price) if at_price is not None else 0
            short = next((one for one in held.wallets if judge(one.budget, worst) is Verdict.REFUSE), None)
            if short is not None:
                return Answer(Failure(_refused(short.budget, worst, call)))
            return await gate(_within(held.wallets, worst, prices, send))(call)

        return sending

    return wrap


UNPRICED: Final = "no price is known, so no budget can hold it; allow_unpriced=True lets it pass uncounted"


def _within(wallets: tuple[Wallet, ...], worst: int, prices: Prices, send: Send) -> Send:
    """Send a call with ``worst`` set aside in every wallet, and count what it cost."""

    async def sending(call: Call) -> Answer:
        taken: list[Wallet] = []
        sent: list[bool] = []
        paid = 0
        try:
            for wallet in wallets:
                if not await wallet.reserve(worst):
                    return Answer(Failure(_refused(wallet.budget, worst, call)))
                taken.append(wallet)
            try:
                answer = await send(call.telling(lambda: sent.append(True)))
            except BaseException:
                # Cut off on the wire: it may be charged in full.
                paid = worst if sent else 0
                raise
            paid = _paid(answer, worst, call.target, prices)
            return answer
        finally:
            for wallet in taken:
                wallet.reconcile(worst, paid)

    return sending


def _paid(answer: Answer, worst: int, target: Target, prices: Prices) -> int:
    """Give what an attempt cost, by what the provider counted; at most, where it did not say."""
    if answer.cache_hit:
        return 0
    if is_successful(answer.outcome):
        response = answer.outcome.unwrap()
        found = prices.of(target, response.served_model)
        counted = nano_usd(response.usage, found) if found is not None else 0
        return worst if counted is None else counted
    error = answer.outcome.failure()
    begun = answer.ttft_s is not None or type(error) in CHARGEABLE
    if begun and answer.attempts and error.code != UNREACHED:
        return worst
    priced = ((prices.of(spent.target), spent.usage) for spent in answer.spent)
    return sum(nano_usd(usage, found) or 0 for found, usage in priced if found is not None)


def _refused(budget: Budget, worst: int, call: Call) -> BudgetExceeded:
    left = max(budget.limit - budget.spent, 0)
    said = f"the call may cost ${usd(worst):f}, and of the budget of ${budget.limit_usd:f} only ${usd(left):f} is left"
    bound = "" if call.request.max_tokens is not None else "; max_tokens would bound it"
    return BudgetExceeded(provider=call.target.provider.name, message=said + bound)
