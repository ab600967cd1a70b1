"""Anthropic Messages, on Anthropic's own API and on Vertex AI.

What differs here:

- Leading system messages are gathered in ``system``, and those within the conversation too, except for models that take
  them in their place. Roles alternate, so tool results are blocks of a user message and neighbours of one role are
  merged. ``max_tokens`` is required.
- Input counts exclude what was read from and written to the cache. A stream sends them first, and the others
  cumulatively at its end.
- Blocks of server tools are kept as they are. A citation follows the text it belongs to. A thought is sent back with
  its signature, an empty one too.
- A schema's name and strictness and the name in a tool's result have no field; a budget takes precedence over an
  effort.

Source: https://platform.claude.com/docs/en/api/messages and the types of anthropic 2.12.0 (read 2026-11-22).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

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
    TOKEN_CLASSES,
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
from llmhub.wire.errors import CONTEXT_PHRASES, ErrorTable, classify_error
from llmhub.wire.readers import (
    as_count,
    as_list,
    as_mapping,
    as_text,
    billed_units,
    encode_compact,
    error_body,
    error_message,
    iter_objects,
    reported_cost,
    require_list,
    sum_counts,
)
from llmhub.wire.writers import (
    CITATION,
    Param,
    attach_cache_mark,
    cache_control,
    check_part_allowed,
    citation_error,
    decode_arguments,
    decode_opaque,
    encode_parameters,
    encode_result_parts,
    foreign_part_error,
    image_detail_error,
    inline_data,
    is_citation,
    media_type_error,
    merge_adjacent_messages,
    unsupported_parameter,
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
    # An invalid_request_error is classified by its message, so it is not among the codes.
    codes={
        **{f"{who}_spend_limit_reached": QuotaExhausted for who in ("enforced", "contract", "linked_organization")},
        "authentication_error": AuthFailed,
        "billing_error": QuotaExhausted,
        "permission_error": PermissionDenied,
        "not_found_error": NotFound,
        "request_too_large": ContextTooLong,
        "rate_limit_error": RateLimited,
        "timeout_error": TimedOut,
        "overloaded_error": Overloaded,
    },
    phrases=(
        *CONTEXT_PHRASES,
        ("credit balance is too low", QuotaExhausted),
        ("api usage limits", QuotaExhausted),
        ("content filtering policy", ContentFiltered),
    ),
    generic_codes={"api_error": ServerError},
)

TOOL_CHOICES: Final = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}
EFFORTS: Final = ("none", "low", "medium", "high", "xhigh", "max")
DEFAULT_MAX_TOKENS: Final = 4096
"""Sent where the request has no ``max_tokens``, since the API requires it; a reasoning budget is added to it."""

MID_SYSTEM_MODELS: Final = re.compile(r"claude-(opus-4-8|(opus|sonnet|haiku|fable|mythos)-5)")
"""Models that take a system message after a user's turn in its place.

Source: https://platform.claude.com/docs/en/build-with-claude/mid-conversation-system-messages (read 2026-11-30).
"""

MIN_REASONING_BUDGET: Final = 1024
INLINE_MEDIA_TYPES: Final[Mapping[type[Part], frozenset[str]]] = {
    Image: frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"}),
    Document: frozenset({"application/pdf"}),
}
SIGNED_CALL_FIELDS: Final = ("caller", "toolset_name")
"""Fields of a tool call that must be sent back; they are kept as its signature."""

NOT_SIGNED: Final = (None, {"type": "direct"})
"""Values of a signed field that need not be sent back."""

REFUSAL_INDEX: Final = 1 << 64
"""Index of the explanation of a refusal among the parts of a streamed answer: after every block's."""

