"""Progress of a run: rows, tokens and cost by model, throughput, remaining time, and what limits it.

Outcomes are counted as they come, in a fraction of a microsecond for one from the store. Everything else is computed
when a report is due: several times a second, and in at most one percent of the loop's time.

The file is long because a report is made of all that was counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

from returns.pipeline import is_successful

from llmhub.core.errors import BudgetExceeded, Cancelled
from llmhub.core.pricing import NANO_DIGITS, Price, compute_cost_nano_usd
from llmhub.core.serialization import StoredResponse
from llmhub.core.types import Usage
from llmhub.engine.call import Answer, SendMode, Target
from llmhub.engine.event_loop import run_in_thread
from llmhub.providers.batch_prices import batch_price
from llmhub.providers.prices import find_served_price

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import Int64Array

MIN_REPORT_INTERVAL_S: Final = 0.2
MAX_REPORT_INTERVAL_S: Final = 1.0
INTERIM_INTERVAL_S: Final = 0.5
"""Time between reports that are interim (`ProgressSink`)."""
MAX_LOOP_SHARE: Final = 0.01
"""Maximum share of the loop's time for reports; slower reports are made less often."""
RATE_WINDOW_S: Final = 10.0
"""Time over which the current throughput is measured."""
SATURATED_SHARE: Final = 0.9
"""Share of the concurrency limit in flight from which on the limit counts as what holds the run back."""
CONCURRENCY: Final = "concurrency"
RATE_LIMIT: Final = "rate limit"

ServedModel: TypeAlias = tuple[str, str, str, SendMode]
"""The key of a price: provider, requested model, served model, and how requests were sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProgress:
    """Progress of a run on one model.

    Parameters
    ----------
    model
        The model as requested: ``provider/model``.
    total
        Rows for this model, including those skipped for a missing value.
    done
        Rows with a result, of which ``cached`` needed no call of their own and ``failed`` have an error.
    unanswered
        Rows without a result because the run was stopped or the budget was used up.
    over_budget, interrupted
        Those of them whose maximum cost exceeded what was left of the budget, and those sent at least once before the
        run was stopped.
    input_tokens, output_tokens
        Tokens of the calls of this run.
    spent_usd
        Cost of these calls; ``None`` while or where a price is unknown.
    uncertain_requests
        Requests that may have been charged beyond that: they timed out, were cut off, or could not be read.
    forecast_usd
        Expected cost of the whole run; ``None`` before the first call with a known cost.
    """

    model: str
    total: int
    done: int = 0
    cached: int = 0
    failed: int = 0
    unanswered: int = 0
    over_budget: int = 0
    interrupted: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent_usd: Decimal | None = None
    forecast_usd: Decimal | None = None
    uncertain_requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a run.

    Parameters
    ----------
    total
        Rows of the run, times models and samples.
    done
        Rows with a result, of which ``cached`` needed no call of their own and ``failed`` have an error.
    in_flight
        Requests in flight.
    elapsed_s
        Seconds since the start of the run.
    finished, stopping
        Whether the run is over, or was asked to stop.
    rows_per_s
        Current throughput; that of the whole run once it is ``finished``.
    remaining_s
        Expected seconds until the end; ``None`` while unknown.
    limited_by
        What limits the throughput: ``concurrency`` or the name of a rate limit; empty if nothing in particular does.
    refused_by
        What a provider says that refuses every request at present; empty if none does.
    models
        The same by model, in the order requested.
    simulated
        Whether simulated providers answer, so that costs are list prices and nothing is billed.
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
    refused_by: str = ""
    models: tuple[ModelProgress, ...] = ()
    simulated: bool = False

    @property
    def unanswered(self) -> int:
        """Rows without a result because the run was stopped or the budget was used up."""
        return sum(model.unanswered for model in self.models)

    @property
    def over_budget(self) -> int:
        """Rows that were not sent because their maximum cost exceeded what was left of the budget."""
        return sum(model.over_budget for model in self.models)

    @property
    def interrupted(self) -> int:
        """Rows without a result that were sent at least once before the run was stopped."""
        return sum(model.interrupted for model in self.models)

    @property
    def input_tokens(self) -> int:
        """Input tokens of all models."""
        return sum(model.input_tokens for model in self.models)

    @property
    def output_tokens(self) -> int:
        """Output tokens of all models."""
        return sum(model.output_tokens for model in self.models)

    @property
    def spent_usd(self) -> Decimal | None:
        """Cost so far; ``None`` unless it is known for all models."""
        return _sum_if_known([model.spent_usd for model in self.models])

    @property
    def uncertain_requests(self) -> int:
        """Requests that may have been charged beyond that: they timed out, were cut off, or could not be read."""
        return sum(model.uncertain_requests for model in self.models)

    @property
    def forecast_usd(self) -> Decimal | None:
        """Expected cost of the whole run; ``None`` unless it is known for all models."""
        return _sum_if_known([model.forecast_usd for model in self.models])


def _sum_if_known(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if amounts and len(known) == len(amounts) else None


@dataclass(frozen=True, slots=True)
class ProgressSink:
    """Where the progress of a run is reported, and how its positions map to models.

    Parameters
    ----------
    report
        Called with each report, on the loop's thread.
    targets, samples
        The targets and the number of samples: positions are rows x targets x samples, in that order.
    target_by_row
        The index of each row's target, if each row is sent to one target only: positions are then rows x samples.
    interim
        Whether the caller counts the results at the end itself: reports come twice a second, and none at the end, so
        that a short run costs nothing.
    """

    report: Callable[[Progress], None]
    targets: Sequence[Target] = ()
    samples: int = 1
    target_by_row: Sequence[int] | None = None
    interim: bool = False


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """The state of a run at one moment.

    Parameters
    ----------
    elapsed_s
        Seconds since the start.
    in_flight, started
        Requests in flight, and calls started but not finished.
    concurrency
        Maximum number of concurrent calls.
    finished, stopping
        Whether the run is over, or was asked to stop.
    blocked_by
        The reason why a rate limiter holds calls back; empty if none does.
    refused_by
        What a provider says that refuses every request; empty if none does.
    """

    elapsed_s: float
    in_flight: int = 0
    started: int = 0
    concurrency: int = 1
    finished: bool = False
    stopping: bool = False
    blocked_by: str = ""
    refused_by: str = ""


def limiting_factor(now: RunSnapshot) -> str:
    """Return what limits a run: the rate limiter's reason, or else what the number of requests in flight suggests.

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


