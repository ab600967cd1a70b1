"""Recorded requests, parsed into llmhub requests and encoded again, are equivalent to the recordings.

The parsers here follow the documentation of the APIs and use nothing of llmhub's encoders. What llmhub has no field
for is passed as users pass it: a field in ``extra``, a block as `Opaque`.
"""

# ruff: noqa: C901, PLR0911, PLR0912 - a parser has a case for each field and block of its API

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from returns.pipeline import is_successful

from llmhub.core.payload import deep_merge
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint
from llmhub.core.types import (
    CompletionRequest,
    Document,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmhub.providers.registry import PROVIDERS

Body = Mapping[str, Any]


@dataclass
class ParsedRequest:
    """A parsed request: its fields, and in ``extra`` what llmhub has no field for."""

    fields: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def add_extra(self, **more: Any) -> None:
        self.extra = deep_merge(self.extra, more)

    def to_request(self, model: str) -> CompletionRequest:
        return CompletionRequest(model=model, extra=self.extra, **self.fields)


def opaque(kind: str, block: Any) -> Opaque:
    return Opaque(kind, json.dumps(block))


def only(block: Body, *names: str) -> bool:
    """Return whether a block has no other keys than these."""
    return set(block) <= set(names)


def set_fields(body: Body) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


# Chat Completions

CHAT_FIELDS = {
    **{name: name for name in ("temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty")},
    "max_completion_tokens": "max_tokens",
    "random_seed": "seed",
    "seed": "seed",
    "n": "n",
    "user": "user",
    "stop": "stop",
    "reasoning_effort": "reasoning_effort",
}


def parse_chat(body: Body) -> ParsedRequest:
    parsed = ParsedRequest()
    for name, value in set_fields(body).items():
        match name, value:
            case (("model" | "stream" | "stream_options"), _):
                continue
            case "messages", _:
                parsed.fields["messages"] = tuple(chat_message(turn) for turn in value)
            case "tools", _ if all(chat_sayable(tool) for tool in value):
                parsed.fields["tools"] = tuple(chat_tool(tool["function"]) for tool in value)
            case "tool_choice", str():
                parsed.fields["tool_choice"] = value
            case "tool_choice", {"type": "function", "function": {"name": str(named)}}:
                parsed.fields["tool_choice"] = named
            case "response_format", {"type": "json_schema", "json_schema": {"name": named, "schema": schema, **rest}}:
                parsed.fields["response_schema"] = Schema(schema, named, bool(rest.pop("strict", False)))
                if rest:
                    parsed.add_extra(response_format={"json_schema": rest})
            case _ if name in CHAT_FIELDS:
                parsed.fields[CHAT_FIELDS[name]] = value
            case _:
                parsed.add_extra(**{name: value})
    return parsed


def chat_sayable(tool: Body) -> bool:
    return tool.get("type") == "function" and only(tool, "type", "function")


def chat_tool(function: Body) -> Tool:
    return Tool(
        function["name"], function.get("description") or "", function.get("parameters") or {}, function.get("strict")
    )


def chat_message(turn: Body) -> Message:
    """Parse a message; a cache mark of the whole message has no field, so its one text carries it."""
    role = "system" if turn["role"] == "developer" else turn["role"]
    content = turn.get("content")
    if role == "tool":
        text = content if isinstance(content, str) else "".join(piece["text"] for piece in content)
        return Message("tool", ToolResult(turn["tool_call_id"], text, turn.get("name") or ""))
    parts: list[Part] = []
    thought = turn.get("reasoning_content") or turn.get("reasoning")
    if thought:
        parts.append(Reasoning(thought))
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    marked = {"cache_control": turn["cache_control"]} if "cache_control" in turn else {}
    parts += [chat_part({**block, **marked}) for block in blocks]
    for call in turn.get("tool_calls") or ():
        parts.append(ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]))
    return Message(role, parts)


def chat_part(block: Body) -> Part:
    match block:
        case {"type": "text", "text": str(text)} if only(block, "type", "text"):
            return Text(text)
        case {"type": "refusal", "refusal": str(text)}:
            return Refusal(text)
        case {"type": "image_url", "image_url": {"url": str(url), **more}} if only(block, "type", "image_url"):
            return Image(url, detail=more.get("detail", ""))
        case {"type": "file", "file": {"file_data": str(data), "filename": str(name)}}:
            return Document(data, name=name)
        case _:
            return opaque(block["type"], block)


# Anthropic Messages

