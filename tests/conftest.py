"""Shared fixtures: hypothesis profiles, an environment without keys, a simulator, virtual time, a scripted HTTP server
and a Redis server on a free port."""

from __future__ import annotations

import asyncio
import os
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from llmhub.config import CERTIFICATE_VARIABLES
from llmhub.core.proxies import NO_PROXY_VARIABLES, PROXY_VARIABLES
from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS
from llmhub.sim import Simulator, SimulatorThread, serving

T = TypeVar("T")

# Examples are the same on every machine and every day; HYPOTHESIS_PROFILE=random draws new ones.
settings.register_profile(
    "fixed", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("random", parent=settings.get_profile("fixed"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

SLOW_TESTS = frozenset((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").splitlines()[1:])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests listed in ``slow.txt``."""
    for item in items:
        if item.nodeid.partition("[")[0] in SLOW_TESTS:
            item.add_marker(pytest.mark.slow)


VARIABLE_NAMES = {
    *(variable for rows in ENVIRONMENT_VARIABLES.values() for _, variable in rows),
    *(variable for provider in PROVIDERS.values() for group in provider.required_env for variable in group),
    *(f"{name.upper()}_{what}" for name in PROVIDERS for what in ("API_KEY", "BASE_URL")),
    *PROXY_VARIABLES,
    *NO_PROXY_VARIABLES,
    *CERTIFICATE_VARIABLES,
    "LLMHUB_CACHE",
    "LLMHUB_CREDENTIALS_FILE",
    "LLMHUB_CREDENTIALS_PASSPHRASE",
    "LLMHUB_PROFILE",
    "LLMHUB_LOG",
    "LLMHUB_PLUGINS",
    "TIKTOKEN_CACHE_DIR",
    "DATA_GYM_CACHE_DIR",
}


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Close pyplot's figures, which plots join."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session", autouse=True)
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove every key and URL from the environment, and put caches into a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLE_NAMES:
            patch.delenv(name, raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        patch.setenv("LLMHUB_CREDENTIALS_FILE", str(tmp_path_factory.mktemp("credentials") / "credentials.json"))
        yield


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Change to an empty folder; return a monkeypatch for setting variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return monkeypatch


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    """Run a simulator that answers immediately and deterministically."""
    with serving(Simulator(seed=7)) as served:
        yield served


# Virtual time


class _SkippingSelector(selectors.DefaultSelector):
    """A selector that advances a clock instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("deadlock: nothing is scheduled")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next scheduled callback. Not for work in other threads."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


@dataclass(frozen=True, slots=True)
class Virtual:
    """Runs coroutines in virtual time, each starting at 0."""

    def run(self, work: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
        """Run ``work(clock)``."""
        loop = VirtualLoop()
        try:
            return loop.run_until_complete(work(loop.time))
        finally:
            loop.close()


@pytest.fixture(scope="session")
def virtual() -> Virtual:
    return Virtual()


# Scripted server

LINGER = struct.pack("ii", 1, 0)
Step = bytes | str | threading.Event


@dataclass(slots=True)
class Scripted:
    """A server on loopback that answers the n-th request with the n-th act, and further requests with the last one.

    An act is a sequence of steps: bytes to send, an event to wait for, ``close``, ``reset``, or ``hang`` until
    the client disconnects. After the last step the connection stays open for the next request.
    """

    acts: Sequence[Sequence[Step]]
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    received: threading.Event = field(default_factory=threading.Event)
    disconnected: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    stop: Callable[[], None] = lambda: None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def bodies(self) -> list[bytes]:
        return [request.partition(b"\r\n\r\n")[2] for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (request := await _request(reader)) is not None:
                self.requests.append(request)
                self.received.set()
                for step in self.acts[min(len(self.requests), len(self.acts)) - 1]:
                    if not await self._play(step, reader, writer):
                        return
        except ConnectionError:
            pass
        finally:
            self.disconnected.set()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self._writers.discard(writer)

    async def end(self, server: asyncio.Server) -> None:
        """Abort every connection and stop serving."""
        self.over = True
        while len(asyncio.all_tasks()) > 1:  # connections being served or just accepted
            for writer in tuple(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0.001)
        server.close()

    async def _play(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Perform a step; return whether the connection stays open."""
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
                return True
            case threading.Event():
                while not (step.is_set() or self.over):  # noqa: ASYNC110 - set in another thread
                    await asyncio.sleep(0.001)
                return True
            case "hang":
                await reader.read()
            case "reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                writer.transport.abort()
        return False


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    """Read a request, head and body; ``None`` if the client disconnected."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    lengths = [int(value) for name, _, value in lines if name.lower() == b"content-length"]
    return head + await reader.readexactly(lengths[0] if lengths else 0)


Script = Callable[..., Scripted]


@pytest.fixture
def scripted() -> Iterator[Script]:
    """Return a function that starts a server: ``scripted([b"HTTP/1.1 200 OK...", "close"], ...)``."""
    with ExitStack() as stack:

        def start(*acts: Sequence[Step], tls: Any = None) -> Scripted:
            played = Scripted(acts)
            stack.enter_context(closing(_ServerThread(played, tls)))
            return played

        yield start


class _ServerThread:
    """The thread in which a scripted server runs."""

    def __init__(self, played: Scripted, tls: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted", daemon=True)
        self._thread.start()
        self._played = played
        played.stop = self.close
        self._server = self._do(asyncio.start_server(played.serve, "127.0.0.1", 0, ssl=tls))
        port = self._server.sockets[0].getsockname()[1]
        played.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._do(self._played.end(self._server))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@dataclass(slots=True)
class HttpService:
    """An HTTP server on loopback whose replies a function makes, and the requests it received."""

    url: str = ""
    requests: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)


Reply = tuple[int, Mapping[str, str], bytes]
Handler = Callable[[str, str, Mapping[str, str], bytes], Reply]


@pytest.fixture
def http_service() -> Iterator[Callable[[Handler], HttpService]]:
    """Return a function that starts a server: ``http_service(handle)``.

    ``handle(method, path, headers, body)`` runs in a thread for each connection and returns status, headers and body;
    names of headers are in lower case.
    """
    with ExitStack() as stack:

        def start(handle: Handler) -> HttpService:
            service = HttpService()

            class RequestHandler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def answer(self) -> None:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    body = self.rfile.read(int(headers.get("content-length", 0)))
                    service.requests.append((self.command, self.path, headers, body))
                    status, more, content = handle(self.command, self.path, headers, body)
                    self.send_response(status)
                    for name, value in {"content-length": str(len(content)), **more}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    with suppress(ConnectionError):
                        self.wfile.write(content)

                do_GET = do_POST = do_PUT = answer  # noqa: N815 - names of http.server

                def log_message(self, *_: object) -> None:
                    return

            server = ThreadingHTTPServer(("127.0.0.1", 0), RequestHandler)
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            service.url = f"http://127.0.0.1:{server.server_port}"

            def stop() -> None:
                server.shutdown()
                thread.join()
                server.server_close()

            stack.callback(stop)
            return service

        yield start


@dataclass(frozen=True, slots=True)
class ReplyBuilder:
    """HTTP replies as bytes."""

    def reply(self, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
        """Return a complete HTTP reply."""
        fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode("latin-1") + body

    def answer(self, text: str = "Hi", **headers: str) -> bytes:
        """Return a complete reply of Chat Completions."""
        return self.reply(self.body(text), headers=headers)

    def body(self, text: str = "Hi") -> bytes:
        """Return the JSON body of a chat completion."""
        return (
            b'{"id":"c1","model":"m","choices":[{"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
            b'"usage":{"prompt_tokens":3,"completion_tokens":1}}'
        ) % text.encode()

    def stream(self) -> bytes:
        """Return the head of a stream that ends when the connection closes."""
        return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"

    def event(self, text: str = "", finish: str = "") -> bytes:
        """Return one event of a stream."""
        ended = f',"finish_reason":"{finish}"' if finish else ""
        return f'data: {{"id":"c1","choices":[{{"index":0,"delta":{{"content":"{text}"}}{ended}}}]}}\n\n'.encode()


@pytest.fixture(scope="session")
def replies() -> ReplyBuilder:
    return ReplyBuilder()


REDIS_PATIENCE_S = 20.0


@dataclass
class RedisServer:
    """A Redis server of this test run; it can be stopped and started again on the same port."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    changing: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while the server starts or stops: one thread stops it while another, whose write failed, starts it again."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *more: str) -> None:
        options = ("--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--appendonly", "no")
        command = ["redis-server", "--port", str(self.port), *options, *more]
        with self.changing:
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until = time.monotonic() + REDIS_PATIENCE_S
            while not self.answers():
                assert self.process.poll() is None, "the server did not start"
                assert time.monotonic() < until, "the server does not respond"
                time.sleep(0.01)

    def answers(self) -> bool:
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), timeout=1)) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16) == b"+PONG\r\n"
        except OSError:
            return False

    def stop(self) -> None:
        with self.changing:
            if self.process is not None:
                self.process.kill()
                self.process.wait()
                self.process = None

    def flush(self) -> None:
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=5)) as line:
            line.sendall(b"FLUSHALL\r\n")
            assert line.recv(16) == b"+OK\r\n"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def new_server(folder: Path) -> RedisServer:
    if shutil.which("redis-server") is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed; CI installs it")
        pytest.skip("needs redis-server (apt-get install redis-server)")
    return RedisServer(folder, free_port())


@pytest.fixture(scope="session")
def one_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = new_server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(one_redis: RedisServer) -> RedisServer:
    """Return a shared, empty, running server. Tests that stop a server use ``own_redis``."""
    one_redis.flush()
    return one_redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a running server of this test, which may be stopped and started."""
    server = new_server(tmp_path)
    server.start()
    yield server
    server.stop()
