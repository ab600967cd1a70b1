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
from llmhub.sim.exchange import Answer, Call, Incoming, Problem, Question, Turn
from llmhub.sim.peers import azure
from llmhub.sim.peers.openai_chat import CHARACTERS, EFFORT, FAMILIES, OPENAI, PLAIN, SNAPSHOTS, offered
from llmhub.sim.peers.openai_errors import told
from llmhub.sim.peers.record import Peer, encode
from llmhub.sim.peers.shape import (
    NUMBER,
    Rule,
    Violation,
    chosen,
    fragments,
    free,
    mapping,
    objects,
    pieces,
    violation,
    whole,
    word,
)

FIELDS: Final[Mapping[str, Rule]] = {
    "model": Rule((str,), 1, needed=True),
    "input": Rule((str, list), 1, needed=True, items=dict),
    "instructions": Rule((str,)),
    "temperature": Rule(NUMBER, 0, 2),
    "top_p": Rule(NUMBER, 0, 1),
    "max_output_tokens": Rule((int,), 16),
    "top_logprobs": Rule((int,), 0, 20),
    "stream": Rule((bool,)),
    "store": Rule((bool,)),
    "include": Rule((list,), items=str),
    "reasoning": Rule((dict,)),
    "text": Rule((dict,)),
    "tools": Rule((list,), 0, 128),
    **free(
        "background context_management conversation max_tool_calls metadata moderation parallel_tool_calls "
        "previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier "
        "service_tier stream_options tool_choice truncation user"
    ),
}
SAMPLING: Final = {"temperature": "temperature", "top_p": "top_p", "safety_identifier": "user", "user": "user"}
CALLED: Final = {"function_call": "assistant", "function_call_output": "tool"}
ENCRYPTED: Final = "reasoning.encrypted_content"


def locate(incoming: Incoming) -> Call | None:
    """Find ``responses`` after the base URL."""
    return Call() if (incoming.method, incoming.rest) == ("POST", "/responses") else None


def locate_azure(incoming: Incoming) -> Call | None:
    """Find ``responses`` of the v1 address, or of a dated version."""
    version = incoming.parameters.get("api-version", "")
    dated = incoming.rest == "/openai/responses" and bool(version)
    found = incoming.method == "POST" and (incoming.rest == "/openai/v1/responses" or dated)
    return Call(version=version) if found else None


