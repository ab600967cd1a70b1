"""Definitions of the figures: open loads count from the schedule, waits stand apart, hidden tokens do not count."""

from __future__ import annotations

import asyncio
import json
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from scipy import stats

import llmhub
from llmhub.bench import Measure, Targets, concurrent, constant_rate, poisson, rate_sweep, run
from llmhub.bench.load import Load, arrivals
from llmhub.bench.prompts import prompts_of_length
from llmhub.bench.summary import order_statistic_interval
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.tables.tokenizers import EstimateWarning, count_tokens

MODEL = "openai/gpt-4o-mini"


@contextmanager
def reasoning_server(
    service_s: float, hidden: int, visible: int, *, streamed: int = 0, gaps: list[float] | None = None
) -> Iterator[str]:
    """Serve Chat Completions whose hidden reasoning takes most of the time; the visible tokens follow evenly.

    Before them come as many pieces of ``streamed`` reasoning. The seconds between pieces are appended to ``gaps``.
    """
    ready, address, runners = Event(), list[str](), list[web.AppRunner]()
    loop = asyncio.new_event_loop()

    async def complete(request: web.Request) -> web.StreamResponse:
        await request.read()
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        await asyncio.sleep(service_s / 2)
        written_at = 0.0
        for index in range(streamed + visible):
            if index:
                await asyncio.sleep(service_s / 2 / (streamed + visible - 1))
            delta = {"reasoning_content": "hm "} if index < streamed else {"content": "word "}
            await reply.write(chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}]))
            now = time.perf_counter()
            if index and gaps is not None:
                gaps.append(now - written_at)
            written_at = now
        usage = {
            "prompt_tokens": 10, "completion_tokens": hidden + visible, "total_tokens": hidden + visible + 10,
            "completion_tokens_details": {"reasoning_tokens": hidden},
        }  # fmt: skip
        stop = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        await reply.write(stop + chunk(usage=usage) + b"data: [DONE]\n\n")
        await reply.write_eof()
        return reply

    async def start() -> None:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", complete)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        address.append(f"http://{runner.addresses[0][0]}:{runner.addresses[0][1]}/v1")
        ready.set()

    loop.create_task(start())  # noqa: RUF006 - it ends before the loop
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield address[0]
    finally:
        asyncio.run_coroutine_threadsafe(runners[0].cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def chunk(**fields: object) -> bytes:
    payload: dict[str, object] = {
        "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini-2024-07-18", "choices": [],
    }  # fmt: skip
    return b"data: " + json.dumps(payload | fields).encode() + b"\n\n"


def hub_of(url: str, **options: Any) -> llmhub.Hub:
    endpoints = {"openai": llmhub.Endpoint(base_url=url, api_key="k")}
    return llmhub.Hub(endpoints=endpoints, settings=Settings(), **options)


def test_open_load_counts_from_the_scheduled_time() -> None:
    """One connection, calls of 0.1 s, twenty a second: each waits longer than the one before."""
    with reasoning_server(0.1, 0, 3) as url, hub_of(url, pool_size=1) as hub:
        measure = Measure(requests=12, warmup=1, targets=Targets(latency_s=0.15))
        result = run(MODEL, load=constant_rate(20), hub=hub, measure=measure)
    (row,) = result.summary.to_pylist()
    waits = result.results.column("queue_s").to_pylist()
    assert row["latency_s_p95"] == pytest.approx(row["service_s_p95"] + max(waits), rel=0.5)
    assert row["latency_s_p95"] > 3 * row["service_s_p95"]
    assert row["schedule_delay_s_p95"] > 0.3
    assert row["goodput_share"] < 0.5
    assert "waits p95: schedule / limit" in result.to_markdown()


def test_waits_for_the_own_limit_stand_apart_and_count() -> None:
    limits = {"openai": llmhub.Limit(rpm=600)}
    with reasoning_server(0.02, 0, 3) as url, hub_of(url, limits=limits) as hub:
        result = run(MODEL, load=constant_rate(60), hub=hub, measure=Measure(requests=16, warmup=0))
    (row,) = result.summary.to_pylist()
    waited = np.array(result.results.column("rate_wait_s").to_pylist(), float)
    queued = np.array(result.results.column("queue_s").to_pylist(), float)
    service = np.array(result.results.column("latency_s").to_pylist(), float)
    total = np.sort(waited + queued + service)
    assert row["latency_s_p50"] == pytest.approx(total[math.ceil(0.5 * 16) - 1])
    assert row["rate_wait_s_p95"] == pytest.approx(np.sort(waited)[math.ceil(0.95 * 16) - 1])


def test_hidden_reasoning_does_not_count_as_streamed_tokens() -> None:
    """500 hidden and 11 visible tokens: the visible ones take half of 0.44 s, 22 ms each."""
    with reasoning_server(0.44, 500, 11) as url, hub_of(url) as hub:
        result = run(MODEL, load=concurrent(1), hub=hub, measure=Measure(requests=3, warmup=1))
    (row,) = result.summary.to_pylist()
    service, first = (np.median(result.results.column(name).to_numpy()) for name in ("latency_s", "ttft_s"))
    assert row["tpot_s_p50"] == pytest.approx((service - first) / 10, rel=0.1)
    assert row["tpot_s_p50"] > 0.02
    assert row["tokens_per_s"] < 50
    assert row["output_tokens_per_s"] == pytest.approx(3 * 511 / row["duration_s"])
    assert row["total_tokens_per_s"] == pytest.approx(3 * 521 / row["duration_s"])


def test_duration_ends_the_load() -> None:
    with reasoning_server(0.02, 0, 3) as url, hub_of(url) as hub:
        measure = Measure(requests=10_000, warmup=0, duration_s=0.3)
        result = run(MODEL, load=(concurrent(2), poisson(50)), hub=hub, measure=measure)
    for row in result.summary.to_pylist():
        assert 0 < row["ok"] == row["requests"] < 200
    assert len(result.results) == sum(row["requests"] for row in result.summary.to_pylist())


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [1, 5, 40, 100, 1000])
def test_intervals_of_quantiles_are_those_of_scipy(share: float, count: int) -> None:
    values = np.random.default_rng(count).random(count)
    expected = stats.quantile_test(values, p=share).confidence_interval(0.95)
    low, high = order_statistic_interval(values, share)
    for own, other in ((low, expected.low), (high, expected.high)):
        assert (own is None) == np.isnan(other)
        assert own is None or own == other


