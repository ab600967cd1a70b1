from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_fuzzing_for_a_few_seconds_finds_no_failure(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is in the fuzz extra; CI installs it and runs the fuzzer for longer")
    command = [sys.executable, str(ROOT / "tests/fuzz/fuzz_wires.py"), "--seconds", "4", "--seed", "1"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    completed = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    runs = next(line for line in completed.stderr.splitlines() if "stat::number_of_executed_units" in line)
    assert int(runs.rpartition(":")[2]) > 100
