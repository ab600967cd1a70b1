"""Runs through Batch APIs, end to end against the simulator: order, money, resumption, late rows, refusals."""

from __future__ import annotations

import gc
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from returns.result import Failure

import llmhub
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.store import Entry
from llmhub.config import Settings
from llmhub.core.batch import BatchApi, BatchLimits, BatchRow
from llmhub.core.errors import BadRequestError, RateLimited, TimedOut
from llmhub.core.types import CompletionRequest, CompletionResponse
from llmhub.engine import batch_client, batch_run, open_batch
from llmhub.engine.batch_client import BatchClient
from llmhub.engine.batch_results import BatchCollector
from llmhub.engine.batch_run import BatchRun
from llmhub.engine.call import Answer, Call
from llmhub.engine.open_batch import WaitingRow
from llmhub.sim import Simulator, SimulatorThread, serving
from llmhub.sim.batch_store import SimBatches
from llmhub.tables import prompt_batch, results

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash")
DAY = 86_400.0


@pytest.fixture(autouse=True)
def quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "SETTLE_S", 0.05)
    monkeypatch.setattr(batch_run, "CLAIM_POLL_S", 0.02)


@contextmanager
def simulated(path: Path, **batches: Any) -> Iterator[tuple[SimulatorThread, llmhub.Hub]]:
    with serving(Simulator(seed=5, batches=SimBatches(**batches))) as served, hub_of(served, path) as hub:
        yield served, hub


def hub_of(served: SimulatorThread, path: Path, **options: Any) -> llmhub.Hub:
    return llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), cache=DiskCache(path / "runs.db"), **options)


def complete(prompts: list[str | None], model: str, hub: llmhub.Hub, **options: Any) -> pa.Table:
    options = {"mode": "batch", "poll_s": 0.02, "progress": False, **options}
    if options["mode"] == "live":
        del options["poll_s"]
    return llmhub.complete_table({"q": prompts}, "{q}", model=model, hub=hub, **options)


def column(table: pa.Table, name: str) -> list[Any]:
    found: list[Any] = table.column(name).to_pylist()
    return found


def open_batches(hub: llmhub.Hub) -> list[str]:
    assert hub.runtime.store is not None
    assert hub.runtime.store.ledger is not None
    assert hub.runtime.store.ledger.batches is not None
    return [record.state for record in hub.runtime.store.ledger.batches.records() if record.state != "collected"]


@pytest.mark.parametrize("model", [*MODELS, "mistral/mistral-small-latest", "xai/grok-4", "together/m", "azure/m"])
def test_rows_come_back_in_order_at_the_price_of_batches(tmp_path: Path, model: str) -> None:
    prompts = [f"question {number}" for number in range(20)]
    with simulated(tmp_path) as (served, hub):
        table = complete([*prompts, None, prompts[3]], model, hub)
        live = complete(prompts, model, hub_of(served, tmp_path / "other"), mode="live")
        assert column(table, "response")[:20] == column(live, "response")
        assert column(table, "status") == ["ok"] * 20 + ["skipped", "ok"]
        assert column(table, "mode") == ["batch"] * 20 + [None, None]
        assert column(table, "cache_hit")[-1]
        factor = {"xai": Decimal("0.8"), "together": Decimal(1)}.get(model.partition("/")[0], Decimal("0.5"))
        if column(live, "cost_usd")[0] is not None:
            for cost, listed, full in zip(
                column(table, "cost_usd")[:20],
                column(table, "list_cost_usd")[:20],
                column(live, "cost_usd"),
                strict=True,
            ):
                assert listed == full
                assert abs(cost - full * factor) <= Decimal("0.5e-9")
        sent = served.counts()["requests"]
        again = complete(prompts, model, hub)
        assert column(again, "cache_hit") == [True] * 20
        assert column(again, "cost_usd") == [Decimal(0)] * 20
        assert served.counts()["requests"] == sent
        assert open_batches(hub) == []


STORAGE: dict[str, dict[str, Any]] = {
    "bedrock/anthropic.claude-3-haiku-20240307-v1:0": {
        "batch_storage": "s3://my-bucket/some folder/",
        "batch_role": "arn:aws:iam::123456789012:role/batches",
    },
    "vertex/gemini-2.5-flash": {"batch_storage": "gs://my-bucket/folder"},
    "vertex-anthropic/claude-haiku-4-5@20251001": {"batch_storage": "gs://my-bucket"},
}


