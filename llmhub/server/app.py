"""The aiohttp application: authentication, limits, deadlines, and errors in the shape of each route's API.

Every request passes through `dispatch`, which makes its context and turns errors into responses. Handlers read bodies
with `read_body` or `read_json`, and stream with `open_stream` and `write`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache, partial
from math import inf
from types import TracebackType
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.hdrs import EXPECT
from aiohttp.http_exceptions import HttpProcessingError
from returns.pipeline import is_successful

from llmhub.cache.store import StoreError
from llmhub.core.errors import (
    Cancelled,
    ConnectorError,
    InvalidRequest,
    LLMError,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServerError,
    TimedOut,
    to_exception,
)
from llmhub.core.types import Payload
from llmhub.engine.observer import CALL_ORIGIN, CallOrigin
from llmhub.observability.tracing import is_configured, server_span
from llmhub.server.access import LOCAL_CALLER
from llmhub.server.context import LANE_HEADER, LANES, REQUEST_ID_HEADER, Lane, RequestContext, request_id_of
from llmhub.server.error_replies import encode_error, error_headers, status_of
from llmhub.server.routes import ErrorEncoder, HttpRoute, RouteGroup
from llmhub.server.service import Service

LOGGER: Final = logging.getLogger("llmhub.server")
JSON: Final = "application/json"
CLIENT_CLOSED_REQUEST: Final = 499
UNEXPECTED: Final = "the service had an internal error; its log has the details under this request id"
STREAM: Final[Any] = web.RequestKey("stream", bool) if hasattr(web, "RequestKey") else "stream"
"""Set once the head of a stream was sent."""
STORE_RETRY_S: Final = 1.0
"""When a client may try again whose request needs a store that cannot be reached."""
TOO_SLOW: Final = "the client is too slow"
LARGE_BODY_BYTES: Final = 64 << 10
"""Bodies up to this size are left to the buffer of the connection."""
SLOWEST_BYTES_PER_S: Final = 100_000
"""Rate at which a client has to read a large body, besides ``write_timeout_s``."""
RequestHandler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
_decode: Final = msgspec.json.Decoder().decode


def build_app(service: Service, groups: Sequence[RouteGroup]) -> web.Application:
    """Return the application of a service with the routes of ``groups``."""
    app = web.Application(client_max_size=service.settings.max_body_bytes)
    for group in groups:
        for route in group.routes:
            app.router.add_route(route.method, route.path, partial(dispatch, service, route))
    app.router.add_route("*", "/{path:.*}", partial(refuse_unrouted, list(app.router.resources()), _encoders(groups)))
    return app


def direct_handler(app_handler: RequestHandler, service: Service, groups: Sequence[RouteGroup]) -> RequestHandler:
    """Return a handler that finds routes of a constant path by one look-up, and leaves other requests to the router."""
    routes = {(route.method, route.path): route for group in groups for route in group.routes if "{" not in route.path}

    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        route = routes.get((request.method, request.raw_path))
        if route is None or EXPECT in request.headers:
            return app_handler(request)
        return dispatch(service, route, request)

    return handle


def _encoders(groups: Sequence[RouteGroup]) -> Mapping[str, ErrorEncoder]:
    """Return how errors are encoded under each beginning of a path."""
    return {_first_segments(route.path): route.encode_error for group in groups for route in group.routes}


async def refuse_unrouted(
    resources: Sequence[web.AbstractResource], encoders: Mapping[str, ErrorEncoder], request: web.Request
) -> web.StreamResponse:
    """Answer a request without a route, in the shape of the API that it looks like.

    It is a route itself, the last one, since a middleware would cost every request.
    """
    allowed = sorted({method for resource in resources for method in (await resource.resolve(request))[1]})
    if allowed:
        message = f"{request.path:.200} allows {', '.join(allowed)}"
        error: LLMError = InvalidRequest(message=message, status=405)
    else:
        error = NotFound(message=f"no route for {request.method} {request.path:.200}")
    encoder = encoders.get(_first_segments(request.path), encode_error)
    return error_response(error, encoder, request_id_of(request.headers.get(REQUEST_ID_HEADER, "")))


def _first_segments(path: str) -> str:
    return "/".join(path.split("/")[:3])


async def dispatch(service: Service, route: HttpRoute, request: web.Request) -> web.StreamResponse:
    """Answer one request: authenticate it, call the handler within the deadline, and encode errors."""
    request_id = request_id_of(request.headers.get(REQUEST_ID_HEADER, ""))
    service.request_started()
    try:
        response = await _respond(service, route, request, request_id)
        if isinstance(response, web.Response) and (response.content_length or 0) > LARGE_BODY_BYTES:
            await _write_large(service, request, response)
        return response
    finally:
        service.request_ended()


async def _respond(service: Service, route: HttpRoute, request: web.Request, request_id: str) -> web.StreamResponse:
    """Return the handler's response, or that of its error; a stream that has begun can only be cut off."""
    try:
        context = await open_context(service, route, request, request_id)
        with observed_request(context, route.name, request.headers, {"http.route": route.path}):
            response = await _answer(service, route, request, context)
    except (ConnectorError, web.HTTPException, HttpProcessingError) as error:
        if STREAM in request:
            _abort(request)
            raise ConnectionResetError("the stream had begun") from error
        refusal = error.error if isinstance(error, ConnectorError) else _http_error(error)
        response = error_response(refusal, route.encode_error, request_id)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except StoreError as error:
        LOGGER.warning("request %s: %s: %s", request_id, route.name, error)
        if STREAM in request:
            _abort(request)
            raise
        lost = Overloaded(message="the service's store cannot be reached", retry_after_s=STORE_RETRY_S)
        response = error_response(lost, route.encode_error, request_id)
    except Exception:
        LOGGER.exception("request %s: %s", request_id, route.name)
        if STREAM in request:
            _abort(request)
            raise
        response = error_response(ServerError(message=UNEXPECTED), route.encode_error, request_id, status=500)
    if not response.prepared:
        response.headers[REQUEST_ID_HEADER] = request_id
    return response


