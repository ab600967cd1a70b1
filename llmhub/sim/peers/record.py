"""The record of one simulated provider: pure functions for its side of a wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.exchange import Answer, Call, Incoming, Problem, Question
from llmhub.sim.limits import Standing

JSON: Final = {"content-type": "application/json"}
encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
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
    locate: Callable[[Incoming], Call | None]
    authorize: Callable[[Incoming, str], Problem | None]
    read: Callable[[Payload, Call], Question | Problem]
    reply: Callable[[Answer], Payload]
    events: Callable[[Answer], Iterator[bytes]]
    error: Callable[[Problem, str], HttpReply]
    broken: Callable[[Problem, str], bytes]
    garbled: bytes
    listing: Callable[[Sequence[str]], Payload]
    limits: Callable[[Standing, float], Mapping[str, str]]
    request_id: Callable[[str], str]
    id_header: str = ""
    ending: str = ""
    stream_type: str = "text/event-stream; charset=utf-8"


def bearer(headers: Mapping[str, str]) -> str:
    """Give the token of an ``Authorization: Bearer`` header, or nothing.

    Examples
    --------
    >>> bearer({"authorization": "Bearer abc"}), bearer({})
    ('abc', '')
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def silent(_standing: Standing, _now: float) -> Mapping[str, str]:
    """Tell nothing about limits."""
    return {}
