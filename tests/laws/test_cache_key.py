"""What decides an answer is in its key: where it is asked, in which version, by which reading; and nothing else is."""

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
def test_another_address_or_version_is_another_question(name: str, moved: dict[str, str]) -> None:
    assert key(name) != key(name, replace(PLACE, **moved))


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_whatever_changes_the_url_changes_the_key(name: str) -> None:
    """A deployment or a project stands in the path alone."""
    provider = PROVIDERS[name]
    for endpoint, request in ((replace(PLACE, project="q"), ASK), (PLACE, replace(ASK, model="other"))):
        urls = [provider.locate(*asked, False) for asked in ((PLACE, ASK), (endpoint, request))]
        keys = [request_key(provider, *asked) for asked in ((PLACE, ASK), (endpoint, request))]
        assert (urls[0] != urls[1]) <= (keys[0] != keys[1])
    elsewhere = replace(provider, locate=lambda *asked: provider.locate(*asked) + "/beta")
    assert request_key(elsewhere, PLACE, ASK) != key(name)


@pytest.mark.parametrize("field", ["temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"])
def test_absent_is_not_zero(field: str) -> None:
    assert len({key(), key(**{field: 0}), key(**{field: 1})}) == 3
    assert key(**{field: None}) == key()
    assert key(extra={field: 0}) not in {key(), key(**{field: 0})}


def plain(value: Any) -> Any:
    """Tell true from 1 and 1 from 1.0, as JSON does, and not as Python does."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return type(value).__name__, value


@given(EXTRAS, EXTRAS)
def test_two_extras_are_two_questions_and_their_order_is_none(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(extra=one) == key(extra=dict(reversed(list(one.items()))))
    if plain(one) == plain(other):
        assert key(extra=one) == key(extra=other)
    if one != other:
        assert key(extra=one) != key(extra=other)


@given(st.lists(st.text(max_size=6) | st.just(PLACEHOLDER), max_size=6), st.integers(0, 3))
def test_many_texts_are_keyed_like_each(texts: list[str], sample: int) -> None:
    for name in ("openai", "google", "bedrock"):
        ask = request_template(replace(ASK, messages=(Message("system", "be brief"),)))
        keys = batch_prompt_keyer(PROVIDERS[name], PLACE, ask)(texts, sample)
        assert keys == [request_key(PROVIDERS[name], PLACE, ask(text), sample) for text in texts]


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as made:
        yield made


def test_a_new_reading_never_serves_what_an_old_one_read(
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
