"""Stop sending requests to a provider that keeps failing, until a probe is answered (the circuit breaker pattern).

A provider is healthy until several requests in a row fail by its own fault, then degraded: requests are still sent.
After more failures in a row it is unhealthy: the circuit opens and requests fail at once. When the cooldown is over,
one request is let through as a probe. If it is answered the provider is degraded again, and healthy after more answers;
if not, the cooldown doubles. A reply that refuses the request, the key or the rate counts as an answer: the provider is
up. Calls refused by an open circuit may be retried until the provider has failed for longer than a deadline, so that a
run over many rows ends.

The state machine (`CircuitState`, `admit`, ``on_...``) is pure; `Circuit` holds its state for one address.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from numbers import Integral, Real
from typing import Any, Final, NamedTuple

from returns.result import Failure, Success

from llmhub.core.errors import Disconnected, LLMError, Overloaded, ServerError, TimedOut, invalid
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.decision_log import RecordDecision

PROVIDER_FAILURES: Final[frozenset[type[LLMError]]] = frozenset({Disconnected, TimedOut, ServerError, Overloaded})
"""Errors that are the provider's fault."""
CIRCUIT_OPEN: Final = "circuit_open"
"""The error code of a call that was not sent because the circuit is open."""


class CircuitHealth(Enum):
    """The health of a provider."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


HEALTH_ORDER: Final = tuple(CircuitHealth)
"""From best to worst."""
SHOWN_OUTAGE_S: Final = 2.0
"""Shorter outages are not shown as what holds a run up."""
MAX_GAP_S: Final = 120.0
"""Failures are of one outage if the later request was sent at most this long after the failure before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """When a circuit opens and closes.

    Parameters
    ----------
    degraded, failures
        Consecutive failures after which a provider is degraded, and unhealthy.
    recovery
        Consecutive answers after which a degraded provider is healthy.
    cooldown_s, longest_s
        Seconds before the first probe, doubled with each failed probe up to ``longest_s``.

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
        """Raise if a field is out of bounds."""
        for name, number_type, low, high in (
            ("failures", Integral, 1, inf),
            ("degraded", Integral, 1, self.failures),
            ("recovery", Integral, 1, inf),
            ("longest_s", Real, 0, inf),
            ("cooldown_s", Real, 0, self.longest_s),
        ):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, number_type) or not low <= float(value) <= high:
                noun, to_high = "an integer" if number_type is Integral else "a number", f" to {high:g}" * (high < inf)
                raise invalid(f"breaker.{name}", f"must be {noun} from {low:g}{to_high}, not {value!r}")


class CircuitState(NamedTuple):
    """The state of a circuit.

    Parameters
    ----------
    health
        The provider's health.
    failures, successes
        Consecutive failures and answers.
    open_count
        How often the circuit has opened without an answer in between.
    open_until
        When the next probe may be sent.
    changed_at
        When the health last changed; requests sent earlier carry no information about it.
    probing
        Whether a probe is in flight.
    failing_since, failed_at
        When the first and the last failure without an answer in between arrived.
    """

    health: CircuitHealth = CircuitHealth.HEALTHY
    failures: int = 0
    successes: int = 0
    open_count: int = 0
    open_until: float = -inf
    changed_at: float = -inf
    probing: bool = False
    failing_since: float = inf
    failed_at: float = -inf


INITIAL_STATE: Final = CircuitState()


def admit(policy: Breaker, state: CircuitState, now: float) -> tuple[CircuitState, float]:
    """Return the new state and 0 if a request may be sent now, else the seconds after which to try again.

    Law: while the provider is unhealthy, at most one request is in flight: the probe.

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


def failing_s(state: CircuitState, now: float) -> float:
    """Return the seconds for which every answer has been a failure; 0 if a probe is the first request for long."""
    if state.probing and state.changed_at - state.failed_at > MAX_GAP_S:
        return 0.0
    return max(0.0, now - state.failing_since)


def on_success(policy: Breaker, state: CircuitState, sent_at: float, now: float) -> CircuitState:
    """Return the state after an answer. Law: an unhealthy provider becomes degraded before it becomes healthy."""
    if state.health is CircuitHealth.HEALTHY:
        return state if not state.failures else INITIAL_STATE._replace(changed_at=state.changed_at)
    if sent_at < state.changed_at:
        return state
    if state.health is CircuitHealth.UNHEALTHY:
        return CircuitState(CircuitHealth.DEGRADED, successes=1, open_count=state.open_count, changed_at=now)
    if state.successes + 1 >= policy.recovery:
        return INITIAL_STATE._replace(changed_at=now)
    return state._replace(failures=0, successes=state.successes + 1, failing_since=inf, failed_at=-inf)


