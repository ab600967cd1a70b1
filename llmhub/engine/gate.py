"""The one gate before the wire: declared limits, limits learned from replies, and what was found by trying.

Whoever comes gets a place in the order of coming, and is woken once, when they may go: by a timer that is set to that
moment, or by whatever lets them go earlier. Limits of a provider are shared by the lines of its models; nobody
overtakes another who waits for the same limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import count
from math import inf
from typing import Final, NamedTuple

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import RateLimited
from llmhub.core.ratelimit import RateLimitInfo
from llmhub.engine.adaptive import Adaptive, Refusal, answered, begun, held, paid, permitted, refused, unhurried
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.decisions import Note
from llmhub.engine.learned import ROUGH_S, Known, learn, told
from llmhub.engine.limit import NOTHING, ONE, USUAL_ANSWER, WHAT, Cost, Limit, expected, plus, states_of
from llmhub.engine.slots import Place, Slots, place
from llmhub.engine.windows import State, give, take

SOON_S: Final = 1e-6
RAMP_S: Final = 0.002
"""How soon to look again while slow start grows by itself."""
PATIENCE_S: Final = 3600.0
"""Who would have to wait for longer, until a day's allowance comes back, hears so at once."""
LONGEST_LEARNED_S: Final = 300.0
"""What a reply taught keeps nobody for longer: the provider may say for itself that it is tomorrow's."""
LEARN_EVERY_S: Final = 0.005
"""Replies that come closer together teach nothing new, unless they are refusals."""
ALMOST: Final = 0.8
SMOOTH: Final = 0.1
"""Weight of an answer in the estimate of how long answers are."""


class Cell:
    """One limit and where it stands; the lines of several models may share it.

    ``what`` it counts is a position in `WHAT`; ``longest_s`` is for how long it may hold anybody; ``since`` is when the
    request went whose reply taught it.
    """

    __slots__ = ("longest_s", "since", "state", "what", "why")

    def __init__(self, what: int, state: State, why: str, longest_s: float = inf) -> None:
        self.what = what
        self.state = state
        self.why = f"{WHAT[what]}, {why}"
        self.longest_s = longest_s
        self.since = -inf


class Hold(NamedTuple):
    """What is in the way: for how long (for ever: until somebody comes back), why, and the limit, if it is one."""

    wait_s: float
    why: str
    cell: Cell | None = None


class Pass(NamedTuple):
    """What was booked when a call was let go, and when; ``before`` is all that had been booked with it."""

    at: float
    cost: Cost
    before: Cost


NO_PLACE: Final = Hold(inf, "calls under way at once, of its run")


class _Waiter(NamedTuple):
    ticket: int
    cost: Cost
    told: asyncio.Future[Pass | Hold]
    place: Place | None


class Line:
    """Those who want to go to one target, and what holds for it."""

    __slots__ = (
        "booked", "cells", "closed_until", "counts_tokens", "holds", "known", "learned", "learned_at", "name", "search",
        "under_way", "usual_answer", "waiting",
    )  # fmt: skip

    def __init__(self, name: str, cells: list[Cell], search: Adaptive | None) -> None:
        self.name = name
        self.cells = cells
        self.search = search
        self.known: list[Known | None] = [None] * len(WHAT)
        self.learned: dict[int, Cell] = {}
        self.under_way = 0
        self.closed_until = self.learned_at = -inf
        self.booked = NOTHING
        self.usual_answer = float(USUAL_ANSWER)
        self.counts_tokens = any(cell.what for cell in cells)
        self.waiting: deque[_Waiter] = deque()
        self.holds = ""


