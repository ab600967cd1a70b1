"""Keep calls within budgets: each call's maximum cost is reserved before it is sent and settled afterwards.

The arithmetic is pure (`llmhub.core.budget`, `llmhub.core.pricing`); here calls wait for each other. A call waits only
while reservations of calls in flight are in its way; one that would not fit even without them is refused at once.
Amounts are integers in billionths of a US dollar (``nano_usd``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil
from typing import Final, cast

import msgspec
from returns.result import Failure, Success

from llmhub.core.budget import Budget, BudgetDecision, check_budget, nano_to_usd, reconcile, reserve
from llmhub.core.errors import NOT_CONNECTED, POSSIBLY_BILLED, BudgetExceeded, LLMError, to_exception
from llmhub.core.pricing import Price, compute_cost_nano_usd, cost_bound_nano_usd, input_token_bound, output_token_bound
from llmhub.core.types import CacheMark, CompletionRequest, Document, Opaque
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.leased_limits import RESERVATIONS, LeasedBudget, Reservation
from llmhub.providers.prices import find_price, find_served_price
from llmhub.providers.registry import model_metadata

HOUR_S: Final = 3600.0
MAX_PRICES: Final = 1024
"""Prices that are kept: the names of models come from clients of a service."""
UNPRICED_MESSAGE: Final = "the price is unknown, so no budget can cover it; allow_unpriced=True sends it uncounted"


class TargetPrices:
    """Prices by target, each looked up once an hour, since some change with the time of day.

    Parameters
    ----------
    clock
        Returns epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hour = 0.0
        self._prices: dict[tuple[str, str, str], Price | None] = {}

    def lookup(self, target: Target, served_model: str = "") -> Price | None:
        """Return the price of ``served_model`` or, if that is empty, of the target's model; ``None`` if unknown.

        A look-up that fails counts as unknown, and is repeated by the next call.
        """
        now = self._clock()
        if now // HOUR_S != self._hour or len(self._prices) > MAX_PRICES:
            self._hour = now // HOUR_S
            self._prices.clear()
        provider, model = target.provider.name, target.model
        key = (provider, model, served_model)
        if key not in self._prices:
            moment = datetime.fromtimestamp(now, UTC)
            try:
                self._prices[key] = (
                    find_served_price(provider, model, served_model, moment)
                    if served_model
                    else find_price(provider, model, moment)
                )
            except Exception:  # noqa: BLE001 - a table that cannot be read (no file descriptors) is tried again
                return None
        return self._prices[key]


class Overruns:
    """How much more than their nominal maximum responses have cost, by target."""

    def __init__(self) -> None:
        self._factors: dict[str, Fraction] = {}

    def max_cost(self, target: Target, nominal: int) -> int:
        """Return the maximum cost of a call whose nominal maximum is ``nominal``; both in nano USD."""
        return ceil(nominal * self._factors.get(target.name, 1))

    def record(self, target: Target, nominal: int, cost: int) -> None:
        """Record what a call with that nominal maximum has cost."""
        if nominal and cost > self.max_cost(target, nominal):
            self._factors[target.name] = Fraction(cost, nominal)


