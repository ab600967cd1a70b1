"""The Anthropic SDK parses the simulator's replies, in both versions of the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import anthropic
import pytest
from anthropic.types import Message

from llmhub.sim import Faults, SimLimit, SimulatorThread

SAY_HI = [{"role": "user", "content": "Say hi to the harbour."}]
ASKED: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 300, "messages": SAY_HI}


@pytest.fixture(params=["2023-06-01", "2026-10-21"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(simulator: SimulatorThread) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=simulator.base_url("anthropic"),
        api_key="k",
        max_retries=0,
        default_headers={"anthropic-version": "2023-06-01"},
    ) as client:
        yield client


def test_completion(client: anthropic.Anthropic, version: str) -> None:
    answer = client.messages.create(**ASKED, extra_headers={"anthropic-version": version})
    Message.model_validate(answer.model_dump(), strict=False)
    assert answer.content[0].text
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.model == "claude-haiku-4-5-20251001"
    assert answer.usage.input_tokens == 6
    assert answer._request_id.startswith("req_01")


def test_stream_equals_completion(client: anthropic.Anthropic) -> None:
    completion = client.messages.create(**ASKED)
    with client.messages.stream(**ASKED) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == completion.content[0].text == final.content[0].text
    assert (final.usage.input_tokens, final.usage.output_tokens) == (6, completion.usage.output_tokens)
    assert (final.stop_reason, final.model, final.id) == (completion.stop_reason, completion.model, completion.id)


def test_max_tokens_and_stop(client: anthropic.Anthropic) -> None:
    short = client.messages.create(**{**ASKED, "max_tokens": 2})
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
    stopped = client.messages.create(**ASKED, stop_sequences=["."])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ".")
    with client.messages.stream(**ASKED, stop_sequences=["."]) as stream:
        assert stream.get_final_message().stop_sequence == "."


def test_cached_tokens_are_counted_separately(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(seed=1)
    with anthropic.Anthropic(base_url=served.base_url("anthropic"), api_key="k", max_retries=0) as client:
        seen = []
        for position in range(20):
            block = {"type": "text", "text": f"{position} " * 4000, "cache_control": {"type": "ephemeral"}}
            seen.append(client.messages.create(**{**ASKED, "system": [block]}).usage)
    read = [usage for usage in seen if usage.cache_read_input_tokens]
    assert 0 < len(read) < len(seen)
    assert all(usage.cache_read_input_tokens % 128 == 0 for usage in read)
    totals = {usage.input_tokens + usage.cache_read_input_tokens for usage in seen}
    assert totals == {2006, 3006}  # a digit or two four thousand times, a line's end, and the question


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["hi"]}, "messages.0: Input should be a valid dictionary"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages: text content blocks must be non-empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Input should be 'user' or 'assistant'"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"temperature": 1.5}, "temperature: range: 0..1"),
        ({"model": "claude-opus-5", "temperature": 1.0}, "`temperature` is deprecated for this model."),
        (
            {"temperature": 1.0, "top_p": 0.5},
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        ),
    ],
)
def test_invalid_requests_are_rejected(client: anthropic.Anthropic, arguments: dict, message: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.post("/v1/messages", body={**ASKED, **arguments}, cast_to=Message)
    assert caught.value.body["error"] == {"type": "invalid_request_error", "message": message}
    assert caught.value.body["request_id"] == caught.value.request_id


def test_versions_accept_different_fields(client: anthropic.Anthropic) -> None:
    system = {"messages": [*SAY_HI, {"role": "system", "content": "Be brief."}, *SAY_HI]}

    def send(version: str, **arguments: object) -> Message:
        return client.post(
            "/v1/messages",
            body={**ASKED, **arguments},
            cast_to=Message,
            options={"headers": {"anthropic-version": version}},
        )

    for name, value in (("temperature", 1.0), ("top_p", 0.9), ("top_k", 5)):
        assert send("2023-06-01", **{name: value}).content
        with pytest.raises(anthropic.BadRequestError, match=f"{name}: Extra inputs are not permitted"):
            send("2026-10-21", **{name: value})
    assert send("2026-10-21", **system).content
    with pytest.raises(anthropic.BadRequestError, match='Unexpected role "system"'):
        send("2023-06-01", **system)
    with pytest.raises(anthropic.BadRequestError, match="anthropic-version"):
        send("1999-01-01")


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("429", 429, "rate_limit_error"),
        ("500", 500, "api_error"),
        ("529", 529, "overloaded_error"),
        ("quota", 400, "invalid_request_error"),
    ],
)
def test_error_faults(client: anthropic.Anthropic, fault: str, status: int, kind: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**ASKED, extra_headers={"x-sim-fault": fault})
    assert (caught.value.status_code, caught.value.body["error"]["type"]) == (status, kind)
    assert caught.value.response.headers["x-should-retry"] == ("false" if fault == "quota" else "true")
    assert caught.value.response.headers.get("retry-after") == ("1" if fault == "429" else None)


def test_error_within_a_stream(client: anthropic.Anthropic) -> None:
    with (
        client.messages.stream(**ASKED, extra_headers={"x-sim-fault": "stream_error"}) as stream,
        pytest.raises(anthropic.APIStatusError, match="Overloaded"),
    ):
        list(stream)


def test_unknown_model(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="model: claude-does-not-exist"):
        client.messages.create(**{**ASKED, "model": "claude-does-not-exist"})


def test_client_retries(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(faults=Faults(retry_after_s=0))
    with anthropic.Anthropic(base_url=served.base_url("anthropic"), api_key="k", max_retries=1) as client:
        request = {**ASKED, "messages": [{"role": "user", "content": "Say hi. [[sim:529 once]]"}]}
        assert client.messages.create(**request).content
    assert served.counts()["by_status"] == {"529": 1, "200": 1}


def test_rate_limit_headers(simulate: Callable[..., SimulatorThread]) -> None:
    served = simulate(limit=SimLimit(rpm=60, tpm=6000))
    with anthropic.Anthropic(base_url=served.base_url("anthropic"), api_key="k", max_retries=0) as client:
        before = datetime.now(UTC)
        headers = client.messages.with_raw_response.create(**ASKED).headers
    assert headers["anthropic-ratelimit-requests-limit"] == "60"
    assert headers["anthropic-ratelimit-requests-remaining"] == "59"
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == "5694"
    reset = datetime.fromisoformat(headers["anthropic-ratelimit-tokens-reset"])
    assert reset.tzinfo == UTC
    assert 3 <= (reset - before).total_seconds() <= 6


def test_model_list(client: anthropic.Anthropic) -> None:
    assert "claude-haiku-4-5" in [model.id for model in client.models.list()]
