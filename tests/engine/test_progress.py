"""How far a run is, counted by model: rows, tokens, money, pace, and what holds it back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from llmhub.core.errors import BudgetExceeded, Cancelled, ServerError
from llmhub.core.pricing import compute_cost
from llmhub.core.provider import Endpoint
from llmhub.core.serialization import StoredResponse, to_stored_response
from llmhub.core.types import CompletionResponse, Text, Usage
from llmhub.engine.call import Answer, BilledFailure, Target
from llmhub.engine.progress import Progress, ProgressSink, ProgressTracker, RunSnapshot
from llmhub.providers.prices import find_price
from llmhub.providers.registry import PROVIDERS

AT = datetime(2026, 11, 22, tzinfo=UTC)


MINI = Target(PROVIDERS["openai"], Endpoint(), "gpt-4o-mini", "openai/gpt-4o-mini")


HAIKU = Target(PROVIDERS["anthropic"], Endpoint(), "claude-haiku-4-5", "anthropic/claude-haiku-4-5")


NOBODY = Target(PROVIDERS["compatible"], Endpoint(), "own", "compatible/own")


def unheard(progress: Progress) -> None:
    raise AssertionError(progress)


def fresh(tokens: int = 1000, answered: int = 100, served: str = "") -> Answer:
    usage = Usage(input_tokens=tokens, output_tokens=answered)
    return Answer(
        Success(CompletionResponse(parts=(Text("a"),), finish_reason="stop", usage=usage, served_model=served))
    )


def kept() -> StoredResponse:
    return to_stored_response(fresh().outcome.unwrap())


FAILED, STOPPED, REFUSED = (Answer(Failure(error)) for error in (ServerError(), Cancelled(), BudgetExceeded()))


def priced(tally: ProgressTracker) -> ProgressTracker:
    tally.set_prices(tally.look_up_prices(tally.unpriced_models()))
    return tally


def tallied(size: int, *targets: Target, samples: int = 1) -> ProgressTracker:
    return ProgressTracker(size, ProgressSink(unheard, targets, samples), AT.timestamp())


ANSWERS = {"fresh": fresh(), "kept": kept(), "failed": FAILED, "stopped": STOPPED, "refused": REFUSED}


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.sampled_from(sorted(ANSWERS)), max_size=40),
    st.lists(st.integers(0, 40), max_size=3),
)
def test_every_answer_is_counted_once_at_its_own_model(
    many: int, samples: int, kinds: list[str], reports: list[int]
) -> None:
    """Whenever it is asked for, and in whatever order the answers come."""
    rows = len(kinds) // (many * samples) + 1
    tally = tallied(rows * many * samples, *[MINI, HAIKU, NOBODY][:many], samples=samples)
    for position, kind in enumerate(kinds):
        tally.add(position, ANSWERS[kind])
        if position in reports:
            tally.progress(RunSnapshot(1.0 + position))
    said = tally.progress(RunSnapshot(100.0))
    for which, model in enumerate(said.models):
        own = [kind for position, kind in enumerate(kinds) if position // samples % many == which]
        assert (model.done, model.cached) == (sum(own.count(k) for k in ("fresh", "kept", "failed")), own.count("kept"))
        assert (model.failed, model.unanswered) == (own.count("failed"), own.count("stopped") + own.count("refused"))
        assert (model.input_tokens, model.output_tokens) == (1000 * own.count("fresh"), 100 * own.count("fresh"))
        assert model.total == rows * samples
    assert (said.done, said.total) == (sum(model.done for model in said.models), rows * many * samples)
    assert said.unanswered == sum(model.unanswered for model in said.models)


def test_rows_that_each_ask_one_model_are_counted_there() -> None:
    tally = ProgressTracker(6, ProgressSink(unheard, (MINI, HAIKU), 2, target_by_row=[1, 0, 1]), AT.timestamp())
    assert [model.total for model in tally.progress(RunSnapshot(0.0)).models] == [2, 4]
    for position in range(3):
        tally.add(position, fresh())
    tally.add_stored_block(np.array([4, 5]))
    assert [(model.done, model.cached) for model in tally.progress(RunSnapshot(1.0)).models] == [(1, 0), (4, 2)]


def test_what_was_spent_is_exact_and_by_the_model_that_served() -> None:
    tally = tallied(4, MINI, HAIKU)
    for position, served in enumerate(["gpt-4o-mini-2024-07-18", "", "gpt-4o-mini", "no-such-model"]):
        tally.add(position, fresh(10 + position, 5, served))
    first, second = priced(tally).progress(RunSnapshot(1.0)).models
    openai, anthropic = find_price("openai", "gpt-4o-mini", AT), find_price("anthropic", "claude-haiku-4-5", AT)
    assert openai is not None
    assert anthropic is not None
    each = [compute_cost(Usage(input_tokens=10 + at, output_tokens=5), (openai, anthropic)[at % 2]) for at in range(4)]
    assert first.spent_usd == (each[0] or 0) + (each[2] or 0)
    assert second.spent_usd == (each[1] or 0) + (each[3] or 0)


def test_what_another_answered_costs_what_that_one_takes() -> None:
    tally = tallied(1, MINI)
    tally.add(0, replace(fresh(), target=HAIKU))
    said = priced(tally).progress(RunSnapshot(1.0))
    assert (said.models[0].model, said.spent_usd) == ("openai/gpt-4o-mini", Decimal("0.0015"))


def test_money_is_unknown_until_the_price_is_and_for_ever_where_there_is_none() -> None:
    tally = tallied(4, MINI, NOBODY)
    assert tally.progress(RunSnapshot(0.0)).spent_usd == 0
    tally.add(0, fresh())
    assert tally.progress(RunSnapshot(1.0)).models[0].spent_usd is None
    priced(tally)
    assert tally.progress(RunSnapshot(1.0)).models[0].spent_usd == Decimal("0.00021")
    tally.add(1, fresh())
    said = priced(tally).progress(RunSnapshot(2.0))
    assert (said.models[1].spent_usd, said.models[1].forecast_usd, said.spent_usd) == (None, None, None)
    assert tally.unpriced_models() == []


def test_what_the_provider_did_not_count_makes_the_sum_unknown_not_zero() -> None:
    tally = tallied(2, MINI)
    tally.add(0, Answer(Success(CompletionResponse(parts=(), finish_reason="stop", usage=Usage()))))
    assert priced(tally).progress(RunSnapshot(1.0)).spent_usd is None


def test_what_failed_attempts_used_is_spent_too() -> None:
    used = (BilledFailure(HAIKU, Usage(input_tokens=1000, output_tokens=0)),)
    tally = tallied(2, MINI)
    tally.add(0, replace(fresh(), billed_failures=used))
    tally.add(1, replace(FAILED, billed_failures=used))
    said = priced(tally).progress(RunSnapshot(1.0))
    assert said.spent_usd == Decimal("0.00221")
    assert (said.input_tokens, said.failed) == (3000, 1)


def test_a_forecast_counts_what_the_store_has_as_free() -> None:
    """Of the first 100 rows half were in the store; so half of the rest will be."""
    tally = tallied(1000, MINI)
    tally.add_misses(range(50))
    for position in range(50, 100):
        tally.add(position, kept())
    assert tally.progress(RunSnapshot(1.0)).forecast_usd is None
    for position in range(10):
        tally.add(position, fresh())
    said = priced(tally).progress(RunSnapshot(1.0))
    assert said.spent_usd == Decimal("0.0021")
    assert said.forecast_usd == Decimal("0.105")


@given(st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=30), st.integers(0, 30))
def test_a_forecast_is_never_below_what_is_spent_and_equals_it_at_the_end(kinds: list[str], more: int) -> None:
    tally = tallied(len(kinds) + more, MINI)
    tally.add_misses([at for at, kind in enumerate(kinds) if kind != "kept"])
    for position, kind in enumerate(kinds):
        tally.add(position, ANSWERS[kind])
    said = priced(tally).progress(RunSnapshot(1.0))
    assert said.spent_usd is not None
    if said.forecast_usd is not None:
        assert said.forecast_usd >= said.spent_usd
    if not more:
        assert said.forecast_usd == said.spent_usd


def test_nothing_paid_is_a_forecast_of_nothing() -> None:
    tally = tallied(10, MINI)
    for position in range(5):
        tally.add(position, kept())
    said = tally.progress(RunSnapshot(1.0))
    assert (said.spent_usd, said.forecast_usd) == (0, 0)


# Pace


def paced(tally: ProgressTracker, times: list[tuple[float, int]]) -> Progress:
    """Report at each time after so many rows more."""
    position, said = 0, tally.progress(RunSnapshot(0.0))
    for at, rows in times:
        for _ in range(rows):
            tally.add(position, fresh())
            position += 1
        said = tally.progress(RunSnapshot(at))
    return said


def test_the_pace_is_that_of_late_and_in_the_end_that_of_all() -> None:
    tally = tallied(1000, MINI)
    tally.add_misses(range(1000))
    said = paced(tally, [(float(at), 10) for at in range(1, 11)] + [(float(at), 1) for at in range(11, 31)])
    assert said.rows_per_s == pytest.approx(1.0, rel=0.05)
    assert said.remaining_s == pytest.approx(880, rel=0.05)
    assert tally.progress(RunSnapshot(60.0, finished=True)).rows_per_s == pytest.approx(2.0)
    assert tally.progress(RunSnapshot(60.0, finished=True)).remaining_s is None


def test_the_time_left_is_that_of_the_calls_to_come_not_of_rows_from_the_store() -> None:
    """900 rows came at once from the store; the 100 others take a second each."""
    tally = tallied(1000, MINI)
    tally.add_misses(range(100))
    for position in range(100, 1000):
        tally.add(position, kept())
    said = paced(tally, [(float(at), 1) for at in range(1, 11)])
    assert said.remaining_s == pytest.approx(90, rel=0.05)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 5)), max_size=20))
def test_a_pace_can_always_be_said(steps: list[tuple[float, int]]) -> None:
    at, times = Fraction(0), []
    for took_s, rows in steps:
        at += Fraction(took_s)
        times.append((float(at), rows))
    said = paced(tallied(200, MINI), times)
    assert said.rows_per_s >= 0
    assert said.remaining_s is None or said.remaining_s >= 0
