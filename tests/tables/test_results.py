"""The results table: one row per outcome, in input order, with the exact schema."""

from __future__ import annotations

import decimal
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError, InternalServerError, UnsupportedParameterError
from llmhub.sim import SimulatorThread
from llmhub.tables.schema import RESULTS

MODEL = "openai/gpt-4o-mini"
BOTH = [MODEL, "anthropic/claude-haiku-4-5"]


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    retry = llmhub.Retry(attempts=2, base_s=0.001)
    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache(), retry=retry
    ) as hub:
        yield hub


def ask(frame: Any, hub: llmhub.Hub, prompt: str = "Say {t}", **options: Any) -> pa.Table:
    return llmhub.complete_table(frame, prompt, model=options.pop("model", MODEL), hub=hub, progress=False, **options)


def test_the_schema_is_exact_and_has_the_run_id(hub: llmhub.Hub) -> None:
    first, second = ask({"t": ["one"]}, hub), ask({"t": ["one"]}, hub)
    assert first.schema.equals(RESULTS, check_metadata=False)
    for field in RESULTS:
        assert first.schema.field(field.name).metadata == field.metadata
    assert first.schema.metadata[b"schema_version"] == RESULTS.metadata[b"schema_version"]
    assert first.schema.metadata[b"run_id"] != second.schema.metadata[b"run_id"]
    first.validate(full=True)


def test_rows_are_ordered_by_input_row_model_and_sample(hub: llmhub.Hub) -> None:
    table = ask({"t": [f"word {i}" for i in range(50)]}, hub, model=BOTH, n=2, concurrency=7)
    assert table.column("row").to_pylist() == [row for row in range(50) for _ in range(4)]
    assert table.column("sample").to_pylist() == [0, 1, 0, 1] * 50
    assert table.column("provider").to_pylist() == ["openai", "openai", "anthropic", "anthropic"] * 50
    for row in range(0, 50, 7):
        single = llmhub.complete(f"Say word {row}", model=MODEL, hub=hub).text
        assert table.column("response")[row * 4].as_py() == single


def test_a_failed_row_does_not_affect_others(hub: llmhub.Hub) -> None:
    table = ask({"t": ["fine", "[[sim:500 always]]", None, "also fine"]}, hub)
    assert table.column("status").to_pylist() == ["ok", "error", "skipped", "ok"]
    assert table.column("error_type").to_pylist() == [None, "ServerError", None, None]
    assert table.column("attempts").to_pylist() == [1, 2, 0, 1]
    assert table.column("response").null_count == 2
    assert table.column("request_key").null_count == 1


def test_the_exception_of_a_run_carries_its_table(hub: llmhub.Hub) -> None:
    with pytest.raises(InternalServerError) as caught:
        ask({"t": ["fine", "[[sim:500 always]]"]}, hub, on_error="raise")
    assert isinstance(caught.value.table, pa.Table)
    assert caught.value.table.column("status").to_pylist() == ["ok", "error"]


