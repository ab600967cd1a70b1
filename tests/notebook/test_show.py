"""Display of responses and results: escaped, truncated, limited in number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.core.types import (
    Choice,
    CompletionResponse,
    Document,
    Image,
    Opaque,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.formatting import html as html_module
from llmhub.formatting import text as text_module
from llmhub.sim import Simulator, serving

BOTH = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> <style>*{display:none}</style> </pre></td></table>"
    "\x1b[31mred\x1b]0;title\x07 \u202egnp.exe \u2067x \u200f\x9b2J \x00 \ud800 $x^2$ javascript:alert(3) ' \""
)


TAGS = {"div", "pre", "table", "thead", "tbody", "tr", "th", "td", "span", "bdi", "b", "details", "summary", "img"}

MARKDOWN_TAGS = {"p", "em", "strong", "code", "a", "ul", "ol", "li", "blockquote", "hr", "br", "h1", "h2", "h3", "h4"}
TAGS |= MARKDOWN_TAGS | {"h5", "h6"}


ATTRIBUTES = {"style", "class", "dir", "alt", "src", "href", "rel", "target", "title", "start"}


class ParsedHtml(HTMLParser):
    """Parser that collects tags, attributes and text."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "img":
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse_safe(html: str) -> ParsedHtml:
    """Assert that HTML has only allowed tags, attributes and styles; return the parsed HTML."""
    seen = ParsedHtml(html)
    assert seen.open == []
    assert set(seen.tags) <= TAGS
    assert set(seen.attributes) <= ATTRIBUTES
    assert all(source.startswith("data:image/") for source in seen.attributes.get("src", []))
    assert all(re.match("https?://", link) for link in seen.attributes.get("href", []))
    assert not any(
        "url(" in style or "expression" in style or "position" in style for style in seen.attributes["style"]
    )
    html.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    return seen


def assert_safe_line(line: str) -> None:
    """Assert that a text has no control characters."""
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]", line)
    line.encode()


def response_with(text: str) -> CompletionResponse:
    """Return a response with a text in every kind of part."""
    parts = (
        Text(text),
        Reasoning(text),
        Reasoning(redacted="x"),
        Refusal(text),
        ToolCall(text, text, text),
        ToolResult(text, text, text),
        ToolResult(text, (Text(text),), text),
        Image(url=text),
        Image(data=text, media_type="image/png"),
        Image(data="iVBORw0K", media_type="image/svg+xml"),
        Image(data="iVBORw0K", media_type="image/png"),
        Document(name=text),
        Opaque(text, text),
    )
    return CompletionResponse(
        parts=parts,
        finish_reason="other",
        served_model=text,
        request_id=text,
        usage=Usage(input_tokens=1200, cached_input_tokens=1000, output_tokens=3, reasoning_tokens=2),
        others=(Choice((Text(text),)),),
    )


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE * 5000, "", "שלום " * 100, "\r\n\t" * 10], ids=range(5))
def test_hostile_response_is_escaped(text: str) -> None:
    response = response_with(text)
    html = response._repr_html_()
    parse_safe(html)
    assert len(html) < 150_000
    assert_safe_line(repr(response))
    assert len(repr(response)) < 1500


@given(st.text(st.characters(), max_size=60))
def test_any_text_is_escaped(text: str) -> None:
    parse_safe(response_with(text)._repr_html_())
    assert_safe_line(repr(response_with(text)))
    assert_safe_line(text_module.single_line(text))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Cf"]), max_size=60))
def test_plain_text_is_unchanged(text: str) -> None:
    assert "".join(ParsedHtml(html_module.text_block(text)).text) == text


def test_response_html_has_all_parts() -> None:
    response = response_with("Hello")
    text = "".join(parse_safe(response._repr_html_()).text)
    for fact in (
        "Hello",
        "reasoning, 5 characters",
        "refused",
        "Hello(Hello)",
        "1,200 tokens in (1,000 cached)",
        "response 2",
    ):
        assert fact in text
    assert "no text" in CompletionResponse()._repr_html_()
    assert repr(CompletionResponse(parts=(Text("it's"),))) == "CompletionResponse('it\\'s')"


def test_text_is_isolated_from_bidi_and_mathjax() -> None:
    seen = ParsedHtml(html_module.text_block("x"))
    assert (seen.tags, seen.attributes["dir"]) == (["pre"], ["auto"])
    assert "mathjax_ignore" in seen.attributes["class"][0]
    assert ParsedHtml(html_module.inline_text("x")).tags == ["bdi"]


# Results


def respond(prompt: str) -> str:
    return HOSTILE * 5000 if "huge" in prompt else HOSTILE.replace("\ud800", "") if "hostile" in prompt else "Fine."


