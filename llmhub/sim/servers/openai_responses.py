"""Simulated server of OpenAI Responses, and of Azure's.

Sources: the types of openai 3.54.0; https://platform.openai.com/docs/api-reference/responses and
https://platform.openai.com/docs/api-reference/responses-streaming (read 2026-11-22); error bodies as callers have
reported them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Final

from llmhub.core.types import Payload
from llmhub.sim.servers import azure
from llmhub.sim.servers.fake_provider import FakeProvider, encode_json
from llmhub.sim.servers.openai_chat import (
    ARGUMENT_PIECE_CHARACTERS,
    EFFORT_TOKENS,
    NON_REASONING_MARKER,
    OPENAI,
    REASONING_FAMILIES,
    SNAPSHOTS,
    parse_tools,
)
from llmhub.sim.servers.openai_errors import error_payload
from llmhub.sim.servers.payload_rules import (
    NUMBER,
    FieldRule,
    RuleViolation,
    as_integer,
    as_mapping,
    as_text,
    find_violation,
    iter_objects,
    rename_set_fields,
    split_characters,
    split_words,
    unchecked_fields,
)
from llmhub.sim.types import SimError, SimHttpRequest, SimMessage, SimRequest, SimResponse, SimRoute

FIELDS: Final[Mapping[str, FieldRule]] = {
    "model": FieldRule((str,), 1, required=True),
    "input": FieldRule((str, list), 1, required=True, item_type=dict),
    "instructions": FieldRule((str,)),
    "temperature": FieldRule(NUMBER, 0, 2),
    "top_p": FieldRule(NUMBER, 0, 1),
    "max_output_tokens": FieldRule((int,), 16),
    "top_logprobs": FieldRule((int,), 0, 20),
    "stream": FieldRule((bool,)),
    "store": FieldRule((bool,)),
    "include": FieldRule((list,), item_type=str),
    "reasoning": FieldRule((dict,)),
    "text": FieldRule((dict,)),
    "tools": FieldRule((list,), 0, 128),
    **unchecked_fields(
        "background context_management conversation max_tool_calls metadata moderation parallel_tool_calls "
        "previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier "
        "service_tier stream_options tool_choice truncation user"
    ),
}
SAMPLING: Final = {"temperature": "temperature", "top_p": "top_p", "safety_identifier": "user", "user": "user"}
ROLE_BY_ITEM_TYPE: Final = {"function_call": "assistant", "function_call_output": "tool"}
ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match ``responses``."""
    return SimRoute() if (http_request.method, http_request.subpath) == ("POST", "/responses") else None


def match_azure_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match ``responses`` of the v1 URL, or of a dated version."""
    version = http_request.query_parameters.get("api-version", "")
    dated = http_request.subpath == "/openai/responses" and bool(version)
    is_match = http_request.method == "POST" and (http_request.subpath == "/openai/v1/responses" or dated)
    return SimRoute(version=version) if is_match else None


def parse_request(payload: Payload, _call: SimRoute) -> SimRequest | SimError:
    """Parse a Responses body; unknown fields are an error, as at OpenAI."""
    violation = find_violation(payload, FIELDS)
    if violation is not None:
        return _violation_message(violation)
    input_ = payload["input"]
    items = [{"role": "user", "content": input_}] if isinstance(input_, str) else list(iter_objects(input_))
    messages = [SimMessage("system", as_text(payload["instructions"]))] if payload.get("instructions") else []
    messages += [SimMessage(_item_role(item), _content_text(item)) for item in items if item.get("type") != "reasoning"]
    request = SimRequest(
        model=as_text(payload["model"]),
        messages=tuple(messages),
        stream=payload.get("stream") is True,
        max_tokens=as_integer(payload.get("max_output_tokens")),
        tools=parse_tools(payload),
        schema=_response_schema(as_mapping(as_mapping(payload.get("text")).get("format"))),
        sampling=rename_set_fields(payload, SAMPLING),
        uses_cache=True,
    )
    return _check_reasoning_rules(payload, request)


def _response_schema(text_format: Mapping[str, object]) -> object:
    """Parse the response schema; JSON mode is any object."""
    return text_format.get("schema") or ({"type": "object"} if text_format.get("type") == "json_object" else None)


def _item_role(item: Mapping[str, object]) -> str:
    role = as_text(item.get("role")) or ROLE_BY_ITEM_TYPE.get(as_text(item.get("type")), "assistant")
    return "system" if role == "developer" else role


def _content_text(item: Mapping[str, object]) -> str:
    detail = item.get("content", item.get("output"))
    return detail if isinstance(detail, str) else "".join(as_text(part.get("text")) for part in iter_objects(detail))


NON_REASONING_PREFIXES: Final = ("gpt-3", "gpt-4", "chatgpt")
"""Names of models that do not reason begin so. A name that OpenAI does not have, such as a deployment's, may reason."""


