"""OpenAI Responses, and what Azure and compatible servers make of it.

What differs here: a conversation is a list of items, and calls, results and reasoning are items beside messages. A
result names its call's ``call_id``, not the item's ``id``. System turns stay items where they stand: ``instructions``
would tear leading ones from later ones. No reason to finish, only a status and what was left incomplete. Stop
strings, seeds, penalties, a reasoning budget and several answers have no place. Tools are strict unless told
otherwise; one that says nothing is told so, as it means on every other wire.
Nothing is stored (``store`` is false, where the API would keep each answer for a month): a request is whole in
itself, may be asked anywhere, and its answer is filed under all that was asked. So reasoning must travel with the
conversation: it comes encrypted, is kept as its item in a `Reasoning` part's signature, and goes back verbatim but
for its status, which only an answer may have. A citation follows its text; a message's phase, where not the final
one, follows the message. Streamed, text and arguments grow, and what is opaque comes as its item is done.

Sources: https://platform.openai.com/docs/api-reference/responses, the types of openai 3.54.0; for the status
https://github.com/BerriAI/litellm/issues/13420, for the least bound https://github.com/earendil-works/pi/issues/6265
(read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    capped_count,
    encode_compact,
    iter_objects,
    require_list,
)
from llmhub.wire.writers import (
    CITATION,
    Param,
    attach_cache_mark,
    cache_control,
    check_no_error_flag,
    check_part_allowed,
    decode_opaque,
    encode_parameters,
    encode_result_parts,
    inline_data,
    is_citation,
    media_type_error,
)

FINISH: Final[Mapping[str, FinishReason]] = {
    "completed": "stop",
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}

PARAMS: Final = (
    Param("temperature", "temperature", 0, 2),
    Param("top_p", "top_p", 0, 1),
    Param("max_tokens", "max_output_tokens", 16),
    Param("parallel_tool_calls", "parallel_tool_calls"),
    Param("logprobs", "top_logprobs", 0, 20),
    Param("user", "safety_identifier"),
)

AT_FAULT: Final = ("invalid_", "image_", "unsupported_", "empty_image_file", "failed_to_download_image")
"""How codes begin that blame the request, where they came inside a 200, without a status of their own."""
FAILED: Final = frozenset({"failed", "cancelled"})
UNFINISHED: Final = frozenset({"queued", "in_progress"})
ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"
OUTPUT_TEXT_LOGPROBS: Final = "message.output_text.logprobs"
CHOICES: Final = frozenset({"auto", "none", "required"})
MORE: Final = ("annotations", "prompt_cache_breakpoint")
"""What a text may have beside itself, so that it does not stand alone."""
NO_PARAMETERS: Final[Payload] = {"type": "object", "properties": {}}
CALL_ARGUMENTS_FIELDS: Final = {"function_call": "arguments", "custom_tool_call": "input"}
"""Items that are calls, and where each has its arguments; the item of a result is named after that of its call."""
BESIDE: Final = ("namespace", "caller")
"""What a call may say beside its arguments and must be told again: kept, with its type, as its signature."""
OWN: Final = ("_call", "_output", "_tools", "_request", "_response")
"""How the types of this wire's other items end; those go back as they came."""
PHASE: Final = "message"
"""Kind of the `Opaque` part that holds the phase of the message before it."""
PIECES: Final = {"summary_text": ("summary_index", 0), "reasoning_text": ("content_index", 1)}
"""Pieces of reasoning: what counts them, and where in their item they are gathered."""
STRIDE: Final = 1 << 64
"""Places for the contents of one item: an even one for each, the odd one behind it for its citations."""