PENDING_INPUT: Final = msgspec.Raw(ARGUMENTS_PLACEHOLDER.encode())
"""Input of a block whose input is streamed later."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request as a Messages body."""
    parameters, output = encode_parameters(request, PARAMS), _output_options(request)
    for encoded in (parameters, output):
        if not is_successful(encoded):
            return encoded
    system: list[Payload] = []
    messages: list[tuple[str, list[Payload]]] = []
    for index, message in enumerate(request.messages):
        turn = _turn(message, index)
        if not is_successful(turn):
            return Failure(turn.failure())
        if message.role == "system" and not _takes_system_turn(request.model, messages):
            system.extend(turn.unwrap())
        else:
            role = message.role if message.role in {"assistant", "system"} else "user"
            messages.append((role, turn.unwrap()))
    fields = parameters.unwrap()
    # Both have fields of their own below.
    user_id, _ = fields.pop("user_id", None), fields.pop("parallel", None)
    payload: Payload = {
        "model": request.model,
        "max_tokens": DEFAULT_MAX_TOKENS + (request.reasoning_budget or 0),
        "messages": [
            {"role": role, "content": _text_or_blocks(blocks)} for role, blocks in merge_adjacent_messages(messages)
        ],
        **({"system": _text_or_blocks(system)} if system else {}),
        **fields,
        **({} if user_id is None else {"metadata": {"user_id": user_id}}),
    }
    return Success({**payload, **output.unwrap(), **_tools(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode a Messages body."""
    if payload.get("error"):
        return Failure(_error(payload, None))
    content = require_list(payload, "content")
    if not is_successful(content):
        return Failure(content.failure())
    parts: list[Part] = []
    for index, block in enumerate(content.unwrap()):
        if not isinstance(block, dict):
            return Failure(Malformed(path=f"$.content[{index}]", message="expected an object"))
        parts.extend(_block(block))
    parts.extend(_refusal(payload))
    return Success(
        assemble_response(
            [(parts, _finish_reason(payload.get("stop_reason")))],
            usage=_usage(as_mapping(payload.get("usage"))),
            served_model=as_text(payload.get("model")),
            request_id=as_text(payload.get("id")),
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one event of a stream; an event that is not in `EVENTS`, or a closing ``[DONE]``, adds nothing."""
    if frame.data.strip() == b"[DONE]":
        return Success(())
    return parse_json_object(frame.data).bind(_event)


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply: an ``error`` object with its type, or any other text."""
    return _error(error_body(reply.body), reply.status)


# Streams


def _event(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Decode an event by its type."""
    if payload.get("error"):
        return Failure(_error(payload, None))
    decode_event = EVENTS.get(as_text(payload.get("type")))
    return Success(tuple(decode_event(payload)) if decode_event else ())


def _message_start(payload: Payload) -> list[Delta]:
    """Decode the model, the id and the input's token counts."""
    message = as_mapping(payload.get("message"))
    started = StreamStarted(as_text(message.get("model")), as_text(message.get("id")))
    return [started, UsageDelta(_usage(as_mapping(message.get("usage"))))]


def _block_start(payload: Payload) -> list[Delta]:
    """Decode the start of a block, with a placeholder for an input that is streamed later."""
    block = as_mapping(payload.get("content_block"))
    return _fragments(payload, _block({**block, "input": PENDING_INPUT} if block.get("input") == {} else block))


def _deltas(payload: Payload) -> list[Delta]:
    """Decode what is appended to a block."""
    delta = as_mapping(payload.get("delta"))
    decode_delta = BLOCK_DELTAS.get(as_text(delta.get("type")))
    return _fragments(payload, [decode_delta(delta)] if decode_delta else [])


def _fragments(payload: Payload, parts: list[Part]) -> list[Delta]:
    """Place parts at their block's index, a citation after its text whichever comes first."""
    index = 2 * (as_count(payload.get("index")) or 0)
    return [Fragment(index + 1, part, 0, part.data) if is_citation(part) else Fragment(index, part) for part in parts]


def _message_delta(payload: Payload) -> list[Delta]:
    """Decode the end of a message: the explanation of a refusal, the final token counts, and the stop reason."""
    delta = as_mapping(payload.get("delta"))
    deltas: list[Delta] = [Fragment(REFUSAL_INDEX, part) for part in _refusal(delta)]
    if isinstance(payload.get("usage"), dict):
        deltas.append(UsageDelta(_usage(as_mapping(payload.get("usage")))))
    if delta.get("stop_reason"):
        deltas.append(ChoiceFinished(_finish_reason(delta.get("stop_reason"))))
    return deltas


EVENTS: Final[Mapping[str, Callable[[Payload], list[Delta]]]] = {
    "message_start": _message_start,
    "content_block_start": _block_start,
    "content_block_delta": _deltas,
    "message_delta": _message_delta,
}
BLOCK_DELTAS: Final[Mapping[str, Callable[[Mapping[str, object]], Part]]] = {
    "text_delta": lambda delta: Text(as_text(delta.get("text"))),
    "thinking_delta": lambda delta: Reasoning(as_text(delta.get("thinking"))),
    "signature_delta": lambda delta: Reasoning(signature=as_text(delta.get("signature"))),
    "input_json_delta": lambda delta: ToolCall("", "", as_text(delta.get("partial_json"))),
    "citations_delta": lambda delta: Opaque(CITATION, encode_compact(delta.get("citation"))),
    "compaction_delta": lambda delta: Opaque("compaction", encode_compact({**delta, "type": "compaction"})),
}

# Responses


def _block(block: Mapping[str, object]) -> list[Part]:
    """Decode one block of content, complete or as a stream starts it."""
    match block.get("type"):
        case "text":
            citations = dict.fromkeys(encode_compact(citation) for citation in iter_objects(block.get("citations")))
            return [Text(as_text(block.get("text"))), *(Opaque(CITATION, data) for data in citations)]
        case "thinking":
            return [Reasoning(as_text(block.get("thinking")), as_text(block.get("signature")))]
        case "redacted_thinking":
            return [Reasoning(redacted=as_text(block.get("data")))]
        case "tool_use":
            signed = {name: block[name] for name in SIGNED_CALL_FIELDS if block.get(name) not in NOT_SIGNED}
            given = block.get("input")
            arguments = "" if given is None or given is PENDING_INPUT else encode_compact(given)
            call_id, name = as_text(block.get("id")), as_text(block.get("name"))
            return [ToolCall(call_id, name, arguments, encode_compact(signed) if signed else "")]
        case kind:
            # The input is last, since a stream sends it last.
            last = {"input": block["input"]} if "input" in block else {}
            ordered = {name: value for name, value in block.items() if name != "input"} | last
            return [Opaque(as_text(kind), encode_compact(ordered))]


def _refusal(payload: Mapping[str, object]) -> list[Part]:
    """Decode the explanation of a refusal, if there is one."""
    explanation = as_text(as_mapping(payload.get("stop_details")).get("explanation"))
    return [Refusal(explanation)] if explanation else []


def _usage(counts: Mapping[str, object]) -> Usage:
    """Decode token counts; the total input is what was not cached, read from the cache and written to it.

    Where there are ``iterations`` (compaction, advisor tool), the counts beside them are those of the last one alone,
    and the sum is billed.
    """
    iterations = [_usage(iteration) for iteration in iter_objects(counts.get("iterations"))]
    if iterations:
        names = (*TOKEN_CLASSES[:4], "cache_write_1h_tokens")
        sums: dict[str, Any] = {name: sum_counts(*(getattr(usage, name) for usage in iterations)) for name in names}
        return Usage(
            **sums,
            reasoning_tokens=as_count(as_mapping(counts.get("output_tokens_details")).get("thinking_tokens")),
            reported_cost_usd=reported_cost(counts),
            billed_units=_server_tools(counts),
        )
    uncached, cached = as_count(counts.get("input_tokens")), as_count(counts.get("cache_read_input_tokens"))
    written = as_count(counts.get("cache_creation_input_tokens"))
    return Usage(
        input_tokens=None if uncached is None else as_count(sum_counts(uncached, cached, written)),
        output_tokens=as_count(counts.get("output_tokens")),
        cached_input_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=as_count(as_mapping(counts.get("output_tokens_details")).get("thinking_tokens")),
        cache_write_1h_tokens=as_count(as_mapping(counts.get("cache_creation")).get("ephemeral_1h_input_tokens"))
        or None,
        reported_cost_usd=reported_cost(counts),
        billed_units=_server_tools(counts),
    )


def _server_tools(counts: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    """Decode the number of searches; fetched pages cost their tokens only."""
    return billed_units(("web_search:requests", as_mapping(counts.get("server_tool_use")).get("web_search_requests")))


def _finish_reason(reason: object) -> FinishReason:
    return FINISH.get(as_text(reason), "other")


def _error(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Decode an error object: a specific code where it has one, then its type."""
    field = payload.get("error")
    error = as_mapping(field) or payload
    specific = error.get("error_code") or as_mapping(error.get("details")).get("error_code")
    kind = error.get("type") or error.get("status")
    classified = classify_error(
        ERRORS,
        status=400 if status is None and kind == "invalid_request_error" else status,
        codes=[code for code in (as_text(specific), as_text(kind)) if code],
        message=error_message(error.get("message") or field, error),
    )
    return with_context(classified, provider="", request_id=as_text(payload.get("request_id")))


# Requests


def _takes_system_turn(model: str, messages: list[tuple[str, list[Payload]]]) -> bool:
    """Return whether a system message may follow these messages."""
    return bool(messages) and messages[-1][0] != "assistant" and MID_SYSTEM_MODELS.search(model) is not None


def _turn(message: Message, message_index: int) -> Result[list[Payload], LLMError]:
    """Encode one message's blocks, without empty texts, which the API rejects."""
    blocks: list[Payload] = []
    for part_index, part in enumerate(message.parts):
        path = f"$.messages[{message_index}].parts[{part_index}]"
        if isinstance(part, Text) and not part.text:
            continue
        error = check_part_allowed(part, message.role, path)
        if error is None and isinstance(part, CacheMark):
            error = attach_cache_mark(blocks, {"cache_control": cache_control(part, type="ephemeral")}, path)
        encoded = Failure(error) if error else _part(part, path)
        if not is_successful(encoded):
            return Failure(encoded.failure())
        block = encoded.unwrap()
        if not is_citation(part):
            blocks += [block] if block else []
        elif blocks and blocks[-1]["type"] == "text":
            blocks[-1]["citations"] = [*as_list(blocks[-1].get("citations")), block]
        else:
            return Failure(citation_error(path))
    return Success(blocks)


def _text_or_blocks(blocks: list[Payload]) -> object:
    """Return the text of a single text block, else the blocks."""
    is_text = not blocks or (len(blocks) == 1 and blocks[0].keys() == {"type", "text"})
    return "".join(as_text(block["text"]) for block in blocks) if is_text else blocks


def _part(part: Part, path: str) -> Result[Payload, LLMError]:
    """Encode a part as a block; a cache mark is part of the block before it."""
    match part:
        case Text(text) | Refusal(text):
            block: Payload = {"type": "text", "text": text}
        case Reasoning(text, signature, ""):
            block = {"type": "thinking", "thinking": text, "signature": signature}
        case Reasoning("", "", redacted):
            block = {"type": "redacted_thinking", "data": redacted}
        case Opaque(kind) if "type" in (opaque := decode_opaque(part)) and kind in {as_text(opaque["type"]), CITATION}:
            block = opaque
        case ToolCall(call_id, name, _, signature):
            signed = decode_opaque(Opaque("", signature))
            fields: Payload = {key: signed[key] for key in SIGNED_CALL_FIELDS if key in signed}
            head: Payload = {"type": "tool_use", "id": call_id, "name": name, **fields}
            return decode_arguments(part, path).map(lambda arguments: {**head, "input": arguments})
        case CacheMark():
            block = {}
        case ToolResult():
            return _tool_result(part, path)
        case Image() | Document():
            return _media(part, path)
        case _:
            return Failure(foreign_part_error(part, path))
    return Success(block)


def _tool_result(result: ToolResult, path: str) -> Result[Payload, LLMError]:
    """Encode a tool's result: its text, or blocks of text and images."""
    head = {"type": "tool_result", "tool_use_id": result.id}
    flag = {"is_error": True} if result.is_error else {}
    return encode_result_parts(result, path, _part).map(
        lambda blocks: {**head, "content": _text_or_blocks(blocks), **flag}
    )


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Encode an image or a document by its URL or inline: a PDF in base64, text as text."""
    error = image_detail_error(part, path)
    if error is not None:
        return Failure(error)
    inline = inline_data(part)
    if inline is None:
        source = {"type": "url", "url": part.url}
    elif isinstance(part, Document) and inline[0].startswith("text/"):
        try:
            text = base64.b64decode(inline[1], validate=True).decode()
        except ValueError as invalid:
            return Failure(InvalidRequest(path=f"{path}.data", message=f"not text in base64: {invalid}"))
        source = {"type": "text", "media_type": "text/plain", "data": text}
    elif inline[0] in INLINE_MEDIA_TYPES[type(part)]:
        source = {"type": "base64", "media_type": inline[0], "data": inline[1]}
    else:
        return Failure(media_type_error(inline[0], path))
    title = {"title": part.name} if isinstance(part, Document) and part.name else {}
    return Success({"type": "image" if isinstance(part, Image) else "document", "source": source, **title})


def _output_options(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode the schema of the answer, and how much to reason."""
    effort, budget = request.reasoning_effort, request.reasoning_budget
    if effort is not None and effort not in EFFORTS:
        message = f"{effort!r} is not one of this API's efforts: {', '.join(EFFORTS)}"
        return Failure(unsupported_parameter("reasoning_effort", message))
    limit = float("inf") if request.max_tokens is None else request.max_tokens
    if budget and not MIN_REASONING_BUDGET <= budget < limit:
        message = (
            f"reasoning_budget={budget} must be at least {MIN_REASONING_BUDGET} and below "
            f"max_tokens={request.max_tokens}"
        )
        return Failure(InvalidRequest(path="$.reasoning_budget", message=message))
    payload: Payload = {}
    if budget == 0 or (budget is None and effort == "none"):
        payload["thinking"] = {"type": "disabled"}
    elif budget is not None:
        payload["thinking"] = {"type": "enabled", "budget_tokens": budget}
    elif effort is not None:
        payload["thinking"] = {"type": "adaptive"}
    config: Payload = {} if effort is None or effort == "none" else {"effort": effort}
    if request.response_schema is not None:
        config["format"] = {"type": "json_schema", "schema": request.response_schema.schema}
    return Success({**payload, **({"output_config": config} if config else {})})


def _tools(request: CompletionRequest) -> Payload:
    """Encode the tools and how freely the model may choose among them."""
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
        by_name = {"type": "tool", "name": request.tool_choice}
        payload["tool_choice"] = TOOL_CHOICES.get(request.tool_choice, by_name)
    if request.parallel_tool_calls is not None and request.tool_choice != "none":
        choice = as_mapping(payload.get("tool_choice")) or TOOL_CHOICES["auto"]
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