class ProgressReporter:
    """Counts and reports the progress of a run. An exception of the tracker or the sink ends the reports, not the run.

    Parameters
    ----------
    sink
        Where to report.
    tracker
        The counts.
    snapshot
        Returns the state of the run.
    """

    def __init__(self, sink: ProgressSink, tracker: ProgressTracker, snapshot: Callable[[], RunSnapshot]) -> None:
        self.error = ""
        self._sink: ProgressSink | None = sink
        self._tracker = tracker
        self._snapshot = snapshot
        self._report_took_s = 0.0
        self._pricing: asyncio.Task[None] | None = None
        self._interim = sink.interim
        self._uncounted: list[tuple[int, Answer | StoredResponse]] = []

    def add(self, position: int, outcome: Answer | StoredResponse) -> None:
        """Count an outcome (see `ProgressTracker.add`), interim ones at the next report."""
        if self._interim:
            self._uncounted.append((position, outcome))
            return
        try:
            self._tracker.add(position, outcome)
        except Exception as error:  # noqa: BLE001 - a defect in a count must not lose a response
            self._end(error)

    def add_stored_block(self, positions: Int64Array) -> None:
        """Count a block of responses from the store."""
        try:
            self._tracker.add_stored_block(positions)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(error)

    def add_misses(self, positions: Sequence[int]) -> None:
        """Count positions that will be sent."""
        try:
            self._tracker.add_misses(positions)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(error)

    async def run(self) -> None:
        """Report until cancelled; look up missing prices meanwhile."""
        while self._sink is not None:
            pause_s = max(MIN_REPORT_INTERVAL_S, self._report_took_s / MAX_LOOP_SHARE)
            await asyncio.sleep(INTERIM_INTERVAL_S if self._interim else min(MAX_REPORT_INTERVAL_S, pause_s))
            if self._pricing is None or self._pricing.done():
                self._pricing = asyncio.create_task(self._look_up_prices())
            self.report()

    async def finish(self) -> None:
        """Make the last report, with all prices, unless only interim ones are wanted."""
        if self._pricing is not None:
            await self._pricing
        if self._interim:
            return
        await self._look_up_prices()
        self.report()

    def report(self) -> None:
        """Make one report."""
        if self._sink is None:
            return
        started = time.perf_counter()
        uncounted, self._uncounted = self._uncounted, []
        try:
            for position, outcome in uncounted:
                self._tracker.add(position, outcome)
            self._sink.report(self._tracker.progress(self._snapshot()))
        except BaseException as error:  # noqa: BLE001 - the user's function may raise anything, which must lose no answer
            self._end(error)
        self._report_took_s = time.perf_counter() - started

    async def _look_up_prices(self) -> None:
        """Look up the missing prices in a thread: loading the table takes half a second."""
        try:
            if self._sink is not None and (models := self._tracker.unpriced_models()):
                self._tracker.set_prices(await run_in_thread(self._tracker.look_up_prices, models))
        except Exception as error:  # noqa: BLE001 - a plugin's price table may raise anything
            self._end(error)

    def _end(self, error: BaseException) -> None:
        self._sink = None
        self.error = f"{type(error).__name__}: {error}"


