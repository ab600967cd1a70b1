"""Traces of calls by OpenTelemetry, and metrics by the same semantic conventions. Needs the extra ``otel``.

A call is a span, and each HTTP request of it a span below, with the names of the conventions for generative AI
(`llmhub.observability.semantic_conventions`); a wait for the queue, the cache, a limit or a retry is a span where it
took time. On the event loop a span is only begun, so that requests carry its ``traceparent``; attributes are set in a
thread. Content is recorded only if asked for, and redacted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from returns.pipeline import is_successful

from llmhub.core.budget import nano_to_usd
from llmhub.core.errors import invalid
from llmhub.core.optional_imports import import_optional
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from llmhub.engine.call import Call, Target
from llmhub.engine.observer import (
    NS_PER_S,
    OBSERVED_CALL,
    OUTGOING_HEADERS,
    CallFinished,
    CallStarted,
    Event,
    RequestFinished,
    RequestStarted,
    Waited,
)
from llmhub.observability import semantic_conventions as names
from llmhub.observability.dispatcher import Dispatcher
from llmhub.observability.instruments import outcome_labels
from llmhub.observability.semantic_conventions import Conventions
from llmhub.observability.subscriptions import subscribe
from llmhub.security.redaction import map_json_text, redact_content

__all__ = ["configure", "server_span"]

SCOPE: Final = "llmhub"
"""Name of the instrumentation scope."""
DEFAULT_RATIO: Final = 1.0
PORTS: Final = {"http": 80, "https": 443}

Attributes: TypeAlias = dict[str, Any]


class _Configuration:
    """The way to undo the present configuration, and its tracer for spans of servers."""

    def __init__(self) -> None:
        self.undo: Callable[[], None] | None = None
        self.tracer: Any = None


_CONFIGURED: Final = _Configuration()


def configure(
    endpoint: str | None = None,
    *,
    ratio: float = DEFAULT_RATIO,
    content: bool = False,
    metrics: bool = True,
    conventions: str = names.LATEST,
    tracer_provider: Any = None,
    meter_provider: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Callable[[], None]:
    """Trace the calls of this process. Replaces what an earlier call has set up.

    Parameters
    ----------
    endpoint
        Address of a collector that takes OTLP over HTTP (``http://localhost:4318``). Without it, spans go to the
        providers that the program, or ``opentelemetry-instrument``, has set up.
    ratio
        Share of calls that are traced, such as 0.1 for runs of many rows. Calls within a span of the program, or of an
        incoming request, are traced if that one is.
    content
        Whether to record prompts and responses, redacted. They may hold personal data.
    metrics
        Whether to record the metrics of the conventions too.
    conventions
        Version of the semantic conventions: ``"development"`` or ``"1.41"``.
    tracer_provider, meter_provider
        Where spans and metrics go, in place of ``endpoint``.
    headers
        Headers for the collector, such as an authorization.

    Returns
    -------
    Callable
        Sends what is pending and undoes the configuration.

    Raises
    ------
    BadRequestError
        The extra is not installed, or an argument is wrong.
    """
    version = names.conventions(conventions)
    api = import_optional("opentelemetry.trace", "otel")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise invalid("ratio", f"must be a number from 0 to 1, not {ratio!r:.80}")
    if endpoint is not None and (tracer_provider is not None or meter_provider is not None):
        raise invalid("endpoint", "pass an endpoint, or providers, not both")
    if _CONFIGURED.undo is not None:
        _CONFIGURED.undo()
    shut_down: list[Callable[[], None]] = []
    if endpoint is not None:
        tracer_provider, meter_provider = _otlp_providers(endpoint, headers, with_metrics=metrics)
        shut_down = [item.shutdown for item in (tracer_provider, meter_provider) if item is not None]
    tracer_provider = api.get_tracer_provider() if tracer_provider is None else tracer_provider
    tracer = tracer_provider.get_tracer(SCOPE, schema_url=version.schema_url or None)
    recorder = None
    if metrics:
        provider = meter_provider
        if provider is None:
            provider = import_optional("opentelemetry.metrics", "otel").get_meter_provider()
        recorder = _Metrics(provider.get_meter(SCOPE, schema_url=version.schema_url or None), version)
    tracing = _Tracing(tracer, version, recorder, ratio=ratio, with_content=content)
    observe = tracing.observe
    # Metrics are of all calls; spans alone are only made of those that are sampled.
    unsubscribe = subscribe(observe, skips=tracing.skip_call if recorder is None and ratio < 1 else None)

    def undo() -> None:
        if _CONFIGURED.undo is not undo:
            return
        _CONFIGURED.undo = _CONFIGURED.tracer = None
        unsubscribe()
        tracing.dispatcher.close()
        for function in shut_down:
            function()

    _CONFIGURED.undo, _CONFIGURED.tracer = undo, tracer
    return undo


def _otlp_providers(endpoint: str, headers: Mapping[str, str] | None, *, with_metrics: bool) -> tuple[Any, Any]:
    """Return providers that send to a collector."""
    parts = urlsplit(endpoint)
    if parts.scheme not in PORTS or not parts.hostname:
        raise invalid("endpoint", "must be the address of a collector, such as 'http://localhost:4318'")
    base = endpoint.rstrip("/").removesuffix("/v1/traces")
    sdk = import_optional("opentelemetry.sdk.trace", "otel")
    exporting = import_optional("opentelemetry.sdk.trace.export", "otel")
    otlp = import_optional("opentelemetry.exporter.otlp.proto.http.trace_exporter", "otel")
    resource = import_optional("opentelemetry.sdk.resources", "otel").Resource.create({"service.name": SCOPE})
    provider = sdk.TracerProvider(resource=resource)
    exporter = otlp.OTLPSpanExporter(endpoint=f"{base}/v1/traces", headers=dict(headers or {}))
    provider.add_span_processor(exporting.BatchSpanProcessor(exporter))
    if not with_metrics:
        return provider, None
    sdk_metrics = import_optional("opentelemetry.sdk.metrics", "otel")
    readers = import_optional("opentelemetry.sdk.metrics.export", "otel")
    otlp_metrics = import_optional("opentelemetry.exporter.otlp.proto.http.metric_exporter", "otel")
    sent_to = otlp_metrics.OTLPMetricExporter(endpoint=f"{base}/v1/metrics", headers=dict(headers or {}))
    reader = readers.PeriodicExportingMetricReader(sent_to)
    return provider, sdk_metrics.MeterProvider(metric_readers=[reader], resource=resource)


def is_configured() -> bool:
    """Return whether spans are made."""
    return _CONFIGURED.tracer is not None


@contextmanager
def server_span(name: str, headers: Mapping[str, str], attributes: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Open the span of an incoming request, a child of the trace in its headers; calls within it belong to that trace.

    Does nothing, and yields ``None``, unless `configure` was called.

    Parameters
    ----------
    name
        Name of the span, of a closed set: ``POST /v1/chat/completions``.
    headers
        Headers of the request, or metadata of a gRPC call, with names in lower case; ``traceparent`` is read.
    attributes
        Attributes of the span.

    Examples
    --------
    >>> with server_span("POST /v1/tables", {}) as span:
    ...     span is None
    True
    """
    tracer = _CONFIGURED.tracer
    if tracer is None:
        yield None
        return
    api = import_optional("opentelemetry.trace", "otel")
    context = _propagator().extract(headers)
    with tracer.start_as_current_span(
        name,
        context=context,
        kind=api.SpanKind.SERVER,
        attributes=dict(attributes or {}),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            # Without the message, which may quote a prompt.
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            span.set_status(api.StatusCode.ERROR)
            raise


def _propagator() -> Any:
    """Return the propagator of W3C trace contexts. Baggage is not propagated: it may hold anything."""
    return import_optional("opentelemetry.trace.propagation.tracecontext", "otel").TraceContextTextMapPropagator()


_IS_SAMPLED: Final[ContextVar[bool]] = ContextVar("llmhub_is_sampled", default=False)
"""Whether the call that the current task is about to make has been chosen."""


def _unsampled_headers() -> dict[str, str]:
    ids = f"{random.getrandbits(192):048x}"
    return {"traceparent": f"00-{ids[:32]}-{ids[32:]}-00"}


class _Tracing:
    """Begins spans on the event loop, and completes them in the thread of its dispatcher."""

    def __init__(
        self, tracer: Any, version: Conventions, recorder: _Metrics | None, *, ratio: float, with_content: bool
    ) -> None:
        self._version = version
        self._recorder = recorder
        self._ratio = ratio
        self._with_content = with_content
        self._current_context = _current_context()
        self._spans: _Spans = _LateSpans(tracer) if _has_late_spans(tracer) else _Spans(tracer)
        self._calls: dict[int, Any] = {}
        self._requests: dict[tuple[int, int], Any] = {}
        self.dispatcher = Dispatcher(self._complete)

    # On the event loop

    def skip_call(self) -> bool:
        """Return whether the next call is not traced; its requests tell the provider's side so."""
        if self._has_parent():
            return False
        if random.random() < self._ratio:  # noqa: S311 - no secret
            _IS_SAMPLED.set(True)
            return False
        OUTGOING_HEADERS.set(_unsampled_headers())
        return True

    def observe(self, event: Event) -> None:
        """Begin a span, or queue the event that completes it."""
        match event:
            case CallStarted():
                self._begin_call(event)
            case RequestStarted():
                self._begin_request(event)
            case RequestFinished() if self._recorder is not None or (event.call_id, event.number) in self._requests:
                self.dispatcher(event)
            case Waited(call_id=call_id) if self._is_recorded(call_id):
                self.dispatcher(event)
            case CallFinished(call_id=call_id):
                if self._is_recorded(call_id):
                    self.dispatcher(event)
                else:
                    self._calls.pop(call_id, None)
            case _:
                pass

    def _has_parent(self) -> bool:
        """Return whether the current task works within a span of the program, or of an incoming request."""
        context = self._current_context()
        return bool(context) and self._spans.span_context(context).is_valid

    def _is_recorded(self, call_id: int) -> bool:
        span = self._calls.get(call_id)
        return span is not None and self._spans.is_recorded(span)

    def _begin_call(self, event: CallStarted) -> None:
        if _IS_SAMPLED.get():
            _IS_SAMPLED.set(False)
        elif self._ratio < 1 and not self._has_parent() and random.random() >= self._ratio:  # noqa: S311 - no secret
            return
        span = self._spans.begin_call(self._current_context(), event.call.target, event.started_ns)
        self._calls[event.call_id] = span
        observed = OBSERVED_CALL.get()
        if observed is not None and self._spans.is_recorded(span):
            observed.trace_id = f"{self._spans.trace_id(span):032x}"

    def _begin_request(self, event: RequestStarted) -> None:
        parent = self._calls.get(event.call_id)
        if parent is None:
            # The provider's side is told that the call is not traced, so that it does not decide anew.
            OUTGOING_HEADERS.set(_unsampled_headers())
            return
        span = parent
        if self._spans.is_recorded(parent):
            span = self._spans.begin_request(parent, event.call.target, event.started_ns)
            self._requests[event.call_id, event.number] = span
        headers = self._spans.headers(span)
        if headers:
            OUTGOING_HEADERS.set(headers)

    # In the thread

    def _complete(self, event: Event, cost_nano_usd: int | None) -> None:
        match event:
            case RequestFinished():
                if self._recorder is not None:
                    self._recorder.record(event)
                span = self._requests.pop((event.call_id, event.number), None)
                if span is not None:
                    self._complete_request(span, event)
            case Waited():
                self._spans.add_wait(self._calls[event.call_id], event.reason, event.started_ns, event.ended_ns)
            case CallFinished(started_ns=started_ns):
                span = self._calls.pop(event.call_id)
                if event.queue_ns:
                    self._spans.add_wait(span, "queue", started_ns - event.queue_ns, started_ns)
                attributes = call_attributes(event, cost_nano_usd)
                self._spans.end(span, attributes, outcome_labels(event.answer)[1], event.ended_ns)
            case _:
                pass

    def _complete_request(self, span: Any, event: RequestFinished) -> None:
        answer, call = event.answer, event.call
        attributes = request_attributes(call)
        if answer is not None and is_successful(answer.outcome):
            attributes |= response_attributes(answer.outcome.unwrap(), self._version)
            if answer.ttft_s is not None:
                attributes[names.FIRST_CHUNK] = answer.ttft_s
            if self._with_content:
                attributes |= output_attributes(answer.outcome.unwrap())
        elif answer is not None and answer.outcome.failure().status is not None:
            attributes["http.response.status_code"] = answer.outcome.failure().status
        if event.number > 1:
            attributes["http.request.resend_count"] = event.number - 1
        if self._with_content:
            attributes |= input_attributes(call.request)
        self._spans.end(span, attributes, outcome_labels(answer)[1], event.ended_ns)


def _current_context() -> Callable[[], Any]:
    """Return the function that returns OpenTelemetry's context of the current task: a dictionary, mostly empty."""
    current: Callable[[], Any] = import_optional("opentelemetry.context", "otel").get_current
    return current


class _Spans:
    """Spans of any tracer: made when they begin, as the interface of OpenTelemetry has it."""

    def __init__(self, tracer: Any) -> None:
        self._api = import_optional("opentelemetry.trace", "otel")
        self._inject = _propagator().inject
        self._tracer = tracer

    def span_context(self, context: Any) -> Any:
        """Return the ids of the span in a context."""
        return self._api.get_current_span(context).get_span_context()

    def begin_call(self, context: Any, target: Target, started_ns: int) -> Any:
        """Begin the span of a call, below the span in ``context`` if there is one."""
        return self._tracer.start_span(f"call {target.name}", context=context, start_time=started_ns)

    def begin_request(self, parent: Any, target: Target, started_ns: int) -> Any:
        """Begin the span of an HTTP request."""
        name, attributes = request_span(target)
        context = self._api.set_span_in_context(parent)
        kind = self._api.SpanKind.CLIENT
        return self._tracer.start_span(name, context=context, kind=kind, attributes=attributes, start_time=started_ns)

    def is_recorded(self, span: Any) -> bool:
        """Return whether the span is exported."""
        recorded: bool = span.is_recording()
        return recorded

    def trace_id(self, span: Any) -> int:
        """Return the id of its trace."""
        trace_id: int = span.get_span_context().trace_id
        return trace_id

    def headers(self, span: Any) -> dict[str, str]:
        """Return the trace context for an HTTP request below the span."""
        headers: dict[str, str] = {}
        self._inject(headers, context=self._api.set_span_in_context(span))
        return headers

    def add_wait(self, parent: Any, reason: str, started_ns: int, ended_ns: int) -> None:
        """Add the span of a wait of a call."""
        context = self._api.set_span_in_context(parent)
        self._tracer.start_span(f"wait {reason}", context=context, start_time=started_ns).end(end_time=ended_ns)

    def end(self, span: Any, attributes: Attributes, error_type: str, ended_ns: int) -> None:
        """End a span. The message of its error stays out: providers quote prompts in theirs."""
        if error_type:
            attributes[names.ERROR_TYPE] = error_type
            span.set_status(self._api.StatusCode.ERROR)
        span.set_attributes(attributes)
        span.end(end_time=ended_ns)


@dataclass(frozen=True, slots=True)
class _LateSpan:
    """A span that has begun and is made when it ends. ``parent`` is the context of the span above it."""

    name: str
    parent: Any
    trace_id: int
    span_id: int
    flags: int
    state: Any
    started_ns: int
    target: Target | None = None


class _GivenIds:
    """An id generator that returns the ids drawn when a span began."""

    def __init__(self, *, is_random: bool) -> None:
        self.trace_id = self.span_id = 0
        self._is_random = is_random

    def generate_trace_id(self) -> int:
        """Return the id of the trace."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Return the id of the span."""
        return self.span_id

    def is_trace_id_random(self) -> bool:
        """Return whether ids of traces are random numbers."""
        return self._is_random


def _has_late_spans(tracer: Any) -> bool:
    """Return whether spans of a tracer can be made when they end: it is the SDK's, and samples what its parent does."""
    sdk = import_optional("opentelemetry.sdk.trace", "otel")
    sampling = import_optional("opentelemetry.sdk.trace.sampling", "otel")
    ids = import_optional("opentelemetry.sdk.trace.id_generator", "otel").RandomIdGenerator
    return type(tracer) is sdk.Tracer and tracer.sampler is sampling.DEFAULT_ON and type(tracer.id_generator) is ids


class _LateSpans(_Spans):
    """Spans of the SDK, made when they end: only their ids are drawn on the event loop.

    Many are made one after another, which takes a third of the time that each takes between other work.
    """

    def __init__(self, tracer: Any) -> None:
        # A copy: the ids of other spans of the tracer are its own affair.
        tracer = copy(tracer)
        super().__init__(tracer)
        is_random = tracer.id_generator.is_trace_id_random()
        self._random_flag = self._api.TraceFlags.RANDOM_TRACE_ID if is_random else 0
        self._ids = tracer.id_generator = _GivenIds(is_random=is_random)
        self._no_parent = import_optional("opentelemetry.context", "otel").Context()

    def begin_call(self, context: Any, target: Target, started_ns: int) -> _LateSpan:
        """Begin the span of a call, below the span in ``context`` if there is one."""
        sampled, span_id = self._api.TraceFlags.SAMPLED, random.getrandbits(64) or 1
        parent = self.span_context(context) if context else None
        name = f"call {target.name}"
        if parent is None or not parent.is_valid:
            trace_id, flags = random.getrandbits(128) or 1, sampled | self._random_flag
            return _LateSpan(name, context or self._no_parent, trace_id, span_id, flags, None, started_ns)
        return _LateSpan(
            name, context, parent.trace_id, span_id, int(parent.trace_flags), parent.trace_state, started_ns
        )

    def begin_request(self, parent: _LateSpan, target: Target, started_ns: int) -> _LateSpan:
        """Begin the span of an HTTP request."""
        span_id = random.getrandbits(64) or 1
        return _LateSpan("", parent, parent.trace_id, span_id, parent.flags, parent.state, started_ns, target)

    def is_recorded(self, span: _LateSpan) -> bool:
        """Return whether the span is exported."""
        return bool(span.flags & self._api.TraceFlags.SAMPLED)

    def trace_id(self, span: _LateSpan) -> int:
        """Return the id of its trace."""
        return span.trace_id

    def headers(self, span: _LateSpan) -> dict[str, str]:
        """Return the trace context for an HTTP request below the span."""
        headers = {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.flags:02x}"}
        return {**headers, "tracestate": span.state.to_header()} if span.state else headers

    def add_wait(self, parent: _LateSpan, reason: str, started_ns: int, ended_ns: int) -> None:
        """Add the span of a wait of a call."""
        self._ids.span_id = random.getrandbits(64) or 1
        context = self._below(parent)
        self._tracer.start_span(f"wait {reason}", context=context, start_time=started_ns).end(end_time=ended_ns)

    def end(self, span: _LateSpan, attributes: Attributes, error_type: str, ended_ns: int) -> None:
        """Make a span and end it."""
        name, kind, context = span.name, self._api.SpanKind.INTERNAL, span.parent
        if span.target is not None:
            name, of_target = request_span(span.target)
            attributes, kind, context = {**of_target, **attributes}, self._api.SpanKind.CLIENT, self._below(span.parent)
        if error_type:
            attributes[names.ERROR_TYPE] = error_type
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        made = self._tracer.start_span(
            name, context=context, kind=kind, attributes=attributes, start_time=span.started_ns
        )
        if error_type:
            made.set_status(self._api.StatusCode.ERROR)
        made.end(end_time=ended_ns)

    def _below(self, span: _LateSpan) -> Any:
        """Return the context of spans below this one."""
        flags, api = self._api.TraceFlags(span.flags), self._api
        ids = api.SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=flags, trace_state=span.state)
        return api.set_span_in_context(api.NonRecordingSpan(ids), self._no_parent)


class _Metrics:
    """The metrics of the conventions."""

    def __init__(self, meter: Any, version: Conventions) -> None:
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

    def record(self, event: RequestFinished) -> None:
        """Record an HTTP request."""
        attributes = target_attributes(event.call.target)
        _, error_type = outcome_labels(event.answer)
        if event.answer is not None and is_successful(event.answer.outcome):
            response = event.answer.outcome.unwrap()
            if response.served_model:
                attributes[names.RESPONSE_MODEL] = response.served_model
            self._record_tokens(response, attributes)
            if event.answer.ttft_s is not None:
                self._first_chunk.record(event.answer.ttft_s, attributes)
        if error_type:
            attributes[names.ERROR_TYPE] = error_type
        self._duration.record((event.ended_ns - event.started_ns) / NS_PER_S, attributes)

    def _record_tokens(self, response: CompletionResponse, attributes: Attributes) -> None:
        with_modality = {**attributes, names.TOKEN_MODALITY: names.UNKNOWN_MODALITY}
        for field, counter in self._counters.items():
            tokens = getattr(response.usage, field)
            if tokens:
                counter.add(tokens, with_modality)
        for field, histogram in self._histograms.items():
            tokens = getattr(response.usage, field)
            if tokens is not None:
                histogram.record(tokens, attributes)
        if self._token_usage:
            for token_type in ("input", "output"):
                tokens = getattr(response.usage, f"{token_type}_tokens")
                if tokens is not None:
                    self._token_usage.record(tokens, {**attributes, names.TOKEN_TYPE: token_type})


# Attributes. Pure.

_request_values: Final = attrgetter(*names.REQUEST_FIELDS)
_usage_values: Final = attrgetter(*names.USAGE_FIELDS)


def request_span(target: Target) -> tuple[str, Attributes]:
    """Return the name of the span of a request to a target, and the attributes that all of them have."""
    attributes = target_attributes(target)
    return f"{attributes[names.OPERATION]} {target.model}", attributes


def target_attributes(target: Target) -> Attributes:
    """Return the attributes of the model and server that a request goes to."""
    provider = target.provider.name
    attributes: Attributes = {
        names.OPERATION: names.OPERATIONS.get(provider, names.CHAT),
        names.PROVIDER: names.PROVIDERS.get(provider, provider),
        names.REQUEST_MODEL: target.model,
    }
    address = _server_address(target.endpoint.base_url or target.provider.base_url)
    if address is not None:
        attributes[names.SERVER_ADDRESS], attributes[names.SERVER_PORT] = address
    return attributes


@lru_cache(maxsize=64)
def _server_address(base_url: str) -> tuple[str, int] | None:
    """Return host and port of a URL; ``None`` if it is none, or a template."""
    try:
        url = urlsplit(base_url)
        port = url.port or PORTS.get(url.scheme)
    except ValueError:
        return None
    return (url.hostname, port) if url.hostname and port and "{" not in url.hostname else None


def request_attributes(call: Call) -> Attributes:
    """Return the attributes of a request's parameters."""
    request = call.request
    values = zip(names.REQUEST_FIELDS.values(), _request_values(request), strict=True)
    attributes = {name: value for name, value in values if value is not None and value != ()}
    if request.n != 1:
        attributes[names.CHOICE_COUNT] = request.n
    if call.stream or call.on_chunk is not None:
        attributes[names.STREAM] = True
    if request.response_schema is not None:
        attributes[names.OUTPUT_TYPE] = "json"
    return attributes


def response_attributes(response: CompletionResponse, version: Conventions) -> Attributes:
    """Return the attributes of a response."""
    attributes: Attributes = {names.FINISH_REASONS: [response.finish_reason]}
    if response.served_model:
        attributes[names.RESPONSE_MODEL] = response.served_model
    if response.request_id:
        attributes[names.RESPONSE_ID] = response.request_id
    for name, tokens in zip(names.USAGE_FIELDS.values(), _usage_values(response.usage), strict=True):
        if tokens is not None:
            attributes[name] = tokens
    if response.usage.cache_write_tokens is not None:
        attributes[version.cache_write_tokens] = response.usage.cache_write_tokens
    return attributes


def call_attributes(event: CallFinished, cost_nano_usd: int | None) -> Attributes:
    """Return llmhub's own attributes of a call."""
    answer, origin = event.answer, event.origin
    attributes: Attributes = {
        "llmhub.status": outcome_labels(answer)[0],
        "llmhub.run_id": event.run_id.hex(),
        "llmhub.request_id": origin.request_id,
        "llmhub.key_id": origin.key_id,
        "llmhub.team": origin.team,
        "llmhub.user": origin.user,
    }
    if answer is not None:
        attributes["llmhub.attempts"] = answer.attempts
        attributes["llmhub.cache_hit"] = answer.cache_hit
        if cost_nano_usd is not None:
            attributes["llmhub.cost_usd"] = float(nano_to_usd(cost_nano_usd))
    return {name: value for name, value in attributes.items() if value != ""}


def input_attributes(request: CompletionRequest) -> Attributes:
    """Return the content of a request, redacted."""
    system = [part for message in request.messages if message.role == "system" for part in message.parts]
    messages = [message_content(message) for message in request.messages if message.role != "system"]
    attributes: Attributes = {names.INPUT_MESSAGES: _json(messages)}
    if system:
        attributes[names.SYSTEM_INSTRUCTIONS] = _json(part_contents(system))
    if request.tools:
        tools = [
            {"type": "function", "name": tool.name, "description": redact_content(tool.description)}
            for tool in request.tools
        ]
        attributes[names.TOOL_DEFINITIONS] = _json(tools)
    return attributes


def output_attributes(response: CompletionResponse) -> Attributes:
    """Return the content of a response, redacted."""
    message = {
        "role": "assistant",
        "parts": part_contents(response.parts),
        "finish_reason": response.finish_reason,
    }
    return {names.OUTPUT_MESSAGES: _json([message])}


def message_content(message: Message) -> Attributes:
    """Return a message in the form of the conventions, redacted.

    Examples
    --------
    >>> message_content(Message("user", "key sk-abcdefgh12345"))
    {'role': 'user', 'parts': [{'type': 'text', 'content': 'key [API_KEY]'}]}
    """
    return {"role": message.role, "parts": part_contents(message.parts)}


def part_contents(parts: Any) -> list[Attributes]:
    """Return parts in the form of the conventions, redacted; of files and images only their kind."""
    return [_part_content(part) for part in parts]


def _part_content(part: Part) -> Attributes:
    match part:
        case Text(text):
            return {"type": "text", "content": redact_content(text)}
        case Reasoning(text=text):
            return {"type": "reasoning", "content": redact_content(text)}
        case ToolCall(id=call_id, name=name, arguments=arguments):
            return {
                "type": "tool_call",
                "id": call_id,
                "name": name,
                "arguments": map_json_text(arguments, redact_content),
            }
        case ToolResult(id=call_id, content=content):
            texts = [content] if isinstance(content, str) else [item.text for item in content if isinstance(item, Text)]
            return {"type": "tool_call_response", "id": call_id, "response": redact_content("".join(texts))}
        case _:
            return {"type": type(part).__name__.lower()}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
