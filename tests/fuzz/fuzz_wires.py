"""A coverage-guided fuzzer of the parsers of untrusted bytes: `feed`, `interpret_stream` and each wire's `decode`.

Run ``python tests/fuzz/fuzz_wires.py --seconds 20``; it exits with 0 when nothing was found. Needs ``atheris``.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["llmhub"]):
    from llmhub.core.errors import LLMError
    from llmhub.core.framing import FEEDS, flush
    from llmhub.core.payload import parse_json_object
    from llmhub.core.protocol import interpret, interpret_stream
    from llmhub.core.provider import HttpReply, Provider
    from llmhub.core.types import CompletionResponse
    from llmhub.providers.registry import PROVIDERS

from returns.pipeline import is_successful

PROVIDERS_BY_WIRE: tuple[Provider, ...] = tuple(
    {provider.wire.name: provider for provider in PROVIDERS.values()}.values()
)
CONTENT_TYPES = ("application/json", "text/event-stream", "")
DOCUMENTS: dict[str, list[Any]] = {
    "openai_chat": [
        {
            "id": "r",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "content": [{"type": "text", "text": "a"}],
                        "reasoning": "b",
                        "refusal": None,
                        "function_call": {"name": "f", "arguments": "{}"},
                        "tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}],
                    },
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 2,
                "completion_tokens": 1,
                "total_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
        },
        {"choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [{"function": {"arguments": "{"}}]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": {"prompt_tokens": 1}}},
        {"error": {"message": "no", "type": "t", "code": 429}},
    ],
    "openai_responses": [
        {
            "id": "r",
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [
                {"type": "message", "content": [{"type": "output_text", "text": "a", "annotations": [{"type": "c"}]}]},
                {"type": "function_call", "id": "i", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "reasoning", "summary": [{"text": "b"}], "encrypted_content": "s"},
            ],
            "usage": {"input_tokens": 1, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 1}},
        },
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "function_call", "id": "i"}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "i", "delta": "a"},
        {"type": "response.completed", "response": {"status": "completed", "output": [], "usage": {"input_tokens": 1}}},
    ],
    "anthropic": [
        {
            "id": "r",
            "content": [
                {"type": "text", "text": "a", "citations": [{"cited_text": "c"}]},
                {"type": "thinking", "thinking": "b", "signature": "s"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {}},
            ],
            "stop_reason": "end_turn",
            "stop_details": {"explanation": "no"},
            "usage": {
                "input_tokens": 1,
                "cache_read_input_tokens": 1,
                "cache_creation_input_tokens": 1,
                "output_tokens": 1,
                "output_tokens_details": {"thinking_tokens": 1},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "server_tool_use", "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
    ],
    "gemini": [
        {
            "responseId": "r",
            "candidates": [
                {
                    "index": 0,
                    "content": {
                        "parts": [
                            {"text": "a", "thought": True, "thoughtSignature": "s"},
                            {"functionCall": {"name": "f", "args": {}}},
                            {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
                        ]
                    },
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {
                "promptTokenCount": 1,
                "candidatesTokenCount": 1,
                "thoughtsTokenCount": 1,
                "toolUsePromptTokenCount": 1,
                "cachedContentTokenCount": 1,
                "totalTokenCount": 4,
            },
        },
        {"promptFeedback": {"blockReason": "SAFETY"}},
        {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "1s", "violations": [{}]}]}},
    ],
    "bedrock_converse": [
        {
            "output": {
                "message": {
                    "content": [
                        {"text": "a"},
                        {"reasoningContent": {"reasoningText": {"text": "b", "signature": "s"}}},
                        {"toolUse": {"toolUseId": "1", "name": "f", "input": {}}},
                        {"citationsContent": {"content": [{"text": "a"}], "citations": [{}]}},
                    ]
                }
            },
            "stopReason": "end_turn",
            "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2, "cacheReadInputTokens": 1},
        },
        {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "1", "name": "f"}}},
        {"contentBlockIndex": 0, "delta": {"text": "a", "toolUse": {"input": "{"}, "citation": {}}},
        {"stopReason": "end_turn"},
        {"usage": {"inputTokens": 1, "outputTokens": 1}, "trace": {"promptRouter": {"invokedModelId": "m"}}},
    ],
}
"""Responses and events of each wire, which the fuzzer mutates."""

EVENTS = (b"contentBlockStart", b"contentBlockDelta", b"messageStop", b"metadata", b"throttlingException", b"")
REPLACEMENTS = (
    None,
    True,
    0,
    -1,
    7,
    9_999,
    1 << 70,
    0.5,
    "",
    "x",
    "\ud800",
    [],
    {},
    [None],
    {"type": "text"},
    [{}],
    [[]],
)
"""Replacements for values."""


def fuzz_one_input(data: bytes) -> None:
    """Parse one input with every function; each returns a result for any input."""
    choices = atheris.FuzzedDataProvider(data)
    provider = PROVIDERS_BY_WIRE[choices.ConsumeIntInRange(0, len(PROVIDERS_BY_WIRE) - 1)]
    content_type = CONTENT_TYPES[choices.ConsumeIntInRange(0, len(CONTENT_TYPES) - 1)]
    status = (200, 200, 200, 400)[choices.ConsumeIntInRange(0, 3)]
    position = choices.ConsumeIntInRange(0, 255)
    if choices.ConsumeIntInRange(0, 3) == 0:
        body = choices.ConsumeBytes(choices.remaining_bytes())
    else:
        body = build_body(choices, provider.wire.name, provider.wire.framing if choices.ConsumeBool() else "")
    cut = position % (len(body) + 1)
    frame_all(provider, body, cut)
    head = HttpReply(status, {"content-type": content_type})
    unsplit = interpret_stream(provider, head, [body])
    split = interpret_stream(provider, head, [body[:cut], body[cut:]])
    check(unsplit)
    if unsplit != split:
        raise AssertionError(
            f"split at {cut}, {provider.wire.name} decodes {body!r} differently: {split}, not {unsplit}"
        )
    check(interpret(provider, HttpReply(status, {"content-type": content_type}, body)))
    document = parse_json_object(body)
    if is_successful(document):
        check(provider.wire.decode(document.unwrap()))


def build_body(choices: Any, wire: str, framing: str) -> bytes:
    """Mutate a response of a wire, or a stream of its events."""
    known = [document for name in (wire, *DOCUMENTS) for document in DOCUMENTS.get(name, [])]
    documents = [
        json.dumps(mutate(choices, known[choices.ConsumeIntInRange(0, len(known) - 1)])).encode()
        for _ in range(choices.ConsumeIntInRange(1, 6 if framing else 1))
    ]
    if framing == "aws_eventstream":
        return b"".join(
            aws_frame(EVENTS[choices.ConsumeIntInRange(0, len(EVENTS) - 1)], document) for document in documents
        )
    return b"".join(b"data: %b\n\n" % document if framing else document for document in documents)


def mutate(choices: Any, value: Any) -> Any:
    """Keep, replace, repeat or omit each value in a document; once the input is used up, keep it."""
    match choices.ConsumeIntInRange(0, 15):
        case 1:
            return REPLACEMENTS[choices.ConsumeIntInRange(0, len(REPLACEMENTS) - 1)]
        case 2 if isinstance(value, list):
            return [mutate(choices, item) for item in value + value]
        case 3 if isinstance(value, str):
            return value + choices.ConsumeUnicode(8)
        case 4 if isinstance(value, dict) and value:
            omitted = list(value)[choices.ConsumeIntInRange(0, len(value) - 1)]
            return {key: mutate(choices, item) for key, item in value.items() if key != omitted}
    if isinstance(value, dict):
        return {key: mutate(choices, item) for key, item in value.items()}
    return [mutate(choices, item) for item in value] if isinstance(value, list) else value


def aws_frame(event: bytes, payload: bytes) -> bytes:
    """Return an event in an AWS frame with valid checksums."""
    pairs = ((b":message-type", b"event"), (b":event-type", event))
    headers = b"".join(
        struct.pack(">B", len(name)) + name + b"\x07" + struct.pack(">H", len(text)) + text for name, text in pairs
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return frame + struct.pack(">I", zlib.crc32(frame))


def frame_all(provider: Provider, body: bytes, cut: int) -> None:
    """Split a body into frames, fed in two pieces, and flush."""
    feed, rest = FEEDS[provider.wire.framing], b""
    for chunk in (body[:cut], body[cut:]):
        fed = feed(rest, chunk)
        if not is_successful(fed):
            return
        frames, rest = fed.unwrap()
        for frame in frames:
            provider.wire.decode_frame(frame)
    flush(provider.wire.framing, rest)


def check(result: object) -> None:
    """Raise if a result is neither a response nor an error, or if its token counts contradict each other."""
    decoded = result.unwrap() if is_successful(result) else result.failure()  # type: ignore[arg-type, attr-defined]
    if not isinstance(decoded, CompletionResponse):
        if not isinstance(decoded, LLMError):
            raise TypeError(f"decoded as {decoded!r}")
        return
    usage = decoded.usage
    if usage.input_tokens is not None:
        parts = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        if parts > usage.input_tokens:
            raise AssertionError(f"more cached than input tokens: {usage}")
    if usage.output_tokens is not None and (usage.reasoning_tokens or 0) > usage.output_tokens:
        raise AssertionError(f"more reasoning than output tokens: {usage}")


def seeds() -> Iterator[bytes]:
    """Write each wire's documents as raw bytes; numbers are taken from the end, the wire's first."""
    for wire, provider in enumerate(PROVIDERS_BY_WIRE):
        for document in DOCUMENTS.get(provider.wire.name, []):
            body = json.dumps(document).encode()
            for data in (body, b"data: %b\n\n" % body, aws_frame(EVENTS[1], body)):
                yield data + bytes((0, 7, 0, 0, wire))
        yield bytes((1, 1, 7, 1, 1, wire))


def main() -> None:
    """Fuzz from the seeds for a limited time and print failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="0 draws one at random")
    parser.add_argument("--corpus", default="", help="folder of inputs; by default a temporary one with the seeds")
    options = parser.parse_args()
    if options.corpus:
        bounds = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-max_len=4096"]
        flags = [*bounds, "-print_final_stats=1", f"-artifact_prefix={options.corpus}/"]
        atheris.Setup([sys.argv[0], *flags, options.corpus], fuzz_one_input)
        atheris.Fuzz()
    # The fuzzer exits its process at any point, so a parent process removes the files.
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds()):
            (Path(corpus) / str(index)).write_bytes(seed)
        sys.exit(subprocess.run([sys.executable, *sys.argv, "--corpus", corpus], check=False).returncode)


if __name__ == "__main__":
    main()
