"""Calls along a route: who is measured, who is asked, and who next when that fails.

The choosing is pure (`llmhub.engine.route`); here it is given what was measured, and carried out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.cost import Price
from llmhub.core.errors import InvalidRequest, kind
from llmhub.core.tokens import estimate_tokens
from llmhub.core.types import StreamChunk
from llmhub.engine.budget import Prices
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.decisions import Note
from llmhub.engine.hedging import race
from llmhub.engine.hooks import added
from llmhub.engine.measured import NOTHING, REACTIONS, Measured, Stats, answered, begun, failed, left
from llmhub.engine.route import Route, hedge_delay_s, most_hopeful

REMEMBERED: Final = 128
"""Latencies kept of each candidate, for quantiles."""


@dataclass(frozen=True, slots=True)
class Path:
    """A route under its name, with its candidates found; whoever was asked by name stands first."""

    name: str
    route: Route
    targets: Mapping[str, Target]
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Name the candidates."""
        object.__setattr__(self, "names", tuple(self.targets))


class Board:
    """What was measured of every candidate of a hub. Lives on one loop.

    Parameters
    ----------
    clock
        Seconds, running forward.
    draw
        Random numbers from 0 up to 1.
    """

    def __init__(self, clock: Callable[[], float], draw: Callable[[], float], prices: Prices) -> None:
        self.clock = clock
        self._draw = draw
        self._prices = prices
        self._measured: dict[str, Measured] = {}
        self._latencies: dict[str, deque[float]] = {}
        self._turns: Counter[str] = Counter()
        self._usd: dict[str, tuple[Price, float, float]] = {}

    def stats(self, path: Path, call: Call) -> Stats:
        """Give a ranking what it may go by."""
        turn = self._turns[path.name]
        self._turns[path.name] += 1
        now, draw = self.clock(), self._draw()
        if not path.route.counts:
            known = self._measured
            return Stats({name: known.get(name, NOTHING) for name in path.names}, now, turn, draw)
        return Stats(
            of={name: self._priced(target) for name, target in path.targets.items()},
            now=now,
            turn=turn,
            draw=draw,
            input_tokens=sum([estimate_tokens(message.text) for message in call.request.messages]),
            max_tokens=call.request.max_tokens,
        )

    def latencies_s(self, name: str) -> Sequence[float]:
        """Give a candidate's last latencies."""
        return self._latencies.get(name, ())

    def observed(self, target: Target) -> Middleware:
        """Make the middleware that measures one candidate."""
        name = target.name
        latencies = self._latencies.setdefault(name, deque(maxlen=REMEMBERED))

        def wrap(send: Send) -> Send:
            async def sending(call: Call) -> Answer:
                start = self.clock()
                self._measured[name] = begun(self._measured.get(name, NOTHING))
                try:
                    answer = await send(call)
                except BaseException:
                    now = self.clock()
                    self._measured[name] = left(self._measured[name], now - start, now)
                    raise
                now, before = self.clock(), self._measured[name]
                if is_successful(answer.outcome):
                    usage = answer.outcome.unwrap().usage
                    self._measured[name] = answered(before, answer.latency_s, usage.output_tokens, now)
                    if answer.latency_s is not None:
                        latencies.append(answer.latency_s)
                else:
                    self._measured[name] = failed(before, answer.outcome.failure(), now)
                return answer

            return sending

        return wrap

    def _priced(self, target: Target) -> Measured:
        measured = self._measured.get(target.name, NOTHING)
        price = self._prices.of(target)
        if price is None:
            return measured
        known = self._usd.get(target.name)
        if known is None or known[0] is not price:
            known = self._usd[target.name] = (price, float(price.rates.input), float(price.rates.output))
        return Measured(*measured[:-2], *known[1:])


def routed(find: Callable[[str], Path | None], board: Board, note: Note) -> Middleware:
    """Make the middleware that chooses whom to ask; ``find`` gives the path of a name, if it is one's."""

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            path = find(call.target.name)
            if path is None:
                return await send(call)
            ranked = _ranked(path, board.stats(path, call))
            if isinstance(ranked, InvalidRequest):
                return Answer(Failure(ranked))
            if path.route.hedge is None and call.on_chunk is None:
                # What mostly happens: the first is asked, and answers.
                answer = await send(call.to(path.targets[ranked[0]]))
                if is_successful(answer.outcome):
                    return answer
                return await _Pass(path, board, note, send).go(call, ranked, answer)
            return await _Pass(path, board, note, send).go(call, ranked)

        return sending

    return wrap


def _ranked(path: Path, stats: Stats) -> Sequence[str] | InvalidRequest:
    """Have the route rank its candidates; what a user's function gives is looked at."""
    candidates = path.names
    if path.route.ours:
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


class _Pass:
    """One call's way along its candidates."""

    __slots__ = ("_board", "_note", "_path", "_send", "_shown")

    def __init__(self, path: Path, board: Board, note: Note, send: Send) -> None:
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
                self._note("fallback", name, f"{kind(error)}: on to {left[0]}")
        return whole(came)

    async def _ask(self, call: Call, name: str, left: list[str]) -> list[Answer]:
        """Ask one candidate, and the next as well when it takes long; give what came, a good answer last.

        What somebody watches coming is asked of one alone: two streams cannot be shown.
        """
        hedge = self._path.route.hedge
        watched = call.on_chunk is not None
        delay_s = None if hedge is None or watched else hedge_delay_s(hedge, self._board.latencies_s(name))
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
        there = call.to(self._path.targets[name])
        show = call.on_chunk
        if show is None:
            return there

        def shown(chunk: StreamChunk) -> None:
            self._shown = True
            show(chunk)

        return replace(there, on_chunk=shown)


def whole(came: Sequence[Answer]) -> Answer:
    """Make one answer of several: the good one, or the failure that is worth another try; all attempts count.

    Whoever asks again goes by it, so that retries and fallbacks are counted together and neither feeds the other.
    """
    if len(came) == 1:
        return came[0]
    total = came[0]
    for answer in came[1:]:
        total = added(total, answer)
    if is_successful(total.outcome):
        return total
    one = came[most_hopeful([answer.outcome.failure() for answer in came])]
    return replace(total, outcome=one.outcome, target=one.target, key=one.key, limits=one.limits)
