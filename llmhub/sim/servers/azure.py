"""Simulated server of Azure OpenAI: Chat Completions at two kinds of URL, with content filters and Azure's own errors.

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
from llmhub.sim.limits import LimitStatus
from llmhub.sim.servers import openai_chat, openai_errors
from llmhub.sim.servers.fake_provider import JSON_HEADERS, bearer_token, encode_json
from llmhub.sim.servers.openai_chat import OPENAI
from llmhub.sim.servers.openai_errors import ErrorTemplate, retry_headers, sse_event
from llmhub.sim.types import SimError, SimErrorKind, SimHttpRequest, SimResponse, SimRoute

DEPLOYMENT_PATH: Final = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
V1_PATH: Final = {
    ("POST", "/openai/v1/chat/completions"): SimRoute(),
    ("GET", "/openai/v1/models"): SimRoute(action="models"),
}
SAFE_CONTENT_FILTER: Final = {
    name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")
}
SAFE_PROMPT_FILTER: Final = [
    {
        "prompt_index": 0,
        "content_filter_results": {**SAFE_CONTENT_FILTER, "jailbreak": {"detected": False, "filtered": False}},
    }
]
ERRORS: Final[Mapping[SimErrorKind, ErrorTemplate]] = {
    "auth": ErrorTemplate(
        401,
        "",
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
        "active subscription and use a correct regional API endpoint for your resource.",
    ),
    "not_found": ErrorTemplate(404, "", "404", "Resource not found"),
    "rate_limited": ErrorTemplate(429, "", "429", ""),
    "server": ErrorTemplate(500, "", "InternalServerError", "The server had an error while processing your request."),
    "overloaded": ErrorTemplate(
        503,
        "",
        "ServiceUnavailable",
        "The service is temporarily unable to process your request. Please try again later.",
    ),
}
"""Errors that differ from OpenAI's."""


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match a deployment's URL, which requires an ``api-version``, or the v1 URL."""
    route = V1_PATH.get((http_request.method, http_request.subpath))
    if route is not None:
        return route
    version = http_request.query_parameters.get("api-version", "")
    deployment = DEPLOYMENT_PATH.fullmatch(http_request.subpath)
    if not version:
        return None
    if http_request.method == "POST" and deployment:
        return SimRoute(model=unquote(deployment[1]), version=version)
    return (
        SimRoute(action="models") if (http_request.method, http_request.subpath) == ("GET", "/openai/models") else None
    )


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check the ``api-key`` header or the bearer token."""
    credential = http_request.headers.get("api-key") or bearer_token(http_request.headers)
    return None if credential == key else SimError(kind="auth")


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response with the results of the content filters, which find nothing."""
    reply = openai_chat.encode_reply(response)
    choices = reply["choices"]
    assert isinstance(choices, list)  # noqa: S101 - our own value
    return {
        **reply,
        "choices": [{"content_filter_results": SAFE_CONTENT_FILTER, **choice} for choice in choices],
        "prompt_filter_results": SAFE_PROMPT_FILTER,
    }


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a stream; its first chunk has the prompt's filter results, but no id, model or choices."""
    yield sse_event(
        {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": SAFE_PROMPT_FILTER}
    )
    for chunk in openai_chat.encode_chunks(response):
        choices = chunk["choices"]
        assert isinstance(choices, list)  # noqa: S101 - our own value
        yield sse_event({**chunk, "choices": [{"content_filter_results": {}, **choice} for choice in choices]})
    yield b"data: [DONE]\n\n"


def encode_error(error: SimError, request_id: str) -> HttpReply:
    """Encode an error."""
    if error.kind not in ERRORS:
        return openai_errors.error_reply(error, request_id)
    detail = ERRORS[error.kind]
    return HttpReply(
        detail.status, {**JSON_HEADERS, **retry_headers(error)}, encode_json(_error_payload(error, detail))
    )


def encode_stream_error(error: SimError, request_id: str) -> bytes:
    """Encode an error as an event."""
    if error.kind not in ERRORS:
        return openai_errors.stream_error_event(error, request_id)
    return sse_event(_error_payload(error, ERRORS[error.kind]))


def _error_payload(error: SimError, detail: ErrorTemplate) -> Payload:
    code = error.code or detail.code
    message = error.message or detail.message or _rate_limit_message(error)
    if error.kind == "not_found" and error.model:
        code = "DeploymentNotFound"
        message = (
            "The API deployment for this resource does not exist. If you created the deployment within the last "
            "5 minutes, please wait a moment and try again."
        )
    return {"error": {"code": code, "message": message}}


def _rate_limit_message(error: SimError) -> str:
    rate = {"requests": "call rate limit", "tokens": "token rate limit"}[error.scope]
    seconds = retry_headers(error).get("retry-after", "86400")
    return (
        f"Requests to the ChatCompletions_Create Operation under Azure OpenAI API have exceeded {rate} of your current "
        f"OpenAI S0 pricing tier. Please retry after {seconds} seconds."
    )


def limit_headers(status: LimitStatus, _now: float) -> dict[str, str]:
    """Return rate limit headers: what remains, and the length of the period."""
    headers: dict[str, str] = {}
    for scope, meter in (("requests", status.requests), ("tokens", status.tokens)):
        if meter is not None:
            headers[f"x-ratelimit-remaining-{scope}"] = str(meter.remaining)
            headers[f"x-ratelimit-renewalperiod-{scope}"] = "60"
    return headers


AZURE: Final = replace(
    OPENAI,
    name="azure",
    prefix="/azure",
    models=("gpt-4o-mini", "gpt-4o", "gpt-4.1-mini"),
    match_route=match_route,
    check_credentials=check_credentials,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    encode_stream_error=encode_stream_error,
    limit_headers=limit_headers,
    request_id_header="apim-request-id",
)