class Gate:
    """Lets calls go when they may. Lives on one event loop.

    Parameters
    ----------
    limits
        Declared limits by provider, or by ``provider/model``.
    clock
        Seconds of a clock that does not go back: the loop's.
    note
        Where it is noted what was learned and decided.
    adaptive
        Whether to search for a limit where none is declared.
    """

    def __init__(
        self, limits: Mapping[str, Limit], clock: Callable[[], float], note: Note, *, adaptive: bool = True
    ) -> None:
        self._clock = clock
        self._note = note
        self._adaptive = adaptive
        self._declared = {
            name: [
                Cell(what, state, f"{WHAT[what]}, as declared for {name}") for what, state in states_of(limit, clock())
            ]
            for name, limit in limits.items()
        }
        self._lines: dict[str, Line] = {}
        self._crowded: set[Line] = set()
        self._tickets = count()
        self._timer: asyncio.TimerHandle | None = None

    def line(self, target: Target) -> Line:
        """Give the line of a target."""
        line = self._lines.get(target.name)
        if line is None:
            names = (target.provider.name, target.name)
            cells = [cell for name in names for cell in self._declared.get(name, ())]
            search = (unhurried if cells else begun)(self._clock()) if self._adaptive else None
            line = self._lines[target.name] = Line(target.name, cells, search)
        return line

    def holds(self, target: str) -> str:
        """Say what makes a target's line wait; empty where nobody does."""
        line = self._lines.get(target)
        return line.holds if line is not None and line.waiting else ""

    async def enter(self, line: Line, cost: Cost, now: float) -> Pass | Hold:
        """Wait until a call may go; give what was booked for it, or what keeps it longer than anybody would wait.

        Who was let go says so by `leave`, or by `took` when there is an answer. A call that waits lends its place in
        its run, and is let go when it has one: what it books is not kept until it gets one, and sent with others then.
        """
        mine = place()
        if not self._crowded and (mine is None or not mine.lent):
            gone = self._try(line, cost, now)
            if isinstance(gone, Pass):
                return gone
        waiter = _Waiter(next(self._tickets), cost, asyncio.get_running_loop().create_future(), mine)
        line.waiting.append(waiter)
        self._crowded.add(line)
        self._pump()
        if mine is not None and not waiter.told.done():
            mine.lend_until_let_go()
        try:
            return await waiter.told
        except asyncio.CancelledError:
            if waiter.told.done() and not waiter.told.cancelled() and isinstance(waiter.told.result(), Pass):
                self.leave(line)
            self._pump()
            raise

    def leave(self, line: Line) -> None:
        """Take in that a call that was let go is over without an answer: what it took stays counted."""
        line.under_way -= 1
        if self._crowded:
            self._pump()

    def took(self, line: Line, gone: Pass, answer: Answer) -> None:
        """Take in what became of a call that was let go."""
        line.under_way -= 1
        now = self._clock()
        error = None if is_successful(answer.outcome) else answer.outcome.failure()
        limited = isinstance(error, RateLimited)
        if error is None and line.counts_tokens:
            self._settle(line, gone, answer)
        if answer.limits is not None and (limited or now - line.learned_at >= LEARN_EVERY_S):
            self._heed(line, answer.limits, gone, now)
        if error is not None and limited:
            self._refused(line, gone, now, answer.limits, error.retry_after_s)
        elif line.search is not None and answer.attempts:
            line.search = answered(line.search, gone.at, line.under_way)
        if self._crowded:
            self._pump()

    # Going

    def _try(self, line: Line, cost: Cost, now: float, seat: Place | None = None) -> Pass | Hold:
        """Let a call go if nothing is in the way, and it has its place."""
        if line.closed_until > now:
            return Hold(line.closed_until - now, "a pause after refusals")
        search = line.search
        if search is not None and (line.under_way >= search.window or search.pace is not None):
            held = _searched(line, search, now)
            if held is not None:
                return held
        booked: list[tuple[Cell, State]] = []
        for cell in line.cells:
            new, wait = take(cell.state, now, cost[cell.what])
            if SOON_S < wait < cell.longest_s:
                return Hold(wait, cell.why, cell)
            booked.append((cell, new))
        if seat is not None and not seat.there(self._pump):
            return NO_PLACE
        for cell, new in booked:
            cell.state = new
        if search is not None and search.pace is not None:
            line.search = paid(search, search.pace, now)
        line.under_way += 1
        line.booked = plus(line.booked, cost)
        return Pass(now, cost, line.booked)

    def _pump(self) -> None:
        """Let go whoever may, first come first served, and set the timer for whoever may next."""
        now = self._clock()
        due = inf
        stuck: set[Cell] = set()
        full: set[Slots] = set()
        lines = {line for line in self._crowded if line.waiting}
        while lines:
            line = min(lines, key=lambda line: line.waiting[0].ticket)
            waiter = _first(line, full)
            if waiter is None:
                lines.discard(line)
                continue
            if waiter.told.done():
                line.waiting.remove(waiter)
            else:
                gone = self._blocked(line, stuck) or self._try(line, waiter.cost, now, waiter.place)
                if gone is NO_PLACE and waiter.place is not None:
                    full.add(waiter.place.slots)
                    continue
                if isinstance(gone, Hold) and not PATIENCE_S < gone.wait_s < inf:
                    self._hold(line, gone)
                    due = min(due, gone.wait_s)
                    stuck.update((gone.cell,) if gone.cell is not None else ())
                    lines.discard(line)
                    continue
                line.waiting.remove(waiter)
                waiter.told.set_result(gone)
            if not line.waiting:
                lines.discard(line)
        self._crowded = {line for line in self._crowded if line.waiting}
        self._wake_in(due)

    def _blocked(self, line: Line, stuck: set[Cell]) -> Hold | None:
        """Keep a line from overtaking one that came before it and waits for the same limit."""
        cell = next((cell for cell in line.cells if cell in stuck), None) if stuck else None
        return Hold(inf, cell.why, cell) if cell is not None else None

    def _hold(self, line: Line, held: Hold) -> None:
        """Remember what is in the way, and note it when that is something else than before."""
        if line.holds != held.why:
            line.holds = held.why
            self._note("wait", line.name, held.why, wait_s=held.wait_s if held.wait_s < inf else None)

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < inf:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._pump)

    # What came of it

    def _settle(self, line: Line, gone: Pass, answer: Answer) -> None:
        """Correct what a call was thought to take to what it took."""
        usage = answer.outcome.unwrap().usage
        taken, made = usage.input_tokens, usage.output_tokens
        if taken is None or made is None:
            return
        line.usual_answer += SMOOTH * (made - line.usual_answer)
        if not gone.cost.tokens:
            return
        booked = gone.cost
        beyond = (0.0, booked.tokens - taken - made, booked.input_tokens - taken, booked.output_tokens - made)
        for cell in line.cells:
            # What a reply taught counts every request that went before its own.
            if cell.what and cell.since < gone.at:
                cell.state = give(cell.state, beyond[cell.what], gone.at)

    def _heed(self, line: Line, info: RateLimitInfo, gone: Pass, now: float) -> None:
        """Learn from what a reply said of limits."""
        line.learned_at = now
        for what, said in enumerate(told(info)):
            if said[1] is None:
                continue
            before = line.known[what]
            known = learn(before, said, now, gone.at, line.booked[what] - gone.before[what])
            if known is None or known is before:
                continue
            cell = line.learned.get(what)
            if cell is None:
                cell = line.learned[what] = Cell(what, known.window, "as the provider says", LONGEST_LEARNED_S)
                line.cells = [*line.cells, cell]
                line.counts_tokens = line.counts_tokens or bool(what)
            cell.state, cell.since, line.known[what] = known.window, gone.at, known
            if before is None or before.limit != known.limit:
                self._note("learn", line.name, f"{known.limit:g} {WHAT[what]} in {known.period_s:g} s")

    def _refused(self, line: Line, gone: Pass, now: float, info: RateLimitInfo | None, asked_s: float | None) -> None:
        """React to a refusal for a limit."""
        pause_s: float | None = None
        if asked_s and info is not None and _all_at_once(info, asked_s):
            # It says what ran out and that it comes back all at once: there is nothing to find out.
            pause_s = asked_s
        elif line.search is not None:
            before = line.search
            refusal = Refusal(gone.at, gone.before.requests, line.booked.requests, line.under_way, asked_s)
            line.search, pause_s = refused(before, now, refusal)
            if line.search.since != before.since:
                pace = f", {line.search.pace.rate_s:.3g} a second" if line.search.pace is not None else ""
                self._note("shrink", line.name, f"to {line.search.window:g} calls at once{pace}")
        if pause_s and pause_s <= LONGEST_LEARNED_S and now + pause_s > line.closed_until:
            line.closed_until = now + pause_s
            self._note("pause", line.name, "refusals", wait_s=pause_s)


