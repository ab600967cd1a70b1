"""Budgets against a simulator, which counts what its responses would have cost."""

from __future__ import annotations

import os
import pickle
import signal
from decimal import Decimal
from typing import Any

import joblib
import pyarrow as pa
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError, BudgetExceededError
from llmhub.progress.text import cost_text
from llmhub.sim import Faults, Latency, Simulator, SimulatorThread, serving

MODEL = "openai/gpt-4o-mini"
INPUT, OUTPUT = Decimal("1.5e-7"), Decimal("6e-7")
"""Price per token of this model (USD)."""


def make_hub(simulator: SimulatorThread, **options: Any) -> llmhub.Hub:
    retry = llmhub.Retry(base_s=0.001, cap_s=0.002)
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **{"retry": retry, **options})


def frame(rows: int) -> pa.Table:
    return pa.table({"t": [f"Describe the {row}th lighthouse{' and its keeper' * (row % 7)}." for row in range(rows)]})


def ask(hub: llmhub.Hub, rows: int = 400, **options: Any) -> pa.Table:
    options = {"model": MODEL, "max_tokens": 60, "concurrency": 64, "progress": False, **options}
    return llmhub.complete_table(frame(rows), "{t}", hub=hub, **options)


def billed(simulator: SimulatorThread) -> Decimal:
    """Return what the simulator's responses would have cost, delivered or not."""
    tokens = simulator.counts()["tokens"]
    return Decimal(tokens["input"]) * INPUT + Decimal(tokens["output"]) * OUTPUT


def statuses(table: pa.Table) -> dict[str, int]:
    counted = table.column("status").value_counts().to_pylist()
    return {count["values"]: count["counts"] for count in counted}


WORST = Decimal("0.0001")
"""More than any of these calls can cost."""


@pytest.mark.parametrize("where", ["hub", "call"])
@pytest.mark.parametrize(
    "faults", [Faults(), Faults(rate_500=0.1, rate_429=0.1, retry_after_s=0.001, reset=0.05, truncate=0.05)]
)
def test_budget_is_never_exceeded_with_64_calls_in_flight(where: str, faults: Faults) -> None:
    limit = Decimal("0.00345")
    with serving(Simulator(seed=3, latency=Latency(0.06, 0.5), faults=faults)) as simulator:
        with make_hub(simulator, **({"budget_usd": limit} if where == "hub" else {})) as hub:
            table = ask(hub, **({"budget_usd": limit} if where == "call" else {}))
            budget = hub.spending()
        assert simulator.counts()["max_in_flight"] > 16
        paid = sum(cost for cost in table.column("cost_usd").to_pylist() if cost is not None)
        assert paid <= billed(simulator) <= limit
        if budget is not None:
            assert billed(simulator) <= budget.spent_usd <= limit
            assert budget.reserved == 0
            # Calls stop only when nothing more fits: rows wait for those in flight to be settled.
            assert budget.spent_usd > limit - WORST
        elif faults == Faults():
            assert paid > limit - WORST
        counts = statuses(table)
        assert set(counts) == {"ok", "budget"} | ({"error"} if counts.get("error") else set())
        if faults == Faults():
            assert simulator.counts()["requests"] == counts["ok"]


def test_rows_beyond_the_budget_have_status_budget_and_cost_nothing(simulator: SimulatorThread) -> None:
    with make_hub(simulator) as hub:
        table = ask(hub, 20, budget_usd=0)
    assert statuses(table) == {"budget": 20}
    assert simulator.counts()["requests"] == 0
    assert table.column("attempts").to_pylist() == [0] * 20
    assert set(table.column("error_type").to_pylist()) == {"BudgetExceeded"}
    assert "but only $0 of the budget of $0 is left" in table.column("error").to_pylist()[0]


def test_cached_rows_cost_nothing(simulator: SimulatorThread) -> None:
    with make_hub(simulator, cache=llmhub.MemoryCache()) as hub:
        assert statuses(ask(hub, 20)) == {"ok": 20}
        assert statuses(ask(hub, 25, budget_usd=0)) == {"ok": 20, "budget": 5}