def test_p99_of_forty_calls_has_no_upper_end() -> None:
    with reasoning_server(0.01, 0, 2) as url, hub_of(url) as hub:
        result = run(MODEL, load=concurrent(4), hub=hub, measure=Measure(requests=40, warmup=1))
    (row,) = result.summary.to_pylist()
    assert row["latency_s_p99_high"] is None
    assert row["latency_s_p50_low"] <= row["latency_s_p50"] <= row["latency_s_p50_high"]
    assert row["latency_s_mean"] > 0
    assert "≥" in str(result)


def test_ramp_rises_evenly_to_the_rate() -> None:
    times = arrivals(Load(per_s=10, ramp_s=4), 100)
    assert times is not None
    assert sum(time <= 4 for time in times) == pytest.approx(20, abs=1)
    assert sum(time <= 2 for time in times) == pytest.approx(5, abs=1)
    assert np.diff([time for time in times if time > 4]) == pytest.approx(0.1)
    assert str(Load(concurrency=4, ramp_s=2)) == "4 at a time, ramp of 2 s"
    with pytest.raises(BadRequestError, match=r"load\.ramp_s: -1 is not a duration"):
        Load(per_s=1, ramp_s=-1)


def test_rate_sweep_returns_open_loads() -> None:
    assert [load.per_s for load in rate_sweep([1, 2.5])] == [1, 2.5]
    assert not any(load.random for load in rate_sweep([1], random=False))


def test_gaps_between_pieces_and_the_first_output_after_streamed_reasoning() -> None:
    gaps: list[float] = []
    with reasoning_server(0.4, 0, 3, streamed=3, gaps=gaps) as url, hub_of(url) as hub:
        result = run(MODEL, load=concurrent(2), hub=hub, measure=Measure(requests=6, warmup=0))
    (row,) = result.summary.to_pylist()
    # The server's own gaps are the measure: a busy machine stretches both.
    assert len(gaps) == 6 * 5
    assert row["itl_s_mean"] == pytest.approx(np.mean(gaps), rel=0.2, abs=0.01)
    assert row["itl_s_p50"] == pytest.approx(np.median(gaps), rel=0.3, abs=0.02)
    assert row["itl_s_p99"] >= row["itl_s_p50"] > 0
    # Three gaps lie between the first piece, which is reasoning, and the first of the response.
    assert row["ttfo_s_mean"] - row["ttft_s_mean"] == pytest.approx(3 * np.mean(gaps), rel=0.3, abs=0.03)
    # All pieces were streamed, so that the time per output token counts all of the provider's tokens.
    assert "first output p50" in result.to_markdown()
    assert "between pieces p50 / p99" in result.to_markdown()


def test_without_reasoning_the_first_token_is_the_first_output() -> None:
    with reasoning_server(0.1, 0, 3) as url, hub_of(url) as hub:
        result = run(MODEL, hub=hub, measure=Measure(requests=3, warmup=0))
    (row,) = result.summary.to_pylist()
    assert row["ttfo_s_p50"] == pytest.approx(row["ttft_s_p50"], abs=1e-6)
    assert "first output p50" not in result.to_markdown()


def test_prompts_and_responses_of_fixed_length() -> None:
    sizes = []
    with reasoning_server(0.01, 0, 3) as url, hub_of(url) as hub:
        for tokens in (5, 300):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EstimateWarning)
                texts = prompts_of_length(tokens, 4, "gpt-4o-mini")
                measure = Measure(requests=4, warmup=0, input_tokens=tokens, output_tokens=7)
                result = run(MODEL, hub=hub, measure=measure)
                counted = count_tokens(texts, "gpt-4o-mini")
            sizes.append([len(text) for text in texts])
            assert counted.counts == [tokens] * 4
            assert len(set(texts)) == 4
            assert result.summary.column("output_tokens_mean").to_pylist() == [3.0]  # the server stops before
    assert min(sizes[1]) > max(sizes[0])
    with pytest.raises(BadRequestError, match="prompts: have lengths of their own"):
        run(MODEL, prompts=["x"], hub=hub, measure=Measure(input_tokens=5))
    with pytest.raises(BadRequestError, match="max_tokens: is set by output_tokens"):
        run(MODEL, hub=hub, measure=Measure(output_tokens=5), max_tokens=7)
    with pytest.raises(BadRequestError, match="input_tokens: 0 is not an integer >= 1"):
        Measure(input_tokens=0)
