"""Route calls to the candidates of a route: collect their statistics, send to the best, fall back to the next.

The policies are pure (`llmhub.engine.routing_policy`); this module measures the candidates and carries the decisions
out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import InvalidRequest, error_type_name
from llmhub.core.pricing import Price
from llmhub.core.token_estimate import estimate_tokens
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.hedging import race
from llmhub.engine.hooks import add_attempts
from llmhub.engine.routing_policy import (
    NO_STATS,
    REACTIONS,
    CandidateStats,
    Route,
    RoutingStats,
    hedge_delay_s,
    most_retryable,
    on_abandoned,
    on_failure,
    on_start,
    on_success,
)
from llmhub.engine.spending import TargetPrices

T = TypeVar("T")
MAX_LATENCY_SAMPLES: Final = 128
"""Recent latencies kept of each candidate, for quantiles."""


@dataclass(frozen=True, slots=True)
class ResolvedRoute:
    """A route with its candidates resolved to targets.

    Parameters
    ----------
    name
        The name by which it is called.
    route
        The route.
    targets
        The candidates' targets by ``provider/model``; a candidate that the caller named comes first.
    """

    name: str
    route: Route
    targets: Mapping[str, Target]
    candidates: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Store the candidates' names."""
        object.__setattr__(self, "candidates", tuple(self.targets))


class CandidateMetrics:
    """The statistics of every candidate of a hub. Use it on one event loop only.

    Parameters
    ----------
    clock
        Returns monotonic seconds.
    draw
        Returns a random number from 0 up to 1.
    prices
        Looks up prices, for rankings by cost.
    """

    def __init__(self, clock: Callable[[], float], draw: Callable[[], float], prices: TargetPrices) -> None:
        self.clock = clock
        self._draw = draw
        self._prices = prices
        self._stats: dict[str, CandidateStats] = {}
        self._latencies: dict[str, deque[float]] = {}
        self._turns: Counter[str] = Counter()
        self._token_prices: dict[str, tuple[Price, float, float]] = {}

    def stats(self, route: ResolvedRoute, call: Call) -> RoutingStats:
        """Return the statistics for ranking the candidates of one call."""
        turn = self._turns[route.name]
        self._turns[route.name] += 1
        now, draw = self.clock(), self._draw()
        if not route.route.needs_prices:
            stats = self._stats
            return RoutingStats({name: stats.get(name, NO_STATS) for name in route.candidates}, now, turn, draw)
        return RoutingStats(
            candidates={name: self._with_prices(target) for name, target in route.targets.items()},
            now=now,
            turn=turn,
            draw=draw,
            input_tokens=sum([estimate_tokens(message.text) for message in call.request.messages]),
            max_tokens=call.request.max_tokens,
        )

    def recent_latencies_s(self, name: str) -> Sequence[float]:
        """Return the latest latencies of a candidate, oldest first."""
        return self._latencies.get(name, ())

    def middleware(self, target: Target) -> Middleware:
        """Return the middleware that measures one candidate."""
        name = target.name
        latencies = self._latencies.setdefault(name, deque(maxlen=MAX_LATENCY_SAMPLES))

        def wrap(send: Send) -> Send:
            async def send_measured(call: Call) -> Answer:
                start = self.clock()
                self._stats[name] = on_start(self._stats.get(name, NO_STATS))
                try:
                    answer = await send(call)
                except BaseException:
                    now = self.clock()
                    self._stats[name] = on_abandoned(self._stats[name], now - start, now)
                    raise
                now, before = self.clock(), self._stats[name]
                if is_successful(answer.outcome):
                    usage = answer.outcome.unwrap().usage
                    self._stats[name] = on_success(before, answer.latency_s, usage.output_tokens, now)
                    if answer.latency_s is not None:
                        latencies.append(answer.latency_s)
                else:
                    self._stats[name] = on_failure(before, answer.outcome.failure(), now)
                return answer

            return send_measured

        return wrap

    def _with_prices(self, target: Target) -> CandidateStats:
        """Return a candidate's statistics with its prices per token, converted once per price."""
        stats = self._stats.get(target.name, NO_STATS)
        price = self._prices.lookup(target)
        if price is None:
            return stats
        known = self._token_prices.get(target.name)
        if known is None or known[0] is not price:
            known = (price, float(price.rates.input), float(price.rates.output))
            self._token_prices[target.name] = known
        return CandidateStats(*stats[:-2], *known[1:])


def routing_middleware(
    resolve: Callable[[str], ResolvedRoute | None], metrics: CandidateMetrics, record_decision: RecordDecision
) -> Middleware:
    """Return the middleware that sends a call to the candidates of its route.

    ``resolve`` returns the route that a target's name belongs to, or ``None``; such calls are sent unchanged.
    """

    def wrap(send: Send) -> Send:
        async def send_routed(call: Call) -> Answer:
            route = resolve(call.target.name)
            if route is None:
                return await send(call)
            ranked = _rank_candidates(route, metrics.stats(route, call))
            if isinstance(ranked, InvalidRequest):
                return Answer(Failure(ranked))
            first: Answer | None = None
            if route.route.hedge is None and not call.is_delivered:
                # The common case: the first candidate answers.
                first = await send(call.with_target(route.targets[ranked[0]]))
                if is_successful(first.outcome):
                    return first
            return await _FallbackLoop(route, metrics, record_decision, send).run(call, ranked, first)

        return send_routed

    return wrap


