from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

import llmhub
from llmhub.cache.store import Entry
from llmhub.core.errors import AuthFailed, BadRequestError
from llmhub.core.serialization import pack, to_stored_response
from llmhub.core.types import CompletionResponse, Image, Text
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


@pytest.mark.parametrize("kind", ["arrow", "pandas", "parquet"])
def test_whole_responses_of_a_table_are_in_the_cache(tmp_path: Path, kind: str) -> None:
    """A table has the text of a picture; the picture is reached by the key of its row."""
    picture = Image(data="iVBORw0KGgo=", media_type="image/png")
    with serving(Simulator(seed=1)) as simulator:
        hub = llmhub.Hub(endpoints=simulator.endpoints(), cache=llmhub.DiskCache(tmp_path / "cache.db"))
        rows: dict[str, list[Any]] = {"text": ["a cat", "a dog", None]}
        keys = llmhub.complete_table(rows, "{text}", model="openai/gpt-4o-mini", hub=hub)["request_key"].to_pylist()
        response = CompletionResponse(parts=(Text("Here."), picture))
        assert hub.runtime.store is not None
        hub.runtime.store.put_many([Entry(keys[0], pack(to_stored_response(response), keys[0]))])
        table: Any = llmhub.complete_table(rows, "{text}", model="openai/gpt-4o-mini", hub=hub)
        if kind == "pandas":
            table = llmhub.to_pandas(table)
        elif kind == "parquet":
            parquet.write_table(table, tmp_path / "results.parquet")
            table = parquet.read_table(tmp_path / "results.parquet")
        first, second, skipped = llmhub.responses(table, hub=hub)
        assert first is not None
        assert second is not None
        assert (first.text, first.images, second.text != "", skipped) == ("Here.", (picture,), True, None)
        with pytest.raises(BadRequestError, match="request_key"):
            llmhub.responses({"response": ["x"]}, hub=hub)
        with pytest.raises(BadRequestError, match="has no cache"):
            llmhub.responses(table, hub=llmhub.Hub(endpoints=simulator.endpoints(), cache=None))
