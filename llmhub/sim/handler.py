"""Handle requests of the simulator without I/O: decide the response, the injected fault and the timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count
from typing import Final

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.batch_store import SimBatchStore
from llmhub.sim.completions import Respond, count_tokens, draw_uniform, generate_response, request_digest
from llmhub.sim.counters import RequestCounters
from llmhub.sim.faults import choose_fault, scripted_fault
from llmhub.sim.limits import LimitDecision, SimBuckets, SimLimit, full_buckets, take_from_buckets
from llmhub.sim.servers import FakeProvider
from llmhub.sim.servers.batch_endpoints import BATCH_SERVERS
from llmhub.sim.servers.embeddings import FakeEmbeddings, check_request
from llmhub.sim.servers.fake_provider import FakeTokenCounts, encode_json
from llmhub.sim.settings import Simulator
from llmhub.sim.stand_ins import SIMULATED
from llmhub.sim.text_vectors import model_dimensions, simulated_vector
from llmhub.sim.types import (
    SimError,
    SimErrorKind,
    SimHttpRequest,
    SimMessage,
    SimRequest,
    SimResponse,
    SimRoute,
)

decode_json: Final = msgspec.json.Decoder().decode
ROW_VERSION: Final[Mapping[str, str]] = {"anthropic": "2023-06-01"}
"""Version of the API by which rows of batches are answered."""
MODEL_OF_BATCH: Final = frozenset({"mistral"})
"""Providers whose batches name the model instead of their rows."""
EMBED_ROWS: Final = ("/embeddings", ":asyncBatchEmbedContent")
"""Ends of the paths of rows that are texts to be embedded."""
UNKNOWN_MODEL_MARKER: Final = "does-not-exist"
"""Models with this in their name do not exist; all others do."""
FAULT_ERRORS: Final[Mapping[str, SimErrorKind]] = {
    "429": "rate_limited",
    "500": "server",
    "529": "overloaded",
    "quota": "quota",
}
"""Faults that are error replies."""
UNSTREAMED_FAULTS: Final = {"cut": "truncate", "stream_error": "500"}
"""Faults of streams, and their equivalents without streaming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePlan:
    """A response to send.

    Parameters
    ----------
    reply
        Status, headers and, unless it streams, the body.
    events
        Events of a stream.
    duration_s
        Seconds until the body is sent.
    due_s
        Seconds from the start until each event is sent; empty without delays.
    fault
        Fault of the transport: ``reset``, ``truncate``, ``drip``, ``hang``, or empty.
    """

    reply: HttpReply
    events: tuple[bytes, ...] = ()
    duration_s: float = 0.0
    due_s: tuple[float, ...] = ()
    fault: str = ""


PROVIDERS_BY_PREFIX: Final = tuple(
    (provider.prefix, provider)
    for provider in sorted(SIMULATED.values(), key=lambda provider: (not provider.path_suffix, -len(provider.prefix)))
)
"""Providers by prefix; those with a path suffix or a longer prefix come first, since they share one with others."""
TRANSPORT_FAULTS: Final = frozenset({"reset", "truncate", "drip", "hang"})
"""Faults of the transport, which do not change the content."""
MAX_SAMPLES_PER_REQUEST: Final = 1024
"""Upper bound of ``n``: attempts use disjoint ranges of sample numbers of this size."""


def find_provider(path: str) -> FakeProvider | None:
    """Return the provider of a path, or ``None``.

    Examples
    --------
    >>> find_provider("/openai/v1/chat/completions").name, find_provider("/openai/v1/responses").name
    ('openai', 'openai-responses')
    """
    for prefix, provider in PROVIDERS_BY_PREFIX:
        if path.startswith(prefix) and path[len(prefix) :][:1] == "/" and path.endswith(provider.path_suffix):
            return provider
    return None


