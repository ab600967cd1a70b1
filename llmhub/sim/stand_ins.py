"""Simulated servers of the providers that have none of their own: the compatible server of their wire, at any path.

Every provider of the registry can therefore be simulated, with any model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from llmhub.core.types import Payload
from llmhub.providers.registry import PROVIDERS
from llmhub.sim.servers import FAKE_PROVIDERS, FakeProvider
from llmhub.sim.servers.embeddings import EMBEDDINGS, RERANKING
from llmhub.sim.servers.fake_provider import FakeTokenCounts
from llmhub.sim.types import SimError, SimHttpRequest, SimRequest, SimRoute

SERVERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "openai_chat": ("compatible", "/v1", "/chat/completions"),
    "openai_responses": ("openai-responses", "", "/responses"),
    "openai_completions": ("openai-completions", "", "/completions"),
    "anthropic": ("anthropic", "", "/messages"),
}
"""For each wire, the simulated server that stands in, the base of its paths, and what a completion's path ends with."""


def _as_it_is(payload: Payload) -> Payload:
    return payload


def _nested(*names: str) -> Callable[[Payload], Payload]:
    """Return a function to the object under these names, one within the other."""

    def unwrap(payload: Payload) -> Payload:
        for name in names:
            inner = payload.get(name)
            payload = inner if isinstance(inner, dict) else {}
        return payload

    return unwrap


TOKEN_COUNTS: Final[Mapping[str, FakeTokenCounts]] = {
    "anthropic": FakeTokenCounts(
        re.compile("/v1/messages/count_tokens"), lambda payload: {"max_tokens": 1, **payload}, "input_tokens"
    ),
    "google": FakeTokenCounts(
        re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):countTokens"),
        lambda payload: _nested("generateContentRequest")(payload) or payload,
        "totalTokens",
    ),
    "vertex": FakeTokenCounts(
        re.compile(r"/v1(?:beta1)?/projects/.+/models/([^/:]+):countTokens"), _as_it_is, "totalTokens"
    ),
    "bedrock": FakeTokenCounts(re.compile(r"/model/([^/]+)/count-tokens"), _nested("input", "converse"), "inputTokens"),
}
"""Endpoints that count input tokens, by provider."""


CREDENTIAL_CHECKS: Final[Mapping[str, str]] = {"azure-completions": "azure"}
"""Providers whose credentials are checked as those of another simulated server."""


def _match_any_path(ending: str) -> Callable[[SimHttpRequest], SimRoute | None]:
    """Return a function that matches a completion at any path, and every GET as a list of models."""

    def match_route(http_request: SimHttpRequest) -> SimRoute | None:
        version = http_request.headers.get("anthropic-version", "")
        if http_request.method == "GET":
            return SimRoute(action="models", version=version)
        is_completion = http_request.method == "POST" and http_request.subpath.endswith(ending)
        return SimRoute(version=version) if is_completion else None

    return match_route


def _stand_in(name: str, wire: str) -> FakeProvider:
    server, base, ending = SERVERS[wire]
    fake_provider = FAKE_PROVIDERS[server]
    return replace(
        fake_provider,
        name=name,
        prefix=f"/{name}{base}",
        path_suffix="",
        match_route=_match_any_path(ending),
        check_credentials=FAKE_PROVIDERS[CREDENTIAL_CHECKS.get(name, server)].check_credentials,
        parse_request=_with_usage(fake_provider.parse_request),
        embeddings=EMBEDDINGS.get(name),
        reranking=RERANKING.get(name),
    )


def _with_usage(
    parse_request: Callable[[Payload, SimRoute], SimRequest | SimError],
) -> Callable[[Payload, SimRoute], SimRequest | SimError]:
    """Return a parser of requests whose streams are counted unasked, as some of these providers do."""

    def parse(payload: Payload, route: SimRoute) -> SimRequest | SimError:
        request = parse_request(payload, route)
        return request if isinstance(request, SimError) else replace(request, include_usage=True)

    return parse


SIMULATED: Final[Mapping[str, FakeProvider]] = MappingProxyType(
    {
        **{
            name: replace(
                provider,
                embeddings=EMBEDDINGS.get(name),
                reranking=RERANKING.get(name),
                token_counts=TOKEN_COUNTS.get(name),
            )
            for name, provider in FAKE_PROVIDERS.items()
        },
        **{
            name: _stand_in(name, provider.wire.name)
            for name, provider in PROVIDERS.items()
            if name not in FAKE_PROVIDERS and provider.wire.name in SERVERS
        },
    }
)
"""Every simulated provider by name: those with a server of their own, then the others."""
