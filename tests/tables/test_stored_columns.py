"""Whole columns of stored answers say what the answers one by one say."""

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


KEPT = st.builds(
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


FORMS = ("now", "first", "damaged", "elsewhere", "later", "absent")


def valued(kept: StoredResponse, key: bytes, form: str) -> bytes | None:
    """Write an answer in the form of today, or of long ago, or in one that must not be taken for an answer."""
    match form:
        case "now":
            return pack(kept, key)
        case "first":
            body = msgspec.msgpack.encode(kept)
            return b"\x01" + crc32(body).to_bytes(4, "big") + body
        case "damaged":
            value = bytearray(pack(kept, key))
            value[len(value) // 2] ^= 0x55
            return bytes(value)
        case "elsewhere":
            return pack(kept, bytes(reversed(key)))
        case "later":
            return b"\x03" + pack(kept, key)[1:]
        case _:
            return None


def found_in(values: Mapping[bytes, bytes], keys: bytes, seed: int) -> BlockValues:
    """Look a block up in a store that gives its values in whatever order."""
    apart = [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
    order = list(dict.fromkeys(key for key in apart if key in values))
    random.Random(seed).shuffle(order)
    begins: dict[bytes, int] = {}
    joined = b"junk between "
    for key in order:
        begins[key] = len(joined)
        joined += values[key] + b"."
    return BlockValues(
        joined,
        array("q", [begins.get(key, 0) for key in apart]),
        array("q", [len(values[key]) if key in values else ABSENT for key in apart]),
    )


@contextmanager
def chunks_of(items: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_batch, "FIRST_CHUNK_SIZE", items)
        patch.setattr(prompt_batch, "CHUNK_SIZE", 2 * items)
        yield


@given(st.data(), st.integers(1, 9), st.integers(0, 99))
def test_a_table_of_blocks_is_the_table_of_answers_one_by_one(data: st.DataObject, items: int, seed: int) -> None:
    rows = data.draw(st.lists(st.none() | st.sampled_from("abcdefgh"), max_size=12))
    models = data.draw(st.sampled_from([MODELS, MODELS[:1]]))
    options = {"n": data.draw(st.integers(1, 2)), "progress": False}
    frame = pa.table({"t": pa.array(rows, pa.string())})
    with chunks_of(items):
        asked = build_table_run(frame, "Say {t}", models, HUB, options)
        questions = asked.batch
        chunks = [chunk for chunk in questions.iter_chunks() if isinstance(chunk, PlannedBlock)]
    values: dict[bytes, bytes] = {}
    for key in dict.fromkeys(item[1] for chunk in chunks for item in chunk):
        value = valued(data.draw(KEPT), key, data.draw(st.sampled_from([*FORMS, "now", "now", "now"])))
        if value is not None:
            values[key] = value
    failed = Answer(Failure(ServerError(message="no")), attempts=1, total_s=1.0)
    one_by_one: list[RowOutcome | None] = [None] * len(questions)
    answers: list[RowOutcome | None] = [None] * len(questions)
    blocks = []
    for chunk in chunks:
        for position, key, *_ in chunk:
            kept = unpack(values[key], key) if key in values else None
            one_by_one[position] = kept.unwrap() if kept is not None and is_successful(kept) else failed
        sifted = check_block(chunk, found_in(values, chunk.keys, seed))
        if len(sifted.block.positions):
            blocks.append(sifted.block)
        for place, other in sifted.unpacked:
            answers[chunk.positions[place]] = other
        for place in sifted.missing:
            answers[chunk.positions[place]] = failed
    queued_s = array("d", range(len(questions)))
    both = [
        results.results_table(questions, ran, "run", 1.75e9)
        for ran in (FanOutResult(one_by_one, queued_s), FanOutResult(answers, queued_s, blocks=blocks))
    ]
    both[1].validate(full=True)
    assert both[1].to_pylist() == both[0].to_pylist()
    assert both[1].schema == both[0].schema


def test_what_is_equal_missing_and_damaged_is_right_from_end_to_end(tmp_path: Any, simulator: SimulatorThread) -> None:
    """A run over a store that has some of it, damaged some of it, and nothing of the rest."""
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
        with chunks_of(32), pytest.warns(RuntimeWarning, match=r"^10 answers in the cache"):
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


def test_progress_counts_what_comes_in_blocks(tmp_path: Any, simulator: SimulatorThread) -> None:
    told: list[Any] = []
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        frame = {"t": [f"{n % 40}" for n in range(100)]}
        for _ in range(2):
            llmhub.complete_table(frame, "{t}", model=MODELS, hub=hub, n=2, progress=told.append)
    last = told[-1]
    assert (last.total, last.done, last.cached, last.failed) == (400, 400, 400, 0)
    assert [model.cached for model in last.models] == [200, 200]


def test_bytes_that_are_no_text_are_shown_as_well_as_can_be() -> None:
    """Nobody but a hand makes them: the checksum is right, the text is not."""
    questions = build_table_run({"t": ["x"]}, "{t}", MODELS[0], HUB, {"progress": False}).batch
    (chunk,) = questions.iter_chunks()
    assert isinstance(chunk, PlannedBlock)
    good = pack(to_stored_response(CompletionResponse(parts=(Text("abc"),))), chunk.keys)
    body = good[1 + CHECKSUM_SIZE :].replace(b"abc", b"a\xffc")
    value = good[:1] + crc32(body, checksum_seed(chunk.keys)).to_bytes(4, "little") + body
    assert len(value) == TEXT_LAYOUT.size + 3
    sifted = check_block(chunk, found_in({chunk.keys: value}, chunk.keys, 0))
    table = results.results_table(questions, FanOutResult([None], array("d", [0.0]), blocks=[sifted.block]), "run", 0.0)
    assert table.column("response").to_pylist() == ["a\ufffdc"]
