"""Databricks' serving endpoints: an OpenAI-compatible server in each workspace.

It counts a stream's tokens in every chunk and was not seen to accept ``stream_options``. Nothing validates a key at no
cost.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.embedding import EmbedRequest
from llmhub.core.provider import Endpoint, PackLimits
from llmhub.core.types import CompletionRequest
from llmhub.providers.openai_compatible import CHAT_PATH, EMBEDDINGS_PATH, openai_compatible
from llmhub.providers.vendor import PriceListing, drop_field, embed_service
from llmhub.wire import openai_embeddings


def _url(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Return the URL of a workspace's chat, whether ``base_url`` is the workspace or its serving endpoints."""
    return _base_url(endpoint) + CHAT_PATH


def _embeddings_url(endpoint: Endpoint, _request: EmbedRequest) -> str:
    return _base_url(endpoint) + EMBEDDINGS_PATH


def _base_url(endpoint: Endpoint) -> str:
    return endpoint.base_url.removesuffix("/serving-endpoints") + "/serving-endpoints"


ENTRIES: Final = (
    openai_compatible(
        "databricks",
        "",
        "DATABRICKS_TOKEN",
        "DATABRICKS_HOST",
        locate=_url,
        adapt=partial(drop_field, "stream_options"),
        health_url=None,
        embeddings=embed_service(
            "", openai_embeddings.WIRE, PackLimits(texts=150, tokens=100_000), locate=_embeddings_url
        ),
        price_listing=PriceListing("databricks"),
        environment_variables=(("api_key", "DATABRICKS_TOKEN"), ("base_url", "DATABRICKS_HOST")),
    ),
)
