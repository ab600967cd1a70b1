"""The end of the process: wait for requests in flight, which are paid for, so that their responses are stored.

Work that stores its results is registered while it runs. At the end of the program, and at a termination signal, it is
asked to stop and awaited for a while. The handler of the signal is installed while registered work runs, and only in
place of the default, which it performs in the end.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llmhub.engine.event_loop import StopSignal

EXIT_DRAIN_S: Final = 62.0
"""Longest wait for work that was asked to stop; a run cancels what is in flight a little earlier."""
NOTICE_AFTER_S: Final = 2.0
"""Time after which a program that waits for its end says why."""
POLL_S: Final = 0.02
"""How often a signal handler looks whether work has ended; waiting on a lock that it interrupted would never end."""
MAX_SIGNALS: Final = 2
"""Termination signals that become stop requests; the next one ends the process."""


class _RunningWork:
    """The registered work of this process, and the state of the signal handler."""

    def __init__(self) -> None:
        self.stops: dict[concurrent.futures.Future[Any], StopSignal] = {}
        self.signals = 0
        self.has_handler = False
        self.at_exit = False

    def reset_after_fork(self) -> None:
        """Forget the work of the parent process; its handler would wait for it."""
        self.stops = {}
        self.signals = 0
        if self.has_handler:
            self.has_handler = False
            with suppress(ValueError):  # not in the main thread
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def request_stop(self) -> None:
        """Ask all work to stop; asked again, it cancels what is in flight."""
        for stop in tuple(self.stops.values()):
            stop.request()


_WORK: Final = _RunningWork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WORK.reset_after_fork)


def register_exit() -> None:
    """Wait for registered work when the program ends, before anything that was registered earlier is closed."""
    if not _WORK.at_exit:
        _WORK.at_exit = True
        atexit.register(_drain_at_exit)


def register_work(future: concurrent.futures.Future[Any], stop: StopSignal) -> None:
    """Register work until its future is done."""
    _WORK.stops[future] = stop
    future.add_done_callback(lambda done: _WORK.stops.pop(done, None))
    if not _WORK.has_handler and _is_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_terminate)
        _WORK.has_handler = True


def restore_handler() -> None:
    """Restore the default handler of the termination signal if no work is registered any more."""
    if _WORK.has_handler and _is_main_thread() and all(future.done() for future in tuple(_WORK.stops)):
        _WORK.has_handler = False
        if signal.getsignal(signal.SIGTERM) is _on_terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _drain_at_exit() -> None:
    """Wait for registered work. An interrupt cancels what is in flight."""
    futures = tuple(_WORK.stops)
    if not futures:
        return
    _WORK.request_stop()
    deadline = time.monotonic() + EXIT_DRAIN_S
    try:
        if concurrent.futures.wait(futures, timeout=NOTICE_AFTER_S).not_done:
            with suppress(OSError, ValueError, AttributeError):  # standard error may be closed, or absent
                print(  # noqa: T201 - the program has ended, and would seem to hang
                    "llmhub: waiting for requests in flight, to store their responses; Ctrl-C cancels them",
                    file=sys.stderr,
                    flush=True,
                )
            concurrent.futures.wait(futures, timeout=max(0.0, deadline - time.monotonic()))
    except KeyboardInterrupt:
        _WORK.request_stop()
        concurrent.futures.wait(futures, timeout=NOTICE_AFTER_S)


def _on_terminate(number: int, _frame: object) -> None:
    """Wait for registered work, then end the process as the default handler does."""
    _WORK.signals += 1
    if _WORK.signals <= MAX_SIGNALS:
        futures = tuple(_WORK.stops)
        _WORK.request_stop()
        if _WORK.signals > 1:
            return  # the handler of the first signal goes on, and ends the process
        deadline = time.monotonic() + EXIT_DRAIN_S
        while time.monotonic() < deadline and not all(future.done() for future in futures):
            time.sleep(POLL_S)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
