"""The cache key covers everything that determines the response: address, versions and mapping; and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmhub
from llmhub.config import Settings
from llmhub.core import cache_key
from llmhub.core.cache_key import request_key
from llmhub.core.prepared import PLACEHOLDER, batch_prompt_keyer, request_template
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, Message
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import SimulatorThread

ASK = CompletionRequest(model="m", messages=(Message("user", "hi"),))
PLACE = Endpoint(base_url="http://localhost:8000/v1", api_version="2026-01-01", region="eu-west-1", project="p")
VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1, allow_nan=False) | st.text(max_size=3)
EXTRAS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES | st.lists(VALUES, max_size=2), max_size=3)
MODEL = "openai/gpt-4o-mini"


def key(name: str = "openai", endpoint: Endpoint = PLACE, **changes: Any) -> bytes:
    return request_key(PROVIDERS[name], endpoint, replace(ASK, **changes))


@pytest.mark.parametrize("name", sorted(PROVIDERS))
@pytest.mark.parametrize(
    "moved",
    [
        {"base_url": "http://localhost:8001/v1"},
        {"base_url": "http://localhost:8000/v2"},
        {"api_version": "2026-02-01"},
        {"api_version": ""},
        {"region": "us-east-1"},
    ],
    ids=str,
)
def test_address_and_version_change_the_key(name: str, moved: dict[str, str]) -> None:
    assert key(name) != key(name, replace(PLACE, **moved))


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_url_changes_the_key(name: str) -> None:
    """A deployment or a project is only part of the path."""
    provider = PROVIDERS[name]
    for endpoint, request in ((replace(PLACE, project="q"), ASK), (PLACE, replace(ASK, model="other"))):
        urls = [provider.locate(*arguments, False) for arguments in ((PLACE, ASK), (endpoint, request))]
        keys = [request_key(provider, *arguments) for arguments in ((PLACE, ASK), (endpoint, request))]
        assert (urls[0] != urls[1]) <= (keys[0] != keys[1])
    elsewhere = replace(provider, locate=lambda *arguments: provider.locate(*arguments) + "/beta")
    assert request_key(elsewhere, PLACE, ASK) != key(name)


@pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"])
def test_absent_is_not_zero(field: str) -> None:
    assert len({key(), key(**{field: 0}), key(**{field: 1})}) == 3
    assert key(**{field: None}) == key()
    assert key(extra={field: 0}) not in {key(), key(**{field: 0})}


def plain(value: Any) -> Any:
    """Distinguish True, 1 and 1.0 like JSON, unlike Python."""
    if isinstance(value, dict):
        return {name: plain(left) for name, left in value.items()}
    if isinstance(value, list):
        return [plain(left) for left in value]
    return type(value).__name__, value


@given(EXTRAS, EXTRAS)
def test_extra_changes_the_key_but_its_order_does_not(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert key(extra=left) == key(extra=dict(reversed(list(left.items()))))
    if plain(left) == plain(right):
        assert key(extra=left) == key(extra=right)
    if left != right:
        assert key(extra=left) != key(extra=right)


@given(st.lists(st.text(max_size=6) | st.just(PLACEHOLDER), max_size=6), st.integers(0, 3))
def test_batch_keys_equal_single_keys(texts: list[str], sample: int) -> None:
    for name in ("openai", "google", "bedrock"):
        ask = request_template(replace(ASK, messages=(Message("system", "be brief"),)))
        keys = batch_prompt_keyer(PROVIDERS[name], PLACE, ask)(texts, sample)
        assert keys == [request_key(PROVIDERS[name], PLACE, ask(text), sample) for text in texts]


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as client:
        yield client


def test_new_mapping_version_misses_older_responses(
    hub: llmhub.Hub, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> int:
        llmhub.complete("hi", model=MODEL, hub=hub)
        llmhub.complete_table({"t": ["hi", "ho"]}, "{t}", model=MODEL, hub=hub, progress=False)
        requests: int = simulator.counts()["requests"]
        return requests

    assert [ask(), ask()] == [2, 2]
    old = key()
    monkeypatch.setattr(cache_key, "MAPPING_VERSION", cache_key.MAPPING_VERSION + 1)
    assert key() != old
    assert [ask(), ask()] == [4, 4]
    monkeypatch.undo()
    assert (key(), ask()) == (old, 4)
