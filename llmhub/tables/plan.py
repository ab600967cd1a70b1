"""What a run would do before it does it: calls, cache hits, tokens, money and minutes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from returns.pipeline import is_successful

from llmhub.cache.store import Store
from llmhub.core import markup
from llmhub.core.codec import StoredResponse, unpack
from llmhub.core.types import Usage
from llmhub.engine.call import Answer, Target
from llmhub.engine.limit import Limit
from llmhub.engine.run import Item, kept_form
from llmhub.providers.models import metadata
from llmhub.providers.prices import price
from llmhub.tables.forecast import (
    ZERO,
    Interval,
    Money,
    Pace,
    Seen,
    capped,
    in_proportion,
    loosely,
    minutes,
    total,
    usd,
)
from llmhub.tables.layout import amount, lined, money, span, spell
from llmhub.tables.prompts import Ask, Questions, text_of
from llmhub.tables.tokens import EstimateWarning, count_tokens
from llmhub.tables.vocabulary import Vocabularies

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.tables.actual import Actual

USUAL_ANSWER: Final = 256
"""Tokens expected of an answer when nothing is known of it."""
LONGEST_ANSWER: Final = 4096
"""Tokens it has at most where nothing bounds it."""
FEW: Final = 5
"""Answers to the same kind of question that say more than any number of answers to others."""
SCANNED: Final = 20_000
"""Entries of a store that are gone through for answers of a model, at most."""
REMEMBERED: Final = 500
"""Answers of a model that are taken for its history."""
AROUND: Final = 16
"""Tokens that providers put around a question, at most."""
CACHED_FROM: Final = 1024
"""Questions from so many tokens may be read from a provider's cache."""
BASES: Final = {
    "pilot": "a pilot",
    "history": "answers in the cache",
    "model": "other answers of the model",
    "bound": "a guess",
}
"""What a forecast of the answers rests on, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What a run would do with one model.

    Parameters
    ----------
    rows, skipped, repeated, cache_hits, calls
        ``calls`` are what would be sent: rows less those skipped, equal to another, or in the cache. Tokens and money
        are those of the calls alone, pictures not counted.
    input_tokens, output_tokens
        Intervals that hold 19 of 20 times.
    basis, seen
        What the forecast of the answers rests on (`BASES`), and how many of them.
    estimated
        Whether another tokenizer than the model's own counted the questions.
    usd
        ``None`` where the price is unknown.
    latency_s
        The sum of all calls' latencies.
    """

    model: str
    rows: int
    skipped: int
    repeated: int
    cache_hits: int
    calls: int
    input_tokens: Interval
    output_tokens: Interval
    basis: str
    seen: int
    estimated: bool
    usd: Money | None
    price_id: str
    latency_s: Interval = ZERO
    longest_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do, model by model.

    Parameters
    ----------
    minutes, binds
        How long it would take, and what it would wait for longest.
    pilot, pilot_usd
        Calls that were made to find out, and what they cost; their answers are in the cache.
    """

    models: tuple[ModelPlan, ...]
    minutes: Interval = ZERO
    binds: str = ""
    pilot: int = 0
    pilot_usd: Decimal | None = None

    @property
    def calls(self) -> int:
        """Requests that would be sent."""
        return sum(model.calls for model in self.models)

    @property
    def usd(self) -> Money | None:
        """What it would cost, if all prices are known."""
        known = [model.usd for model in self.models if model.usd is not None]
        return sum(known, Money(*[Decimal(0)] * 3)) if len(known) == len(self.models) else None

    def against(self, table: pa.Table) -> Actual:
        """Hold the forecast against what a run of it did: its results table, or a frame with those columns."""
        from llmhub.tables.actual import actual_of  # noqa: PLC0415 - it knows of plans

        return actual_of(self, table)

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Write it as a table for a terminal."""
        return "\n".join([lined((HEAD, *map(_cells, self.models))), *self._facts()])

    def _repr_html_(self) -> str:
        total = f"{self.calls:,} calls for {money(self.usd)} USD"
        cells = markup.grid(HEAD, list(map(_cells, self.models)), range(1, len(HEAD) - 1))
        return markup.whole(cells, markup.facts([total, *self._facts()]))

    def _facts(self) -> list[str]:
        """Say what is true of the whole."""
        said = []
        if self.calls:
            wait = f", waiting for {self.binds}" if self.binds else ""
            said.append(f"It would take {spell(self.minutes)}{wait}.")
        if any(m.basis in {"bound", "model"} and m.calls for m in self.models):
            said.append("A pilot would narrow this: pilot=20 asks twenty rows, which count towards the run.")
        if self.pilot:
            paid = "" if self.pilot_usd is None else f" for ${amount(self.pilot_usd)}"
            said.append(f"The pilot made {self.pilot:,} calls{paid}; their answers are in the cache.")
        return said


