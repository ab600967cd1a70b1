"""HTTP server of the simulated providers, in the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from llmhub.sim.faults import Faults
from llmhub.sim.handler import ResponsePlan, SimRequestHandler, find_provider
from llmhub.sim.servers.fake_provider import JSON_HEADERS, encode_json
from llmhub.sim.settings import Simulator
from llmhub.sim.types import SimError, SimHttpRequest

MAX_BODY_BYTES: Final = 512 << 20
BACKLOG: Final = 4096
"""Pending connections: clients open a thousand at once."""
LINGER_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with a timeout of 0: closing the socket sends a TCP reset."""
DRIP_PIECES: Final = 16
"""Pieces of a response with fault ``drip``."""


ACCEPTING_CYCLES: Final = 4
"""Cycles of the event loop after which the server knows of a connection that was accepted."""


@dataclass(frozen=True, slots=True)
class SimulatorServer:
    """A running simulator."""

    url: str
    handler: SimRequestHandler
    _runner: web.ServerRunner

    def counts(self) -> dict[str, Any]:
        """Return the request counters as a JSON object."""
        return self.handler.counters.snapshot()

    def reset(self) -> None:
        """Reset the request counters."""
        self.handler.counters = self.handler.counters.restarted()

    def set_faults(self, faults: Faults) -> None:
        """Replace the injected faults."""
        self.handler.faults = faults

    def advance_clock(self, seconds: float) -> None:
        """Set the clock of batches forward."""
        self.handler.batches.advance(seconds)

    async def stop(self) -> None:
        """Stop the server and close its connections."""
        # A server that is closed while it accepts a connection does not close that one (CPython issue 109564), so it
        # accepts no more, learns of those that it has accepted, and is closed then.
        loop = asyncio.get_running_loop()
        for site in self._runner.sites:
            server: Any = site._server  # noqa: SLF001 - there is no other way to its sockets
            for listening in server.sockets:
                with contextlib.suppress(NotImplementedError, RuntimeError):  # of other event loops
                    loop.remove_reader(listening.fileno())
        for _ in range(ACCEPTING_CYCLES):
            await asyncio.sleep(0)
        await self._runner.cleanup()


async def aserve(settings: Simulator) -> SimulatorServer:
    """Start a simulator in the running event loop.

    Raises
    ------
    OSError
        If the address is in use or not local.
    """
    handler = SimRequestHandler(settings)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await _handle_request(handler, request)

    server = web.Server(
        handle, request_factory=_request_factory(), handler_cancellation=True, access_log=None, keepalive_timeout=600.0
    )
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG).start()
    except OSError:
        await runner.cleanup()
        raise
    host, port = runner.addresses[0][:2]
    return SimulatorServer(f"http://{f'[{host}]' if ':' in host else host}:{port}", handler, runner)


@contextlib.asynccontextmanager
async def aserving(settings: Simulator) -> AsyncIterator[SimulatorServer]:
    """Run a simulator for a ``with`` block."""
    simulator = await aserve(settings)
    try:
        yield simulator
    finally:
        await simulator.stop()