async def _write_large(service: Service, request: web.Request, response: web.Response) -> None:
    """Write a response here, so that a client which does not accept it in time is disconnected."""
    seconds = service.settings.write_timeout_s + (response.content_length or 0) / SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(seconds):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        _abort(request)
        raise ConnectionResetError(TOO_SLOW) from None


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def open_context(service: Service, route: HttpRoute, request: web.Request, request_id: str) -> RequestContext:
    """Authenticate a request, and return its context.

    Raises
    ------
    ConnectorError
        The service takes no work, the caller is unknown or lacks the scope, or a header is wrong.
    """
    if not route.scope:
        caller = LOCAL_CALLER
    else:
        if not service.accepts_work:
            raise to_exception(Cancelled(message=f"the service is {service.state}", retry_after_s=1.0))
        authenticated = await service.access.authenticate(request, route)
        if not is_successful(authenticated):
            raise to_exception(authenticated.failure())
        caller = authenticated.unwrap()
        if route.scope not in caller.scopes:
            message = f"the key {caller.key_id} does not have the scope {route.scope!r}"
            raise to_exception(PermissionDenied(message=message))
        _require_media_type(route, request)
    timeout_s = _timeout_s(service, route)
    return RequestContext(
        request_id=request_id,
        caller=caller,
        lane=_lane(route, request),
        deadline=asyncio.get_running_loop().time() + timeout_s if timeout_s else inf,
        route=route.name,
    )


class observed_request:  # noqa: N801 - used as a function; a generator would cost every request more
    """Attribute the calls of a ``with`` block to a request, in logs, metrics and the trace that its headers name."""

    __slots__ = ("_origin", "_span", "_token")

    def __init__(
        self, context: RequestContext, name: str, headers: Mapping[str, str], attributes: Mapping[str, Any]
    ) -> None:
        caller = context.caller
        self._origin = CallOrigin(request_id=context.request_id, key_id=caller.key_id, team=caller.team)
        self._span = server_span(name, headers, attributes) if is_configured() else None

    def __enter__(self) -> None:
        self._token = CALL_ORIGIN.set(self._origin)
        if self._span is not None:
            self._span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._span is not None:
                self._span.__exit__(kind, error, traceback)
        finally:
            CALL_ORIGIN.reset(self._token)


def _timeout_s(service: Service, route: HttpRoute) -> float:
    return service.settings.request_timeout_s if route.timeout_s is None else route.timeout_s


async def _answer(
    service: Service, route: HttpRoute, request: web.Request, context: RequestContext
) -> web.StreamResponse:
    """Call the handler within its time, if that is limited."""
    if context.deadline == inf:
        return await route.handler(service, request, context)
    try:
        with service.deadlines.limit(context.deadline):
            return await route.handler(service, request, context)
    except ConnectorError:  # that of a timeout is a TimeoutError too
        raise
    except TimeoutError:
        message = f"not answered within {_timeout_s(service, route):g} s"
        raise to_exception(TimedOut(message=message)) from None


def _lane(route: HttpRoute, request: web.Request) -> Lane:
    given = request.headers.get(LANE_HEADER)
    if given is None:
        return route.lane
    for lane in LANES:
        if given == lane:
            return lane
    raise to_exception(InvalidRequest(path=LANE_HEADER, message=f"must be one of {', '.join(LANES)}"))


def _require_media_type(route: HttpRoute, request: web.Request) -> None:
    if route.request_types and request.content_type not in route.request_types:
        message = f"must be {' or '.join(route.request_types)}, not {request.content_type:.80}"
        raise to_exception(InvalidRequest(path="content-type", message=message, status=415))


