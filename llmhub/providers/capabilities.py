"""Capabilities of the providers: a table that is measured, not written by hand.

A cell compares a request that uses the capability with one that does not: the provider has it when both can be prepared
and their bodies differ. What a single model refuses is in the profiles of models; the models probed here are the ones
named.

``python -m llmhub.providers.capabilities`` rewrites the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from returns.pipeline import is_successful

from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, Provider
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmhub.providers.registry import PROVIDERS

PAGE_PATH: Final = Path(__file__).with_name("CAPABILITIES.md")
PROBE_MODELS: Final[Mapping[str, str]] = {
    "bedrock": "anthropic.claude-sonnet-4-5",
    "google": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
}
"""Models probed at providers whose payload depends on the model's family; elsewhere one that no profile knows."""

UNKNOWN_MODEL: Final = "any"
SCHEMA_PROBE_NAME: Final = "response_schema"
ENDPOINT: Final = Endpoint(base_url="http://localhost", api_key="k", project="p")
USER_MESSAGES: Final = (Message("user", "hi"),)
TOOL: Final = Tool("look", "Looks.", {"type": "object", "properties": {}})
TOOL_CALL_MESSAGES: Final = (*USER_MESSAGES, Message("assistant", ToolCall("c1", "look")))
PIXEL: Final = "iVBORw0KGgo="


@dataclass(frozen=True, slots=True)
class CapabilityProbe:
    """A capability, as the fields of a request that uses it and of one that does not."""

    name: str
    with_capability: Mapping[str, Any]
    without_capability: Mapping[str, Any] = field(default_factory=dict)


def _user_part(name: str, *parts: Part) -> CapabilityProbe:
    """Probe a part of a user message."""
    return CapabilityProbe(name, {"messages": (Message("user", (Text("hi"), *parts)),)})


def _with_tool(name: str, **fields: Any) -> CapabilityProbe:
    """Probe a field of a request that has a tool."""
    return CapabilityProbe(name, {"tools": (TOOL,), **fields}, {"tools": (TOOL,)})


def _tool_result(name: str, result: ToolResult) -> CapabilityProbe:
    """Probe the content of a tool's result."""
    text_result = Message("tool", ToolResult(result.id, "seen"))
    return CapabilityProbe(
        name,
        {"tools": (TOOL,), "messages": (*TOOL_CALL_MESSAGES, Message("tool", result))},
        {"tools": (TOOL,), "messages": (*TOOL_CALL_MESSAGES, text_result)},
    )


def _answer_part(name: str, part: Part) -> CapabilityProbe:
    """Probe a part of an earlier answer."""
    return CapabilityProbe(
        name,
        {"messages": (*USER_MESSAGES, Message("assistant", (part, Text("a"))))},
        {"messages": (*USER_MESSAGES, Message("assistant", (Text("a"),)))},
    )


PROBES: Final = (
    *(CapabilityProbe(name, {name: 0.25}) for name in ("temperature", "top_p")),
    CapabilityProbe("top_k", {"top_k": 3}),
    CapabilityProbe("max_tokens", {"max_tokens": 64}),
    CapabilityProbe("stop", {"stop": ("X",)}),
    CapabilityProbe("seed", {"seed": 7}),
    *(CapabilityProbe(name, {name: 0.25}) for name in ("presence_penalty", "frequency_penalty")),
    CapabilityProbe("n > 1", {"n": 2}),
    CapabilityProbe("logprobs", {"logprobs": 3}),
    CapabilityProbe("user", {"user": "u"}),
    CapabilityProbe("tools", {"tools": (TOOL,)}),
    *(_with_tool(f"tool_choice {choice}", tool_choice=choice) for choice in ("auto", "none", "required")),
    _with_tool("tool_choice by name", tool_choice="look"),
    _with_tool("parallel_tool_calls", parallel_tool_calls=False),
    _with_tool("strict tools", tools=(Tool("look", "Looks.", TOOL.parameters, strict=True),)),
    _tool_result("tool result: error", ToolResult("c1", "seen", is_error=True)),
    _tool_result("tool result: image", ToolResult("c1", (Text("seen"), Image(data=PIXEL, media_type="image/png")))),
    CapabilityProbe(SCHEMA_PROBE_NAME, {"response_schema": Schema({"type": "object", "properties": {}})}),
    CapabilityProbe("reasoning_effort", {"reasoning_effort": "low"}),
    CapabilityProbe("reasoning_budget", {"reasoning_budget": 2048, "max_tokens": 4096}, {"max_tokens": 4096}),
    _answer_part("earlier reasoning", Reasoning("hm", "s")),
    _answer_part("earlier reasoning, redacted", Reasoning(redacted="s")),
    _user_part("cache mark", CacheMark()),
    _user_part("image by URL", Image("https://example.org/a.png")),
    _user_part("image inline", Image(data=PIXEL, media_type="image/png")),
    _user_part("document by URL", Document("https://example.org/a.pdf", media_type="application/pdf")),
    _user_part("document inline", Document(data="AAAA", media_type="application/pdf", name="a")),
)


