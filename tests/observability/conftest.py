"""Shared fixtures: a simulated hub, and the events of a block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import llmhub
from llmhub.engine.observer import Event
from llmhub.observability.subscriptions import subscribe
from llmhub.sim import SimulatorThread

QUICK = llmhub.Retry(base_s=0.002, cap_s=0.002)
"""Retries with waits that are just long enough to be reported."""


@dataclass
class Seen:
    """An observer that keeps events."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        """Return the events of a type."""
        return [event for event in self.events if type(event) is kind]


@pytest.fixture
def seen() -> Iterator[Seen]:
    observer = Seen()
    unsubscribe = subscribe(observer)
    yield observer
    unsubscribe()


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(simulator=simulator.url, cache=llmhub.MemoryCache(), retry=QUICK) as made:
        yield made
