"""Attempts that fail after the provider has counted their tokens are billed, and their row reports the cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa

import llmhub
from llmhub.config import Settings
from llmhub.core.types import Usage
from llmhub.engine.decision_log import DecisionLog
from llmhub.providers.registry import PROVIDERS

MODEL = "openai/gpt-4o-mini"
EMPTY = b'{"id":"c1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}'
COUNTED = b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":100}}\n\n'
WORTH = Decimal("0.00021")
"""1000 input and 100 output tokens, at 0.15 and 0.60 USD per million."""


def ask(url: str, **options: Any) -> pa.Table:
    endpoint = llmhub.Endpoint(base_url=url, api_key="k")
    retry = llmhub.Retry(attempts=3, base_s=0.001)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=retry) as hub:
        return llmhub.complete_table({"t": ["a"]}, "{t}", model=MODEL, hub=hub, progress=False, **options)


def column(table: pa.Table, name: str) -> Any:
    return table.column(name)[0].as_py()


def test_undecodable_reply_costs_its_reported_usage(scripted: Any, replies: Any) -> None:
    table = ask(scripted([replies.reply(EMPTY)]).url)
    assert (column(table, "error_type"), column(table, "attempts")) == ("Malformed", 1)
    assert (column(table, "cost_usd"), column(table, "list_cost_usd")) == (WORTH, None)


def test_interrupted_stream_adds_its_reported_usage_to_the_row(scripted: Any, replies: Any) -> None:
    interrupted = [replies.stream() + replies.event("Hi") + COUNTED, "close"]
    complete_stream = [replies.stream() + replies.event("Hi", "stop") + COUNTED, "close"]
    table = ask(scripted(interrupted, interrupted, complete_stream).url, stream=True)
    assert (column(table, "status"), column(table, "attempts")) == ("ok", 3)
    assert (column(table, "cost_usd"), column(table, "list_cost_usd")) == (3 * WORTH, WORTH)


def test_failure_without_reported_usage_costs_nothing(scripted: Any, replies: Any) -> None:
    table = ask(scripted([replies.reply(b"{}", status=500)]).url)
    assert (column(table, "cost_usd"), column(table, "attempts")) == (None, 3)


def test_every_wire_decodes_usage_of_an_undecodable_payload() -> None:
    payloads: dict[str, Any] = {
        "anthropic": {"usage": {"input_tokens": 7, "output_tokens": 2}},
        "google": {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 2}},
        "bedrock": {"usage": {"inputTokens": 7, "outputTokens": 2}},
        "openai": {"usage": {"prompt_tokens": 7, "completion_tokens": 2}},
        "openai-responses": {"usage": {"input_tokens": 7, "output_tokens": 2}},
        "ollama-native": {"prompt_eval_count": 7, "eval_count": 2},
    }
    for name, payload in payloads.items():
        counted = PROVIDERS[name].wire.decode_usage(payload)
        assert (counted.input_tokens, counted.output_tokens) == (7, 2), name
        assert PROVIDERS[name].wire.decode_usage({}) == Usage(), name


def test_decision_log_keeps_the_latest_in_order() -> None:
    log = DecisionLog(iter(range(5)).__next__, maxlen=3)
    for number in range(5):
        log.record("retry", "p/m", str(number))
    assert [(decision.timestamp, decision.detail) for decision in log.read()] == [(2, "2"), (3, "3"), (4, "4")]
