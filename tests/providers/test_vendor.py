"""Adding a provider: one row in one file is enough to send requests, read prices and look up models."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

import llmhub
from llmhub.providers import registry
from llmhub.providers.model_profiles import metadata_from_profiles
from llmhub.providers.prices import find_listed_price
from llmhub.providers.vendor import ProviderEntry
from llmhub.sim import Simulator, serve

ACME = '''
"""Acme: an OpenAI-compatible server that resells Groq."""

from llmhub.providers.model_profiles import ModelProfiles, TokenLimits
from llmhub.providers.openai_compatible import openai_compatible
from llmhub.providers.vendor import PriceListing, rename_field


def _adapt(payload):
    return rename_field("max_tokens", "max_completion_tokens", payload)


ENTRIES = (
    openai_compatible(
        "acme",
        "https://api.acme.example/v1",
        "ACME_API_KEY",
        adapt=_adapt,
        models=ModelProfiles(token_limits=(TokenLimits("acme-1", 8_000, 1_000),)),
        price_listing=PriceListing("groq", lambda model: model.removeprefix("acme/")),
    ),
)
'''


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProviderEntry:
    (tmp_path / "llmhub_acme_vendor.py").write_text(ACME, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    vendor = importlib.import_module("llmhub_acme_vendor")
    return registry.collect([*registry.VENDORS, vendor])["acme"]


def test_new_provider_answers_through_the_simulator(entry: ProviderEntry) -> None:
    simulator = serve(Simulator(seed=1))
    endpoint = llmhub.Endpoint(base_url=simulator.base_url("compatible"), api_key="k")
    try:
        with llmhub.Hub(providers={"acme": entry.provider}, endpoints={"acme": endpoint}) as hub:
            response = llmhub.complete("Hi", model="acme/acme-1", max_tokens=9, hub=hub)
    finally:
        simulator.stop()
    assert response.text
    assert response.usage.output_tokens is not None
    assert response.usage.output_tokens <= 9


def test_new_provider_has_prices_and_metadata(entry: ProviderEntry) -> None:
    assert entry.price_listing is not None
    when = datetime(2026, 11, 22, tzinfo=UTC)
    assert find_listed_price(entry.price_listing, "acme/openai/gpt-oss-120b", when) is not None
    assert entry.provider.required_env == (("ACME_API_KEY",),)
    metadata = metadata_from_profiles("acme", entry.models, "acme-1")
    assert (metadata.context_window, metadata.max_output_tokens) == (8_000, 1_000)


def test_names_are_unique() -> None:
    names = [entry.provider.name for vendor in registry.VENDORS for entry in vendor.ENTRIES]
    assert len(set(names)) == len(names)
