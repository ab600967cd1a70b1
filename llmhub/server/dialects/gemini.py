"""Gemini ``generateContent`` and ``streamGenerateContent``, the server's half.

What differs here:

- The model and the kind of answer are in the path. Field names are read in camel case and in snake case.
- Results of tools are matched with calls by their id or, without one, by the name of the function.
- Output tokens are split into those of candidates and of thoughts. Each chunk of a stream is a response of its own;
  a call is sent when it is complete.

Source: https://ai.google.dev/api/generate-content and the types of google-genai 3.6.1 (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from msgspec import Struct

from llmhub.core.errors import LLMError, invalid
from llmhub.core.stream import Delta
from llmhub.core.types import (
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
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.server.dialects.dialect import Dialect, ParsedRequest, ReplyInfo
from llmhub.server.dialects.part_stream import PartStream
from llmhub.server.dialects.reading import (
    compact,
    document,
    has_only,
    image,
    opaque,
    other_fields,
    read_as,
    unsupported,
)
from llmhub.server.error_replies import error_text

FINISH: Final[Mapping[FinishReason, str]] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
    "other": "OTHER",
}
CONFIG_FIELDS: Final = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "candidateCount": "n",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
CONFIG_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("temperature", "topP", "presencePenalty", "frequencyPenalty", "topK"), (int, float)),
    **dict.fromkeys(("maxOutputTokens", "seed", "candidateCount"), (int,)),
    "stopSequences": (list,),
}
TOOL_MODES: Final = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}
RAW_VALUES: Final = frozenset(
    {"args", "response", "parameters", "parametersJsonSchema", "responseJsonSchema", "responseSchema"}
)
"""Fields whose values hold the caller's own names."""
STATUS_NAMES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
METADATA: Final = ("groundingMetadata", "urlContextMetadata", "citationMetadata")
"""Kinds of `Opaque` parts that are fields of a candidate, besides its content."""
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class GenerateContentRequest(Struct, rename="camel"):
    """Body of ``generateContent`` and ``streamGenerateContent``."""

    contents: list[dict[str, Any] | str] | dict[str, Any] | str
    system_instruction: dict[str, Any] | str | None = None
    generation_config: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | dict[str, Any] | None = None
    tool_config: dict[str, Any] | None = None


class PathFields(Struct):
    """Fields that the path of the request holds."""

    model: str
    stream: bool = False


FIELDS: Final = frozenset(
    {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "model", "stream"}
)


# Requests


def parse(payload: Payload, native: bool) -> ParsedRequest:
    """Parse a body, to which the route has added ``model`` and ``stream`` of the path."""
    camel = _camel(payload)
    path_fields, body = read_as(camel, PathFields), read_as(camel, GenerateContentRequest)
    extra = other_fields(camel, FIELDS, native=native)
    parser = _Parser(native=native)
    fields, rest = _config(body.generation_config or {}, native=native)
    extra |= {"generationConfig": rest} if rest else {}
    tools, rest = _tools(body, native=native)
    extra |= rest
    request = CompletionRequest(
        model=path_fields.model,
        messages=(*parser.system(body.system_instruction), *parser.messages(_as_list(body.contents))),
        extra=extra,
        **fields,
        **tools,
    )
    return ParsedRequest(request=request, stream=path_fields.stream, dropped=tuple(parser.dropped))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _camel(value: Any) -> Any:
    """Convert field names to camel case, except inside values that hold the caller's own names."""
    if isinstance(value, dict):
        renamed = {_camel_name(name): inner for name, inner in value.items()}
        return {name: inner if name in RAW_VALUES else _camel(inner) for name, inner in renamed.items()}
    return [_camel(item) for item in value] if isinstance(value, list) else value


def _camel_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.title() for word in others) if others else name


