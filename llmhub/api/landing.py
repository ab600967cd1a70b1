"""Rows of a frame as they complete."""

from __future__ import annotations

import asyncio
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack

from llmhub.api.frames import Asked, asked_of, fitted, ran
from llmhub.api.options import Asking, Models, RowOptions, expect_rows
from llmhub.engine.loop import Stop, submit
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.engine.bulk import Block
    from llmhub.engine.run import Landed, Ran, Settled

PATIENCE_S: Final = 5.0
"""How long an early end is waited for."""
TOGETHER: Final = 512
"""Rows that are made into a table at a time, where so many have come."""
One: TypeAlias = "tuple[int, Settled | None, float]"


def stream_table(
    frame: Any, prompt: Asking | None = None, *, model: Models, hub: Hub | None = None, **options: Unpack[RowOptions]
) -> Iterator[pa.Table]:
    """Ask every row of a frame, and give results as they come: tables of one row or more (see `complete_table`).

    Closing the iterator early sends nothing more, and cuts off what is in flight. Rows that are not asked come last.

    Raises
    ------
    InvalidRequestError
        As in `complete_table`, at once.
    ConnectorError
        With ``on_error="raise"``, the first row's failure, when it comes; what is in flight is cut off.
    """
    return _landing(asked_of(frame, prompt, model, hub, dict(options)))


def _landing(asked: Asked) -> Iterator[pa.Table]:
    from llmhub.tables import results, schema  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    at, whole = time.time(), schema.with_run(uuid.uuid4().hex)
    box: queue.SimpleQueue[Landed | None] = queue.SimpleQueue()
    stop = Stop()
    future = submit(ran(asked, asked.shown(), stop, box.put))
    future.add_done_callback(lambda _: box.put(None))
    try:
        for some in _drawn(box):
            yield fitted(asked, results.part(asked.questions, _landed(asked, some), whole, at))
        if rest := _never(asked, future.result()):
            yield fitted(asked, results.part(asked.questions, _landed(asked, rest), whole, at))
    finally:
        _end(future, stop)


def _end(future: Future[Ran], stop: Stop) -> None:
    """Send nothing more, and cut off what is in flight; wait for that, unless this thread has a loop to keep up."""
    if future.done():
        return
    stop.ask()
    stop.ask()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        wait([future], timeout=PATIENCE_S)


def _landed(asked: Asked, some: Block | Sequence[One]) -> Any:
    """Bring what came to the form that a table is made of, or raise for it."""
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    if not isinstance(some, Sequence):
        return some
    positions, answers, queued_s = zip(*some, strict=True)
    expect_rows(asked.options, answers)
    return results.Some(positions, answers, queued_s)


def _never(asked: Asked, done: Ran) -> list[One]:
    """Give the rows that nobody was asked about."""
    questions, step = asked.questions, asked.questions.step
    from llmhub.tables import results  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    answers = results.settled(questions, done)
    rows = (row for row, skipped in enumerate(questions.skipped) if skipped or row in questions.wrong)
    return [(at, answers[at], 0.0) for row in rows for at in range(row * step, (row + 1) * step)]


def _drawn(box: queue.SimpleQueue[Landed | None]) -> Iterator[Block | list[One]]:
    """Give answers as they come, those together that came together."""
    some: list[One] = []
    while (one := box.get()) is not None:
        if isinstance(one, tuple):
            some.append(one)
        if some and (not isinstance(one, tuple) or len(some) >= TOGETHER or box.empty()):
            yield some
            some = []
        if not isinstance(one, tuple):
            yield one
    if some:
        yield some
