"""The result of a single call: a response with its cost, timing and parsed value."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from returns.pipeline import is_successful

from llmhub.core import json_schema
from llmhub.core.errors import to_exception
from llmhub.core.pricing import compute_cost
from llmhub.core.response_display import response_facts, response_html, response_repr
from llmhub.core.types import CompletionResponse, Message, Usage
from llmhub.engine.call import Answer, Target
from llmhub.formatting.numbers import format_duration, format_usd
from llmhub.providers.prices import find_served_price

RESPONSE_FIELDS: Final = tuple(CompletionResponse.__dataclass_fields__)


class BilledUsage(NamedTuple):
    """Tokens that a provider bills for one attempt."""

    provider: str
    model: str
    served_model: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Completion(CompletionResponse):
    """A response to a single call, with what a row of `complete_table` has. Compares equal to an equal response.

    Parameters
    ----------
    model
        ``provider/model``, as requested.
    latency_s, ttft_s
        The provider's time in seconds: in all (the original call's from the cache), and to the first token of a
        streamed response.
    cache_hit
        Whether the response came from the cache or an equal call in flight.
    attempts
        HTTP requests sent; 0 from the cache.
    uncertain_requests
        Those of them that may have been charged beyond ``cost_usd``: they timed out or were cut off, such as the loser
        of a hedge.
    simulated
        Whether a simulated provider answered.
    turns, transcript
        With ``tools=`` of Python functions: responses of the model, and all messages that were exchanged. Token
        counts, cost and latency are then those of all turns together.

    Examples
    --------
    >>> response = llmhub.complete("Say hi", model="openai/gpt-4o-mini")  # doctest: +SKIP
    >>> response.text, response.cost_usd, response.latency_s              # doctest: +SKIP
    ('Hi!', Decimal('0.000003'), 0.41)
    """

    model: str = ""
    latency_s: float | None = None
    ttft_s: float | None = None
    cache_hit: bool = False
    attempts: int = 0
    uncertain_requests: int = 0
    turns: int = 1
    transcript: tuple[Message, ...] = ()
    output_type: Any = None
    billed: tuple[BilledUsage, ...] = field(default=())
    listed: tuple[BilledUsage, ...] = field(default=())
    priced_at: float = 0.0
    simulated: bool = False

    @property
    def parsed(self) -> Any:
        """The response as a value of ``schema=``; ``None`` without a schema.

        Raises
        ------
        MalformedResponseError
            The response does not match the schema; ``text`` has what the model wrote.
        """
        if self.output_type is None:
            return None
        result = json_schema.parse(self, self.output_type)
        if is_successful(result):
            return result.unwrap()
        raise to_exception(result.failure())

    @property
    def cost_usd(self) -> Decimal | None:
        """Cost of the call in US dollars: 0 from the cache, ``None`` if the price or the token counts are unknown."""
        return total_cost(self.billed, self.priced_at)

    @property
    def list_cost_usd(self) -> Decimal | None:
        """Cost in US dollars without llmhub's cache."""
        return total_cost(self.listed, self.priced_at)

    def __eq__(self, other: object) -> bool:
        """Compare as responses: cost and timing of a call are not part of its response."""
        if not isinstance(other, CompletionResponse):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in RESPONSE_FIELDS)

    def __hash__(self) -> int:
        """Return the hash of the response."""
        return hash(tuple(getattr(self, name) for name in RESPONSE_FIELDS))

    def __repr__(self) -> str:
        """Return one line: the text, tokens, cost and latency."""
        return response_repr(self, self.display_facts())

    def _repr_html_(self) -> str:
        return response_html(self, self.display_facts())

    def display_facts(self) -> list[str]:
        """Return the facts that displays show below the text: those of the response, cost and latency."""
        cost = self.cost_usd
        facts = [*response_facts(self)]
        unknown = f" + {self.uncertain_requests} of unknown cost" if self.uncertain_requests else ""
        facts += ["cached"] if self.cache_hit else [format_usd(cost) + unknown] if cost is not None else []
        facts += [] if self.latency_s is None else [format_duration(self.latency_s)]
        facts += ["simulated"] if self.simulated else []
        return facts


def completion_of(
    response: CompletionResponse, answer: Answer, target: Target, *, output_type: Any = None
) -> Completion:
    """Return the response of an answer with its timing and what it was billed.

    Parameters
    ----------
    target
        The requested target; ``answer.target`` is the one that answered instead.
    output_type
        Type or schema of the parsed value.
    """
    served_by = answer.target or target
    served = response.served_model
    served_model = served.removeprefix(f"{served_by.provider.name}/") if answer.target else served
    own = BilledUsage(served_by.provider.name, served_by.model, served_model, response.usage)
    failed = tuple(
        BilledUsage(each.target.provider.name, each.target.model, "", each.usage) for each in answer.billed_failures
    )
    return Completion(
        **{name: getattr(response, name) for name in RESPONSE_FIELDS},
        model=target.name,
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        cache_hit=answer.cache_hit,
        attempts=answer.attempts,
        uncertain_requests=answer.uncertain_requests,
        output_type=output_type,
        billed=() if answer.cache_hit else (own, *failed),
        listed=(own,),
        priced_at=time.time(),
        simulated=target.endpoint.simulated,
    )


def total_cost(billed: Sequence[BilledUsage], priced_at: float) -> Decimal | None:
    """Return the list price of all attempts, looked up at first use because that loads the price table."""
    total = Decimal(0)
    when = datetime.fromtimestamp(priced_at, UTC)
    for each in billed:
        try:
            price = find_served_price(each.provider, each.model, each.served_model, when)
        except OSError:  # the table cannot be read, for want of file descriptors; the next use tries again
            price = None
        cost = compute_cost(each.usage, price)
        if cost is None:
            return None
        total += cost
    return total


COMPLETION_FIELDS: Final = tuple(each.name for each in fields(Completion) if each.name not in RESPONSE_FIELDS)
