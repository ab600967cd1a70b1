"""Plans against the simulator: nothing is sent, a pilot is not repeated by the run, and forecasts hold."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import AuthenticationError, BadRequestError, ConnectorError
from llmhub.sim import Faults, Simulator, SimulatorThread, serving
from llmhub.tables.forecast import PredictionInterval
from llmhub.tables.plan import Plan

MINI, HAIKU, FLASH = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"
QUANTITIES = ("calls", "input tokens", "output tokens", "USD")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Make vocabularies unavailable, so that counts are estimates on every machine."""

    def refuse(*_: object, **__: object) -> object:
        raise OSError("no network")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr("llmhub.tables.tokenizers.urlopen", refuse)


def make_hub(simulator: SimulatorThread, **options: Any) -> llmhub.Hub:
    retry = llmhub.Retry(base_s=0.001, cap_s=0.01)
    defaults = {"retry": retry, "cache": llmhub.MemoryCache()}
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **{**defaults, **options})


def frame(rows: int, seed: int = 0) -> dict[str, list[str]]:
    subjects = ["harbour", "lighthouse at the end of the long pier", "sea", "fishing fleet that left before dawn"]
    return {"t": [f"Describe the {subjects[(row + seed) % 4]} of town {seed}-{row}." for row in range(rows)]}


def run(hub: llmhub.Hub, rows: Any, model: Any = MINI, **options: Any) -> Any:
    return llmhub.complete_table(rows, "{t}", model=model, hub=hub, progress=False, **options)


# Without a pilot


def test_rows_are_counted_as_the_run_treats_them(simulator: SimulatorThread) -> None:
    with make_hub(simulator) as hub:
        run(hub, {"t": ["a", "b"]})
        plan = hub.plan({"t": ["a", "b", "c", "c", None, "d"]}, "{t}", model=[MINI, HAIKU], n=2)
        counts = [(m.rows, m.skipped, m.duplicates, m.cache_hits, m.calls) for m in plan.models]
    # Only the first of two samples is in the cache.
    assert counts == [(12, 2, 2, 2, 6), (12, 2, 2, 0, 8)]
    assert plan.calls == 14
    assert simulator.counts()["requests"] == 2


def test_a_plan_sends_nothing_and_needs_no_key(simulator: SimulatorThread) -> None:
    with llmhub.Hub(settings=Settings()) as bare:
        plan = bare.plan(frame(10), "{t}", model=[MINI, HAIKU, "bedrock/us.amazon.nova-lite-v1:0", "compatible/m"])
        assert plan.calls == 40
        assert plan.usd is None
        assert [model.usd is None for model in plan.models] == [False, False, False, True]
        with pytest.raises(AuthenticationError):
            run(bare, frame(1))
        with pytest.raises(AuthenticationError):
            bare.plan(frame(10), "{t}", model=MINI, pilot=1)
    assert simulator.counts()["requests"] == 0


def test_without_any_response_the_forecast_is_bounded_by_max_tokens(simulator: SimulatorThread) -> None:
    with make_hub(simulator) as hub:
        plan = hub.plan(frame(10), "{t}", model=MINI, max_tokens=50)
    (model,) = plan.models
    assert (model.basis, model.observations) == ("bound", 0)
    assert model.output_tokens == PredictionInterval(10, 500, 500)
    assert model.usd is not None
    assert model.usd.low < model.usd.high
    assert "no history" in str(plan)
    assert "pilot=20" in str(plan)


def test_the_bottleneck_is_named(simulator: SimulatorThread) -> None:
    limits = {"openai": llmhub.Limit(rpm=5, tpm=10_000_000), HAIKU: llmhub.Limit(tpm=1000)}
    with make_hub(simulator, limits=limits) as hub:
        by_requests = hub.plan(frame(100), "{t}", model=MINI)
        assert by_requests.bottleneck == "openai: 5 requests a minute"
        assert 15 < by_requests.minutes.low <= 20 <= by_requests.minutes.high < 40
        by_tokens = hub.plan(frame(100), "{t}", model=[FLASH, HAIKU], max_tokens=100)
        assert by_tokens.bottleneck == f"{HAIKU}: 1,000 tokens a minute"
        assert hub.plan(frame(100), "{t}", model=FLASH, concurrency=3).bottleneck == "concurrency (3)"
        assert f"limited by {by_requests.bottleneck}" in str(by_requests)


# Forecasts and actual values


def test_a_pilot_counts_towards_the_run_and_its_intervals_hold_19_of_20_times() -> None:
    within: list[bool] = []
    for seed in range(36):
        options: Any = {"max_tokens": 40} if seed % 2 else {"system": "Be brief and exact."}
        with serving(Simulator(seed=seed)) as simulator, make_hub(simulator) as hub:
            rows, models = frame(200, seed), [MINI, HAIKU]
            plan = llmhub.plan(rows, "{t}", model=models, hub=hub, pilot=20, **options)
            assert simulator.counts()["requests"] == plan.pilot == 40
            assert [(model.basis, model.observations, model.cache_hits) for model in plan.models] == [
                ("pilot", 20, 20)
            ] * 2
            results = run(hub, rows, models, **options)
            assert simulator.counts()["requests"] == 400
            for model in plan.models:
                sent = results.filter(_sent_rows(results, model.model))
                assert len(sent) == model.calls == 180
                assert model.usd is not None
                within.append(sum(sent.column("input_tokens").to_pylist()) in model.input_tokens)
                within.append(sum(sent.column("output_tokens").to_pylist()) in model.output_tokens)
                within.append(sum(sent.column("cost_usd").to_pylist()) in model.usd)
                # The interval is narrow: at most 50 % above the expected cost.
                assert model.usd.high < model.usd.expected * Decimal("1.5")
    assert sum(within) >= 0.95 * len(within)


