"""Invalid input: the error names it, nothing is sent, and no exception of another library escapes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as open_hub:
        yield open_hub


def deep() -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"x": nested}
    return nested


ODD: dict[str, dict[str, Any]] = {
    "extra without a JSON form": {"extra": {"x": object()}},
    "extra that is half a surrogate pair": {"extra": {"x": "\ud800"}},
    "extra that is too deep": {"extra": deep()},
    "extra that is no mapping": {"extra": 7},
    "stop that is no text": {"stop": 5},
    "stop of no texts": {"stop": [5]},
    "temperature in words": {"temperature": "hot"},
    "max_tokens in words": {"max_tokens": "few"},
    "max_tokens that is broken": {"max_tokens": 7.5},
    "tools that are none": {"tools": 7},
    "system that is no text": {"system": 7},
    "unsupported in other words": {"unsupported": "ignore"},
    "a model that is a number": {"model": 7},
    "a model that is a list of a number": {"model": [7]},
}


@pytest.mark.parametrize("kind", sorted(ODD))
def test_invalid_option_raises_bad_request_error(hub: llmhub.Hub, simulator: SimulatorThread, kind: str) -> None:
    options: dict[str, Any] = {"model": MODEL, **ODD[kind]}
    with pytest.raises(BadRequestError):
        llmhub.complete("hi", hub=hub, **options)
    with pytest.raises(BadRequestError):
        llmhub.complete_table({"t": ["hi"]}, "{t}", hub=hub, progress=False, **options)
    with pytest.raises(BadRequestError):
        llmhub.plan({"t": ["hi"]}, "{t}", hub=hub, **options)
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize("model", [None, 7, [7], [None], b"openai/x"])
def test_invalid_model_is_named(hub: llmhub.Hub, model: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^model: "):
        llmhub.complete_table({"t": ["hi"]}, "{t}", model=model, hub=hub, progress=False)
    with pytest.raises(BadRequestError, match=r"^model: "):
        llmhub.complete("hi", model=model, hub=hub)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", "2"), ("n", 1.5), ("n", None), ("concurrency", "8"), ("concurrency", 1.5), ("concurrency", True)],
)
def test_counts_must_be_integers(hub: llmhub.Hub, name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(BadRequestError, match=name):
        llmhub.complete_table({"t": ["hi"]}, "{t}", model=MODEL, hub=hub, progress=False, **options)


def test_numpy_numbers_are_accepted(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["a", "b"]})
    numbers: dict[str, Any] = {"temperature": np.float64(0.5), "max_tokens": np.int64(9), "n": np.int64(2)}
    table = llmhub.complete_table(
        frame, "{t}", model=np.array([MODEL]).tolist(), hub=hub, progress=False, concurrency=np.int64(2), **numbers
    )
    assert table.column("status").to_pylist() == ["ok"] * 4


def test_models_in_any_sequence(hub: llmhub.Hub) -> None:
    several: list[Any] = [(MODEL,), np.array([MODEL]), pd.Series([MODEL]), iter([MODEL]), {MODEL: 1}]
    for models in several:
        table = llmhub.complete_table({"t": ["a"]}, "{t}", model=models, hub=hub, progress=False)
        assert table.num_rows == 1


@pytest.mark.parametrize("prompt", [7, None, b"hi", [b"hi"], {"content": "hi"}, object()])
def test_invalid_prompt_is_named(hub: llmhub.Hub, prompt: Any) -> None:
    with pytest.raises(BadRequestError, match=r"is not a message|messages"):
        llmhub.complete(prompt, model=MODEL, hub=hub)


def test_try_complete_returns_prompt_errors(hub: llmhub.Hub) -> None:
    with pytest.raises(BadRequestError, match="surrogates"):
        llmhub.complete("half \ud800", model=MODEL, hub=hub)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": "many"},
        {"limits": {"openai": 500}},
        {"limits": {"opnai": llmhub.Limit(rpm=1)}},
        {"endpoints": {"openai": "http://localhost"}},
        {"endpoints": {"opnai": llmhub.Endpoint()}},
        {"cache": {"path": "runs.db"}},
        {"retry": 5},
        {"timeout": 30},
        {"pool_size": 0},
        {"middleware": [7]},
    ],
)
def test_hub_rejects_invalid_options(options: dict[str, Any]) -> None:
    """The value is not repeated in the message, because it may be a key."""
    with pytest.raises(BadRequestError, match=next(iter(options))) as caught:
        llmhub.Hub(settings=Settings(), **options)
    assert "localhost" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"base_s": -1}, {"cap_s": -1}, {"jitter": 2}, {"deadline_s": -1}, {"attempts": 2.5}]
)
def test_invalid_retry_policy_is_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=f"retry.{next(iter(options))}"):
        llmhub.Retry(**options)


@pytest.mark.parametrize("options", [{"total_s": 0}, {"total_s": -1}, {"connect_s": 0}, {"total_s": float("nan")}])
def test_invalid_timeout_is_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=f"timeout.{next(iter(options))}"):
        llmhub.Timeout(**options)


def test_integers_are_accepted_for_float_options(simulator: SimulatorThread) -> None:
    """Integers are accepted for float options, and numpy integers for int options."""
    timeout = llmhub.Timeout(total_s=np.int64(30), connect_s=5)  # type: ignore[arg-type]
    with llmhub.Hub(
        endpoints=simulator.endpoints(),
        settings=Settings(),
        timeout=timeout,
        retry=llmhub.Retry(base_s=1),
        limits={"openai": llmhub.Limit(rpm=np.int64(600))},  # type: ignore[arg-type]
    ) as open_hub:
        assert llmhub.complete("hi", model=MODEL, hub=open_hub).text


def test_stream_closed_early_leaves_no_tasks(hub: llmhub.Hub, caplog: pytest.LogCaptureFixture) -> None:
    async def first() -> str:
        async for chunk in llmhub.astream("Tell me a long story.", model=MODEL, hub=hub):
            return chunk.text
        return ""

    caplog.set_level(logging.DEBUG)
    for _ in range(20):
        assert asyncio.run(first())
        chunks = llmhub.stream("Tell me a long story.", model=MODEL, hub=hub)
        assert next(chunks).text
        chunks.close()
    assert llmhub.complete("hi", model=MODEL, hub=hub).text
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_decimals_and_dates_are_rendered_exactly(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    frame = pd.DataFrame({"p": [Decimal("1.10")], "d": pd.to_datetime(["2026-01-02"]), "o": [{"a": 1}]})
    with llmhub.Hub(endpoints=endpoints, settings=Settings()) as open_hub:
        llmhub.complete_table(frame, "{p} {d:%d.%m.%Y} {o}", model="compatible/m", hub=open_hub, progress=False)
    assert json.loads(server.bodies[0])["messages"][0]["content"] == "1.10 02.01.2026 {'a': 1}"


@pytest.mark.parametrize("n", [10**12, 10**30])
def test_more_samples_than_memory_holds_are_refused(hub: llmhub.Hub, n: int) -> None:
    with pytest.raises(BadRequestError, match=r"^n: .* pass a smaller n"):
        llmhub.complete_table({"q": ["a", "b"]}, "{q}", model=MODEL, hub=hub, progress=False, n=n)


def test_half_a_surrogate_pair_is_named_or_fails_its_row(hub: llmhub.Hub) -> None:
    texts = ["a", "half \ud800 pair", "c"]
    with pytest.raises(BadRequestError, match=r"frame: column 'q', row 1: half of a surrogate pair"):
        llmhub.complete_table({"p": ["x"] * 3, "q": texts}, "{q}", model=MODEL, hub=hub, progress=False)
    frame = pd.DataFrame({"q": pd.Series(texts, dtype=object)})
    table = llmhub.complete_table(frame, "{q}", model=MODEL, hub=hub, progress=False)
    assert table["status"].to_pylist() == ["ok", "error", "ok"]
