"""Fixtures of dataset tests: input rows, their results from simulated models, and a frozen dataset of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import llmhub
from llmhub.datasets import Recipe, freeze
from llmhub.sim import SimulatorThread

PROMPT = "Say {q} in a word."
MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5")
N_SAMPLES = 2

Complete = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), cache=llmhub.MemoryCache(), retry=llmhub.Retry(attempts=1)) as hub:
        yield hub


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(prompt=PROMPT, models=MODELS, samples=N_SAMPLES)


@pytest.fixture
def frame() -> pd.DataFrame:
    """Return input rows with a duplicate, a missing value, and one that fails."""
    return pd.DataFrame({"q": ["one", "two", None, "two", "[[sim:400]] four"], "label": [1, 2, 3, 2, 4]})


@pytest.fixture
def complete(hub: llmhub.Hub) -> Complete:
    """Return a function that completes a frame as the recipe says."""

    def complete_frame(frame: pd.DataFrame) -> pd.DataFrame:
        results: pd.DataFrame = frame.llm.complete(
            PROMPT, model=MODELS, hub=hub, n=N_SAMPLES, progress=False, columns="all"
        )
        return results

    return complete_frame


@pytest.fixture
def folder(tmp_path: Path, hub: llmhub.Hub, frame: pd.DataFrame, complete: Complete, recipe: Recipe) -> Path:
    """Return the folder of a frozen dataset of 20 rows."""
    freeze(complete(frame), tmp_path / "set", recipe=recipe, hub=hub)
    return tmp_path / "set"