def _price_of(served: ServedModel, priced_at: datetime) -> Price | None:
    provider, model, served_model, mode = served
    price = find_served_price(provider, model, served_model, priced_at)
    return (batch_price(provider, model, price) or price) if mode == "batch" else price


class ProgressTracker:
    """Counts the outcomes of one run. Use it on the loop's thread, except for `look_up_prices`.

    Parameters
    ----------
    size
        Number of positions.
    sink
        How positions map to models. Without targets, all count as one model without a price.
    priced_at
        Time whose prices apply (epoch seconds).
    """

    def __init__(self, size: int, sink: ProgressSink, priced_at: float = 0.0) -> None:
        self._size = size
        self._targets = sink.targets
        self._samples = sink.samples
        self._target_by_row = sink.target_by_row
        self._priced_at = datetime.fromtimestamp(priced_at, UTC)
        n_models = max(1, len(sink.targets))
        if sink.target_by_row is None:
            totals = [size // n_models] * n_models
        else:
            rows = Counter(sink.target_by_row)
            totals = [rows[index] * sink.samples for index in range(n_models)]
        self._counters = [_ModelCounters(total) for total in totals]
        self._stored_positions: list[int] = []
        self._prices: dict[ServedModel, Price | None] = {}
        self._history: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])
        self._model_history: deque[tuple[float, list[int]]] = deque([(0.0, [0] * n_models)])

    def add(self, position: int, outcome: Answer | StoredResponse) -> None:
        """Count an outcome. One from the store is only noted here and counted at the next report."""
        if isinstance(outcome, StoredResponse):
            self._stored_positions.append(position)
            return
        index = self._model_index(position)
        counters = self._counters[index]
        if outcome.cache_hit:
            counters.cached += 1
        elif is_successful(outcome.outcome):
            counters.succeeded += 1
            response = outcome.outcome.unwrap()
            target = outcome.target or (self._targets[index] if self._targets else None)
            self._add_usage(counters, target, response.served_model, response.usage, outcome.mode)
        elif isinstance(error := outcome.outcome.failure(), (Cancelled, BudgetExceeded)):
            counters.unanswered += 1
            counters.over_budget += isinstance(error, BudgetExceeded)
            counters.interrupted += isinstance(error, Cancelled) and bool(outcome.attempts)
        else:
            counters.failed += 1
        counters.uncertain_requests += outcome.uncertain_requests
        for billed in outcome.billed_failures:
            self._add_usage(counters, billed.target, "", billed.usage)

    def add_stored_block(self, positions: Int64Array) -> None:
        """Count a block of responses from the store."""
        if self._target_by_row is not None:
            self._stored_positions += positions.tolist()
            return
        from llmhub.engine.block_lookup import count_by_model  # noqa: PLC0415 - numpy is loaded wherever a block is

        counts = count_by_model(positions, self._samples, len(self._counters))
        for counters, count in zip(self._counters, counts, strict=True):
            counters.cached += count

    def add_misses(self, positions: Sequence[int]) -> None:
        """Count positions that are not in the store and will be sent."""
        for index, count in self._count_by_model(positions):
            self._counters[index].missing += count

    def unpriced_models(self) -> Sequence[ServedModel]:
        """Return the models whose prices are needed but not looked up yet."""
        return [served for counters in self._counters for served in counters.unpriced]

    def look_up_prices(self, models: Sequence[ServedModel]) -> Mapping[ServedModel, Price | None]:
        """Return the prices of models. The first call takes half a second; it may run in any thread."""
        return {served: _price_of(served, self._priced_at) for served in models}

    def set_prices(self, prices: Mapping[ServedModel, Price | None]) -> None:
        """Add prices, and with them the cost of the usage that waited for them."""
        self._prices.update(prices)
        for counters in self._counters:
            for served in [served for served in counters.unpriced if served in self._prices]:
                for usage in counters.unpriced.pop(served):
                    counters.add_cost(usage, self._prices[served])

    def progress(self, now: RunSnapshot) -> Progress:
        """Return the progress of the run."""
        for index, count in self._count_by_model(self._stored_positions):
            self._counters[index].cached += count
        self._stored_positions.clear()
        models = tuple(
            counters.progress(self._targets[index].name if self._targets else "", finished=now.finished)
            for index, counters in enumerate(self._counters)
        )
        done = sum(model.done for model in models)
        rows_per_s, calls_per_s = self._throughput(now, done)
        return Progress(
            total=self._size,
            done=done,
            cached=sum(model.cached for model in models),
            failed=sum(model.failed for model in models),
            in_flight=now.in_flight,
            elapsed_s=now.elapsed_s,
            finished=now.finished,
            stopping=now.stopping,
            rows_per_s=rows_per_s,
            remaining_s=None if now.finished else self._remaining_s(done, rows_per_s, calls_per_s),
            limited_by="" if now.finished or now.stopping else limiting_factor(now),
            refused_by="" if now.finished or now.stopping else now.refused_by,
            models=models,
            simulated=any(target.endpoint.simulated for target in self._targets),
        )

    def _model_index(self, position: int) -> int:
        row = position // self._samples
        return row % len(self._counters) if self._target_by_row is None else self._target_by_row[row]

    def _count_by_model(self, positions: Sequence[int]) -> Iterable[tuple[int, int]]:
        if len(self._counters) == 1:
            return [(0, len(positions))]
        return Counter(map(self._model_index, positions)).items()

    def _add_usage(
        self,
        counters: _ModelCounters,
        target: Target | None,
        served_model: str,
        usage: Usage,
        mode: SendMode = "live",
    ) -> None:
        counters.input_tokens += usage.input_tokens or 0
        counters.output_tokens += usage.output_tokens or 0
        if target is None:
            return
        served = (target.provider.name, target.model, served_model, mode)
        if mode == "batch":
            usage = replace(usage, service_tier="")  # priced by how it was sent
        if served in self._prices:
            counters.add_cost(usage, self._prices[served])
        else:
            counters.unpriced.setdefault(served, []).append(usage)

    def _throughput(self, now: RunSnapshot, done: int) -> tuple[float, float]:
        """Return the rows and the calls per second within `RATE_WINDOW_S`, or of the whole run at its end."""
        calls = sum(counters.calls for counters in self._counters)
        start = (0.0, 0, 0)
        if not now.finished:
            self._history.append((now.elapsed_s, done, calls))
            # Keep one entry from before the window, so that the entries span all of it.
            while len(self._history) > 2 and self._history[1][0] < now.elapsed_s - RATE_WINDOW_S:  # noqa: PLR2004
                self._history.popleft()
            self._model_history.append((now.elapsed_s, [counters.calls for counters in self._counters]))
            while len(self._model_history) > 2 and self._model_history[1][0] < now.elapsed_s - RATE_WINDOW_S:  # noqa: PLR2004
                self._model_history.popleft()
            start = self._history[0]
        span_s = now.elapsed_s - start[0]
        return ((done - start[1]) / span_s, (calls - start[2]) / span_s) if span_s > 0 else (0.0, 0.0)

    def _calls_per_s_by_model(self) -> list[float]:
        """Return the calls per second of each model within `RATE_WINDOW_S`."""
        (start_s, start), (end_s, end) = self._model_history[0], self._model_history[-1]
        span_s = end_s - start_s
        return [(after - before) / span_s if span_s > 0 else 0.0 for before, after in zip(start, end, strict=True)]

    def _remaining_s(self, done: int, rows_per_s: float, calls_per_s: float) -> float | None:
        """Estimate the remaining seconds: of the slowest model, or from the rows if there are no calls to be made.

        Models wait for limits of their own, so the run takes as long as the one that needs longest at its own pace.
        A model without a call yet is assumed to be as fast as the run.
        """
        unanswered = sum(counters.unanswered for counters in self._counters)
        left = [counters.expected_calls - counters.calls - counters.unanswered for counters in self._counters]
        if sum(left) >= 1 and calls_per_s:
            paces = self._calls_per_s_by_model()
            own = [calls / pace for calls, pace in zip(left, paces, strict=True) if calls > 0 and pace]
            return max([sum(left) / calls_per_s, *own])
        return max(0, self._size - done - unanswered) / rows_per_s if rows_per_s else None