@pytest.mark.parametrize("model", STORAGE)
@pytest.mark.parametrize("key", ["", "secret"])
def test_batches_in_object_storage(tmp_path: Path, model: str, key: str) -> None:
    """Rows are written to a bucket and results read from it, with credentials that the storage takes."""
    prompts = [f"question {number}" + (" [[sim:quota]]" if number == 7 else "") for number in range(120)]
    settings = Simulator(seed=5, api_key=key, batches=SimBatches(duration_s=3600.0))
    with serving(settings) as served, hub_of(served, tmp_path) as hub:
        first = complete(prompts, model, hub, deadline=0.01, **STORAGE[model])
        assert column(first, "status") == ["pending"] * 120
        served.advance_clock(4000.0)
        table = complete(prompts, model, hub, **STORAGE[model])
        assert [column(table, "status").count(status) for status in ("ok", "error")] == [119, 1]
        live = complete(prompts, model, hub_of(served, tmp_path / "other"), mode="live")
        assert column(table, "response") == column(live, "response")
        # Rows of Bedrock have a status, but not the type of the exception.
        failed = "InvalidRequest" if model.startswith("bedrock") else column(live, "error_type")[7]
        assert column(table, "error_type")[7] == failed
        for cost, full in zip(column(table, "cost_usd"), column(live, "cost_usd"), strict=True):
            assert cost is full or abs(cost - full / 2) <= Decimal("0.5e-9")
        assert len(served.batches()) == 1
        assert open_batches(hub) == []


@pytest.mark.parametrize("model", STORAGE)
def test_batches_in_object_storage_are_cancelled_expire_and_are_refused(tmp_path: Path, model: str) -> None:
    prompts = [f"question {number}" for number in range(110)]
    with simulated(tmp_path, duration_s=100.0) as (served, hub):
        job = llmhub.submit({"q": prompts}, "{q}", model=model, hub=hub, mode="batch", poll_s=0.02, **STORAGE[model])
        while job.table().num_rows < len(prompts):
            time.sleep(0.005)
        served.advance_clock(50.0)
        job.stop()
        statuses = column(job.result(20), "status")
        assert {"ok", "cancelled"} == set(statuses)
    with simulated(tmp_path / "expires", stuck=0.1, window_s=0.0) as (served, hub):
        table = complete(prompts, model, hub, late="error", **STORAGE[model])
        assert {"ok", "error"} == set(column(table, "status"))
        assert set(column(table, "error_type")) == {None, "TimedOut"}
    with simulated(tmp_path / "refused", refuse="no access to the bucket") as (served, hub):
        table = complete(prompts, model, hub, late="error", **STORAGE[model])
        assert set(column(table, "error")) == {f"{model.partition('/')[0]}: no access to the bucket"}


def test_a_batch_below_the_minimum_of_rows_is_not_sent(tmp_path: Path) -> None:
    model = next(iter(STORAGE))
    with simulated(tmp_path) as (served, hub):
        table = complete(["a", "b"], model, hub, **STORAGE[model])
        assert column(table, "error_type") == ["InvalidRequest"] * 2
        assert "takes 100 rows or more, and there are 2; late='live'" in column(table, "error")[0]
        assert served.batches() == []
        table = complete(["a", "b"], model, hub, late="live", **STORAGE[model])
        assert column(table, "mode") == ["live"] * 2
        assert column(table, "attempts") == [1] * 2
        assert open_batches(hub) == []


def test_rows_that_batches_of_a_provider_cannot_have_are_not_sent_in_one(tmp_path: Path) -> None:
    model = next(iter(STORAGE))
    tool = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    options: dict[str, dict[str, Any]] = {"a schema": {"response_schema": schema}, "tools": {"tools": [tool]}}
    with simulated(tmp_path) as (served, hub):
        for name, option in options.items():
            table = complete(["a", "b"], model, hub, **option, **STORAGE[model])
            assert column(table, "error_type") == ["Unsupported"] * 2
            assert f"rows of batches cannot have {name}; late='live'" in column(table, "error")[0]
            assert served.counts()["requests"] == 0
        table = complete(["a", "b"], model, hub, late="live", **options["a schema"], **STORAGE[model])
        assert column(table, "status") == ["ok"] * 2
        assert column(table, "mode") == ["live"] * 2
        assert column(table, "attempts") == [1] * 2
        assert served.batches() == []
        assert open_batches(hub) == []