def _check_reasoning_rules(payload: Payload, request: SimRequest) -> SimRequest | SimError:
    """Apply the rules of reasoning models, or of all others, to a request."""
    family = next((family for family in REASONING_FAMILIES if family.pattern.match(request.model)), None)
    reasons = family is not None and NON_REASONING_MARKER not in request.model
    effort = as_text(as_mapping(payload.get("reasoning")).get("effort"))
    if family is None or not reasons:
        refuses = family is not None or request.model.startswith(NON_REASONING_PREFIXES)
        if refuses and ENCRYPTED_REASONING in (payload.get("include") or ()):  # type: ignore[operator] # a list of texts
            return _invalid_request("Encrypted content is not supported with this model.", "include")
        detail = "Unsupported parameter: 'reasoning.effort' is not supported with this model."
        return _invalid_request(detail, "reasoning.effort", "unsupported_parameter") if effort else request
    effort = effort or ("medium" if family.by_default else "none")
    if effort not in EFFORT_TOKENS or (effort == "none" and not family.optional):
        detail = f"Unsupported value: '{effort}' is not supported with the '{request.model}' model."
        return _invalid_request(detail, "reasoning.effort", "unsupported_value")
    steered = next((name for name in ("temperature", "top_p") if payload.get(name) not in {None, 1}), "")
    if steered and effort != "none":
        detail = f"Unsupported parameter: '{steered}' is not supported with this model."
        return _invalid_request(detail, steered, "unsupported_parameter")
    return replace(request, reasoning_tokens=EFFORT_TOKENS[effort])


def _invalid_request(detail: str, name: str, code: str = "") -> SimError:
    return SimError(kind="invalid", message=detail, param=name, code=code)


