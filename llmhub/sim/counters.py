"""What a simulator was asked: the proof of what would have been paid."""

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
        Requests to providers, whatever became of them.
    by_provider, by_model, by_status, by_fault
        The same, split; a model is ``provider/model``, a connection that got no status is ``none``.
    tokens
        ``input`` and ``output`` of the answers that were given.
    attempts
        How often each question (a model and a conversation) was asked.
    in_flight, max_in_flight
        Requests under way, and the most there have been.
    max_alike
        The most there have been of one and the same request.
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
        """Count a request in."""
        self.requests += 1
        self.by_provider[provider] += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def track_body(self, path: str, body: bytes) -> tuple[str, bytes]:
        """Count a request that is read, to be told apart from others until it ends."""
        asked = path, sha256(body).digest()
        self.identical[asked] += 1
        self.max_identical = max(self.max_identical, self.identical[asked])
        return asked

    def count_attempt(self, provider: str, model: str, identity: bytes) -> int:
        """Count a question, and say how often it was asked before."""
        self.by_model[f"{provider}/{model}"] += 1
        key = (provider, identity)
        before = self.attempts[key]
        self.attempts[key] = before + 1
        return before

    def count_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Count the tokens of an answer."""
        self.tokens["input"] += input_tokens
        self.tokens["output"] += output_tokens

    def end_request(self, status: str, asked: tuple[str, bytes] | None = None) -> None:
        """Count a request out."""
        self.in_flight -= 1
        self.by_status[status] += 1
        if asked is not None:
            self.identical[asked] -= 1
            if not self.identical[asked]:
                del self.identical[asked]

    def restarted(self) -> RequestCounters:
        """Give a tally that begins now; what is under way stays under way."""
        most = max(self.identical.values(), default=0)
        return RequestCounters(
            in_flight=self.in_flight, max_in_flight=self.in_flight, max_identical=most, identical=self.identical
        )

    def snapshot(self) -> dict[str, Any]:
        """Give the counts as JSON takes them; ``unique_prompts`` are distinct questions per provider and model."""
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
            "max_alike": self.max_identical,
        }