def test_a_repeated_run_is_answered_from_the_cache(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    frame = {"t": ["one", "two"]}
    first = ask(frame, hub, model=BOTH)
    sent = simulator.counts()["requests"]
    second = ask(frame, hub, model=BOTH)
    assert simulator.counts()["requests"] == sent == 4
    assert second.column("cache_hit").to_pylist() == [True] * 4
    assert second.column("cost_usd").to_pylist() == [Decimal(0)] * 4
    for name in ("response", "list_cost_usd", "latency_s", "served_model", "request_id", "request_key", "started_at"):
        assert second.column(name).to_pylist() == first.column(name).to_pylist(), name
    assert first.column("cost_usd").to_pylist() == first.column("list_cost_usd").to_pylist()


def test_equal_rows_are_sent_once_without_a_cache(simulator: SimulatorThread) -> None:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as uncached:
        table = ask({"t": ["one", "two", "one", "one"]}, uncached)
    assert simulator.counts()["requests"] == 2
    assert table.column("cache_hit").to_pylist() == [False, False, True, True]
    responses = table.column("response").to_pylist()
    assert responses[0] == responses[2] == responses[3] != responses[1]
    assert [cost == 0 for cost in table.column("cost_usd").to_pylist()] == [False, False, True, True]


def test_costs_are_exact_and_name_their_price(hub: llmhub.Hub) -> None:
    table = ask({"t": ["one"]}, hub)
    (cost, price, input_tokens, output_tokens) = (
        table.column(name)[0].as_py() for name in ("cost_usd", "price_id", "input_tokens", "output_tokens")
    )
    # https://openai.com/api/pricing (read 2026-11-22): 0.15 and 0.60 USD per million tokens.
    assert cost == (Decimal("0.15") * input_tokens + Decimal("0.60") * output_tokens).scaleb(-6)
    assert "openai/gpt-4o-mini@" in price


def test_costs_at_an_unknown_price_are_null(hub: llmhub.Hub) -> None:
    table = ask({"t": ["one"]}, hub, model="openai/my-own-model")
    assert [table.column(name)[0].as_py() for name in ("cost_usd", "list_cost_usd", "price_id")] == [None] * 3
    again = ask({"t": ["one"]}, hub, model="openai/my-own-model")
    assert again.column("cost_usd")[0].as_py() == 0
    assert again.column("list_cost_usd")[0].as_py() is None


def test_a_streamed_response_equals_an_unstreamed_one_and_has_a_ttft(
    hub: llmhub.Hub, simulator: SimulatorThread
) -> None:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as uncached:
        streamed = ask({"t": ["one"]}, uncached, model=BOTH, stream=True)
        unstreamed = ask({"t": ["one"]}, uncached, model=BOTH)
    assert streamed.column("response").to_pylist() == unstreamed.column("response").to_pylist()
    assert streamed.column("output_tokens").to_pylist() == unstreamed.column("output_tokens").to_pylist()
    assert streamed.column("ttft_s").null_count == 0
    assert unstreamed.column("ttft_s").null_count == 2


def test_dropped_parameters_are_listed(hub: llmhub.Hub) -> None:
    with pytest.raises(UnsupportedParameterError, match="seed"):
        ask({"t": ["one"]}, hub, model=BOTH, seed=7)
    table = ask({"t": ["one"]}, hub, model=BOTH, seed=7, unsupported="drop")
    assert table.column("dropped_params").to_pylist() == [[], ["seed"]]


@pytest.mark.parametrize("kind", ["mapping", "table", "batch", "reader", "pandas"])
def test_every_kind_of_frame_is_accepted(hub: llmhub.Hub, kind: str) -> None:
    columns = {"t": ["one", None, "three"]}
    table = pa.table(columns)
    frames: dict[str, Any] = {
        "mapping": columns,
        "table": table,
        "batch": table.to_batches()[0],
        "reader": table.to_reader(),
        "pandas": pd.DataFrame(columns),
    }
    results = ask(frames[kind], hub)
    assert results.column("status").to_pylist() == ["ok", "skipped", "ok"]


def test_a_value_that_is_not_a_frame_is_rejected(hub: llmhub.Hub) -> None:
    with pytest.raises(BadRequestError, match=r"frame: int is not a frame"):
        ask(7, hub)


def test_an_empty_frame_has_empty_results(hub: llmhub.Hub) -> None:
    table = ask({"t": pa.array([], pa.string())}, hub, model=BOTH, n=2)
    assert (table.num_rows, table.schema.equals(RESULTS)) == (0, True)


@pytest.mark.parametrize("dtype", [object, pd.StringDtype("python")], ids=str)
def test_a_lone_surrogate_fails_in_its_own_row(hub: llmhub.Hub, dtype: Any) -> None:
    """A lone surrogate cannot be encoded as UTF-8, but a column of Python's strings can contain it."""
    frame = pd.DataFrame({"t": pd.Series(["fine", "half \ud800", "fine too"], dtype=dtype)})
    assert ask(frame, hub).column("status").to_pylist() == ["ok", "error", "ok"]


def test_sums_of_costs_are_exact_in_pandas(hub: llmhub.Hub) -> None:
    table = ask({"t": [f"word {i}" for i in range(200)]}, hub)
    with decimal.localcontext(prec=50):
        total = sum(table.column("cost_usd").to_pylist(), Decimal(0))
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    assert frame["cost_usd"].sum() == total


@pytest.mark.parametrize(
    ("provider", "reply", "cost", "price_id"),
    [
        (
            "openrouter",
            {"usage": {"cost": 0.25, "prompt_tokens": 1, "completion_tokens": 1}},
            "0.25",
            "reported:openrouter",
        ),
        ("openai", {"usage": {"cost": 0.25, "prompt_tokens": 1000, "completion_tokens": 0}}, "0.00125", ""),
        (
            "openai",
            {"usage": {"prompt_tokens": 1000, "completion_tokens": 0}, "service_tier": "flex"},
            "0.000625",
            "#flex",
        ),
    ],
)
def test_costs_besides_the_list_price_are_marked(
    provider: str, reply: dict[str, Any], cost: str, price_id: str, scripted: Any, replies: Any, tmp_path: Path
) -> None:
    """A cost that a reply states counts for providers that document it in USD; the ledger has the same costs."""
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    body = json.dumps({"model": "gpt-5", "choices": [choice], **reply}).encode()
    server = scripted([replies.reply(body)])
    endpoints = {provider: llmhub.Endpoint(base_url=server.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=tmp_path / "runs.db") as hub:
        first, again = (ask(pa.table({"t": ["a"]}), hub, model=f"{provider}/gpt-5") for _ in range(2))
        assert llmhub.ledger(hub=hub)["cost_usd"].to_pylist() == [Decimal(cost)]
    for table in (first, again):
        assert table["list_cost_usd"].to_pylist() == [Decimal(cost)]
        assert table["price_id"].to_pylist()[0].endswith(price_id)
    assert first["cost_usd"].to_pylist() == [Decimal(cost)]
    assert again["cost_usd"].to_pylist() == [Decimal(0)]
