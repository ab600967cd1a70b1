"""Fixtures of evaluation tests: questions with known answers, and simulated models that are right at known rates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import llmhub
from llmhub.sim import Graded, Simulator, SimulatorThread, serving

RATES = {"openai/gpt-4o-mini": 0.82, "anthropic/claude-haiku-4-5": 0.86, "google/gemini-2.5-flash": 0.7}
N_QUESTIONS = 600


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions and answers in the format of GSM8K: the final number follows ``####``."""

    questions: list[str]
    answers: list[str]

    @property
    def frame(self) -> dict[str, list[str]]:
        return {"question": self.questions, "answer": self.answers}

    @property
    def right(self) -> dict[str, str]:
        numbers = [answer.rpartition("####")[2].strip() for answer in self.answers]
        return dict(zip(self.questions, numbers, strict=True))


@pytest.fixture(scope="session")
def questions() -> Questions:
    """Return distinct sums as word problems."""
    sums = [(index % 97 + 3, index * 7 % 89 + 2) for index in range(N_QUESTIONS)]
    texts = [f"Basket {index} holds {a} pears; {b} are added. How many are there?" for index, (a, b) in enumerate(sums)]
    return Questions(texts, [f"{a} + {b} = {a + b}\n#### {a + b:,}" for a, b in sums])


@pytest.fixture(scope="session")
def graded(questions: Questions) -> Iterator[SimulatorThread]:
    """Run a simulator whose models are right at `RATES`."""
    with serving(Simulator(seed=3, graded=Graded(right=questions.right, rates=RATES, shared=0.6))) as served:
        yield served


@pytest.fixture
def hub(graded: SimulatorThread) -> Iterator[llmhub.Hub]:
    """Return a hub of that simulator with its own cache."""
    graded.reset()
    with llmhub.Hub(endpoints=graded.endpoints(), cache=llmhub.MemoryCache()) as hub:
        yield hub


@pytest.fixture(scope="session")
def rates() -> dict[str, float]:
    """Return the rate at which each model of that simulator is right."""
    return RATES
