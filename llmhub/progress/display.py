"""Choice of a progress display: a line on a terminal, a log, or a widget in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from llmhub.core.errors import invalid
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.progress import Progress
from llmhub.progress.terminal import ProgressLine, ProgressLog
from llmhub.progress.widget import ProgressWidget, is_notebook, supports_live_buttons

ProgressCallback: TypeAlias = Callable[[Progress], None]
"""A function that is called with the progress of a run, a few times a second."""


def _no_op() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class ProgressDisplay:
    """A display: ``report`` shows a state, ``close`` ends the display however the run ended.

    For ``interim`` see `llmhub.engine.progress.ProgressSink`.
    """

    report: ProgressCallback
    close: Callable[[], None] = _no_op
    interim: bool = False


def create_display(
    progress: bool | ProgressCallback | None,
    initial: Progress,
    *,
    stop: StopSignal | None = None,
    background: bool = False,
) -> ProgressDisplay | None:
    """Return the display for a run, or ``None`` for no display.

    Call it in the thread that executes the notebook cell, so that a widget appears below that cell.

    Parameters
    ----------
    progress
        A function to call instead; ``False`` for no display; ``True`` for the one that fits the environment; ``None``
        for the same, except that a short run writes nothing to a log.
    initial
        The state before the run begins.
    stop
        Stop signal of a run that does not block its cell. The widget gets a button that sets it, in kernels that
        process button clicks while a cell is awaited.
    background
        Whether other code may write to the terminal meanwhile: nothing is written there unless ``progress`` is true.
    """
    if callable(progress):
        return ProgressDisplay(progress)
    if progress is not None and not isinstance(progress, bool):
        raise invalid("progress", f"must be True, False, None or a function, not {progress!r:.80}")
    if progress is False:
        return None
    if is_notebook():
        widget = ProgressWidget(initial, stop if supports_live_buttons() else None)
        return ProgressDisplay(widget, widget.close)
    return None if background and progress is None else text_display(explicit=progress is True)


def text_display(*, explicit: bool) -> ProgressDisplay:
    """Return a display on standard error: a line if that is a terminal, a log otherwise."""
    if sys.stderr.isatty():
        line = ProgressLine(sys.stderr)
        return ProgressDisplay(line, line.close)
    return ProgressDisplay(ProgressLog(sys.stderr, explicit=explicit))
