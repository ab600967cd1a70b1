"""Simulated server of OpenAI Chat Completions, and of compatible servers.

Sources: the types of openai 3.54.0; https://platform.openai.com/docs/api-reference/chat,
https://platform.openai.com/docs/guides/reasoning and https://platform.openai.com/docs/guides/error-codes
(read 2026-11-22); error bodies as callers have reported them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final

from llmhub.core.types import Payload
from llmhub.sim.servers.fake_provider import FakeProvider, bearer_token
from llmhub.sim.servers.openai_errors import error_reply, limit_headers, sse_event, stream_error_event
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
    split_characters,
    split_words,
    unchecked_fields,
)
from llmhub.sim.tool_calls import offer_tools
from llmhub.sim.types import (
    SimChoice,
    SimError,
    SimHttpRequest,
    SimMessage,
    SimRequest,
    SimResponse,
    SimRoute,
    ToolOffer,
)

FIELDS: Final[Mapping[str, FieldRule]] = {
    "model": FieldRule((str,), 1, required=True),
    "messages": FieldRule((list,), 1, required=True, item_type=dict),
    "temperature": FieldRule(NUMBER, 0, 2),
    "top_p": FieldRule(NUMBER, 0, 1),
    "max_tokens": FieldRule((int,), 1),
    "max_completion_tokens": FieldRule((int,), 1),
    "presence_penalty": FieldRule(NUMBER, -2, 2),
    "frequency_penalty": FieldRule(NUMBER, -2, 2),
    "n": FieldRule((int,), 1, 128),
    "stop": FieldRule((str, list), 0, 4, item_type=str),
    "seed": FieldRule((int,), -(1 << 63), (1 << 63) - 1),
    "stream": FieldRule((bool,)),
    "stream_options": FieldRule((dict,)),
    "user": FieldRule((str,)),
    "tools": FieldRule((list,), 0, 128),
    "top_logprobs": FieldRule((int,), 0, 20),
    **unchecked_fields(
        "audio function_call functions logit_bias logprobs metadata modalities moderation parallel_tool_calls "
        "prediction prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format "
        "safety_identifier service_tier store tool_choice verbosity web_search_options"
    ),
}
ROLES: Final = ("system", "assistant", "user", "function", "tool", "developer")
SAMPLING: Final = {
    name: name for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "user")
}
TYPE_NAMES: Final = {str: "string", int: "integer", float: "decimal", bool: "boolean", list: "array", dict: "object"}


@dataclass(frozen=True, slots=True)
class SimReasoningFamily:
    """A family of reasoning models: whether they reason by default, and whether reasoning is optional."""

    pattern: re.Pattern[str]
    by_default: bool
    optional: bool


REASONING_FAMILIES: Final = (
    SimReasoningFamily(
        re.compile(r"o\d|gpt-5(\.\d+)?-pro|gpt-5(-|$)|gpt-6-astra|gpt-6\.1-sol"), by_default=True, optional=False
    ),
    SimReasoningFamily(re.compile(r"gpt-5\.[1-4]"), by_default=False, optional=True),
    SimReasoningFamily(re.compile(r"gpt-[56]"), by_default=True, optional=True),
)
NON_REASONING_MARKER: Final = "chat"
"""Part of the name of models that never reason, whatever their family."""
EFFORT_TOKENS: Final = {"none": 0, "minimal": 8, "low": 32, "medium": 96, "high": 256, "xhigh": 512, "max": 1024}
REASONING_FIXED_VALUES: Final = {"temperature": 1, "top_p": 1}
"""Parameters that reasoning models accept only with these values."""
REASONING_UNSUPPORTED: Final = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "top_logprobs": 0,
    "stop": [],
}
"""Parameters that reasoning models reject, unless they have these values."""
SNAPSHOTS: Final = {
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
}
FINISH_REASONS: Final = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "tool_calls"}
ARGUMENT_PIECE_CHARACTERS: Final = 4
"""Characters of arguments per chunk of a stream."""


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match ``chat/completions`` and ``models``."""
    match http_request.method, http_request.subpath:
        case "POST", "/chat/completions":
            return SimRoute()
        case "GET", "/models":
            return SimRoute(action="models")
        case _:
            return None


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check the bearer token."""
    credential = bearer_token(http_request.headers)
    if credential == key:
        return None
    if credential:
        return SimError(kind="auth")
    return SimError(
        kind="auth",
        code="",
        message="You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    )


def parse_request(payload: Payload, route: SimRoute) -> SimRequest | SimError:
    """Parse a Chat Completions body; unknown fields are an error, as at OpenAI."""
    unknown = next((name for name in payload if name not in FIELDS), "")
    if unknown:
        return _unrecognized_argument(unknown)
    request = parse_compatible_request(payload, route)
    if isinstance(request, SimError):
        return request
    if "function" in as_mapping(payload.get("tool_choice")):
        # As recorded: a call that was requested by name has the finish reason of a text.
        request = replace(request, tools=replace(request.tools, finish_as_stop=True))
    family = next((family for family in REASONING_FAMILIES if family.pattern.match(request.model)), None)
    return (
        request
        if family is None or NON_REASONING_MARKER in request.model
        else _check_reasoning_rules(payload, request, family)
    )


def parse_compatible_request(payload: Payload, route: SimRoute) -> SimRequest | SimError:
    """Parse a Chat Completions body; unknown fields are ignored, as by compatible servers."""
    body = {**payload, "model": payload.get("model") or route.model}
    violation = find_violation({name: value for name, value in body.items() if name in FIELDS}, FIELDS)
    if violation is not None:
        return _violation_message(violation)
    messages: list[SimMessage] = []
    for position, message in enumerate(iter_objects(body["messages"])):
        parsed = _parse_message(message, position)
        if isinstance(parsed, SimError):
            return parsed
        messages.append(parsed)
    max_tokens = as_integer(body.get("max_completion_tokens"))
    return SimRequest(
        model=as_text(body["model"]),
        messages=tuple(messages),
        stream=body.get("stream") is True,
        include_usage=as_mapping(body.get("stream_options")).get("include_usage") is True,
        max_tokens=as_integer(body.get("max_tokens")) if max_tokens is None else max_tokens,
        stop=as_texts(body.get("stop")),
        n=as_integer(body.get("n")) or 1,
        tools=parse_tools(body),
        schema=_response_schema(as_mapping(body.get("response_format"))),
        sampling=rename_set_fields(body, SAMPLING),
        uses_cache=True,
    )


def parse_tools(body: Mapping[str, object]) -> ToolOffer:
    """Parse the tools and the tool choice of Chat Completions or Responses."""
    choice, tools = body.get("tool_choice"), dict(declared_tools(body.get("tools")))
    choice_object = as_mapping(choice)
    allowed_tools = as_mapping(choice_object.get("allowed_tools")) or choice_object
    if choice_object.get("type") == "allowed_tools":
        allowed = [name for name, _ in declared_tools(allowed_tools.get("tools"))]
        tools = {name: schema for name, schema in tools.items() if name in allowed}
        choice = allowed_tools.get("mode")
    named = (
        as_text(choice) or as_text((as_mapping(choice_object.get("function")) or choice_object).get("name")) or "auto"
    )
    return offer_tools(tools.items(), named, parallel=body.get("parallel_tool_calls") is not False)


def _response_schema(response_format: Mapping[str, object]) -> object:
    """Parse the response schema; JSON mode is any object."""
    match response_format.get("type"):
        case "json_schema":
            return as_mapping(response_format.get("json_schema")).get("schema")
        case "json_object":
            return {"type": "object"}
        case _:
            return None


def _parse_message(message: Mapping[str, object], position: int) -> SimMessage | SimError:
    """Parse one message."""
    role, content = as_text(message.get("role")), message.get("content")
    if role not in ROLES:
        supported = ", ".join(f"'{family}'" for family in ROLES[:-1]) + f", and '{ROLES[-1]}'"
        detail = f"Invalid value: '{role}'. Supported values are: {supported}."
        return SimError(kind="invalid", message=detail, param=f"messages[{position}].role", code="invalid_value")
    if not isinstance(content, (str, list)) and not (role == "assistant" and content is None):
        detail = f"Invalid value for 'content': expected a string, got {_type_name(content)}."
        return SimError(kind="invalid", message=detail, param=f"messages.[{position}].content")
    text = content if isinstance(content, str) else "".join(as_text(part.get("text")) for part in iter_objects(content))
    return SimMessage({"developer": "system", "function": "tool"}.get(role, role), text)


def _check_reasoning_rules(payload: Payload, request: SimRequest, family: SimReasoningFamily) -> SimRequest | SimError:
    """Apply the rules of reasoning models to a request."""
    if payload.get("max_tokens") is not None:
        detail = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return _unsupported_parameter("max_tokens", f"Unsupported parameter: {detail}")
    effort = as_text(payload.get("reasoning_effort")) or ("medium" if family.by_default else "none")
    if effort not in EFFORT_TOKENS or (effort == "none" and not family.optional):
        detail = f"'reasoning_effort' does not support '{effort}' with this model."
        return _unsupported_parameter("reasoning_effort", f"Unsupported value: {detail}", "unsupported_value")
    if effort == "none":
        return request
    for name, value in payload.items():
        if name in REASONING_FIXED_VALUES and value not in {None, REASONING_FIXED_VALUES[name]}:
            detail = f"'{name}' does not support {value} with this model. Only the default (1) value is supported."
            return _unsupported_parameter(name, f"Unsupported value: {detail}", "unsupported_value")
        if name in REASONING_UNSUPPORTED and value is not None and value != REASONING_UNSUPPORTED[name]:
            return _unsupported_parameter(name, f"Unsupported parameter: '{name}' is not supported with this model.")
    return replace(request, reasoning_tokens=EFFORT_TOKENS[effort])


def _unsupported_parameter(name: str, detail: str, code: str = "unsupported_parameter") -> SimError:
    return SimError(kind="invalid", message=detail, param=name, code=code)


def _unrecognized_argument(name: str) -> SimError:
    return SimError(kind="invalid", message=f"Unrecognized request argument supplied: {name}")


def _violation_message(violation: RuleViolation) -> SimError:
    """Return OpenAI's error about a violation."""
    name, value, rule = violation.name, violation.value, violation.rule
    kind = _type_name(value)
    few = f"Expected an array with maximum length {rule.maximum:g}, but got an array with length"
    match violation.kind:
        case "missing" | "low" if name == "model":
            return SimError(kind="invalid", message="you must provide a model parameter")
        case "missing":
            detail, code = f"Missing required parameter: '{name}'.", "missing_required_parameter"
        case "unknown":
            return _unrecognized_argument(name)
        case "kind":
            wanted = TYPE_NAMES[rule.types[-1]]
            detail, code = (
                f"Invalid type for '{name}': expected {_with_article(wanted)}, but got {_with_article(kind)} instead.",
                "invalid_type",
            )
        case "low" if isinstance(value, list):
            detail = "array too short. Expected an array with minimum length 1, but got an empty array instead."
            detail, code = f"Invalid '{name}': {detail}", "empty_array"
        case "low":
            detail = f"{kind} below minimum value. Expected a value >= {rule.minimum:g}, but got {value} instead."
            detail, code = f"Invalid '{name}': {detail}", f"{kind}_below_min_value"
        case "high" if isinstance(value, list):
            detail, code = f"Invalid '{name}': array too long. {few} {len(value)} instead.", "array_above_max_length"
        case "high":
            detail = f"{kind} above maximum value. Expected a value <= {rule.maximum:g}, but got {value} instead."
            detail, code = f"Invalid '{name}': {detail}", f"{kind}_above_max_value"
    return SimError(kind="invalid", message=detail, param=name, code=code)


