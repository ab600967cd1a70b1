"""Stored responses read as columns equal the same responses converted one by one."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Failure

import llmhub
from llmhub.api.tables import build_table_run
from llmhub.cache.store import ABSENT, KEY_BYTES, BlockValues
from llmhub.config import Settings
from llmhub.core.errors import ServerError
from llmhub.core.serialization import (
    CHECKSUM_SIZE,
    TEXT_LAYOUT,
    StoredResponse,
    checksum_seed,
    pack,
    to_stored_response,
    unpack,
)
from llmhub.core.types import CompletionResponse, Reasoning, Text, ToolCall, Usage
from llmhub.engine.block_lookup import PlannedBlock, check_block
from llmhub.engine.call import Answer
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.row_outcome import RowOutcome
from llmhub.sim import SimulatorThread
from llmhub.tables import prompt_batch, results

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]

HUB = llmhub.Hub(
    settings=Settings(), endpoints={name: llmhub.Endpoint(api_key="k") for name in ("openai", "anthropic")}
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

COUNTS = st.none() | st.integers(0, 10**7)

USAGES = st.builds(
    Usage,
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    cached_input_tokens=st.none() | st.integers(0, 9),
    cache_write_tokens=st.none() | st.integers(0, 9),
    reasoning_tokens=st.none() | st.integers(0, 9),
)

PARTS = TEXTS.map(lambda text: (Text(text),)) | st.sampled_from(
    [(), (Text("a"), Text("b")), (Reasoning("so"), Text("yes")), (Text(""), ToolCall("1", "f", '{"a": 1}'))]
)

RESPONSES = st.builds(
    to_stored_response,
    st.builds(
        CompletionResponse,
        parts=PARTS,
        finish_reason=st.sampled_from(["stop", "length", "tool_calls", "refusal", "other", "content_filter"]),
        usage=USAGES,
        served_model=st.sampled_from(["", "gpt-4o-mini-2024-07-18", "claude-haiku-4-5"]) | TEXTS,
        request_id=TEXTS,
    ),
    latency_s=st.none() | st.floats(0, 100),
    ttft_s=st.none() | st.floats(0, 100),
    started_at=st.just(0.0) | st.floats(1, 4e9),
    dropped=st.sampled_from([(), ("seed",), ("seed", "top_k"), ("a\x1fb",), ("",)]),
)

FORMS = ("current", "version 1", "corrupt", "other key", "newer version", "absent")


def pack_as(form: str, response: StoredResponse, key: bytes) -> bytes | None:
    """Return the stored value of a response: valid (current or version 1), invalid, or ``None`` for none at all."""
    match form:
        case "current":
            return pack(response, key)
        case "version 1":
            body = msgspec.msgpack.encode(response)
            return b"\x01" + crc32(body).to_bytes(4, "big") + body
        case "corrupt":
            value = bytearray(pack(response, key))
            value[len(value) // 2] ^= 0x55
            return bytes(value)
        case "other key":
            return pack(response, bytes(reversed(key)))
        case "newer version":
            return b"\x03" + pack(response, key)[1:]
        case _:
            return None


def look_up(values: Mapping[bytes, bytes], keys: bytes, seed: int) -> BlockValues:
    """Return the values of a block of keys in random order, as a store does."""
    split_keys = [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
    order = list(dict.fromkeys(key for key in split_keys if key in values))
    random.Random(seed).shuffle(order)
    starts: dict[bytes, int] = {}
    joined = b"junk between "
    for key in order:
        starts[key] = len(joined)
        joined += values[key] + b"."
    return BlockValues(
        joined,
        array("q", [starts.get(key, 0) for key in split_keys]),
        array("q", [len(values[key]) if key in values else ABSENT for key in split_keys]),
    )


@contextmanager
def chunk_size(items: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_batch, "FIRST_CHUNK_SIZE", items)
        patch.setattr(prompt_batch, "CHUNK_SIZE", 2 * items)
        patch.setattr(results, "OUTCOMES_AT_ONCE", items)
        yield


@given(st.data(), st.integers(1, 9), st.integers(0, 99))
def test_the_table_of_blocks_equals_the_table_of_single_responses(data: st.DataObject, items: int, seed: int) -> None:
    rows = data.draw(st.lists(st.none() | st.sampled_from("abcdefgh"), max_size=12))
    models = data.draw(st.sampled_from([MODELS, MODELS[:1]]))
    options = {"n": data.draw(st.integers(1, 2)), "progress": False}
    frame = pa.table({"t": pa.array(rows, pa.string())})
    with chunk_size(items):
        batch = build_table_run(frame, "Say {t}", models, HUB, options).batch
        chunks = [chunk for chunk in batch.iter_chunks() if isinstance(chunk, PlannedBlock)]
    values: dict[bytes, bytes] = {}
    for key in dict.fromkeys(item[1] for chunk in chunks for item in chunk):
        form = data.draw(st.sampled_from([*FORMS, "current", "current", "current"]))
        value = pack_as(form, data.draw(RESPONSES), key)
        if value is not None:
            values[key] = value
    failed = Answer(Failure(ServerError(message="no")), attempts=1, total_s=1.0)
    one_by_one: list[RowOutcome | None] = [None] * len(batch)
    with_blocks: list[RowOutcome | None] = [None] * len(batch)
    blocks = []
    for chunk in chunks:
        for position, key, *_ in chunk:
            unpacked = unpack(values[key], key) if key in values else None
            is_ok = unpacked is not None and is_successful(unpacked)
            one_by_one[position] = unpacked.unwrap() if is_ok else failed
        checked = check_block(chunk, look_up(values, chunk.keys, seed))
        if len(checked.block.positions):
            blocks.append(checked.block)
        for index, other in checked.unpacked:
            with_blocks[chunk.positions[index]] = other
        for index in checked.missing:
            with_blocks[chunk.positions[index]] = failed
    queue_s = array("d", range(len(batch)))
    single_table, block_table = [
        results.build_results(batch, result, "run", 1.75e9)
        for result in (FanOutResult(one_by_one, queue_s), FanOutResult(with_blocks, queue_s, blocks=blocks))
    ]
    block_table.validate(full=True)
    assert block_table.to_pylist() == single_table.to_pylist()
    assert block_table.schema == single_table.schema
    with chunk_size(items):
        sliced_table = results.build_results(batch, FanOutResult(one_by_one, queue_s), "run", 1.75e9)
    assert sliced_table.to_pylist() == single_table.to_pylist()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("models", [MODELS, MODELS[:1]])
def test_a_call_made_again_is_the_call_of_its_item(models: list[str], n: int) -> None:
    frame = pa.table({"t": pa.chunked_array([["a", None], ["b", "", "c"]]), "u": [1, 2, 3, None, 5]})
    batch = build_table_run(frame, "Say {t} and {u}", models, HUB, {"n": n, "progress": False}).batch
    items = [item for chunk in batch.iter_chunks() for item in chunk]
    assert len(items) == 3 * len(models) * n
    for position, key, make_call, prompt in reversed(items):
        call, again = make_call(prompt, key), batch.call_again(position, key)
        assert (again.target, again.request, again.sample, again.key) == (
            call.target, call.request, call.sample, call.key,
        )  # fmt: skip


def test_a_run_over_a_cache_with_some_values_corrupt_or_missing(tmp_path: Any, simulator: SimulatorThread) -> None:
    path = tmp_path / "runs.db"
    words = [None if n % 17 == 0 else f"word {n % 150}" for n in range(400)]
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.DiskCache(path)) as hub:

        def ask(texts: list[str | None], **options: Any) -> pa.Table:
            frame = {"t": pa.array(texts, pa.string())}
            return llmhub.complete_table(frame, "Say {t}", model=MODELS, hub=hub, progress=False, **options)

        ask(words[:90])
        sent = simulator.counts()["requests"]
        store = hub.runtime.store
        assert store is not None
        entries = sorted(store.scan())
        store.put_many([entry._replace(value=entry.value[:-1]) for entry in entries[:10]])
        store.delete([entry.key for entry in entries[10:15]])
        with chunk_size(32), pytest.warns(RuntimeWarning, match=r"^10 cached responses"):
            table = ask(words)
        unique = 2 * len({word for word in words if word is not None})
        assert simulator.counts()["requests"] == sent + 15 + unique - len(entries)
        assert [status == "skipped" for status in table.column("status").to_pylist()] == [
            word is None for word in words for _ in MODELS
        ]
        fresh = ask(words, cache="off")
        again = ask(words)
    for name in ("row", "model", "status", "response", "served_model", "input_tokens", "output_tokens", "request_key"):
        assert table.column(name).equals(fresh.column(name)), name
        assert again.column(name).equals(fresh.column(name)), name
    assert again.column("list_cost_usd").equals(fresh.column("list_cost_usd"))
    assert again.column("cache_hit").to_pylist() == [word is not None for word in words for _ in MODELS]


def test_progress_counts_blocks(tmp_path: Any, simulator: SimulatorThread) -> None:
    reports: list[Any] = []
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        frame = {"t": [f"{n % 40}" for n in range(100)]}
        for _ in range(2):
            llmhub.complete_table(frame, "{t}", model=MODELS, hub=hub, n=2, progress=reports.append)
    last = reports[-1]
    assert (last.total, last.done, last.cached, last.failed) == (400, 400, 400, 0)
    assert [model.cached for model in last.models] == [200, 200]


def test_invalid_utf8_is_replaced() -> None:
    """A value with a valid checksum and invalid text is never written by llmhub."""
    batch = build_table_run({"t": ["x"]}, "{t}", MODELS[0], HUB, {"progress": False}).batch
    (chunk,) = batch.iter_chunks()
    assert isinstance(chunk, PlannedBlock)
    packed = pack(to_stored_response(CompletionResponse(parts=(Text("abc"),))), chunk.keys)
    body = packed[1 + CHECKSUM_SIZE :].replace(b"abc", b"a\xffc")
    value = packed[:1] + crc32(body, checksum_seed(chunk.keys)).to_bytes(4, "little") + body
    assert len(value) == TEXT_LAYOUT.size + 3
    checked = check_block(chunk, look_up({chunk.keys: value}, chunk.keys, 0))
    table = results.build_results(batch, FanOutResult([None], array("d", [0.0]), blocks=[checked.block]), "run", 0.0)
    assert table.column("response").to_pylist() == ["a\ufffdc"]
