"""What a person at a terminal sees and does: lines, progress, and the interrupt key."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmhub.engine.progress import Progress


def print_result(text: str) -> None:
    """Write a result."""
    sys.stdout.write(f"{text}\n")


def print_message(command: str, text: str) -> None:
    """Write a message that is no result; a line break before it leaves the line of the progress alone."""
    said = text.lstrip("\n")
    with suppress(BrokenPipeError):
        sys.stderr.write(f"{text[: len(text) - len(said)]}llmhub {command}: {said}\n")


def progress_callback(*, quiet: bool) -> bool | Callable[[Progress], None]:
    """Choose how a run shows how far it is; a terminal that is gone does not end the run."""
    from llmhub.progress.display import text_display  # noqa: PLC0415 - loads the engine

    if quiet:
        return False
    report = text_display(explicit=True).report

    def told(now: Progress) -> None:
        with suppress(OSError, ValueError):
            report(now)

    return told


@contextmanager
def announce_interrupt(command: str) -> Iterator[None]:
    """Say, when the interrupt key is pressed during a run, what happens now and what pressing it again does."""
    # Said a little later: whoever presses again at once would meet the run before it has heard the first.
    notice = threading.Timer(NOTICE_S, print_message, (command, NOTICE))
    notice.daemon = True

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if notice.ident is None:
            notice.start()
        signal.default_int_handler(signum, frame)

    try:
        with _interrupt_handler(interrupt):
            yield
    finally:
        notice.cancel()


NOTICE: Final = "\nstopping: nothing more is sent, what is under way may finish; once more cuts it off"
NOTICE_S: Final = 0.1


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Hold the interrupt key off while what is paid for is being written; what was pressed is forgotten."""
    with _interrupt_handler(signal.SIG_IGN):
        yield


@contextmanager
def _interrupt_handler(act: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Answer the interrupt key in a way of one's own, where it would raise ``KeyboardInterrupt`` else."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, act)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