def _type_name(value: object) -> str:
    return TYPE_NAMES.get(type(value), "null")


def _with_article(kind: str) -> str:
    return kind if kind == "null" else f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response as a ``chat.completion``."""
    return {
        **_chunk_head(response, "chat.completion"),
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    **_message_content(response, index),
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": _finish_reason(response, choice),
            }
            for index, choice in enumerate(response.choices)
        ],
        "usage": _usage_payload(response),
    }


def _message_content(response: SimResponse, index: int) -> Payload:
    """Encode the text, or the tool calls without a text."""
    choice = response.choices[index]
    if not choice.tool_calls:
        return {"content": choice.text}
    calls = [
        {
            "id": _call_id(response, index, position),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for position, call in enumerate(choice.tool_calls)
    ]
    return {"content": None, "tool_calls": calls}


def _call_id(response: SimResponse, index: int, position: int) -> str:
    return f"call_{response.id_digits[:20]}{index:02}{position:02}"


def _finish_reason(response: SimResponse, choice: SimChoice) -> str:
    return (
        "stop" if choice.tool_calls and response.request.tools.finish_as_stop else FINISH_REASONS[choice.finish_reason]
    )


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as chunks, choices interleaved; usage, if requested, is the last chunk."""
    for chunk in encode_chunks(response):
        yield sse_event(chunk)
    yield b"data: [DONE]\n\n"


