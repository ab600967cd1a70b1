"""The gRPC server: completions through `Service.send`, on the engine's loop.

A client that cancels, whose deadline passes or whose connection ends cancels the handler, and with it the provider's
request. Messages are parsed here and not by gRPC, so that authentication sees the bytes that were sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio
from aiohttp import web
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from returns.pipeline import is_successful

from llmhub.core.errors import ConnectorError, LLMError, NotFound, ServerError, TimedOut, invalid, to_exception
from llmhub.core.stream import Delta
from llmhub.server.app import TOO_SLOW, UNEXPECTED, observed_request, open_context
from llmhub.server.completion_routes import ServedCompletion, apply_options
from llmhub.server.context import REQUEST_ID_HEADER, RequestContext, request_id_of
from llmhub.server.dialects import hub_completions
from llmhub.server.routes import HttpRoute
from llmhub.server.rpc import connector_pb2 as pb
from llmhub.server.rpc.error_status import status_code, status_message, status_metadata
from llmhub.server.rpc.foreign_request import foreign_request
from llmhub.server.rpc.proto_messages import ChunkStream, from_response, to_request
from llmhub.server.rpc.tls_files import TlsFiles, read_tls_files
from llmhub.server.server_settings import GrpcSettings
from llmhub.server.service import Service

LOGGER: Final = logging.getLogger("llmhub.server")
SERVICE_NAME: Final[str] = pb.DESCRIPTOR.services_by_name["LLMConnectorService"].full_name
SECTION: Final = "server.grpc"
STOP_S: Final = 0.5
"""How long calls may take to end once the service has stopped."""
KEEPALIVE_S: Final = 30.0
"""Interval of the pings that find out whether an idle client is still there."""
Rpc: TypeAlias = "grpc.aio.ServicerContext[bytes, Any]"
Answer: TypeAlias = Callable[[ServedCompletion, Rpc], Awaitable[Any]]


async def _not_http(*_: object) -> web.StreamResponse:
    raise to_exception(NotFound(message="the method is called over gRPC"))


def _route(method: str, summary: str) -> HttpRoute:
    return HttpRoute("POST", f"/{SERVICE_NAME}/{method}", _not_http, scope="completions", summary=summary)


SEND: Final = _route("SendCompletion", "Answer a completion")
STREAM: Final = _route("StreamCompletion", "Answer a completion as it arrives")


@asynccontextmanager
async def grpc_serving(service: Service, settings: GrpcSettings) -> AsyncIterator[None]:
    """Serve gRPC for an ``async with`` block.

    Raises
    ------
    BadRequestError
        The address cannot be bound, or a file of the TLS settings cannot be read.
    """
    server = grpc.aio.server(options=_options(service, settings))
    handlers = CompletionMethods(service, secure=bool(settings.tls_certificate)).handlers()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    if settings.reflection:
        reflection.enable_server_reflection(names, server)
    service.addresses["grpc"] = _listen(server, service.settings.host, settings.port, read_tls_files(settings, SECTION))
    await server.start()
    for name in ("", SERVICE_NAME):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    ending: list[asyncio.Future[None]] = []
    service.on_drain(lambda: ending.append(asyncio.ensure_future(checks.enter_graceful_shutdown())))
    try:
        yield
    finally:
        await server.stop(STOP_S)


def _options(service: Service, settings: GrpcSettings) -> Sequence[tuple[str, Any]]:
    limits = service.settings
    return (
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.header_timeout_s)),
        ("grpc.max_connection_idle_ms", int(1000 * limits.keepalive_s)),
        ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE_S)),
    )


def _listen(server: grpc.aio.Server, host: str, port: int, tls: TlsFiles | None) -> str:
    """Bind the address, and return it with its port."""
    host = f"[{host}]" if ":" in host else host
    address = f"{host}:{port}"
    try:
        if tls is None:
            bound = server.add_insecure_port(address)
        else:
            pairs = ((tls.key, tls.certificate),)
            needs_client = tls.client_ca is not None
            credentials = grpc.ssl_server_credentials(pairs, tls.client_ca, require_client_auth=needs_client)
            bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise invalid(f"{SECTION}.port", f"cannot listen on {address}{'' if tls is None else ' with these TLS files'}")
    return f"{host}:{bound}"


@dataclass(frozen=True, slots=True)
class CompletionMethods:
    """The methods of ``LLMConnectorService``."""

    service: Service
    secure: bool = False

    def handlers(self) -> dict[str, Any]:
        """Return the handlers by the names of their methods."""
        return {
            "SendCompletion": grpc.unary_unary_rpc_method_handler(
                self.send, response_serializer=pb.CompletionResponse.SerializeToString
            ),
            "StreamCompletion": grpc.unary_stream_rpc_method_handler(
                self.stream, response_serializer=pb.CompletionChunk.SerializeToString
            ),
        }

    async def send(self, body: bytes, rpc: Rpc) -> Any:
        """Answer ``SendCompletion``."""
        return await self._answer(SEND, body, rpc, _complete)

    async def stream(self, body: bytes, rpc: Rpc) -> None:
        """Answer ``StreamCompletion``."""
        await self._answer(STREAM, body, rpc, _stream)

    async def _answer(self, route: HttpRoute, body: bytes, rpc: Rpc, answer: Answer) -> Any:
        """Return what ``answer`` does, or end the call with the status of its error."""
        fields = tuple(_fields(rpc))
        request_id = request_id_of(dict(fields).get(REQUEST_ID_HEADER, ""))
        self.service.request_started()
        try:
            rpc.set_trailing_metadata(((REQUEST_ID_HEADER, request_id),))
            error: LLMError
            try:
                return await self._handle(route, fields, body, rpc, request_id, answer)
            except ConnectorError as refusal:
                error, code = refusal.error, status_code(refusal.error)
            except Exception:
                LOGGER.exception("request %s: %s", request_id, route.name)
                error, code = ServerError(message=UNEXPECTED, should_retry=False), grpc.StatusCode.INTERNAL
            await _abort(rpc, code, error, request_id)
        finally:
            self.service.request_ended()

    async def _handle(
        self,
        route: HttpRoute,
        fields: tuple[tuple[str, str], ...],
        body: bytes,
        rpc: Rpc,
        request_id: str,
        answer: Answer,
    ) -> Any:
        """Authenticate the call, and answer it within its deadline and the service's."""
        scheme = "https" if self.secure else "http"
        request = foreign_request(
            route.path, fields, body, host=self.service.addresses["grpc"], remote=_host(rpc.peer()), scheme=scheme
        )
        context = _within_deadline(await open_context(self.service, route, request, request_id), rpc)
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE_NAME, "rpc.method": route.path.rpartition("/")[2]}
        with observed_request(context, route.path.removeprefix("/"), request.headers, attributes):
            try:
                async with asyncio.timeout_at(None if context.deadline == inf else context.deadline):
                    return await answer(self._parse(body, context, request), rpc)
            except ConnectorError:  # that of a timeout is a TimeoutError too
                raise
            except TimeoutError:
                raise to_exception(TimedOut(message="not answered in time")) from None

    def _parse(self, body: bytes, context: RequestContext, request: web.Request) -> ServedCompletion:
        message = pb.CompletionRequest()
        try:
            message.ParseFromString(body)
        except DecodeError:
            raise invalid("$", "the message is not a CompletionRequest") from None
        parsed = to_request(message)
        target = self.service.target(parsed.request.model, context)
        return apply_options(ServedCompletion(self.service, context, hub_completions.DIALECT, parsed, target), request)


