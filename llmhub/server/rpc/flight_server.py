"""The Arrow Flight server: ``do_exchange`` takes prompts as record batches and returns results as they complete.

Flight calls its methods in threads of its own, two for each exchange here: one reads the client's batches, the other
writes results. All work is done on the engine's loop. A client may write its whole table before it reads a result:
``max_buffer_bytes`` of input, and of results, are kept for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import socket
import stat
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import pyarrow as pa
from aiohttp import web
from pyarrow import flight

from llmhub.core.errors import (
    AuthFailed,
    Cancelled,
    ConnectorError,
    Disconnected,
    InvalidRequest,
    LLMError,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServerError,
    TimedOut,
    invalid,
    to_exception,
)
from llmhub.engine.event_loop import StopSignal
from llmhub.server.app import TOO_SLOW, UNEXPECTED, observed_request, open_context
from llmhub.server.context import REQUEST_ID_HEADER, RequestContext, request_id_of
from llmhub.server.error_replies import encode_error, error_text, status_of
from llmhub.server.routes import HttpRoute
from llmhub.server.rpc.foreign_request import foreign_request
from llmhub.server.rpc.tls_files import TlsFiles, read_tls_files
from llmhub.server.server_settings import FlightSettings
from llmhub.server.service import Service
from llmhub.server.table_request import TableRequest, request_from_json
from llmhub.server.table_upload import used_columns
from llmhub.server.table_work import TableWork

T = TypeVar("T")

LOGGER: Final = logging.getLogger("llmhub.server")
SECTION: Final = "server.flight"
METHOD: Final = "arrow.flight.protocol.FlightService/DoExchange"
MIDDLEWARE: Final = "access"
BLOCK_ROWS: Final = 4096
POLL_S: Final = 0.05
"""Interval at which a client that waits for results is looked for."""
AUTHENTICATE_S: Final = 30.0
"""Longest wait for the answer of whoever knows the keys."""
STOP_S: Final = 1.0
"""How long exchanges may take to end once the service has stopped."""
DESCRIPTORS: Final = "/dev/fd"
INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


async def _not_http(*_: object) -> web.StreamResponse:
    raise to_exception(NotFound(message="the method is called over Arrow Flight"))


ROUTE: Final = HttpRoute(
    "POST",
    f"/{METHOD}",
    _not_http,
    scope="tables",
    summary="Send a prompt for every row of record batches, and return results as they complete",
    lane="bulk",
    timeout_s=0.0,
)
EXCEPTIONS: Final[tuple[tuple[tuple[type[Any], ...], Any], ...]] = (
    ((AuthFailed,), flight.FlightUnauthenticatedError),
    ((PermissionDenied,), flight.FlightUnauthorizedError),
    ((TimedOut,), flight.FlightTimedOutError),
    ((Overloaded, Cancelled, Disconnected), flight.FlightUnavailableError),
)
"""Flight's exceptions of error values; errors of the request become `FlightServerError`, all others internal ones."""


def flight_error(error: LLMError, request_id: str) -> Exception:
    """Return the exception of an error; its ``extra_info`` is the JSON body that HTTP clients receive."""
    status = status_of(error)
    info = _encode(encode_error(error, status, request_id))
    client_error = (
        flight.FlightServerError if status < web.HTTPInternalServerError.status_code else flight.FlightInternalError
    )
    kind = next((exception for types, exception in EXCEPTIONS if isinstance(error, types)), client_error)
    exception: Exception = kind(error_text(error), info)
    return exception


@asynccontextmanager
async def flight_serving(service: Service, settings: FlightSettings) -> AsyncIterator[None]:
    """Serve Arrow Flight for an ``async with`` block.

    Raises
    ------
    BadRequestError
        The address cannot be bound, or a file of the TLS settings cannot be read.
    """
    tls = read_tls_files(settings, SECTION)
    server = _listen(service, settings, tls)
    host = service.settings.host
    scheme = "grpc" if tls is None else "grpc+tls"
    service.addresses["flight"] = f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"
    try:
        yield
    finally:
        await _stop(server)