def _http_error(refusal: web.HTTPException | HttpProcessingError) -> LLMError:
    """Return the error of an exception that aiohttp raised while it read the request."""
    if isinstance(refusal, HttpProcessingError):  # a part of a form has headers that are none
        return InvalidRequest(path="body", message="has a header that is not valid", status=400)
    if refusal.status == web.HTTPNotFound.status_code:
        return NotFound(message="no such resource")
    return InvalidRequest(message=(refusal.text or refusal.reason).partition("\n")[0], status=refusal.status)


# What handlers use


async def read_body(service: Service, request: web.Request) -> bytes:
    """Return the body of a request, within the limits of size and time.

    Raises
    ------
    ConnectorError
        It is too long, or does not arrive in time.
    """
    limit = service.settings.max_body_bytes
    try:
        if (request.content_length or 0) > limit:
            raise to_exception(_too_large(limit))
        if request.content.is_eof():  # it came with the head
            body = request.content.read_nowait()
            if len(body) > limit:
                raise to_exception(_too_large(limit))
            return body or await request.read()  # that of a signed request was read before
        async with asyncio.timeout(service.settings.body_timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise to_exception(_too_large(limit)) from None
    except TimeoutError:
        message = f"the body did not arrive within {service.settings.body_timeout_s:g} s"
        raise to_exception(InvalidRequest(message=message, status=408)) from None


def _too_large(limit: int) -> LLMError:
    return InvalidRequest(message=f"the body is longer than {limit} bytes", status=413)


async def read_json(service: Service, request: web.Request) -> Payload:
    """Return the JSON object in the body of a request.

    Raises
    ------
    ConnectorError
        The body is no JSON object, is too long, or does not arrive in time.
    """
    body = await read_body(service, request)
    try:
        payload = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise to_exception(InvalidRequest(path="$", message=f"the body is not JSON: {error}")) from None
    if not isinstance(payload, dict):
        message = f"the body is a JSON {type(payload).__name__}, not an object"
        raise to_exception(InvalidRequest(path="$", message=message))
    return payload


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON response."""
    return web.Response(body=_encode(value), status=status, headers={**(headers or {}), "Content-Type": JSON})


class _WrittenResponse(web.StreamResponse):
    """A response whose bytes have been passed to the connection, which stays open."""

    prepared = True
    keep_alive = True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: it was written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it was written."""


WRITTEN: Final = _WrittenResponse()


def write_json(
    request: web.Request, context: RequestContext, value: Any, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Write a JSON response of status 200, and return it; one of an unusual form is left to aiohttp.

    What aiohttp does besides for a response takes a tenth of the CPU time of a completion.
    """
    body = _encode(value)
    fields = {REQUEST_ID_HEADER: context.request_id, **headers}
    head = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    is_usual = (
        request.version == HttpVersion11
        and request.keep_alive
        and len(body) <= LARGE_BODY_BYTES
        and head.count("\r") == head.count("\n") == len(fields)
        and head.isascii()
    )
    transport = request.transport
    if not is_usual or transport is None:
        return web.Response(body=body, headers={**fields, "Content-Type": JSON})
    start = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
    transport.write(f"{start}Date: {_http_date(int(time.time()))}\r\n{head}\r\n".encode() + body)
    return WRITTEN


@lru_cache(maxsize=1)
def _http_date(now: int) -> str:
    return formatdate(now, usegmt=True)


def error_response(
    error: LLMError, encode: ErrorEncoder, request_id: str, *, status: int | None = None
) -> web.Response:
    """Return the response of an error, in the shape of an API."""
    code = status_of(error) if status is None else status
    headers = {**error_headers(error, code), REQUEST_ID_HEADER: request_id}
    return json_response(encode(error, code, request_id), status=code, headers=headers)


async def open_stream(
    request: web.Request, context: RequestContext, content_type: str, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Begin a streamed response whose pieces pass proxies unbuffered."""
    response = web.StreamResponse(
        headers={
            "content-type": content_type,
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            REQUEST_ID_HEADER: context.request_id,
            **(headers or {}),
        }
    )
    await response.prepare(request)
    request[STREAM] = True
    return response


async def write(service: Service, request: web.Request, response: web.StreamResponse, piece: bytes) -> None:
    """Write a piece of a stream; a client that does not accept it in time is disconnected.

    Raises
    ------
    ConnectionError
        The client has left or is too slow.
    """
    try:
        with service.deadlines.limit(asyncio.get_running_loop().time() + service.settings.write_timeout_s):
            await response.write(piece)
    except TimeoutError:
        _abort(request)
        raise ConnectionResetError(TOO_SLOW) from None
