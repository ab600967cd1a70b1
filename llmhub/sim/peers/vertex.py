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
from llmhub.sim.exchange import Call, Incoming, Problem, Question
from llmhub.sim.peers import anthropic, gemini
from llmhub.sim.peers.record import Peer, bearer, encode, silent
from llmhub.sim.peers.shape import word

PLACE: Final = r"(?:/v1(?:beta1)?)?/projects/[^/]+/locations/[^/]+/publishers/"
GEMINI_ASK: Final = re.compile(PLACE + r"google/models/([^/:]+):(generateContent|streamGenerateContent)")
CLAUDE_ASK: Final = re.compile(PLACE + r"anthropic/models/([^/:]+):(rawPredict|streamRawPredict)")
VERSIONS: Final = {"vertex-2023-10-16": anthropic.CLASSIC, anthropic.CURRENT: anthropic.CURRENT}
"""Versions as the body names them, and Anthropic's of which they are: the types of anthropic 2.12.0 name the later."""
UNAUTHENTICATED: Final = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


def locate_gemini(incoming: Incoming) -> Call | None:
    """Find a model of Google's and its two methods."""
    asked = GEMINI_ASK.fullmatch(incoming.rest) if incoming.method == "POST" else None
    if asked is None:
        return _listed(incoming, "google")
    streams = asked[2] == "streamGenerateContent"
    return Call(model=unquote(asked[1]), stream=streams, array=streams and "alt=sse" not in incoming.query)


def locate_claude(incoming: Incoming) -> Call | None:
    """Find a model of Anthropic's and its two methods."""
    asked = CLAUDE_ASK.fullmatch(incoming.rest) if incoming.method == "POST" else None
    if asked is None:
        return _listed(incoming, "anthropic")
    return Call(model=unquote(asked[1]), stream=asked[2] == "streamRawPredict")


def _listed(incoming: Incoming, publisher: str) -> Call | None:
    """Find the list of a publisher's models."""
    found = (incoming.method, incoming.rest) == ("GET", f"/v1beta1/publishers/{publisher}/models")
    return Call(action="models") if found else None


def listing(publisher: str, models: Sequence[str]) -> Payload:
    """List models."""
    return {"publisherModels": [{"name": f"publishers/{publisher}/models/{model}"} for model in models]}


def authorize(incoming: Incoming, key: str) -> Problem | None:
    """Check the bearer token."""
    return None if bearer(incoming.headers) == key else Problem(kind="auth")


def read_claude(payload: Payload, call: Call) -> Question | Problem:
    """Read a Messages body without a model, whose version it names; whether it streams, the address says."""
    version = VERSIONS.get(word(payload.get("anthropic_version")))
    if version is None:
        return Problem(kind="invalid", message=f"anthropic_version: Input should be one of {', '.join(VERSIONS)}")
    if "model" in payload:
        return Problem(kind="invalid", message="model: Extra inputs are not permitted")
    body = {name: value for name, value in payload.items() if name != "anthropic_version"}
    return anthropic.read({**body, "model": call.model, "stream": call.stream}, replace(call, version=version))


def error(peer: Peer, problem: Problem, request_id: str) -> HttpReply:
    """Write a refusal: Google's for what its door refuses, and else the publisher's."""
    match problem.kind:
        case "auth":
            return _refused(401, "UNAUTHENTICATED", UNAUTHENTICATED)
        case "not_found":
            what = problem.model or problem.param
            gone = f"Publisher Model `{what}` was not found or your project does not have access to it."
            return _refused(404, "NOT_FOUND", gone)
        case "rate_limited":
            said = f"Quota exceeded for online_prediction_requests_per_base_model with base model: {problem.model}."
            return _refused(429, "RESOURCE_EXHAUSTED", said)
        case _:
            return peer.error(problem, request_id)


def _refused(status: int, name: str, said: str) -> HttpReply:
    body: Mapping[str, object] = {"error": {"code": status, "message": said, "status": name}}
    return HttpReply(status, gemini.HEADERS, encode(body))


VERTEX: Final[Peer] = replace(
    gemini.GEMINI,
    name="vertex",
    prefix="/vertex",
    models=("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro"),
    listing=partial(listing, "google"),
    locate=locate_gemini,
    authorize=authorize,
    error=lambda problem, request_id: error(gemini.GEMINI, problem, request_id),
)

VERTEX_CLAUDE: Final[Peer] = replace(
    anthropic.ANTHROPIC,
    name="vertex-anthropic",
    prefix="/vertex-anthropic",
    models=("claude-haiku-4-5@20251001", "claude-sonnet-4-5@20250929", "claude-opus-5"),
    listing=partial(listing, "anthropic"),
    locate=locate_claude,
    authorize=authorize,
    read=read_claude,
    error=lambda problem, request_id: error(anthropic.ANTHROPIC, problem, request_id),
    limits=silent,
)
