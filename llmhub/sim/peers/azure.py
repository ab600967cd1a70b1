"""The other side of Azure OpenAI: Chat Completions at two kinds of address, with content filters and other errors.

Sources: https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle and
https://learn.microsoft.com/azure/ai-foundry/openai/reference (read 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import unquote

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.exchange import Answer, Call, Incoming, Kind, Problem
from llmhub.sim.limits import Standing
from llmhub.sim.peers import openai_chat, openai_errors
from llmhub.sim.peers.openai_chat import OPENAI
from llmhub.sim.peers.openai_errors import Said, event, retry_headers
from llmhub.sim.peers.record import JSON, bearer, encode

DEPLOYMENT: Final = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
V1: Final = {("POST", "/openai/v1/chat/completions"): Call(), ("GET", "/openai/v1/models"): Call(action="models")}

SAFE: Final = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
PROMPT_SAFE: Final = [
    {"prompt_index": 0, "content_filter_results": {**SAFE, "jailbreak": {"detected": False, "filtered": False}}}
]

ERRORS: Final[Mapping[Kind, Said]] = {
    "auth": Said(
        401,
        "",
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
        "active subscription and use a correct regional API endpoint for your resource.",
    ),
    "not_found": Said(404, "", "404", "Resource not found"),
    "rate_limited": Said(429, "", "429", ""),
    "server": Said(500, "", "InternalServerError", "The server had an error while processing your request."),
    "overloaded": Said(
        503,
        "",
        "ServiceUnavailable",
        "The service is temporarily unable to process your request. Please try again later.",
    ),
}
"""What Azure says in its own way; all else is told as OpenAI tells it."""


def locate(incoming: Incoming) -> Call | None:
    """Find a deployment, with the api version the classic address needs, or the v1 address."""
    found = V1.get((incoming.method, incoming.rest))
    if found is not None:
        return found
    version = incoming.parameters.get("api-version", "")
    deployment = DEPLOYMENT.fullmatch(incoming.rest)
    if not version:
        return None
    if incoming.method == "POST" and deployment:
        return Call(model=unquote(deployment[1]), version=version)
    return Call(action="models") if (incoming.method, incoming.rest) == ("GET", "/openai/models") else None


def authorize(incoming: Incoming, key: str) -> Problem | None:
    """Check the ``api-key`` header or the bearer token."""
    given = incoming.headers.get("api-key") or bearer(incoming.headers)
    return None if given == key else Problem(kind="auth")


def reply(answer: Answer) -> Payload:
    """Write an answer with what the content filters found: nothing."""
    whole = openai_chat.reply(answer)
    choices = whole["choices"]
    assert isinstance(choices, list)  # noqa: S101 - our own value
    return {
        **whole,
        "choices": [{"content_filter_results": SAFE, **choice} for choice in choices],
        "prompt_filter_results": PROMPT_SAFE,
    }


def events(answer: Answer) -> Iterator[bytes]:
    """Write a stream, which begins with the prompt's filter results in a chunk without id, model or choices."""
    yield event(
        {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": PROMPT_SAFE}
    )
    for chunk in openai_chat.chunks(answer):
        choices = chunk["choices"]
        assert isinstance(choices, list)  # noqa: S101 - our own value
        yield event({**chunk, "choices": [{"content_filter_results": {}, **choice} for choice in choices]})
    yield b"data: [DONE]\n\n"


def error(problem: Problem, request_id: str) -> HttpReply:
    """Write a refusal."""
    if problem.kind not in ERRORS:
        return openai_errors.error(problem, request_id)
    said = ERRORS[problem.kind]
    return HttpReply(said.status, {**JSON, **retry_headers(problem)}, encode(_told(problem, said)))


def broken(problem: Problem, request_id: str) -> bytes:
    """Write a problem as an event."""
    if problem.kind not in ERRORS:
        return openai_errors.broken(problem, request_id)
    return event(_told(problem, ERRORS[problem.kind]))


def _told(problem: Problem, said: Said) -> Payload:
    code = problem.code or said.code
    message = problem.message or said.message or _exceeded(problem)
    if problem.kind == "not_found" and problem.model:
        code = "DeploymentNotFound"
        message = (
            "The API deployment for this resource does not exist. If you created the deployment within the last "
            "5 minutes, please wait a moment and try again."
        )
    return {"error": {"code": code, "message": message}}


def _exceeded(problem: Problem) -> str:
    rate = {"requests": "call rate limit", "tokens": "token rate limit"}[problem.scope]
    seconds = retry_headers(problem).get("retry-after", "86400")
    return (
        f"Requests to the ChatCompletions_Create Operation under Azure OpenAI API have exceeded {rate} of your current "
        f"OpenAI S0 pricing tier. Please retry after {seconds} seconds."
    )


def limits(standing: Standing, _now: float) -> dict[str, str]:
    """Tell what is left and how long a period is."""
    told: dict[str, str] = {}
    for scope, meter in (("requests", standing.requests), ("tokens", standing.tokens)):
        if meter is not None:
            told[f"x-ratelimit-remaining-{scope}"] = str(meter.remaining)
            told[f"x-ratelimit-renewalperiod-{scope}"] = "60"
    return told


AZURE: Final = replace(
    OPENAI,
    name="azure",
    prefix="/azure",
    models=("gpt-4o-mini", "gpt-4o", "gpt-4.1-mini"),
    locate=locate,
    authorize=authorize,
    reply=reply,
    events=events,
    error=error,
    broken=broken,
    limits=limits,
    id_header="apim-request-id",
)
