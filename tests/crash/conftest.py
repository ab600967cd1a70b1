"""Processes that ask and are killed: forked from one that has everything imported, so that each starts at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmhub.sim import Simulator, serving

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


class Zygote:
    """A process that forks children which ask."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert self._said() == {"ready": True}

    def start(self, **job: Any) -> int:
        """Fork a child that does a job; give its number."""
        pid: int = self._ask({"start": job})["pid"]
        return pid

    def warm(self, job: dict[str, Any]) -> None:
        """Have the zygote import what a child needs for such a job, so that no further one has to."""
        self._ask({"warm": self.wait(self.start(**job))["modules"]})

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def wait(self, pid: int) -> dict[str, Any]:
        """Wait for a child to end; give what it said last, and how it ended."""
        return self._ask({"wait": pid})

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(what) + b"\n")
        self._process.stdin.flush()
        return self._said()

    def _said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the zygote has died"
        said: dict[str, Any] = msgspec.json.decode(line)
        return said


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    with serving(Simulator()) as served, tempfile.TemporaryDirectory() as folder:
        started.warm({"url": served.base_url("openai"), "store": f"{folder}/runs.db", "questions": ["a"], "warm": True})
    yield started
    started.close()