def test_hub_budget_is_shared_by_all_calls_and_survives_close(simulator: SimulatorThread) -> None:
    with make_hub(simulator, budget_usd="0.0002") as hub:
        llmhub.complete("One", model=MODEL, hub=hub, max_tokens=100)
        budget = hub.spending()
        assert budget is not None
        assert budget.spent_usd == billed(simulator) > 0
        hub.close()
        assert hub.spending() == budget
        with pytest.raises(BudgetExceededError, match="may cost"):
            llmhub.complete("One", model=MODEL, hub=hub, max_tokens=1000)
        with pytest.raises(BudgetExceededError):
            list(llmhub.stream("One", model=MODEL, hub=hub, max_tokens=1000))
        assert "".join(chunk.text for chunk in llmhub.stream("Two", model=MODEL, hub=hub, max_tokens=100))
        spent = hub.spending()
        assert spent is not None
        assert spent.spent_usd == billed(simulator)


def test_model_without_a_price_is_refused_unless_allowed(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    with llmhub.Hub(endpoints=endpoints, settings=Settings()) as hub:
        for refused in (
            lambda: llmhub.complete("hi", model="compatible/m", hub=hub, budget_usd=1),
            lambda: ask(hub, 1, model="compatible/m", budget_usd=1),
        ):
            with pytest.raises(BadRequestError, match=r"'compatible/m' has no known price.*allow_unpriced=True"):
                refused()
        assert server.requests == []
        assert llmhub.complete("hi", model="compatible/m", hub=hub, budget_usd=1, allow_unpriced=True).text == "Hi"
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), budget_usd=1, allow_unpriced=True) as hub:
        assert ask(hub, 1, model="compatible/m").column("response").to_pylist() == ["Hi"]


def test_batches_share_one_budget(simulator: SimulatorThread) -> None:
    limit = Decimal("0.0009")
    with make_hub(simulator) as hub:
        batches = frame(60).to_batches(max_chunksize=20)
        done = llmhub.complete_record_batches(
            batches, "{t}", model=MODEL, hub=hub, max_tokens=60, budget_usd=limit, progress=False
        )
        table = pa.Table.from_batches(done)
    assert billed(simulator) <= limit
    assert statuses(table)["budget"] > 0


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_processes_share_one_budget(simulator: SimulatorThread, backend: str) -> None:
    """Runs spend it one after another; what processes have spent is part of it."""
    limit = Decimal("0.0009")
    with make_hub(simulator, budget_usd=limit) as hub, joblib.parallel_config(backend=backend):
        for number in range(4):
            texts = pa.table({"t": [f"{number} {text}" for text in frame(20).column("t").to_pylist()]})
            table = llmhub.complete_parallel(texts, "{t}", model=MODEL, hub=hub, n_jobs=2, max_tokens=60)
            spent = hub.spending()
            assert spent is not None
            assert spent.reserved == 0
            assert 0 < spent.spent_usd == billed(simulator) <= limit
        assert statuses(table)["budget"] > 0
        # Rows are refused only when no further call fits.
        assert limit - WORST < billed(simulator)
        # What is left is for the calls of this process, too.
        ask(hub, 60, max_tokens=60)
        assert billed(simulator) <= limit


@pytest.mark.parametrize("where", ["hub", "call"])
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading", "sequential"])
def test_no_row_is_refused_while_the_budget_of_all_processes_has_room(
    simulator: SimulatorThread, backend: str, where: str
) -> None:
    """Calls may cost many times what they do cost; a process waits for those of others instead of refusing a row."""
    largest = Decimal("0.0013")
    with make_hub(simulator) as hub:
        ask(hub, 40, max_tokens=2000)
        cost = billed(simulator)
    assert cost < largest * 4
    limit = cost + largest  # fewer than two calls may be in flight at the end
    of_hub, of_call = ({"budget_usd": limit}, {}) if where == "hub" else ({}, {"budget_usd": limit})
    options: Any = {"max_tokens": 2000, **of_call}
    with make_hub(simulator, **of_hub) as hub, joblib.parallel_config(backend=backend):
        table = llmhub.complete_parallel(frame(40), "{t}", model=MODEL, hub=hub, n_jobs=2, **options)
        spent = hub.spending()
    assert statuses(table) == {"ok": 40}
    assert billed(simulator) == 2 * cost
    if spent is not None:
        assert (spent.spent_usd, spent.reserved) == (cost, 0)


