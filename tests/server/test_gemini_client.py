"""The official ``google-genai`` client before the service: any model, plain and streamed, tools, schemas, errors."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pytest
from google import genai
from google.genai import errors, types

from llmhub.core.errors import ServerError
from llmhub.core.stream import Fragment
from llmhub.core.types import Text
from llmhub.server.dialects import gemini
from llmhub.server.dialects.dialect import ReplyInfo
from llmhub.server.running import RunningService

MODELS = ("google/gemini-2.5-flash", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5")
WEATHER = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="get_weather",
            description="Return the weather.",
            parameters_json_schema={
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        )
    ]
)


class Answer(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture
def client(serving: Callable[..., RunningService]) -> Iterator[genai.Client]:
    with genai.Client(api_key="any", http_options=types.HttpOptions(base_url=serving().url)) as made:
        yield made


@pytest.mark.parametrize("model", MODELS)
class TestAnyModel:
    def test_content(self, client: genai.Client, model: str) -> None:
        reply = client.models.generate_content(
            model=model, contents="Say hi", config=types.GenerateContentConfig(system_instruction="Be brief.")
        )
        assert reply.text
        assert reply.candidates
        assert reply.candidates[0].finish_reason == types.FinishReason.STOP
        assert reply.usage_metadata
        assert reply.usage_metadata.total_token_count
        assert reply.model_version == model

    def test_stream_without_alt_is_one_json_array(self, serving: Callable[..., RunningService], model: str) -> None:
        url = f"{serving().url}/v1beta/models/{model}:streamGenerateContent"
        texts = []
        for query in ("", "?alt=json", "?alt=sse"):
            body = b'{"contents": [{"role": "user", "parts": [{"text": "Tell me a story of two sentences."}]}]}'
            request = urllib.request.Request(url + query, body, {"content-type": "application/json"})
            with urllib.request.urlopen(request) as reply:
                content, kind = reply.read().decode(), reply.headers["content-type"]
            is_array = query != "?alt=sse"
            assert kind == ("application/json" if is_array else "text/event-stream")
            chunks = json.loads(content if is_array else f"[{content.replace('data: ', ',')[1:]}]")
            assert len(chunks) > 1
            assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
            parts = [part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
            texts.append("".join(part.get("text", "") for part in parts))
        assert texts[0] == texts[1] == texts[2] != ""

    def test_stream_equals_the_content(self, client: genai.Client, model: str) -> None:
        contents = "Tell me a story of two sentences."
        plain = client.models.generate_content(model=model, contents=contents)
        chunks = list(client.models.generate_content_stream(model=model, contents=contents))
        assert "".join(chunk.text or "" for chunk in chunks) == plain.text
        assert chunks[-1].usage_metadata == plain.usage_metadata

    def test_tools(self, client: genai.Client, model: str) -> None:
        config = types.GenerateContentConfig(
            tools=[WEATHER], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
        )
        question = types.Content(role="user", parts=[types.Part(text="Weather in Oslo? [[sim:tool get_weather]]")])
        reply = client.models.generate_content(model=model, contents=[question], config=config)
        assert reply.function_calls
        assert reply.candidates
        call = reply.function_calls[0]
        assert "city" in (call.args or {})
        result = types.Part(
            function_response=types.FunctionResponse(id=call.id, name=call.name, response={"output": "12 degrees"})
        )
        contents: Any = [question, reply.candidates[0].content, types.Content(role="user", parts=[result])]
        again = client.models.generate_content(model=model, contents=contents, config=config)
        assert again.text
        streamed = list(client.models.generate_content_stream(model=model, contents=[question], config=config))
        assert [each.args for chunk in streamed for each in chunk.function_calls or ()] == [
            each.args for each in reply.function_calls
        ]

    def test_structured_output(self, client: genai.Client, model: str) -> None:
        config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Answer)
        reply = client.models.generate_content(model=model, contents="Weather in Oslo?", config=config)
        assert isinstance(reply.parsed, Answer)

    def test_image(self, client: genai.Client, model: str) -> None:
        image = types.Part.from_bytes(data=bytes(range(64)), mime_type="image/png")
        assert client.models.generate_content(model=model, contents=["What is it?", image]).text

    def test_count_tokens(self, client: genai.Client, model: str) -> None:
        assert client.models.count_tokens(model=model, contents="Say hi to me").total_tokens in range(3, 30)


@pytest.mark.parametrize(
    ("model", "contents", "status", "message"),
    [
        ("nobody/x", "x", "INVALID_ARGUMENT", "nobody"),
        ("openai/does-not-exist-1", "x", "NOT_FOUND", "does-not-exist"),
        ("openai/gpt-4o-mini", "[[sim:quota]]", "RESOURCE_EXHAUSTED", "openai"),
        (
            "openai/gpt-4o-mini",
            types.Part.from_uri(file_uri="gs://bucket/x.png", mime_type="image/png"),
            "INVALID_ARGUMENT",
            "$.contents[0].parts[0].fileData.fileUri",
        ),
    ],
)
def test_errors_have_the_shape_of_the_api(
    client: genai.Client, model: str, contents: Any, status: str, message: str
) -> None:
    with pytest.raises(errors.APIError) as caught:
        client.models.generate_content(model=model, contents=contents)
    assert caught.value.status == status
    assert message in str(caught.value.message)


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # of google-genai itself
async def test_async_client(serving: Callable[..., RunningService]) -> None:
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=serving().url))
    async with client.aio as asynchronous:

        async def ask(number: int) -> str:
            stream = await asynchronous.models.generate_content_stream(
                model=MODELS[number % 2], contents=f"Say {number}"
            )
            return "".join([chunk.text or "" async for chunk in stream])

        assert all(await asyncio.gather(*map(ask, range(6))))
    client.close()


@pytest.mark.parametrize("fed", [0, 2])
def test_error_is_the_last_item_of_an_array(fed: int) -> None:
    stream = gemini.ARRAY_DIALECT.open_stream(ReplyInfo(id="r", model="m"))
    content = b"".join(stream.feed([Fragment(0, Text(f"piece {number}"))]) for number in range(fed))
    *pieces, last = json.loads(content + stream.fail(ServerError(message="cut off"), 502))
    assert len(pieces) == fed
    assert (last["error"]["code"], last["error"]["message"]) == (502, "cut off")