@dataclass(slots=True)
class _ModelCounters:
    """Counts of one model.

    ``missing`` rows were not in the store. Of the ``succeeded`` calls, ``priced`` have a known cost; ``unknown_cost``
    counts usages whose cost cannot be computed, ``unpriced`` holds those whose price has not been looked up.
    """

    total: int
    missing: int = 0
    cached: int = 0
    failed: int = 0
    succeeded: int = 0
    unanswered: int = 0
    over_budget: int = 0
    interrupted: int = 0
    unknown_cost: int = 0
    uncertain_requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    priced: int = 0
    nano_usd: int = 0
    unpriced: dict[ServedModel, list[Usage]] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Rows that took a call of their own."""
        return self.succeeded + self.failed

    @property
    def expected_calls(self) -> float:
        """Estimated number of calls at the end, if the store has the same share of the other rows."""
        missing = max(self.missing, self.calls)
        looked_up = missing + self.cached
        return missing + (max(0, self.total - looked_up) * missing / looked_up if looked_up else 0.0)

    def add_cost(self, usage: Usage, price: Price | None) -> None:
        """Add the cost of a usage."""
        nano_usd = compute_cost_nano_usd(usage, price)
        if nano_usd is None:
            self.unknown_cost += 1
        else:
            self.nano_usd += nano_usd
            self.priced += 1

    def progress(self, model: str, *, finished: bool) -> ModelProgress:
        """Return the counts as progress. ``model`` is empty where there are no targets, and so no cost."""
        known = bool(model) and not self.unknown_cost and (self.priced > 0 or not self.succeeded)
        forecast = self._forecast_nano_usd(finished=finished)
        return ModelProgress(
            model=model,
            total=self.total,
            done=self.cached + self.calls,
            cached=self.cached,
            failed=self.failed,
            unanswered=self.unanswered,
            over_budget=self.over_budget,
            interrupted=self.interrupted,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            spent_usd=_usd(self.nano_usd) if known else None,
            forecast_usd=_usd(max(round(forecast), self.nano_usd)) if known and forecast is not None else None,
            uncertain_requests=self.uncertain_requests,
        )

    def _forecast_nano_usd(self, *, finished: bool) -> float | None:
        """Estimate the cost of the whole run: the mean cost of a successful call times their expected number."""
        successes = self.succeeded if finished else max(0.0, self.expected_calls - self.failed - self.unanswered)
        if not successes:
            return 0.0
        return self.nano_usd / self.succeeded * successes if self.priced and self.succeeded else None


def _usd(nano_usd: int) -> Decimal:
    return Decimal(nano_usd).scaleb(-NANO_DIGITS)
