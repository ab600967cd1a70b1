"""Calls along a route: who is measured, who is asked, and who next when that fails.

The choosing is pure (`llmhub.engine.routing_policy`); here it is given what was measured, and carried out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import InvalidRequest, error_type_name
from llmhub.core.pricing import Price
from llmhub.core.token_estimate import estimate_tokens
from llmhub.core.types import StreamChunk
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

MAX_LATENCY_SAMPLES: Final = 128
"""Latencies kept of each candidate, for quantiles."""


@dataclass(frozen=True, slots=True)
class ResolvedRoute:
    """A route under its name, with its candidates found; whoever was asked by name stands first."""

    name: str
    route: Route
    targets: Mapping[str, Target]
    candidates: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Name the candidates."""
        object.__setattr__(self, "candidates", tuple(self.targets))


class CandidateMetrics:
    """What was measured of every candidate of a hub. Lives on one loop.

    Parameters
    ----------
    clock
        Seconds, running forward.
    draw
        Random numbers from 0 up to 1.
    """

    def __init__(self, clock: Callable[[], float], draw: Callable[[], float], prices: TargetPrices) -> None:
        self.clock = clock
        self._draw = draw
        self._prices = prices
        self._measured: dict[str, CandidateStats] = {}
        self._latencies: dict[str, deque[float]] = {}
        self._turns: Counter[str] = Counter()
        self._usd: dict[str, tuple[Price, float, float]] = {}

    def stats(self, path: ResolvedRoute, call: Call) -> RoutingStats:
        """Give a ranking what it may go by."""
        turn = self._turns[path.name]
        self._turns[path.name] += 1
        now, draw = self.clock(), self._draw()
        if not path.route.needs_prices:
            known = self._measured
            return RoutingStats({name: known.get(name, NO_STATS) for name in path.candidates}, now, turn, draw)
        return RoutingStats(
            candidates={name: self._priced(target) for name, target in path.targets.items()},
            now=now,
            turn=turn,
            draw=draw,
            input_tokens=sum([estimate_tokens(message.text) for message in call.request.messages]),
            max_tokens=call.request.max_tokens,
        )

    def recent_latencies_s(self, name: str) -> Sequence[float]:
        """Give a candidate's last latencies."""
        return self._latencies.get(name, ())

    def middleware(self, target: Target) -> Middleware:
        """Make the middleware that measures one candidate."""
        name = target.name
        latencies = self._latencies.setdefault(name, deque(maxlen=MAX_LATENCY_SAMPLES))

        def wrap(send: Send) -> Send:
            async def sending(call: Call) -> Answer:
                start = self.clock()
                self._measured[name] = on_start(self._measured.get(name, NO_STATS))
                try:
                    answer = await send(call)
                except BaseException:
                    now = self.clock()
                    self._measured[name] = on_abandoned(self._measured[name], now - start, now)
                    raise
                now, before = self.clock(), self._measured[name]
                if is_successful(answer.outcome):
                    usage = answer.outcome.unwrap().usage
                    self._measured[name] = on_success(before, answer.latency_s, usage.output_tokens, now)
                    if answer.latency_s is not None:
                        latencies.append(answer.latency_s)
                else:
                    self._measured[name] = on_failure(before, answer.outcome.failure(), now)
                return answer

            return sending

        return wrap

    def _priced(self, target: Target) -> CandidateStats:
        measured = self._measured.get(target.name, NO_STATS)
        price = self._prices.lookup(target)
        if price is None:
            return measured
        known = self._usd.get(target.name)
        if known is None or known[0] is not price:
            known = self._usd[target.name] = (price, float(price.rates.input), float(price.rates.output))
        return CandidateStats(*measured[:-2], *known[1:])


def routing_middleware(
    find: Callable[[str], ResolvedRoute | None], metrics: CandidateMetrics, note: RecordDecision
) -> Middleware:
    """Make the middleware that chooses whom to ask; ``find`` gives the path of a name, if it is one's."""

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            path = find(call.target.name)
            if path is None:
                return await send(call)
            ranked = _rank_candidates(path, metrics.stats(path, call))
            if isinstance(ranked, InvalidRequest):
                return Answer(Failure(ranked))
            if path.route.hedge is None and call.on_chunk is None:
                # What mostly happens: the first is asked, and answers.
                answer = await send(call.with_target(path.targets[ranked[0]]))
                if is_successful(answer.outcome):
                    return answer
                return await _FallbackLoop(path, metrics, note, send).go(call, ranked, answer)
            return await _FallbackLoop(path, metrics, note, send).go(call, ranked)

        return sending

    return wrap


