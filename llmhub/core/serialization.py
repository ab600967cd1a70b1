"""Responses as bytes: the values that a cache stores under a key.

Layout: a version byte, a CRC-32, and the response, either in the fixed layout `TEXT_LAYOUT` if it is a single text (so
that a whole column of values can be decoded at once) or else in MessagePack. Values of earlier versions can be read; a
damaged value is an error and never a wrong response.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Final, TypeAlias, cast, get_args
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

VALUE_VERSION: Final = 2
"""Version of the layout, the first byte of a value."""
Billing: TypeAlias = tuple[str, str, int | None]
"""What decides a cost besides the counts: the reported cost as text (or ``""``), service tier, 1-hour cache writes."""

StoredUsage: TypeAlias = tuple[int | None, int | None, int | None, int | None, int | None]
"""The first counts of `Usage`, in the order of its fields."""


class StoredPart(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A part in stored form: its index in `KINDS` and its fields."""

    kind: int
    fields: tuple[object, ...]


class StoredResponse(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A response in stored form, with the latency and the time of its call.

    ``parts`` is the text if the response is a single text; ``usage`` has the counts in the order of `Usage`'s fields.
    """

    parts: str | list[StoredPart]
    finish_reason: FinishReason
    usage: StoredUsage
    served_model: str
    request_id: str
    others: list[tuple[list[StoredPart], FinishReason]]
    latency_s: float | None
    ttft_s: float | None
    started_at: float
    dropped: tuple[str, ...]
    forced_tool: bool = False
    billing: Billing | None = None
    billed_units: tuple[tuple[str, int], ...] = ()


KINDS: Final = (Text, Image, Document, ToolCall, ToolResult, Reasoning, Refusal, Opaque, CacheMark, Logprobs)
"""Part types by number. Values store the number: append, never reorder."""
FINISH_REASONS: Final[tuple[FinishReason, ...]] = get_args(FinishReason)
"""Finish reasons by number. Values store the number: append, never reorder."""
FINISH_REASON_NUMBERS: Final[Mapping[FinishReason, int]] = {
    reason: index for index, reason in enumerate(FINISH_REASONS)
}
CHECKSUM_SIZE: Final = 4
"""Bytes of the CRC-32."""
HEADER_SIZE: Final = 1 + CHECKSUM_SIZE
"""Bytes of version and checksum, which the checksum does not cover."""
TEXT_LAYOUT: Final = struct.Struct("<BIBB5q3dIHHH")
"""Beginning of the value of a single text, little-endian.

Version, checksum, `IS_TEXT`, finish reason, five token counts, latency, time to first token and start time in seconds,
and the lengths in UTF-8 bytes of what follows: text, served model, request id, and dropped parameters joined by
`SEPARATOR`.
"""
DECODING_ERRORS: Final = (
    msgspec.DecodeError,
    TypeError,
    ValueError,
    IndexError,
    RecursionError,
    ArithmeticError,
)
"""Raised for a damaged value."""
IS_TEXT: Final = 1
"""First byte of the body of a single text; 0 marks MessagePack."""
UNKNOWN_COUNT: Final = -(2**63)
"""Stored for a count that is ``None``; NaN is stored for a time that is ``None``."""
SEPARATOR: Final = "\x1f"
CORRUPT: Final = "corrupt"
"""Error code of a damaged value."""

_KIND_NUMBERS: Final = {kind: number for number, kind in enumerate(KINDS)}
_HEADER: Final = struct.Struct("<BI")
"""Version and checksum."""
_TEXT_BODY: Final = struct.Struct(f"<{TEXT_LAYOUT.format[len('<BI') :]}")
"""`TEXT_LAYOUT` without version and checksum."""
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(StoredResponse)


def to_stored_response(
    response: CompletionResponse,
    *,
    latency_s: float | None = None,
    ttft_s: float | None = None,
    started_at: float = 0.0,
    dropped: tuple[str, ...] = (),
) -> StoredResponse:
    """Return a response, with the latency and the time of its call, in stored form."""
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
        billing=_to_billing(usage),
        billed_units=usage.billed_units,
    )


def _to_billing(usage: Usage) -> Billing | None:
    cost, tier, writes_1h = usage.reported_cost_usd, usage.service_tier, usage.cache_write_1h_tokens
    if cost is None and not tier and writes_1h is None:
        return None
    return ("" if cost is None else str(cost), tier, writes_1h)


def stored_usage(stored: StoredResponse) -> Usage:
    """Return the usage of a response in stored form."""
    usage = _to_usage(stored.usage)
    if stored.billed_units:
        usage = replace(usage, billed_units=stored.billed_units)
    if stored.billing is None:
        return usage
    cost, tier, writes_1h = stored.billing
    return replace(
        usage,
        reported_cost_usd=Decimal(cost) if cost else None,
        service_tier=tier,
        cache_write_1h_tokens=writes_1h,
    )


def from_stored_response(stored: StoredResponse) -> CompletionResponse:
    """Return the response of a stored form. Law: ``from_stored_response(to_stored_response(r)) == r``."""
    return CompletionResponse(
        parts=(Text(stored.parts),) if isinstance(stored.parts, str) else from_stored_parts(stored.parts),
        finish_reason=stored.finish_reason,
        usage=stored_usage(stored),
        served_model=stored.served_model,
        request_id=stored.request_id,
        others=tuple(Choice(from_stored_parts(parts), reason) for parts, reason in stored.others),
        forced_tool=stored.forced_tool,
    )


def checksum_seed(key: bytes) -> int:
    """Return the start value of the checksum, which makes a value under a wrong key a damaged one."""
    return int.from_bytes(key[:4], "little")


def pack(response: StoredResponse, key: bytes = b"") -> bytes:
    """Encode a stored response to the value for ``key``.

    The module docstring describes the layout.
    """
    parts, text = response.parts, None
    if isinstance(parts, str) and not (
        response.others or response.forced_tool or response.billing or response.billed_units
    ):
        text = _pack_text(
            parts, response.finish_reason, response.usage, response.served_model, response.request_id,
            response.latency_s, response.ttft_s, response.started_at, response.dropped,
        )  # fmt: skip
    return _with_checksum(
        text
        or b"\0"
        + _ENCODER.encode(
            # As values were written before there was a billing, which few responses have.
            response if response.billed_units else msgspec.structs.astuple(response)[: -1 if response.billing else -2]
        ),
        key,
    )


def pack_response(
    response: CompletionResponse,
    key: bytes,
    *,
    latency_s: float | None,
    ttft_s: float | None,
    started_at: float,
    dropped: tuple[str, ...],
) -> bytes:
    """Encode a response, with the latency and the time of its call, to the value for ``key``.

    The value is that of `pack` for its stored form, which is not made for a single text.
    """
    parts, usage = response.parts, response.usage
    if len(parts) == 1 and type(text := parts[0]) is Text and not (response.others or response.forced_tool):
        counts = (
            usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cache_write_tokens,
            usage.reasoning_tokens,
        )  # fmt: skip
        packed = None
        if _to_billing(usage) is None and not usage.billed_units:
            packed = _pack_text(
                text.text, response.finish_reason, counts, response.served_model, response.request_id,
                latency_s, ttft_s, started_at, dropped,
            )  # fmt: skip
        if packed is not None:
            return _with_checksum(packed, key)
    stored = to_stored_response(response, latency_s=latency_s, ttft_s=ttft_s, started_at=started_at, dropped=dropped)
    return pack(stored, key)


def _with_checksum(body: bytes, key: bytes) -> bytes:
    return _HEADER.pack(VALUE_VERSION, crc32(body, checksum_seed(key))) + body


def _pack_text(  # noqa: PLR0917 - a value for each field of the layout
    text: str,
    finish_reason: FinishReason,
    usage: StoredUsage,
    served_model: str,
    request_id: str,
    latency_s: float | None,
    ttft_s: float | None,
    started_at: float,
    dropped: tuple[str, ...],
) -> bytes | None:
    """Encode a single text in `TEXT_LAYOUT`, without version and checksum; ``None`` if it does not fit."""
    if UNKNOWN_COUNT in usage:
        return None
    if dropped and any(SEPARATOR in name or not name for name in dropped):
        return None
    try:
        inputs, outputs, cached, cache_writes, reasoning = usage
        content, model, request = text.encode(), served_model.encode(), request_id.encode()
        dropped_names = SEPARATOR.join(dropped).encode() if dropped else b""
        fixed = _TEXT_BODY.pack(
            IS_TEXT,
            FINISH_REASON_NUMBERS[finish_reason],
            UNKNOWN_COUNT if inputs is None else inputs,
            UNKNOWN_COUNT if outputs is None else outputs,
            UNKNOWN_COUNT if cached is None else cached,
            UNKNOWN_COUNT if cache_writes is None else cache_writes,
            UNKNOWN_COUNT if reasoning is None else reasoning,
            math.nan if latency_s is None else latency_s,
            math.nan if ttft_s is None else ttft_s,
            started_at,
            len(content),
            len(model),
            len(request),
            len(dropped_names),
        )
    except (struct.error, ValueError, KeyError):  # a count or length out of range, or a lone surrogate
        return None
    return b"".join((fixed, content, model, request, dropped_names))


def unpack(value: bytes, key: bytes = b"") -> Result[StoredResponse, LLMError]:
    """Decode the value of `pack`; a later version or a damaged value is `Malformed`."""
    version, body = value[:1], memoryview(value)[HEADER_SIZE:]
    if version == bytes([VALUE_VERSION]):
        intact = crc32(body, checksum_seed(key)) == int.from_bytes(value[1:HEADER_SIZE], "little")
    elif version == b"\x01":
        intact = crc32(body) == int.from_bytes(value[1:HEADER_SIZE], "big")
    elif version > bytes([VALUE_VERSION]):
        return Failure(Malformed(message=f"stored response of version {value[0]}, later than {VALUE_VERSION}"))
    else:
        return _corrupt("no version")
    if not intact:
        return _corrupt("checksum mismatch")
    try:
        if version != b"\x01" and value[HEADER_SIZE] == IS_TEXT:
            return Success(_unpack_text(value))
        response = _DECODER.decode(body if version == b"\x01" else body[1:])
        if not isinstance(response.parts, str) or response.billing or response.billed_units:
            from_stored_response(response)
    except (*DECODING_ERRORS, struct.error) as error:
        return _corrupt(str(error))
    return Success(response)


def is_corrupt(error: LLMError) -> bool:
    """Return whether `unpack` failed because the value is damaged, not because its version is unknown."""
    return isinstance(error, Malformed) and error.code == CORRUPT


def _corrupt(reason: str) -> Result[StoredResponse, LLMError]:
    return Failure(Malformed(code=CORRUPT, message=f"damaged stored response: {reason}"))


def _unpack_text(value: bytes) -> StoredResponse:
    """Decode a value in `TEXT_LAYOUT`."""
    _, _, _, finish, *numbers = TEXT_LAYOUT.unpack_from(value)
    counts, times, lengths = numbers[:5], numbers[5:8], numbers[8:]
    ends = list(accumulate(lengths, initial=TEXT_LAYOUT.size))
    if ends[-1] != len(value):
        raise ValueError("its lengths do not add up to its size")
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
    """Encode a response. Law: ``decode_response(encode_response(r)) == Success(r)``."""
    return pack(to_stored_response(response), key)


def decode_response(value: bytes, key: bytes = b"") -> Result[CompletionResponse, LLMError]:
    """Decode the bytes of `encode_response`; arbitrary bytes are `Malformed`."""
    return unpack(value, key).map(from_stored_response)


@lru_cache(maxsize=4096)
def _to_usage(counts: StoredUsage) -> Usage:
    """Return the `Usage` of stored counts; cached, because a few combinations are frequent."""
    return Usage(
        input_tokens=counts[0],
        output_tokens=counts[1],
        cached_input_tokens=counts[2],
        cache_write_tokens=counts[3],
        reasoning_tokens=counts[4],
    )


def _to_stored_part(part: Part) -> StoredPart:
    """Return a part in stored form."""
    fields = tuple(getattr(part, name) for name in part.__dataclass_fields__)
    if isinstance(part, ToolResult) and not isinstance(part.content, str):
        pieces = [(piece.kind, piece.fields) for piece in map(_to_stored_part, part.content)]
        fields = (part.id, pieces, part.name, part.is_error)
    return StoredPart(_KIND_NUMBERS[type(part)], fields)


def from_stored_parts(parts: Iterable[StoredPart]) -> tuple[Part, ...]:
    """Return the parts of their stored forms."""
    return tuple(_from_stored_part(part.kind, part.fields) for part in parts)


def _from_stored_part(number: int, fields: Sequence[Any]) -> Part:
    """Return the part with this number in `KINDS`; raise ``ValueError`` or ``TypeError`` if the fields do not fit."""
    kind = KINDS[number] if number >= 0 else None
    if kind is ToolResult:
        call, content, name, is_error = fields
        if not (isinstance(call, str) and isinstance(name, str) and isinstance(is_error, bool)):
            raise ValueError("a field of a tool result has a wrong type")
        return ToolResult(call, content if isinstance(content, str) else _tool_result_content(content), name, is_error)
    if kind is None or not all(isinstance(value, str) for value in fields):
        raise ValueError("a field of a part is not a string")
    return kind(*fields)


def _tool_result_content(content: Iterable[tuple[int, Sequence[Any]]]) -> tuple[Text | Image, ...]:
    """Return the content of a tool result."""
    parts = [_from_stored_part(number, fields) for number, fields in content]
    pieces = tuple(part for part in parts if isinstance(part, (Text, Image)))
    if len(pieces) < len(parts):
        raise ValueError("a tool result has parts other than text and images")
    return pieces
