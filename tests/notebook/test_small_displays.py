"""What notebooks show of answers, jobs, progress and comparisons: safe, once, and honest about its state."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

import llmhub
from llmhub.api import jobs
from llmhub.core.errors import BadRequestError
from llmhub.core.response_display import response_html
from llmhub.core.types import CompletionResponse, Logprobs, Text
from llmhub.engine.progress import ModelProgress, Progress, ProgressSink, ProgressTracker, RunSnapshot
from llmhub.evals import compare
from llmhub.formatting.html import NO_MATHJAX, markdown_block
from llmhub.notebook.magic import _llm_parser
from llmhub.progress.display import create_display
from llmhub.progress.html import progress_html
from llmhub.progress.widget import ProgressWidget
from llmhub.sim import Latency, Simulator, serving
from llmhub.tables.forecast import PredictionInterval
from llmhub.tables.plan_comparison import PlanCheck

MODEL = "openai/gpt-4o-mini"


# Markdown


def test_answers_are_rendered_as_markdown() -> None:
    html = markdown_block("# Title\n\n- **one**\n- `two`\n\n| a | b |\n| - | - |\n| 1 | 2 |")
    assert all(tag in html for tag in ("<h1>", "<li>", "<strong>", "<code>", "<table>"))
    assert NO_MATHJAX in html


@pytest.mark.parametrize(
    "attack",
    [
        "*a* <script>alert(1)</script>",
        "*a* <img src=x onerror=alert(1)>",
        "*a* ![x](https://evil.example/track.png)",
        "[x](javascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x) `<b onclick=x>`",
        "*a* \x1b]0;title\x07 \u202eevil",
        "<!-- --> *a* <iframe srcdoc='<script>'>",
    ],
)
def test_markdown_is_safe(attack: str) -> None:
    html = markdown_block(attack)
    assert not re.search(r"<(script|img|iframe|b|svg|style|object)\b", html)
    assert not re.search(r"href=\"(?!https?://)", html)
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_links_to_the_web_open_elsewhere() -> None:
    assert 'rel="noopener noreferrer nofollow" target="_blank" href="https://example.org"' in markdown_block(
        "[x](https://example.org)"
    )


def test_plain_text_keeps_its_lines() -> None:
    assert "one\ntwo" in markdown_block("one\ntwo")
    assert "5 characters more" in markdown_block("**bold**" + "x" * 7, 10)


def test_answer_with_log_probabilities_is_shown() -> None:
    parts = (Text("Hi **you**"), Logprobs('["Hi",-0.5,[]],'))
    html = response_html(CompletionResponse(parts=parts))
    assert "<strong>you</strong>" in html


# Comparisons


def test_costs_of_a_comparison_are_not_mathematics() -> None:
    rows = pd.DataFrame({"question": [f"q{n}" for n in range(4)], "target": ["a"] * 4})
    with serving(Simulator(respond=lambda _: "a")) as simulator:
        hub = llmhub.Hub(simulator=simulator.url)
        result = compare(rows, "{question}", model=[MODEL], scorers=[llmhub.scorers.exact()], hub=hub, progress=False)
        hub.close()
    assert "(simulated)" in result.plot().get_title(loc="left")
    assert "$" in str(result)
    assert r"\$" not in str(result)
    assert not re.search(r"(?<!\\)\$", result.to_markdown())
    html = result._repr_html_()
    outer = re.search(r'<div class="([^"]*)"', html)
    assert outer is not None
    assert set(NO_MATHJAX.split()) <= set(outer[1].split())


# Jobs and progress


def test_a_job_with_a_live_panel_is_not_shown_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "is_notebook", lambda: True)
    with serving(Simulator(latency=Latency(0.01))) as simulator, llmhub.Hub(simulator=simulator.url) as hub:
        options: dict[str, Any] = {"model": MODEL, "hub": hub, "progress": lambda _: None}
        job = llmhub.submit({"n": [1, 2]}, "Say {n}", **options)
        job._state.has_panel = True
        while not job.done:
            shown, _ = DisplayFormatter().format(job)
            assert shown == {} or job.done  # neither HTML nor text
        job.result()
        shown, _ = DisplayFormatter().format(job)
        assert "2/2" in shown["text/html"]


def test_an_ended_run_forecasts_nothing() -> None:
    running = Progress(
        total=10, done=3, cached=0, failed=0, in_flight=4, elapsed_s=2.0, remaining_s=21.0, limited_by="concurrency"
    )
    shown: list[str] = []
    panel = object.__new__(ProgressWidget)
    panel._latest, panel._closed, panel._box = running, False, None
    panel._html = str
    panel._handle = type("Handle", (), {"update": lambda _, html: shown.append(html)})()
    panel.close()
    (html,) = shown
    assert "ended early" in html
    assert "left" not in html
    assert "concurrency" not in html
    assert "3/10" in html


def test_remaining_time_is_that_of_the_slowest_model() -> None:
    """A model that is rate limited takes longer than the mean of all suggests."""
    sink = ProgressSink(lambda _: None, (), 1)
    tracker = ProgressTracker(200, sink)
    fast, slow = tracker._counters[0], replace(tracker._counters[0], total=100)
    fast.total = 100
    tracker._counters = [fast, slow]
    tracker._targets = ()
    tracker._model_history[0] = (0.0, [0, 0])
    for counters, done in ((fast, 80), (slow, 10)):
        counters.missing, counters.succeeded = 100, done
    progress = tracker.progress(RunSnapshot(10.0, in_flight=8, started=98, concurrency=8))
    assert progress.remaining_s == pytest.approx(90.0)


@pytest.mark.parametrize("value", ["tqdm", 1, object])
def test_progress_of_another_kind_is_refused(value: Any) -> None:
    initial = Progress(total=1, done=0, cached=0, failed=0, in_flight=0, elapsed_s=0.0)
    if callable(value):
        assert create_display(value, initial) is not None
        return
    with pytest.raises(BadRequestError, match="progress: must be True, False, None or a function"):
        create_display(value, initial)


def test_help_of_the_magic_names_it_as_it_is_typed() -> None:
    text = _llm_parser().format_help()
    assert "%%llm openai/gpt-4o-mini" in text
    assert "%%%" not in text


def test_progress_of_a_model_is_shown_as_html() -> None:
    models = (ModelProgress(model=MODEL, total=2, done=1),)
    progress = Progress(total=2, done=1, cached=0, failed=0, in_flight=1, elapsed_s=1.0, models=models)
    assert MODEL in progress_html(progress)


def test_what_is_printed_as_within_the_forecast_is_within() -> None:
    forecast = PredictionInterval(0.3, 5.0, 19.2)
    for actual, within in ((0.0, True), (19.4, True), (20.0, False), (5.0, True)):
        check = PlanCheck(model="", quantity="seconds", forecast=forecast, actual=actual)
        assert check.within_interval is within
