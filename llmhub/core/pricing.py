"""Prices of models, costs of calls, and upper bounds of tokens and costs before a call is sent.

Costs are exact: a price is converted to whole ticks (the power of ten of a dollar in which all of its rates are
integers), and rounding to a billionth of a dollar happens once, at the end. Bounds hold for any tokenizer, because none
makes more tokens of a text than the text has bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Final

import msgspec

from llmhub.core.types import AUDIO, CompletionRequest, Document, Image, Message, Text, Usage

NANO_DIGITS: Final = 9
"""Decimal places of a stored cost: billionths of a dollar."""
MIN_RATE: Final = Decimal("1e-24")
"""Rates that are derived from others are rounded to multiples of this."""
BASE_TIER: Final = -1
"""Threshold of the tier that applies to every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Price of one token per class, in USD; a class without a rate is billed at the rate of input or output.

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
    cache_write_1h: Decimal | None = None

    @property
    def write_1h(self) -> Decimal:
        """Rate of a cache write that is kept for an hour."""
        return self.by_class[2] if self.cache_write_1h is None else self.cache_write_1h

    @property
    def by_class(self) -> tuple[Decimal, Decimal, Decimal, Decimal, Decimal]:
        """Rates of the disjoint classes: uncached input, cache read, cache write, visible output, reasoning."""
        read, write, reasoning = self.cached_input, self.cache_write, self.reasoning
        return (
            self.input,
            self.input if read is None else read,
            self.input if write is None else write,
            self.output,
            self.output if reasoning is None else reasoning,
        )


