"""botocore, with its own event-stream parser and signatures, parses the simulator's replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import aiohttp
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from llmhub.sim import Faults, SimulatorThread

NOVA = "amazon.nova-lite-v1:0"
SAY_HI = [{"role": "user", "content": [{"text": "Say hi to the harbour."}]}]
Connect = Callable[..., Any]


@pytest.fixture(scope="session")
def session() -> botocore.session.Session:
    return botocore.session.Session()


@pytest.fixture
def connect(session: botocore.session.Session) -> Connect:
    @contextmanager
    def opened(served: SimulatorThread, **arguments: str) -> Iterator[Any]:
        endpoint = served.endpoints()["bedrock"]
        keys = {
            "aws_access_key_id": endpoint.access_key_id.reveal(),
            "aws_secret_access_key": endpoint.secret_access_key.reveal(),
            **arguments,
        }
        client = session.create_client(
            "bedrock-runtime",
            region_name=endpoint.region,
            endpoint_url=endpoint.base_url,
            config=Config(retries={"total_max_attempts": 1}),
            **keys,
        )
        try:
            yield client
        finally:
            client.close()

    return opened


@pytest.fixture
def client(simulator: SimulatorThread, connect: Connect) -> Iterator[Any]:
    with connect(simulator) as client:
        yield client


def streamed(client: Any, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with closing(client.converse_stream(modelId=NOVA, messages=messages)["stream"]) as stream:
        return list(stream)


def test_completion(client: Any) -> None:
    answer = client.converse(modelId=NOVA, messages=SAY_HI, system=[{"text": "Be brief."}])
    assert answer["output"]["message"]["content"][0]["text"]
    assert answer["stopReason"] == "end_turn"
    usage = answer["usage"]
    assert usage["inputTokens"] == 8
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert len(answer["ResponseMetadata"]["RequestId"]) == 36


def test_stream_equals_completion(client: Any) -> None:
    completion = client.converse(modelId=NOVA, messages=SAY_HI)
    events = streamed(client, SAY_HI)
    pieces = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert len(pieces) > 1
    assert "".join(pieces) == completion["output"]["message"]["content"][0]["text"]
    kinds = [next(iter(event)) for event in events]
    assert kinds[0] == "messageStart"
    assert kinds[-3:] == ["contentBlockStop", "messageStop", "metadata"]
    assert events[-2]["messageStop"]["stopReason"] == "end_turn"
    assert events[-1]["metadata"]["usage"] == completion["usage"]


def test_max_tokens_and_stop(client: Any) -> None:
    short = client.converse(modelId=NOVA, messages=SAY_HI, inferenceConfig={"maxTokens": 2, "temperature": 0.5})
    assert (short["stopReason"], short["usage"]["outputTokens"]) == ("max_tokens", 2)
    stopped = client.converse(modelId=NOVA, messages=SAY_HI, inferenceConfig={"stopSequences": ["."]})
    assert stopped["stopReason"] == "stop_sequence"


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            NOVA,
            {"inferenceConfig": {"temperature": 1.5}},
            (
                "1 validation error detected: Value '1.5' at 'inferenceConfig.temperature' failed to satisfy "
                "constraint: Member must have value less than or equal to 1"
            ),
        ),
        (
            NOVA,
            {"messages": [{"role": "assistant", "content": [{"text": "hi"}]}]},
            (
                "A conversation must start with a user message. Try again with a conversation that starts with a user "
                "message."
            ),
        ),
        (
            NOVA,
            {"messages": SAY_HI * 2},
            (
                "A conversation must alternate between user and assistant roles. Make sure the conversation alternates "
                "between user and assistant roles and try again."
            ),
        ),
        (
            NOVA,
            {"messages": [{"role": "user", "content": [{"text": " "}]}]},
            (
                "The text field in the ContentBlock object at messages.0.content.0 is blank. Add text to the text "
                "field, and try again."
            ),
        ),
        (
            "us.anthropic.claude-opus-5-v1:0",
            {"inferenceConfig": {"temperature": 0.5}},
            "The model returned the following errors: `temperature` is deprecated for this model.",
        ),
        ("model.does-not-exist", {}, "The provided model identifier is invalid."),
    ],
)
def test_invalid_requests_are_rejected(client: Any, model: str, arguments: dict, message: str) -> None:
    with pytest.raises(ClientError) as caught:
        client.converse(**{"modelId": model, "messages": SAY_HI, **arguments})
    assert caught.value.response["Error"] == {"Code": "ValidationException", "Message": message}


def test_some_models_require_an_inference_profile(client: Any) -> None:
    with pytest.raises(ClientError, match="inference profile"):
        client.converse(modelId="anthropic.claude-sonnet-4-5-20250929-v1:0", messages=SAY_HI)
    assert client.converse(modelId="us.anthropic.claude-sonnet-4-5-20250929-v1:0", messages=SAY_HI)["output"]


async def test_unknown_fields_are_rejected(simulator: SimulatorThread, http: aiohttp.ClientSession) -> None:
    address = f"{simulator.base_url('bedrock')}/model/{NOVA}/converse"
    for body, place in (({"colour": 1}, "#"), ({"inferenceConfig": {"topK": 1}}, "#/inferenceConfig")):
        async with http.post(address, json={"messages": SAY_HI, **body}) as reply:
            error = await reply.json()
            assert reply.headers["x-amzn-errortype"].startswith("ValidationException:http")
        name = next(iter(body)) if place == "#" else "topK"
        assert error["message"].startswith(f"Malformed input request: {place}: extraneous key [{name}]")


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("429", "ThrottlingException", 429),
        ("500", "InternalServerException", 500),
        ("529", "ServiceUnavailableException", 503),
        ("quota", "ServiceQuotaExceededException", 400),
    ],
)
def test_error_faults(simulator: SimulatorThread, connect: Connect, fault: str, code: str, status: int) -> None:
    messages = [{"role": "user", "content": [{"text": f"Say hi. [[sim:{fault} always]]"}]}]
    with connect(simulator) as client, pytest.raises(ClientError) as caught:
        client.converse(modelId=NOVA, messages=messages)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert "retry-after" not in caught.value.response["ResponseMetadata"]["HTTPHeaders"]


def test_exception_within_a_stream(client: Any) -> None:
    messages = [{"role": "user", "content": [{"text": "Say hi. [[sim:stream_error]]"}]}]
    with pytest.raises(EventStreamError, match="serviceUnavailableException"):
        streamed(client, messages)


def test_signatures_are_verified(simulate: Callable[..., SimulatorThread], connect: Connect) -> None:
    served = simulate(api_key="a secret")
    with connect(served) as client:
        assert client.converse(modelId=NOVA, messages=SAY_HI)["output"]
        assert streamed(client, SAY_HI)
    with connect(served, aws_session_token="a token") as client:  # a signed header more
        assert client.converse(modelId=NOVA, messages=SAY_HI)["output"]
    for settings, code in (
        ({"aws_secret_access_key": "another"}, "InvalidSignatureException"),
        ({"aws_access_key_id": "AKIDANOTHER"}, "UnrecognizedClientException"),
    ):
        with connect(served, **settings) as client, pytest.raises(ClientError) as caught:
            client.converse(modelId=NOVA, messages=SAY_HI)
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_client_retries(simulate: Callable[..., SimulatorThread], session: botocore.session.Session) -> None:
    served = simulate(faults=Faults())
    endpoint = served.endpoints()["bedrock"]
    client = session.create_client(
        "bedrock-runtime",
        region_name=endpoint.region,
        endpoint_url=endpoint.base_url,
        aws_access_key_id=endpoint.access_key_id.reveal(),
        aws_secret_access_key=endpoint.secret_access_key.reveal(),
        config=Config(retries={"total_max_attempts": 2, "mode": "standard"}),
    )
    messages = [{"role": "user", "content": [{"text": "Say hi. [[sim:500 once]]"}]}]
    try:
        assert client.converse(modelId=NOVA, messages=messages)["output"]
    finally:
        client.close()
    assert served.counts()["by_status"] == {"500": 1, "200": 1}
