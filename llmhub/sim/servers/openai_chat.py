"""The other side of OpenAI Chat Completions, and of servers compatible with it.

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
    """Models that reason: whether they do so unasked, and whether they can be told not to."""

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
"""Part of a model's name that says it never reasons, whatever its family."""


EFFORT_TOKENS: Final = {"none": 0, "minimal": 8, "low": 32, "medium": 96, "high": 256, "xhigh": 512, "max": 1024}


REASONING_FIXED_VALUES: Final = {"temperature": 1, "top_p": 1}
"""Parameters that reasoning takes only at these values."""


REASONING_UNSUPPORTED: Final = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "top_logprobs": 0,
    "stop": [],
}
"""Parameters that reasoning does not take at all, save where they say nothing."""


SNAPSHOTS: Final = {
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
}


FINISH_REASONS: Final = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "tool_calls"}


ARGUMENT_PIECE_CHARACTERS: Final = 4
"""Of arguments, in one piece of a stream."""


def match_route(incoming: SimHttpRequest) -> SimRoute | None:
    """Find ``chat/completions`` and ``models`` after the base URL."""
    match incoming.method, incoming.subpath:
        case "POST", "/chat/completions":
            return SimRoute()
        case "GET", "/models":
            return SimRoute(action="models")
        case _:
            return None


