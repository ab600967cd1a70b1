"""Budgets against a simulator: what it was asked for is what would have been paid."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError, BudgetExceededError
from llmhub.sim import Faults, Latency, Simulator, SimulatorThread, serving

MODEL = "openai/gpt-4o-mini"


INPUT, OUTPUT = Decimal("1.5e-7"), Decimal("6e-7")
"""What a token of this model costs (USD)."""


def hub(simulator: SimulatorThread, **more: Any) -> llmhub.Hub:
    retry = llmhub.Retry(base_s=0.001, cap_s=0.002)
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **{"retry": retry, **more})


def frame(rows: int) -> pa.Table:
    return pa.table({"t": [f"Describe the {row}th lighthouse{' and its keeper' * (row % 7)}." for row in range(rows)]})


def ask(made: llmhub.Hub, rows: int = 400, **more: Any) -> pa.Table:
    given = {"model": MODEL, "max_tokens": 60, "concurrency": 64, "progress": False, **more}
    return llmhub.complete_table(frame(rows), "{t}", hub=made, **given)


def billed(simulator: SimulatorThread) -> Decimal:
    """Give what the simulator's answers would have cost, answered for or not."""
    tokens = simulator.counts()["tokens"]
    return Decimal(tokens["input"]) * INPUT + Decimal(tokens["output"]) * OUTPUT


def statuses(table: pa.Table) -> dict[str, int]:
    counted = table.column("status").value_counts().to_pylist()
    return {one["values"]: one["counts"] for one in counted}


WORST = Decimal("0.0001")
"""More than one call of these can cost."""


@pytest.mark.parametrize("where", ["hub", "call"])
@pytest.mark.parametrize(
    "faults", [Faults(), Faults(rate_500=0.1, rate_429=0.1, retry_after_s=0.001, reset=0.05, truncate=0.05)]
)
def test_budget_is_never_exceeded_with_64_calls_in_flight(where: str, faults: Faults) -> None:
    limit = Decimal("0.00345")
    with serving(Simulator(seed=3, latency=Latency(0.06, 0.5), faults=faults)) as simulator:
        with hub(simulator, **({"budget_usd": limit} if where == "hub" else {})) as made:
            table = ask(made, **({"budget_usd": limit} if where == "call" else {}))
            found = made.spending()
        assert simulator.counts()["max_in_flight"] > 16
        paid = sum(cost for cost in table.column("cost_usd").to_pylist() if cost is not None)
        assert paid <= billed(simulator) <= limit
        if found is not None:
            assert billed(simulator) <= found.spent_usd <= limit
            assert found.reserved == 0
            # It stops only when nothing more fits: rows wait for those under way to be reckoned up.
            assert found.spent_usd > limit - WORST
        elif faults == Faults():
            assert paid > limit - WORST
        counts = statuses(table)
        assert set(counts) == {"ok", "budget"} | ({"error"} if counts.get("error") else set())
        if faults == Faults():
            assert simulator.counts()["requests"] == counts["ok"]


def test_rows_beyond_the_budget_have_status_budget_and_cost_nothing(simulator: SimulatorThread) -> None:
    with hub(simulator) as made:
        table = ask(made, 20, budget_usd=0)
    assert statuses(table) == {"budget": 20}
    assert simulator.counts()["requests"] == 0
    assert table.column("attempts").to_pylist() == [0] * 20
    assert set(table.column("error_type").to_pylist()) == {"BudgetExceeded"}
    assert "but only $0 of the budget of $0 is left" in table.column("error").to_pylist()[0]


def test_cached_rows_cost_nothing(simulator: SimulatorThread) -> None:
    with hub(simulator, cache=llmhub.MemoryCache()) as made:
        assert statuses(ask(made, 20)) == {"ok": 20}
        assert statuses(ask(made, 25, budget_usd=0)) == {"ok": 20, "budget": 5}


def test_hub_budget_is_shared_by_all_calls_and_survives_close(simulator: SimulatorThread) -> None:
    with hub(simulator, budget_usd="0.0002") as made:
        llmhub.complete("One", model=MODEL, hub=made, max_tokens=100)
        found = made.spending()
        assert found is not None
        assert found.spent_usd == billed(simulator) > 0
        made.close()
        assert made.spending() == found
        with pytest.raises(BudgetExceededError, match="may cost"):
            llmhub.complete("One", model=MODEL, hub=made, max_tokens=1000)
        with pytest.raises(BudgetExceededError):
            list(llmhub.stream("One", model=MODEL, hub=made, max_tokens=1000))
        assert "".join(chunk.text for chunk in llmhub.stream("Two", model=MODEL, hub=made, max_tokens=100))
        spent = made.spending()
        assert spent is not None
        assert spent.spent_usd == billed(simulator)


def test_model_without_a_price_is_refused_unless_allowed(scripted: Any, speech: Any) -> None:
    server = scripted([speech.answer()])
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    with llmhub.Hub(endpoints=endpoints, settings=Settings()) as made:
        for refused in (
            lambda: llmhub.complete("hi", model="compatible/m", hub=made, budget_usd=1),
            lambda: ask(made, 1, model="compatible/m", budget_usd=1),
        ):
            with pytest.raises(BadRequestError, match=r"'compatible/m' has no known price.*allow_unpriced=True"):
                refused()
        assert server.requests == []
        assert llmhub.complete("hi", model="compatible/m", hub=made, budget_usd=1, allow_unpriced=True).text == "Hi"
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), budget_usd=1, allow_unpriced=True) as made:
        assert ask(made, 1, model="compatible/m").column("response").to_pylist() == ["Hi"]


def test_batches_share_one_budget(simulator: SimulatorThread) -> None:
    limit = Decimal("0.0009")
    with hub(simulator) as made:
        batches = frame(60).to_batches(max_chunksize=20)
        done = llmhub.complete_record_batches(
            batches, "{t}", model=MODEL, hub=made, max_tokens=60, budget_usd=limit, progress=False
        )
        table = pa.Table.from_batches(done)
    assert billed(simulator) <= limit
    assert statuses(table)["budget"] > 0


def test_processes_split_a_budget(simulator: SimulatorThread) -> None:
    import joblib  # noqa: PLC0415 - of this one test

    limit = Decimal("0.0009")
    with hub(simulator, budget_usd=limit) as made, joblib.parallel_config(backend="threading"):
        table = llmhub.complete_parallel(frame(60), "{t}", model=MODEL, hub=made, n_jobs=3, max_tokens=60)
    assert billed(simulator) <= limit
    assert statuses(table)["budget"] > 0


@pytest.mark.parametrize("wrong", [-1, "much", float("nan")])
def test_invalid_budget_raises_before_anything_is_sent(simulator: SimulatorThread, wrong: Any) -> None:
    with pytest.raises(BadRequestError, match="budget_usd"):
        hub(simulator, budget_usd=wrong)
    with hub(simulator) as made:
        for call in (
            lambda: ask(made, 1, budget_usd=wrong),
            lambda: llmhub.complete("x", model=MODEL, budget_usd=wrong, hub=made),
        ):
            with pytest.raises(BadRequestError, match="budget_usd"):
                call()
    assert simulator.counts()["requests"] == 0
