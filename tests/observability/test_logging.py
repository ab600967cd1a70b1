"""Log records: which are written, in which form, and that content and credentials are in none unless asked for."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.engine.observer import CALL_ORIGIN, CallOrigin
from llmhub.observability.logging import JsonFormatter
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def unchanged_loggers() -> Iterator[None]:
    root = logging.getLogger("llmhub")
    before = (root.level, root.propagate, tuple(root.handlers))
    yield
    llmhub.logging.configure(stream=io.StringIO())()
    assert (root.level, root.propagate, tuple(root.handlers)) == before


def lines(stream: io.StringIO, logger: str = "") -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [entry for entry in entries if not logger or entry["logger"] == logger]


def test_calls_are_lines_of_json_with_fields(hub: llmhub.Hub, stream: io.StringIO) -> None:
    undo = llmhub.logging.configure("info", json=True, stream=stream)
    token = CALL_ORIGIN.set(CallOrigin(request_id="req-1", key_id="key-7", team="blue", user="ann"))
    try:
        completion = llmhub.complete("a secret plan", model=MODEL, hub=hub)
        llmhub.complete("a secret plan", model=MODEL, hub=hub)
    finally:
        CALL_ORIGIN.reset(token)
    undo()
    paid, cached = lines(stream, "llmhub.calls")
    assert {name: paid[name] for name in ("request_id", "key_id", "team", "user", "provider", "model", "status")} == {
        "request_id": "req-1", "key_id": "key-7", "team": "blue", "user": "ann",
        "provider": "openai", "model": "gpt-4o-mini", "status": "ok",
    }  # fmt: skip
    assert paid["attempts"] == 1
    assert paid["input_tokens"] == completion.usage.input_tokens
    assert paid["cost_usd"] == pytest.approx(float(completion.cost_usd or 0))
    assert (cached["status"], cached["cache_hit"], cached["cost_usd"]) == ("cached", True, 0)
    assert "secret" not in stream.getvalue()
    assert completion.text not in stream.getvalue()


def test_failures_are_warnings_without_the_words_of_the_provider(
    hub: llmhub.Hub, stream: io.StringIO, scripted: Any
) -> None:
    body = b'{"error":{"message":"your prompt was: a secret plan","code":"invalid_prompt"}}'
    head = f"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    endpoint = llmhub.Endpoint(base_url=scripted([head + body]).url, api_key="k-123456")
    with llmhub.Hub(endpoints={"openai": endpoint}) as failing:
        undo = llmhub.logging.configure("debug", json=True, stream=stream)
        llmhub.try_complete("a secret plan", model=MODEL, hub=failing)
        undo()
    (entry,) = lines(stream, "llmhub.calls")
    assert (entry["level"], entry["error_type"], entry["http_status"]) == ("warning", "InvalidRequest", 400)
    assert lines(stream, "llmhub.requests")[0]["attempt"] == 1
    assert "secret" not in stream.getvalue()
    assert "k-123456" not in stream.getvalue()


def test_content_is_logged_if_asked_for_and_redacted(hub: llmhub.Hub, stream: io.StringIO) -> None:
    undo = llmhub.logging.configure("info", json=True, content=True, stream=stream)
    completion = llmhub.complete("my key is sk-abcdefgh12345678", model=MODEL, hub=hub)
    undo()
    (entry,) = lines(stream, "llmhub.calls")
    assert entry["prompt"] == "my key is [API_KEY]"
    assert entry["response"] == completion.text


def test_decisions_are_logged(hub: llmhub.Hub, stream: io.StringIO) -> None:
    undo = llmhub.logging.configure("info", json=True, stream=stream)
    llmhub.complete("[[sim:500 once]] hi", model=MODEL, hub=hub)
    undo()
    (entry,) = lines(stream, "llmhub.decisions")
    assert (entry["decision"], entry["target"], entry["detail"]) == ("retry", MODEL, "ServerError")


def test_lines_for_people_have_no_control_characters(stream: io.StringIO) -> None:
    undo = llmhub.logging.configure("info", stream=stream)
    logging.getLogger("llmhub.app").warning("key sk-abcdefgh12345678 \x1b[2J")
    undo()
    assert stream.getvalue().rstrip().endswith("WARNING llmhub.app key [redacted] \\x1b[2J")


def test_nothing_is_logged_unless_logging_is_set_up(hub: llmhub.Hub, capfd: pytest.CaptureFixture[str]) -> None:
    llmhub.try_complete("[[sim:quota always]] hi", model=MODEL, hub=hub)
    llmhub.observability.flush()
    assert capfd.readouterr() == ("", "")


def test_a_program_with_its_own_logging_sees_the_records(hub: llmhub.Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llmhub"):
        llmhub.complete("hi", model=MODEL, hub=hub)
        llmhub.observability.flush()
    (record,) = [record for record in caplog.records if record.name == "llmhub.calls"]
    assert record.getMessage().startswith("openai/gpt-4o-mini ok in ")
    assert record.llmhub["status"] == "ok"  # type: ignore[attr-defined]


def test_percent_signs_of_names_are_no_formats(caplog: pytest.LogCaptureFixture, simulator: SimulatorThread) -> None:
    with caplog.at_level(logging.INFO, "llmhub"), llmhub.Hub(simulator=simulator.url) as hub:
        llmhub.try_complete("hi", model="openai/100%d %s", hub=hub)
        llmhub.observability.flush()
    assert any("openai/100%d %s" in record.getMessage() for record in caplog.records)


PROGRAM = """
import llmhub
with llmhub.simulate():
    llmhub.complete("hi", model="openai/gpt-4o-mini")
"""


@pytest.mark.parametrize(("setting", "expected"), [("info,json", '"status":"ok"'), ("info", "gpt-4o-mini ok in")])
def test_the_environment_sets_logging_up(setting: str, expected: str, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("LLMHUB_LOG", setting)
    completed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert expected in completed.stderr
    assert completed.stdout == ""


def test_unknown_levels_are_refused(environ: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequestError, match="must be one of debug"):
        llmhub.logging.configure("loud")
    environ.setenv("LLMHUB_LOG", "loud")
    with pytest.raises(BadRequestError, match="LLMHUB_LOG"):
        llmhub.Hub()


def test_exceptions_are_one_line_of_json_without_credentials() -> None:
    error = ValueError("bad key sk-abcdefgh12345678")
    record = logging.LogRecord("app", logging.ERROR, "", 0, "failed", None, (ValueError, error, None))
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "sk-abcdefgh" not in line
    assert "ValueError: bad key [redacted]" in json.loads(line)["exception"]
