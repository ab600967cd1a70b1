"""Progress of a run by model: rows, tokens, cost, throughput and remaining time."""

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

PRICED_AT = datetime(2026, 11, 22, tzinfo=UTC)
MINI = Target(PROVIDERS["openai"], Endpoint(), "gpt-4o-mini", "openai/gpt-4o-mini")
HAIKU = Target(PROVIDERS["anthropic"], Endpoint(), "claude-haiku-4-5", "anthropic/claude-haiku-4-5")
UNPRICED = Target(PROVIDERS["compatible"], Endpoint(), "own", "compatible/own")


def fail_on_report(progress: Progress) -> None:
    raise AssertionError(progress)


def called(input_tokens: int = 1000, output_tokens: int = 100, served_model: str = "") -> Answer:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return Answer(
        Success(CompletionResponse(parts=(Text("a"),), finish_reason="stop", usage=usage, served_model=served_model))
    )


def stored_response() -> StoredResponse:
    return to_stored_response(called().outcome.unwrap())


FAILED, CANCELLED, OVER_BUDGET = (Answer(Failure(error)) for error in (ServerError(), Cancelled(), BudgetExceeded()))


def with_prices(tracker: ProgressTracker) -> ProgressTracker:
    tracker.set_prices(tracker.look_up_prices(tracker.unpriced_models()))
    return tracker


def tracker_of(size: int, *targets: Target, samples: int = 1) -> ProgressTracker:
    return ProgressTracker(size, ProgressSink(fail_on_report, targets, samples), PRICED_AT.timestamp())


ANSWERS = {
    "called": called(),
    "stored": stored_response(),
    "failed": FAILED,
    "cancelled": CANCELLED,
    "over budget": OVER_BUDGET,
}


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.sampled_from(sorted(ANSWERS)), max_size=40),
    st.lists(st.integers(0, 40), max_size=3),
)
def test_each_outcome_is_counted_once_for_its_model(
    n_models: int, samples: int, kinds: list[str], reports: list[int]
) -> None:
    """Whenever progress is read, and in whatever order the outcomes come."""
    rows = len(kinds) // (n_models * samples) + 1
    tracker = tracker_of(rows * n_models * samples, *[MINI, HAIKU, UNPRICED][:n_models], samples=samples)
    for position, kind in enumerate(kinds):
        tracker.add(position, ANSWERS[kind])
        if position in reports:
            tracker.progress(RunSnapshot(1.0 + position))
    progress = tracker.progress(RunSnapshot(100.0))
    for index, model in enumerate(progress.models):
        own = [kind for position, kind in enumerate(kinds) if position // samples % n_models == index]
        done = sum(own.count(kind) for kind in ("called", "stored", "failed"))
        unanswered = own.count("cancelled") + own.count("over budget")
        assert (model.done, model.cached) == (done, own.count("stored"))
        assert (model.failed, model.unanswered) == (own.count("failed"), unanswered)
        assert (model.input_tokens, model.output_tokens) == (1000 * own.count("called"), 100 * own.count("called"))
        assert model.total == rows * samples
    assert (progress.done, progress.total) == (sum(model.done for model in progress.models), rows * n_models * samples)
    assert progress.unanswered == sum(model.unanswered for model in progress.models)


def test_rows_sent_to_one_model_each_are_counted_for_it() -> None:
    sink = ProgressSink(fail_on_report, (MINI, HAIKU), 2, target_by_row=[1, 0, 1])
    tracker = ProgressTracker(6, sink, PRICED_AT.timestamp())
    assert [model.total for model in tracker.progress(RunSnapshot(0.0)).models] == [2, 4]
    for position in range(3):
        tracker.add(position, called())
    tracker.add_stored_block(np.array([4, 5]))
    assert [(model.done, model.cached) for model in tracker.progress(RunSnapshot(1.0)).models] == [(1, 0), (4, 2)]


def test_the_cost_is_exact_and_by_served_model() -> None:
    tracker = tracker_of(4, MINI, HAIKU)
    for position, served in enumerate(["gpt-4o-mini-2024-07-18", "", "gpt-4o-mini", "no-such-model"]):
        tracker.add(position, called(10 + position, 5, served))
    first, second = with_prices(tracker).progress(RunSnapshot(1.0)).models
    openai = find_price("openai", "gpt-4o-mini", PRICED_AT)
    anthropic = find_price("anthropic", "claude-haiku-4-5", PRICED_AT)
    assert openai is not None
    assert anthropic is not None
    costs = [compute_cost(Usage(input_tokens=10 + at, output_tokens=5), (openai, anthropic)[at % 2]) for at in range(4)]
    assert first.spent_usd == (costs[0] or 0) + (costs[2] or 0)
    assert second.spent_usd == (costs[1] or 0) + (costs[3] or 0)


def test_a_fallback_costs_the_price_of_the_model_that_answered() -> None:
    tracker = tracker_of(1, MINI)
    tracker.add(0, replace(called(), target=HAIKU))
    progress = with_prices(tracker).progress(RunSnapshot(1.0))
    assert (progress.models[0].model, progress.spent_usd) == ("openai/gpt-4o-mini", Decimal("0.0015"))


def test_the_cost_is_unknown_until_the_price_is_and_stays_unknown_without_one() -> None:
    tracker = tracker_of(4, MINI, UNPRICED)
    assert tracker.progress(RunSnapshot(0.0)).spent_usd == 0
    tracker.add(0, called())
    assert tracker.progress(RunSnapshot(1.0)).models[0].spent_usd is None
    with_prices(tracker)
    assert tracker.progress(RunSnapshot(1.0)).models[0].spent_usd == Decimal("0.00021")
    tracker.add(1, called())
    progress = with_prices(tracker).progress(RunSnapshot(2.0))
    assert (progress.models[1].spent_usd, progress.models[1].forecast_usd, progress.spent_usd) == (None, None, None)
    assert tracker.unpriced_models() == []


def test_missing_token_counts_make_the_cost_unknown_not_zero() -> None:
    tracker = tracker_of(2, MINI)
    tracker.add(0, Answer(Success(CompletionResponse(parts=(), finish_reason="stop", usage=Usage()))))
    assert with_prices(tracker).progress(RunSnapshot(1.0)).spent_usd is None


def test_billed_failed_attempts_add_to_the_cost() -> None:
    used = (BilledFailure(HAIKU, Usage(input_tokens=1000, output_tokens=0)),)
    tracker = tracker_of(2, MINI)
    tracker.add(0, replace(called(), billed_failures=used))
    tracker.add(1, replace(FAILED, billed_failures=used))
    progress = with_prices(tracker).progress(RunSnapshot(1.0))
    assert progress.spent_usd == Decimal("0.00221")
    assert (progress.input_tokens, progress.failed) == (3000, 1)


def test_a_forecast_counts_stored_responses_as_free() -> None:
    """Half of the first 100 rows were in the store, so half of the others are expected to be."""
    tracker = tracker_of(1000, MINI)
    tracker.add_misses(range(50))
    for position in range(50, 100):
        tracker.add(position, stored_response())
    assert tracker.progress(RunSnapshot(1.0)).forecast_usd is None
    for position in range(10):
        tracker.add(position, called())
    progress = with_prices(tracker).progress(RunSnapshot(1.0))
    assert progress.spent_usd == Decimal("0.0021")
    assert progress.forecast_usd == Decimal("0.105")


@given(st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=30), st.integers(0, 30))
def test_a_forecast_is_never_below_the_cost_and_equals_it_at_the_end(kinds: list[str], more: int) -> None:
    tracker = tracker_of(len(kinds) + more, MINI)
    tracker.add_misses([at for at, kind in enumerate(kinds) if kind != "stored"])
    for position, kind in enumerate(kinds):
        tracker.add(position, ANSWERS[kind])
    progress = with_prices(tracker).progress(RunSnapshot(1.0))
    assert progress.spent_usd is not None
    if progress.forecast_usd is not None:
        assert progress.forecast_usd >= progress.spent_usd
    if not more:
        assert progress.forecast_usd == progress.spent_usd


