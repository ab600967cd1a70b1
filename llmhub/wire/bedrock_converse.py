"""Amazon Bedrock's Converse: one format for many families of models.

What differs here:

- The model and whether to stream are in the URL. A block is an object whose one key names it. Roles alternate, so tool
  results are blocks of a user message and neighbours of one role are merged.
- Parameters that Converse lacks go into fields that differ by model family (`llmhub.wire.bedrock_models`). A schema's
  strictness and the name in a tool's result have no field; a budget takes precedence over an effort.
- Input counts exclude what was read from and written to the cache; usage comes after the end of a stream. The class of
  an error is in a header; in a stream it is an exception instead of an event. A citation follows its text.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html, the service model of
botocore 1.44.5, https://docs.aws.amazon.com/nova/latest/nova2-userguide/using-converse-api.html (read 2026-11-22).
"""

from __future__ import annotations

import re
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
)
from llmhub.core.framing import Frame
from llmhub.core.payload import deep_merge, parse_json_object
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
from llmhub.wire.bedrock_models import encode_model_specific_fields
from llmhub.wire.errors import CONTEXT_PHRASES, ErrorTable, classify_error
from llmhub.wire.readers import (
    as_count,
    as_list,
    as_mapping,
    as_text,
    encode_compact,
    error_body,
    iter_objects,
    sum_counts,
)
from llmhub.wire.writers import (
    CITATION,
    Param,
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
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}

PARAMS: Final = (
    Param("temperature", "temperature", 0, 1),
    Param("top_p", "topP", 0, 1),
    Param("top_k", "topK", 0),
    Param("max_tokens", "maxTokens", 1),
    Param("stop", "stopSequences", 1, 2500),
)

ERRORS: Final = ErrorTable(
    # A ValidationException is classified by its message, so it is not among the codes.
    codes={
        "TooManyTokensPerDay": QuotaExhausted,
        "ServiceQuotaExceededException": QuotaExhausted,
        "ThrottlingException": RateLimited,
        "ModelNotReadyException": Overloaded,
        "ServiceUnavailableException": Overloaded,
        "ModelTimeoutException": TimedOut,
        "ModelErrorException": ServerError,
        "ModelStreamErrorException": ServerError,
        "InternalServerException": ServerError,
        "AccessDeniedException": PermissionDenied,
        "ResourceNotFoundException": NotFound,
        "ExpiredTokenException": AuthFailed,
        "UnrecognizedClientException": AuthFailed,
        "InvalidSignatureException": AuthFailed,
        "IncompleteSignatureException": AuthFailed,
        "MissingAuthenticationTokenException": AuthFailed,
    },
    phrases=(
        ("please wait before trying again", RateLimited),
        *CONTEXT_PHRASES,
        ("too many tokens", ContextTooLong),
        ("model identifier is invalid", NotFound),
        ("content filtering policy", ContentFiltered),
        ("security token", AuthFailed),
        ("authentication failed", AuthFailed),
    ),
)

TOOL_CHOICES: Final[Mapping[str, Payload]] = {"auto": {"auto": {}}, "required": {"any": {}}}
FORMATS: Final[Mapping[type[Part], Mapping[str, str]]] = {
    Image: {f"image/{name}": name for name in ("png", "jpeg", "gif", "webp")},
    Document: {
        "application/pdf": "pdf",
        "text/csv": "csv",
        "application/msword": "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        "application/vnd.ms-excel": "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
        "text/html": "html",
        "text/plain": "txt",
        "text/markdown": "md",
    },
}
"""Converse's name of each media type."""

INVALID_NAME_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9()\[\] -]+| {2,}")
"""Characters that a document's name cannot have."""

STREAMED_FIELDS: Final = {"toolUse": "input", "toolResult": "content"}
"""Field of a block that a stream sends later; it is last in an opaque part's JSON."""

