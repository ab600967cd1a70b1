"""Encode AWS event-stream messages: lengths, headers, payload and two CRCs.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html (read 2026-11-22).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final
from zlib import crc32

STRING_TYPE: Final = 7
"""Type code of a string header."""
MESSAGE_OVERHEAD: Final = 16
"""Bytes of a message's two lengths and two CRCs."""


def encode_message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Encode one message.

    Examples
    --------
    >>> encode_message({}, b"").hex()
    '000000100000000005c248eb7d98c8ff'
    """
    block = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())
    prelude = struct.pack(">II", len(block) + len(payload) + MESSAGE_OVERHEAD, len(block))
    unterminated = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return unterminated + struct.pack(">I", crc32(unterminated))


def _header(name: bytes, value: bytes) -> bytes:
    return struct.pack(">B", len(name)) + name + struct.pack(">BH", STRING_TYPE, len(value)) + value