def _first(line: Line, full: Collection[Slots]) -> _Waiter | None:
    """Give who came first of those that have a place, or whose run may have one."""
    if not full:
        return line.waiting[0]
    seats = ((one, one.place) for one in line.waiting)
    return next((one for one, seat in seats if seat is None or not seat.lent or seat.slots not in full), None)


def _searched(line: Line, search: Adaptive, now: float) -> Hold | None:
    """Say what the search for a limit has in the way."""
    if line.under_way >= permitted(search, now):
        return Hold(inf if search.ramp_from is None else RAMP_S, "calls at once, found by trying")
    if search.pace is None or (wait := take(search.pace, now, 1.0)[1]) <= SOON_S:
        return None
    line.search = held(search)
    return Hold(wait, "requests a second, found by trying")


def _all_at_once(info: RateLimitInfo, asked_s: float) -> bool:
    """Say whether what ran out is back when the provider said to come again, not just some of it."""
    resets = [reset_s for _, remaining, reset_s in told(info) if remaining == 0 and reset_s is not None]
    return any(asked_s > ROUGH_S and asked_s >= ALMOST * reset_s for reset_s in resets)


def limited(gate: Gate, line: Line, clock: Callable[[], float]) -> Middleware:
    """Make the middleware that waits for the gate before each attempt, and tells it what came of it."""

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            cost = expected(call.request, line.usual_answer) if line.counts_tokens else ONE
            start = clock()
            gone = await gate.enter(line, cost, start)
            if isinstance(gone, Hold):
                return Answer(Failure(_too_long(call, gone)))
            try:
                answer = await send(call)
            except BaseException:
                gate.leave(line)
                raise
            gate.took(line, gone, answer)
            waited = gone.at - start
            return replace(answer, rate_wait_s=waited, total_s=(answer.total_s or 0.0) + waited) if waited else answer

        return sending

    return wrap


def _too_long(call: Call, held: Hold) -> RateLimited:
    said = f"the limit of {held.why} lets nobody through for another {held.wait_s:.0f} s"
    provider = call.target.provider.name
    return RateLimited(provider=provider, message=said, retry_after_s=held.wait_s, should_retry=False)