class _Parser:
    """Parses the contents of one request, and matches results with calls."""

    def __init__(self, *, native: bool) -> None:
        self.native = native
        self.dropped: dict[str, None] = {}
        self._calls: list[tuple[str, str]] = []
        self._count = 0

    def system(self, instruction: dict[str, Any] | str | None) -> list[Message]:
        if instruction is None:
            return []
        texts: list[Part] = []
        for index, block in enumerate(_blocks_of(instruction, "$.systemInstruction")):
            text = block.get("text")
            if not isinstance(text, str):
                raise unsupported(f"$.systemInstruction.parts[{index}]", "must be text")
            texts.append(Text(text))
        return [Message("system", texts)] if texts else []

    def messages(self, contents: list[Any]) -> list[Message]:
        messages: list[Message] = []
        for index, content in enumerate(contents):
            path = f"$.contents[{index}]"
            role = content.get("role") or "user" if isinstance(content, dict) else "user"
            if role not in ("user", "model", "function", "tool"):
                raise invalid(f"{path}.role", "must be user or model")
            blocks = _blocks_of(content, path)
            parts = [
                part for place, block in enumerate(blocks) for part in self._block(block, f"{path}.parts[{place}]")
            ]
            messages += self._message("assistant" if role == "model" else "user", parts)
        return messages

    def _message(self, role: Any, parts: list[Part]) -> list[Message]:
        """Return a message; results of tools are messages of their own before the rest."""
        results = [part for part in parts if isinstance(part, ToolResult)]
        others = [part for part in parts if not isinstance(part, ToolResult)]
        if results and not others:
            return [Message("tool", parts)] if self.native else [Message("tool", result) for result in results]
        if not results or self.native:
            return [Message(role, parts)] if parts or self.native else []
        return [*(Message("tool", result) for result in results), Message(role, others)]

    def _block(self, block: Mapping[str, Any], path: str) -> list[Part]:  # noqa: PLR0911 - one for each type
        signature = block.get("thoughtSignature") or ""
        if not isinstance(signature, str):
            raise invalid(f"{path}.thoughtSignature", "must be a string")
        match block:
            case {"text": str(), "thought": True} if not self.native:
                self.dropped["messages.reasoning"] = None
                return []
            case {"text": str(text), "thought": True}:
                return [Reasoning(text, signature)]
            case {"text": str(text)} if not self.native or has_only(block, "text", "thoughtSignature", "thought"):
                return [Text(text), *([Reasoning("", signature)] if signature and self.native else [])]
            case {"functionCall": {"name": str(name)}} if not self.native or has_only(
                block, "functionCall", "thoughtSignature"
            ):
                return [self._call(name, block["functionCall"], signature, path)]
            case {"functionResponse": {"name": str(name)}}:
                return [self._result(name, block["functionResponse"], block, path)]
            case {"inlineData": {"mimeType": str(kind), "data": str(data)}} if not self.native or has_only(
                block, "inlineData"
            ):
                return [_media(kind, path)(f"{path}.inlineData", data=data, media_type=kind)]
            case {"fileData": {"fileUri": str(uri)}} if not self.native or has_only(block, "fileData"):
                kind = block["fileData"].get("mimeType") or ""
                return [_media(kind, path)(f"{path}.fileData.fileUri", url=uri, media_type=kind)]
            case _:
                named = next((name for name in block if name not in {"thoughtSignature", "thought"}), "")
                return [opaque(named, block, path, native=self.native)]

    def _call(self, name: str, call: Mapping[str, Any], signature: str, path: str) -> ToolCall:
        arguments, call_id = call.get("args") or {}, call.get("id") or f"{name}-{self._count}"
        self._count += 1
        if not isinstance(call_id, str) or not isinstance(arguments, dict):
            raise invalid(f"{path}.functionCall", "must have args as an object, and id as a string where given")
        self._calls.append((call_id, name))
        return ToolCall(call_id, name, compact(arguments), signature if self.native else "")

    def _result(self, name: str, result: Mapping[str, Any], block: Mapping[str, Any], path: str) -> Part:
        """Return a result; without an id it belongs to the first call of its function that has none yet."""
        response, given = result.get("response"), result.get("id")
        if not isinstance(response, dict) or not isinstance(given, str | None):
            raise invalid(f"{path}.functionResponse", "must have response as an object, and id as a string where given")
        call_id = given or next((call for call, named in self._calls if named == name), name)
        self._calls = [call for call in self._calls if call[0] != call_id]
        text = next(iter(response.values())) if len(response) == 1 else None
        is_error = "error" in response and len(response) == 1
        images: list[Text | Image] = []
        for index, piece in enumerate(result.get("parts") or ()):
            parts = self._block(piece, f"{path}.functionResponse.parts[{index}]") if isinstance(piece, dict) else []
            images += [part for part in parts if isinstance(part, Image)]
        if isinstance(text, str):
            return ToolResult(call_id, (Text(text), *images) if images else text, name, is_error=is_error)
        if self.native:
            return opaque("functionResponse", block, path, native=True)
        return ToolResult(call_id, (Text(compact(response)), *images) if images else compact(response), name)


