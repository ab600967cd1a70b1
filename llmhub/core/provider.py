"""The two records everything hangs on, and the three functions around a wire.

A `Wire` is how a format is written and read; a `Provider` is who speaks it, where, signed how. Nobody
subclasses: a provider is a row of functions.

What a provider says of its limits, beside its answers and refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from returns.result import Result

from llmhub.core.errors import LLMError
from llmhub.core.forced_tool import StructuredOutputMode
from llmhub.core.framing import Frame, Framing
from llmhub.core.stream import Delta
from llmhub.core.types import NO_USAGE, CompletionRequest, CompletionResponse, Payload, Usage


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


def _no_usage(_payload: Payload) -> Usage:
    return NO_USAGE


def _no_fast_path(_body: bytes) -> CompletionResponse | None:
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
    stream_fields: Mapping[str, object] = field(default_factory=dict)
    decode_fast: Callable[[bytes], CompletionResponse | None] = _no_fast_path
    decode_usage: Callable[[Payload], Usage] = _no_usage


def _no_limits(_reply: HttpReply) -> RateLimitInfo:
    return RateLimitInfo()


def _identity(payload: Payload) -> Payload:
    return payload


def _all_supported(_endpoint: Endpoint, _request: CompletionRequest) -> LLMError | None:
    return None


def _same_request(request: CompletionRequest) -> CompletionRequest:
    return request


def _native_mode(_request: CompletionRequest) -> StructuredOutputMode:
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
    limits: Callable[[HttpReply], RateLimitInfo] = _no_limits
    adapt: Callable[[Payload], Payload] = _identity
    unsupported: Callable[[Endpoint, CompletionRequest], LLMError | None] = _all_supported
    structured_output_mode: Callable[[CompletionRequest], StructuredOutputMode] = _native_mode
    relax_schema: Callable[[CompletionRequest], CompletionRequest] = _same_request
    required_env: tuple[tuple[str, ...], ...] = ()
    request_id_header: str = "x-request-id"
    signature_covers_body: bool = True
    health_url: Callable[[Endpoint], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitInfo:
    """What a reply said about limits; ``None`` where it was silent. Resets are seconds from the reply.

    ``tokens`` are input and output together, where a provider counts them so.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None
    limit_input_tokens: int | None = None
    remaining_input_tokens: int | None = None
    reset_input_tokens_s: float | None = None
    limit_output_tokens: int | None = None
    remaining_output_tokens: int | None = None
    reset_output_tokens_s: float | None = None
    retry_after_s: float | None = None
    should_retry: bool | None = None
