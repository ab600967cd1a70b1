"""Calls for a single prompt: all forms, invalid arguments, credentials in no output."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import logging
import pickle
import sqlite3
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from returns.pipeline import is_successful
from returns.result import Failure

import llmhub
from llmhub.config import Settings, parse_settings
from llmhub.core.errors import (
    APIConnectionError,
    AuthenticationError,
    AuthFailed,
    BadRequestError,
    ConnectorError,
    InternalServerError,
    InvalidRequest,
    MalformedResponseError,
    RateLimitError,
)
from llmhub.core.types import CompletionRequest, Message, ToolResult
from llmhub.sim import Simulator, SimulatorThread, serving
from llmhub.types import RequestBuilder

MODELS = [
    "openai/gpt-4o-mini",
    "anthropic/claude-haiku-4-5",
    "google/gemini-2.0-flash",
    "bedrock/amazon.nova-lite-v1:0",
    "azure/gpt-4o",
    "compatible/anything",
]


MODEL = MODELS[0]


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), retry=llmhub.Retry(attempts=2, base_s=0.001)
    ) as open_hub:
        yield open_hub


@pytest.mark.parametrize("model", MODELS)
async def test_all_call_forms_return_the_same_response(hub: llmhub.Hub, model: str) -> None:
    request = CompletionRequest(model=model, messages=(Message("user", "Say hi"),))
    response = llmhub.complete("Say hi", model=model, hub=hub)
    assert response.text
    assert response.usage.input_tokens
    assert response.finish_reason == "stop"
    same = [
        await llmhub.acomplete(request, hub=hub),
        llmhub.try_complete(request, hub=hub).unwrap(),
        llmhub.complete([{"role": "user", "content": "Say hi"}], model=model, hub=hub),
        llmhub.complete(Message("user", "Say hi"), model=model, hub=hub),
        list(llmhub.stream("Say hi", model=model, hub=hub))[-1].response,
        [chunk async for chunk in llmhub.astream("Say hi", model=model, hub=hub)][-1].response,
    ]
    for other in same:
        assert other is not None
        assert (other.text, other.usage, other.finish_reason) == (response.text, response.usage, response.finish_reason)


async def test_messages_in_place_of_the_prompt(hub: llmhub.Hub) -> None:
    messages = [{"role": "user", "content": "Say hi"}]
    text = llmhub.complete(messages, model=MODEL, hub=hub).text
    assert llmhub.complete(messages=messages, model=MODEL, hub=hub).text == text
    assert llmhub.try_complete(messages=messages, model=MODEL, hub=hub).unwrap().text == text
    assert (await llmhub.acomplete(messages=messages, model=MODEL, hub=hub)).text == text
    assert "".join(chunk.text for chunk in llmhub.stream(messages=messages, model=MODEL, hub=hub)) == text
    assert "".join([chunk.text async for chunk in llmhub.astream(messages=messages, model=MODEL, hub=hub)]) == text


def test_messages_precede_the_prompt(hub: llmhub.Hub) -> None:
    """As they do in tables."""
    turns = [Message("user", "Say hi"), Message("assistant", "Hi"), Message("user", "And in French?")]
    whole = llmhub.complete(turns, model=MODEL, hub=hub)
    answer = llmhub.complete("And in French?", messages=turns[:2], model=MODEL, hub=hub)
    assert (answer.text, answer.usage) == (whole.text, whole.usage)
    request = CompletionRequest(model=MODEL, messages=(turns[0],))
    for prompt, message in [(None, "prompt: missing"), (request, "messages: a CompletionRequest holds its messages")]:
        with pytest.raises(BadRequestError, match=message):
            llmhub.complete(prompt, messages=None if prompt is None else turns[:2], model=MODEL, hub=hub)


def test_stream_chunks_add_up_to_the_response(hub: llmhub.Hub) -> None:
    chunks = list(llmhub.stream("Say something long", model=MODEL, hub=hub))
    assert len(chunks) >= 2
    assert chunks[-1].response is not None
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].response.text
    assert chunks[-1].usage == chunks[-1].response.usage
    assert not any(chunk.response or chunk.cost_usd or chunk.usage.input_tokens for chunk in chunks[:-1])


@pytest.mark.parametrize(
    "model", [MODEL, "openai-responses/gpt-4o-mini", "vertex/gemini-2.5-flash", "azure/gpt-4o-mini"]
)
async def test_stream_ends_with_usage_and_cost(hub: llmhub.Hub, model: str) -> None:
    last = list(llmhub.stream("Say hi", model=model, hub=hub))[-1]
    also = [chunk async for chunk in llmhub.astream("Say hi", model=model, hub=hub)][-1]
    table = llmhub.complete_table({"t": ["Say hi"]}, "{t}", model=model, hub=hub)
    for chunk in (last, also):
        assert chunk.usage.output_tokens == table.column("output_tokens")[0].as_py() > 0
        assert round(chunk.cost_usd or 0, 9) == table.column("cost_usd")[0].as_py() > 0
        assert chunk.list_cost_usd == chunk.cost_usd


def test_stream_of_an_unpriced_model_has_no_cost(hub: llmhub.Hub) -> None:
    last = list(llmhub.stream("Say hi", model="compatible/anything", hub=hub))[-1]
    assert last.usage.input_tokens
    assert (last.cost_usd, last.list_cost_usd) == (None, None)


def test_cached_stream_comes_in_one_chunk(simulator: SimulatorThread) -> None:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        first, second = (list(llmhub.stream("Say hi", model=MODEL, hub=hub)) for _ in range(2))
    assert second[0].text == first[-1].response.text  # type: ignore[union-attr]
    assert (len(second), simulator.counts()["requests"]) == (2, 1)
    assert second[-1].cost_usd == 0
    assert second[-1].list_cost_usd == first[-1].cost_usd


def test_failed_stream_raises_after_its_chunks(hub: llmhub.Hub) -> None:
    with pytest.raises(InternalServerError):
        list(llmhub.stream("[[sim:500 always]]", model=MODEL, hub=hub))


def test_blocking_calls_from_many_threads(hub: llmhub.Hub) -> None:
    message: dict[int, str] = {}

    def ask(number: int) -> None:
        message[number] = llmhub.complete(f"Say {number % 2}", model=MODEL, hub=hub).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [message[number] for number in range(8)] == [message[0], message[1]] * 4


async def test_blocking_call_while_an_event_loop_runs(hub: llmhub.Hub) -> None:
    assert (
        llmhub.complete("Say hi", model=MODEL, hub=hub).text
        == (await asyncio.to_thread(lambda: llmhub.complete("Say hi", model=MODEL, hub=hub))).text
    )


def test_default_hub_of_configure_and_using(hub: llmhub.Hub, environ: pytest.MonkeyPatch) -> None:
    try:
        llmhub.configure(hub)
        assert llmhub.current_hub() is hub
        with llmhub.using(llmhub.Hub(settings=Settings())) as inner:
            assert llmhub.current_hub() is inner
        assert llmhub.complete("Say hi", model=MODEL).text
    finally:
        llmhub.configure(None)


def test_default_hub_is_made_from_the_environment(
    simulator: SimulatorThread, environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    environ.setenv("OPENAI_BASE_URL", simulator.base_url("openai"))
    environ.setenv("LLMHUB_CACHE", str(tmp_path / "answers.db"))
    llmhub.configure(None)
    try:
        first, second = (llmhub.complete("Say hi", model=MODEL).text for _ in range(2))
        assert first == second
        assert (tmp_path / "answers.db").is_file()
        assert simulator.counts()["requests"] == 1
        llmhub.current_hub().close()
    finally:
        llmhub.configure(None)


# Invalid arguments


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("hi", {"model": "gpt-4o-mini"}, r"^model: 'gpt-4o-mini' names no provider; .*'openai/gpt-4o-mini'"),
        ("hi", {"model": "opnai/gpt-4o"}, r"^model: .*Did you mean 'openai'\?"),
        ("hi", {"model": "openai/"}, r"^model: "),
        ("hi", {}, r"^model: missing; pass model="),
        ("hi", {"model": MODEL, "tempature": 1}, r"^tempature: no such option; .*temperature"),
        ("hi", {"model": MODEL, "temperature": 3}, r"temperature=3.0 is outside 0..2 at \$\.temperature"),
        ("hi", {"model": MODELS[1], "temperature": 1.5}, r"temperature=1.5 is outside 0..1"),
        ([], {"model": MODEL}, r"no messages.* at \$\.messages"),
        ([7], {"model": MODEL}, r"int is not a message.* at \$\.messages\[0\]"),
        (
            [Message("user", (ToolResult("", "x"),))],
            {"model": MODEL},
            r"without an id.* at \$\.messages\[0\]\.parts\[0\]\.id",
        ),
    ],
)
def test_invalid_argument_error_names_argument_and_remedy(
    hub: llmhub.Hub, simulator: SimulatorThread, prompt: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequestError, match=message):
        llmhub.complete(prompt, hub=hub, **options)
    assert isinstance(llmhub.try_complete(prompt, hub=hub, **options), Failure)
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize(
    "options",
    [{"concurrency": 0}, {"concurrency": 10**6}, {"n": 0}, {"on_error": "x"}, {"temperature": 9}, {"nothing": 1}],
)
def test_invalid_run_options_are_rejected_before_sending(
    hub: llmhub.Hub, simulator: SimulatorThread, options: dict[str, Any]
) -> None:
    with pytest.raises(BadRequestError, match=next(iter(options))):
        llmhub.complete_table({"t": ["x"]}, "{t}", model=MODEL, hub=hub, progress=False, **options)
    assert simulator.counts()["requests"] == 0


@pytest.mark.parametrize("models", [[], [MODEL, MODEL], ["gpt-4o"]])
def test_invalid_lists_of_models_are_rejected(hub: llmhub.Hub, models: list[str]) -> None:
    with pytest.raises(BadRequestError, match=r"^model: "):
        llmhub.complete_table({"t": ["x"]}, "{t}", model=models, hub=hub, progress=False)


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("openai/x", "OPENAI_API_KEY"),
        ("google/x", "GEMINI_API_KEY or GOOGLE_API_KEY"),
        ("bedrock/x", "AWS_ACCESS_KEY_ID and"),
    ],
)
def test_missing_key_error_suggests_variable_and_simulator(model: str, variable: str) -> None:
    with pytest.raises(AuthenticationError, match=rf"simulator.*needs none.*{variable}"):
        llmhub.complete("hi", model=model, hub=llmhub.Hub(settings=Settings()))


def test_unreachable_url_is_named_without_retries(scripted: Any) -> None:
    endpoint = llmhub.Endpoint(base_url="http://127.0.0.1:9")
    with (
        llmhub.Hub(endpoints={"compatible": endpoint}, settings=Settings()) as hub,
        pytest.raises(APIConnectionError, match=r"cannot connect to http://127\.0\.0\.1:9 .*check its base URL"),
    ):
        llmhub.complete("hi", model="compatible/x", hub=hub)


def test_provider_error_is_an_exception_and_a_value(hub: llmhub.Hub) -> None:
    with pytest.raises(RateLimitError) as caught:
        llmhub.complete("[[sim:429 always]]", model=MODEL, hub=hub)
    error = caught.value.error
    assert (error.provider, error.status) == ("openai", 429)
    outcome = llmhub.try_complete("[[sim:429 always]]", model=MODEL, hub=hub)
    assert not is_successful(outcome)
    assert type(outcome.failure()) is type(error)
    assert pickle.loads(pickle.dumps(caught.value)).error == error


def test_incomplete_request_builder_names_the_missing_part() -> None:
    with pytest.raises(BadRequestError, match=r"\.model"):
        RequestBuilder().build()  # type: ignore[misc]
    with pytest.raises(BadRequestError, match=r"\.messages"):
        RequestBuilder().model(MODEL).build()  # type: ignore[misc]


# Law 12: a key appears in no output


@pytest.mark.parametrize("model", MODELS[:4])
def test_key_appears_in_no_output(
    model: str, simulator: SimulatorThread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = "Zx9-very-secret-key-0123456789"
    name = model.partition("/")[0]
    environ = {
        "OPENAI_API_KEY": key,
        "OPENAI_BASE_URL": simulator.base_url("openai"),
        "ANTHROPIC_API_KEY": key,
        "ANTHROPIC_BASE_URL": simulator.base_url("anthropic"),
        "GOOGLE_API_KEY": key,
        "GOOGLE_GEMINI_BASE_URL": simulator.base_url("google"),
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": key,
        "AWS_SESSION_TOKEN": key,
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": simulator.base_url("bedrock"),
    }
    settings = parse_settings(environ)
    caplog.set_level(logging.DEBUG)
    shown = io.StringIO()
    path = tmp_path / "runs.db"
    with llmhub.Hub(settings=settings, cache=llmhub.DiskCache(path), retry=llmhub.Retry(attempts=1)) as hub:
        rows = {"t": ["fine", "[[sim:500 always]]", f"Incorrect API key provided: {key} [[sim:429 always]]"]}
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            table = llmhub.complete_table({"t": rows["t"][:2]}, "{t}", model=model, hub=hub, progress=True)
        for prompt in rows["t"][1:]:
            with pytest.raises(ConnectorError) as caught:
                llmhub.complete(prompt, model=model, hub=hub)
            shown.write(
                "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.error)
            )
        shown.write(
            repr(hub) + repr(hub.target(model)) + repr(settings) + str(table.to_pydict()) + str(table.schema.metadata)
        )
    pq.write_table(table, tmp_path / "out.parquet")
    with closing(sqlite3.connect(path)) as connection, connection:
        shown.write("\n".join(connection.iterdump()))
    connection.close()
    shown.write(caplog.text)
    assert name in shown.getvalue()
    assert key not in shown.getvalue()
    for file in tmp_path.iterdir():
        assert key.encode() not in file.read_bytes(), file.name


def test_key_in_an_error_message_is_redacted(scripted: Any, replies: Any) -> None:
    key = "Zx9-very-secret-key-0123456789"
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {key}"}}).encode()
    server = scripted([replies.reply(body, status=401)])
    endpoint = llmhub.Endpoint(base_url=server.url, api_key=key)
    with llmhub.Hub(endpoints={"compatible": endpoint}, settings=Settings()) as hub:
        table = llmhub.complete_table({"t": ["x"]}, "{t}", model="compatible/x", hub=hub, progress=False)
    assert isinstance(table, pa.Table)
    assert "[redacted]" in table.column("error")[0].as_py()
    assert key not in str(table.to_pydict())


def test_try_complete_returns_argument_errors() -> None:
    outcome = llmhub.try_complete("hi", model="nothing", hub=llmhub.Hub(settings=Settings()))
    assert isinstance(outcome.failure(), InvalidRequest)
    keyless = llmhub.try_complete("hi", model=MODEL, hub=llmhub.Hub(settings=Settings()))
    assert isinstance(keyless.failure(), AuthFailed)


@dataclasses.dataclass
class Greeting:
    text: str
    warmth: int = 0


@pytest.mark.parametrize("wanted", [Greeting, llmhub.schema_of(Greeting).schema, llmhub.schema_of(Greeting)], ids=type)
def test_response_schema_from_a_type_or_json_schema(wanted: Any) -> None:
    settings = Simulator(respond=lambda _: '{"text": "hi", "warmth": 3}')
    with serving(settings) as served, llmhub.Hub(endpoints=served.endpoints(), settings=Settings()) as hub:
        request = CompletionRequest(model=MODEL, messages=(Message("user", "Say hi"),), response_schema=wanted)
        for response in (
            llmhub.complete("Say hi", model=MODEL, hub=hub, response_schema=wanted),
            llmhub.complete(request, hub=hub),
        ):
            assert llmhub.parse(response, Greeting) == Greeting("hi", 3)
            assert llmhub.parse(response.text, {"type": "object"}) == {"text": "hi", "warmth": 3}
        table = llmhub.complete_table({"t": ["a", None]}, "{t}", model=MODEL, hub=hub, response_schema=wanted)
        assert table.column("parsed").to_pylist() == ['{"text":"hi","warmth":3}', None]
        plain = llmhub.complete_table({"t": ["a"]}, "{t}", model=MODEL, hub=hub)
        assert plain.column("parsed").to_pylist() == [None]


def test_invalid_schema_is_rejected_before_sending(hub: llmhub.Hub) -> None:
    for ask in (llmhub.complete, lambda prompt, **more: llmhub.complete_table({"t": ["a"]}, prompt, **more)):
        with pytest.raises(BadRequestError, match="pydantic model or dataclass"):
            ask("Say hi", model=MODEL, hub=hub, response_schema=object)
    with pytest.raises(MalformedResponseError, match="not a Greeting"):
        llmhub.parse("hi", Greeting)
