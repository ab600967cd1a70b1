"""Values as bytes: canonical requests and their keys, and responses as a store keeps them.

A key is the SHA-256 of everything that decides an answer: the mapping's version, the provider, the address,
the api version, the headers that are no credential, which sample it is, and the canonical request.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, cast, get_args
from zlib import crc32

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.types import (
    CacheMark,
    Choice,
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
    pass


VALUE_VERSION: Final = 2
"""Version of a stored response's layout: the first byte of `encode_response`. `unpack` reads earlier ones too."""


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


_KIND_NUMBERS: Final = {kind: number for number, kind in enumerate(KINDS)}


_ENCODER: Final = msgspec.msgpack.Encoder()


_DECODER: Final = msgspec.msgpack.Decoder(StoredResponse)


CHECKSUM_SIZE: Final = 4
"""Bytes of a stored response's checksum."""


HEADER_SIZE: Final = 1 + CHECKSUM_SIZE
"""Bytes before what the checksum covers."""


FINISH_REASONS: Final[tuple[FinishReason, ...]] = get_args(FinishReason)
"""A stored response holds its place in this order: append, never reorder."""


TEXT_LAYOUT: Final = struct.Struct("<BIBB5q3dIHHH")
"""What a value begins with that is one text: version, checksum, `IS_TEXT`, finish reason, five token counts, latency,
time to the first token and when it was asked in seconds, and how many bytes of UTF-8 follow of the text, the serving
model, the request's id and the dropped parameters (with `SEPARATOR` between two). All of them little-endian."""


IS_TEXT: Final = 1


UNKNOWN_COUNT: Final = -(2**63)
"""Stands for a count that is not known, as not-a-number does for a time."""


SEPARATOR: Final = "\x1f"


_TEXT_BODY: Final = struct.Struct(f"<{TEXT_LAYOUT.format[len('<BI') :]}")
"""`TEXT_LAYOUT` without what the checksum does not cover."""


def to_stored_response(
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
        parts=parts[0].text
        if len(parts) == 1 and type(parts[0]) is Text
        else [_to_stored_part(part) for part in parts],
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
        others=[([_to_stored_part(part) for part in choice.parts], choice.finish_reason) for choice in response.others],
        latency_s=latency_s,
        ttft_s=ttft_s,
        started_at=started_at,
        dropped=dropped,
        forced_tool=response.forced_tool,
    )


def from_stored_response(stored: StoredResponse) -> CompletionResponse:
    """Make the response again. Law: ``from_stored_response(to_stored_response(r)) == r``."""
    return CompletionResponse(
        parts=(Text(stored.parts),) if isinstance(stored.parts, str) else from_stored_parts(stored.parts),
        finish_reason=stored.finish_reason,
        usage=_to_usage(stored.usage),
        served_model=stored.served_model,
        request_id=stored.request_id,
        others=tuple(Choice(from_stored_parts(parts), reason) for parts, reason in stored.others),
        forced_tool=stored.forced_tool,
    )


def checksum_seed(key: bytes) -> int:
    """Give what a value's checksum starts from, so that a value under another key is damage too."""
    return int.from_bytes(key[:4], "little")


def pack(response: StoredResponse, key: bytes = b"") -> bytes:
    """Give the bytes of a kept response, to be filed under ``key``.

    They begin with a version byte and a CRC-32 of all that follows. An answer that is one text, as most are, follows in
    the layout `TEXT_LAYOUT`, which a whole column of them can be read by; any other in MessagePack.
    """
    body = _pack_text(response) or b"\0" + _ENCODER.encode(response)
    return b"%c%b%b" % (VALUE_VERSION, crc32(body, checksum_seed(key)).to_bytes(CHECKSUM_SIZE, "little"), body)


