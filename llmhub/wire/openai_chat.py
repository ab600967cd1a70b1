"""OpenAI Chat Completions, and what its many compatible servers make of it.

What differs here: system turns are messages; counts include what was cached and what was reasoned; a
stream tells its usage only when asked, in a closing chunk without choices; compatible servers send
content as a list, reasoning under another name, tool calls without an index or an id, and errors inside
a 200. Reasoning goes back where a server takes it; its row leaves it out where not. A call without an id
gets one made of its answer's id, name and arguments. Some servers leave
reasoning out of the completion's tokens, and only the total tells. ``[DONE]`` completes an answer whose
server never said why it ended.

Source: https://platform.openai.com/docs/api-reference/chat and the types of openai 3.54.0 (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed, Unsupported
from llmhub.core.framing import Frame
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, Wire
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, StreamStarted, UsageDelta, assemble_response
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    CompletionResponse,
    Document,
    FinishReason,
    Image,
    Logprobs,
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
from llmhub.wire.errors import OPENAI_ERRORS, classify_error
from llmhub.wire.fast_path import parse_plain_chat, parse_plain_chat_chunk
from llmhub.wire.logprobs import LOGPROBS_INDEX, decode_logprobs
from llmhub.wire.readers import (
    as_count,
    as_mapping,
    as_text,
    capped_count,
    encode_compact,
    generate_call_id,
    iter_objects,
    require_list,
)
from llmhub.wire.writers import (
    Param,
    attach_cache_mark,
    cache_control,
    check_no_error_flag,
    decode_opaque,
    encode_parameters,
    inline_data,
)

FINISH: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
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
    Param("parallel_tool_calls", "parallel_tool_calls"),
    Param("n", "n", 1, 128),
    Param("logprobs", "top_logprobs", 0, 20),
    Param("user", "user"),
)

MID_STREAM: Final = {"invalid_request_error": 400, "invalid_parameter_error": 400}
"""Statuses that an error's type stands for where it came inside a 200, without a status of its own."""

REASONING: Final = ("reasoning_content", "reasoning")
"""Names under which compatible servers put the reasoning's text."""
CHOICES: Final = frozenset({"auto", "none", "required"})


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as a Chat Completions body."""
    sampling = encode_parameters(request, PARAMS)
    if not is_successful(sampling):
        return sampling
    if request.reasoning_budget is not None:
        return Failure(Unsupported(path="$.reasoning_budget", message="this wire takes reasoning_effort, not a budget"))
    turns: list[Payload] = []
    for at, message in enumerate(request.messages):
        turn = _turn(message, at)
        if not is_successful(turn):
            return Failure(turn.failure())
        turns.extend(turn.unwrap())
    return Success({"model": request.model, "messages": turns, **sampling.unwrap(), **_abilities(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Read a Chat Completions body."""
    if payload.get("error"):
        return Failure(_failure(payload, None))
    choices = require_list(payload, "choices")
    if not is_successful(choices):
        return Failure(choices.failure())
    origin = as_text(payload.get("id"))
    answers = []
    for at, choice in enumerate(choices.unwrap()):
        # A filtered answer may have a reason and no message.
        if not isinstance(choice, dict) or not (isinstance(choice.get("message"), dict) or choice.get("finish_reason")):
            return Failure(Malformed(path=f"$.choices[{at}].message", message="expected an object"))
        parts = [*_parts(as_mapping(choice.get("message")), origin), *_scores(choice)]
        answers.append((parts, _finish(choice.get("finish_reason"))))
    if not answers:
        return Failure(Malformed(path="$.choices", message="there is no answer in it"))
    return Success(
        assemble_response(
            answers,
            usage=_usage(_counts(payload)),
            served_model=as_text(payload.get("model")),
            request_id=origin,
        )
    )


def decode_fast(body: bytes) -> CompletionResponse | None:
    """Read the plainest of bodies quickly. Law: it gives nothing, or what `decode` gives."""
    found = parse_plain_chat(body)
    if found is None:
        return None
    only = found.choices[0]
    answer = ((Text(only.message.content),), _finish(only.finish_reason))
    return assemble_response([answer], usage=_usage(found.usage), served_model=found.model, request_id=found.id)


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Read one chunk of a stream; the plainest quickly."""
    found = parse_plain_chat_chunk(frame.data)
    if found is not None:
        piece = found.choices[0]
        return Success((StreamStarted(found.model, found.id), Fragment(1, Text(piece.delta.content), piece.index)))
    if frame.data.strip() == b"[DONE]":
        return Success((ChoiceFinished("other"),))
    return parse_json_object(frame.data).bind(_chunk)


def decode_error(reply: HttpReply) -> LLMError:
    """Read an error reply: an ``error`` object or string, or a bare ``message`` or ``detail``."""
    body = parse_json_object(reply.body)
    said = body.unwrap() if is_successful(body) else {"message": reply.body.decode("utf-8", "replace")}
    return _failure(said, reply.status)


def _chunk(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Read a chunk's choices, and its usage wherever it stands."""
    if payload.get("error"):
        return Failure(_failure(payload, None))
    deltas: list[Delta] = [StreamStarted(as_text(payload.get("model")), as_text(payload.get("id")))]
    for choice in iter_objects(payload.get("choices")):
        deltas.extend(_deltas(choice, as_text(payload.get("id"))))
    usage = _counts(payload)
    if usage:
        deltas.append(UsageDelta(_usage(usage)))
    return Success(tuple(deltas))