class DistantBackend(joblib.parallel.ThreadingBackend):  # type: ignore[misc]  # joblib has no types
    """A backend that is not joblib's own, so that its workers may be on other machines."""


@pytest.mark.parametrize("backend", ["sequential", "distant"])
def test_what_one_part_does_not_spend_is_for_the_next_ones(simulator: SimulatorThread, backend: str) -> None:
    """A share is not lost with its part, so a budget of little more than the cost of a run is enough."""
    joblib.register_parallel_backend("distant", DistantBackend)
    with make_hub(simulator) as hub:
        ask(hub, 60, max_tokens=60)
        cost = billed(simulator)
    with make_hub(simulator, budget_usd=2 * cost) as hub, joblib.parallel_config(backend=backend):
        table = llmhub.complete_parallel(frame(60), "{t}", model=MODEL, hub=hub, n_jobs=2, max_tokens=60)
        spent = hub.spending()
    assert spent is not None
    assert spent.spent_usd == cost
    assert statuses(table) == {"ok": 60}


def test_batches_of_processes_share_one_budget(simulator: SimulatorThread) -> None:
    limit = Decimal("0.0009")
    with make_hub(simulator) as hub, joblib.parallel_config(backend="threading"):
        batches = frame(60).to_batches(max_chunksize=20)
        options: Any = {"max_tokens": 60, "budget_usd": limit, "n_jobs": 2, "progress": False}
        table = pa.Table.from_batches(llmhub.complete_record_batches(batches, "{t}", model=MODEL, hub=hub, **options))
    assert billed(simulator) <= limit
    assert statuses(table)["budget"] > 0
    assert statuses(table)["ok"] > 0


def test_a_budget_counts_what_a_killed_process_may_have_spent(simulator: SimulatorThread) -> None:
    limit = Decimal("0.0009")

    def killing_prompt(row: Any) -> str:
        if "5th" in row.t:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"Say {row.t}"

    with make_hub(simulator, budget_usd=limit) as hub:
        with pytest.raises(Exception, match="terminated") as caught:
            llmhub.complete_parallel(frame(8), killing_prompt, model=MODEL, hub=hub, n_jobs=2, max_tokens=60)
        spent = hub.spending()
    assert spent is not None
    assert spent.reserved == 0
    assert billed(simulator) <= spent.spent_usd <= limit
    assert set(caught.value.table.column("status").to_pylist()) <= {"ok"}  # type: ignore[attr-defined]


def test_a_pickled_hub_may_spend_what_is_left(simulator: SimulatorThread) -> None:
    limit = Decimal("0.0009")
    with make_hub(simulator, budget_usd=limit) as hub:
        ask(hub, 20, max_tokens=60)
        spent = hub.spending()
        assert spent is not None
        assert spent.spent_usd == billed(simulator) > 0
        with pickle.loads(pickle.dumps(hub)) as copy:
            assert copy.spending() == spent
            ask(copy, 60, max_tokens=60)
            assert billed(simulator) <= limit
            assert copy.spending().spent_usd == billed(simulator)
        # What the copy spends is not known here.
        assert hub.spending() == spent


