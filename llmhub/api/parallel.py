"""Runs over the rows of a frame in several processes, whose results and spending come back to this one.

The frame is split into more parts than there are processes. Processes on this machine reserve what each call may cost
in the budgets of this process (`llmhub.engine.remote_budget`). Those of other joblib backends may be elsewhere: when a
part is handed out to them, a share of what is left of each budget is reserved for it; when its results come back, what
it has spent is booked and the rest of its share is free for the parts to come.

A part never raises in its process: an exception would discard the results of all other parts.
"""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack

from llmhub.api.default_hub import current_hub
from llmhub.api.options import Models, RowOptions, TablePrompt, as_shared_budget
from llmhub.api.signatures import shows_options
from llmhub.api.tables import build_table_run, complete_table
from llmhub.core.budget import Budget
from llmhub.core.errors import attach_table
from llmhub.engine.event_loop import submit
from llmhub.engine.remote_budget import BudgetAddress, BudgetServer, RemoteBudget
from llmhub.engine.spending import SharedBudget
from llmhub.hub import Hub, PortableHub, hub_with_budget

if TYPE_CHECKING:
    import pyarrow as pa

Part: TypeAlias = "BudgetAddress | int | None"
"""What a part may spend of a budget: the budget itself, a share of it in nano USD, or ``None`` without a budget."""
Shares: TypeAlias = "tuple[Part, Part]"
"""What a part may spend of the budget of the call and of that of the hub."""

LOCAL_BACKENDS: Final = ("LokyBackend", "MultiprocessingBackend", "ThreadingBackend", "SequentialBackend")
"""Backends of joblib itself, whose workers run on this machine."""


@shows_options(RowOptions)
def complete_parallel(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    n_jobs: int = -1,
    **options: Unpack[RowOptions],
) -> pa.Table:
    """Send a prompt for every row of a frame from several processes, if one core is the bottleneck.

    Parameters
    ----------
    frame, prompt, model, hub, **options
        See `complete_table`. ``progress`` is not shown, and ``on_error="raise"`` raises for the first part that fails.
    n_jobs
        Number of processes as in joblib: -1 for one per core. ``joblib.parallel_config(backend=...)`` decides where
        they run (loky, dask, ray, spark). ``concurrency`` applies to each process. ``limits`` and responses are shared
        through the cache; without one, limits apply to each process. Budgets apply to all processes together, and
        ``hub.spending()`` includes what they have spent: loky, multiprocessing and threads reserve each call in this
        process; with other backends, each part of the frame gets a share of what is left.

    Raises
    ------
    ConnectorError
        As in `complete_table`. The ``table`` of any exception has the results of all parts that have ended.
    """
    from llmhub.tables import streaming_io  # noqa: PLC0415 - imports Arrow

    hub = hub or current_hub()
    call_budget: Any = options.get("budget_usd")
    budgets = (None if call_budget is None else as_shared_budget(call_budget), hub.runtime.shared_budget)
    quiet: RowOptions = {**options, "progress": False}
    # Arguments are validated here, before processes are started. Functions of a row are only called in those.
    has_functions = callable(prompt) or callable(quiet.get("system"))
    build_table_run(streaming_io.without_rows(frame) if has_functions else frame, prompt, model, hub, dict(quiet))
    processes = streaming_io.effective_jobs(n_jobs)
    parts = streaming_io.split_frame(frame, processes)
    run = _ParallelRun(parts, _PartCall(prompt, model, PortableHub(hub), quiet, processes), budgets)
    try:
        run.execute(n_jobs)
    except BaseException as error:
        attach_table(error, run.table())
        raise
    table = run.table()
    failure = run.first_error
    if failure is not None:
        attach_table(failure, table)
        raise failure
    return table


@dataclass(frozen=True, slots=True)
class _PartResult:
    """The results and the spending of a part, as they come back from its process.

    Parameters
    ----------
    number
        The part.
    table
        Its results; ``None`` if it was not started.
    error
        The exception it ended with.
    spent
        What it has spent of its shares in nano USD; of no meaning where it reserved each call.
    """

    number: int
    table: pa.Table | None
    error: BaseException | None
    spent: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _PartCall:
    """The arguments that all parts of a run have in common; called in the process of a part."""

    prompt: TablePrompt | None
    model: Models
    portable: PortableHub
    options: RowOptions
    processes: int = 1
    parent: int = field(default_factory=os.getpid)

    def __call__(self, number: int, rows: Any, shares: Shares) -> _PartResult:
        """Complete the rows of a part within its shares of the budgets."""
        hub, options, budgets = self.portable.hub, dict(self.options), [_open_budget(share) for share in shares]
        own_budget, budget_of_hub = budgets
        if os.getpid() != self.parent:
            hub.runtime.expect_workers(self.processes)
        if own_budget is not None:
            options["budget_usd"] = own_budget
        if budget_of_hub is not None and budget_of_hub is not hub.runtime.shared_budget:
            hub = hub_with_budget(hub, budget_of_hub)
        table, error = None, None
        try:
            table = complete_table(rows, self.prompt, model=self.model, hub=hub, **options)  # type: ignore[call-overload]
        except BaseException as raised:  # noqa: BLE001 - raised by the parent, with the results of all parts
            table, error = _take_table(raised), _as_picklable(raised)
        for budget in budgets:
            if isinstance(budget, RemoteBudget):
                submit(budget.close()).result()
        spent = [0 if budget is None else budget.budget.spent for budget in budgets]
        return _PartResult(number, table, error, (spent[0], spent[1]))


