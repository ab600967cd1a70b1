"""Runs of embeddings: packs, refused texts, the cache, limits, budgets, retries, and what they cost."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from returns.result import Success

import llmhub
from llmhub.api.embeddings import build_embedding_run, run_embedding_table
from llmhub.config import Settings
from llmhub.core.types import CompletionResponse, Message, Text
from llmhub.engine.call import Answer
from llmhub.engine.event_loop import StopSignal, submit
from llmhub.sim import Faults, Latency, SimLimit, Simulator, SimulatorThread, serving

MODEL = "openai/text-embedding-3-small"
PRICE = Decimal("0.02") / 10**6
TOO_LONG = "word " * 10_000


@pytest.fixture
def make_hub(simulator: SimulatorThread) -> Iterator[Callable[..., llmhub.Hub]]:
    """Return a function that makes a hub on the simulator; it is closed at the end."""
    hubs: list[llmhub.Hub] = []

    def make(**options: Any) -> llmhub.Hub:
        given = {"retry": llmhub.Retry(attempts=8, base_s=0.001), "endpoints": simulator.endpoints(), **options}
        hubs.append(llmhub.Hub(settings=Settings(), **given))
        return hubs[-1]

    yield make
    for hub in hubs:
        hub.close()


def texts_of(count: int, start: int = 0) -> list[str]:
    return [f"text number {index}" for index in range(start, start + count)]


def run(texts: Any, hub: llmhub.Hub, model: str = MODEL, **options: Any) -> pa.Table:
    given = {"dimensions": 8, "progress": False, **options}
    return llmhub.embed_table({"t": pa.array(texts, pa.string())}, "t", model=model, hub=hub, **given)


def values(table: pa.Table, name: str) -> list[Any]:
    found: list[Any] = table.column(name).to_pylist()
    return found


def test_texts_are_packed_by_count(make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread) -> None:
    table = run(texts_of(1000), make_hub())
    assert simulator.counts()["requests"] == math.ceil(1000 / 256)
    assert set(values(table, "status")) == {"ok"}
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert np.linalg.norm(llmhub.matrix(table.column("embedding")), axis=1) == pytest.approx(1, abs=1e-5)
    simulator.reset()
    run(texts_of(1000), make_hub(), batch_size=10)
    assert simulator.counts()["requests"] == 100


def test_texts_are_packed_by_tokens(make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread) -> None:
    texts = [f"{index} " + "ab cd ef " * 100 for index in range(100)]
    table = run(texts, make_hub(), model="mistral/mistral-embed", dimensions=None)
    assert set(values(table, "status")) == {"ok"}
    counts = simulator.counts()
    assert counts["by_status"] == {"200": counts["requests"]}  # no pack was too large
    assert counts["requests"] > 1


@pytest.mark.parametrize("position", [0, 100, 255])
def test_a_text_that_is_too_long_fails_alone(
    position: int, make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    texts = texts_of(256)
    texts[position] = TOO_LONG
    table = run(texts, make_hub())
    assert simulator.counts()["requests"] <= 1 + 2 * math.log2(256)
    statuses = values(table, "status")
    assert [index for index, status in enumerate(statuses) if status != "ok"] == [position]
    assert values(table, "error_type")[position] == "ContextTooLong"
    assert values(table, "embedding")[position] is None
    assert values(table, "attempts")[position] == 1 + math.log2(256)


def test_packs_that_are_too_large_as_a_whole_are_halved_once(
    make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    """The simulator counts four characters a token; by the estimate blanks are fewer, so that packs are too large."""
    texts = [f"{index:05}" + " " * 31_000 + "x" for index in range(64)]
    table = run(texts, make_hub(), concurrency=1)
    assert set(values(table, "status")) == {"ok"}
    assert simulator.counts()["requests"] <= 16


def test_an_error_of_every_request_is_not_taken_for_that_of_a_text(
    make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    """Cohere refuses each request that lacks an input type: a few single texts tell."""
    table = run(texts_of(300), make_hub(), "cohere/embed-v4.0", extra={"input_type": ""}, concurrency=1)
    assert set(values(table, "error_type")) == {"InvalidRequest"}
    assert simulator.counts()["requests"] <= 24


def test_rejections_of_the_model_are_not_split(make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread) -> None:
    table = run(texts_of(100), make_hub(), "openai/does-not-exist")
    assert set(values(table, "error_type")) == {"NotFound"}
    assert simulator.counts()["requests"] == 1


def test_a_second_run_sends_nothing(
    tmp_path: Path, make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    first = run(texts_of(300), make_hub(cache=llmhub.DiskCache(tmp_path / "c.db")))
    simulator.reset()
    second = run(texts_of(300), make_hub(cache=llmhub.DiskCache(tmp_path / "c.db")))
    assert simulator.counts()["requests"] == 0
    assert second.column("embedding").equals(first.column("embedding"))
    assert set(values(second, "cache_hit")) == {True}
    assert sum(values(second, "cost_usd")) == 0
    assert values(second, "list_cost_usd") == values(first, "list_cost_usd")
    for name in ("input_tokens", "request_key", "served_model", "request_id", "latency_s"):
        assert values(second, name) == values(first, name)
    third = run(texts_of(310), make_hub(cache=llmhub.DiskCache(tmp_path / "c.db")))
    assert simulator.counts()["requests"] == 1
    assert values(third, "cache_hit") == [True] * 300 + [False] * 10


def test_values_in_the_cache_are_raw_floats(tmp_path: Path, make_hub: Callable[..., llmhub.Hub]) -> None:
    cache = llmhub.DiskCache(tmp_path / "c.db")
    run(["a"], make_hub(cache=cache), dimensions=1536)
    store = cache.open()
    (entry,) = store.scan()
    assert 6144 < len(entry.value) < 6144 + 200
    store.close()


def test_equal_texts_are_sent_once(make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread) -> None:
    table = run(["a", "b", "a", None, "a"], make_hub())
    assert simulator.counts()["tokens"]["input"] == 2
    assert values(table, "status") == ["ok", "ok", "ok", "skipped", "ok"]
    assert values(table, "cache_hit") == [False, False, True, False, True]
    assert values(table, "cost_usd")[2] == 0
    vectors = values(table, "embedding")
    assert vectors[0] == vectors[2] == vectors[4] != vectors[1]


@pytest.mark.parametrize("text", ["", "  \n", "\ud800"])
def test_texts_that_are_none_are_errors_of_their_rows(
    text: str, make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    frame = pd.DataFrame({"t": pd.Series(["a", text, "b"], dtype=object)})
    table = llmhub.embed_table(frame, "t", model=MODEL, hub=make_hub(), progress=False)
    assert values(table, "status") == ["ok", "error", "ok"]
    assert values(table, "error_type") == [None, "InvalidRequest", None]
    assert simulator.counts()["by_status"] == {"200": 1}


def test_costs_of_rows_add_up_to_those_of_requests(
    make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    texts = [f"{index} " + "abc " * (index % 37) for index in range(700)]
    table = run(texts, make_hub())
    tokens = simulator.counts()["tokens"]["input"]
    assert sum(values(table, "input_tokens")) == tokens
    assert sum(values(table, "cost_usd")) == tokens * PRICE
    assert set(values(table, "output_tokens")) == {0}


def test_costs_that_a_provider_reports_are_shared_out(scripted: Any, replies: Any) -> None:
    body = (
        b'{"data": [{"index": 0, "embedding": [1, 0]}, {"index": 1, "embedding": [0, 1]}, {"index": 2, "embedding": '
        b'[1, 1]}], "model": "m", "usage": {"prompt_tokens": 10, "cost": 0.0000001}}'
    )
    endpoint = llmhub.Endpoint(base_url=scripted([replies.reply(body)]).url, api_key="k")
    with llmhub.Hub(endpoints={"openrouter": endpoint}, settings=Settings()) as hub:
        table = run(["a", "b", "c"], hub, "openrouter/m", dimensions=None)
    assert sum(values(table, "input_tokens")) == 10
    assert sum(values(table, "cost_usd")) == Decimal("1E-7")
    assert set(values(table, "price_id")) == {"reported:openrouter"}


def embedding_reply(replies: Any, count: int) -> bytes:
    data = ",".join(f'{{"index":{index},"embedding":[0.1,0.2]}}' for index in range(count))
    body = f'{{"model":"text-embedding-3-small","data":[{data}],"usage":{{"prompt_tokens":{10 * count}}}}}'
    reply: bytes = replies.reply(body.encode())
    return reply


def test_requests_that_were_cut_off_are_marked_in_their_first_row(
    scripted: Any, replies: Any, make_hub: Callable[..., llmhub.Hub]
) -> None:
    server = scripted(["close"], [embedding_reply(replies, 2)])
    hub = make_hub(endpoints={"openai": llmhub.Endpoint(base_url=server.url, api_key="k")})
    first, second, duplicate = run(["a", "b", "a"], hub, dimensions=None).to_pylist()
    assert first["price_id"] == f"{second['price_id']} + 1 of unknown cost"
    assert (second["price_id"], duplicate["cache_hit"]) == (duplicate["price_id"], True)
    assert first["cost_usd"] == second["cost_usd"] == 10 * PRICE


def test_a_pack_that_was_only_cut_off_has_an_unknown_cost(scripted: Any, make_hub: Callable[..., llmhub.Hub]) -> None:
    server = scripted(["close"])
    endpoints = {"openai": llmhub.Endpoint(base_url=server.url, api_key="k")}
    hub = make_hub(endpoints=endpoints, retry=llmhub.Retry(attempts=3, base_s=0.001), breaker=None)
    table = run(["a", "b"], hub)
    assert values(table, "status") == ["error", "error"]
    assert values(table, "price_id") == ["3 of unknown cost", None]


def test_faults_are_retried() -> None:
    faults = Faults(rate_429=0.2, rate_500=0.2, reset=0.1, malformed=0.1, retry_after_s=0.001)
    retry = llmhub.Retry(attempts=20, base_s=0.001, cap_s=0.002)
    with serving(Simulator(seed=3, faults=faults)) as simulator:
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), retry=retry, breaker=None) as hub:
            table = run(texts_of(400), hub, batch_size=10)
        assert simulator.counts()["requests"] > 40
    malformed = [error for error in values(table, "error_type") if error]
    assert set(malformed) <= {"Malformed"}  # a reply that was paid for is not asked for again
    assert values(table, "status").count("ok") >= 300


def test_declared_limits_of_tokens_are_kept() -> None:
    limit = SimLimit(tpm=300_000)
    with serving(Simulator(seed=3, limit=limit)) as simulator:
        limits = {"openai": llmhub.Limit(tpm=300_000, burst=0.1)}
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), limits=limits) as hub:
            started = time.perf_counter()
            texts = [f"{index:04} " + "seven letters each " * 50 for index in range(160)]
            # One at a time: what is in flight counts by its estimate, which is too low for these texts.
            table = run(texts, hub, batch_size=10, concurrency=1)
            elapsed_s = time.perf_counter() - started
        assert set(values(table, "status")) == {"ok"}
        tokens = sum(values(table, "input_tokens"))
        assert simulator.counts()["by_status"] == {"200": 16}
        assert elapsed_s > (tokens - 30_000 - 3_000) / 5_000  # beyond the burst, five thousand tokens a second
        assert values(table, "rate_wait_s")[-1] > 0


def test_a_budget_ends_what_it_cannot_pay(make_hub: Callable[..., llmhub.Hub]) -> None:
    table = run([f"{index:03} " + "x" * 1000 for index in range(100)], make_hub(), batch_size=10, budget_usd=0.0004)
    statuses = values(table, "status")
    assert {"ok", "budget"} == set(statuses)
    assert sum(cost for cost in values(table, "cost_usd") if cost is not None) <= Decimal("0.0004")


def test_unknown_prices_are_refused_under_a_budget(make_hub: Callable[..., llmhub.Hub]) -> None:
    with pytest.raises(llmhub.BadRequestError, match="no known price"):
        run(["a"], make_hub(), "vllm/x", budget_usd=1.0)
    table = run(["a"], make_hub(), "vllm/x", budget_usd=1.0, allow_unpriced=True)
    assert values(table, "cost_usd") == [None]


def test_runs_at_once_share_their_requests(tmp_path: Path) -> None:
    with serving(Simulator(seed=3, latency=Latency(median_s=0.2))) as simulator:
        cache = llmhub.DiskCache(tmp_path / "c.db")
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache) as hub:
            tables: list[pa.Table] = []
            threads = [threading.Thread(target=lambda: tables.append(run(texts_of(50), hub))) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert simulator.counts()["requests"] == 1
    assert all(table.column("embedding").equals(tables[0].column("embedding")) for table in tables)
    assert sum(sum(values(table, "cost_usd")) for table in tables) == sum(values(tables[0], "list_cost_usd"))


def test_middleware_sees_the_texts_and_may_replace_them(
    make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    seen: list[str] = []

    class Redact:
        def on_request(self, call: Any) -> Any:
            (message,) = call.request.messages
            seen.extend(part.text for part in message.parts)
            parts = tuple(Text(part.text.replace("Ann", "X")) for part in message.parts)
            return replace(call, request=replace(call.request, messages=(Message("user", parts),)))

    hub = make_hub(middleware=(Redact(),))
    table = run(["Ann sings", "Bob sings"], hub)
    assert seen == ["Ann sings", "Bob sings"]
    plain = run(["X sings"], make_hub())
    assert values(table, "embedding")[0] == values(plain, "embedding")[0]


def test_a_middleware_that_answers_otherwise_is_an_error(make_hub: Callable[..., llmhub.Hub]) -> None:
    def answer_all(send: Any) -> Any:
        async def answer(call: Any) -> Answer:
            return Answer(Success(CompletionResponse()))

        return answer

    table = run(["a", "b"], make_hub(middleware=(answer_all,)))
    assert set(values(table, "error_type")) == {"Malformed"}


def test_progress_counts_rows(make_hub: Callable[..., llmhub.Hub]) -> None:
    reports: list[Any] = []
    run([*texts_of(300), "text number 0"], make_hub(), progress=reports.append)
    last = reports[-1]
    assert (last.total, last.done, last.cached, last.finished) == (301, 301, 1, True)
    assert last.input_tokens > 0
    assert last.spent_usd == last.input_tokens * PRICE


@pytest.mark.parametrize("stops", [1, 2])
def test_a_stopped_run_keeps_what_was_answered(tmp_path: Path, stops: int) -> None:
    """At the first stop, the request on the wire is awaited; at the second it is cancelled."""
    texts = texts_of(200)
    with serving(Simulator(seed=3, latency=Latency(median_s=0.05))) as simulator:
        cache = llmhub.DiskCache(tmp_path / "c.db")
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache) as hub:
            options = {"batch_size": 10, "concurrency": 1, "dimensions": 8, "progress": False}
            planned = build_embedding_run(texts, MODEL, hub, options)
            stop = StopSignal()
            job = submit(run_embedding_table(planned, None, stop))
            while simulator.counts()["requests"] < 3:
                time.sleep(0.002)
            for _ in range(stops):
                stop.request()
            statuses = values(job.result(timeout=30), "status")
            answered = 30 if stops == 1 else 20
            assert statuses == ["ok"] * answered + ["cancelled"] * (200 - answered)
            simulator.reset()
            table = run(texts, hub, batch_size=10)
        assert set(values(table, "status")) == {"ok"}
        assert simulator.counts()["requests"] == (200 - answered) // 10


def test_a_cancelled_call_raises_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving(Simulator(seed=3, latency=Latency(median_s=0.2))) as simulator:
        cache = llmhub.DiskCache(tmp_path / "c.db")
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache) as hub:

            async def cancelled() -> None:
                work = llmhub.aembed_table({"t": texts_of(20)}, "t", model=MODEL, hub=hub, progress=False)
                task = asyncio.create_task(work)
                while simulator.counts()["requests"] < 1:  # noqa: ASYNC110 - another thread counts
                    await asyncio.sleep(0.002)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

            asyncio.run(cancelled())
            assert set(values(run(texts_of(20), hub), "status")) == {"ok"}


def test_requests_are_in_the_ledger(tmp_path: Path, make_hub: Callable[..., llmhub.Hub]) -> None:
    hub = make_hub(cache=llmhub.DiskCache(tmp_path / "c.db"))
    table = run(texts_of(300), hub)
    ledger = llmhub.ledger(hub=hub)
    assert values(ledger, "state") == ["done", "done"]
    assert sum(values(ledger, "input_tokens")) == sum(values(table, "input_tokens"))


def test_base64_is_asked_for_where_it_is_float32(
    make_hub: Callable[..., llmhub.Hub], simulator: SimulatorThread
) -> None:
    """8.2 kB a vector of 1,536 dimensions; the numbers as the real API prints them take 34 kB."""
    sizes: list[int] = []

    class Measure:
        def on_response(self, _call: Any, answer: Any) -> None:
            sizes.append(len(answer.outcome.unwrap().vectors))

    run(texts_of(2), make_hub(middleware=(Measure(),)), dimensions=1536)
    assert sizes == [2 * 6144]
