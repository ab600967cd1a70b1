"""Gemini's ``generateContent``, as the Gemini API and Vertex AI speak it.

What differs here: the model and the wish for a stream stand in the address. Leading system turns become
``systemInstruction``; a later one cannot be said. Results name their function, taken from the call with
that id where the caller did not say, and those of adjacent tool turns share one turn. Thoughts are not in
``candidatesTokenCount``, nor what tools fetched in ``promptTokenCount``; zeros are left out. ``STOP`` is
said even when tools are called; enums may be numbers; a blocked prompt is a 200, and an error here. The
wait after a 429 stands in the body. A document's name and a schema's name have no place.

A call without an id gets one made of its answer's id, name and arguments, the same streamed or not. A
``thoughtSignature`` belongs to a part: a call or a thought carries its own; that of visible text follows
it as a `Reasoning` without text, and is written back onto the text before it. Streamed, text and thoughts
grow, all else comes whole, and parts stand in order of first sight, for nothing else tells their place.

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
    ContextTooLong,
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
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, StreamStarted, UsageDelta, assemble_response
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
from llmhub.wire.errors import ErrorTable, classify_error
from llmhub.wire.fast_path import parse_plain_gemini_chunk
from llmhub.wire.logprobs import LOGPROBS_INDEX, decode_gemini_logprobs
from llmhub.wire.readers import (
    GENERATED_ID_PREFIX,
    as_count,
    as_mapping,
    as_text,
    encode_compact,
    generate_call_id,
    iter_objects,
    require_list,
    sum_counts,
)
from llmhub.wire.writers import Param, decode_arguments, decode_opaque, encode_parameters, inline_data, media_type_error

FILTERS: Final = (
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "ESCALATION"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
    *("3", "4", "7", "8"),  # of these numbers the Gemini API and Vertex AI agree; not of 6, 9 and 10
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
        ("exceeds the maximum number of tokens", ContextTooLong),
        ("input token count is", ContextTooLong),
        ("user location is not supported", PermissionDenied),
    ),
)

MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
LEVELS: Final = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH"}
"""Efforts as Gemini 3 and later take them."""
BUDGETS: Final = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""Efforts as Gemini 2.5 takes them, which knows no levels."""
DETAILS: Final = {"low": "MEDIA_RESOLUTION_LOW", "high": "MEDIA_RESOLUTION_HIGH"}
AROUND: Final = frozenset({"thought", "thoughtSignature", "partMetadata", "mediaResolution", "videoMetadata"})
"""Fields beside what a part holds."""
DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as a ``generateContent`` body; the model is the address's."""
    sampling = encode_parameters(request, PARAMS)
    if not is_successful(sampling):
        return sampling
    answer = _answer(request)
    if not is_successful(answer):
        return answer
    turns: list[tuple[str, list[Payload]]] = []
    names: dict[str, str] = {}
    roles = [message.role for message in request.messages]
    leading = next((at for at, role in enumerate(roles) if role != "system"), len(roles))
    for at, message in enumerate(request.messages):
        if at > leading and message.role == "system":
            said = "a system turn inside the conversation cannot be said on this wire; put it first"
            return Failure(Unsupported(path=f"$.messages[{at}].role", message=said))
        turn = _turn(message, at, names)
        if not is_successful(turn):
            return Failure(turn.failure())
        if at and roles[at - 1] == message.role == "tool":
            turns[-1][1].extend(turn.unwrap())
        else:
            turns.append(("model" if message.role == "assistant" else "user", turn.unwrap()))
    if leading == len(roles):
        said = "system turns alone cannot be answered on this wire; add a user message"
        return Failure(InvalidRequest(path="$.messages", message=said))
    payload: Payload = {"contents": [{"role": role, "parts": parts} for role, parts in turns[leading:]]}
    if leading:
        payload["systemInstruction"] = {"parts": [part for _, parts in turns[:leading] for part in parts]}
    config = {**sampling.unwrap(), **answer.unwrap()}
    return Success({**payload, **({"generationConfig": config} if config else {}), **_tools(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Read a ``GenerateContentResponse``."""
    wrong = _wrong(payload)
    if wrong is not None:
        return Failure(wrong)
    candidates = require_list(payload, "candidates")
    if not is_successful(candidates):
        return Failure(candidates.failure())
    answers = sorted(iter_objects(candidates.unwrap()), key=lambda candidate: as_count(candidate.get("index")) or 0)
    if not answers or len(answers) != len(candidates.unwrap()):
        return Failure(Malformed(path="$.candidates", message="expected one object an answer, and at least one"))
    origin = as_text(payload.get("responseId"))
    told = [(_parts(candidate, origin), _finish(candidate)) for candidate in answers]
    usage = _usage(as_mapping(payload.get("usageMetadata")))
    return Success(
        assemble_response(told, usage=usage, served_model=as_text(payload.get("modelVersion")), request_id=origin)
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Read one chunk of a stream: a response of its own, with what is new; the plainest quickly."""
    found = parse_plain_gemini_chunk(frame.data)
    if found is None:
        return parse_json_object(frame.data).bind(_chunk)
    told = (StreamStarted(found.modelVersion, found.responseId), Fragment(0, Text(found.text), found.index))
    return Success((*told, UsageDelta(_usage(found.usageMetadata))) if found.usageMetadata else told)


def decode_error(reply: HttpReply) -> LLMError:
    """Read an error reply: an ``error`` object, alone or in a list, or whatever text came instead."""
    body = parse_json_object(b'{"all":%b}' % reply.body)
    found = body.unwrap().get("all") if is_successful(body) else None
    said = next(iter_objects(found), None) or as_mapping(found) or {"message": reply.body.decode("utf-8", "replace")}
    return _failure(said, reply.status)


def _chunk(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Read a chunk's candidates and its counts so far."""
    wrong = _wrong(payload)
    if wrong is not None:
        return Failure(wrong)
    origin = as_text(payload.get("responseId"))
    counts = as_mapping(payload.get("usageMetadata"))
    deltas: list[Delta] = [StreamStarted(as_text(payload.get("modelVersion")), origin)]
    for candidate in iter_objects(payload.get("candidates")):
        deltas.extend(_deltas(candidate, origin, str(counts.get("totalTokenCount"))))
    if counts:
        deltas.append(UsageDelta(_usage(counts)))
    return Success(tuple(deltas))


def _deltas(candidate: Mapping[str, object], origin: str, chunk: str) -> list[Delta]:
    """Read one candidate of a chunk; ``chunk`` tells its parts from equal ones of another."""
    which = as_count(candidate.get("index")) or 0
    found: list[Delta] = []
    for place, part in enumerate(_parts(candidate, origin)):
        match part:
            case Text() | Logprobs():
                key = ""
            case Reasoning(signature=signature):
                key = signature
            case ToolCall(id=call) if not call.startswith(GENERATED_ID_PREFIX):
                key = call
            case _:
                key = f"{chunk} {place} {part!r}"
        found.append(Fragment(LOGPROBS_INDEX if isinstance(part, Logprobs) else 0, part, which, key))
    if candidate.get("finishReason"):
        found.append(ChoiceFinished(_finish(candidate), which))
    return found


def _parts(candidate: Mapping[str, object], origin: str) -> list[Part]:
    """Read a candidate's parts, joining text to text and thought to thought where neither is signed."""
    parts: list[Part] = []
    for block in iter_objects(as_mapping(candidate.get("content")).get("parts")):
        for part in _block(block):
            match parts[-1] if parts else None, part:
                case Text(before), Text(after):
                    parts[-1] = Text(before + after)
                case Reasoning(before, ""), Reasoning(after, ""):
                    parts[-1] = Reasoning(before + after)
                case _, ToolCall("", name, arguments, signature):
                    parts.append(ToolCall(generate_call_id(origin, name, arguments, parts), name, arguments, signature))
                case _:
                    parts.append(part)
    return parts + decode_gemini_logprobs(as_mapping(candidate.get("logprobsResult")))


def _block(block: Mapping[str, object]) -> list[Part]:
    """Read one part; a visible text's signature follows it."""
    signature = as_text(block.get("thoughtSignature"))
    call = as_mapping(block.get("functionCall"))
    if call:
        arguments = encode_compact(call.get("args") or {})
        return [ToolCall(as_text(call.get("id")), as_text(call.get("name")), arguments, signature)]
    blob = as_mapping(block.get("inlineData"))
    if as_text(blob.get("mimeType")).startswith("image/") and not AROUND & block.keys():
        return [Image(data=as_text(blob.get("data")), media_type=as_text(blob.get("mimeType")))]
    kind = "text" if "text" in block else next((name for name in block if name not in AROUND), "text")
    if kind != "text":
        return [Opaque(kind, encode_compact(block))]
    said = as_text(block.get("text"))
    if block.get("thought") is True:
        return [Reasoning(said, signature)] if said or signature else []
    visible: list[Part] = [Text(said)] * bool(said)
    return visible + [Reasoning("", signature)] * bool(signature)


def _usage(counts: Mapping[str, object]) -> Usage:
    """Read token counts; a count of zero is left out, and then the total tells it."""
    prompt = sum_counts(as_count(counts.get("promptTokenCount")), as_count(counts.get("toolUsePromptTokenCount")))
    visible, thoughts = as_count(counts.get("candidatesTokenCount")), as_count(counts.get("thoughtsTokenCount"))
    whole = as_count(counts.get("totalTokenCount"))
    # Older models count thoughts among the candidates' tokens; then the total is reached without them.
    inside = None not in {prompt, visible, whole} and (prompt or 0) + (visible or 0) == whole
    output = visible if inside else sum_counts(visible, thoughts)
    if whole is not None and (prompt is None) != (output is None):
        rest = max(whole - (prompt or 0) - (output or 0), 0)
        prompt, output = (rest, output) if prompt is None else (prompt, rest)
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_input_tokens=as_count(counts.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
    )


def _finish(candidate: Mapping[str, object]) -> FinishReason:
    return FINISH.get(str(candidate.get("finishReason")), "other")


def _wrong(payload: Mapping[str, object]) -> LLMError | None:
    """Give the error that a 200 may hold: an error object, or a prompt that was blocked."""
    if payload.get("error"):
        return _failure(payload, None)
    feedback = as_mapping(payload.get("promptFeedback"))
    reason = feedback.get("blockReason")
    if not reason or payload.get("candidates"):
        return None
    said = as_text(feedback.get("blockReasonMessage")) or f"the prompt was blocked: {reason}"
    return ContentFiltered(path="$.promptFeedback", message=said, code=str(reason))


def _failure(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Read an error object: its reason and status, which quota it was, and how long to wait."""
    error = payload.get("error")
    said = as_mapping(error) or payload
    details = list(iter_objects(said.get("details")))
    quotas = [as_text(quota.get("quotaId")) for detail in details for quota in iter_objects(detail.get("violations"))]
    codes = ["PerDay"] * any("PerDay" in quota for quota in quotas)
    codes += [reason for detail in details if (reason := as_text(detail.get("reason")))]
    codes += [as_text(said.get("status"))] * bool(said.get("status"))
    message = said.get("message") or error
    failure = classify_error(
        ERRORS,
        status=as_count(said.get("code")) if status is None else status,
        codes=codes,
        message=message if isinstance(message, str) else encode_compact(message or dict(said)),
    )
    waits = [float(wait[1]) for detail in details if (wait := DURATION.fullmatch(as_text(detail.get("retryDelay"))))]
    return with_context(failure, provider="", retry_after_s=max(waits, default=None))


def _turn(message: Message, at: int, names: dict[str, str]) -> Result[list[Payload], LLMError]:
    """Write one turn's parts; ``names`` gathers which function each call is of."""
    said: list[Payload] = []
    for index, part in enumerate(message.parts):
        path = f"$.messages[{at}].parts[{index}]"
        if message.role == "system" and not isinstance(part, Text):
            return Failure(Unsupported(path=path, message="a system turn holds text alone on this wire"))
        match part:
            case Reasoning("", signature, ""):
                if signature and said and "text" in said[-1] and "thoughtSignature" not in said[-1]:
                    said[-1]["thoughtSignature"] = signature
                elif signature:
                    said.append({"text": "", "thoughtSignature": signature})
            case _:
                written = _part(part, path, names)
                if not is_successful(written):
                    return Failure(written.failure())
                said.append(written.unwrap())
    return Success(said)


def _part(part: Part, path: str, names: dict[str, str]) -> Result[Payload, LLMError]:
    """Write one part; of those kept whole, only this wire's own."""
    match part:
        case Text(said) | Refusal(said):
            block: Payload = {"text": said}
        case Reasoning(said, signature, ""):
            block = {"text": said, "thought": True, **_signed(signature)}
        case ToolCall():
            return _call(part, path, names)
        case ToolResult():
            return _result(part, path, names)
        case Image() | Document():
            return _media(part, path)
        case Opaque(kind) if kind in (whole := decode_opaque(part)):
            block = whole
        case _:
            said = f"{type(part).__name__} of another wire cannot be said on this one"
            return Failure(Unsupported(path=path, message=said))
    return Success(block)


def _signed(signature: str) -> Payload:
    return {"thoughtSignature": signature} if signature else {}


def _call(call: ToolCall, path: str, names: dict[str, str]) -> Result[Payload, LLMError]:
    """Write a call, remembering its name; its arguments must be a JSON object."""
    names[call.id] = call.name
    named = {**({"id": call.id} if call.id else {}), "name": call.name}
    return decode_arguments(call, path).map(
        lambda arguments: {"functionCall": {**named, "args": arguments}, **_signed(call.signature)}
    )


def _result(result: ToolResult, path: str, names: Mapping[str, str]) -> Result[Payload, LLMError]:
    """Write a tool's result under its function's name, pictures beside it."""
    name = result.name or names.get(result.id, "")
    if not name:
        wrong = f"no earlier tool call has the id {result.id!r}; give the result its tool's name"
        return Failure(InvalidRequest(path=f"{path}.name", message=wrong))
    pieces = (Text(result.content),) if isinstance(result.content, str) else result.content
    said = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    function: Payload = {"id": result.id, "name": name, "response": {"error" if result.is_error else "output": said}}
    media: list[Payload] = []
    for at, piece in enumerate(pieces):
        if isinstance(piece, Image):
            written = _media(piece, f"{path}.content[{at}]")
            if not is_successful(written):
                return written
            media.append(written.unwrap())
    return Success({"functionResponse": {**function, **({"parts": media} if media else {})}})


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Write a picture or a file, inline or by its address."""
    level = DETAILS.get(part.detail) if isinstance(part, Image) else None
    sharpness = {"mediaResolution": {"level": level}} if level else {}
    held = inline_data(part)
    if held is None:
        kind = {"mimeType": part.media_type} if part.media_type else {}
        return Success({"fileData": {"fileUri": part.url, **kind}, **sharpness})
    if not held[0]:
        return Failure(media_type_error("", path))
    return Success({"inlineData": {"mimeType": held[0], "data": held[1]}, **sharpness})


def _answer(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write the answer's form, and how much to think: a budget, or an effort as this model takes it."""
    wanted, effort, budget = request.response_schema, request.reasoning_effort, request.reasoning_budget
    config: Payload = {}
    if wanted is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": wanted.schema}
    if request.logprobs is not None:
        config["responseLogprobs"] = True
    if budget is not None:
        config["thinkingConfig"] = {"thinkingBudget": budget}
    if effort is not None:
        known: Mapping[str, str | int] = BUDGETS if "gemini-2.5" in request.model else LEVELS
        if budget is not None or effort not in known:
            either = "this wire takes an effort or a budget, not both"
            wrong = either if budget is not None else f"{request.model} takes one of {', '.join(known)}, not {effort!r}"
            return Failure(Unsupported(path="$.reasoning_effort", message=wrong))
        config["thinkingConfig"] = {"thinkingBudget" if known is BUDGETS else "thinkingLevel": known[effort]}
    return Success(config)


def _tools(request: CompletionRequest) -> Payload:
    """Write the tools and how freely the model may choose among them."""
    payload: Payload = {}
    declared: list[Payload] = []
    for tool in request.tools:
        described = {"description": tool.description} if tool.description else {}
        schema = {"parametersJsonSchema": tool.parameters} if tool.parameters else {}
        declared.append({"name": tool.name, **described, **schema})
    if declared:
        payload["tools"] = [{"functionDeclarations": declared}]
    strict = any(tool.strict for tool in request.tools)
    choice = request.tool_choice or ("auto" if strict else None)
    if choice is not None:
        named = {} if choice in MODES else {"allowedFunctionNames": [choice]}
        # This mode holds calls to their schema and leaves the choice; the others need no such word.
        mode = "VALIDATED" if strict and choice == "auto" else MODES.get(choice, "ANY")
        payload["toolConfig"] = {"functionCallingConfig": {"mode": mode, **named}}
    return payload


WIRE: Final = Wire(
    name="gemini",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=lambda payload: _usage(as_mapping(payload.get("usageMetadata"))),
)
