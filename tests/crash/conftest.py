"""A fork server: child processes that run a job and can be killed, forked from one that has everything imported."""

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


class ForkServer:
    """The client of ``fork_server.py``, which forks one child per job."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert self._read() == {"ready": True}

    def start(self, **job: Any) -> int:
        """Fork a child that runs a job. Return its process id."""
        pid: int = self._request({"start": job})["pid"]
        return pid

    def preload(self, job: dict[str, Any]) -> None:
        """Run a job once and import in the server what it imported, so that later children start at once."""
        self._request({"import": self.wait(self.start(**job))["modules"]})

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def wait(self, pid: int) -> dict[str, Any]:
        """Wait for a child to end. Return its result, its exit code and whether it was killed."""
        return self._request({"wait": pid})

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _request(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fork server has died"
        reply: dict[str, Any] = msgspec.json.decode(line)
        return reply


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    with serving(Simulator()) as served, tempfile.TemporaryDirectory() as folder:
        job = {"url": served.base_url("openai"), "store": f"{folder}/runs.db", "prompts": ["a"], "list_modules": True}
        server.preload(job)
    yield server
    server.close()