def _violation_message(violation: RuleViolation) -> SimError:
    """Return OpenAI's error about a violation."""
    name, value, rule = violation.name, violation.value, violation.rule
    match violation.kind:
        case "missing":
            return _invalid_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        case "unknown":
            return _invalid_request(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        case "kind":
            return _invalid_request(f"Invalid type for '{name}'.", name, "invalid_type")
        case _:
            low = violation.kind == "low"
            bound = f">= {rule.minimum:g}" if low else f"<= {rule.maximum:g}"
            detail = f"Invalid '{name}': integer {'below minimum' if low else 'above maximum'} value. Expected a value "
            code = f"integer_{'below_min' if low else 'above_max'}_value"
            return _invalid_request(f"{detail}{bound}, but got {value} instead.", name, code)


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response as a ``response`` object."""
    return _response_payload(response, _output_items(response))


def _response_payload(response: SimResponse, output: list[Payload], *, ended: bool = True) -> Payload:
    """Return the ``response`` object with the given output."""
    request, cut = response.request, response.choices[0].finish_reason == "length"
    return {
        "id": f"resp_{response.id_digits}",
        "object": "response",
        "created_at": response.created,
        "status": "in_progress" if not ended else "incomplete" if cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if ended and cut else None,
        "instructions": None,
        "max_output_tokens": request.max_tokens,
        "model": SNAPSHOTS.get(request.model, request.model),
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _usage_payload(response) if ended else None,
        "user": None,
        "metadata": {},
    }


def _output_items(response: SimResponse) -> list[Payload]:
    """Encode the output items: encrypted reasoning, and the message or the tool calls."""
    calls: list[Payload] = [
        {
            "id": f"fc_{response.id_digits}{position:02}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{response.id_digits[:22]}{position:02}",
            "name": call.name,
            "arguments": call.arguments_json,
        }
        for position, call in enumerate(response.choices[0].tool_calls)
    ]
    if calls:
        return [*_reasoning_items(response), *calls]
    message = {**_opened_item(response), "status": "completed", "content": [_text_part(response.choices[0].text)]}
    return [*_reasoning_items(response), message] if response.choices[0].text else _reasoning_items(response)


def _reasoning_items(response: SimResponse) -> list[Payload]:
    item: Payload = {
        "id": f"rs_{response.id_digits}",
        "type": "reasoning",
        "summary": [],
        "encrypted_content": f"sim:{response.id_digits}",
    }
    return [item] if response.reasoning_tokens else []


def _opened_item(response: SimResponse) -> Payload:
    return {
        "id": f"msg_{response.id_digits}",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _text_part(detail: str) -> Payload:
    return {"type": "output_text", "text": detail, "annotations": [], "logprobs": []}


def _usage_payload(response: SimResponse) -> Payload:
    """Encode token counts; cached tokens and reasoning are included."""
    return {
        "input_tokens": response.input_tokens,
        "input_tokens_details": {"cached_tokens": response.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": response.output_tokens,
        "output_tokens_details": {"reasoning_tokens": response.reasoning_tokens},
        "total_tokens": response.input_tokens + response.output_tokens,
    }


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as typed, numbered events."""
    numbers = count()
    for kind, detail in _event_payloads(response):
        yield encode_event(kind, {**detail, "sequence_number": next(numbers)})


def _event_payloads(response: SimResponse) -> Iterator[tuple[str, Payload]]:
    """Yield the types and the data of the events."""
    opening = _response_payload(response, [], ended=False)
    yield "response.created", {"response": opening}
    yield "response.in_progress", {"response": opening}
    output = _output_items(response)
    for index, item in enumerate(output):
        if item["type"] == "reasoning":
            yield "response.output_item.added", {"output_index": index, "item": {**item, "encrypted_content": ""}}
        elif item["type"] == "function_call":
            yield from _tool_call_events(index, item)
        else:
            yield "response.output_item.added", {"output_index": index, "item": _opened_item(response)}
            place = {"output_index": index, "content_index": 0, "item_id": item["id"]}
            yield "response.content_part.added", {**place, "part": _text_part("")}
            detail = response.choices[0].text
            for piece in split_words(detail, 1):
                yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**place, "text": detail, "logprobs": []}
            yield "response.content_part.done", {**place, "part": _text_part(detail)}
        yield "response.output_item.done", {"output_index": index, "item": item}
    ended = _response_payload(response, output)
    yield f"response.{ended['status']}", {"response": ended}


def _tool_call_events(index: int, item: Payload) -> Iterator[tuple[str, Payload]]:
    """Yield the events of a tool call: its name, then its arguments in pieces."""
    place, detail = {"output_index": index, "item_id": item["id"]}, as_text(item["arguments"])
    opening = {**item, "status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": index, "item": opening}
    for piece in split_characters(detail, ARGUMENT_PIECE_CHARACTERS):
        yield "response.function_call_arguments.delta", {**place, "delta": piece}
    yield "response.function_call_arguments.done", {**place, "arguments": detail, "name": item["name"]}


def encode_event(kind: str, data: Payload) -> bytes:
    """Encode one event; its data repeats the name."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode_json({"type": kind, **data}))


def encode_stream_error(error: SimError, _request_id: str) -> bytes:
    """Encode an error as an event."""
    detail = as_mapping(error_payload(error)["error"])
    whole_of_it = {"code": detail["code"] or detail["type"], "message": detail["message"], "param": detail["param"]}
    return encode_event("error", {**whole_of_it, "sequence_number": 0})


MALFORMED_EVENT: Final = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","output_index":0,"del\n\n'
)
RESPONSES: Final[FakeProvider] = replace(
    OPENAI,
    name="openai-responses",
    path_suffix="/responses",
    match_route=match_route,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_stream_error=encode_stream_error,
    malformed_event=MALFORMED_EVENT,
)
AZURE_RESPONSES: Final[FakeProvider] = replace(
    azure.AZURE,
    name="azure-responses",
    path_suffix="/responses",
    match_route=match_azure_route,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_stream_error=encode_stream_error,
    malformed_event=MALFORMED_EVENT,
)