def check_credentials(incoming: SimHttpRequest, key: str) -> SimError | None:
    """Check the bearer token."""
    given = bearer_token(incoming.headers)
    if given == key:
        return None
    if given:
        return SimError(kind="auth")
    return SimError(
        kind="auth",
        code="",
        message="You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    )


def parse_request(payload: Payload, call: SimRoute) -> SimRequest | SimError:
    """Read a Chat Completions body as OpenAI does: what it does not know, it refuses."""
    unknown = next((name for name in payload if name not in FIELDS), "")
    if unknown:
        return _unrecognized_argument(unknown)
    question = parse_compatible_request(payload, call)
    if isinstance(question, SimError):
        return question
    if "function" in as_mapping(payload.get("tool_choice")):
        # As recorded: the end of a call that was asked for by name is told as that of a text.
        question = replace(question, tools=replace(question.tools, finish_as_stop=True))
    family = next((each for each in REASONING_FAMILIES if each.pattern.match(question.model)), None)
    return (
        question
        if family is None or NON_REASONING_MARKER in question.model
        else _check_reasoning_rules(payload, question, family)
    )


def parse_compatible_request(payload: Payload, call: SimRoute) -> SimRequest | SimError:
    """Read a Chat Completions body as compatible servers do: they pass over what they do not know."""
    body = {**payload, "model": payload.get("model") or call.model}
    wrong = find_violation({name: value for name, value in body.items() if name in FIELDS}, FIELDS)
    if wrong is not None:
        return _violation_message(wrong)
    turns: list[SimMessage] = []
    for at, message in enumerate(iter_objects(body["messages"])):
        turn = _parse_message(message, at)
        if isinstance(turn, SimError):
            return turn
        turns.append(turn)
    most = as_integer(body.get("max_completion_tokens"))
    return SimRequest(
        model=as_text(body["model"]),
        messages=tuple(turns),
        stream=body.get("stream") is True,
        include_usage=as_mapping(body.get("stream_options")).get("include_usage") is True,
        max_tokens=as_integer(body.get("max_tokens")) if most is None else most,
        stop=as_texts(body.get("stop")),
        n=as_integer(body.get("n")) or 1,
        tools=parse_tools(body),
        schema=_response_schema(as_mapping(body.get("response_format"))),
        sampling=rename_set_fields(body, SAMPLING),
        uses_cache=True,
    )


def parse_tools(body: Mapping[str, object]) -> ToolOffer:
    """Read the tools and the choice among them, as Chat Completions and Responses write it."""
    choice, tools = body.get("tool_choice"), dict(declared_tools(body.get("tools")))
    told = as_mapping(choice)
    among = as_mapping(told.get("allowed_tools")) or told
    if told.get("type") == "allowed_tools":
        allowed = [name for name, _ in declared_tools(among.get("tools"))]
        tools = {name: schema for name, schema in tools.items() if name in allowed}
        choice = among.get("mode")
    named = as_text(choice) or as_text((as_mapping(told.get("function")) or told).get("name")) or "auto"
    return offer_tools(tools.items(), named, parallel=body.get("parallel_tool_calls") is not False)


def _response_schema(wanted: Mapping[str, object]) -> object:
    """Read what the answer has to fit: a schema, or any object."""
    match wanted.get("type"):
        case "json_schema":
            return as_mapping(wanted.get("json_schema")).get("schema")
        case "json_object":
            return {"type": "object"}
        case _:
            return None


def _parse_message(message: Mapping[str, object], at: int) -> SimMessage | SimError:
    """Read one message."""
    role, content = as_text(message.get("role")), message.get("content")
    if role not in ROLES:
        supported = ", ".join(f"'{each}'" for each in ROLES[:-1]) + f", and '{ROLES[-1]}'"
        said = f"Invalid value: '{role}'. Supported values are: {supported}."
        return SimError(kind="invalid", message=said, param=f"messages[{at}].role", code="invalid_value")
    if not isinstance(content, (str, list)) and not (role == "assistant" and content is None):
        said = f"Invalid value for 'content': expected a string, got {_type_name(content)}."
        return SimError(kind="invalid", message=said, param=f"messages.[{at}].content")
    spoken = (
        content if isinstance(content, str) else "".join(as_text(part.get("text")) for part in iter_objects(content))
    )
    return SimMessage({"developer": "system", "function": "tool"}.get(role, role), spoken)


def _check_reasoning_rules(payload: Payload, question: SimRequest, family: SimReasoningFamily) -> SimRequest | SimError:
    """Hold a question against the rules of models that reason."""
    if payload.get("max_tokens") is not None:
        said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return _unsupported_parameter("max_tokens", f"Unsupported parameter: {said}")
    effort = as_text(payload.get("reasoning_effort")) or ("medium" if family.by_default else "none")
    if effort not in EFFORT_TOKENS or (effort == "none" and not family.optional):
        said = f"'reasoning_effort' does not support '{effort}' with this model."
        return _unsupported_parameter("reasoning_effort", f"Unsupported value: {said}", "unsupported_value")
    if effort == "none":
        return question
    for name, value in payload.items():
        if name in REASONING_FIXED_VALUES and value not in {None, REASONING_FIXED_VALUES[name]}:
            said = f"'{name}' does not support {value} with this model. Only the default (1) value is supported."
            return _unsupported_parameter(name, f"Unsupported value: {said}", "unsupported_value")
        if name in REASONING_UNSUPPORTED and value is not None and value != REASONING_UNSUPPORTED[name]:
            return _unsupported_parameter(name, f"Unsupported parameter: '{name}' is not supported with this model.")
    return replace(question, reasoning_tokens=EFFORT_TOKENS[effort])


def _unsupported_parameter(name: str, said: str, code: str = "unsupported_parameter") -> SimError:
    return SimError(kind="invalid", message=said, param=name, code=code)


def _unrecognized_argument(name: str) -> SimError:
    return SimError(kind="invalid", message=f"Unrecognized request argument supplied: {name}")


def _violation_message(wrong: RuleViolation) -> SimError:
    """Say what is wrong with a body in OpenAI's words."""
    name, value, rule = wrong.name, wrong.value, wrong.rule
    kind = _type_name(value)
    few = f"Expected an array with maximum length {rule.maximum:g}, but got an array with length"
    match wrong.kind:
        case "missing" | "low" if name == "model":
            return SimError(kind="invalid", message="you must provide a model parameter")
        case "missing":
            said, code = f"Missing required parameter: '{name}'.", "missing_required_parameter"
        case "unknown":
            return _unrecognized_argument(name)
        case "kind":
            wanted = TYPE_NAMES[rule.types[-1]]
            said, code = (
                f"Invalid type for '{name}': expected {_with_article(wanted)}, but got {_with_article(kind)} instead.",
                "invalid_type",
            )
        case "low" if isinstance(value, list):
            said = "array too short. Expected an array with minimum length 1, but got an empty array instead."
            said, code = f"Invalid '{name}': {said}", "empty_array"
        case "low":
            said = f"{kind} below minimum value. Expected a value >= {rule.minimum:g}, but got {value} instead."
            said, code = f"Invalid '{name}': {said}", f"{kind}_below_min_value"
        case "high" if isinstance(value, list):
            said, code = f"Invalid '{name}': array too long. {few} {len(value)} instead.", "array_above_max_length"
        case "high":
            said = f"{kind} above maximum value. Expected a value <= {rule.maximum:g}, but got {value} instead."
            said, code = f"Invalid '{name}': {said}", f"{kind}_above_max_value"
    return SimError(kind="invalid", message=said, param=name, code=code)


def _type_name(value: object) -> str:
    return TYPE_NAMES.get(type(value), "null")


def _with_article(kind: str) -> str:
    return kind if kind == "null" else f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


def encode_reply(answer: SimResponse) -> Payload:
    """Write an answer as a ``chat.completion``."""
    return {
        **_chunk_head(answer, "chat.completion"),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", **_message_content(answer, index), "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": _finish_reason(answer, choice),
            }
            for index, choice in enumerate(answer.choices)
        ],
        "usage": _usage_payload(answer),
    }