def read(payload: Payload, _call: Call) -> Question | Problem:
    """Read a Responses body as OpenAI does: what it does not know, it refuses."""
    wrong = violation(payload, FIELDS)
    if wrong is not None:
        return _worded(wrong)
    given = payload["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(objects(given))
    turns = [Turn("system", word(payload["instructions"]))] if payload.get("instructions") else []
    turns += [Turn(_role(item), _spoken(item)) for item in items if item.get("type") != "reasoning"]
    question = Question(
        model=word(payload["model"]),
        turns=tuple(turns),
        stream=payload.get("stream") is True,
        max_tokens=whole(payload.get("max_output_tokens")),
        tools=offered(payload),
        schema=_form(mapping(mapping(payload.get("text")).get("format"))),
        sampling=chosen(payload, SAMPLING),
        caches=True,
    )
    return _reasoned(payload, question)


def _form(wanted: Mapping[str, object]) -> object:
    """Read what the answer has to fit: a schema, or any object."""
    return wanted.get("schema") or ({"type": "object"} if wanted.get("type") == "json_object" else None)


def _role(item: Mapping[str, object]) -> str:
    role = word(item.get("role")) or CALLED.get(word(item.get("type")), "assistant")
    return "system" if role == "developer" else role


def _spoken(item: Mapping[str, object]) -> str:
    said = item.get("content", item.get("output"))
    return said if isinstance(said, str) else "".join(word(part.get("text")) for part in objects(said))


def _reasoned(payload: Payload, question: Question) -> Question | Problem:
    """Hold a question against the rules of models that reason, and of those that do not."""
    family = next((each for each in FAMILIES if each.pattern.match(question.model)), None)
    reasons = family is not None and PLAIN not in question.model
    effort = word(mapping(payload.get("reasoning")).get("effort"))
    if family is None or not reasons:
        if ENCRYPTED in (payload.get("include") or ()):  # type: ignore[operator] # a list of texts
            return _invalid("Encrypted content is not supported with this model.", "include")
        said = "Unsupported parameter: 'reasoning.effort' is not supported with this model."
        return _invalid(said, "reasoning.effort", "unsupported_parameter") if effort else question
    effort = effort or ("medium" if family.unasked else "none")
    if effort not in EFFORT or (effort == "none" and not family.optional):
        said = f"Unsupported value: '{effort}' is not supported with the '{question.model}' model."
        return _invalid(said, "reasoning.effort", "unsupported_value")
    steered = next((name for name in ("temperature", "top_p") if payload.get(name) not in {None, 1}), "")
    if steered and effort != "none":
        said = f"Unsupported parameter: '{steered}' is not supported with this model."
        return _invalid(said, steered, "unsupported_parameter")
    return replace(question, reasoning=EFFORT[effort])


def _invalid(said: str, name: str, code: str = "") -> Problem:
    return Problem(kind="invalid", message=said, param=name, code=code)


def _worded(wrong: Violation) -> Problem:
    """Say what is wrong with a body in OpenAI's words."""
    name, value, rule = wrong.name, wrong.value, wrong.rule
    match wrong.what:
        case "missing":
            return _invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        case "unknown":
            return _invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        case "kind":
            return _invalid(f"Invalid type for '{name}'.", name, "invalid_type")
        case _:
            low = wrong.what == "low"
            bound = f">= {rule.low:g}" if low else f"<= {rule.high:g}"
            said = f"Invalid '{name}': integer {'below minimum' if low else 'above maximum'} value. Expected a value "
            code = f"integer_{'below_min' if low else 'above_max'}_value"
            return _invalid(f"{said}{bound}, but got {value} instead.", name, code)


def reply(answer: Answer) -> Payload:
    """Write an answer as a ``response``."""
    return _response(answer, _output(answer))


def _response(answer: Answer, output: list[Payload], *, ended: bool = True) -> Payload:
    """Write the response as it is before or after its output."""
    question, cut = answer.question, answer.choices[0].finish == "length"
    return {
        "id": f"resp_{answer.key}",
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
        "usage": _usage(answer) if ended else None,
        "user": None,
        "metadata": {},
    }


def _output(answer: Answer) -> list[Payload]:
    """Write the items: what was reasoned, unreadable, and the message or the calls."""
    called: list[Payload] = [
        {
            "id": f"fc_{answer.key}{at:02}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{answer.key[:22]}{at:02}",
            "name": call.name,
            "arguments": call.text,
        }
        for at, call in enumerate(answer.choices[0].calls)
    ]
    if called:
        return [*_thought(answer), *called]
    message = {**_opened(answer), "status": "completed", "content": [_text(answer.choices[0].text)]}
    return [*_thought(answer), message] if answer.choices[0].text else _thought(answer)


def _thought(answer: Answer) -> list[Payload]:
    item: Payload = {
        "id": f"rs_{answer.key}",
        "type": "reasoning",
        "summary": [],
        "encrypted_content": f"sim:{answer.key}",
    }
    return [item] if answer.reasoning_tokens else []


def _opened(answer: Answer) -> Payload:
    return {"id": f"msg_{answer.key}", "type": "message", "status": "in_progress", "role": "assistant", "content": []}


def _text(said: str) -> Payload:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def _usage(answer: Answer) -> Payload:
    """Count: what was cached and what was reasoned is included."""
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def events(answer: Answer) -> Iterator[bytes]:
    """Write an answer as typed events, numbered as they come."""
    numbers = count()
    for kind, said in _told(answer):
        yield event(kind, {**said, "sequence_number": next(numbers)})


def _told(answer: Answer) -> Iterator[tuple[str, Payload]]:
    """Give the kinds of events and what they say."""
    opening = _response(answer, [], ended=False)
    yield "response.created", {"response": opening}
    yield "response.in_progress", {"response": opening}
    output = _output(answer)
    for index, item in enumerate(output):
        if item["type"] == "reasoning":
            yield "response.output_item.added", {"output_index": index, "item": {**item, "encrypted_content": ""}}
        elif item["type"] == "function_call":
            yield from _called(index, item)
        else:
            yield "response.output_item.added", {"output_index": index, "item": _opened(answer)}
            place = {"output_index": index, "content_index": 0, "item_id": item["id"]}
            yield "response.content_part.added", {**place, "part": _text("")}
            said = answer.choices[0].text
            for piece in pieces(said, 1):
                yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**place, "text": said, "logprobs": []}
            yield "response.content_part.done", {**place, "part": _text(said)}
        yield "response.output_item.done", {"output_index": index, "item": item}
    ended = _response(answer, output)
    yield f"response.{ended['status']}", {"response": ended}


def _called(index: int, item: Payload) -> Iterator[tuple[str, Payload]]:
    """Give the pieces of a call: its name first, then its arguments bit by bit."""
    place, said = {"output_index": index, "item_id": item["id"]}, word(item["arguments"])
    opening = {**item, "status": "in_progress", "arguments": ""}
    yield "response.output_item.added", {"output_index": index, "item": opening}
    for piece in fragments(said, CHARACTERS):
        yield "response.function_call_arguments.delta", {**place, "delta": piece}
    yield "response.function_call_arguments.done", {**place, "arguments": said, "name": item["name"]}


def event(kind: str, data: Payload) -> bytes:
    """Write one event, whose data names it again."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **data}))


def broken(problem: Problem, _request_id: str) -> bytes:
    """Write a problem as an event."""
    said = mapping(told(problem)["error"])
    whole_of_it = {"code": said["code"] or said["type"], "message": said["message"], "param": said["param"]}
    return event("error", {**whole_of_it, "sequence_number": 0})


GARBLED: Final = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","output_index":0,"del\n\n'
)

RESPONSES: Final[Peer] = replace(
    OPENAI,
    name="openai-responses",
    ending="/responses",
    locate=locate,
    read=read,
    reply=reply,
    events=events,
    broken=broken,
    garbled=GARBLED,
)

AZURE_RESPONSES: Final[Peer] = replace(
    azure.AZURE,
    name="azure-responses",
    ending="/responses",
    locate=locate_azure,
    read=read,
    reply=reply,
    events=events,
    broken=broken,
    garbled=GARBLED,
)
