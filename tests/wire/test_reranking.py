"""Scores of texts for a query: payloads of each provider, scores in the order of the texts, and no bytes that raise."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core.cache_key import embedding_keyer
from llmhub.core.embedding import EmbedOptions, EmbedRequest
from llmhub.core.protocol import interpret_embedding, prepare_embedding
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.providers.registry import PROVIDERS

REQUEST = EmbedRequest("m", ("a", "b", "c"), EmbedOptions(query="q"))
SCORES = [
    {"index": 2, "relevance_score": 0.5},
    {"index": 0, "relevance_score": 0.25},
    {"index": 1, "relevance_score": 0},
]


@pytest.mark.parametrize(
    ("provider", "url", "quiet"),
    [
        ("cohere", "https://api.cohere.com/v2/rerank", False),
        ("cohere-native", "https://api.cohere.com/v2/rerank", False),
        ("jina", "https://api.jina.ai/v1/rerank", True),
        ("voyage", "https://api.voyageai.com/v1/rerank", True),
    ],
)
def test_a_request_has_the_query_and_the_texts(provider: str, url: str, quiet: bool) -> None:
    sent = prepare_embedding(PROVIDERS[provider], Endpoint(api_key="k"), REQUEST, 0.0).unwrap()
    assert sent.url == url
    body = msgspec.json.decode(sent.body)
    extra = {"return_documents": False} if quiet else {}
    assert body == {"model": "m", "query": "q", "documents": ["a", "b", "c"], **extra}


@pytest.mark.parametrize(
    ("provider", "body", "tokens"),
    [
        ("cohere", {"results": SCORES, "meta": {"billed_units": {"search_units": 1}}}, None),
        ("voyage", {"object": "list", "data": SCORES, "model": "m", "usage": {"total_tokens": 7}}, 7),
        ("jina", {"model": "m", "usage": {"total_tokens": 7}, "results": SCORES}, 7),
        ("vllm", {"results": [{**each, "document": {"text": "a"}} for each in SCORES]}, None),
    ],
)
def test_scores_come_in_the_order_of_the_texts(provider: str, body: dict[str, Any], tokens: int | None) -> None:
    """The fields are those of the documented replies: https://docs.cohere.com/reference/rerank,
    https://docs.voyageai.com/reference/reranker-api, https://api.jina.ai/docs and
    https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html (read 2026-11-30).
    """
    reply = HttpReply(200, {}, msgspec.json.encode(body))
    found = interpret_embedding(PROVIDERS[provider], REQUEST, reply).unwrap()
    assert memoryview(found.vectors).cast("f").tolist() == [0.25, 0.0, 0.5]
    assert (found.dimensions, found.usage.input_tokens) == (1, tokens)


@pytest.mark.parametrize(
    "scores", [SCORES[:2], [*SCORES, SCORES[0]][1:], [*SCORES, {"index": 3, "relevance_score": 1}]]
)
def test_scores_for_other_texts_are_malformed(scores: list[dict[str, float]]) -> None:
    reply = HttpReply(200, {}, msgspec.json.encode({"results": scores}))
    found = interpret_embedding(PROVIDERS["jina"], REQUEST, reply)
    assert is_successful(found) is (len({score["index"] for score in scores}) == 3 and len(scores) == 3)


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_an_error(body: bytes) -> None:
    assert not is_successful(interpret_embedding(PROVIDERS["jina"], REQUEST, HttpReply(200, {}, body)))


def test_a_key_depends_on_the_query_and_not_on_other_texts() -> None:
    def key(text: str, query: str | None) -> bytes:
        options = EmbedOptions(query=query)
        return embedding_keyer(PROVIDERS["voyage"], Endpoint(), "m", options)([text])[0]

    keys = {key("a", "q"), key("b", "q"), key("a", "r"), key("a", None)}
    assert len(keys) == 4
    assert embedding_keyer(PROVIDERS["voyage"], Endpoint(), "m", EmbedOptions(query="q"))(["b", "a"])[1] == key(
        "a", "q"
    )
