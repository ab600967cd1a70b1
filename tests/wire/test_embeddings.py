"""Wires of embeddings: recorded exchanges, number types, and replies that are none."""

from __future__ import annotations

import base64
import json
import math
import struct
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core import errors
from llmhub.core.cache_key import embedding_keyer
from llmhub.core.embedding import EmbeddingResponse, EmbedOptions, EmbedRequest, share_out
from llmhub.core.protocol import interpret_embedding, prepare_embedding
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.providers.registry import PROVIDERS

PROVIDER_OF_FILE = {
    "azure_openai": "azure",
    "cohere": "cohere",
    "gemini": "google",
    "mistral": "mistral",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "vertex": "vertex",
    "vllm": "vllm",
    "voyage": "voyage",
}
DIMENSIONS = {
    "text-embedding-3-small": 1536,
    "openai/text-embedding-3-small": 1536,
    "text-embedding-ada-002": 1536,
    "test-openai": 1536,
    "embed-v4.0": 1536,
    "embed-english-light-v3.0": 384,
    "mistral-embed": 1024,
    "text-embedding-004": 768,
    "gemini-embedding-2": 3072,
    "intfloat/e5-mistral-7b-instruct": 4096,
    "voyage-3.5": 1024,
    "voyage-4": 1024,
    "pplx-embed-v1-0.6b": 256,
}
"""Length of the vectors of each recorded model, if the request did not ask for another."""
ENDPOINTS = {
    "azure": Endpoint(base_url="https://res.openai.azure.com", api_key="k"),
    "vertex": Endpoint(api_key="k", project="scrubbed-project", region="global"),
}
TEXTS = ("a", "b")


def request_of(body: dict[str, Any], model: str) -> EmbedRequest:
    """Return the request that a recorded body stands for."""
    texts = body.get("input") or body.get("texts")
    if texts is None:
        contents = [item["content"] for item in body.get("requests") or body.get("instances") or [body]]
        texts = [each if isinstance(each, str) else each["parts"][0]["text"] for each in contents]
    given = body.get("dimensions") or next(
        (item["outputDimensionality"] for item in body.get("requests", ()) if "outputDimensionality" in item), None
    )
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    return EmbedRequest(model, texts, EmbedOptions(dimensions=given))


def vectors_of(response: EmbeddingResponse) -> list[list[float]]:
    values = array("f", response.vectors)
    size = response.dimensions
    return [list(values[start : start + size]) for start in range(0, len(values), size)]


def openai_reply(*vectors: object, indices: list[int] | None = None, **more: Any) -> HttpReply:
    order = indices or range(len(vectors))
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in zip(order, vectors, strict=True)
    ]
    return HttpReply(200, {}, json.dumps({"data": data, "model": "m", **more}).encode())


def encode64(code: str, *values: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}{code}", *values)).decode()


@pytest.mark.corpus
@pytest.mark.parametrize("file", sorted(PROVIDER_OF_FILE))
def test_recorded_exchanges_decode(file: str, corpus: Callable[[str], list[Any]]) -> None:
    provider = PROVIDERS[PROVIDER_OF_FILE[file]]
    exchanges = corpus(f"{file}-embeddings")
    assert exchanges
    for exchange in exchanges:
        request = request_of(exchange.request["body"], exchange.model)
        outcome = interpret_embedding(provider, request, exchange.reply)
        assert is_successful(outcome) == exchange.ok, exchange.id
        if not exchange.ok:
            assert outcome.failure().status == exchange.status
            continue
        response = outcome.unwrap()
        expected = request.options.dimensions or DIMENSIONS[exchange.model]
        assert (response.dimensions, len(response)) == (expected, len(request.texts)), exchange.id
        assert all(math.isfinite(number) for vector in vectors_of(response) for number in vector)
        body = json.loads(exchange.reply.body)
        if "usage" in body:
            usage = body["usage"]
            assert response.usage.input_tokens == usage.get("prompt_tokens", usage["total_tokens"])
            assert response.usage.output_tokens == 0


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("file", "unit"), [("vllm", True), ("openai", True), ("voyage", True), ("mistral", True), ("perplexity", False)]
)
def test_recorded_number_types_are_recognised(file: str, unit: bool, corpus: Callable[[str], list[Any]]) -> None:
    """float64 of vLLM reads as vectors of length 1, int8 of Perplexity as whole numbers from -128 to 127."""
    for exchange in corpus(f"{file}-embeddings"):
        if not exchange.ok:
            continue
        request = request_of(exchange.request["body"], exchange.model)
        for vector in vectors_of(
            interpret_embedding(PROVIDERS[PROVIDER_OF_FILE[file]], request, exchange.reply).unwrap()
        ):
            if unit:
                assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)
            else:
                assert all(number == int(number) and -128 <= number <= 127 for number in vector)


