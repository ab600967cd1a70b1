"""Responses of the official ``openai`` client before the service: any model, plain and streamed, tools, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from llmhub.server.running import RunningService

MODELS = ("openai-responses/gpt-5-mini", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash")
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Return the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Answer(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture
def client(serving: Callable[..., RunningService]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serving().url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", MODELS)
class TestAnyModel:
    def test_response(self, client: openai.OpenAI, model: str) -> None:
        reply = client.responses.create(model=model, instructions="Be brief.", input="Say hi")
        assert (reply.model, reply.status) == (model, "completed")
        assert reply.output_text
        assert reply.usage
        assert reply.usage.total_tokens > 0

    def test_stream_equals_the_response(self, client: openai.OpenAI, model: str) -> None:
        request: Any = {"model": model, "input": "Tell me a story of two sentences."}
        plain = client.responses.create(**request)
        with client.responses.stream(**request) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
        assert text == plain.output_text == final.output_text
        assert final.usage == plain.usage
        assert [item.type for item in final.output] == [item.type for item in plain.output]

    def test_tools(self, client: openai.OpenAI, model: str) -> None:
        items: Any = [{"role": "user", "content": "Weather in Oslo? [[sim:tool get_weather]]"}]
        request: Any = {"model": model, "tools": [WEATHER]}
        reply = client.responses.create(input=items, **request)
        calls = [item for item in reply.output if item.type == "function_call"]
        assert calls
        with client.responses.stream(input=items, **request) as stream:
            streamed = [item for item in stream.get_final_response().output if item.type == "function_call"]
        assert [call.arguments for call in streamed] == [call.arguments for call in calls]
        results = [{"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"} for call in calls]
        sent = [item.model_dump(exclude_none=True) for item in reply.output]
        again = client.responses.create(input=[*items, *sent, *results], **request)
        assert again.output_text

    def test_structured_output(self, client: openai.OpenAI, model: str) -> None:
        reply = client.responses.parse(model=model, input="Weather in Oslo?", text_format=Answer)
        assert isinstance(reply.output_parsed, Answer)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_of_somebody"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.1.1.1/a.png"}]}]},
            "input[0].content[0].image_url",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    request: Any = {"model": "openai/gpt-4o-mini", "input": "x", **change}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**request)
    assert caught.value.param == param