async def _stop(server: FlightServer) -> None:
    """Stop a server. It waits for its exchanges, which only the client can end: their connections are closed."""
    stopping = threading.Thread(target=server.shutdown, name="llmhub-flight-stop", daemon=True)
    stopping.start()
    for cut in (close_connections, lambda _: None):
        for _ in range(round(STOP_S / POLL_S)):
            if not stopping.is_alive():
                return
            await asyncio.sleep(POLL_S)
        cut(server.port)


def close_connections(port: int) -> None:
    """Close the connections of this process that came in at ``port``: Flight has no call for it."""
    try:
        descriptors = [int(each.name) for each in Path(DESCRIPTORS).iterdir()]
    except OSError:  # not on this system
        return
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    if connection.family in INTERNET and connection.getsockname()[1] == port:
                        connection.shutdown(socket.SHUT_RDWR)


def _listen(service: Service, settings: FlightSettings, tls: TlsFiles | None) -> FlightServer:
    host = service.settings.host
    make = flight.Location.for_grpc_tcp if tls is None else flight.Location.for_grpc_tls
    options: dict[str, Any] = {}
    if tls is not None:
        options["tls_certificates"] = [(tls.certificate, tls.key)]
        if tls.client_ca is not None:
            options.update(verify_client=True, root_certificates=tls.client_ca)
    return FlightServer(service, settings, make(host, settings.port), options)


class _Caller(flight.ServerMiddleware):  # type: ignore[misc]
    """The context of an authenticated call, and its headers."""

    def __init__(self, context: RequestContext, headers: dict[str, str]) -> None:
        super().__init__()
        self.context = context
        self.headers = headers

    def sending_headers(self) -> dict[str, str]:
        """Return the headers of the reply."""
        return {REQUEST_ID_HEADER: self.context.request_id}