def _deltas(choice: Mapping[str, object], origin: str) -> list[Delta]:
    """Read one choice of a chunk. Reasoning stands before text, text before calls, as in a whole message."""
    which = as_count(choice.get("index")) or 0
    delta = as_mapping(choice.get("delta")) or as_mapping(choice.get("message"))
    kinds = {Reasoning: 0, Text: 1, Refusal: 2}
    whole: list[Part] = []
    found: list[Delta] = [
        Fragment(kinds[type(part)], part, which) for part in _parts(delta, origin) if type(part) in kinds
    ]
    for call in iter_objects(delta.get("tool_calls")):
        index = as_count(call.get("index"))
        if index is None:
            # Without an index a call comes whole, and its id tells it from the others.
            part = _identified(_call(call), origin, whole)
            whole.append(part)
            found.append(Fragment(FIRST_CALL, part, which, part.id))
        else:
            found.append(Fragment(FIRST_CALL + index, _call(call), which))
    legacy = as_mapping(delta.get("function_call"))
    if legacy:
        found.append(Fragment(FIRST_CALL, _call({"function": legacy}), which))
    found += [Fragment(LOGPROBS_INDEX, part, which) for part in _scores(choice)]
    if choice.get("finish_reason"):
        found.append(ChoiceFinished(_finish(choice.get("finish_reason")), which))
    return found


FIRST_CALL: Final = 3
"""Index of the first tool call among the parts of a streamed answer."""


def _parts(message: Mapping[str, object], origin: str) -> list[Part]:
    """Read a message's reasoning, content, refusal and calls."""
    parts: list[Part] = []
    thought = next((said for name in REASONING if (said := as_text(message.get(name)))), "")
    if thought:
        parts.append(Reasoning(thought))
    content = message.get("content")
    if isinstance(content, str):
        parts.append(Text(content))
    else:
        parts.extend(part for block in iter_objects(content) for part in _block(block))
    if message.get("audio"):
        parts.append(Text(as_text(as_mapping(message.get("audio")).get("transcript"))))
    if as_text(message.get("refusal")):
        parts.append(Refusal(as_text(message.get("refusal"))))
    for call in iter_objects(message.get("tool_calls")):
        parts.append(_identified(_call(call), origin, parts))
    legacy = as_mapping(message.get("function_call"))
    if legacy:
        parts.append(_call({"function": legacy}))
    return parts


def _scores(choice: Mapping[str, object]) -> list[Logprobs]:
    return decode_logprobs(as_mapping(choice.get("logprobs")).get("content"))


def _block(block: Mapping[str, object]) -> list[Part]:
    """Read one part of a content list."""
    match block.get("type"):
        case "text" | "output_text":
            return [Text(as_text(block.get("text")))]
        case "refusal":
            return [Refusal(as_text(block.get("refusal")))]
        case "thinking" | "reasoning":
            inner = block.get("thinking") or block.get("summary")
            said = (
                inner
                if isinstance(inner, str)
                else "".join(as_text(piece.get("text")) for piece in iter_objects(inner))
            )
            return [Reasoning(said, as_text(block.get("signature")))]
        case _:
            return []


def _call(call: Mapping[str, object]) -> ToolCall:
    """Read a tool call, or a fragment of one; arguments that came as an object are written as JSON."""
    function = as_mapping(call.get("function")) or as_mapping(call.get("custom"))
    arguments = function.get("arguments", function.get("input"))
    said = arguments if isinstance(arguments, str) else "" if arguments is None else encode_compact(arguments)
    return ToolCall(as_text(call.get("id")), as_text(function.get("name")), said)


def _identified(call: ToolCall, origin: str, before: list[Part]) -> ToolCall:
    """Give a whole call an id where it came without."""
    return call if call.id else replace(call, id=generate_call_id(origin, call.name, call.arguments, before))


def _counts(payload: Mapping[str, object]) -> Mapping[str, object]:
    """Find the usage: at the top, in a choice, or under Groq's extension."""
    for place in (payload, as_mapping(payload.get("x_groq")), *iter_objects(payload.get("choices"))):
        usage = as_mapping(place.get("usage"))
        if usage:
            return usage
    return {}


