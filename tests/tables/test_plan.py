"""Plans against the simulator: nothing is sent, nothing is asked twice, and what comes is what was said."""

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


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Let no vocabulary be had: counts are estimates, wherever this runs."""

    def nowhere(*_: object, **__: object) -> object:
        raise OSError("no network here")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("llmhub.tables.tokenizers.urlopen", nowhere)


def hub(simulator: SimulatorThread, **more: Any) -> llmhub.Hub:
    retry = llmhub.Retry(base_s=0.001, cap_s=0.01)
    given = {"retry": retry, "cache": llmhub.MemoryCache(), **more}
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **given)


def frame(rows: int, seed: int = 0) -> dict[str, list[str]]:
    about = ["harbour", "lighthouse at the end of the long pier", "sea", "fishing fleet that left before dawn"]
    return {"t": [f"Describe the {about[(row + seed) % 4]} of town {seed}-{row}." for row in range(rows)]}


def run(made: llmhub.Hub, rows: Any, model: Any = MINI, **more: Any) -> Any:
    return llmhub.complete_table(rows, "{t}", model=model, hub=made, progress=False, **more)


# What is said


def test_rows_are_counted_as_a_run_would_treat_them(simulator: SimulatorThread) -> None:
    with hub(simulator) as made:
        run(made, {"t": ["a", "b"]})
        plan = made.plan({"t": ["a", "b", "c", "c", None, "d"]}, "{t}", model=[MINI, HAIKU], n=2)
        counts = [(m.rows, m.skipped, m.duplicates, m.cache_hits, m.calls) for m in plan.models]
    # Of two samples of a question the first is the one that was answered before.
    assert counts == [(12, 2, 2, 2, 6), (12, 2, 2, 0, 8)]
    assert plan.calls == 14
    assert simulator.counts()["requests"] == 2


def test_nothing_is_sent_and_no_key_is_needed(simulator: SimulatorThread) -> None:
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


def test_without_any_answer_the_guess_is_bounded_and_says_so(simulator: SimulatorThread) -> None:
    with hub(simulator) as made:
        plan = made.plan(frame(10), "{t}", model=MINI, max_tokens=50)
    (model,) = plan.models
    assert (model.basis, model.observations) == ("bound", 0)
    assert model.output_tokens == PredictionInterval(10, 500, 500)
    assert model.usd is not None
    assert model.usd.low < model.usd.high
    assert "a guess" in str(plan)
    assert "pilot=20" in str(plan)


def test_the_limit_that_binds_is_named(simulator: SimulatorThread) -> None:
    limits = {"openai": llmhub.Limit(rpm=5, tpm=10_000_000), HAIKU: llmhub.Limit(tpm=1000)}
    with hub(simulator, limits=limits) as made:
        by_requests = made.plan(frame(100), "{t}", model=MINI)
        assert by_requests.bottleneck == "openai: 5 requests a minute"
        assert 15 < by_requests.minutes.low <= 20 <= by_requests.minutes.high < 40
        by_tokens = made.plan(frame(100), "{t}", model=[FLASH, HAIKU], max_tokens=100)
        assert by_tokens.bottleneck == f"{HAIKU}: 1,000 tokens a minute"
        assert made.plan(frame(100), "{t}", model=FLASH, concurrency=3).bottleneck == "concurrency (3)"
        assert f"waiting for {by_requests.bottleneck}" in str(by_requests)


# What comes


def test_a_pilot_counts_towards_the_run_and_its_forecasts_hold_19_of_20_times() -> None:
    held: list[bool] = []
    for seed in range(12):
        options: Any = {"max_tokens": 40} if seed % 2 else {"system": "Be brief and exact."}
        with serving(Simulator(seed=seed)) as simulator, hub(simulator) as made:
            rows, models = frame(200, seed), [MINI, HAIKU]
            plan = llmhub.plan(rows, "{t}", model=models, hub=made, pilot=20, **options)
            assert simulator.counts()["requests"] == plan.pilot == 40
            assert [(model.basis, model.observations, model.cache_hits) for model in plan.models] == [
                ("pilot", 20, 20)
            ] * 2
            results = run(made, rows, models, **options)
            assert simulator.counts()["requests"] == 400
            for model in plan.models:
                came = results.filter(_fresh(results, model.model))
                assert len(came) == model.calls == 180
                assert model.usd is not None
                held.append(sum(came.column("input_tokens").to_pylist()) in model.input_tokens)
                held.append(sum(came.column("output_tokens").to_pylist()) in model.output_tokens)
                held.append(sum(came.column("cost_usd").to_pylist()) in model.usd)
                # And it is worth something: half as much again as what is expected at most.
                assert model.usd.high < model.usd.expected * Decimal("1.5")
    assert sum(held) >= 0.95 * len(held)


def _fresh(table: Any, name: str) -> Any:
    """Choose the rows of one model that took a call of their own."""
    own = pc.equal(table.column("model").cast("string"), name.partition("/")[2])
    return pc.and_(own, pc.invert(table.column("cache_hit")))


def test_answers_of_an_earlier_run_are_history(simulator: SimulatorThread) -> None:
    with hub(simulator) as made:
        run(made, frame(40))
        plan = made.plan(frame(200), "{t}", model=MINI)
        (model,) = plan.models
        assert (model.basis, model.observations, model.cache_hits, model.calls) == ("history", 40, 40, 160)
        table = run(made, frame(200))
        came = table.filter(_fresh(table, MINI))
        assert sum(came.column("output_tokens").to_pylist()) in model.output_tokens
        # Of another kind of question it is only the model's.
        other = made.plan({"t": ["Something else entirely?"]}, "{t}", model=MINI).models[0]
        assert (other.basis, other.observations) == ("model", 200)
        assert other.output_tokens.low < other.output_tokens.high
        assert made.plan(frame(3, 9), "{t}", model=HAIKU).models[0].basis == "bound"


def test_everything_in_the_cache_costs_nothing_and_takes_no_time(simulator: SimulatorThread) -> None:
    with hub(simulator) as made:
        run(made, frame(10))
        plan = made.plan(frame(10), "{t}", model=MINI)
        assert plan.calls == 0
        assert plan.usd is not None
        assert plan.usd.high == 0
        assert plan.minutes == PredictionInterval(0, 0, 0)
        again = made.plan(frame(10), "{t}", model=MINI, pilot=5)
        assert (again.pilot, again.pilot_usd) == (0, 0)
        assert simulator.counts()["requests"] == 10


def test_a_pilot_without_a_cache_is_refused_before_anything_is_sent(simulator: SimulatorThread) -> None:
    for more in ({"cache": None}, {"cache_mode": "read-only"}):
        with (
            hub(simulator, **more) as made,
            pytest.raises(BadRequestError, match="pilot: a pilot of 5 rows needs a cache"),
        ):
            made.plan(frame(10), "{t}", model=MINI, pilot=5)
    for wrong in (-1, 1.5, True, "all"):
        with hub(simulator) as made, pytest.raises(BadRequestError, match=r"pilot: must be an integer of 0 or more"):
            made.plan(frame(10), "{t}", model=MINI, pilot=wrong)
    assert simulator.counts()["requests"] == 0


def test_a_pilot_that_fails_in_part_goes_by_the_rest_and_one_that_fails_whole_says_why(
    simulator: SimulatorThread,
) -> None:
    with hub(simulator, retry=llmhub.Retry(attempts=1)) as made:
        rows = {"t": [f"{text} [[sim:500]]" if at % 20 == 0 else text for at, text in enumerate(frame(100)["t"])]}
        plan = made.plan(rows, "{t}", model=MINI, pilot=20)
        assert 10 <= plan.pilot < 20
        simulator.set_faults(Faults(quota=1.0))
        with pytest.raises(ConnectorError, match="openai"):
            made.plan(frame(100, 5), "{t}", model=MINI, pilot=20)


def test_a_pilot_keeps_to_the_budget(simulator: SimulatorThread) -> None:
    with hub(simulator, budget_usd="0.0002") as made:
        plan = made.plan(frame(100), "{t}", model=MINI, max_tokens=50, pilot=20)
        spent = made.spending()
    assert spent is not None
    assert 0 < plan.pilot < 20
    assert spent.spent_usd == plan.pilot_usd <= Decimal("0.0002")


def test_a_route_is_priced_between_its_candidates(simulator: SimulatorThread) -> None:
    with hub(simulator, route={"fast": llmhub.Failover(MINI, HAIKU)}) as made:
        plan = made.plan(frame(50), "{t}", model=["fast", MINI, HAIKU], max_tokens=40)
    fast, mini, haiku = (model.usd for model in plan.models)
    assert fast is not None
    assert mini is not None
    assert haiku is not None
    assert (fast.low, fast.high) == (min(mini.low, haiku.low), max(mini.high, haiku.high))


# Afterwards


def test_the_forecast_is_held_against_what_came(simulator: SimulatorThread) -> None:
    with hub(simulator) as made:
        frames = pd.DataFrame(frame(100))
        plan: Plan = frames.llm.plan("{t}", model=MINI, hub=made, max_tokens=40, pilot=20)
        results = frames.llm.complete("{t}", model=MINI, hub=made, max_tokens=40, progress=False)
        for table in (results, run(made, frame(100), max_tokens=40)):
            actual = plan.compare(table)
            whats = [(one.model, one.quantity) for one in actual.checks]
            assert whats == [(MINI, what) for what in ("calls", "input tokens", "output tokens", "USD")] + [
                ("", "seconds")
            ]
    actual = plan.compare(results)
    numbers = {one.quantity: one for one in actual.checks}
    assert [numbers[what].within_interval for what in ("calls", "input tokens", "output tokens", "USD")] == [True] * 4
    assert numbers["calls"].actual == 80
    assert "as expected" in str(actual)
    # Another run is not what was forecast.
    with hub(simulator) as made:
        wrong = plan.compare(run(made, frame(300, 3), HAIKU))
        assert not wrong.within_intervals
        assert "OUTSIDE" in str(wrong)
