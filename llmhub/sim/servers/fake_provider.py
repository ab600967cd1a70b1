"""The record of one simulated provider: pure functions for its side of a wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.limits import LimitStatus
from llmhub.sim.types import SimError, SimHttpRequest, SimRequest, SimResponse, SimRoute

JSON_HEADERS: Final = {"content-type": "application/json"}
encode_json: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeProvider:
    """One provider's other side.

    Parameters
    ----------
    name, prefix
        Its name, and the path under which it is reached: what a client takes as base URL.
    ending
        How the paths end that are this one's, where two share a prefix.
    models
        Models it lists; it answers for others as well.
    locate
        What an address asks for; ``None`` where there is nothing.
    authorize
        What is wrong with the credentials, given the one key that is right.
    read
        A payload to the question in it, or to what the provider would say is wrong with it.
    reply, events
        An answer as a body, and as the events of a stream.
    error
        A refusal, given the id of the request.
    broken
        The event that tells of a problem inside a stream that began well.
    garbled
        An event whose JSON does not parse.
    listing
        Models as the provider lists them.
    limits
        Headers that tell where a caller stands, given epoch seconds.
    request_id, id_header
        An id as this provider writes it, from 32 hexadecimal digits, and the header it comes in, if any.
    stream_type
        Content type of a stream.
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
