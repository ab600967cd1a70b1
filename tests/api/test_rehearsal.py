from __future__ import annotations

from decimal import Decimal

import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.sim import Simulator

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]


def test_without_keys_all_models_are_simulated() -> None:
    with llmhub.rehearsal(MODELS, simulator=Simulator(seed=3)) as stage:
        assert not stage.real
        assert stage.models == tuple(MODELS)
        assert llmhub.complete("Hi", model=MODELS[1], hub=stage.hub).text
        assert stage.simulator is not None
        assert stage.simulator.counts()["requests"] == 1
        assert "simulated providers on this machine" in repr(stage)


def test_with_a_key_available_real_models_are_used(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("ANTHROPIC_API_KEY", "a-secret")
    with llmhub.rehearsal(MODELS) as stage:
        assert stage.real
        assert stage.models == ("anthropic/claude-haiku-4-5",)
        assert stage.hub.budget_usd is not None
        assert Decimal(str(stage.hub.budget_usd)) == Decimal("0.5")
        assert "a-secret" not in repr(stage)


def test_simulated_hub_ignores_the_environment(environ: pytest.MonkeyPatch) -> None:
    """A key of another provider in the environment does not cause real calls."""
    environ.setenv("GROQ_API_KEY", "a-secret")
    with llmhub.rehearsal(MODELS, concurrency=3) as stage:
        assert not stage.real
        assert all(at.base_url.startswith("http://127.0.0.1") for at in stage.hub.endpoints.values())
        assert stage.hub.concurrency == 3


@pytest.mark.parametrize(
    ("models", "message"), [([], "list of models is empty"), (["nobody/m"], "no provider is named 'nobody'")]
)
def test_invalid_models_are_rejected(models: list[str], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        llmhub.rehearsal(models)
