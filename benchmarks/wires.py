"""Cost of the pure functions: `prepare` and `interpret` of a short chat on each wire, and folding a stream.

Run ``python benchmarks/wires.py``. Nothing is sent. Each number is the best of several rounds, in microseconds of this
process's own time, so that what else the machine does counts little.
"""

from __future__ import annotations

import json
import struct
import time
import timeit
from collections.abc import Callable
from functools import partial
from typing import Final
from zlib import crc32

from llmhub.core.protocol import interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.stream import ChoiceFinished, Delta, Fragment, StreamStarted, UsageDelta, fold
from llmhub.core.types import CompletionRequest, Message, Payload, Text, Usage
from llmhub.providers.registry import PROVIDERS

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
    lengths = (1_000, 50_000)
    print(f"\n{'':20}{'at 1k':>10}{'at 50k':>11}   us per delta (aim {AIM_DELTA_US:g} at any length)")
    folded = [best_us(partial(fold, deltas(length)), 50_000 // length) / length for length in lengths]
    print(f"{'fold alone':20}{folded[0]:10.2f}{folded[1]:11.2f}")
    for name in STREAMS:
        streamed = [streamed_us(name, length) for length in lengths]
        print(
            f"{PROVIDERS[name].wire.name:20}{streamed[0]:10.2f}{streamed[1]:11.2f}{missed(max(streamed), AIM_DELTA_US)}"
        )


def deltas(length: int) -> list[Delta]:
    words = [Fragment(1, Text("word ")) for _ in range(length)]
    return [
        StreamStarted("m", "r"),
        *words,
        UsageDelta(Usage(input_tokens=20, output_tokens=length)),
        ChoiceFinished("stop"),
    ]


def streamed_us(name: str, length: int) -> float:
    """Return the time of decoding a stream from its bytes, in chunks of 16 kB."""
    kind, opening, delta, ending = STREAMS[name]
    body = opening + delta * length + ending
    chunks = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    read = partial(interpret_stream, PROVIDERS[name], HttpReply(200, {"content-type": kind}), chunks)
    assert read().unwrap().text == "word " * length
    return best_us(read, 50_000 // length) / length


def told(kind: str, said: Payload) -> bytes:
    """Return a server-sent event with its type in the event line and in the data."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **said})}\n\n".encode()


def plain(said: Payload, ending: str = "\n\n", before: str = "data: ") -> bytes:
    return f"{before}{json.dumps(said)}{ending}".encode()


def message(kind: str, said: Payload) -> bytes:
    """Return a message of an AWS event stream."""
    words = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in words.items()
    )
    payload = json.dumps(said).encode()
    prelude = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    whole = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return whole + struct.pack(">I", crc32(whole))


SSE: Final = "text/event-stream"
COUNTED: Final[Payload] = {
    "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 3, "totalTokenCount": 23},
    "modelVersion": "m",
    "responseId": "r",
}
STREAMS: Final[dict[str, tuple[str, bytes, bytes, bytes]]] = {
    "openai": (
        SSE,
        b"",
        plain({"id": "r", "model": "m", "choices": [{"index": 0, "delta": {"content": "word "}}]}),
        b"data: [DONE]\n\n",
    ),
    "openai-responses": (
        SSE,
        told("response.created", {"response": {"id": "r", "model": "m", "output": []}}),
        told("response.output_text.delta", {"output_index": 0, "content_index": 0, "item_id": "i", "delta": "word "}),
        told("response.completed", {"response": {"id": "r", "model": "m", "status": "completed", "output": []}}),
    ),
    "anthropic": (
        SSE,
        told("message_start", {"message": {"id": "m", "model": "m", "usage": {"input_tokens": 20}}}),
        told("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "word "}}),
        told("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}),
    ),
    "google": (
        SSE,
        b"",
        plain({"candidates": [{"content": {"parts": [{"text": "word "}], "role": "model"}}], **COUNTED}, "\r\n\r\n"),
        plain({"candidates": [{"finishReason": "STOP"}], **COUNTED}, "\r\n\r\n"),
    ),
    "bedrock": (
        "application/vnd.amazon.eventstream",
        message("messageStart", {"role": "assistant"}),
        message("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "word "}, "p": "abcdef"}),
        message("messageStop", {"stopReason": "end_turn"}),
    ),
    "ollama-native": (
        "application/x-ndjson",
        b"",
        plain({"model": "m", "done": False, "message": {"role": "assistant", "content": "word "}}, "\n", ""),
        plain({"model": "m", "done": True, "done_reason": "stop", "message": {"content": ""}}, "\n", ""),
    ),
}
"""First events, one delta, and last events of a stream of each wire, with its content type."""


def best_us(call: Callable[[], object], number: int = 2_000) -> float:
    """Return the time of one call in microseconds, the fastest of five rounds."""
    return min(timeit.repeat(call, number=number, repeat=5, timer=time.process_time)) / number * 1e6


def missed(measured: float, aim: float) -> str:
    return "" if measured <= aim else f"   above {aim:g}"


if __name__ == "__main__":
    main()
