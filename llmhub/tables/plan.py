"""Plans: what a table run would send and cost.

Nothing is sent here. Prompts are counted with the model's tokenizer; output tokens, latency and the provider's own
input counts are forecast from the best basis available (`BASIS_LABELS`): a pilot, cached responses to prompts of this
run, cached responses of the model to other prompts, or fixed defaults.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from returns.pipeline import is_successful

from llmhub.cache.store import Store
from llmhub.core.pricing import compute_cost
from llmhub.core.serialization import StoredResponse, unpack
from llmhub.engine.call import Answer, SendMode, Target
from llmhub.engine.limits import Limit
from llmhub.engine.row_outcome import to_stored
from llmhub.formatting.html import container, facts_line, html_table
from llmhub.formatting.numbers import format_duration, format_duration_range, format_usd
from llmhub.formatting.text import single_line
from llmhub.formatting.text_tables import drop_empty_columns, text_table
from llmhub.providers.prices import find_price, unpriced_id
from llmhub.providers.registry import model_metadata
from llmhub.tables.batch_plan import batch_notes, price_of_mode, total_usd
from llmhub.tables.forecast import (
    ASSUMED_RESULT_TOKENS,
    ASSUMED_TURNS,
    ZERO_INTERVAL,
    CostInterval,
    Observation,
    PredictionInterval,
    clip,
    forecast_by_regression,
    forecast_cost,
    forecast_from_other_prompts,
    forecast_minutes,
    forecast_sum,
    forecast_turns,
    format_expected_count,
    format_expected_usd,
    rate_demands,
)
from llmhub.tables.prompt_batch import ModelPrompts, TargetPrompt, prompt_text
from llmhub.tables.tokenizers import EstimateWarning, VocabularySource, count_tokens

if TYPE_CHECKING:
    import pandas as pd

    from llmhub.tables.plan_comparison import PlanComparison

DEFAULT_OUTPUT_TOKENS: Final = 256
"""Expected output tokens of a call without any basis."""
DEFAULT_REASONING_TOKENS: Final = 1024
"""The same for a model that reasons before it answers."""
DEFAULT_SPREAD: Final = 8
"""Factor between the expected value and the upper bound of the output tokens of a call without any basis."""
MIN_OBSERVATIONS: Final = 5
"""Cached responses to prompts of the run from which on they are preferred to responses to other prompts."""
MAX_SCANNED_ENTRIES: Final = 20_000
"""Cache entries that are scanned for responses of a model."""
MAX_OBSERVATIONS: Final = 500
"""Responses of a model that a forecast uses."""
MESSAGE_OVERHEAD_TOKENS: Final = 16
"""Upper bound of the tokens that a provider adds to a prompt."""
MIN_PROVIDER_CACHE_TOKENS: Final = 1024
"""Prompt length from which on providers may read a prompt from their cache."""
BASIS_LABELS: Final = {
    "pilot": "pilot",
    "history": "cached responses",
    "model": "other prompts",
    "bound": "no history",
}
"""What forecasts of a model are based on, as shown to users."""
PLAN_HEADER: Final = ("model", "rows", "in cache", "calls", "input tokens", "output tokens", "USD", "basis")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """The plan for one model.

    Parameters
    ----------
    model
        ``provider/model``.
    rows, skipped, duplicates, cache_hits, calls
        ``calls`` would be sent: the rows without those that are skipped, equal to another row, or in the cache.
    input_tokens, output_tokens
        95 % prediction intervals for all calls together, without images.
    basis, observations
        What the forecasts are based on (a key of `BASIS_LABELS`), and the number of responses.
    estimated
        Whether the prompts were counted with another tokenizer than the model's own.
    usd, price_id
        Cost of all calls, ``None`` if the price is unknown, and the price used.
    latency_s
        Sum of the latencies of all calls.
    longest_s
        Longest latency of a single call.
    assumed_output_tokens
        Output tokens of a response that are assumed without any history; 0 with one.
    requests
        Requests of all calls together: with tools that are functions, a call takes one for each turn.
    max_turns
        Maximum number of turns of a call.
    open_conversations
        Rows among the cache hits whose cached response calls a function: their later turns are not part of the plan.
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
    assumed_output_tokens: int = 0
    requests: PredictionInterval = ZERO_INTERVAL
    max_turns: int = 1
    open_conversations: int = 0
    live_usd: CostInterval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a table run.

    Parameters
    ----------
    models
        The plan for each model.
    minutes, bottleneck
        How long the run would take, and what limits it.
    pilot, pilot_usd
        Calls made by the pilot, and their cost; their responses are in the cache.
    counted
        Requests whose input tokens the providers counted.
    simulated
        Whether simulated providers would answer, so that nothing would be billed.
    mode
        Whether rows would be sent by themselves (``live``) or in batches, whose cost is in ``usd`` then.
    """

    models: tuple[ModelPlan, ...]
    minutes: PredictionInterval = ZERO_INTERVAL
    bottleneck: str = ""
    pilot: int = 0
    pilot_usd: Decimal | None = None
    counted: int = 0
    simulated: bool = False
    mode: SendMode = "live"

    @property
    def calls(self) -> int:
        """Number of calls that would be sent; with tools that are functions, of conversations (see `requests`)."""
        return sum(model.calls for model in self.models)

    @property
    def requests(self) -> PredictionInterval:
        """Number of requests: that of the calls, or of the turns of all conversations."""
        return sum((model.requests for model in self.models), ZERO_INTERVAL)

    @property
    def usd(self) -> CostInterval | None:
        """Cost of all calls; ``None`` if a price is unknown."""
        return total_usd([model.usd for model in self.models])

    @property
    def live_usd(self) -> CostInterval | None:
        """Cost of all calls if they were sent by themselves; ``None`` if a price is unknown."""
        return total_usd([model.live_usd for model in self.models])

    @property
    def saving_usd(self) -> Decimal | None:
        """Expected saving of batches over single requests; 0 without batches, ``None`` if a price is unknown."""
        live, usd = self.live_usd, self.usd
        return None if live is None or usd is None else live.expected - usd.expected

    def compare(self, table: Any) -> PlanComparison:
        """Compare the plan with the results of its run, as an Arrow table or a frame with the same columns."""
        from llmhub.tables.plan_comparison import compare_plan  # noqa: PLC0415 - it imports this module

        return compare_plan(self, table)

    def __repr__(self) -> str:
        """Return the plan as a table."""
        return str(self)

    def __str__(self) -> str:
        """Return the plan as a table for a terminal, followed by notes."""
        table = text_table(*drop_empty_columns(PLAN_HEADER, [_plan_row(model) for model in self.models]))
        return "\n".join([table, *self._notes()])

    def _repr_html_(self) -> str:
        total = f"{format_expected_count(self.requests)} calls for {format_expected_usd(self.usd)} USD"
        table = html_table(PLAN_HEADER, [_plan_row(model) for model in self.models], range(1, len(PLAN_HEADER) - 1))
        return container(table, facts_line([total, *self._notes()]))

    def _notes(self) -> list[str]:
        notes = []
        if self.calls and self.mode == "batch":
            notes += [*batch_notes(self.models), *self._assumptions()]
        elif self.calls:
            limit = f", limited by {self.bottleneck}" if self.bottleneck else ""
            expected = format_duration(self.minutes.expected * 60)
            duration = format_duration_range(self.minutes.low * 60, self.minutes.high * 60)
            notes.append(f"Estimated time: {expected} ({duration}){limit}.")
            notes += self._assumptions()
        notes += self._turn_notes()
        if any(_lacks_pilot(model) for model in self.models):
            notes.append("For narrower intervals pass pilot=20: twenty rows are sent now and count towards the run.")
        if self.counted:
            notes.append(f"The providers counted the input tokens of {self.counted:,} requests, at no cost.")
        if self.pilot:
            cost = "" if self.pilot_usd is None else f" for {format_usd(self.pilot_usd)}"
            notes.append(f"The pilot made {self.pilot:,} calls{cost}; their responses are in the cache.")
        if self.simulated:
            notes.append("Simulated providers: costs are list prices, and nothing is billed.")
        return notes

    def _assumptions(self) -> list[str]:
        """Return what is assumed for models without any history."""
        assumed: dict[int, list[str]] = {}
        for model in self.models:
            if model.assumed_output_tokens and model.calls:
                assumed.setdefault(model.assumed_output_tokens, []).append(model.model)
        return [
            f"Without history, {tokens:,} output tokens per response are assumed for {', '.join(names)}."
            for tokens, names in assumed.items()
        ]

    def _turn_notes(self) -> list[str]:
        """Return what is known of the turns of conversations with tools."""
        with_tools = [model for model in self.models if model.max_turns > 1]
        notes = []
        if any(model.basis != "pilot" and model.calls for model in with_tools):
            turns, limit = min(ASSUMED_TURNS, with_tools[0].max_turns), with_tools[0].max_turns
            notes.append(
                f"With tools, {turns} turns per row (1..{limit}) and {ASSUMED_RESULT_TOKENS} tokens per result are "
                "assumed."
            )
        if open_rows := sum(model.open_conversations for model in with_tools):
            notes.append(
                f"{open_rows:,} of the rows in the cache go on with a call of a function; their later turns are not "
                "counted."
            )
        return notes

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per model: counts, and expected value and interval of tokens and of cost in US dollars."""
        from llmhub.tables.plan_frame import plan_frame  # noqa: PLC0415 - it imports this module

        return plan_frame(self.models)


