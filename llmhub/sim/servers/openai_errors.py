"""Errors and rate limit headers of OpenAI.

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
    """Status, type, code and message of a kind of error."""

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
    """Encode one chunk as a server-sent event."""
    return b"data: %b\n\n" % encode_json(chunk)


def error_reply(error: SimError, _request_id: str) -> HttpReply:
    """Encode an error; a 429 has two headers with the retry delay."""
    return HttpReply(
        ERRORS[error.kind].status, {**JSON_HEADERS, **retry_headers(error)}, encode_json(error_payload(error))
    )


def stream_error_event(error: SimError, _request_id: str) -> bytes:
    """Encode an error as an event."""
    return sse_event(error_payload(error))


def retry_headers(error: SimError) -> dict[str, str]:
    """Return the retry delay in whole seconds and in milliseconds."""
    if error.retry_after_s is None:
        return {}
    wait_s = error.retry_after_s
    return {"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}


def error_payload(error: SimError) -> Payload:
    """Return the error object."""
    detail = ERRORS[error.kind]
    if error.kind == "rate_limited":
        return {
            "error": {
                "message": error.message or _rate_limit_message(error),
                "type": error.scope,
                "param": None,
                "code": detail.code,
            }
        }
    if error.kind == "not_found" and error.model:
        message = f"The model `{error.model}` does not exist or you do not have access to it."
        return {"error": {"message": message, "type": detail.type, "param": None, "code": "model_not_found"}}
    if error.kind == "not_found":
        return {"error": {"message": f"Invalid URL ({error.param})", "type": detail.type, "param": None, "code": None}}
    return {
        "error": {
            "message": error.message or detail.message,
            "type": detail.type,
            "param": error.param,
            "code": (detail.code if error.code is None else error.code) or None,
        }
    }


def _rate_limit_message(error: SimError) -> str:
    """Return the message about an exceeded limit, with the retry delay."""
    scope = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}[error.scope]
    whose = f"{error.model} in organization org-sim on {scope}: Limit {error.limit}"
    more = "Visit https://platform.openai.com/account/rate-limits to learn more."
    if error.retry_after_s is None:
        remedy = "The input or output tokens must be reduced in order to run successfully."
        return f"Request too large for {whose}, Requested {error.requested}. {remedy} {more}"
    again = f"Please try again in {format_go_duration(error.retry_after_s)}."
    return f"Rate limit reached for {whose}, Used {error.limit}, Requested {error.requested}. {again} {more}"


def format_go_duration(seconds: float) -> str:
    """Format a duration like Go, to the millisecond.

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


def limit_headers(status: LimitStatus, _now: float) -> dict[str, str]:
    """Return rate limit headers."""
    return {
        **_meter_headers("requests", status.requests),
        **_meter_headers("tokens", status.tokens),
    }


def _meter_headers(scope: str, meter: LimitMeter | None) -> dict[str, str]:
    if meter is None:
        return {}
    return {
        f"x-ratelimit-limit-{scope}": str(meter.limit),
        f"x-ratelimit-remaining-{scope}": str(meter.remaining),
        f"x-ratelimit-reset-{scope}": format_go_duration(meter.reset_s),
    }
