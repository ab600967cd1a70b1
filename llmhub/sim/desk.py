"""Where a request is decided: what a simulator would send back, and how, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count
from typing import Final

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.sim.answers import Respond, answer, draw, identify
from llmhub.sim.exchange import Answer, Call, Incoming, Kind, Problem, Question
from llmhub.sim.faults import choose, script
from llmhub.sim.limits import Buckets, Limit, Taken, fill, take
from llmhub.sim.peers import PEERS, Peer
from llmhub.sim.peers.record import encode
from llmhub.sim.settings import Simulator
from llmhub.sim.tally import Tally

decode: Final = msgspec.json.Decoder().decode
NO_SUCH: Final = "does-not-exist"
"""A model with this in its name is refused as unknown; all others answer."""
REFUSALS: Final[Mapping[str, Kind]] = {"429": "rate_limited", "500": "server", "529": "overloaded", "quota": "quota"}
"""Faults that are plain refusals."""
UNSTREAMED: Final = {"cut": "truncate", "stream_error": "500"}
"""What a stream's fault becomes where nothing streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
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


PREFIXES: Final = tuple((peer.prefix, peer) for peer in sorted(PEERS.values(), key=lambda peer: not peer.ending))
"""Peers by their paths, those first that share theirs with others and have their own endings."""
SENT: Final = frozenset({"reset", "truncate", "drip", "hang"})
"""Faults that are in the sending and leave the answer as it is."""

SAMPLES: Final = 1024
"""Answers of one request at most: so many draws are kept apart."""


def find(path: str) -> Peer | None:
    """Find the provider an address belongs to.

    Examples
    --------
    >>> find("/openai/v1/chat/completions").name, find("/openai/v1/responses").name
    ('openai', 'openai-responses')
    """
    for prefix, peer in PREFIXES:
        if path.startswith(prefix) and path[len(prefix) :][:1] == "/" and path.endswith(peer.ending):
            return peer
    return None


