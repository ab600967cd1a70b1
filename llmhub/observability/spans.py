"""Spans as OpenTelemetry's tracers make them: when they begin, or, where that is possible, when they end.

On the event loop a span that is made late is only a pair of ids, which the requests below it carry as ``traceparent``.
"""

from __future__ import annotations

import random
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from llmhub.core.optional_imports import import_optional
from llmhub.engine.call import Call, Target
from llmhub.observability import semantic_conventions as names

PORTS: Final = {"http": 80, "https": 443}
MIN_ATTRIBUTES: Final = 64
"""More attributes than any span here has."""

Attributes: TypeAlias = dict[str, Any]


def propagator() -> Any:
    """Return the propagator of W3C trace contexts. Baggage is not propagated: it may hold anything."""
    return import_optional("opentelemetry.trace.propagation.tracecontext", "otel").TraceContextTextMapPropagator()


class Spans:
    """Spans of any tracer: made when they begin, as the interface of OpenTelemetry has it."""

    def __init__(self, tracer: Any) -> None:
        self._api = import_optional("opentelemetry.trace", "otel")
        self._inject = propagator().inject
        self._tracer = tracer

    def span_context(self, context: Any) -> Any:
        """Return the ids of the span in a context."""
        return self._api.get_current_span(context).get_span_context()

    def begin_call(self, context: Any, target: Target, started_ns: int) -> Any:
        """Begin the span of a call, below the span in ``context`` if there is one."""
        return self._tracer.start_span(f"call {target.name}", context=context, start_time=started_ns)

    def begin_request(self, parent: Any, call: Call, started_ns: int) -> Any:
        """Begin the span of an HTTP request."""
        name, attributes = request_span(call)
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


@dataclass(slots=True)
class _LateSpan:
    """A span that has begun and is made when it ends.

    ``parent`` is the span above it: a `_LateSpan`, or the context of another. ``ids`` and ``below``, the context of the
    spans below it, are made when they are needed.
    """

    name: str
    parent: Any
    trace_id: int
    span_id: int
    flags: int
    state: Any
    started_ns: int
    call: Call | None = None
    ids: Any = None
    below: Any = None


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


@lru_cache(maxsize=1)
def _recorded_sampler() -> Any:
    """Return the sampler of spans that are known to be recorded."""
    sampling = import_optional("opentelemetry.sdk.trace.sampling", "otel")
    current_span = import_optional("opentelemetry.trace", "otel").get_current_span
    decision = sampling.Decision.RECORD_AND_SAMPLE

    class Recorded(sampling.Sampler):  # type: ignore[misc, name-defined]
        """Samples every span, and passes the state of the trace on."""

        def should_sample(
            self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None,
            links: Any = None, trace_state: Any = None,
        ) -> Any:  # fmt: skip
            """Return the decision."""
            del trace_id, name, kind, links
            parent = current_span(parent_context).get_span_context()
            return sampling.SamplingResult(decision, attributes, parent.trace_state if parent.is_valid else trace_state)

        def get_description(self) -> str:
            """Return the name of the sampler."""
            return "Recorded"

    return Recorded()


def has_late_spans(tracer: Any) -> bool:
    """Return whether spans of a tracer can be made when they end: it is the SDK's, and samples what its parent does."""
    sdk = import_optional("opentelemetry.sdk.trace", "otel")
    sampling = import_optional("opentelemetry.sdk.trace.sampling", "otel")
    ids = import_optional("opentelemetry.sdk.trace.id_generator", "otel").RandomIdGenerator
    return type(tracer) is sdk.Tracer and tracer.sampler is sampling.DEFAULT_ON and type(tracer.id_generator) is ids


