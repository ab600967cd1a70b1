"""Values as bytes: canonical requests and their keys, and responses as a store keeps them.

A key is the SHA-256 of everything that decides an answer: the mapping's version, the provider, the address,
the api version, the headers that are no credential, which sample it is, and the canonical request.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, get_args
from zlib import crc32

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.types import (
    CacheMark,
    Choice,
    CompletionRequest,
    CompletionResponse,
    Document,
    FinishReason,
    Image,
    Logprobs,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)

if TYPE_CHECKING:
    from llmhub.core.provider import Endpoint, Provider

MAPPING_VERSION: Final = 2
"""Raised when a wire's reading or writing changes meaning, so that old answers are not served for new questions."""
VALUE_VERSION: Final = 2
"""Version of a stored response's layout: the first byte of `encode_response`. `unpack` reads earlier ones too."""

_CANONICAL: Final = msgspec.json.Encoder(order="deterministic")
CREDENTIALS: Final = frozenset(
    {"authorization", "api-key", "x-api-key", "x-goog-api-key", "x-amz-security-token", "proxy-authorization", "cookie"}
)
"""Header names that say who asks, not what: they stay out of keys, logs and stores."""


def quoted(text: str) -> bytes:
    """Give the canonical JSON of a text, as it stands in canonical requests and in payloads."""
    try:
        return _CANONICAL.encode(text)
    except UnicodeEncodeError:
        # Half of a surrogate pair is no text and cannot be sent, but what asks it must still have a key.
        return json.dumps(text).encode()


def quoted_all(texts: Sequence[str]) -> list[bytes]:
    """Give `quoted` of each text, at half the cost."""
    try:
        return list(map(_CANONICAL.encode, texts))
    except UnicodeEncodeError:
        return list(map(quoted, texts))


def canonical(request: CompletionRequest) -> bytes:
    """Give the one byte form of a request: fields in their declared order, mappings sorted by key.

    Law: equal requests have equal bytes, and any field that differs changes them.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), extra={"b": 1, "a": 2})
    >>> canonical(ask)[-45:]
    b'"extra":{"a":2,"b":1},"unsupported":"error"}}'
    """
    try:
        return _CANONICAL.encode(_tagged(request))
    except UnicodeEncodeError:
        return repr(request).encode("utf-8", "surrogatepass")


def _tagged(request: CompletionRequest) -> object:
    """Mark each part with its kind, since two kinds may have the same fields."""
    messages = request.messages
    if all(len(message.parts) == 1 and type(message.parts[0]) is Text for message in messages):
        return {"request": request}
    kinds = [[type(part).__name__ for part in message.parts] for message in messages]
    return {"kinds": kinds, "request": request}


Keyer: TypeAlias = Callable[[CompletionRequest, int], bytes]


def keyer(provider: Provider, endpoint: Endpoint) -> Keyer:
    """Make the function that keys requests to one address: ``keyer(p, e)(request, sample)``.

    What does not change from request to request is hashed once.
    """
    head = keyed_head(provider, endpoint)
    located: dict[str, bytes] = {}

    def key(request: CompletionRequest, sample: int = 0) -> bytes:
        url = located.get(request.model)
        if url is None:
            url = located[request.model] = quoted(provider.locate(endpoint, request, False))
        digest = head.copy()
        digest.update(b"%b%d" % (url, sample))
        digest.update(canonical(request))
        return digest.digest()

    return key


def request_key(provider: Provider, endpoint: Endpoint, request: CompletionRequest, sample: int = 0) -> bytes:
    """Give the 32 bytes under which the answer to ``request`` is filed.

    Parameters
    ----------
    provider, endpoint
        Who is asked, and where; credentials do not count.
    request
        What is asked, with the provider's own name of the model.
    sample
        Which of several answers to the same question.

    Notes
    -----
    Laws: equal requests have equal keys; any field that reaches the wire changes the key; the order of
    fields and of mapping entries does not.
    """
    return keyer(provider, endpoint)(request, sample)


def keyed_head(provider: Provider, endpoint: Endpoint) -> hashlib._Hash:
    """Hash what all requests to one address share: the beginning of every key."""
    return hashlib.sha256(
        _CANONICAL.encode(
            [
                MAPPING_VERSION,
                provider.name,
                provider.wire.name,
                endpoint.base_url or provider.base_url,
                endpoint.api_version,
                endpoint.region,
                sorted((k.lower(), v) for k, v in endpoint.headers.items() if k.lower() not in CREDENTIALS),
            ]
        )
    )


