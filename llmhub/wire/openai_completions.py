"""OpenAI's completions of a text, the API that came before conversations: what base models are asked with.

What differs here:

- The prompt is one text that the model continues. There are no roles: a conversation with any other than the user's is
  refused, because a base model does not know where a turn ends.
- There are no tools, images, schemas or reasoning. Log probabilities are parallel lists.
- A chunk of a stream has ``text`` where a chat has a ``delta``; older servers end it without token counts.

Sources: https://platform.openai.com/docs/api-reference/completions, https://docs.vllm.ai/en/latest/serving/ (read
2026-11-30) and recorded exchanges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed, Unsupported
from llmhub.core.framing import Frame
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, Wire
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, StreamStarted, UsageDelta, assemble_response
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    FinishReason,
    Logprobs,
    Part,
    Payload,
    Text,
    Usage,
)
from llmhub.wire.errors import OPENAI_ERRORS, classify_error
from llmhub.wire.logprobs import LOGPROBS_INDEX, decode_parallel_logprobs
from llmhub.wire.readers import (
    as_count,
    as_mapping,
    as_text,
    error_body,
    error_message,
    iter_objects,
    reported_cost,
    require_list,
)
from llmhub.wire.writers import Param, encode_parameters, unsupported_parameter

FINISH: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "content_filter": "content_filter",
}

PARAMS: Final = (
    Param("temperature", "temperature", 0, 2),
    Param("top_p", "top_p", 0, 1),
    Param("max_tokens", "max_tokens", 1),
    Param("stop", "stop", 1, 4),
    Param("seed", "seed"),
    Param("presence_penalty", "presence_penalty", -2, 2),
    Param("frequency_penalty", "frequency_penalty", -2, 2),
    Param("n", "n", 1, 128),
    Param("logprobs", "logprobs", 0, 5),
    Param("user", "user"),
)

CHAT_FIELDS: Final = ("tools", "tool_choice", "response_schema", "reasoning_effort", "reasoning_budget")
"""Fields of a request that only conversations have."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request as the text to continue."""
    parameters = encode_parameters(request, PARAMS)
    if not is_successful(parameters):
        return parameters
    chat_field = next((name for name in CHAT_FIELDS if getattr(request, name)), None)
    if chat_field is not None:
        return Failure(unsupported_parameter(chat_field, f"a completion of a text has no {chat_field}"))
    texts: list[str] = []
    for index, message in enumerate(request.messages):
        if message.role != "user":
            explanation = f"a base model continues one text, and has no {message.role} messages"
            return Failure(Unsupported(path=f"$.messages[{index}]", message=explanation))
        for part_index, part in enumerate(message.parts):
            if not isinstance(part, Text):
                path = f"$.messages[{index}].parts[{part_index}]"
                explanation = f"a base model takes no {type(part).__name__}"
                return Failure(Unsupported(path=path, message=explanation))
            texts.append(part.text)
    return Success({"model": request.model, "prompt": "".join(texts), **parameters.unwrap()})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode the body of an answer."""
    if payload.get("error"):
        return Failure(_error(payload, None))
    choices = require_list(payload, "choices")
    if not is_successful(choices):
        return Failure(choices.failure())
    answers = []
    for index, choice in enumerate(choices.unwrap()):
        if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
            return Failure(Malformed(path=f"$.choices[{index}].text", message="expected a string"))
        parts: list[Part] = [Text(as_text(choice.get("text"))), *_logprobs(choice)]
        answers.append((parts, _finish_reason(choice.get("finish_reason"))))
    if not answers:
        return Failure(Malformed(path="$.choices", message="expected at least one choice"))
    return Success(
        assemble_response(
            answers,
            usage=_usage(as_mapping(payload.get("usage"))),
            served_model=as_text(payload.get("model")),
            request_id=as_text(payload.get("id")),
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one chunk of a stream."""
    if frame.data.strip() == b"[DONE]":
        return Success((ChoiceFinished("other"),))
    return parse_json_object(frame.data).bind(_chunk)


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply."""
    return _error(error_body(reply.body), reply.status)


# Streams


def _chunk(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    if payload.get("error"):
        return Failure(_error(payload, None))
    deltas: list[Delta] = [StreamStarted(as_text(payload.get("model")), as_text(payload.get("id")))]
    for choice in iter_objects(payload.get("choices")):
        deltas.extend(_deltas(choice))
    counts = as_mapping(payload.get("usage"))
    if counts:
        deltas.append(UsageDelta(_usage(counts)))
    return Success(tuple(deltas))


def _deltas(choice: Mapping[str, object]) -> list[Delta]:
    """Decode one choice of a chunk."""
    answer = as_count(choice.get("index")) or 0
    deltas: list[Delta] = [Fragment(0, Text(as_text(choice.get("text"))), answer)]
    deltas += [Fragment(LOGPROBS_INDEX, part, answer) for part in _logprobs(choice)]
    if choice.get("finish_reason"):
        deltas.append(ChoiceFinished(_finish_reason(choice.get("finish_reason")), answer))
    return deltas


# Responses


def _logprobs(choice: Mapping[str, object]) -> list[Logprobs]:
    return decode_parallel_logprobs(as_mapping(choice.get("logprobs")))


def _usage(counts: Mapping[str, object]) -> Usage:
    prompt, completion = as_count(counts.get("prompt_tokens")), as_count(counts.get("completion_tokens"))
    if prompt is not None and completion is None and counts.get("total_tokens") == prompt:
        completion = 0  # an answer without a token
    return Usage(input_tokens=prompt, output_tokens=completion, reported_cost_usd=reported_cost(counts))


def _finish_reason(reason: object) -> FinishReason:
    return FINISH.get(as_text(reason), "other")


def _error(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Decode the error in a body: an ``error`` object or string, or a bare ``message`` or ``detail``."""
    field = payload.get("error")
    error = as_mapping(field) or payload
    codes = [str(name) for name in (error.get("code"), error.get("type")) if isinstance(name, (str, int)) and name]
    codes.sort(key=str(status).__eq__)  # the status once more says less than a name
    message = error_message(error.get("message") or error.get("detail") or field, error)
    return classify_error(OPENAI_ERRORS, status=status, codes=codes, message=message)


WIRE: Final = Wire(
    name="openai_completions",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=lambda payload: _usage(as_mapping(payload.get("usage"))),
    stream_fields={"stream": True, "stream_options": {"include_usage": True}},
)
