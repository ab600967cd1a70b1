"""A kernel of a real JupyterHub calls the service with its own token; user and group become key and team.

The hub runs without its proxy, since the kernel, the hub and the service talk to each other directly.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.server.access_settings import AccessSettings
from llmhub.server.jupyterhub_access import JupyterHubSettings
from llmhub.server.key_access import KeyAccess
from llmhub.sim import Simulator
from llmhub.sim import serving as simulating
from tests.real_servers.conftest import FOLDER, answers, free_port
from tests.server.conftest import service_on
from tests.server.test_keys import chat

ENVIRONMENT = Path(FOLDER) / "jupyterhub" / "bin"
TESTER = "token-of-the-test-0123456789"
CONFIG = """
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data):
        route = dict(routespec=routespec, target=target, data=data)
        self.routes = {{**getattr(self, "routes", {{}}), routespec: route}}
    async def delete_route(self, routespec):
        self.routes.pop(routespec, None)
    async def get_all_routes(self):
        return getattr(self, "routes", {{}})

scope = "access:services!service=llmhub"
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {home!r}
c.Spawner.environment = dict(JUPYTERHUB_SINGLEUSER_APP="jupyter_server.serverapp.ServerApp")
c.Spawner.cmd, c.Spawner.args = [{singleuser!r}], ["--allow-root"]
c.Spawner.ip, c.Spawner.port = "127.0.0.1", {server_port}
c.JupyterHub.bind_url = "http://127.0.0.1:{proxy_port}"
c.JupyterHub.hub_ip, c.JupyterHub.hub_port = "127.0.0.1", {hub_port}
c.JupyterHub.services = [dict(name="llmhub", url="http://127.0.0.1:9"), dict(name="tester", api_token="{token}")]
c.JupyterHub.load_groups = dict(students=dict(users=["ada"]))
c.JupyterHub.load_roles = [
    dict(name="user", scopes=["self", scope]),
    dict(name="server", scopes=["users:activity!user", "access:servers!server", scope]),
    dict(name="tester", scopes=["admin:users", "admin:servers", "tokens", "access:servers"], services=["tester"]),
]
"""
CELL = """
import json, os, urllib.request
body = json.dumps({{"model": "openai/gpt-4o-mini", "messages": [{{"role": "user", "content": "Say hi"}}]}}).encode()
headers = {{"authorization": "Bearer " + os.environ["JUPYTERHUB_API_TOKEN"], "content-type": "application/json"}}
request = urllib.request.Request("{url}/v1/chat/completions", body, headers)
print(json.load(urllib.request.urlopen(request))["object"])
"""


@contextmanager
def jupyterhub(folder: Path) -> Iterator[tuple[str, str]]:
    """Run a hub; yield the address of its API, and of the user's server."""
    ports = {"hub_port": free_port(), "server_port": free_port(), "proxy_port": free_port()}
    config = folder / "jupyterhub_config.py"
    singleuser = str(ENVIRONMENT / "jupyterhub-singleuser")
    config.write_text(CONFIG.format(**ports, singleuser=singleuser, home=str(folder / "home"), token=TESTER))
    api = f"http://127.0.0.1:{ports['hub_port']}/hub/api"
    environment = {**os.environ, "PATH": f"{ENVIRONMENT}:{os.environ['PATH']}", "HOME": str(folder)}
    environment.pop("PYTHONPATH", None)
    with (folder / "hub.log").open("wb") as log:
        command = [str(ENVIRONMENT / "jupyterhub"), "-f", str(config)]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        try:
            while not answers(f"{api}/"):
                if process.poll() is not None:
                    pytest.fail((folder / "hub.log").read_text())
            yield api, f"http://127.0.0.1:{ports['server_port']}/user/ada/api"
        finally:
            process.terminate()
            process.wait()


async def stop_server(api: str) -> None:
    """Stop the user's server, which would outlive the hub."""
    async with (
        aiohttp.ClientSession(headers={"authorization": f"token {TESTER}"}) as hub,
        hub.delete(f"{api}/users/ada/server") as reply,
    ):
        assert reply.status in {202, 204}, await reply.text()


async def run_cell(api: str, server: str, code: str) -> tuple[str, str]:
    """Start the user's server and a kernel in it, run a cell, and return its output and a token of the user."""
    async with aiohttp.ClientSession(headers={"authorization": f"token {TESTER}"}) as hub:
        async with hub.post(f"{api}/users/ada/server") as reply:
            assert reply.status in {201, 202}, await reply.text()
        while True:
            async with hub.get(f"{api}/users/ada") as reply:
                if (await reply.json())["servers"].get("", {}).get("ready"):
                    break
            await asyncio.sleep(0.05)
        async with hub.post(f"{api}/users/ada/tokens", json={"expires_in": 60}) as reply:
            token: str = (await reply.json())["token"]
        async with hub.post(f"{api}/users/ada/tokens", json={"scopes": ["read:users!user=ada"]}) as reply:
            narrow: str = (await reply.json())["token"]
    async with aiohttp.ClientSession(headers={"authorization": f"token {token}"}) as session:
        async with session.post(f"{server}/kernels", json={}) as reply:
            kernel = (await reply.json())["id"]
        async with session.ws_connect(f"{server}/kernels/{kernel}/channels") as channels:
            await channels.send_json(execute_request(code))
            async for message in channels:
                received = json.loads(message.data)
                if received["msg_type"] in {"stream", "error"}:
                    return received["content"].get("text") or str(received["content"]), narrow
    raise AssertionError


def execute_request(code: str) -> dict[str, Any]:
    header = {"msg_id": uuid.uuid4().hex, "session": uuid.uuid4().hex, "username": "ada", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return {
        "header": {**header, "msg_type": "execute_request"},
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
        "buffers": [],
    }


def test_a_kernel_calls_the_service_with_its_own_token(tmp_path: Path) -> None:
    store = open_sqlite_access(tmp_path / "keys.db")
    with jupyterhub(tmp_path) as (api, server), simulating(Simulator(seed=7)) as simulator:
        hub = JupyterHubSettings(url=api, groups={"students": "course"})
        access = KeyAccess(AccessSettings(keys=True, jupyterhub=hub), open_sqlite_access(tmp_path / "keys.db"))
        with service_on(simulator.url, access=access) as running:
            output, narrow = asyncio.run(run_cell(api, server, CELL.format(url=running.url)))
            assert output.strip() == "chat.completion", output
            # A token without the scope of the service, and one that the hub does not know.
            asyncio.run(stop_server(api))
            status, _, body = chat(running.url, narrow)
            assert (status, "lacks the scope" in str(body)) == (403, True)
            assert chat(running.url, "f" * 32)[0] == 401
    spent = {name.partition("/")[0]: amount for name, amount, _ in store.balances("") if name.endswith("/total")}
    assert spent["key:jupyterhub:ada"] == spent["team:course"] > 0
    store.close()
