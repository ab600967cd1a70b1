"""Run coroutines on the one background event loop of the process, and wait for them interruptibly.

Notebook cells, scripts and threads all submit to this loop, so they need no loop of their own and connections outlive a
call. A forked child makes its own loop. The first Ctrl-C asks the work to drain, the second to stop at once, the third
raises ``KeyboardInterrupt``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from llmhub.engine.process_end import register_exit, register_work, restore_handler

T = TypeVar("T")

MAX_INTERRUPTS: Final = 2
"""Interrupts that become stop requests; the next one raises."""
SHUTDOWN_TIMEOUT_S: Final = 1.0
"""Longest wait for the loop's thread when the process exits."""
WAKE_INTERVAL_S: Final = 0.1
"""Longest sleep of a caller's loop while it awaits the background loop."""
WAIT_SLICE_S: Final = 0.5
"""Longest wait on a lock at a time, since on some platforms it cannot be interrupted."""


class StopSignal:
    """A thread-safe request to stop: after the first, work in flight is drained; after the second, it is cancelled.

    Examples
    --------
    >>> stop = StopSignal()
    >>> stop.request(); stop.requested, stop.immediate
    (True, False)
    """

    __slots__ = ("_listeners", "immediate", "requested")

    def __init__(self) -> None:
        self.requested = False
        self.immediate = False
        self._listeners: list[Callable[[], object]] = []

    def request(self) -> None:
        """Request a stop; a second request makes it immediate."""
        self.immediate = self.requested
        self.requested = True
        for listener in tuple(self._listeners):
            listener()

    def add_listener(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener`` at each request, in the requesting thread; return a function that removes it."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)


class _BackgroundLoop:
    """The process's loop, and the lock for creating it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.finalizer: weakref.finalize[[asyncio.AbstractEventLoop, threading.Thread], _BackgroundLoop] | None = None

    def reset_after_fork(self) -> None:
        """Drop the parent's loop, which has no thread in the child."""
        self.lock = threading.Lock()
        self.loop = None
        if self.finalizer is not None:
            self.finalizer.detach()


_BACKGROUND: Final = _BackgroundLoop()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_BACKGROUND.reset_after_fork)


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the process's background loop, starting its thread on first use."""
    with _BACKGROUND.lock:
        if _BACKGROUND.loop is None or _BACKGROUND.loop.is_closed():
            loop = new_event_loop()
            thread = threading.Thread(target=_run_loop, args=(loop,), name="llmhub-loop", daemon=True)
            thread.start()
            _BACKGROUND.loop = loop
            # Finalizers run in reverse order of creation: those of hubs, made later, still find the loop running.
            _BACKGROUND.finalizer = weakref.finalize(_BACKGROUND, _stop_loop, loop, thread)
            # After the first finalizer, so that requests in flight are awaited before any of them runs.
            register_exit()
        return _BACKGROUND.loop


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop if it is installed, else an asyncio loop."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then cancel its tasks and close it."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=SHUTDOWN_TIMEOUT_S / 2))
    loop.close()


def _stop_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Stop the loop before the interpreter exits: a timer of uvloop that fires afterwards crashes the process."""
    if thread.is_alive():
        with suppress(RuntimeError):  # closed in the meantime
            loop.call_soon_threadsafe(loop.stop)
        thread.join(SHUTDOWN_TIMEOUT_S)


def is_on_background_loop() -> bool:
    """Return whether this thread is that of the background loop, which must not wait for work on it."""
    try:
        return asyncio.get_running_loop() is background_loop()
    except RuntimeError:
        return False


def submit(work: Coroutine[Any, Any, T], drain: StopSignal | None = None) -> concurrent.futures.Future[T]:
    """Schedule a coroutine on the background loop. Its future has any exception, ``SystemExit`` included.

    Work that stores its results passes its stop signal as ``drain``: it is then stopped and awaited when the process
    ends (see `llmhub.engine.process_end`).
    """
    loop = background_loop()
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    if drain is not None:
        register_work(future, drain)

    def start() -> None:
        task = loop.create_task(_contain_exit(work))
        task.add_done_callback(partial(_copy_outcome, future))
        future.add_done_callback(partial(_cancel_task, loop, task))

    loop.call_soon_threadsafe(start)
    return future


def _cancel_task(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], future: concurrent.futures.Future[Any]
) -> None:
    """Cancel the task of a future that was cancelled."""
    if future.cancelled():
        with suppress(RuntimeError):  # the loop was closed in the meantime
            loop.call_soon_threadsafe(task.cancel)


async def _contain_exit(work: Coroutine[Any, Any, T]) -> T | _Exit:
    """Return an exception that would end the loop's thread if a task raised it, and with it every run."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        return _Exit(error)


@dataclass(frozen=True, slots=True)
class _Exit:
    """An exception that must not be that of a task or a future, to be raised where it is awaited.

    ``SystemExit`` and ``KeyboardInterrupt`` would end the loop. ``GeneratorExit`` closes the coroutine that awaits it.
    """

    error: BaseException


