"""How OpenAI refuses, and how it tells a caller where they stand.

Sources: https://platform.openai.com/docs/guides/error-codes and
https://platform.openai.com/docs/guides/rate-limits (read 2026-11-22); bodies as callers have reported them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.limits import LimitMeter, LimitStatus
from llmhub.sim.servers.fake_provider import JSON_HEADERS, encode_json
from llmhub.sim.types import SimError, SimErrorKind


@dataclass(frozen=True, slots=True)
class ErrorTemplate:
    """How a kind of problem is told: status, type, code and words."""

    status: int
    type: str
    code: str | None
    message: str


ERRORS: Final[Mapping[SimErrorKind, ErrorTemplate]] = {
    "invalid": ErrorTemplate(400, "invalid_request_error", None, "Invalid request."),
    "auth": ErrorTemplate(
        401,
        "invalid_request_error",
        "invalid_api_key",
        "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
    ),
    "forbidden": ErrorTemplate(
        403, "invalid_request_error", None, "You have insufficient permissions for this operation."
    ),
    "not_found": ErrorTemplate(404, "invalid_request_error", None, "Invalid URL"),
    "too_large": ErrorTemplate(413, "invalid_request_error", None, "The request body is too large."),
    "rate_limited": ErrorTemplate(429, "requests", "rate_limit_exceeded", ""),
    "quota": ErrorTemplate(
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
    ),
    "server": ErrorTemplate(
        500, "server_error", None, "The server had an error while processing your request. Sorry about that!"
    ),
    "overloaded": ErrorTemplate(
        503, "server_error", None, "The engine is currently overloaded, please try again later"
    ),
}


def sse_event(chunk: Payload) -> bytes:
    """Write one chunk as a server-sent event."""
    return b"data: %b\n\n" % encode_json(chunk)


def error_reply(problem: SimError, _request_id: str) -> HttpReply:
    """Write a refusal; a 429 says in two headers when to come again."""
    return HttpReply(
        ERRORS[problem.kind].status, {**JSON_HEADERS, **retry_headers(problem)}, encode_json(error_payload(problem))
    )


def stream_error_event(problem: SimError, _request_id: str) -> bytes:
    """Write a problem as an event."""
    return sse_event(error_payload(problem))


def retry_headers(problem: SimError) -> dict[str, str]:
    """Say when to come again: whole seconds, and milliseconds."""
    if problem.retry_after_s is None:
        return {}
    wait_s = problem.retry_after_s
    return {"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}


def error_payload(problem: SimError) -> Payload:
    """Write a problem as an object."""
    said = ERRORS[problem.kind]
    if problem.kind == "rate_limited":
        return {
            "error": {
                "message": problem.message or _rate_limit_message(problem),
                "type": problem.scope,
                "param": None,
                "code": said.code,
            }
        }
    if problem.kind == "not_found" and problem.model:
        gone = f"The model `{problem.model}` does not exist or you do not have access to it."
        return {"error": {"message": gone, "type": said.type, "param": None, "code": "model_not_found"}}
    if problem.kind == "not_found":
        return {"error": {"message": f"Invalid URL ({problem.param})", "type": said.type, "param": None, "code": None}}
    return {
        "error": {
            "message": problem.message or said.message,
            "type": said.type,
            "param": problem.param,
            "code": (said.code if problem.code is None else problem.code) or None,
        }
    }


def _rate_limit_message(problem: SimError) -> str:
    """Say whose limit is reached, and when to try again."""
    scope = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}[problem.scope]
    whose = f"{problem.model} in organization org-sim on {scope}: Limit {problem.limit}"
    more = "Visit https://platform.openai.com/account/rate-limits to learn more."
    if problem.retry_after_s is None:
        remedy = "The input or output tokens must be reduced in order to run successfully."
        return f"Request too large for {whose}, Requested {problem.requested}. {remedy} {more}"
    again = f"Please try again in {format_go_duration(problem.retry_after_s)}."
    return f"Rate limit reached for {whose}, Used {problem.limit}, Requested {problem.requested}. {again} {more}"


def format_go_duration(seconds: float) -> str:
    """Write a duration as Go does, to the millisecond.

    Examples
    --------
    >>> [format_go_duration(seconds) for seconds in (0, 0.012, 1.5, 360, 3723)]
    ['0s', '12ms', '1.5s', '6m0s', '1h2m3s']
    """
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if 0 < milliseconds < 1000:  # noqa: PLR2004 - below a second Go writes milliseconds
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}h' if hours else ''}{f'{minutes}m' if hours or minutes else ''}{rest / 1000:g}s"


def limit_headers(standing: LimitStatus, _now: float) -> dict[str, str]:
    """Tell where a caller stands."""
    return {
        **_meter_headers("requests", standing.requests),
        **_meter_headers("tokens", standing.tokens),
    }


def _meter_headers(scope: str, meter: LimitMeter | None) -> dict[str, str]:
    if meter is None:
        return {}
    return {
        f"x-ratelimit-limit-{scope}": str(meter.limit),
        f"x-ratelimit-remaining-{scope}": str(meter.remaining),
        f"x-ratelimit-reset-{scope}": format_go_duration(meter.reset_s),
    }
