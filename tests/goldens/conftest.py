"""The recorded values of `tests/goldens`, and the seeded requests they were recorded for."""

from __future__ import annotations

import json
import os
import random
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmhub.core.provider import Endpoint
from llmhub.core.types import (
    CacheMark,
    Choice,
    CompletionRequest,
    CompletionResponse,
    Document,
    Image,
    Logprobs,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.providers.registry import PROVIDERS

HERE = Path(__file__).parent
LETTERS = string.ascii_letters + string.digits + " \n\"\\/{}<>&'éßπ漢😀\u2028"
RECORDED_PROVIDERS = (
    "anthropic",
    "azure",
    "azure-responses",
    "bedrock",
    "cerebras",
    "compatible",
    "databricks",
    "deepseek",
    "fireworks",
    "google",
    "groq",
    "huggingface",
    "mistral",
    "ollama",
    "ollama-native",
    "openai",
    "openai-responses",
    "openrouter",
    "perplexity",
    "together",
    "vertex",
    "vertex-anthropic",
    "vllm",
    "xai",
)
"""The providers there were when the goldens were recorded, sorted; a new one must not change what is drawn."""

MODELS = {
    "anthropic": "claude-haiku-4-5",
    "vertex-anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
}


class Draw:
    """Requests, responses and endpoints drawn from a seed, over all of their fields."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def pick(self, values: Any) -> Any:
        return values[int(self._random.random() * len(values))]

    def count(self, low: int, high: int) -> int:
        return low + int(self._random.random() * (high - low + 1))

    def text(self, longest: int = 24) -> str:
        return "".join(self.pick(LETTERS) for _ in range(self.count(0, longest)))

    def name(self) -> str:
        return "".join(self.pick(string.ascii_lowercase) for _ in range(self.count(1, 8)))

    def number(self) -> float:
        return round(self._random.random() * 2, 3)

    def json(self, depth: int = 2) -> Any:
        kind = self.count(0, 7 if depth else 5)
        if kind == 6:
            return [self.json(depth - 1) for _ in range(self.count(0, 3))]
        if kind == 7:
            return {self.name(): self.json(depth - 1) for _ in range(self.count(0, 3))}
        return [None, self.chance(0.5), self.count(-9, 9), self.number(), self.text(), 10**12][kind]

    def schema(self) -> dict[str, Any]:
        names = sorted({self.name() for _ in range(self.count(1, 3))})
        kinds = ("string", "integer", "number", "boolean")
        return {
            "type": "object",
            "properties": {name: {"type": self.pick(kinds), "description": self.text(9)} for name in names},
            "required": names,
            "additionalProperties": False,
        }

    def image(self) -> Image:
        if self.chance(0.5):
            return Image(url=f"https://example.com/{self.name()}.png", detail=self.pick(("", "low", "high")))
        return Image(data="aGVsbG8=", media_type=self.pick(("image/png", "image/jpeg")))

    def user_part(self) -> Any:
        made = (
            Text(self.text()),
            self.image(),
            Document(data="aGVsbG8=", media_type="application/pdf", name=self.name()),
            CacheMark(self.pick(("", "5m", "1h"))),
        )
        return self.pick((made[0], *made))

    def assistant_part(self) -> Any:
        made = (
            Text(self.text()),
            ToolCall(f"c{self.count(1, 9)}", self.name(), json.dumps({self.name(): self.count(0, 9)}), self.name()),
            Reasoning(self.text(), self.name(), ""),
            Reasoning("", "", self.name()),
            Refusal(self.text()),
            Opaque(self.name(), json.dumps({"type": self.name()})),
            Logprobs('["Hi",-0.5,[["Ho",-1.5]]],'),
        )
        return self.pick((made[0], *made))

    def tool_result(self) -> ToolResult:
        content = self.text() if self.chance(0.6) else (Text(self.text()), self.image())
        return ToolResult(f"c{self.count(1, 9)}", content, self.name(), self.chance(0.2))

    def messages(self) -> tuple[Message, ...]:
        if self.chance(0.4):
            head = (Message("system", self.text()),) if self.chance(0.5) else ()
            return (*head, Message("user", self.text()))
        turns = [Message("system", [Text(self.text()), CacheMark("5m")])] if self.chance(0.4) else []
        for _ in range(self.count(1, 3)):
            turns.append(Message("user", [self.user_part() for _ in range(self.count(1, 3))]))
            if self.chance(0.5):
                turns.append(Message("assistant", [self.assistant_part() for _ in range(self.count(1, 3))]))
            if self.chance(0.3):
                turns.append(Message("tool", self.tool_result()))
        return tuple(turns)

    def tool(self) -> Tool:
        return Tool(self.name(), self.text(), self.schema(), self.pick((None, True, False)))

    def request(self, model: str) -> CompletionRequest:
        drawn: dict[str, Any] = {
            "temperature": self.number,
            "top_p": self.number,
            "top_k": lambda: self.count(1, 99),
            "max_tokens": lambda: self.count(1, 4096),
            "stop": lambda: tuple(self.name() for _ in range(self.count(1, 3))),
            "seed": lambda: self.count(0, 10**6),
            "presence_penalty": self.number,
            "frequency_penalty": self.number,
            "tools": lambda: tuple(self.tool() for _ in range(self.count(1, 2))),
            "tool_choice": lambda: self.pick(("auto", "none", "required")),
            "parallel_tool_calls": lambda: self.chance(0.5),
            "response_schema": lambda: Schema(
                self.schema(), self.name(), self.chance(0.5), self.pick(("", "native", "tool"))
            ),
            "reasoning_effort": lambda: self.pick(("low", "medium", "high")),
            "reasoning_budget": lambda: self.count(1024, 4096),
            "n": lambda: self.count(1, 4),
            "logprobs": lambda: self.count(0, 5),
            "user": self.name,
            "extra": lambda: {self.name(): self.json() for _ in range(self.count(1, 3))},
            "unsupported": lambda: self.pick(("error", "drop", "drop")),
        }
        share = self.pick((0.0, 0.1, 0.3, 0.8))
        options = {name: draw() for name, draw in drawn.items() if self.chance(share)}
        return CompletionRequest(model=model, messages=self.messages(), **options)

    def endpoint(self) -> Endpoint:
        return Endpoint(
            base_url=self.pick(("", "", "http://localhost:8000/v1", "https://llm.example.com/base/")),
            api_key="golden",
            api_version=self.pick(("", "2026-01-01")),
            region=self.pick(("us-east-1", "eu-west-1")),
            project="golden",
            access_key_id="AKIAGOLDEN",
            secret_access_key="golden",
            headers=self.pick(({}, {}, {"X-Team": "red", "authorization": "secret"})),
        )

    def call(self) -> tuple[Any, Endpoint, CompletionRequest, int, bool]:
        """Draw a provider, an endpoint, a request, a sample and whether it streams."""
        name = self.pick(RECORDED_PROVIDERS)
        endpoint = self.endpoint()
        if name in {"azure", "databricks", "compatible", "vllm"} and not endpoint.base_url:
            endpoint = replace(endpoint, base_url="https://golden.example.com")
        request = self.request(MODELS.get(name, self.pick(("gpt-4o-mini", "gpt-5", "o3", "llama-3.3-70b"))))
        return PROVIDERS[name], endpoint, request, self.pick((0, 0, 1, 7)), self.chance(0.3)

    def optional(self, value: Any) -> Any:
        return value if self.chance(0.7) else None

    def response(self) -> tuple[CompletionResponse, dict[str, Any]]:
        """Draw a response and the measurements stored with it."""
        plain = self.chance(0.5)
        parts = (Text(self.text()),) if plain else tuple(self.assistant_part() for _ in range(self.count(0, 4)))
        parts += () if plain else (self.tool_result(), self.image(), CacheMark("1h"), Document(url="https://e.com/a"))
        choice = Choice((Text(self.text()), self.assistant_part()), "length")
        counts = [self.optional(self.count(0, 10**6)) for _ in range(5)]
        names = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
        response = CompletionResponse(
            parts=parts,
            finish_reason=self.pick(("stop", "length", "tool_calls", "content_filter", "refusal", "other")),
            usage=Usage(**dict(zip(names, counts, strict=True))),
            served_model=self.pick(("", "gpt-4o-mini-2024-07-18")),
            request_id=self.pick(("", "req_é1")),
            others=() if plain else (choice,) * self.count(0, 2),
            forced_tool=not plain and self.chance(0.2),
        )
        return response, {
            "latency_s": self.optional(self.number()),
            "ttft_s": self.optional(self.number()),
            "started_at": 1.7e9 + self.count(0, 10**6),
            "dropped": tuple(self.name() for _ in range(self.count(0, 2))),
        }


@pytest.fixture
def draw() -> Callable[[int], Draw]:
    """Make a source of requests and responses from a seed."""
    return Draw


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], Any]:
    """Return a function that reads a recorded value; ``LLMHUB_WRITE_GOLDENS=1`` records ``found`` first."""

    def read(name: str, found: Any) -> Any:
        path = HERE / f"{name}.json"
        if found is not None and os.environ.get("LLMHUB_WRITE_GOLDENS"):
            path.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    return read