@pytest.mark.parametrize(("rows", "sizes"), [(50_001, {25_001}), (50_000, {None}), (99, {None})])
def test_batches_with_a_minimum_are_of_even_size(rows: int, sizes: set[int | None]) -> None:
    assert {open_batch.even_rows(rows, BatchLimits(rows=50_000, size=1, min_rows=100))} == sizes


@pytest.mark.parametrize("model", MODELS)
def test_repeating_a_run_waits_for_its_batch(tmp_path: Path, model: str) -> None:
    prompts = [f"question {number}" for number in range(10)]
    with simulated(tmp_path, duration_s=3600.0) as (served, hub):
        table = complete(prompts, model, hub, deadline=0.01)
        assert column(table, "status") == ["pending"] * 10
        assert "the same call again collects it" in column(table, "error")[0]
        assert column(table, "mode") == ["batch"] * 10
        states = {row.state for row in hub.runtime.store.ledger.requests()}  # type: ignore[union-attr]
        assert states == {"batched"}
    with serving(Simulator(seed=5, batches=SimBatches(duration_s=3600.0))) as served:
        with hub_of(served, tmp_path / model.partition("/")[0]) as hub:
            complete(prompts, model, hub, deadline=0.01)
        served.advance_clock(4000.0)
        with hub_of(served, tmp_path / model.partition("/")[0]) as hub:
            table = complete(prompts, model, hub)
            assert column(table, "status") == ["ok"] * 10
            assert set(served.batch_rows().values()) == {1}
            assert len(served.batches()) == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_run_of_cached_batched_expired_failed_and_live_rows_comes_out_in_order(tmp_path: Path, model: str) -> None:
    prompts = [f"question {number}" + (" [[sim:quota]]" if number % 20 == 7 else "") for number in range(100)]
    keeps = not model.startswith("google")
    with simulated(tmp_path, stuck=0.1, keeps_results_of_expired=keeps) as (served, hub):
        cached = [prompt for number, prompt in enumerate(prompts) if number % 3 == 0 and number % 20 != 7]
        complete(cached, model, hub, mode="live")
        served.advance_clock(0)
        job = llmhub.submit({"q": prompts}, "{q}", model=model, hub=hub, mode="batch", poll_s=0.02, late="live")
        while not served.batches():
            time.sleep(0.005)
        served.advance_clock(2 * DAY)
        table = job.result(60)
        reference = complete(prompts, model, hub_of(served, tmp_path / "other"), mode="live")
    assert column(table, "row") == list(range(100))
    assert column(table, "response") == column(reference, "response")
    statuses = ["error" if number % 20 == 7 else "ok" for number in range(100)]
    assert column(table, "status") == statuses
    modes = column(table, "mode")
    assert modes.count(None) == len(cached)
    assert modes.count("live") >= 2
    assert (modes.count("batch") > 30) is keeps
    attempts = [count for count, mode in zip(column(table, "attempts"), modes, strict=True) if mode == "live"]
    assert set(attempts) == {2}


@pytest.mark.parametrize(("late", "status", "batches"), [("error", "error", 1), ("wait", "error", 3)])
def test_expired_rows_fail_or_wait_as_asked(tmp_path: Path, late: str, status: str, batches: int) -> None:
    with simulated(tmp_path, stuck=1.0, window_s=0.0) as (served, hub):
        table = complete(["a", "b"], MODELS[0], hub, late=late)
        assert column(table, "status") == [status] * 2
        assert column(table, "error_type") == ["TimedOut"] * 2
        assert "late='live'" in column(table, "error")[0]
        assert len(served.batches()) == batches
        assert column(table, "attempts") == [batches] * 2
        assert column(table, "cost_usd") == [None] * 2


def test_transient_errors_of_rows_are_sent_again(tmp_path: Path) -> None:
    with simulated(tmp_path) as (served, hub):
        table = complete(["a [[sim:500 once]]", "b"], MODELS[0], hub)
        assert column(table, "status") == ["ok", "ok"]
        assert column(table, "attempts") == [2, 1]
        table = complete(["c [[sim:529]]"], MODELS[0], hub, late="error")
        assert column(table, "error_type") == ["ServerError"]
        assert len(served.batches()) == 3


