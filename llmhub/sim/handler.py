"""Where a request is decided: what a simulator would send back, and how, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count
from typing import Final

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.sim.completions import Respond, draw_uniform, generate_response, request_digest
from llmhub.sim.counters import RequestCounters
from llmhub.sim.faults import choose_fault, scripted_fault
from llmhub.sim.limits import LimitDecision, SimBuckets, SimLimit, full_buckets, take_from_buckets
from llmhub.sim.servers import FAKE_PROVIDERS, FakeProvider
from llmhub.sim.servers.fake_provider import encode_json
from llmhub.sim.settings import Simulator
from llmhub.sim.types import SimError, SimErrorKind, SimHttpRequest, SimRequest, SimResponse, SimRoute

decode_json: Final = msgspec.json.Decoder().decode
UNKNOWN_MODEL_MARKER: Final = "does-not-exist"
"""A model with this in its name is refused as unknown; all others answer."""
FAULT_ERRORS: Final[Mapping[str, SimErrorKind]] = {
    "429": "rate_limited",
    "500": "server",
    "529": "overloaded",
    "quota": "quota",
}
"""Faults that are plain refusals."""
UNSTREAMED_FAULTS: Final = {"cut": "truncate", "stream_error": "500"}
"""What a stream's fault becomes where nothing streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsePlan:
    """What to send and how.

    Parameters
    ----------
    reply
        Status, headers and, unless it streams, the body.
    events
        The pieces of a stream.
    duration_s
        Time until the body is sent.
    due_s
        When each piece of a stream is due, from the beginning; empty where time plays no part.
    fault
        What the sending itself does wrong: ``reset``, ``truncate``, ``drip``, ``hang``, or nothing.
    """

    reply: HttpReply
    events: tuple[bytes, ...] = ()
    duration_s: float = 0.0
    due_s: tuple[float, ...] = ()
    fault: str = ""


PROVIDERS_BY_PREFIX: Final = tuple(
    (peer.prefix, peer) for peer in sorted(FAKE_PROVIDERS.values(), key=lambda peer: not peer.path_suffix)
)
"""Peers by their paths, those first that share theirs with others and have their own endings."""
TRANSPORT_FAULTS: Final = frozenset({"reset", "truncate", "drip", "hang"})
"""Faults that are in the sending and leave the answer as it is."""
MAX_SAMPLES_PER_REQUEST: Final = 1024
"""Answers of one request at most: so many draws are kept apart."""


def find_provider(path: str) -> FakeProvider | None:
    """Find the provider an address belongs to.

    Examples
    --------
    >>> find_provider("/openai/v1/chat/completions").name, find_provider("/openai/v1/responses").name
    ('openai', 'openai-responses')
    """
    for prefix, peer in PROVIDERS_BY_PREFIX:
        if path.startswith(prefix) and path[len(prefix) :][:1] == "/" and path.endswith(peer.path_suffix):
            return peer
    return None