def _copy_outcome(future: concurrent.futures.Future[T], task: asyncio.Task[T | _Exit]) -> None:
    """Copy the outcome of a task to the future of its work."""
    if task.cancelled():
        future.cancel()
    if not future.set_running_or_notify_cancel():
        return
    error = task.exception()
    if error is not None:
        future.set_exception(error)
    elif isinstance(outcome := task.result(), _Exit):
        future.set_exception(outcome.error)
    else:
        future.set_result(outcome)


def run_sync(work: Callable[[StopSignal], Coroutine[Any, Any, T]], *, drain: bool = False) -> T:
    """Run ``work(stop)`` on the background loop and wait for its result, interruptibly.

    ``drain`` tells that the work stores its results (see `submit`).

    The first ``KeyboardInterrupt`` requests ``stop`` and keeps waiting, so that ``work`` can drain what is in flight
    and return what has finished; the second requests it again; the third is raised.

    Examples
    --------
    >>> async def work(stop):
    ...     return 42
    >>> run_sync(work)
    42
    """
    stop = StopSignal()
    return wait_interruptibly(lambda: submit(work(stop), stop if drain else None), stop)


def wait_interruptibly(
    start: Callable[[], concurrent.futures.Future[T]], stop: StopSignal, timeout_s: float | None = None
) -> T:
    """Wait for the future that ``start`` returns, turning interrupts into requests of ``stop`` as `run_sync` does.

    Raises
    ------
    TimeoutError
        The work has not finished within ``timeout_s``; it continues.
    RuntimeError
        Called on the background loop, which would wait for itself.
    """
    if _is_running(background_loop()):
        raise RuntimeError(
            "a blocking call was made on llmhub's own event loop, which would wait for itself; await the async form"
        )
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    interrupts = 0
    try:
        with _interrupts_request(stop) as handled:
            future = start()
            while True:
                try:
                    return _wait(future, deadline)
                except KeyboardInterrupt:
                    interrupts += 1
                    if future.done():
                        raise
                    if handled or interrupts > MAX_INTERRUPTS:
                        future.cancel()
                        raise
                    stop.request()
    finally:
        restore_handler()


@contextmanager
def _interrupts_request(stop: StopSignal) -> Iterator[bool]:
    """Turn Ctrl-C into requests of ``stop``, if Python's default handler is installed; yield whether it was.

    A signal handler, unlike ``except KeyboardInterrupt``, does not lose a second Ctrl-C that follows at once: its
    exception could be raised while the first is being handled. So any ``KeyboardInterrupt`` under this handler is one
    beyond `MAX_INTERRUPTS`.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield False
        return
    interrupts = 0

    def on_interrupt(_number: int, _frame: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > MAX_INTERRUPTS:
            raise KeyboardInterrupt
        stop.request()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield True
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait(future: concurrent.futures.Future[T], deadline: float | None) -> T:
    """Wait for a future in slices of `WAIT_SLICE_S`."""
    while True:
        remaining_s = WAIT_SLICE_S if deadline is None else deadline - time.monotonic()
        try:
            return future.result(timeout=max(0.0, min(WAIT_SLICE_S, remaining_s)))
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
            if remaining_s <= 0:
                raise TimeoutError("not finished within the timeout; it continues in the background") from None


async def run_in_background(work: Coroutine[Any, Any, T], drain: StopSignal | None = None) -> T:
    """Run ``work`` on the background loop and await it from any loop; cancellation is passed on.

    ``drain`` is as in `submit`.

    Notes ----- Meanwhile the caller's loop is woken every `WAKE_INTERVAL_S`: the interrupt handler of a notebook kernel
    does not wake the loop of a cell that awaits, so a sleeping loop would notice an interrupt only at the end.
    """
    if _is_running(background_loop()):
        return await work
    with _kept_awake(asyncio.get_running_loop()):
        future = asyncio.wrap_future(submit(work, drain))
        try:
            await asyncio.wait([future])  # awaiting itself would close this coroutine if it raises ``GeneratorExit``
            return future.result()
        finally:
            future.cancel()  # as this was, if it has not ended
            restore_handler()


async def await_shielded(future: concurrent.futures.Future[T]) -> T:
    """Await a future without cancelling its work when the caller is cancelled."""
    with _kept_awake(asyncio.get_running_loop()):
        return await asyncio.shield(asyncio.wrap_future(future))


@contextmanager
def _kept_awake(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Wake ``loop`` every `WAKE_INTERVAL_S`."""
    timers: list[asyncio.TimerHandle] = []

    def wake() -> None:
        timers[:] = [loop.call_later(WAKE_INTERVAL_S, wake)]

    wake()
    try:
        yield
    finally:
        timers[0].cancel()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the caller runs on ``loop``."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def run_in_thread(function: Callable[..., T], *args: object) -> T:
    """Run a blocking function in a thread and await its result; whatever it raises is raised here.

    While the interpreter shuts down there are no threads left, and the function runs on the loop.
    """

    def run() -> T | _Exit:
        try:
            return function(*args)
        except GeneratorExit as error:
            return _Exit(error)

    try:
        result: Awaitable[T | _Exit] = asyncio.get_running_loop().run_in_executor(None, run)
    except RuntimeError:
        return function(*args)
    outcome = await result
    if isinstance(outcome, _Exit):
        raise outcome.error
    return outcome
