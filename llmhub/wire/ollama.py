"""Ollama's own chat, which has what its compatible endpoint lacks: how to think, and every option of the model.

What differs here: a stream is lines of JSON, and what is asked comes as one unless told otherwise; options are an
object; arguments are objects; pictures stand beside the text as bare base64; results name their function, taken from
the call with that id where the caller did not say. ``stop`` is said even when tools are called. Effort is ``think``:
off, on, or a level. A choice of tools, several answers, addresses and documents cannot be said; a schema's name and
strictness have no place. A call without an id gets one made of its place and content.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and recorded exchanges (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import ContextTooLong, LLMError, Malformed, Unsupported
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
from llmhub.wire.errors import ErrorTable, classify_error
from llmhub.wire.fast_path import parse_plain_ollama_line
from llmhub.wire.logprobs import LOGPROBS_INDEX, decode_logprobs
from llmhub.wire.readers import as_count, as_mapping, as_text, encode_compact, generate_call_id, iter_objects
from llmhub.wire.writers import (
    Param,
    check_no_error_flag,
    check_part_allowed,
    decode_arguments,
    encode_parameters,
    inline_data,
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

ERRORS: Final = ErrorTable(phrases=(("context length", ContextTooLong),))
THINK: Final[Mapping[str, bool | str]] = {"none": False, "low": "low", "medium": "medium", "high": "high"}
FIRST_CALL: Final = 2
"""Index of the first tool call among the parts of a streamed answer; reasoning and text stand before it."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as the body of a chat."""
    sampling = encode_parameters(request, PARAMS)
    if not is_successful(sampling):
        return sampling
    abilities = _abilities(request)
    if not is_successful(abilities):
        return abilities
    turns: list[Payload] = []
    names: dict[str, str] = {}
    for at, message in enumerate(request.messages):
        turn = _turn(message, at, names)
        if not is_successful(turn):
            return Failure(turn.failure())
        turns.extend(turn.unwrap())
    said = {name: value for name, value in sampling.unwrap().items() if name != "top_logprobs"}
    options = {"options": said} if said else {}
    return Success({"model": request.model, "messages": turns, "stream": False, **options, **abilities.unwrap()})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Read a whole answer."""
    if payload.get("error"):
        return Failure(_failure(payload, None))
    if not isinstance(payload.get("message"), dict):
        return Failure(Malformed(path="$.message", message="expected an object"))
    parts = [part for _, part in _parts(payload)]
    return Success(
        assemble_response(
            [(parts, _finish(payload))], usage=_usage(payload), served_model=as_text(payload.get("model"))
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Read one line of a stream: what is new; the last tells the counts. The plainest quickly."""
    found = parse_plain_ollama_line(frame.data)
    if found is not None:
        return Success((StreamStarted(found.model), Fragment(1, Text(found.message.content))))
    return parse_json_object(frame.data).bind(_deltas)


def decode_error(reply: HttpReply) -> LLMError:
    """Read an error reply: ``error`` is a text."""
    body = parse_json_object(reply.body)
    said = body.unwrap() if is_successful(body) else {"error": reply.body.decode("utf-8", "replace")}
    return _failure(said, reply.status)


