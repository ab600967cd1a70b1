"""Fast path for responses and chunks that hold one text and nothing else, decoded straight from their bytes.

Most responses are of this kind, and decoding them through dictionaries costs several times as much. Anything else (a
tool call, a refusal, reasoning, an error, several choices, a wrong type) fails to decode here and takes the general
path.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec

NothingIn: TypeAlias = Annotated[list[Any], msgspec.Meta(max_length=0)] | None
"""An absent, null or empty list."""


class PlainChatMessage(msgspec.Struct, gc=False):
    """A message that is one text; fields that would make it more must be null or absent."""

    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning: None = None
    reasoning_content: None = None
    reasoning_details: NothingIn = None
    annotations: NothingIn = None
    executed_tools: NothingIn = None
    images: NothingIn = None
    audio: None = None


class PlainChatChoice(msgspec.Struct, gc=False):
    """The only choice of a response."""

    message: PlainChatMessage
    finish_reason: str
    logprobs: None = None
    error: None = None


class PlainChatResponse(msgspec.Struct):
    """The body of a Chat Completions response."""

    choices: list[PlainChatChoice]
    usage: dict[str, Any]
    model: str = ""
    id: str = ""
    service_tier: str | None = None
    error: None = None
    citations: NothingIn = None
    search_results: NothingIn = None
    images: NothingIn = None
    moderation: None = None


class PlainChatDelta(msgspec.Struct, gc=False):
    """A delta that is one text; fields that would make it more must be null or absent."""

    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    reasoning: None = None
    reasoning_content: None = None
    reasoning_details: NothingIn = None
    annotations: NothingIn = None
    executed_tools: NothingIn = None
    images: NothingIn = None
    audio: None = None


class PlainChatChunkChoice(msgspec.Struct, gc=False):
    """The only choice of a chunk."""

    delta: PlainChatDelta
    index: int = 0
    finish_reason: None = None
    logprobs: None = None
    usage: None = None
    error: None = None


class PlainChatChunk(msgspec.Struct):
    """One chunk of a Chat Completions stream."""

    choices: tuple[PlainChatChunkChoice]
    model: str = ""
    id: str = ""
    usage: None = None
    x_groq: None = None
    error: None = None
    citations: NothingIn = None
    search_results: NothingIn = None
    images: NothingIn = None
    moderation: None = None


class PlainGeminiPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A part that is a text, neither a thought nor signed."""

    text: str


class PlainGeminiContent(msgspec.Struct, gc=False):
    """The new content of a candidate."""

    parts: tuple[PlainGeminiPart]


class PlainGeminiCandidate(msgspec.Struct, gc=False):
    """The only candidate of a chunk."""

    content: PlainGeminiContent
    index: int = 0
    finishReason: None = None  # noqa: N815 - Gemini's spelling
    logprobsResult: None = None  # noqa: N815
    groundingMetadata: None = None  # noqa: N815
    urlContextMetadata: None = None  # noqa: N815
    citationMetadata: None = None  # noqa: N815


class PlainGeminiChunk(msgspec.Struct):
    """One chunk of a Gemini stream."""

    candidates: tuple[PlainGeminiCandidate]
    usageMetadata: dict[str, Any] = {}  # noqa: N815 - msgspec copies the default
    modelVersion: str = ""  # noqa: N815
    responseId: str = ""  # noqa: N815
    error: None = None

    @property
    def text(self) -> str:
        """The text."""
        return self.candidates[0].content.parts[0].text

    @property
    def index(self) -> int:
        """Index of the answer that the text belongs to."""
        return self.candidates[0].index


class PlainOllamaMessage(msgspec.Struct, gc=False):
    """The new text of a line."""

    content: str
    thinking: None = None
    tool_calls: None = None


class PlainOllamaLine(msgspec.Struct):
    """One line of an Ollama stream, except the last."""

    message: PlainOllamaMessage
    done: bool
    model: str = ""
    logprobs: None = None
    error: None = None


_CHAT_DECODER: Final = msgspec.json.Decoder(PlainChatResponse)
_CHAT_CHUNK_DECODER: Final = msgspec.json.Decoder(PlainChatChunk)
_GEMINI_DECODER: Final = msgspec.json.Decoder(PlainGeminiChunk)
_OLLAMA_DECODER: Final = msgspec.json.Decoder(PlainOllamaLine)
_NOT_PLAIN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MAX_INDEX: Final = (1 << 63) - 1


def parse_plain_chat(body: bytes) -> PlainChatResponse | None:
    """Parse the body of a Chat Completions response; ``None`` if it is not plain or not JSON.

    Examples
    --------
    >>> body = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"total_tokens":2}}'
    >>> parse_plain_chat(body).choices[0].message.content
    'Hi'
    >>> parse_plain_chat(b'{"choices":[]}') is None
    True
    """
    try:
        response = _CHAT_DECODER.decode(body)
    except _NOT_PLAIN:
        return None
    is_plain = len(response.choices) == 1 and response.choices[0].message.content and response.usage
    return response if is_plain else None


def parse_plain_chat_chunk(data: bytes) -> PlainChatChunk | None:
    """Parse a chunk of a Chat Completions stream; ``None`` if it is not plain or not JSON.

    Examples
    --------
    >>> parse_plain_chat_chunk(b'{"choices":[{"index":0,"delta":{"content":"Hi"}}]}').choices[0].delta.content
    'Hi'
    >>> parse_plain_chat_chunk(b"[DONE]") is None
    True
    """
    try:
        chunk = _CHAT_CHUNK_DECODER.decode(data)
    except _NOT_PLAIN:
        return None
    return chunk if 0 <= chunk.choices[0].index <= MAX_INDEX else None


def parse_plain_gemini_chunk(data: bytes) -> PlainGeminiChunk | None:
    """Parse a chunk of a Gemini stream; ``None`` if it is not plain or not JSON.

    Examples
    --------
    >>> parse_plain_gemini_chunk(b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}').text
    'Hi'
    """
    try:
        chunk = _GEMINI_DECODER.decode(data)
    except _NOT_PLAIN:
        return None
    return chunk if 0 <= chunk.index <= MAX_INDEX and chunk.text else None


def parse_plain_ollama_line(data: bytes) -> PlainOllamaLine | None:
    """Parse a line of an Ollama stream; ``None`` if it is not plain, the last, or not JSON.

    Examples
    --------
    >>> parse_plain_ollama_line(b'{"model":"m","message":{"content":"Hi"},"done":false}').message.content
    'Hi'
    """
    try:
        line = _OLLAMA_DECODER.decode(data)
    except _NOT_PLAIN:
        return None
    return None if line.done else line
