"""Records that describe providers: `Wire` is a wire format, `Provider` is a service that speaks one.

Both hold pure functions as fields; a provider is a row of functions, and nothing is subclassed. `llmhub.core.protocol`
has the functions that turn a request into an `HttpRequest` and an `HttpReply` into a response.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from returns.result import Result

from llmhub.core.embedding import EmbeddingResponse, EmbedOptions, EmbedRequest
from llmhub.core.errors import LLMError, invalid
from llmhub.core.forced_tool import StructuredOutputMode
from llmhub.core.framing import Frame, Framing
from llmhub.core.secret import Secret, SecretHeaders
from llmhub.core.stream import Delta
from llmhub.core.types import NO_USAGE, CompletionRequest, CompletionResponse, Payload, Usage

if TYPE_CHECKING:
    from llmhub.core.batch import BatchApi

CREDENTIAL_FIELDS: Final = ("api_key", "access_key_id", "secret_access_key", "session_token", "access_token")
"""Fields of an endpoint that the provider knows the caller by."""
SECRET_FIELDS: Final = (*CREDENTIAL_FIELDS, "signing_secret")
"""Fields of an endpoint that are credentials."""
URL_PARTS: Final = re.compile(r"(?P<scheme>[^/?#]*//)(?:[^/?#]*@)?(?P<address>[^?#]*)")
"""Matches a URL up to its query, with the user name and password apart."""


@dataclass(frozen=True, slots=True, repr=False, init=False)
class Endpoint:
    """Address and credentials of a provider. Its ``repr`` shows no credential.

    Parameters
    ----------
    base_url
        Address up to, but excluding, the wire's own path; empty for the provider's public address.
    api_key
        Key or token.
    api_version
        Version of the provider's API, for APIs that have several (Azure's ``api-version``, ``anthropic-version``).
    region, project
        Cloud region, and the cloud project that is billed.
    access_key_id, secret_access_key, session_token
        AWS credentials.
    headers
        Sent with every request, after the provider's own. Those whose names say that they determine the response
        (``anthropic-beta``, ``x-model-variant``) are part of cache keys; tokens, ids and all others are not.
    cache_key_names
        Names of further headers, or parameters in the query of ``base_url``, that determine the response.
        Sent with every request, after the provider's own.
    signing_key_id, signing_secret
        With them, requests are signed for a gateway that verifies signatures (RFC 9421, HMAC-SHA256).
    access_token
        OAuth token, such as one of Azure AD, that is sent as ``Authorization: Bearer`` in place of a key.
    simulated
        Whether a simulator answers at the address (see `llmhub.sim.endpoints`). Its responses are stored apart from
        those of the real model, and results and plots say that they are simulated.

    Notes
    -----
    ``None`` stands for "not set", so that ``os.environ.get`` may be passed. Credentials are kept as `Secret`; its
    ``reveal()`` returns the text.

    Raises
    ------
    BadRequestError
        An argument is not a string; the message names the argument and the type, never the value.

    Examples
    --------
    >>> Endpoint(base_url="http://localhost:8000/v1", api_key="secret")
    Endpoint(base_url='http://localhost:8000/v1', api_version='', region='')
    """

    base_url: str
    api_key: Secret
    api_version: str
    region: str
    project: str
    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret
    headers: Mapping[str, str]
    cache_key_names: tuple[str, ...]
    access_token: Secret
    simulated: bool
    signing_key_id: str
    signing_secret: Secret

    def __init__(  # noqa: PLR0917 - the order of the fields
        self,
        base_url: str | None = "",
        api_key: str | Secret | None = "",
        api_version: str | None = "",
        region: str | None = "",
        project: str | None = "",
        access_key_id: str | Secret | None = "",
        secret_access_key: str | Secret | None = "",
        session_token: str | Secret | None = "",
        headers: Mapping[str, str] | None = None,
        cache_key_names: Sequence[str] | None = (),
        *,
        access_token: str | Secret | None = "",
        simulated: bool = False,
        signing_key_id: str | None = "",
        signing_secret: str | Secret | None = "",
    ) -> None:
        # Trailing slashes make no difference to the cache key.
        set_field = object.__setattr__
        set_field(self, "base_url", _address(_text("base_url", base_url).rstrip("/")))
        set_field(self, "api_key", _secret("api_key", api_key))
        set_field(self, "api_version", _text("api_version", api_version))
        set_field(self, "region", _text("region", region))
        set_field(self, "project", _text("project", project))
        set_field(self, "access_key_id", _secret("access_key_id", access_key_id))
        set_field(self, "secret_access_key", _secret("secret_access_key", secret_access_key))
        set_field(self, "session_token", _secret("session_token", session_token))
        set_field(self, "headers", _headers(headers))
        set_field(self, "cache_key_names", _names("cache_key_names", cache_key_names))
        set_field(self, "access_token", _secret("access_token", access_token))
        set_field(self, "simulated", bool(simulated))
        set_field(self, "signing_key_id", _text("signing_key_id", signing_key_id))
        set_field(self, "signing_secret", _secret("signing_secret", signing_secret))
        if bool(self.signing_key_id) != bool(self.signing_secret):
            raise invalid("signing_secret", "needs signing_key_id, and the other way round; pass both or neither")

    def __repr__(self) -> str:
        """Return the address without credentials, those within the URL included."""
        base_url = public_url(self.base_url)
        return f"Endpoint(base_url={base_url!r}, api_version={self.api_version!r}, region={self.region!r})"


def public_url(url: str) -> str:
    """Return a URL without user name, password, query and fragment, which may hold credentials.

    Examples
    --------
    >>> public_url("https://ann:pw@host:8443/v1?sig=abc#x")
    'https://host:8443/v1'
    """
    parts = URL_PARTS.match(url)
    return f"{parts['scheme']}{parts['address']}" if parts else re.split("[?#]", url, maxsplit=1)[0].rpartition("@")[2]


def locate(endpoint: Endpoint, url_of: Callable[[Endpoint], str]) -> str:
    """Return the URL at an endpoint, with the query of its ``base_url`` at the end.

    Examples
    --------
    >>> locate(Endpoint(base_url="https://host/v1?sig=abc"), lambda endpoint: endpoint.base_url + "/models")
    'https://host/v1/models?sig=abc'
    """
    if "?" not in endpoint.base_url and "#" not in endpoint.base_url:
        return url_of(endpoint)
    base_url, _, query = endpoint.base_url.partition("#")[0].partition("?")
    return append_query(url_of(replace(endpoint, base_url=base_url)), query)


def append_query(url: str, query: str) -> str:
    """Return a URL with further parameters."""
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


class AddressWithCredentials(str):
    """An address with a user, password or query: its ``repr`` shows none of them, as in copies of an endpoint.

    Examples
    --------
    >>> AddressWithCredentials("https://ann:pw@host/v1?sig=abc")
    'https://host/v1'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the address without credentials."""
        return repr(public_url(self))


def _address(url: str) -> str:
    return url if public_url(url) == url else AddressWithCredentials(url)


def _text(name: str, value: object) -> str:
    """Return an argument as text; raise if it is none, without showing it: it may be a credential."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(name, f"must be a string, not {type(value).__name__}; {_to_string(value, name)}")
    text = value if type(value) is str else str.__str__(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise invalid(name, "must not contain half of a surrogate pair, which cannot be sent; remove it")
    return text


def _secret(name: str, value: object) -> Secret:
    return value if isinstance(value, Secret) else Secret(_text(name, value))


def _headers(headers: object) -> SecretHeaders:
    if headers is None or isinstance(headers, SecretHeaders):
        return headers or SecretHeaders()
    if not isinstance(headers, Mapping):
        raise invalid("headers", f"must be a mapping of names to strings, not {type(headers).__name__}")
    texts: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str):
            raise invalid("headers", f"must have strings as names, not {type(name).__name__}")
        name = _text("headers", name)  # noqa: PLW2901 - checked
        if value is None:
            raise invalid(f"headers[{name!r}]", "must be a string, not None; omit the header")
        texts[name] = value.reveal() if isinstance(value, Secret) else _text(f"headers[{name!r}]", value)
    return SecretHeaders(texts)


