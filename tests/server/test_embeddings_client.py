"""Embeddings of the official ``openai`` client before the service: any provider, cached one by one, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from llmhub.cache.memory import MemoryCache
from llmhub.server.running import RunningService
from llmhub.sim import SimulatorThread

MODELS = ("openai/text-embedding-3-small", "google/gemini-embedding-001", "bedrock/amazon.titan-embed-text-v2:0")


@pytest.fixture
def client(serving: Callable[..., RunningService]) -> Iterator[openai.OpenAI]:
    url = serving(hub={"cache": MemoryCache()}).url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", MODELS)
def test_every_form_has_the_same_vectors_in_order(client: openai.OpenAI, model: str) -> None:
    texts = ["a cat", "a dog", "a cat"]
    as_base64 = client.embeddings.create(model=model, input=texts)
    as_numbers = client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert [item.index for item in as_numbers.data] == [0, 1, 2]
    assert as_numbers.data[0].embedding == as_numbers.data[2].embedding != as_numbers.data[1].embedding
    assert [item.embedding for item in as_base64.data] == [item.embedding for item in as_numbers.data]
    assert client.embeddings.create(model=model, input="a dog").data[0].embedding == as_base64.data[1].embedding


def test_vectors_are_cached_one_by_one(client: openai.OpenAI, simulator: SimulatorThread) -> None:
    first = client.embeddings.with_raw_response.create(model=MODELS[0], input=["a", "b"])
    again = client.embeddings.with_raw_response.create(model=MODELS[0], input=["b", "a"])
    assert simulator.counts()["requests"] == 1
    assert float(first.headers["x-llmhub-cost-usd"]) > 0
    assert (again.headers["x-llmhub-cost-usd"], again.headers["x-llmhub-cache-hit"]) == ("0", "true")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": [[1, 2]]}, "input[0]"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": []}, "input"),
        ({"model": "anthropic/claude-haiku-4-5"}, "model"),
        ({"dimensions": 0}, "dimensions"),
    ],
)
def test_refusals_name_the_place(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": MODELS[0], "input": "a", **change})
    assert caught.value.param == param
