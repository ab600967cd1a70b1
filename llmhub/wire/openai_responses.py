"""OpenAI Responses, and the variations of Azure and compatible servers.

What differs here:

- A conversation is a list of items: calls, results and reasoning are items beside messages. A result names its call's
  ``call_id``, not the item's ``id``. System messages stay items at their position, since ``instructions`` would
  separate leading ones from later ones. There is no finish reason, only a status and the reason an answer is
  incomplete.
- Stop strings, seeds, penalties, a reasoning budget and several answers are not supported. Tools are strict by default
  here, so one without ``strict`` is sent ``strict: false``, the default of every other wire.
- Nothing is stored (``store`` is false, where the API would keep each answer for a month): a request is complete in
  itself, so it can be sent anywhere and cached under its content. Reasoning must therefore travel with the
  conversation: it comes encrypted, is kept as its item in a `Reasoning` part's signature, and is sent back verbatim
  except for its status, which only an answer may have.
- A citation follows its text; a message's phase, unless it is the final one, follows the message. Streamed, text and
  arguments grow, and opaque items come when they are done.

The file is long because encoder and decoder of one API are read side by side.

Sources: https://platform.openai.com/docs/api-reference/responses, the types of openai 3.54.0; for the status
https://github.com/BerriAI/litellm/issues/13420 (read 2026-11-22).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
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
from llmhub.wire.errors import OPENAI_ERRORS, classify_error
from llmhub.wire.logprobs import decode_logprobs
from llmhub.wire.readers import (
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
    CITATION,
    Param,
    attach_cache_mark,
    cache_control,
    check_no_error_flag,
    check_part_allowed,
    citation_error,
    decode_opaque,
    encode_parameters,
    encode_result_parts,
    foreign_part_error,
    inline_data,
    is_citation,
    media_type_error,
    unsupported_parameter,
)

FINISH: Final[Mapping[str, FinishReason]] = {
    "completed": "stop",
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}

PARAMS: Final = (
    Param("temperature", "temperature", 0, 2),
    Param("top_p", "top_p", 0, 1),
    Param("max_tokens", "max_output_tokens", 1),
    Param("parallel_tool_calls", "parallel_tool_calls"),
    Param("logprobs", "top_logprobs", 0, 20),
    Param("user", "safety_identifier"),
)

TOOL_CHOICES: Final = frozenset({"auto", "none", "required"})
REQUEST_ERROR_PREFIXES: Final = (
    "invalid_",
    "image_",
    "unsupported_",
    "empty_image_file",
    "failed_to_download_image",
)
"""Prefixes of codes that blame the request, for errors that came inside a 200, without a status of their own."""

FAILED: Final = frozenset({"failed", "cancelled"})
UNFINISHED: Final = frozenset({"queued", "in_progress"})
ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"
OUTPUT_TEXT_LOGPROBS: Final = "message.output_text.logprobs"
TEXT_ATTACHMENTS: Final = ("annotations", "prompt_cache_breakpoint")
"""Fields that a text block may have, which then cannot be sent as a bare string."""

NO_PARAMETERS: Final[Payload] = {"type": "object", "properties": {}}
CALL_ARGUMENTS_FIELDS: Final = {"function_call": "arguments", "custom_tool_call": "input"}
"""Field of the arguments in each type of call; the type of a result is that of its call with ``_output``."""

SIGNED_CALL_FIELDS: Final = ("namespace", "caller")
"""Fields of a call that must be sent back; they are kept, with its type, as its signature."""

NOT_SIGNED: Final = (None, {"type": "direct"})
"""Values of a signed field that need not be sent back."""

OPAQUE_SUFFIXES: Final = ("_call", "_output", "_tools", "_request", "_response", "compaction")
"""Suffixes of the types of this wire's other items, which are sent back as they came."""

OPAQUE_CONTENTS: Final = frozenset({"input_file", "input_image"})
"""Types of contents that may be given as they are, such as a file by its id."""

FINAL_EVENTS: Final = (b"response.completed", b"response.incomplete", b"response.failed")
"""Types of the events that end a stream and repeat the whole response."""

ANSWER_ITEMS: Final = frozenset({"message", "function_call", "custom_tool_call"})
"""Types of the items that answer."""

HOSTED_CALLS: Final = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "image_generation_call": "images",
}
"""Types of items of the server's own tools that are billed by themselves."""

