from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import llmhub
from llmhub.core.errors import AuthFailed, BadRequestError
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import Simulator, serving


def test_metadata_of_a_model() -> None:
    info = llmhub.metadata("openai/gpt-4o-mini", hub=llmhub.Hub())
    assert (info.provider, info.model) == ("openai", "gpt-4o-mini")
    assert (info.context_window, info.max_output_tokens) == (128_000, 16_384)
    assert ":openai/gpt-4o-mini@" in info.price_id


def test_metadata_of_an_unknown_model_and_a_plugin_provider() -> None:
    hub = llmhub.Hub(providers={"mine": replace(PROVIDERS["compatible"], name="mine")})
    info = llmhub.metadata("mine/model", hub=hub)
    assert (info.provider, info.model, info.price_id, info.context_window) == ("mine", "model", "", None)


@pytest.mark.parametrize("name", ["gpt-4o-mini", "opnai/gpt-4o", "openai/"])
def test_metadata_rejects_invalid_names(name: str) -> None:
    with pytest.raises(BadRequestError):
        llmhub.metadata(name, hub=llmhub.Hub())


async def test_health_check_blocking_and_awaited() -> None:
    with serving(Simulator(seed=1)) as simulator, llmhub.Hub(endpoints=simulator.endpoints()) as hub:
        awaited = await llmhub.ahealth_check("anthropic", hub=hub)
        waited = llmhub.health_check("anthropic", hub=hub)
    assert awaited.ok
    assert awaited.key_accepted
    assert replace(waited, latency_s=0) == replace(awaited, latency_s=0)


def test_health_check_without_a_key_and_of_an_unknown_provider(monkeypatch: Any) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    info = llmhub.health_check("openai", hub=llmhub.Hub())
    assert isinstance(info.error, AuthFailed)
    assert not info.ok
    with pytest.raises(BadRequestError, match="Did you mean 'openai'"):
        llmhub.health_check("opnai", hub=llmhub.Hub())
