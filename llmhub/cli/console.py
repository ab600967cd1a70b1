"""Terminal input and output of the commands: results, messages, progress, and the interrupt key (Ctrl-C)."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from llmhub.core.errors import invalid
from llmhub.security.redaction import escape_controls

if TYPE_CHECKING:
    from llmhub.engine.progress import Progress

NOTICE: Final = "\nstopping: nothing more is sent, calls in flight may finish; press again to cancel them"
NOTICE_DELAY_S: Final = 0.1


def print_result(text: str) -> None:
    """Write a line to standard output; to a terminal, with control characters as escape sequences.

    Text of a provider may contain commands for a terminal. A file or another program gets the text as it is.
    """
    sys.stdout.write(f"{escape_controls(text) if sys.stdout.isatty() else text}\n")


def print_json(value: object) -> None:
    """Write a value as indented JSON to standard output; decimals are numbers, and unknown types text."""
    import msgspec  # noqa: PLC0415 - help needs no JSON

    encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=str)
    print_result(msgspec.json.format(encoder.encode(value), indent=2).decode())


def print_message(command: str, text: str) -> None:
    """Write a line to standard error, with the name of the command.

    A line break at the beginning of ``text`` is written first, so that a progress line is not overwritten.
    """
    message = text.lstrip("\n")
    with suppress(BrokenPipeError):
        sys.stderr.write(f"{text[: len(text) - len(message)]}llmhub {command}: {escape_controls(message)}\n")


def progress_callback(*, quiet: bool) -> bool | Callable[[Progress], None]:
    """Return the value of ``progress=`` for a run; a closed terminal does not end the run."""
    from llmhub.progress.display import text_display  # noqa: PLC0415 - imports the engine

    if quiet:
        return False
    report = text_display(explicit=True).report

    def report_safely(progress: Progress) -> None:
        with suppress(OSError, ValueError):
            report(progress)

    return report_safely


@contextmanager
def announce_interrupt(command: str) -> Iterator[None]:
    """Explain the effect of the interrupt key when it is pressed for the first time during a run."""
    # Delayed, because a second key press in the meantime must reach the run and not this handler's output.
    notice = threading.Timer(NOTICE_DELAY_S, print_message, (command, NOTICE))
    notice.daemon = True

    def handle(signum: int, frame: FrameType | None) -> None:
        if notice.ident is None:
            notice.start()
        signal.default_int_handler(signum, frame)

    try:
        with _interrupt_handler(handle):
            yield
    finally:
        notice.cancel()


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Ignore the interrupt key while results are written."""
    with _interrupt_handler(signal.SIG_IGN):
        yield


@contextmanager
def _interrupt_handler(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Handle SIGINT in the main thread, unless another handler than Python's default is installed."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    if not is_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def export_files(folder: Path, export: Callable[[Path], Iterable[Path]]) -> int:
    """Write files of the package to a folder, print their paths, and return the exit code.

    Raises
    ------
    BadRequestError
        The folder cannot be written to.
    """
    try:
        paths = export(folder)
    except OSError as error:
        raise invalid("DIR", f"cannot write to {str(folder)!r} ({error.strerror})") from error
    for path in paths:
        print_result(str(path))
    return 0
