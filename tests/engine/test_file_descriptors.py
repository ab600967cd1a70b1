"""Few file descriptors: connections wait for each other, no row fails for it, and no table is lost."""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmhub.engine import connection_pool, file_descriptors
from llmhub.engine.connection_pool import CannotConnectError, ConnectionPool
from llmhub.engine.file_descriptors import DescriptorLimit, connection_room, is_out_of_descriptors
from llmhub.engine.http1 import Origin
from llmhub.sim import Latency, Simulator, serving

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX resource limits")


def origin_of(server: Any) -> Origin:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return Origin(host, int(port), is_tls=False)


OpenPool = Callable[..., ConnectionPool]


@pytest.fixture
async def open_pool() -> AsyncIterator[OpenPool]:
    """Return a factory of pools with room for so many connections, closed after the test."""
    opened: list[ConnectionPool] = []

    def open_pool(limit: DescriptorLimit) -> ConnectionPool:
        opened.append(ConnectionPool(50, 10.0, 100_000, ssl.create_default_context, limit))
        return opened[-1]

    yield open_pool
    for pool in opened:
        pool.close()


def room_for(connections: int) -> DescriptorLimit:
    return DescriptorLimit(limit=lambda: 64, count=lambda: 64 - 16 - connections, clock=lambda: 0.0)


@pytest.mark.parametrize(
    ("limit", "in_use", "room"),
    [(1024, 24, 1024 - 24 - 128), (256, 16, 256 - 16 - 60), (64, 20, 64 - 20 - 16), (20, 15, 0), (None, 9999, None)],
)
def test_room_leaves_descriptors_for_files(limit: int | None, in_use: int, room: int | None) -> None:
    assert connection_room(limit, in_use) == room


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_out_of_descriptors_is_told_from_other_errors(number: int) -> None:
    assert is_out_of_descriptors(OSError(number, "x"))
    wrapped = ConnectionError("x")
    wrapped.__cause__ = OSError(number, "x")
    assert is_out_of_descriptors(wrapped)
    assert not is_out_of_descriptors(OSError(errno.ECONNREFUSED, "x"))


async def test_connections_wait_for_room(open_pool: OpenPool, scripted: Any) -> None:
    server = scripted([OK])
    pool = open_pool(room_for(3))
    await asyncio.gather(*(pool.send(origin_of(server), REQUEST) for _ in range(20)))
    assert len(server.requests) == 20
    assert server.connections <= 3


async def test_a_pool_has_one_connection_however_little_room_there_is(open_pool: OpenPool, scripted: Any) -> None:
    server = scripted([OK])
    pools = [open_pool(room_for(0)) for _ in range(2)]
    for pool in pools:
        await asyncio.gather(*(pool.send(origin_of(server), REQUEST) for _ in range(5)))
    assert (len(server.requests), server.connections) == (10, 2)


async def test_idle_connections_make_room_for_another_provider(open_pool: OpenPool, scripted: Any) -> None:
    servers = [scripted([OK]), scripted([OK])]
    limit = room_for(2)
    pools = [open_pool(limit) for _ in servers]
    for _ in range(3):
        for pool, server in zip(pools, servers, strict=True):
            await asyncio.gather(*(pool.send(origin_of(server), REQUEST) for _ in range(2)))
    assert [len(server.requests) for server in servers] == [6, 6]
    assert sum(pool.connection_count for pool in pools) <= 2


async def test_a_connection_without_a_descriptor_is_tried_again(
    open_pool: OpenPool, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, failures = scripted([OK]), iter(range(5))
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def create_connection(*args: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            raise OSError(errno.EMFILE, "Too many open files")
        return await connect(*args, **options)

    monkeypatch.setattr(loop, "create_connection", create_connection)
    monkeypatch.setattr(connection_pool, "DESCRIPTOR_RETRY_S", 0.001)
    pool = open_pool(DescriptorLimit(limit=lambda: None))
    await asyncio.gather(*(pool.send(origin_of(server), REQUEST) for _ in range(10)))
    assert len(server.requests) == 10


async def test_a_connection_is_given_up_in_the_end(
    open_pool: OpenPool, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def create_connection(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    server = scripted([OK])
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    monkeypatch.setattr(connection_pool, "DESCRIPTOR_RETRY_S", 0.001)
    monkeypatch.setattr(connection_pool, "DESCRIPTOR_TIMEOUT_S", 0.01)
    pool = open_pool(DescriptorLimit(limit=lambda: None))
    with pytest.raises(CannotConnectError) as caught:
        await pool.send(origin_of(server), REQUEST)
    assert is_out_of_descriptors(caught.value)


RUN = """
import json, resource, sys
limit, concurrency, url, stream = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "stream"
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
import llmhub
from llmhub.config import Settings
endpoint = llmhub.Endpoint(base_url=url, api_key="k")
with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=sys.argv[5]) as hub:
    frame = {"n": [str(number) for number in range(300)]}
    table = llmhub.complete_table(
        frame, "Say {n}", model="openai/gpt-4o-mini", hub=hub, concurrency=concurrency, progress=False, stream=stream
    )
print(json.dumps({name: table.column(name).to_pylist() for name in ("status", "error")}))
print(table.column("cost_usd").null_count)
"""


@posix
@pytest.mark.parametrize(("limit", "concurrency"), [(64, 64), (128, 256)])
@pytest.mark.parametrize("kind", ["whole", "stream"])
def test_all_rows_are_answered_with_few_descriptors(tmp_path: Any, limit: int, concurrency: int, kind: str) -> None:
    with serving(Simulator(latency=Latency(0.02))) as served:
        script = textwrap.dedent(RUN)
        arguments = [str(limit), str(concurrency), served.base_url("openai"), kind, str(tmp_path / "runs.db")]
        ran = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        columns, unknown_costs = ran.stdout.splitlines()
        assert set(json.loads(columns)["status"]) == {"ok"}, set(json.loads(columns)["error"])
        assert unknown_costs == "0"
        assert ran.stderr == ""
        assert served.counts()["requests"] == 300


def test_descriptors_in_use_are_counted() -> None:
    count = file_descriptors.count_open()
    assert count is None or count > 3
