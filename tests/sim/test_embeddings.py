"""Embeddings of the simulator, as the official SDKs and the recorded exchanges have them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import botocore.session
import httpx
import numpy as np
import openai
import pytest
from botocore.awsrequest import AWSResponse
from google import genai
from google.genai import types
from google.oauth2 import credentials as google_credentials
from urllib3 import HTTPResponse

from llmhub.core.embedding import EmbedOptions, EmbedRequest
from llmhub.core.protocol import interpret_embedding, prepare_embedding
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import Faults, SimLimit, Simulator, SimulatorThread, serving

CORPUS = Path(__file__).parents[2] / "tests/fixtures/conformance"


@pytest.fixture(scope="module")
def client(simulator: SimulatorThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=simulator.base_url("openai"), api_key="k", max_retries=0) as client:
        yield client


def test_openai_reads_vectors(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-3-small", input=["the cat sat", "the cat slept", "shares"])
    assert [item.index for item in answer.data] == [0, 1, 2]
    first, second, third = (np.array(item.embedding) for item in answer.data)
    assert first.shape == (1536,)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-4)
    assert first @ second > 0.3 > first @ third
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 9


def test_both_encodings_are_the_same_vector(client: openai.OpenAI) -> None:
    raw = {
        encoding: client.embeddings.with_raw_response.create(
            model="m", input="a", dimensions=16, encoding_format=encoding
        ).content
        for encoding in ("float", "base64")
    }
    numbers = json.loads(raw["float"])["data"][0]["embedding"]
    decoded = np.frombuffer(base64.b64decode(json.loads(raw["base64"])["data"][0]["embedding"]), "<f4")
    assert np.allclose(numbers, decoded, atol=1e-6)
    assert len(numbers) == 16


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", ""], "cannot be empty"),
        (["a", "long " * 10_000], "maximum context length is 8192 tokens"),
        (["word " * 5_000] * 60, "max 300000 tokens per request"),
        (["a"] * 2_049, "1 to 2048 items"),
    ],
)
def test_openai_sees_errors(client: openai.OpenAI, texts: list[str], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        client.embeddings.create(model="text-embedding-3-small", input=texts)


def test_unknown_models_and_limits(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="does-not-exist", input="a")
    with serving(Simulator(limit=SimLimit(rpm=1))) as simulator:
        limited = openai.OpenAI(base_url=simulator.base_url("openai"), api_key="k", max_retries=0)
        limited.embeddings.create(model="m", input="a")
        with pytest.raises(openai.RateLimitError):
            limited.embeddings.create(model="m", input="b")
        limited.close()
    with serving(Simulator(faults=Faults(rate_500=1.0))) as simulator:
        failing = openai.OpenAI(base_url=simulator.base_url("openai"), api_key="k", max_retries=0)
        with pytest.raises(openai.InternalServerError):
            failing.embeddings.create(model="m", input="a")
        failing.close()


def test_azure_reads_vectors(simulator: SimulatorThread) -> None:
    with openai.AzureOpenAI(
        azure_endpoint=simulator.base_url("azure"), api_key="k", api_version="2024-10-21", max_retries=0
    ) as client:
        assert len(client.embeddings.create(model="my-deployment", input="a").data[0].embedding) == 768


def test_google_reads_vectors(simulator: SimulatorThread) -> None:
    with genai.Client(api_key="k", http_options=types.HttpOptions(base_url=simulator.base_url("google"))) as client:
        answer = client.models.embed_content(
            model="gemini-embedding-001",
            contents=["a", "b"],
            config=types.EmbedContentConfig(output_dimensionality=8, task_type="RETRIEVAL_QUERY"),
        )
        assert [len(each.values) for each in answer.embeddings] == [8, 8]


def test_bedrock_reads_vectors(simulator: SimulatorThread) -> None:
    endpoint = simulator.endpoints()["bedrock"]
    client = botocore.session.Session().create_client(
        "bedrock-runtime",
        endpoint_url=endpoint.base_url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key_id.reveal(),
        aws_secret_access_key=endpoint.secret_access_key.reveal(),
    )
    body = json.dumps({"inputText": "a", "dimensions": 256})
    reply = client.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=body)
    assert len(json.loads(reply["body"].read())["embedding"]) == 256
    client.close()


@pytest.mark.parametrize("model", ["text-embedding-005", "gemini-embedding-2"])
def test_requests_to_vertex_are_those_of_google(model: str) -> None:
    """Both read the same reply."""
    sent: list[httpx.Request] = []
    statistics = {"truncated": False, "token_count": 6}
    body: dict[str, Any] = {"predictions": [{"embeddings": {"values": [0.5, 0.25], "statistics": statistics}}]}
    if model == "gemini-embedding-2":
        body = {"embedding": {"values": [0.5, 0.25]}, "usageMetadata": {"promptTokenCount": 6}}

    def answer(http_request: httpx.Request) -> httpx.Response:
        sent.append(http_request)
        return httpx.Response(200, json=body)

    client = genai.Client(
        vertexai=True,
        project="p",
        location="us-central1",
        credentials=google_credentials.Credentials("t"),  # type: ignore[no-untyped-call]
        http_options=types.HttpOptions(client_args={"transport": httpx.MockTransport(answer)}),
    )
    found = client.models.embed_content(model=model, contents=["a"], config={"output_dimensionality": 2})  # type: ignore[arg-type]
    assert found.embeddings is not None
    request = EmbedRequest(model, ("a",), EmbedOptions(dimensions=2))
    endpoint = Endpoint(api_key="t", project="p", region="us-central1")
    own = prepare_embedding(PROVIDERS["vertex"], endpoint, request, 0.0).unwrap()
    theirs = json.loads(sent[0].content)
    theirs.get("content", {}).pop("role", None)
    assert json.loads(own.body) == theirs
    assert own.url == str(sent[0].url).replace("/v1beta1/", "/v1/")
    response = interpret_embedding(PROVIDERS["vertex"], request, HttpReply(200, {}, json.dumps(body).encode())).unwrap()
    assert memoryview(response.vectors).cast("f").tolist() == found.embeddings[0].values
    count = found.embeddings[0].statistics
    assert count is not None
    assert response.usage.input_tokens == count.token_count


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("amazon.titan-embed-text-v2:0", {"embedding": [0.5, 0.25], "inputTextTokenCount": 6}),
        ("cohere.embed-english-v3", {"embeddings": [[0.5, 0.25]], "id": "1", "texts": ["a"]}),
    ],
)
def test_requests_to_bedrock_are_those_of_botocore(model: str, body: dict[str, Any]) -> None:
    """Replies as in https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html and the page of
    Titan beside it (read 2026-11-30).
    """
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    client = botocore.session.Session().create_client("bedrock-runtime", region_name="us-east-1", **keys)
    sent: list[Any] = []
    headers = {"x-amzn-bedrock-input-token-count": "6", "content-type": "application/json"}
    reply = HttpReply(200, headers, json.dumps(body).encode())

    def answer(request: Any, **_: Any) -> AWSResponse:
        sent.append(request)
        raw = HTTPResponse(io.BytesIO(reply.body), preload_content=False)
        return AWSResponse(request.url, 200, headers, raw)

    client.meta.events.register("before-send.bedrock-runtime", answer)
    asked = EmbedRequest(model, ("a",), EmbedOptions())
    endpoint = Endpoint(access_key_id="k", secret_access_key="s", region="us-east-1")
    own = prepare_embedding(PROVIDERS["bedrock"], endpoint, asked, 0.0).unwrap()
    found = client.invoke_model(
        modelId=model, body=own.body, contentType=own.headers["content-type"], accept="application/json"
    )
    assert (own.url, own.body) == (sent[0].url, sent[0].body)
    response = interpret_embedding(PROVIDERS["bedrock"], asked, reply).unwrap()
    theirs = json.loads(found["body"].read())
    vector = theirs["embedding"] if "embedding" in theirs else theirs["embeddings"][0]
    assert memoryview(response.vectors).cast("f").tolist() == vector
    assert response.usage.input_tokens == 6
    client.close()


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("file", "provider", "path"),
    [
        ("cohere", "cohere", "/v2/embed"),
        ("voyage", "voyage", "/embeddings"),
        ("mistral", "mistral", "/embeddings"),
        ("vertex", "vertex", ""),
    ],
)
async def test_replies_have_the_fields_of_recorded_ones(
    file: str, provider: str, path: str, simulator: SimulatorThread, http: aiohttp.ClientSession
) -> None:
    lines = (CORPUS / f"{file}-embeddings.jsonl").read_text(encoding="utf-8").splitlines()
    for exchange in map(json.loads, lines):
        recorded = exchange["response"]["body"]
        url = path or "/" + exchange["request"]["url"].split("/", 3)[3]
        async with http.post(f"{simulator.base_url(provider)}{url}", json=exchange["request"]["body"]) as reply:
            sent = await reply.json()
        assert reply.status == 200
        assert set(sent) <= set(recorded) | {"usageMetadata"}
        assert {"data", "embeddings", "predictions", "embedding"} & set(sent) & set(recorded)