def _message_content(answer: SimResponse, index: int) -> Payload:
    """Write what a message says: its text, or the calls without one."""
    choice = answer.choices[index]
    if not choice.tool_calls:
        return {"content": choice.text}
    called = [
        {
            "id": _call_id(answer, index, at),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for at, call in enumerate(choice.tool_calls)
    ]
    return {"content": None, "tool_calls": called}


def _call_id(answer: SimResponse, index: int, at: int) -> str:
    return f"call_{answer.id_digits[:20]}{index:02}{at:02}"


def _finish_reason(answer: SimResponse, choice: SimChoice) -> str:
    return "stop" if choice.tool_calls and answer.request.tools.finish_as_stop else FINISH_REASONS[choice.finish_reason]


def encode_events(answer: SimResponse) -> Iterator[bytes]:
    """Write an answer as chunks, choices interleaved; usage comes last, in a chunk of its own, when asked for."""
    for chunk in encode_chunks(answer):
        yield sse_event(chunk)
    yield b"data: [DONE]\n\n"


def encode_chunks(answer: SimResponse) -> Iterator[Payload]:
    """Give the chunks of a stream."""
    counted = answer.request.include_usage
    head = _chunk_head(answer, "chat.completion.chunk")
    tail: Payload = {"usage": None} if counted else {}

    def chunk(index: int, delta: Payload, finish: str | None = None) -> Payload:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], **tail, "obfuscation": answer.id_digits[: 4 + len(str(delta)) % 16]}

    for index, choice in enumerate(answer.choices):
        yield chunk(index, {"role": "assistant", "content": None if choice.tool_calls else "", "refusal": None})
    for row in zip_longest(*(split_words(choice.text, 1) for choice in answer.choices)):
        for index, piece in enumerate(row):
            if piece is not None:
                yield chunk(index, {"content": piece})
    for index, choice in enumerate(answer.choices):
        for delta in _tool_call_payloads(answer, index):
            yield chunk(index, {"tool_calls": [delta]})
        yield chunk(index, {}, _finish_reason(answer, choice))
    if counted:
        yield {**head, "choices": [], "usage": _usage_payload(answer), "obfuscation": answer.id_digits[:8]}


def _tool_call_payloads(answer: SimResponse, index: int) -> Iterator[Payload]:
    """Give the calls of an answer in pieces: each one's name first, then its arguments bit by bit."""
    for at, call in enumerate(answer.choices[index].tool_calls):
        opening = {"name": call.name, "arguments": ""}
        yield {"index": at, "id": _call_id(answer, index, at), "type": "function", "function": opening}
        for piece in split_characters(call.arguments_json, ARGUMENT_PIECE_CHARACTERS):
            yield {"index": at, "function": {"arguments": piece}}


def _chunk_head(answer: SimResponse, kind: str) -> Payload:
    model = answer.request.model
    return {
        "id": f"chatcmpl-{answer.id_digits[:29]}",
        "object": kind,
        "created": answer.created,
        "model": SNAPSHOTS.get(model, model),
        "service_tier": "default",
        "system_fingerprint": f"fp_{answer.id_digits[-10:]}",
    }


def _usage_payload(answer: SimResponse) -> Payload:
    """Count: what was cached and what was reasoned is included."""
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def encode_model_list(models: Sequence[str]) -> Payload:
    """List models."""
    rows = [{"id": model, "object": "model", "created": 1_735_689_600, "owned_by": "system"} for model in models]
    return {"object": "list", "data": rows}


def format_request_id(digits: str) -> str:
    """Write an id."""
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
