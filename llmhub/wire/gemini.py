"""Gemini's ``generateContent``, on the Gemini API and on Vertex AI.

What differs here:

- The model and whether to stream are in the URL. Leading system messages become ``systemInstruction``; a later one is
  not supported. Results name their function, taken from the call with that id where the caller did not name it, and
  those of adjacent tool messages share one message. A document's name and a schema's name have no field.
- ``candidatesTokenCount`` excludes thoughts and ``promptTokenCount`` excludes what tools fetched; zeros are omitted.
  ``STOP`` is the reason even when tools are called; enums may be numbers. A blocked prompt is a 200, and an error here.
  The time to wait after a 429 is in the body.
- A call without an id gets one generated from its response's id, name and arguments, the same streamed or not. A
  ``thoughtSignature`` belongs to a part: a call or a thought carries its own; that of visible text follows it as a
  `Reasoning` without text, and is encoded back onto the text before it.
- Streamed, text and thoughts grow and everything else comes complete. Parts are in the order of their first appearance,
  since no field gives their position.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/thought-signatures,
https://ai.google.dev/gemini-api/docs/openai (efforts as budgets) and the types of google-genai 3.4.0 (read 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import (
    AuthFailed,
    ContentFiltered,
    InvalidRequest,
    LLMError,
    Malformed,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    ServerError,
    Unsupported,
    with_context,
)
from llmhub.core.framing import Frame
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, Wire
from llmhub.core.stream import (
    GENERATED_ID_PREFIX,
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
)
from llmhub.wire.errors import CONTEXT_PHRASES, ErrorTable, classify_error
from llmhub.wire.fast_path import parse_plain_gemini_chunk
from llmhub.wire.logprobs import LOGPROBS_INDEX, decode_gemini_logprobs
from llmhub.wire.readers import (
    AUDIO_CACHED,
    AUDIO_INPUT,
    AUDIO_OUTPUT,
    as_count,
    as_list,
    as_mapping,
    as_text,
    billed_units,
    encode_compact,
    error_body,
    error_message,
    iter_objects,
    require_list,
    sum_counts,
)
from llmhub.wire.writers import (
    Param,
    decode_arguments,
    decode_opaque,
    encode_parameters,
    foreign_part_error,
    inline_data,
    media_type_error,
    unsupported_parameter,
)

FILTERS: Final = (
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "ESCALATION"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
    *("3", "4", "7", "8"),  # enum numbers on which the Gemini API and Vertex AI agree, unlike 6, 9 and 10
)
FINISH: Final[Mapping[str, FinishReason]] = {
    **dict.fromkeys(("STOP", "1"), "stop"),
    **dict.fromkeys(("MAX_TOKENS", "2"), "length"),
    **dict.fromkeys(FILTERS, "content_filter"),
}

PARAMS: Final = (
    Param("temperature", "temperature", 0, 2),
    Param("top_p", "topP", 0, 1),
    Param("top_k", "topK", 1),
    Param("max_tokens", "maxOutputTokens", 1),
    Param("stop", "stopSequences", 1, 5),
    Param("seed", "seed", -(1 << 31), (1 << 31) - 1),
    Param("presence_penalty", "presencePenalty", -2, 2),
    Param("frequency_penalty", "frequencyPenalty", -2, 2),
    Param("n", "candidateCount", 1, 8),
    Param("logprobs", "logprobs", 0, 20),
)

ERRORS: Final = ErrorTable(
    codes={
        "PerDay": QuotaExhausted,
        "API_KEY_INVALID": AuthFailed,
        "RESOURCE_EXHAUSTED": RateLimited,
        "CANCELLED": ServerError,
    },
    phrases=(
        *CONTEXT_PHRASES,
        ("user location is not supported", PermissionDenied),
    ),
)

TOOL_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
THINKING_LEVELS: Final = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH"}
"""Level for each effort, as Gemini 3 and later take them."""

THINKING_BUDGETS: Final = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""Budget for each effort, since Gemini 2.5 has no levels."""

MEDIA_RESOLUTIONS: Final = {"low": "MEDIA_RESOLUTION_LOW", "high": "MEDIA_RESOLUTION_HIGH"}
PART_METADATA: Final = frozenset({"thought", "thoughtSignature", "partMetadata", "mediaResolution", "videoMetadata"})
"""Fields of a part besides its content."""

RESPONSE_METADATA: Final = ("groundingMetadata", "urlContextMetadata", "citationMetadata")
"""Fields of a candidate about its content; a stream sends the last of each complete."""

