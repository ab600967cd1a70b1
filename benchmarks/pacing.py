"""Measure how the rate limiter finds the pace of providers that declare no limit, on a population of server models.

``python benchmarks/pacing.py`` draws 200 servers at random (token buckets, fixed and sliding windows, concurrency caps,
refusals at the start or in the middle, random refusals, limits that are raised or lowered, and combinations; with and
without ``Retry-After`` and rate-limit headers; refusals that take a moment or a second), sends rows to each through the
real limiter and retries on a virtual clock, and compares the time with that of an oracle.

The oracle is the same client, with the same workers, retries and dice, whose limiter asks the server how long it has
to wait. It knows what the server counts, but not what nobody can know before it happens: of refusals at random it
knows nothing, and of an outage in the middle it does not know the beginning. It is run and not computed: a formula of
the least time of a run leaves out what no client can avoid (the tail of the latency, rows that are refused several
times in a row), and gives away tokens that a server does not count (a request refused at random uses up none).

Two bars are counted: scenarios that take more than three times the oracle's time, start included, and those that use
less than 0.8 of what the oracle uses once there was time to find the rate: of what an oracle with rows enough is
answered in the same seconds, those between half and nineteen twentieths of the run. An outage in the middle has no rate
to be found, nor has a limit of few windows. ``--shares`` prints the share of each scenario.

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
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.core.errors import RateLimited
from llmhub.core.provider import Endpoint, RateLimitInfo
from llmhub.core.types import CompletionRequest, CompletionResponse, Usage
from llmhub.engine import rate_limiter
from llmhub.engine.call import Answer, Call, Middleware, Send, Target, chain
from llmhub.engine.limits import Limit
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.providers.registry import PROVIDERS

WORKERS = 64
MIN_WINDOWS = 8
"""Windows in a run whose rate is compared with the oracle's."""
MAX_TIME, MIN_SHARE = 3.0, 0.8
"""The bars: the time over the oracle's, and the share of its rate."""
ROUNDING_S = 1e-6
"""Added to the oracle's waits, since sums of times are rounded."""
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
    """Decides whether a request is accepted at a time, with so many in flight.

    ``wait_s`` is what the oracle is told: the seconds until one more request would be accepted, infinite if only the
    end of another can admit it.
    """

    def accepts(self, now: float, in_flight: int) -> bool: ...

    def wait_s(self, now: float, in_flight: int) -> float: ...