def _lacks_pilot(model: ModelPlan) -> bool:
    """Return whether a pilot would narrow the intervals of a model."""
    return bool(model.calls) and (model.basis in {"bound", "model"} or (model.max_turns > 1 and model.basis != "pilot"))


def _plan_row(model: ModelPlan) -> tuple[str, ...]:
    observations = f" ({model.observations})" if model.observations else ""
    return (
        single_line(model.model),
        f"{model.rows:,}",
        f"{model.cache_hits:,}",
        format_expected_count(model.requests),
        format_expected_count(model.input_tokens),
        format_expected_count(model.output_tokens),
        format_expected_usd(model.usd),
        BASIS_LABELS[model.basis] + observations if model.calls else "",
    )


# Planning


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInputs:
    """The inputs of a plan besides the prompts.

    Parameters
    ----------
    store
        The cache, if any.
    tokenizer_folder
        tiktoken's cache folder; its default if ``None``.
    priced_at
        Time for which prices are looked up (epoch seconds).
    concurrency, limits
        Concurrent calls, and rate limits by provider or model.
    candidates
        By requested model: the targets that may answer instead.
    pilot
        Results of a pilot, by cache key.
    pilot_turns
        Turns of its conversations, by cache key.
    max_turns
        Maximum number of turns of a call: 1 unless tools are functions.
    counted
        Input tokens that the providers counted, by cache key.
    mode
        How rows would be sent.
    """

    store: Store | None
    tokenizer_folder: Path | None
    priced_at: float
    concurrency: int = 64
    limits: Mapping[str, Limit] = field(default_factory=dict)
    candidates: Mapping[str, Sequence[Target]] = field(default_factory=dict)
    pilot: Mapping[bytes, Answer] = field(default_factory=dict)
    pilot_turns: Mapping[bytes, int] = field(default_factory=dict)
    max_turns: int = 1
    counted: Mapping[bytes, int] = field(default_factory=dict)
    mode: SendMode = "live"


