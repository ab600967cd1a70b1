"""A run's progress for a person: a line on a terminal, a bar in a notebook that leaves a plain summary behind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TextIO

from llmhub.engine.tally import Progress

Report = Callable[[Progress], None]
BAR: Final = 24


def reporter(wanted: bool | Report | None) -> Report | None:
    """Choose how to show progress.

    Parameters
    ----------
    wanted
        A function to tell; ``False`` for nothing; ``True`` for whatever fits where this runs; ``None`` for that too,
        but only where a person is likely to look: in a notebook or on a terminal.

    Notes
    -----
    Call it in the thread that runs the cell, so that the bar appears under that cell.
    """
    if callable(wanted):
        return wanted
    if wanted is False:
        return None
    if _in_notebook():
        return _notebook()
    return _Line(sys.stderr) if wanted or sys.stderr.isatty() else None


def line(progress: Progress) -> str:
    """Say how far a run is, in a line.

    Examples
    --------
    >>> line(Progress(total=200, done=50, cached=10, failed=1, in_flight=8, elapsed_s=2.0))
    '50/200 rows   25 %   10 cached   1 failed   25 rows/s   6 s left'
    """
    p = progress
    rate = p.done / p.elapsed_s if p.elapsed_s > 0 else 0.0
    facts = [f"{p.done:,}/{p.total:,} rows"]
    if p.finished and p.done < p.total:
        facts.append(f"{p.total - p.done:,} skipped")
    elif p.total:
        facts.append(f"{p.done / p.total:.0%}".replace("%", " %"))
    facts += [f"{p.cached:,} cached" if p.cached else "", f"{p.failed:,} failed" if p.failed else ""]
    facts.append(f"{rate:,.0f} rows/s" if rate >= 1 else f"{rate:.2f} rows/s")
    facts.append(_span(p.elapsed_s) if p.finished else f"{_span((p.total - p.done) / rate)} left" if rate else "")
    return "   ".join(fact for fact in facts if fact)


def _span(seconds: float) -> str:
    """Write a time for reading."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class _Line:
    """One line of a terminal, written over and over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        unfinished = progress.total and not progress.finished
        filled = round(BAR * progress.done / progress.total) if unfinished else BAR
        said = f"{'━' * filled}{'╌' * (BAR - filled)}  {line(progress)}"
        over = "\r" if self._stream.isatty() else ""
        if over or progress.finished:
            end = "\n" if progress.finished else ""
            self._stream.write(f"{over}{said.ljust(self._width)}{end}")
            self._stream.flush()
        self._width = len(said)


def _in_notebook() -> bool:
    """Say whether this is a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def _notebook() -> Report:
    """Show a bar under the cell; when the run ends, text takes its place, so that a saved notebook keeps it."""
    import IPython.display  # noqa: PLC0415 - only a notebook needs it
    import ipywidgets  # noqa: PLC0415 - as above

    show: Any = IPython.display

    bar = ipywidgets.IntProgress(value=0, max=1, layout=ipywidgets.Layout(width="16em"))
    said = ipywidgets.Label("")
    handle = show.display(ipywidgets.HBox([bar, said]), display_id=True)

    def report(progress: Progress) -> None:
        bar.max, bar.value = max(1, progress.total), progress.done
        bar.bar_style = "danger" if progress.failed else ""
        said.value = line(progress)
        if progress.finished:
            handle.update(show.HTML(f"<small>{line(progress)}</small>"))
            for widget in (bar, said):
                widget.close()

    return report
