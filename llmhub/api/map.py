"""A function of every row: one that makes a request, or one that does whatever it likes."""

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
from llmhub.api.tables import TableRun, compile_prompts, run_blocking
from llmhub.core.errors import BadRequestError, ConnectorError, InvalidRequest, error_type_name
from llmhub.core.types import CompletionRequest
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.tables.rows import FrameColumns, Row


MAP_OPTIONS: Final = frozenset(MapOptions.__annotations__)


RowFunction: TypeAlias = "Callable[[Row], Any]"


def map_rows(
    frame: Any,
    function: RowFunction,
    *,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[MapOptions],
) -> pa.Table | list[Any]:
    """Call a function of every row, and ask what it gives if that are requests.

    Parameters
    ----------
    function
        Of a row (`llmhub.tables.rows.Row`); a coroutine function is awaited on llmhub's loop, any other is called in
        threads, so that it may block, in `llmhub.complete` say. ``hub`` is in force inside it.
    model
        ``provider/model`` for requests that name none.
    **options
        ``concurrency``, calls under way at once; ``on_error``, ``"row"`` to leave a row empty whose function raised a
        `ConnectorError`, or ``"raise"``; ``progress``, ``stream``, ``budget_usd`` for requests.

    Returns
    -------
    pyarrow.Table or list
        Of requests, their results, one a row (`llmhub.tables.schema.RESULTS`). Of anything else, the values; ``None``
        for a row that failed, was stopped before its turn, or lacks a value that the function reads.

    Raises
    ------
    InvalidRequestError
        The function reads a column that is not there, or gives requests for some rows and other values for others.
    Exception
        Whatever else the function raises, with a note that says for which row; no further row is begun.

    Warns
    -----
    RuntimeWarning
        Some rows failed, and why.
    """
    from llmhub.tables.rows import FrameColumns  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = hub or current_hub()
    unknown = sorted(set(options) - MAP_OPTIONS)
    if unknown:
        known = ", ".join(sorted(MAP_OPTIONS))
        said = f"no such option of map; there are {known}; what shapes an answer stands in its request"
        raise BadRequestError(InvalidRequest(path=unknown[0], message=said))
    run_options = split_options(dict(options))[1]
    at_once = resolve_concurrency(hub, run_options)
    mapping = _RowMapper(function, FrameColumns(frame), run_options.on_error == "raise")
    with using(hub):
        values = run_sync(partial(mapping.go, at_once, contextvars.copy_context()))
    mapping.warn()
    if any(isinstance(value, CompletionRequest) for value in values):
        return _complete_requests(hub, values, model, run_options)
    return values


@dataclass(slots=True)
class _RowMapper:
    """A function on its way over the rows. Everything but the function happens on the loop."""

    function: RowFunction
    columns: FrameColumns
    raising: bool
    failed: list[ConnectorError] = field(default_factory=list)

    async def go(self, at_once: int, context: contextvars.Context, stop: StopSignal) -> list[Any]:
        values: list[Any] = [None] * len(self.columns)
        rows = iter(enumerate(self.columns))
        threads = ThreadPoolExecutor(at_once, thread_name_prefix="llmhub-map")
        call = partial(self._call, threads, context)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_once, len(values))):
                    group.create_task(self._work(rows, values, call, stop))
        except BaseExceptionGroup as wrong:
            raise wrong.exceptions[0] from None
        finally:
            # A function that still runs may need this loop to end: nobody waits for it here.
            threads.shutdown(wait=False, cancel_futures=True)
        return values

    async def _work(
        self, rows: Iterator[tuple[int, Row]], values: list[Any], call: Callable[..., Any], stop: StopSignal
    ) -> None:
        for at, row in rows:
            if stop.requested:
                return
            try:
                values[at] = await call(row, at)
            except ConnectorError as failed:
                if self.raising or (isinstance(failed, BadRequestError) and not failed.error.provider):
                    raise
                self.failed.append(failed)

    async def _call(self, threads: ThreadPoolExecutor, context: contextvars.Context, row: Row, at: int) -> Any:
        from llmhub.tables.rows import MissingValueError, call_with_row  # noqa: PLC0415 - as above

        if inspect.iscoroutinefunction(self.function):
            made = self.function(row)
        else:
            work = partial(context.copy().run, call_with_row, self.function, row, at, "function")
            made = await asyncio.get_running_loop().run_in_executor(threads, work)
        if not inspect.isawaitable(made):
            return made
        try:
            return await made
        except MissingValueError:
            return None
        except Exception as wrong:
            if not isinstance(wrong, ConnectorError):
                wrong.add_note(f"function: raised for row {at}")
            raise

    def warn(self) -> None:
        if self.failed:
            kinds = Counter(error_type_name(one.error) for one in self.failed)
            said = ", ".join(f"{name} {count:,}" for name, count in kinds.most_common())
            first = f"{len(self.failed):,} rows failed and have no value ({said}); the first: {self.failed[0]}"
            warnings.warn(first, RuntimeWarning, stacklevel=3)


def _complete_requests(hub: Hub, values: Sequence[Any], model: str | None, options: RunOptions) -> pa.Table:
    """Ask the requests that rows gave, each of the model that it names."""
    from llmhub.tables import prompt_batch  # noqa: PLC0415 - as above

    names: dict[str, int] = {}
    own = []
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, CompletionRequest):
            said = f"gave a request for some rows and, for row {row}, {type(value).__name__}; give one kind for all"
            raise BadRequestError(InvalidRequest(path="function", message=said))
        name = "" if value is None else value.model or model
        if name is None:
            said = f"the request of row {row} names no model; give model='provider/model'"
            raise BadRequestError(InvalidRequest(path="model", message=said))
        own.append(names.setdefault(name, len(names)) if name else 0)
    asks = compile_prompts(hub, list(names), CompletionRequest(model="", messages=()), options)
    return run_blocking(TableRun(hub, prompt_batch.batch_from_requests(values, asks, own), options))