PENDING_INPUT: Final = msgspec.Raw(ARGUMENTS_PLACEHOLDER.encode())
"""Value of a field that is streamed later."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request as a Converse body; the model is in the URL."""
    parameters = encode_parameters(request, PARAMS)
    if not is_successful(parameters):
        return parameters
    config = parameters.unwrap()
    config.pop("topK", None)  # its range is validated here; the model's family has a field for it below
    payload: Payload = {"inferenceConfig": config} if config else {}
    for encoded in (encode_model_specific_fields(request), _output_options(request), _tools(request)):
        if not is_successful(encoded):
            return encoded
        payload = deep_merge(payload, encoded.unwrap())
    system: list[Payload] = []
    messages: list[tuple[str, list[Payload]]] = []
    for index, message in enumerate(request.messages):
        turn = _turn(message, index)
        if not is_successful(turn):
            return Failure(turn.failure())
        if message.role == "system":
            system.extend(turn.unwrap())
        else:
            messages.append(("assistant" if message.role == "assistant" else "user", turn.unwrap()))
    merged = [{"role": role, "content": blocks} for role, blocks in merge_adjacent_messages(messages)]
    return Success({"messages": merged, **({"system": system} if system else {}), **payload})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode a Converse body."""
    if payload.get("__type"):
        return Failure(_error(as_text(payload.get("__type")), payload, None))
    content = as_mapping(as_mapping(payload.get("output")).get("message")).get("content")
    if not isinstance(content, list):
        return Failure(Malformed(path="$.output.message.content", message="expected a list"))
    parts: list[Part] = []
    for index, block in enumerate(content):
        if not isinstance(block, dict):
            return Failure(Malformed(path=f"$.output.message.content[{index}]", message="expected an object"))
        parts.extend(_block(block))
    return Success(
        assemble_response(
            [(parts, _finish_reason(payload.get("stopReason")))],
            usage=_usage(as_mapping(payload.get("usage"))),
            served_model=_served_model(payload),
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one event of a stream; an exception or an error ends it."""
    if frame.kind != "event":
        return Failure(_error(frame.event, error_body(frame.data), None))
    decode_event = EVENTS.get(frame.event)
    return parse_json_object(frame.data).map(lambda payload: tuple(decode_event(payload)) if decode_event else ())


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply: its class from a header or the body, and its message."""
    error = error_body(reply.body)
    return _error(reply.header("x-amzn-errortype") or as_text(error.get("__type")), error, reply.status)


# Streams


def _block_start(payload: Payload) -> list[Delta]:
    """Decode the start of a block, with a placeholder for the field that is streamed later."""
    start = as_mapping(payload.get("start"))
    call, result = as_mapping(start.get("toolUse")), as_mapping(start.get("toolResult"))
    image_format = as_text(as_mapping(start.get("image")).get("format"))
    if call:
        return _fragments(payload, _block({"toolUse": {**call, "input": PENDING_INPUT}}))
    if result:
        return _fragments(payload, _block({"toolResult": {**result, "content": [PENDING_INPUT]}}))
    return _fragments(payload, [Image(media_type=f"image/{image_format}")] if image_format else [])


def _deltas(payload: Payload) -> list[Delta]:
    """Decode what is appended to a block."""
    delta = as_mapping(payload.get("delta"))
    return _fragments(payload, [BLOCK_DELTAS[name](value) for name, value in delta.items() if name in BLOCK_DELTAS])


def _fragments(payload: Payload, parts: list[Part]) -> list[Delta]:
    """Place parts at their block's index, a citation after its text whichever comes first."""
    index = 2 * (as_count(payload.get("contentBlockIndex")) or 0)
    return [Fragment(index + 1, part, 0, part.data) if is_citation(part) else Fragment(index, part) for part in parts]


def _message_stop(payload: Payload) -> list[Delta]:
    """Decode the stop reason."""
    return [ChoiceFinished(_finish_reason(payload.get("stopReason")))]


def _metadata(payload: Payload) -> list[Delta]:
    """Decode what follows the end: the token counts, and the model that a router chose."""
    return [UsageDelta(_usage(as_mapping(payload.get("usage")))), StreamStarted(_served_model(payload))]


EVENTS: Final[Mapping[str, Callable[[Payload], list[Delta]]]] = {
    "contentBlockStart": _block_start,
    "contentBlockDelta": _deltas,
    "messageStop": _message_stop,
    "metadata": _metadata,
}
BLOCK_DELTAS: Final[Mapping[str, Callable[[object], Part]]] = {
    "text": lambda value: Text(as_text(value)),
    "reasoningContent": lambda value: _reasoning(as_mapping(value)),
    "toolUse": lambda value: ToolCall("", "", as_text(as_mapping(value).get("input"))),
    "toolResult": lambda value: ToolCall("", "", "".join(f"{encode_compact(item)}," for item in as_list(value))),
    "citation": lambda value: Opaque(CITATION, encode_compact(value)),
    "image": lambda value: Image(data=as_text(as_mapping(as_mapping(value).get("source")).get("bytes"))),
}

