"""Fixtures: the service in this process and in a process of its own, before the simulator."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from returns.result import Failure, Success

from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.core.errors import AuthFailed
from llmhub.core.secret import Secret
from llmhub.hub import Hub
from llmhub.server.access import Access, Caller, OpenAccess
from llmhub.server.access_settings import AccessSettings
from llmhub.server.groups import GROUPS
from llmhub.server.key_access import KeyAccess
from llmhub.server.routes import RouteGroup
from llmhub.server.running import RunningService
from llmhub.server.running import serving as run_service
from llmhub.server.server_settings import ServerSettings
from llmhub.server.service import Service
from llmhub.server.virtual_keys import KeyOptions, KeyRegistry, NewKey
from llmhub.sim import SimulatorThread

ADMIN = "admin-key-of-these-tests-0123456789abcdef"
ROOT = Path(__file__).parents[2]


@contextmanager
def service_on(
    simulator_url: str,
    *,
    access: Access | None = None,
    groups: Sequence[RouteGroup] = GROUPS,
    hub: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[RunningService]:
    """Run a service in this process, before a simulator. ``hub`` holds further arguments of its hub."""
    values = ServerSettings(**{"port": 0, **settings})
    opened = Hub(**{"simulator": simulator_url, "cache": None, "local_files": False, **(hub or {})})
    with run_service(Service(opened, values, access or OpenAccess()), groups) as running:
        yield running


@pytest.fixture
def serve_on() -> Callable[..., AbstractContextManager[RunningService]]:
    """Return `service_on`, for tests that run a simulator of their own."""
    return service_on


@pytest.fixture
def serving(simulator: SimulatorThread) -> Iterator[Callable[..., RunningService]]:
    """Return a function that runs a service in this process, before the simulator (see `service_on`)."""
    with ExitStack() as stack:

        def run(**arguments: Any) -> RunningService:
            return stack.enter_context(service_on(simulator.url, **arguments))

        yield run


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A running ``llmhub serve``."""

    url: str
    process: subprocess.Popen[str]
    addresses: Mapping[str, str] = field(default_factory=dict)

    def terminate(self, timeout_s: float = 20.0) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def service_process(
    simulator_url: str, *arguments: str, variables: Mapping[str, str] | None = None
) -> Iterator[ServiceProcess]:
    """Run ``llmhub serve`` before a simulator, without a cache unless ``arguments`` name one."""
    cache = () if "--cache" in arguments else ("--cache", "none")
    command = [sys.executable, "-m", "llmhub", "serve", "--port", "0", "--simulator", simulator_url, *cache, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"listening on (\S+)", line):
                yield ServiceProcess(found[1].strip(";"), process, dict(re.findall(r"(\w+) on (\S+[^;\s])", line)))
                return
        pytest.fail(f"llmhub serve ended with {process.wait()}: {''.join(lines)}")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def process_on() -> Callable[..., AbstractContextManager[ServiceProcess]]:
    """Return `service_process`, for tests that run a simulator of their own."""
    return service_process


@pytest.fixture
def serving_process(simulator: SimulatorThread) -> Iterator[Callable[..., ServiceProcess]]:
    """Return a function that runs ``llmhub serve`` in a process of its own, before the simulator."""
    with ExitStack() as stack:

        def run(*arguments: str, **more: Any) -> ServiceProcess:
            return stack.enter_context(service_process(simulator.url, *arguments, **more))

        yield run


class Keys:
    """A service with keys, and the registry of its keys."""

    def __init__(self, serving: Callable[..., RunningService], folder: Path) -> None:
        self._serving, self._folder = serving, folder
        self.now = [time.time()]
        self.store = open_sqlite_access(folder / "keys.db", lambda: self.now[0])
        self.registry = KeyRegistry(self.store, lambda: self.now[0])

    def serve(
        self, hub: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **settings: Any
    ) -> RunningService:
        values = AccessSettings(keys=True, **{"admin_key": Secret(ADMIN), "refresh_s": 0.0, **settings})
        store = open_sqlite_access(self._folder / "keys.db", lambda: self.now[0])
        return self._serving(access=KeyAccess(values, store, lambda: self.now[0]), hub=hub, **(server or {}))

    def create(self, **options: Any) -> NewKey:
        return self.registry.create(msgspec.convert(options, type=KeyOptions, strict=False))


@pytest.fixture
def keys(serving: Callable[..., RunningService], tmp_path: Path) -> Iterator[Keys]:
    made = Keys(serving, tmp_path)
    yield made
    made.store.close()


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    options = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "1"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *options], check=True, capture_output=True
    )
    return certificate, key


class OneKey:
    """Accepts one key, which may use the models of one provider; with the header ``x-scope: none``, for nothing."""

    key = "team-key-123"

    async def authenticate(self, request: Any, route: Any) -> Any:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return Failure(AuthFailed(message="unknown key"))
        scopes = frozenset({"" if request.headers.get("x-scope") == "none" else route.scope})
        return Success(Caller(key_id="key_7", team="blue", models=("openai/*",), scopes=scopes))


def until(condition: Callable[[], bool], patience_s: float = 20.0) -> bool:
    """Wait until a condition holds; return whether it does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
