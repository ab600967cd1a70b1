"""The official ``anthropic`` client before the service: any model, plain and streamed, tools, schemas, errors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pydantic
import pytest

from llmhub.server.running import RunningService

MODELS = ("anthropic/claude-haiku-4-5", "openai/gpt-4o-mini", "google/gemini-2.5-flash", "openai-responses/gpt-5-mini")
WEATHER: Any = {
    "name": "get_weather",
    "description": "Return the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PIXEL = base64.b64encode(bytes(range(64))).decode()


@pytest.fixture
def client(serving: Callable[..., RunningService]) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=serving().url, api_key="any", max_retries=0) as made:
        yield made


def blocks_of(reply: Any, kind: str) -> list[Any]:
    return [block for block in reply.content if block.type == kind]


class Answer(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("model", MODELS)
class TestAnyModel:
    def test_message(self, client: anthropic.Anthropic, model: str) -> None:
        reply = client.messages.create(
            model=model,
            max_tokens=500,
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            messages=[{"role": "user", "content": "Say hi"}],
        )
        assert (reply.model, reply.stop_reason, len(blocks_of(reply, "text"))) == (model, "end_turn", 1)
        assert reply.usage.input_tokens > 0
        assert reply.usage.output_tokens > 0

    def test_stream_equals_the_message(self, client: anthropic.Anthropic, model: str) -> None:
        request: Any = {
            "model": model,
            "max_tokens": 500,
            "messages": [{"role": "user", "content": "Tell me a story of two sentences."}],
        }
        plain = client.messages.create(**request)
        with client.messages.stream(**request) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert text == blocks_of(plain, "text")[0].text
        assert [block.type for block in final.content] == [block.type for block in plain.content]
        assert (final.stop_reason, final.usage.output_tokens) == (plain.stop_reason, plain.usage.output_tokens)
        assert final.usage.input_tokens == plain.usage.input_tokens

    def test_tools(self, client: anthropic.Anthropic, model: str) -> None:
        messages: Any = [{"role": "user", "content": "Weather in Oslo? [[sim:tool get_weather]]"}]
        reply = client.messages.create(model=model, max_tokens=500, messages=messages, tools=[WEATHER])
        calls = blocks_of(reply, "tool_use")
        assert reply.stop_reason == "tool_use"
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "12 degrees"} for call in calls]
        messages += [
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": [*results, {"type": "text", "text": "Go on."}]},
        ]
        again = client.messages.create(model=model, max_tokens=500, messages=messages, tools=[WEATHER])
        assert blocks_of(again, "text")

    def test_streamed_tools_equal_plain_ones(self, client: anthropic.Anthropic, model: str) -> None:
        request: Any = {
            "model": model,
            "max_tokens": 500,
            "messages": [{"role": "user", "content": "[[sim:tool get_weather]]"}],
            "tools": [WEATHER],
            "tool_choice": {"type": "any"},
        }
        plain = client.messages.create(**request)
        with client.messages.stream(**request) as stream:
            final = stream.get_final_message()
        calls = [(call.name, call.input) for call in blocks_of(final, "tool_use")]
        assert calls == [(call.name, call.input) for call in blocks_of(plain, "tool_use")] != []

    def test_structured_output(self, client: anthropic.Anthropic, model: str) -> None:
        reply = client.messages.parse(
            model=model,
            max_tokens=500,
            messages=[{"role": "user", "content": "Weather in Oslo?"}],
            output_format=Answer,
        )
        assert isinstance(reply.parsed_output, Answer)

    def test_image(self, client: anthropic.Anthropic, model: str) -> None:
        source: Any = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
        reply = client.messages.create(model=model, max_tokens=500, messages=[{"role": "user", "content": content}])
        assert blocks_of(reply, "text")

    def test_count_tokens(self, client: anthropic.Anthropic, model: str) -> None:
        counted = client.messages.count_tokens(model=model, messages=[{"role": "user", "content": "Say hi to me"}])
        assert 3 <= counted.input_tokens <= 30


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "error", "kind", "path"),
        [
            ({"model": "openai/does-not-exist-1"}, anthropic.NotFoundError, "not_found_error", ""),
            ({"model": "nobody/x"}, anthropic.BadRequestError, "invalid_request_error", "model"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
                anthropic.BadRequestError,
                "invalid_request_error",
                "$.messages[0].content[0]",
            ),
            (
                {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
                anthropic.BadRequestError,
                "invalid_request_error",
                "$.tools[0]",
            ),
            (
                {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "document", "source": {"type": "url", "url": "http://10.0.0.8/x.pdf"}}
                            ],
                        }
                    ]
                },
                anthropic.BadRequestError,
                "invalid_request_error",
                "$.messages[0].content[0].source",
            ),
            (
                {"messages": [{"role": "user", "content": "[[sim:quota]]"}]},
                anthropic.APIStatusError,
                "billing_error",
                "",
            ),
        ],
    )
    def test_refusals_have_the_shape_of_the_api(
        self,
        client: anthropic.Anthropic,
        change: dict[str, Any],
        error: type[anthropic.APIStatusError],
        kind: str,
        path: str,
    ) -> None:
        request: Any = {
            "model": "openai/gpt-4o-mini",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "x"}],
            **change,
        }
        with pytest.raises(error) as caught:
            client.messages.create(**request)
        body: Any = caught.value.body
        assert body["type"] == "error"
        assert body["error"]["type"] == kind
        assert path in body["error"]["message"]
        assert body["request_id"]


async def test_async_client(serving: Callable[..., RunningService]) -> None:
    async with anthropic.AsyncAnthropic(base_url=serving().url, api_key="any", max_retries=0) as client:

        async def ask(number: int) -> str:
            async with client.messages.stream(
                model=MODELS[number % 2], max_tokens=50, messages=[{"role": "user", "content": f"Say {number}"}]
            ) as stream:
                return "".join([text async for text in stream.text_stream])

        assert all(await asyncio.gather(*map(ask, range(8))))
