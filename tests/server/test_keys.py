"""Virtual keys: made, checked, expired, rotated and revoked, over HTTP, by the command line and by the admin API."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from llmhub.cache.memory import MemoryCache
from llmhub.cli import main
from llmhub.server.access_settings import TeamSettings
from llmhub.server.running import RunningService
from llmhub.sim import SimulatorThread
from tests.server.conftest import ADMIN, Keys
from tests.server.test_service import fetch

Serving = Callable[..., RunningService]

CHAT = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 20}


def chat(url: str, token: str, **more: Any) -> tuple[int, dict[str, str], Any]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return fetch(url, "/v1/chat/completions", {**CHAT, **more}, headers=headers)


class TestAuthentication:
    def test_keys_are_accepted_as_each_client_sends_them(self, keys: Keys) -> None:
        url, token = keys.serve().url, keys.create().token
        with openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as client:
            assert client.chat.completions.create(**CHAT).choices[0].message.content  # type: ignore[call-overload]
        with anthropic.Anthropic(base_url=url, api_key=token, max_retries=0) as other:
            message = other.messages.create(
                model="openai/gpt-4o-mini", max_tokens=20, messages=[{"role": "user", "content": "Hi"}]
            )
            assert message.content
        body = {"contents": [{"parts": [{"text": "Hi"}]}]}
        path = "/v1beta/models/openai/gpt-4o-mini:generateContent"
        assert fetch(url, path, body, headers={"x-goog-api-key": token})[0] == 200

    def test_wrong_keys_are_refused_in_the_shape_of_the_api(self, keys: Keys) -> None:
        url, (_key, token) = keys.serve().url, keys.create()
        wrong = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
        for bad in ("", "sk-123", wrong, f"sk-llmhub-{'a' * 12}-{'b' * 43}", "Ω" * 40):
            status, headers, body = chat(url, bad.encode().decode("latin-1"))
            assert (status, body["error"]["code"], headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
            assert token[-20:-4] not in json.dumps(body)
        status, _, body = fetch(url, "/v1/messages", {**CHAT}, headers={"x-api-key": wrong})
        assert (status, body["error"]["type"]) == (401, "authentication_error")
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key=wrong, max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
        assert fetch(url, "/healthz")[0] == 200

    def test_a_key_expires(self, keys: Keys) -> None:
        url, (key, token) = keys.serve().url, keys.create(expires_in_s=60.0)
        assert chat(url, token)[0] == 200
        keys.now[0] += 61.0
        status, _, body = chat(url, token)
        assert (status, "expired on" in body["error"]["message"], key.id in body["error"]["message"]) == (
            401,
            True,
            True,
        )

    def test_a_key_has_scopes_and_models(self, keys: Keys) -> None:
        url = keys.serve().url
        token = keys.create(scopes=("completions",), models=("openai/*",)).token
        assert chat(url, token)[0] == 200
        status, _, body = chat(url, token, model="anthropic/claude-haiku-4-5")
        assert (status, "may not use" in body["error"]["message"]) == (403, True)
        status, _, body = fetch(
            url, "/v1/embeddings", {"model": "x", "input": "a"}, headers={"authorization": f"Bearer {token}"}
        )
        assert (status, "'embeddings'" in body["error"]["message"]) == (403, True)
        assert fetch(url, "/v1/admin/keys", headers={"authorization": f"Bearer {token}"})[0] == 403
        listed = fetch(url, "/v1/models", headers={"x-api-key": token})[2]["data"]
        assert listed
        assert all(model["id"].startswith("openai/") for model in listed)

    def test_the_store_and_every_listing_hold_no_key(self, keys: Keys, tmp_path: Path, caplog: Any) -> None:
        caplog.set_level("DEBUG")
        running, (key, token) = keys.serve(), keys.create()
        secret = token.split("-", 3)[3]
        chat(running.url, token)
        with closing(sqlite3.connect(tmp_path / "keys.db")) as connection:
            dump = "\n".join(map(str, connection.execute("SELECT * FROM keys").fetchall()))
        listing = json.dumps(fetch(running.url, "/v1/admin/keys", headers={"x-api-key": ADMIN})[2])
        files = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        for text in (
            dump,
            listing,
            repr(key),
            repr(running.service.access),
            repr(running.service.settings),
            caplog.text,
        ):
            assert secret not in text
            assert ADMIN not in text
        assert secret.encode() not in files
        assert key.id in listing


class TestRotation:
    def test_a_rotated_key_is_accepted_for_the_grace_period(self, keys: Keys) -> None:
        url, (key, old) = keys.serve().url, keys.create()
        new = keys.registry.rotate(key.id, grace_s=60.0).token
        assert (chat(url, old)[0], chat(url, new)[0]) == (200, 200)
        keys.now[0] += 61.0
        assert (chat(url, old)[0], chat(url, new)[0]) == (401, 200)

    def test_a_key_is_revoked_for_good(self, keys: Keys) -> None:
        running, (key, token) = keys.serve(refresh_s=3600.0), keys.create()
        assert chat(running.url, token)[0] == 200
        status, _, info = fetch(running.url, f"/v1/admin/keys/{key.id}", method="DELETE", headers={"x-api-key": ADMIN})
        assert (status, info["state"]) == (200, "revoked")
        status, _, body = chat(running.url, token)
        assert (status, "was revoked on" in body["error"]["message"]) == (401, True)
        path = f"/v1/admin/keys/{key.id}/rotate"
        assert fetch(running.url, path, {}, headers={"x-api-key": ADMIN})[0] == 400


class TestAdminApi:
    def test_keys_are_made_listed_and_read(self, keys: Keys) -> None:
        url, admin = keys.serve().url, {"x-api-key": ADMIN}
        options = {"name": "ada", "team": "research", "budget_usd_per_day": 0.1, "rpm": 60, "expires_in_s": 3600}
        status, _, made = fetch(url, "/v1/admin/keys", options, headers=admin)
        assert status == 201
        assert chat(url, made["secret"])[0] == 200
        (listed,) = fetch(url, "/v1/admin/keys", headers=admin)[2]["data"]
        assert (listed["id"], listed["team"], listed["budget_usd_per_day"]) == (made["key"]["id"], "research", 0.1)
        assert fetch(url, f"/v1/admin/keys/{listed['id']}", headers=admin)[2]["name"] == "ada"
        rotated = fetch(url, f"/v1/admin/keys/{listed['id']}/rotate", {}, headers=admin)[2]
        assert (chat(url, made["secret"])[0], chat(url, rotated["secret"])[0]) == (401, 200)

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "place"),
        [
            ("POST", "/v1/admin/keys", {"scopes": ["root"]}, 400, "$.scopes["),
            ("POST", "/v1/admin/keys", {"budget_usd": -1}, 400, "budget_usd"),
            ("POST", "/v1/admin/keys", {"budget_usd": "NaN"}, 400, "budget_usd"),
            ("POST", "/v1/admin/keys", {"name": "a b"}, 400, "$.name"),
            ("POST", "/v1/admin/keys", {"nome": "a"}, 400, "nome"),
            ("POST", "/v1/admin/keys", [], 400, "$"),
            ("GET", "/v1/admin/keys/nothere", None, 404, "nothere"),
            ("DELETE", "/v1/admin/keys/nothere", None, 404, "nothere"),
        ],
    )
    def test_bad_requests_name_the_place(
        self, keys: Keys, method: str, path: str, body: object, status: int, place: str
    ) -> None:
        reply = fetch(keys.serve().url, path, body, method=method, headers={"x-api-key": ADMIN})
        assert (reply[0], place in reply[2]["error"]["message"]) == (status, True)

    def test_an_admin_makes_no_key_with_more_scopes_than_its_own(self, keys: Keys) -> None:
        url = keys.serve().url
        token = keys.create(scopes=("admin",)).token
        reply = fetch(url, "/v1/admin/keys", {"scopes": ["metrics"]}, headers={"x-api-key": token})
        assert (reply[0], "metrics" in reply[2]["error"]["message"]) == (400, True)

    def test_a_service_without_keys_has_none(self, serving: Serving) -> None:
        reply = fetch(serving().url, "/v1/admin/keys")
        assert (reply[0], "server.access.keys" in reply[2]["error"]["message"]) == (400, True)


class TestSpending:
    def test_costs_are_entered_to_the_nano_dollar(self, keys: Keys) -> None:
        url, (key, token) = keys.serve().url, keys.create(team="research", budget_usd=1)
        costs = [Decimal(chat(url, token)[1]["x-llmhub-cost-usd"]) for _ in range(3)]
        url_of_admin = keys.serve().url
        entries = fetch(url_of_admin, "/v1/admin/spending", headers={"x-api-key": ADMIN})[2]["data"]
        spent = {(entry["holder"], entry["period"]): Decimal(str(entry["spent_usd"])) for entry in entries}
        assert spent["team:research", "total"] == spent[f"key:{key.id}", "total"] == sum(costs) > 0
        assert all(entry["reserved_usd"] == 0 for entry in entries)

    def test_a_budget_that_is_spent_refuses(self, keys: Keys) -> None:
        running, (key, token) = keys.serve(), keys.create(budget_usd="0.0001", budget_usd_per_day=1)
        replies = [chat(running.url, token) for _ in range(30)]
        statuses = [status for status, _, _ in replies]
        assert statuses == sorted(statuses)
        assert (statuses[0], statuses[-1]) == (200, 402)
        assert f"of the budget of the key {key.id} in all of $0.0001" in replies[-1][2]["error"]["message"]
        assert 0 < keys.registry.describe(key).spent_usd <= Decimal("0.0001")

    def test_a_budget_per_day_begins_anew(self, keys: Keys) -> None:
        url, (_, token) = keys.serve().url, keys.create(budget_usd_per_day="0.0001")
        while chat(url, token)[0] == 200:
            pass
        keys.now[0] += 86_400.0
        assert chat(url, token)[0] == 200

    def test_keys_of_a_team_share_its_budget(self, keys: Keys) -> None:
        url = keys.serve(teams={"lab": TeamSettings(budget_usd=Decimal("0.0001"))}).url
        first, second, other = (keys.create(team=team).token for team in ("lab", "lab", "other"))
        while chat(url, first)[0] == 200:
            pass
        status, _, body = chat(url, second)
        assert (status, "the budget of the team lab" in body["error"]["message"]) == (402, True)
        assert chat(url, other)[0] == 200


class TestRateLimits:
    def test_requests_a_minute(self, keys: Keys) -> None:
        url, (_, token) = keys.serve().url, keys.create(rpm=3)
        assert [chat(url, token)[0] for _ in range(4)] == [200, 200, 200, 429]
        status, headers, body = chat(url, token)
        assert (status, headers["retry-after"], headers["x-should-retry"]) == (429, "20", "true")
        assert "3 requests" in body["error"]["message"]
        keys.now[0] += 20.0
        assert [chat(url, token)[0] for _ in range(2)] == [200, 429]

    def test_tokens_a_minute_count_what_was_used(self, keys: Keys, simulator: SimulatorThread) -> None:
        url, (_, token) = keys.serve().url, keys.create(tpm=100)
        statuses = []
        while len(statuses) < 50 and 429 not in statuses:
            statuses.append(chat(url, token, max_tokens=40)[0])
        used = simulator.counts()["tokens"]
        assert statuses[-1] == 429
        assert 100 - 80 <= used["input"] + used["output"] <= 100 + 80

    @pytest.mark.parametrize("limits", [{"rpm": 2}, {"tpm": 10}])
    def test_embeddings_count_too(self, keys: Keys, limits: dict[str, float]) -> None:
        url, (_, token) = keys.serve().url, keys.create(**limits)
        body = {"model": "openai/text-embedding-3-small", "input": "a text of some five tokens"}
        headers = {"authorization": f"Bearer {token}"}
        statuses = [fetch(url, "/v1/embeddings", {**body, "user": str(n)}, headers=headers)[0] for n in range(4)]
        assert (statuses[0], statuses[-1]) == (200, 429)

    def test_a_bulk_call_waits_instead(self, keys: Keys) -> None:
        url, (_, token) = keys.serve().url, keys.create(rpm=3)
        for _ in range(3):
            chat(url, token)
        keys.now[0] += 19.99
        headers = {"authorization": f"Bearer {token}", "x-llmhub-lane": "bulk"}
        keys.now[0] += 0.005
        # Ten milliseconds are waited for in real time, during which this clock stands still.
        keys.now[0] += 0.01
        assert fetch(url, "/v1/chat/completions", CHAT, headers=headers)[0] == 200


class TestCacheScope:
    @pytest.mark.parametrize(("scope", "hits"), [("key", "000"), ("team", "010"), ("all", "011")])
    def test_responses_are_shared_within_the_scope(self, keys: Keys, scope: str, hits: str) -> None:
        url = keys.serve(cache_scope=scope, hub={"cache": MemoryCache()}).url
        tokens = [keys.create(team=team).token for team in ("lab", "lab", "other")]
        found = [chat(url, token)[1]["x-llmhub-cache-hit"] == "true" for token in tokens]
        assert "".join("01"[hit] for hit in found) == hits
        assert chat(url, tokens[0])[1]["x-llmhub-cache-hit"] == "true"

    def test_a_key_may_have_its_own(self, keys: Keys) -> None:
        url = keys.serve(hub={"cache": MemoryCache()}).url
        tokens = [keys.create(team="lab", cache_scope=scope).token for scope in (None, "key")]
        assert [chat(url, token)[1]["x-llmhub-cache-hit"] for token in tokens] == ["false", "false"]


class TestCommand:
    def test_keys_made_by_the_command_are_accepted(
        self, serving_process: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = str(tmp_path / "keys.db")
        assert main(["keys", "create", "--name", "ada", "--team", "lab", "--budget", "1", "--store", store]) == 0
        token = capsys.readouterr().out.strip()
        served = serving_process(
            "--host", "0.0.0.0", "--keys", variables={"LLMHUB_SERVER_ACCESS_STORE": f"sqlite:///{store}"}
        )
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        assert (chat(url, token)[0], chat(url, "")[0]) == (200, 401)
        assert main(["keys", "list", "--json", "--store", store]) == 0
        (listed,) = json.loads(capsys.readouterr().out)
        assert (listed["name"], Decimal(listed["spent_usd"]) > 0) == ("ada", True)
        assert main(["keys", "revoke", listed["id"], "--store", store]) == 0
        assert "was revoked on" in capsys.readouterr().out
        assert main(["keys", "list", "--store", store]) == 0
        assert "revoked" in capsys.readouterr().out
        assert served.terminate() == 0

    def test_mistakes_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        store = str(tmp_path / "keys.db")
        assert main(["keys", "create", "--scope", "root", "--store", store]) == 2
        assert main(["keys", "revoke", "nothere", "--store", store]) == 2
        assert main(["keys", "list", "--store", "memory://"]) == 2
        text = capsys.readouterr().err
        assert all(word in text for word in ("scopes", "nothere", "redis://"))