IMAGE_MODEL: Final = re.compile(r"((?:chat)?gpt-image-[a-z0-9.-]{1,40}?)(?:-\d{4}-\d\d-\d\d)?")
"""Name of an image model, and the date of a snapshot after it."""

IMAGE_MARK: Final = ""
"""Result of an item that generated the image in the part after it."""

PHASE: Final = "message"
"""Kind of the `Opaque` part that holds the phase of the message before it."""

REASONING_SLOTS: Final = {"summary_text": ("summary_index", 0), "reasoning_text": ("content_index", 1)}
"""For each type of reasoning text, the field that counts its paragraphs and the slot of its item that collects them."""

STRIDE: Final = 1 << 64
"""Number of slots for the parts of one item: an even one for each content, the odd one after it for its citations."""

MODERATION: Final = "moderation"
"""Kind of the `Opaque` part that holds what was found in the input and the output."""

MODERATION_INDEX: Final = STRIDE * STRIDE
"""Index of the moderation among the parts of a streamed answer, after those of all items."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Encode a request as a Responses body."""
    parameters = encode_parameters(request, PARAMS)
    if not is_successful(parameters):
        return parameters
    if request.reasoning_budget is not None:
        return Failure(unsupported_parameter("reasoning_budget", "this API takes reasoning_effort, not a budget"))
    items: list[Payload] = []
    call_types: dict[str, str] = {}
    for index, message in enumerate(request.messages):
        turn = _turn(message, index, call_types)
        if not is_successful(turn):
            return Failure(turn.failure())
        items.extend(turn.unwrap())
    include = [ENCRYPTED_REASONING] if request.logprobs is None else [ENCRYPTED_REASONING, OUTPUT_TEXT_LOGPROBS]
    payload: Payload = {"model": request.model, "input": items, "store": False, "include": include}
    return Success({**payload, **parameters.unwrap(), **_features(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Decode a Responses body."""
    status = as_text(payload.get("status"))
    if payload.get("error") or (status in FAILED and not payload.get("output")):
        return Failure(_error(payload, None))
    if status in UNFINISHED:
        message = f"the answer is still {status}; send the request without background"
        return Failure(Malformed(path="$.status", message=message))
    output = require_list(payload, "output")
    if not is_successful(output):
        return Failure(output.failure())
    parts: list[Part] = []
    for index, item in enumerate(output.unwrap()):
        if not isinstance(item, dict):
            return Failure(Malformed(path=f"$.output[{index}]", message="expected an object"))
        parts.extend(part for _, part in _parts(item))
    parts += _moderation(payload)
    return Success(
        assemble_response(
            [(parts, _finish_reason(payload))],
            usage=_usage(payload),
            served_model=as_text(payload.get("model")),
            request_id=as_text(payload.get("id")),
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Decode one event of a stream; some compatible servers end with ``[DONE]``, which adds nothing here."""
    if frame.data.strip() == b"[DONE]":
        return Success(())
    return parse_json_object(frame.data).bind(_event)


def decode_error(reply: HttpReply) -> LLMError:
    """Decode an error reply: an ``error`` object or string, or a bare ``message`` or ``detail``."""
    return _error(error_body(reply.body), reply.status)


# Streams


def _event(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Decode an event by its type; one that is not in `EVENTS` adds nothing to the answer."""
    kind = as_text(payload.get("type"))
    response = as_mapping(payload.get("response"))
    if kind == "error" or payload.get("error"):
        return Failure(_error(payload, None))
    is_failed = kind == "response.failed" or as_text(response.get("status")) in FAILED
    if response.get("error") or (is_failed and not response.get("output")):
        return Failure(_error(response, None))
    decode_event = EVENTS.get(kind)
    return Success(tuple(decode_event(payload)) if decode_event else ())


def _response_created(payload: Payload) -> list[Delta]:
    response = as_mapping(payload.get("response"))
    return [StreamStarted(as_text(response.get("model")), as_text(response.get("id")))]


def _item_added(payload: Payload) -> list[Delta]:
    """Decode the start of an item; of a call, its id and name."""
    calls = [part for _, part in _parts(as_mapping(payload.get("item"))) if isinstance(part, ToolCall)]
    return [_fragment(payload, 0, ToolCall(call.id, call.name, "")) for call in calls]


def _content_added(payload: Payload) -> list[Delta]:
    """Decode the start of a content: of reasoning, a new paragraph unless it is the first."""
    kind = as_text(as_mapping(payload.get("part")).get("type"))
    counter, slot = REASONING_SLOTS.get(kind, ("", 0))
    return [_fragment(payload, slot, Reasoning("\n\n"))] if as_count(payload.get(counter)) else []


def _item_done(payload: Payload) -> list[Delta]:
    """Decode the end of an item: whatever was not streamed before it."""
    deltas: list[Delta] = []
    for position, (slot, part) in enumerate(_parts(as_mapping(payload.get("item")))):
        match part:
            case Reasoning(_, signature):
                deltas.append(_fragment(payload, slot, Reasoning("", signature)))
            case ToolCall(call_id, name, _, signature):
                deltas.append(_fragment(payload, slot, ToolCall(call_id, name, "", signature)))
            case Opaque() | Image():
                deltas.append(_fragment(payload, slot, part, _key(position, part)))
            case _:
                continue
    return deltas


def _key(position: int, part: Part) -> str:
    """Return the key of a part of an item, by which one that comes twice counts once; pieces of text have none."""
    return str(position) if isinstance(part, (Opaque, Image)) else ""


def _response_done(payload: Payload) -> list[Delta]:
    """Decode the end of the response: its model, token counts and finish reason."""
    response = as_mapping(payload.get("response"))
    return [
        *_response_created(payload),
        UsageDelta(_usage(response)),
        *(Fragment(MODERATION_INDEX, part) for part in _moderation(response)),
        ChoiceFinished(_finish_reason(response)),
    ]


def decode_unstreamed(frame: Frame) -> tuple[Delta, ...]:
    """Decode the answer in the event that ends a stream, for gateways that send it there alone."""
    if not any(name in frame.data for name in FINAL_EVENTS):
        return ()
    payload = parse_json_object(frame.data).value_or({})
    items = enumerate(iter_objects(as_mapping(payload.get("response")).get("output")))
    return tuple(
        Fragment(index * STRIDE + slot, part, 0, _key(position, part))
        for index, item in items
        if as_text(item.get("type")) in ANSWER_ITEMS
        for position, (slot, part) in enumerate(_parts(item))
    )


def _deltas(to_part: Callable[[str], Part], slot: int) -> Callable[[Payload], list[Delta]]:
    """Return the decoder of what is appended to a content; slot 1 is reasoning, which has no contents of its own."""

    def decode_delta(payload: Payload) -> list[Delta]:
        shift = 0 if slot == 1 else 2 * (as_count(payload.get("content_index")) or 0)
        logprobs = [_fragment(payload, STRIDE - 2, part) for part in decode_logprobs(payload.get("logprobs"))]
        return [_fragment(payload, slot + shift, to_part(as_text(payload.get("delta")))), *logprobs]

    return decode_delta


def _fragment(payload: Payload, slot: int, part: Part, key: str = "") -> Fragment:
    """Place a part at a slot of the item that an event belongs to."""
    return Fragment((as_count(payload.get("output_index")) or 0) * STRIDE + slot, part, 0, key)


EVENTS: Final[Mapping[str, Callable[[Payload], list[Delta]]]] = {
    "response.created": _response_created,
    "response.output_item.added": _item_added,
    "response.content_part.added": _content_added,
    "response.reasoning_summary_part.added": _content_added,
    "response.output_text.delta": _deltas(Text, 0),
    "response.refusal.delta": _deltas(Refusal, 0),
    "response.reasoning_summary_text.delta": _deltas(Reasoning, 0),
    "response.reasoning_text.delta": _deltas(Reasoning, 1),
    "response.function_call_arguments.delta": _deltas(lambda text: ToolCall("", "", text), 0),
    "response.custom_tool_call_input.delta": _deltas(lambda text: ToolCall("", "", text), 0),
    "response.output_item.done": _item_done,
    "response.completed": _response_done,
    "response.incomplete": _response_done,
    "response.failed": _response_done,
}

# Responses


def _parts(item: Mapping[str, object]) -> list[tuple[int, Part]]:
    """Decode an item's parts, each with its slot."""
    match item.get("type"):
        case "message":
            return _blocks(item)
        case "reasoning":
            summary, content = (
                "\n\n".join([as_text(piece.get("text")) for piece in iter_objects(item.get(field))])
                for field in ("summary", "content")
            )
            kept = encode_compact({k: value for k, value in item.items() if k != "status" and value is not None})
            # The item is kept once, as the signature of the text that is not empty.
            signatures = ("", kept) if content and not summary else (kept, "")
            return [(0, Reasoning(summary, signatures[0])), (1, Reasoning(content, signatures[1]))]
        case "function_call" | "custom_tool_call" as kind:
            arguments = item.get(CALL_ARGUMENTS_FIELDS[kind])
            if not isinstance(arguments, str):
                arguments = "" if arguments is None else encode_compact(arguments)
            signed = {name: item[name] for name in SIGNED_CALL_FIELDS if item.get(name) not in NOT_SIGNED}
            signature = encode_compact({"type": kind, **signed}) if signed or kind != "function_call" else ""
            return [(0, ToolCall(as_text(item.get("call_id")), as_text(item.get("name")), arguments, signature))]
        case "image_generation_call" as kind if as_text(item.get("result")):
            # The image is kept once, as a part of its own, for which the item has a mark.
            image = Image(
                data=as_text(item["result"]), media_type=f"image/{as_text(item.get('output_format')) or 'png'}"
            )
            return [(0, Opaque(kind, encode_compact({**item, "result": IMAGE_MARK}))), (0, image)]
        case kind:
            return [(0, Opaque(as_text(kind), encode_compact(item)))]


def _blocks(item: Mapping[str, object]) -> list[tuple[int, Part]]:
    """Decode a message's contents, the citations of each after it, log probabilities and its phase last."""
    parts: list[tuple[int, Part]] = []
    tokens: list[object] = []
    for index, block in enumerate(iter_objects(item.get("content"))):
        is_refusal = block.get("type") == "refusal"
        text = as_text(block.get("refusal" if is_refusal else "text"))
        parts.append((2 * index, Refusal(text) if is_refusal else Text(text)))
        annotations = iter_objects(block.get("annotations"))
        parts += [(2 * index + 1, Opaque(CITATION, encode_compact(annotation))) for annotation in annotations]
        tokens += as_list(block.get("logprobs"))
    parts += [(STRIDE - 2, part) for part in decode_logprobs(tokens)]
    phase = item.get("phase")
    is_final = phase in (None, "final_answer")
    return parts if is_final else [*parts, (STRIDE - 1, Opaque(PHASE, encode_compact({"phase": phase})))]


def _moderation(response: Mapping[str, object]) -> list[Opaque]:
    """Decode what was found in the input and the output, where the request asked for it."""
    moderation = as_mapping(response.get("moderation"))
    return [Opaque(MODERATION, encode_compact(moderation))] if moderation else []


def _usage(response: Mapping[str, object]) -> Usage:
    """Decode token counts; no part exceeds its total. What hosted tools used is counted apart."""
    counts = as_mapping(response.get("usage"))
    prompt, completion = as_count(counts.get("input_tokens")), as_count(counts.get("output_tokens"))
    input_details = as_mapping(counts.get("input_tokens_details"))
    output_details = as_mapping(counts.get("output_tokens_details"))
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cached_input_tokens=capped_count(prompt, input_details.get("cached_tokens")),
        cache_write_tokens=capped_count(prompt, input_details.get("cache_write_tokens")),
        reasoning_tokens=capped_count(completion, output_details.get("reasoning_tokens")),
        service_tier=billed_tier(response.get("service_tier")),
        reported_cost_usd=reported_cost(counts),
        billed_units=_hosted_tools(response),
    )


def _hosted_tools(response: Mapping[str, object]) -> tuple[tuple[str, int], ...]:
    """Decode what the server's own tools used: searches, and tokens of the model that made images.

    The model stands among the tools that the response repeats. Without counts, searches and images are those of its
    items.
    """
    items = [item for item in iter_objects(response.get("output")) if as_text(item.get("type")) in HOSTED_CALLS]
    used = as_mapping(response.get("tool_usage"))
    if not items and not used:
        return ()
    calls = Counter(HOSTED_CALLS[as_text(item["type"])] for item in items if _is_billed(item))
    searches = as_mapping(used.get("web_search")).get("num_requests", calls["web_search"])
    tool = next((tool for tool in iter_objects(response.get("tools")) if tool.get("type") == "image_generation"), {})
    known = IMAGE_MODEL.fullmatch(as_text(tool.get("model")))  # a name that a price id may hold
    model = known[1] if known else "image_generation"
    images = as_mapping(used.get("image_gen"))
    tokens = [
        (f"{model}:{modality}_{direction}_tokens", _image_tokens(images, direction, modality))
        for direction in ("input", "output")
        for modality in ("text", "image")
    ]
    if calls["images"] and not any(count for _, count in tokens):
        tokens = [(f"{model}:images", calls["images"])]
    return billed_units(("web_search:requests", searches), ("file_search:requests", calls["file_search"]), *tokens)


def _is_billed(item: Mapping[str, object]) -> bool:
    """Return whether a call of a tool is billed: of a web search, the search and not the pages it opens."""
    action = as_mapping(item.get("action")).get("type", "search") if item.get("type") == "web_search_call" else "search"
    return action == "search" and item.get("status") != "failed"


def _image_tokens(counts: Mapping[str, object], direction: str, modality: str) -> int | None:
    """Return the tokens of one modality; those of images where the counts have no details."""
    details = counts.get(f"{direction}_tokens_details")
    if isinstance(details, dict):
        return as_count(details.get(f"{modality}_tokens"))
    return as_count(counts.get(f"{direction}_tokens")) if modality == "image" else None


def _finish_reason(response: Mapping[str, object]) -> FinishReason:
    """Return why an answer ended: what made it incomplete, else its status."""
    incomplete_reason = as_mapping(response.get("incomplete_details")).get("reason")
    return FINISH.get(as_text(incomplete_reason or response.get("status")), "other")


def _error(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Decode the error in a body or an event."""
    field = payload.get("error")
    error = as_mapping(field) or payload
    codes = [str(name) for name in map(error.get, ("code", "type")) if isinstance(name, (str, int)) and name]
    if status is None:
        blames_request = any(code.startswith(REQUEST_ERROR_PREFIXES) for code in codes)
        status = as_count(error.get("code")) or (400 if blames_request else None)
    message = error.get("message") or error.get("detail") or field or payload.get("status")
    return classify_error(OPENAI_ERRORS, status=status, codes=codes, message=error_message(message, error))


# Requests


def _turn(  # noqa: C901 - one for each type of part
    message: Message, message_index: int, call_types: dict[str, str]
) -> Result[list[Payload], LLMError]:
    """Encode one message's items, neighbouring contents as one; ``call_types`` collects the type of each call id."""
    role = "user" if message.role == "tool" else message.role
    items: list[Payload] = []
    content: list[Payload] = []
    for part_index, part in enumerate(message.parts):
        path = f"$.messages[{message_index}].parts[{part_index}]"
        if isinstance(part, Image) and items and items[-1].get("result") == IMAGE_MARK:
            items[-1] = {**items[-1], "result": part.data}
            continue
        error = check_part_allowed(part, message.role, path)
        if isinstance(part, CacheMark):
            fields: Payload = {"prompt_cache_breakpoint": cache_control(part, mode="explicit")}
            error = attach_cache_mark([] if role == "assistant" else content, fields, path)
        elif isinstance(part, Reasoning) and not error:
            error = _check_reasoning(part, message, path)
        encoded = Failure(error) if error else _part(part, message.role, path, call_types)
        if not is_successful(encoded):
            return Failure(encoded.failure())
        block = encoded.unwrap()
        if isinstance(part, (Text, Refusal, Image, Document)) or block.get("type") in OPAQUE_CONTENTS:
            content.append(block)
        elif is_citation(part):
            if not content or content[-1]["type"] != "output_text":
                return Failure(citation_error(path))
            content[-1]["annotations"] = [*as_list(content[-1]["annotations"]), block]
        elif isinstance(part, Opaque) and part.kind == PHASE:
            items += _message(role, content, block)
            content = []
        elif block:
            items += [*_message(role, content, {}), block]
            content = []
    return Success(items + _message(role, content, {}))


def _check_reasoning(part: Reasoning, message: Message, path: str) -> LLMError | None:
    """Refuse reasoning that is neither an item of this wire nor text of one, which the item itself contains."""
    has_item = any(isinstance(other, Reasoning) and _reasoning_item(other) for other in message.parts)
    if _reasoning_item(part) or (has_item and not (part.signature or part.redacted)):
        return None
    return foreign_part_error(part, path)


def _reasoning_item(part: Reasoning) -> Payload:
    """Return the item that a part keeps as its signature, an empty one if it came from another wire."""
    item = decode_opaque(Opaque("", part.signature)) if part.signature else {}
    return item if item.get("type") == "reasoning" else {}


def _message(role: str, content: list[Payload], fields: Payload) -> list[Payload]:
    """Return the message item of these contents, a single bare text as a string; none without contents."""
    if not content:
        return []
    first = content[0]
    is_text = len(content) == 1 and "text" in first and not any(first.get(name) for name in TEXT_ATTACHMENTS)
    # Some compatible servers know an assistant's turn by its type only.
    item_type = {"type": "message"} if role == "assistant" else {}
    return [{**item_type, "role": role, "content": first["text"] if is_text else content, **fields}]


def _part(part: Part, role: str, path: str, call_types: dict[str, str]) -> Result[Payload, LLMError]:
    """Encode a part as a content or an item; reasoning and opaque parts only if they came from this wire."""
    match part:
        case Text(text) if role == "assistant":
            block: Payload = {"type": "output_text", "text": text, "annotations": []}
        case Refusal(text) if role == "assistant":
            block = {"type": "refusal", "refusal": text}
        case Text(text) | Refusal(text):
            block = {"type": "input_text", "text": text}
        case Image() | Document():
            return _media(part, path)
        case Reasoning():
            block = _reasoning_item(part)
        case ToolCall(call_id, name, arguments, signature):
            signed = decode_opaque(Opaque("", signature))
            head = signed if as_text(signed.get("type")) in CALL_ARGUMENTS_FIELDS else {"type": "function_call"}
            kind = call_types[call_id] = as_text(head["type"])
            block = {**head, "call_id": call_id, "name": name, CALL_ARGUMENTS_FIELDS[kind]: arguments}
        case ToolResult(call_id):
            head = {"type": f"{call_types.get(call_id, 'function_call')}_output", "call_id": call_id}
            return _tool_result(part, path).map(lambda output: {**head, "output": output})
        case Opaque(kind) if kind != MODERATION:  # which is not sent back
            block = decode_opaque(part)
            is_item = block.get("type") == kind and kind.endswith(OPAQUE_SUFFIXES)
            if kind not in {"", CITATION, PHASE, *OPAQUE_CONTENTS} and not is_item:
                return Failure(foreign_part_error(part, path))
        case _:
            block = {}
    return Success(block)


def _tool_result(result: ToolResult, path: str) -> Result[object, LLMError]:
    """Encode a tool's result: its text, or contents if there are images."""
    error = check_no_error_flag(result, path)
    if error is not None:
        return Failure(error)
    if isinstance(result.content, str):
        return Success(result.content)
    return encode_result_parts(result, path, lambda part, part_path: _part(part, "tool", part_path, {})).map(
        _text_or_blocks
    )


def _text_or_blocks(blocks: list[Payload]) -> object:
    """Return texts joined as one string, or the blocks if there is anything else."""
    is_text = all("text" in block for block in blocks)
    return "".join(as_text(block["text"]) for block in blocks) if is_text else blocks


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Encode an image or a document by its URL, or inline."""
    inline = inline_data(part)
    if inline is not None and not inline[0]:
        return Failure(media_type_error("", path))
    data = "" if inline is None else f"data:{inline[0]};base64,{inline[1]}"
    if isinstance(part, Image):
        return Success({"type": "input_image", "image_url": data or part.url, "detail": part.detail or "auto"})
    if inline is None:
        return Success({"type": "input_file", "file_url": part.url})
    filename = part.name or f"file.{inline[0].rpartition('/')[2]}"
    return Success({"type": "input_file", "filename": filename, "file_data": data})


def _features(request: CompletionRequest) -> Payload:
    """Encode tools, structured output and reasoning."""
    payload: Payload = {}
    if request.tools:
        payload["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "parameters": tool.parameters or NO_PARAMETERS,
                "strict": bool(tool.strict),
            }
            for tool in request.tools
        ]
    if request.tool_choice is not None:
        function = {"type": "function", "name": request.tool_choice}
        payload["tool_choice"] = request.tool_choice if request.tool_choice in TOOL_CHOICES else function
    if request.response_schema is not None:
        schema = request.response_schema
        text_format = {"type": "json_schema", "name": schema.name, "schema": schema.schema, "strict": schema.strict}
        payload["text"] = {"format": text_format}
    if request.reasoning_effort is not None:
        payload["reasoning"] = {"effort": request.reasoning_effort}
    return payload


WIRE: Final = Wire(
    name="openai_responses",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=_usage,
    decode_unstreamed=decode_unstreamed,
    stream_fields={"stream": True},
)
