"""Users of a JupyterHub: groups become teams, answers of the hub count for a while, and its failures refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.engine.event_loop import submit
from llmhub.server.access import Caller
from llmhub.server.access_settings import AccessSettings
from llmhub.server.jupyterhub_access import HubUser, JupyterHubSettings, JupyterHubUsers, team_of
from llmhub.server.key_access import KeyAccess
from llmhub.server.running import RunningService
from tests.server.test_keys import chat

SCOPE = "access:services!service=llmhub"
GROUPS = {"staff": "research", "class": "students"}


def user(name: str = "ada", groups: tuple[str, ...] = ("class",), scopes: tuple[str, ...] = (SCOPE,)) -> bytes:
    return json.dumps({"name": name, "kind": "user", "groups": groups, "scopes": scopes, "admin": False}).encode()


class TestMapping:
    @pytest.mark.parametrize(
        ("found", "default", "expected"),
        [
            (HubUser("ada", groups=("class", "staff"), scopes=(SCOPE,)), "", "research"),
            (HubUser("ada", groups=("class",), scopes=("access:services",)), "", "students"),
            (HubUser("ada", groups=("other",), scopes=(SCOPE,)), "guests", "guests"),
            (HubUser("ada", groups=("other",), scopes=(SCOPE,)), "", "is in no group with a team"),
            (HubUser("ada", groups=("class",), scopes=("read:users",)), "", f"lacks the scope {SCOPE}"),
        ],
    )
    def test_groups_become_a_team(self, found: HubUser, default: str, expected: str) -> None:
        team = team_of(found, JupyterHubSettings(groups=GROUPS, default_team=default))
        assert team.value_or("") == expected or expected in team.failure().message


class TestHub:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Any]:
        with closing(open_sqlite_access(tmp_path / "keys.db")) as store:
            yield store

    def users(self, store: Any, url: str, now: list[float]) -> JupyterHubUsers:
        settings = JupyterHubSettings(url=f"{url}/hub/api", groups=GROUPS, timeout_s=5.0)
        return JupyterHubUsers(settings, KeyAccess(AccessSettings(keys=True), store), lambda: now[0])

    def ask(self, users: JupyterHubUsers, token: str = "a-token") -> Any:
        result = submit(users.authenticate(token)).result(20)
        return result.value_or(None) or result.failure()

    def test_an_answer_counts_for_a_while(self, store: Any, scripted: Callable[..., Any], replies: Any) -> None:
        hub = scripted([replies.reply(user())], [replies.reply(user(groups=("staff",)))])
        now = [0.0]
        users = self.users(store, hub.url, now)
        found = [self.ask(users) for _ in range(3)]
        assert {(caller.key_id, caller.team) for caller in found} == {("jupyterhub:ada", "students")}
        assert len(hub.requests) == 1
        assert hub.requests[0].startswith(b"GET /hub/api/user ")
        assert b"authorization: token a-token" in hub.requests[0].lower()
        now[0] += 61.0
        assert self.ask(users).team == "research"
        submit(users.close()).result(20)

    @pytest.mark.parametrize(
        ("status", "body", "error"),
        [
            (403, b'{"message": "Missing or invalid credentials: a-token"}', "AuthFailed"),
            (404, b"", "AuthFailed"),
            (500, b"", "Overloaded"),
            (200, b"<html>", "Overloaded"),
            (200, b'{"groups": []}', "Overloaded"),
            (200, user(groups=()), "PermissionDenied"),
        ],
    )
    def test_what_the_hub_does_not_confirm_is_refused(
        self, store: Any, scripted: Callable[..., Any], replies: Any, status: int, body: bytes, error: str
    ) -> None:
        hub = scripted([replies.reply(body, status=status)])
        users = self.users(store, hub.url, [0.0])
        refusal = self.ask(users)
        assert not isinstance(refusal, Caller)
        assert type(refusal).__name__ == error
        assert "a-token" not in repr(refusal)
        self.ask(users)
        assert len(hub.requests) == (2 if error == "Overloaded" else 1)
        submit(users.close()).result(20)

    def test_a_run_goes_on_for_its_user_after_a_restart(self, store: Any) -> None:
        settings = AccessSettings(keys=True, jupyterhub=JupyterHubSettings(url="http://127.0.0.1:9/hub/api"))
        access = KeyAccess(settings, store)
        caller = submit(access.find_caller("jupyterhub:ada", "students")).result(20).unwrap()
        assert (caller.key_id, caller.team, "admin" in caller.scopes) == ("jupyterhub:ada", "students", False)

    def test_a_hub_that_is_gone(self, store: Any, serving: Callable[..., RunningService]) -> None:
        settings = AccessSettings(keys=True, jupyterhub=JupyterHubSettings(url="http://127.0.0.1:9/hub/api"))
        url = serving(access=KeyAccess(settings, store)).url
        status, headers, body = chat(url, "a-token")
        assert (status, "JupyterHub" in str(body), headers["x-should-retry"]) == (503, True, "true")
        assert chat(url, "sk-llmhub-not-a-key")[0] == 401
