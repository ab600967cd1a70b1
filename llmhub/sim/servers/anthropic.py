"""Simulated server of Anthropic Messages, in both versions of the API.

Version 2026-10-21 rejects sampling parameters, documents in assistant messages and citations on text of user messages,
and accepts ``system`` messages.

Sources: the types of anthropic 0.125.0 and 2.12.0; https://docs.anthropic.com/en/api/messages,
https://docs.anthropic.com/en/api/errors and https://docs.anthropic.com/en/api/rate-limits (read 2026-11-22);
error bodies as callers have reported them. The messages about documents and citations
are not sourced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.limits import LimitMeter, LimitStatus
from llmhub.sim.servers.fake_provider import JSON_HEADERS, FakeProvider, bearer_token, encode_json
from llmhub.sim.servers.payload_rules import (
    NUMBER,
    FieldRule,
    RuleViolation,
    as_integer,
    as_mapping,
    as_text,
    as_texts,
    find_violation,
    iter_objects,
    rename_set_fields,
    split_characters,
    split_words,
    unchecked_fields,
)
from llmhub.sim.tool_calls import offer_tools
from llmhub.sim.types import (
    SimError,
    SimErrorKind,
    SimHttpRequest,
    SimMessage,
    SimRequest,
    SimResponse,
    SimRoute,
    ToolOffer,
)

CLASSIC: Final = "2023-06-01"
CURRENT: Final = "2026-10-21"
SAMPLING_RULES: Final[Mapping[str, FieldRule]] = {
    "temperature": FieldRule(NUMBER, 0, 1),
    "top_p": FieldRule(NUMBER, 0, 1),
    "top_k": FieldRule((int,), 0),
}
KNOWN_FIELDS: Final[Mapping[str, FieldRule]] = {
    "model": FieldRule((str,), 1, required=True),
    "messages": FieldRule((list,), 1, required=True, item_type=dict),
    "max_tokens": FieldRule((int,), 0, required=True),
    "system": FieldRule((str, list)),
    "stop_sequences": FieldRule((list,), item_type=str),
    "stream": FieldRule((bool,)),
    "metadata": FieldRule((dict,)),
    "tools": FieldRule((list,)),
    **unchecked_fields(
        "cache_control container context_management diagnostics inference_geo mcp_servers output_config service_tier "
        "speed thinking tool_choice user_profile_id workspace_id"
    ),
}
FIELDS: Final = {CLASSIC: {**KNOWN_FIELDS, **SAMPLING_RULES}, CURRENT: dict(KNOWN_FIELDS)}
"""Fields of a body, by version of the API."""
ROLES: Final = {CLASSIC: ("user", "assistant"), CURRENT: ("user", "assistant", "system")}
BLOCKS: Final = unchecked_fields(
    "text image document tool_use tool_result thinking redacted_thinking search_result server_tool_use mcp_tool_use "
    "container_upload"
)
SAMPLING: Final = {name: name for name in SAMPLING_RULES}
TYPE_NAMES: Final = {str: "string", int: "integer", float: "number", bool: "boolean", list: "list", dict: "dictionary"}
NO_SAMPLING_MODELS: Final = re.compile(r"claude-(opus-4-[78]|opus-5|sonnet-5|fable-5|mythos-5|haiku-5)")
"""Models that reject sampling parameters in every version of the API."""
TEMPERATURE_XOR_TOP_P_MODELS: Final = re.compile(r"claude-(opus-4-[156]|sonnet-4-[56]|haiku-4-5)")
"""Models that accept temperature or top_p, but not both."""
SNAPSHOTS: Final = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
FINISH_REASONS: Final = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
TOOL_CHOICES: Final = {"any": "required", "auto": "auto", "none": "none"}
ERRORS: Final[Mapping[SimErrorKind, tuple[int, str, str]]] = {
    "invalid": (400, "invalid_request_error", "Invalid request."),
    "auth": (401, "authentication_error", "invalid x-api-key"),
    "forbidden": (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    "not_found": (404, "not_found_error", "Not found"),
    "too_large": (413, "request_too_large", "Request exceeds the maximum size"),
    "rate_limited": (429, "rate_limit_error", ""),
    "quota": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
    ),
    "server": (500, "api_error", "Internal server error"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}
"""Status, type and message of each kind of error."""
RETRYABLE_ERRORS: Final = frozenset({"rate_limited", "server", "overloaded"})
"""Kinds that ``x-should-retry`` marks as retryable."""


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match ``/v1/messages`` and ``/v1/models``; read the version of the API from its header."""
    version = http_request.headers.get("anthropic-version", "")
    match http_request.method, http_request.subpath:
        case "POST", "/v1/messages":
            return SimRoute(version=version)
        case "GET", "/v1/models":
            return SimRoute(action="models", version=version)
        case _:
            return None


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check ``x-api-key``, which takes precedence over a bearer token."""
    credential = http_request.headers.get("x-api-key") or bearer_token(http_request.headers)
    if credential == key:
        return None
    return SimError(kind="auth", message="" if credential else "x-api-key header is required")


def parse_request(payload: Payload, route: SimRoute) -> SimRequest | SimError:
    """Parse a Messages body by the rules of the requested version of the API."""
    if route.version not in FIELDS:
        detail = f'"{route.version}" is not a valid version' if route.version else "header is required"
        return _invalid_request(f"anthropic-version: {detail}")
    violation = find_violation(payload, FIELDS[route.version])
    if violation is not None:
        return _invalid_request(_violation_message(violation))
    model, sampling = as_text(payload["model"]), rename_set_fields(payload, SAMPLING)
    refused = sampling_error(model, sampling)
    if refused:
        return _invalid_request(refused)
    messages: list[SimMessage] = []
    if payload.get("system"):
        messages.append(SimMessage("system", _content_text(payload["system"])))
    for position, message in enumerate(iter_objects(payload["messages"])):
        parsed = _parse_message(message, position, route.version)
        if isinstance(parsed, SimError):
            return parsed
        messages.append(parsed)
    user = as_text(as_mapping(payload.get("metadata")).get("user_id"))
    return SimRequest(
        model=model,
        messages=tuple(messages),
        stream=payload.get("stream") is True,
        max_tokens=as_integer(payload["max_tokens"]),
        stop=as_texts(payload.get("stop_sequences")),
        tools=_parse_tools(payload),
        schema=as_mapping(as_mapping(payload.get("output_config")).get("format")).get("schema"),
        sampling={**sampling, "user": user} if user else sampling,
        uses_cache=_uses_cache(payload),
    )


def sampling_error(model: str, sampling: Mapping[str, object]) -> str:
    """Return the error about a sampling parameter that a Claude model rejects, or an empty string.

    Examples
    --------
    >>> sampling_error("claude-opus-5", {"temperature": 1.0})
    '`temperature` is deprecated for this model.'
    """
    parameter = next((name for name in SAMPLING_RULES if name in sampling), "")
    if parameter and NO_SAMPLING_MODELS.search(model):
        return f"`{parameter}` is deprecated for this model."
    if "temperature" in sampling and "top_p" in sampling and TEMPERATURE_XOR_TOP_P_MODELS.search(model):
        return "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    return ""


def _parse_message(message: Mapping[str, object], position: int, version: str) -> SimMessage | SimError:
    """Parse one message."""
    role, content = message.get("role"), message.get("content")
    extra = next((name for name in message if name not in {"role", "content"}), "")
    if extra:
        return _invalid_request(f"messages.{position}.{extra}: Extra inputs are not permitted")
    if role not in ROLES[version]:
        if role == "system":
            return _invalid_request(
                'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not '
                '"system" as an input message role.'
            )
        return _invalid_request(f"messages.{position}.role: Input should be 'user' or 'assistant'")
    if not isinstance(content, (str, list)):
        description = "Field required" if content is None else "Input should be a valid list"
        return _invalid_request(f"messages.{position}.content: {description}")
    blocks: list[dict[str, object]] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else list(iter_objects(content))
    )
    for index, block in enumerate(blocks):
        problem = _block_error(block, str(role), version)
        if problem:
            return _invalid_request(
                f"messages.{position}.content.{index}.{problem}" if problem[0] != "!" else problem[1:]
            )
    answers = any(block.get("type") == "tool_result" for block in blocks)
    return SimMessage("tool" if answers else str(role), _content_text(content))


def _parse_tools(payload: Payload) -> ToolOffer:
    """Parse the client tools and the tool choice."""
    choice = as_mapping(payload.get("tool_choice"))
    tools = [
        (as_text(tool.get("name")), tool["input_schema"])
        for tool in iter_objects(payload.get("tools"))
        if "input_schema" in tool
    ]
    named = TOOL_CHOICES.get(as_text(choice.get("type")), as_text(choice.get("name"))) if choice else "auto"
    return offer_tools(tools, named, parallel=choice.get("disable_parallel_tool_use") is not True)


def _block_error(block: Mapping[str, object], role: str, version: str) -> str:
    """Return the error about a block, relative to its path, or after ``!`` without a path; empty if it is valid."""
    kind = as_text(block.get("type"))
    if kind not in BLOCKS and not kind.endswith("_tool_result"):
        return f"type: Input tag '{kind}' found using 'type' does not match any of the expected tags"
    if kind == "text" and not block.get("text"):
        return "!messages: text content blocks must be non-empty"
    if version == CURRENT and kind == "document" and role == "assistant":
        return "document: Document blocks are not permitted in assistant messages"
    if version == CURRENT and kind == "text" and role == "user" and block.get("citations"):
        return "text.citations: Extra inputs are not permitted"
    return ""


def _content_text(content: object) -> str:
    """Return the text of a content, tool results included."""
    if isinstance(content, str):
        return content
    return "".join(
        as_text(block.get("text")) or _content_text(block.get("content") or "") for block in iter_objects(content)
    )


def _uses_cache(payload: Mapping[str, object]) -> bool:
    """Return whether any part of a body is marked for caching."""
    places = [payload, *iter_objects(payload.get("system")), *iter_objects(payload.get("tools"))]
    for message in iter_objects(payload["messages"]):
        places.extend(iter_objects(message.get("content")))
    return any(place.get("cache_control") for place in places)


def _violation_message(violation: RuleViolation) -> str:
    """Return Anthropic's message about a violation."""
    rule, value = violation.rule, violation.value
    match violation.kind:
        case "missing":
            description = "Field required"
        case "unknown":
            description = "Extra inputs are not permitted"
        case "kind":
            description = f"Input should be a valid {TYPE_NAMES[rule.types[-1]]}"
        case "low" | "high" if violation.name in SAMPLING_RULES and rule.maximum == 1:
            description = f"range: {rule.minimum:g}..{rule.maximum:g}"
        case "low" if isinstance(value, list):
            description = "at least one message is required"
        case "low" if isinstance(value, str):
            description = f"String should have at least {rule.minimum:g} character"
        case "low":
            description = f"Input should be greater than or equal to {rule.minimum:g}"
        case "high":
            description = f"Input should be less than or equal to {rule.maximum:g}"
    return f"{violation.name.replace('[', '.').rstrip(']')}: {description}"


