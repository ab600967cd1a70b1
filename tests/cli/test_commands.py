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
    """Make downloads of tokenizer vocabularies fail."""

    def fail(*_: object, **__: object) -> object:
        raise OSError("no network here")

    environ.setenv("TIKTOKEN_CACHE_DIR", "nowhere")
    environ.setattr("llmhub.tables.tokenizers.urlopen", fail)


@pytest.mark.filterwarnings("always:token counts are estimates")
def test_plan_estimates_the_run_and_sends_nothing(
    shell: Shell, simulator: SimulatorThread, rows: Path, offline: None
) -> None:
    options = (
        "--prompt",
        "{text}",
        "--model",
        MODEL,
        "--model",
        "google/gemini-2.5-flash",
        "--simulator",
        simulator.url,
    )
    result = shell("plan", rows, *options, "--max-tokens", 100)
    assert result.code == 0
    assert simulator.counts()["requests"] == 0
    assert "Nothing was sent. A run would make 4 calls for $0.0" in result.out
    assert "2..200" in result.out
    shell("run", rows, "out.csv", *options, "--max-tokens", 100, "--quiet")
    assert "A run would make 0 calls for $0." in shell("plan", rows, *options, "--max-tokens", 100).out
    assert simulator.counts()["requests"] == 4


def test_run_stops_at_its_budget(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    options = ("--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url, "--max-tokens", 10)
    result = shell("run", rows, "out.csv", *options, "--budget", "$0")
    assert result.code == 1
    assert "the budget was spent: 2 of " in result.err
    assert simulator.counts()["requests"] == 0
    assert shell("run", rows, "out.csv", *options, "--budget", "1").code == 0
    assert "'free' is not an amount of US dollars" in shell("run", rows, "out.csv", *options, "--budget", "free").err


@pytest.mark.filterwarnings("always:token counts are estimates")
def test_plan_needs_credentials_only_for_a_pilot(
    shell: Shell, simulator: SimulatorThread, rows: Path, offline: None
) -> None:
    arguments = ("plan", rows, "--prompt", "{text}", "--model", MODEL)
    result = shell(*arguments)
    assert result.code == 0
    assert "Nothing was sent. A run would make 2 calls for $0.0" in result.out
    result = shell(*arguments, "--pilot", 2)
    assert result.code == 2
    assert "set OPENAI_API_KEY" in result.err
    assert result.err.startswith("llmhub plan: --model: ")
    result = shell(*arguments, "--pilot", 2, "--simulator", simulator.url)
    assert "The pilot made 2 calls; the run will reuse their responses. A run would make 0 calls" in result.out
    assert simulator.counts()["requests"] == 2


def test_cache_clear_needs_confirmation(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    assert shell("cache", "stats").out.endswith("answers.db: does not exist yet\n")
    assert shell("cache", "stats", "--simulated").out.endswith("answers-simulated.db: does not exist yet\n")
    shell("run", rows, "out.csv", "--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url)
    assert "2 responses, 0.0 MB" in shell("cache", "stats", "--simulated").out
    rejected = shell("cache", "clear", "--simulated")
    assert rejected.code == 2
    assert "--yes" in rejected.err
    assert "2 responses" in shell("cache", "stats", "--simulated").out
    assert "deleted 2 responses" in shell("cache", "clear", "--simulated", "--yes").out
    assert "0 responses" in shell("cache", "stats", "--simulated").out
    assert shell("cache", "stats").out.endswith("answers.db: does not exist yet\n")


def test_file_that_is_not_a_cache_is_rejected_and_kept(shell: Shell, rows: Path) -> None:
    before = rows.read_bytes()
    for action in ("stats", "clear"):
        result = shell("cache", action, "--cache", rows, "--yes")
        assert result.code == 2
        assert result.err.startswith("llmhub cache: --cache: cannot use ")
    assert rows.read_bytes() == before


def test_sim_runs_the_simulator(shell: Shell, start: Start) -> None:
    result = shell("sim", "--rate-500", "2")
    assert result.code == 2
    assert "rate_500=2.0 is outside 0..1" in result.err
    process = start("sim", "--port", "0")
    assert process.stdout is not None
    addresses = json.loads(process.stdout.readline())
    try:
        assert shell("doctor", "--simulator", addresses["url"]).code == 0
    finally:
        process.terminate()
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


def test_help_of_every_command_has_an_example(shell: Shell) -> None:
    overview = shell("-h")
    assert overview.code == 0
    for command in ("demo", "run", "plan", "sim", "doctor", "cache"):
        assert command in overview.out
        result = shell(command, "-h")
        assert result.code == 0
        assert result.out.startswith(f"usage: llmhub {command}")
        if command != "sim":
            assert f"examples:\n  llmhub {command}" in result.out


def test_version_is_that_of_the_package(shell: Shell) -> None:
    assert shell("--version").out == f"llmhub {__version__}\n"


IMPORT_CHECK = """
import sys
from llmhub.cli import main

try:
    main(["run", "-h"])
finally:
    heavy = {"pyarrow", "aiohttp", "numpy", "pandas", "matplotlib"} & set(sys.modules)
    sys.stderr.write(" ".join(sorted(heavy)))
"""


def test_help_does_not_import_heavy_packages(environ: pytest.MonkeyPatch) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", IMPORT_CHECK], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert completed.stdout.startswith("usage: llmhub run")
    assert completed.stderr == ""
