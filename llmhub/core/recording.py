"""Recordings in responses: `Document` parts of a type ``audio/...``, named by the provider's id of the recording."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, TypeGuard

from llmhub.core.types import Document

RAW_TYPE: Final = "audio/pcm"
"""Media type of samples without a header."""
SIGNATURES: Final = {b"RIFF": "audio/wav", b"ID3": "audio/mpeg", b"fLaC": "audio/flac", b"OggS": "audio/ogg"}
"""First bytes of a recording, and its media type."""
FRAME_TYPES: Final = {0x02: "audio/mpeg", 0x00: "audio/aac"}
"""Media type of a recording that begins with a frame, by the frame's bits for its layer."""
_PIECE: Final = re.compile(r"[^=]+=*")


def is_recording(part: object) -> TypeGuard[Document]:
    """Return whether a part of a response is a recording."""
    return isinstance(part, Document) and part.media_type.startswith("audio/")


def recording(name: str, data: str) -> Document:
    """Return a recording, or a fragment of one; its type is that of its first bytes.

    Examples
    --------
    >>> recording("audio_1", "UklGRg==")
    Document(url='', data='UklGRg==', media_type='audio/wav', name='audio_1')
    """
    return Document(data=data, media_type=_media_type(data) if data else "", name=name)


def _media_type(data: str) -> str:
    try:
        head = base64.b64decode(data[:8])
    except (binascii.Error, ValueError):
        return RAW_TYPE
    if head[:1] == b"\xff" and len(head) > 1 and head[1] >= 0xF0:  # noqa: PLR2004 - the sync word of a frame
        return FRAME_TYPES.get(head[1] & 0x06, RAW_TYPE)
    return next((media_type for start, media_type in SIGNATURES.items() if head.startswith(start)), RAW_TYPE)


def join_base64(data: str) -> str:
    """Return base64 text for pieces that were encoded one by one; text that is not base64 is returned unchanged.

    Examples
    --------
    >>> join_base64("QQ==Qg==")
    'QUI='
    """
    if "=" not in data.rstrip("="):
        return data
    try:
        return base64.b64encode(b"".join(base64.b64decode(piece) for piece in _PIECE.findall(data))).decode()
    except (binascii.Error, ValueError):
        return data