def cached_values(prompts: ModelPrompts, store: Store | None) -> Mapping[bytes, bytes]:
    """Look up a model's prompts in the cache; return the stored values by key."""
    return store.get_many(list(prompts.items)) if store is not None and prompts.items else {}


def build_plan(prompts: Sequence[ModelPrompts], inputs: PlanInputs) -> Plan:
    """Return the plan of a run of these prompts, one item per model."""
    vocabularies = VocabularySource(folder=inputs.tokenizer_folder)
    models = tuple(_plan_model(own, inputs, vocabularies) for own in prompts)
    work_s = sum((model.latency_s for model in models), ZERO_INTERVAL)
    longest_s = max((model.longest_s for model in models), default=0.0)
    calls = sum(model.calls for model in models)
    concurrency = min(inputs.concurrency, max(calls, 1))
    minutes, bottleneck = forecast_minutes(work_s, longest_s, concurrency, rate_demands(models, inputs.limits))
    simulated = any(own.target_prompt.target.endpoint.simulated for own in prompts)
    return Plan(models=models, minutes=minutes, bottleneck=bottleneck, simulated=simulated, mode=inputs.mode)


def _plan_model(prompts: ModelPrompts, inputs: PlanInputs, vocabularies: VocabularySource) -> ModelPlan:
    target_prompt = prompts.target_prompt
    target = target_prompt.target
    cached = cached_values(prompts, inputs.store)
    answered = {key for key in prompts.items if key in cached or key in inputs.pilot}
    to_send = [key for key in prompts.items if key not in answered]
    sampled = list(islice((key for key in prompts.items if key in answered), MAX_OBSERVATIONS))
    texts = [prompt_text(prompts.items[key][3]) for key in (*to_send, *sampled)]
    counts, estimated = _count_input(target_prompt, texts, vocabularies)
    calls = len(to_send)
    own = _observations(dict(zip(sampled, counts[calls:], strict=True)), cached, inputs.pilot)
    basis, observations = _choose_basis(own, target, inputs)
    same_prompts = observations if basis in {"pilot", "history"} else []
    own_counts = dict(zip(to_send, counts, strict=False))
    pairs = [(float(own_counts[key]), float(inputs.counted[key])) for key in to_send if key in inputs.counted]
    input_tokens = _forecast_input(counts[:calls], same_prompts, pairs, estimated=estimated)
    # The answers of a pilot with tools are those of whole conversations.
    turns_per_answer = inputs.max_turns if basis == "pilot" else 1
    output_tokens = _forecast_output(target_prompt, observations, basis, calls, turns_per_answer)
    latency_s, longest_s = _forecast_latency(observations, basis, calls, output_tokens)
    requests = PredictionInterval(calls, calls, calls)
    if inputs.max_turns > 1 and basis == "pilot":
        requests = _forecast_pilot_turns([inputs.pilot_turns.get(key, 1) for key in sampled], calls, inputs.max_turns)
    elif inputs.max_turns > 1:
        requests, input_tokens, output_tokens = forecast_turns(calls, inputs.max_turns, input_tokens, output_tokens)
        factors = (1, min(ASSUMED_TURNS, inputs.max_turns), inputs.max_turns)
        bounds = (latency_s.low, latency_s.expected, latency_s.high)
        latency_s = PredictionInterval(*(value * factor for value, factor in zip(bounds, factors, strict=True)))
        longest_s *= inputs.max_turns
    candidates = inputs.candidates.get(target.name) or (target,)
    demand = (candidates, requests, input_tokens, output_tokens, inputs.priced_at)
    live_usd, price_id = _forecast_usd(*demand)
    usd, price_id = (live_usd, price_id) if inputs.mode == "live" else _forecast_usd(*demand, inputs.mode)
    return ModelPlan(
        model=target.name,
        rows=prompts.rows,
        skipped=prompts.skipped,
        duplicates=prompts.rows - prompts.skipped - len(prompts.items),
        cache_hits=len(cached),
        calls=calls,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        basis=basis,
        observations=len(observations),
        estimated=estimated,
        usd=usd,
        price_id=price_id,
        latency_s=latency_s,
        longest_s=longest_s,
        assumed_output_tokens=0 if observations else _default_output_tokens(target_prompt),
        requests=requests,
        max_turns=inputs.max_turns,
        open_conversations=_count_open(cached, inputs) if inputs.max_turns > 1 else 0,
        live_usd=live_usd,
    )


