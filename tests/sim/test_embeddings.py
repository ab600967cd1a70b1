"""Embeddings of the simulator, as the official SDKs and the recorded exchanges have them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import botocore.session
import numpy as np
import openai
import pytest
from google import genai
from google.genai import types

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
