"""One background thread owns one event loop per process; blocking calls wait for it interruptibly.

Notebook cells, scripts and threads all hand their work to this loop, so none of them needs a loop of its own
and connections outlive a call. A forked child makes its own.
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
from functools import partial
from typing import Any, Final, TypeVar

T = TypeVar("T")


MAX_INTERRUPTS: Final = 2
"""Interrupts that are wishes: to drain, and to cut off. One more is meant."""


SHUTDOWN_TIMEOUT_S: Final = 1.0
"""How long the end of the process waits for the loop to stop."""


WAKE_INTERVAL_S: Final = 0.1
"""Longest sleep of a loop that awaits us."""


WAIT_SLICE_S: Final = 0.5
"""Longest uninterruptible wait on platforms where a lock cannot be interrupted."""


class StopSignal:
    """A wish to stop, from any thread: the first `ask` drains, the second cuts off.

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
        """Ask, or ask again."""
        self.immediate = self.requested
        self.requested = True
        for listener in tuple(self._listeners):
            listener()

    def add_listener(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have ``listener`` called, in the asker's thread, at each `ask`; what it gives takes that back."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)


class _BackgroundLoop:
    """The process's loop and the lock around making it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.finalizer: weakref.finalize[[asyncio.AbstractEventLoop, threading.Thread], _BackgroundLoop] | None = None

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child, whose copy of the loop has no thread."""
        self.lock = threading.Lock()
        self.loop = None
        if self.finalizer is not None:
            self.finalizer.detach()


_BACKGROUND: Final = _BackgroundLoop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_BACKGROUND.reset_after_fork)


def background_loop() -> asyncio.AbstractEventLoop:
    """Give the process's loop, starting its thread at first use."""
    with _BACKGROUND.lock:
        if _BACKGROUND.loop is None or _BACKGROUND.loop.is_closed():
            loop = _new_loop()
            thread = threading.Thread(target=_serve, args=(loop,), name="llmhub-loop", daemon=True)
            thread.start()
            _BACKGROUND.loop = loop
            # Whatever a hub has to finish on the loop is registered later, and so comes before.
            _BACKGROUND.finalizer = weakref.finalize(_BACKGROUND, _end, loop, thread)
        return _BACKGROUND.loop


def _new_loop() -> asyncio.AbstractEventLoop:
    """Make a uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return asyncio.new_event_loop()
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return made


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=SHUTDOWN_TIMEOUT_S / 2))
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Stop the loop before Python ends: a timer of uvloop's that were due after that would bring the process down."""
    if thread.is_alive():
        with suppress(RuntimeError):  # it was closed just now
            loop.call_soon_threadsafe(loop.stop)
        thread.join(SHUTDOWN_TIMEOUT_S)


def submit(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Hand work to the background loop."""
    return asyncio.run_coroutine_threadsafe(work, background_loop())


def run_sync(work: Callable[[StopSignal], Coroutine[Any, Any, T]]) -> T:
    """Run ``work(stop)`` on the background loop and wait for it, interruptibly.

    The first ``KeyboardInterrupt`` asks ``stop`` and goes on waiting, so that ``work`` can drain what is in
    flight and give back what landed; the second asks again, the third gives up waiting.

    Examples
    --------
    >>> async def work(stop):
    ...     return 42
    >>> run_sync(work)
    42
    """
    stop = StopSignal()
    return wait_interruptibly(lambda: submit(work(stop)), stop)


def wait_interruptibly(
    begin: Callable[[], concurrent.futures.Future[T]], stop: StopSignal, timeout_s: float | None = None
) -> T:
    """Begin work that listens to ``stop``, or take up work that has begun, and wait for it as `run_sync` does.

    Raises
    ------
    TimeoutError
        It is not done within ``timeout_s``, and goes on.
    """
    if _inside(background_loop()):
        raise RuntimeError("a blocking call inside llmhub's own event loop would wait for itself; await the async form")
    until = None if timeout_s is None else time.monotonic() + timeout_s
    interrupts = 0
    with _heard(stop) as counted:
        future = begin()
        while True:
            try:
                return _wait(future, until)
            except KeyboardInterrupt:
                interrupts += 1
                if future.done():
                    raise
                if counted or interrupts > MAX_INTERRUPTS:
                    future.cancel()
                    raise
                stop.request()


@contextmanager
def _heard(stop: StopSignal) -> Iterator[bool]:
    """Take Ctrl-C as a wish to stop, where Python's own handler is in force; say whether it is.

    Two in quick succession are two wishes; an exception could be raised in the midst of handling the first. So where
    the wishes are counted here, an exception is one too many.
    """
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield False
        return
    pressed = 0

    def press(_number: int, _frame: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > MAX_INTERRUPTS:
            raise KeyboardInterrupt
        stop.request()

    signal.signal(signal.SIGINT, press)
    try:
        yield True
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait(future: concurrent.futures.Future[T], until: float | None) -> T:
    """Wait in short stretches, since on some platforms a lock cannot be interrupted."""
    while True:
        left = WAIT_SLICE_S if until is None else until - time.monotonic()
        try:
            return future.result(timeout=max(0.0, min(WAIT_SLICE_S, left)))
        except concurrent.futures.TimeoutError:
            if future.done():
                raise
            if left <= 0:
                raise TimeoutError("it is not done yet, and goes on") from None


async def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """Await work that runs on the background loop from whatever loop the caller has; cancellation reaches it.

    Notes
    -----
    Meanwhile the caller's loop is woken now and then: a notebook's kernel takes an interrupt of an awaiting cell with
    a signal handler that wakes nobody, so a loop that sleeps would hear of it only at the end.
    """
    if _inside(background_loop()):
        return await work
    with _wakeful(asyncio.get_running_loop()):
        return await asyncio.wrap_future(submit(work))


async def await_shielded(future: concurrent.futures.Future[T]) -> T:
    """Await what goes on whether or not somebody awaits it."""
    with _wakeful(asyncio.get_running_loop()):
        return await asyncio.shield(asyncio.wrap_future(future))


@contextmanager
def _wakeful(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let a loop sleep in short stretches only."""
    due: list[asyncio.TimerHandle] = []

    def wake() -> None:
        due[:] = [loop.call_later(WAKE_INTERVAL_S, wake)]

    wake()
    try:
        yield
    finally:
        due[0].cancel()


def _inside(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def run_in_thread(function: Callable[..., T], *args: object) -> T:
    """Run something that blocks beside the loop."""
    awaitable: Awaitable[T] = asyncio.get_running_loop().run_in_executor(None, lambda: function(*args))
    return await awaitable
