"""A run's progress for a person: a line on a terminal or in a log, in a notebook a panel that leaves a summary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from llmhub.engine.event_loop import StopSignal
from llmhub.engine.progress import Progress
from llmhub.progress.terminal import ProgressLine, ProgressLog
from llmhub.progress.widget import ProgressWidget, is_notebook, supports_live_buttons

ProgressCallback = Callable[[Progress], None]


def _no_op() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class ProgressDisplay:
    """Where progress is shown: ``report`` is told of it, ``close`` that the run is over, however it ended."""

    report: ProgressCallback
    close: Callable[[], None] = _no_op


def create_display(
    progress: bool | ProgressCallback | None,
    initial: Progress,
    *,
    stop: StopSignal | None = None,
    background: bool = False,
) -> ProgressDisplay | None:
    """Choose how to show progress.

    Parameters
    ----------
    progress
        A function to tell; ``False`` for nothing; ``True`` for whatever fits where this runs; ``None`` for that too,
        but in a log only for a run that takes long.
    initial
        How far the run is before it begins.
    stop
        Of a run that does not block its cell: its panel has a button that asks this, where the kernel hears it.
    background
        Whether something else goes on at the same terminal meanwhile: a line is written there only if it is wanted.

    Notes
    -----
    Call it in the thread that runs the cell, so that the panel appears under that cell.
    """
    if callable(progress):
        return ProgressDisplay(progress)
    if progress is False:
        return None
    if is_notebook():
        panel = ProgressWidget(initial, stop if supports_live_buttons() else None)
        return ProgressDisplay(panel, panel.close)
    return None if background and progress is None else text_display(explicit=progress is True)


def text_display(*, explicit: bool) -> ProgressDisplay:
    """Show progress on the error stream, as it fits a terminal or a log."""
    if sys.stderr.isatty():
        line = ProgressLine(sys.stderr)
        return ProgressDisplay(line, line.close)
    return ProgressDisplay(ProgressLog(sys.stderr, explicit=explicit))
