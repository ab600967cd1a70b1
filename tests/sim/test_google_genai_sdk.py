"""The Google Gen AI SDK parses the simulator's replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import aiohttp
import pytest
from google import genai
from google.genai import errors, types

from llmhub.sim import Faults, SimLimit, SimulatorThread

LITE = "gemini-2.5-flash-lite"


@pytest.fixture(scope="module")
def client(simulator: SimulatorThread) -> Iterator[genai.Client]:
    with genai.Client(api_key="k", http_options=types.HttpOptions(base_url=simulator.base_url("google"))) as client:
        yield client


def test_completion(client: genai.Client) -> None:
    answer = client.models.generate_content(model=LITE, contents="Say hi to the harbour.")
    assert answer.text
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    usage = answer.usage_metadata
    assert usage.prompt_token_count == 6
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count
    assert usage.thoughts_token_count is None
    assert answer.model_version == LITE


def test_thinking_tokens_are_counted_separately(client: genai.Client) -> None:
    usage = client.models.generate_content(model="gemini-2.5-flash", contents="Say hi.").usage_metadata
    assert usage.thoughts_token_count > 0
    assert usage.total_token_count == (
        usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
    )
    off = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(thinking_budget=0))
    plain = client.models.generate_content(model="gemini-2.5-flash", contents="Say hi.", config=off)
    assert plain.usage_metadata.thoughts_token_count is None


def test_stream_equals_completion(client: genai.Client) -> None:
    completion = client.models.generate_content(model=LITE, contents="Say hi to the harbour.")
    chunks = list(client.models.generate_content_stream(model=LITE, contents="Say hi to the harbour."))
    assert len(chunks) > 1
    assert "".join(chunk.text or "" for chunk in chunks) == completion.text
    assert chunks[-1].candidates[0].finish_reason is types.FinishReason.STOP
    assert chunks[-1].usage_metadata == completion.usage_metadata
    counts = [chunk.usage_metadata.candidates_token_count for chunk in chunks]
    assert counts == sorted(counts)


async def test_stream_as_json_array(simulator: SimulatorThread, http: aiohttp.ClientSession) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "Say hi."}]}]}
    address = f"{simulator.base_url('google')}/v1beta/models/{LITE}:streamGenerateContent"
    async with http.post(address, json=body) as reply:
        events = await reply.json()
    async with http.post(address.replace("streamG", "g"), json=body) as reply:
        completion = await reply.json()
    text = "".join(event["candidates"][0]["content"]["parts"][0]["text"] for event in events)
    assert text == completion["candidates"][0]["content"]["parts"][0]["text"]


async def test_events_end_in_crlf(simulator: SimulatorThread, http: aiohttp.ClientSession) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "Say hi."}]}]}
    address = f"{simulator.base_url('google')}/v1/models/{LITE}:streamGenerateContent?alt=sse"
    async with http.post(address, json=body) as reply:
        assert reply.content_type == "text/event-stream"
        raw = await reply.read()
    assert raw.endswith(b"}\r\n\r\n")
    assert raw.count(b"\n") == raw.count(b"\r\n")


def test_max_tokens_stop_and_candidates(client: genai.Client) -> None:
    config = types.GenerateContentConfig(max_output_tokens=3, system_instruction="Be brief.", temperature=2)
    short = client.models.generate_content(model=LITE, contents="Say hi.", config=config)
    assert short.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS
    assert short.usage_metadata.candidates_token_count == 3
    config = types.GenerateContentConfig(stop_sequences=["."], candidate_count=2, top_k=40, top_p=0.5, seed=3)
    several = client.models.generate_content(model=LITE, contents="Explain tides.", config=config)
    assert len({candidate.content.parts[0].text for candidate in several.candidates}) == 2
    assert all("." not in candidate.content.parts[0].text for candidate in several.candidates)


def test_thinking_can_use_all_max_tokens(client: genai.Client) -> None:
    config = types.GenerateContentConfig(max_output_tokens=8)
    answer = client.models.generate_content(model="gemini-2.5-pro", contents="Say hi.", config=config)
    assert answer.text is None
    assert answer.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS
    assert answer.usage_metadata.thoughts_token_count == 8


@pytest.mark.parametrize(
    ("body", "message", "field"),
    [
        ({}, "* GenerateContentRequest.contents: contents is not specified\n", None),
        ({"contents": []}, "* GenerateContentRequest.contents: contents is not specified\n", None),
        ({"colour": 1}, 'Invalid JSON payload received. Unknown name "colour": Cannot find field.', {}),
        (
            {"generationConfig": {"colour": 1}},
            "Invalid JSON payload received. Unknown name \"colour\" at 'generation_config': Cannot find field.",
            {"field": "generation_config"},
        ),
        (
            {"generation_config": {"temperature": "hot"}},
            "Invalid value at 'generation_config.temperature' (TYPE_FLOAT), \"hot\"",
            {"field": "generation_config.temperature"},
        ),
        (
            {"generationConfig": {"temperature": 3}},
            "* GenerateContentRequest.generation_config.temperature: temperature must be in the range [0, 2].\n",
            None,
        ),
        ({"contents": [{"role": "robot", "parts": [{"text": "x"}]}]}, "Please use a valid role: user, model.", None),
        (
            {"contents": [{"role": "user", "parts": []}]},
            "* GenerateContentRequest.contents[0].parts: contents.parts must not be empty.\n",
            None,
        ),
        (
            {"contents": [{"role": "user", "parts": [{}]}]},
            (
                "* GenerateContentRequest.contents[0].parts[0].data: required oneof field 'data' must have one "
                "initialized field\n"
            ),
            None,
        ),
    ],
)
async def test_invalid_requests_are_rejected(
    simulator: SimulatorThread, http: aiohttp.ClientSession, body: dict, message: str, field: dict | None
) -> None:
    payload = {"contents": [{"parts": [{"text": "Say hi."}]}], **body} if body else {}
    address = f"{simulator.base_url('google')}/v1beta/models/{LITE}:generateContent"
    async with http.post(address, json=payload) as reply:
        error = (await reply.json())["error"]
    assert (error["code"], error["status"], error["message"]) == (400, "INVALID_ARGUMENT", message)
    violations = [violation for detail in error.get("details", []) for violation in detail["fieldViolations"]]
    assert violations == ([] if field is None else [{**field, "description": message}])


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("429", 429, "RESOURCE_EXHAUSTED"),
        ("quota", 429, "RESOURCE_EXHAUSTED"),
        ("500", 500, "INTERNAL"),
        ("529", 503, "UNAVAILABLE"),
    ],
)
def test_error_faults(simulate: Callable[..., SimulatorThread], fault: str, code: int, status: str) -> None:
    served = simulate(faults=Faults(retry_after_s=34.07))
    options = types.HttpOptions(base_url=served.base_url("google"), headers={"x-sim-fault": fault})
    with genai.Client(api_key="k", http_options=options) as client, pytest.raises(errors.APIError) as caught:
        client.models.generate_content(model=LITE, contents="Say hi.")
    assert (caught.value.code, caught.value.status) == (code, status)
    details = {
        detail["@type"].rpartition(".")[2]: detail for detail in caught.value.details["error"].get("details", [])
    }
    if code == 429:
        quota = details["QuotaFailure"]["violations"][0]["quotaId"]
        assert ("PerDay" in quota, "PerMinute" in quota) == (fault == "quota", fault == "429")
        assert details.get("RetryInfo", {}).get("retryDelay") == ("34.07s" if fault == "429" else None)
    else:
        assert details == {}


def test_unknown_model(client: genai.Client) -> None:
    with pytest.raises(errors.ClientError, match="models/does-not-exist is not found") as caught:
        client.models.generate_content(model="does-not-exist", contents="hi")
    assert caught.value.code == 404


async def test_rate_limit_error_has_details(
    simulate: Callable[..., SimulatorThread], http: aiohttp.ClientSession
) -> None:
    served = simulate(limit=SimLimit(rpm=1, burst_s=60))
    body = {"contents": [{"parts": [{"text": "Say hi."}]}]}
    address = f"{served.base_url('google')}/v1beta/models/{LITE}:generateContent"
    async with http.post(address, json=body) as reply:
        assert reply.status == 200
    async with http.post(address, json=body) as reply:
        error = (await reply.json())["error"]
        assert "retry-after" not in reply.headers
    delay = error["details"][-1]["retryDelay"]
    assert 50 < float(delay.removesuffix("s")) <= 60


def test_model_list(client: genai.Client) -> None:
    assert f"models/{LITE}" in [model.name for model in client.models.list()]