ANTHROPIC_FIELDS = {"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
ANTHROPIC_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def parse_anthropic(body: Body) -> ParsedRequest:
    parsed = ParsedRequest()
    system = body.get("system") or []
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    opening = (Message("system", [anthropic_part(block) for block in blocks]),) if blocks else ()
    parsed.fields["messages"] = opening + tuple(anthropic_message(turn) for turn in body["messages"])
    for name, value in set_fields(body).items():
        match name, value:
            case (("model" | "stream" | "messages" | "system"), _):
                continue
            case "stop_sequences", _:
                parsed.fields["stop"] = tuple(value)
            case "metadata", {"user_id": str(user)}:
                parsed.fields["user"] = user
            case "tools", _ if all(only(tool, "name", "description", "input_schema", "strict") for tool in value):
                parsed.fields["tools"] = tuple(
                    Tool(tool["name"], tool.get("description", ""), tool["input_schema"], tool.get("strict"))
                    for tool in value
                )
            case "tool_choice", {"type": kind, **rest}:
                parsed.fields["tool_choice"] = rest.pop("name") if kind == "tool" else ANTHROPIC_CHOICES[kind]
                if rest:
                    parsed.add_extra(tool_choice=rest)
            case "thinking", _:
                anthropic_thinking(parsed, value, body.get("output_config") or {})
            case "output_config", _:
                anthropic_output(parsed, value, body.get("thinking") or {})
            case _ if name in ANTHROPIC_FIELDS:
                parsed.fields[ANTHROPIC_FIELDS[name]] = value
            case _:
                parsed.add_extra(**{name: value})
    return parsed


def anthropic_thinking(parsed: ParsedRequest, thinking: Body, output: Body) -> None:
    """Parse the reasoning options; ``adaptive`` without an effort has no field in llmhub."""
    rest = {name: value for name, value in thinking.items() if name not in {"type", "budget_tokens"}}
    match thinking["type"]:
        case "enabled":
            parsed.fields["reasoning_budget"] = thinking["budget_tokens"]
        case "disabled":
            parsed.fields["reasoning_budget"] = 0
        case kind if "effort" not in output:
            rest["type"] = kind
    if rest:
        parsed.add_extra(thinking=rest)


def anthropic_output(parsed: ParsedRequest, output: Body, thinking: Body) -> None:
    for name, value in output.items():
        match name, value:
            case "format", {"type": "json_schema", "schema": schema}:
                parsed.fields["response_schema"] = Schema(schema)
            case "effort", _ if thinking.get("type") == "adaptive":
                parsed.fields["reasoning_effort"] = value
            case _:
                parsed.add_extra(output_config={name: value})


def anthropic_message(turn: Body) -> Message:
    content = turn["content"]
    parts: list[Part] = []
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        parts.append(anthropic_part(block))
        if isinstance(parts[-1], Text):
            parts += [opaque("citation", citation) for citation in block.get("citations") or ()]
    return Message(turn["role"], parts)


def anthropic_part(block: Body) -> Part:
    match block:
        case {"type": "text", "text": str(text)} if only(block, "type", "text", "citations"):
            return Text(text)
        case {"type": "thinking", "thinking": str(text), "signature": str(signature)}:
            return Reasoning(text, signature)
        case {"type": "redacted_thinking", "data": str(data)}:
            return Reasoning(redacted=data)
        case {"type": "tool_use", "id": call, "name": name, "input": arguments} if len(block) == 4:
            return ToolCall(call, name, json.dumps(arguments))
        case {"type": "tool_result", "tool_use_id": call} if (
            only(block, "type", "tool_use_id", "content", "is_error")
            and (text := anthropic_result_content(block.get("content"))) is not None
        ):
            return ToolResult(call, text, is_error=bool(block.get("is_error")))
        case {"type": "image" | "document"} if (media := anthropic_media(block)) is not None:
            return media
        case _:
            return opaque(block["type"], block)


def anthropic_result_content(content: Any) -> str | tuple[Any, ...] | None:
    """Parse a tool's result; ``None`` if it holds anything besides text and images."""
    if content is None or isinstance(content, str):
        return content or ""
    pieces = tuple(anthropic_part(block) for block in content)
    return pieces if all(isinstance(piece, (Text, Image)) for piece in pieces) else None


def anthropic_media(block: Body) -> Image | Document | None:
    kind = Image if block["type"] == "image" else Document
    named = {"name": block["title"]} if "title" in block else {}
    match block.get("source"):
        case {"type": "url", "url": url} if only(block, "type", "source", "title"):
            return kind(url, **named)
        case {"type": "base64", "media_type": of, "data": data} if only(block, "type", "source", "title"):
            return kind(data=data, media_type=of, **named)
        case {"type": "text", "media_type": of, "data": text} if only(block, "type", "source", "title"):
            return kind(data=base64.b64encode(text.encode()).decode(), media_type=of, **named)
    return None


# Gemini

GEMINI_FIELDS = {
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

GEMINI_MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}


def parse_gemini(body: Body) -> ParsedRequest:
    body = camel(body)
    parsed = ParsedRequest()
    system = body.get("systemInstruction")
    opening = (Message("system", [Text(part["text"]) for part in as_list(system["parts"])]),) if system else ()
    parsed.fields["messages"] = opening + tuple(gemini_messages(as_list(body["contents"])))
    for name, value in set_fields(body).items():
        match name, value:
            case (("contents" | "systemInstruction"), _):
                continue
            case "generationConfig", _:
                gemini_config(parsed, value)
            case "tools", _ if (tools := gemini_tools(value)) is not None:
                mode = body.get("toolConfig", {}).get("functionCallingConfig", {}).get("mode")
                parsed.fields["tools"] = tuple(replace(tool, strict=mode == "VALIDATED" or None) for tool in tools)
            case "toolConfig", {"functionCallingConfig": {"mode": mode, **names}, **rest} if mode in GEMINI_MODES:
                chosen = names.get("allowedFunctionNames") or []
                parsed.fields["tool_choice"] = chosen[0] if len(chosen) == 1 else GEMINI_MODES[mode]
                if rest:
                    parsed.add_extra(toolConfig=rest)
                if mode == "VALIDATED" and "tools" in body and gemini_tools(body["tools"]) is None:
                    parsed.add_extra(toolConfig={"functionCallingConfig": {"mode": mode}})
            case _:
                parsed.add_extra(**{name: value})
    return parsed


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def gemini_config(parsed: ParsedRequest, config: Body) -> None:
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    for name, value in set_fields(config).items():
        match name, value:
            case (("responseJsonSchema" | "responseSchema"), _):
                parsed.fields["response_schema"] = Schema(lower(value))
            case "responseMimeType", "application/json" if schema:
                continue
            case "thinkingConfig", _:
                rest = dict(value)
                if "thinkingBudget" in rest:
                    parsed.fields["reasoning_budget"] = rest.pop("thinkingBudget")
                if "thinkingLevel" in rest:
                    parsed.fields["reasoning_effort"] = rest.pop("thinkingLevel").lower()
                if rest:
                    parsed.add_extra(generationConfig={"thinkingConfig": rest})
            case _ if name in GEMINI_FIELDS:
                parsed.fields[GEMINI_FIELDS[name]] = value
            case _:
                parsed.add_extra(generationConfig={name: value})


def gemini_tools(tools: Any) -> list[Tool] | None:
    """Parse declared functions; ``None`` if a server tool is among them."""
    declared = []
    for tool in as_list(tools):
        if not only(tool, "functionDeclarations"):
            return None
        declared += tool["functionDeclarations"]
    if not all(only(one, "name", "description", "parameters", "parametersJsonSchema") for one in declared):
        return None
    return [
        Tool(
            one["name"],
            one.get("description") or "",
            lower(one.get("parametersJsonSchema") or one.get("parameters") or {}),
        )
        for one in declared
    ]


def normalized_names(turn: Any) -> Any:
    return {"parts": [{"text": turn}]} if isinstance(turn, str) else turn


def gemini_messages(contents: list[Any]) -> Iterator[Message]:
    calls: list[tuple[str, str]] = []
    for at, turn in enumerate(map(normalized_names, contents)):
        role = turn.get("role", "user")
        parts = [part for block in turn["parts"] for part in gemini_parts(block, calls, at)]
        results = bool(parts) and all(isinstance(part, ToolResult) for part in parts)
        yield Message("assistant" if role == "model" else "tool" if results else role, parts)


def gemini_parts(block: Body, calls: list[tuple[str, str]], at: int) -> list[Part]:
    signature = block.get("thoughtSignature", "")
    match block:
        case {"text": str(text), "thought": True}:
            return [Reasoning(text, signature)]
        case {"text": str(text)} if only(block, "text", "thoughtSignature"):
            return [Text(text), *([Reasoning("", signature)] if signature else [])]
        case {"functionCall": {"name": name, **call}} if only(block, "functionCall", "thoughtSignature"):
            call_id = call.get("id") or f"{name}-{at}-{len(calls)}"
            calls.append((call_id, name))
            return [ToolCall(call_id, name, json.dumps(call.get("args") or {}), signature)]
        case {"functionResponse": {"name": name, **result}} if (text := gemini_result_content(result)) is not None:
            # Without an id, a result belongs to the first call of its name that has no result yet.
            call_id = result.get("id") or next((call for call, named in calls if named == name), name)
            calls[:] = [call for call in calls if call[0] != call_id]
            key = next(iter(result["response"]))
            return [ToolResult(call_id, text, name, is_error=key == "error")]
        case {"inlineData": {"mimeType": kind, "data": data}} if only(block, "inlineData"):
            return [(Image if kind.startswith("image/") else Document)(data=data, media_type=kind)]
        case {"fileData": {"mimeType": kind, "fileUri": uri}} if only(block, "fileData"):
            return [(Image if kind.startswith("image/") else Document)(uri, media_type=kind)]
        case _:
            return [opaque(next(name for name in block if name not in {"thoughtSignature", "thought"}), block)]


def gemini_result_content(result: Body) -> str | tuple[Any, ...] | None:
    """Parse a result of one text and images; ``None`` for any other structure."""
    match result["response"]:
        case {**single} if len(single) == 1 and isinstance(text := next(iter(single.values())), str):
            media = [gemini_parts(piece, [], 0)[0] for piece in result.get("parts") or ()]
            return (Text(text), *media) if media else text
    return None


UNREAD = {"args", "response", "parameters", "parametersJsonSchema", "responseJsonSchema", "responseSchema"}


def camel(value: Any) -> Any:
    """Convert field names to camel case, except inside values that hold the caller's own names."""
    if isinstance(value, dict):
        renamed = {(name.split("_")[0] + "".join(word.title() for word in name.split("_")[1:])): name for name in value}
        return {new: value[old] if new in UNREAD else camel(value[old]) for new, old in renamed.items()}
    return [camel(item) for item in value] if isinstance(value, list) else value


def lower(schema: Any) -> Any:
    """Lower the types of a schema, as JSON Schema spells them."""
    if isinstance(schema, dict):
        return {
            name: value.lower() if name == "type" and isinstance(value, str) else lower(value)
            for name, value in schema.items()
        }
    return [lower(item) for item in schema] if isinstance(schema, list) else schema


# Bedrock Converse

CONVERSE_FIELDS = {"maxTokens": "max_tokens", "temperature": "temperature", "topP": "top_p", "stopSequences": "stop"}

MEDIA = {
    **{name: f"image/{name}" for name in ("png", "jpeg", "gif", "webp")},
    "pdf": "application/pdf",
    "txt": "text/plain",
    "csv": "text/csv",
    "md": "text/markdown",
    "html": "text/html",
}


def parse_converse(body: Body) -> ParsedRequest:
    parsed = ParsedRequest()
    system = body.get("system") or []
    opening = (Message("system", [converse_part(block)[0] for block in system]),) if system else ()
    parsed.fields["messages"] = opening + tuple(
        Message(turn["role"], [part for block in turn["content"] for part in converse_part(block)])
        for turn in body["messages"]
    )
    for name, value in set_fields(body).items():
        match name, value:
            case (("messages" | "system"), _):
                continue
            case "inferenceConfig", _:
                parsed.fields |= {CONVERSE_FIELDS[key]: text for key, text in value.items() if text != []}
            case "toolConfig", {"tools": tools, **choice} if all("toolSpec" in tool for tool in tools):
                parsed.fields["tools"] = tuple(converse_tool(tool["toolSpec"]) for tool in tools)
                match choice.get("toolChoice"):
                    case {"tool": {"name": chosen}}:
                        parsed.fields["tool_choice"] = chosen
                    case {"any": _}:
                        parsed.fields["tool_choice"] = "required"
                    case {"auto": _}:
                        parsed.fields["tool_choice"] = "auto"
            case "outputConfig", {
                "textFormat": {"structure": {"jsonSchema": {"name": named, "schema": schema, **rest}}}
            }:
                parsed.fields["response_schema"] = Schema(json.loads(schema), named)
                if rest:
                    parsed.add_extra(outputConfig={"textFormat": {"structure": {"jsonSchema": rest}}})
            case "additionalModelRequestFields", {"thinking": {"type": "enabled", "budget_tokens": budget}}:
                parsed.fields["reasoning_budget"] = budget
            case "additionalModelRequestFields", {"reasoning_effort": effort}:
                parsed.fields["reasoning_effort"] = effort
            case "additionalModelRequestFields", {"inferenceConfig": {"topK": top}}:
                parsed.fields["top_k"] = top
            case _:
                parsed.add_extra(**{name: value})
    return parsed


def converse_tool(spec: Body) -> Tool:
    return Tool(spec["name"], spec.get("description", ""), spec["inputSchema"]["json"], spec.get("strict"))


def converse_part(block: Body) -> list[Part]:
    match block:
        case {"text": str(text)}:
            return [Text(text)]
        case {"citationsContent": {"content": [{"text": text}], "citations": cited}}:
            return [Text(text), *(opaque("citation", citation) for citation in cited)]
        case {"reasoningContent": {"reasoningText": {"text": text, **more}}}:
            return [Reasoning(text, more.get("signature", ""))]
        case {"reasoningContent": {"redactedContent": data}}:
            return [Reasoning(redacted=data)]
        case {"toolUse": {"toolUseId": call, "name": name, "input": arguments, **more}} if not more:
            return [ToolCall(call, name, json.dumps(arguments))]
        case {"toolResult": {"toolUseId": call, "content": content, **more}} if only(more, "status"):
            pieces = tuple(part for piece in content for part in converse_part(piece))
            if all(isinstance(piece, (Text, Image)) for piece in pieces):
                return [ToolResult(call, pieces, is_error=more.get("status") == "error")]
        case {"image": {"format": kind, "source": {"bytes": data}}}:
            return [Image(data=data, media_type=MEDIA[kind])]
        case {"image": {"format": kind, "source": {"s3Location": {"uri": uri}}}}:
            return [Image(uri, media_type=MEDIA[kind])]
        case {"document": {"format": kind, "name": name, "source": {"bytes": data}, **more}} if not more:
            return [Document(data=data, media_type=MEDIA[kind], name=name)]
    return [opaque(next(iter(block)), block)]


# Equivalent forms


@dataclass(frozen=True)
class Difference:
    """A difference without a meaning: ``same`` normalizes both forms."""

    reason: str
    same: Callable[[Any, Body], Any]


def without(*names: str) -> Callable[[Any, Body], Any]:
    return lambda body, _row: {name: value for name, value in body.items() if name not in names}


def renamed(old: str, new: str) -> Callable[[Any, Body], Any]:
    return lambda body, _row: {new if name == old else name: value for name, value in body.items()}


def each(where: str, turn_of: Callable[[Any], Any]) -> Callable[[Any, Body], Any]:
    """Normalize every message."""
    return lambda body, _row: {**body, where: [turn_of(turn) for turn in as_list(body.get(where) or [])]}


def drop_empty(body: Any, _row: Body) -> Any:
    """Drop empty values, at the top and one level below it."""
    inner = {
        name: {key: text for key, text in value.items() if text not in (None, [])} if isinstance(value, dict) else value
        for name, value in body.items()
    }
    return {name: value for name, value in inner.items() if value not in (None, [], {})}


def default(name: str, *values: Any) -> Callable[[Any, Body], Any]:
    return lambda body, _row: {key: value for key, value in body.items() if key != name or value not in values}


def chat_turn(turn: Body) -> Any:
    content = turn.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    marked = {"cache_control": turn["cache_control"]} if "cache_control" in turn else {}
    calls = [
        {"id": call["id"], "type": "function", "function": call["function"]} for call in turn.get("tool_calls") or []
    ]
    text = [{**block, **marked} for block in blocks if block != {"type": "text", "text": ""}]
    if turn["role"] == "tool":
        text = [{"type": "text", "text": "".join(block["text"] for block in text)}]
    role = "system" if turn["role"] == "developer" else turn["role"]
    thought = next(((name, turn[name]) for name in ("reasoning_content", "reasoning") if turn.get(name)), None)
    beside = {name: turn[name] for name in ("reasoning_details", "tool_call_id") if name in turn}
    marks = [call["cache_control"] for call in turn.get("tool_calls") or [] if "cache_control" in call]
    return {"role": role, "content": text, "calls": calls, "thought": thought, "marks": marks, **beside}


def chat_function(tool: Body) -> Any:
    function = tool.get("function")
    if not function:
        return tool
    filled = {name: value for name, value in function.items() if value not in ("", None, {})}
    return {"type": "function", **tool, "function": filled}


def chat_form(body: Any, _row: Body) -> Any:
    form = body.get("response_format")
    if not form or "json_schema" not in form:
        return body
    return {**body, "response_format": {**form, "json_schema": {"strict": False, **form["json_schema"]}}}


CHAT_DIFFERENCES = (
    Difference("null is the same as absent", drop_empty),
    Difference("only a stream says that it is one", default("stream", False)),
    Difference("one answer is the default", default("n", 1)),
    Difference("text is the default form", default("response_format", {"type": "text"})),
    Difference("usage of a stream is always requested, or sent anyway", without("stream_options")),
    Difference("the newer name of the answer's bound", renamed("max_completion_tokens", "max_tokens")),
    Difference("Mistral's name of the seed", renamed("random_seed", "seed")),
    Difference(
        "a stop alone or in a list",
        lambda body, _row: {**body, **({"stop": as_list(body["stop"])} if "stop" in body else {})},
    ),
    Difference(
        "a classic Azure address names the deployment; the body's model repeats it",
        lambda body, row: body if "model" in row["request"]["body"] else without("model")(body, row),
    ),
    Difference(
        "a llama.cpp server of one model asks for no name",
        lambda body, row: without("model")(body, row) if row["provider"] == "llamacpp" else body,
    ),
    Difference("a schema is not strict unless it says so", chat_form),
    Difference(
        "text alone or as a list's one part, empty or absent; developer is the later name of system; a "
        "call's index, a turn's prefix and a tool's name repeat what is known, as does reasoning under a second name",
        each("messages", chat_turn),
    ),
    Difference("a tool without description, parameters or type", each("tools", chat_function)),
    Difference("null is the same as absent, once more", drop_empty),
)


def anthropic_turns(body: Any, _row: Body) -> Any:
    """Merge neighbours of one role, drop empty texts, and convert texts to blocks."""
    turns: list[Any] = []
    for turn in body["messages"]:
        blocks = anthropic_blocks(turn["content"])
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": turn["role"], "content": blocks})
    return {**body, "messages": turns, "system": anthropic_blocks(body.get("system") or [])}


def anthropic_blocks(content: Any) -> Any:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [anthropic_block(block) for block in blocks if block != {"type": "text", "text": ""}]


def anthropic_block(block: Body) -> Any:
    if block["type"] != "tool_result":
        return block
    rest = {name: value for name, value in block.items() if (name, value) != ("is_error", False)}
    return {**rest, "content": anthropic_blocks(block.get("content") or [])}


def anthropic_tool(tool: Body) -> Any:
    filled = {name: value for name, value in tool.items() if value != ""}
    return {**filled, "input_schema": {"type": "object", **tool["input_schema"]}} if "input_schema" in tool else filled


def anthropic_choice(body: Any, _row: Body) -> Any:
    choice = body.get("tool_choice")
    if not choice:
        return body
    filled = {name: value for name, value in choice.items() if (name, value) != ("disable_parallel_tool_use", False)}
    return {**body, "tool_choice": filled}


ANTHROPIC_DIFFERENCES = (
    Difference("only a stream says that it is one", default("stream", False)),
    Difference(
        "Vertex AI names the model in the address, and its version in the body",
        lambda body, row: (
            body if "model" in row["request"]["body"] else without("model", "anthropic_version")(body, row)
        ),
    ),
    Difference(
        "text alone or as a list's one block, neighbours of one role, and an error that is none", anthropic_turns
    ),
    Difference("a tool without description, a schema whose type is understood", each("tools", anthropic_tool)),
    Difference("tools may be called in parallel by default", anthropic_choice),
    Difference("empty is the same as absent", drop_empty),
)


def gemini_plain(body: Any, _row: Body) -> Any:
    return camel(body)


def gemini_turns(body: Any, _row: Body) -> Any:
    """Number calls and results, merge neighbouring result messages, and use one name for a text's key."""
    numbers: dict[str, int] = {}
    waiting: list[tuple[str, int]] = []
    turns: list[Any] = []
    next_number = 0
    for turn in map(normalized_names, as_list(body["contents"])):
        parts = []
        for part in map(dict, turn["parts"]):
            if call := part.get("functionCall"):
                waiting.append((call["name"], next_number))
                numbers[call.get("id", "")] = next_number
                part["functionCall"] = {"args": {}, **call, "id": next_number}
                next_number += 1
            if result := part.get("functionResponse"):
                first = next((at for name, at in waiting if name == result["name"]), -1)
                number = numbers.get(result.get("id") or "", first) if result.get("id") else first
                waiting = [(name, at) for name, at in waiting if at != number]
                part["functionResponse"] = {**result, "id": number, "response": gemini_answer(result["response"])}
            parts.append(part)
        role = turn.get("role", "user")
        if (
            turns
            and role == turns[-1]["role"]
            and all("functionResponse" in part for part in parts + turns[-1]["parts"])
        ):
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": role, "parts": parts})
    return {**body, "contents": turns}


def gemini_answer(response: Body) -> Any:
    if len(response) == 1 and "error" not in response and isinstance(text := next(iter(response.values())), str):
        return {"output": text}
    return response


def gemini_declared(body: Any, _row: Body) -> Any:
    """Gather the declarations into one tool, with one name for their schemas."""
    declared, others = [], []
    for tool in as_list(body.get("tools") or []):
        for one in tool.get("functionDeclarations") or []:
            schema = lower(one.get("parametersJsonSchema") or one.get("parameters") or {})
            rest = {name: value for name, value in one.items() if value and not name.startswith("parameters")}
            declared.append({**rest, "schema": schema})
        if rest := {name: value for name, value in tool.items() if name != "functionDeclarations"}:
            others.append(rest)
    return {**body, "tools": [declared, *others] if declared or others else []}


def gemini_form(body: Any, _row: Body) -> Any:
    config = dict(body.get("generationConfig") or {})
    if config.get("candidateCount") == 1:  # one answer is the default
        del config["candidateCount"]
    schema = config.pop("responseJsonSchema", None) or config.pop("responseSchema", None)
    thinking = config.get("thinkingConfig")
    if thinking and "thinkingLevel" in thinking:
        config["thinkingConfig"] = {**thinking, "thinkingLevel": thinking["thinkingLevel"].upper()}
    return {**body, "generationConfig": {**config, **({"schema": lower(schema)} if schema else {})}}


def gemini_system(body: Any, _row: Body) -> Any:
    system = body.get("systemInstruction")
    return {**body, "systemInstruction": as_list(system["parts"])} if system else body


GEMINI_DIFFERENCES = (
    Difference("a field's name in either spelling", gemini_plain),
    Difference("the role of the system instruction is not read", gemini_system),
    Difference(
        "ids of calls pair them with results, by order where there are none; a text's key in a result is free; "
        "results of adjacent turns are one turn's",
        gemini_turns,
    ),
    Difference(
        "a schema in Gemini's subset or as JSON schema; one tool of many functions or many of one", gemini_declared
    ),
    Difference("as above, of the answer's schema", gemini_form),
    Difference("empty is the same as absent", drop_empty),
)


def converse_turns(body: Any, _row: Body) -> Any:
    turns: list[Any] = []
    for turn in body["messages"]:
        blocks = [converse_block(block) for block in turn["content"]]
        if turns and turns[-1]["role"] == turn["role"]:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": turn["role"], "content": blocks})
    return {**body, "messages": turns}


def converse_block(block: Body) -> Any:
    match block:
        case {"toolResult": {"status": "success", **rest}}:
            return {"toolResult": rest}
    return block


def converse_form(body: Any, _row: Body) -> Any:
    match body.get("outputConfig"):
        case {"textFormat": {"structure": {"jsonSchema": {"schema": str(schema)} as form}}}:
            return {**body, "outputConfig": {**form, "schema": json.loads(schema)}}
    return body


CONVERSE_DIFFERENCES = (
    Difference("neighbours of one role; a result is a success unless it says otherwise", converse_turns),
    Difference("a schema as text, whatever its white space", converse_form),
    Difference("empty is the same as absent", drop_empty),
)


# Recorded exchanges


@dataclass(frozen=True)
class Format:
    """The parser of an API, its equivalent forms, and the llmhub provider for each recorded provider."""

    parse: Callable[[Body], ParsedRequest]
    differences: tuple[Difference, ...]
    providers: Mapping[str, str]
    default_provider: str


FORMATS = {
    "chat_completions": Format(parse_chat, CHAT_DIFFERENCES, {"azure_openai": "azure"}, "compatible"),
    "messages": Format(parse_anthropic, ANTHROPIC_DIFFERENCES, {"vertex_anthropic": "vertex-anthropic"}, "anthropic"),
    "generate_content": Format(parse_gemini, GEMINI_DIFFERENCES, {"gemini": "google"}, "google"),
    "converse": Format(parse_converse, CONVERSE_DIFFERENCES, {}, "bedrock"),
}

APIS = {
    "chat_completions": "chat_completions",
    "messages": "messages",
    "generate_content": "generate_content",
    "stream_generate_content": "generate_content",
    "converse": "converse",
    "converse_stream": "converse",
}

DETAILS = "details of earlier reasoning with a signature of another provider have no field in this API"
NO_LIMIT = "minus one means no limit there; llmhub omits the field instead, and rejects numbers out of range"

NOT_ENCODABLE: Mapping[str, str] = {
    "openrouter.chat_completions.a2e7065f5195": DETAILS,
    "openrouter.chat_completions.e21de82e1d04": DETAILS,
    "vercel_gateway.chat_completions.5ece032122c2": DETAILS,
    "vercel_gateway.chat_completions.a43552902b12": "a mark for the cache on a tool call has no place",
    "crusoe.chat_completions.b7a1d4d84453": "it was given reasoning under a name that a row of one's own must choose",
    "openai.chat_completions.1cc22d9ddb5a": "the model refuses stop while it reasons, as it did there with a 400",
    "anthropic.messages.20601c746f3d": NO_LIMIT,
    "anthropic.messages.a6fcc419624f": NO_LIMIT,
    "vertex.generate_content.d8c64a549f67": "the role was wrong on purpose, and answered with a 400",
}
"""Recorded requests that llmhub cannot encode, each with the reason."""


def model_of(row: Body) -> str:
    return row["request"]["body"].get("model") or row["model"] or "any"


def reencoded(row: Body) -> tuple[Any, CompletionRequest | None]:
    """Parse a recorded request and encode it; return the body or an error."""
    form = FORMATS[APIS[row["api"]]]
    parsed = form.parse(row["request"]["body"])
    request = parsed.to_request(model_of(row))
    name = form.providers.get(row["provider"], row["provider"])
    provider = PROVIDERS[name if name in PROVIDERS else form.default_provider]
    endpoint = Endpoint(base_url="http://localhost", api_key="k", region="us-east-1", project="p")
    next_number = prepare(provider, endpoint, request, 0.0, stream=row["streaming"])
    return (json.loads(next_number.unwrap().body) if is_successful(next_number) else next_number.failure()), request


def normalized(body: Any, row: Body) -> Any:
    for difference in FORMATS[APIS[row["api"]]].differences:
        body = difference.same(body, row)
    return body


def folder() -> Path:
    return Path(__file__).parents[1] / "fixtures/conformance"


def recorded() -> list[Any]:
    """Return every recorded request of these APIs."""
    lines = [line for path in sorted(folder().glob("*.jsonl")) for line in path.read_text("utf-8").split("\n") if line]
    return [row for row in map(json.loads, lines) if row["api"] in APIS]


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return recorded()


def is_equivalent(row: Body) -> bool:
    body, _ = reencoded(row)
    return isinstance(body, dict) and normalized(body, row) == normalized(row["request"]["body"], row)


@pytest.mark.corpus
@pytest.mark.parametrize("api", APIS)
def test_recorded_requests_are_encoded_equivalently(api: str, rows: list[Any]) -> None:
    selected = [row for row in rows if row["api"] == api]
    differing = [row["id"] for row in selected if not is_equivalent(row)]
    assert differing == [row["id"] for row in selected if row["id"] in NOT_ENCODABLE]


@pytest.mark.corpus
def test_most_recorded_requests_of_every_provider_are_encoded_equivalently(rows: list[Any]) -> None:
    """Counts by provider: all requests, those encoded equivalently, and those of them without ``extra`` or `Opaque`."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        selected = counts.setdefault(row["provider"], Counter())
        selected["all"] += 1
        if is_equivalent(row):
            selected["same"] += 1
            selected["own"] += uses_no_escape_hatch(row)
    for provider, selected in sorted(counts.items()):
        _print_counts(provider, selected)
    every = sum((selected for selected in counts.values()), Counter())
    _print_counts("all", every)
    assert every["same"] >= 0.95 * every["all"]
    assert every["own"] >= MIN_SHARE_WITHOUT_ESCAPE * every["all"]
    few = {name for name, selected in counts.items() if selected["same"] < 0.9 * selected["all"]}
    assert few <= {"crusoe", "openrouter", "vercel_gateway"}


def _print_counts(name: str, counts: Counter[str]) -> None:
    print(f"{name:18}{counts['all']:5} recorded {counts['same']:5} encoded {counts['own']:5} without extra")  # noqa: T201 - counts to read


MIN_SHARE_WITHOUT_ESCAPE = 0.5
"""Minimum share of requests that need neither ``extra`` nor `Opaque` parts."""


def uses_no_escape_hatch(row: Body) -> bool:
    _, request = reencoded(row)
    parts = [part for message in request.messages for part in message.parts] if request else []
    return request is not None and not request.extra and not any(isinstance(part, Opaque) for part in parts)


@pytest.mark.corpus
def test_comparison_detects_changes(rows: list[Any]) -> None:
    """A body without its last message, or with another word in it, is not equivalent."""
    for row in rows:
        body = row["request"]["body"]
        where = "contents" if "contents" in body else "messages"
        if isinstance(body[where], list) and len(body[where]) > 1:
            assert normalized(body, row) != normalized({**body, where: body[where][:-1]}, row)
        assert normalized(body, row) != normalized({**body, "another": 1}, row)
