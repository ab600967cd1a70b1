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
from llmhub.core import cache_key, prepared
from llmhub.core.cache_key import legacy_request_keyer, request_key
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


# Credentials under any name

VOLATILE = [
    "Authorization",
    "X-Auth-Token",
    "Ocp-Apim-Subscription-Key",
    "Helicone-Auth",
    "cf-aig-authorization",
    "Cookie",
    "traceparent",
    "X-Request-Id",
    "X-Model-Key",
    "X-Model-ID",
    "X_MODEL_KEY",
    "X-Goog-User-Project",
    "Idempotency-Key",
    "X-Team",
    "User-Agent",
]
MEANINGFUL = [
    "anthropic-beta",
    "OpenAI-Organization",
    "X-Model-Variant",
    "azureml-model-deployment",
    "x-portkey-config",
]


@pytest.mark.parametrize("name", VOLATILE)
def test_headers_of_callers_do_not_change_the_key(name: str) -> None:
    assert key(endpoint=replace(PLACE, headers={name: "a"})) == key()


@pytest.mark.parametrize("name", MEANINGFUL)
def test_headers_that_determine_the_response_change_the_key(name: str) -> None:
    keys = {key(endpoint=replace(PLACE, headers={name: value})) for value in ("a", "b")}
    assert len(keys | {key()}) == 3
    assert key(endpoint=replace(PLACE, headers={name.lower(): "a"})) in keys


def test_named_headers_change_the_key() -> None:
    endpoints = [replace(PLACE, headers={"X-Persona": value}, cache_key_names=["x-persona"]) for value in ("a", "b")]
    assert len({key(), *(key(endpoint=endpoint) for endpoint in endpoints)}) == 3


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://ann:pw@localhost:8000/v1", True),
        ("http://localhost:8000/v1?sig=a&sv=2024", True),
        ("http://ann:pw@localhost:8000/v1?key=a", True),
        ("http://localhost:8000/v1?api-version=2", False),
        ("http://localhost:8000/v1?deployment=a&sig=b", False),
    ],
)
def test_secrets_of_the_address_do_not_change_the_key(url: str, same: bool) -> None:
    assert (key(endpoint=replace(PLACE, base_url=url)) == key()) == same


def test_renewed_token_pays_nothing_again(simulator: SimulatorThread, tmp_path: Any) -> None:
    place = simulator.endpoints()["openai"]
    hits = []
    for token in ("first", "second"):
        endpoint = replace(
            place,
            base_url=place.base_url.replace("http://", f"http://ann:{token}@"),
            api_key="",
            headers={"X-Auth-Token": token, "traceparent": token},
        )
        with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=tmp_path / "cache.db") as hub:
            table = llmhub.complete_table({"q": ["a", "b"]}, "{q}", model=MODEL, hub=hub, progress=False)
            hits.append([table["status"].to_pylist(), table["cache_hit"].to_pylist()])
            hits.append(llmhub.complete("one call", model=MODEL, hub=hub).cache_hit)
    assert hits == [[["ok", "ok"], [False, False]], False, [["ok", "ok"], [True, True]], True]


def test_response_stored_under_its_earlier_key_is_found(
    simulator: SimulatorThread, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In earlier versions, keys covered every header that is not a known credential, and the whole address."""
    endpoint = replace(simulator.endpoints()["openai"], headers={"X-Auth-Token": "t", "x-api-key": "k"})
    path = tmp_path / "cache.db"

    def run() -> list[Any]:
        with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=path) as hub:
            table = llmhub.complete_table({"q": ["a", "b", "a"]}, "{q}", model=MODEL, hub=hub, progress=False)
            single = llmhub.complete("one call", model=MODEL, hub=hub)
            return [table["response"].to_pylist(), single.text, table["cache_hit"].to_pylist(), single.cache_hit]

    legacy = replace(endpoint, headers={"X-Auth-Token": "t"})
    with monkeypatch.context() as patch:
        for module in (cache_key, prepared):
            patch.setattr(module, "keyed_endpoint", lambda _: legacy)
        texts = run()[:2]
    sent = simulator.counts()["requests"]
    assert run() == [*texts, [True] * 3, True]
    assert simulator.counts()["requests"] == sent


def test_endpoints_without_such_headers_have_no_earlier_keys() -> None:
    for endpoint in (PLACE, Endpoint(api_key="k"), replace(PLACE, headers={"anthropic-beta": "b", "Cookie": "c"})):
        assert legacy_request_keyer(PROVIDERS["openai"], endpoint) is None