def on_failure(policy: Breaker, state: CircuitState, sent_at: float, now: float) -> CircuitState:
    """Return the state after a failure. Law: requests sent before the circuit opened do not open it further."""
    if state.health is CircuitHealth.UNHEALTHY and (not state.probing or sent_at < state.changed_at):
        return state
    failures = state.failures + 1
    since = state.failing_since if sent_at - state.failed_at <= MAX_GAP_S else now
    # A provider that has only just recovered is given fewer failures.
    if state.probing or failures >= policy.failures or (state.open_count and failures >= policy.degraded):
        cooldown_s = min(policy.cooldown_s * 2.0 ** min(state.open_count, 30), policy.longest_s)
        return CircuitState(
            CircuitHealth.UNHEALTHY,
            open_count=state.open_count + 1,
            open_until=now + cooldown_s,
            changed_at=now,
            failing_since=since,
            failed_at=now,
        )
    health = CircuitHealth.DEGRADED if failures >= policy.degraded else state.health
    return state._replace(health=health, failures=failures, successes=0, failing_since=since, failed_at=now)


def on_abandoned(state: CircuitState, sent_at: float) -> CircuitState:
    """Return the state after a request without an outcome, so that another probe may be sent in its place."""
    return state._replace(probing=False) if state.probing and sent_at >= state.changed_at else state


class Circuit:
    """The state of one address, shared by all calls to it. Use it on one event loop only.

    Parameters
    ----------
    policy
        When it opens and closes.
    name
        The provider's name.
    record_decision
        Logs changes of the health.
    deadline_s
        How long the provider may fail before calls that find the circuit open are not retried either.
    """

    def __init__(self, policy: Breaker, name: str, record_decision: RecordDecision, *, deadline_s: float = inf) -> None:
        self.policy = policy
        self.name = name
        self.deadline_s = deadline_s
        self.state = INITIAL_STATE
        self.last_failure: LLMError | None = None
        self._record_decision = record_decision

    def set_state(self, state: CircuitState, reason: str = "") -> None:
        """Set the state; log a decision if the health changed."""
        before, self.state = self.state, state
        if before.health is not state.health:
            wait_s = state.open_until - state.changed_at if state.health is CircuitHealth.UNHEALTHY else None
            detail = f"{before.health.value} -> {state.health.value}{reason and ': ' + reason}"
            self._record_decision("circuit", self.name, detail, wait_s=wait_s)

    def refusal(self, now: float) -> str:
        """Return the provider's last words while the circuit is open, unless it has just begun to fail; else empty."""
        is_shown = self.state.health is CircuitHealth.UNHEALTHY and failing_s(self.state, now) >= SHOWN_OUTAGE_S
        return str(self.last_failure) if is_shown and self.last_failure is not None else ""


def circuit_breaker_middleware(circuit: Circuit, clock: Callable[[], float]) -> Middleware:
    """Return the middleware that fails calls at once while ``circuit`` is open."""

    def wrap(send: Send) -> Send:
        async def send_if_closed(call: Call) -> Answer:
            now = clock()
            if circuit.state.health is CircuitHealth.UNHEALTHY:
                state, wait_s = admit(circuit.policy, circuit.state, now)
                if wait_s:
                    return Answer(Failure(_circuit_open_error(call, circuit, wait_s, now)))
                circuit.set_state(state)
            try:
                answer = await send(call)
            except BaseException:
                circuit.set_state(on_abandoned(circuit.state, now))
                raise
            _record_answer(circuit, answer, now, clock)
            return answer

        return send_if_closed

    return wrap


def _record_answer(circuit: Circuit, answer: Answer, sent_at: float, clock: Callable[[], float]) -> None:
    """Update the circuit after an answer."""
    policy, state = circuit.policy, circuit.state
    error = None if isinstance(answer.outcome, Success) else answer.outcome.failure()
    if error is not None and type(error) in PROVIDER_FAILURES:
        circuit.last_failure = error
        circuit.set_state(on_failure(policy, state, sent_at, clock()), str(error))
    elif not answer.attempts:
        circuit.set_state(on_abandoned(state, sent_at))
    elif state is not INITIAL_STATE:
        circuit.set_state(on_success(policy, state, sent_at, clock()))


def _circuit_open_error(call: Call, circuit: Circuit, wait_s: float, now: float) -> Overloaded:
    """Return why a call was not sent, with the provider's last words."""
    failed_s, last_failure = failing_s(circuit.state, now), circuit.last_failure
    is_final = failed_s >= circuit.deadline_s
    duration = f" for {failed_s:.0f} s" if is_final else ""
    message = f"not sent: the provider kept failing{duration}, and the next request is tried in {wait_s:.1f} s"
    if last_failure is not None:
        message += f"; the last failure was {type(last_failure).__name__}: {last_failure}"
    return Overloaded(
        provider=call.target.provider.name,
        code=CIRCUIT_OPEN,
        message=message,
        retry_after_s=wait_s,
        should_retry=False if is_final else None,
    )
