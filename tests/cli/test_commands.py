"""The smaller commands: plan, cache, sim, help and version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from llmhub import __version__
from llmhub.sim import SimulatorThread

Shell: TypeAlias = Callable[..., Any]


Start: TypeAlias = Callable[..., "subprocess.Popen[str]"]


MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def offline(environ: pytest.MonkeyPatch) -> None:
    """Let no vocabulary be had."""

    def nowhere(*_: object, **__: object) -> object:
        raise OSError("no network here")

    environ.setenv("TIKTOKEN_CACHE_DIR", "nowhere")
    environ.setattr("llmhub.tables.tokenizers.urlopen", nowhere)


@pytest.mark.filterwarnings("always:token counts are estimates")
def test_a_plan_says_what_a_run_would_do_and_sends_nothing(
    shell: Shell, simulator: SimulatorThread, rows: Path, offline: None
) -> None:
    where = ("--prompt", "{text}", "--model", MODEL, "--model", "google/gemini-2.5-flash", "--simulator", simulator.url)
    said = shell("plan", rows, *where, "--max-tokens", 100)
    assert said.code == 0
    assert simulator.counts()["requests"] == 0
    assert "Nothing was sent. A run would make 4 calls for $0.0" in said.out
    assert "2..200" in said.out
    shell("run", rows, "out.csv", *where, "--max-tokens", 100, "--quiet")
    assert "A run would make 0 calls for $0." in shell("plan", rows, *where, "--max-tokens", 100).out
    assert simulator.counts()["requests"] == 4


def test_a_run_stops_at_its_budget_and_says_so(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    where = ("--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url, "--max-tokens", 10)
    said = shell("run", rows, "out.csv", *where, "--budget", "$0")
    assert said.code == 1
    assert "the budget was spent: 2 of " in said.err
    assert simulator.counts()["requests"] == 0
    assert shell("run", rows, "out.csv", *where, "--budget", "1").code == 0
    assert "'free' is no amount of dollars" in shell("run", rows, "out.csv", *where, "--budget", "free").err


@pytest.mark.filterwarnings("always:token counts are estimates")
def test_a_plan_needs_no_key_until_it_is_to_ask(
    shell: Shell, simulator: SimulatorThread, rows: Path, offline: None
) -> None:
    asked = ("plan", rows, "--prompt", "{text}", "--model", MODEL)
    said = shell(*asked)
    assert said.code == 0
    assert "Nothing was sent. A run would make 2 calls for $0.0" in said.out
    said = shell(*asked, "--pilot", 2)
    assert said.code == 2
    assert "set OPENAI_API_KEY" in said.err
    assert said.err.startswith("llmhub plan: --model: ")
    said = shell(*asked, "--pilot", 2, "--simulator", simulator.url)
    assert "The pilot made 2 calls; what it was told counts. A run would make 0 calls" in said.out
    assert simulator.counts()["requests"] == 2


def test_the_cache_is_counted_and_cleared_only_on_request(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    assert shell("cache", "stats").out.endswith("answers.db: not there yet\n")
    shell("run", rows, "out.csv", "--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url)
    assert "2 answers, 0.0 MB" in shell("cache", "stats").out
    refused = shell("cache", "clear")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert "2 answers" in shell("cache", "stats").out
    assert "took out 2 answers" in shell("cache", "clear", "--yes").out
    assert "0 answers" in shell("cache", "stats").out


def test_a_cache_that_is_none_is_refused_and_kept(shell: Shell, rows: Path) -> None:
    before = rows.read_bytes()
    for action in ("stats", "clear"):
        said = shell("cache", action, "--cache", rows, "--yes")
        assert said.code == 2
        assert said.err.startswith("llmhub cache: --cache: cannot use ")
    assert rows.read_bytes() == before


def test_sim_is_the_simulators_own_command(shell: Shell, start: Start) -> None:
    said = shell("sim", "--rate-500", "2")
    assert said.code == 2
    assert "rate_500=2.0 is outside 0..1" in said.err
    process = start("sim", "--port", "0")
    assert process.stdout is not None
    addresses = json.loads(process.stdout.readline())
    try:
        assert shell("doctor", "--simulator", addresses["url"]).code == 0
    finally:
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


def test_every_command_has_help_with_an_example(shell: Shell) -> None:
    whole = shell("-h")
    assert whole.code == 0
    for command in ("demo", "run", "plan", "sim", "doctor", "cache"):
        assert command in whole.out
        said = shell(command, "-h")
        assert said.code == 0
        assert said.out.startswith(f"usage: llmhub {command}")
        if command != "sim":
            assert f"examples:\n  llmhub {command}" in said.out


def test_the_version_is_the_packages(shell: Shell) -> None:
    assert shell("--version").out == f"llmhub {__version__}\n"


HEAVY = """
import sys
from llmhub.cli import main

try:
    main(["run", "-h"])
finally:
    heavy = {"pyarrow", "aiohttp", "numpy", "pandas", "matplotlib"} & set(sys.modules)
    sys.stderr.write(" ".join(sorted(heavy)))
"""


def test_help_imports_nothing_heavy(environ: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.startswith("usage: llmhub run")
    assert done.stderr == ""