class LateSpans(Spans):
    """Spans of the SDK, made when they end: only their ids are drawn on the event loop.

    Many are made one after another, which takes a third of the time that each takes between other work. Where no
    processor looks at spans before they end, they are made ended, which takes a quarter of the time again.
    """

    def __init__(self, tracer: Any) -> None:
        # A copy: the ids of other spans of the tracer are its own affair.
        tracer = copy(tracer)
        super().__init__(tracer)
        is_random = tracer.id_generator.is_trace_id_random()
        self._sampled = int(self._api.TraceFlags.SAMPLED)
        self._root_flags = self._sampled | (self._api.TraceFlags.RANDOM_TRACE_ID if is_random else 0)
        self._ids = tracer.id_generator = _GivenIds(is_random=is_random)
        tracer.sampler = _recorded_sampler()
        self._no_parent = import_optional("opentelemetry.context", "otel").Context()
        self._ended = _EndedSpans(tracer, self._api)

    def begin_call(self, context: Any, target: Target, started_ns: int) -> _LateSpan:
        """Begin the span of a call, below the span in ``context`` if there is one."""
        span_id = random.getrandbits(64) or 1
        parent = self.span_context(context) if context else None
        name = f"call {target.name}"
        if parent is None or not parent.is_valid:
            trace_id = random.getrandbits(128) or 1
            return _LateSpan(name, context or self._no_parent, trace_id, span_id, self._root_flags, None, started_ns)
        return _LateSpan(
            name, context, parent.trace_id, span_id, int(parent.trace_flags), parent.trace_state, started_ns
        )

    def begin_request(self, parent: _LateSpan, call: Call, started_ns: int) -> _LateSpan:
        """Begin the span of an HTTP request."""
        span_id = random.getrandbits(64) or 1
        return _LateSpan("", parent, parent.trace_id, span_id, parent.flags, parent.state, started_ns, call)

    def is_recorded(self, span: _LateSpan) -> bool:
        """Return whether the span is exported."""
        return bool(span.flags & self._sampled)

    def trace_id(self, span: _LateSpan) -> int:
        """Return the id of its trace."""
        return span.trace_id

    def headers(self, span: _LateSpan) -> dict[str, str]:
        """Return the trace context for an HTTP request below the span."""
        headers = {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.flags:02x}"}
        return {**headers, "tracestate": span.state.to_header()} if span.state else headers

    def add_wait(self, parent: _LateSpan, reason: str, started_ns: int, ended_ns: int) -> None:
        """Add the span of a wait of a call."""
        span_id = random.getrandbits(64) or 1
        wait = _LateSpan(f"wait {reason}", parent, parent.trace_id, span_id, parent.flags, parent.state, started_ns)
        self.end(wait, {}, "", ended_ns)

    def end(self, span: _LateSpan, attributes: Attributes, error_type: str, ended_ns: int) -> None:
        """Make a span and end it."""
        name, kind = span.name, self._api.SpanKind.INTERNAL
        if span.call is not None:
            name, of_target = request_span(span.call)
            attributes, kind = {**of_target, **attributes}, self._api.SpanKind.CLIENT
        if error_type:
            attributes[names.ERROR_TYPE] = error_type
        is_below = type(span.parent) is _LateSpan
        if self._ended.can_make():
            parent = self._span_ids(span.parent) if is_below else self.span_context(span.parent)
            self._ended.make(self._span_ids(span), parent, span.started_ns, ended_ns, name, kind, attributes)
            return
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        made = self._tracer.start_span(
            name,
            context=self._below(span.parent) if is_below else span.parent,
            kind=kind,
            attributes=attributes,
            start_time=span.started_ns,
        )
        if error_type:
            made.set_status(self._api.StatusCode.ERROR)
        made.end(end_time=ended_ns)

    def _span_ids(self, span: _LateSpan) -> Any:
        """Return the ids of a span, as the interface has them."""
        if span.ids is None:
            flags, api = self._api.TraceFlags(span.flags), self._api
            span.ids = api.SpanContext(
                span.trace_id, span.span_id, is_remote=False, trace_flags=flags, trace_state=span.state
            )
        return span.ids

    def _below(self, span: _LateSpan) -> Any:
        """Return the context of spans below this one."""
        if span.below is None:
            span.below = self._api.set_span_in_context(
                self._api.NonRecordingSpan(self._span_ids(span)), self._no_parent
            )
        return span.below


class _EndedSpans:
    """Makes spans that have ended, and passes them to the processors of a tracer.

    Only if these are the SDK's own, which do nothing when a span begins, and attributes have no limits that ours could
    reach. Another version of the SDK may hide what this looks at; then no span is made here.
    """

    def __init__(self, tracer: Any, api: Any) -> None:
        sdk = import_optional("opentelemetry.sdk.trace", "otel")
        export = import_optional("opentelemetry.sdk.trace.export", "otel")
        self._make = sdk.ReadableSpan
        self._quiet = frozenset({export.BatchSpanProcessor, export.SimpleSpanProcessor})
        self._processor: Any = getattr(tracer, "span_processor", None)
        self._resource = tracer.resource
        self._scope = getattr(tracer, "_instrumentation_scope", None)
        status = import_optional("opentelemetry.trace.status", "otel")
        self._unset, self._failed = status.Status(api.StatusCode.UNSET), status.Status(api.StatusCode.ERROR)
        self._known: Any = None
        self._is_quiet = False
        limits = getattr(tracer, "_span_limits", None)
        counts_spans = type(getattr(tracer, "_tracer_metrics", None)).__name__ == "TracerMetrics"
        self._is_plain = (
            self._scope is not None
            and limits is not None
            and limits.max_span_attribute_length is None
            and (limits.max_span_attributes is None or limits.max_span_attributes >= MIN_ATTRIBUTES)
            and not counts_spans
        )

    def can_make(self) -> bool:
        """Return whether spans may be made here; processors are added at any time."""
        if not self._is_plain:
            return False
        processors = getattr(self._processor, "_span_processors", None)
        if processors is not self._known:
            self._known = processors
            self._is_quiet = processors is not None and self._quiet.issuperset(map(type, processors))
        return self._is_quiet

    def make(
        self, ids: Any, parent: Any, started_ns: int, ended_ns: int, name: str, kind: Any, attributes: Attributes
    ) -> None:
        """Make a span and pass it on; one with the type of an error has failed."""
        span = self._make(
            name,
            context=ids,
            parent=parent if parent.is_valid else None,
            resource=self._resource,
            attributes={key: tuple(value) if type(value) is list else value for key, value in attributes.items()},
            kind=kind,
            status=self._failed if names.ERROR_TYPE in attributes else self._unset,
            start_time=started_ns,
            end_time=ended_ns,
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(span)


def request_span(call: Call) -> tuple[str, Attributes]:
    """Return the name of the span of a request, and the attributes of the model and server that it goes to."""
    attributes = target_attributes(call)
    return f"{attributes[names.OPERATION]} {call.target.model}", attributes


def target_attributes(call: Call) -> Attributes:
    """Return the attributes of the model and server that a request goes to, and of what it asks for."""
    target, vectors = call.target, call.embedding
    provider = target.provider.name
    if vectors is None:
        operation = names.OPERATIONS.get(provider, names.CHAT)
    else:
        operation = names.EMBEDDINGS if vectors.query is None else names.RERANK
    attributes: Attributes = {
        names.OPERATION: operation,
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