def audio_units(
    rates: Rates,
    *,
    input_usd: Decimal | None = None,
    cached_usd: Decimal | None = None,
    output_usd: Decimal | None = None,
) -> dict[str, Decimal]:
    """Return what tokens of audio cost beyond those of text, by billed unit, given rates of audio in USD per token.

    Cached audio without a rate of its own costs what other audio of the input costs.

    Examples
    --------
    >>> audio_units(Rates(input=Decimal(2), output=Decimal(8), cached_input=Decimal(1)), input_usd=Decimal(10))
    {'audio:input_tokens': Decimal('8'), 'audio:cached_tokens': Decimal('9')}
    """
    of_input, of_cached, _, of_output, _ = rates.by_class
    cached_usd = input_usd if cached_usd is None else cached_usd
    units = {
        "audio:input_tokens": (input_usd, of_input),
        "audio:cached_tokens": (cached_usd, of_cached),
        "audio:output_tokens": (output_usd, of_output),
    }
    return {unit: audio_rate - text_rate for unit, (audio_rate, text_rate) in units.items() if audio_rate is not None}


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Rates for all tokens of a request with more than ``above`` input tokens."""

    above: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class PriceTicks:
    """A price in whole ticks of ``10 ** -decimal_places`` USD; ``bands`` are thresholds, largest first, and rates.

    ``writes_1h`` are the rates of cache writes that are kept for an hour, of the bands in the same order; ``units`` are
    the prices of `Usage.billed_units`.
    """

    decimal_places: int
    per_request: int
    bands: tuple[tuple[int, tuple[int, int, int, int, int]], ...]
    writes_1h: tuple[int, ...] = ()
    units: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Price of a model.

    Parameters
    ----------
    price_id
        ``<source entry>@<date>``: entry of the price table, and the date it was priced for.
    source
        Price table and its version.
    rates
        USD per token, exact.
    tiers
        Rates of longer requests.
    request_usd
        Fee per request.
    service_tiers
        Prices of the other tiers that `Usage.service_tier` may name.
    units
        Prices of `Usage.billed_units` by name, in USD: of an item, or of a token of audio beyond the rate of text.

    Raises
    ------
    ValueError
        If a rate is negative or not finite.
    """

    price_id: str
    source: str
    rates: Rates
    tiers: tuple[PriceTier, ...] = ()
    request_usd: Decimal = Decimal(0)
    service_tiers: Mapping[str, Price] = field(default_factory=dict, repr=False, compare=False)
    units: Mapping[str, Decimal] = field(default_factory=dict, repr=False)
    in_ticks: PriceTicks = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Convert all rates to ticks."""
        tiers = sorted((PriceTier(BASE_TIER, self.rates), *self.tiers), key=lambda tier: -tier.above)
        rates = [rate for tier in tiers for rate in tier.rates.by_class] + [self.request_usd]
        rates += [tier.rates.write_1h for tier in tiers]
        if not all(rate.is_finite() and rate >= 0 for rate in rates):
            raise ValueError(f"{self.price_id}: all rates must be finite and not negative")
        rates += self.units.values()
        places = max(NANO_DIGITS, *(-int(rate.as_tuple().exponent) for rate in rates))
        ticks = [int(f"{rate:f}".replace(".", "")) * 10 ** (places - _decimal_places(rate)) for rate in rates]
        bands = tuple(
            (tier.above, (ticks[start], ticks[start + 1], ticks[start + 2], ticks[start + 3], ticks[start + 4]))
            for start, tier in zip(range(0, len(ticks), 5), tiers, strict=False)
        )
        per_request, *others = ticks[5 * len(tiers) :]
        writes_1h, units = others[: len(tiers)], dict(zip(self.units, others[len(tiers) :], strict=True))
        object.__setattr__(self, "in_ticks", PriceTicks(places, per_request, bands, tuple(writes_1h), units))

    def for_usage(self, usage: Usage) -> Price:
        """Return the price of the service tier that a usage was billed by."""
        return self.service_tiers.get(usage.service_tier, self)

    def id_for_usage(self, usage: Usage) -> str:
        """Return the id of the price of a usage, which names what was billed by a price of its own.

        Examples
        --------
        >>> rates = Rates(input=Decimal("3e-6"), output=Decimal("15e-6"))
        >>> price = Price(price_id="x@y", source="x", rates=rates, units={"web_search:requests": Decimal("0.01")})
        >>> price.id_for_usage(Usage(billed_units=(("web_search:requests", 2), ("file_search:requests", 1))))
        'x@y#web_search + 1 file_search:requests of unknown price'
        """
        price = self.for_usage(usage)
        known = {name.partition(":")[0]: "" for name, _ in usage.billed_units if name in price.units}
        unknown = [f" + {count} {name} of unknown price" for name, count in price.unpriced_units(usage)]
        return price.price_id + "".join(f"#{kind}" for kind in known) + "".join(unknown)

    def unpriced_units(self, usage: Usage) -> list[tuple[str, int]]:
        """Return the billed units without a price; audio is none, since it then costs what text costs."""
        return [unit for unit in usage.billed_units if unit[0] not in self.units and not _is_audio(unit[0])]


def scaled_price(price: Price, service_tier: str, factor: Fraction) -> Price:
    """Return ``price`` with all rates multiplied, for a service tier.

    Examples
    --------
    >>> price = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> half = scaled_price(price, "flex", Fraction(1, 2))
    >>> half.price_id, half.rates.output
    ('x@y#flex', Decimal('0.0000075'))
    """

    def scaled(rates: Rates) -> Rates:
        optional = {
            name: getattr(rates, name) for name in ("cached_input", "cache_write", "reasoning", "cache_write_1h")
        }
        return Rates(
            input=_times(rates.input, factor),
            output=_times(rates.output, factor),
            **{name: None if value is None else _times(value, factor) for name, value in optional.items()},
        )

    return replace(
        price,
        price_id=f"{price.price_id}#{service_tier}",
        rates=scaled(price.rates),
        tiers=tuple(PriceTier(tier.above, scaled(tier.rates)) for tier in price.tiers),
        service_tiers={},
        units={name: _times(usd, factor) if _is_audio(name) else usd for name, usd in price.units.items()},
    )


def _is_audio(unit: str) -> bool:
    """Return whether a billed unit is of tokens that the token counts include."""
    return unit.startswith(f"{AUDIO}:")


def _times(rate: Decimal, factor: Fraction) -> Decimal:
    """Multiply exactly; a quotient that has no end is rounded to 24 places."""
    product = Fraction(rate) * factor
    quotient = Decimal(product.numerator) / Decimal(product.denominator)
    return quotient.quantize(MIN_RATE).normalize() if quotient else quotient


def compute_cost(usage: Usage, price: Price | None) -> Decimal | None:
    """Return the exact cost in USD: what the provider reports, or else the tokens at a list price.

    ``None`` if neither is known, or if the input or output tokens are not.

    Law: ``compute_cost(a + b, price) == compute_cost(a, price) + compute_cost(b, price)`` for usages of one tier and a
    price without a fee per request.

    Examples
    --------
    >>> price = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> compute_cost(Usage(input_tokens=1000, output_tokens=10), price)
    Decimal('0.003150000')
    """
    if usage.reported_cost_usd is not None:
        return usage.reported_cost_usd
    if price is None:
        return None
    ticks = price.for_usage(usage).in_ticks
    total = _total_ticks(usage, ticks)
    return None if total is None else Decimal(f"{total}E-{ticks.decimal_places}")


def compute_cost_nano_usd(usage: Usage, price: Price | None) -> int | None:
    """Return the cost in billionths of a dollar, rounded half to even; ``None`` as in `compute_cost`.

    Examples
    --------
    >>> price = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("0.5e-9"), output=Decimal(0)))
    >>> [compute_cost_nano_usd(Usage(input_tokens=n, output_tokens=0), price) for n in range(1, 6)]
    [0, 1, 2, 2, 2]
    """
    if usage.reported_cost_usd is not None:
        return int(usage.reported_cost_usd.scaleb(NANO_DIGITS).to_integral_value(ROUND_HALF_EVEN))
    if price is None:
        return None
    ticks = price.for_usage(usage).in_ticks
    total = _total_ticks(usage, ticks)
    if total is None or ticks.decimal_places == NANO_DIGITS:
        return total
    nano: int = 10 ** (ticks.decimal_places - NANO_DIGITS)
    quotient, remainder = divmod(total, nano)
    return quotient + (2 * remainder > nano or (2 * remainder == nano and quotient % 2 == 1))


def _total_ticks(usage: Usage, ticks: PriceTicks) -> int | None:
    """Sum over the disjoint classes; a class larger than the count that includes it does not become a credit."""
    inputs, outputs = usage.input_tokens, usage.output_tokens
    if inputs is None or outputs is None:
        return None
    for band, (above, rates) in enumerate(ticks.bands):  # noqa: B007 - the band that the loop stops at is used below
        if inputs > above:
            break
    uncached_rate, read_rate, write_rate, visible_rate, reasoning_rate = rates
    read = usage.cached_input_tokens or 0
    written = usage.cache_write_tokens or 0
    reasoning = usage.reasoning_tokens or 0
    uncached, visible = inputs - read - written, outputs - reasoning
    for_an_hour = min(usage.cache_write_1h_tokens or 0, written)
    units = sum(count * ticks.units.get(name, 0) for name, count in usage.billed_units) if usage.billed_units else 0
    return (
        units
        + (for_an_hour * (ticks.writes_1h[band] - write_rate) if for_an_hour else 0)
        + ticks.per_request
        + (uncached * uncached_rate if uncached > 0 else 0)
        + read * read_rate
        + written * write_rate
        + (visible * visible_rate if visible > 0 else 0)
        + reasoning * reasoning_rate
    )


def _decimal_places(rate: Decimal) -> int:
    return max(0, -int(rate.as_tuple().exponent))


TOKENS_PER_MESSAGE: Final = 16
"""Upper bound of the tokens that a provider adds to a message."""
TOKENS_PER_REQUEST: Final = 64
"""Upper bound of the tokens that a provider adds to a conversation."""
TOKENS_FOR_TOOLS: Final = 1024
"""Upper bound of the instructions for tools or a schema (346 tokens at Anthropic, read 2026-11-22)."""
MAX_TOKENS_PER_IMAGE: Final = 50_000
"""Tokens of the most expensive image: 2,833 and 8 tiles of 5,667 (gpt-4o-mini, read 2026-11-22), rounded up."""
MAX_TOKENS_PER_DOCUMENT: Final = 400_000
"""Tokens of a document that is given by URL."""
MIN_BOUND_BY_PART: Final[Mapping[type, int]] = {Image: MAX_TOKENS_PER_IMAGE, Document: MAX_TOKENS_PER_DOCUMENT}
"""Tokens of parts that may be much larger than the URL they are given by."""
DEFAULT_MAX_OUTPUT_TOKENS: Final = 131_072
"""Bound of the output if neither the request nor the metadata of the model has one."""
MAX_TOKENS_KEYS: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "maxTokens", "num_predict"}
)
"""Names in ``extra`` of the maximum output tokens."""
CHOICE_COUNT_KEYS: Final = frozenset({"n", "candidateCount"})
"""Names in ``extra`` of the number of responses."""


def input_token_bound(request: CompletionRequest, context_window: int | None = None) -> int:
    """Return an upper bound of a request's input tokens.

    Law: for text, at least the number of tokens of any byte-level tokenizer.

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
    """Return an upper bound of the output tokens of all choices; ``max_output_tokens`` is the model's own limit.

    Examples
    --------
    >>> output_token_bound(CompletionRequest(model="m", messages=(), max_tokens=100, n=2))
    200
    """
    requested = requested_output_tokens(request)
    if requested is not None:
        return requested
    return choice_count(request) * (max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS)


