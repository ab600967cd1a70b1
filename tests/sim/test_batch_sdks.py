"""The official SDKs read the simulator's batch endpoints."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types as genai_types

from llmhub.sim import Simulator, SimulatorThread, serving
from llmhub.sim.batch_store import SimBatches

HOUR = 3600.0


@pytest.fixture
def served() -> Iterator[SimulatorThread]:
    with serving(Simulator(seed=7, batches=SimBatches(duration_s=HOUR, finalizing_s=60.0))) as running:
        yield running


def openai_rows(*prompts: str) -> io.BytesIO:
    body = {"model": "gpt-4o-mini"}
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "messages": [{"role": "user", "content": prompt}]},
        }
        for number, prompt in enumerate(prompts)
    ]
    return io.BytesIO("\n".join(map(json.dumps, lines)).encode())


@pytest.mark.parametrize("provider", ["openai", "groq"])
def test_openai_reads_files_and_batches(served: SimulatorThread, provider: str) -> None:
    client = openai.OpenAI(base_url=served.base_url(provider), api_key="k", max_retries=0)
    file = client.files.create(file=("rows.jsonl", openai_rows("hi", "there", "fail [[sim:500]]")), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"mine": "1"}
    )
    assert (batch.status, batch.metadata) == ("validating", {"mine": "1"})
    served.advance_clock(HOUR / 2)
    running = client.batches.retrieve(batch.id)
    assert (running.status, running.request_counts and running.request_counts.completed) == ("in_progress", 1)
    served.advance_clock(HOUR / 2 + 1)
    assert client.batches.retrieve(batch.id).status == "finalizing"
    served.advance_clock(100.0)
    ended = client.batches.retrieve(batch.id)
    assert ended.status == "completed"
    assert ended.request_counts is not None
    assert (ended.request_counts.completed, ended.request_counts.failed) == (2, 1)
    assert ended.output_file_id is not None
    assert ended.error_file_id is not None
    rows = [json.loads(line) for line in client.files.content(ended.output_file_id).text.splitlines()]
    assert {row["custom_id"] for row in rows} == {"0", "1"}
    assert all(row["response"]["body"]["choices"][0]["message"]["content"] for row in rows)
    (failed,) = [json.loads(line) for line in client.files.content(ended.error_file_id).text.splitlines()]
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("2", 500)
    assert [each.id for each in client.batches.list()] == [batch.id]


def test_openai_reads_cancelled_expired_and_refused_batches() -> None:
    settings = SimBatches(duration_s=HOUR, stuck=1.0, max_enqueued_tokens=60)
    with serving(Simulator(seed=7, batches=settings)) as served:
        client = openai.OpenAI(base_url=served.base_url("openai"), api_key="k", max_retries=0)
        kind: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        file = client.files.create(file=("rows.jsonl", openai_rows("hi")), purpose="batch")
        first = client.batches.create(input_file_id=file.id, **kind)
        large = client.files.create(file=("rows.jsonl", openai_rows("x" * 400)), purpose="batch")
        refused = client.batches.retrieve(client.batches.create(input_file_id=large.id, **kind).id)
        assert refused.status == "failed"
        assert refused.errors is not None
        assert refused.errors.data is not None
        assert refused.errors.data[0].code == "token_limit_exceeded"
        served.advance_clock(25 * HOUR)
        expired = client.batches.retrieve(first.id)
        assert (expired.status, expired.output_file_id) == ("expired", None)
        assert expired.error_file_id is not None
        assert '"batch_expired"' in client.files.content(expired.error_file_id).text
        second = client.batches.create(input_file_id=file.id, **kind)
        assert client.batches.cancel(second.id).status == "cancelled"


def test_anthropic_reads_message_batches(served: SimulatorThread) -> None:
    client = anthropic.Anthropic(base_url=served.base_url("anthropic"), api_key="k", max_retries=0)
    prompts = ["hi", "there", "fail [[sim:529]]"]
    requests: Any = [
        {
            "custom_id": str(number),
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 50,
                "messages": [{"role": "user", "content": prompt}],
            },
        }
        for number, prompt in enumerate(prompts)
    ]
    batch = client.messages.batches.create(requests=requests)
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 3)
    served.advance_clock(2 * HOUR)
    ended = client.messages.batches.retrieve(batch.id)
    assert ended.processing_status == "ended"
    assert (ended.request_counts.succeeded, ended.request_counts.errored) == (2, 1)
    results = {result.custom_id: result.result for result in client.messages.batches.results(batch.id)}
    assert {name: result.type for name, result in results.items()} == {
        "0": "succeeded",
        "1": "succeeded",
        "2": "errored",
    }
    first = results["0"]
    assert first.type == "succeeded"
    assert first.message.usage.service_tier == "batch"
    assert [each.id for each in client.messages.batches.list()] == [batch.id]
    other = client.messages.batches.create(requests=requests)
    client.messages.batches.cancel(other.id)
    assert {result.result.type for result in client.messages.batches.results(other.id)} == {"canceled"}


def test_google_reads_batches(served: SimulatorThread) -> None:
    options = genai_types.HttpOptions(base_url=served.base_url("google"))
    client = genai.Client(api_key="k", http_options=options)
    inline: Any = [
        {"contents": [{"role": "user", "parts": [{"text": text}]}], "metadata": {"key": text}}
        for text in ("hi", "there")
    ]
    batch = client.batches.create(model="gemini-2.5-flash", src=inline, config={"display_name": "mine"})
    assert batch.name is not None
    assert batch.display_name == "mine"
    assert batch.state == genai_types.JobState.JOB_STATE_PENDING
    served.advance_clock(2 * HOUR)
    ended = client.batches.get(name=batch.name)
    assert ended.state == genai_types.JobState.JOB_STATE_SUCCEEDED
    assert ended.dest is not None
    responses = ended.dest.inlined_responses or []
    assert len(responses) == 2
    assert all(each.response is not None and each.response.text for each in responses)
    assert [each.name for each in client.batches.list()] == [batch.name]
    second = client.batches.create(model="gemini-2.5-flash", src=inline)
    assert second.name is not None
    client.batches.cancel(name=second.name)
    assert client.batches.get(name=second.name).state == genai_types.JobState.JOB_STATE_CANCELLED