@pytest.fixture(scope="module")
def hub() -> Iterator[llmhub.Hub]:
    with serving(
        Simulator(seed=7, respond=lambda prompt: respond(prompt).encode("utf-8", "replace").decode())
    ) as served:
        retry = llmhub.Retry(attempts=1)
        with llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), retry=retry) as native:
            yield native


@pytest.fixture(scope="module")
def rows(hub: llmhub.Hub) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "t": ["hostile", "huge", None, "[[sim:500 always]]", "fine"],
            "own": [HOSTILE.replace("\ud800", ""), 1, None, {}, [1]],
        },
        index=[HOSTILE.replace("\ud800", ""), "b", "c", "d", "e"],
    )
    return llmhub.llm(frame).complete("Say {t}", model=BOTH, hub=hub, progress=False, columns=["error_type"])


def test_hostile_results_are_escaped(rows: pd.DataFrame) -> None:
    shown = llmhub.show(rows)
    seen = parse_safe(shown._repr_html_())
    for line in repr(shown).splitlines():
        assert_safe_line(line)
    text = "".join(seen.text)
    assert "10 rows, 2 models: 6 answers, 2 failed, 2 without an answer" in text
    assert "4,000 of" in text
    assert "skipped" in text
    assert "ServerError" in text
    assert len(shown._repr_html_()) < 200_000


def test_half_a_surrogate_pair_in_one_row_hides_no_other(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": pd.Series(["fine", "half \ud800", "fine too"], dtype=object)})
    answers = llmhub.llm(frame).complete("Say {t}", model=BOTH, hub=hub, progress=False)
    shown = llmhub.show(answers)
    text = "".join(parse_safe(shown._repr_html_()).text)
    assert "6 rows, 2 models: 4 answers, 2 failed" in text
    assert "half ?" in text
    repr(shown).encode()
    assert answers.llm.wide()["t"].tolist() == frame["t"].tolist()


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_show_accepts_any_frame(hub: llmhub.Hub, kind: str) -> None:
    frame: Any = {"t": ["one", "two"]}
    native = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}[kind](frame)
    answers = llmhub.llm(native).complete("Say {t}", model=BOTH, hub=hub, prefix="llm_", progress=False)
    shown = llmhub.llm(answers).show(rows=3, prefix="llm_")
    text = "".join(parse_safe(shown._repr_html_()).text)
    assert "4 rows, 2 models: 4 answers" in text
    assert "and 1 rows more" in text
    assert repr(shown).endswith("... and 1 rows more")
    assert "Fine." in text
    none = "".join(ParsedHtml(llmhub.show(answers, columns=[], prefix="llm_")._repr_html_()).text)
    assert "one" not in none


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_show_shows_the_label_of_each_model(make: Any) -> None:
    answers = make(
        {
            "t": ["fine"] * 2,
            "mood": ["up", "down"],
            "row": [0, 0],
            "provider": ["p", "q"],
            "model": ["a", "b"],
            "response": ['{"label": "up"}', '{"label": "down"}'],
            "status": ["ok", "ok"],
            "error": pa.nulls(2, pa.string()).to_pylist(),
        }
    )
    shown = llmhub.show(answers)
    lines = repr(shown).splitlines()[-2:]
    assert [line.split()[-1] for line in lines] == ["up", "down"]
    text = "".join(parse_safe(shown._repr_html_()).text)
    assert "{" not in text
    assert "mood" not in text
    assert text.count("fine") == 1


def test_show_rejects_other_frames(rows: pd.DataFrame) -> None:
    with pytest.raises(BadRequestError, match=r"^result: show needs results of llmhub, but .* no column 'provider'"):
        llmhub.show(pd.DataFrame({"t": ["a"]}))
    with pytest.raises(BadRequestError, match=r"^columns: 'x' is not a column of the frame"):
        llmhub.show(rows, columns=["x"])
    with pytest.raises(BadRequestError, match=r"^frame: "):
        llmhub.show(7)
    assert repr(llmhub.show(rows.iloc[:0])) == "0 rows"
    parse_safe(llmhub.show(rows.iloc[:0])._repr_html_())


def test_number_of_rows_is_limited(rows: pd.DataFrame) -> None:
    short = rows[rows["t"] == "fine"]
    large = short.iloc[np.tile(np.arange(len(short)), 10_000)]
    html = llmhub.show(large, rows=10_000)._repr_html_()
    assert html.count("<tr>") <= 1_010
    assert "and 19,000 rows more" in html


def test_plan_html(hub: llmhub.Hub) -> None:
    plan = llmhub.plan({"t": ["one", None]}, "Say {t}", model=BOTH, hub=hub)
    text = " ".join(parse_safe(plan._repr_html_()).text)
    assert "2 calls" in text
    assert all(model in text for model in BOTH)