def _deltas(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Read a line; a call comes whole in one, whose time tells it from an equal call of another."""
    if payload.get("error"):
        return Failure(_failure(payload, None))
    found: list[Delta] = [StreamStarted(as_text(payload.get("model")))]
    for index, part in _parts(payload):
        key = f"{payload.get('created_at')} {part.id}" if isinstance(part, ToolCall) else ""
        found.append(Fragment(index, part, 0, key))
    if payload.get("done") is True:
        found += [UsageDelta(_usage(payload)), ChoiceFinished(_finish(payload))]
    return Success(tuple(found))


def _parts(payload: Payload) -> list[tuple[int, Part]]:
    """Read a message's reasoning, text and calls, each with its place."""
    message = as_mapping(payload.get("message"))
    thought, said = as_text(message.get("thinking")), as_text(message.get("content"))
    found: list[tuple[int, Part]] = [*[(0, Reasoning(thought))] * bool(thought), (1, Text(said))]
    for place, call in enumerate(iter_objects(message.get("tool_calls"))):
        function = as_mapping(call.get("function"))
        index = as_count(function.get("index"))
        name, arguments = as_text(function.get("name")), encode_compact(function.get("arguments") or {})
        at = place if index is None else index
        found.append(
            (
                FIRST_CALL + at,
                ToolCall(as_text(call.get("id")) or generate_call_id(str(at), name, arguments, ()), name, arguments),
            )
        )
    return found + [(LOGPROBS_INDEX, part) for part in decode_logprobs(payload.get("logprobs"))]


def _usage(payload: Payload) -> Usage:
    """Read token counts; a prompt that was kept whole from before is not counted at all."""
    return Usage(
        input_tokens=as_count(payload.get("prompt_eval_count")), output_tokens=as_count(payload.get("eval_count"))
    )


def _finish(payload: Payload) -> FinishReason:
    return FINISH.get(as_text(payload.get("done_reason")), "other")


def _failure(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Read the text of an error."""
    said = payload.get("error") or payload.get("message")
    words = said if isinstance(said, str) else encode_compact(said or dict(payload))
    return classify_error(ERRORS, status=status, codes=[], message=words)


def _turn(message: Message, at: int, names: dict[str, str]) -> Result[list[Payload], LLMError]:
    """Write one turn, its results before the rest of it; ``names`` gathers which function each call is of."""
    results: list[Payload] = []
    images: list[str] = []
    calls: list[Payload] = []
    for index, part in enumerate(message.parts):
        path = f"$.messages[{at}].parts[{index}]"
        wrong = check_part_allowed(part, message.role, path) or (
            check_no_error_flag(part, path) if isinstance(part, ToolResult) else None
        )
        if wrong:
            return Failure(wrong)
        match part:
            case Text() | Refusal() | Reasoning(redacted=""):
                continue
            case Image() if held := inline_data(part):
                images.append(held[1])
            case ToolCall(call, name):
                arguments = decode_arguments(part, path)
                if not is_successful(arguments):
                    return Failure(arguments.failure())
                names[call] = name
                calls.append({"id": call, "function": {"name": name, "arguments": arguments.unwrap()}})
            case ToolResult(call, said, name) if isinstance(said, str) or all(isinstance(one, Text) for one in said):
                told = said if isinstance(said, str) else join_text(said)
                named = name or names.get(call, "")
                results.append({"role": "tool", "content": told, "tool_call_id": call, "tool_name": named})
            case _:
                return Failure(Unsupported(path=path, message=f"{type(part).__name__} cannot be said on this wire"))
    words = [part for part in message.parts if isinstance(part, (Text, Refusal))]
    thought = "".join(part.text for part in message.parts if isinstance(part, Reasoning))
    beside = {"thinking": thought, "images": images, "tool_calls": calls}
    role = "user" if message.role == "tool" else message.role
    rest: Payload = {
        "role": role,
        "content": "".join(part.text for part in words),
        **{k: v for k, v in beside.items() if v},
    }
    return Success(results + [rest] * bool(words or images or calls or thought or not results))


def _abilities(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write tools, structured output and how to think."""
    payload: Payload = {}
    if request.reasoning_budget is not None:
        return Failure(Unsupported(path="$.reasoning_budget", message="this wire takes reasoning_effort, not a budget"))
    if request.reasoning_effort is not None:
        if request.reasoning_effort not in THINK:
            said = f"{request.reasoning_effort!r} is none of this wire's efforts, {', '.join(THINK)}"
            return Failure(Unsupported(path="$.reasoning_effort", message=said))
        payload["think"] = THINK[request.reasoning_effort]
    if request.tool_choice not in {None, "auto"}:
        return Failure(Unsupported(path="$.tool_choice", message="on this wire the model alone chooses a tool"))
    if request.tools:
        functions = [
            {"name": it.name, "description": it.description, "parameters": it.parameters} for it in request.tools
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
)
