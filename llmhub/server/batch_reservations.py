"""Reserve in the budgets of a key what rows may cost that are sent in batches, and settle it with their answers.

The engine reserves batches in budgets of this process only; those of keys are shared by all replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from returns.result import Failure, Result, Success

from llmhub.core.errors import BudgetExceeded, LLMError
from llmhub.engine.call import Answer, Call
from llmhub.engine.fan_out_types import PlannedItem
from llmhub.engine.spending import UNPRICED_MESSAGE, Budgets, SharedBudget, max_cost_nano_usd
from llmhub.server.service import Service


@dataclass(slots=True)
class BatchReservation:
    """A reservation for one row: at most ``max_cost``, in billionths of a dollar, in each budget."""

    max_cost: int = 0
    budgets: tuple[SharedBudget, ...] = ()

    def settle(self, cost_nano_usd: int) -> None:
        """Book the cost, and release the rest."""
        for budget in self.budgets:
            budget.reconcile(self.max_cost, cost_nano_usd)
        self.budgets = ()


async def reserve_call(
    service: Service, own: Budgets, call: Call, *, is_reserved: bool = False, at_full_price: bool = False
) -> Result[BatchReservation, LLMError]:
    """Reserve what a call may cost at the price of batches; return the error if it does not fit.

    With ``is_reserved``, budgets that outlive the process have its reservation from an earlier one. With
    ``at_full_price``, the call may be sent by itself in the end.
    """
    target = call.target
    price = service.prices.lookup(target) if at_full_price else service.batch_price(target)
    if price is None and not own.allow_unpriced:
        return Failure(BudgetExceeded(provider=target.provider.name, message=UNPRICED_MESSAGE))
    max_cost = 0 if price is None else max_cost_nano_usd(target, call.request, price)
    reserved: list[SharedBudget] = []
    for budget in own.shared:
        if is_reserved and budget.outlives_process:
            continue
        if budget.rejects(max_cost) or not await budget.try_reserve(max_cost):
            BatchReservation(max_cost, tuple(reserved)).settle(0)
            return Failure(budget.refusal(max_cost, call))
        reserved.append(budget)
    return Success(BatchReservation(max_cost, tuple(reserved)))


class BatchReservations:
    """The reservations of the rows of one run. Use it on the engine's loop, except `chunks`.

    Parameters
    ----------
    own
        Budgets of the key.
    on_refused
        Called with the position and the answer of a row that does not fit.
    at_full_price
        Whether rows may be sent by themselves in the end.
    """

    def __init__(
        self, service: Service, own: Budgets, on_refused: Callable[[int, Answer], None], *, at_full_price: bool
    ) -> None:
        self._service = service
        self._own = own
        self._on_refused = on_refused
        self._at_full_price = at_full_price
        self._loop = asyncio.get_running_loop()
        self._held: dict[int, tuple[Call, BatchReservation]] = {}

    def chunks(self, planned: Iterator[Iterable[PlannedItem]]) -> Iterator[list[PlannedItem]]:
        """Yield the rows that fit. It runs in a thread."""
        for items in planned:
            calls = [(item, item[2](item[3], item[1])) for item in items]
            yield asyncio.run_coroutine_threadsafe(self._reserve(calls), self._loop).result()

    async def _reserve(self, calls: list[tuple[PlannedItem, Call]]) -> list[PlannedItem]:
        admitted: list[PlannedItem] = []
        for item, call in calls:
            reserved = await reserve_call(self._service, self._own, call, at_full_price=self._at_full_price)
            if isinstance(reserved, Success):
                self._held[item[0]] = (call, reserved.unwrap())
                admitted.append(item)
            else:
                self._on_refused(item[0], Answer(Failure(reserved.failure())))
        return admitted

    def settle(self, position: int, answer: Answer) -> None:
        """Book the cost of a row's answer."""
        held = self._held.pop(position, None)
        if held is None:
            return
        call, reservation = held
        if isinstance(answer.outcome, Success):
            billed = self._service.costs(call.target, answer).billed_usd
            reservation.settle(reservation.max_cost if billed is None else int(billed.scaleb(9)))
        else:
            reservation.settle(0)

    def release(self) -> None:
        """Release what is reserved for rows without an answer."""
        for _, reservation in self._held.values():
            reservation.settle(0)
        self._held.clear()