AUDIO_DETAILS: Final = ("prompt", "cache", "candidates")
"""Counts by modality that may hold tokens of audio."""

RETRY_DELAY: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request as a ``generateContent`` body; the model is in the URL."""
    parameters = encode_parameters(request, PARAMS)
    if not is_successful(parameters):
        return parameters
    output = _output_options(request)
    if not is_successful(output):
        return output
    contents = _contents(request)
    if not is_successful(contents):
        return contents
    config = {**parameters.unwrap(), **output.unwrap()}
    return Success({**contents.unwrap(), **({"generationConfig": config} if config else {}), **_tools(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode a ``GenerateContentResponse``."""
    error = _in_band_error(payload)
    if error is not None:
        return Failure(error)
    candidates = require_list(payload, "candidates")
    if not is_successful(candidates):
        return Failure(candidates.failure())
    ordered = sorted(iter_objects(candidates.unwrap()), key=lambda candidate: as_count(candidate.get("index")) or 0)
    if not ordered or len(ordered) != len(candidates.unwrap()):
        return Failure(Malformed(path="$.candidates", message="expected at least one candidate, each an object"))
    response_id = as_text(payload.get("responseId"))
    answers = [(_parts(candidate, response_id), _finish_reason(candidate)) for candidate in ordered]
    return Success(
        assemble_response(
            answers,
            usage=_usage(
                as_mapping(payload.get("usageMetadata")), payload.get("modelVersion"), _searches(candidates.unwrap())
            ),
            served_model=as_text(payload.get("modelVersion")),
            request_id=response_id,
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one chunk of a stream, which is a response of its own with the new content."""
    if frame.data.strip() == b"[DONE]":
        return Success(())
    chunk = parse_plain_gemini_chunk(frame.data)
    if chunk is None:
        return parse_json_object(frame.data).bind(_chunk)
    deltas = (
        StreamStarted(chunk.modelVersion, chunk.responseId),
        Fragment(0, Text(chunk.text), chunk.index),
    )
    return Success(
        (*deltas, UsageDelta(_usage(chunk.usageMetadata, chunk.modelVersion))) if chunk.usageMetadata else deltas
    )


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply: an ``error`` object, alone or in a list, or any other text."""
    body = parse_json_object(b'{"error_or_list":%b}' % reply.body)
    value = body.unwrap().get("error_or_list") if is_successful(body) else None
    error = next(iter_objects(value), None) or as_mapping(value)
    return _error(error or error_body(reply.body), reply.status)


# Streams


def _chunk(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Decode a chunk's candidates and its cumulative token counts."""
    error = _in_band_error(payload)
    if error is not None:
        return Failure(error)
    response_id = as_text(payload.get("responseId"))
    counts = as_mapping(payload.get("usageMetadata"))
    deltas: list[Delta] = [StreamStarted(as_text(payload.get("modelVersion")), response_id)]
    for candidate in iter_objects(payload.get("candidates")):
        deltas.extend(_deltas(candidate, response_id, str(counts.get("totalTokenCount"))))
    if counts:
        searches = _searches(payload.get("candidates"))
        deltas.append(UsageDelta(_usage(counts, payload.get("modelVersion"), searches)))
    return Success(tuple(deltas))


def _deltas(candidate: Mapping[str, object], response_id: str, chunk_key: str) -> list[Delta]:
    """Decode one candidate of a chunk; ``chunk_key`` distinguishes its parts from equal ones of another chunk."""
    answer = as_count(candidate.get("index")) or 0
    deltas: list[Delta] = []
    for position, part in enumerate(_parts(candidate, response_id)):
        match part:
            case Text() | Logprobs() | Document():
                key = ""
            case Opaque(kind) if kind in RESPONSE_METADATA:
                key = kind
            case Reasoning(signature=signature):
                key = signature
            case ToolCall(id=call_id) if not call_id.startswith(GENERATED_ID_PREFIX):
                key = call_id
            case _:
                key = f"{chunk_key} {position} {part!r}"
        is_metadata = isinstance(part, Opaque) and part.kind in RESPONSE_METADATA
        index = LOGPROBS_INDEX if isinstance(part, Logprobs) else LOGPROBS_INDEX - 1 if is_metadata else 0
        deltas.append(Fragment(index, part, answer, key))
    if candidate.get("finishReason"):
        deltas.append(ChoiceFinished(_finish_reason(candidate), answer))
    return deltas


# Responses


def _parts(candidate: Mapping[str, object], response_id: str) -> list[Part]:
    """Decode a candidate's parts, joining text to text and thought to thought where neither is signed."""
    parts: list[Part] = []
    for block in iter_objects(as_mapping(candidate.get("content")).get("parts")):
        for part in _block(block):
            match parts[-1] if parts else None, part:
                case Text(before), Text(after):
                    parts[-1] = Text(before + after)
                case Reasoning(before, ""), Reasoning(after, ""):
                    parts[-1] = Reasoning(before + after)
                case _, ToolCall("", name, arguments, signature):
                    call_id = generate_call_id(response_id, name, arguments, parts)
                    parts.append(ToolCall(call_id, name, arguments, signature))
                case _:
                    parts.append(part)
    metadata = [
        Opaque(name, encode_compact(candidate[name])) for name in RESPONSE_METADATA if as_mapping(candidate.get(name))
    ]
    return [*parts, *metadata, *decode_gemini_logprobs(as_mapping(candidate.get("logprobsResult")))]


def _block(block: Mapping[str, object]) -> list[Part]:
    """Decode one part of the content; the signature of a visible text follows it."""
    signature = as_text(block.get("thoughtSignature"))
    call = as_mapping(block.get("functionCall"))
    if call:
        arguments = encode_compact(call.get("args") or {})
        return [ToolCall(as_text(call.get("id")), as_text(call.get("name")), arguments, signature)]
    blob = as_mapping(block.get("inlineData"))
    media_type = as_text(blob.get("mimeType"))
    if media_type.startswith("image/") and not PART_METADATA & block.keys():
        return [Image(data=as_text(blob.get("data")), media_type=media_type)]
    if media_type.startswith("audio/") and not PART_METADATA & block.keys():
        return [Document(data=as_text(blob.get("data")), media_type=media_type)]
    kind = "text" if "text" in block else next((name for name in block if name not in PART_METADATA), "text")
    if kind != "text":
        return [Opaque(kind, encode_compact(block))]
    text = as_text(block.get("text"))
    if block.get("thought") is True:
        return [Reasoning(text, signature)] if text or signature else []
    return [*([Text(text)] if text else []), *([Reasoning("", signature)] if signature else [])]


def _usage(counts: Mapping[str, object], model: object = "", searches: int = 0) -> Usage:
    """Decode token counts; a count of zero is omitted, and then follows from the total.

    Searches are counted in the grounding of the candidates. What one costs is unknown here, since some are free.
    """
    prompt = sum_counts(as_count(counts.get("promptTokenCount")), as_count(counts.get("toolUsePromptTokenCount")))
    visible, thoughts = as_count(counts.get("candidatesTokenCount")), as_count(counts.get("thoughtsTokenCount"))
    total = as_count(counts.get("totalTokenCount"))
    # Older models count thoughts among the candidates' tokens; then the total is reached without them.
    visible_includes_thoughts = (
        prompt is not None and visible is not None and total is not None and prompt + visible == total
    )
    output = visible if visible_includes_thoughts else sum_counts(visible, thoughts)
    if total is not None and (prompt is None) != (output is None):
        rest = max(total - (prompt or 0) - (output or 0), 0)
        prompt, output = (rest, output) if prompt is None else (prompt, rest)
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_input_tokens=as_count(counts.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
        service_tier="text" if _is_text_of_an_image_model(counts, model) else "",
        billed_units=_audio(counts) + billed_units(("google_search:queries", searches)),
    )


def _searches(candidates: object) -> int:
    """Return the number of searches by which candidates are grounded."""
    metadata = (as_mapping(candidate.get("groundingMetadata")) for candidate in iter_objects(candidates))
    return sum(len(as_list(each.get("webSearchQueries"))) for each in metadata)


def _audio(counts: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    """Decode tokens of audio, which most models bill at another rate than text."""
    prompt, cached, output = (_audio_tokens(counts.get(f"{name}TokensDetails")) for name in AUDIO_DETAILS)
    fresh = max(prompt - cached, 0)
    return billed_units((AUDIO_INPUT, fresh), (AUDIO_CACHED, min(cached, prompt)), (AUDIO_OUTPUT, output))


def _audio_tokens(details: object) -> int:
    counts = (detail.get("tokenCount") for detail in iter_objects(details) if detail.get("modality") == "AUDIO")
    return sum_counts(*map(as_count, counts)) or 0


def _is_text_of_an_image_model(counts: Mapping[str, object], model: object) -> bool:
    """Return whether a model that makes images answered with text alone, whose tokens are cheaper."""
    if not isinstance(model, str) or "image" not in model:
        return False
    modalities = {detail.get("modality") for detail in iter_objects(counts.get("candidatesTokensDetails"))}
    return bool(modalities) and modalities <= {"TEXT", 1}


def _finish_reason(candidate: Mapping[str, object]) -> FinishReason:
    return FINISH.get(str(candidate.get("finishReason")), "other")


def _in_band_error(payload: Mapping[str, object]) -> LLMError | None:
    """Return the error that a 200 may hold: an error object, or a blocked prompt."""
    if payload.get("error"):
        return _error(payload, None)
    feedback = as_mapping(payload.get("promptFeedback"))
    reason = feedback.get("blockReason")
    if not reason or payload.get("candidates"):
        return None
    message = as_text(feedback.get("blockReasonMessage")) or f"the prompt was blocked: {reason}"
    return ContentFiltered(path="$.promptFeedback", message=message, code=str(reason))


def _error(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Decode an error object: its reason and status, the quota it exceeds, and how long to wait."""
    field = payload.get("error")
    error = as_mapping(field) or payload
    details = list(iter_objects(error.get("details")))
    quotas = [as_text(quota.get("quotaId")) for detail in details for quota in iter_objects(detail.get("violations"))]
    codes = ["PerDay"] if any("PerDay" in quota for quota in quotas) else []
    codes += [reason for detail in details if (reason := as_text(detail.get("reason")))]
    codes += [as_text(error.get("status"))] if error.get("status") else []
    classified = classify_error(
        ERRORS,
        status=as_count(error.get("code")) if status is None else status,
        codes=codes,
        message=error_message(error.get("message") or field, error),
    )
    delays = [RETRY_DELAY.fullmatch(as_text(detail.get("retryDelay"))) for detail in details]
    retry_after_s = max((float(delay[1]) for delay in delays if delay), default=None)
    return with_context(classified, provider="", retry_after_s=retry_after_s)


# Requests


def _contents(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode the messages: leading system messages as ``systemInstruction``, the others as ``contents``."""
    roles = [message.role for message in request.messages]
    leading = next((index for index, role in enumerate(roles) if role != "system"), len(roles))
    turns: list[tuple[str, list[Payload]]] = []
    call_names: dict[str, str] = {}
    for index, message in enumerate(request.messages):
        if index > leading and message.role == "system":
            reason = "this API takes system messages at the start only; move it there"
            return Failure(Unsupported(path=f"$.messages[{index}].role", message=reason))
        turn = _turn(message, index, call_names)
        if not is_successful(turn):
            return Failure(turn.failure())
        if index and roles[index - 1] == message.role == "tool":
            turns[-1][1].extend(turn.unwrap())
        else:
            turns.append(("model" if message.role == "assistant" else "user", turn.unwrap()))
    if leading == len(roles):
        reason = "this API cannot answer system messages alone; add a user message"
        return Failure(InvalidRequest(path="$.messages", message=reason))
    payload: Payload = {"contents": [{"role": role, "parts": parts} for role, parts in turns[leading:]]}
    if leading:
        payload["systemInstruction"] = {"parts": [part for _, parts in turns[:leading] for part in parts]}
    return Success(payload)


def _turn(message: Message, message_index: int, call_names: dict[str, str]) -> Result[list[Payload], LLMError]:
    """Encode one message's parts; ``call_names`` collects the function of each call id."""
    blocks: list[Payload] = []
    for part_index, part in enumerate(message.parts):
        path = f"$.messages[{message_index}].parts[{part_index}]"
        if message.role == "system" and not isinstance(part, Text):
            return Failure(Unsupported(path=path, message="this API takes only text in a system message"))
        match part:
            case Reasoning("", signature, ""):
                if signature and blocks and "text" in blocks[-1] and "thoughtSignature" not in blocks[-1]:
                    blocks[-1]["thoughtSignature"] = signature
                elif signature:
                    blocks.append({"text": "", "thoughtSignature": signature})
            case _:
                encoded = _part(part, path, call_names)
                if not is_successful(encoded):
                    return Failure(encoded.failure())
                blocks.append(encoded.unwrap())
    return Success(blocks)


def _part(part: Part, path: str, call_names: dict[str, str]) -> Result[Payload, LLMError]:
    """Encode one part; an opaque part only if it came from this wire."""
    match part:
        case Text(text) | Refusal(text):
            block: Payload = {"text": text}
        case Reasoning(text, signature, ""):
            block = {"text": text, "thought": True, **_signature(signature)}
        case ToolCall():
            return _tool_call(part, path, call_names)
        case ToolResult():
            return _tool_result(part, path, call_names)
        case Image() | Document():
            return _media(part, path)
        case Opaque(kind) if kind in (opaque := decode_opaque(part)):
            block = opaque
        case _:
            return Failure(foreign_part_error(part, path))
    return Success(block)


def _signature(signature: str) -> Payload:
    return {"thoughtSignature": signature} if signature else {}


def _tool_call(call: ToolCall, path: str, call_names: dict[str, str]) -> Result[Payload, LLMError]:
    """Encode a call and record its name; its arguments must be a JSON object."""
    call_names[call.id] = call.name
    head = {**({"id": call.id} if call.id else {}), "name": call.name}
    return decode_arguments(call, path).map(
        lambda arguments: {"functionCall": {**head, "args": arguments}, **_signature(call.signature)}
    )


def _tool_result(result: ToolResult, path: str, call_names: Mapping[str, str]) -> Result[Payload, LLMError]:
    """Encode a tool's result under its function's name, with images beside the text."""
    name = result.name or call_names.get(result.id, "")
    if not name:
        message = f"no earlier tool call has the id {result.id!r}; set the name of the result's tool"
        return Failure(InvalidRequest(path=f"{path}.name", message=message))
    parts = (Text(result.content),) if isinstance(result.content, str) else result.content
    text = "".join(part.text for part in parts if isinstance(part, Text))
    response = {"error" if result.is_error else "output": text}
    media: list[Payload] = []
    for index, part in enumerate(parts):
        if isinstance(part, Image):
            encoded = _media(part, f"{path}.content[{index}]")
            if not is_successful(encoded):
                return encoded
            media.append(encoded.unwrap())
    function: Payload = {"id": result.id, "name": name, "response": response}
    return Success({"functionResponse": {**function, **({"parts": media} if media else {})}})


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Encode an image or a document, inline or by its URL."""
    level = MEDIA_RESOLUTIONS.get(part.detail) if isinstance(part, Image) else None
    resolution = {"mediaResolution": {"level": level}} if level else {}
    inline = inline_data(part)
    if inline is None:
        media_type = {"mimeType": part.media_type} if part.media_type else {}
        return Success({"fileData": {"fileUri": part.url, **media_type}, **resolution})
    if not inline[0]:
        return Failure(media_type_error("", path))
    return Success({"inlineData": {"mimeType": inline[0], "data": inline[1]}, **resolution})


def _output_options(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode the schema of the answer, and how much to reason: a budget, or an effort as the model takes it."""
    schema, effort, budget = request.response_schema, request.reasoning_effort, request.reasoning_budget
    config: Payload = {}
    if schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": schema.schema}
    if request.logprobs is not None:
        config["responseLogprobs"] = True
    if budget is not None:
        config["thinkingConfig"] = {"thinkingBudget": budget}
    if effort is not None:
        takes_budgets = "gemini-2.5" in request.model
        efforts: Mapping[str, str | int] = THINKING_BUDGETS if takes_budgets else THINKING_LEVELS
        if budget is not None:
            message = "this API takes an effort or a budget, not both"
            return Failure(unsupported_parameter("reasoning_effort", message))
        if effort not in efforts:
            message = f"{request.model} takes one of {', '.join(efforts)}, not {effort!r}"
            return Failure(unsupported_parameter("reasoning_effort", message))
        config["thinkingConfig"] = {"thinkingBudget" if takes_budgets else "thinkingLevel": efforts[effort]}
    return Success(config)


def _tools(request: CompletionRequest) -> Payload:
    """Encode the tools and how freely the model may choose among them."""
    payload: Payload = {}
    declarations: list[Payload] = []
    for tool in request.tools:
        description = {"description": tool.description} if tool.description else {}
        schema = {"parametersJsonSchema": tool.parameters} if tool.parameters else {}
        declarations.append({"name": tool.name, **description, **schema})
    if declarations:
        payload["tools"] = [{"functionDeclarations": declarations}]
    strict = any(tool.strict for tool in request.tools)
    choice = request.tool_choice or ("auto" if strict else None)
    if choice is not None:
        names = {} if choice in TOOL_MODES else {"allowedFunctionNames": [choice]}
        # VALIDATED enforces the schema of calls and leaves the choice free; the other modes enforce it anyway.
        mode = "VALIDATED" if strict and choice == "auto" else TOOL_MODES.get(choice, "ANY")
        payload["toolConfig"] = {"functionCallingConfig": {"mode": mode, **names}}
    return payload


WIRE: Final = Wire(
    name="gemini",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=lambda payload: _usage(as_mapping(payload.get("usageMetadata")), payload.get("modelVersion")),
)
