"""Interrupts (SIGINT) and closed pipes of a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pyarrow import dataset, parquet

from llmhub.sim import Latency, Simulator, SimulatorThread, serving

Shell: TypeAlias = Callable[..., Any]
Start: TypeAlias = Callable[..., "subprocess.Popen[str]"]

MODEL = "openai/gpt-4o-mini"
WAIT_S = 60

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def rows_400(environ: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Write a CSV file of 400 rows."""
    path = tmp_path / "rows_400.csv"
    path.write_text("n\n" + "".join(f"question {n}\n" for n in range(400)), encoding="utf-8")
    return path


def test_interrupted_run_writes_its_answers_and_the_next_run_sends_the_rest(
    start: Start, shell: Shell, rows_400: Path
) -> None:
    received = threading.Semaphore(0)

    def respond(prompt: str) -> str:
        received.release()
        return f"answer to {prompt}"

    with serving(Simulator(latency=Latency(0.1), respond=respond)) as simulator:
        arguments = ("run", rows_400, "out.parquet", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url)
        arguments = (*arguments, "--cache", "runs.db")
        process = start(*arguments, "--concurrency", 4)
        for _ in range(8):
            assert received.acquire(timeout=WAIT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 130
        assert "stopping: nothing more is sent" in err
        assert "interrupted: " in err
        assert "Traceback" not in err
        assert "Wrote 400 rows to out.parquet" in out
        statuses = parquet.read_table("out.parquet").column("status").to_pylist()
        answered = statuses.count("ok")
        assert statuses.count("cancelled") == 400 - answered
        # Calls in flight at the interrupt were waited for, so every request has an answer.
        assert 4 <= answered == simulator.counts()["requests"] < 400
        assert statuses.index("cancelled") <= answered
        assert shell(*arguments).code == 0
        assert simulator.counts()["requests"] == 400
        assert set(parquet.read_table("out.parquet").column("status").to_pylist()) == {"ok"}


def test_interrupted_run_into_a_folder_is_continued(start: Start, shell: Shell, rows_400: Path, tmp_path: Path) -> None:
    received = threading.Semaphore(0)

    def respond(prompt: str) -> str:
        received.release()
        return f"answer to {prompt}"

    (tmp_path / "parts").mkdir()
    with serving(Simulator(latency=Latency(0.1), respond=respond)) as simulator:
        arguments = ("run", rows_400, "parts", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url)
        process = start(*arguments, "--no-cache", "--concurrency", 4)
        for _ in range(8):
            assert received.acquire(timeout=WAIT_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 130
        assert "the same command continues from here" in err
        # Without a cache, results in the folder are still not requested again.
        assert shell(*arguments, "--no-cache").code == 0
        assert simulator.counts()["requests"] == 400
    table = dataset.dataset("parts").to_table()
    assert table.column("n").to_pylist() == [f"question {n}" for n in range(400)]
    assert set(table.column("status").to_pylist()) == {"ok"}


def test_interrupted_run_with_on_error_raise_writes_nothing(start: Start, rows_400: Path, tmp_path: Path) -> None:
    received = threading.Event()

    def respond(prompt: str) -> str:
        received.set()
        return "yes"

    with serving(Simulator(latency=Latency(0.1), respond=respond)) as simulator:
        process = start(
            "run", rows_400, "out.csv", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url,
            "--concurrency", 2, "--on-error", "raise",
        )  # fmt: skip
        assert received.wait(WAIT_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "no output was written" in err
    assert not (tmp_path / "out.csv").exists()


def test_second_interrupt_cancels_calls_in_flight(start: Start, rows_400: Path) -> None:
    received = threading.Event()

    def respond(prompt: str) -> str:
        received.set()
        return "never read"

    with serving(Simulator(latency=Latency(3600.0), respond=respond)) as simulator:
        process = start(
            "run", rows_400, "out.parquet", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url,
            "--concurrency", 2,
        )  # fmt: skip
        assert received.wait(WAIT_S)
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        output = ""
        while "stopping" not in output:
            output += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "400 of 400 rows have no answer" in rest
    assert set(parquet.read_table("out.parquet").column("status").to_pylist()) == {"cancelled"}


def test_closed_pipe_prints_no_traceback(start: Start, simulator: SimulatorThread, rows: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        process = start(
            "run", rows, "out.parquet", "--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url,
            stdout=writing,
        )  # fmt: skip
        _, err = process.communicate(timeout=WAIT_S)
    finally:
        os.close(writing)
    assert process.returncode == 141
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert parquet.read_table("out.parquet").num_rows == 3


def test_module_can_be_executed(environ: pytest.MonkeyPatch) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "llmhub", "--version"],
        capture_output=True, text=True, check=True, timeout=WAIT_S,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert completed.stdout.startswith("llmhub 0.")
