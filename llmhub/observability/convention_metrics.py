"""The metrics of OpenTelemetry's semantic conventions for generative AI.

They are recorded in the thread of a `llmhub.observability.dispatcher.Dispatcher`, from the ends of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from returns.pipeline import is_successful

from llmhub.core.optional_imports import import_optional
from llmhub.core.types import CompletionResponse
from llmhub.engine.call import Call, Target
from llmhub.engine.observer import NS_PER_S, RequestFinished
from llmhub.observability import semantic_conventions as names
from llmhub.observability.instruments import outcome_labels
from llmhub.observability.semantic_conventions import Conventions
from llmhub.observability.spans import Attributes, target_attributes

MAX_ATTRIBUTE_SETS: Final = 1024
"""Sets of attributes that are remembered: names of models come from clients of a service."""


class ConventionMetrics:
    """The metrics of the conventions.

    Counters are added to once for many requests. Histograms take each value by itself, which is most of the cost.

    Parameters
    ----------
    provider
        Makes the meter; ``None`` for the provider of the program, once it has set one up.
    scope
        Name of the instrumentation scope.
    version
        Names the instruments.
    """

    def __init__(self, provider: Any, scope: str, version: Conventions) -> None:
        api_metrics = import_optional("opentelemetry.metrics", "otel")
        if provider is None:
            provider = api_metrics.get_meter_provider()
        self.is_ready = _is_set(api_metrics, provider)
        """Whether what is recorded now reaches a provider."""
        meter = provider.get_meter(scope, schema_url=version.schema_url or None)

        def histogram(name: str, unit: str, bounds: tuple[float, ...]) -> Any:
            return meter.create_histogram(name, unit=unit, explicit_bucket_boundaries_advisory=bounds)

        self._duration = histogram(version.duration, "s", names.SECONDS_BOUNDS)
        self._first_chunk = histogram(version.first_chunk, "s", names.SECONDS_BOUNDS)
        self._token_usage = version.token_usage and histogram(version.token_usage, "{token}", names.TOKEN_BOUNDS)
        self._counters = {
            field: meter.create_counter(name, unit="{token}") for field, name in version.usage_counters.items()
        }
        self._histograms = {
            field: histogram(name, "{token}", names.TOKEN_BOUNDS) for field, name in version.token_histograms.items()
        }
        self._totals: dict[tuple[str, int], int] = {}
        self._attributes: dict[tuple[object, ...], tuple[Target, Attributes]] = {}

    def record(self, event: RequestFinished) -> None:
        """Record an HTTP request."""
        _, error_type = outcome_labels(event.answer)
        response = None
        if event.answer is not None and is_successful(event.answer.outcome):
            response = event.answer.outcome.unwrap()
        attributes = self._attributes_of(event.call, response.served_model if response else "", error_type)
        if response is not None and event.answer is not None:
            self._record_tokens(response, attributes)
            if event.answer.ttft_s is not None:
                self._first_chunk.record(event.answer.ttft_s, attributes)
        self._duration.record((event.ended_ns - event.started_ns) / NS_PER_S, attributes)

    def pass_on(self) -> None:
        """Add what has been counted to the counters."""
        by_id = {id(attributes): attributes for _, attributes in self._attributes.values()}
        for (field, attributes_id), tokens in self._totals.items():
            attributes = {**by_id[attributes_id], names.TOKEN_MODALITY: names.UNKNOWN_MODALITY}
            self._counters[field].add(tokens, attributes)
        self._totals.clear()
        if len(self._attributes) > MAX_ATTRIBUTE_SETS:
            self._attributes.clear()

    def _attributes_of(self, call: Call, served_model: str, error_type: str) -> Attributes:
        """Return the attributes of a request, the same object for the same attributes."""
        vectors = call.embedding
        kind = None if vectors is None else vectors.query is None
        key = (id(call.target), kind, served_model, error_type)
        known = self._attributes.get(key)
        if known is None:
            attributes = target_attributes(call)
            if served_model:
                attributes[names.RESPONSE_MODEL] = served_model
            if error_type:
                attributes[names.ERROR_TYPE] = error_type
            # The target is kept, so that no other one gets its id.
            known = self._attributes[key] = call.target, attributes
        return known[1]

    def _record_tokens(self, response: CompletionResponse, attributes: Attributes) -> None:
        usage, totals = response.usage, self._totals
        for field in self._counters:
            tokens = getattr(usage, field)
            if tokens:
                key = (field, id(attributes))
                totals[key] = totals.get(key, 0) + tokens
        for field, histogram in self._histograms.items():
            tokens = getattr(usage, field)
            if tokens is not None:
                histogram.record(tokens, attributes)
        if self._token_usage:
            for token_type in ("input", "output"):
                tokens = getattr(usage, f"{token_type}_tokens")
                if tokens is not None:
                    self._token_usage.record(tokens, {**attributes, names.TOKEN_TYPE: token_type})


def _always() -> bool:
    return True


def _is_set(api_metrics: Any, provider: Any) -> Callable[[], bool]:
    """Return a function that returns whether the program has set up a provider of meters.

    Until then ``provider`` stands for the one to come, and what is recorded is lost.
    """
    if not type(provider).__name__.startswith("_Proxy"):
        return _always
    return lambda: api_metrics.get_meter_provider() is not provider
