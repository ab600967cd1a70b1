"""Ollama's own chat API, which has what its OpenAI-compatible endpoint lacks: how to think, and every model option.

What differs here:

- A stream is lines of JSON, and the API streams by default. Sampling parameters are an ``options`` object.
- Arguments are objects, images are bare base64 beside the text, and a result names its function, taken from the call
  with that id where the caller did not name it. ``stop`` is the reason even when tools are called.
- Effort is ``think``: off, on, or a level. A tool choice, several answers, URLs and documents are not supported; a
  schema's name and strictness have no field. A call without an id gets one generated from its index and content.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and recorded exchanges (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.framing import Frame
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, Wire
from llmhub.core.stream import (
    ChoiceFinished,
    Delta,
    Fragment,
    StreamStarted,
    UsageDelta,
    assemble_response,
    generate_call_id,
)
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    FinishReason,
    Image,
    Message,
    Part,
    Payload,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    join_text,
)
from llmhub.wire.errors import CONTEXT_PHRASES, REQUEST_PHRASES, ErrorTable, classify_error
from llmhub.wire.fast_path import parse_plain_ollama_line
from llmhub.wire.logprobs import LOGPROBS_INDEX, decode_logprobs
from llmhub.wire.readers import (
    as_count,
    as_mapping,
    as_text,
    encode_compact,
    error_body,
    error_message,
    iter_objects,
)
from llmhub.wire.writers import (
    Param,
    check_no_error_flag,
    check_part_allowed,
    decode_arguments,
    encode_parameters,
    foreign_part_error,
    inline_data,
    unsupported_parameter,
)

FINISH: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}

PARAMS: Final = (
    Param("temperature", "temperature", 0),
    Param("top_p", "top_p", 0, 1),
    Param("top_k", "top_k", 0),
    Param("max_tokens", "num_predict", 1),
    Param("stop", "stop", 1),
    Param("seed", "seed"),
    Param("presence_penalty", "presence_penalty", -2, 2),
    Param("frequency_penalty", "frequency_penalty", -2, 2),
    Param("logprobs", "top_logprobs", 0, 20),
)

ERRORS: Final = ErrorTable(phrases=(*CONTEXT_PHRASES, *REQUEST_PHRASES))

THINK: Final[Mapping[str, bool | str]] = {"none": False, "low": "low", "medium": "medium", "high": "high"}
"""Value of ``think`` for each effort."""

FIRST_CALL_INDEX: Final = 2
"""Index of the first tool call among the parts of a streamed answer, after reasoning and text."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request as the body of a chat."""
    parameters = encode_parameters(request, PARAMS)
    if not is_successful(parameters):
        return parameters
    features = _features(request)
    if not is_successful(features):
        return features
    messages: list[Payload] = []
    call_names: dict[str, str] = {}
    for index, message in enumerate(request.messages):
        turn = _turn(message, index, call_names)
        if not is_successful(turn):
            return Failure(turn.failure())
        messages.extend(turn.unwrap())
    fields = {name: value for name, value in parameters.unwrap().items() if name != "top_logprobs"}
    options = {"options": fields} if fields else {}
    return Success({"model": request.model, "messages": messages, "stream": False, **options, **features.unwrap()})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode the body of a chat's answer."""
    if payload.get("error"):
        return Failure(_error(payload, None))
    if not isinstance(payload.get("message"), dict):
        return Failure(Malformed(path="$.message", message="expected an object"))
    answer = ([part for _, part in _parts(payload)], _finish_reason(payload))
    return Success(assemble_response([answer], usage=_usage(payload), served_model=as_text(payload.get("model"))))


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one line of a stream; the last has the token counts."""
    line = parse_plain_ollama_line(frame.data)
    if line is not None:
        return Success((StreamStarted(line.model), Fragment(1, Text(line.message.content))))
    return parse_json_object(frame.data).bind(_deltas)


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply, whose ``error`` is a text."""
    return _error(error_body(reply.body, "error"), reply.status)


# Streams


