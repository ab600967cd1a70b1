"""Simulated server of Ollama's own chat API: lines of JSON, durations in nanoseconds.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and recorded exchanges (read 2026-11-22). Ollama itself
has no rate limits; errors about them are those of its cloud.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.servers.fake_provider import JSON_HEADERS, FakeProvider, bearer_token, encode_json, no_limit_headers
from llmhub.sim.servers.openai_errors import retry_headers
from llmhub.sim.servers.payload_rules import (
    NUMBER,
    FieldRule,
    RuleViolation,
    as_integer,
    as_mapping,
    as_text,
    as_texts,
    declared_tools,
    find_violation,
    iter_objects,
    rename_set_fields,
    split_words,
    unchecked_fields,
)
from llmhub.sim.tool_calls import offer_tools
from llmhub.sim.types import SimError, SimErrorKind, SimHttpRequest, SimMessage, SimRequest, SimResponse, SimRoute

FIELDS: Final[Mapping[str, FieldRule]] = {
    "model": FieldRule((str,), 1, required=True),
    "messages": FieldRule((list,), required=True, item_type=dict),
    "stream": FieldRule((bool,)),
    "options": FieldRule((dict,)),
    "tools": FieldRule((list,)),
    **unchecked_fields("format keep_alive logprobs think top_logprobs truncate shift"),
}
OPTION_FIELDS: Final[Mapping[str, FieldRule]] = {
    **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), FieldRule(NUMBER)),
    **dict.fromkeys(("top_k", "num_predict", "seed"), FieldRule((int, float))),
}
SAMPLING: Final = {
    name: name for name in ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
}
THINKING_MODELS: Final = re.compile(r"gpt-oss|qwen3|deepseek-r1|magistral")
"""Models that think by default."""
THINKING_TOKENS: Final = {"low": 16, "medium": 48, "high": 128}
FINISH_REASONS: Final = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "stop"}
NANOSECONDS_PER_SECOND: Final = 1_000_000_000
ERRORS: Final[Mapping[SimErrorKind, tuple[int, str]]] = {
    "invalid": (400, "invalid request"),
    "auth": (401, "unauthorized"),
    "forbidden": (403, "forbidden"),
    "not_found": (404, "404 page not found"),
    "too_large": (413, "http: request body too large"),
    "rate_limited": (429, "you have reached your usage limit, please try again later"),
    "quota": (403, "this model requires a subscription, upgrade for access: https://ollama.com/upgrade"),
    "server": (500, "llama runner process has terminated: exit status 2"),
    "overloaded": (503, "server busy, please try again.  maximum pending requests exceeded"),
}
"""Status and message of each kind of error."""


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match the chat and the list of models."""
    match http_request.method, http_request.subpath:
        case "POST", "/api/chat":
            return SimRoute()
        case "GET", "/api/tags":
            return SimRoute(action="models")
        case _:
            return None


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check the bearer token, which only servers behind a proxy require."""
    return None if bearer_token(http_request.headers) == key else SimError(kind="auth")


def parse_request(payload: Payload, _call: SimRoute) -> SimRequest | SimError:
    """Parse the body of a chat; unknown fields are ignored, and streaming is the default."""
    violation = find_violation({name: value for name, value in payload.items() if name in FIELDS}, FIELDS)
    options = as_mapping(payload.get("options"))
    violation = violation or find_violation(
        {name: value for name, value in options.items() if name in OPTION_FIELDS}, OPTION_FIELDS
    )
    if violation is not None:
        return SimError(kind="invalid", message=_violation_message(violation))
    model, max_tokens = as_text(payload["model"]), as_integer(options.get("num_predict"))
    return SimRequest(
        model=model,
        messages=tuple(
            SimMessage(as_text(parsed.get("role")), as_text(parsed.get("content")))
            for parsed in iter_objects(payload["messages"])
        ),
        stream=payload.get("stream") is not False,
        max_tokens=max_tokens if max_tokens is not None and max_tokens > 0 else None,
        stop=as_texts(options.get("stop")),
        tools=offer_tools(declared_tools(payload.get("tools"))),
        schema={"type": "object"} if payload.get("format") == "json" else payload.get("format") or None,
        sampling=rename_set_fields(options, SAMPLING),
        reasoning_tokens=_reasoning_tokens(model, payload.get("think")),
    )


def _reasoning_tokens(model: str, think: object) -> int:
    """Return the approximate number of thinking tokens."""
    return (
        0
        if think is False or not THINKING_MODELS.search(model)
        else THINKING_TOKENS.get(as_text(think), THINKING_TOKENS["medium"])
    )


def _violation_message(violation: RuleViolation) -> str:
    """Return the message of Go's JSON decoder about a violation."""
    match violation.kind:
        case "missing" | "low":
            return f"{violation.name} is required"
        case _:
            value_type = type(violation.value).__name__
            return f"json: cannot unmarshal {value_type} into Go struct field ChatRequest.{violation.name}"


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response that is not streamed."""
    return {
        **_reply_head(response),
        "message": {
            **_message_payload(response.choices[0].text),
            **_thinking_payload(response),
            **_tool_call_payloads(response),
        },
        **_final_fields(response),
    }


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as lines: thinking, then text, then the counts."""
    head = {**_reply_head(response), "done": False}
    for piece in split_words(_thinking_payload(response).get("thinking", ""), 2):
        yield _json_line({**head, "message": {**_message_payload(""), "thinking": piece}})
    for piece in split_words(response.choices[0].text, 1):
        yield _json_line({**head, "message": _message_payload(piece)})
    if response.choices[0].tool_calls:
        yield _json_line({**head, "message": {**_message_payload(""), **_tool_call_payloads(response)}})
    yield _json_line({**_reply_head(response), "message": _message_payload(""), **_final_fields(response)})