def _count_open(cached: Mapping[bytes, bytes], inputs: PlanInputs) -> int:
    """Return the number of cached responses that call a function, without those of the pilot's whole conversations."""
    stored = (unpack(value, key).value_or(None) for key, value in cached.items() if key not in inputs.pilot_turns)
    return sum(response is not None and response.finish_reason == "tool_calls" for response in stored)


def _forecast_pilot_turns(turns: Sequence[int], calls: int, max_turns: int) -> PredictionInterval:
    """Forecast the requests of further conversations from the turns of those of a pilot."""
    forecast = clip(forecast_sum([float(count) for count in turns], calls), calls * max_turns)
    return replace(forecast, low=max(forecast.low, calls))


def _count_input(
    target_prompt: TargetPrompt, texts: list[str], vocabularies: VocabularySource
) -> tuple[list[int], bool]:
    """Return the input tokens of each prompt, constant messages included, and whether they are estimates."""
    constant = [message.text for message in target_prompt.request.messages]
    with warnings.catch_warnings():
        # The plan itself marks estimated counts.
        warnings.simplefilter("ignore", EstimateWarning)
        counted = count_tokens([*texts, *constant], target_prompt.target.model, vocabularies)
    constant_tokens = sum(counted.counts[len(texts) :])
    return [tokens + constant_tokens for tokens in counted.counts[: len(texts)]], counted.estimated


