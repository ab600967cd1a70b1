"""Record of one simulated provider: pure functions for the server's side of a wire format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.limits import LimitStatus
from llmhub.sim.servers.embeddings import FakeEmbeddings
from llmhub.sim.types import SimError, SimHttpRequest, SimRequest, SimResponse, SimRoute

JSON_HEADERS: Final = {"content-type": "application/json"}
encode_json: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class FakeTokenCounts:
    """Endpoint of a simulated provider that counts input tokens.

    Parameters
    ----------
    path
        Matches its path below the provider's prefix; the first group is the model, where the path has it.
    unwrap
        From the payload of a count to that of the completion.
    field
        Field of the reply with the count.
    """

    path: re.Pattern[str]
    unwrap: Callable[[Payload], Payload]
    field: str

    def match_route(self, http_request: SimHttpRequest) -> SimRoute | None:
        """Match a count."""
        match = self.path.fullmatch(http_request.subpath) if http_request.method == "POST" else None
        if match is None:
            return None
        version = http_request.headers.get("anthropic-version", "")
        return SimRoute(action="count", model=unquote(match[1]) if match.lastindex else "", version=version)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeProvider:
    """A simulated provider.

    Parameters
    ----------
    name, prefix
        Name of the provider, and the path of its base URL.
    path_suffix
        Suffix of its paths, for providers that share a prefix.
    models
        Models in its list; it responds for any others too.
    match_route
        Route of a request, or ``None`` if there is none.
    check_credentials
        Error about the credentials, given the valid key.
    parse_request
        Payload to request, or to the error that the provider would send.
    encode_reply, encode_events
        Response as a body, and as the events of a stream.
    encode_error
        Error as a reply, given the request id.
    encode_stream_error
        Error as an event within a stream.
    malformed_event
        Event whose JSON is malformed.
    encode_model_list
        The provider's list of models.
    limit_headers
        Rate limit headers, given epoch seconds.
    format_request_id, request_id_header
        Request id made of 32 hexadecimal digits, and its header, if any.
    stream_content_type
        Content type of a stream.
    embeddings
        Its embeddings, if it has any.
    reranking
        Its scores of texts for a query, if it has any.
    token_counts
        Where it counts input tokens, if anywhere.
    """

    name: str
    prefix: str
    models: tuple[str, ...]
    match_route: Callable[[SimHttpRequest], SimRoute | None]
    check_credentials: Callable[[SimHttpRequest, str], SimError | None]
    parse_request: Callable[[Payload, SimRoute], SimRequest | SimError]
    encode_reply: Callable[[SimResponse], Payload]
    encode_events: Callable[[SimResponse], Iterator[bytes]]
    encode_error: Callable[[SimError, str], HttpReply]
    encode_stream_error: Callable[[SimError, str], bytes]
    malformed_event: bytes
    encode_model_list: Callable[[Sequence[str]], Payload]
    limit_headers: Callable[[LimitStatus, float], Mapping[str, str]]
    format_request_id: Callable[[str], str]
    request_id_header: str = ""
    path_suffix: str = ""
    stream_content_type: str = "text/event-stream; charset=utf-8"
    embeddings: FakeEmbeddings | None = None
    reranking: FakeEmbeddings | None = None
    token_counts: FakeTokenCounts | None = None


def bearer_token(headers: Mapping[str, str]) -> str:
    """Return the token of an ``Authorization: Bearer`` header, or an empty string.

    Examples
    --------
    >>> bearer_token({"authorization": "Bearer abc"}), bearer_token({})
    ('abc', '')
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def no_limit_headers(_standing: LimitStatus, _now: float) -> Mapping[str, str]:
    """Return no rate limit headers."""
    return {}
