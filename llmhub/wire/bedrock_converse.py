"""Amazon Bedrock's Converse: one format in front of many families of models.

What differs here: the model and the wish for a stream stand in the address; a block is an object with one
key that names it; roles alternate, so tool results are blocks of a user turn and neighbours of one role are
joined. What Converse has no place for goes to fields that differ by family of models. Input counts leave out
what was read from and written to the cache. The class of an error stands in a header; in a stream it is an
exception instead of an event. Usage comes after the end. A citation follows its text.
A schema's strictness and the name in a tool's result have no place; a budget decides over an effort.

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
from llmhub.wire.errors import ErrorTable, classify_error
from llmhub.wire.readers import as_count, as_list, as_mapping, as_text, encode_compact, iter_objects, sum_counts
from llmhub.wire.writers import (
    CITATION,
    Param,
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
    # A ValidationException is told apart by its words, so it is not among the codes.
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
        ("input is too long", ContextTooLong),
        ("prompt is too long", ContextTooLong),
        ("too many tokens", ContextTooLong),
        ("too many input tokens", ContextTooLong),
        ("exceed context limit", ContextTooLong),
        ("model identifier is invalid", NotFound),
        ("content filtering policy", ContentFiltered),
        ("security token", AuthFailed),
        ("authentication failed", AuthFailed),
    ),
)

CHOICES: Final[Mapping[str, Payload]] = {"auto": {"auto": {}}, "required": {"any": {}}}
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
"""What this wire calls a media type."""
UNNAMEABLE: Final = re.compile(r"[^A-Za-z0-9()\[\] -]+| {2,}")
HELD: Final = {"toolUse": "input", "toolResult": "content"}
"""Where a stream gives the rest of a block that is kept whole; it stands last in its JSON."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as a Converse body; the model is the address's."""
    sampling = encode_parameters(request, PARAMS)
    if not is_successful(sampling):
        return sampling
    said = sampling.unwrap()
    said.pop("topK", None)  # checked here, told to the model's family below
    payload: Payload = {"inferenceConfig": said} if said else {}
    for written in (encode_model_specific_fields(request), _answer(request), _tools(request)):
        if not is_successful(written):
            return written
        payload = deep_merge(payload, written.unwrap())
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
    talk = [{"role": role, "content": blocks} for role, blocks in merge_adjacent_messages(turns)]
    return Success({"messages": talk, **({"system": system} if system else {}), **payload})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Read a Converse body."""
    if payload.get("__type"):
        return Failure(_failure(as_text(payload.get("__type")), payload, None))
    content = as_mapping(as_mapping(payload.get("output")).get("message")).get("content")
    if not isinstance(content, list):
        return Failure(Malformed(path="$.output.message.content", message="expected a list"))
    parts: list[Part] = []
    for at, block in enumerate(content):
        if not isinstance(block, dict):
            return Failure(Malformed(path=f"$.output.message.content[{at}]", message="expected an object"))
        parts.extend(_block(block))
    return Success(
        assemble_response(
            [(parts, _finish(payload.get("stopReason")))],
            usage=_usage(as_mapping(payload.get("usage"))),
            served_model=_served(payload),
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Read one event of a stream; an exception or an error is why it failed."""
    if frame.kind != "event":
        return Failure(_failure(frame.event, _said(frame.data), None))
    reader = EVENTS.get(frame.event)
    return parse_json_object(frame.data).map(lambda payload: tuple(reader(payload)) if reader else ())


def decode_error(reply: HttpReply) -> LLMError:
    """Read an error reply: its class from a header or the body, and its message."""
    said = _said(reply.body)
    return _failure(reply.header("x-amzn-errortype") or as_text(said.get("__type")), said, reply.status)


def _opening(payload: Payload) -> list[Delta]:
    """Read how a block begins; one that is kept whole waits for the rest of it."""
    start = as_mapping(payload.get("start"))
    call, result = as_mapping(start.get("toolUse")), as_mapping(start.get("toolResult"))
    kind = as_text(as_mapping(start.get("image")).get("format"))
    if call:
        return _fragments(payload, _block({"toolUse": {**call, "input": WAITING}}))
    if result:
        return _fragments(payload, _block({"toolResult": {**result, "content": [WAITING]}}))
    return _fragments(payload, [Image(media_type=f"image/{kind}")] if kind else [])


def _deltas(payload: Payload) -> list[Delta]:
    """Read what a block grows by."""
    delta = as_mapping(payload.get("delta"))
    return _fragments(payload, [GROWTH[name](said) for name, said in delta.items() if name in GROWTH])


def _fragments(payload: Payload, parts: list[Part]) -> list[Delta]:
    """Place parts at their block's index, citations behind their text whichever comes first."""
    index = 2 * (as_count(payload.get("contentBlockIndex")) or 0)
    return [Fragment(index + 1, part, 0, part.data) if is_citation(part) else Fragment(index, part) for part in parts]


