"""What a real process does when it is interrupted, and when whoever reads it goes away."""

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
def many(environ: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Write 400 rows."""
    path = tmp_path / "many.csv"
    path.write_text("n\n" + "".join(f"question {n}\n" for n in range(400)), encoding="utf-8")
    return path


def test_an_interrupted_run_writes_what_landed_and_the_next_run_asks_only_for_the_rest(
    start: Start, shell: Shell, many: Path
) -> None:
    asked = threading.Semaphore(0)

    def respond(prompt: str) -> str:
        asked.release()
        return f"answer to {prompt}"

    with serving(Simulator(latency=Latency(0.1), respond=respond)) as simulator:
        arguments = ("run", many, "out.parquet", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url)
        arguments = (*arguments, "--cache", "runs.db")
        process = start(*arguments, "--concurrency", 4)
        for _ in range(8):
            assert asked.acquire(timeout=WAIT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 130
        assert "stopping: nothing more is sent" in err
        assert "interrupted: " in err
        assert "Traceback" not in err
        assert "Wrote 400 rows to out.parquet" in out
        statuses = parquet.read_table("out.parquet").column("status").to_pylist()
        landed = statuses.count("ok")
        assert statuses.count("cancelled") == 400 - landed
        # Everything that was asked landed: what was under way when the key was pressed was waited for.
        assert 4 <= landed == simulator.counts()["requests"] < 400
        assert statuses.index("cancelled") <= landed
        assert shell(*arguments).code == 0
        assert simulator.counts()["requests"] == 400
        assert set(parquet.read_table("out.parquet").column("status").to_pylist()) == {"ok"}


def test_an_interrupted_run_into_a_folder_goes_on_where_it_was(
    start: Start, shell: Shell, many: Path, tmp_path: Path
) -> None:
    asked = threading.Semaphore(0)

    def respond(prompt: str) -> str:
        asked.release()
        return f"answer to {prompt}"

    (tmp_path / "parts").mkdir()
    with serving(Simulator(latency=Latency(0.1), respond=respond)) as simulator:
        arguments = ("run", many, "parts", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url)
        process = start(*arguments, "--no-cache", "--concurrency", 4)
        for _ in range(8):
            assert asked.acquire(timeout=WAIT_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 130
        assert "the same command goes on from here" in err
        # No cache helps: what is in the folder is not asked again.
        assert shell(*arguments, "--no-cache").code == 0
        assert simulator.counts()["requests"] == 400
    found = dataset.dataset("parts").to_table()
    assert found.column("n").to_pylist() == [f"question {n}" for n in range(400)]
    assert set(found.column("status").to_pylist()) == {"ok"}


def test_an_interrupted_run_that_wants_all_or_nothing_writes_nothing(start: Start, many: Path, tmp_path: Path) -> None:
    asked = threading.Event()

    def respond(prompt: str) -> str:
        asked.set()
        return "yes"

    with serving(Simulator(latency=Latency(0.1), respond=respond)) as simulator:
        process = start(
            "run", many, "out.csv", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url,
            "--concurrency", 2, "--on-error", "raise",
        )  # fmt: skip
        assert asked.wait(WAIT_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "no output was written" in err
    assert not (tmp_path / "out.csv").exists()


def test_a_second_interrupt_cuts_off_what_hangs(start: Start, many: Path) -> None:
    asked = threading.Event()

    def respond(prompt: str) -> str:
        asked.set()
        return "never read"

    with serving(Simulator(latency=Latency(3600.0), respond=respond)) as simulator:
        process = start(
            "run", many, "out.parquet", "--prompt", "{n}", "--model", MODEL, "--simulator", simulator.url,
            "--concurrency", 2,
        )  # fmt: skip
        assert asked.wait(WAIT_S)
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        seen = ""
        while "stopping" not in seen:
            seen += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "400 of 400 rows have no answer" in rest
    assert set(parquet.read_table("out.parquet").column("status").to_pylist()) == {"cancelled"}


def test_a_reader_that_goes_away_is_no_error_to_look_at(start: Start, simulator: SimulatorThread, rows: Path) -> None:
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


def test_the_module_is_the_command(environ: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmhub", "--version"],
        capture_output=True, text=True, check=True, timeout=WAIT_S,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.startswith("llmhub 0.")