@dataclass
class TokenBucket:
    """A bucket of requests that refills at a rate."""

    rate_per_s: float
    burst: float
    level: float = math.nan
    updated_at: float = 0.0

    def accepts(self, now: float, _in_flight: int) -> bool:
        self._refill(now)
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def wait_s(self, now: float, _in_flight: int) -> float:
        self._refill(now)
        return (1 - self.level) / self.rate_per_s

    def _refill(self, now: float) -> None:
        level = self.burst if math.isnan(self.level) else self.level
        self.level = min(self.burst, level + (now - self.updated_at) * self.rate_per_s)
        self.updated_at = now


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

    def wait_s(self, now: float, _in_flight: int) -> float:
        window = int(now // self.window_s)
        return (window + 1) * self.window_s - now if window == self.window and self.used >= self.requests else 0.0


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

    def wait_s(self, now: float, _in_flight: int) -> float:
        if len(self.accepted) < self.requests:
            return 0.0
        return self.accepted[-self.requests] + self.window_s - now


@dataclass
class ConcurrencyCap:
    """A number of requests at once."""

    cap: int

    def accepts(self, _now: float, in_flight: int) -> bool:
        return in_flight <= self.cap

    def wait_s(self, _now: float, in_flight: int) -> float:
        return 0.0 if in_flight <= self.cap else math.inf


@dataclass
class Outage:
    """Refuses everything for a time. One that does not begin at once is not foreseen by the oracle."""

    start_s: float
    end_s: float
    refusal_s: float = 0.0
    known_at: float = math.inf

    def accepts(self, now: float, _in_flight: int) -> bool:
        refuses = self.start_s <= now < self.end_s
        if refuses:
            self.known_at = min(self.known_at, now + self.refusal_s)
        return not refuses

    def wait_s(self, now: float, _in_flight: int) -> float:
        return self.end_s - now if self.start_s <= 0.0 or now >= self.known_at else 0.0


@dataclass
class RandomRefusals:
    """Refuses a share of the requests at random."""

    share: float
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def accepts(self, _now: float, _in_flight: int) -> bool:
        return self.random.random() >= self.share

    def wait_s(self, _now: float, _in_flight: int) -> float:
        return 0.0


@dataclass
class ChangedRate:
    """A token bucket whose rate changes at a time."""

    bucket: TokenBucket
    later_rate_per_s: float
    at_s: float

    def accepts(self, now: float, in_flight: int) -> bool:
        self._change(now)
        return self.bucket.accepts(now, in_flight)

    def wait_s(self, now: float, in_flight: int) -> float:
        self._change(now)
        wait_s = self.bucket.wait_s(now, in_flight)
        return min(wait_s, self.at_s - now) if wait_s > 0 and now < self.at_s else wait_s

    def _change(self, now: float) -> None:
        if now >= self.at_s:
            self.bucket.rate_per_s = self.later_rate_per_s


@dataclass
class All:
    """Accepts what all of several servers accept."""

    servers: Sequence[Server]

    def accepts(self, now: float, in_flight: int) -> bool:
        return all(server.accepts(now, in_flight) for server in self.servers)

    def wait_s(self, now: float, in_flight: int) -> float:
        return max(server.wait_s(now, in_flight) for server in self.servers)


@dataclass
class Open:
    """Accepts everything."""

    def accepts(self, _now: float, _in_flight: int) -> bool:
        return True

    def wait_s(self, _now: float, _in_flight: int) -> float:
        return 0.0


# Scenarios


@dataclass(frozen=True)
class Scenario:
    """A server and the rows sent to it.

    ``refusal_s`` is how long a refusal takes, ``retry_after_s`` what it asks for; with ``has_headers``, replies of a
    token bucket report their limit in headers. ``window_rate_per_s`` is the rate of a limit in windows: an oracle uses
    a window at once and waits for the next, so that its rate is that of whole windows; infinite if there are too few.
    """

    name: str
    make_server: Callable[[], Server]
    rows: int
    latency_s: float
    retry_after_s: float | None = None
    refusal_s: float = 0.02
    declared_rpm: float | None = None
    has_headers: bool = False
    window_rate_per_s: float | None = None


@dataclass
class Outcome:
    """What became of a scenario."""

    elapsed_s: float
    sent: int
    refused: int
    failed: int
    answered_at: list[float] = field(default_factory=list)

    @property
    def steady_s(self) -> tuple[float, float]:
        """When the second half of the run began, and when its tail did."""
        rows = len(self.answered_at)
        return self.answered_at[rows // 2], self.answered_at[rows * 19 // 20]

    def answered_between(self, start_s: float, end_s: float) -> int:
        """Return the number of rows that were answered in a time."""
        return bisect_left(self.answered_at, end_s) - bisect_left(self.answered_at, start_s)


class Result(NamedTuple):
    """A scenario, what became of it, the oracle's time, and the share of the oracle's rate that was used.

    The share is not a number where an oracle has no rate.
    """

    scenario: Scenario
    outcome: Outcome
    oracle_s: float
    share_of_rate: float

    @property
    def over_oracle(self) -> float:
        """The time over the oracle's."""
        return self.outcome.elapsed_s / self.oracle_s


def oracle_middleware(server: Server, clock: Callable[[], float]) -> Middleware:
    """Return a middleware that sends a request as soon as the server would accept it, first come first served."""
    turn, ended = asyncio.Lock(), asyncio.Event()
    in_flight = 0

    async def admit() -> None:
        nonlocal in_flight
        async with turn:
            while (wait_s := server.wait_s(clock(), in_flight + 1)) > 0:
                if wait_s < math.inf:
                    await asyncio.sleep(wait_s + ROUNDING_S)
                else:
                    ended.clear()
                    await ended.wait()
            in_flight += 1

    def wrap(send: Send) -> Send:
        async def send_admitted(call: Call) -> Answer:
            nonlocal in_flight
            await admit()
            try:
                return await send(call)
            finally:
                in_flight -= 1
                ended.set()

        return send_admitted

    return wrap


def run(
    scenario: Scenario, *, seed: int = 0, timeout_s: float = 3600.0, oracle: bool = False, is_endless: bool = False
) -> Outcome:
    """Send the rows of a scenario on a virtual clock, or rows without end, as the limiter or the oracle permits."""
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
            outcome.elapsed_s = loop.time()
            if is_successful(answer.outcome):
                outcome.answered_at.append(outcome.elapsed_s)
            else:
                outcome.failed += 1

    async def send_all() -> None:
        limits = {} if scenario.declared_rpm is None else {"openai": Limit(rpm=scenario.declared_rpm)}
        limiter = RateLimiter(limits, loop.time, lambda *_, **__: None)
        admit = rate_limit_middleware(limiter, limiter.for_target(TARGET), loop.time)
        if oracle:
            admit = oracle_middleware(server, loop.time)
        send_row = chain(send, retry_middleware(Retry(), loop.time, draw.random), admit)
        rows = count() if is_endless else iter(range(scenario.rows))
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
                        retry_after_s,
                        declared_rpm=rpm,
                    )


def named_scenarios() -> Iterator[Scenario]:
    """Yield one scenario for each kind of server, at two latencies."""
    yield from startup_scenarios()
    for latency_s in (0.1, 1.0):

        def add(name: str, make_server: Callable[[], Server], rows: int, **more: Any) -> Scenario:
            return Scenario(f"{name}, latency {latency_s:g} s", make_server, rows, latency_s, **more)  # noqa: B023

        for rate, rows in ((2, 150), (20, 1_500), (200, 6_000)):
            burst = max(2.0, rate / 2)
            for retry_after_s in (None, 1.0):
                yield add(
                    f"{rate} a second, Retry-After {retry_after_s}",
                    partial(TokenBucket, rate, burst),
                    rows,
                    retry_after_s=retry_after_s,
                )
        yield add("20 a second, in headers", lambda: TokenBucket(20, 1200), 4_000, has_headers=True)
        yield add("600 a minute", lambda: FixedWindow(600, 60.0), 1_800, window_rate_per_s=math.inf)
        yield add("20 in a second", lambda: FixedWindow(20, 1.0), 1_500, window_rate_per_s=20.0)
        yield add("600 in any minute", lambda: SlidingWindow(600, 60.0), 1_800, window_rate_per_s=math.inf)
        yield add("20 in any second", lambda: SlidingWindow(20, 1.0), 1_500, window_rate_per_s=20.0)
        for cap in (4, 16):
            yield add(f"{cap} at once", partial(ConcurrencyCap, cap), 1_000 if latency_s < 1 else 400)
        for share in (0.01, 0.05, 0.2):
            yield add(f"{share:.0%} refused at random", partial(RandomRefusals, share), 3_000)
        yield add("5 a second, 100 from 20 s", lambda: ChangedRate(TokenBucket(5, 10), 100, 20.0), 3_000)
        yield add("50 a second, 5 from 20 s", lambda: ChangedRate(TokenBucket(50, 10), 5, 20.0), 1_300)
        yield add("20 a second, refusals take 2 s", lambda: TokenBucket(20, 10), 1_500, refusal_s=2.0)
        yield add("20 a second and 5 % at random", lambda: All((RandomRefusals(0.05), TokenBucket(20, 10))), 1_500)
        yield add("no limit", Open, 6_000)


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
        return WORKERS / (self.latency_s * math.exp(LATENCY_SIGMA**2 / 2))


class Member(NamedTuple):
    """Description, server, rows, and the rate if it is one of windows."""

    words: str
    make_server: Callable[[], Server]
    rows: int
    window_rate_per_s: float | None = None


def _limited(traits: Traits) -> Member:
    return Member(f"{traits.rate:.3g} a second, burst {traits.burst:.3g}", traits.bucket, traits.rows)


def _windowed(traits: Traits) -> Member:
    requests = max(1, int(traits.rate * traits.window_s))
    rows = min(3_000, max(traits.rows, requests * 4))
    window = FixedWindow if traits.kind == "fixed" else SlidingWindow
    rate = min(requests / traits.window_s, traits.busy_rate) if rows >= MIN_WINDOWS * requests else math.inf
    return Member(f"{requests} in {traits.window_s:g} s", partial(window, requests, traits.window_s), rows, rate)


def _capped(traits: Traits) -> Member:
    rows = min(3_000, max(200, int(traits.cap / traits.latency_s * 60)))
    return Member(f"{traits.cap} at once", partial(ConcurrencyCap, traits.cap), rows)


def _down(traits: Traits) -> Member:
    """Refuse everything at the start, or a while later for as long."""
    start_s = 0.0 if traits.kind == "startup" else traits.refusing_s
    outage = partial(Outage, start_s, start_s + traits.refusing_s, traits.refusal_s)
    return Member(f"{traits.refusing_s:g} s", outage, max(traits.rows, 500), math.inf if start_s else None)


def _random(traits: Traits) -> Member:
    return Member(f"{traits.share:.1%}", partial(RandomRefusals, traits.share), 3_000)


def _changed(traits: Traits) -> Member:
    """Raise or lower the rate after 20 s."""
    is_raised = traits.kind == "raised"
    rows = traits.rows * (3 if is_raised else 1)
    later_rate = traits.rate * 10 if is_raised else traits.rate / 5
    return Member(_limited(traits).words, lambda: ChangedRate(traits.bucket(), later_rate, 20.0), rows)


def _down_and_limited(traits: Traits) -> Member:
    words, bucket, rows, _ = _limited(traits)
    refusing_s = traits.refusing_s
    return Member(f"{refusing_s:g} s, {words}", lambda: All((Outage(0.0, refusing_s), bucket())), rows)


def _random_and_limited(traits: Traits) -> Member:
    words, bucket, rows, _ = _limited(traits)
    share = traits.share
    return Member(f"{share:.1%}, {words}", lambda: All((RandomRefusals(share), bucket())), rows)


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
    words, make_server, rows, window_rate_per_s = MEMBERS[traits.kind](traits)
    return Scenario(
        f"{number} {traits.kind}: latency {traits.latency_s:.3g} s, {words}, Retry-After {traits.retry_after_s}, "
        f"refusals take {traits.refusal_s:g} s, {rows} rows",
        make_server,
        rows,
        traits.latency_s,
        traits.retry_after_s,
        traits.refusal_s,
        has_headers=traits.kind == "headers",
        window_rate_per_s=window_rate_per_s,
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


def summarise(results: Sequence[Result]) -> dict[str, float]:
    """Return the figures of a population."""
    times: list[float] = [result.over_oracle for result in results]
    refused = [result.outcome.refused / max(1, result.outcome.sent) for result in results]
    shares = [share for result in results if not math.isnan(share := result.share_of_rate)] or [math.nan]
    return {
        "time over the oracle's, median": statistics.median(times),
        "time over the oracle's, 95th percentile": quantile(times, 0.95),
        "time over the oracle's, worst": max(times),
        "scenarios above 1.25": float(sum(time > 1.25 for time in times)),
        "scenarios above 3": float(sum(time > MAX_TIME for time in times)),
        "share of the oracle's rate, median": statistics.median(shares),
        "share of the oracle's rate, worst": min(shares),
        "scenarios with a rate": float(len(shares)),
        "scenarios below 0.8 of the rate": float(sum(share < MIN_SHARE for share in shares)),
        "share refused, median": statistics.median(refused),
        "share refused, mean": statistics.mean(refused),
        "share refused, worst": max(refused),
        "rows failed": float(sum(result.outcome.failed for result in results)),
        "rows": float(sum(result.scenario.rows for result in results)),
    }


def print_shares(results: Sequence[Result]) -> None:
    """Print the share of the oracle's rate of each scenario, and whether it is at least 0.8."""
    sys.stdout.write("\nshare of the oracle's rate\n")
    shares = [(result.share_of_rate, result.scenario) for result in results]
    for share, scenario in sorted(shares, key=lambda each: math.inf if math.isnan(each[0]) else each[0]):
        verdict = "no rate" if math.isnan(share) else "ok" if share >= MIN_SHARE else "below"
        sys.stdout.write(f"  {share:7.2f}  {verdict:8s} {scenario.name}\n")


def report(results: Sequence[Result], worst: int) -> None:
    """Print the figures, those of each kind, and the slowest scenarios."""
    for name, figure in summarise(results).items():
        sys.stdout.write(f"{name:45s} {figure:10.3f}\n")
    by_kind: dict[str, list[float]] = defaultdict(list)
    for result in results:
        by_kind[result.scenario.name.partition(":")[0].rpartition(" ")[2]].append(result.over_oracle)
    if len(by_kind) < len(results):
        sys.stdout.write("\nkind (scenarios): median, worst\n")
        for kind, times in sorted(by_kind.items()):
            sys.stdout.write(f"  {kind:16s} ({len(times):2d}) {statistics.median(times):6.2f} {max(times):7.2f}\n")
    sys.stdout.write("\nslowest\n")
    for result in sorted(results, key=lambda result: -result.over_oracle)[:worst]:
        outcome = result.outcome
        sys.stdout.write(
            f"  {result.over_oracle:7.2f}  refused {outcome.refused / max(1, outcome.sent):5.1%}  "
            f"failed {outcome.failed:4d}  {result.scenario.name}\n"
        )


def compare(results: Sequence[Result], aimd_results: Sequence[Result], worst: int) -> None:
    """Print where plain AIMD was faster, among the scenarios in which it answered every row."""
    pairs = [
        (result.over_oracle / other.over_oracle, result, other)
        for result, other in zip(results, aimd_results, strict=True)
        if not other.outcome.failed
    ]
    sys.stdout.write(
        f"\nAIMD answered every row in {len(pairs)} of {len(results)} scenarios; of these it was faster than "
        f"1.25 times in {sum(ratio > 1.25 for ratio, *_ in pairs)} and slower in "
        f"{sum(ratio < 0.8 for ratio, *_ in pairs)}\n"
    )
    for ratio, result, other in sorted(pairs, key=lambda pair: -pair[0])[:worst]:
        sys.stdout.write(
            f"  {ratio:5.2f}  over the oracle {result.over_oracle:5.2f}, AIMD {other.over_oracle:5.2f}  "
            f"{result.scenario.name}\n"
        )


def compare_with_oracle(scenario: Scenario) -> Result:
    """Run a scenario with the oracle and with the limiter, for at most an hour or 20 times the oracle's time."""
    oracle_s = run(scenario, timeout_s=math.inf, oracle=True).elapsed_s
    outcome = run(scenario, timeout_s=max(3600.0, 20 * oracle_s))
    start_s, end_s = outcome.steady_s
    used = outcome.answered_between(start_s, end_s)
    if scenario.window_rate_per_s is not None:
        permitted = scenario.window_rate_per_s * (end_s - start_s)
    else:
        permitted = run(scenario, timeout_s=end_s, oracle=True, is_endless=True).answered_between(start_s, end_s)
    return Result(scenario, outcome, oracle_s, used / permitted if 0 < permitted < math.inf else math.nan)


def population(seed: int, scenarios: int) -> list[Scenario]:
    """Return random scenarios; each seed draws others."""
    draw = random.Random(seed)
    return [random_scenario(draw, number) for number in range(scenarios)]


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
    scenarios = list(named_scenarios()) if args.named else population(args.seed, args.scenarios)
    results = [compare_with_oracle(scenario) for scenario in scenarios] if args.arm != "aimd" else []
    if args.arm != "llmhub":
        with use_aimd():
            aimd_results = [compare_with_oracle(scenario) for scenario in scenarios]
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
