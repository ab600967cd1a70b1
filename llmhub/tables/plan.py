"""What a run would do before it does it: calls, cache hits, tokens, money and minutes.

A forecast against what a run did: model by model, whether each number came to lie where it was expected.
"""

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
from llmhub.core.serialization import StoredResponse, unpack
from llmhub.core.types import Usage
from llmhub.engine.call import Answer, Target
from llmhub.engine.fan_out_types import PlannedItem
from llmhub.engine.limits import Limit
from llmhub.engine.row_outcome import to_stored
from llmhub.formatting import html, text
from llmhub.providers.registry import model_metadata
from llmhub.providers.prices import find_price
from llmhub.tables.forecast import (
    ZERO_INTERVAL,
    CostInterval,
    Observation,
    PredictionInterval,
    RateDemand,
    clip,
    forecast_by_regression,
    forecast_cost,
    forecast_from_other_prompts,
    forecast_minutes,
    forecast_sum,
    format_count_interval,
    format_minutes_interval,
    format_usd,
    format_usd_interval,
    text_table,
)
from llmhub.tables.prompt_batch import PromptBatch, TargetPrompt, prompt_text
from llmhub.tables.tokenizers import EstimateWarning, VocabularySource, count_tokens

if TYPE_CHECKING:
    import pyarrow as pa

    pass  # merged
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

DEFAULT_OUTPUT_TOKENS: Final = 256
"""Tokens expected of an answer when nothing is known of it."""


DEFAULT_MAX_OUTPUT_TOKENS: Final = 4096
"""Tokens it has at most where nothing bounds it."""


MIN_OBSERVATIONS: Final = 5
"""Answers to the same kind of question that say more than any number of answers to others."""


MAX_SCANNED_ENTRIES: Final = 20_000
"""Entries of a store that are gone through for answers of a model, at most."""


MAX_OBSERVATIONS: Final = 500
"""Answers of a model that are taken for its history."""


MESSAGE_OVERHEAD_TOKENS: Final = 16
"""Tokens that providers put around a question, at most."""


MIN_PROVIDER_CACHE_TOKENS: Final = 1024
"""Questions from so many tokens may be read from a provider's cache."""