def test_batches_are_split_by_rows_bytes_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"question {number} " + "x" * 400 for number in range(30)]
    with simulated(tmp_path) as (served, hub):
        table = complete(prompts, MODELS[0], hub, batch_tokens=700)
        assert column(table, "status") == ["ok"] * 30
        sizes = [len(batch.rows) for batch in served.batches()]
        assert sum(sizes) == 30
        assert max(sizes) <= 6
    limits = BatchLimits(rows=4, size=900)
    monkeypatch.setattr(BatchApi, "batch_limits", property(lambda _: limits))
    with simulated(tmp_path / "small") as (served, hub):
        assert column(complete(prompts, MODELS[1], hub), "status") == ["ok"] * 30
        assert {len(batch.rows) for batch in served.batches()} == {1}
        assert column(complete(["y" * 2000], MODELS[1], hub), "error_type") == ["InvalidRequest"]
        short = [f"q {number}" for number in range(10)]
        assert column(complete(short, MODELS[1], hub), "status") == ["ok"] * 10


def test_a_batch_over_the_limit_of_tokens_waits_for_another_or_is_halved(tmp_path: Path) -> None:
    prompts = [f"question {number} " + "x" * 400 for number in range(30)]
    with simulated(tmp_path, duration_s=0.1, max_enqueued_tokens=1500) as (served, hub):
        table = complete(prompts, MODELS[0], hub)
        assert column(table, "status") == ["ok"] * 30
        refused = [batch for batch in served.batches() if batch.refusal]
        assert refused
        assert set(served.batch_rows().values()) == {1}


@pytest.mark.parametrize("late", ["wait", "live", "error"])
def test_a_batch_that_is_refused_after_its_creation(tmp_path: Path, late: str) -> None:
    with simulated(tmp_path, refuse="invalid_json_line") as (served, hub):
        table = complete(["a", "b", "c"], MODELS[0], hub, late=late)
        statuses = column(table, "status")
        assert "error" in statuses
        assert any("refused" in (error or "") for error in column(table, "error"))
        assert (statuses.count("ok") > 0) is (late == "live")
        assert set(served.batch_rows().values()) == set()


def test_budgets_are_reserved_at_the_price_of_batches_and_settled(tmp_path: Path) -> None:
    prompts = [f"question {number}" for number in range(10)]
    with serving(Simulator(seed=5)) as served:
        with hub_of(served, tmp_path, budget_usd=1.0) as hub:
            table = complete(prompts, MODELS[0], hub, max_tokens=50)
            spending = hub.spending()
            assert spending is not None
            assert spending.reserved == 0
            assert spending.spent == sum(column(table, "cost_usd")).scaleb(9)
        with hub_of(served, tmp_path / "small", budget_usd=0.00008) as hub:
            statuses = column(complete(prompts, MODELS[0], hub, max_tokens=50), "status")
            assert {"ok", "budget"} == set(statuses)


def test_rows_left_in_a_batch_stay_reserved(tmp_path: Path) -> None:
    settings = Simulator(seed=5, batches=SimBatches(duration_s=100.0))
    with serving(settings) as served, hub_of(served, tmp_path, budget_usd=1.0) as hub:
        complete(["a"], MODELS[0], hub, deadline=0.01, max_tokens=50)
        spending = hub.spending()
        assert spending is not None
        assert spending.reserved > 0
        served.advance_clock(200.0)
        table = complete(["a"], MODELS[0], hub, max_tokens=50)
        spending = hub.spending()
        assert spending is not None
        assert (spending.reserved, spending.spent) == (0, sum(column(table, "cost_usd")).scaleb(9))


@pytest.mark.parametrize("model", MODELS)
def test_rows_go_live_at_the_deadline(tmp_path: Path, model: str) -> None:
    with simulated(tmp_path, duration_s=100.0) as (served, hub):
        table = complete(["a", "b"], model, hub, deadline=0.05, late="live")
        assert column(table, "status") == ["ok", "ok"]
        assert column(table, "mode") == ["live", "live"]
        assert [batch.cancelled is not None for batch in served.batches()] == [True]


