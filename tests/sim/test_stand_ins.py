"""Every provider of the registry can be simulated, with any model, streamed or not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import llmhub
from llmhub.config import Settings
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import SIMULATED, Simulator, SimulatorThread, serving

NAMES = sorted(PROVIDERS)


@pytest.fixture(scope="module")
def simulator() -> Iterator[SimulatorThread]:
    with serving(Simulator(seed=1, api_key="the-key")) as served:
        yield served


@pytest.fixture(scope="module")
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache(), retry=llmhub.Retry(attempts=1)
    ) as one:
        yield one


def test_every_provider_is_simulated() -> None:
    assert set(SIMULATED) == set(PROVIDERS)


@pytest.mark.parametrize("name", NAMES)
def test_any_model_of_any_provider_answers(name: str, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    model = f"{name}/no-model-of-this-name"
    assert llmhub.complete("Say hi.", model=model, hub=hub).text
    chunks = list(llmhub.stream("Say hi again.", model=model, hub=hub))
    response = chunks[-1].response
    assert response is not None
    assert response.text
    assert response.usage.output_tokens
    health = llmhub.health_check(name, hub=hub)
    assert health.ok, health


def test_simulate_covers_every_provider() -> None:
    with llmhub.simulate(Simulator(seed=1)):
        for name in ("groq", "databricks", "cloudflare", "compatible-messages", "watsonx"):
            assert llmhub.complete("Say hi.", model=f"{name}/m").text
