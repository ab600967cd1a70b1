"""What a person at a terminal sees and does: lines, progress, and the interrupt key."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmhub.engine.run import Progress


def say(text: str) -> None:
    """Write a result."""
    sys.stdout.write(f"{text}\n")


def complain(command: str, text: str) -> None:
    """Write a message that is no result."""
    with suppress(BrokenPipeError):
        sys.stderr.write(f"llmhub {command}: {text}\n")


def progress(*, quiet: bool) -> bool | Callable[[Progress], None]:
    """Choose how a run shows how far it is; a terminal that is gone does not end the run."""
    from llmhub.observe.progress import reporter  # noqa: PLC0415 - loads the engine

    report = None if quiet else reporter(True)
    if report is None:
        return False
    line = report

    def told(now: Progress) -> None:
        with suppress(OSError, ValueError):
            line(now)

    return told


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold the interrupt key off while what is paid for is being written; what was pressed is forgotten."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
