"""Activity of a service since its start, for its page: calls, spend, errors and waits by team, key and model.

Events of the engine are counted in a thread (see `llmhub.observability.dispatcher`). The number of rows is bounded:
further keys and models are counted as `OTHER`. Money is in billionths of a dollar, so that sums are exact.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from returns.pipeline import is_successful

from llmhub.core.errors import error_type_name
from llmhub.core.pricing import compute_cost_nano_usd
from llmhub.core.types import Usage
from llmhub.engine.call import Answer, Target
from llmhub.engine.observer import CALL_ORIGIN, NS_PER_S, CacheHits, CallFinished, Event, Waited
from llmhub.engine.spending import TargetPrices
from llmhub.formatting.text import single_line
from llmhub.observability.dispatcher import Dispatcher
from llmhub.observability.instruments import OTHER
from llmhub.observability.subscriptions import subscribe
from llmhub.server.error_replies import error_text

MINUTES: Final = 60
"""Length of the series."""
MAX_ROWS: Final = 2000
"""Combinations of team, key and model that are counted apart."""
MAX_TEAMS: Final = 200
MAX_ERRORS: Final = 200
"""Kinds of errors that are kept; the ones that occurred longest ago are dropped first."""
LATENCIES: Final = 500
"""Latest durations of calls that quantiles are computed from, by team."""


class RowKey(NamedTuple):
    """Whose calls to which model a row counts."""

    team: str
    key_id: str
    model: str


@dataclass(slots=True)
class CallTotals:
    """Sums over calls.

    Parameters
    ----------
    answered, cached, failed, cancelled
        Calls answered by a provider, answered by the cache or an equal call, failed, and given up by their client.
    billed_nano_usd, saved_nano_usd
        Cost of the calls, and list price of the cached ones.
    unpriced
        Answered calls of unknown cost.
    input_tokens, output_tokens
        Tokens of the answered calls.
    """

    answered: int = 0
    cached: int = 0
    failed: int = 0
    cancelled: int = 0
    billed_nano_usd: int = 0
    saved_nano_usd: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def calls(self) -> int:
        """All calls."""
        return self.answered + self.cached + self.failed + self.cancelled

    def add(self, other: CallTotals) -> None:
        """Add the sums of other calls."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class MinuteTotals:
    """Calls of one minute of the clock."""

    answered: int = 0
    cached: int = 0
    failed: int = 0
    billed_nano_usd: int = 0


@dataclass(slots=True)
class ErrorTotals:
    """Failures of one kind: how many, and the last one."""

    count: int = 0
    last_at: float = 0.0
    last_key_id: str = ""
    message: str = ""


class ErrorKey(NamedTuple):
    """Whose calls to which model failed, and how."""

    team: str
    model: str
    error_type: str


@dataclass(slots=True)
class _TeamSeries:
    """The last hour of a team by minutes, and its latest durations."""

    minutes: dict[int, MinuteTotals] = field(default_factory=dict)
    durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))

    def at(self, minute: int) -> MinuteTotals:
        totals = self.minutes.get(minute)
        if totals is None:
            totals = self.minutes[minute] = MinuteTotals()
            for old in [each for each in self.minutes if each <= minute - MINUTES]:
                del self.minutes[old]
        return totals