@pytest.mark.corpus
@pytest.mark.parametrize("file", sorted(PROVIDER_OF_FILE))
def test_requests_go_where_the_recorded_ones_went(file: str, corpus: Callable[[str], list[Any]]) -> None:
    name = PROVIDER_OF_FILE[file]
    if name in {"azure", "vllm"}:  # the address is the user's own
        return
    for exchange in corpus(f"{file}-embeddings"):
        url = exchange.request["url"]
        if url.endswith("text-embedding-004:embedContent"):  # one text; batches are sent here
            continue
        region = url.partition("/locations/")[2].partition("/")[0]
        endpoint = Endpoint(
            api_key="k", project="scrubbed-project", region=region, api_version="v1beta1" * bool(region)
        )
        prepared = prepare_embedding(
            PROVIDERS[name], endpoint, request_of(exchange.request["body"], exchange.model), 0.0
        ).unwrap()
        host = "us-central1-aiplatform.googleapis.com" if region == "us-central1" else "aiplatform.googleapis.com"
        assert prepared.url == url.replace("https://aiplatform.googleapis.com", f"https://{host}")
        sent, recorded = json.loads(prepared.body), exchange.request["body"]
        for field in ("model", "dimensions", "texts"):
            assert sent.get(field) == recorded.get(field)


