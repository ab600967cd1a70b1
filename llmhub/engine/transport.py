"""Send HTTP requests and turn network exceptions into error values.

Completions that are not streamed go over `llmhub.engine.connection_pool`, everything else through aiohttp; no other
module opens client connections. Each provider has its own keep-alive connections. Certificates are verified. Redirects
are not followed, so that credentials never reach another origin, and replies are bounded in size. Nothing is retried
here.

The file is long because both ways of sending share their limits, and every network exception gets its message here.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from math import inf
from numbers import Real
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final, NamedTuple, TypeVar

import aiohttp
from returns.result import Failure, Result, Success
from yarl import URL

from llmhub.core.cache_key import is_keyed
from llmhub.core.construction import fast_constructor
from llmhub.core.errors import (
    NOT_CONNECTED,
    POSSIBLY_BILLED,
    Disconnected,
    InvalidRequest,
    LLMError,
    Malformed,
    TimedOut,
    invalid,
)
from llmhub.core.payload import parse_json_object
from llmhub.core.protocol import StreamDecoder, interpret, interpret_embedding, prepare, prepare_embedding
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, RateLimitInfo, public_url
from llmhub.core.proxies import NO_PROXIES, Proxies, Proxy
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, to_stream_chunk, usage_so_far
from llmhub.core.types import NO_USAGE, CompletionResponse, StreamChunk
from llmhub.engine.call import NEW_ANSWER, Answer, BilledFailure, Call, Outcome, Target
from llmhub.engine.connection_pool import (
    DESCRIPTOR_RETRY_S,
    DESCRIPTOR_TIMEOUT_S,
    CannotConnectError,
    ConnectionPool,
    ConnectTimeoutError,
    TlsError,
)
from llmhub.engine.file_descriptors import PROCESS_LIMIT, is_out_of_descriptors, soft_limit
from llmhub.engine.hedging import InFlightTasks
from llmhub.engine.http1 import (
    CLOSED_TOO_SOON,
    MAX_INTERIM_REPLIES,
    InvalidReplyError,
    Origin,
    ReplyTooLargeError,
    RequestEncoder,
)
from llmhub.engine.observer import OUTGOING_HEADERS, finish_failed_request, finish_request, take_request
from llmhub.security.echoed_keys import (
    KeyByteFilter,
    KeyDeltaFilter,
    redact_key_bytes,
    redact_keys,
    response_without_keys,
)
from llmhub.security.masked_secrets import redact_masked
from llmhub.security.redaction import escape_controls, redact, url_secrets
from llmhub.security.request_signing import SignedParts, sign_request

E = TypeVar("E", bound=BaseException)

_NEW_REPLY: Final = fast_constructor(HttpReply)
KEEP_ALIVE_S: Final = 30.0
MAX_CACHED_URLS: Final = 4096
MAX_INLINE_BODY_BYTES: Final = 1 << 20
"""Larger bodies are passed as a file, sent in pieces: aiohttp warns about larger ones in one piece."""
DEADLINE_CHECK_S: Final = 1.0
"""How often deadlines are checked, at most."""
DEADLINE_CHECK_SHARE: Final = 0.1
"""How often deadlines are checked, as a share of the timeout, where that is more often."""
NO_AUTO_HEADERS: Final = ("User-Agent", "Content-Type", "Accept", "Accept-Encoding")
DEFAULT_HEADERS: Final = {"user-agent": "llmhub", "accept-encoding": "gzip, deflate"}
PLAIN_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")
PLAIN_PATH: Final = re.compile(r"/[!-~]*")
"""Hosts and paths that can be sent as they are; URLs with others are left to aiohttp."""
MIN_UPLOAD_BYTES_PER_S: Final = 100_000.0
"""Slowest upload that is waited for, beyond the time limit of a request."""
WITHOUT_TLS: Final = "WRONG_VERSION_NUMBER"
"""How OpenSSL reports a server that answers in plain HTTP."""
MIN_ECHOED_KEY_LENGTH: Final = 16
"""Shorter keys, such as those made up for local servers, may occur in a response by chance."""
NONCE_BYTES: Final = 16
"""Random bytes in the nonce of a signature."""
HTTP_OK: Final = 200
HTTP_NOT_FOUND: Final = 404
HTTP_REDIRECTIONS: Final = 300
"""The first status code that is no success."""
HTTP_ERRORS: Final = 400
"""The first status code that is an error."""
HTTP_SERVER_ERRORS: Final = 500
"""The first status code of an error that is not the caller's."""
UNAUTHORIZED_HEADERS: Final = ("content-type",)
"""Headers of a completion's request before it is authorized."""
RATE_LIMIT_HEADER: Final = re.compile("rate-?limit|retry", re.IGNORECASE)
"""Matches the name of every header with rate limit information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Time limits of a request.

    Parameters
    ----------
    connect_s
        Seconds until the connection is established.
    total_s
        Seconds until the whole response has arrived.
    idle_s
        Seconds between two pieces of a stream; unbounded unless it is set, since a model may think for minutes.
    """

    connect_s: float = 10.0
    total_s: float = 600.0
    idle_s: float = inf

    def __post_init__(self) -> None:
        """Raise if a time limit is not a positive number."""
        for name in ("connect_s", "total_s", "idle_s"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
                raise invalid(f"timeout.{name}", f"must be a number of seconds above 0, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """How connections are made.

    Parameters
    ----------
    timeout
        Time limits of each request.
    pool_size
        Maximum number of connections to each provider.
    max_reply_bytes
        Longer replies are an error.
    proxies
        Proxies by scheme. Nothing else of the environment is used: ``~/.netrc`` holds passwords of other programs.
    ca_file
        File or folder of trusted certificates and the variable that names it; ``None`` for the system's.
    """

    timeout: Timeout = field(default_factory=Timeout)
    pool_size: int = 256
    max_reply_bytes: int = 64 << 20
    proxies: Proxies = NO_PROXIES
    ca_file: tuple[str, str] | None = None


class EchoedKeys(NamedTuple):
    """The keys of an endpoint that are searched for in its replies: as text, and encoded."""

    endpoint: Endpoint
    keys: Sequence[str]
    encoded: Sequence[bytes]


class Transport:
    """The open connections and the requests in flight. Use it on one event loop only."""

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._pools: dict[str, ConnectionPool] = {}
        self._urls: dict[str, tuple[URL, Proxy | None]] = {}
        self._encoders: dict[str, RequestEncoder | None] = {}
        self._echoed_keys: dict[str, EchoedKeys] = {}
        self._connected_before: set[str] = set()
        self._timed_out: set[asyncio.Task[object]] = set()
        self._is_checking_deadlines = False
        self.in_flight = InFlightTasks()

    async def send(self, call: Call) -> Answer:  # noqa: C901 - one branch for each way to end
        """Send the request of a call once. Every failure but cancellation is an outcome, not an exception."""
        target, now = call.target, time.time()
        observed = take_request()
        streaming = call.stream or call.is_delivered
        prepared = prepare_call(call, now, stream=streaming)
        if not isinstance(prepared, Success):
            answer = Answer(outcome=Failure(prepared.failure()), total_s=0.0)
            finish_failed_request(observed, call, answer, now)
            return answer
        request = _signed(prepared.unwrap(), target.endpoint)
        added_headers = OUTGOING_HEADERS.get()
        start = time.perf_counter()
        observer = _ResponseObserver(call.on_chunk, start, call.on_deltas)
        task = self._begin(start)
        if call.on_sent is not None:
            call.on_sent()
        try:
            outcome = await self._exchange(call, request, observer, added_headers, streaming=streaming)
        except asyncio.CancelledError as cancelled:
            if task not in self._timed_out or task.uncancel() > 0:
                finish_failed_request(observed, call, None, now)
                raise _without_inner_frames(cancelled) from None
            outcome = Failure(self._network_error(TimeoutError(), target, request.url))
        except NETWORK_ERRORS as error:
            outcome = Failure(self._network_error(error, target, request.url))
        except Exception as defect:  # noqa: BLE001 - raised again
            finish_failed_request(observed, call, None, now)
            raise _without_inner_frames(defect) from None
        finally:
            self.in_flight.end(task)
            self._timed_out.discard(task)
        latency_s = time.perf_counter() - start
        billed_failures: tuple[BilledFailure, ...] = ()
        uncertain_requests = 0
        if not isinstance(outcome, Success):
            failure = redact_error(_with_address(outcome.failure(), call, request, observer.reply), target.endpoint)
            if observer.has_delivered:
                # A stream of which chunks were delivered must not start again.
                failure = replace(failure, should_retry=False)
            outcome = Failure(failure)
            billed_failures = _billed_failures(target, observer)
            uncertain_requests = int(_is_uncertain(failure, observer, billed_failures))
        # Every field by position, since keywords take longer.
        answer = NEW_ANSWER(
            outcome, latency_s, observer.ttft_s, None, latency_s, 1, now,
            False, request.dropped, _rate_limit_info(target, observer.reply), billed_failures, None, None,
            uncertain_requests,
        )  # fmt: skip
        if observed is not None:
            finish_request(observed, call, answer)
        elif type(outcome) is Failure:
            finish_failed_request(None, call, answer, now)
        return answer

    async def _exchange(
        self,
        call: Call,
        request: HttpRequest,
        observer: _ResponseObserver,
        added_headers: Mapping[str, str] | None,
        *,
        streaming: bool,
    ) -> Outcome:
        """Send the HTTP request and decode the reply."""
        provider = call.target.provider
        if not streaming:
            observer.reply = await self._send_direct(provider.name, request, added_headers)
            if observer.reply is not None:
                return self._interpret(call, observer.reply)
        if added_headers is not None:
            request = replace(request, headers={**request.headers, **added_headers})
        # Streams and whole replies share the places of the pool, though aiohttp opens the connections of streams.
        async with self._pool(provider.name).lend_place():
            reply = await self._request(provider.name, request)
            if streaming and reply.status == HTTP_OK:
                observer.reply = HttpReply(HTTP_OK, reply.headers, b"", time.time())
                return await self._read_stream(call, reply, observer)
            observer.reply = HttpReply(reply.status, reply.headers, await self._read_body(reply), time.time())
            return self._interpret(call, observer.reply)

    def _interpret(self, call: Call, reply: HttpReply) -> Outcome:
        """Decode a complete reply to a completion, or to embeddings, without credentials that it repeats."""
        provider, endpoint = call.target.provider, call.target.endpoint
        known = self._echoed_keys.get(provider.name)
        if known is None or known.endpoint is not endpoint:
            keys = long_keys(endpoint)
            known = self._echoed_keys[provider.name] = EchoedKeys(endpoint, keys, [key.encode() for key in keys])
        body = redact_key_bytes(reply.body, known.encoded)
        if body is not reply.body:
            reply = replace(reply, body=body)
        embed_request = call.embed_request
        if embed_request is None:
            interpreted = interpret(provider, reply)
            return interpreted.map(partial(response_without_keys, known.keys)) if known.keys else interpreted
        return interpret_embedding(provider, embed_request, reply).map(partial(_without_keys_in_id, known.keys))

    async def _send_direct(
        self, pool_name: str, request: HttpRequest, added_headers: Mapping[str, str] | None
    ) -> HttpReply | None:
        """Send a request on a connection of our own and return its reply; ``None`` if it has to go through aiohttp."""
        url = request.url
        encoder = self._encoders[url] if url in self._encoders else self._make_encoder(url)
        if encoder is None or len(request.body) > MAX_INLINE_BODY_BYTES:
            return None
        message = encoder.encode(request.method, request.headers, request.body, added_headers)
        if message is None:
            return None
        status, headers, body = await self._pool(pool_name).send(encoder.origin, message)
        self._connected_before.add(pool_name)
        return _NEW_REPLY(status, headers, body, time.time())

    def _pool(self, name: str) -> ConnectionPool:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = self._open_pool()
        return pool

    def _open_pool(self) -> ConnectionPool:
        config = self._config
        return ConnectionPool(
            size=config.pool_size,
            connect_timeout_s=config.timeout.connect_s,
            max_reply_bytes=config.max_reply_bytes,
            tls_context=ssl.create_default_context
            if config.ca_file is None
            else partial(_ssl_context, *config.ca_file),
        )

    def _make_encoder(self, url: str) -> RequestEncoder | None:
        """Return the encoder of requests to a URL; ``None`` if it needs a proxy, or has a user name or an odd host."""
        parsed = _parse_url(url)
        host, port, path = parsed.raw_host or "", parsed.port, parsed.raw_path_qs
        encoder: RequestEncoder | None = None
        is_plain = PLAIN_HOST.fullmatch(host) and PLAIN_PATH.fullmatch(path) and parsed.raw_user is None
        if is_plain and port is not None and self._config.proxies.for_url(url) is None:
            encoder = RequestEncoder(Origin(host, port, parsed.scheme == "https"), path, DEFAULT_HEADERS)
        if len(self._encoders) >= MAX_CACHED_URLS:
            self._encoders.clear()
        self._encoders[url] = encoder
        return encoder

    def _begin(self, start: float) -> asyncio.Task[object]:
        """Register the current task as in flight until its deadline."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self.in_flight.begin(task, start + self._config.timeout.total_s)
        if not self._is_checking_deadlines:
            self._check_deadlines()
        return task

    def _check_deadlines(self) -> None:
        """Cancel the tasks past their deadline. One timer for all costs less than one for each request."""
        now = time.perf_counter()
        for task, deadline in self.in_flight.deadlines.items():
            if now >= deadline and task not in self._timed_out:
                self._timed_out.add(task)
                task.cancel()
        self._is_checking_deadlines = bool(self.in_flight)
        if self._is_checking_deadlines:
            interval_s = min(DEADLINE_CHECK_S, self._config.timeout.total_s * DEADLINE_CHECK_SHARE)
            asyncio.get_running_loop().call_later(interval_s, self._check_deadlines)

    async def probe(self, provider: str, url: str, endpoint: Endpoint) -> Result[int, LLMError]:
        """Send a GET request without credentials to ``url``; return the status code of the reply."""
        reply = await self._send_other(provider, HttpRequest("GET", url, {}), endpoint, with_body=False)
        return reply.map(lambda received: received.status)

    async def fetch(self, provider: str, request: HttpRequest, endpoint: Endpoint) -> Result[HttpReply, LLMError]:
        """Send a request that is not a completion; return the reply, with credentials redacted from error bodies."""
        return await self._send_other(provider, request, endpoint, with_body=True)

    async def _send_other(
        self, provider: str, request: HttpRequest, endpoint: Endpoint, *, with_body: bool
    ) -> Result[HttpReply, LLMError]:
        body = b""
        try:
            async with asyncio.timeout(self._config.timeout.total_s):
                reply = await self._request(provider, _signed(request, endpoint))
                if with_body:
                    body = await self._read_body(reply)
                else:
                    reply.close()
        except NETWORK_ERRORS as error:
            return Failure(redact_error(self._network_error(error, provider, request.url), endpoint))
        except asyncio.CancelledError as cancelled:
            raise _without_inner_frames(cancelled) from None
        if reply.status >= HTTP_ERRORS:
            body = _clean_text(body.decode("utf-8", "replace"), _secrets(endpoint)).encode()
        return Success(HttpReply(reply.status, reply.headers, body, time.time()))

    async def upload(
        self, provider: str, request: HttpRequest, endpoint: Endpoint, body: AsyncIterator[bytes], size: int
    ) -> Result[HttpReply, LLMError]:
        """Send a request whose body of ``size`` bytes is read piece by piece, and return the reply."""
        url, proxy = _parse_url(request.url), self._config.proxies.for_url(request.url)
        session = self._sessions.get(provider) or self._open(provider)
        # The digest of a body that is read while it is sent is not known before.
        signed = _signed(replace(request, body=b""), endpoint)
        signed = replace(signed, headers={**signed.headers, "content-length": str(size)})
        timeout_s = self._config.timeout.total_s + size / MIN_UPLOAD_BYTES_PER_S
        try:
            async with asyncio.timeout(timeout_s):
                reply = await session.request(
                    request.method,
                    url,
                    data=body,
                    headers=signed.headers,
                    allow_redirects=False,
                    proxy=None if proxy is None else _proxy_url(proxy),
                )
                content = await self._read_body(reply)
        except NETWORK_ERRORS as error:
            return Failure(redact_error(self._network_error(error, provider, request.url), endpoint))
        except asyncio.CancelledError as cancelled:
            raise _without_inner_frames(cancelled) from None
        return Success(_redacted_reply(reply, content, endpoint))

    async def download(
        self, provider: str, request: HttpRequest, endpoint: Endpoint, on_piece: Callable[[bytes], Awaitable[None]]
    ) -> Result[HttpReply, LLMError]:
        """Send a request and pass its body on as it arrives; the body of an error is in the returned reply instead."""
        try:
            async with asyncio.timeout(self._config.timeout.total_s):
                reply = await self._request(provider, _signed(request, endpoint))
            if reply.status >= HTTP_ERRORS:
                async with asyncio.timeout(self._config.timeout.total_s):
                    return Success(_redacted_reply(reply, await self._read_body(reply), endpoint))
            async with reply:
                while True:
                    async with asyncio.timeout(self._config.timeout.total_s):
                        piece = await reply.content.readany()
                    if not piece:
                        break
                    await on_piece(piece)
        except NETWORK_ERRORS as error:
            return Failure(redact_error(self._network_error(error, provider, request.url), endpoint))
        except asyncio.CancelledError as cancelled:
            raise _without_inner_frames(cancelled) from None
        return Success(HttpReply(reply.status, reply.headers, b"", time.time()))

    async def close(self) -> None:
        """Close all connections."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    async def _request(self, pool: str, request: HttpRequest) -> aiohttp.ClientResponse:
        """Send a request on a connection of ``pool``; return the reply once its headers have arrived."""
        parsed = self._urls.get(request.url)
        if parsed is None:
            if len(self._urls) >= MAX_CACHED_URLS:
                self._urls.clear()
            parsed = self._urls[request.url] = _parse_url(request.url), self._config.proxies.for_url(request.url)
        url, proxy = parsed
        session = self._sessions.get(pool) or self._open(pool)
        body = request.body if len(request.body) <= MAX_INLINE_BODY_BYTES else io.BytesIO(request.body)
        proxy_url = None if proxy is None else _proxy_url(proxy)
        give_up_at = time.monotonic() + DESCRIPTOR_TIMEOUT_S
        while True:
            try:
                reply = await session.request(
                    request.method, url, data=body, headers=request.headers, allow_redirects=False, proxy=proxy_url
                )
            except OSError as error:
                if not is_out_of_descriptors(error) or time.monotonic() >= give_up_at:
                    raise
                PROCESS_LIMIT.make_room()
                await asyncio.sleep(DESCRIPTOR_RETRY_S)
            else:
                self._connected_before.add(pool)
                return reply

    def _open(self, pool: str) -> aiohttp.ClientSession:
        room = PROCESS_LIMIT.room()
        session = self._sessions[pool] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._config.pool_size if room is None else max(1, min(self._config.pool_size, room)),
                keepalive_timeout=KEEP_ALIVE_S,
                ssl=True if self._config.ca_file is None else _ssl_context(*self._config.ca_file),
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.timeout.connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=NO_AUTO_HEADERS,
            headers=DEFAULT_HEADERS,
            # Would take proxies from the environment, and with them the passwords of ~/.netrc.
            trust_env=False,
            max_line_size=16 << 10,
            max_field_size=32 << 10,
            response_class=_BoundedResponse,
        )
        return session

    async def _read_body(self, reply: aiohttp.ClientResponse) -> bytes:
        """Return the body; raise `ReplyTooLargeError` beyond the size limit."""
        chunks: list[bytes] = []
        size = 0
        async with reply:
            while chunk := await reply.content.readany():
                size += len(chunk)
                if size > self._config.max_reply_bytes:
                    reply.close()
                    raise ReplyTooLargeError(f"the reply is longer than {self._config.max_reply_bytes} bytes")
                chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _read_piece(self, reply: aiohttp.ClientResponse) -> bytes:
        """Return the next piece of a stream; raise `StalledError` if there is none for too long."""
        idle_s = self._config.timeout.idle_s
        if idle_s == inf:
            return await reply.content.readany()
        try:
            async with asyncio.timeout(idle_s):
                return await reply.content.readany()
        except TimeoutError as error:
            raise StalledError(f"the stream has stalled: nothing arrived for {idle_s:g} s") from error

    async def _read_stream(self, call: Call, reply: aiohttp.ClientResponse, observer: _ResponseObserver) -> Outcome:
        """Decode a stream as it arrives; an early exit closes the connection."""
        decoder = StreamDecoder(call.target.provider, HttpReply(reply.status, reply.headers, b"", time.time()))
        keys = long_keys(call.target.endpoint)
        # Where only the whole response is used, keys are removed from that.
        key_bytes, key_deltas = KeyByteFilter(keys), KeyDeltaFilter(keys if call.is_delivered else ())
        deltas = observer.deltas
        size = 0
        try:
            while chunk := await self._read_piece(reply):
                size += len(chunk)
                if size > self._config.max_reply_bytes:
                    raise ReplyTooLargeError(f"the stream is longer than {self._config.max_reply_bytes} bytes")
                new = key_deltas.feed(decoder.feed(key_bytes.feed(chunk)))
                deltas.extend(new)
                observer.on_deltas(new)
                if decoder.error is not None:
                    return Failure(decoder.error)
            last = key_deltas.feed((*decoder.feed(key_bytes.close()), *decoder.end()))
            last = (*last, *key_deltas.close())
            deltas.extend(last)
            reply.release()
        finally:
            if not reply.closed:
                reply.close()
        outcome = decoder.close(deltas).map(partial(response_without_keys, keys))
        if isinstance(outcome, Success):
            observer.on_deltas(last)
            observer.on_end(outcome.unwrap())
        return outcome

    def _network_error(self, error: Exception, target: Target | str, url: str) -> LLMError:  # noqa: C901 - one case each
        """Return the error value of a network exception.

        A host that was never reached is not retried: its address is probably wrong.
        """
        provider = target if isinstance(target, str) else target.provider.name
        safe_url = public_url(url)
        origin = "/".join(safe_url.split("/", 3)[:3])
        message = str(error) or type(error).__name__
        timeout = self._config.timeout
        proxy = self._config.proxies.for_url(url)
        kind: type[LLMError] = InvalidRequest
        should_retry: bool | None = None
        match error:
            case aiohttp.ServerTimeoutError() | TimeoutError():  # including ConnectTimeoutError
                kind = TimedOut
                message = (
                    f"no response from {origin} within {timeout.total_s:g} s (connecting: {timeout.connect_s:g} s)"
                )
            case InvalidURLError() | aiohttp.InvalidURL():
                message = f"base_url: {safe_url!r} is not an HTTP URL"
            case StalledError():
                kind = TimedOut
            case SettingError():
                pass
            case ReplyTooLargeError():
                kind = Malformed
            case aiohttp.ClientHttpProxyError() if proxy is not None:
                kind, should_retry = Disconnected, error.status >= HTTP_SERVER_ERRORS
                message = f"the proxy {proxy.address} refused to connect to {origin} (status {error.status}); "
                message += f"check {proxy.variable}"
            case aiohttp.ClientProxyConnectionError() if proxy is not None:
                kind, should_retry = Disconnected, None if provider in self._connected_before else False
                message = f"cannot connect to the proxy {proxy.address} ({_reason(error)}); check {proxy.variable}"
            case aiohttp.ClientSSLError() | TlsError():
                kind, should_retry = Disconnected, False
                message = (
                    f"{origin} answers without TLS: its base URL probably begins with http://"
                    if WITHOUT_TLS in message
                    else f"cannot verify the certificate of {origin}: {message}"
                )
            case OSError() if is_out_of_descriptors(error):
                kind = Disconnected
                message = (
                    f"cannot connect to {origin}: this process has too many open files (its limit is {soft_limit()}); "
                    "raise the limit (ulimit -n), or pass a lower concurrency= or Hub(pool_size=...)"
                )
            case aiohttp.ClientConnectorError() | CannotConnectError():
                kind, should_retry = Disconnected, None if provider in self._connected_before else False
                message = f"cannot connect to {origin} ({_reason(error)}); check its base URL"
            case aiohttp.ClientError() | OSError():
                through = "" if proxy is None else f" through the proxy {proxy.address} ({proxy.variable})"
                # aiohttp's own words name a status of 400, which the server did not send.
                reason = CLOSED_TOO_SOON if isinstance(error, aiohttp.ClientPayloadError) else message
                reason = NOT_HTTP if isinstance(error, aiohttp.ClientResponseError) else reason
                kind, message = Disconnected, f"the connection to {origin}{through} was lost: {reason}"
            case _:
                # aiohttp refuses to send a line break in a header, for example.
                message = f"endpoint: a header or the URL cannot be sent: {message}"
        code = NOT_CONNECTED if isinstance(error, CONNECT_ERRORS) else ""
        return kind(provider=provider, message=message, code=code, should_retry=should_retry)


class _BoundedResponse(aiohttp.ClientResponse):
    """A response that is given up after too many interim replies, which a server can send for ever."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head of the final reply; raise `InvalidReplyError` if it does not come."""
        protocol, interim_replies = connection.protocol, 0
        read = protocol.read

        async def read_head() -> Any:
            nonlocal interim_replies
            head = await read()
            interim_replies += 1
            if interim_replies > MAX_INTERIM_REPLIES + 1:
                raise InvalidReplyError(f"more than {MAX_INTERIM_REPLIES} interim replies and no final one")
            return head

        protocol.read = read_head
        try:
            return await super().start(connection)
        finally:
            del protocol.read


class _ResponseObserver:
    """Passes the chunks of a response to the caller, and records its reply, deltas and time to the first token."""

    __slots__ = (
        "_on_chunk", "_on_deltas", "_reasoning_length", "_start", "_text_length", "deltas", "has_delivered", "reply",
        "ttft_s",
    )  # fmt: skip

    def __init__(
        self,
        on_chunk: Callable[[StreamChunk], None] | None,
        start: float,
        on_deltas: Callable[[Sequence[Delta]], None] | None = None,
    ) -> None:
        self._on_chunk = on_chunk
        self._on_deltas = on_deltas
        self._start = start
        self._text_length = self._reasoning_length = 0
        self.ttft_s: float | None = None
        self.has_delivered = False
        self.reply: HttpReply | None = None
        self.deltas: list[Delta] = []

    def on_deltas(self, deltas: tuple[Delta, ...]) -> None:
        """Pass on new deltas, and their content if they have any."""
        if self._on_deltas is not None and (self.has_delivered or any(type(delta) is Fragment for delta in deltas)):
            self.has_delivered = True
            self._on_deltas(deltas)
        chunk = to_stream_chunk(deltas) if self._on_chunk is not None or self.ttft_s is None else None
        if chunk is None:
            return
        if self.ttft_s is None:
            self.ttft_s = time.perf_counter() - self._start
        self._text_length += len(chunk.text)
        self._reasoning_length += len(chunk.reasoning)
        if self._on_chunk is not None:
            self.has_delivered = True
            self._on_chunk(chunk)

    def on_end(self, response: CompletionResponse) -> None:
        """Pass on the content that was only complete at the end of the stream."""
        if self._on_chunk is None:
            return
        rest = StreamChunk(
            text=response.text[self._text_length :], reasoning=response.reasoning[self._reasoning_length :]
        )
        if rest.text or rest.reasoning:
            self._on_chunk(rest)


class StalledError(OSError):
    """A stream stopped arriving without an end."""


class InvalidURLError(ValueError):
    """A URL is not an HTTP URL."""


class SettingError(ValueError):
    """A setting of the environment cannot be used; the message names the variable."""


NETWORK_ERRORS: Final = (aiohttp.ClientError, OSError, ValueError)
"""Exceptions of sending and reading that become error values; any other is a defect."""
NOT_HTTP: Final = "the reply is not HTTP"
CONNECT_ERRORS: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    CannotConnectError,
    ConnectTimeoutError,
    InvalidURLError,
    SettingError,
)
"""Exceptions raised before a connection exists, so that nothing was sent."""


def _without_inner_frames(error: E) -> E:
    """Return an exception without the frames of the HTTP client, whose local variables include credentials.

    Tracebacks with local variables (pytest, rich, Sentry) would show them. A note says where it was raised.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if frames and not isinstance(error, asyncio.CancelledError):
        error.add_note(f"raised in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}")
    return error.with_traceback(None)


def _with_address(error: LLMError, call: Call, request: HttpRequest, reply: HttpReply | None) -> LLMError:
    """Add the address to a 404 or a web page from an address the caller chose, since it may be wrong or lack a part."""
    media_type = reply.header("content-type").lower() if reply is not None else ""
    is_page = type(error) is Malformed and media_type.startswith("text/html")
    if not call.target.endpoint.base_url or not (is_page or error.status == HTTP_NOT_FOUND):
        return error
    address = public_url(request.url).partition("?")[0]
    return replace(error, message=f"{error.message}; the request went to {address}")


def redact_error(error: LLMError, endpoint: Endpoint) -> LLMError:
    """Replace the endpoint's credentials and control characters in the texts of an error, which people see."""
    secrets = _secrets(endpoint)

    def clean(text: str) -> str:
        return escape_controls(_clean_text(text, secrets)) if text else text

    return replace(
        error,
        message=clean(error.message),
        code=clean(error.code),
        request_id=clean(error.request_id),
        path=clean(error.path),
    )


def _clean_text(text: str, secrets: Sequence[str]) -> str:
    """Return a text of a server without credentials, whole or masked in the middle."""
    return redact(redact_masked(text, secrets), secrets)


def _secrets(endpoint: Endpoint) -> tuple[str, ...]:
    """Return everything of an endpoint that may be a credential."""
    return (
        endpoint.api_key.reveal(),
        endpoint.secret_access_key.reveal(),
        endpoint.access_key_id.reveal(),
        endpoint.session_token.reveal(),
        endpoint.signing_secret.reveal(),
        endpoint.access_token.reveal(),
        *endpoint.headers.values(),
        *url_secrets(endpoint.base_url),
    )


def long_keys(endpoint: Endpoint) -> list[str]:
    """Return the keys of an endpoint that are too long to occur in a response by chance."""
    secrets = (endpoint.api_key, endpoint.secret_access_key, endpoint.session_token, endpoint.access_token)
    keys = [secret.reveal() for secret in secrets]
    for name, value in endpoint.headers.items():
        if not is_keyed(name):
            keys += [value, *value.split(" ")[1:]]  # a server may repeat the token without its scheme
    keys += url_secrets(endpoint.base_url) if "@" in endpoint.base_url or "?" in endpoint.base_url else ()
    # The longest first: one may contain another.
    return sorted({key for key in keys if len(key) >= MIN_ECHOED_KEY_LENGTH}, key=len, reverse=True)


def _redacted_reply(reply: aiohttp.ClientResponse, body: bytes, endpoint: Endpoint) -> HttpReply:
    """Return a reply, without credentials in its headers and body if it is an error or a redirection."""
    headers: Mapping[str, str] = reply.headers
    if reply.status >= HTTP_REDIRECTIONS:
        secrets = _secrets(endpoint)
        body = _clean_text(body.decode("utf-8", "replace"), secrets).encode()
        headers = {name: _clean_text(value, secrets) for name, value in headers.items()}
    return HttpReply(reply.status, headers, body, time.time())


def _reason(error: OSError) -> str:
    """Return the reason of a failure to connect, in the words of the operating system."""
    if isinstance(error, CannotConnectError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def _proxy_url(proxy: Proxy) -> URL:
    """Return the URL of a proxy; raise for one that is none, or whose protocol is not spoken here."""
    try:
        url = URL(proxy.url.reveal())
        host, _ = url.host, url.explicit_port
    except ValueError:
        host = None
    # Raised outside of the handler: the message of the other exception contains the URL.
    if not host or not host.isprintable() or " " in host:
        raise SettingError(f"{proxy.variable}: not the URL of a proxy; write it as http://host:port, or unset it")
    if url.scheme not in {"http", "https"}:
        raise SettingError(
            f"{proxy.variable}: {url.scheme}:// proxies are not supported; name an http:// proxy, or unset it"
        )
    return url


def _ssl_context(path: str, variable: str) -> ssl.SSLContext:
    """Return a context that trusts the certificates of a file or folder."""
    try:
        is_folder = Path(path).is_dir()
        return ssl.create_default_context(capath=path if is_folder else None, cafile=None if is_folder else path)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or type(error).__name__
        raise SettingError(f"{variable}: cannot read certificates of {path!r} ({reason})") from error


def _parse_url(url: str) -> URL:
    """Parse a URL that is already percent-encoded: encoding it again would change what was signed."""
    try:
        parsed = URL(url, encoded=True)
        host, _ = parsed.host, parsed.explicit_port
    except ValueError as error:
        raise InvalidURLError(url) from error
    if parsed.scheme not in {"http", "https"} or not host or not host.isprintable() or " " in host:
        raise InvalidURLError(url)
    return parsed


def prepare_call(call: Call, now: float, *, stream: bool) -> Result[HttpRequest, LLMError]:
    """Build the HTTP request, by the shortcut where the call has a valid one."""
    embed_request = call.embed_request
    if embed_request is not None:
        return prepare_embedding(call.target.provider, call.target.endpoint, embed_request, now)
    prepared = call.valid_prepared
    if prepared is not None and stream == call.stream:
        request = prepared.http(prepared.text, now)
        return request.map(partial(_authorized_again, call.target, now)) if call.has_other_credentials else request
    return prepare(call.target.provider, call.target.endpoint, call.request, now, stream=stream)


def _signed(request: HttpRequest, endpoint: Endpoint) -> HttpRequest:
    """Return a request with a signature, if its endpoint asks for one."""
    if not endpoint.signing_secret:
        return request
    headers = {name.lower(): value for name, value in request.headers.items()}
    added = sign_request(
        SignedParts(request.method, str(_parse_url(request.url)), headers, request.body),
        key_id=endpoint.signing_key_id,
        secret=endpoint.signing_secret,
        now=time.time(),
        nonce=token_urlsafe(NONCE_BYTES),
    )
    return replace(request, headers={**request.headers, **added})


def _authorized_again(target: Target, now: float, request: HttpRequest) -> HttpRequest:
    """Return a prepared request with the credentials of the target in place of those it was prepared with."""
    unauthorized = replace(request, headers={name: request.headers[name] for name in UNAUTHORIZED_HEADERS})
    return target.provider.authorize(target.endpoint, unauthorized, now)


def _without_keys_in_id(keys: Sequence[str], response: CompletionResponse) -> CompletionResponse:
    """Return vectors without keys in their request id, which comes from a header."""
    request_id = redact_keys(response.request_id, keys)
    return response if request_id is response.request_id else replace(response, request_id=request_id)


def _rate_limit_info(target: Target, reply: HttpReply | None) -> RateLimitInfo | None:
    """Parse the rate limits of a reply, if it has any: most successful ones do not."""
    if reply is None or (reply.status < HTTP_ERRORS and not _has_rate_limits("\n".join(reply.headers))):
        return None
    return target.provider.limits(reply)


@lru_cache(maxsize=256)
def _has_rate_limits(names: str) -> bool:
    """Return whether a header's name is that of a rate limit; the replies of a server mostly have the same names."""
    return RATE_LIMIT_HEADER.search(names) is not None


def _is_uncertain(error: LLMError, observer: _ResponseObserver, billed: Sequence[BilledFailure]) -> bool:
    """Return whether a failed request may have been charged for more tokens than its reply has counted."""
    may_be_billed = observer.ttft_s is not None or type(error) in POSSIBLY_BILLED
    if not may_be_billed or error.code == NOT_CONNECTED:
        return False
    # The counts of a stream are estimates, or those of its input alone, until a choice is complete.
    is_counted = not observer.deltas or any(type(delta) is ChoiceFinished for delta in observer.deltas)
    return not (billed and is_counted)


def _billed_failures(target: Target, observer: _ResponseObserver) -> tuple[BilledFailure, ...]:
    """Return the usage of a response that then failed: it is charged all the same."""
    reply = observer.reply
    if reply is None or reply.status != HTTP_OK:
        return ()
    usage = usage_so_far(observer.deltas)
    if not observer.deltas:
        payload = parse_json_object(reply.body)
        usage = target.provider.wire.decode_usage(payload.unwrap()) if isinstance(payload, Success) else NO_USAGE
    return (BilledFailure(target, usage),) if usage != NO_USAGE else ()