class _Authentication(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Authenticates every call by its headers."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, *, secure: bool) -> None:
        super().__init__()
        self._service = service
        self._loop = loop
        self._scheme = "https" if secure else "http"

    def start_call(self, _info: Any, headers: dict[str, list[str | bytes]]) -> _Caller:
        """Return the caller of a call.

        Raises
        ------
        FlightError
            The call is refused.
        """
        fields = [(name, value) for name, values in headers.items() for value in values if isinstance(value, str)]
        request_id = request_id_of(dict(fields).get(REQUEST_ID_HEADER, ""))
        try:
            context = on_loop(self._loop, self._open(fields, request_id), AUTHENTICATE_S)
        except ConnectorError as error:
            raise flight_error(error.error, request_id) from None
        except Exception:
            LOGGER.exception("request %s: %s", request_id, METHOD)
            raise flight_error(ServerError(message=UNEXPECTED), request_id) from None
        return _Caller(context, dict(fields))

    async def _open(self, fields: list[tuple[str, str]], request_id: str) -> RequestContext:
        host = self._service.addresses["flight"].partition("://")[2]
        request = foreign_request(ROUTE.path, fields, host=host, scheme=self._scheme)
        return await open_context(self._service, ROUTE, request, request_id)


def on_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """Run a coroutine on the loop, and wait for its result in this thread."""
    return asyncio.run_coroutine_threadsafe(work, loop).result(timeout_s)


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """Serves ``do_exchange``. Make it on the engine's loop.

    The descriptor's command is a JSON object, a `llmhub.server.table_request.TableRequest`. The client writes a table
    with the columns of its prompt; ``row`` of the results counts its rows.
    """

    def __init__(self, service: Service, settings: FlightSettings, location: Any, options: dict[str, Any]) -> None:
        self._service = service
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._exchanges: set[_Exchange] = set()
        service.on_drain(self._begin_drain)
        self._places = threading.BoundedSemaphore(settings.max_exchanges)
        secure = "tls_certificates" in options
        middleware = {MIDDLEWARE: _Authentication(service, self._loop, secure=secure)}
        try:
            super().__init__(location, middleware=middleware, **options)
        except (pa.ArrowException, OSError) as error:
            text = str(error).partition("\n")[0]
            raise invalid(f"{SECTION}.port", f"cannot listen on {location.uri.decode()}: {text}") from None

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer one exchange, in a thread of Flight's."""
        caller: _Caller = context.get_middleware(MIDDLEWARE)
        request_id = caller.context.request_id
        if not self._places.acquire(blocking=False):
            message = f"{self._settings.max_exchanges} exchanges are in progress already"
            raise flight_error(Overloaded(message=message, retry_after_s=1.0), request_id)
        try:
            exchange = _Exchange(self._service, caller, self._loop, self._settings.max_buffer_bytes, self._exchanges)
            exchange.run(descriptor, reader, writer, context)
        except ConnectorError as error:
            raise flight_error(error.error, request_id) from None
        except pa.ArrowException as error:  # Flight's own included: the client has left, or its table is damaged
            text = str(error).partition("\n")[0][:300]
            raise flight_error(InvalidRequest(path="table", message=f"cannot be read: {text}"), request_id) from None
        except Exception:
            LOGGER.exception("request %s: %s", request_id, METHOD)
            raise flight_error(ServerError(message=UNEXPECTED), request_id) from None
        finally:
            self._places.release()

    def _begin_drain(self) -> None:
        """Let exchanges that wait for their client end."""
        for exchange in self._exchanges:
            exchange.wake()


class _Results(NamedTuple):
    """Results for the client, and their size."""

    table: pa.Table
    size: int


class _Exchange:
    """One exchange: `run` in the thread that reads, `_write` in the one that writes, coroutines on the loop."""

    def __init__(
        self, service: Service, caller: _Caller, loop: asyncio.AbstractEventLoop, max_bytes: int, active: set[_Exchange]
    ) -> None:
        self._service = service
        self._caller = caller
        self._active = active
        self._loop = loop
        self._max_bytes = max_bytes
        self._run_id = uuid.uuid4()
        self._blocks: deque[pa.Table | None] = deque()
        self._buffered = {"input": 0, "output": 0}
        self._changed = asyncio.Event()
        self._ended = False
        self._cut = False
        self._results: queue.SimpleQueue[_Results | None] = queue.SimpleQueue()
        self._client_error: BaseException | None = None

    def run(self, descriptor: Any, reader: Any, writer: Any, context: Any) -> None:
        """Answer the exchange."""
        if descriptor.descriptor_type != flight.DescriptorType.CMD:
            raise invalid("descriptor", "must be a command: a JSON object with model and prompt")
        request = request_from_json(descriptor.command)
        work = on_loop(self._loop, self._open(request))
        schema = reader.schema
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise invalid("table", f"has two columns {twice!r:.80}; rename one")
        work.build(schema.empty_table())
        names = used_columns(request, schema.names)
        kept = pa.schema([schema.field(name) for name in names])
        writer.begin(work.empty_results(work.build(kept.empty_table()), self._run_id.hex).schema)
        running = asyncio.run_coroutine_threadsafe(self._send(work), self._loop)
        running.add_done_callback(self._end)
        writing = threading.Thread(target=self._write, args=(writer, context, running), name="llmhub-flight-write")
        writing.start()
        try:
            for block in _blocks(reader, names, self._max_bytes):
                if not on_loop(self._loop, self._put(block)):
                    break
            else:
                on_loop(self._loop, self._put(None))
        except BaseException:
            running.cancel()
            raise
        finally:
            writing.join()
        self._raise_failure(running)

    def _raise_failure(self, running: Future[None]) -> None:
        """Raise the failure of an exchange that has ended, if it was one."""
        try:
            running.result()
        except CancelledError:
            if self._client_error is not None:
                raise self._client_error from None
            raise to_exception(Cancelled(message="the exchange was cancelled")) from None
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _open(self, request: TableRequest) -> TableWork:
        return TableWork(self._service, self._caller.context, request)

    async def _send(self, work: TableWork) -> None:
        """Send the rows of all blocks, for the caller and within the trace that the headers name."""
        context = self._caller.context
        attributes = {"rpc.system": "grpc", "rpc.service": METHOD.partition("/")[0], "rpc.method": "DoExchange"}
        self._service.request_started()
        self._active.add(self)
        try:
            with observed_request(context, METHOD, self._caller.headers, attributes):
                await work.send(self._drawn(), self._on_table, StopSignal(), self._run_id)
                await self._wait(lambda: not self._buffered["output"])
        finally:
            self._active.discard(self)
            self._service.request_ended()
        if self._cut:
            message = f"the service is {self._service.state}; rows without a result were not sent"
            raise to_exception(Cancelled(message=message, retry_after_s=1.0))

    def wake(self) -> None:
        """Look again whether to go on; on the loop."""
        self._changed.set()

    def _end(self, _running: Future[None]) -> None:
        """Release both threads; called on the loop."""
        self._ended = True
        self._changed.set()
        self._results.put(None)

    async def _drawn(self) -> AsyncIterator[pa.Table]:
        """Yield the blocks that the client has written; when the service ends, those that it has by then."""
        while True:
            while not self._blocks:
                if not self._service.accepts_work:
                    self._cut = True
                    return
                await self._next_change()
            block = self._blocks.popleft()
            if block is None:
                return
            self._count("input", -block.nbytes)
            yield block

    async def _put(self, block: pa.Table | None) -> bool:
        """Add a block once there is room for it; return whether the exchange still goes on."""
        while self._buffered["input"] > self._max_bytes and not self._ended:
            await self._next_change()
        self._blocks.append(block)
        self._count("input", 0 if block is None else block.nbytes)
        return not self._ended

    async def _on_table(self, table: pa.Table) -> None:
        """Pass results on to the client, which may be behind by as much as is kept for it."""
        self._count("output", table.nbytes)
        self._results.put(_Results(table, table.nbytes))
        await self._wait(lambda: self._buffered["output"] <= self._max_bytes)

    async def _wait(self, condition: Any) -> None:
        """Wait for the client to read."""
        while not condition():
            before = self._buffered["output"]
            try:
                async with asyncio.timeout(self._service.settings.write_timeout_s):
                    while self._buffered["output"] >= before:
                        await self._next_change()
            except TimeoutError:
                raise to_exception(TimedOut(message=TOO_SLOW)) from None

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _count(self, kind: str, size: int) -> None:
        self._buffered[kind] += size
        self._changed.set()

    def _write(self, writer: Any, context: Any, running: Future[None]) -> None:
        """Write results until there are no more, or the client has left."""
        try:
            while True:
                try:
                    results = self._results.get(timeout=POLL_S)
                except queue.Empty:
                    if context.is_cancelled():
                        raise to_exception(Disconnected(message="the client has left")) from None
                    continue
                if results is None:
                    return
                writer.write_table(results.table)
                self._loop.call_soon_threadsafe(self._count, "output", -results.size)
        except Exception as error:  # noqa: BLE001 - raised by the reading thread
            self._client_error = error
            running.cancel()


def _blocks(reader: Any, names: list[str], max_bytes: int) -> Iterator[pa.Table]:
    """Yield the client's batches as they arrive, in blocks of at most `BLOCK_ROWS` rows.

    Raises
    ------
    ConnectorError
        A batch is larger than ``max_bytes``.
    """
    for chunk in reader:
        if chunk.data is not None:
            if chunk.data.nbytes > max_bytes:
                raise invalid("table", f"has a batch of more than {max_bytes} bytes; write smaller ones")
            table = pa.Table.from_batches([chunk.data]).select(names)
            table.validate(full=True)
            for first in range(0, table.num_rows, BLOCK_ROWS):
                yield table.slice(first, BLOCK_ROWS)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first exception of a group that is none."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