class Desk:
    """One simulator's memory: its counts, its buckets and the faults that hold now."""

    def __init__(self, settings: Simulator) -> None:
        self.settings = settings
        self.faults = settings.faults
        self.tally = Tally()
        self._buckets: dict[str, Buckets] = {}
        self._serial = count()

    def decide(self, peer: Peer, incoming: Incoming, now: float, clock: float) -> Plan:
        """Decide what to send.

        Parameters
        ----------
        now
            Epoch seconds, for what is written.
        clock
            Seconds of a clock that does not go back, for the limits.
        """
        digits = self._digits()
        call = peer.locate(incoming)
        if call is None:
            return self._refuse(peer, Problem(kind="not_found", param=f"{incoming.method} {incoming.rest}"), digits)
        problem = peer.authorize(incoming, self.settings.api_key) if self.settings.api_key else None
        if problem is not None:
            return self._refuse(peer, problem, digits)
        if call.action == "models":
            return self._whole(peer, encode(peer.listing(peer.models)), digits)
        question = _read(peer, incoming.body, call)
        if isinstance(question, Problem):
            return self._refuse(peer, question, digits)
        return self._meet(peer, incoming, question, digits, now, clock)

    def refuse(self, peer: Peer, problem: Problem) -> Plan:
        """Refuse what cannot even be looked at."""
        return self._refuse(peer, problem, self._digits())

    def _meet(self, peer: Peer, incoming: Incoming, question: Question, digits: str, now: float, clock: float) -> Plan:
        """Answer a question, unless a fault or a limit comes before."""
        settings = self.settings
        identity = identify(question)
        attempt = self.tally.attempt(peer.name, question.model, identity)
        fault = self._fault(incoming, question, identity, attempt)
        if fault:
            self.tally.by_fault[fault] += 1
        if not question.stream:
            fault = UNSTREAMED.get(fault, fault)
        if fault in REFUSALS:
            return self._refuse(peer, self._staged(fault, question), digits)
        said = self._answer(question, identity, now, self._respond(peer, question, attempt))
        if isinstance(said, Problem):
            return self._refuse(peer, said, digits)
        limit = self._limit(peer, question.model)
        headers: Mapping[str, str] = {}
        if limit is not None:
            taken, cost = self._take(peer, limit, said, clock)
            headers = peer.limits(taken.standing, now)
            if not taken.granted:
                return self._refuse(peer, _exceeded(limit, taken, question.model, cost), digits, headers)
        self.tally.paid(said.input_tokens, said.output_tokens)
        if not question.stream:
            body = encode(peer.reply(said))
            broken = body[: len(body) * 2 // 3] if fault == "malformed" else body
            return self._whole(peer, broken, digits, headers, said.duration_s, fault)
        events = self._spoiled(peer, tuple(peer.events(said)), fault, digits)
        kind = "application/json; charset=UTF-8" if question.array else peer.stream_type
        due_s = settings.latency.due_s
        return Plan(
            reply=HttpReply(200, {"content-type": kind, **headers, **_stamp(peer, digits)}),
            events=events,
            due_s=tuple(due_s(said.duration_s, at, len(events)) for at in range(len(events) * bool(said.duration_s))),
            fault=fault if fault in SENT else "",
        )

    def _respond(self, peer: Peer, question: Question, attempt: int) -> Respond | None:
        """Give what answers this question: the user's own model, or right and wrong answers if it is one of these."""
        settings = self.settings
        graded, name, times = settings.graded, f"{peer.name}/{question.model}", count(attempt * SAMPLES)
        if graded is None or graded.text(name, question.prompt, settings.seed, 0) is None:
            return settings.respond
        return lambda prompt: graded.text(name, prompt, settings.seed, next(times)) or ""

    def _answer(self, question: Question, identity: bytes, now: float, respond: Respond | None) -> Answer | Problem:
        """Answer; a user's own model that raises is the provider's internal error."""
        settings = self.settings
        try:
            return answer(
                question,
                identity,
                seed=settings.seed,
                now=now,
                latency=settings.latency,
                respond=respond,
            )
        except Exception as wrong:  # noqa: BLE001 - whatever a user's function raises
            return Problem(kind="server", message=f"respond raised {type(wrong).__name__}: {wrong}")

    def _fault(self, incoming: Incoming, question: Question, identity: bytes, attempt: int) -> str:
        """Name the fault that this attempt meets: one that is scripted, or one that is drawn."""
        scripted = script(incoming.headers.get("x-sim-fault", ""), question.text, attempt)
        if scripted or not self.faults.rates():
            return scripted
        return choose(self.faults, draw(identity, self.settings.seed, b"fault", attempt))

    def _staged(self, fault: str, question: Question) -> Problem:
        """Make the refusal that a fault asks for."""
        kind = REFUSALS[fault]
        limit = self.settings.limit or Limit(rpm=60)
        return Problem(
            kind=kind,
            retry_after_s=self.faults.retry_after_s if kind == "rate_limited" else None,
            model=question.model,
            limit=int(limit.rpm or 0),
        )

    def _limit(self, peer: Peer, model: str) -> Limit | None:
        limits = self.settings.limits
        return limits.get(f"{peer.name}/{model}") or limits.get(peer.name) or self.settings.limit

    def _take(self, peer: Peer, limit: Limit, said: Answer, clock: float) -> tuple[Taken, int]:
        """Hold an answer against a limit: it costs its input and the most output asked for, or what it will be."""
        question = said.question
        key = f"{peer.name}/{question.model}"
        most = question.max_tokens
        cost = said.input_tokens + (said.output_tokens if most is None else most * question.n)
        taken = take(limit, self._buckets.get(key) or fill(limit, clock), clock, cost)
        self._buckets[key] = taken.buckets
        return taken, cost

    def _spoiled(self, peer: Peer, events: tuple[bytes, ...], fault: str, digits: str) -> tuple[bytes, ...]:
        """Do to a stream what a fault does to its content."""
        half = events[: max(1, len(events) // 2)]
        match fault:
            case "cut":
                return half
            case "malformed":
                return (*half, peer.garbled, *events[len(half) :])
            case "stream_error":
                return (*half, peer.broken(Problem(kind="overloaded"), peer.request_id(digits)))
            case _:
                return events

    def _refuse(self, peer: Peer, problem: Problem, digits: str, told: Mapping[str, str] | None = None) -> Plan:
        reply = peer.error(problem, peer.request_id(digits))
        return Plan(reply=replace(reply, headers={**reply.headers, **(told or {}), **_stamp(peer, digits)}))

    def _whole(
        self,
        peer: Peer,
        body: bytes,
        digits: str,
        headers: Mapping[str, str] | None = None,
        duration_s: float = 0.0,
        fault: str = "",
    ) -> Plan:
        told = {"content-type": "application/json", **(headers or {}), **_stamp(peer, digits)}
        return Plan(reply=HttpReply(200, told, body), duration_s=duration_s, fault=fault if fault in SENT else "")

    def _digits(self) -> str:
        """Give this request's number as 32 hexadecimal digits that look like none."""
        return blake2b(b"%d/%d" % (self.settings.seed, next(self._serial)), digest_size=16).hexdigest()


def _exceeded(limit: Limit, taken: Taken, model: str, cost: int) -> Problem:
    """Make the refusal of a request that a limit does not let pass."""
    requests = taken.scope == "requests"
    return Problem(
        kind="rate_limited",
        scope=taken.scope,
        retry_after_s=taken.retry_after_s,
        model=model,
        limit=int((limit.rpm if requests else limit.tpm) or 0),
        asked=1 if requests else cost,
    )


def _read(peer: Peer, body: bytes, call: Call) -> Question | Problem:
    """Read a body, which has to be a JSON object that asks a model there is."""
    try:
        payload: object = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem(kind="invalid", message="We could not parse the JSON body of your request.")
    if not isinstance(payload, dict):
        return Problem(kind="invalid", message="The JSON body of your request is not an object.")
    question = peer.read(payload, call)
    if isinstance(question, Question) and NO_SUCH in question.model:
        return Problem(kind="not_found", model=question.model)
    return question


def _stamp(peer: Peer, digits: str) -> Mapping[str, str]:
    return {peer.id_header: peer.request_id(digits)} if peer.id_header else {}