def encode(request: CompletionRequest) -> Result[Payload, LLMError]:
    """Write a request as a Responses body."""
    sampling = encode_parameters(request, PARAMS)
    if not is_successful(sampling):
        return sampling
    if request.reasoning_budget is not None:
        return Failure(Unsupported(path="$.reasoning_budget", message="this wire takes reasoning_effort, not a budget"))
    turns: list[Payload] = []
    kinds: dict[str, str] = {}
    for at, message in enumerate(request.messages):
        turn = _turn(message, at, kinds)
        if not is_successful(turn):
            return Failure(turn.failure())
        turns.extend(turn.unwrap())
    wanted = [ENCRYPTED_REASONING] if request.logprobs is None else [ENCRYPTED_REASONING, OUTPUT_TEXT_LOGPROBS]
    payload: Payload = {"model": request.model, "input": turns, "store": False, "include": wanted}
    return Success({**payload, **sampling.unwrap(), **_abilities(request)})


def decode(payload: Payload) -> Result[CompletionResponse, LLMError]:
    """Read a Responses body."""
    status = as_text(payload.get("status"))
    if payload.get("error") or status in FAILED:
        return Failure(_failure(payload, None))
    if status in UNFINISHED:
        return Failure(Malformed(path="$.status", message=f"the answer is still {status}; ask without background"))
    output = require_list(payload, "output")
    if not is_successful(output):
        return Failure(output.failure())
    parts: list[Part] = []
    for at, item in enumerate(output.unwrap()):
        if not isinstance(item, dict):
            return Failure(Malformed(path=f"$.output[{at}]", message="expected an object"))
        parts.extend(part for _, part in _parts(item))
    return Success(
        assemble_response(
            [(parts, _finish(payload))],
            usage=_usage(as_mapping(payload.get("usage"))),
            served_model=as_text(payload.get("model")),
            request_id=as_text(payload.get("id")),
        )
    )


def decode_frame(frame: Frame) -> Result[tuple[Delta, ...], LLMError]:
    """Read one event of a stream; some compatible servers close with ``[DONE]``, which says nothing here."""
    if frame.data.strip() == b"[DONE]":
        return Success(())
    return parse_json_object(frame.data).bind(_event)


def decode_error(reply: HttpReply) -> LLMError:
    """Read an error reply: an ``error`` object or string, or a bare ``message`` or ``detail``."""
    body = parse_json_object(reply.body)
    said = body.unwrap() if is_successful(body) else {"message": reply.body.decode("utf-8", "replace")}
    return _failure(said, reply.status)


def _event(payload: Payload) -> Result[tuple[Delta, ...], LLMError]:
    """Read an event by its type; one that is not in the table says nothing new."""
    kind = as_text(payload.get("type"))
    response = as_mapping(payload.get("response"))
    if kind == "error" or payload.get("error"):
        return Failure(_failure(payload, None))
    if kind == "response.failed" or response.get("error") or as_text(response.get("status")) in FAILED:
        return Failure(_failure(response, None))
    reader = EVENTS.get(kind)
    return Success(tuple(reader(payload)) if reader else ())


def _started(payload: Payload) -> list[Delta]:
    response = as_mapping(payload.get("response"))
    return [StreamStarted(as_text(response.get("model")), as_text(response.get("id")))]


def _opening(payload: Payload) -> list[Delta]:
    """Read how an item begins; of a call, whose it is and of what."""
    called = [part for _, part in _parts(as_mapping(payload.get("item"))) if isinstance(part, ToolCall)]
    return [_at(payload, 0, ToolCall(part.id, part.name, "")) for part in called]


def _piece(payload: Payload) -> list[Delta]:
    """Read that a piece of content begins: of reasoning a paragraph, unless it is the first."""
    name, slot = PIECES.get(as_text(as_mapping(payload.get("part")).get("type")), ("", 0))
    return [_at(payload, slot, Reasoning("\n\n"))] if as_count(payload.get(name)) else []


def _closing(payload: Payload) -> list[Delta]:
    """Read an item that is done: of what has not grown until now, all."""
    found: list[Delta] = []
    for place, (slot, part) in enumerate(_parts(as_mapping(payload.get("item")))):
        match part:
            case Reasoning(_, signature):
                found.append(_at(payload, slot, Reasoning("", signature)))
            case ToolCall(call, name, _, signature):
                found.append(_at(payload, slot, ToolCall(call, name, "", signature)))
            case Opaque():
                found.append(_at(payload, slot, part, str(place)))
            case _:
                continue
    return found


