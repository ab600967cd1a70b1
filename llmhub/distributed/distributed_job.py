"""One picklable job: a prompt, a model and a hub, as a function from record batches to record batches.

Workers share a budget, report progress and learn of a stop through the totals of the store's limiter
(`llmhub.cache.shared_limiter`). The bookings of shared rate limits carry all this along; a worker without them reports
by itself, so often that all workers together make about one store call a second.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, Unpack

from llmhub.api.default_hub import current_hub
from llmhub.api.options import Models, RowOptions, RunOptions, TablePrompt, resolve_concurrency
from llmhub.api.record_batches import check_keep, empty_results, stream_record_batches
from llmhub.api.signatures import shows_options
from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.cache.shared_limiter import Member, TotalBooking
from llmhub.cache.store import StoreError, as_store_error, reach_of
from llmhub.core.budget import NANO_PER_USD, Budget, nano_to_usd, parse_budget
from llmhub.core.errors import CacheError, InvalidRequest, invalid
from llmhub.engine.event_loop import StopSignal, background_loop, is_on_background_loop, submit
from llmhub.engine.progress import CONCURRENCY, Progress
from llmhub.engine.scheduling import SlotGroup
from llmhub.engine.spending import SharedBudget
from llmhub.engine.store_budget import StoreBudget, total_of_budget
from llmhub.hub import Hub, PickledKeys, budget_of_copies, hub_with_keys, process_job, share_budget_of_copies

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
LOGGER: Final = logging.getLogger("llmhub.distributed")
REPORT_INTERVAL_S: Final = 1.0
"""Time between two reports of all workers together."""
MAX_REPORT_INTERVAL_S: Final = 8.0
"""Longest time between two reports of a worker, and the time for which a report by a booking is enough."""
FIRST_REPORT_S: Final = 4.0
"""Time after which a worker reports by itself if it has booked no limits."""
LEAVE_TIMEOUT_S: Final = 10.0
"""Time that a worker waits at its end until its leases are given back."""
STORE_WAIT_S: Final = 30.0
"""How long a worker waits for a cache that it cannot reach, before it sends anything and at its end."""
STORE_RETRY_S: Final = 0.25
"""Time between two attempts to reach it."""
PROBE_KEY: Final = bytes(32)
"""A key that no request has."""
UNLIMITED: Final = 1 << 60
"""The limit of totals that only count."""
MODEL_COUNTERS: Final = ("rows", "failed", "cached", "nano_usd", "input_tokens", "output_tokens")
"""What workers count of each model."""
COUNTED_COLUMNS: Final = ("cache_hit", "error_type", "cost_usd", "input_tokens", "output_tokens", "rate_wait_s")
"""Columns of results that workers count."""
JOB_COUNTERS: Final = ("wait_ms", "stop")
"""What they count of the whole job, after that."""


class JobModelProgress(NamedTuple):
    """The state of one model of a job, over all workers.

    Parameters
    ----------
    rows
        Results so far, of which ``failed`` are errors and ``cached`` needed no call of their own.
    cost_usd
        Amount billed so far in US dollars, as far as prices are known.
    input_tokens, output_tokens
        Tokens of the calls of this job.
    """

    rows: int = 0
    failed: int = 0
    cached: int = 0
    cost_usd: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0


class JobProgress(NamedTuple):
    """The state of a job, over all its workers.

    Parameters
    ----------
    models
        The state of each model.
    rate_wait_s
        Time that calls have waited for rate limits, added up.
    workers
        Workers that have reported within the last seconds.
    stopping
        Whether the job was asked to stop.
    """

    models: Mapping[str, JobModelProgress] = MappingProxyType({})
    rate_wait_s: float = 0.0
    workers: int = 0
    stopping: bool = False

    @property
    def rows(self) -> int:
        """Results so far."""
        return sum(model.rows for model in self.models.values())

    @property
    def failed(self) -> int:
        """Results that are errors."""
        return sum(model.failed for model in self.models.values())

    @property
    def cached(self) -> int:
        """Results that needed no call of their own."""
        return sum(model.cached for model in self.models.values())

    @property
    def cost_usd(self) -> Decimal:
        """Amount billed so far in US dollars, as far as prices are known."""
        return sum((model.cost_usd for model in self.models.values()), Decimal(0))


@dataclass(frozen=True, kw_only=True)
class DistributedJob:
    """A call over rows, to be run by the workers of an engine (see `job`).

    Calling it with record batches yields their results; any engine that maps Arrow data can run it.
    """

    prompt: TablePrompt | None
    model: Models
    hub: Hub
    keep: tuple[str, ...] = ()
    pay_again: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    workers: int = 1
    job_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def __call__(self, batches: Iterable[pa.RecordBatch | pa.Table], *, partition: int = 0) -> Iterator[pa.RecordBatch]:
        """Send the prompt for every row, and yield the results batch by batch, with plain types.

        Parameters
        ----------
        batches
            Record batches or tables.
        partition
            Number of the partition: rows of different partitions have different numbers.

        Raises
        ------
        CacheError
            The cache cannot be reached; nothing is sent. Not raised for a job that may pay again.
        """
        yield from self.run(batches, partition=partition)

    def run(
        self,
        batches: Iterable[pa.RecordBatch | pa.Table],
        *,
        partition: int = 0,
        slots: SlotGroup | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield results as a call of the job does; streams with the same ``slots`` share the concurrency of one."""
        self._wait_for_store()
        with self._worker() as worker:
            options = dict(self.options)
            if worker.budget is not None:
                options["budget_usd"] = worker.budget
            yield from stream_record_batches(
                batches,
                self.prompt,
                options=(self.model, self.hub, options),
                form=(self.keep, partition, True),
                stop=worker.stop,
                observer=worker,
                store_wait_s=0.0 if self.pay_again else STORE_WAIT_S,
                slots=slots,
            )

    def new_slots(self) -> SlotGroup:
        """Return slots for several streams of this process, as many as the job's ``concurrency``.

        Raises
        ------
        BadRequestError
            It exceeds the connection pool of the hub.
        """
        return SlotGroup(resolve_concurrency(self.hub, RunOptions(concurrency=self.options.get("concurrency"))))

    def __dask_tokenize__(self) -> str:
        """Return what identifies the job in a Dask graph."""
        return self.job_id

    def schema(self, columns: pa.Schema) -> pa.Schema:
        """Return the schema of the results for a frame with some columns; validates all arguments.

        Raises
        ------
        BadRequestError
            The prompt names a column that does not exist, or an option is out of range.
        """
        empty = columns.empty_table()
        return empty_results(empty, self.prompt, (self.model, self.hub, dict(self.options)), self.keep).schema

    def require_store(self, engine: str, *, one_host: bool) -> None:
        """Raise unless all workers of an engine reach the cache, or paying again was allowed.

        Parameters
        ----------
        engine
            Name of the engine, for the message.
        one_host
            Whether all workers are on this host, where a file reaches them.
        """
        reach = self._reach()
        if self.pay_again or reach == "machines" or (reach == "host" and one_host):
            return
        where = "on this host" if one_host else "on every machine"
        caches = "Hub(cache=RedisCache(...))" + (" or Hub(cache=DiskCache(...))" if one_host else "")
        raise invalid(
            "job",
            f"{engine} evaluates again what it needs again, and would pay for each request each time; "
            f"pass {caches}, which all workers {where} reach, or job(..., pay_again=True)",
        )

    def _reach(self) -> str:
        """Return who reaches the answers that a worker stores: ``process``, ``host`` or ``machines``."""
        mode = resolve_mode(self.options.get("cache"), resolve_mode(self.hub.cache_mode, CacheMode()))
        return reach_of(self.hub.cache) if mode.reads and mode.writes else "process"  # type: ignore[arg-type]

    def _wait_for_store(self) -> None:
        """Wait for a shared cache that cannot be reached: without it, a worker would pay for what others have paid."""
        if self.pay_again or self._reach() == "process" or (store := self.hub.runtime.store) is None:
            return
        deadline, waits = time.monotonic() + STORE_WAIT_S, False
        while True:
            try:
                store.get_many((PROBE_KEY,))
            except Exception as error:
                message = f"cannot be reached: {as_store_error(error)}"
                if time.monotonic() >= deadline:
                    text = f"{message}; nothing was sent, pass job(..., pay_again=True) to go on without it"
                    raise CacheError(InvalidRequest(path="cache", message=text)) from error
                if not waits:
                    LOGGER.warning("The cache %s; this worker waits for it up to %.0f s", message, STORE_WAIT_S)
                waits = True
                time.sleep(STORE_RETRY_S)
            else:
                return

    def progress(self) -> JobProgress:
        """Return the state of the job over all its workers; needs a shared cache."""
        lease = self._book(Counter())
        if lease is None:
            return JobProgress()
        width, models = len(MODEL_COUNTERS), {}
        for index, name in enumerate(self.model_names):
            rows, failed, cached, nano_usd, *tokens = lease.used[index * width : (index + 1) * width]
            models[name] = JobModelProgress(rows, failed, cached, nano_to_usd(nano_usd), *tokens)
        wait_ms, stop = lease.used[len(models) * width :][: len(JOB_COUNTERS)]
        return JobProgress(models, wait_ms / 1000, lease.workers, stopping=stop > 0)

    def stop(self) -> None:
        """Let all workers send nothing more; they return what they have, and other rows as cancelled."""
        if self._book(Counter({("", "stop"): 1})) is None:
            raise invalid("job", "workers are told to stop through the cache; pass Hub(cache=RedisCache(...))")

    def with_workers(self, count: int) -> DistributedJob:
        """Return the job for a number of workers, unless it was given one (see `job`)."""
        return self if self.workers > 1 or count <= 1 else replace(self, workers=count)

    @property
    def scope(self) -> str:
        """The name of the job in the store."""
        return f"job {self.job_id}"

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models of the job, as requested."""
        return (self.model,) if isinstance(self.model, str) else tuple(self.model)

    @property
    def counters(self) -> list[tuple[str, str]]:
        """The counters of the job, by model; those of the whole job are of no model."""
        of_models = [(model, name) for model in self.model_names for name in MODEL_COUNTERS]
        return of_models + [("", name) for name in JOB_COUNTERS]

    def totals(self, amounts: Mapping[tuple[str, str], int]) -> list[TotalBooking]:
        """Return the bookings that add to the counters of the job."""
        return [
            TotalBooking(f"{self.scope} {model} {name}", amounts.get((model, name), 0), UNLIMITED)
            for model, name in self.counters
        ]

    def _book(self, amounts: Mapping[tuple[str, str], int]) -> Any:
        """Add to the counters of the job, and return all of them; ``None`` without a store that has them."""
        store = self.hub.runtime.store
        if store is None or store.limiter is None:
            return None
        driver, totals = Member("driver", self.job_id), self.totals(amounts)
        budget = self.hub.runtime.shared_budget
        if budget is None or isinstance(budget, StoreBudget):
            return store.limiter.book(self.scope, driver, [], totals, leaves=True)
        of_copies = total_of_budget(budget_of_copies(self.hub), 0, UNLIMITED)
        lease = store.limiter.book(self.scope, driver, [], [*totals, of_copies], leaves=True)
        _call_on_loop(partial(budget.charge_copies, lease.used[-1]))
        return lease

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        worker = _Worker(self)
        worker.start()
        try:
            yield worker
        finally:
            worker.close()


class _Worker:
    """A worker's part in a job: its counters, its part of the budget, and whether it is to stop.

    Its counts travel with the bookings of shared limits (`llmhub.engine.leased_limits.CarriedTotals`).
    """

    def __init__(self, job: DistributedJob) -> None:
        self.stop = StopSignal()
        self.budget: SharedBudget | None = None
        self.scope = job.scope
        self._job = job
        self._finished: Counter[tuple[str, str]] = Counter()
        self._in_progress: dict[int, Counter[tuple[str, str]]] = {}
        self._reported: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._shared = job.hub.runtime.shared_limits
        self._report_at = 0.0
        self._first_in_progress = 0
        self._hub_budget = share_budget_of_copies(job.hub)
        if job.budget is not None:
            self.budget = (
                SharedBudget(job.budget)
                if self._shared is None
                else StoreBudget(self._shared.limiter, self.scope, job.budget)
            )

    def start(self) -> None:
        """Report to the store from now on, if there is one."""
        if self._shared is None:
            return
        if self._job.hub.job != process_job(os.getpid()):  # else the workers are threads of one process
            self._job.hub.runtime.expect_workers(self._job.workers)
        if self._shared.applies_to(self._job.model_names, self._job.hub.limits):
            # The first booking of the limits reports, and tells of a stop before anything is sent.
            self._report_at = time.monotonic() + FIRST_REPORT_S
        else:
            self._report()
        self._shared.carried.append(self)
        self._thread = threading.Thread(target=self._run, name="llmhub-job", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(REPORT_INTERVAL_S):
            if time.monotonic() >= self._report_at:
                self._report()

    def _report(self, extra: Sequence[TotalBooking] = (), *, leaves: bool = False) -> None:
        """Add the counts to those of the job, and stop if the job is to stop."""
        assert self._shared is not None  # noqa: S101 - for the type checker
        taken = self.take()
        try:
            member, totals = self._shared.member, [*taken, *extra]
            lease = self._shared.limiter.book(self.scope, member, [], totals, leaves=leaves)
        except StoreError:
            self.on_lost(taken)
            self._report_at = time.monotonic() + REPORT_INTERVAL_S
            return
        self._learn(lease.used)
        self._report_at = time.monotonic() + min(lease.workers * REPORT_INTERVAL_S, MAX_REPORT_INTERVAL_S)

    def take(self) -> list[TotalBooking]:
        """Return the counts since the last report."""
        with self._lock:
            counts = Counter(self._finished)
            for batch in self._in_progress.values():
                counts.update(batch)
            added = Counter({counter: counts[counter] - self._reported[counter] for counter in counts | self._reported})
            self._reported = counts
        return self._job.totals(added)

    def on_booked(self, used: tuple[int, ...]) -> None:
        """Check the totals of the job from a booking that has carried the counts."""
        self._report_at = time.monotonic() + MAX_REPORT_INTERVAL_S
        self._learn(used)

    def on_lost(self, taken: list[TotalBooking]) -> None:
        """Restore what could not be added."""
        with self._lock:
            for counter, booking in zip(self._job.counters, taken, strict=True):
                self._reported[counter] -= booking.amount

    def _learn(self, used: Sequence[int]) -> None:
        if used[len(self._job.counters) - 1] > 0 and not self.stop.requested:
            self.stop.request()

    def on_progress(self, first: int, progress: Progress) -> None:
        """Count the results of a batch so far."""
        counts: Counter[tuple[str, str]] = Counter()
        for model in progress.models:
            nano_usd = 0 if model.spent_usd is None else int(model.spent_usd * NANO_PER_USD)
            amounts = (model.done, model.failed, model.cached, nano_usd, model.input_tokens, model.output_tokens)
            counts.update({(model.model, name): count for name, count in zip(MODEL_COUNTERS, amounts, strict=True)})
        if progress.limited_by not in {"", CONCURRENCY}:
            counts["", "wait_ms"] = int(1000 * progress.elapsed_s)  # of one call at least
        with self._lock:
            if first >= self._first_in_progress:
                self._in_progress[first] = counts

    def on_results(self, first: int, results: pa.Table) -> None:
        """Count the results of a batch."""
        import numpy as np  # noqa: PLC0415 - slow to import
        import pyarrow.compute as pc  # noqa: PLC0415 - imports Arrow

        counts: Counter[tuple[str, str]] = Counter()
        names = self._job.model_names
        samples = (pc.max(results.column("sample")).as_py() or 0) + 1
        # Rows by models by samples, in this order.
        numbers = np.arange(len(results)) // samples % len(names)
        results = results.select(COUNTED_COLUMNS)
        for index, model in enumerate(names):
            of_model = results if len(names) == 1 else results.filter(numbers == index)
            called = of_model.filter(pc.invert(pc.fill_null(of_model.column("cache_hit"), fill_value=False)))
            amounts = (
                len(of_model),
                len(of_model) - of_model.column("error_type").null_count,
                len(of_model) - len(called),
                int(Decimal(_total(of_model, "cost_usd")) * NANO_PER_USD),
                _total(called, "input_tokens"),
                _total(called, "output_tokens"),
            )
            counts.update({(model, name): amount for name, amount in zip(MODEL_COUNTERS, amounts, strict=True)})
        counts["", "wait_ms"] = round(1000 * _total(results, "rate_wait_s"))
        with self._lock:
            self._finished.update(counts)
            self._in_progress.pop(first, None)
            self._first_in_progress = first + 1

    def close(self) -> None:
        """Report a last time, and give back what is left of the budget."""
        self._ended.set()
        if self._shared is None or self._thread is None:
            return
        self._thread.join()
        with suppress(ValueError):
            self._shared.carried.remove(self)
        budgets = [budget for budget in (self.budget, self._hub_budget) if isinstance(budget, StoreBudget)]
        unspent = [booking for budget in budgets for booking in _call_on_loop(budget.unspent)]
        others = any(each.scope == self.scope for each in tuple(self._shared.carried))
        if not self._leave(unspent):
            self._report(unspent, leaves=not others)

    def _leave(self, extra: Sequence[TotalBooking]) -> bool:
        """Report in the call that gives back leases; return whether there was one."""
        assert self._shared is not None  # noqa: S101 - for the type checker
        if is_on_background_loop():  # where an abandoned generator may be closed
            return False
        taken = self.take()
        with suppress(StoreError, TimeoutError):
            if submit(self._shared.leave(self, [*taken, *extra])).result(LEAVE_TIMEOUT_S) is not None:
                return True
        self.on_lost(taken)
        return False


def _call_on_loop(function: Callable[[], T]) -> T:
    """Return the result of a function that is called on the background loop."""
    if is_on_background_loop():
        return function()
    result: Future[T] = Future()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            result.set_exception(error)

    background_loop().call_soon_threadsafe(call)
    return result.result()


def _total(results: pa.Table, name: str) -> Any:
    """Return the sum of a column."""
    import pyarrow.compute as pc  # noqa: PLC0415 - imports Arrow

    return pc.sum(results.column(name)).as_py() or 0


@shows_options(RowOptions)
def job(
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    keep: Sequence[str] = (),
    keys: PickledKeys = "worker",
    pay_again: bool = False,
    workers: int = 1,
    **options: Unpack[RowOptions],
) -> DistributedJob:
    """Return a call over rows for the workers of an engine: `spark`, `ray`, `dask`, `joblib` and others.

    Parameters
    ----------
    prompt, model, **options
        See `llmhub.complete_table`. ``budget_usd``, and that of the hub, are each one budget for all workers if they
        share a cache.
    hub
        The hub to use; the default hub if omitted. Its cache must be one that all workers reach.
    keep
        Columns to put before those of the results, such as an id to join on.
    keys
        Where workers take credentials from: ``"worker"``, their own environment and settings, or ``"carry"``, the
        pickle of the job, which is then as secret as they are.
    pay_again
        Whether to run without a shared cache on engines that evaluate again, and to go on at once where the cache
        cannot be reached. Otherwise a worker waits for it up to 30 s, and then raises before it sends anything. A cache
        that fails later does not end a worker, which goes on and waits at its end to store what it has received.
    workers
        Number of worker processes, where the engine does not say: a worker that never reaches the cache uses this part
        of the rate limits.

    Raises
    ------
    BadRequestError
        An option is invalid. Whether columns exist is checked when the job is applied to a frame.

    Examples
    --------
    >>> import llmhub, pyarrow as pa
    >>> with llmhub.simulate() as simulation:
    ...     summarise = job("Summarise: {text}", model="openai/gpt-4o-mini", keep=["id"])
    ...     batches = list(summarise([pa.record_batch({"id": [1, 2], "text": ["one", "two"]})]))
    >>> batches[0].column("id").to_pylist(), batches[0].column("status").to_pylist()
    ([1, 2], ['ok', 'ok'])
    """
    others: dict[str, Any] = dict(options)
    if others.pop("progress", None):
        raise invalid("progress", "is shown for a frame of this process only; call job.progress() for all workers")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise invalid("workers", f"must be an integer from 1, not {workers!r}")
    budget_usd = others.pop("budget_usd", None)
    hub = hub or current_hub()
    if keys != hub.keys:
        hub = hub_with_keys(hub, keys)
    return DistributedJob(
        prompt=prompt,
        model=model,
        hub=hub,
        keep=check_keep(keep),
        pay_again=pay_again,
        options=others,
        budget=None if budget_usd is None else parse_budget(budget_usd),
        workers=workers,
    )