class SimRequestHandler:
    """Request handler with the state of a simulator: counters, rate limits and current faults."""

    def __init__(self, settings: Simulator) -> None:
        self.settings = settings
        self.faults = settings.faults
        self.counters = RequestCounters()
        self.batches = SimBatchStore(settings.batches, self._answer_row, settings.seed)
        self._buckets: dict[str, SimBuckets] = {}
        self._serial = count()

    def plan_response(  # noqa: PLR0911 - one reply each
        self, provider: FakeProvider, http_request: SimHttpRequest, now: float, clock: float
    ) -> ResponsePlan:
        """Return the response to a request.

        Parameters
        ----------
        now
            Epoch seconds, for timestamps.
        clock
            Seconds of a monotonic clock, for rate limits.
        """
        id_digits = self._request_digits()
        batch_plan = self._plan_batch_reply(provider, http_request, id_digits, now)
        if batch_plan is not None:
            return batch_plan
        embeddings, route = provider.embeddings, None
        for service in (provider.reranking, provider.embeddings):
            if route is None and service is not None:
                embeddings, route = service, service.match_route(http_request)
        counts = provider.token_counts
        route = route or (counts.match_route(http_request) if counts is not None else None)
        route = route or provider.match_route(http_request)
        if route is None:
            return self._error_plan(
                provider, SimError(kind="not_found", param=f"{http_request.method} {http_request.subpath}"), id_digits
            )
        error = provider.check_credentials(http_request, self.settings.api_key) if self.settings.api_key else None
        if error is not None:
            return self._error_plan(provider, error, id_digits)
        if route.action == "models":
            return self._body_plan(provider, encode_json(provider.encode_model_list(provider.models)), id_digits)
        if embeddings is not None and route.action == "embed":
            return self._plan_embeddings(provider, embeddings, http_request, route, id_digits, now, clock)
        if counts is not None and route.action == "count":
            return self._plan_count(provider, counts, http_request, route, id_digits)
        request = _parse_body(provider, http_request.body, route)
        if isinstance(request, SimError):
            return self._error_plan(provider, request, id_digits)
        return self._plan_answer(provider, http_request, request, id_digits, now, clock)

    def plan_error(self, provider: FakeProvider, error: SimError) -> ResponsePlan:
        """Return an error reply for a request that cannot be parsed."""
        return self._error_plan(provider, error, self._request_digits())

    def _plan_batch_reply(
        self, provider: FakeProvider, http_request: SimHttpRequest, id_digits: str, now: float
    ) -> ResponsePlan | None:
        """Return the reply of a batch endpoint; ``None`` for other paths and without valid credentials."""
        server, key = BATCH_SERVERS.get(provider.name), self.settings.api_key
        if server is None or (key and provider.check_credentials(http_request, key) is not None):
            return None
        reply = server(self.batches, provider.name, http_request, now)
        if reply is None:
            return None
        headers = {**reply.headers, **_request_id_header(provider, id_digits)}
        return ResponsePlan(reply=replace(reply, headers=headers))

    def _answer_row(
        self, provider_name: str, path: str, model: str, payload: Mapping[str, object], now: float
    ) -> HttpReply:
        """Answer a row of a batch as the request would be answered if it were sent alone, without rate limits."""
        name = f"{provider_name}-responses" if path.endswith("/responses") else provider_name
        provider = SIMULATED.get(name, SIMULATED[provider_name])
        route = SimRoute(model=model.removeprefix("models/"), version=ROW_VERSION.get(provider_name, ""))
        body = {**payload, "model": model} if provider_name in MODEL_OF_BATCH else payload
        id_digits = self._request_digits()
        if provider.embeddings is not None and path.endswith(EMBED_ROWS):
            http_request = SimHttpRequest("POST", path, path, "", {}, encode_json(body))
            own_route = replace(route, action="embed", version="embedContent")
            return self._plan_embeddings(
                provider, provider.embeddings, http_request, own_route, id_digits, now, None
            ).reply
        request = _parse_body(provider, encode_json(body), route)
        if isinstance(request, SimError):
            return provider.encode_error(request, provider.format_request_id(id_digits))
        digest = request_digest(request)
        attempt = self.counters.count_attempt(provider.name, request.model, digest)
        fault = self._choose_fault(SimHttpRequest("POST", path, path, "", {}), request, digest, attempt)
        if fault in FAULT_ERRORS:
            self.counters.by_fault[fault] += 1
            error = self._fault_error(fault, request)
            return provider.encode_error(error, provider.format_request_id(id_digits))
        response = self._generate(request, digest, now, self._responder(provider, request, attempt))
        if isinstance(response, SimError):
            return provider.encode_error(response, provider.format_request_id(id_digits))
        self.counters.count_tokens(response.input_tokens, response.output_tokens)
        return HttpReply(200, {"content-type": "application/json"}, encode_json(provider.encode_reply(response)))

    def _plan_answer(
        self,
        provider: FakeProvider,
        http_request: SimHttpRequest,
        request: SimRequest,
        id_digits: str,
        now: float,
        clock: float,
    ) -> ResponsePlan:
        """Return the completion, or the fault or the rate limit error that precedes it."""
        digest = request_digest(request)
        attempt = self.counters.count_attempt(provider.name, request.model, digest)
        fault = self._choose_fault(http_request, request, digest, attempt)
        if fault:
            self.counters.by_fault[fault] += 1
        if not request.stream:
            fault = UNSTREAMED_FAULTS.get(fault, fault)
        if fault in FAULT_ERRORS:
            return self._error_plan(provider, self._fault_error(fault, request), id_digits)
        response = self._generate(request, digest, now, self._responder(provider, request, attempt))
        if isinstance(response, SimError):
            return self._error_plan(provider, response, id_digits)
        limit = self._limit_for(provider, request.model)
        headers: Mapping[str, str] = {}
        if limit is not None:
            decision, cost = self._apply_limit(provider, limit, response, clock)
            headers = provider.limit_headers(decision.status, now)
            if not decision.granted:
                return self._error_plan(
                    provider, _limit_error(limit, decision, request.model, cost), id_digits, headers
                )
        self.counters.count_tokens(response.input_tokens, response.output_tokens)
        if not request.stream:
            body = encode_json(provider.encode_reply(response))
            broken = body[: len(body) * 2 // 3] if fault == "malformed" else body
            return self._body_plan(provider, broken, id_digits, headers, response.duration_s, fault)
        return self._stream_plan(provider, response, id_digits, headers, fault)

    def _plan_count(
        self,
        provider: FakeProvider,
        counts: FakeTokenCounts,
        http_request: SimHttpRequest,
        route: SimRoute,
        id_digits: str,
    ) -> ResponsePlan:
        """Return the number of input tokens of a request, which costs nothing and counts towards no limit."""
        payload = _decode_object(http_request.body)
        parsed = payload if isinstance(payload, SimError) else provider.parse_request(counts.unwrap(payload), route)
        if not isinstance(parsed, SimError):
            parsed = _check_model(parsed.model) or parsed
        if isinstance(parsed, SimError):
            return self._error_plan(provider, parsed, id_digits)
        return self._body_plan(provider, encode_json({counts.field: count_tokens(parsed.text)}), id_digits)

    def _plan_embeddings(
        self,
        provider: FakeProvider,
        embeddings: FakeEmbeddings,
        http_request: SimHttpRequest,
        route: SimRoute,
        id_digits: str,
        now: float,
        clock: float | None,
    ) -> ResponsePlan:
        """Return vectors, or the fault or the error that precedes them; without a clock, there are no rate limits."""
        payload = _decode_object(http_request.body)
        parsed = embeddings.parse(payload, route) if not isinstance(payload, SimError) else payload
        error = (
            parsed if isinstance(parsed, SimError) else _check_model(parsed.model) or check_request(embeddings, parsed)
        )
        if isinstance(parsed, SimError) or error is not None:
            return self._error_plan(provider, error or SimError(kind="invalid"), id_digits)
        request = SimRequest(model=parsed.model, messages=(SimMessage("user", "\n".join(parsed.texts)),))
        digest = request_digest(request)
        attempt = self.counters.count_attempt(provider.name, request.model, digest)
        fault = UNSTREAMED_FAULTS.get(name := self._choose_fault(http_request, request, digest, attempt), name)
        if fault:
            self.counters.by_fault[fault] += 1
        if fault in FAULT_ERRORS:
            return self._error_plan(provider, self._fault_error(fault, request), id_digits)
        settings = self.settings
        median_s = settings.latency.median_s
        duration_s = settings.latency.duration_s(draw_uniform(digest, settings.seed, b"latency")) if median_s else 0.0
        response = SimResponse(
            request=request, choices=(), input_tokens=parsed.tokens, output_tokens=0, duration_s=duration_s
        )
        limit, headers = self._limit_for(provider, request.model), embeddings.headers(parsed)
        if limit is not None and clock is not None:
            decision, cost = self._apply_limit(provider, limit, response, clock)
            headers = {**headers, **provider.limit_headers(decision.status, now)}
            if not decision.granted:
                return self._error_plan(
                    provider, _limit_error(limit, decision, request.model, cost), id_digits, headers
                )
        self.counters.count_tokens(parsed.tokens, 0)
        dimensions = parsed.dimensions or model_dimensions(parsed.model)
        vectors = [simulated_vector(text, parsed.model, dimensions, settings.seed) for text in parsed.texts]
        body = encode_json(embeddings.encode(parsed, vectors))
        broken = body[: len(body) * 2 // 3] if fault == "malformed" else body
        return self._body_plan(provider, broken, id_digits, headers, duration_s, fault)

    def _responder(self, provider: FakeProvider, request: SimRequest, attempt: int) -> Respond | None:
        """Return the user's own model, or graded answers if the prompt has a graded question."""
        settings = self.settings
        graded, name, times = (
            settings.graded,
            f"{provider.name}/{request.model}",
            count(attempt * MAX_SAMPLES_PER_REQUEST),
        )
        if graded is None or graded.text(name, request.prompt, settings.seed, 0) is None:
            return settings.respond
        return lambda prompt: graded.text(name, prompt, settings.seed, next(times)) or ""

    def _generate(
        self, request: SimRequest, digest: bytes, now: float, respond: Respond | None
    ) -> SimResponse | SimError:
        """Generate the response; an exception of the user's own model is an internal error of the provider."""
        settings = self.settings
        try:
            return generate_response(
                request,
                digest,
                seed=settings.seed,
                now=now,
                latency=settings.latency,
                respond=respond,
            )
        except Exception as exception:  # noqa: BLE001 - a user's function may raise anything
            return SimError(kind="server", message=f"respond raised {type(exception).__name__}: {exception}")

    def _choose_fault(self, http_request: SimHttpRequest, request: SimRequest, digest: bytes, attempt: int) -> str:
        """Return the scripted or random fault of this attempt, or an empty string."""
        scripted = scripted_fault(http_request.headers.get("x-sim-fault", ""), request.text, attempt)
        if scripted or not self.faults.rates():
            return scripted
        return choose_fault(self.faults, draw_uniform(digest, self.settings.seed, b"fault", attempt))

    def _fault_error(self, fault: str, request: SimRequest) -> SimError:
        """Return the error of a fault."""
        kind = FAULT_ERRORS[fault]
        limit = self.settings.limit or SimLimit(rpm=60)
        return SimError(
            kind=kind,
            retry_after_s=self.faults.retry_after_s if kind == "rate_limited" else None,
            model=request.model,
            limit=int(limit.rpm or 0),
        )

    def _limit_for(self, provider: FakeProvider, model: str) -> SimLimit | None:
        limits = self.settings.limits
        return limits.get(f"{provider.name}/{model}") or limits.get(provider.name) or self.settings.limit

    def _apply_limit(
        self, provider: FakeProvider, limit: SimLimit, response: SimResponse, clock: float
    ) -> tuple[LimitDecision, int]:
        """Apply a rate limit; a request costs its input and ``max_tokens``, or its actual output without one."""
        request = response.request
        key = f"{provider.name}/{request.model}"
        max_tokens = request.max_tokens
        cost = response.input_tokens + (response.output_tokens if max_tokens is None else max_tokens * request.n)
        decision = take_from_buckets(limit, self._buckets.get(key) or full_buckets(limit, clock), clock, cost)
        self._buckets[key] = decision.buckets
        return decision, cost

    def _apply_stream_fault(
        self, provider: FakeProvider, events: tuple[bytes, ...], fault: str, id_digits: str
    ) -> tuple[bytes, ...]:
        """Return the events of a stream with a fault of its content."""
        half = events[: max(1, len(events) // 2)]
        match fault:
            case "cut":
                return half
            case "malformed":
                return (*half, provider.malformed_event, *events[len(half) :])
            case "stream_error":
                return (
                    *half,
                    provider.encode_stream_error(SimError(kind="overloaded"), provider.format_request_id(id_digits)),
                )
            case _:
                return events

    def _error_plan(
        self, provider: FakeProvider, error: SimError, id_digits: str, limit_headers: Mapping[str, str] | None = None
    ) -> ResponsePlan:
        reply = provider.encode_error(error, provider.format_request_id(id_digits))
        return ResponsePlan(
            reply=replace(
                reply, headers={**reply.headers, **(limit_headers or {}), **_request_id_header(provider, id_digits)}
            )
        )

    def _body_plan(
        self,
        provider: FakeProvider,
        body: bytes,
        id_digits: str,
        headers: Mapping[str, str] | None = None,
        duration_s: float = 0.0,
        fault: str = "",
    ) -> ResponsePlan:
        request_id = _request_id_header(provider, id_digits)
        return ResponsePlan(
            reply=HttpReply(200, {"content-type": "application/json", **(headers or {}), **request_id}, body),
            duration_s=duration_s,
            fault=fault if fault in TRANSPORT_FAULTS else "",
        )

    def _stream_plan(
        self, provider: FakeProvider, response: SimResponse, id_digits: str, headers: Mapping[str, str], fault: str
    ) -> ResponsePlan:
        events = self._apply_stream_fault(provider, tuple(provider.encode_events(response)), fault, id_digits)
        content_type = provider.stream_content_type
        if response.request.as_array:
            content_type = "application/json; charset=UTF-8"
        event_due_s = self.settings.latency.event_due_s
        delayed = len(events) if response.duration_s else 0
        return ResponsePlan(
            reply=HttpReply(200, {"content-type": content_type, **headers, **_request_id_header(provider, id_digits)}),
            events=events,
            due_s=tuple(event_due_s(response.duration_s, index, len(events)) for index in range(delayed)),
            fault=fault if fault in TRANSPORT_FAULTS else "",
        )

    def _request_digits(self) -> str:
        """Return 32 hexadecimal digits, unique to this request."""
        return blake2b(b"%d/%d" % (self.settings.seed, next(self._serial)), digest_size=16).hexdigest()


def _limit_error(limit: SimLimit, decision: LimitDecision, model: str, cost: int) -> SimError:
    """Return the error of a request that exceeds a limit."""
    requests = decision.scope == "requests"
    return SimError(
        kind="rate_limited",
        scope=decision.scope,
        retry_after_s=decision.retry_after_s,
        model=model,
        limit=int((limit.rpm if requests else limit.tpm) or 0),
        requested=1 if requests else cost,
    )


def _parse_body(provider: FakeProvider, body: bytes, route: SimRoute) -> SimRequest | SimError:
    """Parse a body: a JSON object, and a model that exists."""
    payload = _decode_object(body)
    if isinstance(payload, SimError):
        return payload
    request = provider.parse_request(payload, route)
    error = _check_model(request.model) if isinstance(request, SimRequest) else None
    return error or request


def _decode_object(body: bytes) -> Payload | SimError:
    """Decode a body that must be a JSON object."""
    try:
        payload: object = decode_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return SimError(kind="invalid", message="We could not parse the JSON body of your request.")
    if not isinstance(payload, dict):
        return SimError(kind="invalid", message="The JSON body of your request is not an object.")
    return payload


def _check_model(model: str) -> SimError | None:
    return SimError(kind="not_found", model=model) if UNKNOWN_MODEL_MARKER in model else None


def _request_id_header(provider: FakeProvider, id_digits: str) -> Mapping[str, str]:
    return {provider.request_id_header: provider.format_request_id(id_digits)} if provider.request_id_header else {}
