"""Runs that go on by themselves: begun, looked at, stopped, awaited."""

from __future__ import annotations

import concurrent.futures
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from llmhub.api.options import Models, RowOptions, TablePrompt
from llmhub.api.tables import TableRun, apply_schema, build_table_run, run_table
from llmhub.engine.event_loop import StopSignal, await_shielded, wait_interruptibly
from llmhub.engine.event_loop import submit as begin
from llmhub.engine.progress import Progress
from llmhub.hub import Hub
from llmhub.progress.display import ProgressDisplay
from llmhub.progress.html import progress_html
from llmhub.progress.text import progress_line

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.engine.fan_out_types import ResultEvent

T = TypeVar("T")
U = TypeVar("U")


def submit(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    **options: Unpack[RowOptions],
) -> Job[pa.Table]:
    """Begin to ask every row of a frame, and give a handle at once: nothing blocks (see `complete_table`).

    In a notebook the run's panel appears under the cell, with a button that stops it where the kernel hears one.
    Elsewhere nothing is shown unless ``progress=True``. When the process ends, so does the run.

    Raises
    ------
    InvalidRequestError
        As in `complete_table`, at once; everything else is raised by `Job.result`.
    """
    asked = build_table_run(frame, prompt, model, hub, dict(options))
    stop = StopSignal()
    running = _JobState(asked, stop, asked.initial_progress)
    show = asked.start_display(stop, background=True)
    running.future = begin(run_table(asked, running.noting(show), stop, running.landed.append))
    return Job(running, _identity)


@dataclass(slots=True)
class _JobState:
    """A run under way: what it was asked, and what is known of it so far."""

    asked: TableRun
    stop: StopSignal
    last: Progress
    landed: list[ResultEvent] = field(default_factory=list)
    future: concurrent.futures.Future[pa.Table] = field(default_factory=concurrent.futures.Future)
    at: float = field(default_factory=time.time)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def noting(self, show: ProgressDisplay | None) -> ProgressDisplay:
        """Note how far it is, and show it."""

        def note(progress: Progress) -> None:
            self.last = progress
            if show is not None:
                show.report(progress)

        return ProgressDisplay(note, show.close if show is not None else _no_op)

    def so_far(self) -> pa.Table:
        """Make a table of what has landed."""
        from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

        table = results.completed_results(self.asked.batch, tuple(self.landed), self.run_id, self.at)
        return apply_schema(replace(self.asked, options=replace(self.asked.options, on_error="row")), table)


class Job(Generic[T]):
    """A run that goes on by itself.

    `submit` makes it. Whatever becomes of the handle, the run goes on until it is done or stopped.

    Examples
    --------
    >>> job = llmhub.submit(frame, "Summarise: {text}", model="openai/gpt-4o-mini")  # doctest: +SKIP
    >>> job.table().num_rows, job.done                                              # doctest: +SKIP
    (17, False)
    >>> job.stop()                                                                  # doctest: +SKIP
    >>> job.result().num_rows                                                       # doctest: +SKIP
    1000
    """

    def __init__(self, running: _JobState, finish: Callable[[pa.Table], T]) -> None:
        self._running = running
        self._finish = finish

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self._running.future.done()

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self._running.last

    def table(self) -> pa.Table:
        """Give the rows that have their answer so far, in input order; all rows once it is over.

        Returns
        -------
        pyarrow.Table
            Rows with the schema `llmhub.tables.schema.RESULTS`; ``row`` says which each is.

        Raises
        ------
        ConnectorError
            As `result` does, once the run is over.
        """
        return self._running.future.result() if self.done else self._running.so_far()

    def result(self, timeout_s: float | None = None) -> T:
        """Wait until the run is over, and give what the call that does not return at once would have given.

        An interrupt is a wish to stop, as everywhere: the first sends nothing more and waits for what is in flight,
        the second cuts that off; rows that were not asked say ``cancelled``.

        Parameters
        ----------
        timeout_s
            Wait so many seconds at most; the run goes on all the same.

        Raises
        ------
        TimeoutError
            It is not over yet.
        ConnectorError
            With ``on_error="raise"``, the first row's failure.
        """
        running = self._running
        return self._finish(wait_interruptibly(lambda: running.future, running.stop, timeout_s))

    def stop(self) -> None:
        """Send nothing more, and let what is in flight finish; called again, cut that off. Returns at once."""
        self._running.stop.request()

    def map(self, function: Callable[[T], U]) -> Job[U]:
        """Give a handle on the same run whose `result` is what ``function`` makes of this one's."""
        return Job(self._running, lambda table: function(self._finish(table)))

    def __await__(self) -> Generator[Any, None, T]:
        """Wait until the run is over. Who stops awaiting does not stop the run."""
        table = yield from await_shielded(self._running.future).__await__()
        return self._finish(table)

    def __repr__(self) -> str:
        """Say how far it is."""
        return f"<Job {self._state()}: {progress_line(self.progress)}>"

    def _repr_html_(self) -> str:
        return progress_html(self.progress, self._state())

    def _state(self) -> str:
        future = self._running.future
        if not future.done():
            return "running"
        wrong = None if future.cancelled() else future.exception()
        return "done" if wrong is None else f"failed, {type(wrong).__name__}"


def _identity(table: pa.Table) -> pa.Table:
    return table


def _no_op() -> None:
    """Do nothing."""
