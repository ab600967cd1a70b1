"""The official ``openai`` client before the service: any model, plain and streamed, tools, schemas, images, errors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from llmhub.server.running import RunningService

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash", "bedrock/amazon.nova-pro-v1:0")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PIXEL = f"data:image/png;base64,{base64.b64encode(bytes(range(64))).decode()}"


@pytest.fixture
def client(serving: Callable[..., RunningService]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serving().url}/v1", api_key="any", max_retries=0) as made:
        yield made


class Answer(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("model", MODELS)
class TestAnyModel:
    def test_completion(self, client: openai.OpenAI, model: str) -> None:
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi"}]
        )
        assert reply.model == model
        assert reply.choices[0].message.content
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0

    def test_stream_equals_the_completion(self, client: openai.OpenAI, model: str) -> None:
        messages: Any = [{"role": "user", "content": "Tell me a story of two sentences."}]
        plain = client.chat.completions.create(model=model, messages=messages)
        chunks = list(
            client.chat.completions.create(
                model=model, messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == plain.choices[0].message.content
        assert chunks[-1].usage == plain.usage
        assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason

    def test_tools(self, client: openai.OpenAI, model: str) -> None:
        messages: Any = [{"role": "user", "content": "Weather in Oslo? [[sim:tool get_weather]]"}]
        reply = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])  # type: ignore[list-item]
        assert reply.choices[0].finish_reason == "tool_calls"
        calls = reply.choices[0].message.tool_calls
        assert calls
        messages += [
            reply.choices[0].message,
            {"role": "tool", "tool_call_id": calls[0].id, "content": "12 degrees"},
        ]
        again = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER])  # type: ignore[list-item]
        assert again.choices[0].message.content

    def test_streamed_tools_equal_plain_ones(self, client: openai.OpenAI, model: str) -> None:
        request: Any = {
            "model": model,
            "messages": [{"role": "user", "content": "[[sim:tool get_weather]]"}],
            "tools": [WEATHER],
            "tool_choice": "required",
        }
        plain = client.chat.completions.create(**request).choices[0].message.tool_calls
        with client.chat.completions.stream(**request) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls
        assert plain
        assert streamed
        assert [each.function.arguments for each in streamed] == [each.function.arguments for each in plain]

    def test_structured_output(self, client: openai.OpenAI, model: str) -> None:
        reply = client.chat.completions.parse(
            model=model, messages=[{"role": "user", "content": "Weather in Oslo?"}], response_format=Answer
        )
        assert isinstance(reply.choices[0].message.parsed, Answer)

    def test_image(self, client: openai.OpenAI, model: str) -> None:
        content: Any = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
        reply = client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
        assert reply.choices[0].message.content


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "error", "path"),
        [
            ({"model": "openai/does-not-exist-1"}, openai.NotFoundError, ""),
            ({"model": "nobody/x"}, openai.BadRequestError, "model"),
            ({"messages": []}, openai.BadRequestError, "messages"),
            ({"messages": [{"role": "robot", "content": "x"}]}, openai.BadRequestError, "messages[0].role"),
            ({"messages": [{"role": "user", "content": 7}]}, openai.BadRequestError, "messages[0].content"),
            ({"temperature": "hot"}, openai.BadRequestError, "temperature"),
            ({"temperature": 9}, openai.BadRequestError, "temperature"),
            ({"n": 0}, openai.BadRequestError, "n"),
            (
                {"model": "anthropic/claude-haiku-4-5", "logit_bias": {"5": 1}},
                openai.BadRequestError,
                "logit_bias",
            ),
            (
                {
                    "model": "anthropic/claude-haiku-4-5",
                    "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
                },
                openai.BadRequestError,
                "messages[0].content[0]",
            ),
        ],
    )
    def test_refusals_name_the_place(
        self, client: openai.OpenAI, change: dict[str, Any], error: type[openai.APIStatusError], path: str
    ) -> None:
        request: Any = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], **change}
        extra = {name: request.pop(name) for name in ("temperature", "n") if name in request}
        with pytest.raises(error) as caught:
            client.chat.completions.create(**request, extra_body=extra)
        assert (caught.value.param or "") == path  # type: ignore[attr-defined]
        assert caught.value.request_id

    @pytest.mark.parametrize(
        "url",
        [
            "/etc/passwd",
            "file:///etc/passwd",
            "http://127.0.0.1:8000/x.png",
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:10.0.0.1]/x",
            "http://2130706433/x",
            "http://0x7f.1/x",
            "https://redis/x.png",
            "https://a@example.com/x.png",
            "gs://bucket/x.png",
            "http://\N{FULLWIDTH DIGIT ONE}27.0.0.1/",
        ],
    )
    def test_addresses_of_files_and_private_networks_are_refused(self, client: openai.OpenAI, url: str) -> None:
        content: Any = [{"type": "image_url", "image_url": {"url": url}}]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="openai/gpt-4o-mini", messages=[{"role": "user", "content": content}])
        assert caught.value.param == "messages[0].content[0].image_url.url"

    def test_error_of_the_provider_before_the_stream_has_a_status(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(
                model="openai/gpt-4o-mini",
                messages=[{"role": "user", "content": "[[sim:quota]]"}],
                stream=True,
            )
        assert caught.value.code == "insufficient_quota"


async def test_async_client(serving: Callable[..., RunningService]) -> None:
    async with openai.AsyncOpenAI(base_url=f"{serving().url}/v1", api_key="any", max_retries=0) as client:

        async def ask(number: int) -> str:
            stream = await client.chat.completions.create(
                model=MODELS[number % 2], messages=[{"role": "user", "content": f"Say {number}"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        assert all(await asyncio.gather(*map(ask, range(8))))
