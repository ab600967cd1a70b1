"""``python -m llmhub.sim`` prints one line when it listens, and exits on a signal."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from llmhub.sim import SIMULATED
from llmhub.sim.__main__ import build_parser, main, settings_from_args
from llmhub.sim.faults import FAULT_BY_FIELD


def ask(url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_terminated(signal_number: signal.Signals) -> None:
    command = [sys.executable, "-m", "llmhub.sim", "--rpm", "1", "--seed", "7", "--rate-529", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            line = json.loads(process.stdout.readline())
            assert set(line["base_urls"]) == set(SIMULATED)
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            address = f"{line['base_urls']['openai']}/chat/completions"
            assert [ask(address, body)[0] for _ in range(2)] == [200, 429]
            process.send_signal(signal_number)
            rest, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, rest, errors) == (0, b"", b"")


def test_equal_seeds_give_equal_responses_across_processes(simulator: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Describe the harbour."}]}
    command = [sys.executable, "-m", "llmhub.sim", "--seed", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            line = json.loads(process.stdout.readline())
            _, second = ask(f"{line['base_urls']['openai']}/chat/completions", body)
        finally:
            process.terminate()
    _, first = ask(f"{simulator.base_url('openai')}/chat/completions", body)
    assert json.loads(second)["choices"] == json.loads(first)["choices"]
    assert json.loads(second)["id"] == json.loads(first)["id"]


def test_options_become_settings() -> None:
    line = (
        "--host ::1 --port 99 --seed 3 --api-key k --latency 0.2 --sigma 0.5 --rpm 60 --tpm 600 --burst 5 "
        "--retry-after 2 --rate-429 0.1 --stream-error 0.2"
    )
    args = build_parser().parse_args(line.split())
    settings = settings_from_args(args)
    assert (settings.host, settings.port, settings.seed, settings.api_key) == ("::1", 99, 3, "k")
    assert (settings.latency.median_s, settings.latency.sigma) == (0.2, 0.5)
    assert (settings.limit.rpm, settings.limit.tpm, settings.limit.burst_s) == (60, 600, 5)
    assert settings.faults.rates() == [("429", 0.1), ("stream_error", 0.2)]
    assert settings.faults.retry_after_s == 2
    plain = settings_from_args(build_parser().parse_args([]))
    assert (plain.limit, plain.faults.rates(), plain.host, plain.port) == (None, [], "127.0.0.1", 0)
    shares = [f"--{name.replace('_', '-')}=0.01" for name in FAULT_BY_FIELD]
    assert len(settings_from_args(build_parser().parse_args(shares)).faults.rates()) == len(FAULT_BY_FIELD)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--rate-500", "2"], "llmhub sim: rate_500=2.0 is outside 0..1\n"),
        (["--rpm", "0"], "llmhub sim: rpm=0.0 admits no request; pass a positive number, or None for no limit\n"),
        (["--latency", "-1"], "llmhub sim: median_s=-1.0 and sigma=0.0 must be finite and not negative\n"),
    ],
)
def test_invalid_settings_are_rejected(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("spoil", [lambda port: port, lambda _port: 99_999])
def test_unavailable_address_is_an_error(spoil: Callable[[int], int], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = spoil(listener.getsockname()[1])
        assert main(["--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"llmhub sim: cannot listen on 127.0.0.1 port {port}: ")