HEAD: Final = ("model", "rows", "in cache", "calls", "input tokens", "output tokens", "USD", "going by")


def _cells(model: ModelPlan) -> tuple[str, ...]:
    seen = f" ({model.seen})" if model.seen else ""
    return (
        markup.line_of(model.model),
        f"{model.rows:,}",
        f"{model.cache_hits:,}",
        f"{model.calls:,}",
        span(model.input_tokens),
        span(model.output_tokens),
        money(model.usd),
        BASES[model.basis] + seen if model.calls else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a plan goes by besides the questions.

    Parameters
    ----------
    store
        What was answered before.
    tokenizer_folder
        Where vocabularies are.
    at
        Time for which prices are taken (epoch seconds).
    concurrency, limits
        What holds a run back.
    answering
        Who may answer for each model asked, where that is somebody else.
    pilot
        What a pilot was answered, by key.
    """

    store: Store | None
    tokenizer_folder: Path | None
    at: float
    concurrency: int = 64
    limits: Mapping[str, Limit] = field(default_factory=dict)
    answering: Mapping[str, Sequence[Target]] = field(default_factory=dict)
    pilot: Mapping[bytes, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What would be asked of one model: an item for each question, by key."""

    ask: Ask
    items: dict[bytes, Item]
    rows: int
    skipped: int


def drawn(questions: Questions) -> list[Drawn]:
    """Go through all questions, each once."""
    items: list[dict[bytes, Item]] = [{} for _ in questions.asks]
    for chunk in questions.chunks():
        for item in chunk:
            items[_which(questions, item[0])].setdefault(item[1], item)
    if questions.own is None:
        rows: list[Sequence[int]] = [range(questions.size)] * len(questions.asks)
    else:
        own = questions.own
        rows = [[row for row in range(questions.size) if own[row] == which] for which in range(len(questions.asks))]
    missing = [sum(1 for row in some if questions.skipped[row] or row in questions.wrong) for some in rows]
    n = questions.samples
    return [
        Drawn(ask, found, len(some) * n, skipped * n)
        for ask, found, some, skipped in zip(questions.asks, items, rows, missing, strict=True)
    ]


def _which(questions: Questions, position: int) -> int:
    row, place = divmod(position, questions.step)
    return place // questions.samples if questions.own is None else questions.own[row]


def held_of(one: Drawn, store: Store | None) -> Mapping[bytes, bytes]:
    """Look up what of it was answered before."""
    return store.get_many(list(one.items)) if store is not None and one.items else {}


def plan_of(questions: Questions, ground: Ground) -> Plan:
    """Plan a run: what of it is in the store, and what the rest would take."""
    vocabularies = Vocabularies(folder=ground.tokenizer_folder)
    models = tuple(_model(one, ground, vocabularies) for one in drawn(questions))
    work = sum((model.latency_s for model in models), ZERO)
    longest_s = max((model.longest_s for model in models), default=0.0)
    asked = sum(model.calls for model in models)
    forecast, binds = minutes(work, longest_s, min(ground.concurrency, max(asked, 1)), _paces(models, ground.limits))
    return Plan(models=models, minutes=forecast, binds=binds)


def _model(one: Drawn, ground: Ground, vocabularies: Vocabularies) -> ModelPlan:
    ask = one.ask
    held = held_of(one, ground.store)
    done = {key for key in one.items if key in held or key in ground.pilot}
    sent = [key for key in one.items if key not in done]
    some = list(islice((key for key in one.items if key in done), REMEMBERED))
    counted, estimated = _counted(ask, [text_of(one.items[key][3]) for key in (*sent, *some)], vocabularies)
    seen = _seen(dict(zip(some, counted[len(sent) :], strict=True)), held, ground.pilot)
    basis, answers = _basis(seen, ask, ground)
    calls = len(sent)
    taken = _input(counted[:calls], [one for one in answers if basis in {"pilot", "history"}], estimated=estimated)
    made = _output(ask, answers, basis, calls)
    targets = ground.answering.get(ask.target.name) or (ask.target,)
    priced, price_id = _priced(targets, calls, taken, made, ground.at)
    latency_s, longest_s = _latency(answers, basis, calls, made)
    return ModelPlan(
        model=ask.target.name,
        rows=one.rows,
        skipped=one.skipped,
        repeated=one.rows - one.skipped - len(one.items),
        cache_hits=len(held),
        calls=calls,
        input_tokens=taken,
        output_tokens=made,
        basis=basis,
        seen=len(answers),
        estimated=estimated,
        usd=priced,
        price_id=price_id,
        latency_s=latency_s,
        longest_s=longest_s,
    )


def _counted(ask: Ask, texts: list[str], vocabularies: Vocabularies) -> tuple[list[int], bool]:
    """Count each question with what every call repeats before it."""
    preamble = [message.text for message in ask.request.messages]
    with warnings.catch_warnings():
        # The plan says itself which counts are estimates.
        warnings.simplefilter("ignore", EstimateWarning)
        counted = count_tokens([*texts, *preamble], ask.target.model, vocabularies)
    before = sum(counted.tokens[len(texts) :])
    return [tokens + before for tokens in counted.tokens[: len(texts)]], counted.estimated


def _seen(counted: Mapping[bytes, int], held: Mapping[bytes, bytes], pilot: Mapping[bytes, Answer]) -> list[Seen]:
    """Read the answers there are to questions of this run."""
    found = []
    for key, tokens in counted.items():
        if key in pilot:
            answer = pilot[key]
            kept = kept_form(answer) if is_successful(answer.outcome) else None
        else:
            read = unpack(held[key], key)
            kept = read.unwrap() if is_successful(read) else None
        if kept is not None:
            found.append(_one(tokens, kept))
    return found


def _one(counted: int, kept: StoredResponse) -> Seen:
    return Seen(counted, kept.usage[0], kept.usage[1], kept.latency_s)


def _basis(seen: list[Seen], ask: Ask, ground: Ground) -> tuple[str, list[Seen]]:
    """Choose what the answers are judged by: those to the same kind of question, or else the model's others."""
    if len(seen) >= FEW or (seen and ground.pilot):
        return ("pilot" if ground.pilot else "history"), seen
    others = [*seen, *_history(ask.target.name, ground.store)]
    return ("model", others) if others else ("bound", [])


def _history(model: str, store: Store | None) -> list[Seen]:
    """Read what the model answered to other questions."""
    found: list[Seen] = []
    for entry in islice(store.scan(), SCANNED) if store is not None else ():
        kept = unpack(entry.value, entry.key) if entry.model == model else None
        if kept is not None and is_successful(kept):
            found.append(_one(0, kept.unwrap()))
            if len(found) == REMEMBERED:
                break
    return found


def _input(counted: list[int], answers: list[Seen], *, estimated: bool) -> Interval:
    """Forecast the input: as the provider counted the questions that it was asked, in proportion."""
    size, calls = sum(counted), len(counted)
    pairs = [(float(one.counted), float(one.input_tokens)) for one in answers if one.input_tokens is not None]
    if not calls:
        return ZERO
    if pairs:
        return in_proportion(pairs, size, calls)
    low, high = (0.6, 1.5) if estimated else (1.0, 1.0)
    return Interval(size * low, size, size * high + AROUND * calls)


def _output(ask: Ask, answers: list[Seen], basis: str, calls: int) -> Interval:
    """Forecast the output, as far as anything says how long the answers are."""
    known = metadata(ask.target.provider.name, ask.target.model).max_output_tokens
    bound = ask.request.max_tokens
    values = [float(one.output_tokens) for one in answers if one.output_tokens is not None]
    if not values:
        longest = bound or min(known or LONGEST_ANSWER, LONGEST_ANSWER)
        return Interval(float(calls), calls * min(longest, USUAL_ANSWER), calls * longest)
    if bound is not None:
        values = [min(value, bound) for value in values]
    made = loosely(values, calls) if basis == "model" else total(values, calls)
    return capped(made, None if bound is None else calls * bound)


def _latency(answers: list[Seen], basis: str, calls: int, made: Interval) -> tuple[Interval, float]:
    """Forecast the sum of all latencies, and the longest."""
    values = [one.latency_s for one in answers if one.latency_s is not None]
    if not calls:
        return ZERO, 0.0
    if values:
        return (loosely(values, calls) if basis == "model" else total(values, calls)), max(values)
    # A second to the first token and sixty tokens a second are usual; a fifth of the one and of the other happens.
    usual = Interval(0.2 * calls + made.low / 300, calls + made.expected / 60, 5.0 * calls + made.high / 12)
    return usual, usual.high / calls


def _priced(
    targets: Sequence[Target], calls: int, taken: Interval, made: Interval, at: float
) -> tuple[Money | None, str]:
    """Price the tokens at whoever may answer: between the cheapest and the dearest of them."""
    found = [price(target.provider.name, target.model, datetime.fromtimestamp(at, UTC)) for target in targets]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None, ""
    cached = calls > 0 and taken.high / calls >= CACHED_FROM
    sums = [usd(one, calls, taken, made, cached=cached) for one in known]
    low, high = min(one.low for one in sums), max(one.high for one in sums)
    return replace(sums[0], low=low, high=high), known[0].price_id


RATES: Final = (
    ("rpm", "requests a minute", lambda model: Interval(model.calls, model.calls, model.calls)),
    ("tpm", "tokens a minute", lambda model: model.input_tokens + model.output_tokens),
    ("input_tpm", "input tokens a minute", lambda model: model.input_tokens),
    ("output_tpm", "output tokens a minute", lambda model: model.output_tokens),
)
"""What a limit bounds, how that is called, and how much of it a model needs."""


def _paces(models: Sequence[ModelPlan], limits: Mapping[str, Limit]) -> list[Pace]:
    """Say what each declared limit lets through, and how much of it is needed."""
    found = []
    for name, limit in limits.items():
        bound = [model for model in models if model.model == name or model.model.partition("/")[0] == name]
        for rate, called, need in RATES:
            permitted = getattr(limit, rate, None)
            if permitted is not None and bound:
                needed = sum((need(model) for model in bound), ZERO)
                found.append(Pace(f"{name}: {permitted:,.0f} {called}", permitted, limit.burst, needed))
    return found


def paid(answers: Mapping[bytes, Answer], target: Target, at: float) -> Decimal | None:
    """Give what a pilot cost at one target; ``None`` where that is not known."""
    from llmhub.core.cost import cost  # noqa: PLC0415 - of this one function

    found = price(target.provider.name, target.model, datetime.fromtimestamp(at, UTC))
    if found is None:
        return None
    usages: list[Usage] = [a.outcome.unwrap().usage for a in answers.values() if is_successful(a.outcome)]
    costs = [cost(usage, found) for usage in usages]
    return None if None in costs else sum((one for one in costs if one is not None), Decimal(0))