def _rank_candidates(path: ResolvedRoute, stats: RoutingStats) -> Sequence[str] | InvalidRequest:
    """Have the route rank its candidates; what a user's function gives is looked at."""
    candidates = path.candidates
    if path.route.is_builtin:
        return path.route.rank(candidates, stats)
    try:
        ranked = list(path.route.rank(candidates, stats))
    except Exception as wrong:  # noqa: BLE001 - a user's function may raise anything
        return InvalidRequest(path="route.rank", message=f"it failed: {type(wrong).__name__}: {wrong}")
    foreign = [name for name in ranked if name not in path.targets]
    if foreign or not ranked:
        what = f"{foreign[0]!r:.80}, which is no candidate" if foreign else "nobody"
        return InvalidRequest(path="route.rank", message=f"it gave {what}; give some of {', '.join(candidates)}")
    return list(dict.fromkeys(ranked))


class _FallbackLoop:
    """One call's way along its candidates."""

    __slots__ = ("_board", "_note", "_path", "_send", "_shown")

    def __init__(self, path: ResolvedRoute, board: CandidateMetrics, note: RecordDecision, send: Send) -> None:
        self._path = path
        self._board = board
        self._note = note
        self._send = send
        self._shown = False

    async def go(self, call: Call, ranked: Sequence[str], first: Answer | None = None) -> Answer:
        """Ask one after the other, until one answers or nothing is left that may; ``first`` is what the first said."""
        left = list(ranked[: 1 + self._path.route.fallbacks])
        came: list[Answer] = []
        while left:
            name = left.pop(0)
            came += [first] if first is not None and not came else await self._ask(call, name, left)
            if is_successful(came[-1].outcome):
                break
            error = came[-1].outcome.failure()
            if self._shown or not REACTIONS[type(error)].falls_back:
                break
            if left:
                self._note("fallback", name, f"{error_type_name(error)}: on to {left[0]}")
        return merge_answers(came)

    async def _ask(self, call: Call, name: str, left: list[str]) -> list[Answer]:
        """Ask one candidate, and the next as well when it takes long; give what came, a good answer last.

        What somebody watches coming is asked of one alone: two streams cannot be shown.
        """
        hedge = self._path.route.hedge
        watched = call.on_chunk is not None
        delay_s = None if hedge is None or watched else hedge_delay_s(hedge, self._board.recent_latencies_s(name))
        if delay_s is None:
            return [await self._send(self._to(call, name))]
        other = left[0] if left else name

        def second() -> None:
            if left:
                left.remove(other)
            self._note("hedge", name, f"no answer in {delay_s:.3g} s: {other} is asked too", wait_s=delay_s)

        first, next_ = (partial(self._send, self._to(call, who)) for who in (name, other))
        return await race(first, next_, delay_s, second)

    def _to(self, call: Call, name: str) -> Call:
        """Give the question to a candidate, and watch whether anything of an answer is shown."""
        there = call.with_target(self._path.targets[name])
        show = call.on_chunk
        if show is None:
            return there

        def shown(chunk: StreamChunk) -> None:
            self._shown = True
            show(chunk)

        return replace(there, on_chunk=shown)


def merge_answers(came: Sequence[Answer]) -> Answer:
    """Make one answer of several: the good one, or the failure that is worth another try; all attempts count.

    Whoever asks again goes by it, so that retries and fallbacks are counted together and neither feeds the other.
    """
    if len(came) == 1:
        return came[0]
    total = came[0]
    for answer in came[1:]:
        total = add_attempts(total, answer)
    if is_successful(total.outcome):
        return total
    one = came[most_retryable([answer.outcome.failure() for answer in came])]
    return replace(total, outcome=one.outcome, target=one.target, key=one.key, limits=one.limits)