@pytest.mark.parametrize("invalid", [-1, "much", float("nan")])
def test_invalid_budget_raises_before_anything_is_sent(simulator: SimulatorThread, invalid: Any) -> None:
    with pytest.raises(BadRequestError, match="budget_usd"):
        make_hub(simulator, budget_usd=invalid)
    with make_hub(simulator) as hub:
        for call in (
            lambda: ask(hub, 1, budget_usd=invalid),
            lambda: llmhub.complete("x", model=MODEL, budget_usd=invalid, hub=hub),
        ):
            with pytest.raises(BadRequestError, match="budget_usd"):
                call()
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize(
    ("model", "output_tokens", "cost"),
    [("gpt-4o-mini", 1000, Decimal("0.00060045")), ("gpt-4", 10, Decimal("0.00069"))],
    ids=["more tokens than max_tokens", "a dearer model"],
)
def test_reservations_learn_from_a_provider_that_charges_more(
    scripted: Any, replies: Any, model: str, output_tokens: int, cost: Decimal
) -> None:
    """The first response shows it; from then on the budget holds exactly."""
    body = replies.body().replace(b'"model":"m"', b'"model":"%b"' % model.encode())
    body = body.replace(b'"completion_tokens":1', b'"completion_tokens":%d' % output_tokens)
    server = scripted([replies.reply(body)])
    endpoint = llmhub.Endpoint(base_url=server.url, api_key="k")
    limit = 10 * cost + cost / 2
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), budget_usd=limit) as hub:
        table = ask(hub, 40, concurrency=1, max_tokens=30)
        spending = hub.spending()
    assert statuses(table) == {"ok": 10, "budget": 30}
    assert len(server.requests) == 10
    assert spending is not None
    assert spending.spent_usd == 10 * cost <= limit


def test_calls_that_wait_for_a_rate_limit_reserve_what_was_learned_meanwhile(scripted: Any, replies: Any) -> None:
    server = scripted([replies.reply(replies.body().replace(b'"model":"m"', b'"model":"gpt-4"'))])
    endpoint = llmhub.Endpoint(base_url=server.url, api_key="k")
    limits = {"openai": llmhub.Limit(rpm=120)}  # the second call waits until half a second after the first
    cost = Decimal("0.00015")
    hub = llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), limits=limits, budget_usd=cost * 3 / 2)
    with hub:
        table = ask(hub, 2, max_tokens=30)
        spending = hub.spending()
    assert statuses(table) == {"ok": 1, "budget": 1}
    assert spending is not None
    assert spending.spent_usd == cost


# Requests of which nobody knows what they cost


@pytest.mark.parametrize("budget_usd", [None, 1])
def test_row_with_a_request_that_was_cut_off_is_marked(scripted: Any, replies: Any, budget_usd: float | None) -> None:
    server = scripted(["close"], [replies.answer("Hi")])
    endpoint = llmhub.Endpoint(base_url=server.url, api_key="k")
    retry = llmhub.Retry(base_s=0.001, cap_s=0.002)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=retry, budget_usd=budget_usd) as hub:
        row, other = ask(hub, 2, concurrency=1).to_pylist()
    assert (row["status"], row["attempts"], row["cost_usd"]) == ("ok", 2, other["cost_usd"])
    assert row["price_id"] == f"{other['price_id']} + 1 of unknown cost"


def test_row_that_was_only_cut_off_has_an_unknown_cost(scripted: Any) -> None:
    server = scripted(["close"])
    endpoint = llmhub.Endpoint(base_url=server.url, api_key="k")
    retry = llmhub.Retry(attempts=3, base_s=0.001, cap_s=0.002)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=retry, breaker=None) as hub:
        (row,) = ask(hub, 1).to_pylist()
    assert (row["status"], row["cost_usd"], row["price_id"]) == ("error", None, "3 of unknown cost")


def test_request_that_was_never_sent_is_not_marked() -> None:
    endpoint = llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=llmhub.Retry(attempts=1)) as hub:
        (row,) = ask(hub, 1).to_pylist()
    assert (row["status"], row["price_id"]) == ("error", None)


@pytest.mark.parametrize("budget_usd", [None, 1])
def test_row_whose_hedge_lost_is_marked(scripted: Any, replies: Any, budget_usd: float | None) -> None:
    slow, quick = scripted(["hang"]), scripted([replies.answer("Hi")])
    endpoints = {
        "openai": llmhub.Endpoint(base_url=slow.url, api_key="k"),
        "groq": llmhub.Endpoint(base_url=quick.url, api_key="k"),
    }
    route = llmhub.Failover(MODEL, "groq/llama-3.3-70b-versatile", hedge=llmhub.Hedge(after_s=0.01))
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), route=route, budget_usd=budget_usd) as hub:
        (row,) = ask(hub, 1).to_pylist()
    assert row["status"] == "ok"
    assert row["price_id"].endswith(" + 1 of unknown cost")


