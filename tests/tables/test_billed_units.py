"""Costs in tables, caches, ledgers and loops of tools, where a reply counts more than tokens; over real HTTP."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.pricing import Price, Rates
from llmhub.core.types import Usage
from llmhub.engine.call import Target
from llmhub.providers.registry import PROVIDERS
from llmhub.tables.batch_columns import batch_costs
from llmhub.tables.cost_columns import USD_TYPE, TokenColumns

USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"audio_tokens": 600},
    "completion_tokens_details": {"audio_tokens": 80},
}
USD = Decimal("0.02552")
"""400 tokens at 2.5 USD a million, 600 of audio at 32, 20 at 10 and 80 of audio at 64."""


def reply(replies: Any, **message: Any) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return replies.reply(json.dumps({"model": "gpt-audio", "choices": [choice], "usage": USAGE}).encode())


def run(hub: llmhub.Hub, model: str = "openai/gpt-audio", **options: Any) -> dict[str, Any]:
    table = llmhub.complete_table({"n": [1]}, "{n}", model=model, hub=hub, progress=False, **options)
    return {name: table[name][0].as_py() for name in ("status", "cost_usd", "list_cost_usd", "price_id", "cache_hit")}


def test_audio_is_priced_in_tables_the_cache_and_the_ledger(scripted: Any, replies: Any, tmp_path: Path) -> None:
    server = scripted([reply(replies, content="Hi")])
    endpoints = {"openai": llmhub.Endpoint(base_url=server.url, api_key="k")}
    for is_again in (False, True):
        cache = llmhub.DiskCache(tmp_path / "cache.db")
        with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=cache) as hub:
            row = run(hub)
            assert (row["cost_usd"], row["list_cost_usd"], row["cache_hit"]) == (0 if is_again else USD, USD, is_again)
            assert row["price_id"].endswith("#audio")
            assert llmhub.ledger(hub=hub)["cost_usd"].to_pylist() == [USD]
            assert llmhub.complete("1", model="openai/gpt-audio", hub=hub).list_cost_usd == USD


def test_units_of_all_turns_are_summed(scripted: Any, replies: Any) -> None:
    def clock() -> str:
        """Return the time."""
        return "noon"

    call = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    server = scripted([reply(replies, content=None, tool_calls=[call])], [reply(replies, content="noon")])
    endpoints = {"openai": llmhub.Endpoint(base_url=server.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        response = llmhub.complete("q", model="openai/gpt-audio", hub=hub, tools=[clock])
        assert response.usage.billed_units == (("audio:input_tokens", 1200), ("audio:output_tokens", 160))
        assert response.cost_usd == 2 * USD


@pytest.mark.parametrize("provider", ["nvidia", "snowflake"])
def test_credits_are_named_in_place_of_a_price(provider: str, scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer("Hi")])
    endpoints = {provider: llmhub.Endpoint(base_url=server.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        row = run(hub, f"{provider}/m")
        (planned,) = llmhub.plan({"n": [1]}, "{n}", model=f"{provider}/m", hub=hub).models
        with pytest.raises(llmhub.BadRequestError, match="billed in credits, not in USD"):
            run(hub, f"{provider}/m", budget_usd=1)
    assert (row["status"], row["cost_usd"], row["price_id"]) == ("ok", None, f"credits:{provider}")
    assert (planned.usd, planned.price_id) == (None, f"credits:{provider}")


def test_budget_reserves_the_price_of_audio_that_a_request_may_hold(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer("Hi")])
    endpoints = {"openai": llmhub.Endpoint(base_url=server.url, api_key="k")}
    options: dict[str, Any] = {"max_tokens": 100, "budget_usd": 0.003}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        assert run(hub, **options)["status"] == "ok"
        with pytest.raises(llmhub.BudgetExceededError):
            run(hub, extra={"modalities": ["text", "audio"]}, **options)


def test_batches_are_billed_for_audio_and_searches() -> None:
    provider, units = PROVIDERS["openai"], (("audio:output_tokens", 80), ("web_search:requests", 1))
    counts = {"input_tokens": 1000, "output_tokens": 100}
    columns = {name: pa.chunked_array([pa.array([counts.get(name)], pa.int64())]) for name in TokenColumns.__slots__}
    costs = {name: pa.chunked_array([pa.nulls(1, USD_TYPE)]) for name in ("list_cost_usd", "cost_usd")}
    price = Price(
        price_id="x@y",
        source="x",
        rates=Rates(input=Decimal("2e-6"), output=Decimal("8e-6")),
        units={"audio:output_tokens": Decimal("56e-6"), "web_search:requests": Decimal("0.01")},
    )
    priced = batch_costs(
        {**columns, **costs, "price_id": pa.chunked_array([pa.nulls(1, pa.string())])},
        [0],
        {0: Usage(**counts, billed_units=units)},
        [Target(provider, llmhub.Endpoint(), "gpt-audio", "openai/gpt-audio")],
        [price],
        pa.array([0]),
    )
    # Half of 0.002 for the prompt, 0.0008 for text and 0.00448 for audio; a search costs what it does alone.
    assert priced["cost_usd"].to_pylist() == [Decimal("0.01364")]
    assert priced["list_cost_usd"].to_pylist() == [Decimal("0.01728")]
    assert priced["price_id"].to_pylist() == ["x@y#batch#audio#web_search"]
