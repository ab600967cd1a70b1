"""Anthropic's Messages, as its own API and Vertex AI speak it.

What differs here: system turns are gathered in ``system`` wherever they stand; roles alternate, so tool
results are blocks of a user turn and neighbours of one role are joined; ``max_tokens`` must be said. Input
counts leave out what was read from and written to the cache; a stream tells them first, and the rest
cumulatively as it ends. What a server tool did comes as blocks of its own, kept whole. A citation follows
the text it belongs to. A thought goes back with its signature, an empty one too.

A schema's name and strictness, and the name in a tool's result, have no place; a budget decides over an effort.

Source: https://platform.claude.com/docs/en/api/messages and the types of anthropic 2.12.0 (read 2026-11-22).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import (
    AuthFailed,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    Malformed,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
    Unsupported,
    with_context,
)
from llmhub.core.framing import Frame
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, Wire
from llmhub.core.stream import (
    ARGUMENTS_PLACEHOLDER,
    ChoiceFinished,
    Delta,
    Fragment,
    StreamStarted,
    UsageDelta,
    assemble_response,
)
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    CompletionResponse,
    Document,
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
)
from llmhub.wire.errors import ErrorTable, classify_error
from llmhub.wire.readers import (
    as_count,
    as_list,
    as_mapping,
    as_text,
    encode_compact,
    iter_objects,
    require_list,
    sum_counts,
)
from llmhub.wire.writers import (
    CITATION,
    Param,
    attach_cache_mark,
    cache_control,
    check_part_allowed,
    decode_arguments,
    decode_opaque,
    encode_parameters,
    encode_result_parts,
    inline_data,
    is_citation,
    media_type_error,
    merge_adjacent_messages,
)

FINISH: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}

PARAMS: Final = (
    Param("temperature", "temperature", 0, 1),
    Param("top_p", "top_p", 0, 1),
    Param("top_k", "top_k", 0),
    Param("max_tokens", "max_tokens", 0),
    Param("stop", "stop_sequences", 1),
    Param("parallel_tool_calls", "parallel"),
    Param("user", "user_id"),
)

ERRORS: Final = ErrorTable(
    # An invalid_request_error is told apart by its words, so it is not among the codes.
    codes={
        **{f"{who}_spend_limit_reached": QuotaExhausted for who in ("enforced", "contract", "linked_organization")},
        "authentication_error": AuthFailed,
        "billing_error": QuotaExhausted,
        "permission_error": PermissionDenied,
        "not_found_error": NotFound,
        "request_too_large": ContextTooLong,
        "rate_limit_error": RateLimited,
        "api_error": ServerError,
        "timeout_error": TimedOut,
        "overloaded_error": Overloaded,
    },
    phrases=(
        ("prompt is too long", ContextTooLong),
        ("exceed context limit", ContextTooLong),
        ("credit balance is too low", QuotaExhausted),
        ("api usage limits", QuotaExhausted),
        ("content filtering policy", ContentFiltered),
    ),
)

MAX_TOKENS: Final = 4096
"""Sent where the caller set no bound, since this wire must have one; a budget for reasoning is added to it."""
MIN_BUDGET: Final = 1024
EFFORTS: Final = ("none", "low", "medium", "high", "xhigh", "max")
CHOICES: Final = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}
INLINE: Final[Mapping[type[Part], frozenset[str]]] = {
    Image: frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"}),
    Document: frozenset({"application/pdf"}),
}
BESIDE: Final = ("caller", "toolset_name")
"""What a call may say beside its arguments and must be told again: kept as its signature."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as a Messages body."""
    sampling, answer = encode_parameters(request, PARAMS), _answer(request)
    for written in (sampling, answer):
        if not is_successful(written):
            return written
    system: list[Payload] = []
    turns: list[tuple[str, list[Payload]]] = []
    for at, message in enumerate(request.messages):
        turn = _turn(message, at)
        if not is_successful(turn):
            return Failure(turn.failure())
        if message.role == "system":
            system.extend(turn.unwrap())
        else:
            turns.append(("assistant" if message.role == "assistant" else "user", turn.unwrap()))
    said = sampling.unwrap()
    user, _ = said.pop("user_id", None), said.pop("parallel", None)
    payload: Payload = {
        "model": request.model,
        "max_tokens": MAX_TOKENS + (request.reasoning_budget or 0),
        "messages": [{"role": role, "content": _plain(blocks)} for role, blocks in merge_adjacent_messages(turns)],
        **({"system": _plain(system)} if system else {}),
        **said,
        **({} if user is None else {"metadata": {"user_id": user}}),
    }
    return Success({**payload, **answer.unwrap(), **_tools(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Read a Messages body."""
    if payload.get("error"):
        return Failure(_failure(payload, None))
    content = require_list(payload, "content")
    if not is_successful(content):
        return Failure(content.failure())
    parts: list[Part] = []
    for at, block in enumerate(content.unwrap()):
        if not isinstance(block, dict):
            return Failure(Malformed(path=f"$.content[{at}]", message="expected an object"))
        parts.extend(_block(block))
    parts.extend(_refusal(payload))
    return Success(
        assemble_response(
            [(parts, _finish(payload.get("stop_reason")))],
            usage=_usage(as_mapping(payload.get("usage"))),
            served_model=as_text(payload.get("model")),
            request_id=as_text(payload.get("id")),
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Read one event of a stream; one that is not in the table says nothing of the answer."""
    return parse_json_object(frame.data).bind(_event)


def decode_error(reply: HttpReply) -> LLMError:
    """Read an error reply: an ``error`` object with its type, or whatever text came instead."""
    body = parse_json_object(reply.body)
    said = body.unwrap() if is_successful(body) else {"message": reply.body.decode("utf-8", "replace")}
    return _failure(said, reply.status)


def _event(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Read an event by its type."""
    if payload.get("error"):
        return Failure(_failure(payload, None))
    reader = EVENTS.get(as_text(payload.get("type")))
    return Success(tuple(reader(payload)) if reader else ())


def _message(payload: Payload) -> list[Delta]:
    """Read how a message begins: who answers, and the input's counts."""
    message = as_mapping(payload.get("message"))
    started = StreamStarted(as_text(message.get("model")), as_text(message.get("id")))
    return [started, UsageDelta(_usage(as_mapping(message.get("usage"))))]


def _opening(payload: Payload) -> list[Delta]:
    """Read how a block begins; one that is kept whole waits for its input."""
    block = as_mapping(payload.get("content_block"))
    return _fragments(payload, _block({**block, "input": WAITING} if block.get("input") == {} else block))


def _deltas(payload: Payload) -> list[Delta]:
    """Read what a block grows by."""
    delta = as_mapping(payload.get("delta"))
    grow = GROWTH.get(as_text(delta.get("type")))
    return _fragments(payload, [grow(delta)] if grow else [])


def _fragments(payload: Payload, parts: list[Part]) -> list[Delta]:
    """Place parts at their block's index, citations behind their text whichever comes first."""
    index = 2 * (as_count(payload.get("index")) or 0)
    return [Fragment(index + 1, part, 0, part.data) if is_citation(part) else Fragment(index, part) for part in parts]


def _ending(payload: Payload) -> list[Delta]:
    """Read how a message ends: the counts so far, and why."""
    delta = as_mapping(payload.get("delta"))
    found: list[Delta] = [Fragment(LAST, part) for part in _refusal(delta)]
    if isinstance(payload.get("usage"), dict):
        found.append(UsageDelta(_usage(as_mapping(payload.get("usage")))))
    if delta.get("stop_reason"):
        found.append(ChoiceFinished(_finish(delta.get("stop_reason"))))
    return found


EVENTS: Final[Mapping[str, Callable[[Payload], list[Delta]]]] = {
    "message_start": _message,
    "content_block_start": _opening,
    "content_block_delta": _deltas,
    "message_delta": _ending,
}
GROWTH: Final[Mapping[str, Callable[[Mapping[str, object]], Part]]] = {
    "text_delta": lambda delta: Text(as_text(delta.get("text"))),
    "thinking_delta": lambda delta: Reasoning(as_text(delta.get("thinking"))),
    "signature_delta": lambda delta: Reasoning(signature=as_text(delta.get("signature"))),
    "input_json_delta": lambda delta: ToolCall("", "", as_text(delta.get("partial_json"))),
    "citations_delta": lambda delta: Opaque(CITATION, encode_compact(delta.get("citation"))),
    "compaction_delta": lambda delta: Opaque("compaction", encode_compact({**delta, "type": "compaction"})),
}
WAITING: Final = msgspec.Raw(ARGUMENTS_PLACEHOLDER.encode())
LAST: Final = 1 << 64
"""Index behind every block's."""


def _block(block: Mapping[str, object]) -> list[Part]:
    """Read one block of content, whole or as a stream begins it."""
    match block.get("type"):
        case "text":
            cited = dict.fromkeys(encode_compact(citation) for citation in iter_objects(block.get("citations")))
            return [Text(as_text(block.get("text"))), *(Opaque(CITATION, data) for data in cited)]
        case "thinking":
            return [Reasoning(as_text(block.get("thinking")), as_text(block.get("signature")))]
        case "redacted_thinking":
            return [Reasoning(redacted=as_text(block.get("data")))]
        case "tool_use":
            beside = {name: block[name] for name in BESIDE if block.get(name) not in (None, {"type": "direct"})}
            said = block.get("input")
            arguments = "" if said is None or said is WAITING else encode_compact(said)
            call, name = as_text(block.get("id")), as_text(block.get("name"))
            return [ToolCall(call, name, arguments, encode_compact(beside) if beside else "")]
        case kind:
            # The input stands last, since that is where a stream gives it.
            last = {"input": block["input"]} if "input" in block else {}
            return [Opaque(as_text(kind), encode_compact({**{k: v for k, v in block.items() if k != "input"}, **last}))]


def _refusal(payload: Mapping[str, object]) -> list[Part]:
    """Read what was said about a refusal, where something was."""
    said = as_text(as_mapping(payload.get("stop_details")).get("explanation"))
    return [Refusal(said)] if said else []


def _usage(usage: Mapping[str, object]) -> Usage:
    """Read token counts; the whole input is what was fresh, read from the cache and written to it."""
    fresh, cached = as_count(usage.get("input_tokens")), as_count(usage.get("cache_read_input_tokens"))
    stored = as_count(usage.get("cache_creation_input_tokens"))
    return Usage(
        input_tokens=None if fresh is None else as_count(sum_counts(fresh, cached, stored)),
        output_tokens=as_count(usage.get("output_tokens")),
        cached_input_tokens=cached,
        cache_write_tokens=stored,
        reasoning_tokens=as_count(as_mapping(usage.get("output_tokens_details")).get("thinking_tokens")),
    )


def _finish(reason: object) -> FinishReason:
    return FINISH.get(as_text(reason), "other")


def _failure(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Read an error object: a closer code where it has one, then its type."""
    error = payload.get("error")
    said = as_mapping(error) or payload
    closer = said.get("error_code") or as_mapping(said.get("details")).get("error_code")
    kind = said.get("type") or said.get("status")
    message = said.get("message") or error
    failure = classify_error(
        ERRORS,
        status=400 if status is None and kind == "invalid_request_error" else status,
        codes=[code for code in (as_text(closer), as_text(kind)) if code],
        message=message if isinstance(message, str) else encode_compact(message or dict(said)),
    )
    return with_context(failure, provider="", request_id=as_text(payload.get("request_id")))


def _turn(message: Message, at: int) -> Result[list[Payload], LLMError]:
    """Write one turn's blocks; empty text says nothing and would be refused."""
    blocks: list[Payload] = []
    for index, part in enumerate(message.parts):
        path = f"$.messages[{at}].parts[{index}]"
        if isinstance(part, Text) and not part.text:
            continue
        wrong = check_part_allowed(part, message.role, path)
        if wrong is None and isinstance(part, CacheMark):
            wrong = attach_cache_mark(blocks, {"cache_control": cache_control(part, type="ephemeral")}, path)
        written = Failure(wrong) if wrong else _part(part, path)
        if not is_successful(written):
            return Failure(written.failure())
        block = written.unwrap()
        if not is_citation(part):
            blocks += [block] * bool(block)
        elif blocks and blocks[-1]["type"] == "text":
            blocks[-1]["citations"] = [*as_list(blocks[-1].get("citations")), block]
        else:
            return Failure(Unsupported(path=path, message="a citation without text before it cannot be said"))
    return Success(blocks)


def _plain(blocks: list[Payload]) -> object:
    """Write a lone text as itself."""
    plain = not blocks or (len(blocks) == 1 and blocks[0].keys() == {"type", "text"})
    return "".join(as_text(block["text"]) for block in blocks) if plain else blocks


def _part(part: Part, path: str) -> Result[Payload, LLMError]:
    """Write a part as a block."""
    match part:
        case Text(said) | Refusal(said):
            block: Payload = {"type": "text", "text": said}
        case Reasoning(said, signature, ""):
            block = {"type": "thinking", "thinking": said, "signature": signature}
        case Reasoning("", "", redacted):
            block = {"type": "redacted_thinking", "data": redacted}
        case Opaque(kind) if "type" in (whole := decode_opaque(part)) and kind in {as_text(whole["type"]), CITATION}:
            block = whole
        case ToolCall(call, name, _, signature):
            told = decode_opaque(Opaque("", signature))
            block = {"type": "tool_use", "id": call, "name": name, **{key: told[key] for key in BESIDE if key in told}}
            return decode_arguments(part, path).map(lambda said: {**block, "input": said})
        case CacheMark():
            block = {}  # it stands on the block before it
        case ToolResult():
            return _result(part, path)
        case Image() | Document():
            return _media(part, path)
        case _:
            said = f"{type(part).__name__} of another wire cannot be said on this one"
            return Failure(Unsupported(path=path, message=said))
    return Success(block)


def _result(result: ToolResult, path: str) -> Result[Payload, LLMError]:
    """Write what a tool answered: its text, or blocks of text and pictures."""
    wrong = {"is_error": True} if result.is_error else {}
    head = {"type": "tool_result", "tool_use_id": result.id}
    return encode_result_parts(result, path, _part).map(lambda blocks: {**head, "content": _plain(blocks), **wrong})


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Write a picture or a file by its address, or inline: a PDF as it is, text as text."""
    if isinstance(part, Image) and part.detail not in {"", "auto"}:
        return Failure(Unsupported(path=path, message="an image's detail cannot be said on this wire"))
    named = {"title": part.name} if isinstance(part, Document) and part.name else {}
    held = inline_data(part)
    if held is None:
        source = {"type": "url", "url": part.url}
    elif isinstance(part, Document) and held[0].startswith("text/"):
        try:
            plain = base64.b64decode(held[1], validate=True).decode()
        except ValueError as bad:
            return Failure(InvalidRequest(path=f"{path}.data", message=f"not text in base64: {bad}"))
        source = {"type": "text", "media_type": "text/plain", "data": plain}
    elif held[0] in INLINE[type(part)]:
        source = {"type": "base64", "media_type": held[0], "data": held[1]}
    else:
        return Failure(media_type_error(held[0], path))
    return Success({"type": "image" if isinstance(part, Image) else "document", "source": source, **named})


def _answer(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write the answer's form, and how much to think about it."""
    effort, budget = request.reasoning_effort, request.reasoning_budget
    if effort is not None and effort not in EFFORTS:
        wrong = f"{effort!r} is none of this wire's efforts, {', '.join(EFFORTS)}"
        return Failure(Unsupported(path="$.reasoning_effort", message=wrong))
    bound = float("inf") if request.max_tokens is None else request.max_tokens
    if budget and not MIN_BUDGET <= budget < bound:
        wrong = f"reasoning_budget={budget} is not from {MIN_BUDGET} to below max_tokens={request.max_tokens}"
        return Failure(InvalidRequest(path="$.reasoning_budget", message=wrong))
    payload: Payload = {}
    if budget == 0 or (budget is None and effort == "none"):
        payload["thinking"] = {"type": "disabled"}
    elif budget is not None:
        payload["thinking"] = {"type": "enabled", "budget_tokens": budget}
    elif effort is not None:
        payload["thinking"] = {"type": "adaptive"}
    output: Payload = {} if effort is None or effort == "none" else {"effort": effort}
    if request.response_schema is not None:
        output["format"] = {"type": "json_schema", "schema": request.response_schema.schema}
    return Success({**payload, **({"output_config": output} if output else {})})


def _tools(request: CompletionRequest) -> Payload:
    """Write the tools and how freely the model may choose among them."""
    payload: Payload = {}
    if request.tools:
        payload["tools"] = [
            {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "input_schema": {"type": "object", **tool.parameters},
                **({} if tool.strict is None else {"strict": tool.strict}),
            }
            for tool in request.tools
        ]
    if request.tool_choice is not None:
        named = {"type": "tool", "name": request.tool_choice}
        payload["tool_choice"] = CHOICES.get(request.tool_choice, named)
    if request.parallel_tool_calls is not None and request.tool_choice != "none":
        choice = as_mapping(payload.get("tool_choice")) or CHOICES["auto"]
        payload["tool_choice"] = {**choice, "disable_parallel_tool_use": not request.parallel_tool_calls}
    return payload


WIRE: Final = Wire(
    name="anthropic",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=lambda payload: _usage(as_mapping(payload.get("usage"))),
    stream_fields={"stream": True},
)