def _rank_candidates(route: ResolvedRoute, stats: RoutingStats) -> Sequence[str] | InvalidRequest:
    """Return the candidates as the route ranks them; validate what a user's ranking function returns."""
    candidates = route.candidates
    if route.route.is_builtin:
        return route.route.rank(candidates, stats)
    try:
        ranked = list(route.route.rank(candidates, stats))
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return InvalidRequest(path="route.rank", message=f"the function failed: {type(error).__name__}: {error}")
    unknown = [name for name in ranked if name not in route.targets]
    if unknown or not ranked:
        problem = f"{unknown[0]!r:.80}, which is not a candidate" if unknown else "no candidate"
        message = f"the function returned {problem}; return one or more of {', '.join(candidates)}"
        return InvalidRequest(path="route.rank", message=message)
    return list(dict.fromkeys(ranked))


class _FallbackLoop:
    """The attempts of one call at its candidates, one after another."""

    __slots__ = ("_chunk_delivered", "_metrics", "_record_decision", "_route", "_send")

    def __init__(
        self, route: ResolvedRoute, metrics: CandidateMetrics, record_decision: RecordDecision, send: Send
    ) -> None:
        self._route = route
        self._metrics = metrics
        self._record_decision = record_decision
        self._send = send
        self._chunk_delivered = False

    async def run(self, call: Call, ranked: Sequence[str], first: Answer | None = None) -> Answer:
        """Send the call to one candidate after another until one answers or no fallback is left.

        ``first`` is the answer of the first candidate, if it has been sent already.
        """
        remaining = list(ranked[: 1 + self._route.route.fallbacks])
        answers: list[Answer] = []
        while remaining:
            name = remaining.pop(0)
            already_sent = first is not None and not answers
            answers += [first] if first is not None and already_sent else await self._attempt(call, name, remaining)
            if is_successful(answers[-1].outcome):
                break
            error = answers[-1].outcome.failure()
            if self._chunk_delivered or not REACTIONS[type(error)].falls_back:
                break
            if remaining:
                self._record_decision("fallback", name, f"{error_type_name(error)}: on to {remaining[0]}")
        return merge_answers(answers)

    async def _attempt(self, call: Call, name: str, remaining: list[str]) -> list[Answer]:
        """Send to one candidate, hedged by the next where the route says so; return the answers, a good one last.

        A call whose chunks are delivered is not hedged: two streams cannot be delivered.
        """
        hedge = self._route.route.hedge
        is_hedged = hedge is not None and not call.is_delivered
        delay_s = hedge_delay_s(hedge, self._metrics.recent_latencies_s(name)) if hedge and is_hedged else None
        if delay_s is None:
            return [await self._send(self._to_candidate(call, name))]
        other = remaining[0] if remaining else name

        def on_second() -> None:
            if remaining:
                remaining.remove(other)
            detail = f"no answer in {delay_s:.3g} s: also sent to {other}"
            self._record_decision("hedge", name, detail, wait_s=delay_s)

        sent: list[str] = []
        first, second = (
            partial(self._send, self._to_candidate(call, candidate).with_on_sent(partial(sent.append, candidate)))
            for candidate in (name, other)
        )
        answers = await race(first, second, delay_s, on_second)
        cut_off = len(sent) - sum(answer.attempts for answer in answers)
        if cut_off > 0:  # the loser of the race, which the provider may charge all the same
            answers[-1] = replace(answers[-1], uncertain_requests=answers[-1].uncertain_requests + cut_off)
        return answers

    def _to_candidate(self, call: Call, name: str) -> Call:
        """Return the call to a candidate, noting whether any chunk is delivered."""
        routed = call.with_target(self._route.targets[name])
        return (
            replace(
                routed, on_chunk=self._noting_delivery(call.on_chunk), on_deltas=self._noting_delivery(call.on_deltas)
            )
            if call.is_delivered
            else routed
        )

    def _noting_delivery(self, deliver: Callable[[T], None] | None) -> Callable[[T], None] | None:
        if deliver is None:
            return None

        def deliver_and_note(content: T) -> None:
            self._chunk_delivered = True
            deliver(content)

        return deliver_and_note


def merge_answers(answers: Sequence[Answer]) -> Answer:
    """Return one answer for several attempts: the successful one, or the most retryable failure, with all attempts.

    The retry middleware counts those attempts, so that retries and fallbacks do not multiply.
    """
    if len(answers) == 1:
        return answers[0]
    total = answers[0]
    for answer in answers[1:]:
        total = add_attempts(total, answer)
    if is_successful(total.outcome):
        return total
    chosen = answers[most_retryable([answer.outcome.failure() for answer in answers])]
    return replace(total, outcome=chosen.outcome, target=chosen.target, key=chosen.key, limits=chosen.limits)