def encode_chunks(response: SimResponse) -> Iterator[Payload]:
    """Yield the chunks of a stream."""
    counted = response.request.include_usage
    head = _chunk_head(response, "chat.completion.chunk")
    tail: Payload = {"usage": None} if counted else {}

    def chunk(index: int, delta: Payload, finish: str | None = None) -> Payload:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], **tail, "obfuscation": response.id_digits[: 4 + len(str(delta)) % 16]}

    for index, choice in enumerate(response.choices):
        yield chunk(index, {"role": "assistant", "content": None if choice.tool_calls else "", "refusal": None})
    for row in zip_longest(*(split_words(choice.text, 1) for choice in response.choices)):
        for index, piece in enumerate(row):
            if piece is not None:
                yield chunk(index, {"content": piece})
    for index, choice in enumerate(response.choices):
        for delta in _tool_call_payloads(response, index):
            yield chunk(index, {"tool_calls": [delta]})
        yield chunk(index, {}, _finish_reason(response, choice))
    if counted:
        yield {**head, "choices": [], "usage": _usage_payload(response), "obfuscation": response.id_digits[:8]}


def _tool_call_payloads(response: SimResponse, index: int) -> Iterator[Payload]:
    """Yield the deltas of tool calls: the name of each, then its arguments in pieces."""
    for position, call in enumerate(response.choices[index].tool_calls):
        opening = {"name": call.name, "arguments": ""}
        yield {"index": position, "id": _call_id(response, index, position), "type": "function", "function": opening}
        for piece in split_characters(call.arguments_json, ARGUMENT_PIECE_CHARACTERS):
            yield {"index": position, "function": {"arguments": piece}}


