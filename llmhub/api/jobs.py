"""Runs in the background: started, observed, stopped, awaited."""

from __future__ import annotations

import concurrent.futures
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Unpack

from llmhub.api.default_hub import current_hub
from llmhub.api.options import Models, RowOptions, TablePrompt
from llmhub.api.signatures import shows_options
from llmhub.api.tables import TableRun, add_turns, apply_schema, build_table_run, run_table
from llmhub.engine import event_loop
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.progress import Progress
from llmhub.hub import Hub
from llmhub.progress.display import ProgressDisplay
from llmhub.progress.html import progress_html
from llmhub.progress.text import progress_line
from llmhub.progress.widget import is_notebook

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.engine.fan_out_types import ResultEvent

T = TypeVar("T")
U = TypeVar("U")


@shows_options(RowOptions)
def submit(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    **options: Unpack[RowOptions],
) -> Job[pa.Table]:
    """Start a run over the rows of a frame in the background, and return a handle at once.

    See `complete_table` for the parameters. In a notebook, the run's progress appears below the cell, with a stop
    button in kernels that support it; elsewhere progress is only shown with ``progress=True``. The run ends with the
    process.

    Raises
    ------
    BadRequestError
        As in `complete_table`, by this call. All other errors are raised by `Job.result`.
    """
    hub = hub or current_hub()
    if hub.service is not None:
        from llmhub.api import service_runs  # noqa: PLC0415 - for the hubs of a service only

        if not service_runs.sends_row_by_row(options):
            at_service = service_runs.build_service_run(frame, prompt, model, hub, dict(options))
            return Job(service_runs.submit_at_service(at_service), _identity)
    run = build_table_run(frame, prompt, model, hub, dict(options))
    stop = StopSignal()
    state = _JobState(run, stop, run.initial_progress)
    display = run.start_display(stop, background=True)
    state.has_panel = display is not None and is_notebook()
    work = run_table(run, state.recording(display), stop, state.results.append)
    state.future = event_loop.submit(work, stop if run.stores_results else None)
    return Job(state, _identity)


class JobState(Protocol):
    """A started run, in this process or at a service."""

    stop: StopSignal
    progress: Progress
    has_panel: bool
    future: concurrent.futures.Future[pa.Table]

    def partial_table(self) -> pa.Table:
        """Return a table of the results so far."""

    def request_stop(self) -> None:
        """Stop the run; a second call cancels calls in flight."""


@dataclass(slots=True)
class _JobState:
    """A started run: its latest progress and its results so far."""

    run: TableRun
    stop: StopSignal
    progress: Progress
    has_panel: bool = False
    results: list[ResultEvent] = field(default_factory=list)
    future: concurrent.futures.Future[pa.Table] = field(default_factory=concurrent.futures.Future)
    started_at: float = field(default_factory=time.time)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def recording(self, display: ProgressDisplay | None) -> ProgressDisplay:
        """Return a display that records the progress here before it shows it."""

        def report(progress: Progress) -> None:
            self.progress = progress
            if display is not None:
                display.report(progress)

        return ProgressDisplay(report, display.close if display is not None else _no_op)

    def partial_table(self) -> pa.Table:
        """Return a table of the results so far."""
        from llmhub.tables import batch_columns, results  # noqa: PLC0415 - imports Arrow

        events = tuple(self.results)
        is_batch = self.run.options.mode == "batch"
        table = results.completed_results(
            self.run.batch, batch_columns.last_events(events) if is_batch else events, self.run_id, self.started_at
        )
        if is_batch:
            table = batch_columns.with_mode_of_events(table, events, self.run.batch)
        if self.run.options.tool_loop is not None:
            rows = sorted((event for event in events if isinstance(event, tuple)), key=itemgetter(0))
            table = add_turns(self.run, table, [outcome for _, outcome, _ in rows], self.started_at)
        return apply_schema(replace(self.run, options=replace(self.run.options, on_error="row")), table)

    def request_stop(self) -> None:
        """Stop the run, or cancel its batches at first."""
        if self.run.options.mode == "batch" and not self.run.batch_cancel.requested:
            self.run.batch_cancel.request()
        else:
            self.stop.request()


class Job(Generic[T]):
    """Handle on a run in the background, returned by `submit`.

    The run continues until it is done or stopped, even if the handle is discarded.

    Examples
    --------
    >>> job = llmhub.submit(frame, "Summarise: {text}", model="openai/gpt-4o-mini")  # doctest: +SKIP
    >>> job.table().num_rows, job.done                                              # doctest: +SKIP
    (17, False)
    >>> job.stop()                                                                  # doctest: +SKIP
    >>> job.result().num_rows                                                       # doctest: +SKIP
    1000
    """

    def __init__(self, state: JobState, convert: Callable[[pa.Table], T]) -> None:
        self._state = state
        self._convert = convert

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._state.future.done()

    @property
    def progress(self) -> Progress:
        """Latest progress of the run."""
        return self._state.progress

    def table(self) -> T:
        """Return the results so far, in input order; all results if the run has ended.

        Returns
        -------
        table or frame
            What `result` returns, with the rows completed so far: of `llmhub.submit` a table with the schema
            `llmhub.tables.schema.RESULTS`, of ``df.llm.submit`` a frame of the kind of ``df``.

        Raises
        ------
        ConnectorError
            As in `result`, if the run has ended.
        """
        return self._convert(self._state.future.result() if self.done else self._state.partial_table())

    def result(self, timeout_s: float | None = None) -> T:
        """Wait until the run has ended, and return its result.

        The first interrupt (Ctrl-C) stops the run and waits for calls in flight, the second cancels those. Rows that
        were not sent have the status ``cancelled``.

        Parameters
        ----------
        timeout_s
            Longest wait in seconds; the run continues after it.

        Raises
        ------
        TimeoutError
            The run has not ended yet.
        ConnectorError
            With ``on_error="raise"``, the error of the first failed row.
        """
        state = self._state
        return self._convert(event_loop.wait_interruptibly(lambda: state.future, state.stop, timeout_s))

    def stop(self) -> None:
        """Send nothing more and let calls in flight finish; a second call cancels those. Returns at once.

        With ``mode="batch"``, cancel the open batches and collect what they have answered; a second call leaves them.
        """
        self._state.request_stop()

    def map(self, function: Callable[[T], U]) -> Job[U]:
        """Return a handle on the same run that applies ``function`` to its result, and to the results so far."""
        return Job(self._state, lambda table: function(self._convert(table)))

    def __await__(self) -> Generator[Any, None, T]:
        """Wait until the run has ended, and return its result. Cancelling the wait does not stop the run."""
        table = yield from event_loop.await_shielded(self._state.future).__await__()
        return self._convert(table)

    def __repr__(self) -> str:
        """Return the state and progress of the run."""
        return f"<Job {self._status()}: {progress_line(self.progress)}>"

    def _ipython_display_(self) -> None:
        """Show nothing while the run's own panel is live below its cell: a second one would be a frozen copy."""
        if self.done or not self._state.has_panel:
            raise NotImplementedError  # IPython then asks for the HTML

    def _repr_html_(self) -> str:
        return progress_html(self.progress, self._status())

    def _status(self) -> str:
        future = self._state.future
        if not future.done():
            return "running"
        error = None if future.cancelled() else future.exception()
        return "done" if error is None else f"failed, {type(error).__name__}"


def _identity(table: pa.Table) -> pa.Table:
    return table


def _no_op() -> None:
    """Do nothing."""