def test_the_forecast_without_calls_is_zero() -> None:
    tracker = tracker_of(10, MINI)
    for position in range(5):
        tracker.add(position, stored_response())
    progress = tracker.progress(RunSnapshot(1.0))
    assert (progress.spent_usd, progress.forecast_usd) == (0, 0)


# Throughput


def report_at(tracker: ProgressTracker, times: list[tuple[float, int]]) -> Progress:
    """Add so many rows before each time, and return the progress at the last one."""
    position, progress = 0, tracker.progress(RunSnapshot(0.0))
    for at, rows in times:
        for _ in range(rows):
            tracker.add(position, called())
            position += 1
        progress = tracker.progress(RunSnapshot(at))
    return progress


def test_the_throughput_is_recent_and_at_the_end_that_of_the_whole_run() -> None:
    tracker = tracker_of(1000, MINI)
    tracker.add_misses(range(1000))
    progress = report_at(tracker, [(float(at), 10) for at in range(1, 11)] + [(float(at), 1) for at in range(11, 31)])
    assert progress.rows_per_s == pytest.approx(1.0, rel=0.05)
    assert progress.remaining_s == pytest.approx(880, rel=0.05)
    assert tracker.progress(RunSnapshot(60.0, finished=True)).rows_per_s == pytest.approx(2.0)
    assert tracker.progress(RunSnapshot(60.0, finished=True)).remaining_s is None


def test_the_remaining_time_is_estimated_from_calls_not_from_stored_rows() -> None:
    """900 rows were in the store; the 100 others take a second each."""
    tracker = tracker_of(1000, MINI)
    tracker.add_misses(range(100))
    for position in range(100, 1000):
        tracker.add(position, stored_response())
    progress = report_at(tracker, [(float(at), 1) for at in range(1, 11)])
    assert progress.remaining_s == pytest.approx(90, rel=0.05)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 5)), max_size=20))
def test_the_throughput_is_always_defined(steps: list[tuple[float, int]]) -> None:
    at, times = Fraction(0), []
    for duration_s, rows in steps:
        at += Fraction(duration_s)
        times.append((float(at), rows))
    progress = report_at(tracker_of(200, MINI), times)
    assert progress.rows_per_s >= 0
    assert progress.remaining_s is None or progress.remaining_s >= 0
