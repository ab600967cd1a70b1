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
    BadRequestError,
    Disconnected,
    InvalidRequest,
    LLMError,
    Overloaded,
    ServerError,
    TimedOut,
)
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.decision_log import RecordDecision

PROVIDER_FAILURES: Final[frozenset[type[LLMError]]] = frozenset({Disconnected, TimedOut, ServerError, Overloaded})
"""Failures that are the provider's own."""


CIRCUIT_OPEN: Final = "circuit_open"
"""The code of a failure of what was not sent because the circuit is open."""


class CircuitHealth(Enum):
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
                raise BadRequestError(InvalidRequest(path=f"breaker.{name}", message=said))


class CircuitState(NamedTuple):
    """How a provider stands: faults and answers in a row, until when nobody is sent, and whether a probe is out.

    ``opened`` counts how often the circuit opened without an answer in between; ``since`` is when it last changed:
    what went before says nothing of how the provider is now.
    """

    health: CircuitHealth = CircuitHealth.HEALTHY
    failures: int = 0
    successes: int = 0
    open_count: int = 0
    open_until: float = -inf
    changed_at: float = -inf
    probing: bool = False


INITIAL_STATE: Final = CircuitState()


def admit(policy: Breaker, state: CircuitState, now: float) -> tuple[CircuitState, float]:
    """Ask to be sent; give the seconds after which it makes sense to ask again, 0 for now.

    Law: while the provider is unhealthy, at most one request is under way: the probe.

    Examples
    --------
    >>> admit(Breaker(), INITIAL_STATE, 0.0)[1]
    0.0
    """
    if state.health is not CircuitHealth.UNHEALTHY:
        return state, 0.0
    if now < state.open_until:
        return state, state.open_until - now
    if state.probing:
        return state, policy.cooldown_s
    return state._replace(probing=True, changed_at=now), 0.0


def on_success(policy: Breaker, state: CircuitState, sent_at: float, now: float) -> CircuitState:
    """Take in that the provider was there. Law: from unhealthy the way back leads through degraded."""
    if state.health is CircuitHealth.HEALTHY:
        return state if not state.failures else state._replace(failures=0)
    if sent_at < state.changed_at:
        return state
    if state.health is CircuitHealth.UNHEALTHY:
        return CircuitState(CircuitHealth.DEGRADED, successes=1, open_count=state.open_count, changed_at=now)
    if state.successes + 1 >= policy.recovery:
        return INITIAL_STATE._replace(changed_at=now)
    return state._replace(failures=0, successes=state.successes + 1)


def on_failure(policy: Breaker, state: CircuitState, sent_at: float, now: float) -> CircuitState:
    """Take in that the provider failed. Law: what went before the circuit opened opens it no further."""
    if state.health is CircuitHealth.UNHEALTHY and (not state.probing or sent_at < state.changed_at):
        return state
    faults = state.failures + 1
    # Who was just back is not trusted as far as who was always there.
    if state.probing or faults >= policy.failures or (state.open_count and faults >= policy.degraded):
        pause_s = min(policy.cooldown_s * 2.0 ** min(state.open_count, 30), policy.longest_s)
        return CircuitState(
            CircuitHealth.UNHEALTHY, open_count=state.open_count + 1, open_until=now + pause_s, changed_at=now
        )
    health = CircuitHealth.DEGRADED if faults >= policy.degraded else state.health
    return state._replace(health=health, failures=faults, successes=0)


def on_abandoned(state: CircuitState, sent_at: float) -> CircuitState:
    """Take in that nobody will hear of a request: another probe may go in its place."""
    return state._replace(probing=False) if state.probing and sent_at >= state.changed_at else state


class Circuit:
    """How one address stands, for all who ask there. Lives on one event loop."""

    def __init__(self, policy: Breaker, name: str, note: RecordDecision) -> None:
        self.policy = policy
        self.name = name
        self.state = INITIAL_STATE
        self._note = note

    def set_state(self, state: CircuitState, reason: str = "") -> None:
        """Stand otherwise, and note it where the health changed."""
        before, self.state = self.state, state
        if before.health is not state.health:
            wait_s = state.open_until - state.changed_at if state.health is CircuitHealth.UNHEALTHY else None
            said = f"{before.health.value} -> {state.health.value}{reason and ': ' + reason}"
            self._note("circuit", self.name, said, wait_s=wait_s)


def circuit_breaker_middleware(circuit: Circuit, clock: Callable[[], float]) -> Middleware:
    """Make the middleware that sends nothing to a provider that is down, and says so at once."""

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            now = clock()
            if circuit.state.health is CircuitHealth.UNHEALTHY:
                standing, wait_s = admit(circuit.policy, circuit.state, now)
                if wait_s:
                    return Answer(Failure(_circuit_open_error(call, wait_s)))
                circuit.set_state(standing)
            try:
                answer = await send(call)
            except BaseException:
                circuit.set_state(on_abandoned(circuit.state, now))
                raise
            _record_answer(circuit, answer, now, clock)
            return answer

        return sending

    return wrap


def _record_answer(circuit: Circuit, answer: Answer, sent_at: float, clock: Callable[[], float]) -> None:
    """Take in what came."""
    policy, standing = circuit.policy, circuit.state
    error = None if is_successful(answer.outcome) else answer.outcome.failure()
    if error is not None and type(error) in PROVIDER_FAILURES:
        circuit.set_state(on_failure(policy, standing, sent_at, clock()), str(error))
    elif not answer.attempts:
        circuit.set_state(on_abandoned(standing, sent_at))
    elif standing is not INITIAL_STATE:
        circuit.set_state(on_success(policy, standing, sent_at, clock()))


def _circuit_open_error(call: Call, wait_s: float) -> Overloaded:
    provider = call.target.provider.name
    said = f"it keeps failing and is left alone for another {wait_s:.1f} s"
    return Overloaded(provider=provider, code=CIRCUIT_OPEN, message=said, retry_after_s=wait_s)
