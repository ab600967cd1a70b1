"""Pools of keep-alive HTTP/1.1 connections for requests whose reply is read as a whole.

A completion is one small request and one small reply, so a general HTTP client spends most of a row's time on what such
an exchange does not need: a response object, a reader, a timer, cookies, redirects. Here a request is one ``write`` and
a reply is one future. `llmhub.engine.transport` sends everything else (proxies, streams, large bodies, unusual headers)
with aiohttp.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import zip_longest
from math import inf
from typing import Any, Final, TypeAlias

from llmhub.engine.file_descriptors import PROCESS_LIMIT, DescriptorLimit, is_out_of_descriptors
from llmhub.engine.http1 import InvalidReplyError, Origin, Reply, ReplyParser, ReplyTooLargeError

KEEP_ALIVE_S: Final = 30.0
"""Longest time a connection is kept open without a request."""
DNS_CACHE_S: Final = 10.0
"""How long the addresses of a host are reused."""
DESCRIPTOR_RETRY_S: Final = 0.1
"""Seconds before a connection for which no file descriptor was free is tried again, unless another one is closed."""
DESCRIPTOR_TIMEOUT_S: Final = 60.0
"""Seconds after which such a connection is given up."""
HAPPY_EYEBALLS_DELAY_S: Final = 0.25
"""Seconds before the next address of a host is tried as well (RFC 8305)."""


class CannotConnectError(ConnectionError):
    """No connection was made, so nothing was sent; ``__cause__`` has the reason."""


class ConnectTimeoutError(TimeoutError):
    """No connection was made in time, so nothing was sent."""


class TlsError(CannotConnectError):
    """The TLS handshake failed, in most cases because the certificate cannot be verified."""


class Connection(asyncio.Protocol):
    """One connection, for one request at a time.

    Parameters
    ----------
    on_closed
        Called when the connection is closed.
    """

    __slots__ = ("_on_closed", "_parser", "_transport", "_waiter", "idle_since", "is_open", "loop", "origin")

    def __init__(self, origin: Origin, on_closed: Callable[[Connection], None]) -> None:
        self.origin = origin
        self.is_open = False
        self.idle_since = 0.0
        self._on_closed = on_closed
        self._parser: ReplyParser | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._transport: Any = None
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the transport."""
        self._transport = transport
        self.is_open = True
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                # A provider may take minutes for an answer; without probes, routers drop the connection.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    async def exchange(self, request: bytes, max_body_bytes: int) -> Reply:
        """Send a request and return its reply; the connection is closed if that fails or is cancelled."""
        waiter: asyncio.Future[Reply] = self.loop.create_future()
        self._waiter = waiter
        self._parser = ReplyParser(max_body_bytes)
        try:
            self._transport.write(request)
            return await waiter
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = self._parser = None

    def data_received(self, data: bytes) -> None:
        """Parse the bytes of the reply. Without a request, nothing may come: the connection is closed."""
        parser, waiter = self._parser, self._waiter
        if parser is None or waiter is None or waiter.done():
            self.close()
            return
        try:
            parser.feed(data)
        except (InvalidReplyError, ReplyTooLargeError) as error:
            self.close()
            waiter.set_exception(error)
            return
        if parser.reply is not None:
            if not parser.is_reusable or self._transport.get_write_buffer_size():
                self.close()
            waiter.set_result(parser.reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the reply, which may be an error."""
        self._mark_closed()
        parser, waiter = self._parser, self._waiter
        if parser is None or waiter is None or waiter.done():
            return
        if exc is not None:
            # A time-out of the operating system is a lost connection, not one of ours.
            lost = isinstance(exc, OSError) and not isinstance(exc, TimeoutError)
            waiter.set_exception(exc if lost else InvalidReplyError(str(exc)))
            return
        try:
            parser.feed_eof()
        except (InvalidReplyError, ReplyTooLargeError) as error:
            waiter.set_exception(error)
        else:
            assert parser.reply is not None  # noqa: S101 - complete, or an error
            waiter.set_result(parser.reply)

    def close(self) -> None:
        """Close the connection at once."""
        if self.is_open:
            self._mark_closed()
            self._transport.abort()

    def _mark_closed(self) -> None:
        if self.is_open:
            self.is_open = False
            self._on_closed(self)


IpAddress: TypeAlias = tuple[str, int]
"""An address in digits, and a port."""


class ConnectionPool:
    """The connections to the origins of one provider. Use it on one event loop only.

    Parameters
    ----------
    size
        Maximum number of connections. Requests beyond it wait, first in, first out.
    connect_timeout_s
        Seconds until a connection is established.
    max_reply_bytes
        Longer replies are an error.
    tls_context
        Makes the TLS context, when the first connection needs it.
    descriptors
        The room for connections of this process; without room, requests wait as for ``size``.
    """

    def __init__(
        self,
        size: int,
        connect_timeout_s: float,
        max_reply_bytes: int,
        tls_context: Callable[[], ssl.SSLContext],
        descriptors: DescriptorLimit = PROCESS_LIMIT,
    ) -> None:
        self._size = size
        self._connect_timeout_s = connect_timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._make_tls_context = tls_context
        self._descriptors = descriptors
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._connecting = 0
        self._lent = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._addresses: dict[Origin, tuple[float, asyncio.Future[list[IpAddress]]]] = {}
        self._tls: ssl.SSLContext | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def send(self, origin: Origin, request: bytes) -> Reply:
        """Send a request and return its reply.

        Raises
        ------
        CannotConnectError, ConnectTimeoutError, TlsError
            Nothing was sent.
        OSError, ReplyTooLargeError
            The connection was lost, or the reply is invalid or too long.
        """
        idle = self._idle.get(origin)
        connection = idle.pop() if idle else await self._acquire(origin)
        try:
            return await connection.exchange(request, self._max_reply_bytes)
        finally:
            if connection.is_open:
                self._release(connection)

    def close(self) -> None:
        """Close all connections; later requests open new ones."""
        for connection in tuple(self._open):
            connection.close()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    async def _acquire(self, origin: Origin) -> Connection:
        """Return an idle connection, or a new one as soon as pool and process have room for it."""
        clock = asyncio.get_running_loop().time
        give_up_at = inf
        while True:
            idle = self._idle.get(origin)
            if idle:
                return idle.pop()
            retry_s: float | None = None
            if self._has_place() and (
                self._descriptors.has_room(self)
                or self._descriptors.make_room(self)
                or not self.connection_count  # nothing would wake the request
            ):
                try:
                    return await self._connect(origin)
                except CannotConnectError as error:
                    give_up_at = min(give_up_at, clock() + DESCRIPTOR_TIMEOUT_S)
                    if not is_out_of_descriptors(error) or clock() >= give_up_at:
                        raise
                    self._descriptors.on_exhausted()
                    retry_s = DESCRIPTOR_RETRY_S
            await self._wait_turn(retry_s)

    def _has_place(self) -> bool:
        """Return whether another connection may be in use, after closing an idle one if need be."""
        return self.connection_count + self._lent < self._size or self.close_idle()

    @asynccontextmanager
    async def lend_place(self) -> AsyncIterator[None]:
        """Lend the place of a connection, as soon as there is one, to a request that is sent in another way."""
        while not self._has_place():
            await self._wait_turn(None)
        self._lent += 1
        try:
            yield
        finally:
            self._lent -= 1
            self._wake_next()

    async def _wait_turn(self, timeout_s: float | None) -> None:
        """Wait until a connection is released or closed, or for ``timeout_s``."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        timer = None if timeout_s is None else loop.call_later(timeout_s, _complete, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake_next()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            with suppress(ValueError):  # unless it was woken
                self._waiting.remove(turn)

    def _release(self, connection: Connection) -> None:
        now = connection.idle_since = connection.loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweep is None:
            self._schedule_sweep(now + KEEP_ALIVE_S)
        if self._waiting:
            self._wake_next()

    def _wake_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _on_closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin, ())
        if connection in idle:
            self._idle[connection.origin].remove(connection)
        self._wake_next()

    @property
    def connection_count(self) -> int:
        """Number of connections that are open or being opened."""
        return len(self._open) + self._connecting

    def close_idle(self) -> bool:
        """Close the connection that has been idle longest; return whether there was one."""
        oldest = min((idle[0] for idle in self._idle.values() if idle), key=lambda each: each.idle_since, default=None)
        if oldest is not None:
            oldest.close()
        return oldest is not None

    def _schedule_sweep(self, at: float) -> None:
        self._sweep = asyncio.get_running_loop().call_at(at, self._close_stale)

    def _close_stale(self) -> None:
        """Close connections that have been idle for long: the server is about to close them."""
        self._sweep = None
        stale_since = asyncio.get_running_loop().time() - KEEP_ALIVE_S
        for idle in tuple(self._idle.values()):
            for connection in [each for each in idle if each.idle_since <= stale_since]:
                connection.close()
        oldest_s = [idle[0].idle_since for idle in self._idle.values() if idle]
        if oldest_s:
            self._schedule_sweep(min(oldest_s) + KEEP_ALIVE_S)

    # Connecting

    async def _connect(self, origin: Origin) -> Connection:
        self._connecting += 1
        connection: Connection | None = None
        try:
            connection = await self._open_connection(origin)
            self._open.add(connection)
        finally:
            self._connecting -= 1
            if connection is None:
                self._wake_next()
        if not connection.is_open:
            self._open.discard(connection)
            raise InvalidReplyError("the server closed the connection without a reply")
        return connection

    async def _open_connection(self, origin: Origin) -> Connection:
        try:
            tls = await self._tls_context() if origin.is_tls else None
            addresses = await self._resolve(origin)
            async with asyncio.timeout(self._connect_timeout_s):
                return await _first_connected([partial(self._connect_to, origin, tls, ip) for ip in addresses])
        except ssl.SSLError as error:
            raise TlsError(str(error)) from error
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:  # ours, not the operating system's
                raise ConnectTimeoutError(f"no connection within {self._connect_timeout_s:g} s") from error
            raise CannotConnectError(str(error)) from error

    async def _connect_to(self, origin: Origin, tls: ssl.SSLContext | None, address: IpAddress) -> Connection:
        """Open a connection to one address of a host."""
        connection = Connection(origin, self._on_closed)
        host, port = address
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                host,
                port,
                ssl=tls,
                server_hostname=origin.host.rstrip(".") if tls is not None else None,
            )
        except BaseException:
            connection.close()
            raise
        return connection

    async def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Loading the certificates takes tens of milliseconds.
            self._tls = await asyncio.get_running_loop().run_in_executor(None, self._make_tls_context)
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    async def _resolve(self, origin: Origin) -> list[IpAddress]:
        """Return the addresses of a host; requests at the same time share one look-up."""
        loop = asyncio.get_running_loop()
        expires_at, addresses = self._addresses.get(origin, (0.0, None))
        if addresses is None or expires_at < loop.time():
            looking_up = loop.create_task(_look_up(origin))
            looking_up.add_done_callback(lambda done: done.cancelled() or done.exception())
            addresses = looking_up
            self._addresses[origin] = (loop.time() + DNS_CACHE_S, addresses)
        try:
            # Cancelling one request must not cancel the look-up of the others.
            return await asyncio.shield(addresses)
        except BaseException:
            if addresses.done() and self._addresses.get(origin, (0.0, None))[1] is addresses:
                del self._addresses[origin]
            raise


