"""Functions over the rows of a frame: functions that return requests, and functions that return any other value.

Coroutine functions run on llmhub's event loop, all other functions in threads, so that they may block.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack

from llmhub.api.default_hub import current_hub, using
from llmhub.api.options import MapOptions, RunOptions, resolve_concurrency, split_options
from llmhub.api.signatures import shows_options
from llmhub.api.tables import TableRun, compile_prompts, run_blocking
from llmhub.core.errors import BadRequestError, ConnectorError, error_type_name, invalid
from llmhub.core.types import CompletionRequest
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.tables.rows import FrameColumns, Row

MAP_OPTIONS: Final = frozenset(MapOptions.__annotations__)
RowFunction: TypeAlias = "Callable[[Row], Any]"


@shows_options(MapOptions)
def map_rows(
    frame: Any,
    function: RowFunction,
    *,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[MapOptions],
) -> pa.Table | list[Any]:
    """Call a function for every row. If it returns requests, send them and return their results.

    Parameters
    ----------
    frame
        As in `complete_table`.
    function
        Takes a row (`llmhub.tables.rows.Row`). A coroutine function is awaited on llmhub's event loop; any other
        function is called in a thread and may block, for example in `llmhub.complete`. ``hub`` is the default hub
        inside.
    model
        ``provider/model`` for requests without a model.
    hub
        The hub to use; the default hub if omitted.
    **options
        ``concurrency``, the maximum number of calls at a time; ``on_error``, ``"row"`` to leave a row empty whose
        function raised a `ConnectorError`, or ``"raise"``; and for requests ``progress``, ``stream``, ``budget_usd``.

    Returns
    -------
    pyarrow.Table or list
        For requests, one result per row (`llmhub.tables.schema.RESULTS`). Otherwise the values; ``None`` for a row that
        failed, was not reached before the run was stopped, or lacks a value that the function reads.

    Raises
    ------
    BadRequestError
        The function reads a column that does not exist, or returns requests for some rows and values for others.
    Exception
        Any other exception of the function, with a note on the row, and the values so far in ``values``. No further
        rows are started; those under way are awaited.

    Warns
    -----
    RuntimeWarning
        Some rows failed.
    """
    from llmhub.tables.rows import FrameColumns  # noqa: PLC0415 - imports Arrow

    hub = hub or current_hub()
    unknown = sorted(set(options) - MAP_OPTIONS)
    if unknown:
        known = ", ".join(sorted(MAP_OPTIONS))
        raise invalid(
            unknown[0], f"map has no such option; the options are {known}; set request parameters in the requests"
        )
    run_options = split_options(dict(options))[1]
    concurrency = resolve_concurrency(hub, run_options)
    mapper = _RowMapper(function, FrameColumns(frame), run_options.on_error == "raise")
    with using(hub):
        work = partial(mapper.run, concurrency, contextvars.copy_context())
        values = run_sync(work, drain=hub.cache is not None)
    mapper.warn_failed()
    if any(isinstance(value, CompletionRequest) for value in values):
        return _complete_requests(hub, values, model, run_options)
    return values


@dataclass(slots=True)
class _RowMapper:
    """Calls a function for every row with bounded concurrency."""

    function: RowFunction
    columns: FrameColumns
    raise_errors: bool
    failed: list[ConnectorError] = field(default_factory=list)
    error: BaseException | None = None

    async def run(self, concurrency: int, context: contextvars.Context, stop: StopSignal) -> list[Any]:
        """Return the value of every row."""
        values: list[Any] = [None] * len(self.columns)
        rows = iter(enumerate(self.columns))
        threads = ThreadPoolExecutor(concurrency, thread_name_prefix="llmhub-map")
        call = partial(self._call, threads, context)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(values))):
                    group.create_task(self._worker(rows, values, call, stop))
        except asyncio.CancelledError as cancelled:
            self.error = cancelled
        finally:
            # Waiting would deadlock: a function that is still running may need this event loop to finish.
            threads.shutdown(wait=False, cancel_futures=True)
        if self.error is not None:
            # The functions may have paid for calls.
            BaseException.__setattr__(self.error, "values", values)
            raise self.error
        return values

    async def _worker(
        self, rows: Iterator[tuple[int, Row]], values: list[Any], call: Callable[..., Any], stop: StopSignal
    ) -> None:
        for position, row in rows:
            if stop.requested or self.error is not None:
                return
            try:
                values[position] = await call(row, position)
            except asyncio.CancelledError:
                raise
            except ConnectorError as error:
                # A wrong argument is a mistake in the function itself, and would fail for every row.
                is_argument_error = isinstance(error, BadRequestError) and not error.error.provider
                if self.raise_errors or is_argument_error:
                    self.error = self.error or error
                else:
                    self.failed.append(error)
            except BaseException as error:  # noqa: BLE001 - raised once the rows under way have their values
                self.error = self.error or error

    async def _call(self, threads: ThreadPoolExecutor, context: contextvars.Context, row: Row, position: int) -> Any:
        from llmhub.tables.rows import MissingValueError, call_with_row  # noqa: PLC0415 - imports Arrow

        if inspect.iscoroutinefunction(self.function):
            value = self.function(row)
        else:
            work = partial(context.copy().run, call_with_row, self.function, row, position, "function")
            value = await asyncio.get_running_loop().run_in_executor(threads, work)
        if not inspect.isawaitable(value):
            return value
        try:
            return await value
        except MissingValueError:
            return None
        except Exception as error:
            if not isinstance(error, ConnectorError):
                error.add_note(f"function: raised for row {position}")
            raise

    def warn_failed(self) -> None:
        """Warn about failed rows, by kind."""
        if self.failed:
            counts = Counter(error_type_name(failure.error) for failure in self.failed)
            by_kind = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
            message = f"{len(self.failed):,} rows failed and have no value ({by_kind}); the first: {self.failed[0]}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def _complete_requests(hub: Hub, values: Sequence[Any], model: str | None, options: RunOptions) -> pa.Table:
    """Send the requests that a function returned, each to the model it names."""
    from llmhub.tables import prompt_batch  # noqa: PLC0415 - imports Arrow

    model_indices: dict[str, int] = {}
    target_of_row = []
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, CompletionRequest):
            raise invalid(
                "function",
                f"returned a request for some rows, but {type(value).__name__} for row {row}; "
                "return a CompletionRequest or None for every row",
            )
        name = "" if value is None else value.model or model
        if name is None:
            raise invalid("model", f"the request of row {row} has no model; pass model='provider/model'")
        target_of_row.append(model_indices.setdefault(name, len(model_indices)) if name else 0)
    target_prompts = compile_prompts(hub, list(model_indices), CompletionRequest(model="", messages=()), options)
    batch = prompt_batch.batch_from_requests(values, target_prompts, target_of_row)
    return run_blocking(TableRun(hub, batch, options))
