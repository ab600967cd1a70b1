"""Rows of result files in the form of OpenAI, which Azure, Groq, Together and Mistral share: id, response, error."""

from __future__ import annotations

from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.batch import BatchRow, LateReason
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.provider import HttpReply

LATE_CODES: Final[dict[str, LateReason]] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
"""Error codes of rows that were not processed."""
JSON_HEADERS: Final = {"content-type": "application/json"}
ROW_FAILED: Final = 500
"""Status of a row that has an error and no status of its own."""


class ResponseStruct(msgspec.Struct):
    """The reply of a row: its body stays bytes, for the decoder of single replies."""

    status_code: int = 200
    request_id: str | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class RowStruct(msgspec.Struct):
    """One row of a result file."""

    custom_id: str
    response: ResponseStruct | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


decode_row_struct: Final = msgspec.json.Decoder(RowStruct).decode


def decode_line(line: bytes) -> Result[BatchRow, LLMError]:
    """Decode one line of a result file.

    Examples
    --------
    >>> decode_line(b'{"custom_id": "a", "response": {"status_code": 200, "body": {}}}').unwrap().reply.body
    b'{}'
    """
    try:
        return Success(to_row(decode_row_struct(line)))
    except (msgspec.DecodeError, RecursionError) as error:
        return Failure(Malformed(path="$", message=f"not a row of a batch: {error}"))


def to_row(row: RowStruct) -> BatchRow:
    """Return the row with its reply, or the reason why it has none."""
    response = row.response
    body = bytes(response.body) if response is not None else b"null"
    if response is not None and body != b"null":
        request_id = response.request_id
        headers = {**JSON_HEADERS, "x-request-id": request_id} if request_id else JSON_HEADERS
        return BatchRow(row.custom_id, HttpReply(response.status_code, headers, body))
    error = bytes(row.error)
    code = _error_code(error)
    if code in LATE_CODES:
        return BatchRow(row.custom_id, None, LATE_CODES[code])
    status = ROW_FAILED if response is None or response.status_code < 400 else response.status_code  # noqa: PLR2004 - HTTP errors
    return BatchRow(row.custom_id, HttpReply(status, JSON_HEADERS, b'{"error":' + error + b"}"))


def _error_code(error: bytes) -> str:
    try:
        value = msgspec.json.decode(error)
    except (msgspec.DecodeError, RecursionError):
        return ""
    code = value.get("code") if isinstance(value, dict) else None
    return code if isinstance(code, str) else ""
