"""Counters of the requests that a simulator received, to verify what would have been billed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any


@dataclass(slots=True)
class RequestCounters:
    """Counts since the start or the last reset.

    Parameters
    ----------
    requests
        Requests to providers, failed ones included.
    by_provider, by_model, by_status, by_fault
        The same by ``provider``, ``provider/model``, HTTP status (``none`` if none was sent) and fault.
    tokens
        ``input`` and ``output`` tokens of the responses.
    attempts
        Requests by provider and digest of model and conversation.
    in_flight, max_in_flight
        Requests in flight, and their maximum.
    max_identical
        Maximum of identical requests in flight.
    """

    requests: int = 0
    by_provider: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    by_status: Counter[str] = field(default_factory=Counter)
    by_fault: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    attempts: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    in_flight: int = 0
    max_in_flight: int = 0
    max_identical: int = 0
    identical: Counter[tuple[str, bytes]] = field(default_factory=Counter)

    def start_request(self, provider: str) -> None:
        """Count the start of a request."""
        self.requests += 1
        self.by_provider[provider] += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def track_body(self, path: str, body: bytes) -> tuple[str, bytes]:
        """Count identical requests in flight; return the key for `end_request`."""
        key = path, sha256(body).digest()
        self.identical[key] += 1
        self.max_identical = max(self.max_identical, self.identical[key])
        return key

    def count_attempt(self, provider: str, model: str, identity: bytes) -> int:
        """Count an attempt; return the number of earlier ones with the same digest."""
        self.by_model[f"{provider}/{model}"] += 1
        key = (provider, identity)
        count = self.attempts[key]
        self.attempts[key] = count + 1
        return count

    def count_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Count the tokens of a response."""
        self.tokens["input"] += input_tokens
        self.tokens["output"] += output_tokens

    def end_request(self, status: str, key: tuple[str, bytes] | None = None) -> None:
        """Count the end of a request."""
        self.in_flight -= 1
        self.by_status[status] += 1
        if key is not None:
            self.identical[key] -= 1
            if not self.identical[key]:
                del self.identical[key]

    def restarted(self) -> RequestCounters:
        """Return new counters, which keep the requests in flight."""
        max_identical = max(self.identical.values(), default=0)
        return RequestCounters(
            in_flight=self.in_flight,
            max_in_flight=self.in_flight,
            max_identical=max_identical,
            identical=self.identical,
        )

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as a JSON object; ``unique_prompts`` are distinct conversations per provider and model."""
        return {
            "requests": self.requests,
            "by_provider": dict(self.by_provider),
            "by_model": dict(self.by_model),
            "by_status": dict(self.by_status),
            "by_fault": dict(self.by_fault),
            "tokens": {"input": self.tokens["input"], "output": self.tokens["output"]},
            "unique_prompts": len(self.attempts),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "max_identical": self.max_identical,
        }
