"""Common mistakes: the message says what was meant, and a traceback shows the user's own line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

import llmhub
from llmhub.core.errors import BadRequestError

MODEL = "openai/gpt-4o-mini"
FRAME = pd.DataFrame({"text": ["a", "b"]})


@pytest.fixture(autouse=True)
def simulation() -> Iterator[llmhub.api.Simulation]:
    with llmhub.simulate() as open_simulation:
        yield open_simulation
        assert not open_simulation.counts()["requests"]


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("max_completion_tokens", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("topP", "top_p"),
        ("tempature", "temperature"),
        ("response_format", "schema"),
        ("system_prompt", "system"),
        ("image", "images"),
        ("max_workers", "concurrency"),
        ("budget", "budget_usd"),
        ("few_shot", "examples"),
    ],
)
def test_options_of_other_libraries_are_recognised(option: str, meant: str) -> None:
    given: Any = {option: 1}
    for call in (llmhub.complete_table, llmhub.plan, llmhub.submit):
        with pytest.raises(BadRequestError, match=rf"^{option}: no such option; did you mean {meant}\?$"):
            call(FRAME, "{text}", model=MODEL, **given)


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("max_retries", "Hub(retry=llmhub.Retry("),
        ("timeout", "Hub(timeout=llmhub.Timeout("),
        ("api_key", "Endpoint(api_key="),
        ("rpm", "Hub(limits="),
    ],
)
def test_options_that_are_set_elsewhere_say_where(option: str, remedy: str) -> None:
    given: Any = {option: 1}
    with pytest.raises(BadRequestError) as raised:
        llmhub.complete("hi", model=MODEL, **given)
    assert remedy in str(raised.value)


def test_models_and_labels_of_complete_are_recognised() -> None:
    given: Any = {"models": [MODEL]}
    for call in (FRAME.llm.complete, FRAME.llm.submit, FRAME.llm.plan):
        with pytest.raises(BadRequestError, match=r"^models: no such option; did you mean model\?$"):
            call("{text}", **given)
    with pytest.raises(BadRequestError, match=r"^model: "):
        llmhub.complete_table(FRAME, "{text}")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
        ("gemini-2.0-flash", "google/gemini-2.0-flash"),
        ("mistral-large-latest", "mistral/mistral-large-latest"),
        ("deepseek-chat", "deepseek/deepseek-chat"),
        ("openai:gpt-4o", "openai/gpt-4o"),
        ("gemini:gemini-2.0-flash", "google/gemini-2.0-flash"),
        ("gemini/gemini-2.0-flash", "google/gemini-2.0-flash"),
        ("vertex_ai/gemini-2.0-flash", "vertex/gemini-2.0-flash"),
        ("together_ai/llama-3", "together/llama-3"),
    ],
)
def test_names_of_models_are_completed(model: str, meant: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        llmhub.complete("hi", model=model)
    assert repr(meant) in str(raised.value)


@pytest.mark.parametrize("prompt", ['Answer as {"label": "x"}: {text}', "{'a': {text}}", '{\n "a": 1}'])
def test_json_in_a_template_asks_for_doubled_braces(prompt: str) -> None:
    with pytest.raises(BadRequestError, match="double the braces"):
        llmhub.complete_table(FRAME, prompt, model=MODEL)


def test_a_template_of_a_series_names_no_column() -> None:
    with pytest.raises(BadRequestError, match=r"\{text\} names a column, but a Series has one value.*write \{\}"):
        FRAME.text.llm.complete("Summarise {text}", model=MODEL)


def test_a_template_without_a_column_warns() -> None:
    with pytest.warns(UserWarning, match="names no column, so all 2 rows send the same request"):
        llmhub.plan(FRAME, "Summarise.", model=MODEL)


def test_a_simulation_takes_no_model() -> None:
    model: Any = MODEL
    with pytest.raises(BadRequestError, match=r"^simulator: 'openai/gpt-4o-mini' is no Simulator; .* call simulate"):
        llmhub.simulate(model)


def test_a_comparison_takes_its_rows_first() -> None:
    with pytest.raises(BadRequestError, match=r"^frame: 'Say \{text\}' is a text, not rows; .*compare\(frame, "):
        llmhub.compare("Say {text}", model=MODEL, scorers=llmhub.scorers.exact("text"))


def test_progress_of_another_kind_is_refused() -> None:
    given: Any = {"progress": "tqdm"}
    with pytest.raises(BadRequestError, match=r"^progress: must be True, False or a function"):
        llmhub.complete_table(FRAME, "{text}", model=MODEL, **given)


def test_a_cell_shows_the_message_and_the_users_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell.instance()
    shell.user_ns.update(df=FRAME)
    run_cell: Any = shell.run_cell
    run_cell('answers = df.llm.complete("S {txt}", model="openai/gpt-4o-mini")')
    shown = capsys.readouterr()
    lines = (shown.out + shown.err).strip().splitlines()
    assert len(lines) <= 5
    assert 'answers = df.llm.complete("S {txt}"' in "\n".join(lines)
    assert lines[-1].startswith("BadRequestError: prompt: 'txt' is not a column of the frame. Did you mean 'text'?")


@pytest.mark.parametrize(
    "call",
    [
        'df.llm.complete("S {txt}", model=M)',
        'df.llm.complete("{text:d}", model=M)',
        'df.llm.complete("{text", model=M)',
        'llmhub.complete("S", model="gpt-4o")',
        'asyncio.run(llmhub.acomplete("S", model="gpt-4o"))',
    ],
)
def test_a_script_shows_few_frames_and_one_exception(call: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, llmhub, pandas as pd\nM = 'openai/gpt-4o-mini'\ndf = pd.DataFrame({'text': ['a']})\n"
        f"llmhub.simulate()\n{call}\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stderr.count("Traceback") == 1
    assert "another exception" not in done.stderr
    assert call in done.stderr
    assert done.stderr.count("llmhub/") <= 3
