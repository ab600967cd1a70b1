"""A response as a person is shown it: HTML for a notebook, a line for a terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmhub.core.types import (
    CompletionResponse,
    Document,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.formatting import html
from llmhub.formatting import text as text_module
from llmhub.formatting.html import Html

DISPLAYED_IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


BASE64_IMAGE: Final = re.compile(r"[A-Za-z0-9+/]{1,8000000}={0,2}")
"""Bytes of a picture that is small enough to be shown."""


IMAGE_STYLE: Final = "max-width:32em;max-height:32em;margin:4px 0"


def response_html(response: CompletionResponse) -> Html:
    """Show a response: what was said, what was thought and called, and below it the facts."""
    parts = [_part_html(part) for part in response.parts]
    others = [
        html.collapsible(f"answer {at + 2}", Html("".join(_part_html(part) for part in choice.parts)))
        for at, choice in enumerate(response.others)
    ]
    empty = Html(f'<div style="{html.DIM_STYLE}">no text</div>')
    return html.container(html.blockquote(*(parts or [empty])), *others, html.facts_line(response_facts(response)))


def response_repr(response: CompletionResponse) -> str:
    r"""Show a response as one line of a terminal.

    Examples
    --------
    >>> response_repr(CompletionResponse(parts=(Text("Hi\nthere"),), usage=Usage(input_tokens=3, output_tokens=1)))
    "CompletionResponse('Hi⏎there', 3 tokens in, 1 out)"
    """
    text = response.text
    calls = [f"calls {text_module.single_line(call.name, 60)}" for call in response.tool_calls]
    refusal = [f"refused: {text_module.single_line(response.refusal)!r}"] if response.refusal else []
    size = [f"{len(text):,} characters"] if len(text) > text_module.MAX_LINE_LENGTH else []
    facts = [text_module.single_line(fact, 80) for fact in response_facts(response)]
    shown = "'" + text_module.single_line(text).replace("'", "\\'") + "'"
    return f"CompletionResponse({', '.join([shown, *size, *refusal, *calls, *facts])})"


def response_facts(response: CompletionResponse) -> list[str]:
    """Say what is known of a response besides its text."""
    ended = "" if response.finish_reason == "stop" else f"ended: {response.finish_reason}"
    return [fact for fact in (response.served_model, ended, *_usage_facts(response.usage), response.request_id) if fact]


def _usage_facts(usage: Usage) -> list[str]:
    """Say what was read and written.

    Examples
    --------
    >>> _usage_facts(Usage(input_tokens=1200, cached_input_tokens=1024, output_tokens=34))
    ['1,200 tokens in (1,024 cached)', '34 out']
    """
    said = []
    if usage.input_tokens is not None:
        cached = f" ({usage.cached_input_tokens:,} cached)" if usage.cached_input_tokens else ""
        said.append(f"{usage.input_tokens:,} tokens in{cached}")
    if usage.output_tokens is not None:
        reasoned = f" ({usage.reasoning_tokens:,} reasoning)" if usage.reasoning_tokens else ""
        said.append(f"{usage.output_tokens:,} out{reasoned}")
    return said


def _part_html(part: Part) -> Html:
    return PART_RENDERERS[type(part)](part)


def _image_html(part: Image) -> Html:
    """Draw a picture that is here; one elsewhere is not fetched, only named."""
    if part.data and part.media_type in DISPLAYED_IMAGE_TYPES and BASE64_IMAGE.fullmatch(part.data):
        return Html(f'<img alt="" style="{IMAGE_STYLE}" src="data:{part.media_type};base64,{part.data}">')
    return _labelled("picture", part.url or part.media_type)


def _labelled(kind: str, name: str) -> Html:
    return Html(f'<div style="{html.DIM_STYLE}">{kind} {html.inline_text(name)}</div>')


def _reasoning_html(part: Reasoning) -> Html:
    text = part.text or "(not shown by the provider)"
    return html.collapsible(f"reasoning, {len(part.text):,} characters", html.text_block(text))


def _refusal_html(part: Refusal) -> Html:
    return Html(f"<div><b>refused</b> {html.text_block(part.text)}</div>")


def _tool_call_html(part: ToolCall) -> Html:
    return Html(f"<div>{html.code_block(f'{part.name}({part.arguments})')}</div>")


def _tool_result_html(part: ToolResult) -> Html:
    text = part.content if isinstance(part.content, str) else f"{len(part.content)} parts"
    return html.collapsible(f"result of {part.name or part.id}", html.code_block(text))


PART_RENDERERS: Final[Mapping[type, Callable[[Any], Html]]] = {
    Text: lambda part: html.text_block(part.text),
    Image: _image_html,
    Document: lambda part: _labelled("document", part.name or part.url or part.media_type),
    ToolCall: _tool_call_html,
    ToolResult: _tool_result_html,
    Reasoning: _reasoning_html,
    Refusal: _refusal_html,
    Opaque: lambda part: html.collapsible(part.kind, html.code_block(part.data)),
}
"""How each kind of part is shown."""
