"""Requests with placeholders: laws of putting values back, and calls of every form to a server that repeats them."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmhub
from llmhub.config import Settings
from llmhub.core.provider import Endpoint
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, fold
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Reasoning, Text, ToolCall
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.request_redaction import RedactedCall
from llmhub.providers.registry import PROVIDERS
from llmhub.security.placeholders import Placeholders, PlaceholderStream, redact_request, restore_response
from llmhub.security.redaction import Redactor
from llmhub.server.access import OpenAccess
from llmhub.server.running import serving
from llmhub.server.server_settings import ServerSettings, parse_server_settings
from llmhub.server.service import Service
from llmhub.sim import Simulator
from llmhub.sim import serving as simulating

REDACTOR = Redactor(patterns={"NOTE": r"<[^>]*>"})
MAIL, CARD, KEY = "ann@example.org", "4111 1111 1111 1111", "sk-proj-abcdefgh1234567890"
PROMPT = f"Write to {MAIL} of {CARD}; {KEY}"
SENT = "Write to [EMAIL_ADDRESS_1] of [CREDIT_CARD_1]; [API_KEY_1]"

values = st.sampled_from([MAIL, "bob@example.org", CARD, KEY, "10.1.2.3", '<a"\\\n>', "[EMAIL_ADDRESS_1]", "[NOTE_2]"])
texts = st.lists(st.one_of(values, st.text(max_size=8), st.sampled_from(["[", "[EMAIL", "_1]", "]"]))).map(" ".join)


@given(st.lists(texts, min_size=1, max_size=3))
def test_placeholders_return_exactly(parts: list[str]) -> None:
    placeholders = Placeholders(REDACTOR)
    sent = [placeholders.replace(text) for text in parts]
    assert [placeholders.restore(text) for text in sent] == parts
    assert sent == [Placeholders(REDACTOR, placeholders).replace(text) for text in parts]
    assert MAIL not in "".join(sent) + repr(placeholders)


@given(st.lists(texts, min_size=1, max_size=3), st.data(), st.booleans())
def test_any_split_of_a_stream_gives_the_same_text(parts: list[str], data: st.DataObject, is_json: bool) -> None:
    placeholders = Placeholders(REDACTOR)
    sent = "".join([placeholders.replace(text) for text in parts])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=12)))
    stream = PlaceholderStream(placeholders, is_json=is_json)
    pieces = [stream.feed(sent[start:end]) for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert "".join([*pieces, stream.close()]) == placeholders.restore_text(sent, is_json=is_json)


@given(st.recursive(texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)))
def test_arguments_of_tools_return_exactly(value: Any) -> None:
    arguments = json.dumps({"a": value})
    request = CompletionRequest(model="m", messages=(Message("assistant", ToolCall("1", "f", arguments)),))
    redacted, placeholders = redact_request(request, REDACTOR)
    call = redacted.messages[0].parts[0]
    response = CompletionResponse(parts=(call, Text("x"), Reasoning("y")))
    restored = restore_response(response, placeholders)
    assert json.loads(restored.tool_calls[0].arguments) == json.loads(arguments)
    assert MAIL not in repr(redacted)


def test_a_conversation_that_goes_on_keeps_its_placeholders() -> None:
    messages = (Message("user", f"I am {MAIL}"), Message("assistant", "Hello"), Message("user", f"{CARD}, {MAIL}"))
    first, _ = redact_request(CompletionRequest(model="m", messages=messages[:1]), REDACTOR)
    later, _ = redact_request(CompletionRequest(model="m", messages=messages), REDACTOR)
    assert later.messages[0] == first.messages[0]
    assert later.messages[2].text == "[CREDIT_CARD_1], [EMAIL_ADDRESS_1]"


@given(st.lists(texts, min_size=1, max_size=2), st.data())
def test_deltas_of_a_stream_have_the_values(parts: list[str], data: st.DataObject) -> None:
    """As the service passes a stream on: by part, with tool calls, in any pieces."""
    request = CompletionRequest(model="m", messages=tuple(Message("user", text) for text in (MAIL, *parts)))
    passed: list[Delta] = []
    call = Call(Target(PROVIDERS["compatible"], Endpoint(), "m", "compatible/m"), request, on_deltas=passed.extend)
    redacted = RedactedCall(call, REDACTOR)
    sent = "".join(message.text for message in redacted.call.request.messages)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8))), len(sent)]
    pieces = [sent[start:end] for start, end in itertools.pairwise(cuts)]
    arguments = json.dumps({"a": sent})
    deltas: list[Delta] = [Fragment(0, Text(piece)) for piece in pieces]
    deltas.append(Fragment(1, ToolCall("c", "f", "")))
    deltas += [Fragment(1, ToolCall("", "", arguments[start : start + 7])) for start in range(0, len(arguments), 7)]
    deltas += [Fragment(2, Reasoning("[EMAIL", signature="s")), ChoiceFinished("stop")]
    assert redacted.call.on_deltas is not None
    for delta in deltas:
        redacted.call.on_deltas((delta,))
    answer = redacted.restore(Answer(fold(deltas)))
    assert fold(passed) == answer.outcome
    response = answer.outcome.unwrap()
    assert response.text == "".join((MAIL, *parts))
    assert json.loads(response.tool_calls[0].arguments) == {"a": response.text}


# Calls


def make_hub(echo: Any, **options: Any) -> llmhub.Hub:
    endpoint = Endpoint(base_url=echo.url, api_key="k")
    return llmhub.Hub(
        endpoints={"openai": endpoint, "compatible": endpoint}, settings=Settings(), redact=True, **options
    )


def assert_nothing_left_the_process(echo: Any, *files: Path) -> None:
    for value in (MAIL, CARD, KEY):
        assert value not in echo.sent
        for file in files:
            assert file.is_dir() or value.encode() not in file.read_bytes()


def test_single_call(echo: Any, tmp_path: Path) -> None:
    file = tmp_path / "c.db"
    with make_hub(echo, cache=str(file)) as hub:
        response = llmhub.complete(PROMPT, model="compatible/m", hub=hub)
        assert response.text == PROMPT
        again = llmhub.complete(PROMPT, model="compatible/m", hub=hub)
        assert (again.text, again.cache_hit) == (PROMPT, True)
        # Another person's equal request is the same request to the provider, and gets the other person's values.
        other = llmhub.complete(PROMPT.replace(MAIL, "bob@example.org"), model="compatible/m", hub=hub)
        assert (other.text, other.cache_hit) == (PROMPT.replace(MAIL, "bob@example.org"), True)
        untouched = llmhub.complete("Hi [STEP_2]", model="compatible/m", hub=hub)
        assert untouched.text == "Hi [STEP_2]"
    assert [request["messages"][0]["content"] for request in echo.requests] == [SENT, "Hi [STEP_2]"]
    assert_nothing_left_the_process(echo, *tmp_path.glob("c.db*"))


def test_streamed_call(echo: Any) -> None:
    with make_hub(echo) as hub:
        chunks = list(llmhub.stream(f"{PROMPT} [EMAIL", model="compatible/m", hub=hub))
        assert "".join(chunk.text for chunk in chunks) == f"{PROMPT} [EMAIL"
        assert chunks[-1].response is not None
        assert chunks[-1].response.text == f"{PROMPT} [EMAIL"
        tool = llmhub.types.Tool("mail", f"as {MAIL}", {"type": "object"})
        chunks = list(llmhub.stream(PROMPT, model="compatible/m", hub=hub, tools=[tool]))
        arguments = "".join(call.arguments for chunk in chunks for call in chunk.tool_calls)
        assert json.loads(arguments) == {"to": PROMPT}
        assert chunks[-1].response is not None
        assert json.loads(chunks[-1].response.tool_calls[0].arguments) == {"to": PROMPT}
    assert_nothing_left_the_process(echo)


def test_values_with_quotes_come_back_as_json(echo: Any) -> None:
    value = '{"note": "<say \\"hi\\">", "mail": "ann@example.org"}'
    hub = make_hub(echo)
    redactor = Redactor(patterns={"NOTE": r"<[^>]*>"})
    schema = {"type": "object", "properties": {"note": {"type": "string"}, "mail": {"type": "string"}}}
    with llmhub.Hub(endpoints=hub.endpoints, settings=Settings(), redact=redactor) as hub:
        prompt = '{"note": "<say "hi">", "mail": "ann@example.org"}'
        response = llmhub.complete(prompt, model="compatible/m", hub=hub, schema=schema)
        assert response.parsed == json.loads(value)
        table = llmhub.complete_table(
            {"q": [prompt]}, "{q}", model="compatible/m", hub=hub, schema=schema, progress=False
        )
        assert table.column("parsed")[0].as_py() == json.loads(value)
    assert_nothing_left_the_process(echo)


def test_tools_get_the_values_and_their_results_are_redacted(echo: Any) -> None:
    called = []

    def mail(to: str) -> str:
        """Send mail."""
        called.append(to)
        return "sent to bob@example.org"

    with make_hub(echo) as hub:
        response = llmhub.complete(PROMPT, model="compatible/m", hub=hub, tools=[mail])
        assert (called, response.text) == ([PROMPT], "sent to bob@example.org")
        table = llmhub.complete_table(
            {"q": [PROMPT]}, "{q}", model="compatible/m", hub=hub, tools=[mail], progress=False
        )
        assert table.column("response").to_pylist() == ["sent to bob@example.org"]
    assert called == [PROMPT, PROMPT]
    assert "bob@" not in echo.sent
    assert_nothing_left_the_process(echo)


@pytest.mark.parametrize("store", [None, "c.db"])
def test_tables(echo: Any, tmp_path: Path, store: str | None) -> None:
    frame = pd.DataFrame({"who": ["ann", "bob", "plain", None, "ann"], "id": range(5)})
    expected = [f"Mail {name}@example.org or root@example.org" for name in ("ann", "bob", "plain")]
    file = None if store is None else tmp_path / store
    prompt = "Mail {who}@example.org or root@example.org"
    for _ in range(2):
        with make_hub(echo, cache=None if file is None else str(file)) as hub:
            result = frame.llm.complete(
                prompt, model=["compatible/m", "openai/m"], system="You are root@example.org.", hub=hub, progress=False
            )
            assert result["response"].dropna().tolist() == [text for text in [*expected, expected[0]] for _ in range(2)]
            sampled = frame.llm.complete(prompt, model="compatible/m", n=2, hub=hub, progress=False)
            assert sampled["response"].dropna().tolist()[::2] == [*expected, expected[0]]
    # Rows that differ in what is redacted are one request.
    assert len(echo.requests) == (4 if store else 8)
    assert {request["messages"][-1]["content"] for request in echo.requests} == {
        "Mail [EMAIL_ADDRESS_2] or [EMAIL_ADDRESS_1]",
        "Mail [EMAIL_ADDRESS_1] or [EMAIL_ADDRESS_2]",
    }
    assert "example.org" not in echo.sent
    if file is not None:
        assert all(b"example.org" not in path.read_bytes() for path in tmp_path.glob("c.db*"))


def test_jobs_conversations_and_files(echo: Any, tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": "Hi"}, {"role": "user", "content": PROMPT}]]
    with make_hub(echo) as hub:
        job = llmhub.submit({"q": [PROMPT]}, "{q}", model="compatible/m", hub=hub, progress=False)
        assert job.result().column("response").to_pylist() == [PROMPT]
        series = pd.Series(messages).llm.complete(model="compatible/m", hub=hub, progress=False)
        assert series.tolist() == [PROMPT]
        written = llmhub.complete_table(
            {"q": [PROMPT]}, "{q}", model="compatible/m", hub=hub, sink=str(tmp_path / "out"), progress=False
        )
        assert pd.read_parquet(tmp_path / "out")["response"].tolist() == [PROMPT], written
        assert hub.plan({"q": [PROMPT]}, "{q}", model="openai/gpt-4o-mini")
    assert_nothing_left_the_process(echo)


def test_texts_to_embed_are_redacted(echo: Any) -> None:
    with make_hub(echo) as hub:
        llmhub.embed([PROMPT], model="openai/text-embedding-3-small", hub=hub)
    assert echo.requests[0]["input"] == ["Write to [EMAIL_ADDRESS] of [CREDIT_CARD]; [API_KEY]"]


async def test_awaited_calls_have_placeholders_of_their_own(echo: Any) -> None:
    prompts = [f"I am {name}@example.org" for name in ("ann", "bob", "cem")]
    with make_hub(echo) as hub:
        responses = await asyncio.gather(
            *(llmhub.acomplete(prompt, model="compatible/m", hub=hub) for prompt in prompts)
        )
    assert [response.text for response in responses] == prompts
    assert {request["messages"][0]["content"] for request in echo.requests} == {"I am [EMAIL_ADDRESS_1]"}


def test_errors_have_placeholders(echo: Any) -> None:
    echo.status = 400
    with make_hub(echo) as hub, pytest.raises(llmhub.BadRequestError) as caught:
        llmhub.complete(PROMPT, model="compatible/m", hub=hub)
    assert MAIL not in str(caught.value)
    assert "[EMAIL_ADDRESS_1]" in str(caught.value)


def post(url: str, payload: dict[str, Any]) -> bytes:
    request = urllib.request.Request(url, json.dumps(payload).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        body: bytes = reply.read()
        return body


def test_service(echo: Any, tmp_path: Path) -> None:
    """The service redacts what it passes on, and its clients get the values, streamed too."""
    settings = ServerSettings(port=0, redact=True)
    file = tmp_path / "c.db"
    hub = make_hub(echo, cache=str(file))
    messages = [{"role": "user", "content": PROMPT}]
    with serving(Service(hub, settings, OpenAccess())) as running:
        chat = {"model": "compatible/m", "messages": messages}
        reply = json.loads(post(f"{running.url}/v1/chat/completions", chat))
        assert reply["choices"][0]["message"]["content"] == PROMPT
        lines = post(f"{running.url}/v1/chat/completions", {**chat, "model": "openai/m", "stream": True}).decode()
        chunks = [json.loads(line[6:]) for line in lines.splitlines() if line.startswith("data: {")]
        text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
        assert text == PROMPT
        embed = {"model": "openai/text-embedding-3-small", "input": [PROMPT, "plain"]}
        assert len(json.loads(post(f"{running.url}/v1/embeddings", embed))["data"]) == 2
    assert parse_server_settings("[server]\nredact = ['IBAN_CODE']", {}).redact == ["IBAN_CODE"]
    assert parse_server_settings("", {"LLMHUB_SERVER_REDACT": "true"}).redact is True
    assert len(echo.requests) == 3
    assert_nothing_left_the_process(echo, *tmp_path.glob("c.db*"))


def test_batches_of_a_provider(tmp_path: Path) -> None:
    """Rows of a provider's Batch API have placeholders, and their answers the values, in any process."""
    received: list[str] = []

    def respond(prompt: str) -> str:
        received.append(prompt)
        return f"said {prompt}"

    file, frame = tmp_path / "c.db", {"q": [PROMPT, "plain", PROMPT.replace(MAIL, "bob@example.org")]}
    with simulating(Simulator(respond=respond)) as served:
        for _ in range(2):
            with llmhub.Hub(simulator=served.url, cache=str(file), redact=True) as hub:
                table = llmhub.complete_table(
                    frame, "{q}", model="openai/gpt-4o-mini", hub=hub, mode="batch", poll_s=0.02, progress=False
                )
            assert table.column("response").to_pylist() == [f"said {text}" for text in frame["q"]]
    assert sorted(received) == [SENT, "plain"]
    assert all(MAIL.encode() not in path.read_bytes() for path in tmp_path.glob("c.db*"))