@dataclass(frozen=True, slots=True)
class WaitTotals:
    """Waits of one reason: how many, and their duration."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ActivitySnapshot:
    """Activity of one team, or of all, at one moment.

    Parameters
    ----------
    rows
        Sums by team, key and model.
    minutes
        The last `MINUTES` minutes, the current one last.
    errors
        Failures, the latest first.
    waits
        Waits by model and reason.
    durations_s
        Latest durations of calls, sorted.
    """

    started_at: float
    now: float
    rows: dict[RowKey, CallTotals]
    minutes: list[MinuteTotals]
    errors: list[tuple[ErrorKey, ErrorTotals]]
    waits: dict[tuple[str, str], WaitTotals]
    durations_s: list[float]

    @property
    def total(self) -> CallTotals:
        """The sum of all rows."""
        return sum_totals(self.rows.values())

    def quantile_s(self, share: float) -> float | None:
        """Return a quantile of the latest durations; ``None`` without any."""
        count = len(self.durations_s)
        return self.durations_s[min(int(share * count), count - 1)] if count else None

    def by(self, name: str) -> list[tuple[str, CallTotals]]:
        """Return the sums by ``team``, ``key_id`` or ``model``: the dearest first, then the most frequent."""
        grouped: dict[str, CallTotals] = {}
        for key, totals in self.rows.items():
            grouped.setdefault(getattr(key, name), CallTotals()).add(totals)
        return sorted(grouped.items(), key=lambda item: (-item[1].billed_nano_usd, -item[1].calls, item[0]))


def sum_totals(parts: Iterable[CallTotals]) -> CallTotals:
    """Return the sum of sums.

    Examples
    --------
    >>> sum_totals([CallTotals(answered=1), CallTotals(cached=2)]).calls
    3
    """
    total = CallTotals()
    for part in parts:
        total.add(part)
    return total


class Activity:
    """Counts the events of this process. Any thread may take a snapshot.

    Parameters
    ----------
    clock
        Returns epoch seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._started_at = clock()
        self._prices = TargetPrices(clock)
        self._lock = threading.Lock()
        self._rows: dict[RowKey, CallTotals] = {}
        self._series: dict[str, _TeamSeries] = {}
        self._errors: dict[ErrorKey, ErrorTotals] = {}
        self._waits: Counter[tuple[str, str]] = Counter()
        self._wait_s: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._hits: deque[tuple[CacheHits, str, str]] = deque()
        self._dispatcher = Dispatcher(self._add, self._add_hits, clock)

    def start(self) -> Callable[[], None]:
        """Count the events of every hub of this process from now on; return the function that ends it."""
        unsubscribe = subscribe(self.observe, starts=False)

        def stop() -> None:
            unsubscribe()
            self._dispatcher.close()

        return stop

    def observe(self, event: Event) -> None:
        """Queue an event. Call it in the task that it belongs to."""
        kind = type(event)
        if kind is CacheHits:
            origin = CALL_ORIGIN.get()
            self._hits.append((event, origin.team, origin.key_id))  # type: ignore[arg-type]
        if kind is CallFinished or kind is Waited or kind is CacheHits:
            self._dispatcher(event)

    def snapshot(self, team: str | None = None) -> ActivitySnapshot:
        """Return the activity of a team, or of all teams. It may take some milliseconds: call it in a thread."""
        self._dispatcher.flush()
        with self._lock:
            now = self._clock()
            minute = int(now // 60)
            series = [each for name, each in self._series.items() if team in {None, name}]
            minutes = [_sum_minutes(each.minutes.get(minute - ago) for each in series) for ago in range(MINUTES)]
            rows = {key: _copied(totals) for key, totals in self._rows.items() if team in {None, key.team}}
            used = {key.model for key in rows}
            return ActivitySnapshot(
                started_at=self._started_at,
                now=now,
                rows=rows,
                minutes=minutes[::-1],
                errors=[
                    (key, ErrorTotals(each.count, each.last_at, each.last_key_id, each.message))
                    for key, each in reversed(self._errors.items())
                    if team in {None, key.team}
                ],
                waits={
                    key: WaitTotals(count, self._wait_s[key])
                    for key, count in self._waits.items()
                    if team is None or key[0] in used
                },
                durations_s=sorted(duration for each in series for duration in each.durations_s),
            )

    # In the thread of the dispatcher

    def _add(self, event: Event, cost_nano_usd: int | None) -> None:
        with self._lock:
            if isinstance(event, CallFinished):
                self._add_call(event, cost_nano_usd)
            elif isinstance(event, Waited):
                key = (event.call.target.name, event.reason)
                if key in self._waits or len(self._waits) < MAX_ROWS:
                    self._waits[key] += 1
                    self._wait_s[key] += (event.ended_ns - event.started_ns) / NS_PER_S

    def _add_hits(self) -> None:
        with self._lock:
            while self._hits:
                event, team, key_id = self._hits.popleft()
                self._row(team, key_id, event.target).cached += event.rows
                self._team(team).at(int(self._clock() // 60)).cached += event.rows

    def _add_call(self, event: CallFinished, cost_nano_usd: int | None) -> None:
        answer, origin = event.answer, event.origin
        target = event.call.target if answer is None or answer.target is None else answer.target
        row, series = self._row(origin.team, origin.key_id, target), self._team(origin.team)
        minute = series.at(int(event.ended_ns / NS_PER_S // 60))
        row.billed_nano_usd += cost_nano_usd or 0
        minute.billed_nano_usd += cost_nano_usd or 0
        if answer is None:
            row.cancelled += 1
            return
        if not is_successful(answer.outcome):
            row.failed += 1
            minute.failed += 1
            self._add_error(event, answer, target)
            return
        response = answer.outcome.unwrap()
        if answer.cache_hit:
            row.cached += 1
            minute.cached += 1
            listed = compute_cost_nano_usd(response.usage, self._prices.lookup(target, response.served_model))
            row.saved_nano_usd += listed or 0
            return
        row.answered += 1
        minute.answered += 1
        row.unpriced += cost_nano_usd is None
        _add_tokens(row, response.usage)
        series.durations_s.append((event.ended_ns - event.started_ns) / NS_PER_S)

    def _add_error(self, event: CallFinished, answer: Answer, target: Target) -> None:
        error = answer.outcome.failure()
        key = ErrorKey(self._known_team(event.origin.team), target.name, error_type_name(error))
        totals = self._errors.pop(key, None) or ErrorTotals()
        totals.count += 1
        totals.last_at = event.ended_ns / NS_PER_S
        totals.last_key_id = event.origin.key_id
        totals.message = single_line(error_text(error), 300)
        self._errors[key] = totals  # the latest is the last
        if len(self._errors) > MAX_ERRORS:
            del self._errors[next(iter(self._errors))]

    def _row(self, team: str, key_id: str, target: Target) -> CallTotals:
        key = RowKey(self._known_team(team), key_id, target.name)
        if key not in self._rows and len(self._rows) >= MAX_ROWS:
            key = RowKey(key.team, OTHER, OTHER)
        return self._rows.setdefault(key, CallTotals())

    def _team(self, team: str) -> _TeamSeries:
        return self._series.setdefault(self._known_team(team), _TeamSeries())

    def _known_team(self, team: str) -> str:
        return team if team in self._series or len(self._series) < MAX_TEAMS else OTHER


def _add_tokens(row: CallTotals, usage: Usage) -> None:
    row.input_tokens += usage.input_tokens or 0
    row.output_tokens += usage.output_tokens or 0


def _copied(totals: CallTotals) -> CallTotals:
    copy = CallTotals()
    copy.add(totals)
    return copy


def _sum_minutes(parts: Iterable[MinuteTotals | None]) -> MinuteTotals:
    total = MinuteTotals()
    for part in parts:
        if part is not None:
            total.answered += part.answered
            total.cached += part.cached
            total.failed += part.failed
            total.billed_nano_usd += part.billed_nano_usd
    return total
