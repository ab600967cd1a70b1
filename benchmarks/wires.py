"""Cost of the pure functions: `prepare` and `interpret` of a short chat on each wire, and folding a stream.

Run ``python benchmarks/wires.py``. Nothing is sent. Each number is the best of several rounds, in microseconds of this
process's CPU time, so that other load on the machine matters little.
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
BUDGET_CALL_US: Final = 60.0
BUDGET_DELTA_US: Final = 10.0


def main() -> None:
    print(
        f"{'wire':20}{'prepare':>10}{'interpret':>11}{'total':>10}   us per call (budget {BUDGET_CALL_US:g} in total)"
    )
    for name in (name for name in ANSWERS if name in PROVIDERS):
        provider, reply = PROVIDERS[name], HttpReply(200, {}, json.dumps(ANSWERS[name]).encode())
        assert interpret(provider, reply).unwrap().text == "Paris"
        prepare_us = best_us(partial(prepare, provider, ENDPOINT, REQUEST, 0.0))
        interpret_us = best_us(partial(interpret, provider, reply))
        total_us = prepare_us + interpret_us
        note = over_budget(total_us, BUDGET_CALL_US)
        print(f"{provider.wire.name:20}{prepare_us:10.1f}{interpret_us:11.1f}{total_us:10.1f}{note}")
    lengths = (1_000, 50_000)
    print(f"\n{'':20}{'at 1k':>10}{'at 50k':>11}   us per delta (budget {BUDGET_DELTA_US:g} at any length)")
    fold_us = [best_us(partial(fold, deltas(length)), 50_000 // length) / length for length in lengths]
    print(f"{'fold alone':20}{fold_us[0]:10.2f}{fold_us[1]:11.2f}")
    for name in STREAMS:
        stream_us = [streamed_us(name, length) for length in lengths]
        note = over_budget(max(stream_us), BUDGET_DELTA_US)
        print(f"{PROVIDERS[name].wire.name:20}{stream_us[0]:10.2f}{stream_us[1]:11.2f}{note}")


def deltas(length: int) -> list[Delta]:
    header_values = [Fragment(1, Text("word ")) for _ in range(length)]
    return [
        StreamStarted("m", "r"),
        *header_values,
        UsageDelta(Usage(input_tokens=20, output_tokens=length)),
        ChoiceFinished("stop"),
    ]


def streamed_us(name: str, length: int) -> float:
    """Return the time of decoding a stream from its bytes, in chunks of 16 kB."""
    content_type, opening, delta, ending = STREAMS[name]
    body = opening + delta * length + ending
    chunks = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
    decode = partial(interpret_stream, PROVIDERS[name], HttpReply(200, {"content-type": content_type}), chunks)
    assert decode().unwrap().text == "word " * length
    return best_us(decode, 50_000 // length) / length


def named_event(content_type: str, payload: Payload) -> bytes:
    """Return a server-sent event with its type in the event line and in the data."""
    return f"event: {content_type}\ndata: {json.dumps({'type': content_type, **payload})}\n\n".encode()


def data_event(payload: Payload, ending: str = "\n\n", before: str = "data: ") -> bytes:
    return f"{before}{json.dumps(payload)}{ending}".encode()


def aws_event(content_type: str, payload: Payload) -> bytes:
    """Return a message of an AWS event stream."""
    header_values = {":event-type": content_type, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in header_values.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", len(headers) + len(body) + 16, len(headers))
    data = prelude + struct.pack(">I", crc32(prelude)) + headers + body
    return data + struct.pack(">I", crc32(data))


SSE: Final = "text/event-stream"
GEMINI_USAGE: Final[Payload] = {
    "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 3, "totalTokenCount": 23},
    "modelVersion": "m",
    "responseId": "r",
}
STREAMS: Final[dict[str, tuple[str, bytes, bytes, bytes]]] = {
    "openai": (
        SSE,
        b"",
        data_event({"id": "r", "model": "m", "choices": [{"index": 0, "delta": {"content": "word "}}]}),
        b"data: [DONE]\n\n",
    ),
    "openai-responses": (
        SSE,
        named_event("response.created", {"response": {"id": "r", "model": "m", "output": []}}),
        named_event(
            "response.output_text.delta", {"output_index": 0, "content_index": 0, "item_id": "i", "delta": "word "}
        ),
        named_event("response.completed", {"response": {"id": "r", "model": "m", "status": "completed", "output": []}}),
    ),
    "anthropic": (
        SSE,
        named_event("message_start", {"message": {"id": "m", "model": "m", "usage": {"input_tokens": 20}}}),
        named_event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "word "}}),
        named_event("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}),
    ),
    "google": (
        SSE,
        b"",
        data_event(
            {"candidates": [{"content": {"parts": [{"text": "word "}], "role": "model"}}], **GEMINI_USAGE}, "\r\n\r\n"
        ),
        data_event({"candidates": [{"finishReason": "STOP"}], **GEMINI_USAGE}, "\r\n\r\n"),
    ),
    "bedrock": (
        "application/vnd.amazon.eventstream",
        aws_event("messageStart", {"role": "assistant"}),
        aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "word "}, "p": "abcdef"}),
        aws_event("messageStop", {"stopReason": "end_turn"}),
    ),
    "ollama-native": (
        "application/x-ndjson",
        b"",
        data_event({"model": "m", "done": False, "message": {"role": "assistant", "content": "word "}}, "\n", ""),
        data_event({"model": "m", "done": True, "done_reason": "stop", "message": {"content": ""}}, "\n", ""),
    ),
}
"""First events, one delta, and last events of a stream of each wire, with its content type."""


def best_us(call: Callable[[], object], number: int = 2_000) -> float:
    """Return the time of one call in microseconds, the fastest of five rounds."""
    return min(timeit.repeat(call, number=number, repeat=5, timer=time.process_time)) / number * 1e6


def over_budget(measured: float, budget: float) -> str:
    return "" if measured <= budget else f"   above {budget:g}"


if __name__ == "__main__":
    main()