BASIS_LABELS: Final = {
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
        What the forecast of the answers rests on (`BASIS_LABELS`), and how many of them.
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
    duplicates: int
    cache_hits: int
    calls: int
    input_tokens: PredictionInterval
    output_tokens: PredictionInterval
    basis: str
    observations: int
    estimated: bool
    usd: CostInterval | None
    price_id: str
    latency_s: PredictionInterval = ZERO_INTERVAL
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
    minutes: PredictionInterval = ZERO_INTERVAL
    bottleneck: str = ""
    pilot: int = 0
    pilot_usd: Decimal | None = None

    @property
    def calls(self) -> int:
        """Requests that would be sent."""
        return sum(model.calls for model in self.models)

    @property
    def usd(self) -> CostInterval | None:
        """What it would cost, if all prices are known."""
        known = [model.usd for model in self.models if model.usd is not None]
        return sum(known, CostInterval(*[Decimal(0)] * 3)) if len(known) == len(self.models) else None

    def compare(self, table: pa.Table) -> PlanComparison:
        """Hold the forecast against what a run of it did: its results table, or a frame with those columns."""
        pass  # merged  # noqa: PLC0415 - it knows of plans

        return compare_plan(self, table)

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Write it as a table for a terminal."""
        return "\n".join([text_table((PLAN_HEADER, *map(_plan_row, self.models))), *self._notes()])

    def _repr_html_(self) -> str:
        total = f"{self.calls:,} calls for {format_usd_interval(self.usd)} USD"
        cells = html.html_table(PLAN_HEADER, list(map(_plan_row, self.models)), range(1, len(PLAN_HEADER) - 1))
        return html.container(cells, html.facts_line([total, *self._notes()]))

    def _notes(self) -> list[str]:
        """Say what is true of the whole."""
        said = []
        if self.calls:
            wait = f", waiting for {self.bottleneck}" if self.bottleneck else ""
            said.append(f"It would take {format_minutes_interval(self.minutes)}{wait}.")
        if any(m.basis in {"bound", "model"} and m.calls for m in self.models):
            said.append("A pilot would narrow this: pilot=20 asks twenty rows, which count towards the run.")
        if self.pilot:
            paid = "" if self.pilot_usd is None else f" for ${format_usd(self.pilot_usd)}"
            said.append(f"The pilot made {self.pilot:,} calls{paid}; their answers are in the cache.")
        return said


PLAN_HEADER: Final = ("model", "rows", "in cache", "calls", "input tokens", "output tokens", "USD", "going by")


def _plan_row(model: ModelPlan) -> tuple[str, ...]:
    seen = f" ({model.observations})" if model.observations else ""
    return (
        text.single_line(model.model),
        f"{model.rows:,}",
        f"{model.cache_hits:,}",
        f"{model.calls:,}",
        format_count_interval(model.input_tokens),
        format_count_interval(model.output_tokens),
        format_usd_interval(model.usd),
        BASIS_LABELS[model.basis] + seen if model.calls else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
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
    priced_at: float
    concurrency: int = 64
    limits: Mapping[str, Limit] = field(default_factory=dict)
    candidates: Mapping[str, Sequence[Target]] = field(default_factory=dict)
    pilot: Mapping[bytes, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelPrompts:
    """What would be asked of one model: an item for each question, by key."""

    target_prompt: TargetPrompt
    items: dict[bytes, PlannedItem]
    rows: int
    skipped: int


def unique_prompts(batch: PromptBatch) -> list[ModelPrompts]:
    """Go through all questions, each once."""
    items: list[dict[bytes, PlannedItem]] = [{} for _ in batch.target_prompts]
    for chunk in batch.iter_chunks():
        for item in chunk:
            items[_target_of(batch, item[0])].setdefault(item[1], item)
    if batch.target_of_row is None:
        rows: list[Sequence[int]] = [range(batch.n_rows)] * len(batch.target_prompts)
    else:
        own = batch.target_of_row
        rows = [[row for row in range(batch.n_rows) if own[row] == which] for which in range(len(batch.target_prompts))]
    missing = [sum(1 for row in some if batch.skipped[row] or row in batch.invalid_rows) for some in rows]
    n = batch.n_samples
    return [
        ModelPrompts(ask, found, len(some) * n, skipped * n)
        for ask, found, some, skipped in zip(batch.target_prompts, items, rows, missing, strict=True)
    ]


def _target_of(questions: PromptBatch, position: int) -> int:
    row, place = divmod(position, questions.positions_per_row)
    return place // questions.n_samples if questions.target_of_row is None else questions.target_of_row[row]


def cached_values(one: ModelPrompts, store: Store | None) -> Mapping[bytes, bytes]:
    """Look up what of it was answered before."""
    return store.get_many(list(one.items)) if store is not None and one.items else {}


def build_plan(batch: PromptBatch, inputs: PlanInputs) -> Plan:
    """Plan a run: what of it is in the store, and what the rest would take."""
    vocabularies = VocabularySource(folder=inputs.tokenizer_folder)
    models = tuple(_plan_model(one, inputs, vocabularies) for one in unique_prompts(batch))
    work = sum((model.latency_s for model in models), ZERO_INTERVAL)
    longest_s = max((model.longest_s for model in models), default=0.0)
    asked = sum(model.calls for model in models)
    forecast, binds = forecast_minutes(
        work, longest_s, min(inputs.concurrency, max(asked, 1)), _rate_demands(models, inputs.limits)
    )
    return Plan(models=models, minutes=forecast, bottleneck=binds)


def _plan_model(one: ModelPrompts, ground: PlanInputs, vocabularies: VocabularySource) -> ModelPlan:
    ask = one.target_prompt
    held = cached_values(one, ground.store)
    done = {key for key in one.items if key in held or key in ground.pilot}
    sent = [key for key in one.items if key not in done]
    some = list(islice((key for key in one.items if key in done), MAX_OBSERVATIONS))
    counted, estimated = _count_input(ask, [prompt_text(one.items[key][3]) for key in (*sent, *some)], vocabularies)
    seen = _observations(dict(zip(some, counted[len(sent) :], strict=True)), held, ground.pilot)
    basis, answers = _choose_basis(seen, ask, ground)
    calls = len(sent)
    taken = _forecast_input(
        counted[:calls], [one for one in answers if basis in {"pilot", "history"}], estimated=estimated
    )
    made = _forecast_output(ask, answers, basis, calls)
    targets = ground.candidates.get(ask.target.name) or (ask.target,)
    priced, price_id = _forecast_usd(targets, calls, taken, made, ground.priced_at)
    latency_s, longest_s = _forecast_latency(answers, basis, calls, made)
    return ModelPlan(
        model=ask.target.name,
        rows=one.rows,
        skipped=one.skipped,
        duplicates=one.rows - one.skipped - len(one.items),
        cache_hits=len(held),
        calls=calls,
        input_tokens=taken,
        output_tokens=made,
        basis=basis,
        observations=len(answers),
        estimated=estimated,
        usd=priced,
        price_id=price_id,
        latency_s=latency_s,
        longest_s=longest_s,
    )


def _count_input(ask: TargetPrompt, texts: list[str], vocabularies: VocabularySource) -> tuple[list[int], bool]:
    """Count each question with what every call repeats before it."""
    preamble = [message.text for message in ask.request.messages]
    with warnings.catch_warnings():
        # The plan says itself which counts are estimates.
        warnings.simplefilter("ignore", EstimateWarning)
        counted = count_tokens([*texts, *preamble], ask.target.model, vocabularies)
    before = sum(counted.counts[len(texts) :])
    return [tokens + before for tokens in counted.counts[: len(texts)]], counted.estimated


def _observations(
    counted: Mapping[bytes, int], held: Mapping[bytes, bytes], pilot: Mapping[bytes, Answer]
) -> list[Observation]:
    """Read the answers there are to questions of this run."""
    found = []
    for key, tokens in counted.items():
        if key in pilot:
            answer = pilot[key]
            kept = to_stored(answer) if is_successful(answer.outcome) else None
        else:
            read = unpack(held[key], key)
            kept = read.unwrap() if is_successful(read) else None
        if kept is not None:
            found.append(_observation(tokens, kept))
    return found


def _observation(counted: int, kept: StoredResponse) -> Observation:
    return Observation(counted, kept.usage[0], kept.usage[1], kept.latency_s)


def _choose_basis(seen: list[Observation], ask: TargetPrompt, ground: PlanInputs) -> tuple[str, list[Observation]]:
    """Choose what the answers are judged by: those to the same kind of question, or else the model's others."""
    if len(seen) >= MIN_OBSERVATIONS or (seen and ground.pilot):
        return ("pilot" if ground.pilot else "history"), seen
    others = [*seen, *_model_history(ask.target.name, ground.store)]
    return ("model", others) if others else ("bound", [])


def _model_history(model: str, store: Store | None) -> list[Observation]:
    """Read what the model answered to other questions."""
    found: list[Observation] = []
    for entry in islice(store.scan(), MAX_SCANNED_ENTRIES) if store is not None else ():
        kept = unpack(entry.value, entry.key) if entry.model == model else None
        if kept is not None and is_successful(kept):
            found.append(_observation(0, kept.unwrap()))
            if len(found) == MAX_OBSERVATIONS:
                break
    return found


def _forecast_input(counted: list[int], answers: list[Observation], *, estimated: bool) -> PredictionInterval:
    """Forecast the input: as the provider counted the questions that it was asked, in proportion."""
    size, calls = sum(counted), len(counted)
    pairs = [(float(one.counted), float(one.input_tokens)) for one in answers if one.input_tokens is not None]
    if not calls:
        return ZERO_INTERVAL
    if pairs:
        return forecast_by_regression(pairs, size, calls)
    low, high = (0.6, 1.5) if estimated else (1.0, 1.0)
    return PredictionInterval(size * low, size, size * high + MESSAGE_OVERHEAD_TOKENS * calls)


def _forecast_output(ask: TargetPrompt, answers: list[Observation], basis: str, calls: int) -> PredictionInterval:
    """Forecast the output, as far as anything says how long the answers are."""
    known = model_metadata(ask.target.provider.name, ask.target.model).max_output_tokens
    bound = ask.request.max_tokens
    values = [float(one.output_tokens) for one in answers if one.output_tokens is not None]
    if not values:
        longest = bound or min(known or DEFAULT_MAX_OUTPUT_TOKENS, DEFAULT_MAX_OUTPUT_TOKENS)
        return PredictionInterval(float(calls), calls * min(longest, DEFAULT_OUTPUT_TOKENS), calls * longest)
    if bound is not None:
        values = [min(value, bound) for value in values]
    made = forecast_from_other_prompts(values, calls) if basis == "model" else forecast_sum(values, calls)
    return clip(made, None if bound is None else calls * bound)


def _forecast_latency(
    answers: list[Observation], basis: str, calls: int, made: PredictionInterval
) -> tuple[PredictionInterval, float]:
    """Forecast the sum of all latencies, and the longest."""
    values = [one.latency_s for one in answers if one.latency_s is not None]
    if not calls:
        return ZERO_INTERVAL, 0.0
    if values:
        return (forecast_from_other_prompts(values, calls) if basis == "model" else forecast_sum(values, calls)), max(
            values
        )
    # A second to the first token and sixty tokens a second are usual; a fifth of the one and of the other happens.
    usual = PredictionInterval(0.2 * calls + made.low / 300, calls + made.expected / 60, 5.0 * calls + made.high / 12)
    return usual, usual.high / calls


def _forecast_usd(
    targets: Sequence[Target], calls: int, taken: PredictionInterval, made: PredictionInterval, at: float
) -> tuple[CostInterval | None, str]:
    """Price the tokens at whoever may answer: between the cheapest and the dearest of them."""
    found = [find_price(target.provider.name, target.model, datetime.fromtimestamp(at, UTC)) for target in targets]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None, ""
    cached = calls > 0 and taken.high / calls >= MIN_PROVIDER_CACHE_TOKENS
    sums = [forecast_cost(one, calls, taken, made, cached=cached) for one in known]
    low, high = min(one.low for one in sums), max(one.high for one in sums)
    return replace(sums[0], low=low, high=high), known[0].price_id


RATE_LIMITS: Final = (
    ("rpm", "requests a minute", lambda model: PredictionInterval(model.calls, model.calls, model.calls)),
    ("tpm", "tokens a minute", lambda model: model.input_tokens + model.output_tokens),
    ("input_tpm", "input tokens a minute", lambda model: model.input_tokens),
    ("output_tpm", "output tokens a minute", lambda model: model.output_tokens),
)
"""What a limit bounds, how that is called, and how much of it a model needs."""


def _rate_demands(models: Sequence[ModelPlan], limits: Mapping[str, Limit]) -> list[RateDemand]:
    """Say what each declared limit lets through, and how much of it is needed."""
    found = []
    for name, limit in limits.items():
        bound = [model for model in models if model.model == name or model.model.partition("/")[0] == name]
        for rate, called, need in RATE_LIMITS:
            permitted = getattr(limit, rate, None)
            if permitted is not None and bound:
                needed = sum((need(model) for model in bound), ZERO_INTERVAL)
                found.append(RateDemand(f"{name}: {permitted:,.0f} {called}", permitted, limit.burst, needed))
    return found


def pilot_cost_usd(answers: Mapping[bytes, Answer], target: Target, priced_at: float) -> Decimal | None:
    """Give what a pilot cost at one target; ``None`` where that is not known."""
    from llmhub.core.pricing import compute_cost  # noqa: PLC0415 - of this one function

    found = find_price(target.provider.name, target.model, datetime.fromtimestamp(priced_at, UTC))
    if found is None:
        return None
    usages: list[Usage] = [a.outcome.unwrap().usage for a in answers.values() if is_successful(a.outcome)]
    costs = [compute_cost(usage, found) for usage in usages]
    return None if None in costs else sum((one for one in costs if one is not None), Decimal(0))


MICRO: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCheck:
    """One number: what was expected of it, and what came of it."""

    model: str
    quantity: str
    forecast: PredictionInterval | CostInterval | None
    actual: float | Decimal | None

    @property
    def within_interval(self) -> bool | None:
        """Whether it lies within; ``None`` where the forecast or the number is not known."""
        if self.forecast is None or self.actual is None:
            return None
        value: Any = self.actual
        return value in self.forecast


@dataclass(frozen=True, slots=True)
class PlanComparison:
    """What a run did beside what was forecast of it."""

    checks: tuple[PlanCheck, ...]

    @property
    def within_intervals(self) -> bool:
        """Whether everything that is known lies where it was expected."""
        return all(number.within_interval is not False for number in self.checks)

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Write it as a table for a terminal."""
        rows = [
            (
                one.model,
                one.quantity,
                _format_forecast(one.forecast),
                _format_actual(one.actual),
                VERDICTS[one.within_interval],
            )
            for one in self.checks
        ]
        return text_table((("model", "of", "forecast", "actual", ""), *rows))


VERDICTS: Final = {True: "as expected", False: "OUTSIDE", None: "unknown"}


def _format_forecast(value: PredictionInterval | CostInterval | None) -> str:
    return (
        format_usd_interval(value) if isinstance(value, CostInterval) or value is None else format_count_interval(value)
    )


def _format_actual(value: float | Decimal | None) -> str:
    return "" if value is None else format_usd(value) if isinstance(value, Decimal) else f"{value:,.0f}"


def compare_plan(plan: Plan, table: Any) -> PlanComparison:
    """Hold a plan against the results of its run."""
    results = table if isinstance(table, pa.Table) else pa.table(table)
    names = pc.binary_join_element_wise(_string_column(results, "provider"), _string_column(results, "model"), "/")
    numbers: list[PlanCheck] = []
    for model in plan.models:
        numbers += _model_checks(model, results.filter(pc.equal(names, model.model)))
    numbers.append(
        PlanCheck(model="", quantity="seconds", forecast=plan.minutes.scale(60), actual=_wall_time_s(results))
    )
    return PlanComparison(tuple(numbers))


def _string_column(results: pa.Table, name: str) -> Any:
    return results.column(name).cast(pa.string())


def _model_checks(model: ModelPlan, rows: pa.Table) -> Sequence[PlanCheck]:
    """Count what was sent and came back, paid by calls of this run."""
    sent = rows.filter(pc.and_(pc.invert(rows.column("cache_hit")), pc.greater(rows.column("attempts"), 0)))
    costs = sent.filter(pc.equal(_string_column(sent, "status"), "ok")).column("cost_usd")
    usd: Any = None if costs.null_count else pc.sum(costs).as_py() or Decimal(0)
    calls = float(model.calls)
    return [
        PlanCheck(
            model=model.model,
            quantity="calls",
            forecast=PredictionInterval(calls, calls, calls),
            actual=float(len(sent)),
        ),
        PlanCheck(
            model=model.model,
            quantity="input tokens",
            forecast=model.input_tokens,
            actual=_column_sum(sent, "input_tokens"),
        ),
        PlanCheck(
            model=model.model,
            quantity="output tokens",
            forecast=model.output_tokens,
            actual=_column_sum(sent, "output_tokens"),
        ),
        PlanCheck(model=model.model, quantity="USD", forecast=model.usd, actual=usd),
    ]


def _column_sum(rows: pa.Table, name: str) -> float:
    return float(pc.sum(rows.column(name)).as_py() or 0)


def _wall_time_s(results: pa.Table) -> float | None:
    """Give the seconds between the first call's beginning and the last one's end."""
    sent = results.filter(pc.greater(results.column("attempts"), 0))
    begun = sent.column("started_at").cast(pa.int64())
    if not len(sent) or begun.null_count == len(sent):
        return None
    took = pc.multiply(pc.fill_null(sent.column("total_s"), 0.0), MICRO)
    ended = pc.add(begun.cast(pa.float64()), took)
    return float((pc.max(ended).as_py() - pc.min(begun).as_py()) / MICRO)
