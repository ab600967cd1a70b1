"""A coverage-guided fuzzer of what reads untrusted bytes: `feed`, `interpret_stream` and each wire's `decode`.

Run ``python tests/fuzz/fuzz_wires.py --seconds 20``; it exits with 0 when nothing was found. Needs ``atheris``.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["llmhub"]):
    from llmhub.core.errors import LLMError
    from llmhub.core.framing import FEEDS, flush
    from llmhub.core.provider import HttpReply, Provider, interpret, interpret_stream, parse
    from llmhub.core.types import CompletionResponse
    from llmhub.providers.table import PROVIDERS

from returns.pipeline import is_successful

WIRES: tuple[Provider, ...] = tuple({row.wire.name: row for row in PROVIDERS.values()}.values())
TYPES = ("application/json", "text/event-stream", "")
SEEDS = (
    b'{"choices":[{"message":{"content":"a","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}',
    b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n',
    b'{"content":[{"type":"text","text":"a"},{"type":"tool_use","id":"1","name":"f","input":{}}],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}',
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}\n\n',
    b'{"candidates":[{"content":{"parts":[{"text":"a","thought":true}]},"finishReason":"STOP"}],'
    b'"usageMetadata":{"promptTokenCount":1,"totalTokenCount":2}}',
    b'{"output":{"message":{"content":[{"text":"a"}]}},"stopReason":"end_turn","usage":{"inputTokens":1}}',
    b'{"output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}],"status":"completed"}',
    b'{"error":{"message":"no","type":"t","code":"c"}}',
    b"\x00\x00\x00\x10\x00\x00\x00\x00\x05\xc2H\xeb}\x98\xc8\xff",
    # The names of what else the wires know, for the builder of documents.
    b"index delta id name arguments function_call refusal reasoning_content prompt_tokens_details cached_tokens "
    b"completion_tokens_details reasoning_tokens x_groq message_start content_block_delta text_delta thinking_delta "
    b"thinking signature_delta signature input_json_delta partial_json citations_delta citation redacted_thinking "
    b"cache_read_input_tokens cache_creation_input_tokens output_tokens_details thinking_tokens stop_details "
    b"functionCall functionResponse inlineData mimeType thoughtSignature responseId modelVersion promptFeedback "
    b"blockReason cachedContentTokenCount thoughtsTokenCount toolUsePromptTokenCount candidatesTokenCount details "
    b"retryDelay violations quotaId reason status contentBlockStart contentBlockDelta contentBlockIndex start toolUse "
    b"toolUseId toolResult reasoningContent reasoningText redactedContent citationsContent messageStop metadata "
    b"outputTokens cacheReadInputTokens cacheWriteInputTokens totalTokens trace promptRouter __type "
    b"response item item_id output_index content_index summary summary_text reasoning function_call_output call_id "
    b"incomplete_details max_output_tokens input_tokens_details response.completed response.output_item.added "
    b"response.output_text.delta response.function_call_arguments.delta response.created annotations encrypted_content",
)


WORDS = sorted({word for seed in SEEDS for word in re.findall(r"[A-Za-z_][A-Za-z_.]+", seed.decode("latin-1"))} | {""})
"""Names and values that mean something to some wire."""
NUMBERS = (0, 1, 2, 50, -1, 1 << 70, 0.5)
DEPTH = 6


def one_input(data: bytes) -> None:
    """Read one input in every way; whatever it is, each way returns what it should."""
    chosen = atheris.FuzzedDataProvider(data)
    provider = WIRES[chosen.ConsumeIntInRange(0, len(WIRES) - 1)]
    kind = TYPES[chosen.ConsumeIntInRange(0, len(TYPES) - 1)]
    status = (200, 200, 200, 400)[chosen.ConsumeIntInRange(0, 3)]
    place = chosen.ConsumeIntInRange(0, 255)
    if chosen.ConsumeIntInRange(0, 3) == 0:
        body = chosen.ConsumeBytes(chosen.remaining_bytes())
    else:
        body = built(chosen, provider.wire.framing if chosen.ConsumeBool() else "")
    cut = place % (len(body) + 1)
    frame_all(provider, body, cut)
    head = HttpReply(status, {"content-type": kind})
    whole = interpret_stream(provider, head, [body])
    split = interpret_stream(provider, head, [body[:cut], body[cut:]])
    check(whole)
    if whole != split:
        raise AssertionError(f"split at {cut}, {provider.wire.name} reads {body!r} otherwise: {split} for {whole}")
    check(interpret(provider, HttpReply(status, {"content-type": kind}, body)))
    document = parse(body)
    if is_successful(document):
        check(provider.wire.decode(document.unwrap()))


def built(chosen: Any, framing: str) -> bytes:
    """Build JSON out of the words of the wires: one document, or a stream of some."""
    documents = []
    for _ in range(chosen.ConsumeIntInRange(1, 5 if framing else 1)):
        documents.append(json.dumps({word(chosen): value(chosen, 0) for _ in range(chosen.ConsumeIntInRange(0, 5))}))
    if framing == "aws_eventstream":
        return b"".join(message(word(chosen).encode(), document.encode()) for document in documents)
    return "".join(f"data: {document}\n\n" if framing else document for document in documents).encode()


def value(chosen: Any, depth: int) -> Any:
    """Build a value; what is deep is no container."""
    match chosen.ConsumeIntInRange(0, 7 if depth < DEPTH else 3):
        case 0:
            return None
        case 1:
            return NUMBERS[chosen.ConsumeIntInRange(0, len(NUMBERS) - 1)]
        case 2:
            return chosen.ConsumeBool()
        case 3:
            return word(chosen)
        case 4 | 5:
            return [value(chosen, depth + 1) for _ in range(chosen.ConsumeIntInRange(0, 3))]
        case _:
            return {word(chosen): value(chosen, depth + 1) for _ in range(chosen.ConsumeIntInRange(0, 5))}


def word(chosen: Any) -> str:
    """Choose a word."""
    return WORDS[chosen.ConsumeIntInRange(0, len(WORDS) - 1)]


def message(event: bytes, payload: bytes) -> bytes:
    """Write an event as AWS frames it, its checksums right."""
    pairs = ((b":message-type", b"event"), (b":event-type", event))
    headers = b"".join(
        struct.pack(">B", len(name)) + name + b"\x07" + struct.pack(">H", len(said)) + said for name, said in pairs
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


def frame_all(provider: Provider, body: bytes, cut: int) -> None:
    """Cut a body into frames, in two pieces and at its end."""
    feed, rest = FEEDS[provider.wire.framing], b""
    for chunk in (body[:cut], body[cut:]):
        fed = feed(rest, chunk)
        if not is_successful(fed):
            return
        frames, rest = fed.unwrap()
        for frame in frames:
            provider.wire.decode_frame(frame)
    flush(provider.wire.framing, rest)


def check(read: object) -> None:
    """Say what is wrong with what was read: it is no result, or its counts contradict each other."""
    value = read.unwrap() if is_successful(read) else read.failure()  # type: ignore[arg-type, attr-defined]
    if not isinstance(value, CompletionResponse):
        if not isinstance(value, LLMError):
            raise TypeError(f"read as {value!r}")
        return
    usage = value.usage
    if usage.input_tokens is not None:
        parts = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0)
        if parts > usage.input_tokens:
            raise AssertionError(f"more cached than read: {usage}")
    if usage.output_tokens is not None and (usage.reasoning_tokens or 0) > usage.output_tokens:
        raise AssertionError(f"more reasoned than written: {usage}")


def main() -> None:
    """Fuzz for a bounded time from the seeds, writing nothing unless something is found."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seconds", type=int, default=20)
    asked.add_argument("--seed", type=int, default=0, help="0 draws one")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as corpus:
        for wire in range(len(WIRES)):
            for at, seed in enumerate(SEEDS):
                # Numbers are taken from the end: which way to read, where to cut, the status, the kind, the wire.
                (Path(corpus) / f"{wire}-{at}").write_bytes(seed + bytes((0, 7, 0, 0, wire)))
        flags = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-max_len=4096", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *flags, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