def _json_line(data: Payload) -> bytes:
    return b"%b\n" % encode_json(data)


def _reply_head(response: SimResponse) -> Payload:
    position = datetime.fromtimestamp(response.created, UTC)
    return {
        "model": response.request.model,
        "created_at": f"{position:%Y-%m-%dT%H:%M:%S}.{int(response.id_digits[:5], 16)}Z",
    }


def _message_payload(text: str) -> Payload:
    return {"role": "assistant", "content": text}


def _tool_call_payloads(response: SimResponse) -> Payload:
    """Encode the tool calls, which are not split."""
    calls = [
        {
            "id": f"call_{response.id_digits[:6]}{position:02}",
            "function": {"index": position, "name": call.name, "arguments": call.arguments},
        }
        for position, call in enumerate(response.choices[0].tool_calls)
    ]
    return {"tool_calls": calls} if calls else {}


def _thinking_payload(response: SimResponse) -> dict[str, str]:
    """Encode thinking, with four characters per token."""
    return {"thinking": "Hmm " * response.reasoning_tokens} if response.reasoning_tokens else {}


def _final_fields(response: SimResponse) -> Payload:
    """Return the final counts, in tokens and nanoseconds."""
    took = int(response.duration_s * NANOSECONDS_PER_SECOND)
    return {
        "done": True,
        "done_reason": FINISH_REASONS[response.choices[0].finish_reason],
        "total_duration": took,
        "load_duration": took // 20,
        "prompt_eval_count": response.input_tokens,
        "prompt_eval_duration": took // 10,
        "eval_count": response.output_tokens,
        "eval_duration": took - took // 20 - took // 10,
    }


def encode_error(error: SimError, _request_id: str) -> HttpReply:
    """Encode an error, which is a single string."""
    return HttpReply(
        ERRORS[error.kind][0], {**JSON_HEADERS, **retry_headers(error)}, encode_json(_error_payload(error))
    )


def encode_stream_error(error: SimError, _request_id: str) -> bytes:
    """Encode an error as a line."""
    return _json_line(_error_payload(error))


def _error_payload(error: SimError) -> Payload:
    if error.kind == "not_found" and error.model:
        return {"error": f"model '{error.model}' not found"}
    return {"error": error.message or ERRORS[error.kind][1]}


def encode_model_list(models: Sequence[str]) -> Payload:
    """Encode the list of models."""
    rows = [{"name": model, "model": model, "modified_at": "2025-01-01T00:00:00Z", "size": 0} for model in models]
    return {"models": rows}


OLLAMA: Final = FakeProvider(
    name="ollama-native",
    prefix="/ollama",
    models=("llama3.2", "qwen3", "gpt-oss:20b"),
    match_route=match_route,
    check_credentials=check_credentials,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    encode_stream_error=encode_stream_error,
    malformed_event=b'{"model":"llama3.2","created_at":"2025-01-01T00:00:00Z","mess\n',
    encode_model_list=encode_model_list,
    limit_headers=no_limit_headers,
    format_request_id=lambda digits: digits,
    stream_content_type="application/x-ndjson",
)
