"""Whether a provider is worth asking: a pure machine of its health, and the circuit that opens when it is not.

A provider is healthy until several requests in a row fail by its own fault, then degraded: still asked, but watched.
More of them in a row make it unhealthy: nobody is sent there for a while. Then one goes
as a probe; if it is answered the provider is degraded, and healthy after more answers; if not, it is left alone for
twice as long. A refusal of the question, of the key or for a limit is an answer: whoever refuses is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from numbers import Integral, Real
from typing import Any, Final, NamedTuple

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import (
    Disconnected,
    InvalidRequest,
    InvalidRequestError,
    LLMError,
    Overloaded,
    ServerError,
    TimedOut,
)
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.decisions import Note

FAULTS: Final[frozenset[type[LLMError]]] = frozenset({Disconnected, TimedOut, ServerError, Overloaded})
"""Failures that are the provider's own."""
OPEN: Final = "circuit_open"
"""The code of a failure of what was not sent because the circuit is open."""


class Condition(Enum):
    """How a provider is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When a provider is left alone.

    Parameters
    ----------
    degraded, failures
        Faults in a row that make it degraded, and unhealthy.
    recovery
        Answers in a row that make it healthy again.
    cooldown_s, longest_s
        For how long it is left alone before a probe: doubled with each probe that fails, up to the longest.

    Examples
    --------
    >>> Breaker(failures=20).cooldown_s
    1.0
    """

    degraded: int = 5
    failures: int = 12
    recovery: int = 3
    cooldown_s: float = 1.0
    longest_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot be a policy."""
        for name, kind, low, high in (
            ("failures", Integral, 1, inf),
            ("degraded", Integral, 1, self.failures),
            ("recovery", Integral, 1, inf),
            ("longest_s", Real, 0, inf),
            ("cooldown_s", Real, 0, self.longest_s),
        ):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= float(value) <= high:
                said = f"{value!r} is no {'whole ' * (kind is Integral)}number in {low:g}..{high:g}"
                raise InvalidRequestError(InvalidRequest(path=f"breaker.{name}", message=said))


class Standing(NamedTuple):
    """How a provider stands: faults and answers in a row, until when nobody is sent, and whether a probe is out.

    ``opened`` counts how often the circuit opened without an answer in between; ``since`` is when it last changed:
    what went before says nothing of how the provider is now.
    """

    health: Condition = Condition.HEALTHY
    faults: int = 0
    answers: int = 0
    opened: int = 0
    until: float = -inf
    since: float = -inf
    probing: bool = False


WELL: Final = Standing()


def ask(policy: Breaker, standing: Standing, now: float) -> tuple[Standing, float]:
    """Ask to be sent; give the seconds after which it makes sense to ask again, 0 for now.

    Law: while the provider is unhealthy, at most one request is under way: the probe.

    Examples
    --------
    >>> ask(Breaker(), WELL, 0.0)[1]
    0.0
    """
    if standing.health is not Condition.UNHEALTHY:
        return standing, 0.0
    if now < standing.until:
        return standing, standing.until - now
    if standing.probing:
        return standing, policy.cooldown_s
    return standing._replace(probing=True, since=now), 0.0


def answered(policy: Breaker, standing: Standing, sent_at: float, now: float) -> Standing:
    """Take in that the provider was there. Law: from unhealthy the way back leads through degraded."""
    if standing.health is Condition.HEALTHY:
        return standing if not standing.faults else standing._replace(faults=0)
    if sent_at < standing.since:
        return standing
    if standing.health is Condition.UNHEALTHY:
        return Standing(Condition.DEGRADED, answers=1, opened=standing.opened, since=now)
    if standing.answers + 1 >= policy.recovery:
        return WELL._replace(since=now)
    return standing._replace(faults=0, answers=standing.answers + 1)


def faulted(policy: Breaker, standing: Standing, sent_at: float, now: float) -> Standing:
    """Take in that the provider failed. Law: what went before the circuit opened opens it no further."""
    if standing.health is Condition.UNHEALTHY and (not standing.probing or sent_at < standing.since):
        return standing
    faults = standing.faults + 1
    # Who was just back is not trusted as far as who was always there.
    if standing.probing or faults >= policy.failures or (standing.opened and faults >= policy.degraded):
        pause_s = min(policy.cooldown_s * 2.0 ** min(standing.opened, 30), policy.longest_s)
        return Standing(Condition.UNHEALTHY, opened=standing.opened + 1, until=now + pause_s, since=now)
    health = Condition.DEGRADED if faults >= policy.degraded else standing.health
    return standing._replace(health=health, faults=faults, answers=0)


def dropped(standing: Standing, sent_at: float) -> Standing:
    """Take in that nobody will hear of a request: another probe may go in its place."""
    return standing._replace(probing=False) if standing.probing and sent_at >= standing.since else standing


class Circuit:
    """How one address stands, for all who ask there. Lives on one event loop."""

    def __init__(self, policy: Breaker, name: str, note: Note) -> None:
        self.policy = policy
        self.name = name
        self.standing = WELL
        self._note = note

    def become(self, standing: Standing, why: str = "") -> None:
        """Stand otherwise, and note it where the health changed."""
        before, self.standing = self.standing, standing
        if before.health is not standing.health:
            wait_s = standing.until - standing.since if standing.health is Condition.UNHEALTHY else None
            said = f"{before.health.value} -> {standing.health.value}{why and ': ' + why}"
            self._note("circuit", self.name, said, wait_s=wait_s)


def broken(circuit: Circuit, clock: Callable[[], float]) -> Middleware:
    """Make the middleware that sends nothing to a provider that is down, and says so at once."""

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            now = clock()
            if circuit.standing.health is Condition.UNHEALTHY:
                standing, wait_s = ask(circuit.policy, circuit.standing, now)
                if wait_s:
                    return Answer(Failure(_open(call, wait_s)))
                circuit.become(standing)
            try:
                answer = await send(call)
            except BaseException:
                circuit.become(dropped(circuit.standing, now))
                raise
            _heard(circuit, answer, now, clock)
            return answer

        return sending

    return wrap


def _heard(circuit: Circuit, answer: Answer, sent_at: float, clock: Callable[[], float]) -> None:
    """Take in what came."""
    policy, standing = circuit.policy, circuit.standing
    error = None if is_successful(answer.outcome) else answer.outcome.failure()
    if error is not None and type(error) in FAULTS:
        circuit.become(faulted(policy, standing, sent_at, clock()), str(error))
    elif not answer.attempts:
        circuit.become(dropped(standing, sent_at))
    elif standing is not WELL:
        circuit.become(answered(policy, standing, sent_at, clock()))


def _open(call: Call, wait_s: float) -> Overloaded:
    provider = call.target.provider.name
    said = f"it keeps failing and is left alone for another {wait_s:.1f} s"
    return Overloaded(provider=provider, code=OPEN, message=said, retry_after_s=wait_s)
