"""Stores to try, and a real Redis server on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.store import Store

PATIENCE_S = 20.0


@dataclass
class RedisServer:
    """A Redis server of this test run alone; it can be taken away and come back on the same port."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *more: str) -> None:
        said = ("--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--appendonly", "no")
        command = ["redis-server", "--port", str(self.port), *said, *more]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE_S
        while not self.answers():
            assert self.process.poll() is None, "the server did not start"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.01)

    def answers(self) -> bool:
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), timeout=1)) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16) == b"+PONG\r\n"
        except OSError:
            return False

    def stop(self) -> None:
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
            pytest.fail("redis-server is not installed; the build installs it")
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
    """Give a running server with nothing in it. Shared: whoever stops it uses ``own_redis``."""
    one_redis.flush()
    return one_redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a running server to stop and start at will."""
    server = new_server(tmp_path)
    server.start()
    yield server
    server.stop()


KINDS = ("memory", "disk", "redis", "tier")


@pytest.fixture
def cache_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Make a cache of a kind, by its name."""

    def make(kind: str, **more: Any) -> Any:
        match kind:
            case "memory":
                return llmhub.MemoryCache(**more)
            case "disk":
                return llmhub.DiskCache(tmp_path / "deep" / "er" / "runs.db", **more)
            case "redis":
                return llmhub.RedisCache(request.getfixturevalue("redis_server").url, **more)
            case _:
                return llmhub.TieredCache(llmhub.MemoryCache(max_entries=100), make("disk", **more))

    return make


@pytest.fixture(params=KINDS)
def cache(request: pytest.FixtureRequest, cache_of: Callable[..., Any]) -> Any:
    """Give a cache of each kind in turn."""
    return cache_of(request.param)


@pytest.fixture
def store(cache: Any) -> Iterator[Store]:
    """Give an open store of each kind in turn."""
    opened = cache.open()
    yield opened
    opened.close()
