"""Simulated server of OpenAI's completions of a text.

Source: https://platform.openai.com/docs/api-reference/completions and recorded exchanges (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from llmhub.core.types import Payload
from llmhub.sim.servers.openai_chat import OPENAI
from llmhub.sim.servers.openai_errors import sse_event
from llmhub.sim.servers.payload_rules import (
    NUMBER,
    FieldRule,
    as_integer,
    as_mapping,
    as_text,
    as_texts,
    find_violation,
    rename_set_fields,
    split_words,
    unchecked_fields,
)
from llmhub.sim.types import SimError, SimHttpRequest, SimMessage, SimRequest, SimResponse, SimRoute

FIELDS: Final[Mapping[str, FieldRule]] = {
    "model": FieldRule((str,), 1, required=True),
    "prompt": FieldRule((str, list), required=True),
    "temperature": FieldRule(NUMBER, 0, 2),
    "top_p": FieldRule(NUMBER, 0, 1),
    "max_tokens": FieldRule((int,), 0),
    "presence_penalty": FieldRule(NUMBER, -2, 2),
    "frequency_penalty": FieldRule(NUMBER, -2, 2),
    "n": FieldRule((int,), 1, 128),
    "stop": FieldRule((str, list), 0, 4, item_type=str),
    "seed": FieldRule((int,)),
    "stream": FieldRule((bool,)),
    "logprobs": FieldRule((int,), 0, 5),
    **unchecked_fields("best_of echo logit_bias stream_options suffix user"),
}
SAMPLING: Final = {
    name: name for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "user")
}
DEFAULT_MAX_TOKENS: Final = 16
FINISH_REASONS: Final = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "stop"}


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match ``completions`` and ``models``."""
    match http_request.method, http_request.subpath:
        case "POST", "/completions":
            return SimRoute()
        case "GET", "/models":
            return SimRoute(action="models")
        case _:
            return None


def parse_request(payload: Payload, route: SimRoute) -> SimRequest | SimError:
    """Parse a body; without ``max_tokens`` an answer has 16 tokens."""
    violation = find_violation(payload, FIELDS)
    prompt = payload.get("prompt")
    text = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if violation is not None or not isinstance(text, str):
        name = violation.name if violation is not None else "prompt"
        return SimError(kind="invalid", message=f"Invalid value for '{name}'.", param=name)
    max_tokens = as_integer(payload.get("max_tokens"))
    options = as_mapping(payload.get("stream_options"))
    return SimRequest(
        model=as_text(payload.get("model")) or route.model,
        messages=(SimMessage("user", text),),
        stream=payload.get("stream") is True,
        max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        stop=as_texts(payload.get("stop")),
        n=as_integer(payload.get("n")) or 1,
        sampling=rename_set_fields(payload, SAMPLING),
        include_usage=options.get("include_usage") is True,
    )


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response that is not streamed."""
    choices = [
        {"text": choice.text, "index": index, "logprobs": None, "finish_reason": FINISH_REASONS[choice.finish_reason]}
        for index, choice in enumerate(response.choices)
    ]
    return {**_head(response), "choices": choices, "usage": _usage(response)}


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as chunks: the texts word by word, the reasons, and the counts where they were asked for."""
    pieces = [list(split_words(choice.text, 1)) for choice in response.choices]
    usage = {"usage": None} if response.request.include_usage else {}
    for position in zip_longest(*pieces):
        for index, piece in enumerate(position):
            if piece is not None:
                yield sse_event({**_head(response), "choices": [_piece(index, piece, None)], **usage})
    for index, choice in enumerate(response.choices):
        reason = FINISH_REASONS[choice.finish_reason]
        yield sse_event({**_head(response), "choices": [_piece(index, "", reason)], **usage})
    if usage:
        yield sse_event({**_head(response), "choices": [], "usage": _usage(response)})
    yield b"data: [DONE]\n\n"


def _piece(index: int, text: str, reason: str | None) -> Payload:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def _head(response: SimResponse) -> Payload:
    return {
        "id": f"cmpl-{response.id_digits[:29]}",
        "object": "text_completion",
        "created": response.created,
        "model": response.request.model,
    }


def _usage(response: SimResponse) -> Payload:
    prompt, completion = response.input_tokens, response.output_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


COMPLETIONS: Final = replace(
    OPENAI,
    name="openai-completions",
    prefix="/openai-completions/v1",
    models=("gpt-3.5-turbo-instruct", "davinci-002", "babbage-002"),
    match_route=match_route,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    malformed_event=b'data: {"id":"cmpl-1","object":"text_completion","choi\n\n',
)