def test_frozen_datasets(echo: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"q": [PROMPT, "plain"], "contact": [{"mail": MAIL, "n": 4111111111111111}, None]})
    with llmhub.Hub(endpoints=make_hub(echo).endpoints, settings=Settings()) as hub:
        results = frame.llm.complete("{q}", model="compatible/m", hub=hub, columns="all", progress=False)
        frozen = llmhub.datasets.freeze(results, tmp_path / "frozen", redact=True, layout="jsonl", hub=hub)
    for path in (tmp_path / "frozen").iterdir():
        assert not [value for value in (MAIL, CARD, KEY) if value.encode() in path.read_bytes()], path
    assert "Write to [EMAIL_ADDRESS] of [CREDIT_CARD]" in (tmp_path / "frozen" / "data.jsonl").read_text()
    assert llmhub.datasets.verify(tmp_path / "frozen").ok, frozen


def test_option_is_validated_and_pickled(echo: Any) -> None:
    hub = llmhub.Hub(settings=Settings(), redact=["EMAIL_ADDRESS"])
    assert pickle.loads(pickle.dumps(hub)).redact == Redactor(entities=("EMAIL_ADDRESS",)) == hub.redact
    assert llmhub.Hub(settings=Settings()).redact is None
    with pytest.raises(llmhub.BadRequestError, match=r"^entities: unknown kind 'EMAIL'"):
        llmhub.Hub(settings=Settings(), redact="EMAIL")
