from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmhub.engine import connection_pool
from llmhub.engine.connection_pool import CannotConnectError, ConnectionPool, ConnectTimeoutError
from llmhub.engine.http1 import Origin, Reply

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b'{"text": "Hello"}'
SIZED = OK + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture
async def pools() -> AsyncIterator[Any]:
    opened: list[ConnectionPool] = []

    def open_pool(size: int = 10, connect_timeout_s: float = 10.0) -> ConnectionPool:
        opened.append(ConnectionPool(size, connect_timeout_s, 100_000, ssl.create_default_context))
        return opened[-1]

    yield open_pool
    for pool in opened:
        pool.close()


def origin_of(server: Any) -> Origin:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return Origin(host, int(port), is_tls=False)


async def test_connection_is_used_again(pools: Any, scripted: Any) -> None:
    server, pool = scripted([SIZED]), pools()
    for _ in range(3):
        assert (await pool.send(origin_of(server), REQUEST)).body == BODY
    assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.parametrize(
    "first",
    [
        SIZED + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    ],
)
async def test_connection_is_not_used_again(pools: Any, scripted: Any, first: bytes) -> None:
    server, pool = scripted([first], [SIZED]), pools()
    await pool.send(origin_of(server), REQUEST)
    assert (await pool.send(origin_of(server), REQUEST)).body == BODY
    assert server.connections == 2


async def test_reply_that_nobody_asked_for_is_not_taken_for_the_next(pools: Any, scripted: Any) -> None:
    late = OK + b"content-length: 4\r\n\r\nevil"
    read = threading.Event()
    server, pool = scripted([SIZED, read, late], [SIZED]), pools()
    await pool.send(origin_of(server), REQUEST)
    read.set()
    await asyncio.get_running_loop().run_in_executor(None, server.disconnected.wait, 10)
    assert (await pool.send(origin_of(server), REQUEST)).body == BODY
    assert server.connections == 2


async def test_waiting_requests_are_sent_in_order(pools: Any, scripted: Any) -> None:
    server, pool = scripted([SIZED]), pools(size=1)
    requests = [REQUEST.replace(b"{}", b"%02d" % number) for number in range(10)]
    await asyncio.gather(*(pool.send(origin_of(server), request) for request in requests))
    assert server.bodies == [b"%02d" % number for number in range(10)]
    assert server.connections == 1