@pytest.mark.parametrize(
    ("provider", "options", "expected"),
    [
        ("openai", {"dimensions": 8, "kind": "query"}, {"encoding_format": "base64", "dimensions": 8}),
        ("voyage", {"dimensions": 8, "kind": "query"}, {"input_type": "query", "output_dimension": 8}),
        ("mistral", {"dimensions": 8}, {"output_dimension": 8}),
        ("vllm", {"extra": {"truncate_prompt_tokens": 9}}, {"truncate_prompt_tokens": 9}),
        ("cohere", {}, {"input_type": "search_document", "truncate": "NONE", "embedding_types": ["float"]}),
        ("cohere", {"kind": "query"}, {"input_type": "search_query"}),
    ],
)
def test_options_are_written_in_each_dialect(provider: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    endpoint = Endpoint(base_url="https://host.example", api_key="k")
    request = EmbedRequest("m", TEXTS, EmbedOptions(**options))
    body = json.loads(prepare_embedding(PROVIDERS[provider], endpoint, request, 0.0).unwrap().body)
    assert expected.items() <= body.items()
    assert ("encoding_format" in body) == (provider in {"openai", "voyage"})
    assert body.get("input") or body["texts"] == list(TEXTS)


def test_google_writes_a_request_for_each_text() -> None:
    request = EmbedRequest("gemini-embedding-001", TEXTS, EmbedOptions(dimensions=8, kind="query"))
    body = json.loads(prepare_embedding(PROVIDERS["google"], Endpoint(api_key="k"), request, 0.0).unwrap().body)
    assert [each["content"]["parts"][0]["text"] for each in body["requests"]] == list(TEXTS)
    assert all(each["taskType"] == "RETRIEVAL_QUERY" for each in body["requests"])
    newer = EmbedRequest("gemini-embedding-2", TEXTS, EmbedOptions(kind="query"))
    body = json.loads(prepare_embedding(PROVIDERS["google"], Endpoint(api_key="k"), newer, 0.0).unwrap().body)
    assert not any("taskType" in each for each in body["requests"])


def test_bedrock_writes_the_body_of_the_model() -> None:
    endpoint = Endpoint(api_key="k", region="eu-west-1")
    titan = EmbedRequest("amazon.titan-embed-text-v2:0", ("a",), EmbedOptions(dimensions=256))
    sent = prepare_embedding(PROVIDERS["bedrock"], endpoint, titan, 0.0).unwrap()
    assert sent.url == "https://bedrock-runtime.eu-west-1.amazonaws.com/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert json.loads(sent.body) == {"inputText": "a", "dimensions": 256}
    reply = HttpReply(200, {}, b'{"embedding": [1, 0.5], "inputTextTokenCount": 3}')
    titan = EmbedRequest("amazon.titan-embed-text-v2:0", ("a",))
    response = interpret_embedding(PROVIDERS["bedrock"], titan, reply).unwrap()
    assert (vectors_of(response), response.usage.input_tokens) == ([[1.0, 0.5]], 3)
    cohere = EmbedRequest("cohere.embed-v4:0", TEXTS, EmbedOptions(dimensions=2))
    assert json.loads(prepare_embedding(PROVIDERS["bedrock"], endpoint, cohere, 0.0).unwrap().body)["texts"] == [
        "a",
        "b",
    ]
    headers = {"X-Amzn-Bedrock-Input-Token-Count": "7"}
    for body in (b'{"embeddings": {"float": [[1, 2], [3, 4]]}}', b'{"embeddings": [[1, 2], [3, 4]]}'):
        response = interpret_embedding(PROVIDERS["bedrock"], cohere, HttpReply(200, headers, body)).unwrap()
        assert (vectors_of(response), response.usage.input_tokens) == ([[1.0, 2.0], [3.0, 4.0]], 7)
    first = EmbedRequest("amazon.titan-embed-text-v1", ("a",), EmbedOptions(dimensions=256))
    assert isinstance(prepare_embedding(PROVIDERS["bedrock"], endpoint, first, 0.0).failure(), errors.Unsupported)


def test_vertex_predicts_many_texts_and_counts_each() -> None:
    request = EmbedRequest("text-embedding-005", TEXTS, EmbedOptions(dimensions=2, kind="document"))
    sent = prepare_embedding(PROVIDERS["vertex"], ENDPOINTS["vertex"], request, 0.0).unwrap()
    assert sent.url.endswith("/models/text-embedding-005:predict")
    assert json.loads(sent.body)["parameters"] == {"outputDimensionality": 2}
    predictions = [{"embeddings": {"values": [n, 0], "statistics": {"token_count": n}}} for n in (1, 2)]
    reply = HttpReply(200, {}, json.dumps({"predictions": predictions}).encode())
    response = interpret_embedding(PROVIDERS["vertex"], request, reply).unwrap()
    assert (response.text_tokens, response.usage.input_tokens) == ((1, 2), 3)


@pytest.mark.parametrize(("code", "values"), [("f", (0.5, -0.25)), ("d", (0.5, -0.25)), ("b", (1, -2))])
def test_bytes_over_dimensions_decide_the_number_type(code: str, values: tuple[float, ...]) -> None:
    request = EmbedRequest("m", ("a",), EmbedOptions(dimensions=2))
    response = interpret_embedding(PROVIDERS["openai"], request, openai_reply(encode64(code, *values))).unwrap()
    assert vectors_of(response) == [list(values)]


def test_a_server_that_ignores_the_length_is_an_error() -> None:
    request = EmbedRequest("m", ("a",), EmbedOptions(dimensions=2))
    error = interpret_embedding(PROVIDERS["vllm"], request, openai_reply([1, 2, 3])).failure()
    assert isinstance(error, errors.Malformed)
    assert "3 dimensions" in error.message


def test_vectors_are_ordered_by_index() -> None:
    reply = openai_reply([1, 0], [2, 0], indices=[1, 0])
    response = interpret_embedding(PROVIDERS["vllm"], EmbedRequest("m", TEXTS), reply).unwrap()
    assert vectors_of(response) == [[2.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    "reply",
    [
        openai_reply([1, 2]),
        openai_reply([1, 2], [3]),
        openai_reply([], []),
        openai_reply([1, 2], [3, 4], indices=[0, 0]),
        openai_reply([1, 2], [3, 4], indices=[0, 7]),
        openai_reply([1, 2], ["x", 4]),
        openai_reply(encode64("f", 1.0, 2.0), "AAA="),
        HttpReply(200, {}, b"[1]"),
        HttpReply(200, {}, b"<html>"),
        HttpReply(200, {}, b""),
    ],
)
def test_replies_that_do_not_fit_are_malformed(reply: HttpReply) -> None:
    outcome = interpret_embedding(PROVIDERS["openai"], EmbedRequest("m", TEXTS), reply)
    assert isinstance(outcome.failure(), errors.Malformed)
    assert outcome.failure().path.startswith("$")


@given(name=st.sampled_from(sorted(name for name, row in PROVIDERS.items() if row.embeddings)), body=st.binary())
def test_arbitrary_bytes_return_an_error(name: str, body: bytes) -> None:
    for model in ("m", "gemini-embedding-2", "cohere.embed-v4"):
        assert not is_successful(
            interpret_embedding(PROVIDERS[name], EmbedRequest(model, TEXTS), HttpReply(200, {}, body))
        )
        assert not is_successful(
            interpret_embedding(PROVIDERS[name], EmbedRequest(model, TEXTS), HttpReply(400, {}, body))
        )


def test_a_provider_without_embeddings_says_so() -> None:
    error = prepare_embedding(PROVIDERS["anthropic"], Endpoint(api_key="k"), EmbedRequest("m", TEXTS), 0.0).failure()
    assert isinstance(error, errors.Unsupported)
    assert "anthropic has no embeddings" in error.message


@given(total=st.integers(0, 10**12), weights=st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_shares_add_up_exactly(total: int, weights: list[int]) -> None:
    shares = share_out(total, weights)
    assert sum(shares) == total
    assert all(share >= 0 for share in shares)
    whole = sum(weights)
    if whole:
        assert all(
            abs(share * whole - total * weight) < whole + 1 for share, weight in zip(shares, weights, strict=True)
        )


def test_keys_depend_on_what_determines_the_vector() -> None:
    provider, endpoint = PROVIDERS["openai"], Endpoint(api_key="k")

    def key(text: str, model: str = "m", row: str = "openai", **options: Any) -> bytes:
        keyer = embedding_keyer(PROVIDERS[row], endpoint, model, EmbedOptions(**options))
        return keyer([text])[0]

    keys = [key("a"), key("b"), key("a", "n"), key("a", dimensions=8), key("a", extra={"x": 1}), key("a", row="voyage")]
    assert len(set(keys)) == len(keys)
    assert key("a") == embedding_keyer(provider, Endpoint(api_key="other"), "m", EmbedOptions())(["a"])[0]
    assert key("a", kind="query") == key("a", kind="document")
    assert key("a", row="voyage", kind="query") != key("a", row="voyage", kind="document")
    assert len(key("\ud800")) == 32
