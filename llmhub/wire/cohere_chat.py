"""Cohere's chat: version 2 of its own API, which has what its OpenAI-compatible endpoint lacks.

What differs here:

- ``top_p``, ``top_k`` and ``stop`` are ``p``, ``k`` and ``stop_sequences``. A choice of tools is ``REQUIRED`` or
  ``NONE``, one by name only if there is no other, and strictness is that of all tools.
- How long a model thinks is a budget of tokens, or off. Its thinking is a block of the content; an older model's plan
  for its tools is a text beside it. Both are reasoning.
- What is billed (``billed_units``) is less than what the model read (``tokens``): the counts here are the billed ones.
- Citations are objects beside the content, each with its place in it. Errors are a bare ``message``.
- A stream's events name their type in the data as well, and end with ``message-end``.

Source: https://docs.cohere.com/reference/chat, https://docs.cohere.com/docs/streaming and recorded exchanges
(read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import AuthFailed, ContextTooLong, LLMError, Malformed, NotFound
from llmhub.core.framing import Frame
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, Wire
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, StreamStarted, UsageDelta, assemble_response
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    FinishReason,
    Image,
    Message,
    Opaque,
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
from llmhub.wire.errors import CONTEXT_PHRASES, MODEL_PHRASES, REQUEST_PHRASES, ErrorTable, classify_error
from llmhub.wire.readers import as_count, as_mapping, as_text, encode_compact, error_body, error_message, iter_objects
from llmhub.wire.writers import (
    CITATION,
    Param,
    check_no_error_flag,
    check_part_allowed,
    decode_opaque,
    encode_parameters,
    foreign_part_error,
    inline_data,
    unsupported_parameter,
)

FINISH: Final[Mapping[str, FinishReason]] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR_TOXIC": "content_filter",
}

PARAMS: Final = (
    Param("temperature", "temperature", 0, 1),
    Param("top_p", "p", 0.01, 0.99),
    Param("top_k", "k", 0, 500),
    Param("max_tokens", "max_tokens", 1),
    Param("stop", "stop_sequences", 1, 5),
    Param("seed", "seed", 0),
    Param("presence_penalty", "presence_penalty", 0, 1),
    Param("frequency_penalty", "frequency_penalty", 0, 1),
)

ERRORS: Final = ErrorTable(
    phrases=(
        *CONTEXT_PHRASES,
        ("too many tokens", ContextTooLong),
        ("invalid api token", AuthFailed),
        ("no api key supplied", AuthFailed),
        ("was removed on", NotFound),
        *MODEL_PHRASES,
        *REQUEST_PHRASES,
    )
)

TOOL_CHOICES: Final = {"required": "REQUIRED", "none": "NONE"}
NO_THINKING: Final[Payload] = {"thinking": {"type": "disabled"}}

PLAN_INDEX: Final = 0
"""Index of the plan for tools among the parts of a streamed answer."""
FIRST_CONTENT_INDEX: Final = 1
"""Index of the first block of the content."""
FIRST_CALL_INDEX: Final = 1 << 20
"""Index of the first tool call, after all blocks."""
FIRST_CITATION_INDEX: Final = 1 << 21
"""Index of the first citation, after all calls."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request as the body of a chat."""
    parameters = encode_parameters(request, PARAMS)
    if not is_successful(parameters):
        return parameters
    features = _features(request)
    if not is_successful(features):
        return features
    messages: list[Payload] = []
    for index, message in enumerate(request.messages):
        turn = _turn(message, index)
        if not is_successful(turn):
            return Failure(turn.failure())
        messages.extend(turn.unwrap())
    return Success({"model": request.model, "messages": messages, **parameters.unwrap(), **features.unwrap()})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode the body of a chat's answer."""
    if not isinstance(payload.get("message"), dict):
        if isinstance(payload.get("message"), str):
            return Failure(_error(payload, None))
        return Failure(Malformed(path="$.message", message="expected an object"))
    answer = ([part for _, part in _parts(as_mapping(payload["message"]))], _finish_reason(payload))
    return Success(
        assemble_response([answer], usage=_usage(payload), served_model="", request_id=as_text(payload.get("id")))
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one event of a stream."""
    if frame.data.strip() == b"[DONE]":
        return Success(())
    return parse_json_object(frame.data).bind(_event)


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply, whose ``message`` is a text."""
    return _error(error_body(reply.body), reply.status)


# Streams


def _event(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    delta = as_mapping(payload.get("delta"))
    message = as_mapping(delta.get("message"))
    match payload.get("type"):
        case "message-start":
            return Success((StreamStarted("", as_text(payload.get("id"))),))
        case "message-end":
            if as_text(delta.get("error")):
                return Failure(_error({"message": delta.get("error")}, None))
            return Success((UsageDelta(_usage(delta)), ChoiceFinished(_finish_reason(delta))))
        case None if isinstance(payload.get("message"), str):
            return Failure(_error(payload, None))
        case _:
            return Success(tuple(_deltas(message, as_count(payload.get("index")) or 0)))


def _deltas(message: Mapping[str, object], index: int) -> list[Delta]:
    """Decode what an event adds to the part at ``index``."""
    deltas: list[Delta] = []
    if as_text(message.get("tool_plan")):
        deltas.append(Fragment(PLAN_INDEX, Reasoning(as_text(message.get("tool_plan")))))
    block = as_mapping(message.get("content"))
    deltas += [Fragment(FIRST_CONTENT_INDEX + index, part) for part in _block(block)]
    call = as_mapping(message.get("tool_calls"))
    if call:
        deltas.append(Fragment(FIRST_CALL_INDEX + index, _tool_call(call)))
    citation = as_mapping(message.get("citations"))
    if citation:
        deltas.append(Fragment(FIRST_CITATION_INDEX + index, Opaque(CITATION, encode_compact(citation))))
    return deltas


# Responses


def _parts(message: Mapping[str, object]) -> list[tuple[int, Part]]:
    """Decode a message's plan, content, tool calls and citations, each with its index."""
    parts: list[tuple[int, Part]] = []
    if as_text(message.get("tool_plan")):
        parts.append((PLAN_INDEX, Reasoning(as_text(message.get("tool_plan")))))
    for index, block in enumerate(iter_objects(message.get("content"))):
        parts += [(FIRST_CONTENT_INDEX + index, part) for part in _block(block)]
    for index, call in enumerate(iter_objects(message.get("tool_calls"))):
        parts.append((FIRST_CALL_INDEX + index, _tool_call(call)))
    for index, citation in enumerate(iter_objects(message.get("citations"))):
        parts.append((FIRST_CITATION_INDEX + index, Opaque(CITATION, encode_compact(citation))))
    return parts


def _block(block: Mapping[str, object]) -> list[Part]:
    """Decode one block of the content, or what an event adds to one."""
    if isinstance(block.get("thinking"), str):
        return [Reasoning(as_text(block.get("thinking")))]
    return [Text(as_text(block.get("text")))] if isinstance(block.get("text"), str) else []


def _tool_call(call: Mapping[str, object]) -> ToolCall:
    function = as_mapping(call.get("function"))
    return ToolCall(as_text(call.get("id")), as_text(function.get("name")), as_text(function.get("arguments")))


def _usage(payload: Mapping[str, object]) -> Usage:
    """Decode the tokens that are billed, or else those that were read and written."""
    usage = as_mapping(payload.get("usage"))
    counts = as_mapping(usage.get("billed_units")) or as_mapping(usage.get("tokens"))
    return Usage(input_tokens=as_count(counts.get("input_tokens")), output_tokens=as_count(counts.get("output_tokens")))


def _finish_reason(payload: Mapping[str, object]) -> FinishReason:
    return FINISH.get(as_text(payload.get("finish_reason")), "other")


def _error(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Decode the text of an error."""
    return classify_error(ERRORS, status=status, codes=[], message=error_message(payload.get("message"), payload))


# Requests


def _turn(message: Message, message_index: int) -> Result[list[Payload], LLMError]:
    """Encode one message; each tool result becomes a message of its own before the rest."""
    content: list[Payload] = []
    calls: list[Payload] = []
    citations: list[Payload] = []
    results: list[Payload] = []
    for part_index, part in enumerate(message.parts):
        path = f"$.messages[{message_index}].parts[{part_index}]"
        error = check_part_allowed(part, message.role, path)
        if error is None and isinstance(part, ToolResult):
            error = check_no_error_flag(part, path)
        if error:
            return Failure(error)
        match part:
            case ToolCall(call_id, name, arguments):
                function = {"name": name, "arguments": arguments or "{}"}
                calls.append({"id": call_id, "type": "function", "function": function})
            case ToolResult(call_id, result) if isinstance(result, str) or all(isinstance(it, Text) for it in result):
                text = result if isinstance(result, str) else join_text(result)
                results.append({"role": "tool", "tool_call_id": call_id, "content": text})
            case Opaque(kind="citation"):
                citations.append(decode_opaque(part))
            case _:
                block = _content_block(part)
                if block is None:
                    return Failure(foreign_part_error(part, path))
                content.append(block)
    fields = {"tool_calls": calls, "citations": citations}
    turn: Payload = {
        "role": "user" if message.role == "tool" else message.role,
        **({"content": _content(content)} if content or not calls else {}),
        **{name: value for name, value in fields.items() if value},
    }
    return Success([*results, turn] if content or calls or not results else results)


def _content(blocks: list[Payload]) -> object:
    """Return a single text as a string, and anything else as blocks."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks or ""


def _content_block(part: Part) -> Payload | None:
    """Encode a part as a block of the content, ``None`` if it is none."""
    match part:
        case Text(text) | Refusal(text):
            return {"type": "text", "text": text}
        case Reasoning(text, redacted=""):
            return {"type": "thinking", "thinking": text}
        case Image():
            return {"type": "image_url", "image_url": _image(part)}
        case _:
            return None


def _image(part: Image) -> Payload:
    """Encode an image by its address, or inline."""
    inline = inline_data(part)
    url = part.url if inline is None else f"data:{inline[0]};base64,{inline[1]}"
    return {"url": url, **({"detail": part.detail} if part.detail else {})}


def _features(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode tools, structured output, and how long to think."""
    payload: Payload = {}
    if request.reasoning_effort == "none":
        payload |= NO_THINKING
    elif request.reasoning_effort is not None:
        message = "this API takes reasoning_budget, or 'none'"
        return Failure(unsupported_parameter("reasoning_effort", message))
    if request.reasoning_budget is not None:
        thinking = {"type": "enabled", "token_budget": request.reasoning_budget}
        payload |= {"thinking": thinking} if request.reasoning_budget else NO_THINKING
    if request.tools:
        payload["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in request.tools
        ]
        if any(tool.strict for tool in request.tools):
            payload["strict_tools"] = True
    if request.tool_choice not in {None, "auto"}:
        is_only = [tool.name for tool in request.tools] == [request.tool_choice]
        choice = "REQUIRED" if is_only else TOOL_CHOICES.get(request.tool_choice or "")
        if choice is None:
            return Failure(unsupported_parameter("tool_choice", "this API cannot be told which tool to call"))
        payload["tool_choice"] = choice
    if request.response_schema is not None:
        payload["response_format"] = {"type": "json_object", "json_schema": request.response_schema.schema}
    return Success(payload)


WIRE: Final = Wire(
    name="cohere_chat",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=_usage,
    stream_fields={"stream": True},
)