def _media(kind: object, path: str) -> Callable[..., Part]:
    if not isinstance(kind, str):
        raise invalid(f"{path}.mimeType", "must be a string")
    return image if kind.startswith("image/") else document


def _blocks_of(content: Any, path: str) -> list[dict[str, Any]]:
    """Return the parts of a content, which may be bare text."""
    if isinstance(content, str):
        return [{"text": content}]
    parts = content.get("parts") if isinstance(content, dict) else None
    blocks = [{"text": part} if isinstance(part, str) else part for part in _as_list([] if parts is None else parts)]
    if not isinstance(content, dict) or not all(isinstance(block, dict) for block in blocks):
        raise invalid(f"{path}.parts", "must be a list of objects")
    return blocks


def _config(  # noqa: C901, PLR0912 - a case for each field
    config: Mapping[str, Any], *, native: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a generation config, and those that only a target of the same API understands."""
    fields: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    for name, value in config.items():
        path = f"$.generationConfig.{name}"
        match name, value:
            case _, None:
                continue
            case "responseJsonSchema" | "responseSchema", dict():
                fields["response_schema"] = Schema(_lower_types(value))
            case "responseMimeType", "application/json" if schema:
                continue
            case "responseMimeType", "text/plain" if not native:
                continue
            case "responseLogprobs", bool():
                if value:
                    fields.setdefault("logprobs", 0)
            case "logprobs", int():
                fields["logprobs"] = value
            case "thinkingConfig", dict():
                thinking, own = _thinking(value, native=native)
                fields |= thinking
                rest |= {"thinkingConfig": own} if own else {}
            case _ if name in CONFIG_FIELDS:
                if not isinstance(value, CONFIG_TYPES[name]) or isinstance(value, bool):
                    expected = " or ".join(kind.__name__ for kind in CONFIG_TYPES[name])
                    raise invalid(path, f"expected {expected}, got {type(value).__name__}")
                fields[CONFIG_FIELDS[name]] = value
            case _:
                rest[name] = value
    stop = fields.get("stop", ())
    if not all(isinstance(text, str) for text in stop):
        raise invalid("$.generationConfig.stopSequences", "must be a list of strings")
    return {**fields, "stop": tuple(stop)}, other_fields(rest, (), native=native, path="$.generationConfig")


def _thinking(config: Mapping[str, Any], *, native: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    fields: dict[str, Any] = {}
    rest = {name: value for name, value in config.items() if value is not None}
    path = "$.generationConfig.thinkingConfig"
    budget, level = rest.pop("thinkingBudget", None), rest.pop("thinkingLevel", None)
    if not isinstance(budget, int | None) or isinstance(budget, bool) or not isinstance(level, str | None):
        raise invalid(path, "must have thinkingBudget as an integer, and thinkingLevel as a string")
    if budget is not None:
        fields["reasoning_budget"] = budget
    if level is not None:
        fields["reasoning_effort"] = level.lower()
    if not native:
        rest.pop("includeThoughts", None)
    return fields, other_fields(rest, (), native=native, path=path)


def _tools(body: GenerateContentRequest, *, native: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    given = [] if body.tools is None else _as_list(body.tools)
    declared = _declared(given, native=native)
    fields: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    calling = (body.tool_config or {}).get("functionCallingConfig")
    mode = calling.get("mode") if isinstance(calling, dict) else None
    if given and declared is None:
        rest["tools"] = body.tools
    elif declared:
        fields["tools"] = tuple(
            Tool(tool.name, tool.description, tool.parameters, mode == "VALIDATED" or None) for tool in declared
        )
    if body.tool_config is None:
        return fields, rest
    others = {name: value for name, value in body.tool_config.items() if name != "functionCallingConfig"}
    if isinstance(calling, dict) and isinstance(mode, str) and mode in TOOL_MODES:
        names = calling.get("allowedFunctionNames") or []
        is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not is_names or (len(names) > 1 and not native):
            raise unsupported("$.toolConfig.functionCallingConfig.allowedFunctionNames", "must be one function")
        if len(names) > 1:
            others["functionCallingConfig"] = calling
        else:
            fields["tool_choice"] = names[0] if names else TOOL_MODES[mode]
        if mode == "VALIDATED" and given and declared is None:
            others["functionCallingConfig"] = {"mode": mode}
    elif calling is not None and mode is not None:
        raise invalid("$.toolConfig.functionCallingConfig.mode", f"must be one of {', '.join(TOOL_MODES)}")
    others = other_fields(others, (), native=native, path="$.toolConfig")
    return fields, {**rest, **({"toolConfig": others} if others else {})}


def _declared(tools: list[Any], *, native: bool) -> list[Tool] | None:
    """Return the declared functions; ``None`` if there is a tool that only the provider understands."""
    declared: list[Tool] = []
    for index, tool in enumerate(tools):
        path = f"$.tools[{index}]"
        if not isinstance(tool, dict) or not has_only(tool, "functionDeclarations"):
            if native and isinstance(tool, dict):
                return None
            raise unsupported(path, "must be functionDeclarations, as this model has no other tools")
        for place, function in enumerate(_as_list(tool.get("functionDeclarations") or [])):
            name = function.get("name") if isinstance(function, dict) else None
            if not isinstance(name, str):
                raise invalid(f"{path}.functionDeclarations[{place}].name", "is missing")
            known = ("name", "description", "parameters", "parametersJsonSchema")
            if native and not has_only(function, *known):
                return None
            schema = function.get("parametersJsonSchema") or function.get("parameters") or {}
            description = function.get("description") or ""
            if not isinstance(schema, dict) or not isinstance(description, str):
                raise invalid(f"{path}.functionDeclarations[{place}]", "parameters must be a schema")
            declared.append(Tool(name, description, _lower_types(schema)))
    return declared


def _lower_types(schema: Any) -> Any:
    """Spell the types of a schema as JSON Schema does."""
    if isinstance(schema, dict):
        return {
            name: value.lower() if name == "type" and isinstance(value, str) else _lower_types(value)
            for name, value in schema.items()
        }
    return [_lower_types(item) for item in schema] if isinstance(schema, list) else schema


# Responses


def encode(response: CompletionResponse, info: ReplyInfo) -> Payload:
    """Encode a response."""
    answers = [(response.parts, response.finish_reason), *((it.parts, it.finish_reason) for it in response.others)]
    candidates = []
    for index, (parts, reason) in enumerate(answers):
        blocks = _blocks(parts)
        candidates.append(
            {
                "content": {"parts": blocks, "role": "model"},
                "finishReason": FINISH[reason],
                "index": index,
                **_metadata(parts),
            }
        )
    return {"candidates": candidates, "usageMetadata": _usage(response.usage), **_head(info)}


def _head(info: ReplyInfo) -> Payload:
    return {"modelVersion": info.model, "responseId": info.id}


def _metadata(parts: Sequence[Part]) -> Payload:
    return {part.kind: _decode(part.data) for part in parts if isinstance(part, Opaque) and part.kind in METADATA}


def _blocks(parts: Sequence[Part]) -> list[Payload]:
    """Encode parts; a signature without text belongs to the text before it."""
    blocks: list[Payload] = []
    for part in parts:
        match part:
            case Text(text) | Refusal(text):
                blocks.append({"text": text})
            case Reasoning("", signature) if signature and blocks and "text" in blocks[-1]:
                blocks[-1]["thoughtSignature"] = signature
            case Reasoning(text, signature, ""):
                blocks.append({"text": text, "thought": True, **_signature(signature)})
            case ToolCall(call_id, name, arguments, signature):
                call = {"id": call_id, "name": name, "args": _arguments(arguments)}
                blocks.append({"functionCall": call, **_signature(signature)})
            case Image(url, data, media_type) | Document(url, data, media_type):
                source = {"fileUri": url} if url else {"data": data}
                blocks.append({"fileData" if url else "inlineData": {"mimeType": media_type, **source}})
            case Opaque(kind, data) if kind not in METADATA and kind in (block := _arguments(data)):
                blocks.append(block)
    return blocks


def _signature(signature: str) -> Payload:
    return {"thoughtSignature": signature} if signature else {}


def _arguments(text: str) -> Payload:
    """Decode a JSON object, which models may get wrong."""
    try:
        value = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _usage(usage: Usage) -> Payload:
    inputs, outputs, thoughts = usage.input_tokens, usage.output_tokens, usage.reasoning_tokens
    counts: Payload = {
        "promptTokenCount": inputs,
        "candidatesTokenCount": None if outputs is None else outputs - (thoughts or 0),
        "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": usage.cached_input_tokens,
        "totalTokenCount": None if inputs is None and outputs is None else (inputs or 0) + (outputs or 0),
    }
    return {name: value for name, value in counts.items() if value is not None}


# Streams


class GeminiStream:
    """Encodes one response as chunks; a call is sent at the end, where it is complete."""

    def __init__(self, info: ReplyInfo) -> None:
        self._parts = PartStream()
        self._head = _head(info)

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        """Encode new text and thoughts as chunks."""
        chunks = []
        for fragment in self._parts.feed(deltas):
            match fragment.part:
                case Text() | Refusal() | Reasoning(signature="", redacted=""):
                    chunks.append(self._chunk([self._candidate(fragment.choice, [fragment.part])]))
                case _:
                    continue
        return b"".join(chunks)

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> bytes:  # noqa: ARG002 - of the protocol
        """Encode the rest of the content, with the finish reasons and the usage."""
        rest: dict[int, list[Part]] = {}
        for fragment in self._parts.rest(response):
            if not isinstance(fragment.part, ToolCall):
                rest.setdefault(fragment.choice, []).append(fragment.part)
        answers = [(response.parts, response.finish_reason), *((it.parts, it.finish_reason) for it in response.others)]
        candidates = []
        for choice, (parts, reason) in enumerate(answers):
            calls = [part for part in parts if isinstance(part, ToolCall)]
            candidate = self._candidate(choice, [*rest.get(choice, []), *calls])
            candidates.append({**candidate, "finishReason": FINISH[reason], **_metadata(parts)})
        return self._chunk(candidates, usageMetadata=_usage(response.usage))

    def fail(self, error: LLMError, status: int) -> bytes:
        """Encode an error as the last event."""
        return self._frame(encode_error(error, status, ""))

    def _candidate(self, choice: int, parts: Sequence[Part]) -> Payload:
        return {"content": {"parts": _blocks(parts), "role": "model"}, "index": choice}

    def _chunk(self, candidates: list[Payload], **more: object) -> bytes:
        return self._frame({"candidates": candidates, **more, **self._head})

    def _frame(self, payload: Payload) -> bytes:
        return b"data: %b\r\n\r\n" % _encode(payload)


class GeminiArrayStream(GeminiStream):
    """Encodes one response as a JSON array of chunks: the form of a stream without ``alt=sse``."""

    def __init__(self, info: ReplyInfo) -> None:
        super().__init__(info)
        self._has_begun = False

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> bytes:
        """Encode the last chunk and the end of the array."""
        return super().finish(response, info) + b"]"

    def fail(self, error: LLMError, status: int) -> bytes:
        """Encode an error as the last item."""
        return super().fail(error, status) + b"]"

    def _frame(self, payload: Payload) -> bytes:
        separator = b",\r\n" if self._has_begun else b"["
        self._has_begun = True
        return separator + _encode(payload)


# Errors


def encode_error(error: LLMError, status: int, request_id: str) -> Payload:
    """Encode an error.

    Examples
    --------
    >>> from llmhub.core.errors import NotFound
    >>> encode_error(NotFound(message="no such model"), 404, "")["error"]
    {'code': 404, 'message': 'no such model', 'status': 'NOT_FOUND'}
    """
    kind = "type.googleapis.com/google.rpc.RequestInfo"
    details = [{"@type": kind, "requestId": request_id}] if request_id else []
    return {
        "error": {
            "code": status,
            "message": error_text(error),
            "status": STATUS_NAMES.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION"),  # noqa: PLR2004
            **({"details": details} if details else {}),
        }
    }


DIALECT: Final = Dialect(
    name="gemini",
    wires=frozenset({"gemini"}),
    parse=parse,
    encode=encode,
    open_stream=GeminiStream,
    encode_error=encode_error,
)
ARRAY_DIALECT: Final = replace(DIALECT, open_stream=GeminiArrayStream, stream_type="application/json")
"""The same API with streams as JSON arrays."""
