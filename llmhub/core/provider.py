"""The two records everything hangs on, and the three functions around a wire.

A `Wire` is how a format is written and read; a `Provider` is who speaks it, where, signed how. Nobody
subclasses: a provider is a row of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Malformed, ServerError, Unsupported, stamped
from llmhub.core.framing import FEEDS, Frame, Framing, flush
from llmhub.core.omission import without
from llmhub.core.payload import merged, parse
from llmhub.core.ratelimit import RateLimitInfo
from llmhub.core.stream import At, Delta, fold, named
from llmhub.core.structure import Form, forced
from llmhub.core.types import NO_USAGE, CompletionRequest, CompletionResponse, Payload, Usage
from llmhub.core.validity import validate


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """Where a provider is reached and as whom. Nothing secret shows in its ``repr``.

    Parameters
    ----------
    base_url
        Up to and excluding the wire's own path; empty means the provider's public address.
    api_key
        Key or token.
    api_version
        Version of the provider's API where it has several (Azure's ``api-version``, ``anthropic-version``).
    region, project
        Cloud region, and the cloud project that pays.
    access_key_id, secret_access_key, session_token
        AWS credentials.
    headers
        Sent with every request, after the provider's own.

    Examples
    --------
    >>> Endpoint(base_url="http://localhost:8000/v1", api_key="secret")
    Endpoint(base_url='http://localhost:8000/v1', api_version='', region='')
    """

    base_url: str = ""
    api_key: str = field(default="", repr=False)
    api_version: str = ""
    region: str = ""
    project: str = ""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Take a trailing slash off, so that it makes no difference."""
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))

    def __repr__(self) -> str:
        """Say where, never as whom: not even by a password in the address."""
        scheme, slashes, rest = self.base_url.partition("://")
        shown = scheme + slashes + rest.rpartition("@")[2]
        return f"Endpoint(base_url={shown!r}, api_version={self.api_version!r}, region={self.region!r})"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request ready to be sent; its headers do not show in its ``repr``, since they may hold a key."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = b""
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What came back. ``received_at`` (epoch seconds, 0 when unknown) is what absolute times are read against."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    received_at: float = 0.0

    def header(self, name: str) -> str:
        """Give a header by name without regard to case; empty when absent, and a question mark for what is no text.

        Examples
        --------
        >>> HttpReply(200, {"Retry-After": "2"}).header("retry-after")
        '2'
        """
        value = self.headers.get(name)
        if value is None:
            wanted = name.lower()
            value = next((value for key, value in self.headers.items() if key.lower() == wanted), "")
        return value if value.isascii() else value.encode("utf-8", "replace").decode()


Encode: TypeAlias = Callable[[CompletionRequest], Result[Payload, LLMError]]
Decode: TypeAlias = Callable[[Payload], Result[CompletionResponse, LLMError]]
DecodeFrame: TypeAlias = Callable[[Frame], Result[tuple[Delta, ...], LLMError]]


def _uncounted(_payload: Payload) -> Usage:
    return NO_USAGE


def _not_plain(_body: bytes) -> CompletionResponse | None:
    return None


@dataclass(frozen=True, slots=True)
class Wire:
    """How a format is written and read. Every function is total: arbitrary input returns.

    Parameters
    ----------
    encode
        Request to payload; what the wire cannot say is `Unsupported` with the parameter's path.
    decode
        Payload to response.
    decode_frame
        One frame of a stream to deltas; keeps no state.
    decode_error
        A reply that is an error to its kind.
    framing
        How a stream is cut.
    streaming
        What is merged into the payload to ask for a stream.
    decode_plain
        A body to the response where that can be done quickly, else ``None``. Law: what it gives, `decode` gives.
    usage
        What a payload says was counted, be the rest of it as it may: an answer that cannot be read is paid for too.
    """

    name: str
    encode: Encode
    decode: Decode
    decode_frame: DecodeFrame
    decode_error: Callable[[HttpReply], LLMError]
    framing: Framing = "sse"
    streaming: Mapping[str, object] = field(default_factory=dict)
    decode_plain: Callable[[bytes], CompletionResponse | None] = _not_plain
    usage: Callable[[Payload], Usage] = _uncounted


def _unlimited(_reply: HttpReply) -> RateLimitInfo:
    return RateLimitInfo()


def _same(payload: Payload) -> Payload:
    return payload


def _allowed(_endpoint: Endpoint, _request: CompletionRequest) -> LLMError | None:
    return None


def _unchanged(request: CompletionRequest) -> CompletionRequest:
    return request


def _native(_request: CompletionRequest) -> Form:
    return "native"


