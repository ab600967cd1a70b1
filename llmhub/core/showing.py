"""A response as a person is shown it: HTML for a notebook, a line for a terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmhub.core import markup
from llmhub.core.markup import Html
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

DRAWN: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
BASE64: Final = re.compile(r"[A-Za-z0-9+/]{1,8000000}={0,2}")
"""Bytes of a picture that is small enough to be shown."""
PICTURE: Final = "max-width:32em;max-height:32em;margin:4px 0"


def response_html(response: CompletionResponse) -> Html:
    """Show a response: what was said, what was thought and called, and below it the facts."""
    parts = [_part(part) for part in response.parts]
    others = [
        markup.folded(f"answer {at + 2}", Html("".join(_part(part) for part in choice.parts)))
        for at, choice in enumerate(response.others)
    ]
    empty = Html(f'<div style="{markup.DIM}">no text</div>')
    return markup.whole(markup.quote(*(parts or [empty])), *others, markup.facts(facts_of(response)))


def response_line(response: CompletionResponse) -> str:
    r"""Show a response as one line of a terminal.

    Examples
    --------
    >>> response_line(CompletionResponse(parts=(Text("Hi\nthere"),), usage=Usage(input_tokens=3, output_tokens=1)))
    "CompletionResponse('Hi⏎there', 3 tokens in, 1 out)"
    """
    text = response.text
    calls = [f"calls {markup.line_of(call.name, 60)}" for call in response.tool_calls]
    refusal = [f"refused: {markup.line_of(response.refusal)!r}"] if response.refusal else []
    size = [f"{len(text):,} characters"] if len(text) > markup.LINE else []
    facts = [markup.line_of(fact, 80) for fact in facts_of(response)]
    shown = "'" + markup.line_of(text).replace("'", "\\'") + "'"
    return f"CompletionResponse({', '.join([shown, *size, *refusal, *calls, *facts])})"


def facts_of(response: CompletionResponse) -> list[str]:
    """Say what is known of a response besides its text."""
    ended = "" if response.finish_reason == "stop" else f"ended: {response.finish_reason}"
    return [fact for fact in (response.served_model, ended, *_used(response.usage), response.request_id) if fact]


def _used(usage: Usage) -> list[str]:
    """Say what was read and written.

    Examples
    --------
    >>> _used(Usage(input_tokens=1200, cached_input_tokens=1024, output_tokens=34))
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


def _part(part: Part) -> Html:
    return PARTS[type(part)](part)


def _image(part: Image) -> Html:
    """Draw a picture that is here; one elsewhere is not fetched, only named."""
    if part.data and part.media_type in DRAWN and BASE64.fullmatch(part.data):
        return Html(f'<img alt="" style="{PICTURE}" src="data:{part.media_type};base64,{part.data}">')
    return _named("picture", part.url or part.media_type)


def _named(kind: str, name: str) -> Html:
    return Html(f'<div style="{markup.DIM}">{kind} {markup.inline(name)}</div>')


def _thought(part: Reasoning) -> Html:
    text = part.text or "(not shown by the provider)"
    return markup.folded(f"reasoning, {len(part.text):,} characters", markup.said(text))


def _declined(part: Refusal) -> Html:
    return Html(f"<div><b>refused</b> {markup.said(part.text)}</div>")


def _called(part: ToolCall) -> Html:
    return Html(f"<div>{markup.code(f'{part.name}({part.arguments})')}</div>")


def _answered(part: ToolResult) -> Html:
    text = part.content if isinstance(part.content, str) else f"{len(part.content)} parts"
    return markup.folded(f"result of {part.name or part.id}", markup.code(text))


PARTS: Final[Mapping[type, Callable[[Any], Html]]] = {
    Text: lambda part: markup.said(part.text),
    Image: _image,
    Document: lambda part: _named("document", part.name or part.url or part.media_type),
    ToolCall: _called,
    ToolResult: _answered,
    Reasoning: _thought,
    Refusal: _declined,
    Opaque: lambda part: markup.folded(part.kind, markup.code(part.data)),
}
"""How each kind of part is shown."""