def _complete(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


async def _look_up(origin: Origin) -> list[IpAddress]:
    """Return the addresses of a host, its address families in turns."""
    infos = await asyncio.get_running_loop().getaddrinfo(
        origin.host, origin.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    by_family: dict[int, list[IpAddress]] = {}
    for family, _, _, _, address in infos:
        by_family.setdefault(family, []).append((str(address[0]), origin.port))
    turns = zip_longest(*by_family.values())
    return [address for turn in turns for address in turn if address is not None]


async def _first_connected(attempts: Sequence[Callable[[], Coroutine[Any, Any, Connection]]]) -> Connection:
    """Return the first connection that is made; start the next attempt when one fails or takes long (RFC 8305).

    Written here because the sockets of `aiohappyeyeballs` fail on uvloop: an attempt that takes over the number of a
    closed socket gets its error.
    """
    if len(attempts) == 1:
        return await attempts[0]()
    errors: list[BaseException] = []
    running: set[asyncio.Task[Connection]] = set()
    remaining = list(attempts)
    winner: Connection | None = None
    try:
        while winner is None:
            if remaining:
                running.add(asyncio.get_running_loop().create_task(remaining.pop(0)()))
            if not running:
                raise errors[0] if errors else OSError("the host has no address")
            delay_s = HAPPY_EYEBALLS_DELAY_S if remaining else None
            done, _ = await asyncio.wait(running, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None:
                    running.discard(task)
                    errors.append(error)
                elif winner is None:
                    running.discard(task)
                    winner = task.result()
        return winner
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_late)


def _close_late(task: asyncio.Task[Connection]) -> None:
    """Close the connection of an attempt that was not the first."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