@pytest.mark.parametrize("model", MODELS)
def test_a_job_shows_pending_rows_and_stop_cancels_and_collects(tmp_path: Path, model: str) -> None:
    with simulated(tmp_path, duration_s=100.0) as (served, hub):
        prompts = [f"question {number}" for number in range(10)]
        job = llmhub.submit({"q": prompts}, "{q}", model=model, hub=hub, mode="batch", poll_s=0.02)
        deadline = time.monotonic() + 20
        while job.table().num_rows < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert column(job.table(), "status") == ["pending"] * 10
        assert column(job.table(), "mode") == ["batch"] * 10
        served.advance_clock(50.0)
        job.stop()
        table = job.result(20)
        assert column(table, "status") == ["ok"] * 5 + ["cancelled"] * 5
        assert open_batches(hub) == []


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_whose_creation_had_no_answer_is_adopted(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, lost = BatchClient.send_step, []

    async def send_and_lose(self: BatchClient, step: Any, batch: Any, rows: Any) -> Any:
        sent = await send(self, step, batch, rows)
        if step is self.api.wire.steps[-1] and not lost:
            lost.append(sent)
            return Failure(TimedOut())
        return sent

    monkeypatch.setattr(BatchClient, "send_step", send_and_lose)
    with simulated(tmp_path) as (served, hub):
        table = complete(["a", "b"], model, hub)
        assert column(table, "status") == ["ok", "ok"]
        assert len(served.batches()) == 1
        assert lost


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_whose_creation_never_arrived_is_sent_again(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, lost = BatchClient.send_step, []

    async def lose_or_send(self: BatchClient, step: Any, batch: Any, rows: Any) -> Any:
        if step is self.api.wire.steps[-1] and not lost:
            lost.append(batch)
            return Failure(TimedOut())
        return await send(self, step, batch, rows)

    monkeypatch.setattr(BatchClient, "send_step", lose_or_send)
    with simulated(tmp_path) as (served, hub):
        table = complete(["a", "b"], model, hub)
        assert column(table, "status") == ["ok", "ok"]
        assert len(served.batches()) == 1


def test_a_pilot_through_a_batch_counts_towards_the_plan(tmp_path: Path) -> None:
    prompts = [f"question {number}" for number in range(12)]
    options: dict[str, Any] = {"mode": "batch", "pilot": 3, "poll_s": 0.02}
    with simulated(tmp_path) as (_, hub):
        plan = llmhub.plan({"q": prompts}, "{q}", model=MODELS[0], hub=hub, **options)
        assert (plan.pilot, plan.calls) == (3, 9)
        assert plan.pilot_usd


def test_a_run_holds_no_object_for_each_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of 100,000 rows fits into memory: neither its requests nor its answers are Python objects all at once."""
    rows, kinds = 1_000, frozenset({Answer, CompletionResponse, Call, CompletionRequest, WaitingRow, BatchRow, Entry})
    monkeypatch.setattr(batch_run, "BUILD_ROWS", 100)
    monkeypatch.setattr(batch_client, "PIECE_BYTES", 32_768)
    monkeypatch.setattr(prompt_batch, "CHUNK_SIZE", 100)
    monkeypatch.setattr(results, "OUTCOMES_AT_ONCE", 100)
    held, calls = defaultdict[str, list[int]](list), Counter[str]()

    def count() -> int:
        return sum(1 for each in gc.get_objects() if type(each) in kinds)

    def watch(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def watched(*given: Any, **options: Any) -> Any:
            found = function(*given, **options)
            calls[name] += 1
            if calls[name] % 5 == 1 and len(held[name]) < 3:
                held[name].append(count() - before)
            return found

        monkeypatch.setattr(owner, name, watched)

    watch(BatchClient, "status")
    watch(BatchCollector, "store_rows")
    watch(results, "_segment_table")
    gc.collect()
    before = count()
    with simulated(tmp_path) as (_, hub):
        prompts = [f"question {number}" for number in range(rows)]
        job = llmhub.submit({"q": prompts}, "{q}", model=MODELS[0], hub=hub, mode="batch", poll_s=0.02, progress=False)
        table = job.result(30)
        so_far = job.table()
    assert column(table, "status") == ["ok"] * rows
    assert column(so_far, "response") == column(table, "response")
    assert set(held) == {"status", "store_rows", "_segment_table"}
    assert max(map(max, held.values())) < rows, held  # there would be five for each row


def test_a_batch_of_somebody_else_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anthropic has no field for a name: a batch of the same size is ruled out by the ids of its rows."""
    send, lost = BatchClient.send_step, []
    with simulated(tmp_path) as (served, hub):
        with hub_of(served, tmp_path / "other") as other:
            complete(["x", "y"], MODELS[1], other)

        async def lose(self: BatchClient, step: Any, batch: Any, rows: Any) -> Any:
            if not lost:
                lost.append(batch)
                return Failure(TimedOut())
            return await send(self, step, batch, rows)

        monkeypatch.setattr(BatchClient, "send_step", lose)
        table = complete(["a", "b"], MODELS[1], hub)
        assert column(table, "status") == ["ok", "ok"]
        assert len(served.batches()) == 2
        assert set(served.batch_rows().values()) == {1}


def test_two_runs_at_once_share_batches(tmp_path: Path) -> None:
    prompts = [f"question {number}" for number in range(20)]
    with simulated(tmp_path, duration_s=0.2) as (served, hub):
        jobs = [
            llmhub.submit({"q": part}, "{q}", model=MODELS[0], hub=hub, mode="batch", poll_s=0.02)
            for part in (prompts, prompts[::-1], prompts[5:15])
        ]
        tables = [job.result(30) for job in jobs]
        assert all(set(column(table, "status")) == {"ok"} for table in tables)
        assert set(served.batch_rows().values()) == {1}
        costs = [sum(cost for cost in column(table, "cost_usd") if cost) for table in tables]
        assert sorted(bool(cost) for cost in costs).count(True) >= 1


def test_several_models_have_batches_of_their_own(tmp_path: Path) -> None:
    with simulated(tmp_path) as (served, hub):
        table = llmhub.complete_table(
            {"q": ["a", "b"]}, "{q}", model=list(MODELS), hub=hub, mode="batch", poll_s=0.02, n=2, progress=False
        )
        assert column(table, "status") == ["ok"] * 12
        assert len(served.batches()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": True}, "stream: batches are not streamed"),
        ({"n_jobs": 2}, "n_jobs: is not possible with mode='batch'"),
        ({"late": "never"}, "late: must be 'wait', 'live' or 'error'"),
        ({"deadline": "soon"}, "deadline: must be seconds above 0"),
        ({"mode": "bulk"}, "mode: must be 'live' or 'batch'"),
        ({"mode": "live", "late": "live"}, "late: is an option of batches; pass mode='batch'"),
        ({"cache": "read-only"}, "cache: batches are remembered in the cache"),
        ({"model": "deepseek/deepseek-chat"}, "mode: deepseek has no Batch API"),
        ({"sink": "folder"}, "sink: is not possible with mode='batch'"),
        ({"model": "vertex/gemini-2.5-flash"}, "batch_storage: vertex reads batches from object storage"),
        ({"model": "vertex/gemini-2.5-flash", "batch_storage": "s3://b"}, "pass batch_storage='gs://bucket/folder'"),
        ({"model": "bedrock/m", "batch_storage": "s3://b/f"}, "batch_role: bedrock needs the ARN"),
    ],
)
def test_what_batches_cannot_do_is_refused_before_anything_is_sent(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with simulated(tmp_path) as (served, hub):
        with pytest.raises(BadRequestError, match=message.replace("(", r"\(")):
            complete(["a"], options.pop("model", MODELS[0]), hub, **options)
        assert served.counts()["requests"] == 0


def test_batches_need_a_cache_with_a_ledger(simulator: SimulatorThread) -> None:
    hub = llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache())
    with pytest.raises(BadRequestError, match="a cache with a ledger"):
        complete(["a"], MODELS[0], hub)


def test_plans_show_both_prices_and_the_saving(tmp_path: Path) -> None:
    frame = {"q": [f"question {number}" for number in range(100)]}
    hub = llmhub.Hub(settings=Settings(), cache=DiskCache(tmp_path / "runs.db"))
    for model in MODELS:
        plan = llmhub.plan(frame, "{q}", model=model, hub=hub, mode="batch")
        live = llmhub.plan(frame, "{q}", model=model, hub=hub)
        assert plan.usd is not None
        assert live.usd is not None
        assert plan.live_usd == live.usd
        assert plan.usd.expected * 2 == live.usd.expected
        assert plan.saving_usd == plan.usd.expected
        assert live.saving_usd == 0
        assert "a saving of" in str(plan)
        assert "(50%)" in str(plan)
        assert ("expires has no results" in str(plan)) is model.startswith("google")


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_batch_whose_answers_are_stored_is_not_left_open(tmp_path: Path, is_whole: bool) -> None:
    prompts = [f"question {number}" for number in range(10)]
    with simulated(tmp_path) as (served, hub):
        keys = [bytes(key) for key in column(complete(prompts, MODELS[0], hub), "request_key")]
        store = hub.runtime.store
        assert store is not None
        assert store.ledger is not None
        batches = store.ledger.batches
        assert batches is not None
        # As if the process had died between storing the answers and marking the batch as collected.
        (record,) = batches.records()
        batches.put(record._replace(state="open"))
        batches.add_rows(record.token, keys if is_whole else [*keys, bytes(32)])
        sent = served.counts()["requests"]
        assert column(complete(prompts, MODELS[0], hub), "cache_hit") == [True] * 10
        assert served.counts()["requests"] == sent
        (record,) = batches.records()
        assert record.state == ("collected" if is_whole else "open")
        assert len(batches.rows(record.token)) == (0 if is_whole else 11)


@pytest.mark.parametrize("model", MODELS[:2])
@pytest.mark.parametrize("is_adopted", [False, True])
def test_a_batch_that_is_collected_in_two_attempts_is_counted_once(
    tmp_path: Path, model: str, is_adopted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt ends after some rows, as if its process had been killed."""
    prompts = [f"question {number}" + (" [[sim:quota]]" if number == 3 else "") for number in range(20)]
    read, send, lost = BatchClient.read_rows, BatchClient.send_step, []

    async def read_some(self: BatchClient, batch: Any, files: Any, on_rows: Any) -> Any:
        async def half(decode: Any) -> None:
            rows = decode()
            await on_rows(lambda: rows[: len(rows) // 2])

        await read(self, batch, files, half)
        return Failure(TimedOut())

    async def send_and_lose(self: BatchClient, step: Any, batch: Any, rows: Any) -> Any:
        sent = await send(self, step, batch, rows)
        if is_adopted and step is self.api.wire.steps[-1] and not lost:
            lost.append(sent)
            return Failure(TimedOut())
        return sent

    monkeypatch.setattr(BatchClient, "send_step", send_and_lose)
    with simulated(tmp_path) as (served, hub):
        with monkeypatch.context() as patched:
            patched.setattr(BatchClient, "read_rows", read_some)
            assert "error" in column(complete(prompts, model, hub, late="error"), "status")
        assert open_batches(hub) == ["open"]
        table = complete(prompts, model, hub, late="error")
        assert column(table, "status").count("ok") == 19
        assert open_batches(hub) == []
        store = hub.runtime.store
        assert store is not None
        assert store.ledger is not None
        ended = Counter(request.key for request in store.ledger.requests())
        assert len(ended) == 20
        assert set(ended.values()) <= ({1} if len(served.batches()) == 1 else {1, 2})
        assert sum(ended.values()) == sum(served.counts()["by_model"].values())


def test_polls_wait_as_long_as_the_provider_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    pause, status = BatchRun._pause, BatchClient.status

    async def shortened(self: BatchRun, seconds: float) -> bool:
        pauses.append(seconds)
        return await pause(self, min(seconds, 0.01))

    async def limited(self: BatchClient, batch: Any) -> Any:
        if len(pauses) == 1:
            return Failure(RateLimited(status=429, retry_after_s=777.0))
        return await status(self, batch)

    monkeypatch.setattr(BatchRun, "_pause", shortened)
    monkeypatch.setattr(BatchClient, "status", limited)
    with simulated(tmp_path, duration_s=0.2) as (_, hub):
        assert column(complete(["a"], MODELS[0], hub, poll_s=30.0), "status") == ["ok"]
    assert pauses[:3] == [30.0, 777.0, 300.0]
    assert max(pauses[2:]) == 300.0


@pytest.mark.parametrize("model", MODELS[:2])
def test_rows_that_no_run_waits_for_are_released_when_their_batch_is_cancelled(tmp_path: Path, model: str) -> None:
    settings = Simulator(seed=5, batches=SimBatches(duration_s=100.0))
    with serving(settings) as served, hub_of(served, tmp_path, budget_usd=1.0) as hub:
        table = complete([f"question {number}" for number in range(10)], model, hub, deadline=0.01, max_tokens=50)
        assert set(column(table, "status")) == {"pending"}
        served.advance_clock(50.0)
        (batch,) = llmhub.batches(hub=hub)
        assert batch.cancel(poll_s=0.02).state == "collected"
        spending = hub.spending()
        assert spending is not None
        assert spending.reserved == 0
        assert spending.spent > 0
