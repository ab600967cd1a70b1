"""The official SDKs read the simulator's batch endpoints."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anthropic
import botocore.session
import httpx
import openai
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError
from google import genai
from google.genai import types as genai_types
from google.oauth2 import credentials as google_credentials
from urllib3 import HTTPResponse

from llmhub.core.batch import Batch
from llmhub.core.provider import HttpRequest
from llmhub.sim import Simulator, SimulatorThread, serving
from llmhub.sim.batch_store import SimBatches
from llmhub.sim.servers.bedrock_converse import ACCESS_KEY_ID
from llmhub.wire import bedrock_batch, vertex_batch

HOUR = 3600.0
ROLE = "arn:aws:iam::123456789012:role/batches"


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


def test_botocore_reads_jobs_of_bedrock_and_objects_of_s3() -> None:
    with serving(Simulator(seed=7, api_key="secret", batches=SimBatches(duration_s=HOUR))) as served:
        base_url = served.base_url("bedrock")
        keys: dict[str, Any] = {
            "region_name": "us-east-1",
            "aws_access_key_id": ACCESS_KEY_ID,
            "aws_secret_access_key": "secret",
        }
        config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
        session = botocore.session.Session()
        storage = session.create_client("s3", endpoint_url=f"{base_url}/s3", config=config, **keys)
        bedrock = session.create_client("bedrock", endpoint_url=base_url, **keys)
        message = {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}
        lines = [json.dumps({"recordId": f"record{number:05}", "modelInput": message}) for number in range(100)]
        storage.put_object(Bucket="my-bucket", Key="in/rows 1.jsonl", Body="\n".join(lines).encode())
        job: Any = {
            "jobName": "mine",
            "roleArn": ROLE,
            "clientRequestToken": "token",
            "modelId": "anthropic.claude-3-haiku-20240307-v1:0",
            "modelInvocationType": "Converse",
            "inputDataConfig": {"s3InputDataConfig": {"s3Uri": "s3://my-bucket/in/rows 1.jsonl"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://my-bucket/out/"}},
        }
        arn = bedrock.create_model_invocation_job(**job)["jobArn"]
        assert bedrock.create_model_invocation_job(**job)["jobArn"] == arn  # the token makes it idempotent
        assert bedrock.get_model_invocation_job(jobIdentifier=arn)["status"] == "Validating"
        served.advance_clock(2 * HOUR)
        ended = bedrock.get_model_invocation_job(jobIdentifier=arn)
        assert (ended["status"], ended["successRecordCount"]) == ("Completed", 100)
        listed = bedrock.list_model_invocation_jobs()["invocationJobSummaries"]
        assert [each["jobArn"] for each in listed] == [arn]
        found = storage.list_objects_v2(Bucket="my-bucket", Prefix="out/")["Contents"]
        names = [item["Key"] for item in found]
        assert [name.rpartition("/")[2] for name in names] == ["manifest.json.out", "rows 1.jsonl.out"]
        rows = storage.get_object(Bucket="my-bucket", Key=names[1])["Body"].read().splitlines()
        assert {json.loads(row)["recordId"] for row in rows} == {f"record{number:05}" for number in range(100)}
        second = bedrock.create_model_invocation_job(**{**job, "clientRequestToken": "other"})["jobArn"]
        bedrock.stop_model_invocation_job(jobIdentifier=second)
        assert bedrock.get_model_invocation_job(jobIdentifier=second)["status"] == "Stopped"
        wrong = session.create_client(
            "s3", endpoint_url=f"{base_url}/s3", config=config, **{**keys, "aws_secret_access_key": "wrong"}
        )
        with pytest.raises(ClientError):
            wrong.list_objects_v2(Bucket="my-bucket")


def test_google_reads_jobs_of_vertex(served: SimulatorThread) -> None:
    options = genai_types.HttpOptions(base_url=served.base_url("vertex"))
    credentials = google_credentials.Credentials("t")  # type: ignore[no-untyped-call]
    client = genai.Client(
        vertexai=True, project="p", location="us-central1", credentials=credentials, http_options=options
    )
    request = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    url = f"{served.base_url('vertex')}/upload/storage/v1/b/my-bucket/o?uploadType=media&name=rows.jsonl"
    upload = urllib.request.Request(url, json.dumps({"request": request}).encode(), method="POST")
    with urllib.request.urlopen(upload) as reply:
        assert json.load(reply)["name"] == "rows.jsonl"
    config: Any = {"display_name": "mine", "dest": "gs://my-bucket/out"}
    job = client.batches.create(model="gemini-2.5-flash", src="gs://my-bucket/rows.jsonl", config=config)
    assert job.name is not None
    assert job.state == genai_types.JobState.JOB_STATE_PENDING
    served.advance_clock(2 * HOUR)
    ended = client.batches.get(name=job.name)
    assert ended.state == genai_types.JobState.JOB_STATE_SUCCEEDED
    assert ended.completion_stats is not None
    assert ended.completion_stats.successful_count == 1
    assert [each.display_name for each in client.batches.list()] == ["mine"]
    second = client.batches.create(model="gemini-2.5-flash", src="gs://my-bucket/rows.jsonl", config=config)
    assert second.name is not None
    client.batches.cancel(name=second.name)
    assert client.batches.get(name=second.name).state == genai_types.JobState.JOB_STATE_CANCELLED


def test_openai_reads_batches_of_embeddings(served: SimulatorThread) -> None:
    client = openai.OpenAI(base_url=served.base_url("openai"), api_key="k", max_retries=0)
    body = {"model": "text-embedding-3-small", "input": "hi", "dimensions": 8}
    row = {"custom_id": "0", "method": "POST", "url": "/v1/embeddings", "body": body}
    file = client.files.create(file=("rows.jsonl", io.BytesIO(json.dumps(row).encode())), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    served.advance_clock(2 * HOUR)
    ended = client.batches.retrieve(batch.id)
    assert ended.output_file_id is not None
    found = json.loads(client.files.content(ended.output_file_id).text)["response"]["body"]
    alone = client.embeddings.create(model="text-embedding-3-small", input="hi", dimensions=8, encoding_format="float")
    assert openai.types.CreateEmbeddingResponse.model_validate(found).data[0].embedding == alone.data[0].embedding


def test_google_reads_batches_of_embeddings(served: SimulatorThread) -> None:
    options = genai_types.HttpOptions(base_url=served.base_url("google"))
    client = genai.Client(api_key="k", http_options=options)
    config: Any = {"output_dimensionality": 8}
    source: Any = {"inlined_requests": {"contents": ["hi", "there"], "config": config}}
    with pytest.warns(Warning, match="experimental"):
        batch = client.batches.create_embeddings(model="gemini-embedding-001", src=source)
    assert batch.name is not None
    served.advance_clock(2 * HOUR)
    ended = client.batches.get(name=batch.name)
    assert ended.state == genai_types.JobState.JOB_STATE_SUCCEEDED
    assert ended.dest is not None
    found = ended.dest.inlined_embed_content_responses or []
    vectors = [
        each.response.embedding.values for each in found if each.response is not None and each.response.embedding
    ]
    alone = client.models.embed_content(model="gemini-embedding-001", contents=["hi", "there"], config=config)  # type: ignore[arg-type]
    assert sorted(map(str, vectors)) == sorted(str(each.values) for each in alone.embeddings or [])


def test_requests_of_bedrock_are_those_of_botocore() -> None:
    """The service model says what a job is; botocore refuses a name or a type that is not in it."""
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    client = botocore.session.Session().create_client("bedrock", region_name="us-east-1", **keys)
    sent: list[Any] = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        sent.append(request)
        return AWSResponse(request.url, 200, {}, HTTPResponse(io.BytesIO(b"{}"), preload_content=False))

    client.meta.events.register("before-send.bedrock", answer)
    batch = Batch(
        token="a" * 32,
        base_url="https://bedrock.us-east-1.amazonaws.com",
        model="anthropic.claude-3-haiku-20240307-v1:0",
        storage="s3://my-bucket/folder",
        role=ROLE,
        values={"id": "abcdefghijkl"},
    )
    created = bedrock_batch.encode_create(batch).http
    client.create_model_invocation_job(**json.loads(created.body))
    client.get_model_invocation_job(jobIdentifier=batch.id)
    client.stop_model_invocation_job(jobIdentifier=batch.id)
    client.list_model_invocation_jobs(
        maxResults=bedrock_batch.PAGE_ROWS, nextToken="n=", sortBy="CreationTime", sortOrder="Descending"
    )
    ours = [created, bedrock_batch.poll(batch), bedrock_batch.cancel(batch), bedrock_batch.list_batches(batch, "n=")]
    for request, own in zip(sent, ours, strict=True):
        assert (own.method, parse_qsl(urlsplit(own.url).query)) == (
            request.method,
            parse_qsl(urlsplit(request.url).query),
        )
        assert urlsplit(own.url)[:3] == urlsplit(request.url)[:3]
    assert json.loads(created.body) == json.loads(sent[0].body)
    states = set(client.meta.service_model.shape_for("ModelInvocationJobStatus").enum)
    assert states - bedrock_batch.ENDED == {"Submitted", "InProgress", "Stopping", "Validating", "Scheduled"}
    assert states > bedrock_batch.ENDED


def test_requests_of_vertex_are_those_of_google() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"name": "projects/p/locations/us-central1/batchPredictionJobs/1"})

    options = genai_types.HttpOptions(client_args={"transport": httpx.MockTransport(answer)})
    credentials = google_credentials.Credentials("t")  # type: ignore[no-untyped-call]
    client = genai.Client(
        vertexai=True, project="p", location="us-central1", credentials=credentials, http_options=options
    )
    batch = Batch(
        token="a" * 32,
        base_url="https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1",
        model="gemini-2.5-flash",
        storage="gs://my-bucket/folder",
        values={"id": "projects/p/locations/us-central1/batchPredictionJobs/1"},
    )
    config: Any = {"display_name": batch.name, "dest": batch.storage_uri}
    client.batches.create(model=batch.model, src=f"{batch.storage_uri}.jsonl", config=config)
    client.batches.get(name=batch.id)
    client.batches.cancel(name=batch.id)
    ours: list[HttpRequest] = [
        vertex_batch.encode_create("google", batch).http,
        vertex_batch.poll(batch),
        vertex_batch.cancel(batch),
    ]
    for request, own in zip(sent, ours, strict=True):
        version = urlsplit(str(request.url)).path.split("/")[1]  # the SDK's default is a preview
        assert (own.method, urlsplit(own.url).path.replace("/v1/", f"/{version}/")) == (
            request.method,
            request.url.path,
        )
    assert json.loads(ours[0].body) == json.loads(sent[0].content)
    states = {state.name.removeprefix("JOB_STATE_") for state in genai_types.JobState}
    assert states - vertex_batch.ENDED == {
        "UNSPECIFIED",
        "QUEUED",
        "PENDING",
        "RUNNING",
        "CANCELLING",
        "PAUSED",
        "UPDATING",
    }
    assert states > vertex_batch.ENDED
