"""Progress of a run: text, terminal, log, HTML and notebook widget."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import threading
import types
from collections.abc import Callable
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.engine.event_loop import StopSignal
from llmhub.engine.progress import ModelProgress, Progress
from llmhub.progress.display import ProgressCallback, create_display
from llmhub.progress.html import MAX_MODELS, progress_html
from llmhub.progress.terminal import ProgressLog, render_line, terminal_width
from llmhub.progress.text import progress_line
from llmhub.progress.widget import ProgressWidget


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def at(done: int, total: int = 100, *, elapsed_s: float = 10.0, **more: Any) -> Progress:
    pace: dict[str, Any] = {"rows_per_s": 5.0, "remaining_s": None if more.get("finished") else 10.0}
    counts: dict[str, Any] = {"cached": 0, "failed": 0, "in_flight": 0}
    return Progress(total=total, done=done, elapsed_s=elapsed_s, **{**counts, **pace, **more})


MODEL = ModelProgress(
    model="openai/gpt-4o-mini",
    total=100,
    done=50,
    cached=20,
    failed=5,
    input_tokens=12_345,
    output_tokens=678,
    spent_usd=Decimal("0.0123"),
    forecast_usd=Decimal("0.0246"),
)


models = st.builds(
    ModelProgress,
    model=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30),
    total=st.just(1000),
    done=st.integers(600, 1000),
    cached=st.integers(0, 300),
    failed=st.integers(0, 300),
    unanswered=st.integers(0, 5),
    input_tokens=st.integers(0, 10**12),
    output_tokens=st.integers(0, 10**12),
    spent_usd=st.none() | st.decimals(0, 10**6, places=9),
    forecast_usd=st.none() | st.decimals(0, 10**6, places=9),
)


progresses = st.builds(
    Progress,
    total=st.integers(1000, 10**9),
    done=st.integers(0, 1000),
    cached=st.integers(0, 10**9),
    failed=st.integers(0, 10**9),
    in_flight=st.integers(0, 10**4),
    elapsed_s=st.floats(0, 1e7),
    finished=st.booleans(),
    stopping=st.booleans(),
    rows_per_s=st.floats(0, 1e7),
    remaining_s=st.none() | st.floats(0, 1e9),
    limited_by=st.sampled_from(["", "concurrency", "rate limit"]),
    refused_by=st.sampled_from(["", "openai: no credit left (429)"]),
    models=st.lists(models, max_size=3).map(tuple),
)


# Text


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (at(50), "50/100 rows   50 %   5 rows/s   10 s left"),
        (at(50, cached=7, failed=2), "50/100 rows   50 %   7 cached   2 failed   5 rows/s   10 s left"),
        (at(0, rows_per_s=0.0, remaining_s=None), "0/100 rows   0 %   0 rows/s"),
        (at(100, finished=True, rows_per_s=10.0), "100/100 rows   100 %   10 rows/s   10 s"),
        (at(90, finished=True, rows_per_s=9.0), "90/100 rows   10 skipped   9 rows/s   10 s"),
        (at(999, 1000, rows_per_s=0.012), "999/1,000 rows   99 %   0.012 rows/s   10 s left"),
        (at(0, 0, finished=True, elapsed_s=0.001, rows_per_s=0.0), "0/0 rows   100 %   0 rows/s   1 ms"),
        (at(50, limited_by="concurrency"), "50/100 rows   50 %   5 rows/s   10 s left   limit: concurrency"),
        (
            at(50, refused_by="openai: no credit (429)"),
            "50/100 rows   50 %   5 rows/s   10 s left   refused: openai: no credit (429)",
        ),
        (at(50, stopping=True), "stopping   50/100 rows   50 %   5 rows/s   10 s left"),
        (
            at(50, models=(MODEL,)),
            "50/100 rows   50 %   5 rows/s   10 s left   12.3 k tokens in, 678 out   0.012 of about 0.025 USD",
        ),
        (
            at(
                40,
                finished=True,
                stopping=True,
                models=(ModelProgress(model="p/m", total=100, done=40, unanswered=55, interrupted=4),),
            ),
            "40/100 rows   5 skipped   4 interrupted, 51 not sent   5 rows/s   10 s",
        ),
    ],
)
def test_progress_line(progress: Progress, line: str) -> None:
    assert progress_line(progress) == line


@given(progresses, st.integers(1, 200))
def test_progress_line_fits_any_width(progress: Progress, width: int) -> None:
    line = progress_line(progress, width)
    assert len(line) <= width
    assert "\n" not in line
    assert f"{progress.done:,}/{progress.total:,} rows".startswith(line[:4]) or progress.stopping
    assert len(render_line(progress, width)) <= width


@given(progresses)
def test_row_counts_are_dropped_last(progress: Progress) -> None:
    """A narrower line has no items that a wider line lacks."""
    for width in range(30, 150, 7):
        line = progress_line(progress, width)
        assert f"{progress.done:,}/{progress.total:,} rows" in line
        assert set(re.split(r" {3}", line)) <= set(re.split(r" {3}", progress_line(progress, width + 7)))


# Terminal and log


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Return a function that replaces standard error by a terminal."""

    def put() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.delitem(sys.modules, "IPython", raising=False)
        return terminal

    return put


