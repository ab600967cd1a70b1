"""Answers of batches that are kept as bytes give the table that the same answers give as objects."""

from __future__ import annotations

import random
import tempfile
from array import array
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.result import Failure, Success

import llmhub
from llmhub.api.tables import build_table_run
from llmhub.cache.store import BlockValues
from llmhub.config import Settings
from llmhub.core.errors import ServerError
from llmhub.core.serialization import pack, unpack
from llmhub.core.types import CompletionResponse, Reasoning, Text, ToolCall, Usage
from llmhub.engine import packed_answers
from llmhub.engine.block_lookup import PlannedBlock, check_block
from llmhub.engine.call import Answer
from llmhub.engine.fan_out_types import FanOutResult, ResultEvent
from llmhub.engine.packed_answers import PackedAnswers
from llmhub.engine.row_outcome import RowOutcome, to_stored
from llmhub.tables import batch_columns, results
from llmhub.tables.prompt_batch import PromptBatch
from llmhub.tables.rescue import rescue_table
from llmhub.tables.schema import schema_for_run

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
HUB = llmhub.Hub(
    settings=Settings(), endpoints={name: llmhub.Endpoint(api_key="k") for name in ("openai", "anthropic")}
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
ANSWERS = st.builds(
    Answer,
    st.builds(
        CompletionResponse,
        parts=TEXTS.map(lambda text: (Text(text),))
        | st.sampled_from([(), (Reasoning("so"), Text("yes")), (Text(""), ToolCall("1", "f", '{"a": 1}'))]),
        finish_reason=st.sampled_from(["stop", "length", "refusal"]),
        usage=st.sampled_from(
            [
                Usage(),
                Usage(input_tokens=30, output_tokens=4),
                Usage(input_tokens=30, output_tokens=4, cached_input_tokens=20, service_tier="default"),
                Usage(input_tokens=3, output_tokens=40, reported_cost_usd=Decimal("0.01")),
            ]
        ),
        served_model=st.sampled_from(["", "gpt-4o-mini-2024-07-18"]),
        request_id=TEXTS,
    ).map(Success),
    attempts=st.integers(1, 3),
    started_at=st.floats(1, 4e9),
    dropped=st.sampled_from([(), ("seed", "top_k")]),
    mode=st.just("batch"),
)
FATES = st.sampled_from(["cached", "packed", "packed", "packed", "live", "failed"])
"""What became of a row."""


class Run:
    """A run whose rows were answered by the cache, by batches and by themselves, or failed."""

    def __init__(self, batch: PromptBatch, chunks: list[PlannedBlock], data: st.DataObject) -> None:
        self.batch = batch
        self.objects: list[RowOutcome | None] = [None] * len(batch)
        self.outcomes: list[RowOutcome | None] = [None] * len(batch)
        self.answers: dict[int, Answer] = {}
        self.blocks = []
        for chunk in chunks:
            values: list[bytes | None] = []
            for position, key, *_ in chunk:
                fate, answer = data.draw(FATES), data.draw(ANSWERS)
                stored = unpack(pack(to_stored(answer), key), key).unwrap()
                values.append(pack(stored, key) if fate == "cached" else None)
                fates: dict[str, RowOutcome] = {
                    "cached": stored,
                    "packed": answer,
                    "live": replace(answer, mode="live"),
                    "failed": Answer(Failure(ServerError(message="no")), attempts=1, mode="batch"),
                }
                self.objects[position] = fates[fate]
                if fate == "packed":
                    self.answers[position] = answer
                elif fate != "cached":
                    self.outcomes[position] = fates[fate]
            sizes = [-1 if value is None else len(value) for value in values]
            starts = [sum(max(size, 0) for size in sizes[:index]) for index in range(len(sizes))]
            joined = b"".join(value for value in values if value is not None)
            found = check_block(chunk, BlockValues(joined, array("q", starts), array("q", sizes)))
            self.blocks += [found.block] if len(found.block.positions) else []
            for index, other in found.unpacked:
                self.outcomes[chunk.positions[index]] = other

    def pack(self, order: list[int], at_once: int) -> PackedAnswers:
        packed = PackedAnswers(len(self.batch))
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            values = [pack(to_stored(self.answers[position]), self.batch.key_of(position)) for position in part]
            packed.add(part, values, [self.answers[position].attempts for position in part])
        return packed

    def events(self, packed: PackedAnswers, order: list[int], at_once: int) -> list[ResultEvent]:
        """Return what a run reports: rows that are pending, then answers in blocks, and those of another form."""
        pending = Answer(Failure(ServerError(message="pending")), attempts=1, mode="batch")
        events: list[ResultEvent] = [(position, pending, 0.0) for position in order]
        events += self.blocks
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            block = packed.block(part)
            events.append(block)
            others = set(part).difference(block.positions.tolist())
            events += [(position, packed.answer(position, self.batch.key_of(position)), 0.0) for position in others]
        for position, outcome in enumerate(self.outcomes):
            if outcome is not None:
                events.append((position, outcome, 0.0))
        return events


@pytest.mark.parametrize("place", ["memory", "file", "full disk"])
@given(st.data(), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_table_of_packed_answers_equals_the_table_of_answers(
    place: str, data: st.DataObject, items: int, seed: int
) -> None:
    rows = [f"row {number}" if data.draw(st.booleans()) else None for number in range(data.draw(st.integers(0, 9)))]
    frame = pa.table({"t": pa.array(rows, pa.string())})
    models = data.draw(st.sampled_from([MODELS, MODELS[:1]]))
    batch = build_table_run(frame, "{t}", models, HUB, {"progress": False}).batch
    run = Run(batch, [chunk for chunk in batch.iter_chunks() if isinstance(chunk, PlannedBlock)], data)
    order = list(run.answers)
    random.Random(seed).shuffle(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "OUTCOMES_AT_ONCE", items)
        patch.setattr(packed_answers, "MAX_MEMORY_BYTES", 1 << 20 if place == "memory" else 0)
        if place == "full disk":
            patch.setattr(tempfile, "TemporaryFile", raise_full)
        packed = run.pack(order, items)
        events = run.events(packed, order, items)
        queue_s = array("d", bytes(8 * len(batch)))
        as_objects = FanOutResult(run.objects, queue_s)
        as_bytes = FanOutResult(run.outcomes, queue_s, blocks=list(run.blocks), packed=packed)
        expected = batch_columns.with_mode(results.build_results(batch, as_objects, "run", 1.75e9), as_objects)
        table = batch_columns.with_mode(results.build_results(batch, as_bytes, "run", 1.75e9), as_bytes)
        table.validate(full=True)
        assert table.schema == expected.schema
        assert table.to_pylist() == expected.to_pylist()
        so_far = results.completed_results(batch, batch_columns.last_events(events), "run", 1.75e9)
        so_far = batch_columns.with_mode_of_events(so_far, events, batch)
        assert so_far.to_pylist() == expected.filter(pc.not_equal(expected["status"], "skipped")).to_pylist()
        schema = schema_for_run("run")
        rescued = rescue_table(batch, FanOutResult(run.outcomes, queue_s, blocks=run.blocks, packed=packed), schema)
        assert rescued["response"].to_pylist() == expected["response"].to_pylist()


def raise_full(**_: Any) -> None:
    raise OSError(28, "No space left on device")
