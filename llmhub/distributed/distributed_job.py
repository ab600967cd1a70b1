"""One picklable job: a prompt, a model and a hub, as a function from record batches to record batches.

Workers share a budget, report progress and learn of a stop through the totals of the store's limiter
(`llmhub.cache.shared_limiter`), with one store call a second for each worker.
"""

from __future__ import annotations

import secrets
import threading
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
from llmhub.cache.shared_limiter import Member, SharedLimiter, TotalBooking
from llmhub.cache.store import StoreError, reach_of
from llmhub.core.budget import NANO_PER_USD, Budget, nano_to_usd, parse_budget
from llmhub.core.errors import invalid
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.spending import SharedBudget
from llmhub.engine.store_budget import StoreBudget
from llmhub.hub import Hub, PickledKeys

if TYPE_CHECKING:
    import pyarrow as pa

REPORT_INTERVAL_S: Final = 1.0
"""Time between two reports of a worker."""
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
        workers = lease.workers - 1  # this call counts as one
        return JobProgress(rows, failed, cached, nano_to_usd(nano_usd), wait_ms / 1000, workers, stopping=stop > 0)

    def stop(self) -> None:
        """Let all workers send nothing more; they return what they have, and other rows as cancelled."""
        if self._book({"stop": 1}) is None:
            raise invalid("job", "workers are told to stop through the cache; pass Hub(cache=RedisCache(...))")

    def _book(self, amounts: Mapping[str, int], member: Member | None = None) -> Any:
        """Add to the counters of the job, and return all of them; ``None`` without a store that has them."""
        limiter = self._limiter
        if limiter is None:
            return None
        totals = [
            TotalBooking(f"job {self.job_id} {name}", amounts.get(name, 0), UNLIMITED) for name in (*COUNTERS, "stop")
        ]
        return limiter.book(f"job {self.job_id}", member or Member("driver", self.job_id), [], totals)

    @property
    def _limiter(self) -> SharedLimiter | None:
        store = self.hub.runtime.store
        return store.limiter if store is not None else None

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        worker = _Worker(self)
        worker.start()
        try:
            yield worker
        finally:
            worker.close()


class _Worker:
    """A worker's part in a job: its counters, its part of the budget, and whether it is to stop."""

    def __init__(self, job: DistributedJob) -> None:
        self.stop = StopSignal()
        self.budget: SharedBudget | None = None
        self._job = job
        self._member = Member("workers", secrets.token_hex(8))
        self._counts: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._limiter = job._limiter  # noqa: SLF001 - of this module
        if job.budget is not None:
            self.budget = (
                SharedBudget(job.budget)
                if self._limiter is None
                else StoreBudget(self._limiter, f"job {job.job_id}", job.budget)
            )

    def start(self) -> None:
        """Report to the store every second, if there is one."""
        if self._limiter is not None:
            self._report()
            self._thread = threading.Thread(target=self._run, name="llmhub-job", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(REPORT_INTERVAL_S):
            self._report()

    def _report(self) -> None:
        """Add the counts to those of the job, and stop if the job is to stop."""
        with self._lock:
            counts, self._counts = self._counts, dict.fromkeys(COUNTERS, 0)
        try:
            lease = self._job._book(counts, self._member)  # noqa: SLF001 - of this module
        except StoreError:
            with self._lock:
                self._counts = {name: self._counts[name] + counts[name] for name in COUNTERS}
            return
        if lease.used[-1] > 0 and not self.stop.requested:
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
        if self._thread is not None:
            self._thread.join()
            self._report()
        if isinstance(self.budget, StoreBudget):
            with suppress(StoreError):
                self.budget.close()
        if self._limiter is not None:
            with suppress(StoreError):
                self._limiter.leave(f"job {self._job.job_id}", self._member)


@shows_options(RowOptions)
def job(
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    keep: Sequence[str] = (),
    keys: PickledKeys = "worker",
    pay_again: bool = False,
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
    )
