"""A budget that processes share over a loopback connection: reservations, cancelled calls, and processes that die."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random

import pytest

from llmhub.core.budget import Budget
from llmhub.engine import remote_budget
from llmhub.engine.remote_budget import BudgetAddress, BudgetServer, RemoteBudget
from llmhub.engine.spending import SharedBudget


def connected(budget: SharedBudget, work: Callable[[RemoteBudget, RemoteBudget], Awaitable[None]]) -> None:
    """Run ``work`` with the budget as two other processes see it, and close them."""

    async def main() -> None:
        server = BudgetServer(budget)
        address = pickle.loads(pickle.dumps(await server.open()))
        remotes = RemoteBudget(address), RemoteBudget(address)
        async with asyncio.timeout(30):
            await work(*remotes)
            for remote in remotes:
                await remote.close()
            await server.close()

    asyncio.run(main())


def test_a_reservation_waits_for_those_of_other_processes_and_is_refused_only_without_them() -> None:
    budget = SharedBudget(Budget(10))

    async def work(one: RemoteBudget, other: RemoteBudget) -> None:
        assert await one.reserve(8)
        waiting = asyncio.create_task(other.reserve(8))
        assert not await other.reserve(11)
        assert not waiting.done()
        one.reconcile(8, 1)
        assert await waiting
        other.reconcile(8, 2)
        assert not await one.reserve(8)
        assert one.rejects(8)
        assert one.budget.spent == 3
        assert not one.rejects(7)

    connected(budget, work)
    assert budget.budget == Budget(10, spent=3)


@pytest.mark.parametrize("seed", range(5))
def test_what_two_processes_spend_never_exceeds_the_limit_and_refusals_do_not_fit(seed: int) -> None:
    random, budget, largest = Random(seed), SharedBudget(Budget(5_000)), 100
    costs: list[int] = []

    async def call(remote: RemoteBudget) -> None:
        max_cost = random.randint(largest // 2, largest)
        if await remote.reserve(max_cost):
            await asyncio.sleep(0)
            costs.append(random.randint(0, max_cost))
            remote.reconcile(max_cost, costs[-1])

    async def work(one: RemoteBudget, other: RemoteBudget) -> None:
        await asyncio.gather(*(call(remote) for _ in range(200) for remote in (one, other)))

    connected(budget, work)
    assert len(costs) < 400
    assert 5_000 - largest < sum(costs) <= 5_000
    assert budget.budget == Budget(5_000, spent=sum(costs))


def test_a_cancelled_call_reserves_nothing_and_is_in_nobodys_way() -> None:
    budget = SharedBudget(Budget(10))

    async def work(one: RemoteBudget, other: RemoteBudget) -> None:
        assert await one.reserve(6)
        waiting = asyncio.create_task(other.reserve(9))
        with pytest.raises(TimeoutError):  # it waits for the first
            await asyncio.wait_for(asyncio.shield(waiting), 0.01)
        at_once = asyncio.create_task(other.reserve(1))
        await asyncio.sleep(0)
        for task in (waiting, at_once):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await other.reserve(4)
        other.reconcile(4, 4)
        one.reconcile(6, 6)

    connected(budget, work)
    assert budget.budget == Budget(10, spent=10)


def test_what_a_killed_process_holds_counts_in_full_and_what_it_waits_for_is_free() -> None:
    budget = SharedBudget(Budget(10))

    async def work(one: RemoteBudget, other: RemoteBudget) -> None:
        assert await one.reserve(2)
        assert await one.reserve(3)
        one.reconcile(2, 1)
        assert await one.reserve(1)
        waiting = asyncio.create_task(one.reserve(7))
        await asyncio.sleep(0)
        writer = one._writer
        assert writer is not None
        writer.transport.abort()
        assert not await waiting
        assert not await one.reserve(1)
        assert await other.reserve(5)
        other.reconcile(5, 3)

    connected(budget, work)
    assert budget.budget == Budget(10, spent=8)


def test_what_a_process_holds_that_does_not_end_counts_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_budget, "CLOSE_S", 0.01)
    budget = SharedBudget(Budget(10))

    async def main() -> None:
        server = BudgetServer(budget)
        remote = RemoteBudget(replace(await server.open(), local=None))
        assert await remote.reserve(4)
        waiting = asyncio.create_task(remote.reserve(7))
        await asyncio.sleep(0)
        await server.close()
        assert not await waiting
        assert remote.refusal(7, None).message == remote_budget.LOST_MESSAGE  # type: ignore[arg-type]
        await remote.close()

    asyncio.run(main())
    assert budget.budget == Budget(10, spent=4)


def test_a_connection_without_the_token_reserves_nothing() -> None:
    budget = SharedBudget(Budget(10))

    async def main() -> None:
        server = BudgetServer(budget)
        address = await server.open()
        stranger = RemoteBudget(replace(address, token="other", local=None))
        assert not await stranger.reserve(1)
        await server.close()

    asyncio.run(main())
    assert budget.budget == Budget(10)


def test_an_address_shows_no_token_and_is_the_budget_itself_in_its_own_process() -> None:
    budget = SharedBudget(Budget(10))
    address = BudgetAddress(budget.budget, 1, "secret-token", budget)
    assert address.connect() is budget
    assert isinstance(pickle.loads(pickle.dumps(address)).connect(), RemoteBudget)
    assert "secret-token" not in repr(address)
