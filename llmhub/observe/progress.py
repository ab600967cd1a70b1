"""A run's progress for a person: a line on a terminal or in a log, in a notebook a panel that leaves a summary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from llmhub.engine.loop import Stop
from llmhub.engine.tally import Progress
from llmhub.observe.panel import Panel, hears_buttons, in_notebook
from llmhub.observe.terminal import Line, Log

Report = Callable[[Progress], None]


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Where progress is shown: ``report`` is told of it, ``close`` that the run is over, however it ended."""

    report: Report
    close: Callable[[], None] = _nothing


def shown(
    wanted: bool | Report | None, first: Progress, *, stop: Stop | None = None, aside: bool = False
) -> Shown | None:
    """Choose how to show progress.

    Parameters
    ----------
    wanted
        A function to tell; ``False`` for nothing; ``True`` for whatever fits where this runs; ``None`` for that too,
        but in a log only for a run that takes long.
    first
        How far the run is before it begins.
    stop
        Of a run that does not block its cell: its panel has a button that asks this, where the kernel hears it.
    aside
        Whether something else goes on at the same terminal meanwhile: a line is written there only if it is wanted.

    Notes
    -----
    Call it in the thread that runs the cell, so that the panel appears under that cell.
    """
    if callable(wanted):
        return Shown(wanted)
    if wanted is False:
        return None
    if in_notebook():
        panel = Panel(first, stop if hears_buttons() else None)
        return Shown(panel, panel.close)
    return None if aside and wanted is None else in_words(asked=wanted is True)


def in_words(*, asked: bool) -> Shown:
    """Show progress on the error stream, as it fits a terminal or a log."""
    if sys.stderr.isatty():
        line = Line(sys.stderr)
        return Shown(line, line.close)
    return Shown(Log(sys.stderr, asked=asked))
