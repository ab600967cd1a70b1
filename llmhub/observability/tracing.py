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
from itertools import count
from operator import attrgetter
from typing import Any, Final, cast
from urllib.parse import urlsplit

from returns.pipeline import is_successful

from llmhub.core.budget import nano_to_usd
from llmhub.core.embedding import EmbeddingResponse
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
from llmhub.engine.call import Answer, Call
from llmhub.engine.observer import (
    NS_PER_S,
    OBSERVED_CALL,
    OUTGOING_HEADERS,
    CallFinished,
    CallStarted,
    Event,
    RequestFinished,
    RequestStarted,
    Skips,
    Waited,
)
from llmhub.observability import semantic_conventions as names
from llmhub.observability.convention_metrics import ConventionMetrics
from llmhub.observability.dispatcher import Dispatcher
from llmhub.observability.instruments import outcome_labels
from llmhub.observability.semantic_conventions import Conventions
from llmhub.observability.spans import (
    PORTS,
    Attributes,
    LateSpans,
    Spans,
    has_late_spans,
    propagator,
)
from llmhub.observability.subscriptions import subscribe
from llmhub.security.redaction import map_json_text, redact_content

__all__ = ["configure", "server_span"]

SCOPE: Final = "llmhub"
"""Name of the instrumentation scope."""
DEFAULT_RATIO: Final = 1.0


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
        Whether to record the metrics of the conventions too, of all calls. Where few calls are traced, this costs more
        than the traces.
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
        recorder = ConventionMetrics(meter_provider, SCOPE, version)
    tracing = _Tracing(tracer, version, recorder, ratio=ratio, with_content=content)
    observe = tracing.observe
    sampled = ratio < 1
    unsubscribe = subscribe(
        observe,
        # Metrics are of all calls, spans of those that are sampled.
        on_answer=tracing.record_answer if sampled and recorder is not None else None,
        sampler=tracing.sampler if sampled else None,
    )

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
    # What a thread records belongs to no span, so that there are no exemplars to look for.
    exemplars = sdk_metrics.AlwaysOffExemplarFilter()
    return provider, sdk_metrics.MeterProvider([reader], resource=resource, exemplar_filter=exemplars)


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
    context = propagator().extract(headers)
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


_IS_SAMPLED: Final[ContextVar[bool]] = ContextVar("llmhub_is_sampled", default=False)
"""Whether the call that the current task is about to make has been chosen."""


def _never() -> bool:
    return False


def _nothing() -> None:
    return


def _unsampled_headers() -> dict[str, str]:
    ids = f"{random.getrandbits(192):048x}"
    return {"traceparent": f"00-{ids[:32]}-{ids[32:]}-00"}


class _Tracing:
    """Begins spans on the event loop, and completes them in the thread of its dispatcher."""

    def __init__(
        self, tracer: Any, version: Conventions, recorder: ConventionMetrics | None, *, ratio: float, with_content: bool
    ) -> None:
        self._version = version
        self._recorder = recorder
        self._ratio = ratio
        self._with_content = with_content
        self._current_context = _current_context()
        self._spans: Spans = LateSpans(tracer) if has_late_spans(tracer) else Spans(tracer)
        self._calls: dict[int, Any] = {}
        self._requests: dict[tuple[int, int], Any] = {}
        self.dispatcher = Dispatcher(self._complete, recorder.pass_on if recorder is not None else _nothing)

    # On the event loop

    def sampler(self) -> Skips:
        """Return a function that chooses among the calls of the current task.

        The requests of a call that is not traced tell the provider's side so.
        """
        if self._has_parent():
            return _never
        draw, ratio, numbers = random.random, self._ratio, count(1)
        trace_prefix, span_id = f"00-{random.getrandbits(96):024x}", f"{random.getrandbits(64) or 1:016x}"
        headers: dict[str, str] = {}

        def skips() -> bool:
            if draw() < ratio:
                _IS_SAMPLED.set(True)
                return False
            headers["traceparent"] = f"{trace_prefix}{next(numbers):08x}-{span_id}-00"
            return True

        OUTGOING_HEADERS.set(headers)
        return skips

    def observe(self, event: Event) -> None:
        """Begin a span, or queue the event that completes it."""
        # Compared by type: a pattern would look at each class in turn.
        kind = type(event)
        if kind is CallStarted:
            self._begin_call(cast("CallStarted", event))
        elif kind is RequestStarted:
            self._begin_request(cast("RequestStarted", event))
        elif kind is RequestFinished:
            request = cast("RequestFinished", event)
            if self._is_recording() or (request.call_id, request.number) in self._requests:
                self.dispatcher(request)
        elif kind is CallFinished or kind is Waited:
            call_id = cast("CallFinished | Waited", event).call_id
            if self._is_recorded(call_id):
                self.dispatcher(event)
            elif kind is CallFinished:
                self._calls.pop(call_id, None)

    def record_answer(self, call: Call, answer: Answer, _queue_s: float) -> None:
        """Queue a call that is not traced, for the metrics of its only request."""
        if not self._is_recording():
            return
        self.dispatcher(RequestFinished(0, 1, call, answer, 0, int((answer.latency_s or 0.0) * NS_PER_S)))

    def _is_recording(self) -> bool:
        return self._recorder is not None and self._recorder.is_ready()

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
            span = self._spans.begin_request(parent, event.call, event.started_ns)
            self._requests[event.call_id, event.number] = span
        headers = self._spans.headers(span)
        if headers:
            OUTGOING_HEADERS.set(headers)

    # In the thread

    def _complete(self, event: Event, cost_nano_usd: int | None) -> None:
        match event:
            case RequestFinished():
                if self._recorder is not None and self._recorder.is_ready():
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
                if self._with_content:
                    # Backends show what a trace was asked from its first span, and calls that the cache answers have
                    # no other.
                    attributes |= input_attributes(event.call.request)
                    if event.answer is not None and is_successful(event.answer.outcome):
                        attributes |= output_attributes(event.answer.outcome.unwrap())
                self._spans.end(span, attributes, outcome_labels(event.answer)[1], event.ended_ns)
            case _:
                pass

    def _complete_request(self, span: Any, event: RequestFinished) -> None:
        answer, call = event.answer, event.call
        attributes = request_attributes(call)
        if answer is not None and is_successful(answer.outcome):
            response = answer.outcome.unwrap()
            attributes |= response_attributes(response, self._version)
            if call.embedding is None:
                attributes[names.FINISH_REASONS] = [response.finish_reason]
            if answer.ttft_s is not None:
                attributes[names.FIRST_CHUNK] = answer.ttft_s
            if self._with_content:
                attributes |= output_attributes(response)
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


# Attributes. Pure.

_request_values: Final = attrgetter(*names.REQUEST_FIELDS)
_usage_values: Final = attrgetter(*names.USAGE_FIELDS)


def request_attributes(call: Call) -> Attributes:
    """Return the attributes of a request's parameters."""
    request, vectors = call.request, call.embedding
    if vectors is not None:
        return {names.DIMENSIONS: vectors.dimensions} if vectors.dimensions else {}
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
    attributes: Attributes = {}
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
    """Return the content of a response, redacted; vectors are none."""
    if isinstance(response, EmbeddingResponse):
        return {}
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