def _names(argument: str, names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, (Sequence, set, frozenset, type(None))):
        raise invalid(argument, f"must be a list of names, not {type(names).__name__}; write [...] around it")
    return tuple(sorted(_text(f"{argument}[{index}]", name) for index, name in enumerate(names or ())))


def _to_string(value: object, name: str) -> str:
    """Return the remedy for a value that is not a string."""
    if isinstance(value, (bytes, bytearray)):
        return "decode it: value.decode()"
    if hasattr(value, "get_secret_value"):
        return "pass value.get_secret_value()"
    if isinstance(value, int):
        return "write it in quotes"
    return "pass str(value)" if name == "base_url" else "pass its text"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that is ready to be sent. Its ``repr`` omits headers and body, because they may hold a credential.

    ``dropped`` names the parameters that were omitted because the provider does not support them.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A received reply. Absolute times in headers are relative to ``received_at`` (epoch seconds, 0 if unknown)."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    received_at: float = 0.0

    def header(self, name: str) -> str:
        """Return a header by its case-insensitive name; ``""`` if it is absent, ``?`` for characters that are not text.

        Examples
        --------
        >>> HttpReply(200, {"Retry-After": "2"}).header("retry-after")
        '2'
        """
        value = self.headers.get(name)
        if value is None:
            lower_name = name.lower()
            for key, value in self.headers.items():  # noqa: B007 - used after the loop
                if key.lower() == lower_name:
                    break
            else:
                return ""
        return value if value.isascii() else value.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitInfo:
    """Rate limits as a reply reports them; ``None`` for what it does not report.

    Resets are seconds from the reply. ``tokens`` counts input and output together, as some providers do,
    and ``images`` those of the input.
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
    limit_images: int | None = None
    remaining_images: int | None = None
    reset_images_s: float | None = None
    retry_after_s: float | None = None
    should_retry: bool | None = None


Encode: TypeAlias = Callable[[CompletionRequest], Result[Payload, LLMError]]
Decode: TypeAlias = Callable[[Payload], Result[CompletionResponse, LLMError]]
DecodeFrame: TypeAlias = Callable[[Frame], Result[tuple[Delta, ...], LLMError]]


def _no_usage(_payload: Payload) -> Usage:
    return NO_USAGE


def _no_fast_path(_body: bytes) -> CompletionResponse | None:
    return None


def _nothing_unstreamed(_frame: Frame) -> tuple[Delta, ...]:
    """Return no deltas: a stream that ends without an answer had none."""
    return ()


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire format: how requests are encoded and replies decoded. Every function returns on arbitrary input.

    Parameters
    ----------
    name
        Name of the format; part of every cache key.
    encode
        Request to payload, or `Unsupported` with the path of a parameter that the format cannot express.
    decode
        Payload to response.
    decode_frame
        One frame of a stream to deltas; stateless.
    decode_error
        Reply with an error status to the error.
    framing
        How a stream is split into frames.
    stream_fields
        Merged into the payload to request a stream.
    decode_fast
        Body to response for the common case, ``None`` for all others. Law: its responses equal those of ``decode``.
    decode_usage
        Token counts of a payload that ``decode`` rejects, because the provider bills it nevertheless.
    decode_unstreamed
        The frame that ends a stream to the deltas of the answer that it repeats, which count if none came before.
    has_unsigned_reasoning
        Whether a tool loop sends reasoning back although it is not signed; the other formats sign what they need back.
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
    decode_unstreamed: Callable[[Frame], tuple[Delta, ...]] = _nothing_unstreamed
    has_unsigned_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class TokenCountService:
    """The endpoint of a provider that counts the input tokens of a request, free of charge.

    Parameters
    ----------
    locate
        URL of a count for a model.
    payload
        From a model and the payload of its completion to the payload of the count.
    field
        Field of the reply with the count.
    """

    locate: Callable[[Endpoint, str], str]
    payload: Callable[[str, Payload], Payload]
    field: str


@dataclass(frozen=True, slots=True)
class EmbedWire:
    """A wire format of embeddings. Every function returns on arbitrary input.

    Parameters
    ----------
    name
        Name of the format; part of every cache key.
    encode
        Request to payload, or `Unsupported`.
    decode
        Request and successful reply to the vectors of all texts, in their order.
    has_kinds
        Whether documents and queries are embedded differently; otherwise their keys are the same.
    """

    name: str
    encode: Callable[[EmbedRequest], Result[Payload, LLMError]]
    decode: Callable[[EmbedRequest, HttpReply], Result[EmbeddingResponse, LLMError]]
    has_kinds: bool = False


@dataclass(frozen=True, slots=True)
class PackLimits:
    """How many texts, and how many tokens of them, a request for embeddings may have; tokens of one text, if known."""

    texts: int
    tokens: int = 300_000
    text_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EmbedService:
    """The embeddings of a provider.

    Parameters
    ----------
    wire
        Wire format.
    locate
        URL of a request.
    limits
        Limits of a request to a model.
    """

    wire: EmbedWire
    locate: Callable[[Endpoint, EmbedRequest], str]
    limits: Callable[[str], PackLimits]


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


ArrivalTokens: TypeAlias = Literal["", "max_tokens", "input and max_tokens"]
"""What a limit of tokens counts as a request arrives."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A service that speaks a wire format: its addresses, authorization and deviations from the format.

    Parameters
    ----------
    name
        First part of ``provider/model``.
    wire
        Wire format.
    base_url
        Public address; empty if there is none.
    locate
        URL of a request; the last argument tells whether it streams.
    authorize
        Request with credentials added; the time (epoch seconds) is an argument, so that signing is pure.
    limits
        Rate limits that a reply reports.
    adapt
        Payload in this provider's dialect of the format.
    unsupported
        Error for a request that this endpoint or model is known to reject, before anything is sent.
    structured_output_mode
        How a response is constrained to a schema: by the provider, or by a forced tool call.
    relax_schema
        Request with schemas reduced to the constraints that this provider enforces.
    required_env
        Groups of environment variables, any one group of which configures the provider; empty if it needs none.
    request_id_header
        Header with the provider's id of a call.
    signature_covers_body
        Whether ``authorize`` depends on the body or the time; otherwise its result is reused for many requests.
    health_url
        Address that answers a GET with whether the key is valid, free of charge; ``None`` if there is none.
    embeddings
        Its embeddings; ``None`` if it has none.
    token_counts
        Where it counts input tokens; ``None`` if nowhere.
    batch
        Its Batch API; ``None`` if it has none.
    reports_cost
        Whether the usage of its replies states what it charged, in USD. Such a number of another server is ignored: it
        may be in another currency, or an estimate.
    counted_on_arrival
        What its limit of tokens counts as a request arrives, however little of it is used: the larger of input and
        ``max_tokens``, or both together. Empty if it counts what is used.
    reranking
        Its scores of how relevant texts are for a query; ``None`` if it has none.
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
    embeddings: EmbedService | None = None
    token_counts: TokenCountService | None = None
    batch: BatchApi | None = None
    reports_cost: bool = False
    counted_on_arrival: ArrivalTokens = ""
    reranking: EmbedService | None = None

    def vector_service(self, options: EmbedOptions) -> EmbedService | None:
        """Return what embeds texts, or scores them for a query."""
        return self.embeddings if options.query is None else self.reranking
