"""The two records everything hangs on, and the three functions around a wire.

A `Wire` is how a format is written and read; a `Provider` is who speaks it, where, signed how. Nobody
subclasses: a provider is a row of functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import InvalidRequest, LLMError, Malformed, ServerError, Unsupported, with_context
from llmhub.core.forced_tool import with_forced_tool
from llmhub.core.framing import FEEDS, Frame, flush
from llmhub.core.payload import deep_merge, parse_json_object
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, Provider
from llmhub.core.stream import Delta, PartKey, fold, label_forced_tool_deltas
from llmhub.core.types import CompletionRequest, CompletionResponse, Payload
from llmhub.core.validation import drop_unsupported, validate_request

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
    wrong = validate_request(request)
    if wrong is not None:
        return Failure(with_context(wrong, provider=provider.name))
    dropped: dict[str, None] = {}
    while True:
        encoded = _encode_request(provider, endpoint, request)
        if is_successful(encoded):
            break
        fewer = drop_unsupported(request, encoded.failure())
        if fewer is None:
            return Failure(with_context(encoded.failure(), provider=provider.name))
        name, request = fewer
        dropped |= {name: None} if name else {}
    payload = provider.adapt(deep_merge(encoded.unwrap(), provider.wire.stream_fields) if stream else encoded.unwrap())
    if request.extra:
        payload = deep_merge(payload, request.extra)
    try:
        body = _ENCODER.encode(payload)
    except JSON_ENCODING_ERRORS as bad:
        path = "$.messages" if _is_json_encodable(request.extra) else "$.extra"
        return Failure(InvalidRequest(path=path, provider=provider.name, message=f"not representable as JSON: {bad}"))
    bare = HttpRequest(
        method="POST",
        url=provider.locate(endpoint, request, stream),
        headers={"content-type": "application/json"},
        body=body,
        dropped=tuple(dropped),
    )
    return Success(provider.authorize(endpoint, bare, now))


def _encode_request(provider: Provider, endpoint: Endpoint, request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as this provider takes it; an answer's schema as a tool where there is no other way."""
    refused = provider.unsupported(endpoint, request)
    if refused is not None:
        return Failure(refused)
    wanted = request.response_schema
    if wanted is None or (wanted.via or provider.structured_output_mode(request)) == "native":
        return provider.wire.encode(provider.relax_schema(request))
    encoded = provider.wire.encode(provider.relax_schema(with_forced_tool(request)))
    if is_successful(encoded) or encoded.failure().path not in FORCED_TOOL_PATHS or request.tools:
        return encoded
    said = f"an answer cannot be held to a schema here: {encoded.failure().message}"
    return Failure(Unsupported(path="$.response_schema", message=said))


FORCED_TOOL_PATHS: Final = ("$.tools", "$.tool_choice")
"""Paths of what is wrong with a request that nobody wrote so."""


