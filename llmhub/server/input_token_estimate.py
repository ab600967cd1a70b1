"""Estimate of a request's input tokens, for clients that count before they send."""

from __future__ import annotations

from typing import Final

import msgspec

from llmhub.core.token_estimate import estimate_tokens
from llmhub.core.types import CompletionRequest, Document, Image, Part, Text, ToolResult

TOKENS_PER_MESSAGE: Final = 4
TOKENS_PER_IMAGE: Final = 1100
"""Of an image of about a megapixel."""
CHARACTERS_PER_PAGE_TOKEN: Final = 40
"""Base64 characters of a PDF for each of its tokens, very roughly."""


def estimate_input_tokens(request: CompletionRequest) -> int:
    """Return the estimated number of input tokens: of the messages, the tools and the schema.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> estimate_input_tokens(CompletionRequest(model="m", messages=(Message("user", "Say hi"),))) > 2
    True
    """
    tokens = sum(TOKENS_PER_MESSAGE + sum(_part_tokens(part) for part in message.parts) for message in request.messages)
    for structure in (request.tools, request.response_schema):
        tokens += estimate_tokens(msgspec.json.encode(structure).decode()) if structure else 0
    return tokens + 1


def _part_tokens(part: Part) -> int:
    match part:
        case Text(text):
            return estimate_tokens(text)
        case Image():
            return TOKENS_PER_IMAGE
        case Document(data=data):
            return len(data) // CHARACTERS_PER_PAGE_TOKEN + 1
        case ToolResult():
            pieces = (Text(part.content),) if isinstance(part.content, str) else part.content
            return sum(map(_part_tokens, pieces))
        case _:
            return estimate_tokens(msgspec.json.encode(part).decode())