async def test_lent_places_count_as_connections(pools: Any, scripted: Any) -> None:
    server, pool, events = scripted([SIZED], [SIZED]), pools(size=2), list[str]()

    async def send(name: str) -> None:
        await pool.send(origin_of(server), REQUEST)
        events.append(name)

    async with pool.lend_place():
        async with pool.lend_place():
            waiting = asyncio.ensure_future(send("sent"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not server.connections
            events.append("given back")
        await waiting
        async with pool.lend_place():  # the idle connection is closed for it
            assert pool.connection_count == 0
    assert events == ["given back", "sent"]
    await send("again")
    assert server.connections == 2


async def test_full_pool_closes_an_idle_connection_to_another_origin(pools: Any, scripted: Any) -> None:
    first, second, pool = scripted([SIZED]), scripted([SIZED]), pools(size=1)
    for server in (first, second, first):
        assert (await pool.send(origin_of(server), REQUEST)).body == BODY
    assert (first.connections, second.connections) == (2, 1)


async def test_cancelled_request_passes_its_turn_on(pools: Any, scripted: Any) -> None:
    server, pool = scripted(["hang"], [SIZED]), pools(size=1)
    origin = origin_of(server)
    sending = asyncio.create_task(pool.send(origin, REQUEST))
    await asyncio.get_running_loop().run_in_executor(None, server.received.wait, 10)
    waiting = [asyncio.create_task(pool.send(origin, REQUEST)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    sending.cancel()
    await asyncio.sleep(0)
    waiting[1].cancel()
    assert (await waiting[2]).body == BODY
    for task in (sending, *waiting[:2]):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_failed_connection_lets_the_next_one_try(pools: Any, scripted: Any) -> None:
    server, pool = scripted([SIZED]), pools(size=1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = Origin("127.0.0.1", closed.getsockname()[1], is_tls=False)
    outcomes = await asyncio.gather(
        pool.send(nowhere, REQUEST), pool.send(origin_of(server), REQUEST), return_exceptions=True
    )
    assert isinstance(outcomes[0], CannotConnectError)
    assert isinstance(outcomes[1], Reply)


async def test_next_address_of_a_host_is_tried(pools: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, pool = scripted([SIZED]), pools()
    port = origin_of(server).port
    with socket.create_server(("127.0.0.1", 0)) as closed:
        closed_port = closed.getsockname()[1]
    calls: list[str] = []

    async def addresses(host: str, *_: Any, **__: Any) -> Any:
        calls.append(host)
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, ("127.0.0.1", closed_port)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses, raising=False)
    origin = Origin("provider.example", port, is_tls=False)
    replies = await asyncio.gather(*(pool.send(origin, REQUEST) for _ in range(5)))
    assert [reply.body for reply in replies] == [BODY] * 5
    assert calls == ["provider.example"]


@pytest.mark.parametrize("late", ["fails", "connects", "never connects"])
async def test_first_connection_wins_and_the_others_are_closed(
    pools: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    slow, quick, pool = scripted([SIZED]), scripted([SIZED]), pools()
    connect_to = ConnectionPool._connect_to
    proceed = asyncio.Event()

    async def addresses(*_: Any, **__: Any) -> Any:
        return [(family, 1, 6, "", (name, 0)) for family, name in ((10, "slow"), (2, "quick"))]

    async def connect(self: ConnectionPool, origin: Origin, tls: Any, address: tuple[str, int]) -> Any:
        if address[0] == "slow":
            if late == "never connects":
                await asyncio.get_running_loop().create_future()
            try:
                await proceed.wait()
            except asyncio.CancelledError:  # too late to stop
                if late == "fails":
                    raise OSError("refused") from None
        return await connect_to(
            self, origin, tls, ("127.0.0.1", origin_of(slow if address[0] == "slow" else quick).port)
        )

    monkeypatch.setattr(connection_pool, "HAPPY_EYEBALLS_DELAY_S", 0.0)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses, raising=False)
    monkeypatch.setattr(ConnectionPool, "_connect_to", connect)
    assert (await pool.send(Origin("provider.example", 80, is_tls=False), REQUEST)).body == BODY
    assert len(quick.requests) == 1
    if late == "connects":
        await asyncio.get_running_loop().run_in_executor(None, slow.disconnected.wait, 10)
        assert slow.disconnected.is_set()
    assert slow.requests == []


async def test_connecting_has_its_own_time_limit(pools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(ConnectionPool, "_connect_to", never)
    with pytest.raises(ConnectTimeoutError, match=r"0\.01 s"):
        await pools(connect_timeout_s=0.01).send(Origin("127.0.0.1", 9, is_tls=False), REQUEST)


async def test_reply_before_the_request_is_sent_closes_the_connection(pools: Any, scripted: Any) -> None:
    """The rest of the request would be read as the next one."""

    class Refusing(asyncio.Protocol):
        """Answers the first bytes and reads no more."""

        def connection_made(self, transport: Any) -> None:
            transports.append(transport)

        def data_received(self, _data: bytes) -> None:
            transports[-1].pause_reading()
            transports[-1].write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")

    transports: list[Any] = []
    server, pool = await asyncio.get_running_loop().create_server(Refusing, "127.0.0.1", 0), pools(size=1)
    origin = Origin("127.0.0.1", server.sockets[0].getsockname()[1], is_tls=False)
    for _ in range(2):
        assert (await pool.send(origin, REQUEST + b"x" * (16 << 20))).status == 413
    assert len(transports) == 2
    for transport in transports:
        transport.abort()
    server.close()


async def test_idle_connections_are_closed(pools: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_pool, "KEEP_ALIVE_S", 0.01)
    server, pool = scripted([SIZED]), pools()
    await pool.send(origin_of(server), REQUEST)
    await asyncio.get_running_loop().run_in_executor(None, server.disconnected.wait, 10)
    assert server.disconnected.is_set()
    assert (await pool.send(origin_of(server), REQUEST)).body == BODY
