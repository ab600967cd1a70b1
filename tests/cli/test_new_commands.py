"""Commands as users of other command lines expect them: help, one prompt, structured output, scores, datasets, JSON."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import parquet

from llmhub.cli import main
from llmhub.cli.arguments import CACHE_ACTIONS, COMMANDS, build_parser, color_help
from llmhub.cli.color import shows_color
from llmhub.sim import Simulator, SimulatorThread, serving
from llmhub.sim.__main__ import FAULT_HELP
from llmhub.sim.faults import FAULT_BY_FIELD

Shell = Any
MODEL = "openai/gpt-4o-mini"
OTHER = "anthropic/claude-haiku-4-5"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.csv"
    frame = pd.DataFrame({"question": [f"What is {n} plus 1?" for n in range(10)], "answer": range(1, 11)})
    frame.to_csv(path, index=False)
    return path


def _sum(prompt: str) -> str:
    """Answer correctly, except for multiples of 5."""
    number = int(re.findall(r"is (\d+) plus", prompt)[-1])
    return str(number + (2 if number % 5 == 0 else 1))


@pytest.fixture
def adder() -> Any:
    with serving(Simulator(respond=_sum)) as simulator:
        yield simulator


# Help


def test_no_command_shows_help(shell: Shell) -> None:
    result = shell()
    assert result.code == 0
    assert "COMMAND" in result.out
    assert all(name in result.out for name in COMMANDS)


def test_every_action_of_the_cache_has_help_of_its_own(shell: Shell) -> None:
    bare = shell("cache")
    assert bare.code == 0
    assert all(name in bare.out for name in CACHE_ACTIONS)
    texts = {shell("cache", name, "-h").out for name in CACHE_ACTIONS}
    assert len(texts) == len(CACHE_ACTIONS)
    assert "--limit" in shell("cache", "ls", "-h").out
    assert "--limit" not in shell("cache", "stats", "-h").out


def test_options_of_the_cache_before_and_after_the_action(shell: Shell) -> None:
    assert shell("cache", "--cache", "a.db", "stats").out == "a.db: does not exist yet\n"
    assert shell("cache", "stats", "--cache", "a.db").out == "a.db: does not exist yet\n"


def test_every_option_has_help() -> None:
    missing = []
    parsers = [("", build_parser())]
    for name, parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += [(f"{name} {key}".strip(), value) for key, value in action.choices.items()]
            elif not action.help and action.dest != "model":
                missing.append(f"{name} {action.dest}")
    assert missing == []


def test_faults_of_the_simulator_have_help() -> None:
    assert set(FAULT_HELP) == set(FAULT_BY_FIELD)


def test_help_is_colored_on_terminals_only(environ: pytest.MonkeyPatch, shell: Shell) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        environ.delenv(name, raising=False)
    environ.setenv("TERM", "xterm")
    assert shows_color(is_terminal=True)
    assert not shows_color(is_terminal=False)
    assert "\x1b" not in shell("-h").out
    environ.setenv("FORCE_COLOR", "1")
    assert "\x1b[1moptions:\x1b[0m" in shell("-h").out
    environ.setenv("NO_COLOR", "1")
    assert not shows_color(is_terminal=True)
    assert "\x1b" not in shell("-h").out


def test_colors_leave_the_text_as_it_is(shell: Shell) -> None:
    text = shell("run", "-h").out
    assert re.sub(r"\x1b\[\d+m", "", color_help(text)) == text


def test_help_imports_little() -> None:
    """Help must be there at once; frames, HTTP and plots take longer to import than all of it."""
    code = (
        "import sys; from llmhub.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'pandas', 'pyarrow', 'numpy', 'aiohttp', 'matplotlib', 'shtab', 'llmhub.config'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["bash", "zsh", "tcsh"])
def test_completion_scripts(shell: Shell, name: str) -> None:
    result = shell("completion", name)
    assert result.code == 0
    assert "llmhub" in result.out
    assert name == "tcsh" or "--fail-under" in result.out


# One prompt


def test_one_prompt(shell: Shell, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    result = shell("complete", "Say hi", "-m", MODEL, "--simulator", simulator.url)
    assert result.code == 0
    assert len(result.out.strip()) > 3


def test_prompt_from_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Simulator(respond=lambda prompt: f"<{prompt}>")) as simulator:
        for argument in ([], ["-"], ["Shorten:"]):
            monkeypatch.setattr(sys, "stdin", io.StringIO("a long text\n"))
            result = shell("complete", *argument, "-m", MODEL, "--simulator", simulator.url)
            expected = "Shorten:\n\na long text" if argument == ["Shorten:"] else "a long text"
            assert result.out == f"<{expected}>\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    missing = shell("complete", "-m", MODEL, "--simulator", "http://127.0.0.1:9")
    assert missing.code == 2
    assert missing.err == "llmhub complete: PROMPT: is missing; pass a text, or pipe one in\n"


@pytest.mark.parametrize("form", ["list", "object", "lines"])
def test_complete_takes_a_conversation(shell: Shell, simulator: SimulatorThread, tmp_path: Path, form: str) -> None:
    turns = [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "Hi"}]
    last = {"role": "user", "content": "Again"}
    file = tmp_path / "chat.json"
    texts = {
        "list": json.dumps([*turns, last], indent=1),
        "object": json.dumps({"messages": [*turns, last]}),
        "lines": "\n".join(map(json.dumps, [*turns, last])),
    }
    options = ("-m", MODEL, "--no-cache", "--simulator", simulator.url)
    file.write_text(texts[form])
    answer = shell("complete", "--messages", file, *options)
    assert answer.code == 0, answer.err
    file.write_text(json.dumps(turns))
    assert shell("complete", "Again", "--messages", file, *options).out == answer.out
    file.write_text("{]")
    assert "--messages" in shell("complete", "--messages", file, *options).err


def test_answer_as_json(shell: Shell, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    answer = json.loads(shell("complete", "Say hi", "-m", MODEL, "--json", "--simulator", simulator.url).out)
    assert answer["text"]
    assert answer["cost_usd"] > 0
    assert answer["usage"]["output_tokens"] > 0


def test_answer_with_a_schema(
    shell: Shell, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    options = ("-m", MODEL, "--simulator", simulator.url, "--schema")
    result = shell("complete", "A number", *options, tmp_path / "schema.json")
    assert isinstance(json.loads(result.out)["n"], int)
    wrong = shell("complete", "A number", *options, tmp_path / "none.json")
    assert wrong.code == 2
    assert "none.json': No such file" in wrong.err


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
def test_answer_streams_to_a_terminal() -> None:
    """Characters that command a terminal are shown as escape sequences."""
    with serving(Simulator(respond=lambda _: "one \x1b[2Jtwo \x07three")) as simulator:
        terminal, other_end = pty.openpty()
        command = [sys.executable, "-c", "import sys; from llmhub.cli import main; sys.exit(main())"]
        command += ["complete", "Count", "--model", MODEL, "--simulator", simulator.url, "--no-cache"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=other_end,
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )
        os.close(other_end)
        shown = b""
        while chunk := _read_terminal(terminal):
            shown += chunk
        assert process.wait(60) == 0
        assert shown.decode().strip() == r"one \x1b[2Jtwo \x07three"


def _read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


# Runs


def test_labels_are_a_column(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    options = ("-p", "Rate {text}", "-m", MODEL, "--labels", "good,bad", "--simulator", simulator.url)
    assert shell("run", rows, "-o", "out.csv", *options).code == 0
    assert set(pd.read_csv("out.csv")["label"].dropna()) <= {"good", "bad"}
    Path("folder").mkdir()
    assert shell("run", rows, "folder", *options).code == 0
    assert set(pd.read_parquet("folder")["label"].dropna()) <= {"good", "bad"}


def test_answers_with_a_schema_are_parsed(shell: Shell, simulator: SimulatorThread, rows: Path, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    options = ("-p", "Count {text}", "-m", MODEL, "--schema", tmp_path / "schema.json", "--simulator", simulator.url)
    assert shell("run", rows, "out.parquet", *options).code == 0
    parsed = parquet.read_table("out.parquet").column("parsed")
    assert str(parsed.type) == "struct<n: int64>"
    assert sum(value is not None and value["n"] is not None for value in parsed.to_pylist()) == 2


def test_chosen_columns(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    options = ("-p", "Say {text}", "-m", MODEL, "--simulator", simulator.url)
    assert shell("run", rows, "out.csv", *options, "--columns", "id,response,cost_usd").code == 0
    assert list(pd.read_csv("out.csv").columns) == ["id", "response", "cost_usd"]
    assert shell("run", rows, "bare.csv", *options, "--no-columns").code == 0
    assert "id" not in pd.read_csv("bare.csv").columns
    wrong = shell("run", rows, "none.csv", *options, "--columns", "id,respnse")
    assert wrong.code == 2
    assert "'respnse' is not a column of the frame. Did you mean 'response'?" in wrong.err
    assert not Path("none.csv").exists()


def test_output_is_given_once(shell: Shell, rows: Path) -> None:
    options = ("-p", "{text}", "-m", MODEL)
    missing = shell("run", rows, *options)
    assert (missing.code, missing.err) == (2, "llmhub run: OUTPUT: is missing; pass it after INPUT, or as --output\n")
    assert "is given twice" in shell("run", rows, "a.csv", "-o", "b.csv", *options).err


def test_conversations_and_images_are_columns(shell: Shell, simulator: SimulatorThread, tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "Hi"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"chat": turn, "picture": "https://example.org/a.png"}) + "\n")
    options = ("-p", "And?", "-m", MODEL, "--messages", "chat", "--images", "picture", "--simulator", simulator.url)
    assert shell("run", tmp_path / "rows.jsonl", "out.csv", *options).code == 0
    assert list(pd.read_csv("out.csv")["status"]) == ["ok"]


# Scores


def test_thresholds_of_a_comparison(shell: Shell, adder: SimulatorThread, questions: Path, tmp_path: Path) -> None:
    options = ("-p", "{question}", "-m", MODEL, "-m", OTHER, "--scorer", "numeric", "--target", "answer")
    command = ("compare", questions, *options, "--simulator", adder.url)
    good = shell(*command, "--json", "--fail-under", 0.8)
    assert good.code == 0
    report = json.loads(good.out)
    assert {row["value"] for row in report["models"] if row["kind"] == "score"} == {0.8}
    (tmp_path / "report.json").write_text(good.out)
    assert shell(*command, "-q", "--baseline", tmp_path / "report.json").code == 0
    bad = shell(*command, "-q", "--fail-under", 0.9)
    assert bad.code == 1
    assert f"{MODEL}: 0.8 by numeric is below --fail-under 0.9" in bad.err


def test_a_regression_from_the_baseline_fails(shell: Shell, adder: SimulatorThread, questions: Path) -> None:
    command = ("compare", questions, "-p", "{question}", "-m", MODEL, "--scorer", "numeric", "--target", "answer")
    report = json.loads(shell(*command, "--json", "--simulator", adder.url).out)
    for row in report["models"]:
        row["value"] = 0.85 if row["kind"] == "score" else row["value"]
    Path("report.json").write_text(json.dumps(report))
    worse = shell(*command, "-q", "--baseline", "report.json", "--simulator", adder.url)
    assert worse.code == 1
    assert "0.8 by numeric is below 0.85 of the baseline" in worse.err
    tolerated = ("--baseline", "report.json", "--tolerance", 0.05, "--simulator", adder.url)
    assert shell(*command, "-q", *tolerated).code == 0
    other = shell(*command[:4], "-m", OTHER, *command[6:], "-q", "--baseline", "report.json", "--simulator", adder.url)
    assert other.code == 1
    assert "has no score of these models" in other.err
    Path("report.json").write_text("[]")
    wrong = shell(*command, "--baseline", "report.json", "--simulator", adder.url)
    assert wrong.code == 2
    assert "is not a report; write one with --json" in wrong.err


def test_results_of_a_run_are_compared_without_calls(shell: Shell, adder: SimulatorThread, questions: Path) -> None:
    options = ("-p", "{question}", "-m", MODEL, "-m", OTHER, "--simulator", adder.url)
    shell("run", questions, "out.parquet", *options)
    calls = adder.counts()["requests"]
    result = shell("compare", "out.parquet", "--scorer", "numeric", "--target", "answer")
    assert result.code == 0
    assert "80.0 %" in result.out
    assert adder.counts()["requests"] == calls


def test_benchmark_tasks_read_the_columns_of_their_datasets(
    shell: Shell, simulator: SimulatorThread, tmp_path: Path
) -> None:
    rows = [{"question": f"{n}?", "subject": "law", "choices": ["a", "b"], "answer": n % 2} for n in range(4)]
    (tmp_path / "mmlu.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ("evaluate", "mmlu.jsonl", "--task", "mmlu", "-m", MODEL, "--simulator", simulator.url)
    result = shell(*command, "--by", "subject")
    assert result.code == 0, result.err
    assert "| law |" in result.out
    wrong = shell(*command, "--text", "question")
    assert wrong.code == 2
    assert "'mmlu' reads the columns of its dataset" in wrong.err


def test_baseline_model_groups_and_html_report(
    shell: Shell, simulator: SimulatorThread, questions: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(questions).assign(half=["low"] * 5 + ["high"] * 5)
    frame.to_csv(questions, index=False)
    options = ("-p", "{question}", "-m", MODEL, "-m", OTHER, "--simulator", simulator.url)
    shell("run", questions, "out.parquet", *options)
    command = ("compare", "out.parquet", "--scorer", "numeric", "--target", "answer", "--by", "half")
    result = shell(*command, "--baseline-model", OTHER, "--html", "report.html")
    assert result.code == 0
    assert "mean of the groups" in result.out
    assert "wrote report.html" in result.err
    assert "low" in (tmp_path / "report.html").read_text()
    report = json.loads(shell(*command, "--baseline-model", OTHER, "--json").out)
    assert [(pair["left"], pair["right"]) for pair in report["pairs"]] == [(MODEL, OTHER)]
    assert {row["group"] for row in report["groups"]} == {"low", "high", None}
    wrong = shell(*command, "--baseline-model", "openai/none")
    assert wrong.code == 2
    assert "'openai/none' is not one of the models" in wrong.err


def test_diff_fails_on_a_significant_regression_only(shell: Shell, tmp_path: Path) -> None:
    for name, right in (("before", 40), ("slightly", 39), ("worse", 10)):
        rows = pd.DataFrame(
            {
                "row": range(60), "sample": 0, "provider": "openai", "model": "m", "status": "ok",
                "question": [f"q{n}" for n in range(60)], "answer": "yes",
                "response": ["yes"] * right + ["no"] * (60 - right),
            }
        )  # fmt: skip
        rows.to_parquet(tmp_path / f"{name}.parquet")
        command = ("compare", f"{name}.parquet", "--scorer", "exact", "--target", "answer", "-q", "--freeze", name)
        assert shell(*command).code == 0
    assert shell("diff", "before", "slightly").code == 1
    assert shell("diff", "before", "slightly", "--fail-on", "regression").code == 0
    worse = shell("diff", "before", "worse", "--fail-on", "regression", "--json")
    assert worse.code == 1
    (row,) = json.loads(worse.out)["tests"]
    assert (row["before"], row["significant"]) == (pytest.approx(40 / 60), True)
    assert shell("diff", "worse", "before", "--fail-on", "regression").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scorer", "label"), "--label: is missing"),
        (("--scorer", "regex"), "--pattern: is missing"),
        (("--scorer", "exact", "-p", "{question}"), "--model: is missing"),
        (("--scorer", "exact", "-m", MODEL), "--prompt: is missing"),
    ],
)
def test_what_a_scorer_needs(shell: Shell, questions: Path, options: tuple[str, ...], message: str) -> None:
    result = shell("compare", questions, *options)
    assert result.code == 2
    assert message in result.err


def test_an_evaluation_is_frozen_verified_and_replayed(
    shell: Shell, adder: SimulatorThread, questions: Path, tmp_path: Path
) -> None:
    command = ("evaluate", questions, "--task", "numeric", "-m", MODEL, "--simulator", adder.url)
    result = shell(*command, "--fail-under", 0.5, "--freeze", "frozen")
    assert result.code == 0
    digest = result.err.split()[-1]
    assert shell("verify", "frozen", "--expect", digest).code == 0
    assert shell("replay", "frozen").code == 0
    assert shell("diff", "frozen", "frozen").code == 0
    rows = (tmp_path / "frozen" / "data.parquet").read_bytes()
    (tmp_path / "frozen" / "data.parquet").write_bytes(rows[:-1])
    assert shell("verify", "frozen").code == 1
    assert shell("evaluate", questions, "--task", "classification", "-m", MODEL).err.startswith(
        "llmhub evaluate: --label: is missing"
    )


def test_results_of_a_run_are_frozen_and_compared(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    options = ("-m", MODEL, "--simulator", simulator.url)
    shell("run", rows, "one.parquet", "-p", "Say {text}", *options)
    shell("run", rows, "two.parquet", "-p", "Say {text} again", *options)
    result = shell("freeze", "one.parquet", "frozen")
    assert result.code == 0
    digest = result.out.split()[-1]
    assert shell("verify", "frozen", "--expect", digest).code == 0
    assert shell("freeze", "one.parquet", "frozen").code == 2
    assert shell("freeze", "one.parquet", "frozen", "--overwrite").code == 0
    different = shell("diff", "frozen", "two.parquet", "--json")
    assert different.code == 1
    assert json.loads(different.out)["same"] is False


# JSON


def test_plan_and_cache_as_json(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    options = ("-p", "Say {text}", "-m", MODEL, "--simulator", simulator.url)
    plan = json.loads(shell("plan", rows, *options, "--json").out)
    assert plan["calls"] == plan["models"][0]["calls"]
    shell("run", rows, "out.csv", *options)
    stats = json.loads(shell("cache", "stats", "--simulated", "--json").out)
    assert [model["model"] for model in stats["models"]] == [f"simulated/{MODEL}"]
    lines = shell("cache", "ls", "--simulated", "--json").out.splitlines()
    assert {json.loads(line)["model"] for line in lines} == {f"simulated/{MODEL}"}


def test_models_and_prices(shell: Shell) -> None:
    table = shell("models", "anthropic").out
    assert "anthropic/claude-haiku-4-5" in table
    models = json.loads(shell("models", "anthropic", "--json").out)
    haiku = next(model for model in models if model["model"] == "anthropic/claude-haiku-4-5")
    assert haiku["input_usd_per_mtok"] == 1
    unknown = shell("models", "anthropc")
    assert unknown.code == 2
    assert "Did you mean 'anthropic'?" in unknown.err


# The simulator


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
def test_simulator_tells_a_person_what_to_type() -> None:
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-c", "import sys; from llmhub.cli import main; sys.exit(main())", "sim"]
    process = subprocess.Popen(command, stdout=other_end, cwd=Path(__file__).parents[2])
    os.close(other_end)
    shown = b""
    try:
        while b"--json" not in shown:
            chunk = _read_terminal(terminal)
            assert chunk, shown
            shown += chunk
    finally:
        process.terminate()
        process.wait(60)
    text = shown.decode()
    assert re.search(r"Simulating every provider at http://127\.0\.0\.1:\d+ \(Ctrl-C stops it\)", text)
    assert "llmhub.Hub(simulator=" in text
    assert max(map(len, text.splitlines())) < 100


def test_main_is_the_entry_point() -> None:
    assert callable(main)