def _ending(payload: Payload) -> list[Delta]:
    """Read why a message ends."""
    return [ChoiceFinished(_finish(payload.get("stopReason")))]


def _metadata(payload: Payload) -> list[Delta]:
    """Read what comes after the end: the counts, and which model a router chose."""
    return [UsageDelta(_usage(as_mapping(payload.get("usage")))), StreamStarted(_served(payload))]


EVENTS: Final[Mapping[str, Callable[[Payload], list[Delta]]]] = {
    "contentBlockStart": _opening,
    "contentBlockDelta": _deltas,
    "messageStop": _ending,
    "metadata": _metadata,
}
GROWTH: Final[Mapping[str, Callable[[object], Part]]] = {
    "text": lambda said: Text(as_text(said)),
    "reasoningContent": lambda said: _thought(as_mapping(said)),
    "toolUse": lambda said: ToolCall("", "", as_text(as_mapping(said).get("input"))),
    "toolResult": lambda said: ToolCall("", "", "".join(f"{encode_compact(item)}," for item in as_list(said))),
    "citation": lambda said: Opaque(CITATION, encode_compact(said)),
    "image": lambda said: Image(data=as_text(as_mapping(as_mapping(said).get("source")).get("bytes"))),
}
WAITING: Final = msgspec.Raw(ARGUMENTS_PLACEHOLDER.encode())


def _block(block: Mapping[str, object]) -> list[Part]:
    """Read one block of content, whole or as a stream begins it."""
    kind = next(iter(block), "")
    body = as_mapping(block.get(kind))
    match kind:
        case "text":
            return [Text(as_text(block.get("text")))]
        case "citationsContent":
            said = "".join(as_text(piece.get("text")) for piece in iter_objects(body.get("content")))
            cited = dict.fromkeys(encode_compact(citation) for citation in iter_objects(body.get("citations")))
            return [Text(said), *(Opaque(CITATION, data) for data in cited)]
        case "reasoningContent":
            return [_thought(body)]
        case "toolUse" if body.get("type") != "server_tool_use":
            given = body.get("input")
            arguments = "" if given is None or given is WAITING else encode_compact(given)
            return [ToolCall(as_text(body.get("toolUseId")), as_text(body.get("name")), arguments)]
        case "image" if as_mapping(body.get("source")).get("bytes"):
            data = as_text(as_mapping(body.get("source")).get("bytes"))
            return [Image(data=data, media_type=f"image/{as_text(body.get('format'))}")]
        case _:
            # What a stream gives later stands last.
            last = HELD.get(kind, "")
            ordered = {**{name: body[name] for name in body if name != last}, last: body.get(last)}
            return [Opaque(kind, encode_compact({kind: ordered} if last in body else block))]


def _thought(body: Mapping[str, object]) -> Reasoning:
    """Read a thought, or a piece of one."""
    said = as_mapping(body.get("reasoningText")) or body
    return Reasoning(as_text(said.get("text")), as_text(said.get("signature")), as_text(body.get("redactedContent")))


def _served(payload: Mapping[str, object]) -> str:
    """Read which model a prompt router chose; nothing else names one."""
    return as_text(as_mapping(as_mapping(payload.get("trace")).get("promptRouter")).get("invokedModelId"))


def _usage(usage: Mapping[str, object]) -> Usage:
    """Read token counts; unless the total says so already, what the cache took part in is added to the input."""
    fresh, output = as_count(usage.get("inputTokens")), as_count(usage.get("outputTokens"))
    cached, stored = as_count(usage.get("cacheReadInputTokens")), as_count(usage.get("cacheWriteInputTokens"))
    whole = sum_counts(fresh, output) == as_count(usage.get("totalTokens"))
    return Usage(
        input_tokens=fresh if fresh is None or whole else as_count(sum_counts(fresh, cached, stored)),
        output_tokens=output,
        cached_input_tokens=cached,
        cache_write_tokens=stored,
    )


def _finish(reason: object) -> FinishReason:
    return FINISH.get(as_text(reason), "other")


def _said(body: bytes) -> Mapping[str, object]:
    """Read the object of an error, or whatever text came instead."""
    read = parse_json_object(body)
    return read.unwrap() if is_successful(read) else {"message": body.decode("utf-8", "replace")}


def _failure(named: str, said: Mapping[str, object], status: int | None) -> LLMError:
    """Read an error by its class, however that is spelt: with a namespace, an address, or a small letter."""
    name = named.partition(":")[0].rpartition("#")[2]
    code = name[:1].upper() + name[1:]
    message = as_text(said.get("message") or said.get("Message")) or encode_compact(dict(said))
    day = ["TooManyTokensPerDay"] * ("tokens per day" in message.lower())
    return classify_error(
        ERRORS,
        status=400 if status is None and code == "ValidationException" else status,
        codes=[*day, *([code] if code else [])],
        message=message,
    )