def _observations(
    counted: Mapping[bytes, int], cached: Mapping[bytes, bytes], pilot: Mapping[bytes, Answer]
) -> list[Observation]:
    """Return the known responses to prompts of this run."""
    observations = []
    for key, tokens in counted.items():
        response: StoredResponse | None
        if key in pilot:
            answer = pilot[key]
            response = to_stored(answer) if is_successful(answer.outcome) else None
        else:
            response = unpack(cached[key], key).value_or(None)
        if response is not None:
            observations.append(_observation(tokens, response))
    return observations


def _observation(counted_tokens: int, response: StoredResponse) -> Observation:
    return Observation(counted_tokens, response.usage[0], response.usage[1], response.latency_s)


def _choose_basis(own: list[Observation], target: Target, inputs: PlanInputs) -> tuple[str, list[Observation]]:
    """Choose what to forecast from: responses to prompts of this run if there are enough, else all of the model."""
    if len(own) >= MIN_OBSERVATIONS or (own and inputs.pilot):
        return ("pilot" if inputs.pilot else "history"), own
    observations = [*own, *_model_history(target.cache_name, inputs.store)]
    return ("model", observations) if observations else ("bound", [])


def _model_history(model: str, store: Store | None) -> list[Observation]:
    """Return cached responses of the model, named as in the cache, to any prompt."""
    observations: list[Observation] = []
    for entry in islice(store.scan(), MAX_SCANNED_ENTRIES) if store is not None else ():
        response = unpack(entry.value, entry.key).value_or(None) if entry.model == model else None
        if response is not None:
            observations.append(_observation(0, response))
            if len(observations) == MAX_OBSERVATIONS:
                break
    return observations


def _forecast_input(
    counts: list[int], observations: list[Observation], counted: list[tuple[float, float]], *, estimated: bool
) -> PredictionInterval:
    """Forecast input tokens as the provider counts them, by regression on the counts made here.

    ``counted`` are counts made here, each with that of the provider.
    """
    total, calls = sum(counts), len(counts)
    pairs = counted + [
        (float(each.counted_tokens), float(each.input_tokens)) for each in observations if each.input_tokens is not None
    ]
    if not calls:
        return ZERO_INTERVAL
    if pairs:
        return forecast_by_regression(pairs, total, calls)
    low, high = (0.6, 1.5) if estimated else (1.0, 1.0)
    return PredictionInterval(total * low, total, total * high + MESSAGE_OVERHEAD_TOKENS * calls)


