"""The only place that opens a connection: an HTTP request goes out, a reply or its bytes come back.

One pool of connections a provider, kept alive; certificates are checked; redirects are not followed, so
credentials never reach another origin; a reply has a bound. Network exceptions become errors as values here.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Final

import aiohttp
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success
from yarl import URL

from llmhub.core.errors import (
    NOT_CONNECTED,
    BadRequestError,
    Disconnected,
    InvalidRequest,
    LLMError,
    Malformed,
    TimedOut,
)
from llmhub.core.payload import parse_json_object
from llmhub.core.protocol import StreamDecoder, interpret, prepare
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, RateLimitInfo
from llmhub.core.stream import Delta, to_stream_chunk, usage_so_far
from llmhub.core.types import NO_USAGE, CompletionResponse, StreamChunk
from llmhub.engine.call import Answer, BilledFailure, Call, Outcome, Target
from llmhub.engine.hedging import InFlightTasks
from llmhub.security.redaction import redact


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """How long to wait for a provider, in seconds: for a connection, and for a whole answer."""

    connect_s: float = 10.0
    total_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        for name in ("connect_s", "total_s"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
                said = f"{value!r} is no time; give seconds > 0"
                raise BadRequestError(InvalidRequest(path=f"timeout.{name}", message=said))


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """How connections are made.

    Parameters
    ----------
    timeout
        Bounds in time.
    pool_size
        Connections a provider at most.
    max_reply_bytes
        A longer reply is refused.
    use_proxy_settings
        Honour the proxy variables of the environment.
    """

    timeout: Timeout = field(default_factory=Timeout)
    pool_size: int = 256
    max_reply_bytes: int = 64 << 20
    use_proxy_settings: bool = False


KEEP_ALIVE_S: Final = 30.0
URL_USERINFO: Final = re.compile(r"//[^/?#]*@")
MAX_CACHED_URLS: Final = 4096
MAX_INLINE_BODY_BYTES: Final = 1 << 20
"""Bytes that aiohttp will not take in one piece without a warning."""
DEADLINE_CHECK_S: Final = 1.0
DEADLINE_CHECK_SHARE: Final = 0.1
"""How often deadlines are looked at: each second, or ten times within a short time-out."""
NO_AUTO_HEADERS: Final = ("User-Agent", "Content-Type", "Accept", "Accept-Encoding")
DEFAULT_HEADERS: Final = {"user-agent": "llmhub", "accept-encoding": "gzip, deflate"}


class Transport:
    """Open connections, and which calls are in flight. Lives on one event loop."""

    def __init__(self, config: TransportConfig) -> None:
        self._wiring = config
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._urls: dict[str, URL] = {}
        self._reached: set[str] = set()
        self._overdue: set[asyncio.Task[object]] = set()
        self._watching = False
        self.in_flight = InFlightTasks()

    async def send(self, call: Call) -> Answer:
        """Send one request, once. Never raises but for cancellation."""
        target = call.target
        now = time.time()
        streaming = call.stream or call.on_chunk is not None
        prepared = _prepare_call(call, now, stream=streaming)
        if not is_successful(prepared):
            return Answer(outcome=Failure(prepared.failure()), total_s=0.0)
        request = prepared.unwrap()
        start = time.perf_counter()
        viewer = _StreamObserver(call.on_chunk, start)
        task = self._begin(start)
        if call.on_sent is not None:
            call.on_sent()
        outcome: Outcome
        try:
            reply = await self._post(target.provider.name, request)
            if streaming and reply.status == 200:  # noqa: PLR2004 - HTTP OK
                viewer.reply = HttpReply(200, reply.headers, b"", now)
                outcome = await self._streamed(call, reply, viewer)
            else:
                viewer.reply = HttpReply(reply.status, reply.headers, await self._body(reply), time.time())
                outcome = interpret(target.provider, viewer.reply)
        except asyncio.CancelledError:
            if task not in self._overdue or task.uncancel() > 0:
                raise
            outcome = Failure(self._network_error(TimeoutError(), target.provider.name, request.url))
        except NETWORK_ERRORS as error:
            outcome = Failure(self._network_error(error, target.provider.name, request.url))
        finally:
            self.in_flight.end(task)
            self._overdue.discard(task)
        took = time.perf_counter() - start
        spent: tuple[BilledFailure, ...] = ()
        if not is_successful(outcome):
            outcome = Failure(
                _not_retryable_once_shown(
                    redact_error(outcome.failure(), call.target.endpoint),
                    seen=call.on_chunk is not None and viewer.ttft_s is not None,
                )
            )
            spent = _billed_failures(target, viewer)
        return Answer(
            outcome=outcome,
            latency_s=took,
            ttft_s=viewer.ttft_s,
            total_s=took,
            attempts=1,
            started_at=now,
            dropped=request.dropped,
            limits=_rate_limit_info(target, viewer.reply),
            billed_failures=spent,
        )

    def _begin(self, start: float) -> asyncio.Task[object]:
        """Count the current task among those in flight until its deadline."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self.in_flight.begin(task, start + self._wiring.timeout.total_s)
        if not self._watching:
            self._watching = True
            self._watch()
        return task

    def _watch(self) -> None:
        """Cut off what is overdue. One timer for all calls costs less than one for each."""
        now = time.perf_counter()
        for task, deadline in self.in_flight.deadlines.items():
            if now >= deadline and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
        self._watching = bool(self.in_flight)
        if self._watching:
            every = min(DEADLINE_CHECK_S, self._wiring.timeout.total_s * DEADLINE_CHECK_SHARE)
            asyncio.get_running_loop().call_later(every, self._watch)

    async def probe(self, name: str, url: str) -> Result[int, LLMError]:
        """Ask an address for nothing in particular, without credentials; give the status it answers with."""
        try:
            async with asyncio.timeout(self._wiring.timeout.total_s):
                reply = await self._post(name, HttpRequest("GET", url, {}))
            reply.close()
        except NETWORK_ERRORS as error:
            return Failure(self._network_error(error, name, url))
        return Success(reply.status)

    async def fetch(self, name: str, request: HttpRequest, endpoint: Endpoint) -> Result[HttpReply, LLMError]:
        """Send what is no completion and read the whole reply; what a key would show in is blotted out."""
        try:
            async with asyncio.timeout(self._wiring.timeout.total_s):
                reply = await self._post(name, request)
                body = await self._body(reply)
        except NETWORK_ERRORS as error:
            return Failure(self._network_error(error, name, request.url))
        if reply.status >= 400:  # noqa: PLR2004 - HTTP errors
            body = redact(body.decode("utf-8", "replace"), _secrets(endpoint)).encode()
        return Success(HttpReply(reply.status, reply.headers, body, time.time()))

    async def close(self) -> None:
        """Close all connections."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    async def _post(self, pool: str, request: HttpRequest) -> aiohttp.ClientResponse:
        url = self._urls.get(request.url)
        if url is None:
            if len(self._urls) >= MAX_CACHED_URLS:
                self._urls.clear()
            url = self._urls[request.url] = _address(request.url)
        session = self._sessions.get(pool) or self._open(pool)
        # What is large is handed over as a file, which is sent in pieces.
        body = request.body if len(request.body) <= MAX_INLINE_BODY_BYTES else io.BytesIO(request.body)
        reply = await session.request(request.method, url, data=body, headers=request.headers, allow_redirects=False)
        self._reached.add(pool)
        return reply

    def _open(self, pool: str) -> aiohttp.ClientSession:
        session = self._sessions[pool] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._wiring.pool_size, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._wiring.timeout.connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=NO_AUTO_HEADERS,
            headers=DEFAULT_HEADERS,
            trust_env=self._wiring.use_proxy_settings,
            max_line_size=16 << 10,
            max_field_size=32 << 10,
        )
        return session

    async def _body(self, reply: aiohttp.ClientResponse) -> bytes:
        """Read a body of bounded size."""
        chunks: list[bytes] = []
        size = 0
        async with reply:
            while chunk := await reply.content.readany():
                size += len(chunk)
                if size > self._wiring.max_reply_bytes:
                    reply.close()
                    raise ReplyTooLargeError(f"the reply is longer than {self._wiring.max_reply_bytes} bytes")
                chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _streamed(self, call: Call, reply: aiohttp.ClientResponse, viewer: _StreamObserver) -> Outcome:
        """Read a stream as it comes; leaving early closes the connection."""
        decoder = StreamDecoder(call.target.provider, HttpReply(reply.status, reply.headers, b"", time.time()))
        deltas = viewer.deltas
        size = 0
        try:
            while chunk := await reply.content.readany():
                size += len(chunk)
                if size > self._wiring.max_reply_bytes:
                    raise ReplyTooLargeError(f"the stream is longer than {self._wiring.max_reply_bytes} bytes")
                fed = decoder.feed(chunk)
                if not is_successful(fed):
                    return Failure(fed.failure())
                deltas.extend(fed.unwrap())
                viewer.on_deltas(fed.unwrap())
            reply.release()
        finally:
            if not reply.closed:
                reply.close()
        closed = decoder.close(deltas)
        if is_successful(closed):
            viewer.on_end(closed.unwrap())
        return closed

    def _network_error(self, error: Exception, provider: str, url: str) -> LLMError:
        """Read an exception of the network. An address never reached is not tried again: it is probably wrong."""
        # A name and a password may stand in an address.
        shown = URL_USERINFO.sub("//", url, count=1)
        origin = "/".join(shown.split("/", 3)[:3])
        said = str(error) or type(error).__name__
        bound = self._wiring.timeout
        first: type[LLMError] = InvalidRequest
        again: bool | None = None
        code = NOT_CONNECTED if isinstance(error, CONNECT_ERRORS) else ""
        match error:
            case aiohttp.ServerTimeoutError() | TimeoutError():
                said = f"no answer from {origin} within {bound.total_s:g} s (connecting: {bound.connect_s:g} s)"
                first = TimedOut
            case InvalidURLError() | aiohttp.InvalidURL():
                first, said = InvalidRequest, f"base_url: {shown!r} is no HTTP address"
            case ReplyTooLargeError():
                first = Malformed
            case aiohttp.ClientSSLError():
                first, said, again = Disconnected, f"cannot trust {origin}: {said}", False
            case aiohttp.ClientConnectorError():
                why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or said
                said = f"cannot connect to {origin} ({why}); check its base URL"
                first, again = Disconnected, None if provider in self._reached else False
            case aiohttp.ClientError() | OSError():
                first, said = Disconnected, f"the connection to {origin} broke: {said}"
            case _:
                # What aiohttp refuses to send: a line break in a header, say.
                said = f"endpoint: a header or the address cannot be sent: {said}"
        return first(provider=provider, message=said, code=code, should_retry=again)


class _StreamObserver:
    """Tells whoever watches a stream what comes, and remembers what came: the reply, its deltas, when the first did."""

    __slots__ = ("_on_chunk", "_reasoning", "_start", "_text", "deltas", "reply", "ttft_s")

    def __init__(self, on_chunk: Callable[[StreamChunk], None] | None, start: float) -> None:
        self._on_chunk = on_chunk
        self._start = start
        self._text = self._reasoning = 0
        self.ttft_s: float | None = None
        self.reply: HttpReply | None = None
        self.deltas: list[Delta] = []

    def on_deltas(self, deltas: tuple[Delta, ...]) -> None:
        """Take in what just came; what says nothing is not a first word."""
        chunk = to_stream_chunk(deltas) if self._on_chunk is not None or self.ttft_s is None else None
        if chunk is None:
            return
        if self.ttft_s is None:
            self.ttft_s = time.perf_counter() - self._start
        self._text += len(chunk.text)
        self._reasoning += len(chunk.reasoning)
        if self._on_chunk is not None:
            self._on_chunk(chunk)

    def on_end(self, response: CompletionResponse) -> None:
        """Give what only the end of the connection brought, and the whole."""
        if self._on_chunk is None:
            return
        rest = StreamChunk(text=response.text[self._text :], reasoning=response.reasoning[self._reasoning :])
        if rest.text or rest.reasoning:
            self._on_chunk(rest)
        self._on_chunk(StreamChunk(response=response))


def _address(url: str) -> URL:
    """Read an address that is encoded already: re-quoting would change what was signed."""
    try:
        read = URL(url, encoded=True)
        host, _ = read.host, read.explicit_port
    except ValueError as wrong:
        raise InvalidURLError(url) from wrong
    if read.scheme not in {"http", "https"} or not host or not host.isprintable() or " " in host:
        raise InvalidURLError(url)
    return read


class InvalidURLError(ValueError):
    """An address is none."""


class ReplyTooLargeError(ValueError):
    """A reply went beyond its bound."""


NETWORK_ERRORS: Final = (aiohttp.ClientError, OSError, ValueError)
"""What goes wrong in sending and reading; everything else is a defect."""
CONNECT_ERRORS: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    InvalidURLError,
)
"""What goes wrong before there is a connection."""


def _prepare_call(call: Call, now: float, *, stream: bool) -> Result[HttpRequest, LLMError]:
    """Prepare a call, quickly where that stands for the request it holds."""
    quick = call.valid_prepared
    if quick is not None and stream == call.stream:
        return quick.prepare(quick.text, now)
    return prepare(call.target.provider, call.target.endpoint, call.request, now, stream=stream)


RATE_LIMIT_HEADER: Final = re.compile("rate-?limit|retry", re.IGNORECASE)
"""In the name of every header that says something about limits."""


def _rate_limit_info(target: Target, reply: HttpReply | None) -> RateLimitInfo | None:
    """Read what a reply says about limits, where it says anything: most successes do not."""
    if reply is None or (reply.status < 400 and not any(map(RATE_LIMIT_HEADER.search, reply.headers))):  # noqa: PLR2004 - HTTP errors
        return None
    return target.provider.limits(reply)


def _billed_failures(target: Target, viewer: _StreamObserver) -> tuple[BilledFailure, ...]:
    """Say what was counted for an answer that then failed: it is charged all the same."""
    reply = viewer.reply
    if reply is None or reply.status != 200:  # noqa: PLR2004 - HTTP OK
        return ()
    usage = usage_so_far(viewer.deltas)
    if not viewer.deltas:
        payload = parse_json_object(reply.body)
        usage = target.provider.wire.decode_usage(payload.unwrap()) if is_successful(payload) else NO_USAGE
    return (BilledFailure(target, usage),) if usage != NO_USAGE else ()


def _not_retryable_once_shown(error: LLMError, *, seen: bool) -> LLMError:
    """Keep a stream that somebody has begun to see from being begun again."""
    return replace(error, should_retry=False) if seen else error


def redact_error(error: LLMError, endpoint: Endpoint) -> LLMError:
    """Take keys out of what a provider said."""
    clean = redact(error.message, _secrets(endpoint))
    return error if clean == error.message else replace(error, message=clean)


def _secrets(endpoint: Endpoint) -> tuple[str, ...]:
    return (
        endpoint.api_key,
        endpoint.secret_access_key,
        endpoint.access_key_id,
        endpoint.session_token,
        *endpoint.headers.values(),
    )