def _turn(message: Message, at: int) -> Result[list[Payload], LLMError]:
    """Write one turn's blocks; empty text says nothing and would be refused."""
    blocks: list[Payload] = []
    for index, part in enumerate(message.parts):
        path = f"$.messages[{at}].parts[{index}]"
        if isinstance(part, Text) and not part.text:
            continue
        wrong = check_part_allowed(part, message.role, path)
        written = Failure(wrong) if wrong else _part(part, path)
        if not is_successful(written):
            return Failure(written.failure())
        block = written.unwrap()
        if not is_citation(part):
            blocks.append(block)
        elif blocks and blocks[-1].keys() & {"text", "citationsContent"}:
            content = as_mapping(blocks[-1].get("citationsContent")) or {"content": [blocks[-1]], "citations": []}
            blocks[-1] = {"citationsContent": {**content, "citations": [*as_list(content["citations"]), block]}}
        else:
            return Failure(Unsupported(path=path, message="a citation without text before it cannot be said"))
    return Success(blocks)


def _part(part: Part, path: str) -> Result[Payload, LLMError]:
    """Write a part as a block."""
    match part:
        case Text(said) | Refusal(said):
            block: Payload = {"text": said}
        case Reasoning(said, signature, ""):
            thought = {"text": said, **({"signature": signature} if signature else {})}
            block = {"reasoningContent": {"reasoningText": thought}}
        case Reasoning("", "", redacted):
            block = {"reasoningContent": {"redactedContent": redacted}}
        case Opaque(kind) if (
            (whole := decode_opaque(part)) and "type" not in whole and (kind in whole or kind == CITATION)
        ):
            block = whole
        case CacheMark():
            block = {"cachePoint": cache_control(part, type="default")}
        case ToolCall(call, name):
            head = {"toolUseId": call, "name": name}
            return decode_arguments(part, path).map(lambda given: {"toolUse": {**head, "input": given}})
        case ToolResult():
            return _result(part, path)
        case Image() | Document():
            return _media(part, path)
        case _:
            said = f"{type(part).__name__} of another wire cannot be said on this one"
            return Failure(Unsupported(path=path, message=said))
    return Success(block)


def _result(result: ToolResult, path: str) -> Result[Payload, LLMError]:
    """Write what a tool answered, as blocks of text and pictures."""
    # Only some families take a status, so success goes unsaid.
    status = {"status": "error"} if result.is_error else {}
    return encode_result_parts(result, path, _part).map(
        lambda blocks: {"toolResult": {"toolUseId": result.id, "content": blocks, **status}}
    )


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Write a picture or a file inline, or by its place in S3."""
    if isinstance(part, Image) and part.detail not in {"", "auto"}:
        return Failure(Unsupported(path=path, message="an image's detail cannot be said on this wire"))
    held = inline_data(part)
    if held is None and not part.url.startswith("s3://"):
        return Failure(Unsupported(path=path, message="of addresses, this wire takes those that begin with s3://"))
    media_type = part.media_type if held is None else held[0]
    form = FORMATS[type(part)].get(media_type)
    if form is None:
        return Failure(media_type_error(media_type, path))
    source: Payload = {"s3Location": {"uri": part.url}} if held is None else {"bytes": held[1]}
    if isinstance(part, Image):
        return Success({"image": {"format": form, "source": source}})
    # A name is needed and no two may be the same, so one that was not given is made of the place.
    name = UNNAMEABLE.sub("-", part.name).strip("- ")[:200] or UNNAMEABLE.sub("-", f"document{path}")
    return Success({"document": {"format": form, "name": name, "source": source}})


def _answer(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write the form of the answer; the schema goes as text."""
    wanted = request.response_schema
    if wanted is None:
        return Success({})
    try:
        schema = encode_compact(wanted.schema)
    except (TypeError, ValueError, RecursionError) as bad:
        return Failure(InvalidRequest(path="$.response_schema.schema", message=f"not representable as JSON: {bad}"))
    form = {"type": "json_schema", "structure": {"jsonSchema": {"name": wanted.name, "schema": schema}}}
    return Success({"outputConfig": {"textFormat": form}})


def _tools(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write the tools and how freely the model may choose among them, which it may not do without them."""
    choice = request.tool_choice
    if choice is not None and (choice == "none" or not request.tools):
        said = f"tool_choice={choice!r} cannot be said on this wire{'' if request.tools else ' without tools'}"
        return Failure(Unsupported(path="$.tool_choice", message=said))
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
    chosen: Payload = {} if choice is None else {"toolChoice": CHOICES.get(choice, {"tool": {"name": choice}})}
    return Success({"toolConfig": {"tools": tools, **chosen}})


WIRE: Final = Wire(
    name="bedrock_converse",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=lambda payload: _usage(as_mapping(payload.get("usage"))),
    framing="aws_eventstream",
)