def _ending(payload: Payload) -> list[Delta]:
    """Read how the answer ends: who gave it, what it cost, and why it ended."""
    response = as_mapping(payload.get("response"))
    return [
        *_started(payload),
        UsageDelta(_usage(as_mapping(response.get("usage")))),
        ChoiceFinished(_finish(response)),
    ]


def _deltas(part: Callable[[str], Part], slot: int) -> Callable[[Payload], list[Delta]]:
    """Make the reader of what an item grows by; its content's index is behind ``slot``."""

    def read(payload: Payload) -> list[Delta]:
        shift = 0 if slot == 1 else 2 * (as_count(payload.get("content_index")) or 0)
        told = [_at(payload, STRIDE - 2, found) for found in decode_logprobs(payload.get("logprobs"))]
        return [_at(payload, slot + shift, part(as_text(payload.get("delta")))), *told]

    return read


def _at(payload: Payload, slot: int, part: Part, key: str = "") -> Fragment:
    return Fragment((as_count(payload.get("output_index")) or 0) * STRIDE + slot, part, 0, key)


EVENTS: Final[Mapping[str, Callable[[Payload], list[Delta]]]] = {
    "response.created": _started,
    "response.output_item.added": _opening,
    "response.content_part.added": _piece,
    "response.reasoning_summary_part.added": _piece,
    "response.output_text.delta": _deltas(Text, 0),
    "response.refusal.delta": _deltas(Refusal, 0),
    "response.reasoning_summary_text.delta": _deltas(Reasoning, 0),
    "response.reasoning_text.delta": _deltas(Reasoning, 1),
    "response.function_call_arguments.delta": _deltas(lambda said: ToolCall("", "", said), 0),
    "response.custom_tool_call_input.delta": _deltas(lambda said: ToolCall("", "", said), 0),
    "response.output_item.done": _closing,
    "response.completed": _ending,
    "response.incomplete": _ending,
}


def _parts(item: Mapping[str, object]) -> list[tuple[int, Part]]:
    """Read an item's parts, each with its place in the item."""
    match item.get("type"):
        case "message":
            return _blocks(item)
        case "reasoning":
            pieces = [iter_objects(item.get("summary")), iter_objects(item.get("content"))]
            said, raw = ("\n\n".join([as_text(piece.get("text")) for piece in some]) for some in pieces)
            whole = encode_compact(
                {name: value for name, value in item.items() if name != "status" and value is not None}
            )
            signed = ("", whole) if raw and not said else (whole, "")
            return [(0, Reasoning(said, signed[0])), (1, Reasoning(raw, signed[1]))]
        case "function_call" | "custom_tool_call" as kind:
            arguments = item.get(CALL_ARGUMENTS_FIELDS[kind])
            written = (
                arguments if isinstance(arguments, str) else "" if arguments is None else encode_compact(arguments)
            )
            beside = {name: item[name] for name in BESIDE if item.get(name) not in (None, {"type": "direct"})}
            signature = encode_compact({"type": kind, **beside}) if beside or kind != "function_call" else ""
            return [(0, ToolCall(as_text(item.get("call_id")), as_text(item.get("name")), written, signature))]
        case kind:
            return [(0, Opaque(as_text(kind), encode_compact(item)))]


def _blocks(item: Mapping[str, object]) -> list[tuple[int, Part]]:
    """Read a message's contents, the citations of each behind it, its phase behind all."""
    found: list[tuple[int, Part]] = []
    for at, block in enumerate(iter_objects(item.get("content"))):
        refused = block.get("type") == "refusal"
        found.append((2 * at, Refusal(as_text(block.get("refusal"))) if refused else Text(as_text(block.get("text")))))
        found += [
            (2 * at + 1, Opaque(CITATION, encode_compact(note))) for note in iter_objects(block.get("annotations"))
        ]
    told = [token for block in iter_objects(item.get("content")) for token in as_list(block.get("logprobs"))]
    found += [(STRIDE - 2, part) for part in decode_logprobs(told)]
    phase = item.get("phase")
    last = phase in (None, "final_answer")
    return found if last else [*found, (STRIDE - 1, Opaque(PHASE, encode_compact({"phase": phase})))]