@dataclass(frozen=True, slots=True)
class Provider:
    """Who speaks a wire, where, signed how.

    Parameters
    ----------
    locate
        The URL for a request; the last argument says whether it streams.
    authorize
        Adds credentials; the time is an argument, so that signing stays pure.
    limits
        What a reply said about limits.
    adapt
        This provider's dialect of the wire.
    refuse
        What this endpoint or model is known not to take, before anything is sent.
    structure
        How an answer is held to a schema: by a mode of the model's, or by a tool that it must call.
    ease
        The request in terms of constraints on an answer that this provider holds to.
    needs
        Environment variables, any one group of which lets it be used; empty when it needs no key.
    request_id
        Header that carries the provider's id of a call.
    signs
        Whether what ``authorize`` adds depends on the body or the time; if not, it is asked once for many requests.
    check
        An address whose answer to a GET says whether a key is taken, at no cost; ``None`` where there is none.
    """

    name: str
    wire: Wire
    base_url: str
    locate: Callable[[Endpoint, CompletionRequest, bool], str]
    authorize: Callable[[Endpoint, HttpRequest, float], HttpRequest]
    limits: Callable[[HttpReply], RateLimitInfo] = _unlimited
    adapt: Callable[[Payload], Payload] = _same
    refuse: Callable[[Endpoint, CompletionRequest], LLMError | None] = _allowed
    structure: Callable[[CompletionRequest], Form] = _native
    ease: Callable[[CompletionRequest], CompletionRequest] = _unchanged
    needs: tuple[tuple[str, ...], ...] = ()
    request_id: str = "x-request-id"
    signs: bool = True
    check: Callable[[Endpoint], str] | None = None


_ENCODER: Final = msgspec.json.Encoder()


def prepare(
    provider: Provider, endpoint: Endpoint, request: CompletionRequest, now: float, *, stream: bool = False
) -> Result[HttpRequest, LLMError]:
    """Turn a request into the HTTP request that asks it. Pure: ``now`` (epoch seconds) is an argument.

    Parameters
    ----------
    provider, endpoint
        Who is asked, and where.
    request
        What is asked; ``model`` is the provider's own name.
    now
        Time of signing.
    stream
        Ask for a stream.

    Returns
    -------
    Result[HttpRequest, LLMError]
        ``InvalidRequest`` or ``Unsupported`` with a path; with ``unsupported="drop"`` the parameters left
        out are in ``dropped``.
    """
    wrong = validate(request)
    if wrong is not None:
        return Failure(stamped(wrong, provider=provider.name))
    dropped: dict[str, None] = {}
    while True:
        encoded = _encoded(provider, endpoint, request)
        if is_successful(encoded):
            break
        fewer = without(request, encoded.failure())
        if fewer is None:
            return Failure(stamped(encoded.failure(), provider=provider.name))
        name, request = fewer
        dropped |= {name: None} if name else {}
    payload = provider.adapt(merged(encoded.unwrap(), provider.wire.streaming) if stream else encoded.unwrap())
    if request.extra:
        payload = merged(payload, request.extra)
    try:
        body = _ENCODER.encode(payload)
    except NO_JSON as bad:
        path = "$.messages" if _has_json(request.extra) else "$.extra"
        return Failure(InvalidRequest(path=path, provider=provider.name, message=f"not representable as JSON: {bad}"))
    bare = HttpRequest(
        method="POST",
        url=provider.locate(endpoint, request, stream),
        headers={"content-type": "application/json"},
        body=body,
        dropped=tuple(dropped),
    )
    return Success(provider.authorize(endpoint, bare, now))