def _forecast_output(
    target_prompt: TargetPrompt, observations: list[Observation], basis: str, calls: int, turns: int
) -> PredictionInterval:
    """Forecast output tokens, bounded by ``max_tokens`` of each of ``turns`` responses."""
    target, max_tokens = target_prompt.target, target_prompt.request.max_tokens
    max_tokens = None if max_tokens is None else max_tokens * turns
    values = [float(each.output_tokens) for each in observations if each.output_tokens is not None]
    if not values:
        expected = _default_output_tokens(target_prompt)
        model_limit = model_metadata(target.provider.name, target.model).max_output_tokens
        upper = min(limit for limit in (max_tokens, model_limit, expected * DEFAULT_SPREAD) if limit)
        return PredictionInterval(float(calls), calls * expected, calls * max(upper, expected))
    if max_tokens is not None:
        values = [min(value, max_tokens) for value in values]
    return clip(_forecast_total(values, basis, calls), None if max_tokens is None else calls * max_tokens)


def _default_output_tokens(target_prompt: TargetPrompt) -> int:
    """Return the output tokens that are assumed for a response of a model without history."""
    target, request = target_prompt.target, target_prompt.request
    facts = model_metadata(target.provider.name, target.model)
    effort = request.reasoning_effort
    reasons = facts.reasons_by_default if effort is None else effort != "none"
    expected = DEFAULT_REASONING_TOKENS if reasons else DEFAULT_OUTPUT_TOKENS
    return min(limit for limit in (expected, request.max_tokens, facts.max_output_tokens) if limit)


def _forecast_latency(
    observations: list[Observation], basis: str, calls: int, output_tokens: PredictionInterval
) -> tuple[PredictionInterval, float]:
    """Forecast the sum of all latencies, and the longest."""
    values = [each.latency_s for each in observations if each.latency_s is not None]
    if not calls:
        return ZERO_INTERVAL, 0.0
    if values:
        return _forecast_total(values, basis, calls), max(values)
    # Typical: 1 s to the first token and 60 tokens/s. Bounds: five times as fast and as slow.
    typical = PredictionInterval(
        0.2 * calls + output_tokens.low / 300,
        calls + output_tokens.expected / 60,
        5.0 * calls + output_tokens.high / 12,
    )
    return typical, 2 * typical.expected / calls


def _forecast_total(values: Sequence[float], basis: str, calls: int) -> PredictionInterval:
    forecast = forecast_from_other_prompts if basis == "model" else forecast_sum
    return forecast(values, calls)


def _forecast_usd(
    candidates: Sequence[Target],
    requests: PredictionInterval,
    input_tokens: PredictionInterval,
    output_tokens: PredictionInterval,
    priced_at: float,
    mode: SendMode = "live",
) -> tuple[CostInterval | None, str]:
    """Forecast the cost, from that of the cheapest candidate to that of the most expensive, and return a price id."""
    date = datetime.fromtimestamp(priced_at, UTC)
    prices = [
        price_of_mode(target, find_price(target.provider.name, target.model, date), mode) for target in candidates
    ]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None, next(filter(None, (unpriced_id(target.provider.name) for target in candidates)), "")
    cached = requests.high > 0 and input_tokens.high / requests.high >= MIN_PROVIDER_CACHE_TOKENS
    costs = [forecast_cost(price, requests, input_tokens, output_tokens, cached=cached) for price in known]
    low, high = min(cost.low for cost in costs), max(cost.high for cost in costs)
    return replace(costs[0], low=low, high=high), known[0].price_id


def pilot_cost_usd(answers: Mapping[bytes, Answer], target: Target, priced_at: float) -> Decimal | None:
    """Return the cost of a pilot's calls to one target; ``None`` if a price or a count is unknown."""
    price = find_price(target.provider.name, target.model, datetime.fromtimestamp(priced_at, UTC))
    if price is None:
        return None
    total = Decimal(0)
    for answer in answers.values():
        if is_successful(answer.outcome):
            cost = compute_cost(answer.outcome.unwrap().usage, price)
            if cost is None:
                return None
            total += cost
    return total
