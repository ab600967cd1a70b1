"""The plainest answers and chunks, one text and nothing else, read straight from their bytes.

Most answers are of this kind, and reading them through dictionaries costs several times as much. Whatever is not
plain (a call, a refusal, reasoning, an error, several choices, a wrong type) is not read here at all.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Said(msgspec.Struct, gc=False):
    """A message that is one text; each field that would make it more must be null or absent."""

    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning: None = None
    reasoning_content: None = None


class PlainChoice(msgspec.Struct, gc=False):
    """The answer and why it ended."""

    message: Said
    finish_reason: str
    logprobs: None = None


class PlainChat(msgspec.Struct):
    """What a plain body holds."""

    choices: list[PlainChoice]
    usage: dict[str, Any]
    model: str = ""
    id: str = ""
    error: None = None


class Piece(msgspec.Struct, gc=False):
    """A delta that is one piece of text; each field that would make it more must be null or absent."""

    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning: None = None
    reasoning_content: None = None
    audio: None = None


class PlainDelta(msgspec.Struct, gc=False):
    """The piece and whose it is."""

    delta: Piece
    index: int = 0
    finish_reason: None = None
    logprobs: None = None
    usage: None = None


class PlainChunk(msgspec.Struct):
    """What a plain chunk of a stream holds."""

    choices: tuple[PlainDelta]
    model: str = ""
    id: str = ""
    usage: None = None
    x_groq: None = None
    error: None = None


class PlainText(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A part that is text alone: neither a thought nor signed."""

    text: str


class PlainContent(msgspec.Struct, gc=False):
    """What is new in a chunk of Gemini's."""

    parts: tuple[PlainText]


class PlainCandidate(msgspec.Struct, gc=False):
    """What is new and whose it is, in Gemini's names."""

    content: PlainContent
    index: int = 0
    finishReason: None = None  # noqa: N815 - as it is written there
    logprobsResult: None = None  # noqa: N815


class PlainPart(msgspec.Struct):
    """What a plain chunk of Gemini's holds."""

    candidates: tuple[PlainCandidate]
    usageMetadata: dict[str, Any] = {}  # noqa: N815 - msgspec copies it
    modelVersion: str = ""  # noqa: N815
    responseId: str = ""  # noqa: N815
    error: None = None

    @property
    def said(self) -> str:
        """The text."""
        return self.candidates[0].content.parts[0].text

    @property
    def which(self) -> int:
        """Which answer's it is."""
        return self.candidates[0].index


class PlainMessage(msgspec.Struct, gc=False):
    """What is new in a line of Ollama's."""

    content: str
    thinking: None = None
    tool_calls: None = None


class PlainLine(msgspec.Struct):
    """What a plain line of Ollama's holds: all lines but the last."""

    message: PlainMessage
    done: bool
    model: str = ""
    logprobs: None = None
    error: None = None


_DECODER: Final = msgspec.json.Decoder(PlainChat)
_CHUNKS: Final = msgspec.json.Decoder(PlainChunk)
_PARTS: Final = msgspec.json.Decoder(PlainPart)
_LINES: Final = msgspec.json.Decoder(PlainLine)
LARGEST: Final = (1 << 63) - 1
"""The largest index there is."""


def plain(body: bytes) -> PlainChat | None:
    """Read ``body`` if it is plain; ``None`` for anything else, malformed bytes included.

    Examples
    --------
    >>> found = plain(b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"total_tokens":2}}')
    >>> found.choices[0].message.content
    'Hi'
    >>> plain(b'{"choices":[]}') is None
    True
    """
    try:
        found = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found.choices) == 1 and found.choices[0].message.content and found.usage else None


def plain_chunk(data: bytes) -> PlainChunk | None:
    """Read a chunk of a stream if it is plain; ``None`` for anything else.

    Examples
    --------
    >>> plain_chunk(b'{"choices":[{"index":0,"delta":{"content":"Hi"}}]}').choices[0].delta.content
    'Hi'
    >>> plain_chunk(b"[DONE]") is None
    True
    """
    try:
        found = _CHUNKS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if 0 <= found.choices[0].index <= LARGEST else None


def plain_part(data: bytes) -> PlainPart | None:
    """Read a chunk of Gemini's if it is plain; ``None`` for anything else.

    Examples
    --------
    >>> plain_part(b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}').said
    'Hi'
    """
    try:
        found = _PARTS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if 0 <= found.which <= LARGEST and found.said else None


def plain_line(data: bytes) -> PlainLine | None:
    """Read a line of Ollama's if it is plain; ``None`` for anything else.

    Examples
    --------
    >>> plain_line(b'{"model":"m","message":{"content":"Hi"},"done":false}').message.content
    'Hi'
    """
    try:
        found = _LINES.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if found.done else found