def _usage(usage: Mapping[str, object]) -> Usage:
    """Read token counts; what the total holds beyond the prompt is output, and no class exceeds its whole."""
    prompt, completion = as_count(usage.get("prompt_tokens")), as_count(usage.get("completion_tokens"))
    inputs = as_mapping(usage.get("prompt_tokens_details"))
    outputs = as_mapping(usage.get("completion_tokens_details"))
    whole = as_count(usage.get("total_tokens"))
    if prompt is not None and completion is not None and whole is not None:
        completion = max(completion, whole - prompt)
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cached_input_tokens=capped_count(prompt, inputs.get("cached_tokens"), usage.get("prompt_cache_hit_tokens")),
        cache_write_tokens=capped_count(prompt, inputs.get("cache_write_tokens")),
        reasoning_tokens=capped_count(completion, outputs.get("reasoning_tokens"), usage.get("reasoning_tokens")),
    )


def _finish(reason: object) -> FinishReason:
    return FINISH.get(as_text(reason), "other")


def _failure(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Read the error in a body, wherever this server puts it."""
    error = payload.get("error")
    said = as_mapping(error) or payload
    code = said.get("code")
    codes = [
        str(name) for name in (code, said.get("type"), said.get("status")) if isinstance(name, (str, int)) and name
    ]
    message = said.get("message") or said.get("detail") or error
    if status is None:
        status = as_count(code) or MID_STREAM.get(as_text(said.get("type"))) or MID_STREAM.get(as_text(code))
    return classify_error(
        OPENAI_ERRORS,
        status=status,
        codes=codes,
        message=message if isinstance(message, str) else encode_compact(message or dict(said)),
    )


def _turn(message: Message, at: int) -> Result[list[Payload], LLMError]:
    """Write one turn; each tool result becomes a message of its own."""
    content: list[Payload] = []
    calls: list[Payload] = []
    results: list[Payload] = []
    thoughts: list[str] = []
    for index, part in enumerate(message.parts):
        path = f"$.messages[{at}].parts[{index}]"
        wrong: LLMError | None = None
        match part:
            case ToolCall(call, name, arguments):
                function = {"name": name, "arguments": arguments}
                calls.append({"id": call, "type": "function", "function": function})
            case ToolResult(call, said) if isinstance(said, str) or all(isinstance(piece, Text) for piece in said):
                wrong = check_no_error_flag(part, path)
                told = said if isinstance(said, str) else join_text(said)
                results.append({"role": "tool", "tool_call_id": call, "content": told})
            case CacheMark():
                wrong = attach_cache_mark(
                    content, {"prompt_cache_breakpoint": cache_control(part, mode="explicit")}, path
                )
            case Reasoning(said, redacted=""):
                thoughts.append(said)
            case _ if (block := _part(part)) is not None:
                content.append(block)
            case _:
                wrong = Unsupported(path=path, message=f"{type(part).__name__} cannot be said on this wire")
        if wrong is not None:
            return Failure(wrong)
    plain = len(content) == 1 and content[0].keys() == {"type", "text"}
    turn: Payload = {"role": message.role, "content": content[0]["text"] if plain else content or None}
    if calls:
        turn["tool_calls"] = calls
    if any(thoughts):
        turn[REASONING[0]] = "".join(thoughts)
    return Success(results + [turn] * bool(content or calls or not results))


def _part(part: Part) -> Payload | None:
    """Write a part of a turn's content; of those kept whole, only this wire's own."""
    match part:
        case Text(said):
            return {"type": "text", "text": said}
        case Image():
            return _image(part)
        case Document() if (held := inline_data(part)) is not None and all(held):
            return _file(part.name, *held)
        case Refusal(said):
            return {"type": "refusal", "refusal": said}
        case Opaque(kind) if (whole := decode_opaque(part)).get("type") == kind:
            return whole
        case _:
            return None


def _image(image: Image) -> Payload:
    url: Payload = {"url": image.url or f"data:{image.media_type};base64,{image.data}"}
    if image.detail:
        url["detail"] = image.detail
    return {"type": "image_url", "image_url": url}


def _file(name: str, kind: str, data: str) -> Payload:
    file = {"filename": name or f"file.{kind.rpartition('/')[2]}", "file_data": f"data:{kind};base64,{data}"}
    return {"type": "file", "file": file}


def _abilities(request: CompletionRequest) -> Payload:
    """Write tools, structured output and reasoning."""
    payload: Payload = {}
    if request.tools:
        payload["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    **({} if tool.strict is None else {"strict": tool.strict}),
                },
            }
            for tool in request.tools
        ]
    if request.tool_choice is not None:
        named = {"type": "function", "function": {"name": request.tool_choice}}
        payload["tool_choice"] = request.tool_choice if request.tool_choice in CHOICES else named
    if request.response_schema is not None:
        wanted = request.response_schema
        schema = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
        payload["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.logprobs is not None:
        payload["logprobs"] = True
    if request.reasoning_effort is not None:
        payload["reasoning_effort"] = request.reasoning_effort
    return payload


WIRE: Final = Wire(
    name="openai_chat",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_fast=decode_fast,
    decode_usage=lambda payload: _usage(_counts(payload)),
    stream_fields={"stream": True, "stream_options": {"include_usage": True}},
)
