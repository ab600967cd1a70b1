"""Deterministic simulation of the engine: virtual time, and providers that limit, fail and hang as a seed decides.

A seed that breaks a law is printed; ``LLMHUB_SEED=17 pytest tests/engine/test_deterministic_simulation.py`` runs it.
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
class Scenario:
    """How the provider behaves, how it is called, and what it has seen."""

    seed: int
    rng: random.Random
    policy: Retry
    concurrency: int
    rows: int
    declared: Limit | None
    limit: WindowState | None
    reports_limits: bool
    latency_s: float
    faults: dict[str, float]
    outage: tuple[float, float]
    in_flight: int = 0
    max_in_flight: int = 0
    refused: int = 0
    sent: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    not_before: dict[int, float] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def scenario_from_seed(seed: int) -> Scenario:
    rng = random.Random(seed)
    rpm = rng.choice([60.0, 600.0, 6000.0])
    strict = rng.random() < 0.3
    # A declared limit holds in any minute; its burst is the caller's responsibility.
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
    return Scenario(
        seed=seed,
        rng=rng,
        policy=Retry(
            attempts=rng.choice([1, 3, 5]), base_s=rng.choice([0.0, 0.5]), deadline_s=rng.choice([30.0, 300.0])
        ),
        concurrency=rng.choice([1, 4, 16]),
        rows=rng.randrange(1, 60),
        declared=Limit(rpm=rpm, window=kinds[kind]) if strict else None,
        limit=windows[kind] if strict or rng.random() < 0.5 else None,
        reports_limits=rng.random() < 0.5,
        latency_s=rng.choice([0.0, 0.01, 1.0]),
        faults=shares if faulty else dict.fromkeys(shares, 0.0),
        outage=(start, start + rng.choice([0.0, 0.0, 10.0])) if faulty else (0.0, 0.0),
    )


def number(call: Call) -> int:
    return int(call.request.messages[0].text)


async def respond(scenario: Scenario, clock: Clock, call: Call) -> Answer:
    """Answer a call as the simulated provider."""
    row, now = number(call), clock()
    if now < scenario.not_before.pop(row, 0.0) - 1e-9:
        scenario.violations.append(f"row {row} was sent again before its Retry-After")
    scenario.sent[row].append(now)
    scenario.in_flight += 1
    scenario.max_in_flight = max(scenario.max_in_flight, scenario.in_flight)
    try:
        outcome, limits = await _outcome(scenario, clock, row)
    finally:
        scenario.in_flight -= 1
    latency_s = clock() - now
    return Answer(outcome, latency_s=latency_s, total_s=latency_s, attempts=1, started_at=now + 1.0, limits=limits)


async def _outcome(scenario: Scenario, clock: Clock, row: int) -> tuple[Any, RateLimitInfo | None]:
    rng, now = scenario.rng, clock()
    limits: RateLimitInfo | None = None
    if scenario.outage[0] <= now < scenario.outage[1]:
        return Failure(Disconnected()), None
    if scenario.limit is not None:
        after, wait = take(scenario.limit, now, 1.0)
        if wait <= 1e-9:
            scenario.limit = after
        limits = _reported_limits(scenario.limit, now) if scenario.reports_limits else None
        if wait > 1e-9:
            scenario.refused += 1
            not_before = wait if rng.random() < 0.5 else None
            scenario.not_before[row] = now + (not_before or 0.0)
            return Failure(RateLimited(retry_after_s=not_before)), limits
    draw = rng.random()
    errors: dict[str, LLMError] = {"429": RateLimited(retry_after_s=1.0), "500": ServerError(), "reset": Disconnected()}
    for name, share in scenario.faults.items():
        draw -= share
        if draw < 0:
            await asyncio.sleep(60.0 if name == "slow" else scenario.latency_s * rng.random())
            error = errors.get(name, TimedOut())
            if name == "429":
                scenario.not_before[row] = clock() + 1.0
            return Failure(error), None
    await asyncio.sleep(scenario.latency_s * rng.lognormvariate(0, 0.5))
    return Success(CompletionResponse(usage=Usage(input_tokens=3, output_tokens=5))), limits


def _reported_limits(limit: WindowState, now: float) -> RateLimitInfo | None:
    if isinstance(limit, TokenBucket):
        level = min(limit.capacity, limit.level + (now - limit.updated_at) * limit.rate_per_s)
        reset_s, max_in_flight = (limit.capacity - level) / limit.rate_per_s, limit.rate_per_s * 60
        return RateLimitInfo(limit_requests=int(max_in_flight), remaining_requests=int(level), reset_requests_s=reset_s)
    if isinstance(limit, FixedWindow):
        left, ends = limit.allowed - limit.used, limit.start + limit.window_s
        return RateLimitInfo(
            limit_requests=int(limit.allowed), remaining_requests=int(left), reset_requests_s=max(ends - now, 0.0)
        )
    return None


@dataclass
class ScenarioResult:
    """The result of a scenario."""

    fan_out: FanOutResult
    scenario: Scenario
    decisions: tuple[Decision, ...]
    limiter: RateLimiter
    circuit: Circuit
    elapsed_s: float


async def run_scenario(scenario: Scenario, clock: Clock) -> ScenarioResult:
    log = DecisionLog(clock)
    limiter = RateLimiter({"openai": scenario.declared} if scenario.declared else {}, clock, log.record)
    circuit = Circuit(Breaker(), "openai", log.record)
    targets = [Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in NAMES]

    async def provider(call: Call) -> Answer:
        return await respond(scenario, clock, call)

    sends = {
        target.name: chain(
            provider,
            circuit_breaker_middleware(circuit, clock),
            rate_limit_middleware(limiter, limiter.for_target(target), clock),
        )
        for target in targets
    }

    async def to_target(call: Call) -> Answer:
        return await sends[call.target.name](call)

    def make_call(text: str, key: bytes) -> Call:
        request = CompletionRequest(model="m", messages=(Message("user", text),))
        return Call(targets[int(text) % 2], request, key=key)

    def make_for_other_model(text: str, key: bytes) -> Call:
        return make_call(text, key)

    # Calls to two models as from a frame, and as from a route, where the model is not known in advance.
    call_makers = (make_call, make_for_other_model) if scenario.seed % 2 else (make_call,)
    items = [(row, b"%d" % row, call_makers[row % len(call_makers)], str(row)) for row in range(scenario.rows)]
    spec = FanOutSpec(
        size=scenario.rows,
        chunks=iter([items]),
        concurrency=scenario.concurrency,
    )
    send = chain(to_target, retry_middleware(scenario.policy, clock, scenario.rng.random, log.record))
    fan_out = await run_fan_out(spec, Sender(send=send, in_flight=()), StopSignal())
    return ScenarioResult(fan_out, scenario, log.read(), limiter, circuit, clock())


def violations_of_row(scenario: Scenario, row: int, each: Answer) -> Iterator[str]:
    """Yield the laws that a row breaks."""
    times = len(scenario.sent[row])
    if each.attempts != times:
        yield f"row {row} says {each.attempts} attempts, the provider saw {times}"
    if times > scenario.policy.attempts:
        yield f"row {row} was sent {times} times"
    if not is_successful(each.outcome) and not times and each.outcome.failure().code != CIRCUIT_OPEN:
        yield f"row {row} failed without being sent: {each.outcome.failure()}"
    if (each.total_s or 0.0) < (each.rate_wait_s or 0.0) - 1e-9:
        yield f"row {row} waited longer than it took"


def violations_of(result: ScenarioResult) -> list[str]:
    """Return the laws that are broken."""
    scenario, outcomes = result.scenario, result.fan_out.outcomes
    broken = list(scenario.violations)
    row_answers = [each if isinstance(each, Answer) else None for each in outcomes]
    if len(row_answers) != scenario.rows or None in row_answers:
        return [*broken, "a row has no answer"]
    broken += [
        violation
        for row, each in enumerate(row_answers)
        if each is not None
        for violation in violations_of_row(scenario, row, each)
    ]
    if scenario.max_in_flight > scenario.concurrency:
        broken.append(f"{scenario.max_in_flight} were in flight, of {scenario.concurrency}")
    if scenario.declared is not None and scenario.refused:
        broken.append(f"{scenario.refused} were refused although the limit was declared")
    for name in NAMES:
        target_limiter = result.limiter.for_target(Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}"))
        if target_limiter.in_flight or target_limiter.waiters:
            broken.append(
                f"{target_limiter.in_flight} are still in flight at the end, {len(target_limiter.waiters)} wait"
            )
    healths = [each.detail.split(":")[0] for each in result.decisions if each.kind == "circuit"]
    if any("unhealthy -> healthy" in each for each in healths):
        broken.append("it went from unhealthy to healthy at once")
    healthy = not any(scenario.faults.values()) and scenario.outage[0] == scenario.outage[1]
    if healthy and result.circuit.state.health is not CircuitHealth.HEALTHY:
        broken.append("the circuit opened for refusals")
    return broken


@pytest.mark.slow
@pytest.mark.timeout(600)  # all in virtual time, but a good deal of work for a busy machine
def test_no_scenario_breaks_a_law(virtual: Any) -> None:
    only_seed = os.environ.get("LLMHUB_SEED")
    kinds_seen: Counter[str] = Counter()
    for seed in [int(only_seed)] if only_seed else range(SEEDS):
        try:
            result = virtual.run(lambda clock, seed=seed: run_scenario(scenario_from_seed(seed), clock))
        except Exception as broken:
            raise AssertionError(f"LLMHUB_SEED={seed}: {type(broken).__name__}: {broken}") from broken
        assert not violations_of(result), f"LLMHUB_SEED={seed}: {violations_of(result)}"
        kinds_seen.update({each.kind for each in result.decisions})
    if not only_seed:
        assert {"retry", "give_up", "learn", "shrink", "pause", "wait", "circuit"} <= set(kinds_seen)


@pytest.mark.parametrize("seed", range(5))
def test_a_scenario_is_deterministic(seed: int, virtual: Any) -> None:
    first, second = (virtual.run(lambda clock: run_scenario(scenario_from_seed(seed), clock)) for _ in range(2))
    assert [replace(each, timestamp=0.0) for each in first.decisions] == [
        replace(each, timestamp=0.0) for each in second.decisions
    ]
    assert first.scenario.sent == second.scenario.sent
    assert first.elapsed_s == second.elapsed_s
