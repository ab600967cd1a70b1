"""The other side of Vertex AI: Gemini and Claude as their own APIs speak, at Google's addresses.

A model, its project and region stand in the address, a Google Cloud token opens it, and Claude's version stands in
the body.

Sources: https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference,
https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai (read 2026-11-22); error bodies as recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final
from urllib.parse import unquote

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.servers import anthropic, gemini
from llmhub.sim.servers.fake_provider import FakeProvider, bearer_token, encode_json, no_limit_headers
from llmhub.sim.servers.payload_rules import as_text
from llmhub.sim.types import SimError, SimHttpRequest, SimRequest, SimRoute

LOCATION_PATH: Final = r"(?:/v1(?:beta1)?)?/projects/[^/]+/locations/[^/]+/publishers/"


GEMINI_PATH: Final = re.compile(LOCATION_PATH + r"google/models/([^/:]+):(generateContent|streamGenerateContent)")


CLAUDE_PATH: Final = re.compile(LOCATION_PATH + r"anthropic/models/([^/:]+):(rawPredict|streamRawPredict)")


ANTHROPIC_VERSIONS: Final = {"vertex-2023-10-16": anthropic.CLASSIC, anthropic.CURRENT: anthropic.CURRENT}
"""Versions as the body names them, and Anthropic's of which they are: the types of anthropic 2.12.0 name the later."""


UNAUTHENTICATED_MESSAGE: Final = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


def match_gemini_route(incoming: SimHttpRequest) -> SimRoute | None:
    """Find a model of Google's and its two methods."""
    asked = GEMINI_PATH.fullmatch(incoming.subpath) if incoming.method == "POST" else None
    if asked is None:
        return _match_model_list(incoming, "google")
    streams = asked[2] == "streamGenerateContent"
    return SimRoute(model=unquote(asked[1]), stream=streams, as_array=streams and "alt=sse" not in incoming.query)


def match_claude_route(incoming: SimHttpRequest) -> SimRoute | None:
    """Find a model of Anthropic's and its two methods."""
    asked = CLAUDE_PATH.fullmatch(incoming.subpath) if incoming.method == "POST" else None
    if asked is None:
        return _match_model_list(incoming, "anthropic")
    return SimRoute(model=unquote(asked[1]), stream=asked[2] == "streamRawPredict")


def _match_model_list(incoming: SimHttpRequest, publisher: str) -> SimRoute | None:
    """Find the list of a publisher's models."""
    found = (incoming.method, incoming.subpath) == ("GET", f"/v1beta1/publishers/{publisher}/models")
    return SimRoute(action="models") if found else None


def encode_model_list(publisher: str, models: Sequence[str]) -> Payload:
    """List models."""
    return {"publisherModels": [{"name": f"publishers/{publisher}/models/{model}"} for model in models]}


def check_credentials(incoming: SimHttpRequest, key: str) -> SimError | None:
    """Check the bearer token."""
    return None if bearer_token(incoming.headers) == key else SimError(kind="auth")


def parse_claude_request(payload: Payload, call: SimRoute) -> SimRequest | SimError:
    """Read a Messages body without a model, whose version it names; whether it streams, the address says."""
    version = ANTHROPIC_VERSIONS.get(as_text(payload.get("anthropic_version")))
    if version is None:
        return SimError(
            kind="invalid", message=f"anthropic_version: Input should be one of {', '.join(ANTHROPIC_VERSIONS)}"
        )
    if "model" in payload:
        return SimError(kind="invalid", message="model: Extra inputs are not permitted")
    body = {name: value for name, value in payload.items() if name != "anthropic_version"}
    return anthropic.parse_request({**body, "model": call.model, "stream": call.stream}, replace(call, version=version))


def encode_error(peer: FakeProvider, problem: SimError, request_id: str) -> HttpReply:
    """Write a refusal: Google's for what its door refuses, and else the publisher's."""
    match problem.kind:
        case "auth":
            return _google_error(401, "UNAUTHENTICATED", UNAUTHENTICATED_MESSAGE)
        case "not_found":
            what = problem.model or problem.param
            gone = f"Publisher Model `{what}` was not found or your project does not have access to it."
            return _google_error(404, "NOT_FOUND", gone)
        case "rate_limited":
            said = f"Quota exceeded for online_prediction_requests_per_base_model with base model: {problem.model}."
            return _google_error(429, "RESOURCE_EXHAUSTED", said)
        case _:
            return peer.encode_error(problem, request_id)


def _google_error(status: int, name: str, said: str) -> HttpReply:
    body: Mapping[str, object] = {"error": {"code": status, "message": said, "status": name}}
    return HttpReply(status, gemini.HEADERS, encode_json(body))


VERTEX: Final[FakeProvider] = replace(
    gemini.GEMINI,
    name="vertex",
    prefix="/vertex",
    models=("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro"),
    encode_model_list=partial(encode_model_list, "google"),
    match_route=match_gemini_route,
    check_credentials=check_credentials,
    encode_error=lambda problem, request_id: encode_error(gemini.GEMINI, problem, request_id),
)


VERTEX_CLAUDE: Final[FakeProvider] = replace(
    anthropic.ANTHROPIC,
    name="vertex-anthropic",
    prefix="/vertex-anthropic",
    models=("claude-haiku-4-5@20251001", "claude-sonnet-4-5@20250929", "claude-opus-5"),
    encode_model_list=partial(encode_model_list, "anthropic"),
    match_route=match_claude_route,
    check_credentials=check_credentials,
    parse_request=parse_claude_request,
    encode_error=lambda problem, request_id: encode_error(anthropic.ANTHROPIC, problem, request_id),
    limit_headers=no_limit_headers,
)
