"""What tests of evaluations share: questions whose right answers are known, and models right at known rates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import llmhub
from llmhub.sim import Graded, Simulator, SimulatorThread, serving

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k-test.jsonl"
RATES = {"openai/gpt-4o-mini": 0.82, "anthropic/claude-haiku-4-5": 0.86, "google/gemini-2.5-flash": 0.7}


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions and answers in the form of GSM8K."""

    questions: list[str]
    answers: list[str]

    @property
    def frame(self) -> dict[str, list[str]]:
        return {"question": self.questions, "answer": self.answers}

    @property
    def right(self) -> dict[str, str]:
        ends = [answer.rpartition("####")[2].strip() for answer in self.answers]
        return dict(zip(self.questions, ends, strict=True))


@pytest.fixture(scope="session")
def questions() -> Questions:
    """Give GSM8K where it is, or sums in its place."""
    if GSM8K.is_file():
        rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()][:600]
        return Questions([row["question"] for row in rows], [row["answer"] for row in rows])
    sums = [(at % 97 + 3, at * 7 % 89 + 2) for at in range(600)]
    asked = [f"Basket {at} holds {a} pears; {b} are added. How many are there?" for at, (a, b) in enumerate(sums)]
    return Questions(asked, [f"{a} + {b} = {a + b}\n#### {a + b:,}" for a, b in sums])


@pytest.fixture(scope="session")
def graded(questions: Questions) -> Iterator[SimulatorThread]:
    """Run a simulator whose models are right at `RATES`."""
    with serving(Simulator(seed=3, graded=Graded(right=questions.right, rates=RATES, shared=0.6))) as served:
        yield served


@pytest.fixture
def hub(graded: SimulatorThread) -> Iterator[llmhub.Hub]:
    """Reach that simulator, with a cache of one's own."""
    graded.reset()
    with llmhub.Hub(endpoints=graded.endpoints(), cache=llmhub.MemoryCache()) as made:
        yield made


@pytest.fixture(scope="session")
def rates() -> dict[str, float]:
    """Give how often each model of that simulator is right."""
    return RATES
