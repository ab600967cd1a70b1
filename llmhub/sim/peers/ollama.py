"""The other side of Ollama's own chat: lines of JSON, durations in nanoseconds.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and recorded exchanges (read 2026-11-22). Ollama itself
has no limits; a refusal for one is told as its cloud tells it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.calls import offer
from llmhub.sim.exchange import Answer, Call, Incoming, Kind, Problem, Question, Turn
from llmhub.sim.peers.openai_errors import retry_headers
from llmhub.sim.peers.record import JSON, Peer, bearer, encode, silent
from llmhub.sim.peers.shape import (
    NUMBER,
    Rule,
    Violation,
    chosen,
    declared,
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
    "messages": Rule((list,), needed=True, items=dict),
    "stream": Rule((bool,)),
    "options": Rule((dict,)),
    "tools": Rule((list,)),
    **free("format keep_alive logprobs think top_logprobs truncate shift"),
}
OPTIONS: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), Rule(NUMBER)),
    **dict.fromkeys(("top_k", "num_predict", "seed"), Rule((int, float))),
}
SAMPLING: Final = {
    name: name for name in ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
}
THINKS: Final = re.compile(r"gpt-oss|qwen3|deepseek-r1|magistral")
"""Models that think unless told not to."""
THOUGHT: Final = {"low": 16, "medium": 48, "high": 128}
FINISH: Final = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "stop"}
NANO: Final = 1_000_000_000

ERRORS: Final[Mapping[Kind, tuple[int, str]]] = {
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
"""Status and words of each kind of problem."""


def locate(incoming: Incoming) -> Call | None:
    """Find the chat and the list of models."""
    match incoming.method, incoming.rest:
        case "POST", "/api/chat":
            return Call()
        case "GET", "/api/tags":
            return Call(action="models")
        case _:
            return None


def authorize(incoming: Incoming, key: str) -> Problem | None:
    """Check the bearer token, which only a server behind a gate wants."""
    return None if bearer(incoming.headers) == key else Problem(kind="auth")


def read(payload: Payload, _call: Call) -> Question | Problem:
    """Read the body of a chat; what it does not know, it passes over. A stream is what comes unless told otherwise."""
    wrong = violation({name: value for name, value in payload.items() if name in FIELDS}, FIELDS)
    options = mapping(payload.get("options"))
    wrong = wrong or violation({name: value for name, value in options.items() if name in OPTIONS}, OPTIONS)
    if wrong is not None:
        return Problem(kind="invalid", message=_worded(wrong))
    model, most = word(payload["model"]), whole(options.get("num_predict"))
    return Question(
        model=model,
        turns=tuple(Turn(word(turn.get("role")), word(turn.get("content"))) for turn in objects(payload["messages"])),
        stream=payload.get("stream") is not False,
        max_tokens=most if most is not None and most > 0 else None,
        stop=words(options.get("stop")),
        tools=offer(declared(payload.get("tools"))),
        schema={"type": "object"} if payload.get("format") == "json" else payload.get("format") or None,
        sampling=chosen(options, SAMPLING),
        reasoning=_thought(model, payload.get("think")),
    )


def _thought(model: str, think: object) -> int:
    """Say about how many tokens of thinking a model spends."""
    return 0 if think is False or not THINKS.search(model) else THOUGHT.get(word(think), THOUGHT["medium"])


def _worded(wrong: Violation) -> str:
    """Say what is wrong with a body in the words of Go's decoder."""
    match wrong.what:
        case "missing" | "low":
            return f"{wrong.name} is required"
        case _:
            return f"json: cannot unmarshal {type(wrong.value).__name__} into Go struct field ChatRequest.{wrong.name}"


def reply(answer: Answer) -> Payload:
    """Write an answer whole."""
    return {
        **_head(answer),
        "message": {**_message(answer.choices[0].text), **_thinking(answer), **_called(answer)},
        **_tail(answer),
    }


def events(answer: Answer) -> Iterator[bytes]:
    """Write an answer as lines: what is thought first, then the text, and the counts at the end."""
    head = {**_head(answer), "done": False}
    for piece in pieces(_thinking(answer).get("thinking", ""), 2):
        yield _line({**head, "message": {**_message(""), "thinking": piece}})
    for piece in pieces(answer.choices[0].text, 1):
        yield _line({**head, "message": _message(piece)})
    if answer.choices[0].calls:
        yield _line({**head, "message": {**_message(""), **_called(answer)}})
    yield _line({**_head(answer), "message": _message(""), **_tail(answer)})


def _line(data: Payload) -> bytes:
    return b"%b\n" % encode(data)


def _head(answer: Answer) -> Payload:
    at = datetime.fromtimestamp(answer.created, UTC)
    return {"model": answer.question.model, "created_at": f"{at:%Y-%m-%dT%H:%M:%S}.{int(answer.key[:5], 16)}Z"}


def _message(text: str) -> Payload:
    return {"role": "assistant", "content": text}


def _called(answer: Answer) -> Payload:
    """Write the calls, which come whole."""
    called = [
        {
            "id": f"call_{answer.key[:6]}{at:02}",
            "function": {"index": at, "name": call.name, "arguments": call.arguments},
        }
        for at, call in enumerate(answer.choices[0].calls)
    ]
    return {"tool_calls": called} if called else {}


def _thinking(answer: Answer) -> dict[str, str]:
    """Write what was thought: four characters a token, as everything is counted here."""
    return {"thinking": "Hmm " * answer.reasoning_tokens} if answer.reasoning_tokens else {}


def _tail(answer: Answer) -> Payload:
    """Count, in tokens and nanoseconds."""
    took = int(answer.duration_s * NANO)
    return {
        "done": True,
        "done_reason": FINISH[answer.choices[0].finish],
        "total_duration": took,
        "load_duration": took // 20,
        "prompt_eval_count": answer.input_tokens,
        "prompt_eval_duration": took // 10,
        "eval_count": answer.output_tokens,
        "eval_duration": took - took // 20 - took // 10,
    }


def error(problem: Problem, _request_id: str) -> HttpReply:
    """Write a refusal: one text."""
    return HttpReply(ERRORS[problem.kind][0], {**JSON, **retry_headers(problem)}, encode(_told(problem)))


def broken(problem: Problem, _request_id: str) -> bytes:
    """Write a problem as a line."""
    return _line(_told(problem))


def _told(problem: Problem) -> Payload:
    if problem.kind == "not_found" and problem.model:
        return {"error": f"model '{problem.model}' not found"}
    return {"error": problem.message or ERRORS[problem.kind][1]}


def listing(models: Sequence[str]) -> Payload:
    """List models."""
    rows = [{"name": model, "model": model, "modified_at": "2025-01-01T00:00:00Z", "size": 0} for model in models]
    return {"models": rows}


OLLAMA: Final = Peer(
    name="ollama-native",
    prefix="/ollama",
    models=("llama3.2", "qwen3", "gpt-oss:20b"),
    locate=locate,
    authorize=authorize,
    read=read,
    reply=reply,
    events=events,
    error=error,
    broken=broken,
    garbled=b'{"model":"llama3.2","created_at":"2025-01-01T00:00:00Z","mess\n',
    listing=listing,
    limits=silent,
    request_id=lambda digits: digits,
    stream_type="application/x-ndjson",
)
