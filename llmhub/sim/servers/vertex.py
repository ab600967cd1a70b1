"""Simulated server of Vertex AI: the APIs of Gemini and Claude at Google's URLs.

Model, project and region are part of the URL, authorization is a Google Cloud token, and Claude's API
version is part of the body.

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
"""Versions in the body, and those of Anthropic's API. The later one is from the types of anthropic 2.12.0."""
UNAUTHENTICATED_MESSAGE: Final = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


def match_gemini_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match the two methods of a Google model."""
    match = GEMINI_PATH.fullmatch(http_request.subpath) if http_request.method == "POST" else None
    if match is None:
        return _match_model_list(http_request, "google")
    streams = match[2] == "streamGenerateContent"
    return SimRoute(model=unquote(match[1]), stream=streams, as_array=streams and "alt=sse" not in http_request.query)


def match_claude_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match the two methods of an Anthropic model."""
    match = CLAUDE_PATH.fullmatch(http_request.subpath) if http_request.method == "POST" else None
    if match is None:
        return _match_model_list(http_request, "anthropic")
    return SimRoute(model=unquote(match[1]), stream=match[2] == "streamRawPredict")


def _match_model_list(http_request: SimHttpRequest, publisher: str) -> SimRoute | None:
    """Match the list of a publisher's models."""
    is_match = (http_request.method, http_request.subpath) == ("GET", f"/v1beta1/publishers/{publisher}/models")
    return SimRoute(action="models") if is_match else None


def encode_model_list(publisher: str, models: Sequence[str]) -> Payload:
    """Encode the list of models."""
    return {"publisherModels": [{"name": f"publishers/{publisher}/models/{model}"} for model in models]}


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check the bearer token."""
    return None if bearer_token(http_request.headers) == key else SimError(kind="auth")


def parse_claude_request(payload: Payload, route: SimRoute) -> SimRequest | SimError:
    """Parse a Messages body, which has a version; model and streaming are part of the URL."""
    version = ANTHROPIC_VERSIONS.get(as_text(payload.get("anthropic_version")))
    if version is None:
        return SimError(
            kind="invalid", message=f"anthropic_version: Input should be one of {', '.join(ANTHROPIC_VERSIONS)}"
        )
    if "model" in payload:
        return SimError(kind="invalid", message="model: Extra inputs are not permitted")
    body = {name: value for name, value in payload.items() if name != "anthropic_version"}
    return anthropic.parse_request(
        {**body, "model": route.model, "stream": route.stream}, replace(route, version=version)
    )


def encode_error(peer: FakeProvider, error: SimError, request_id: str) -> HttpReply:
    """Encode an error: Google's for credentials, unknown models and quotas, otherwise the publisher's."""
    match error.kind:
        case "auth":
            return _google_error(401, "UNAUTHENTICATED", UNAUTHENTICATED_MESSAGE)
        case "not_found":
            subject = error.model or error.param
            message = f"Publisher Model `{subject}` was not found or your project does not have access to it."
            return _google_error(404, "NOT_FOUND", message)
        case "rate_limited":
            detail = f"Quota exceeded for online_prediction_requests_per_base_model with base model: {error.model}."
            return _google_error(429, "RESOURCE_EXHAUSTED", detail)
        case _:
            return peer.encode_error(error, request_id)


def _google_error(status: int, name: str, detail: str) -> HttpReply:
    body: Mapping[str, object] = {"error": {"code": status, "message": detail, "status": name}}
    return HttpReply(status, gemini.HEADERS, encode_json(body))


VERTEX: Final[FakeProvider] = replace(
    gemini.GEMINI,
    name="vertex",
    prefix="/vertex",
    models=("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro"),
    encode_model_list=partial(encode_model_list, "google"),
    match_route=match_gemini_route,
    check_credentials=check_credentials,
    encode_error=lambda error, request_id: encode_error(gemini.GEMINI, error, request_id),
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
    encode_error=lambda error, request_id: encode_error(anthropic.ANTHROPIC, error, request_id),
    limit_headers=no_limit_headers,
)