def _chunk_head(response: SimResponse, kind: str) -> Payload:
    model = response.request.model
    return {
        "id": f"chatcmpl-{response.id_digits[:29]}",
        "object": kind,
        "created": response.created,
        "model": SNAPSHOTS.get(model, model),
        "service_tier": "default",
        "system_fingerprint": f"fp_{response.id_digits[-10:]}",
    }


def _usage_payload(response: SimResponse) -> Payload:
    """Encode token counts; cached tokens and reasoning are included."""
    return {
        "prompt_tokens": response.input_tokens,
        "completion_tokens": response.output_tokens,
        "total_tokens": response.input_tokens + response.output_tokens,
        "prompt_tokens_details": {"cached_tokens": response.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": response.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def encode_model_list(models: Sequence[str]) -> Payload:
    """Encode the list of models."""
    rows = [{"id": model, "object": "model", "created": 1_735_689_600, "owned_by": "system"} for model in models]
    return {"object": "list", "data": rows}


def format_request_id(digits: str) -> str:
    """Format a request id."""
    return f"req_{digits}"


MALFORMED_EVENT: Final = (
    b'data: {"id":"chatcmpl-","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"con\n\n'
)
OPENAI: Final = FakeProvider(
    name="openai",
    prefix="/openai/v1",
    models=("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-4.1-mini", "gpt-5-mini"),
    match_route=match_route,
    check_credentials=check_credentials,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=error_reply,
    encode_stream_error=stream_error_event,
    malformed_event=MALFORMED_EVENT,
    encode_model_list=encode_model_list,
    limit_headers=limit_headers,
    format_request_id=format_request_id,
    request_id_header="x-request-id",
)
COMPATIBLE: Final = FakeProvider(
    name="compatible",
    prefix="/compatible/v1",
    models=("llama-3.3-70b-instruct", "qwen3-32b", "gpt-oss-120b"),
    match_route=match_route,
    check_credentials=check_credentials,
    parse_request=parse_compatible_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=error_reply,
    encode_stream_error=stream_error_event,
    malformed_event=MALFORMED_EVENT,
    encode_model_list=encode_model_list,
    limit_headers=limit_headers,
    format_request_id=format_request_id,
    request_id_header="x-request-id",
)