class SharedBudget:
    """A budget shared by calls in flight, with a first-in first-out queue of waiting calls. Use it on one loop only."""

    is_leased = False
    """Whether processes share it through a store, so that it is booked together with rate limits."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent_by_copies = 0
        """What copies of the hub in other processes have spent of it, as far as that is known here; in nano USD."""
        self._waiting: deque[tuple[int, asyncio.Future[bool]]] = deque()

    def rejects(self, max_cost: int) -> bool:
        """Return whether a call that may cost ``max_cost`` nano USD can never be sent."""
        return check_budget(self.budget, max_cost) is BudgetDecision.REJECT

    async def reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD as soon as it fits; return whether it ever does."""
        decision = check_budget(self.budget, max_cost)
        if decision is BudgetDecision.REJECT:
            return False
        if decision is BudgetDecision.ALLOW and not self._waiting:
            self.budget = reserve(self.budget, max_cost)
            return True
        reserved: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((max_cost, reserved))
        try:
            return await reserved
        except asyncio.CancelledError:
            if reserved.done() and not reserved.cancelled() and reserved.result():
                self.reconcile(max_cost, 0)
            self._wake()
            raise

    async def reserve_share(self, parts: int) -> int:
        """Reserve one of ``parts`` equal shares of what is neither spent nor reserved; return it in nano USD.

        It is given back, like the reservation of a call, with `reconcile`.
        """
        budget = self.budget
        share = max(0, budget.limit - budget.spent - budget.reserved) // max(parts, 1)
        self.budget = reserve(budget, share)
        return share

    @property
    def outlives_process(self) -> bool:
        """Whether the reservations of a process that is killed count in full."""
        return False

    async def try_reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD if it fits now; return whether it did."""
        fits = check_budget(self.budget, max_cost) is BudgetDecision.ALLOW
        if fits:
            self.budget = reserve(self.budget, max_cost)
        return fits

    def reconcile(self, max_cost: int, cost: int) -> None:
        """Release a reservation of ``max_cost``, book the actual ``cost``, and admit the waiting calls that now fit."""
        self.budget = reconcile(self.budget, max_cost, cost)
        self._wake()

    def charge_copies(self, spent: int) -> None:
        """Count what copies of the hub in other processes have spent by now."""
        spent_since = spent - self.spent_by_copies
        self.budget, self.spent_by_copies = replace(self.budget, spent=self.budget.spent + spent_since), spent
        self._wake()

    def refusal(self, max_cost: int, call: Call) -> LLMError:
        """Return the error of a call that was not admitted."""
        return budget_error(self.budget, max_cost, call)

    def _wake(self) -> None:
        while self._waiting:
            max_cost, reserved = self._waiting[0]
            if not reserved.done():
                decision = check_budget(self.budget, max_cost)
                if decision is BudgetDecision.WAIT:
                    return
                if decision is BudgetDecision.ALLOW:
                    self.budget = reserve(self.budget, max_cost)
                reserved.set_result(decision is BudgetDecision.ALLOW)
            self._waiting.popleft()


@dataclass(frozen=True, slots=True)
class Budgets:
    """The budgets a call must fit into.

    Parameters
    ----------
    shared
        The budgets; the call must fit into each.
    allow_unpriced
        Whether a call without a known price is sent uncounted instead of refused.
    """

    shared: tuple[SharedBudget, ...] = ()
    allow_unpriced: bool = False


NO_BUDGETS: Final = Budgets()


def max_cost_nano_usd(target: Target, request: CompletionRequest, price: Price) -> int:
    """Return the maximum cost of a call in nano USD."""
    model = model_metadata(target.provider.name, target.model)
    input_tokens = input_token_bound(request, model.context_window)
    output_tokens = output_token_bound(request, model.max_output_tokens)
    tier = request.extra.get("service_tier")
    price = price.service_tiers.get(tier, price) if isinstance(tier, str) else price
    return cost_bound_nano_usd(
        price,
        input_tokens,
        output_tokens,
        writes_1h=_may_write_1h(request),
        # Audio is asked for, and may be given, in fields of the provider's own.
        audio=bool(request.extra)
        or any(isinstance(part, (Document, Opaque)) for message in request.messages for part in message.parts),
    )


def _may_write_1h(request: CompletionRequest) -> bool:
    """Return whether a request may ask the provider to cache a part of it for an hour."""
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, CacheMark) and part.ttl == "1h":
                return True
            if isinstance(part, Opaque) and '"1h"' in part.data:
                return True
    return bool(request.extra) and b'"1h"' in msgspec.json.encode(request.extra)


def require_call_fits(target: Target, request: CompletionRequest, budget: Budget, price: Price) -> None:
    """Raise if a call can never fit into a budget of which nothing is spent.

    Raises
    ------
    BudgetExceededError
        The message names the limit and a ``max_tokens`` that fits.
    """
    max_cost = max_cost_nano_usd(target, request, price)
    if max_cost <= budget.limit:
        return
    facts = model_metadata(target.provider.name, target.model)
    input_tokens = input_token_bound(request, facts.context_window)
    output_tokens = output_token_bound(request, facts.max_output_tokens)
    fitting = _largest_fitting(price, input_tokens, output_tokens, budget.limit)
    remedy = f"pass max_tokens={max(fitting // max(request.n, 1), 1):,} or less, or a" if fitting else "pass a"
    raise to_exception(
        BudgetExceeded(
            provider=target.provider.name,
            path="budget_usd",
            message=(
                f"the first call to {target.name} may cost ${nano_to_usd(max_cost):f} "
                f"({output_tokens:,} output tokens), more than the whole budget of ${budget.limit_usd:f}; "
                f"nothing was sent. To run, {remedy} budget_usd of at least ${nano_to_usd(max_cost):f}"
            ),
        )
    )


def _largest_fitting(price: Price, input_tokens: int, output_tokens: int, limit: int) -> int:
    """Return the most output tokens with which a call costs at most ``limit``, rounded to two digits; 0 if none."""
    low, high = 0, output_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost_bound_nano_usd(price, input_tokens, middle) <= limit else (low, middle - 1)
    unit = int(10 ** max(len(str(low)) - 2, 0))
    return low // unit * unit


def budget_middleware(budgets: Budgets, prices: TargetPrices, rate_limit: Middleware) -> Middleware:
    """Return the middleware that reserves the maximum cost of each attempt; ``budgets`` is for calls without their own.

    The reservation is made once ``rate_limit`` has admitted the call: a reservation of a call that waits there would
    block calls that may be sent. A call that can never fit is refused without waiting.

    A provider may charge more than the maximum: it ignores ``max_tokens``, or a dearer model answers. From the first
    such response on, as much more is reserved for calls to the same target, so that a budget is exceeded at most by the
    calls that were in flight then.
    """

    def wrap(send: Send) -> Send:
        send_unbudgeted = rate_limit(send)
        overruns = Overruns()

        async def send_within_budget(call: Call) -> Answer:
            own = call.budgets or budgets
            if not own.shared:
                return await send_unbudgeted(call)
            price = prices.lookup(call.target)
            if price is None and not own.allow_unpriced:
                return Answer(Failure(BudgetExceeded(provider=call.target.provider.name, message=UNPRICED_MESSAGE)))
            nominal = max_cost_nano_usd(call.target, call.request, price) if price is not None else 0
            max_cost = overruns.max_cost(call.target, nominal)
            for shared in own.shared:
                if shared.rejects(max_cost):
                    return Answer(Failure(shared.refusal(max_cost, call)))
            send_admitted = rate_limit(_reserve_and_send(own.shared, nominal, overruns, prices, send))
            leased = [budget for budget in own.shared if budget.is_leased]
            if not leased:
                return await send_admitted(call)
            token = RESERVATIONS.set(tuple(Reservation(cast("LeasedBudget", budget), max_cost) for budget in leased))
            try:
                return await send_admitted(call)
            finally:
                RESERVATIONS.reset(token)

        return send_within_budget

    return wrap


def _reserve_and_send(
    budgets: tuple[SharedBudget, ...], nominal: int, overruns: Overruns, prices: TargetPrices, send: Send
) -> Send:
    """Return a `Send` that holds a reservation in every budget while the call is in flight, and records its cost."""

    async def send_reserved(call: Call) -> Answer:
        max_cost = overruns.max_cost(call.target, nominal)  # it may have grown while the call waited for a rate limit
        reserved: list[SharedBudget] = []
        sent: list[bool] = []
        cost = 0

        def on_sent() -> None:
            sent.append(True)
            if call.on_sent is not None:
                call.on_sent()

        try:
            for budget in budgets:
                if not await budget.reserve(max_cost):
                    return Answer(Failure(budget.refusal(max_cost, call)))
                reserved.append(budget)
            try:
                answer = await send(call.with_on_sent(on_sent))
            except BaseException:
                # Cancelled on the wire: the provider may charge in full.
                cost = max_cost if sent else 0
                raise
            cost = _billed_nano_usd(answer, max_cost, call.target, prices)
            overruns.record(call.target, nominal, cost)
            return answer
        finally:
            for budget in reserved:
                budget.reconcile(max_cost, cost)

    return send_reserved


def _billed_nano_usd(answer: Answer, max_cost: int, target: Target, prices: TargetPrices) -> int:
    """Return the cost of an attempt from the provider's token counts, or its maximum if they are missing."""
    if answer.cache_hit:
        return 0
    if isinstance(answer.outcome, Success):
        response = answer.outcome.unwrap()
        price = prices.lookup(target, response.served_model)
        # The maximum is 0 for a call that is allowed without a price.
        cost = compute_cost_nano_usd(response.usage, price)
        return max_cost if cost is None else cost
    error = answer.outcome.failure()
    may_be_billed = answer.ttft_s is not None or type(error) in POSSIBLY_BILLED
    if may_be_billed and answer.attempts and error.code != NOT_CONNECTED:
        return max_cost
    priced = ((prices.lookup(failure.target), failure.usage) for failure in answer.billed_failures)
    return sum(compute_cost_nano_usd(usage, price) or 0 for price, usage in priced)


def budget_error(budget: Budget, max_cost: int, call: Call) -> BudgetExceeded:
    """Return the error of a call whose maximum cost does not fit into what is left of a budget."""
    remaining = nano_to_usd(max(budget.limit - budget.spent, 0))
    message = (
        f"the call may cost ${nano_to_usd(max_cost):f}, but only ${remaining:f} "
        f"of the budget of ${budget.limit_usd:f} is left"
    )
    hint = "" if call.request.max_tokens is not None else "; max_tokens limits what it can cost"
    return BudgetExceeded(provider=call.target.provider.name, message=message + hint)
