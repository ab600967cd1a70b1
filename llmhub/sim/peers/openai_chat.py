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
from llmhub.sim.calls import offer
from llmhub.sim.exchange import Answer, Call, Choice, Incoming, Offer, Problem, Question, Turn
from llmhub.sim.peers.openai_errors import broken, error, event, limits
from llmhub.sim.peers.record import Peer, bearer
from llmhub.sim.peers.shape import (
    NUMBER,
    Rule,
    Violation,
    chosen,
    declared,
    fragments,
    free,
    mapping,
    objects,
    pieces,
    violation,
    whole,
    word,
    words,
)

FIELDS: Final[Mapping[str, Rule]] = {
    "model": Rule((str,), 1, needed=True),
    "messages": Rule((list,), 1, needed=True, items=dict),
    "temperature": Rule(NUMBER, 0, 2),
    "top_p": Rule(NUMBER, 0, 1),
    "max_tokens": Rule((int,), 1),
    "max_completion_tokens": Rule((int,), 1),
    "presence_penalty": Rule(NUMBER, -2, 2),
    "frequency_penalty": Rule(NUMBER, -2, 2),
    "n": Rule((int,), 1, 128),
    "stop": Rule((str, list), 0, 4, items=str),
    "seed": Rule((int,), -(1 << 63), (1 << 63) - 1),
    "stream": Rule((bool,)),
    "stream_options": Rule((dict,)),
    "user": Rule((str,)),
    "tools": Rule((list,), 0, 128),
    "top_logprobs": Rule((int,), 0, 20),
    **free(
        "audio function_call functions logit_bias logprobs metadata modalities moderation parallel_tool_calls "
        "prediction prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format "
        "safety_identifier service_tier store tool_choice verbosity web_search_options"
    ),
}
ROLES: Final = ("system", "assistant", "user", "function", "tool", "developer")
SAMPLING: Final = {
    name: name for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "user")
}
NAMED: Final = {str: "string", int: "integer", float: "decimal", bool: "boolean", list: "array", dict: "object"}


@dataclass(frozen=True, slots=True)
class Family:
    """Models that reason: whether they do so unasked, and whether they can be told not to."""

    pattern: re.Pattern[str]
    unasked: bool
    optional: bool


FAMILIES: Final = (
    Family(re.compile(r"o\d|gpt-5(\.\d+)?-pro|gpt-5(-|$)|gpt-6-astra|gpt-6\.1-sol"), unasked=True, optional=False),
    Family(re.compile(r"gpt-5\.[1-4]"), unasked=False, optional=True),
    Family(re.compile(r"gpt-[56]"), unasked=True, optional=True),
)
PLAIN: Final = "chat"
"""Part of a model's name that says it never reasons, whatever its family."""
EFFORT: Final = {"none": 0, "minimal": 8, "low": 32, "medium": 96, "high": 256, "xhigh": 512, "max": 1024}
FIXED: Final = {"temperature": 1, "top_p": 1}
"""Parameters that reasoning takes only at these values."""
REFUSED: Final = {"presence_penalty": 0, "frequency_penalty": 0, "logprobs": False, "top_logprobs": 0, "stop": []}
"""Parameters that reasoning does not take at all, save where they say nothing."""

SNAPSHOTS: Final = {
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
}
FINISH: Final = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "tool_calls"}
CHARACTERS: Final = 4
"""Of arguments, in one piece of a stream."""


def locate(incoming: Incoming) -> Call | None:
    """Find ``chat/completions`` and ``models`` after the base URL."""
    match incoming.method, incoming.rest:
        case "POST", "/chat/completions":
            return Call()
        case "GET", "/models":
            return Call(action="models")
        case _:
            return None


