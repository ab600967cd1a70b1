"""Budgets that cannot hold a single call fail before anything is sent; plans show what they expect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BudgetExceededError
from llmhub.engine.progress import Progress
from llmhub.progress.text import progress_line
from llmhub.sim import SimulatorThread

HAIKU, MINI, GPT5 = "anthropic/claude-haiku-4-5", "openai/gpt-4o-mini", "openai/gpt-5"
FRAME = pd.DataFrame({"text": [f"Text {row}" for row in range(20)]})


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as open_hub:
        yield open_hub


def test_a_budget_below_the_first_call_fails_before_sending(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    for call in (llmhub.complete_table, llmhub.submit):
        with pytest.raises(BudgetExceededError) as raised:
            call(FRAME, "{text}", model=[MINI, HAIKU], hub=hub, budget_usd=0.2)
        message = str(raised.value)
        assert message.startswith(f"anthropic: budget_usd: the first call to {HAIKU} may cost $0.32")
        assert "(64,000 output tokens), more than the whole budget of $0.2; nothing was sent" in message
    assert simulator.counts()["requests"] == 0


def test_what_the_message_says_to_set_is_enough(hub: llmhub.Hub) -> None:
    with pytest.raises(BudgetExceededError) as raised:
        llmhub.complete_table(FRAME, "{text}", model=HAIKU, hub=hub, budget_usd=0.2)
    found = re.search(r"max_tokens=([\d,]+) or less, or a budget_usd of at least \$([\d.]+)", str(raised.value))
    assert found is not None
    fitting = int(found[1].replace(",", ""))
    assert fitting > 10_000
    first = {"text": FRAME.text[:1].tolist()}
    for options in ({"max_tokens": fitting, "budget_usd": 0.2}, {"budget_usd": float(found[2])}):
        given: Any = options
        answered = llmhub.complete_table(first, "{text}", model=HAIKU, hub=hub, cache="off", **given)
        assert answered.column("status").to_pylist() == ["ok"]


def test_cached_rows_and_a_budget_of_zero_need_no_room(hub: llmhub.Hub) -> None:
    llmhub.complete_table(FRAME, "{text}", model=HAIKU, hub=hub)
    again = llmhub.complete_table(FRAME, "{text}", model=HAIKU, hub=hub, budget_usd=0.2)
    assert again.column("status").unique().to_pylist() == ["ok"]
    none = llmhub.complete_table({"text": ["new"]}, "{text}", model=HAIKU, hub=hub, budget_usd=0)
    assert none.column("status").to_pylist() == ["budget"]


def test_progress_says_that_the_budget_kept_rows_from_being_sent(hub: llmhub.Hub) -> None:
    reports: list[Progress] = []
    llmhub.complete_table(FRAME, "{text}", model=MINI, hub=hub, budget_usd=0, progress=reports.append)
    assert reports[-1].over_budget == 20
    assert "20 not sent: budget" in progress_line(reports[-1])


def test_a_plan_shows_the_expected_value_before_the_interval(hub: llmhub.Hub) -> None:
    plan = llmhub.plan(FRAME, "{text}", model=MINI, hub=hub)
    (model,) = plan.models
    assert model.usd is not None
    assert re.search(r"5,120 \(20\.\.40,960\)", str(plan))
    assert re.search(r"0\.\d+ \(0\.\d+\.\.0\.\d+\)", str(plan))
    assert re.search(r"Estimated time: \S+ s", str(plan))
    assert model.usd.high < 10 * model.usd.expected


def test_without_history_the_assumed_length_is_stated_by_model(hub: llmhub.Hub) -> None:
    text = str(llmhub.plan(FRAME, "{text}", model=[MINI, GPT5], hub=hub))
    assert f"Without history, 256 output tokens per response are assumed for {MINI}." in text
    assert f"Without history, 1,024 output tokens per response are assumed for {GPT5}." in text
    bounded = llmhub.plan(FRAME, "{text}", model=MINI, hub=hub, max_tokens=40)
    assert bounded.models[0].output_tokens.high == 20 * 40
    llmhub.complete_table(FRAME, "{text}", model=MINI, hub=hub)
    assert "Without history" not in str(llmhub.plan(FRAME, "Again: {text}", model=MINI, hub=hub))


def test_a_plan_is_a_frame(hub: llmhub.Hub) -> None:
    frame = llmhub.plan(FRAME, "{text}", model=[MINI, GPT5], hub=hub).to_pandas()
    assert frame.model.tolist() == [MINI, GPT5]
    assert frame.calls.tolist() == [20, 20]
    assert (frame.cost_usd_low <= frame.cost_usd).all()
    assert (frame.cost_usd <= frame.cost_usd_high).all()
    assert frame.output_tokens.tolist() == [20 * 256, 20 * 1024]
