"""OpenAI Chat Completions, and the variations of its many compatible servers.

What differs here:

- System messages are messages like others. Token counts include cached and reasoning tokens; some servers leave
  reasoning out of the completion's tokens, and only the total shows it.
- A stream sends its usage only on request, in a last chunk without choices. ``[DONE]`` completes an answer whose server
  never sent a finish reason.
- Compatible servers send content as a list, reasoning under another name, tool calls without an index or an id, and
  errors inside a 200. A call without an id gets one generated from its response's id, name and arguments.
- Gemini's signature of a call is in ``extra_content``, and its second turn is refused without it
  (https://ai.google.dev/gemini-api/docs/thought-signatures, read 2026-11-30).
- Gateways have a model's images in ``images`` beside the text, and take them back there.
- Earlier reasoning is sent back; a provider that rejects it refuses it before the request is encoded.

The file is long because encoder and decoder of one API are read side by side.

Source: https://platform.openai.com/docs/api-reference/chat and the types of openai 3.54.0 (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.construction import fast_constructor
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.framing import Frame
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, Wire
from llmhub.core.reasoning_details import REASONING_DETAILS, read_reasoning_details
from llmhub.core.recording import is_recording, recording
from llmhub.core.stream import (
    ChoiceFinished,
    Delta,
    Fragment,
    StreamStarted,
    UsageDelta,
    assemble_response,
    assemble_text_response,
    generate_call_id,
)
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
from llmhub.wire.logprobs import LOGPROBS_INDEX, decode_logprobs, decode_parallel_logprobs
from llmhub.wire.readers import (
    AUDIO_INPUT,
    AUDIO_OUTPUT,
    as_count,
    as_list,
    as_mapping,
    as_text,
    billed_tier,
    billed_units,
    capped_count,
    encode_compact,
    error_body,
    error_message,
    iter_objects,
    reported_cost,
    require_list,
)
from llmhub.wire.writers import (
    Param,
    attach_cache_mark,
    cache_control,
    check_no_error_flag,
    decode_opaque,
    encode_parameters,
    foreign_part_error,
    inline_data,
    unsupported_parameter,
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

TOOL_CHOICES: Final = frozenset({"auto", "none", "required"})
REASONING_FIELDS: Final = ("reasoning_content", "reasoning")
"""Fields in which compatible servers send the text of reasoning; the first is the one it is sent back in."""

SEARCH_CONTEXTS: Final = {"medium": "medium", "high": "high"}
"""Perplexity's sizes of a search context with a fee above the standard one."""
_NEW_USAGE: Final = fast_constructor(Usage)

COUNTED_UNITS: Final = {
    "prompt_audio_seconds": "audio:seconds",
    "num_search_queries": "web_search:requests",
    "citation_tokens": "citation:tokens",
}
"""Counts of Mistral and of Perplexity, and the billed unit of each."""

IN_BAND_STATUS: Final = {"invalid_request_error": 400, "invalid_parameter_error": 400}
"""Status for the type of an error that came inside a 200, without a status of its own."""

PART_INDEX: Final[Mapping[type[Part], int]] = {Reasoning: 0, Opaque: 1, Text: 2, Image: 3, Document: 3, Refusal: 3}
"""Index of a part among those of a streamed answer, in the order of a response that is not streamed."""

FIRST_CALL_INDEX: Final = 4
"""Index of the first tool call among the parts of a streamed answer."""

METADATA_INDEX: Final = LOGPROBS_INDEX - 1
"""Index of what is said about a streamed answer, such as its citations, after its parts."""

MESSAGE_METADATA: Final = {"annotations": "annotation", "executed_tools": "executed_tool"}
"""Lists in a message of what is said about it, and the kind of an `Opaque` part for each object in it."""

RESPONSE_METADATA: Final = {"search_results": "search_result", "images": "search_image", "moderation": "moderation"}
"""The same at the top of a response: as Perplexity has them, and one object of OpenAI."""