JSON_ENCODING_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What is raised for a value that has no JSON form."""


def _is_json_encodable(value: object) -> bool:
    try:
        _ENCODER.encode(value)
    except JSON_ENCODING_ERRORS:
        return False
    return True


def interpret(provider: Provider, reply: HttpReply) -> Result[CompletionResponse, LLMError]:
    """Read a whole reply, be it an answer or an error. Returns on arbitrary bytes."""
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
        return Failure(_error_from_reply(provider, reply))
    response = provider.wire.decode_fast(reply.body)
    if response is None:
        read = parse_json_object(reply.body).bind(provider.wire.decode)
        if not is_successful(read):
            return Failure(_with_reply_context(provider, reply, read.failure()))
        response = read.unwrap()
    served = reply.header(provider.request_id_header)
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
        return Failure(_error_from_reply(provider, replace(reply, body=reply.body + b"".join(chunks))))
    stream = StreamDecoder(provider, reply)
    deltas: list[Delta] = []
    for chunk in chunks:
        fed = stream.feed(chunk)
        if not is_successful(fed):
            return Failure(fed.failure())
        deltas.extend(fed.unwrap())
    return stream.close(deltas)


class StreamDecoder:
    """Bytes of one streamed reply to deltas: what is left over between chunks, and nothing else."""

    __slots__ = ("_forced_calls", "_feed", "_provider", "_reply", "_rest", "_is_json_body")

    def __init__(self, provider: Provider, reply: HttpReply) -> None:
        self._provider = provider
        self._reply = reply
        self._feed = FEEDS[provider.wire.framing]
        self._rest = reply.body
        self._forced_calls: set[PartKey] = set()
        # Some servers answer a request for a stream with one JSON document.
        self._is_json_body = reply.header("content-type").partition(";")[0].strip() == "application/json"

    def feed(self, chunk: bytes) -> Result[tuple[Delta, ...], LLMError]:
        """Take in some bytes and give the deltas that are now whole."""
        if self._is_json_body:
            self._rest += chunk
            return Success(())
        return self._decode_frames(self._feed(self._rest, chunk))

    def close(self, deltas: Iterable[Delta]) -> Result[CompletionResponse, LLMError]:
        """Take the end of the connection into account and fold ``deltas``, which came before it."""
        if self._is_json_body and not self._rest.lstrip().startswith(b"["):
            return interpret(self._provider, replace(self._reply, body=self._rest))
        last = (
            self._read_array()
            if self._is_json_body
            else self._decode_frames(flush(self._provider.wire.framing, self._rest))
        )
        if not is_successful(last):
            return Failure(last.failure())
        folded = fold((*deltas, *last.unwrap()))
        if not is_successful(folded):
            return Failure(_with_reply_context(self._provider, self._reply, folded.failure()))
        served = self._reply.header(self._provider.request_id_header)
        return Success(replace(folded.unwrap(), request_id=served)) if served else folded

    def _read_array(self) -> Result[tuple[Delta, ...], LLMError]:
        """Read a stream that came as one JSON array of its events."""
        try:
            events = msgspec.json.decode(self._rest, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError) as bad:
            return Failure(
                _with_reply_context(self._provider, self._reply, Malformed(path="$", message=f"not JSON: {bad}"))
            )
        return self._decode_frames(Success((tuple(Frame("", bytes(event)) for event in events), b"")))

    def _decode_frames(
        self, fed: Result[tuple[tuple[Frame, ...], bytes], LLMError]
    ) -> Result[tuple[Delta, ...], LLMError]:
        if not is_successful(fed):
            return Failure(_with_reply_context(self._provider, self._reply, fed.failure()))
        frames, self._rest = fed.unwrap()
        deltas: list[Delta] = []
        for frame in frames:
            read = self._provider.wire.decode_frame(frame)
            if not is_successful(read):
                return Failure(_with_reply_context(self._provider, self._reply, read.failure()))
            deltas.extend(label_forced_tool_deltas(read.unwrap(), self._forced_calls))
        return Success(tuple(deltas))


def _error_from_reply(provider: Provider, reply: HttpReply) -> LLMError:
    """Read an error reply, and refuse to take a redirect for one."""
    if 300 <= reply.status < 400:  # noqa: PLR2004 - HTTP redirection
        return ServerError(
            provider=provider.name,
            status=reply.status,
            should_retry=False,
            message=f"redirected to {reply.header('location') or 'nowhere'}, which was not followed; "
            "set the base URL to the final address",
        )
    return _with_reply_context(provider, reply, provider.wire.decode_error(reply))


def _with_reply_context(provider: Provider, reply: HttpReply, error: LLMError) -> LLMError:
    """Add to an error what the reply's headers and the provider know."""
    limits = provider.limits(reply)
    return with_context(
        error,
        provider=provider.name,
        request_id=reply.header(provider.request_id_header),
        retry_after_s=limits.retry_after_s,
        should_retry=limits.should_retry,
    )
