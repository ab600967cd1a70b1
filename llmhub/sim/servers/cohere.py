"""Simulated server of Cohere's own chat API, version 2.

Source: https://docs.cohere.com/reference/chat, https://docs.cohere.com/docs/streaming and recorded exchanges
(read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

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
    "messages": FieldRule((list,), 1, required=True, item_type=dict),
    "stream": FieldRule((bool,)),
    "temperature": FieldRule(NUMBER, 0, 1),
    "p": FieldRule(NUMBER, 0.01, 0.99),
    "k": FieldRule((int,), 0, 500),
    "max_tokens": FieldRule((int,), 0),
    "stop_sequences": FieldRule((list,), 0, 5, item_type=str),
    "seed": FieldRule((int,), 0),
    "presence_penalty": FieldRule(NUMBER, 0, 1),
    "frequency_penalty": FieldRule(NUMBER, 0, 1),
    "tools": FieldRule((list,)),
    **unchecked_fields(
        "citation_options documents logprobs priority response_format safety_mode strict_tools thinking tool_choice"
    ),
}
SAMPLING: Final = {
    **{name: name for name in ("temperature", "seed", "presence_penalty", "frequency_penalty")},
    "p": "top_p",
    "k": "top_k",
}
TOOL_CHOICES: Final = {"REQUIRED": "required", "NONE": "none"}
THINKING_TOKENS: Final = 48
"""Approximate tokens of thinking of a reasoning model."""
FINISH_REASONS: Final = {
    "stop": "COMPLETE",
    "stop_sequence": "STOP_SEQUENCE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
}
ERRORS: Final[Mapping[SimErrorKind, tuple[int, str]]] = {
    "invalid": (400, "invalid request"),
    "auth": (401, "invalid api token"),
    "forbidden": (403, "forbidden"),
    "not_found": (404, "404 page not found"),
    "too_large": (413, "request entity too large"),
    "rate_limited": (429, "You are using a Trial key, which is limited to 20 API calls / minute."),
    "quota": (402, "Please add or update your payment method at https://dashboard.cohere.com/billing to continue"),
    "server": (500, "internal server error"),
    "overloaded": (503, "service unavailable"),
}
"""Status and message of each kind of error."""


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match the chat and the list of models."""
    match http_request.method, http_request.subpath:
        case "POST", "/v2/chat":
            return SimRoute()
        case "GET", "/v1/models":
            return SimRoute(action="models")
        case _:
            return None


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check the bearer token."""
    token = bearer_token(http_request.headers)
    return None if token == key else SimError(kind="auth", message="" if token else "no api key supplied")


def parse_request(payload: Payload, _route: SimRoute) -> SimRequest | SimError:
    """Parse the body of a chat."""
    violation = find_violation(payload, FIELDS)
    if violation is not None:
        return SimError(kind="invalid", message=_violation_message(violation))
    model, thinking = as_text(payload["model"]), as_mapping(payload.get("thinking"))
    choice = as_text(payload.get("tool_choice"))
    tools = declared_tools(payload.get("tools")) if choice != "NONE" else ()
    response_format = as_mapping(payload.get("response_format"))
    schema = response_format.get("json_schema", {"type": "object"} if response_format else None)
    budget = as_integer(thinking.get("token_budget"))
    reasons = "reasoning" in model and thinking.get("type") != "disabled"
    return SimRequest(
        model=model,
        messages=tuple(
            SimMessage(as_text(message.get("role")), _text(message.get("content")))
            for message in iter_objects(payload["messages"])
        ),
        stream=payload.get("stream") is True,
        max_tokens=as_integer(payload.get("max_tokens")),
        stop=as_texts(payload.get("stop_sequences")),
        tools=offer_tools(tools, TOOL_CHOICES.get(choice, "auto")),
        schema=schema,
        sampling=rename_set_fields(payload, SAMPLING),
        reasoning_tokens=(THINKING_TOKENS if budget is None else budget) if reasons else 0,
    )


def _text(content: object) -> str:
    """Return the text of a content: a string, or the texts of its blocks."""
    if isinstance(content, str):
        return content
    return "".join(as_text(block.get("text")) for block in iter_objects(content))


def _violation_message(violation: RuleViolation) -> str:
    match violation.kind:
        case "missing" | "low" if violation.name in {"model", "messages"}:
            return f"invalid request: {violation.name} is required"
        case "unknown":
            return f"unknown field: parameter '{violation.name}' is not a valid field"
        case _:
            return f"invalid request: invalid value for parameter '{violation.name}'"


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response that is not streamed."""
    message: dict[str, Any] = {"role": "assistant"}
    content = _content(response)
    if content:
        message["content"] = content
    if response.choices[0].tool_calls:
        message["tool_calls"] = _tool_calls(response)
    return {"id": _id(response), "message": message, **_final_fields(response)}


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as events: the content block by block, tool calls, then the counts."""
    empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    yield _event("message-start", {"id": _id(response), "delta": {"message": empty}})
    for index, block in enumerate(_content(response)):
        kind = block["type"]
        name = "thinking" if kind == "thinking" else "text"
        start = {"message": {"content": {"type": kind, name: ""}}}
        yield _event("content-start", {"index": index, "delta": start})
        for piece in split_words(block[name], 1):
            yield _event("content-delta", {"index": index, "delta": {"message": {"content": {name: piece}}}})
        yield _event("content-end", {"index": index})
    for index, call in enumerate(_tool_calls(response)):
        arguments = call["function"]["arguments"]
        begun = {**call, "function": {**call["function"], "arguments": ""}}
        yield _event("tool-call-start", {"index": index, "delta": {"message": {"tool_calls": begun}}})
        for piece in split_words(arguments, 1):
            delta = {"message": {"tool_calls": {"function": {"arguments": piece}}}}
            yield _event("tool-call-delta", {"index": index, "delta": delta})
        yield _event("tool-call-end", {"index": index})
    yield _event("message-end", {"delta": _final_fields(response)})
    yield b"data: [DONE]\n\n"


def _event(name: str, fields: Payload) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode_json({"type": name, **fields}))


def _id(response: SimResponse) -> str:
    digits = response.id_digits
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


def _content(response: SimResponse) -> list[dict[str, str]]:
    """Return the blocks of the content: thinking, with four characters a token, and text."""
    thinking = "Hmm " * response.reasoning_tokens
    text = response.choices[0].text
    blocks = [{"type": "thinking", "thinking": thinking}] if thinking else []
    return [*blocks, *([{"type": "text", "text": text}] if text or not response.choices[0].tool_calls else [])]


def _tool_calls(response: SimResponse) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{call.name}_{response.id_digits[:10]}{position:02}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for position, call in enumerate(response.choices[0].tool_calls)
    ]


def _final_fields(response: SimResponse) -> Payload:
    """Return the finish reason and the counts; what is read is more than what is billed."""
    billed = {"input_tokens": response.input_tokens, "output_tokens": response.output_tokens}
    read = {"input_tokens": response.input_tokens + 500, "output_tokens": response.output_tokens + 2}
    reason = FINISH_REASONS[response.choices[0].finish_reason]
    return {"finish_reason": reason, "usage": {"billed_units": billed, "tokens": read}}


def encode_error(error: SimError, request_id: str) -> HttpReply:
    """Encode an error, which is a bare message."""
    body = {"id": request_id, "message": _message(error)}
    return HttpReply(ERRORS[error.kind][0], {**JSON_HEADERS, **retry_headers(error)}, encode_json(body))


def encode_stream_error(error: SimError, _request_id: str) -> bytes:
    """Encode an error as the last event."""
    return _event("message-end", {"delta": {"finish_reason": "ERROR", "error": _message(error)}})


def _message(error: SimError) -> str:
    if error.kind == "not_found" and error.model:
        return f"model '{error.model}' not found, make sure the correct model ID was used and that you have access"
    return error.message or ERRORS[error.kind][1]


def encode_model_list(models: Sequence[str]) -> Payload:
    """Encode the list of models."""
    return {"models": [{"name": model, "endpoints": ["chat"], "context_length": 256_000} for model in models]}


COHERE: Final = FakeProvider(
    name="cohere-native",
    prefix="/cohere-native",
    models=("command-a-03-2025", "command-a-reasoning-08-2025", "command-r7b-12-2024"),
    match_route=match_route,
    check_credentials=check_credentials,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    encode_stream_error=encode_stream_error,
    malformed_event=b'event: content-delta\ndata: {"type":"content-delta","ind\n\n',
    encode_model_list=encode_model_list,
    limit_headers=no_limit_headers,
    format_request_id=lambda digits: digits,
    request_id_header="x-debug-trace-id",
    stream_content_type="text/event-stream",
)