def encode(request: CompletionRequest, *, signs_calls: bool = False) -> Result[Payload, LLMError]:
    """Encode a request as a Chat Completions body; ``signs_calls`` if signatures of earlier calls are sent back."""
    parameters = encode_parameters(request, PARAMS)
    if not is_successful(parameters):
        return parameters
    if request.reasoning_budget is not None:
        return Failure(unsupported_parameter("reasoning_budget", "this API takes reasoning_effort, not a budget"))
    messages: list[Payload] = []
    for index, message in enumerate(request.messages):
        encoded = _turn(message, index, signs_calls=signs_calls)
        if not is_successful(encoded):
            return Failure(encoded.failure())
        messages.extend(encoded.unwrap())
    _restore_custom_calls(messages, request.extra)
    return Success({"model": request.model, "messages": messages, **parameters.unwrap(), **_features(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode a Chat Completions body."""
    if payload.get("error"):
        return Failure(_error(payload, None))
    choices = require_list(payload, "choices")
    if not is_successful(choices):
        return Failure(choices.failure())
    response_id = as_text(payload.get("id"))
    answers = []
    for index, choice in enumerate(choices.unwrap()):
        if isinstance(choice, dict) and as_mapping(choice.get("error")):  # of a gateway whose server broke off
            return Failure(_error(choice, None))
        # A filtered answer may have a finish reason and no message.
        if not isinstance(choice, dict) or not (isinstance(choice.get("message"), dict) or choice.get("finish_reason")):
            return Failure(Malformed(path=f"$.choices[{index}].message", message="expected an object"))
        parts = [*_parts(as_mapping(choice.get("message"))), *_metadata(payload, choice), *_logprobs(choice)]
        answers.append((parts, _finish_reason(choice.get("finish_reason"))))
    if not answers:
        return Failure(Malformed(path="$.choices", message="expected at least one choice"))
    return Success(
        assemble_response(
            answers,
            usage=_usage(_usage_counts(payload), payload.get("service_tier")),
            served_model=as_text(payload.get("model")),
            request_id=response_id,
        )
    )


def decode_fast(body: bytes) -> CompletionResponse | None:
    """Decode a body that holds one text, else return ``None``. Law: a result equals that of `decode`."""
    response = parse_plain_chat(body)
    if response is None:
        return None
    choice = response.choices[0]
    return assemble_text_response(
        choice.message.content,
        _finish_reason(choice.finish_reason),
        usage=_usage(response.usage, response.service_tier),
        served_model=response.model,
        request_id=response.id,
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one chunk of a stream."""
    chunk = parse_plain_chat_chunk(frame.data)
    if chunk is not None:
        choice = chunk.choices[0]
        text = Fragment(PART_INDEX[Text], Text(choice.delta.content), choice.index)
        return Success((StreamStarted(chunk.model, chunk.id), text))
    if frame.data.strip() == b"[DONE]":
        return Success((ChoiceFinished("other"),))
    return parse_json_object(frame.data).bind(_chunk)


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply: an ``error`` object or string, or a bare ``message`` or ``detail``."""
    return _error(error_body(reply.body), reply.status)


# Streams


def _chunk(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Decode a chunk's choices, and its usage in whichever place it is."""
    if payload.get("error"):
        return Failure(_error(payload, None))
    response_id = as_text(payload.get("id"))
    deltas: list[Delta] = [StreamStarted(as_text(payload.get("model")), response_id)]
    for choice in iter_objects(payload.get("choices")):
        if as_mapping(choice.get("error")):
            return Failure(_error(choice, None))
        deltas.extend(_deltas(choice, response_id))
        answer = as_count(choice.get("index")) or 0
        # They are repeated in every chunk, so their content is their key.
        deltas += [Fragment(METADATA_INDEX, part, answer, part.data) for part in _metadata(payload, choice)]
    counts = _usage_counts(payload)
    if counts:
        deltas.append(UsageDelta(_usage(counts, payload.get("service_tier"))))
    return Success(tuple(deltas))


def _deltas(choice: Mapping[str, object], response_id: str) -> list[Delta]:
    """Decode one choice of a chunk."""
    answer = as_count(choice.get("index")) or 0
    delta = as_mapping(choice.get("delta")) or as_mapping(choice.get("message"))
    deltas: list[Delta] = [
        # An image comes in one piece, and a later chunk may repeat it.
        Fragment(PART_INDEX[type(part)], part, answer, part.url if isinstance(part, Image) else "")
        for part in _parts(delta)
        if type(part) in PART_INDEX
    ]
    complete_calls: list[Part] = []
    for call in iter_objects(delta.get("tool_calls")):
        index = as_count(call.get("index"))
        if index is None:
            # Without an index a call is complete, and its id distinguishes it from the others.
            part = _with_id(_tool_call(call), response_id, complete_calls)
            complete_calls.append(part)
            deltas.append(Fragment(FIRST_CALL_INDEX, part, answer, part.id))
        else:
            deltas.append(Fragment(FIRST_CALL_INDEX + index, _tool_call(call), answer))
    legacy_call = as_mapping(delta.get("function_call"))
    if any(legacy_call.values()):
        deltas.append(Fragment(FIRST_CALL_INDEX, _tool_call({"function": legacy_call}), answer))
    deltas += [Fragment(LOGPROBS_INDEX, part, answer) for part in _logprobs(choice)]
    if choice.get("finish_reason"):
        deltas.append(ChoiceFinished(_finish_reason(choice.get("finish_reason")), answer))
    return deltas


# Responses


def _parts(message: Mapping[str, object]) -> list[Part]:
    """Decode a message's reasoning, content, refusal and tool calls."""
    parts: list[Part] = []
    reasoning = next((text for name in REASONING_FIELDS if (text := as_text(message.get(name)))), "")
    if reasoning:
        parts.append(Reasoning(reasoning))
    details = "".join(f"{encode_compact(detail)}," for detail in iter_objects(message.get("reasoning_details")))
    if details:
        parts.append(Opaque(REASONING_DETAILS, details))
    content = message.get("content")
    if isinstance(content, str):
        parts.append(Text(content))
    elif isinstance(content, dict):  # Cloudflare's answer to a schema
        parts.append(Text(encode_compact(content)))
    else:
        parts.extend(part for block in iter_objects(content) for part in _block(block))
    blocks = [*iter_objects(content), *iter_objects(message.get("images"))]
    parts.extend(dict.fromkeys(image for block in blocks if (image := _image(block)).url))
    audio = as_mapping(message.get("audio"))
    if audio:
        parts.append(Text(as_text(audio.get("transcript"))))
        parts.append(recording(as_text(audio.get("id")), as_text(audio.get("data"))))
    if as_text(message.get("refusal")):
        parts.append(Refusal(as_text(message.get("refusal"))))
    parts.extend(_tool_call(call) for call in iter_objects(message.get("tool_calls")))
    legacy_call = as_mapping(message.get("function_call"))
    if any(legacy_call.values()):  # an empty one is no call
        parts.append(_tool_call({"function": legacy_call}))
    return parts


def _metadata(payload: Mapping[str, object], choice: Mapping[str, object]) -> list[Opaque]:
    """Decode what is said about an answer: citations, search results, and tools that the server ran."""
    message = as_mapping(choice.get("message")) or as_mapping(choice.get("delta"))
    found = [
        Opaque(kind, encode_compact(item))
        for source, kinds in ((payload, RESPONSE_METADATA), (message, MESSAGE_METADATA))
        for name, kind in kinds.items()
        for value in [source.get(name)]
        for item in iter_objects([value] if isinstance(value, dict) else value)
    ]
    if not payload.get("search_results"):
        addresses = [address for address in as_list(payload.get("citations")) if isinstance(address, str)]
        found += [Opaque("search_result", encode_compact({"url": address})) for address in addresses]
    return list(dict.fromkeys(found))


def _block(block: Mapping[str, object]) -> list[Part]:
    """Decode one block of a content list."""
    match block.get("type"):
        case "text" | "output_text":
            return [Text(as_text(block.get("text")))]
        case "refusal":
            return [Refusal(as_text(block.get("refusal")))]
        case "thinking" | "reasoning":
            inner = block.get("thinking") or block.get("summary")
            pieces = [as_text(piece.get("text")) for piece in iter_objects(inner)]
            return [Reasoning(inner if isinstance(inner, str) else "".join(pieces), as_text(block.get("signature")))]
        case _:
            return []


def _image(block: Mapping[str, object]) -> Image:
    """Decode an image that the model made, one without an address if the block is none."""
    field = block.get("image_url")
    return Image(url=field if isinstance(field, str) else as_text(as_mapping(field).get("url")))


def _tool_call(call: Mapping[str, object]) -> ToolCall:
    """Decode a tool call, or a fragment of one; arguments that came as an object are encoded as JSON."""
    function = as_mapping(call.get("function")) or as_mapping(call.get("custom"))
    arguments = function.get("arguments", function.get("input"))
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else encode_compact(arguments)
    google = as_mapping(as_mapping(call.get("extra_content")).get("google"))
    signature = as_text(google.get("thought_signature"))
    return ToolCall(as_text(call.get("id")), as_text(function.get("name")), arguments, signature)


def _with_id(call: ToolCall, response_id: str, earlier: list[Part]) -> ToolCall:
    """Generate an id for a complete call that has none."""
    return call if call.id else replace(call, id=generate_call_id(response_id, call.name, call.arguments, earlier))


def _logprobs(choice: Mapping[str, object]) -> list[Logprobs]:
    """Decode log probabilities, which Together may send in the parallel lists of Completions."""
    logprobs = as_mapping(choice.get("logprobs"))
    return decode_parallel_logprobs(logprobs) if "tokens" in logprobs else decode_logprobs(logprobs.get("content"))


def _usage_counts(payload: Mapping[str, object]) -> Mapping[str, object]:
    """Return the usage object: at the top, under Groq's extension, or in a choice."""
    for parent in (payload, as_mapping(payload.get("x_groq")), *iter_objects(payload.get("choices"))):
        counts = as_mapping(parent.get("usage"))
        if counts:
            return counts
    return {}


def _usage(counts: Mapping[str, object], service_tier: object = None) -> Usage:
    """Decode token counts; what the total holds beyond the prompt is output, and no part exceeds its total."""
    get = counts.get  # a dozen times a response
    prompt, completion = as_count(get("prompt_tokens")), as_count(get("completion_tokens"))
    total, context = as_count(get("total_tokens")), get("search_context_size")
    input_details = as_mapping(get("prompt_tokens_details")).get
    output_details = as_mapping(get("completion_tokens_details")).get
    if prompt is not None and completion is not None and total is not None and total > prompt + completion:
        completion = total - prompt
    cached = capped_count(
        prompt, input_details("cached_tokens"), get("prompt_cache_hit_tokens"), get("num_cached_tokens")
    )
    cache_writes = capped_count(prompt, input_details("cache_write_tokens"))
    reasoning = capped_count(completion, output_details("reasoning_tokens"), get("reasoning_tokens"))
    tier = billed_tier(service_tier) or ("" if context is None else SEARCH_CONTEXTS.get(as_text(context), ""))
    audio = input_details("audio_tokens"), output_details("audio_tokens")
    units: tuple[tuple[str, int], ...] = ()
    if audio[0] or audio[1] or not COUNTED_UNITS.keys().isdisjoint(counts):
        others = ((name, get(field)) for field, name in COUNTED_UNITS.items())
        fresh = None if prompt is None else prompt - (cached or 0)
        units = billed_units(
            (AUDIO_INPUT, capped_count(fresh, audio[0])), (AUDIO_OUTPUT, capped_count(completion, audio[1])), *others
        )
    return _NEW_USAGE(prompt, completion, cached, cache_writes, reasoning, None, tier, reported_cost(counts), units)


def _finish_reason(reason: object) -> FinishReason:
    return FINISH.get(as_text(reason), "other")


def _error(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Decode the error in a body, in whichever field the server puts it."""
    field = payload.get("error")
    error = as_mapping(field) or payload
    code = error.get("code")
    codes = [
        str(name) for name in (code, error.get("type"), error.get("status")) if isinstance(name, (str, int)) and name
    ]
    if status is None:
        in_band = IN_BAND_STATUS.get(as_text(error.get("type"))) or IN_BAND_STATUS.get(as_text(code))
        status = as_count(code) or in_band
    codes.sort(key=str(status).__eq__)  # the status once more says less than a name
    message = error_message(error.get("message") or error.get("detail") or field, error) + _upstream(error)
    return classify_error(OPENAI_ERRORS, status=status, codes=codes, message=message)


def _upstream(error: Mapping[str, object]) -> str:
    """Return what the server behind a gateway said, which OpenRouter keeps apart from its own message."""
    metadata = as_mapping(error.get("metadata"))
    raw = metadata.get("raw")
    if not raw:
        return ""
    name = as_text(metadata.get("provider_name"))
    return f" ({f'{name}: ' if name else ''}{raw if isinstance(raw, str) else encode_compact(raw)})"


# Requests


def _turn(  # noqa: C901 - one for each type of part
    message: Message, message_index: int, *, signs_calls: bool
) -> Result[list[Payload], LLMError]:
    """Encode one message; each tool result becomes a message of its own."""
    content: list[Payload] = []
    calls: list[Payload] = []
    results: list[Payload] = []
    reasoning: list[str] = []
    details: list[Payload] = []
    images: list[Payload] = []
    audio: Payload = {}
    for part_index, part in enumerate(message.parts):
        path = f"$.messages[{message_index}].parts[{part_index}]"
        error: LLMError | None = None
        match part:
            case ToolCall(call_id, name, arguments, signature):
                function = {"name": name, "arguments": arguments}
                signed = _signature(signature) if signs_calls else {}
                calls.append({"id": call_id, "type": "function", "function": function, **signed})
            case ToolResult(call_id, result):
                error = check_no_error_flag(part, path)
                results.append({"role": "tool", "tool_call_id": call_id, "content": _result_content(result)})
            case CacheMark():
                breakpoint_field = {"prompt_cache_breakpoint": cache_control(part, mode="explicit")}
                error = attach_cache_mark(content, breakpoint_field, path)
            case Reasoning(text, redacted=""):
                reasoning.append(text)
            case Opaque("reasoning_details"):
                details += read_reasoning_details(part)
            case Document(name=recording_id) if message.role == "assistant" and recording_id and is_recording(part):
                audio = {"id": recording_id}
            case Image() if message.role == "assistant":
                images.append(_encode_image(part))
            case _ if (block := _part(part)) is not None:
                content.append(block)
            case _:
                error = foreign_part_error(part, path)
        if error is not None:
            return Failure(error)
    if audio and all(block.keys() == {"type", "text"} for block in content):
        content = []  # the transcript, which the API knows
    is_text = len(content) == 1 and content[0].keys() == {"type", "text"}
    optional: Payload = {
        "tool_calls": calls,
        "images": images,
        "audio": audio,
        REASONING_DETAILS: details,
        REASONING_FIELDS[0]: "" if details else "".join(reasoning),  # details hold the text as well
    }
    turn: Payload = {
        "role": message.role,
        "content": content[0]["text"] if is_text else content or None,
        **{name: value for name, value in optional.items() if value},
    }
    return Success([*results, turn] if content or calls or images or audio or not results else results)


def _signature(signature: str) -> Payload:
    """Encode the signature of a call; one of the Responses API, an object, is of no use here."""
    is_gemini = signature and not signature.startswith("{")
    return {"extra_content": {"google": {"thought_signature": signature}}} if is_gemini else {}


def _restore_custom_calls(messages: Iterable[Payload], extra: Mapping[str, object]) -> None:
    """Send calls of custom tools, which the request declares in ``extra``, back in their own form."""
    declared = [as_mapping(tool.get("custom")) for tool in iter_objects(extra.get("tools")) if tool.get("custom")]
    names = {as_text(tool.get("name")) for tool in declared}
    for message in messages if names else ():
        for call in iter_objects(message.get("tool_calls")):
            function = as_mapping(call.get("function"))
            if isinstance(call, dict) and function.get("name") in names:
                del call["function"]
                call |= {"type": "custom", "custom": {"name": function["name"], "input": function["arguments"]}}


def _result_content(content: str | Sequence[Text | Image]) -> str | list[Payload]:
    """Encode a tool's result: text, or parts if there are images, which only some servers take."""
    if isinstance(content, str):
        return content
    if all(isinstance(part, Text) for part in content):
        return join_text(content)
    return [block for part in content if (block := _part(part)) is not None]


def _part(part: Part) -> Payload | None:
    """Encode a part of a message's content; an opaque part only if it came from this wire."""
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image():
            return _encode_image(part)
        case Document():
            return _file(part)
        case Refusal(text):
            return {"type": "refusal", "refusal": text}
        case Opaque(kind) if kind not in {"", REASONING_DETAILS} and (block := decode_opaque(part)).get("type") == kind:
            return block
        case _:
            return None


def _encode_image(image: Image) -> Payload:
    url: Payload = {"url": image.url or f"data:{image.media_type};base64,{image.data}"}
    return {"type": "image_url", "image_url": {**url, **({"detail": image.detail} if image.detail else {})}}


def _file(document: Document) -> Payload | None:
    """Encode a document; one with an address is taken by some servers only, one without media type by none."""
    media_type, data = inline_data(document) or ("", "")
    if media_type and data:
        name = document.name or f"file.{media_type.rpartition('/')[2]}"
        return {"type": "file", "file": {"filename": name, "file_data": f"data:{media_type};base64,{data}"}}
    if data or not document.url:
        return None
    return {"type": "file", "file": {"filename": document.name or "file.pdf", "file_data": document.url}}


def _features(request: CompletionRequest) -> Payload:
    """Encode tools, structured output, log probabilities and reasoning."""
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
        function = {"type": "function", "function": {"name": request.tool_choice}}
        payload["tool_choice"] = request.tool_choice if request.tool_choice in TOOL_CHOICES else function
    if request.response_schema is not None:
        schema = request.response_schema
        json_schema = {"name": schema.name, "schema": schema.schema, "strict": schema.strict}
        payload["response_format"] = {"type": "json_schema", "json_schema": json_schema}
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
    decode_usage=lambda payload: _usage(_usage_counts(payload), payload.get("service_tier")),
    stream_fields={"stream": True, "stream_options": {"include_usage": True}},
    has_unsigned_reasoning=True,
)
SIGNED_WIRE: Final = replace(WIRE, encode=partial(encode, signs_calls=True))
"""Of servers that take Gemini's signatures of calls back."""