def test_single_call_with_a_request_that_was_cut_off_says_so(scripted: Any, replies: Any) -> None:
    server = scripted(["close"], [replies.answer("Hi")])
    endpoint = llmhub.Endpoint(base_url=server.url, api_key="k")
    retry = llmhub.Retry(base_s=0.001, cap_s=0.002)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=retry) as hub:
        first = llmhub.complete("One", model=MODEL, hub=hub)
        second = llmhub.complete("Two", model=MODEL, hub=hub)
    assert (first.uncertain_requests, second.uncertain_requests) == (1, 0)
    assert first.cost_usd == second.cost_usd
    assert " + 1 of unknown cost" in repr(first)
    assert "unknown" not in repr(second)


def test_progress_counts_requests_of_unknown_cost(scripted: Any, replies: Any) -> None:
    server = scripted(["close"], ["close"], [replies.answer("Hi")])
    endpoint = llmhub.Endpoint(base_url=server.url, api_key="k")
    retry = llmhub.Retry(base_s=0.001, cap_s=0.002)
    reports: list[Any] = []
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=retry) as hub:
        ask(hub, 2, concurrency=1, progress=reports.append)
    assert reports[-1].uncertain_requests == 2
    assert cost_text(reports[-1]) == "0.0000021 USD + 2 requests of unknown cost"


def anthropic_stream(*, ended: bool) -> bytes:
    """Return the events of a stream that counts 1,000 input tokens first, and the output at its end."""
    counts = b'"usage":{"input_tokens":1000,"output_tokens":1}'
    events = [
        b'{"type":"message_start","message":{"id":"m","role":"assistant","model":"x","content":[],%b}}' % counts,
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}',
    ]
    if ended:
        events += [
            b'{"type":"content_block_stop","index":0}',
            b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":20}}',
            b'{"type":"message_stop"}',
        ]
    return b"".join(b"data: %b\n\n" % event for event in events)


def test_stream_that_was_cut_off_before_its_last_count_is_marked(scripted: Any, replies: Any) -> None:
    """Its input is counted; how much output the provider charges is unknown."""
    cut, whole = ([replies.stream() + anthropic_stream(ended=ended), "close"] for ended in (False, True))
    server = scripted(cut, whole)
    endpoint = llmhub.Endpoint(base_url=server.url, api_key="k")
    retry = llmhub.Retry(base_s=0.001, cap_s=0.002)
    with llmhub.Hub(endpoints={"anthropic": endpoint}, settings=Settings(), retry=retry) as hub:
        row, other = ask(hub, 2, concurrency=1, model="anthropic/claude-sonnet-4-5", stream=True).to_pylist()
    assert (row["status"], row["attempts"]) == ("ok", 2)
    assert row["cost_usd"] == other["cost_usd"] + Decimal("0.003015")  # 1,000 input tokens and 1 output token
    assert row["price_id"] == f"{other['price_id']} + 1 of unknown cost"


def test_reply_that_cannot_be_read_has_an_unknown_cost(scripted: Any, replies: Any) -> None:
    """As for a budget, the provider may have charged it."""
    broken, whole = scripted([replies.reply(b'{"id":"c1","choices":[{"mess')]), scripted([replies.answer("Hi")])
    endpoints = {
        "openai": llmhub.Endpoint(base_url=broken.url, api_key="k"),
        "groq": llmhub.Endpoint(base_url=whole.url, api_key="k"),
    }
    with llmhub.Hub(endpoints=endpoints, settings=Settings()) as hub:
        (row,) = ask(hub, 1).to_pylist()
    assert (row["error_type"], row["cost_usd"], row["price_id"]) == ("Malformed", None, "1 of unknown cost")
    route = llmhub.Failover(MODEL, "groq/llama-3.3-70b-versatile")
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), route=route) as hub:
        (row,) = ask(hub, 1).to_pylist()
    assert row["status"] == "ok"
    assert row["price_id"].endswith(" + 1 of unknown cost")
