"""Fixtures: the command line in this process and in a process of its own, and an input file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmhub.cli import main

ROOT = Path(__file__).parents[2]
ENTRY = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell may have disabled it
from llmhub.cli import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Shell = Callable[..., CommandResult]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def shell(environ: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    """Return a function that runs a command line in this process, in an empty folder and environment."""

    def run(*arguments: object) -> CommandResult:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        output = capfd.readouterr()
        return CommandResult(code, output.out, output.err)

    return run


@pytest.fixture
def start(environ: pytest.MonkeyPatch) -> Start:
    """Return a function that starts a command line in a process of its own."""

    def run(*arguments: object, **more: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ENTRY, *map(str, arguments)],
            stdout=more.get("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return run


@pytest.fixture
def rows(environ: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Write a CSV file of three rows, of which one has no text."""
    path = tmp_path / "rows.csv"
    path.write_text(
        'id,zip,text\n1,00501,"a first\nline, and a second"\n2,10001,\n3,94105,the third\n', encoding="utf-8"
    )
    return path