def _deltas(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Decode a line; a call comes complete in one line, whose time distinguishes it from an equal call of another."""
    if payload.get("error"):
        return Failure(_error(payload, None))
    deltas: list[Delta] = [StreamStarted(as_text(payload.get("model")))]
    for index, part in _parts(payload):
        key = f"{payload.get('created_at')} {part.id}" if isinstance(part, ToolCall) else ""
        deltas.append(Fragment(index, part, 0, key))
    if payload.get("done") is True:
        deltas += [UsageDelta(_usage(payload)), ChoiceFinished(_finish_reason(payload))]
    return Success(tuple(deltas))


# Responses


def _parts(payload: Payload) -> list[tuple[int, Part]]:
    """Decode a message's reasoning, text and tool calls, each with its index."""
    message = as_mapping(payload.get("message"))
    thinking, content = as_text(message.get("thinking")), as_text(message.get("content"))
    parts: list[tuple[int, Part]] = [*([(0, Reasoning(thinking))] if thinking else []), (1, Text(content))]
    for position, call in enumerate(iter_objects(message.get("tool_calls"))):
        function = as_mapping(call.get("function"))
        given_index = as_count(function.get("index"))
        index = position if given_index is None else given_index
        name, arguments = as_text(function.get("name")), encode_compact(function.get("arguments") or {})
        call_id = as_text(call.get("id")) or generate_call_id(str(index), name, arguments, ())
        parts.append((FIRST_CALL_INDEX + index, ToolCall(call_id, name, arguments)))
    return parts + [(LOGPROBS_INDEX, part) for part in decode_logprobs(payload.get("logprobs"))]


def _usage(payload: Payload) -> Usage:
    """Decode token counts; a prompt that is cached whole is not counted at all."""
    return Usage(
        input_tokens=as_count(payload.get("prompt_eval_count")), output_tokens=as_count(payload.get("eval_count"))
    )


def _finish_reason(payload: Payload) -> FinishReason:
    return FINISH.get(as_text(payload.get("done_reason")), "other")


def _error(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Decode the text of an error."""
    error = payload.get("error")
    message = error_message(as_mapping(error).get("message") or error or payload.get("message"), payload)
    return classify_error(ERRORS, status=status, codes=[], message=message)


# Requests


def _turn(message: Message, message_index: int, call_names: dict[str, str]) -> Result[list[Payload], LLMError]:
    """Encode one message, its tool results before the rest; ``call_names`` collects the function of each call id."""
    results: list[Payload] = []
    images: list[str] = []
    calls: list[Payload] = []
    for part_index, part in enumerate(message.parts):
        path = f"$.messages[{message_index}].parts[{part_index}]"
        error = check_part_allowed(part, message.role, path)
        if error is None and isinstance(part, ToolResult):
            error = check_no_error_flag(part, path)
        if error:
            return Failure(error)
        match part:
            case Text() | Refusal() | Reasoning(redacted=""):
                continue
            case Image() if inline := inline_data(part):
                images.append(inline[1])
            case ToolCall(call_id, name):
                arguments = decode_arguments(part, path)
                if not is_successful(arguments):
                    return Failure(arguments.failure())
                call_names[call_id] = name
                calls.append({"id": call_id, "function": {"name": name, "arguments": arguments.unwrap()}})
            case ToolResult(call_id, result, name) if (content := _result_content(result)) is not None:
                tool_name = name or call_names.get(call_id, "")
                results.append({"role": "tool", **content, "tool_call_id": call_id, "tool_name": tool_name})
            case _:
                return Failure(foreign_part_error(part, path))
    texts = [part for part in message.parts if isinstance(part, (Text, Refusal))]
    thinking = "".join(part.text for part in message.parts if isinstance(part, Reasoning))
    optional = {"thinking": thinking, "images": images, "tool_calls": calls}
    turn: Payload = {
        "role": "user" if message.role == "tool" else message.role,
        "content": "".join(part.text for part in texts),
        **{name: value for name, value in optional.items() if value},
    }
    return Success([*results, turn] if texts or images or calls or thinking or not results else results)


def _result_content(content: str | Sequence[Text | Image]) -> Payload | None:
    """Encode a tool's result: its text, and its images in base64; ``None`` if an image has an address instead."""
    if isinstance(content, str):
        return {"content": content}
    images = [inline_data(part) for part in content if isinstance(part, Image)]
    if None in images:
        return None
    return {"content": join_text(content), **({"images": [image[1] for image in images if image]} if images else {})}


def _features(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode tools, structured output, log probabilities and how to think."""
    payload: Payload = {}
    if request.reasoning_budget is not None:
        return Failure(unsupported_parameter("reasoning_budget", "this API takes reasoning_effort, not a budget"))
    if request.reasoning_effort is not None:
        if request.reasoning_effort not in THINK:
            message = f"{request.reasoning_effort!r} is not one of this API's efforts: {', '.join(THINK)}"
            return Failure(unsupported_parameter("reasoning_effort", message))
        payload["think"] = THINK[request.reasoning_effort]
    if request.tool_choice not in {None, "auto"}:
        return Failure(unsupported_parameter("tool_choice", "this API leaves the choice of a tool to the model"))
    if request.tools:
        functions = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in request.tools
        ]
        payload["tools"] = [{"type": "function", "function": function} for function in functions]
    if request.logprobs is not None:
        payload |= {"logprobs": True, "top_logprobs": request.logprobs}
    if request.response_schema is not None:
        payload["format"] = request.response_schema.schema
    return Success(payload)


WIRE: Final = Wire(
    name="ollama",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=_usage,
    framing="json_lines",
    stream_fields={"stream": True},
    has_unsigned_reasoning=True,
)
