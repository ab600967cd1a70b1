"""Turn requests into HTTP requests, and HTTP replies into responses, for any provider.

`prepare`, `interpret` and `interpret_stream` are the only functions that combine a provider's wire format with its
dialect, authorization and limits. They are pure and return on arbitrary bytes; time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.embedding import EmbeddingResponse, EmbedRequest
from llmhub.core.errors import InvalidRequest, LLMError, Malformed, ServerError, Unsupported, with_context
from llmhub.core.forced_tool import with_forced_tool
from llmhub.core.framing import FEEDS, Frame, flush
from llmhub.core.payload import deep_merge, excerpt, parse_json_object
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, Provider, locate
from llmhub.core.stream import NEW_RESPONSE, Delta, Fragment, PartKey, fold, label_forced_tool_deltas
from llmhub.core.surrogates import SurrogateJoiner
from llmhub.core.types import CompletionRequest, CompletionResponse, Payload, Refusal, Text, ToolCall
from llmhub.core.validation import drop_unsupported, validate_request

JSON_ENCODING_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""Raised by msgspec for a value that has no JSON form."""
FORCED_TOOL_PATHS: Final = ("$.tools", "$.tool_choice")
"""Paths of errors about the tool that replaces a response schema, which the caller did not write."""
SSE_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
"""Beginnings of the lines of server-sent events."""
EXPECTED_MEDIA_TYPES: Final = frozenset({"", "application/json", "text/event-stream", "application/x-ndjson"})
"""Content types that say nothing about what is wrong with a body."""
ANSWER_PARTS: Final = frozenset({Text, ToolCall, Refusal})
"""Parts that are an answer, unlike reasoning and sources."""
HEAD_SIZE: Final = 512
"""Bytes at the beginning of a stream that an error message may quote."""
_ENCODER: Final = msgspec.json.Encoder()


def prepare(
    provider: Provider, endpoint: Endpoint, request: CompletionRequest, now: float, *, stream: bool = False
) -> Result[HttpRequest, LLMError]:
    """Encode a request as the provider's HTTP request.

    Parameters
    ----------
    provider, endpoint
        Recipient of the request.
    request
        Request whose ``model`` is the provider's own model name.
    now
        Time of signing, in epoch seconds.
    stream
        Request a stream.

    Returns
    -------
    Result[HttpRequest, LLMError]
        ``InvalidRequest`` or ``Unsupported`` with a path. With ``unsupported="drop"`` the parameters that were omitted
        are listed in ``dropped``.
    """
    error = validate_request(request)
    if error is not None:
        return Failure(with_context(error, provider=provider.name))
    dropped: dict[str, None] = {}
    while not is_successful(encoded := _encode_request(provider, endpoint, request)):
        reduced = drop_unsupported(request, encoded.failure())
        if reduced is None:
            return Failure(with_context(encoded.failure(), provider=provider.name))
        name, request = reduced
        dropped |= {name: None} if name else {}
    payload = encoded.unwrap()
    if stream:
        payload = deep_merge(payload, provider.wire.stream_fields)
    payload = provider.adapt(payload)
    if request.extra:
        payload = deep_merge(payload, request.extra)
    try:
        body = _ENCODER.encode(payload)
    except JSON_ENCODING_ERRORS as encoding_error:
        path = "$.messages" if _is_json_encodable(request.extra) else "$.extra"
        message = f"not representable as JSON: {encoding_error}"
        return Failure(InvalidRequest(path=path, provider=provider.name, message=message))
    unauthorized = HttpRequest(
        method="POST",
        url=locate(endpoint, lambda each: provider.locate(each, request, stream)),
        headers={"content-type": "application/json"},
        body=body,
        dropped=tuple(dropped),
    )
    return Success(provider.authorize(endpoint, unauthorized, now))


