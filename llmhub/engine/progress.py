"""Reports of a run to whoever watches it: often enough to be live, seldom enough to cost nothing.

How far a run is: rows, tokens and money by model, how fast it goes, and what holds it back.

Answers are counted as they come, at a fraction of a microsecond for one from the store; everything else is worked
out when somebody asks, a few times a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

from returns.pipeline import is_successful

from llmhub.core.errors import BudgetExceeded, Cancelled
from llmhub.core.pricing import NANO_DIGITS, Price, compute_cost_nano_usd
from llmhub.core.serialization import StoredResponse
from llmhub.core.types import Usage
from llmhub.engine.call import Answer, Target
from llmhub.engine.event_loop import run_in_thread
from llmhub.providers.prices import find_served_price

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import Int64Array


MIN_REPORT_INTERVAL_S: Final = 0.2


MAX_REPORT_INTERVAL_S: Final = 1.0
"""Between two reports, at least; and at most."""


MAX_LOOP_SHARE: Final = 0.01
"""Of the loop's time, what reports may take: where they take more, they come more seldom."""


class ProgressReporter:
    """Tells ``watch`` how far a run is.

    Parameters
    ----------
    tally
        What is counted.
    now
        Asked what the run knows by itself.
    """

    def __init__(self, watch: ProgressSink, tally: ProgressTracker, now: Callable[[], RunSnapshot]) -> None:
        self._watch: ProgressSink | None = watch
        self._tally = tally
        self._now = now
        self._took_s = 0.0
        self._looking: asyncio.Task[None] | None = None
        self.error = ""

    async def run(self) -> None:
        """Report until cancelled; what is not known yet is looked up meanwhile."""
        while self._watch is not None:
            await asyncio.sleep(min(MAX_REPORT_INTERVAL_S, max(MIN_REPORT_INTERVAL_S, self._took_s / MAX_LOOP_SHARE)))
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_up())
            self.report()

    async def finish(self) -> None:
        """Report for the last time, when all is known."""
        if self._looking is not None:
            await self._looking
        await self._look_up()
        self.report()

    async def _look_up(self) -> None:
        """Look up what answers cost that nobody knows yet: the first time takes half a second."""
        try:
            if self._watch is not None and (new := self._tally.unpriced_models()):
                self._tally.set_prices(await run_in_thread(self._tally.look_up_prices, new))
        except Exception as wrong:  # noqa: BLE001 - a price table may be anybody's, and no answer is lost for one
            self._give_up(wrong)

    def report(self) -> None:
        """Report once. What goes wrong in that is the watcher's, and costs no answer."""
        if self._watch is None:
            return
        begun = time.perf_counter()
        try:
            self._watch.report(self._tally.progress(self._now()))
        except Exception as wrong:  # noqa: BLE001 - a caller's function may raise anything
            self._give_up(wrong)
        self._took_s = time.perf_counter() - begun

    def _give_up(self, wrong: Exception) -> None:
        self._watch = None
        self.error = f"{type(wrong).__name__}: {wrong}"


RATE_WINDOW_S: Final = 10.0
"""Rows a second are those of this last stretch."""


SATURATED_SHARE: Final = 0.9
"""Share of the permitted calls that are on the wire when nothing but their number holds a run back."""


CONCURRENCY: Final = "concurrency"


RATE_LIMIT: Final = "rate limit"