def probe_capabilities(providers: Mapping[str, Provider] = PROVIDERS) -> dict[str, dict[str, bool]]:
    """Return, for each provider, whether it has each capability of `PROBES`.

    Examples
    --------
    >>> found = probe_capabilities()
    >>> found["anthropic"]["top_k"], found["openai"]["top_k"]
    (True, False)
    """
    return {
        name: {probe.name: _has(provider, PROBE_MODELS.get(name, UNKNOWN_MODEL), probe) for probe in PROBES}
        for name, provider in providers.items()
    }


def _has(provider: Provider, model: str, probe: CapabilityProbe) -> bool:
    """Return whether both requests of a probe can be prepared and their bodies differ."""
    bodies = []
    for fields in (probe.with_capability, probe.without_capability):
        request = CompletionRequest(**{"model": model, "messages": USER_MESSAGES, **fields})
        prepared = prepare(provider, ENDPOINT, request, 0.0)
        if not is_successful(prepared):
            return False
        bodies.append(prepared.unwrap().body)
    return bodies[0] != bodies[1]


def _schema_cell(name: str) -> str:
    """Return how a provider enforces a schema, as the table shows it."""
    request = CompletionRequest(model=PROBE_MODELS.get(name, UNKNOWN_MODEL), messages=USER_MESSAGES)
    return {"native": "yes", "tool": "tool"}[PROVIDERS[name].structured_output_mode(request)]


def render_page() -> str:
    """Return the table as Markdown: a column for each group of equal providers, a row for each capability."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, capabilities in probe_capabilities().items():
        column = tuple(
            "-" if not has else _schema_cell(name) if probe == SCHEMA_PROBE_NAME else "yes"
            for probe, has in capabilities.items()
        )
        groups.setdefault(column, []).append(name)
    columns = list(groups)
    legend = [f"{number}. {', '.join(groups[column])}" for number, column in enumerate(columns, 1)]
    header = ["", *(str(number) for number in range(1, len(columns) + 1))]
    rows = [[probe.name, *(column[index] for column in columns)] for index, probe in enumerate(PROBES)]
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    models = "; ".join(f"`{name}/{model}`" for name, model in PROBE_MODELS.items())
    return "\n".join(
        [
            "# Capabilities of the providers",
            "",
            "Measured by `python -m llmhub.providers.capabilities`, which writes this page. A dash is refused before",
            'anything is sent (`Unsupported`); with `unsupported="drop"` the parameter is left out and listed in the',
            "result, unless it is content (an image, a document). Where a schema is enforced by a forced `tool` call,",
            "the response's `forced_tool` is true; single models of other providers may be asked that way too.",
            "",
            "Single models may refuse more: see `llmhub.metadata(model)`. Where the payload depends on the model's",
            f"family, these models were probed: {models}.",
            "",
            *legend,
            "",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE_PATH.write_text(render_page(), encoding="utf-8")