class StoredPart(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A part as a store keeps it: the number of its kind and its fields."""

    kind: int
    fields: tuple[object, ...]


class StoredResponse(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A response as a store keeps it, with what it took to get it.

    ``parts`` is the text itself where an answer is one text; ``usage`` counts in the order of `Usage`'s fields.
    """

    parts: str | list[StoredPart]
    finish_reason: FinishReason
    usage: tuple[int | None, int | None, int | None, int | None, int | None]
    served_model: str
    request_id: str
    others: list[tuple[list[StoredPart], FinishReason]]
    latency_s: float | None
    ttft_s: float | None
    started_at: float
    dropped: tuple[str, ...]
    forced_tool: bool = False


KINDS: Final = (Text, Image, Document, ToolCall, ToolResult, Reasoning, Refusal, Opaque, CacheMark, Logprobs)
_NUMBERS: Final = {kind: number for number, kind in enumerate(KINDS)}
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(StoredResponse)
CHECKSUM: Final = 4
"""Bytes of a stored response's checksum."""
HEAD: Final = 1 + CHECKSUM
"""Bytes before what the checksum covers."""
FINISH_REASONS: Final[tuple[FinishReason, ...]] = get_args(FinishReason)
"""A stored response holds its place in this order: append, never reorder."""
PLAIN: Final = struct.Struct("<BIBB5q3dIHHH")
"""What a value begins with that is one text: version, checksum, `IS_PLAIN`, finish reason, five token counts, latency,
time to the first token and when it was asked in seconds, and how many bytes of UTF-8 follow of the text, the serving
model, the request's id and the dropped parameters (with `BETWEEN` between two). All of them little-endian."""
IS_PLAIN: Final = 1
NO_COUNT: Final = -(2**63)
"""Stands for a count that is not known, as not-a-number does for a time."""
BETWEEN: Final = "\x1f"
_BODY: Final = struct.Struct(f"<{PLAIN.format[len('<BI') :]}")
"""`PLAIN` without what the checksum does not cover."""


def stored(
    response: CompletionResponse,
    *,
    latency_s: float | None = None,
    ttft_s: float | None = None,
    started_at: float = 0.0,
    dropped: tuple[str, ...] = (),
) -> StoredResponse:
    """Bring a response, and what it took to get it, to the form in which it is kept."""
    parts = response.parts
    usage = response.usage
    return StoredResponse(
        parts=parts[0].text if len(parts) == 1 and type(parts[0]) is Text else [_stored(part) for part in parts],
        finish_reason=response.finish_reason,
        usage=(
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        ),
        served_model=response.served_model,
        request_id=response.request_id,
        others=[([_stored(part) for part in choice.parts], choice.finish_reason) for choice in response.others],
        latency_s=latency_s,
        ttft_s=ttft_s,
        started_at=started_at,
        dropped=dropped,
        forced_tool=response.forced_tool,
    )


def response_of(kept: StoredResponse) -> CompletionResponse:
    """Make the response again. Law: ``response_of(stored(r)) == r``."""
    return CompletionResponse(
        parts=(Text(kept.parts),) if isinstance(kept.parts, str) else parts_of(kept.parts),
        finish_reason=kept.finish_reason,
        usage=_usage(kept.usage),
        served_model=kept.served_model,
        request_id=kept.request_id,
        others=tuple(Choice(parts_of(parts), reason) for parts, reason in kept.others),
        forced_tool=kept.forced_tool,
    )


def seed_of(key: bytes) -> int:
    """Give what a value's checksum starts from, so that a value under another key is damage too."""
    return int.from_bytes(key[:4], "little")


def pack(kept: StoredResponse, key: bytes = b"") -> bytes:
    """Give the bytes of a kept response, to be filed under ``key``.

    They begin with a version byte and a CRC-32 of all that follows. An answer that is one text, as most are, follows in
    the layout `PLAIN`, which a whole column of them can be read by; any other in MessagePack.
    """
    body = _plain(kept) or b"\0" + _ENCODER.encode(kept)
    return b"%c%b%b" % (VALUE_VERSION, crc32(body, seed_of(key)).to_bytes(CHECKSUM, "little"), body)


def _plain(kept: StoredResponse) -> bytes | None:
    """Write an answer that is one text; ``None`` for what does not fit."""
    parts, usage, dropped = kept.parts, kept.usage, kept.dropped
    if not isinstance(parts, str) or kept.others or kept.forced_tool or NO_COUNT in usage:
        return None
    if dropped and any(BETWEEN in name or not name for name in dropped):
        return None
    try:
        text, served, asked = parts.encode(), kept.served_model.encode(), kept.request_id.encode()
        left_out = BETWEEN.join(dropped).encode()
        fixed = _BODY.pack(
            IS_PLAIN,
            FINISH_REASONS.index(kept.finish_reason),
            *(usage if None not in usage else [NO_COUNT if count is None else count for count in usage]),
            math.nan if kept.latency_s is None else kept.latency_s,
            math.nan if kept.ttft_s is None else kept.ttft_s,
            kept.started_at,
            len(text),
            len(served),
            len(asked),
            len(left_out),
        )
    except (struct.error, ValueError):  # a count or a length beyond its room, or a text that has no bytes
        return None
    return b"".join((fixed, text, served, asked, left_out))


def unpack(value: bytes, key: bytes = b"") -> Result[StoredResponse, LLMError]:
    """Read what `pack` wrote; another version or a damaged value is `Malformed`, never wrong."""
    version, body = value[:1], memoryview(value)[HEAD:]
    if version == bytes([VALUE_VERSION]):
        intact = crc32(body, seed_of(key)) == int.from_bytes(value[1:HEAD], "little")
    elif version == b"\x01":
        intact = crc32(body) == int.from_bytes(value[1:HEAD], "big")
    elif version > bytes([VALUE_VERSION]):
        return Failure(Malformed(message=f"stored response of version {value[0]}, later than {VALUE_VERSION}"))
    else:
        return Failure(Malformed(message=f"{DAMAGED}: no version"))
    if not intact:
        return Failure(Malformed(message=f"{DAMAGED}: checksum mismatch"))
    try:
        if version != b"\x01" and value[HEAD] == IS_PLAIN:
            return Success(_of_plain(value))
        kept = _DECODER.decode(body if version == b"\x01" else body[1:])
        if not isinstance(kept.parts, str):
            response_of(kept)
    except (msgspec.DecodeError, TypeError, ValueError, IndexError, RecursionError, struct.error) as error:
        return Failure(Malformed(message=f"{DAMAGED}: {error}"))
    return Success(kept)


DAMAGED: Final = "damaged stored response"


def is_damage(error: LLMError) -> bool:
    """Say whether `unpack` failed on a value that is damaged, not merely of a version that it does not know."""
    return isinstance(error, Malformed) and error.message.startswith(DAMAGED)


def _of_plain(value: bytes) -> StoredResponse:
    """Read an answer that is one text."""
    _, _, _, finish, *numbers = PLAIN.unpack_from(value)
    counts, times, lengths = numbers[:5], numbers[5:8], numbers[8:]
    ends = list(accumulate(lengths, initial=PLAIN.size))
    if ends[-1] != len(value):
        raise ValueError("its lengths do not add up")
    text, served, request, dropped = (value[low:high].decode() for low, high in pairwise(ends))
    latency_s, ttft_s = (None if math.isnan(time) else time for time in times[:2])
    usage = cast(
        "tuple[int | None, int | None, int | None, int | None, int | None]",
        tuple(None if count == NO_COUNT else count for count in counts),
    )
    return StoredResponse(
        parts=text,
        finish_reason=FINISH_REASONS[finish],
        usage=usage,
        served_model=served,
        request_id=request,
        others=[],
        latency_s=latency_s,
        ttft_s=ttft_s,
        started_at=times[2],
        dropped=tuple(dropped.split(BETWEEN)) if dropped else (),
    )


def encode_response(response: CompletionResponse, key: bytes = b"") -> bytes:
    """Give the bytes of a response. Law: ``decode_response(encode_response(r))`` gives ``r`` back."""
    return pack(stored(response), key)


def decode_response(value: bytes, key: bytes = b"") -> Result[CompletionResponse, LLMError]:
    """Read what `encode_response` wrote; arbitrary bytes are `Malformed`."""
    return unpack(value, key).map(response_of)


@lru_cache(maxsize=4096)
def _usage(counts: tuple[int | None, int | None, int | None, int | None, int | None]) -> Usage:
    """Make a `Usage`; the same few counts recur by the thousand."""
    return Usage(
        input_tokens=counts[0],
        output_tokens=counts[1],
        cached_input_tokens=counts[2],
        cache_write_tokens=counts[3],
        reasoning_tokens=counts[4],
    )


def _stored(part: Part) -> StoredPart:
    """Write a part as the number of its kind and its fields."""
    fields = tuple(getattr(part, name) for name in part.__dataclass_fields__)
    if isinstance(part, ToolResult) and not isinstance(part.content, str):
        pieces = [(piece.kind, piece.fields) for piece in map(_stored, part.content)]
        fields = (part.id, pieces, part.name, part.is_error)
    return StoredPart(_NUMBERS[type(part)], fields)


def parts_of(kept: Iterable[StoredPart]) -> tuple[Part, ...]:
    """Make parts again."""
    return tuple(_part(part.kind, part.fields) for part in kept)


def _part(number: int, fields: Sequence[Any]) -> Part:
    """Make one part again; what cannot be one raises ``ValueError`` or ``TypeError``."""
    kind = KINDS[number] if number >= 0 else None
    if kind is ToolResult:
        call, content, name, is_error = fields
        if not (isinstance(call, str) and isinstance(name, str) and isinstance(is_error, bool)):
            raise ValueError("a field of a tool result is of another type")
        return ToolResult(call, content if isinstance(content, str) else _pieces(content), name, is_error)
    if kind is None or not all(isinstance(value, str) for value in fields):
        raise ValueError("a field of a part is no text")
    return kind(*fields)


def _pieces(content: Iterable[tuple[int, Sequence[Any]]]) -> tuple[Text | Image, ...]:
    """Make a tool result's content again."""
    parts = [_part(number, fields) for number, fields in content]
    pieces = tuple(part for part in parts if isinstance(part, (Text, Image)))
    if len(pieces) < len(parts):
        raise ValueError("a tool result of other parts than text and images")
    return pieces