ServedModel: TypeAlias = tuple[str, str, str]
"""Who answered, as the price table needs it: provider, the model asked for, the model that served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProgress:
    """How far a run is with one model.

    Parameters
    ----------
    model
        As it was asked for: ``provider/model``.
    total
        Rows it is asked, those with a missing value included.
    done
        Rows that have their answer; of these ``cached`` took no call of their own, and ``failed`` have an error.
    given_up
        Rows without one, since the run was stopped or the budget did not reach for them.
    input_tokens, output_tokens
        Of the calls of this run.
    spent_usd
        What they cost; ``None`` while or where the price is unknown.
    forecast_usd
        What the whole run will have cost, if it goes on like this; ``None`` before the first paid answer.
    """

    model: str
    total: int
    done: int = 0
    cached: int = 0
    failed: int = 0
    unanswered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent_usd: Decimal | None = None
    forecast_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. ``done`` counts rows that have their answer: ``cached``, ``failed`` or fresh.

    Parameters
    ----------
    in_flight
        Calls on the wire now.
    rows_s
        Rows a second, of late; of the whole run once it is ``finished``.
    left_s
        Seconds until the end, if it goes on like this; ``None`` while nobody knows.
    stopping
        Whether somebody asked it to stop.
    limit
        What holds the run back: ``concurrency``, or which rate limit; empty where nothing in particular does.
    models
        The same for each model, in the order asked.
    """

    total: int
    done: int
    cached: int
    failed: int
    in_flight: int
    elapsed_s: float
    finished: bool = False
    stopping: bool = False
    rows_per_s: float = 0.0
    remaining_s: float | None = None
    limited_by: str = ""
    models: tuple[ModelProgress, ...] = ()

    @property
    def unanswered(self) -> int:
        """Rows that will have no answer, since the run was stopped or the budget did not reach for them."""
        return sum(model.unanswered for model in self.models)

    @property
    def input_tokens(self) -> int:
        """Tokens sent, of all models."""
        return sum(model.input_tokens for model in self.models)

    @property
    def output_tokens(self) -> int:
        """Tokens answered, of all models."""
        return sum(model.output_tokens for model in self.models)

    @property
    def spent_usd(self) -> Decimal | None:
        """What was paid so far, where it is known of all models."""
        return _sum_if_known([model.spent_usd for model in self.models])

    @property
    def forecast_usd(self) -> Decimal | None:
        """What will have been paid at the end, where that can be said of all models."""
        return _sum_if_known([model.forecast_usd for model in self.models])


