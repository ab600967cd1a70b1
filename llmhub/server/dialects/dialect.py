"""Records that every dialect is made of: a parser of requests, and encoders of responses, streams and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol, TypeAlias

from llmhub.core.errors import LLMError
from llmhub.core.stream import Delta
from llmhub.core.types import CompletionRequest, CompletionResponse, Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A parsed request.

    Parameters
    ----------
    request
        The request, with the model's name as the client wrote it.
    stream
        Whether the response is to be streamed.
    stream_usage
        Whether a stream is to end with its token counts.
    dropped
        Fields that the target cannot be told and whose absence changes no answer, such as marks for a cache.
    """

    request: CompletionRequest
    stream: bool = False
    stream_usage: bool = True
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyInfo:
    """Data of a reply besides the response itself.

    Parameters
    ----------
    id
        The service's id of the request.
    model
        The model's name as the client wrote it.
    created
        Time of the reply in epoch seconds.
    stream_usage
        Whether a stream ends with its token counts.
    cost_usd, list_cost_usd
        Cost of this call, and without llmhub's cache; ``None`` where a price is unknown.
    cache_hit, attempts, latency_s
        How the call was answered.
    dropped
        Parameters that were left out.
    """

    id: str
    model: str
    created: int = 0
    stream_usage: bool = True
    cost_usd: Decimal | None = None
    list_cost_usd: Decimal | None = None
    cache_hit: bool = False
    attempts: int = 0
    latency_s: float | None = None
    dropped: tuple[str, ...] = ()


class StreamEncoder(Protocol):
    """Encodes one response as a stream, in the order `feed`, ..., `finish` or `fail`."""

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        """Encode content that has arrived; empty bytes if there is none to show."""

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> bytes:
        """Encode whatever was not fed, and the end."""

    def fail(self, error: LLMError, status: int) -> bytes:
        """Encode the error that ends the stream."""


ParseRequest: TypeAlias = Callable[[Payload, bool], ParsedRequest]
"""From a payload, and whether the target speaks the same API, to the request.

Fields and blocks without a counterpart in `CompletionRequest` are passed on to a target of the same API; for any other
they are errors. Raises a `ConnectorError` whose path is the place in the payload.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The server's half of an API.

    Parameters
    ----------
    name
        Name of the API.
    wires
        Names of the wires that speak this API.
    parse
        Parses requests.
    encode
        Encodes responses.
    open_stream
        Returns the encoder of a stream.
    encode_error
        Encodes an error, given its status and the request id.
    stream_type
        Media type of streams.
    """

    name: str
    wires: frozenset[str]
    parse: ParseRequest
    encode: Callable[[CompletionResponse, ReplyInfo], Payload]
    open_stream: Callable[[ReplyInfo], StreamEncoder]
    encode_error: Callable[[LLMError, int, str], Payload]
    stream_type: str = "text/event-stream"