def _invalid_request(message: str) -> SimError:
    return SimError(kind="invalid", message=message)


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response as a message."""
    choice = response.choices[0]
    return {
        **_message_head(response),
        "content": _content_blocks(response),
        "stop_reason": FINISH_REASONS[choice.finish_reason],
        "stop_sequence": choice.stopped_by or None,
        "stop_details": None,
        "usage": {**_usage_payload(response), "service_tier": "standard", "inference_geo": "global"},
    }


def _content_blocks(response: SimResponse) -> list[Payload]:
    """Encode the text, or the tool calls."""
    choice = response.choices[0]
    text: list[Payload] = [{"type": "text", "text": choice.text}] if choice.text else []
    return text + [
        {
            "type": "tool_use",
            "id": f"toolu_01{response.id_digits[:20]}{position:02}",
            "name": call.name,
            "input": call.arguments,
        }
        for position, call in enumerate(choice.tool_calls)
    ]


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as events; usage is sent at the start, and completely at the end."""
    choice, usage = response.choices[0], _usage_payload(response)
    start = {**usage, "output_tokens": min(1, response.output_tokens), "service_tier": "standard"}
    opening = {**_message_head(response), "content": [], "stop_reason": None, "stop_sequence": None, "usage": start}
    yield encode_event("message_start", {"message": opening})
    for index, block in enumerate(_content_blocks(response)):
        emptied = {**block, "input": {}} if block["type"] == "tool_use" else {**block, "text": ""}
        yield encode_event("content_block_start", {"index": index, "content_block": emptied})
        if index == 0:
            yield encode_event("ping", {})
        for delta in _deltas(choice.text, block):
            yield encode_event("content_block_delta", {"index": index, "delta": delta})
        yield encode_event("content_block_stop", {"index": index})
    ending = {
        "stop_reason": FINISH_REASONS[choice.finish_reason],
        "stop_sequence": choice.stopped_by or None,
        "stop_details": None,
    }
    yield encode_event("message_delta", {"delta": ending, "usage": {**usage, "output_tokens": response.output_tokens}})
    yield encode_event("message_stop", {})