def _sum_if_known(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if amounts and len(known) == len(amounts) else None


@dataclass(frozen=True, slots=True)
class ProgressSink:
    """Who is told how far a run is, and whom it asks.

    Parameters
    ----------
    report
        Is told.
    targets, samples
        Who is asked, and how often each: positions are rows x targets x samples, in that order.
    own
        Which of the targets each row asks, where it asks but one: positions are then rows x samples.
    """

    report: Callable[[Progress], None]
    targets: Sequence[Target] = ()
    samples: int = 1
    target_by_row: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """What a run knows by itself: seconds since it began, calls on the wire, begun, and permitted at most.

    ``held`` is what keeps calls from going out, in the words of whoever keeps them.
    """

    elapsed_s: float
    in_flight: int = 0
    started: int = 0
    concurrency: int = 1
    finished: bool = False
    stopping: bool = False
    blocked_by: str = ""


def limiting_factor(now: RunSnapshot) -> str:
    """Say what holds a run back: what is said to, or else what its own calls show.

    Examples
    --------
    >>> limiting_factor(RunSnapshot(1.0, in_flight=3, started=64, concurrency=64, blocked_by="requests a minute"))
    'requests a minute'
    >>> limiting_factor(RunSnapshot(1.0, in_flight=64, started=64, concurrency=64))
    'concurrency'
    >>> limiting_factor(RunSnapshot(1.0, in_flight=3, started=64, concurrency=64))
    'rate limit'
    >>> limiting_factor(RunSnapshot(1.0, in_flight=3, started=3, concurrency=64))
    ''
    """
    if now.blocked_by:
        return now.blocked_by
    if now.started and now.in_flight < now.started / 2:
        return RATE_LIMIT
    return CONCURRENCY if now.in_flight >= SATURATED_SHARE * now.concurrency else ""


@dataclass(slots=True)
class _ModelCounters:
    """What was counted of one model. ``missing`` were not in the store; ``unknown`` cost nobody knows how much."""

    total: int
    missing: int = 0
    cached: int = 0
    failed: int = 0
    paid: int = 0
    given_up: int = 0
    unknown: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    priced: int = 0
    nanos: int = 0
    unpriced: dict[ServedModel, list[Usage]] = field(default_factory=dict)

    @property
    def fresh(self) -> int:
        return self.paid + self.failed

    @property
    def calls(self) -> float:
        """Guess how many rows will have taken a call of their own in the end: the store may know of others too."""
        missing = max(self.missing, self.fresh)
        looked = missing + self.cached
        return missing + (max(0, self.total - looked) * missing / looked if looked else 0.0)


class ProgressTracker:
    """Counts the answers of one run. Everything but `look_up` happens on the loop's thread.

    Parameters
    ----------
    size
        Positions of the run.
    watch
        Who is asked; no targets count as one without a name or a price.
    at
        Time for which prices are taken (epoch seconds).
    """

    def __init__(self, size: int, watch: ProgressSink, at: float = 0.0) -> None:
        self._size = size
        self._targets = watch.targets
        self._samples = watch.samples
        self._own = watch.target_by_row
        self._at = datetime.fromtimestamp(at, UTC)
        many = max(1, len(watch.targets))
        asked = Counter(watch.target_by_row)
        totals = [
            size // many if watch.target_by_row is None else asked[which] * watch.samples for which in range(many)
        ]
        self._lanes = [_ModelCounters(total) for total in totals]
        self._hits: list[int] = []
        self._prices: dict[ServedModel, Price | None] = {}
        self._recent: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])

    def add(self, position: int, answer: Answer | StoredResponse) -> None:
        """Count an answer."""
        if isinstance(answer, StoredResponse):
            self._hits.append(position)
            return
        which = self._lane(position)
        lane = self._lanes[which]
        if answer.cache_hit:
            lane.cached += 1
        elif is_successful(answer.outcome):
            lane.paid += 1
            response = answer.outcome.unwrap()
            target = answer.target or (self._targets[which] if self._targets else None)
            self._pay(lane, target, response.served_model, response.usage)
        elif isinstance(answer.outcome.failure(), (Cancelled, BudgetExceeded)):
            lane.given_up += 1
        else:
            lane.failed += 1
        for spent in answer.billed_failures:
            self._pay(lane, spent.target, "", spent.usage)

    def add_stored_block(self, positions: Int64Array) -> None:
        """Count positions that the store answered by the hundred."""
        if self._own is not None:
            self._hits += positions.tolist()
            return
        from llmhub.engine.block_lookup import count_by_model  # noqa: PLC0415 - needs numpy, which is there when a block is

        for lane, many in zip(self._lanes, count_by_model(positions, self._samples, len(self._lanes)), strict=True):
            lane.cached += many

    def add_misses(self, positions: Sequence[int]) -> None:
        """Count positions that the store could not answer: they will be asked."""
        for which, many in self._by_lane(positions):
            self._lanes[which].missing += many

    def unpriced_models(self) -> Sequence[ServedModel]:
        """Name those whose prices are still to be looked up."""
        return [served for lane in self._lanes for served in lane.unpriced]

    def look_up_prices(self, served: Sequence[ServedModel]) -> Mapping[ServedModel, Price | None]:
        """Look prices up. The first time this takes half a second: do it beside the loop."""
        return {one: find_served_price(*one, self._at) for one in served}

    def set_prices(self, prices: Mapping[ServedModel, Price | None]) -> None:
        """Take note of prices."""
        self._prices.update(prices)
        for lane in self._lanes:
            for served in [one for one in lane.unpriced if one in self._prices]:
                for usage in lane.unpriced.pop(served):
                    _add_cost(lane, usage, self._prices[served])

    def progress(self, now: RunSnapshot) -> Progress:
        """Say how far the run is."""
        for which, many in self._by_lane(self._hits):
            self._lanes[which].cached += many
        self._hits.clear()
        models = tuple(self._model(which, lane, now) for which, lane in enumerate(self._lanes))
        done = sum(model.done for model in models)
        rows_s, fresh_s = self._paces(now, done)
        return Progress(
            total=self._size,
            done=done,
            cached=sum(model.cached for model in models),
            failed=sum(model.failed for model in models),
            in_flight=now.in_flight,
            elapsed_s=now.elapsed_s,
            finished=now.finished,
            stopping=now.stopping,
            rows_per_s=rows_s,
            remaining_s=None if now.finished else self._left(done, rows_s, fresh_s),
            limited_by="" if now.finished or now.stopping else limiting_factor(now),
            models=models,
        )

    def _lane(self, position: int) -> int:
        row = position // self._samples
        return row % len(self._lanes) if self._own is None else self._own[row]

    def _by_lane(self, positions: Sequence[int]) -> Iterable[tuple[int, int]]:
        return [(0, len(positions))] if len(self._lanes) == 1 else Counter(map(self._lane, positions)).items()

    def _pay(self, lane: _ModelCounters, target: Target | None, served_model: str, usage: Usage) -> None:
        lane.input_tokens += usage.input_tokens or 0
        lane.output_tokens += usage.output_tokens or 0
        if target is None:
            return
        served = (target.provider.name, target.model, served_model)
        if served in self._prices:
            _add_cost(lane, usage, self._prices[served])
        else:
            lane.unpriced.setdefault(served, []).append(usage)

    def _model(self, which: int, lane: _ModelCounters, now: RunSnapshot) -> ModelProgress:
        known = bool(self._targets) and not lane.unknown and (lane.priced > 0 or not lane.paid)
        each = lane.nanos / lane.paid if lane.priced and lane.paid else None
        ahead = lane.paid if now.finished else max(0.0, lane.calls - lane.failed - lane.given_up)
        forecast = 0.0 if not ahead else None if each is None else each * ahead
        return ModelProgress(
            model=self._targets[which].name if self._targets else "",
            total=lane.total,
            done=lane.cached + lane.fresh,
            cached=lane.cached,
            failed=lane.failed,
            unanswered=lane.given_up,
            input_tokens=lane.input_tokens,
            output_tokens=lane.output_tokens,
            spent_usd=_usd(lane.nanos) if known else None,
            forecast_usd=_usd(max(round(forecast), lane.nanos)) if known and forecast is not None else None,
        )

    def _paces(self, now: RunSnapshot, done: int) -> tuple[float, float]:
        """Give rows a second of late, all and those that took a call."""
        fresh = sum(lane.fresh for lane in self._lanes)
        first = (0.0, 0, 0)
        if not now.finished:
            self._recent.append((now.elapsed_s, done, fresh))
            while len(self._recent) > 2 and self._recent[1][0] < now.elapsed_s - RATE_WINDOW_S:  # noqa: PLR2004 - a stretch has two ends
                self._recent.popleft()
            first = self._recent[0]
        took_s = now.elapsed_s - first[0]
        return ((done - first[1]) / took_s, (fresh - first[2]) / took_s) if took_s > 0 else (0.0, 0.0)

    def _left(self, done: int, rows_s: float, fresh_s: float) -> float | None:
        """Guess the seconds that are left: those of the calls to come, or else of the rows."""
        given_up = sum(lane.given_up for lane in self._lanes)
        calls = sum(lane.calls - lane.fresh - lane.given_up for lane in self._lanes)
        if calls >= 1 and fresh_s:
            return calls / fresh_s
        return max(0, self._size - done - given_up) / rows_s if rows_s else None


def _add_cost(lane: _ModelCounters, usage: Usage, price: Price | None) -> None:
    nanos = None if price is None else compute_cost_nano_usd(usage, price)
    if nanos is None:
        lane.unknown += 1
    else:
        lane.nanos += nanos
        lane.priced += 1


def _usd(nanos: int) -> Decimal:
    return Decimal(nanos).scaleb(-NANO_DIGITS)
