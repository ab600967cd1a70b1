"""How far a run is, as a person sees it: on a terminal, in a file, in a notebook."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.engine.tally import Progress
from llmhub.observe.progress import line, reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at(done: int, total: int = 100, *, elapsed_s: float = 10.0, finished: bool = False, **more: int) -> Progress:
    counts = {"cached": 0, "failed": 0, "in_flight": 0, **more}
    return Progress(total=total, done=done, elapsed_s=elapsed_s, finished=finished, **counts)


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (at(50), "50/100 rows   50 %   5 rows/s   10 s left"),
        (at(50, cached=7, failed=2), "50/100 rows   50 %   7 cached   2 failed   5 rows/s   10 s left"),
        (at(0), "0/100 rows   0 %   0.00 rows/s"),
        (at(0, elapsed_s=0.0), "0/100 rows   0 %   0.00 rows/s"),
        (at(100, finished=True), "100/100 rows   100 %   10 rows/s   10 s"),
        (at(2000, 1_000_000), "2,000/1,000,000 rows   0 %   200 rows/s   1 h 23 min left"),
        (at(1, 2, elapsed_s=90.0), "1/2 rows   50 %   0.01 rows/s   1 min 30 s left"),
        (at(0, 0, finished=True, elapsed_s=0.001), "0/0 rows   0.00 rows/s   1 ms"),
    ],
)
def test_a_line_says_how_far_how_fast_and_how_long(progress: Progress, said: str) -> None:
    assert line(progress) == said


def test_rows_that_were_not_asked_are_named_at_the_end() -> None:
    assert line(at(90, finished=True)) == "90/100 rows   10 skipped   9 rows/s   10 s"


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1e7), st.booleans())
def test_any_progress_can_be_said(done: int, more: int, elapsed_s: float, finished: bool) -> None:
    said = line(at(done, done + more, elapsed_s=elapsed_s, finished=finished))
    assert said.startswith(f"{done:,}/{done + more:,} rows")
    assert "\n" not in said


# Where it is shown


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Put a terminal in the place of the error stream, once the test runs."""

    def put() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
        return terminal

    return put


def test_a_terminal_has_one_line_that_is_written_over(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    report = reporter(None)
    assert report is not None
    for progress in (at(50, cached=12), at(60), at(100, finished=True)):
        report(progress)
    first, *over = stderr.getvalue().split("\r")[1:]
    assert len(over) == 2
    assert "12 cached" in first
    assert stderr.getvalue().count("\n") == 1
    assert over[-1].rstrip(" \n").endswith("10 s")


def test_what_was_longer_is_wiped_out(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    report = reporter(True)
    assert report is not None
    report(at(50, cached=12, failed=3))
    report(at(60))
    long, short = stderr.getvalue().split("\r")[1:]
    assert len(short) >= len(long)


def test_the_bar_is_full_at_the_end_though_rows_were_not_asked(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    report = reporter(True)
    assert report is not None
    report(at(90, finished=True))
    assert "╌" not in stderr.getvalue()


def test_a_file_gets_the_last_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert reporter(None) is None
    report = reporter(True)
    assert report is not None
    report(at(50))
    report(at(100, finished=True))
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "\r" not in said
    assert (said.count("\n"), "100/100" in said, "50/100" in said) == (1, True, False)


def test_whoever_brings_a_function_is_told_and_nothing_is_shown(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    told: list[Progress] = []
    assert reporter(told.append) == told.append
    assert reporter(False) is None
    assert stderr.getvalue() == ""


def test_a_notebook_has_a_bar_that_leaves_its_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved notebook keeps text, but no widget's state."""
    shown: list[Any] = []
    closed: list[Any] = []

    class Widget:
        def __init__(self, *children: Any, **options: Any) -> None:
            self.children, self.value = children, options.get("value")

        def close(self) -> None:
            closed.append(self)

    handle = types.SimpleNamespace(update=shown.append)
    kernel = types.SimpleNamespace(kernel=object())
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: kernel  # type: ignore[attr-defined]
    display = types.ModuleType("IPython.display")
    display.HTML = lambda text: text  # type: ignore[attr-defined]
    display.display = lambda *_, **__: handle  # type: ignore[attr-defined]
    widgets = types.ModuleType("ipywidgets")
    for name in ("IntProgress", "Label", "HBox"):
        setattr(widgets, name, Widget)
    widgets.Layout = lambda **_: None  # type: ignore[attr-defined]
    ipython.display = display  # type: ignore[attr-defined]
    for module in (ipython, display, widgets):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    report = reporter(None)
    assert report is not None
    report(at(50))
    assert shown == []
    report(at(100, failed=1, finished=True))
    assert len(shown) == 1
    assert "100/100 rows" in shown[0]
    assert len(closed) == 2
