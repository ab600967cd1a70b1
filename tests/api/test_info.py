from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import llmhub
from llmhub.core.errors import AuthFailed, BadRequestError
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import Simulator, serving


def test_what_is_known_of_a_model_and_its_price() -> None:
    found = llmhub.metadata("openai/gpt-4o-mini", hub=llmhub.Hub())
    assert (found.provider, found.model) == ("openai", "gpt-4o-mini")
    assert (found.context_window, found.max_output_tokens) == (128_000, 16_384)
    assert ":openai/gpt-4o-mini@" in found.price_id


def test_a_model_nobody_knows_has_no_price_and_a_provider_of_ones_own_counts() -> None:
    hub = llmhub.Hub(providers={"mine": replace(PROVIDERS["compatible"], name="mine")})
    found = llmhub.metadata("mine/model", hub=hub)
    assert (found.provider, found.model, found.price_id, found.context_window) == ("mine", "model", "", None)


@pytest.mark.parametrize("name", ["gpt-4o-mini", "opnai/gpt-4o", "openai/"])
def test_a_name_that_names_nothing_is_refused(name: str) -> None:
    with pytest.raises(BadRequestError):
        llmhub.metadata(name, hub=llmhub.Hub())


async def test_a_provider_is_checked_from_a_script_and_awaited() -> None:
    with serving(Simulator(seed=1)) as simulator, llmhub.Hub(endpoints=simulator.endpoints()) as hub:
        awaited = await llmhub.ahealth_check("anthropic", hub=hub)
        waited = llmhub.health_check("anthropic", hub=hub)
    assert awaited.ok
    assert awaited.key_accepted
    assert replace(waited, latency_s=0) == replace(awaited, latency_s=0)


def test_one_without_a_key_says_so_and_one_without_a_name_raises(monkeypatch: Any) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = llmhub.health_check("openai", hub=llmhub.Hub())
    assert isinstance(found.error, AuthFailed)
    assert not found.ok
    with pytest.raises(BadRequestError, match="Did you mean 'openai'"):
        llmhub.health_check("opnai", hub=llmhub.Hub())
