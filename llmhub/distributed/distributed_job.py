"""One picklable job: a prompt, a model and a hub, as a function from record batches to record batches.

Workers share a budget, report progress and learn of a stop through the totals of the store's limiter
(`llmhub.cache.shared_limiter`). The bookings of shared rate limits carry all this along; a worker without them reports
by itself, so often that all workers together make about one store call a second.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Unpack

from llmhub.api.default_hub import current_hub
from llmhub.api.options import Models, RowOptions, TablePrompt
from llmhub.api.record_batches import check_keep, empty_results, stream_record_batches
from llmhub.api.signatures import shows_options
from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.cache.shared_limiter import Member, TotalBooking
from llmhub.cache.store import StoreError, reach_of
from llmhub.core.budget import NANO_PER_USD, Budget, nano_to_usd, parse_budget
from llmhub.core.errors import invalid
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.spending import SharedBudget
from llmhub.engine.store_budget import StoreBudget
from llmhub.hub import Hub, PickledKeys, process_job

if TYPE_CHECKING:
    import pyarrow as pa

REPORT_INTERVAL_S: Final = 1.0
"""Time between two reports of all workers together."""
MAX_REPORT_INTERVAL_S: Final = 8.0
"""Longest time between two reports of a worker, and the time for which a report by a booking is enough."""
UNLIMITED: Final = 1 << 60
"""The limit of totals that only count."""
COUNTERS: Final = ("rows", "failed", "cached", "nano_usd", "wait_ms")
"""What workers count."""


class JobProgress(NamedTuple):
    """The state of a job, over all its workers.

    Parameters
    ----------
    rows
        Results so far, of which ``failed`` are errors and ``cached`` needed no call of their own.
    cost_usd
        Amount billed so far in US dollars, as far as prices are known.
    rate_wait_s
        Time that calls have waited for rate limits, added up.
    workers
        Workers that have reported within the last seconds.
    stopping
        Whether the job was asked to stop.
    """

    rows: int = 0
    failed: int = 0
    cached: int = 0
    cost_usd: Decimal = Decimal(0)
    rate_wait_s: float = 0.0
    workers: int = 0
    stopping: bool = False


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
        """
        with self._worker() as worker:
            options = dict(self.options)
            if worker.budget is not None:
                options["budget_usd"] = worker.budget
            yield from stream_record_batches(
                batches,
                self.prompt,
                options=(self.model, self.hub, options),
                form=(self.keep, partition, True),
                observe=(worker.stop, worker.count_results),
            )

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
        mode = resolve_mode(self.options.get("cache"), resolve_mode(self.hub.cache_mode, CacheMode()))
        reach = reach_of(self.hub.cache) if mode.reads and mode.writes else "process"  # type: ignore[arg-type]
        if self.pay_again or reach == "machines" or (reach == "host" and one_host):
            return
        where = "on this host" if one_host else "on every machine"
        caches = "Hub(cache=RedisCache(...))" + (" or Hub(cache=DiskCache(...))" if one_host else "")
        raise invalid(
            "job",
            f"{engine} evaluates again what it needs again, and would pay for each request each time; "
            f"pass {caches}, which all workers {where} reach, or job(..., pay_again=True)",
        )

    def progress(self) -> JobProgress:
        """Return the state of the job over all its workers; needs a shared cache."""
        lease = self._book({})
        if lease is None:
            return JobProgress()
        rows, failed, cached, nano_usd, wait_ms, stop = lease.used
        cost_usd = nano_to_usd(nano_usd)
        return JobProgress(rows, failed, cached, cost_usd, wait_ms / 1000, lease.workers, stopping=stop > 0)

    def stop(self) -> None:
        """Let all workers send nothing more; they return what they have, and other rows as cancelled."""
        if self._book({"stop": 1}) is None:
            raise invalid("job", "workers are told to stop through the cache; pass Hub(cache=RedisCache(...))")

    def with_workers(self, count: int) -> DistributedJob:
        """Return the job for a number of workers, unless it was given one (see `job`)."""
        return self if self.workers > 1 or count <= 1 else replace(self, workers=count)

    @property
    def scope(self) -> str:
        """The name of the job in the store."""
        return f"job {self.job_id}"

    def totals(self, amounts: Mapping[str, int]) -> list[TotalBooking]:
        """Return the bookings that add to the counters of the job."""
        names = (*COUNTERS, "stop")
        return [TotalBooking(f"{self.scope} {name}", amounts.get(name, 0), UNLIMITED) for name in names]

    def _book(self, amounts: Mapping[str, int]) -> Any:
        """Add to the counters of the job, and return all of them; ``None`` without a store that has them."""
        store = self.hub.runtime.store
        if store is None or store.limiter is None:
            return None
        driver = Member("driver", self.job_id)
        return store.limiter.book(self.scope, driver, [], self.totals(amounts), leaves=True)

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
        self._counts: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._shared = job.hub.runtime.shared_limits
        self._report_at = 0.0
        self._workers = job.workers
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
        self._workers = lease.workers
        self._learn(lease.used)
        self._report_at = time.monotonic() + min(self._workers * REPORT_INTERVAL_S, MAX_REPORT_INTERVAL_S)

    def take(self) -> list[TotalBooking]:
        """Return the counts since the last report."""
        with self._lock:
            counts, self._counts = self._counts, dict.fromkeys(COUNTERS, 0)
        return self._job.totals(counts)

    def on_booked(self, used: tuple[int, ...]) -> None:
        """Check the totals of the job from a booking that has carried the counts."""
        self._report_at = time.monotonic() + MAX_REPORT_INTERVAL_S
        self._learn(used)

    def on_lost(self, taken: list[TotalBooking]) -> None:
        """Restore what could not be added."""
        with self._lock:
            for name, booking in zip(COUNTERS, taken, strict=False):
                self._counts[name] += booking.amount

    def _learn(self, used: Sequence[int]) -> None:
        if used[len(COUNTERS)] > 0 and not self.stop.requested:
            self.stop.request()

    def count_results(self, results: pa.Table) -> None:
        """Count the results of a batch."""
        import pyarrow.compute as pc  # noqa: PLC0415 - imports Arrow

        def total(name: str) -> Any:
            return pc.sum(results.column(name)).as_py() or 0

        failed = pc.sum(pc.is_valid(results.column("error_type"))).as_py() or 0
        counts = {
            "rows": len(results),
            "failed": failed,
            "cached": total("cache_hit"),
            "nano_usd": int(Decimal(total("cost_usd")) * NANO_PER_USD),
            "wait_ms": round(1000 * total("rate_wait_s")),
        }
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def close(self) -> None:
        """Report a last time, and give back what is left of the budget."""
        self._ended.set()
        if self._shared is None or self._thread is None:
            return
        self._thread.join()
        with suppress(ValueError):
            self._shared.carried.remove(self)
        others = any(each.scope == self.scope for each in tuple(self._shared.carried))
        self._report(self.budget.unspent() if isinstance(self.budget, StoreBudget) else (), leaves=not others)


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
        See `llmhub.complete_table`. ``budget_usd`` is one budget for all workers if they share a cache.
    hub
        The hub to use; the default hub if omitted. Its cache must be one that all workers reach.
    keep
        Columns to put before those of the results, such as an id to join on.
    keys
        Where workers take credentials from: ``"worker"``, their own environment and settings, or ``"carry"``, the
        pickle of the job, which is then as secret as they are.
    pay_again
        Whether to run without a shared cache on engines that evaluate again.
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
        hub = replace(hub, keys=keys)
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
