"""How much a call can take at most: tokens in and out, and what they cost at the list price.

No tokenizer makes more tokens of a text than the text has bytes, so bytes bound them, whoever counts.

What tokens cost: rates as exact values, and the cost of a call.

A cost is counted in whole ticks, a tick being the power of ten of a dollar in which every rate of a price
is a whole number: sums are exact, and rounding to a billionth of a dollar happens once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import msgspec

from llmhub.core.types import CompletionRequest, Document, Image, Message, Text, Usage

TOKENS_PER_MESSAGE: Final = 16
"""Tokens that a provider puts around a turn, at most."""


TOKENS_PER_REQUEST: Final = 64
"""Tokens around the whole conversation."""


TOKENS_FOR_TOOLS: Final = 1024
"""Tokens of the instructions a provider adds when tools or a schema are given (346 at Anthropic, read 2026-11-22)."""


MAX_TOKENS_PER_IMAGE: Final = 50_000
"""Tokens of the dearest picture: 8 tiles of 5,667 and 2,833 at once (gpt-4o-mini, read 2026-11-22), rounded up."""


MAX_TOKENS_PER_DOCUMENT: Final = 400_000
"""Tokens of a document of which only the address is known."""


MIN_BOUND_BY_PART: Final[Mapping[type, int]] = {Image: MAX_TOKENS_PER_IMAGE, Document: MAX_TOKENS_PER_DOCUMENT}
"""What parts take, however few bytes name them."""


DEFAULT_MAX_OUTPUT_TOKENS: Final = 131_072
"""Tokens an answer may take where neither the request nor what is known of the model bounds it."""


MAX_TOKENS_KEYS: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "maxTokens", "num_predict"}
)


CHOICE_COUNT_KEYS: Final = frozenset({"n", "candidateCount"})
"""What ``extra`` may call the length and the number of answers."""


def input_token_bound(request: CompletionRequest, context_window: int | None = None) -> int:
    """Give a bound that the input tokens of a request cannot exceed; ``context_window`` is what the model takes at all.

    Law: for text, at least the tokens that any byte-level tokenizer makes.

    Examples
    --------
    >>> input_token_bound(CompletionRequest(model="m", messages=(Message("user", "Say hi"),)))
    86
    """
    tokens = TOKENS_PER_REQUEST + sum([_message_bound(message) for message in request.messages])
    if request.tools or request.response_schema:
        tokens += TOKENS_FOR_TOOLS + len(_json_bytes((request.tools, request.response_schema)))
    if request.extra:
        tokens += len(_json_bytes(request.extra))
    return tokens if context_window is None else min(tokens, context_window)


def output_token_bound(request: CompletionRequest, max_output_tokens: int | None = None) -> int:
    """Give a bound of the tokens of all answers; ``max_output_tokens`` is what the model gives at most.

    Examples
    --------
    >>> output_token_bound(CompletionRequest(model="m", messages=(), max_tokens=100, n=2))
    200
    """
    asked, many = request.max_tokens, request.n
    if request.extra:
        asked = max([asked or 0, *_integers_under(request.extra, MAX_TOKENS_KEYS)]) or None
        many = max([many, *_integers_under(request.extra, CHOICE_COUNT_KEYS)])
    return many * (asked if asked is not None else max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS)


def cost_bound_nano_usd(price: Price, input_tokens: int, output_tokens: int) -> int:
    """Give what so many tokens cost at most, in billionths of a dollar, rounded up.

    Whatever class the tokens turn out to be of, and whichever tier holds for no more than so many.

    Examples
    --------
    >>> from decimal import Decimal
    >>> from llmhub.core.pricing import Rates
    >>> each = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> cost_bound_nano_usd(each, 1000, 10)
    3150000
    """
    ticks = price.in_ticks
    reached = [rates for above, rates in ticks.bands if input_tokens > above]
    taken = max(max(rates[:3]) for rates in reached)
    made = max(max(rates[3:]) for rates in reached)
    total = ticks.per_request + input_tokens * taken + output_tokens * made
    return -(-total // int(10 ** (ticks.decimal_places - NANO_DIGITS)))


def _message_bound(message: Message) -> int:
    return TOKENS_PER_MESSAGE + sum([_part_bound(part) for part in message.parts])


def _part_bound(part: object) -> int:
    if type(part) is Text:
        return _byte_length(part.text)
    held = [getattr(part, name) for name in getattr(part, "__dataclass_fields__", ())]
    said = sum(_byte_length(value) for value in held if isinstance(value, str))
    inside = sum(_part_bound(piece) for value in held if isinstance(value, tuple) for piece in value)
    return TOKENS_PER_MESSAGE + max(said, MIN_BOUND_BY_PART.get(type(part), 0)) + inside


def _byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _json_bytes(value: object) -> bytes:
    return msgspec.json.encode(value)


def _integers_under(value: object, names: frozenset[str]) -> list[int]:
    """Find the whole numbers that stand under these names, however deep."""
    if isinstance(value, Mapping):
        own = [held for name, held in value.items() if name in names and type(held) is int]
        return own + [number for held in value.values() for number in _integers_under(held, names)]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [number for held in value for number in _integers_under(held, names)]
    return []


NANO_DIGITS: Final = 9
"""Decimal places of a stored cost: a billionth of a dollar."""


BASE_TIER: Final = -1
"""Every request has more input tokens than this: the threshold of the tier that always applies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one token of each class costs, in USD; a class without a rate of its own is billed as its whole.

    Examples
    --------
    >>> Rates(input=Decimal("3e-6"), output=Decimal("15e-6")).by_class[1]
    Decimal('0.000003')
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None

    @property
    def by_class(self) -> tuple[Decimal, Decimal, Decimal, Decimal, Decimal]:
        """The rates of the disjoint classes: fresh input, cache read, cache write, visible output, reasoning."""
        read, write, thought = self.cached_input, self.cache_write, self.reasoning
        return (
            self.input,
            self.input if read is None else read,
            self.input if write is None else write,
            self.output,
            self.output if thought is None else thought,
        )