def _sent_rows(table: Any, name: str) -> Any:
    """Return a mask of one model's rows that are not cache hits."""
    own = pc.equal(table.column("model").cast("string"), name.partition("/")[2])
    return pc.and_(own, pc.invert(table.column("cache_hit")))


def test_cached_responses_are_the_basis_of_a_forecast(simulator: SimulatorThread) -> None:
    with make_hub(simulator) as hub:
        run(hub, frame(40))
        plan = hub.plan(frame(200), "{t}", model=MINI)
        (model,) = plan.models
        assert (model.basis, model.observations, model.cache_hits, model.calls) == ("history", 40, 40, 160)
        table = run(hub, frame(200))
        sent = table.filter(_sent_rows(table, MINI))
        assert sum(sent.column("output_tokens").to_pylist()) in model.output_tokens
        # For another prompt they are only responses of the same model.
        other = hub.plan({"t": ["Something else entirely?"]}, "{t}", model=MINI).models[0]
        assert (other.basis, other.observations) == ("model", 200)
        assert other.output_tokens.low < other.output_tokens.high
        assert hub.plan(frame(3, 9), "{t}", model=HAIKU).models[0].basis == "bound"


def test_a_fully_cached_run_costs_nothing(simulator: SimulatorThread) -> None:
    with make_hub(simulator) as hub:
        run(hub, frame(10))
        plan = hub.plan(frame(10), "{t}", model=MINI)
        assert plan.calls == 0
        assert plan.usd is not None
        assert plan.usd.high == 0
        assert plan.minutes == PredictionInterval(0, 0, 0)
        again = hub.plan(frame(10), "{t}", model=MINI, pilot=5)
        assert (again.pilot, again.pilot_usd) == (0, 0)
        assert simulator.counts()["requests"] == 10


def test_a_pilot_without_a_writable_cache_is_rejected_before_sending(simulator: SimulatorThread) -> None:
    for options in ({"cache": None}, {"cache_mode": "read-only"}):
        with (
            make_hub(simulator, **options) as hub,
            pytest.raises(BadRequestError, match="pilot: a pilot of 5 rows needs a cache"),
        ):
            hub.plan(frame(10), "{t}", model=MINI, pilot=5)
    for pilot in (-1, 1.5, True, "all"):
        with (
            make_hub(simulator) as hub,
            pytest.raises(BadRequestError, match=r"pilot: must be an integer of 0 or more"),
        ):
            hub.plan(frame(10), "{t}", model=MINI, pilot=pilot)
    assert simulator.counts()["requests"] == 0


def test_a_pilot_may_fail_partly_but_not_completely(simulator: SimulatorThread) -> None:
    with make_hub(simulator, retry=llmhub.Retry(attempts=1)) as hub:
        rows = {"t": [f"{text} [[sim:500]]" if at % 20 == 0 else text for at, text in enumerate(frame(100)["t"])]}
        plan = hub.plan(rows, "{t}", model=MINI, pilot=20)
        assert 10 <= plan.pilot < 20
        simulator.set_faults(Faults(quota=1.0))
        with pytest.raises(ConnectorError, match="openai"):
            hub.plan(frame(100, 5), "{t}", model=MINI, pilot=20)


def test_a_pilot_respects_the_budget(simulator: SimulatorThread) -> None:
    with make_hub(simulator, budget_usd="0.0002") as hub:
        plan = hub.plan(frame(100), "{t}", model=MINI, max_tokens=50, pilot=20)
        spent = hub.spending()
    assert spent is not None
    assert 0 < plan.pilot < 20
    assert spent.spent_usd == plan.pilot_usd <= Decimal("0.0002")


def test_the_cost_of_a_route_spans_its_candidates(simulator: SimulatorThread) -> None:
    with make_hub(simulator, route={"fast": llmhub.Failover(MINI, HAIKU)}) as hub:
        plan = hub.plan(frame(50), "{t}", model=["fast", MINI, HAIKU], max_tokens=40)
    fast, mini, haiku = (model.usd for model in plan.models)
    assert fast is not None
    assert mini is not None
    assert haiku is not None
    assert (fast.low, fast.high) == (min(mini.low, haiku.low), max(mini.high, haiku.high))


# Comparison with the run


def test_a_plan_is_compared_with_its_run(simulator: SimulatorThread) -> None:
    with make_hub(simulator) as hub:
        frames = pd.DataFrame(frame(100))
        plan: Plan = frames.llm.plan("{t}", model=MINI, hub=hub, max_tokens=40, pilot=20)
        results = frames.llm.complete("{t}", model=MINI, hub=hub, max_tokens=40, progress=False)
        for table in (results, run(hub, frame(100), max_tokens=40)):
            comparison = plan.compare(table)
            quantities = [(check.model, check.quantity) for check in comparison.checks]
            assert quantities == [*((MINI, name) for name in QUANTITIES), ("", "seconds")]
    comparison = plan.compare(results)
    checks = {check.quantity: check for check in comparison.checks}
    assert [checks[name].within_interval for name in QUANTITIES] == [True] * 4
    assert checks["calls"].actual == 80
    assert "within" in str(comparison)
    # The results of another run do not match.
    with make_hub(simulator) as hub:
        other = plan.compare(run(hub, frame(300, 3), HAIKU))
    assert not other.within_intervals
    assert "OUTSIDE" in str(other)
