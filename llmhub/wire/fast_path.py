"""The plainest answers and chunks, one text and nothing else, read straight from their bytes.

Most answers are of this kind, and reading them through dictionaries costs several times as much. Whatever is not
plain (a call, a refusal, reasoning, an error, several choices, a wrong type) is not read here at all.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec


class PlainChatMessage(msgspec.Struct, gc=False):
    """A message that is one text; each field that would make it more must be null or absent."""

    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning: None = None
    reasoning_content: None = None


class PlainChatChoice(msgspec.Struct, gc=False):
    """The answer and why it ended."""

    message: PlainChatMessage
    finish_reason: str
    logprobs: None = None


class PlainChatResponse(msgspec.Struct):
    """What a plain body holds."""

    choices: list[PlainChatChoice]
    usage: dict[str, Any]
    model: str = ""
    id: str = ""
    error: None = None


class PlainChatDelta(msgspec.Struct, gc=False):
    """A delta that is one piece of text; each field that would make it more must be null or absent."""

    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning: None = None
    reasoning_content: None = None
    audio: None = None


class PlainChatChunkChoice(msgspec.Struct, gc=False):
    """The piece and whose it is."""

    delta: PlainChatDelta
    index: int = 0
    finish_reason: None = None
    logprobs: None = None
    usage: None = None


class PlainChatChunk(msgspec.Struct):
    """What a plain chunk of a stream holds."""

    choices: tuple[PlainChatChunkChoice]
    model: str = ""
    id: str = ""
    usage: None = None
    x_groq: None = None
    error: None = None


class PlainGeminiPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A part that is text alone: neither a thought nor signed."""

    text: str


class PlainGeminiContent(msgspec.Struct, gc=False):
    """What is new in a chunk of Gemini's."""

    parts: tuple[PlainGeminiPart]


class PlainGeminiCandidate(msgspec.Struct, gc=False):
    """What is new and whose it is, in Gemini's names."""

    content: PlainGeminiContent
    index: int = 0
    finishReason: None = None  # noqa: N815 - as it is written there
    logprobsResult: None = None  # noqa: N815


class PlainGeminiChunk(msgspec.Struct):
    """What a plain chunk of Gemini's holds."""

    candidates: tuple[PlainGeminiCandidate]
    usageMetadata: dict[str, Any] = {}  # noqa: N815 - msgspec copies it
    modelVersion: str = ""  # noqa: N815
    responseId: str = ""  # noqa: N815
    error: None = None

    @property
    def text(self) -> str:
        """The text."""
        return self.candidates[0].content.parts[0].text

    @property
    def index(self) -> int:
        """Which answer's it is."""
        return self.candidates[0].index


class PlainOllamaMessage(msgspec.Struct, gc=False):
    """What is new in a line of Ollama's."""

    content: str
    thinking: None = None
    tool_calls: None = None


class PlainOllamaLine(msgspec.Struct):
    """What a plain line of Ollama's holds: all lines but the last."""

    message: PlainOllamaMessage
    done: bool
    model: str = ""
    logprobs: None = None
    error: None = None


_CHAT_DECODER: Final = msgspec.json.Decoder(PlainChatResponse)


_CHAT_CHUNK_DECODER: Final = msgspec.json.Decoder(PlainChatChunk)


_GEMINI_DECODER: Final = msgspec.json.Decoder(PlainGeminiChunk)


_OLLAMA_DECODER: Final = msgspec.json.Decoder(PlainOllamaLine)


MAX_INDEX: Final = (1 << 63) - 1
"""The largest index there is."""


def parse_plain_chat(body: bytes) -> PlainChatResponse | None:
    """Read ``body`` if it is plain; ``None`` for anything else, malformed bytes included.

    Examples
    --------
    >>> found = parse_plain_chat(b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"total_tokens":2}}')
    >>> found.choices[0].message.content
    'Hi'
    >>> parse_plain_chat(b'{"choices":[]}') is None
    True
    """
    try:
        found = _CHAT_DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found.choices) == 1 and found.choices[0].message.content and found.usage else None


def parse_plain_chat_chunk(data: bytes) -> PlainChatChunk | None:
    """Read a chunk of a stream if it is plain; ``None`` for anything else.

    Examples
    --------
    >>> parse_plain_chat_chunk(b'{"choices":[{"index":0,"delta":{"content":"Hi"}}]}').choices[0].delta.content
    'Hi'
    >>> parse_plain_chat_chunk(b"[DONE]") is None
    True
    """
    try:
        found = _CHAT_CHUNK_DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if 0 <= found.choices[0].index <= MAX_INDEX else None


def parse_plain_gemini_chunk(data: bytes) -> PlainGeminiChunk | None:
    """Read a chunk of Gemini's if it is plain; ``None`` for anything else.

    Examples
    --------
    >>> parse_plain_gemini_chunk(b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}').text
    'Hi'
    """
    try:
        found = _GEMINI_DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if 0 <= found.index <= MAX_INDEX and found.text else None


def parse_plain_ollama_line(data: bytes) -> PlainOllamaLine | None:
    """Read a line of Ollama's if it is plain; ``None`` for anything else.

    Examples
    --------
    >>> parse_plain_ollama_line(b'{"model":"m","message":{"content":"Hi"},"done":false}').message.content
    'Hi'
    """
    try:
        found = _OLLAMA_DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if found.done else found