def _encode_request(provider: Provider, endpoint: Endpoint, request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request in the provider's dialect, its response schema as a forced tool if there is no native mode."""
    error = provider.unsupported(endpoint, request)
    if error is not None:
        return Failure(error)
    schema = request.response_schema
    if schema is None or (schema.via or provider.structured_output_mode(request)) == "native":
        return provider.wire.encode(provider.relax_schema(request))
    encoded = provider.wire.encode(provider.relax_schema(with_forced_tool(request)))
    if is_successful(encoded) or encoded.failure().path not in FORCED_TOOL_PATHS or request.tools:
        return encoded
    message = f"structured output is not supported: {encoded.failure().message}"
    return Failure(Unsupported(path="$.response_schema", message=message))


def _is_json_encodable(value: object) -> bool:
    try:
        _ENCODER.encode(value)
    except JSON_ENCODING_ERRORS:
        return False
    return True


def interpret(provider: Provider, reply: HttpReply) -> Result[CompletionResponse, LLMError]:
    """Decode a complete reply to the response, or to the error that its status reports. Returns on arbitrary bytes.

    Some servers stream although no stream was requested: server-sent events are decoded as a stream.
    """
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
        return Failure(error_from_reply(provider, reply))
    response = provider.wire.decode_fast(reply.body)
    if response is None:
        if provider.wire.framing == "sse" and reply.body[:HEAD_SIZE].lstrip().startswith(SSE_FIELDS):
            return interpret_stream(provider, replace(reply, body=b""), [reply.body])
        parsed = parse_json_object(reply.body)
        if not isinstance(parsed, Success):
            return Failure(_with_reply_context(provider, reply, _with_content_type(parsed.failure(), reply)))
        decoded = provider.wire.decode(parsed.unwrap())
        if not isinstance(decoded, Success):
            return Failure(_with_reply_context(provider, reply, decoded.failure()))
        response = decoded.unwrap()
    return Success(_completed(provider, reply, response))


def _completed(provider: Provider, reply: HttpReply, response: CompletionResponse) -> CompletionResponse:
    """Return a response with the request id of its reply, and without a cost that is not known to be USD."""
    if response.usage.reported_cost_usd is not None and not provider.reports_cost:
        response = replace(response, usage=replace(response.usage, reported_cost_usd=None))
    request_id = reply.header(provider.request_id_header)
    if not request_id or request_id == response.request_id:
        return response
    return NEW_RESPONSE(
        response.parts, response.finish_reason, response.usage, response.served_model, request_id, response.others,
        response.forced_tool,
    )  # fmt: skip


def prepare_embedding(
    provider: Provider, endpoint: Endpoint, request: EmbedRequest, now: float
) -> Result[HttpRequest, LLMError]:
    """Encode texts as the provider's HTTP request for their vectors.

    ``Unsupported`` if the provider has no embeddings, or cannot express an option.
    """
    service = provider.vector_service(request.options)
    if service is None:
        message = f"{provider.name} has no {'embeddings' if request.options.query is None else 'reranking'}"
        return Failure(Unsupported(path="$.model", provider=provider.name, message=message))
    error = _endpoint_error(provider, endpoint, request.model)
    encoded = service.wire.encode(request) if error is None else Failure(error)
    if not is_successful(encoded):
        return Failure(with_context(encoded.failure(), provider=provider.name))
    payload = encoded.unwrap()
    extra = request.options.extra
    try:
        body = _ENCODER.encode(deep_merge(payload, extra) if extra else payload)
    except JSON_ENCODING_ERRORS as encoding_error:
        message = f"not representable as JSON: {encoding_error}"
        return Failure(InvalidRequest(path="$.texts", provider=provider.name, message=message))
    headers = {"content-type": "application/json"}
    unauthorized = HttpRequest("POST", locate(endpoint, lambda each: service.locate(each, request)), headers, body)
    return Success(provider.authorize(endpoint, unauthorized, now))


def prepare_token_count(
    provider: Provider, endpoint: Endpoint, request: CompletionRequest, now: float
) -> Result[HttpRequest, LLMError]:
    """Encode a request to count the input tokens of ``request``; ``Unsupported`` if the provider counts none."""
    service = provider.token_counts
    if service is None:
        message = f"{provider.name} has no endpoint that counts tokens"
        return Failure(Unsupported(path="$.model", provider=provider.name, message=message))
    unsigned = replace(provider, authorize=lambda _endpoint, unsigned_request, _now: unsigned_request)
    prepared = prepare(unsigned, endpoint, request, now)
    if not is_successful(prepared):
        return prepared
    completion = prepared.unwrap()
    body = _ENCODER.encode(service.payload(request.model, parse_json_object(completion.body).value_or({})))
    url = locate(endpoint, lambda each: service.locate(each, request.model))
    return Success(provider.authorize(endpoint, replace(completion, url=url, body=body), now))


def interpret_token_count(provider: Provider, reply: HttpReply) -> Result[int, LLMError]:
    """Decode a reply to the number of tokens, or to the error that it reports."""
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
        return Failure(error_from_reply(provider, reply))
    field = provider.token_counts.field if provider.token_counts is not None else ""
    count = parse_json_object(reply.body).map(lambda payload: payload.get(field)).value_or(None)
    if type(count) is not int or count < 0:
        return Failure(Malformed(path=f"$.{field}", message=f"no count of tokens: {excerpt(reply.body)}"))
    return Success(count)


def _endpoint_error(provider: Provider, endpoint: Endpoint, model: str) -> LLMError | None:
    """Return what is missing at the endpoint, such as an address or a project, whatever is asked of it."""
    error = provider.unsupported(endpoint, CompletionRequest(model=model, messages=()))
    return error if error is not None and error.path.startswith("$.endpoint") else None


def interpret_embedding(
    provider: Provider, request: EmbedRequest, reply: HttpReply
) -> Result[EmbeddingResponse, LLMError]:
    """Decode a reply to the vectors of a request, or to the error that it reports. Returns on arbitrary bytes."""
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
        return Failure(error_from_reply(provider, reply))
    service = provider.vector_service(request.options)
    if service is None:
        return Failure(Unsupported(path="$.model", message=f"{provider.name} has no embeddings"))
    decoded = service.wire.decode(request, reply)
    if not is_successful(decoded):
        return Failure(_with_reply_context(provider, reply, _with_content_type(decoded.failure(), reply)))
    response = decoded.unwrap()
    expected = request.options.dimensions
    if expected and response.dimensions != expected:
        message = f"vectors of {response.dimensions} dimensions, although dimensions={expected} was asked for"
        return Failure(_with_reply_context(provider, reply, Malformed(path="$", message=message)))
    if response.usage.reported_cost_usd is not None and not provider.reports_cost:
        response = replace(response, usage=replace(response.usage, reported_cost_usd=None))
    request_id = reply.header(provider.request_id_header) if provider.request_id_header else ""
    return Success(replace(response, request_id=request_id) if request_id else response)


def interpret_stream(
    provider: Provider, reply: HttpReply, chunks: Iterable[bytes]
) -> Result[CompletionResponse, LLMError]:
    """Decode a streamed reply. Law: the response equals that of the same reply without streaming.

    Parameters
    ----------
    reply
        Status and headers; its ``body`` precedes ``chunks``.
    chunks
        The body, split anywhere. Arbitrary bytes return an error.
    """
    if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP success
        return Failure(error_from_reply(provider, replace(reply, body=reply.body + b"".join(chunks))))
    decoder = StreamDecoder(provider, reply)
    deltas: list[Delta] = []
    for chunk in chunks:
        deltas.extend(decoder.feed(chunk))
        if decoder.error is not None:
            return Failure(decoder.error)
    return decoder.close(deltas)


class StreamDecoder:
    """Incremental decoder of one streamed reply. Its state is the bytes of an incomplete frame.

    Attributes
    ----------
    error
        First error of the stream; nothing after it is decoded. ``None`` if there is none so far.
    """

    __slots__ = (
        "_feed",
        "_forced_calls",
        "_has_answer",
        "_has_frames",
        "_head",
        "_is_json_body",
        "_joiner",
        "_provider",
        "_reply",
        "_rest",
        "error",
    )

    def __init__(self, provider: Provider, reply: HttpReply) -> None:
        self._provider = provider
        self._reply = reply
        self._feed = FEEDS[provider.wire.framing]
        self._rest = reply.body
        self._forced_calls: set[PartKey] = set()
        self._joiner = SurrogateJoiner()
        self._head = reply.body[:HEAD_SIZE]
        self._has_frames = False
        self._has_answer = False
        # Some servers ignore the request for a stream and reply with one JSON document.
        self._is_json_body = _media_type(reply) == "application/json" and not self._is_sse()
        self.error: LLMError | None = None

    def feed(self, chunk: bytes) -> tuple[Delta, ...]:
        """Return the deltas of the frames that ``chunk`` completes, those before an `error` included."""
        if self.error is not None:
            return ()
        if len(self._head) < HEAD_SIZE:
            self._head = (self._head + chunk)[:HEAD_SIZE]
            # Others stream server-sent events under that content type, or send JSON under another one.
            self._is_json_body = (self._is_json_body or self._is_json()) and not self._is_sse()
        if self._is_json_body:
            self._rest += chunk
            return ()
        return self._decode_frames(self._feed(self._rest, chunk))

    def end(self) -> tuple[Delta, ...]:
        """Return the deltas of what is left at the end of the body; none if it is one JSON document."""
        if self.error is not None or (self._is_json_body and not self._rest.lstrip().startswith(b"[")):
            return ()
        rest, self._rest = self._rest, b""
        if self._is_json_body:
            self._is_json_body = False
            last = self._decode_array(rest)
        else:
            last = self._decode_frames(flush(self._provider.wire.framing, rest))
        return (*last, *self._joiner.flush()) if self.error is None else ()

    def close(self, deltas: Iterable[Delta]) -> Result[CompletionResponse, LLMError]:
        """Decode what is left at the end of the body, and fold all ``deltas`` into the response."""
        last = self.end()
        if self.error is not None:
            return Failure(self.error)
        if self._is_json_body:
            return interpret(self._provider, replace(self._reply, body=self._rest))
        if self._is_no_stream():
            return Failure(self._fail(Malformed(path="$", message=f"not a stream: {excerpt(self._head)}")))
        folded = fold((*deltas, *last))
        if not is_successful(folded):
            return Failure(_with_reply_context(self._provider, self._reply, folded.failure()))
        return Success(_completed(self._provider, self._reply, folded.unwrap()))

    def _is_json(self) -> bool:
        """Return whether the body begins as an object, where a stream begins with the name of a field."""
        return self._provider.wire.framing == "sse" and not self._has_frames and self._head.lstrip()[:1] == b"{"

    def _is_no_stream(self) -> bool:
        """Return whether the body was a page or another text, not a stream that broke off."""
        head, media_type = self._head.lstrip(), _media_type(self._reply)
        if self._has_frames or not head:
            return False
        is_text = self._provider.wire.framing == "sse" and media_type not in {"", "text/event-stream"}
        return head[:1] == b"<" or media_type == "text/html" or (is_text and not self._is_sse())

    def _is_sse(self) -> bool:
        return self._provider.wire.framing == "sse" and self._head.lstrip().startswith(SSE_FIELDS)

    def _fail(self, error: LLMError) -> LLMError:
        """Set and return the error of the stream."""
        if isinstance(error, Malformed):
            error = _with_content_type(error, self._reply)
        self.error = _with_reply_context(self._provider, self._reply, error)
        return self.error

    def _decode_array(self, body: bytes) -> tuple[Delta, ...]:
        """Decode a stream that arrived as one JSON array of its events."""
        try:
            events = msgspec.json.decode(body, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError) as error:
            self._fail(Malformed(path="$", message=f"not JSON ({error}): {excerpt(body)}"))
            return ()
        return self._decode_frames(Success((tuple(Frame("", bytes(event)) for event in events), b"")))

    def _decode_frames(self, fed: Result[tuple[tuple[Frame, ...], bytes], LLMError]) -> tuple[Delta, ...]:
        if not is_successful(fed):
            self._fail(fed.failure())
            return ()
        frames, self._rest = fed.unwrap()
        self._has_frames = self._has_frames or bool(frames)
        deltas: list[Delta] = []
        for frame in frames:
            decoded = self._provider.wire.decode_frame(frame)
            if not is_successful(decoded):
                self._fail(decoded.failure())
                break
            new = decoded.unwrap()
            if not self._has_answer:
                new = (*self._provider.wire.decode_unstreamed(frame), *new)
                self._has_answer = any(
                    isinstance(delta, Fragment) and type(delta.part) in ANSWER_PARTS for delta in new
                )
            deltas.extend(self._joiner.join(label_forced_tool_deltas(new, self._forced_calls)))
        return tuple(deltas)


def _media_type(reply: HttpReply) -> str:
    return reply.header("content-type").partition(";")[0].strip().lower()


def _with_content_type(error: LLMError, reply: HttpReply) -> LLMError:
    """Add the content type to an error about a body that is not of the provider's format."""
    media_type = _media_type(reply)
    is_expected = media_type in EXPECTED_MEDIA_TYPES
    return error if is_expected else replace(error, message=f"{error.message} (content type {media_type})")


def error_from_reply(provider: Provider, reply: HttpReply) -> LLMError:
    """Decode a reply with an error status; redirects are errors, because they are not followed."""
    if 300 <= reply.status < 400:  # noqa: PLR2004 - HTTP redirection
        location = reply.header("location")
        return ServerError(
            provider=provider.name,
            status=reply.status,
            should_retry=False,
            message=f"redirected{f' to {location}' if location else ''}, which was not followed; "
            "set base_url to the final address",
        )
    return _with_reply_context(provider, reply, provider.wire.decode_error(reply))


def _with_reply_context(provider: Provider, reply: HttpReply, error: LLMError) -> LLMError:
    """Return ``error`` with the provider's name, and the request id and retry advice of the reply's headers."""
    limits = provider.limits(reply)
    return with_context(
        error,
        provider=provider.name,
        request_id=reply.header(provider.request_id_header),
        retry_after_s=limits.retry_after_s,
        should_retry=limits.should_retry,
    )