def authorize(incoming: Incoming, key: str) -> Problem | None:
    """Check the bearer token."""
    given = bearer(incoming.headers)
    if given == key:
        return None
    if given:
        return Problem(kind="auth")
    return Problem(
        kind="auth",
        code="",
        message="You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    )


def read(payload: Payload, call: Call) -> Question | Problem:
    """Read a Chat Completions body as OpenAI does: what it does not know, it refuses."""
    unknown = next((name for name in payload if name not in FIELDS), "")
    if unknown:
        return _unrecognized(unknown)
    question = read_compatible(payload, call)
    if isinstance(question, Problem):
        return question
    if "function" in mapping(payload.get("tool_choice")):
        # As recorded: the end of a call that was asked for by name is told as that of a text.
        question = replace(question, tools=replace(question.tools, silent=True))
    family = next((each for each in FAMILIES if each.pattern.match(question.model)), None)
    return question if family is None or PLAIN in question.model else _reasoned(payload, question, family)


def read_compatible(payload: Payload, call: Call) -> Question | Problem:
    """Read a Chat Completions body as compatible servers do: they pass over what they do not know."""
    body = {**payload, "model": payload.get("model") or call.model}
    wrong = violation({name: value for name, value in body.items() if name in FIELDS}, FIELDS)
    if wrong is not None:
        return _worded(wrong)
    turns: list[Turn] = []
    for at, message in enumerate(objects(body["messages"])):
        turn = _turn(message, at)
        if isinstance(turn, Problem):
            return turn
        turns.append(turn)
    most = whole(body.get("max_completion_tokens"))
    return Question(
        model=word(body["model"]),
        turns=tuple(turns),
        stream=body.get("stream") is True,
        counted=mapping(body.get("stream_options")).get("include_usage") is True,
        max_tokens=whole(body.get("max_tokens")) if most is None else most,
        stop=words(body.get("stop")),
        n=whole(body.get("n")) or 1,
        tools=offered(body),
        schema=_form(mapping(body.get("response_format"))),
        sampling=chosen(body, SAMPLING),
        caches=True,
    )


def offered(body: Mapping[str, object]) -> Offer:
    """Read the tools and the choice among them, as Chat Completions and Responses write it."""
    choice, tools = body.get("tool_choice"), dict(declared(body.get("tools")))
    told = mapping(choice)
    among = mapping(told.get("allowed_tools")) or told
    if told.get("type") == "allowed_tools":
        allowed = [name for name, _ in declared(among.get("tools"))]
        tools = {name: schema for name, schema in tools.items() if name in allowed}
        choice = among.get("mode")
    named = word(choice) or word((mapping(told.get("function")) or told).get("name")) or "auto"
    return offer(tools.items(), named, parallel=body.get("parallel_tool_calls") is not False)


def _form(wanted: Mapping[str, object]) -> object:
    """Read what the answer has to fit: a schema, or any object."""
    match wanted.get("type"):
        case "json_schema":
            return mapping(wanted.get("json_schema")).get("schema")
        case "json_object":
            return {"type": "object"}
        case _:
            return None


def _turn(message: Mapping[str, object], at: int) -> Turn | Problem:
    """Read one message."""
    role, content = word(message.get("role")), message.get("content")
    if role not in ROLES:
        supported = ", ".join(f"'{each}'" for each in ROLES[:-1]) + f", and '{ROLES[-1]}'"
        said = f"Invalid value: '{role}'. Supported values are: {supported}."
        return Problem(kind="invalid", message=said, param=f"messages[{at}].role", code="invalid_value")
    if not isinstance(content, (str, list)) and not (role == "assistant" and content is None):
        said = f"Invalid value for 'content': expected a string, got {_kind(content)}."
        return Problem(kind="invalid", message=said, param=f"messages.[{at}].content")
    spoken = content if isinstance(content, str) else "".join(word(part.get("text")) for part in objects(content))
    return Turn({"developer": "system", "function": "tool"}.get(role, role), spoken)


def _reasoned(payload: Payload, question: Question, family: Family) -> Question | Problem:
    """Hold a question against the rules of models that reason."""
    if payload.get("max_tokens") is not None:
        said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return _unsupported("max_tokens", f"Unsupported parameter: {said}")
    effort = word(payload.get("reasoning_effort")) or ("medium" if family.unasked else "none")
    if effort not in EFFORT or (effort == "none" and not family.optional):
        said = f"'reasoning_effort' does not support '{effort}' with this model."
        return _unsupported("reasoning_effort", f"Unsupported value: {said}", "unsupported_value")
    if effort == "none":
        return question
    for name, value in payload.items():
        if name in FIXED and value not in {None, FIXED[name]}:
            said = f"'{name}' does not support {value} with this model. Only the default (1) value is supported."
            return _unsupported(name, f"Unsupported value: {said}", "unsupported_value")
        if name in REFUSED and value is not None and value != REFUSED[name]:
            return _unsupported(name, f"Unsupported parameter: '{name}' is not supported with this model.")
    return replace(question, reasoning=EFFORT[effort])


def _unsupported(name: str, said: str, code: str = "unsupported_parameter") -> Problem:
    return Problem(kind="invalid", message=said, param=name, code=code)


def _unrecognized(name: str) -> Problem:
    return Problem(kind="invalid", message=f"Unrecognized request argument supplied: {name}")


def _worded(wrong: Violation) -> Problem:
    """Say what is wrong with a body in OpenAI's words."""
    name, value, rule = wrong.name, wrong.value, wrong.rule
    kind = _kind(value)
    few = f"Expected an array with maximum length {rule.high:g}, but got an array with length"
    match wrong.what:
        case "missing" | "low" if name == "model":
            return Problem(kind="invalid", message="you must provide a model parameter")
        case "missing":
            said, code = f"Missing required parameter: '{name}'.", "missing_required_parameter"
        case "unknown":
            return _unrecognized(name)
        case "kind":
            wanted = NAMED[rule.kinds[-1]]
            said, code = (
                f"Invalid type for '{name}': expected {_a(wanted)}, but got {_a(kind)} instead.",
                "invalid_type",
            )
        case "low" if isinstance(value, list):
            said = "array too short. Expected an array with minimum length 1, but got an empty array instead."
            said, code = f"Invalid '{name}': {said}", "empty_array"
        case "low":
            said = f"{kind} below minimum value. Expected a value >= {rule.low:g}, but got {value} instead."
            said, code = f"Invalid '{name}': {said}", f"{kind}_below_min_value"
        case "high" if isinstance(value, list):
            said, code = f"Invalid '{name}': array too long. {few} {len(value)} instead.", "array_above_max_length"
        case "high":
            said = f"{kind} above maximum value. Expected a value <= {rule.high:g}, but got {value} instead."
            said, code = f"Invalid '{name}': {said}", f"{kind}_above_max_value"
    return Problem(kind="invalid", message=said, param=name, code=code)


def _kind(value: object) -> str:
    return NAMED.get(type(value), "null")


def _a(kind: str) -> str:
    return kind if kind == "null" else f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


def reply(answer: Answer) -> Payload:
    """Write an answer as a ``chat.completion``."""
    return {
        **_head(answer, "chat.completion"),
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", **_said(answer, index), "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": _finish(answer, choice),
            }
            for index, choice in enumerate(answer.choices)
        ],
        "usage": _usage(answer),
    }