# Responses


def _block(block: Mapping[str, object]) -> list[Part]:
    """Decode one block of content, complete or as a stream starts it."""
    kind = next(iter(block), "")
    body = as_mapping(block.get(kind))
    match kind:
        case "text":
            return [Text(as_text(block.get("text")))]
        case "citationsContent":
            text = "".join(as_text(piece.get("text")) for piece in iter_objects(body.get("content")))
            citations = dict.fromkeys(encode_compact(citation) for citation in iter_objects(body.get("citations")))
            return [Text(text), *(Opaque(CITATION, data) for data in citations)]
        case "reasoningContent":
            return [_reasoning(body)]
        case "toolUse" if body.get("type") != "server_tool_use":
            given = body.get("input")
            arguments = "" if given is None or given is PENDING_INPUT else encode_compact(given)
            return [ToolCall(as_text(body.get("toolUseId")), as_text(body.get("name")), arguments)]
        case "image" if as_mapping(body.get("source")).get("bytes"):
            data = as_text(as_mapping(body.get("source")).get("bytes"))
            return [Image(data=data, media_type=f"image/{as_text(body.get('format'))}")]
        case _:
            last = STREAMED_FIELDS.get(kind, "")
            ordered = {**{name: body[name] for name in body if name != last}, last: body.get(last)}
            return [Opaque(kind, encode_compact({kind: ordered} if last in body else block))]


def _reasoning(body: Mapping[str, object]) -> Reasoning:
    """Decode a thought, or a fragment of one."""
    thought = as_mapping(body.get("reasoningText")) or body
    return Reasoning(
        as_text(thought.get("text")), as_text(thought.get("signature")), as_text(body.get("redactedContent"))
    )


def _served_model(payload: Mapping[str, object]) -> str:
    """Return the model that a prompt router chose; nothing else names one."""
    return as_text(as_mapping(as_mapping(payload.get("trace")).get("promptRouter")).get("invokedModelId"))


def _usage(counts: Mapping[str, object]) -> Usage:
    """Decode token counts; cached tokens are added to the input unless the total shows that they are in it."""
    uncached, output = as_count(counts.get("inputTokens")), as_count(counts.get("outputTokens"))
    cached, written = as_count(counts.get("cacheReadInputTokens")), as_count(counts.get("cacheWriteInputTokens"))
    details = iter_objects(counts.get("cacheDetails"))
    kept_1h = [as_count(detail.get("inputTokens")) for detail in details if detail.get("ttl") == "1h"]
    is_total = sum_counts(uncached, output) == as_count(counts.get("totalTokens"))
    with_cached = uncached if is_total else as_count(sum_counts(uncached, cached, written))
    return Usage(
        input_tokens=None if uncached is None else with_cached,
        output_tokens=output,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=sum_counts(*kept_1h),
    )


def _finish_reason(reason: object) -> FinishReason:
    return FINISH.get(as_text(reason), "other")


def _error(class_name: str, error: Mapping[str, object], status: int | None) -> LLMError:
    """Decode an error by its class, which may have a namespace, a URL or a lower-case initial."""
    name = class_name.partition(":")[0].rpartition("#")[2]
    code = name[:1].upper() + name[1:]
    inner = as_mapping(error.get("error"))
    message = as_text(error.get("message") or error.get("Message") or inner.get("message"))
    message = message or encode_compact(dict(error))
    daily_quota = ["TooManyTokensPerDay"] if "tokens per day" in message.lower() else []
    return classify_error(
        ERRORS,
        status=400 if status is None and code == "ValidationException" else status,
        codes=[*daily_quota, *([code] if code else [])],
        message=message,
    )


# Requests


def _turn(message: Message, message_index: int) -> Result[list[Payload], LLMError]:
    """Encode one message's blocks, without empty texts, which the API rejects."""
    blocks: list[Payload] = []
    for part_index, part in enumerate(message.parts):
        path = f"$.messages[{message_index}].parts[{part_index}]"
        if isinstance(part, Text) and not part.text:
            continue
        error = check_part_allowed(part, message.role, path)
        encoded = Failure(error) if error else _part(part, path)
        if not is_successful(encoded):
            return Failure(encoded.failure())
        block = encoded.unwrap()
        if not is_citation(part):
            blocks.append(block)
        elif blocks and blocks[-1].keys() & {"text", "citationsContent"}:
            content = as_mapping(blocks[-1].get("citationsContent")) or {"content": [blocks[-1]], "citations": []}
            blocks[-1] = {"citationsContent": {**content, "citations": [*as_list(content["citations"]), block]}}
        else:
            return Failure(citation_error(path))
    return Success(blocks)