def _pack_text(kept: StoredResponse) -> bytes | None:
    """Write an answer that is one text; ``None`` for what does not fit."""
    parts, usage, dropped = kept.parts, kept.usage, kept.dropped
    if not isinstance(parts, str) or kept.others or kept.forced_tool or UNKNOWN_COUNT in usage:
        return None
    if dropped and any(SEPARATOR in name or not name for name in dropped):
        return None
    try:
        text, served, asked = parts.encode(), kept.served_model.encode(), kept.request_id.encode()
        left_out = SEPARATOR.join(dropped).encode()
        fixed = _TEXT_BODY.pack(
            IS_TEXT,
            FINISH_REASONS.index(kept.finish_reason),
            *(usage if None not in usage else [UNKNOWN_COUNT if count is None else count for count in usage]),
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
    version, body = value[:1], memoryview(value)[HEADER_SIZE:]
    if version == bytes([VALUE_VERSION]):
        intact = crc32(body, checksum_seed(key)) == int.from_bytes(value[1:HEADER_SIZE], "little")
    elif version == b"\x01":
        intact = crc32(body) == int.from_bytes(value[1:HEADER_SIZE], "big")
    elif version > bytes([VALUE_VERSION]):
        return Failure(Malformed(message=f"stored response of version {value[0]}, later than {VALUE_VERSION}"))
    else:
        return Failure(Malformed(message=f"{CORRUPT}: no version"))
    if not intact:
        return Failure(Malformed(message=f"{CORRUPT}: checksum mismatch"))
    try:
        if version != b"\x01" and value[HEADER_SIZE] == IS_TEXT:
            return Success(_unpack_text(value))
        kept = _DECODER.decode(body if version == b"\x01" else body[1:])
        if not isinstance(kept.parts, str):
            from_stored_response(kept)
    except (msgspec.DecodeError, TypeError, ValueError, IndexError, RecursionError, struct.error) as error:
        return Failure(Malformed(message=f"{CORRUPT}: {error}"))
    return Success(kept)


CORRUPT: Final = "damaged stored response"


def is_corrupt(error: LLMError) -> bool:
    """Say whether `unpack` failed on a value that is damaged, not merely of a version that it does not know."""
    return isinstance(error, Malformed) and error.message.startswith(CORRUPT)


def _unpack_text(value: bytes) -> StoredResponse:
    """Read an answer that is one text."""
    _, _, _, finish, *numbers = TEXT_LAYOUT.unpack_from(value)
    counts, times, lengths = numbers[:5], numbers[5:8], numbers[8:]
    ends = list(accumulate(lengths, initial=TEXT_LAYOUT.size))
    if ends[-1] != len(value):
        raise ValueError("its lengths do not add up")
    text, served, request, dropped = (value[low:high].decode() for low, high in pairwise(ends))
    latency_s, ttft_s = (None if math.isnan(time) else time for time in times[:2])
    usage = cast(
        "tuple[int | None, int | None, int | None, int | None, int | None]",
        tuple(None if count == UNKNOWN_COUNT else count for count in counts),
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
        dropped=tuple(dropped.split(SEPARATOR)) if dropped else (),
    )


def encode_response(response: CompletionResponse, key: bytes = b"") -> bytes:
    """Give the bytes of a response. Law: ``decode_response(encode_response(r))`` gives ``r`` back."""
    return pack(to_stored_response(response), key)


def decode_response(value: bytes, key: bytes = b"") -> Result[CompletionResponse, LLMError]:
    """Read what `encode_response` wrote; arbitrary bytes are `Malformed`."""
    return unpack(value, key).map(from_stored_response)


@lru_cache(maxsize=4096)
def _to_usage(counts: tuple[int | None, int | None, int | None, int | None, int | None]) -> Usage:
    """Make a `Usage`; the same few counts recur by the thousand."""
    return Usage(
        input_tokens=counts[0],
        output_tokens=counts[1],
        cached_input_tokens=counts[2],
        cache_write_tokens=counts[3],
        reasoning_tokens=counts[4],
    )


def _to_stored_part(part: Part) -> StoredPart:
    """Write a part as the number of its kind and its fields."""
    fields = tuple(getattr(part, name) for name in part.__dataclass_fields__)
    if isinstance(part, ToolResult) and not isinstance(part.content, str):
        pieces = [(piece.kind, piece.fields) for piece in map(_to_stored_part, part.content)]
        fields = (part.id, pieces, part.name, part.is_error)
    return StoredPart(_KIND_NUMBERS[type(part)], fields)


def from_stored_parts(kept: Iterable[StoredPart]) -> tuple[Part, ...]:
    """Make parts again."""
    return tuple(_from_stored_part(part.kind, part.fields) for part in kept)


def _from_stored_part(number: int, fields: Sequence[Any]) -> Part:
    """Make one part again; what cannot be one raises ``ValueError`` or ``TypeError``."""
    kind = KINDS[number] if number >= 0 else None
    if kind is ToolResult:
        call, content, name, is_error = fields
        if not (isinstance(call, str) and isinstance(name, str) and isinstance(is_error, bool)):
            raise ValueError("a field of a tool result is of another type")
        return ToolResult(call, content if isinstance(content, str) else _tool_result_content(content), name, is_error)
    if kind is None or not all(isinstance(value, str) for value in fields):
        raise ValueError("a field of a part is no text")
    return kind(*fields)


def _tool_result_content(content: Iterable[tuple[int, Sequence[Any]]]) -> tuple[Text | Image, ...]:
    """Make a tool result's content again."""
    parts = [_from_stored_part(number, fields) for number, fields in content]
    pieces = tuple(part for part in parts if isinstance(part, (Text, Image)))
    if len(pieces) < len(parts):
        raise ValueError("a tool result of other parts than text and images")
    return pieces