def _open_budget(share: Part) -> SharedBudget | None:
    """Return the budget that a part may spend."""
    if isinstance(share, BudgetAddress):
        return share.connect()
    return None if share is None else SharedBudget(Budget(share))


def _take_table(error: BaseException) -> pa.Table | None:
    """Remove the table of an exception, so that it is not pickled twice, and return it."""
    table: pa.Table | None = getattr(error, "table", None)
    if table is not None:
        error.table = None  # type: ignore[attr-defined]
        error.__notes__ = []
    return table


def _as_picklable(error: BaseException) -> BaseException:
    """Return an exception that another process can raise: the same, or one with the same message."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what was pickled just now
    except Exception:  # noqa: BLE001 - an exception may have any constructor
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@dataclass(slots=True)
class _ParallelRun:
    """The parts of a run, the budgets they share, and the results so far."""

    parts: Sequence[tuple[int, Any]]
    call: _PartCall
    budgets: tuple[SharedBudget | None, SharedBudget | None]
    results: dict[int, _PartResult] = field(default_factory=dict)
    reserved: dict[int, Shares] = field(default_factory=dict)
    addresses: list[BudgetAddress | None] = field(default_factory=lambda: [None, None])
    stopped: bool = False

    def execute(self, n_jobs: int) -> None:
        """Complete all parts, and store their results."""
        import joblib  # noqa: PLC0415 - takes a third of a second to import

        backend, _ = joblib.parallel.get_active_backend()
        # Not a subclass of them: Ray's, whose workers may be elsewhere, is one.
        is_local = type(backend) in [getattr(joblib.parallel, name) for name in LOCAL_BACKENDS]
        servers = [None if budget is None or not is_local else BudgetServer(budget) for budget in self.budgets]
        try:
            for position, server in enumerate(servers):
                if server is not None:
                    self.addresses[position] = submit(server.open()).result()
            try:
                # A batch of parts would come back at once, and a budget would wait for the last of them.
                parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
            except ValueError:  # not every backend returns results as they come
                parallel = joblib.Parallel(n_jobs=n_jobs, batch_size=1)
            for result in parallel(self._calls(joblib.delayed)):
                self._add(result)
        finally:
            for server in servers:
                if server is not None:
                    submit(server.close()).result()
            for number in tuple(self.reserved):
                # The process was killed: it may have spent all of its shares.
                self._settle(number, [share if isinstance(share, int) else 0 for share in self.reserved[number]])

    def _calls(self, delayed: Callable[..., Any]) -> Iterator[Any]:
        """Yield the call of each part when a process is about to take it."""
        for number, (_, rows) in enumerate(self.parts):
            if self.stopped:
                return
            left = len(self.parts) - number
            call_share, hub_share = (
                address if budget is None or address is not None else submit(budget.reserve_share(left)).result()
                for budget, address in zip(self.budgets, self.addresses, strict=True)
            )
            self.reserved[number] = (call_share, hub_share)
            yield delayed(self.call)(number, rows, self.reserved[number])

    def _add(self, result: _PartResult) -> None:
        self.results[result.number] = result
        self._settle(result.number, result.spent)
        # Without a table it failed before anything was sent, or by a defect; the other parts would, too.
        self.stopped = self.stopped or result.table is None

    def _settle(self, number: int, spent: Sequence[int]) -> None:
        """Book what a part has spent of its shares, and give the rest of them back."""
        for budget, share, cost in zip(self.budgets, self.reserved.pop(number), spent, strict=True):
            if budget is not None and isinstance(share, int):
                submit(_reconcile(budget, share, cost)).result()

    @property
    def first_error(self) -> BaseException | None:
        """The exception of the first part that ended with one."""
        errors = (self.results[number].error for number in sorted(self.results))
        return next((error for error in errors if error is not None), None)

    def table(self) -> pa.Table:
        """Return the results of all parts that have ended, with the positions of their rows in the whole frame."""
        from llmhub.tables import streaming_io  # noqa: PLC0415 - imports Arrow

        tables = [
            streaming_io.offset_rows(result.table, self.parts[number][0])
            for number, result in sorted(self.results.items())
            if result.table is not None
        ]
        return streaming_io.concat_results(tables, uuid.uuid4().hex)


async def _reconcile(budget: SharedBudget, share: int, cost: int) -> None:
    """Settle a share on the loop that the budget belongs to."""
    budget.reconcile(share, cost)
