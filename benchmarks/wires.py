"""What the pure heart costs: `prepare` and `interpret` of a short chat on each wire, and the fold of a stream.

Run ``python benchmarks/wires.py``. Nothing is sent. Each number is the best of several rounds, in microseconds.
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable
from functools import partial
from typing import Final

from returns.pipeline import is_successful

from llmhub.core.provider import Endpoint, HttpReply, interpret, interpret_stream, prepare
from llmhub.core.stream import Counted, Delta, Finished, Fragment, Started, fold
from llmhub.core.types import CompletionRequest, Message, Payload, Text, Usage
from llmhub.providers.table import PROVIDERS

ENDPOINT: Final = Endpoint(
    base_url="http://localhost", api_key="k", region="us-east-1", access_key_id="AKIA", secret_access_key="s"
)
REQUEST: Final = CompletionRequest(
    model="m",
    messages=(Message("system", "Answer in one word."), Message("user", "What is the capital of France?")),
    temperature=0,
    max_tokens=16,
)
ANSWERS: Final[dict[str, Payload]] = {
    "openai": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21},
    },
    "openai-responses": {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "m",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Paris"}],
            }
        ],
        "usage": {"input_tokens": 20, "output_tokens": 1, "total_tokens": 21},
    },
    "anthropic": {
        "id": "msg_1",
        "type": "message",
        "model": "m",
        "content": [{"type": "text", "text": "Paris"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 20, "output_tokens": 1},
    },
    "google": {
        "responseId": "r",
        "modelVersion": "m",
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Paris"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 1, "totalTokenCount": 21},
    },
    "bedrock": {
        "output": {"message": {"role": "assistant", "content": [{"text": "Paris"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 20, "outputTokens": 1, "totalTokens": 21},
    },
}
AIM_CALL_US: Final = 60.0
AIM_DELTA_US: Final = 10.0


def main() -> None:
    print(f"{'wire':20}{'prepare':>10}{'interpret':>11}{'together':>10}   us per call (aim {AIM_CALL_US:g} together)")
    for name in (name for name in ANSWERS if name in PROVIDERS):
        provider, reply = PROVIDERS[name], HttpReply(200, {}, json.dumps(ANSWERS[name]).encode())
        assert interpret(provider, reply).unwrap().text == "Paris"
        asked = best_us(partial(prepare, provider, ENDPOINT, REQUEST, 0.0))
        read = best_us(partial(interpret, provider, reply))
        print(
            f"{provider.wire.name:20}{asked:10.1f}{read:11.1f}{asked + read:10.1f}{missed(asked + read, AIM_CALL_US)}"
        )
    print(f"\n{'deltas':>20}{'fold':>10}{'from bytes':>11}   us per delta (aim {AIM_DELTA_US:g} at any length)")
    for length in (1_000, 50_000):
        stream = deltas(length)
        events = b"".join(map(event, range(length))) + b"data: [DONE]\n\n"
        chunks = [events[at : at + 16_384] for at in range(0, len(events), 16_384)]
        folded = best_us(partial(fold, stream), 50_000 // length) / length
        head = HttpReply(200, {"content-type": "text/event-stream"})
        assert is_successful(interpret_stream(PROVIDERS["openai"], head, chunks))
        whole = best_us(partial(interpret_stream, PROVIDERS["openai"], head, chunks), 50_000 // length)
        print(f"{length:20}{folded:10.2f}{whole / length:11.2f}{missed(whole / length, AIM_DELTA_US)}")


def deltas(length: int) -> list[Delta]:
    words = [Fragment(1, Text("word ")) for _ in range(length)]
    return [Started("m", "r"), *words, Counted(Usage(input_tokens=20, output_tokens=length)), Finished("stop")]


def event(_at: int) -> bytes:
    return b'data: {"id":"r","model":"m","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'


def best_us(call: Callable[[], object], number: int = 2_000) -> float:
    """Time one call: the fastest of five rounds, in microseconds."""
    return min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6


def missed(measured: float, aim: float) -> str:
    return "" if measured <= aim else f"   above {aim:g}"


if __name__ == "__main__":
    main()
