"""Start, drain and stop a service: on the engine's loop in this process, or until a signal (``llmhub serve``)."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from llmhub.core.errors import invalid
from llmhub.engine.event_loop import background_loop, submit
from llmhub.engine.gc_tuning import DEFAULT_GC_THRESHOLDS, RELAXED_GC_THRESHOLD
from llmhub.server.app import build_app, direct_handler
from llmhub.server.groups import GROUPS
from llmhub.server.routes import RouteGroup
from llmhub.server.service import Service

BACKLOG: Final = 4096
"""Connections that wait to be accepted: clients open a thousand at once."""
LINGERING_TIME_S: Final = 1.0
"""Longest wait for the rest of a body that was refused."""
ACCEPTING_CYCLES: Final = 4
"""Cycles of the event loop after which a server knows of a connection that was accepted."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Longest wait for connections whose requests were cancelled."""


class _TimedRunner(web.AppRunner):
    """A runner that disconnects clients which do not send the head of their first request in time."""

    def __init__(self, app: web.Application, *, header_timeout_s: float, **arguments: Any) -> None:
        super().__init__(app, **arguments)
        self._header_timeout_s = header_timeout_s

    def handle_directly(self, service: Service, groups: Sequence[RouteGroup]) -> None:
        """Answer routes of a constant path without the application's router, once it is set up."""
        server: Any = super().server
        server.request_handler = direct_handler(server.request_handler, service, groups)

    @property
    def server(self) -> Any:
        """Factory of connections, as sites call it."""
        make = super().server
        return None if make is None else partial(_timed_connection, make, self._header_timeout_s)


def _timed_connection(make: Callable[[], RequestHandler], timeout_s: float) -> RequestHandler:
    connection = make()
    asyncio.get_running_loop().call_later(timeout_s, _close_without_request, connection)
    return connection


def _close_without_request(connection: RequestHandler) -> None:
    if not connection._request_count and connection.transport is not None:  # noqa: SLF001 - not public
        connection.transport.abort()


class RunningService:
    """A service that listens. Use it on the engine's loop only."""

    def __init__(self, service: Service, runner: web.AppRunner, stack: AsyncExitStack) -> None:
        self.service = service
        self._runner = runner
        self._stack = stack
        self._hurry = asyncio.Event()

    @property
    def url(self) -> str:
        """Address of the service."""
        host, port = self._runner.addresses[0][:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def hurry(self) -> None:
        """End a drain that is going on: cancel the requests in progress."""
        self._hurry.set()

    async def _wait_idle(self) -> bool:
        """Wait until no request is in progress, or the time is over; return whether all were completed."""
        idle = asyncio.ensure_future(self.service.wait_idle(self.service.settings.drain_timeout_s))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait([idle, hurry], return_when=asyncio.FIRST_COMPLETED)
        completed = idle.done() and idle.result()
        idle.cancel()
        hurry.cancel()
        return completed

    async def stop(self, *, drain: bool = True) -> bool:
        """Stop the service; return whether every request in progress was completed.

        Parameters
        ----------
        drain
            Whether to wait for requests in progress, for ``drain_timeout_s``; they are cancelled afterwards.
        """
        service = self.service
        service.begin_drain()
        await _stop_listening(self._runner)
        is_idle = await self._wait_idle() if drain else not service.active_requests
        service.stop.request()
        service.stop.request()
        await self._runner.cleanup()
        await self._stack.aclose()
        service.state = "stopped"
        return is_idle


async def _stop_listening(runner: web.AppRunner) -> None:
    """Accept no more connections.

    A server that is closed while it accepts a connection does not close that one (CPython issue 109564), so it learns
    of those that it has accepted first.
    """
    loop = asyncio.get_running_loop()
    for site in runner.sites:
        server: Any = site._server  # noqa: SLF001 - there is no other way to its sockets
        for listening in server.sockets:
            with suppress(NotImplementedError, RuntimeError):  # of other event loops
                loop.remove_reader(listening.fileno())
    for _ in range(ACCEPTING_CYCLES):
        await asyncio.sleep(0)
    for site in list(runner.sites):
        await site.stop()


async def start(service: Service, groups: Sequence[RouteGroup] = GROUPS) -> RunningService:
    """Start listening, on the engine's loop.

    Raises
    ------
    BadRequestError
        The address cannot be bound.
    """
    settings = service.settings
    service.groups = groups
    app = build_app(service, groups)
    runner = _TimedRunner(
        app,
        header_timeout_s=settings.header_timeout_s,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=settings.keepalive_s,
        shutdown_timeout=CLOSE_TIMEOUT_S,
        lingering_time=LINGERING_TIME_S,
        max_line_size=settings.max_header_bytes,
        max_field_size=settings.max_header_bytes,
    )
    async with AsyncExitStack() as stack:
        for group in groups:
            await stack.enter_async_context(group.lifespan(service))
        await runner.setup()
        runner.handle_directly(service, groups)
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG).start()
        except OSError as error:
            message = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
            raise invalid("server.port", message) from None
        service.state = "ready"
        return RunningService(service, runner, stack.pop_all())
    raise AssertionError  # pragma: no cover - the block returns or raises


@contextmanager
def serving(service: Service, groups: Sequence[RouteGroup] = GROUPS) -> Iterator[RunningService]:
    """Run a service on the engine's loop for a ``with`` block, and close its hub.

    Examples
    --------
    >>> from llmhub.server.service import open_service
    >>> from llmhub.server.server_settings import ServerSettings
    >>> with serving(open_service(ServerSettings(port=0, cache="none"))) as running:
    ...     running.url.startswith("http://127.0.0.1:")
    True
    """
    running = submit(start(service, groups)).result()
    try:
        yield running
    finally:
        submit(running.stop(drain=False)).result()
        service.hub.close()


def tune_gc() -> None:
    """Spare the garbage collector what lives as long as the process, and let it run less often.

    A request makes about a hundred objects that could form cycles, and none that do. With the default thresholds the
    collector takes a sixth of the CPU time of a request. For a process of the service's own only.
    """
    first, *rest = gc.get_threshold()
    if gc.isenabled() and first in DEFAULT_GC_THRESHOLDS:
        gc.collect()
        gc.freeze()
        gc.set_threshold(RELAXED_GC_THRESHOLD, *rest)


def serve(service: Service, on_start: object = None) -> bool:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cancels what is in progress.

    Parameters
    ----------
    on_start
        Called with the address once the service listens.

    Returns
    -------
    bool
        Whether every request in progress was completed.
    """
    stopping = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        running = submit(start(service)).result()
        tune_gc()
        if callable(on_start):
            on_start(running.url)
        stopping.wait()
        stopping.clear()
        stopped = submit(running.stop())
        stopped.add_done_callback(lambda _: stopping.set())
        stopping.wait()
        if not stopped.done():  # a second signal
            background_loop().call_soon_threadsafe(running.hurry)
        return stopped.result()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        service.hub.close()
