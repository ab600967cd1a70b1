"""``llmhub cache`` on every kind of persistent store."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmhub.cache.store import Entry
from llmhub.cache.urls import cache_from_url
from llmhub.cli import main
from llmhub.core.serialization import encode_response
from llmhub.core.types import CompletionResponse, Text, Usage

NOW = time.time()
DAY_S = 86_400.0


def entry(number: int, model: str, days: float) -> Entry:
    key = sha256(b"%d" % number).digest()
    text, usage = f"answer {number}\nof {model}", Usage(input_tokens=number)
    response = CompletionResponse(parts=(Text(text),), usage=usage, served_model="s")
    return Entry(key, encode_response(response, key), model, NOW - days * DAY_S)


ENTRIES = [entry(n, "openai/gpt-4o-mini" if n % 2 else "anthropic/claude-haiku-4-5", n) for n in range(10)]


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["sqlite", "path", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store of ten responses, one a day, from two models in turn."""
    match request.param:
        case "sqlite":
            location = f"sqlite:///{tmp_path}/runs.db"
        case "path":
            location = str(tmp_path / "runs.db")
        case _:
            location = request.getfixturevalue("redis_server").url
    store = cache_from_url(location).open()
    store.put_many(ENTRIES)
    store.close()
    return location


@pytest.fixture
def command(url: str, capsys: pytest.CaptureFixture[str], environ: pytest.MonkeyPatch) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["cache", *arguments, "--cache", url])
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_stats_by_model(command: Command) -> None:
    code, out, err = command("stats")
    assert (code, err) == (0, "")
    assert "10 responses" in out
    assert re.search(r"anthropic/claude-haiku-4-5 +5 .* to ", out)
    assert "5 responses" in command("stats", "--model", "openai/*")[1]
    assert "3 responses" in command("stats", "--older-than", "6.5d")[1]


def test_ls_lists_the_newest_first(command: Command) -> None:
    code, out, _ = command("ls", "--limit", "3")
    assert code == 0
    assert [line.split()[-4:-2] for line in out.splitlines()] == [["answer", str(n)] for n in range(3)]
    assert len(command("ls", "--model", "openai/gpt-4o-mini")[1].splitlines()) == 5


def test_export_writes_rows(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("export", "--model", "openai/*")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, len(rows)) == (0, 5)
    assert {row["response"] for row in rows} == {f"answer {n}\nof openai/gpt-4o-mini" for n in (1, 3, 5, 7, 9)}
    assert command("export", "--out", str(tmp_path / "all.parquet"))[0] == 0
    table = pq.read_table(tmp_path / "all.parquet")
    assert sorted(table.column("input_tokens").to_pylist()) == list(range(10))


def test_purge_deletes_selected_entries_after_confirmation(command: Command) -> None:
    assert command("purge", "--yes")[0] == 2
    code, _, err = command("purge", "--older-than", "6.5d", "--model", "openai/*")
    assert code == 2
    assert "2 responses" in err
    assert "10 responses" in command("stats")[1]
    assert "deleted 2 responses" in command("purge", "--older-than", "6.5d", "--model", "openai/*", "--yes")[1]
    assert "8 responses" in command("stats")[1]
    assert command("clear", "--older-than", "1d", "--yes")[0] == 2
    assert "deleted 8 responses" in command("clear", "--yes")[1]


def test_verify_names_damaged_entries(command: Command, url: str) -> None:
    code, out, err = command("verify")
    assert (code, err) == (0, "")
    assert "10 responses intact, 0 damaged" in out
    store = cache_from_url(url).open()
    store.put_many(
        [
            ENTRIES[3]._replace(value=ENTRIES[3].value[:-1]),
            ENTRIES[4]._replace(value=ENTRIES[5].value),
            ENTRIES[6]._replace(value=b"\x63" + ENTRIES[6].value[1:]),
        ]
    )
    store.close()
    code, out, err = command("verify")
    assert code == 1
    assert "7 responses intact, 2 damaged, 1 of a later version" in out
    assert {line.split()[0] for line in out.splitlines()[:-1]} == {ENTRIES[n].key.hex() for n in (3, 4)}
    assert "purge --damaged" in err
    assert "(damaged)" in command("ls")[1]
    assert "deleted 2 responses" in command("purge", "--damaged", "--yes")[1]
    assert command("verify")[0] == 0


@pytest.mark.parametrize("age", ["", "30", "d", "-1d", "3y", "infd"])
def test_invalid_ages_are_rejected(command: Command, age: str) -> None:
    code, _, err = command("stats", f"--older-than={age}")
    assert code == 2
    assert "--older-than" in err


def test_unreachable_server_is_reported(capsys: pytest.CaptureFixture[str], environ: pytest.MonkeyPatch) -> None:
    assert main(["cache", "stats", "--cache", "redis://me:s3cret@127.0.0.1:1/0"]) == 2
    captured = capsys.readouterr()
    assert "redis://127.0.0.1:1/0" in captured.err
    assert "s3cret" not in captured.err + captured.out


def test_damaged_page_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], environ: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.db"
    store = cache_from_url(path).open()
    store.put_many([Entry(n.to_bytes(32, "big"), b"v" * 900) for n in range(200)])
    store.compact()
    store.close()
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 4096 * 20)
    code: Any = main(["cache", "verify", "--cache", str(path)])
    assert code == 2
    assert "malformed" in capsys.readouterr().err
