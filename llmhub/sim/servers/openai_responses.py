"""The other side of OpenAI Responses, and of Azure's.

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


def match_route(incoming: SimHttpRequest) -> SimRoute | None:
    """Find ``responses`` after the base URL."""
    return SimRoute() if (incoming.method, incoming.subpath) == ("POST", "/responses") else None


def match_azure_route(incoming: SimHttpRequest) -> SimRoute | None:
    """Find ``responses`` of the v1 address, or of a dated version."""
    version = incoming.query_parameters.get("api-version", "")
    dated = incoming.subpath == "/openai/responses" and bool(version)
    found = incoming.method == "POST" and (incoming.subpath == "/openai/v1/responses" or dated)
    return SimRoute(version=version) if found else None


def parse_request(payload: Payload, _call: SimRoute) -> SimRequest | SimError:
    """Read a Responses body as OpenAI does: what it does not know, it refuses."""
    wrong = find_violation(payload, FIELDS)
    if wrong is not None:
        return _violation_message(wrong)
    given = payload["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(iter_objects(given))
    turns = [SimMessage("system", as_text(payload["instructions"]))] if payload.get("instructions") else []
    turns += [SimMessage(_item_role(item), _content_text(item)) for item in items if item.get("type") != "reasoning"]
    question = SimRequest(
        model=as_text(payload["model"]),
        messages=tuple(turns),
        stream=payload.get("stream") is True,
        max_tokens=as_integer(payload.get("max_output_tokens")),
        tools=parse_tools(payload),
        schema=_response_schema(as_mapping(as_mapping(payload.get("text")).get("format"))),
        sampling=rename_set_fields(payload, SAMPLING),
        uses_cache=True,
    )
    return _check_reasoning_rules(payload, question)


def _response_schema(wanted: Mapping[str, object]) -> object:
    """Read what the answer has to fit: a schema, or any object."""
    return wanted.get("schema") or ({"type": "object"} if wanted.get("type") == "json_object" else None)


def _item_role(item: Mapping[str, object]) -> str:
    role = as_text(item.get("role")) or ROLE_BY_ITEM_TYPE.get(as_text(item.get("type")), "assistant")
    return "system" if role == "developer" else role


def _content_text(item: Mapping[str, object]) -> str:
    said = item.get("content", item.get("output"))
    return said if isinstance(said, str) else "".join(as_text(part.get("text")) for part in iter_objects(said))


def _check_reasoning_rules(payload: Payload, question: SimRequest) -> SimRequest | SimError:
    """Hold a question against the rules of models that reason, and of those that do not."""
    family = next((each for each in REASONING_FAMILIES if each.pattern.match(question.model)), None)
    reasons = family is not None and NON_REASONING_MARKER not in question.model
    effort = as_text(as_mapping(payload.get("reasoning")).get("effort"))
    if family is None or not reasons:
        if ENCRYPTED_REASONING in (payload.get("include") or ()):  # type: ignore[operator] # a list of texts
            return _invalid_request("Encrypted content is not supported with this model.", "include")
        said = "Unsupported parameter: 'reasoning.effort' is not supported with this model."
        return _invalid_request(said, "reasoning.effort", "unsupported_parameter") if effort else question
    effort = effort or ("medium" if family.by_default else "none")
    if effort not in EFFORT_TOKENS or (effort == "none" and not family.optional):
        said = f"Unsupported value: '{effort}' is not supported with the '{question.model}' model."
        return _invalid_request(said, "reasoning.effort", "unsupported_value")
    steered = next((name for name in ("temperature", "top_p") if payload.get(name) not in {None, 1}), "")
    if steered and effort != "none":
        said = f"Unsupported parameter: '{steered}' is not supported with this model."
        return _invalid_request(said, steered, "unsupported_parameter")
    return replace(question, reasoning_tokens=EFFORT_TOKENS[effort])


def _invalid_request(said: str, name: str, code: str = "") -> SimError:
    return SimError(kind="invalid", message=said, param=name, code=code)


def _violation_message(wrong: RuleViolation) -> SimError:
    """Say what is wrong with a body in OpenAI's words."""
    name, value, rule = wrong.name, wrong.value, wrong.rule
    match wrong.kind:
        case "missing":
            return _invalid_request(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        case "unknown":
            return _invalid_request(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        case "kind":
            return _invalid_request(f"Invalid type for '{name}'.", name, "invalid_type")
        case _:
            low = wrong.kind == "low"
            bound = f">= {rule.minimum:g}" if low else f"<= {rule.maximum:g}"
            said = f"Invalid '{name}': integer {'below minimum' if low else 'above maximum'} value. Expected a value "
            code = f"integer_{'below_min' if low else 'above_max'}_value"
            return _invalid_request(f"{said}{bound}, but got {value} instead.", name, code)


def encode_reply(answer: SimResponse) -> Payload:
    """Write an answer as a ``response``."""
    return _response_payload(answer, _output_items(answer))


def _response_payload(answer: SimResponse, output: list[Payload], *, ended: bool = True) -> Payload:
    """Write the response as it is before or after its output."""
    question, cut = answer.request, answer.choices[0].finish_reason == "length"
    return {
        "id": f"resp_{answer.id_digits}",
        "object": "response",
        "created_at": answer.created,
        "status": "in_progress" if not ended else "incomplete" if cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if ended and cut else None,
        "instructions": None,
        "max_output_tokens": question.max_tokens,
        "model": SNAPSHOTS.get(question.model, question.model),
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
        "usage": _usage_payload(answer) if ended else None,
        "user": None,
        "metadata": {},
    }


def _output_items(answer: SimResponse) -> list[Payload]:
    """Write the items: what was reasoned, unreadable, and the message or the calls."""
    called: list[Payload] = [
        {
            "id": f"fc_{answer.id_digits}{at:02}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{answer.id_digits[:22]}{at:02}",
            "name": call.name,
            "arguments": call.arguments_json,
        }
        for at, call in enumerate(answer.choices[0].tool_calls)
    ]
    if called:
        return [*_reasoning_items(answer), *called]
    message = {**_opened_item(answer), "status": "completed", "content": [_text_part(answer.choices[0].text)]}
    return [*_reasoning_items(answer), message] if answer.choices[0].text else _reasoning_items(answer)


def _reasoning_items(answer: SimResponse) -> list[Payload]:
    item: Payload = {
        "id": f"rs_{answer.id_digits}",
        "type": "reasoning",
        "summary": [],
        "encrypted_content": f"sim:{answer.id_digits}",
    }
    return [item] if answer.reasoning_tokens else []


def _opened_item(answer: SimResponse) -> Payload:
    return {
        "id": f"msg_{answer.id_digits}",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _text_part(said: str) -> Payload:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def _usage_payload(answer: SimResponse) -> Payload:
    """Count: what was cached and what was reasoned is included."""
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def encode_events(answer: SimResponse) -> Iterator[bytes]:
    """Write an answer as typed events, numbered as they come."""
    numbers = count()
    for kind, said in _event_payloads(answer):
        yield encode_event(kind, {**said, "sequence_number": next(numbers)})


def _event_payloads(answer: SimResponse) -> Iterator[tuple[str, Payload]]:
    """Give the kinds of events and what they say."""
    opening = _response_payload(answer, [], ended=False)
    yield "response.created", {"response": opening}
    yield "response.in_progress", {"response": opening}
    output = _output_items(answer)
    for index, item in enumerate(output):
        if item["type"] == "reasoning":
            yield "response.output_item.added", {"output_index": index, "item": {**item, "encrypted_content": ""}}
        elif item["type"] == "function_call":
            yield from _tool_call_events(index, item)
        else:
            yield "response.output_item.added", {"output_index": index, "item": _opened_item(answer)}
            place = {"output_index": index, "content_index": 0, "item_id": item["id"]}
            yield "response.content_part.added", {**place, "part": _text_part("")}
            said = answer.choices[0].text
            for piece in split_words(said, 1):
                yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**place, "text": said, "logprobs": []}
            yield "response.content_part.done", {**place, "part": _text_part(said)}
        yield "response.output_item.done", {"output_index": index, "item": item}
    ended = _response_payload(answer, output)
    yield f"response.{ended['status']}", {"response": ended}


def _tool_call_events(index: int, item: Payload) -> Iterator[tuple[str, Payload]]:
    """Give the pieces of a call: its name first, then its arguments bit by bit."""
    place, said = {"output_index": index, "item_id": item["id"]}, as_text(item["arguments"])
    opening = {**item, "status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": index, "item": opening}
    for piece in split_characters(said, ARGUMENT_PIECE_CHARACTERS):
        yield "response.function_call_arguments.delta", {**place, "delta": piece}
    yield "response.function_call_arguments.done", {**place, "arguments": said, "name": item["name"]}


def encode_event(kind: str, data: Payload) -> bytes:
    """Write one event, whose data names it again."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode_json({"type": kind, **data}))


def encode_stream_error(problem: SimError, _request_id: str) -> bytes:
    """Write a problem as an event."""
    said = as_mapping(error_payload(problem)["error"])
    whole_of_it = {"code": said["code"] or said["type"], "message": said["message"], "param": said["param"]}
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
