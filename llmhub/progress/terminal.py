"""Progress in characters: on a terminal one line that is written over, in a log a line now and then."""

from __future__ import annotations

import os
from typing import Final, TextIO

from llmhub.engine.progress import Progress
from llmhub.progress.text import progress_line

BAR: Final = 24


MIN_WIDTH_FOR_BAR: Final = 60
"""Columns from which on there is room for a bar."""


BAR_CHARS: Final = (("━", "╌"), ("#", "."))
"""What is done and what is not: as drawn where the stream can say it, or else in ASCII."""


DEFAULT_WIDTH: Final = 80


EXPLICIT_FIRST_S: Final = 10.0


DEFAULT_FIRST_S: Final = 30.0
"""When a log has its first line: asked for, and of itself."""


MAX_INTERVAL_S: Final = 600.0
"""Between two lines of a log, at most."""


class ProgressLine:
    """One line of a terminal, written over and over, never longer than the terminal is wide."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._signs = BAR_CHARS[not _can_encode(stream, "".join(BAR_CHARS[0]))]
        self._written = 0

    def __call__(self, progress: Progress) -> None:
        """Write how far it is."""
        # A terminal goes on to the next line when its last column is written.
        width = terminal_width(self._stream) - 1
        said = render_line(progress, width, self._signs)
        end = "\n" if progress.finished else ""
        self._stream.write(f"\r{said.ljust(min(self._written, width))}{end}")
        self._stream.flush()
        self._written = 0 if progress.finished else len(said)

    def close(self) -> None:
        """Leave the line, where the run ended without a word."""
        if self._written:
            self._stream.write("\n")
            self._stream.flush()


class ProgressLog:
    """A line now and then, ever more seldom."""

    def __init__(self, stream: TextIO, *, explicit: bool) -> None:
        self._stream = stream
        self._asked = explicit
        self._due_s = EXPLICIT_FIRST_S if explicit else DEFAULT_FIRST_S
        self._said = False

    def __call__(self, progress: Progress) -> None:
        """Write how far it is, if it is time to; the end too, if anything was written or asked for."""
        due = progress.elapsed_s >= self._due_s
        if not due and not (progress.finished and (self._asked or self._said)):
            return
        self._due_s = progress.elapsed_s + min(MAX_INTERVAL_S, max(EXPLICIT_FIRST_S, progress.elapsed_s / 2))
        self._said = True
        self._stream.write(f"llmhub: {progress_line(progress)}\n")
        self._stream.flush()


def render_line(progress: Progress, width: int, signs: tuple[str, str] = BAR_CHARS[0]) -> str:
    """Draw a bar, where there is room for one, and say as much as fits behind it.

    Examples
    --------
    >>> now = Progress(total=200, done=50, cached=10, failed=0, in_flight=8, elapsed_s=2.0, rows_per_s=25.0, remaining_s=6.0)
    >>> render_line(now, 70)
    '━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  50/200 rows   25 %   10 cached   6 s left'
    >>> render_line(now, 40)
    '50/200 rows   25 %   6 s left'
    """
    if width < MIN_WIDTH_FOR_BAR:
        return progress_line(progress, max(1, width))
    unfinished = progress.total and not progress.finished
    filled = BAR * progress.done // progress.total if unfinished else BAR
    bar = signs[0] * filled + signs[1] * (BAR - filled)
    return f"{bar}  {progress_line(progress, width - BAR - 2)}"


def terminal_width(stream: TextIO) -> int:
    """Ask how wide the terminal is now."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    except (OSError, ValueError):
        return DEFAULT_WIDTH


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
