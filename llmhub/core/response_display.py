"""Responses for display: HTML in a notebook, one line in a terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from llmhub.core.recording import is_recording
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
from llmhub.formatting.html import (
    DIM_STYLE,
    Html,
    blockquote,
    code_block,
    collapsible,
    container,
    facts_line,
    inline_text,
    markdown_block,
    text_block,
)
from llmhub.formatting.text import MAX_LINE_LENGTH, single_line

DISPLAYED_IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
PLAYED_AUDIO_TYPES: Final = frozenset({"audio/wav", "audio/mpeg", "audio/aac", "audio/flac", "audio/ogg"})
BASE64_MEDIA: Final = re.compile(r"[A-Za-z0-9+/]{1,8000000}={0,2}")
"""Data of an image or a recording small enough to be embedded."""
IMAGE_STYLE: Final = "max-width:32em;max-height:32em;margin:4px 0"


def response_html(response: CompletionResponse, facts: Sequence[str] | None = None) -> Html:
    """Return the parts of a response and, below them, its model, tokens and id."""
    parts = [_part_html(part) for part in response.parts]
    others = [
        collapsible(f"response {number}", Html("".join(map(_part_html, choice.parts))))
        for number, choice in enumerate(response.others, start=2)
    ]
    no_text = Html(f'<div style="{DIM_STYLE}">no text</div>')
    return container(
        blockquote(*(parts or [no_text])),
        *others,
        facts_line(list(response_facts(response) if facts is None else facts)),
    )


def response_repr(response: CompletionResponse, facts: Sequence[str] | None = None) -> str:
    r"""Return a response as one line, control characters replaced.

    Examples
    --------
    >>> response_repr(CompletionResponse(parts=(Text("Hi\nthere"),), usage=Usage(input_tokens=3, output_tokens=1)))
    "CompletionResponse('Hi⏎there', 3 tokens in, 1 out)"
    """
    text = response.text
    quoted = "'" + single_line(text).replace("'", "\\'") + "'"
    length = [f"{len(text):,} characters"] if len(text) > MAX_LINE_LENGTH else []
    refusal = [f"refused: {single_line(response.refusal)!r}"] if response.refusal else []
    images = len(response.images)
    media = [f"{images} image{'s' if images > 1 else ''}"] if images else []
    media += ["a recording"] if any(map(is_recording, response.parts)) else []
    calls = [f"calls {single_line(call.name, 60)}" for call in response.tool_calls]
    shown = [single_line(fact, 80) for fact in (response_facts(response) if facts is None else facts)]
    return f"{type(response).__name__}({', '.join([quoted, *length, *media, *refusal, *calls, *shown])})"


def response_facts(response: CompletionResponse) -> list[str]:
    """Return model, finish reason unless it is ``stop``, token counts and request id, as far as they are known."""
    finish = "" if response.finish_reason == "stop" else f"finish reason: {response.finish_reason}"
    facts = (response.served_model, finish, *_usage_facts(response.usage), response.request_id)
    return [fact for fact in facts if fact]


def _usage_facts(usage: Usage) -> list[str]:
    """Return the token counts.

    Examples
    --------
    >>> _usage_facts(Usage(input_tokens=1200, cached_input_tokens=1024, output_tokens=34))
    ['1,200 tokens in (1,024 cached)', '34 out']
    """
    facts = []
    if usage.input_tokens is not None:
        cached = f" ({usage.cached_input_tokens:,} cached)" if usage.cached_input_tokens else ""
        facts.append(f"{usage.input_tokens:,} tokens in{cached}")
    if usage.output_tokens is not None:
        reasoning = f" ({usage.reasoning_tokens:,} reasoning)" if usage.reasoning_tokens else ""
        facts.append(f"{usage.output_tokens:,} out{reasoning}")
    return facts


def _part_html(part: Part) -> Html:
    render = PART_RENDERERS.get(type(part))
    return render(part) if render is not None else Html("")  # log probabilities and cache marks have no text


def _image_html(part: Image) -> Html:
    """Embed image data; an image given by URL is named, but not fetched."""
    if part.data and part.media_type in DISPLAYED_IMAGE_TYPES and BASE64_MEDIA.fullmatch(part.data):
        return Html(f'<img alt="" style="{IMAGE_STYLE}" src="data:{part.media_type};base64,{part.data}">')
    return _labelled("image", part.url or part.media_type)


def _document_html(part: Document) -> Html:
    """Embed a recording; any other file is named."""
    if part.media_type in PLAYED_AUDIO_TYPES and BASE64_MEDIA.fullmatch(part.data):
        return Html(f'<audio controls src="data:{part.media_type};base64,{part.data}"></audio>')
    return _labelled("document", part.name or part.url or part.media_type)


def _labelled(kind: str, name: str) -> Html:
    return Html(f'<div style="{DIM_STYLE}">{kind} {inline_text(name)}</div>')


def _reasoning_html(part: Reasoning) -> Html:
    text = part.text or "(not shown by the provider)"
    return collapsible(f"reasoning, {len(part.text):,} characters", text_block(text))


def _refusal_html(part: Refusal) -> Html:
    return Html(f"<div><b>refused</b> {text_block(part.text)}</div>")


def _tool_call_html(part: ToolCall) -> Html:
    return Html(f"<div>{code_block(f'{part.name}({part.arguments})')}</div>")


def _tool_result_html(part: ToolResult) -> Html:
    text = part.content if isinstance(part.content, str) else f"{len(part.content)} parts"
    return collapsible(f"result of {part.name or part.id}", code_block(text))


PART_RENDERERS: Final[Mapping[type, Callable[[Any], Html]]] = {
    Text: lambda part: markdown_block(part.text),
    Image: _image_html,
    Document: _document_html,
    ToolCall: _tool_call_html,
    ToolResult: _tool_result_html,
    Reasoning: _reasoning_html,
    Refusal: _refusal_html,
    Opaque: lambda part: collapsible(part.kind, code_block(part.data)),
}
"""HTML of each type of part."""
