"""Databricks' serving endpoints: an OpenAI-compatible server in each workspace.

It counts a stream's tokens in every chunk and was not seen to accept ``stream_options``. Nothing validates a key at no
cost.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest
from llmhub.providers.openai_compatible import CHAT_PATH, openai_compatible
from llmhub.providers.vendor import PriceListing, drop_field


def _url(endpoint: Endpoint, _request: CompletionRequest, _stream: bool) -> str:
    """Return the URL of a workspace's chat, whether ``base_url`` is the workspace or its serving endpoints."""
    return endpoint.base_url.removesuffix("/serving-endpoints") + "/serving-endpoints" + CHAT_PATH


ENTRIES: Final = (
    openai_compatible(
        "databricks",
        "",
        "DATABRICKS_TOKEN",
        "DATABRICKS_HOST",
        locate=_url,
        adapt=partial(drop_field, "stream_options"),
        health_url=None,
        price_listing=PriceListing("databricks"),
        environment_variables=(("api_key", "DATABRICKS_TOKEN"), ("base_url", "DATABRICKS_HOST")),
    ),
)
