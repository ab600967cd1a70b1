"""Recorded Responses requests, parsed into llmhub requests and encoded again, equal the recordings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from returns.pipeline import is_successful

from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint
from llmhub.core.types import (
    CompletionRequest,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmhub.providers.registry import PROVIDERS

pytestmark = pytest.mark.corpus
ROWS = {"openai": "openai-responses", "azure_openai": "azure-responses"}
"""Provider for a provider name of the recordings; `openai-responses` for those without one."""

NAMES = {"temperature": "temperature", "top_p": "top_p", "max_output_tokens": "max_tokens"}
KNOWN_FIELDS = frozenset({*NAMES, "model", "input", "tools", "tool_choice", "text", "reasoning", "stream"})
"""Fields that are parsed into a request; the others go through ``extra``."""

ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}

NOT_ENCODABLE: Mapping[str, str] = {}
"""Recorded requests that llmhub cannot encode, each with the reason."""


def parse_block(block: Mapping[str, Any]) -> Part:
    match block["type"]:
        case "input_image" if "file_id" not in block:
            return Image(url=block.get("image_url", ""), detail=block.get("detail", ""))
        case "refusal":
            return Refusal(block["refusal"])
        case "input_text" | "output_text":
            return Text(block["text"])
        case kind:
            return Opaque(kind, json.dumps(block))


def parse_item(item: Mapping[str, Any]) -> Message:
    kind = item.get("type", "message")
    match kind:
        case "message":
            content = item["content"]
            parts: list[Part] = (
                [Text(content)] if isinstance(content, str) else [parse_block(block) for block in content]
            )
            return Message(ROLES[item["role"]], parts)
        case "reasoning":
            return Message("assistant", Reasoning("", json.dumps(item)))
        case "function_call":
            beside = {name: item[name] for name in ("type", "namespace") if "namespace" in item}
            signature = json.dumps(beside) if beside else ""
            return Message("assistant", ToolCall(item["call_id"], item["name"], item["arguments"], signature))
        case "function_call_output":
            output = item["output"]
            pieces = output if isinstance(output, str) else tuple(parse_block(block) for block in output)
            return Message("tool", ToolResult(item["call_id"], pieces))
        case _:
            return Message("assistant", Opaque(kind, json.dumps(item)))


def parse_request(body: Mapping[str, Any], model: str) -> CompletionRequest:
    """Parse a recorded body; server tools and fields that llmhub lacks go through ``extra``."""
    turns = body.get("input", "")
    items = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    extra = {name: value for name, value in body.items() if name not in KNOWN_FIELDS}
    tools = body.get("tools", [])
    own = all(tool["type"] == "function" and "defer_loading" not in tool for tool in tools)
    form = body.get("text", {}).get("format", {})
    schemed = form.get("type") == "json_schema" and set(body["text"]) == {"format"}
    choice, reasoning = body.get("tool_choice"), body.get("reasoning", {})
    named = isinstance(choice, dict) and choice.get("type") == "function"
    extra |= {} if own else {"tools": tools}
    extra |= {} if schemed or "text" not in body else {"text": body["text"]}
    extra |= {} if set(reasoning) <= {"effort"} else {"reasoning": reasoning}
    extra |= {} if choice is None or isinstance(choice, str) or named else {"tool_choice": choice}
    return CompletionRequest(
        model=model,
        messages=tuple(parse_item(item) for item in items),
        tools=tuple(Tool(t["name"], t.get("description") or "", t["parameters"], t.get("strict")) for t in tools)
        if own
        else (),
        tool_choice=choice["name"] if named else choice if isinstance(choice, str) else None,
        response_schema=Schema(form["schema"], form["name"], form.get("strict", False)) if schemed else None,
        reasoning_effort=reasoning.get("effort") if set(reasoning) <= {"effort"} else None,
        extra=extra,
        **{field: body[name] for name, field in NAMES.items() if name in body},
    )


def same_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Normalize an item: how a single text is wrapped, ids, statuses, nulls, and the two names of the system role."""
    filled = {name: value for name, value in item.items() if value is not None}
    if filled.get("type", "message") != "message":
        return {
            name: value for name, value in filled.items() if name != "status" and (name != "id" or "summary" in filled)
        }
    content = filled["content"]
    if isinstance(content, list) and len(content) == 1 and not content[0].get("annotations"):
        content = content[0].get("text", content)
    if isinstance(content, list):
        content = [{"detail": "auto", **each} if each["type"] == "input_image" else each for each in content]
    return {"role": ROLES[filled["role"]], "content": content}


def same_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Set ``strict`` to false where it is missing, as llmhub does."""
    unsaid = {"strict": False} if tool["type"] == "function" else {}
    return {**unsaid, **{name: value for name, value in tool.items() if value}}


def normal(body: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Normalize a body; ``store`` and ``include`` are llmhub's own choice where the recording has none."""
    chosen = {"store", "include"} - recorded.keys()
    fields = {name: value for name, value in body.items() if name not in chosen and (name, value) != ("stream", False)}
    turns = fields.get("input", "")
    items = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    fields["input"] = [same_item(item) for item in items]
    if "tools" in fields:
        fields["tools"] = [same_tool(tool) for tool in fields["tools"]]
    form = fields.get("text", {}).get("format", {})
    if form.get("type") == "json_schema":
        fields["text"] = {"format": {"strict": False, **form}}
    return fields


@pytest.mark.parametrize("name", ["azure_openai", "bedrock_mantle", "deepseek", "openai", "openrouter", "xai"])
def test_recorded_requests_are_encoded_equivalently(corpus: Callable[[str], list[Any]], name: str) -> None:
    provider = PROVIDERS[ROWS.get(name, "openai-responses")]
    endpoint = Endpoint(base_url="http://localhost", api_key="k")
    differing = []
    for exchange in corpus(f"{name}-responses"):
        recorded = {"model": exchange.model or "any", **exchange.request["body"]}
        request = parse_request(recorded, recorded["model"])
        prepared = prepare(provider, endpoint, request, 0.0, stream=exchange.streaming)
        sent = json.loads(prepared.unwrap().body) if is_successful(prepared) else {}
        if normal(sent, recorded) != normal(recorded, recorded):
            differing.append(exchange.id)
    assert differing == [id_ for id_ in NOT_ENCODABLE if id_.startswith(f"{name}.")]
