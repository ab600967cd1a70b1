"""Measure how the rate limiter finds the pace of providers that declare no limit, on a population of server models.

``python benchmarks/pacing.py`` draws 200 servers at random (token buckets, fixed and sliding windows, concurrency caps,
refusals at the start or in the middle, random refusals, limits that are raised or lowered, and combinations; with and
without ``Retry-After`` and rate-limit headers; refusals that take a moment or a second), sends rows to each through the
real limiter and retries on a virtual clock, and compares the time with that of an oracle. The oracle knows the model
of the server and its parameters, but not its dice: of refusals at random it knows the share, not which requests they
hit, so it sends as many more requests, and a refused row waits, and keeps its worker, as long as the retry policy and
``Retry-After`` ask; the row that is hit most often in a row is waited for. Of an outage in the middle it does not know
the beginning. It has the workers that llmhub has.

Two bars are counted: scenarios that take more than three times the oracle's time, start included, and those that use
less than 0.8 of the oracle's rate once there was time to find it. ``--shares`` prints that share for each scenario: the
rate at which the rows between half and nineteen twentieths of a run were answered, over the oracle's then.

It prints median, 95th percentile and worst case of both, the share of requests that were refused, and the rows that
failed. ``--arm aimd`` replaces the adaptive limit by plain AIMD: one call more per answer of a
window, half of the window after a refusal; ``--arm both`` runs both and prints where AIMD, losing no row either, was
faster. ``--named`` runs a list of scenarios instead, ``--json FILE`` writes the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import selectors
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.core.errors import RateLimited
from llmhub.core.provider import Endpoint, RateLimitInfo
from llmhub.core.types import CompletionRequest, CompletionResponse, Usage
from llmhub.engine import rate_limiter
from llmhub.engine.call import Answer, Call, Target, chain
from llmhub.engine.limits import Limit
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.providers.registry import PROVIDERS

WORKERS = 64
MIN_WINDOWS = 8
"""Windows in a run whose rate is compared with the oracle's."""
MEAN_BACKOFF_S = 0.875 * 0.5
"""Mean delay of the default retry policy before the second attempt."""
LATENCY_SIGMA = 0.3
"""Spread of the log-normal latency."""
TARGET = Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m")
CALL = Call(TARGET, CompletionRequest(model="m", messages=()))
RESPONSE = CompletionResponse(usage=Usage(input_tokens=1, output_tokens=1))
ADAPTIVE_FUNCTIONS = ("slow_start", "start_unbounded", "max_in_flight", "on_success", "on_rate_limited")


# Virtual time


class _SkippingSelector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next scheduled callback."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


# Servers


class Server(Protocol):
    """Decides whether a request is accepted at a time, with so many in flight."""

    def accepts(self, now: float, in_flight: int) -> bool: ...


@dataclass
class TokenBucket:
    """A bucket of requests that refills at a rate."""

    rate_per_s: float
    burst: float
    level: float = math.nan
    updated_at: float = 0.0

    def accepts(self, now: float, _in_flight: int) -> bool:
        level = self.burst if math.isnan(self.level) else self.level
        self.level = min(self.burst, level + (now - self.updated_at) * self.rate_per_s)
        self.updated_at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass
class FixedWindow:
    """A number of requests in each window."""

    requests: int
    window_s: float
    window: int = -1
    used: int = 0

    def accepts(self, now: float, _in_flight: int) -> bool:
        window = int(now // self.window_s)
        if window != self.window:
            self.window, self.used = window, 0
        self.used += 1
        return self.used <= self.requests


@dataclass
class SlidingWindow:
    """A number of requests in any window."""

    requests: int
    window_s: float
    accepted: deque[float] = field(default_factory=deque)

    def accepts(self, now: float, _in_flight: int) -> bool:
        while self.accepted and self.accepted[0] <= now - self.window_s:
            self.accepted.popleft()
        if len(self.accepted) >= self.requests:
            return False
        self.accepted.append(now)
        return True


@dataclass
class ConcurrencyCap:
    """A number of requests at once."""

    cap: int

    def accepts(self, _now: float, in_flight: int) -> bool:
        return in_flight <= self.cap


@dataclass
class Outage:
    """Refuses everything for a time."""

    start_s: float
    end_s: float

    def accepts(self, now: float, _in_flight: int) -> bool:
        return not self.start_s <= now < self.end_s


@dataclass
class RandomRefusals:
    """Refuses a share of the requests at random."""

    share: float
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def accepts(self, _now: float, _in_flight: int) -> bool:
        return self.random.random() >= self.share


@dataclass
class ChangedRate:
    """A token bucket whose rate changes at a time."""

    bucket: TokenBucket
    later_rate_per_s: float
    at_s: float

    def accepts(self, now: float, in_flight: int) -> bool:
        if now >= self.at_s:
            self.bucket.rate_per_s = self.later_rate_per_s
        return self.bucket.accepts(now, in_flight)


@dataclass
class All:
    """Accepts what all of several servers accept."""

    servers: Sequence[Server]

    def accepts(self, now: float, in_flight: int) -> bool:
        return all(server.accepts(now, in_flight) for server in self.servers)


@dataclass
class Open:
    """Accepts everything."""

    def accepts(self, _now: float, _in_flight: int) -> bool:
        return True


# Scenarios


@dataclass(frozen=True)
class Scenario:
    """A server, the rows sent to it, and the time of an oracle that knows it.

    ``refusal_s`` is how long a refusal takes, ``retry_after_s`` what it asks for; with ``has_headers``, replies of a
    token bucket report their limit in headers.
    """

    name: str
    make_server: Callable[[], Server]
    rows: int
    latency_s: float
    oracle_s: float
    retry_after_s: float | None = None
    refusal_s: float = 0.02
    declared_rpm: float | None = None
    has_headers: bool = False
    oracle_rate_per_s: float = math.inf


@dataclass
class Outcome:
    """What became of a scenario."""

    elapsed_s: float
    sent: int
    refused: int
    failed: int
    answered_at: list[float] = field(default_factory=list)

    def over_oracle(self, scenario: Scenario) -> float:
        return self.elapsed_s / scenario.oracle_s

    def share_of_rate(self, scenario: Scenario) -> float:
        """Return the rate in the second half of the run, without its tail, as a share of the oracle's."""
        rows = len(self.answered_at)
        first, last = rows // 2, rows * 19 // 20
        if last <= first or scenario.oracle_rate_per_s == math.inf:
            return math.nan
        return (last - first) / max(self.answered_at[last] - self.answered_at[first], 1e-9) / scenario.oracle_rate_per_s


def ideal_s(
    rows: float, latency_s: float, rate_per_s: float = math.inf, burst: float = 0.0, cap: int = WORKERS
) -> float:
    """Return the time of the oracle: all workers busy, or all of the allowance used."""
    busy_s = rows * latency_s * 1.05 / min(cap, WORKERS)
    return max(busy_s, (rows - burst) / rate_per_s) + latency_s


def longest_chain_s(rows: int, share: float, refusal_s: float, retry_after_s: float | None) -> float:
    """Return the time that a row loses which is refused at random as often in a row as one of so many is."""
    refusals = int(math.log(rows) / math.log(1 / share))
    return sum(refusal_s + max(0.75 * 0.5 * 2.0**number, retry_after_s or 0.0) for number in range(refusals))


def run(scenario: Scenario, *, seed: int = 0, timeout_s: float = 3600.0) -> Outcome:
    """Send the rows of a scenario on a virtual clock."""
    loop, draw, server = VirtualLoop(), random.Random(seed), scenario.make_server()
    outcome, in_flight = Outcome(timeout_s, 0, 0, 0), 0

    async def send(_call: Call) -> Answer:
        nonlocal in_flight
        outcome.sent += 1
        if not server.accepts(loop.time(), in_flight + 1):
            outcome.refused += 1
            await asyncio.sleep(scenario.refusal_s)
            error = RateLimited(message="slow down", status=429, retry_after_s=scenario.retry_after_s)
            return Answer(Failure(error), total_s=scenario.refusal_s, attempts=1, limits=_headers(scenario, server))
        latency_s = scenario.latency_s * math.exp(draw.gauss(0, LATENCY_SIGMA))
        limits = _headers(scenario, server)
        in_flight += 1
        await asyncio.sleep(latency_s)
        in_flight -= 1
        return Answer(Success(RESPONSE), total_s=latency_s, attempts=1, limits=limits)

    async def work(rows: Iterator[int], send_row: Any) -> None:
        for _ in rows:
            answer = await send_row(CALL)
            outcome.failed += not is_successful(answer.outcome)
            outcome.elapsed_s = loop.time()
            outcome.answered_at.append(outcome.elapsed_s)

    async def send_all() -> None:
        limits = {} if scenario.declared_rpm is None else {"openai": Limit(rpm=scenario.declared_rpm)}
        limiter = RateLimiter(limits, loop.time, lambda *_, **__: None)
        send_row = chain(
            send,
            retry_middleware(Retry(), loop.time, draw.random),
            rate_limit_middleware(limiter, limiter.for_target(TARGET), loop.time),
        )
        rows = iter(range(scenario.rows))
        await asyncio.gather(*(work(rows, send_row) for _ in range(WORKERS)))

    async def send_in_time() -> None:
        try:
            await asyncio.wait_for(send_all(), timeout_s)
        except TimeoutError:
            outcome.elapsed_s = timeout_s

    try:
        loop.run_until_complete(send_in_time())
    finally:
        loop.close()
    return outcome


def _headers(scenario: Scenario, server: Server) -> RateLimitInfo | None:
    """Return the rate-limit headers of a reply, as a provider with a token bucket a minute sends them."""
    if not scenario.has_headers or not isinstance(server, TokenBucket):
        return RateLimitInfo(retry_after_s=scenario.retry_after_s) if scenario.retry_after_s is not None else None
    missing = server.burst - server.level
    return RateLimitInfo(
        limit_requests=round(server.burst),
        remaining_requests=int(server.level),
        reset_requests_s=missing / server.rate_per_s,
        retry_after_s=scenario.retry_after_s,
    )


def startup_scenarios() -> Iterator[Scenario]:
    """Yield the scenarios of refusals at the start of a run, after which everything is accepted."""
    for latency_s in (0.1, 1.0):
        for refusing_s in (0.3, 1.0, 3.0, 10.0):
            for retry_after_s in (None, 1.0):
                for rpm in (None, 60_000.0):
                    yield Scenario(
                        f"refusals for {refusing_s:g} s, latency {latency_s:g} s, Retry-After {retry_after_s}, "
                        f"rpm {rpm}",
                        partial(Outage, 0.0, refusing_s),
                        1_000,
                        latency_s,
                        refusing_s + ideal_s(1_000, latency_s),
                        retry_after_s,
                        declared_rpm=rpm,
                    )


def named_scenarios() -> Iterator[Scenario]:
    """Yield one scenario for each kind of server, at two latencies."""
    yield from startup_scenarios()
    for latency_s in (0.1, 1.0):
        one = replace(Scenario("", Open, 0, latency_s, 0.0))

        def add(name: str, make_server: Callable[[], Server], rows: int, oracle_s: float, **more: Any) -> Scenario:
            return replace(
                one,  # noqa: B023 - called in this iteration
                name=f"{name}, latency {latency_s:g} s",  # noqa: B023
                make_server=make_server,
                rows=rows,
                oracle_s=oracle_s,
                **more,
            )

        for rate, rows in ((2, 150), (20, 1_500), (200, 6_000)):
            burst = max(2.0, rate / 2)
            for retry_after_s in (None, 1.0):
                yield add(
                    f"{rate} a second, Retry-After {retry_after_s}",
                    partial(TokenBucket, rate, burst),
                    rows,
                    ideal_s(rows, latency_s, rate, burst),
                    retry_after_s=retry_after_s,
                )
        yield add(
            "20 a second, in headers", lambda: TokenBucket(20, 1200), 4_000, ideal_s(4_000, latency_s, 20, 1200),
            has_headers=True,
        )  # fmt: skip
        yield add("600 a minute", lambda: FixedWindow(600, 60.0), 1_800, ideal_s(600, latency_s) + 120)
        yield add("20 in a second", lambda: FixedWindow(20, 1.0), 1_500, 75 + latency_s)
        yield add("600 in any minute", lambda: SlidingWindow(600, 60.0), 1_800, ideal_s(600, latency_s) + 120)
        yield add("20 in any second", lambda: SlidingWindow(20, 1.0), 1_500, 75 + latency_s)
        for cap in (4, 16):
            rows = 1_000 if latency_s < 1 else 400
            yield add(f"{cap} at once", partial(ConcurrencyCap, cap), rows, ideal_s(rows, latency_s, cap=cap))
        for share in (0.01, 0.05, 0.2):
            yield add(
                f"{share:.0%} refused at random",
                partial(RandomRefusals, share),
                3_000,
                ideal_s(3_000, latency_s) / (1 - share),
            )
        yield add(
            "5 a second, 100 from 20 s",
            lambda: ChangedRate(TokenBucket(5, 10), 100, 20.0),
            3_000,
            20 + max((3_000 - 110) / 100, (3_000 - 110) * latency_s * 1.05 / WORKERS) + latency_s,
        )
        yield add(
            "50 a second, 5 from 20 s",
            lambda: ChangedRate(TokenBucket(50, 10), 5, 20.0),
            1_300,
            20 + (1_300 - 1_010) / 5,
        )
        yield add(
            "20 a second, refusals take 2 s",
            lambda: TokenBucket(20, 10),
            1_500,
            ideal_s(1_500, latency_s, 20, 10),
            refusal_s=2.0,
        )
        yield add(
            "20 a second and 5 % at random",
            lambda: All((RandomRefusals(0.05), TokenBucket(20, 10))),
            1_500,
            ideal_s(1_500, latency_s, 20, 10) / 0.95,
        )
        yield add("no limit", Open, 6_000, ideal_s(6_000, latency_s))


KINDS = (
    "bucket", "headers", "fixed", "sliding", "cap", "startup", "outage", "random", "raised", "lowered",
    "startup+bucket", "random+bucket",
)  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """What is drawn at random for one member of the population; which of it matters depends on its kind."""

    kind: str
    latency_s: float
    rate: float
    burst: float
    rows: int
    retry_after_s: float | None
    refusal_s: float
    cap: int
    refusing_s: float
    share: float
    window_s: float

    def bucket(self) -> TokenBucket:
        return TokenBucket(self.rate, self.burst)

    @property
    def busy_rate(self) -> float:
        """The rate at which all workers are busy."""
        return WORKERS / (self.latency_s * 1.05)

    @property
    def busy_rate_with_refusals(self) -> float:
        """The same where a share is refused at random: a row keeps its worker until the retry policy sends it again."""
        refusal_s = self.refusal_s + max(MEAN_BACKOFF_S, self.retry_after_s or 0.0)
        return WORKERS / (self.latency_s * 1.05 + self.share / (1 - self.share) * refusal_s)

    def ideal_s(self, rows: int | None = None) -> float:
        """Return the oracle's time with the bucket."""
        return ideal_s(self.rows if rows is None else rows, self.latency_s, self.rate, self.burst)


Member = tuple[str, Callable[[], Server], int, float, float]
"""Description, server, rows, the oracle's time, and its rate at the end."""


def _limited(traits: Traits) -> Member:
    words = f"{traits.rate:.3g} a second, burst {traits.burst:.3g}"
    return words, traits.bucket, traits.rows, traits.ideal_s(), min(traits.rate, traits.busy_rate)


def _windowed(traits: Traits) -> Member:
    requests = max(1, int(traits.rate * traits.window_s))
    rows = min(3_000, max(traits.rows, requests * 4))
    window = FixedWindow if traits.kind == "fixed" else SlidingWindow
    oracle_s = max(ideal_s(rows, traits.latency_s), (rows - 1) // requests * traits.window_s * 0.999)
    # Fewer windows show no rate: an oracle would use one at once, and wait for the next.
    rate = min(requests / traits.window_s, traits.busy_rate) if rows >= MIN_WINDOWS * requests else math.inf
    return f"{requests} in {traits.window_s:g} s", partial(window, requests, traits.window_s), rows, oracle_s, rate


def _capped(traits: Traits) -> Member:
    rows = min(3_000, max(200, int(traits.cap / traits.latency_s * 60)))
    oracle_s = ideal_s(rows, traits.latency_s, cap=traits.cap)
    rate = min(traits.cap, WORKERS) / (traits.latency_s * 1.05)
    return f"{traits.cap} at once", partial(ConcurrencyCap, traits.cap), rows, oracle_s, rate


def _down(traits: Traits) -> Member:
    """Refuse everything at the start, or a while later for as long."""
    rows, refusing_s, words = max(traits.rows, 500), traits.refusing_s, f"{traits.refusing_s:g} s"
    busy_s = ideal_s(rows, traits.latency_s)
    if traits.kind == "startup":
        return words, partial(Outage, 0.0, refusing_s), rows, refusing_s + busy_s, traits.busy_rate
    lost_s = refusing_s + traits.refusal_s if busy_s > refusing_s else 0.0
    if lost_s and traits.latency_s <= refusing_s:  # it catches all workers
        lost_s += max(MEAN_BACKOFF_S, traits.retry_after_s or 0.0)
    return words, partial(Outage, refusing_s, 2 * refusing_s), rows, busy_s + lost_s, math.inf


def _random(traits: Traits) -> Member:
    rows, share = 3_000, traits.share
    chain_s = longest_chain_s(rows, share, traits.refusal_s, traits.retry_after_s)
    rate = traits.busy_rate_with_refusals
    return f"{share:.1%}", partial(RandomRefusals, share), rows, rows / rate + traits.latency_s + chain_s, rate


def _changed(traits: Traits) -> Member:
    """Raise or lower the rate after 20 s."""
    is_raised = traits.kind == "raised"
    rows = traits.rows * (3 if is_raised else 1)
    later_rate = traits.rate * 10 if is_raised else traits.rate / 5
    busy_rate = traits.busy_rate
    left = max(0.0, rows - min(traits.rate * 20 + traits.burst, busy_rate * 20))
    changed_s = 20 + left / min(later_rate, busy_rate) + traits.latency_s
    oracle_s = max(ideal_s(rows, traits.latency_s), changed_s) if left else traits.ideal_s(rows)
    rate = min(later_rate, busy_rate) if left > rows / 2 else math.inf
    return _limited(traits)[0], lambda: ChangedRate(traits.bucket(), later_rate, 20.0), rows, oracle_s, rate


def _down_and_limited(traits: Traits) -> Member:
    words, bucket, rows, limited_s, rate = _limited(traits)
    refusing_s = traits.refusing_s
    return (
        f"{refusing_s:g} s, {words}",
        lambda: All((Outage(0.0, refusing_s), bucket())),
        rows,
        refusing_s + limited_s,
        rate,
    )


def _random_and_limited(traits: Traits) -> Member:
    words, bucket, rows, _, _ = _limited(traits)
    share, busy_rate = traits.share, traits.busy_rate_with_refusals
    chain_s = longest_chain_s(rows, share, traits.refusal_s, traits.retry_after_s)
    limited_s = (rows - traits.burst) / traits.rate / (1 - share)
    return (
        f"{share:.1%}, {words}",
        lambda: All((RandomRefusals(share), bucket())),
        rows,
        max(rows / busy_rate, limited_s) + traits.latency_s + chain_s,
        min(traits.rate * (1 - share), busy_rate),
    )


MEMBERS: dict[str, Callable[[Traits], Member]] = {
    "bucket": _limited,
    "headers": _limited,
    "fixed": _windowed,
    "sliding": _windowed,
    "cap": _capped,
    "startup": _down,
    "outage": _down,
    "random": _random,
    "raised": _changed,
    "lowered": _changed,
    "startup+bucket": _down_and_limited,
    "random+bucket": _random_and_limited,
}


def random_traits(draw: random.Random) -> Traits:
    """Return the traits of a random member of the population."""
    latency_s, rate = 10 ** draw.uniform(-1.5, 0.7), 10 ** draw.uniform(-0.3, 2.3)
    rows = int(min(3_000, max(60, rate * 60)))
    burst = max(1.0, draw.choice([1.0, 2.0, rate / 2, rate * 5, rate * 20]))
    burst_in_headers = max(10.0, rate * draw.choice([5, 20, 60]))
    retry_after_s, refusal_s = draw.choice([None, None, 0.5, 1.0, 2.0]), draw.choice([0.005, 0.02, 0.1, 1.0])
    kind = draw.choice(KINDS)
    if kind == "headers":
        burst = burst_in_headers
        rows = min(3_000, max(rows, int(2 * burst)))
    cap, refusing_s = draw.choice([1, 2, 4, 8, 16, 32]), draw.choice([0.2, 0.5, 1.0, 2.0, 5.0, 10.0])
    share, window_s = draw.choice([0.005, 0.01, 0.02, 0.05, 0.1]), draw.choice([1.0, 5.0, 10.0, 60.0])
    return Traits(kind, latency_s, rate, burst, rows, retry_after_s, refusal_s, cap, refusing_s, share, window_s)


def random_scenario(draw: random.Random, number: int) -> Scenario:
    """Return a random member of the population."""
    traits = random_traits(draw)
    words, make_server, rows, oracle_s, oracle_rate_per_s = MEMBERS[traits.kind](traits)
    return Scenario(
        f"{number} {traits.kind}: latency {traits.latency_s:.3g} s, {words}, Retry-After {traits.retry_after_s}, "
        f"refusals take {traits.refusal_s:g} s, {rows} rows",
        make_server,
        rows,
        traits.latency_s,
        oracle_s,
        traits.retry_after_s,
        traits.refusal_s,
        has_headers=traits.kind == "headers",
        oracle_rate_per_s=oracle_rate_per_s,
    )


# Plain AIMD, for comparison


class AimdState(NamedTuple):
    """A window that grows by one per round trip and is halved by a refusal; slow start until the first one."""

    window: float = 1.0
    is_slow_start: bool = True
    episode_start: float = -math.inf
    pace: None = None
    ramp_from: None = None
    probe_until: float = -math.inf


def _aimd_on_success(
    state: AimdState, _now: float, _sent_at: float, _in_flight: int, _others: int | None = None
) -> AimdState:
    return state._replace(window=min(1024.0, state.window + (1.0 if state.is_slow_start else 1 / state.window)))


def _aimd_on_rate_limited(state: AimdState, now: float, refusal: Any) -> tuple[AimdState, float | None]:
    if refusal.sent_at <= state.episode_start:
        return state, None
    state = state._replace(window=max(1.0, state.window / 2), episode_start=now, is_slow_start=False)
    return state, refusal.retry_after_s or None


@contextmanager
def use_aimd() -> Iterator[None]:
    """Replace the adaptive limit by plain AIMD for a time."""
    functions: tuple[Any, ...] = (
        lambda _now: AimdState(),
        lambda _now: AimdState(window=1024.0),
        lambda state, _now: state.window,
        _aimd_on_success,
        _aimd_on_rate_limited,
    )
    originals = [getattr(rate_limiter, name) for name in ADAPTIVE_FUNCTIONS]
    for name, function in zip(ADAPTIVE_FUNCTIONS, functions, strict=True):
        setattr(rate_limiter, name, function)
    try:
        yield
    finally:
        for name, function in zip(ADAPTIVE_FUNCTIONS, originals, strict=True):
            setattr(rate_limiter, name, function)


# Figures


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def summarise(results: Sequence[tuple[Scenario, Outcome]]) -> dict[str, float]:
    """Return the figures of a population."""
    times: list[float] = [outcome.over_oracle(scenario) for scenario, outcome in results]
    refused = [outcome.refused / max(1, outcome.sent) for _, outcome in results]
    shares = shares_of_rate(results)
    return {
        "time over the oracle's, median": statistics.median(times),
        "time over the oracle's, 95th percentile": quantile(times, 0.95),
        "time over the oracle's, worst": max(times),
        "scenarios above 1.25": float(sum(time > 1.25 for time in times)),
        "scenarios above 3": float(sum(time > 3 for time in times)),
        "share of the oracle's rate, median": statistics.median(shares),
        "share of the oracle's rate, worst": min(shares),
        "scenarios below 0.8 of the rate": float(sum(share < 0.8 for share in shares)),
        "share refused, median": statistics.median(refused),
        "share refused, mean": statistics.mean(refused),
        "share refused, worst": max(refused),
        "rows failed": float(sum(outcome.failed for _, outcome in results)),
        "rows": float(sum(scenario.rows for scenario, _ in results)),
    }


def shares_of_rate(results: Sequence[tuple[Scenario, Outcome]]) -> list[float]:
    """Return the shares of the oracle's rate, of the scenarios that have one at the end of the run."""
    shares = [outcome.share_of_rate(scenario) for scenario, outcome in results]
    return [share for share in shares if not math.isnan(share)] or [math.nan]


def print_shares(results: Sequence[tuple[Scenario, Outcome]]) -> None:
    """Print the share of the oracle's rate of each scenario, and whether it is at least 0.8."""
    sys.stdout.write("\nshare of the oracle's rate\n")
    shares = [(outcome.share_of_rate(scenario), scenario) for scenario, outcome in results]
    for share, scenario in sorted(shares, key=lambda each: math.inf if math.isnan(each[0]) else each[0]):
        verdict = "no rate" if math.isnan(share) else "ok" if share >= 0.8 else "below"
        sys.stdout.write(f"  {share:7.2f}  {verdict:8s} {scenario.name}\n")


def report(results: Sequence[tuple[Scenario, Outcome]], worst: int) -> None:
    """Print the figures, those of each kind, and the slowest scenarios."""
    for name, figure in summarise(results).items():
        sys.stdout.write(f"{name:45s} {figure:10.3f}\n")
    by_kind: dict[str, list[float]] = defaultdict(list)
    for scenario, outcome in results:
        by_kind[scenario.name.partition(":")[0].rpartition(" ")[2]].append(outcome.over_oracle(scenario))
    if len(by_kind) < len(results):
        sys.stdout.write("\nkind (scenarios): median, worst\n")
        for kind, times in sorted(by_kind.items()):
            sys.stdout.write(f"  {kind:16s} ({len(times):2d}) {statistics.median(times):6.2f} {max(times):7.2f}\n")
    sys.stdout.write("\nslowest\n")
    for scenario, outcome in sorted(results, key=lambda each: -each[1].over_oracle(each[0]))[:worst]:
        sys.stdout.write(
            f"  {outcome.over_oracle(scenario):7.2f}  refused {outcome.refused / max(1, outcome.sent):5.1%}  "
            f"failed {outcome.failed:4d}  {scenario.name}\n"
        )


def compare(
    results: Sequence[tuple[Scenario, Outcome]], aimd_results: Sequence[tuple[Scenario, Outcome]], worst: int
) -> None:
    """Print where plain AIMD was faster, among the scenarios in which it answered every row."""
    pairs = [
        (outcome.elapsed_s / other.elapsed_s, scenario, outcome, other)
        for (scenario, outcome), (_, other) in zip(results, aimd_results, strict=True)
        if not other.failed
    ]
    sys.stdout.write(
        f"\nAIMD answered every row in {len(pairs)} of {len(results)} scenarios; of these it was faster than "
        f"1.25 times in {sum(ratio > 1.25 for ratio, *_ in pairs)} and slower in "
        f"{sum(ratio < 0.8 for ratio, *_ in pairs)}\n"
    )
    for ratio, scenario, outcome, other in sorted(pairs, key=lambda pair: -pair[0])[:worst]:
        sys.stdout.write(
            f"  {ratio:5.2f}  over the oracle {outcome.over_oracle(scenario):5.2f}, AIMD "
            f"{other.over_oracle(scenario):5.2f}  {scenario.name}\n"
        )


def run_all(scenarios: Sequence[Scenario]) -> list[tuple[Scenario, Outcome]]:
    """Run scenarios, each for at most an hour or 20 times the oracle's time."""
    return [(scenario, run(scenario, timeout_s=max(3600.0, 20 * scenario.oracle_s))) for scenario in scenarios]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--named", action="store_true")
    parser.add_argument("--arm", choices=["llmhub", "aimd", "both"], default="llmhub")
    parser.add_argument("--worst", type=int, default=12)
    parser.add_argument("--shares", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    scenarios = (
        list(named_scenarios()) if args.named else [random_scenario(draw, number) for number in range(args.scenarios)]
    )
    results = run_all(scenarios) if args.arm != "aimd" else []
    if args.arm != "llmhub":
        with use_aimd():
            aimd_results = run_all(scenarios)
        if args.arm == "both":
            report(results, args.worst)
            compare(results, aimd_results, args.worst)
            sys.stdout.write("\nplain AIMD\n")
        report(aimd_results, args.worst)
        results = results or aimd_results
    else:
        report(results, args.worst)
    if args.shares:
        print_shares(results)
    if args.json is not None:
        args.json.write_text(json.dumps(summarise(results), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