def _fields(rpc: Rpc) -> Iterator[tuple[str, str]]:
    """Yield names and values of the client's metadata, without binary ones."""
    for name, value in rpc.invocation_metadata() or ():
        if isinstance(value, str):
            yield name, value


def _host(peer: str) -> str:
    """Return the host of a peer.

    Examples
    --------
    >>> _host("ipv4:127.0.0.1:50123"), _host("ipv6:%5B::1%5D:50123"), _host("unix:")
    ('127.0.0.1', '::1', '')
    """
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _within_deadline(context: RequestContext, rpc: Rpc) -> RequestContext:
    remaining_s = rpc.time_remaining()
    if remaining_s is None:
        return context
    return replace(context, deadline=min(context.deadline, asyncio.get_running_loop().time() + remaining_s))


async def _complete(completion: ServedCompletion, _rpc: Rpc) -> pb.CompletionResponse:
    answer = await completion.send()
    if not is_successful(answer.outcome):
        raise to_exception(answer.outcome.failure())
    return from_response(answer.outcome.unwrap(), completion.info(answer))


async def _stream(completion: ServedCompletion, rpc: Rpc) -> None:
    """Write the content of a response as it arrives; what arrives during a write is joined to one chunk."""
    chunks, arrived = ChunkStream(), asyncio.Event()

    def on_deltas(deltas: Sequence[Delta]) -> None:
        if chunks.feed(deltas):
            arrived.set()

    sending = asyncio.create_task(completion.send(on_deltas))
    sending.add_done_callback(lambda _: arrived.set())
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            answer = sending.result() if sending.done() else None
            if answer is not None and is_successful(answer.outcome):
                chunks.finish(answer.outcome.unwrap(), completion.info(answer))
            for chunk in chunks.take():
                await _write(completion.service, rpc, chunk)
            if answer is not None:
                if not is_successful(answer.outcome):
                    raise to_exception(answer.outcome.failure())
                return
    finally:
        if not sending.done():
            sending.cancel()
            await asyncio.wait([sending])


async def _write(service: Service, rpc: Rpc, chunk: pb.CompletionChunk) -> None:
    try:
        async with asyncio.timeout(service.settings.write_timeout_s):
            await rpc.write(chunk)
    except TimeoutError:
        raise to_exception(TimedOut(message=TOO_SLOW)) from None


async def _abort(rpc: Rpc, code: grpc.StatusCode, error: LLMError, request_id: str) -> None:
    """End a call with a status. A client that reads nothing receives it when it reads again, and is not waited for."""
    try:
        async with asyncio.timeout(STOP_S):
            await rpc.abort(code, status_message(error), status_metadata(error, code, request_id))
    except TimeoutError:
        raise asyncio.CancelledError from None
