"""The engine in a world of its own: virtual time, providers that limit, fail and hang as a seed says, and laws.

A seed that breaks a law is printed; ``LLMHUB_SEED=17 pytest tests/engine/test_deterministic_simulation.py`` runs that one alone.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.core.errors import Disconnected, LLMError, RateLimited, ServerError, TimedOut
from llmhub.core.provider import Endpoint, RateLimitInfo
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Usage
from llmhub.engine.call import Answer, Call, Target, chain
from llmhub.engine.circuit_breaker import CIRCUIT_OPEN, Breaker, Circuit, CircuitHealth, circuit_breaker_middleware
from llmhub.engine.decision_log import Decision, DecisionLog
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import FanOutResult, FanOutSpec, Sender
from llmhub.engine.limits import FixedWindow, Limit, SlidingWindow, TokenBucket, WindowState, take
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.providers.registry import PROVIDERS

SEEDS = 2_000 if os.environ.get("CI") else 200


Clock = Callable[[], float]


NAMES = ("one", "two")


@dataclass
class World:
    """What a seed makes: how the provider behaves, how it is asked, and what it saw."""

    seed: int
    rng: random.Random
    policy: Retry
    concurrency: int
    rows: int
    declared: Limit | None
    limit: WindowState | None
    tells: bool
    latency_s: float
    faults: dict[str, float]
    down: tuple[float, float]
    under_way: int = 0
    most: int = 0
    refused: int = 0
    sent: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    asked: dict[int, float] = field(default_factory=dict)
    broken_laws: list[str] = field(default_factory=list)


def made(seed: int) -> World:
    rng = random.Random(seed)
    rpm = rng.choice([60.0, 600.0, 6000.0])
    strict = rng.random() < 0.3
    # Whoever declares a limit keeps to it in any minute; how much may go at once is for the caller to know.
    capacity = max(rpm / 50, 1.0) if strict else rng.choice([1.0, rpm / 60, rpm])
    windows: list[WindowState] = [
        TokenBucket(rpm / 60, capacity, capacity, 0.0),
        FixedWindow(rpm, 60.0, 0.0),
        SlidingWindow(rpm, 60.0),
    ]
    kinds = (TokenBucket, FixedWindow, SlidingWindow)
    kind = rng.randrange(3)
    faulty = not strict and rng.random() < 0.7
    shares = {name: rng.choice([0.0, 0.05, 0.3]) for name in ("429", "500", "reset", "slow")}
    start = rng.uniform(0, 5)
    return World(
        seed=seed,
        rng=rng,
        policy=Retry(
            attempts=rng.choice([1, 3, 5]), base_s=rng.choice([0.0, 0.5]), deadline_s=rng.choice([30.0, 300.0])
        ),
        concurrency=rng.choice([1, 4, 16]),
        rows=rng.randrange(1, 60),
        declared=Limit(rpm=rpm, window=kinds[kind]) if strict else None,
        limit=windows[kind] if strict or rng.random() < 0.5 else None,
        tells=rng.random() < 0.5,
        latency_s=rng.choice([0.0, 0.01, 1.0]),
        faults=shares if faulty else dict.fromkeys(shares, 0.0),
        down=(start, start + rng.choice([0.0, 0.0, 10.0])) if faulty else (0.0, 0.0),
    )


def number(call: Call) -> int:
    return int(call.request.messages[0].text)


async def answer(world: World, clock: Clock, call: Call) -> Answer:
    """Be the provider: see what comes, and answer as the world is."""
    row, now = number(call), clock()
    if now < world.asked.pop(row, 0.0) - 1e-9:
        world.broken_laws.append(f"row {row} was sent again before the provider said")
    world.sent[row].append(now)
    world.under_way += 1
    world.most = max(world.most, world.under_way)
    try:
        outcome, told = await _outcome(world, clock, row)
    finally:
        world.under_way -= 1
    took = clock() - now
    return Answer(outcome, latency_s=took, total_s=took, attempts=1, started_at=now + 1.0, limits=told)


async def _outcome(world: World, clock: Clock, row: int) -> tuple[Any, RateLimitInfo | None]:
    rng, now = world.rng, clock()
    told: RateLimitInfo | None = None
    if world.down[0] <= now < world.down[1]:
        return Failure(Disconnected()), None
    if world.limit is not None:
        after, wait = take(world.limit, now, 1.0)
        if wait <= 1e-9:
            world.limit = after
        told = _told(world.limit, now) if world.tells else None
        if wait > 1e-9:
            world.refused += 1
            asked = wait if rng.random() < 0.5 else None
            world.asked[row] = now + (asked or 0.0)
            return Failure(RateLimited(retry_after_s=asked)), told
    drawn = rng.random()
    errors: dict[str, LLMError] = {"429": RateLimited(retry_after_s=1.0), "500": ServerError(), "reset": Disconnected()}
    for name, share in world.faults.items():
        drawn -= share
        if drawn < 0:
            await asyncio.sleep(60.0 if name == "slow" else world.latency_s * rng.random())
            error = errors.get(name, TimedOut())
            if name == "429":
                world.asked[row] = clock() + 1.0
            return Failure(error), None
    await asyncio.sleep(world.latency_s * rng.lognormvariate(0, 0.5))
    return Success(CompletionResponse(usage=Usage(input_tokens=3, output_tokens=5))), told


def _told(limit: WindowState, now: float) -> RateLimitInfo | None:
    if isinstance(limit, TokenBucket):
        level = min(limit.capacity, limit.level + (now - limit.updated_at) * limit.rate_per_s)
        reset_s, most = (limit.capacity - level) / limit.rate_per_s, limit.rate_per_s * 60
        return RateLimitInfo(limit_requests=int(most), remaining_requests=int(level), reset_requests_s=reset_s)
    if isinstance(limit, FixedWindow):
        left, ends = limit.allowed - limit.used, limit.start + limit.window_s
        return RateLimitInfo(
            limit_requests=int(limit.allowed), remaining_requests=int(left), reset_requests_s=max(ends - now, 0.0)
        )
    return None


@dataclass
class Lived:
    """What became of a world."""

    ran: FanOutResult
    world: World
    decisions: tuple[Decision, ...]
    gate: RateLimiter
    circuit: Circuit
    took_s: float


async def live(world: World, clock: Clock) -> Lived:
    log = DecisionLog(clock)
    gate = RateLimiter({"openai": world.declared} if world.declared else {}, clock, log.record)
    circuit = Circuit(Breaker(), "openai", log.record)
    targets = [Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in NAMES]

    async def wire(call: Call) -> Answer:
        return await answer(world, clock, call)

    at = {
        target.name: chain(
            wire,
            circuit_breaker_middleware(circuit, clock),
            rate_limit_middleware(gate, gate.for_target(target), clock),
        )
        for target in targets
    }

    async def to_target(call: Call) -> Answer:
        return await at[call.target.name](call)

    def make(text: str, key: bytes) -> Call:
        request = CompletionRequest(model="m", messages=(Message("user", text),))
        return Call(targets[int(text) % 2], request, key=key)

    def make_too(text: str, key: bytes) -> Call:
        return make(text, key)

    # As a frame asks two models; and as it asks a route, of which nobody knows before whom that asks.
    makes = (make, make_too) if world.seed % 2 else (make,)
    items = [(row, b"%d" % row, makes[row % len(makes)], str(row)) for row in range(world.rows)]
    job = FanOutSpec(
        size=world.rows,
        chunks=iter([items]),
        concurrency=world.concurrency,
    )
    send = chain(to_target, retry_middleware(world.policy, clock, world.rng.random, log.record))
    ran = await run_fan_out(job, Sender(send=send, in_flight=()), StopSignal())
    return Lived(ran, world, log.read(), gate, circuit, clock())


def row_laws(world: World, row: int, one: Answer) -> Iterator[str]:
    """Name every law that a row breaks."""
    times = len(world.sent[row])
    if one.attempts != times:
        yield f"row {row} says {one.attempts} attempts, the provider saw {times}"
    if times > world.policy.attempts:
        yield f"row {row} was sent {times} times"
    if not is_successful(one.outcome) and not times and one.outcome.failure().code != CIRCUIT_OPEN:
        yield f"row {row} failed without being sent: {one.outcome.failure()}"
    if (one.total_s or 0.0) < (one.rate_wait_s or 0.0) - 1e-9:
        yield f"row {row} waited longer than it took"


def laws(lived: Lived) -> list[str]:
    """Name every law that is broken."""
    world, answers = lived.world, lived.ran.outcomes
    wrong = list(world.broken_laws)
    got = [one if isinstance(one, Answer) else None for one in answers]
    if len(got) != world.rows or None in got:
        return [*wrong, "a row has no answer"]
    wrong += [said for row, one in enumerate(got) if one is not None for said in row_laws(world, row, one)]
    if world.most > world.concurrency:
        wrong.append(f"{world.most} were under way, of {world.concurrency}")
    if world.declared is not None and world.refused:
        wrong.append(f"{world.refused} were refused although the limit was declared")
    for name in NAMES:
        line = lived.gate.for_target(Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}"))
        if line.in_flight or line.waiters:
            wrong.append(f"{line.in_flight} are still under way at the end, {len(line.waiters)} wait")
    healths = [one.detail.split(":")[0] for one in lived.decisions if one.kind == "circuit"]
    if any("unhealthy -> healthy" in one for one in healths):
        wrong.append("it went from unhealthy to healthy at once")
    healthy = not any(world.faults.values()) and world.down[0] == world.down[1]
    if healthy and lived.circuit.state.health is not CircuitHealth.HEALTHY:
        wrong.append("the circuit opened for refusals")
    return wrong


@pytest.mark.slow
def test_no_scenario_breaks_a_law(virtual: Any) -> None:
    alone = os.environ.get("LLMHUB_SEED")
    seen: Counter[str] = Counter()
    for seed in [int(alone)] if alone else range(SEEDS):
        try:
            lived = virtual.run(lambda clock, seed=seed: live(made(seed), clock))
        except Exception as wrong:
            raise AssertionError(f"LLMHUB_SEED={seed}: {type(wrong).__name__}: {wrong}") from wrong
        assert not laws(lived), f"LLMHUB_SEED={seed}: {laws(lived)}"
        seen.update({one.kind for one in lived.decisions})
    if not alone:
        assert {"retry", "give_up", "learn", "shrink", "pause", "wait", "circuit"} <= set(seen)


@pytest.mark.parametrize("seed", range(5))
def test_a_scenario_is_deterministic(seed: int, virtual: Any) -> None:
    first, second = (virtual.run(lambda clock: live(made(seed), clock)) for _ in range(2))
    assert [replace(one, timestamp=0.0) for one in first.decisions] == [
        replace(one, timestamp=0.0) for one in second.decisions
    ]
    assert first.world.sent == second.world.sent
    assert first.took_s == second.took_s