class SimRequestHandler:
    """One simulator's memory: its counts, its buckets and the faults that hold now."""

    def __init__(self, settings: Simulator) -> None:
        self.settings = settings
        self.faults = settings.faults
        self.counters = RequestCounters()
        self._buckets: dict[str, SimBuckets] = {}
        self._serial = count()

    def plan_response(self, peer: FakeProvider, incoming: SimHttpRequest, now: float, clock: float) -> ResponsePlan:
        """Decide what to send.

        Parameters
        ----------
        now
            Epoch seconds, for what is written.
        clock
            Seconds of a clock that does not go back, for the limits.
        """
        digits = self._request_digits()
        call = peer.match_route(incoming)
        if call is None:
            return self._error_plan(
                peer, SimError(kind="not_found", param=f"{incoming.method} {incoming.subpath}"), digits
            )
        problem = peer.check_credentials(incoming, self.settings.api_key) if self.settings.api_key else None
        if problem is not None:
            return self._error_plan(peer, problem, digits)
        if call.action == "models":
            return self._body_plan(peer, encode_json(peer.encode_model_list(peer.models)), digits)
        question = _parse_body(peer, incoming.body, call)
        if isinstance(question, SimError):
            return self._error_plan(peer, question, digits)
        return self._plan_answer(peer, incoming, question, digits, now, clock)

    def plan_error(self, peer: FakeProvider, problem: SimError) -> ResponsePlan:
        """Refuse what cannot even be looked at."""
        return self._error_plan(peer, problem, self._request_digits())

    def _plan_answer(
        self, peer: FakeProvider, incoming: SimHttpRequest, question: SimRequest, digits: str, now: float, clock: float
    ) -> ResponsePlan:
        """Answer a question, unless a fault or a limit comes before."""
        settings = self.settings
        identity = request_digest(question)
        attempt = self.counters.count_attempt(peer.name, question.model, identity)
        fault = self._choose_fault(incoming, question, identity, attempt)
        if fault:
            self.counters.by_fault[fault] += 1
        if not question.stream:
            fault = UNSTREAMED_FAULTS.get(fault, fault)
        if fault in FAULT_ERRORS:
            return self._error_plan(peer, self._fault_error(fault, question), digits)
        said = self._generate(question, identity, now, self._responder(peer, question, attempt))
        if isinstance(said, SimError):
            return self._error_plan(peer, said, digits)
        limit = self._limit_for(peer, question.model)
        headers: Mapping[str, str] = {}
        if limit is not None:
            taken, cost = self._apply_limit(peer, limit, said, clock)
            headers = peer.limit_headers(taken.status, now)
            if not taken.granted:
                return self._error_plan(peer, _limit_error(limit, taken, question.model, cost), digits, headers)
        self.counters.count_tokens(said.input_tokens, said.output_tokens)
        if not question.stream:
            body = encode_json(peer.encode_reply(said))
            broken = body[: len(body) * 2 // 3] if fault == "malformed" else body
            return self._body_plan(peer, broken, digits, headers, said.duration_s, fault)
        events = self._apply_stream_fault(peer, tuple(peer.encode_events(said)), fault, digits)
        kind = "application/json; charset=UTF-8" if question.as_array else peer.stream_content_type
        due_s = settings.latency.event_due_s
        return ResponsePlan(
            reply=HttpReply(200, {"content-type": kind, **headers, **_request_id_header(peer, digits)}),
            events=events,
            due_s=tuple(due_s(said.duration_s, at, len(events)) for at in range(len(events) * bool(said.duration_s))),
            fault=fault if fault in TRANSPORT_FAULTS else "",
        )

    def _responder(self, peer: FakeProvider, question: SimRequest, attempt: int) -> Respond | None:
        """Give what answers this question: the user's own model, or right and wrong answers if it is one of these."""
        settings = self.settings
        graded, name, times = settings.graded, f"{peer.name}/{question.model}", count(attempt * MAX_SAMPLES_PER_REQUEST)
        if graded is None or graded.text(name, question.prompt, settings.seed, 0) is None:
            return settings.respond
        return lambda prompt: graded.text(name, prompt, settings.seed, next(times)) or ""

    def _generate(
        self, question: SimRequest, identity: bytes, now: float, respond: Respond | None
    ) -> SimResponse | SimError:
        """Answer; a user's own model that raises is the provider's internal error."""
        settings = self.settings
        try:
            return generate_response(
                question,
                identity,
                seed=settings.seed,
                now=now,
                latency=settings.latency,
                respond=respond,
            )
        except Exception as wrong:  # noqa: BLE001 - whatever a user's function raises
            return SimError(kind="server", message=f"respond raised {type(wrong).__name__}: {wrong}")

    def _choose_fault(self, incoming: SimHttpRequest, question: SimRequest, identity: bytes, attempt: int) -> str:
        """Name the fault that this attempt meets: one that is scripted, or one that is drawn."""
        scripted = scripted_fault(incoming.headers.get("x-sim-fault", ""), question.text, attempt)
        if scripted or not self.faults.rates():
            return scripted
        return choose_fault(self.faults, draw_uniform(identity, self.settings.seed, b"fault", attempt))

    def _fault_error(self, fault: str, question: SimRequest) -> SimError:
        """Make the refusal that a fault asks for."""
        kind = FAULT_ERRORS[fault]
        limit = self.settings.limit or SimLimit(rpm=60)
        return SimError(
            kind=kind,
            retry_after_s=self.faults.retry_after_s if kind == "rate_limited" else None,
            model=question.model,
            limit=int(limit.rpm or 0),
        )

    def _limit_for(self, peer: FakeProvider, model: str) -> SimLimit | None:
        limits = self.settings.limits
        return limits.get(f"{peer.name}/{model}") or limits.get(peer.name) or self.settings.limit

    def _apply_limit(
        self, peer: FakeProvider, limit: SimLimit, said: SimResponse, clock: float
    ) -> tuple[LimitDecision, int]:
        """Hold an answer against a limit: it costs its input and the most output asked for, or what it will be."""
        question = said.request
        key = f"{peer.name}/{question.model}"
        most = question.max_tokens
        cost = said.input_tokens + (said.output_tokens if most is None else most * question.n)
        taken = take_from_buckets(limit, self._buckets.get(key) or full_buckets(limit, clock), clock, cost)
        self._buckets[key] = taken.buckets
        return taken, cost

    def _apply_stream_fault(
        self, peer: FakeProvider, events: tuple[bytes, ...], fault: str, digits: str
    ) -> tuple[bytes, ...]:
        """Do to a stream what a fault does to its content."""
        half = events[: max(1, len(events) // 2)]
        match fault:
            case "cut":
                return half
            case "malformed":
                return (*half, peer.malformed_event, *events[len(half) :])
            case "stream_error":
                return (*half, peer.encode_stream_error(SimError(kind="overloaded"), peer.format_request_id(digits)))
            case _:
                return events

    def _error_plan(
        self, peer: FakeProvider, problem: SimError, digits: str, told: Mapping[str, str] | None = None
    ) -> ResponsePlan:
        reply = peer.encode_error(problem, peer.format_request_id(digits))
        return ResponsePlan(
            reply=replace(reply, headers={**reply.headers, **(told or {}), **_request_id_header(peer, digits)})
        )

    def _body_plan(
        self,
        peer: FakeProvider,
        body: bytes,
        digits: str,
        headers: Mapping[str, str] | None = None,
        duration_s: float = 0.0,
        fault: str = "",
    ) -> ResponsePlan:
        told = {"content-type": "application/json", **(headers or {}), **_request_id_header(peer, digits)}
        return ResponsePlan(
            reply=HttpReply(200, told, body), duration_s=duration_s, fault=fault if fault in TRANSPORT_FAULTS else ""
        )

    def _request_digits(self) -> str:
        """Give this request's number as 32 hexadecimal digits that look like none."""
        return blake2b(b"%d/%d" % (self.settings.seed, next(self._serial)), digest_size=16).hexdigest()


def _limit_error(limit: SimLimit, taken: LimitDecision, model: str, cost: int) -> SimError:
    """Make the refusal of a request that a limit does not let pass."""
    requests = taken.scope == "requests"
    return SimError(
        kind="rate_limited",
        scope=taken.scope,
        retry_after_s=taken.retry_after_s,
        model=model,
        limit=int((limit.rpm if requests else limit.tpm) or 0),
        requested=1 if requests else cost,
    )


def _parse_body(peer: FakeProvider, body: bytes, call: SimRoute) -> SimRequest | SimError:
    """Read a body, which has to be a JSON object that asks a model there is."""
    try:
        payload: object = decode_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return SimError(kind="invalid", message="We could not parse the JSON body of your request.")
    if not isinstance(payload, dict):
        return SimError(kind="invalid", message="The JSON body of your request is not an object.")
    question = peer.parse_request(payload, call)
    if isinstance(question, SimRequest) and UNKNOWN_MODEL_MARKER in question.model:
        return SimError(kind="not_found", model=question.model)
    return question


def _request_id_header(peer: FakeProvider, digits: str) -> Mapping[str, str]:
    return {peer.request_id_header: peer.format_request_id(digits)} if peer.request_id_header else {}
