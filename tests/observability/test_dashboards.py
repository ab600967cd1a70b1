"""Dashboards and rules: every query and alert answers with data in a real Prometheus after a demonstration load."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cli import main
from llmhub.engine.observer import CALL_ORIGIN, CallOrigin
from llmhub.observability import dashboards
from llmhub.observability.dashboards.build import SPECS, build
from llmhub.observability.instruments import INSTRUMENTS
from llmhub.sim import SimulatorThread

PATIENCE_S = 60.0
RULES_TEST = Path(__file__).with_name("alerts.test.yml")


def expressions() -> dict[str, str]:
    """Return the queries of all dashboards, with the variables of Grafana replaced."""
    found = {}
    for name in dashboards.DASHBOARDS:
        for panel in json.loads(dashboards.read(name))["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "10s").replace("$__range", "1m")
                found[f"{name}: {panel['title']} {target['refId']}"] = query.replace("$provider", ".*")
    return found


def test_dashboards_are_what_their_tables_say() -> None:
    for uid in SPECS:
        assert dashboards.read(f"{uid}.json") == build(uid)
    assert {f"{uid}.json" for uid in SPECS} == set(dashboards.DASHBOARDS)


def test_queries_name_metrics_that_exist() -> None:
    names = {instrument.name for instrument in INSTRUMENTS}
    known = names | {f"{name}_total" for name in names} | {f"{name}_bucket" for name in names}
    for text in (*expressions().values(), dashboards.read("rules.yml")):
        assert set(re.findall(r"llmhub_\w+", text)) <= known


def test_export_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "monitoring"
    assert main(["dashboards", "export", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == set(dashboards.FILES)
    assert len(capsys.readouterr().out.splitlines()) == len(dashboards.FILES)
    (tmp_path / "file").write_text("x")
    assert main(["dashboards", "export", str(tmp_path / "file")]) == 2


def require(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        assert not os.environ.get("CI"), f"{program} is not installed"
        pytest.skip(f"needs {program} (apt-get install prometheus)")
    return path


def test_promtool_accepts_the_files(tmp_path: Path) -> None:
    promtool = require("promtool")
    dashboards.export(tmp_path)
    for arguments in (["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"]):
        checked = subprocess.run([promtool, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    promtool = require("promtool")
    dashboards.export(tmp_path)
    shutil.copy(RULES_TEST, tmp_path / "alerts.test.yml")
    command = [promtool, "test", "rules", "alerts.test.yml"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# A real Prometheus


class Prometheus:
    """A Prometheus server of this test run."""

    def __init__(self, folder: Path, target: str) -> None:
        dashboards.export(folder)
        text = dashboards.read("prometheus.yml").replace("15s", "200ms").replace("localhost:9464", target)
        (folder / "prometheus.yml").write_text(text)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [
                require("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def is_ready(self) -> bool:
        """Return whether the server answers queries; while it starts, it refuses connections or answers 503."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as reply:
                return bool(reply.status == HTTPStatus.OK)
        except OSError:
            return False

    def query(self, expression: str) -> list[Any]:
        """Return the result of a query; an invalid one raises."""
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=5) as reply:
            return list(json.loads(reply.read())["data"]["result"])

    def rules(self) -> dict[str, str]:
        """Return the expression of every rule by name; that of an alert without its threshold."""
        with urllib.request.urlopen(f"{self.url}/api/v1/rules", timeout=5) as reply:
            groups = json.loads(reply.read())["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return {rule["name"]: re.sub(r" (>|==) [0-9.]+$", "", rule["query"]) for rule in rules}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def load(hub: llmhub.Hub, number: int) -> None:
    """Make calls of every kind: answered, cached, failed, refused, limited, streamed, unpriced, charged to a team."""
    token = CALL_ORIGIN.set(CallOrigin(team="blue"))
    try:
        frame = {"text": [f"{number} row {row}" for row in range(12)]}
        models = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
        for _ in range(2):
            llmhub.complete_table(frame, "{text}", model=models, hub=hub, progress=False, max_tokens=20)
        llmhub.complete(f"[[sim:500 once]] {number}", model=models[0], hub=hub, max_tokens=20)
        llmhub.try_complete(
            f"[[sim:429 always]] {number}", model="mistral/mistral-small-latest", hub=hub, max_tokens=20
        )
        list(llmhub.stream(f"{number}", model=models[0], hub=hub, max_tokens=20))
        llmhub.complete(f"{number}", model="openai/a-model-without-a-price", hub=hub, max_tokens=20)
    finally:
        CALL_ORIGIN.reset(token)


@pytest.mark.slow
def test_every_query_and_rule_answers_with_data(simulator: SimulatorThread, tmp_path: Path) -> None:
    limits = {"anthropic": llmhub.Limit(rpm=6000, burst=0.001)}
    with (
        llmhub.metrics.start_http_server(port=0) as server,
        llmhub.Hub(
            simulator=simulator.url,
            cache=llmhub.MemoryCache(),
            retry=llmhub.Retry(attempts=2, base_s=0.01, cap_s=0.02, longest_s=0.1),
            limits=limits,
            budget_usd=5,
            allow_unpriced=True,
        ) as hub,
    ):
        prometheus = Prometheus(tmp_path, f"127.0.0.1:{server.port}")
        try:
            give_up_at, number, missing = time.monotonic() + PATIENCE_S, 0, dict[str, str]()
            while time.monotonic() < give_up_at:
                assert prometheus.process.poll() is None, "the server ended"
                if not prometheus.is_ready():
                    time.sleep(0.05)
                    continue
                load(hub, number)
                number += 1
                try:
                    missing = missing or {**expressions(), **prometheus.rules()}
                    missing = {place: query for place, query in missing.items() if not prometheus.query(query)}
                except urllib.error.HTTPError as error:
                    pytest.fail(error.read().decode())
                if not missing:
                    break
            assert missing == {}
            assert len(prometheus.rules()) == dashboards.read("rules.yml").count("expr:")
        finally:
            prometheus.close()