def _part(part: Part, path: str) -> Result[Payload, LLMError]:
    """Encode a part as a block."""
    match part:
        case Text(text) | Refusal(text):
            block: Payload = {"text": text}
        case Reasoning(text, signature, ""):
            thought = {"text": text, **({"signature": signature} if signature else {})}
            block = {"reasoningContent": {"reasoningText": thought}}
        case Reasoning("", "", redacted):
            block = {"reasoningContent": {"redactedContent": redacted}}
        case Opaque(kind) if (
            (opaque := decode_opaque(part)) and "type" not in opaque and (kind in opaque or kind == CITATION)
        ):
            block = opaque
        case CacheMark():
            block = {"cachePoint": cache_control(part, type="default")}
        case ToolCall(call_id, name):
            head = {"toolUseId": call_id, "name": name}
            return decode_arguments(part, path).map(lambda arguments: {"toolUse": {**head, "input": arguments}})
        case ToolResult():
            return _tool_result(part, path)
        case Image() | Document():
            return _media(part, path)
        case _:
            return Failure(foreign_part_error(part, path))
    return Success(block)


def _tool_result(result: ToolResult, path: str) -> Result[Payload, LLMError]:
    """Encode a tool's result as blocks of text and images."""
    # Only some families accept a status, so success is not sent.
    status = {"status": "error"} if result.is_error else {}
    return encode_result_parts(result, path, _part).map(
        lambda blocks: {"toolResult": {"toolUseId": result.id, "content": blocks, **status}}
    )


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Encode an image or a document inline, or by its location in S3."""
    error = image_detail_error(part, path)
    if error is not None:
        return Failure(error)
    inline = inline_data(part)
    if inline is None and not part.url.startswith("s3://"):
        return Failure(Unsupported(path=path, message="this API takes URLs that begin with s3:// only"))
    media_type = part.media_type if inline is None else inline[0]
    format_name = FORMATS[type(part)].get(media_type)
    if format_name is None:
        return Failure(media_type_error(media_type, path))
    source: Payload = {"s3Location": {"uri": part.url}} if inline is None else {"bytes": inline[1]}
    if isinstance(part, Image):
        return Success({"image": {"format": format_name, "source": source}})
    # A document needs a unique name, so a missing one is made from its path.
    name = INVALID_NAME_CHARACTERS.sub("-", part.name).strip("- ")[:200]
    name = name or INVALID_NAME_CHARACTERS.sub("-", f"document{path}")
    return Success({"document": {"format": format_name, "name": name, "source": source}})


def _output_options(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode the schema of the answer, which Converse takes as JSON text."""
    schema = request.response_schema
    if schema is None:
        return Success({})
    try:
        text = encode_compact(schema.schema)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"not representable as JSON: {error}"
        return Failure(InvalidRequest(path="$.response_schema.schema", message=message))
    text_format = {"type": "json_schema", "structure": {"jsonSchema": {"name": schema.name, "schema": text}}}
    return Success({"outputConfig": {"textFormat": text_format}})


def _tools(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode the tools and how freely the model may choose among them; Converse takes a choice only with tools."""
    choice = request.tool_choice
    if choice is not None and (choice == "none" or not request.tools):
        without = "" if request.tools else " without tools"
        return Failure(unsupported_parameter("tool_choice", f"this API has no tool_choice={choice!r}{without}"))
    if not request.tools:
        return Success({})
    tools = [
        {
            "toolSpec": {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "inputSchema": {"json": {"type": "object", **tool.parameters}},
                **({} if tool.strict is None else {"strict": tool.strict}),
            }
        }
        for tool in request.tools
    ]
    by_name = {"tool": {"name": choice}}
    tool_choice: Payload = {} if choice is None else {"toolChoice": TOOL_CHOICES.get(choice, by_name)}
    return Success({"toolConfig": {"tools": tools, **tool_choice}})


WIRE: Final = Wire(
    name="bedrock_converse",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=lambda payload: _usage(as_mapping(payload.get("usage"))),
    framing="aws_eventstream",
)
