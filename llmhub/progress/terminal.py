"""Progress of a run on a text stream: one line that is overwritten on a terminal, separate lines in a log."""

from __future__ import annotations

import os
from typing import Final, TextIO

from llmhub.engine.progress import Progress
from llmhub.progress.text import progress_line

BAR_WIDTH: Final = 24
"""Columns of the bar."""
MIN_WIDTH_FOR_BAR: Final = 60
"""Narrowest terminal, in columns, that gets a bar."""
BAR_CHARS: Final = (("━", "╌"), ("#", "."))
"""Characters for the done and the remaining part: box drawing, or ASCII where the stream cannot encode it."""
DEFAULT_WIDTH: Final = 80
"""Columns assumed if the width of the terminal is unknown."""
EXPLICIT_FIRST_S: Final = 10.0
"""Seconds before the first line of a log if progress was requested."""
DEFAULT_FIRST_S: Final = 30.0
"""Seconds before the first line of a log otherwise."""
MAX_INTERVAL_S: Final = 600.0
"""Longest time between two lines of a log, in seconds."""


class ProgressLine:
    """Show progress as one line of a terminal, overwritten by each report and never wider than the terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar_chars = BAR_CHARS[not _can_encode(stream, "".join(BAR_CHARS[0]))]
        self._written = 0

    def __call__(self, progress: Progress) -> None:
        """Overwrite the line; end it if the run is finished."""
        # Writing to the last column would move the cursor to the next line.
        width = terminal_width(self._stream) - 1
        line = render_line(progress, width, self._bar_chars)
        end = "\n" if progress.finished else ""
        self._stream.write(f"\r{line.ljust(min(self._written, width))}{end}")
        self._stream.flush()
        self._written = 0 if progress.finished else len(line)

    def close(self) -> None:
        """End the line if the run ended without a final report."""
        if self._written:
            self._stream.write("\n")
            self._stream.flush()


class ProgressLog:
    """Write progress lines to a log, at intervals that grow with the elapsed time.

    Parameters
    ----------
    stream
        Where to write.
    explicit
        Whether the user asked for progress: the first line comes earlier, and the last one always.
    """

    def __init__(self, stream: TextIO, *, explicit: bool) -> None:
        self._stream = stream
        self._explicit = explicit
        self._due_s = EXPLICIT_FIRST_S if explicit else DEFAULT_FIRST_S
        self._has_written = False

    def __call__(self, progress: Progress) -> None:
        """Write a line if one is due, or if the run is finished and its end is of interest."""
        due = progress.elapsed_s >= self._due_s
        if not due and not (progress.finished and (self._explicit or self._has_written)):
            return
        self._due_s = progress.elapsed_s + min(MAX_INTERVAL_S, max(EXPLICIT_FIRST_S, progress.elapsed_s / 2))
        self._has_written = True
        self._stream.write(f"llmhub: {progress_line(progress)}\n")
        self._stream.flush()


def render_line(progress: Progress, width: int, bar_chars: tuple[str, str] = BAR_CHARS[0]) -> str:
    """Return a bar, if the width allows one, followed by as many figures as fit.

    Examples
    --------
    >>> progress = Progress(
    ...     total=200, done=50, cached=10, failed=0, in_flight=8, elapsed_s=2.0, rows_per_s=25.0, remaining_s=6.0
    ... )
    >>> render_line(progress, 70)
    '━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  50/200 rows   25 %   10 cached   6 s left'
    >>> render_line(progress, 40)
    '50/200 rows   25 %   6 s left'
    """
    if width < MIN_WIDTH_FOR_BAR:
        return progress_line(progress, max(1, width))
    unfinished = progress.total and not progress.finished
    filled = BAR_WIDTH * progress.done // progress.total if unfinished else BAR_WIDTH
    bar = bar_chars[0] * filled + bar_chars[1] * (BAR_WIDTH - filled)
    return f"{bar}  {progress_line(progress, width - BAR_WIDTH - 2)}"


def terminal_width(stream: TextIO) -> int:
    """Return the current width of a terminal in columns."""
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
