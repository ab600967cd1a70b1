"""How much a call can take at most: tokens in and out, and what they cost at the list price.

No tokenizer makes more tokens of a text than the text has bytes, so bytes bound them, whoever counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from llmhub.core.cost import NANO, Price
from llmhub.core.types import CompletionRequest, Document, Image, Message, Text

A_TURN: Final = 16
"""Tokens that a provider puts around a turn, at most."""
A_CALL: Final = 64
"""Tokens around the whole conversation."""
TOOLING: Final = 1024
"""Tokens of the instructions a provider adds when tools or a schema are given (346 at Anthropic, read 2026-11-22)."""
A_PICTURE: Final = 50_000
"""Tokens of the dearest picture: 8 tiles of 5,667 and 2,833 at once (gpt-4o-mini, read 2026-11-22), rounded up."""
A_DOCUMENT: Final = 400_000
"""Tokens of a document of which only the address is known."""
FLOORS: Final[Mapping[type, int]] = {Image: A_PICTURE, Document: A_DOCUMENT}
"""What parts take, however few bytes name them."""
UNBOUNDED: Final = 131_072
"""Tokens an answer may take where neither the request nor what is known of the model bounds it."""
OUTPUT_NAMES: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "maxTokens", "num_predict"}
)
COUNT_NAMES: Final = frozenset({"n", "candidateCount"})
"""What ``extra`` may call the length and the number of answers."""


def most_input_tokens(request: CompletionRequest, window: int | None = None) -> int:
    """Give a bound that the input tokens of a request cannot exceed; ``window`` is what the model takes at all.

    Law: for text, at least the tokens that any byte-level tokenizer makes.

    Examples
    --------
    >>> most_input_tokens(CompletionRequest(model="m", messages=(Message("user", "Say hi"),)))
    86
    """
    tokens = A_CALL + sum([_turn(message) for message in request.messages])
    if request.tools or request.response_schema:
        tokens += TOOLING + len(_json((request.tools, request.response_schema)))
    if request.extra:
        tokens += len(_json(request.extra))
    return tokens if window is None else min(tokens, window)


def most_output_tokens(request: CompletionRequest, longest: int | None = None) -> int:
    """Give a bound of the tokens of all answers; ``longest`` is what the model gives at most.

    Examples
    --------
    >>> most_output_tokens(CompletionRequest(model="m", messages=(), max_tokens=100, n=2))
    200
    """
    asked, many = request.max_tokens, request.n
    if request.extra:
        asked = max([asked or 0, *_numbers(request.extra, OUTPUT_NAMES)]) or None
        many = max([many, *_numbers(request.extra, COUNT_NAMES)])
    return many * (asked if asked is not None else longest or UNBOUNDED)


def most_nano_usd(price: Price, input_tokens: int, output_tokens: int) -> int:
    """Give what so many tokens cost at most, in billionths of a dollar, rounded up.

    Whatever class the tokens turn out to be of, and whichever tier holds for no more than so many.

    Examples
    --------
    >>> from decimal import Decimal
    >>> from llmhub.core.cost import Rates
    >>> each = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> most_nano_usd(each, 1000, 10)
    3150000
    """
    ticks = price.ticks
    reached = [rates for above, rates in ticks.bands if input_tokens > above]
    taken = max(max(rates[:3]) for rates in reached)
    made = max(max(rates[3:]) for rates in reached)
    total = ticks.request + input_tokens * taken + output_tokens * made
    return -(-total // int(10 ** (ticks.places - NANO)))


def _turn(message: Message) -> int:
    return A_TURN + sum([_part(part) for part in message.parts])


def _part(part: object) -> int:
    if type(part) is Text:
        return _bytes(part.text)
    held = [getattr(part, name) for name in getattr(part, "__dataclass_fields__", ())]
    said = sum(_bytes(value) for value in held if isinstance(value, str))
    inside = sum(_part(piece) for value in held if isinstance(value, tuple) for piece in value)
    return A_TURN + max(said, FLOORS.get(type(part), 0)) + inside


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _numbers(value: object, names: frozenset[str]) -> list[int]:
    """Find the whole numbers that stand under these names, however deep."""
    if isinstance(value, Mapping):
        own = [held for name, held in value.items() if name in names and type(held) is int]
        return own + [number for held in value.values() for number in _numbers(held, names)]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [number for held in value for number in _numbers(held, names)]
    return []