def _usage(usage: Mapping[str, object]) -> Usage:
    """Read token counts; no class exceeds its whole."""
    prompt, completion = as_count(usage.get("input_tokens")), as_count(usage.get("output_tokens"))
    inputs, outputs = as_mapping(usage.get("input_tokens_details")), as_mapping(usage.get("output_tokens_details"))
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cached_input_tokens=capped_count(prompt, inputs.get("cached_tokens")),
        cache_write_tokens=capped_count(prompt, inputs.get("cache_write_tokens")),
        reasoning_tokens=capped_count(completion, outputs.get("reasoning_tokens")),
    )


def _finish(response: Mapping[str, object]) -> FinishReason:
    """Say why an answer ended: what cut it short, or else its status."""
    cut = as_mapping(response.get("incomplete_details")).get("reason")
    return FINISH.get(as_text(cut or response.get("status")), "other")


def _failure(payload: Mapping[str, object], status: int | None) -> LLMError:
    """Read the error in a body or an event, wherever it stands."""
    error = payload.get("error")
    said = as_mapping(error) or payload
    codes = [str(name) for name in map(said.get, ("code", "type")) if isinstance(name, (str, int)) and name]
    message = said.get("message") or said.get("detail") or error or payload.get("status")
    if status is None:
        status = as_count(said.get("code")) or (400 if any(code.startswith(AT_FAULT) for code in codes) else None)
    words = message if isinstance(message, str) else encode_compact(message or dict(said))
    return classify_error(OPENAI_ERRORS, status=status, codes=codes, message=words)


def _turn(message: Message, at: int, kinds: dict[str, str]) -> Result[list[Payload], LLMError]:
    """Write one turn's items, neighbouring contents as one message; ``kinds`` gathers the type of each call."""
    role = "user" if message.role == "tool" else message.role
    turn: list[Payload] = []
    content: list[Payload] = []
    for index, part in enumerate(message.parts):
        path = f"$.messages[{at}].parts[{index}]"
        wrong = check_part_allowed(part, message.role, path)
        if isinstance(part, CacheMark):
            said: Payload = {"prompt_cache_breakpoint": cache_control(part, mode="explicit")}
            wrong = attach_cache_mark([] if role == "assistant" else content, said, path)
        elif isinstance(part, Reasoning) and not wrong:
            wrong = _strange(part, message, path)
        written = Failure(wrong) if wrong else _part(part, message.role, path, kinds)
        if not is_successful(written):
            return Failure(written.failure())
        block = written.unwrap()
        if isinstance(part, (Text, Refusal, Image, Document)):
            content.append(block)
        elif is_citation(part):
            if not content or content[-1]["type"] != "output_text":
                return Failure(Unsupported(path=path, message="a citation without text before it cannot be said"))
            content[-1]["annotations"] = [*as_list(content[-1]["annotations"]), block]
        elif isinstance(part, Opaque) and part.kind == PHASE:
            turn += _message(role, content, block)
            content = []
        elif block:
            turn += [*_message(role, content, {}), block]
            content = []
    return Success(turn + _message(role, content, {}))


def _strange(part: Reasoning, message: Message, path: str) -> LLMError | None:
    """Refuse reasoning that is no item of this wire's, nor part of one: what an item holds it says itself."""
    whole = [said for said in message.parts if isinstance(said, Reasoning) and _item(said)]
    if _item(part) or (whole and not (part.signature or part.redacted)):
        return None
    return Unsupported(path=path, message="reasoning of another wire cannot be said on this one")


def _item(part: Reasoning) -> Payload:
    whole = decode_opaque(Opaque("", part.signature)) if part.signature else {}
    return whole if whole.get("type") == "reasoning" else {}