def requested_output_tokens(request: CompletionRequest) -> int | None:
    """Return the output tokens that a request permits in all choices together; ``None`` if it names no maximum.

    Examples
    --------
    >>> requested_output_tokens(CompletionRequest(model="m", messages=(), extra={"max_completion_tokens": 100}))
    100
    """
    max_tokens = request.max_tokens
    if request.extra and (found := _integers_under(request.extra, MAX_TOKENS_KEYS)):
        max_tokens = max(max_tokens or 0, *found)
    return None if max_tokens is None else choice_count(request) * max_tokens


def choice_count(request: CompletionRequest) -> int:
    """Return the number of responses that a request asks for."""
    return max([request.n, *_integers_under(request.extra, CHOICE_COUNT_KEYS)]) if request.extra else request.n


def cost_bound_nano_usd(
    price: Price, input_tokens: int, output_tokens: int, *, writes_1h: bool = False, audio: bool = False
) -> int:
    """Return an upper bound of the cost of a call in billionths of a dollar, rounded up.

    The bound holds for any split of the tokens into classes, and for fewer tokens, which may be of another tier;
    ``writes_1h`` includes cache writes that are kept for an hour, ``audio`` tokens of audio. What tools of the provider
    cost is not bounded.

    Examples
    --------
    >>> price = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> cost_bound_nano_usd(price, 1000, 10)
    3150000
    """
    ticks = price.in_ticks
    rates_in_reach = [rates for above, rates in ticks.bands if input_tokens > above]
    input_rate = max(max(rates[:3]) for rates in rates_in_reach)
    if writes_1h:
        in_reach = (rate for (above, _), rate in zip(ticks.bands, ticks.writes_1h, strict=True) if input_tokens > above)
        input_rate = max(input_rate, *in_reach)
    output_rate = max(max(rates[3:]) for rates in rates_in_reach)
    if audio:
        input_rate += max(0, *(ticks.units.get(f"{AUDIO}:{name}", 0) for name in ("input_tokens", "cached_tokens")))
        output_rate += max(0, ticks.units.get(f"{AUDIO}:output_tokens", 0))
    total = ticks.per_request + input_tokens * input_rate + output_tokens * output_rate
    return -(-total // int(10 ** (ticks.decimal_places - NANO_DIGITS)))


def _message_bound(message: Message) -> int:
    return TOKENS_PER_MESSAGE + sum([_part_bound(part) for part in message.parts])


def _part_bound(part: object) -> int:
    if type(part) is Text:
        return _byte_length(part.text)
    values = [getattr(part, name) for name in getattr(part, "__dataclass_fields__", ())]
    text_bytes = sum(_byte_length(value) for value in values if isinstance(value, str))
    nested = sum(_part_bound(item) for value in values if isinstance(value, tuple) for item in value)
    return TOKENS_PER_MESSAGE + max(text_bytes, MIN_BOUND_BY_PART.get(type(part), 0)) + nested


def _byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _json_bytes(value: object) -> bytes:
    return msgspec.json.encode(value)


def _integers_under(value: object, names: frozenset[str]) -> list[int]:
    """Return the integers under any of these keys, at any depth."""
    if isinstance(value, Mapping):
        own = [item for name, item in value.items() if name in names and type(item) is int]
        return own + [number for item in value.values() for number in _integers_under(item, names)]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [number for item in value for number in _integers_under(item, names)]
    return []