def _request_factory() -> Callable[..., web.BaseRequest]:
    """Return a factory of requests with large bodies."""
    loop = asyncio.get_running_loop()

    def make(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

    return make


async def _handle_request(handler: SimRequestHandler, request: web.BaseRequest) -> web.StreamResponse:
    """Handle one request."""
    path, _, query = request.raw_path.partition("?")
    provider = find_provider(path)
    if provider is None:
        return await _handle_control(handler, request, path)
    status, body_key = "none", None
    handler.counters.start_request(provider.name)
    try:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            plan = handler.plan_error(provider, SimError(kind="too_large"))
        else:
            body_key = handler.counters.track_body(path, body)
            rest = path[len(provider.prefix) :]
            http_request = SimHttpRequest(request.method, path, rest, query, request.headers, body)
            plan = handler.plan_response(provider, http_request, time.time(), time.monotonic())
        if plan.fault not in {"reset", "hang"}:
            status = str(plan.reply.status)
        return await _send_response(request, plan, handler.faults)
    finally:
        handler.counters.end_request(status, body_key)


async def _send_response(request: web.BaseRequest, plan: ResponsePlan, faults: Faults) -> web.StreamResponse:
    """Send a planned response, with its delays and faults."""
    if plan.fault == "hang":
        await asyncio.Event().wait()
    if plan.fault == "reset":
        return _reset_connection(request)
    if plan.fault == "drip":
        return await _send_dripping(request, plan, faults.drip_s)
    if plan.events:
        return await _send_stream(request, plan)
    if plan.duration_s:
        await asyncio.sleep(plan.duration_s)
    if plan.fault == "truncate":
        return await _send_truncated(request, plan.reply.body, _new_stream_response(plan, len(plan.reply.body)))
    return web.Response(status=plan.reply.status, headers=plan.reply.headers, body=plan.reply.body)


async def _send_stream(request: web.BaseRequest, plan: ResponsePlan) -> web.StreamResponse:
    """Send events, each when it is due; all at once without delays."""
    response = _new_stream_response(plan, None)
    events = plan.events
    if plan.fault == "truncate":
        middle = len(events) // 2
        events = (*events[:middle], events[middle][: len(events[middle]) // 2])
    if plan.due_s:
        clock = asyncio.get_running_loop().time
        began = clock()
        for due_s, event in zip(plan.due_s, events, strict=False):
            await asyncio.sleep(max(began + due_s - clock(), 0))
            if not response.prepared:
                await response.prepare(request)
            await response.write(event)
    else:
        await response.prepare(request)
        await response.write(b"".join(events))
    if plan.fault == "truncate" and request.transport is not None:
        request.transport.close()
    return response


def _new_stream_response(plan: ResponsePlan, length: int | None) -> web.StreamResponse:
    """Return a response whose body is written in pieces."""
    response = web.StreamResponse(status=plan.reply.status, headers=plan.reply.headers)
    response.content_length = length
    return response


async def _send_dripping(request: web.BaseRequest, plan: ResponsePlan, pause_s: float) -> web.StreamResponse:
    """Send a body or stream in small pieces with pauses."""
    content = b"".join(plan.events) or plan.reply.body
    response = _new_stream_response(plan, None if plan.events else len(content))
    if plan.duration_s or plan.due_s:
        await asyncio.sleep(plan.duration_s or plan.due_s[0])
    await response.prepare(request)
    size = max(1, -(-len(content) // DRIP_PIECES))
    for start in range(0, len(content), size):
        if start:
            await asyncio.sleep(pause_s)
        await response.write(content[start : start + size])
    return response


async def _send_truncated(request: web.BaseRequest, body: bytes, response: web.StreamResponse) -> web.StreamResponse:
    """Send half of the announced body and close the connection."""
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _reset_connection(request: web.BaseRequest) -> web.StreamResponse:
    """Reset the connection."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        request.transport.abort()
    return web.Response()


async def _handle_control(  # noqa: PLR0911 - one case each
    handler: SimRequestHandler, request: web.BaseRequest, path: str
) -> web.StreamResponse:
    """Serve the simulator's control routes, which are not counted."""
    match request.method, path:
        case "GET", "/sim/health":
            return _json_response({"status": "ok"})
        case "GET", "/sim/counts":
            return _json_response(handler.counters.snapshot())
        case "POST", "/sim/reset":
            handler.counters = handler.counters.restarted()
            return _json_response({"status": "ok"})
        case "POST", "/sim/clock":
            try:
                seconds = msgspec.json.decode(await request.read(), type=dict[str, float])["advance_s"]
            except (msgspec.DecodeError, KeyError) as error:
                return _json_response({"error": f"invalid clock: {error}"}, 400)
            handler.batches.advance(seconds)
            return _json_response({"status": "ok"})
        case "POST", "/sim/faults":
            try:
                rates = msgspec.json.decode(await request.read() or b"{}", type=dict[str, float])
                handler.faults = Faults(**rates)
            except (msgspec.DecodeError, TypeError, ValueError) as error:
                return _json_response({"error": f"invalid faults: {error}"}, 400)
            return _json_response({"status": "ok"})
        case _:
            return _json_response({"error": f"no route for {request.method} {path}"}, 404)


def _json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, headers=JSON_HEADERS, body=encode_json(value))