def _message(role: str, content: list[Payload], beside: Payload) -> list[Payload]:
    """Write the message of these contents, a lone text as itself; none where there are none."""
    plain = len(content) == 1 and "text" in content[0] and not any(content[0].get(name) for name in MORE)
    return [{"role": role, "content": content[0]["text"] if plain else content, **beside}] if content else []


def _part(part: Part, role: str, path: str, kinds: dict[str, str]) -> Result[Payload, LLMError]:
    """Write a part as a content or an item; of reasoning, this wire's own."""
    match part:
        case Text(said) if role == "assistant":
            block: Payload = {"type": "output_text", "text": said, "annotations": []}
        case Refusal(said) if role == "assistant":
            block = {"type": "refusal", "refusal": said}
        case Text(said) | Refusal(said):
            block = {"type": "input_text", "text": said}
        case Image() | Document():
            return _media(part, path)
        case Reasoning():
            block = _item(part)
        case ToolCall(call, name, arguments, signature):
            told = decode_opaque(Opaque("", signature))
            own = told if as_text(told.get("type")) in CALL_ARGUMENTS_FIELDS else {"type": "function_call"}
            kind = kinds[call] = as_text(own["type"])
            block = {**own, "call_id": call, "name": name, CALL_ARGUMENTS_FIELDS[kind]: arguments}
        case ToolResult(call):
            wrong = check_no_error_flag(part, path)
            return (
                Failure(wrong)
                if wrong
                else _result(part, path).map(
                    lambda said: {"type": f"{kinds.get(call, 'function_call')}_output", "call_id": call, "output": said}
                )
            )
        case _:
            block = decode_opaque(part) if isinstance(part, Opaque) else {}
            kind = part.kind if isinstance(part, Opaque) else ""
            if kind not in {"", CITATION, PHASE} and not (block.get("type") == kind and kind.endswith(OWN)):
                return Failure(Unsupported(path=path, message=f"{kind!r} of another wire cannot be said on this one"))
    return Success(block)


def _result(result: ToolResult, path: str) -> Result[object, LLMError]:
    """Write what a tool answered: its text, or contents where there are pictures."""
    wrong = check_no_error_flag(result, path)
    if wrong is not None or isinstance(result.content, str):
        return Success(result.content) if wrong is None else Failure(wrong)
    return encode_result_parts(result, path, lambda piece, place: _part(piece, "tool", place, {})).map(_plain)


def _plain(blocks: list[Payload]) -> object:
    """Write texts alone as one."""
    return "".join(as_text(block["text"]) for block in blocks) if all("text" in block for block in blocks) else blocks


def _media(part: Image | Document, path: str) -> Result[Payload, LLMError]:
    """Write a picture or a file by its address, or inline."""
    held = inline_data(part)
    if held is not None and not held[0]:
        return Failure(media_type_error("", path))
    data = "" if held is None else f"data:{held[0]};base64,{held[1]}"
    if isinstance(part, Image):
        return Success({"type": "input_image", "image_url": data or part.url, "detail": part.detail or "auto"})
    named = {"filename": part.name or f"file.{held[0].rpartition('/')[2]}", "file_data": data} if held else {}
    return Success({"type": "input_file", **(named or {"file_url": part.url})})


def _abilities(request: CompletionRequest) -> Payload:
    """Write tools, structured output and reasoning."""
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
        named = {"type": "function", "name": request.tool_choice}
        payload["tool_choice"] = request.tool_choice if request.tool_choice in CHOICES else named
    if request.response_schema is not None:
        wanted = request.response_schema
        form = {"type": "json_schema", "name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
        payload["text"] = {"format": form}
    if request.reasoning_effort is not None:
        payload["reasoning"] = {"effort": request.reasoning_effort}
    return payload


WIRE: Final = Wire(
    name="openai_responses",
    encode=encode,
    decode=decode,
    decode_frame=decode_frame,
    decode_error=decode_error,
    decode_usage=lambda payload: _usage(as_mapping(payload.get("usage"))),
    stream_fields={"stream": True},
)
