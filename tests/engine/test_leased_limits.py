"""Leases of shared limits, in virtual time: several workers, each a rate limiter of its own, before one store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from returns.result import Failure, Success

import llmhub
from llmhub.cache.shared_limiter import Lease, Member, SharedLimiter, TotalBooking, memory_limiter
from llmhub.cache.store import StoreError
from llmhub.core.budget import Budget
from llmhub.core.errors import RateLimited
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, CompletionResponse, Message
from llmhub.engine.call import Answer, Call, Target, chain
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import FanOutSpec, Sender
from llmhub.engine.leased_limits import RESERVATIONS, Reservation, SharedLimits, account_scope
from llmhub.engine.limits import FixedWindow, Limit, RateCost, SlidingWindow
from llmhub.engine.rate_limiter import Permit, RateLimiter, rate_limit_middleware
from llmhub.engine.store_budget import StoreBudget
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import Latency, SimLimit, Simulator, SimulatorThread, serving

Clock = Callable[[], float]
TARGET = Target(PROVIDERS["openai"], Endpoint(api_key="k"), "m", "openai/m")
RPM = 1200
PERMITTED_PER_S = RPM / 60


@dataclass
class Workers:
    """Workers with a store in memory, whose calls take a while."""

    clock: Clock
    limits: dict[str, Limit] = field(default_factory=lambda: {"openai": Limit(rpm=RPM)})
    store_calls: int = 0
    lost: bool = False
    sent_at: list[tuple[float, str]] = field(default_factory=list)
    logs: list[DecisionLog] = field(default_factory=list)
    shared: list[SharedLimits] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = memory_limiter(lambda: int(self.clock() * 1e6))

    async def call_store(self, book: Any, *arguments: Any) -> Lease:
        self.store_calls += 1
        await asyncio.sleep(0.001)
        if self.lost:
            raise StoreError("gone")
        lease: Lease = book(*arguments)
        return lease

    def worker(self, job: str = "job", expected: int = 1) -> RateLimiter:
        limiter = SharedLimiter(book=self.memory.book, leave=self.memory.leave)
        self.logs.append(DecisionLog(self.clock))
        self.shared.append(SharedLimits(limiter, job, self.call_store, expected))
        return RateLimiter(self.limits, self.clock, self.logs[-1].record, shared=self.shared[-1])

    async def send(self, worker: RateLimiter, name: str = "", cost: RateCost = RateCost()) -> Permit:  # noqa: B008
        permit = await worker.acquire(worker.for_target(TARGET), cost, self.clock())
        assert isinstance(permit, Permit)
        self.sent_at.append((self.clock(), name))
        await asyncio.sleep(0.2)
        worker.release(worker.for_target(TARGET))
        return permit

    async def run(self, worker: RateLimiter, rows: int, name: str = "", concurrency: int = 64) -> None:
        slots = asyncio.Semaphore(concurrency)

        async def one() -> None:
            async with slots:
                await self.send(worker, name)

        await asyncio.gather(*(one() for _ in range(rows)))

    def most_in(self, seconds: float) -> int:
        """Return the largest number of calls that were sent within some seconds."""
        times = sorted(time for time, _ in self.sent_at)
        return max(sum(start <= time < start + seconds for time in times) for start in times)


def simulate(virtual: Any, work: Callable[[Workers], Coroutine[Any, Any, None]]) -> Workers:
    made: list[Workers] = []

    async def main(clock: Clock) -> None:
        made.append(Workers(clock))
        await work(made[0])

    virtual.run(main)
    return made[0]


def test_four_workers_use_one_limit_with_one_store_call_a_second(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        await asyncio.gather(*(workers.run(workers.worker(), 500) for _ in range(4)))

    workers = simulate(virtual, work)
    elapsed_s = max(time for time, _ in workers.sent_at)
    assert 2000 / elapsed_s >= 0.97 * PERMITTED_PER_S
    assert workers.store_calls / elapsed_s <= 1.2
    assert workers.most_in(60.0) <= RPM
    assert workers.most_in(1.0) <= 2 * PERMITTED_PER_S


@pytest.mark.parametrize(("rpm", "latency_s"), [(1200, 0.2), (3000, 0.2), (3000, 1.0)])
def test_the_runs_of_four_workers_call_the_store_once_for_each_second_and_once_at_their_end(
    virtual: Any, rpm: int, latency_s: float
) -> None:
    """Leases are also for rows that have not come to the limiter yet, on a machine so busy that each takes 3 ms."""

    async def work(workers: Workers) -> None:
        workers.limits = {"openai": Limit(rpm=rpm)}

        async def run() -> None:
            worker, counts, processor = workers.worker(expected=4), Counts(), asyncio.Lock()
            shared = workers.shared[-1]
            shared.carried.append(counts)

            async def provider(_: Call) -> Answer:
                workers.sent_at.append((workers.clock(), ""))
                await asyncio.sleep(latency_s)
                return Answer(Success(CompletionResponse()), attempts=1)

            def busy(send: Any) -> Any:
                async def prepared(call: Call) -> Answer:
                    async with processor:
                        await asyncio.sleep(0.003)
                    answer: Answer = await send(call)
                    return answer

                return prepared

            limit = rate_limit_middleware(worker, worker.for_target(TARGET), workers.clock)
            request = CompletionRequest(model="m", messages=(Message("user", "x"),))

            def make_call(_: str, key: bytes) -> Call:
                return Call(TARGET, request, key=key)

            items = [(row, b"%d" % row, make_call, "") for row in range(500)]
            spec = FanOutSpec(size=500, chunks=iter([items]), concurrency=64)
            await run_fan_out(spec, Sender(send=chain(provider, busy, limit), in_flight=()), StopSignal())
            shared.carried.remove(counts)
            assert await shared.leave(counts, []) is not None

        await asyncio.gather(*(run() for _ in range(4)))

    workers = simulate(virtual, work)
    elapsed_s = max(time for time, _ in workers.sent_at)
    assert 2000 / elapsed_s >= 0.97 * rpm / 60
    assert workers.store_calls <= 2000 / (rpm / 60) + 4
    assert workers.store_calls / elapsed_s <= 1.12
    assert workers.most_in(60.0) <= rpm


def test_a_worker_alone_gets_the_whole_limit(virtual: Any) -> None:
    """Three workers have little to do, and the fourth nearly everything."""

    async def work(workers: Workers) -> None:
        await asyncio.gather(*(workers.run(workers.worker(), rows) for rows in (940, 20, 20, 20)))

    workers = simulate(virtual, work)
    assert 1000 / max(time for time, _ in workers.sent_at) >= 0.97 * PERMITTED_PER_S


def test_jobs_get_equal_shares_however_many_workers_they_have(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        large = [workers.run(workers.worker("large"), 400, "large") for _ in range(8)]
        await asyncio.gather(*large, workers.run(workers.worker("small"), 500, "small"))

    workers = simulate(virtual, work)
    names = [name for time, name in workers.sent_at if 10.0 <= time < 40.0]
    assert 0.4 <= names.count("small") / len(names) <= 0.6


def test_many_workers_book_only_some_seconds_ahead(virtual: Any) -> None:
    """A worker that comes late does not wait until all others are done."""

    async def work(workers: Workers) -> None:
        async def late() -> None:
            await asyncio.sleep(10.0)
            await workers.run(workers.worker(), 1, "late")

        await asyncio.gather(*(workers.run(workers.worker(), 40, concurrency=40) for _ in range(20)), late())

    workers = simulate(virtual, work)
    assert next(time for time, name in workers.sent_at if name == "late") <= 17.0


def test_tokens_are_booked_with_requests_and_what_is_not_used_is_given_back(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        workers.limits = {"openai": Limit(rpm=RPM, tpm=60_000)}
        worker = workers.worker()
        target = worker.for_target(TARGET)
        cost = RateCost(1.0, 1000.0, 900.0, 100.0)
        for _ in range(20):
            permit = await worker.acquire(target, cost, workers.clock())
            assert isinstance(permit, Permit)
            workers.sent_at.append((workers.clock(), ""))
            await asyncio.sleep(0.1)
            assert target.leased is not None
            target.leased.refund(RateCost(0.0, 900.0, 0.0, 0.0), permit.granted_at)  # a tenth was used
            worker.release(target)

    workers = simulate(virtual, work)
    # At a thousand tokens each they would take 20 seconds.
    assert 1.5 <= max(time for time, _ in workers.sent_at) <= 6.0


def test_what_a_stopped_worker_has_booked_is_given_back(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        workers.limits = {"openai": Limit(rpm=60)}
        first, second = workers.worker(), workers.worker()
        running = [asyncio.create_task(workers.run(first, 1)) for _ in range(3)]
        await asyncio.sleep(0.5)
        running += [asyncio.create_task(workers.run(first, 40)) for _ in range(1)]
        await asyncio.sleep(2.2)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(1.0)
        began = workers.clock()
        await workers.send(second, "second")
        assert workers.clock() - began <= 3.0

    simulate(virtual, work)


def test_a_pause_reaches_the_other_workers_with_their_next_booking(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        first, second = workers.worker(), workers.worker()
        running = [asyncio.create_task(workers.run(worker, 300, "x")) for worker in (first, second)]
        await asyncio.sleep(5.0)
        target = first.for_target(TARGET)
        permit = Permit(workers.clock(), RateCost(), target.booked)
        target.in_flight += 1
        first.record(target, permit, Answer(Failure(RateLimited(provider="openai", retry_after_s=20.0)), attempts=1))
        await asyncio.gather(*running)

    workers = simulate(virtual, work)
    during = [time for time, _ in workers.sent_at if 7.5 <= time < 25.0]
    assert during == []
    assert len(workers.sent_at) == 600


def test_a_lost_store_leaves_each_worker_its_part_of_the_limit(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        async def lose() -> None:
            await asyncio.sleep(20.0)
            workers.lost = True
            await asyncio.sleep(20.0)
            workers.lost = False

        await asyncio.gather(*(workers.run(workers.worker(), 350) for _ in range(4)), lose())

    workers = simulate(virtual, work)
    lost = [time for time, _ in workers.sent_at if 22.0 <= time < 40.0]
    assert 0.8 * PERMITTED_PER_S <= len(lost) / 18.0 <= 1.1 * PERMITTED_PER_S
    decisions = [decision for log in workers.logs for decision in log.read() if decision.kind == "limiter"]
    assert "1/4 of the limit" in decisions[0].detail
    assert "shared again" in decisions[-1].detail
    assert 1400 / max(time for time, _ in workers.sent_at) >= 0.9 * PERMITTED_PER_S


@pytest.mark.parametrize("window", [SlidingWindow, FixedWindow])
def test_windows_are_shared(virtual: Any, window: Any) -> None:
    async def work(workers: Workers) -> None:
        workers.limits = {"openai": Limit(rpm=100, window=window)}
        await asyncio.gather(*(workers.run(workers.worker(), 60) for _ in range(4)))

    workers = simulate(virtual, work)
    assert len(workers.sent_at) == 240
    assert workers.most_in(60.0) <= 100
    times = sorted(time for time, _ in workers.sent_at)
    assert times[99] <= 2.0  # an allowance is used as fast as possible
    assert times[-1] <= 2 * 61.0 * (1 + 1 / 60) + 2.0
    assert workers.store_calls <= 120


def test_the_allowance_of_a_day_is_shared_and_what_exceeds_it_fails(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        workers.limits = {"openai": Limit(rpd=100, rpm=6000)}

        async def send(worker: RateLimiter) -> str:
            permit = await worker.acquire(worker.for_target(TARGET), RateCost(), workers.clock())
            if isinstance(permit, Permit):
                await asyncio.sleep(0.2)
                worker.release(worker.for_target(TARGET))
                return "sent"
            assert "requests, declared for openai" in permit.reason
            assert 86_000 < permit.wait_s < 90_000
            return "refused"

        results = await asyncio.gather(*(send(worker) for worker in [workers.worker() for _ in range(3)] * 50))
        assert (results.count("sent"), results.count("refused")) == (100, 50)
        assert workers.clock() < 20.0
        calls = workers.store_calls
        assert [await send(workers.worker()) for _ in range(2)] == ["refused", "refused"]
        assert workers.store_calls <= calls + 4
        await asyncio.sleep(87_900)
        assert await send(workers.worker()) == "sent"

    simulate(virtual, work)


def test_a_worker_that_never_reached_the_store_uses_its_part_of_the_limit(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        workers.lost = True
        await asyncio.gather(*(workers.run(workers.worker(expected=4), 100) for _ in range(4)))

    workers = simulate(virtual, work)
    assert 400 / max(time for time, _ in workers.sent_at) <= 1.1 * PERMITTED_PER_S
    assert workers.most_in(60.0) <= 1.1 * RPM


class Counts:
    """Counts of a job that travel with leases."""

    scope = "job 1"

    def __init__(self) -> None:
        self.booked: list[int] = []

    def take(self) -> list[TotalBooking]:
        return [TotalBooking("rows", 7, 1 << 60)]

    def on_booked(self, used: tuple[int, ...]) -> None:
        self.booked += used

    def on_lost(self, taken: list[TotalBooking]) -> None:
        raise AssertionError


def test_a_task_begins_with_a_full_lease_and_ends_with_one_store_call(virtual: Any) -> None:
    """Its calls come one by one; the call that gives back what is left also reports and leaves."""

    async def work(workers: Workers) -> None:
        async def late(worker: RateLimiter, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            await workers.send(worker)

        worker, counts = workers.worker(expected=4), Counts()
        (shared,) = workers.shared
        shared.carried.append(counts)
        await asyncio.gather(*(late(worker, 0.0005 * row) for row in range(20)))
        assert workers.store_calls == 1
        shared.carried.remove(counts)
        assert await shared.leave(counts, counts.take()) is not None
        assert workers.store_calls == 2
        other = workers.memory.book(account_scope(TARGET), Member("job", "other"), [], [TotalBooking("rows", 0, 99)])
        assert (other.workers, other.used) == (1, (14,))
        assert workers.memory.book("job 1", Member("job", "other"), []).workers == 1
        shared.close()  # has left already
        await asyncio.gather(*(late(worker, 0.0) for _ in range(2)))
        assert len(shared.scopes) == 1  # it needs a share again

    simulate(virtual, work)


def test_leases_that_nobody_used_are_given_back_at_the_end_of_a_task(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        worker, counts = workers.worker(expected=4), Counts()
        (shared,) = workers.shared
        shared.carried.append(counts)
        stopped = [asyncio.create_task(workers.send(worker)) for _ in range(20)]
        await asyncio.sleep(0.3)  # some have been sent, and the others wait for their slots
        sent = len(workers.sent_at)
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)
        shared.carried.remove(counts)
        assert await shared.leave(counts, []) is not None
        (booked,) = workers.memory.book.__self__.tats.values()  # type: ignore[attr-defined]
        assert booked <= (sent + 1) / PERMITTED_PER_S * 1.02e6

    simulate(virtual, work)


def test_budgets_are_booked_and_counts_are_carried_in_the_same_store_call(virtual: Any) -> None:
    async def work(workers: Workers) -> None:
        worker, counts = workers.worker(), Counts()
        workers.shared[-1].carried.append(counts)
        limiter = SharedLimiter(book=workers.memory.book, leave=workers.memory.leave)
        budget = StoreBudget(limiter, "b", Budget(10_000))
        own_calls: list[int] = []
        budget._book = own_calls.append  # type: ignore[method-assign,assignment]

        async def send() -> bool:
            RESERVATIONS.set((Reservation(budget, 40),))
            await workers.send(worker)
            if not await budget.reserve(40):
                return False
            budget.reconcile(40, 30)
            return True

        results = await asyncio.gather(*(asyncio.create_task(send()) for _ in range(200)))
        assert all(results)
        assert own_calls == []
        assert budget.budget.spent == 200 * 30
        assert counts.booked == [7 * (n + 1) for n in range(len(counts.booked))]
        assert len(counts.booked) == workers.store_calls
        assert workers.store_calls / workers.clock() <= 1.5
        assert limiter.book("job 1", Member("driver", "d"), [], leaves=True).workers == 1

    simulate(virtual, work)


def test_limits_of_accounts_are_apart_and_show_no_key() -> None:
    other = Target(TARGET.provider, Endpoint(api_key="another"), "m", "openai/m")
    assert account_scope(TARGET) != account_scope(other)
    assert "another" not in account_scope(other)


@pytest.fixture
def limited() -> Any:
    # It admits nine requests more at once than a limit of llmhub, for a machine that is busy.
    settings = Simulator(seed=7, latency=Latency(0.02), limit=SimLimit(rpm=600, burst_s=1.5))
    with serving(settings) as served:
        yield served


@pytest.mark.parametrize("kind", ["disk", "redis"])
def test_two_hubs_share_a_limit_through_their_cache(
    kind: str, limited: SimulatorThread, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cache = (
        llmhub.DiskCache(tmp_path / "a.db")
        if kind == "disk"
        else llmhub.RedisCache(request.getfixturevalue("redis_server").url)
    )
    hubs = [
        llmhub.Hub(simulator=limited.url, cache=cache, limits={"openai": Limit(rpm=600)}, job=str(number))
        for number in range(2)
    ]
    frames = [{"x": [f"{number}-{row}" for row in range(15)]} for number in range(2)]

    async def both() -> list[Any]:
        calls = (
            llmhub.acomplete_table(frame, "{x}", model="openai/gpt-4o-mini", hub=hub, progress=False)
            for frame, hub in zip(frames, hubs, strict=True)
        )
        return list(await asyncio.gather(*calls))

    tables = asyncio.run(both())
    assert [set(table["status"].to_pylist()) for table in tables] == [{"ok"}, {"ok"}]
    assert sum(sum(table["attempts"].to_pylist()) for table in tables) == 30  # none was refused
    for hub in hubs:
        hub.close()