@dataclass(frozen=True, slots=True)
class PriceTier:
    """The rates of a request with more than ``above`` input tokens: they hold for all of its tokens."""

    above: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class PriceTicks:
    """A price in whole numbers of ``10 ** -places`` USD; ``bands`` hold thresholds, largest first, and rates."""

    decimal_places: int
    per_request: int
    bands: tuple[tuple[int, tuple[int, int, int, int, int]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs.

    Parameters
    ----------
    price_id
        ``<source entry>@<date>``: the entry of the price table and the moment it was priced for.
    source
        The price table and its version.
    rates
        USD a token, exact.
    tiers
        Rates of longer requests.
    request_usd
        What each request costs besides its tokens.

    Raises
    ------
    ValueError
        A rate that is negative or no number.
    """

    price_id: str
    source: str
    rates: Rates
    tiers: tuple[PriceTier, ...] = ()
    request_usd: Decimal = Decimal(0)
    in_ticks: PriceTicks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Bring all rates to whole numbers."""
        ordered = sorted((PriceTier(BASE_TIER, self.rates), *self.tiers), key=lambda tier: -tier.above)
        rates = [rate for tier in ordered for rate in tier.rates.by_class] + [self.request_usd]
        if not all(rate.is_finite() and rate >= 0 for rate in rates):
            raise ValueError(f"{self.price_id}: a rate is negative or no number")
        places = max(NANO_DIGITS, *(-int(rate.as_tuple().exponent) for rate in rates))
        whole = [int(f"{rate:f}".replace(".", "")) * 10 ** (places - _decimal_places(rate)) for rate in rates]
        bands = tuple(
            (tier.above, (whole[at], whole[at + 1], whole[at + 2], whole[at + 3], whole[at + 4]))
            for at, tier in zip(range(0, len(whole), 5), ordered, strict=False)
        )
        object.__setattr__(self, "in_ticks", PriceTicks(places, whole[-1], bands))


def compute_cost(usage: Usage, price: Price) -> Decimal | None:
    """Give the exact cost in USD, or ``None`` where the provider did not count input or output.

    Law: ``compute_cost(a + b) == compute_cost(a) + compute_cost(b)`` for usages of one tier, at a price without a fee per request.

    Examples
    --------
    >>> each = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> compute_cost(Usage(input_tokens=1000, output_tokens=10), each)
    Decimal('0.003150000')
    """
    total = _total_ticks(usage, price.in_ticks)
    return None if total is None else Decimal(f"{total}E-{price.in_ticks.decimal_places}")


def compute_cost_nano_usd(usage: Usage, price: Price) -> int | None:
    """Give the cost in billionths of a dollar, rounded half to even; ``None`` as in `compute_cost`.

    Examples
    --------
    >>> each = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("0.5e-9"), output=Decimal(0)))
    >>> [compute_cost_nano_usd(Usage(input_tokens=n, output_tokens=0), each) for n in range(1, 6)]
    [0, 1, 2, 2, 2]
    """
    ticks = price.in_ticks
    total = _total_ticks(usage, ticks)
    if total is None or ticks.decimal_places == NANO_DIGITS:
        return total
    step: int = 10 ** (ticks.decimal_places - NANO_DIGITS)
    nanos, rest = divmod(total, step)
    return nanos + (2 * rest > step or (2 * rest == step and nanos % 2 == 1))


def _total_ticks(usage: Usage, ticks: PriceTicks) -> int | None:
    """Sum the disjoint classes; a part that is said to be larger than its whole leaves no negative rest."""
    taken, made = usage.input_tokens, usage.output_tokens
    if taken is None or made is None:
        return None
    for above, rates in ticks.bands:  # noqa: B007 - the rates of the band it stops at are used below
        if taken > above:
            break
    fresh, read, write, visible, thought = rates
    cached = usage.cached_input_tokens or 0
    written = usage.cache_write_tokens or 0
    reasoned = usage.reasoning_tokens or 0
    rest, said = taken - cached - written, made - reasoned
    return (
        ticks.per_request
        + (rest * fresh if rest > 0 else 0)
        + cached * read
        + written * write
        + (said * visible if said > 0 else 0)
        + reasoned * thought
    )


def _decimal_places(rate: Decimal) -> int:
    """Count the decimal places of a rate as it is written out."""
    return max(0, -int(rate.as_tuple().exponent))
