"""Pass events from the event loop to a thread, where they become log lines, metrics and spans.

The loop appends an event to a queue, in a tenth of a microsecond. The thread works in short slices and pauses between
them: Python lets a thread that computes keep the interpreter for 5 ms, which would hold up every stream on the loop.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from returns.pipeline import is_successful
from returns.result import Success

from llmhub.core.pricing import compute_cost_nano_usd
from llmhub.engine.call import Answer, Target
from llmhub.engine.observer import LOGGER, CallFinished, Event
from llmhub.engine.spending import TargetPrices

Consumer: TypeAlias = Callable[[Event, int | None], None]
"""Processes an event, in a thread; the second argument is the cost of a finished call in billionths of a dollar."""

INTERVAL_S: Final = 0.2
"""Longest time an event waits in the queue."""
SLICE_S: Final = 0.0005
"""Time after which the thread pauses."""
CHECK_EVERY: Final = 4
"""Events between two looks at the clock."""
PAUSE_S: Final = 0.0001
"""Length of a pause; any length lets the loop's thread run."""
MAX_QUEUED: Final = 200_000
"""Length of the queue at which the loop waits for the thread."""


class Dispatcher:
    """An observer that passes events to a function in a thread of its own.

    Parameters
    ----------
    consume
        Called with each event.
    after_batch
        Called after the events that were queued, before the pause.
    clock
        Returns epoch seconds, for prices that change with the time of day.
    """

    def __init__(
        self,
        consume: Consumer,
        after_batch: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._consume = consume
        self._after_batch = after_batch
        self._prices = TargetPrices(clock)
        self._queue: deque[Event] = deque()
        self._reset()
        _DISPATCHERS.add(self)

    def _reset(self) -> None:
        self._queue.clear()
        self._working = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        """Queue an event."""
        self._queue.append(event)
        if self._thread is None:
            self._start()
        elif len(self._queue) > MAX_QUEUED:
            self.flush()

    def flush(self) -> None:
        """Process all events queued so far, in this thread."""
        with self._working:
            queue, process = self._queue, self._process
            pause_at = time.perf_counter() + SLICE_S
            for number in range(len(queue)):
                process(queue.popleft())
                if number % CHECK_EVERY == 0 and time.perf_counter() > pause_at:
                    time.sleep(PAUSE_S)
                    pause_at = time.perf_counter() + SLICE_S
            try:
                self._after_batch()
            except Exception:  # noqa: BLE001 - a plugin's collector may raise anything
                LOGGER.exception("measurements cannot be passed on")

    def close(self) -> None:
        """Process what is queued and end the thread."""
        self._closed.set()
        self.flush()
        _DISPATCHERS.discard(self)

    def reset_after_fork(self) -> None:
        """Leave the events of the parent process to it."""
        self._reset()

    def _start(self) -> None:
        self._thread = threading.Thread(
            target=_work, args=(weakref.ref(self), self._closed), name="llmhub-observability", daemon=True
        )
        self._thread.start()

    def _process(self, event: Event) -> None:
        try:
            cost = None
            if type(event) is CallFinished and event.answer is not None:
                cost = cost_nano_usd(event.call.target, event.answer, self._prices)
            self._consume(event, cost)
        except Exception:  # noqa: BLE001 - a price table of a plugin may raise anything
            LOGGER.exception("an event cannot be processed")


def _work(reference: weakref.ref[Dispatcher], closed: threading.Event) -> None:
    """Flush until the dispatcher is closed or garbage-collected."""
    while not closed.wait(INTERVAL_S):
        dispatcher = reference()
        if dispatcher is None:
            return
        dispatcher.flush()
        del dispatcher


_DISPATCHERS: Final[weakref.WeakSet[Dispatcher]] = weakref.WeakSet()
"""Those to be flushed when the process ends, and reset in forked children."""


def flush() -> None:
    """Process all events that are queued in this process, so that logs, metrics and spans are complete."""
    for dispatcher in tuple(_DISPATCHERS):
        dispatcher.flush()


def _reset_all() -> None:
    for dispatcher in tuple(_DISPATCHERS):
        dispatcher.reset_after_fork()


atexit.register(flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)


def cost_nano_usd(target: Target, answer: Answer, prices: TargetPrices) -> int | None:
    """Return what an answered call cost in billionths of a dollar, failed attempts included; ``None`` if unknown."""
    if answer.cache_hit:
        return 0
    outcome = answer.outcome
    if type(outcome) is Success and not answer.billed_failures:
        response = outcome.unwrap()
        return compute_cost_nano_usd(response.usage, prices.lookup(answer.target or target, response.served_model))
    total = 0
    for failure in answer.billed_failures:
        cost = compute_cost_nano_usd(failure.usage, prices.lookup(failure.target))
        if cost is None:
            return None
        total += cost
    if not is_successful(answer.outcome):
        return total
    response, served_by = answer.outcome.unwrap(), answer.target or target
    cost = compute_cost_nano_usd(response.usage, prices.lookup(served_by, response.served_model))
    return None if cost is None else total + cost