def report_of(progress: bool | None) -> ProgressCallback:
    """Return the report function of a display."""
    show = create_display(progress, at(0))
    assert show is not None
    return show.report


def test_terminal_line_is_overwritten(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    report = report_of(None)
    for progress in (at(50, cached=12), at(60), at(100, finished=True)):
        report(progress)
    first, *over = stderr.getvalue().split("\r")[1:]
    assert len(over) == 2
    assert "12 cached" in first
    assert stderr.getvalue().count("\n") == 1
    assert over[-1].rstrip(" \n").endswith("10 s")


@given(st.lists(progresses, max_size=5), st.integers(20, 120))
def test_longer_lines_are_erased_and_lines_never_wrap(steps: list[Progress], width: int) -> None:
    """As a terminal interprets it: a carriage return moves to the beginning of the line."""
    with pytest.MonkeyPatch.context() as patch:
        terminal = Terminal()
        patch.setattr(sys, "stderr", terminal)
        patch.delitem(sys.modules, "IPython", raising=False)
        patch.setattr("llmhub.progress.terminal.terminal_width", lambda _: width)
        report = report_of(True)
        for progress in steps:
            terminal.seek(0)
            terminal.truncate()
            report(progress)
            row = terminal.getvalue().removesuffix("\n")
            assert row.count("\r") == 1
            assert len(row) - 1 <= width - 1
            assert row[1:].rstrip() == render_line(progress, width - 1).rstrip()


def test_bar_is_full_at_the_end_with_unsent_rows(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    report_of(True)(at(90, finished=True))
    assert "╌" not in stderr.getvalue()


def test_ascii_terminal_gets_ascii_bar(on_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    stderr = on_terminal()
    report_of(True)(at(50))
    assert stderr.getvalue().startswith("\r############............  50/100")


def test_aborted_run_ends_its_line(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    show = create_display(True, at(0))
    assert show is not None
    show.report(at(50))
    show.close()
    show.close()
    assert stderr.getvalue().count("\n") >= 1
    report_of(True)(at(100, finished=True))
    assert "\n\r" in stderr.getvalue()


def test_terminal_width() -> None:
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    leader, follower = os.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 57, 0, 0))
        with os.fdopen(follower, "w", encoding="utf-8") as stream:
            assert terminal_width(stream) == 57
    finally:
        os.close(leader)
    assert terminal_width(io.StringIO()) == 80


def lines_of(log: ProgressLog, stream: io.StringIO, ends_s: float) -> list[str]:
    """Report every second until ``ends_s``, and return the lines."""
    for second in range(1, int(ends_s)):
        log(at(second, 10_000, elapsed_s=float(second)))
    log(at(int(ends_s), 10_000, elapsed_s=ends_s, finished=True))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("explicit", "ends_s", "count"), [(True, 5, 1), (False, 5, 0), (False, 29, 0), (False, 31, 2), (True, 3600, 17)]
)
def test_log_interval_grows(explicit: bool, ends_s: float, count: int) -> None:
    stream = io.StringIO()
    line = lines_of(ProgressLog(stream, explicit=explicit), stream, ends_s)
    assert len(line) == count
    assert all(text.startswith("llmhub: ") and "\r" not in text for text in line)
    assert not line or f"{int(ends_s):,}/10,000" in line[-1]


def test_file_gets_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    report_of(True)(at(100, finished=True))
    report_of(None)(at(100, finished=True))
    assert sys.stderr.getvalue() == "llmhub: 100/100 rows   100 %   5 rows/s   10 s\n"  # type: ignore[attr-defined]


def test_progress_function_replaces_the_display(on_terminal: Callable[[], Terminal]) -> None:
    stderr = on_terminal()
    reports: list[Progress] = []
    show = create_display(reports.append, at(0))
    assert show is not None
    show.report(at(50))
    show.close()
    assert reports == [at(50)]
    assert create_display(False, at(0)) is None
    assert stderr.getvalue() == ""


# HTML


class Reader(HTMLParser):
    """Parser that collects text and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.depth += 1
        assert {name for name, _ in attrs} <= {"style", "title"}
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@given(progresses)
def test_model_names_are_escaped(progress: Progress) -> None:
    reader = read(progress_html(progress))
    assert set(reader.tags) <= {"div", "span"}
    assert reader.depth == 0
    for model in progress.models:
        assert model.model in "".join(reader.texts)


def test_bar_segments() -> None:
    html = progress_html(at(50, models=(MODEL,)))
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", html)]
    assert widths == [25.0, 20.0, 5.0]
    line = ["openai/gpt-4o-mini", "50/100", "25 answered", "20 cached", "5 failed · 0.012 of about 0.025 USD"]
    assert [text.strip() for text in read(html).texts[:5]] == line


def test_models_have_own_colors_and_failures_the_text_color() -> None:
    html = progress_html(at(50, models=(MODEL, MODEL)))
    grounds = re.findall(r"%;background-color:([^;\"]+)", html)
    assert grounds == ["#0072B2", "#0072B2", "currentColor", "#D55E00", "#D55E00", "currentColor"]


@given(progresses)
def test_no_text_or_background_color_and_no_dollar_sign(progress: Progress) -> None:
    """Text and background have the colours of the theme, and no dollar sign starts mathematics."""
    html = progress_html(progress)
    assert not re.search(r"(?<![-\w])(?:color|background):", html)
    assert not re.search(r"background-color:(?:#fff|#000|white|black)", html, re.IGNORECASE)
    assert "$" not in progress_html(at(5, models=(MODEL,)))


def test_number_of_models_is_limited() -> None:
    html = progress_html(at(50, models=(MODEL,) * (MAX_MODELS + 3)))
    assert html.count("openai/gpt-4o-mini") == 2 * MAX_MODELS
    assert "and 3 models more" in html


# Notebook


class Notebook:
    """Fake of IPython and ipywidgets that records what is displayed."""

    def __init__(self, patch: pytest.MonkeyPatch, version: tuple[int, ...] = (7, 4, 0)) -> None:
        self.outputs: list[Any] = []
        self.widgets: list[Any] = []
        self.closed: list[Any] = []
        notebook = self

        class Widget:
            def __init__(self, value: Any = None, **options: Any) -> None:
                self.value, self.children, self.model_id = value, tuple(value) if type(value) is list else (), "m1"
                self.description = options.get("description", "")
                self.layout = types.SimpleNamespace(close=lambda: None)
                self.clicks: list[Callable[[Any], None]] = []
                notebook.widgets.append(self)

            def on_click(self, act: Callable[[Any], None]) -> None:
                self.clicks.append(act)

            def close(self) -> None:
                notebook.closed.append(self)

        def show(output: Any, **_: Any) -> Any:
            self.outputs.append(output)
            return types.SimpleNamespace(update=lambda output, **_: self.outputs.append(output))

        self.Widget = Widget
        modules = {
            "IPython": {"get_ipython": lambda: types.SimpleNamespace(kernel=object())},
            "IPython.display": {"HTML": lambda text: text, "display": show},
            "ipywidgets": {"HTML": Widget, "VBox": Widget, "Button": Widget, "Layout": lambda **_: None},
            "ipykernel": {"version_info": version},
        }
        for name, parts in modules.items():
            module = types.ModuleType(name)
            for part, value in parts.items():
                setattr(module, part, value)
            patch.setitem(sys.modules, name, module)
        patch.setattr(sys.modules["IPython"], "display", sys.modules["IPython.display"], raising=False)

    @property
    def buttons(self) -> list[Any]:
        return [widget for widget in self.widgets if widget.clicks]


def test_widget_updates_and_leaves_static_html(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    show = create_display(None, at(0, models=(MODEL,)))
    assert show is not None
    assert notebook.widgets == []
    show.report(at(50, models=(MODEL,)))
    show.report(at(60, models=(MODEL,)))
    first, live = notebook.outputs
    assert "0/100 rows" in first
    assert "application/vnd.jupyter.widget-view+json" in live
    assert "50/100 rows" in live["text/html"]
    text, box = notebook.widgets
    assert "60/100 rows" in text.value
    show.report(at(100, finished=True, models=(MODEL,)))
    show.close()
    assert len(notebook.outputs) == 3
    assert "100/100 rows" in notebook.outputs[-1]
    assert notebook.closed == [text, box]


def test_short_run_creates_no_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    report_of(None)(at(100, finished=True))
    assert notebook.widgets == []
    assert "100/100" in notebook.outputs[-1]


def test_aborted_run_closes_its_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    show = create_display(None, at(0))
    assert show is not None
    show.report(at(50))
    show.close()
    show.report(at(60))
    assert "ended early" in notebook.outputs[-1]
    assert "50/100 rows" in notebook.outputs[-1]
    assert len(notebook.closed) == 2


@pytest.mark.parametrize(("version", "stoppable", "count"), [((7, 0), True, 1), ((6, 31), True, 0), ((7, 4), False, 0)])
def test_button_only_in_kernels_that_support_it(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], stoppable: bool, count: int
) -> None:
    """No button for blocking cells, or in kernels that handle no clicks while a cell runs."""
    notebook = Notebook(monkeypatch, version)
    show = create_display(None, at(0), stop=StopSignal() if stoppable else None)
    assert show is not None
    show.report(at(50))
    assert len(notebook.buttons) == count


def test_button_stops_and_then_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, stop = Notebook(monkeypatch), StopSignal()
    show = create_display(None, at(0), stop=stop)
    assert show is not None
    show.report(at(50))
    (button,) = notebook.buttons
    assert button.description == "Stop"
    button.clicks[0](button)
    assert (stop.requested, stop.immediate) == (True, False)
    assert button.description == "Stop"
    show.report(at(50, stopping=True))
    assert button.description == "Cancel"
    button.clicks[0](button)
    assert stop.immediate


def test_run_does_not_wait_for_ipywidgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until ipywidgets is imported, the display is static HTML."""
    notebook = Notebook(monkeypatch)
    widgets = sys.modules["ipywidgets"]
    monkeypatch.delitem(sys.modules, "ipywidgets")
    go, loaded = threading.Event(), threading.Event()

    def load(panel: ProgressWidget) -> None:
        assert go.wait(10)
        monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
        panel._loaded.set()
        loaded.set()

    monkeypatch.setattr(ProgressWidget, "_load_ipywidgets", load)
    panel = ProgressWidget(at(0))
    panel(at(10))
    assert notebook.widgets == []
    go.set()
    assert loaded.wait(10)
    panel(at(20))
    assert len(notebook.widgets) == 2