def _deltas(detail: str, block: Payload) -> Iterator[Payload]:
    """Yield the deltas of a block; arguments begin with an empty delta."""
    if block["type"] == "text":
        for piece in split_words(detail, 4):
            yield {"type": "text_delta", "text": piece}
        return
    for piece in ("", *split_characters(encode_json(block["input"]).decode(), 6)):
        yield {"type": "input_json_delta", "partial_json": piece}


def encode_event(kind: str, data: Payload) -> bytes:
    """Encode one event; its data repeats the name."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode_json({"type": kind, **data}))


def _message_head(response: SimResponse) -> Payload:
    model = response.request.model
    return {
        "id": f"msg_01{response.id_digits[:22]}",
        "type": "message",
        "role": "assistant",
        "model": SNAPSHOTS.get(model, model),
    }


def _usage_payload(response: SimResponse) -> Payload:
    """Encode token counts; cached tokens are not part of the input."""
    return {
        "input_tokens": response.input_tokens - response.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": response.cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": response.output_tokens,
    }


def encode_error(error: SimError, request_id: str) -> HttpReply:
    """Encode an error; ``retry-after`` is in whole seconds."""
    headers = {**JSON_HEADERS, "x-should-retry": "true" if error.kind in RETRYABLE_ERRORS else "false"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return HttpReply(ERRORS[error.kind][0], headers, encode_json(_error_payload(error, request_id)))


def encode_stream_error(error: SimError, request_id: str) -> bytes:
    """Encode an error as an event."""
    return encode_event("error", _error_payload(error, request_id))


def _error_payload(error: SimError, request_id: str) -> Payload:
    _, kind, message = ERRORS[error.kind]
    if error.kind == "not_found" and error.model:
        message = f"model: {error.model}"
    text = error.message or message or _rate_limit_message(error)
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id}


def _rate_limit_message(error: SimError) -> str:
    scope = {"requests": "requests per minute", "tokens": "input tokens per minute"}[error.scope]
    return (
        f"This request would exceed your organization's rate limit of {error.limit:,} {scope} (org: sim, model: "
        f"{error.model}). For details, refer to: https://docs.claude.com/en/api/rate-limits. You can see the "
        "response headers for current usage. Please reduce the prompt length or the maximum tokens requested, or try "
        "again later."
    )


def limit_headers(status: LimitStatus, now: float) -> dict[str, str]:
    """Return rate limit headers; resets are timestamps in whole seconds."""
    headers: dict[str, str] = {}
    for scopes, meter in ((("requests",), status.requests), (TOKENS, status.tokens)):
        if meter is not None:
            for scope in scopes:
                headers |= _meter_headers(scope, meter, now)
    return headers


TOKENS: Final = ("tokens", "input-tokens", "output-tokens")


def _meter_headers(scope: str, meter: LimitMeter, now: float) -> dict[str, str]:
    position = datetime.fromtimestamp(math.ceil(now + meter.reset_s), UTC)
    return {
        f"anthropic-ratelimit-{scope}-limit": str(meter.limit),
        f"anthropic-ratelimit-{scope}-remaining": str(meter.remaining),
        f"anthropic-ratelimit-{scope}-reset": f"{position:%Y-%m-%dT%H:%M:%SZ}",
    }


def encode_model_list(models: Sequence[str]) -> Payload:
    """Encode the list of models, newest first."""
    born = datetime(2025, 1, 1, tzinfo=UTC)
    rows = [
        {
            "type": "model",
            "id": model,
            "display_name": model.replace("-", " ").title(),
            "created_at": f"{born - timedelta(days=position):%Y-%m-%dT%H:%M:%SZ}",
        }
        for position, model in enumerate(models)
    ]
    return {"data": rows, "has_more": False, "first_id": models[0], "last_id": models[-1]}


def format_request_id(digits: str) -> str:
    """Format a request id."""
    return f"req_01{digits[:22]}"


ANTHROPIC: Final = FakeProvider(
    name="anthropic",
    prefix="/anthropic",
    models=("claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-5"),
    match_route=match_route,
    check_credentials=check_credentials,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    encode_stream_error=encode_stream_error,
    malformed_event=b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"te\n\n',
    encode_model_list=encode_model_list,
    limit_headers=limit_headers,
    format_request_id=format_request_id,
    request_id_header="request-id",
)