def _said(answer: Answer, index: int) -> Payload:
    """Write what a message says: its text, or the calls without one."""
    choice = answer.choices[index]
    if not choice.calls:
        return {"content": choice.text}
    called = [
        {"id": _call_id(answer, index, at), "type": "function", "function": {"name": call.name, "arguments": call.text}}
        for at, call in enumerate(choice.calls)
    ]
    return {"content": None, "tool_calls": called}


def _call_id(answer: Answer, index: int, at: int) -> str:
    return f"call_{answer.key[:20]}{index:02}{at:02}"


def _finish(answer: Answer, choice: Choice) -> str:
    return "stop" if choice.calls and answer.question.tools.silent else FINISH[choice.finish]


def events(answer: Answer) -> Iterator[bytes]:
    """Write an answer as chunks, choices interleaved; usage comes last, in a chunk of its own, when asked for."""
    for chunk in chunks(answer):
        yield event(chunk)
    yield b"data: [DONE]\n\n"


def chunks(answer: Answer) -> Iterator[Payload]:
    """Give the chunks of a stream."""
    counted = answer.question.counted
    head = _head(answer, "chat.completion.chunk")
    tail: Payload = {"usage": None} if counted else {}

    def chunk(index: int, delta: Payload, finish: str | None = None) -> Payload:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], **tail, "obfuscation": answer.key[: 4 + len(str(delta)) % 16]}

    for index, choice in enumerate(answer.choices):
        yield chunk(index, {"role": "assistant", "content": None if choice.calls else "", "refusal": None})
    for row in zip_longest(*(pieces(choice.text, 1) for choice in answer.choices)):
        for index, piece in enumerate(row):
            if piece is not None:
                yield chunk(index, {"content": piece})
    for index, choice in enumerate(answer.choices):
        for delta in _called(answer, index):
            yield chunk(index, {"tool_calls": [delta]})
        yield chunk(index, {}, _finish(answer, choice))
    if counted:
        yield {**head, "choices": [], "usage": _usage(answer), "obfuscation": answer.key[:8]}


def _called(answer: Answer, index: int) -> Iterator[Payload]:
    """Give the calls of an answer in pieces: each one's name first, then its arguments bit by bit."""
    for at, call in enumerate(answer.choices[index].calls):
        opening = {"name": call.name, "arguments": ""}
        yield {"index": at, "id": _call_id(answer, index, at), "type": "function", "function": opening}
        for piece in fragments(call.text, CHARACTERS):
            yield {"index": at, "function": {"arguments": piece}}


def _head(answer: Answer, kind: str) -> Payload:
    model = answer.question.model
    return {
        "id": f"chatcmpl-{answer.key[:29]}",
        "object": kind,
        "created": answer.created,
        "model": SNAPSHOTS.get(model, model),
        "service_tier": "default",
        "system_fingerprint": f"fp_{answer.key[-10:]}",
    }


def _usage(answer: Answer) -> Payload:
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


def listing(models: Sequence[str]) -> Payload:
    """List models."""
    rows = [{"id": model, "object": "model", "created": 1_735_689_600, "owned_by": "system"} for model in models]
    return {"object": "list", "data": rows}


def request_id(digits: str) -> str:
    """Write an id."""
    return f"req_{digits}"


GARBLED: Final = b'data: {"id":"chatcmpl-","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"con\n\n'

OPENAI: Final = Peer(
    name="openai",
    prefix="/openai/v1",
    models=("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-4.1-mini", "gpt-5-mini"),
    locate=locate,
    authorize=authorize,
    read=read,
    reply=reply,
    events=events,
    error=error,
    broken=broken,
    garbled=GARBLED,
    listing=listing,
    limits=limits,
    request_id=request_id,
    id_header="x-request-id",
)

COMPATIBLE: Final = Peer(
    name="compatible",
    prefix="/compatible/v1",
    models=("llama-3.3-70b-instruct", "qwen3-32b", "gpt-oss-120b"),
    locate=locate,
    authorize=authorize,
    read=read_compatible,
    reply=reply,
    events=events,
    error=error,
    broken=broken,
    garbled=GARBLED,
    listing=listing,
    limits=limits,
    request_id=request_id,
    id_header="x-request-id",
)