def _encoded(provider: Provider, endpoint: Endpoint, request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as this provider takes it; an answer's schema as a tool where there is no other way."""
    refused = provider.refuse(endpoint, request)
    if refused is not None:
        return Failure(refused)
    wanted = request.response_schema
    if wanted is None or (wanted.via or provider.structure(request)) == "native":
        return provider.wire.encode(provider.ease(request))
    encoded = provider.wire.encode(provider.ease(forced(request)))
    if is_successful(encoded) or encoded.failure().path not in OF_FORCED or request.tools:
        return encoded
    said = f"an answer cannot be held to a schema here: {encoded.failure().message}"
    return Failure(Unsupported(path="$.response_schema", message=said))


OF_FORCED: Final = ("$.tools", "$.tool_choice")
"""Paths of what is wrong with a request that nobody wrote so."""
NO_JSON: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What is raised for a value that has no JSON form."""


def _has_json(value: object) -> bool:
    try:
        _ENCODER.encode(value)
    except NO_JSON:
        return False
    return True


def interpret(provider: Provider, reply: HttpReply) -> Result[CompletionResponse, LLMError]:
    """Read a whole reply, be it an answer or an error. Returns on arbitrary bytes."""
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
        return Failure(_error(provider, reply))
    response = provider.wire.decode_plain(reply.body)
    if response is None:
        read = parse(reply.body).bind(provider.wire.decode)
        if not is_successful(read):
            return Failure(_blamed(provider, reply, read.failure()))
        response = read.unwrap()
    served = reply.header(provider.request_id)
    return Success(replace(response, request_id=served) if served else response)


def interpret_stream(
    provider: Provider, reply: HttpReply, chunks: Iterable[bytes]
) -> Result[CompletionResponse, LLMError]:
    """Read a streamed reply through the shared fold. Returns on arbitrary bytes.

    Parameters
    ----------
    reply
        Status and headers; its ``body`` is what came before ``chunks``.
    chunks
        The body as it came, split anywhere.
    """
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
        return Failure(_error(provider, replace(reply, body=reply.body + b"".join(chunks))))
    stream = Decoder(provider, reply)
    deltas: list[Delta] = []
    for chunk in chunks:
        fed = stream.feed(chunk)
        if not is_successful(fed):
            return Failure(fed.failure())
        deltas.extend(fed.unwrap())
    return stream.close(deltas)


class Decoder:
    """Bytes of one streamed reply to deltas: what is left over between chunks, and nothing else."""

    __slots__ = ("_calls", "_feed", "_provider", "_reply", "_rest", "_whole")

    def __init__(self, provider: Provider, reply: HttpReply) -> None:
        self._provider = provider
        self._reply = reply
        self._feed = FEEDS[provider.wire.framing]
        self._rest = reply.body
        self._calls: set[At] = set()
        # Some servers answer a request for a stream with one JSON document.
        self._whole = reply.header("content-type").partition(";")[0].strip() == "application/json"

    def feed(self, chunk: bytes) -> Result[tuple[Delta, ...], LLMError]:
        """Take in some bytes and give the deltas that are now whole."""
        if self._whole:
            self._rest += chunk
            return Success(())
        return self._read(self._feed(self._rest, chunk))

    def close(self, deltas: Iterable[Delta]) -> Result[CompletionResponse, LLMError]:
        """Take the end of the connection into account and fold ``deltas``, which came before it."""
        if self._whole and not self._rest.lstrip().startswith(b"["):
            return interpret(self._provider, replace(self._reply, body=self._rest))
        last = self._array() if self._whole else self._read(flush(self._provider.wire.framing, self._rest))
        if not is_successful(last):
            return Failure(last.failure())
        folded = fold((*deltas, *last.unwrap()))
        if not is_successful(folded):
            return Failure(_blamed(self._provider, self._reply, folded.failure()))
        served = self._reply.header(self._provider.request_id)
        return Success(replace(folded.unwrap(), request_id=served)) if served else folded

    def _array(self) -> Result[tuple[Delta, ...], LLMError]:
        """Read a stream that came as one JSON array of its events."""
        try:
            events = msgspec.json.decode(self._rest, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError) as bad:
            return Failure(_blamed(self._provider, self._reply, Malformed(path="$", message=f"not JSON: {bad}")))
        return self._read(Success((tuple(Frame("", bytes(event)) for event in events), b"")))

    def _read(self, fed: Result[tuple[tuple[Frame, ...], bytes], LLMError]) -> Result[tuple[Delta, ...], LLMError]:
        if not is_successful(fed):
            return Failure(_blamed(self._provider, self._reply, fed.failure()))
        frames, self._rest = fed.unwrap()
        deltas: list[Delta] = []
        for frame in frames:
            read = self._provider.wire.decode_frame(frame)
            if not is_successful(read):
                return Failure(_blamed(self._provider, self._reply, read.failure()))
            deltas.extend(named(read.unwrap(), self._calls))
        return Success(tuple(deltas))


def _error(provider: Provider, reply: HttpReply) -> LLMError:
    """Read an error reply, and refuse to take a redirect for one."""
    if 300 <= reply.status < 400:  # noqa: PLR2004 - HTTP redirection
        return ServerError(
            provider=provider.name,
            status=reply.status,
            should_retry=False,
            message=f"redirected to {reply.header('location') or 'nowhere'}, which was not followed; "
            "set the base URL to the final address",
        )
    return _blamed(provider, reply, provider.wire.decode_error(reply))


def _blamed(provider: Provider, reply: HttpReply, error: LLMError) -> LLMError:
    """Add to an error what the reply's headers and the provider know."""
    limits = provider.limits(reply)
    return stamped(
        error,
        provider=provider.name,
        request_id=reply.header(provider.request_id),
        retry_after=limits.retry_after_s,
        retry=limits.should_retry,
    )
